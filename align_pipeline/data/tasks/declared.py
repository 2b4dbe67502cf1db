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
from jinja2.environment import TemplateExpression
from jinja2.sandbox import SandboxedEnvironment

from align_pipeline.config.lang import Language
from align_pipeline.config.unparallel import refuse_unparallel
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.source import LANG, Row, Source, lines_of, place_in
from align_pipeline.data.tasks.choice import ChoiceTask
from align_pipeline.data.tasks.pairs import ItemSet, Pair
from align_pipeline.data.tasks.parallel import LeftOut
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
    environment.filters["as_list"] = functools.partial(_list, "as_list")
    return environment


@functools.cache
def _template(source: str) -> Template:
    return _environment().from_string(source)


@functools.cache
def _macros(source: str) -> dict[str, Any]:
    """The macros of a template, by name."""
    return {k: v for k, v in vars(_template(source).module).items() if not k.startswith("_")}


@functools.cache
def _rule(expression: str) -> TemplateExpression:
    return _environment().compile_expression(expression, undefined_to_none=False)


@dataclass(frozen=True)
class Declared(ChoiceTask):
    """A multiple-choice benchmark described by its config, on the hub or in your own files.

    A key that takes a template also takes the name of a column, which stands for the column's value.
    """

    doc_to_text: str = "{{question}}\nAnswer:"
    """Template of the prompt; "" if the options are whole texts."""
    doc_to_choice: Any = "choices"
    """Template of a list, a list of texts, or a list of templates (with ``choices_are_templates``)."""
    doc_to_target: str = "answer"
    """Template of the right option: its text, its number from `first_target`, or one of `target_names`."""
    choices_are_templates: bool = False
    """Fill in every entry of `doc_to_choice` as a template, such as ``["{{option_a}}", "{{option_b}}"]``."""
    answers: Any = None
    """The options' texts for alignment if `doc_to_choice` has only their letters; written in the same way."""
    options: int | None = None
    """The number of options: rows with fewer or more options with text are left out and counted. null: that of most
    items, and an option without text is an error."""
    first_target: int = 0
    """The number of the first option."""
    target_names: Sequence[str] = ()
    """Names of the options in `doc_to_target`, in order, such as [A, B, C, D]."""
    target_delimiter: str = " "
    """Text between prompt and option."""
    description: str = ""
    """Text before the first example."""
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Words of the templates in each language, by the data set's config: ``{{words.yes}}``."""
    macros: str = ""
    """Jinja2 macros that all templates can call."""
    leave_out: Mapping[str, str] = field(default_factory=dict)
    """Rules that leave rows out, by reason: Jinja2 expressions such as ``sentence1 == ''``. They are counted."""
    premise: str | None = "{{question}}"
    """Template of the text that MEXA_T compares; null: the items have none, and MEXA_T cannot be used."""
    option: str = "{{premise}} {{answer_text}}"
    """Template of the texts that DALI compares, with ``premise`` and ``answer_text`` of each option."""
    id: str | None = "id"
    """Column, or template, of the id that an item's versions share; null: the row's number, for data in the same
    order, with the same number of rows in all languages."""
    cluster: str | None = None
    """Column with what several items share, such as a passage."""
    category: str | None = None
    """Column with a grouping of the items."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """The data set's config by FLORES code, for languages whose file in conf/lang does not name it."""

    columns: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unparallel(self.dataset)
        if self.premise is None:
            object.__setattr__(self, "offers", frozenset({"options"}))
        if self.files is not None and not self.dataset and not self._own_files:
            raise InputError(
                f"task.files={self.files} has no LANG in it, which stands for the language's FLORES code, as in "
                "mine/LANG.jsonl."
            )
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

    def origin(self, source: Source) -> str:
        """See `ParallelTask.origin`."""
        return f"task.files={self.files}" if self._own_files else super().origin(source)

    def english_of(self, language: Language) -> tuple[str, str]:
        """See `ParallelTask.english_of`."""
        return (ENGLISH, ENGLISH) if self._own_files else super().english_of(language)

    def _path(self, config: str, split: str) -> Path:
        return Path(_SPLIT.sub(split, LANG.sub(config, str(self.files))))

    def rows(self, source: Source, config: str, split: str) -> list[Row]:
        """See `ParallelTask.rows`."""
        if not self._own_files:
            return self._counted(super().rows(source, config, split), f"{self.dataset} ({config}, {split})")
        path = self._path(config, split)
        if not path.is_file():
            raise InputError(f"The file {path} of {self.name} does not exist; task.files={self.files}.")
        try:
            found = list(_file_rows(path))
        except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read: {error}.") from error
        if not found:
            raise InputError(f"{path} has no rows.")
        return self._counted(found, str(path))

    def _counted(self, rows: Sequence[Row], where: str) -> list[Row]:
        """The rows with their numbers.

        Raises:
            InputError: the right answers are withheld, as in some test splits.
        """
        if all(row.get(self.doc_to_target, self) in (None, "", -1, "-1") for row in rows):
            raise InputError(
                f"{where} has no right answers ({self.doc_to_target} is empty in all rows); choose another task.split."
            )
        return [{**row, "__row": number} for number, row in enumerate(rows)]

    def place(self, source: Source, config: str, split: str, row: int) -> str:
        """See `ParallelTask.place`."""
        if self._own_files:
            return place_in(self._path(config, split), row)
        return super().place(source, config, split, row)

    # ---- items

    def pairs(self, languages: Sequence[Language], source: Source) -> list[Pair]:
        """See `ParallelTask.pairs`.

        Raises:
            InputError: rows should be paired by number, but a language has another number of rows than English.
        """
        pairs = super().pairs(languages, source)
        for pair in pairs if self.id is None else ():
            own, english = _rows(pair.language), _rows(pair.english)
            if (own != english and self.limit is None) or own < english:
                raise InputError(
                    f"{self.name} pairs rows by number, but {pair.language.language} has {own} rows and English "
                    f"{english}; set task.id to a column with an id."
                )
        return pairs

    def _sorted(self, source: Source, config: str, split: str) -> tuple[list[Item], dict[str, str]]:
        if self.words and config not in self.words:
            raise InputError(f"{self.name} has no words for {config}; set task.words.{config} as for the others.")
        return super()._sorted(source, config, split)

    def _prompted(self, items: Sequence[Item], every: Sequence[Item], source: Source, config: str) -> Iterable[Item]:
        return described(super()._prompted(items, every, source, config), self.description)

    def item(self, row: Row, config: str) -> Item:
        """See `ParallelTask.item`."""
        row = {**_macros(self.macros), **row}
        if self.words:
            row["words"] = self.words[config]
        name = self._id(row)
        for reason, rule in self.leave_out.items():
            if self._holds(reason, rule, row):
                raise LeftOut(name, reason)
        answers = self._options("doc_to_choice" if self.answers is None else "answers", row, name)
        choices = answers if self.answers is None else self._choices("doc_to_choice", self.doc_to_choice, row)
        if len(answers) != len(choices):
            raise ValueError(f"answers has {len(answers)} texts, but doc_to_choice has {len(choices)}.")
        if len(choices) < 2:
            raise ValueError(f"there is only {len(choices)} option.")
        # Where only whole options exist, together they are the item's text for all that reads a premise.
        premise = " ".join(answers) if self.premise is None else self._filled("premise", self.premise, row)
        options = [
            self._filled("option", self.option, {**row, "premise": premise, "answer_text": text}) for text in answers
        ]
        return Item(
            id=name,
            options=tuple(options),
            premise=premise,
            prompt=self._filled("doc_to_text", self.doc_to_text, row) if self.doc_to_text else "",
            continuations=tuple(self.target_delimiter + choice for choice in choices),
            gold=self._gold(row, choices),
            category=str(row.get(self.category) or "") if self.category else "",
            answers=tuple(answers),
            cluster=str(row.get(self.cluster) or "") if self.cluster else "",
        )

    def _id(self, row: Row) -> str:
        if self.id is None:
            return str(row["__row"])
        if "{" in self.id:
            return self._filled("id", self.id, row)
        if row.get(self.id) in (None, ""):
            raise ValueError(f"{self.id} has no value, so that the row cannot be paired.")
        return str(row[self.id])

    def _holds(self, reason: str, rule: str, row: Row) -> bool:
        try:
            return bool(_rule(rule)(**row))
        except (TemplateError, TypeError, AttributeError) as error:
            raise ValueError(f"task.leave_out.{reason} cannot be evaluated: {error}.") from error

    def _options(self, key: str, row: Row, name: str) -> list[str]:
        """The options' own texts.

        Raises:
            LeftOut: they are not `options` texts.
            ValueError: one is blank, without a number of `options` to go by.
        """
        given = self.doc_to_choice if key == "doc_to_choice" else self.answers
        if self.options is None:
            return self._choices(key, given, row)
        found = self._choices(key, given, row, blank=True)
        while found and not found[-1]:
            found.pop()
        if len(found) != self.options or not all(found):
            raise LeftOut(name, f"not {self.options} options with text")
        return found

    def _filled(self, key: str, template: str, row: Mapping[str, Any], blank: bool = False) -> str:
        """A template's text, or a column's value.

        Raises:
            ValueError: a column is missing, or the text is blank although `blank` is False.
        """
        try:
            text = str(row[template]) if template in row else _template(template).render(**row)
        except (TemplateError, ValueError) as error:
            raise ValueError(f"task.{key} cannot be filled in: {error}.") from error
        if not blank and not text.strip():
            raise ValueError(f"{key} is blank.")
        return text

    def _choices(self, key: str, given: Any, row: Row, blank: bool = False) -> list[str]:
        """A list's texts; those without text are "" with `blank`, and an error without."""
        if isinstance(given, str):
            found = _list(key, row[given] if given in row else self._filled(key, given, row))
        else:
            found = list(given)
            if self.choices_are_templates or key == "answers":
                found = [self._filled(f"{key}[{k}]", text, row, blank) for k, text in enumerate(found)]
        texts = [str("" if text is None else text) for text in found]
        without = next((k for k, text in enumerate(texts) if not text.strip()), None)
        if without is not None and not blank:
            raise ValueError(f"option {without + 1} of {len(found)} is blank.")
        return [text if text.strip() else "" for text in texts]

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
        raise ValueError(f"the right answer is '{target}', neither one of {', '.join(known)} nor an option's text.")


def described(items: Iterable[Item], text: str) -> Iterable[Item]:
    """The items with a text before their prompts, examples included."""
    if not text:
        return items
    return [replace(item, prompt=text + item.prompt, description=text + item.description) for item in items]


def _rows(side: ItemSet) -> int:
    return len(side.items) + len(side.left_out)


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
        raise ValueError(f"{key} gives {value!r}, which is not a list such as ['yes', 'no'].")
    return list(value)


def _file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file."""
    if path.suffix == ".jsonl":
        yield from (row for _, row in lines_of(path))
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    else:
        yield from pq.read_table(path).to_pylist()
