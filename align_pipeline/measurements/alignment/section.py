"""The section of the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import curves, interactive, plots
from align_pipeline.figures.style import MEAN, SHARE
from align_pipeline.inference.numbers import as_shares
from align_pipeline.inference.study import MIN_LANGUAGES
from align_pipeline.inference.tuning import OTHER, TRAINED
from align_pipeline.inference.verdicts import BOUNDS, LEVEL
from align_pipeline.measurements.alignment.leads import above_chance, guessing, leads, points_of, with_chance
from align_pipeline.measurements.alignment.table import ALIGNMENT, BASELINES
from align_pipeline.page import columns
from align_pipeline.page.numbers import metric_name, metric_names
from align_pipeline.page.part import Part, Section, in_order, of_metric
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """Headline findings, then alignment against accuracy: over languages, by layer and over items."""
    is_answered = part.of("translation_scores").empty  # without answers there is no accuracy to compare with
    if not part.metrics and part.of("numbers").empty and part.of("calibration").empty:
        return Markup()
    answered = None
    if is_answered:
        answered = SimpleNamespace(
            **_findings(part), **_overview(part), **_languages(part), **_items(part), **_pooled(part)
        )
    return render("align_pipeline/measurements/alignment/section.html", layers=list(_layers(part)), answered=answered)


def _findings(part: Part) -> dict[str, Any]:
    """The headline answers: rows and numbers for the sentences of the template."""
    calibration, verdicts = part.of("calibration"), part.of("verdicts")
    english = calibration["language"] == ENGLISH
    return {
        "guessing": guessing(part.of("groups")),
        "names": metric_names({*part.metrics, *zip(verdicts["metric"], verdicts["pooling"], strict=True)}),
        "questions": list(_questions(verdicts[verdicts["verdict"] != ""])),
        "unanswered": verdicts[verdicts["verdict"] == ""],
        "tests": verdicts["p"].notna().sum(),
        "bounds": BOUNDS,
        "by_language": list(_by_language(part)),
        "calibration": calibration[~english],
        "tuned": _tuned(part.of("tuning")),
        "english_ece": calibration.loc[english, "ece"].mean(),
    }


def _tuned(tuning: pd.DataFrame) -> list[SimpleNamespace]:
    """The change of accuracy of each preset (of the treatments, if there are any), and that beyond each placebo; over
    the languages that it was trained on, or else over the others."""
    mean = tuning[tuning["seed"] == "mean"]
    if (mean["role"] == "treatment").any():
        mean = mean[mean["role"] == "treatment"]
    found = []
    for preset, rows in mean.groupby("preset", sort=False):
        over = next((name for name in (TRAINED, OTHER) if (rows["language"] == name).any()), None)
        if over is not None:
            own = list(rows[rows["language"] == over].itertuples())
            found.append(SimpleNamespace(preset=preset, over=over, rows=own))
    return found


def _questions(verdicts: pd.DataFrame) -> Iterator[SimpleNamespace]:
    """Each question with the verdicts of all metrics, grouped by verdict."""
    for question in ("languages", "items_pooled", "items_somewhere", "same_item"):
        rows = verdicts[verdicts["question"] == question]
        if len(rows):
            yield SimpleNamespace(
                question=question,
                unit=rows["unit"].iloc[0],
                items=rows["n_items"].max(),
                languages=rows["n_languages"].max(),
                answers=[
                    (verdict, list(alike.itertuples()))
                    for verdict in ("supported", "undecided", "ruled_out")
                    if len(alike := rows[rows["verdict"] == verdict])
                ],
            )


def _by_language(part: Part) -> Iterator[SimpleNamespace]:
    """In how many languages TS and TF differ, and in how many the best layer's alignment is above chance."""
    items, chances = part.of("items_by_language"), part.of("chance")
    for metric, pooling in part.metrics:
        rows = of_metric(items, metric, pooling)
        tested = rows[rows["p"].notna()]
        compared, above = above_chance(of_metric(chances, metric, pooling))
        if len(tested) or compared:
            yield SimpleNamespace(
                metric=metric,
                pooling=pooling,
                tested=len(tested),
                more=int(((tested["p_languages"] < LEVEL) & (tested["difference"] > 0)).sum()),
                fewer=int(((tested["p_languages"] < LEVEL) & (tested["difference"] < 0)).sum()),
                chances=compared,
                above=above,
            )


def _overview(part: Part) -> dict[str, Any]:
    """Accuracy and best alignment per language."""
    cells, groups = part.of("cells"), part.of("groups")
    units_of = ["language", "pivot"]
    table = pd.concat([of[units_of] for of in (cells, part.of("numbers"), groups)]).drop_duplicates()
    table = table.merge(groups.drop(columns=["model", "task"]), "left", units_of)
    table = table.merge(part.of("points").drop_duplicates(units_of)[[*units_of, "fertility"]], "left", units_of)
    every = [*part.metrics, *_numbers(part)]
    names = metric_names(every).values()
    for i, (metric, pooling) in enumerate(every):
        rows = _rows(part, metric, pooling)
        best = rows.loc[rows["best_layer"].astype(bool), [*units_of, "share", "layer", "chance"]]
        if i < len(part.metrics):
            best["layer"] = best["layer"].where(best["share"] > 0)  # without an aligned item, no layer is the best
        best = best.rename(columns={"share": f"max_{i}", "layer": f"at_{i}", "chance": f"chance_{i}"})
        mean = rows[rows["inner"].astype(bool)].groupby(units_of)["share"].mean().rename(f"mean_{i}")
        table = table.merge(best, "left", units_of).merge(mean.reset_index(), "left", units_of)
    table["note"] = table["note"].fillna("there are no predictions")
    chances = part.of("chance")
    chances = chances[chances["best_layer"].astype(bool)].sort_values(units_of)
    return {
        "chances": chances,
        "every": table.sort_values(["accuracy", "language"], ascending=[False, True]),
        "twice": bool(table["language"].duplicated().any()),  # then the pivot tells the rows apart
        "best_columns": [
            [columns.number(name, f"max_{i}"), columns.count("at layer", f"at_{i}")] for i, name in enumerate(names)
        ],
        "mean_columns": [
            [columns.number(name + ", chance", f"chance_{i}"), columns.number("mean", f"mean_{i}")]
            for i, name in enumerate(names)
        ],
        "has_numbers": len(every) > len(part.metrics),
    }


def _languages(part: Part) -> dict[str, Any]:
    """Correlation of alignment with accuracy, over languages."""
    level, points = part.of("language_level"), part.of("points")
    whole = level[(level["grouping"] == "all") & (level["reduce"] != "layer")]
    layers = level[(level["grouping"] == "all") & (level["reduce"] == "layer")]
    scatters = []
    for key, rows in in_order(points[points["reduce"] == "max"]) if len(level) else ():
        if len(rows) < 2:  # a point alone shows nothing
            continue
        source, metric, pooling = key
        numbers = whole[(whole[["alignment_task", "metric", "pooling", "reduce"]] == [*key, "max"]).all(axis=1)]
        words = ("scatter", *([] if source == part.task else [source]), metric, pooling)
        rows = points_of(part, rows)
        what = _what(part, metric, pooling)
        image = part.draw(partial(plots.scatter, rows, numbers.iloc[0], part.languages["resource"], what), *words)
        one = {"name": metric_name(metric, pooling), "what": what, "n": len(rows), "image": image}
        scatters.append(one | {"live": interactive.scatter(rows, what=what)})
    drawn = layers["pearson"].notna().any() and layers["layer"].nunique() > 1
    return {
        "level": whole,
        "scatters": scatters,
        "correlation": part.draw(partial(curves.correlation_by_layer, layers), "correlation") if drawn else "",
        "most_languages": layers["n"].max(),
        "subsets": level[(level["grouping"] != "all") & (level["reduce"] != "layer") & (level["n"] >= MIN_LANGUAGES)],
        "min_languages": MIN_LANGUAGES,
    }


def _layers(part: Part) -> Iterator[SimpleNamespace]:
    """Alignment by layer: shares of aligned items, then the means of metrics that give numbers."""
    for metric, pooling in (*part.metrics, *_numbers(part)):
        rows, what = _rows(part, metric, pooling), _what(part, metric, pooling)
        yield SimpleNamespace(
            name=metric_name(metric, pooling),
            what=what,
            languages=rows["language"].nunique(),
            n=rows["n"].max(),
            chance=rows["chance"].notna().any(),
            curves=part.draw(partial(curves.curves, rows, _last(rows), what), "curves", metric, pooling),
            curves_live=interactive.curves(rows, what=what),
            heatmap=part.draw(partial(curves.heatmap, rows, what), "heatmap", metric, pooling),
            heatmap_live=interactive.heatmap(rows, what),
        )


def _numbers(part: Part) -> list[tuple[str, str]]:
    """(metric, pooling) of the metrics that give numbers."""
    return sorted(set(part.of("numbers")[["metric", "pooling"]].itertuples(index=False, name=None)))


def _rows(part: Part, metric: str, pooling: str) -> pd.DataFrame:
    """The shares, or means, of one metric by language and layer, with chance."""
    if (metric, pooling) in _numbers(part):
        return as_shares(of_metric(part.of("numbers"), metric, pooling))
    return with_chance(part, metric, pooling)


def _what(part: Part, metric: str, pooling: str) -> str:
    """What a metric's figures show."""
    return MEAN if (metric, pooling) in _numbers(part) else SHARE


def _last(rows: pd.DataFrame) -> int:
    """The first layer after those that count; one past the last layer if all count."""
    outside = rows.loc[~rows["inner"].astype(bool), "layer"]
    return int(outside.min() if len(outside) else rows["layer"].max() + 1)


def _items(part: Part) -> dict[str, Any]:
    """Results over items, per language."""
    instance, pooled, own = part.of("instance_level"), part.of("items_pooled"), part.of("items_by_language")
    transfer = instance[instance["contrast"] == "ts_tf"]
    pooled = pooled[pooled["at"] == "layer"]
    transfers = []
    for metric, pooling in part.metrics if len(instance) else ():
        rows, odds = of_metric(transfer, metric, pooling), of_metric(pooled, metric, pooling)
        best = rows[rows["best_layer"] & rows["difference"].notna()]
        if len(best):
            differs = of_metric(own, metric, pooling)
            known = differs[differs["difference"].notna()]
            known = known.assign(sure=known["p_languages"] < LEVEL)
            one = {"name": metric_name(metric, pooling), "languages": len(best)}
            one |= {"ts": best["n_a"].sum(), "tf": best["n_b"].sum()}
            one["curves"] = part.draw(partial(plots.transfer, rows, odds), "transfer", metric, pooling)
            one["differences"] = part.draw(partial(plots.forest, differs), "differences", metric, pooling)
            transfers.append(one | {"live": interactive.intervals(known, "share aligned, TS minus TF")})
    has_groups = (transfer["n_a"] * transfer["n_b"] > 0).any()
    return {
        "items": own,
        "instance": instance[instance["best_layer"]],
        "transfers": transfers,
        "transfer_note": "" if has_groups or instance.empty else transfer["note"].iloc[0],
        "has_items": len(instance) > 0,
    }


def _pooled(part: Part) -> dict[str, Any]:
    """Results over items, pooled over languages."""
    pooled = part.of("regression")
    best = pooled[pooled["at"] == "best_layer"]
    logit = best[(best["method"] == "logit") & (best["term"] == "aligned")]
    same = part.of("same_item")
    conditional = same[same["form"] == "conditional_logit"].assign(adjusted_for="item and language")
    logit = pd.concat([logit, conditional.rename(columns={"effect": "odds_ratio"})], ignore_index=True)
    drawn = logit["odds_ratio"].notna().any()
    return {
        "same": same,
        "pooled": best,
        "odds": part.draw(partial(plots.odds, logit), "odds") if drawn else "",
        "odds_answers": logit["n"].max(),
        "odds_items": logit["n_items"].max(),
    }


SECTION = Section(
    "alignment",
    ALIGNMENT,
    _show,
    optional=frozenset({"margin"}),  # only metrics that give numbers need it
    empty=frozenset({"value"}),  # which they leave empty
    others={"baselines": BASELINES},
    leads=leads,
)
