"""The exception for users' mistakes; its message is the whole explanation."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Something the user gave cannot be used; the message is one sentence that names it and what would work."""


class ContradictionError(InputError):
    """Runs of different experiments that a report cannot put together."""


def unknown(kind: str, given: str, known: Iterable[str], shown: int = 12) -> InputError:
    """An `InputError` for a name that does not exist; it lists the existing names, the closest first.

    Args:
        kind: what the name should have been, such as ``"language"``.
        given: the name as the user typed it.
        known: all names that exist.
        shown: how many of them to print at most.
    """
    names = sorted(set(known))
    longer = [name for name in names if name.startswith(given)]
    close = difflib.get_close_matches(given, names, n=shown, cutoff=0.5)
    nearest = longer + [name for name in close if name not in longer]
    ordered = nearest + [name for name in names if name not in nearest]
    rest = f", and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return InputError(f"There is no {kind} '{given}'; available: {', '.join(ordered[:shown]) or 'none'}{rest}.")


def is_whole(value: object, least: int) -> bool:
    """Whether a value is an integer of at least `least`; True and False, ints to Python, are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_UNWRITABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "this user may not write files of this size",
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EEXIST: "there is a file with the name of the folder",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOENT: "it does not exist and cannot be created",
}


ELSEWHERE = "choose another folder with hydra.run.dir=<folder> (for a sweep: hydra.sweep.dir=<folder>)"


def unwritable(error: OSError, folder: Path | str, elsewhere: str = ELSEWHERE) -> InputError | None:
    """An `InputError` in one sentence for a full disk or a read-only folder; None for any other error."""
    if error.errno not in _UNWRITABLE:
        return None
    return InputError(f"Nothing can be written to {folder}: {_UNWRITABLE[error.errno]}; {elsewhere}.")


@contextmanager
def writing(folder: Path | str, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Turn the error of a full disk or a read-only folder into one sentence that says where else to write."""
    try:
        yield
    except OSError as error:
        sentence = unwritable(error, folder, elsewhere)
        if sentence is None:
            raise
        raise sentence from error
