"""Prompts that know where their parts stand."""

from __future__ import annotations

from collections.abc import Sequence


def parts_of(pieces: Sequence[tuple[str, str]]) -> tuple[str, tuple[tuple[str, int, int], ...]]:
    """A prompt from its pieces.

    Args:
        pieces: (name, text); the name is "" for what is between the named parts.

    Returns:
        The prompt, and `Item.parts`.
    """
    prompt = "".join(text for _, text in pieces)
    parts, at = [], -len(prompt)
    for name, text in pieces:
        if name:
            parts.append((name, at, at + len(text)))
        at += len(text)
    return prompt, tuple(parts)
