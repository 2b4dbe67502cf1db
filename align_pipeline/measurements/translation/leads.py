"""The page's first sentences of a translation task: are aligned languages, and aligned sentences, translated better?"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from align_pipeline.config.lang import name_of
from align_pipeline.figures import interactive, short
from align_pipeline.figures.style import SCORES
from align_pipeline.inference.verdicts import LEVEL
from align_pipeline.measurements.translation.statistics import headline
from align_pipeline.page.part import CARD, Lead, Part, lead, of_metric

TEMPLATE = "align_pipeline/measurements/translation/lead.html"
LANGUAGES = "Are aligned languages translated better?"
SENTENCES = "Are aligned sentences translated better?"


def leads(part: Part) -> list[Lead]:
    """The sentences of the first metric, for translation into English if there is any."""
    scored = part.of("translation_scores")
    if scored.empty or not part.metrics:
        return []
    score = headline(scored)
    direction = max(scored["direction"].astype(str))  # xx-en comes after en-xx
    level, points, sentences = (
        _of(part, f"translation_{name}", score, direction) for name in ("level", "points", "sentences")
    )
    about = {"score": SCORES[score], "direction": direction, "name": part.first}
    return [_languages(part, level, points, about), _sentences(part, sentences, about)]


def _of(part: Part, table: str, score: str, direction: str) -> pd.DataFrame:
    """The rows of the headline's score, of one direction and the first metric, on the task itself."""
    rows = of_metric(part.of(table), *part.metrics[0])
    rows = rows[(rows["score"] == score) & (rows["direction"] == direction)]
    return rows[rows["alignment_task"] == part.task] if "alignment_task" in rows else rows


def _languages(part: Part, level: pd.DataFrame, points: pd.DataFrame, about: dict[str, Any]) -> Lead:
    row = next(level[level["reduce"] == "max"].itertuples(), None)
    points = points[points["reduce"] == "max"].rename(columns={"quality": "accuracy"})
    points = points[points["accuracy"].notna() & points["alignment"].notna()]
    points = points.assign(pivot="", stderr=float("nan"), chance=float("nan"))
    image, live, title = "", None, f"{about['score']}, {about['direction']}"
    if len(points) > 1:
        image = part.draw(partial(short.scatter, points, part.languages["resource"], title), CARD, "languages")
        live = interactive.scatter(points, small=True, against=title)
    return lead(LANGUAGES, 2, TEMPLATE, kind="languages", row=row, image=image, live=live, level=LEVEL, **about)


def _sentences(part: Part, sentences: pd.DataFrame, about: dict[str, Any]) -> Lead:
    best = sentences[sentences["best_layer"].astype(bool)]
    known = best[best["rank_biserial"].notna()].sort_values("rank_biserial", ascending=False)
    image = ""
    if len(known):
        names = [name_of(code) for code in known["language"]]
        middle, low, high = (known[name].astype(float).tolist() for name in ("rank_biserial", "low", "high"))
        title = "rank-biserial correlation"
        image = part.draw(partial(short.effects, names, middle, low, high, title), CARD, "items")
    return lead(SENTENCES, 3, TEMPLATE, kind="sentences", image=image, live=None, **compared(best), **about)


def compared(best: pd.DataFrame) -> dict[str, Any]:
    """In how many languages aligned sentences are translated better at the best layer, and the median effect."""
    tested = best[best["p_holm"].notna()]
    told = {"tested": len(tested), "sure": int((tested["p_holm"] < LEVEL).sum())}
    return told | {"median": tested["rank_biserial"].median(), "note": next(iter(best["note"]), "")}
