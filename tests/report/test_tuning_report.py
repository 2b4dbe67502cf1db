"""Tuned models in the report: which tables are compared, what the page says, and what stays as it was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from align_pipeline.data.items import ENGLISH
from align_pipeline.page.part import Part
from align_pipeline.report import read, report, results
from align_pipeline.report.page import headlines

LANGUAGES = ("swh_Latn", "tur_Latn", "tam_Taml", "est_Latn")
TRAINED = LANGUAGES[:3]
LAYERS, ITEMS = 5, 120
METRICS = (("dali", "last"),)
PRESETS = (("midalign", "treatment", 0.12, 0.25), ("shuffled", "placebo", 0.0, 0.02), ("lm", "baseline", 0.05, 0.05))


def tables(model: str, rises: float, aligns: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers and alignment of a model; the items' ease is the same for all models.

    Args:
        rises: added to the share of right answers in the trained languages.
        aligns: added to the share of aligned items in the middle layers of the trained languages.
    """
    rng, shared = np.random.default_rng([seed, 5]), np.random.default_rng(0)
    ease, ids = shared.uniform(-0.25, 0.25, ITEMS), [f"{i:03d}" for i in range(ITEMS)]
    own = shared.random((len(LANGUAGES), ITEMS))
    answers, rows = [], []
    middle = np.exp(-0.5 * (np.arange(LAYERS) - 2) ** 2)
    for u, language in enumerate(LANGUAGES):
        pivot = f"translation-{language[:2]}"
        trained = language in TRAINED
        stays = rng.random(ITEMS) < 0.75  # of the base's luck with an item
        luck = np.where(stays, own[u], rng.random(ITEMS))
        right = luck < 0.55 + ease + rises * trained
        english = np.where(rng.random(ITEMS) < 0.8, own[0], rng.random(ITEMS)) < 0.75 + ease
        for name, correct in ((language, right), (ENGLISH, english)):
            gold = np.arange(ITEMS) % 2
            answers.append(
                pd.DataFrame(
                    {
                        **{
                            "model": model,
                            "task": "xcopa",
                            "language": name,
                            "pivot": pivot,
                            "item_id": ids,
                            "gold": gold,
                        },
                        "prediction": np.where(correct, gold, 1 - gold),
                        "correct": correct.astype(np.int8),
                        "confidence": rng.uniform(0.5, 1, ITEMS),
                        "cluster": [f"p{i // 2}" for i in range(ITEMS)],
                    }
                )
            )
        for metric, pooling in METRICS:
            for layer in range(LAYERS):
                share = middle[layer] * (0.45 + 0.06 * u + 0.4 * ease + aligns * trained + 0.15 * (right - 0.5))
                value = (rng.random(ITEMS) < share).astype(np.int8)
                key = {"model": model, "task": "xcopa", "language": language, "pivot": pivot, "metric": metric}
                key |= {"pooling": pooling, "layer": layer, "item_id": ids, "value": value}
                rows.append(pd.DataFrame(key))
    alignment, predictions = pd.concat(rows), pd.concat(answers)
    return alignment, predictions.drop_duplicates(["language", "pivot", "item_id"])


def write(folder: Path, model: str, made: tuple[pd.DataFrame, pd.DataFrame], tuned: dict[str, Any] | None) -> None:
    folder.mkdir(parents=True)
    for name, table in zip(("alignment", "predictions"), made, strict=True):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    summary = {"model": model, "task": "xcopa", "num_layers": LAYERS - 1, "tuned": tuned}
    (folder / "summary.json").write_text(json.dumps(summary))


def tuned(preset: str, role: str, seed: int, overlap: int = 0, **more: Any) -> dict[str, Any]:
    about = {"name": f"{preset}-seed{seed}", "base": "gemma3-270m", "preset": preset, "role": role, "method": "lora"}
    about |= {"languages": list(TRAINED), "seed": seed, "steps": 100, "tokens": 12345, "pairs": 897}
    return about | {"data": "FLORES+ dev", "overlap": overlap, "overlap_allowed": overlap > 0} | more


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and three presets with two seeds each."""
    folder = tmp_path_factory.mktemp("tuned")
    write(folder / "base", "gemma3-270m", tables("gemma3-270m", 0, 0, 0), None)
    for i, (preset, role, rises, aligns) in enumerate(PRESETS):
        for seed in (0, 1):
            model = f"gemma3-270m+{preset}-seed{seed}"
            made = tables(model, rises, aligns, 1 + 10 * i + seed)
            write(folder / model, model, made, tuned(preset, role, seed, overlap=12 * (role == "baseline")))
    return folder


def draw_tuning_only(patch: pytest.MonkeyPatch) -> None:
    """Other figures have tests of their own, and take time."""
    draw = Part.draw
    patch.setattr(Part, "draw", lambda part, of, *words: draw(part, of, *words) if words[0] == "tuning" else "")


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        draw_tuning_only(patch)
        return report.write([runs], tmp_path_factory.mktemp("report")).parent


def text_of(page: Path) -> str:
    """The visible words of a page."""
    whole = re.sub(
        r"data:[^\"]+|<style.*?</style>|<script.*?</script>|<aside>.*?</aside>",
        "",
        page.read_text(encoding="utf-8"),
        flags=re.S,
    )
    return " ".join(re.sub(r"<[^>]+>", " ", whole).split())


def test_the_tables_are_written_with_their_columns(written: Path) -> None:
    tables = {name: pd.read_csv(written / f"{name}.csv") for name in results.FILES if name.startswith("tuning")}
    assert not (written / "models.csv").exists()  # tuned models are compared with their base alone
    assert sorted(tables) == ["tuning", "tuning_alignment", "tuning_mediation", "tuning_moves"]
    for table in tables.values():
        assert set(table["model"]) == {"gemma3-270m"}
        assert set(table["preset"]) == {"midalign", "shuffled", "lm"}
        assert set(table["seeds"]) == {2}
    accuracy = tables["tuning"]
    assert set(accuracy["seed"]) == {"mean", "0", "1"}
    assert set(accuracy.loc[accuracy["seed"] == "mean", "against"]) == {"base", "shuffled"}
    assert set(accuracy.loc[accuracy["preset"] == "shuffled", "against"]) == {"base"}
    assert len(tables["tuning_mediation"]) == 3 * (2 + len(TRAINED))
    missing = tables["tuning_mediation"]["effect"].isna()
    assert tables["tuning_mediation"].loc[missing, "note"].str.startswith("not defined, because").all()


def test_accuracy_is_that_of_the_predictions(runs: Path, written: Path) -> None:
    table = pd.read_csv(written / "tuning.csv").set_index(["preset", "seed", "against", "language"])
    right = {folder.name: pd.read_parquet(folder / "predictions.parquet") for folder in runs.iterdir()}
    share = {name: t.groupby("language")["correct"].mean() for name, t in right.items()}
    seeds = [share[f"gemma3-270m+midalign-seed{s}"] for s in (0, 1)]
    for language in (*LANGUAGES, ENGLISH):
        row = table.loc["midalign", "mean", "base", language]
        assert row["before"] == pytest.approx(share["base"][language])
        assert row["after"] == pytest.approx(np.mean([one[language] for one in seeds]))
        assert row["trained"] == (language in TRAINED)
    pooled = table.loc["midalign", "0", "base", "trained languages"]
    assert pooled["difference"] == pytest.approx((seeds[0] - share["base"])[list(TRAINED)].mean())


def test_the_chapter_of_the_base_says_what_changed_and_others_do_not(written: Path) -> None:
    text = text_of(written / "report.html")
    table = pd.read_csv(written / "tuning.csv").set_index(["preset", "seed", "against", "language"])
    row = table.loc["midalign", "mean", "shuffled", "trained languages"]
    points = f"{100 * row['difference']:+.1f} points [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert f"Does midalign raise accuracy beyond the placebo shuffled? {points} over 3 trained languages" in text
    assert text.count(points) == 3  # at the top, in the box of answers, and in the section
    assert text.count("Before and after: gemma3-270m and its tuned versions") == 1
    assert text.count("Does tuning raise accuracy? midalign, trained languages:") == 1
    assert "12 of the sentences that lm was trained on are in the evaluated texts" in text
    assert "sentences that midalign was" not in text
    assert "An association: it does not show that one caused the other." in text
    for question in (
        "Is English kept or lost? midalign",
        "placebos and baselines? shuffled (placebo)",
        "Are more items aligned",
    ):
        assert question in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    names = {path.name for path in (written / "plots").iterdir()}
    figures = {"tuning_gemma3-270m_xcopa"} | {
        f"tuning_gemma3-270m_xcopa_{metric}_{pooling}" for metric, pooling in METRICS
    }
    assert {f"{name}.{form}" for name in figures for form in ("png", "svg")} <= names


def test_the_console_says_which_task_and_model_an_answer_is_about() -> None:
    card = '<h3 class="question">Better?</h3><p class="answer"><b>r = {}</b> undecided.</p>'
    folded = "<details><summary>{}, m</summary>{}</details>"
    aside, head = "<aside><summary>Contents</summary></aside>", '<h2 id="in-short">In short</h2>'
    several = [folded.format(task, card.format(k)) for k, task in enumerate(("Belebele", "XCOPA"))]
    assert headlines(aside + head + "".join(several)) == [
        "Belebele, m: r = 0 undecided.",
        "XCOPA, m: r = 1 undecided.",
    ]
    assert headlines(aside + head + card.format(0)) == ["r = 0 undecided."]


def test_the_page_begins_with_the_treatment_beyond_its_placebo(written: Path) -> None:
    first = headlines((written / "report.html").read_text(encoding="utf-8"))[0]
    accuracy, alignment = (pd.read_csv(written / f"{name}.csv") for name in ("tuning", "tuning_alignment"))
    own = alignment[alignment["at"] == "middle_third"], accuracy[accuracy["seed"] == "mean"]
    for what, table in zip(("Alignment", "Accuracy"), own, strict=True):
        pair = (table["preset"] == "midalign") & (table["against"] == "shuffled")
        (row,) = table[pair & (table["language"] == "trained languages")].itertuples()
        assert f"{what} {100 * row.difference:+.1f} points" in first
    assert "it rose" in first
    assert "midalign beyond its placebo shuffled" in first


def test_the_middle_third_is_of_the_models_depth_also_if_few_layers_are_in_the_tables(
    runs: Path, tmp_path: Path
) -> None:
    for name in ("base", "gemma3-270m+midalign-seed0"):
        shutil.copytree(runs / name, tmp_path / name)
        table = pd.read_parquet(path := tmp_path / name / "alignment.parquet")
        table[table["layer"] < 3].to_parquet(path)
    tables = results.analyse(read.read([tmp_path])).by_name["tuning_alignment"]
    table = tables[tables["language"] == "swh_Latn"].set_index("at")["difference"]
    of = tables[(tables["language"] == "swh_Latn") & (tables["at"] == "layer")].set_index("layer")["difference"]
    assert sorted(of.index) == [0, 1, 2]
    assert table["middle_third"] == pytest.approx(of[2])  # L is 4: from 1.33 to 2.67


def test_without_a_tuned_model_nothing_changes(runs: Path, tmp_path: Path) -> None:
    page = report.write([runs / "base"], tmp_path)
    assert not list(tmp_path.glob("tuning*"))
    assert "tuning" not in text_of(page)


def test_a_tuned_model_that_is_as_before_has_no_intervals(tmp_path: Path) -> None:
    base, model = tables("gemma3-270m", 0, 0, 0), "gemma3-270m+none-seed0"
    write(tmp_path / "base", "gemma3-270m", base, None)
    write(tmp_path / model, model, tuple(table.assign(model=model) for table in base), tuned("none", "treatment", 0))
    text = text_of(report.write([tmp_path], tmp_path / "report"))
    assert "interval and p not defined" in (tmp_path / "report" / "tuning.csv").read_text()
    assert "0.0 points" in text
    assert "[0.0, 0.0]" not in text


def test_without_its_base_a_tuned_model_is_named_in_a_note(runs: Path) -> None:
    found = results.analyse(read.read([runs / "gemma3-270m+midalign-seed0"]))
    assert found.by_name["tuning"].empty
    (note,) = [note for note in found.notes if "tuned" in note]
    assert note.startswith("gemma3-270m+midalign-seed0 is a tuned version of gemma3-270m, which has no tables of xcopa")


@pytest.mark.parametrize("kind", ["predictions", "alignment", "untrained languages"])
def test_a_part_of_the_comparison_is_shown(
    kind: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_tuning_only(monkeypatch)
    for name in ("base", "gemma3-270m+midalign-seed0"):
        made = [pd.read_parquet(runs / name / f"{table}.parquet") for table in ("alignment", "predictions")]
        model = str(made[0]["model"].iloc[0])
        about = tuned(
            "midalign", "treatment", 0, languages=["zul_Latn"] if kind == "untrained languages" else list(TRAINED)
        )
        write(tmp_path / name, model, (made[0], made[1]), None if name == "base" else about)
        if kind in ("predictions", "alignment"):
            (tmp_path / name / f"{'predictions' if kind == 'alignment' else 'alignment'}.parquet").unlink()
    text = text_of(report.write([tmp_path], tmp_path / "out"))
    section = text[text.index("Before and after") :]
    assert ("Against gemma3-270m:" in section) == (kind != "alignment")
    assert ("Are more items aligned" in section) == (kind != "predictions")
    assert ("over 4 languages" in section) == (kind == "untrained languages")
    assert "There is no placebo to compare with." in section or kind == "alignment"
    over = "other" if kind == "untrained languages" else "trained"
    assert (f"Does tuning raise accuracy? midalign, {over} languages:" in text) == (kind != "alignment")
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
