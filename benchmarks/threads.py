"""Threads that spin against threads that wait, on an idle machine and beside two busy processes.

Usage: python benchmarks/threads.py [--rounds N]

The same job (embedded model, XCOPA, three languages, no cache) with OMP_WAIT_POLICY=ACTIVE and with PASSIVE, which the
command sets where the user has set nothing; seconds of the whole process, in turn, the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from setting import show

JOB = ["task=xcopa", "lang=[swh,ind,tur]", "cache=null", "wandb.mode=disabled"]


def seconds(policy: str) -> float:
    """Of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "align_pipeline.run", *JOB, f"hydra.run.dir={folder}"]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_WAIT_POLICY": policy})
        return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rows = []
    for busy in (0, 2):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            taken = [(seconds("ACTIVE"), seconds("PASSIVE")) for _ in range(rounds)]
        finally:
            for other in others:
                other.kill()
        spinning, waiting = (statistics.median(values) for values in zip(*taken, strict=True))
        rows.append([f"{busy} busy loops", f"{spinning:.1f} s", f"{waiting:.1f} s", f"{spinning / waiting:.2f}x"])
        print(rows[-1], flush=True)
    show("XCOPA on the embedded model, whole process", ["beside", "ACTIVE", "PASSIVE", "ratio"], rows)


if __name__ == "__main__":
    main()
