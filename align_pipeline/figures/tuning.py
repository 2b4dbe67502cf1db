"""Figures of tuned models against their base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from align_pipeline.data.items import ENGLISH

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from align_pipeline.figures import labels, style

PLACEBO = "#888888"


def colours(table: pd.DataFrame) -> dict[str, str]:
    """A colour per preset, in the order of the rows; placebos are grey."""
    known = table[["preset", "role"]].drop_duplicates()
    others = [name for name, role in known.itertuples(index=False) if role != "placebo"]
    return dict.fromkeys(known["preset"], PLACEBO) | {k: style.OKABE_ITO[i % 6] for i, k in enumerate(others)}


def changes(table: pd.DataFrame) -> Figure:
    """Change of accuracy per language and preset against the base (0), with its interval; small: the seeds.

    Args:
        table: rows of `inference.tuning.TUNING` of one base model and task.
    """
    table = table[table["against"] == "base"]
    pooled = (table["pivot"] == "").to_numpy()
    trained = table.groupby(["language", "pivot"])["trained"].transform("any").to_numpy(bool)  # by any preset
    label = style.language_names(table[~pooled]).reindex(table.index).where(~pooled, table["language"])
    table = table.assign(
        label=label.replace({ENGLISH: "English"}) + np.where(trained & ~pooled, " *", ""),
        order=2 * ~pooled + np.where(table["language"] == ENGLISH, -1, ~trained),
    )  # English, means over languages, then the languages
    rows = table[["order", "label", "trained"]].drop_duplicates("label").sort_values(["order", "label"])
    names, hues = [str(name) for name in rows["label"]], colours(table)
    size = 6.2 if len(names) > 30 else 8.5
    step = (0.08 if len(names) > 30 else 0.1) * len(hues) + 0.1  # inches per language
    right = 0.5 + 0.075 * max(map(len, hues))
    figure, axes = style.new_figure(
        9.0, max(2.6, step * len(names) + 1.3), left=style.room_for(names, size), right=right, rows=len(names)
    )
    for j, (preset, colour) in enumerate(hues.items()):
        shift = (j - (len(hues) - 1) / 2) * 0.72 / len(hues)
        own = table[table["preset"] == preset]
        own = own.assign(y=[names.index(label) + shift for label in own["label"]])
        mean, seeds = own[own["seed"] == "mean"], own[own["seed"] != "mean"]
        ends = 100 * mean[["difference", "low", "high"]].astype(float)
        style.intervals(axes, ends, mean["y"], colour, preset, 4.5, 1.3, above=True)
        if mean["seeds"].max() > 1:
            axes.plot(100 * seeds["difference"], seeds["y"], "o", color=colour, markersize=2.6, alpha=0.45, zorder=2)
    axes.axvline(0, color=style.INK, linewidth=1, zorder=1)
    for i in range(1, len(names)):
        axes.axhline(i - 0.5, color="#EEEEEE", linewidth=0.8, zorder=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("change of accuracy against the base model (0), in points; 95% interval")
    labels.legend(axes, 8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    codes = dict(zip(table["label"].astype(str), table["language"].astype(str), strict=True))
    is_language = {str(label) for label in table.loc[(~pooled) & (table["language"] != ENGLISH).to_numpy(), "label"]}
    labels.row_labels(axes, names, size, {k: codes[k] for k in names if k in is_language}, len(names) - 1)
    below = f"{style.item_counts(table['n'])} per language"
    below += "; small: single seeds" if table["seeds"].max() > 1 else ""
    below += "; *: trained on" if rows["trained"].any() else ""
    style.set_title(axes, f"{style.task_name(table)}: accuracy of the tuned models", below)
    return figure


def by_layer(table: pd.DataFrame, base: str) -> Figure:
    """Share of aligned items by layer of the base and of each preset, the mean over languages.

    Args:
        table: rows of `inference.tuning.ALIGNMENT` of one metric, against the base, one per preset and layer.
        base: name of the base model.
    """
    figure, axes = style.new_figure(9.0, 4.2, right=2.3)
    alike = table.groupby("layer")["before"].agg(np.ptp).max() < 1e-9
    for preset, colour in colours(table).items():
        own = table[table["preset"] == preset].sort_values("layer")
        layer, before = own["layer"].to_numpy(int), own["before"].to_numpy(float)
        ends = own[["low", "high"]].to_numpy(float).T + before
        axes.fill_between(layer, *ends, color=colour, alpha=0.15, linewidth=0)
        axes.plot(layer, own["after"].to_numpy(float), color=colour, linewidth=2, label=preset)
        if not alike:  # the presets were trained on different languages, so the base has a line for each
            axes.plot(layer, before, color=colour, linewidth=1.2, linestyle="--")
    axes.plot(layer if alike else [], before if alike else [], color=style.INK, linewidth=2, linestyle="--", label=base)
    style.layer_axis(axes, np.unique(table["layer"].to_numpy(int)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of items aligned, mean over languages")
    labels.legend(axes, 8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    labels.settle(figure)
    below = f"{style.item_counts(table['n'])}; band: 95% interval of the difference from the base"
    style.set_title(axes, style.part_name(table), below)
    return figure
