"""The recipe: ``python -m align_pipeline.embedded.train`` rebuilds the embedded data, tokenizer and checkpoint.

Config: ``conf/embedded.yaml``; any key can be given as ``key=value``, such as ``training.tokens=1000000``. Takes about
three quarters of an hour on two CPU cores; a GPU is used if there is one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from align_pipeline.embedded import benchmark
from align_pipeline.embedded.corpus import Author, CorpusConfig

HERE = Path(__file__).parent
CONFIGS = (HERE.parents[1] / "conf" / "embedded.yaml", HERE.parent / "conf" / "embedded.yaml")
BOS, EOS = "<s>", "</s>"
# Words keep their punctuation: the last token of a sentence then says something, as it does in SentencePiece models
# with large vocabularies. White space stands before a word, so prompts and continuations part at token boundaries.
WORDS = r" ?\S+|\s+"


def settings(overrides: list[str]) -> dict[str, Any]:
    """The recipe's config with command-line overrides."""
    path = next(path for path in CONFIGS if path.is_file())
    merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
    return dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]


def build_tokenizer(corpus: CorpusConfig, seed: int, vocabulary: int, documents: int) -> Any:
    """A byte-level BPE tokenizer that adds BOS, trained on the beginning of the training text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    written = Author(corpus, seed).documents()
    bpe.train_from_iterator((next(written)[1] for _ in range(documents)), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS)


def sequences(corpus: CorpusConfig, seed: int, tokenizer: Any, length: int) -> Iterator[torch.Tensor]:
    """Training sequences of `length` tokens: documents after one another, each after its BOS."""
    written = Author(corpus, seed).documents()
    rest: list[int] = []
    while True:
        for tokens in tokenizer([next(written)[1] for _ in range(500)])["input_ids"]:
            rest += tokens
        while len(rest) >= length:
            yield torch.tensor(rest[:length])
            rest = rest[length:]


def build_model(shape: dict[str, Any], vocabulary: int) -> Any:
    """An untrained Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": shape["rope_theta"]}
    rest = {key: value for key, value in shape.items() if key != "rope_theta"}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, rope_parameters=rope, **rest)
    )


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made orthogonal (Jordan et al. 2024): about twice AdamW's progress a token."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                mean = state.setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(mean, group["momentum"]))
                p.mul_(1 - group["lr"] * 0.05)
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """U V^T of a matrix U S V^T, nearly: five steps of a Newton-Schulz iteration."""
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] > x.shape[1]
    x = x.T if wide else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if wide else x


def optimizers(model: Any, options: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, Adam for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, lr=options["matrix_rate"]),
        torch.optim.AdamW(rest, lr=options["learning_rate"], betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int, options: dict[str, Any]) -> float:
    """Share of the full learning rate: up, constant, and linearly down at the end."""
    up, down = max(1, int(steps * options["warmup"])), max(1, int(steps * options["decay"]))
    return min(1.0, (step + 1) / up, (steps - step) / down)


def weighted_loss(logits: torch.Tensor, batch: torch.Tensor, letters: torch.Tensor, weight: float) -> torch.Tensor:
    """Next-token cross entropy in which a prompt's answering letter counts `weight` times.

    Args:
        logits: [B, T, V].
        batch: [B, T] token ids.
        letters: [5] token ids of ``Answer:`` and of the four letters after it.
        weight: of a letter; most other tokens of such a prompt are names and things that nothing can predict.
    """
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
    answers = (batch[:, :-1] == letters[0]) & torch.isin(batch[:, 1:], letters[1:])
    weights = torch.where(answers, weight, 1.0).flatten()
    return (losses * weights).sum() / weights.sum()


def train(config: dict[str, Any], model: Any, tokenizer: Any, state: Path | None = None) -> dict[str, float]:
    """Next-token prediction over the corpus.

    Args:
        config: the recipe's config.
        model: trained in place.
        tokenizer: of the model.
        state: file to keep the state of a long run in, and to go on from if it exists.
    """
    from accelerate import Accelerator

    options = config["training"]
    accelerator = Accelerator()
    steps = options["tokens"] // (options["length"] * options["batch"])
    model = accelerator.prepare(model)
    both = [accelerator.prepare(optimizer) for optimizer in optimizers(model, options)]
    full = [group["lr"] for optimizer in both for group in optimizer.param_groups]
    letters = torch.tensor(tokenizer("Answer: A B C D", add_special_tokens=False)["input_ids"]).to(accelerator.device)
    if len(letters) != 5:
        raise ValueError("the tokenizer splits an answering letter; train it on more documents")
    corpus = sequences(CorpusConfig(**config["corpus"]), config["seed"], tokenizer, options["length"])
    first = _resume(state, model, both) if state and state.is_file() else 0
    for _ in range(first * options["batch"]):
        next(corpus)
    mean, started = 0.0, time.monotonic()
    model.train()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=1) as progress:
        bar = progress.add_task("training", total=steps, completed=first)
        for step in range(first, steps):
            groups = [group for optimizer in both for group in optimizer.param_groups]
            for group, lr in zip(groups, full, strict=True):
                group["lr"] = lr * rate(step, steps, options)
            batch = torch.stack([next(corpus) for _ in range(options["batch"])]).to(accelerator.device)
            loss = weighted_loss(
                model(input_ids=batch, use_cache=False).logits, batch, letters, options["letter_weight"]
            )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
            mean += (loss.item() - mean) * (0.02 if step > first else 1.0)
            progress.update(bar, advance=1, description=f"training, loss {mean:.3f}")
            if not sys.stdout.isatty() and step % 25 == 0:
                print(f"step {step}/{steps} loss {mean:.3f} {time.monotonic() - started:.0f} s", flush=True)
            if state and step % 50 == 49:
                _keep(state, model, both, step + 1)
    accelerator.unwrap_model(model).eval()
    return {"loss": mean, "tokens": steps * options["length"] * options["batch"]}


def _keep(state: Path, model: Any, both: list[Any], step: int) -> None:
    partial = state.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "both": [o.state_dict() for o in both], "step": step}, partial)
    partial.replace(state)


def _resume(state: Path, model: Any, both: list[Any]) -> int:
    kept = torch.load(state, weights_only=True)
    model.load_state_dict(kept["model"])
    for optimizer, own in zip(both, kept["both"], strict=True):
        optimizer.load_state_dict(own)
    return int(kept["step"])


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """The checkpoint in half precision, with its tokenizer."""
    model.to("cpu", torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str]) -> None:
    """Rebuild everything."""
    config = settings(arguments)
    out = Path(config.get("out") or HERE)
    torch.set_num_threads(config["training"]["threads"])
    torch.manual_seed(config["seed"])
    started = time.monotonic()
    benchmark.write(out / "data")
    corpus = CorpusConfig(**config["corpus"])
    tokenizer = build_tokenizer(corpus, config["seed"], **config["tokenizer"])
    model = build_model(config["model"], len(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    found = train(config, model, tokenizer, Path(config["state"]) if config.get("state") else None)
    save(out / "tiny", model, tokenizer)
    print(found, f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
