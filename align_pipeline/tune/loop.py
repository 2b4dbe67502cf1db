"""The training: micro-batches, optimizer steps, measurements on held-out data, checkpoints.

A micro-batch depends on its number alone, and so does the dropout in it. Several processes therefore share a step's
micro-batches and sum their gradients: the same training as in one process, but for rounding.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from align_pipeline import distributed
from align_pipeline.config.tune import Method, TuneConfig
from align_pipeline.errors import InputError
from align_pipeline.tracking.live import Live
from align_pipeline.tune import checkpoint
from align_pipeline.tune.batches import Stream
from align_pipeline.tune.checkpoint import Progress
from align_pipeline.tune.held_out import HeldOut
from align_pipeline.tune.objectives import Objective
from align_pipeline.tune.passes import Trainee

log = logging.getLogger(__name__)


@dataclass
class Training:
    """One training.

    Attributes:
        tune: the settings.
        trainee: the model.
        weights: the trained weights, by name.
        objectives: the losses, by name.
        stream: the micro-batches.
        held_out: what alignment is measured on.
        folder: where checkpoints go.
        identity: of everything that the weights depend on.
        seed: of dropout.
        batch_tokens: of the measurements.
        live: the W&B run.
    """

    tune: TuneConfig
    trainee: Trainee
    weights: Mapping[str, nn.Parameter]
    objectives: Mapping[str, Objective]
    stream: Stream
    held_out: HeldOut
    folder: Path
    identity: str
    seed: int
    batch_tokens: int | None
    live: Live

    def run(self, advance: Callable[[int], None]) -> Progress:
        """Train to the last step, from the folder's checkpoint if there is one.

        Args:
            advance: called with the number of sentence pairs of each finished step.

        Raises:
            InputError: out of memory, a loss that is not finite, or a checkpoint of another training.
        """
        from accelerate import Accelerator
        from transformers import get_scheduler

        tune, device = self.tune, self.trainee.lm.device
        half = tune.method is Method.full and device.type == "cuda"
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if half else "no")
        if tune.accumulation % accelerator.num_processes:
            raise InputError(
                f"tune.accumulation={tune.accumulation} micro-batches cannot be shared equally by "
                f"{accelerator.num_processes} processes; use a multiple of their number."
            )
        optimizer = torch.optim.AdamW(list(self.weights.values()), tune.learning_rate, weight_decay=tune.weight_decay)
        warmup = math.ceil(tune.warmup * tune.steps)
        try:
            scheduler = get_scheduler(tune.scheduler, optimizer, warmup, tune.steps)
        except (ValueError, TypeError) as error:  # not known, or needs arguments
            raise InputError(f"tune.scheduler={tune.scheduler} cannot be used: {error}.") from error
        if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            raise InputError(f"tune.scheduler={tune.scheduler} cannot be used: it depends on more than the step.")
        progress = checkpoint.load(self.folder, self.identity, self.weights, optimizer) or Progress()
        if progress.step:
            log.info("Going on after step %d of %d, from the checkpoint.", progress.step, tune.steps)
            advance(progress.step * tune.accumulation * tune.micro_batch)
            with warnings.catch_warnings(action="ignore"):  # of steps of the schedule before the optimizer's first
                for _ in range(progress.step):
                    scheduler.step()
        else:
            self._measure(progress)
        self.trainee.tokens = 0
        before = progress.tokens
        with self._explained(progress):
            while progress.step < tune.steps:
                start = time.perf_counter()
                rate = float(scheduler.get_last_lr()[0])
                losses, tokens = self._step(progress.step, accelerator, optimizer)
                scheduler.step()
                progress.step += 1
                progress.seconds += time.perf_counter() - start
                progress.tokens = before + tokens
                progress.losses += [
                    {"step": progress.step, "objective": name, "loss": value, "learning_rate": rate}
                    for name, value in losses.items()
                ]
                told = {f"loss/{name}": value for name, value in losses.items()}
                told |= {"learning_rate": rate, "tokens_per_second": progress.tokens / progress.seconds}
                self.live.log({"step": progress.step, **told})
                advance(tune.accumulation * tune.micro_batch)
                last = progress.step == tune.steps
                if last or (tune.evaluate_every and progress.step % tune.evaluate_every == 0):
                    self._measure(progress)
                if tune.save_every and progress.step % tune.save_every == 0 and not last and distributed.is_main():
                    checkpoint.save(self.folder, self.identity, progress, self.weights, optimizer)
        return progress

    def _step(self, step: int, accelerator: Any, optimizer: torch.optim.Optimizer) -> tuple[dict[str, float], int]:
        """One optimizer step.

        Returns:
            the mean loss of each objective over its micro-batches, unweighted; tokens so far, of all processes.
        """
        tune, names = self.tune, list(self.objectives)
        self.trainee.lm.model.train()
        sums, counts = both = torch.zeros(2, len(names), dtype=torch.float64)
        first = step * tune.accumulation
        for number in range(first + accelerator.process_index, first + tune.accumulation, accelerator.num_processes):
            asked = range(len(names)) if tune.together else [number % len(names)]
            torch.manual_seed(zlib.crc32(f"{self.seed}/dropout/{number}".encode()))
            for index in asked:
                objective = self.objectives[names[index]]
                with accelerator.autocast():
                    loss = objective.loss(self.trainee, self.stream[number])
                if not loss.requires_grad:
                    raise InputError(
                        f"The objective {names[index]} depends on no trained weight; choose a higher layer, or "
                        "tune.method=full."
                    )
                torch.autograd.backward(loss * objective.weight / tune.accumulation)
                sums[index] += loss.item()
                counts[index] += 1
        tokens = distributed.total(self.trainee.tokens)  # here, because a process that failed says so at an exchange
        for weight in self.weights.values():
            if weight.grad is None:  # above the last layer that an objective uses
                weight.grad = torch.zeros_like(weight)
            if accelerator.num_processes > 1:
                weight.grad = accelerator.reduce(weight.grad, "sum")
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        norm = nn.utils.get_total_norm(list(gradients.values()))
        if not torch.isfinite(norm):
            bad = next((name for name, grad in gradients.items() if not torch.isfinite(grad).all()), "all weights")
            raise InputError(
                f"The gradient of {bad} is not finite at step {step + 1}; use a smaller tune.learning_rate, or "
                "model.dtype=float32."
            )
        nn.utils.clip_grads_with_norm_(list(self.weights.values()), tune.max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if accelerator.num_processes > 1:
            both = accelerator.reduce(both.to(accelerator.device), "sum").cpu()
        return {name: float(both[0, k] / both[1, k]) for k, name in enumerate(names)}, tokens

    def _measure(self, progress: Progress) -> None:
        rows = self.held_out.measure(self.trainee.lm, self.batch_tokens)
        progress.held_out += [{"step": progress.step, **row} for row in rows]
        values = {f"held_out/{row['metric']}/{row['language']}/layer_{row['layer']}": row["value"] for row in rows}
        self.live.log({"step": progress.step, **values})

    @contextlib.contextmanager
    def _explained(self, progress: Progress) -> Iterator[None]:
        """One sentence for a device without memory left."""
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            kept = (self.folder / checkpoint.FOLDER).is_dir()
            raise InputError(
                f"{self.trainee.lm.device} has too little memory at step {progress.step + 1}; use "
                "tune.gradient_checkpointing=true, a smaller tune.micro_batch (a contrastive loss then has fewer "
                f"negatives) or tune.max_length. {f'The checkpoint in {self.folder} is kept.' if kept else ''}".rstrip()
            ) from error
