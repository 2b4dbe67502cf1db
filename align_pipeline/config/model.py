"""Group `model`: a causal language model and how to load it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from align_pipeline.errors import InputError

_MEANT = {"path": "hub id or folder", "name": "name in the tables"}


class TooLong(Enum):
    """What happens to a text with more tokens than the model's context."""

    error = "error"
    truncate_left = "truncate_left"


class Dtype(Enum):
    """The floating-point type of the model's weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    auto = "auto"


class Attention(Enum):
    """The attention implementation in transformers."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


class Parallel(Enum):
    """How a model that does not fit on one GPU is split over several GPUs."""

    none = "none"
    device_map = "device_map"
    tensor = "tensor"


@dataclass
class ModelConfig:
    """A causal language model, from a hub repository or a folder, and how to load it."""

    name: str = MISSING
    """Short name, used in the tables; by default it ends in ``@<revision>`` if ``model.revision`` is set."""
    path: str = MISSING
    """Hub id (``meta-llama/Llama-3.1-8B``), a folder, or ``embedded:<name>`` for a model of this package."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null is the default branch."""
    gguf_file: str | None = None
    """A GGUF file in the repository or folder, loaded instead of safetensors; its weights are dequantised."""
    adapter: str | None = None
    """A PEFT adapter (hub id or folder), merged into the model; ``model.path`` may also be the folder of an adapter."""
    tuned: str | None = None
    """Folder of a model that `python -m align_pipeline.tune` trained; ``model=tuned`` takes the other keys from it."""
    chat_template: bool = False
    """Apply the tokenizer's chat template to the prompts of multiple-choice tasks, with examples as turns and a
    description as the system's message, like lm-evaluation-harness with ``--apply_chat_template``. Alignment texts
    never get a template."""
    dtype: Dtype = Dtype.bfloat16
    """float32, bfloat16, float16 or auto (the type in which the weights are stored)."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    parallel: Parallel = Parallel.none
    """For a model larger than one GPU: ``device_map`` places whole layers on the GPUs of one process; ``tensor`` splits
    every layer over the processes of `torchrun`, which run the model together."""
    attention: Attention = Attention.sdpa
    """sdpa, eager or flash_attention_2; models with soft-capped attention (Gemma 2) need eager."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint."""
    safetensors_only: bool = True
    """Refuse pickled weights (``pytorch_model.bin``), which can run code when loaded."""
    max_length: int | None = None
    """Maximum length of a text in tokens; null is the model's context length."""
    too_long: TooLong = TooLong.error
    """If a text is too long: ``error`` ends the job and names the item; ``truncate_left`` drops tokens from the start
    (never BOS) and counts such texts."""

    def __post_init__(self) -> None:
        for key in ("path", "name"):
            if not str(getattr(self, key)).strip():
                raise InputError(f"model.{key} is empty; set it with model.{key}=<{_MEANT[key]}>.")
        if isinstance(self.max_length, int) and self.max_length < 1:
            raise InputError(f"model.max_length={self.max_length} is too small; use 1 or more.")
