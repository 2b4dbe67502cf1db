"""Translate by greedy decoding after a few-shot prompt.

The common prefix of all prompts, their few-shot examples, goes through the model once, and every batch starts from its
KV cache. Rows of similar length run together; a row leaves its batch when its line has ended.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align_pipeline.data.tasks.flores import Translation
from align_pipeline.engine.forward import Advance
from align_pipeline.engine.generation import greedy
from align_pipeline.engine.model import LanguageModel, Tokens


@dataclass(frozen=True)
class Hypotheses:
    """The model's translations.

    Attributes:
        texts: the translations without surrounding white space; "" if there is none.
        cut_off: whether the translation reached the maximum number of tokens before it ended.
    """

    texts: tuple[str, ...]
    cut_off: tuple[bool, ...]

    def tensors(self) -> dict[str, Tensor]:
        """The fields as named tensors, for the cache: UTF-8 bytes and the end of each text in them."""
        encoded = [text.encode() for text in self.texts]
        return {
            "utf8": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8).clone(),
            "ends": torch.tensor(list(itertools.accumulate(map(len, encoded))), dtype=torch.int64),
            "cut_off": torch.tensor(self.cut_off, dtype=torch.bool),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Hypotheses:
        """The inverse of `tensors`."""
        joined, ends = bytes(tensors["utf8"].tolist()), tensors["ends"].tolist()
        texts = tuple(joined[a:b].decode() for a, b in zip([0, *ends], ends, strict=False))
        return cls(texts, tuple(tensors["cut_off"].tolist()))


def translate(
    lm: LanguageModel,
    translation: Translation,
    max_new_tokens: int,
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> Hypotheses:
    """Translate by greedy decoding, up to a line break or the end of the text.

    Args:
        lm: the model.
        translation: prompts.
        max_new_tokens: maximum length of a translation, in tokens.
        batch_tokens: see `greedy`.
        advance: called with the number of sentences that each batch finished.

    Raises:
        InputError: a prompt is too long for the model, or logits are not finite.
    """
    encoded = lm.encode(translation.prompts)
    prompts = [lm.limit(t, f"The prompt of sentence {i}") for i, t in zip(translation.ids, encoded, strict=True)]
    return lines(lm, greedy(lm, prompts, max_new_tokens, batch_tokens, advance, expected_tokens(lm, translation)))


def expected_tokens(lm: LanguageModel, translation: Translation) -> list[int] | None:
    """Tokens of the references and of the line's end, for a model that only plans; None for one that runs."""
    if lm.plan is None:
        return None
    return [
        len(tokens) + 1 for tokens in lm.tokenizer(list(translation.references), add_special_tokens=False)["input_ids"]
    ]


def lines(lm: LanguageModel, outputs: Sequence[Tokens]) -> Hypotheses:
    """Decode the generated tokens to text, up to the line break."""
    texts = lm.tokenizer.batch_decode(outputs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Hypotheses(
        tuple(text.split("\n")[0].strip() for text in texts),
        tuple(output[-1] not in lm.line_ends for output in outputs),
    )
