"""The one exception a user's mistake raises: its message is the whole explanation."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used; the message is one sentence that names it and what would work."""


def unknown(kind: str, given: str, known: Iterable[str], shown: int = 12) -> InputError:
    """An `InputError` for a name that does not exist: names what exists, nearest first.

    Args:
        kind: what the name should have been, such as ``"language"``.
        given: the name as the user typed it.
        known: all names that exist.
        shown: how many of them to print at most.
    """
    names = sorted(set(known))
    nearest = difflib.get_close_matches(given, names, n=shown, cutoff=0.5)
    ordered = nearest + [name for name in names if name not in nearest]
    rest = f", and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return InputError(f"There is no {kind} '{given}'; there is {', '.join(ordered[:shown]) or 'none'}{rest}.")
