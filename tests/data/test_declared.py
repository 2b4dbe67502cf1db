"""Benchmarks that a config describes: own files in every format, the harness's prompts, bad rows by place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import compose, run_job, write_hub
from hydra.utils import instantiate

from align_pipeline.config.lang import Language, known_languages
from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.data.items import ENGLISH
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Declared, ItemSet
from align_pipeline.data.tasks.pairs import pair
from align_pipeline.engine.loading import load
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.scoring import templated

SWH = Language(**known_languages()["swh"])
Rows = list[dict[str, Any]]


def quiz(language: str, count: int = 6) -> Rows:
    return [
        {
            "id": f"q{k}",
            "question": f"{language} question {k}?",
            "choices": [f"{language} answer {k} {j}" for j in range(3)],
            "answer": k % 3,
            "passage": f"p{k // 2}",
        }
        for k in range(count)
    ]


def as_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_csv(path: Path, rows: Rows) -> None:
    flat = [{**row, **{f"option_{j}": text for j, text in enumerate(row["choices"])}} for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [key for key in flat[0] if key != "choices"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(flat)


CSV = ['\'task.doc_to_choice=["{{option_0}}","{{option_1}}","{{option_2}}"]\''.strip("'")]
CSV += ["task.choices_are_templates=true"]


@pytest.mark.parametrize(
    ("suffix", "write", "more"), [("jsonl", as_jsonl, []), ("parquet", as_parquet, []), ("csv", as_csv, CSV)]
)
def test_own_files_run_end_to_end(
    suffix: str, write: Callable[[Path, Rows], None], more: list[str], tmp_path: Path
) -> None:
    for code in ("eng_Latn", "swh_Latn"):
        write(tmp_path / f"{code}.{suffix}", quiz(code))
    (tmp_path / "notes.txt").write_text("not a language")
    files = f"task.files={tmp_path}/LANG.{suffix}"
    content = run_job(
        tmp_path / "run", "task=choice", files, "task.cluster=passage", "task.num_fewshot=2", "lang=[swh]", *more
    )
    (row,) = content["languages"]
    assert (row["language"], row["n"], content["task"]) == ("swh_Latn", 6, "choice")
    task = instantiate(compose("task=choice", files, "task.cluster=passage", "task.num_fewshot=2", *more).task)
    (pair,) = task.pairs([SWH], Source("embedded"))
    item = pair.language.items[1]
    assert item.options == tuple(f"swh_Latn question 1? swh_Latn answer 1 {j}" for j in range(3))
    assert (item.premise, item.gold, item.cluster) == ("swh_Latn question 1?", 1, "p0")
    assert item.continuations == tuple(f" swh_Latn answer 1 {j}" for j in range(3))
    shots = [f"swh_Latn question {k}?\nAnswer: swh_Latn answer {k} {k % 3}" for k in (0, 2)]  # never the item itself
    assert item.prompt == "\n\n".join([*shots, "swh_Latn question 1?\nAnswer:"])


def test_a_split_in_the_name_and_a_description(tmp_path: Path) -> None:
    for code in ("eng_Latn", "swh_Latn"):
        as_jsonl(tmp_path / f"{code}-test.jsonl", quiz(code))
        as_jsonl(tmp_path / f"{code}-dev.jsonl", quiz("dev"))
    files = [f"task.files={tmp_path}/LANG-SPLIT.jsonl", "task.fewshot_split=dev", "task.num_fewshot=1"]
    task = instantiate(compose("task=choice", *files, "task.description='Answer in one word. '").task)
    assert task.present(Source("embedded")) == {"eng_Latn", "swh_Latn"}
    (pair,) = task.pairs([SWH], Source("embedded"))
    expected = "Answer in one word. dev question 0?\nAnswer: dev answer 0 0\n\nswh_Latn question 3?\nAnswer:"
    assert pair.language.items[3].prompt == expected


def bad(change: dict[str, Any]) -> Rows:
    rows = quiz("swh_Latn")
    rows[2] |= change
    return [{key: value for key, value in row.items() if value != "absent"} for row in rows]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"choices": ["a", " ", "c"]}, "swh_Latn.jsonl, line 3: option 2 of 3 is blank"),
        ({"choices": ["a", None, "c"]}, "line 3: option 2 of 3 is blank"),
        ({"choices": ["a"]}, "line 3: there is only 1 option"),
        ({"answer": 7}, "line 3: the right answer is '7', neither one of 0, 1, 2 nor an option's text"),
        ({"answer": "D"}, "line 3: the right answer is 'D'"),
        ({"question": None}, "line 3: task.premise cannot be filled in: a column that it names has no value"),
        ({"question": "absent"}, "line 3: task.premise cannot be filled in: 'question' is undefined"),
        ({"question": "  "}, "line 3: premise is blank"),
        ({"id": None}, "line 3: id has no value, so that the row cannot be paired"),
        ({"id": "q1"}, "has the id q1 twice"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    as_jsonl(tmp_path / "eng_Latn.jsonl", quiz("eng_Latn"))
    as_jsonl(tmp_path / "swh_Latn.jsonl", bad(change))
    task = instantiate(compose("task=choice", f"task.files={tmp_path}/LANG.jsonl").task)
    with pytest.raises(InputError, match=sentence):
        task.pairs([SWH], Source("embedded"))


def uneven(language: str, more: set[int]) -> Rows:
    return [
        row | {"choices": [*row["choices"], "one more"]} if k in more else row for k, row in enumerate(quiz(language))
    ]


def test_items_with_another_number_of_options_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    as_jsonl(tmp_path / "eng_Latn.jsonl", uneven("eng_Latn", {0}))
    as_jsonl(tmp_path / "swh_Latn.jsonl", uneven("swh_Latn", {3}))
    caplog.set_level("INFO")
    content = run_job(tmp_path / "run", "task=choice", f"task.files={tmp_path}/LANG.jsonl", "lang=swh")
    (row,) = content["languages"]
    assert row["n"] == 4
    assert (content["data"]["dataset"], content["data"]["source"]) == ("own files", f"{tmp_path}/LANG.jsonl")
    assert f"Data: own files (task.files={tmp_path}/LANG.jsonl)." in caplog.text
    assert "Read choice in 1 language and English" in caplog.text
    reasons = [f"another number of options than most items (3) in {name}" for name in ("English", "swh_Latn")]
    assert row["left_out"] == dict.fromkeys(reasons, 1)
    assert f"swh_Latn: 1 items are not paired and left out: {reasons[1]}" in caplog.text
    assert len(pd.read_parquet(tmp_path / "run" / "predictions.parquet")) == 2 * 5


def test_a_pair_with_other_numbers_of_options_is_no_other_right_answer(tmp_path: Path) -> None:
    task = instantiate(compose("task=choice", f"task.files={tmp_path}/LANG.jsonl").task)
    rows = [quiz("eng_Latn"), uneven("swh_Latn", {3})]
    english, swahili = (tuple(task.item(row, "x") for row in of) for of in rows)
    found = pair(ItemSet("swh_Latn", ENGLISH, swahili), ItemSet(ENGLISH, ENGLISH, english), None)
    assert found.left_out == {"another number of options than in English": 1}
    assert "q3" not in found.ids


def test_languages_without_a_common_item_are_refused(tmp_path: Path) -> None:
    as_jsonl(tmp_path / "eng_Latn.jsonl", uneven("eng_Latn", set(range(6))))
    as_jsonl(tmp_path / "swh_Latn.jsonl", quiz("swh_Latn"))
    task = instantiate(compose("task=choice", f"task.files={tmp_path}/LANG.jsonl").task)
    with pytest.raises(InputError, match="No item of swh_Latn has the same number of options .* q0 has 3 .* English 4"):
        task.pairs([SWH], Source("embedded"))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ("['red', 'blue']", None),
        ("red, blue", r"eng_Latn.csv, row 1 below the header: doc_to_choice gives 'red, blue', which is not a list"),
        ("42", "doc_to_choice gives 42, which is not a list such as"),
        ("", "doc_to_choice gives '', which is not a list such as"),
    ],
)
def test_a_column_of_text_is_read_as_a_list(choices: str, sentence: str | None, tmp_path: Path) -> None:
    for code in ("eng_Latn", "swh_Latn"):
        with (tmp_path / f"{code}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "question", "choices", "answer"], ["q0", "Which?", choices, "blue"]])
    task = instantiate(compose("task=choice", f"task.files={tmp_path}/LANG.csv").task)
    if sentence is None:
        [pair] = task.pairs([SWH], Source("embedded"))
        [item] = pair.language.items
        assert (item.continuations, item.gold) == ((" red", " blue"), 1)
    else:
        with pytest.raises(InputError, match=sentence):
            task.pairs([SWH], Source("embedded"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "choice needs either task.dataset=<hub id> or task.files=<files with LANG"),
        (["task.files=a.jsonl"], "task.files=a.jsonl has no LANG in it"),
        (["task.files=a/LANG.txt"], "task.files=a/LANG.txt is not a .jsonl, .csv or .parquet file"),
        (["task.files=a/LANG.jsonl", "task.dataset=a/b"], "needs either"),
    ],
)
def test_what_is_not_a_benchmark(overrides: list[str], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        instantiate(compose("task=choice", *overrides).task)


def test_a_language_without_a_file_is_named(tmp_path: Path) -> None:
    as_jsonl(tmp_path / "eng_Latn.jsonl", quiz("eng_Latn"))
    as_jsonl(tmp_path / "deu_Latn.jsonl", quiz("deu_Latn"))
    with pytest.raises(InputError, match=r"choice has no Swahili \(swh_Latn\) .* it has deu_Latn, eng_Latn"):
        run_job(tmp_path / "run", "task=choice", f"task.files={tmp_path}/LANG.jsonl", "lang=swh")


# ---- the hub, and lm-evaluation-harness


def mmlu(language: str, count: int) -> Rows:
    return [
        {
            "sample_id": f"anatomy/test/{k}",
            "subject": "anatomy",
            "question": f" {language} question {k}? ",
            **{f"option_{letter}": f"{language} {k}{letter}" for letter in "abcd"},
            "answer": "ABCD"[k % 4],
            "cultural_sensitivity_label": "CS" if k % 2 else "CA",
        }
        for k in range(count)
    ]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    rows = {code: {"test": mmlu(code, 8), "dev": mmlu(f"{code} dev", 6)} for code in ("en", "sw")}
    write_hub(tmp_path, "CohereLabs/Global-MMLU", rows)
    return tmp_path


@pytest.mark.parametrize("shots", [0, 3])
def test_global_mmlu_has_the_prompts_of_the_harness(hub: Path, shots: int, tmp_path: Path) -> None:
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    spec = load_yaml(Path(lm_eval.__file__).parent / "tasks/global_mmlu/full/sw/_sw_template_yaml")
    spec |= {"task": "g", "dataset_path": str(hub / "CohereLabs/Global-MMLU"), "num_fewshot": shots}
    spec |= {"dataset_kwargs": {"cache_dir": str(tmp_path / "cache")}, "fewshot_config": {"sampler": "first_n"}}
    theirs = ConfigurableTask(config=spec)
    task = instantiate(compose("task=global_mmlu", f"task.num_fewshot={shots}", f"data={hub}").task)
    assert isinstance(task, Declared)
    (pair,) = task.pairs([SWH], Source(str(hub)))
    documents = list(theirs.test_docs())
    assert len(documents) == len(pair.ids) == 8
    for item, document in zip(pair.language.items, documents, strict=True):
        assert item.prompt == str(theirs.fewshot_context(document, shots))
        assert [c.removeprefix(" ") for c in item.continuations] == theirs.doc_to_choice(document)
        gold = theirs.doc_to_target(document)
        assert item.gold == (gold if isinstance(gold, int) else theirs.doc_to_choice(document).index(gold))
    assert pair.language.items[1].answers[2] == "sw 1c"
    assert pair.language.items[1].category == "CS"


def test_global_mmlu_runs(hub: Path, tmp_path: Path) -> None:
    content = run_job(tmp_path / "run", "task=global_mmlu", f"data={hub}", "task.num_fewshot=2", "lang=swh")
    assert content["languages"][0]["n"] == 8
    assert compose("task=global_mmlu").task["codes"].keys() <= {one["flores"] for one in known_languages().values()}
    assert len(compose("task=global_mmlu").task["codes"]) == 41


TURNS = "{% for m in messages %}<{{m.role}}>{{m.content}}</{{m.role}}>{% endfor %}<answer>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{raise_exception('no system')}}{% endif %}" + TURNS


def of_the_harness(tmp_path: Path, shots: int) -> tuple[Declared, Any]:
    """The quiz with a description and examples of its own split, as our task and as the harness's."""
    from lm_eval.api.task import ConfigurableTask

    base = write_hub(tmp_path, "our/quiz", {code: {"test": quiz(code, 8)} for code in ("eng_Latn", "swh_Latn")})
    described = "Answer in one word.\n\n"
    keys = {"doc_to_text": "{{question}}\nAnswer:", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"}
    spec = {"task": "quiz", "dataset_path": str(base), "dataset_name": "swh_Latn", "description": described, **keys}
    spec |= {"output_type": "multiple_choice", "test_split": "test", "fewshot_split": "test", "num_fewshot": shots}
    spec |= {"dataset_kwargs": {"cache_dir": str(tmp_path / "cache")}, "metric_list": [{"metric": "acc"}]}
    theirs = ConfigurableTask(config=spec)
    theirs.set_fewshot_seed(1234)
    codes = {code: code for code in ("eng_Latn", "swh_Latn")}
    task = Declared("quiz", "our/quiz", "test", "test", None, None, "eng_Latn", shots, fewshot="lm_eval", codes=codes)
    return replace(task, description=described), theirs


def test_examples_of_the_same_split_are_drawn_as_the_harness_draws_and_never_the_item_itself(tmp_path: Path) -> None:
    task, theirs = of_the_harness(tmp_path, 5)
    (pair,) = task.pairs([SWH], Source(str(tmp_path)))
    for item, document in zip(pair.language.items, theirs.test_docs(), strict=True):
        assert item.prompt == str(theirs.fewshot_context(document, 5))
        assert item.prompt.count(document["question"]) == 1


@pytest.mark.parametrize("template", [TURNS, NO_SYSTEM])
@pytest.mark.parametrize("shots", [0, 3])
def test_a_description_is_the_system_message_of_a_chat_as_in_the_harness(
    shots: int, template: str, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    lm = load(ModelConfig(name="tiny", path="embedded:tiny", dtype=Dtype.float32))
    lm.tokenizer.chat_template, lm.chat = template, True
    render = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer).apply_chat_template
    task, theirs = of_the_harness(tmp_path, shots)
    (pair,) = task.pairs([SWH], Source(str(tmp_path)))
    more = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": render}
    for item, document in zip(pair.language.items, theirs.test_docs(), strict=True):
        assert templated(lm, item).prompt == str(theirs.fewshot_context(document, shots, **more))
