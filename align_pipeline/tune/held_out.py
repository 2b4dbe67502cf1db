"""Alignment while training: MEXA on held-out sentence pairs and DALI on a task's items, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.parallel import Pairs
from align_pipeline.data.tasks import ItemSet, Pair
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements.alignment.metrics import Dali, Mexa
from align_pipeline.measurements.alignment.similarity import EnglishStates, english_states, similarities

METRICS: Mapping[str, Mexa | Dali] = {"mexa": Mexa(), "dali": Dali()}


@dataclass(frozen=True)
class HeldOut:
    """What alignment is measured on.

    Attributes:
        pairs: (metric, language's items and their English).
    """

    pairs: Sequence[tuple[str, Pair]]

    @classmethod
    def of(cls, sentences: Mapping[str, Pairs], task: Sequence[Pair], items: int) -> HeldOut:
        """Held-out sentences by FLORES code, and the first items of a task's pairs."""
        found = [("mexa", _sentences(code, pairs)) for code, pairs in sentences.items()]
        return cls([*found, *(("dali", replace(pair, ids=pair.ids[:items])) for pair in task)])

    def measure(self, lm: LanguageModel, batch_tokens: int | None) -> list[dict[str, object]]:
        """One row per metric, language and layer, with the share of aligned items and their number."""
        rows: list[dict[str, object]] = []
        english: dict[int, EnglishStates] = {}
        lm.model.eval()
        for name, pair in self.pairs:
            kept = english.get(id(pair.english))
            if kept is None:
                kept = english_states(lm, pair.english, batch_tokens, lambda texts: None)
                english = {id(pair.english): kept}
            margin = METRICS[name].margin(similarities(lm, pair, kept, batch_tokens, lambda texts: None))
            shares = (margin > 0).double().mean(dim=1).tolist()
            rows += [
                {"metric": name, "language": pair.language.language, "layer": layer, "value": value, "n": len(pair.ids)}
                for layer, value in enumerate(shares)
            ]
        return rows


def _sentences(code: str, pairs: Pairs) -> Pair:
    def side(language: str, texts: Sequence[str]) -> ItemSet:
        items = (Item(str(k), (), text, "", (), -1) for k, text in enumerate(texts))
        return ItemSet(language, ENGLISH, tuple(items))

    return Pair(side(code, pairs.other), side(ENGLISH, pairs.english), tuple(map(str, range(len(pairs)))), {})
