"""Translation: generation against `model.generate`, scores against sacrebleu, prompts byte for byte, bad input."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import compose, random_model, run_job, tokenizer, write_hub
from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.config.lang import Language
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Flores, Translation
from align_pipeline.engine.generation import greedy
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError
from align_pipeline.measurements.translation.language_id import LABELS, off_target
from align_pipeline.measurements.translation.scores import corpus_scores, counts, sentence_scores
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.measurements.translation.translate import Hypotheses, translate

BEGINNING = "English: The dog sleeps.\nSpanish: El perro duerme.\n\n"
SOURCES = [
    "The old farmer carried a basket of maize to the market before sunrise.",
    "Rain.",
    "Why did the teacher close the window?",
    "A girl reads a book in the kitchen, and the dog sleeps.",
    "The rain was coming in.",
]
PROMPTS = [f"{BEGINNING}English: {source}\nSpanish:" for source in SOURCES]


def language_model(architecture: str, **changes: Any) -> LanguageModel:
    return wrap(random_model(architecture, **changes), tokenizer(), "random")


def one_by_one(lm: LanguageModel, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """The oracle: transformers' own greedy decoding, a prompt at a time."""
    outputs = []
    for prompt in prompts:
        given_ids = torch.tensor([prompt])
        with torch.no_grad():
            found = lm.model.generate(
                given_ids,
                attention_mask=torch.ones_like(given_ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(lm.line_ends),
                pad_token_id=1,
            )
        outputs.append(found[0, len(prompt) :].tolist())
    return outputs


# ---- generation

LLAMA = language_model("llama")
LLAMA.line_ends = frozenset(range(0, 400, 11))


SLIDING = ["mistral-sliding", "gemma2", "gemma3", "qwen2-sliding", "phi3-sliding", "cohere2"]
"""Models with attention windows of 16 tokens; the prompts are longer."""


@pytest.mark.parametrize("architecture", ["llama", "mistral", *SLIDING, "qwen2", "cohere", "bloom"])
def test_greedy_equals_generate(architecture: str) -> None:
    lm = language_model(architecture)
    prompts = lm.encode(PROMPTS)
    lm.line_ends = frozenset({1})
    free = one_by_one(lm, prompts, 24)
    lm.line_ends = frozenset({free[0][5], free[3][12]})  # a random model hardly ever ends a line by itself
    expected = one_by_one(lm, prompts, 24)
    assert len({len(output) for output in expected}) > 1, "rows that end at different steps are what can go wrong"
    for batch_tokens in (1, 200, 400, 10**6):
        assert greedy(lm, prompts, 24, batch_tokens) == expected, batch_tokens


@pytest.mark.parametrize("architecture", ["llama", *SLIDING])
def test_prompts_of_different_lengths_run_together(architecture: str) -> None:
    lm = language_model(architecture)
    prompts = lm.encode(PROMPTS)
    assert min(map(len, prompts)) > 16
    assert len({len(prompt) for prompt in prompts}) > 1
    batches: list[int] = []
    greedy(lm, prompts, 3, None, batches.append)
    assert batches == [len(prompts)]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(2, 399), min_size=1, max_size=12), min_size=1, max_size=6),
    st.lists(st.integers(2, 399), max_size=8),
    st.integers(1, 200),
)
def test_any_prompts_in_any_batches(rests: list[list[int]], beginning: list[int], batch_tokens: int) -> None:
    """Without a common beginning, with equal prompts, with prompts that others begin with."""
    lm = LLAMA
    prompts = [beginning + rest for rest in rests]
    assert greedy(lm, prompts, 6, batch_tokens) == one_by_one(lm, prompts, 6)


def test_common_beginning_runs_once() -> None:
    lm = language_model("llama")
    lm.line_ends = frozenset(range(400))  # every translation is one token
    prompts = lm.encode(PROMPTS)
    common = len(lm.encode([BEGINNING + "English:"])[0])
    assert all(prompt[:common] == prompts[0][:common] for prompt in prompts)
    greedy(lm, prompts, 5, 10**6)
    assert lm.tokens_run == common + sum(len(prompt) - common for prompt in prompts)


def test_line_ends() -> None:
    lm = language_model("llama")
    texts = {token: lm.tokenizer.decode([token]) for token in range(400)}
    assert lm.line_ends == {token for token, text in texts.items() if "\n" in text} | {lm.tokenizer.eos_token_id}
    assert len(lm.line_ends) > 1
    lm = language_model("llama")
    lm.model.generation_config.eos_token_id = [5, 6]
    assert {1, 5, 6} <= lm.line_ends


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_others_go_on_where_the_context_ends_for_one(architecture: str) -> None:
    """The finished row stays in the batch, where a learned position after the last does not exist (OPT)."""
    lm = language_model(architecture, max_position_embeddings=64)
    lm.line_ends = frozenset({1})
    prompts = [list(range(2, 62)), *(list(range(5 + k, 45 + k)) for k in range(5))]
    longest = [lm.max_length - len(prompt) + 1 for prompt in prompts]
    expected = [one_by_one(lm, [prompt], more)[0] for prompt, more in zip(prompts, longest, strict=True)]
    assert [len(output) for output in expected] == longest
    assert greedy(lm, prompts, 50, None) == expected


def test_context_ends_a_translation() -> None:
    lm = language_model("llama")
    lm.line_ends = frozenset()
    prompts = lm.encode(PROMPTS)
    lm.max_length = max(map(len, prompts)) + 2
    found = greedy(lm, prompts, 10, 10**6)
    assert [len(output) for output in found] == [min(10, lm.max_length - len(prompt) + 1) for prompt in prompts]
    assert [o[:3] for o in found] == one_by_one(lm, prompts, 3)


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are halved until they fit; a row that does not fit by itself is an error."""
    lm = language_model("llama")
    prompts = lm.encode(PROMPTS)
    expected = greedy(lm, prompts, 6, 10**6)
    forward, room = lm.model.forward, 2

    @functools.wraps(forward)
    def limited(*arguments: Any, **keywords: Any) -> Any:
        if len(keywords["input_ids"]) > room:
            raise torch.OutOfMemoryError
        return forward(*arguments, **keywords)

    monkeypatch.setattr(lm.model, "forward", limited)
    done: list[int] = []
    assert greedy(lm, prompts, 6, 10**6, done.append) == expected
    assert sum(done) == len(prompts)
    assert max(done) <= room
    room = 0
    with pytest.raises(InputError, match="cpu has too little memory"):
        greedy(lm, prompts, 6, 10**6)


def test_logits_that_are_not_finite() -> None:
    lm = language_model("llama")
    with torch.no_grad():
        lm.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        greedy(lm, lm.encode(PROMPTS), 3, 10**6)


# ---- texts


def translation(**changes: Any) -> Translation:
    texts = ("Rain.", "A dog.", "Snow.", "Uno")
    values: dict[str, Any] = {
        "direction": "en-xx",
        "language": "spa_Latn",
        "target": "spa_Latn",
        "ids": ("0", "1", "2", "3"),
        "sources": texts,
        "references": ("Lluvia.", "Un perro.", "Nieve.", "Uno"),
        "prompts": tuple(f"English: {text}\nSpanish:" for text in texts),
        "ending": "\nSpanish:",
    }
    return Translation(**(values | changes))


def test_translations_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model("llama")
    said = [" Lluvia. \nEnglish: more", "\n", " El perro", " Sí"]
    ends: list[list[int]] = [[], [], [], [lm.tokenizer.eos_token_id]]
    tokens = [
        lm.tokenizer(text, add_special_tokens=False)["input_ids"] + end for text, end in zip(said, ends, strict=True)
    ]
    newline = next(k for k, token in enumerate(tokens[0]) if token in lm.line_ends)
    tokens[0] = tokens[0][: newline + 1]
    monkeypatch.setattr("align_pipeline.measurements.translation.translate.greedy", lambda *arguments: tokens)
    found = translate(lm, translation(), 10, 100)
    assert found.texts == ("Lluvia.", "", "El perro", "Sí")
    assert found.cut_off == (False, False, True, False)


def test_a_prompt_too_long() -> None:
    lm = language_model("llama")
    lm.max_length = 30
    with pytest.raises(InputError, match=r"sentence 1 has \d+ tokens, more than the limit of 30"):
        translate(lm, translation(prompts=("a", "word " * 40, "b", "c")), 5, 100)


@given(st.lists(st.tuples(st.text(), st.booleans()), min_size=1))
def test_hypotheses_survive_the_cache(rows: list[tuple[str, bool]]) -> None:
    rows = [(text.encode("utf-8", "ignore").decode(), cut) for text, cut in rows]
    made = Hypotheses(tuple(text for text, _ in rows), tuple(cut for _, cut in rows))
    assert Hypotheses.from_tensors(made.tensors()) == made


def test_counts() -> None:
    made = Hypotheses(("", "A dog.", "Nieve.", "Uno"), (True, False, False, True))
    found = counts(translation(), made)
    assert {k: found[k] for k in ("n", "empty", "copies", "cut_off")} == {"n": 4, "empty": 1, "copies": 1, "cut_off": 2}


def test_off_target() -> None:
    py3langid = pytest.importorskip("py3langid", reason="the extra langid is not installed")
    assert set(LABELS.values()) <= {label for label, _ in py3langid.rank("text")}
    spanish = "El viejo granjero llevó una cesta de maíz al mercado antes del amanecer."
    english = "The old farmer carried a basket of maize to the market before sunrise."
    made = Hypotheses((spanish, english, "", spanish), (False,) * 4)
    found = counts(translation(references=(spanish,) * 3 + (english,)), made)
    assert (found["off_target"], found["off_target_references"]) == (1, 1)
    assert counts(translation(target="eng_Latn"), made)["off_target"] == 2
    for target in ("bod_Tibt", "arb_Latn", "hin_Latn"):
        assert off_target([spanish], target) is None


def test_off_target_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align_pipeline.measurements.translation.language_id.find_spec", lambda name: None)
    found = counts(translation(), Hypotheses(("a", "b", "c", "d"), (False,) * 4))
    assert found["off_target"] is None


# ---- scores

REFERENCES = ["El granjero llevó maíz al mercado.", "La lluvia entraba.", "El perro duerme en la cocina.", "Sí."]
HYPOTHESES = ["El granjero lleva el maíz al mercado.", "", "La niña duerme en la cocina.", "Sí."]


def test_scores_are_sacrebleus() -> None:
    import sacrebleu

    found = corpus_scores(HYPOTHESES, REFERENCES, "spa_Latn")
    assert found["bleu"]["score"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert found["chrf"]["score"] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2).score
    assert "tok:13a" in found["bleu"]["signature"]
    assert "nw:2" in found["chrf"]["signature"]
    assert "low" not in found["chrf"]
    sentences = sentence_scores(HYPOTHESES, REFERENCES, "spa_Latn")
    for hypothesis, reference, bleu, chrf in zip(
        HYPOTHESES, REFERENCES, sentences["bleu"], sentences["chrf"], strict=True
    ):
        assert bleu == sacrebleu.sentence_bleu(hypothesis, [reference]).score
        assert chrf == sacrebleu.sentence_chrf(hypothesis, [reference], word_order=2).score
    assert sentences["chrf"][3] == pytest.approx(100)


def test_intervals_are_sacrebleus() -> None:
    from sacrebleu.metrics import CHRF

    hypotheses = [hypothesis or "La" for hypothesis in HYPOTHESES]
    found = corpus_scores(hypotheses, REFERENCES, "spa_Latn", resamples=50)["chrf"]
    score = CHRF(word_order=2).corpus_score(hypotheses, [REFERENCES], n_bootstrap=50)
    assert f"μ = {found['mean']:.2f} ± {(found['high'] - found['low']) / 2:.2f}" in score.format()
    assert "bs:50" in found["signature"]


@pytest.mark.parametrize("hypotheses", [["", "", ""], ["", "", "Sí."], ["x", "", "y"]])
def test_intervals_of_empty_translations(hypotheses: list[str]) -> None:
    """sacrebleu itself fails where some resamples hold nothing."""
    found = corpus_scores(hypotheses, REFERENCES[1:], "spa_Latn", resamples=50)
    for score in found.values():
        assert score["low"] <= score["mean"] <= score["high"]


@pytest.mark.parametrize(("target", "words"), [("zho_Hans", "zh"), ("tha_Thai", "char"), ("jpn_Jpan", "char")])
def test_bleu_of_scripts_without_spaces(target: str, words: str) -> None:
    import sacrebleu

    hypothesis, reference = ["我喜欢吃苹果和梨"], ["我喜欢吃苹果或梨"]
    found = corpus_scores(hypothesis, reference, target)["bleu"]
    assert f"tok:{words}" in found["signature"]
    assert found["score"] == sacrebleu.corpus_bleu(hypothesis, [reference], tokenize=words).score > 0


def test_spbleu_is_left_out_with_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from align_pipeline.measurements.translation import scores

    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(scores, "find_spec", lambda name: None)
    assert "sentencepiece" in str(scores.spbleu_missing())
    monkeypatch.setattr(scores, "find_spec", lambda name: object())
    missing = scores.spbleu_missing()
    assert missing is not None
    assert str(tmp_path) in missing
    assert "spbleu" not in corpus_scores(["a"], ["a"], "spa_Latn")


# ---- items and prompts

SWAHILI = Language("Swahili", "Latn", "Niger-Congo", 2, "swh_Latn", {"flores": "swh_Latn"})
ESTONIAN = Language("Estonian", "Latn", "Uralic", 3, "est_Latn", {"flores": "ekk_Latn"})
ROMANISED = Language("Hindi (romanised)", "Latn", "Indo-European", 4, "hin_Latn", {"belebele": "hin_Latn"})
DATASET = "openlanguagedata/flores_plus"


def rows(language: str, count: int, **changed: Any) -> list[dict[str, Any]]:
    made = [{"id": k, "text": f" {language} sentence {k}. "} for k in range(count)]
    for place, value in changed.items():
        made[int(place[1:])].update(value)
    return made


def task(**changes: Any) -> Flores:
    values = {"pivot": "eng_Latn", "num_fewshot": 2} | changes
    return Flores("flores", DATASET, "devtest", "dev", **values)


def source(folder: Path, **sides: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> Source:
    write_hub(folder, DATASET, {name: {"dev": dev, "devtest": test} for name, (dev, test) in sides.items()})
    return Source(str(folder))


def both(folder: Path, language: Language = SWAHILI, config: str = "swh_Latn", **changed: Any) -> Source:
    sides = {"eng_Latn": (rows("English", 3), rows("English", 4)), config: (rows("X", 3), rows("X", 4, **changed))}
    return source(folder, **sides)


def test_the_prompt_byte_for_byte(tmp_path: Path) -> None:
    data = both(tmp_path)
    flores = task()
    out, into = flores.translations(flores.pairs([SWAHILI], data), [SWAHILI], data)["swh_Latn"]
    assert out.prompts[3] == (
        "English: English sentence 0.\nSwahili: X sentence 0.\n\n"
        "English: English sentence 1.\nSwahili: X sentence 1.\n\n"
        "English: English sentence 3.\nSwahili:"
    )
    assert into.prompts[2] == (
        "Swahili: X sentence 0.\nEnglish: English sentence 0.\n\n"
        "Swahili: X sentence 1.\nEnglish: English sentence 1.\n\n"
        "Swahili: X sentence 2.\nEnglish:"
    )
    assert (out.direction, out.target, out.ids) == ("en-xx", "swh_Latn", ("0", "1", "2", "3"))
    assert (into.direction, into.target, into.language) == ("xx-en", "eng_Latn", "swh_Latn")
    assert (out.sources[1], out.references[1]) == ("English sentence 1.", "X sentence 1.")
    assert (into.sources[1], into.references[1]) == ("X sentence 1.", "English sentence 1.")


def test_directions_limit_and_no_examples(tmp_path: Path) -> None:
    data = both(tmp_path)
    flores = task(direction="xx-en", limit=2, num_fewshot=0)
    (into,) = flores.translations(flores.pairs([SWAHILI], data), [SWAHILI], data)["swh_Latn"]
    assert into.prompts == ("Swahili: X sentence 0.\nEnglish:", "Swahili: X sentence 1.\nEnglish:")


@pytest.mark.parametrize("config", ["ekk_Latn", "est_Latn"])
def test_a_language_under_its_new_or_old_name(tmp_path: Path, config: str) -> None:
    data = both(tmp_path, ESTONIAN, config)
    (kept,) = task().supported([ESTONIAN], data, {"est_Latn"})
    assert [pair.language.language for pair in task().pairs([kept], data)] == ["est_Latn"]


def test_the_hub_has_the_new_name() -> None:
    assert task().config_of(ESTONIAN, None) == "ekk_Latn"
    assert task().config_of(ROMANISED, None) is None
    assert task().config_of(ROMANISED, {"hin_Latn"}) is None


def test_a_language_without_data(tmp_path: Path) -> None:
    data = both(tmp_path)
    with pytest.raises(InputError, match="no Estonian"):
        task().supported([ESTONIAN], data, {"est_Latn"})
    assert task().supported([ESTONIAN, SWAHILI], data, set()) == [SWAHILI]


@pytest.mark.parametrize("text", ["", "  \t", "\u3000", "one line\nanother", None])
def test_sentences_that_are_none(tmp_path: Path, text: object) -> None:
    with pytest.raises(InputError, match=r"swh_Latn/devtest\.jsonl, line 3: text"):
        task().pairs([SWAHILI], both(tmp_path, _2={"text": text}))


def test_unequal_numbers_of_sentences(tmp_path: Path) -> None:
    english = (rows("English", 3), rows("English", 4))
    fewer = source(tmp_path / "fewer", eng_Latn=english, swh_Latn=(rows("X", 3), rows("X", 3)))
    with pytest.raises(InputError, match=r"swh_Latn \(3\) and eng_Latn \(4\): 1 missing in swh_Latn"):
        task().pairs([SWAHILI], fewer)
    more = source(tmp_path / "more", eng_Latn=english, swh_Latn=(rows("X", 3), rows("X", 6)))
    with pytest.raises(InputError, match="2 missing in English"):
        task().pairs([SWAHILI], more)
    assert len(task(limit=2).pairs([SWAHILI], more)[0].ids) == 2
    shots = source(tmp_path / "shots", eng_Latn=english, swh_Latn=(rows("X", 1), rows("X", 4)))
    with pytest.raises(InputError, match="dev\\) has no sentence 1"):
        task().translations(task().pairs([SWAHILI], shots), [SWAHILI], shots)
    with pytest.raises(InputError, match="has 3 sentences, too few for task.num_fewshot=5"):
        task(num_fewshot=5).translations(task().pairs([SWAHILI], shots), [SWAHILI], shots)


def test_repeated_sentences(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = both(tmp_path, _1={"text": "Again."}, _3={"text": "Again. "})
    task().pairs([SWAHILI], data)
    assert "swh_Latn: 2 sentences occur more than once (ids 1, 3)" in caplog.text
    with pytest.raises(InputError, match="the id 1 twice"):
        task().pairs([SWAHILI], both(tmp_path / "ids", _2={"id": 1}))


def test_a_gated_data_set_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise DatasetNotFoundError("Dataset 'openlanguagedata/flores_plus' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match=f"{DATASET} is gated on the hub: accept its terms"):
        task().pairs([SWAHILI], Source("hub"))


@pytest.mark.parametrize(
    "wrong", [{"direction": "en-en"}, {"max_new_tokens": 0}, {"resamples": 1}, {"num_fewshot": -1}, {"limit": 0}]
)
def test_wrong_keys(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"task.{next(iter(wrong))}="):
        task(**wrong)


# ---- jobs


def flores_job(folder: Path, model_folder: Path, *overrides: str) -> Any:
    return run_job(
        folder,
        *("task=flores", "lang=[swh]", "task.num_fewshot=2", "task.limit=6", "task.max_new_tokens=8"),
        *("model=custom", f"model.path={model_folder}", "model.name=random", "model.dtype=float32", "data=embedded"),
        *("task.resamples=10", *overrides),
    )


def test_a_job_and_its_second_run_without_a_model(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = f"cache={tmp_path / 'cache'}"
    content = flores_job(tmp_path / "one", model_folder, cache)
    table = pd.read_parquet(tmp_path / "one" / "translations.parquet")
    assert list(table) == TRANSLATIONS.names
    assert len(table) == 12
    lm = wrap(random_model(), tokenizer(), "random")
    config = compose("task=flores", "lang=[swh]")
    flores = task(limit=6)
    data = Source("embedded")
    languages = [config.languages["swh"]]
    for one in flores.translations(flores.pairs(languages, data), languages, data)["swh_Latn"]:
        found = table[table["direction"] == one.direction]
        expected = one_by_one(lm, lm.encode(one.prompts), 8)
        texts = [lm.tokenizer.decode(o, skip_special_tokens=True).split("\n")[0].strip() for o in expected]
        assert found["hypothesis"].tolist() == texts
        assert found["reference"].tolist() == list(one.references)
        assert found["source"].tolist() == list(one.sources)
        row = content["languages"][0]["translation"][one.direction]
        scores = corpus_scores(texts, one.references, one.target, 10)
        assert row["chrf"] == scores["chrf"]
        assert row["bleu"] == scores["bleu"]
        assert row["cut_off"] == found["cut_off"].sum()
        copied = corpus_scores(one.sources, one.references, one.target)
        assert row["copied_source"]["chrf"] == copied["chrf"]["score"]

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("align_pipeline.measurements.base.load", refuse)
    again = flores_job(tmp_path / "two", model_folder, cache, "batch_tokens=77")
    assert (tmp_path / "two" / "translations.parquet").read_bytes() == (
        tmp_path / "one" / "translations.parquet"
    ).read_bytes()
    assert again["languages"] == content["languages"]
    with pytest.raises(AssertionError, match="the model was loaded"):
        flores_job(tmp_path / "three", model_folder, cache, "task.max_new_tokens=9")


@pytest.mark.parametrize("pooling", ["weighted", "last"])
def test_mexa_equals_a_literal_loop(tmp_path: Path, model_folder: Path, pooling: str) -> None:
    english = [f"The {animal} sleeps." for animal in ("dog", "cat", "cow", "dog", "old farmer")]
    swahili = [f"{animal} analala." for animal in ("Mbwa", "Paka", "Ng'ombe", "Mbwa mzee", "Mkulima")]
    sides = {
        config: ([], [{"id": k, "text": text} for k, text in enumerate(texts)])
        for config, texts in (("eng_Latn", english), ("swh_Latn", swahili))
    }
    write_hub(tmp_path / "data", DATASET, {name: {"devtest": test} for name, (_, test) in sides.items()})
    folder = tmp_path / "job"
    flores_job(folder, model_folder, f"data={tmp_path / 'data'}", "evaluate=false", f"metrics.mexa.pooling={pooling}")
    table = pd.read_parquet(folder / "alignment.parquet")
    assert set(zip(table["metric"], table["pooling"], strict=True)) == {("mexa", pooling)}
    model, encode = random_model(), tokenizer()

    def states(text: str) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(**encode(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        layers = torch.stack(hidden)[:, 0]
        weights = torch.arange(1, layers.shape[1] + 1).float()
        return layers[:, -1] if pooling == "last" else (layers * weights[:, None]).sum(1) / weights.sum()

    e, x = [states(text) for text in english], [states(text) for text in swahili]
    for layer in range(len(e[0])):
        s = [[torch.cosine_similarity(a[layer], b[layer], dim=0).item() for b in x] for a in e]
        for i in range(len(english)):
            others = [s[i][j] for j in range(5) if j != i] + [s[j][i] for j in range(5) if j != i]
            row = table[(table["layer"] == layer) & (table["item_id"] == str(i))].iloc[0]
            assert row["margin"] == pytest.approx(s[i][i] - max(others), abs=1e-5)
            if i in (0, 3):  # the same English sentence twice: a tie, whatever rounding says
                assert row["value"] == 0
            elif abs(s[i][i] - max(others)) > 1e-5:
                assert row["value"] == (s[i][i] > max(others))


def test_a_metric_that_the_task_has_no_texts_for(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"metric=dali compares options, but flores only has sentences; use metric=\[mexa\]"
    ):
        flores_job(tmp_path, model_folder, "metric=[dali]")
    with pytest.raises(InputError, match="metric=mexa compares sentences, but belebele only has options and premises"):
        run_job(tmp_path, "task=belebele", "metric=[mexa]")


def test_a_task_chooses_its_metric() -> None:
    assert list(compose("task=flores").metrics) == ["mexa"]
    assert list(compose("task=belebele").metrics) == ["dali", "dali_strong", "mexa_t"]
    assert list(compose("task=flores", "metric=[dali]").metrics) == ["dali"]
