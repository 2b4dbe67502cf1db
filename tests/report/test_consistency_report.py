"""Consistency with English in the report: its tables, what the page says, and what it says where nothing is known."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from test_consistency import made
from test_report import save
from test_tuning_report import tables, text_of

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.consistency import CONSISTENCY, CONSISTENCY_ALIGNMENT
from align_pipeline.page.part import Part
from align_pipeline.report import report


@pytest.fixture(autouse=True)
def _few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other figures have tests of their own, and take time."""
    draw = Part.draw
    monkeypatch.setattr(
        Part, "draw", lambda part, of, *words: draw(part, of, *words) if words[0] == "consistency" else ""
    )


def test_the_page_says_how_often_answers_are_those_of_english(tmp_path: Path) -> None:
    alignment, predictions = tables("m", 0, 0, 0)
    save(tmp_path, alignment, predictions)
    page = report.write([tmp_path], tmp_path / "out")
    text = text_of(page)
    found = pd.read_csv(tmp_path / "out/consistency.csv")
    assert list(found.columns) == CONSISTENCY
    wide = predictions.pivot(index=["pivot", "item_id"], columns="language", values="prediction")
    for row in found.itertuples():
        both = wide.loc[row.pivot]
        assert row.agreement == pytest.approx((both[row.language] == both[ENGLISH]).mean())
    middle = found["agreement"].median()
    assert f"{100 * middle:.1f}% of the answers are the same as in English" in text
    assert f"Kappa is above 0 in {(found['p_holm'] < 0.05).sum()} of 4 languages" in text
    assert "rankc and same_wrong not defined, because there are no loglikelihoods" in page.read_text()
    assert (tmp_path / "out/plots/consistency_xcopa.svg").exists()
    assert len(re.findall("<figcaption>Share of items with the same answer", page.read_text())) == 1
    aligned = pd.read_csv(tmp_path / "out/consistency_alignment.csv")
    assert list(aligned.columns) == CONSISTENCY_ALIGNMENT
    assert aligned["english"].tolist() == ["all", "right", "wrong"]
    for row in aligned.itertuples():
        assert f"{100 * row.difference:+.1f} points".replace("-", "−") in text


def test_with_more_options_the_page_says_how_often_the_same_wrong_one_is_chosen(tmp_path: Path) -> None:
    save(tmp_path, *made())
    page = report.write([tmp_path], tmp_path / "out")
    middle = pd.read_csv(tmp_path / "out/consistency.csv")["same_wrong"].median()
    says = f"Of the items that are wrong in both, {100 * middle:.1f}% have the same wrong answer; by chance, 33.3%."
    assert says in text_of(page)
    assert "is not defined here" not in text_of(page)


@pytest.mark.parametrize(
    ("english", "says"),
    [
        (False, "Not defined, because English (translation-es) has no predictions for these items."),
        (
            True,
            "Not defined, because 120 of 120 items have other options in English, or their options in other places.",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(english: bool, says: str, tmp_path: Path) -> None:
    alignment, predictions = tables("m", 0, 0, 0)
    own = predictions["language"] != ENGLISH
    flipped = predictions["gold"].where(own, 1 - predictions["gold"])
    turned = predictions.assign(
        gold=flipped, prediction=predictions["prediction"].where(own, 1 - predictions["prediction"])
    )
    save(tmp_path, alignment, turned if english else predictions[own])
    page = report.write([tmp_path], tmp_path / "out")
    assert says in text_of(page)
    assert "answers are the same as in English" not in text_of(page)
    assert not (tmp_path / "out/plots/consistency_xcopa.svg").exists()
