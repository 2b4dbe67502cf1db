"""What the table of answers says beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import compose
from hydra.utils import instantiate

from align_pipeline.config.paths import EMBEDDED
from align_pipeline.data.items import Item
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Pair
from align_pipeline.measurements.accuracy.measure import english_overlap, option_similarity


def pair_of(folder: Path, task: str, language: str) -> Pair:
    config = compose(f"task={task}", f"lang={language}", f"data={folder}", "task.num_fewshot=0")
    (pair,) = instantiate(config.task).pairs(list(config.languages.values()), Source(config.source))
    return pair


def items(folder: Path, task: str, language: str) -> tuple[Item, ...]:
    return tuple(pair_of(folder, task, language).language.items)


def jaccard(a: str, b: str) -> float:
    one, other = ({text[i : i + 3] for i in range(max(len(text) - 2, 1))} for text in (a, b))
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("task", ["belebele", "xcopa", "xstorycloze"])
def test_likeness_of_options_is_of_their_own_texts(task: str) -> None:
    for item in items(EMBEDDED / "data", task, "ind")[:40]:
        assert len(item.answers) == len(item.options)
        for answer, option in zip(item.answers, item.options, strict=True):
            assert option.endswith(answer)
        pairs = [(a, b) for i, a in enumerate(item.answers) for b in item.answers[:i]]
        assert option_similarity(item) == max(jaccard(a, b) for a, b in pairs)
        longer = replace(item, premise="x" * 99, options=tuple("x" * 99 + option for option in item.options))
        assert option_similarity(longer) == option_similarity(item)


def test_an_item_without_answers_has_options_behind_its_premise() -> None:
    item = Item("1", ("What? red", "What? reds"), "What?", "", (" red", " reds"), 0)
    assert option_similarity(item) == jaccard("red", "reds")


def test_on_real_xcopa_the_premise_is_left_out(shared_data: Path) -> None:
    found = [option_similarity(item) for item in items(shared_data, "xcopa", "ind")]
    assert sum(found) / len(found) < 0.25  # 0.57 with the premise


def test_overlap_with_english_counts_each_options_own_trigrams() -> None:
    own = Item("1", ("x a", "x b"), "x", "", (" a", " b"), 0, answers=("banana", "Ohio 1994"))
    english = Item("1", ("y a", "y b"), "y", "", (" a", " b"), 0, answers=("banana", "the year 1994"))
    assert english_overlap(own, own) == 1
    assert english_overlap(own, english) == (1 + jaccard("Ohio 1994", "the year 1994")) / 2


def test_on_real_data_a_latin_script_has_more_in_common_with_english(shared_data: Path) -> None:
    def mean(language: str) -> float:
        pair = pair_of(shared_data, "xcopa", language)
        found = [english_overlap(*both) for both in zip(pair.language.items, pair.english.items, strict=True)]
        return sum(found) / len(found)

    assert mean("tha") < 0.01 < mean("ita") < 0.3
