"""Over languages: does alignment go with accuracy."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from align_pipeline.inference.study import MIN_FOR_INTERVAL, MIN_LANGUAGES, Array

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
