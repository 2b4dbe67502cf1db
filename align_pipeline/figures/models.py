"""Figures of several models on one task."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from align_pipeline.figures import labels, look, style

PANELS = 12
"""Number of languages that the small multiples show at most."""
_LONGEST = 30
"""Letters of a line of a model's name in a figure."""
_TALLEST = 7.0
"""Inches of a paper's column that rows of models take at most."""
_BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
"""Where a legend stands on the page."""


def colours(models: Sequence[str]) -> dict[str, Any]:
    """A colour per model; few have one that is not grey."""
    return look.palette(models, len(style.OKABE_ITO) - 1)


def depth(part: pd.DataFrame) -> Figure:
    """Share of aligned items over depth, the mean over languages, a line per model.

    Args:
        part: model (in the order of the legend), language, pivot, layer, depth, inner, share and n of one task, metric
            and pooling, in the languages that all models have; and chance where it is known.
    """
    hues = colours(list(part["model"].drop_duplicates()))
    figure, axes = style.new_figure(9.0, max(4.4, _room(hues)), right=_beside(hues))
    means = part.groupby(["model", "depth", "inner"], sort=False)[["share", "chance"]].mean().reset_index()
    for width, (model, hue) in zip(_widths(hues, 1.8), hues.items(), strict=True):
        own = means[means["model"] == model].sort_values("depth")
        axes.plot(own["depth"], own["chance"], color=hue, linewidth=0.9, linestyle="--", alpha=0.7, zorder=1.5)
        _line(axes, own, hue, model, width)
    labels.legend(axes, 8.5, **_BESIDE)
    _depth_axes(axes, means["share"])
    axes.set_xlabel("layer as a share of the depth (0: embedding, 1: after the final norm)")
    axes.set_ylabel("share of items aligned, mean over languages")
    labels.settle(figure)
    count = style.languages(part.drop_duplicates(["language", "pivot"]).shape[0])
    below = f"{count}, {style.item_counts(part['n'])}; dot: highest layer before the norm"
    below += "; dashed: chance" if part["chance"].notna().any() else ""
    style.set_title(axes, style.part_name(part), below)
    return figure


def depth_by_language(part: pd.DataFrame) -> Figure:
    """Share of aligned items over depth, a panel per language: the input of `depth`, for `PANELS` languages at most."""
    paper = look.current()
    hues = colours(list(part["model"].drop_duplicates()))
    part = part.assign(label=style.language_names(part))
    names = sorted(part["label"].unique())
    across = min(4, len(names))
    if paper is not None:  # as many as have room for their names
        widest = max(labels.width_of(name, paper.size) for name in names)
        across = max(1, min(across, int((paper.width - 0.5) / (widest + 0.1))))
    down = -(-len(names) // across)
    height = max(1.75 * down + 0.9, _room(hues))
    page, margins = (9.0, height), (0.075 * 9.0, _beside(hues), 0.5, 0.75)
    figure, grid = style.panels(len(names), across, page, 0.85 * down + 0.3, margins, (0.1, 0.28), shared=True)
    for axes, name in zip(grid.ravel(), names, strict=False):
        for width, (model, hue) in zip(_widths(hues, 1.2), hues.items(), strict=True):
            own = part[(part["label"] == name) & (part["model"] == model)].sort_values("depth")
            _line(axes, own, hue, model, width)
        axes.set_title(name, fontsize=look.points(8.5), fontweight="bold" if paper is None else "normal", pad=3)
        _depth_axes(axes, part["share"])
    for column in range(across):  # the lowest panel of each column has the numbers
        lowest = [axes for axes in grid[:, column] if axes.get_visible()][-1]
        lowest.tick_params(labelbottom=True)
    labels.legend(grid[0, -1], 8.5, **_BESIDE)
    items = style.item_counts(part["n"])
    below = f"share of items aligned, over the layer's share of the depth; {items}; dot: highest layer"
    if paper is not None:
        figure.set_label(f"{style.part_name(part)}: {below}")
        return figure
    figure.text(0.075, 1 - 0.3 / height, style.part_name(part), fontsize=11, fontweight="bold")
    figure.text(0.075, 1 - 0.48 / height, below, fontsize=8.5, color="#555555")
    return figure


def _line(axes: Axes, own: pd.DataFrame, hue: Any, model: str, width: float) -> None:
    """A model's line, with a dot at the highest layer that counts."""
    axes.plot(own["depth"], own["share"], color=hue, linewidth=width, label=_folded(model), zorder=2)
    inner = own[own["inner"].astype(bool) & own["share"].notna()]
    if len(inner) and inner["share"].max() > 0:
        best = inner.iloc[int(inner["share"].to_numpy(float).argmax())]
        axes.plot(best["depth"], best["share"], "o", color=hue, markersize=3 + width, zorder=3)


def _widths(models: Mapping[str, Any], thinnest: float) -> list[float]:
    """Line widths: of few models the first is the widest, so that equal lines are all visible."""
    count, scale = len(models), 1.0 if look.current() is None else 0.6
    return [scale * (thinnest + 0.8 * (count - 1 - i) * (count < len(style.OKABE_ITO))) for i in range(count)]


def _folded(name: str, longest: int = _LONGEST) -> str:
    """A name in lines of a legend or of an axis."""
    return "\n".join(textwrap.wrap(name, longest))


def _beside(entries: Iterable[str]) -> float:
    """Inches that a legend of these entries needs on the right."""
    return 0.5 + 0.075 * max(min(len(entry), _LONGEST) for entry in entries)


def _room(entries: Iterable[str]) -> float:
    """Inches that a figure needs for a legend of these entries beside the axes."""
    return 0.19 * sum(1 + _folded(entry).count("\n") for entry in entries) + 1.0


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
    from matplotlib.lines import Line2D

    paper = look.current()
    called = _called(table["series"].astype(str).unique())
    table = table.assign(group=table["model"] if by == "parameters" else table["series"].map(called))
    metrics = table.loc[table["metric"] != "", ["metric", "pooling"]].drop_duplicates().to_numpy().tolist()
    has = bool(table["accuracy"].notna().any())
    count = len(metrics) + has
    across = 1 if paper is not None and paper.width < 4.5 else min(count, 2)
    down = -(-count // across)
    hues = colours(list(table["group"].drop_duplicates()))
    kinds = [("o", "mean over languages"), *([("s", "English")] if has else [])]
    kinds += [("_", "chance")] if metrics and table["chance"].notna().any() else []
    words = [*hues, *(label for _, label in kinds)]
    width, right = 4.4 * across + 1.6, _beside(words) + 0.05
    height = max(3.0 * down + 0.3, _room(words))
    margins = (0.75, right, 0.55, 0.62)
    figure, grid = style.panels(count, across, (width, height), 1.35 * down + 0.3, margins, (0.28, 0.55))
    panels = list(grid.ravel())
    for axes in panels:
        axes.set_xlabel({"parameters": "parameters", "step": "step of the training"}[by])
    if has:
        own, axes = table.drop_duplicates("model"), panels.pop(0)
        _points(axes, own, by, "accuracy", hues, "o")
        _points(axes, own, by, "english_accuracy", hues, "s")
        axes.set_ylabel("accuracy")
        over = style.languages(int(own["n_languages"].max()))
        style.set_title(axes, f"{style.task_name(table)}: accuracy", f"{over}; bars: 95% interval")
    for metric, pooling in metrics:
        own, axes = table[(table["metric"] == metric) & (table["pooling"] == pooling)], panels.pop(0)
        _points(axes, own, by, "alignment", hues, "o")
        _points(axes, own, by, "chance", hues, "_")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        name = style.metric_label(metric, pooling)
        axes.set_ylabel("share of items aligned" if paper is None else f"aligned, {name}")  # without a title
        style.set_title(axes, name, "at the best layers, chosen on other items")
    width = 1.4 * (by == "step")
    handles = [Line2D([], [], color=hue, marker="o", linewidth=width, label=_folded(k)) for k, hue in hues.items()]
    for form, label in kinds:
        inside = "white" if form == "s" else None
        handles.append(Line2D([], [], color="#666666", marker=form, linewidth=0, label=label, markerfacecolor=inside))
    labels.legend(grid[0, -1], 8.5, handles, **_BESIDE)
    labels.settle(figure)
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
        size = look.marker(5.5, 0)
        axes.plot(x, y, dashes, marker=form, color=hue, markersize=size, linewidth=width, markerfacecolor=inside)
        if has_ends:
            spread = np.nan_to_num(np.abs(rows[[f"{value}_low", f"{value}_high"]].to_numpy(float).T - y))
            axes.errorbar(x, y, spread, fmt="none", ecolor=hue, elinewidth=1.1, alpha=0.7, zorder=2)
    axes.margins(0.08, 0.1)
    _log_axis(axes, own[by].to_numpy(float))


def _log_axis(axes: Axes, values: NDArray[Any]) -> None:
    """A log axis with short numbers; with a place for 0, the step before the training."""
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
    ticks = [*([0.0] if len(positive) < len(values) else []), *ticks]
    axes.set_xticks(ticks, [style.short(tick) for tick in ticks])
    axes.minorticks_off()


def _called(series: Iterable[str]) -> dict[str, str]:
    """What trainings are called: by the last parts of their hub id or folder, as many as tell them apart; if these do
    not, by all of it."""
    parts = {one: [part for part in one.split("/") if part and "*" not in part] for one in series}
    for count in range(1, 1 + max(map(len, parts.values()), default=0)):
        names = {one: "/".join(of[-count:]) for one, of in parts.items()}
        if all(names.values()) and len(set(names.values())) == len(names):
            return names
    return {one: one for one in parts}


def relation(table: pd.DataFrame) -> Figure:
    """Within each model: the correlation over languages, and the effect within items, with their intervals.

    Args:
        table: rows of `inference.models.MODELS` of one task.
    """
    paper = look.current()
    models = list(table["model"].drop_duplicates())
    metrics = list(table[["metric", "pooling", "alignment_task"]].drop_duplicates().itertuples(index=False, name=None))
    size = 6.5 if len(models) > 30 else 8.5
    longest = max(8, int(6 * paper.width)) if paper is not None and len(models) <= look.MOST else _LONGEST
    names = [_folded(name, longest) for name in models]
    lines = max(1 + name.count("\n") for name in names)
    height = max(2.4, max(0.11 * len(metrics) + 0.12, 0.14 * lines) * len(models) + 1.5)
    left, right = style.room_for([line for name in names for line in name.split("\n")], size), 2.1
    gap = 0.25 / ((9.0 - left - right - 0.25) / 2)
    tall = min(max(0.8, max(0.07 * len(metrics) + 0.1, 0.14 * lines) * len(models)) + 0.4, _TALLEST)
    figure, grid = style.panels(2, 2, (9.0, height), tall + 0.3, (left, right, 0.55, 0.62), (gap, 0.0))
    first, second = grid[0]
    handles = {}
    for axes, name in ((first, "r"), (second, "same_item")):
        columns, unit = [name, f"{name}_low", f"{name}_high"], 100 if name == "same_item" else 1
        for j, (metric, pooling, source) in enumerate(metrics):
            own = table[(table["metric"] == metric) & (table["pooling"] == pooling)]
            own = own[(own["alignment_task"] == source) & own[name].notna()]
            if own.empty:
                continue
            shift = (j - (len(metrics) - 1) / 2) * 0.7 / len(metrics)
            at = np.array([models.index(model) + shift for model in own["model"]])
            ends = (unit * own[columns].astype(float)).ffill(axis="columns")  # without an interval, a dot
            label = style.metric_label(metric, pooling, "" if source == style.part_task(table) else f", {source}")
            colour, dot = style.OKABE_ITO[j % len(style.OKABE_ITO)], look.marker(4.5, len(models))
            handles[metrics[j]] = style.intervals(axes, ends, at, colour, label, dot, 1.3, above=True)
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=1)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
    first.set_yticks(np.arange(len(models)), names, fontsize=look.points(size))
    second.set_yticks(np.arange(len(models)), [])
    first.set_xlim(-1.03, 1.03)
    if paper is not None:
        first.set_xticks([-1, -0.5, 0, 0.5, 1], ["\N{MINUS SIGN}1", "", "0", "", "1"])
    first.set_xlabel("Pearson r over languages")
    second.set_xlabel("aligned minus not, same item, in points")
    labels.legend(second, 8, [handles[key] for key in metrics if key in handles], **_BESIDE)
    labels.settle(figure)
    style.set_title(first, f"{style.task_name(table)}: alignment and accuracy within each model", "95% intervals")
    return figure
