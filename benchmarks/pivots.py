"""How often the choice of a pivot claims something: where all pivots are equal, and where one alone carries accuracy.

Usage: python benchmarks/pivots.py [SETS]

Each of SETS (300) simulated tables has as many pivots as languages, and English. `choice`: another pivot beats English
at p <= 0.05; `leads`, `trails`: the interval of English's lead excludes 0.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from align_pipeline.inference.pivots import best

KINDS = ("unrelated", "weak", "strong", "alike", "skewed", "binomial", "one")


def draw(n: int, kind: str, rng: np.random.Generator) -> tuple[Any, Any, tuple[str, ...]]:
    """Alignments of n languages with English and with each other, accuracies, and names."""
    y, common, noise = rng.normal(size=n), rng.normal(size=n)[:, None], rng.normal(size=(n, n + 1))
    weak = 0.7 * (y[:, None] + common) + noise
    x = {
        "unrelated": common + noise,
        "weak": weak,
        "strong": 2 * y[:, None] + 0.5 * common + 0.5 * noise,
        "alike": y[:, None] + common + 0.3 * noise,
        "skewed": np.exp(weak),
        "binomial": rng.binomial(100, 1 / (1 + np.exp(1 - weak - rng.normal(size=n + 1)))) / 100,
        "one": 0.3 * common + noise,
    }[kind]
    if kind == "one":
        x[:, 1] = 2 * y + 0.5 * noise[:, 1]
    x[np.arange(n), np.arange(n) + 1] = np.nan
    return x, y, ("eng_Latn", *(f"p{i}" for i in range(n)))


def main() -> None:
    """Print a row per number of languages and kind."""
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print("| languages | pivots | choice | leads | trails |\n|---|---|---|---|---|")
    for n in (5, 6, 8, 12):
        for kind in KINDS:
            rng = np.random.default_rng(n)
            found = [best(*draw(n, kind, rng), seed=seed, orders=199) for seed in range(sets)]
            verdicts = [one.verdict for one in found]
            shares = (
                np.mean([one.choice_p <= 0.05 for one in found]),
                *(verdicts.count(v) / sets for v in ("leads", "trails")),
            )
            print(f"| {n} | {kind} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
