"""A content-addressed store of what forward passes gave: the same question is never put to a model twice.

An entry is a safetensors file, named by the SHA-256 of what its numbers depend on, and a manifest with the file's own
digest that is renamed into place last. A reader that finds anything else says so and recomputes. A writer holds a lock,
so that jobs that start the same work at once wait for one of them. Nothing is ever unpickled.

What an entry does not depend on is not in its key: batch size, device, launcher, the metrics and the layers asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from align_pipeline.config import ModelConfig
from align_pipeline.errors import writing
from align_pipeline.model import check_folder, path_of

log = logging.getLogger(__name__)

CODE = 2
"""Raise it when the code gives other numbers for the same question: older entries are then never found."""
_SMALL = 2**28  # weight files up to this size are digested whole; of larger ones the header, size and time


@dataclass(frozen=True)
class Cache:
    """The store; ``folder`` None keeps nothing."""

    folder: Path | None

    def get(self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
        """The entry of a key, computed if need be.

        Args:
            key: everything that the numbers depend on.
            compute: gives the tensors; may raise.

        Returns:
            The tensors, on the CPU, and whether they were found.

        Raises:
            InputError: the folder cannot be written to.
        """
        if self.folder is None:
            return compute(), False
        described = json.dumps({**key, "code": CODE}, sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(described.encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}.safetensors"
        found = _read(path)
        if found is not None:
            return found, True
        with writing(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _read(path)  # somebody else may have computed it while this process waited
            if found is not None:
                return found, True
            tensors = {key: value.contiguous().cpu() for key, value in compute().items()}
            with writing(self.folder):
                _write(path, tensors, described)
        return tensors, False


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(path: Path) -> dict[str, Tensor] | None:
    if not _manifest(path).exists():
        return None
    try:
        manifest = json.loads(_manifest(path).read_text(encoding="utf-8"))
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise ValueError("its digest is not the manifest's")
        tensors: dict[str, Tensor] = load_tensors(content)
        return tensors
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        log.warning("Cache entry %s is damaged (%s): computed again.", path.name, error)
        return None


def _write(path: Path, tensors: dict[str, Tensor], described: str) -> None:
    content = save_tensors(tensors)
    manifest = {"sha256": hashlib.sha256(content).hexdigest(), "key": json.loads(described)}
    for target, data in ((path, content), (_manifest(path), json.dumps(manifest).encode())):
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def model_key(config: ModelConfig) -> dict[str, Any] | None:
    """What a model's numbers depend on, without loading it; None if it is not on this machine yet.

    A folder is known by its files' content (large weight files by header, size and time of change), a hub model by its
    commit.

    Raises:
        InputError: the folder is incomplete.
    """
    path = path_of(config)
    if isinstance(path, Path):
        check_folder(path, config)
        identity = _folder_digest(path)
    else:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(path, "config.json", revision=config.revision)
        if not isinstance(cached, str):
            return None
        identity = f"{path}@{Path(cached).parent.name}"  # snapshots/<commit>/config.json
    return {
        "model": identity,
        "dtype": config.dtype.value,
        "attention": config.attention.value,
        "max_length": config.max_length,
        "too_long": config.too_long.value,
    }


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".bin", ".model", ".txt")):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size}".encode())
        with path.open("rb") as file:
            if status.st_size <= _SMALL:
                digest.update(file.read())
            else:
                digest.update(file.read(2**20) + str(status.st_mtime_ns).encode())
    return digest.hexdigest()
