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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


BLUE, ORANGE, GREEN = OKABE_ITO[:3]


INK, GRID = "#222222", "#DDDDDD"


METRICS = {"dali": "DALI", "dali_strong": "DALI$_S$", "mexa_t": "MEXA$_T$", "mexa": "MEXA"}


POOLINGS = {"last": "last token", "weighted": "position-weighted", "mean": "mean over tokens"}


TASKS = {"belebele": "Belebele", "xcopa": "XCOPA", "xstorycloze": "XStoryCloze", "flores": "FLORES+"}


SCORES = {"chrf": "chrF++", "bleu": "BLEU", "spbleu": "spBLEU", "comet": "COMET", "cometkiwi": "COMETKiwi"}


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


def save(draw: Any, stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw a figure in the common style and write it atomically as ``<stem>.<format>``.

    Args:
        draw: function without arguments that returns the figure.
        stem: path without suffix.
        formats: ``png``, ``svg``.
    """
    paths = []
    with style():
        figure = draw()
        for form in formats:
            path = stem.with_name(f"{stem.name}.{form}")
            partial = path.with_name(f".{path.name}.partial")
            metadata = {"Date": None} if form == "svg" else {"Software": None}  # same tables give the same bytes
            try:
                with writing(path.parent):
                    figure.savefig(partial, format=form, dpi=130, metadata=metadata)
                    os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            paths.append(path)
    return paths


@contextmanager
def style() -> Iterator[None]:
    """Context with the style of all figures."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, left: float = 0.75, right: float = 0.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; sizes in inches. Fixed margins, because layout engines draw everything twice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes(draw_inside(width, height, left, right))


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
    row = part.iloc[0]
    return f"{TASKS.get(row['task'], row['task'])}, {metric_label(row['metric'], row['pooling'])}"


def metric_label(metric: Any, pooling: Any, where: str = "") -> str:
    """A metric and its pooling, for a title."""
    return f"{METRICS.get(metric, metric)} ({POOLINGS.get(pooling, pooling)}{where})"


def set_title(axes: Axes, title: str, below: str) -> None:
    """Set a title, with a line below it."""
    axes.set_title(title, pad=22)
    axes.annotate(below, (0, 1), (0, 6), "axes fraction", textcoords="offset points", fontsize=8.5, color="#555555")


def item_counts(n: pd.Series[Any]) -> str:
    """The number of items, in words."""
    low, high = int(n.min()), int(n.max())
    return f"n = {low:,} items" if low == high else f"n = {low:,} to {high:,} items"


def language_names(part: pd.DataFrame) -> pd.Series[Any]:
    """Names of languages in a figure: the code, with the pivot only if needed."""
    twice = part.drop_duplicates(["language", "pivot"])["language"].duplicated().any()
    language = part["language"].astype(str)
    return language + " (" + part["pivot"].astype(str) + ")" if twice else language


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
    for i, value in enumerate(values[order] - gap * np.arange(len(values))):
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append([(a * n + b * m) / (n + m), n + m])
        del i
    flat = np.concatenate([np.full(int(n), mean) for mean, n in pools])
    flat = np.clip(flat, low, high - gap * (len(values) - 1)) + gap * np.arange(len(values))
    placed = np.empty(len(values))
    placed[order] = flat
    return placed


def place_labels(axes: Axes, x: NDArray[Any], y: NDArray[Any], labels: Sequence[str]) -> None:
    """Write a label beside each point, at a nearby place that covers no point and no other label if there is one."""
    size = 8 if len(labels) <= 25 else 6
    points = axes.transData.transform(np.column_stack([x, y]))
    dots = axes.figure.get_dpi() / 72
    high = size * dots * 1.05
    taken = [(px - 4 * dots, py - 4 * dots, px + 4 * dots, py + 4 * dots) for px, py in points]
    back = axes.transData.inverted()
    for i in np.lexsort((x, y)):
        wide = len(labels[i]) * size * dots * 0.6
        px, py = points[i]
        box = (px, py, px, py)
        for ring in range(1, 9):
            found = False
            for angle in (0, 180, 45, 135, -45, -135, 90, -90):
                dx, dy = np.cos(np.radians(angle)), np.sin(np.radians(angle))
                left = px + dx * 5 * dots * ring + (0 if dx > 0.1 else -wide if dx < -0.1 else -wide / 2)
                low = py + dy * 5 * dots * ring - high / 2
                box = (left, low, left + wide, low + high)
                if not any(a < box[2] and c > box[0] and b < box[3] and d > box[1] for a, b, c, d in taken):
                    found = True
                    break
            if found:
                break
        taken.append(box)
        (left, low), (right, _) = back.transform([(box[0], (box[1] + box[3]) / 2), (box[2], box[3])])
        if ring > 1:
            near = min(max(x[i], left), right)
            axes.plot([x[i], near], [y[i], low], color="#AAAAAA", linewidth=0.4, zorder=1)
        axes.text(left, low, labels[i], fontsize=size, va="center")


def part_task(table: pd.DataFrame) -> str:
    """The task of the rows, which must have only one."""
    return str(table["task"].iloc[0])


def plain_log(axes: Axes, values: NDArray[Any]) -> None:
    """A log axis with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if len(values) else (0.9, 1.1)
    low, high = max(min(low, 0.95), 0.02), min(max(high, 1.05), 50)
    steps = [0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50]
    shown = [s for s in steps if low / 1.02 <= s <= high * 1.02]
    axes.set_ylim(low / 1.03, high * 1.03)
    step = -(-len(shown) // 7)
    axes.yaxis.set_major_locator(FixedLocator(shown[::step]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
