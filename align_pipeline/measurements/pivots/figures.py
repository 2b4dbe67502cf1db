"""The matrix of languages by pivots, with its tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import dendrogram, leaves_list

from align_pipeline.inference.pivots import matrix, tree

_CELL, _LABEL, _TREE = 0.36, 0.85, 0.75
_WRITTEN = 16
"""Most languages whose cells have their numbers in them."""


def order_of(shares: pd.DataFrame) -> tuple[list[str], list[str], Any]:
    """Languages in the order of the tree, pivots in the same order after those that are no row, and the tree."""
    found = tree(shares) if len(shares) > 1 else None
    rows = [shares.index[i] for i in leaves_list(found)] if found is not None else list(shares.index)
    first = [code for code in shares.columns if code not in rows]
    return rows, [*first, *(code for code in rows if code in shares.columns)], found


def heat_map(shares: pd.DataFrame, layer: int) -> Any:
    """The matrix at one layer, its rows in the order of the tree at its left.

    Args:
        shares: from `inference.pivots.matrix`.
        layer: named in the title.
    """
    from matplotlib.figure import Figure

    rows, columns, found = order_of(shares)
    wide, high = len(columns) * _CELL, len(rows) * _CELL
    width, height = _TREE + _LABEL + wide + 0.75, high + _LABEL + 0.45
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes(((_TREE + _LABEL) / width, _LABEL / height, wide / width, high / height))
    values = shares.loc[rows, columns].to_numpy(float)
    top = max(float(np.nanmax(values)), 1e-9)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=top, aspect="auto")
    axes.grid(False)
    axes.set_facecolor("#EEEEEE")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.tick_params(length=0)
    axes.set_xlabel("pivot")
    if len(rows) <= _WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "black" if value > 0.6 * top else "white"
                axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
    figure.text(0.01, 1 - 0.12 / height, f"Aligned items (%), layer {layer}", va="top", fontweight="bold", fontsize=9)
    bar = figure.add_axes(((_TREE + _LABEL + wide + 0.12) / width, _LABEL / height, 0.1 / width, high / height))
    colours = figure.colorbar(image, cax=bar)
    ticks = [float(tick) for tick in colours.get_ticks() if 0 <= tick <= top]
    colours.set_ticks(ticks, labels=[f"{100 * tick:.0f}" for tick in ticks])
    colours.ax.tick_params(labelsize=7)
    if found is not None and found[-1, 2] > 0:  # a tree without height cannot be drawn
        side = figure.add_axes((0.05 / width, _LABEL / height, _TREE / width, high / height))
        dendrogram(found, ax=side, orientation="left", no_labels=True, link_color_func=lambda node: "#555555")
        side.invert_yaxis()  # the first leaf at the top, as in the matrix
        side.axis("off")
    return figure


def every_layer(table: pd.DataFrame) -> Any:
    """The matrix at every layer, in the order of the tree at that with the highest mean; one colour scale for all.

    Args:
        table: rows of one metric.
    """
    from matplotlib.figure import Figure

    layers = sorted(table["layer"].unique())
    each = {int(layer): matrix(table, int(layer)) for layer in layers}
    means = {layer: float(np.nanmean(shares.to_numpy(float))) for layer, shares in each.items()}
    rows, columns, _ = order_of(each[max(means, key=lambda layer: means[layer])])
    across = min(7, len(layers))
    down = -(-len(layers) // across)
    figure = Figure(figsize=(1.05 * across, 1.2 * down))
    top = max(max(float(np.nanmax(shares.to_numpy(float))) for shares in each.values()), 1e-9)
    for place, (layer, shares) in enumerate(each.items()):
        axes = figure.add_subplot(down, across, place + 1)
        values = np.ma.masked_invalid(shares.loc[rows, columns].to_numpy(float))
        axes.imshow(values, cmap="viridis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        axes.grid(False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"layer {layer}", fontsize=7, fontweight="normal", pad=2)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.2 / (1.2 * down), bottom=0.01, wspace=0.12, hspace=0.28)
    return figure
