"""Correlation of alignment with translation quality, over languages and over sentences, from tables only.

Quality is the mean of a sentence score (``score``) over a language's sentences: chrF++, BLEU, spBLEU or COMET, if in
the tables. If a number does not exist, its cell is missing and the row's ``note`` gives the reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from align_pipeline.errors import ContradictionError
from align_pipeline.inference.items import adjust, adjusted
from align_pipeline.inference.languages import correlations, no_interval
from align_pipeline.inference.study import BLOCK, MIN_FOR_INTERVAL, MIN_LANGUAGES, NOISE, Study, of_block
from align_pipeline.measurements.translation.table import TRANSLATIONS

KEYS = ["model", "task", "direction", "language", "item_id"]
SCORES = ("chrf", "bleu", "spbleu", "comet", "cometkiwi")
SERIES = ["alignment_task", "metric", "pooling", "reduce"]

Array = NDArray[Any]


def analyse(
    translations: pd.DataFrame, study: Study, cells: pd.DataFrame, accuracies: pd.DataFrame, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Run all analyses.

    Args:
        translations: as `TRANSLATIONS`.
        study: the alignment tables.
        cells: from `study.tally`.
        accuracies: from `study.groups`.
        seed: of the random draws; each row uses its own, so that other rows do not change it.

    Returns:
        The tables by name, none if there are no translations: quality and counts (``translation_scores``), its
        correlation over languages with alignment (``_level``; the languages in ``_points``) and accuracy, whether
        the directions differ in that correlation (``_directions``) and in quality (``_asymmetry``), ``_sentences``.

    Raises:
        InputError: duplicate rows contradict each other in more than `study.NOISE` of the cases.
    """
    if translations.empty:
        return {}
    table = unique(translations)
    found = scores(table)
    compared = points(found, cells)
    return {
        "translation_scores": found,
        "translation_level": _correlated(compared, ["model", "direction", "score", *SERIES], "alignment", "quality"),
        "translation_directions": directions(compared, seed),
        "translation_asymmetry": asymmetry(table, found),
        "translation_sentences": sentences(table, study, cells),
        "translation_accuracy": against_accuracy(found, accuracies),
        "translation_points": compared,
    }


def unique(translations: pd.DataFrame) -> pd.DataFrame:
    """Each translation once, sorted; of duplicates, COMET scores are taken from the row that has them.

    Raises:
        InputError: duplicate rows differ in more than `study.NOISE` of the cases.
    """
    texts = dict.fromkeys([*KEYS, "source", "hypothesis", "reference"], object)
    table = translations.reindex(columns=TRANSLATIONS.names).astype(texts)
    table = table.astype(dict.fromkeys(SCORES, float)).sort_values([*KEYS, "hypothesis"], ignore_index=True)
    if not table.duplicated(KEYS).any():
        return table
    repeated = table[table.duplicated(KEYS, keep=False)].groupby(KEYS)["hypothesis"].nunique()
    differ = repeated[repeated > 1]
    if len(differ) > NOISE * max(len(repeated), 1):
        model, _, direction, language, item = differ.index[0]
        raise ContradictionError(
            f"The runs contradict each other: of {len(repeated):,} translations that occur more than once, "
            f"{len(differ):,} differ, such as {model}, {direction}, {language}, sentence {item}; they are different "
            "experiments, so make a report for each."
        )
    return table.groupby(KEYS, as_index=False).first()


def scores(translations: pd.DataFrame) -> pd.DataFrame:
    """Quality and counts per language.

    Returns:
        one row per (model, task, direction, language): n, the mean of each of `SCORES`, and the shares of sentences
        that are empty, copies (of the source), cut_off.
    """
    table = translations.assign(
        empty=translations["hypothesis"] == "",
        copies=(translations["hypothesis"] == translations["source"])
        & (translations["source"] != translations["reference"]),
    )
    grouped = table.groupby(KEYS[:-1])
    named = {name: (name, "mean") for name in (*SCORES, "empty", "copies", "cut_off")}
    return grouped.agg(n=("hypothesis", "size"), **named).reset_index()


def points(found: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Each language's alignment and translation quality, for the language level.

    Returns:
        one row per (model, direction, score, alignment_task, metric, pooling, reduce, language): alignment (share
        aligned, max or mean over the layers before the final norm), quality, n (sentences).
    """
    inner = cells[cells["inner"].astype(bool)].groupby(["model", "task", "metric", "pooling", "language"])
    aligned = pd.concat(
        [inner["share"].agg(how).rename("alignment").reset_index().assign(reduce=how) for how in ("max", "mean")]
    )
    aligned = aligned.rename(columns={"task": "alignment_task"})
    quality = _long(found)
    both = quality.merge(aligned, on=["model", "language"])
    order = ["model", "direction", "score", *SERIES, "language"]
    return both[[*order, "alignment", "quality", "n"]].sort_values(order, ignore_index=True)


def _long(found: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in SCORES if found[name].notna().any()]
    keys = ["model", "direction", "language", "n"]
    return found.melt(keys, names, "score", "quality").dropna(subset="quality")


def against_accuracy(found: pd.DataFrame, accuracies: pd.DataFrame) -> pd.DataFrame:
    """Correlation over languages of translation quality with accuracy.

    Returns:
        one row per (model, task, direction, score), ``task`` a choice task, with the columns of `correlation`.
    """
    answered = accuracies[["model", "task", "language", "accuracy"]].astype({"accuracy": float})
    both = _long(found).merge(answered, on=["model", "language"])
    return _correlated(both, ["model", "task", "direction", "score"], "quality", "accuracy")


def _correlated(both: pd.DataFrame, keys: list[str], x: str, y: str) -> pd.DataFrame:
    """A row per value of `keys`, with the columns of `correlation` over languages of x with y."""
    rows = [
        dict(zip(keys, key, strict=True)) | correlation(part[x].to_numpy(float), part[y].to_numpy(float))
        for key, part in both.groupby(keys)
    ]
    return pd.DataFrame(rows, columns=[*keys, *CORRELATION]).astype(dict.fromkeys(CORRELATION[1:-1], float))


CORRELATION = [
    *("n", "pearson", "pearson_p", "pearson_low", "pearson_high"),
    *("spearman", "spearman_p", "spearman_low", "spearman_high", "note"),
]


def correlation(x: Array, y: Array) -> dict[str, Any]:
    """Pearson's and Spearman's correlation over languages, two-sided p and 95% interval (`languages.correlations`)."""
    n = len(x)
    row: dict[str, Any] = {"n": n, "note": ""}
    if n < MIN_LANGUAGES:
        return row | {
            "note": f"not defined, because there {'is' if n == 1 else 'are'} only {n} language{'s' * (n > 1)}"
        }
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return row | {"note": f"not defined, because one of the two is the same in all {n} languages"}
    found = {name: float(value[0]) for name, value in correlations(x[None], y).items()}
    return row | found | {"note": no_interval(found, n)}


def _rowwise(x: Array, y: Array, ranked: bool) -> Array:
    """Correlation of each row of x with the same row of y; missing if one is constant."""
    if ranked:
        x, y = stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    r: Array = np.divide((x * y).sum(axis=1), size, out=np.full(len(x), np.nan), where=size > 1e-12)
    return r


def directions(compared: pd.DataFrame, seed: int = 0, resamples: int = 2000) -> pd.DataFrame:
    """Does the correlation of alignment with quality differ between the two directions?

    Compares Spearman's correlations of alignment with the quality of each direction, over the languages that have both.
    The permutation test swaps the two directions' ranks within languages; the interval resamples languages.

    Returns:
        one row per (model, score, alignment_task, metric, pooling, reduce): n, spearman_en_xx, spearman_xx_en,
        difference (xx-en minus en-xx), low, high (95%), p (two-sided), note.
    """
    keys = ["model", "score", *SERIES]
    rows = []
    for key, part in compared.groupby(keys):
        wide = part.pivot_table(index="language", columns="direction", values="quality")
        if set(wide) != {"en-xx", "xx-en"}:
            continue
        wide = wide.dropna()
        aligned = part.drop_duplicates("language").set_index("language")["alignment"].reindex(wide.index)
        stream = zlib.crc32("|".join(["directions", *map(str, key)]).encode())
        rng = np.random.default_rng([seed, stream])
        a, out, into = (v.to_numpy(float) for v in (aligned, wide["en-xx"], wide["xx-en"]))
        rows.append(dict(zip(keys, key, strict=True)) | _compare_directions(a, out, into, rng, resamples))
    columns = [*keys, "n", "spearman_en_xx", "spearman_xx_en", "difference", "low", "high", "p", "note"]
    return pd.DataFrame(rows, columns=columns)


def _compare_directions(a: Array, out: Array, into: Array, rng: np.random.Generator, resamples: int) -> dict[str, Any]:
    n = len(a)
    row: dict[str, Any] = {"n": n, "note": ""}
    if n < MIN_FOR_INTERVAL:
        return row | {"note": f"not defined, because there are fewer than {MIN_FOR_INTERVAL} languages with both"}
    if min(np.ptp(a), np.ptp(out), np.ptp(into)) == 0:
        return row | {"note": f"not defined, because alignment or quality is the same in all {n} languages"}
    ranks = np.stack([stats.rankdata(out), stats.rankdata(into)])
    observed = _rowwise(np.stack([a, a]), ranks, ranked=True)
    row |= {"spearman_en_xx": observed[0], "spearman_xx_en": observed[1], "difference": observed[1] - observed[0]}
    drawn = rng.integers(n, size=(resamples, n))
    resampled = _rowwise(a[drawn], into[drawn], True) - _rowwise(a[drawn], out[drawn], True)
    if np.isfinite(resampled).mean() >= 0.95:
        row["low"], row["high"] = np.nanpercentile(resampled, [2.5, 97.5])
    swap = rng.integers(2, size=(resamples, n)).astype(bool)
    first, second = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
    every = np.broadcast_to(a, swap.shape)
    null = np.abs(_rowwise(every, second, True) - _rowwise(every, first, True))
    extreme = int((null >= abs(row["difference"]) - 1e-12).sum())
    return row | {"p": (1 + extreme) / (1 + resamples)}


def asymmetry(translations: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Is translation from a language into English better than from English into it?

    Scores of different target languages are not on one scale; the study compares them nevertheless, and so does this.

    Returns:
        one row per (model, score, language) over the sentences that have both directions, and one over the languages
        (``language`` is ``all``): n, en_xx and xx_en (means), difference (xx-en minus en-xx), low, high (95% interval
        of the paired t), p (Wilcoxon's signed-rank test, two-sided), p_holm (over the languages), note.
    """
    rows = []
    for score in (name for name in SCORES if translations[name].notna().any()):
        wide = translations.pivot_table(index=["model", "language", "item_id"], columns="direction", values=score)
        over = found.pivot_table(index=["model", "language"], columns="direction", values=score)
        if set(wide) != {"en-xx", "xx-en"}:
            continue
        for (model, language), part in wide.dropna().groupby(["model", "language"]):
            rows.append({"model": model, "score": score, "language": language} | paired(part["en-xx"], part["xx-en"]))
        for model, part in over.dropna().groupby("model"):
            rows.append({"model": model, "score": score, "language": "all"} | paired(part["en-xx"], part["xx-en"]))
    columns = ["model", "score", "language", "n", "en_xx", "xx_en", "difference", "low", "high", "p", "p_holm", "note"]
    table = pd.DataFrame(rows, columns=columns).astype({"p": float, "p_holm": float})
    single = table[table["language"] != "all"]
    table.loc[single.index, "p_holm"] = single.groupby(["model", "score"])["p"].transform(adjusted)
    return table.sort_values(["model", "score", "language"], ignore_index=True)


def paired(first: pd.Series[Any], second: pd.Series[Any]) -> dict[str, Any]:
    """Means of both, second minus first, with its paired-t interval and Wilcoxon's p."""
    a, b = first.to_numpy(float), second.to_numpy(float)
    d = b - a
    row: dict[str, Any] = {"n": len(d), "en_xx": a.mean(), "xx_en": b.mean(), "difference": d.mean(), "note": ""}
    if len(d) < 2 or np.ptp(d) == 0:
        return row | {"note": "test not defined, because the differences do not vary"}
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    p = stats.wilcoxon(d, zero_method="pratt").pvalue
    return row | {"low": d.mean() - half, "high": d.mean() + half, "p": float(p)}


SENTENCES = [
    *("model", "direction", "language", "score", "metric", "pooling", "layer", "best_layer"),
    *("n_aligned", "n_other", "mean_aligned", "mean_other", "rank_biserial", "low", "high"),
    *("p_one_sided", "p", "p_holm", "p_bh", "note"),
]


def sentences(translations: pd.DataFrame, study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Are aligned sentences translated better than others?

    Returns:
        columns `SENTENCES`, one row per language, direction, score, metric and layer: means of the score, the
        rank-biserial correlation (P(aligned better) - P(other better), Kerby 2014) with DeLong's 95% interval, p of the
        Mann-Whitney test (normal approximation, ties and continuity corrected), one-sided (aligned better) and
        two-sided; ``p_holm`` and ``p_bh`` adjust the one-sided p over the layers.
    """
    rows: list[dict[str, Any]] = []
    names = [name for name in SCORES if translations[name].notna().any()]
    for key, block in study.blocks.items():
        about = dict(zip(BLOCK, key, strict=True))
        own = translations[(translations["model"] == about["model"]) & (translations["task"] == about["task"])]
        if own.empty:
            continue
        best = of_block(cells[cells["best_layer"]], key)
        at = dict(zip(best["language"], best["layer"], strict=True))
        items = study.items.iloc[block.rows].reset_index(drop=True)
        aligned = {
            language: pd.DataFrame(block.values[place], index=items["item_id"].iloc[place], columns=block.layers)
            for language, place in items.groupby("language").indices.items()
        }
        for (direction, language), part in own.groupby(["direction", "language"]):
            if language not in aligned:
                continue
            values = aligned[language].reindex(part["item_id"], fill_value=-1)
            for score in names:
                row = {"model": about["model"], "direction": direction, "language": language, "score": score}
                row |= {"metric": about["metric"], "pooling": about["pooling"]}
                tested = _by_layer(part[score].to_numpy(float), values)
                rows += [row | {"best_layer": k == at.get(language), "layer": k} | found for k, found in tested]
    table = pd.DataFrame(rows, columns=SENTENCES).astype({"p_one_sided": float, "p_holm": float, "p_bh": float})
    adjust(table, SENTENCES[:6], "p_one_sided")
    return table.sort_values(SENTENCES[:7], ignore_index=True)


def _by_layer(quality: Array, aligned: pd.DataFrame) -> Iterator[tuple[int, dict[str, Any]]]:
    known = ~np.isnan(quality)
    for layer in aligned.columns:
        value = aligned[layer].to_numpy()
        yield int(layer), mann_whitney(quality[known & (value == 1)], quality[known & (value == 0)])


def mann_whitney(a: Array, b: Array) -> dict[str, Any]:
    """Compare values of aligned and other items: means, rank-biserial correlation with DeLong's interval, p values."""
    m, n = len(a), len(b)
    row: dict[str, Any] = {"n_aligned": m, "n_other": n, "note": ""}
    row |= {"mean_aligned": a.mean() if m else np.nan, "mean_other": b.mean() if n else np.nan}
    if min(m, n) < 2:
        which = "aligned" if m < 2 else "not aligned"
        return row | {"note": f"not defined, because fewer than two sentences are {which}"}
    ranks = stats.rankdata(np.concatenate([a, b]))
    # Placements: for each value, the share of the other group that it exceeds; ties count half.
    of_a = (ranks[:m] - stats.rankdata(a)) / n
    of_b = (ranks[m:] - stats.rankdata(b)) / m
    area = of_a.mean()
    half = 1.96 * 2 * np.sqrt(of_a.var(ddof=1) / m + of_b.var(ddof=1) / n)
    effect = 2 * area - 1
    row |= {"rank_biserial": effect, "low": max(effect - half, -1.0), "high": min(effect + half, 1.0)}
    counts = np.unique(ranks, return_counts=True)[1].astype(float)
    ties = (counts**3 - counts).sum() / ((m + n) * (m + n - 1))
    spread = np.sqrt(m * n / 12 * (m + n + 1 - ties))
    if spread == 0:
        return row | {"note": "test not defined, because all sentences have the same score"}
    u = area * m * n - m * n / 2
    row["p_one_sided"] = float(stats.norm.sf((u - 0.5) / spread))
    return row | {"p": float(min(2 * stats.norm.sf((abs(u) - 0.5) / spread), 1.0))}


def headline(scored: pd.DataFrame) -> str:
    """The main score: COMET, as in the study, if available, else chrF++."""
    return "comet" if scored["comet"].notna().all() else "chrf"
