"""Checks of a model before it is loaded: missing or damaged files, and the number of layers."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from align_pipeline import distributed, files
from align_pipeline.config.model import Attention, ModelConfig, Parallel
from align_pipeline.config.paths import EMBEDDED
from align_pipeline.engine.messages import as_line, one_sentence, some_of
from align_pipeline.errors import InputError

ADAPTER = "adapter_config.json"


SUFFIXES = (".json", ".safetensors", ".gguf", ".bin", ".model", ".txt", ".jinja")
"""Suffixes of the files in a model folder that affect its numbers."""


_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


_QUANTISED = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "hqq": "hqq",
    "eetq": "eetq",
    "compressed-tensors": "compressed_tensors",
    "quanto": "optimum.quanto",
    "torchao": "torchao",
}
"""The package that each kind of quantised weights needs."""


def parts(config: ModelConfig) -> tuple[Path | str, Path | str | None]:
    """The model and its adapter, if there is one; each is a folder or a hub id.

    If ``model.path`` is an adapter's folder, its base model is used. An adapter in a full model's folder is used too.

    Raises:
        InputError: an adapter names no base model.
    """
    path = path_of(config.path)
    adapter = None if config.adapter is None else path_of(config.adapter)
    if adapter is not None or not isinstance(path, Path) or not (path / ADAPTER).is_file():
        return path, adapter
    if (path / "config.json").is_file():
        return path, path
    base = _json(path / ADAPTER).get("base_model_name_or_path")
    if not base:
        raise InputError(
            f"The adapter '{config.path}' does not name its base model; set model.path to the base model and "
            "model.adapter to the adapter."
        )
    return path_of(str(base)), path


def path_of(given: str) -> Path | str:
    """A local folder, or a hub id unchanged."""
    if given.startswith("embedded:"):
        return EMBEDDED / given.removeprefix("embedded:")
    looks_local = given.startswith(("/", ".", "~")) or given.count("/") > 1
    folder = Path(given).expanduser()
    return folder if folder.is_dir() or looks_local else given


def check(config: ModelConfig) -> None:
    """Refuse an unusable model before anything is read, even if the cache holds all results.

    Raises:
        InputError: a device or package is missing, or a folder is incomplete; says what is missing.
    """
    device_of(config.device)
    check_parallel(config.parallel)
    if config.attention is Attention.flash_attention_2 and find_spec("flash_attn") is None:
        raise InputError(
            "model.attention=flash_attention_2 needs the package flash-attn: pip install flash-attn, or use sdpa."
        )
    path, adapter = parts(config)
    for folder in (path, adapter):
        if isinstance(folder, Path) and folder.is_dir():
            files.check(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if config.gguf_file is not None:
        _check_gguf(path, config)
    elif isinstance(path, Path):
        _check_folder(path, config)
    kind = quantisation(path)
    package = _QUANTISED.get(kind or "")
    if package is not None and find_spec(package.split(".")[0]) is None:
        raise InputError(
            f"{config.path} has weights quantised with {kind}, which need the package {package}: pip install {package}."
        )
    if adapter is None:
        return
    if isinstance(adapter, Path):
        if not (adapter / ADAPTER).is_file():
            raise InputError(f"model.adapter={adapter} is not an adapter: it has no {ADAPTER}.")
        if not any((adapter / f"adapter_model{end}").is_file() for end in (".safetensors", ".bin")):
            raise InputError(f"The adapter '{adapter}' has no weights (adapter_model.safetensors).")


def num_layers(config: ModelConfig) -> int | None:
    """L from the model's config, before its weights are loaded; None if the config does not give it.

    Raises:
        InputError: the model is not on the hub, or the hub cannot be reached.
    """
    return _number(config, ("num_hidden_layers", "n_layer", "n_layers", "num_layers"))


def width(config: ModelConfig) -> int | None:
    """D, the width of the residual stream, likewise."""
    return _number(config, ("hidden_size", "n_embd", "d_model"))


def _number(config: ModelConfig, names: Sequence[str]) -> int | None:
    """The first of the keys that the model's config has."""
    path, _ = parts(config)
    if config.gguf_file is not None:
        return None
    settings = _settings(path, config)
    settings = settings.get("text_config") or settings
    found = next((settings[name] for name in names if settings.get(name) is not None), None)
    return found if isinstance(found, int) else None


def _settings(path: Path | str, config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of a folder, or of a hub repository, from which it is downloaded if it is not on this machine."""
    if isinstance(path, Path):
        return _json(path / "config.json")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    here = try_to_load_from_cache(path, "config.json", revision=config.revision)
    if isinstance(here, str):
        return _json(Path(here))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each attempt; `one_sentence` reports the end
    with one_sentence(config, path):
        try:
            return _json(Path(hf_hub_download(path, "config.json", revision=config.revision)))
        except LocalEntryNotFoundError:
            raise
        except RemoteEntryNotFoundError as error:
            raise InputError(
                f"{path} has no config.json on the hub: for a GGUF repository set model.gguf_file=<its file>, for an "
                f"adapter set model.path=<base model> model.adapter={path}."
            ) from error


def _check_shards(folder: Path) -> None:
    """Refuse sharded weights if a shard or the index is missing.

    Raises:
        InputError: one is missing; names a file.
    """
    shards = sorted(path.name for path in folder.glob("*.safetensors") if _SHARD.search(path.name))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = sorted(set(_json(index).get("weight_map", {}).values()))
        missing = [name for name in listed if not (folder / name).is_file()]
        if missing:
            raise InputError(
                f"The download of {folder} is incomplete: {index.name} lists {some_of(missing)}, which is missing."
            )
    elif shards and not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder} has its weights in shards ({shards[0]}, ...) but no {index.name}, which lists them; copy it "
            "from the source of the shards, or save the model again."
        )


def _check_folder(folder: Path, config: ModelConfig) -> None:
    """Refuse an incomplete model folder; the errors of transformers are long, or come late."""
    shown = config.path if path_of(config.path) == folder else str(folder)
    if folder.is_file() and folder.suffix == ".gguf":
        raise InputError(
            f"model.path takes a folder; for this file set model.path={folder.parent} model.gguf_file={folder.name}."
        )
    if not folder.is_dir():
        raise InputError(f"The model folder '{shown}' does not exist; model.path takes a hub id or a folder.")
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.glob("*.gguf"))
        if found:
            raise InputError(
                f"The model folder '{shown}' has no config.json, but a GGUF file; load it with "
                f"model.gguf_file={found[0]}."
            )
        raise InputError(f"The model folder '{shown}' holds no model: it has no config.json.")
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) and config.safetensors_only:
            raise InputError(
                f"The model folder '{shown}' has only pickled weights, which can run code when loaded; convert "
                "them to safetensors, or set model.safetensors_only=false if you trust them."
            )
        if config.safetensors_only or not any(folder.glob("*.bin")):
            raise InputError(f"The model folder '{shown}' has no weights (*.safetensors).")
    _check_shards(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"The model folder '{shown}' has no tokenizer (tokenizer.json).")


def _check_gguf(path: Path | str, config: ModelConfig) -> None:
    """Refuse a GGUF file that does not exist, is truncated, or cannot be read here."""
    if find_spec("gguf") is None:
        raise InputError(
            f"model.gguf_file={config.gguf_file} needs the package gguf: pip install 'align_pipeline[gguf]'."
        )
    if not isinstance(path, Path):
        return
    assert config.gguf_file is not None
    file = path / config.gguf_file
    if not file.is_file():
        there = ", ".join(sorted(other.name for other in path.glob("*.gguf"))) or "none"
        raise InputError(f"The model folder '{path}' has no file {config.gguf_file}; its GGUF files: {there}.")
    size = file.stat().st_size
    if (end := _gguf_end(file, size, file.stat().st_mtime_ns)) > size:
        raise InputError(f"{file} is cut off: it has {size:,} of {end:,} bytes.")


@functools.lru_cache(maxsize=1)
def _gguf_end(file: Path, size: int, changed: int) -> int:
    """End of the last tensor in bytes. Cached, because a job asks several times and reading a vocabulary takes seconds.

    Args:
        file: a GGUF file.
        size, changed: the file's size and time of change; if they differ, it is read again.

    Raises:
        InputError: the file cannot be read.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(file)
    except Exception as error:  # the reader can raise anything on damaged bytes
        raise InputError(f"{file} is cut off or is not a GGUF file: {as_line(error)}") from error
    return max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {as_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} is not a JSON object with settings.")
    return found


def quantisation(path: Path | str) -> str | None:
    """How a folder's weights are quantised; None if they are not, or if this is unknown before the download."""
    if not isinstance(path, Path) or not (path / "config.json").is_file():
        return None
    settings = _json(path / "config.json").get("quantization_config") or {}
    method = settings.get("quant_method")
    return None if method is None else str(method)


def check_parallel(parallel: Parallel) -> None:
    """Refuse a parallel mode that does not fit the number of processes.

    Raises:
        InputError: it does not fit.
    """
    if parallel is Parallel.device_map and distributed.size() > 1:
        raise InputError(
            "model.parallel=device_map uses all GPUs in one process; start only one process, or use "
            "model.parallel=tensor."
        )
    if parallel is Parallel.tensor and distributed.size() == 1:
        raise InputError(
            "model.parallel=tensor needs a process per GPU; start them with torchrun --nproc_per_node <GPUs>."
        )


def device_of(name: str) -> torch.device:
    """The device of ``model.device``.

    Raises:
        InputError: this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda", distributed.local_gpu()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"model.device={name} is not a device; use auto, cpu, cuda or cuda:<n>.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device={name}, but this machine has no CUDA GPU that torch can use; use cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"model.device={name}, but this machine has {torch.cuda.device_count()} GPUs, numbered from 0."
        )
    return device
