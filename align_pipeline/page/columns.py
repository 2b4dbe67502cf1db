"""Columns of sortable tables; templates have these functions as ``column``.

The value of a column is a field of the row, or computed from the row by a function or macro. A missing value is shown
as a dash, with the row's `note` as its tooltip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pandas as pd

from align_pipeline.config.lang import name_of
from align_pipeline.page.numbers import as_count, as_number, as_p, as_range, as_size, is_missing


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        head: the heading.
        value: sort key of a row.
        show: the cell's content; None to show the value itself, left-aligned and sorted as text.
        title: the cell's tooltip, if it has one.
        is_count: whether the numbers say how much there is, not what was found.
    """

    head: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] | None = None
    title: Callable[[Any], str] | None = None
    is_count: bool = False


def text(head: str, value: str | Callable[[Any], Any]) -> Column:
    """A column of text; the fields `language` and `pivot`, which hold codes, show names, as `language` does."""
    if isinstance(value, str):
        return language(head, value) if value in ("language", "pivot") else Column(head, attrgetter(value))
    return Column(head, value)


def language(head: str, name: str = "language") -> Column:
    """A column of languages: the name, with the code as its tooltip."""
    value = attrgetter(name)
    return Column(head, lambda row: name_of(value(row)), title=lambda row: str(value(row)))


def languages(has_pivots: bool) -> list[Column]:
    """A column of languages and, if a language has several pivots, one of these."""
    return [text("Language", "language"), *([text("Pivot", "pivot")] if has_pivots else [])]


def flat(columns: Sequence[Any]) -> list[Column]:
    """Columns, of which some are lists of columns, as one list."""
    return [one for given in columns for one in ([given] if isinstance(given, Column) else flat(given))]


def shown(rows: pd.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """The columns without those that have no value in any row."""
    listed = list(rows.itertuples())
    return [one for one in columns if any(not is_missing(value) and value != "" for value in map(one.value, listed))]


def is_empty(columns: Sequence[Column], kept: Sequence[Column]) -> bool:
    """Whether a table should have numbers that were found, but has none."""
    asked, left = ([one for one in some if one.show and not one.is_count] for some in (columns, kept))
    return bool(asked) and not left


def reasons(rows: pd.DataFrame) -> list[str]:
    """The rows' notes, each once and three at most: why a table or a column has no values."""
    notes = [str(note) for note in rows["note"] if not is_missing(note) and note] if "note" in rows else []
    return [f"{note}." for note in sorted(set(notes))[:3]]


def number(head: str, name: str, digits: int = 3, sign: bool = False) -> Column:
    """A column of numbers with a fixed number of digits."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_number(value(row), digits, sign))


def count(head: str, name: str) -> Column:
    """A column of integers."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_count(value(row)), is_count=True)


def size(head: str, name: str) -> Column:
    """A column of numbers of parameters."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_size(value(row)))


def p_value(head: str, name: str) -> Column:
    """A column of p values."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_p(value(row)))


def interval(low: str, high: str) -> Column:
    """A column of intervals, sorted by their lower ends."""
    return Column("95% interval", attrgetter(low), lambda row: as_range(getattr(row, low), getattr(row, high)).strip())


def with_interval(
    head: str, name: str, low: str = "", high: str = "", digits: int = 3, sign: bool = False
) -> list[Column]:
    """A column of numbers and that of their intervals, ``<name>_low`` and ``<name>_high`` unless others are named."""
    return [number(head, name, digits, sign), interval(low or f"{name}_low", high or f"{name}_high")]
