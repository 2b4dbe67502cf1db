"""Progress of a job: bars with rates on a terminal, otherwise plain log lines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from align_pipeline import distributed
from align_pipeline.tracking import logs

log = logging.getLogger(__name__)

MINUTE = 60.0
"""Seconds between the progress lines of a long stage."""


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        self.quiet = True  # rich ends the program, and with it the other jobs of a sweep
        logs.to_nowhere(self.file)


def _console() -> Console:
    """The console: the terminal, or else wide enough for the final table; silent except in the main process."""
    if not distributed.is_main():
        return _Screen(quiet=True, force_terminal=False)
    console = _Screen()
    return console if console.is_terminal else _Screen(width=160)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed) if task.speed else "")


def _rate(texts: float) -> str:
    return f"{texts:,.0f} texts/s" if texts >= 10 else f"{texts:.1f} texts/s"


@contextmanager
def _told(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Log the progress once a minute; yields the function that counts finished texts."""
    start, done, over = time.perf_counter(), 0, threading.Event()

    def count(number: int) -> None:
        nonlocal done
        done += number

    def tell() -> None:
        while not over.wait(MINUTE):
            elapsed = time.perf_counter() - start
            if not done or total is None:
                log.info("%s: still running after %.0f s.", what, elapsed)
            else:
                left = elapsed / done * (total - done)
                log.info("%s: %d of %d texts, %s, about %.0f s left.", what, done, total, _rate(done / elapsed), left)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield count
    finally:
        over.set()
        teller.join()


@dataclass
class Stages:
    """Time per stage, with a progress bar or log lines for each piece of work.

    Attributes:
        seconds: wall time by stage name, summed over its pieces of work.
    """

    console: Console = field(default_factory=lambda: _console())
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a piece of work and show its progress.

        Args:
            name: the stage to which its time is added.
            what: its description on the console.
            total: number of texts, if it reports progress.

        Yields:
            A function to call with the number of texts just finished.
        """
        start = time.perf_counter()
        try:
            with _told(what, total) as count:
                if self.console.is_terminal and total is not None:
                    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
                    with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as progress:
                        bar = progress.add_task(what, total=total)

                        def advance(number: int) -> None:
                            count(number)
                            progress.advance(bar, number)

                        yield advance
                else:
                    yield count
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        rate = f", {_rate(total / elapsed)}" if total else ""
        log.info("%s: %.1f s%s", what, elapsed, rate)
