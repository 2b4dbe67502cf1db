"""Several models on one task: a row for each, and paired differences from a reference, item by item.

A language's alignment is that of its best layer in each model. The layer is chosen on half of the clusters of items and
read on the other half, the same halves in all models, so that a model with more layers has no advantage. This is done
for several random splits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from align_pipeline.config.resolvers import last_part
from align_pipeline.data.items import ENGLISH
from align_pipeline.inference import arrays, resampling
from align_pipeline.inference.items import adjusted
from align_pipeline.inference.study import Array, Study
from align_pipeline.inference.tuning import SAME, paired

MEAN = "mean over languages"
"""``language`` of a row that is the mean over the languages that the models have in common."""
_OF_ALIGNMENT = ("depth", "alignment", "alignment_low", "alignment_high", "chance")
_RELATION = ("r", "r_low", "r_high", "r_p", "r_p_holm", "r_languages")
_SAME_ITEM = ("same_item", "same_item_low", "same_item_high", "same_item_p", "same_item_p_holm")
OF_MODEL = [
    *("task", "model", "parameters", "revision", "series", "step", "layers", "n_languages", "n"),
    *("accuracy", "accuracy_low", "accuracy_high", "english_accuracy"),
]
"""Columns that do not depend on a metric."""
MODELS = [
    *(*OF_MODEL, "metric", "pooling", "alignment_task"),
    *(*_OF_ALIGNMENT, *_RELATION, *_SAME_ITEM, "note"),
]
DIFFERENCES = [
    *("task", "reference", "model", "quantity", "metric", "pooling", "language", "pivot", "n", "n_clusters"),
    *("of_reference", "of_model", "difference", "low", "high", "p", "p_holm", "note"),
]
_STEP = re.compile(r"(?:steps?|checkpoint|ckpt|iter(?:ation)?s?)[-_.=]?(\d+)([km]?)(?![a-z0-9])", re.IGNORECASE)
_OF_LEVEL = {
    "pearson": "r",
    "pearson_low": "r_low",
    "pearson_high": "r_high",
    "permutation_p": "r_p",
    "n": "r_languages",
}
_OF_SAME_ITEM = {"effect": "same_item", "low": "same_item_low", "high": "same_item_high", "p": "same_item_p"}
"""Columns of other tables, with their names in `MODELS`."""
_NONE_COMMON = "means not defined, because no language is common to all models"


@dataclass(frozen=True)
class Model:
    """A model, as its runs' summaries describe it.

    Attributes:
        name: in the tables.
        parameters, revision: as in ``summary.json``; None if it does not say.
        layers: L, the index of the layer after the final norm; None likewise.
        series: what the checkpoints of one training have in common; "" for other models.
        step: of the training, from the revision or the folder's name (`step_of`); None if these do not say it.
    """

    name: str
    parameters: int | None = None
    revision: str | None = None
    layers: int | None = None
    series: str = ""
    step: int | None = None

    @property
    def place(self) -> tuple[Any, ...]:
        """Sort key: smaller models and earlier checkpoints first."""
        none = float("inf")
        size, step = (none if value is None else value for value in (self.parameters, self.step))
        return size, self.series, step, self.name


def step_of(name: str) -> int | None:
    """The step of a training in the name of a checkpoint: ``step1000``, ``checkpoint-500``, ``global_step10k``."""
    found = _STEP.search(name)
    return None if found is None else int(found[1]) * {"": 1, "k": 10**3, "m": 10**6}[found[2].lower()]


def described(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Model]:
    """The models of the summaries, by name; of several summaries of a model, the first that says something counts."""
    found: dict[str, Model] = {}
    for summary in summaries:
        name, config = str(summary.get("model")), (summary.get("config") or {}).get("model") or {}
        known = found.get(name, Model(name))
        revision = summary.get("revision", config.get("revision"))
        path = str(config.get("path") or "")
        last = last_part(path)
        step = step_of(str(revision or last))
        series = "" if step is None else path if revision else _STEP.sub("*", path.rstrip("/"))
        found[name] = Model(
            name,
            summary.get("parameters") if known.parameters is None else known.parameters,
            known.revision or revision,
            summary.get("num_layers") if known.layers is None else known.layers,
            known.series or series,
            step if known.step is None else known.step,
        )
    return found


@dataclass(frozen=True)
class Compared:
    """The models of one task, on the same items and languages; i is an item, u a language with its pivot.

    Attributes:
        task: its name.
        models: in the order of `Model.place`.
        cluster: [N], integers from 0.
        units: language and pivot, English included.
        right: by model, [N, U, 1]: 1 right, 0 wrong, NaN where there is no answer.
        aligned: by metric and pooling, then by model, [N, U, S]: 1 aligned at the best layer, 0 not, for each split
            that chooses the layer; NaN where there is no value.
    """

    task: str
    models: tuple[Model, ...]
    cluster: Array
    units: list[tuple[str, str]]
    right: Mapping[str, Array]
    aligned: Mapping[tuple[str, str], Mapping[str, Array]]

    def columns(self, values: Sequence[Array]) -> tuple[list[int], list[int]]:
        """The indices of the units in which all of these have values: of languages, and of English."""
        there = [u for u in range(len(self.units)) if all((~np.isnan(one[:, u])).any() for one in values)]
        own = [u for u in there if self.units[u][0] != ENGLISH]
        return own, [u for u in there if self.units[u][0] == ENGLISH]


def compared(
    study: Study,
    cells: pd.DataFrame,
    known: Mapping[str, Model],
    left_out: Collection[tuple[str, str]] = (),
    seed: int = 0,
) -> Iterator[Compared]:
    """Every task that at least two models have.

    Args:
        study: from `join`.
        cells: from `tally`.
        known: from `described`; may lack models.
        left_out: (model, task) pairs that are compared elsewhere.
        seed: of the halves that choose the best layers.
    """
    has = study.tasks
    for task in sorted({task for _, task in has}):
        names = {model for model, of in has - set(left_out) if of == task}
        if len(names) > 1:
            models = sorted((known.get(name, Model(name)) for name in names), key=lambda one: one.place)
            yield _compared(study, cells, task, tuple(models), seed)


def _compared(study: Study, cells: pd.DataFrame, task: str, models: tuple[Model, ...], seed: int) -> Compared:
    names = [one.name for one in models]
    rows = study.items[(study.items["task"] == task) & study.items["model"].isin(names)]
    answers = study.predictions[(study.predictions["task"] == task) & study.predictions["model"].isin(names)]
    first = rows[["item_id", "cluster"]].astype(str).drop_duplicates("item_id").sort_values("item_id")
    items = first["item_id"].to_numpy(object)
    cluster = pd.factorize(first["cluster"])[0]
    both = pd.concat([rows[["language", "pivot"]], answers[["language", "pivot"]]]).astype(str).drop_duplicates()
    units = sorted((str(a), str(b)) for a, b in both.itertuples(index=False))
    right = {name: arrays.answers(answers[answers["model"] == name], items, units)[:, :, None] for name in names}
    masks = resampling.halves(cluster, resampling.SPLITS, np.random.default_rng(seed))
    aligned: dict[tuple[str, str], dict[str, Array]] = {}
    for key in study.blocks:
        if key[1] != task or key[0] not in names:
            continue
        own = arrays.bundle(study, key, cells)
        i, u = np.searchsorted(items, own.items), np.array([units.index(unit) for unit in own.units])
        values = np.full((len(items), len(units), len(masks) // 2), np.nan, np.float16)
        values[np.ix_(i, u)] = resampling.cross_fitted_items(own.aligned[:, :, own.inner], masks[:, i])
        aligned.setdefault((key[2], key[3]), {})[key[0]] = values
    return Compared(task, models, cluster, units, right, aligned)


def differences(of: Compared, reference: str) -> pd.DataFrame:
    """Each model minus the reference, on the same items: columns `DIFFERENCES`.

    ``quantity`` is accuracy or alignment; a row per language, one for English, and one for the mean over languages.
    ``p_holm``: of one language, over the languages of a model and quantity; of English and of the mean, over models
    (and metrics).
    """
    rows = []
    kinds = {("accuracy", "", ""): of.right} | {("alignment", *metric): by for metric, by in of.aligned.items()}
    for kind, values in kinds.items():
        for model in (one.name for one in of.models if one.name in values and reference in values):
            old, new = values[reference], values[model]
            own, english = of.columns([old, new])
            if model == reference:
                continue
            groups = [(MEAN, "", own), (ENGLISH, "", english), *((*of.units[u], [u]) for u in own)]
            for language, pivot, u in groups:
                if u:
                    about = {"task": of.task, "reference": reference, "model": model, "language": language}
                    about |= dict(zip(("quantity", "metric", "pooling"), kind, strict=True)) | {"pivot": pivot}
                    rows.append(about | over_splits(old[:, u], new[:, u], of.cluster))
    if not rows:
        return pd.DataFrame(columns=DIFFERENCES)
    table = pd.DataFrame(rows).rename(columns={"before": "of_reference", "after": "of_model"})
    pooled = table["pivot"] == ""
    keys = [table[name].where(~pooled, table["language"]) for name in ("model", "metric", "pooling")]
    table["p_holm"] = table.groupby(["quantity", *keys])["p"].transform(adjusted)
    return table[DIFFERENCES]


def over_splits(before: Array, after: Array, cluster: Array) -> dict[str, Any]:
    """The columns of `paired`, for the mean over S splits of [N, U, S].

    The error is the root of the mean over the splits of squared errors, which is an upper limit: estimates of several
    splits vary together at most as one of them does. Errors of items' means over the splits would be too small, because
    the halves of a split are not independent of each other where the best layer is uncertain.
    """
    every = paired(before.astype(float), after.astype(float), cluster)
    found: dict[str, Any] = {name: float(resampling.means(every[name])) for name in ("before", "after", "difference")}
    reach = float(np.sqrt(resampling.means(((every["high"] - every["low"]) / 2) ** 2)))
    t = stats.t(max(every["n_clusters"] - 1, 1))
    size = abs(found["difference"]) * t.ppf(0.975) / reach if reach > 0 else np.nan
    found |= {"low": found["difference"] - reach, "high": found["difference"] + reach, "p": float(2 * t.sf(size))}
    if reach == 0:  # that of a few items that all agree is no sign of certainty
        found |= {"low": np.nan, "high": np.nan}
    note = "" if not np.isnan(found["p"]) else every["note"][0] if np.isnan(found["difference"]) else SAME
    return {"n": int(every["n"].max()), "n_clusters": every["n_clusters"], **found, "note": note}


def models(of: Compared, chances: pd.DataFrame, level: pd.DataFrame, same_item: pd.DataFrame) -> pd.DataFrame:
    """A row per model and metric: columns `MODELS`.

    Means are over the languages in which all models have values (``n_languages``), with clustered intervals; ``n`` is
    the number of items that are answered, or aligned where the task has no answers. ``depth`` is the mean over
    languages with an aligned item of the best layer's index over L, ``chance`` the mean chance level there. ``r`` is
    Pearson's correlation of alignment (max over layers) and accuracy over the ``r_languages`` languages of the model,
    with its permutation p; ``same_item`` is the linear effect of `same_item`; their ``p_holm`` is over the models.

    Args:
        of: the models.
        chances: from `findings.chance`.
        level: from `languages.language_level`.
        same_item: from `findings.findings`.
    """
    answered = [values for values in of.right.values() if (~np.isnan(values)).any()]
    own, english = of.columns(answered or [one for by in of.aligned.values() for one in by.values()])
    level = level[(level["task"] == of.task) & (level["grouping"] == "all") & (level["reduce"] == "max")]
    same_item = same_item[(same_item["task"] == of.task) & (same_item["form"] == "linear")]
    rows = []
    for model in of.models:
        right = of.right[model.name]
        about: dict[str, Any] = {"task": of.task, "model": model.name, "parameters": model.parameters}
        about |= {"revision": model.revision, "series": model.series, "step": model.step, "layers": model.layers}
        about |= {"n_languages": len(own), "note": "" if own else _NONE_COMMON}
        about |= _mean(right[:, own], of.cluster, "accuracy")
        about["english_accuracy"] = _mean(right[:, english], of.cluster, "english").get("english")
        relation = level[level["model"] == model.name]
        own_metrics = [(*metric, of.task) for metric, by in of.aligned.items() if model.name in by]
        own_metrics += list(relation[["metric", "pooling", "alignment_task"]].itertuples(index=False, name=None))
        for metric, pooling, source in dict.fromkeys(own_metrics) or [("", "", "")]:
            row = about | {"metric": metric, "pooling": pooling, "alignment_task": source}
            row |= _alignment(of, model, (metric, pooling), chances) if source == of.task else {}
            row["n"] = row["n"] if answered else row.pop("n_aligned", 0)
            rows.append(row)
    table = pd.DataFrame(rows)
    keys = ["model", "metric", "pooling", "alignment_task"]
    for other, names in ((level, _OF_LEVEL), (same_item.assign(alignment_task=of.task), _OF_SAME_ITEM)):
        table = table.merge(other[[*keys, *names]].rename(columns=names), "left", keys)
    table = table.reindex(columns=MODELS)
    for name in ("r", "same_item"):
        p = table[f"{name}_p"].astype(float)
        table[f"{name}_p_holm"] = p.groupby([table["metric"], table["pooling"], table["alignment_task"]]).transform(
            adjusted
        )
    whole = dict.fromkeys(("parameters", "step", "layers", "n_languages", "n", "r_languages"), "Int64")
    return table.astype(whole)


def _mean(values: Array, cluster: Array, name: str) -> dict[str, Any]:
    """The mean over languages of [N, U, S] with its interval, and the number of items behind it."""
    if not values.shape[1]:
        return {"n": 0}
    found = over_splits(np.zeros_like(values), values, cluster)
    return {name: found["after"], "n": found["n"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def _alignment(of: Compared, model: Model, metric: tuple[str, str], chances: pd.DataFrame) -> dict[str, Any]:
    by = of.aligned[metric]
    own, _ = of.columns(list(by.values()))
    row = _mean(by[model.name][:, own], of.cluster, "alignment")
    row["n_aligned"] = row.pop("n")
    best = chances[chances["best_layer"].astype(bool) & (chances["model"] == model.name) & (chances["task"] == of.task)]
    best = best[(best["metric"] == metric[0]) & (best["pooling"] == metric[1])].set_index(["language", "pivot"])
    best = best.loc[[of.units[u] for u in own]]
    row["chance"] = best["chance"].astype(float).mean()
    if model.layers:
        row["depth"] = best["layer"].where(best["share"] > 0).astype(float).mean() / model.layers
    return row
