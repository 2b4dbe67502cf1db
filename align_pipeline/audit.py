"""Check how far to trust the verdicts on your own tables: ``python -m align_pipeline.audit runs=<folder or glob>``.

The audit removes the link between alignments and answers in your tables many times: whole clusters of items exchange
their answers, and languages exchange their accuracies. Each time it repeats all tests and counts how often a verdict is
"supported" although there is no effect. Then it plants an effect, by exchanging alignments between items of a language,
and counts how often it is found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table
from statsmodels.stats.proportion import proportion_confint

from align_pipeline.arguments import Arguments, command
from align_pipeline.errors import InputError, writing
from align_pipeline.inference import languages, permutation, same_item
from align_pipeline.inference import study as analysis
from align_pipeline.inference.arrays import Bundle, answered
from align_pipeline.inference.items import adjusted
from align_pipeline.inference.verdicts import LEVEL, QUESTIONS, is_supported
from align_pipeline.report.read import read
from align_pipeline.report.results import last_layers

USAGE = """Usage: python -m align_pipeline.audit runs=<folder or glob> [repeats=100] [out=<file.csv>] [seed=0]

  runs      a run's folder, a folder of runs, or a glob; may be given several times
  repeats   number of copies without any effect (default 100); each effect size is planted in half as many copies
  out       a CSV file to write the printed table to
  seed      random seed (default 0)"""
PLANTED = (1.0, 1.44, 2.0)
"""Planted odds ratios of being aligned, items that transfer against items that fail; 1 is no effect."""
PERMUTATIONS = 499
"""Few enough to be fast, and enough for a p-value that survives the adjustment over a dozen tests."""
REPEATS = 100


def families(study: analysis.Study, cells: pd.DataFrame) -> list[list[Bundle]]:
    """The metrics of each model and task that has answers; their tests are adjusted together."""
    found: dict[tuple[str, str], list[Bundle]] = {}
    for arrays in answered(study, cells):
        found.setdefault(arrays.key[:2], []).append(arrays)
    return list(found.values())


def audit(family: Sequence[Bundle], repeats: int, seed: int, planted: float = 1.0) -> Iterator[pd.DataFrame]:
    """Verdicts on copies of a study in which the link is removed, or an effect of known size is planted.

    Args:
        family: from `families`.
        repeats: number of copies.
        seed: of all random draws.
        planted: odds ratio between items that transfer and items that fail, within each language.

    Yields:
        one row per question and metric: question, metric, pooling, p, effect, p_adjusted.

    Raises:
        InputError: the items cannot be permuted.
    """
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        rows = []
        for data in family:
            copy = without_link(data, np.random.default_rng([seed, repeat]))
            copy = plant(copy, planted, rng) if planted != 1 else copy
            rows += [{"metric": data.key[2], "pooling": data.key[3], **row} for row in _questions(copy, rng, repeat)]
        table = pd.DataFrame(rows)
        yield table.assign(p_adjusted=adjusted(table["p"]))


def without_link(data: Bundle, rng: np.random.Generator) -> Bundle:
    """The same alignments and answers, with the answers permuted over items.

    Raises:
        InputError: there are too few clusters of equal size.
    """
    drawn = permutation.permutations(data.cluster, 1, rng)
    if drawn is None:
        raise InputError(
            f"{data.key[1]} has fewer than {permutation.MIN_CLUSTERS} clusters of items that can be permuted; use "
            "more items."
        )
    return replace(data, right=data.right[drawn[0]], english=data.english[drawn[0]])


def plant(data: Bundle, odds_ratio: float, rng: np.random.Generator) -> Bundle:
    """Exchange alignments (all layers of an item together) until TS and TF have this odds ratio at the best layer."""
    aligned = data.aligned.copy()
    for u in range(len(data.units)):
        value = data.at_best[:, u]
        counts = (data.english[:, u] == 1) & ~np.isnan(value) & ~np.isnan(data.right[:, u])
        ts, tf = counts & (data.right[:, u] == 1), counts & (data.right[:, u] == 0)
        donors, takers = np.flatnonzero(tf & (value == 1)), np.flatnonzero(ts & (value == 0))
        wanted = _aligned_of(odds_ratio, int(ts.sum()), int(tf.sum()), int((counts & (value == 1)).sum()))
        moves = min(round(wanted - (ts & (value == 1)).sum()), len(donors), len(takers))
        if moves > 0:
            a, b = (rng.choice(side, moves, replace=False) for side in (donors, takers))
            aligned[a, u], aligned[b, u] = aligned[b, u], aligned[a, u]
    return replace(data, aligned=aligned)


def _aligned_of(odds_ratio: float, n_a: int, n_b: int, k: int) -> float:
    """The number aligned in group a, given k aligned in both groups and the odds ratio."""
    a, b = 1 - odds_ratio, n_b - k + odds_ratio * (n_a + k)
    if not a:
        return n_a * k / max(n_a + n_b, 1)
    return float((-b + np.sqrt(b * b + 4 * a * odds_ratio * n_a * k)) / (2 * a))


def _questions(data: Bundle, rng: np.random.Generator, seed: int) -> Iterator[dict[str, object]]:
    test = permutation.run(data, count=PERMUTATIONS, seed=seed, by_language=False)
    assert test is not None  # `without_link` has permuted them
    share, accuracy = np.nanmean(data.at_best, axis=0), rng.permutation(np.nanmean(data.right, axis=0))
    p = effect = np.nan
    if len(share) >= analysis.MIN_LANGUAGES and np.ptp(share) > 0 and np.ptp(accuracy) > 0:
        p = float(languages.permuted(share[None], accuracy, rng)[0])
        effect = float(np.corrcoef(share, accuracy)[0, 1])
    yield {"question": "languages", "p": p, "effect": effect}
    largest = test.pooled_z[test.strongest] if test.strongest >= 0 else np.nan
    yield {"question": "items_somewhere", "p": test.pooled_p_somewhere, "effect": largest}
    yield {"question": "items_pooled", "p": test.best_p, "effect": test.best_z}
    same = same_item.linear(data)
    yield {"question": "same_item", "p": same.p, "effect": same.value}


def rates(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rate of `supported` verdicts and of unadjusted p < .05 per question, with 95% Wilson intervals."""
    every = pd.concat(tables, ignore_index=True)
    rows = []
    for (question, metric, pooling), part in every.groupby(["question", "metric", "pooling"], sort=False):
        asked = part[part["p"].notna()]
        supported, below = is_supported(asked["p_adjusted"], asked["effect"]), asked["p"] < LEVEL
        low, high = proportion_confint(below.sum(), len(asked), method="wilson") if len(asked) else (np.nan, np.nan)
        row = {"question": question, "metric": metric, "pooling": pooling, "asked": len(asked), "low": low}
        rows.append(row | {"high": high, "supported": supported.mean(), "p_below_05": below.mean()})
    table = pd.DataFrame(rows)
    return table.iloc[np.argsort([QUESTIONS.index(q) for q in table["question"]], kind="stable")]


def run(runs: Sequence[Path], repeats: int = REPEATS, seed: int = 0, console: Console | None = None) -> pd.DataFrame:
    """Audit all models and tasks below the folders; one row per model, task, question, metric and planted odds ratio.

    Raises:
        InputError: no tables have both alignments and answers, or there are too few items.
    """
    tables = read(runs)
    study = analysis.join(tables.by_name["alignment"], tables.by_name["predictions"], last_layers(tables.summaries))
    found = families(study, analysis.tally(study))
    if not found:
        raise InputError(
            "No model and task in these folders has both alignments and answers, so there is no verdict to audit."
        )
    parts = []
    for family, planted in itertools.product(found, PLANTED):
        model, task, *_ = family[0].key
        what = f"{task}, {model}: " + ("nothing planted" if planted == 1 else f"odds ratio {planted}")
        total = repeats if planted == 1 else -(-repeats // 2)  # power needs only a rough estimate
        made = audit(family, total, seed, planted)
        copies = list(track(made, what, total=total, console=console or Console(stderr=True)))
        parts.append(rates(copies).assign(model=model, task=task, planted=planted))
    return pd.concat(parts, ignore_index=True)


def printed(table: pd.DataFrame, repeats: int) -> Iterator[Table]:
    """The result as console tables, one per model and task."""
    for (model, task), own in table.groupby(["model", "task"], sort=False):
        made = Table(title=f"{task}, {model}: {repeats} copies of your tables", title_justify="left")
        for head in ("question", "metric", "p < .05\nby chance", "supported\nby chance"):
            made.add_column(head)
        for planted in PLANTED[1:]:
            made.add_column(f"found,\nOR {planted}", justify="right")
        for (question, metric), part in own.groupby(["question", "metric"], sort=False):
            by: Mapping[float, pd.Series] = {float(row["planted"]): row for _, row in part.iterrows()}
            none = by[1.0]
            if not none["asked"]:
                made.add_row(str(question), str(metric), "not asked", "")
                continue
            more = ["" if question == "languages" else f"{by[odds]['supported']:.0%}" for odds in PLANTED[1:]]
            chance = f"{none['p_below_05']:.0%} [{100 * none['low']:.0f}, {100 * none['high']:.0f}]"
            made.add_row(str(question), str(metric), chance, f"{none['supported']:.0%}", *more)
        yield made


CAPTION = (
    "By chance: alignment and answers are unrelated in the copies. Each test should reject in 5% of them, and at most "
    "5% of the copies should contain any supported verdict. Found: how often a planted effect of that odds ratio (OR) "
    "is supported."
)


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    command(given, USAGE, _run)


def _run(given: Sequence[str]) -> None:
    found = Arguments(given, ("runs", "repeats", "seed", "out"), required=("runs",))
    repeats, seed, out = found.whole("repeats", REPEATS, least=1), found.whole("seed", 0), found.path("out")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"out={out} is in a folder that does not exist.")
    table = run(found.folders("runs"), repeats, seed)
    console = Console()
    for one in printed(table, repeats):
        console.print(one)
    console.print(CAPTION)
    if out is not None:
        with writing(out.parent):
            table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
