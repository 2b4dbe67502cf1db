"""Figures with a row per language: dots with intervals, and maps by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.figures import labels, look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY = 30
"""With more rows, they are closer and their names smaller."""


def new(names: Sequence[str], inches: tuple[float, float] = (0.24, 0.125)) -> tuple[Figure, Axes]:
    """A figure with a row per name, from below; `inches` of a row, and of one of many."""
    count = len(names)
    height = max(2.4, inches[count > _MANY] * count + 1.4)
    figure, axes = style.new_figure(9.0, height, left=style.room_for(names, _size(names)), rows=count)
    axes.set_ylim(-0.8, count - 0.2)
    axes.grid(visible=False, axis="y")
    return figure, axes


def label(axes: Axes, names: Sequence[str], codes: Mapping[str, str]) -> None:
    """The legend and the rows' names, once all is drawn; `codes` by name, of the rows that are languages."""
    labels.legend(axes, 8, loc="lower right")
    labels.row_labels(axes, names, _size(names), codes, len(names) - 1)


def layer_map(
    table: pd.DataFrame,
    names: Sequence[str],
    codes: Mapping[str, str],
    what: str,
    lowest: float = 0.0,
    left: float = 0.0,
    ringed: NDArray[np.floating] | None = None,
) -> tuple[Figure, Axes]:
    """Numbers by row and layer as colours.

    Args:
        table: a row per row from above, a column per layer.
        names: of the rows.
        codes: FLORES code by name, of the rows that are languages.
        what: the numbers are.
        lowest: end of the colours.
        left: more inches on the left of the page.
        ringed: [rows], the layer that gets a ring; NaN for none.
    """
    layers, count = table.columns.to_numpy(int), len(table)
    height = max(2.6, (0.125 if count > _MANY else 0.2) * count + 1.4)
    room = style.room_for(names, _size(names)) + left
    figure, axes = style.new_figure(9.0, height, left=room, right=1.0, rows=count)
    image = axes.imshow(table.to_numpy(float), aspect="auto", cmap="cividis", vmin=lowest, interpolation="nearest")
    if ringed is not None:
        ring = 4.0 if count > _MANY else 6.0
        if look.current() is not None:
            ring = 1.5 if count > look.MOST else 4.0
        has = np.flatnonzero(~np.isnan(ringed))
        for colour, wider in (("black", 1.4), ("white", 0.0)):  # visible on dark and on light
            at = np.searchsorted(layers, ringed[has])
            axes.plot(at, has, "o", markerfacecolor="none", markeredgecolor=colour, markersize=ring + wider)
    ticks = [k for k in style.layer_ticks(layers) if k in layers]
    axes.set_xticks([int(np.searchsorted(layers, k)) for k in ticks], [str(k) for k in ticks])
    axes.grid(visible=False)
    axes.set_xlabel("layer (hidden state)")
    labels.colour_bar(figure, axes, image, what, height)
    labels.row_labels(axes, names, _size(names), codes, count - 1)
    return figure, axes


def _size(names: Sequence[str]) -> float:
    return 6.2 if len(names) > _MANY else 8.5
