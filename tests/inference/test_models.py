"""Several models on one task: every number against plain loops or another library; error rates without a difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats as sps
from statsmodels.stats.multitest import multipletests

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference import findings, languages, models, resampling, study

LANGUAGES = ("swh_Latn", "tur_Latn", "tam_Taml", "est_Latn", "vie_Latn")
SIZES = {"small": (4, 100), "big": (7, 900), "third": (5, None)}
Floats = NDArray[np.float64]


def tables(model: str, layers: int, seed: int, better: float, items: range) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Alignment and answers to items in passages of two; one English set for all languages."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:03d}" for i in items]
    about = {"model": model, "task": "t", "pivot": "eng"}
    answers, rows = [], []
    for u, language in enumerate((*LANGUAGES, ENGLISH)):
        right = rng.random(len(ids)) < 0.4 + 0.05 * u + better
        own = {"language": language, "item_id": ids, "gold": 0, "prediction": np.where(right, 0, 1)}
        own |= {"correct": right.astype(np.int8), "confidence": 0.5, "cluster": [f"p{i // 2}" for i in items]}
        answers.append(pd.DataFrame(about | own))
        for layer in range(layers + 1) if language != ENGLISH else ():
            share = 0.3 + 0.1 * u * (layer == layers // 2) + 0.2 * (layer == layers)  # the last one does not count
            value = (rng.random(len(ids)) < share + better).astype(np.int8)
            key = {"language": language, "metric": "dali", "pooling": "last", "layer": layer, "item_id": ids}
            rows.append(pd.DataFrame(about | key | {"value": value}))
    return pd.concat(rows), pd.concat(answers)


@pytest.fixture(scope="module")
def joined() -> tuple[study.Study, pd.DataFrame, dict[str, models.Model]]:
    """Three models with different depths; the third lacks a language, and some items."""
    parts = []
    for i, (name, (layers, _)) in enumerate(SIZES.items()):
        alignment, predictions = tables(name, layers, i, 0.1 * (name == "big"), range(20 * (name == "third"), 90))
        if name == "third":
            alignment, predictions = (t[t["language"] != "est_Latn"] for t in (alignment, predictions))
        parts.append((alignment, predictions))
    both = [pd.concat(one) for one in zip(*parts, strict=True)]
    found = study.join(both[0], both[1], {name: layers for name, (layers, _) in SIZES.items()})
    known = {n: models.Model(n, size, None, layers) for n, (layers, size) in SIZES.items() if n != "third"}
    return found, study.tally(found), known


# ----------------------------------------------------------------------------------------------- what summaries tell


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step1000", 1000),
        ("checkpoint-500", 500),
        ("global_step10k", 10_000),
        ("stage1-step150-tokens1B", 150),
        ("ckpt_7", 7),
        ("iter0", 0),
        ("main", None),
        ("v1.0", None),
        ("step2vec", None),
        ("0123abcd" * 5, None),
    ],
)
def test_the_step_is_in_the_name_of_a_checkpoint(name: str, step: int | None) -> None:
    assert models.step_of(name) == step


def test_models_are_described_by_their_summaries() -> None:
    def told(model: str, path: str, revision: str | None = None, **more: Any) -> dict[str, Any]:
        return {"model": model, "config": {"model": {"path": path, "revision": revision}}, **more}

    summaries = [
        told("pythia@step512", "EleutherAI/pythia-70m", "step512", parameters=70, num_layers=6),
        told("pythia@step64", "EleutherAI/pythia-70m", "step64", parameters=70),
        told("pythia@step64", "EleutherAI/pythia-70m", "step64", num_layers=6),  # of another language
        told("step10", "runs/a/step10/", parameters=5),
        told("old", "org/model"),
    ]
    found = models.described(summaries)
    assert found["pythia@step64"] == models.Model("pythia@step64", 70, "step64", 6, "EleutherAI/pythia-70m", 64)
    assert found["pythia@step512"].series == found["pythia@step64"].series
    assert found["step10"] == models.Model("step10", 5, None, None, "runs/a/*", 10)
    assert found["old"] == models.Model("old")
    order = [one.name for one in sorted(found.values(), key=lambda one: one.place)]
    assert order == ["step10", "pythia@step64", "pythia@step512", "old"]


# ------------------------------------------------------------------------------------------------------ cross-fitting


def test_an_item_has_no_part_in_the_choice_of_its_layer() -> None:
    rng = np.random.default_rng(0)
    aligned = (rng.random((14, 3, 5)) < 0.4).astype(float)
    aligned[rng.random(aligned.shape) < 0.15] = np.nan
    aligned[:, 2] = np.nan
    cluster = rng.permutation(np.arange(14) // 2)
    masks = resampling.halves(cluster, 6, np.random.default_rng(1))
    found = resampling.cross_fitted_items(aligned, masks)
    for i in range(14):
        for u in range(3):
            for s, mask in enumerate(masks):
                if mask[i]:
                    continue
                shares = [
                    np.mean([aligned[j, u, k] for j in range(14) if mask[j] and not np.isnan(aligned[j, u, k])] or [-1])
                    for k in range(5)
                ]
                value = aligned[i, u, int(np.argmax(shares))] if max(shares) >= 0 else np.nan
                assert found[i, u, s // 2] == pytest.approx(value, nan_ok=True)


# ------------------------------------------------------------------------------------------------------- differences


def test_differences_are_of_the_same_items(joined: tuple[study.Study, pd.DataFrame, dict[str, models.Model]]) -> None:
    own, cells, known = joined
    (of,) = models.compared(own, cells, known)
    assert [one.name for one in of.models] == ["small", "big", "third"]
    table = models.differences(of, "small")
    assert list(table) == models.DIFFERENCES
    assert set(table["model"]) == {"big", "third"}
    answers = own.predictions.set_index(["model", "language", "item_id"])["correct"]
    accuracy = table[table["quantity"] == "accuracy"].set_index(["model", "language"])
    assert len(accuracy) == (len(LANGUAGES) + 2) + (len(LANGUAGES) - 1 + 2)
    for (model, language), row in accuracy.iterrows():
        if language == models.MEAN:
            continue
        both = pd.concat([answers["small", language], answers[model, language]], axis=1, join="inner").to_numpy(float)
        ids = answers["small", language].index.intersection(answers[model, language].index)
        passages = np.array([int(i) // 2 for i in ids])
        fit = sm.OLS(both[:, 1] - both[:, 0], np.ones(len(both))).fit(
            cov_type="cluster", cov_kwds={"groups": passages, "use_correction": True}, use_t=True
        )
        expected = [both[:, 0].mean(), both[:, 1].mean(), fit.params[0], *fit.conf_int()[0], fit.pvalues[0]]
        got = row[["of_reference", "of_model", "difference", "low", "high", "p"]].to_list()
        assert got == pytest.approx(expected), (model, language)
        assert (row["n"], row["n_clusters"]) == (len(both), len(set(passages)))


def test_the_mean_over_languages_is_of_the_languages_of_both(
    joined: tuple[study.Study, pd.DataFrame, dict[str, models.Model]],
) -> None:
    own, cells, known = joined
    (of,) = models.compared(own, cells, known)
    table = models.differences(of, "small")
    single = table[~table["language"].isin([models.MEAN, ENGLISH])]
    means = table[table["language"] == models.MEAN].set_index(["model", "quantity"])
    for key, rows in single.groupby(["model", "quantity"]):
        assert means.loc[key, "difference"] == pytest.approx(rows["difference"].mean())
        assert len(rows) == len(LANGUAGES) - (key[0] == "third")
    d = of.right["big"][:, :, 0] - of.right["small"][:, :, 0]
    d = d[:, [u for u, unit in enumerate(of.units) if unit[0] != ENGLISH]].mean(axis=1)  # no answer is missing
    fit = sm.OLS(d, np.ones(len(d))).fit(cov_type="cluster", cov_kwds={"groups": of.cluster}, use_t=True)
    row = means.loc["big", "accuracy"]
    assert [row["low"], row["high"], row["p"]] == pytest.approx([*fit.conf_int()[0], fit.pvalues[0]])


def test_a_mean_over_languages_that_have_different_items_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    old, new = ((rng.random((40, 3)) < share).astype(float) for share in (0.5, 0.6))
    old[:7, 0] = new[30:, 1] = new[4:9, 2] = np.nan
    cluster = np.arange(40) // 4
    found = models.over_splits(old[:, :, None], new[:, :, None], cluster)
    means, parts = [], dict.fromkeys(range(10), 0.0)
    for u in range(3):
        items = [i for i in range(40) if not np.isnan(old[i, u]) and not np.isnan(new[i, u])]
        mean = sum(new[i, u] - old[i, u] for i in items) / len(items)
        means.append(mean)
        for i in items:
            parts[cluster[i]] += (new[i, u] - old[i, u] - mean) / len(items) / 3
    error = np.sqrt(10 / 9 * sum(part**2 for part in parts.values()))
    difference, reach = sum(means) / 3, sps.t.ppf(0.975, 9) * error
    assert (found["n"], found["n_clusters"]) == (40, 10)
    got = [found[name] for name in ("difference", "low", "high", "p")]
    expected = [difference, difference - reach, difference + reach, 2 * sps.t.sf(abs(difference) / error, 9)]
    assert got == pytest.approx(expected)


def test_without_variation_there_is_no_interval() -> None:
    found = models.over_splits(np.zeros((8, 2, 1)), np.ones((8, 2, 1)), np.arange(8) // 2)
    assert (found["before"], found["after"], found["difference"]) == (0, 1, 1)
    assert np.isnan([found["low"], found["high"], found["p"]]).all()
    assert found["note"].startswith("interval and p not defined, because the difference is the same in all clusters")


def test_holm_is_over_languages_and_over_models(
    joined: tuple[study.Study, pd.DataFrame, dict[str, models.Model]],
) -> None:
    own, cells, known = joined
    (of,) = models.compared(own, cells, known)
    table = models.differences(of, "small")
    pooled = table["pivot"] == ""
    families = [rows for _, rows in table[~pooled].groupby(["model", "quantity"])]
    families += [rows for _, rows in table[pooled].groupby(["quantity", "language"])]
    assert sorted(map(len, families)) == [2, 2, 2, 4, 4, 5, 5]
    for rows in families:
        assert rows["p_holm"].to_list() == pytest.approx(multipletests(rows["p"], method="holm")[1])


def test_alignment_is_compared_at_own_best_layers(
    joined: tuple[study.Study, pd.DataFrame, dict[str, models.Model]],
) -> None:
    own, cells, known = joined
    (of,) = models.compared(own, cells, known)
    at = of.aligned["dali", "last"]
    for model, (layers, _) in SIZES.items():
        part = own.blocks[model, "t", "dali", "last"]
        assert part.inner.sum() == layers
        unit = of.units.index(("tur_Latn", "eng"))
        rows = own.items.iloc[part.rows].reset_index(drop=True)
        values = part.values[rows.index[rows["language"] == "tur_Latn"]][:, :layers].astype(float)
        masks = resampling.halves(of.cluster, resampling.SPLITS, np.random.default_rng(0))
        expected = resampling.cross_fitted_items(values[:, None], masks[:, len(of.cluster) - len(values) :])[:, 0]
        got = at[model][:, unit]
        assert got[~np.isnan(got[:, 0])].tolist() == expected.tolist()
        assert np.isnan(got[:, 0]).sum() == len(of.cluster) - len(values)
    row = models.differences(of, "small").set_index(["quantity", "model", "language"]).loc["alignment", "big"]
    d = (at["big"][:, unit] - at["small"][:, unit]).astype(float)
    assert row.loc["tur_Latn", "difference"] == pytest.approx(d.mean())
    errors = []  # of each split, by another library
    for s in range(d.shape[1]):
        options = {"groups": of.cluster, "use_correction": True}
        errors.append(sm.OLS(d[:, s], np.ones(len(d))).fit(cov_type="cluster", cov_kwds=options, use_t=True).bse[0])
    error = np.sqrt(np.mean(np.square(errors)))
    reach = sps.t.ppf(0.975, len(set(of.cluster)) - 1) * error
    assert row.loc["tur_Latn", ["low", "high"]].to_list() == pytest.approx([d.mean() - reach, d.mean() + reach])
    p = 2 * sps.t.sf(abs(d.mean()) / error, len(set(of.cluster)) - 1)
    assert row.loc["tur_Latn", "p"] == pytest.approx(p)


def test_without_its_task_a_reference_is_compared_with_nothing(
    joined: tuple[study.Study, pd.DataFrame, dict[str, models.Model]],
) -> None:
    own, cells, known = joined
    (of,) = models.compared(own, cells, known)
    assert models.differences(of, "elsewhere").empty
    assert [one.name for one in next(iter(models.compared(own, cells, known, [("big", "t")]))).models] == [
        "small",
        "third",
    ]
    assert list(models.compared(own, cells, known, [("big", "t"), ("small", "t")])) == []


# ------------------------------------------------------------------------------------------------------- error rates


@pytest.mark.parametrize("depths", [(3, 3), (3, 30), (30, 30)])
def test_models_without_a_difference_rarely_have_one(depths: tuple[int, int]) -> None:
    """Every layer is equally good, so that the best one is uncertain; a deeper model has more of them to choose from,
    which must not look like more alignment."""
    rng = np.random.default_rng(sum(depths))
    cluster = np.arange(120) // 2
    masks = resampling.halves(cluster, 10, rng)
    p, naive, differences = [], [], []
    for _ in range(300):
        ease = rng.normal(0, 0.1, 60)[cluster, None, None]  # an item and its passage are as easy in both models
        sides = [(rng.random((120, 3, depth)) < 0.3 + ease).astype(float) for depth in depths]
        old, new = (resampling.cross_fitted_items(side, masks) for side in sides)
        row = models.over_splits(old, new, cluster)
        p.append(row["p"])
        differences.append(row["difference"])
        naive.append(sides[1].mean(axis=0).max(axis=1).mean() - sides[0].mean(axis=0).max(axis=1).mean())
    assert np.mean(np.array(p) < 0.05) < 0.075
    assert abs(np.mean(differences)) < 0.006
    assert (np.mean(naive) > 0.03) == (depths[1] > depths[0])


@pytest.mark.parametrize(("better", "least"), [(0.0, 0.0), (0.1, 0.9)])
def test_differences_of_answers_keep_their_level_and_are_found(better: float, least: float) -> None:
    rng = np.random.default_rng(3)
    cluster, p = np.arange(200) // 4, []
    for _ in range(300):
        ease = rng.normal(0, 0.15, 50)[cluster, None, None]
        sides = [(rng.random((200, 3, 1)) < 0.5 + ease + more).astype(float) for more in (0, better)]
        p.append(models.over_splits(*sides, cluster)["p"])
    share = np.mean(np.array(p) < 0.05)
    assert share >= least
    assert share == pytest.approx(0.05, abs=0.03) or better


# ---------------------------------------------------------------------------------------------------- a row per model


def test_a_model_has_a_row(joined: tuple[study.Study, pd.DataFrame, dict[str, models.Model]]) -> None:
    own, cells, known = joined
    (of,) = models.compared(own, cells, known)
    found = findings.findings(own, cells, count=99)
    chances = findings.chance(
        own, cells, pd.DataFrame(columns=["kind", *study.SERIES, "layer", "item_id"]), found.items_by_language
    )
    level = languages.language_level(study.points(own, cells))
    table = models.models(of, chances, level, found.same_item).set_index("model")
    assert list(table.reset_index()[models.MODELS]) == models.MODELS
    assert table["n_languages"].to_list() == [4, 4, 4]  # the third lacks one
    common = [language for language in LANGUAGES if language != "est_Latn"]
    answers = own.predictions.groupby(["model", "language"])["correct"].mean()
    r = level[(level["reduce"] == "max") & (level["grouping"] == "all")].set_index("model")
    linear = found.same_item[found.same_item["form"] == "linear"].set_index("model")
    best = cells[cells["best_layer"]].set_index(["model", "language"])["layer"]
    for model, (layers, size) in SIZES.items():
        row = table.loc[model]
        assert row["accuracy"] == pytest.approx(answers[model][common].mean())
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
        assert row["english_accuracy"] == pytest.approx(answers[model, ENGLISH])
        assert row["n"] == (70 if model == "third" else 90)
        assert (row["r"], row["r_p"]) == pytest.approx((r.loc[model, "pearson"], r.loc[model, "permutation_p"]))
        assert row["r_languages"] == (4 if model == "third" else 5)
        assert row["same_item"] == pytest.approx(linear.loc[model, "effect"])
        values = of.aligned["dali", "last"][model]
        assert row["alignment"] == pytest.approx(
            np.mean([np.nanmean(values[:, of.units.index((language, "eng"))].astype(float)) for language in common])
        )
        if size is not None:
            assert row["parameters"] == size
            assert row["depth"] == pytest.approx(np.mean([best[model, language] for language in common]) / layers)
    assert pd.isna(table.loc["third", "depth"])  # no summary says how many layers it has
    assert {str(table[name].dtype) for name in ("accuracy", "accuracy_low", "english_accuracy", "alignment")} == {
        "float64"
    }
    chances["share"] = chances["share"].where(chances["language"] != "tur_Latn", 0.0)  # no layer is its best
    again = models.models(of, chances, level, found.same_item).set_index("model")
    others = [best["big", language] for language in common if language != "tur_Latn"]
    assert again.loc["big", "depth"] == pytest.approx(np.mean(others) / SIZES["big"][0])
    assert table["r_p_holm"].to_list() == pytest.approx(multipletests(table["r_p"].astype(float), method="holm")[1])


def test_models_without_a_common_language_have_no_means() -> None:
    parts = [tables(name, 4, i, 0, range(30)) for i, name in enumerate(("a", "b"))]
    kept = (LANGUAGES[:2], LANGUAGES[2:])
    both = [
        pd.concat([t[t["language"].isin([*own, ENGLISH])] for t, own in zip(side, kept, strict=True)])
        for side in zip(*parts, strict=True)
    ]
    own = study.join(both[0], both[1])
    cells = study.tally(own)
    (of,) = models.compared(own, cells, {})
    none = pd.DataFrame(columns=["kind", *study.SERIES, "layer", "item_id"])
    found = findings.findings(own, cells, count=99)
    table = models.models(
        of,
        findings.chance(own, cells, none, found.items_by_language),
        languages.language_level(study.points(own, cells)),
        found.same_item,
    )
    assert table["accuracy"].isna().all()
    assert set(table["note"]) == {"means not defined, because no language is common to all models"}
    differ = models.differences(of, "a")
    assert set(differ["language"]) == {ENGLISH}
