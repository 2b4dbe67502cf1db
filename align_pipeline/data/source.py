"""Rows of a benchmark from the hub, a local folder with the hub's layout, or the data that ship with the package.

`datasets.load_dataset` reads all three the same way: ``<folder>/facebook/belebele`` like ``facebook/belebele``. Only
local JSON lines are read here, unchanged.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align_pipeline import files as lying
from align_pipeline import machine
from align_pipeline.config.paths import EMBEDDED
from align_pipeline.errors import InputError

Row = dict[str, Any]
LANG = re.compile(r"(?<![A-Za-z])LANG(?![A-Za-z])")
"""Stands for a language's FLORES code in a user's pattern of file names."""
_TEXTS = ("string", "large_string")
_SCRATCH = "align_pipeline-"
_COMMIT = re.compile(r"^hf://.*@([0-9a-f]{40})/")


@dataclass(frozen=True, slots=True)
class Source:
    """A place that rows are read from.

    Attributes:
        name: ``hub``, ``embedded``, or the folder.
        commits: the commits on the hub that rows were read from, by data set.
    """

    name: str
    commits: dict[str, set[str]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(
                f"The data folder '{self.name}' does not exist; data= takes 'hub', 'embedded' or a folder that holds "
                "data sets in <folder>/<hub id>/, such as <folder>/facebook/belebele/."
            )

    @property
    def folder(self) -> Path | None:
        """The folder that contains the data sets' hub ids; None for the hub."""
        if self.name == "hub":
            return None
        return EMBEDDED / "data" if self.name == "embedded" else Path(self.name)

    def _card(self, dataset: str) -> list[dict[str, Any]]:
        """The entries of a local copy's dataset card, one for each config.

        Raises:
            InputError: the folder lacks the data set, or its card declares no configs.
        """
        assert self.folder is not None
        card = self.folder / dataset / "README.md"
        if not card.is_file():
            present = sorted(str(p.parent.relative_to(self.folder)) for p in self.folder.glob("*/*/README.md"))
            raise InputError(
                f"The data folder '{self.name}' does not hold {dataset} (there is no {dataset}/README.md); "
                f"it holds {', '.join(present) or 'no data set'}."
            )
        try:
            header = yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])
            return [{**entry, "config_name": str(entry["config_name"])} for entry in header["configs"]]
        except (IndexError, KeyError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"{card} does not begin with a YAML list of `configs`, as cards on the hub do.") from error

    def configs(self, dataset: str) -> frozenset[str] | None:
        """The configs (languages) that a local copy of `dataset` declares in its README; None for the hub.

        Raises:
            InputError: the folder lacks the data set.
        """
        if self.folder is None:
            return None
        return frozenset(entry["config_name"] for entry in self._card(dataset))

    def place(self, dataset: str, config: str, split: str, row: int) -> str:
        """The position of a row, for error messages: file and line from 1 as in an editor, or the row's number.

        Args:
            dataset, config, split: as for `load`.
            row: the row's number, from 0.
        """
        files = self._files(dataset, config, split) if self.folder is not None else []
        return place_in(files[0], row) if len(files) == 1 else f"{dataset} ({config}, {split}), row {row + 1}"

    def _files(self, dataset: str, config: str, split: str) -> list[Path]:
        """The files of one split of a local copy."""
        assert self.folder is not None
        base = self.folder / dataset
        entry = next((e for e in self._card(dataset) if e["config_name"] == config), {})
        given = entry.get("data_files") or []
        patterns = [one for one in given if isinstance(one, dict) and one.get("split") == split]
        found: list[Path] = []
        for pattern in patterns:
            paths = pattern.get("path") or []
            for path in paths if isinstance(paths, list) else [paths]:
                found += [] if Path(path).is_absolute() else sorted(base.glob(str(path)))  # glob cannot take it
        return found

    def load(
        self,
        dataset: str,
        config: str,
        split: str,
        revision: str | None,
        files: str | None,
        texts: Collection[str] = (),
    ) -> list[Row]:
        """All rows of one split, in file order.

        Args:
            dataset: hub id, such as ``facebook/belebele``.
            config: the data set's name for the language.
            split: such as ``test``.
            revision: branch, tag or commit on the hub; a local copy has none.
            files: pattern with ``{config}`` and ``{split}``, for hub revisions whose card declares no configs.
            texts: columns of text. The type cannot be inferred from a file whose answers are all numbers or dates.

        Raises:
            InputError: the rows cannot be read; says why and what would work.
        """
        import datasets

        datasets.disable_progress_bars()
        machine.hand_over_logs("datasets", "huggingface_hub")
        where = f"{dataset} ({config}, {split})" + (" on the hub" if self.folder is None else f" in {self.name}")
        with self._one_sentence(dataset, where), self._at_hand(dataset) as (path, kept):
            found = self._lines(dataset, config, split)
            if found is None:
                arguments: tuple[str, ...] = (path, config)
                if self.folder is None:
                    kept["revision"] = revision
                    if files:
                        arguments, kept["data_files"] = (path,), {split: files.format(config=config, split=split)}
                rows = datasets.load_dataset(*arguments, split=split, **kept)
                read = dict(rows.features or {})
                wrong = [name for name in texts if name in read and getattr(read[name], "dtype", None) not in _TEXTS]
                if wrong:
                    said = datasets.Features({**read, **dict.fromkeys(wrong, datasets.Value("string"))})
                    with contextlib.suppress(Exception):  # if this fails too, the check of the rows says what is wrong
                        rows = datasets.load_dataset(*arguments, split=split, features=said, **kept)
                self.commits.setdefault(dataset, set()).update(_commits(rows))
                found = [dict(row) for row in rows]
        if not found:
            raise InputError(f"{where} is empty: the split has no rows.")
        return found

    def _lines(self, dataset: str, config: str, split: str) -> list[Row] | None:
        """The rows of local JSON lines, unchanged; None where the split has files of another format.

        `datasets` converts text that looks like dates to timestamps, and does not name the line of an error.

        Raises:
            InputError: a line is not a JSON object; names the line.
        """
        paths = [] if self.folder is None else self._files(dataset, config, split)
        if not paths or any(path.suffix != ".jsonl" for path in paths):
            return None
        rows = [row for path in paths for _, row in lines_of(path)]
        none = dict.fromkeys(column for row in rows for column in row)
        return [{**none, **row} for row in rows]

    @contextlib.contextmanager
    def _at_hand(self, dataset: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The data set's location for `datasets`: a path or hub id, and further arguments."""
        if self.folder is None:
            yield dataset, {}
            return
        base = self.folder / dataset
        lying.check(path for path in base.rglob("*") if path.is_symlink() or path.is_file())
        with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch:
            # The cache of `datasets` does not tell apart two folders of the same name, or an edited file from its old
            # version, so a local copy is always read afresh.
            path = base
            if re.search(r"[\[\]{}*?]", str(base)):  # `datasets` would read this path as a pattern
                path = Path(scratch, base.name)
                shutil.copytree(base.resolve(), path, copy_function=os.symlink)
            yield str(path), {"cache_dir": str(Path(scratch, ".cache")), "keep_in_memory": True}

    @contextlib.contextmanager
    def _one_sentence(self, dataset: str, where: str) -> Iterator[None]:
        """Turn errors of `datasets` and the hub into one sentence."""
        from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

        try:
            yield
        except (DatasetNotFoundError, GatedRepoError) as error:
            raise InputError(self._unreachable(dataset, str(error))) from error
        except StopIteration:  # `datasets` raises this for an empty file
            raise InputError(f"{where} is empty: the split has no rows.") from None
        # The last two: an unknown config or split, and a repository that needs a loading script.
        except (DatasetGenerationError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
            if self.folder is None and isinstance(error, (HfHubHTTPError, OSError)):
                raise InputError(
                    f"{dataset} could not be fetched from the hub ({type(error).__name__}); without a network, set "
                    "data= to a folder that holds it, or use data=embedded."
                ) from error
            raise InputError(f"{where} cannot be read: {_cause(error)}") from error

    def _unreachable(self, dataset: str, message: str) -> str:
        if "gated" in message:
            return (
                f"{dataset} is gated on the hub: accept its terms at huggingface.co/datasets/{dataset} and log in with "
                "`hf auth login` (or set HF_TOKEN)."
            )
        return f"{dataset} is not on the hub, or this machine's token has no access to it; check task.dataset."


def _commits(rows: Any) -> set[str]:
    """The commits in the addresses of the files that rows come from; none for a local copy."""
    return {found for file in rows.info.download_checksums or () for found in _COMMIT.findall(str(file))}


def place_in(file: Path, row: int) -> str:
    """The position of a row in a file, by its number from 0; see `Source.place`."""
    if file.suffix == ".jsonl":
        number, _ = next(itertools.islice(_numbered(file), row, None))
        return f"{file}, line {number}"
    return f"{file}, row {row + 1}" + (" below the header" if file.suffix in (".csv", ".tsv") else "")


def lines_of(file: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a JSON lines file with their line numbers from 1.

    Raises:
        InputError: a line is not a JSON object; names the line.
    """
    return ((number, _object(file, number, line)) for number, line in _numbered(file))


def _numbered(file: Path) -> Iterator[tuple[int, bytes]]:
    """The non-empty lines of a JSON lines file and their numbers from 1. Only a line feed ends a line; a BOM is cut."""
    lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _object(file: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{file}, line {number} is not valid JSON: {error}.") from error
    if not isinstance(row, dict):
        raise InputError(
            f"{file}, line {number} is a {type(row).__name__}, not a JSON object with a key for each column."
        )
    return row


def _cause(error: BaseException) -> str:
    """The innermost cause of an error, on one line; `datasets` names the file and line only there."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = re.sub(rf"\S*/{_SCRATCH}\w+/", "", " ".join(str(error).split()))  # names of temporary links to the folder
    return (f"{text[:900]} ..." if len(text) > 900 else text).rstrip(".") + "."
