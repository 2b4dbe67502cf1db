"""The Python interface: the same numbers as the command, a notebook's view, and a callback of transformers' Trainer."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, random_model, run_job, tokenizer

import align_pipeline as ap
from align_pipeline.errors import InputError


def tiny() -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = REPOSITORY / "align_pipeline/embedded/tiny"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def test_a_study_has_the_numbers_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tok = tiny()
    model.train()
    found = ap.study(model, tok, task="xcopa", languages=["swh", "ind"], data="embedded", limit=12)
    assert model.training
    assert "swh_Latn" not in capsys.readouterr().out  # the results show themselves, with no folder that will be removed
    run_job(tmp_path, "task=xcopa", "lang=[swh,ind]", "data=embedded", "task.limit=12")
    for name in ("alignment", "predictions", "baselines"):
        expected = pd.read_parquet(tmp_path / f"{name}.parquet").drop(columns="model")
        pd.testing.assert_frame_equal(found.table(name).drop(columns="model"), expected)
    assert list(found.summary["language"]) == ["swh_Latn", "ind_Latn"]
    assert found.summary["accuracy"].tolist() == [row["accuracy"] for row in found.content["languages"]]
    assert "swh_Latn" in repr(found)
    assert "<table" in found._repr_html_()
    figure = found.plot("mexa_t")
    assert figure.axes[0].get_xlabel().startswith("layer")
    page = found.report(tmp_path / "report")
    assert "swh_Latn" in page.read_text()
    place = found.folder
    assert place.is_dir()
    del found
    gc.collect()
    assert not place.exists()


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "align_pipeline").symlink_to(REPOSITORY / "align_pipeline")
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("limit=20", "limit=3"), names)  # the project's own page
    assert (tmp_path / "report/report.html").is_file()
    assert names["callback"].history == []


def test_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    model, tok = tiny()
    given: dict[str, Any] = {"task": "xcopa", "languages": ["swh"], "data": "embedded", "limit": 4}
    only = ap.study(model, tok, measurements=["accuracy"], folder=tmp_path, **given)
    assert only.folder == tmp_path
    assert {path.stem for path in tmp_path.glob("*.parquet")} == {"predictions"}
    with pytest.raises(InputError, match="There is no table 'alignment'; available: predictions"):
        _ = only.alignment
    aligned = ap.study(model, tok, measurements=["alignment"], metrics=["dali"], overrides=["layers=[2]"], **given)
    assert set(aligned.alignment["layer"]) == {2}
    assert "accuracy" not in aligned.summary or aligned.summary["accuracy"].isna().all()
    with pytest.raises(InputError, match="There is no metric in these results 'mexa_t'; available: dali"):
        aligned.plot("mexa_t")
    patched = ap.study(model, tok, measurements="patching", overrides=["patch.layers=[2]"], **given)
    assert set(patched.table("patching")["layer"]) <= {2}
    assert "accuracy" in patched.summary


def test_a_summary_of_translations_has_their_scores() -> None:
    model, tok = tiny()
    given: dict[str, Any] = {"task": "flores", "languages": "swh", "data": "embedded", "limit": 3}
    found = ap.study(model, tok, measurements="accuracy", overrides=["task.max_new_tokens=8"], **given)
    (row,) = found.summary.to_dict("records")
    (told,) = found.content["languages"]
    scores = {
        f"{score}_{to}": told["translation"][to][score]["score"]
        for to in ("en-xx", "xx-en")
        for score in ("chrf", "bleu")
    }
    assert row == {"language": "swh_Latn", "n": 3, **scores}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"measurements": ["alignement"]}, "There is no measurement 'alignement'; available: alignment"),
        ({"languages": ["hin_Deva"]}, "hin_Deva"),
        ({"overrides": ["layers=[99]"]}, "layers contains 99"),
        ({"overrides": ["layer=[2]"]}, "There is no key 'layer'; available: layers, "),
        ({"task": "xcop"}, "There is no task 'xcop'; available: xcopa, "),
        ({"languages": "swh_Latn"}, "There is no language 'swh_Latn'; did you mean swh?"),
        ({"limit": 0}, "^task.limit=0 is not a valid number of items"),
    ],
)
def test_mistakes_are_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"task": "xcopa", "languages": ["swh"], "data": "embedded", "limit": 4}
    with pytest.raises(InputError, match=sentence):
        ap.study(random_model(), tokenizer(), **(given | arguments))


def test_importing_is_quick_and_loads_no_torch() -> None:
    code = "import sys, align_pipeline; print(len({'torch', 'transformers', 'pandas', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "0"
    with pytest.raises(AttributeError, match="has no attribute 'studie'"):
        _ = ap.studie


def test_the_callback_measures_at_each_evaluation(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model, tok = tiny()
    rows = [{"input_ids": [0, 5 + k, 7, 9], "labels": [0, 5 + k, 7, 9]} for k in range(4)]
    callback = ap.AlignmentCallback(tok, "xcopa", ["swh"], data="embedded", limit=4, metrics=["dali"])
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=1, report_to=[], use_cpu=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback])
    trainer.train()
    assert [row["step"] for row in callback.history] == [1, 2]
    keys = {f"alignment/dali/swh_Latn/layer_{k}" for k in range(9)}
    assert keys < set(callback.history[0])
    assert sum(keys < set(row) for row in trainer.state.log_history) == 2


def test_the_callback_measures_in_one_process_only() -> None:
    model, tok = tiny()
    callback = ap.AlignmentCallback(tok, "xcopa", ["swh"], data="embedded", limit=4, metrics=["dali"])
    other = SimpleNamespace(is_world_process_zero=False, global_step=1, log_history=[])
    callback.on_evaluate(SimpleNamespace(), other, None, model=model)
    assert (callback.history, other.log_history) == ([], [])
    with pytest.raises(InputError, match="needs the whole model in each process"):
        callback.on_evaluate(SimpleNamespace(fsdp="full_shard"), other, None, model=model)
