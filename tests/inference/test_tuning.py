"""A base model against tuned versions: every number against literal loops; error rates of simulated tunings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as given_by
from numpy.typing import NDArray
from scipy import stats

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError
from align_pipeline.inference import mediation, tuning
from align_pipeline.inference.arrays import Bundle
from align_pipeline.inference.items import holm

LANGUAGES = ("aaa_Latn", "bbb_Latn", "ccc_Latn", "ddd_Latn")
TRAINED = LANGUAGES[:3]
Floats = NDArray[np.float64]


def version(preset: str, seed: int, role: str = "treatment", languages: tuple[str, ...] = TRAINED) -> tuning.Version:
    return tuning.Version(f"m+{preset}-seed{seed}", "m", preset, role, languages, str(seed), {}, {"t": 3 * seed})


PRESETS = [
    tuning.Preset("good", (version("good", 0), version("good", 1))),
    tuning.Preset("placebo", (version("placebo", 0, "placebo"),)),
]


def made(seed: int = 0, n: int = 80, missing: float = 0.1) -> tuning.Pairs:
    """Answers in four languages with one English set per language, passages of three items."""
    rng = np.random.default_rng(seed)
    units = sorted([(one, f"to-{one[:3]}") for one in LANGUAGES] + [(ENGLISH, f"to-{one[:3]}") for one in LANGUAGES])
    ease = rng.uniform(-0.3, 0.3, (n, 1))
    right = {}
    for i, name in enumerate(("m", *(one.model for preset in PRESETS for one in preset.versions))):
        right[name] = (rng.random((n, len(units))) < 0.5 + ease + 0.05 * i).astype(float)
        right[name][rng.random(right[name].shape) < missing] = np.nan
    return tuning.Pairs("m", "t", PRESETS, rng.permutation(np.arange(n) // 3), units, right)


# ----------------------------------------------------------------------------------------------------------- summaries


def told(**more: Any) -> dict[str, Any]:
    about = {"name": "x-seed0", "base": "m", "preset": "x", "role": "treatment", "method": "lora", "seed": 0}
    return {"languages": ["aaa_Latn"], "steps": 10, "data": "d", "overlap": 2, **about, **more}


def test_versions_are_read_from_summaries_and_base_models_are_not_versions() -> None:
    summaries = [
        {"model": "m", "task": "t", "tuned": None},
        {"model": "other", "task": "t"},
        *({"model": "m+x", "task": task, "tuned": told(overlap=k)} for task, k in (("t", 2), ("t", 5), ("u", 0))),
    ]
    (one,) = tuning.versions(summaries)
    assert (one.model, one.base, one.preset, one.seed) == ("m+x", "m", "x", "0")
    assert one.overlap == {"t": 5, "u": 0}
    assert tuning.versions(summaries[:2]) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"role": "cure"}, r"tuned\.role=cure, which is not one of treatment, placebo, baseline"),
        ({"base": None}, r"The summary\.json of m\+x has no tuned\.base; run the job again"),
    ],
)
def test_a_summary_that_does_not_say_enough_is_named(change: dict[str, Any], says: str) -> None:
    about = {key: value for key, value in (told() | change).items() if value is not None}
    with pytest.raises(InputError, match=says):
        tuning.versions([{"model": "m+x", "tuned": about}])


def test_seeds_are_one_preset_and_other_settings_another() -> None:
    settings_of = [("a", {"steps": 10}), ("b", {"steps": 10, "seed": 1}), ("c", {"steps": 20}), ("d", {"preset": "y"})]
    summaries = [{"model": name, "task": "t", "tuned": told(**more)} for name, more in settings_of]
    found = tuning.presets(tuning.versions(summaries))
    members = {preset.name: [one.model for one in preset.versions] for preset in found}
    assert members == {"x (steps 10)": ["a", "b"], "x (steps 20)": ["c"], "y": ["d"]}
    roles = [told(preset=name, role=role) for name, role in (("b", "baseline"), ("p", "placebo"), ("t", "treatment"))]
    every = tuning.versions([{"model": str(i), "tuned": one} for i, one in enumerate(roles)])
    assert [preset.role for preset in tuning.presets(every)] == ["treatment", "placebo", "baseline"]


# ------------------------------------------------------------------------------------------------------------ accuracy


def by_hand(before: Floats, after: Floats, cluster: Any) -> tuple[float, float, float]:
    """Difference, standard error and clusters of two [N, U] arrays, with loops."""
    n, u = before.shape
    means = [
        np.mean(
            [
                after[i, k] - before[i, k]
                for i in range(n)
                if after[i, k] == after[i, k] and before[i, k] == before[i, k]
            ]
        )
        for k in range(u)
    ]
    sums: dict[int, float] = {}
    for i in range(n):
        for k in range(u):
            count = sum(not np.isnan(after[j, k] - before[j, k]) for j in range(n))
            differs = after[i, k] - before[i, k]
            if not np.isnan(differs):
                sums[cluster[i]] = sums.get(cluster[i], 0.0) + (differs - means[k]) / count / u
    size = len(sums)
    return float(np.mean(means)), float(np.sqrt(sum(v**2 for v in sums.values()) * size / (size - 1))), size


@pytest.mark.parametrize("language", [*LANGUAGES, ENGLISH, tuning.TRAINED, tuning.OTHER])
@pytest.mark.parametrize("against", ["base", "placebo"])
def test_a_preset_is_paired_with_the_base_and_the_placebo_item_by_item(language: str, against: str) -> None:
    of = made()
    table = tuning.accuracy(of)
    row = table[(table["preset"] == "good") & (table["seed"] == "mean") & (table["against"] == against)]
    row = row[row["language"] == language].iloc[0]
    names = {tuning.TRAINED: TRAINED, tuning.OTHER: LANGUAGES[3:]}.get(language, (language,))
    u = [i for i, (code, _) in enumerate(of.units) if code in names]
    seeds = np.stack([of.right[f"m+good-seed{s}"][:, u] for s in (0, 1)])
    with np.testing.suppress_warnings() as quiet:
        quiet.filter(RuntimeWarning)
        after = np.nanmean(seeds, axis=0)
    before = of.right["m" if against == "base" else "m+placebo-seed0"][:, u]
    value, error, size = by_hand(before, after, of.cluster)
    reach = stats.t.ppf(0.975, size - 1) * error
    assert row["difference"] == pytest.approx(value)
    assert (row["low"], row["high"]) == pytest.approx((value - reach, value + reach))
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(value) / error, size - 1))
    assert row["after"] - row["before"] == pytest.approx(value)
    assert row["n_clusters"] == size
    assert row["overlap"] == 3


def test_one_language_without_gaps_is_a_regression_on_the_mean_with_clustered_errors() -> None:
    of = made(missing=0)
    u = of.units.index(("bbb_Latn", "to-bbb"))
    table = pd.DataFrame({"d": of.right["m+good-seed1"][:, u] - of.right["m"][:, u], "cluster": of.cluster})
    fit = smf.ols("d ~ 1", table).fit(cov_type="cluster", cov_kwds={"groups": table["cluster"]})
    rows = tuning.accuracy(of).set_index(["preset", "seed", "against", "language"])
    row = rows.loc["good", "1", "base", "bbb_Latn"]
    count = table["cluster"].nunique()
    half = stats.t.ppf(0.975, count - 1) * fit.bse["Intercept"]
    assert (row["difference"], row["high"] - row["difference"]) == pytest.approx((fit.params["Intercept"], half))


def test_holm_is_over_the_languages_of_a_preset_and_english_is_not_one_of_them() -> None:
    table = tuning.adjust(tuning.accuracy(made()), "seed", "against")
    mean = table[(table["seed"] == "mean") & (table["against"] == "base")]
    own = mean[(mean["preset"] == "good") & mean["language"].isin(LANGUAGES)]
    assert len(own) == len(LANGUAGES)
    assert own["p_holm"].tolist() == pytest.approx(holm(own["p"].to_numpy(float)).tolist())
    english = mean[mean["language"] == ENGLISH]
    assert len(english) == len(PRESETS)
    assert english["p_holm"].tolist() == pytest.approx(holm(english["p"].to_numpy(float)).tolist())


def test_holm_is_over_presets_and_metrics_for_english_and_means_over_languages() -> None:
    about = {"model": "m", "task": "t", "pooling": "last"}
    rows = [
        about | {"preset": preset, "metric": metric, "language": language}
        for preset in ("a", "b")
        for metric in ("dali", "mexa_t")
        for language in (tuning.TRAINED, "aaa_Latn", "bbb_Latn")
    ]
    table = pd.DataFrame(rows).assign(p=np.random.default_rng(0).random(len(rows)) / 10)
    found = tuning.adjust(table)
    pooled = found["language"] == tuning.TRAINED
    assert found.loc[pooled, "p_holm"].tolist() == pytest.approx(holm(table.loc[pooled, "p"].to_numpy()).tolist())
    own = ~pooled & (found["preset"] == "b") & (found["metric"] == "dali")
    assert found.loc[own, "p_holm"].tolist() == pytest.approx(holm(table.loc[own, "p"].to_numpy()).tolist())


def test_nothing_changed_has_a_difference_of_zero_and_no_p() -> None:
    of = made()
    same = tuning.accuracy(replace(of, right=dict.fromkeys(of.right, of.right["m"])))
    assert (same["difference"] == 0).all()
    assert same[["low", "high", "p"]].isna().all(axis=None)
    assert same["note"].str.startswith("interval and p not defined, because").all()


@settings(max_examples=25, deadline=None)
@given(given_by.integers(0, 10_000))
def test_the_placebo_is_what_the_base_rows_differ_by(seed: int) -> None:
    """Without gaps: treatment minus base, less placebo minus base, is treatment minus placebo."""
    rows = tuning.accuracy(made(seed, n=12, missing=0)).set_index(["preset", "seed", "against", "language"])[
        "difference"
    ]
    for language in (*LANGUAGES, ENGLISH, tuning.TRAINED):
        own, placebo = (rows.loc[preset, "mean", "base", language] for preset in ("good", "placebo"))
        assert rows.loc["good", "mean", "placebo", language] == pytest.approx(own - placebo)


# --------------------------------------------------------------------------------------------------------------- moves


def test_moves_are_counted() -> None:
    of = made(seed=3)
    table = tuning.moves(of)
    kinds = {(1, 1): "ts_ts", (1, 0): "ts_tf", (0, 1): "tf_ts", (0, 0): "tf_tf"}
    counted = []
    for s in ("0", "1"):
        row = table[(table["preset"] == "good") & (table["seed"] == s) & (table["language"] == "ccc_Latn")].iloc[0]
        u, e = (of.units.index((code, "to-ccc")) for code in ("ccc_Latn", ENGLISH))
        expected = dict.fromkeys([*kinds.values(), "english_wrong", "english_wrong_gained", "english_wrong_lost"], 0)
        gained = lost = n = 0
        for old, new, english in zip(
            of.right["m"][:, u], of.right[f"m+good-seed{s}"][:, u], of.right["m"][:, e], strict=True
        ):
            if np.isnan(old) or np.isnan(new):
                continue
            n, gained, lost = n + 1, gained + (new > old), lost + (new < old)
            if english == 1:
                expected[kinds[int(old), int(new)]] += 1
            elif english == 0:
                expected["english_wrong"] += 1
                expected["english_wrong_gained"] += new > old
                expected["english_wrong_lost"] += new < old
        counted.append(expected | {"n": n, "gained": gained, "lost": lost})
        assert row[list(counted[-1])].to_dict() == counted[-1]
        counted[-1]["p"] = stats.binomtest(int(gained), int(gained + lost)).pvalue
        assert row["p"] == pytest.approx(counted[-1]["p"])
    mean = table[(table["preset"] == "good") & (table["seed"] == "mean") & (table["language"] == "ccc_Latn")].iloc[0]
    for name in ("n", "ts_tf", "tf_ts", "gained", "english_wrong"):
        assert mean[name] == pytest.approx(np.mean([one[name] for one in counted]))
    assert mean["p"] == pytest.approx(min(1, 2 * np.mean([one["p"] for one in counted])))
    single = table[(table["preset"] == "placebo") & (table["language"] == "ccc_Latn")].set_index("seed")["p"]
    assert single["mean"] == single["0"]
    english = table[(table["language"] == ENGLISH) & (table["seed"] == "0")]
    assert len(english) == len(LANGUAGES) * len(PRESETS)
    assert english["ts_ts"].isna().all()


# ----------------------------------------------------------------------------------------------------------- alignment


def metric_of(
    right: dict[str, Floats], aligned: dict[str, Floats], cluster: Any, languages: tuple[str, ...] = LANGUAGES
) -> tuning.Aligned:
    """One metric; its last layer is the one after the final norm."""
    base = aligned["m"]
    inner = np.arange(base.shape[2]) < max(1, base.shape[2] - 1)
    best = np.nanmean(base[:, :, inner], axis=0).argmax(axis=1)
    units = tuple((one, f"to-{one[:3]}") for one in languages)
    ids = np.arange(len(base)).astype(str)
    bundle = Bundle(
        ("m", "t", "dali", "last"), ids, np.asarray(cluster), units, np.arange(base.shape[2]), inner, best,
        base.astype(np.float32), right["m"].astype(np.float32), np.ones_like(right["m"], np.float32),
    )  # fmt: skip
    return tuning.Aligned(bundle, PRESETS, aligned, right)


def test_alignment_is_compared_at_the_bases_layers() -> None:
    of, rng = made(), np.random.default_rng(1)
    u = [i for i, (language, _) in enumerate(of.units) if language != ENGLISH]
    shape = (len(of.cluster), len(u), 7)
    aligned = {name: (rng.random(shape) < 0.3 + 0.05 * np.arange(7) % 0.17).astype(float) for name in of.right}
    metric = metric_of({name: right[:, u] for name, right in of.right.items()}, aligned, of.cluster)
    assert metric.middle.tolist() == [False, False, True, True, True, False, False]
    table = tuning.alignment(of, metric)
    seeds = np.mean([aligned[f"m+good-seed{s}"] for s in (0, 1)], axis=0)
    own = table[(table["preset"] == "good") & (table["against"] == "base")].set_index(["at", "language"])
    best = metric.base.best
    for k, language in enumerate(LANGUAGES):
        row = own.loc["best_layer", language]
        assert row["layer"] == best[k]
        before, after = aligned["m"][:, k, best[k]], seeds[:, k, best[k]]
        value, error, size = by_hand(before[:, None], after[:, None], of.cluster)
        assert (row["before"], row["difference"]) == pytest.approx((before.mean(), value))
        assert row["high"] - value == pytest.approx(stats.t.ppf(0.975, size - 1) * error)
        layers = own.loc["layer", language].set_index("layer")["difference"]
        assert layers.tolist() == pytest.approx((seeds - aligned["m"])[:, k].mean(axis=0).tolist())
    pooled = own.loc["middle_third", tuning.TRAINED]
    value, error, size = by_hand(aligned["m"][:, :3, 2:5].mean(axis=2), seeds[:, :3, 2:5].mean(axis=2), of.cluster)
    assert pooled["difference"] == pytest.approx(value)
    assert pooled["high"] - value == pytest.approx(stats.t.ppf(0.975, size - 1) * error)
    assert own.loc["best_layer", tuning.TRAINED]["difference"] == pytest.approx(
        np.mean([(seeds - aligned["m"])[:, k, best[k]].mean() for k in range(3)])
    )
    assert set(table["against"]) == {"base", "placebo"}


# ----------------------------------------------------------------------------------------------------------- mediation


def tuned(
    seed: int,
    n: int = 120,
    effect: float = 0.0,
    difficulty: float = 0.0,
    before: float = 0.0,
    u: int = 4,
    seeds: int = 2,
) -> tuple[tuning.Pairs, tuning.Aligned]:
    """A tuning, on items in passages of two.

    Args:
        effect: how much more often an answer is right after tuning if it is aligned then.
        difficulty: how far the ease of an item moves both its answers and its alignment, in all languages and models.
        before: how much more often an answer is right before tuning if it is aligned then: luck, redrawn by tuning.
    """
    rng = np.random.default_rng(seed)
    languages = tuple(f"l{chr(97 + i)}a_Latn" for i in range(u))
    ease = difficulty * rng.choice([-1.0, 1.0], n // 2).repeat(2)[:, None]
    names = ["m", *(f"m+x-seed{s}" for s in range(seeds))]
    right, aligned = {}, {}
    for name in names:
        a = rng.random((n, u)) < 0.35 + ease + (0.15 if name != "m" else 0)
        link = before if name == "m" else effect
        right[name] = (rng.random((n, u)) < 0.4 + ease + link * (a - 0.5)).astype(float)
        aligned[name] = a[:, :, None].astype(float)
    cluster = np.arange(n) // 2
    preset = tuning.Preset("x", tuple(version("x", s, languages=languages) for s in range(seeds)))
    of = tuning.Pairs("m", "t", [preset], cluster, [], right)
    return of, replace(metric_of(right, aligned, cluster, languages), presets=[preset])


def effects(*given: Any, **more: Any) -> pd.DataFrame:
    table = mediation.mediation(*tuned(*given, **more))
    return table[table["language"] == tuning.TRAINED].set_index("form")


def test_mediation_equals_regressions_with_dummies() -> None:
    of, metric = tuned(5, effect=0.3)
    found = mediation.mediation(of, metric).set_index(["form", "language"])
    slopes: dict[str, list[float]] = {"within_language": [], "same_item": []}
    rose = others = became = stayed = 0
    for s in (0, 1):
        name, n, u = f"m+x-seed{s}", *of.right["m"].shape
        item, language = np.divmod(np.arange(n * u), u)
        table = pd.DataFrame(
            {"item": item, "language": language, "y0": of.right["m"].ravel(), "y": of.right[name].ravel()}
        )
        table["a0"], table["a"] = metric.aligned["m"].ravel(), metric.aligned[name].ravel()
        wrong = table[table["y0"] == 0]
        start = wrong[wrong["a0"] == 0]
        slopes["within_language"].append(smf.ols("y ~ a + C(language)", start).fit().params["a"])
        several = wrong[wrong.groupby("item")["y"].transform("size") > 1]
        slopes["same_item"].append(smf.ols("y ~ a + a0 + C(item) + C(language)", several).fit().params["a"])
        first = start[start["language"] == 0]
        rose, others = rose + int(first["a"].sum()), others + int((1 - first["a"]).sum())
        became, stayed = became + first.query("a == 1")["y"].sum(), stayed + first.query("a == 0")["y"].sum()
    for form, own in slopes.items():
        assert found.loc[(form, tuning.TRAINED), "effect"] == pytest.approx(np.mean(own))
    one = found.loc["within_language", "laa_Latn"]
    assert (one["n_rose"], one["right_rose"], one["right_other"]) == pytest.approx(
        (rose, became / rose, stayed / others)
    )


def test_the_error_is_that_of_leaving_out_passages() -> None:
    """One language, one seed: the slope is a difference of two shares, computed again without each passage."""
    of, metric = tuned(6, effect=0.2, u=1, seeds=1)
    found = mediation.mediation(of, metric).set_index(["form", "language"]).loc["within_language", "laa_Latn"]
    start = (of.right["m"] == 0)[:, 0] & (metric.aligned["m"] == 0)[:, 0, 0]
    y, x, c = of.right["m+x-seed0"][start, 0], metric.aligned["m+x-seed0"][start, 0, 0], of.cluster[start]

    def difference(kept: Any) -> float:
        xs, ys = x - x.mean(), y - y.mean()  # centred with all passages
        return float((xs * ys)[kept].sum() / (xs**2)[kept].sum())

    value, names = float(y[x == 1].mean() - y[x == 0].mean()), np.unique(c)
    without = np.array([difference(c != one) for one in names])
    error = np.sqrt(((without - value) ** 2).sum() * (len(names) - 1) / len(names))
    assert found["effect"] == pytest.approx(value)
    assert found["n_clusters"] == len(names)
    half = float(found["high"] - value) / stats.t.ppf(0.975, len(names) - 1)
    assert half == pytest.approx(error)


def test_one_trained_language_has_no_comparison_within_items() -> None:
    table = mediation.mediation(*tuned(0, u=1)).set_index(["form", "language"])
    assert table.loc[("same_item", tuning.TRAINED), "note"].startswith(
        "not defined, because one language was trained on"
    )
    assert not np.isnan(table.loc[("within_language", tuning.TRAINED), "effect"])
    of, metric = tuned(0)
    elsewhere = tuning.Preset("x", tuple(version("x", s, languages=("zzz_Latn",)) for s in (0, 1)))
    none = mediation.mediation(of, replace(metric, presets=[elsewhere]))
    assert none["note"].str.startswith("not defined, because none of the languages that were trained on").all()


def test_too_few_items_say_so() -> None:
    table = mediation.mediation(*tuned(0, n=16))
    assert table["note"].str.startswith("not defined, because fewer than").any()
    assert table.loc[table["note"] != "", "effect"].isna().all()


STUDIES = 300
HIGHEST = stats.binom.ppf(0.999, STUDIES, 0.05) / STUDIES
LOWEST = stats.binom.ppf(0.001, STUDIES, 0.05) / STUDIES


def rejected(form: str, count: int = STUDIES, **planted: Any) -> float:
    """Share of studies with p below .05; every study must have an answer."""
    p = np.array([effects(i, **planted).loc[form, "p"] for i in range(count)], float)
    assert not np.isnan(p).any()
    return float((p < 0.05).mean())


@pytest.mark.parametrize("form", ["within_language", "same_item"])
def test_nulls_are_rejected_at_the_level_also_if_answers_and_alignment_went_together_before(form: str) -> None:
    """Luck shared before is redrawn by tuning: both changes regress to the mean together, without a relation."""
    assert LOWEST <= rejected(form, before=0.4) <= HIGHEST
    changes = []
    for i in range(20):
        of, metric = tuned(i, before=0.4)
        rose, gained = (after["m+x-seed0"] - after["m"] for after in (metric.aligned, of.right))
        changes.append(stats.pearsonr(rose[:, :, 0].ravel(), gained.ravel()).pvalue < 0.05)
    assert np.mean(changes) > 0.9  # what a comparison of all changes would have said


def test_difficulty_is_held_constant_only_within_items() -> None:
    """Also if alignment and answers went together before."""
    assert LOWEST <= rejected("same_item", n=240, difficulty=0.2, before=0.25) <= HIGHEST
    assert rejected("within_language", 40, difficulty=0.2, before=0.25) > 0.5


@pytest.mark.parametrize("form", ["within_language", "same_item"])
def test_planted_effects_are_found(form: str) -> None:
    planted = [effects(i, n=240, effect=0.3).loc[form] for i in range(30)]
    assert np.mean([row["p"] < 0.05 for row in planted]) >= 0.9
    assert np.mean([row["effect"] for row in planted]) == pytest.approx(0.3, abs=0.03)
    assert np.mean([row["low"] <= 0.3 <= row["high"] for row in planted]) >= 0.8


def test_paired_differences_keep_their_level_where_passages_are_lucky_as_a_whole() -> None:
    """A model has luck with a whole passage, in all languages; without a change, 5% of the studies are rejected."""
    rng, cluster = np.random.default_rng(0), np.arange(200) // 5
    luck = rng.uniform(-0.3, 0.3, (STUDIES, 2, 40))[:, :, cluster, None, None]
    right = (rng.random((STUDIES, 2, 200, 3, 1)) < 0.5 + luck).astype(float)
    p = np.array([tuning.paired(*study, cluster)["p"][0] for study in right])
    assert LOWEST <= (p < 0.05).mean() <= HIGHEST
    items = np.array([tuning.paired(*study, np.arange(200))["p"][0] for study in right])
    assert (items < 0.05).mean() > HIGHEST  # passages matter here
