"""Time and peak memory of the report on a full study: 82 languages x 900 items x 33 layers x 3 metrics.

Usage: python benchmarks/report.py [languages] [items] [layers]
Writes one folder per language, as a sweep does (English predictions repeated in each), then runs the command line.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from test_analysis_simulated import simulate

from align_pipeline.data.items import ENGLISH

METRICS = (("dali", "last"), ("dali_strong", "last"), ("mexa_t", "weighted"))
LIMIT_S, LIMIT_GB = 60, 4


def write(folder: Path, languages: int, items: int, layers: int) -> int:
    """Write the tables and return the number of alignment rows."""
    planted = {"effect": 0.3, "level_effect": 1.0, "item_spread": 0.7}
    alignment, predictions = simulate(languages, items, layers, METRICS, model="llama3.1-8b", **planted)
    for language, rows in alignment.groupby("language", observed=True):
        job = folder / f"lang={language}"
        job.mkdir(parents=True)
        rows.to_parquet(job / "alignment.parquet", index=False)
        chosen = predictions["language"].isin([language, ENGLISH])
        predictions[chosen].to_parquet(job / "predictions.parquet", index=False)
    return len(alignment)


def main() -> None:
    """Print time and peak memory, and fail if either is over its limit."""
    sizes = [int(value) for value in sys.argv[1:]] or []
    languages, items, layers = (sizes + [82, 900, 33][len(sizes) :])[:3]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = write(folder / "runs", languages, items, layers)
        command = [sys.executable, "-m", "align_pipeline.report", f"runs={folder / 'runs'}", f"out={folder / 'report'}"]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
        page = (folder / "report" / "report.html").stat().st_size / 1e6
    print(f"{languages} languages x {items} items x {layers} layers x {len(METRICS)} metrics = {rows:,} rows")
    print(f"{seconds:.1f} s, {peak:.2f} GB at its peak, {os.cpu_count()} cores; report.html {page:.1f} MB")
    if (languages, items, layers) == (82, 900, 33) and (seconds > LIMIT_S or peak > LIMIT_GB):
        sys.exit(f"Over the limit of {LIMIT_S} s and {LIMIT_GB} GB.")


if __name__ == "__main__":
    main()
