"""What a user may give, and the answer: one clear sentence, or the right result; never a wrong one without a word.

The tables below have one row per input: what was done, the exit code, words of the answer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, belebele_rows, compose, random_job, random_model, run_job, tokenizer, write_hub
from hydra.utils import instantiate
from processes import Command, Done
from safetensors.torch import load_file, save_file

from align_pipeline import pipeline
from align_pipeline.config.messages import flags_last
from align_pipeline.config.paths import EMBEDDED
from align_pipeline.data.source import Source
from align_pipeline.errors import InputError
from align_pipeline.measurements.translation import scores
from align_pipeline.report.read import read
from align_pipeline.store import folders
from align_pipeline.tracking import wandb as tracking

QUICK = ("task=xcopa", "task.limit=3", "task.num_fewshot=1", "metric=dali", "model.device=cpu")
OFF = {"WANDB_MODE": "disabled", "WANDB_DISABLED": None}


def run(folder: Path, *arguments: str, **environment: str | None) -> Done:
    """The command, started in a folder of its own."""
    folder.mkdir(exist_ok=True)
    return Command(folder, *arguments, log=folder / "log", **{**OFF, **environment}).wait()


def job(folder: Path, *arguments: str, **environment: str | None) -> Done:
    """A quick job of the embedded model."""
    return run(folder, *QUICK, *arguments, **environment)


def languages(table: Path) -> set[str]:
    return set(pd.read_parquet(table)["language"].unique())


# ---- folders


def test_two_commands_of_one_second_have_a_folder_each(tmp_path: Path) -> None:
    both = [Command(tmp_path, *QUICK, f"lang=[{code}]", log=tmp_path / code, **OFF) for code in ("ind", "swh")]
    for done in [command.wait() for command in both]:
        assert done.code == 0, done.err
    found = sorted((tmp_path / "outputs/runs").iterdir())
    assert len(found) == 2
    seen = []
    for folder in found:
        (own,) = languages(folder / "alignment.parquet")
        assert languages(folder / "predictions.parquet") == {"eng_Latn", own}
        summary = json.loads((folder / "summary.json").read_text())
        assert [row["language"] for row in summary["languages"]] == [own]
        assert set(folders.owners_of(folder).values()) == {summary["job"]}
        seen.append(own)
    assert sorted(seen) == ["ind_Latn", "swh_Latn"]


def test_a_new_folder_is_nobody_elses(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: folders.new(tmp_path / "outputs/run"), range(64)))
    assert len(set(made)) == 64
    assert {path.name for path in made} == {"run", *(f"run_{k}" for k in range(2, 65))}


def test_two_sweeps_of_one_second_have_a_folder_each(tmp_path: Path) -> None:
    pairs = ("ind,ita", "swh,tur")
    both = [Command(tmp_path, "-m", *QUICK, f"lang={pair}", log=tmp_path / pair[:3], **OFF) for pair in pairs]
    for done in [command.wait() for command in both]:
        assert done.code == 0, done.err
        assert "Report over 2 of 2 jobs" in done.out
    found = sorted((tmp_path / "outputs/sweeps").iterdir())
    held = [{path.parent.name for path in folder.glob("*/summary.json")} for folder in found]
    assert sorted(map(sorted, held)) == [
        ["0_xcopa_ind_tiny", "1_xcopa_ita_tiny"],
        ["0_xcopa_swh_tiny", "1_xcopa_tur_tiny"],
    ]


def test_a_sweep_over_models_is_one_sweep(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", *QUICK, "model=tiny,tiny_aligned", "lang=ind")
    assert done.code == 0, done.err
    assert "Report over 2 of 2 jobs" in done.out
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    assert set(pd.read_csv(folder / "report/points.csv")["model"]) == {"tiny", "tiny_aligned"}
    differences = pd.read_csv(folder / "report/models_differences.csv")
    assert set(zip(differences["reference"], differences["model"], strict=True)) == {("tiny", "tiny_aligned")}


def test_a_named_folder_belongs_to_one_job(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    here = f"hydra.run.dir={folder}"
    assert job(tmp_path, "lang=[ind]", here).code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    config = (folder / ".hydra/config.yaml").read_text()
    for other, words in (("metric=[]", "metrics: dali there and none here"), ("task.limit=2", "task.limit is 3 there")):
        done = job(tmp_path, "lang=[ind]", here, other)
        assert done.code == 1
        assert done.err.count("\n") == 1
        assert f"{folder} holds the result of another job ({words}" in done.err
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
        assert (folder / ".hydra/config.yaml").read_text() == config
    done = job(tmp_path, "lang=[ind]", here, "batch_tokens=100", "cache=null")  # the same question
    assert done.code == 0, done.err
    assert (folder / "alignment.parquet").stat().st_mtime_ns > 0
    assert set(folders.owners_of(folder)) == {
        "alignment.parquet",
        "baselines.parquet",
        "predictions.parquet",
        "summary.json",
    }
    assert not list(folder.glob(".making*"))
    assert not (folder / ".lock").exists()


def test_a_folder_where_a_job_is_at_work_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    with folders.held(folder):
        done = job(tmp_path, "lang=[ind]", f"hydra.run.dir={folder}")
        assert done.code == 1
        assert "Another job is running in" in done.err
        sweep = run(tmp_path, "-m", *QUICK, "lang=ind", f"hydra.sweep.dir={folder}")
        assert sweep.code == 1
        assert "Another job is running in" in sweep.err
    assert list(folder.iterdir()) == []


def test_a_named_sweep_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    here = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    assert run(tmp_path, "-m", *QUICK, "lang=ind", here).code == 0
    done = run(tmp_path, "-m", *QUICK, "lang=swh", here)
    assert done.code == 1
    assert "holds another sweep (lang=ind only there)" in done.err
    again = run(tmp_path, "-m", *QUICK, "lang=ind", here)
    assert again.code == 0, again.err
    assert [path.name for path in (tmp_path / "sweep").glob("*_xcopa*")] == ["0_xcopa_ind_tiny"]


def test_two_models_of_one_name_are_told_apart_before_the_sweep(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", *QUICK, "lang=ind", "model.path=embedded:tiny,embedded:tiny_aligned")
    assert done.code == 1
    assert "Two models of this sweep are both called 'tiny'" in done.err
    assert not (tmp_path / "outputs").exists()
    paths = ("model=custom", "model.path=embedded:tiny,embedded:tiny_aligned", "model.dtype=float32")
    done = run(tmp_path, "-m", *QUICK, "lang=ind", *paths)  # the name is the path's last part
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "outputs/sweeps").iterdir()
    assert {path.name for path in folder.glob("*_xcopa_*")} == {"0_xcopa_ind_tiny", "1_xcopa_ind_tiny_aligned"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> list[str]:
    """Overrides of a job of a random model on a little Belebele."""
    data = tmp_path_factory.mktemp("data")
    rows = {code: {"test": belebele_rows(code)} for code in ("eng_Latn", "swh_Latn", "spa_Latn")}
    write_hub(data, "facebook/belebele", rows)
    return random_job(model_folder, data, "lang=[swh]", "metric=[dali]")


def test_a_job_that_fails_leaves_the_earlier_result(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(tmp_path, *small)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(*arguments: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.summary, "languages", fails)
        with pytest.raises(RuntimeError, match="planted"):
            run_job(tmp_path, *small)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # Whoever stops while files change places leaves no summary, and the same job mends it.
    replace, count = os.replace, 0

    def stops(source: Any, target: Any) -> None:
        nonlocal count
        count += Path(target).parent == tmp_path
        if count == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(folders.os, "replace", stops)
        with pytest.raises(KeyboardInterrupt):
            run_job(tmp_path, *small)
    assert not (tmp_path / "summary.json").exists()
    run_job(tmp_path, *small)
    assert {path.name for path in tmp_path.iterdir()} == set(before)


def test_the_report_refuses_a_folder_with_files_of_two_jobs(small: list[str], tmp_path: Path) -> None:
    run_job(tmp_path / "a", *small)
    run_job(tmp_path / "b", *small, "lang=[spa]")
    for name in ("alignment.parquet", "summary.json"):
        mixed = tmp_path / f"mixed_{name}"
        shutil.copytree(tmp_path / "a", mixed)
        shutil.copy(tmp_path / "b" / name, mixed)
        with pytest.raises(InputError, match=rf"mixed_{name} holds files of two jobs"):
            read([mixed])
    assert len(read([tmp_path / "a", tmp_path / "b"]).folders) == 2


def test_a_damaged_table_is_no_other_jobs(small: list[str], tmp_path: Path) -> None:
    run_job(tmp_path / "a", *small)
    path = tmp_path / "a/predictions.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    words = r"predictions\.parquet is damaged and cannot be read as a table \(.*\); remove it and run its job again\.$"
    for use in (lambda: read([tmp_path]), lambda: run_job(tmp_path / "a", *small)):
        with pytest.raises(InputError, match=words):
            use()
    path.unlink()
    run_job(tmp_path / "a", *small)
    assert len(read([tmp_path]).folders) == 1


def test_the_report_refuses_two_models_of_one_name(small: list[str], tmp_path: Path) -> None:
    for name, dtype in (("a", "float32"), ("b", "bfloat16")):
        run_job(tmp_path / name, *small, f"lang=[{'swh' if name == 'a' else 'spa'}]", f"model.dtype={dtype}")
        path = tmp_path / name / "summary.json"
        content = json.loads(path.read_text())
        content["config"] = {"model": {"path": "here", "dtype": dtype}}
        path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"Two models are called 'random': model.dtype is float32 in"):
        read([tmp_path])


# ---- what silently went wrong with exit code 0


def test_a_device_is_checked_when_the_cache_has_everything(tmp_path: Path) -> None:
    assert job(tmp_path, "lang=[ind]").code == 0
    for device, words in (("gpu", "model.device=gpu is not a device"), ("cuda:99", "model.device=cuda:99, but ")):
        done = job(tmp_path, "lang=[ind]", f"model.device={device}")
        assert done.code == 1
        assert words in done.err


# ---- W&B and the console come last, and cost nothing


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["wandb.mode=online"], {"WANDB_API_KEY": None, "HOME": "{tmp}"}, "the run is kept offline"),
        (["wandb.mode=offline", "wandb.project=a/b"], {}, "W&B failed (Invalid project name 'a/b'"),
        (["wandb.mode=offline"], {"HOME": "/proc/nowhere"}, ""),
    ],
    ids=["no key", "project", "home"],
)
def test_a_failure_of_wandb_costs_no_result(
    tmp_path: Path, arguments: list[str], environment: dict[str, str | None], words: str
) -> None:
    given = {key: value and value.replace("{tmp}", str(tmp_path)) for key, value in environment.items()}
    given |= {"WANDB_MODE": None, "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None, "XDG_DATA_HOME": None}
    done = job(tmp_path, "lang=[ind]", "hydra.run.dir=mine", *arguments, **given)
    assert done.code == 0, done.err
    assert words in done.out
    assert done.out.count("W&B failed") == bool(words)
    assert "xcopa: tiny on data from embedded" in done.out
    assert (tmp_path / "mine/summary.json").is_file()
    if "a/b" not in str(arguments):
        assert list((tmp_path / "mine/wandb").glob("offline-run-*/*.wandb"))
    if words:
        required = job(tmp_path, "lang=[ind]", "hydra.run.dir=other", *arguments, "wandb.required=true", **given)
        assert required.code == 1
        assert required.err.startswith("Error: W&B failed, and wandb.required=true: ")
        assert not (tmp_path / "other/summary.json").exists()  # it is asked before the passes


@pytest.mark.parametrize("step", ["init", "log"])
def test_wandb_may_fail_at_any_step(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "init":
        monkeypatch.setattr("wandb.init", full)
    else:
        monkeypatch.setattr(tracking, "log_rows", full)
    content = run_job(tmp_path / "a", *small, "wandb.mode=offline")
    assert json.loads((tmp_path / "a/summary.json").read_text()) == json.loads(json.dumps(content))
    assert "W&B failed ([Errno 28] No space left on device)" in caplog.text
    with pytest.raises(InputError, match=r"W&B failed, and wandb\.required=true"):
        run_job(tmp_path / "b", *small, "wandb.mode=offline", "wandb.required=true")
    assert (tmp_path / "b/summary.json").is_file() == (step == "log")  # it is opened before the passes


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "run"}, "online"),
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({}, "offline"),
    ],
)
def test_wandbs_variables_set_the_mode(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], mode: str) -> None:
    for key in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert compose().wandb.mode.value == mode


def test_a_console_that_speaks_ascii(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "align_pipeline.run", *QUICK, "lang=[ind]", f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "summary.json").is_file()
    rows = [line for line in done.stdout.splitlines() if "ind_Latn |" in line or "language |" in line]
    assert len({len(row.rstrip()) for row in rows}) == 1
    assert done.stdout.isascii()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html></html>"])
def test_a_damaged_tokenizer_of_spbleu_is_found_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    path = tmp_path / "models" / scores._spbleu_file()
    path.parent.mkdir()
    assert f"to {path}" in (scores.spbleu_missing() or "")
    path.write_bytes(content)
    assert f"{path} is damaged" in (scores.spbleu_missing() or "")
    found = scores.corpus_scores(["a b c d"], ["a b c d"], "swh_Latn")
    assert set(found) == {"bleu", "chrf"}


def test_a_config_is_recorded_whatever_it_is_made_of(small: list[str], tmp_path: Path) -> None:
    config = compose(*small, "wandb.mode=disabled", "cache=null")
    settings = {"config": config, "path": tmp_path, "mode": config.wandb.mode, "odd": {1: float("nan"), "s": {3}}}
    done = pipeline.run(config, tmp_path / "run", settings)
    assert done is not None
    recorded = json.loads((tmp_path / "run/summary.json").read_text())["config"]
    assert recorded["mode"] == "disabled"
    assert recorded["config"]["model"]["dtype"] == "float32"
    assert recorded["odd"] == {"1": None, "s": [3]}


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=paper_belebel"], "There is no experiment 'paper_belebel'; available: paper_belebele, "),
        (["task=belebele", "task.pivot=fra_Latn"], "task.pivot=fra_Latn is French; the pivot must be English"),
        (["+languages.ind.pivots.belebele=deu_Latn", "task=belebele", "lang=ind"], "deu_Latn is German"),
        (["limit=3"], "There is no key 'limit'; did you mean patch.pairs.limit or task.limit?"),
        (["num_fewshot=3"], "There is no key 'num_fewshot'; did you mean task.num_fewshot?"),
        (["model=custom"], "model.path is not set; set it with model.path=<hub id or folder>."),
        (["model=custom", "model.path=/tmp/a=b"], "quote a value with special characters: 'model.path=\"/tmp/a=b\"'"),
        (["model=custom", "model.path=/nope"], "The model folder '/nope' does not exist"),
        (["model=custom", "model.path=nobody/nothing"], "nobody/nothing is not in the local hub cache"),
        (["task.limit=0"], "task.limit=0 is not a valid number of items"),
        (["task.fewshot=often"], "task.fewshot=often is not a sampler; use fixed or lm_eval."),
        (["layers=[99]", "data=/nowhere"], "layers contains 99, but tiny has layers 0 to 8."),
        (
            ["patch=english", "patch.layers=[99]", "data=/nowhere"],
            "patch.layers contains 99, but patch.component=resid",
        ),
        (["+task.size=3"], "Belebele has no key 'size'"),
        (["+metrics.dali.size=3"], "Dali has no key 'size'"),
        (["task._target_=nowhere.Task"], "The class 'nowhere.Task', which _target_ names, cannot be imported"),
        (["model.max_length=-5"], "model.max_length=-5 is too small"),
        (
            ["hydra.run.dir=/proc/version"],
            "Nothing can be written to /proc/version: there is a file",
        ),
        (["model.parallel=tensor"], "model.parallel=tensor needs a process per GPU"),
        (["model.attention=flash_attention_2"], "model.attention=flash_attention_2 needs the package flash-attn"),
        (["data=/nowhere"], "The data folder '/nowhere' does not exist"),
        (["+task_limit=5"], "There is no key 'task_limit'; available: task.limit, "),
        (["+limit=5"], "There is no key 'limit'; did you mean patch.pairs.limit or task.limit?"),
        (["+model.devise=cpu"], "There is no key 'model.devise'; available: model.device, "),
        (["+languages.swh.pivot=x"], "There is no key 'languages.swh.pivot'; did you mean pivot or task.pivot?"),
        (
            ["hydra.run.dir=/proc/x"],
            "Nothing can be written to /proc/x: it does not exist and cannot be created; choose another folder",
        ),
        (
            ["cache=/proc/x"],
            "/proc/x: it does not exist and cannot be created; choose another folder with cache=<folder>",
        ),
        (["-m", "hydra.sweep.dir=/proc/x"], "(for a sweep: hydra.sweep.dir=<folder>)"),
        (["=3"], "The argument '=3' has no key; write key=value"),
        (["task=3"], "There is no task '3'; available: afrimmlu, "),
        (["patch=null"], "There is no patch 'null'; available: ablation, english, maps, none."),
        (["-m", "lang=swh,3"], "There is no language '3'; available: "),
        (["lang=swh_Latn"], "There is no language 'swh_Latn'; did you mean swh?"),
        (["lang=[swh,Indonesian]"], "There is no language 'Indonesian'; did you mean ind?"),
        (["lang=swh,ind"], "lang=swh,ind has several values: -m makes a job for each; lang=[swh,ind] is one list."),
        (["lang=glob(s*)"], "lang=glob(s*) selects several values, which needs -m"),
        (
            ["lang=[swh,", "ind]"],
            "The argument 'lang=[swh,' is not of the form key=value: its list does not end; write it",
        ),
        (["swh"], "The argument 'swh' is not of the form key=value, such as task=xcopa."),
        (
            ["patch.conditions=[parallel,language=deu]"],
            "quote an element with special characters: 'patch.conditions=[parallel,\"language=deu\"]'",
        ),
        (["--task", "xcopa"], "Unrecognized arguments: --task; settings are key=value, such as task=xcopa."),
        (
            ["--config-dir", "mine", "--info", "task=quiz"],
            "--info takes names of groups or overrides, not --config-dir;",
        ),
        (["--info", "modell"], "There is no group 'modell'; available: model, "),
        (["-m", "lang=glob(zzz*)"], "lang=glob(zzz*) matches nothing, so no job would run; --info lang lists"),
        (["patch=english", "patch.window=99", "data=/nowhere"], "patch.window=99 is too large: "),
        (
            ["patch=english", "patch.window=9", "patch.component=mlp", "data=/nowhere"],
            "of tiny has only 8 layers, 1 to 8.",
        ),
        (["task.limit=true"], "task.limit=True is not a valid number of items; use 1 or more"),
        (["task.num_fewshot=true"], "task.num_fewshot=True is not a valid number of examples"),
        (["model.name="], "model.name is empty; set it with model.name=<name in the tables>."),
        (["model.path="], "model.path is empty; set it with model.path=<hub id or folder>."),
        (["seed=-1"], "seed=-1 is not a valid seed; use 0 or more."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert done.code == 1
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert "Error executing" not in done.err
    assert "Error in call to target" not in done.err
    assert words in done.err
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("task=xcopa -m lang=swh,ind", "task=xcopa lang=swh,ind -m"),
        (
            "lang=swh --config-dir a=b ~patch task=xcopa --cfg job",
            "lang=swh ~patch task=xcopa --config-dir a=b --cfg job",
        ),
        ("-sc install=bash", "install=bash -sc"),
        ("task=xcopa --config-d mine lang=swh -cjob", "task=xcopa lang=swh --config-d mine -cjob"),
        ("task=xcopa -i searchpath lang=swh", "task=xcopa lang=swh -i searchpath"),
        ("task=xcopa -i", "task=xcopa -i"),
    ],
)
def test_options_may_stand_between_the_overrides(given: str, expected: str) -> None:
    assert flags_last(given.split()) == expected.split()


def test_an_option_without_its_value_is_what_the_error_is_about() -> None:
    with pytest.raises(InputError, match="Argument --cfg/-c: expected one argument; "):
        flags_last(["task=xcopa", "--cfg"])


def test_keys_that_something_reads_may_be_added(tmp_path: Path) -> None:
    added = ("+hydra.job.env_set.ADDED=1", "+languages.ind.codes.quiz=id", "+task.unicode=NFC", "task=flores")
    done = job(tmp_path, "lang=[ind]", *added, "task.limit=2", "metric=[mexa]", "evaluate=false")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("[8]", "over only layer 8, after the final norm,"),
        ("[0,4,8]", "over only layers 0, 4,"),
        ("[1,2,3]", "over only layers 1 to 3,"),
        ("[0,1,2,3,4,5,6,7]", "over the layers before the final norm,"),
    ],
)
def test_the_table_says_of_which_layers_it_is(tmp_path: Path, layers: str, words: str) -> None:
    done = job(tmp_path, "lang=[ind]", f"layers={layers}")
    assert done.code == 0, done.err
    assert words in " ".join(done.out.split())


def test_the_table_of_patching_says_which_layers_it_is_of(tmp_path: Path) -> None:
    few = ("task=belebele", "task.num_fewshot=0", "patch=english", "patch.items=all", "patch.layers=[2,4]")
    done = run(tmp_path, *few, "task.limit=2", "lang=[ind]", "metric=[]")
    assert done.code == 0, done.err
    assert "Activation patching, layers 2, 4" in done.out


def test_a_mode_that_wandb_does_not_have(tmp_path: Path) -> None:
    done = run(tmp_path, WANDB_MODE="sometimes")
    assert done.code == 1
    assert done.err.startswith("Error: There is no mode of W&B (environment variable WANDB_MODE) 'sometimes'")


def test_paths_are_the_commands_even_where_hydra_changes_the_folder(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED / "tiny", tmp_path / "model")
    own = ("model=custom", "model.path=./model", "model.dtype=float32", "data=embedded", "cache=store")
    done = job(tmp_path, "lang=[ind]", *own, "hydra.job.chdir=true", "hydra.run.dir=mine")
    assert done.code == 0, done.err
    assert (tmp_path / "store").is_dir()
    assert (tmp_path / "mine/summary.json").is_file()


# ---- models


def model_copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def replace_text(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n".format("0" * 64)


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "../../blobs/gone")


def sharded(folder: Path, index: bool) -> None:
    random_model().save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*-of-*.safetensors"))) > 1
    if index:
        next(iter(sorted(folder.glob("*-of-*.safetensors")))).unlink()
    else:
        (folder / "model.safetensors.index.json").unlink()


def emptied(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.empty(0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def too_few_embeddings(folder: Path) -> None:
    random_model(vocab_size=90).save_pretrained(folder)


def without_sdpa(folder: Path) -> None:
    random_model("bloom").save_pretrained(folder)


def own_code(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text("raise SystemExit('run')")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "model.safetensors").write_text(LFS), "model.safetensors is a Git LFS pointer.*git lfs pull"),
        (lambda f: (f / "tokenizer.json").write_text(LFS), "tokenizer.json is a Git LFS pointer.*git lfs pull"),
        (dangling, r"model.safetensors is a link to .*blobs/gone, which does not exist"),
        (lambda f: sharded(f, index=False), "no model.safetensors.index.json, which lists them"),
        (lambda f: sharded(f, index=True), "download of .* is incomplete: .* lists model-00001-of-"),
        (emptied, "model.layers.1.mlp.up_proj.weight of .* is empty: DeepSpeed ZeRO-3"),
        (
            lambda f: replace_text(
                f / "tokenizer.json",
                "{",
                "",
            ),
            "tokenizer.json is damaged: ",
        ),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read: "),
        (too_few_embeddings, r"gives '.*' the id \d+, but the model has only 90 embeddings"),
        (without_sdpa, "no SDPA for the architecture of .*: set model.attention=eager"),
        (own_code, "comes with its own Python code.*model.trust_remote_code=true"),
        (lambda f: replace_text(f / "config.json", '"llama"', '"lama9"'), "model type `?'?lama9"),
    ],
    ids=[
        *("lfs", "lfs tokenizer", "link", "no index", "shard", "zero3", "tokenizer", "config"),
        *("embeddings", "sdpa", "code", "type"),
    ],
)
def test_a_model_folder_that_is_not_what_it_seems(
    small: list[str], model_folder: Path, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(model_copy(model_folder, tmp_path / "model"))
    with pytest.raises(InputError, match=words) as found:
        run_job(tmp_path / "run", *small, f"model.path={tmp_path / 'model'}")
    assert "\n" not in str(found.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_too_little_memory_is_one_sentence(small: list[str], tmp_path: Path) -> None:
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 65000}
    model = random_model(**shape)
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    size = (tmp_path / "model/model.safetensors").stat().st_size
    arguments = [*small, f"model.path={tmp_path / 'model'}", f"hydra.run.dir={tmp_path / 'run'}", "cache=null"]
    script = (  # as `ulimit -v`, set once everything is imported: what is left is less than the weights take
        "import resource, sys, torch, transformers, datasets\n"
        "from transformers import LlamaForCausalLM, AutoTokenizer, AutoModelForCausalLM\n"
        "from align_pipeline import run, pipeline\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {size} + {size} // 2,) * 2)\n"
        "run.main()"
    )
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert f"There is not enough memory to load {tmp_path / 'model'}: it takes {size / 1e9:.2f} GB" in done.stderr
    assert "Traceback" not in done.stderr


# ---- data


def data_job(folder: Path, model_folder: Path, rows: list[dict[str, Any]], name: str = "data") -> list[str]:
    """A job on Swahili rows, and English ones beside them."""
    data = folder / name
    write_hub(data, "facebook/belebele", {"eng_Latn": {"test": belebele_rows("eng_Latn")}, "swh_Latn": {"test": rows}})
    return [*random_job(model_folder, data), "metric=[dali]", "lang=[swh]"]


def test_a_folder_with_brackets_in_its_name(model_folder: Path, tmp_path: Path) -> None:
    plain = run_job(tmp_path / "a", *data_job(tmp_path, model_folder, belebele_rows("swh_Latn")))
    arguments = data_job(tmp_path, model_folder, belebele_rows("swh_Latn"), "data [v1]* {x}?")
    config = compose(*[a for a in arguments if not a.startswith("data=")], "wandb.mode=disabled", "cache=null")
    config.data = str(tmp_path / "data [v1]* {x}?")
    other = pipeline.run(config, tmp_path / "b", {})
    assert other is not None
    assert other.content["languages"] == plain["languages"]


@pytest.mark.parametrize("value", ["2023-05-0{}", "{}7", "0{}.50", "{}"], ids=["date", "number", "decimal", "digit"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_answers_that_look_like_something_else_stay_text(
    model_folder: Path, tmp_path: Path, value: str, form: str
) -> None:
    rows = belebele_rows("swh_Latn")
    for row in rows:
        row |= {f"mc_answer{k}": value.format(k) for k in (1, 2, 3, 4)}
    arguments = data_job(tmp_path, model_folder, rows)
    if form == "csv":
        base = tmp_path / "data/facebook/belebele"
        for code, every in (("swh_Latn", rows), ("eng_Latn", belebele_rows("eng_Latn"))):
            pd.DataFrame(every).to_csv(base / code / "test.csv", index=False)
        replace_text(base / "README.md", ".jsonl", ".csv")
    config = compose(*arguments)
    task = instantiate(config.task)
    (pair,) = task.pairs(list(config.languages.values()), Source(config.source))
    options = [text.rsplit(" ", 1)[-1] for text in pair.language.items[0].options]
    assert options == [value.format(k) for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("row", "change", "words"),
    [
        (3, {"mc_answer2": 7}, r"test\.jsonl, line 4: mc_answer2 is 7, which is not text; put it in quotation marks\."),
        (3, {"mc_answer2": ""}, r"belebele/swh_Latn/test\.jsonl, line 4: mc_answer2 is empty\."),
        (0, {"question": None}, r"belebele/swh_Latn/test\.jsonl, line 1: question has no value\."),
    ],
    ids=["number", "empty", "null"],
)
def test_a_bad_row_is_named_as_an_editor_counts(
    model_folder: Path, tmp_path: Path, row: int, change: dict[str, Any], words: str
) -> None:
    rows = belebele_rows("swh_Latn")
    rows[row] |= change
    with pytest.raises(InputError, match=words):
        run_job(tmp_path / "run", *data_job(tmp_path, model_folder, rows))


def swahili(folder: Path) -> Path:
    return folder / "data/facebook/belebele/swh_Latn/test.jsonl"


def test_json_lines_end_with_line_feeds_alone_and_may_begin_with_a_bom(model_folder: Path, tmp_path: Path) -> None:
    rows = belebele_rows("swh_Latn")
    odd = "one\u2028two\u2029three\x85four"
    rows[1] |= {"flores_passage": odd, "mc_answer1": "2023-05-03"}
    arguments = data_job(tmp_path, model_folder, rows)
    path = swahili(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    config = compose(*arguments)
    task = instantiate(config.task)
    (pair,) = task.pairs(list(config.languages.values()), Source(config.source))
    assert len(pair.ids) == len(rows)
    assert odd in pair.language.items[1].premise
    assert pair.language.items[1].options[0].endswith(" 2023-05-03")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"link": "x",', r"test\.jsonl, line 4 is not valid JSON: Expecting property name"),
        (b"[1, 2]", r"test\.jsonl, line 4 is a list, not a JSON object with a key for each column"),
        (b'{"link": "\xff"}', r"test\.jsonl, line 4 is not valid JSON: 'utf-8' codec can't decode"),
    ],
    ids=["cut off", "list", "latin-1"],
)
def test_a_broken_line_is_named(model_folder: Path, tmp_path: Path, line: bytes, words: str) -> None:
    arguments = data_job(tmp_path, model_folder, belebele_rows("swh_Latn"))
    path = swahili(tmp_path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], b"", line, *lines[3:]]))
    with pytest.raises(InputError, match=words) as found:
        run_job(tmp_path / "run", *arguments)
    assert "\n" not in str(found.value)


def test_a_pointer_among_the_data(model_folder: Path, tmp_path: Path) -> None:
    arguments = data_job(tmp_path, model_folder, belebele_rows("swh_Latn"))
    (tmp_path / "data/facebook/belebele/swh_Latn/test.jsonl").write_text(LFS)
    with pytest.raises(InputError, match=r"test\.jsonl is a Git LFS pointer.*git lfs pull"):
        run_job(tmp_path / "run", *arguments)


def test_a_language_of_a_task_that_conf_does_not_know(model_folder: Path, tmp_path: Path) -> None:
    configs = {"en": {"test": belebele_rows("eng_Latn")}, "id": {"test": belebele_rows("ind_Latn")}}
    write_hub(tmp_path / "data", "our/quiz", configs)
    own = ["task.name=quiz", "task.dataset=our/quiz", "task.pivot=en", "lang=[ind]", "metric=[dali]"]
    arguments = [*random_job(model_folder, tmp_path / "data"), *own]
    with pytest.raises(InputError, match=r"quiz has no Indonesian .* \+languages\.ind\.codes\.quiz=<its name>"):
        run_job(tmp_path / "run", *arguments)
    content = run_job(tmp_path / "run", *arguments, "+languages.ind.codes.quiz=id")
    assert content["languages"][0]["language"] == "ind_Latn"


def test_the_reports_command_prints_on_any_console(small: list[str], tmp_path: Path) -> None:
    run_job(tmp_path / "rün", *small)
    command = [sys.executable, "-m", "align_pipeline.report", f"runs={tmp_path / 'rün'}", f"out={tmp_path / 'öut'}"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "?ut/report.html" in done.stdout
