"""Statistics of patching against literal loops over the tables' rows, statsmodels, and planted effects."""

from __future__ import annotations

import html
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.patching import statistics as patching_analysis
from align_pipeline.measurements.patching.statistics import (
    MIDDLE,
    by_category,
    contrasts,
    effects,
    mcnemar,
    summary,
)
from align_pipeline.measurements.patching.table import PATCHING
from align_pipeline.measurements.patching.units import join, log_odds
from align_pipeline.report import report

LAYERS = range(7)  # L = 6: the middle third is 2, 3, 4


def loglikelihoods(draw: random.Random, right: bool, gold: int) -> list[float]:
    values = [-draw.uniform(2, 4) for _ in range(3)]
    best = max(range(3), key=lambda k: values[k])
    target = gold if right else (gold + 1) % 3
    values[best], values[target] = values[target], values[best]
    return values


def simulate(
    rates: dict[str, float],
    items: int = 60,
    languages: tuple[str, ...] = ("swh_Latn",),
    seed: int = 0,
    missing: tuple[str, ...] = (),
    head: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables in which each condition makes an item right with its own rate, whatever it was before.

    Args:
        missing: conditions that lack every third item.
    """
    draw = random.Random(seed)
    answers, runs = [], []
    gold = {i: draw.randrange(3) for i in range(items)}

    def row(item: int, right: bool) -> dict[str, Any]:
        values = loglikelihoods(draw, right, gold[item])
        said = int(np.argmax(values))
        names = {"model": "m", "task": "belebele", "pivot": "eng_Latn", "item_id": f"i{item:03d}"}
        return names | {
            "gold": gold[item],
            "prediction": said,
            "correct": int(said == gold[item]),
            "loglikelihoods": values,
        }

    for language in ("eng_Latn", *languages):
        for item in range(items):
            more = {
                "correct_norm": 0,
                "confidence": 0.5,
                "prompt_tokens": 9,
                "item_tokens": 5,
                "option_similarity": 0.1,
            }
            more["category"] = "place" if item % 4 else "time"
            answers.append(row(item, draw.random() < 0.7) | more | {"language": language})
    for language in languages:
        for condition, rate in rates.items():
            for layer in LAYERS:
                for item in range(items):
                    if condition in missing and item % 3 == 0:
                        continue
                    kind = {"component": "resid", "site": "last", "window": 1, "layer": layer, "head": head}
                    told = {"language": language, "condition": condition, "source_language": "eng_Latn"}
                    runs.append(row(item, draw.random() < rate) | kind | told | {"donor": "x", "donor_gold": None})
    patching = pa.Table.from_pylist(runs, schema=PATCHING).to_pandas()
    return patching, pa.Table.from_pylist(answers, schema=PREDICTIONS).to_pandas()


RATES = {"parallel": 0.8, "self": 0.0, "random_item": 0.3, "noise": 0.1, "permuted_options": 0.9}


def literal(patching: pd.DataFrame, predictions: pd.DataFrame, condition: str, layer: int, of: str) -> dict[str, Any]:
    """item -> its row, for the items in TF or TS."""
    answers = {(r.language, r.item_id): r for r in predictions.itertuples()}
    found = {}
    for r in patching[(patching["condition"] == condition) & (patching["layer"] == layer)].itertuples():
        before, english = answers[r.language, r.item_id], answers["eng_Latn", r.item_id]
        if not english.correct:
            continue
        if (of == "tf") == bool(before.correct):
            continue
        found[r.item_id] = r
    return found


def literal_log_odds(values: list[float], gold: int) -> float:
    p = math.exp(values[gold]) / sum(math.exp(v) for v in values)
    return math.log(p / (1 - p))


def test_log_odds() -> None:
    values = [[-1.0, -2.0, -3.0, -0.5], [-700.0, -900.0, -701.0, -950.0]]
    found = log_odds(np.array(values), np.array([3, 0]))
    assert found[0] == pytest.approx(literal_log_odds(values[0], 3))
    assert found[1] == pytest.approx(1.0)  # against -701 alone; no overflow


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_statsmodels(gained: int, lost: int) -> None:
    expected = reference_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if gained + lost else 1.0
    assert mcnemar(np.array([gained]), np.array([lost]))[0] == pytest.approx(min(expected, 1.0))


@pytest.mark.parametrize("missing", [(), ("random_item",)])
def test_effects_equal_literal_loops(missing: tuple[str, ...]) -> None:
    patching, predictions = simulate(RATES, missing=missing)
    table = effects(join(patching, predictions))
    assert len(table) == len(RATES) * len(LAYERS)
    answers = predictions.set_index(["language", "item_id"])
    for row in table.itertuples():
        tf, ts = (literal(patching, predictions, row.condition, row.layer, of) for of in ("tf", "ts"))
        assert (row.n_tf, row.n_ts) == (len(tf), len(ts))
        assert row.corrected == sum(r.correct for r in tf.values())
        assert row.correction_rate == pytest.approx(row.corrected / row.n_tf)
        assert row.damaged == sum(1 - r.correct for r in ts.values())
        assert row.damage_rate == pytest.approx(row.damaged / row.n_ts)
        for group, change in ((tf, row.log_odds_change_tf), (ts, row.log_odds_change_ts)):
            expected = [
                literal_log_odds(r.loglikelihoods, r.gold)
                - literal_log_odds(answers.loc[("swh_Latn", i), "loglikelihoods"], r.gold)
                for i, r in group.items()
            ]
            assert change == pytest.approx(np.mean(expected))
        chosen = patching[(patching["condition"] == row.condition) & (patching["layer"] == row.layer)]
        was = answers.loc["swh_Latn"].loc[chosen["item_id"], "correct"].to_numpy()
        now = chosen["correct"].to_numpy()
        assert (row.n, row.gained, row.lost) == (len(now), (now > was).sum(), (now < was).sum())
        assert row.correction_low <= row.correction_rate <= row.correction_high
        assert row.p_mcnemar <= row.p_holm <= 1
    itself = table[table["condition"] == "self"]
    assert (itself["correction_rate"] == 0).all()


def test_contrasts_are_paired_over_the_items_both_have() -> None:
    patching, predictions = simulate(RATES, missing=("random_item",))
    table = contrasts(join(patching, predictions))
    assert set(table["control"]) == set(RATES) - {"parallel"}
    lacking = table.groupby("control")["lacks_concept"].first().to_dict()
    assert lacking == {"self": False, "random_item": True, "noise": True, "permuted_options": False}
    for row in table[table["at"] == "layer"].itertuples():
        treated = literal(patching, predictions, "parallel", row.layer, "tf")
        controlled = literal(patching, predictions, row.control, row.layer, "tf")
        both = treated.keys() & controlled.keys()
        differences = [int(treated[i].correct) - int(controlled[i].correct) for i in both]
        assert row.n == len(both)
        assert row.difference == pytest.approx(np.mean(differences))
        assert row.only_treatment == differences.count(1)
        assert row.only_control == differences.count(-1)
    for control, rows in table.groupby("control"):
        middle = rows[rows["at"] == MIDDLE].iloc[0]
        inner = rows[rows["layer"].isin([2, 3, 4])]
        assert middle["difference"] == pytest.approx(inner["difference"].mean()), control
        assert middle["low"] < middle["difference"] < middle["high"]


def test_planted_effects_are_found_and_absent_ones_are_not() -> None:
    inside = {"parallel": 0, "noise": 0}
    for seed in range(12):
        patching, predictions = simulate({"parallel": 0.8, "random_item": 0.3, "noise": 0.1}, items=80, seed=seed)
        row = summary(join(patching, predictions), resamples=300).set_index("condition").loc["parallel"]
        assert row["strongest_control"] == "random_item"
        inside["parallel"] += row["attributable_low"] <= 0.5 <= row["attributable_high"]
        patching, predictions = simulate({"parallel": 0.4, "noise": 0.4}, items=80, seed=seed)
        row = summary(join(patching, predictions), resamples=300).set_index("condition").loc["parallel"]
        inside["noise"] += row["attributable_low"] <= 0 <= row["attributable_high"]
    assert inside["parallel"] >= 9
    assert inside["noise"] >= 9


def test_summary_takes_the_first_best_layer_and_the_middle_third() -> None:
    patching, predictions = simulate(RATES)
    units = join(patching, predictions)
    table, rates = summary(units), effects(units)
    for row in table.itertuples():
        own = rates[rates["condition"] == row.condition].sort_values("layer")
        assert row.best_correction == own["correction_rate"].max()
        assert row.best_layer == own.loc[own["correction_rate"] == row.best_correction, "layer"].min()
        inner = own[own["layer"].isin([2, 3, 4])]
        assert row.middle_correction == pytest.approx(inner["correction_rate"].mean())
        assert row.middle_damage == pytest.approx(inner["damage_rate"].mean())
    deeper = summary(join(patching, predictions, {"m": 12})).iloc[0]  # then the third begins at layer 4
    parallel = rates[(rates["condition"] == "parallel") & rates["layer"].isin([4, 5, 6])]
    assert deeper["middle_correction"] == pytest.approx(parallel["correction_rate"].mean())


def test_categories_add_up() -> None:
    patching, predictions = simulate(RATES)
    units = join(patching, predictions)
    parts, whole = by_category(units), effects(units)
    assert set(parts["category"]) == {"place", "time"}
    sums = parts.groupby(["condition", "layer"])[["n_tf", "corrected"]].sum()
    expected = whole.set_index(["condition", "layer"])[["n_tf", "corrected"]]
    assert (sums.loc[expected.index].to_numpy() == expected.to_numpy()).all()
    without = predictions.assign(category="")
    assert by_category(join(patching, without)).empty


def test_repeated_rows_count_once_and_their_order_does_not_matter() -> None:
    patching, predictions = simulate(RATES, languages=("swh_Latn", "spa_Latn"))
    shuffled = pd.concat([patching, patching.iloc[:100]]).sample(frac=1, random_state=1)
    one, two = (effects(join(p, predictions)) for p in (patching, shuffled))
    keys = ["language", "condition", "layer"]
    pd.testing.assert_frame_equal(
        one.sort_values(keys, ignore_index=True), two.sort_values(keys, ignore_index=True), check_dtype=False
    )


def test_nothing_patched_is_nothing_found() -> None:
    patching, predictions = simulate(RATES)
    assert join(patching.iloc[:0], predictions) == []
    for table in (effects([]), contrasts([]), summary([]), by_category([])):
        assert table.empty
        assert "condition" in table or "control" in table
    ablation = join(*simulate({"zero": 0.2, "mean": 0.5}))
    assert contrasts(ablation).empty  # no treatment to compare with
    assert summary(ablation)["attributable"].isna().all()


def test_the_report_tells_of_patching(tmp_path: Path) -> None:
    patching, predictions = simulate(RATES, languages=("swh_Latn", "spa_Latn"))
    run = tmp_path / "run"
    run.mkdir()
    for name, table, schema in (("patching", patching, PATCHING), ("predictions", predictions, PREDICTIONS)):
        pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), run / f"{name}.parquet")
    page = html.unescape(" ".join(report.write([run], tmp_path / "report").read_text().split()))
    assert "Patching: is misalignment the cause?" in page
    assert "In 2 of 2 this is more" in page
    assert "The parallel activation against each control" in page
    assert "By the items' category" in page
    found = pd.read_csv(tmp_path / "report" / "patching.csv")
    own = patching_analysis.summary(join(patching, predictions))
    assert found["middle_correction"].tolist() == pytest.approx(own["middle_correction"].tolist())
    for name in ("effects", "contrasts", "categories"):
        assert len(pd.read_csv(tmp_path / "report" / f"patching_{name}.csv")) > 0
    names = {path.name for path in (tmp_path / "report" / "plots").glob("patching*.png")}
    assert names == {f"patching_belebele_resid_last_1_{kind}.png" for kind in ("correction", "languages")}
