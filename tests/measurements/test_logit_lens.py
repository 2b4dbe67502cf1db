"""The logit lens against plain passes, and a whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SENTENCES, compose, random_model, run_job, tokenizer
from hydra.utils import instantiate
from torch import Tensor

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.data.source import Source
from align_pipeline.engine import likelihood
from align_pipeline.engine.lens import final_norm, lens
from align_pipeline.engine.loading import load
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError
from align_pipeline.measurements.logit_lens import scripts
from align_pipeline.measurements.logit_lens.measure import answer, rivals, summarized
from align_pipeline.measurements.logit_lens.table import LOGIT_LENS, NO_LETTERS
from align_pipeline.report import report


def plain(model: Any, norm: Any, ids: list[int]) -> Tensor:
    """[L + 1, V]: probabilities after a text, from transformers' own hidden states, soft-capped as the model's are."""
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        states = torch.stack([state[0, -1] for state in output.hidden_states])
        states[:-1] = norm(states[:-1])
        found = model.get_output_embeddings()(states).float()
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        found = cap * torch.tanh(found / cap) if cap else found
        torch.testing.assert_close(found[-1], output.logits[0, -1].float(), rtol=1e-4, atol=1e-4)
    return found.softmax(dim=-1)


def gemma(cap: float) -> LanguageModel:
    """Soft-capped logits, scaled embeddings, a sliding window and two kinds of layers."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4}
    own = tokenizer()
    config = Gemma2Config(vocab_size=len(own), final_logit_softcapping=cap, **shape, **heads)
    model = Gemma2ForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)  # so that logits reach the cap
    return wrap(model, own, "gemma")


def gpt2() -> LanguageModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    own = tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(own), n_embd=32, n_layer=3, n_head=4)).eval()
    return wrap(model, own, "gpt2")


@pytest.mark.parametrize("kind", ["llama", "gemma", "gpt2"])
def test_every_layer_is_that_of_a_plain_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a few logits, with prompts that share a beginning."""
    lm = {"llama": lambda: wrap(random_model(), tokenizer(), "llama"), "gemma": lambda: gemma(2.0), "gpt2": gpt2}[
        kind
    ]()
    monkeypatch.setattr(likelihood, "_LOGIT_BYTES", {"cpu": 4 * 7 * lm.vocabulary})
    norm = {"llama": "norm", "gemma": "norm", "gpt2": "ln_f"}[kind]
    assert final_norm(lm) is getattr(lm.decoder, norm)
    contexts = lm.encode([*SENTENCES, *(SENTENCES[0] + " " + text for text in SENTENCES)])
    asked = [[k, 5 * k + 1, 17] for k in range(len(contexts))]
    chances, best = lens(lm, contexts, asked, None)
    for k, ids in enumerate(contexts):
        expected = plain(lm.model, getattr(lm.decoder, norm), ids)
        torch.testing.assert_close(chances[k], expected[:, asked[k]], rtol=1e-4, atol=1e-6)
        assert best[k].tolist() == expected.argmax(dim=-1).tolist()


def test_a_decoder_without_its_final_norm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = wrap(random_model(), tokenizer(), "odd")
    forward = lm.decoder.forward

    def twice(**given: Any) -> Any:
        output = forward(**given)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    monkeypatch.setattr(lm.decoder, "forward", twice)
    with pytest.raises(InputError, match="final norm of odd cannot be found"):
        final_norm(lm)


def test_a_real_model(real_models: Path) -> None:
    """Gemma 3: 262,144 tokens, a norm whose weight counts from 1, and windows."""
    lm = load(ModelConfig(name="gemma3-270m", path=str(real_models / "gemma3-270m"), dtype=Dtype.float32, device="cpu"))
    contexts = lm.encode(["The capital of France is", "Paris ni mji mkuu wa"])
    asked = [[lm.encode([" " + word])[0][-1] for word in ("Paris", "Kenya")]] * 2
    chances, best = lens(lm, contexts, asked, None)
    for k, ids in enumerate(contexts):
        expected = plain(lm.model, lm.decoder.norm, ids)
        torch.testing.assert_close(chances[k], expected[:, asked[k]], rtol=1e-3, atol=1e-6)
        assert best[k].tolist() == expected.argmax(dim=-1).tolist()


# ---- scripts


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" the", "Latn"),
        ("ñ", "Latn"),
        ("дом", "Cyrl"),
        ("中", "Hani"),
        ("ひ", "Hira"),
        ("ا", "Arab"),
        ("한", "Hang"),
        ("1. д", "Cyrl"),
        ("12", NO_LETTERS),
        ("\ufffd", NO_LETTERS),
        ("", NO_LETTERS),
        ("ª", "Latn"),
    ],
)
def test_scripts_of_texts(text: str, code: str) -> None:
    assert scripts.script(text) == code
    assert scripts.code(scripts.number(code)) == code


# ---- the numbers


@pytest.mark.parametrize("n", [1, 2, 5, 11, 40])
def test_other_items(n: int) -> None:
    for index in range(n):
        found = rivals(index, n)
        assert len(set(found)) == len(found) == min(10, n - 1)
        assert index not in found
        assert set(found) <= set(range(n))


def test_the_numbers_are_their_literal_form() -> None:
    """Items 1 and 3 begin alike in both languages; item 0's second rival has the item's own English token."""
    tokens = [[5, 6, 7, 6], [4, 4, 7, 8], [5, 9, 7, 5], [3, 3, 3, 3], [1, 2, 8, 9]]
    random = np.random.RandomState(0)
    chances = random.rand(5, 3, 4)
    codes = [[scripts.number(c) for c in row] for row in [["Latn"] * 3] * 4 + [["Latn", "Cyrl", "Zyyy"]]]
    found = summarized(
        {"tokens": torch.tensor(tokens), "probabilities": torch.tensor(chances), "scripts": torch.tensor(codes)}
    )
    for layer in range(3):
        value, chance, n = (found["english", ""][k] for k in range(3))
        assert n == 3
        assert value[layer] == pytest.approx(np.mean([chances[i, layer, 1] for i in (0, 2, 4)]))
        expected = [chances[0, layer, 2], chances[2, layer, 2], np.mean(chances[4, layer, 2:])]
        assert chance[layer] == pytest.approx(np.mean(expected))
        assert found["own", ""][0][layer] == pytest.approx(np.mean([chances[i, layer, 0] for i in (0, 2, 4)]))
    assert found["script", "Latn"][0].tolist() == [1, 0.8, 0.8]
    assert found["script", "Cyrl"][0].tolist() == [0, 0.2, 0]
    assert found["script", "Latn"][2] == 5


def test_answers_that_begin_alike_leave_no_probability() -> None:
    tokens, chances = torch.tensor([[4, 4, 5], [5, 5, 4]]), torch.rand(2, 3, 3)
    codes = torch.full((2, 3), scripts.number("Latn"))
    found = summarized({"tokens": tokens, "probabilities": chances, "scripts": codes})
    assert np.isnan(found["english", ""][0]).all()
    assert found["english", ""][2] == 0


# ---- a job


COUNT = 12


@pytest.fixture(scope="module")
def finished(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, job(folder, model_folder, "logit_lens=true", "lang=[swh,tur]")


def job(folder: Path, model_folder: Path, *overrides: str) -> Any:
    model = ("model=custom", f"model.path={model_folder}", "model.name=random", "model.dtype=float32")
    shared = ("task=xcopa", "data=embedded", f"task.limit={COUNT}", "evaluate=false", "metric=[]", "cache=null")
    return run_job(folder, *model, *shared, *overrides)


def test_the_table_equals_plain_passes(finished: tuple[Path, Any]) -> None:
    table = pq.read_table(finished[0] / "logit_lens.parquet")
    assert table.schema.equals(LOGIT_LENS)
    rows = table.to_pandas()
    lm = wrap(random_model(), tokenizer(), "random")
    config = compose("task=xcopa", f"task.limit={COUNT}", "lang=[swh,tur]")
    task = instantiate(config.task)
    for pair in task.pairs(list(config.languages.values()), Source("embedded")):
        own, english = pair.language.by_id(), pair.english.by_id()
        ours = [answer(lm, own[i]) for i in pair.ids]
        firsts = [answer(lm, english[i])[1] for i in pair.ids]
        found = [plain(lm.model, lm.decoder.norm, context).numpy() for context, _ in ours]
        apart = [k for k in range(COUNT) if ours[k][1] != firsts[k]]
        told = rows[rows["language"] == pair.language.language].set_index(["quantity", "script", "layer"]).sort_index()
        for layer in range(5):
            for quantity, token in (("english", firsts), ("own", [first for _, first in ours])):
                value = np.mean([found[k][layer, token[k]] for k in apart])
                row = told.loc[(quantity, "", layer)]
                assert (row["value"], row["n"]) == (pytest.approx(value, rel=1e-3), len(apart))
            tops = [scripts.script(lm.tokenizer.decode([int(found[k][layer].argmax())])) for k in range(COUNT)]
            shares = told.loc["script"]["value"]
            for code in set(tops):
                assert shares[code, layer] == pytest.approx(tops.count(code) / COUNT)
            assert shares[:, layer].sum() == pytest.approx(1)


def test_summary_figure_and_report(finished: tuple[Path, Any], tmp_path: Path) -> None:
    folder, content = finished
    rows = pd.read_parquet(folder / "logit_lens.parquet")
    for row in content["languages"]:
        own = rows[(rows["language"] == row["language"]) & (rows["quantity"] == "english")]
        assert row["logit_lens"]["english"]["value"] == pytest.approx(own["value"].tolist())
    assert (folder / "logit_lens_xcopa.png").exists()
    page = report.write([folder], tmp_path / "report").read_text(encoding="utf-8")
    assert "Logit lens: what layers predict" in page
    assert len(pd.read_csv(tmp_path / "report" / "logit_lens.csv")) == len(rows)


def test_it_needs_answers(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="flores has no answer options"):
        job(tmp_path, model_folder, "task=flores", "logit_lens=true", "lang=spa")


def test_answers_that_are_letters(model_folder: Path, tmp_path: Path) -> None:
    """Belebele's answers are A to D in every language: there is nothing to tell apart, and only scripts are left."""
    content = job(tmp_path, model_folder, "task=belebele", "task.limit=2", "task.num_fewshot=0", "logit_lens=true")
    told = content["languages"][0]["logit_lens"]
    assert all(value is None for value in told["english"]["value"])
    assert "Logit lens" in report.write([tmp_path], tmp_path / "report").read_text(encoding="utf-8")
