"""Translation: generation against `model.generate`, scores against sacrebleu, prompts byte for byte, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model, tokenizer, write_hub
from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.config import Language
from align_pipeline.data import Source
from align_pipeline.errors import InputError
from align_pipeline.model import LanguageModel, wrap
from align_pipeline.tasks import Flores, Translation
from align_pipeline.translate import Hypotheses, corpus_scores, counts, greedy, sentence_scores, translate

BEGINNING = "English: The dog sleeps.\nSpanish: El perro duerme.\n\n"
SOURCES = [
    "The old farmer carried a basket of maize to the market before sunrise.",
    "Rain.",
    "Why did the teacher close the window?",
    "A girl reads a book in the kitchen, and the dog sleeps.",
    "The rain was coming in.",
]
PROMPTS = [f"{BEGINNING}English: {source}\nSpanish:" for source in SOURCES]


def language_model(architecture: str, **changes: Any) -> LanguageModel:
    return wrap(random_model(architecture, **changes), tokenizer(), "random")


def one_by_one(lm: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """The oracle: transformers' own greedy decoding, a prompt at a time."""
    outputs = []
    for prompt in prompts:
        given_ids = torch.tensor([prompt])
        with torch.no_grad():
            found = lm.model.generate(
                given_ids,
                attention_mask=torch.ones_like(given_ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(lm.line_ends),
                pad_token_id=1,
            )
        outputs.append(found[0, len(prompt) :].tolist())
    return outputs


# ---- generation


@pytest.mark.parametrize("architecture", ["llama", "mistral", "mistral-sliding", "gemma2", "qwen2", "cohere", "bloom"])
def test_greedy_equals_generate(architecture: str) -> None:
    lm = language_model(architecture)
    prompts = lm.encode(PROMPTS)
    lm.line_ends = frozenset({1})
    free = one_by_one(lm, prompts, 24)
    lm.line_ends = frozenset({free[0][5], free[3][12]})  # a random model hardly ever ends a line by itself
    expected = one_by_one(lm, prompts, 24)
    assert len({len(output) for output in expected}) > 1, "rows that end at different steps are what can go wrong"
    for batch_tokens in (1, 200, 400, 10**6):
        assert greedy(lm, prompts, 24, batch_tokens) == expected, batch_tokens
