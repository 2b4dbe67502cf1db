"""Alignment while training: MEXA on held-out sentence pairs and DALI on a task's items, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.parallel import Pairs
from align_pipeline.data.tasks import ItemSet, Pair
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements.alignment.metrics import Metric, Mexa, Number, of_items
from align_pipeline.measurements.alignment.similarity import EnglishStates, english_states, similarities


@dataclass(frozen=True)
class HeldOut:
    """What alignment is measured on.

    Attributes:
        parts: a language's items with their English, and the metrics by name.
    """

    parts: Sequence[tuple[Pair, Mapping[str, Metric | Number]]]

    @classmethod
    def of(
        cls, sentences: Mapping[str, Pairs], task: Sequence[Pair], items: int, metrics: Mapping[str, Metric | Number]
    ) -> HeldOut:
        """MEXA on held-out sentences by FLORES code, and the metrics on the first items of a task's pairs."""
        mexa: Metric | Number = Mexa()
        found = [(_sentences(code, pairs), {"mexa": mexa}) for code, pairs in sentences.items()]
        return cls([*found, *((replace(pair, ids=pair.ids[:items]), metrics) for pair in task if metrics)])

    def measure(self, lm: LanguageModel, batch_tokens: int | None) -> list[dict[str, Any]]:
        """One row per metric, language and layer: share of aligned items or mean number, and the number of items."""
        rows: list[dict[str, Any]] = []
        last: tuple[ItemSet, EnglishStates] | None = None  # languages often share their English, one after the other
        lm.model.eval()
        for pair, metrics in self.parts:
            if last is None or last[0] != pair.english:
                last = pair.english, english_states(lm, pair.english, batch_tokens, lambda texts: None)
            every = similarities(lm, pair, last[1], batch_tokens, lambda texts: None)
            known = {"language": pair.language.language, "n": len(pair.ids)}
            for name, metric in metrics.items():
                shares = of_items(metric, every).mean(dim=1).tolist()
                rows += [
                    {"metric": name, "layer": layer, "value": share, **known} for layer, share in enumerate(shares)
                ]
        return rows


def _sentences(code: str, pairs: Pairs) -> Pair:
    def side(language: str, texts: Sequence[str]) -> ItemSet:
        items = (Item(str(k), (), text, "", (), -1) for k, text in enumerate(texts))
        return ItemSet(language, ENGLISH, tuple(items))

    return Pair(side(code, pairs.other), side(ENGLISH, pairs.english), tuple(map(str, range(len(pairs)))), {})
