"""A W&B run that is open while the work goes on. It never ends the work: at W&B's first error it falls silent."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align_pipeline import distributed
from align_pipeline.config.wandb import WandbConfig, WandbMode
from align_pipeline.tracking import wandb as tracking

log = logging.getLogger(__name__)


class Live:
    """The open run; every method does nothing without one."""

    def __init__(self, config: WandbConfig, run: Any = None) -> None:
        self.config, self.run = config, run

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step; steps must not fall."""
        self._try(lambda run: run.log(dict(values), step=step))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set the run's summary values."""
        self._try(lambda run: run.summary.update(dict(values)))

    def finish(self, failed: str | None = None) -> None:
        """Close the run, as failed if a reason is given."""
        if failed is not None:
            self.summarise({"failed": failed})
        self._try(lambda run: run.finish(exit_code=0 if failed is None else 1))
        self.run = None

    def _try(self, act: Any) -> None:
        if self.run is None:
            return
        try:
            act(self.run)
        except Exception as error:
            self.run = None
            tracking.complain(self.config, error, "nothing more is logged; the results go to the output folder")


@contextmanager
def live(
    config: WandbConfig,
    folder: Path,
    name: str,
    tags: Sequence[str],
    settings: Mapping[str, Any],
    kind: str,
    work: str,
) -> Iterator[Live]:
    """Open a W&B run for a block; it is marked as failed if the block fails.

    The run's id follows from folder, name and work, so that interrupted work goes on in the same run, and other work in
    a folder that was emptied does not.

    Args:
        config: mode, project, entity and group, checked.
        folder: the output folder.
        name: of the run.
        tags: task, model and languages.
        settings: the resolved config.
        kind: the run's job type.
        work: identity of what is done.

    Raises:
        InputError: W&B fails and `config.required` is set.
    """
    run = None
    if config.mode is not WandbMode.disabled and distributed.is_main():
        identity = hashlib.sha256(f"{folder.resolve()}/{name}/{work}".encode()).hexdigest()[:16]
        try:
            run = tracking.start(config, folder, name, tags, settings, kind, identity)
        except Exception as error:
            tracking.complain(config, error, "nothing is logged; the results go to the output folder")
    open_run = Live(config, run)
    with tracking.own_folders(folder) if run is not None else _nothing():
        try:
            yield open_run
        except BaseException as error:
            open_run.finish(str(error) or type(error).__name__)
            raise
        open_run.finish()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
