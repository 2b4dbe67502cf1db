"""Language level and instance level statistics, from tables alone: pandas in, tidy pandas out, no model and no files.

`join` brings the two tables together once; every other function reads what it returns. Where a number does not exist
its cell is missing and the row's ``note`` says "not defined, because ...". English is never a point.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.discrete.discrete_model import Logit
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest
from statsmodels.tools.sm_exceptions import ConvergenceWarning, PerfectSeparationError, PerfectSeparationWarning

from align_pipeline.errors import InputError
from align_pipeline.records import ENGLISH

UNIT = ["model", "task", "language", "pivot"]
SERIES = [*UNIT, "metric", "pooling"]
BLOCK = ["model", "task", "metric", "pooling"]
CONTRASTS = ("ts_tf", "right_wrong")
COVARIATES = {
    "english_confidence": "confidence of the English answer",
    "length": "tokens of the prompt",
    "fertility": "tokens of the item per token of its English version",
    "option_similarity": "likeness of the two most alike options",
}
NOISE = 0.02
"""Largest share of repeated rows that may contradict each other and still pass as rounding between machines."""
MIN_LANGUAGES, MIN_FOR_INTERVAL = 3, 5
BINS = 10

Array = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """One metric's values for one model and task.

    Attributes:
        rows: [R], positions in ``Study.items``, ascending.
        layers: [K], ascending.
        values: int8 [R, K]: 1 aligned, 0 not, -1 where the table has no such row.
        inner: bool [K], the layers that reductions and the best layer look at: all below L.
    """

    rows: Array
    layers: Array
    values: NDArray[np.int8]
    inner: NDArray[np.bool_]


@dataclass(frozen=True)
class Study:
    """Both tables, joined.

    Attributes:
        items: a row per non-English (model, task, language, pivot, item_id) of either table, sorted, with its answer,
            its English counterpart's (``english_*``) and the covariates; missing where there is no prediction.
        blocks: by (model, task, metric, pooling).
        predictions: all predictions, English ones too, each once.
        notes: what was decided about rows that occur more than once, as sentences.
    """

    items: pd.DataFrame
    blocks: Mapping[tuple[str, str, str, str], Block]
    predictions: pd.DataFrame
    notes: tuple[str, ...] = field(default=())


def join(alignment: pd.DataFrame, predictions: pd.DataFrame, last_layers: Mapping[str, int] | None = None) -> Study:
    """Bring the tables together; repeated rows count once, whatever the order of rows.

    Args:
        alignment: as `records.ALIGNMENT`; ``margin`` is not needed.
        predictions: as `records.PREDICTIONS`; the columns after ``confidence`` may be missing.
        last_layers: index L of the layer after the final norm, by model. Default: the model's highest layer here.

    Raises:
        InputError: repeated rows contradict each other in more than `NOISE` of the cases.
    """
    answered, notes = unique_predictions(predictions)
    own = _with_english(answered)
    aligned = alignment[alignment["language"] != ENGLISH]
    keys = [*UNIT, "item_id"]
    codes, categories = _shared_codes(aligned, own, keys)
    shape = tuple(len(c) for c in categories)
    own_key = np.ravel_multi_index([c[len(aligned) :] for c in codes], shape) if len(own) else np.array([], int)
    key = np.ravel_multi_index([c[: len(aligned)] for c in codes], shape) if len(aligned) else np.array([], int)
    every = np.union1d(pd.unique(key), own_key)
    parts = np.unravel_index(every, shape) if len(every) else [every] * len(keys)
    items = pd.DataFrame({key: c[i] for key, c, i in zip(keys, categories, parts, strict=True)})
    items = pd.concat(
        [items, own.drop(columns=keys).set_index(own_key).reindex(every).reset_index(drop=True)], axis="columns"
    )
    blocks, more = _blocks(aligned, np.searchsorted(every, key), items, last_layers or {})
    return Study(items, blocks, answered, (*notes, *more))


def _shared_codes(a: pd.DataFrame, b: pd.DataFrame, columns: Sequence[str]) -> tuple[list[Array], list[Array]]:
    """Integer codes of both frames' columns, one after the other, over common sorted categories."""
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


def _dense(values: Array) -> tuple[Array, Array]:
    """The distinct values, ascending, and each value's place among them; for small whole numbers, in linear time."""
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
        rows, row = _dense(position[chosen])
        layers, column = _dense(layer[chosen])
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


def _contradiction(name: str, split: int, repeated: int, first: str) -> InputError:
    return InputError(
        f"The runs contradict each other: of {repeated:,} {name} rows that occur more than once {split:,} differ, "
        f"such as that of {first}; they are different experiments, so report on them one by one."
    )


def _said(name: str, split: int, repeated: int) -> list[str]:
    if not repeated:
        return []
    sentence = f"{repeated:,} rows of {name}.parquet occur more than once and count once"
    if split:
        sentence += f"; {split:,} of them differ between runs (rounding), and the commonest value was kept"
    return [sentence + "."]


def unique_predictions(predictions: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Every prediction once, sorted, texts as plain strings; and what was decided about repeated ones.

    Raises:
        InputError: repeated rows contradict each other in more than `NOISE` of the cases.
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
    """The non-English predictions with their English counterparts: same model, task, pivot and item."""
    keys = [*UNIT, "item_id"]
    wanted = [*keys, "correct", "confidence", "prompt_tokens", "item_tokens", "option_similarity", "category"]
    table = predictions.reindex(columns=wanted)
    english = table.loc[table["language"] == ENGLISH, [*keys, "correct", "confidence", "item_tokens"]]
    english = english.drop(columns="language").rename(
        columns={"correct": "english_correct", "confidence": "english_confidence", "item_tokens": "english_tokens"}
    )
    own = table[table["language"] != ENGLISH].rename(columns={"prompt_tokens": "length"})
    joined = own.merge(english, how="left", on=["model", "task", "pivot", "item_id"], validate="many_to_one")
    joined["fertility"] = joined["item_tokens"] / joined["english_tokens"].where(joined["english_tokens"] > 0)
    return joined


def groups(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often the model is right, per language, and the sizes of TS and TF.

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


def _no_english(pivot: str) -> str:
    return f"TS and TF not defined, because English ({pivot}) has no predictions for these items"


# ---------------------------------------------------------------------------------------------- alignment by layer


def tally(study: Study) -> pd.DataFrame:
    """Counts per language, metric and layer: what every proportion is made of.

    Returns:
        a row per (model, task, language, pivot, metric, pooling, layer): inner (bool: below L), n and k (items, and
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


# ------------------------------------------------------------------------------------------------- language level


def points(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """What the language level compares: a language's alignment and its accuracy.

    A task without predictions, such as FLORES, is set against every task of the same model that has them.

    Returns:
        a row per (model, task, alignment_task, metric, pooling, reduce, layer, language): alignment (share aligned,
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


LANGUAGE_LEVEL = [
    *("task", "metric", "pooling", "reduce", "layer", "group", "n"),
    *("pearson", "pearson_p", "pearson_low", "pearson_high"),
    *("spearman", "spearman_p", "spearman_low", "spearman_high"),
    *("partial_pearson", "partial_pearson_p", "partial_spearman", "partial_spearman_p"),
    *("model", "alignment_task", "grouping", "note"),
]


def language_level(
    found: pd.DataFrame, languages: pd.DataFrame | None = None, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Does a language's alignment go with its accuracy?

    Args:
        found: from `points`.
        languages: script, family and resource class, indexed by FLORES code; a code that it lacks is `unknown`.
        resamples: bootstrap resamples of the languages behind each 95% percentile interval.
        seed: of the bootstrap; every group draws its own resamples, so that other groups do not change its interval.

    Returns:
        columns `LANGUAGE_LEVEL`. p values are two-sided; ``partial_*`` hold tokenizer fertility constant.
    """
    rows: list[dict[str, Any]] = []
    names = ["model", "task", "alignment_task", "metric", "pooling"]
    for key, series in found.groupby(names):
        wide = series.pivot_table(
            index=["reduce", "layer"], columns=["language", "pivot"], values="alignment", dropna=False, sort=True
        )
        wide = wide[wide.notna().any(axis="columns")]
        about = series.drop_duplicates(["language", "pivot"]).set_index(["language", "pivot"]).reindex(wide.columns)
        for grouping, group, member in memberships(wide.columns.get_level_values(0), languages):
            stream = zlib.crc32("|".join([*map(str, key), grouping, group]).encode())
            values = _correlations(
                wide.to_numpy(float)[:, member],
                about["accuracy"].to_numpy(float)[member],
                about["fertility"].to_numpy(float)[member],
                resamples,
                np.random.default_rng([seed, stream]),
            )
            for (reduce, layer), numbers in zip(wide.index, values, strict=True):
                row = dict(zip(names, key, strict=True)) | {"grouping": grouping, "group": group}
                rows.append(row | {"reduce": reduce, "layer": pd.NA if pd.isna(layer) else int(layer)} | numbers)
    table = pd.DataFrame(rows, columns=LANGUAGE_LEVEL).astype({"layer": "Int64"})
    rank = {"max": 0, "mean": 1, "layer": 2, "all": 0, "script": 1, "family": 2, "resource": 3}
    order = ["model", "task", "alignment_task", "metric", "pooling", "grouping", "group", "reduce", "layer"]
    by = table.assign(grouping=table["grouping"].map(rank), reduce=table["reduce"].map(rank)).sort_values(order).index
    return table.loc[by].reset_index(drop=True)


def memberships(codes: pd.Index[Any], languages: pd.DataFrame | None) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Grouping, group and its members among FLORES codes: all, then by script, family and resource class."""
    yield "all", "all", np.ones(len(codes), bool)
    known = languages if languages is not None else pd.DataFrame(columns=["script", "family", "resource"])
    about = known.reindex(codes)
    scripts = about["script"].where(about["script"].notna(), pd.Series(codes, index=about.index).str[4:])
    classes = about["resource"].map(lambda c: "unknown" if pd.isna(c) else f"class {c}")
    for grouping, values in (("script", scripts), ("family", about["family"]), ("resource", classes)):
        names = values.astype(object).where(values.notna() & (values != ""), "unknown").astype(str).to_numpy()
        if set(names) != {"unknown"}:
            for name in sorted(set(names)):
                yield grouping, name, names == name


def _correlations(
    x: Array, y: Array, fertility: Array, resamples: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Numbers for each row of x [K, n] against y [n]; rows that lack the same languages are computed together."""
    rows: list[dict[str, Any]] = [{} for _ in x]
    present = ~np.isnan(x)
    draws = rng.integers(2**32, size=1)[0]
    for mask in np.unique(present, axis=0):
        chosen = np.flatnonzero((present == mask).all(axis=1))
        block = _correlate(x[np.ix_(chosen, mask)], y[mask], fertility[mask], resamples, np.random.default_rng(draws))
        for i, numbers in zip(chosen, block, strict=True):
            rows[i] = numbers
    return rows


def _correlate(x: Array, y: Array, fertility: Array, resamples: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    n = len(y)
    reason = f"there {'is' if n == 1 else 'are'} only {n} language{'' if n == 1 else 's'}" if n < MIN_LANGUAGES else ""
    if not reason and np.ptp(y) == 0:
        reason = f"accuracy is the same ({y[0]:.3f}) in all {n} languages"
    if reason:
        return [{"n": n, "note": f"not defined, because {reason}"} for _ in x]
    varies = np.ptp(x, axis=1) > 0
    live = x[varies]
    numbers: dict[str, Array] = {}
    partial_reason = _partial(numbers, live, y, fertility)
    for name, (a, b) in {"pearson": (live, y), "spearman": (stats.rankdata(live, axis=1), stats.rankdata(y))}.items():
        result = stats.pearsonr(a, b[None], axis=1) if len(a) else None
        numbers[name], numbers[f"{name}_p"] = (result.statistic, result.pvalue) if result else (a[:, 0], a[:, 0])
    interval_reason = f"there are fewer than {MIN_FOR_INTERVAL} languages" if n < MIN_FOR_INTERVAL else ""
    if not interval_reason:
        _intervals(numbers, live, y, resamples, rng)
    out: list[dict[str, Any]] = []
    columns = iter(range(len(live)))
    for i, alive in enumerate(varies):
        if not alive:
            out.append(
                {"n": n, "note": f"not defined, because alignment is the same ({x[i, 0]:.3f}) in all {n} languages"}
            )
            continue
        j = next(columns)
        row: dict[str, Any] = {name: float(values[j]) for name, values in numbers.items()}
        notes = [f"partial correlation not defined, because {partial_reason}"] if partial_reason else []
        if not partial_reason and np.isnan(row["partial_pearson"]):
            notes.append("partial correlation not defined, because fertility explains alignment or accuracy fully")
        if interval_reason or np.isnan([row["pearson_low"], row["spearman_low"]]).any():
            why = interval_reason or "alignment or accuracy differs in too few languages to resample them"
            notes.append(f"interval not defined, because {why}")
        out.append({**row, "n": n, "note": "; ".join(notes)})
    return out


def _partial(numbers: dict[str, Array], x: Array, y: Array, control: Array) -> str:
    """Fill in partial correlations given `control`: of the residuals, with n - 3 degrees of freedom; or say why not."""
    n = len(y)
    if np.isnan(control).any():
        return "the tables have no item_tokens for X and English"
    if n < 4:
        return "there are fewer than 4 languages"
    if np.ptp(control) == 0:
        return "fertility is the same in all languages"
    for name in ("pearson", "spearman"):
        all_three = np.column_stack([control, x.T, y])
        values = all_three if name == "pearson" else stats.rankdata(all_three, axis=0)
        design, both = np.column_stack([np.ones(n), values[:, 0]]), values[:, 1:]
        rest = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
        rest[:, np.ptp(rest, axis=0) < 1e-9 * np.ptp(both, axis=0)] = 0  # nothing but rounding is left
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            r = stats.pearsonr(rest[:, :-1].T, rest[:, -1][None], axis=1).statistic if len(x) else np.empty(0)
        with np.errstate(divide="ignore"):
            t = r * np.sqrt((n - 3) / (1 - r**2))
        numbers[f"partial_{name}"], numbers[f"partial_{name}_p"] = r, 2 * stats.t.sf(np.abs(t), n - 3)
    return ""


def _intervals(numbers: dict[str, Array], x: Array, y: Array, resamples: int, rng: np.random.Generator) -> None:
    """95% percentile bootstrap intervals, all rows of x on the same resampled languages."""
    drawn = rng.integers(len(y), size=(resamples, len(y)))
    for name in ("pearson", "spearman"):
        ends = np.full((2, len(x)), np.nan)
        other = _unit(y[drawn] if name == "pearson" else stats.rankdata(y[drawn], axis=-1))
        for i, row in enumerate(x):
            a = row[drawn]
            r = np.einsum("ij,ij->i", _unit(a if name == "pearson" else stats.rankdata(a, axis=-1)), other)
            r = r[~np.isnan(r)]
            if len(r) >= 0.95 * resamples:
                ends[:, i] = np.clip(np.percentile(r, [2.5, 97.5]), -1, 1)
        numbers[f"{name}_low"], numbers[f"{name}_high"] = ends


def _unit(a: Array) -> Array:
    """Rows centred and of length one, so that their products are correlations (`pearsonr` takes five times as long).

    A row that does not vary is missing.
    """
    centred = a - a.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("ij,ij->i", centred, centred))
    unit: Array = centred / np.where(np.ptp(a, axis=1) > 0, length, np.nan)[:, None]
    return unit


# ------------------------------------------------------------------------------------------------- instance level

INSTANCE_LEVEL = [
    *("task", "language", "metric", "pooling", "layer", "best_layer", "contrast"),
    *("n_a", "n_b", "mean_a", "mean_b", "difference", "low", "high", "z", "p_one_sided", "p_fisher", "p_holm", "p_bh"),
    *("model", "pivot", "note"),
]


def instance_level(cells: pd.DataFrame) -> pd.DataFrame:
    """Are the items that a language gets right aligned more often than those it gets wrong?

    Args:
        cells: from `tally`.

    Returns:
        columns `INSTANCE_LEVEL`. In ``ts_tf`` group a is TS and b is TF; in ``right_wrong`` a is right, b is wrong.
        ``mean_*`` are shares aligned; ``difference`` is a minus b with Newcombe's 95% interval; ``z`` and
        ``p_one_sided`` are the two-proportion z-test with pooled variance, ``p_fisher`` Fisher's exact test, both with
        the alternative a > b; ``p_holm`` and ``p_bh`` adjust ``p_one_sided`` over the layers of the same test.
    """
    parts = []
    for contrast, a, b in (("ts_tf", "ts", "tf"), ("right_wrong", "right", "wrong")):
        rows = cells[[*SERIES, "layer", "best_layer", "n_english", "n_right", "n_wrong"]].copy()
        for side, group in (("a", a), ("b", b)):
            rows[f"n_{side}"], rows[f"k_{side}"] = cells[f"n_{group}"], cells[f"k_{group}"]
        parts.append(rows.assign(contrast=contrast))
    table = pd.concat(parts, ignore_index=True)
    table = table.astype(dict.fromkeys(("n_a", "n_b", "k_a", "k_b", "n_english"), np.int64))
    _compare(table)
    _adjust(table, [*SERIES, "contrast"], "p_one_sided")
    table["note"] = [_instance_note(row) for row in table.itertuples()]
    return table.sort_values([*SERIES, "contrast", "layer"], ignore_index=True)[INSTANCE_LEVEL]


def _compare(table: pd.DataFrame) -> None:
    """Fill in means, difference, interval and tests from n_a, k_a, n_b, k_b."""
    n_a, n_b, k_a, k_b = (table[c].to_numpy() for c in ("n_a", "n_b", "k_a", "k_b"))
    for side, n, k in (("a", n_a, k_a), ("b", n_b, k_b)):
        table[f"mean_{side}"] = np.divide(k, n, out=np.full(len(n), np.nan), where=n > 0)
    table["difference"] = table["mean_a"] - table["mean_b"]
    for column in ("low", "high", "z", "p_one_sided", "p_fisher"):
        table[column] = np.nan
    both = (n_a > 0) & (n_b > 0)
    if both.any():
        low, high = confint_proportions_2indep(k_a[both], n_a[both], k_b[both], n_b[both], method="newcomb")
        table.loc[both, "low"], table.loc[both, "high"] = low, high
        table.loc[both, "p_fisher"] = stats.hypergeom.sf(  # scipy's fisher_exact(alternative="greater"), vectorised
            k_a[both] - 1, (n_a + n_b)[both], (k_a + k_b)[both], n_a[both]
        )
    varies = both & (k_a + k_b > 0) & (k_a + k_b < n_a + n_b)
    counts = np.column_stack([k_a, k_b, n_a, n_b])[varies]
    distinct, index = np.unique(counts, axis=0, return_inverse=True)
    tests = np.array([proportions_ztest(c[:2], c[2:], alternative="larger") for c in distinct]).reshape(-1, 2)
    table.loc[varies, ["z", "p_one_sided"]] = tests[index]


def _adjust(table: pd.DataFrame, family: list[str], column: str) -> None:
    """Add Holm and Benjamini-Hochberg over the defined p values of each family."""
    table["p_holm"], table["p_bh"] = np.nan, np.nan
    defined = table.loc[table[column].notna(), [*family, column]]
    for rows in defined.groupby(family, observed=True).indices.values():
        p = defined[column].to_numpy(float)[rows]
        table.loc[defined.index[rows], "p_holm"] = holm(p)
        table.loc[defined.index[rows], "p_bh"] = stats.false_discovery_control(p, method="bh")


def holm(p: Array) -> Array:
    """Holm's adjusted p values, as statsmodels' `multipletests`, which collects garbage on every call (60 ms)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def _instance_note(row: Any) -> str:
    language = row.language
    if row.n_right + row.n_wrong == 0:
        return f"not defined, because these items have no predictions in {language}"
    if row.contrast == "ts_tf" and row.n_english == 0:
        return f"not defined, because English ({row.pivot}) has no predictions for these items"
    sizes = {
        "ts_tf": (f"right in English and right in {language}", f"right in English and wrong in {language}"),
        "right_wrong": (f"right in {language}", f"wrong in {language}"),
    }[row.contrast]
    empty = [what for what, n in zip(sizes, (row.n_a, row.n_b), strict=True) if n == 0]
    if empty:
        return f"not defined, because no item is {' and none is '.join(empty)}"
    if np.isnan(row.z):
        return f"z not defined, because {'all' if row.k_a else 'none'} of these items are aligned at this layer"
    return ""


# ------------------------------------------------------------------------------------------- pooled over languages

REGRESSION = [
    *("model", "task", "metric", "pooling", "method", "contrast", "adjusted_for", "at", "layer", "term", "unit"),
    *("n", "n_items", "n_languages", "log_odds", "odds_ratio", "low", "high", "z", "p", "p_holm", "p_bh"),
    *("p_homogeneity", "note"),
]


def regression(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Does alignment go with correctness when all languages are taken together?

    ``method`` `cmh` is the Cochran-Mantel-Haenszel test with languages as strata (it takes a language's items as
    independent of the same items in other languages); `logit` is the logistic regression of correctness on alignment
    with errors clustered by item, which is not fooled by items that recur across languages. ``adjusted_for`` names
    what else is in it: `nothing`, `covariates`, `covariates and language` (one intercept per language).
    ``at`` is `best_layer` (every language at its own) or `layer`.

    Returns:
        columns `REGRESSION`; ``low`` and ``high`` bound the odds ratio's 95% interval, ``p`` is two-sided,
        ``p_holm`` and ``p_bh`` adjust the p of alignment over layers, ``p_homogeneity`` tests (Breslow-Day) that
        languages share one odds ratio. Covariates are in standard deviations (``unit``).
    """
    rows = list(_cmh_rows(cells))
    for key, block in study.blocks.items():
        rows += _logit_rows(dict(zip(BLOCK, key, strict=True)), study.items.iloc[block.rows], block, cells)
    table = pd.DataFrame(rows, columns=REGRESSION)
    table["note"] = table["note"].fillna("")
    whole = dict.fromkeys(("layer", "n", "n_items", "n_languages"), "Int64")
    real = dict.fromkeys(REGRESSION[REGRESSION.index("log_odds") : -1], float)
    table = table.astype({**whole, **real})
    family = [*BLOCK, "method", "contrast", "adjusted_for"]
    of_alignment = (table["term"] == "aligned") & (table["at"] == "layer")
    part = table[of_alignment].copy()
    _adjust(part, family, "p")
    table.loc[of_alignment, ["p_holm", "p_bh"]] = part[["p_holm", "p_bh"]]
    return table


def _cmh_rows(cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    at_best = cells[cells["best_layer"]].assign(layer=np.nan, at="best_layer")
    both = pd.concat([at_best, cells.assign(at="layer")], ignore_index=True).astype({"layer": "Int64"})
    for key, part in both.groupby([*BLOCK, "at", "layer"], dropna=False):
        for contrast, a, b in (("ts_tf", "ts", "tf"), ("right_wrong", "right", "wrong")):
            about = dict(zip([*BLOCK, "at", "layer"], key, strict=True))
            about |= {"method": "cmh", "contrast": contrast, "adjusted_for": "language", "term": "aligned"}
            counts = part[[f"k_{a}", f"n_{a}", f"k_{b}", f"n_{b}"]].to_numpy(float)
            yield about | {"unit": "aligned against not"} | cmh(counts)


def cmh(counts: Array) -> dict[str, Any]:
    """Cochran-Mantel-Haenszel over strata; a row of `counts` is aligned and all items of a, then of b."""
    k_a, n_a, k_b, n_b = counts.T
    informative = (n_a > 0) & (n_b > 0) & (k_a + k_b > 0) & (k_a + k_b < n_a + n_b)
    found: dict[str, Any] = {"n": int((n_a + n_b)[informative].sum()), "n_languages": int(informative.sum())}
    if not informative.any():
        return found | {"note": "not defined, because no language has both groups and both aligned and other items"}
    tables = np.array([[k_a, n_a - k_a], [k_b, n_b - k_b]])[:, :, informative]
    if not (tables[0, 0] * tables[1, 1]).any() or not (tables[0, 1] * tables[1, 0]).any():
        return found | {"note": "not defined, because the pooled odds ratio is zero or infinite"}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        stratified = StratifiedTable(tables)
        test = stratified.test_null_odds()
        low, high = stratified.oddsratio_pooled_confint()
        homogeneity = stratified.test_equal_odds().pvalue if informative.sum() > 1 else np.nan
    log_odds = float(stratified.logodds_pooled)
    found |= {"log_odds": log_odds, "odds_ratio": float(stratified.oddsratio_pooled), "low": float(low)}
    found |= {"high": float(high), "z": float(np.sign(log_odds) * np.sqrt(test.statistic)), "p": float(test.pvalue)}
    if np.isfinite(homogeneity):
        return found | {"p_homogeneity": float(homogeneity), "note": ""}
    few = "only one language counts" if informative.sum() == 1 else "too few items are in some cells"
    return found | {"note": f"p_homogeneity not defined, because {few}"}


def _logit_rows(
    about: dict[str, Any], items: pd.DataFrame, block: Block, cells: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    base = about | {"method": "logit", "contrast": "right_wrong", "unit": "aligned against not"}
    answered = items["correct"].notna().to_numpy()
    if not answered.any():
        yield base | {"at": "best_layer", "term": "aligned", "note": "not defined, because the task has no predictions"}
        return
    items, values = items[answered], block.values[answered]
    y = items["correct"].to_numpy(float)
    item, language = items["item_id"].factorize()[0], items["language"] + "|" + items["pivot"]
    group = language.factorize()[0]
    covariates, units, notes = _design(items)
    dummies = pd.get_dummies(language, drop_first=True, dtype=float)
    of_block = (cells[BLOCK] == pd.Series(about)).all(axis="columns")
    best = cells[of_block & cells["best_layer"]]
    column = dict(
        zip(best["language"] + "|" + best["pivot"], np.searchsorted(block.layers, best["layer"]), strict=True)
    )
    at_best = values[np.arange(len(items)), language.map(column).to_numpy(int)]
    designs = {"nothing": covariates.iloc[:, :0], "covariates": covariates}
    designs["covariates and language"] = pd.concat([covariates, dummies], axis="columns")
    for name, design in designs.items():
        shown = [] if name == "nothing" else [str(c) for c in covariates]
        note = "" if name == "nothing" else notes
        for row in _logit(y, at_best, design, item, group, shown):
            unit = {"unit": units.get(row["term"], base["unit"])}
            full = "; ".join(filter(None, [row.pop("note", ""), note if row["term"] == "aligned" else ""]))
            yield base | unit | row | {"adjusted_for": name, "at": "best_layer", "note": full}
    for layer, value in zip(block.layers, values.T, strict=True):
        for row in _logit(y, value, covariates, item, group, []):
            yield base | row | {"adjusted_for": "covariates", "at": "layer", "layer": layer}


def _design(items: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str], str]:
    """Covariates in standard deviations, category as dummies; their units; and what was left out and why."""
    columns, units, left_out = {}, {}, []
    for name, meaning in COVARIATES.items():
        value = items[name].astype(float)
        if value.isna().any():
            left_out.append(f"{name} is not known for {int(value.isna().sum()):,} answers")
        elif np.ptp(value) < 1e-12:
            left_out.append(f"{name} is the same for all answers")
        else:
            columns[name], units[name] = (value - value.mean()) / value.std(), f"per standard deviation ({meaning})"
    category = items["category"].fillna("").astype(str)
    if category.nunique() > 1:
        dummies = pd.get_dummies(category.where(category != "", "none"), drop_first=True, dtype=float)
        for name in map(str, dummies):
            columns[f"category: {name}"] = dummies[name]
            units[f"category: {name}"] = f"against {sorted(category.where(category != '', 'none').unique())[0]}"
    else:
        left_out.append("category is the same for all answers")
    note = f"covariates left out: {', '.join(left_out)}" if left_out else ""
    return pd.DataFrame(columns, index=items.index), units, note


_NO_FIT = (ConvergenceWarning, PerfectSeparationWarning, RuntimeWarning)


def _logit(
    y: Array, value: Array, design: pd.DataFrame, item: Array, language: Array, shown: list[str]
) -> list[dict[str, Any]]:
    """Logistic regression of y on alignment and `design`, errors clustered by item; a row per shown term."""
    present = value >= 0
    y, item, language = y[present], item[present], language[present]
    aligned = value[present].astype(float)
    found = {"n": len(y), "n_items": len(_dense(item)[0]), "n_languages": len(_dense(language)[0])}
    other = design.to_numpy(float)[present]
    # a constant column, such as a language without rows at this layer, has no coefficient of its own
    kept = np.ptp(other, axis=0) > 0 if len(y) else np.zeros(other.shape[1], bool)
    names = ["", "aligned", *design.columns[kept]]
    exog = np.column_stack([np.ones(len(y)), aligned, other[:, kept]])
    reason = _cannot_fit(y, aligned, found["n_items"], exog)
    if not reason:
        try:
            with warnings.catch_warnings():
                for kind in _NO_FIT:
                    warnings.simplefilter("error", kind)
                fit = Logit(y, exog, check_rank=False).fit(
                    disp=0, maxiter=50, cov_type="cluster", cov_kwds={"groups": item}
                )
            if not np.isfinite(fit.bse).all() or (fit.bse > 50).any():
                reason = "the covariates separate right from wrong answers"
        except (*_NO_FIT, PerfectSeparationError, np.linalg.LinAlgError):
            reason = "the regression does not converge (the covariates separate right from wrong answers)"
    if reason:
        return [found | {"term": "aligned", "note": f"not defined, because {reason}"}]
    ends = np.exp(fit.conf_int())
    return [
        found
        | {"term": name, "log_odds": fit.params[i], "odds_ratio": np.exp(fit.params[i]), "low": ends[i, 0]}
        | {"high": ends[i, 1], "z": fit.tvalues[i], "p": fit.pvalues[i], "note": ""}
        for i, name in enumerate(names)
        if name == "aligned" or name in shown
    ]


def _cannot_fit(y: Array, aligned: Array, clusters: int, exog: Array) -> str:
    if not len(y):
        return "no answered item has an alignment at this layer"
    if np.ptp(y) == 0:
        return f"all answers are {'right' if y[0] else 'wrong'}"
    if np.ptp(aligned) == 0:
        return f"{'all' if aligned[0] else 'none'} of the items are aligned"
    if clusters < 2 * exog.shape[1] and clusters < 30:
        return f"{clusters} items are too few for errors clustered by item"
    if min((y[aligned == a] == b).sum() for a in (0, 1) for b in (0, 1)) == 0:
        return "all aligned or all other items have the same outcome"
    if np.linalg.matrix_rank(exog.T @ exog, hermitian=True) < exog.shape[1]:
        return "the covariates determine each other"
    return ""


# ---------------------------------------------------------------------------------------- confidence and calibration


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """Confidence against accuracy in ten equal bins of (0, 1], per language, English too.

    Returns:
        a row per non-empty bin of each (model, task, language, pivot): bin (0..9), n, confidence and accuracy (means).
    """
    table, _ = unique_predictions(predictions)
    table["bin"] = _bin(table["confidence"].to_numpy(float))
    grouped = table.groupby([*UNIT, "bin"])
    means = {"n": ("correct", "size"), "confidence": ("confidence", "mean"), "accuracy": ("correct", "mean")}
    return grouped.agg(**means).reset_index()


def _bin(sure: Array) -> Array:
    index: Array = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    return index


def calibration(predictions: pd.DataFrame) -> pd.DataFrame:
    """How far the model's confidence can be trusted, per language, English too.

    Returns:
        a row per (task, language, model, pivot): n, accuracy, confidence (mean), overconfidence (confidence minus
        accuracy), ece (expected calibration error, Guo et al. 2017: mean absolute gap over ten equal bins, weighted by
        their items), brier (mean squared gap between confidence and correctness, 0 to 1), brier_options (Brier's
        original score: summed over the options, 0 to 2; needs ``loglikelihoods``), note.
    """
    table, _ = unique_predictions(predictions)
    table["squared"] = (table["confidence"] - table["correct"]) ** 2
    table["options"] = _brier_options(table)
    grouped = table.groupby(UNIT)
    found = grouped.agg(n=("correct", "size"), accuracy=("correct", "mean"), confidence=("confidence", "mean"))
    found["overconfidence"] = found["confidence"] - found["accuracy"]
    found["ece"] = [
        expected_calibration_error(unit["confidence"].to_numpy(float), unit["correct"].to_numpy(float))
        for _, unit in grouped
    ]
    found["brier"] = grouped["squared"].mean()
    found["brier_options"] = grouped["options"].agg(lambda v: v.mean(skipna=False))
    missing = found["brier_options"].isna()
    found["note"] = np.where(missing, "brier_options not defined, because there are no loglikelihoods", "")
    found = found.reset_index()
    return found[["task", "language", "model", "pivot", *found.columns[4:]]]


def _brier_options(table: pd.DataFrame) -> Array:
    if "loglikelihoods" not in table or table["loglikelihoods"].isna().any():
        return np.full(len(table), np.nan)
    scores = np.full(len(table), np.nan)
    lengths = table["loglikelihoods"].map(len).to_numpy()
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        p = np.stack(table["loglikelihoods"].iloc[rows].to_list()).astype(float)
        p = np.exp(p - p.max(axis=1, keepdims=True))
        truth = np.eye(int(length))[table["gold"].iloc[rows].to_numpy(int)]
        scores[rows] = ((p / p.sum(axis=1, keepdims=True) - truth) ** 2).sum(axis=1)
    return scores


CONFIDENCE = [
    *("task", "language", "metric", "pooling", "layer", "n_aligned", "n_other", "confidence_aligned"),
    *("confidence_other", "difference", "low", "high", "p_welch", "p_mannwhitney", "ece_aligned", "ece_other"),
    *("model", "pivot", "note"),
]


def confidence(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Is the model surer of aligned items, each language at its best layer?

    Returns:
        columns `CONFIDENCE`: mean confidence of aligned and other items, their difference with Welch's 95% interval,
        two-sided p of Welch's t-test and of the Mann-Whitney test, and either side's expected calibration error.
    """
    rows = []
    for key, block in study.blocks.items():
        items = study.items.iloc[block.rows]
        about = dict(zip(BLOCK, key, strict=True))
        best = cells[(cells[BLOCK] == pd.Series(about)).all(axis="columns") & cells["best_layer"]]
        positions = items.reset_index(drop=True).groupby(["language", "pivot"]).indices
        for language, pivot, layer in best[["language", "pivot", "layer"]].itertuples(index=False, name=None):
            position = positions[language, pivot]
            value = block.values[position, int(np.searchsorted(block.layers, layer))]
            row = about | {"language": language, "pivot": pivot, "layer": layer}
            rows.append(row | _confidence(items.iloc[position], value))
    return pd.DataFrame(rows, columns=CONFIDENCE).sort_values([*SERIES], ignore_index=True)


def _confidence(items: pd.DataFrame, value: Array) -> dict[str, Any]:
    sure, right = items["confidence"].to_numpy(float), items["correct"].to_numpy(float)
    known = ~np.isnan(sure)
    sides = {"aligned": known & (value == 1), "other": known & (value == 0)}
    row: dict[str, Any] = {f"n_{name}": int(member.sum()) for name, member in sides.items()}
    for name, member in sides.items():
        if member.any():
            row[f"confidence_{name}"] = sure[member].mean()
            row[f"ece_{name}"] = expected_calibration_error(sure[member], right[member])
    if not known.any():
        return row | {"note": "not defined, because these items have no predictions"}
    if min(row["n_aligned"], row["n_other"]) < 2:
        which = "aligned" if row["n_aligned"] < 2 else "not aligned"
        return row | {"note": f"not defined, because fewer than two items are {which}"}
    a, b = sure[sides["aligned"]], sure[sides["other"]]
    row["difference"] = a.mean() - b.mean()
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return row | {"note": "tests not defined, because confidence does not vary"}
    welch = stats.ttest_ind(a, b, equal_var=False)
    interval = welch.confidence_interval()
    row |= {"low": interval.low, "high": interval.high, "p_welch": welch.pvalue}
    return row | {"p_mannwhitney": stats.mannwhitneyu(a, b, method="asymptotic").pvalue, "note": ""}


def expected_calibration_error(sure: Array, right: Array) -> float:
    """Mean absolute gap between confidence and accuracy over ten equal bins of (0, 1], weighted by their items."""
    gaps = np.bincount(_bin(sure), weights=sure - right)
    return float(np.abs(gaps).sum() / len(sure))
