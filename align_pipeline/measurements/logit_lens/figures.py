"""Figures of the logit lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from align_pipeline.figures import style
from align_pipeline.measurements.logit_lens.table import NO_LETTERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS, _MOST = 4, 24
_PANEL = (2.3, 3.3)  # inches of a language's two panels, with their margins
_COLOURS = style.OKABE_ITO[2:6]
_OTHER, _GREYS = "other", {"other": "#222222", NO_LETTERS: "#AAAAAA"}


def by_layer(table: pd.DataFrame) -> Figure:
    """Two panels per language, by layer: probabilities of the answers' first tokens, and scripts of the top tokens.

    Args:
        table: rows of `LOGIT_LENS` of one model and task; the first languages, if there are many.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    table = table.assign(label=style.language_names(table))
    names = list(table["label"].unique())[:_MOST]
    table = table[table["label"].isin(names)]
    shares = table[table["quantity"] == "script"]
    sums = shares.groupby("script")["value"].sum().sort_values(ascending=False).drop(NO_LETTERS, errors="ignore")
    colours = dict(zip(map(str, sums.index), _COLOURS, strict=False)) | _GREYS
    shown = shares["script"].where(shares["script"].isin(list(colours)), _OTHER)
    shares = shares.assign(script=shown).groupby(["label", "script", "layer"], sort=False)["value"].sum().reset_index()
    known = [script for script in colours if (shares["script"] == script).any()]
    lines = [("english", style.BLUE), ("own", style.ORANGE)]
    across = min(_ACROSS, max(len(names), 2))
    down = -(-len(names) // across)
    bottom = 0.55 + 0.17 * -(-len(known) // across)
    width, height = _PANEL[0] * across + 0.15, _PANEL[1] * down + 0.6 + bottom
    figure = Figure(figsize=(width, height))
    ticks = style.layer_ticks(np.sort(table["layer"].unique()))
    ticks = ticks[:: -(-len(ticks) // 6)]
    top = float(np.nanmax([0.01, *table.loc[table["quantity"] != "script", "value"]])) * 1.05
    for place, name in enumerate(names):
        row, column = divmod(place, across)
        rows = table[table["label"] == name]

        def panel(low: float, row: int = row, column: int = column) -> Any:
            base = height - 0.6 - _PANEL[1] * (row + 1) + low
            left = _PANEL[0] * column + 0.5
            return figure.add_axes((left / width, base / height, 1.7 / width, 1.15 / height))

        axes = panel(1.85)
        axes.set_title(name, fontsize=8.5, fontweight="normal", pad=3)
        axes.set_ylim(0, top)
        for quantity, colour in lines:
            own = rows[rows["quantity"] == quantity]
            axes.plot(own["layer"], own["value"], color=colour, linewidth=1.4)
        own = rows[rows["quantity"] == "english"]
        axes.plot(own["layer"], own["chance"], color="#555555", linewidth=1.1, linestyle="--")
        below = panel(0.4)
        below.set_ylim(-0.02, 1.02)
        for script in known:
            own = shares[(shares["label"] == name) & (shares["script"] == script)]
            below.plot(own["layer"], own["value"], color=colours[script], linewidth=1.4)
        for one, said in ((axes, "probability"), (below, "share of top tokens")):
            one.set_xticks(ticks)
            one.tick_params(labelsize=7, length=2)
            if column == 0:
                one.set_ylabel(said, fontsize=7.5)
    called = {NO_LETTERS: "no letters", _OTHER: "other scripts"}
    entries = {"English answer": style.BLUE, "own answer": style.ORANGE, "other items'": "#555555"}
    entries |= {called.get(script, script): colours[script] for script in known}
    handles = [Line2D([], [], color=colour, label=label) for label, colour in entries.items()]
    handles[2].set_linestyle("--")
    counts = style.item_counts(table.loc[table["quantity"] == "script", "n"])
    style.frame(figure, 0.5, bottom + 0.02, f"{style.task_name(table)}: logit lens", counts, handles, across)
    return figure
