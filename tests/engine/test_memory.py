"""Peak memory does not grow with the number of items."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import belebele_rows, write_hub

from align_pipeline.measurements.accuracy import scoring as evaluate

CHILD = """
import resource, sys
from pathlib import Path
import conftest
from align_pipeline.measurements.accuracy import scoring as evaluate
evaluate.BLOCK = 16
conftest.run_job(Path(sys.argv[1]), *sys.argv[2:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(folder: Path, model: Path, count: int) -> int:
    """Kilobytes of a job over so many items."""
    rows = {code: {"test": belebele_rows(code, count)} for code in ("eng_Latn", "swh_Latn")}
    write_hub(folder / "data", "facebook/belebele", rows)
    given = ["model=custom", "model.name=random", f"model.path={model}", "model.dtype=float32", "lang=swh"]
    given += [f"data={folder / 'data'}", "task.num_fewshot=5", "batch_tokens=1000"]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "out"), *given], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr
    return int(found.stdout.split("peak ")[1])


def test_eight_times_the_items_take_the_same_memory(model_folder: Path, tmp_path: Path) -> None:
    assert evaluate.BLOCK > 16
    small, large = (peak(tmp_path / str(count), model_folder, count) for count in (20, 160))
    print(f"peak {small / 1024:.0f} MB for 20 items, {large / 1024:.0f} MB for 160")
    assert large < 1.2 * small
