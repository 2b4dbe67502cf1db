"""Headings, tables that sort, figures and numbers, as HTML."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from align_pipeline.figures import style


def task_name(task: str) -> str:
    """A task's name as it is written."""
    return style.TASKS.get(task, task)


_METRIC_HTML = {"dali": "DALI", "dali_strong": "DALI<sub>S</sub>", "mexa_t": "MEXA<sub>T</sub>", "mexa": "MEXA"}


def metric_name(metric: str, pooling: str) -> str:
    """A metric with its pooling, as HTML."""
    kind = html.escape(style.POOLINGS.get(pooling, pooling))
    return f"{_METRIC_HTML.get(metric, html.escape(metric))} ({kind})"


@dataclass
class Page:
    """The report while it grows: pieces of HTML, and where its plots go."""

    folder: Path
    parts: list[str] = field(default_factory=list)
    headings: list[tuple[str, str]] = field(default_factory=list)

    def add(self, *pieces: str) -> None:
        """Append pieces of HTML."""
        self.parts.extend(pieces)

    def heading(self, text: str) -> None:
        """Start a section, listed in the contents."""
        anchor = f"section-{len(self.headings) + 1}"
        self.headings.append((anchor, text))
        self.add(f'<h2 id="{anchor}">{html.escape(text)}</h2>')

    def contents(self) -> str:
        """Links to the sections."""
        links = "".join(f'<a href="#{anchor}">{html.escape(text)}</a>' for anchor, text in self.headings)
        return f"<nav>{links}</nav>" if len(self.headings) > 1 else ""

    def figure(self, name: str, draw: Callable[[], Any], caption: str, narrow: bool = False) -> str:
        """Draw a figure, keep it as PNG and SVG, and return it inline.

        Args:
            name: the files' name without ending.
            draw: see `style.save`.
            caption: says what is shown and what n is; also the text for those who cannot see it.
            narrow: do not use the page's full width.
        """
        stem = self.folder / style.slug(name)
        style.save(draw, stem)
        data = base64.b64encode(stem.with_name(f"{stem.name}.svg").read_bytes()).decode()
        plain = html.escape(re.sub(r"<[^>]+>", "", caption))
        kind = ' class="narrow"' if narrow else ""
        image = f'<img loading="lazy" alt="{plain}" src="data:image/svg+xml;base64,{data}">'
        return f"<figure{kind}>{image}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: the heading, HTML.
        value: what a row is sorted by there.
        show: the value as HTML.
        text: left-aligned, sorted as text, and HTML already.
        whole: the cell as HTML from the row, instead of `show`.
    """

    head: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    text: bool = False
    whole: Callable[[Any], str] | None = None


def html_table(rows: Sequence[Any], columns: Sequence[Column], caption: str) -> str:
    """A table that sorts by a click on a heading; missing values show as a dash with the row's note as its tip."""
    head = "".join(f'<th scope="col"{_class(c)}>{c.head}</th>' for c in columns)
    body = "".join(f"<tr>{''.join(_table_cell(row, c) for c in columns)}</tr>" for row in rows)
    return (
        f'<p class="caption">{caption}</p><div class="scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class(column: Column) -> str:
    return ' class="t"' if column.text else ""


def _table_cell(row: Any, column: Column) -> str:
    value = column.value(row)
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        note = html.escape(str(getattr(row, "note", "")), quote=True)
        return f'<td class="none" title="{note}">–</td>' if note else '<td class="none">–</td>'
    if column.text:
        return f'<td class="t">{value}</td>'
    shown = column.whole(row) if column.whole else column.show(value)
    return f'<td data-v="{float(value):.10g}">{shown}</td>'


def as_number(digits: int, sign: bool = False) -> Callable[[Any], str]:
    """How a number is written with so many digits; a dash for none."""
    return lambda value: f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def as_p(value: Any) -> str:
    """A p value in a table."""
    return "&lt;0.001" if value < 0.001 else f"{value:.3f}"


def p_text(value: Any) -> str:
    """A p value in a sentence."""
    return "p &lt; 0.001" if value < 0.001 else f"p = {value:.3f}"


def as_count(value: Any) -> str:
    """A whole number."""
    return f"{int(value):,}"


def as_range(low: Any, high: Any, digits: int = 2) -> str:
    """An interval behind a number, in brackets."""
    show = as_number(digits)
    return "" if pd.isna(low) or pd.isna(high) else f" [{show(low)}, {show(high)}]"


def value_of(name: str) -> Callable[[Any], Any]:
    """What a column shows: a row's field."""
    return lambda row: getattr(row, name)


def interval_column(low: str, high: str) -> Column:
    """A column of intervals."""
    return Column(
        "95% interval", value_of(low), whole=lambda row: as_range(getattr(row, low), getattr(row, high)).strip()
    )


def number_column(head: str, name: str, digits: int = 3, sign: bool = False) -> Column:
    """A column of numbers."""
    return Column(head, value_of(name), as_number(digits, sign))


def layer_range(layers: Sequence[int]) -> str:
    """Layers in words."""
    whole = len(layers) == layers[-1] - layers[0] + 1
    return f"{layers[0]} to {layers[-1]}" if whole and len(layers) > 2 else ", ".join(map(str, layers))


def folded(content: str, summary: str, is_open: bool) -> str:
    """What a reader may unfold."""
    return f"<details{' open' if is_open else ''}><summary>{summary}</summary>{content}</details>"
