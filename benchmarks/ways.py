"""Two ways to compute shared beginnings once: packed trees with a mask, and KV caches; and torch.compile.

Usage: python benchmarks/ways.py [--data FOLDER] [--items N] [--compile]

The option texts of Belebele are scored on their last token, once with trees alone (rows of a passage's questions and
options), once with every passage in a KV cache and its questions behind it, once in plain batches. `--compile` adds
plain batches through torch.compile, warm-up and all.
"""

from __future__ import annotations

import argparse

import torch
from setting import item_set, random_llama, show, source, timed

from align_pipeline.engine import forward
from align_pipeline.engine.forward import loglikelihoods
from align_pipeline.engine.model import LanguageModel, Tokens

Requests = list[tuple[Tokens, Tokens]]


def run(lm: LanguageModel, requests: Requests, budget: int) -> tuple[float, int, list[float]]:
    """Seconds, tokens run, and log-likelihoods."""
    lm.tokens_run = 0
    seconds, found = timed(lambda: loglikelihoods(lm, requests, budget))
    return seconds, lm.tokens_run, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    items = item_set(source(options.data), "belebele", "swh_Latn", limit=options.items).items
    lm = random_llama([item.premise for item in items])
    texts = [tokens for item in items for tokens in lm.encode(list(item.options))]
    requests = [(tokens[:-1], tokens[-1:]) for tokens in texts]
    step = forward.STEP_TOKENS
    ways = {"trees": (None, step), "KV caches": (None, 1), "plain batches": (False, step)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    tokens, values = {}, {}
    for _ in range(options.rounds):
        for way, (obeys, step_tokens) in ways.items():
            lm.obeys_trees, forward.STEP_TOKENS = obeys, step_tokens
            taken, tokens[way], values[way] = run(lm, requests, options.budget)
            seconds[way].append(taken)
    if options.compile:
        lm.obeys_trees, lm.model.forward = False, torch.compile(lm.model.forward, dynamic=True)
        warm, _, values["compiled, first time"] = run(lm, requests, options.budget)
        again, count, values["compiled, again"] = run(lm, requests, options.budget)
        seconds |= {"compiled, first time": [warm], "compiled, again": [again]}
        tokens |= {"compiled, first time": count, "compiled, again": count}
    plain = min(seconds["plain batches"])
    rows = [
        [
            way,
            f"{min(taken):.1f} to {max(taken):.1f} s",
            f"{tokens[way]:,}",
            f"{plain / min(taken):.2f}x",
            f"{max(abs(a - b) for a, b in zip(values[way], values['plain batches'], strict=True)):.1e}",
        ]
        for way, taken in seconds.items()
    ]
    head = ["way", f"seconds ({options.rounds} rounds)", "tokens", "against plain batches", "largest difference"]
    show(f"{len(texts)} texts of Belebele", head, rows)


if __name__ == "__main__":
    main()
