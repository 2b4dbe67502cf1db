"""Jobs on the real benchmarks, with the embedded model: every item gets a row, every number is finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_job, write_hub

from align_pipeline.data.source import Source

CASES = [
    # task, languages, limit (None: all items), items, options; the embedded tokenizer takes these scripts byte by byte
    ("xcopa", "[swh,quy]", None, 500, 2),
    ("xstorycloze", "[eus]", 100, 100, 2),
    ("belebele", "[swh]", 60, 60, 4),
]


@pytest.mark.parametrize(("task", "languages", "limit", "items", "options"), CASES)
def test_a_job(
    shared_data: Path, tmp_path: Path, task: str, languages: str, limit: int | None, items: int, options: int
) -> None:
    limited = [] if limit is None else [f"task.limit={limit}", "task.num_fewshot=2"]
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
    source = Source(str(shared_data))
    sides = {c: source.load("facebook/belebele", c, "test", None, None) for c in ("eng_Latn", "swh_Latn")}
    twins = [
        index
        for index, row in enumerate(sides["eng_Latn"])
        if len({row[f"mc_answer{k}"].strip() for k in (1, 2, 3, 4)}) < 4
    ]
    assert twins == [401, 779]
    chosen = [*twins, *range(6)]
    few = {code: {"test": [{**rows[index], "ds": ""} for index in chosen]} for code, rows in sides.items()}
    write_hub(tmp_path / "data", "facebook/belebele", few)
    run_job(tmp_path, "lang=swh", "metric=dali", "evaluate=false", f"data={tmp_path / 'data'}")
    found = pd.read_parquet(tmp_path / "alignment.parquet")
    ids = [f"{sides['eng_Latn'][index]['link']}/{sides['eng_Latn'][index]['question_number']}" for index in twins]
    assert (found[found["item_id"].isin(ids)]["margin"] <= 0).all()
    assert len(found) == 9 * 8


def test_translation(shared_data: Path, tmp_path: Path) -> None:
    """Estonian has another name on the hub; Thai has no spaces."""
    limits = ("task.limit=12", "task.num_fewshot=1", "task.max_new_tokens=8", "task.resamples=10")
    content = run_job(tmp_path, "task=flores", "lang=[est,tha]", f"data={shared_data}", *limits)
    assert [row["n"] for row in content["languages"]] == [12, 12]
    translations = pd.read_parquet(tmp_path / "translations.parquet")
    assert translations.groupby(["language", "direction"]).size().tolist() == [12] * 4
    assert np.isfinite(translations[["bleu", "chrf"]]).all(axis=None)
    assert translations["reference"].str.len().min() > 5
    alignment = pd.read_parquet(tmp_path / "alignment.parquet")
    assert np.isfinite(alignment["margin"]).all()
    assert len(alignment) == 2 * 12 * (content["num_layers"] + 1)
