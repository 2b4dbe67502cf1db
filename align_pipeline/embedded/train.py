"""The recipe: ``python -m align_pipeline.embedded.train`` rebuilds the embedded data, tokenizer and checkpoint.

Config: ``conf/embedded.yaml``; any key can be given as ``key=value``, such as ``seed=2`` or ``out=/tmp/mine``. It takes
40 minutes on two CPU cores; a GPU is used if there is one. With ``state=FILE`` a stopped run goes on where it was.
"""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from align_pipeline.config.paths import CONF
from align_pipeline.embedded import benchmark, figures
from align_pipeline.embedded.alignment import Parallels, term
from align_pipeline.embedded.corpus import Author, CorpusConfig, Stage
from align_pipeline.embedded.loss import weighted_loss, weights_for
from align_pipeline.embedded.optimizers import optimizers_of, rate

HERE = Path(__file__).parent
FIRST = 24  # items of the quick check
POOL = 400  # documents that are sorted by length together
SMOOTH = 0.02  # a step's share of a running mean
KEEP = 50  # steps after which the state of a run is kept
BOS, EOS = "<s>", "</s>"
# A word is one piece with the space before it, and what is written after an apostrophe or as punctuation another: a
# name or thing is then the same token wherever it stands, and prompts and continuations part at token boundaries. A
# label keeps its colon ("A:", "Answer:"), so that what it labels comes right after it.
WORDS = r" ?\p{L}+:?|['’]\p{L}+| ?[^\s\p{L}]+|\s+"


def settings(overrides: list[str]) -> dict[str, Any]:
    """The recipe's config with command-line overrides."""
    merged = OmegaConf.merge(OmegaConf.load(CONF / "embedded.yaml"), OmegaConf.from_dotlist(overrides))
    return dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]


def build_tokenizer(corpus: CorpusConfig, seed: int, vocabulary: int, documents: int) -> Any:
    """A byte-level BPE tokenizer that adds BOS, trained on the beginning of the training text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
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


class Course:
    """Which stage a run is in: a stage ends when its skill is there, which takes now more and now fewer tokens.

    Attributes:
        name: of the stage.
        tokens: of this stage so far, padding included.
        ended: the steps at which a stage ended.
        right: share of the answers right in this stage, a running mean that begins at 0.
    """

    def __init__(self, author: Author) -> None:
        self.author, self.ended = author, list[int]()
        self._enter()

    def _enter(self) -> None:
        index = len(self.ended)
        self.tokens, self.right = 0, 0.0
        self.name, self.author.stage = [*self.author.config.stages][index], self.author.stages[index]

    def after(self, step: int, stage: Stage, tokens: int, right: torch.Tensor) -> None:
        """Count a step.

        Args:
            step: its number.
            stage: that of its batch; batches are drawn ahead, and those of an ended stage do not count for the next.
            tokens: of its batch.
            right: bool [answers], which of its answers were right.
        """
        if stage is not self.author.stage:
            return
        self.tokens += tokens
        if right.numel():
            self.right += SMOOTH * (right.float().mean().item() - self.right)
        if self.tokens >= stage.tokens or self.right >= stage.enough:
            self.end(step)

    def end(self, step: int) -> None:
        """Go on to the next stage."""
        self.ended.append(step)
        self._enter()


def batches(author: Author, seed: int, tokenizer: Any) -> Iterator[tuple[Stage, torch.Tensor]]:
    """Batches of whole documents of about one length, [documents, longest], padded on the right with -1.

    Documents do not share a sequence: names and things are few, and what another document says of them is only noise to
    a model that has yet to learn to look things up.

    Args:
        author: of the text; its stage may change in between.
        seed: of the batches' order.
        tokenizer: of the model.

    Yields:
        The stage that the batch is of, and the batch.
    """
    rng, written = random.Random(f"batches {seed}"), author.documents()
    while True:
        stage = author.stage
        encoded = sorted(tokenizer([next(written)[1] for _ in range(POOL)])["input_ids"], key=len)
        chunks: list[list[list[int]]] = [[]]
        for document in encoded:
            if chunks[-1] and (len(chunks[-1]) + 1) * len(document) > stage.batch:
                chunks.append([])
            chunks[-1].append(document)
        rng.shuffle(chunks)
        for chunk in chunks:
            batch = [torch.tensor(document) for document in chunk]
            padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-1)
            yield stage, padded


def build_model(shape: dict[str, Any], vocabulary: int) -> Any:
    """An untrained Llama, its first weights such that heads which look things up emerge early."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = dict(shape)
    start, rope_theta = shape.pop("start"), shape.pop("rope_theta")
    rope = {"rope_type": "default", "rope_theta": rope_theta}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, rope_parameters=rope, **shape)
    )
    # Wide embeddings and blocks that write little: which word it is then shows through all of them.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=start["embedding_range"])
    for index, block in enumerate(model.model.layers):
        for written in (block.self_attn.o_proj, block.mlp.down_proj):
            written.weight.data.mul_(start["output_share"])
        _start_attention(block.self_attn, start, start["back"].get(index, []), rope_theta)
    return model


@torch.no_grad()
def _start_attention(attention: Any, start: dict[str, Any], back: list[int], rope_theta: float) -> None:
    """First queries and keys of a block: sharp, and those of its first heads look so many tokens `back`.

    RoPE turns pair i of a head's dimensions by rope_theta^(-2i/d) per token. Pairs that turn fast tell distances: a
    head that looks back begins with biases there which agree at its distance, and next to nothing else. Pairs that turn
    slowly tell words, however far apart: the other heads begin there. First weights that imitate those of trained
    models are Trockman & Kolter's (2023) idea.
    """
    size, fast = attention.head_dim, start["fast_pairs"]
    angles = rope_theta ** (-torch.arange(fast) * 2 / size)
    pairs = torch.arange(size).remainder(size // 2)
    for projection in (attention.q_proj, attention.k_proj):
        torch.nn.init.normal_(projection.weight, std=start["attention_range"])
        heads = projection.weight.unflatten(0, (-1, size))
        heads[len(back) :, pairs < fast] *= 0.1
        heads[: len(back)] *= 0.07
    queries, keys = (p.bias.unflatten(0, (-1, size)) for p in (attention.q_proj, attention.k_proj))
    for head, distance in enumerate(back):
        queries[head, :fast] = start["back_strength"]
        keys[head, :fast] = start["back_strength"] * torch.cos(distance * angles)
        keys[head, size // 2 : size // 2 + fast] = start["back_strength"] * torch.sin(distance * angles)


def enter(stage: Stage, model: Any) -> None:
    """Run the blocks that a stage runs, and train those that it trains."""
    layers = model.get_decoder().layers
    model.config.num_hidden_layers = stage.blocks or len(layers)
    for index, block in enumerate(layers):
        block.requires_grad_(index >= stage.frozen)


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: what its progress bar says.
        corpus: what its text is made of.
        options: the config's ``training`` or ``alignment``.
        seed: of the text.
        extra: a further term of the loss, from the step's number; None for next-token prediction alone.
        state: file to keep the state of a long run in, and to go on from if it exists.
    """

    name: str
    corpus: CorpusConfig
    options: dict[str, Any]
    seed: int
    extra: Callable[[int], torch.Tensor] | None = None
    state: Path | None = None


def train(run: Run, model: Any, tokenizer: Any) -> dict[str, float]:
    """Train a model in place; returns the last loss (a running mean), tokens, steps and seconds."""
    from accelerate import Accelerator

    accelerator, options = Accelerator(), run.options
    model = accelerator.prepare(model)
    optimizers = [accelerator.prepare(optimizer) for optimizer in optimizers_of(model, options)]
    full = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    weights = weights_for(tokenizer, run.corpus, run.seed, options)
    author = Author(run.corpus, run.seed)
    course, text, done = Course(author), batches(author, run.seed, tokenizer), 0
    first, tokens, seconds = 0, 0, 0.0
    if run.state and run.state.is_file():
        kept = _resume(run.state, model, optimizers)
        first, tokens, seconds = kept["step"], kept["tokens"], kept["seconds"]
        for step in range(first):
            done += next(text)[1].numel()
            if step in kept["ended"]:
                course.end(step)
        course.tokens, course.right = kept["stage_tokens"], kept["stage_right"]
    step, mean, started = first, 0.0, time.monotonic() - seconds
    model.train()
    with _progress(run.name, options["tokens"]) as report:
        while done < options["tokens"]:
            for optimizer, lr in zip(optimizers, full, strict=True):
                optimizer.param_groups[0]["lr"] = lr * rate(done / options["tokens"], options)
            stage, batch = next(text)
            enter(stage, accelerator.unwrap_model(model))
            answers = weights.answers(batch)
            weighted = weights.of(batch, answers, stage.answer).to(accelerator.device)
            loss, right = weighted_loss(accelerator.unwrap_model(model), batch.to(accelerator.device), weighted)
            mean += (loss.item() - mean) * (SMOOTH if step > first else 1.0)
            accelerator.backward(loss if run.extra is None else loss + run.extra(step))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            course.after(step, stage, batch.numel(), right[answers])
            step, done, tokens = step + 1, done + batch.numel(), tokens + int((batch >= 0).sum())
            report(step, done, f"{course.name}, loss {mean:.3f}, {course.right:.0%} of answers right")
            if run.state and step % KEEP == 0:
                counts = {"step": step, "tokens": tokens, "seconds": time.monotonic() - started}
                _keep(run.state, model, optimizers, counts, course)
    enter(author.stages[-1], accelerator.unwrap_model(model))  # whole, wherever it ended
    accelerator.unwrap_model(model).eval()
    return {"loss": round(mean, 4), "tokens": tokens, "steps": step, "seconds": round(time.monotonic() - started)}


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int, int, str], None]]:
    """A function that takes step, tokens done and how it goes: a bar on a terminal, now and then a line elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=1, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task(name, total=total)

        def report(step: int, done: int, text: str) -> None:
            progress.update(bar, completed=done, description=f"{name}: {text}")
            if progress.disable and step % 100 == 0:
                print(f"{name}: step {step}, {done:,} of {total:,} tokens, {text}", flush=True)

        yield report


def _keep(state: Path, model: Any, optimizers: list[Any], counts: dict[str, Any], course: Course) -> None:
    partial = state.with_suffix(".partial")
    kept = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], **counts}
    kept |= {"ended": course.ended, "stage_tokens": course.tokens, "stage_right": course.right}
    torch.save(kept, partial)
    partial.replace(state)


def _resume(state: Path, model: Any, optimizers: list[Any]) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(state, weights_only=True)
    model.load_state_dict(kept["model"])
    for optimizer, own in zip(optimizers, kept["optimizers"], strict=True):
        optimizer.load_state_dict(own)
    return kept


def alignment_term(config: dict[str, Any], model: Any, tokenizer: Any) -> Callable[[int], torch.Tensor]:
    """The term that `alignment` adds to the loss, over fresh parallel items at each step."""
    options = config["alignment"]
    author = Author(CorpusConfig(**config["corpus"]), config["seed"] + 2000)
    parallels = Parallels(author, config["seed"])
    codes, shares = zip(*options["languages"].items(), strict=True)

    def extra(step: int) -> torch.Tensor:
        code = parallels.rng.choices(codes, shares)[0]
        items = parallels.items(code, options["items"])
        found = term(model, tokenizer, items, code, options["layer"], options["temperature"])
        return found * float(options["weight"])

    return extra


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """The checkpoint in half precision, with its tokenizer; `model` itself stays as it is."""
    copy.deepcopy(model).to("cpu", torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def record(folder: Path, data: Path, made: dict[str, Any]) -> None:
    """Measure a checkpoint on the benchmark, and on its first items for a quick check, and write it down."""
    first = {"limit": FIRST, "tasks": figures.measure(folder, data, limit=FIRST)}
    found = figures.measure(folder, data)
    figures.write(folder, {"made": made, "tasks": found, "first": first})
    print(f"{folder.name}\n{figures.show(found)}", flush=True)


def main(arguments: list[str]) -> None:
    """Rebuild everything."""
    config = settings(arguments)
    out = Path(config.get("out") or HERE).resolve()
    state = Path(config["state"]) if config.get("state") else None
    torch.set_num_threads(config["training"]["threads"])
    torch.manual_seed(config["seed"])
    benchmark.write(out / "data")
    corpus = CorpusConfig(**config["corpus"])
    tokenizer = build_tokenizer(corpus, config["seed"], **config["tokenizer"])
    model = build_model(config["model"], len(tokenizer))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary", flush=True)
    made = train(Run("tiny", corpus, config["training"], config["seed"], state=state), model, tokenizer)
    save(out / "tiny", model, tokenizer)
    record(out / "tiny", out / "data", {"seed": config["seed"], **made})
    options = config["alignment"]
    extra = alignment_term(config, model, tokenizer)
    made = train(Run("tiny_aligned", corpus.last(), options, config["seed"] + 1000, extra), model, tokenizer)
    save(out / "tiny_aligned", model, tokenizer)
    record(out / "tiny_aligned", out / "data", {"seed": config["seed"], **made})


if __name__ == "__main__":
    main(sys.argv[1:])
