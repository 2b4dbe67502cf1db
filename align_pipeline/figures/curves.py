"""Figures of alignment by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from align_pipeline.data.items import ENGLISH

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from align_pipeline.figures import labels, look, rows, style

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
        words = ("curves", *([model] if several else []), task, metric, pooling)
        name = "_".join(style.slug(str(word)) for word in words)
        is_number = "is_number" in part and bool(part["is_number"].any())
        what = style.MEAN if is_number else style.SHARE
        paths += style.save(lambda part=part, what=what: curves(part, what=what), folder / name, ("png",))
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


def curves(part: pd.DataFrame, last: int | None = None, what: str = style.SHARE) -> Figure:
    """Share of aligned items, or mean number, by layer, with a labelled line per language; a dot marks its best layer.

    In a paper the labels are names alone, and only those of `look.labelled`.

    Args:
        part: language, pivot, layer, share and n of one task, metric and pooling, and chance if it is known: its mean
            over languages is drawn, with the range from the lowest to the highest.
        last: layer L, after the final norm, which cannot be the best; default: the highest of several layers.
        what: is shown.
    """
    table = part.assign(label=style.language_names(part)).pivot(index="label", columns="layer", values="share")
    layers = table.columns.to_numpy(int)
    inner = layers < (layers[-1] if last is None else last)
    inner = inner if inner.any() else ~inner
    best = table.loc[:, inner].max(axis="columns")
    where = table.loc[:, inner].fillna(-1).idxmax(axis="columns")
    names = [str(name) for name in best.sort_values(ascending=False).index]
    count, codes = len(names), style.language_codes(part)
    colours, named = look.colours({name: codes[name] for name in names}), look.labelled(codes)
    size = 8.5 if count <= 25 else 6.2
    gap = 0.155 if count <= 25 else 0.108  # inches between labels
    height = max(4.4, gap * count + 1.3)
    # without an aligned item, no layer is the best
    has_best = {name: what == style.MEAN or best[name] > 0 for name in names}
    shown = {name: f"{name}  {best[name]:.2f}" + (f" at {where[name]}" if has_best[name] else "") for name in names}
    figure, axes = style.new_figure(9.0, height, right=0.45 + max(map(len, shown.values())) * size * 0.6 / 72)
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
    style.layer_axis(axes, layers)
    axes.set_ylabel(what)
    texts = [
        {
            "s": shown[name] if look.current() is None else name,
            "fontsize": look.points(size),
            "color": colours[name] if count <= len(style.OKABE_ITO) else style.INK,
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
    below = f"{style.languages(count)}, {style.item_counts(part['n'])}; {share}"
    style.set_title(axes, style.part_name(part) if "task" in part else "", below)
    return figure


def heatmap(part: pd.DataFrame, what: str = style.SHARE) -> Figure:
    """Share of aligned items, or mean number, language by layer, sorted by the best; a ring marks its layer."""
    part = part.assign(label=style.language_names(part))
    table = part.pivot(index="label", columns="layer", values="share")
    best = part[part["best_layer"].astype(bool)].set_index("label").sort_values("share", ascending=False)
    table = table.loc[best.index]
    # without an aligned item, no layer is the best
    ringed = best["layer"].astype(float).where((best["share"] > 0) | (what == style.MEAN)).to_numpy()
    lowest = min(0.0, float(np.nanmin(table)))
    names = [str(name) for name in table.index]
    figure, axes = rows.layer_map(table, names, style.language_codes(part), what, lowest, ringed=ringed)
    below = f"{style.languages(len(table))}, {style.item_counts(part['n'])}; ring: best layer"
    style.set_title(axes, style.part_name(part), below)
    return figure


def correlation_by_layer(level: pd.DataFrame) -> Figure:
    """Pearson correlation over languages by layer, with its interval, one line per metric."""
    figure, axes = style.new_figure(9.0, 3.8)
    for i, ((metric, pooling, source), part) in enumerate(level.groupby(["metric", "pooling", "alignment_task"])):
        part = part[part["pearson"].notna()].sort_values("layer")
        colour = style.OKABE_ITO[i % len(style.OKABE_ITO)]
        layer = part["layer"].to_numpy(int)
        label = style.metric_label(metric, pooling, "" if source == style.part_task(level) else f", {source}")
        axes.plot(layer, part["pearson"].to_numpy(float), color=colour, linewidth=1.8, label=label)
        bounds = part[["pearson_low", "pearson_high"]].to_numpy(float)
        axes.fill_between(layer, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="#888888", linewidth=0.8)
    lowest = float(np.nanmin(level[["pearson", "pearson_low"]].to_numpy(float)))
    axes.set_ylim(max(-1.02, min(lowest, 0) - 0.25), 1.02)  # room for the legend
    style.layer_axis(axes, np.unique(level["layer"].to_numpy(int)))
    axes.set_ylabel("Pearson r with accuracy")
    labels.legend(axes, 8, loc="lower center", ncols=4)
    labels.settle(figure)
    n = level["n"]
    count = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    style.set_title(
        axes,
        f"{style.task_name(level)}: alignment against accuracy, layer by layer",
        f"n = {count} language{'' if count == '1' else 's'}; band: 95% interval",
    )
    return figure
