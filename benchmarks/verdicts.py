"""How often each verdict's test rejects where there is nothing to find, and where an effect is planted.

Every study is simulated: items differ in ease and, independently, in how readily they align; both recur over all
languages, and questions of one passage share more of both. For `same_item` the passage's part is the same for
alignment and answers: a confounder that the item strata must remove. Run ``python benchmarks/verdicts.py``.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from align_pipeline.inference import languages, permutation, same_item
from align_pipeline.inference.arrays import Bundle
from align_pipeline.inference.items import cmh, holm
from align_pipeline.inference.resampling import counts


@dataclass(frozen=True)
class Design:
    """A study.

    Attributes:
        languages, items, layers: how many.
        passage: questions a passage.
        options: of a question; a wrong guess is right once in so many.
        spread: standard deviation in log odds of the items' ease, and of their readiness to align.
        passage_spread: the same for passages.
        shared: whether a passage's part is the same for answers and alignment.
        effect: log odds by which an item that is right in a language is aligned more often there.
    """

    languages: int = 8
    items: int = 100
    layers: int = 6
    passage: int = 1
    options: int = 2
    spread: float = 1.0
    passage_spread: float = 0.0
    shared: bool = False
    effect: float = 0.0


def simulate(design: Design, rng: np.random.Generator) -> Bundle:
    """One study as arrays."""
    n, u = design.items, design.languages
    cluster = np.arange(n) // design.passage
    passage = rng.normal(0, design.passage_spread, (2, cluster.max() + 1))
    of_answers, of_alignment = passage[0][cluster], passage[0 if design.shared else 1][cluster]
    ease = rng.normal(0, design.spread, n) + of_answers
    ready = rng.normal(0, design.spread, n) + of_alignment
    ability = rng.normal(0.3, 0.6, u)
    chance = 1 / design.options

    def answers(logit: NDArray[np.float64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (rng.random(logit.shape) < chance + (1 - chance) * expit(logit)).astype(np.float32)
        return found

    right = answers(ability[None] + ease[:, None])
    english = np.repeat(answers(1.2 + ease)[:, None], u, axis=1)
    height = rng.normal(-0.5, 0.5, u)[None, :, None] - 0.8 * np.abs(np.linspace(-1, 1, design.layers) - 0.1)
    own = rng.normal(0, 1, (n, u, 1))  # what an item's layers have in common within a language
    logit = height + ready[:, None, None] + own + design.effect * (right[:, :, None] - 0.5)
    aligned = (rng.random(logit.shape) < expit(logit)).astype(np.float32)
    return Bundle(
        ("simulated", "task", "dali", "last"),
        np.arange(n).astype(str),
        cluster,
        tuple((f"{i:03d}_Latn", "eng_Latn") for i in range(u)),
        np.arange(design.layers),
        np.ones(design.layers, bool),
        aligned.mean(axis=0).argmax(axis=1),
        aligned,
        right,
        english,
    )


def p_values(design: Design, seed: int, count: int = 199) -> dict[str, float]:
    """The p of every question in one simulated study, and beside them what reports said before there were verdicts:
    Cochran-Mantel-Haenszel over languages, and one language's z-test at its best layer, Holm's over layers."""
    data = simulate(design, np.random.default_rng(seed))
    test = permutation.run(data, count=count, seed=seed)
    assert test is not None
    k_a, n_a, k_b, n_b = (c[0] for c in counts(data, data.at_best, np.ones((1, design.items), np.float32)))
    share = data.at_best.mean(axis=0)
    accuracy = data.right.mean(axis=0)
    return {
        "languages": float(languages.permuted(share[None], accuracy, np.random.default_rng(seed))[0]),
        "one language": float(test.p[0]),
        "items_somewhere": test.pooled_p_somewhere,
        "items_pooled": test.best_p,
        "same_item": same_item.linear(data).p,
        "same_item, conditional": same_item.conditional_logit(data).p,
        "z, Holm over layers": z_test(data),
        "CMH (the study's)": float(cmh(np.column_stack([k_a, n_a, k_b, n_b])).get("p", np.nan)),
    }


def z_test(data: Bundle) -> float:
    """Of the first language, TS aligned more often than TF at its best layer; one-sided, adjusted over layers."""
    sides = [(data.english[:, 0] == 1) & (data.right[:, 0] == right) for right in (1, 0)]
    if not all(side.any() for side in sides):
        return np.nan
    (k_a, n_a), (k_b, n_b) = ((data.aligned[side, 0].sum(axis=0), side.sum()) for side in sides)
    pooled = (k_a + k_b) / (n_a + n_b)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    z = np.divide(k_a / n_a - k_b / n_b, error, out=np.zeros(len(error)), where=error > 0)
    return float(holm(stats.norm.sf(z))[data.best[0]])


def rates(design: Design, studies: int, count: int = 199) -> pd.Series:
    """How often p < .05, by question; a question that a study cannot ask does not count."""
    table = pd.DataFrame([p_values(design, seed, count) for seed in range(studies)])
    return (table < 0.05).where(table.notna()).mean()


def main() -> None:
    """Print the grid."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=400)
    asked = parser.parse_args()
    rows = []
    for n, (count, items) in itertools.product((0.0, 0.5), itertools.product((2, 8, 24, 80), (100, 900))):
        if count * items > 20000 and n:
            continue
        for spread, passage, shared in (
            (0.0, 1, False),
            (1.0, 1, False),
            (2.0, 1, False),
            (1.0, 5, False),
            (1.0, 5, True),
        ):
            design = Design(count, items, 6, passage, 2 + 2 * (passage > 1), spread, float(passage > 1), shared, n)
            studies = asked.studies if count * items < 20000 else max(asked.studies // 2, 20)
            found = rates(design, studies)
            about = {"n languages": count, "items": items, "spread": spread, "per passage": passage, "shared": shared}
            rows.append({"planted": n, **about, "studies": studies, **found.round(3)})
            print(" | ".join(str(v) for v in rows[-1].values()), flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
