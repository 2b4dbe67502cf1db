"""Agreement with English against statsmodels and literal loops; error rates and planted effects of simulations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference import consistency as own
from align_pipeline.inference import study as analysis
from align_pipeline.inference.items import holm

LANGUAGES = ("aaa_Latn", "bbb_Latn", "ccc_Latn")
Floats = NDArray[np.float64]


def answers(
    language: str, scores: Floats, gold: NDArray[np.int64], size: int = 1, model: str = "m", pivot: str = ENGLISH
) -> pd.DataFrame:
    """Predictions from log-likelihoods [n, options]; passages of `size` items."""
    n = len(scores)
    prediction = scores.argmax(axis=1)
    table = pd.DataFrame({"model": model, "task": "t", "language": language, "pivot": pivot, "gold": gold}, range(n))
    table = table.assign(item_id=[f"{i:04d}" for i in range(n)], cluster=[f"p{i // size}" for i in range(n)])
    right = (prediction == gold).astype(np.int8)
    return table.assign(prediction=prediction, correct=right, confidence=0.5, loglikelihoods=list(scores))


def drawn(
    rng: np.random.Generator, n: int, options: int = 4, copies: float = 0.0, size: int = 1, **about: Any
) -> pd.DataFrame:
    """English and one language that prefer early options; the language takes over a share of English's rankings.

    All items of a passage of `size` items have the same scores in a language.
    """
    lean = np.linspace(0.8, 0, options)
    english, language = ((rng.gumbel(size=(n // size, options)) + lean).repeat(size, axis=0) for _ in range(2))
    copied = (rng.random(n // size) < copies).repeat(size)
    gold = rng.integers(0, options, n)
    language = np.where(copied[:, None], english, language)
    return pd.concat(
        [answers(name, s, gold, size, **about) for name, s in ((ENGLISH, english), ("aaa_Latn", language))]
    )


def made(seed: int = 0, n: int = 120, size: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers and alignment (two metrics, two layers) in three languages with gaps."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 4, n)
    english = rng.normal(size=(n, 4)) + 0.8 * np.eye(4)[gold]
    parts, rows = [answers(ENGLISH, english, gold, size)], []
    for u, language in enumerate(LANGUAGES):
        scores = rng.normal(size=(n, 4)) + 0.4 * u * english
        table = answers(language, scores, gold, size)
        parts.append(table[rng.random(n) < 0.9])
        for metric, layer in itertools.product(("dali", "mexa_t"), (0, 1)):
            value = (rng.random(n) < 0.3 + 0.1 * u + 0.2 * layer).astype(np.int8)
            key = {"model": "m", "task": "t", "language": language, "pivot": ENGLISH, "metric": metric}
            key |= {"pooling": "last", "layer": layer, "item_id": table["item_id"], "value": value}
            rows.append(pd.DataFrame(key)[rng.random(n) < 0.95])
    return pd.concat(rows, ignore_index=True), pd.concat(parts, ignore_index=True)


# ------------------------------------------------------------------------------------------------------------- per item


def literal_rankc(first: Floats, second: Floats) -> float:
    """The published formula for one item, with sets."""
    N = len(first)
    orders = [sorted(range(N), key=lambda o, s=s: (-s[o], o)) for s in (first, second)]
    total = sum(math.exp(N - k) for k in range(1, N + 1))
    return sum(math.exp(N - j) / total * len(set(orders[0][:j]) & set(orders[1][:j])) / j for j in range(1, N + 1))


@given(st.integers(1, 6), st.integers(0, 10_000), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_rankc_is_the_published_formula(options: int, seed: int, values: int) -> None:
    """Also with equal scores."""
    first, second = np.random.default_rng(seed).integers(0, values, (2, 7, options)).astype(float)
    found, _ = own.rank_consistency(first, second)
    assert found == pytest.approx([literal_rankc(a, b) for a, b in zip(first, second, strict=True)])
    assert found == pytest.approx(own.rank_consistency(second, first)[0])
    assert own.rank_consistency(first, 2 * first + 1)[0] == pytest.approx(np.ones(7))


@pytest.mark.parametrize("options", [2, 3, 4])
def test_the_baseline_is_the_mean_over_all_pairs_of_rankings(options: int) -> None:
    orders = np.array(list(itertools.permutations(range(options))), float)
    first, second = orders.repeat(len(orders), axis=0), np.tile(orders, (len(orders), 1))
    found, expected = own.rank_consistency(first, second)
    weights = np.exp(options - np.arange(1, options + 1))
    assert expected == pytest.approx((weights / weights.sum() * np.arange(1, options + 1) / options).sum())
    assert expected == pytest.approx(found.mean())


def test_the_baseline_is_the_mean_over_all_pairs_of_items() -> None:
    """Independent given how often each option has each rank: every item of one language with every one of the other."""
    first, second = np.random.default_rng(0).gumbel(size=(2, 20, 4)) + np.array([1, 0, 0, 0])
    every = [literal_rankc(a, b) for a in first for b in second]
    assert own.rank_consistency(first, second)[1] == pytest.approx(np.mean(every))


# --------------------------------------------------------------------------------------------------------- per language


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_kappa_and_its_error_are_those_of_statsmodels(seed: int, options: int) -> None:
    rng = np.random.default_rng(seed)
    table = drawn(rng, 60, options, copies=0.4)
    (row,) = own.consistency(table).itertuples()
    first, second = (table.loc[table["language"] == name, "prediction"] for name in ("aaa_Latn", ENGLISH))
    counts = np.zeros((options, options))
    np.add.at(counts, (first, second), 1)
    expected = cohens_kappa(counts)
    assert row.kappa == pytest.approx(expected.kappa)
    error = expected.std_kappa * math.sqrt(60 / 59)
    assert row.p == pytest.approx(stats.t.sf(expected.kappa / error, 59))
    reach = stats.t.ppf(0.975, 59) * error
    assert row.kappa_low == pytest.approx(max(-1, expected.kappa - reach))
    assert row.kappa_high == pytest.approx(min(1, expected.kappa + reach))
    assert row.agreement == pytest.approx(np.trace(counts) / 60)
    assert row.agreement_chance == pytest.approx((counts.sum(0) * counts.sum(1)).sum() / 60**2)


def clustered(values: list[float], clusters: list[str]) -> tuple[float, float]:
    """95% interval of a mean with clustered errors, by loops."""
    mean, sums = float(np.mean(values)), dict.fromkeys(clusters, 0.0)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += (value - mean) / len(values)
    count = len(sums)
    reach = stats.t.ppf(0.975, count - 1) * math.sqrt(sum(s**2 for s in sums.values()) * count / (count - 1))
    return mean - reach, mean + reach


def test_shares_of_a_language_are_those_of_loops() -> None:
    _, predictions = made()
    found = own.consistency(predictions).set_index("language")
    assert list(found.index) == list(LANGUAGES)
    english = {row.item_id: row for row in predictions[predictions["language"] == ENGLISH].itertuples()}
    for language, row in found.iterrows():
        same, ranked, wrong = [], [], []
        for one in predictions[predictions["language"] == language].itertuples():
            other = english[one.item_id]
            same.append((float(one.prediction == other.prediction), one.cluster))
            ranked.append((literal_rankc(one.loglikelihoods, other.loglikelihoods), one.cluster))
            if one.prediction != one.gold and other.prediction != other.gold:
                wrong.append(same[-1])
        for name, pairs in (("agreement", same), ("rankc", ranked), ("same_wrong", wrong)):
            values, clusters = map(list, zip(*pairs, strict=True))
            assert row[name] == pytest.approx(np.mean(values))
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(clustered(values, clusters))
        assert (row["n"], row["n_both_wrong"]) == (len(same), len(wrong))
        assert row["n_clusters"] == len({cluster for _, cluster in same})
        assert row["same_wrong_chance"] == pytest.approx(1 / 3)
        assert row["note"] == ""
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"].to_numpy()))


def test_items_with_other_numbers_of_options_are_ranked_among_themselves() -> None:
    rng = np.random.default_rng(4)
    parts = []
    for start, options in ((0, 2), (30, 3), (70, 5)):
        table = drawn(rng, 30 + start // 3, options)
        parts.append(table.assign(item_id=[f"{start + int(i)}" for i in table["item_id"]]).assign(cluster=None))
    table = pd.concat(parts)
    (row,) = own.consistency(table).itertuples()
    alone = pd.concat([own.consistency(part) for part in parts])
    for name in ("rankc", "rankc_chance", "agreement"):
        assert getattr(row, name) == pytest.approx(np.average(alone[name], weights=alone["n"].astype(int)))
    more = alone.iloc[1:]
    known = more["n_both_wrong"].astype(int)
    assert row.same_wrong_chance == pytest.approx(np.average([1 / 2, 1 / 4], weights=known))
    assert row.same_wrong == pytest.approx(np.average(more["same_wrong"], weights=known))


def test_each_language_is_compared_with_its_own_pivot() -> None:
    rng = np.random.default_rng(0)
    first, second = (drawn(rng, 40, pivot=f"translation-{i}") for i in range(2))
    second = second.replace({"language": {"aaa_Latn": "bbb_Latn"}})
    together = own.consistency(pd.concat([first, second]))
    apart = pd.concat([own.consistency(first), own.consistency(second)], ignore_index=True)
    pd.testing.assert_frame_equal(together.drop(columns="p_holm"), apart.drop(columns="p_holm"))


def reason(table: pd.DataFrame) -> str:
    (row,) = own.consistency(table).itertuples()
    return str(row.note)


def test_what_is_not_defined_says_why() -> None:
    rng = np.random.default_rng(0)
    table = drawn(rng, 40)
    assert "English (eng_Latn) has no predictions" in reason(table[table["language"] != ENGLISH])
    assert reason(table.drop(columns="loglikelihoods")) == (
        "rankc and same_wrong not defined, because there are no loglikelihoods"
    )
    assert own.consistency(table.drop(columns="loglikelihoods"))["kappa"].notna().all()
    two = own.consistency(drawn(rng, 40, 2))
    assert two["note"].tolist() == ["same_wrong not defined, because only one of two options is wrong"]
    assert two[["same_wrong", "same_wrong_low", "same_wrong_chance"]].isna().all(axis=None)
    right = table.assign(gold=table["prediction"])
    assert "no item is wrong in both" in reason(
        pd.concat([right[right["language"] == ENGLISH]] * 2).assign(
            language=lambda rows: [ENGLISH] * 40 + ["aaa_Latn"] * 40
        )
    )
    constant = table.assign(prediction=0)
    assert reason(constant).startswith("kappa not defined, because the same option is chosen everywhere")
    assert own.consistency(table[:0]).empty


def test_the_same_answers_to_all_items_are_above_chance() -> None:
    table = drawn(np.random.default_rng(0), 40, copies=1.0, size=2)
    (row,) = own.consistency(table).itertuples()
    assert row.kappa == row.agreement == row.rankc == 1
    assert np.isnan(row.kappa_low)
    assert row.p == pytest.approx(row.agreement_chance**20)


def test_options_in_other_places_are_not_compared() -> None:
    """Up to 2% of the items are left out; with more, the language's options are in another order altogether."""
    table = drawn(np.random.default_rng(0), 200, copies=0.5)
    moved = table.reset_index(drop=True)
    moved.loc[196:199, "gold"] = (moved.loc[196:199, "gold"] + 1) % 4
    (row,) = own.consistency(moved).itertuples()
    assert row.n == 196
    assert row.note == "4 items are left out, because their options have other places in English"
    kept = own.consistency(moved[~moved["item_id"].isin(moved.loc[196:199, "item_id"])])
    assert row.kappa == kept["kappa"].item()
    moved.loc[195, "gold"] = (moved.loc[195, "gold"] + 1) % 4
    (row,) = own.consistency(moved).itertuples()
    assert (row.n, np.isnan(row.agreement)) == (0, True)
    assert "5 of 200 items have other options in English" in row.note


# ---------------------------------------------------------------------------------------------------------- simulations

STUDIES = 400
LEVELS = stats.binom.ppf([0.001, 0.999], STUDIES, 0.05) / STUDIES


def many(copies: float, size: int = 1) -> pd.DataFrame:
    """One row per study: each is a model with English and one language, 120 items."""
    rng = np.random.default_rng(int(1000 * copies) + size)
    tables = [drawn(rng, 120, copies=copies, size=size, model=f"m{i:03d}") for i in range(STUDIES)]
    return own.consistency(pd.concat(tables, ignore_index=True))


@pytest.mark.parametrize("size", [1, 3])
def test_independent_answers_are_at_the_baselines(size: int) -> None:
    """Also where a passage's items are answered alike, and where both languages prefer the same options."""
    found = many(0.0, size)
    assert found["agreement"].mean() > 0.265  # because of the preferences, more than 1/4
    for value in (found["kappa"], found["rankc"] - found["rankc_chance"]):
        assert abs(value.mean()) < 4 * value.std() / math.sqrt(STUDIES)
    low, high = LEVELS
    assert low <= (found["p"] < 0.05).mean() <= high
    assert low / 2 <= 1 - ((found["kappa_low"] < 0) & (found["kappa_high"] > 0)).mean() <= high


def test_planted_agreement_is_found() -> None:
    """If a share c of the rankings is taken over and the others are independent, kappa is c."""
    found = many(0.3)
    assert found["kappa"].mean() == pytest.approx(0.3, abs=0.02)
    covered = ((found["kappa_low"] < 0.3) & (found["kappa_high"] > 0.3)).mean()
    assert 1 - LEVELS[1] <= covered <= 1 - LEVELS[0]
    assert (found["p"] < 0.05).mean() > 0.95
    ranked = (found["rankc"] - found["rankc_chance"]) / (1 - found["rankc_chance"])
    assert ranked.mean() == pytest.approx(0.3, abs=0.02)


def simulated(seed: int, effect: float = 0.0, n: int = 150, size: int = 3) -> tuple[Floats, ...]:
    """Answers in four languages: the same as English's, aligned, language and passage; passages and items have their
    own luck with each of the two, in all languages."""
    rng = np.random.default_rng(seed)

    def luck() -> Floats:
        passages, items = rng.uniform(-0.2, 0.2, n // size).repeat(size), rng.uniform(-0.1, 0.1, n)
        return (passages + items)[:, None]

    aligned = (rng.random((n, 4)) < np.array([0.3, 0.4, 0.5, 0.6]) + luck()).astype(float)
    same = (rng.random((n, 4)) < np.array([0.3, 0.35, 0.4, 0.45]) + luck() + effect * (aligned - 0.5)).astype(float)
    item, language = np.nonzero(np.ones((n, 4)))
    return same.ravel(), aligned.ravel(), language, item // size


def test_an_unrelated_difference_is_rejected_at_the_level() -> None:
    """Languages with more aligned items agree more, and passages are lucky as a whole: neither is a difference."""
    found = [own.difference(*simulated(i)) for i in range(STUDIES)]
    low, high = LEVELS
    assert low <= np.mean([one.p < 0.05 for one in found]) <= high
    naive = [stats.ttest_ind(y[x == 1], y[x == 0]).pvalue < 0.05 for y, x, _, _ in map(simulated, range(STUDIES))]
    assert np.mean(naive) > high  # languages and passages matter here


def test_a_planted_difference_is_found() -> None:
    found = [own.difference(*simulated(i, 0.2)) for i in range(100)]
    assert np.mean([one.value for one in found]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([one.p < 0.05 for one in found]) > 0.9
    assert np.mean([one.low < 0.2 < one.high for one in found]) >= stats.binom.ppf(0.001, 100, 0.95) / 100


# ------------------------------------------------------------------------------------------------------------ alignment


def rows_of(alignment: pd.DataFrame, predictions: pd.DataFrame, cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The answers behind a metric's rows, by loops over the tables."""
    best = cells[cells["best_layer"] & (cells["metric"] == metric)].set_index("language")["layer"]
    answer = {(row.language, row.item_id): row for row in predictions.itertuples()}
    rows = []
    for row in alignment[alignment["metric"] == metric].itertuples():
        one, english = answer.get((row.language, row.item_id)), answer.get((ENGLISH, row.item_id))
        if row.layer == best[row.language] and one is not None and english is not None:
            same = float(one.prediction == english.prediction)
            rows.append((row.language, same, row.value, "right" if english.correct else "wrong", one.cluster))
    return pd.DataFrame(rows, columns=["language", "same", "aligned", "english", "cluster"])


def test_aligned_items_are_compared_as_in_a_regression_with_dummies() -> None:
    alignment, predictions = made()
    study = analysis.join(alignment, predictions, {"m": 2})
    cells = analysis.tally(study)
    found = own.consistency_alignment(study, cells)
    assert list(found.columns) == own.CONSISTENCY_ALIGNMENT
    assert len(found) == 2 * 3
    for row in found.itertuples():
        every = rows_of(alignment, predictions, cells, row.metric)
        rows = every if row.english == "all" else every[every["english"] == row.english]
        fit = smf.ols("same ~ aligned + C(language)", rows).fit()
        assert row.difference == pytest.approx(fit.params["aligned"])
        assert (row.n, row.n_aligned, row.n_languages) == (len(rows), rows["aligned"].sum(), 3)
        assert row.n_clusters == rows["cluster"].nunique()
        sides = rows.groupby("aligned")["same"].mean()
        assert (row.agreement_other, row.agreement_aligned) == pytest.approx((sides[0], sides[1]))
        names = rows["cluster"].unique()
        without = [
            smf.ols("same ~ aligned + C(language)", rows[rows["cluster"] != name]).fit().params["aligned"]
            for name in names[: None if row.english == "wrong" and row.metric == "dali" else 0]
        ]
        if without:  # leaving out each passage in turn
            count = len(names)
            error = math.sqrt(((np.array(without) - row.difference) ** 2).sum() * (count - 1) / count)
            assert row.high - row.difference == pytest.approx(stats.t.ppf(0.975, count - 1) * error, rel=0.03)
            assert row.p == pytest.approx(2 * stats.t.sf(abs(row.difference) / error, count - 1), rel=0.1)
    for _, rows in found.groupby("english"):
        assert rows["p_holm"].to_numpy() == pytest.approx(holm(rows["p"].to_numpy()))


def mapped(seed: int, copies: bool, n: int = 300) -> pd.DataFrame:
    """Consistency of aligned items if alignment passes on English's answer, or only knowledge of the right one."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 4, n)
    english = rng.normal(size=(n, 4)) + 1.0 * np.eye(4)[gold]
    parts, rows = [answers(ENGLISH, english, gold)], []
    for language in LANGUAGES:
        aligned = rng.random(n) < 0.5
        helped = aligned & (rng.random(n) < 0.5)
        source = english if copies else 5 * np.eye(4)[gold]
        scores = np.where(helped[:, None], source, rng.normal(size=(n, 4)) + 0.5 * np.eye(4)[gold])
        parts.append(answers(language, scores, gold))
        key = {"model": "m", "task": "t", "language": language, "pivot": ENGLISH, "metric": "dali", "pooling": "last"}
        rows.append(pd.DataFrame({**key, "layer": 0, "item_id": parts[0]["item_id"], "value": aligned.astype(np.int8)}))
    study = analysis.join(pd.concat(rows), pd.concat(parts), {"m": 1})
    return own.consistency_alignment(study, analysis.tally(study)).set_index("english")


def test_what_english_gets_wrong_tells_mapping_from_knowing() -> None:
    mapping, knowing = ([mapped(i, copies) for i in range(12)] for copies in (True, False))
    for found in (mapping, knowing):  # items that English gets right do not tell
        assert all(table.loc["right", "p"] < 0.05 and table.loc["right", "difference"] > 0 for table in found)
    assert all(table.loc["wrong", "p"] < 0.05 and table.loc["wrong", "difference"] > 0 for table in mapping)
    assert all(table.loc["wrong", "low"] < 0 for table in knowing)
    assert np.mean([table.loc["wrong", "difference"] for table in knowing]) < -0.05


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": 0}, "fewer than 10 of these answers are to items that are aligned"),
        ({"value": 1}, "fewer than 10 of these answers are to items that are not aligned"),
        ({"cluster": "one"}, "there are fewer than 10 clusters of items"),
        ({"prediction": 0}, "all of these answers are the same as in English"),
    ],
)
def test_a_difference_that_is_not_defined_says_why(change: dict[str, Any], says: str) -> None:
    alignment, predictions = made()
    alignment = alignment.assign(**{k: v for k, v in change.items() if k == "value"})
    predictions = predictions.assign(**{k: v for k, v in change.items() if k != "value"})
    study = analysis.join(alignment, predictions, {"m": 2})
    found = own.consistency_alignment(study, analysis.tally(study))
    every = found[found["english"] == "all"]
    assert every["note"].tolist() == [f"not defined, because {says}"] * 2
    assert found["p_holm"].isna().all()


def test_without_wrong_answers_in_english_there_is_no_such_comparison() -> None:
    alignment, predictions = made()
    english = predictions["language"] == ENGLISH
    right = predictions.assign(
        prediction=predictions["prediction"].where(~english, predictions["gold"]),
        correct=predictions["correct"].where(~english, 1),
    )
    study = analysis.join(alignment, right, {"m": 2})
    found = own.consistency_alignment(study, analysis.tally(study)).set_index(["metric", "english"])
    assert found.loc[("dali", "wrong"), "note"] == "not defined, because there are no such answers"
    assert found.loc[("dali", "right"), "difference"] == found.loc[("dali", "all"), "difference"]


def test_one_language_that_does_not_vary_is_no_comparison() -> None:
    same, aligned = np.tile([0.0, 1.0], 20), np.repeat([0.0, 1.0], 20)
    found = own.difference(same, aligned, aligned.astype(int), np.arange(40))
    assert found.note == "not defined, because in no language are some items aligned and others not"
