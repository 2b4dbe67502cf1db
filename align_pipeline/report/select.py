"""A report of some of the models, tasks and languages in the tables, and other names for its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from align_pipeline.config.lang import known_languages
from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError, unknown
from align_pipeline.report.read import Tables
from align_pipeline.report.results import Results, notes

T = TypeVar("T", Tables, Results)


@dataclass(frozen=True)
class Choice:
    """What a report is about.

    Attributes:
        models, tasks, languages: names; all if there are none. A language is a FLORES code or a name that ``lang=``
            takes.
        labels: ``name:label`` of models.
    """

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def choose(tables: Tables, choice: Choice) -> Tables:
    """The rows of the chosen models, tasks and languages, and English's rows for these; says what it left out.

    Raises:
        InputError: no row has one of the names, given the keys before it.
    """
    codes = {code: str(language.get("flores", code)) for code, language in known_languages().items()}
    chosen, given = tables, ""
    for kind, names in (("model", choice.models), ("task", choice.tasks), ("language", choice.languages)):
        known = _names(chosen, kind)
        wanted = [codes.get(name, name) if kind == "language" and name not in known else name for name in names]
        for name, one in zip(names, wanted, strict=True):
            if one not in known:
                raise unknown(f"row of {given}with the {kind}" if given else kind, name, known)
        if names:
            chosen = _each(chosen, partial(_only, column=kind, names=wanted))
            given += f"{kind}s={','.join(names)} "
    if chosen is tables:
        return tables
    if choice.languages:
        pivots = _pivots(chosen)
        chosen = _each(chosen, lambda table: _without_other_pivots(table, pivots))
    kept = {kind: set(_names(chosen, kind)) for kind in ("model", "task", "language")}
    left = {kind: len(_names(tables, kind)) - len(names) for kind, names in kept.items()}
    parts = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in left.items() if count]
    summaries = [s for s in tables.summaries if s.get("model") in {*kept["model"], None}]
    # a job of another task still says how many layers the model has, but not which data the report is of
    told = (s if s.get("task") in {*kept["task"], None} else {**s, "data": None} for s in summaries)
    told = ({**s, "languages": [r for r in s.get("languages", ()) if r["language"] in kept["language"]]} for s in told)
    return replace(chosen, summaries=tuple(told), left_out=f"Left out: {', '.join(parts)}." if parts else "")


def _each(thing: T, change: Callable[[pd.DataFrame], pd.DataFrame]) -> T:
    """Tables or results, each of their tables changed."""
    return replace(thing, by_name={name: change(table) for name, table in thing.by_name.items()})


def _names(tables: Tables, column: str) -> list[str]:
    """The names in a column of all tables; of languages, those other than English."""
    found = {str(name) for table in tables.by_name.values() if column in table for name in table[column].unique()}
    return sorted(found - {ENGLISH})


def _only(table: pd.DataFrame, column: str, names: Sequence[str]) -> pd.DataFrame:
    """The rows with one of the names; English is paired with every language."""
    if column not in table:
        return table
    return _rows(table, table[column].isin([*names, ENGLISH] if column == "language" else names))


def _rows(table: pd.DataFrame, chosen: Any) -> pd.DataFrame:
    rows: pd.DataFrame = table[chosen].reset_index(drop=True)
    categories = rows.select_dtypes("category").columns
    return rows.assign(**{name: rows[name].cat.remove_unused_categories() for name in categories})


_OF_PIVOT = ["model", "task", "pivot"]


def _pivots(tables: Tables) -> pd.MultiIndex:
    """Model, task and pivot of all rows that are not English."""
    with_pivot = [table for table in tables.by_name.values() if {*_OF_PIVOT, "language"} <= set(table)]
    rows = [table.loc[table["language"] != ENGLISH, _OF_PIVOT].drop_duplicates().astype(str) for table in with_pivot]
    return pd.MultiIndex.from_frame(pd.concat(rows))


def _without_other_pivots(table: pd.DataFrame, pivots: pd.MultiIndex) -> pd.DataFrame:
    """Without English's rows that no language is paired with."""
    if not {*_OF_PIVOT, "language"} <= set(table):
        return table
    chosen = (table["language"] != ENGLISH).to_numpy(copy=True)
    chosen[~chosen] = pd.MultiIndex.from_frame(table.loc[~chosen, _OF_PIVOT].astype(str)).isin(pivots)
    return table if chosen.all() else _rows(table, chosen)


def labels_of(given: Sequence[str], tables: Tables) -> dict[str, str]:
    """The label of each model that has one, from ``name:label``.

    Raises:
        InputError: there is no such model, no label, or two models would have one name.
    """
    known, labels = _names(tables, "model"), dict[str, str]()
    for text in given:
        # a name may contain a colon itself
        model = max((name for name in known if text.startswith(f"{name}:")), key=len, default=None)
        if model is None and ":" in text:
            raise unknown("model", text.partition(":")[0], known)
        if model is None or not text[len(model) + 1 :].strip():
            raise InputError(f"labels={text} gives no label; use labels=<model>:<label>.")
        labels[model] = text[len(model) + 1 :].strip()
    named = [labels.get(model, model) for model in known]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Two models would be called '{twice}'; give each its own label.")
    return labels


def labelled(results: Results, labels: Mapping[str, str]) -> Results:
    """The results with other names of models.

    They are given after the analyses, because random draws and the comparison with published figures depend on names.
    """
    if not labels:
        return results

    def rename(table: pd.DataFrame) -> pd.DataFrame:
        if "model" not in table:
            return table
        return table.assign(model=table["model"].map(lambda name: labels.get(name, name)))

    def told(summary: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(summary) | {"model": labels.get(str(summary.get("model")), summary.get("model"))}
        tuned = summary.get("tuned")
        return found | ({"tuned": tuned | {"base": labels.get(tuned.get("base"), tuned.get("base"))}} if tuned else {})

    tables = replace(_each(results.tables, rename), summaries=tuple(map(told, results.tables.summaries)))
    blocks = {(labels.get(key[0], key[0]), *key[1:]): block for key, block in results.study.blocks.items()}
    study = replace(
        results.study,
        items=rename(results.study.items),
        predictions=rename(results.study.predictions),
        blocks=dict(sorted(blocks.items())),
        last_layers={labels.get(name, name): last for name, last in results.study.last_layers.items()},
    )
    said = f"Labels: {', '.join(f'{label} is {name}' for name, label in sorted(labels.items()))}."
    renamed = _each(results, rename).by_name
    differences = renamed["models_differences"]
    differences = differences.assign(reference=differences["reference"].map(lambda name: labels.get(name, name)))
    by_name = {**renamed, "models_differences": differences}
    return replace(results, by_name=by_name, tables=tables, study=study, notes=(said, *notes(study, tables)))
