"""Patched translation against a naive loop: the whole text run again for each token, one sentence, a hook by hand."""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import sacrebleu
import torch
from conftest import compose, random_model, run_job, tokenizer, write_hub
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from test_patch import naive_activation, naive_pass
from torch import Tensor

from align_pipeline.config.patch import Component, PatchConfig
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Flores, Pair, Translation
from align_pipeline.engine.hooks import taps
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError
from align_pipeline.measurements.patching.conditions import another_item, noise_like
from align_pipeline.measurements.translation.scores import sentence_statistics
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.measurements.translation.translate import translate
from align_pipeline.measurements.translation_patching.patch import (
    Plan,
    Sentences,
    donors,
    patched_layers,
    plan,
    translate_patched,
)
from align_pipeline.measurements.translation_patching.statistics import MIDDLE, UNPATCHED, analyse, bleu, chrf
from align_pipeline.measurements.translation_patching.table import TRANSLATION_PATCHING
from align_pipeline.report import report

TEXTS = {
    "eng_Latn": ["The dog sleeps in the kitchen", "Rain.", "A girl reads a book, and the farmer closes the window!"],
    "swh_Latn": ["Mkulima mzee alibeba kikapu cha mahindi.", "Mvua", "Mbwa analala jikoni kabla ya jua kuchomoza?"],
    "spa_Latn": ["El perro duerme en la cocina.", "Lluvia.", "La niña lee un libro"],
}
SHOT = {"eng_Latn": "The old farmer.", "swh_Latn": "Mkulima mzee.", "spa_Latn": "El granjero."}
NAMES = {"xx-en": ("Swahili", "English", "swh_Latn"), "en-xx": ("English", "Swahili", "eng_Latn")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sides = {
        code: {
            "dev": [{"id": 0, "text": SHOT[code]}],
            "devtest": [{"id": k, "text": text} for k, text in enumerate(texts)],
        }
        for code, texts in TEXTS.items()
    }
    write_hub(folder, "openlanguagedata/flores_plus", sides)
    return folder


Asked = tuple[Flores, list[Pair], dict[str, Translation], Source]


@pytest.fixture(scope="module")
def asked(data: Path) -> Asked:
    config = compose("task=flores", "lang=swh", "task.num_fewshot=1", "task.max_new_tokens=12", f"data={data}")
    task, source, languages = instantiate(config.task), Source(str(data)), list(config.languages.values())
    pairs = task.pairs(languages, source)
    return task, pairs, {one.direction: one for one in task.translations(pairs, languages, source)["swh_Latn"]}, source


def planned(asked: Asked, **changes: Any) -> Plan:
    task, pairs, _, source = asked
    return plan(PatchConfig(**changes), task, pairs, source)


def language_model(architecture: str) -> LanguageModel:
    lm = wrap(random_model(architecture), tokenizer(), architecture)
    lm.line_ends = frozenset(range(0, 400, 9))  # a random model hardly ever ends a line by itself
    return lm


# ---- the naive implementation


def prompt_of(direction: str, sentence: str) -> str:
    before, after, own = NAMES[direction]
    other = "eng_Latn" if direction == "xx-en" else "swh_Latn"
    return f"{before}: {SHOT[own]}\n{after}: {SHOT[other]}\n\n{before}: {sentence}\n{after}:"


def naive_site(lm: LanguageModel, prompt: str) -> tuple[list[int], int]:
    """A prompt's tokens, and which of them is the first with all of the source before it or in it."""
    tokens = lm.encode([prompt])[0]
    end = len(prompt[: prompt.rindex("\n")].encode())
    text = b""
    for place, token in enumerate(tokens):
        if token != lm.tokenizer.bos_token_id:
            (piece,) = lm.tokenizer.convert_ids_to_tokens([token])
            text += lm.tokenizer.convert_tokens_to_string([piece]).encode() if len(piece) > 1 else b"?"
        if len(text) >= end:
            return tokens, place
    raise AssertionError


def naive_read(lm: LanguageModel, direction: str, sentence: str, component: Component) -> dict[int, Tensor]:
    """layer -> [D] at the end of a sentence in the source's place."""
    tokens, site = naive_site(lm, prompt_of(direction, sentence))
    return {layer: value[0] for layer, value in naive_activation(lm, tokens, [site], component).items()}


def naive_translation(
    lm: LanguageModel, prompt: str, values: dict[int, Tensor], component: Component, most: int
) -> tuple[str, bool]:
    tokens, site = naive_site(lm, prompt)

    def put(value: Tensor) -> Callable[[Tensor], None]:
        def look(state: Tensor) -> None:
            state[site] = value

        return look

    new: list[int] = []
    while len(new) < most and not (new and new[-1] in lm.line_ends):
        logits = naive_pass(lm, tokens + new, {layer: put(value) for layer, value in values.items()}, component)
        new.append(int(logits[-1].argmax()))
    text = lm.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.split("\n")[0].strip(), new[-1] not in lm.line_ends


def naive_values(lm: LanguageModel, condition: str, direction: str, n: int, component: Component) -> dict[int, Tensor]:
    own = NAMES[direction][2]

    def read(code: str, k: int) -> dict[int, Tensor]:
        return naive_read(lm, direction, TEXTS[code][k], component)

    def mean(code: str) -> dict[int, Tensor]:
        first, second = (read(code, k) for k in range(3) if k != n)
        return {layer: (first[layer] + second[layer]) / 2 for layer in first}

    if condition == "noise":
        states = read("eng_Latn", n)
        return dict(zip(states, noise_like(torch.stack(list(states.values()))[:, None], 0, str(n))[:, 0], strict=True))
    if condition == "zero":
        return {layer: torch.zeros_like(value) for layer, value in read(own, n).items()}
    if condition in ("mean", "mean_english"):
        return mean(own if condition == "mean" else "eng_Latn")
    return read({"parallel": "eng_Latn", "self": own, "language=spa": "spa_Latn"}[condition], n)


def check(
    lm: LanguageModel,
    asked: Asked,
    conditions: Sequence[str],
    direction: str = "xx-en",
    batches: Sequence[int] = (10**6,),
    **changes: Any,
) -> set[str]:
    """Compare all sentences in all layers; returns everything that was generated."""
    made = planned(asked, conditions=list(conditions), **changes)
    config = made.config
    sentences = Sentences(lm, made, asked[2][direction], asked[1][0], 0, None)
    layers, seen = patched_layers(lm, config), set()
    for condition in conditions:
        values = sentences.values(condition)
        expected = []
        for layer in layers:
            for n, own in enumerate(TEXTS[NAMES[direction][2]]):
                value = naive_values(lm, condition, direction, n, config.component)
                window = {k: value[k] for k in range(layer, layer + config.window) if k in value}
                expected.append(naive_translation(lm, prompt_of(direction, own), window, config.component, 12))
        for batch_tokens in batches:
            found = translate_patched(sentences, values, batch_tokens)
            assert list(zip(found.texts, found.cut_off, strict=True)) == expected, (condition, batch_tokens)
        seen |= {text for text, _ in expected}
    return seen


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "bloom"])
def test_every_layer_equals_a_naive_rerun(architecture: str, asked: Asked) -> None:
    lm = language_model(architecture)
    seen = check(lm, asked, ["parallel", "noise"], batches=(1, 300, 10**6), layers="all")
    assert len(seen) > 3, "patching must change something, or anything would pass"


def test_every_condition_equals_a_naive_rerun(asked: Asked) -> None:
    lm = language_model("llama")
    check(lm, asked, ["language=spa", "mean_english", "zero", "mean"], layers=[0, 2])
    check(lm, asked, ["language=spa", "noise", "mean_english"], direction="en-xx", layers=[1])


@pytest.mark.parametrize("component", [Component.attn, Component.mlp])
def test_components_and_windows(component: Component, asked: Asked) -> None:
    check(language_model("qwen2"), asked, ["parallel"], component=component, window=2, layers="all")


def test_another_items_activation(asked: Asked) -> None:
    lm, (_, (pair,), translations, _) = language_model("llama"), asked
    given = donors("random_item", translations["xx-en"], pair, 0)
    pool = pair.english.items
    assert given == [pool[another_item("random_item", item, pool, (), 0)].id for item in pool]  # type: ignore[index]
    assert all(donor != own for donor, own in zip(given, pair.ids, strict=True))
    values = Sentences(lm, planned(asked, conditions=["random_item"]), translations["xx-en"], pair, 0, None)
    for donor, value in zip(given, values.values("random_item"), strict=True):
        right = naive_read(lm, "xx-en", TEXTS["eng_Latn"][int(donor)], Component.resid)
        torch.testing.assert_close(value[:, 0], torch.stack(list(right.values())), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "mistral-sliding", "gemma2", "bloom"])
@pytest.mark.parametrize("direction", ["xx-en", "en-xx"])
def test_its_own_activation_and_the_last_layer_change_nothing(architecture: str, direction: str, asked: Asked) -> None:
    """What the last block makes of a token before the prompt's end is read by nobody."""
    lm, one = language_model(architecture), asked[2][direction]
    plain = translate(lm, one, 12, None)
    for condition, layers in (("self", "all"), ("noise", [lm.num_layers])):
        made = planned(asked, conditions=[condition], layers=layers)
        sentences = Sentences(lm, made, one, asked[1][0], 0, None)
        found = translate_patched(sentences, sentences.values(condition), None)
        count = len(patched_layers(lm, made.config))
        assert (found.texts, found.cut_off) == (plain.texts * count, plain.cut_off * count)


def test_what_stands_before_the_site_runs_once(asked: Asked) -> None:
    lm, one = language_model("llama"), asked[2]["xx-en"]
    lm.line_ends = frozenset(range(400))  # every translation is one token
    made = planned(asked, conditions=["parallel"], layers="all")
    sentences = Sentences(lm, made, one, asked[1][0], 0, None)
    values = sentences.values("parallel")
    sites = [naive_site(lm, prompt) for prompt in one.prompts]
    heads = [tokens[:site] for tokens, site in sites]
    common = next(k for k in range(99) if len({tuple(head[: k + 1]) for head in heads}) > 1)
    before = lm.tokens_run
    translate_patched(sentences, values, 10**6)
    behind = sum(len(tokens) - site for tokens, site in sites)
    ahead = common + sum(len(head) - common for head in heads)
    assert lm.tokens_run - before == ahead + behind * len(taps(lm, Component.resid))


def test_hooks_are_gone_and_memory_may_be_short(monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:
    lm, one = language_model("llama"), asked[2]["xx-en"]
    made = planned(asked, conditions=["parallel"], layers="all")
    sentences = Sentences(lm, made, one, asked[1][0], 0, None)
    values = sentences.values("parallel")
    expected = translate_patched(sentences, values, None)
    forward, room = lm.model.forward, 2

    @functools.wraps(forward)
    def limited(**more: Any) -> Any:
        if len(more["input_ids"]) > room:
            raise torch.OutOfMemoryError
        return forward(**more)

    monkeypatch.setattr(lm.model, "forward", limited)
    assert translate_patched(sentences, values, None) == expected
    room = 0
    with pytest.raises(InputError, match="has too little memory"):
        translate_patched(sentences, values, None)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_layers_unless_they_are_named(asked: Asked) -> None:
    lm = wrap(random_model("llama", num_hidden_layers=33), tokenizer(), "deep")
    assert patched_layers(lm, PatchConfig(conditions=["self"])) == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert patched_layers(lm, PatchConfig(conditions=["self"], layers="all")) == list(range(34))
    assert patched_layers(lm, PatchConfig(conditions=["self"], layers=[33, 5])) == [5, 33]
    assert patched_layers(language_model("llama"), PatchConfig(conditions=["self"])) == [0, 1, 2, 3]
    assert patched_layers(lm, PatchConfig(conditions=["self"], component=Component.mlp))[-1] == 32


# ---- bad input


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["patch.conditions=[parallel,same_answer]"], "same_answer, but flores has no answer options"),
        (["patch.conditions=[permuted_options]"], "permuted_options, but flores has no answer options"),
        (["patch.site=question"], "patch.site of flores 'question'"),
        (["patch.component=head"], "patch.component=head does not work with flores"),
        (["patch.items=ts"], "patch.items=ts does not work with translation"),
        (["task.direction=en-xx"], "en-xx: the source is the English sentence itself"),
        (["task.direction=en-xx", "patch.conditions=[parallel]"], "en-xx: the source is the English sentence itself"),
        (["task.limit=1", "patch.conditions=[parallel,random_item]"], "random_item needs activations of other items"),
        (["patch.conditions=['language=xyz']"], "language 'xyz'"),
        (["patch.conditions=['language=deu']"], "flores has no German"),
        (["patch.layers=[9]"], "patch.layers contains 9"),
    ],
)
def test_bad_input(overrides: list[str], said: str, base: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run_job(tmp_path, *base, *overrides)


def test_the_direction_without_a_treatment(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert list(planned(asked, conditions="all").conditions["en-xx"]) == []
    assert list(planned(asked, conditions=["parallel", "noise"]).conditions["en-xx"]) == ["noise"]
    assert [r.message.split(". ")[-1] for r in caplog.records if "en-xx: " in r.message] == [
        "Not patched: en-xx.",
        "Not patched: parallel.",
    ]


# ---- a job


@pytest.fixture(scope="module")
def base(data: Path, model_folder: Path) -> list[str]:
    model = ["model=custom", "model.name=random", "model.dtype=float32", f"model.path={model_folder}"]
    return [*model, f"data={data}", "task=flores", "lang=swh", "patch=english", "task.num_fewshot=1",
            "task.max_new_tokens=12", "task.resamples=0", "metric=[]"]  # fmt: skip


@pytest.fixture(scope="module")
def job(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("job")
    conditions = "patch.conditions=[parallel,self,random_item,mean_english,noise,'language=spa']"
    return folder, run_job(folder, *base, conditions, f"cache={folder / 'cache'}")


def test_the_table(job: tuple[Path, dict[str, Any]]) -> None:
    folder, content = job
    table = pq.read_table(folder / "translation_patching.parquet")
    assert table.schema.remove_metadata() == TRANSLATION_PATCHING
    rows, plain = table.to_pandas(), pd.read_parquet(folder / "translations.parquet")
    # Six conditions into English, five out of it (no treatment), at layers 0 to 3, and unpatched.
    assert rows.groupby("direction").size().to_dict() == {"en-xx": 3 * (5 * 4 + 1), "xx-en": 3 * (6 * 4 + 1)}
    keys = ["direction", "item_id"]
    both = rows.merge(plain[[*keys, "hypothesis", "reference", "chrf", "bleu"]], on=keys, suffixes=("", "_plain"))
    for condition in ("self", UNPATCHED):
        same = both[both["condition"] == condition]
        assert len(same)
        assert (same["hypothesis"] == same["hypothesis_plain"]).all()
        assert (same["chrf"] == same["chrf_plain"]).all()
        assert (same["bleu"] == same["bleu_plain"]).all()
    assert (both["hypothesis"] != both["hypothesis_plain"]).any()
    for row in both.itertuples():
        assert row.chrf == sacrebleu.sentence_chrf(row.hypothesis, [row.reference], word_order=2).score
        assert row.bleu == sacrebleu.sentence_bleu(row.hypothesis, [row.reference]).score
    sources = rows.groupby(["direction", "condition"])["source_language"].unique().map(list).to_dict()
    assert sources["xx-en", "parallel"] == sources["en-xx", "self"] == sources["en-xx", "random_item"] == ["eng_Latn"]
    assert sources["xx-en", "self"] == ["swh_Latn"]
    assert sources["en-xx", "language=spa"] == ["spa_Latn"]
    assert sources["xx-en", "noise"] == sources["xx-en", UNPATCHED] == [""]
    assert set(content["tokens"]) == {"extraction", "scoring", "patching", "lens", "pivots"}
    assert content["tokens"]["patching"] > content["tokens"]["scoring"]


def test_the_summary_is_sacrebleus(job: tuple[Path, dict[str, Any]]) -> None:
    folder, content = job
    rows, plain = (pd.read_parquet(folder / f"{name}.parquet") for name in ("translation_patching", "translations"))
    (language,) = content["languages"]
    found = language["translation_patching"]
    assert len(found["effects"]) == 11 * 4

    def scores(texts: pd.DataFrame, direction: str) -> tuple[float, float]:
        references = plain[plain["direction"] == direction].set_index("item_id")["reference"]
        own = texts.set_index("item_id")["hypothesis"].loc[references.index]
        return (
            sacrebleu.corpus_chrf(list(own), [list(references)], word_order=2).score,
            sacrebleu.corpus_bleu(list(own), [list(references)]).score,
        )

    for one in found["effects"]:
        of = rows["direction"] == one["direction"]
        own = rows[of & (rows["condition"] == one["condition"]) & (rows["layer"] == one["layer"])]
        before = scores(rows[of & (rows["condition"] == UNPATCHED)], one["direction"])
        after = scores(own, one["direction"])
        assert (one["chrf"], one["bleu"]) == pytest.approx(after)
        assert (one["chrf_unpatched"], one["bleu_unpatched"]) == pytest.approx(before)
        assert one["chrf_difference"] == pytest.approx(after[0] - before[0])
        assert one["chrf_low"] <= one["chrf_high"]
        if one["condition"] == "self":
            assert (one["chrf_difference"], one["chrf_low"], one["bleu_high"]) == (0, 0, 0)
    assert {one["direction"] for one in found["contrasts"]} == {"xx-en"}
    assert len(found["contrasts"]) == 5 * (4 + 1)
    assert language["translation"]["xx-en"]["chrf"]["score"] == pytest.approx(found["summary"][-1]["unpatched"])


def test_finished_work_is_not_done_again(job: tuple[Path, dict[str, Any]], base: list[str], tmp_path: Path) -> None:
    """A condition more costs that condition alone."""
    folder, _ = job
    cache = f"cache={folder / 'cache'}"
    warm = run_job(tmp_path / "warm", *base, "patch.conditions=[self,parallel]", cache)
    assert warm["tokens"]["patching"] == 0
    table = pd.read_parquet(tmp_path / "warm" / "translation_patching.parquet")
    first = pd.read_parquet(folder / "translation_patching.parquet")
    keys = ["direction", "condition", "layer", "item_id"]
    both = table.merge(first, on=keys, suffixes=("", "_first"))
    assert len(both) == len(table)
    assert (both["hypothesis"] == both["hypothesis_first"]).all()
    for changed in ("seed=1", "patch.layers=[2]", "task.max_new_tokens=11"):
        again = run_job(tmp_path / changed, *base, "patch.conditions=[noise]", "task.direction=xx-en", changed, cache)
        assert again["tokens"]["patching"] > 0, changed


def test_the_report(job: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, content = job
    assert (folder / "translation_patching_xx-en_resid_source_1.png").stat().st_size > 5000
    report.write([folder], tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "xx-en, residual stream at the end of the source sentence" in page
    table = pd.read_csv(tmp_path / "translation_patching_effects.csv").set_index(["direction", "condition", "layer"])
    for one in content["languages"][0]["translation_patching"]["effects"]:
        row = table.loc[(one["direction"], one["condition"], one["layer"])]
        assert row["chrf_low"] == pytest.approx(one["chrf_low"])
    assert (tmp_path / "plots/translation_patching_flores_xx-en_resid_source_1.svg").exists()
    assert len(pd.read_csv(tmp_path / "translation_patching_contrasts.csv")) == 25


# ---- scores and intervals

words = st.lists(st.sampled_from(["the", "dog", "sleeps.", "a", "(rain)", "ñandú", "x"]), max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words.filter(bool)), min_size=1, max_size=5))
def test_corpus_scores_are_sacrebleus(texts: list[tuple[str, str]]) -> None:
    hypotheses, references = [h for h, _ in texts], [r for _, r in texts]
    sums = {k: np.array(v, float).sum(0) for k, v in sentence_statistics(hypotheses, references, "spa_Latn").items()}
    assert bleu(sums["bleu"]) == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score, abs=1e-9)
    right = sacrebleu.corpus_chrf(hypotheses, [references], word_order=2).score
    assert chrf(sums["chrf"]) == pytest.approx(right, abs=1e-9)


REFERENCES = ["the old farmer reads", "rain and snow", "a dog sleeps in the kitchen", "the girl closes the window"]


def table(texts: dict[tuple[str, int], list[str]]) -> pd.DataFrame:
    rows = []
    for (condition, layer), hypotheses in texts.items():
        statistics = sentence_statistics(hypotheses, REFERENCES, "eng_Latn")
        for n in range(len(hypotheses)):
            rows.append(
                {
                    **dict.fromkeys(TRANSLATION_PATCHING.names, ""),
                    **{"model": "m", "task": "flores", "direction": "xx-en", "language": "swh_Latn", "window": 1},
                    **{"condition": condition, "layer": layer, "item_id": str(n)},
                    **{f"{name}_statistics": values[n] for name, values in statistics.items()},
                }
            )
    return pd.DataFrame(rows)


GOOD = [*REFERENCES[:2], "a cat sleeps in the kitchen", "the girl opens the door"]
BAD = ["the farmer", "rain", "a dog", "girl window"]
RUNS = {
    (UNPATCHED, -1): BAD,
    **{("parallel", layer): GOOD if layer in (2, 3) else BAD for layer in range(6)},
    **{("random_item", layer): BAD[::-1] for layer in range(6)},
    **{("noise", layer): ["", "rain and snow", "a dog sleeps", ""] for layer in range(6)},
    **{("language=spa", layer): GOOD for layer in range(6)},
}


def test_intervals_draw_what_is_compared_together() -> None:
    found = analyse(table(RUNS), {"m": 6}, resamples=40, seed=3)
    name = "/".join(["m", "flores", "xx-en", "swh_Latn", "", "", "1"])
    drawn = np.random.default_rng([3, zlib.crc32(name.encode())]).multinomial(4, np.full(4, 0.25), 40)
    resamples = [np.repeat(np.arange(4), counts) for counts in drawn]

    def score(texts: list[str], chosen: Sequence[int]) -> float:
        references = [REFERENCES[k] for k in chosen]
        return sacrebleu.corpus_chrf([texts[k] for k in chosen], [references], word_order=2).score

    def interval(one: Callable[[Sequence[int]], float]) -> list[float]:
        return [one(range(4)), *np.percentile([one(chosen) for chosen in resamples], [2.5, 97.5])]

    effects = found["effects"].set_index(["condition", "layer"])
    contrasts = found["contrasts"].set_index(["control", "at", "layer"])
    columns = ["chrf_difference", "chrf_low", "chrf_high"]
    for condition, layer in (("parallel", 2), ("noise", 5)):
        own = RUNS[condition, layer]
        right = interval(lambda chosen, own=own: score(own, chosen) - score(BAD, chosen))  # type: ignore[misc]
        assert effects.loc[(condition, layer), columns].tolist() == pytest.approx(right)
    right = interval(lambda chosen: score(GOOD, chosen) - score(BAD[::-1], chosen))
    assert contrasts.loc[("random_item", "layer", 3), columns].tolist() == pytest.approx(right)
    # The middle third of six layers is 2, 3 and 4.
    noise = RUNS["noise", 2]
    right = interval(
        lambda chosen: (2 * score(GOOD, chosen) + score(BAD, chosen)) / 3 - score(noise, chosen),
    )
    middle = found["contrasts"][(found["contrasts"]["control"] == "noise") & (found["contrasts"]["at"] == MIDDLE)]
    assert middle[columns].iloc[0].tolist() == pytest.approx(right)
    treated = found["summary"].set_index("condition").loc["parallel"]
    assert (treated["best_layer"], treated["n"]) == (2, 4)
    assert treated["best"] == pytest.approx(score(GOOD, range(4)))
    # language=spa is better still, but it has the concept.
    assert treated["strongest_control"] == "noise"
    assert treated[["attributable", "attributable_low", "attributable_high"]].tolist() == pytest.approx(right)


def test_tables_of_several_runs() -> None:
    """A condition that was run at one layer only, and a sentence that some runs lack."""
    rows = table({key: texts for key, texts in RUNS.items() if key[0] != "noise" or key[1] == 3})
    rows = rows[~((rows["condition"] == "noise") & (rows["item_id"] == "2"))]
    found = analyse(pd.concat([rows, rows]), {"m": 6}, resamples=20)
    assert set(found["effects"]["n"]) == {3}
    noise = found["effects"][found["effects"]["condition"] == "noise"].set_index("layer")
    chosen = [0, 1, 3]
    own = [RUNS["noise", 3][k] for k in chosen]
    right = sacrebleu.corpus_chrf(own, [[REFERENCES[k] for k in chosen]], word_order=2).score
    assert noise.loc[3, "chrf"] == pytest.approx(right)
    assert math.isnan(noise.loc[2, "chrf"])
    treated = found["summary"].set_index("condition").loc["parallel"]
    assert treated["strongest_control"] == "random_item"
    assert analyse(rows.iloc[:0])["effects"].empty


def test_statistics_are_plain_numbers(job: tuple[Path, dict[str, Any]]) -> None:
    _, content = job
    json.dumps(content, allow_nan=False)
    assert "hypothesis" in TRANSLATIONS.names
