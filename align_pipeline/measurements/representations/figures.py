"""Figures of representations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from align_pipeline.figures import labels, look, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "cosine": "cosine",
    "cosine_centred": "cosine, centred",
    "mexa": "MEXA",
    "mexa_centred": "MEXA, centred",
    "margin": "margin",
    "margin_centred": "margin, centred",
    "cka": "CKA",
    "retrieval_en_xx": "retrieval, en-xx",
    "retrieval_xx_en": "retrieval, xx-en",
    "csls_en_xx": "CSLS, en-xx",
    "csls_xx_en": "CSLS, xx-en",
    "hubness_en_xx": "hubness, en-xx",
    "hubness_xx_en": "hubness, xx-en",
    "anisotropy": "anisotropy",
    "anisotropy_english": "anisotropy, English",
    "neighbours": "shared neighbours",
    "neurons": "neuron correlation",
    "neurons_absolute": "neuron corr., absolute",
    "ilo": "ILO bridges",
    "neuronxa": "NeuronXA",
    "neuron_overlap": "active neurons",
}
"""Short names of the measures."""
_ACROSS = 5
_MOST_NAMED = 24
_PANEL = (1.9, 1.75)  # inches, with its margins


def by_layer(table: pd.DataFrame) -> Figure:
    """Each measure by layer in a panel of its own, a line per language; dashed: chance, its mean over languages.

    Args:
        table: rows of `REPRESENTATIONS` of one model, task and pooling.
    """
    from matplotlib.lines import Line2D

    table = table.assign(label=style.language_names(table))
    codes = style.language_codes(table)
    names, paper = list(table["label"].unique()), look.current()
    few = len(names) <= len(style.OKABE_ITO)
    colours, labelled = look.colours(codes), look.labelled(codes)
    shown = [name for name in LABELS if (table["measure"] == name).any()]
    across = min(_ACROSS, max(len(shown), 3)) if paper is None else max(2, int(paper.width / 1.5))
    down = -(-len(shown) // across)
    named = names if len(names) <= _MOST_NAMED else []
    if paper is not None:
        named = [name for name in names if name in labelled]
    bottom = 0.35 + 0.17 * -(-(len(named) + 1) // across)
    width, height = _PANEL[0] * across, _PANEL[1] * down + 0.55 + bottom
    tall = 0 if paper is None else 0.8 * paper.width / across * down + 0.2
    figure, panels = style.panels(len(shown), across, (width, height), tall)
    ticks = style.layer_ticks(np.sort(table["layer"].unique()))
    ticks = ticks[:: -(-len(ticks) // 6)]
    for place, (axes, measure) in enumerate(zip(panels.ravel(), shown, strict=False)):
        row, column = divmod(place, across)
        corner = (_PANEL[0] * column + 0.42, height - 0.55 - _PANEL[1] * (row + 1) + 0.3)
        if paper is None:
            axes.set_position((corner[0] / width, corner[1] / height, 1.38 / width, 1.15 / height))
        rows = table[table["measure"] == measure]
        for name in sorted(names, key=labelled.__contains__):  # those without a label below the others
            own = rows[rows["label"] == name]
            axes.plot(own["layer"], own["value"], color=colours[name], linewidth=1.4 if few else 0.7)
        chance = rows.groupby("layer")["chance"].mean()
        axes.plot(chance.index, chance, color="#555555", linewidth=1.1, linestyle="--")
        axes.set_xticks(ticks)
        axes.tick_params(labelsize=look.points(7), length=2)
        axes.set_title(LABELS[measure], fontsize=look.points(8.5), fontweight="normal", pad=3)
    entries = {name: colours[name] for name in named}
    if paper is not None:
        entries = look.group_entries(list(codes.values())) or entries
    handles = [Line2D([], [], color=colour, label=name) for name, colour in entries.items()]
    handles.append(Line2D([], [], color="#555555", linestyle="--", label="chance"))
    pooling = str(table["pooling"].iloc[0])
    title = f"{style.task_name(table)}: representations ({style.POOLINGS.get(pooling, pooling)})"
    below = f"{style.languages(len(names))}, {style.item_counts(table['n'])}"
    if paper is not None:
        for axes in panels.ravel()[max(len(shown) - across, 0) : len(shown)]:  # the lowest of each column
            axes.set_xlabel("layer (hidden state)")
        labels.below(figure, handles)
        style.set_title(panels[0, 0], title, below)
        return figure
    style.frame(figure, 0.42, bottom - 0.08, title, below, handles, across)
    return figure
