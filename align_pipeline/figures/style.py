"""The style of all figures (colours, fonts, titles, labels without overlap), and how they are saved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.errors import writing
from align_pipeline.figures import look
from align_pipeline.figures.look import OKABE_ITO as OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, ORANGE, GREEN = OKABE_ITO[:3]


INK, GRID = "#222222", "#DDDDDD"


SHARE, MEAN = "share of items aligned", "mean over items"
"""What figures show of a metric that says yes or no, and of one that gives numbers."""
METRICS = {
    "dali": "DALI",
    "dali_strong": "DALI$_S$",
    "mexa_t": "MEXA$_T$",
    "mexa": "MEXA",
    "retrieval_xx_en": "Retrieval xx-en",
    "retrieval_en_xx": "Retrieval en-xx",
}


POOLINGS = {"last": "last token", "weighted": "position-weighted", "mean": "mean over tokens"}


TASKS = {"belebele": "Belebele", "xcopa": "XCOPA", "xstorycloze": "XStoryCloze", "flores": "FLORES+"}


SCORES = {"chrf": "chrF++", "bleu": "BLEU", "spbleu": "spBLEU", "comet": "COMET", "cometkiwi": "COMETKiwi"}


CLASSES = {0: "#D55E00", 1: "#E69F00", 2: "#A39800", 3: "#009E73", 4: "#56B4E9", 5: "#0072B2"}
"""Colour of each resource class: warm with few resources, cool with many; distinct also for the colour-blind."""


MARKERS = "osD^vP"
"""Shape of each resource class."""


_STYLE: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "svg.hashsalt": "align_pipeline",
    "svg.fonttype": "none",  # text as text: drawn letter by letter it is nine tenths of a report
}


def slug(name: str) -> str:
    """A name made safe for file names."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
"""Metadata with which the same tables give the same bytes."""


def save(draw: Any, stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw a figure in the common style and write it atomically as ``<stem>.<format>``.

    Args:
        draw: function without arguments that returns the figure.
        stem: path without suffix.
        formats: ``png``, ``svg``, ``pdf``.
    """
    with style():
        return write(draw(), stem, formats)


def write(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a figure atomically as ``<stem>.<format>``; inside the `style` that it was drawn in."""
    paths = []
    for form in formats:
        path = stem.with_name(f"{stem.name}.{form}")
        partial = path.with_name(f".{path.name}.partial")
        metadata = _UNDATED[form]
        try:
            with writing(path.parent):
                figure.savefig(partial, format=form, dpi=130, metadata=metadata)
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        paths.append(path)
    return paths


@contextmanager
def style(paper: look.Look | None = None) -> Iterator[None]:
    """Context with the style of all figures: that of the page, or the look for a paper."""
    import matplotlib

    with look.using(paper), matplotlib.rc_context(_STYLE | (paper.rc if paper else {})):
        yield


def new_figure(
    width: float, height: float, left: float = 0.75, right: float = 0.2, rows: int = 0
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; sizes in inches. Fixed margins, because layout engines draw everything twice.

    In a paper the look gives the width, and the margins fit the labels; `rows` is the number of rows that need a label
    of their own, 0 if the figure has none.
    """
    from matplotlib.figure import Figure

    paper = look.current()
    if paper is not None:
        flat, high = (0.66, 0.9) if paper.width < 4.5 else (0.45, 0.6)
        tall = paper.width * min(max(height / width, flat), high)
        if rows:
            line = 1.5 * (paper.size - 1) / 72
            tall = 0.5 + max(0.9, line * rows if rows <= look.MOST else min(max(line * look.MOST, 0.055 * rows), 5.5))
        figure = Figure(figsize=(paper.width, tall), layout="constrained")
        return figure, figure.add_subplot()
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes(draw_inside(width, height, left, right))


def panels(
    count: int,
    across: int,
    page: tuple[float, float],
    tall: float,
    margins: tuple[float, float, float, float] | None = None,
    gaps: tuple[float, float] = (0.0, 0.0),
    shared: bool = False,
) -> tuple[Figure, NDArray[Any]]:
    """A figure with `count` axes in rows of `across`, and its grid of axes, in which the others are not visible.

    Args:
        count, across: how many.
        page: size on the page, in inches.
        tall: height in a paper, in inches.
        margins: on the page, in inches: left, right, bottom, top; None if the caller sets positions there.
        gaps: between them on the page, as shares of their width and height.
        shared: whether they have the same axes.
    """
    from matplotlib.figure import Figure

    paper = look.current()
    figure = Figure(figsize=page) if paper is None else Figure(figsize=(paper.width, tall), layout="constrained")
    grid = figure.subplots(-(-count // across), across, sharex=shared, sharey=shared, squeeze=False)
    for axes in grid.ravel()[count:]:
        axes.set_visible(False)
    if paper is None and margins:
        (width, height), (left, right, bottom, top) = page, margins
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height, *gaps)
    return figure, grid


def frame(
    figure: Figure, left: float, axis: float, title: str, below: str, handles: Sequence[Any], across: int
) -> None:
    """Title and a line below it, the name of the x axes, and a legend, of panels on the page.

    Args:
        figure: with room for them.
        left: of the title, in inches.
        axis: place of the axes' name from below, in inches.
        title, below: texts.
        handles: of the legend.
        across: its columns.
    """
    width, height = figure.get_size_inches()
    figure.legend(handles=handles, loc="lower center", ncols=across, fontsize=7.5, bbox_to_anchor=(0.5, 0.0))
    figure.text(0.5, axis / height, "layer (hidden state)", fontsize=8.5, ha="center")
    figure.text(left / width, (height - 0.2) / height, title, fontsize=11, fontweight="bold", va="center")
    figure.text(left / width, (height - 0.38) / height, below, fontsize=8.5, color="#555555", va="center")


def draw_inside(
    width: float, height: float, left: float, right: float, bottom: float = 0.55, top: float = 0.62
) -> tuple[float, float, float, float]:
    """Text at a place inside the axes."""
    return left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height


def room_for(labels: Sequence[str], size: float) -> float:
    """Inches needed on the left for labels of a font size, tick included."""
    return 0.2 + max(map(len, labels), default=0) * size * 0.62 / 72


def part_name(part: pd.DataFrame) -> str:
    """Task and metric of the rows, for a title."""
    return f"{task_name(part)}, {metric_label(part['metric'].iloc[0], part['pooling'].iloc[0])}"


def metric_label(metric: Any, pooling: Any, where: str = "") -> str:
    """A metric and its pooling, for a title."""
    return f"{METRICS.get(metric, metric)} ({POOLINGS.get(pooling, pooling)}{where})"


def set_title(axes: Axes, title: str, below: str) -> None:
    """Set a title, with a line below it; in a paper they are kept for the caption, as the figure's label."""
    if look.current() is not None and axes.figure is not None:
        before = f"{axes.figure.get_label()}; " if axes.figure.get_label() else ""
        axes.figure.set_label(f"{before}{title}: {below}")
        return
    axes.set_title(title, pad=22)
    axes.annotate(below, (0, 1), (0, 6), "axes fraction", textcoords="offset points", fontsize=8.5, color="#555555")


def item_counts(n: pd.Series[Any]) -> str:
    """The number of items, in words."""
    low, high = int(n.min()), int(n.max())
    return f"n = {low:,} items" if low == high else f"n = {low:,} to {high:,} items"


def language_codes(part: pd.DataFrame) -> dict[str, str]:
    """FLORES codes by the names of `language_names`."""
    return dict(zip(language_names(part).astype(str), part["language"].astype(str), strict=True))


def language_names(part: pd.DataFrame) -> pd.Series[Any]:
    """Names of languages in a figure (in a paper also codes), with the pivot only if needed."""
    twice = part.drop_duplicates(["language", "pivot"])["language"].duplicated().any()
    language = look.shown(part["language"].astype(str))
    return language + " (" + look.shown(part["pivot"].astype(str)) + ")" if twice else language


def languages(count: int) -> str:
    """A number of languages, in words."""
    return f"{count:,} language{'' if count == 1 else 's'}"


def layer_ticks(layers: NDArray[Any]) -> list[int]:
    """The layers that get a tick."""
    if len(layers) <= 12:
        return [int(k) for k in layers]
    step = next(s for s in (2, 4, 5, 8, 10, 16, 20, 50, 1000) if (layers[-1] - layers[0]) / s <= 12)
    return [int(k) for k in range(int(layers[0]), int(layers[-1]) + 1, step)]


def spread_apart(values: NDArray[Any], gap: float, low: float, high: float) -> NDArray[Any]:
    """Positions near `values` that are `gap` apart and, if they fit, within the limits."""
    order = np.argsort(values, kind="stable")
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    # least squares with minimum gaps: neighbours that are too close are pooled, each pool centred on its own mean
    pools: list[list[float]] = []
    for value in values[order] - gap * np.arange(len(values)):
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append([(a * n + b * m) / (n + m), n + m])
    flat = np.concatenate([np.full(int(n), mean) for mean, n in pools])
    flat = np.clip(flat, low, high - gap * (len(values) - 1)) + gap * np.arange(len(values))
    placed = np.empty(len(values))
    placed[order] = flat
    return placed


def short(value: float) -> str:
    """A large number, such as 268M or 1.7B."""
    unit, name = next(((10**k, name) for k, name in ((9, "B"), (6, "M"), (3, "K")) if value >= 10**k), (1, ""))
    return f"{value / unit:.3g}{name}"


def part_task(table: pd.DataFrame) -> str:
    """The task of the rows, which must have only one."""
    return str(table["task"].iloc[0])


def task_name(table: pd.DataFrame) -> str:
    """What the task of the rows is called, for a title."""
    return TASKS.get(part_task(table), part_task(table))


def correlation(found: pd.Series[Any]) -> str:
    """Pearson's correlation and its interval, in words; "" if it is not defined."""
    r = "" if pd.isna(found["pearson"]) else f", Pearson r = {found['pearson']:.2f}"
    if r and not pd.isna(found["pearson_low"]):
        r += f" [{found['pearson_low']:.2f}, {found['pearson_high']:.2f}]"
    return r


def layer_axis(axes: Axes, layers: NDArray[Any]) -> None:
    """Name the x axis, which has layers, and set its ticks."""
    axes.set_xticks(layer_ticks(layers))
    axes.set_xlabel("layer (hidden state)")


def intervals(
    axes: Axes,
    rows: pd.DataFrame,
    at: Any,
    colour: str,
    label: str,
    size: float,
    width: float = 1.1,
    above: bool = False,
) -> Any:
    """A dot with a bar per row; returns their handle for a legend.

    Args:
        axes: where.
        rows: three columns: the value and the ends of its interval.
        at: [n], places on the y axis.
        colour, label, size, width: of the dots and bars.
        above: whether they are above other lines.
    """
    value, low, high = rows.to_numpy(float).T
    spread, order = np.abs([low - value, high - value]), 3 if above else 2
    return axes.errorbar(
        value, at, xerr=spread, fmt="o", color=colour, markersize=size, linewidth=width, label=label, zorder=order
    )


def plain_log(axes: Axes, values: NDArray[Any]) -> None:
    """A log axis with plain numbers."""
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if len(values) else (0.9, 1.1)
    low, high = max(min(low, 0.95), 0.02), min(max(high, 1.05), 50)
    steps = [0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50]
    axes.set_ylim(low / 1.03, high * 1.03)
    shown: list[float] = []
    for tick in sorted((s for s in steps if low / 1.02 <= s <= high * 1.02), key=lambda s: abs(np.log(s))):
        if all(abs(np.log(tick / other)) >= np.log(high / low) / 7.5 for other in shown):
            shown.append(tick)  # from 1 outwards, so that no two are printed over each other
    axes.set_yticks(sorted(shown), [f"{tick:g}" for tick in sorted(shown)])
    axes.minorticks_off()
