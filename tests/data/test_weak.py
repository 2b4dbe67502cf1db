"""Weak data: counted and said; converted only by a key."""

from __future__ import annotations

import dataclasses
import unicodedata

import pytest
from conftest import SHARED

from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.tasks import ItemSet, Pair
from align_pipeline.data.tasks.weak import said, weak_points, weak_sides


def item(number: int, premise: str, *options: str) -> Item:
    texts = tuple(f"{premise} {option}" for option in options)
    return Item(str(number), texts, premise, premise, tuple(f" {option}" for option in options), 0)


ENGLISH_SIDE = ItemSet(ENGLISH, ENGLISH, tuple(item(i, f"premise {i}", "yes", "no") for i in range(6)))


def test_each_weakness_is_counted() -> None:
    side = ItemSet(
        "vie_Latn",
        ENGLISH,
        (
            item(0, unicodedata.normalize("NFD", "tiền đề"), "có", "không"),
            item(1, "hai", "có", "có"),
            item(2, "ba", "có", "không"),
            item(3, "ba", "có", "không"),
            item(4, "  BA ", "có", "sai"),
            item(5, "premise 5", "yes", "no"),
        ),
    )
    found = weak_points(side, ENGLISH_SIDE)
    assert found == {"not_nfc": 1, "same_options": 1, "identical": 2, "same_premise": 1, "equals_english": 1}
    line = said(side, found)
    assert line.startswith("vie_Latn (eng_Latn): 1 of 6 items have text that is not in Unicode form NFC")
    assert "so that they cannot be aligned" in line


def test_sound_data_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    own = tuple(dataclasses.replace(i, premise=f"x {i.id}", options=(f"a {i.id}", "b")) for i in ENGLISH_SIDE.items)
    side = ItemSet("xxx_Latn", ENGLISH, own)
    found = weak_sides([Pair(side, ENGLISH_SIDE, tuple(i.id for i in own), {})])
    assert found == {(ENGLISH, ENGLISH): {}, ("xxx_Latn", ENGLISH): {}}
    assert said(side, {}) == ""
    assert not caplog.records


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the real data sets beside the repository")
def test_real_data_are_mixed() -> None:
    """Hindi Belebele has 261 of 900 items outside NFC; `unicode` converts them, and then none is."""
    from align_pipeline.data.source import Source
    from align_pipeline.data.tasks import Belebele

    task = Belebele("belebele", "facebook/belebele", "test", "test", num_fewshot=0)
    source = Source(str(SHARED / "data"))
    for form, expected in ((None, 261), ("NFC", 0)):
        read = dataclasses.replace(task, unicode=form)._read(source, "hin_Deva", "test")
        assert weak_points(ItemSet("hin_Deva", ENGLISH, tuple(read))).get("not_nfc", 0) == expected
