"""The paragraph for a paper: what the runs recorded, each citation with its entry, no folder of the machine."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from align_pipeline.report.methods import bibliography, paragraph


def summary(model: str = "gemma", task: str = "xcopa", **changes: Any) -> dict[str, Any]:
    config = {"path": "/home/me/models/gemma-3", "revision": None, "dtype": "float32", "chat_template": False}
    made = {
        "model": model,
        "task": task,
        "languages": [{"language": "swh_Latn", "n": 250}, {"language": "ind_Latn", "n": 240}],
        "data": {"dataset": "cambridgeltl/xcopa", "revision": None, "split": "test"},
        "versions": {"align_pipeline": "0.1.0", "torch": "2.15.0", "transformers": "5.23.0", "datasets": "5.2.0"},
        "config": {
            "model": config,
            "task": {"split": "test", "num_fewshot": 0},
            "metrics": {"dali": {}, "mexa_t": {}},
        },
    }
    return {**copy.deepcopy(made), **changes}


def test_it_says_what_the_runs_recorded() -> None:
    text = paragraph([summary(), summary(model="llama", task="belebele")])
    for words in (
        "gemma (gemma-3, float32)",
        "align_pipeline 0.1.0",
        "cambridgeltl/xcopa, split test",
        "in 2 languages and English with 240 to 250 items per language, 0-shot",
        r"\citep{ponti2020xcopa}",
        r"\citep{bandarkar2024belebele}",
        r"DALI and MEXA_T \citep{ravisankar2026map,kargaran2025mexa}",
        "torch 2.15.0, transformers 5.23.0 and datasets 5.2.0",
    ):
        assert words in text, words
    assert "/home/me" not in text


def test_it_says_no_more_than_what_was_run() -> None:
    few = summary()
    few["config"] |= {"layers": [8, 4], "evaluate": False}
    assert "at every hidden state" in paragraph([summary(), few])
    assert "0-shot, answered by the option" in paragraph([summary(), few])
    text = paragraph([few])
    assert "at hidden states 4 and 8, the state after" in text
    assert "with 240 to 250 items per language. " in text
    assert "shot" not in text
    assert "answered" not in text


def test_a_hub_model_has_its_id_and_revision() -> None:
    one = summary()
    one["config"]["model"] |= {"path": "google/gemma-3-270m", "revision": "abc", "chat_template": True}
    assert "gemma (google/gemma-3-270m, revision abc, float32, chat template)" in paragraph([one])


def test_commits_of_model_and_data_are_named() -> None:
    one = summary(commit="c" * 40)
    one["config"]["model"] |= {"path": "google/gemma-3-270m", "revision": "main"}
    one["data"]["commits"] = ["d" * 40]
    text = paragraph([one])
    assert "gemma (google/gemma-3-270m, revision main, commit cccccccc, float32)" in text
    assert "(cambridgeltl/xcopa, split test, commit dddddddd)" in text


def test_different_shots_and_versions_are_all_named() -> None:
    five = summary()
    five["config"]["task"]["num_fewshot"] = 5
    five["versions"]["torch"] = "2.14.0"
    text = paragraph([summary(), five])
    assert "0-shot and 5-shot" in text
    assert "torch 2.14.0 and 2.15.0" in text


def test_tuned_models_are_described() -> None:
    told = {"preset": "midalign", "role": "treatment", "method": "lora", "steps": 40, "pairs": 100}
    told |= {"data": "FLORES+ dev", "languages": ["swh_Latn"], "seed": 0}
    text = paragraph([summary(), summary(tuned=told), summary(tuned=told | {"seed": 1})])
    assert text.count("midalign (treatment, lora, 40 steps, 100 sentence pairs of FLORES+ dev in swh_Latn)") == 1


def test_patches_are_described() -> None:
    one = summary()
    one["config"]["patch"] = {
        "conditions": ["parallel", "noise"],
        "layers": [2, 4],
        "site": "last",
        "component": "resid",
        "window": 1,
    }
    text = paragraph([summary(), one, one])
    assert text.count("in XCOPA, component resid at last, layers 2, 4, conditions: parallel, noise.") == 1
    text = paragraph([summary(model="llama"), one])  # of several models, the one that was patched
    assert "in XCOPA with gemma, component resid at last" in text


def test_other_measurements_are_named() -> None:
    assert not re.search("pivots|chance level|lens", paragraph([summary()]))
    one, two = summary(), summary()
    one["config"] |= {"pivot": ["eng", "spa", "zho_Hans"], "representations": ["cka", "neurons"], "logit_lens": True}
    two["config"] |= {"pivot": "spa", "representations": [], "logit_lens": False}
    text = paragraph([one, two])
    assert "with other pivots: Spanish and Chinese (simplified)." in text
    assert "each with its chance level: cka and neurons." in text
    assert "The logit lens was applied to every hidden state." in text
    two["config"] |= {"pivot": "tok"}  # a language of the user's own
    assert "with other pivots: tok." in paragraph([two])
    two["config"] |= {"pivot": "all", "representations": "all"}
    text = paragraph([two])
    assert "with other pivots: every language of the run." in text
    assert "cosine, mexa, cka" in text


@pytest.mark.parametrize("task", ["belebele", "xcopa", "xstorycloze", "flores", "choice"])
def test_every_citation_has_one_entry_and_no_entry_is_idle(task: str) -> None:
    text = paragraph([summary(task=task)])
    cited = {key for keys in re.findall(r"\\citep\{([^}]*)\}", text) for key in keys.split(",")}
    entries = re.findall(r"@\w+\{([^,]+),", bibliography(text))
    assert sorted(entries) == sorted(cited)


def test_runs_without_a_record_have_no_paragraph() -> None:
    assert paragraph([]) == paragraph([{"model": "m"}]) == ""
