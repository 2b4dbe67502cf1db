"""Alignment scoring at full size: 900 items, 33 layers, d = 4,096, against literal scipy loops.

Usage: python benchmarks/alignment.py [--items 900] [--layers 33] [--width 4096]

Premises and options are random states. A loop is measured on a part (some pairs of one layer) and scaled to all pairs
and layers: every pair costs it the same. "Reading" is reading the states that DALI compares from a file that the system
has in memory, as scripts do that store activations; the engine never writes them.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np
import torch
from scipy.spatial.distance import cosine
from setting import show, timed

from align_pipeline.measurements.alignment.metrics import dali, mexa
from align_pipeline.measurements.alignment.similarity import PremiseStream, option_cosines

PAIRS = 20_000  # pairs that a loop is measured on


def mexa_loop(english: torch.Tensor, language: torch.Tensor) -> float:
    """Seconds for all layers of the literal definition: s_ij by scipy for every pair, then rows and columns."""
    layers, n = english.shape[:2]
    e, x = english[0].numpy(), language[0].numpy()
    rows = min(n, max(1, PAIRS // n))
    started = time.perf_counter()
    for i in range(rows):
        own = [1 - cosine(e[i], x[j]) for j in range(n)]
        _ = own[i] > max(own[:i] + own[i + 1 :])
    return (time.perf_counter() - started) * n / rows * layers


def dali_loop(english: torch.Tensor, language: torch.Tensor) -> float:
    """Seconds for all layers of the literal definition of DALI, option pair by option pair."""
    layers, items, n = english.shape[:3]
    part = max(1, min(items, PAIRS // (n * n)))
    e, x = english[0].numpy(), language[0].numpy()
    started = time.perf_counter()
    for item in range(part):
        c = [[1 - cosine(e[item, i], x[item, j]) for j in range(n)] for i in range(n)]
        _ = min(c[i][i] for i in range(n)) > max(c[i][j] for i in range(n) for j in range(n) if i != j)
    return (time.perf_counter() - started) * items / part * layers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=900)
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    layers, items, width = options.layers, options.items, options.width
    torch.manual_seed(0)

    rows = []
    premises = [torch.randn(layers, items, width) for _ in range(2)]
    nobody = torch.arange(items)

    def stream() -> torch.Tensor:
        found = PremiseStream(premises[0], nobody, nobody)
        for at in range(0, items, options.batch):
            chosen = list(range(at, min(at + options.batch, items)))
            found.add(chosen, premises[1][:, chosen])
        done = found.finish()
        return mexa(done.own, done.row, done.column)

    seconds = min(timed(stream)[0] for _ in range(3))
    loop = mexa_loop(*premises)
    rows.append(["MEXA", f"{loop:.0f} s", f"{seconds:.2f} s", f"{loop / seconds:.0f}x", ""])
    premises.clear()

    shape = (layers, options.batch, 4, width)
    batches = -(-items // options.batch)
    states = [torch.randn(shape) for _ in range(2)]
    twins = torch.arange(4).repeat(options.batch, 1)

    def score() -> torch.Tensor:
        found = option_cosines(*states, twins, twins)
        return dali(found["cross"])

    seconds = min(timed(score)[0] for _ in range(5)) * batches
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/states.npy"
        np.save(path, torch.stack(states).numpy())
        reading = min(timed(lambda: np.load(path))[0] for _ in range(5)) * batches
    loop = dali_loop(*states) * items / options.batch
    rows.append(["DALI and DALI_S", f"{loop:.0f} s", f"{seconds:.2f} s", f"{loop / seconds:.0f}x", f"{reading:.2f} s"])
    head = ["metric", "scipy loops (scaled)", "align_pipeline", "ratio", "reading its input"]
    show(f"Scoring {items} items, {layers} layers, d = {width}", head, rows)


if __name__ == "__main__":
    main()
