"""A base model against its tuned versions, item by item: answers, alignment by layer, and which answers changed.

A version is a tuned model, a preset all versions that differ only in their seed. Every number is a difference of the
same items in the same languages. A preset's value of an item is the mean over its seeds; errors are clustered as the
items are (passages). No layer is chosen on a tuned model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError
from align_pipeline.inference import arrays, resampling
from align_pipeline.inference.items import adjusted, mcnemar
from align_pipeline.inference.study import Array, Study, clusters

ROLES = ("treatment", "placebo", "baseline")
TRAINED, OTHER = "trained languages", "other languages"
POOLED = (ENGLISH, TRAINED, OTHER)
"""Rows that are not one language of the benchmark; `TRAINED` and `OTHER` are means over languages."""
MEAN, BASE = "mean", "base"
"""``seed`` of a preset's row; ``against`` if a preset is compared with the base model."""
ABOUT = ["model", "task", "preset", "role", "seeds"]
_EFFECT = ["n", "n_clusters", "before", "after", "difference", "low", "high", "p", "p_holm", "note"]
TUNING = [*ABOUT, "overlap", "seed", "against", "language", "pivot", "trained", *_EFFECT]
ALIGNMENT = [*ABOUT, "against", "language", "pivot", "trained", "metric", "pooling", "at", "layer", *_EFFECT]
MOVES = [
    *(*ABOUT, "seed", "language", "pivot", "trained", "n", "ts_ts", "ts_tf", "tf_ts", "tf_tf"),
    *("english_wrong", "english_wrong_gained", "english_wrong_lost", "gained", "lost", "p", "p_holm", "note"),
]


@dataclass(frozen=True)
class Version:
    """A tuned model, as its runs' summaries describe it.

    Attributes:
        model, base: names of the tuned model and of its base in the tables.
        preset, role: of its training; the role is one of `ROLES`.
        languages: FLORES codes of the training data.
        seed: of its training.
        settings: further facts that tell apart trainings with the same preset.
        overlap: by task, the number of training sentences that are in the evaluated texts of a run (the largest).
    """

    model: str
    base: str
    preset: str
    role: str
    languages: tuple[str, ...]
    seed: str
    settings: dict[str, str]
    overlap: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """Versions of one base model that differ only in their seed; `name` is unique among the base's presets."""

    name: str
    versions: tuple[Version, ...]

    @property
    def role(self) -> str:
        """The role of its versions."""
        return self.versions[0].role

    def columns(self, units: Sequence[tuple[str, str]]) -> list[tuple[str, str, bool, list[int]]]:
        """Rows of a table: language, pivot, whether it was trained on, and the indices of `units` that it is about."""
        trained = set(self.versions[0].languages) - {ENGLISH}
        own = [(language, pivot, language in trained, [u]) for u, (language, pivot) in enumerate(units)]
        members = {
            ENGLISH: [u for u, (language, _) in enumerate(units) if language == ENGLISH],
            TRAINED: [u for u, (language, _) in enumerate(units) if language in trained],
            OTHER: [u for u, (language, _) in enumerate(units) if language not in trained | {ENGLISH}],
        }
        pooled = [(name, "", name == TRAINED, of) for name, of in members.items() if of]
        return [*pooled, *(row for row in own if row[0] != ENGLISH)]


def versions(summaries: Sequence[Mapping[str, Any]]) -> tuple[Version, ...]:
    """The tuned models among the models of the summaries (key ``tuned``), sorted by name.

    Raises:
        InputError: a summary does not say enough about a tuned model.
    """
    found: dict[str, Version] = {}
    for summary in summaries:
        told = summary.get("tuned")
        if not told:
            continue
        model = str(summary.get("model"))
        missing = [key for key in ("base", "preset", "role", "languages", "seed") if key not in told]
        if missing or told["role"] not in ROLES:
            wrong = f"tuned.role={told['role']}, which is not one of {', '.join(ROLES)}" if not missing else ""
            wrong = wrong or f"no tuned.{missing[0]}"
            raise InputError(
                f"The summary.json of {model} has {wrong}; run the job again with the tuned model's folder."
            )
        settings = {key: str(told[key]) for key in ("method", "data", "steps") if key in told}
        settings["languages"] = " ".join(told["languages"])
        names = (str(told["base"]), str(told["preset"]), str(told["role"]))
        one = found.setdefault(model, Version(model, *names, tuple(told["languages"]), str(told["seed"]), settings))
        task = str(summary.get("task"))
        one.overlap[task] = max(one.overlap.get(task, 0), int(told.get("overlap") or 0))
    return tuple(one for _, one in sorted(found.items()))


def presets(of: Sequence[Version]) -> list[Preset]:
    """The versions of one base model by preset: treatments first, then placebos, then baselines."""
    groups: dict[tuple[Any, ...], list[Version]] = {}
    for one in of:
        groups.setdefault((one.preset, one.role, *sorted(one.settings.items())), []).append(one)
    made = []
    for members in groups.values():
        alike = [m[0] for m in groups.values() if m[0].preset == members[0].preset]
        own = members[0].settings | {"role": members[0].role}
        every = [one.settings | {"role": one.role} for one in alike]
        differs = [f"{key} {own[key]}" for key in own if len({one.get(key) for one in every}) > 1]
        made.append(
            Preset(f"{members[0].preset} ({', '.join(differs)})" if differs else members[0].preset, (*members,))
        )
    return sorted(made, key=lambda one: (ROLES.index(one.role), one.name))


@dataclass(frozen=True)
class Pairs:
    """Answers of a base model and its versions to one task.

    Attributes:
        model, task: names of the base model and the task.
        presets: the base's presets that have the task.
        cluster: [N], of the items, integers from 0.
        units: language and pivot, English included.
        right: by model, [N, U]: 1 right, 0 wrong, NaN where there is no answer.
    """

    model: str
    task: str
    presets: list[Preset]
    cluster: Array
    units: list[tuple[str, str]]
    right: Mapping[str, Array]

    def about(self, preset: Preset) -> dict[str, Any]:
        """The columns `ABOUT` of a preset's rows."""
        return dict(zip(ABOUT, (self.model, self.task, preset.name, preset.role, len(preset.versions)), strict=True))


def pairs(study: Study, of: Sequence[Version]) -> Iterator[Pairs]:
    """The answers of every base model and task that have tuned versions in the study."""
    table = study.predictions
    tasks = study.tasks
    for model, task in sorted(tasks):
        known = presets([one for one in of if one.base == model and (one.model, task) in tasks])
        if not known:
            continue
        own = table[(table["model"] == model) & (table["task"] == task)]
        first = own.assign(cluster=clusters(own)).drop_duplicates("item_id").sort_values("item_id")
        units = sorted({(str(a), str(b)) for a, b in own[["language", "pivot"]].itertuples(index=False)})
        right = {}
        for name in (model, *(one.model for preset in known for one in preset.versions)):
            part = table[(table["model"] == name) & (table["task"] == task)]
            right[name] = arrays.answers(part, first["item_id"].to_numpy(object), units)
        yield Pairs(model, task, known, pd.factorize(first["cluster"])[0], units, right)


def without_base(study: Study, of: Sequence[Version]) -> list[str]:
    """Sentences on tuned models whose base has no tables of the same task."""
    tasks = study.tasks
    return [
        f"{one.model} is a tuned version of {one.base}, which has no tables of {task} in this report, so there is no "
        "comparison before and after; give the base model's folder too."
        for one in of
        for model, task in sorted(tasks)
        if model == one.model and (one.base, task) not in tasks
    ]


def _contrasts(known: Sequence[Preset], values: Mapping[str, Array], base: str) -> Iterator[tuple[Any, ...]]:
    """(preset, seed, against, values before, values after) of each comparison: with the base, also by seed, and with
    each placebo."""
    mean = {preset.name: resampling.means(np.stack([values[v.model] for v in preset.versions])) for preset in known}
    for preset in known:
        yield preset, MEAN, BASE, values[base], mean[preset.name]
        for one in preset.versions:
            yield preset, one.seed, BASE, values[base], values[one.model]
    for placebo in (preset for preset in known if preset.role == "placebo"):
        for preset in known:
            if preset.role != "placebo":
                yield preset, MEAN, placebo.name, mean[placebo.name], mean[preset.name]


SAME = "interval and p not defined, because the difference is the same in all clusters, or there is only one"


def paired(before: Array, after: Array, cluster: Array) -> dict[str, Any]:
    """Mean difference of the same items, the mean over languages, with clustered errors.

    Args:
        before, after: [N, U, K]; NaN where there is no value. Items count where both have one.
        cluster: [N], integers from 0.

    Returns:
        the columns n (items), n_clusters, before, after, difference, low, high and p: [K] each; 95%, two-sided.
    """
    known = ~np.isnan(before) & ~np.isnan(after)
    differs = np.where(known, after - before, np.nan)
    each = resampling.means(differs)  # [U, K]
    value = resampling.means(each)
    influence = np.where(known, differs - each, 0) / np.maximum(known.sum(axis=0) * (~np.isnan(each)).sum(axis=0), 1)
    kept = known.any(axis=(1, 2))
    none = np.full(len(value), np.nan)
    codes = np.unique(cluster[kept], return_inverse=True)[1]
    ends = resampling.clustered(value, influence.sum(axis=1)[kept], codes) if kept.any() else (none, none, none)
    found = {"n": known.any(axis=1).sum(axis=0), "n_clusters": int(codes.max()) + 1 if kept.any() else 0}
    old, new = (resampling.means(resampling.means(np.where(known, side, np.nan))) for side in (before, after))
    found |= {"before": old, "after": new, "difference": value} | dict(zip(("low", "high", "p"), ends, strict=True))
    note = np.where(np.isnan(value), "not defined, because no item has both values", "")
    return found | {"note": np.where(np.isnan(ends[2]) & ~np.isnan(value), SAME, note)}


def _compared(about: dict[str, Any], before: Array, after: Array, cluster: Array) -> pd.DataFrame:
    """Rows with the columns of `paired`; that all values agree is no certainty, so that they have no interval."""
    found = paired(before, after, cluster)
    ends = {end: np.where(np.isnan(found["p"]), np.nan, found[end]) for end in ("low", "high")}
    return pd.DataFrame(about | found | ends)


def accuracy(of: Pairs) -> pd.DataFrame:
    """Accuracy before and after: columns `TUNING`, a row per preset, seed or mean, comparison, and language."""
    parts = []
    for preset, seed, against, before, after in _contrasts(of.presets, of.right, of.model) if of.units else ():
        about = of.about(preset) | {"seed": seed, "against": against}
        about["overlap"] = max(one.overlap.get(of.task, 0) for one in preset.versions)
        for language, pivot, trained, u in preset.columns(of.units):
            row = about | {"language": language, "pivot": pivot, "trained": trained}
            parts.append(_compared(row, before[:, u, None], after[:, u, None], of.cluster))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=TUNING)


def moves(of: Pairs) -> pd.DataFrame:
    """Which answers changed: columns `MOVES`, a row per preset, seed or mean, and language; English per pivot.

    ``ts_tf``: of the items that the base answers right in English, those right in the language before and wrong after;
    the others alike. ``english_wrong``: items that the base answers wrong in English. ``gained`` and ``lost``: all
    items; ``p``: McNemar's exact test of these. A preset's row has mean counts over its seeds, and twice the mean of
    the seeds' p, which holds however they depend on each other (Vovk and Wang 2020).
    """
    rows = []
    for preset in of.presets:
        trained = preset.versions[0].languages
        for u, (language, pivot) in enumerate(of.units):
            about = of.about(preset) | {"language": language, "pivot": pivot, "trained": language in trained}
            old, e = of.right[of.model][:, u], of.units.index((ENGLISH, pivot)) if (ENGLISH, pivot) in of.units else -1
            english = of.right[of.model][:, e] if e >= 0 and language != ENGLISH else np.full(len(old), np.nan)
            seeds = [_moved(old, of.right[one.model][:, u], english) for one in preset.versions]
            for one, found in zip(preset.versions, seeds, strict=True):
                rows.append(about | {"seed": one.seed} | found)
            mean: dict[str, Any] = {name: np.mean([one[name] for one in seeds]) for name in seeds[0]}
            mean["p"] = min(1.0, mean["p"] * (2 if len(seeds) > 1 else 1))
            note = "" if language == ENGLISH or e >= 0 else f"there are no English answers ({pivot}) to these items"
            rows.append(about | {"seed": MEAN, "note": note} | mean)
    return pd.DataFrame(rows, columns=MOVES).fillna({"note": ""})


def _moved(old: Array, new: Array, english: Array) -> dict[str, float]:
    known = ~np.isnan(old) & ~np.isnan(new)
    gained, lost = known & (old == 0) & (new == 1), known & (old == 1) & (new == 0)
    found: dict[str, float] = {"n": known.sum(), "gained": gained.sum(), "lost": lost.sum()}
    found["p"] = float(mcnemar(gained.sum(), lost.sum()))
    if np.isnan(english).all():
        return found
    right, wrong = known & (english == 1), known & (english == 0)
    found |= {"ts_ts": (right & (old == 1) & (new == 1)).sum(), "ts_tf": (right & lost).sum()}
    found |= {"tf_ts": (right & gained).sum(), "tf_tf": (right & (old == 0) & (new == 0)).sum()}
    found |= {"english_wrong": wrong.sum(), "english_wrong_gained": (wrong & gained).sum()}
    return found | {"english_wrong_lost": (wrong & lost).sum()}


@dataclass(frozen=True)
class Aligned:
    """A metric of a base model and its versions; the base's items, languages and layers.

    Attributes:
        base: the base's arrays; its best layers are used for all.
        presets: those with values of the metric.
        aligned: by model, [N, U, K]; NaN where there is no value.
        right: by model, [N, U].
        last: L of the base; None if it is not known: its highest layer, or one more if all layers count.
    """

    base: arrays.Bundle
    presets: list[Preset]
    aligned: dict[str, Array]
    right: dict[str, Array]
    last: int | None = None

    def at_best(self, model: str) -> Array:
        """[N, U]: a model's alignment at each language's best layer of the base."""
        found: Array = np.take_along_axis(self.aligned[model], self.base.best[None, :, None], axis=2)[:, :, 0]
        return found

    @property
    def middle(self) -> Array:
        """bool [K], the layers from one third to two thirds of the depth."""
        outside = self.base.layers[~self.base.inner]
        last = self.last or (outside[0] if len(outside) else self.base.layers[-1] + 1)
        found: Array = (self.base.layers >= last / 3) & (self.base.layers <= 2 * last / 3)
        return found


def aligned(study: Study, cells: pd.DataFrame, of: Pairs) -> Iterator[Aligned]:
    """Every metric of the base model that a version has too, one at a time."""
    for key in study.blocks:
        if key[:2] != (of.model, of.task):
            continue
        base = arrays.bundle(study, key, cells)
        has = [p for p in of.presets if any((one.model, *key[1:]) in study.blocks for one in p.versions)]
        known = {of.model: base.aligned}, {of.model: base.right}
        found = Aligned(base, has, *known, study.last_layers.get(of.model))
        for one in (one for preset in has for one in preset.versions):
            other = (one.model, *key[1:])
            shape = base.aligned.shape
            found.aligned[one.model], found.right[one.model] = np.full(shape, np.nan), np.full(shape[:2], np.nan)
            if other in study.blocks:
                tuned = arrays.bundle(study, other, cells)
                _, i, i_tuned = np.intersect1d(base.items, tuned.items, return_indices=True)
                _, k, k_tuned = np.intersect1d(base.layers, tuned.layers, return_indices=True)
                u, u_tuned = np.nonzero([[a == b for b in tuned.units] for a in base.units])
                found.aligned[one.model][np.ix_(i, u, k)] = tuned.aligned[np.ix_(i_tuned, u_tuned, k_tuned)]
                found.right[one.model][np.ix_(i, u)] = tuned.right[np.ix_(i_tuned, u_tuned)]
        if has:
            yield found


def alignment(of: Pairs, metric: Aligned) -> pd.DataFrame:
    """Share of aligned items before and after: columns `ALIGNMENT`, a row per preset, comparison, language and layer.

    ``at``: each `layer`, the base's `best_layer` of each language, or the mean over the `middle_third`.
    """
    base, middle = metric.base, metric.middle
    values = {}
    for name, every in metric.aligned.items():
        third = resampling.means(np.moveaxis(every[:, :, middle], 2, 0))
        values[name] = np.concatenate([every, np.stack([metric.at_best(name), third], axis=2)], axis=2).astype(float)
    parts = []
    for preset, seed, against, before, after in _contrasts(metric.presets, values, of.model):
        if seed != MEAN:
            continue
        about = of.about(preset) | {"against": against, "metric": base.key[2], "pooling": base.key[3]}
        about["at"] = ["layer"] * len(base.layers) + ["best_layer", "middle_third"]
        for language, pivot, trained, u in preset.columns(base.units):
            row = about | {"language": language, "pivot": pivot, "trained": trained}
            row["layer"] = [*base.layers, base.layers[base.best[u[0]]] if len(u) == 1 else None, None]
            parts.append(_compared(row, before[:, u], after[:, u], base.cluster))
    return pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})


def adjust(table: pd.DataFrame, *question: str) -> pd.DataFrame:
    """Add ``p_holm``: of one language, over the languages of its preset (and metric, and all its layers); of English
    and of means over languages, over presets (and metrics).

    Args:
        table: with all metrics.
        question: columns that separate families.
    """
    pooled = table["language"].isin(POOLED)
    own = ["preset", *(name for name in ("metric", "pooling") if name in table)]
    keys = [table[name].where(~pooled, table["language"]) for name in own]
    groups = table.groupby([*(table[name] for name in ("model", "task", *question)), *keys])
    return table.assign(p_holm=groups["p"].transform(adjusted))
