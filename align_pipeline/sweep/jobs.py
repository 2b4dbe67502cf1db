"""Work around Hydra's jobs: claim output folders, and after a multirun write a report over the jobs that succeeded.

Hydra calls no callback if a job of a multirun raises, and a launcher may know only one process. A job that fails
therefore writes an error file to its own folder, and the report is built from the folders alone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from align_pipeline import distributed
from align_pipeline.config import from_hydra, resolved
from align_pipeline.config.messages import one_sentence
from align_pipeline.config.tuned import TUNING, whole_path
from align_pipeline.config.wandb import WandbConfig
from align_pipeline.errors import InputError
from align_pipeline.store import folders
from align_pipeline.store.folders import ERROR, NOTHING, SUMMARY

log = logging.getLogger(__name__)


@dataclass
class Sweep:
    """The multirun of this process.

    Attributes:
        folder: the sweep's folder.
        wandb: the config for logging the report.
        jobs: number of requested jobs; None if another sweeper than Hydra's own decides as it goes.
    """

    folder: Path
    wandb: WandbConfig
    jobs: int | None


_running: list[Sweep] = []
_claimed: list[tuple[Path, str | None]] = []
_failures: list[tuple[Path, str]] = []
"""Folder and reason of each failed job; of sweeps without a `Sweep`, that is of trainings, nothing else knows them."""
_RESULTS = (SUMMARY, TUNING)


class Begin(Callback):
    """Gives each run and each sweep its own folder, before anything is written.

    Hydra turns exceptions in a callback into warnings, but a `SystemExit` ends the command.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Hydra."""
        if distributed.is_main():
            with _ending_the_command():
                _claim_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Hydra."""
        if distributed.is_main():
            with _ending_the_command():
                _claim_sweep(config)


def claimed() -> tuple[Path, str | None] | None:
    """The folder and the cache of this command's sweep, also if its jobs run elsewhere; None if it is no sweep."""
    return _claimed[-1] if _claimed else None


@contextlib.contextmanager
def _ending_the_command() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        sentence = one_sentence(error)
        if sentence is None:
            raise SystemExit("".join(traceback.format_exception(error)).rstrip()) from error
        raise SystemExit(f"Error: {sentence}") from error


def _claim_run(config: DictConfig) -> None:
    """Claim a new folder for the run, or the folder that the user named, unless it holds another job's result."""
    overrides = config.hydra.overrides
    composed = copy.deepcopy(config)
    with read_write(composed), open_dict(composed):
        del composed["hydra"]
    typed = from_hydra(composed, list(overrides.task), multirun=False)  # finds config errors before a folder is made
    folder = Path(config.hydra.run.dir)
    if _is_named("hydra.run.dir", overrides.hydra):
        folders.hold(folder)
        folders.refuse_others(folder, folders.identity(typed), resolved(composed))
    else:
        folder = folders.new(folder)
        folders.hold(folder)
    with read_write(config.hydra):
        config.hydra.run.dir = str(folder)


def _claim_sweep(config: DictConfig) -> None:
    """Claim a new folder for the sweep's jobs, or the folder that the user named, unless it holds another sweep."""
    overrides = config.hydra.overrides
    wandb = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WandbConfig), config.wandb))
    assert isinstance(wandb, WandbConfig)
    jobs = _jobs(config)
    if jobs is not None:
        _refuse_shared_names(jobs, config.hydra.job.config_name)
    folder = Path(config.hydra.sweep.dir)
    if _is_named("hydra.sweep.dir", overrides.hydra):
        folders.hold(folder)
        _refuse_other_sweeps(folder, list(overrides.task))
    else:
        folder = folders.new(folder)
        folders.hold(folder)
    literal = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config.hydra):
        config.hydra.sweep.dir = str(folder)
        overrides.hydra.append(f"hydra.sweep.dir='{literal}'")  # each job's config is composed from these overrides
    if config.dry_run:
        return
    wandb.group = wandb.group or folder.name
    _running.append(Sweep(folder, wandb, None if jobs is None else len(jobs)))
    _claimed.append((folder, config.cache))


def _is_named(key: str, overrides: Sequence[str]) -> bool:
    return any(override.lstrip("+").startswith(f"{key}=") for override in overrides)


def _refuse_other_sweeps(folder: Path, overrides: list[str]) -> None:
    """Refuse a folder that contains the jobs of another command.

    Raises:
        InputError: it does; names the difference.
    """
    record = folder / "multirun.yaml"
    if not record.is_file():
        return
    before = [_whole(one) for one in OmegaConf.load(record).hydra.overrides.task]
    overrides = [_whole(one) for one in overrides]
    differing = sorted(set(before) ^ set(overrides))
    if differing:
        where = "only here" if differing[0] in overrides else "only there"
        raise InputError(
            f"{folder} holds another sweep ({differing[0]} {where}): to continue it, repeat its command; give this "
            "sweep another folder (hydra.sweep.dir=<folder>). Cached results are not computed again."
        )


def _whole(override: str) -> str:
    """An override; in ``data=``, the folder's absolute path."""
    key, _, value = override.partition("=")
    return f"{key}={','.join(map(whole_path, value.split(',')))}" if key == "data" else override


def _jobs(config: DictConfig) -> list[list[str]] | None:
    """The overrides of each job; None if they are not all known in advance.

    Raises:
        InputError: ``key=glob(...)`` matches nothing.
    """
    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return None
    given = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] + list(config.hydra.overrides.task)
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides(given)
    for one in overrides:
        if one.is_sweep_override() and not list(one.sweep_iterator()):  # Hydra would succeed without any job
            raise InputError(
                f"{one.input_line} matches nothing, so no job would run; --info {one.key_or_group} lists what there is."
            )
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def _refuse_shared_names(jobs: Sequence[Sequence[str]], config_name: str) -> None:
    """Refuse a sweep that uses one name for two models, because their rows could not be told apart.

    Raises:
        InputError: the sweep does so.
    """
    loader = GlobalHydra.instance().config_loader()
    # Only overrides that can change the model are composed, and each combination once.
    choices = {tuple(o for o in job if o.lstrip("+~").startswith(("model", "experiment"))) for job in jobs}
    if len(choices) < 2:
        return
    named: dict[str, dict[str, Any]] = {}
    for choice in sorted(choices):
        settings = resolved(loader.load_configuration(config_name, list(choice), RunMode.RUN).model)
        own = {key: value for key, value in settings.items() if key not in ("name", "device", "parallel")}
        other = named.setdefault(str(settings["name"]), own)
        key = next((key for key in own if own[key] != other.get(key)), None)
        if key is not None:
            own_name = "align_pipeline_file_name:${model.path}" if key == "path" else f"model.{key}"
            raise InputError(
                f"Two models of this sweep are both called '{settings['name']}' (model.{key} is {other.get(key)} and "
                f"{own[key]}), but the tables identify models by name; give each its own name, such as "
                f"'model.name={'' if key == 'path' else settings['name'] + '_'}${{{own_name}}}'."
            )


@dataclass(frozen=True)
class Planned:
    """A job of a sweep.

    Attributes:
        number: Hydra's job number, from 0.
        overrides: its command line overrides.
        folder: its output folder.
        settings: its resolved config.
    """

    number: int
    overrides: list[str]
    folder: Path
    settings: Any

    def is_finished(self) -> bool:
        """Whether its folder holds the result of exactly this config."""
        return (
            (self.folder / SUMMARY).exists()  # a training knows itself whether its folder has its result
            and has_result(self.folder)
            and folders.difference(self.folder, json.loads(json.dumps(self.settings))) is None
        )

    def outcome(self) -> JobReturn:
        """The return value for Hydra: empty for a failed job, which must not end all others; the report lists it."""
        rows = folders.summary_of(self.folder).get("languages", []) if has_result(self.folder) else []
        known = [row["accuracy"] for row in rows if row["accuracy"] is not None]
        found = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        found.return_value = sum(known) / len(known) if known else None
        return found


def refuse_others(job: Planned) -> None:
    """Refuse a job if its folder holds the result of another config.

    Raises:
        InputError: it does; says what differs.
    """
    differs = folders.difference(job.folder, json.loads(json.dumps(job.settings)))
    if differs is not None:
        raise InputError(
            f"{job.folder} holds the result of another job ({differs}): conf has changed since then; give the sweep "
            "another folder (hydra.sweep.dir=<folder>)."
        )


def begin(job: Planned) -> None:
    """Create a job's folder before the job runs, so that the report lists it even if it never starts.

    Files that mark the end of an earlier attempt are removed.
    """
    for name in (ERROR, NOTHING):
        (job.folder / name).unlink(missing_ok=True)
    (job.folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(job.overrides), job.folder / ".hydra" / "overrides.yaml")


def has_result(folder: Path) -> bool:
    """Whether the latest attempt of a job has a result."""
    return any((folder / name).exists() for name in _RESULTS) and not (folder / ERROR).exists()


def has_ended(folder: Path) -> bool:
    """Whether a job has a result, or a reason for having none."""
    return any((folder / name).exists() for name in (*_RESULTS, ERROR, NOTHING))


def note_failure(error: Exception, folder: Path) -> None:
    """Write the error's reason to the job's folder."""
    sentence = one_sentence(error)
    log.error("Job failed: %s", sentence or f"{type(error).__name__}: {error}")
    note_reason(sentence or "".join(traceback.format_exception(error)), folder)
    noted_ending(folder)


def note_reason(text: str, folder: Path) -> None:
    """Write a text, whose last line is the reason, to the folder of a failed job."""
    folder.joinpath(ERROR).write_text(text.rstrip() + "\n", encoding="utf-8")


def ending(folder: Path) -> str | None:
    """The reason why a job has no result, on one line; None if it has one or had nothing to do."""
    error = folder / ERROR
    if not error.exists() and any((folder / name).exists() for name in (*_RESULTS, NOTHING)):
        return None
    return error.read_text(encoding="utf-8").strip().splitlines()[-1] if error.exists() else "it did not finish"


def noted_ending(folder: Path) -> str | None:
    """`ending`, noted for `finish`."""
    reason = ending(folder)
    if reason is not None:
        _failures.append((folder, reason))
    return reason


def failed_jobs(folder: Path) -> list[str]:
    """One line for each job of a sweep without a result: its overrides and the reason."""
    lines = []
    for hydra_folder in sorted(folder.glob("*/.hydra"), key=lambda path: _number(path.parent.name)):
        job = hydra_folder.parent
        reason = ending(job)
        if reason is None:
            continue
        overrides = OmegaConf.load(hydra_folder / "overrides.yaml")
        lines.append(f"{job.name} ({' '.join(map(str, overrides))}): {reason}")
    return lines


def _number(name: str) -> tuple[int, str]:
    head = name.split("_")[0]
    return (int(head) if head.isdigit() else 10**9, name)


def finish() -> list[str]:
    """Write the report of this process's sweep, if there was one.

    Returns:
        One line for each failed job.
    """
    failed = [] if _running else [f"{folder.name}: {reason}" for folder, reason in _failures]
    for folder, _ in _failures:
        if (folder / TUNING).exists():  # a good model of another training, whose name the failed one shares
            (folder / ERROR).unlink(missing_ok=True)
    _failures.clear()
    while _running:
        sweep = _running.pop()
        failed += failed_jobs(sweep.folder)
        done = sorted(path.parent for path in sweep.folder.glob(f"*/{SUMMARY}") if has_result(path.parent))
        if not done:
            log.info("No report: no job of %s has a result.", sweep.folder)
            continue
        from threadpoolctl import threadpool_limits

        from align_pipeline.report import report
        from align_pipeline.tracking import wandb as tracking

        with threadpool_limits(limits=1, user_api="blas"):  # many small regressions: BLAS threads would only wait
            page = report.write(done, sweep.folder / "report", failed)
        tracking.track_report(sweep.wandb, sweep.folder, page.parent, failed)
        asked = "" if sweep.jobs is None else f" of {sweep.jobs}"
        log.info("Report over %d%s jobs: %s", len(done), asked, page)
    return failed
