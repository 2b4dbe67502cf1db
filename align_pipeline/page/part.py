"""What a section of the report is made of: the tables of one model and task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from align_pipeline.figures import style
from align_pipeline.inference.study import Study


@dataclass(frozen=True)
class Part:
    """A report's tables for one model and task.

    Attributes:
        model, task: which.
        tables: all tables of the report, by name.
        study: alignment and answers, joined.
        languages: name, script, family and resource class by FLORES code.
        models: how many models the report has.
    """

    model: str
    task: str
    tables: Mapping[str, pd.DataFrame]
    study: Study
    languages: pd.DataFrame
    models: int

    def of(self, name: str) -> pd.DataFrame:
        """The rows of one of the tables; empty if the report does not have it."""
        table = self.tables.get(name, pd.DataFrame())
        keys = {key: value for key, value in (("model", self.model), ("task", self.task)) if key in table}
        return table[(table[list(keys)] == pd.Series(keys)).all(axis=1)] if keys else table

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """Metric and pooling, in the order of DALI, DALI_S, MEXA_T, others."""
        found = [
            (metric, pooling)
            for model, task, metric, pooling in self.study.blocks
            if (model, task) == (self.model, self.task)
        ]
        order = list(style.METRICS)
        return sorted(found, key=lambda m: (order.index(m[0]) if m[0] in order else len(order), m))

    def name(self, *words: str) -> str:
        """A plot's name; the model is in it only where there are several."""
        return "_".join([words[0], *([self.model] if self.models > 1 else []), self.task, *words[1:]])
