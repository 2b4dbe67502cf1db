"""One question in one language, with every text that a model is fed."""

from __future__ import annotations

from dataclasses import dataclass, field

ENGLISH = "eng_Latn"


SHOT_SEPARATOR = "\n\n"
"""Between few-shot examples, and between them and the prompt."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question in one language, with every text that the pipeline feeds to a model.

    Attributes:
        id: shared by the item's versions in all languages.
        options: what the alignment metrics embed, one text per answer option (METHOD: "DALI text").
        premise: what MEXA_T embeds: the item without its options.
        prompt: what the options' likelihoods are conditioned on, few-shot examples before it.
        continuations: one per option, scored after `prompt`; each starts with its separating space.
        gold: index of the right option, from 0.
        category: the item's semantic category where its data set has one, else "".
        parts: (name, start, end) of the passage, question and options that stand in the prompt, in characters counted
            from the prompt's end (so 0 is the end, -1 the last character): examples put before it move nothing.
        cluster: what the item shares with others that are not independent of it, such as its passage; "" if nothing.
        answers: each option's own text, without the premise.
        shots: (prompt, continuation) of the few-shot examples that `prompt` begins with.
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
    # neither is shown to a model beyond what `options` holds: digests of items leave them out
    answers: tuple[str, ...] = field(default=(), repr=False)
    cluster: str = field(default="", repr=False)
