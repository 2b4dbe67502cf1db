"""A family of lm-evaluation-harness's tasks: its own YAML files, one for each language, read as they are.

Only files without Python functions can be read, because a function's prompt cannot be checked or described here.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_pipeline.data.items import SHOT_SEPARATOR, Item
from align_pipeline.data.source import Row, Source
from align_pipeline.data.tasks.declared import Declared, described
from align_pipeline.errors import InputError

_PROMPT = ("doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter", "description")
_FUNCTIONS = (*_PROMPT, "process_docs", "fewshot_config", "fewshot_split", "custom_dataset")


@dataclass(frozen=True)
class Harness(Declared):
    """The tasks of a folder of lm-evaluation-harness; what alignment needs is set as for `Declared`."""

    family: str = ""
    """A folder below lm_eval/tasks, such as xnli or okapi/mmlu_multilingual, or the path of your own."""

    def __post_init__(self) -> None:
        specs = specs_of(self.family)
        first = next(iter(specs.values()))
        known = {str(spec["dataset_path"]) for spec in specs.values()}
        if len(known) > 1:
            raise InputError(f"task.family={self.family} has tasks on several data sets: {', '.join(sorted(known))}.")
        if not self.dataset:
            object.__setattr__(self, "dataset", str(first["dataset_path"]))
        super().__post_init__()

    def item(self, row: Row, config: str) -> Item:
        """See `ParallelTask.item`."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(Declared)}
        return Declared(**{**fields, **self._keys(config)}).item(row, config)

    def _prompted(self, items: Sequence[Item], every: Sequence[Item], source: Source, config: str) -> Iterable[Item]:
        return described(super()._prompted(items, every, source, config), self._keys(config).get("description", ""))

    def _keys(self, config: str) -> dict[str, Any]:
        """The prompt's keys in the file of a language.

        Raises:
            InputError: the family has no such file.
        """
        specs = specs_of(self.family)
        if config not in specs:
            raise InputError(f"task.family={self.family} has no task for {config}; it has {', '.join(specs)}.")
        return {key: specs[config][key] for key in _PROMPT if specs[config].get(key) is not None}


@functools.cache
def specs_of(family: str) -> Mapping[str, Mapping[str, Any]]:
    """The multiple-choice tasks of a folder, by the data set's config.

    Raises:
        InputError: lm-evaluation-harness is not installed, the folder has no such task, or a task needs a function.
    """
    if not family:
        raise InputError("task.family is not set; set it to a folder of lm_eval/tasks, such as task.family=xnli.")
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise InputError("task=harness needs lm-evaluation-harness: pip install lm-eval.")
    from lm_eval.tasks._yaml_loader import load_yaml  # type: ignore[import-untyped]

    folder = Path(found.origin).parent / "tasks" / family
    if not folder.is_dir():
        raise InputError(f"task.family={family} is neither a folder in {folder.parent} nor the path of a folder.")
    specs: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = load_yaml(path, resolve_func=False)
        if spec.get("output_type") != "multiple_choice" or not isinstance(spec.get("task"), str):
            continue
        _refuse_functions(path, spec)
        if spec.get("fewshot_delimiter", SHOT_SEPARATOR) != SHOT_SEPARATOR:
            raise InputError(f"{path} has a fewshot_delimiter other than an empty line, which is not supported.")
        specs[str(spec.get("dataset_name") or "default")] = spec
    if not specs:
        raise InputError(f"task.family={family} has no multiple-choice task in {folder}.")
    return specs


def _refuse_functions(path: Path, spec: Mapping[str, Any]) -> None:
    """Refuse a task that Python functions make.

    Raises:
        InputError: there is one; names it.
    """
    for key in _FUNCTIONS:
        value = spec.get(key)
        for one in value.values() if isinstance(value, dict) else [value]:
            # Unresolved, the loader gives a function as its path: <folder>/<module>.<function>
            if isinstance(one, str) and one.startswith(f"{path.parent.resolve()}/"):
                raise InputError(
                    f"{path.name} of the harness sets {key} with the Python function {Path(one).name}; only Jinja2 "
                    "templates can be read. Describe the prompt in a task config of your own, as in docs/data.md."
                )
