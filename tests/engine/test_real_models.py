"""Gemma 3 270M (windows, a vocabulary of 262,144, BOS) and SmolLM2 135M Instruct (no BOS, a chat model).

Log-likelihoods against lm-evaluation-harness, alignment against loops over single texts, on real data.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import compose
from test_forward import gathered, plain_states, relative_error
from test_lm_eval_parity import assert_equal, harness, ours

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.data.items import Item
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Xcopa
from align_pipeline.data.tasks.pairs import Pair
from align_pipeline.engine.loading import load
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements.alignment.similarity import english_states, similarities, text_tokens

_LOADED: dict[tuple[str, bool], LanguageModel] = {}


@pytest.fixture(autouse=True)
def two_threads() -> object:
    """These models are large enough to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def model(folder: Path, name: str, chat: bool = False) -> LanguageModel:
    if (name, chat) not in _LOADED:
        _LOADED.clear()
        os.environ["HF_HUB_OFFLINE"] = "1"
        _LOADED[name, chat] = load(
            ModelConfig(name=name, path=str(folder / name), dtype=Dtype.float32, device="cpu", chat_template=chat)
        )
    return _LOADED[name, chat]


GEMMA, SMOL = "gemma3-270m", "smollm2-135m-instruct"
CASES = [  # model, task, config, shots, items, through the chat template
    (GEMMA, "belebele", "tha_Thai", 0, 4, False),
    (GEMMA, "belebele", "swh_Latn", 5, 2, False),
    (GEMMA, "xcopa", "th", 0, 8, False),
    (GEMMA, "xcopa", "sw", 5, 4, False),
    (GEMMA, "xstorycloze", "zh", 0, 4, False),
    (GEMMA, "xstorycloze", "en", 5, 2, False),
    (SMOL, "belebele", "eng_Latn", 0, 4, False),
    (SMOL, "xcopa", "it", 5, 4, False),
    (SMOL, "xstorycloze", "zh", 0, 4, False),
    (SMOL, "belebele", "spa_Latn", 0, 4, True),
    (SMOL, "xcopa", "tr", 5, 4, True),
    (SMOL, "xstorycloze", "en", 5, 4, True),
]


@pytest.mark.parametrize(("name", "task", "config", "shots", "limit", "chat"), CASES)
def test_loglikelihoods_equal_the_harness(
    real_models: Path,
    shared_data: Path,
    tmp_path: Path,
    name: str,
    task: str,
    config: str,
    shots: int,
    limit: int,
    chat: bool,
) -> None:
    lm = model(real_models, name, chat)
    found = ours(lm, str(shared_data), task, config, "fixed", shots, limit)
    assert_equal(found, harness(lm, shared_data, tmp_path, task, config, "fixed", shots, limit, batch=1))


def xcopa(data: Path, limit: int) -> Pair:
    job = compose("task=xcopa", f"task.limit={limit}", "lang=tha", f"data={data}")
    fields = {key: value for key, value in job.task.items() if key != "_target_"}
    (pair,) = Xcopa(**fields).pairs(list(job.languages.values()), Source(str(data)))
    return pair


@pytest.mark.parametrize("name", [GEMMA, SMOL])
def test_alignment_equals_loops_over_single_texts(real_models: Path, shared_data: Path, name: str) -> None:
    lm, pair = model(real_models, name), xcopa(shared_data, 4)
    found = similarities(lm, pair, english_states(lm, pair.english, None, lambda n: None), None, lambda n: None)

    def states(items: tuple[Item, ...]) -> torch.Tensor:
        """[L + 1, items, texts, D]."""
        groups = [[plain_states(lm, text)["last"] for text in texts] for texts in text_tokens(lm, items)]
        return torch.stack([torch.stack(group) for group in groups]).movedim(2, 0).double()

    e, x = states(pair.english.items), states(pair.language.items)
    options = found.options["last"]
    for own, first, second in ((options.cross, e, x), (options.english, e, e), (options.language, x, x)):
        expected = torch.cosine_similarity(first[:, :, :2, None], second[:, :, None, :2], dim=-1)
        assert (own - expected).abs().max() < 1e-5
    premises = torch.cosine_similarity(e[:, :, None, 2], x[:, None, :, 2], dim=-1)
    assert (found.premises["last"].own - premises.diagonal(dim1=1, dim2=2)).abs().max() < 1e-5


def test_states_beyond_the_window(real_models: Path) -> None:
    """Texts of up to three windows that share beginnings on both sides of the border."""
    lm = model(real_models, GEMMA)
    assert lm.windows == {"sliding_attention": 512, "full_attention": None}
    (words,) = lm.encode(["The old farmer carried a basket of maize to the market before sunrise. " * 120])
    assert len(words) > 1300
    one, two = [818], [1972, 236743]
    cuts = [(300, one), (511, two), (512, one), (512, two), (513, two), (1300, one)]
    groups = [[[*words[:at], *tail]] for at, tail in cuts]
    found = gathered(lm, groups, 8192, [9, 18])["last"]
    for index, (text,) in enumerate(groups):
        expected = plain_states(lm, text)["last"]
        for place, layer in enumerate((9, 18)):
            assert relative_error(found[place, index, 0], expected[layer]) < 1e-4, (index, layer)


def test_a_gguf_file_is_the_folder_that_was_made_from_it(real_models: Path) -> None:
    files = list((real_models / "packages").rglob("*.gguf"))
    if not files:
        pytest.skip("the folder of real models was not written by tests/real_models/make.py: no GGUF file")
    found = load(
        ModelConfig(name="g", path=str(files[0].parent), gguf_file=files[0].name, dtype=Dtype.float32, device="cpu")
    )
    lm = model(real_models, SMOL)
    text = "The sun rises in the east."
    tokens = torch.tensor(lm.encode([text]))
    assert found.encode([text]) == tokens.tolist()
    with torch.inference_mode():
        assert torch.equal(found.model(tokens).logits, lm.model(tokens).logits)
