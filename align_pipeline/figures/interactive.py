"""The report's main figures as Vega-Lite: hover names a language, a click keeps it, and all figures of a page follow.

A figure here is its Vega-Lite specification and its rows. The rows hold codes; the page's script adds the languages'
names, scripts, families and resource classes, which all figures share, and the colours of the page. It also sets the
parameters ``pinned`` (codes that the reader chose) and ``hovered`` (the code under the pointer) in every figure.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from align_pipeline.config.lang import known_languages, name_of
from align_pipeline.figures.style import CLASSES, MEAN, SHARE, language_names, layer_ticks

UNKNOWN = "unknown"
_IS_CHOSEN = "indexof(pinned, datum.language) >= 0 || hovered == datum.language"
_ANY = "length(pinned) > 0 || hovered != ''"
_TURN = 0.65
"""Names of points further right than this share of the width stand at the left of them."""
_LANGUAGE = {"name": "language", "script": "script", "family": "family", "resource": "resource class"}
"""Titles in tooltips, by field."""


def curves(part: pd.DataFrame, small: bool = False, what: str = SHARE) -> Markup:
    """Share of aligned items, or mean number, by layer, a line per language; dot: best layer; dashed: chance.

    Args:
        part: language, pivot, layer, share, best_layer and chance (missing if it is not known) of one model, task and
            metric.
        small: for a card: no legend, the mean over languages, and no range of chance.
        what: is shown, `style.SHARE` or `style.MEAN`.
    """
    import altair as alt

    rows = {**_units(part), "layer": part["layer"], "share": part["share"].round(4), "best": _best(part, what)}
    x = alt.X("layer:Q", title="layer (hidden state)", axis=_layers(part), scale=alt.Scale(nice=False, zero=False))
    y = alt.Y("share:Q", title=what, scale=alt.Scale(zero=True))
    base = _base(alt)
    usual = 0.4 if small else 0.75
    lines = base.mark_line(clip=True).encode(
        x,
        y,
        detail="unit:N",
        color=_class(alt, part, not small),
        opacity=_faint(alt, usual),
        strokeWidth=_thick(alt, 1.3, 3),
    )
    dots = (
        base.transform_filter("datum.best")
        .mark_circle(size=28)
        .encode(x, y, color=_class(alt, part, not small), opacity=_faint(alt, 0.9))
    )
    while_none = alt.when(_ANY).then(alt.value(0.15)).otherwise(alt.value(1))
    mean = base.mark_line(clip=True, strokeWidth=3).encode(x, y.aggregate("mean"), opacity=while_none)
    known = part.loc[part["chance"].notna()].groupby("layer")["chance"].agg(["mean", "min", "max"]).round(4)
    chance = alt.Chart(alt.InlineData(json.loads(known.reset_index().to_json(orient="records")))).encode(x)
    dashed = chance.mark_line(strokeDash=[5, 4], clip=True, color="#808080").encode(alt.Y("mean:Q"))
    band = chance.mark_area(opacity=0.2, clip=True, color="#808080").encode(alt.Y("min:Q"), alt.Y2("max:Q"))
    chances = [dashed] if small else [band, dashed]
    return _packed(
        alt.layer(
            *(chances if len(known) else []),
            lines,
            *([mean] if small else []),
            dots,
            _near(alt, base, x, y, what=what),
            _names(base, "layer", x, y, "datum.best"),
        ),
        rows,
        220 if small else 380,
    )


def scatter(part: pd.DataFrame, small: bool = False, against: str = "accuracy", what: str = SHARE) -> Markup:
    """Accuracy against alignment, a point per language with its standard error; dashed: guessing.

    Args:
        part: language, pivot, alignment, accuracy, stderr and chance of one model, task and metric; the last two may be
            missing.
        small: for a card: no legend, and no names before a point is chosen.
        against: what the column accuracy holds, in words.
        what: the column alignment holds, likewise.
    """
    import altair as alt

    rows = {**_units(part), "alignment": part["alignment"].round(4), "accuracy": part["accuracy"].round(4)}
    rows |= {"low": (part["accuracy"] - part["stderr"]).round(4), "high": (part["accuracy"] + part["stderr"]).round(4)}
    rows["named"] = pd.Series(0 if small else _apart(part), index=part.index)
    ticks, roomy = alt.Axis(tickCount=5 if small else 10), alt.Scale(zero=False, padding=12)
    x = alt.X("alignment:Q", title=f"{what} (best layer)", scale=roomy, axis=ticks)
    y = alt.Y("accuracy:Q", title=against, scale=alt.Scale(zero=False, padding=8))
    base, guess = _base(alt), part["chance"].mean()
    bars = base.mark_rule(color="#9a9a9a").encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), opacity=_faint(alt, 0.5))
    points = base.mark_circle(stroke="#444444", strokeWidth=0.5).encode(
        x, y, color=_class(alt, part, not small), opacity=_faint(alt, 0.95), size=_thick(alt, 60, 170)
    )
    line = alt.Chart(alt.InlineData([{"accuracy": guess}])).encode(y)
    lines = [line.mark_rule(strokeDash=[5, 4], color="#808080")] if not pd.isna(guess) else []
    if lines and not small:  # the caption of a card says it
        lines.append(line.mark_text(text="guessing", align="left", baseline="bottom", dx=4, dy=-2, x=0, fontSize=10))
    near = _near(alt, base, x, y, ("alignment", "accuracy"), what)
    return _packed(
        alt.layer(
            *lines, bars, points, near, _names(base, "alignment", x, y, "datum.named && width > 520", always=True)
        ),
        rows,
        240 if small else 420,
    )


def heatmap(part: pd.DataFrame, what: str = SHARE) -> Markup:
    """Share of aligned items, or mean number, language by layer, sorted by the best; a ring marks its layer."""
    import altair as alt

    rows = {**_units(part), "layer": part["layer"], "share": part["share"].round(4), "best": _best(part, what)}
    best = part.assign(unit=rows["unit"])[part["best_layer"].astype(bool)].set_index("unit")["share"]
    best = best.sort_values(ascending=False, kind="stable")
    # rows are named by the script, and sorted as `order` says
    rows["order"] = pd.Series(rows["unit"]).map({unit: place for place, unit in enumerate(best.index)})
    x = alt.X("layer:O", title="layer (hidden state)", axis=_layers(part, labelAngle=0))
    y = alt.Y("label:N", title=None, sort=alt.EncodingSortField("order", op="min"), axis=alt.Axis(labelLimit=170))
    base = _base(alt)
    cells = base.mark_rect().encode(
        x,
        y,
        color=alt.Color(
            "share:Q",
            title=_title(what),
            scale=alt.Scale(scheme="cividis", domainMin=min(0.0, float(part["share"].min()))),
            legend=_legend(alt),
        ),
        opacity=_faint(alt, 1, 0.45),
        tooltip=_tooltip(alt, "layer", "share", what=what),
    )
    at_best = base.transform_filter("datum.best")  # rings that are visible on dark and on light
    rings = [
        at_best.mark_point(size=30, color=c, strokeWidth=w).encode(x, y) for c, w in (("black", 3), ("white", 1.4))
    ]
    return _packed(alt.layer(cells, *rings), rows, {"step": 12 if len(best) > 30 else 18})


def intervals(part: pd.DataFrame, title: str) -> Markup:
    """A difference per language with its interval; 0 is drawn.

    Args:
        part: language, pivot, difference, low, high and sure (whether it is beyond chance over all languages).
        title: of the axis.
    """
    import altair as alt

    rows = {**_units(part), **{name: part[name].astype(float).round(4) for name in ("difference", "low", "high")}}
    rows["found"] = part["sure"].map({True: "p < 0.05 over all languages", False: "undecided"})
    y = alt.Y("label:N", title=None, sort=alt.EncodingSortField("difference", op="min", order="descending"))
    base = _base(alt)
    colour = alt.Color(
        "found:N",
        title=None,
        scale=alt.Scale(domain=["p < 0.05 over all languages", "undecided"], range=["#0072B2", "#8c8c8c"]),
        legend=_legend(alt),
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(
        alt.X("low:Q", title=title), alt.X2("high:Q"), y, color=colour, opacity=_faint(alt, 1)
    )
    dots = base.mark_circle().encode(
        alt.X("difference:Q"),
        y,
        color=colour,
        opacity=_faint(alt, 1),
        size=_thick(alt, 45, 130),
        tooltip=_tooltip(alt, "difference", "low", "high"),
    )
    none = alt.Chart(alt.InlineData([{"difference": 0}])).mark_rule(color="#808080").encode(alt.X("difference:Q"))
    return _packed(alt.layer(none, bars, dots), rows, {"step": 12 if len(part) > 30 else 18})


def about(codes: pd.Series[Any]) -> dict[str, list[str]]:
    """Name, script, family and resource class of languages by code, for the page's script; a code that is not known
    stands for its name."""
    known = {str(one.get("flores")): one for one in reversed(known_languages().values())}
    keys = ("script", "family", "resource")
    return {
        code: [name_of(code), *(str(known.get(code, {}).get(key, UNKNOWN)) for key in keys)]
        for code in sorted(set(codes.astype(str)))
    }


@cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed in one piece of JavaScript, from the package vl-convert."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _units(part: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """The language of each row; `unit`, and `pivot` where a language occurs with several."""
    codes, pivots = part["language"].astype(str), part["pivot"].astype(str)
    twice = part.drop_duplicates(["language", "pivot"])["language"].duplicated().any()
    unit = pd.Series(pd.factorize(codes + " " + pivots)[0], index=part.index)
    return {"language": codes, "unit": unit} | ({"pivot": pivots} if twice else {})


def _best(part: pd.DataFrame, what: str) -> pd.Series[Any]:
    """1 at a language's best layer, if it has an aligned item there."""
    return (part["best_layer"].astype(bool) & ((part["share"] > 0) | (what == MEAN))).astype(int)


def _title(what: str) -> str:
    return "share aligned" if what == SHARE else what


def _apart(part: pd.DataFrame) -> list[int]:
    """1 for the points whose names can be shown without covering each other, 0 for the others; in units of 1/600 of the
    figure's width and 1/400 of its height."""

    def scaled(name: str, size: int, beyond: float | pd.Series[Any] = 0.0) -> list[float]:
        values = part[name].astype(float)
        low, high = (values - beyond).min(), (values + beyond).max()
        return [float(one) for one in (values - low) / ((high - low) or 1) * size]

    x, y = scaled("alignment", 600), scaled("accuracy", 400, part["stderr"].astype(float).fillna(0))
    taken, named = list[tuple[float, ...]](), []
    for px, py, name in zip(x, y, language_names(part), strict=True):
        near, far = 6, 10 + 6.4 * len(str(name))
        ends = (px - far, px - near) if px > _TURN * 600 else (px + near, px + far)
        box = (ends[0], py, ends[1], py + 14)
        free = all(box[0] > b[2] or b[0] > box[2] or box[1] > b[3] or b[1] > box[3] for b in taken)
        free &= not any(box[0] < qx < box[2] and box[1] - 4 < qy < box[3] + 4 for qx, qy in zip(x, y, strict=True))
        if free:
            taken.append(box)
        named.append(int(free))
    return named


def _base(alt: Any) -> Any:
    """A chart of the figure's rows, which the page's script gives."""
    return alt.Chart(alt.NamedData("rows"))


def _layers(part: pd.DataFrame, **more: Any) -> Any:
    import altair as alt

    return alt.Axis(values=layer_ticks(np.unique(part["layer"].to_numpy(int))), format="d", grid=False, **more)


def _legend(alt: Any) -> Any:
    return alt.Legend(orient="top", direction="horizontal")  # its title above, so that it fits a phone


def _class(alt: Any, part: pd.DataFrame, legend: bool) -> Any:
    """Colour by resource class; the legend has the classes that occur."""
    found = {resource for *_, resource in about(part["language"]).values()}
    colours = {str(k): colour for k, colour in CLASSES.items()} | {UNKNOWN: "#8c8c8c"}
    shown = [name for name in colours if name in found]
    scale = alt.Scale(domain=shown, range=[colours[name] for name in shown])
    return alt.Color("resource:N", title="resource class", scale=scale, legend=_legend(alt) if legend else None)


def _faint(alt: Any, usual: float, others: float = 0.12) -> Any:
    """Opacity: languages that are not chosen fade while others are."""
    return alt.when(_IS_CHOSEN).then(alt.value(1)).when(_ANY).then(alt.value(others)).otherwise(alt.value(usual))


def _thick(alt: Any, usual: float, chosen: float) -> Any:
    return alt.when(_IS_CHOSEN).then(alt.value(chosen)).otherwise(alt.value(usual))


def _tooltip(alt: Any, *numbers: str, what: str = SHARE) -> list[Any]:
    named = [alt.Tooltip(f"{field}:N", title=title) for field, title in _LANGUAGE.items()]
    kinds = {"layer": ("O", "d"), **dict.fromkeys(("accuracy", "share", "alignment"), ("Q", ".3f"))}
    titles = dict.fromkeys(("share", "alignment"), _title(what))
    for name in numbers:
        kind, form = kinds.get(name, ("Q", "+.3f"))
        named.append(alt.Tooltip(f"{name}:{kind}", title=titles.get(name, name), format=form))
    return named


def _near(alt: Any, base: Any, x: Any, y: Any, numbers: tuple[str, ...] = ("layer", "share"), what: str = SHARE) -> Any:
    """Invisible points: the one closest to the pointer is hovered."""
    near = alt.selection_point(
        "near", on="pointermove", nearest=True, fields=["language"], clear="pointerout", empty=False
    )
    return (
        base.mark_circle(opacity=0, size=40).encode(x, y, tooltip=_tooltip(alt, *numbers, what=what)).add_params(near)
    )


def _names(base: Any, field: str, x: Any, y: Any, where: str, always: bool = False) -> Any:
    """The names of chosen languages, on the side of their points that has more room; `where` says at which of their
    rows, or with `always` which are named before."""
    import altair as alt

    def side(left: Any, right: Any) -> Any:
        return alt.ExprRef(f"scale('x', datum.{field}) > {_TURN} * width ? {right} : {left}")

    chosen = f"({_IS_CHOSEN}) || (!({_ANY}) && ({where}))" if always else f"({_IS_CHOSEN}) && {where}"
    text = base.transform_filter(chosen).mark_text(align=side("'left'", "'right'"), dx=side(7, -7), dy=-4, fontSize=11)
    return text.encode(x, y, text="label:N")


def _packed(chart: Any, rows: dict[str, Any], height: Any) -> Markup:
    """Specification and rows as JSON that can stand within a script element."""
    import altair as alt

    shared = [alt.param(name="pinned", value=[]), alt.param(name="hovered", value="")]
    spec = chart.add_params(*shared).properties(width="container", height=height).to_dict()
    del spec["$schema"]
    spec["autosize"] = {"type": "fit-x" if isinstance(height, dict) else "fit", "contains": "padding"}
    spec.pop("config", None)
    table = {
        name: pd.Series(values).astype(object).where(pd.notna(values), None).tolist() for name, values in rows.items()
    }
    # what is the same in all rows of a language is given once
    units = {name: table.pop(name) for name in ("language", "pivot") if name in table}
    first = [table["unit"].index(unit) for unit in range(max(table["unit"]) + 1)]
    once = {name: [values[at] for at in first] for name, values in units.items()}
    text = json.dumps(
        {"spec": spec, "units": once, "rows": table}, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
