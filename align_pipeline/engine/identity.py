"""The identity of a model for cache keys, determined without loading it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from align_pipeline.config.model import ModelConfig
from align_pipeline.engine.checks import ADAPTER, SUFFIXES, check, parts

_SMALL = 2**28  # weight files up to this size are hashed whole; for larger ones the header, size and time are hashed


def model_key(config: ModelConfig) -> dict[str, Any] | None:
    """Everything about a model that its numbers depend on, without loading it; None if it is not on this machine yet.

    A folder is identified by its files' content (large weight files by header, size and time of change), a hub model by
    its commit.

    Raises:
        InputError: the folder is incomplete.
    """
    check(config)
    path, adapter = parts(config)
    identity = _identity(path, config.gguf_file or "config.json", config.revision)
    own = None if adapter is None else _identity(adapter, ADAPTER, None)
    if identity is None or (adapter is not None and own is None):
        return None
    return {
        "model": identity,
        **({} if own is None else {"adapter": own}),
        **({} if config.gguf_file is None else {"gguf_file": config.gguf_file}),
        "dtype": config.dtype.value,
        "attention": config.attention.value,
        "max_length": config.max_length,
        "too_long": config.too_long.value,
    }


def commit(config: ModelConfig) -> str | None:
    """The commit of a model that was downloaded from the hub; None for a folder."""
    path, _ = parts(config)
    found = None if isinstance(path, Path) else _identity(path, config.gguf_file or "config.json", config.revision)
    return None if found is None else found.rpartition("@")[2]


def _identity(path: Path | str, file: str, revision: str | None) -> str | None:
    """A folder's content hash, or the commit of a downloaded hub file; None if nothing is downloaded yet."""
    if isinstance(path, Path):
        return _folder_digest(path)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, file, revision=revision)
    return f"{path}@{Path(cached).parent.name}" if isinstance(cached, str) else None  # snapshots/<commit>/<file>


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size}".encode())
        with path.open("rb") as file:
            if status.st_size <= _SMALL:
                digest.update(file.read())
            else:
                digest.update(file.read(2**20) + str(status.st_mtime_ns).encode())
    return digest.hexdigest()
