"""The items of two languages, paired by id."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemSet:
    """One side of a benchmark: all items in one language.

    Attributes:
        language: FLORES code, ``eng_Latn`` for an English side.
        pivot: name of the English set that the side is paired with.
        items: in the data set's order; ids are unique.
        left_out: why a row of the data set is no item, by id.
    """

    language: str
    pivot: str
    items: tuple[Item, ...]
    left_out: Mapping[str, str] = field(default_factory=dict, hash=False)

    def by_id(self) -> dict[str, Item]:
        """The items by id."""
        return {item.id: item for item in self.items}


@dataclass(frozen=True)
class Pair:
    """A language's items and the English items they are compared with.

    Attributes:
        language: the language's side.
        english: the English side, or that of another pivot; languages with the same side share one object.
        ids: ids that both sides have, in English order.
        left_out: how many ids were left out of the pairing, by reason.
    """

    language: ItemSet
    english: ItemSet
    ids: tuple[str, ...]
    left_out: Mapping[str, int]

    def items(self) -> list[tuple[Item, Item]]:
        """The paired items, (the language's, the English one)."""
        own, other = self.language.by_id(), self.english.by_id()
        return [(own[item_id], other[item_id]) for item_id in self.ids]


def sides_of(pairs: Iterable[Pair]) -> dict[tuple[str, str], ItemSet]:
    """All sides of the pairs, each once, by language and pivot."""
    return {(side.language, side.pivot): side for pair in pairs for side in (pair.english, pair.language)}


def pair(language: ItemSet, english: ItemSet, limit: int | None, level: int = logging.WARNING) -> Pair:
    """Pair two sides by id; ids that only one side has, or whose gold labels or numbers of options differ, are left out
    and counted.

    Args:
        language: all items of the language.
        english: the English items, already limited; or those of another pivot.
        level: of the log's lines about items that are left out.
        limit: if set, items of the language without an English counterpart are dropped and not counted.

    Raises:
        InputError: the sides share no id, or no item is alike in both.
    """
    own, other = language.by_id(), english.by_id()
    if limit is not None:
        language = replace(language, items=tuple(x for x in language.items if x.id in other))
    shared = [item_id for item_id in other if item_id in own]
    if not shared:
        side = f"its English side {english.pivot}" if english.language == ENGLISH else f"the pivot {english.language}"
        raise InputError(
            f"{language.language} and {side} have no ids in common, such as "
            f"'{next(iter(own))}' in {language.language} and '{next(iter(other))}' in {_called(english)}."
        )
    as_many = [i for i in shared if len(own[i].options) == len(other[i].options)]
    alike = [i for i in as_many if own[i].gold == other[i].gold]
    name = _called(english)
    ruled_out = _ruled_out(language, english, limit)
    counts = {
        **ruled_out,
        f"missing in {language.language}": sum(i not in own and i not in language.left_out for i in other),
        f"missing in {name}": sum(i not in other and i not in english.left_out for i in language.by_id()),
        f"another number of options than in {name}": len(shared) - len(as_many),
        f"another right answer than in {name}": len(as_many) - len(alike),
    }
    left_out = {reason: number for reason, number in counts.items() if number}
    for reason, number in left_out.items():
        log.log(level, "%s: %d items are not paired and left out: %s.", language.language, number, reason)
    if not alike:
        raise InputError(
            f"No item of {language.language} has the same number of options and the same right answer as in {name}; "
            f"for example, {shared[0]} has {len(own[shared[0]].options)} options and the right one is number "
            f"{own[shared[0]].gold + 1}, in {name} {len(other[shared[0]].options)} and {other[shared[0]].gold + 1}."
        )
    asked_otherwise = sum(own[i].category != other[i].category for i in alike)
    if asked_otherwise:
        # XCOPA's Quechua, paired with Swahili's English, asks 37 effects as causes; the study keeps them.
        said = "%s: %d items ask a different question than in %s; they are kept."
        log.log(level, said, language.language, asked_otherwise, name)
    return Pair(language, english, tuple(alike), left_out)


def _called(side: ItemSet) -> str:
    return "English" if side.language == ENGLISH else side.language


def _ruled_out(language: ItemSet, english: ItemSet, limit: int | None) -> dict[str, int]:
    """How many ids a rule of the task leaves out, by reason; an id that is left out on both sides counts once.

    Under a limit only the language's rows of the limited English items count.
    """
    here = english.by_id() if limit is not None else None
    in_english = english.left_out if here is None else {}
    reasons = [f"{reason} in {_called(english)}" for reason in in_english.values()]
    reasons += [
        f"{reason} in {language.language}"
        for i, reason in language.left_out.items()
        if i not in in_english and (here is None or i in here)
    ]
    return dict(Counter(reasons))
