"""Statistics over languages: correlation of alignment with accuracy."""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    *("permutation_p", "given_both", "given_both_p", "family_pearson", "family_p", "n_families", "detectable"),
    *("model", "alignment_task", "grouping", "note"),
]
EXACT = 7
"""Up to this many languages, all permutations are used (5,040); beyond, random ones."""
ORDERS = 4999
POWER = 0.8


def language_level(found: pd.DataFrame, languages: pd.DataFrame | None = None, seed: int = 0) -> pd.DataFrame:
    """Is alignment correlated with accuracy over languages?

    Args:
        found: from `points`.
        languages: script, family and resource class, indexed by FLORES code; missing codes count as `unknown`.
        seed: of the random permutations for more than `EXACT` languages; each group uses its own.

    Returns:
        columns `LANGUAGE_LEVEL`. p values are two-sided. Intervals are Fisher's, for Spearman's correlation with the
        variance of Bonett and Wright (2000), because a percentile bootstrap is too short for so few languages.
        ``partial_*`` control for tokenizer fertility, ``given_both`` for fertility and resource class;
        ``permutation_p`` permutes the accuracies; ``family_*`` use family means, because languages of a family are not
        independent; ``detectable`` is the smallest true correlation detected (p < .05) with probability `POWER`.
    """
    known = languages if languages is not None else pd.DataFrame(columns=["script", "family", "resource"])
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
            at = known.reindex(wide.columns.get_level_values(0)[member])
            sides = _Sides(
                about["accuracy"].to_numpy(float)[member],
                about["fertility"].to_numpy(float)[member],
                at["resource"].to_numpy(float, na_value=np.nan),
                at["family"].to_numpy(object),
            )
            values = _correlations(wide.to_numpy(float)[:, member], sides, [seed, stream])
            for (reduce, layer), numbers in zip(wide.index, values, strict=True):
                row = dict(zip(names, key, strict=True)) | {"grouping": grouping, "group": group}
                rows.append(row | {"reduce": reduce, "layer": pd.NA if pd.isna(layer) else int(layer)} | numbers)
    table = pd.DataFrame(rows, columns=LANGUAGE_LEVEL).astype({"layer": "Int64"})
    rank = {"max": 0, "mean": 1, "layer": 2, "all": 0, "script": 1, "family": 2, "resource": 3}
    order = ["model", "task", "alignment_task", "metric", "pooling", "grouping", "group", "reduce", "layer"]
    by = table.assign(grouping=table["grouping"].map(rank), reduce=table["reduce"].map(rank)).sort_values(order).index
    return table.loc[by].reset_index(drop=True)


def memberships(codes: pd.Index[Any], languages: pd.DataFrame | None) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Grouping, group and mask of its members among FLORES codes: all, then by script, family, resource class."""
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


@dataclass(frozen=True)
class _Sides:
    """The variables compared with alignment, [n] each: accuracy, fertility, resource class and family."""

    y: Array
    fertility: Array
    resource: Array
    family: Array

    def only(self, mask: NDArray[np.bool_]) -> _Sides:
        return _Sides(self.y[mask], self.fertility[mask], self.resource[mask], self.family[mask])


def _correlations(x: Array, sides: _Sides, seed: Sequence[int]) -> list[dict[str, Any]]:
    """Statistics for each row of x [K, n]; rows with the same missing languages are computed together."""
    rows: list[dict[str, Any]] = [{} for _ in x]
    present = ~np.isnan(x)
    for mask in np.unique(present, axis=0):
        chosen = np.flatnonzero((present == mask).all(axis=1))
        block = _correlate(x[np.ix_(chosen, mask)], sides.only(mask), np.random.default_rng(seed))
        for i, numbers in zip(chosen, block, strict=True):
            rows[i] = numbers
    return rows


def _correlate(x: Array, sides: _Sides, rng: np.random.Generator) -> list[dict[str, Any]]:
    y, n = sides.y, len(sides.y)
    reason = f"there {'is' if n == 1 else 'are'} only {n} language{'' if n == 1 else 's'}" if n < MIN_LANGUAGES else ""
    if not reason and np.ptp(y) == 0:
        reason = f"accuracy is the same ({y[0]:.3f}) in all {n} languages"
    if reason:
        return [{"n": n, "note": f"not defined, because {reason}"} for _ in x]
    varies = np.ptp(x, axis=1) > 0
    live = x[varies]
    numbers: dict[str, Array] = {}
    partial_reason = _partial(numbers, live, y, sides.fertility)
    for name, (a, b) in {"pearson": (live, y), "spearman": (stats.rankdata(live, axis=1), stats.rankdata(y))}.items():
        result = stats.pearsonr(a, b[None], axis=1) if len(a) else None
        numbers[name], numbers[f"{name}_p"] = (result.statistic, result.pvalue) if result else (a[:, 0], a[:, 0])
    numbers["permutation_p"] = permuted(live, y, rng)
    numbers |= _given_both(live, sides) | _family_means(live, sides)
    numbers["detectable"] = np.full(len(live), detectable(n))
    interval_reason = f"there are fewer than {MIN_FOR_INTERVAL} languages" if n < MIN_FOR_INTERVAL else ""
    if not interval_reason:
        for name in ("pearson", "spearman"):
            numbers[f"{name}_low"], numbers[f"{name}_high"] = fisher_interval(numbers[name], n, name == "spearman")
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
            notes.append("partial correlation not defined, because fertility fully explains alignment or accuracy")
        if interval_reason:
            notes.append(f"interval not defined, because {interval_reason}")
        out.append({**row, "n": n, "note": "; ".join(notes)})
    return out


def fisher_interval(r: Array, n: int, ranks: bool = False) -> tuple[Array, Array]:
    """95% interval of correlations of n > 3 pairs; for ranks, with the variance of Bonett and Wright (2000)."""
    with np.errstate(divide="ignore"):
        z = np.arctanh(np.clip(r, -1, 1))
    reach = stats.norm.ppf(0.975) * np.sqrt((1 + r**2 / 2 if ranks else 1.0) / (n - 3))
    return np.tanh(z - reach), np.tanh(z + reach)


def detectable(n: int) -> float:
    """The true correlation that a test on n pairs detects at the 5% level with probability `POWER`; NaN for n < 4."""
    if n < 4:
        return float("nan")
    return float(np.tanh((stats.norm.ppf(0.975) + stats.norm.ppf(POWER)) / np.sqrt(n - 3)))


def permuted(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Two-sided permutation p of Pearson's r: all permutations of y for few languages, else random ones. x: [K, n]."""
    n = len(y)
    if n <= EXACT:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        orders = np.concatenate([np.arange(n)[None], rng.permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)])
    centred = x - x.mean(axis=1, keepdims=True)
    size = np.abs(centred @ (y - y.mean())[orders].T)  # the first order is that of the data
    found: Array = (size >= size[:, :1] * (1 - 1e-9)).mean(axis=1)
    return found


def _given_both(x: Array, sides: _Sides) -> dict[str, Array]:
    """Partial Pearson correlation given fertility and resource class, with n - 4 degrees of freedom; NaN if unknown."""
    n = len(sides.y)
    design = np.column_stack([np.ones(n), sides.fertility, sides.resource])
    none = np.full(len(x), np.nan)
    if n < 6 or np.isnan(design).any() or np.linalg.matrix_rank(design) < 3:
        return {"given_both": none, "given_both_p": none}
    both = np.column_stack([x.T, sides.y])
    rest = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
    rest[:, np.ptp(rest, axis=0) < 1e-9 * np.maximum(np.ptp(both, axis=0), 1e-300)] = np.nan
    r = _pearson(rest[:, :-1].T, rest[:, -1])
    with np.errstate(divide="ignore"):
        t = r * np.sqrt((n - 4) / (1 - r**2))
    return {"given_both": r, "given_both_p": 2 * stats.t.sf(np.abs(t), n - 4)}


def _family_means(x: Array, sides: _Sides) -> dict[str, Array]:
    """Pearson correlation of family means; a language of unknown family is a family of its own."""
    names = [f"{i}" if pd.isna(name) or not name else str(name) for i, name in enumerate(sides.family)]
    codes, families = pd.factorize(np.array(names, dtype=object))
    count = len(families)
    found = dict.fromkeys(("family_pearson", "family_p"), np.full(len(x), np.nan))
    if count >= 4:
        member = np.eye(count)[codes] / np.bincount(codes)
        a, b = x @ member, sides.y @ member
        r = _pearson(a, b)
        with np.errstate(divide="ignore"):
            t = r * np.sqrt((count - 2) / (1 - r**2))
        found = {"family_pearson": r, "family_p": 2 * stats.t.sf(np.abs(t), count - 2)}
    return found | {"n_families": np.full(len(x), float(count))}


def _pearson(x: Array, y: Array) -> Array:
    """[K]: correlation of each row with y; NaN if one of them is constant."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean()
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum())
    found: Array = np.divide(a @ b, length, out=np.full(len(x), np.nan), where=length > 1e-12)
    return np.clip(found, -1, 1)


def _partial(numbers: dict[str, Array], x: Array, y: Array, control: Array) -> str:
    """Add partial correlations given `control`, from residuals with n - 3 degrees of freedom; or return why not."""
    n = len(y)
    if np.isnan(control).any():
        return "the tables have no item_tokens for the language and English"
    if n < 4:
        return "there are fewer than 4 languages"
    if np.ptp(control) == 0:
        return "fertility is the same in all languages"
    for name in ("pearson", "spearman"):
        all_three = np.column_stack([control, x.T, y])
        values = all_three if name == "pearson" else stats.rankdata(all_three, axis=0)
        design, both = np.column_stack([np.ones(n), values[:, 0]]), values[:, 1:]
        rest = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
        rest[:, np.ptp(rest, axis=0) < 1e-9 * np.ptp(both, axis=0)] = 0  # only rounding errors are left
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            r = stats.pearsonr(rest[:, :-1].T, rest[:, -1][None], axis=1).statistic if len(x) else np.empty(0)
        with np.errstate(divide="ignore"):
            t = r * np.sqrt((n - 3) / (1 - r**2))
        numbers[f"partial_{name}"], numbers[f"partial_{name}_p"] = r, 2 * stats.t.sf(np.abs(t), n - 3)
    return ""
