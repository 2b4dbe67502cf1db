"""Figures of patching: corrections, or quality of translations, by layer and condition, and by language."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.config.lang import name_of
from align_pipeline.config.patch import KEPT, TREATMENT, is_kept, is_placebo, map_of, treatment_of
from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import labels, look, rows, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "parallel": "parallel {pivot}",
    "self": "itself",
    "random_item": "another item",
    "same_answer": "another item, same answer",
    "permuted_options": "options reordered",
    "mean_english": "mean of {pivot}",
    "noise": "noise",
    "zero": "zero",
    "mean": "mean of the language",
    "shift": "shift",
    "linear": "linear map",
    "procrustes": "rotation (Procrustes)",
    "linear_shuffled": "linear, shuffled pairs",
    "procrustes_shuffled": "rotation, shuffled pairs",
    "shift_random": "random, as long as shift",
    "linear_random": "random, as long as linear",
    "procrustes_random": "random, as long as rotation",
}
COMPONENTS = {"resid": "residual stream", "attn": "attention", "mlp": "MLP", "head": "heads"}
SITES = {
    "last": "the context's last token",
    "options": "the ends of all options",
    "source": "the end of the source sentence",
}
_WHERE = ["component", "site", "window"]
KIND = ["model", "task", "pivot_language", *_WHERE]
"""Columns that identify one figure."""
KIND_TRANSLATION = ["model", "task", "direction", *_WHERE]
"""Columns that identify one figure of translations."""


def condition_name(condition: str, pivot: Any = ENGLISH) -> str:
    """A condition in words; `pivot` is the code of the language whose activations replace the others'."""
    name, _, strength = condition.removeprefix(KEPT).partition("*")
    words = NAMES.get(name, name.replace("language=", "in ")).format(pivot=name_of(pivot))
    return f"{words} × {strength}" if strength else words


def kind_name(row: Any) -> str:
    """The kind of patch, in words."""
    window = f", {row.window} layers at once" if row.window > 1 else ""
    site = SITES.get(row.site, f"the end of {row.site.replace('_', ' ')}")
    return f"{COMPONENTS.get(row.component, row.component)} at {site}{window}"


def draw(effects: pd.DataFrame, folder: Path) -> list[Path]:
    """A job's figures as PNG.

    Args:
        effects: from `statistics.effects`.
        folder: the output folder.
    """
    paths = []
    for (_, task, pivot, *where), part in effects[effects["n_tf"] > 0].groupby(KIND, sort=False):
        words = [task, *where, *([] if pivot == ENGLISH else [f"from_{pivot}"])]
        stem = folder / "_".join(["patching", *(style.slug(str(word)) for word in words)])
        for name, figure in figures(part):
            paths += style.save(figure, stem.with_name(f"{stem.name}_{name}"), ("png",))
    return paths


def draw_translation(effects: pd.DataFrame, folder: Path) -> list[Path]:
    """A job's figures of translations as PNG, from `statistics.effects` of `translation_patching`."""
    paths = []
    for key, part in effects.groupby(KIND_TRANSLATION, sort=False):
        stem = "_".join(["translation_patching", *(style.slug(str(word)) for word in key[2:])])
        paths += style.save(partial(translation, part), folder / stem, ("png",))
    return paths


def figures(part: pd.DataFrame) -> list[tuple[str, Any]]:
    """(name, drawing function) of each figure for one kind of patch (`KIND`); English runs are in tables only."""
    part = part[~part["condition"].astype(str).map(is_kept).astype(bool)]
    if part.empty:
        return []
    chosen = part[part["condition"] == lead(part)]
    if (part["head"] >= 0).any():
        return [("heads", partial(grid, chosen, "head"))]
    learned = part["condition"].astype(str).map(map_of) != ""
    found = [("correction", partial(correction, part[~learned]))] if not learned.all() else []
    if learned.any():
        found.append(("maps", partial(correction, part[learned | (part["condition"] == TREATMENT)])))
    if part["language"].nunique() > 1:
        found.append(("languages", partial(grid, chosen, "language")))
    return found


def lead(part: pd.DataFrame) -> str:
    """The condition of the maps: the treatment, or the first one if there is no treatment."""
    conditions = [str(c) for c in part["condition"].unique()]
    return TREATMENT if TREATMENT in conditions else conditions[0]


def pooled(part: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Correction rates over all rows with equal values of `by`; every TF item counts once."""
    sums = part.groupby(list(by), sort=False)[["n_tf", "corrected"]].sum().reset_index()
    return sums.assign(rate=sums["corrected"] / sums["n_tf"].where(sums["n_tf"] > 0))


def correction(part: pd.DataFrame) -> Figure:
    """Share of TF items that become right, by layer, with one line per condition; the treatment's line is thick. A
    map's placebos have its colour: dashed with shuffled pairs, dotted with a random direction.

    Args:
        part: effects of one kind of patch. With a single language the treatment's bootstrap interval is shaded.
    """
    table = pooled(part, ["condition", "layer"]).pivot(index="condition", columns="layer", values="rate")
    interval = _interval(part, "correction")
    top = max(0.05, 1.08 * float(np.nanmax(table.to_numpy(float))), *(1.04 * np.nanmax(x) for x in interval[1:]))
    figure, axes = _lines(table, interval, -0.02 * top, top, part["pivot_language"].iloc[0])
    axes.set_ylabel("share of TF items corrected")
    labels.settle(figure)
    style.set_title(axes, _title(part), _below(part))
    return figure


def translation(part: pd.DataFrame) -> Figure:
    """chrF++ of the translations by layer, one line per condition; treatment: thick line, unpatched: dashed line.

    Args:
        part: `statistics.effects` of `translation_patching`, for one kind of patch and one direction; several languages
            are averaged. With a single language the interval of the treatment's difference from unpatched is shaded.
    """
    table = part.groupby(["condition", "layer"])["chrf"].mean().unstack("layer")
    before = float(part.drop_duplicates("language")["chrf_unpatched"].mean())
    interval = [before + end for end in _interval(part, "chrf")]
    shown = np.concatenate([table.to_numpy(float).ravel(), [before], *interval])
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    room = max(0.06 * (high - low), 0.5)
    figure, axes = _lines(table, interval, low - room, high + room)
    axes.axhline(before, color="#555555", linewidth=1.0, linestyle="--")
    if look.current() is None:  # in a paper the caption says it
        axes.annotate(
            "unpatched", (0, before), (4, 3), ("axes fraction", "data"), textcoords="offset points", fontsize=8
        )
    axes.set_ylabel("chrF++")
    labels.settle(figure)
    dashed = "" if look.current() is None else "; dashed: unpatched"
    below = f"{_whose(part, 'mean over ')}, n = {int(part['n'].max()):,} sentences{dashed}"
    style.set_title(axes, _title(part), below)
    return figure


def _interval(part: pd.DataFrame, of: str) -> list[NDArray[np.float64]]:
    """Both ends of the treatment's interval by layer; none unless its rows cover one language and all layers."""
    own = part[part["condition"] == TREATMENT].sort_values("layer")
    is_whole = part["language"].nunique() == 1 and len(own) == part["layer"].nunique()
    return [own[f"{of}_{end}"].to_numpy(float) for end in ("low", "high")] if is_whole else []


def _lines(
    table: pd.DataFrame, interval: Sequence[Any], bottom: float, top: float, pivot: Any = ENGLISH
) -> tuple[Figure, Any]:
    """One line per condition, labelled at its end.

    Args:
        table: one row per condition, one column per layer.
        interval: low and high of the treatment, by layer; may be empty.
        bottom: lower end of the axis.
        top: upper end of the axis.
        pivot: the code of the language whose activations replace the others'.
    """
    order = [TREATMENT, *NAMES]
    names = sorted(table.index, key=lambda c: order.index(c) if c in order else len(order))
    layers = table.columns.to_numpy(int)
    figure, axes = style.new_figure(9.0, 4.6, right=2.35)
    leads = {name: treatment_of(name) if is_placebo(name) else name for name in names}
    palette = [*style.OKABE_ITO, "#882255", "#999933", "#332288"] * 2
    shared = dict(zip(dict.fromkeys(leads.values()), palette, strict=False))
    colours = {name: shared[lead] for name, lead in leads.items()}
    for name in reversed(names):
        dashes = ("--" if "shuffled" in name else ":") if is_placebo(name) else "-"
        width = 2.8 if name == TREATMENT else 1.4
        axes.plot(layers, table.loc[name].to_numpy(float), color=colours[name], linestyle=dashes, linewidth=width)
        if look.current() is not None:  # the names are too long for a column: in the legend, in their order
            axes.lines[-1].set_label(condition_name(name, pivot))
    if interval:
        axes.fill_between(layers, *interval, color=colours[TREATMENT], alpha=0.15, linewidth=0)
    axes.set_ylim(bottom, top)
    axes.set_xlim(layers[0] - 0.4, layers[-1] + 0.4)
    style.layer_axis(axes, layers)
    if look.current() is not None:
        labels.below(figure, list(reversed(axes.lines)))
        return figure, axes
    texts = [
        {"s": condition_name(name, pivot), "fontsize": 8.5, "color": colours[name], "line": colours[name]}
        | {"weight": "bold" if name == TREATMENT else "normal"}
        for name in names
    ]
    ends = table.loc[names, layers[-1]].to_numpy(float)
    labels.end_labels(axes, ends, texts, layers[-1], 0.03, 1.02 * (top - bottom) * 0.17 / 3.4)
    return figure, axes


def grid(part: pd.DataFrame, by: str) -> Figure:
    """Share of TF items that become right, language (or head) by layer.

    Args:
        part: effects of one kind of patch and one condition.
        by: ``language`` or ``head``.
    """
    table = pooled(part, [by, "layer"]).pivot(index=by, columns="layer", values="rate")
    if by == "language":
        table = table.loc[table.max(axis="columns").sort_values(ascending=False).index]
    codes = {str(name): str(name) for name in table.index} if by == "language" else {}
    names = [str(name) for name in (look.shown(pd.Series(table.index.astype(str))) if codes else table.index)]
    by_name = dict(zip(names, codes, strict=False))
    figure, axes = rows.layer_map(table, names, by_name, "share of TF items corrected", left=0.2)
    axes.set_ylabel(by if by == "head" else "")
    condition = condition_name(str(part["condition"].iloc[0]), part["pivot_language"].iloc[0])
    style.set_title(axes, _title(part), f"replaced by: {condition}; {_below(part)}")
    return figure


def _title(part: pd.DataFrame) -> str:
    row = next(part.itertuples())
    direction = f", {row.direction}" if "direction" in part else ""
    return f"{style.task_name(part)}{direction}, patched: {kind_name(row)}"


def _whose(part: pd.DataFrame, several: str = "") -> str:
    languages = sorted(part["language"].astype(str).unique())
    return name_of(languages[0]) if len(languages) == 1 else f"{several}{len(languages)} languages"


def _below(part: pd.DataFrame) -> str:
    n = int(part.groupby(["language", "pivot"], observed=True)["n_tf"].max().sum())
    pivot = name_of(part["pivot_language"].iloc[0])
    return f"{_whose(part)}, n = {n:,} items right in {pivot} and wrong unpatched"
