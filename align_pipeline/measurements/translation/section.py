"""The section of the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from align_pipeline.figures import style
from align_pipeline.measurements.translation import figures
from align_pipeline.measurements.translation.leads import compared, leads
from align_pipeline.measurements.translation.statistics import headline
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.page import columns
from align_pipeline.page.numbers import metric_name
from align_pipeline.page.part import Part, Section, in_order
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """The section of a translation task."""
    scored = part.of("translation_scores")
    if scored.empty:
        return Markup()
    score = headline(scored)
    level, asymmetry, sentences, points = (
        table[table["score"] == score]
        for table in (part.of(f"translation_{name}") for name in ("level", "asymmetry", "sentences", "points"))
    )
    whole, best = level[level["reduce"] == "max"], sentences[sentences["best_layer"].astype(bool)]
    single = asymmetry[asymmetry["language"] != "all"]
    accuracy = part.tables["translation_accuracy"]  # holds the tasks with answers
    return render(
        "align_pipeline/measurements/translation/section.html",
        score=style.SCORES[score],
        scores=style.SCORES,
        over_languages=whole[whole["alignment_task"] == part.task],
        over_directions=asymmetry[asymmetry["language"] == "all"],
        over_sentences=list(_over_sentences(best)),
        scored=_overview(part, scored),
        scored_columns=_columns(scored),
        languages=len(single),
        directions_image=part.draw(partial(figures.directions, single), "directions") if len(single) else "",
        scatters=list(_scatters(part, points[points["reduce"] == "max"], whole)),
        level=part.of("translation_level"),
        gaps=part.of("translation_directions"),
        accuracy=accuracy[accuracy["model"] == part.model],
        best=best,
        sentences=list(_sentences(part, best)),
    )


def _over_sentences(best: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Values for the sentences that compare aligned with other sentences."""
    for (metric, pooling, direction), rows in best.groupby(["metric", "pooling", "direction"]):
        yield {"name": metric_name(str(metric), str(pooling)), "direction": direction, **compared(rows)}


def _ending(direction: str) -> str:
    return "_" + direction.replace("-", "_")


def _overview(part: Part, scored: pd.DataFrame) -> pd.DataFrame:
    """One row per language, one column per score and direction."""
    table = scored[["language"]].drop_duplicates()
    for direction, rows in scored.groupby("direction"):
        own = rows.drop(columns=["model", "task", "direction"]).dropna(axis="columns", how="all").set_index("language")
        table = table.merge(own.add_suffix(_ending(str(direction))), how="left", on="language")
    return table


def _columns(scored: pd.DataFrame) -> list[columns.Column]:
    """The columns of `_overview`; in each direction, the scores that there are."""
    found = [columns.text("Language", "language")]
    for direction, rows in scored.groupby("direction"):
        ending, known = _ending(str(direction)), rows.notna().any()
        found.append(columns.count(escape(direction) + Markup("<br>n"), f"n{ending}"))
        scores = {score: name for score, name in style.SCORES.items() if known.get(score, False)}
        found += [columns.number(name, f"{score}{ending}", 1) for score, name in scores.items()]
        found += [columns.number(name.replace("_", " "), f"{name}{ending}") for name in ("empty", "copies", "cut_off")]
    return found


def _scatters(part: Part, points: pd.DataFrame, whole: pd.DataFrame) -> Iterator[SimpleNamespace]:
    for key, rows in in_order(points):
        source, metric, pooling = key
        numbers = whole[(whole[["alignment_task", "metric", "pooling"]] == list(key)).all(axis=1)]
        drawn = partial(figures.translation_scatter, rows, numbers)
        yield SimpleNamespace(
            name=metric_name(metric, pooling),
            task=source,
            n=rows["language"].nunique(),
            image=part.draw(drawn, "translation", source, metric, pooling),
        )


def _sentences(part: Part, best: pd.DataFrame) -> Iterator[SimpleNamespace]:
    for key, rows in best.groupby(["metric", "pooling"]):
        metric, pooling = map(str, key)
        if rows["rank_biserial"].notna().any():
            yield SimpleNamespace(
                name=metric_name(metric, pooling),
                n=rows.loc[rows["rank_biserial"].notna(), "language"].nunique(),
                image=part.draw(partial(figures.rank_biserial, rows), "sentences", metric, pooling),
            )


SECTION = Section(
    "translations", TRANSLATIONS, _show, optional=frozenset(("spbleu", "comet", "cometkiwi")), leads=leads
)
