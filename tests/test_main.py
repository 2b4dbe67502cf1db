"""The installed command: verbs, the version, and what there is to select."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module, metadata

import pytest
from conftest import REPOSITORY

from align_pipeline import main
from align_pipeline.info import info


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "align_pipeline.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_a_main(verb: str) -> None:
    assert callable(import_module(main.VERBS[verb][0]).main)


def test_the_command_is_installed_under_its_name() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["scripts"] == {"align_pipeline": "align_pipeline.main:main"}


def test_version_and_help_need_no_torch() -> None:
    assert call("--version").stdout.strip() == f"align_pipeline {metadata.version('align_pipeline')}"
    assert all(verb in call().stdout for verb in main.VERBS)
    code = "import sys, align_pipeline.main as m; sys.argv[1:] = ['help']; m.main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split()[-1] == "False"


def test_verbs_pass_their_arguments_on() -> None:
    assert "task: xcopa" in call("run", "task=xcopa", "--cfg", "job").stdout.replace("name", "task")
    assert call("task=xcopa", "--cfg", "job").stdout == call("run", "task=xcopa", "--cfg", "job").stdout
    assert "runs=<folder or glob>" in call("report", "--help").stdout
    assert "tune.steps" in call("tune", "--help").stdout or "steps: 200" in call("tune", "--help").stdout
    wrong = call("cache", "folde=x")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: ")


def test_an_unknown_verb_is_one_sentence() -> None:
    done = call("reprot", "runs=x")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "Error: There is no verb 'reprot'; available: report, audit, cache, comet, run, tune, workspace.\n"
    )


def test_info_lists_the_languages_that_the_data_have(capsys: pytest.CaptureFixture[str]) -> None:
    info(["task=xcopa"])
    text = capsys.readouterr().out
    codes = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert codes == ["ind", "ita", "swh", "tur"]
    assert "data=embedded" in text
    assert "dali, dali_strong, mexa_t" in " ".join(text.split())
    info(["task=xcopa", "model=llama3.1-8b"])  # of the hub nothing is fetched: all languages that the config knows
    codes = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(codes) == 11


def test_info_is_a_flag_of_run_and_mistakes_are_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "align_pipeline.run", "--info", "task=xcopq"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no task 'xcopq'; available: xcopa")
