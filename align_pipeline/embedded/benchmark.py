"""The world's test items, written with the hub layout and columns of the four real data sets."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from align_pipeline.embedded.events import Choice, Events, Sentence, Story, choices, event_pairs, sentence, stories
from align_pipeline.embedded.grammar import CODES, Language, language
from align_pipeline.embedded.world import FACTS, Passage, Portion, distinctly, passage_pairs, with_gold

Row = dict[str, Any]
XCOPA = {"id": "ind", "it": "ita", "sw": "swh", "tr": "tur"}
XSTORY = {"en": "eng", "id": "ind", "es": "spa", "sw": "swh"}
SEED = 2025
SIZES = {"passages": 120, "choices": 240, "examples": 100, "stories": 240, "devtest": 300, "dev": 100}


def write(folder: Path) -> None:
    """All data sets below `folder`, which is laid out as ``<folder>/<hub id>/``."""
    names = {code: language(code).flores for code in CODES}
    passages = test_passages()
    _write(
        folder / "facebook/belebele",
        {(names[code], "test", f"data/{names[code]}.jsonl"): belebele(language(code), passages) for code in CODES},
    )
    copa = {"test": drawn_choices("test", SIZES["choices"]), "validation": drawn_choices("dev", SIZES["examples"])}
    sides = {c: XCOPA[c] for c in XCOPA} | {f"translation-{c}": "eng" for c in XCOPA}
    _write(
        folder / "cambridgeltl/xcopa",
        {
            (config, split, f"{config}/{split}.jsonl"): xcopa(language(code), items)
            for config, code in sides.items()
            for split, items in copa.items()
        },
    )
    cloze = {"train": drawn_stories("dev", SIZES["examples"]), "eval": drawn_stories("test", SIZES["stories"])}
    _write(
        folder / "juletxara/xstory_cloze",
        {
            (config, split, f"{config}/{split}.jsonl"): xstory_cloze(language(code), split, items)
            for config, code in XSTORY.items()
            for split, items in cloze.items()
        },
    )
    flores = {"dev": sentences("dev"), "devtest": sentences("devtest")}
    _write(
        folder / "openlanguagedata/flores_plus",
        {
            (names[code], split, f"{split}/{names[code]}.jsonl"): flores_plus(language(code), items)
            for code in CODES
            for split, items in flores.items()
        },
    )


# ---- which items


def test_passages() -> list[Passage]:
    """Two questions per passage; every kind of fact, place in the passage and letter equally often right."""
    rng = random.Random(f"{SEED} passages")
    seen: set[object] = set()
    found: list[list[Passage]] = []
    kinds = tuple(FACTS)
    while len(found) < SIZES["passages"]:
        quartet = passage_pairs(rng, kinds[len(found) // 2 % len(kinds)], "test")
        keys = {frozenset((f.entity, f.value) for f in p.facts) for p in quartet}
        if keys & seen or len(keys) < 2:
            continue
        seen |= keys
        found += [quartet[:2], quartet[2:]]
    rng.shuffle(found)
    letters = [index % 4 for index in range(2 * len(found))]
    rng.shuffle(letters)
    golds = iter(letters)
    return [with_gold(rng, passage, next(golds)) for pair in found for passage in pair]


def drawn_choices(where: Portion, count: int) -> list[Choice]:
    """A third asks for the cause, every premise is different (effects come without a time, so there are fewer)."""
    rng = random.Random(f"{SEED} choices {where}")
    sides: tuple[Literal["cause", "effect"], ...] = ("cause", "effect", "effect")

    def draw(pair: Events, turn: int) -> list[Choice]:
        return choices(rng, pair, sides[turn % 3], where)

    return _twins(rng, draw, lambda item: (item.asked, item.event, item.name, item.time), count)


def drawn_stories(where: Portion, count: int) -> list[Story]:
    """Every story different."""
    rng = random.Random(f"{SEED} stories {where}")
    return _twins(
        rng, lambda pair, turn: stories(rng, pair, where), lambda item: (item.event, item.name, item.time), count
    )


def _twins(
    rng: random.Random, draw: Callable[[Events, int], list[Any]], key: Callable[[Any], object], count: int
) -> list[Any]:
    """Items in twos that share their options, over all pairs of events in turn, with different keys; shuffled."""
    found: list[Any] = []
    seen: set[object] = set()
    pairs: list[Events] = []
    while len(found) < count:
        if not pairs:
            pairs = event_pairs()
            rng.shuffle(pairs)
        pair = pairs.pop()
        twins = draw(pair, len(found) // 2)
        keys = {key(item) for item in twins}
        if len(keys) == 2 and not keys & seen:
            seen |= keys
            found += twins
    rng.shuffle(found)
    return found


def sentences(split: Literal["dev", "devtest"]) -> list[Sentence]:
    """Different sentences for translation and MEXA."""
    rng = random.Random(f"{SEED} sentences {split}")
    where: Portion = "test" if split == "devtest" else "dev"
    return list(distinctly(lambda: sentence(rng, where), lambda s: s.parts, SIZES[split]))


# ---- rows


def belebele(lang: Language, items: Iterable[Passage]) -> list[Row]:
    """Rows of Belebele."""
    return [
        {
            "link": f"passage-{index // 2:03d}",
            "question_number": index % 2 + 1,
            "flores_passage": item.text(lang),
            "question": item.question(lang),
            **{f"mc_answer{k}": answer for k, answer in enumerate(item.answers(lang), start=1)},
            "correct_answer_num": str(item.gold + 1),
            "dialect": lang.flores,
            "ds": "2026-11-21",
            "category": item.category,
        }
        for index, item in enumerate(items)
    ]


def xcopa(lang: Language, items: Iterable[Choice]) -> list[Row]:
    """Rows of XCOPA."""
    return [
        {
            "premise": item.text(lang),
            **{f"choice{k}": answer for k, answer in enumerate(item.answers(lang), start=1)},
            "question": item.asked,
            "label": item.gold,
            "idx": index,
            "changed": False,
            "category": item.category,
        }
        for index, item in enumerate(items)
    ]


def xstory_cloze(lang: Language, split: str, items: Iterable[Story]) -> list[Row]:
    """Rows of XStoryCloze."""
    return [
        {
            "story_id": f"story-{split}-{index:03d}",
            **{f"input_sentence_{k}": text for k, text in enumerate(item.sentences(lang), start=1)},
            **{f"sentence_quiz{k}": text for k, text in enumerate(item.answers(lang), start=1)},
            "answer_right_ending": item.gold + 1,
            "category": item.category,
        }
        for index, item in enumerate(items)
    ]


def flores_plus(lang: Language, items: Iterable[Sentence]) -> list[Row]:
    """Rows of FLORES+."""
    header = lang.lexicon["language"]
    return [
        {
            "id": index,
            "iso_639_3": header["iso_639_3"],
            "iso_15924": header["iso_15924"],
            "text": item.text(lang),
            "category": item.category,
        }
        for index, item in enumerate(items)
    ]


# ---- files


def _write(folder: Path, files: Mapping[tuple[str, str, str], list[Row]]) -> None:
    """One data set: JSON lines, and a card that declares them as the hub's do."""
    configs: dict[str, list[str]] = {}
    for (config, split, path), rows in files.items():
        configs.setdefault(config, []).append(f"  - split: {split}\n    path: {path}\n")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    header = "".join(f"- config_name: {name}\n  data_files:\n{''.join(paths)}" for name, paths in configs.items())
    note = "Made-up sentences in the columns of the data set of this name; see align_pipeline/embedded.\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{header}---\n{note}", encoding="utf-8")
