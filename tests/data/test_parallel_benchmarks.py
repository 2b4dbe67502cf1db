"""The shipped benchmarks of conf/task: the harness's prompts, what is left out, what is refused.

The files are small and have the columns of the hub's data sets; none is read from the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, compose, run_job, write_hub
from hydra.errors import MissingConfigException
from hydra.utils import instantiate

from align_pipeline.config.lang import Language, known_languages
from align_pipeline.config.messages import one_sentence
from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Declared
from align_pipeline.engine.loading import load
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.scoring import predict

Row = dict[str, Any]
LANGUAGES = {code: Language(**one) for code, one in known_languages().items()}
NAMES = ["afrimmlu", "afrixnli", "global_mmlu", "global_mmlu_lite", "global_piqa", "m_arc", "m_hellaswag", "m_mmlu"]
NAMES += ["mmlu_prox", "pawsx", "xcodah", "xcsqa", "xnli"]


def lettered(language: str, k: int) -> Row:
    return {f"option_{letter}": f"{language} {k}{letter}" for letter in "abcd"}


def mmlu(language: str, k: int) -> Row:
    return {"sample_id": f"a/test/{k}", "question": f" {language} {k}? ", **lettered(language, k)} | {
        "answer": "ABCD"[k % 4],
        "cultural_sensitivity_label": "CS",
    }


def okapi_mmlu(language: str, k: int) -> Row:
    return {"id": f"a/{k}", "instruction": f" {language} {k}? ", **lettered(language, k), "answer": "ABCD"[k % 4]}


def arc(language: str, k: int) -> Row:
    text = f" {language} it's  {k} [title] the [step] end "
    return {**okapi_mmlu(language, k), "instruction": text, "option_b": f'[header] "{k}"  b ', "option_e": None}


def hellaswag(language: str, k: int) -> Row:
    return {
        "ind": k,
        "source_id": "wikihow~1",
        "activity_label": f"{language} [title]",
        "ctx_a": f"it's {k} [title] A",
        "ctx_b": "THE [step] cat",
        "endings": [f"{language} {k}  'end' [x] {j}" for j in range(4)],
        "label": f"{k % 4}",
    }


def nli(language: str, k: int) -> Row:
    return {"premise": f'{language} isn\'t "{k}"', "hypothesis": f"{language} hypothesis {k}.", "label": k % 3}


def paws(language: str, k: int) -> Row:
    first = f'Is {language} {k} ( or " x " ) n\'t , so ?' if k % 2 else f" {language} {k} ends ."
    return {"id": k + 1, "sentence1": first, "sentence2": f"Big {language} , {k} .", "label": k % 2}


def afri_mmlu(language: str, k: int) -> Row:
    choices = str([f"{language}'s {k} {j}" for j in range(4)])
    return {"subject": "maths", "question": f"{language} {k}?", "choices": choices, "answer": "ABCD"[k % 4]}


def piqa(language: str, k: int) -> Row:
    return {"example_id": f"e{k}", "prompt": f"{language} {k}", "label": k % 4} | {
        f"solution{j}": f"{language} {k} {j}" for j in range(4)
    }


def csqa(language: str, k: int) -> Row:
    choices = {"label": list("ABCDE"), "text": [f"{language} {k} {j}" for j in range(5)]}
    return {"id": f"c{k}", "lang": language, "question": {"stem": f"{language} {k}?", "choices": choices}} | {
        "answerKey": "ABCDE"[k % 5]
    }


def codah(language: str, k: int) -> Row:
    choices = {"label": list("ABCD"), "text": [f"{language} {k} goes {j}." for j in range(4)]}
    return {"id": f"c{k}", "lang": language, "question_tag": "o", "question": {"stem": " ", "choices": choices}} | {
        "answerKey": "ABCD"[k % 4]
    }


def prox(language: str, k: int) -> Row:
    return {"question_id": k, "question": f"{language} {k}?", "category": "law", "answer": "ABCDEFGHIJ"[k % 10]} | {
        f"option_{j}": f"{language} {k} {j}" for j in range(10)
    }


# name -> rows, the language, the harness's file for a config, and what differs in it
Rows = Callable[[str, int], Row]
SETS: dict[str, tuple[Rows, str]] = {
    "afrimmlu": (afri_mmlu, "swh"),
    "afrixnli": (nli, "ewe"),
    "global_mmlu_lite": (mmlu, "swh"),
    "global_mmlu": (mmlu, "swh"),
    "global_piqa": (piqa, "zho_Hans"),
    "m_arc": (arc, "deu"),
    "m_hellaswag": (hellaswag, "deu"),
    "m_mmlu": (okapi_mmlu, "deu"),
    "mmlu_prox": (prox, "jpn"),
    "pawsx": (paws, "fra"),
    "xcodah": (codah, "jpn"),
    "xcsqa": (csqa, "jpn"),
    "xnli": (nli, "deu"),
}
FILES = {
    "afrimmlu": "afrimmlu/direct/prompt_1/afrimmlu_direct_{}.yaml",
    "afrixnli": "afrixnli/direct/prompt_1/afrixnli_{}.yaml",
    "global_mmlu_lite": "global_mmlu/default/{0}/_{0}_template_yaml",
    "global_piqa": "global_piqa/parallel_cloze/{}.yaml",
    "m_arc": "okapi/arc_multilingual/arc_{}.yaml",
    "m_hellaswag": "okapi/hellaswag_multilingual/hellaswag_{}.yaml",
    "m_mmlu": "okapi/mmlu_multilingual/m_mmlu_{}.yaml",
    "pawsx": "paws-x/paws_{}.yaml",
    "xnli": "xnli/xnli_{}.yaml",
}


def written(
    folder: Path, name: str, change: Callable[[str, str, list[Row]], None] | None = None
) -> tuple[Declared, Path]:
    """The task without few-shot examples, and a data folder with its English and its language's rows."""
    task = instantiate(compose(f"task={name}", "task.num_fewshot=0").task)
    rows, code = SETS[name]
    configs = {}
    for config in (task.pivot, task.codes[LANGUAGES[code].flores]):
        configs[config] = {
            split: [rows(f"{config} {split}", k) for k in range(7)] for split in {task.split, task.fewshot_split}
        }
        for split, found in configs[config].items():
            if change is not None:
                change(config, split, found)
    return task, write_hub(folder, task.dataset, configs)


def spec_of(name: str, base: Path, config: str, shots: int, folder: Path) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    task = compose(f"task={name}").task
    spec = load_yaml(Path(lm_eval.__file__).parent / "tasks" / FILES[name].format(config))
    splits = {"training_split": None, "validation_split": None, "test_split": task["split"]}
    return (
        spec
        | splits
        | {
            "task": f"{name}_{config}",
            "dataset_path": str(base),
            "dataset_name": config,
            "dataset_kwargs": {"cache_dir": str(folder / "cache")},
            "num_fewshot": shots,
            "fewshot_split": task["fewshot_split"],
            "fewshot_config": {"sampler": "first_n"},
            "metric_list": [{"metric": "acc"}],
        }
    )


@pytest.mark.parametrize("name", FILES)
def test_prompts_are_those_of_the_harness(name: str, tmp_path: Path) -> None:
    from lm_eval.api.task import ConfigurableTask

    task, base = written(tmp_path, name)
    language = LANGUAGES[SETS[name][1]]
    for shots in (0,) if task.fewshot_split == task.split else (0, 2):
        ours = instantiate(compose(f"task={name}", f"task.num_fewshot={shots}").task)
        (pair,) = ours.pairs([language], Source(str(tmp_path)))
        assert len(pair.ids) == 7
        assert not pair.left_out
        for side, config in ((pair.english, task.pivot), (pair.language, task.codes[language.flores])):
            if config == "en" and name in ("m_arc", "m_hellaswag"):
                continue  # the harness has no English task on this data set
            theirs = ConfigurableTask(config=spec_of(name, base, config, shots, tmp_path))
            for item, document in zip(side.items, theirs.test_docs(), strict=True):
                assert item.prompt == str(theirs.fewshot_context(document, shots))
                choices = theirs.doc_to_choice(document)
                assert list(item.continuations) == [f"{theirs.config.target_delimiter}{one}" for one in choices]
                gold = theirs.doc_to_target(document)
                assert item.gold == (gold if isinstance(gold, int) else choices.index(gold))


@pytest.mark.parametrize(("name", "shots"), [("xnli", 2), ("pawsx", 0)])
def test_log_likelihoods_are_those_of_the_harness(name: str, shots: int, tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    task, base = written(tmp_path, name)
    language = LANGUAGES[SETS[name][1]]
    lm = load(ModelConfig(name="tiny", path="embedded:tiny", dtype=Dtype.float32))
    model = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4)
    ours = instantiate(compose(f"task={name}", f"task.num_fewshot={shots}").task)
    (pair,) = ours.pairs([language], Source(str(tmp_path)))
    found = predict(lm, pair.language.items[:3], 4096, lambda n: None)
    spec = spec_of(name, base, task.codes[language.flores], shots, tmp_path)
    result = lm_eval.simple_evaluate(model, tasks=[spec], limit=3, bootstrap_iters=0)
    samples = sorted(result["samples"][spec["task"]], key=lambda sample: sample["doc_id"])
    for one, sample in zip(found, samples, strict=True):
        assert one.loglikelihoods == pytest.approx([float(pair[0]) for pair in sample["filtered_resps"]], abs=1e-3)


def test_mmlu_prox_has_the_questions_of_the_harness_and_its_answer_phrase(tmp_path: Path) -> None:
    from lm_eval.tasks.mmlu_prox.ja import utils
    from lm_eval.tasks.mmlu_prox.lang_libs import LANG_LIBS

    task, _ = written(tmp_path, "mmlu_prox")
    (pair,) = task.pairs([LANGUAGES["jpn"]], Source(str(tmp_path)))
    for k, item in enumerate(pair.language.items):
        theirs = utils.doc_to_text(prox("ja test", k)).removesuffix(LANG_LIBS["ja"][2])
        assert item.prompt.startswith(theirs)
        letters = [item.prompt.removeprefix(theirs) + text for text in item.continuations]
        assert letters == [LANG_LIBS["ja"][5].format(letter) for letter in "ABCDEFGHIJ"]
        assert item.gold == k
    assert set(task.words) == {"en", *task.codes.values()}


def test_xcsqa_has_the_english_prompt_of_the_harness(tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml
    from lm_eval.utils import apply_template

    spec = load_yaml(Path(lm_eval.__file__).parent / "tasks/commonsense_qa/default.yaml")
    task, _ = written(tmp_path, "xcsqa")
    (pair,) = task.pairs([LANGUAGES["jpn"]], Source(str(tmp_path)))
    for k, item in enumerate(pair.language.items):
        question = csqa("X-CSQA-jap validation", k)["question"]
        flat = {"question": question["stem"], "choices": question["choices"]}
        assert item.prompt == apply_template(spec["doc_to_text"], flat)
        assert item.continuations == tuple(f" {letter}" for letter in spec["doc_to_choice"])
        assert (item.gold, item.answers) == (k % 5, tuple(question["choices"]["text"]))


def test_xcodah_scores_whole_texts(tmp_path: Path) -> None:
    task, _ = written(tmp_path, "xcodah")
    (pair,) = task.pairs([LANGUAGES["jpn"]], Source(str(tmp_path)))
    item = pair.language.items[2]
    texts = tuple(f"X-CODAH-jap validation 2 goes {j}." for j in range(4))
    assert (item.prompt, item.continuations, item.options, item.gold) == ("", texts, texts, 2)
    assert task.offers == {"options"}
    content = run_job(tmp_path / "run", "task=xcodah", f"data={tmp_path}", "lang=jpn")
    assert set(content["languages"][0]["metrics"]) == {"dali", "dali_strong"}
    with pytest.raises(InputError, match="mexa_t"):
        run_job(tmp_path / "other", "task=xcodah", f"data={tmp_path}", "lang=jpn", "metric=[mexa_t]")


# ---- the harness's own files

FAMILY = ["task=harness", "task.name=nli", "task.family=xnli", "task.id=null", "+task.codes.deu_Latn=de"]
FAMILY += ["task.premise='{{premise}} {{hypothesis}}'", "task.option='{{answer_text}}'"]


@pytest.mark.parametrize("shots", [0, 2])
def test_a_family_of_the_harness_reads_its_own_files(shots: int, tmp_path: Path) -> None:
    written(tmp_path, "xnli")
    source, language = Source(str(tmp_path)), [LANGUAGES["deu"]]
    (theirs,) = instantiate(compose(*FAMILY, f"task.num_fewshot={shots}").task).pairs(language, source)
    (ours,) = instantiate(compose("task=xnli", f"task.num_fewshot={shots}").task).pairs(language, source)
    assert theirs == ours
    if shots == 0:
        content = run_job(tmp_path / "run", *FAMILY, f"data={tmp_path}", "lang=deu", "task.limit=4")
        assert (content["task"], content["languages"][0]["n"]) == ("nli", 4)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("okapi/arc_multilingual", r"arc_ar\.yaml of the harness sets process_docs with .* utils\.process_docs; only"),
        ("afrimmlu/direct/prompt_1", "sets doc_to_text with the Python function utils.doc_to_text"),
        ("mmlu_prox/sw", "has no multiple-choice task"),
        ("nothing", "task.family=nothing is neither a folder in"),
    ],
)
def test_families_that_cannot_be_read(family: str, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        instantiate(compose("task=harness", f"task.family={family}").task)


# ---- what is left out


def left_out(folder: Path, name: str, change: Callable[[str, str, list[Row]], None], *more: str) -> tuple[int, Any]:
    """How many items are paired, and what is left out, by reason."""
    written(folder, name, change)
    task = instantiate(compose(f"task={name}", "task.num_fewshot=0", *more).task)
    (pair,) = task.pairs([LANGUAGES[SETS[name][1]]], Source(str(folder)))
    return len(pair.ids), pair.left_out


def test_pawsx_leaves_out_empty_sentences_and_other_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(config: str, split: str, rows: list[Row]) -> None:
        if config == "fr":
            rows[0]["sentence1"] = "NS"
            rows[1]["sentence2"] = ""
            rows[2]["label"] = 1 - rows[2]["label"]
        else:
            rows[1]["sentence1"] = " "
            rows[3]["sentence1"] = None

    expected = {
        "an empty sentence or NS in English": 2,
        "an empty sentence or NS in fra_Latn": 1,
        "another right answer than in English": 1,
    }
    assert left_out(tmp_path, "pawsx", change) == (3, expected)
    assert "fra_Latn: 1 items are not paired and left out: an empty sentence or NS in fra_Latn" in caplog.text
    # Of the first three usable English items, one is empty in French and one has another label.
    assert left_out(tmp_path, "pawsx", change, "task.limit=3") == (
        1,
        {"an empty sentence or NS in fra_Latn": 1, "another right answer than in English": 1},
    )
    content = run_job(tmp_path / "run", "task=pawsx", f"data={tmp_path}", "lang=fra")
    assert content["languages"][0]["left_out"] == expected


def test_items_with_another_number_of_options_are_left_out(tmp_path: Path) -> None:
    def fewer(config: str, split: str, rows: list[Row]) -> None:
        rows[4] |= dict.fromkeys([f"option_{j}" for j in range(6, 10)])
        rows[4]["answer"] = "B"
        if config == "ja":
            rows[5]["option_2"] = ""

    both = {"not 10 options with text in English": 1, "not 10 options with text in jpn_Jpan": 1}
    assert left_out(tmp_path, "mmlu_prox", fewer) == (5, both)

    def empty(config: str, split: str, rows: list[Row]) -> None:
        if config == "X-CSQA-jap":
            rows[1]["question"]["choices"]["text"][4] = ""
            rows[2]["question"]["choices"]["text"][0] = ""

    assert left_out(tmp_path, "xcsqa", empty) == (5, {"not 5 options with text in jpn_Jpan": 2})


def test_rows_that_a_language_lacks_are_counted(tmp_path: Path) -> None:
    def change(config: str, split: str, rows: list[Row]) -> None:
        if config == "de":
            del rows[3]
            rows[0]["instruction"] = None

    expected = {"no question in deu_Latn": 1, "missing in deu_Latn": 1}
    assert left_out(tmp_path, "m_arc", change) == (5, expected)


def test_rows_are_paired_by_number_only_if_there_are_as_many(tmp_path: Path) -> None:
    def change(config: str, split: str, rows: list[Row]) -> None:
        if config == "de":
            del rows[3]

    with pytest.raises(InputError, match="xnli pairs rows by number, but deu_Latn has 6 rows and English 7"):
        left_out(tmp_path, "xnli", change)


def test_a_blind_split_is_refused(tmp_path: Path) -> None:
    def change(config: str, split: str, rows: list[Row]) -> None:
        for row in rows:
            row["answerKey"] = ""

    with pytest.raises(InputError, match=r"X-CSQA-en, validation\) has no right answers \(answerKey is empty"):
        left_out(tmp_path, "xcsqa", change)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("task=include", "task=include is not available: INCLUDE has other questions in each language"),
        ("task=xwinograd", "XWinograd has other sentences in each language"),
        ("task=mmmlu", "MMMLU has neither ids nor an English version; use task=global_mmlu"),
    ],
)
def test_what_is_not_parallel_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(MissingConfigException) as caught:
        compose(override)
    assert sentence in str(one_sentence(caught.value))


@pytest.mark.parametrize("dataset", ["CohereForAI/include-base-44", "Muennighoff/xwinograd", "openai/MMMLU"])
def test_a_data_set_that_is_not_parallel_is_refused(dataset: str) -> None:
    with pytest.raises(Exception, match="cannot be used: "):
        instantiate(compose("task=choice", f"task.dataset={dataset}").task)


def test_words_of_a_language_are_required(tmp_path: Path) -> None:
    written(tmp_path, "xnli")
    task = instantiate(compose("task=xnli", "~task.words.de").task)
    with pytest.raises(InputError, match=r"xnli has no words for de; set task\.words\.de"):
        task.pairs([LANGUAGES["deu"]], Source(str(tmp_path)))


# ---- languages


@pytest.mark.parametrize("name", NAMES)
def test_the_set_of_languages_is_the_tasks(name: str) -> None:
    task = compose(f"task={name}").task
    by_flores = {one.flores: code for code, one in LANGUAGES.items()}
    assert task["codes"].keys() <= by_flores.keys()
    assert len(set(task["codes"].values())) == len(task["codes"])
    members = yaml.safe_load((REPOSITORY / f"conf/lang/set/{name}.yaml").read_text())["defaults"][0]["/lang"]
    assert members == sorted(by_flores[flores] for flores in task["codes"])
    assert task.get("words", {}).keys() in ({}.keys(), {task["pivot"], *task["codes"].values()})


def test_every_benchmark_is_covered() -> None:
    assert sorted(SETS) == sorted(NAMES)
