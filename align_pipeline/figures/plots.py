"""Figures of runs and reports. Each function draws one figure; only `save` and `layer_curves` touch files.

matplotlib is imported only when a figure is drawn, and without pyplot: no global state, and this module imports fast.
Colours are safe for colour-blind readers (Okabe and Ito; cividis and viridis for ordered values).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.data.items import ENGLISH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
from align_pipeline.figures import labels, look, rows, style


def scatter(part: pd.DataFrame, numbers: pd.Series[Any], classes: pd.Series[Any], what: str = style.SHARE) -> Figure:
    """Accuracy against alignment (max over layers), one point per language, labelled with its name.

    Args:
        part: rows of `study.points` with ``reduce`` max, with accuracy's ``stderr`` and ``chance`` if they are known.
        numbers: the matching row of `languages.language_level`.
        classes: resource class, 0 to 5, by FLORES code.
        what: is aligned: `style.SHARE` or `style.MEAN`.
    """
    figure, axes = style.new_figure(9.0, 6.4, right=1.1)
    codes, named = style.language_codes(part), look.labelled(style.language_codes(part))
    names = [str(label) for label in style.language_names(part)]
    x, y = part["alignment"].to_numpy(float), part["accuracy"].to_numpy(float)
    own = [None if pd.isna(c) else int(c) for c in classes.reindex(part["language"])]
    if part["stderr"].notna().any():
        axes.errorbar(x, y, part["stderr"].to_numpy(float), fmt="none", ecolor="#BBBBBB", elinewidth=0.8, zorder=1)
    if part["chance"].notna().any():
        guess = part["chance"].mean()
        axes.axhline(guess, color="#666666", linestyle="--", linewidth=1, zorder=1)
        if look.current() is None:  # in a paper the caption says it
            axes.annotate("guessing", (0, guess), (4, 3), axes.get_yaxis_transform(), "offset points", fontsize=8)
    if look.current() is not None:
        labels.dots(axes, x, y, codes, style.BLUE)
    else:
        _by_class(axes, x, y, own)
    axes.margins(0.06, 0.07)
    axes.set_xlabel(f"{what}, max over layers")
    axes.set_ylabel("accuracy")
    labels.group_legend(axes, list(codes.values()))
    axes.autoscale_view()  # the final limits must be known before labels are placed
    labels.place_labels(axes, x, y, names, [name in named for name in names])
    r = style.correlation(numbers)
    bars = "; bars: standard error" if part["stderr"].notna().any() else ""
    bars += "; dashed: guessing" if look.current() is not None and part["chance"].notna().any() else ""
    style.set_title(axes, style.part_name(part), f"n = {style.languages(len(part))}{r}{bars}")
    return figure


def _by_class(axes: Axes, x: NDArray[Any], y: NDArray[Any], own: Sequence[int | None]) -> None:
    """Points in the colour of their resource class, with a legend."""
    for value in sorted({c for c in own if c is not None}):
        chosen = np.array([c == value for c in own])
        shape, hue = style.MARKERS[value], style.CLASSES[value]
        axes.plot(
            x[chosen],
            y[chosen],
            shape,
            color=hue,
            markersize=6,
            markeredgecolor="#444444",
            markeredgewidth=0.4,
            label=f"{value}",
        )
    unknown = np.array([c is None for c in own])
    if unknown.any():
        axes.plot(x[unknown], y[unknown], "o", color="#BBBBBB", markersize=6, label="unknown")
    axes.legend(title="resource\nclass", loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, title_fontsize=8)


def transfer(part: pd.DataFrame, odds: pd.DataFrame) -> Figure:
    """Share aligned of TS and of TF by layer, with the odds ratio pooled over languages.

    Args:
        part: rows of `items.instance_level` for one metric, contrast ts_tf.
        odds: rows of `findings.items_pooled` at each layer.
    """
    from matplotlib.figure import Figure

    paper = look.current()
    if paper is None:
        figure = Figure(figsize=(9.0, 5.8))
        above = figure.add_axes(style.draw_inside(9.0, 5.8, 0.85, 0.2, bottom=2.55))
        below = figure.add_axes(style.draw_inside(9.0, 5.8, 0.85, 0.2, top=3.45), sharex=above)
    else:
        figure = Figure(figsize=(paper.width, min(max(0.9 * paper.width, 2.6), 4.0)), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
    above.tick_params(labelbottom=False)
    both = part[(part["n_a"] > 0) & (part["n_b"] > 0)]
    means = both.groupby("layer")[["mean_a", "mean_b"]].mean()
    for column, colour, text in (
        ("mean_a", style.BLUE, "TS: right in the language"),
        ("mean_b", style.ORANGE, "TF: wrong in the language"),
    ):
        above.plot(means.index.to_numpy(int), means[column].to_numpy(float), color=colour, linewidth=2, label=text)
    above.set_ylim(bottom=0)
    above.set_ylabel("share aligned,\nmean over languages")
    title = "of the items right in English"
    labels.legend(above, 8.5, title=title, title_fontsize=8.5, alignment="left")
    known = odds[odds["odds_ratio"].notna()].sort_values("layer")
    layer, ratio = known["layer"].to_numpy(int), known["odds_ratio"].to_numpy(float)
    bounds = known[["low", "high"]].to_numpy(float)
    below.fill_between(layer, bounds[:, 0], bounds[:, 1], color=style.GREEN, alpha=0.2, linewidth=0)
    below.plot(layer, ratio, color=style.GREEN, linewidth=2)
    below.axhline(1, color="#888888", linewidth=0.8)
    below.set_yscale("log")
    style.plain_log(below, np.concatenate([ratio, bounds.ravel()]))
    below.set_ylabel("odds ratio over\nlanguages, 95%")
    style.layer_axis(below, np.sort(part["layer"].unique()))
    labels.settle(figure)
    sizes = part.drop_duplicates(["language", "pivot"])
    count = style.languages(both.drop_duplicates(["language", "pivot"]).shape[0])
    items = f"n = {sizes['n_a'].sum():,} TS and {sizes['n_b'].sum():,} TF items in all"
    style.set_title(above, style.part_name(part), f"{count}, {items}")
    return figure


def forest(part: pd.DataFrame) -> Figure:
    """Share aligned of TS minus TF at each language's best layer: rows of `findings.items_by_language`."""
    part = part[part["difference"].notna()].sort_values("difference", ignore_index=True)
    names, y = [str(k) for k in style.language_names(part)], np.arange(len(part))
    figure, axes = rows.new(names)
    sure = (part["p_languages"] < 0.05).to_numpy(bool)
    size = look.marker(4, len(part))
    for chosen, colour, text in ((sure, style.BLUE, "p < 0.05 over all languages"), (~sure, "#999999", "undecided")):
        if chosen.any():
            own = part.loc[chosen, ["difference", "low", "high"]]
            style.intervals(axes, own, y[chosen], colour, text, size)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("share of aligned items, TS minus TF, at the language's best layer (95% interval)")
    rows.label(axes, names, style.language_codes(part))
    found = f"{int(sure.sum())} significant (permutation test, max-T over languages)"
    style.set_title(axes, style.part_name(part), f"{style.languages(len(part))}; {found}")
    return figure


def agreement(part: pd.DataFrame) -> Figure:
    """Share of a language's answers that are those of English, with that of independent answers: rows of
    `consistency.consistency`."""
    part = part[part["agreement"].notna()].sort_values("agreement", ignore_index=True)
    names, y = [str(k) for k in style.language_names(part)], np.arange(len(part))
    figure, axes = rows.new(names)
    own = part[["agreement", "agreement_low", "agreement_high"]].ffill(axis="columns")  # without an interval, a dot
    style.intervals(axes, own, y, style.BLUE, "agreement", look.marker(4, len(part)))
    chance, size = part["agreement_chance"].to_numpy(float), look.marker(9, len(part))
    axes.plot(chance, y, "|", color=style.ORANGE, markersize=size, markeredgewidth=1.8, label="independent answers")
    axes.set_xlim(right=1.01)
    axes.set_xlabel("share of items with the same answer as in English (95% interval)")
    rows.label(axes, names, style.language_codes(part))
    sure = f"{int((part['p_holm'] < 0.05).sum())} above independent answers (kappa, adjusted p < 0.05)"
    below = f"{style.languages(len(part))}; {sure}"
    style.set_title(axes, f"{style.task_name(part)}: agreement with English", below)
    return figure


def odds(part: pd.DataFrame) -> Figure:
    """Odds ratio of a right answer, aligned against other items at the best layers, by metric and adjustment."""
    part = part.reset_index(drop=True)
    metrics = list(part[["metric", "pooling"]].drop_duplicates().itertuples(index=False, name=None))
    kinds = list(part["adjusted_for"].drop_duplicates())
    names = [style.metric_label(m, p) for m, p in metrics]
    figure, axes = style.new_figure(
        9.0, 1.5 + 0.3 * len(metrics) * len(kinds), left=1.95, right=2.55, rows=max(len(metrics) * len(kinds), 4)
    )
    for j, kind in enumerate(kinds):
        own = part[(part["adjusted_for"] == kind) & part["odds_ratio"].notna()]
        shift = 0.22 * (j - (len(kinds) - 1) / 2)
        at = [-metrics.index(key) - shift for key in zip(own["metric"], own["pooling"], strict=True)]
        own = own[["odds_ratio", "low", "high"]]
        style.intervals(axes, own, at, style.OKABE_ITO[j], f"given {kind}", 5, 1.3)
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_yticks([-i for i in range(len(metrics))], names)
    axes.set_ylim(0.6 - len(metrics), 0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("odds ratio of a right answer, aligned against other items (95% interval)")
    labels.legend(axes, 8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    labels.settle(figure)
    answers, items = f"{part['n'].max():,} answers", f"{part['n_items'].max():,} items"
    sizes = f"{answers} to {items} in {style.languages(int(part['n_languages'].max()))}"
    title = f"{style.task_name(part)}: right answers, aligned against other items"
    style.set_title(axes, title, f"n = {sizes} at most; clustered errors")
    return figure


def reliability(bins: pd.DataFrame) -> Figure:
    """Accuracy against confidence in ten bins: thin lines per language, thick lines for English and for all others."""
    figure, axes = style.new_figure(6.4, 5.6)
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle="--")
    other = bins[bins["language"] != ENGLISH]
    for _, unit in other.groupby(["language", "pivot"]):
        shown = unit[unit["n"] >= 10]  # with few items the accuracy is noise
        axes.plot(shown["confidence"], shown["accuracy"], color=style.BLUE, linewidth=0.6, alpha=0.25)
    for part, colour, label in (
        (other, style.BLUE, "other languages"),
        (bins[bins["language"] == ENGLISH], style.ORANGE, "English"),
    ):
        totals = part[["confidence", "accuracy"]].mul(part["n"], axis="index").assign(n=part["n"], bin=part["bin"])
        means = totals.groupby("bin").sum()
        means = means.div(means["n"], axis="index")
        if len(means):
            x, y = means["confidence"], means["accuracy"]
            axes.plot(x, y, "o-", color=colour, linewidth=2, markersize=5, label=label)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("confidence in the answer")
    axes.set_ylabel("accuracy")
    labels.legend(axes, 8.5, loc="upper left")
    labels.settle(figure)
    count = style.languages(other.drop_duplicates(["language", "pivot"]).shape[0])
    below = f"n = {bins['n'].sum():,} answers; {count} (thin) and English"
    style.set_title(axes, f"{style.task_name(bins)}: reliability", below)
    return figure
