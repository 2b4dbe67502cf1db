"""The documentation: its commands compose, its examples run, its site builds."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import REPOSITORY, compose, compose_tuning, write_hub
from hydra.utils import instantiate
from processes import Command

from align_pipeline import pipeline
from align_pipeline.tune.tune import tune

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
NOT_RUN = ("--config-dir", " ...", "--help", "model.tuned", "task.files")
RUN, TUNE = "python -m align_pipeline.run ", "python -m align_pipeline.tune "


def commands(verb: str) -> list[tuple[str, str]]:
    """(page, command) of every shell line of the pages that runs a job, without what only a folder of one's own has."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if verb in line and not any(word in line for word in NOT_RUN):
                    found.append((page.name, line[line.index(verb) + len(verb) :]))
    return found


def first_job(command: str) -> list[str]:
    """The overrides of a command's first job; a glob stands for a language that there is."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [word for word in shlex.split(command, comments=True) if word not in ("-m", "&")]
    kept = []
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element()
        if key.startswith("hydra"):
            continue
        if override.is_sweep_override():
            values = [] if "glob(" in str(override.input_line) else list(override.sweep_string_iterator())
            kept.append(f"{key}={values[0] if values else 'swh'}")
        else:
            kept.append(str(override.input_line))
    return kept


NOT_EMBEDDED = ("xnli", "nli")
"""Tasks whose data do not ship with the package; their commands are composed, and their tasks built."""


@pytest.mark.parametrize(("page", "command"), commands(RUN), ids=lambda value: value[:60])
def test_every_command_runs(page: str, command: str, tmp_path: Path) -> None:
    """As it stands, but for the model, the data and how many items: those that ship with the package, and two."""
    asked = first_job(command)
    config = compose(*asked)
    assert config.languages
    assert config.task["name"]
    if config.task["name"] in NOT_EMBEDDED:
        assert instantiate(config.task).name == config.task["name"]
        return
    others = ("model", "data=", "task.limit=", "task.dataset=", "task.pivot=")
    kept = [one for one in asked if not one.startswith(others)]
    small = ["model=tiny", "data=embedded", "task.limit=2", f"cache={tmp_path / 'cache'}"]
    if any(one.startswith("lang=") and "set/" not in one for one in kept):
        there = {"deu", "fra", "ind", "ita", "spa", "swh", "tur"} & set(config.languages)
        kept = [one for one in kept if not one.startswith("lang=")]
        small.append(f"lang=[{','.join(sorted(there) or ['swh'])}]")
    if config.task["name"] == "flores":
        small += ["task.max_new_tokens=2", "task.resamples=10"]
    done = pipeline.run(compose(*kept, *small), tmp_path / "run", {})
    assert done is not None
    assert (tmp_path / "run/summary.json").exists()


@pytest.mark.parametrize(("page", "command"), commands(TUNE), ids=lambda value: value[:60])
def test_every_training_runs(page: str, command: str, tmp_path: Path) -> None:
    """As it stands, but for the model, the data and how long."""
    asked = first_job(command)
    assert compose_tuning(*asked).languages
    kept = [one for one in asked if not one.startswith(("model", "data=", "tune.pairs", "tune.steps", "lang="))]
    small = ["model=tiny", "data=embedded", "lang=swh", "tune.steps=1", "tune.pairs.limit=60", "tune.held_out=10"]
    small += ["tune.micro_batch=4", "task_items=4", "wandb.mode=disabled"]
    tune(compose_tuning(*kept, *small), tmp_path, {})
    assert (tmp_path / "tuning.json").exists()


def test_the_readme_is_a_page() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (REPOSITORY / link).exists(), link


def test_the_pages_link_to_what_there_is() -> None:
    for page in PAGES[1:]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_site_builds(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed (extra docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference/index.html").read_text(encoding="utf-8")
    for word in ("num_fewshot", "model.too_long", "batch_tokens", "required", "option_similarity", "donor_gold"):
        assert word.rpartition(".")[2] in reference, word
    assert "Common jobs" in (tmp_path / "index.html").read_text(encoding="utf-8")


# ---- docs/extend.md, as a stranger would follow it


def test_no_example_is_longer_than_a_screen() -> None:
    page = (REPOSITORY / "docs/extend.md").read_text(encoding="utf-8")
    for path, content in re.findall(r"```\w+\n(?:#|{#) file: (\S+)(?: #})?\n(.*?)```", page, re.DOTALL):
        assert len(content.splitlines()) <= 30, path


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extend") / "mine"
    page = (REPOSITORY / "docs/extend.md").read_text(encoding="utf-8")
    for path, content in re.findall(r"```\w+\n(?:#|{#) file: (\S+)(?: #})?\n(.*?)```", page, re.DOTALL):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    # What pip writes of pyproject.toml's entry points.
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = folder / f"{project['name']}-{project['version']}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    (told / "entry_points.txt").write_text(points)
    rows = [
        {"id": k, "question": f"What is {k}?", "right": f"{k}", "wrong": f"{k + 1}", "first": k % 2} for k in range(9)
    ]
    tokens = [{**row, "question": f"{row['id']} li seme?"} for row in rows]
    write_hub(folder / "data", "our/quiz", {"en": {"test": rows}, "tok": {"test": tokens}})
    return folder


def extended(mine: Path, log: Path, *arguments: str) -> dict[str, Any]:
    command = ["--config-dir", str(mine / "conf"), *arguments, f"hydra.run.dir={log / 'run'}"]
    environment = {"PYTHONPATH": str(mine), "WANDB_MODE": "disabled"}
    done = Command(mine.parent, *command, log=log / "log", path=[str(mine)], **environment).wait()
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads((log / "run/summary.json").read_text())
    return found


def test_a_metric_and_a_measurement_of_ones_own(mine: Path, tmp_path: Path) -> None:
    content = extended(mine, tmp_path, "metric=[dali,close,mean_margin]", "lang=[swh]", "task.limit=4")
    (row,) = content["languages"]
    assert set(row["metrics"]) == {"dali", "close", "mean_margin"}
    alignment = pd.read_parquet(tmp_path / "run/alignment.parquet").set_index("metric")
    assert alignment.loc["mean_margin", "value"].isna().all()
    assert set(alignment.loc["close", "value"]) <= {0, 1}
    norms = pd.read_parquet(tmp_path / "run/norms.parquet")
    assert norms["norm"].tolist() == row["norms"]
    assert norms["layer"].tolist() == list(range(9))
    assert (norms["norm"] > 0).all()
    assert content["tokens"]["norms"] > 0

    code = (
        "import sys; from align_pipeline.report import report; report.main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, f"runs={tmp_path / 'run'}", f"out={tmp_path / 'report'}"]
    environment = {**os.environ, "PYTHONPATH": f"{mine}:{REPOSITORY}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert ">Norms</h3>" in page
    assert f'data-v="{norms["norm"].iloc[-1]:.10g}"' in page
    assert pd.read_csv(tmp_path / "report/norms.csv")["norm"].tolist() == pytest.approx(norms["norm"].tolist())


def test_a_task_and_a_language_of_ones_own(mine: Path, tmp_path: Path) -> None:
    content = extended(mine, tmp_path, "task=quiz", "lang=[tok]", f"data={mine / 'data'}")
    assert [row["language"] for row in content["languages"]] == ["tok_Latn"]
    assert content["languages"][0]["n"] == 9
