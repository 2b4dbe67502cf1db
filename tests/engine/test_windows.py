"""Sliding windows and positions that depend on a text's length, against transformers one text at a time."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import random_model, tokenizer
from test_forward import gathered, plain_loglikelihood, plain_states, relative_error
from test_patch import naive_score, scored

from align_pipeline.config.patch import Component
from align_pipeline.engine.forward import STEP_TOKENS, loglikelihoods, shares
from align_pipeline.engine.hooks import Branch, Scoring
from align_pipeline.engine.model import LanguageModel, wrap

WINDOW = 16
SLIDING = ["mistral-sliding", "gemma2", "gemma3", "qwen2-sliding", "phi3-sliding", "cohere2"]


@pytest.fixture(scope="module", params=SLIDING)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return wrap(random_model(request.param), tokenizer(), request.param)


def tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(2, 400) for _ in range(count)]


def families(longest: int) -> list[list[list[int]]]:
    """Groups of three that share beginnings of every length around the window's border and several windows long."""
    draw = random.Random(3)
    lengths = [1, WINDOW - 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 1, longest]
    return [
        [[0, *common, *tokens(draw, own)] for own in (1, WINDOW, 5)] for common in (tokens(draw, n) for n in lengths)
    ]


def test_what_each_layer_sees_is_read_from_the_configuration() -> None:
    found = {name: wrap(random_model(name), tokenizer(), name).windows for name in [*SLIDING, "llama", "qwen2"]}
    mixed = {"sliding_attention": WINDOW, "full_attention": None}
    assert found["mistral-sliding"] == found["phi3-sliding"] == {"sliding_attention": WINDOW}
    assert all(found[name] == mixed for name in ("gemma2", "gemma3", "qwen2-sliding", "cohere2"))
    assert found["llama"] == found["qwen2"] == {"full_attention": None}


def test_states_of_texts_several_windows_long(lm: LanguageModel) -> None:
    groups = families(5 * WINDOW)
    layers = list(range(lm.num_layers + 1))
    found = gathered(lm, groups, 10_000, layers)
    assert shares(lm, groups[-1][0])
    assert lm.tokens_run < sum(len(text) for group in groups for text in group), "beginnings were shared"
    for index, group in enumerate(groups):
        for place, text in enumerate(group):
            for pooling, expected in plain_states(lm, text).items():
                for layer in layers:
                    assert relative_error(found[pooling][layer, index, place], expected[layer]) < 1e-4, (index, layer)


def test_every_token_around_the_border(lm: LanguageModel) -> None:
    """Each beginning of a text is a text of its own, so that each position is read."""
    draw = random.Random(5)
    text = [5, *tokens(draw, 3 * WINDOW)]  # the state of a lone pad token would be zero
    groups = [[text[:end]] for end in range(1, len(text) + 1)]
    found = gathered(lm, groups, 10_000, [lm.num_layers])["last"][0, :, 0]
    with torch.inference_mode():
        expected = lm.decoder(torch.tensor([text])).last_hidden_state[0]
    for position in range(len(text)):
        assert relative_error(found[position], expected[position]) < 1e-4, position


def test_scores_behind_a_trunk_of_many_windows(lm: LanguageModel) -> None:
    """More than fits one step, so that the beginning is held in a KV cache."""
    draw = random.Random(7)
    examples = [0, *tokens(draw, 20 * WINDOW)]
    requests = [([*examples, *tokens(draw, 60)], option) for _ in range(20) for option in ([7], [9, 4, 11])]
    before = lm.tokens_run
    found = loglikelihoods(lm, requests, 10_000)
    assert lm.tokens_run - before < STEP_TOKENS + sum(len(c) - len(examples) + 3 for c, _ in requests)
    expected = [plain_loglikelihood(lm, *request) for request in requests]
    assert found == pytest.approx(expected, abs=1e-3)


def test_patching_beyond_the_window(lm: LanguageModel) -> None:
    draw = random.Random(9)
    context = [0, *tokens(draw, 4 * WINDOW)]
    options = [[5], [6, 7]]
    for site in (WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, len(context) - 1):
        values = {2: torch.randn(1, lm.width, generator=torch.Generator().manual_seed(site)) * 3}
        (found,) = scored(lm, [Scoring(context, options, [site], lambda v=values: [Branch(v)])], Component.resid)
        right = [naive_score(lm, context, option, [site], values, Component.resid) for option in options]
        assert found[0].tolist() == pytest.approx(right, abs=1e-3)


def test_a_text_that_rescales_its_positions_runs_by_itself() -> None:
    """longrope turns all positions of a text of more than 30 tokens otherwise; the others still share."""
    lm = wrap(random_model("phi3-longrope"), tokenizer(), "phi3")
    draw = random.Random(1)
    common = [0, *tokens(draw, 20)]
    groups = [[[*common, *tokens(draw, own)]] for own in (2, 5, 9, 10, 30, 60, 3)]
    assert [shares(lm, group[0]) for group in groups] == [True, True, True, False, False, False, True]
    found = gathered(lm, groups, 10_000, [0, 2, 4])
    for index, (text,) in enumerate(groups):
        for layer, place in ((2, 1), (4, 2)):
            expected = plain_states(lm, text)["last"][layer]
            assert relative_error(found["last"][place, index, 0], expected) < 1e-4, index
    requests = [(text, [7, 8]) for (text,) in groups]
    expected = [plain_loglikelihood(lm, *request) for request in requests]
    assert loglikelihoods(lm, requests, 10_000) == pytest.approx(expected, abs=1e-3)
