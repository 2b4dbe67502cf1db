"""The script of a token, from the letters of its text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fontTools import unicodedata

from align_pipeline.measurements.logit_lens.table import NO_LETTERS


def script(text: str) -> str:
    """ISO 15924 code of the text's first letter; `NO_LETTERS` if it has none: digits, marks, parts of a character."""
    found = (unicodedata.script(letter) for letter in text if letter.isalpha())
    return next((code for code in found if code not in ("Zyyy", "Zinh", "Zzzz")), NO_LETTERS)


def scripts(tokenizer: Any, tokens: Iterable[int]) -> dict[int, str]:
    """The script of each of the tokens."""
    every = sorted(set(tokens))
    texts = tokenizer.batch_decode([[token] for token in every], clean_up_tokenization_spaces=False)
    return {token: script(text) for token, text in zip(every, texts, strict=True)}


def number(code: str) -> int:
    """A code as a number, for a tensor: its four ASCII letters."""
    return int.from_bytes(code.encode("ascii"), "big")


def code(number: int) -> str:
    """The inverse of `number`."""
    return number.to_bytes(4, "big").decode("ascii")
