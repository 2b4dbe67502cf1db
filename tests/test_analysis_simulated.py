"""Simulated studies: what was planted is found, and nothing is found where nothing was planted, at the stated rates."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, log_softmax

from align_pipeline.records import ENGLISH

CODES = [
    "swh_Latn",
    "deu_Latn",
    "amh_Ethi",
    "hin_Deva",
    "tam_Taml",
    "rus_Cyrl",
    "fra_Latn",
    "zho_Hans",
    "yor_Latn",
    "tha_Thai",
    "arb_Arab",
    "fin_Latn",
    "xho_Latn",
    "zul_Latn",
    "ben_Beng",
    "tel_Telu",
    "jpn_Jpan",
    "kor_Hang",
    "tur_Latn",
    "vie_Latn",
    "ind_Latn",
    "ita_Latn",
    "por_Latn",
    "pol_Latn",
]


def codes(count: int) -> list[str]:
    """Distinct FLORES-like codes: real ones first."""
    return (CODES + [f"q{chr(97 + i // 26)}{chr(97 + i % 26)}_Latn" for i in range(200)])[:count]


def simulate(
    languages: int = 6,
    items: int = 100,
    layers: int = 5,
    metrics: tuple[tuple[str, str], ...] = (("dali", "last"),),
    effect: float = 0.0,
    level_effect: float = 0.0,
    item_spread: float = 0.0,
    seed: int = 0,
    model: str = "tiny",
    task: str = "belebele",
    options: int = 4,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of a made-up study.

    Args:
        effect: log odds by which an item that is right in X is aligned more often (planted at instance level).
        level_effect: how strongly a language's alignment follows its ability (planted at language level).
        item_spread: standard deviation, in log odds, of the items' own ease, and, independently, of the items' own
            tendency to be aligned; both are shared by all languages.
    """
    rng = np.random.default_rng(seed)
    names = codes(languages)
    ability = rng.normal(0.7, 0.8, languages)
    ease = rng.normal(0, item_spread, items)
    english = _answers(rng, expit(1.8 + ease), options)
    own = [_answers(rng, expit(a + ease), options) for a in ability]
    ids = np.array([f"item-{i:04d}" for i in range(items)])
    length = rng.integers(80, 300, items)
    similar, categories = rng.uniform(0, 0.9, items), rng.choice(["cause", "effect"], items)
    frames = []
    fertility = np.concatenate([[1.0], rng.uniform(1.2, 4, languages)])
    for name, answers, factor in zip([ENGLISH, *names], [english, *own], fertility, strict=True):
        item_tokens = np.maximum(1, (length * factor * rng.uniform(0.9, 1.1, items))).astype(int)
        about = {"model": model, "task": task, "language": name, "pivot": ENGLISH, "item_id": ids}
        more = {"prompt_tokens": 5 * item_tokens, "item_tokens": item_tokens}
        frames.append(pd.DataFrame({**about, **answers, **more, "option_similarity": similar, "category": categories}))
    correct = np.stack([a["correct"] for a in own])
    height = level_effect * (ability - ability.mean()) + rng.normal(0, 0.5, languages)
    leaning = rng.normal(0, item_spread, items)
    bump = 1.5 - 2.5 * np.abs(np.linspace(-1, 1, layers) - 0.1)
    alignment = []
    for metric, pooling in metrics:
        logit = height[:, None, None] + bump[None, :, None] + leaning + effect * (correct[:, None, :] - 0.5)
        value = rng.random(logit.shape) < expit(logit)
        alignment.append(_long(value, names, ids, model, task, metric, pooling))
    return pd.concat(alignment, ignore_index=True), pd.concat(frames, ignore_index=True)


def _answers(rng: np.random.Generator, p: NDArray[np.float64], options: int) -> dict[str, object]:
    n = len(p)
    gold = rng.integers(0, options, n)
    correct = rng.random(n) < p
    prediction = np.where(correct, gold, (gold + rng.integers(1, options, n)) % options)
    scores = rng.normal(0, 0.6, (n, options))
    scores[np.arange(n), prediction] = scores.max(axis=1) + rng.exponential(1.0, n) * (0.4 + p)
    loglikelihoods = scores - 20
    sure = np.exp(log_softmax(scores, axis=1)).max(axis=1)
    ints = {"gold": gold, "prediction": prediction, "correct": correct.astype(np.int8)}
    return {**ints, "correct_norm": ints["correct"], "confidence": sure, "loglikelihoods": list(loglikelihoods)}


def _long(
    value: NDArray[np.bool_], names: list[str], ids: NDArray[np.str_], model: str, task: str, metric: str, pooling: str
) -> pd.DataFrame:
    L, K, n = value.shape
    constant = {"model": model, "task": task, "pivot": ENGLISH, "metric": metric, "pooling": pooling}
    table = pd.DataFrame(
        {name: pd.Categorical.from_codes(np.zeros(value.size, int), [text]) for name, text in constant.items()}
    )
    table["language"] = pd.Categorical.from_codes(np.repeat(np.arange(L), K * n), names)
    table["layer"] = np.tile(np.repeat(np.arange(K, dtype=np.int32), n), L)
    table["item_id"] = pd.Categorical.from_codes(np.tile(np.arange(n), L * K), ids)
    table["value"] = value.ravel().astype(np.int8)
    table["margin"] = np.where(value, 0.1, -0.1).astype(np.float32).ravel()
    return table[["model", "task", "language", "pivot", "metric", "pooling", "layer", "item_id", "value", "margin"]]
