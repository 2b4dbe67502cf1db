"""Figures of runs and reports. Each function draws one figure; only `save` and `layer_curves` touch files.

matplotlib is imported when a figure is drawn, without pyplot: no global state, and importing this module costs nothing.
Colours are told apart with any colour vision (Okabe and Ito's, or cividis and viridis for what is ordered).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
BLUE, ORANGE, GREEN, PINK = OKABE_ITO[:4]
INK, GRID = "#222222", "#DDDDDD"
METRICS = {"dali": "DALI", "dali_strong": "DALI$_S$", "mexa_t": "MEXA$_T$", "mexa": "MEXA"}
POOLINGS = {"last": "last token", "weighted": "position-weighted"}
TASKS = {"belebele": "Belebele", "xcopa": "XCOPA", "xstorycloze": "XStoryCloze", "flores": "FLORES+"}
SCORES = {"chrf": "chrF++", "bleu": "BLEU", "spbleu": "spBLEU", "comet": "COMET", "cometkiwi": "COMETKiwi"}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "svg.hashsalt": "align_pipeline",
}


def layer_curves(alignment: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the share of aligned items by layer, a line per language.

    Args:
        alignment: as `ALIGNMENT`, of one or several models and tasks.
        folder: where the files go.

    Returns:
        one PNG per task, metric and pooling: ``curves_<task>_<metric>_<pooling>.png``, the model's name after
        ``curves_`` if there are several models.
    """
    if alignment.empty:
        return []
    keys = ["model", "task", "metric", "pooling"]
    shares = alignment[alignment["language"] != ENGLISH].groupby([*keys, "language", "pivot", "layer"], observed=True)
    cells = shares["value"].agg(share="mean", n="size").reset_index()
    several = cells["model"].nunique() > 1
    paths = []
    for (model, task, metric, pooling), part in cells.groupby(keys, observed=True):
        name = "_".join(slug(str(word)) for word in ("curves", *([model] if several else []), task, metric, pooling))
        paths += save(lambda part=part: curves(part), folder / name, ("png",))
    return paths


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def save(draw: Any, stem: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw a figure in the house style and write it, atomically, as ``<stem>.<format>``.

    Args:
        draw: takes nothing and returns the figure.
        stem: path without ending.
        formats: ``png``, ``svg``.
    """
    paths = []
    with style():
        figure = draw()
        for form in formats:
            path = stem.with_name(f"{stem.name}.{form}")
            partial = path.with_name(f".{path.name}.partial")
            metadata = {"Date": None} if form == "svg" else {"Software": None}  # same tables, same bytes
            try:
                with writing(path.parent):
                    figure.savefig(partial, format=form, dpi=130, metadata=metadata)
                    os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            paths.append(path)
    return paths


@contextmanager
def style() -> Iterator[None]:
    """The look that all figures share."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def _figure(width: float, height: float, left: float = 0.75, right: float = 0.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; all sizes in inches. Fixed margins: layout engines draw everything twice more."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes(_inside(width, height, left, right))


def _inside(
    width: float, height: float, left: float, right: float, bottom: float = 0.55, top: float = 0.62
) -> tuple[float, float, float, float]:
    return left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height


def _room(labels: Sequence[str], size: float) -> float:
    """Inches that labels of a font size take on the left, tick included."""
    return 0.2 + max(map(len, labels), default=0) * size * 0.62 / 72


def _name(part: pd.DataFrame) -> str:
    """Task and metric of the rows, as a title."""
    row = part.iloc[0]
    return f"{TASKS.get(row['task'], row['task'])}, {_metric(row['metric'], row['pooling'])}"


def _metric(metric: Any, pooling: Any, where: str = "") -> str:
    return f"{METRICS.get(metric, metric)} ({POOLINGS.get(pooling, pooling)}{where})"


def _title(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, pad=22)
    axes.annotate(below, (0, 1), (0, 6), "axes fraction", textcoords="offset points", fontsize=8.5, color="#555555")


def _items(n: pd.Series[Any]) -> str:
    low, high = int(n.min()), int(n.max())
    return f"n = {low:,} items" if low == high else f"n = {low:,} to {high:,} items"


def _languages(part: pd.DataFrame) -> pd.Series[Any]:
    """What a language is called in a figure: its code, and its pivot only where that is needed."""
    twice = part.drop_duplicates(["language", "pivot"])["language"].duplicated().any()
    language = part["language"].astype(str)
    return language + " (" + part["pivot"].astype(str) + ")" if twice else language


def curves(part: pd.DataFrame, last: int | None = None) -> Figure:
    """Share of aligned items by layer, a line and a label per language; a dot marks each language's best layer.

    Args:
        part: one task's, metric's and pooling's language, pivot, layer, share and n.
        last: layer L, after the final norm, which cannot be the best; default: the highest of several layers.
    """
    from matplotlib import colormaps

    table = part.assign(label=_languages(part)).pivot(index="label", columns="layer", values="share")
    layers = table.columns.to_numpy(int)
    inner = layers < (layers[-1] if last is None else last)
    inner = inner if inner.any() else ~inner
    best = table.loc[:, inner].max(axis="columns")
    where = table.loc[:, inner].fillna(-1).idxmax(axis="columns")
    names = [str(name) for name in best.sort_values(ascending=False).index]
    count = len(names)
    few = count <= len(OKABE_ITO)
    shade = colormaps["viridis"]
    colours = {k: OKABE_ITO[i] if few else shade(0.92 * i / max(count - 1, 1)) for i, k in enumerate(names)}
    size = 8.5 if count <= 25 else 6.2
    gap = 0.155 if count <= 25 else 0.108  # inches between labels
    height = max(4.4, gap * count + 1.3)
    shown = {name: f"{name}  {best[name]:.2f} at {where[name]}" for name in names}
    figure, axes = _figure(9.0, height, right=0.45 + max(map(len, shown.values())) * size * 0.6 / 72)
    for name in names:
        values = table.loc[name].to_numpy(float)
        axes.plot(layers, values, color=colours[name], linewidth=1.8 if count <= 12 else 0.9, alpha=0.95, zorder=2)
        axes.plot(where[name], best[name], "o", color=colours[name], markersize=5 if count <= 25 else 3, zorder=3)
    top = max(0.05, float(np.nanmax(table.to_numpy(float))) * 1.06)
    axes.set_ylim(-0.02 * top, top)
    axes.set_xlim(layers[0] - 0.4, layers[-1] + 0.4)
    axes.set_xticks(_ticks(layers))
    axes.set_xlabel("layer (hidden state)")
    axes.set_ylabel("share of items aligned")
    ends = {name: float(table.loc[name].dropna().to_numpy(float)[-1]) for name in names}
    spots = _spread(np.array([ends[k] for k in names]), 1.04 * top * gap / (height - 1.2), -0.02 * top, top)
    edge, gutter = layers[-1] + 0.4, 0.05 * (layers[-1] - layers[0] + 0.8)
    for name, spot in zip(names, spots, strict=True):
        leader = ([layers[-1], edge, edge + gutter], [ends[name], ends[name], spot])
        axes.plot(*leader, color=colours[name], linewidth=0.5, clip_on=False, zorder=1.5)
        colour = colours[name] if few else INK
        axes.text(edge + 1.15 * gutter, spot, shown[name], fontsize=size, color=colour, va="center")
    share = "dot and number: best layer"
    if inner.sum() == len(layers) - 1 and len(layers) == layers[-1] + 1:
        share += f"; layer {layers[-1]} (after the final norm) is not counted"
    _title(axes, _name(part) if "task" in part else "", f"{count} languages, {_items(part['n'])}; {share}")
    return figure


def _ticks(layers: NDArray[Any]) -> list[int]:
    if len(layers) <= 12:
        return [int(k) for k in layers]
    step = next(s for s in (2, 4, 5, 8, 10, 16, 20, 50, 1000) if (layers[-1] - layers[0]) / s <= 12)
    return [int(k) for k in range(int(layers[0]), int(layers[-1]) + 1, step)]


def _spread(values: NDArray[Any], gap: float, low: float, high: float) -> NDArray[Any]:
    """Positions near `values` that are `gap` apart and, where they fit, within the limits."""
    order = np.argsort(values, kind="stable")
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    # least squares under the gaps: pool neighbours that would be too close, each pool around its own mean
    pools: list[list[float]] = []
    for i, value in enumerate(values[order] - gap * np.arange(len(values))):
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append([(a * n + b * m) / (n + m), n + m])
        del i
    flat = np.concatenate([np.full(int(n), mean) for mean, n in pools])
    flat = np.clip(flat, low, high - gap * (len(values) - 1)) + gap * np.arange(len(values))
    placed = np.empty(len(values))
    placed[order] = flat
    return placed


def heatmap(part: pd.DataFrame) -> Figure:
    """Share of aligned items, language by layer, languages sorted by their best share; a ring marks the best layer."""
    table = part.assign(label=_languages(part)).pivot(index="label", columns="layer", values="share")
    best = part[part["best_layer"]].assign(label=_languages).set_index("label")[["share", "layer"]]
    table = table.loc[best.sort_values("share", ascending=False).index]
    layers = table.columns.to_numpy(int)
    count = len(table)
    height = max(2.6, (0.125 if count > 30 else 0.2) * count + 1.4)
    size = 6.2 if count > 30 else 8.5
    left = _room([str(name) for name in table.index], size)
    figure, axes = _figure(9.0, height, left=left, right=1.0)
    image = axes.imshow(table.to_numpy(float), aspect="auto", cmap="cividis", vmin=0, interpolation="nearest")
    at = np.searchsorted(layers, best.loc[table.index, "layer"].to_numpy())
    ring = 4.0 if count > 30 else 6.0
    for colour, wider in (("black", 1.4), ("white", 0.0)):  # seen on dark and on light
        axes.plot(at, np.arange(count), "o", markerfacecolor="none", markeredgecolor=colour, markersize=ring + wider)
    ticks = _ticks(layers)
    axes.set_xticks(
        [int(np.searchsorted(layers, k)) for k in ticks if k in layers], [str(k) for k in ticks if k in layers]
    )
    axes.set_yticks(np.arange(count), list(table.index), fontsize=size)
    axes.grid(visible=False)
    axes.set_xlabel("layer (hidden state)")
    tall = min(height - 1.17, 3.0)
    bar = figure.add_axes((8.12 / 9, (height - 0.62 - tall) / height, 0.16 / 9, tall / height))
    figure.colorbar(image, cax=bar, label="share of items aligned")
    _title(axes, _name(part), f"{count} languages, {_items(part['n'])}; ring: best layer")
    return figure


def scatter(part: pd.DataFrame, numbers: pd.Series[Any], classes: pd.Series[Any]) -> Figure:
    """A language's accuracy against its alignment, max over layers, with the language's code.

    Args:
        part: rows of `study.points` with ``reduce`` max.
        numbers: their row of `languages.language_level`.
        classes: resource class, 0 to 5, by FLORES code.
    """
    from matplotlib import colormaps

    figure, axes = _figure(9.0, 6.4)
    x, y = part["alignment"].to_numpy(float), part["accuracy"].to_numpy(float)
    own = [None if pd.isna(c) else int(c) for c in classes.reindex(part["language"])]
    for value in sorted({c for c in own if c is not None}):
        chosen = np.array([c == value for c in own])
        colour = colormaps["cividis"](1 - float(value) / 5 * 0.95)
        axes.plot(
            x[chosen],
            y[chosen],
            "o",
            color=colour,
            markersize=6,
            markeredgecolor="#444444",
            markeredgewidth=0.4,
            label=f"{value}",
        )
    unknown = np.array([c is None for c in own])
    if unknown.any():
        axes.plot(x[unknown], y[unknown], "o", color="#BBBBBB", markersize=6, label="unknown")
    axes.margins(0.06, 0.07)
    axes.set_xlabel("share of items aligned, max over layers")
    axes.set_ylabel("accuracy")
    axes.legend(title="resource class", loc="lower right", fontsize=8, title_fontsize=8)
    axes.autoscale_view()  # placing labels needs the final limits
    _place(axes, x, y, [str(label) for label in _languages(part)])
    r = "" if pd.isna(numbers["pearson"]) else f", Pearson r = {numbers['pearson']:.2f}"
    if r and not pd.isna(numbers["pearson_low"]):
        r += f" [{numbers['pearson_low']:.2f}, {numbers['pearson_high']:.2f}]"
    _title(axes, _name(part), f"n = {len(part)} languages{r}")
    return figure


def _place(axes: Axes, x: NDArray[Any], y: NDArray[Any], labels: Sequence[str]) -> None:
    """Write a label beside each point, where it covers neither point nor label if such a place is near."""
    size = 8 if len(labels) <= 25 else 6
    points = axes.transData.transform(np.column_stack([x, y]))
    dots = axes.figure.get_dpi() / 72
    high = size * dots * 1.05
    taken = [(px - 4 * dots, py - 4 * dots, px + 4 * dots, py + 4 * dots) for px, py in points]
    back = axes.transData.inverted()
    for i in np.lexsort((x, y)):
        wide = len(labels[i]) * size * dots * 0.6
        px, py = points[i]
        box = (px, py, px, py)
        for ring in range(1, 9):
            found = False
            for angle in (0, 180, 45, 135, -45, -135, 90, -90):
                dx, dy = np.cos(np.radians(angle)), np.sin(np.radians(angle))
                left = px + dx * 5 * dots * ring + (0 if dx > 0.1 else -wide if dx < -0.1 else -wide / 2)
                low = py + dy * 5 * dots * ring - high / 2
                box = (left, low, left + wide, low + high)
                if not any(a < box[2] and c > box[0] and b < box[3] and d > box[1] for a, b, c, d in taken):
                    found = True
                    break
            if found:
                break
        taken.append(box)
        (left, low), (right, _) = back.transform([(box[0], (box[1] + box[3]) / 2), (box[2], box[3])])
        if ring > 1:
            near = min(max(x[i], left), right)
            axes.plot([x[i], near], [y[i], low], color="#AAAAAA", linewidth=0.4, zorder=1)
        axes.text(left, low, labels[i], fontsize=size, va="center")


def correlation_by_layer(level: pd.DataFrame) -> Figure:
    """Pearson correlation over languages by layer, a line per metric, with its bootstrap interval."""
    figure, axes = _figure(9.0, 3.8)
    for i, ((metric, pooling, source), part) in enumerate(level.groupby(["metric", "pooling", "alignment_task"])):
        part = part[part["pearson"].notna()].sort_values("layer")
        colour = OKABE_ITO[i % len(OKABE_ITO)]
        layer = part["layer"].to_numpy(int)
        label = _metric(metric, pooling, "" if source == part_task(level) else f", {source}")
        axes.plot(layer, part["pearson"].to_numpy(float), color=colour, linewidth=1.8, label=label)
        bounds = part[["pearson_low", "pearson_high"]].to_numpy(float)
        axes.fill_between(layer, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="#888888", linewidth=0.8)
    lowest = float(np.nanmin(level[["pearson", "pearson_low"]].to_numpy(float)))
    axes.set_ylim(max(-1.02, min(lowest, 0) - 0.25), 1.02)  # room for the legend
    axes.set_xlabel("layer (hidden state)")
    axes.set_ylabel("Pearson r with accuracy")
    axes.legend(loc="lower center", ncols=4, fontsize=8)
    n = level["n"]
    count = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    task = part_task(level)
    _title(
        axes,
        f"{TASKS.get(task, task)}: alignment against accuracy, layer by layer",
        f"n = {count} languages; band: 95% bootstrap interval",
    )
    return figure


def part_task(table: pd.DataFrame) -> str:
    """The one task that the rows are of."""
    return str(table["task"].iloc[0])


def transfer(part: pd.DataFrame, odds: pd.DataFrame) -> Figure:
    """Share aligned of TS and of TF by layer, and the odds ratio pooled over languages.

    Args:
        part: rows of `items.instance_level`, contrast ts_tf, of one metric.
        odds: rows of `items.regression`, method cmh, contrast ts_tf, at each layer.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.8))
    above = figure.add_axes(_inside(9.0, 5.8, 0.85, 0.2, bottom=2.55))
    below = figure.add_axes(_inside(9.0, 5.8, 0.85, 0.2, top=3.45), sharex=above)
    above.tick_params(labelbottom=False)
    both = part[(part["n_a"] > 0) & (part["n_b"] > 0)]
    means = both.groupby("layer")[["mean_a", "mean_b"]].mean()
    for column, colour, text in (("mean_a", BLUE, "TS: right here too"), ("mean_b", ORANGE, "TF: wrong here")):
        above.plot(means.index.to_numpy(int), means[column].to_numpy(float), color=colour, linewidth=2, label=text)
    above.set_ylim(bottom=0)
    above.set_ylabel("share aligned,\nmean over languages")
    above.legend(fontsize=8.5, title="of the items right in English", title_fontsize=8.5, alignment="left")
    known = odds[odds["odds_ratio"].notna()].sort_values("layer")
    layer, ratio = known["layer"].to_numpy(int), known["odds_ratio"].to_numpy(float)
    bounds = known[["low", "high"]].to_numpy(float)
    below.fill_between(layer, bounds[:, 0], bounds[:, 1], color=GREEN, alpha=0.2, linewidth=0)
    below.plot(layer, ratio, color=GREEN, linewidth=2)
    below.axhline(1, color="#888888", linewidth=0.8)
    below.set_yscale("log")
    _plain_log(below, np.concatenate([ratio, bounds.ravel()]))
    below.set_ylabel("pooled odds ratio\n(CMH), 95%")
    below.set_xlabel("layer (hidden state)")
    sizes = part.drop_duplicates(["language", "pivot"])
    count = both.drop_duplicates(["language", "pivot"]).shape[0]
    _title(
        above,
        _name(part),
        f"{count} languages, n = {sizes['n_a'].sum():,} TS and {sizes['n_b'].sum():,} TF items over all",
    )
    return figure


def _plain_log(axes: Axes, values: NDArray[Any]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if len(values) else (0.9, 1.1)
    low, high = max(min(low, 0.95), 0.02), min(max(high, 1.05), 50)
    steps = [0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50]
    shown = [s for s in steps if low / 1.02 <= s <= high * 1.02]
    axes.set_ylim(low / 1.03, high * 1.03)
    step = -(-len(shown) // 7)
    axes.yaxis.set_major_locator(FixedLocator(shown[::step]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def forest(part: pd.DataFrame) -> Figure:
    """TS minus TF in share aligned at each language's best layer, with its interval."""
    part = part[part["difference"].notna()].sort_values("difference", ignore_index=True)
    count = len(part)
    names, size = [str(k) for k in _languages(part)], 6.2 if count > 30 else 8.5
    height = max(2.4, (0.125 if count > 30 else 0.24) * count + 1.4)
    figure, axes = _figure(9.0, height, left=_room(names, size))
    y = np.arange(count)
    sure = (part["p_holm"] < 0.05).to_numpy(bool)
    for chosen, colour, text in ((sure, BLUE, "Holm p < 0.05"), (~sure, "#999999", "not significant")):
        if not chosen.any():
            continue
        middle = part.loc[chosen, "difference"].to_numpy(float)
        spread = np.abs(part.loc[chosen, ["low", "high"]].to_numpy(float).T - middle)
        axes.errorbar(middle, y[chosen], xerr=spread, fmt="o", color=colour, markersize=4, linewidth=1.1, label=text)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(y, names, fontsize=size)
    axes.set_ylim(-0.8, count - 0.2)
    axes.set_xlabel("share aligned, TS minus TF, at the language's best layer (95% interval)")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=8)
    _title(
        axes,
        _name(part),
        f"{count} languages; {int(sure.sum())} with TS aligned more often (one-sided z, Holm over layers)",
    )
    return figure


def odds(part: pd.DataFrame) -> Figure:
    """Odds ratio of being right for aligned against other items at the best layers, by metric and adjustment."""
    part = part.reset_index(drop=True)
    metrics = list(part[["metric", "pooling"]].drop_duplicates().itertuples(index=False, name=None))
    kinds = list(part["adjusted_for"].drop_duplicates())
    names = [_metric(m, p) for m, p in metrics]
    figure, axes = _figure(9.0, 1.5 + 0.3 * len(metrics) * len(kinds), left=1.95, right=2.55)
    for j, kind in enumerate(kinds):
        rows = part[(part["adjusted_for"] == kind) & part["odds_ratio"].notna()]
        at = [
            -metrics.index((m, p)) - 0.22 * (j - (len(kinds) - 1) / 2)
            for m, p in zip(rows["metric"], rows["pooling"], strict=True)
        ]
        ratio = rows["odds_ratio"].to_numpy(float)
        spread = np.abs(rows[["low", "high"]].to_numpy(float).T - ratio)
        axes.errorbar(
            ratio,
            at,
            xerr=spread,
            fmt="o",
            color=OKABE_ITO[j],
            markersize=5,
            linewidth=1.3,
            label=f"adjusted for {kind}",
        )
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_yticks([-i for i in range(len(metrics))], names)
    axes.set_ylim(0.6 - len(metrics), 0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("odds ratio of a right answer, aligned against other items (95% interval)")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    row = part.iloc[0]
    sizes = f"{part['n'].max():,} answers to {part['n_items'].max():,} items in {part['n_languages'].max()} languages"
    below = f"n = {sizes}; errors clustered by item"
    _title(axes, f"{TASKS.get(row['task'], row['task'])}: logistic regression of correctness", below)
    return figure


def reliability(bins: pd.DataFrame) -> Figure:
    """Accuracy against confidence in ten bins: a thin line per language, thick ones for English and for all others."""
    figure, axes = _figure(6.4, 5.6)
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle="--")
    other = bins[bins["language"] != ENGLISH]
    for _, unit in other.groupby(["language", "pivot"]):
        shown = unit[unit["n"] >= 10]  # the accuracy of a handful of items is noise
        axes.plot(shown["confidence"], shown["accuracy"], color=BLUE, linewidth=0.6, alpha=0.25)
    for part, colour, label in (
        (other, BLUE, "other languages"),
        (bins[bins["language"] == ENGLISH], ORANGE, "English"),
    ):
        weights = part["n"]
        sums = (
            part.assign(c=part["confidence"] * weights, a=part["accuracy"] * weights)
            .groupby("bin")[["c", "a", "n"]]
            .sum()
        )
        if len(sums):
            axes.plot(
                sums["c"] / sums["n"], sums["a"] / sums["n"], "o-", color=colour, linewidth=2, markersize=5, label=label
            )
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("confidence in the answer")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left", fontsize=8.5)
    count = other.drop_duplicates(["language", "pivot"]).shape[0]
    task = part_task(bins)
    _title(
        axes,
        f"{TASKS.get(task, task)}: reliability",
        f"n = {bins['n'].sum():,} answers; {count} languages (thin) and English",
    )
    return figure


def translation_scatter(part: pd.DataFrame, numbers: pd.DataFrame) -> Figure:
    """A language's translation quality against its alignment, max over layers, a panel per direction.

    Args:
        part: rows of `translation_analysis.points` of one score, metric and task.
        numbers: their rows of `translation_analysis.level`.
    """
    from matplotlib.figure import Figure

    shown = sorted(part["direction"].unique())
    wide = 5.6
    figure = Figure(figsize=(wide * len(shown), 5.2))
    for i, direction in enumerate(shown):
        left, bottom, width, height = _inside(wide, 5.2, 0.75, 0.2)
        axes = figure.add_axes(((i + left) / len(shown), bottom, width / len(shown), height))
        rows = part[part["direction"] == direction]
        x, y = rows["alignment"].to_numpy(float), rows["quality"].to_numpy(float)
        axes.plot(x, y, "o", color=OKABE_ITO[i], markersize=6, markeredgecolor="#444444", markeredgewidth=0.4)
        axes.margins(0.16, 0.08)
        axes.set_xlabel("share of items aligned, max over layers")
        axes.set_ylabel(f"mean {SCORES[rows['score'].iloc[0]]} of the sentences")
        axes.autoscale_view()
        _place(axes, x, y, [str(language) for language in rows["language"]])
        found = numbers.loc[numbers["direction"] == direction].iloc[0]
        r = "" if pd.isna(found["pearson"]) else f", Pearson r = {found['pearson']:.2f}"
        if r and not pd.isna(found["pearson_low"]):
            r += f" [{found['pearson_low']:.2f}, {found['pearson_high']:.2f}]"
        _title(axes, f"{direction}, {_metric(found['metric'], found['pooling'])}", f"n = {len(rows)} languages{r}")
    return figure


def directions(part: pd.DataFrame) -> Figure:
    """Translation into English against translation out of it: rows of `translation_analysis.asymmetry`."""
    figure, axes = _figure(6.4, 5.8)
    x, y = part["en_xx"].to_numpy(float), part["xx_en"].to_numpy(float)
    ends = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    axes.plot(ends, ends, color="#888888", linewidth=0.8, linestyle="--")
    axes.plot(x, y, "o", color=BLUE, markersize=6, markeredgecolor="#444444", markeredgewidth=0.4)
    axes.margins(0.12, 0.08)
    axes.set_xlabel("English into the language (en-xx)")
    axes.set_ylabel("the language into English (xx-en)")
    axes.autoscale_view()
    _place(axes, x, y, [str(language) for language in part["language"]])
    sure = int((part["p_holm"] < 0.05).sum())
    below = f"n = {len(part)} languages; {sure} with a difference (Wilcoxon over sentences, Holm p < 0.05)"
    _title(axes, f"Both directions, mean {SCORES[part['score'].iloc[0]]}", below)
    return figure


def rank_biserial(part: pd.DataFrame) -> Figure:
    """Rank-biserial correlations with their intervals: rows of `translation_analysis.sentences` at the best layers."""
    part = part[part["rank_biserial"].notna()]
    order = part.groupby("language")["rank_biserial"].mean().sort_values().index
    names, size = [str(name) for name in order], 6.2 if len(order) > 30 else 8.5
    height = max(2.4, (0.14 if len(order) > 30 else 0.3) * len(order) + 1.4)
    figure, axes = _figure(9.0, height, left=_room(names, size))
    shown = sorted(part["direction"].unique())
    for i, direction in enumerate(shown):
        rows = part[part["direction"] == direction]
        at = order.get_indexer(rows["language"]) + 0.16 * (2 * i - len(shown) + 1)
        middle = rows["rank_biserial"].to_numpy(float)
        spread = np.abs(rows[["low", "high"]].to_numpy(float).T - middle)
        axes.errorbar(
            middle, at, xerr=spread, fmt="o", color=OKABE_ITO[i], markersize=4, linewidth=1.1, label=direction
        )
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_yticks(np.arange(len(order)), names, fontsize=size)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.set_xlabel(f"rank-biserial correlation of being aligned with {SCORES[part['score'].iloc[0]]} (95% interval)")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=8)
    row = part.iloc[0]
    _title(
        axes, f"Sentences, {_metric(row['metric'], row['pooling'])}", f"{len(order)} languages, each at its best layer"
    )
    return figure
