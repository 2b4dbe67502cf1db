"""Extraction of option embeddings: the engine against one text at a time and against good plain batches.

Usage: python benchmarks/extraction.py [--data FOLDER] [--items N] [--part K] [--rounds R]

(a) one text at a time with output_hidden_states=True, every layer's last token kept: how MEXA's and the study's
    extractors work. (b) equal texts once, sorted by length, batched by a token budget, pooled in hooks: the engine with
    sharing switched off. The two run on every K-th passage (all its questions and options) and are scaled to all texts
    by their tokens; the engine runs on everything, as its batches are only full there, and on the part to compare.
"""

from __future__ import annotations

import argparse

import torch
from setting import item_set, parameters, random_llama, show, source, timed

from align_pipeline.data.items import Item
from align_pipeline.engine.forward import hidden_states
from align_pipeline.engine.model import LanguageModel
from align_pipeline.engine.tree import chains, trees, trie


def engine(lm: LanguageModel, items: list[Item], share: bool, budget: int) -> tuple[float, int, torch.Tensor]:
    """Seconds, tokens run, and [items, options, D] of the last layer; tokenization included."""
    lm.obeys_trees, lm.tokens_run = (None if share else False), 0
    kept: list[torch.Tensor] = [torch.empty(0)] * len(items)

    def run() -> None:
        groups = [lm.encode(list(item.options)) for item in items]
        names = [item.id for item in items]
        for chosen, states in hidden_states(lm, groups, names, range(lm.num_layers + 1), ["last"], budget):
            for place, index in enumerate(chosen):
                kept[index] = states["last"][-1, place]

    seconds, _ = timed(run)
    return seconds, lm.tokens_run, torch.stack(kept)


def one_at_a_time(lm: LanguageModel, items: list[Item]) -> tuple[float, int, torch.Tensor]:
    """The same, text by text."""
    tokens = 0
    kept = []

    @torch.inference_mode()
    def run() -> None:
        nonlocal tokens
        for item in items:
            for text in item.options:
                encoded = lm.tokenizer(text, return_tensors="pt")
                tokens += encoded.input_ids.shape[1]
                states = lm.model(**encoded, output_hidden_states=True).hidden_states
                kept.append(torch.stack([state[0, -1] for state in states])[-1])

    seconds, _ = timed(run)
    return seconds, tokens, torch.stack(kept).unflatten(0, (len(items), -1))


def flops(lm: LanguageModel, items: list[Item], share: bool) -> float:
    """Of the blocks: products with weights, and attention over what each token sees (all of its row in a tree)."""
    texts = [text for item in items for text in lm.encode(list(item.options))]
    rows = trees(trie(texts)) if share else chains(texts)
    tokens = sum(len(row.tokens) for row in rows)
    seen = sum(len(row.tokens) ** 2 / (2 if row.is_chain else 1) for row in rows)
    return 2.0 * parameters(lm) * tokens + 4.0 * lm.model.config.hidden_size * lm.num_layers * seen


def different(lm: LanguageModel, items: list[Item]) -> int:
    """Tokens that plain batches run: those of each different text."""
    return sum(len(text) for text in {tuple(text) for item in items for text in lm.encode(list(item.options))})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--languages", nargs=2, default=["eng_Latn", "swh_Latn"])
    parser.add_argument("--items", type=int)
    parser.add_argument("--part", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=4096)
    options = parser.parse_args()
    sides = [item_set(source(options.data), "belebele", code, limit=options.items) for code in options.languages]
    items = [item for side in sides for item in side.items]
    lm = random_llama([item.premise for item in items])
    passages = sorted({item.id.rpartition("/")[0] for item in items})
    chosen = set(passages[:: options.part])
    part = [item for item in items if item.id.rpartition("/")[0] in chosen]

    rows = []
    every = sum(len(text) for item in items for text in lm.encode(list(item.options)))
    predicted = flops(lm, items, False) / flops(lm, items, True)
    for round_number in range(options.rounds):
        _, _, found = engine(lm, part, True, options.budget)
        plain, tokens, expected = engine(lm, part, False, options.budget)
        error = float((found - expected).norm() / expected.norm())
        plain *= different(lm, items) / tokens
        single, tokens, expected = one_at_a_time(lm, part)
        error = max(error, float((found - expected).norm() / expected.norm()))
        single *= every / tokens
        tree, tokens, _ = engine(lm, items, True, options.budget)
        rows.append(
            [
                round_number + 1,
                f"{len(part)} of {len(items)}",
                f"{single:.0f} s",
                f"{plain:.0f} s",
                f"{tree:.0f} s",
                f"{single / tree:.1f}x",
                f"{plain / tree:.2f}x (tokens {every / tokens:.2f}x, FLOPs {predicted:.2f}x)",
                f"{plain / tree / predicted:.0%}",
                f"{error:.1e}",
            ]
        )
        print(rows[-1], flush=True)
    head = ["round", "part", "(a) one text", "(b) batches", "engine", "(a)/engine", "(b)/engine", "of FLOPs", "error"]
    show(f"Extraction, Belebele, 4 options, all {len(items)} items, all layers", head, rows)


if __name__ == "__main__":
    main()
