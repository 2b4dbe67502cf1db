"""Figures of alignment by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from align_pipeline.data.items import ENGLISH

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from align_pipeline.figures import labels, look
from align_pipeline.figures.look import points
from align_pipeline.figures.style import (
    INK,
    MEAN,
    OKABE_ITO,
    SHARE,
    TASKS,
    item_counts,
    language_codes,
    language_names,
    languages,
    layer_ticks,
    metric_label,
    new_figure,
    part_name,
    part_task,
    room_for,
    save,
    set_title,
    slug,
)

_PART = ["model", "task", "metric", "pooling"]
"""What a figure shows one of."""


def layer_curves(alignment: pd.DataFrame, folder: Path, baselines: pd.DataFrame | None = None) -> list[Path]:
    """Draw the share of aligned items by layer, one line per language.

    Args:
        alignment: as `ALIGNMENT`, with one or several models and tasks; in rows with ``is_number``, ``value`` is a
            metric's number.
        folder: the output folder.
        baselines: as `BASELINES`, for the lines of chance levels.

    Returns:
        one PNG per task, metric and pooling: ``curves_<task>_<metric>_<pooling>.png``; with several models, the model's
        name follows ``curves_``.
    """
    if alignment.empty:
        return []
    cells = shares(alignment, baselines)
    several = cells["model"].nunique() > 1
    paths = []
    for (model, task, metric, pooling), part in cells.groupby(_PART, observed=True):
        name = "_".join(slug(str(word)) for word in ("curves", *([model] if several else []), task, metric, pooling))
        is_number = "is_number" in part and bool(part["is_number"].any())
        what = MEAN if is_number else SHARE
        paths += save(lambda part=part, what=what: curves(part, what=what), folder / name, ("png",))
    return paths


def shares(alignment: pd.DataFrame, baselines: pd.DataFrame | None = None) -> pd.DataFrame:
    """Share of aligned items by language and layer, and chance where baselines give it: the rows of `curves`.

    Args:
        alignment: as `ALIGNMENT`; English's own rows are left out.
        baselines: as `BASELINES`; chance is the mean share of mismatched items.
    """
    keys = [*_PART, "language", "pivot", "layer"]
    aligned = alignment[alignment["language"] != ENGLISH].groupby(keys, observed=True)["value"]
    cells = aligned.agg(share="mean", n="size").reset_index()
    if "is_number" in alignment:
        numbers = alignment.loc[alignment["is_number"], _PART].drop_duplicates()
        cells = cells.merge(numbers.assign(is_number=True), "left").astype({"is_number": bool})
    if baselines is None or baselines.empty:
        return cells
    mismatched = baselines[baselines["kind"] == "mismatched"].groupby(keys, observed=True)["value"]
    return cells.merge(mismatched.mean().rename("chance").reset_index(), how="left")


def curves(part: pd.DataFrame, last: int | None = None, what: str = SHARE) -> Figure:
    """Share of aligned items, or mean number, by layer, with a labelled line per language; a dot marks its best layer.

    In a paper the labels are names alone, and only those of `look.labelled`.

    Args:
        part: language, pivot, layer, share and n of one task, metric and pooling, and chance if it is known: its mean
            over languages is drawn, with the range from the lowest to the highest.
        last: layer L, after the final norm, which cannot be the best; default: the highest of several layers.
        what: is shown.
    """
    table = part.assign(label=language_names(part)).pivot(index="label", columns="layer", values="share")
    layers = table.columns.to_numpy(int)
    inner = layers < (layers[-1] if last is None else last)
    inner = inner if inner.any() else ~inner
    best = table.loc[:, inner].max(axis="columns")
    where = table.loc[:, inner].fillna(-1).idxmax(axis="columns")
    names = [str(name) for name in best.sort_values(ascending=False).index]
    count, codes = len(names), language_codes(part)
    colours, named = look.colours({name: codes[name] for name in names}), look.labelled(codes)
    size = 8.5 if count <= 25 else 6.2
    gap = 0.155 if count <= 25 else 0.108  # inches between labels
    height = max(4.4, gap * count + 1.3)
    has_best = {name: what == MEAN or best[name] > 0 for name in names}  # without an aligned item, no layer is the best
    shown = {name: f"{name}  {best[name]:.2f}" + (f" at {where[name]}" if has_best[name] else "") for name in names}
    figure, axes = new_figure(9.0, height, right=0.45 + max(map(len, shown.values())) * size * 0.6 / 72)
    for name in sorted(names, key=named.__contains__):  # those without a label below the others
        values, thick = table.loc[name].to_numpy(float), len(named) <= 12 and name in named
        axes.plot(layers, values, color=colours[name], linewidth=1.8 if thick else 0.9, alpha=0.95, zorder=2)
        if has_best[name] and name in named:
            axes.plot(
                where[name], best[name], "o", color=colours[name], markersize=5 if len(named) <= 25 else 3, zorder=3
            )
    if "chance" in part and part["chance"].notna().any():
        by = part.groupby("layer")["chance"].agg(["mean", "min", "max"]).reindex(layers)
        axes.fill_between(layers, by["min"], by["max"], color="#999999", alpha=0.25, linewidth=0, zorder=1)
        axes.plot(layers, by["mean"], color="#555555", linewidth=1.2, linestyle="--", zorder=1.8, label="chance")
    if look.group_colours(list(codes.values())):
        labels.group_legend(axes, list(codes.values()))
    elif axes.get_legend_handles_labels()[0]:
        labels.legend(axes, 8.5, loc="upper left")
    bottom, top = min(0.0, float(np.nanmin(table))), max(0.05, float(np.nanmax(table)) * 1.06)
    axes.set_ylim(bottom - 0.02 * (top - bottom), top)
    axes.set_xlim(layers[0] - 0.4, layers[-1] + 0.4)
    axes.set_xticks(layer_ticks(layers))
    axes.set_xlabel("layer (hidden state)")
    axes.set_ylabel(what)
    texts = [
        {
            "s": shown[name] if look.current() is None else name,
            "fontsize": points(size),
            "color": colours[name] if count <= len(OKABE_ITO) else INK,
            "line": colours[name],
        }
        for name in names
        if name in named
    ]
    heights = np.array([float(best[name]) for name in names if name in named])  # at the last layer all are alike
    labels.end_labels(axes, heights, texts, layers[-1], 0.05, 1.04 * top * gap / (height - 1.2), as_legend=True)
    share = "dot and number: best layer" if look.current() is None else "dot: best layer"
    if inner.sum() == len(layers) - 1 and len(layers) == layers[-1] + 1:
        share += f"; layer {layers[-1]} (after the final norm) is not counted"
    set_title(axes, part_name(part) if "task" in part else "", f"{languages(count)}, {item_counts(part['n'])}; {share}")
    return figure


def heatmap(part: pd.DataFrame, what: str = SHARE) -> Figure:
    """Share of aligned items, or mean number, language by layer, sorted by the best; a ring marks its layer."""
    table = part.assign(label=language_names(part)).pivot(index="label", columns="layer", values="share")
    best = part[part["best_layer"].astype(bool)].assign(label=language_names).set_index("label")[["share", "layer"]]
    table = table.loc[best.sort_values("share", ascending=False).index]
    layers = table.columns.to_numpy(int)
    count = len(table)
    height = max(2.6, (0.125 if count > 30 else 0.2) * count + 1.4)
    size = 6.2 if count > 30 else 8.5
    names = [str(name) for name in table.index]
    figure, axes = new_figure(9.0, height, left=room_for(names, size), right=1.0, rows=count)
    image = axes.imshow(table.to_numpy(float), aspect="auto", cmap="cividis", interpolation="nearest")
    image.set_clim(vmin=min(0.0, float(np.nanmin(table))))
    # Without an aligned item, no layer is the best.
    ringed = (best.loc[table.index, "share"].to_numpy(float) > 0) | (what == MEAN)
    at = np.searchsorted(layers, best.loc[table.index, "layer"].to_numpy())[ringed]
    rows = np.arange(count)[ringed]
    ring = 4.0 if count > 30 else 6.0
    if look.current() is not None:
        ring = 1.5 if count > look.MOST else 4.0
    for colour, wider in (("black", 1.4), ("white", 0.0)):  # visible on dark and on light
        axes.plot(at, rows, "o", markerfacecolor="none", markeredgecolor=colour, markersize=ring + wider)
    ticks = layer_ticks(layers)
    axes.set_xticks(
        [int(np.searchsorted(layers, k)) for k in ticks if k in layers], [str(k) for k in ticks if k in layers]
    )
    axes.grid(visible=False)
    axes.set_xlabel("layer (hidden state)")
    labels.colour_bar(figure, axes, image, what, height)
    labels.row_labels(axes, names, size, language_codes(part), count - 1)
    set_title(axes, part_name(part), f"{languages(count)}, {item_counts(part['n'])}; ring: best layer")
    return figure


def correlation_by_layer(level: pd.DataFrame) -> Figure:
    """Pearson correlation over languages by layer, with its interval, one line per metric."""
    figure, axes = new_figure(9.0, 3.8)
    for i, ((metric, pooling, source), part) in enumerate(level.groupby(["metric", "pooling", "alignment_task"])):
        part = part[part["pearson"].notna()].sort_values("layer")
        colour = OKABE_ITO[i % len(OKABE_ITO)]
        layer = part["layer"].to_numpy(int)
        label = metric_label(metric, pooling, "" if source == part_task(level) else f", {source}")
        axes.plot(layer, part["pearson"].to_numpy(float), color=colour, linewidth=1.8, label=label)
        bounds = part[["pearson_low", "pearson_high"]].to_numpy(float)
        axes.fill_between(layer, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set_xticks(layer_ticks(np.unique(level["layer"].to_numpy(int))))
    lowest = float(np.nanmin(level[["pearson", "pearson_low"]].to_numpy(float)))
    axes.set_ylim(max(-1.02, min(lowest, 0) - 0.25), 1.02)  # room for the legend
    axes.set_xticks(layer_ticks(np.sort(level["layer"].unique())))
    axes.set_xlabel("layer (hidden state)")
    axes.set_ylabel("Pearson r with accuracy")
    labels.legend(axes, 8, loc="lower center", ncols=4)
    labels.settle(figure)
    n = level["n"]
    count = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    task = part_task(level)
    set_title(
        axes,
        f"{TASKS.get(task, task)}: alignment against accuracy, layer by layer",
        f"n = {count} language{'' if count == '1' else 's'}; band: 95% interval",
    )
    return figure
