"""The command `python -m align_pipeline.cache`: list the cache of forward passes and remove entries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from align_pipeline.arguments import Arguments, command
from align_pipeline.errors import InputError, unknown
from align_pipeline.store.cache import entries, prune

USAGE = """List or remove entries of the cache of forward passes.

  python -m align_pipeline.cache                            list the entries of outputs/cache and their sizes
  python -m align_pipeline.cache folder=/scratch/cache      ... of another folder
  python -m align_pipeline.cache prune                      remove damaged entries and leftovers of killed jobs
  python -m align_pipeline.cache prune older_than_days=30   ... and entries older than 30 days
  python -m align_pipeline.cache prune model=llama2-7b      ... and entries of a model (with both: its old ones)"""


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    command(given, USAGE, _run)


def _run(given: Sequence[str]) -> None:
    pruning = "prune" in given
    keys = ("folder", "older_than_days", "model") if pruning else ("folder",)
    known = keys if pruning else ("prune", *keys)
    asked = Arguments([argument for argument in given if argument != "prune"], keys, known=known)
    folder = asked.path("folder") or Path("outputs/cache")
    if not folder.is_dir():
        raise InputError(f"The cache folder '{folder}' does not exist; choose another with folder=<folder>.")
    model = asked.text("model")
    found = prune(folder, _days(asked.text("older_than_days")), model) if pruning else entries(folder)
    if model is not None and not any(entry.note.get("model") == model for entry in found):
        models = {entry.note.get("model", "") for entry in entries(folder)} - {""}
        if models and model not in models:
            print(unknown("model in the cache", model, models))  # no error: pruning again finds none, either
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
    main()
