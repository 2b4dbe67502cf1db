"""One question in one language, with all texts that a model reads."""

from __future__ import annotations

from dataclasses import dataclass, field

ENGLISH = "eng_Latn"


SHOT_SEPARATOR = "\n\n"
"""Stands between few-shot examples, and between them and the prompt."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question in one language, with all texts that the pipeline feeds to a model.

    Attributes:
        id: shared by the item's versions in all languages.
        options: one text per answer option, embedded by the alignment metrics (METHOD: "DALI text").
        premise: the item without its options, embedded by MEXA_T.
        prompt: the context of the options' likelihoods, few-shot examples included.
        continuations: one per option, scored after `prompt`; each starts with its separating space.
        gold: index of the right option, from 0.
        category: the item's semantic category if its data set has one, else "".
        parts: (name, start, end) of the passage, question and options in the prompt, in characters from the prompt's
            end (0 is the end, -1 the last character), so that examples put before the prompt do not shift them.
        cluster: what this item shares with items that depend on it, such as its passage; "" if nothing.
        answers: each option's own text, without the premise.
        shots: (prompt, continuation) of the few-shot examples at the beginning of `prompt`.
        description: text before the examples in `prompt`; a chat template has it as the system's message.
    """

    id: str
    options: tuple[str, ...]
    premise: str
    prompt: str
    continuations: tuple[str, ...]
    gold: int
    category: str = ""
    parts: tuple[tuple[str, int, int], ...] = ()
    shots: tuple[tuple[str, str], ...] = ()
    # A model sees these only through the other fields, so digests of items leave them out.
    answers: tuple[str, ...] = field(default=(), repr=False)
    cluster: str = field(default="", repr=False)
    description: str = field(default="", repr=False)  # `prompt` has it
