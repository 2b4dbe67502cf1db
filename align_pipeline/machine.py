"""Process settings made before torch is loaded: threads wait without spinning, and freed memory is kept for reuse."""

from __future__ import annotations

import codecs
import ctypes
import logging
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of these options
_KEPT = 2**30
_MAPPED = 2**25  # the maximum that glibc accepts


def settle() -> None:
    """Set up this process; settings that the user has made are kept.

    By default OpenMP's threads spin at each barrier. That is free on an idle machine, but takes most of the time beside
    another job. glibc returns large freed buffers to the system at once, and the next pass has to page them in again.
    """
    let_print()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        try:
            allocator = ctypes.CDLL(None).mallopt
        except (AttributeError, OSError):  # another C library than glibc
            return
        allocator(_TRIM_THRESHOLD, _KEPT)
        allocator(_MMAP_THRESHOLD, _MAPPED)


def hand_over_logs(*libraries: str) -> None:
    """Send the log lines of libraries that print them themselves to this process's log, if it has one; call it after
    their import."""
    for library in libraries:
        logger = logging.getLogger(library)
        if logging.getLogger().handlers:
            logger.handlers.clear()
            logger.propagate = True
        else:
            logger.setLevel(logging.ERROR)


def let_print() -> None:
    """Never fail because of the console's encoding: print the nearest character that it can encode, or "?"."""
    codecs.register_error("align_pipeline", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="align_pipeline")


_NEAREST = {"±": "~", "…": ".", "–": "-", "→": ">", "’": "'"}  # one character each keeps table columns aligned


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_NEAREST.get(c, "?") for c in error.object[error.start : error.end]), error.end
