"""Figures of translation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.figures import labels, look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def translation_scatter(part: pd.DataFrame, numbers: pd.DataFrame) -> Figure:
    """Translation quality of each language against its alignment (max over layers), with one panel per direction.

    Args:
        part: rows of `statistics.points` for one score, metric and task.
        numbers: the matching rows of `statistics.level`.
    """
    from matplotlib.figure import Figure

    shown = sorted(part["direction"].unique())
    wide = 5.6
    paper = look.current()
    figure = Figure(figsize=(wide * len(shown), 5.2))
    panels: list[Any] = []
    if paper is not None:  # below each other in a column, beside each other over the text's width
        down = len(shown) if paper.width < 4.5 else 1
        tall = 0.75 * paper.width * down * down / len(shown)
        figure = Figure(figsize=(paper.width, tall), layout="constrained")
        panels = list(figure.subplots(down, len(shown) // down, squeeze=False).ravel())
    drawn = []
    for i, direction in enumerate(shown):
        left, bottom, width, height = style.draw_inside(wide, 5.2, 0.75, 0.2)
        spot = ((i + left) / len(shown), bottom, width / len(shown), height)
        axes = panels[i] if panels else figure.add_axes(spot)
        rows = part[part["direction"] == direction]
        x, y = rows["alignment"].to_numpy(float), rows["quality"].to_numpy(float)
        _points(axes, rows, x, y, style.OKABE_ITO[i])
        axes.margins(0.16, 0.08)
        axes.set_xlabel("share of items aligned, max over layers")
        score = f"mean {style.SCORES[rows['score'].iloc[0]]} of the sentences"
        axes.set_ylabel(f"{direction}: {score}" if panels else score)
        found = numbers.loc[numbers["direction"] == direction].iloc[0]
        r = "" if pd.isna(found["pearson"]) else f", Pearson r = {found['pearson']:.2f}"
        if r and not pd.isna(found["pearson_low"]):
            r += f" [{found['pearson_low']:.2f}, {found['pearson_high']:.2f}]"
        title = f"{direction}, {style.metric_label(found['metric'], found['pooling'])}"
        style.set_title(axes, title, f"n = {style.languages(len(rows))}{r}")
        drawn.append((axes, rows, x, y))
    for axes, rows, x, y in drawn:  # with all panels' final sizes
        axes.autoscale_view()
        _label(axes, rows, x, y)
    return figure


def _points(axes: Axes, rows: pd.DataFrame, x: NDArray[Any], y: NDArray[Any], colour: str) -> None:
    """A point per language; in a paper those without a label are grey, and smaller."""
    codes = {code: code for code in rows["language"].astype(str)}
    if look.current() is None:
        axes.plot(x, y, "o", color=colour, markersize=6, markeredgecolor="#444444", markeredgewidth=0.4)
        return
    named, hues = look.labelled(codes), look.colours(codes)
    grouped = look.group_colours(list(codes))
    for i, code in enumerate(codes):
        hue = hues[code] if grouped else colour if code in named else look.REST
        axes.plot(x[i], y[i], "o", color=hue, markersize=4, markeredgecolor="#444444", markeredgewidth=0.3)


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
    shown_as = dict(zip(order, look.shown(pd.Series(order).astype(str)), strict=True))
    names, size = [str(shown_as[code]) for code in order], 6.2 if len(order) > 30 else 8.5
    height = max(2.4, (0.14 if len(order) > 30 else 0.3) * len(order) + 1.4)
    figure, axes = style.new_figure(9.0, height, left=style.room_for(names, size), rows=len(order))
    shown = sorted(part["direction"].unique())
    for i, direction in enumerate(shown):
        rows = part[part["direction"] == direction]
        at = order.get_indexer(rows["language"]) + 0.16 * (2 * i - len(shown) + 1)
        middle = rows["rank_biserial"].to_numpy(float)
        spread = np.abs(rows[["low", "high"]].to_numpy(float).T - middle)
        axes.errorbar(
            middle,
            at,
            xerr=spread,
            fmt="o",
            color=style.OKABE_ITO[i],
            markersize=look.marker(4, len(order)),
            linewidth=1.1,
            label=direction,
        )
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_ylim(-0.8, len(order) - 0.2)
    score = style.SCORES[part["score"].iloc[0]]
    axes.set_xlabel(f"rank-biserial correlation of being aligned with {score} (95% interval)")
    axes.grid(visible=False, axis="y")
    labels.legend(axes, 8, loc="lower right")
    codes = {str(name): str(code) for code, name in shown_as.items()}
    labels.row_labels(axes, names, size, codes, len(order) - 1)
    title = f"Sentences, {style.metric_label(*part[['metric', 'pooling']].iloc[0])}"
    style.set_title(axes, title, f"{style.languages(len(order))}, each at its best layer")
    return figure
