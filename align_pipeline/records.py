"""The records that flow through a run, and the schemas of the tables it writes.

Ids are shared by all languages, so every table joins on ``(task, language, pivot, item_id)``.
`language` is a FLORES code (``swh_Latn``), whatever the data set calls it; `pivot` names the English set that a row
is paired with (``eng_Latn``, or XCOPA's ``translation-sw``), and English rows carry their own set's name there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align_pipeline.errors import writing

ENGLISH = "eng_Latn"


SHOT_SEPARATOR = "\n\n"
"""Between few-shot examples, and between them and the prompt."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question in one language, with every text that the pipeline feeds to a model.

    Attributes:
        id: shared by the item's versions in all languages.
        options: what the alignment metrics embed, one text per answer option (METHOD: "DALI text").
        premise: what MEXA_T embeds: the item without its options.
        prompt: what the options' likelihoods are conditioned on, few-shot examples before it.
        continuations: one per option, scored after `prompt`; each starts with its separating space.
        gold: index of the right option, from 0.
        category: the item's semantic category where its data set has one, else "".
        parts: (name, start, end) of the passage, question and options that stand in the prompt, in characters counted
            from the prompt's end (so 0 is the end, -1 the last character): examples put before it move nothing.
        shots: (prompt, continuation) of the few-shot examples that `prompt` begins with.
    """

    id: str
    options: tuple[str, ...]
    premise: str
    prompt: str
    continuations: tuple[str, ...]
    gold: int
    category: str = ""
    parts: tuple[tuple[str, int, int], ...] = ()
    shots: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model answered to one item.

    Attributes:
        item_id: the item's id.
        gold: index of the right option, from 0.
        loglikelihoods: sum over each option's tokens of log p(token | all before it), in nats.
        lengths: each option's length in UTF-8 bytes, separating space left out; `acc_norm` divides by it.
        prompt_tokens: tokens before the options, few-shot examples included.
        item_tokens: tokens of the premise, BOS included; X's over English's is the language's fertility.
    """

    item_id: str
    gold: int
    loglikelihoods: tuple[float, ...]
    lengths: tuple[int, ...]
    prompt_tokens: int
    item_tokens: int


_TEXT, _INT, _FLOAT = pa.string(), pa.int32(), pa.float64()

ALIGNMENT = pa.schema(
    [
        ("model", _TEXT),
        ("task", _TEXT),
        ("language", _TEXT),
        ("pivot", _TEXT),
        ("metric", _TEXT),  # dali, dali_strong, mexa_t, mexa
        ("pooling", _TEXT),  # last, weighted
        ("layer", _INT),  # index into Hugging Face hidden_states: 0 is the embedding output
        ("item_id", _TEXT),
        ("value", pa.int8()),  # 1: aligned
        ("margin", pa.float32()),  # by how much the criterion holds (> 0) or fails, in cosine
    ]
)

PREDICTIONS = pa.schema(
    [
        ("model", _TEXT),
        ("task", _TEXT),
        ("language", _TEXT),
        ("pivot", _TEXT),
        ("item_id", _TEXT),
        ("gold", _INT),
        ("prediction", _INT),  # the option with the highest summed log-likelihood
        ("correct", pa.int8()),
        ("correct_norm", pa.int8()),  # the same with log-likelihoods divided by the options' bytes
        ("confidence", _FLOAT),  # softmax over the options' log-likelihoods, at the prediction
        ("loglikelihoods", pa.list_(_FLOAT)),
        ("prompt_tokens", _INT),
        ("item_tokens", _INT),  # tokens of the alignment text's premise: for fertility, X against English
        ("option_similarity", _FLOAT),  # the most alike pair of options: Jaccard index of their character trigrams
        ("category", _TEXT),  # the item's semantic category where its data set has one, else ""
    ]
)

TRANSLATIONS = pa.schema(
    [
        ("model", _TEXT),
        ("task", _TEXT),
        ("direction", _TEXT),  # en-xx, xx-en
        ("language", _TEXT),  # X's, in both directions
        ("item_id", _TEXT),
        ("source", _TEXT),
        ("hypothesis", _TEXT),
        ("reference", _TEXT),
        ("bleu", _FLOAT),  # sacrebleu's sentence scores, 0 to 100
        ("chrf", _FLOAT),  # chrF++
        ("spbleu", _FLOAT),  # empty where its tokenizer is not at hand
        ("comet", _FLOAT),  # empty until align_pipeline.comet has filled it in, as the next
        ("cometkiwi", _FLOAT),
        ("cut_off", pa.int8()),  # 1: still going on after the most tokens allowed
    ]
)

PATCHING = pa.schema(
    [
        ("model", _TEXT),
        ("task", _TEXT),
        ("language", _TEXT),
        ("pivot", _TEXT),
        ("source_language", _TEXT),  # whose activation it is; "" for noise and zero
        ("condition", _TEXT),  # parallel, self, random_item, ...; language=<code>
        ("component", _TEXT),  # resid, attn, mlp, head
        ("site", _TEXT),  # last, passage, question, options, option_1, ...
        ("window", _INT),  # layers replaced at once
        ("layer", _INT),  # the first of them
        ("head", _INT),  # from 0; missing but for component head
        ("item_id", _TEXT),
        ("donor", _TEXT),  # the item the activation is of; "" where it is of none or of all
        ("donor_gold", _INT),  # the donor's right option, as it is numbered in the donor's own prompt; or missing
        ("gold", _INT),
        ("prediction", _INT),
        ("correct", pa.int8()),
        ("loglikelihoods", pa.list_(_FLOAT)),
    ]
)

TRANSLATION_PATCHING = pa.schema(
    [
        ("model", _TEXT),
        ("task", _TEXT),
        ("direction", _TEXT),  # en-xx, xx-en
        ("language", _TEXT),  # X's, in both directions
        ("source_language", _TEXT),  # whose activation it is; "" for noise, zero and unpatched
        ("condition", _TEXT),  # parallel, self, ... as in PATCHING; unpatched: what translations.parquet has
        ("component", _TEXT),  # resid, attn, mlp
        ("site", _TEXT),  # source: the last token of the sentence to be translated
        ("window", _INT),  # layers replaced at once
        ("layer", _INT),  # the first of them; -1 for unpatched
        ("item_id", _TEXT),
        ("donor", _TEXT),  # the sentence the activation is of; "" where it is of none or of all
        ("hypothesis", _TEXT),
        ("bleu", _FLOAT),  # sacrebleu's sentence scores, 0 to 100
        ("chrf", _FLOAT),  # chrF++
        ("bleu_statistics", pa.list_(_INT)),  # what corpus scores are sums of: translate.sentence_statistics
        ("chrf_statistics", pa.list_(_INT)),
        ("cut_off", pa.int8()),  # 1: still going on after the most tokens allowed
    ]
)

JOB = b"align_pipeline.job"
"""Key of a parquet file's metadata: the digest of the job that wrote it, as ``job`` in ``summary.json``."""

SCHEMAS = {
    "alignment": ALIGNMENT,
    "predictions": PREDICTIONS,
    "translations": TRANSLATIONS,
    "patching": PATCHING,
    "translation_patching": TRANSLATION_PATCHING,
}


class Table:
    """A parquet file in the making: rows go to a temporary name and appear under their own only when all are there."""

    def __init__(self, path: Path, schema: pa.Schema, job: str = "") -> None:
        self.path, self.schema = path, schema.with_metadata({JOB: job.encode()}) if job else schema
        self.partial = unfinished(path)
        self.writer = pq.ParquetWriter(self.partial, self.schema, compression="zstd")

    def append(self, **columns: Any) -> None:
        """Add rows; a column that is one value, not a sequence or array, is repeated."""
        length = max(len(v) for v in columns.values() if not isinstance(v, str))
        if not length:
            return
        arrays = []
        for field in self.schema:
            value = columns[field.name]
            arrays.append(
                pa.repeat(pa.scalar(value, field.type), length)
                if isinstance(value, str)
                else pa.array(value, type=field.type)
            )
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))


@contextmanager
def table(folder: Path, name: str, job: str = "") -> Iterator[Table]:
    """Write ``<name>.parquet`` atomically: nothing is left of it if the block fails.

    Args:
        folder: where.
        name: one of `SCHEMAS`.
        job: the digest that the file's metadata names its job by; "" names none.
    """
    with writing(folder):
        written = Table(folder / f"{name}.parquet", SCHEMAS[name], job)
    try:
        yield written
        with writing(folder):
            written.writer.close()
            os.replace(written.partial, written.path)
    finally:
        written.writer.close()
        written.partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = unfinished(path)
    with writing(path.parent):
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """A name that nobody else writes to, for a file that is not complete yet; process numbers repeat over nodes."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
