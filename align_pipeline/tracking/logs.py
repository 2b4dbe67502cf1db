"""One log file per job and process; it ends with the error, if there was one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import IO

from align_pipeline.config.messages import one_sentence

NAME = "align_pipeline"


class Own(logging.Filter):
    """Lets through what this package and Hydra log, and not what libraries log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging`."""
        return record.name.partition(".")[0] in ("align_pipeline", "hydra", "hydra_plugins", "__main__")


class Lines(logging.StreamHandler):  # type: ignore[type-arg]  # Hydra makes it: a parameter would be its argument
    """Lines on the console; if its reader has gone, as with ``| head``, the job goes on without them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """See `logging`."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            to_nowhere(self.stream)
        else:
            super().handleError(record)


def to_nowhere(stream: IO[str]) -> None:
    """Discard what is printed there from now on, because its reader has gone; else Python complains at its end, too."""
    with contextlib.suppress(OSError, ValueError):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def file_of(folder: Path, rank: int) -> Path:
    """The log file of a process: ``align_pipeline.log`` for the main one, ``align_pipeline.rank<n>.log`` for others."""
    return folder / (f"{NAME}.rank{rank}.log" if rank else f"{NAME}.log")


def to_own_file(folder: Path, rank: int) -> None:
    """Send this process's log lines to its own file only; for all processes but the main one.

    Raises:
        OSError: the file cannot be written.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(file_of(folder, rank), encoding="utf-8", delay=False)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def note_end(error: BaseException) -> None:
    """Write the reason why the process ends to its log file; the console shows one sentence elsewhere."""
    sentence = one_sentence(error) if isinstance(error, Exception) else f"Stopped: {error or type(error).__name__}"
    text = sentence or "".join(traceback.format_exception(error)).rstrip()
    record = logging.getLogger(__name__).makeRecord(__name__, logging.ERROR, __file__, 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
