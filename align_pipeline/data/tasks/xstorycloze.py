"""XStoryCloze (Lin et al. 2022): four sentences of a story and two endings; 11 languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from align_pipeline.data.items import Item
from align_pipeline.data.source import Row
from align_pipeline.data.tasks.choice import ChoiceTask, index_of
from align_pipeline.data.tasks.parallel import texts_of
from align_pipeline.data.tasks.prompt import parts_of

_SENTENCES = ("input_sentence_1", "input_sentence_2", "input_sentence_3", "input_sentence_4")
_ENDINGS = ("sentence_quiz1", "sentence_quiz2")


@dataclass(frozen=True)
class XStoryCloze(ChoiceTask):
    """Story completion with two endings; scored by the ending's own text."""

    # The harness's task names no test split. It then assumes that examples come from the test split, and samples one
    # more than needed so that it can leave out the item itself.
    lm_eval_spare: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("story_id", *_SENTENCES, *_ENDINGS, "answer_right_ending")
    texts: ClassVar[tuple[str, ...]] = (*_SENTENCES, *_ENDINGS)

    def item(self, row: Row, config: str) -> Item:
        """See `ChoiceTask.item`; the prompt joins the sentences unchanged, as lm-evaluation-harness does."""
        story = " ".join(texts_of(row, _SENTENCES))
        endings = texts_of(row, _ENDINGS)
        prompt, parts = parts_of([("passage", " ".join(row[column] for column in _SENTENCES))])
        return Item(
            id=str(row["story_id"]),
            options=tuple(f"{story} {ending}" for ending in endings),
            premise=story,
            prompt=prompt,
            continuations=tuple(f" {row[column]}" for column in _ENDINGS),
            gold=index_of(row["answer_right_ending"], 1, 2, "answer_right_ending"),
            category=str(row.get("category") or ""),
            parts=parts,
            answers=tuple(endings),
        )
