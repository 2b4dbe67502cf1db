"""The installed command: verbs, the version, and what there is to select."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from align_pipeline import main
from align_pipeline.config import Config, TuningConfig
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


def test_a_job_that_needs_no_statistics_starts_without_them() -> None:
    code = "import sys, align_pipeline.pipeline; from align_pipeline.measurements import registered; registered()"
    code += "; print({'scipy.stats', 'statsmodels', 'altair'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "set()\n"


def test_verbs_pass_their_arguments_on() -> None:
    assert "task: xcopa" in call("run", "task=xcopa", "--cfg", "job").stdout.replace("name", "task")
    assert call("task=xcopa", "--cfg", "job").stdout == call("run", "task=xcopa", "--cfg", "job").stdout
    assert "runs=<folder or glob>" in call("report", "--help").stdout
    assert "tune.steps" in call("tune", "--help").stdout
    wrong = call("cache", "folde=x")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: ")


@pytest.mark.parametrize(("verb", "name"), [("run", "config"), ("tune", "tuning")])
def test_help_fits_two_screens_and_explains_every_group_and_key(verb: str, name: str) -> None:
    text = call(verb, "--help").stdout.rstrip()
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) <= 100
    composed = yaml.safe_load((REPOSITORY / f"conf/{name}.yaml").read_text(encoding="utf-8"))
    groups = {key for one in composed["defaults"] if isinstance(one, dict) for key in one if "override" not in key}
    listed = re.findall(r"^  ([\w/, .]+?)  +\S", text, re.MULTILINE)
    assert {key for line in listed for key in line.split(", ") if (REPOSITORY / "conf" / key).is_dir()} == groups | {
        "hydra/launcher"
    }
    schema = {"config": Config, "tuning": TuningConfig}[name]
    keys = {key.split(".")[0] for line in listed for key in line.split(", ")}
    assert {field.name for field in dataclasses.fields(schema)} - {"named"} <= keys
    assert "named" not in text


def test_info_lists_all_options_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    info(["model", "metric"])
    text = capsys.readouterr().out
    names = re.findall(r"[\w.-]+", text)
    assert all(path.stem in names for group in ("model", "metric") for path in (REPOSITORY / f"conf/{group}").iterdir())


@pytest.mark.parametrize("typed", ["align_pipeline task=xst", "align_pipeline run task=xst"])
def test_a_shell_can_complete_the_command(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", typed)
    monkeypatch.setenv("COMP_POINT", str(len(typed)))
    assert call("-sc", "query=bash").stdout.split() == ["task=xstorycloze"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [("align_pipeline re", ["report"]), ("align_pipeline report ru", []), ("align_pipeline tas", ["task.", "task="])],
)
def test_a_shell_completes_commands_without_an_error(
    typed: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", typed)
    monkeypatch.setenv("COMP_POINT", str(len(typed)))
    done = call("-sc", "query=bash")
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", words)


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "align_pipeline", "--version"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert done.stdout == call("--version").stdout


def test_a_pipe_that_closes_early_costs_no_traceback() -> None:
    command = [sys.executable, "-m", "align_pipeline.cache", "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as head does
        assert not process.stderr.read()


def test_an_unknown_verb_is_one_sentence() -> None:
    done = call("reprot", "runs=x")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "Error: There is no command 'reprot'; available: report, audit, cache, comet, run, tune, workspace.\n"
    )


def test_info_lists_the_languages_that_the_data_have(capsys: pytest.CaptureFixture[str]) -> None:
    info(["task=xcopa"])
    text = capsys.readouterr().out
    codes = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert codes == ["ind", "ita", "swh", "tur"]
    assert "data=embedded" in text
    assert "dali, dali_strong, mexa_t" in " ".join(text.split())
    assert "it has: set/embedded (4 of 7)." in " ".join(text.split())
    info(["task=xcopa", "model=llama3.1-8b"])  # of the hub nothing is fetched: all languages that the config knows
    codes = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(codes) == 11
    info(["task=xnli", "data=hub"])
    assert "set/xnli (14 of 14)" in " ".join(capsys.readouterr().out.split())


def test_info_on_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("[mine]")
    folder.mkdir()
    for code in ("eng_Latn", "swh_Latn"):
        (folder / f"{code}.jsonl").touch()
    info(["task=choice", f'task.files="{folder}/LANG.jsonl"'])
    text = " ".join(capsys.readouterr().out.split())
    assert "choice: own files, split test" in text
    assert "[mine]/LANG.jsonl" in text
    assert "how many of them it has: none." in text


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
