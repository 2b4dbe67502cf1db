"""The README's main command from start to finish, by stage; then again with what the first left in the cache.

Usage: python benchmarks/start_to_finish.py [--random] [arguments of align_pipeline.run]

With --random, the model is the benchmarks' random Llama of 34 million parameters instead of the embedded one. Both runs
are new processes, W&B offline. Stages come from summary.json; "rest" is Python's imports, Hydra, W&B and the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from setting import item_set, random_llama, show, source


def run(folder: Path, name: str, arguments: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds in all, and by stage."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "align_pipeline.run", *arguments]
    command += [f"cache={folder / 'cache'}", f"hydra.run.dir={folder / name}"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return seconds, json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))["seconds"]


def random_model(folder: Path) -> list[str]:
    """Save a random Llama; the arguments that choose it."""
    lm = random_llama([item.premise for item in item_set(source(None), "belebele", "eng_Latn").items])
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return ["model=custom", f"model.path={folder}", f"model.name={lm.name}", "model.dtype=float32", "data=embedded"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--random", action="store_true")
    options, arguments = parser.parse_known_args()
    arguments = arguments or ["task=belebele", "lang=set/embedded"]
    os.environ.setdefault("WANDB_MODE", "offline")
    with tempfile.TemporaryDirectory() as out:
        arguments += random_model(Path(out) / "model") if options.random else []
        found = {name: run(Path(out), name, arguments) for name in ("cold", "warm")}
    stages = sorted({stage for _, seconds in found.values() for stage in seconds})
    rows: list[list[object]] = [
        [stage, *(f"{seconds.get(stage, 0.0):.1f} s" for _, seconds in found.values())] for stage in stages
    ]
    rows.append(["rest", *(f"{total - sum(seconds.values()):.1f} s" for total, seconds in found.values())])
    cold, warm = (total for total, _ in found.values())
    rows.append(["whole command", f"{cold:.1f} s", f"{warm:.1f} s"])
    show("python -m align_pipeline.run " + " ".join(arguments), ["stage", "cold cache", "warm cache"], rows)
    passes = [sum(seconds.get(s, 0.0) for s in ("extraction", "scoring")) for _, seconds in found.values()]
    print(f"\nWarm against cold: {cold / warm:.1f}x in all; forward passes {passes[0]:.1f} s and {passes[1]:.1f} s.")


if __name__ == "__main__":
    main()
