"""Parallel sentences that a model or a map learns from; never evaluation data."""

from __future__ import annotations

import os
from dataclasses import dataclass

from align_pipeline.errors import InputError


@dataclass
class PairsConfig:
    """Where parallel sentences of English and another language come from."""

    source: str = "flores"
    """``flores`` (FLORES+), ``ntrex`` (NTREX-128), ``opus100`` (OPUS-100), or files of your own: a name with
    ``LANG`` in place of the language's FLORES code. ``.jsonl`` and ``.tsv`` have the columns ``english`` and ``other``;
    any other file is half of a Moses pair, one sentence per line; its other half has the same name for ``eng_Latn``."""
    split: str | None = None
    """The split of a data set; null: dev of FLORES+, test of NTREX-128, train of OPUS-100."""
    limit: int | None = None
    """Only the first N pairs of each language."""
    allow_overlap: bool = False
    """Allow sentences that also occur in the evaluated texts; otherwise they are an error."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"The limit of {self.limit} sentence pairs is too small; use 1 or more, or null for all.")
        if "LANG" in self.source:  # the same files are one source, however their path is written
            self.source = os.path.abspath(self.source)
