"""Rows of a benchmark from the hub, a folder laid out like it, or the data that ships with the package.

`datasets.load_dataset` reads all three the same way: ``<folder>/facebook/belebele`` as ``facebook/belebele``.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from align_pipeline.config import EMBEDDED
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from.

    Attributes:
        name: ``hub``, ``embedded`` or the folder as the user gave it.
    """

    name: str

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(
                f"The data folder '{self.name}' does not exist; data= takes 'hub', 'embedded' or a folder that holds "
                "data sets as <folder>/<hub id>/, such as <folder>/facebook/belebele/."
            )

    @property
    def folder(self) -> Path | None:
        """The folder above the data sets' hub ids; None for the hub."""
        if self.name == "hub":
            return None
        return EMBEDDED / "data" if self.name == "embedded" else Path(self.name)

    def configs(self, dataset: str) -> frozenset[str] | None:
        """The configs (languages) that a local copy of `dataset` declares in its README; None: ask the hub by loading.

        Raises:
            InputError: the folder lacks the data set.
        """
        if self.folder is None:
            return None
        card = self.folder / dataset / "README.md"
        if not card.is_file():
            present = sorted(str(p.parent.relative_to(self.folder)) for p in self.folder.glob("*/*/README.md"))
            raise InputError(
                f"The data folder '{self.name}' lacks {dataset} (no {dataset}/README.md below it); "
                f"it holds {', '.join(present) or 'no data set'}."
            )
        try:
            header = yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])
            return frozenset(str(entry["config_name"]) for entry in header["configs"])
        except (IndexError, KeyError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"{card} does not begin with a YAML list of `configs` as on the hub.") from error

    def load(self, dataset: str, config: str, split: str, revision: str | None, files: str | None) -> list[Row]:
        """All rows of one split, in file order.

        Args:
            dataset: hub id, such as ``facebook/belebele``.
            config: the data set's name for the language.
            split: such as ``test``.
            revision: branch, tag or commit on the hub; a local copy has none.
            files: pattern with ``{config}`` and ``{split}`` for hub revisions without a card that names the configs.

        Raises:
            InputError: the rows cannot be had; says why and what would work.
        """
        import datasets
        from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

        datasets.disable_progress_bars()
        local = self.folder is not None
        path = str(self.folder / dataset) if self.folder is not None else ""
        where = f"{dataset} ({config}, {split})" + (f" in {self.name}" if local else " on the hub")
        try:
            if local:
                # datasets' own cache takes two folders of one name for the same data set, and an edited file for the
                # old one: a local copy is read afresh.
                with tempfile.TemporaryDirectory() as cache:
                    rows = datasets.load_dataset(path, config, split=split, cache_dir=cache, keep_in_memory=True)
                    rows = [dict(row) for row in rows]
            elif files:
                pattern = {split: files.format(config=config, split=split)}
                rows = datasets.load_dataset(dataset, data_files=pattern, split=split, revision=revision)
            else:
                rows = datasets.load_dataset(dataset, config, split=split, revision=revision)
        except (DatasetNotFoundError, GatedRepoError) as error:
            raise InputError(self._unreachable(dataset, str(error))) from error
        except DatasetGenerationError as error:
            raise InputError(f"{where} cannot be read: {_cause(error)}") from error
        except StopIteration:  # what datasets raises for a file without lines
            raise InputError(f"{where} is empty: the split has no rows.") from None
        except (ConnectionError, HfHubHTTPError, OSError) as error:
            if local:
                raise InputError(f"{where} cannot be read: {_cause(error)}") from error
            raise InputError(
                f"{dataset} could not be fetched from the hub ({type(error).__name__}); without network, point data= "
                "at a folder that holds it, or use data=embedded."
            ) from error
        except (ValueError, RuntimeError) as error:  # unknown config or split; a repository that is a loading script
            raise InputError(f"{where} cannot be read: {_cause(error)}") from error
        if len(rows) == 0:
            raise InputError(f"{where} is empty: the split has no rows.")
        return [dict(row) for row in rows]

    def _unreachable(self, dataset: str, message: str) -> str:
        if "gated" in message:
            return (
                f"{dataset} is gated on the hub: accept its terms at huggingface.co/datasets/{dataset} and log in with "
                "`hf auth login` (or set HF_TOKEN)."
            )
        return f"{dataset} cannot be found on the hub, or this machine's token may not see it; task.dataset names it."


def _cause(error: BaseException) -> str:
    """The innermost cause of an error, on one line: where datasets hides the file and the line."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split())[:500].rstrip(".") + "."
