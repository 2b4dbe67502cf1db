"""Key `pivot`: the languages that the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align_pipeline.config.lang import Language, known_languages
from align_pipeline.errors import InputError, unknown

ENGLISH_ONLY = ["eng"]


def pivot_list(given: Any, languages: Mapping[str, Language]) -> list[str]:
    """The codes of the pivots, English first: it is always one of them.

    Args:
        given: ``all`` (every selected language), a code as ``lang=`` takes it, or a list of codes.
        languages: the selected languages, by code.

    Raises:
        InputError: a code does not exist; says which ones are close.
    """
    names = [str(name) for name in (given if isinstance(given, list) else [given])]
    if not names:
        raise InputError("pivot=[] names no pivot; use pivot=eng, other languages' codes, or pivot=all.")
    for name in names:
        if name != "all" and name not in known_languages() and name not in languages:
            raise unknown("pivot", name, [*known_languages(), "all"])
    every = list(languages) if "all" in names else []
    return list(dict.fromkeys([*ENGLISH_ONLY, *every, *(name for name in names if name != "all")]))


def with_pivots(languages: Mapping[str, Language], pivots: list[str]) -> dict[str, Language]:
    """The selected languages and after them the pivots that are not selected; a pivot is measured as they are."""
    known = known_languages()
    return dict(languages) | {
        code: Language(**known[code]) for code in pivots if code not in languages and code not in ENGLISH_ONLY
    }
