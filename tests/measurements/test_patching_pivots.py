"""Patching from other pivots: against the same activations under another name, literal loops and planted effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from conftest import belebele_rows, random_job, run_job, write_hub

from align_pipeline.measurements.patching.pivots import EVERY, by_pivot
from align_pipeline.measurements.patching.units import Unit, join
from align_pipeline.report import report

CODES = {"eng_Latn": "eng", "swh_Latn": "swh", "spa_Latn": "spa", "tur_Latn": "tur"}
ROW = ["language", "condition", "layer", "item_id"]


@pytest.fixture(scope="module")
def jobs(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Two jobs on three languages: with Spanish as a pivot, and with Spanish activations as a control."""
    folder = tmp_path_factory.mktemp("pivots")
    data = folder / "data"
    rows = {code: {"test": belebele_rows(name, 24)} for code, name in CODES.items()}
    rows["tur_Latn"]["test"] = rows["tur_Latn"]["test"][1:]
    write_hub(data, "facebook/belebele", rows)
    asked = random_job(model_folder, data, "lang=[swh,spa,tur]", "metric=[dali]", f"cache={folder / 'cache'}")
    for code in CODES:
        lines = [f"an English sentence {i}\tthe sentence {i} in {code}" for i in range(20)]
        (folder / f"{code}.tsv").write_text("\n".join(["english\tother", *lines]))
    maps = ["patch.conditions=[parallel,random_item,shift]", f"patch.pairs.source='{folder}/LANG.tsv'"]
    told = run_job(folder / "pivot", *asked, "pivot=[eng,spa]", *maps)
    run_job(folder / "control", *asked, "patch.conditions=[parallel,random_item,'language=spa']", "patch.items=all")
    return folder, told


def table(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "patching.parquet")
    return rows.astype(dict.fromkeys(("language", "condition", "item_id", "pivot_language", "source_language"), str))


def failures(predictions: pd.DataFrame, pivot: str, language: str) -> set[str]:
    """Items right in the pivot and wrong in the language."""
    right = {code: dict(of[["item_id", "correct"]].to_numpy()) for code, of in predictions.groupby("language")}
    return {i for i, own in right[language].items() if not own and right[pivot].get(i)}


def test_a_pivots_activations_are_those_of_its_language(jobs: tuple[Path, Any]) -> None:
    folder = jobs[0]
    found, control = table(folder / "pivot"), table(folder / "control")
    own = found[(found["pivot_language"] == "spa_Latn") & (found["condition"] == "parallel")]
    assert set(own["source_language"]) == {"spa_Latn"}
    expected = control[control["condition"] == "language=spa"].set_index(["language", "layer", "item_id"])
    assert len(own) > 10
    for row in own.itertuples():
        other = expected.loc[(row.language, row.layer, row.item_id), "loglikelihoods"]
        np.testing.assert_allclose(row.loglikelihoods, other, atol=1e-4)
    predictions = pd.read_parquet(folder / "pivot" / "predictions.parquet").astype({"language": str})
    for language in ("swh_Latn", "tur_Latn"):
        assert set(own.loc[own["language"] == language, "item_id"]) == failures(predictions, "spa_Latn", language)
    assert set(own["language"]) <= {"swh_Latn", "tur_Latn"}  # no language is its own pivot
    donors = found[(found["pivot_language"] == "spa_Latn") & (found["condition"] == "random_item")]
    assert set(donors["source_language"]) == {"spa_Latn"}
    assert not (donors["donor"] == donors["item_id"]).any()


def test_english_is_as_without_other_pivots(jobs: tuple[Path, Any]) -> None:
    found, control = (table(jobs[0] / name) for name in ("pivot", "control"))
    english = found[(found["pivot_language"] == "eng_Latn") & (found["condition"] == "parallel")]
    both = english.merge(control[control["pivot_language"] == "eng_Latn"], on=ROW)
    assert len(both) == len(english) > 10
    assert (both["prediction_x"] == both["prediction_y"]).all()


def test_maps_are_of_english_only(jobs: tuple[Path, Any]) -> None:
    found = table(jobs[0] / "pivot")
    maps = found[found["condition"] == "shift"]
    assert len(maps)
    assert set(maps["pivot_language"]) == {"eng_Latn"}


def test_summary_and_report_tell_the_pivots_apart(jobs: tuple[Path, Any], tmp_path: Path) -> None:
    (row,) = [one for one in jobs[1]["languages"] if one["language"] == "swh_Latn"]
    assert {one["pivot_language"] for one in row["patching"]} == {"eng_Latn", "spa_Latn"}
    page = report.write([jobs[0] / "pivot"], tmp_path).read_text(encoding="utf-8")
    assert "English against other pivots" in page
    assert "from Spanish" in page
    units = join(table(jobs[0] / "pivot"), pd.read_parquet(jobs[0] / "pivot" / "predictions.parquet"))
    kept = pd.read_csv(tmp_path / "patching_pivots.csv", keep_default_na=False, na_values={"p": [""], "p_holm": [""]})
    assert kept["language"].tolist() == by_pivot(units)["language"].tolist()


def test_tables_from_before_other_pivots_are_of_english(jobs: tuple[Path, Any]) -> None:
    predictions = pd.read_parquet(jobs[0] / "control" / "predictions.parquet")
    new = table(jobs[0] / "control")
    old = new.drop(columns=["pivot_language", "pivot_set"])
    for a, b in zip(join(new, predictions), join(old, predictions), strict=True):
        assert a.key == b.key
        np.testing.assert_array_equal(a.correct, b.correct)


# ---- statistics


def units(n: int, languages: int, english: float, other: float, seed: int) -> list[Unit]:
    """Items in clusters of two that share a chance to be corrected; each language fails on half of them."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"i{i}" for i in range(n)], dtype=object)
    names = np.array([f"c{i // 2}" for i in range(n)], dtype=object)
    ease = np.repeat(rng.normal(scale=0.2, size=n // 2), 2)
    found = []
    for language in range(languages):
        fails = rng.random(n) < 0.5
        for pivot, rate in (("eng_Latn", english), ("spa_Latn", other)):
            right = rng.random((1, 7, n)) < np.clip(rate + ease, 0, 1)
            found.append(
                Unit(
                    key=("m", "belebele", f"x{language}", "eng_Latn", pivot, "resid", "last", 1, -1),
                    conditions=("parallel",),
                    layers=np.arange(7),
                    middle=np.isin(np.arange(7), [2, 3, 4]),
                    correct=right.astype(float),
                    log_odds=np.zeros((1, 7, n)),
                    items=ids,
                    correct_before=~fails,
                    log_odds_before=np.zeros(n),
                    english_correct=rng.random(n) < 0.9,
                    category=np.full(n, "", dtype=object),
                    clusters=names,
                )
            )
    return found


def test_differences_are_those_of_loops_and_errors_those_of_statsmodels() -> None:
    made = units(60, 3, 0.6, 0.4, 5)
    found = by_pivot(made).set_index("language")
    rows = []
    for u in range(3):
        english, other = made[2 * u], made[2 * u + 1]
        for i in range(60):
            if english.english_correct[i] and other.english_correct[i] and not english.correct_before[i]:
                rates = [float(np.mean([one.correct[0, k, i] for k in (2, 3, 4)])) for one in (english, other)]
                rows.append({"language": f"x{u}", "cluster": i // 2, "lead": rates[0] - rates[1], "english": rates[0]})
    table = pd.DataFrame(rows)
    for language in ("x0", "x1", "x2", EVERY):
        own = table[table["language"] == language] if language else table
        assert found.loc[language, "n"] == len(own)
        assert found.loc[language, "difference"] == pytest.approx(own["lead"].mean())
        assert found.loc[language, "english"] == pytest.approx(own["english"].mean())
        fitted = smf.ols("lead ~ 1", own).fit(
            cov_type="cluster", cov_kwds={"groups": own["cluster"], "use_correction": True}, use_t=True
        )
        low, high = fitted.conf_int().loc["Intercept"]
        assert found.loc[language, ["low", "high"]].tolist() == pytest.approx([low, high])
        assert found.loc[language, "p"] == pytest.approx(fitted.pvalues["Intercept"])
    assert found.loc[EVERY, "n_languages"] == 3


def test_an_equal_pivot_is_seldom_called_different_and_a_planted_lead_is_found() -> None:
    equal = [by_pivot(units(60, 4, 0.5, 0.5, seed)).set_index("language").loc[EVERY, "p_holm"] for seed in range(200)]
    assert np.mean(np.array(equal) < 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    lead = [by_pivot(units(60, 4, 0.6, 0.4, seed)).set_index("language").loc[EVERY, "p_holm"] for seed in range(20)]
    assert np.mean(np.array(lead) < 0.05) >= 0.9


def test_a_lead_that_is_the_same_in_all_clusters_has_no_interval() -> None:
    found = by_pivot(units(60, 2, 2.0, 2.0, 1))  # every activation corrects every item
    assert (found["difference"] == 0).all()
    assert found[["low", "high", "p"]].isna().all(axis=None)
    assert found["note"].str.contains("the same in all clusters").all()


def test_few_clusters_have_no_interval() -> None:
    found = by_pivot(units(14, 1, 0.6, 0.4, 1))
    assert found["difference"].notna().all()
    assert found[["low", "p", "p_holm"]].isna().all(axis=None)
    assert found["note"].str.contains("clusters are too few").all()
