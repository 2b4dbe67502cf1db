"""Jobs that are killed with -9 at random moments, started again: the same bytes, and nothing is computed twice.

``ALIGN_PIPELINE_KILLS=50`` sets how many; what each was doing when it died is printed (``pytest -s``).
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import processes
import pytest
from conftest import belebele_rows, random_job, write_hub
from test_distributed import TABLES, job

from align_pipeline import distributed

KILLS = int(os.environ.get("ALIGN_PIPELINE_KILLS", "6"))


def logged_job(folder: Path, overrides: list[str], last_write: int | None) -> None:
    """A job that logs to its output and, if asked, dies at its nth renaming of a file, before it or after it."""
    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    if last_write is not None and distributed.is_main():
        replace, count = os.replace, 0

        def counted(*arguments: Any) -> None:
            nonlocal count
            for done in (False, True):
                if count == last_write:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                if not done:
                    replace(*arguments)

        os.replace = counted  # type: ignore[assignment]
    job(folder, overrides)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> list[str]:
    data = tmp_path_factory.mktemp("data")
    rows = {code: {"test": belebele_rows(code, 40)} for code in ("eng_Latn", "swh_Latn", "spa_Latn")}
    write_hub(data, "facebook/belebele", rows)
    return random_job(model_folder, data, "batch_tokens=300", "lang=[swh,spa]", "metric=[dali,mexa_t]")


def finished(cache: Path) -> dict[str, int]:
    """The entries that are complete, by when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*.json")}


def test_a_killed_job_started_again_ends_with_the_same_bytes(base: list[str], tmp_path: Path) -> None:
    seconds = {}
    for size in (1, 1, 2):  # the first waits for the server too
        start = time.monotonic()
        arguments = (tmp_path / f"whole{size}", [*base, "cache=null"], None)
        assert processes.join(processes.start(size, logged_job, arguments, tmp_path / "log")) == [0] * size
        seconds[size] = time.monotonic() - start
    expected = {name: (tmp_path / "whole1" / name).read_bytes() for name in TABLES}
    draw = random.Random(os.environ.get("ALIGN_PIPELINE_SEED", "0"))
    number = kills = 0
    while kills < KILLS:
        folder, cache, log = (tmp_path / f"{what}{number}" for what in ("out", "store", "log"))
        size, at_write = 1 + number % 2, draw.randrange(2 * 13) if number % 3 == 2 else None
        overrides = [*base, f"cache={cache}"]
        # who is left when another died before they met tries twice, well within the time that `join` gives it
        children = processes.start(size, logged_job, (folder, overrides, at_write), log, meeting=20)
        if at_write is None:
            time.sleep(draw.uniform(0, seconds[size]))
            for child in draw.sample(children, draw.randint(1, size)):
                child.kill()
        codes = processes.join(children)
        assert None not in codes  # nobody waits for the dead
        before = finished(cache)
        text = log.with_name(f"{log.name}.0").read_text() if log.with_name(f"{log.name}.0").exists() else ""
        doing = [line for line in text.splitlines() if line.endswith(("texts/s", " s"))][-1:] or ["start"]
        print(f"kill {number}: codes {codes}, {len(before)} entries, at write {at_write}, after: {doing[0]}")
        number, kills = number + 1, kills + (-signal.SIGKILL in codes)  # some end before they are killed
        again = processes.start(3 - size, logged_job, (folder, overrides, None), log)
        assert processes.join(again) == [0] * (3 - size)
        for name in TABLES:
            assert (folder / name).read_bytes() == expected[name], (number, name)
        after = finished(cache)
        assert {name: after[name] for name in before} == before  # nothing finished was computed again
        assert len(after) == 6  # five of passes, and the number of parameters
        assert not [*folder.glob(".*.partial"), *folder.glob(".making*")]
