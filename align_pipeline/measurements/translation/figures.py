"""Figures of translation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import NDArray

from align_pipeline.figures import labels, look, rows, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def translation_scatter(part: pd.DataFrame, numbers: pd.DataFrame) -> Figure:
    """Translation quality of each language against its alignment (max over layers), with one panel per direction.

    Args:
        part: rows of `statistics.points` for one score, metric and task.
        numbers: the matching rows of `statistics.level`.
    """
    shown = sorted(part["direction"].unique())
    paper, width = look.current(), 5.6 * len(shown)
    # in a paper below each other in a column, beside each other over the text's width
    across = 1 if paper is not None and paper.width < 4.5 else len(shown)
    tall = 0 if paper is None else 0.75 * paper.width * (len(shown) // across) / across
    figure, panels = style.panels(len(shown), across, (width, 5.2), tall)
    drawn = []
    for i, (direction, axes) in enumerate(zip(shown, panels.ravel(), strict=True)):
        if paper is None:
            left, bottom, wide, high = style.draw_inside(5.6, 5.2, 0.75, 0.2)
            axes.set_position(((i + left) / len(shown), bottom, wide / len(shown), high))
        own = part[part["direction"] == direction]
        x, y = own["alignment"].to_numpy(float), own["quality"].to_numpy(float)
        _points(axes, own, x, y, style.OKABE_ITO[i])
        axes.margins(0.16, 0.08)
        axes.set_xlabel("share of items aligned, max over layers")
        score = f"mean {style.SCORES[own['score'].iloc[0]]} of the sentences"
        axes.set_ylabel(score if paper is None else f"{direction}: {score}")
        found = numbers.loc[numbers["direction"] == direction].iloc[0]
        below = f"n = {style.languages(len(own))}{style.correlation(found)}"
        style.set_title(axes, f"{direction}, {style.metric_label(found['metric'], found['pooling'])}", below)
        drawn.append((axes, own, x, y))
    for axes, own, x, y in drawn:  # with all panels' final sizes
        axes.autoscale_view()
        _label(axes, own, x, y)
    return figure


def _points(axes: Axes, rows: pd.DataFrame, x: NDArray[Any], y: NDArray[Any], colour: str) -> None:
    """A point per language; in a paper those without a label are grey, and smaller."""
    if look.current() is None:
        axes.plot(x, y, "o", color=colour, markersize=6, markeredgecolor="#444444", markeredgewidth=0.4)
    else:
        labels.dots(axes, x, y, {code: code for code in rows["language"].astype(str)}, colour)


def _label(axes: Axes, rows: pd.DataFrame, x: NDArray[Any], y: NDArray[Any]) -> None:
    """The points' labels."""
    named = look.labelled({code: code for code in rows["language"].astype(str)})
    keep = [code in named for code in rows["language"].astype(str)]
    labels.place_labels(axes, x, y, [str(name) for name in look.shown(rows["language"].astype(str))], keep)


def directions(part: pd.DataFrame) -> Figure:
    """Translation into English against translation from English: rows of `statistics.asymmetry`."""
    figure, axes = style.new_figure(6.4, 5.8)
    x, y = part["en_xx"].to_numpy(float), part["xx_en"].to_numpy(float)
    ends = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    axes.plot(ends, ends, color="#888888", linewidth=0.8, linestyle="--")
    _points(axes, part, x, y, style.BLUE)
    axes.margins(0.12, 0.08)
    axes.set_xlabel("English into the language (en-xx)")
    axes.set_ylabel("the language into English (xx-en)")
    axes.autoscale_view()
    labels.group_legend(axes, list(part["language"].astype(str)))
    _label(axes, part, x, y)
    sure = int((part["p_holm"] < 0.05).sum())
    below = f"n = {style.languages(len(part))}; {sure} with a difference (Wilcoxon over sentences, Holm p < 0.05)"
    style.set_title(axes, f"Both directions, mean {style.SCORES[part['score'].iloc[0]]}", below)
    return figure


def rank_biserial(part: pd.DataFrame) -> Figure:
    """Rank-biserial correlations with their intervals: rows of `statistics.sentences` at the best layers."""
    part = part[part["rank_biserial"].notna()]
    order = part.groupby("language")["rank_biserial"].mean().sort_values().index
    names = list(look.shown(pd.Series(order).astype(str)).astype(str))
    figure, axes = rows.new(names, (0.3, 0.14))
    shown = sorted(part["direction"].unique())
    for i, direction in enumerate(shown):
        own = part[part["direction"] == direction]
        at = order.get_indexer(own["language"]) + 0.16 * (2 * i - len(shown) + 1)
        own, size = own[["rank_biserial", "low", "high"]], look.marker(4, len(order))
        style.intervals(axes, own, at, style.OKABE_ITO[i], direction, size)
    axes.axvline(0, color="#888888", linewidth=0.8)
    score = style.SCORES[part["score"].iloc[0]]
    axes.set_xlabel(f"rank-biserial correlation of being aligned with {score} (95% interval)")
    rows.label(axes, names, dict(zip(names, order.astype(str), strict=True)))
    title = f"Sentences, {style.metric_label(part['metric'].iloc[0], part['pooling'].iloc[0])}"
    style.set_title(axes, title, f"{style.languages(len(order))}, each at its best layer")
    return figure
