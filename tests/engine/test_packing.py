"""Whatever trees are given, every one is in one pass, and passes hold little padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.data.source import Source
from align_pipeline.engine import forward, layout
from align_pipeline.engine.loading import load
from align_pipeline.engine.model import LanguageModel
from align_pipeline.engine.packing import Costs, Row, batches, passes, width
from align_pipeline.engine.tree import Tree, chains, trees, trie
from align_pipeline.measurements.accuracy.scoring import encode_options
from align_pipeline.measurements.alignment.similarity import text_tokens

COSTS = Costs(token=2e8, cell=4.0 * 18 * 1024)  # of Gemma 3 270M
lengths = st.lists(st.integers(1, 900), min_size=1, max_size=80)


def tree(member: int, length: int, branching: bool) -> Tree:
    half = length // 2
    segments = ((0, half, -1), (half, length, -1)) if branching and half else ((0, length, -1),)
    return Tree(np.zeros(length, np.int64), np.arange(length), segments, {member: length - 1})


def computed(planned: list[list[Row]]) -> int:
    return sum(len(rows) * max(map(width, rows)) for rows in planned)


@given(lengths, st.integers(1, 4000), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_each_tree_is_in_one_pass_within_the_budget(
    given_: list[int], budget: int, branching: bool, beside: bool
) -> None:
    trees = [tree(member, length, branching) for member, length in enumerate(given_)]
    planned = list(passes(trees, budget, COSTS, beside))
    assert sorted(m for rows in planned for row in rows for part in row for m in part.ends) == list(range(len(trees)))
    for rows in planned:
        parts = [part for row in rows for part in row]
        assert len(parts) == 1 or len(rows) * max(map(width, rows)) <= budget
        assert beside or all(len(row) == 1 for row in rows)


@pytest.mark.parametrize("budget", [1250, 16384])
@pytest.mark.parametrize("branching", [True, False])
@given(st.lists(st.integers(8, 400), min_size=60, max_size=300))
@settings(max_examples=60, deadline=None)
def test_padding_stays_below_an_eighth(budget: int, branching: bool, given_: list[int]) -> None:
    trees = [tree(member, length, branching) for member, length in enumerate(given_)]
    assert computed(list(passes(trees, budget, COSTS))) <= 1.125 * sum(given_)


def test_one_long_tree_beside_many_short_ones_pads_nothing_away() -> None:
    """Twenty rows as wide as the longest would compute eight times the tokens."""
    trees = [tree(0, 769, True)] + [tree(1 + k, 40 + k, True) for k in range(19)]
    assert computed(list(passes(trees, 16384, COSTS))) < 1.15 * sum(len(t.tokens) for t in trees)


@given(lengths, st.integers(1, 3000))
@settings(max_examples=100, deadline=None)
def test_units_stay_together(given_: list[int], budget: int) -> None:
    units = [[tree(k, length, True), tree(k + 1000, length // 3 + 1, True)] for k, length in enumerate(given_)]
    found = list(batches(units, budget))
    assert sorted(id(unit) for batch in found for unit in batch) == sorted(map(id, units))
    for batch in found:
        assert len(batch) == 1 or sum(len(part.tokens) for unit in batch for part in unit) <= budget


REAL = {"belebele": 60, "xcopa": 100, "xstorycloze": 60}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load(ModelConfig(name="tiny", path="embedded:tiny", dtype=Dtype.float32))


def planned_tokens(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, run: Any) -> tuple[int, int]:
    """Tokens of the passes that a call plans, without padding and with it; no pass is run."""
    monkeypatch.setattr(lm, "obeys_trees", True)
    monkeypatch.setattr(layout.Trunk, "hold", lambda self, tokens, cuts=(): None)
    monkeypatch.setattr(lm, "costs", COSTS)
    monkeypatch.setattr(lm, "fits", 1245)  # of Gemma 3 270M on a CPU
    lm.recount((0, 0))
    run()
    return lm.counted()


@pytest.mark.parametrize("shots", [0, 5])
@pytest.mark.parametrize("name", REAL)
def test_real_tasks_pad_little_in_every_language(
    lm: LanguageModel, shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, shots: int
) -> None:
    """Scoring and embedding, at most 1.15 times the trees' tokens, and never more than plain batches."""
    from align_pipeline.data import tasks

    fields = yaml.safe_load((REPOSITORY / "conf/task" / f"{name}.yaml").read_text("utf-8"))
    kind = getattr(tasks, fields.pop("_target_").rpartition(".")[2])
    task = kind(**{**fields, "num_fewshot": shots, "limit": REAL[name]})
    configs = Source(str(shared_data)).configs(task.dataset)
    assert configs
    for config in sorted(configs):
        items = task._side(Source(str(shared_data)), config, "xxx_Latn", "eng_Latn").items[: REAL[name]]
        requests = [request for item in items for request in encode_options(lm, item)]
        texts = [text for group in text_tokens(lm, items) for text in group]

        def nothing(layout: Any, trunk: Any) -> list[float]:
            return [0.0] * len(layout.members)

        def score(requests: Any = requests) -> None:
            sequences = [[*context, *continuation[:-1]] for context, continuation in requests]
            needs = [len(context) - 1 for context, _ in requests]
            forward.over_passes(lm, sequences, needs, None, lambda n: None, nothing)

        def embed(texts: Any = texts) -> None:
            for rows in forward._passes(lm, trees(trie(texts)), 1245):
                layout.lay_out(lm, rows)

        run, computed = planned_tokens(lm, monkeypatch, score)
        different = chains([[*context, *continuation[:-1]] for context, continuation in requests])
        assert computed <= 1.15 * run, (config, "scoring")
        assert computed <= sum(len(chain.tokens) for chain in different), (config, "scoring")
        run, computed = planned_tokens(lm, monkeypatch, embed)
        assert computed <= 1.15 * run, (config, "embedding")
        assert computed <= sum(len(chain.tokens) for chain in chains(texts)), (config, "embedding")


def test_flores_pads_little(lm: LanguageModel, shared_data: Path) -> None:
    source = Source(str(shared_data))
    for code in sorted(source.configs("openlanguagedata/flores_plus") or ()):
        rows = source.load("openlanguagedata/flores_plus", code, "devtest", None, None)[:100]
        texts = lm.encode([str(row["text"]) for row in rows])
        found = computed(list(passes(trees(trie(texts)), 1245, COSTS)))
        assert found <= 1.15 * sum(map(len, texts)), code
