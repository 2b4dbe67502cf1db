"""Language-level and instance-level statistics from tables only: no model and no files are needed.

`join` merges the two tables; all other functions use its result. If a number does not exist, its cell is missing and
the row's ``note`` says "not defined, because ...". English is never a data point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import ContradictionError

UNIT = ["model", "task", "language", "pivot"]


SERIES = [*UNIT, "metric", "pooling"]


BLOCK = ["model", "task", "metric", "pooling"]


NOISE = 0.02
"""Maximum share of duplicate rows that may differ and still count as rounding between machines."""


MIN_LANGUAGES, MIN_FOR_INTERVAL = 3, 5


Array = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """One metric's values for one model and task.

    Attributes:
        rows: [R], row positions in ``Study.items``, ascending.
        layers: [K], ascending.
        values: int8 [R, K]: 1 aligned, 0 not, -1 where the table has no such row.
        inner: bool [K], the layers used by reductions and for the best layer: all below L.
    """

    rows: Array
    layers: Array
    values: NDArray[np.int8]
    inner: NDArray[np.bool_]


@dataclass(frozen=True)
class Study:
    """Both tables, joined.

    Attributes:
        items: one row per non-English (model, task, language, pivot, item_id) of either table, sorted, with its answer,
            that of its English counterpart (``english_*``) and the covariates; missing if there is no prediction. An
            item of unknown ``cluster`` is its own cluster.
        blocks: by (model, task, metric, pooling).
        predictions: all predictions, English included, each once.
        notes: sentences on how duplicate rows were handled.
        last_layers: index L of the layer after the final norm, by model, where it is known.
    """

    items: pd.DataFrame
    blocks: Mapping[tuple[str, str, str, str], Block]
    predictions: pd.DataFrame
    notes: tuple[str, ...] = ()
    last_layers: Mapping[str, int] = field(default_factory=dict)

    @property
    def tasks(self) -> set[tuple[str, str]]:
        """Model and task of every row of either table."""
        answered = self.predictions[["model", "task"]].drop_duplicates().astype(str)
        return {key[:2] for key in self.blocks} | set(answered.itertuples(index=False, name=None))


def join(alignment: pd.DataFrame, predictions: pd.DataFrame, last_layers: Mapping[str, int] | None = None) -> Study:
    """Merge the tables; duplicate rows count once, and the order of rows does not matter.

    Args:
        alignment: as `ALIGNMENT`; ``margin`` is not needed.
        predictions: as `PREDICTIONS`; the columns after ``confidence`` may be missing.
        last_layers: index L of the layer after the final norm, by model; default: the model's highest layer here.

    Raises:
        InputError: duplicate rows contradict each other in more than `NOISE` of the cases.
    """
    answered, notes = unique_predictions(predictions)
    own = _with_english(answered)
    aligned = alignment[alignment["language"] != ENGLISH]
    keys = [*UNIT, "item_id"]
    codes, categories = _shared_codes(aligned, own, keys)
    shape = tuple(len(c) for c in categories)
    key, own_key = np.split(np.ravel_multi_index(codes, shape), [len(aligned)])
    every = np.union1d(pd.unique(key), own_key)
    parts = np.unravel_index(every, shape)
    items = pd.DataFrame({key: c[i] for key, c, i in zip(keys, categories, parts, strict=True)})
    answers = own.drop(columns=keys).set_index(own_key).reindex(every).reset_index(drop=True)
    items = pd.concat([items, answers], axis="columns")
    items["cluster"] = clusters(items)
    blocks, more = _blocks(aligned, np.searchsorted(every, key), items, last_layers or {})
    return Study(items, blocks, answered, (*notes, *more), last_layers or {})


def _shared_codes(a: pd.DataFrame, b: pd.DataFrame, columns: Sequence[str]) -> tuple[list[Array], list[Array]]:
    """Integer codes of the columns of two frames, over common sorted categories."""
    codes, categories = [], []
    for column in columns:
        parts = [_codes(frame[column]) for frame in (a, b)]
        names = np.array(sorted(set(parts[0][1]) | set(parts[1][1])), dtype=object)
        index = pd.Index(names)
        codes.append(np.concatenate([index.get_indexer(pd.Index(list(c)))[k] for k, c in parts]).astype(np.int64))
        categories.append(names)
    return codes, categories


def _codes(column: pd.Series[Any]) -> tuple[Array, Array]:
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("category")
    return column.cat.codes.to_numpy(), column.cat.categories.to_numpy()


def dense(values: Array) -> tuple[Array, Array]:
    """The distinct values, ascending, and each value's index among them; linear time for small integers."""
    present = np.bincount(values) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[values]


def _blocks(
    aligned: pd.DataFrame, position: Array, items: pd.DataFrame, last_layers: Mapping[str, int]
) -> tuple[dict[tuple[str, str, str, str], Block], list[str]]:
    if aligned.empty:
        return {}, []
    layer, value = aligned["layer"].to_numpy(), aligned["value"].to_numpy()
    parts = [_codes(aligned[column]) for column in BLOCK]
    shape = tuple(len(c) for _, c in parts)
    which = np.ravel_multi_index([k.astype(np.int64) for k, _ in parts], shape)
    last = dict(aligned.groupby("model", observed=True)["layer"].max()) | dict(last_layers)
    blocks, repeated, split = {}, 0, 0
    for code in pd.unique(which):
        key = tuple(str(c[i]) for (_, c), i in zip(parts, np.unravel_index(code, shape), strict=True))
        chosen = np.flatnonzero(which == code)
        rows, row = dense(position[chosen])
        layers, column = dense(layer[chosen])
        flat, size = row * len(layers) + column, len(rows) * len(layers)
        n = np.bincount(flat, minlength=size)
        k = np.bincount(flat[value[chosen] == 1], minlength=size)
        contradicted = (k > 0) & (k < n)
        repeated += int((n > 1).sum())
        split += int(contradicted.sum())
        if contradicted.any() and split > NOISE * repeated:
            first = int(np.flatnonzero(contradicted)[0])
            unit = items.iloc[rows[first // len(layers)]]
            where = f"{key[0]}, {key[1]}, {unit['language']}, {key[2]}, layer {layers[first % len(layers)]}"
            raise _contradiction("alignment", split, repeated, f"{where}, item {unit['item_id']}")
        values = np.where(n == 0, -1, 2 * k > n).astype(np.int8).reshape(len(rows), len(layers))
        inner = layers < last[key[0]]
        blocks[(key[0], key[1], key[2], key[3])] = Block(rows, layers, values, inner if inner.any() else ~inner)
    return dict(sorted(blocks.items())), _said("alignment", split, repeated)


def _contradiction(name: str, split: int, repeated: int, first: str) -> ContradictionError:
    return ContradictionError(
        f"The runs contradict each other: of {repeated:,} {name} rows that occur more than once, {split:,} differ, "
        f"such as {first}; they are different experiments, so make a report for each."
    )


def _said(name: str, split: int, repeated: int) -> list[str]:
    if not repeated:
        return []
    sentence = f"{repeated:,} rows of {name}.parquet occur more than once; each is counted once"
    if split:
        sentence += f"; {split:,} of them differ between runs (rounding), and the most frequent value was kept"
    return [sentence + "."]


def unique_predictions(predictions: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Each prediction once, sorted, texts as plain strings; and sentences on how duplicates were handled.

    Raises:
        InputError: duplicate rows contradict each other in more than `NOISE` of the cases.
    """
    keys = [*UNIT, "item_id"]
    table = predictions.astype(dict.fromkeys(keys, object)).reset_index(drop=True)
    group = table.groupby(keys, sort=False)
    repeated = group.ngroup()[table.duplicated(keys)].unique()
    if not len(repeated):
        return table.sort_values(keys, ignore_index=True), []
    differs = (group[["prediction", "gold"]].nunique() > 1).any(axis="columns")
    split = int(differs.sum())
    if split > NOISE * len(repeated):
        first = differs[differs].index[0]
        raise _contradiction("predictions", split, len(repeated), f"{', '.join(first[:3])}, item {first[4]}")
    table["votes"] = table.groupby([*keys, "prediction"])["prediction"].transform("size")
    order = table.sort_values([*keys, "votes", "prediction", "confidence"], ascending=[True] * 5 + [False, True, True])
    kept = order.drop_duplicates(keys).drop(columns="votes").reset_index(drop=True)
    return kept, _said("predictions", split, len(repeated))


def _with_english(predictions: pd.DataFrame) -> pd.DataFrame:
    """The non-English predictions with their English counterparts (same model, task, pivot and item)."""
    keys = [*UNIT, "item_id"]
    wanted = [
        *(*keys, "correct", "confidence", "prompt_tokens", "item_tokens", "option_similarity", "english_overlap"),
        *("category", "cluster"),
    ]
    table = predictions.reindex(columns=wanted).assign(label_prior=_label_prior(predictions))
    english = table.loc[table["language"] == ENGLISH, [*keys, "correct", "confidence", "item_tokens"]]
    english = english.drop(columns="language").rename(
        columns={"correct": "english_correct", "confidence": "english_confidence", "item_tokens": "english_tokens"}
    )
    own = table[table["language"] != ENGLISH].rename(columns={"prompt_tokens": "length"})
    joined = own.merge(english, how="left", on=["model", "task", "pivot", "item_id"], validate="many_to_one")
    joined["fertility"] = joined["item_tokens"] / joined["english_tokens"].where(joined["english_tokens"] > 0)
    return joined


def _label_prior(predictions: pd.DataFrame) -> pd.Series[float]:
    """The model's prior for each answer label (A, B, ...; first, second): the mean probability of that option over the
    language's items; missing if there are no log-likelihoods."""
    prior = pd.Series(np.nan, predictions.index, dtype=float)
    if "loglikelihoods" not in predictions:
        return prior
    for _, unit in predictions.groupby(UNIT, observed=True):
        values = unit["loglikelihoods"]
        sizes = values.map(len, na_action="ignore")
        if sizes.nunique(dropna=False) != 1 or sizes.isna().any():
            continue
        mean = softmax(np.stack(values.to_list()), axis=1).mean(axis=0)
        prior.loc[unit.index] = mean[unit["gold"].to_numpy(int)]
    return prior


def groups(predictions: pd.DataFrame) -> pd.DataFrame:
    """Accuracy per language, and the sizes of TS and TF.

    Returns:
        a row per non-English (model, task, language, pivot): n (its items), accuracy, stderr (sample standard error of
        the mean), english_accuracy (over all English items of the pivot), ts (items right in English and here),
        tf (right in English, wrong here), note.
    """
    table, _ = unique_predictions(predictions)
    english = table[table["language"] == ENGLISH].groupby(["model", "task", "pivot"])["correct"].mean()
    own = _with_english(table)
    rows = []
    for key, unit in own.groupby(UNIT):
        model, task, _, pivot = (str(name) for name in key)
        known = unit["english_correct"].notna().any()
        right = unit["correct"] == 1
        row: dict[str, Any] = dict(zip(UNIT, key, strict=True))
        row |= {"n": len(unit), "accuracy": unit["correct"].mean(), "stderr": unit["correct"].sem()}
        row["english_accuracy"] = english.get((model, task, pivot), np.nan)
        row["ts"] = int((right & (unit["english_correct"] == 1)).sum()) if known else pd.NA
        row["tf"] = int((~right & (unit["english_correct"] == 1)).sum()) if known else pd.NA
        reasons = [] if known else [_no_english(pivot)]
        reasons += ["stderr not defined, because there is one item"] if len(unit) == 1 else []
        row["note"] = "; ".join(reasons)
        rows.append(row)
    columns = [*UNIT, "n", "accuracy", "stderr", "english_accuracy", "ts", "tf", "note"]
    return pd.DataFrame(rows, columns=columns).astype({"ts": "Int64", "tf": "Int64"})


def of_block(table: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """The rows of a table for one model, task, metric and pooling."""
    return table[(table[BLOCK] == pd.Series(dict(zip(BLOCK, key, strict=True)))).all(axis="columns")]


def clusters(table: pd.DataFrame) -> pd.Series[Any]:
    """The cluster of each row's item: what it shares with dependent items.

    A row without one (an item that was aligned but not answered) has that of the same item elsewhere in its task; an
    item of unknown cluster is its own cluster.
    """
    if "cluster" not in table:
        return table["item_id"].astype(object)
    cluster = table["cluster"].astype(object)
    lacking = cluster.isna()
    if lacking.any() and not lacking.all():
        keys = ["task", "item_id"]
        known = table.loc[~lacking, [*keys, "cluster"]].drop_duplicates(keys).astype(object)
        found = table.loc[lacking, keys].astype(object).merge(known, "left", keys)["cluster"]
        cluster.loc[lacking] = found.to_numpy(object)
    return cluster.where(cluster.notna(), table["item_id"])


def _no_english(pivot: str) -> str:
    return f"TS and TF not defined, because English ({pivot}) has no predictions for these items"


def tally(study: Study) -> pd.DataFrame:
    """Counts per language, metric and layer, from which all proportions are computed.

    Returns:
        one row per (model, task, language, pivot, metric, pooling, layer): inner (bool: below L), n and k (items, and
        aligned ones), the same for each of ts, tf, right, wrong (``n_ts``, ``k_ts``, ...), n_english (items whose
        English answer is known), best_layer (bool: the lowest inner layer with the highest share).
    """
    parts = [_tally_block(study.items, key, block) for key, block in study.blocks.items()]
    columns = [*SERIES, "layer", "inner", "n", "k", *(f"{c}_{g}" for g in _GROUPS for c in "nk"), "n_english"]
    cells = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    cells["share"] = (cells["k"] / cells["n"]).astype(float)
    best = cells[cells["inner"].astype(bool)].sort_values(["share", "layer"], ascending=[False, True], kind="stable")
    cells["best_layer"] = cells.index.isin(best.drop_duplicates(SERIES).index)
    return cells.sort_values([*SERIES, "layer"], ignore_index=True)


_GROUPS = ("ts", "tf", "right", "wrong")


def _tally_block(items: pd.DataFrame, key: tuple[str, str, str, str], block: Block) -> pd.DataFrame:
    own = items.iloc[block.rows]
    right, wrong = (own["correct"] == 1).to_numpy(), (own["correct"] == 0).to_numpy()
    transfer = (own["english_correct"] == 1).to_numpy()
    known = own["english_correct"].notna().to_numpy() & own["correct"].notna().to_numpy()
    members = {"": np.ones(len(own), bool), "_ts": right & transfer, "_tf": wrong & transfer}
    members |= {"_right": right, "_wrong": wrong}
    units = own[["language", "pivot"]].reset_index(drop=True)
    starts = np.flatnonzero(~units.duplicated())
    K = len(block.layers)
    cells = units.iloc[np.repeat(starts, K)].reset_index(drop=True)
    cells["model"], cells["task"], cells["metric"], cells["pooling"] = key
    cells["layer"], cells["inner"] = np.tile(block.layers, len(starts)), np.tile(block.inner, len(starts))
    present, ones = block.values >= 0, block.values == 1
    for name, member in members.items():
        cells[f"n{name}"] = np.add.reduceat(present & member[:, None], starts, axis=0, dtype=np.int64).ravel()
        cells[f"k{name}"] = np.add.reduceat(ones & member[:, None], starts, axis=0, dtype=np.int64).ravel()
    cells["n_english"] = np.add.reduceat(present & known[:, None], starts, axis=0, dtype=np.int64).ravel()
    return cells[cells["n"] > 0]


def points(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Each language's alignment and accuracy, for the language level.

    A task without predictions, such as FLORES, is paired with every task of the same model that has them.

    Returns:
        one row per (model, task, alignment_task, metric, pooling, reduce, layer, language): alignment (share aligned,
        its max or mean over layers 0..L-1, or at one layer), accuracy, fertility (tokens per English token over the
        task's items), n (items behind the alignment). ``layer`` is missing for max and mean.
    """
    names = ["model", "task", "metric", "pooling", "language", "pivot"]
    inner = cells[cells["inner"].astype(bool)].groupby(names)
    reduced = [
        inner.agg(alignment=("share", how), n=("n", "max")).reset_index().assign(reduce=how, layer=np.nan)
        for how in ("max", "mean")
    ]
    single = cells[[*names, "layer", "share", "n"]].rename(columns={"share": "alignment"}).assign(reduce="layer")
    series = pd.concat([*reduced, single], ignore_index=True).astype({"layer": "Int64"})
    series = series.rename(columns={"task": "alignment_task"})
    scores = _scores(study)
    has_own = series.set_index(["model", "alignment_task"]).index.isin(scores.set_index(["model", "task"]).index)
    own = series[has_own].merge(
        scores.rename(columns={"task": "alignment_task"}), on=["model", "alignment_task", "language", "pivot"]
    )
    own["task"] = own["alignment_task"]
    other = series[~has_own].drop(columns="pivot").merge(scores, on=["model", "language"])
    order = ["model", "task", "alignment_task", "metric", "pooling", "reduce", "layer", "language", "pivot"]
    found = pd.concat([own, other], ignore_index=True)[[*order, "alignment", "accuracy", "fertility", "n"]]
    return found.sort_values(order, ignore_index=True)


def _scores(study: Study) -> pd.DataFrame:
    answered = study.items[study.items["correct"].notna()]
    paired = answered[answered["fertility"].notna()]
    tokens = paired.groupby(UNIT)[["item_tokens", "english_tokens"]].sum()
    scores = answered.groupby(UNIT)["correct"].mean().astype(float).to_frame("accuracy")
    scores["fertility"] = (tokens["item_tokens"] / tokens["english_tokens"]).astype(float).reindex(scores.index)
    return scores.reset_index()
