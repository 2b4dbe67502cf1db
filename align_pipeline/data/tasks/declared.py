"""A multiple-choice benchmark that a YAML file describes, with the Jinja2 keys of lm-evaluation-harness.

`doc_to_text`, `doc_to_choice` and `doc_to_target` mean what they mean there. Alignment needs more: the id that pairs an
item's versions, the texts that are compared, and what several items share.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from align_pipeline.config.lang import Language
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.source import LANG, Row, Source, lines_of
from align_pipeline.data.tasks.choice import ChoiceTask
from align_pipeline.errors import InputError

_SPLIT = re.compile(r"(?<![A-Za-z])SPLIT(?![A-Za-z])")
_FORMATS = (".jsonl", ".csv", ".parquet")


def _given(value: Any) -> Any:
    """Refuse a missing value, which Jinja2 would print as None."""
    if value is None:
        raise TemplateError("a column that it names has no value")
    return value


@functools.cache
def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_given)
    environment.filters["regex_replace"] = lambda text, pattern, by="": re.sub(pattern, by, text)
    return environment


@functools.cache
def _template(source: str) -> Template:
    return _environment().from_string(source)


@dataclass(frozen=True)
class Declared(ChoiceTask):
    """A multiple-choice benchmark described by its config, on the hub or in files of one's own.

    Where a key takes a template, the name of a column stands for its value.
    """

    doc_to_text: str = "{{question}}\nAnswer:"
    """Template of the prompt."""
    doc_to_choice: Any = "choices"
    """Template of a list, a list of texts, or a list of templates (with ``choices_are_templates``)."""
    doc_to_target: str = "answer"
    """Template of the right option: its text, its number from `first_target`, or one of `target_names`."""
    choices_are_templates: bool = False
    """Fill in every entry of `doc_to_choice` as a template, such as ``["{{option_a}}", "{{option_b}}"]``."""
    answers: Any = None
    """The options' own texts where `doc_to_choice` is only their letters: like `doc_to_choice`, for alignment."""
    first_target: int = 0
    """The number of the first option."""
    target_names: Sequence[str] = ()
    """Names of the options in `doc_to_target`, in order, such as [A, B, C, D]."""
    target_delimiter: str = " "
    """Stands between prompt and option."""
    description: str = ""
    """Stands before the first example, once."""
    premise: str = "{{question}}"
    """Template of the text that MEXA_T compares."""
    option: str = "{{premise}} {{answer_text}}"
    """Template of the texts that DALI compares, with ``premise`` and ``answer_text`` of each option."""
    id: str | None = "id"
    """Column with the id that an item's versions share; null: the row's number, for data in the same order."""
    cluster: str | None = None
    """Column with what several items share, such as a passage."""
    category: str | None = None
    """Column with a grouping of the items."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """The data set's config by FLORES code, for languages whose file in conf/lang does not name it."""

    columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.dataset) == bool(self._own_files):
            raise InputError(
                f"{self.name} needs either task.dataset=<hub id> or task.files=<files with LANG for the language, "
                "such as mine/LANG.jsonl>."
            )
        if self._own_files and Path(str(self.files)).suffix not in _FORMATS:
            raise InputError(f"task.files={self.files} is not a {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} file.")

    @property
    def _own_files(self) -> bool:
        return self.files is not None and bool(LANG.search(self.files))

    # ---- where the rows are

    def config_of(self, language: Language, present: Collection[str] | None) -> str | None:
        """See `ParallelTask.config_of`."""
        if self._own_files:
            return language.flores if self._path(language.flores, self.split).is_file() else None
        config = self.codes.get(language.flores) or language.codes.get(self.name)
        return config if present is None or config in present else None

    def present(self, source: Source) -> frozenset[str] | None:
        """See `ParallelTask.present`."""
        if not self._own_files:
            return super().present(source)
        before, _, after = LANG.sub("\0", _SPLIT.sub(self.split, str(self.files))).partition("\0")
        name = re.compile(rf"{re.escape(before)}(\w+){re.escape(after)}")
        found = (name.fullmatch(str(path)) for path in sorted(Path(f"{before}x").parent.glob("*")))
        return frozenset(match[1] for match in found if match)

    def english_of(self, language: Language) -> tuple[str, str]:
        """See `ParallelTask.english_of`."""
        return (ENGLISH, ENGLISH) if self._own_files else super().english_of(language)

    def _path(self, config: str, split: str) -> Path:
        return Path(_SPLIT.sub(split, LANG.sub(config, str(self.files))))

    def rows(self, source: Source, config: str, split: str) -> list[Row]:
        """See `ParallelTask.rows`."""
        if not self._own_files:
            return [{**row, "__row": number} for number, row in enumerate(super().rows(source, config, split))]
        path = self._path(config, split)
        if not path.is_file():
            raise InputError(f"The file {path} of {self.name} does not exist; task.files={self.files}.")
        try:
            found = [row for _, row in _numbered(path)]
        except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error
        if not found:
            raise InputError(f"{path} has no rows.")
        return [{**row, "__row": number} for number, row in enumerate(found)]

    def place(self, source: Source, config: str, split: str, row: int) -> str:
        """See `ParallelTask.place`."""
        if not self._own_files:
            return super().place(source, config, split, row)
        path = self._path(config, split)
        if path.suffix == ".jsonl":
            numbers = [number for number, _ in _numbered(path)]
            return f"{path}, line {numbers[row]}"
        return f"{path}, row {row + 1}" + (" below the header" if path.suffix == ".csv" else "")

    # ---- items

    def _prompted(self, items: Sequence[Item], every: Sequence[Item], source: Source, config: str) -> Iterable[Item]:
        prompted = super()._prompted(items, every, source, config)
        if not self.description:
            return prompted
        return [replace(item, prompt=self.description + item.prompt) for item in prompted]

    def item(self, row: Row, config: str) -> Item:
        """See `ParallelTask.item`."""
        choices = self._choices("doc_to_choice", self.doc_to_choice, row)
        answers = choices if self.answers is None else self._choices("answers", self.answers, row)
        if len(answers) != len(choices):
            raise ValueError(f"answers has {len(answers)} texts, but doc_to_choice {len(choices)}.")
        if len(choices) < 2:
            raise ValueError(f"there is only {len(choices)} option.")
        premise = self._filled("premise", self.premise, row)
        options = [
            self._filled("option", self.option, {**row, "premise": premise, "answer_text": text}) for text in answers
        ]
        if self.id is not None and row.get(self.id) in (None, ""):
            raise ValueError(f"{self.id} has no value, so that the row cannot be paired.")
        return Item(
            id=str(row[self.id]) if self.id is not None else str(row["__row"]),
            options=tuple(options),
            premise=premise,
            prompt=self._filled("doc_to_text", self.doc_to_text, row),
            continuations=tuple(self.target_delimiter + choice for choice in choices),
            gold=self._gold(row, choices),
            category=str(row.get(self.category) or "") if self.category else "",
            answers=tuple(answers),
            cluster=str(row.get(self.cluster) or "") if self.cluster else "",
        )

    def _filled(self, key: str, template: str, row: Mapping[str, Any]) -> str:
        """A template's text, or a column's value.

        Raises:
            ValueError: a column is missing, or the text is blank.
        """
        try:
            text = str(row[template]) if template in row else _template(template).render(**row)
        except TemplateError as error:
            raise ValueError(f"task.{key} cannot be filled in: {error}.") from error
        if not text.strip():
            raise ValueError(f"{key} is blank.")
        return text

    def _choices(self, key: str, given: Any, row: Row) -> list[str]:
        if isinstance(given, str):
            found = _list(key, row[given] if given in row else self._filled(key, given, row))
        else:
            found = list(given)
            if self.choices_are_templates or key == "answers":
                found = [self._filled(f"{key}[{k}]", text, row) for k, text in enumerate(found)]
        blank = next((k for k, text in enumerate(found) if not str("" if text is None else text).strip()), None)
        if blank is not None:
            raise ValueError(f"option {blank + 1} of {len(found)} is blank.")
        return [str(text) for text in found]

    def _gold(self, row: Row, choices: Sequence[str]) -> int:
        target = self._filled("doc_to_target", self.doc_to_target, row).strip()
        names = [str(name) for name in self.target_names]
        if target in names[: len(choices)]:
            return names.index(target)
        if re.fullmatch(r"-?\d+", target) and 0 <= int(target) - self.first_target < len(choices):
            return int(target) - self.first_target
        if target in choices:
            return list(choices).index(target)
        known = names or [str(self.first_target + k) for k in range(len(choices))]
        raise ValueError(f"the right answer is '{target}', which is none of {', '.join(known)} and no option's text.")


def _list(key: str, value: Any) -> list[Any]:
    """The options in a list, in a mapping such as {"A": ...}, or in the text of one, as in a CSV file's column.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key} gives {value!r}, which is no list such as ['yes', 'no'].")
    return list(value)


def _numbered(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a file, with line numbers for JSON lines."""
    if path.suffix == ".jsonl":
        yield from lines_of(path)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(csv.DictReader(file), 1)
    else:
        yield from enumerate(pq.read_table(path).to_pylist(), 1)
