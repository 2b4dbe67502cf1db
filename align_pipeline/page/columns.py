"""Columns of sortable tables; templates have these functions as ``column``.

The value of a column is a field of the row, or computed from the row by a function or macro. A missing value is shown
as a dash, with the row's `note` as its tooltip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from align_pipeline.page.numbers import as_count, as_number, as_p, as_range, as_size


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        head: the heading.
        value: sort key of a row.
        show: the cell's content; None to show the value itself, left-aligned and sorted as text.
    """

    head: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] | None = None


def text(head: str, value: str | Callable[[Any], Any]) -> Column:
    """A column of text."""
    return Column(head, attrgetter(value) if isinstance(value, str) else value)


def number(head: str, name: str, digits: int = 3, sign: bool = False) -> Column:
    """A column of numbers with a fixed number of digits."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_number(value(row), digits, sign))


def count(head: str, name: str) -> Column:
    """A column of integers."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_count(value(row)))


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
