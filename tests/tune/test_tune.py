"""A training from its command line to the evaluated model: resumed, in two processes, merged, refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import processes
import pytest
import torch
from conftest import belebele_rows, compose, compose_tuning, run_job, write_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_run import logged

from align_pipeline import distributed
from align_pipeline.config.lang import Language, known_languages
from align_pipeline.config.messages import one_sentence
from align_pipeline.config.model import ModelConfig
from align_pipeline.config.paths import CONF
from align_pipeline.config.tuned import base_path_of
from align_pipeline.data.parallel import Pairs, prints_of
from align_pipeline.engine.loading import load
from align_pipeline.errors import InputError
from align_pipeline.store import folders
from align_pipeline.sweep import jobs as sweep
from align_pipeline.tune import loop, trainable
from align_pipeline.tune.batches import split
from align_pipeline.tune.objectives import Contrastive, Sentences
from align_pipeline.tune.passes import Trainee
from align_pipeline.tune.tune import tune

SMALL = ["tune.micro_batch=4", "tune.accumulation=2", "tune.steps=6", "tune.held_out=8", "tune.pairs.limit=40"]


def command(model_folder: Path, *overrides: str) -> list[str]:
    model = ["model=custom", "model.name=random", f"model.path={model_folder}", "model.dtype=float32"]
    return [*model, "data=embedded", "lang=[swh,deu]", "wandb.mode=disabled", *SMALL, *overrides]


def train(folder: Path, arguments: list[str]) -> Path:
    """What `python -m align_pipeline.tune` does."""
    folder.mkdir(parents=True, exist_ok=True)
    return tune(compose_tuning(*arguments), folder, {"given": arguments})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*model.safetensors")
    return load_file(path)


@pytest.fixture(scope="module")
def tuned(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of midalign, without an interruption."""
    return train(tmp_path_factory.mktemp("tuned"), command(model_folder, "task=xcopa", "task_items=4"))


# ---- what a training writes


def test_a_training_changes_the_weights_and_keeps_its_record(tuned: Path, model_folder: Path) -> None:
    own = weights(tuned)
    assert any(value.abs().max() > 0 for name, value in own.items() if "lora_B" in name)
    record = json.loads((tuned / "tuning.json").read_text())
    told = record["tuning"]
    expected = {"name": "midalign-seed0", "base": "random", "preset": "midalign", "role": "treatment"}
    expected |= {"method": "lora", "languages": ["swh_Latn", "deu_Latn"], "seed": 0, "steps": 6, "pairs": 64}
    assert {key: told[key] for key in expected} == expected
    assert (told["overlap"], told["data"]) == (0, "FLORES+ dev")
    assert not (tuned / "checkpoint").exists()
    losses = pd.read_csv(tuned / "losses.csv")
    assert list(losses.groupby("objective").size()) == [6, 6]
    assert losses["loss"].gt(0).all()
    held_out = pd.read_csv(tuned / "held_out.csv")
    assert set(held_out["step"]) == {0, 6}
    assert held_out.groupby(["metric", "language", "step"]).size().eq(5).all()  # layers 0 to 4
    assert set(held_out[held_out["metric"] == "dali"]["language"]) == {"swh_Latn"}  # XCOPA has no German
    assert held_out.loc[held_out["metric"] == "mexa", "n"].eq(8).all()
    assert {path.name for path in tuned.glob("*.png")} == {"losses.png", "held_out.png"}


def test_tokens_are_those_of_the_micro_batches(tuned: Path, model_folder: Path) -> None:
    """Six steps of two micro-batches: one has English sentences alone, the other both sides."""
    config = compose_tuning(*command(model_folder))
    lm = load(config.model)
    from align_pipeline.data.parallel import read
    from align_pipeline.data.source import Source

    languages = list(config.languages.values())
    pairs = {one.flores: read(config.tune.pairs, one, Source("embedded")) for one in languages}
    stream, _ = split(pairs, languages, config.tune, 0, ())
    count = 0
    for number in range(12):
        batch = stream[number]
        texts = [*batch.english, *(batch.other if number % 2 else ())]
        count += sum(min(len(tokens), 128) for tokens in lm.encode(texts))
    assert json.loads((tuned / "tuning.json").read_text())["tuning"]["tokens"] == count


def test_a_finished_training_is_not_repeated_and_not_mixed(
    tuned: Path, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (tuned / "tuning.json").read_bytes()
    with caplog.at_level("INFO"):
        train(tuned, command(model_folder, "task=xcopa", "task_items=4", "tune.save_every=1"))
    assert "already holds this tuned model" in caplog.text
    assert (tuned / "tuning.json").read_bytes() == before
    with pytest.raises(InputError, match="holds another tuned model"):
        train(tuned, command(model_folder, "seed=1"))


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_resumed_training_ends_with_the_same_bits(
    method: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command(model_folder, f"tune.method={method}", "tune.save_every=2", "tune.evaluate_every=3")
    whole = train(tmp_path / "whole", arguments)
    step = loop.Training._step

    def stops(self: Any, number: int, *rest: Any) -> Any:
        if number == 5:
            raise StoppedError
        return step(self, number, *rest)

    monkeypatch.setattr(loop.Training, "_step", stops)
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", arguments)
    assert json.loads((tmp_path / "parts/checkpoint/state.json").read_text())["step"] == 4
    assert not (tmp_path / "parts/tuning.json").exists()
    with pytest.raises(Exception) as raised:
        compose("model=tuned", f"model.tuned={tmp_path / 'parts'}")
    assert "holds no tuned model (there is no tuning.json)" in str(one_sentence(raised.value))  # type: ignore[arg-type]
    monkeypatch.setattr(loop.Training, "_step", step)
    parts = train(tmp_path / "parts", arguments)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    for table in ("losses.csv", "held_out.csv"):
        assert (whole / table).read_bytes() == (parts / table).read_bytes()


def test_a_checkpoint_killed_between_two_renames_is_found(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = command(model_folder, "tune.save_every=2")
    step = loop.Training._step
    monkeypatch.setattr(loop.Training, "_step", lambda self, n, *r: step(self, n, *r) if n < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, arguments)
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")
    monkeypatch.setattr(loop.Training, "_step", step)
    with caplog.at_level("INFO"):
        train(tmp_path, arguments)
    assert "Going on after step 2 of 6" in caplog.text


def test_a_checkpoint_of_another_training_and_a_damaged_one(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.Training._step
    monkeypatch.setattr(loop.Training, "_step", lambda self, n, *r: step(self, n, *r) if n < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, command(model_folder, "tune.save_every=2"))
    with pytest.raises(InputError, match="holds the checkpoint of another training"):
        train(tmp_path, command(model_folder, "tune.save_every=2", "tune.learning_rate=1e-4"))
    (tmp_path / "checkpoint/optimizer.safetensors").write_bytes(b"123")
    with pytest.raises(InputError, match=r"checkpoint .* is damaged .* remove the folder"):
        train(tmp_path, command(model_folder, "tune.save_every=2"))


def in_process(folder: Path, arguments: list[str]) -> None:
    """What a process of a launcher does."""
    train(folder, arguments)


def test_two_processes_equal_one_to_rounding(model_folder: Path, tmp_path: Path) -> None:
    arguments = command(model_folder, "tune.accumulation=4", "tune.steps=3", "tune=alignx", "tune.learning_rate=1e-3")
    one = train(tmp_path / "one", arguments)
    done = processes.join(processes.start(2, in_process, (tmp_path / "two", arguments), tmp_path / "log"))
    assert done == [0, 0], (tmp_path / "log.0").read_text() + (tmp_path / "log.1").read_text()
    two = weights(tmp_path / "two")
    for name, value in weights(one).items():
        assert torch.allclose(value, two[name], atol=2e-5, rtol=1e-3), name
    records = [json.loads((tmp_path / name / "tuning.json").read_text())["tuning"] for name in ("one", "two")]
    assert records[0] == records[1]


def fails_in_one(folder: Path, arguments: list[str]) -> None:
    """What a process of a launcher does; the second one runs out of memory."""
    loss = Contrastive.loss

    def broken(self: Contrastive, *rest: Any) -> torch.Tensor:
        if distributed.rank() == 1:
            raise torch.OutOfMemoryError
        return loss(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contrastive, "loss", broken)
        train(folder, arguments)


def test_a_process_that_fails_ends_all_with_its_sentence(model_folder: Path, tmp_path: Path) -> None:
    arguments = command(model_folder, "tune=alignx", "tune.steps=1")
    children = processes.start(2, fails_in_one, (tmp_path / "two", arguments), tmp_path / "log", 20)
    assert processes.join(children, 60) == [1, 1]
    assert all("has too little memory at step 1" in (tmp_path / f"log.{rank}").read_text() for rank in (0, 1))


# ---- the tuned model


def test_the_merged_adapter_equals_the_adapter(tuned: Path, model_folder: Path) -> None:
    from peft import PeftModel

    config = compose("model=tuned", f"model.tuned={tuned}").model
    assert (config.name, config.path, config.adapter) == ("random+midalign-seed0", str(model_folder), str(tuned))
    merged = load(config).model
    base = load(ModelConfig(name="base", path=str(model_folder), dtype=config.dtype)).model
    apart = PeftModel.from_pretrained(base, str(tuned)).eval()
    tokens = torch.arange(2, 60)[None]
    before = load(ModelConfig(name="base", path=str(model_folder), dtype=config.dtype)).model(tokens).logits
    difference = (merged(tokens).logits - apart(tokens).logits).abs().max()
    assert difference < 1e-5 * before.abs().max()
    assert (merged(tokens).logits - before).abs().max() > 100 * difference


@pytest.mark.parametrize("preset", sorted(path.stem for path in CONF.joinpath("tune").glob("*.yaml")))
def test_every_preset_trains_and_is_evaluated(preset: str, model_folder: Path, tmp_path: Path) -> None:
    accumulation = "1" if preset in ("task", "lm", "translation") else "2"
    arguments = command(model_folder, f"tune={preset}", "tune.steps=2", f"tune.accumulation={accumulation}")
    folder = train(tmp_path / "tuned", [*arguments, "task=xcopa", "task_items=2"])
    job = ["data=embedded", "task=xcopa", "task.limit=4", "lang=swh"]
    content = run_job(tmp_path / "run", "model=tuned", f"model.tuned={folder}", *job)
    told = content["tuned"]
    if told["method"] == "lora":  # the first step of a warm-up has a learning rate of 0, the second has not
        assert any(value.abs().max() > 0 for name, value in weights(folder).items() if "lora_B" in name)
    assert content["model"] == f"random+{preset}-seed0"
    assert (told["preset"], told["base"], told["overlap"]) == (preset, "random", 0)
    assert told["role"] == ("placebo" if "shuffled" in preset else told["role"])
    assert set(pd.read_parquet(tmp_path / "run/predictions.parquet")["model"]) == {content["model"]}


def test_data_of_a_tuned_embedded_model_stay_embedded(tmp_path: Path) -> None:
    record = {"base_path": "embedded:tiny", "model": {"name": "a", "path": ".", "adapter": None}}
    record["model"] |= {"revision": None, "dtype": "float32"}  # type: ignore[operator]
    (tmp_path / "tuning.json").write_text(json.dumps(record))
    config = compose("model=tuned", f"model.tuned={tmp_path}")
    assert (config.source, config.model.path, config.model.adapter) == ("embedded", str(tmp_path), None)


def test_two_tuned_models_are_two_jobs(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned, tmp_path / "other")
    one, two = (compose("model=tuned", f"model.tuned={folder}") for folder in (tuned, tmp_path / "other"))
    assert folders.identity(one) != folders.identity(two)


def test_how_the_base_was_read_is_how_the_tuned_model_is_read(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is a path from the folder of the command, the tuned model moves, and is used from another folder."""
    monkeypatch.chdir(model_folder.parent)
    given = ["model.attention=eager", f"model.path=./{model_folder.name}", "tune.steps=1"]
    folder = train(tmp_path / "before", command(model_folder, *given))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder.rename(tmp_path / "after")
    config = compose("model=tuned", "model.tuned='~/after'")
    expected = (str(model_folder.resolve()), str(tmp_path / "after"), "eager", "float32")
    assert (config.model.path, config.model.adapter, config.model.attention.value, config.model.dtype.value) == expected
    assert prints_of("~/after").rows()


def test_a_second_adapter_is_refused_and_full_training_merges_the_first(
    tuned: Path, model_folder: Path, tmp_path: Path
) -> None:
    """A tuned model holds one adapter: a second one would be evaluated without the first."""
    again = ["model=tuned", f"model.tuned={tuned}", "data=embedded", "lang=swh", "wandb.mode=disabled", *SMALL]
    with pytest.raises(InputError, match="is a model with an adapter, and only one adapter can be merged"):
        train(tmp_path / "lora", again)
    folder = train(tmp_path / "full", [*again, "tune.method=full", "tune.steps=2", "tune.learning_rate=1e-12"])
    assert json.loads((folder / "tuning.json").read_text())["base_path"] == str(model_folder)
    one, two = (load(compose("model=tuned", f"model.tuned={at}").model).model for at in (tuned, folder))
    tokens = torch.arange(2, 60)[None]
    assert torch.allclose(one(tokens).logits, two(tokens).logits, atol=1e-4)


def test_data_of_a_training_from_a_tuned_embedded_model_stay_embedded(tmp_path: Path) -> None:
    record = {"base_path": "embedded:tiny", "model": {"name": "a", "path": ".", "adapter": None}}
    record["model"] |= {"revision": None, "dtype": "float32"}  # type: ignore[operator]
    (tmp_path / "tuning.json").write_text(json.dumps(record))
    config = compose_tuning("model=tuned", f"model.tuned={tmp_path}")
    assert (config.source, base_path_of(config.model)) == ("embedded", "embedded:tiny")


def test_a_training_goes_on_although_its_model_was_first_downloaded_by_it(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit of a hub model is not known before it is on this machine."""
    arguments, known = command(model_folder, "tune.save_every=2"), [None]
    module = sys.modules["align_pipeline.tune.tune"]
    monkeypatch.setattr(module, "model_key", lambda config: known.pop() if known else {"model": "a@commit"})
    step = loop.Training._step
    monkeypatch.setattr(loop.Training, "_step", lambda self, n, *r: step(self, n, *r) if n < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, arguments)
    monkeypatch.setattr(loop.Training, "_step", step)
    with caplog.at_level("INFO"):
        train(tmp_path, arguments)
    assert "Going on after step 2 of 6" in caplog.text


# ---- overlap


def test_overlap_is_refused_before_training_and_before_evaluation(model_folder: Path, tmp_path: Path) -> None:
    english = [f"This is a long enough sentence, number {k} of the passage." for k in range(40)]
    rows = {code: belebele_rows(code, 8) for code in ("eng_Latn", "swh_Latn")}
    rows["eng_Latn"][2]["flores_passage"] += " " + english[3].upper()
    write_hub(tmp_path / "hub", "facebook/belebele", {code: {"test": own} for code, own in rows.items()})
    pairs = tmp_path / "swh_Latn.tsv"
    pairs.write_text("english\tother\n" + "".join(f"{e}\tsw: {e}\n" for e in english))
    hub = [f"data={tmp_path / 'hub'}", "lang=swh"]
    arguments = [*command(model_folder, *hub), f"tune.pairs.source={tmp_path}/LANG.tsv", "tune.steps=1"]
    with pytest.raises(InputError, match=r"^1 of the sentences .* set tune.pairs.allow_overlap=true"):
        train(tmp_path / "a", [*arguments, "task=belebele", "task.num_fewshot=0"])
    folder = train(tmp_path / "b", arguments)  # without a task it cannot be known
    job = [*hub, "model=tuned", f"model.tuned={folder}", "task=belebele", "task.num_fewshot=0"]
    with pytest.raises(InputError, match=r"^1 of the sentences that random.midalign-seed0 .* set allow_overlap=true"):
        run_job(tmp_path / "c", *job)
    assert run_job(tmp_path / "d", *job, "allow_overlap=true")["tuned"]["overlap"] == 1
    folder = train(tmp_path / "e", [*arguments, "task=belebele", "task.num_fewshot=0", "tune.pairs.allow_overlap=true"])
    assert json.loads((folder / "tuning.json").read_text())["tuning"]["overlap"] == 1


# ---- batches


def pairs_of(count: int, code: str = "deu_Latn") -> Pairs:
    return Pairs(code, tuple(f"e{k}" for k in range(count)), tuple(f"x{k}" for k in range(count)), "made")


LANGUAGE = Language(**known_languages()["deu"])


@given(st.integers(20, 60), st.integers(2, 9), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_an_epoch_has_every_pair_at_most_once_and_pairs_stay_together(count: int, size: int, seed: int) -> None:
    config = compose_tuning(f"tune.micro_batch={size}", "tune.held_out=4").tune
    stream, held_out = split({"deu_Latn": pairs_of(count)}, [LANGUAGE], config, seed, ())
    per_epoch = (count - 4) // size
    for epoch in range(2):
        batches = [stream[epoch * per_epoch + k] for k in range(per_epoch)]
        seen = Counter(e for batch in batches for e in batch.english)
        assert max(seen.values()) == 1
        assert set(seen).isdisjoint(held_out["deu_Latn"].english)
        assert all(e[1:] == x[1:] for batch in batches for e, x in zip(batch.english, batch.other, strict=True))
    assert stream[0] == stream[0]


@given(st.integers(10, 60), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_shuffled_pairs_have_no_sentence_at_its_own_place(count: int, seed: int) -> None:
    config = compose_tuning("tune=shuffled", "tune.micro_batch=2", "tune.held_out=2").tune
    stream, held_out = split({"deu_Latn": pairs_of(count)}, [LANGUAGE], config, seed, ())
    assert all(e[1:] != x[1:] for e, x, _ in stream.rows)
    assert sorted(x for _, x, _ in stream.rows) == sorted(f"x{k}" for k in range(count - 2))
    assert held_out["deu_Latn"].other == (f"x{count - 2}", f"x{count - 1}")  # measured on true pairs


def test_a_pair_with_a_held_out_sentence_is_not_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    config = compose_tuning("tune.micro_batch=2", "tune.held_out=2").tune
    german, swahili = pairs_of(8), pairs_of(8, "swh_Latn")
    german = replace(german, english=("E6!", *german.english[1:]))  # held out, but for case and punctuation
    swahili = replace(swahili, other=(swahili.other[0], "x7", *swahili.other[2:]))  # x7 is held out in German
    languages = [LANGUAGE, Language(**known_languages()["swh"])]
    stream, held_out = split({"deu_Latn": german, "swh_Latn": swahili}, languages, config, 0, ())
    assert [row[0] for row in stream.rows] == [f"e{k}" for k in (1, 2, 3, 4, 5, 0, 2, 3, 4, 5)]
    assert {code: own.english for code, own in held_out.items()} == dict.fromkeys(held_out, ("e6", "e7"))
    assert [record.args[0] for record in caplog.records] == [1, 1]


# ---- memory


def test_memory_of_weights_is_exact_and_the_rest_grows_as_it_should(model_folder: Path) -> None:
    config = compose_tuning(*command(model_folder, "tune.method=full"))
    lm, _ = trainable.prepare(config.model, config.tune, 0)
    count = sum(weight.numel() for weight in lm.model.parameters())
    parts = trainable.memory(lm, config.tune, 1000)
    assert parts["weights"] == pytest.approx(4 * count / 1e9)
    assert parts["gradients and optimizer"] == pytest.approx(12 * count / 1e9)
    config.tune.gradient_checkpointing = True
    assert trainable.memory(lm, config.tune, 1000)["activations"] < parts["activations"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_memory_of_activations_is_what_the_backward_pass_keeps(method: str, model_folder: Path) -> None:
    """Of a pass through all layers without logits, to a quarter: dropout's mask is larger on a CPU."""
    config = compose_tuning(*command(model_folder, f"tune.method={method}"))
    lm, _ = trainable.prepare(config.model, config.tune, 0)
    lm.model.train()
    own = {weight.untyped_storage().data_ptr() for weight in lm.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        if value.untyped_storage().data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value  # held, so that no storage is counted under two addresses
        return value

    texts = [f"A sentence of some length that says little, number {k}." for k in range(10, 42)]
    subject = Trainee(lm, 128)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        subject.states(subject.encode(texts), [lm.num_layers])
    found = sum(value.untyped_storage().nbytes() for value in kept.values()) / 1e9
    told = trainable.memory(lm, config.tune, subject.tokens)["activations"]
    assert told - 12e-9 * subject.tokens * lm.vocabulary == pytest.approx(found, rel=0.25)


def test_what_a_killed_process_left_is_removed(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".making-x").mkdir()
    train(tmp_path, command(model_folder, "tune.steps=1"))
    assert not list(tmp_path.glob(".making-*"))


# ---- mistakes


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["tune.objectives.alignment.layers=[9]"], "layer 9 does not exist: random has layers 0 to 4"),
        (["tune.micro_batch=99"], "tune.micro_batch=99 is more than the 64 sentence pairs"),
        (
            ["tune.held_out=39"],
            "40 sentence pairs for swh_Latn, of which tune.held_out=39 are held out",
        ),
        (["tune.scheduler=sine"], "tune.scheduler=sine cannot be used"),
        (["tune.scheduler=warmup_stable_decay"], "tune.scheduler=warmup_stable_decay cannot be used"),
        (["tune.scheduler=reduce_lr_on_plateau"], "cannot be used: it depends on more than the step"),
        (["task=flores"], "flores has no answer options; tune with task=belebele, xcopa or xstorycloze, or without"),
        (["tune=task", "task=belebele", "tune.accumulation=1"], "needs a task that has English examples outside"),
        (["tune.accumulation=3"], "tune.accumulation=3 gives the 2 objectives unequal numbers of micro-batches"),
        (["tune.steps=0"], "tune.steps=0 is too small; use 1 or more"),
        (["tune.learning_rate=0"], "tune.learning_rate=0.0 is too small"),
        (["tune.weight_decay=-1"], "tune.weight_decay=-1.0 is too small; use 0 or more"),
        (["tune.max_grad_norm=0"], "tune.max_grad_norm=0.0 is too small; use more than 0"),
        (["batch_tokens=0"], "batch_tokens=0 is too small; use 1 or more"),
        (["model=tuned"], "model=tuned needs model.tuned=<folder>"),
        (["tune.warmup=2"], "tune.warmup=2.0 is not a share of the steps"),
        (["seed=-1"], "seed=-1 is not a valid seed"),
        (
            ["tune.pairs.source=flore"],
            "'flore' is not a source of sentence pairs; use flores, ntrex, opus100",
        ),
        (["lang=[tgl]"], "has no Tagalog"),
    ],
)
def test_mistakes_are_one_sentence(overrides: list[str], sentence: str, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:
        train(tmp_path, command(model_folder, *overrides))
    assert sentence in str(one_sentence(raised.value))  # type: ignore[arg-type]
    assert not (tmp_path / "tuning.json").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory: you tried")])
def test_out_of_memory_is_one_sentence_and_the_checkpoint_is_kept(
    error: Exception, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = Contrastive.loss, Counter[str]()

    def fails(self: Contrastive, *rest: Any) -> torch.Tensor:
        calls["n"] += 1
        if calls["n"] == 4:
            raise error
        return loss(self, *rest)

    monkeypatch.setattr(Contrastive, "loss", fails)
    with pytest.raises(InputError, match=r"too little memory at step 4; use tune.gradient.* is kept"):
        train(tmp_path, command(model_folder, "tune.save_every=1"))
    assert json.loads((tmp_path / "checkpoint/state.json").read_text())["step"] == 3


def test_a_loss_that_is_not_finite_ends_the_training(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Sentences.loss
    monkeypatch.setattr(Sentences, "loss", lambda self, *rest: loss(self, *rest) * float("nan"))
    with pytest.raises(InputError, match=r"The gradient of .* is not finite at step 1; use a smaller"):
        train(tmp_path, command(model_folder))


@pytest.mark.parametrize("layers", ["[]", "0.5", "[1.5]", "[1.0]"])
def test_layers_that_are_none(layers: str, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception) as raised:
        train(tmp_path, command(model_folder, f"tune.objectives.alignment.layers={layers}"))
    assert "is not a list of layers; use shares of the depth between 0 and 1" in str(one_sentence(raised.value))  # type: ignore[arg-type]


def test_what_cannot_be_learnt_is_refused(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="alignment depends on no trained weight"):  # embeddings have no adapter
        train(tmp_path / "a", command(model_folder, "tune.objectives.alignment.layers=[0]"))
    with pytest.raises(InputError, match=r"has no negatives in a micro-batch of 1; use tune.micro_batch=2"):
        train(tmp_path / "b", command(model_folder, "tune.micro_batch=1"))
    with pytest.raises(InputError, match="model.parallel=device_map is not for training"):
        train(tmp_path / "c", command(model_folder, "model.parallel=device_map"))


def test_sentences_that_are_cut_off_are_counted(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, command(model_folder, "tune.max_length=4", "tune.steps=1"))
    assert "of the first 128 sentences have more than tune.max_length=4 tokens, and are cut off there" in caplog.text


def test_a_sweep_with_failed_trainings_fails(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "align_pipeline.tune", "-m", "seed=-1,-2", f"hydra.sweep.dir={tmp_path}"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 jobs failed:\ntiny_midalign_swh_seed-1: seed=-1 is not a valid seed; use 0 or more." in done.stderr


def test_an_earlier_failure_in_a_sweep_is_forgotten(tuned: Path, model_folder: Path) -> None:
    (tuned / "error.txt").write_text("killed\n")
    assert sweep.ending(tuned) == "killed"
    train(tuned, command(model_folder, "task=xcopa", "task_items=4"))
    assert sweep.ending(tuned) is None
    assert sweep.has_ended(tuned)


def test_a_training_that_shares_a_name_leaves_the_other_ones_folder_as_it_was(
    tuned: Path, model_folder: Path, tmp_path: Path
) -> None:
    """A sweep's failed training is told, and its reason does not stay beside the good model."""
    sweep.finish()
    folder = tmp_path / "tuned"
    shutil.copytree(tuned, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds another tuned model") as caught:
        train(folder, command(model_folder, "tune.learning_rate=0.5"))
    sweep.note_failure(caught.value, folder)
    (failed,) = sweep.finish()
    assert failed.startswith("tuned: ")
    assert "holds another tuned model" in failed
    (folder / ".lock").unlink(missing_ok=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sweep.has_result(folder)


# ---- W&B


def test_wandb_has_the_curves_and_a_failed_run_its_reason(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command(model_folder, "wandb.mode=offline", "tune.steps=2", "lang=swh")
    train(tmp_path / "good", arguments)
    found = logged(tmp_path / "good")
    keys = {key for row in found["history"] for key in row}
    assert {"loss/task", "loss/alignment", "learning_rate", "tokens_per_second"} <= keys
    assert {f"held_out/mexa/swh_Latn/layer_{k}" for k in range(5)} <= keys
    losses = pd.read_csv(tmp_path / "good/losses.csv")
    told = [row["loss/alignment"] for row in found["history"] if "loss/alignment" in row]
    assert told == pytest.approx(list(losses[losses["objective"] == "alignment"]["loss"]))
    step = loop.Training._step
    monkeypatch.setattr(loop.Training, "_step", lambda self, n, *r: step(self, n, *r) if n < 1 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "bad", arguments)
    assert logged(tmp_path / "bad")["summary"]["failed"] == "division by zero"


def test_wandb_that_breaks_does_not_end_a_training(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from align_pipeline.tracking import wandb as tracking

    class Broken:
        def define_metric(self, *_: Any, **__: Any) -> None:
            pass

        def log(self, *_: Any, **__: Any) -> None:
            raise OSError("disk full")

    monkeypatch.setattr(tracking, "start", lambda *_: Broken())
    train(tmp_path, command(model_folder, "wandb.mode=offline", "tune.steps=1"))
    assert caplog.text.count("W&B failed (disk full)") == 1
    assert (tmp_path / "tuning.json").exists()


# ---- what it does


@pytest.mark.parametrize(("preset", "aligns"), [("midalign", True), ("shuffled", False)])
def test_alignment_training_aligns_held_out_sentences_and_its_placebo_does_not(
    preset: str, aligns: bool, tmp_path: Path
) -> None:
    """Of 64 sentences, a share's standard error is at most .0625."""
    arguments = ["model=tiny", "lang=swh", f"tune={preset}", "~tune.objectives.task", "tune.pairs.split=devtest"]
    arguments += ["tune.steps=30", "tune.accumulation=1", "tune.learning_rate=3e-3", "tune.evaluate_every=0"]
    train(tmp_path, [*arguments, "wandb.mode=disabled"])
    held_out = pd.read_csv(tmp_path / "held_out.csv")
    shares = held_out[held_out["layer"] == 4].set_index("step")["value"]
    if aligns:
        assert shares[30] > shares[0] + 0.2
    else:
        assert abs(shares[30] - shares[0]) < 0.125
