"""Jobs on the real benchmarks, with the embedded model: every item gets a row, every number is finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_job

CASES = [
    # task, languages, limit (None: all items), items, options
    ("xcopa", "[swh,quy]", None, 500, 2),
    ("xstorycloze", "[eus]", 300, 300, 2),
    ("belebele", "[tha]", 150, 150, 4),
]


@pytest.mark.parametrize(("task", "languages", "limit", "items", "options"), CASES)
def test_a_job(
    shared_data: Path, tmp_path: Path, task: str, languages: str, limit: int | None, items: int, options: int
) -> None:
    limited = [] if limit is None else [f"task.limit={limit}"]
    content = run_job(tmp_path, f"task={task}", f"lang={languages}", f"data={shared_data}", *limited)
    count = len(languages.split(","))
    assert [row["n"] for row in content["languages"]] == [items] * count
    alignment = pd.read_parquet(tmp_path / "alignment.parquet")
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    layers = content["num_layers"] + 1
    assert len(alignment) == count * 3 * layers * items
    assert alignment.groupby(["language", "metric", "layer"])["item_id"].nunique().eq(items).all()
    assert np.isfinite(alignment["margin"]).all()
    values = np.stack(predictions["loglikelihoods"].to_list())
    assert values.shape == ((count + 1) * items, options)  # both languages of XCOPA share one English side
    assert np.isfinite(values).all()
    assert (values < 0).all()
    assert predictions["confidence"].between(1 / options - 1e-9, 1).all()
    assert (predictions["prediction"] == values.argmax(axis=1)).all()


def test_two_equal_english_options_are_a_tie(shared_data: Path, tmp_path: Path) -> None:
    """Two Belebele items have two equal English options: some c_ii equals some c_ij, so nothing can be aligned."""
    from align_pipeline.data import Source

    rows = Source(str(shared_data)).load("facebook/belebele", "eng_Latn", "test", None, None)
    twins = [
        f"{row['link']}/{row['question_number']}"
        for row in rows
        if len({row[f"mc_answer{k}"].strip() for k in (1, 2, 3, 4)}) < 4
    ]
    assert len(twins) == 2
    only = [next(i for i, row in enumerate(rows) if f"{row['link']}/{row['question_number']}" == t) for t in twins]
    run_job(tmp_path, "lang=swh", "metric=dali", "evaluate=false", f"data={shared_data}", f"task.limit={only[0] + 1}")
    found = pd.read_parquet(tmp_path / "alignment.parquet")
    assert (found[found["item_id"] == twins[0]]["margin"] <= 0).all()
