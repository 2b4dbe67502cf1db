"""The input of a report section: the tables of one model and task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from align_pipeline.figures import style
from align_pipeline.inference.study import Block, Study
from align_pipeline.page.numbers import metric_name
from align_pipeline.page.template import render

_AS_THEY_ARE = " !$'()*+,-./:;<=>?@[]^_`{|}~"
"""Characters that an image address within double quotes may have as they are."""


CARD = "short"
"""First word of the names of small figures, which stand beside the sentences at the top of the page."""


@dataclass(frozen=True)
class Part:
    """A report's tables for one model and task.

    Attributes:
        model, task: names of the model and the task.
        tables: all tables of the report, by name.
        study: alignment joined with answers.
        languages: name, script, family and resource class by FLORES code.
        models: number of models in the report.
        plots: the folder for figures.
        drawings: the function that draws each figure, by the figure's name; `draw` adds to it.
    """

    model: str
    task: str
    tables: Mapping[str, pd.DataFrame]
    study: Study
    languages: pd.DataFrame
    models: int
    plots: Path
    drawings: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def of(self, name: str) -> pd.DataFrame:
        """The rows of a table for this model and task; empty if the report does not have the table."""
        table = self.tables.get(name, pd.DataFrame())
        keys = {key: value for key, value in (("model", self.model), ("task", self.task)) if key in table}
        return table[(table[list(keys)] == pd.Series(keys)).all(axis=1)] if keys else table

    @property
    def first(self) -> Markup:
        """The name of the first metric, which the answers at the top of the page are about."""
        return metric_name(self.metrics[0][0], "")

    @property
    def blocks(self) -> dict[tuple[str, str], Block]:
        """The study's alignment, by metric and pooling."""
        return {key[2:]: block for key, block in self.study.blocks.items() if key[:2] == (self.model, self.task)}

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """(metric, pooling) pairs: DALI, DALI_S and MEXA_T first, then others."""
        return sorted(self.blocks, key=lambda m: (place_of(m[0]), m))

    def by_metric(self, table: pd.DataFrame) -> list[Any]:
        """A table's rows in the order of `metrics`."""
        place = {metric: i for i, metric in enumerate(self.metrics)}
        return sorted(table.itertuples(), key=lambda row: place[str(row.metric), str(row.pooling)])

    def draw(self, draw: Callable[[], Any], *words: str) -> str:
        """Draw a figure and save it as PNG and SVG.

        Args:
            draw: see `style.save`.
            words: parts of the file names, after the task and, if the report has several models, the model.
                Figures whose first word is `CARD` are for the top of the page, and left out of a paper.

        Returns:
            the SVG as an image address.
        """
        name = "_".join([words[0], *([self.model] if self.models > 1 else []), self.task, *words[1:]])
        stem = self.plots / style.slug(name)
        while stem.with_name(f"{stem.name}.svg").exists():  # of a name that differs in other letters
            stem = stem.with_name(f"{stem.name}-2")
        style.save(draw, stem)
        if words[0] != CARD:
            self.drawings[stem.name] = draw
        svg = stem.with_name(f"{stem.name}.svg").read_text(encoding="utf-8")
        return Markup("data:image/svg+xml,") + Markup(quote(_compact(svg), safe=_AS_THEY_ARE))


def _compact(svg: str) -> str:
    """The same drawing without what no browser draws: metadata, comments, line breaks, hundredths of a point;
    and without its white ground, so that it can stand on a dark one."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = (
        re.sub(r"\s*\n\s*", " ", svg)
        .replace("> <", "><")
        .replace('style="fill: #ffffff"', 'style="fill: none"')
        .strip()
    )
    svg = re.sub(r"\d{2,}\.\d{2,}(?=[ \"])", lambda number: f"{float(number[0]):.1f}", svg)
    svg = re.sub(r">[^<]*<", lambda text: text[0].replace('"', "&quot;"), svg)
    # In an address, " takes three characters and ' one.
    return svg.replace("'DejaVu Sans'", "DejaVu Sans").replace("'", "&#39;").replace('"', "'")


@dataclass(frozen=True)
class Lead:
    """A question at the top of the page, with its answer in a sentence and one picture.

    Attributes:
        question: the question.
        place: its place among those of all sections: 1 for depth, 2 for languages, 3 for items.
        answer: the sentence, the effect first in bold; or why there is none.
        figure: the picture, rendered with the macro ``figure``; "" for none.
    """

    question: str
    place: int
    answer: Markup
    figure: Markup | str = ""


def lead(question: str, place: int, template: str, **shown: Any) -> Lead:
    """An answer and its picture from a template, which renders each by `what` (``answer`` or ``figure``).

    Args:
        question: the question.
        place: see `Lead`.
        template: as in `template.render`.
        shown: values for the template; `image` is "" where there is no picture.
    """
    answer = Markup(" ".join(render(template, what="answer", **shown).split()))
    return Lead(question, place, answer, render(template, what="figure", **shown) if shown["image"] else "")


@dataclass(frozen=True)
class Section:
    """A measurement's section of the report; sections of other packages are found by entry points.

    Attributes:
        table: the measurement's table; the report reads every ``<table>.parquet``.
        schema: the required columns, which must not have empty cells, and the optional ones.
        show: renders a part to HTML, as `template.render` does; "" if there is nothing to show.
        optional: columns that may be missing or have empty cells.
        empty: columns that must be there, but may have empty cells.
        csv: description of the rows, if the report also writes them to ``<table>.csv``.
        others: further tables of the measurement and their columns, by name; they may be missing.
        leads: what the section says of a part at the top of the page.
    """

    table: str
    schema: pa.Schema
    show: Callable[[Part], str]
    optional: frozenset[str] = frozenset()
    empty: frozenset[str] = frozenset()
    csv: str = ""
    others: Mapping[str, pa.Schema] = field(default_factory=dict)
    leads: Callable[[Part], Sequence[Lead]] = lambda part: []

    def tables(self) -> dict[str, Section]:
        """Each table that the report reads for the section, as a section with that table only."""
        return {self.table: self} | {name: Section(name, schema, self.show) for name, schema in self.others.items()}


def of_metric(table: pd.DataFrame, metric: str, pooling: str) -> pd.DataFrame:
    """The rows of one metric."""
    return table[(table["metric"] == metric) & (table["pooling"] == pooling)]


def fullest(rows: pd.DataFrame, keys: Sequence[str], each: Sequence[str] = ()) -> tuple[pd.DataFrame, int]:
    """Of several jobs that measured the same with different numbers of items, the rows of the one with the most.

    Args:
        rows: with language, pivot, layer and n (items).
        keys: columns that tell apart what was measured; all layers of it are from jobs with the same n.
        each: further columns that tell rows apart.

    Returns:
        the rows, each once, in their order; and the number of languages (with their pivots) that other jobs have with
        fewer items.
    """
    most = rows.groupby(list(keys), observed=True)["n"].transform("max")
    fewer = rows.loc[rows["n"] < most, ["language", "pivot"]].drop_duplicates()
    return rows[rows["n"] == most].drop_duplicates([*keys, *each, "layer"], keep="last"), len(fewer)


def in_order(table: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Rows grouped by alignment task, metric and pooling, in the order of `style.METRICS`."""
    groups = [
        ((str(k[0]), str(k[1]), str(k[2])), rows) for k, rows in table.groupby(["alignment_task", "metric", "pooling"])
    ]
    return sorted(groups, key=lambda g: (place_of(g[0][1]), g[0]))


def place_of(metric: str) -> int:
    """The place of a metric in `style.METRICS`; those that are not there come last."""
    order = list(style.METRICS)
    return order.index(metric) if metric in order else len(order)
