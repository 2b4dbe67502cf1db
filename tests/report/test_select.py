"""Reports of some models, tasks and languages, and with other names of models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_methods import summary as recorded
from test_report import save
from test_tuning_report import tables, text_of, tuned, write

from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError
from align_pipeline.page.part import Part
from align_pipeline.report import read, report, results, select
from align_pipeline.report.methods import paragraph
from align_pipeline.report.select import Choice

MODELS = ("gemma3-270m", "org/big:v2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a tuned version of one on XCOPA, in four languages with a pivot each; one model on two tasks."""
    folder = tmp_path_factory.mktemp("select")
    for i, model in enumerate(MODELS):
        write(folder / f"{i}", model, tables(model, 0, 0, i), None)
    model = f"{MODELS[0]}+x-seed0"
    write(folder / "tuned", model, tables(model, 0.1, 0.1, 2), tuned("x", "treatment", 0))
    other = [table.assign(task="xstorycloze") for table in tables(MODELS[0], 0, 0, 3)]
    save(folder / "other", *other)
    return folder


@pytest.fixture(scope="module")
def everything(runs: Path) -> read.Tables:
    return read.read([runs])


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "draw", lambda *_: "")


@pytest.mark.parametrize(
    ("choice", "kept", "says"),
    [
        (Choice(), {}, ""),
        (Choice(models=MODELS[:1]), {"model": {MODELS[0]}}, "Left out: 2 models."),
        (Choice(tasks=("xstorycloze",)), {"task": {"xstorycloze"}}, "Left out: 2 models, 1 task."),
        (
            Choice(tasks=("xcopa",), languages=("swh", "tam_Taml")),
            {"task": {"xcopa"}, "language": {"swh_Latn", "tam_Taml"}},
            "Left out: 1 task, 2 languages.",
        ),
        (Choice(languages=("swh", "tur", "tam", "est_Latn")), {}, ""),
    ],
)
def test_the_rows_of_the_names_are_kept(
    choice: Choice, kept: dict[str, set[str]], says: str, everything: read.Tables
) -> None:
    found = select.choose(everything, choice)
    assert found.left_out == says
    for name in ("alignment", "predictions"):
        table, chosen = everything.by_name[name], found.by_name[name]
        mask = pd.Series(True, table.index)
        for column, names in kept.items():
            own = table[column].isin(names)
            if column == "language":  # English stays for the pivots of these languages
                pivots = {f"translation-{code[:2]}" for code in names}
                own |= (table["language"] == ENGLISH) & table["pivot"].isin(pivots)
            mask &= own
        assert len(chosen) > 0
        texts = dict.fromkeys(("model", "task", "language", "pivot", "item_id"), str)
        expected = table[mask].reset_index(drop=True)
        pd.testing.assert_frame_equal(chosen.astype(texts), expected.astype(texts), check_categorical=False)
    names = set(found.by_name["predictions"]["model"])
    assert {summary["model"] for summary in found.summaries} == {s["model"] for s in everything.summaries} & names


def test_another_task_still_says_how_many_layers_there_are(everything: read.Tables) -> None:
    full = tuple({**s, "data": {"dataset": "d", "source": "s"}} for s in everything.summaries)
    found = select.choose(replace(everything, summaries=full), Choice(tasks=("xstorycloze",)))
    assert results.last_layers(found.summaries) == {MODELS[0]: 4}
    assert [s["data"] for s in found.summaries] == [None]
    found = select.choose(replace(everything, summaries=full), Choice(tasks=("xcopa",)))
    assert all(s["data"] for s in found.summaries)


def test_the_paragraph_for_a_paper_is_about_what_was_chosen(everything: read.Tables) -> None:
    codes = sorted({str(code) for code in everything.by_name["predictions"]["language"].unique()} - {ENGLISH})
    about = {"languages": [{"language": code, "n": 10} for code in codes]}
    full = tuple(recorded(model=MODELS[0], task=task, **about) for task in ("xcopa", "xstorycloze"))
    both = replace(everything, summaries=full)
    text = paragraph(select.choose(both, Choice(tasks=("xstorycloze",))).summaries)
    assert "XStoryCloze" in text
    assert "XCOPA" not in text
    text = paragraph(select.choose(both, Choice(models=(MODELS[0],), languages=(codes[0],))).summaries)
    assert text.count("was used in 1 language and English") == 2


def test_a_report_of_a_part_is_that_of_its_folders(runs: Path, everything: read.Tables) -> None:
    apart = results.analyse(read.read([runs / "1"]))
    chosen = results.analyse(select.choose(everything, Choice(models=(MODELS[1],))))
    assert set(chosen.by_name) == set(apart.by_name)
    for name, table in apart.by_name.items():
        pd.testing.assert_frame_equal(chosen.by_name[name], table)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (
            Choice(models=("gemma",)),
            "There is no model 'gemma'; available: gemma3-270m, gemma3-270m+x-seed0, org/big:v2.",
        ),
        (Choice(tasks=("belebele",)), "There is no task 'belebele'; available: xcopa, xstorycloze."),
        (Choice(languages=("deu",)), "There is no language 'deu'; available: est_Latn, swh_Latn, tam_Taml, tur_Latn."),
        (Choice(languages=(ENGLISH,)), f"There is no language '{ENGLISH}'; available: est_Latn"),
        (
            Choice(models=(MODELS[1],), tasks=("xstorycloze",)),
            "There is no row of models=org/big:v2 with the task 'xstorycloze'; available: xcopa.",
        ),
    ],
)
def test_a_name_that_matches_nothing_is_told_what_there_is(choice: Choice, says: str, everything: read.Tables) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        select.choose(everything, choice)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("big:Big", "There is no model 'big'; available: gemma3-270m"),
        ("gemma3-270m", "labels=gemma3-270m gives no label; use labels=<model>:<label>."),
        ("org/big:v2", "There is no model 'org/big'; available: org/big:v2"),
        ("org/big:v2:", "labels=org/big:v2: gives no label"),
        ("gemma3-270m:org/big:v2", "Two models would be called 'org/big:v2'; give each its own label."),
    ],
)
def test_labels_that_do_not_fit_are_told_so(given: str, says: str, everything: read.Tables) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        select.labels_of((given,), everything)


def test_labels_change_names_and_no_number(everything: read.Tables) -> None:
    labels = select.labels_of(("gemma3-270m:A: base", "org/big:v2:B"), everything)
    assert labels == {"gemma3-270m": "A: base", "org/big:v2": "B"}
    before = results.analyse(everything)
    after = select.labelled(before, labels)
    for name in {*results.FILES} & {*before.by_name}:
        old, new = before.by_name[name], after.by_name[name]
        named = ["model", "reference"] if name == "models_differences" else ["model"]
        pd.testing.assert_frame_equal(new.drop(columns=named), old.drop(columns=named))
        for column in named:
            assert not set(labels) & set(new[column])
            assert new[column].tolist() == [labels.get(str(model), model) for model in old[column]]
    assert len(after.by_name["models_differences"]) > 0
    assert len(after.by_name["tuning"]) > 0
    assert {key[0] for key in after.study.blocks} == {"A: base", "B", "gemma3-270m+x-seed0"}
    assert after.notes[0] == "Labels: A: base is gemma3-270m, B is org/big:v2."
    assert not any("tuned version" in note for note in after.notes)
    assert select.labelled(before, {}) is before


def test_the_command_says_what_it_left_out(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"runs={runs}", f"out={tmp_path}", "models=gemma3-270m", "models=org/big:v2", "tasks=xcopa"]
    report.main([*asked, "languages=swh, tur,tam", "labels=gemma3-270m:Gemma,org/big:v2:Big one"])
    told = "Left out: 1 model, 1 task, 1 language."
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[-1]] == [told, f"Report: {tmp_path / 'report.html'}"]
    text = text_of(tmp_path / "report.html")
    for words in (told, "Labels: Gemma is gemma3-270m, Big one is org/big:v2.", "XCOPA, Gemma", "XCOPA, Big one"):
        assert words in text
    assert "est_Latn" not in text
    groups = pd.read_csv(tmp_path / "groups.csv")
    assert set(groups["model"]) == {"Gemma", "Big one"}
    assert set(groups["language"]) == {"swh_Latn", "tur_Latn", "tam_Taml"}


def test_without_a_choice_nothing_is_said(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([f"runs={runs / '1'}", f"out={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"
    assert 1 <= len(lines) - 1 <= 3
    assert all(line.startswith("- ") and "<" not in line.replace("p <", "") for line in lines[:-1])
    assert "Left out" not in text_of(tmp_path / "report.html")
    with pytest.raises(SystemExit) as stopped:
        report.main([f"runs={runs}", f"out={tmp_path}", "models=a,,b"])
    assert str(stopped.value.code) == "Error: models=a,,b has an empty name; separate names by one comma each."


def test_runs_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    for name, seed, limit in (("a", 0, None), ("b", 1, 80), ("c", 2, 20)):
        write(tmp_path / name, "m", tables("m", 0, 0, seed), None)
        path = tmp_path / name / "summary.json"
        config = {"task": {"limit": limit}, "model": {"name": "m"}, "data": "hub", "seed": 0, "languages": {name: {}}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config": config}))
    words = "Compare {0}/a with {0}/b: task.limit is null in the first and 80 in the second."
    with pytest.raises(InputError, match=re.escape(words.format(tmp_path))):
        results.analyse(read.read([tmp_path]))
