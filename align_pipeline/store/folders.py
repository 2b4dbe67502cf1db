"""Output folders: each belongs to one job or sweep, and contains either a complete result or none.

A job claims its folder before anything is written there. While it runs it holds a lock, which the system releases if
the process dies. Its files go to a hidden folder inside until all are complete; they are then moved into place, the
summary last. A folder therefore never mixes two jobs, and a job that fails leaves an earlier result as it was.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from align_pipeline.config import Config
from align_pipeline.config.pivots import ENGLISH_ONLY
from align_pipeline.config.tuned import whole_path
from align_pipeline.errors import ELSEWHERE, InputError, writing

SUMMARY, ERROR, NOTHING = "summary.json", "error.txt", "nothing_to_do.txt"
"""Files that mark how a job ended: with a result; failed; the task has none of the selected languages."""
_LOCK = ".lock"
_MAKING = ".making-"
_NOT_ASKED = ("wandb", "cache", "batch_tokens", "named", "allow_overlap", "dry_run")
_NOT_ASKED_OF_MODEL = ("device", "parallel")
"""Keys of the model's config that change where a job runs and what it logs, but not its result."""
_ASKED_OF_MAPS = ("strength", "pairs")
"""Keys of `patch` that change nothing without learned maps."""

_held: dict[Path, FileLock] = {}


def identity(config: Config) -> str:
    """A digest of the config: equal for two jobs whose results are interchangeable."""
    asked = {**dataclasses.asdict(config), "data": config.source}
    for key in _NOT_ASKED:
        del asked[key]
    for key in _NOT_ASKED_OF_MODEL:
        del asked["model"][key]
    if not config.representations:
        del asked["representations"]
    if not config.logit_lens:
        del asked["logit_lens"]
    if config.pivot == ENGLISH_ONLY:
        del asked["pivot"]
    if not config.patch.learned:
        for key in _ASKED_OF_MAPS:
            del asked["patch"][key]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


# ---- who may use a folder


def new(wanted: Path) -> Path:
    """Make a folder that nobody else has: the wanted one, or the first free one of ``<wanted>_2``, ``_3``, ...

    Raises:
        InputError: it cannot be created there.
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
    """Hold a folder, unless this process already does.

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
    """Lock a folder, created if needed, against other jobs until `release` or the end of this process.

    Args:
        folder: the folder.
        patience: seconds to wait for another job; on a network file system the lock of a dead job lasts for a while.

    Raises:
        InputError: another job is using the folder, or it cannot be written to.
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
    """Release the lock of a folder."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        Path(lock.lock_file).unlink(missing_ok=True)  # removed while locked: a waiting job notices and makes a new one
        lock.release()


def release_all() -> None:
    """Release the locks of all folders that this process holds."""
    for place in list(_held):
        release(place)


def refuse_others(folder: Path, job: str, settings: Mapping[str, Any]) -> None:
    """Refuse a folder with another job's result; a result of the same job may be replaced.

    Args:
        folder: may not exist yet.
        job: `identity` of the job.
        settings: the job's resolved config, to say what differs.

    Raises:
        InputError: the folder holds another job's result; says what differs.
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
    """How a config differs from that of the result in a folder, in words; None if it does not or there is no result."""
    found = summary_of(folder)
    return _difference(found.get("config"), settings) if found else None


def unlike(found: Sequence[Path]) -> str:
    """A sentence on the first two results of the same model and task that differ in a setting of these, the data or the
    seed; "" if there are none."""
    asked = ((folder, summary_of(folder)) for folder in found)
    known = [(folder, one) for folder, one in asked if isinstance(one.get("config"), Mapping)]
    for (first, before), (second, now) in itertools.combinations(known, 2):
        if all(before.get(key) == now.get(key) for key in ("model", "task")):
            one, two = ({k: job["config"].get(k) for k in ("task", "model", "data", "seed")} for job in (before, now))
            told = _difference(one, two, "in the first", "in the second")
            if told is not None:
                return f" Compare {first} with {second}: {told}."
    return ""


def owners_of(folder: Path) -> dict[str, str | None]:
    """The job recorded in each result file of a folder, by file name; None where a file records none.

    Raises:
        InputError: one of them is damaged.
    """
    import pyarrow as pa  # not at the top: --help and a mistyped key must work without it
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
    """The content of ``summary.json``; empty if there is no such file.

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


def _difference(theirs: Any, own: Mapping[str, Any], there: str = "there", here: str = "here") -> str | None:
    """The first key with different values in two configs, in words."""
    for key in ("languages", "metrics"):
        sets = [sorted((settings or {}).get(key) or {}) for settings in (theirs, own)]
        if sets[0] != sets[1]:
            told = [" and ".join(names) or "none" for names in sets]
            return f"{key}: {told[0]} {there} and {told[1]} {here}"
    before, now = (_whole(_flat(settings)) for settings in (theirs, own))
    for key in [*now, *(key for key in before if key not in now)]:
        head, _, rest = key.partition(".")
        elsewhere = head in _NOT_ASKED or (head == "model" and rest in _NOT_ASKED_OF_MODEL)
        if not elsewhere and before.get(key) != now.get(key):
            told = ["null" if value is None else str(value) for value in (before.get(key), now.get(key))]
            return f"{key} is {told[0]} {there} and {told[1]} {here}"
    return None


def _whole(flat: dict[str, Any]) -> dict[str, Any]:
    """The same settings, with the data folder's absolute path."""
    data = flat.get("data")
    return flat | {"data": whole_path(data)} if isinstance(data, str) else flat


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, Mapping) or not settings:
        return {prefix: None if settings == [] else settings}  # older results lack keys of which [] means nothing
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


# ---- whole or not at all


@contextlib.contextmanager
def replaced(folder: Path, last: str = SUMMARY) -> Iterator[Path]:
    """Yield a hidden folder for a result's files; move them into place together if the block succeeds.

    The folder must be held. An existing summary is removed before its tables, and the new one is moved last: after an
    interruption the folder has no summary.

    Args:
        folder: where the result belongs.
        last: name of the file that marks a complete result.
    """
    with writing(folder, ELSEWHERE):
        for left in folder.glob(f"{_MAKING}*"):  # left by a job that was killed
            shutil.rmtree(left, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=folder))
        making.chmod(0o755)  # mkdtemp's folder is private, but plots and tables may be read by others
    try:
        yield making
        with writing(folder, ELSEWHERE):
            made = sorted(making.iterdir(), key=lambda path: path.name == last)
            names = {path.name for path in made}
            others = sorted({path.name for path in folder.glob("*.parquet")} - names)
            for name in (last, ERROR, NOTHING, *others):
                (folder / name).unlink(missing_ok=True)
            for path in made:
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(making, ignore_errors=True)
