"""What a process asks of the machine before torch is loaded: threads that wait quietly, freed memory that is kept."""

from __future__ import annotations

import codecs
import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers
_KEPT = 2**30
_MAPPED = 2**25  # the most that glibc takes


def settle() -> None:
    """Set up this process; what the user has set stays.

    OpenMP's threads spin at each barrier by default, which costs nothing on an idle machine and most of the time beside
    another job. glibc gives large freed buffers back at once, and the next pass faults them in again page by page.
    """
    let_print()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        try:
            allocator = ctypes.CDLL(None).mallopt
        except (AttributeError, OSError):  # another C library
            return
        allocator(_TRIM_THRESHOLD, _KEPT)
        allocator(_MMAP_THRESHOLD, _MAPPED)


def let_print() -> None:
    """Let the console's encoding end no job: what it cannot encode is printed as the nearest it can, or as "?"."""
    codecs.register_error("align_pipeline", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="align_pipeline")


_NEAREST = {"±": "~", "…": ".", "–": "-", "→": ">", "’": "'"}  # one character for one: tables keep their columns


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_NEAREST.get(c, "?") for c in error.object[error.start : error.end]), error.end
