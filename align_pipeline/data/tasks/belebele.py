"""Belebele (Bandarkar et al. 2023): a FLORES passage, a question and four options; 122 language variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from align_pipeline.data.items import Item
from align_pipeline.data.source import Row
from align_pipeline.data.tasks.choice import ChoiceTask, index_of
from align_pipeline.data.tasks.parallel import texts_of
from align_pipeline.data.tasks.prompt import parts_of

_OPTIONS = ("mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4")
_LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Belebele(ChoiceTask):
    """Reading comprehension with four options; scored by the option's letter."""

    texts: ClassVar[tuple[str, ...]] = ("flores_passage", "question", *_OPTIONS)
    columns: ClassVar[tuple[str, ...]] = ("link", "question_number", *texts, "correct_answer_num")
    lm_eval_draws: ClassVar[bool] = False

    def item(self, row: Row, config: str) -> Item:
        """See `ChoiceTask.item`; the prompt is byte-identical to lm-evaluation-harness's."""
        passage, question, *options = texts_of(row, self.texts)
        premise = f"{passage} {question}"
        pieces = [("", "P: "), ("passage", row["flores_passage"]), ("", "\nQ: "), ("question", question), ("", "\n")]
        for number, (letter, column) in enumerate(zip(_LETTERS, _OPTIONS, strict=True), 1):
            pieces += [("", f"{letter}: "), (f"option_{number}", row[column]), ("", "\n")]
        prompt, parts = parts_of([*pieces, ("", "Answer:")])
        return Item(
            # Row order can differ between languages; the passage's link and the question's number are shared.
            id=f"{row['link']}/{row['question_number']}",
            options=tuple(f"{premise} {option}" for option in options),
            premise=premise,
            prompt=prompt,
            continuations=tuple(f" {letter}" for letter in _LETTERS),
            gold=index_of(row["correct_answer_num"], 1, 4, "correct_answer_num"),
            category=str(row.get("category") or ""),
            parts=parts,
            answers=tuple(options),
            cluster=str(row["link"]),  # questions on one passage are not independent
        )
