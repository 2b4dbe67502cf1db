"""What a multirun does besides its jobs: a failed job does not stop the others, and the end is a report over the rest.

Hydra calls no callback when a job of a multirun raised, and a launcher may know of one process alone. So a job that
fails says so in its own folder, and the report is made from the folders, whatever happened to the processes.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from align_pipeline.config import WandbConfig, one_sentence

log = logging.getLogger(__name__)

ERROR, NOTHING = "error.txt", "nothing_to_do.txt"
"""What a job leaves in its folder if it failed, or if its task has none of its languages."""


@dataclass
class Sweep:
    """The multirun of this process.

    Attributes:
        folder: the sweep's folder.
        wandb: where its report is logged.
    """

    folder: Path
    wandb: WandbConfig


_running: list[Sweep] = []


class Begin(Callback):
    """Takes note of the sweep that begins."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Hydra."""
        folder = Path(config.hydra.sweep.dir)
        wandb = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(WandbConfig), config.wandb))
        assert isinstance(wandb, WandbConfig)
        wandb.group = wandb.group or folder.name
        _running.append(Sweep(folder, wandb))


@dataclass(frozen=True)
class Planned:
    """A job of a sweep.

    Attributes:
        number: Hydra's, from 0.
        overrides: its command line.
        folder: where it writes.
        settings: its resolved config.
    """

    number: int
    overrides: list[str]
    folder: Path
    settings: Any

    def is_finished(self) -> bool:
        """Whether its folder holds the result of just this config."""
        summary = self.folder / "summary.json"
        if not summary.exists():
            return False
        found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return bool(found["config"] == json.loads(json.dumps(self.settings)))

    def outcome(self) -> JobReturn:
        """What Hydra takes from it: nothing if it failed, since the report says so and one failure must not end all."""
        done = self.folder / "summary.json"
        rows = json.loads(done.read_text(encoding="utf-8"))["languages"] if done.exists() else []
        known = [row["accuracy"] for row in rows if row["accuracy"] is not None]
        found = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        found.return_value = sum(known) / len(known) if known else None
        return found


def begin(folder: Path, overrides: Sequence[str]) -> None:
    """Make a job's folder before the job runs, so that the report knows of it even if it never does.

    Args:
        folder: the job's; what an earlier attempt left there of its ending is removed.
        overrides: the job's command line.
    """
    for name in ("summary.json", ERROR, NOTHING):
        (folder / name).unlink(missing_ok=True)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")


def has_ended(folder: Path) -> bool:
    """Whether a job left a result, or a reason why it has none."""
    return any((folder / name).exists() for name in ("summary.json", ERROR, NOTHING))


def note_failure(error: Exception, folder: Path) -> None:
    """Leave the reason in the job's folder."""
    sentence = one_sentence(error)
    log.error("Job failed: %s", sentence or f"{type(error).__name__}: {error}")
    note_reason(sentence or "".join(traceback.format_exception(error)), folder)


def note_reason(text: str, folder: Path) -> None:
    """Leave a text, whose last line is the reason, in the folder of a job that failed."""
    folder.joinpath(ERROR).write_text(text.rstrip() + "\n", encoding="utf-8")


def ending(folder: Path) -> str | None:
    """Why a job has no result, in a line; None if it has one, or there was nothing to do."""
    if (folder / "summary.json").exists() or (folder / NOTHING).exists():
        return None
    error = folder / ERROR
    return error.read_text(encoding="utf-8").strip().splitlines()[-1] if error.exists() else "it did not finish"


def failed_jobs(folder: Path) -> list[str]:
    """A line for each job of a sweep that has no result: its overrides and why."""
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
    """Report on the sweep of this process, if it ran one.

    Returns:
        A line for each failed job.
    """
    failed: list[str] = []
    while _running:
        sweep = _running.pop()
        failed += failed_jobs(sweep.folder)
        done = sorted(path.parent for path in sweep.folder.glob("*/summary.json"))
        if not done:
            log.info("No job of %s has a result: no report.", sweep.folder)
            continue
        from threadpoolctl import threadpool_limits

        from align_pipeline import report, tracking

        with threadpool_limits(limits=1, user_api="blas"):  # its many small regressions only wait for one another
            page = report.write(done, sweep.folder / "report", failed)
        tracking.track_report(sweep.wandb, sweep.folder, page.parent, failed)
        log.info("Report over %d jobs: %s", len(done), page)
    return failed
