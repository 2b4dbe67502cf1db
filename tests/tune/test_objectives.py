"""The losses against plain formulas, finite differences and transformers' own hidden states and losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import SENTENCES, random_model, tokenizer

from align_pipeline.data.items import Item
from align_pipeline.engine.forward import loglikelihoods
from align_pipeline.engine.model import wrap
from align_pipeline.errors import InputError
from align_pipeline.tune import passes
from align_pipeline.tune.objectives import Answers, Batch, Contrastive, Sentences, Translations, contrastive
from align_pipeline.tune.objectives.contrastive import info_nce, pooled
from align_pipeline.tune.passes import Trainee

ENGLISH = [SENTENCES[0], SENTENCES[2], "A cat sleeps.", SENTENCES[2]]
OTHER = [SENTENCES[1], SENTENCES[4], "Paka amelala.", "Kwa nini?"]
BATCH = Batch(0, ENGLISH, OTHER, ["Swahili", "Spanish", "Swahili", "Swahili"])


def trainee(architecture: str = "llama", max_length: int = 40) -> Trainee:
    model = random_model(architecture)
    model.requires_grad_(True)
    return Trainee(wrap(model, tokenizer(), "random"), max_length)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_info_nce_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    same = torch.eye(5, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True  # the same English sentence twice
    expected = 0.0
    for i in range(5):
        scores = [math.exp(cosine(x[i], e[j]) / 0.1) for j in range(5) if i == j or not same[i, j]]
        expected += -math.log(math.exp(cosine(x[i], e[i]) / 0.1) / sum(scores)) / 5
    assert info_nce(x, e, 0.1, same).item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_has_the_gradient_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    same = torch.eye(4, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x, e: info_nce(x, e, 0.5, same), sides)


def test_info_nce_of_equal_states_is_that_of_guessing() -> None:
    ones = torch.ones(8, 3)
    assert info_nce(ones, ones, 0.1, torch.eye(8, dtype=torch.bool)).item() == pytest.approx(math.log(8), rel=1e-6)


def test_pooling_ignores_padding() -> None:
    states = torch.randn(3, 5, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    for row, count in enumerate((5, 2, 1)):
        mean = sum(states[row, t] for t in range(count)) / count
        assert torch.allclose(pooled(states, mask, "mean")[row], mean, atol=1e-6)
        assert torch.equal(pooled(states, mask, "last")[row], states[row, count - 1])


# ---- passes


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2", "gemma2"])
def test_states_are_those_of_transformers(architecture: str) -> None:
    subject = trainee(architecture)
    texts = subject.encode(ENGLISH)
    found, mask = subject.states(texts, [0, 2, 4])
    for row, tokens in enumerate(texts):
        whole = subject.lm.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
        assert int(mask[row].sum()) == len(tokens)
        for layer in (0, 2, 4):
            assert torch.allclose(found[layer][row, : len(tokens)], whole[layer][0], atol=1e-4, rtol=1e-4)
    assert found[4].requires_grad


def test_a_pass_ends_at_the_last_layer_that_is_needed() -> None:
    subject = trainee()
    ran: list[int] = []
    for index, layer in enumerate(subject.lm.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    subject.states(subject.encode(ENGLISH), [1, 2])
    assert ran == [0, 1]
    subject.states(subject.encode(ENGLISH), [4])
    assert ran == [0, 1, 0, 1, 2, 3]


def plain_loss(subject: Trainee, texts: list[str], starts: list[int]) -> float:
    """Mean over all predicted tokens, text by text, of -log p, with transformers alone."""
    values: list[float] = []
    for text, start in zip(texts, starts, strict=True):
        tokens = subject.lm.encode([text])[0][: subject.max_length]
        logs = subject.lm.model(input_ids=torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        values += [-float(logs[k - 1, tokens[k]]) for k in range(max(1, start), len(tokens))]
    return sum(values) / len(values)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gemma2", "cohere"])  # soft caps and scaled logits too
@pytest.mark.parametrize("side", ["english", "other", "both"])
def test_sentences_are_predicted_as_by_transformers(architecture: str, side: str) -> None:
    subject = trainee(architecture)
    texts = {"english": ENGLISH, "other": OTHER, "both": [*ENGLISH, *OTHER]}[side]
    expected = plain_loss(subject, texts, [1] * len(texts))
    assert Sentences(side).loss(subject, BATCH).item() == pytest.approx(expected, rel=1e-4)


def test_few_logits_at_once_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for logits in (2**25, 400 * 3):  # all at once; those of three tokens
        monkeypatch.setattr(passes, "LOGITS", logits)
        subject = trainee()
        loss = Sentences("both").loss(subject, BATCH)
        loss.backward()
        found.append((loss.item(), {n: w.grad.clone() for n, w in subject.lm.model.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], atol=1e-5, rtol=1e-3)


def test_translations_predict_the_second_sentence_in_both_directions() -> None:
    subject = trainee(max_length=200)
    for number, into in ((0, True), (1, True), (2, False), (3, False), (4, True)):
        prompts, texts = [], []
        for e, x, name in zip(ENGLISH, OTHER, BATCH.names, strict=True):
            prompts.append(f"{name}: {x}\nEnglish:" if into else f"English: {e}\n{name}:")
            texts.append(prompts[-1] + " " + (e if into else x))
        starts = [len(tokens) for tokens in subject.lm.encode(prompts)]
        found = Translations().loss(subject, Batch(number, ENGLISH, OTHER, BATCH.names)).item()
        assert found == pytest.approx(plain_loss(subject, texts, starts), rel=1e-4)


def examples() -> list[Item]:
    return [Item(str(k), (), "", f"Question {k}: which?", (" The first.", " A cat."), k % 2) for k in range(3)]


def test_answers_have_the_likelihood_of_the_engine() -> None:
    subject = trainee()
    given = Batch(5, ENGLISH, OTHER, BATCH.names, examples()[:1])
    (item,) = given.examples
    prompt, whole = subject.lm.encode([item.prompt, item.prompt + item.continuations[item.gold]])
    (log,) = loglikelihoods(subject.lm, [(prompt, whole[len(prompt) :])], None)
    expected = -log / (len(whole) - len(prompt))
    assert Answers().loss(subject, given).item() == pytest.approx(expected, rel=1e-4)


def test_answers_are_drawn_by_seed_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, seen = trainee(), []
    monkeypatch.setattr(Trainee, "next_token_loss", lambda self, texts, starts: seen.append(texts))
    for number, seed in ((0, 0), (0, 0), (1, 0), (0, 1)):
        Answers().loss(subject, Batch(number, ENGLISH, OTHER, BATCH.names, examples(), seed))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]
    assert seen[0] != seen[3]


def test_answers_need_examples() -> None:
    with pytest.raises(InputError, match="needs a task that has English examples"):
        Answers().loss(trainee(), BATCH)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("both_ways", [False, True])
def test_contrastive_is_info_nce_of_pooled_states(pooling: str, both_ways: bool) -> None:
    subject = trainee()
    expected = []
    for layer in (1, 2):
        sides = []
        for texts in (ENGLISH, OTHER):
            vectors = []
            for tokens in subject.encode(texts):
                states = subject.lm.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
                vectors.append(states[layer][0].mean(0) if pooling == "mean" else states[layer][0, -1])
            sides.append(torch.stack(vectors))
        same = torch.tensor([[a == b for b in ENGLISH] for a in ENGLISH])
        losses = [info_nce(sides[1], sides[0], 0.2, same)]
        if both_ways:
            losses.append(info_nce(sides[0], sides[1], 0.2, torch.eye(4, dtype=torch.bool)))
        expected.append(torch.stack(losses).mean())
    found = Contrastive([0.25, 2], pooling, 0.2, both_ways).loss(subject, BATCH)
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_layers_by_share_number_and_from_the_end() -> None:
    subject = trainee()  # four blocks
    assert [subject.layer(given) for given in (0.5, 0.25, 1, 0, -1, -2, 4)] == [2, 1, 1, 0, 4, 3, 4]
    for given in (5, -6):
        with pytest.raises(InputError, match="has layers 0 to 4"):
            subject.layer(given)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Contrastive(pooling="first"), "pooling=first does not exist; available: mean, last"),
        (lambda: Contrastive(temperature=0.0), "temperature=0.0 is too small"),
        (lambda: Sentences("none"), "side=none does not exist; available: english, other, both"),
    ],
)
def test_bad_settings(make: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


def test_a_centred_contrast_ignores_what_all_sentences_of_a_language_share() -> None:
    """A large constant hides all differences from raw cosines; without each language's mean they are back."""
    generator = torch.Generator().manual_seed(3)
    english = torch.randn(6, 5, generator=generator)
    names = ["Swahili"] * 3 + ["Spanish"] * 3
    x = english + 0.1 * torch.randn(6, 5, generator=generator)
    expected = x - torch.stack([x[:3].mean(0)] * 3 + [x[3:].mean(0)] * 3)
    offsets = torch.stack([torch.full((5,), 30.0)] * 3 + [torch.full((5,), -20.0)] * 3)
    assert torch.allclose(contrastive._centered(x, names), expected, atol=1e-6)
    assert torch.allclose(contrastive._centered(x + offsets, names), expected, atol=1e-4)
    subject = trainee()
    batch = Batch(0, ENGLISH, OTHER, ["a", "a", "a", "a"])
    same = torch.tensor([[a == b for b in ENGLISH] for a in ENGLISH])
    sides = []
    for texts in (ENGLISH, OTHER):
        states, mask = subject.states(subject.encode(texts), [2])
        vectors = contrastive.pooled(states[2], mask, "last")
        sides.append(vectors - vectors.mean(0))
    found = Contrastive([2], "last", 0.2, centered=True).loss(subject, batch)
    assert found.item() == pytest.approx(info_nce(sides[1], sides[0], 0.2, same).item(), rel=1e-4)
