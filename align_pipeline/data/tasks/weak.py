"""Count properties of the data that weaken the numbers; they are reported, and the data stay unchanged."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from align_pipeline.data.items import Item
from align_pipeline.data.tasks.pairs import ItemSet, Pair

log = logging.getLogger(__name__)

SAYS = {
    "not_nfc": "have text that is not in Unicode form NFC, which models know less well (task.unicode=NFC converts it)",
    "same_options": "have two options with the same text, so that they cannot be aligned",
    "identical": "are identical to another item",
    "same_premise": "have the premise of another item, so that MEXA_T cannot tell them apart",
    "equals_english": "have the same text as in English",
}
"""Each weakness and the phrase that describes it for a number of items."""


def weak_points(side: ItemSet, english: ItemSet | None = None) -> dict[str, int]:
    """The number of items of a side with each weakness of `SAYS`; weaknesses without items are left out.

    Args:
        side: the items.
        english: the English side they are paired with; None if `side` is English itself.
    """
    items = side.items
    whole = Counter((item.premise, item.options) for item in items)
    premises = Counter(_plain(item.premise) for item in items)
    other: Mapping[str, Item] = english.by_id() if english is not None else {}
    found = {
        "not_nfc": sum(not all(map(_is_nfc, (item.premise, *item.options))) for item in items),
        "same_options": sum(len(set(item.options)) < len(item.options) for item in items),
        "identical": sum(whole[item.premise, item.options] > 1 for item in items),
        # Belebele has two questions per passage: its premise holds both passage and question, so these two differ.
        "same_premise": sum(premises[_plain(item.premise)] > 1 for item in items),
        "equals_english": sum(
            (item.premise, item.options) == (other[item.id].premise, other[item.id].options)
            for item in items
            if item.id in other
        ),
    }
    found["same_premise"] = max(0, found["same_premise"] - found["identical"])
    return {name: count for name, count in found.items() if count}


def weak_sides(pairs: Sequence[Pair]) -> dict[tuple[str, str], dict[str, int]]:
    """`weak_points` of all sides, by language and pivot; each side that has some gets one log line."""
    found = {}
    for pair in pairs:
        for side, english in ((pair.english, None), (pair.language, pair.english)):
            key = (side.language, side.pivot)
            if key not in found:
                found[key] = weak_points(side, english)
                if found[key]:
                    log.warning("%s", said(side, found[key]))
    return found


def said(side: ItemSet, weak: Mapping[str, int]) -> str:
    """The weaknesses on one line; "" if there are none."""
    total = len(side.items)
    parts = [f"{count:,} of {total:,} items {SAYS[name]}" for name, count in weak.items()]
    return f"{side.language} ({side.pivot}): {'; '.join(parts)}." if parts else ""


def _is_nfc(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)


def _plain(text: str) -> str:
    """A text normalised for comparison: without differences of encoding, case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
