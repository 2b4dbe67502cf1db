"""Output folders: each belongs to one job or one sweep, and holds that job's results whole or not at all.

A job asks for its folder before anything is written there. While it runs it holds a lock that the system takes from a
process that dies; what it makes lies in a hidden folder inside until all of it is there, and then takes its place, the
summary last. So no folder ever mixes two jobs, and a job that fails leaves an earlier result as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from align_pipeline.config import Config
from align_pipeline.errors import ELSEWHERE, InputError, writing

SUMMARY, ERROR, NOTHING = "summary.json", "error.txt", "nothing_to_do.txt"
"""How a job ends: with a result; failed; its task has none of its languages."""
_LOCK = ".lock"
_MAKING = ".making-"
_NOT_ASKED = ("wandb", "cache", "batch_tokens", "named")
_NOT_ASKED_OF_MODEL = ("device", "parallel")
"""Keys that do not change what a job finds, only where it runs and what is told of it."""

_held: dict[Path, FileLock] = {}


def identity(config: Config) -> str:
    """A digest of what a job asks: equal for two jobs whose results may stand for each other."""
    asked = {**dataclasses.asdict(config), "data": config.source}
    for key in _NOT_ASKED:
        del asked[key]
    for key in _NOT_ASKED_OF_MODEL:
        del asked["model"][key]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


# ---- who may use a folder


def new(wanted: Path) -> Path:
    """Make a folder that nobody else has: the wanted one, or the first of ``<wanted>_2``, ``_3``, ... that is free.

    Raises:
        InputError: it cannot be made there.
    """
    with writing(wanted, ELSEWHERE):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    raise AssertionError


@contextlib.contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder, unless this process does already.

    Raises:
        InputError: as `hold`.
    """
    already = folder.resolve() in _held
    hold(folder, patience)
    try:
        yield
    finally:
        if not already:
            release(folder)


def hold(folder: Path, patience: float = 0.0) -> None:
    """Keep other jobs out of a folder, which is made if need be, until `release` or the end of this process.

    Args:
        folder: the folder.
        patience: seconds to wait for another job; on a network file system the lock of a dead one lasts a while.

    Raises:
        InputError: another job is at work in it, or it cannot be written to.
    """
    place = folder.resolve()
    if place in _held:
        return
    with writing(folder, ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / _LOCK)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise InputError(
                f"Another job is running in {folder}; wait for it, or give this job another folder with "
                "hydra.run.dir=<folder> (for a sweep: hydra.sweep.dir=<folder>)."
            ) from None
    _held[place] = lock


def release(folder: Path) -> None:
    """Let other jobs into a folder again."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it notices and makes another
        lock.release()


def release_all() -> None:
    """Let other jobs into all folders that this process holds."""
    for place in list(_held):
        release(place)


def refuse_others(folder: Path, job: str, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another job's result; the same job's may be replaced.

    Args:
        folder: it need not exist.
        job: `identity` of the job that asks.
        settings: its resolved config, to say what differs.

    Raises:
        InputError: it does; says what differs.
    """
    owners = {name: owner for name, owner in owners_of(folder).items() if owner != job}
    if not owners:
        return
    differs = difference(folder, settings) if SUMMARY in owners else None
    raise InputError(
        f"{folder} holds the result of another job ({differs or next(iter(owners))}); give this job another "
        "folder, or remove the files there."
    )


def difference(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """How a config differs from that of the result in a folder, in words; None if it does not, or there is none."""
    found = summary_of(folder)
    return _difference(found.get("config"), settings) if found else None


def owners_of(folder: Path) -> dict[str, str | None]:
    """Which job the result files of a folder say they are of, by file name; None where a file does not say.

    Raises:
        InputError: one of them is damaged.
    """
    import pyarrow as pa  # not at the top: --help and a mistyped key answer without it
    import pyarrow.parquet as pq

    from align_pipeline.store.tables import JOB

    found: dict[str, str | None] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            owner = (pq.read_schema(path).metadata or {}).get(JOB)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"{path} is damaged and cannot be read as a table ({reason}); remove it and run its job again."
            ) from error
        found[path.name] = None if owner is None else owner.decode()
    if (folder / SUMMARY).is_file():
        found[SUMMARY] = summary_of(folder).get("job")
    return found


def summary_of(folder: Path) -> dict[str, Any]:
    """What ``summary.json`` holds; nothing where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / SUMMARY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return content if isinstance(content, dict) else {}


def _difference(theirs: Any, own: Mapping[str, Any]) -> str | None:
    """The first key that two configs give different values, in words."""
    for key in ("languages", "metrics"):
        sets = [sorted((settings or {}).get(key) or {}) for settings in (theirs, own)]
        if sets[0] != sets[1]:
            told = [" and ".join(names) or "none" for names in sets]
            return f"{key}: {told[0]} there and {told[1]} here"
    before, now = _flat(theirs), _flat(own)
    for key in [*now, *(key for key in before if key not in now)]:
        head, _, rest = key.partition(".")
        elsewhere = head in _NOT_ASKED or (head == "model" and rest in _NOT_ASKED_OF_MODEL)
        if not elsewhere and before.get(key) != now.get(key):
            told = ["null" if value is None else str(value) for value in (before.get(key), now.get(key))]
            return f"{key} is {told[0]} there and {told[1]} here"
    return None


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, Mapping) or not settings:
        return {prefix: settings}
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


# ---- whole or not at all


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give a hidden folder for the files of a result, and move them into place together when the block ends well.

    The folder must be held. A summary that is there goes before its tables do, and the new one comes last: whoever
    stops in between leaves a folder without a summary.
    """
    with writing(folder, ELSEWHERE):
        for left in folder.glob(f"{_MAKING}*"):  # of a job that was killed
            shutil.rmtree(left, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=folder))
        making.chmod(0o755)  # plots and tables lie in it, which others may read as they may the folder
    try:
        yield making
        with writing(folder, ELSEWHERE):
            made = sorted(making.iterdir(), key=lambda path: path.name == SUMMARY)
            names = {path.name for path in made}
            others = sorted({path.name for path in folder.glob("*.parquet")} - names)
            for name in (SUMMARY, ERROR, NOTHING, *others):
                (folder / name).unlink(missing_ok=True)
            for path in made:
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(making, ignore_errors=True)
