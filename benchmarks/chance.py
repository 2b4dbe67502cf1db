"""What chance levels cost an alignment pass: processor time with mismatched pairs and without, by turns in one run.

Usage: python benchmarks/chance.py model.path=outputs/real_models/gemma3-270m data=../shared/data task=xcopa lang=ind
(keys as of `align_pipeline.run`).
"""

from __future__ import annotations

import statistics
import sys
import time

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from align_pipeline.config import from_hydra, register
from align_pipeline.config.paths import CONF
from align_pipeline.data.source import Source
from align_pipeline.engine.loading import load
from align_pipeline.measurements.alignment import similarity

ROUNDS = 5


def main() -> None:
    """Print the medians and the rounds' ratios."""
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        config = from_hydra(compose("config", overrides=sys.argv[1:]), sys.argv[1:], multirun=False)
    (pair,) = instantiate(config.task).pairs(list(config.languages.values()), Source(config.source))
    lm = load(config.model)
    english = similarity.english_states(lm, pair.english, None, lambda _: None)
    mismatches = similarity.MISMATCHES
    seconds: dict[int, list[float]] = {mismatches: [], 0: []}
    for round_ in range(ROUNDS + 1):  # the first one warms up
        for similarity.MISMATCHES in sorted(seconds, reverse=bool(round_ % 2)):
            started = time.process_time()
            similarity.similarities(lm, pair, english, None, lambda _: None)
            if round_:
                seconds[similarity.MISMATCHES].append(time.process_time() - started)
    ratios = [with_ / without - 1 for with_, without in zip(*seconds.values(), strict=True)]
    print(f"{len(pair.ids)} items: {' and '.join(f'{statistics.median(s):.2f} s' for s in seconds.values())}")
    print(f"more: {statistics.median(ratios):.1%} (rounds: {', '.join(f'{r:.1%}' for r in ratios)})")


if __name__ == "__main__":
    main()
