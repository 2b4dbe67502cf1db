"""Columns of a table that sorts by a click on a heading; templates have these functions as ``column``.

A field is named, or a function or macro makes its value of the row. A missing value shows as a dash, with the row's
`note` as its tip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from align_pipeline.page.numbers import as_count, as_number, as_p, as_range


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        head: the heading.
        value: what a row is sorted by there.
        show: the row's cell; None where the value itself is shown, left-aligned and sorted as text.
    """

    head: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] | None = None


def text(head: str, value: str | Callable[[Any], Any]) -> Column:
    """Text."""
    return Column(head, attrgetter(value) if isinstance(value, str) else value)


def number(head: str, name: str, digits: int = 3, sign: bool = False) -> Column:
    """Numbers with so many digits."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_number(value(row), digits, sign))


def count(head: str, name: str) -> Column:
    """Whole numbers."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_count(value(row)))


def p_value(head: str, name: str) -> Column:
    """P values."""
    value = attrgetter(name)
    return Column(head, value, lambda row: as_p(value(row)))


def interval(low: str, high: str) -> Column:
    """Intervals, sorted by their lower ends."""
    return Column("95% interval", attrgetter(low), lambda row: as_range(getattr(row, low), getattr(row, high)).strip())
