"""A W&B run that is open while the work goes on. It never ends the work: at W&B's first error it falls silent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align_pipeline import distributed
from align_pipeline.config.wandb import WandbConfig, WandbMode
from align_pipeline.tracking import wandb as tracking
from align_pipeline.tracking.wandb import Curve

log = logging.getLogger(__name__)
_KEPT = "the results are still in the output folder"


class Live:
    """A run of W&B; every method does nothing before `open`, in processes other than the main one, and after an error.

    Attributes:
        failure: W&B's error, if `config.required` is set; `live` raises it when the work is done.
    """

    def __init__(self, config: WandbConfig, folder: Path, settings: Mapping[str, Any], kind: str, work: str) -> None:
        self.config, self.folder, self.settings, self.kind, self.work = config, folder, settings, kind, work
        self.failure: Exception | None = None
        self._run: Any = None
        self._logged: set[tuple[str, str, str]] = set()
        self._place = contextlib.ExitStack()

    def open(self, name: str, tags: Sequence[str]) -> None:
        """Start the run, or go on with that of the same folder, name and work, so that interrupted work is one run.

        Args:
            name: of the run.
            tags: task, model and languages.

        Raises:
            InputError: W&B fails and `config.required` is set.
        """
        if self.config.mode is WandbMode.disabled or not distributed.is_main():
            return
        identity = tracking.identity_of(self.folder, name, self.work)
        try:
            self._place.enter_context(tracking.own_folders(self.folder))
            self._run = tracking.start(self.config, self.folder, name, tags, self.settings, self.kind, identity)
            for group in tracking.GROUPS:
                self._run.define_metric(f"{group}/*", step_metric="layer")
        except Exception as error:
            tracking.abandon(self._run)
            self._run = None
            tracking.complain(self.config, error, f"nothing is logged; {_KEPT}")

    @property
    def is_open(self) -> bool:
        """Whether what is logged goes anywhere."""
        return self._run is not None

    def log(self, values: Mapping[str, float]) -> None:
        """Log numbers."""
        self.act(lambda run: run.log(dict(values)))

    def curves(self, curves: Sequence[Curve]) -> None:
        """Log values by layer, each curve once: ``<group>/<metric>/<language>`` against the `layer` axis."""
        new = [one for one in curves if (one.group, one.metric, one.language) not in self._logged]
        self._logged |= {(one.group, one.metric, one.language) for one in new}
        if new:
            self.act(lambda run: tracking.log_rows(run, new))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set the run's summary values."""
        self.act(lambda run: run.summary.update(dict(values)))

    def act(self, do: Callable[[Any], object]) -> None:
        """Do something with the open run."""
        if self._run is None:
            return
        try:
            do(self._run)
        except Exception as error:
            tracking.abandon(self._run)
            self._run = None
            if self.config.required:
                self.failure = error
            else:
                is_online = self.config.mode is WandbMode.online
                more = f"; `wandb sync {self.folder}/wandb/run-*` uploads the rest" if is_online else ""
                tracking.complain(self.config, error, f"nothing more is logged; {_KEPT}{more}")

    def close(self, failed: str | None = None) -> None:
        """End the run, as failed if a reason is given.

        Raises:
            InputError: W&B failed and `config.required` is set.
        """
        if failed is not None:
            self.summarise({"failed": failed})
        self.act(lambda run: run.finish(exit_code=0 if failed is None else 1))
        if self._run is not None:
            tracking.tell_offline(self.config, self.folder)
            tracking.tell_full(self.folder)
        self._run = None
        self._place.close()
        if self.failure is not None and failed is None:
            tracking.complain(self.config, self.failure, _KEPT)


@contextmanager
def live(config: WandbConfig, folder: Path, settings: Mapping[str, Any], kind: str, work: str) -> Iterator[Live]:
    """A run for a block, which opens it; it ends as failed, with the reason, if the block fails.

    Args:
        config: mode, project, entity and group, checked.
        folder: the output folder.
        settings: the resolved config.
        kind: the run's job type.
        work: identity of what is done.

    Raises:
        InputError: W&B fails and `config.required` is set.
    """
    run = Live(config, folder, settings, kind, work)
    try:
        yield run
    except BaseException as error:
        run.close(str(error) or type(error).__name__)
        raise
    run.close()
