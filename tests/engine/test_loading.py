"""A checkpoint is what it says: damaged, wrapped, adapted and quantised ones, and what tokenizers add to a text."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model, tokenizer
from safetensors.torch import load_file, save_file

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.engine import checks, identity, loading
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError

TEXT = "The old farmer carried a basket."


def config(path: Path, **more: Any) -> ModelConfig:
    return ModelConfig(**{"name": "given", "path": str(path), "dtype": Dtype.float32, "device": "cpu", **more})


def logits(lm: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=torch.tensor(lm.encode([TEXT]))).logits[0]


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def rewrite(folder: Path, change: Any) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(
        {key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )


LAYER = "model.layers.2.mlp.up_proj.weight"


def test_a_missing_tensor_is_refused_and_named(folder: Path) -> None:
    before = identity.model_key(config(folder))
    rewrite(folder, lambda weights: {key: value for key, value in weights.items() if key != LAYER})
    with pytest.raises(InputError, match=rf"lacks 1 of the model's weights: {LAYER}; it is incomplete"):
        loading.load(config(folder))
    assert identity.model_key(config(folder)) != before, "the cache tells it from a whole one"


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    random_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(
        logits(loading.load(config(tmp_path))), logits(wrap(random_model(tie_word_embeddings=True), tokenizer(), "x"))
    )


def test_a_wrong_vocabulary_size_names_the_tensor_and_both_shapes(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 500}))
    with pytest.raises(InputError, match=r"(lm_head|embed_tokens).weight .* shape \[400, 32\].* \[500, 32\]"):
        loading.load(config(folder))


def test_weights_that_the_architecture_does_not_know_are_said_in_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(folder, lambda weights: {**weights, "model.extra.weight": torch.zeros(2)})
    with caplog.at_level(logging.WARNING):
        found = loading.load(config(folder))
    own = [r.getMessage() for r in caplog.records if r.name.startswith("align_pipeline")]
    assert own == [f"{folder} has 1 weights that are not used: model.extra.weight."]
    assert found.num_layers == 4


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_wrapped_weights_are_unwrapped_and_said(
    folder: Path, model_folder: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(folder, lambda weights: {prefix + key: value for key, value in weights.items()})
    with caplog.at_level(logging.INFO):
        found = loading.load(config(folder))
    assert torch.equal(logits(found), logits(loading.load(config(model_folder))))
    assert f"begin with '{prefix}'; this prefix is removed" in caplog.text


def test_a_wrapped_checkpoint_with_a_tensor_missing_is_still_refused(folder: Path) -> None:
    rewrite(folder, lambda w: {"module." + key: value for key, value in w.items() if key != LAYER})
    with pytest.raises(InputError, match=f"lacks 1 of the model's weights: {LAYER}"):
        loading.load(config(folder))


# ---- adapters


def adapter(model: Any, folder: Path, base: str) -> dict[str, torch.Tensor]:
    """A LoRA adapter that changes the model much; returns the weights that it makes."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(folder)
    # By hand, from the paper: W + (alpha / r) B A.
    state = wrapped.state_dict()
    made = {}
    for key in [key for key in state if key.endswith("base_layer.weight")]:
        stem = key.removesuffix(".base_layer.weight")
        a, b = state[f"{stem}.lora_A.default.weight"], state[f"{stem}.lora_B.default.weight"]
        made[stem.removeprefix("base_model.model.") + ".weight"] = state[key] + 2.0 * b @ a
    return made


def test_an_adapter_is_merged_into_its_base(model_folder: Path, tmp_path: Path) -> None:
    made = adapter(random_model(), tmp_path / "adapter", str(model_folder))
    changed = random_model()
    changed.load_state_dict(made, strict=False)
    right = logits(wrap(changed, tokenizer(), "x"))
    assert (logits(loading.load(config(model_folder))) - right).abs().max() > 0.1
    named = loading.load(config(model_folder, adapter=str(tmp_path / "adapter")))
    itself = loading.load(config(tmp_path / "adapter"))
    beside = Path(shutil.copytree(model_folder, tmp_path / "beside"))
    for file in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(file, beside)
    found = loading.load(config(beside))
    for lm in (named, itself, found):
        assert torch.allclose(logits(lm), right, atol=1e-5)
        assert not any("lora" in name for name, _ in lm.model.named_parameters())
    keys = [
        identity.model_key(c) for c in (config(model_folder), config(model_folder, adapter=str(tmp_path / "adapter")))
    ]
    assert keys[0] != keys[1]


def test_an_adapter_for_another_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    adapter(random_model(hidden_size=48), tmp_path / "wide", str(model_folder))
    with pytest.raises(InputError, match="does not fit given: .*size mismatch"):
        loading.load(config(tmp_path / "wide"))
    adapter(random_model(num_hidden_layers=6), tmp_path / "deep", str(model_folder))
    with pytest.raises(InputError, match=r"does not fit given: it has weights for .*layers\.4\."):
        loading.load(config(tmp_path / "deep"))
    adapter(random_model(num_hidden_layers=2), tmp_path / "flat", str(model_folder))
    with pytest.raises(InputError, match=r"does not fit given: it lacks weights for .*layers\.2\."):
        loading.load(config(tmp_path / "flat"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not an adapter: it has no adapter_config.json"):
        loading.load(config(model_folder, adapter=str(tmp_path / "empty")))


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_without_loading(tmp_path: Path, tied: bool) -> None:
    random_model(tie_word_embeddings=tied).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert loading.parameters(config(tmp_path)) == loading.load(config(tmp_path)).parameters == stored


def test_packed_weights_do_not_say_how_many_parameters_there_are(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "gptq"}}))
    assert loading.parameters(config(folder)) is None
    assert loading.parameters(config(folder, gguf_file="model.gguf")) is None
    (folder / "config.json").write_text('{"model_type": "nosuch"}')
    assert loading.parameters(config(folder)) is None


# ---- GGUF and quantised weights


def gguf_file(path: Path, architecture: str = "llama") -> Path:
    """A GGUF file with one tensor; enough for what is read before the weights."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_wrong_with_a_gguf_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf_file(tmp_path / "model.gguf", "nosuch")
    for given, words in [
        (config(tmp_path), r"has no config.json, but a GGUF file; load it with model.gguf_file=model.gguf"),
        (config(file), r"set model.path=.* model.gguf_file=model.gguf"),
        (config(tmp_path, gguf_file="other.gguf"), r"has no file other.gguf; its GGUF files: model.gguf"),
        (config(tmp_path, gguf_file="model.gguf"), r"model.gguf of .* cannot be loaded: .*nosuch"),
    ]:
        with pytest.raises(InputError, match=words) as raised:
            loading.load(given)
        assert "\n" not in str(raised.value)
    content = file.read_bytes()
    for size in (10, 100, len(content) - 5000):
        file.write_bytes(content[:size])
        with pytest.raises(InputError, match="model.gguf is cut off"):
            loading.load(config(tmp_path, gguf_file="model.gguf"))
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package gguf: pip install 'align_pipeline\[gguf\]'"):
        checks.check(config(tmp_path, gguf_file="model.gguf"))


@pytest.mark.parametrize(("kind", "package"), [("gptq", "gptqmodel"), ("bitsandbytes", "bitsandbytes")])
def test_quantised_weights_name_the_package_that_runs_them(folder: Path, kind: str, package: str) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "quantization_config": {"quant_method": kind}}))
    with pytest.raises(InputError, match=f"quantised with {kind}, which need the package {package}: pip install"):
        checks.check(config(folder))


def test_weights_are_loaded_as_they_are_stored(folder: Path) -> None:
    random_model().bfloat16().save_pretrained(folder)
    assert loading.load(config(folder, dtype=Dtype.auto)).model.dtype == torch.bfloat16
    assert loading.load(config(folder)).model.dtype == torch.float32


# ---- special tokens

SHAPES = {  # post-processor template -> what a text should begin with
    "$A": [],
    "<s> $A": [0],
    "<s> $A </s>": [0],
    "$A </s>": [],
    "<s> <s> $A": [0],
    "<s> <s> $A </s> </s>": [0],
}


def shaped(template: str) -> Any:
    from tokenizers import processors

    made = tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return made


@pytest.mark.parametrize("template", SHAPES)
def test_a_text_begins_with_bos_once_and_ends_with_its_own_token(
    template: str, caplog: pytest.LogCaptureFixture
) -> None:
    lm = wrap(random_model(), shaped(template), "x")
    bare = lm.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert lm.encode([TEXT, "<s>" + TEXT, TEXT]) == [
                SHAPES[template] + bare,
                [0, *bare],
                SHAPES[template] + bare,
            ]
    assert caplog.text.count("it is removed") == ("</s>" in template)
    assert caplog.text.count("one is kept") == template.startswith("<s> <s>")
    spans = lm.offsets(TEXT)
    assert len(spans) == len(lm.encode([TEXT])[0])
    assert spans[-1][1] == len(TEXT)
    assert lm.offsets("<s>" + TEXT)[1][0] == len("<s>")
