"""Patching against a naive implementation: the whole text run again, one item, one layer, hooks written out by hand."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import belebele_rows, compose, random_model, run_job, tokenizer, write_hub
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from align_pipeline.config.patch import Component
from align_pipeline.data.items import Item
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Pair
from align_pipeline.engine import hooks as intervene
from align_pipeline.engine.hooks import Branch, Scoring, activations, num_heads, patched_loglikelihoods, taps
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.scoring import encode_options
from align_pipeline.measurements.patching.conditions import another_item, noise_like, permuted, plan, site_positions
from align_pipeline.measurements.patching.table import PATCHING

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


# ---- donors and sites


LANGUAGES = ("eng_Latn", "swh_Latn", "spa_Latn")
BASE = ["model=custom", "model.name=random", "model.dtype=float32", "task.num_fewshot=2", "metric=[]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_hub(folder, "facebook/belebele", {code: {"test": belebele_rows(code)} for code in LANGUAGES})
    return folder


@pytest.fixture(scope="module")
def base(data: Path, model_folder: Path) -> list[str]:
    return [*BASE, f"model.path={model_folder}", f"data={data}"]


@pytest.fixture(scope="module")
def pair(data: Path, base: list[str]) -> Pair:
    config = compose("lang=swh", *base)
    return instantiate(config.task).pairs(list(config.languages.values()), Source(str(data)))[0]  # type: ignore[no-any-return]


def test_reordered_options_keep_the_question_and_move_the_answer(pair: Pair) -> None:
    for seed, item in enumerate(pair.english.items):
        moved = permuted(item, seed)
        number = int(item.id.split("-")[1][0]) * 2 + int(item.id[-1]) - 1
        answers = [f"eng_Latn answer {number} {k}" for k in (1, 2, 3, 4)]
        head = item.prompt[: item.prompt.rindex("\nA: ")]
        assert moved.gold != item.gold
        listed = [text.removeprefix(item.premise + " ") for text in moved.options]
        assert sorted(listed) == sorted(answers)
        assert listed[moved.gold] == answers[item.gold]
        lines = [f"{letter}: {text}" for letter, text in zip("ABCD", listed, strict=True)]
        assert moved.prompt == "\n".join([head, *lines, "Answer:"])
        for name, start, end in moved.parts:
            if name.startswith("option_"):
                assert moved.prompt[len(moved.prompt) + start : len(moved.prompt) + end] == listed[int(name[-1]) - 1]


def test_donors_are_other_items_and_always_the_same(pair: Pair) -> None:
    pool = pair.english.items
    keys = [item.gold for item in pool]
    seen = set()
    for seed in range(40):
        for own, item in enumerate(pool):
            found = another_item("random_item", item, pool, (), seed)
            again = another_item("random_item", item, pool, (), seed)
            same = another_item("same_answer", item, pool, keys, seed)
            assert found == again
            assert found is not None
            assert same is not None
            assert own // 2 != found // 2  # nor the other question of the same passage
            assert pool[same].gold == item.gold
            assert own // 2 != same // 2
            seen.add((own, found))
    assert len(seen) == 8 * 6  # every able donor comes up
    assert another_item("same_answer", pool[0], pool[:4], keys, 0) is None


def test_noise_has_the_norm_and_a_direction_of_its_own() -> None:
    activation = torch.randn(5, 2, 64) * torch.arange(1, 6)[:, None, None]
    first, again, other = noise_like(activation, 0, "a"), noise_like(activation, 0, "a"), noise_like(activation, 0, "b")
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=-1), activation.norm(dim=-1))
    for one, two in ((first, other), (first, activation), (first[1:], first[:-1])):
        assert torch.cosine_similarity(one, two, dim=-1).abs().max() < 0.6


@pytest.mark.parametrize("side", ["english", "language"])
def test_a_site_is_the_token_that_ends_its_part(pair: Pair, side: str) -> None:
    lm = model("llama")
    for item in getattr(pair, side).items:
        context, _ = encode_options(lm, item)[0]
        ends = {name: site_positions(lm, item, context, name) for name, _, _ in item.parts}
        for name, start, end in item.parts:
            (at,) = ends[name]
            text = item.prompt[len(item.prompt) + start : len(item.prompt) + end]
            until, before = (lm.tokenizer.decode(context[1 : stop + 1]) for stop in (at, at - 1))
            assert text in until.removeprefix(item.prompt[: len(item.prompt) + start])
            assert not before.endswith(text)
            assert len(before) < len(item.prompt) + end
        assert site_positions(lm, item, context, "last") == [len(context) - 1]
        assert site_positions(lm, item, context, "options") == [ends[f"option_{k}"][0] for k in (1, 2, 3, 4)]


# ---- a job


EVERY = ["parallel", "self", "random_item", "same_answer", "permuted_options", "mean_english", "noise", "zero", "mean"]


def patched(folder: Path, base: list[str], *overrides: str) -> pd.DataFrame:
    run_job(folder, *base, *overrides)
    assert pq.read_schema(folder / "patching.parquet").equals(PATCHING)
    return pd.read_parquet(folder / "patching.parquet")


@pytest.mark.parametrize(
    ("component", "site"), [("resid", "last"), ("head", "last"), ("mlp", "options"), ("attn", "question")]
)
def test_every_condition_equals_a_naive_rerun(
    pair: Pair, base: list[str], tmp_path: Path, component: str, site: str
) -> None:
    conditions = [*EVERY, "language=spa"]
    chosen = "patch.conditions=[" + ",".join(f'"{c}"' for c in conditions) + "]"
    settings = [f"patch.component={component}", f"patch.site={site}", "patch.items=all", "patch.layers=[2]"]
    rows = patched(tmp_path, base, "lang=swh", chosen, *settings)
    kind = Component(component)
    lm = wrap(random_model(), tokenizer(), "llama")
    heads = 4 if kind is Component.head else 1
    assert len(rows) == len(conditions) * heads * 8
    config = compose("lang=spa", *base)
    spanish = instantiate(config.task).pairs(list(config.languages.values()), Source(config.data))[0].language.by_id()
    english, own = pair.english.by_id(), pair.language.by_id()

    def state(item: Item) -> tuple[list[int], list[list[int]], list[int], dict[int, Tensor]]:
        requests = encode_options(lm, item)
        context = requests[0][0]
        sites = site_positions(lm, item, context, site)
        return context, [tail for _, tail in requests], sites, naive_activation(lm, context, sites, kind)

    foreign, native = ({i: state(item) for i, item in side.items()} for side in (english, own))

    def expected(condition: str, item_id: str, donor: str, layer: int) -> Tensor:
        like = foreign[item_id][3][layer]
        values = {
            "parallel": lambda: like,
            "self": lambda: native[item_id][3][layer],
            "random_item": lambda: foreign[donor][3][layer],
            "same_answer": lambda: foreign[donor][3][layer],
            "permuted_options": lambda: state(permuted(english[item_id], 0))[3][layer],
            "language=spa": lambda: state(spanish[item_id])[3][layer],
            "mean_english": lambda: torch.stack([s[3][layer] for i, s in foreign.items() if i != item_id]).mean(0),
            "mean": lambda: torch.stack([s[3][layer] for i, s in native.items() if i != item_id]).mean(0),
            "zero": lambda: torch.zeros_like(like),
        }
        return values[condition]()

    for row in rows[rows["item_id"] == "passage-2/2"].itertuples():
        if row.condition == "noise":
            continue
        context, options, sites, _ = native[row.item_id]
        value = expected(row.condition, row.item_id, row.donor, row.layer)
        head = int(row.head) if kind is Component.head else None
        if head is not None:
            value = value.view(len(sites), heads, -1)[:, head]
        right = [naive_score(lm, context, option, sites, {row.layer: value}, kind, head) for option in options]
        np.testing.assert_allclose(row.loglikelihoods, right, rtol=1e-5, atol=2e-4)
        assert row.prediction == int(np.argmax(right))
    assert (rows["correct"] == (rows["prediction"] == rows["gold"])).all()
    assert rows[rows["condition"] == "random_item"].eval("donor != item_id").all()
    assert rows[rows["condition"].isin(["permuted_options"])].eval("donor_gold != gold").all()
    assert rows[rows["condition"].isin(["same_answer", "parallel"])].eval("donor_gold == gold").all()
    sources = rows.groupby("condition")["source_language"].unique().map(list).to_dict()
    languages = {"self": "swh_Latn", "mean": "swh_Latn", "noise": "", "zero": "", "language=spa": "spa_Latn"}
    assert sources == {c: [languages.get(c, "eng_Latn")] for c in conditions}


def test_failed_items_are_patched_and_self_changes_nothing(base: list[str], tmp_path: Path) -> None:
    rows = patched(tmp_path, base, "lang=[swh,spa]", "patch=english")
    predictions = pd.read_parquet(tmp_path / "predictions.parquet").set_index(["language", "item_id"])
    right = predictions["correct"].unstack(0) == 1
    for language in ("swh_Latn", "spa_Latn"):
        own = rows[rows["language"] == language]
        failed = right.index[right["eng_Latn"] & ~right[language]]
        assert len(failed) > 0
        assert own.groupby(["condition", "layer"])["item_id"].apply(set).map(set(failed).__eq__).all()
        assert set(own["layer"]) == {0, 1, 2, 3, 4}
        untouched = own[own["condition"] == "self"]
        before = predictions["loglikelihoods"].loc[[(language, i) for i in untouched["item_id"]]]
        difference = np.stack(untouched["loglikelihoods"].to_list()) - np.stack(before.to_list())
        assert np.abs(difference).max() < 1e-5
        last = own[(own["condition"] == "parallel") & (own["layer"] == 4)]
        assert last["correct"].all()  # the English run's next token, and these items are right in English
    shared = rows[rows["condition"] == "random_item"].drop_duplicates(["language", "item_id"])
    assert (shared.groupby("item_id")["donor"].nunique() == 1).all()  # one donor for all languages


def test_the_same_job_writes_the_same_bytes_and_a_cache_runs_no_model(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["lang=swh", "patch=english", "patch.items=all", f"cache={tmp_path / 'cache'}"]
    patched(tmp_path / "one", base, *settings)
    monkeypatch.setattr("align_pipeline.measurements.base.load", lambda config: pytest.fail("the model was loaded"))
    patched(tmp_path / "two", base, *settings)
    monkeypatch.undo()
    patched(tmp_path / "three", base, *settings[:-1], "batch_tokens=100")
    one, two = ((tmp_path / name / "patching.parquet").read_bytes() for name in ("one", "two"))
    assert one == two
    first, third = (pd.read_parquet(tmp_path / name / "patching.parquet") for name in ("one", "three"))
    assert first.drop(columns="loglikelihoods").equals(third.drop(columns="loglikelihoods"))


def test_what_a_job_found_is_in_its_summary(base: list[str], tmp_path: Path) -> None:
    content = run_job(tmp_path, *base, "lang=swh", "patch=english", "patch.items=all")
    (row,) = content["languages"]
    found = {one["condition"]: one for one in row["patching"]}
    assert list(found) == EVERY[:-2]
    assert found["self"]["middle_correction"] == 0
    assert found["parallel"]["best_correction"] == 1
    assert found["parallel"]["n_tf"] == row["tf"]
    assert found["parallel"]["strongest_control"] in ("random_item", "same_answer", "mean_english", "noise")
    assert (tmp_path / "patching_belebele_resid_last_1_correction.png").stat().st_size > 10_000
    assert content["tokens"]["patching"] > 0


def test_items_without_a_donor_are_left_out_and_told(
    base: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["lang=swh", "patch.conditions=[same_answer,self]", "patch.items=all"]
    with caplog.at_level("WARNING"):
        rows = patched(tmp_path, base, *settings, "task.limit=5")  # only items 0 and 4 have the same answer
    assert "same_answer: 3 of 5 items have no donor and are left out" in caplog.text
    assert set(rows[rows["condition"] == "same_answer"]["item_id"]) == {"passage-0/1", "passage-2/1"}
    assert rows[rows["condition"] == "self"]["item_id"].nunique() == 5


def test_no_failed_items_is_an_empty_table(model_folder: Path, tmp_path: Path) -> None:
    write_hub(tmp_path, "facebook/belebele", {c: {"test": belebele_rows("same")} for c in ("eng_Latn", "swh_Latn")})
    settings = [*BASE, f"model.path={model_folder}", f"data={tmp_path}", "lang=swh", "patch=english"]
    assert len(patched(tmp_path / "run", settings)) == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["patch.layers=[5]"], "patch.layers contains 5, but patch.component=resid of random has layers 0 to 4"),
        (["patch.layers=[0]", "patch.component=mlp"], "has layers 1 to 4"),
        (["patch.conditions=[paralel]"], "no condition 'paralel'; available: parallel"),
        (['patch.conditions=["language=spam"]'], "no language 'spam'; available: spa"),
        (['patch.conditions=["language=deu"]'], "belebele has no German"),
        (["task.limit=1"], "needs activations of other items, but there is only one"),
        (["patch.site=options_1"], "no patch.site of belebele 'options_1'; available: "),
        (["patch.window=0"], "patch.window=0 is too small"),
        (["patch.component=head", "patch.window=2"], "patch.window is for resid, attn and mlp"),
        (["evaluate=false", "metric=dali"], "patch needs evaluate=true"),
    ],
)
def test_mistakes_are_told_in_one_sentence(base: list[str], tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        run_job(tmp_path, *base, "lang=swh", "patch=english", "patch.items=all", *overrides)
    assert message in str(error.value)
    assert not (tmp_path / "patching.parquet").exists()


def test_a_task_without_options_cannot_be_patched(pair: Pair, base: list[str]) -> None:
    config = compose("lang=swh", "patch=english", *base)
    sentences = [dataclasses.replace(item, options=(), continuations=(), parts=()) for item in pair.english.items]
    bare = dataclasses.replace(pair, english=dataclasses.replace(pair.english, items=tuple(sentences)))
    with pytest.raises(InputError, match="cannot be patched, because it has no answer options"):
        plan(config.patch, instantiate(config.task), [bare], Source(config.source))


def test_a_task_without_options_in_its_prompt_cannot_reorder_them(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the prompts of xcopa show no options"):
        run_job(tmp_path, "task=xcopa", "lang=ind", "patch.conditions=[permuted_options]", "data=embedded")


@given(st.lists(st.lists(st.integers(0, 1), max_size=6), min_size=1, max_size=8))
def test_beginnings_are_cut_where_others_share_them(beginnings: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(intervene, "TRUNK_TOKENS", 1)
        found = intervene._cuts(beginnings)
    for index, (own, cuts) in enumerate(zip(beginnings, found, strict=True)):
        shared = {
            next((k for k, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other)))
            for place, other in enumerate(beginnings)
            if place != index
        }
        assert list(cuts) == [*sorted(shared - {0, len(own)}), len(own)]
