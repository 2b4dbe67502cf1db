"""What `representations=all` adds to an alignment pass: processor time, by turns, on the random Llama of 34 million.

Usage: python benchmarks/representations.py [--data FOLDER] [--task xcopa] [--language swh] [--items N] [--rounds R]

Alignment alone, with representations from its pass, and with representations from a pass of their own, as in a job
whose alignment is cached. Processor time, because wall-clock time depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from setting import random_llama, show, source

from align_pipeline.config import composed, from_hydra
from align_pipeline.data.source import Source
from align_pipeline.engine.forward import shares
from align_pipeline.measurements.alignment.measure import Alignment
from align_pipeline.measurements.base import Job
from align_pipeline.measurements.representations.measure import Representations
from align_pipeline.tracking.console import Stages


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--task", default="xcopa")
    parser.add_argument("--language", default="swh")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    metric = "[mexa]" if options.task == "flores" else "[dali,mexa_t]"
    asked = [f"task={options.task}", f"lang={options.language}", f"metric={metric}", f"task.limit={options.items}"]
    asked += [f"data={source(options.data)}", "representations=all", "evaluate=false", "cache=null"]
    config = from_hydra(composed(asked), asked, multirun=False)
    task = instantiate(config.task)
    languages, rows = list(config.languages.values()), Source(config.source)
    pairs = task.pairs(languages, rows)
    items = [item for pair in pairs for side in (pair.english, pair.language) for item in side.items]
    lm = random_llama([item.premise for item in items])
    shares(lm)

    def seconds(*jobs: Sequence[Any]) -> float:
        """Of jobs with these measurements, one after another."""
        started = time.process_time()
        for kinds in jobs:
            job = Job(config, task, rows, languages, pairs, Stages(), Path(), given=lm)
            for one in [kind(job) for kind in kinds]:
                for unit in one.units():
                    unit.compute()
        return time.process_time() - started

    ways = {
        "alignment alone": [(Alignment,)],
        "with representations": [(Alignment, Representations)],
        "representations in a pass of their own": [(Alignment,), (Representations,)],
    }
    seconds((Alignment, Representations))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds):
        for name, jobs in list(ways.items())[:: 1 if turn % 2 else -1]:
            found[name].append(seconds(*jobs))
    base = found["alignment alone"]
    table = []
    for name, times in found.items():
        ratios = sorted(t / b - 1 for t, b in zip(times, base, strict=True))
        more = f"{statistics.median(ratios):+.1%} ({ratios[0]:+.1%} to {ratios[-1]:+.1%})"
        table.append([name, f"{statistics.median(times):.1f} s", more if times is not base else ""])
    title = f"Representations: {options.task}, {len(items)} items in two languages, {options.rounds} rounds"
    show(title, ["", "processor time, median", "more than alignment, by turns"], table)


if __name__ == "__main__":
    main()
