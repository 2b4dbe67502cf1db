"""Figures of translation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from align_pipeline.figures.style import (
    BLUE,
    OKABE_ITO,
    SCORES,
    draw_inside,
    metric_label,
    new_figure,
    place_labels,
    room_for,
    set_title,
)


def translation_scatter(part: pd.DataFrame, numbers: pd.DataFrame) -> Figure:
    """Translation quality of each language against its alignment (max over layers), with one panel per direction.

    Args:
        part: rows of `statistics.points` for one score, metric and task.
        numbers: the matching rows of `statistics.level`.
    """
    from matplotlib.figure import Figure

    shown = sorted(part["direction"].unique())
    wide = 5.6
    figure = Figure(figsize=(wide * len(shown), 5.2))
    for i, direction in enumerate(shown):
        left, bottom, width, height = draw_inside(wide, 5.2, 0.75, 0.2)
        axes = figure.add_axes(((i + left) / len(shown), bottom, width / len(shown), height))
        rows = part[part["direction"] == direction]
        x, y = rows["alignment"].to_numpy(float), rows["quality"].to_numpy(float)
        axes.plot(x, y, "o", color=OKABE_ITO[i], markersize=6, markeredgecolor="#444444", markeredgewidth=0.4)
        axes.margins(0.16, 0.08)
        axes.set_xlabel("share of items aligned, max over layers")
        axes.set_ylabel(f"mean {SCORES[rows['score'].iloc[0]]} of the sentences")
        axes.autoscale_view()
        place_labels(axes, x, y, [str(language) for language in rows["language"]])
        found = numbers.loc[numbers["direction"] == direction].iloc[0]
        r = "" if pd.isna(found["pearson"]) else f", Pearson r = {found['pearson']:.2f}"
        if r and not pd.isna(found["pearson_low"]):
            r += f" [{found['pearson_low']:.2f}, {found['pearson_high']:.2f}]"
        set_title(
            axes, f"{direction}, {metric_label(found['metric'], found['pooling'])}", f"n = {len(rows)} languages{r}"
        )
    return figure


def directions(part: pd.DataFrame) -> Figure:
    """Translation into English against translation from English: rows of `statistics.asymmetry`."""
    figure, axes = new_figure(6.4, 5.8)
    x, y = part["en_xx"].to_numpy(float), part["xx_en"].to_numpy(float)
    ends = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    axes.plot(ends, ends, color="#888888", linewidth=0.8, linestyle="--")
    axes.plot(x, y, "o", color=BLUE, markersize=6, markeredgecolor="#444444", markeredgewidth=0.4)
    axes.margins(0.12, 0.08)
    axes.set_xlabel("English into the language (en-xx)")
    axes.set_ylabel("the language into English (xx-en)")
    axes.autoscale_view()
    place_labels(axes, x, y, [str(language) for language in part["language"]])
    sure = int((part["p_holm"] < 0.05).sum())
    below = f"n = {len(part)} languages; {sure} with a difference (Wilcoxon over sentences, Holm p < 0.05)"
    set_title(axes, f"Both directions, mean {SCORES[part['score'].iloc[0]]}", below)
    return figure


def rank_biserial(part: pd.DataFrame) -> Figure:
    """Rank-biserial correlations with their intervals: rows of `statistics.sentences` at the best layers."""
    part = part[part["rank_biserial"].notna()]
    order = part.groupby("language")["rank_biserial"].mean().sort_values().index
    names, size = [str(name) for name in order], 6.2 if len(order) > 30 else 8.5
    height = max(2.4, (0.14 if len(order) > 30 else 0.3) * len(order) + 1.4)
    figure, axes = new_figure(9.0, height, left=room_for(names, size))
    shown = sorted(part["direction"].unique())
    for i, direction in enumerate(shown):
        rows = part[part["direction"] == direction]
        at = order.get_indexer(rows["language"]) + 0.16 * (2 * i - len(shown) + 1)
        middle = rows["rank_biserial"].to_numpy(float)
        spread = np.abs(rows[["low", "high"]].to_numpy(float).T - middle)
        axes.errorbar(
            middle, at, xerr=spread, fmt="o", color=OKABE_ITO[i], markersize=4, linewidth=1.1, label=direction
        )
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(np.arange(len(order)), names, fontsize=size)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.set_xlabel(f"rank-biserial correlation of being aligned with {SCORES[part['score'].iloc[0]]} (95% interval)")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=8)
    row = part.iloc[0]
    set_title(
        axes,
        f"Sentences, {metric_label(row['metric'], row['pooling'])}",
        f"{len(order)} languages, each at its best layer",
    )
    return figure
