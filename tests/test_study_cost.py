"""What docs/scaling.md counts is what the engine computes."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import REPOSITORY, compose, random_model, tokenizer
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode

from align_pipeline.data.source import Source
from align_pipeline.data.tasks.pairs import ItemSet, pair
from align_pipeline.engine.forward import hidden_states
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.engine.pooling import POOLINGS
from align_pipeline.measurements.accuracy.scoring import predict
from align_pipeline.measurements.alignment.similarity import english_states, similarities, text_tokens

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import study_cost


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return wrap(random_model(), tokenizer(), "random")


@pytest.fixture(scope="module", params=["belebele", "xcopa", "xstorycloze"])
def side(request: pytest.FixtureRequest) -> ItemSet:
    config = compose(f"task={request.param}", "lang=swh", "task.limit=6", "task.num_fewshot=2")
    (pair,) = instantiate(config.task).pairs(list(config.languages.values()), Source("embedded"))
    return ItemSet(pair.language.language, pair.language.pivot, pair.language.items[:6])


def test_counted_tokens_are_those_that_run(lm: LanguageModel, side: ItemSet) -> None:
    before = lm.tokens_run
    tokens = text_tokens(lm, side.items)
    for _ in hidden_states(lm, tokens, [item.id for item in side.items], range(lm.num_layers + 1), POOLINGS, 4096):
        pass
    assert study_cost.extraction(lm, side).tokens == lm.tokens_run - before
    before = lm.tokens_run
    predict(lm, side.items, 4096, lambda number: None)
    assert study_cost.scoring(lm, side).tokens == lm.tokens_run - before


def test_flops_are_those_of_torch() -> None:
    """Blocks, attention and logits of a row, by torch's own counter over the operations that ran."""
    own = random_model()
    config = own.config
    own.set_attn_implementation("eager")  # whose products torch counts on every device
    model = study_cost.Model("random", config.num_hidden_layers, 32, 64, 16, config.vocab_size)
    row = torch.arange(50)[None] + 2
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        own(input_ids=row)
    work = study_cost.Work(tokens=50, cells=50 * 50, predicted=50)
    assert counter.get_total_flops() == pytest.approx(model.flops(work), rel=0.01)


@pytest.mark.parametrize(("name", "published"), [("llama3.1-8b", 8_030_261_248), ("llama2-70b", 68_976_648_192)])
def test_weights_are_those_of_the_published_models(name: str, published: int) -> None:
    (model,) = (model for model in study_cost.MODELS if model.name == name)
    assert model.weight_bytes == pytest.approx(2 * published, rel=1e-4)  # but for the norms


def test_hours_by_hand() -> None:
    model = study_cost.Model("one layer", 1, 10, 20, 10, 0)  # 200 + 200 + 600 weights
    gpu = study_cost.Gpu("toy", flops=4e6, bandwidth=8e3, reached=0.5, reached_bandwidth=0.25)
    assert study_cost.seconds(model, gpu, study_cost.Work(tokens=1000)) == pytest.approx(1)
    assert study_cost.seconds(model, gpu, study_cost.Work(steps=2)) == pytest.approx(2)


def test_a_language_that_is_missing_is_like_those_of_its_script() -> None:
    languages = compose("lang=[swh,deu,tha,mya,fra]").languages.values()
    found = {code: study_cost.Work(tokens=n) for code, n in (("swh_Latn", 10), ("deu_Latn", 30), ("tha_Thai", 200))}
    # French as Swahili and German, Burmese as all three
    assert study_cost.whole(list(languages), found).tokens == pytest.approx(240 + 20 + 80)


def test_what_the_cache_keeps(lm: LanguageModel, side: ItemSet) -> None:
    english = ItemSet("eng_Latn", side.pivot, side.items)
    both = pair(side, english, None)
    found = similarities(lm, both, english_states(lm, english, 4096, print), 4096, print)
    model = study_cost.Model("random", lm.num_layers, 32, 64, 16, 400)
    options = len(side.items[0].options)
    assert sum(t.nbytes for t in found.tensors().values()) == model.cache_bytes(len(side.items), options)


def test_texts_without_a_tokenizer_are_cut_by_their_length() -> None:
    reader = study_cost.Reader(None, 2.5)
    one, two = reader.encode(["abcdefghij", "abcdefgxyz0"])
    assert len(one) == 1 + 4
    assert len(two) == 1 + 5
    assert one[:3] == two[:3]
    assert one[3] != two[3]
