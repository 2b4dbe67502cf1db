"""Several models in the report: the tables that compare them, and a section that has all of them, task by task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import unknown
from align_pipeline.figures import models as figures
from align_pipeline.inference import models as across
from align_pipeline.inference import tuning as paired
from align_pipeline.inference.study import Study
from align_pipeline.page import columns
from align_pipeline.page.numbers import metric_name, metric_names
from align_pipeline.page.part import Part, in_order, of_metric
from align_pipeline.page.template import render

FEW = 6
"""Up to this many models, a sentence names each."""
_SURE = 0.05


def compare(
    study: Study,
    cells: pd.DataFrame,
    chances: pd.DataFrame,
    level: pd.DataFrame,
    same_item: pd.DataFrame,
    summaries: Sequence[Mapping[str, Any]],
    reference: str | None = None,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Compare the models of every task that has several; tuned versions of a model in the report are left out, because
    `report.tuning` compares them.

    Args:
        study, cells, chances, level, same_item: see `inference.models.models`.
        summaries: contents of ``summary.json``.
        reference: name of the model that others are compared with; None: the smallest, or the earliest checkpoint.
        seed: of the halves that choose the best layers.

    Returns:
        the tables ``models`` and ``models_differences``, of all tasks.

    Raises:
        InputError: there is no model of the reference's name.
    """
    has = {(key[0], key[1]) for key in study.blocks}
    has |= {(str(a), str(b)) for a, b in study.predictions[["model", "task"]].drop_duplicates().itertuples(index=False)}
    names = {model for model, _ in has}
    if reference is not None and reference not in names:
        raise unknown("model", reference, names)
    versions = paired.versions(summaries)
    left_out = {(one.model, task) for one in versions for model, task in has if model == one.base}
    rows, differ = [pd.DataFrame(columns=across.MODELS)], [pd.DataFrame(columns=across.DIFFERENCES)]
    for of in across.compared(study, cells, across.described(summaries), left_out, seed):
        rows.append(across.models(of, chances, level, same_item))
        differ.append(across.differences(of, reference or of.models[0].name))
    return {
        "models": pd.concat(rows[1:] or rows, ignore_index=True),
        "models_differences": pd.concat(differ[1:] or differ, ignore_index=True),
    }


def show(whole: Part) -> list[Markup]:
    """A part of the section for each task that has several models; none if there is no such task.

    Args:
        whole: the report's tables, of no model and task.
    """
    every = whole.tables["models"]
    return [
        _show(replace(whole, task=str(task), models=1), every[every["task"] == task])
        for task in every["task"].drop_duplicates()
    ]


def _show(part: Part, rows: pd.DataFrame) -> Markup:
    """One task."""
    models = [str(name) for name in rows["model"].drop_duplicates()]
    differences = part.tables["models_differences"]
    differences = differences[differences["task"] == part.task]
    groups = in_order(rows[rows["metric"] != ""])
    main = groups[0][0][1:] if groups else ("", "")
    names = metric_names({key[1:] for key, _ in groups})
    shown = of_metric(rows, *main).drop_duplicates("model")
    missing = rows[~rows["model"].isin(shown["model"])].drop_duplicates("model")  # the metric was not measured
    table = pd.concat([shown, missing[across.OF_MODEL]]).set_index("model").loc[models].reset_index()
    pooled = differences[differences["language"] == across.MEAN]
    known = rows[rows[["r", "same_item"]].notna().any(axis=1)]
    alignment = list(_alignment(part, groups, models))
    by_language = _by_language(part, rows, alignment[0].rows if alignment else None, models)
    main_name = metric_names([main])[main] if groups else ""
    return render(
        "align_pipeline/report/models.html",
        task=part.task,
        models=models,
        few=len(models) <= FEW,
        reference=str(differences["reference"].iloc[0]) if len(differences) else "",
        main=metric_name(*main) if groups else "",
        table=table,
        rows=pd.concat([own for _, own in groups]) if groups else rows.head(0),
        pooled=pooled[pooled["quantity"] == "accuracy"],
        english=differences[(differences["language"] == ENGLISH) & (differences["quantity"] == "accuracy")],
        aligned=[(names[key[1:]], of_metric(pooled, *key[1:])) for key, _ in groups if key[0] == part.task],
        related=[_related(names[key[1:]], own, "" if key[0] == part.task else key[0]) for key, own in groups],
        relation=part.draw(partial(figures.relation, known), "models_relation") if len(known) else "",
        scales=list(_scales(part, rows)),
        depths=list(_depths(part, rows, models)),
        by_language=by_language,
        by_language_columns=[
            columns.number(f"{head}{name}", f"{column}{i}")
            for head, column in (("", "accuracy"), (f"{main_name}: ", "aligned"))
            for i, name in enumerate(models)
            if f"{column}{i}" in by_language
        ],
        alignment=alignment[1:],
        model_columns=[columns.number(name, f"aligned{i}") for i, name in enumerate(models)],
        differences=differences[differences["quantity"] == "accuracy"],
        aligned_differences=differences[differences["quantity"] == "alignment"],
    )


def _related(name: Markup, own: pd.DataFrame, elsewhere: str) -> SimpleNamespace:
    """In how many models the relation of a metric with accuracy is above 0, over languages and within items."""
    counted = {}
    for of in ("r", "same_item"):
        sure = own[f"{of}_p_holm"].astype(float).lt(_SURE) & (own[of] > 0)
        counted[of] = (int(sure.sum()), int(own[of].notna().sum()))
    return SimpleNamespace(name=name, elsewhere=elsewhere, **counted)


def _scales(part: Part, rows: pd.DataFrame) -> Iterator[SimpleNamespace]:
    """Figures over the number of parameters and over the steps of a training, where there are several."""
    steps = rows[rows["step"].notna()]
    last = rows["step"].isna() | (rows["step"] == rows.groupby("series")["step"].transform("max"))
    for by, own in (("parameters", rows[rows["parameters"].notna() & last]), ("step", steps)):
        counts = own.groupby("series" if by == "step" else "task")[by].nunique().to_numpy(int)
        if np.max(counts, initial=0) > 1:
            image = part.draw(partial(figures.scale, own, by), f"models_{by}")
            yield SimpleNamespace(by=by, image=image, n=own["n"].max(), languages=own["n_languages"].max())


def _depths(part: Part, rows: pd.DataFrame, models: Sequence[str]) -> Iterator[SimpleNamespace]:
    """Figures of each metric over depth: the mean over the languages that all models have, and single languages."""
    cells, chances = (part.tables[name] for name in ("cells", "chance"))
    last = rows.drop_duplicates("model").set_index("model")["layers"]
    keys = ["model", "task", "language", "pivot", "metric", "pooling", "layer"]
    cells = cells[(cells["task"] == part.task) & cells["model"].isin(models)].astype(dict.fromkeys(keys[:-1], object))
    cells = cells.merge(chances[[*keys, "chance"]].astype(dict.fromkeys(keys[:-1], object)), "left", keys)
    last = last.fillna(cells.groupby("model")["layer"].max()).astype(float)
    for (task, metric, pooling), _ in in_order(rows[rows["metric"] != ""]):
        own = of_metric(cells, metric, pooling)
        if task != part.task or own["model"].nunique() < 2:
            continue
        has = own.groupby(["language", "pivot"])["model"].transform("nunique")
        own = own[has == own["model"].nunique()]
        if own.empty:
            continue
        own = own.assign(
            depth=own["layer"].astype(float) / own["model"].map(last).astype(float),
            inner=own["inner"].astype(bool),
            model=pd.Categorical(own["model"], [name for name in models if name in set(own["model"])]),
        ).sort_values(["model", "language", "pivot", "layer"])
        own["model"] = own["model"].astype(object)
        shown = _most_different(own)
        yield SimpleNamespace(
            name=metric_name(metric, pooling),
            mean=part.draw(partial(figures.depth, own), "models_depth", metric, pooling),
            single=part.draw(partial(figures.depth_by_language, shown), "models_depth_languages", metric, pooling),
            shown=shown.drop_duplicates(["language", "pivot"]).shape[0],
            count=own.drop_duplicates(["language", "pivot"]).shape[0],
            n=own["n"].max(),
        )


def _most_different(own: pd.DataFrame) -> pd.DataFrame:
    """The rows of the languages whose highest shares differ most between the models, `figures.PANELS` at most."""
    units = ["language", "pivot"]
    highest = own[own["inner"]].groupby([*units, "model"])["share"].max()
    spread = highest.groupby(units).agg(np.ptp).sort_values(ascending=False, kind="stable")
    kept = spread.index[: figures.PANELS]
    return own[pd.MultiIndex.from_frame(own[units]).isin(kept)]


def _by_language(part: Part, rows: pd.DataFrame, aligned: pd.DataFrame | None, models: Sequence[str]) -> pd.DataFrame:
    """A row for English and each language, with every model's accuracy and alignment."""
    keys, groups = ["language", "pivot"], part.tables["groups"]
    found = _wide(groups[groups["task"] == part.task], models, "accuracy")
    english = rows.drop_duplicates("model").set_index("model").loc[list(models), "english_accuracy"]
    if english.notna().any():
        row = {f"accuracy{i}": value for i, value in enumerate(english.astype(float))}
        found = pd.concat([pd.DataFrame([{"language": ENGLISH, "pivot": "", **row}]), found], ignore_index=True)
    if aligned is not None:
        both = found.merge(aligned, "outer", keys, suffixes=("", "_aligned"))
        found = both.assign(n=both[["n", "n_aligned"]].max(axis=1)).drop(columns="n_aligned")
        found = found.iloc[(found["language"] != ENGLISH).argsort(kind="stable")]
    return found.dropna(axis="columns", how="all") if len(found) else found


def _wide(table: pd.DataFrame, models: Sequence[str], value: str, name: str = "") -> pd.DataFrame:
    """A row per language, with n (the largest) and a column per model: ``accuracy0``, ``accuracy1``, ..."""
    keys = ["language", "pivot"]
    table = table[table["model"].isin(models)]
    wide = table.astype(dict.fromkeys([*keys, "model"], object)).pivot(index=keys, columns="model", values=value)
    wide = wide.reindex(columns=list(models))
    wide.columns = pd.Index([f"{name or value}{i}" for i in range(len(models))])
    wide.insert(0, "n", table.groupby(keys, observed=True)["n"].max())
    return wide.reset_index()


def _alignment(
    part: Part, groups: Sequence[tuple[tuple[str, str, str], pd.DataFrame]], models: Sequence[str]
) -> Iterator[SimpleNamespace]:
    """For each metric the share of aligned items by language and model, at best layers chosen on other items."""
    table = part.tables["chance"]
    for (task, metric, pooling), _ in groups:
        if task == part.task:
            best = table[table["best_layer"].astype(bool) & (table["task"] == task)]
            own = of_metric(best, metric, pooling)
            yield SimpleNamespace(name=metric_name(metric, pooling), rows=_wide(own, models, "cross_fitted", "aligned"))
