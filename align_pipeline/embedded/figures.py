"""What a checkpoint shows on the embedded benchmark, measured by the pipeline itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from align_pipeline.config import composed, from_hydra, resolved
from align_pipeline.data.items import ENGLISH
from align_pipeline.pipeline import run

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
    """One job of the pipeline, as ``python -m align_pipeline.run task=... lang=set/embedded`` does it."""
    overrides = [f"task={task}", "lang=[set/embedded]", f"model.path='{folder}'", f"data='{data}'"]
    overrides += ["wandb.mode=disabled", f"task.limit={'null' if limit is None else limit}"]
    made = composed(overrides)
    with tempfile.TemporaryDirectory() as out:
        run(from_hydra(made, overrides, multirun=True), Path(out), resolved(made))
        predictions = pd.read_parquet(Path(out) / "predictions.parquet")
        alignment = pd.read_parquet(Path(out) / "alignment.parquet")
    english = predictions[predictions.language == ENGLISH]
    curves = alignment.groupby(["language", "metric", "layer"]).value.mean()
    languages: dict[str, dict[str, Any]] = {}
    for code, own in predictions[predictions.language != ENGLISH].groupby("language"):
        both = own.merge(english, on=["pivot", "item_id"], suffixes=("", "_english"))
        failures = int(((both.correct == 0) & (both.correct_english == 1)).sum())
        languages[str(code)] = {"accuracy": round(float(own.correct.mean()), 4), "transfer_failures": failures}
        for metric in sorted(alignment.metric.unique()):
            languages[str(code)][metric] = [round(float(value), 4) for value in curves[code, metric]]
    accuracy = round(float(english.correct.mean()), 4)
    return {"items": int(english.item_id.nunique()), "english": accuracy, "languages": languages}


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
