"""Which weights are trained, the memory that takes, and the folder that a tuned model is saved to."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.config.tune import Method, TuneConfig
from align_pipeline.config.tuned import TUNING
from align_pipeline.engine.loading import load
from align_pipeline.engine.model import LanguageModel
from align_pipeline.errors import InputError, writing
from align_pipeline.store import folders
from align_pipeline.tune.passes import LOGITS

_ADAM = 3
"""Values in float32 per trained weight besides itself: gradient and two moments."""
_ADAPTER = 5
"""Bytes that the backward pass keeps of each value that goes into an adapter."""


def prepare(model: ModelConfig, tune: TuneConfig, seed: int) -> tuple[LanguageModel, Any]:
    """Load a model and make the weights to train trainable.

    Returns:
        the model; the object whose ``save_pretrained`` saves what was trained.

    Raises:
        InputError: the model cannot be loaded or trained.
    """
    if tune.method is Method.full:  # steps of 1e-5 vanish in bfloat16; passes on a GPU use bfloat16 (autocast)
        model = dataclasses.replace(model, dtype=Dtype.float32)
    lm = load(model)
    lm.model.requires_grad_(False)
    torch.manual_seed(seed)
    saved = lm.model
    if tune.method is Method.full:
        lm.model.requires_grad_(True)
    else:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=tune.lora.r,
            lora_alpha=tune.lora.alpha,
            lora_dropout=tune.lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings(action="ignore"):  # peft calls a renamed function of transformers
                saved = get_peft_model(lm.model, lora)
        except ValueError as error:
            raise InputError(f"{lm.name} cannot be trained with LoRA: {error}") from error
    if tune.gradient_checkpointing:
        lm.model.gradient_checkpointing_enable({"use_reentrant": False})
    return lm, saved


def weights_of(lm: LanguageModel) -> dict[str, nn.Parameter]:
    """The weights that are trained, by name."""
    return {name: weight for name, weight in lm.model.named_parameters() if weight.requires_grad}


def memory(lm: LanguageModel, tune: TuneConfig, tokens: float) -> dict[str, float]:
    """Estimated memory in GB: weights, gradients with Adam's moments, activations of one micro-batch.

    Args:
        lm: the model, prepared.
        tune: the settings.
        tokens: of one micro-batch, with padding.
    """
    config = lm.model.config.get_text_config()
    trained = sum(weight.numel() for weight in weights_of(lm).values())
    size = lm.model.dtype.itemsize
    inner = int(getattr(config, "intermediate_size", 0) or 4 * lm.width)
    # A block keeps about 12 vectors of the model's width and 4 of its MLP's, and for each adapter its input in float32
    # and dropout's mask; checkpointed, only its own input.
    adapted = sum(module["default"].in_features for name, module in lm.model.named_modules() if name.endswith("lora_A"))
    blocks = lm.num_layers * (12 * lm.width + 4 * inner) * size + (_ADAPTER * adapted)
    if tune.gradient_checkpointing:
        blocks = lm.num_layers * lm.width * size
    logits = 3 * 4 * min(LOGITS, tokens * lm.vocabulary)
    return {
        "weights": sum(w.numel() * w.itemsize for w in lm.model.parameters()) / 1e9,
        "gradients and optimizer": 4 * _ADAM * trained / 1e9,
        "activations": (tokens * blocks + logits) / 1e9,
    }


def save(saved: Any, lm: LanguageModel, folder: Path, base: str, files: Mapping[str, str]) -> None:
    """Write the trained weights and text files to a folder, ``tuning.json`` last, so that it marks a complete result.

    Args:
        saved: from `prepare`.
        lm: the model.
        folder: the output folder.
        base: ``model.path`` of the base model, for the adapter's own record.
        files: name -> content of the text files.
    """
    with folders.replaced(folder, TUNING) as making, writing(folder):
        if hasattr(saved, "peft_config"):
            for settings in saved.peft_config.values():
                settings.base_model_name_or_path = base
        with warnings.catch_warnings(action="ignore"):  # peft looks for the base model on the hub
            saved.save_pretrained(making)
        if not hasattr(saved, "peft_config"):
            lm.tokenizer.save_pretrained(making)
        (making / "README.md").unlink(missing_ok=True)  # peft's model card is an empty form
        for name, text in files.items():
            (making / name).write_text(text, encoding="utf-8")
