"""Statistics over languages: correlation of alignment with accuracy."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from align_pipeline.inference.arrays import ratio
from align_pipeline.inference.study import MIN_FOR_INTERVAL, MIN_LANGUAGES, Array

LANGUAGE_LEVEL = [
    *("task", "metric", "pooling", "reduce", "layer", "group", "n"),
    *("pearson", "pearson_p", "pearson_low", "pearson_high"),
    *("spearman", "spearman_p", "spearman_low", "spearman_high"),
    *("partial_pearson", "partial_pearson_p", "partial_spearman", "partial_spearman_p"),
    *("permutation_p", "given_both", "given_both_p", "family_pearson", "family_p", "n_families", "detectable"),
    *("model", "alignment_task", "grouping", "note"),
]
SAME_ORDER = "interval of Spearman's correlation not defined, because both have the same order"
"""Why a number is missing."""
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
    rows = []
    names = ["model", "task", "alignment_task", "metric", "pooling"]
    for key, series in found.groupby(names):
        wide = series.pivot_table(
            index=["reduce", "layer"], columns=["language", "pivot"], values="alignment", dropna=False, sort=True
        )
        wide = wide[wide.notna().any(axis="columns")]
        about = known.reindex(wide.columns.get_level_values(0))
        sides = series.drop_duplicates(["language", "pivot"]).set_index(["language", "pivot"]).reindex(wide.columns)
        sides = sides[["accuracy", "fertility"]].astype(float).assign(family=about["family"].to_numpy(object))
        sides["resource"] = about["resource"].to_numpy(float, na_value=np.nan)
        for grouping, group, member in memberships(about):
            stream = zlib.crc32("|".join([*map(str, key), grouping, group]).encode())
            values = _correlations(wide.to_numpy(float)[:, member], sides[member], [seed, stream])
            for (reduce, layer), numbers in zip(wide.index, values, strict=True):
                row = dict(zip(names, key, strict=True)) | {"grouping": grouping, "group": group}
                rows.append(row | {"reduce": reduce, "layer": pd.NA if pd.isna(layer) else int(layer)} | numbers)
    table = pd.DataFrame(rows, columns=LANGUAGE_LEVEL).astype({"layer": "Int64"})
    rank = {"max": 0, "mean": 1, "layer": 2, "all": 0, "script": 1, "family": 2, "resource": 3}
    order = ["model", "task", "alignment_task", "metric", "pooling", "grouping", "group", "reduce", "layer"]
    ranked = ("grouping", "reduce")
    return table.sort_values(order, key=lambda c: c.map(rank) if c.name in ranked else c, ignore_index=True)


def memberships(about: pd.DataFrame) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Grouping, group and mask of its members: all, then by script, family, resource class.

    Args:
        about: script, family and resource class, indexed by FLORES code; missing if unknown.
    """
    yield "all", "all", np.ones(len(about), bool)
    scripts = about["script"].where(about["script"].notna(), pd.Series(about.index.str[4:], about.index))
    classes = about["resource"].map(lambda c: "unknown" if pd.isna(c) else f"class {c}")
    for grouping, values in (("script", scripts), ("family", about["family"]), ("resource", classes)):
        names = values.astype(object).where(values.notna() & (values != ""), "unknown").astype(str).to_numpy()
        if set(names) != {"unknown"}:
            for name in sorted(set(names)):
                yield grouping, name, names == name


def _correlations(x: Array, sides: pd.DataFrame, seed: Sequence[int]) -> list[dict[str, Any]]:
    """Statistics for each row of x [K, n]; rows with the same missing languages are computed together.

    Args:
        x: alignment.
        sides: what it is compared with, [n] rows: accuracy, fertility, resource and family.
        seed: of the permutations.
    """
    rows: list[dict[str, Any]] = [{} for _ in x]
    present = ~np.isnan(x)
    for mask in np.unique(present, axis=0):
        chosen = np.flatnonzero((present == mask).all(axis=1))
        block = _correlate(x[np.ix_(chosen, mask)], sides[mask], np.random.default_rng(seed))
        for i, numbers in zip(chosen, block, strict=True):
            rows[i] = numbers
    return rows


def _correlate(x: Array, sides: pd.DataFrame, rng: np.random.Generator) -> list[dict[str, Any]]:
    y, n = sides["accuracy"].to_numpy(), len(sides)
    reason = f"there {'is' if n == 1 else 'are'} only {n} language{'' if n == 1 else 's'}" if n < MIN_LANGUAGES else ""
    if not reason and np.ptp(y) == 0:
        reason = f"accuracy is the same ({y[0]:.3f}) in all {n} languages"
    if reason:
        return [{"n": n, "note": f"not defined, because {reason}"} for _ in x]
    varies = np.ptp(x, axis=1) > 0
    live = x[varies]
    numbers: dict[str, Array] = {}
    partial_reason = _partial(numbers, live, y, sides["fertility"].to_numpy())
    numbers |= correlations(live, y)
    numbers["permutation_p"] = permuted(live, y, rng)
    numbers |= _given_both(live, sides) | _family_means(live, sides)
    numbers["detectable"] = np.full(len(live), detectable(n))
    out: list[dict[str, Any]] = []
    of_live: Iterator[Any] = iter(pd.DataFrame(numbers).to_dict("records"))
    for value, alive in zip(x[:, 0], varies, strict=True):
        if not alive:
            same = f"not defined, because alignment is the same ({value:.3f}) in all {n} languages"
            out.append({"n": n, "note": same})
            continue
        row = next(of_live)
        notes = [f"partial correlation not defined, because {partial_reason}"] if partial_reason else []
        if not partial_reason and np.isnan(row["partial_pearson"]):
            notes.append("partial correlation not defined, because fertility fully explains alignment or accuracy")
        notes += filter(None, [no_interval(row, n)])
        out.append({**row, "n": n, "note": "; ".join(notes)})
    return out


def correlations(x: Array, y: Array) -> dict[str, Array]:
    """Pearson's and Spearman's correlations over languages, `pearson` and `spearman`, each with its two-sided p (`_p`)
    and its 95% interval (`_low`, `_high`) if there are languages enough.

    Args:
        x: [K, n], K variables, none of them constant.
        y: [n], not constant.
    """
    n, found = len(y), dict[str, Array]()
    for name, (a, b) in {"pearson": (x, y), "spearman": (stats.rankdata(x, axis=1), stats.rankdata(y))}.items():
        result = stats.pearsonr(a, b[None], axis=1) if len(a) else None
        found[name], found[f"{name}_p"] = (result.statistic, result.pvalue) if result else (a[:, 0], a[:, 0])
        if name == "spearman" and n <= EXACT:  # the distribution of t is wrong here: p would be 0 for three languages
            found["spearman_p"] = permuted(a, b)
        if n >= MIN_FOR_INTERVAL:
            found[f"{name}_low"], found[f"{name}_high"] = fisher_interval(found[name], n, name == "spearman")
    return found


def no_interval(row: Mapping[str, Any], n: int) -> str:
    """Why a row of `correlations` lacks an interval; "" if it has both."""
    if n < MIN_FOR_INTERVAL:
        return f"interval not defined, because there are fewer than {MIN_FOR_INTERVAL} languages"
    return SAME_ORDER if np.isnan(row["spearman_low"]) else ""


def fisher_interval(r: Array, n: int, ranks: bool = False) -> tuple[Array, Array]:
    """95% interval of correlations of n > 3 pairs; for ranks, with the variance of Bonett and Wright (2000), and NaN
    for 1 and -1, which few languages often have, because it would have no width."""
    with np.errstate(divide="ignore"):
        z = np.arctanh(np.where(ranks & (np.abs(r) > 1 - 1e-9), np.nan, np.clip(r, -1, 1)))
    reach = stats.norm.ppf(0.975) * np.sqrt((1 + r**2 / 2 if ranks else 1.0) / (n - 3))
    return np.tanh(z - reach), np.tanh(z + reach)


def detectable(n: int) -> float:
    """The true correlation that a test on n pairs detects at the 5% level with probability `POWER`; NaN for n < 4."""
    if n < 4:
        return float("nan")
    return float(np.tanh((stats.norm.ppf(0.975) + stats.norm.ppf(POWER)) / np.sqrt(n - 3)))


def permuted(x: Array, y: Array, rng: np.random.Generator | None = None) -> Array:
    """Two-sided permutation p of Pearson's r, of Spearman's if x [K, n] and y [n] are ranks: over all permutations of y
    for up to `EXACT` languages, else over random ones, which need `rng`."""
    n = len(y)
    if n <= EXACT:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        assert rng is not None
        orders = np.concatenate([np.arange(n)[None], rng.permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)])
    centred = x - x.mean(axis=1, keepdims=True)
    size = np.abs(centred @ (y - y.mean())[orders].T)  # the first order is that of the data
    found: Array = (size >= size[:, :1] * (1 - 1e-9)).mean(axis=1)
    return found


def _given_both(x: Array, sides: pd.DataFrame) -> dict[str, Array]:
    """Partial Pearson correlation given fertility and resource class, with n - 4 degrees of freedom; NaN if unknown."""
    n = len(sides)
    design = np.column_stack([np.ones(n), sides[["fertility", "resource"]]])
    none = np.full(len(x), np.nan)
    if n < 6 or np.isnan(design).any() or np.linalg.matrix_rank(design) < 3:
        return {"given_both": none, "given_both_p": none}
    rest = _rest(design, np.column_stack([x.T, sides["accuracy"]]))
    r = _pearson(rest[:, :-1].T, rest[:, -1])
    return {"given_both": r, "given_both_p": _two_sided(r, n - 4)}


def _family_means(x: Array, sides: pd.DataFrame) -> dict[str, Array]:
    """Pearson correlation of family means; a language of unknown family is a family of its own."""
    names = [f"{i}" if pd.isna(name) or not name else str(name) for i, name in enumerate(sides["family"])]
    codes, families = pd.factorize(np.array(names, dtype=object))
    count = len(families)
    found = dict.fromkeys(("family_pearson", "family_p"), np.full(len(x), np.nan))
    if count >= 4:
        member = np.eye(count)[codes] / np.bincount(codes)
        r = _pearson(x @ member, sides["accuracy"].to_numpy() @ member)
        found = {"family_pearson": r, "family_p": _two_sided(r, count - 2)}
    return found | {"n_families": np.full(len(x), float(count))}


def _pearson(x: Array, y: Array) -> Array:
    """[K]: correlation of each row with y; NaN if one of them is constant."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean()
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum())
    return np.clip(ratio(a @ b, length, above=1e-12), -1, 1)


def _two_sided(r: Array, df: int) -> Array:
    """Two-sided p of correlations with some degrees of freedom."""
    with np.errstate(divide="ignore"):
        t = r * np.sqrt(df / (1 - r**2))
    p: Array = 2 * stats.t.sf(np.abs(t), df)
    return p


def _rest(design: Array, values: Array) -> Array:
    """The columns' residuals given the design; NaN where only rounding errors are left."""
    rest: Array = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    rest[:, np.ptp(rest, axis=0) < 1e-9 * np.maximum(np.ptp(values, axis=0), 1e-300)] = np.nan
    return rest


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
        rest = _rest(np.column_stack([np.ones(n), values[:, 0]]), values[:, 1:])
        r = stats.pearsonr(rest[:, :-1].T, rest[:, -1][None], axis=1).statistic if len(x) else np.empty(0)
        exists = name == "pearson" or n > EXACT  # of few ranks, r = 1 is common, and its p would be 0
        numbers[f"partial_{name}"] = r
        numbers[f"partial_{name}_p"] = _two_sided(r, n - 3) if exists else np.full_like(r, np.nan)
    return ""
