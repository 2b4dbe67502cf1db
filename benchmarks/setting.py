"""What the benchmarks share: a random Llama of 34 million parameters, its tokenizer, texts, and tables to read."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
import yaml

from align_pipeline.config.paths import CONF, EMBEDDED
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Belebele, ChoiceTask, Declared, Xcopa, XStoryCloze
from align_pipeline.data.tasks.parallel import ItemSet
from align_pipeline.engine.model import LanguageModel, wrap

TASKS = {"belebele": Belebele, "xcopa": Xcopa, "xstorycloze": XStoryCloze, "global_mmlu_lite": Declared}
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}


def source(folder: str | None) -> str:
    """The data's folder: what was given, or the package's own data."""
    return folder or str(EMBEDDED / "data")


def item_set(data: str, name: str, config: str, fewshot: str = "fixed", limit: int | None = None) -> ItemSet:
    """One language of a task, from its config file in ``conf/task``.

    Args:
        data: folder laid out as ``<data>/<hub id>/``.
        name: of the task.
        config: of the language in the data set.
        fewshot: ``fixed`` or ``lm_eval``.
        limit: first items only.
    """
    side = task(name, fewshot, limit)._side(Source(data), config, config, "eng_Latn")
    return replace(side, items=side.items[:limit])


def task(name: str, fewshot: str = "fixed", limit: int | None = None) -> ChoiceTask:
    """A task from its config file."""
    fields = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    del fields["_target_"]
    return TASKS[name](**{**fields, "fewshot": fewshot, "limit": limit})


def tokenizer(texts: Sequence[str], vocabulary: int = 8000) -> Any:
    """A byte-level BPE tokenizer that adds BOS, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def random_llama(texts: Sequence[str], seed: int = 0, **shape: int) -> LanguageModel:
    """A Llama of 34 million random parameters (or another `shape`) in float32, with a tokenizer for the texts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    own = tokenizer(texts)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(own), bos_token_id=0, eos_token_id=1, **{**SHAPE, **shape}))
    return wrap(model.eval(), own, "random-llama")


def parameters(lm: LanguageModel) -> int:
    """Of the blocks: what a token is multiplied with on its way through them."""
    return sum(p.numel() for block in lm.layers for p in block.parameters())


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of wall-clock time, and the result."""
    started = time.perf_counter()
    result = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def environment() -> str:
    """One line on where a table was made."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    load = f"{os.getloadavg()[0]:.1f}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    python = f"Python {platform.python_version()}"
    return f"{time.strftime('%Y-%m-%d')}; {device} ({platform.machine()}); load at the end {load}; {python}, {packages}"


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table under a heading, and where it was made."""
    print(f"\n### {title}\n", *markdown(head, rows), f"\n{environment()}", sep="\n", flush=True)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(str(value) for value in row) + " |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]
