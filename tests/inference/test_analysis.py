"""Known answers, independent oracles, laws and edge cases of the statistics."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_ztest
from test_analysis_simulated import simulate

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError
from align_pipeline.inference import answers, findings, items, languages, verdicts
from align_pipeline.inference import study as analysis
from align_pipeline.measurements.alignment.table import BASELINES

FIXED = {"model": "tiny", "task": "belebele", "pivot": ENGLISH}


def predictions(language: str, correct: list[int], **columns: Any) -> pd.DataFrame:
    """Made-up answers of one language, item ids 0, 1, ..."""
    ids = [str(i) for i in range(len(correct))]
    right = np.array(correct, dtype=int)
    table = pd.DataFrame({**FIXED, "language": language, "item_id": ids, "gold": 0, "prediction": 1 - right})
    return table.assign(**{"correct": right, "confidence": 0.5, **columns})


def alignment(language: str, values: list[list[int]], metric: str = "dali") -> pd.DataFrame:
    """Made-up alignment of one language: a list of items per layer."""
    rows = [
        {**FIXED, "language": language, "metric": metric, "pooling": "last", "layer": k, "item_id": str(i), "value": v}
        for k, layer in enumerate(values)
        for i, v in enumerate(layer)
    ]
    return pd.DataFrame(rows)


def join(*tables: pd.DataFrame) -> analysis.Study:
    """Alignment tables and prediction tables in any order."""
    kinds: dict[bool, list[pd.DataFrame]] = {True: [], False: []}
    for table in tables:
        kinds["layer" in table].append(table)
    return analysis.join(pd.concat(kinds[True]), pd.concat(kinds[False]))


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    metrics = (("dali", "last"), ("mexa_t", "weighted"))
    return simulate(12, 80, 4, metrics, effect=0.8, level_effect=1.0, item_spread=0.5, seed=3)


@pytest.fixture(scope="module")
def study(tables: tuple[pd.DataFrame, pd.DataFrame]) -> analysis.Study:
    return analysis.join(*tables)


@pytest.fixture(scope="module")
def cells(study: analysis.Study) -> pd.DataFrame:
    return analysis.tally(study)


def everything(alignment: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All result tables."""
    study = analysis.join(alignment, predictions)
    cells = analysis.tally(study)
    points = analysis.points(study, cells)
    level, found = languages.language_level(points), findings.findings(study, cells, count=99)
    chances = findings.chance(study, cells, pd.DataFrame(columns=[f.name for f in BASELINES]), found.items_by_language)
    return {
        **vars(found),
        "chance": chances,
        "verdicts": verdicts.verdicts(level, found, chances),
        "cells": cells,
        "points": points,
        "language_level": level,
        "instance_level": items.instance_level(cells),
        "regression": items.regression(study, cells),
        "calibration": answers.calibration(predictions),
        "reliability": answers.reliability(predictions),
        "confidence": answers.confidence(study, cells),
        "groups": analysis.groups(predictions),
    }


# ------------------------------------------------------------------------------------------------------ known answers


def test_groups_of_a_small_table() -> None:
    english, own = predictions(ENGLISH, [1, 1, 1, 0]), predictions("swh_Latn", [1, 0, 0, 1])
    (row,) = analysis.groups(pd.concat([own, english])).to_dict("records")
    assert (row["language"], row["n"], row["ts"], row["tf"], row["note"]) == ("swh_Latn", 4, 1, 2, "")
    assert (row["accuracy"], row["english_accuracy"]) == (0.5, 0.75)
    assert row["stderr"] == pytest.approx(math.sqrt(4 * 0.25 / 3) / 2)


def test_tally_and_instance_level_of_a_small_table() -> None:
    study = join(
        alignment("swh_Latn", [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1]]),
        predictions("swh_Latn", [1, 1, 1, 0, 0, 1]),
        predictions(ENGLISH, [1, 1, 1, 1, 1, 0]),
    )
    cells = analysis.tally(study)
    assert cells["share"].tolist() == pytest.approx([2 / 6, 4 / 6, 1])
    assert cells["inner"].tolist() == [True, True, False]  # the highest layer comes after the final norm
    assert cells["best_layer"].tolist() == [False, True, False]
    rows = items.instance_level(cells).set_index(["contrast", "layer"])
    best = rows.loc[("ts_tf", 1)]
    assert (best["n_a"], best["n_b"], best["mean_a"], best["mean_b"], best["difference"]) == (3, 2, 1.0, 0.5, 0.5)
    assert best["best_layer"]
    assert best["p_fisher"] == pytest.approx(2 / 5)  # of the 5 choices of the one item that is not aligned, 2 are in b
    pooled = 4 / 5
    assert best["z"] == pytest.approx(0.5 / math.sqrt(pooled * (1 - pooled) * (1 / 3 + 1 / 2)))
    right = rows.loc[("right_wrong", 1)]
    assert (right["n_a"], right["n_b"], right["mean_a"], right["mean_b"]) == (4, 2, 0.75, 0.5)
    assert "all of these items are aligned" in rows.loc[("ts_tf", 2), "note"]


def test_best_layer_is_the_lowest_of_equals_and_layers_may_be_few() -> None:
    answers = predictions("swh_Latn", [1, 0]), predictions(ENGLISH, [1, 1])
    cells = analysis.tally(join(alignment("swh_Latn", [[0, 0], [1, 0], [0, 1], [1, 1]]), *answers))
    assert cells.loc[cells["best_layer"], "layer"].tolist() == [1]
    one = alignment("swh_Latn", [[0, 0], [1, 0]]).query("layer == 1")
    assert analysis.tally(join(one, *answers))["best_layer"].tolist() == [True]
    told = analysis.join(one.assign(layer=8), pd.concat(answers), last_layers={"tiny": 32})
    assert analysis.tally(told)["inner"].tolist() == [True]


def test_perfect_and_reversed_correlation() -> None:
    parts = []
    for i, language in enumerate(["aaa_Latn", "bbb_Latn", "ccc_Cyrl", "ddd_Cyrl", "eee_Cyrl"]):
        right = [1] * (2 * i) + [0] * (10 - 2 * i)
        parts += [predictions(language, right), alignment(language, [right, [1 - v for v in right], right])]
    study = join(*parts, predictions(ENGLISH, [1] * 10))
    level = languages.language_level(analysis.points(study, analysis.tally(study)))
    layers = level[(level["grouping"] == "all") & (level["reduce"] == "layer")].set_index("layer")
    assert layers["pearson"].tolist() == pytest.approx([1, -1, 1])
    assert layers["spearman"].tolist() == pytest.approx([1, -1, 1])
    assert layers[["pearson_low", "pearson_high"]].to_numpy() == pytest.approx(np.array([[1, 1], [-1, -1], [1, 1]]))
    assert layers[["spearman_low", "spearman_high", "partial_spearman_p"]].isna().all(axis=None)
    assert layers["note"].str.contains("interval of Spearman's correlation not defined, because").all()
    assert not verdicts._languages(level)["note"].str.contains("Spearman").any()  # it is about Pearson's
    mean = level[(level["grouping"] == "all") & (level["reduce"] == "mean")].iloc[0]
    assert mean["note"] == "not defined, because alignment is the same (0.500) in all 5 languages"
    cyrillic = level[(level["grouping"] == "script") & (level["group"] == "Cyrl") & (level["reduce"] == "max")].iloc[0]
    assert cyrillic["n"] == 3


def test_calibration_of_a_small_table() -> None:
    scores = [[math.log(0.9), math.log(0.1)], [math.log(0.6), math.log(0.4)]] * 2
    gold = [0, 0, 1, 1]
    table = predictions("swh_Latn", [1, 1, 0, 0], confidence=[0.9, 0.6, 0.9, 0.6], loglikelihoods=scores, gold=gold)
    (row,) = answers.calibration(table.assign(prediction=0)).to_dict("records")
    assert row["ece"] == pytest.approx((0.4 + 0.1) / 2)
    assert row["brier"] == pytest.approx((0.01 + 0.16 + 0.81 + 0.36) / 4)
    assert row["brier_options"] == pytest.approx(2 * row["brier"])  # of two options, both are equally far off
    assert row["overconfidence"] == pytest.approx(0.25)
    assert answers.reliability(table)["bin"].tolist() == [5, 8]  # bins are (low, high]: 0.6 belongs to (0.5, 0.6]


def test_fertility_is_tokens_per_english_token_and_english_is_no_point() -> None:
    study = join(
        alignment("swh_Latn", [[1, 0], [0, 0]]),
        alignment(ENGLISH, [[1, 1], [1, 1]]),
        predictions("swh_Latn", [1, 0], item_tokens=[30, 10]),
        predictions(ENGLISH, [1, 1], item_tokens=[10, 10]),
    )
    points = analysis.points(study, analysis.tally(study))
    assert set(points["language"]) == {"swh_Latn"}
    assert set(points["fertility"]) == {2.0}


def test_a_task_without_predictions_is_set_against_the_others() -> None:
    flores = alignment("swh_Latn", [[1, 0], [0, 0]], "mexa").assign(task="flores")
    study = join(flores, predictions("swh_Latn", [1, 0]), predictions(ENGLISH, [1, 1]))
    points = analysis.points(study, analysis.tally(study))
    assert set(points["task"]) == {"belebele"}
    assert set(points["alignment_task"]) == {"flores"}


# ------------------------------------------------------------------------------------------------------------ oracles


def test_correlations_agree_with_scipy(study: analysis.Study, cells: pd.DataFrame) -> None:
    points = analysis.points(study, cells)
    level = languages.language_level(points)
    for row in level[(level["grouping"] == "all") & (level["metric"] == "dali")].itertuples():
        chosen = points[(points["metric"] == "dali") & (points["reduce"] == row.reduce)]
        chosen = chosen[chosen["layer"] == row.layer] if row.reduce == "layer" else chosen
        pearson = stats.pearsonr(chosen["alignment"], chosen["accuracy"])
        spearman = stats.spearmanr(chosen["alignment"], chosen["accuracy"])
        assert (row.pearson, row.pearson_p) == pytest.approx((pearson.statistic, pearson.pvalue))
        expected = exact_p(chosen["alignment"], chosen["accuracy"]) if row.n <= 7 else spearman.pvalue
        assert (row.spearman, row.spearman_p) == pytest.approx((spearman.statistic, expected))


def exact_p(x: pd.Series, y: pd.Series) -> float:
    """The share of all orders of y whose Spearman correlation with x is as far from 0 as that of the data."""
    a, b = stats.rankdata(x), stats.rankdata(y)
    found = [abs(np.corrcoef(a, order)[0, 1]) for order in itertools.permutations(b)]
    return float(np.mean(np.array(found) >= found[0] - 1e-9))


def test_three_languages_in_order_are_no_evidence() -> None:
    """One of six orders is theirs and one its reverse, so p is 1/3, not 0."""
    three = pd.DataFrame({"alignment": [0.1, 0.3, 0.2], "accuracy": [0.5, 0.9, 0.6]})
    three["language"] = ["swh_Latn", "ind_Latn", "tur_Latn"]
    points = three.assign(model="m", task="belebele", alignment_task="belebele", metric="dali", pooling="last")
    points = points.assign(reduce="max", layer=pd.array([pd.NA] * 3, "Int64"), pivot=ENGLISH, fertility=1.0, n=100)
    row = languages.language_level(points).iloc[0]
    assert (row["spearman"], row["spearman_p"]) == pytest.approx((1, 1 / 3))


def test_partial_correlation_agrees_with_a_regression(study: analysis.Study, cells: pd.DataFrame) -> None:
    points = analysis.points(study, cells)
    row = languages.language_level(points).iloc[0]
    chosen = points[(points["metric"] == row["metric"]) & (points["reduce"] == "max")]
    fit = smf.ols("accuracy ~ alignment + fertility", chosen.astype({"alignment": float})).fit()
    t = fit.tvalues["alignment"]
    assert row["partial_pearson"] == pytest.approx(t / math.sqrt(t**2 + fit.df_resid))
    assert row["partial_pearson_p"] == pytest.approx(fit.pvalues["alignment"])


def test_intervals_agree_with_scipy(study: analysis.Study, cells: pd.DataFrame) -> None:
    points = analysis.points(study, cells)
    row = languages.language_level(points).iloc[0]
    chosen = points[(points["metric"] == row["metric"]) & (points["reduce"] == "max")]
    oracle = stats.pearsonr(chosen["alignment"], chosen["accuracy"]).confidence_interval()
    assert (row["pearson_low"], row["pearson_high"]) == pytest.approx((oracle.low, oracle.high))
    # Bonett and Wright 2000, equation 4
    wide = stats.norm.ppf(0.975) * math.sqrt((1 + row["spearman"] ** 2 / 2) / (len(chosen) - 3))
    ends = [math.tanh(math.atanh(row["spearman"]) + sign * wide) for sign in (-1, 1)]
    assert [row["spearman_low"], row["spearman_high"]] == pytest.approx(ends)


@pytest.mark.parametrize("n", [4, 6, 9])
def test_permutation_p_agrees_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n))
    found = languages.permuted(x[None], y, rng)[0]

    def r(a: Any) -> Any:
        return np.abs(stats.pearsonr(a, y).statistic)

    oracle = stats.permutation_test((x,), r, permutation_type="pairings", alternative="greater", n_resamples=9999)
    assert found == pytest.approx(oracle.pvalue, abs=0 if n <= languages.EXACT else 0.02)


def test_given_both_and_families_agree_with_regressions_on_what_they_say() -> None:
    rng = np.random.default_rng(3)
    table = pd.DataFrame(rng.normal(size=(12, 3)), columns=["x", "y", "fertility"])
    table["resource"] = rng.integers(0, 6, 12)
    table["family"] = list("aaabbbccdeff")
    sides = table.rename(columns={"y": "accuracy"})
    found = languages._correlate(table["x"].to_numpy()[None], sides, rng)[0]
    fit = smf.ols("y ~ x + fertility + resource", table).fit()
    assert found["given_both"] == pytest.approx(fit.tvalues["x"] / math.sqrt(fit.tvalues["x"] ** 2 + fit.df_resid))
    assert found["given_both_p"] == pytest.approx(fit.pvalues["x"])
    means = table.groupby("family")[["x", "y"]].mean()
    oracle = stats.pearsonr(means["x"], means["y"])
    assert (found["family_pearson"], found["family_p"]) == pytest.approx((oracle.statistic, oracle.pvalue))
    assert found["n_families"] == 6


def test_detectable_correlations_are_detected_as_often_as_is_said() -> None:
    rng = np.random.default_rng(4)
    for n in (8, 40):
        r = languages.detectable(n)
        x, noise = rng.normal(size=(2, 4000, n))
        p = stats.pearsonr(x, r * x + math.sqrt(1 - r**2) * noise, axis=1).pvalue
        assert (p < 0.05).mean() == pytest.approx(languages.POWER, abs=0.06)  # Fisher's z is an approximation


def test_instance_level_agrees_with_statsmodels_and_scipy(cells: pd.DataFrame) -> None:
    table = items.instance_level(cells)
    for row in table[table["z"].notna()].sample(60, random_state=1).itertuples():
        k_a, k_b = round(row.mean_a * row.n_a), round(row.mean_b * row.n_b)
        z, p = proportions_ztest([k_a, k_b], [row.n_a, row.n_b], alternative="larger")
        counts = [[k_a, row.n_a - k_a], [k_b, row.n_b - k_b]]
        fisher = stats.fisher_exact(counts, alternative="greater").pvalue
        assert (row.z, row.p_one_sided, row.p_fisher) == pytest.approx((z, p, fisher))
        assert row.low <= row.difference <= row.high
    for _, family in itertools.islice(table.groupby(["language", "metric", "contrast"]), 8):
        family = family[family["z"].notna()]
        for column, method in (("p_holm", "holm"), ("p_bh", "fdr_bh")):
            assert family[column].to_numpy() == pytest.approx(multipletests(family["p_one_sided"], method=method)[1])


def test_counts_agree_with_brute_force(tables: tuple[pd.DataFrame, pd.DataFrame], cells: pd.DataFrame) -> None:
    values, answers = tables
    right = {(r.language, r.item_id): r.correct for r in answers.itertuples()}
    row = cells[(cells["metric"] == "dali") & (cells["layer"] == 2)].iloc[5]
    chosen = values[(values["metric"] == "dali") & (values["layer"] == 2) & (values["language"] == row["language"])]
    ts = [
        v
        for i, v in zip(chosen["item_id"], chosen["value"], strict=True)
        if right[ENGLISH, i] and right[row["language"], i]
    ]
    tf = [
        v
        for i, v in zip(chosen["item_id"], chosen["value"], strict=True)
        if right[ENGLISH, i] and not right[row["language"], i]
    ]
    assert (row["n_ts"], row["k_ts"], row["n_tf"], row["k_tf"]) == (len(ts), sum(ts), len(tf), sum(tf))


def test_cmh_agrees_with_statsmodels_and_with_the_textbook(study: analysis.Study, cells: pd.DataFrame) -> None:
    pooled = items.regression(study, cells)
    row = pooled[(pooled["method"] == "cmh") & (pooled["contrast"] == "ts_tf") & (pooled["layer"] == 1)].iloc[0]
    part = cells[(cells["metric"] == row["metric"]) & (cells["layer"] == 1)]
    tables = [np.array([[r.k_ts, r.n_ts - r.k_ts], [r.k_tf, r.n_tf - r.k_tf]], dtype=float) for r in part.itertuples()]
    oracle = StratifiedTable(tables)
    assert row["odds_ratio"] == pytest.approx(oracle.oddsratio_pooled)
    assert row["p"] == pytest.approx(oracle.test_null_odds().pvalue)
    over = sum(t[0, 0] * t[1, 1] / t.sum() for t in tables) / sum(t[0, 1] * t[1, 0] / t.sum() for t in tables)
    assert row["odds_ratio"] == pytest.approx(over)  # Mantel and Haenszel 1959


def test_regression_agrees_with_a_formula(study: analysis.Study, cells: pd.DataFrame) -> None:
    pooled = items.regression(study, cells)
    table = study.items.copy()
    block = study.blocks["tiny", "belebele", "dali", "last"]
    best = cells[(cells["metric"] == "dali") & cells["best_layer"]].set_index("language")["layer"]
    table["aligned"] = block.values[np.arange(len(table)), best.loc[table["language"]].to_numpy()]
    for name in items.COVARIATES:
        table[name] = stats.zscore(table[name].to_numpy(float), ddof=1)
    terms = f"aligned + {' + '.join(items.COVARIATES)} + C(category)"
    formulas = {"language": "aligned + C(language)", "covariates and language": terms + " + C(language)"}
    for adjusted, formula in formulas.items():
        model = smf.logit(f"correct ~ {formula}", table.astype({"correct": float}))
        fit = model.fit(disp=0, cov_type="cluster", cov_kwds={"groups": table["item_id"].factorize()[0]})
        rows = pooled[(pooled["method"] == "logit") & (pooled["metric"] == "dali") & (pooled["at"] == "best_layer")]
        row = rows[(rows["adjusted_for"] == adjusted) & (rows["term"] == "aligned")].iloc[0]
        low, high = np.exp(fit.conf_int().loc["aligned"])
        expected = (fit.params["aligned"], fit.pvalues["aligned"], low, high)
        assert (row["log_odds"], row["p"], row["low"], row["high"]) == pytest.approx(expected, rel=1e-5)
        assert row["n_items"] == 80
    passages = study.items.assign(cluster=study.items["item_id"].factorize()[0] // 2)
    pooled = items.regression(replace(study, items=passages), cells)
    fitted = pooled[(pooled["method"] == "logit") & pooled["odds_ratio"].notna()]
    assert len(fitted)
    assert (fitted["n_items"] == 80).all()  # of 40 clusters


def test_label_prior_is_the_mean_probability_of_the_answers_option(
    tables: tuple[pd.DataFrame, pd.DataFrame], study: analysis.Study
) -> None:
    answered = tables[1]
    for language in study.items["language"].unique()[:3]:
        own = answered[answered["language"] == language]
        for gold in own["gold"].unique():
            shares = [math.exp(row[gold]) / sum(map(math.exp, row)) for row in own["loglikelihoods"]]
            found = study.items[(study.items["language"] == language)].set_index("item_id")["label_prior"]
            chosen = found.loc[own.loc[own["gold"] == gold, "item_id"]]
            assert chosen.to_numpy() == pytest.approx(np.full(len(chosen), np.mean(shares)))


def test_accuracy_against_guessing_is_a_t_test_of_clusters() -> None:
    rng = np.random.default_rng(0)
    options = [[-1.0] * 4, [-1.0] * 2] * 60
    right = (rng.random(120) < 0.5).astype(int)
    table = predictions("aaa_Latn", right.tolist()).assign(loglikelihoods=options)
    other = predictions("bbb_Latn", [0] * 119 + [1]).assign(loglikelihoods=options)
    found = answers.above_chance(pd.concat([table, other])).set_index("language")
    differs = right - np.tile([1 / 4, 1 / 2], 60)
    test = stats.ttest_1samp(differs, 0, alternative="greater")
    assert (found["chance"] == 3 / 8).all()
    assert found.loc["aaa_Latn", "p_chance"] == pytest.approx(test.pvalue)
    assert found.loc["aaa_Latn", "p_chance_holm"] == pytest.approx(2 * test.pvalue)
    assert found.loc["bbb_Latn", "p_chance"] > 0.999
    pairs = table.assign(cluster=[str(i // 2) for i in range(120)])
    sums = differs.reshape(60, 2).sum(axis=1)
    t = sums.mean() / np.sqrt(((differs - differs.mean()).reshape(60, 2).sum(axis=1) ** 2).sum() / 60 / 59)
    assert answers.above_chance(pairs)["p_chance"].item() == pytest.approx(stats.t.sf(t, 59))
    assert answers.above_chance(table.drop(columns="loglikelihoods")).empty


def test_all_right_is_above_guessing_and_english_is_no_test() -> None:
    options = [[-1.0, -2.0]] * 20
    right = predictions("aaa_Latn", [1] * 20).assign(loglikelihoods=options)
    wrong = predictions("bbb_Latn", [0] * 20).assign(loglikelihoods=options)
    english = predictions(ENGLISH, [1] * 20).assign(loglikelihoods=options)
    found = answers.above_chance(pd.concat([right, wrong, english])).set_index("language")
    assert found.index.tolist() == ["aaa_Latn", "bbb_Latn"]
    assert found["p_chance"].tolist() == pytest.approx([0.5**20, 1])
    assert found["p_chance_holm"].tolist() == pytest.approx([2 * 0.5**20, 1])
    one = right.assign(cluster="0")  # twenty questions of one passage are one guess
    assert answers.above_chance(one)["p_chance"].item() == pytest.approx(0.5)


def test_label_prior_is_missing_where_items_differ_in_options() -> None:
    two = predictions("aaa_Latn", [1, 0]).assign(loglikelihoods=[[-1.0, -2.0], [-1.0, -2.0, -3.0]])
    both = join(alignment("aaa_Latn", [[1, 0]]), two, predictions(ENGLISH, [1, 1]))
    assert both.items["label_prior"].isna().all()


def test_expected_calibration_error_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    sure, right = rng.uniform(0.01, 1, 500), rng.integers(0, 2, 500).astype(float)
    gaps = 0.0
    for i in range(10):
        inside = (sure > i / 10) & (sure <= (i + 1) / 10)
        gaps += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert answers.expected_calibration_error(sure, right) == pytest.approx(gaps)


def test_calibration_intervals_and_equal_masses() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1, 400)
    right = rng.random(400) < sure - 0.1  # overconfident by .1, so that the error is .1
    table = predictions("aaa_Latn", right.astype(int).tolist(), confidence=sure)
    table["cluster"] = [str(i // 2) for i in range(400)]
    row = answers.calibration(table).iloc[0]
    assert row["ece_low"] < 0.1 < row["ece_high"]
    order = np.argsort(sure)
    tenths = [order[i : i + 40] for i in range(0, 400, 40)]
    literal = sum(abs(sure[t].mean() - right[t].mean()) for t in tenths) / 10
    assert row["ece_equal_mass"] == pytest.approx(literal)


def test_a_calibrated_model_is_called_so_and_intervals_cover() -> None:
    p, covers = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sure = rng.uniform(0.3, 1, 200)
        for offset in (0.0, 0.1):
            right = (rng.random(200) < sure - offset).astype(int).tolist()
            row = answers.calibration(predictions("aaa_Latn", right, confidence=sure), seed).iloc[0]
            if offset:
                covers.append(row["ece_low"] <= offset <= row["ece_high"])
            else:
                p.append(row["p_calibrated"])
                assert row["ece_if_calibrated"] == pytest.approx(0.08, abs=0.02)
    assert (np.array(p) < 0.05).sum() <= 12  # of 100 at 5%: probability of more .1%
    assert np.mean(covers) > 0.85


def test_confidence_agrees_with_scipy(study: analysis.Study, cells: pd.DataFrame) -> None:
    row = answers.confidence(study, cells).iloc[0]
    block = study.blocks["tiny", "belebele", "dali", "last"]
    chosen = (study.items["language"] == row["language"]).to_numpy()
    value = block.values[chosen, int(row["layer"])]
    sure = study.items.loc[chosen, "confidence"].to_numpy(float)
    welch = stats.ttest_ind(sure[value == 1], sure[value == 0], equal_var=False)
    assert (row["p_welch"], row["difference"]) == pytest.approx(
        (welch.pvalue, sure[value == 1].mean() - sure[value == 0].mean())
    )
    table = pd.DataFrame({"sure": sure, "aligned": value, "item": np.arange(len(sure))})
    fit = smf.ols("sure ~ aligned", table).fit(
        cov_type="cluster", cov_kwds={"groups": table["item"], "use_correction": False}
    )
    count = len(sure)
    error = fit.bse["aligned"] * math.sqrt(count / (count - 1))
    assert row["high"] - row["difference"] == pytest.approx(stats.t.ppf(0.975, count - 1) * error)
    assert row["p_clustered"] == pytest.approx(2 * stats.t.sf(abs(row["difference"]) / error, count - 1))


# --------------------------------------------------------------------------------------------------------- properties


def same(a: dict[str, pd.DataFrame], b: dict[str, pd.DataFrame]) -> None:
    """The same tables, to the last digit."""
    for name in a:
        pd.testing.assert_frame_equal(a[name], b[name], check_exact=True, check_dtype=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_order_and_repetition_change_nothing(seed: int) -> None:
    values, answers = simulate(5, 40, 3, effect=1.0, item_spread=0.5, seed=seed)
    values = values.astype({"language": str, "item_id": str})
    before = everything(values, answers)
    same(before, everything(values.sample(frac=1, random_state=seed), answers.sample(frac=1, random_state=seed)))
    again = pd.concat([values, values.sample(500, random_state=seed)]), pd.concat([answers.iloc[::-1], answers])
    same(before, everything(*again))


def test_other_groups_do_not_change_a_groups_numbers() -> None:
    values, answers = simulate(8, 40, 3, seed=5)
    values = values.astype({"language": str})
    keep = [*sorted(set(values["language"]))[:5], ENGLISH]
    whole = everything(values, answers)["instance_level"]
    part = everything(values[values["language"].isin(keep)], answers[answers["language"].isin(keep)])["instance_level"]
    pd.testing.assert_frame_equal(whole[whole["language"].isin(keep)].reset_index(drop=True), part)


def test_swapping_aligned_and_not_mirrors_the_odds() -> None:
    values, answers = simulate(5, 60, 3, effect=1.0, seed=2)
    study = analysis.join(values, answers)
    mirrored = analysis.join(values.assign(value=1 - values["value"]), answers)
    a, b = (items.regression(s, analysis.tally(s)) for s in (study, mirrored))
    a, b = (t[(t["method"] == "cmh") & (t["at"] == "layer")]["log_odds"].to_numpy() for t in (a, b))
    assert a == pytest.approx(-b)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=40))
def test_holm_agrees_with_statsmodels(p: list[float]) -> None:
    assert items.holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), min_size=1, max_size=6))
def test_cmh_is_defined_or_says_why(counts: list[tuple[int, int, int, int]]) -> None:
    found = items.cmh(np.array([[a, a + b, c, c + d] for a, b, c, d in counts], dtype=float))
    assert ("p" in found) != found["note"].startswith("not defined, because")
    assert all(math.isfinite(v) for k, v in found.items() if k != "note")


# --------------------------------------------------------------------------------------------------------- edge cases

NUMBERS = {
    "language_level": ["pearson", "spearman"],
    "instance_level": ["z", "p_one_sided", "p_holm", "p_bh", "difference", "low", "high"],
    "calibration": ["ece", "brier", "brier_options"],
    "confidence": ["difference", "p_welch"],
    "groups": ["accuracy", "stderr", "ts", "tf"],
    "items_by_language": ["difference", "z", "p", "p_languages"],
    "items_pooled": ["odds_ratio"],
    "same_item": ["effect", "low", "high", "p"],
}


def explained(found: dict[str, pd.DataFrame]) -> None:
    """No cell is missing without a reason, and no number is infinite."""
    for name, columns in NUMBERS.items():
        table = found[name]
        missing = table[columns].isna().any(axis="columns")
        assert table.loc[missing, "note"].astype(str).str.contains("not defined, because").all(), name
        assert np.isfinite(table[columns].astype(float).to_numpy()[~missing]).all()
    pooled = found["regression"]
    assert pooled.loc[pooled["odds_ratio"].isna(), "note"].astype(str).str.contains("not defined, because").all()


def edge_cases() -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    values, answers = simulate(6, 40, 3, effect=0.5, seed=7)
    values = values.astype({"language": str})
    one = values["language"].iloc[0]
    no_tf = answers.copy()
    right = no_tf["language"] == one
    no_tf["correct"] = no_tf["correct"].where(~right, 1)
    no_tf["prediction"] = no_tf["prediction"].where(~right, no_tf["gold"])
    two = [one, values["language"].iloc[-1], ENGLISH]
    optional = ["loglikelihoods", "prompt_tokens", "item_tokens", "option_similarity", "english_overlap", "category"]
    optional += ["correct_norm"]
    return {
        "plain": (values, answers),
        "no English": (values, answers[answers["language"] != ENGLISH]),
        "one language": (values[values["language"] == one], answers[answers["language"].isin([one, ENGLISH])]),
        "two languages": (values[values["language"].isin(two)], answers[answers["language"].isin(two)]),
        "no TF items": (values, no_tf),
        "all right": (values, answers.assign(correct=1, prediction=answers["gold"])),
        "all wrong": (values, answers.assign(correct=0, prediction=answers["gold"] + 1)),
        "never aligned": (values.assign(value=0), answers),
        "always aligned": (values.assign(value=1), answers),
        "no predictions": (values, answers.iloc[:0]),
        "no alignment": (values.iloc[:0], answers),
        "nothing": (values.iloc[:0], answers.iloc[:0]),
        "one item": (values[values["item_id"] == "item-0003"], answers[answers["item_id"] == "item-0003"]),
        "one layer": (values[values["layer"] == 1], answers),
        "no optional columns": (values.drop(columns="margin"), answers.drop(columns=optional)),
        "certain": (values, answers.assign(confidence=1.0)),
        "other items": (values, answers.assign(item_id=answers["item_id"] + "x")),
        "other layers": (values[(values["layer"] != 1) | (values["language"] != one)], answers),
    }


@pytest.mark.parametrize("case", edge_cases())
def test_edge_cases_say_what_is_not_defined(case: str) -> None:
    explained(everything(*edge_cases()[case]))


@pytest.mark.parametrize(
    ("case", "table", "says"),
    [
        ("no English", "instance_level", "English (eng_Latn) has no predictions for these items"),
        ("no English", "groups", "TS and TF not defined, because English (eng_Latn) has no predictions"),
        ("one language", "language_level", "there is only 1 language"),
        ("two languages", "language_level", "there are only 2 languages"),
        ("no TF items", "instance_level", "no item is right in English and wrong in"),
        ("all right", "language_level", "accuracy is the same (1.000) in all 6 languages"),
        ("all right", "regression", "all answers are right"),
        ("never aligned", "language_level", "alignment is the same (0.000) in all 6 languages"),
        ("never aligned", "instance_level", "none of these items are aligned"),
        ("never aligned", "confidence", "fewer than two items are aligned"),
        ("no predictions", "instance_level", "these items have no predictions"),
        ("no predictions", "regression", "there are no predictions for the task"),
        ("no TF items", "items_by_language", "no item is right in English and wrong in"),
        ("never aligned", "items_by_language", "none of the items are aligned"),
        ("never aligned", "items_pooled", "the pooled odds ratio is zero or infinite, or there are no items"),
        ("one language", "same_item", "fewer than two languages have answers to the same items"),
        ("always aligned", "same_item", "fewer than 20 items differ between languages"),
        ("one item", "items_pooled", "fewer than 8 clusters of items can be permuted"),
        ("one item", "regression", "clusters of items are too few for clustered errors"),
        ("no optional columns", "language_level", "the tables have no item_tokens"),
        ("no optional columns", "regression", "fertility is not known for 240 answers"),
    ],
)
def test_reasons(case: str, table: str, says: str) -> None:
    notes = everything(*edge_cases()[case])[table]["note"]
    assert notes.str.contains(says, regex=False).any(), notes.unique()


def test_contradicting_rows_are_an_error_and_rounding_is_outvoted() -> None:
    values, answers = simulate(3, 100, 3, seed=1)
    flipped = values.assign(value=1 - values["value"])
    with pytest.raises(InputError, match=r"contradict each other: of 900 alignment rows .* 900 differ, such as"):
        analysis.join(pd.concat([values, flipped]), answers)
    wrong = answers.assign(prediction=(answers["prediction"] + 1) % 4)
    with pytest.raises(InputError, match="contradict each other: of 400 predictions rows"):
        analysis.join(values, pd.concat([answers, wrong]))
    noisy = values.copy()
    noisy.loc[noisy.index[::200], "value"] = 1 - noisy["value"]
    for order in itertools.permutations([values, values, noisy]):
        study = analysis.join(pd.concat(order), answers)
        assert "5 of them differ between runs" in study.notes[0]
        pd.testing.assert_frame_equal(analysis.tally(study), analysis.tally(analysis.join(values, answers)))


def test_an_item_that_was_not_answered_stays_in_its_passage() -> None:
    table = pd.DataFrame(
        [
            ("t", "swh", "a", "p1"),
            ("t", "spa", "a", None),  # aligned, but not answered
            ("t", "spa", "b", "p1"),
            ("t", "spa", "c", None),  # known nowhere
            ("other", "spa", "a", None),  # of another task
        ],
        columns=["task", "language", "item_id", "cluster"],
    )
    assert analysis.clusters(table).tolist() == ["p1", "p1", "p1", "c", "a"]
    assert analysis.clusters(table.astype({"task": "category", "item_id": "category"})).tolist()[:3] == ["p1"] * 3
    assert analysis.clusters(table.drop(columns="cluster")).tolist() == ["a", "a", "b", "c", "a"]
    assert analysis.clusters(table.assign(cluster=None)).tolist() == ["a", "a", "b", "c", "a"]
