"""The page's first sentences: where in depth languages meet the pivot; do aligned languages and items do better?

Each starts with its effect. Where a number is missing, the reason stands in its place.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd

from align_pipeline.config.lang import name_of, names
from align_pipeline.figures import interactive, short
from align_pipeline.figures.style import METRICS
from align_pipeline.inference.verdicts import BOUNDS, LEVEL
from align_pipeline.page.part import CARD, Lead, Part, lead, of_metric

TEMPLATE = "align_pipeline/measurements/alignment/lead.html"
WHERE = "Where in depth do languages meet the pivot?"
LANGUAGES = "Do aligned languages do better?"
ITEMS = "Do aligned items do better?"
QUESTIONS = (WHERE, LANGUAGES, ITEMS)


def with_chance(part: Part, metric: str, pooling: str) -> pd.DataFrame:
    """The shares of one metric by language and layer, with chance."""
    chances = of_metric(part.of("chance"), metric, pooling)[["language", "pivot", "layer", "chance"]]
    return of_metric(part.of("cells"), metric, pooling).merge(chances, how="left", on=["language", "pivot", "layer"])


def leads(part: Part) -> list[Lead]:
    """The sentences of the first metric."""
    if not part.metrics:
        return []
    found = [_where(part)]
    verdicts = of_metric(part.of("verdicts"), *part.metrics[0])
    if part.of("translation_scores").empty and len(verdicts):
        found += [_languages(part, verdicts), _items(part, verdicts)]
    return found


def guessing(groups: pd.DataFrame) -> SimpleNamespace | None:
    """In how many languages accuracy is above chance; None if the tables do not show the number of options."""
    tested = groups[groups["p_chance_holm"].notna()]
    if tested.empty:
        return None
    return SimpleNamespace(
        chance=tested["chance"].mean(),
        tested=len(tested),
        above=int((tested["p_chance_holm"] < LEVEL).sum()),
        low=tested["accuracy"].min(),
        high=tested["accuracy"].max(),
        english=tested["english_accuracy"].mean(),
    )


def points_of(part: Part, rows: pd.DataFrame) -> pd.DataFrame:
    """Points of a scatter plot, with accuracy's standard error and that of guessing."""
    return rows.merge(part.of("groups")[["language", "pivot", "stderr", "chance"]], "left", ["language", "pivot"])


def depth(rows: pd.DataFrame, chances: pd.DataFrame) -> SimpleNamespace:
    """The numbers of the sentence about depth.

    Args:
        rows: from `with_chance`, of one metric.
        chances: rows of `findings.chance` of the metric.

    Returns:
        `layer`, the lowest with the highest mean `share` over languages, of those that count; `chance` there, or None;
        `last`, the highest layer of all; `is_alone`, whether all others that count have less; `is_outdone`, whether one
        that does not count has as much; `low` and `high`, the quartiles of the best layers of the `found`
        languages with an aligned item; `above` of `tested` languages are above chance at their best layer.
    """
    inner = rows[rows["inner"].astype(bool)]
    mean = inner.groupby("layer")[["share", "chance"]].mean()
    layer = int(mean.index[int(mean["share"].to_numpy(float).argmax())])
    share, chance = (float(mean[name].to_numpy(float)[list(mean.index).index(layer)]) for name in ("share", "chance"))
    outside = rows[~rows["inner"].astype(bool)].groupby("layer")["share"].mean()
    best = rows[rows["best_layer"].astype(bool) & (rows["share"] > 0)]["layer"]
    tested, above = above_chance(chances)
    return SimpleNamespace(
        layer=layer,
        share=share,
        chance=None if pd.isna(chance) else chance,
        last=int(rows["layer"].max()),
        layers=len(mean),
        is_alone=bool((mean["share"] < share - 1e-12).sum() == len(mean) - 1),
        is_outdone=bool((outside >= max(share - 1e-12, 1e-12)).any()),
        languages=len(rows.drop_duplicates(["language", "pivot"])),
        found=len(best),
        low=None if best.empty else int(best.quantile(0.25, interpolation="lower")),
        high=None if best.empty else int(best.quantile(0.75, interpolation="higher")),
        tested=tested,
        above=above,
    )


def above_chance(chances: pd.DataFrame) -> tuple[int, int]:
    """The number of languages whose best layer was compared with chance, and of those in which it is above."""
    tested = chances[chances["best_layer"].astype(bool) & chances["above"].notna()]
    return len(tested), int((tested["low"] > 0).sum())


def pivot_of(rows: pd.DataFrame) -> str:
    """The pivot's name; English if it is no language but a data set's English side of one language."""
    found = sorted({str(pivot) for pivot in rows["pivot"].unique()})
    known = [pivot for pivot in found if pivot in names()]
    if not known:
        return "English"
    return name_of(known[0]) if len(found) == 1 else "the pivot"


def _where(part: Part) -> Lead:
    metric = part.metrics[0]
    rows = with_chance(part, *metric)
    found = depth(rows, of_metric(part.of("chance"), *metric))
    drawn = part.draw(partial(short.meeting, rows), CARD, "depth")
    live = interactive.curves(rows, small=True)
    return _lead(part, WHERE, "depth", one=found, pivot=pivot_of(rows), image=drawn, live=live)


def _languages(part: Part, verdicts: pd.DataFrame) -> Lead:
    row = _first(verdicts, "languages")
    points = part.of("points")
    rows = points_of(part, of_metric(points[points["reduce"] == "max"], *part.metrics[0]))
    rows = rows[(rows["alignment_task"] == part.task) & rows["accuracy"].notna() & rows["alignment"].notna()]
    image, live = "", None
    if len(rows) > 1:
        image = part.draw(partial(short.scatter, rows, part.languages["resource"]), CARD, "languages")
        live = interactive.scatter(rows, small=True)
    more = {"guessing": guessing(part.of("groups")), "bound": BOUNDS["correlation"]}
    return _lead(part, LANGUAGES, "languages", row=row, image=image, live=live, **more)


def _items(part: Part, verdicts: pd.DataFrame) -> Lead:
    """Within items, over languages, which holds an item's difficulty constant; else over items, languages pooled."""
    row = next((one for one in (_first(verdicts, q) for q in ("same_item", "items_pooled")) if _is_known(one)), None)
    image = ""
    if row is not None:
        table = part.of("verdicts")
        table = table[(table["question"] == row.question) & table["effect"].notna()]
        scale, none, title = (1, 1.0, "odds ratio, TS against TF")
        if row.unit != "odds ratio":
            scale, none, title = 100, 0.0, "gain in accuracy, in points"
        labels = [METRICS.get(str(name), str(name)) for name in table["metric"]]
        middle, low, high = ((scale * table[name].astype(float)).tolist() for name in ("effect", "low", "high"))
        image = part.draw(partial(short.effects, labels, middle, low, high, title, none), CARD, "items")
    reason = _first(verdicts, "items_pooled") or _first(verdicts, "same_item")
    return _lead(part, ITEMS, "items", row=row or reason, image=image, live=None, bounds=BOUNDS)


def _lead(part: Part, question: str, about: str, **shown: Any) -> Lead:
    return lead(question, QUESTIONS.index(question) + 1, TEMPLATE, about=about, name=part.first, **shown)


def _first(verdicts: pd.DataFrame, question: str) -> Any:
    """The question's row; None if there is none."""
    return next(verdicts[verdicts["question"] == question].itertuples(), None)


def _is_known(row: Any) -> bool:
    return row is not None and row.verdict != "" and not pd.isna(row.effect)
