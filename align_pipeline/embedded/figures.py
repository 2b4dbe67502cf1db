"""What a checkpoint shows on the embedded benchmark, measured by the pipeline itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

TASKS = ("belebele", "xcopa", "xstorycloze")
FILE = "figures.json"


def measure(folder: Path, data: Path, limit: int | None = None, tasks: Sequence[str] = TASKS) -> dict[str, Any]:
    """Accuracy, transfer failures and alignment by layer, per task and language.

    Args:
        folder: the checkpoint.
        data: the benchmark, laid out as ``<data>/<hub id>/``.
        limit: first items of each task only.
        tasks: which tasks.

    Returns:
        task -> ``english`` (accuracy) and ``languages``: FLORES code -> accuracy, transfer failures, layer curves.
    """
    return {task: _task(task, folder, data, limit) for task in tasks}


def _task(task: str, folder: Path, data: Path, limit: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as out:
        run_pipeline(task, folder, data, Path(out), limit)
        predictions = pd.read_parquet(Path(out) / "predictions.parquet")
        alignment = pd.read_parquet(Path(out) / "alignment.parquet")
    english = predictions[predictions.language == "eng_Latn"]
    curves = alignment.groupby(["language", "metric", "layer"]).value.mean()
    languages = {}
    for code, own in predictions[predictions.language != "eng_Latn"].groupby("language"):
        both = own.merge(english, on=["pivot", "item_id"], suffixes=("", "_english"))
        languages[str(code)] = {
            "accuracy": round(float(own.correct.mean()), 4),
            "transfer_failures": int(((both.correct == 0) & (both.correct_english == 1)).sum()),
            **{
                metric: [round(float(value), 4) for value in curves[code, metric]]
                for metric in sorted(alignment.metric.unique())
            },
        }
    return {
        "items": int(english.item_id.nunique()),
        "english": round(float(english.correct.mean()), 4),
        "languages": languages,
    }


def run_pipeline(task: str, folder: Path, data: Path, out: Path, limit: int | None) -> None:
    """One job of the pipeline, as ``python -m align_pipeline.run task=... lang=set/embedded`` does it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from align_pipeline.config import from_hydra, register
    from align_pipeline.config.paths import CONF
    from align_pipeline.pipeline import run

    register()
    overrides = [
        f"task={task}",
        "lang=[set/embedded]",
        f"model.path='{folder}'",
        f"data='{data}'",
        f"task.limit={'null' if limit is None else limit}",
        "wandb.mode=disabled",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides)
    settings = OmegaConf.to_container(composed, resolve=False, enum_to_str=True)
    assert isinstance(settings, dict)
    run(from_hydra(composed, overrides, multirun=True), out, {str(key): value for key, value in settings.items()})


def write(folder: Path, content: dict[str, Any]) -> None:
    """The figures beside the checkpoint."""
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def show(found: dict[str, Any]) -> str:
    """A few lines to read: accuracy, and each metric's best layer."""
    lines = []
    for task, result in found.items():
        lines.append(f"{task}: English {result['english']:.2f}")
        for code, own in sorted(result["languages"].items(), key=lambda pair: -pair[1]["accuracy"]):
            best = ", ".join(
                f"{metric} {max(curve):.2f} at {curve.index(max(curve))} ({curve[0]:.2f} ... {curve[-1]:.2f})"
                for metric, curve in own.items()
                if isinstance(curve, list)
            )
            lines.append(f"  {code} {own['accuracy']:.2f}, {own['transfer_failures']} failures; {best}")
    return "\n".join(lines)
