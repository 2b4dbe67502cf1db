"""How much the embedded models' figures vary with the recipe's seed: the table of the README.

    python benchmarks/seeds.py                the shipped models and the recorded runs in benchmarks/seeds
    python benchmarks/seeds.py OUT OUT ...    runs of `python -m align_pipeline.embedded.train seed=2 out=OUT`

A recorded run is what the recipe wrote about its models, figures.json; their checkpoints are not kept. Seed 2's run was
stopped and gone on with, and its tokens and seconds (`made`) count from there only; seed 3 ran through in 41 minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from setting import markdown

from align_pipeline.config.paths import EMBEDDED
from align_pipeline.embedded import figures
from align_pipeline.embedded.grammar import CODES, language

RECORDED = Path(__file__).parent / "seeds"
MODELS = ("tiny", "tiny_aligned")
TITLES = {"belebele": "Belebele", "xcopa": "XCOPA", "xstorycloze": "XStoryCloze"}
Figures = dict[str, Any]  # of one model on one task


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Lowest and highest, or the one they all are."""
    kept = sorted(values)
    return " to ".join(dict.fromkeys(f"{value:.{digits}f}" for value in (kept[0], kept[-1])))


def best(own: Figures, metric: str) -> float:
    """A language's value at its best layer."""
    return float(max(own[metric]))


def cell(runs: list[Figures], code: str) -> str:
    """Accuracy, and in brackets DALI at its best layer."""
    if code == CODES[0]:
        return spread(run["english"] for run in runs)
    name = language(code).flores
    own = [run["languages"][name] for run in runs if name in run["languages"]]
    return f"{spread(o['accuracy'] for o in own)} ({spread(best(o, 'dali') for o in own)})" if own else ""


def failures(run: Figures) -> int:
    """Items that are right in English and wrong in another language."""
    return sum(own["transfer_failures"] for own in run["languages"].values())


def highest(run: Figures, metric: str) -> float:
    """A metric's value for the language and layer where it is highest."""
    return max(best(own, metric) for own in run["languages"].values())


def correlation(run: Figures) -> float:
    """Spearman's, of DALI at its best layer and accuracy over a task's languages."""
    own = run["languages"].values()
    return float(spearmanr([best(o, "dali") for o in own], [o["accuracy"] for o in own]).statistic)


def table(outs: list[Path]) -> list[str]:
    """The lines of the table, in Markdown."""
    found = [[json.loads((out / model / figures.FILE).read_text("utf-8"))["tasks"] for out in outs] for model in MODELS]
    columns = [[run[task] for run in runs] for task in TITLES for runs in found]
    rows = {code: [cell(runs, code) for runs in columns] for code in CODES}
    rows["TF items"] = [spread((failures(run) for run in runs), digits=0) for runs in columns]
    rows["best MEXA_T"] = [spread(highest(run, "mexa_t") for run in runs) for runs in columns]
    rows["Spearman"] = [spread(correlation(run) for run in runs) for runs in columns]
    head = [part for title in TITLES.values() for part in (f"{title}, `{MODELS[0]}`", f"`{MODELS[1]}`")]
    return markdown(["", *head], [[name, *cells] for name, cells in rows.items()])


def main() -> None:
    """Print the table."""
    outs = [Path(argument) for argument in sys.argv[1:]] or [EMBEDDED, *sorted(RECORDED.iterdir())]
    print("\n".join(table(outs)))


if __name__ == "__main__":
    main()
