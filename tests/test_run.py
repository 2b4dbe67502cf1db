"""A job from config to tables, plots and W&B, on small data made here and a small random model."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY, belebele_rows, random_job, random_model, run_job, tokenizer, write_hub

from align_pipeline.engine.model import wrap
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.alignment.table import ALIGNMENT
from align_pipeline.store import tables as records

LANGUAGES = ("eng_Latn", "swh_Latn", "spa_Latn")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_hub(folder, "facebook/belebele", {code: {"test": belebele_rows(code)} for code in LANGUAGES})
    return folder


@pytest.fixture(scope="module")
def base(data: Path, model_folder: Path) -> list[str]:
    return random_job(model_folder, data)


@pytest.fixture(scope="module")
def finished(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_job(folder, "lang=[swh,spa]", *base)


# ---- tables


def test_tables_have_their_schemas_and_every_row(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    alignment, predictions = (pq.read_table(folder / f"{name}.parquet") for name in ("alignment", "predictions"))
    assert alignment.schema.equals(ALIGNMENT)
    assert predictions.schema.equals(PREDICTIONS)
    rows = alignment.to_pandas()
    assert len(rows) == 2 * 3 * 5 * 8  # languages, metrics, layers 0 to 4, items
    assert not rows.duplicated(["language", "metric", "layer", "item_id"]).any()
    assert ((rows["margin"] > 0) == (rows["value"] == 1)).all()
    assert sorted(predictions.to_pandas()["language"].unique()) == sorted(LANGUAGES)
    assert len(predictions) == 3 * 8


def test_alignment_equals_plain_passes(finished: tuple[Path, dict[str, Any]]) -> None:
    """The whole way from text to margin, recomputed literally with transformers and numpy."""
    folder, _ = finished
    lm = wrap(random_model(), tokenizer(), "random")

    def vector(text: str, layer: int, weighted: bool) -> Any:
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0].double().numpy()
        steps = np.arange(1, len(states) + 1)
        return (steps[:, None] * states).sum(0) / steps.sum() if weighted else states[-1]

    def texts(code: str, index: int) -> tuple[list[str], str]:
        row = belebele_rows(code)[index]
        premise = f"{row['flores_passage']} {row['question']}"
        return [f"{premise} {row[f'mc_answer{k}']}" for k in (1, 2, 3, 4)], premise

    def cos(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    rows = pd.read_parquet(folder / "alignment.parquet").set_index(["language", "metric", "layer", "item_id"])["margin"]
    for layer in (0, 2, 4):
        for index, item_id in ((0, "passage-0/1"), (5, "passage-2/2")):
            e, x = ([vector(t, layer, False) for t in texts(c, index)[0]] for c in ("eng_Latn", "swh_Latn"))
            own = min(cos(e[i], x[i]) for i in range(4))
            pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
            cross = max(cos(e[i], x[j]) for i, j in pairs)
            within = max(max(cos(s[i], s[j]) for i, j in pairs) for s in (e, x))
            assert rows["swh_Latn", "dali", layer, item_id] == pytest.approx(own - cross, abs=1e-5)
            assert rows["swh_Latn", "dali_strong", layer, item_id] == pytest.approx(own - max(cross, within), abs=1e-5)
        e, x = ([vector(texts(c, k)[1], layer, True) for k in range(8)] for c in ("eng_Latn", "swh_Latn"))
        s = np.array([[cos(a, b) for b in x] for a in e])
        for k, item_id in ((0, "passage-0/1"), (5, "passage-2/2")):
            others = max(max(s[k, j], s[j, k]) for j in range(8) if j != k)
            assert rows["swh_Latn", "mexa_t", layer, item_id] == pytest.approx(s[k, k] - others, abs=1e-5)


def test_summary_says_what_the_tables_say(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, content = finished
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(content))
    predictions = pd.read_parquet(folder / "predictions.parquet")
    alignment = pd.read_parquet(folder / "alignment.parquet")
    english = predictions[predictions["language"] == "eng_Latn"].set_index("item_id")["correct"]
    for row in content["languages"]:
        own = predictions[predictions["language"] == row["language"]].set_index("item_id")["correct"]
        assert row["accuracy"] == own.mean()
        assert row["stderr"] == pytest.approx(own.std(ddof=1) / len(own) ** 0.5)
        assert row["english_accuracy"] == english.mean()
        assert row["ts"] == sum(own[i] and english[i] for i in own.index)
        assert row["tf"] == sum(not own[i] and english[i] for i in own.index)
        for metric, found in row["metrics"].items():
            chosen = alignment[(alignment["language"] == row["language"]) & (alignment["metric"] == metric)]
            shares = chosen.groupby("layer")["value"].mean()
            assert found["values"] == pytest.approx(list(shares))
            inner = shares[shares.index < 4]
            assert (found["max"], found["mean"]) == pytest.approx((inner.max(), inner.mean()))
            assert shares[found["best_layer"]] == found["max"]
    assert Path(content["data"]["source"]).name.startswith("data")
    assert {side["items"] for side in content["data"]["sides"]} == {8}
    assert content["tokens"]["extraction"] > 0
    assert content["tokens"]["scoring"] > 0
    assert torch.__version__.startswith(content["versions"]["torch"])
    assert {"data", "model", "extraction", "scoring"} <= set(content["seconds"])


def test_two_runs_write_the_same_bytes(finished: tuple[Path, dict[str, Any]], base: list[str], tmp_path: Path) -> None:
    run_job(tmp_path, "lang=[swh,spa]", *base)
    for name in ("alignment.parquet", "predictions.parquet"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


def test_batch_size_does_not_change_results(
    finished: tuple[Path, dict[str, Any]], base: list[str], tmp_path: Path
) -> None:
    run_job(tmp_path, "lang=[swh,spa]", *base, "batch_tokens=1")
    keys = ["language", "metric", "layer", "item_id"]
    a, b = (pd.read_parquet(f / "alignment.parquet").set_index(keys)["margin"] for f in (finished[0], tmp_path))
    assert np.abs(a - b[a.index]).max() < 1e-5
    a, b = (np.stack(pd.read_parquet(f / "predictions.parquet")["loglikelihoods"]) for f in (finished[0], tmp_path))
    assert np.abs(a - b).max() < 1e-3


def test_layers_select_absolute_layers(finished: tuple[Path, dict[str, Any]], base: list[str], tmp_path: Path) -> None:
    run_job(tmp_path, "lang=swh", "metric=dali", "layers=[4,1]", "evaluate=false", *base)
    some = pd.read_parquet(tmp_path / "alignment.parquet")
    assert sorted(some["layer"].unique()) == [1, 4]
    whole = pd.read_parquet(finished[0] / "alignment.parquet")
    keys = ["language", "metric", "layer", "item_id"]
    expected = whole.set_index(keys)["margin"]
    found = some.set_index(keys)["margin"]
    assert np.allclose(found, expected[found.index], atol=1e-6)
    assert not (tmp_path / "predictions.parquet").exists()
    content = run_job(tmp_path / "accuracy", "lang=swh", "metric=[]", *base)
    assert content["languages"][0]["metrics"] == {}
    assert not (tmp_path / "accuracy/alignment.parquet").exists()


# ---- W&B


def records_of(path: Path) -> Iterator[bytes]:
    """The records of W&B's transaction log: LevelDB's log format after a header of 7 bytes."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # a block's end too short for a header is padding
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if at + 7 + length > len(content):  # W&B's own process is still writing it
            return
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield parts
            parts = b""


def logged(folder: Path) -> dict[str, Any]:
    """What an offline run of W&B holds: history rows, summary, config, tags, files and artifacts."""
    found: dict[str, Any] = {}
    until = time.monotonic() + 60
    while not found.get("ended"):  # W&B's own process may still be writing when the machine is busy
        assert time.monotonic() < until, "W&B has not written the end of its run."
        paths = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
        assert len(paths) <= 1
        found = contents(paths[0]) if paths else {}
    return found


def contents(path: Path) -> dict[str, Any]:
    """What a file of W&B holds so far."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "metrics": [], "artifacts": [], "files": []}
    for raw in records_of(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            row = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            found["history"].append(row)
        elif kind == "summary":
            found["summary"] |= {
                ".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update
            }
        elif kind == "run":
            found["config"] |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
            found |= {"tags": list(record.run.tags), "group": record.run.run_group, "project": record.run.project}
            found["id"] = record.run.run_id
        elif kind == "metric":
            found["metrics"].append((record.metric.name or record.metric.glob_name, record.metric.step_metric))
        elif kind == "artifact":
            found["artifacts"] += [entry.path for entry in record.artifact.manifest.contents]
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found["artifacts"] += [entry.path for entry in record.request.log_artifact.artifact.manifest.contents]
        elif kind == "exit":
            found["ended"] = True
        elif kind == "files":
            found["files"] += [file.path for file in record.files.files]
    return found


def test_wandb_holds_curves_numbers_plots_tables_and_config(base: list[str], tmp_path: Path) -> None:
    content = run_job(tmp_path, "lang=[swh,spa]", "wandb.mode=offline", "wandb.group=study", *base)
    run = logged(tmp_path)
    assert run["tags"] == ["belebele", "random", "spa_Latn", "swh_Latn"] or sorted(run["tags"]) == sorted(
        ["belebele", "random", "swh_Latn", "spa_Latn"]
    )
    assert (run["project"], run["group"]) == ("align_pipeline", "study")
    assert ("alignment/*", "layer") in run["metrics"]
    for language in content["languages"]:
        for metric, found in language["metrics"].items():
            key = f"alignment/{metric}/{language['language']}"
            curve = {row["layer"]: row[key] for row in run["history"] if key in row}
            assert list(curve) == found["layers"]
            assert list(curve.values()) == pytest.approx(found["values"])
            assert run["summary"][f"{metric}_max/{language['language']}"] == found["max"]
            assert run["summary"][f"{metric}_best_layer/{language['language']}"] == found["best_layer"]
        for key in ("accuracy", "ts", "tf", "english_accuracy"):
            assert run["summary"][f"{key}/{language['language']}"] == language[key]
    assert {"alignment.parquet", "predictions.parquet"} <= set(run["artifacts"])
    assert run["config"]["overrides"][0] == "lang=[swh,spa]"
    assert any(path.endswith(".png") for path in run["files"])


def test_a_single_language_also_logs_keys_that_overlay_over_jobs(base: list[str], tmp_path: Path) -> None:
    content = run_job(tmp_path, "lang=swh", "metric=dali", "wandb.mode=offline", *base)
    run = logged(tmp_path)
    values = [row["alignment/dali"] for row in run["history"] if "alignment/dali" in row]
    assert values == pytest.approx(content["languages"][0]["metrics"]["dali"]["values"])
    assert run["summary"]["accuracy"] == content["languages"][0]["accuracy"]


def test_wandb_has_each_language_as_soon_as_it_is_measured(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that fails at its second language has the first one's curves, and its own reason."""
    from align_pipeline.measurements.alignment.measure import Alignment

    compute = Alignment._compute

    def fails(self: Alignment, pair: Any) -> Any:
        if pair.language.language == "spa_Latn":
            raise InputError("The second language fails.")
        return compute(self, pair)

    monkeypatch.setattr(Alignment, "_compute", fails)
    with pytest.raises(InputError, match="The second language fails"):
        run_job(tmp_path, "lang=[swh,spa]", "metric=dali", "wandb.mode=offline", *base)
    run = logged(tmp_path)
    assert sum("alignment/dali/swh_Latn" in row for row in run["history"]) == 5
    assert run["summary"]["failed"] == "The second language fails."
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.setattr(Alignment, "_compute", compute)
    content = run_job(tmp_path / "whole", "lang=[swh,spa]", "metric=dali", "wandb.mode=offline", *base)
    rows = logged(tmp_path / "whole")["history"]
    assert sum("alignment/dali/swh_Latn" in row for row in rows) == 5  # once, though it is in the final charts too
    keys = [key for row in rows for key in row if key.startswith("accuracy_so_far")]
    assert keys == [f"accuracy_so_far/{code}" for code in ("eng_Latn", "swh_Latn", "spa_Latn")]
    told = {key: row[key] for row in rows for key in row if key.startswith(("accuracy_so_far", "tokens"))}
    assert told["accuracy_so_far/swh_Latn"] == pytest.approx(content["languages"][0]["accuracy"])
    assert told["tokens/scoring"] == content["tokens"]["scoring"]
    for stage in ("extraction", "scoring"):
        (seconds,) = (row[f"seconds/{stage}"] for row in rows if f"seconds/{stage}" in row)
        assert told[f"tokens_per_second/{stage}"] == pytest.approx(content["tokens"][stage] / seconds)
        assert seconds >= content["seconds"][stage] - 0.001  # rounded to ms


def test_a_job_that_starts_again_goes_on_with_its_run(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align_pipeline.measurements.accuracy.measure import Accuracy

    def stops(self: Accuracy, *arguments: Any) -> Any:
        raise SystemExit("Terminated by signal 15.")

    asked = ["lang=swh", "metric=dali", "wandb.mode=offline", *base]
    with monkeypatch.context() as patched:
        patched.setattr(Accuracy, "_compute", stops)
        with pytest.raises(SystemExit):
            run_job(tmp_path, *asked)
    first = logged(tmp_path)
    (tmp_path / "wandb").rename(tmp_path / "before")
    run_job(tmp_path, *asked)
    second = logged(tmp_path)
    assert first["id"] == second["id"]
    assert first["summary"]["failed"] == "Terminated by signal 15."
    assert "failed" not in second["summary"]
    run_job(tmp_path / "elsewhere", *asked)
    assert logged(tmp_path / "elsewhere")["id"] != first["id"]


def test_a_folder_that_wandb_cannot_write_costs_a_line_and_no_table(
    base: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "wandb").write_text("in the way")
    run_job(tmp_path, "lang=swh", "metric=dali", "wandb.mode=offline", *base)
    assert sum("W&B failed" in line for line in caplog.messages) == 1
    assert {"alignment.parquet", "predictions.parquet", "summary.json"} <= {path.name for path in tmp_path.iterdir()}


def test_what_libraries_warn_of_is_in_the_log_and_not_on_the_console(base: list[str], tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import logging\nimport warnings\nfrom align_pipeline.data.tasks import Belebele\n"
        "class Noisy(Belebele):\n    def item(self, row, config):\n        warnings.warn('noise of a library')\n"
        "        logging.getLogger('a.library').warning('lines of a library')\n"
        "        return super().item(row, config)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    found = command(tmp_path / "job", "lang=swh", "task._target_=noisy.Noisy", *base, PYTHONPATH=path)
    assert found.returncode == 0, found.stderr
    written = (tmp_path / "job" / "align_pipeline.log").read_text()
    for words in ("noise of a library", "lines of a library"):
        assert words in written
        assert words not in found.stdout + found.stderr


# ---- the command


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "align_pipeline.run",
            *arguments,
            f"hydra.run.dir={folder}",
            f"hydra.sweep.dir={folder}",
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "WANDB_MODE": "disabled", **environment},
        check=False,
    )


def test_the_command_prints_a_table_and_what_data_and_model_it_used(base: list[str], tmp_path: Path) -> None:
    found = command(tmp_path, "lang=[swh,spa]", *base)
    assert found.returncode == 0, found.stderr
    for text in ("swh_Latn", "spa_Latn", "belebele: random on data from", "TS", "TF", "mexa_t", str(tmp_path)):
        assert text in found.stdout
    assert (tmp_path / ".hydra/config.yaml").is_file()
    assert list(tmp_path.glob("*.png"))


def test_a_sweep_leaves_out_what_a_task_lacks(base: list[str], tmp_path: Path) -> None:
    found = command(tmp_path, "-m", "lang=swh,quy,spa", *base)
    assert found.returncode == 0, found.stderr
    assert sorted(path.parent.name for path in tmp_path.rglob("alignment.parquet")) == [
        "0_belebele_swh_random",
        "2_belebele_spa_random",
    ]
    assert "belebele has none of the selected languages" in found.stdout


def test_a_sweep_reports_on_what_finished_and_lists_what_failed(base: list[str], tmp_path: Path) -> None:
    found = command(tmp_path, "-m", "lang=swh,spa", "layers=all,[99]", *base, WANDB_MODE="offline")
    assert found.returncode != 0
    assert "2 jobs failed:" in found.stderr
    assert "layers contains 99, but random has layers 0 to 4" in found.stderr
    assert "Traceback" not in found.stderr
    page = (tmp_path / "report/report.html").read_text()
    assert "swh_Latn" in page
    assert "layers contains 99" in page
    level = pd.read_csv(tmp_path / "report/language_level.csv")
    assert {"task", "metric", "reduce", "n", "pearson", "spearman_low"} <= set(level.columns)
    run = logged(tmp_path)
    assert run["group"] == tmp_path.name
    assert run["summary"]["failed_jobs"] == 2
    verdicts = pd.read_csv(tmp_path / "report/verdicts.csv").dropna(subset="effect")
    for row in verdicts.to_dict("records"):
        key = f"random/belebele/{row['question']}/{row['metric']}"
        assert run["summary"][f"{key}/effect"] == pytest.approx(row["effect"])
    assert {"language_level.csv", "verdicts.csv", "report.html"} <= set(run["artifacts"])
    assert any(path.endswith(".html") for path in run["files"])
    assert "wandb sync" in found.stdout
    assert any("scatter" in path or "curves" in path for path in run["files"])


def test_a_failed_job_without_others_makes_no_report(base: list[str], tmp_path: Path) -> None:
    found = command(tmp_path, "-m", "lang=swh", "layers=[99]", *base)
    assert found.returncode != 0
    assert "1 jobs failed:" in found.stderr
    assert not (tmp_path / "report").exists()


# ---- what is refused, in one sentence


def test_a_language_asked_for_by_name_must_exist(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"belebele has no Quechua|belebele has no Ayacucho Quechua"):
        run_job(tmp_path, "lang=[swh,quy]", *base)
    with pytest.raises(InputError, match="belebele has no German"):
        run_job(tmp_path, "lang=deu", *base)
    with pytest.raises(InputError, match="English is the pivot"):
        run_job(tmp_path, "lang=eng", *base)
    assert list(tmp_path.iterdir()) == []


def test_layers_out_of_range(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers contains 5, but random has layers 0 to 4"):
        run_job(tmp_path, "layers=[0,5]", *base)


def test_a_text_longer_than_the_context(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The text of item passage-\d/\d has \d+ tokens, more than the limit of 20"):
        run_job(tmp_path, "model.max_length=20", *base)
    assert list(tmp_path.iterdir()) == []
    content = run_job(tmp_path, "model.max_length=20", "model.too_long=truncate_left", *base)
    assert content["truncated_texts"] > 0
    with pytest.raises(InputError, match="model.max_length=99999 is more than the 32768 positions"):
        run_job(tmp_path / "longer", "model.max_length=99999", *base)


def test_a_gpu_that_is_not_there(base: list[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="model.device=cuda, but this machine has no CUDA GPU"):
        run_job(tmp_path, "model.device=cuda", *base)
    with pytest.raises(InputError, match="model.device=gpu is not a device"):
        run_job(tmp_path, "model.device=gpu", *base)


@pytest.mark.parametrize(
    ("remove", "sentence"),
    [
        ("model.safetensors", "has no weights"),
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_an_incomplete_model_folder(
    base: list[str], model_folder: Path, tmp_path: Path, remove: str, sentence: str
) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model_folder.iterdir():
        if path.name != remove:
            (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=sentence):
        run_job(tmp_path / "run", *base, f"model.path={copy}")
    assert list((tmp_path / "run").iterdir()) == []


def test_pickled_and_damaged_weights_are_refused(base: list[str], model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="not valid safetensors|cannot be loaded"):
        run_job(tmp_path / "run", *base, f"model.path={copy}")
    weights.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not loaded")
    with pytest.raises(InputError, match="only pickled weights"):
        run_job(tmp_path / "run", *base, f"model.path={copy}")


def test_a_model_that_is_nowhere(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="The model folder './nowhere' does not exist"):
        run_job(tmp_path, *base, "model.path=./nowhere")


def test_non_finite_states_leave_nothing_behind(base: list[str], tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("inf")
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"random has a hidden state .* in layer 2 for item passage-"):
        run_job(tmp_path / "run", *base, f"model.path={tmp_path / 'model'}")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.os, "replace", full)
    with pytest.raises(InputError, match=r"Nothing can be written to .*: the disk is full"):
        run_job(tmp_path, *base)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_output_folder(base: list[str]) -> None:
    found = command(Path("/sys/align_pipeline"), *base)
    assert found.returncode != 0
    assert "Traceback" not in found.stderr
    assert "/sys/align_pipeline" in found.stderr
