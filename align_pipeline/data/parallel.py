"""Parallel sentences to learn from, and whether any of them occur in texts that are evaluated."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_pipeline.config.lang import Language
from align_pipeline.config.pairs import PairsConfig
from align_pipeline.config.tuned import PRINTS
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.source import LANG, Row, Source, lines_of
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)
_NAMES = {"flores": "FLORES+", "ntrex": "NTREX-128", "opus100": "OPUS-100"}
_SETS = {
    "flores": ("openlanguagedata/flores_plus", "dev"),
    "ntrex": ("mteb/NTREX", "test"),
    "opus100": ("Helsinki-NLP/opus-100", "train"),
}
"""Hub id and the split to learn from."""
_COLUMNS = ("english", "other")


@dataclass(frozen=True)
class Pairs:
    """Parallel sentences of English and one other language.

    Attributes:
        language: FLORES code of the other language.
        english, other: the sentences; those of one index are translations of each other.
        name: of the data, for people.
    """

    language: str
    english: tuple[str, ...]
    other: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.english)

    def at(self, chosen: Iterable[int]) -> Pairs:
        """Only the pairs of these indices."""
        found = list(chosen)
        english, other = tuple(self.english[i] for i in found), tuple(self.other[i] for i in found)
        return Pairs(self.language, english, other, self.name)


def read(config: PairsConfig, language: Language, source: Source) -> Pairs:
    """Read the sentence pairs of a language, in the order of the data.

    Raises:
        InputError: there are none, a side is empty, or the sides have different lengths; names file and line.
    """
    if config.source in _SETS:
        dataset, split = _SETS[config.source]
        split = config.split or split
        name, where = f"{_NAMES[config.source]} {split}", f"{dataset} ({language.flores}, {split})"
        found = _of_hub(config.source, dataset, split, language, source)
    else:
        if not LANG.search(config.source):
            raise InputError(
                f"'{config.source}' is not a source of sentence pairs; use {', '.join(_SETS)}, or files named with "
                "LANG for the language, such as pairs/LANG.tsv."
            )
        name, where = config.source, LANG.sub(language.flores, config.source)
        found = _of_files(Path(where), config.source)
    found = found[: config.limit]
    for number, pair in enumerate(found, 1):
        empty = next((column for column, text in zip(_COLUMNS, pair, strict=True) if not text.strip()), None)
        if empty is not None:
            raise InputError(f"{where}: pair {number} has no text on the {empty} side; remove it or give its text.")
    if not found:
        raise InputError(f"{where} has no sentence pairs.")
    english, other = zip(*found, strict=True)
    return Pairs(language.flores, english, other, name)


def _of_hub(kind: str, dataset: str, split: str, language: Language, source: Source) -> list[tuple[str, str]]:
    code = language.codes.get(kind)
    if kind == "opus100":
        if code is None:
            raise InputError(f"OPUS-100 has no {language.name}; use pairs of another source, such as ntrex.")
        rows = source.load(dataset, "-".join(sorted(("en", code))), split, None, None)
        return [(row["translation"]["en"], row["translation"][code]) for row in rows]
    if kind == "ntrex":
        column = code or language.flores
        rows = source.load(dataset, "default", split, None, None)
        if column not in rows[0]:
            raise InputError(f"NTREX-128 has no {language.name} ({column}); use pairs of another source.")
        return [(row[ENGLISH], row[column]) for row in rows]
    present = source.configs(dataset)
    config = language.flores if present is not None and language.flores in present else code
    if config is None or (present is not None and config not in present):
        raise InputError(f"{dataset} has no {language.name} ({language.flores}) in data={source.name}.")
    own = {str(row["id"]): str(row["text"]) for row in source.load(dataset, config, split, None, None, ("text",))}
    english = [(str(r["id"]), str(r["text"])) for r in source.load(dataset, ENGLISH, split, None, None, ("text",))]
    missing = next((item_id for item_id, _ in english if item_id not in own), None)
    if missing is not None or len(own) != len(english):
        raise InputError(
            f"{dataset} ({split}) has {len(own)} sentences in {language.flores} and {len(english)} in English"
            + (f"; {language.flores} lacks sentence {missing}." if missing is not None else ".")
        )
    return [(text, own[item_id]) for item_id, text in english]


def _of_files(path: Path, pattern: str) -> list[tuple[str, str]]:
    if path.suffix in (".jsonl", ".tsv"):
        if not path.is_file():
            raise InputError(f"The file of sentence pairs {path} does not exist.")
        rows = [(number, row) for number, row in (lines_of if path.suffix == ".jsonl" else _tsv)(path)]
        for number, row in rows:
            missing = next((column for column in _COLUMNS if not isinstance(row.get(column), str)), None)
            if missing is not None:
                raise InputError(f"{path}, line {number} has no text in the column '{missing}'.")
        return [(row["english"], row["other"]) for _, row in rows]
    sides = []
    for half in (Path(LANG.sub(ENGLISH, pattern)), path):
        if not half.is_file():
            raise InputError(f"The file of sentences {half} does not exist; Moses pairs have a file for each language.")
        sides.append(half.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n"))
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"{path} has {len(sides[1])} lines and its English side {len(sides[0])}; line n of both must be "
            "translations of each other."
        )
    return list(zip(*sides, strict=True))


def _tsv(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of a tab-separated file with a header; quotes are plain characters, because sentences contain them."""
    head, *lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    names = head.rstrip("\r").split("\t")
    if not set(_COLUMNS) <= set(names):
        raise InputError(f"The first line of {path} must name the columns {' and '.join(_COLUMNS)}, separated by tabs.")
    for number, line in enumerate(lines, 2):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(names):
            raise InputError(f"{path}, line {number} has {len(cells)} columns; the first line names {len(names)}.")
        yield number, dict(zip(names, cells, strict=True))


# ---- overlap with evaluated texts


KEY = 16
"""Characters at the beginning of a normalised sentence by which it is looked up; shorter sentences are not searched for
inside texts, because short phrases occur everywhere."""


def normalised(text: str) -> str:
    """The text in NFKC and lower case, letters and digits only: the same with other punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class Prints:
    """Digests of training sentences, which find them in other texts without keeping the sentences.

    Attributes:
        of_key: checksum of a sentence's first `KEY` characters -> length and digest of each such sentence.
    """

    of_key: Mapping[int, Sequence[tuple[int, str]]]

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Prints:
        """The digests of sentences."""
        texts = sorted({normalised(sentence) for sentence in sentences})
        return cls.from_rows((_key(text, 0), len(text), _digest(text)) for text in texts if len(text) >= KEY)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]]) -> Prints:
        """The inverse of `rows`."""
        found: dict[int, list[tuple[int, str]]] = {}
        for key, length, digest in rows:
            found.setdefault(int(key), []).append((int(length), str(digest)))
        return cls(found)

    def rows(self) -> list[list[Any]]:
        """Key, length and digest of each sentence, for a JSON file."""
        return [[key, *one] for key, values in self.of_key.items() for one in values]

    def in_texts(self, texts: Iterable[str]) -> int:
        """Number of different sentences that occur in any of the texts, whole, after `normalised`.

        Each position of a text is looked up once, so the time grows with the texts, not with the number of sentences.
        """
        found: set[tuple[int, str]] = set()
        for text in {normalised(text) for text in texts} if self.of_key else ():
            for at in range(len(text) - KEY + 1):
                for one in self.of_key.get(_key(text, at), ()):
                    if _digest(text[at : at + one[0]]) == one[1]:
                        found.add(one)
        return len(found)


def _key(text: str, at: int) -> int:
    return zlib.crc32(text[at : at + KEY].encode())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def prints_of(folder: str | Path) -> Prints:
    """The digests of the sentences that a tuned model has learnt from.

    Raises:
        InputError: its folder lacks them.
    """
    path = Path(folder).expanduser() / PRINTS
    try:
        return Prints.from_rows(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); tune the model again.") from error


def refuse_overlap(prints: Prints, items: Iterable[Item], who: str, key: str, allowed: bool) -> int:
    """Count the training sentences in the texts of evaluated items: prompts with their examples, premises and options.

    Some that are allowed get a warning.

    Args:
        prints: of the training sentences.
        items: in the language of the training sentences, or in English.
        who: has learnt from the sentences, for the error.
        key: the config key that allows them.
        allowed: whether it is set.

    Raises:
        InputError: there are some, and they are not allowed.
    """
    found = prints.in_texts(text for item in items for text in (item.prompt, item.premise, *item.options))
    if found and not allowed:
        raise InputError(
            f"{found} of the sentences that {who} has learnt from occur in the evaluated texts (Belebele's passages, "
            f"for example, are FLORES+ sentences); evaluate another task, learn from other pairs, or set {key}=true."
        )
    if found:
        log.warning("%d of the sentences that %s has learnt from occur in the evaluated texts.", found, who)
    return found
