"""A content-addressed cache of forward passes, so that no computation is ever repeated for the same model.

An entry is a safetensors file, named by the SHA-256 of everything its numbers depend on, and a manifest with the file's
own digest. The manifest is renamed into place last. If a reader finds an entry incomplete or damaged, it says so and
recomputes. A writer holds a lock, so that of several jobs that start the same work one computes and the others wait.
Nothing is ever unpickled.

The key leaves out everything that does not change an entry: batch size, device, launcher, chosen metrics and layers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file as map_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from align_pipeline.errors import writing

log = logging.getLogger(__name__)


CODE = 3
"""Increase it when the code computes other numbers for the same key: older entries are then never found."""


_ELSEWHERE = "choose another folder with cache=<folder>, or turn the cache off with cache=null"


_PATIENCE = 30.0
"""Seconds after which a job logs that it is waiting for another one."""


@dataclass(frozen=True)
class Cache:
    """The store; with ``folder`` None nothing is stored."""

    folder: Path | None

    def get(
        self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]], note: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Tensor], bool]:
        """The entry of a key, computed if it is missing.

        Args:
            key: everything that the numbers depend on.
            compute: returns the tensors; may raise.
            note: a description of the entry for lists of the cache.

        Returns:
            The tensors, on the CPU, and whether they were in the cache.

        Raises:
            InputError: the folder cannot be written to.
        """
        if self.folder is None:
            return compute(), False
        path = self._path(key)
        found = _read(path)
        if found is not None:
            return found, True
        with writing(self.folder, _ELSEWHERE):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(path):
            found = _read(path)  # another process may have computed it while this one waited
            if found is not None:
                return found, True
            if path.exists() and not _manifest(path).exists():
                log.warning("Cache entry %s is incomplete; it is computed again.", path.name)
            tensors = {key: value.contiguous().cpu() for key, value in compute().items()}
            with writing(self.folder, _ELSEWHERE):
                for left in path.parent.glob(f".{path.stem}.*.partial"):  # left by a writer that was killed
                    left.unlink(missing_ok=True)
                _write(path, tensors, _described(key), note or {})
        return tensors, False

    def find(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The entry of a key, if it is there and intact."""
        return None if self.folder is None else _read(self._path(key))

    def mapped(
        self, key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]], note: Mapping[str, str] | None = None
    ) -> dict[str, Tensor]:
        """Like `get`, for large entries: the tensors are memory-mapped, so that only what is used is in memory."""
        if self.folder is None:
            return compute()
        if not self.has(key):
            self.get(key, compute, note)
        found: dict[str, Tensor] = map_tensors(self._path(key))
        return found

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether the store has an intact entry of the key; reads it piece by piece."""
        if self.folder is None:
            return False
        path = self._path(key)
        try:
            manifest = json.loads(_manifest(path).read_text(encoding="utf-8"))
            with path.open("rb") as file:
                return bool(hashlib.file_digest(file, "sha256").hexdigest() == manifest["sha256"])
        except _DAMAGE:
            return False

    def _path(self, key: Mapping[str, Any]) -> Path:
        """Where the tensors of a key's entry are."""
        assert self.folder is not None
        return self.folder / _place(_described(key))

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold the entry's lock, which the system releases if the process dies."""
        assert self.folder is not None
        lock = FileLock(path.with_suffix(".lock"))
        with writing(self.folder, _ELSEWHERE):
            try:
                lock.acquire(timeout=_PATIENCE)
            except Timeout:
                log.info(
                    "Waiting for another job that is computing cache entry %s (%s).", path.stem[:12], lock.lock_file
                )
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _described(key: Mapping[str, Any]) -> str:
    """The whole key, in which the version of the code is a part."""
    return json.dumps({**key, "code": CODE}, sort_keys=True, ensure_ascii=False)


def _place(described: str) -> str:
    """An entry's path in the store, from its whole key."""
    name = hashlib.sha256(described.encode()).hexdigest()
    return f"{name[:2]}/{name}.safetensors"


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An entry and its manifest.

    Raises:
        OSError, ValueError, KeyError, TypeError, SafetensorError: the entry is damaged.
    """
    manifest = json.loads(_manifest(path).read_text(encoding="utf-8"))
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
        raise ValueError("its digest differs from the one in the manifest")
    described = json.dumps(manifest["key"], sort_keys=True, ensure_ascii=False)
    if _place(described) != f"{path.parent.name}/{path.name}":
        raise ValueError("it belongs to another key")
    return load_tensors(content), manifest


_SUFFIXES = (".safetensors", ".json")


_DAMAGE = (OSError, ValueError, KeyError, TypeError, SafetensorError)


def _read(path: Path) -> dict[str, Tensor] | None:
    if not _manifest(path).exists():
        return None
    try:
        return _load(path)[0]
    except _DAMAGE as error:
        log.warning("Cache entry %s is damaged (%s); it is computed again.", path.name, error)
        return None


def _write(path: Path, tensors: dict[str, Tensor], described: str, note: Mapping[str, str]) -> None:
    content = save_tensors(tensors)
    digest = hashlib.sha256(content).hexdigest()
    manifest = {"sha256": digest, "key": json.loads(described), "note": dict(note)}
    for target, data in ((path, content), (_manifest(path), json.dumps(manifest, ensure_ascii=False).encode())):
        partial = target.with_name(f".{target.stem}.{os.urandom(8).hex()}.partial")  # process ids repeat across nodes
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a network file system may report a full disk only here
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Entry:
    """An entry, as listed for a person.

    Attributes:
        path: its tensors.
        note: the writer's description.
        size: bytes, manifest included.
        used: time of its last change, seconds since 1970.
        damage: why it would be recomputed; None if it is intact.
    """

    path: Path
    note: Mapping[str, str]
    size: int
    used: float
    damage: str | None


def entries(folder: Path) -> list[Entry]:
    """All entries of a store, damaged and half-written ones included, oldest first."""
    found = []
    for path in {path.with_suffix(".safetensors") for path in folder.glob("??/*") if path.suffix in _SUFFIXES}:
        if not _is_own(path):
            continue
        note: Mapping[str, str] = {}
        damage = None
        try:
            note = _load(path)[1].get("note", {})
        except _DAMAGE as error:
            damage = "half written" if isinstance(error, FileNotFoundError) else str(error)
        status = [part.stat() for part in (path, _manifest(path)) if part.exists()]
        if status:  # not pruned by another process in the meantime
            size, used = sum(part.st_size for part in status), max(part.st_mtime for part in status)
            found.append(Entry(path, note, size, used, damage))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def _is_own(path: Path) -> bool:
    """Whether a file is named like an entry: 64 hexadecimal digits, in a folder named by the first two."""
    return re.fullmatch("[0-9a-f]{64}", path.stem) is not None and path.parent.name == path.stem[:2]


def prune(folder: Path, older_than_days: float | None = None, model: str | None = None) -> list[Entry]:
    """Remove damaged entries, leftovers of killed writers, and the entries that the arguments select.

    Entries that a job is writing at the moment stay.

    Args:
        folder: the store.
        older_than_days: remove entries written longer ago than this.
        model: remove only entries of this model; without `older_than_days`, all of them.

    Returns:
        The removed entries.

    Raises:
        InputError: the folder cannot be written to.
    """
    gone = []
    for entry in entries(folder):
        asked = older_than_days is not None or model is not None
        old = older_than_days is None or entry.used < time.time() - older_than_days * 86400
        if entry.damage is None and not (asked and old and model in (None, entry.note.get("model"))):
            continue
        with writing(folder, "run it as the user who may"):
            if _removed(entry.path, (_manifest(entry.path), entry.path)):
                gone.append(entry)
    for left in [*folder.glob("??/.*.partial"), *folder.glob("??/*.lock")]:
        path = left.parent / f"{left.name.strip('.').split('.')[0]}.safetensors"
        if _is_own(path):
            with writing(folder, "run it as the user who may"):
                _removed(path, (left,))
    return gone


def _removed(path: Path, files: Sequence[Path]) -> bool:
    """Remove files of an entry and its lock; False if a job holds the lock."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        for file in (*files, Path(lock.lock_file)):
            file.unlink(missing_ok=True)
        return True
    finally:
        lock.release()
