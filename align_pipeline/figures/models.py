"""Figures of several models on one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from align_pipeline.figures.style import (
    OKABE_ITO,
    TASKS,
    draw_inside,
    item_counts,
    language_names,
    languages,
    metric_label,
    new_figure,
    part_name,
    part_task,
    room_for,
    set_title,
    short,
)

PANELS = 12
"""Number of languages that the small multiples show at most."""


def colours(models: Sequence[str]) -> dict[str, Any]:
    """A colour per model: distinct ones for few, shades in the given order for many."""
    from matplotlib import colormaps

    if len(models) < len(OKABE_ITO):
        return dict(zip(models, OKABE_ITO, strict=False))
    shade = colormaps["viridis"]
    return {model: shade(0.92 * i / (len(models) - 1)) for i, model in enumerate(models)}


def depth(part: pd.DataFrame) -> Figure:
    """Share of aligned items over depth, the mean over languages, a line per model.

    Args:
        part: model (in the order of the legend), language, pivot, layer, depth, inner, share and n of one task, metric
            and pooling, in the languages that all models have; and chance where it is known.
    """
    hues = colours(list(part["model"].drop_duplicates()))
    figure, axes = new_figure(9.0, max(4.4, _room(len(hues))), right=0.5 + 0.075 * max(map(len, hues)))
    means = part.groupby(["model", "depth", "inner"], sort=False)[["share", "chance"]].mean().reset_index()
    for width, (model, hue) in zip(_widths(hues, 1.8), hues.items(), strict=True):
        own = means[means["model"] == model].sort_values("depth")
        axes.plot(own["depth"], own["chance"], color=hue, linewidth=0.9, linestyle="--", alpha=0.7, zorder=1.5)
        _line(axes, own, hue, model, width)
    axes.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _depth_axes(axes, means["share"])
    axes.set_xlabel("layer as a share of the depth (0: embedding, 1: after the final norm)")
    axes.set_ylabel("share of items aligned, mean over languages")
    count = part.drop_duplicates(["language", "pivot"]).shape[0]
    chance = "; dashed: chance" if part["chance"].notna().any() else ""
    set_title(
        axes,
        part_name(part),
        f"{languages(count)}, {item_counts(part['n'])}; dot: highest layer before the norm{chance}",
    )
    return figure


def depth_by_language(part: pd.DataFrame) -> Figure:
    """Share of aligned items over depth, a panel per language: the input of `depth`, for `PANELS` languages at most."""
    from matplotlib.figure import Figure

    hues = colours(list(part["model"].drop_duplicates()))
    part = part.assign(label=language_names(part))
    names = sorted(part["label"].unique())
    across = min(4, len(names))
    down = -(-len(names) // across)
    right, height = 0.5 + 0.075 * max(map(len, hues)), max(1.75 * down + 0.9, _room(len(hues)))
    figure = Figure(figsize=(9.0, height))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    inside = {"left": 0.075, "right": 1 - right / 9.0, "bottom": 0.5 / height, "top": 1 - 0.75 / height}
    figure.subplots_adjust(**inside, wspace=0.1, hspace=0.28)
    for axes, name in zip(grid.ravel(), names, strict=False):
        for width, (model, hue) in zip(_widths(hues, 1.2), hues.items(), strict=True):
            own = part[(part["label"] == name) & (part["model"] == model)].sort_values("depth")
            _line(axes, own, hue, model, width)
        axes.set_title(name, fontsize=8.5, pad=3)
        _depth_axes(axes, part["share"])
    for axes in grid.ravel()[len(names) :]:
        axes.set_visible(False)
    for column in range(across):  # the lowest panel of each column has the numbers
        lowest = [axes for axes in grid[:, column] if axes.get_visible()][-1]
        lowest.tick_params(labelbottom=True)
    grid[0, -1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.text(0.075, 1 - 0.3 / height, part_name(part), fontsize=11, fontweight="bold")
    below = f"share of items aligned, over the layer's share of the depth; {item_counts(part['n'])}"
    figure.text(0.075, 1 - 0.48 / height, below, fontsize=8.5, color="#555555")
    return figure


def _line(axes: Axes, own: pd.DataFrame, hue: Any, model: str, width: float) -> None:
    """A model's line, with a dot at the highest layer that counts."""
    axes.plot(own["depth"], own["share"], color=hue, linewidth=width, label=model, zorder=2)
    inner = own[own["inner"].astype(bool) & own["share"].notna()]
    if len(inner) and inner["share"].max() > 0:
        best = inner.iloc[int(inner["share"].to_numpy(float).argmax())]
        axes.plot(best["depth"], best["share"], "o", color=hue, markersize=3 + width, zorder=3)


def _widths(models: Mapping[str, Any], thinnest: float) -> list[float]:
    """Line widths: of few models the first is the widest, so that equal lines are all visible."""
    count = len(models)
    return [thinnest + 0.8 * (count - 1 - i) * (count < len(OKABE_ITO)) for i in range(count)]


def _room(entries: int) -> float:
    """Inches that a figure needs for a legend of so many entries beside the axes."""
    return 0.19 * entries + 1.0


def _depth_axes(axes: Axes, shares: pd.Series[Any]) -> None:
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_ylim(0, max(0.02, 1.06 * float(shares.max())))


def scale(table: pd.DataFrame, by: str) -> Figure:
    """Accuracy and alignment over the models' size or the steps of a training, on a log axis.

    Args:
        table: rows of `inference.models.MODELS` of one task that have `by`.
        by: ``parameters``; or ``step``, where a line joins the checkpoints of a series.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    table = table.assign(group=table["model"] if by == "parameters" else table["series"].map(_last_part))
    metrics = [
        key for key in table[["metric", "pooling"]].drop_duplicates().itertuples(index=False, name=None) if key[0]
    ]
    has = bool(table["accuracy"].notna().any())
    count = len(metrics) + has
    across = min(count, 2)
    down = -(-count // across)
    hues = colours(list(table["group"].drop_duplicates()))
    kinds = [("o", "mean over languages"), *([("s", "English")] if has else [])]
    kinds += [("_", "chance")] if metrics and table["chance"].notna().any() else []
    words = [*hues, *(label for _, label in kinds)]
    width, right = 4.4 * across + 1.6, 0.55 + 0.075 * max(map(len, words))
    height = max(3.0 * down + 0.3, _room(len(words)))
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(down, across, squeeze=False)
    margins = {"left": 0.75 / width, "right": 1 - right / width, "bottom": 0.55 / height, "top": 1 - 0.62 / height}
    figure.subplots_adjust(**margins, wspace=0.28, hspace=0.55)
    panels = list(grid.ravel())
    for axes in panels:
        axes.set_xlabel({"parameters": "parameters", "step": "step of the training"}[by])
    if has:
        own, axes = table.drop_duplicates("model"), panels.pop(0)
        _points(axes, own, by, "accuracy", hues, "o")
        _points(axes, own, by, "english_accuracy", hues, "s")
        axes.set_ylabel("accuracy")
        task = TASKS.get(part_task(table), part_task(table))
        set_title(axes, f"{task}: accuracy", f"{languages(int(own['n_languages'].max()))}; bars: 95% interval")
    for metric, pooling in metrics:
        own, axes = table[(table["metric"] == metric) & (table["pooling"] == pooling)], panels.pop(0)
        _points(axes, own, by, "alignment", hues, "o")
        _points(axes, own, by, "chance", hues, "_")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_ylabel("share of items aligned")
        set_title(axes, metric_label(metric, pooling), "at the best layers, chosen on other items")
    for axes in panels:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color=hue, marker="o", linewidth=1.4 * (by == "step"), label=k) for k, hue in hues.items()
    ]
    for form, label in kinds:
        inside = "white" if form == "s" else None
        handles.append(Line2D([], [], color="#666666", marker=form, linewidth=0, label=label, markerfacecolor=inside))
    grid[0, -1].legend(handles=handles, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _points(axes: Axes, own: pd.DataFrame, by: str, value: str, hues: Mapping[str, Any], form: str) -> None:
    """One quantity over the axis, with its interval if it has one."""
    own = own[own[value].notna()].sort_values(by)
    has_ends = f"{value}_low" in own
    for group, hue in hues.items():
        rows = own[own["group"] == group]
        x, y = rows[by].to_numpy(float), rows[value].to_numpy(float)
        inside = "white" if form == "s" else None
        width = (1.4 if form == "o" else 0.8) * (by == "step")
        dashes = "--" if form == "_" else "-"
        axes.plot(x, y, dashes, marker=form, color=hue, markersize=5.5, linewidth=width, markerfacecolor=inside)
        if has_ends:
            spread = np.nan_to_num(np.abs(rows[[f"{value}_low", f"{value}_high"]].to_numpy(float).T - y))
            axes.errorbar(x, y, spread, fmt="none", ecolor=hue, elinewidth=1.1, alpha=0.7, zorder=2)
    axes.margins(0.08, 0.1)
    _log_axis(axes, own[by].to_numpy(float))


def _log_axis(axes: Axes, values: NDArray[Any]) -> None:
    """A log axis with short numbers; with a place for 0, the step before the training."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = values[values > 0]
    if not len(positive):
        return
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=positive.min())
    else:
        axes.set_xscale("log")
    low, high = positive.min(), positive.max()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = [1, 2, 5] if len(decades) <= 4 else [1]
    ticks = [s * 10.0**k for k in decades for s in steps if low / 1.05 <= s * 10.0**k <= high * 1.05]
    ticks = sorted(set(positive)) if len(ticks) < 2 else ticks
    axes.xaxis.set_major_locator(FixedLocator([*([0.0] if len(positive) < len(values) else []), *ticks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    axes.xaxis.set_minor_locator(NullLocator())


def _last_part(series: str) -> str:
    """A series by the name of its model: the last part of a hub id, or of the folder that holds the checkpoints."""
    parts = [part for part in str(series).split("/") if part and "*" not in part]
    return parts[-1] if parts else str(series)


def relation(table: pd.DataFrame) -> Figure:
    """Within each model: the correlation over languages, and the effect within items, with their intervals.

    Args:
        table: rows of `inference.models.MODELS` of one task.
    """
    from matplotlib.figure import Figure

    models = list(table["model"].drop_duplicates())
    metrics = list(table[["metric", "pooling", "alignment_task"]].drop_duplicates().itertuples(index=False, name=None))
    size = 6.5 if len(models) > 30 else 8.5
    height = max(2.4, (0.11 * len(metrics) + 0.12) * len(models) + 1.5)
    left, right = room_for(models, size), 2.1
    middle = (9.0 - left - right - 0.25) / 2
    figure = Figure(figsize=(9.0, height))
    first = figure.add_axes(draw_inside(9.0, height, left, right + middle + 0.25))
    second = figure.add_axes(draw_inside(9.0, height, left + middle + 0.25, right))
    for axes, name in ((first, "r"), (second, "same_item")):
        for j, (metric, pooling, source) in enumerate(metrics):
            own = table[(table["metric"] == metric) & (table["pooling"] == pooling)]
            own = own[(own["alignment_task"] == source) & own[name].notna()]
            shift = (j - (len(metrics) - 1) / 2) * 0.7 / len(metrics)
            at = np.array([models.index(model) + shift for model in own["model"]])
            value = own[name].to_numpy(float) * (100 if name == "same_item" else 1)
            ends = own[[f"{name}_low", f"{name}_high"]].to_numpy(float).T * (100 if name == "same_item" else 1)
            spread = np.nan_to_num(np.abs(ends - value))
            other = "" if source == part_task(table) else f", {source}"
            axes.errorbar(
                value,
                at,
                xerr=spread,
                fmt="o",
                color=OKABE_ITO[j % len(OKABE_ITO)],
                markersize=4.5,
                linewidth=1.3,
                label=metric_label(metric, pooling, other),
                zorder=3,
            )
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=1)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
    first.set_yticks(np.arange(len(models)), models, fontsize=size)
    second.set_yticks(np.arange(len(models)), [])
    first.set_xlim(-1.03, 1.03)
    first.set_xlabel("Pearson r over languages")
    second.set_xlabel("aligned minus not, same item, in points")
    handles = dict(zip(*reversed(first.get_legend_handles_labels()), strict=True))
    handles |= dict(zip(*reversed(second.get_legend_handles_labels()), strict=True))
    second.legend(handles.values(), handles.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    task = TASKS.get(part_task(table), part_task(table))
    set_title(first, f"{task}: alignment and accuracy within each model", "95% intervals")
    return figure
