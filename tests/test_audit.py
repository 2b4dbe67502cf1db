"""The audit: links destroyed and planted, its rates, its command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_analysis_simulated import simulate
from test_findings import made

from align_pipeline import audit
from align_pipeline.errors import InputError
from align_pipeline.inference import study as analysis


def test_the_link_goes_and_everything_else_stays() -> None:
    data = made(n=60, u=4, size=3, missing=0.1)
    copy = audit.without_link(data, np.random.default_rng(0))
    assert copy.aligned is data.aligned
    rows = np.concatenate([data.right, data.english], axis=1)
    other = np.concatenate([copy.right, copy.english], axis=1)
    order = [tuple(np.nan_to_num(row, nan=-1)) for row in rows]
    assert sorted(order) == sorted(
        tuple(np.nan_to_num(row, nan=-1)) for row in other
    )  # an item's answers stay together
    assert (np.nan_to_num(rows, nan=-1) != np.nan_to_num(other, nan=-1)).any()


@pytest.mark.parametrize("odds_ratio", [1.44, 2.0, 4.0])
def test_the_planted_odds_ratio_is_there_and_shares_stay(odds_ratio: float) -> None:
    data = audit.without_link(made(n=3000, u=3), np.random.default_rng(1))
    planted = audit.plant(data, odds_ratio, np.random.default_rng(2))
    assert planted.aligned.sum(axis=0) == pytest.approx(data.aligned.sum(axis=0))
    for u in range(3):
        chosen = planted.english[:, u] == 1
        a, y = planted.at_best[chosen, u], planted.right[chosen, u]
        table = [[(a[y == side] == value).sum() for value in (1, 0)] for side in (1, 0)]
        assert table[0][0] * table[1][1] / (table[0][1] * table[1][0]) == pytest.approx(odds_ratio, rel=0.03)


def test_nothing_is_supported_too_often_and_a_large_effect_always(tmp_path: Path) -> None:
    alignment, predictions = simulate(6, 200, 3, item_spread=1.0, effect=1.5)
    alignment.to_parquet(tmp_path / "alignment.parquet", index=False)
    predictions.to_parquet(tmp_path / "predictions.parquet", index=False)
    study = analysis.join(alignment, predictions)
    (family,) = audit.families(study, analysis.tally(study))
    null = list(audit.audit(family, 60, seed=3))
    wrong = sum(bool(((t["p_adjusted"] < 0.05) & (t["effect"] > 0)).any()) for t in null)
    assert wrong <= 8  # of 60 with a rate of 5% at most: probability of more .3%
    found = audit.rates(list(audit.audit(family, 10, seed=3, planted=4.0)))
    assert found.loc[found["question"] == "items_pooled", "supported"].min() == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alignment, predictions = simulate(3, 40, 2)
    alignment.to_parquet(tmp_path / "alignment.parquet", index=False)
    predictions.to_parquet(tmp_path / "predictions.parquet", index=False)
    audit.main([f"runs={tmp_path}", "repeats=3", f"out={tmp_path / 'audit.csv'}"])
    shown = capsys.readouterr().out
    assert "3 copies of your tables" in shown
    assert "items_pooled" in shown
    table = pd.read_csv(tmp_path / "audit.csv")
    assert set(table["planted"]) == set(audit.PLANTED)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "runs=<folder> is missing"),
        (["run=x"], "There is no argument 'run'; available: runs"),
        (["runs=/nowhere"], "matches no folder"),
        (["runs=.", "repeats=0"], "repeats=0 is not valid; use a whole number, 1 or greater"),
        (["runs=.", "out=/no/where.csv"], "is in a folder that does not exist"),
    ],
)
def test_mistakes_end_in_one_sentence(given: list[str], says: str) -> None:
    with pytest.raises(SystemExit) as end:
        audit.main(given)
    assert says in str(end.value)


def test_too_few_items_are_an_error() -> None:
    with pytest.raises(InputError, match="fewer than 8 clusters"):
        audit.without_link(made(n=4), np.random.default_rng(0))
