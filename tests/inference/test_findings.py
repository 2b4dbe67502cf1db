"""Permutations, resampling, item strata, chance and verdicts against oracles and literal loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from numpy.typing import NDArray
from statsmodels.discrete.conditional_models import ConditionalLogit
from statsmodels.stats.contingency_tables import StratifiedTable
from test_analysis_simulated import simulate

from align_pipeline.inference import findings, permutation, resampling, same_item, verdicts
from align_pipeline.inference import study as analysis
from align_pipeline.inference.arrays import Bundle
from align_pipeline.measurements.alignment.table import BASELINES


def made(
    n: int = 60, u: int = 4, k: int = 3, size: int = 1, seed: int = 0, missing: float = 0.0, effect: float = 0.0
) -> Bundle:
    """A bundle of n items in clusters of `size`, u languages and k layers."""
    rng = np.random.default_rng(seed)
    right = (rng.random((n, u)) < 0.6).astype(np.float32)
    aligned = (rng.random((n, u, k)) < 0.4 + effect * right[:, :, None]).astype(np.float32)
    english = np.repeat((rng.random((n, 1)) < 0.8).astype(np.float32), u, axis=1)
    right[rng.random((n, u)) < missing] = np.nan
    aligned[rng.random((n, u)) < missing] = np.nan
    share = np.nanmean(aligned, axis=0)
    return Bundle(
        ("m", "t", "dali", "last"),
        np.arange(n).astype(str),
        rng.permutation(np.arange(n) // size),
        tuple((f"q{chr(97 + i)}a_Latn", "eng_Latn") for i in range(u)),
        np.arange(k),
        np.ones(k, bool),
        share.argmax(axis=1),
        aligned,
        right,
        english,
    )


# ------------------------------------------------------------------------------------------------------- permutations


def test_permutations_move_whole_clusters_among_clusters_of_one_size() -> None:
    rng = np.random.default_rng(0)
    cluster = rng.permutation(np.repeat(np.arange(20), [1] * 6 + [2] * 8 + [3] * 6))
    drawn = permutation.permutations(cluster, 200, rng)
    assert drawn is not None
    moved = False
    for order in drawn:
        assert sorted(order) == list(range(len(cluster)))
        for one in range(20):
            members = np.flatnonzero(cluster == one)
            goes = {int(c) for c in cluster[order[members]]}
            assert len(goes) == 1  # all of a cluster's answers come from one cluster
            source = goes.pop()
            assert (cluster == source).sum() == len(members)
            moved |= source != one
    assert moved


def test_too_few_clusters_are_not_permuted() -> None:
    rng = np.random.default_rng(0)
    assert permutation.permutations(np.arange(permutation.MIN_CLUSTERS - 1), 10, rng) is None
    assert permutation.permutations(np.repeat(np.arange(20), np.arange(1, 21)), 10, rng) is None


def literal_z(
    aligned: NDArray[np.float32], right: NDArray[np.float32], english: NDArray[np.float32], cluster: NDArray[np.int64]
) -> float:
    """The statistic of some languages [N, U] at one layer, by loops over items; the alignments are centred already."""
    sums: dict[int, float] = {}
    for u in range(aligned.shape[1]):
        ts = [i for i in range(len(aligned)) if english[i, u] == 1 and not math.isnan(right[i, u])]
        mean = sum(right[i, u] for i in ts) / len(ts)
        for i in ts:
            sums[int(cluster[i])] = sums.get(int(cluster[i]), 0.0) + float(aligned[i, u] * (right[i, u] - mean))
    return sum(sums.values()) / math.sqrt(sum(v * v for v in sums.values()))


def test_tests_count_the_items_that_are_right_in_english() -> None:
    data = made(n=60, size=3, seed=2, missing=0.1)
    drawn = resampling.weights(data.cluster, 10, np.random.default_rng(0))
    rows = list(findings._pooled(data, permutation.run(data, count=10), drawn))
    known = ~np.isnan(data.right) & ~np.isnan(data.aligned[:, :, 0]) & (data.english == 1)
    used = [i for i in range(60) if known[i].any()]
    assert len(used) < 60
    for row in rows:
        assert (row["n_items"], row["n_languages"]) == (len(used), 4)
        assert row["n_clusters"] == len({data.cluster[i] for i in used})
    data.english[:30] = 0
    known[:30] = False
    for u, row in enumerate(findings._by_language(data, permutation.run(data, count=10), drawn, 0)):
        assert row["n_ts"] + row["n_tf"] == known[:, u].sum()
        assert row["n_clusters"] == len({data.cluster[i] for i in range(60) if known[i, u]}) < 20


@pytest.mark.parametrize("wrong", [1, 8, 70])
def test_permutations_with_the_same_statistic_are_ties(wrong: int) -> None:
    """With few wrong answers there are few different statistics; rounding must not tell equal ones apart."""
    data = made(n=240, u=2, k=2, seed=1)
    rng = np.random.default_rng(wrong)
    data.right[:], data.english[:] = 1, 1
    data.right[rng.permutation(240)[:wrong]] = 0
    data.aligned[:] = rng.random(data.aligned.shape) < 0.06
    test = permutation.run(data, count=300, seed=4)
    drawn = permutation.permutations(data.cluster, 300, np.random.default_rng(4))
    assert test is not None
    assert drawn is not None
    for u in range(2):
        a = data.aligned[:, u, data.best[u]].astype(float)
        y = data.right[:, u].astype(float) - data.right[:, u].mean(dtype=float)
        each = [(a - a.mean()) * y[order] for order in [np.arange(240), *drawn]]
        size = np.array([abs(math.fsum(one)) / math.sqrt(math.fsum(one**2)) for one in each])
        assert test.p[u] == pytest.approx((size >= size[0] - 1e-9).mean())


@pytest.mark.parametrize("size", [1, 3])
def test_statistics_and_p_are_those_of_loops(size: int) -> None:
    data = made(n=24, u=3, k=4, size=size, seed=5, effect=0.2)
    seed, count = 3, 60
    test = permutation.run(data, count=count, seed=seed)
    assert test is not None
    drawn = permutation.permutations(data.cluster, count, np.random.default_rng(seed))
    assert drawn is not None
    values = permutation.centred(data.aligned, permutation.residuals(data) != 0)
    orders = [np.arange(24), *drawn]

    def loops(units: list[int], layer: int | NDArray[np.int64]) -> list[float]:
        part = values[:, units, layer] if isinstance(layer, int) else values[:, units, layer[units]]
        return [literal_z(part, data.right[o][:, units], data.english[o][:, units], data.cluster) for o in orders]

    every = [0, 1, 2]
    for u in every:
        z = np.array([loops([u], k) for k in range(4)])
        assert test.z[u] == pytest.approx(z[:, 0], rel=1e-4)
        largest = np.abs(z).max(axis=0)
        assert test.p_somewhere[u] == pytest.approx((largest >= largest[0] - 1e-5).mean())
    z = np.array([loops(every, k) for k in range(4)])
    assert test.pooled_z == pytest.approx(z[:, 0], rel=1e-4)
    largest = np.abs(z).max(axis=0)
    assert test.pooled_p_somewhere == pytest.approx((largest >= largest[0] - 1e-5).mean())
    best = np.abs(loops(every, data.best))
    assert test.best_p == pytest.approx((best >= best[0] - 1e-5).mean())


def test_the_numerator_is_that_of_cochran_mantel_haenszel() -> None:
    data = made(n=80, u=3, k=1, seed=2)
    answers, values = permutation.residuals(data), data.aligned[:, :, 0]
    tables = []
    for u in range(3):
        known = data.english[:, u] == 1
        a, y = values[known, u], data.right[known, u]
        tables.append(
            [
                [((a == 1) & (y == 1)).sum(), ((a == 1) & (y == 0)).sum()],
                [((a == 0) & (y == 1)).sum(), ((a == 0) & (y == 0)).sum()],
            ]
        )
    oracle = StratifiedTable([np.array(t, float) for t in tables])
    numerator = float((permutation.centred(values, answers != 0) * answers).sum())
    variance = sum(
        np.prod([*np.sum(t, axis=0), *np.sum(t, axis=1)]) / (np.sum(t) ** 2 * (np.sum(t) - 1)) for t in tables
    )
    assert numerator**2 / variance == pytest.approx(oracle.test_null_odds().statistic, rel=1e-4)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_relabelling_and_order_change_nothing_but_the_draws(missing: float) -> None:
    data = made(seed=4, missing=missing)
    one = permutation.run(data, count=50)
    assert one is not None
    flipped = Bundle(**{**vars(data), "aligned": 1 - data.aligned})
    other = permutation.run(flipped, count=50)
    assert other is not None
    assert other.z == pytest.approx(-one.z, rel=1e-3, abs=1e-4)
    assert other.p == pytest.approx(one.p, abs=0.021)


# --------------------------------------------------------------------------------------------------------- resampling


def test_odds_ratio_and_difference_are_statsmodels_and_counts() -> None:
    data = made(n=90, u=5, seed=6, missing=0.1)
    counts = resampling.counts(data, data.aligned[:, :, 1], np.ones((1, 90), np.float32))
    tables = [
        np.array([[k_a, n_a - k_a], [k_b, n_b - k_b]])
        for k_a, n_a, k_b, n_b in zip(*(c[0] for c in counts), strict=True)
    ]
    oracle = StratifiedTable(tables)
    assert math.exp(resampling.odds_ratio(*counts)[0]) == pytest.approx(oracle.oddsratio_pooled)
    rows = pd.DataFrame({"a": data.aligned[:, 2, 1], "y": data.right[:, 2], "e": data.english[:, 2]}).dropna()
    shares = rows[rows["e"] == 1].groupby("y")["a"].mean()
    assert resampling.difference(*counts)[0, 2] == pytest.approx(shares[1] - shares[0])


def test_clusters_are_drawn_whole_and_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    cluster = np.arange(40) // 4
    drawn = resampling.weights(cluster, 300, rng)
    assert (drawn[0] == 1).all()
    assert (drawn.sum(axis=1) == 40).all()
    assert all((drawn[:, cluster == c] == drawn[:, [4 * c]]).all() for c in range(10))
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=50)[:, None] + 0.3 * rng.normal(size=(50, 4))  # clusters of four alike
        cluster = np.repeat(np.arange(50), 4)
        drawn = resampling.weights(cluster, 400, rng)
        low, high = resampling.interval((drawn @ values.ravel() / 200)[:, None], 50)
        hits += bool(low[0] <= 0 <= high[0])
    assert hits / 300 == pytest.approx(0.94, abs=0.035)


def test_few_clusters_have_no_interval() -> None:
    low, high = resampling.interval(np.ones((20, 2)), resampling.MIN_CLUSTERS - 1)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_a_cross_fitted_share_is_not_optimistic() -> None:
    """All layers alike at .3: the highest share is above that, the cross-fitted one is not."""
    highest, fitted = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        data = made(n=100, u=3, k=20, seed=seed)
        data = Bundle(**{**vars(data), "aligned": (rng.random((100, 3, 20)) < 0.3).astype(np.float32)})
        highest.append(data.aligned.mean(axis=0).max(axis=1).mean())
        fitted.append(resampling.cross_fitted(data)[0].mean())
    assert np.mean(highest) > 0.36
    assert np.mean(fitted) == pytest.approx(0.3, abs=0.01)


# ---------------------------------------------------------------------------------------------------------- same item


def long(data: Bundle) -> pd.DataFrame:
    n, u = data.right.shape
    item, language = np.divmod(np.arange(n * u), u)
    table = pd.DataFrame({"item": item, "language": language, "cluster": data.cluster[item]})
    table["y"], table["x"] = data.right.ravel(), data.at_best.ravel()
    return table.dropna()


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_the_linear_form_is_a_regression_with_dummies(missing: float) -> None:
    data = made(n=60, u=4, size=2, seed=7, missing=missing, effect=0.2)
    table = long(data)
    table = table[table.groupby("item")["y"].transform("size") > 1]
    fit = smf.ols("y ~ x + C(item) + C(language)", table).fit()
    clusters = table["cluster"].nunique()
    found = same_item.linear(data)
    assert found.value == pytest.approx(fit.params["x"])
    rest = {c: smf.ols(f"{c} ~ C(item) + C(language)", table).fit().resid for c in "xy"}
    without = []
    for cluster in table["cluster"].unique():
        kept = table["cluster"] != cluster
        without.append((rest["x"] * rest["y"])[kept].sum() / (rest["x"] ** 2)[kept].sum())
    error = math.sqrt((clusters - 1) / clusters * sum((one - found.value) ** 2 for one in without))
    assert (found.high - found.low) / 2 == pytest.approx(same_item.stats.t.ppf(0.975, clusters - 1) * error)
    assert (found.n, found.n_items, found.n_clusters) == (len(table), table["item"].nunique(), clusters)


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_the_conditional_regression_is_that_of_statsmodels(missing: float) -> None:
    data = made(n=120, u=5, seed=8, missing=missing, effect=0.2)
    table = long(data)
    mean = table.groupby("item")["y"].transform("mean")
    table = table[(mean > 0) & (mean < 1)]
    design = np.column_stack([table["x"], pd.get_dummies(table["language"], drop_first=True, dtype=float)])
    model = ConditionalLogit(table["y"].to_numpy(), design, groups=table["item"].to_numpy())
    fit = model.fit(disp=0, method="bfgs", gtol=1e-8)
    found = same_item.conditional_logit(data)
    assert found.value == pytest.approx(fit.params[0], abs=2e-4)
    half = (found.high - found.low) / 2 / same_item.stats.t.ppf(0.975, found.n_clusters - 1)
    assert half == pytest.approx(fit.bse[0], rel=0.2)  # clustered against the model's own


def test_the_clustered_error_is_nearly_that_of_leaving_out_each_cluster() -> None:
    data = made(n=80, u=4, size=2, seed=9, effect=0.2)
    table = long(data)
    mean = table.groupby("item")["y"].transform("mean")
    table = table[(mean > 0) & (mean < 1)]

    def slope(rows: pd.DataFrame) -> float:
        design = np.column_stack([rows["x"], pd.get_dummies(rows["language"], drop_first=True, dtype=float)])
        model = ConditionalLogit(rows["y"].to_numpy(), design, groups=rows["item"].to_numpy())
        return float(model.fit(disp=0, method="bfgs", gtol=1e-8).params[0])

    clusters = table["cluster"].unique()
    without = np.array([slope(table[table["cluster"] != one]) for one in clusters])
    expected = math.sqrt((len(clusters) - 1) / len(clusters) * ((without - slope(table)) ** 2).sum())
    found = same_item.conditional_logit(data)
    error = (found.high - found.low) / 2 / same_item.stats.t.ppf(0.975, found.n_clusters - 1)
    assert error == pytest.approx(expected, rel=0.05)


# ------------------------------------------------------------------------------------------------ chance and verdicts

EMPTY = pd.DataFrame(columns=[f.name for f in BASELINES])


def test_chance_is_the_mean_of_the_baselines_and_its_error_is_clustered() -> None:
    alignment, predictions = simulate(3, 60, 4, seed=1)
    rng = np.random.default_rng(0)
    base = alignment.drop(columns=["margin"]).astype({"language": str, "item_id": str})
    base["cluster"] = [f"c{int(i[-4:]) // 3}" for i in base["item_id"]]
    base["kind"], base["n"], base["value"] = "mismatched", 10, rng.random(len(base)).round(1)
    other = base.assign(kind="deranged", value=0.25)
    fewer = base.assign(kind="common_n", n=100, value=0.5)
    study = analysis.join(alignment, predictions)
    cells = analysis.tally(study)
    tested = findings.findings(study, cells, count=19).items_by_language
    found = findings.chance(study, cells, pd.concat([base, other, fewer]).sample(frac=1, random_state=1), tested)
    assert found["deranged"].eq(0.25).all()
    assert found["common_n"].eq(100).all()
    assert found["at_common_n"].eq(0.5).all()
    means = base.groupby(["language", "layer"])["value"].mean()
    for row in found.itertuples():
        assert row.chance == pytest.approx(means[row.language, row.layer])
        assert row.above == pytest.approx(row.share - row.chance)
    row = found.iloc[5]
    own = base[(base["language"] == row["language"]) & (base["layer"] == row["layer"])]
    value = alignment[(alignment["language"] == row["language"]) & (alignment["layer"] == row["layer"])]
    own = own.merge(value.astype({"item_id": str})[["item_id", "value"]], on="item_id", suffixes=("", "_own"))
    own["difference"] = own["value_own"] - own["value"]
    groups = {"groups": own["cluster"], "use_correction": False}
    fit = smf.ols("difference ~ 1", own).fit(cov_type="cluster", cov_kwds=groups)
    clusters = own["cluster"].nunique()
    reach = same_item.stats.t.ppf(0.975, clusters - 1) * fit.bse["Intercept"] * math.sqrt(clusters / (clusters - 1))
    assert row["high"] - row["above"] == pytest.approx(reach)
    best = found[found["best_layer"]]
    assert best["cross_fitted"].notna().all()
    assert found.loc[~found["best_layer"].astype(bool), "cross_fitted"].isna().all()


def test_shares_are_cross_fitted_without_answers_too() -> None:
    """Of a task such as FLORES: the same numbers as with answers, since these play no part."""
    alignment, predictions = simulate(3, 60, 4, seed=2)
    found = []
    for answered in (predictions, predictions.iloc[:0]):
        study = analysis.join(alignment, answered)
        cells = analysis.tally(study)
        tested = findings.findings(study, cells, count=19).items_by_language
        chances = findings.chance(study, cells, EMPTY, tested)
        found.append(chances["cross_fitted"])
    assert found[0].notna().sum() == 3
    assert found[1].tolist() == pytest.approx(found[0].tolist(), nan_ok=True)


@pytest.mark.parametrize(
    ("effect", "low", "high", "p", "unit", "says"),
    [
        (1.5, 1.2, 1.9, 0.001, "odds ratio", "supported"),
        (0.6, 0.4, 0.9, 0.001, "odds ratio", "ruled_out"),
        (1.1, 0.9, 1.3, 0.3, "odds ratio", "ruled_out"),
        (1.2, 0.8, 1.9, 0.4, "odds ratio", "undecided"),
        (0.7, 0.1, 0.95, 0.2, "correlation", "undecided"),
        (0.0, -0.2, 0.2, 0.9, "correlation", "ruled_out"),
        (0.01, -0.02, 0.04, 0.5, "share of right answers", "ruled_out"),
        (0.03, -0.02, 0.08, 0.5, "share of right answers", "undecided"),
        (np.nan, np.nan, np.nan, np.nan, "correlation", ""),
    ],
)
def test_verdicts_by_rule(effect: float, low: float, high: float, p: float, unit: str, says: str) -> None:
    row = pd.DataFrame([{"effect": effect, "low": low, "limit": high, "p": p, "p_adjusted": p, "unit": unit}])
    assert verdicts.verdict(next(row.itertuples())) == says


def test_somewhere_is_ruled_out_only_if_every_layer_is() -> None:
    """The strongest layer may speak against the question and another one leave it open."""
    alignment, predictions = simulate(6, 300, 4, effect=-0.7, item_spread=0.0, seed=11)
    rng = np.random.default_rng(0)
    one = alignment["layer"] == 1
    free = alignment.assign(value=alignment["value"].where(~one, (rng.random(len(alignment)) < 0.01).astype(np.int8)))
    found = {}
    for name, table in (("against", alignment), ("one open", free)):
        study = analysis.join(table, predictions)
        cells = analysis.tally(study)
        tested = findings.findings(study, cells, count=200)
        (somewhere,) = tested.items_pooled[tested.items_pooled["at"] == "somewhere"].to_dict("records")
        layers = tested.items_pooled[(tested.items_pooled["at"] == "layer") & (tested.items_pooled["layer"] < 3)]
        assert somewhere["odds_ratio"] < 1
        assert somewhere["high_layers"] == pytest.approx(layers["high_layers"].max(skipna=False), nan_ok=True)
        level = findings_level(study, cells)
        rows = verdicts.verdicts(level, tested, findings.chance(study, cells, EMPTY, tested.items_by_language))
        found[name] = rows.loc[rows["question"] == "items_somewhere", "verdict"].item()
    assert found == {"against": "ruled_out", "one open": "undecided"}


def test_every_test_of_a_task_is_in_one_family() -> None:
    from statsmodels.stats.multitest import multipletests

    study = analysis.join(*simulate(5, 80, 4, (("dali", "last"), ("mexa_t", "weighted")), effect=0.5, seed=2))
    cells = analysis.tally(study)
    found = findings.findings(study, cells, count=200)
    level = findings_level(study, cells)
    table = verdicts.verdicts(
        level,
        found,
        findings.chance(study, cells, EMPTY, found.items_by_language),
    )
    assert list(table.columns) == verdicts.VERDICTS
    assert len(table) == 8
    assert set(table["question"]) == set(verdicts.QUESTIONS)
    assert table["p_adjusted"].to_numpy() == pytest.approx(multipletests(table["p"], method="holm")[1])


def findings_level(study: analysis.Study, cells: pd.DataFrame) -> pd.DataFrame:
    from align_pipeline.inference import languages

    return languages.language_level(analysis.points(study, cells))
