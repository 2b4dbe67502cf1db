"""Patching against a naive implementation: the whole text run again, one item, one layer, hooks written out by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from conftest import random_model, tokenizer
from torch import Tensor

from align_pipeline.config import Component
from align_pipeline.errors import InputError
from align_pipeline.intervene import Branch, Scoring, activations, num_heads, patched_loglikelihoods, taps
from align_pipeline.model import LanguageModel, wrap

ARCHITECTURES = ["llama", "mistral", "mistral-sliding", "gemma2", "qwen2", "bloom"]
_MODELS: dict[str, LanguageModel] = {}


def model(architecture: str) -> LanguageModel:
    if architecture not in _MODELS:
        _MODELS[architecture] = wrap(random_model(architecture), tokenizer(), architecture)
    return _MODELS[architecture]


# ---- the naive implementation, by the modules' own names


def naive_module(lm: LanguageModel, component: Component, layer: int) -> tuple[Any, bool]:
    """The module, and whether its input (else its output) is the activation."""
    base = lm.model.base_model
    blocks = base.h if lm.name == "bloom" else base.layers
    if component is Component.resid:
        if layer == 0:
            return (base.word_embeddings_layernorm, False) if lm.name == "bloom" else (blocks[0], True)
        return blocks[layer - 1], False
    block = blocks[layer - 1]
    if component is Component.mlp:
        return (block.mlp.dense_4h_to_h if lm.name == "bloom" else block.mlp.down_proj), False
    projection = block.self_attention.dense if lm.name == "bloom" else block.self_attn.o_proj
    return projection, component is Component.head


def naive_pass(
    lm: LanguageModel, tokens: Sequence[int], hooks: Mapping[int, Callable[[Tensor], None]], component: Component
) -> Tensor:
    """Logits [T, V] of one plain pass; each hook may look at and write into its layer's activation [T, D]."""
    handles = []
    for layer, look in hooks.items():
        module, before = naive_module(lm, component, layer)

        def entering(module: Any, args: Any, kwargs: Any, look: Any = look) -> None:
            look((args[0] if args else kwargs["hidden_states"])[0])

        def leaving(module: Any, args: Any, output: Any, look: Any = look) -> None:
            look((output if isinstance(output, Tensor) else output[0])[0])

        handles.append(
            module.register_forward_pre_hook(entering, with_kwargs=True)
            if before
            else module.register_forward_hook(leaving)
        )
    try:
        with torch.no_grad():
            logits: Tensor = lm.model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits


def naive_activation(
    lm: LanguageModel, tokens: Sequence[int], sites: Sequence[int], component: Component
) -> dict[int, Tensor]:
    """layer -> [S, D]."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        def look(value: Tensor) -> None:
            kept[layer] = value[list(sites)].clone()

        return look

    first = 0 if component is Component.resid else 1
    naive_pass(lm, tokens, {layer: keep(layer) for layer in range(first, lm.num_layers + 1)}, component)
    return kept


def naive_score(
    lm: LanguageModel,
    context: Sequence[int],
    continuation: Sequence[int],
    sites: Sequence[int],
    values: Mapping[int, Tensor],
    component: Component,
    head: int | None = None,
) -> float:
    def put(value: Tensor) -> Callable[[Tensor], None]:
        def look(state: Tensor) -> None:
            for site, vector in zip(sites, value, strict=True):
                if head is None:
                    state[site] = vector
                else:
                    width = vector.shape[-1]
                    state[site, head * width : (head + 1) * width] = vector

        return look

    hooks = {layer: put(value) for layer, value in values.items()}
    logits = naive_pass(lm, [*context, *continuation], hooks, component).double().log_softmax(-1)
    return sum(logits[len(context) - 1 + k, token].item() for k, token in enumerate(continuation))


def item(seed: int, length: int = 24) -> tuple[list[int], list[list[int]]]:
    """A context and its options: one of a single token, two that begin alike."""
    draw = random.Random(seed)
    context = [0] + [draw.randrange(2, 400) for _ in range(length)]
    return context, [[5], [6, 7, 8], [6, 9]]


def scored(lm: LanguageModel, scorings: Sequence[Scoring], component: Component) -> list[Tensor]:
    results = dict(patched_loglikelihoods(lm, scorings, component, 4096))
    assert sorted(results) == list(range(len(scorings)))
    return [results[index] for index in range(len(scorings))]


SITES = [(-1,), (-9, -4), (0, -1)]


@pytest.mark.parametrize("component", list(Component))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_equal_plain_passes(architecture: str, component: Component) -> None:
    lm = model(architecture)
    contexts = [item(seed, length)[0] for seed, length in ((0, 24), (1, 7), (2, 40))]
    contexts.append(contexts[0][:20] + contexts[1][1:])  # shares its beginning
    sites = [(2, len(context) - 1) for context in contexts]
    found = activations(lm, contexts, sites, component, 64)
    assert found.shape[:3] == (4, len(taps(lm, component)), 2)
    for context, at, value in zip(contexts, sites, found, strict=True):
        expected = torch.stack(list(naive_activation(lm, context, at, component).values()))
        assert (value - expected).norm() <= 2e-5 * expected.norm()


@pytest.mark.parametrize("component", list(Component))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_equals_a_naive_rerun(architecture: str, component: Component) -> None:
    lm = model(architecture)
    layers = list(taps(lm, component))
    heads = list(range(num_heads(lm))) if component is Component.head else [None]
    scorings, expected = [], []
    for seed, relative in enumerate(SITES):
        context, options = item(seed)
        donor, _ = item(seed + 10, length=30)
        sites = [at % len(context) for at in relative]
        source = naive_activation(lm, donor, [at % len(donor) for at in relative], component)
        branches, rows = [], []
        for layer in layers:
            for head in heads:
                value = source[layer] if head is None else source[layer].view(len(sites), len(heads), -1)[:, head]
                branches.append(Branch({layer: value}, head))
                rows.append(
                    [naive_score(lm, context, option, sites, {layer: value}, component, head) for option in options]
                )
        scorings.append(Scoring(context, options, sites, lambda branches=branches: branches))  # type: ignore[misc]
        expected.append(torch.tensor(rows, dtype=torch.float64))
    for found, right in zip(scored(lm, scorings, component), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-4)
        if component is Component.resid:
            assert right.std(dim=0).min() > 1e-3  # layers differ: the test could fail


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_windows_replace_several_layers(architecture: str) -> None:
    lm = model(architecture)
    context, options = item(0)
    source = naive_activation(lm, item(1)[0], [24], Component.attn)
    window = {layer: source[layer] for layer in (2, 3)}
    (found,) = scored(lm, [Scoring(context, options, [24], lambda: [Branch(window)])], Component.attn)
    right = [naive_score(lm, context, option, [24], window, Component.attn) for option in options]
    torch.testing.assert_close(found[0], torch.tensor(right, dtype=torch.float64), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_own_activation_changes_nothing(architecture: str) -> None:
    lm = model(architecture)
    for component in Component:
        context, options = item(3)
        own = activations(lm, [context], [[len(context) - 1]], component, 4096)[0]
        plain = [naive_score(lm, context, option, [], {}, component) for option in options]
        branches = [Branch({layer: own[k]}) for k, layer in enumerate(taps(lm, component))]
        (found,) = scored(lm, [Scoring(context, options, [len(context) - 1], lambda b=branches: b)], component)  # type: ignore[misc]
        torch.testing.assert_close(
            found, torch.tensor([plain] * len(branches), dtype=torch.float64), rtol=1e-6, atol=1e-5
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_blocks_output_gives_the_sources_next_token(architecture: str) -> None:
    lm = model(architecture)
    context, _ = item(0)
    donor, _ = item(1, length=31)
    value = activations(lm, [donor], [[len(donor) - 1]], Component.resid, 4096)[0]
    options = [[token] for token in range(2, 400, 7)]
    (found,) = scored(
        lm,
        [Scoring(context, options, [len(context) - 1], lambda: [Branch({lm.num_layers: value[-1]})])],
        Component.resid,
    )
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([donor])).logits[0, -1].double().log_softmax(-1)
    torch.testing.assert_close(found[0], logits[2:400:7], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_zero_is_the_tokens_embedding(architecture: str) -> None:
    lm = model(architecture)
    context, options = item(0)
    donor, _ = item(1)
    value = activations(lm, [donor], [[len(donor) - 1]], Component.resid, 4096)[0]
    site = len(context) - 1
    (found,) = scored(lm, [Scoring(context, options, [site], lambda: [Branch({0: value[0]})])], Component.resid)
    swapped = [*context[:-1], donor[-1]]
    right = [naive_score(lm, swapped, option, [], {}, Component.resid) for option in options]
    torch.testing.assert_close(found[0], torch.tensor(right, dtype=torch.float64), rtol=1e-5, atol=2e-4)


def test_no_hook_is_left_when_a_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model("llama")
    context, options = item(0)
    value = activations(lm, [context], [[24]], Component.resid, 4096)[0]

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(lm.layers[2], "forward", fail)
    scoring = Scoring(context, options, [24], lambda: [Branch({k: v}) for k, v in enumerate(value)])
    with pytest.raises(RuntimeError, match="out of memory"):
        scored(lm, [scoring], Component.resid)
    with pytest.raises(RuntimeError, match="out of memory"):
        activations(lm, [context], [[24]], Component.resid, 4096)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_a_block_without_one_output_projection_is_refused() -> None:
    lm = model("llama")
    lm = wrap(random_model("llama"), tokenizer(), "odd")
    lm.layers[1].mlp.experts = torch.nn.ModuleList([torch.nn.ModuleDict({"down_proj": torch.nn.Linear(2, 2)})])
    with pytest.raises(InputError, match="no single output projection"):
        taps(lm, Component.mlp)
