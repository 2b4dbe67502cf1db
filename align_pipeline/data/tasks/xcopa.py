"""XCOPA (Ponti et al. 2020): a premise and two candidate causes or effects; 11 languages, each with its own English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from align_pipeline.data.items import Item
from align_pipeline.data.source import Row
from align_pipeline.data.tasks.choice import ChoiceTask, index_of
from align_pipeline.data.tasks.parallel import texts_of
from align_pipeline.data.tasks.prompt import parts_of
from align_pipeline.errors import InputError

_QUESTIONS = ("cause", "effect")
_CLOSING = ".!?。！？…"


@dataclass(frozen=True)
class Xcopa(ChoiceTask):
    """Causal reasoning with two options; scored by the option's own text."""

    connectors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """[cause, effect] words between premise and option, by config; ``en`` is also used for ``translation-xx``."""
    scoring_connectors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The words of the scoring prompt, where they differ."""
    published_quirks: bool = False
    """Build alignment texts as in the published run: the premise's last character is always cut, the whole option is
    lower-cased, English always uses "because" and Chinese always 因为."""

    columns: ClassVar[tuple[str, ...]] = ("idx", "premise", "choice1", "choice2", "question", "label")
    texts: ClassVar[tuple[str, ...]] = ("premise", "choice1", "choice2", "question")

    def item(self, row: Row, config: str) -> Item:
        """See `ChoiceTask.item`."""
        premise, *choices = texts_of(row, ("premise", "choice1", "choice2"))
        if row["question"] not in _QUESTIONS:
            raise ValueError(f"question is {row['question']!r}, neither 'cause' nor 'effect'.")
        kind = _QUESTIONS.index(row["question"])
        code = "en" if config.startswith("translation-") else config
        connector, scoring_connector = self._connector(code, kind)
        # The scoring prompt always cuts the premise's last character, as lm-evaluation-harness does; see METHOD.
        cut = premise[:-1]
        if self.published_quirks:
            first_connector = self._connector(code, 0)[0] if code in ("en", "zh") else connector
            options = tuple(f"{cut} {first_connector} {choice.lower()}" for choice in choices)
        else:
            options = tuple(f"{premise.rstrip(_CLOSING).rstrip()} {connector} {choice}" for choice in choices)
        prompt, parts = parts_of([("passage", cut), ("", " "), ("question", scoring_connector)])
        return Item(
            id=str(row["idx"]),
            options=options,
            premise=premise,
            prompt=prompt,
            continuations=tuple(f" {choice[0].lower()}{choice[1:]}" for choice in choices),
            gold=index_of(row["label"], 0, 2, "label"),
            category=str(row.get("category") or row["question"]),
            parts=parts,
            answers=tuple(choices),
        )

    def _connector(self, code: str, kind: int) -> tuple[str, str]:
        """The words between premise and option: (in alignment texts, in scoring prompts)."""
        if code not in self.connectors:
            raise InputError(
                f"XCOPA's '{code}' has no connectors; add [cause, effect] words as task.connectors.{code} in "
                "conf/task/xcopa.yaml."
            )
        return self.connectors[code][kind], self.scoring_connectors.get(code, self.connectors[code])[kind]
