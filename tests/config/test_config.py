"""Every YAML composes and every target builds; mistakes end in one sentence, before torch is loaded."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, compose, compose_tuning
from hydra.utils import instantiate

from align_pipeline.config import Config
from align_pipeline.config.paths import CONF
from align_pipeline.errors import InputError, unknown


def options(group: str) -> list[str]:
    return sorted(path.stem for path in CONF.joinpath(group).glob("*.yaml"))


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "align_pipeline.run", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )


@pytest.mark.parametrize("name", [name for name in options("model") if name != "tuned"])  # tests/tune has that one
def test_every_model_composes(name: str) -> None:
    config = compose(f"model={name}", *(["model.path=somewhere"] if name == "custom" else []))
    assert config.model.name == ("somewhere" if name == "custom" else name)
    assert config.source == ("embedded" if name in ("tiny", "tiny_aligned") else "hub")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("model=gemma3-1b", "model.revision=step1000"), "gemma3-1b@step1000"),
        (("model=custom", "model.path=EleutherAI/pythia-70m", "model.revision=step512"), "pythia-70m@step512"),
        (("model=custom", "model.path=runs/a/checkpoint-500/"), "checkpoint-500"),
        (("model=gemma3-1b", f"model.revision={'0123abcd' * 5}"), "gemma3-1b@0123abcd"),
        (("model=gemma3-1b", "model.revision=main", "model.name=mine"), "mine"),
    ],
)
def test_a_revision_is_part_of_a_models_name(overrides: tuple[str, ...], name: str) -> None:
    assert compose(*overrides).model.name == name


@pytest.mark.parametrize("name", options("task"))
def test_every_task_composes_and_builds(name: str) -> None:
    needed = {"choice": ["task.files=LANG.jsonl"], "harness": ["task.family=xnli"]}
    task = instantiate(compose(f"task={name}", *needed.get(name, [])).task)
    assert task.name == name


@pytest.mark.parametrize("name", options("metric"))
def test_every_metric_composes_and_builds(name: str) -> None:
    config = compose(f"metric={name}")
    assert list(config.metrics) == [name]
    assert callable(instantiate(config.metrics[name]).margin)


@pytest.mark.parametrize("name", options("lang"))
def test_every_language_composes(name: str) -> None:
    assert list(compose(f"lang={name}").languages) == [name]


@pytest.mark.parametrize("name", options("lang/set"))
def test_every_language_set_composes(name: str) -> None:
    config = compose(f"lang=set/{name}")
    assert len(config.languages) > 5
    assert "eng" not in config.languages
    assert config.named == []


@pytest.mark.parametrize("name", options("tune"))
def test_every_training_composes_and_builds(name: str) -> None:
    config = compose_tuning(f"tune={name}").tune
    assert config.name == name
    assert all(instantiate(one).weight > 0 for one in config.objectives.values())


@pytest.mark.parametrize("name", options("patch"))
def test_every_patch_composes(name: str) -> None:
    assert bool(compose(f"patch={name}").patch.conditions) == (name != "none")


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_and_builds(name: str) -> None:
    config = compose(f"experiment={name}")
    named = name.rpartition("_")[2]  # paper_xcopa, study_gemma3_270m_xcopa
    others = {"layers": "belebele", "patching": "xcopa", "135m": "xcopa", "representations": "flores"}
    assert instantiate(config.task).name == others.get(named, named)
    for metric in config.metrics.values():
        instantiate(metric)


def test_lists_of_languages_and_metrics() -> None:
    config = compose("lang=[swh,deu]", "metric=[dali,mexa_t]")
    assert sorted(config.languages) == ["deu", "swh"]
    assert sorted(config.metrics) == ["dali", "mexa_t"]
    assert config.named == ["swh", "deu"]


def test_demo_data_only_with_the_demo_model() -> None:
    assert compose("model=llama3.1-8b", "data=embedded").source == "embedded"
    assert compose("data=/some/folder").source == "/some/folder"
    assert compose("model=custom", "model.path=/a/model").source == "hub"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("task=belebel", "There is no task 'belebel'; available: belebele, "),
        ("lang=sxh", "There is no language 'sxh'; available: "),
        ("lang=[swh,sxh]", "There is no language 'sxh'; available: "),
        ("lang=hin", "There is no language 'hin'; available: hin_"),
        ("lang=set/xcpa", "There is no language 'set/xcpa'; available: set/xcopa, "),
        ("metric=daly", "There is no metric 'daly'; available: dali, "),
        ("model=llama", "There is no model 'llama'; available: llama-7b, "),
        ("task.limt=4", "There is no key 'task.limt'; available: task.limit, "),
        ("model.dtype=int8", "model.dtype: Invalid value 'int8', expected one of [float32, bfloat16, float16, auto]"),
        ("evaluate=maybe", "evaluate: Value 'maybe' is not a valid bool"),
        ("layers=x", "layers=x is neither 'all' nor a list of layer numbers such as [0,4,8]"),
        ("nonsense=1", "There is no key 'nonsense'; available: "),
        ("lang=[swh", "The argument 'lang=[swh' is not of the form key=value"),
        ("batch_tokens=0", "batch_tokens=0 is too small"),
        ("lang=[]", "No language is selected"),
        ("model=custom", "model.path"),
    ],
)
def test_a_mistake_is_one_sentence(argument: str, sentence: str, tmp_path: Path) -> None:
    found = command(argument, f"hydra.run.dir={tmp_path}")
    assert found.returncode != 0
    lines = [line for line in found.stderr.splitlines() if not line.startswith("Error executing job")]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("Error: ")
    assert sentence in lines[0]
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["task=nothing"], ["layers=x"]])
def test_answers_come_before_heavy_imports(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from align_pipeline import run\n"
        "try: run.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'wandb', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    run = [f"hydra.run.dir={tmp_path}"]
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments, *run], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert found.returncode == 0, found.stderr


def test_every_key_is_explained() -> None:
    """A docstring under every field of the schema."""
    fields = explained = 0
    for path in (REPOSITORY / "align_pipeline/config").glob("*.py"):
        for schema in (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)):
            for node, after in itertools.pairwise([*schema.body, None]):
                if isinstance(node, ast.AnnAssign):
                    fields += 1
                    explained += isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    assert fields >= 40
    assert explained == fields


def test_nearest_names_come_first() -> None:
    assert str(unknown("metric", "mexat", ["dali", "mexa_t"])) == "There is no metric 'mexat'; available: mexa_t, dali."
    assert str(unknown("x", "y", [])) == "There is no x 'y'; available: none."


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing to do"):
        Config(languages=compose().languages, metrics={}, evaluate=False)


@pytest.mark.parametrize("task", ["belebele", "flores", "xcopa", "xstorycloze"])
def test_every_task_converts_its_texts_by_the_key_that_the_warning_names(task: str) -> None:
    composed = compose(f"task={task}", "lang=swh", "task.unicode=NFC")
    assert instantiate(composed.task).unicode == "NFC"
