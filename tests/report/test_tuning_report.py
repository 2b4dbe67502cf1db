"""Tuned models in the report: which tables are compared, what the page says, and what stays as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import compose  # noqa: F401

from align_pipeline.data.items import ENGLISH
from align_pipeline.report import read, report, results

LANGUAGES = ("swh_Latn", "tur_Latn", "tam_Taml", "est_Latn")
TRAINED = LANGUAGES[:3]
LAYERS, ITEMS = 7, 200
METRICS = (("dali", "last"), ("mexa_t", "weighted"))
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
    middle = np.exp(-0.5 * ((np.arange(LAYERS) - 3) / 1.5) ** 2)
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
                        **{"model": model, "task": "xcopa", "language": name, "pivot": pivot, "item_id": ids, "gold": gold},
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


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write([runs], tmp_path_factory.mktemp("report")).parent
