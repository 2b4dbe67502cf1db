"""The engine against one-text-at-a-time passes of the plain model."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from conftest import random_model, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.engine import forward, layout, likelihood
from align_pipeline.engine.forward import hidden_states, loglikelihoods
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError

ARCHITECTURES = [
    "llama",
    "mistral",
    "mistral-sliding",
    "gemma2",
    "qwen2",
    "cohere",
    "bloom",
    "opt",
    "llama4",
    "gemma3-vision",
]
_MODELS: dict[str, LanguageModel] = {}


def model(architecture: str) -> LanguageModel:
    if architecture not in _MODELS:
        _MODELS[architecture] = wrap(random_model(architecture), tokenizer(), architecture)
    return _MODELS[architecture]


def sequences(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    draw = random.Random(seed)
    return [[0] + [draw.randrange(2, 400) for _ in range(draw.randrange(1, longest))] for _ in range(count)]


def plain_states(lm: LanguageModel, tokens: list[int]) -> dict[str, torch.Tensor]:
    """pooling -> [L + 1, D], from transformers' own output_hidden_states."""
    asked = {"output_hidden_states": True, "logits_to_keep": 1}  # the logits of a long text take gigabytes
    with torch.inference_mode():
        states = torch.stack(lm.model(input_ids=torch.tensor([tokens]), **asked).hidden_states)[:, 0]
    steps = torch.arange(1, len(tokens) + 1).float()
    weighted = torch.einsum("t,ltd->ld", steps, states) / steps.sum()
    return {"last": states[:, -1], "weighted": weighted, "mean": states.mean(dim=1)}


def plain_loglikelihood(lm: LanguageModel, context: list[int], continuation: list[int]) -> float:
    with torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([[*context, *continuation]])).logits[0].double()
    at = logits.log_softmax(-1)[len(context) - 1 : -1]
    return sum(at[step, token].item() for step, token in enumerate(continuation))


def gathered(lm: LanguageModel, groups: list[list[list[int]]], budget: int, layers: list[int]) -> dict[str, Any]:
    whole: dict[str, torch.Tensor] = {}
    names = [str(index) for index in range(len(groups))]
    for chosen, states in hidden_states(lm, groups, names, layers, ("last", "weighted", "mean"), budget):
        for pooling, value in states.items():
            if pooling not in whole:
                whole[pooling] = torch.full((value.shape[0], len(groups), *value.shape[2:]), torch.nan)
            whole[pooling][:, chosen] = value
    return whole


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_hidden_states_equal_transformers_own(architecture: str, budget: int) -> None:
    lm = model(architecture)
    texts = sequences(24)
    groups = [texts[start : start + 3] for start in range(0, 24, 3)]
    found = gathered(lm, groups, budget, list(range(lm.num_layers + 1)))
    for index, group in enumerate(groups):
        for place, tokens in enumerate(group):
            for pooling, expected in plain_states(lm, tokens).items():
                for layer in range(lm.num_layers + 1):
                    assert relative_error(found[pooling][layer, index, place], expected[layer]) < 1e-4, layer


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_does_not_matter(side: str) -> None:
    lm = wrap(random_model(), tokenizer(), "llama")
    lm.tokenizer.padding_side = side
    texts = ["A short text.", "A text that is quite a bit longer than the other one."]
    encoded = lm.encode(texts)
    found = gathered(lm, [[tokens] for tokens in encoded], 1000, [4])
    for index, text in enumerate(texts):
        expected = plain_states(lm, lm.tokenizer(text)["input_ids"])
        assert relative_error(found["last"][0, index, 0], expected["last"][4]) < 1e-4


def test_the_mean_keeps_digits_that_the_models_dtype_lacks() -> None:
    lm = wrap(random_model().to(torch.bfloat16), tokenizer(), "half")
    (_, states), *_ = hidden_states(lm, [[sequences(1)[0]]], ["a"], [0], ["weighted", "mean"], 100)
    assert (states["weighted"].dtype, states["mean"].dtype) == (torch.bfloat16, torch.float32)
    expected = lm.model.get_input_embeddings()(torch.tensor(sequences(1)[0])).float().mean(dim=0)
    assert relative_error(states["mean"][0, 0, 0], expected) < 1e-6
    assert relative_error(states["mean"].bfloat16()[0, 0, 0].float(), expected) > 1e-4


def test_selected_layers_are_absolute() -> None:
    lm = model("llama")
    groups = [[tokens] for tokens in sequences(5)]
    whole = gathered(lm, groups, 100, [0, 1, 2, 3, 4])
    some = gathered(lm, groups, 100, [1, 4])
    assert torch.equal(some["last"], whole["last"][[1, 4]])


def test_equal_texts_have_bit_equal_vectors() -> None:
    lm = model("llama")
    first, second, third = sequences(3, seed=5)
    found = gathered(lm, [[first, second, first], [third, third, second]], 10_000, [0, 2, 4])
    assert torch.equal(found["weighted"][:, 0, 0], found["weighted"][:, 0, 2])
    assert torch.equal(found["weighted"][:, 1, 0], found["weighted"][:, 1, 1])
    assert torch.equal(found["last"][:, 0, 1], found["last"][:, 1, 2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loglikelihoods_equal_plain_passes(architecture: str) -> None:
    lm = model(architecture)
    contexts, continuations = sequences(12, seed=1), sequences(12, seed=2, longest=6)
    requests = list(zip(contexts, continuations, strict=True))
    expected = [plain_loglikelihood(lm, *request) for request in requests]
    for budget in (1, 150, 10_000):
        assert loglikelihoods(lm, requests, budget) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere"])
def test_few_logits_at_once_give_the_same(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of the vocabulary at a time; Gemma 2 soft-caps logits, Cohere scales them."""
    lm = wrap(random_model(architecture), tokenizer(), architecture)
    requests = list(zip(sequences(12, seed=4), sequences(12, seed=6, longest=9), strict=True))
    rows: list[int] = []
    lm.head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    monkeypatch.setattr(likelihood, "_LOGIT_BYTES", {"cpu": 3 * 400 * 4})
    found = loglikelihoods(lm, requests, 10_000)
    assert max(rows) == 3
    expected = [plain_loglikelihood(lm, *request) for request in requests]
    assert found == pytest.approx(expected, abs=1e-3)
    assert "forward" not in vars(lm.decoder), "the model is left as it was"


token_lists = st.lists(st.integers(2, 9), max_size=5)


@given(st.lists(st.tuples(st.lists(st.integers(2, 5), min_size=1, max_size=5), token_lists), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_overlap_of_requests(requests: list[tuple[list[int], list[int]]]) -> None:
    """Prefixes of one another, identical ones, empty continuations, options of one context."""
    lm = model("llama")
    expected = [plain_loglikelihood(lm, *request) for request in requests]
    assert loglikelihoods(lm, requests, 20) == pytest.approx(expected, abs=1e-3)


def test_options_of_one_token_share_their_pass() -> None:
    lm = wrap(random_model(), tokenizer(), "llama")
    context = sequences(1)[0]
    loglikelihoods(lm, [(context, [option]) for option in (5, 6, 7, 8)], 10_000)
    assert lm.tokens_run == len(context)


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        loglikelihoods(model("llama"), [([], [3])], 100)


def test_non_finite_states_name_model_layer_and_item() -> None:
    lm = wrap(random_model(), tokenizer(), "broken")
    with torch.no_grad():
        lm.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"broken has a hidden state .* in layer 2 for item (a|b)"):
        list(hidden_states(lm, [[t] for t in sequences(2)], ["a", "b"], [0, 1, 2, 3], ["last"], 1000))
    with pytest.raises(InputError, match="broken gives a log-likelihood"):
        loglikelihoods(lm, [(sequences(1)[0], [3])], 100)


def test_hooks_are_gone_after_a_failure() -> None:
    lm = wrap(random_model(), tokenizer(), "llama")
    with pytest.raises(IndexError):
        list(hidden_states(lm, [[[0, 399_999]]], ["a"], [0, 1, 4], ["last"], 100))
    with pytest.raises(IndexError):
        loglikelihoods(lm, [([0, 399_999], [3])], 100)
    assert not any(module._forward_pre_hooks for module in lm.model.modules())


class SmallMemory:
    """A forward pass that runs out of memory above so many tokens, padding included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        self.sizes: list[int] = []
        for name in ("pooled_pass", "scored_pass"):
            monkeypatch.setattr(forward, name, self.limited(getattr(forward, name), tokens))

    def limited(self, run: Any, tokens: int) -> Any:
        def limited(lm: LanguageModel, layout: layout.Layout, *rest: Any) -> Any:
            self.sizes.append(layout.tokens.numel())
            if layout.tokens.numel() > tokens:
                raise torch.OutOfMemoryError
            return run(lm, layout, *rest)

        return limited


@pytest.mark.parametrize("asked", [None, 10_000])
def test_out_of_memory_halves_the_budget_and_is_remembered(asked: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = wrap(random_model(), tokenizer(), "llama")
    texts = sequences(40, seed=3)
    groups = [texts[start : start + 2] for start in range(0, 40, 2)]
    requests = [(text, [5, 6]) for text in texts]
    states = gathered(lm, groups, 10_000, [0, 4])
    scores = loglikelihoods(lm, requests, 10_000)
    lm.fits = None
    memory = SmallMemory(monkeypatch, 150)
    assert relative_error(gathered(lm, groups, asked, [0, 4])["weighted"], states["weighted"]) < 1e-5
    assert lm.fits is not None
    assert lm.fits <= 150
    memory.sizes.clear()
    assert loglikelihoods(lm, requests, asked) == pytest.approx(scores, abs=1e-5)
    assert sum(size > 150 for size in memory.sizes) <= 1, "nothing but a single tree may still be too large"


def test_a_text_that_does_not_fit_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = wrap(random_model(), tokenizer(), "llama")
    assert lm.obeys_trees is None
    SmallMemory(monkeypatch, 60)
    with pytest.raises(InputError, match="cpu has too little memory for llama.* and a text of 80 tokens"):
        list(hidden_states(lm, [[[0] * 80], [[1] * 10]], ["a", "b"], [0], ["last"], None))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_budget_follows_a_gpus_memory() -> None:
    lm = wrap(random_model().to("cuda"), tokenizer(), "llama")
    found = forward.token_budget(lm, None)
    assert found == lm.fits
    assert 2048 <= found <= 2**17
    assert forward.token_budget(lm, 100) == 100
