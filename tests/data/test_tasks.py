"""Rows in, parallel items out: prompts byte for byte, shared ids, pairing, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from conftest import REPOSITORY, Rows, belebele_rows, write_hub

from align_pipeline.config.lang import Language
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Belebele, ChoiceTask, Pair, Xcopa, XStoryCloze
from align_pipeline.errors import InputError
from align_pipeline.summary import provenance

KINDS = {"belebele": Belebele, "xcopa": Xcopa, "xstorycloze": XStoryCloze}
SWAHILI = Language(
    "Swahili",
    "Latn",
    "Niger-Congo",
    2,
    "swh_Latn",
    {"belebele": "swh_Latn", "xcopa": "sw", "xstorycloze": "sw"},
    {"xcopa": "translation-sw"},
)
QUECHUA = Language("Quechua", "Latn", "Quechuan", 1, "quy_Latn", {"xcopa": "qu"}, {"xcopa": "translation-sw"})


def task(name: str, **changes: Any) -> ChoiceTask:
    fields = yaml.safe_load((REPOSITORY / "conf/task" / f"{name}.yaml").read_text())
    del fields["_target_"]
    return KINDS[name](**{**fields, **changes})


def pair_of(data: Path | str, name: str, language: Language = SWAHILI, **changes: Any) -> Pair:
    return task(name, **changes).pairs([language], Source(str(data)))[0]


def jsonl(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- texts and prompts, as METHOD gives them


def test_belebele_texts() -> None:
    row = belebele_rows("x", 1)[0] | {"question": " Why? "}
    item = task("belebele").item(row, "swh_Latn")
    assert item.id == "passage-0/1"
    assert item.premise == "x: passage number 0. Why?"
    assert item.options[2] == "x: passage number 0. Why? x answer 0 3"
    assert item.prompt == (
        "P: x: passage number 0.\nQ: Why?\nA: x answer 0 1\nB: x answer 0 2\nC: x answer 0 3\nD: x answer 0 4\nAnswer:"
    )
    assert item.continuations == (" A", " B", " C", " D")
    assert item.gold == 0


XCOPA_ROW = {
    "premise": "The man fell.",
    "choice1": "It was Icy.",
    "choice2": "He laughed.",
    "question": "cause",
    "label": 1,
    "idx": 7,
}


@pytest.mark.parametrize(
    ("config", "question", "quirks", "option", "prompt"),
    [
        ("translation-sw", "cause", False, "The man fell because It was Icy.", "The man fell because"),
        ("translation-sw", "effect", False, "The man fell so It was Icy.", "The man fell hence"),
        ("sw", "effect", False, "The man fell kwa hiyo It was Icy.", "The man fell kwa hiyo"),
        ("translation-sw", "effect", True, "The man fell because it was icy.", "The man fell hence"),
        ("zh", "effect", True, "The man fell 因为 it was icy.", "The man fell 所以"),
        ("sw", "effect", True, "The man fell kwa hiyo it was icy.", "The man fell kwa hiyo"),
    ],
)
def test_xcopa_texts(config: str, question: str, quirks: bool, option: str, prompt: str) -> None:
    item = task("xcopa", published_quirks=quirks).item({**XCOPA_ROW, "question": question}, config)
    assert item.options[0] == option
    assert item.prompt == prompt
    assert item.continuations == (" it was Icy.", " he laughed.")
    assert item.premise == "The man fell."
    assert (item.id, item.gold, item.category) == ("7", 1, question)


def test_xcopa_premise_without_closing_punctuation_is_not_cut_in_alignment_texts() -> None:
    """Tamil's premises have none: the published run cut a letter; only the scoring prompt still does."""
    row = {**XCOPA_ROW, "premise": "The man fell"}
    item = task("xcopa").item(row, "sw")
    assert item.options[0].startswith("The man fell kwa sababu")
    assert item.prompt == "The man fel kwa sababu"
    assert task("xcopa", published_quirks=True).item(row, "sw").options[0].startswith("The man fel kwa sababu")


def test_xstorycloze_texts() -> None:
    row = {f"input_sentence_{k}": f"S{k}." for k in (1, 2, 3, 4)}
    row |= {"story_id": "abc", "sentence_quiz1": "Yes.", "sentence_quiz2": "No.", "answer_right_ending": 2}  # type: ignore[dict-item]
    item = task("xstorycloze").item(row, "sw")
    assert item.premise == "S1. S2. S3. S4."
    assert item.options == ("S1. S2. S3. S4. Yes.", "S1. S2. S3. S4. No.")
    assert (item.prompt, item.continuations, item.gold) == ("S1. S2. S3. S4.", (" Yes.", " No."), 1)


def test_fixed_examples_are_the_first_others(tmp_path: Path) -> None:
    write_hub(tmp_path, "facebook/belebele", {c: {"test": belebele_rows(c)} for c in ("eng_Latn", "swh_Latn")})
    items = pair_of(tmp_path, "belebele", num_fewshot=3).language.items
    for index, item in enumerate(items):
        blocks = item.prompt.split("\n\n")
        expected = [k for k in range(8) if k != index][:3]
        assert [f"question {k}?" in block for k, block in zip(expected, blocks[:3], strict=True)] == [True] * 3
        assert f"question {index}?" in blocks[3]
        assert len(blocks) == 4
        assert all(block.endswith("Answer: " + "ABCD"[k % 4]) for k, block in zip(expected, blocks[:3], strict=True))
        assert blocks[3].endswith("Answer:")


def test_lm_eval_examples_are_drawn_as_the_harness_draws(shared_data: Path) -> None:
    """Its sampler: random.Random(1234), one sample(pool, 5) per item, in order."""
    folder = shared_data / "cambridgeltl/xcopa/sw"
    pool, rows = jsonl(folder / "validation.jsonl"), jsonl(folder / "test.jsonl")
    draw = random.Random(1234)
    items = pair_of(shared_data, "xcopa", fewshot="lm_eval").language.items
    for row, item in zip(rows[:50], items[:50], strict=True):
        premises = [shot["premise"].strip()[:-1] for shot in draw.sample(pool, 5)] + [row["premise"].strip()[:-1]]
        blocks = item.prompt.split("\n\n")
        assert len(blocks) == 6
        assert all(block.startswith(premise) for premise, block in zip(premises, blocks, strict=True))


# ---- real data


@pytest.mark.parametrize(("name", "count"), [("belebele", 900), ("xcopa", 500), ("xstorycloze", 1411)])
def test_real_data_pairs_completely(shared_data: Path, name: str, count: int) -> None:
    pair = pair_of(shared_data, name)
    assert len(pair.ids) == len(set(pair.ids)) == count
    assert pair.left_out == {}
    assert pair.english.language == "eng_Latn"
    assert pair.english.pivot == ("translation-sw" if name == "xcopa" else "eng_Latn")
    own = pair.language.by_id()
    assert all(own[item.id].gold == item.gold for item in pair.english.items)


def test_quechua_is_paired_with_swahilis_english(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = task("xcopa").pairs([SWAHILI, QUECHUA], Source(str(shared_data)))
    assert pairs[0].english is pairs[1].english
    assert "quy_Latn: 37 items ask a different question than in English" in caplog.text


# ---- pairing


def hub_pair(folder: Path, english: Rows, swahili: Rows, **changes: Any) -> Pair:
    write_hub(folder, "facebook/belebele", {"eng_Latn": {"test": english}, "swh_Latn": {"test": swahili}})
    return pair_of(folder, "belebele", num_fewshot=2, **changes)


def test_row_order_does_not_matter(tmp_path: Path) -> None:
    rows = belebele_rows("swh_Latn")
    straight = hub_pair(tmp_path / "a", belebele_rows("eng_Latn"), rows)
    shuffled = hub_pair(tmp_path / "b", belebele_rows("eng_Latn"), rows[::-1])
    assert straight.ids == shuffled.ids
    assert {i.id: i.options for i in straight.language.items} == {i.id: i.options for i in shuffled.language.items}


def test_rows_missing_on_either_side_are_left_out_and_counted(tmp_path: Path) -> None:
    english, swahili = belebele_rows("eng_Latn"), belebele_rows("swh_Latn")
    swahili[5]["correct_answer_num"] = "1"
    pair = hub_pair(tmp_path, english[1:], swahili[:-2])
    assert pair.ids == ("passage-0/2", "passage-1/1", "passage-1/2", "passage-2/1")
    assert pair.left_out == {
        "missing in swh_Latn": 2,
        "missing in English": 1,
        "another right answer than in English": 1,
    }


def test_limit_takes_the_first_english_items_and_their_counterparts(tmp_path: Path) -> None:
    pair = hub_pair(tmp_path, belebele_rows("eng_Latn"), belebele_rows("swh_Latn")[::-1], limit=3)
    assert pair.ids == ("passage-0/1", "passage-0/2", "passage-1/1")
    assert len(pair.english.items) == len(pair.language.items) == 3
    assert pair.left_out == {}


# ---- what is refused, in one sentence


def broken(folder: Path, change: dict[str, Any] | None = None, rows: Rows | None = None) -> None:
    swahili = belebele_rows("swh_Latn") if rows is None else rows
    if change:
        swahili[3] |= change
    hub_pair(folder, belebele_rows("eng_Latn"), swahili)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mc_answer2": "  "}, r"swh_Latn/test\.jsonl, line 4: mc_answer2 is empty"),
        ({"mc_answer2": None}, r"line 4: mc_answer2 has no value"),
        ({"correct_answer_num": "5"}, r"line 4: correct_answer_num is '5', not one of 1 to 4"),
        ({"correct_answer_num": "x"}, r"line 4: correct_answer_num is 'x', not one of 1 to 4"),
        ({"link": "passage-0", "question_number": 1}, r"has the id passage-0/1 twice"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        broken(tmp_path, change)


def test_a_missing_column(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "question"} for row in belebele_rows("swh_Latn")]
    with pytest.raises(InputError, match="has no column question; its columns are link, question_number"):
        broken(tmp_path, rows=rows)


def test_no_shared_id(tmp_path: Path) -> None:
    rows = [row | {"link": "other-" + row["link"]} for row in belebele_rows("swh_Latn")]
    with pytest.raises(InputError, match="swh_Latn and its English side eng_Latn have no ids in common"):
        broken(tmp_path, rows=rows)


def test_too_few_examples(tmp_path: Path) -> None:
    write_hub(tmp_path, "facebook/belebele", {c: {"test": belebele_rows(c, 3)} for c in ("eng_Latn", "swh_Latn")})
    with pytest.raises(InputError, match="has 3 items, too few for task.num_fewshot=5"):
        pair_of(tmp_path, "belebele")


def test_an_empty_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belebele"):
        broken(tmp_path, rows=[])


def test_invalid_json_names_the_line(tmp_path: Path) -> None:
    write_hub(tmp_path, "facebook/belebele", {c: {"test": belebele_rows(c)} for c in ("eng_Latn", "swh_Latn")})
    with (tmp_path / "facebook/belebele/swh_Latn/test.jsonl").open("a") as file:
        file.write('{"link": "passage-9", \n')
    with pytest.raises(InputError, match=r"facebook/belebele/swh_Latn/test\.jsonl, line 9 is not valid JSON: "):
        pair_of(tmp_path, "belebele")


def test_a_missing_folder_and_a_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"The data folder '.*nowhere' does not exist; data= takes 'hub', 'embedded'"):
        Source(str(tmp_path / "nowhere"))
    write_hub(tmp_path, "facebook/belebele", {"eng_Latn": {"test": belebele_rows("eng_Latn")}})
    with pytest.raises(InputError, match=r"does not hold cambridgeltl/xcopa .* it holds facebook/belebele"):
        Source(str(tmp_path)).configs("cambridgeltl/xcopa")


def test_languages_the_task_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_hub(tmp_path, "facebook/belebele", {c: {"test": belebele_rows(c)} for c in ("eng_Latn", "swh_Latn")})
    source = Source(str(tmp_path))
    assert task("belebele").supported([SWAHILI, QUECHUA], source, []) == [SWAHILI]
    assert "Left out because belebele" in caplog.text
    assert "quy_Latn" in caplog.text
    with pytest.raises(InputError, match=r"belebele has no Quechua \(quy_Latn\) in data=.*; it has eng_Latn, swh_Latn"):
        task("belebele").supported([SWAHILI, QUECHUA], source, ["quy_Latn"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fewshot": "random"}, "task.fewshot=random is not a sampler; use fixed or lm_eval"),
        ({"num_fewshot": -1}, "task.num_fewshot=-1 is not a valid number of examples"),
        ({"limit": 0}, "task.limit=0 is not a valid number of items"),
    ],
)
def test_bad_task_keys(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task("belebele", **change)


def test_the_commits_of_hub_data_are_kept_and_two_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commits = {"eng_Latn": "a" * 40, "swh_Latn": "b" * 40}

    def load_dataset(path: str, config: str, **kept: Any) -> datasets.Dataset:
        rows = datasets.Dataset.from_list(belebele_rows(config))
        file = f"hf://datasets/{path}@{commits[config]}/data/{config}.jsonl"
        rows.info.download_checksums = {file: {"num_bytes": 1, "checksum": None}}
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(Source, "configs", lambda self, dataset: frozenset(commits))
    source = Source("hub")
    pairs = task("belebele").pairs([SWAHILI], source)
    assert source.commits == {"facebook/belebele": set(commits.values())}
    assert provenance(task("belebele"), source, pairs, {})["commits"] == sorted(commits.values())
    assert "different commits" in caplog.text
    assert provenance(task("belebele"), Source("embedded"), pairs, {})["commits"] == []
