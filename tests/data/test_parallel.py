"""Parallel sentences: every source, bad files by name and line, and overlap against a plain search."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.config.lang import Language, known_languages
from align_pipeline.config.pairs import PairsConfig
from align_pipeline.data.items import Item
from align_pipeline.data.parallel import KEY, Prints, normalised, read, refuse_overlap
from align_pipeline.data.source import Source
from align_pipeline.errors import InputError

DEU, SWH, TGL = (Language(**known_languages()[code]) for code in ("deu", "swh", "tgl"))
EMBEDDED = Source("embedded")


def card(folder: Path, dataset: str, config: str, split: str, rows: list[dict]) -> None:
    base = folder / dataset
    base.mkdir(parents=True, exist_ok=True)
    (base / f"{config}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entry = f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}.jsonl\n"
    (base / "README.md").write_text(f"---\nconfigs:\n{entry}---\n", encoding="utf-8")


def test_flores_pairs_are_the_rows_of_both_sides() -> None:
    found = read(PairsConfig(), DEU, EMBEDDED)
    sides = [
        EMBEDDED.load("openlanguagedata/flores_plus", code, "dev", None, None) for code in ("eng_Latn", "deu_Latn")
    ]
    assert found.english == tuple(row["text"] for row in sides[0])
    assert found.other == tuple(row["text"] for row in sides[1])
    assert (found.language, found.name) == ("deu_Latn", "FLORES+ dev")
    assert len(read(PairsConfig(limit=3), DEU, EMBEDDED)) == 3


def test_ntrex_has_a_column_per_language_and_opus100_a_dictionary(tmp_path: Path) -> None:
    card(tmp_path, "mteb/NTREX", "default", "test", [{"eng_Latn": "A dog.", "swa_Latn": "Mbwa.", "fil_Latn": "Aso."}])
    source = Source(str(tmp_path))
    assert read(PairsConfig("ntrex"), SWH, source).other == ("Mbwa.",)
    assert read(PairsConfig("ntrex"), TGL, source).other == ("Aso.",)
    with pytest.raises(InputError, match="NTREX-128 has no German"):
        read(PairsConfig("ntrex"), DEU, source)
    card(tmp_path, "Helsinki-NLP/opus-100", "de-en", "train", [{"translation": {"de": "Hund", "en": "dog"}}])
    found = read(PairsConfig("opus100"), DEU, Source(str(tmp_path)))
    assert (found.english, found.other) == (("dog",), ("Hund",))
    with pytest.raises(InputError, match="OPUS-100 has no Swahili"):
        read(PairsConfig("opus100"), SWH, source)


def write_jsonl(folder: Path) -> str:
    (folder / "deu_Latn.jsonl").write_text('{"english": "a\\u2028b", "other": "c"}\n{"english": "d", "other": "e"}\n')
    return "LANG.jsonl"


def write_tsv(folder: Path) -> str:
    (folder / "deu_Latn.tsv").write_text("id\tother\tenglish\n1\tc\ta\u2028b\n2\te\td\r\n", encoding="utf-8")
    return "LANG.tsv"


def write_moses(folder: Path) -> str:
    (folder / "x.deu_Latn").write_text("c\ne\n")
    (folder / "x.eng_Latn").write_text("a\u2028b\nd\n", encoding="utf-8")
    return "x.LANG"


@pytest.mark.parametrize("write", [write_jsonl, write_tsv, write_moses])
def test_files_of_ones_own(write: Callable[[Path], str], tmp_path: Path) -> None:
    found = read(PairsConfig(f"{tmp_path}/{write(tmp_path)}"), DEU, EMBEDDED)
    assert (found.english, found.other) == (("a\u2028b", "d"), ("c", "e"))  # only a line feed ends a line
    assert found.at([1]).other == ("e",)


@pytest.mark.parametrize(
    ("files", "pattern", "sentence"),
    [
        ({"x.deu_Latn": "a\n", "x.eng_Latn": "b\nc\n"}, "x.LANG", "has 1 lines and its English side 2"),
        ({"x.deu_Latn": "a\n \n", "x.eng_Latn": "b\nc\n"}, "x.LANG", "pair 2 has no text on the other side"),
        ({"deu_Latn.tsv": "english\tother\nb\n"}, "LANG.tsv", "line 2 has 1 columns; the first line names 2"),
        ({"deu_Latn.tsv": "source\ttarget\nb\tc\n"}, "LANG.tsv", "must name the columns english and other"),
        ({"deu_Latn.jsonl": '{"english": "b"}\n'}, "LANG.jsonl", "line 1 has no text in the column 'other'"),
        ({"deu_Latn.jsonl": "[1]\n"}, "LANG.jsonl", "line 1 is a list, not a JSON object"),
        ({"deu_Latn.jsonl": ""}, "LANG.jsonl", "has no sentence pairs"),
        ({}, "LANG.jsonl", "deu_Latn.jsonl does not exist"),
        ({}, "x.LANG", "x.eng_Latn does not exist"),
        ({}, "x.tsv", "is not a source of sentence pairs; use flores, ntrex, opus100, or files named with"),
    ],
)
def test_bad_files_are_named(files: dict[str, str], pattern: str, sentence: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        read(PairsConfig(f"{tmp_path}/{pattern}"), DEU, EMBEDDED)


def test_a_language_that_flores_lacks_or_that_lacks_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no Tagalog .* in data=embedded"):
        read(PairsConfig(), TGL, EMBEDDED)
    with pytest.raises(InputError, match="limit of 0"):
        PairsConfig(limit=0)


# ---- overlap


WORDS = [*"abcdefgh", "old", "red", "bird", "near", "some", "water", "went", "because", "rained"]


def sentences(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 12))) + "." for _ in range(count)]


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_overlap_is_that_of_a_plain_search(seed: int) -> None:
    rng = random.Random(seed)
    known = sentences(rng, 30)
    texts = [" ".join(rng.sample(known, 3) + sentences(rng, 2)).upper().replace(".", " – ") for _ in range(3)]
    whole = {normalised(one) for one in known if len(normalised(one)) >= KEY}
    expected = {one for one in whole if any(one in normalised(text) for text in texts)}
    prints = Prints.of(known)
    assert prints.in_texts(texts) == len(expected)
    assert Prints.from_rows(json.loads(json.dumps(prints.rows()))).in_texts(texts) == len(expected)


def test_normalised_forms_are_equal_and_short_sentences_are_left_alone() -> None:
    assert normalised("Ｈéllo,  WORLD!") == normalised("he\u0301llo world".encode().decode()) == "hélloworld"
    assert Prints.of(["Hello."]).in_texts(["Hello. And so on."]) == 0


def item(premise: str) -> Item:
    return Item("1", options=("o",), premise=premise, prompt="p", continuations=(" o",), gold=0)


def test_overlap_is_refused_unless_allowed() -> None:
    passage = "Some other words. The quick brown fox jumps over the dog! More words."
    prints = Prints.of(["the quick brown fox jumps over the dog", "a sentence that is in no text at all"])
    with pytest.raises(InputError, match=r"^1 of the sentences that m has learnt from .* set tune.x=true"):
        refuse_overlap(prints, [item(passage)], "m", "tune.x", allowed=False)
    assert refuse_overlap(prints, [item(passage)], "m", "tune.x", allowed=True) == 1
    assert refuse_overlap(prints, [item("nothing of it")], "m", "tune.x", allowed=False) == 0
