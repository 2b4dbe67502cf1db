"""Run all analyses of the report's tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from align_pipeline.config.lang import known_languages
from align_pipeline.errors import ContradictionError, InputError
from align_pipeline.inference import answers, items, languages, numbers
from align_pipeline.inference import study as analysis
from align_pipeline.inference.consistency import consistency, consistency_alignment
from align_pipeline.inference.findings import chance, findings
from align_pipeline.inference.verdicts import verdicts
from align_pipeline.measurements.patching import statistics as patching_analysis
from align_pipeline.measurements.patching import units
from align_pipeline.measurements.patching.pivots import by_pivot
from align_pipeline.measurements.translation import statistics as translation_analysis
from align_pipeline.measurements.translation_patching import statistics as patched_translation
from align_pipeline.page.numbers import layer_range
from align_pipeline.report import models, tuning
from align_pipeline.report.read import Tables
from align_pipeline.store.folders import unlike

PACKAGE = Path(__file__).parent


_PUBLISHED_MODEL = re.compile(r"llama-?3\.1-8b(?!.*(?:instruct|chat))", re.IGNORECASE)


def language_table() -> pd.DataFrame:
    """Name, script, family and resource class by FLORES code, from ``conf/lang``."""
    table = pd.DataFrame(list(known_languages().values()), columns=["flores", "name", "script", "family", "resource"])
    known = table.dropna(subset="flores").drop_duplicates("flores").set_index("flores")
    return known.astype({"resource": "Int64"})


def published() -> pd.DataFrame:
    """The study's published figures for Llama-3.1-8B; the first lines of the file name their source."""
    table = pd.read_csv(PACKAGE / "published.csv", comment="#", keep_default_na=False, na_values={"layer": [""]})
    return table.astype({"layer": "Int64"})


@dataclass(frozen=True)
class Results:
    """The results of a report.

    Attributes:
        tables: what was read.
        study: alignment joined with answers.
        languages: from `language_table`.
        by_name: the tables of all analyses; those in `FILES` become CSV files.
        notes: what the page says first about the tables as a whole.
    """

    tables: Tables
    study: analysis.Study
    languages: pd.DataFrame
    by_name: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]


FILES = {
    "verdicts": "the numbers in the findings: effect, interval, p and verdict of each question",
    "chance": "share of aligned items compared with chance, per language, metric and layer",
    "numbers": "metrics that give numbers: mean over items, per language, metric and layer",
    "items_by_language": "TS against TF at each language's best layer: permutation tests and cluster bootstrap",
    "items_pooled": "TS against TF over all languages: permutation tests (max-T over layers) and cluster bootstrap",
    "same_item": "each item compared over its languages: linear and conditional logistic regression",
    "language_level": "correlation over languages of alignment and accuracy",
    "instance_level": "the study's tests: TS against TF and right against wrong, per language, metric and layer",
    "regression": "pooled over languages: Cochran-Mantel-Haenszel, as in the study, and logistic regression",
    "calibration": "calibration error and Brier score per language",
    "confidence": "confidence of aligned against other items, per language and metric",
    "consistency": "how often a language's answer is that of English: kappa, RankC, same wrong answers",
    "consistency_alignment": "do aligned items get English's answer more often? Per metric, languages pooled",
    "groups": "accuracy, that of guessing, and sizes of TS and TF per language",
    "points": "the points of the correlations: alignment and accuracy per language",
    "patching": "activation patching: each condition's best layer and middle third, per language",
    "patching_effects": "correction and damage rates and log-odds, per language, condition and layer",
    "patching_contrasts": "the parallel activation (or a map) against each control, per language and layer",
    "patching_categories": "correction rates by the items' category",
    "patching_pivots": "English activations against another pivot's, on the same items, per pivot and language",
    "translation_patching": "patched translation: each condition's best layer and middle third, per language",
    "translation_patching_effects": "BLEU and chrF++ patched and unpatched, per language, condition and layer",
    "translation_patching_contrasts": "the parallel activation against each control, per language and layer",
    "tuning": "tuned models: accuracy before and after, per preset, seed and language; also against placebos",
    "tuning_alignment": "tuned models: share of aligned items before and after, per preset, language, metric and layer",
    "tuning_moves": "tuned models: how many answers became right and wrong, per preset, seed and language",
    "tuning_mediation": "tuned models: did the answers whose alignment rose become right? Per preset and metric",
    "models": "several models on one task: size, accuracy, alignment, and their relation within each model",
    "models_differences": "several models: each minus the reference on the same items, per language and metric",
    "against_published": "comparison with the figures of the study's released outputs",
    "translation_scores": "translation quality and counts per language and direction",
    "translation_level": "correlation over languages of alignment and translation quality",
    "translation_directions": "whether that correlation differs between the directions",
    "translation_asymmetry": "difference in translation quality, into English minus out of it",
    "translation_sentences": "translation quality of aligned and other sentences, per language, metric and layer",
    "translation_accuracy": "correlation over languages of translation quality and accuracy on the choice tasks",
}


def analyse(tables: Tables, seed: int = 0, reference: str | None = None) -> Results:
    """See `_analyse`; an error about runs that contradict each other says which, and in what they differ."""
    try:
        return _analyse(tables, seed, reference)
    except ContradictionError as error:
        raise InputError(f"{error}{unlike(tables.folders)}") from None


def _analyse(tables: Tables, seed: int, reference: str | None) -> Results:
    """Run every analysis on the tables.

    Args:
        tables: from `read`.
        seed: of the bootstrap, permutations and random halves.
        reference: the model that others are compared with; None: the smallest, or the earliest checkpoint.

    Raises:
        InputError: tables contradict each other, or there is no model of the reference's name.
    """
    known = language_table()
    last = last_layers(tables.summaries)
    read = tables.by_name
    aligned, measured = numbers.split(read["alignment"])
    study = analysis.join(aligned, read["predictions"], last)
    cells = analysis.tally(study)
    means = numbers.means(measured, read["baselines"], last)
    groups = analysis.groups(study.predictions)
    groups = groups.merge(answers.above_chance(study.predictions), "left", analysis.UNIT)
    every = pd.concat([cells, numbers.as_shares(means)], ignore_index=True) if len(means) else cells
    points = analysis.points(study, every)
    found = findings(study, cells, seed)
    chances = chance(study, cells, read["baselines"], found.items_by_language)
    level = languages.language_level(points, known, seed=seed)
    patched = units.join(read["patching"], read["predictions"], last)
    translated = patched_translation.analyse(read["translation_patching"], last, seed=seed)
    by_name = dict(
        cells=cells,
        numbers=means,
        chance=chances,
        verdicts=verdicts(level, found, chances),
        items_by_language=found.items_by_language,
        items_pooled=found.items_pooled,
        same_item=found.same_item,
        points=points,
        language_level=level,
        instance_level=items.instance_level(cells),
        calibration=answers.calibration(study.predictions),
        regression=items.regression(study, cells),
        confidence=answers.confidence(study, cells),
        reliability=answers.reliability(study.predictions),
        consistency=consistency(study.predictions),
        consistency_alignment=consistency_alignment(study, cells),
        groups=groups,
        against_published=against_published(study, points),
        patching=patching_analysis.summary(patched, seed=seed),
        patching_effects=patching_analysis.effects(patched, seed=seed),
        patching_contrasts=patching_analysis.contrasts(patched, seed=seed),
        patching_categories=patching_analysis.by_category(patched),
        patching_pivots=by_pivot(patched),
        translation_patching=translated["summary"],
        translation_patching_effects=translated["effects"],
        translation_patching_contrasts=translated["contrasts"],
        **tuning.compare(study, cells, tables.summaries),
        **models.compare(study, cells, chances, level, found.same_item, tables.summaries, reference, seed),
        **translation_analysis.analyse(read["translations"], study, cells, groups, seed),
    )
    return Results(tables, study, known, by_name, notes(study, tables))


def notes(study: analysis.Study, tables: Tables) -> tuple[str, ...]:
    """What the page says first about the tables as a whole."""
    left_out = [tables.left_out] if tables.left_out else []
    return (*left_out, *study.notes, *_about_layers(study, tables), *tuning.notes(study, tables.summaries))


def last_layers(summaries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Index L of each model's layer after the final norm, from the summaries that have it (``num_layers``)."""
    return {s["model"]: s["num_layers"] for s in summaries if "model" in s and isinstance(s.get("num_layers"), int)}


def _about_layers(study: analysis.Study, tables: Tables) -> Iterator[str]:
    told = last_layers(tables.summaries)
    every = sorted({(key[0], tuple(map(int, block.layers))) for key, block in study.blocks.items()})
    highest = {model: max((k[-1], len(k) == k[-1] + 1) for own, k in every if own == model) for model, _ in every}
    for model, (layer, is_whole) in highest.items():
        if model not in told and not is_whole:
            yield (
                f"The tables of {model} hold only some layers; the highest, layer {layer}, is treated as the one after "
                "the final norm and left out of maxima, means and best layers."
            )
    for model, layers in every:
        if model in told and len(layers) <= told[model]:
            yield (
                f"Tables of {model} hold only some of its layers 0 to {told[model]}: {layer_range(layers)}; maxima, "
                "means and best layers are taken over these."
            )


def against_published(study: analysis.Study, points: pd.DataFrame) -> pd.DataFrame:
    """Compare a run of the study's model with the study's published figures.

    Returns:
        a row per figure that both have: model, task, language, pivot, quantity (accuracy or a metric), pooling, reduce,
        run, published, difference (run minus published), n_run, n_published, note.
    """
    keys = ["task", "language", "pivot", "quantity", "pooling", "reduce"]
    by_unit = study.predictions.groupby(analysis.UNIT)["correct"]
    accuracy = pd.DataFrame({"run": by_unit.mean(), "n_run": by_unit.size()}).reset_index()
    accuracy = accuracy.assign(quantity="accuracy", pooling="", reduce="")
    own = points[points["reduce"] != "layer"].drop(columns="task")
    own = own.rename(columns={"alignment_task": "task", "metric": "quantity", "alignment": "run", "n": "n_run"})
    both = pd.concat([accuracy[["model", *keys, "run", "n_run"]], own[["model", *keys, "run", "n_run"]]])
    both = both[both["model"].astype(str).str.contains(_PUBLISHED_MODEL)]
    both = both.drop_duplicates(["model", *keys]).astype(dict.fromkeys(["model", *keys], object))
    figures = published().rename(columns={"value": "published", "n": "n_published"}).drop(columns="layer")
    found = both.merge(figures.astype(dict.fromkeys(keys, object)), on=keys)
    found["difference"] = found["run"].astype(float) - found["published"]
    columns = ["model", *keys, "run", "published", "difference", "n_run", "n_published", "note"]
    return found[columns].sort_values(["model", *keys], ignore_index=True)
