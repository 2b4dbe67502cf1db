"""Common code of all benchmarks: reading both sides, and finding the languages that exist.

A task defines how one row becomes one `Item` (`ParallelTask.item`) and the columns of its data set.
"""

from __future__ import annotations

import logging
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from align_pipeline.config.lang import Language, known_languages
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.source import Row, Source
from align_pipeline.data.tasks.pairs import ItemSet, Pair, pair
from align_pipeline.errors import InputError, is_whole

log = logging.getLogger(__name__)
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class LeftOut(ValueError):  # noqa: N818 - not an error: a rule of the task leaves the row out
    """A row that a rule of the task leaves out of the benchmark.

    Attributes:
        id: the row's id.
        reason: why; the same words for all rows that the rule leaves out, because they are counted by it.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(reason)
        self.id = id
        self.reason = reason


OWN_FILES = "own files"
"""The data set of a task that reads files of the user."""


@dataclass(frozen=True)
class ParallelTask(ABC):
    """A benchmark with the same items in many languages; its fields are the keys of ``conf/task/<name>.yaml``."""

    name: str
    dataset: str
    """Hub id, and the path inside a data folder."""
    split: str
    """The split whose items are evaluated."""
    fewshot_split: str
    """The split that the examples of a prompt come from."""
    revision: str | None = None
    """Branch, tag or commit of the data set on the hub; None: the default branch."""
    files: str | None = None
    """Pattern with {config} and {split}, for a hub revision whose card declares no configs."""
    pivot: str | None = None
    """Config of the English side; None: each language has its own, in `Language.pivots`."""
    num_fewshot: int = 5
    """Number of examples in a prompt."""
    limit: int | None = None
    """Only the first N English items and their counterparts are used."""
    unicode: str | None = None
    """``NFC`` or another Unicode normal form: all texts are converted to it, English included. None: no conversion."""

    columns: ClassVar[tuple[str, ...]] = ()
    texts: ClassVar[tuple[str, ...]] = ()
    """Those of `columns` that hold text, even if all values of a file look like numbers or dates."""
    offers: ClassVar[frozenset[str]]
    """Kinds of text that its items have for the metrics: ``options``, ``premises``, ``sentences``."""

    def __post_init__(self) -> None:
        if not is_whole(self.num_fewshot, 0):
            raise InputError(f"task.num_fewshot={self.num_fewshot} is not a valid number of examples; use 0 or more.")
        if self.limit is not None and not is_whole(self.limit, 1):
            raise InputError(f"task.limit={self.limit} is not a valid number of items; use 1 or more, or null for all.")

        if self.unicode not in (None, *FORMS):
            raise InputError(
                f"task.unicode={self.unicode} is not a Unicode normal form; available: {', '.join(FORMS)}."
            )

    @abstractmethod
    def item(self, row: Row, config: str) -> Item:
        """One row as an `Item` without few-shot examples.

        Args:
            row: the row, with all of `columns`.
            config: the data set's name for the language.

        Raises:
            LeftOut: a rule of the task leaves the row out.
            ValueError: the row cannot be used; says why.
        """

    # ---- languages

    def config_of(self, language: Language, present: Collection[str] | None) -> str | None:
        """The data set's config for the language; None if there is none.

        Args:
            language: the language.
            present: the configs of a local copy; None on the hub.
        """
        config = language.codes.get(self.name)
        return config if present is None or config in present else None

    def english_of(self, language: Language) -> tuple[str, str]:
        """The English side of a language, as (name of the set in the tables, config).

        Raises:
            InputError: the language has none, or its config is not English.
        """
        own = language.pivots.get(self.name)
        if own is not None:
            self._refuse_other_pivots(own, f"languages.<code>.pivots.{self.name}")
            return own, own
        if self.pivot is None:
            raise InputError(
                f"{language.flores} has no English side for {self.name}: add `pivots: {{{self.name}: <config>}}` "
                "to its file in conf/lang."
            )
        self._refuse_other_pivots(self.pivot, "task.pivot")
        return ENGLISH, self.pivot

    def _refuse_other_pivots(self, config: str, key: str) -> None:
        """Refuse a pivot that is not English, because tables and report would call it English.

        Raises:
            InputError: `config` belongs to another language.
        """
        named = {one["codes"].get(self.name): one["name"] for one in known_languages().values() if "codes" in one}
        name = named.get(config)
        if name is not None and name != "English":
            raise InputError(
                f"{key}={config} is {name}; the pivot must be English, as tables and reports call it English."
            )

    def supported(self, languages: Iterable[Language], source: Source, named: Collection[str]) -> list[Language]:
        """The languages that the task has in this source; the others are left out and logged.

        Args:
            languages: what the user selected.
            source: where the rows would be read.
            named: FLORES codes that the user asked for by name.

        Raises:
            InputError: a language asked for by name does not exist here, or no language is left.
        """
        present = self.present(source)
        kept, lacking = [], []
        for language in languages:
            if self.config_of(language, present) is None or language.flores == ENGLISH:
                lacking.append(language)
            else:
                kept.append(language)
        for language in lacking:
            if language.flores == ENGLISH and language.flores in named:
                raise InputError("English is the pivot of every run; select other languages with lang=.")
            if language.flores in named:
                has = sorted(present) if present is not None else ["the languages in conf/lang/set/" + self.name]
                hint = ""
                if self.dataset and present is not None and self.name not in language.codes:
                    known = known_languages().items()
                    code = next((code for code, one in known if one["flores"] == language.flores), "<code>")
                    hint = f" If one of them is {language.name}, set +languages.{code}.codes.{self.name}=<its name>."
                raise InputError(
                    f"{self.name} has no {language.name} ({language.flores}) in {self.origin(source)}; "
                    f"it has {_some(has)}.{hint}"
                )
        if lacking and kept:
            log.info(
                "Left out because %s (%s) does not have them: %s.",
                self.name,
                self.origin(source),
                _some([x.flores for x in lacking]),
            )
        return kept

    def origin(self, source: Source) -> str:
        """Where the rows come from, as a setting, such as ``data=hub``."""
        return f"data={source.name}"

    # ---- items

    def pairs(self, languages: Sequence[Language], source: Source) -> list[Pair]:
        """Both sides of every language, paired by id; an English side that several languages share is read once."""
        english: dict[str, ItemSet] = {}
        present = self.present(source)
        pairs = []
        for language in languages:
            pivot, english_config = self.english_of(language)
            if pivot not in english:
                english[pivot] = self._side(source, english_config, ENGLISH, pivot)
            config = self.config_of(language, present)
            assert config is not None, "supported() keeps only languages that the task has"
            pairs.append(pair(self._side(source, config, language.flores, pivot), english[pivot], self.limit))
        return pairs

    def _side(self, source: Source, config: str, language: str, pivot: str) -> ItemSet:
        items, left_out = self._sorted(source, config, self.split)
        usual = Counter(len(item.options) for item in items).most_common(1)[0][0]
        reason = f"another number of options than most items ({usual})"  # chance levels need one number
        left_out |= {item.id: reason for item in items if len(item.options) != usual}
        even = [item for item in items if len(item.options) == usual]
        limited = even if self.limit is None or language != ENGLISH else even[: self.limit]
        return ItemSet(language, pivot, tuple(self._prompted(limited, items, source, config)), left_out)

    def _prompted(self, items: Sequence[Item], every: Sequence[Item], source: Source, config: str) -> Iterable[Item]:
        """The items with complete prompts, few-shot examples included; `every` is the whole split."""
        return items

    def present(self, source: Source) -> frozenset[str] | None:
        """The configs (languages) that the source has; None if only reading them tells, as on the hub."""
        return source.configs(self.dataset)

    def rows(self, source: Source, config: str, split: str) -> list[Row]:
        """The rows of one split; for errors see `Source.load`."""
        return source.load(self.dataset, config, split, self.revision, self.files, self.texts)

    def place(self, source: Source, config: str, split: str, row: int) -> str:
        """Where a row is, by its number from 0, for an error."""
        return source.place(self.dataset, config, split, row)

    def _read(self, source: Source, config: str, split: str) -> list[Item]:
        """All items of one split; for errors see `_sorted`."""
        return self._sorted(source, config, split)[0]

    def _sorted(self, source: Source, config: str, split: str) -> tuple[list[Item], dict[str, str]]:
        """All items of one split, and why other rows are left out, by id.

        Raises:
            InputError: a column is missing, a row cannot be used, or an id appears twice.
        """
        where = f"{self.dataset} ({config}, {split})"
        rows = self.rows(source, config, split)
        missing = [column for column in self.columns if column not in rows[0]]
        if missing:
            raise InputError(f"{where} has no column {missing[0]}; its columns are {', '.join(rows[0])}.")
        items: dict[str, Item] = {}
        left_out: dict[str, str] = {}
        for number, row in enumerate(rows):
            empty = next((column for column in self.columns if row[column] is None), None)
            if empty is not None:
                raise InputError(f"{self.place(source, config, split, number)}: {empty} has no value.")
            if self.unicode is not None:
                row = {name: _in_form(self.unicode, value) for name, value in row.items()}
            try:
                item = self.item(row, config)
            except LeftOut as left:
                left_out[left.id] = left.reason
                continue
            except ValueError as error:
                raise InputError(f"{self.place(source, config, split, number)}: {error}") from error
            if item.id in items:
                raise InputError(f"{where} has the id {item.id} twice; ids must be unique for items to be paired.")
            items[item.id] = item
        if not items:
            raise InputError(
                f"{where} has no item: all {len(rows)} rows are left out, such as: {next(iter(left_out.values()))}."
            )
        return list(items.values()), left_out


def _in_form(form: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_in_form(form, one) for one in value]
    if isinstance(value, dict):
        return {name: _in_form(form, one) for name, one in value.items()}
    return unicodedata.normalize(cast(Literal["NFC"], form), value) if isinstance(value, str) else value


def texts_of(row: Row, columns: Iterable[str]) -> list[str]:
    """The columns' texts, with surrounding white space stripped.

    Raises:
        ValueError: one of them is empty or not text.
    """
    texts = []
    for column in columns:
        if not isinstance(row[column], str):
            raise ValueError(f"{column} is {row[column]!r}, which is not text; put it in quotation marks.")
        if not row[column].strip():
            raise ValueError(f"{column} is empty.")
        texts.append(row[column].strip())
    return texts


def _some(names: Sequence[str], shown: int = 15) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
