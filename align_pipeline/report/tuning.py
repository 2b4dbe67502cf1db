"""Tuned models in the report: the tables of all comparisons, and the section in the chapter of the base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import short
from align_pipeline.figures import tuning as figures
from align_pipeline.inference import mediation as linked
from align_pipeline.inference import tuning as paired
from align_pipeline.inference.study import Study
from align_pipeline.inference.verdicts import LEVEL, verdict
from align_pipeline.page.numbers import metric_name, metric_names
from align_pipeline.page.part import CARD, Lead, Part, lead, of_metric
from align_pipeline.page.template import render


def compare(study: Study, cells: pd.DataFrame, summaries: Sequence[Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """Compare every base model with its tuned versions.

    Returns:
        the tables of all base models, by name as in `results.FILES`.

    Raises:
        InputError: a summary does not say enough about a tuned model.
    """
    parts = {
        "": [pd.DataFrame(columns=paired.TUNING)],
        "_alignment": [pd.DataFrame(columns=paired.ALIGNMENT)],
        "_moves": [pd.DataFrame(columns=paired.MOVES)],
        "_mediation": [pd.DataFrame(columns=linked.MEDIATION)],
    }
    for of in paired.pairs(study, paired.versions(summaries)):
        parts[""].append(paired.accuracy(of))
        parts["_moves"].append(paired.moves(of))
        for metric in paired.aligned(study, cells, of):
            parts["_alignment"].append(paired.alignment(of, metric))
            if of.units:
                parts["_mediation"].append(linked.mediation(of, metric))
    families = {"": ("seed", "against"), "_alignment": ("against", "at"), "_moves": ("seed",), "_mediation": ("form",)}
    return {
        f"tuning{name}": paired.adjust(pd.concat(found[1:] or found, ignore_index=True), *families[name])
        for name, found in parts.items()
    }


def notes(study: Study, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on tuned models without their base."""
    return paired.without_base(study, paired.versions(summaries))


_SAID = {"supported": "it rose", "ruled_out": "a gain of 5 points or more is ruled out", "undecided": "undecided"}
QUESTION = "Does tuning raise alignment, and accuracy with it?"


def leads(part: Part) -> list[Lead]:
    """The first treatment, beyond its placebo if it has one, by the first metric; for the top of the page."""
    accuracy, alignment = part.of("tuning"), part.of("tuning_alignment")
    keys, first = ["metric", "pooling", "at"], next(iter(part.metrics), ("", ""))
    alignment = alignment[(alignment[keys] == [*first, "middle_third"]).all(axis="columns")]
    both = accuracy[accuracy["seed"] == paired.MEAN].merge(
        alignment, on=["preset", "role", "seeds", "against", "language", "trained"], suffixes=("", "_aligned")
    )
    where, count = _judged_on(both)
    every = both[both["language"] == where].to_dict("records")
    if not every:
        return []
    chosen = min(every, key=lambda row: (row["role"] != "treatment", row["against"] == paired.BASE))
    names, values = [], []
    changed = [row for row in every if row["against"] == paired.BASE]
    roles = [row["role"] for row in changed]
    for row in changed:
        who = row["role"] if roles.count(row["role"]) == 1 else row["preset"]  # the shorter the better
        for what, end in (("aligned", "_aligned"), ("accuracy", "")):
            names.append(f"{who}: {what}")
            values.append([100 * row[f"{name}{end}"] for name in ("difference", "low", "high")])
    middle, low, high = (list(column) for column in zip(*values, strict=True))
    shown = {
        "model": part.model,
        "row": chosen,
        "aligned": {name: chosen[f"{name}_aligned"] for name in ("difference", "low", "high")},
        "verdicts": [_judged(chosen, end) for end in ("_aligned", "")],
        "name": part.first,
        "count": count,
        "image": part.draw(partial(short.effects, names, middle, low, high, "points"), CARD, "tuning"),
    }
    return [lead(QUESTION, 0, "align_pipeline/report/tuning_lead.html", **shown)]


def _judged(row: Mapping[Any, Any], end: str) -> str:
    """The verdict on a difference of shares in words; a fall is said too."""
    effect, p, adjusted, high = (row[f"{name}{end}"] for name in ("difference", "p", "p_holm", "high"))
    if adjusted < LEVEL and effect < 0:
        return "it fell"
    about = {"effect": effect, "p": p, "p_adjusted": adjusted, "unit": "share of right answers", "limit": high}
    return _SAID[verdict(SimpleNamespace(**about)) or "undecided"]


def show(part: Part) -> Markup:
    """Before and after: accuracy, alignment, which answers moved, and whether the two changes belong together."""
    accuracy, alignment = part.of("tuning"), part.of("tuning_alignment")
    if accuracy.empty and alignment.empty:
        return Markup()
    moves, mediation = part.of("tuning_moves"), part.of("tuning_mediation")
    seen = accuracy if len(accuracy) else alignment
    presets = list(_presets(part, seen))
    codes = seen.loc[~seen["language"].isin(paired.POOLED), ["language", "pivot"]].drop_duplicates()["language"]
    return render(
        "align_pipeline/report/tuning.html",
        model=part.model,
        treatments=[one for one in presets if one.role == "treatment"],
        others=[one for one in presets if one.role != "treatment"],
        presets=presets,
        names=metric_names(part.metrics),
        changes=part.draw(partial(figures.changes, accuracy), "tuning") if len(accuracy) else "",
        curves=list(_curves(part, alignment)),
        accuracy=accuracy[accuracy["seed"] == paired.MEAN],
        alignment=alignment[alignment["at"] != "layer"],
        moves=moves[(moves["seed"] == paired.MEAN) & (moves["language"] != ENGLISH)],
        mediation=mediation.assign(trained=False),  # no asterisk: all of them were
        has_pivots=codes.duplicated().any(),
    )


def _presets(part: Part, seen: pd.DataFrame) -> Iterator[SimpleNamespace]:
    """What the sentences of one preset need."""
    accuracy, alignment, mediation = (part.of(name) for name in ("tuning", "tuning_alignment", "tuning_mediation"))
    for name, role, seeds in seen[["preset", "role", "seeds"]].drop_duplicates().itertuples(index=False):
        every, own = seen[seen["preset"] == name], accuracy[accuracy["preset"] == name]
        mean = own[own["seed"] == paired.MEAN]
        where, count = _judged_on(every)
        at = mean[mean["language"] == where]
        aligned = alignment[(alignment["preset"] == name) & (alignment["against"] == paired.BASE)]
        linked_to = mediation[(mediation["preset"] == name) & (mediation["language"] == paired.TRAINED)]
        yield SimpleNamespace(
            name=name,
            role=role,
            seeds=seeds,
            where=where,
            count=count,
            beyond=list(at[at["against"] != paired.BASE].itertuples()),
            base=next(at[at["against"] == paired.BASE].itertuples(), None),
            by_seed=own.loc[(own["seed"] != paired.MEAN) & (own["language"] == where), "difference"].tolist(),
            english=next(mean[(mean["language"] == ENGLISH) & (mean["against"] == paired.BASE)].itertuples(), None),
            aligned=part.by_metric(aligned[(aligned["language"] == where) & (aligned["at"] == "middle_third")]),
            linked=part.by_metric(linked_to[linked_to["form"] == "within_language"]),
            same_item=part.by_metric(linked_to[linked_to["form"] == "same_item"]),
            overlap=int(own["overlap"].max()) if len(own) else 0,
        )


def _judged_on(rows: pd.DataFrame) -> tuple[str, int]:
    """The languages that a preset is judged on, those that it was trained on or else the others, and their number."""
    where = paired.TRAINED if (rows["language"] == paired.TRAINED).any() else paired.OTHER
    single = rows[~rows["language"].isin(paired.POOLED) & (rows["trained"] == (where == paired.TRAINED))]
    return where, single["language"].nunique()


def _curves(part: Part, alignment: pd.DataFrame) -> Iterator[SimpleNamespace]:
    """A figure per metric: alignment by layer of the base and each preset, the mean over languages."""
    rows = alignment[(alignment["at"] == "layer") & (alignment["against"] == paired.BASE)]
    for metric, pooling in part.metrics:
        own = of_metric(rows, metric, pooling)
        where, _ = _judged_on(own)
        own = own[own["language"] == where]
        if len(own):
            yield SimpleNamespace(
                name=metric_name(metric, pooling),
                where=where,
                n=own["n"].max(),
                image=part.draw(partial(figures.by_layer, own, part.model), "tuning", metric, pooling),
            )
