"""Small figures for the sentences at the top of the report: few words, readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from align_pipeline.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (3.4, 2.4)
_GREY = "#777777"
_MOST_NAMED, _LONGEST = 13, 24


def _new(left: float = 0.6) -> tuple[Figure, Axes]:
    figure, axes = style.new_figure(*_SIZE, left=left, right=0.15)
    axes.set_position(
        (left / _SIZE[0], 0.5 / _SIZE[1], (_SIZE[0] - left - 0.15) / _SIZE[0], (_SIZE[1] - 0.65) / _SIZE[1])
    )
    return figure, axes


def meeting(part: pd.DataFrame) -> Figure:
    """Share of aligned items by layer: thin lines are languages, the thick one is their mean, the dashed one chance.

    Args:
        part: rows of `study.tally` of one model, task and metric, and chance (missing if it is not known).
    """
    figure, axes = _new()
    table = part.pivot_table(index=["language", "pivot"], columns="layer", values="share")
    layers = table.columns.to_numpy(int)
    if len(table) > 1:
        axes.plot(layers, table.to_numpy(float).T, color=_GREY, linewidth=0.6, alpha=0.5)
    axes.plot(layers, table.mean().to_numpy(float), color=style.BLUE, linewidth=2.6)
    chance = part.groupby("layer")["chance"].mean().reindex(layers)
    if chance.notna().any():
        axes.plot(layers, chance, color="#444444", linewidth=1.2, linestyle="--")
    style.layer_axis(axes, layers)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of items aligned")
    return figure


def scatter(part: pd.DataFrame, classes: pd.Series[int], against: str = "accuracy") -> Figure:
    """Accuracy against alignment, a point per language, coloured by resource class; dashed: guessing.

    Args:
        part: alignment, accuracy, stderr and chance per language; the last two may be missing.
        classes: resource class by FLORES code.
        against: what the column accuracy holds, in words.
    """
    figure, axes = _new()
    own = classes.reindex(part["language"]).to_numpy()
    x, y = part["alignment"].to_numpy(float), part["accuracy"].to_numpy(float)
    if part["stderr"].notna().any():
        axes.errorbar(x, y, part["stderr"].to_numpy(float), fmt="none", ecolor="#BBBBBB", elinewidth=0.8, zorder=1)
    if part["chance"].notna().any():
        axes.axhline(part["chance"].mean(), color="#444444", linestyle="--", linewidth=1.2, zorder=1)
    for value, colour in (*style.CLASSES.items(), (None, "#BBBBBB")):
        chosen = np.array([pd.isna(c) if value is None else not pd.isna(c) and c == value for c in own], bool)
        shape = "o" if value is None else style.MARKERS[value]
        axes.plot(
            x[chosen], y[chosen], shape, color=colour, markersize=5.5, markeredgecolor="#444444", markeredgewidth=0.4
        )
    axes.set_xlabel("share of items aligned (best layer)")
    axes.set_ylabel(against)
    return figure


def effects(
    names: Sequence[str],
    middle: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    title: str,
    none: float = 0.0,
) -> Figure:
    """Effects with their intervals, one below the other.

    Args:
        names: what each effect is of; not shown if there are many, and cut if they are long.
        middle, low, high: the effects and the ends of their intervals, which may be missing.
        title: of the axis.
        none: the value of no effect, which is drawn; if it is 1, the axis is logarithmic.
    """
    many = len(names) > _MOST_NAMED
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…" for name in names]
    figure, axes = _new(left=0.3 if many else 0.3 + 0.075 * max(map(len, names)))
    y = -np.arange(len(names))
    values = np.array([middle, low, high], float)
    axes.hlines(y, values[1], values[2], color=style.BLUE, linewidth=1.6)
    axes.plot(values[0], y, "o", color=style.BLUE, markersize=6)
    axes.axvline(none, color="#444444", linewidth=1)
    if none == 1:
        axes.set_xscale("log")
        shown = [
            tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if np.nanmin(values) / 1.5 < tick < np.nanmax(values) * 1.5
        ]
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.minorticks_off()
    axes.set_yticks([] if many else y, [] if many else names)
    axes.set_ylim(-len(names) + 0.4, 0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(title)
    return figure
