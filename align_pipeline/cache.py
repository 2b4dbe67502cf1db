"""The command `python -m align_pipeline.cache`: list the cache of forward passes and remove entries."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from align_pipeline import machine
from align_pipeline.errors import InputError, unknown
from align_pipeline.store.cache import entries, prune

USAGE = """List or remove entries of the cache of forward passes.

  python -m align_pipeline.cache                            list the entries of outputs/cache and their sizes
  python -m align_pipeline.cache folder=/scratch/cache      ... of another folder
  python -m align_pipeline.cache prune                      remove damaged entries and leftovers of killed jobs
  python -m align_pipeline.cache prune older_than_days=30   ... and entries older than 30 days
  python -m align_pipeline.cache prune model=llama2-7b      ... and entries of a model (with both: its old ones)"""


def main(given: Sequence[str]) -> None:
    """The command line.

    Raises:
        InputError: an argument is invalid; says which.
    """
    if any(argument in ("-h", "--help") for argument in given):
        print(USAGE)
        return
    pruning = "prune" in given
    keys = ["folder", "older_than_days", "model"] if pruning else ["folder"]
    options = dict(argument.partition("=")[::2] for argument in given if argument != "prune")
    for key in options:
        if key not in keys:
            raise unknown("argument", key, keys if pruning else ["prune", *keys])
    if options.get("folder") == "":
        raise InputError("folder= is empty; set it with folder=<folder>.")
    folder = Path(options.get("folder", "outputs/cache"))
    if not folder.is_dir():
        raise InputError(f"The cache folder '{folder}' does not exist; choose another with folder=<folder>.")
    found = prune(folder, _days(options.get("older_than_days")), options.get("model")) if pruning else entries(folder)
    for entry in found:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        said = " ".join(entry.note.get(key, "") for key in ("model", "task", "what")).strip() or entry.path.stem[:12]
        print(f"{day}  {entry.size / 1e6:10.2f} MB  {said}" + (f"  ({entry.damage})" if entry.damage else ""))
    total = sum(entry.size for entry in found) / 1e6
    print(f"{'Removed' if pruning else 'In all'} {len(found)} entries, {total:.2f} MB.")


def _days(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        days = float(given)
    except ValueError:
        days = -1
    if not 0 <= days < float("inf"):
        raise InputError(f"older_than_days={given} is not a number of days, 0 or more.")
    return days


if __name__ == "__main__":
    machine.let_print()
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"Error: {error}")
