"""The record of a tuned model, ``tuning.json`` in its folder, from which ``model=tuned`` takes name and base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from align_pipeline.config.model import ModelConfig
from align_pipeline.errors import InputError, unknown

TUNING, PRINTS = "tuning.json", "training_sentences.json"
"""The record, and the digests of the sentences that the model has learnt from."""

_LATER = {"gguf_file": None, "attention": "sdpa", "chat_template": False}
"""Keys of ``model`` that the first records lack."""


def tuning_of(folder: str | Path) -> dict[str, Any]:
    """The record in a folder that `python -m align_pipeline.tune` wrote.

    Raises:
        InputError: there is none; says why.
    """
    path = Path(folder).expanduser() / TUNING
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"model.tuned={folder} holds no tuned model (there is no {TUNING}); give it the folder of a training by "
            "python -m align_pipeline.tune that has ended."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return dict(found)


def base_path_of(model: ModelConfig) -> str:
    """``model.path``; for a tuned model, that of the model that its first training began with."""
    return str(tuning_of(model.tuned)["base_path"]) if model.tuned else model.path


def source_of(data: str | None, model: ModelConfig) -> str:
    """Where rows come from: ``hub``, ``embedded`` or a folder; embedded is the default only for embedded models.

    A folder is absolute, so that the same one is one source wherever a command starts and however it is written.
    """
    if data:
        return whole_path(data)
    return "embedded" if base_path_of(model).startswith("embedded:") else "hub"


def whole_path(data: str) -> str:
    """The absolute path of ``data=<folder>``; ``hub``, ``embedded`` and what is no folder stay as they are."""
    if data in ("hub", "embedded") or not Path(data).is_dir():
        return data
    return str(Path(data).resolve())


def tuned(folder: str | None, key: str) -> Any:
    """``${align_pipeline_tuned:${model.tuned},name}``: a key of ``model`` for a tuned model."""
    if not folder:
        raise InputError(
            "model=tuned needs model.tuned=<folder>, the folder of the tuned model that python -m align_pipeline.tune "
            "wrote."
        )
    found = _LATER | tuning_of(folder)["model"]
    if key not in found:
        raise unknown("key of a tuned model", key, found)
    at = str(Path(folder).expanduser())
    return at if found[key] == "." else found[key]
