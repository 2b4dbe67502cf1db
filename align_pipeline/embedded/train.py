"""The recipe: ``python -m align_pipeline.embedded.train`` rebuilds the embedded data, tokenizer and checkpoint.

Config: ``conf/embedded.yaml``; any key can be given as ``key=value``, such as ``training.tokens=1000000``. Takes about
three quarters of an hour on two CPU cores; a GPU is used if there is one.
"""

from __future__ import annotations

import copy
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from align_pipeline.config import CONF
from align_pipeline.embedded import benchmark, figures
from align_pipeline.embedded.alignment import Parallels, term
from align_pipeline.embedded.corpus import Author, CorpusConfig

HERE = Path(__file__).parent
FIRST = 24  # items of the quick check
BOS, EOS = "<s>", "</s>"
# A word is one piece with the space before it, and what is written after an apostrophe or as punctuation another: a
# name or thing is then the same token wherever it stands, and prompts and continuations part at token boundaries.
WORDS = r" ?\p{L}+|['’]\p{L}+| ?[^\s\p{L}]+|\s+"


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


def batches(corpus: CorpusConfig, seed: int, tokenizer: Any, tokens: int) -> Iterator[torch.Tensor]:
    """Batches of whole documents of about one length, [documents, longest], padded on the right with -1.

    Documents do not share a sequence: names and things are few, and what another document says of them is only noise to
    a model that has yet to learn to look things up.

    Args:
        corpus: what the text is made of.
        seed: of the text.
        tokenizer: of the model.
        tokens: in a batch at most, padding included.
    """
    author, rng = Author(corpus, seed), random.Random(f"batches {seed}")
    written = author.documents()
    yielded = 0
    while True:
        if yielded >= corpus.early_tokens:
            author.shares = corpus.kinds
        encoded = sorted(tokenizer([next(written)[1] for _ in range(1000)])["input_ids"], key=len)
        chunks: list[list[list[int]]] = [[]]
        for document in encoded:
            if chunks[-1] and (len(chunks[-1]) + 1) * len(document) > tokens:
                chunks.append([])
            chunks[-1].append(document)
        rng.shuffle(chunks)
        yielded += len(chunks) * tokens
        for chunk in chunks:
            yield torch.nn.utils.rnn.pad_sequence([torch.tensor(d) for d in chunk], batch_first=True, padding_value=-1)


def build_model(shape: dict[str, Any], vocabulary: int) -> Any:
    """An untrained Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": shape["rope_theta"]}
    rest = {key: value for key, value in shape.items() if key != "rope_theta"}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, bos_token_id=0, eos_token_id=1, rope_parameters=rope, **rest)
    )


def optimizer_of(model: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW; norms do not decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": options["weight_decay"]}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options["learning_rate"], betas=(0.9, 0.95))


def rate(step: int, steps: int, options: dict[str, Any]) -> float:
    """Share of the full learning rate: up, constant, and linearly down at the end."""
    up, down = max(1, int(steps * options["warmup"])), max(1, int(steps * options["decay"]))
    return min(1.0, (step + 1) / up, (steps - step) / down)


@dataclass(frozen=True)
class Weights:
    """How much each token counts in the loss: most cannot be predicted, and only hide what is there to be learnt.

    Attributes:
        letters: [5] token ids of the colon and of the four letters that answer after it.
        common: ids of tokens that are everywhere.
        letter: how much an answering letter counts.
        recalled: how much a token counts that its document had before, if it is not a common one.
    """

    letters: torch.Tensor
    common: torch.Tensor
    letter: float
    recalled: float

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """[B, T - 1]: the weights of the tokens that are predicted in a batch [B, T]."""
        target = batch[:, 1:]
        answers = (batch[:, :-1] == self.letters[0]) & torch.isin(target, self.letters[1:])
        before = (batch[:, None, :] == batch[:, :, None]).tril(-1).any(dim=2)[:, 1:]
        recalled = before & ~torch.isin(target, self.common)
        weights = torch.where(answers, self.letter, torch.where(recalled, self.recalled, 1.0))
        return torch.where(target >= 0, weights, 0.0)


def weights_for(tokenizer: Any, corpus: CorpusConfig, seed: int, options: dict[str, Any]) -> Weights:
    """The weights of a run; the common tokens are the hundred most frequent of some documents."""
    written = Author(corpus, seed).documents()
    counts = Counter(t for tokens in tokenizer([next(written)[1] for _ in range(2000)])["input_ids"] for t in tokens)
    common = torch.tensor(sorted(token for token, _ in counts.most_common(100)))
    letters = torch.tensor(tokenizer(": A B C D", add_special_tokens=False)["input_ids"])
    return Weights(letters, common, options["letter_weight"], options["recall_weight"])


def weighted_loss(logits: torch.Tensor, batch: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Next-token cross entropy.

    Args:
        logits: [B, T, V].
        batch: [B, T] token ids, -1 where there is none.
        weights: [B, T - 1].
    """
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), ignore_index=-1, reduction="none"
    )
    return (losses * weights.flatten()).sum() / weights.sum()


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

    @property
    def steps(self) -> int:
        """How often the weights change."""
        return int(self.options["tokens"] // self.options["batch"])


def train(run: Run, model: Any, tokenizer: Any) -> dict[str, float]:
    """Train a model in place; returns the last loss (a running mean), tokens and seconds."""
    from accelerate import Accelerator

    accelerator, options = Accelerator(), run.options
    model = accelerator.prepare(model)
    optimizer = accelerator.prepare(optimizer_of(model, options))
    weights = weights_for(tokenizer, run.corpus, run.seed, options)
    plain = replace(weights, recalled=1.0)
    text = batches(run.corpus, run.seed, tokenizer, options["batch"])
    first = _resume(run.state, model, optimizer) if run.state and run.state.is_file() else 0
    for _ in range(first):
        next(text)
    mean, tokens, started = 0.0, 0, time.monotonic()
    model.train()
    for step, report in _progress(run.name, first, run.steps):
        for group in optimizer.param_groups:
            group["lr"] = options["learning_rate"] * rate(step, run.steps, options)
        batch = next(text)
        early = step * options["batch"] < run.corpus.early_tokens
        weighted = (plain if early else weights).of(batch).to(accelerator.device)
        batch = batch.to(accelerator.device)
        tokens += int((batch >= 0).sum())
        logits = model(input_ids=batch.clamp(min=0), use_cache=False).logits
        loss = weighted_loss(logits, batch, weighted)
        mean += (loss.item() - mean) * (0.02 if step > first else 1.0)
        accelerator.backward(loss if run.extra is None else loss + run.extra(step))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report(mean)
        if run.state and step % 50 == 49:
            _keep(run.state, model, optimizer, step + 1)
    accelerator.unwrap_model(model).eval()
    return {"loss": round(mean, 4), "tokens": tokens, "seconds": round(time.monotonic() - started)}


def _progress(name: str, first: int, steps: int) -> Iterator[tuple[int, Callable[[float], None]]]:
    """The steps, each with a function that takes the loss; a bar on a terminal, now and then a line elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=1) as progress:
        bar = progress.add_task(name, total=steps, completed=first)

        def report(loss: float) -> None:
            progress.update(bar, advance=1, description=f"{name}, loss {loss:.3f}")
            done = int(progress.tasks[bar].completed)
            if not sys.stdout.isatty() and done % 25 == 0:
                print(f"{name}: step {done} of {steps}, loss {loss:.3f}", flush=True)

        for step in range(first, steps):
            yield step, report


def _keep(state: Path, model: Any, optimizer: Any, step: int) -> None:
    partial = state.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(state)


def _resume(state: Path, model: Any, optimizer: Any) -> int:
    kept = torch.load(state, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return int(kept["step"])


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
    corpus = replace(corpus, early_tokens=0)
    made = train(Run("tiny_aligned", corpus, options, config["seed"] + 1000, extra), model, tokenizer)
    save(out / "tiny_aligned", model, tokenizer)
    record(out / "tiny_aligned", out / "data", {"seed": config["seed"], **made})


if __name__ == "__main__":
    main(sys.argv[1:])
