"""The statistics of translation against scipy, literal loops and planted truths; the report's part on it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from align_pipeline.errors import InputError
from align_pipeline.inference import items
from align_pipeline.inference import study as analysis
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.alignment.table import ALIGNMENT
from align_pipeline.measurements.translation import statistics as translation_analysis
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.report import read, report, results, select

LANGUAGES = ["deu_Latn", "fra_Latn", "ind_Latn", "ita_Latn", "spa_Latn", "swh_Latn", "tur_Latn"]


def simulate(seed: int = 0, sentences: int = 60, layers: int = 4, effect: float = 8.0) -> dict[str, pd.DataFrame]:
    """Tables of a model that aligns some languages better than others, and translates those, and aligned sentences,
    better into English (`effect` in points); out of English, neither matters.
    """
    rng = np.random.default_rng(seed)
    alignment, translations, predictions = [], [], []
    for place, language in enumerate(LANGUAGES):
        ability = 0.2 + 0.09 * place
        value = rng.random((layers, sentences)) < ability * np.array([0.2, 0.6, 1.0, 0.5])[:layers, None]
        for layer in range(layers):
            rows = {"item_id": [str(i) for i in range(sentences)], "value": value[layer].astype(np.int8)}
            alignment.append(pd.DataFrame(rows).assign(language=language, layer=layer))
        for direction in ("en-xx", "xx-en"):
            matters = effect * (direction == "xx-en")
            chrf = 30 + 10 * matters * ability / 8 + matters * value[2] + rng.normal(0, 6, sentences)
            made = pd.DataFrame({"item_id": [str(i) for i in range(sentences)], "chrf": chrf, "bleu": chrf / 2})
            made["source"] = [f"source {i}" for i in range(sentences)]
            made["hypothesis"] = [f"{language} {direction} {i}" for i in range(sentences)]
            translations.append(made.assign(direction=direction, language=language, reference="r", cut_off=0))
        correct = (rng.random(sentences) < ability).astype(int)
        predictions.append(
            pd.DataFrame({"item_id": [f"q{i}" for i in range(sentences)], "correct": correct}).assign(language=language)
        )
    common = {"model": "m", "task": "flores"}
    aligned = pd.concat(alignment).assign(**common, pivot="eng_Latn", metric="mexa", pooling="weighted", margin=0.0)
    answered = pd.concat(predictions).assign(model="m", task="belebele", pivot="eng_Latn", gold=0, confidence=0.5)
    answered["prediction"] = 1 - answered["correct"]
    translated = pd.concat(translations).assign(**common, spbleu=np.nan, comet=np.nan, cometkiwi=np.nan)
    return {
        "alignment": aligned[ALIGNMENT.names].reset_index(drop=True),
        "predictions": answered.reindex(columns=[*PREDICTIONS.names]).dropna(axis="columns").reset_index(drop=True),
        "translations": translated[TRANSLATIONS.names].reset_index(drop=True),
    }


def findings(tables: dict[str, pd.DataFrame], seed: int = 0) -> dict[str, pd.DataFrame]:
    study = analysis.join(tables["alignment"], tables["predictions"], {"m": 4})
    cells, groups = analysis.tally(study), analysis.groups(study.predictions)
    found = translation_analysis.analyse(tables["translations"], study, cells, groups, seed)
    return {name.removeprefix("translation_"): table for name, table in found.items()}


TABLES = simulate()
FOUND = findings(TABLES)


def only(table: pd.DataFrame, **values: Any) -> Any:
    """The one row with these values."""
    (row,) = table[(table[list(values)] == pd.Series(values)).all(axis=1)].itertuples()
    return row


# ---- sentences


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=12), st.lists(st.integers(0, 6), min_size=2, max_size=12))
def test_mann_whitney_against_scipy_and_loops(first: list[int], second: list[int]) -> None:
    a, b = np.array(first, float), np.array(second, float)
    row = translation_analysis.mann_whitney(a, b)
    wins = [float(np.sign(x - y)) for x in a for y in b]
    assert row["rank_biserial"] == pytest.approx(sum(wins) / len(wins))
    if np.ptp(np.concatenate([a, b])) == 0:
        assert "same score" in row["note"]
        return
    for key, alternative in (("p_one_sided", "greater"), ("p", "two-sided")):
        expected = stats.mannwhitneyu(a, b, alternative=alternative, method="asymptotic").pvalue
        assert row[key] == pytest.approx(expected)
    # DeLong, DeLong and Clarke-Pearson (1988), literally.
    psi = [[float(x > y) + 0.5 * float(x == y) for y in b] for x in a]
    variance = np.var(np.mean(psi, axis=1), ddof=1) / len(a) + np.var(np.mean(psi, axis=0), ddof=1) / len(b)
    half = 2 * 1.96 * np.sqrt(variance)
    assert row["low"] == pytest.approx(max(row["rank_biserial"] - half, -1), abs=1e-9)
    assert row["high"] == pytest.approx(min(row["rank_biserial"] + half, 1), abs=1e-9)


def test_the_interval_covers() -> None:
    """The 95% interval holds the truth about as often as it says."""
    rng = np.random.default_rng(1)
    truth = 2 * stats.norm.cdf(0.5 / np.sqrt(2)) - 1
    rows = [translation_analysis.mann_whitney(rng.normal(0.5, 1, 40), rng.normal(0, 1, 60)) for _ in range(400)]
    assert 0.91 < np.mean([row["low"] <= truth <= row["high"] for row in rows]) < 0.98


def test_sentences_are_those_of_the_tables() -> None:
    aligned = TABLES["alignment"]
    value = aligned[(aligned["language"] == "ita_Latn") & (aligned["layer"] == 1)].set_index("item_id")["value"]
    own = TABLES["translations"]
    own = own[(own["language"] == "ita_Latn") & (own["direction"] == "xx-en")].set_index("item_id")["chrf"]
    a, b = own[value[value == 1].index], own[value[value == 0].index]
    row = only(FOUND["sentences"], language="ita_Latn", direction="xx-en", score="chrf", layer=1)
    assert (row.n_aligned, row.n_other) == (len(a), len(b))
    assert (row.mean_aligned, row.mean_other) == (pytest.approx(a.mean()), pytest.approx(b.mean()))
    assert row.p_one_sided == pytest.approx(stats.mannwhitneyu(a, b, alternative="greater", method="asymptotic").pvalue)
    layers = FOUND["sentences"][
        (FOUND["sentences"][["language", "direction", "score"]] == ["ita_Latn", "xx-en", "chrf"]).all(axis=1)
    ]
    assert layers["p_holm"].to_numpy() == pytest.approx(items.holm(layers["p_one_sided"].to_numpy()))
    assert layers["best_layer"].sum() == 1


def test_planted_effects_are_found_where_they_are() -> None:
    best = FOUND["sentences"][FOUND["sentences"]["best_layer"].astype(bool) & (FOUND["sentences"]["score"] == "chrf")]
    median = best.groupby("direction")["rank_biserial"].median()
    assert median["xx-en"] > 0.4
    assert abs(median["en-xx"]) < 0.2
    into, out = (only(FOUND["level"], direction=d, score="chrf", reduce="max") for d in ("xx-en", "en-xx"))
    assert into.pearson > 0.8 > out.pearson
    assert into.pearson_p < 0.05
    over = only(FOUND["asymmetry"], score="chrf", language="all")
    assert over.difference > 0
    assert over.p == pytest.approx(2 / 2**7)  # all seven of one sign


# ---- languages


def exact_p(x: pd.Series, y: pd.Series) -> float:
    """The share of all orders of y whose Spearman correlation with x is as far from 0 as that of the data."""
    both = pd.concat([x, y], axis=1).rank().to_numpy()
    found = [abs(np.corrcoef(both[:, 0], order)[0, 1]) for order in itertools.permutations(both[:, 1])]
    return float(np.mean(np.array(found) >= found[0] - 1e-9))


def test_level_against_scipy() -> None:
    shares = TABLES["alignment"].groupby(["language", "layer"])["value"].mean().groupby("language")
    quality = TABLES["translations"][TABLES["translations"]["direction"] == "xx-en"].groupby("language")["chrf"].mean()
    for reduce, x in (("max", shares.max()), ("mean", shares.mean())):
        row = only(FOUND["level"], direction="xx-en", score="chrf", reduce=reduce)
        assert row.n == 7
        for name, test in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            expected = test(x, quality)
            assert getattr(row, name) == pytest.approx(expected.statistic)
            p = expected.pvalue if name == "pearson" else exact_p(x, quality)
            assert getattr(row, f"{name}_p") == pytest.approx(p)
            if getattr(row, name) > 1 - 1e-9:  # of seven languages in the same order
                assert np.isnan(getattr(row, f"{name}_low"))
                assert row.note.startswith("interval of Spearman's correlation not defined")
            else:
                assert getattr(row, f"{name}_low") <= getattr(row, name) <= getattr(row, f"{name}_high")


def test_accuracy_against_scipy() -> None:
    accuracy = TABLES["predictions"].groupby("language")["correct"].mean()
    quality = TABLES["translations"][TABLES["translations"]["direction"] == "en-xx"].groupby("language")["bleu"].mean()
    row = only(FOUND["accuracy"], task="belebele", direction="en-xx", score="bleu")
    assert row.spearman == pytest.approx(stats.spearmanr(quality, accuracy).statistic)


def test_directions_against_loops() -> None:
    row = only(FOUND["directions"], score="chrf", reduce="max")
    into, out = (only(FOUND["level"], direction=d, score="chrf", reduce="max") for d in ("xx-en", "en-xx"))
    assert row.spearman_xx_en == pytest.approx(into.spearman)
    assert row.spearman_en_xx == pytest.approx(out.spearman)
    assert row.difference == pytest.approx(into.spearman - out.spearman)
    points = FOUND["points"][(FOUND["points"]["score"] == "chrf") & (FOUND["points"]["reduce"] == "max")]
    wide = points.pivot(index="language", columns="direction", values="quality")
    a = points.drop_duplicates("language").set_index("language")["alignment"].reindex(wide.index).to_numpy()
    ranks = [stats.rankdata(wide[d]) for d in ("en-xx", "xx-en")]
    extreme = 0
    for swaps in range(2**7):  # every one of the swaps that the test draws from
        swap = np.array([swaps >> k & 1 for k in range(7)], bool)
        one, two = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
        difference = stats.spearmanr(a, two).statistic - stats.spearmanr(a, one).statistic
        extreme += abs(difference) >= abs(row.difference) - 1e-12
    assert row.p == pytest.approx(extreme / 2**7, abs=0.04)


def test_asymmetry_against_scipy() -> None:
    own = TABLES["translations"][TABLES["translations"]["language"] == "swh_Latn"]
    wide = own.pivot(index="item_id", columns="direction", values="chrf")
    difference = wide["xx-en"] - wide["en-xx"]
    row = only(FOUND["asymmetry"], score="chrf", language="swh_Latn")
    assert row.p == pytest.approx(stats.wilcoxon(difference).pvalue)
    interval = stats.ttest_rel(wide["xx-en"], wide["en-xx"]).confidence_interval()
    assert (row.low, row.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert row.difference == pytest.approx(difference.mean())
    single = FOUND["asymmetry"][(FOUND["asymmetry"]["score"] == "chrf") & (FOUND["asymmetry"]["language"] != "all")]
    assert single["p_holm"].to_numpy() == pytest.approx(items.holm(single["p"].to_numpy()))


def test_scores_and_counts() -> None:
    tables = dict(TABLES)
    changed = tables["translations"].copy()
    first = changed.index[(changed["language"] == "deu_Latn") & (changed["direction"] == "en-xx")][:4]
    changed.loc[first[0], "hypothesis"] = ""
    changed.loc[first[1:3], "hypothesis"] = changed.loc[first[1:3], "source"]
    changed.loc[first[2], "reference"] = changed.loc[first[2], "source"]  # what is right is no copy
    changed.loc[first, "cut_off"] = 1
    row = only(translation_analysis.scores(changed), language="deu_Latn", direction="en-xx")
    assert (row.n, row.empty, row.copies, row.cut_off) == (60, 1 / 60, 1 / 60, 4 / 60)


def test_too_few_languages_say_so() -> None:
    few = {name: table[table["language"].isin(LANGUAGES[:2])] for name, table in TABLES.items()}
    found = findings(few)
    assert set(found["level"]["note"]) == {"not defined, because there are only 2 languages"}
    assert found["level"]["pearson"].isna().all()
    assert found["directions"]["note"].str.contains("fewer than 5 languages").all()


def test_same_numbers_whatever_the_order_and_what_else_is_there() -> None:
    shuffled = {name: table.sample(frac=1, random_state=3) for name, table in TABLES.items()}
    again = findings(shuffled)
    other = {name: pd.concat([table, table.assign(model="n")]) for name, table in TABLES.items()}
    more = findings(other)
    for name, expected in FOUND.items():
        pd.testing.assert_frame_equal(again[name], expected)
        table = more[name]
        pd.testing.assert_frame_equal(table[table["model"] == "m"].reset_index(drop=True), expected)


def test_repeated_rows_count_once_and_must_agree() -> None:
    translations = TABLES["translations"]
    twice = pd.concat([translations, translations.assign(comet=0.5)])
    table = translation_analysis.unique(twice)
    assert len(table) == len(translations)
    assert (table["comet"] == 0.5).all()
    with pytest.raises(InputError, match="translations that occur more than once"):
        translation_analysis.unique(pd.concat([translations, translations.assign(hypothesis="x")]))


# ---- the report


def write(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    folder.mkdir()
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)


def test_the_report_tells_it(tmp_path: Path) -> None:
    write(tmp_path / "run", TABLES)
    page = report.write([tmp_path / "run"], tmp_path / "report").read_text(encoding="utf-8")
    for name, expected in ((name, table) for name, table in FOUND.items() if name != "points"):
        assert len(pd.read_csv(tmp_path / "report" / f"translation_{name}.csv")) == len(expected)
    into = only(FOUND["level"], direction="xx-en", score="chrf", reduce="max")
    assert f"Pearson r = {into.pearson:.2f}" in page
    assert "<b>Directions.</b> Mean chrF++ is" in page
    assert "Aligned sentences have a higher chrF++ in" in page
    assert "accuracy against translation" in page
    stems = {path.stem for path in (tmp_path / "report" / "plots").glob("*.png")}
    assert {"translation_flores_flores_mexa_weighted", "directions_flores", "sentences_flores_mexa_weighted"} <= stems


def test_one_language_is_counted_as_one_and_only_those_drawn_are_counted(tmp_path: Path) -> None:
    few = TABLES["translations"]["language"].unique()[:2]
    both = {name: table[table["language"].isin([*few, "eng_Latn"])] for name, table in TABLES.items()}
    never = both["alignment"].assign(value=lambda t: t["value"].where(t["language"] != few[1], 0))
    write(tmp_path / "run", {**both, "alignment": never})
    tables = read.read([tmp_path / "run"])
    page = report.save(results.analyse(tables), tmp_path / "two").read_text(encoding="utf-8")
    assert "over 2 languages" in (text := " ".join(page.split()))
    drawn = "than another sentence than lower, with its 95% interval; n = 1 language."  # the other has none aligned
    assert drawn in text
    chosen = select.choose(tables, select.Choice(languages=(few[0],)))
    page = report.save(results.analyse(chosen), tmp_path / "one").read_text(encoding="utf-8")
    assert "over 1 language (" in (text := " ".join(page.split()))
    assert not re.search(r"\b1 languages", text)


def test_a_report_of_translations_alone(tmp_path: Path) -> None:
    one = TABLES["translations"]
    write(tmp_path / "run", {"translations": one[one["direction"] == "en-xx"].drop(columns=["spbleu", "comet"])})
    page = report.write([tmp_path / "run"], tmp_path / "report").read_text(encoding="utf-8")
    assert "FLORES+" in page
    assert len(pd.read_csv(tmp_path / "report" / "translation_scores.csv")) == 7
