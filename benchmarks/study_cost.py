"""What a whole study costs: tokens that the engine computes on real data, their FLOPs, GPU hours and bytes.

    python benchmarks/study_cost.py data=../shared/data                        the tables of docs/scaling.md
    python benchmarks/study_cost.py data=../shared/data tokenizer=<folder>     with a model's own tokenizer
    python benchmarks/study_cost.py data=../shared/data reached=0.5            with what benchmarks/gpu.py found
    python benchmarks/study_cost.py data=../shared/data measure=true           the engine's rate on this CPU core alone

Counted: the tokens and the attention of every forward pass, by the engine's own plan, on the languages that the folder
has; a language that it lacks counts as the mean of those of its script, or of all. Assumed: everything in `Gpu`, and
without a tokenizer `CHARACTERS`.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from align_pipeline.config import from_hydra, register
from align_pipeline.config.lang import Language
from align_pipeline.config.paths import CONF
from align_pipeline.data.source import Source
from align_pipeline.data.tasks.parallel import ItemSet
from align_pipeline.engine.forward import STEP_TOKENS
from align_pipeline.engine.tree import Tokens, steps, trees, trie
from align_pipeline.measurements.accuracy.scoring import encode_options
from align_pipeline.measurements.alignment.similarity import MISMATCHES, text_tokens

STUDY = {"belebele": "set/belebele_paper", "xcopa": "set/xcopa", "xstorycloze": "set/xstorycloze"}
"""Languages by task; FLORES has Belebele's."""
CHARACTERS = {"eng": 4.5, "Latn": 3.0, "Cyrl": 3.0, "Grek": 2.5, "Arab": 2.7, "Hans": 1.4, "Hant": 1.4, "Jpan": 1.4}
OTHER_CHARACTERS = 1.5
"""Characters per token, English and by script: about what vocabularies of 128,000 to 256,000 give; ASSUMED."""
MOST_NEW_TOKENS = 256
BATCH_TOKENS = 16384
"""In translation, where it bounds the KV cache: 2 GB for an 8B model, 5 GB for a 70B one."""


@dataclass(frozen=True)
class Model:
    """A decoder's shape.

    Attributes:
        bytes_per_weight: 2 for bfloat16.
    """

    name: str
    layers: int
    hidden: int
    feed_forward: int
    kv_hidden: int
    vocabulary: int
    bytes_per_weight: int = 2

    @property
    def block_weights(self) -> int:
        """Weights of all blocks: query and output, key and value, and a gated feed-forward layer's three matrices."""
        h = self.hidden
        return self.layers * (2 * h * h + 2 * h * self.kv_hidden + 3 * h * self.feed_forward)

    @property
    def weight_bytes(self) -> int:
        """Blocks, input and output embeddings."""
        return self.bytes_per_weight * (self.block_weights + 2 * self.vocabulary * self.hidden)

    def flops(self, work: Work) -> float:
        """Two per weight and token; attention: two products of `hidden` per cell and layer; logits where needed."""
        cells = 4 * self.layers * self.hidden * work.cells
        return 2 * self.block_weights * work.tokens + cells + 2 * self.vocabulary * self.hidden * work.predicted

    def cache_bytes(self, items: int, options: int) -> int:
        """float32 cosines of a language, two poolings: n x n blocks, three of the item and one for each of the items it
        is compared with to know chance, and five numbers of the premise."""
        return 4 * 2 * (self.layers + 1) * items * ((3 + min(MISMATCHES, items - 1)) * options**2 + 5)

    def english_bytes(self, items: int, options: int) -> int:
        """Pooled English states, two poolings in the model's dtype: on the device, or in the host's memory."""
        return 2 * self.bytes_per_weight * (self.layers + 1) * items * (options + 1) * self.hidden


MODELS = (
    Model("llama3.1-8b", 32, 4096, 14336, 1024, 128256),
    Model("llama2-70b", 80, 8192, 28672, 1024, 32000),
)


@dataclass(frozen=True)
class Gpu:
    """A GPU as its data sheet has it, and how much of that is reached: ASSUMED, not measured.

    Attributes:
        flops: dense bfloat16, per second.
        bandwidth: bytes per second.
        reached: share of `flops` in forward passes.
        reached_bandwidth: share of `bandwidth` while generating.
    """

    name: str
    flops: float
    bandwidth: float
    reached: float = 0.4
    reached_bandwidth: float = 0.6


GPUS = (Gpu("A100", 312e12, 2.0e12), Gpu("H100", 989e12, 3.35e12))


@dataclass(frozen=True)
class Work:
    """What forward passes compute.

    Attributes:
        tokens: that go through the blocks.
        cells: of attention: for each token, the tokens of its row and the cached ones.
        predicted: tokens whose logits are computed.
        texts: that it answers.
        plain: tokens if every text ran by itself.
        steps: passes of one new token per row, in which the weights' bytes set the pace.
    """

    tokens: float = 0
    cells: float = 0
    predicted: float = 0
    texts: float = 0
    plain: float = 0
    steps: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(**{key: value + getattr(other, key) for key, value in vars(self).items()})

    def __mul__(self, factor: float) -> Work:
        return Work(**{key: value * factor for key, value in vars(self).items()})


def mean(works: Sequence[Work]) -> Work:
    return total(works) * (1 / len(works))


def total(works: Iterable[Work]) -> Work:
    return sum(works, Work())


def seconds(model: Model, gpu: Gpu, work: Work) -> float:
    """On one GPU that holds the model."""
    weights = work.steps * model.weight_bytes / (gpu.bandwidth * gpu.reached_bandwidth)
    return weights + model.flops(work) / (gpu.flops * gpu.reached)


# ---- tokens


@dataclass
class Reader:
    """Stands where a model stands: turns texts into token ids.

    Attributes:
        tokenizer: a model's; None cuts texts every `characters` characters.
    """

    tokenizer: Any
    characters: float = 1.0
    known: dict[str, int] = field(default_factory=dict)
    chat: ClassVar[bool] = False

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        if self.tokenizer is not None:
            return [list(ids) for ids in self.tokenizer(list(texts))["input_ids"]]
        return [[0, *(self.known.setdefault(piece, len(self.known) + 1) for piece in self._cut(t))] for t in texts]

    def _cut(self, text: str) -> list[str]:
        ends = [math.ceil(k * self.characters) for k in range(math.ceil(len(text) / self.characters) + 1)]
        return [text[start:end] for start, end in itertools.pairwise(ends)]

    def limit(self, tokens: Tokens, what: str) -> Tokens:
        return tokens


def reader(tokenizer: Any, script: str) -> Reader:
    return Reader(tokenizer, CHARACTERS.get(script, OTHER_CHARACTERS))


def extraction(lm: Any, side: ItemSet) -> Work:
    """Embedding a set's options and premises: `forward.hidden_states`."""
    texts = [text for group in text_tokens(lm, side.items) for text in group]
    rows = [len(row.tokens) for row in trees(trie(texts))]
    return Work(sum(rows), sum(n * n for n in rows), 0, len(texts), sum(map(len, texts)))


def scoring(lm: Any, side: ItemSet) -> Work:
    """Scoring a set's options: `forward.loglikelihoods`."""
    requests = [request for item in side.items for request in encode_options(lm, item)]
    sequences = [[*context, *continuation[:-1]] for context, continuation in requests]
    needs = [len(context) - 1 for context, _ in requests]
    tokens = cells = 0
    held: Sequence[int] = ()
    for step in steps(trie(sequences, needs), STEP_TOKENS):
        if step.trunk:
            kept = next((k for k, (a, b) in enumerate(zip(held, step.trunk, strict=False)) if a != b), None)
            kept = min(len(held), len(step.trunk)) if kept is None else kept
            tokens += len(step.trunk) - kept
            cells += (len(step.trunk) - kept) * len(step.trunk)
            held = step.trunk
        row = sum(len(tree.tokens) for tree in step.trees)
        tokens += row
        cells += row * (row + len(step.trunk))
    predicted = sum(len(continuation) for _, continuation in requests)
    return Work(tokens, cells, predicted, len(requests), sum(map(len, sequences)))


def translation(lm: Reader, other: Reader, pairs: Sequence[tuple[str, str]]) -> Work:
    """Translating sentences after five examples that all share, batch by batch; outputs as long as the references."""
    shots = len(lm.encode(["".join(f"X: {s}\n" for s, _ in pairs[:5])])[0])
    shots += len(other.encode(["".join(f"Y: {t}\n\n" for _, t in pairs[:5])])[0])
    inputs = [len(tokens) for tokens in lm.encode([f"X: {s}\nY:" for s, _ in pairs])]
    outputs = [len(tokens) for tokens in other.encode([t for _, t in pairs])]
    done, at = Work(shots, shots**2, 0, 0, 0), 0
    order = sorted(range(len(pairs)), key=lambda i: -inputs[i])
    while at < len(order):
        width = shots + inputs[order[at]] + MOST_NEW_TOKENS
        rows = order[at : at + max(1, BATCH_TOKENS // width)]
        tokens = sum(inputs[i] + outputs[i] for i in rows)
        new = sum(outputs[i] for i in rows)
        plain = tokens + len(rows) * shots
        done += Work(tokens, tokens * width, new, len(rows), plain, max(outputs[i] for i in rows))
        at += len(rows)
    return done


# ---- the study


@dataclass(frozen=True)
class Counted:
    """A task's work.

    Attributes:
        languages: the study's; counted: how many of them the data has.
        stages: work by stage, over all languages and English.
        items: of one language; options: of one item (0 if it has none).
    """

    task: str
    languages: int
    counted: int
    stages: dict[str, Work]
    items: int
    options: int


def config_of(*overrides: str) -> Any:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)), list(overrides), multirun=True)


def whole(languages: Sequence[Language], found: dict[str, Work]) -> Work:
    """All languages from those counted: a language that is missing is like those of its script, or like all."""
    scripts = {language.flores: language.script for language in languages}

    def like(script: str) -> Work:
        same = [work for code, work in found.items() if scripts[code] == script]
        return mean(same or list(found.values()))

    return total(found[x.flores] if x.flores in found else like(x.script) for x in languages)


def choice_task(name: str, data: str, tokenizer: Any) -> Counted:
    config = config_of(f"task={name}", f"lang={STUDY[name]}", f"data={data}")
    task, source = instantiate(config.task), Source(data)
    languages = [language for language in config.languages.values() if task.config_of(language, None)]
    pairs = task.pairs(task.supported(languages, source, set()), source)
    scripts = {language.flores: language.script for language in languages}
    stages: dict[str, Work] = {}
    english = {pair.english.pivot: pair.english for pair in pairs}
    own_pivot = sum(name in language.pivots for language in languages)
    for stage, count in (("embedding", extraction), ("scoring", scoring)):
        found = {
            pair.language.language: count(reader(tokenizer, scripts[pair.language.language]), pair.language)
            for pair in pairs
        }
        of_english = [count(reader(tokenizer, "eng"), side) for side in english.values()]
        stages[stage] = whole(languages, found) + mean(of_english) * max(own_pivot, 1)
    first = pairs[0].language.items
    return Counted(name, len(languages), len(pairs), stages, len(first), len(first[0].options))


def flores(data: str, tokenizer: Any) -> Counted:
    languages = list(config_of("task=belebele", f"lang={STUDY['belebele']}", f"data={data}").languages.values())
    folder = Path(data) / "openlanguagedata/flores_plus/devtest"

    def sentences(code: str) -> list[str]:
        rows = [json.loads(line) for line in (folder / f"{code}.jsonl").read_text(encoding="utf-8").splitlines()]
        return [row["text"] for row in sorted(rows, key=lambda row: int(row["id"]))]

    english, read_english = sentences("eng_Latn"), reader(tokenizer, "eng")
    found = {}
    for language in languages:
        if (folder / f"{language.flores}.jsonl").exists():
            own, read = sentences(language.flores), reader(tokenizer, language.script)
            into = translation(read_english, read, list(zip(english, own, strict=True)))
            out_of = translation(read, read_english, list(zip(own, english, strict=True)))
            found[language.flores] = into + out_of
    return Counted("flores", len(languages), len(found), {"translation": whole(languages, found)}, len(english), 0)


def short(value: float) -> str:
    """Two digits that count, in plain notation."""
    digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{digits}f}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def report(tasks: Sequence[Counted], gpus: Sequence[Gpu]) -> str:
    """The tables, in Markdown."""
    heads = (
        "task",
        "stage",
        "languages",
        "counted on",
        "texts",
        "tokens, each text alone",
        "tokens computed",
        "less by",
    )
    lines = [line(*heads), line(*["---"] * len(heads))]
    for task in tasks:
        for stage, work in task.stages.items():
            sizes = (f"{work.texts / 1e3:,.0f}k", f"{short(work.plain / 1e6)}M", f"{short(work.tokens / 1e6)}M")
            less = f"{work.plain / work.tokens:.1f}x"
            lines.append(line(task.task, stage, str(task.languages), str(task.counted), *sizes, less))
    everything = total(work for task in tasks for work in task.stages.values())
    heads = ("model", "task", "PFLOP", "of it attention", *(f"{gpu.name} hours" for gpu in gpus))
    lines += ["", line(*heads), line(*["---"] * len(heads))]
    for model in MODELS:
        rows = {task.task: total(task.stages.values()) for task in tasks} | {"all": everything}
        for name, work in rows.items():
            flops = model.flops(work)
            attention = model.flops(replace(Work(), cells=work.cells)) / flops
            hours = [short(seconds(model, gpu, work) / 3600) for gpu in gpus]
            lines.append(line(model.name, name, f"{flops / 1e15:,.0f}", f"{attention:.0%}", *hours))
    heads = ("model", "weights", *(f"cache, {task.task}" for task in tasks if task.options), "English states, largest")
    lines += ["", line(*heads), line(*["---"] * len(heads))]
    for model in MODELS:
        chosen = [task for task in tasks if task.options]
        kept = [model.cache_bytes(task.items, task.options) * task.languages for task in chosen]
        states = max(model.english_bytes(task.items, task.options) for task in chosen)
        sizes = [f"{short(value / 1e9)} GB" for value in kept]
        lines.append(line(model.name, f"{model.weight_bytes / 1e9:,.0f} GB", *sizes, f"{short(states / 1e9)} GB"))
    return "\n".join(lines)


# ---- how far counted FLOPs foretell seconds


def measure(data: str) -> str:
    """The engine's FLOPs per second on one CPU core in float32, against those of one large product of matrices."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from align_pipeline.config.paths import EMBEDDED
    from align_pipeline.engine.forward import hidden_states
    from align_pipeline.engine.model import wrap
    from align_pipeline.engine.pooling import POOLINGS
    from align_pipeline.measurements.accuracy.scoring import predict

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny")
    model = Model("random", 8, 512, 1536, 512, len(tokenizer), 4)
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden,
        intermediate_size=model.feed_forward,
        num_hidden_layers=model.layers,
        num_attention_heads=8,
        max_position_embeddings=32768,
    )
    torch.manual_seed(0)
    lm = wrap(LlamaForCausalLM(config).eval(), tokenizer, "random")
    chosen = config_of("task=belebele", "lang=swh", f"data={data}", "task.limit=20")
    side = instantiate(chosen.task).pairs(list(chosen.languages.values()), Source(data))[0].language

    a, b = torch.randn(2048, model.hidden), torch.randn(model.hidden, model.feed_forward)

    def rate(flops: float, run: Callable[[], object]) -> float:
        """By this process's own time: others use the machine too."""
        start = time.process_time()
        run()
        return flops / (time.process_time() - start) / 1e9

    tokens = text_tokens(lm, side.items)
    layers, ids = range(model.layers + 1), [item.id for item in side.items]
    product = rate(50 * 2 * 2048 * model.hidden * model.feed_forward, lambda: [a @ b for _ in range(50)])
    embed = rate(
        model.flops(extraction(lm, side)),
        lambda: list(hidden_states(lm, tokens, ids, layers, POOLINGS, BATCH_TOKENS)),
    )
    score = rate(model.flops(scoring(lm, side)), lambda: predict(lm, side.items, BATCH_TOKENS, lambda number: None))
    return (
        f"One CPU core, float32, {model.block_weights / 1e6:.0f}M weights, {len(ids)} items: a product of matrices "
        f"{product:.0f} GFLOP/s; embedding {embed:.0f} ({embed / product:.0%}), scoring {score:.0f} "
        f"({score / product:.0%})."
    )


def main() -> None:
    """The command line."""
    logging.basicConfig(level=logging.ERROR)
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    data = given.pop("data")
    tokenizer = None
    if name := given.pop("tokenizer", None):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name)
    reached = float(given.pop("reached", GPUS[0].reached))
    measuring = given.pop("measure", "false") == "true"
    if given:
        sys.exit(f"There is no {next(iter(given))}; there are data, measure, reached, tokenizer.")
    if measuring:
        print(measure(data))
    else:
        tasks = [*(choice_task(task, data, tokenizer) for task in STUDY), flores(data, tokenizer)]
        print(report(tasks, [replace(gpu, reached=reached) for gpu in GPUS]))


if __name__ == "__main__":
    main()
