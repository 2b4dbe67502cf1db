"""Build prompts and record the character offsets of their parts."""

from __future__ import annotations

from collections.abc import Sequence


def parts_of(pieces: Sequence[tuple[str, str]]) -> tuple[str, tuple[tuple[str, int, int], ...]]:
    """Join pieces to a prompt.

    Args:
        pieces: (name, text); the name is "" for text between the named parts.

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
