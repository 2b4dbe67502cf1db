"""What a person sees while a run goes on: bars with rates on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from align_pipeline import distributed

log = logging.getLogger(__name__)


def _console() -> Console:
    """The terminal, or where there is none, lines wide enough for the final table; nothing but in the main process."""
    if not distributed.is_main():
        return Console(quiet=True, force_terminal=False)
    console = Console()
    return console if console.is_terminal else Console(width=160)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} texts/s" if task.speed else "")


@dataclass
class Stages:
    """Seconds per stage, and a bar or log lines for each piece of work in it.

    Attributes:
        seconds: wall time by stage name, summed over its pieces.
    """

    console: Console = field(default_factory=lambda: _console())
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a piece of work.

        Args:
            name: the stage its time counts for.
            what: the piece, as shown.
            total: number of texts, if it advances.

        Yields:
            A function that takes the number of texts just finished.
        """
        start = time.perf_counter()
        try:
            if self.console.is_terminal and total is not None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
                with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as progress:
                    bar = progress.add_task(what, total=total)
                    yield lambda number: progress.advance(bar, number)
            else:
                yield lambda number: None
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        rate = f", {total / elapsed:,.0f} texts/s" if total else ""
        log.info("%s: %.1f s%s", what, elapsed, rate)
