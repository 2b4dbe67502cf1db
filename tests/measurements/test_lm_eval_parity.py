"""Log-likelihoods against lm-evaluation-harness: same model, same local data, its own task files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.config.paths import EMBEDDED
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Belebele, ChoiceTask, Xcopa, XStoryCloze
from align_pipeline.engine.loading import load
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements.accuracy.prediction import Prediction
from align_pipeline.measurements.accuracy.scoring import predict, prediction

LIMIT = 12
KINDS = {"belebele": Belebele, "xcopa": Xcopa, "xstorycloze": XStoryCloze}
FILES = {"belebele": "belebele_{}.yaml", "xcopa": "default_{}.yaml", "xstorycloze": "default_{}.yaml"}


def our_task(name: str, fewshot: str, shots: int = 5, limit: int = LIMIT) -> ChoiceTask:
    fields = yaml.safe_load((REPOSITORY / "conf/task" / f"{name}.yaml").read_text())
    del fields["_target_"]
    return KINDS[name](**{**fields, "fewshot": fewshot, "num_fewshot": shots, "limit": limit})


def ours(
    lm: LanguageModel, data: str, name: str, config: str, fewshot: str, shots: int = 5, limit: int = LIMIT
) -> list[Prediction]:
    items = our_task(name, fewshot, shots, limit)._side(Source(data), config, "xxx_Latn", "eng_Latn").items[:limit]
    return predict(lm, items, 4096, lambda n: None)


def harness(
    lm: LanguageModel,
    data: Path,
    cache: Path,
    name: str,
    config: str,
    fewshot: str,
    shots: int = 5,
    limit: int = LIMIT,
    batch: int = 8,
) -> list[list[float]]:
    """The harness's log-likelihoods, [items][options]; through the chat template where `lm.chat` says so."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    spec = load_yaml(Path(lm_eval.__file__).parent / "tasks" / name / FILES[name].format(config))
    # datasets' own cache would serve another copy of the data set under the same name.
    spec |= {"dataset_path": str(data / spec["dataset_path"]), "dataset_kwargs": {"cache_dir": str(cache)}}
    spec["num_fewshot"] = shots
    if fewshot == "fixed":
        spec["fewshot_config"] = {"sampler": "first_n"}
    result = lm_eval.simple_evaluate(
        HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch),
        tasks=[spec],
        limit=limit,
        apply_chat_template=lm.chat,
        fewshot_as_multiturn=lm.chat,
        bootstrap_iters=0,
    )
    samples = sorted(result["samples"][spec["task"]], key=lambda sample: sample["doc_id"])
    return [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in samples]


CASES = [
    ("belebele", "swh_Latn", "fixed"),
    ("belebele", "eng_Latn", "lm_eval"),
    ("xcopa", "sw", "fixed"),
    ("xcopa", "tr", "lm_eval"),
    ("xstorycloze", "sw", "lm_eval"),
    ("xstorycloze", "es", "fixed"),
]


def compare(data: Path, cache: Path, name: str, config: str, fewshot: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    lm = load(ModelConfig(name="tiny", path="embedded:tiny", dtype=Dtype.float32))
    assert_equal(ours(lm, str(data), name, config, fewshot), harness(lm, data, cache, name, config, fewshot))


def assert_equal(found: list[Prediction], expected: list[list[float]]) -> None:
    """Log-likelihoods to 1e-3, and the same option chosen unless two are as close as that."""
    assert len(found) == len(expected) > 0
    for prediction_, values in zip(found, expected, strict=True):
        assert prediction_.loglikelihoods == pytest.approx(values, abs=1e-3)
        best, second = sorted(values)[-1:-3:-1]
        assert best - second < 2e-3 or prediction(prediction_.loglikelihoods) == values.index(best)


@pytest.mark.parametrize(("name", "config", "fewshot"), CASES)
def test_loglikelihoods_equal_the_harness_on_embedded_data(
    tmp_path: Path, name: str, config: str, fewshot: str
) -> None:
    compare(EMBEDDED / "data", tmp_path, name, config, fewshot)


@pytest.mark.parametrize(("name", "config", "fewshot"), CASES)
def test_loglikelihoods_equal_the_harness_on_real_data(
    shared_data: Path, tmp_path: Path, name: str, config: str, fewshot: str
) -> None:
    compare(shared_data, tmp_path, name, config, fewshot)
