"""The numbers of a job's console table and ``summary.json``, from its tables."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.table import Table

from align_pipeline.config import Config
from align_pipeline.data import Source
from align_pipeline.records import ENGLISH
from align_pipeline.tasks import ItemSet, Pair, ParallelTask
from align_pipeline.tracking import Curve
from align_pipeline.translate import SCORES

if TYPE_CHECKING:
    from align_pipeline.translation_patching_analysis import Findings


def layer_curves(alignment: pd.DataFrame) -> list[Curve]:
    """Share of aligned items per layer, by language and metric."""
    if alignment.empty:
        return []
    keys = ["language", "metric", "pooling"]
    shares = alignment.groupby([*keys, "layer"], sort=False)["value"].mean().reset_index()
    return [
        Curve(str(metric), str(language), group["layer"].tolist(), group["value"].tolist())
        for (language, metric, _), group in shares.groupby(keys, sort=False)
    ]


def languages(
    pairs: Sequence[Pair],
    curves: Sequence[Curve],
    predictions: pd.DataFrame,
    num_layers: int,
    translated: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """A row per language; accuracies are None where none were measured.

    ``n`` counts the paired items: TS and TF are counted over them; accuracies are over all items of their own side.
    ``translation`` holds a language's corpus scores and counts, by direction, where `translated` has them.
    """
    rows = []
    for pair in pairs:
        code = pair.language.language
        row: dict[str, Any] = {"language": code, "pivot": pair.english.pivot, "n": len(pair.ids)}
        row |= _accuracies(pair, predictions)
        row["left_out"] = dict(pair.left_out)
        if code in translated:
            row["translation"] = dict(translated[code])
        row["metrics"] = {c.metric: reduced(c, num_layers) for c in curves if c.language == code}
        rows.append(row)
    return rows


def reduced(curve: Curve, num_layers: int) -> dict[str, Any]:
    """A curve's max, where it is, and its mean, over layers 0..L-1 (L, after the final norm, if it is alone)."""
    inner = [(k, v) for k, v in zip(curve.layers, curve.values, strict=True) if k < num_layers]
    inner = inner or list(zip(curve.layers, curve.values, strict=True))
    best, value = max(inner, key=lambda point: (point[1], -point[0]))
    return {
        "best_layer": best,
        "max": value,
        "mean": math.fsum(v for _, v in inner) / len(inner),
        "layers": list(curve.layers),
        "values": list(curve.values),
    }


def _accuracies(pair: Pair, predictions: pd.DataFrame) -> dict[str, Any]:
    keys = ("accuracy", "stderr", "accuracy_norm", "english_accuracy", "english_accuracy_norm", "ts", "tf")
    if predictions.empty:
        return dict.fromkeys(keys)

    def side(items: ItemSet) -> pd.DataFrame:
        chosen = (predictions["language"] == items.language) & (predictions["pivot"] == items.pivot)
        return predictions[chosen].set_index("item_id")

    own, english = side(pair.language), side(pair.english)
    ids = list(pair.ids)
    right, english_right = own["correct"].loc[ids].to_numpy(), english["correct"].loc[ids].to_numpy()
    correct = own["correct"].to_numpy()
    values = (
        float(correct.mean()),
        # As lm-evaluation-harness: from the sample standard deviation.
        float(correct.std(ddof=1) / math.sqrt(len(correct))) if len(correct) > 1 else 0.0,
        float(own["correct_norm"].to_numpy().mean()),
        float(english["correct"].to_numpy().mean()),
        float(english["correct_norm"].to_numpy().mean()),
        int((english_right & right).sum()),
        int((english_right & (1 - right)).sum()),
    )
    return dict(zip(keys, values, strict=True))


def patching_curves(effects: pd.DataFrame) -> list[Curve]:
    """Share of TF items that each condition corrects per layer; heads are too many for curves."""
    shown = effects[(effects["head"] < 0) & effects["correction_rate"].notna()]
    return [
        Curve(str(condition), str(language), rows["layer"].tolist(), rows["correction_rate"].tolist(), "patching")
        for (language, _, condition), rows in shown.groupby(["language", "pivot", "condition"], sort=False)
    ]


def add_patching(rows: Sequence[dict[str, Any]], found: pd.DataFrame) -> None:
    """Give each language's row its conditions: `patching_analysis.summary` without what all of them share."""
    dropped = ["model", "task", "language", "pivot"]
    for row in rows:
        own = found[(found["language"] == row["language"]) & (found["pivot"] == row["pivot"])].drop(columns=dropped)
        row["patching"] = _records(own)


def patching_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each condition corrected, for a person."""
    caption = (
        "Share of TF items that become right. Middle: mean over the middle third of the layers. Attributable to the "
        "concept: the treatment minus the strongest control that lacks the concept, over the middle third."
    )
    made = Table(title="Activation patching", caption=caption, title_justify="left", caption_justify="left")
    for column in ("language", "condition"):
        made.add_column(column)
    for column in ("TF", "corrected\nmax @layer", "middle", "attributable to the concept"):
        made.add_column(column, justify="right")
    for row in rows:
        found = row["patching"]
        if len(found) > 30:  # heads: the most telling ones
            found = sorted(found, key=lambda one: -(one["best_correction"] or 0))[:10]
        for one in found:
            head = f", head {one['head']}" if one["head"] >= 0 else ""
            best = "" if one["best_layer"] is None else f"{one['best_correction']:.3f} @{one['best_layer']}"
            middle = "" if one["middle_correction"] is None else f"{one['middle_correction']:.3f}"
            left = ""
            if one["attributable"] is not None:
                interval = f"[{one['attributable_low']:+.3f}, {one['attributable_high']:+.3f}]"
                left = f"{one['attributable']:+.3f} {interval} over {one['strongest_control']}"
            made.add_row(row["language"], one["condition"] + head, str(one["n_tf"]), best, middle, left)
    return made


def translation_patching_curves(effects: pd.DataFrame) -> list[Curve]:
    """chrF++ by layer, for each direction and condition."""
    return [
        Curve(f"{direction}/{condition}", str(language), rows["layer"].tolist(), rows["chrf"].tolist(), "patched_chrf")
        for (language, direction, condition), rows in effects.dropna(subset="chrf").groupby(
            ["language", "direction", "condition"], sort=False
        )
    ]


def add_translation_patching(rows: Sequence[dict[str, Any]], found: Findings) -> None:
    """Give each language's row its ``summary``, ``effects`` and ``contrasts``, without what all of them share."""
    for row in rows:
        row["translation_patching"] = {
            name: _records(table[table["language"] == row["language"]].drop(columns=["model", "task", "language"]))
            for name, table in vars(found).items()
        }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None for what is missing."""
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(key): getattr(v, "item", lambda v=v: v)() for key, v in r.items()} for r in records]


def translation_patching_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each condition made of the translations, for a person."""
    caption = (
        "Corpus chrF++. Middle: mean change over the middle third of the layers. Attributable to the concept: the "
        "treatment minus the strongest control that lacks the concept, over the middle third."
    )
    made = Table(title="Patched translation", caption=caption, title_justify="left", caption_justify="left")
    for column in ("language", "direction", "condition"):
        made.add_column(column)
    for column in ("n", "unpatched", "best\n@layer", "middle", "attributable to the concept"):
        made.add_column(column, justify="right")
    for row in rows:
        for one in row["translation_patching"]["summary"]:
            best = f"{one['best']:.1f} @{one['best_layer']}"
            middle = "" if one["middle_difference"] is None else f"{one['middle_difference']:+.1f}"
            left = ""
            if one["attributable"] is not None:
                interval = f"[{one['attributable_low']:+.1f}, {one['attributable_high']:+.1f}]"
                left = f"{one['attributable']:+.1f} {interval} over {one['strongest_control']}"
            numbers = (str(one["n"]), f"{one['unpatched']:.1f}", best, middle, left)
            made.add_row(row["language"], one["direction"], one["condition"], *numbers)
    return made


def flat(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The rows as ``<number>/<language>``, for W&B's summary; one language alone also gets the bare names."""
    numbers: dict[str, float] = {}
    for row in rows:
        values = {key: row[key] for key in ("accuracy", "english_accuracy", "ts", "tf") if row[key] is not None}
        for metric, found in row["metrics"].items():
            values |= {f"{metric}_{key}": found[key] for key in ("best_layer", "max", "mean")}
        for direction, found in row.get("translation", {}).items():
            scores = {name: found[name]["score"] for name in SCORES if name in found}
            values |= {f"{name}/{direction}": value for name, value in (scores | _rates(found)).items()}
        for one in row.get("patching", []):
            if one["head"] < 0:
                keys = ("best_layer", "best_correction", "middle_correction", "attributable")
                values |= {f"patch_{one['condition']}_{key}": one[key] for key in keys if one[key] is not None}
        for one in row.get("translation_patching", {}).get("summary", []):
            keys = ("best_layer", "best", "middle_difference", "attributable")
            name = f"patch_{one['condition']}_chrf"
            values |= {f"{name}_{key}/{one['direction']}": one[key] for key in keys if one[key] is not None}
        numbers |= {f"{key}/{row['language']}": value for key, value in values.items()}
        if len(rows) == 1:
            numbers |= values
    return numbers


def provenance(task: ParallelTask, source: Source, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Which data the numbers are of, down to a digest of the items."""
    sides = {(side.language, side.pivot): side for pair in pairs for side in (pair.english, pair.language)}
    return {
        "source": source.name,
        "dataset": task.dataset,
        "revision": None if source.folder else task.revision,
        "split": task.split,
        "sides": [
            {"language": language, "pivot": pivot, "items": len(side.items), "sha256": digest(side)}
            for (language, pivot), side in sides.items()
        ],
    }


def digest(side: ItemSet) -> str:
    """SHA-256 of everything a model is shown of a side."""
    return hashlib.sha256(repr(side.items).encode()).hexdigest()


def table(content: Mapping[str, Any], config: Config, folder: Path) -> Table:
    """The rows as a table a person reads."""
    rows = content["languages"]
    metrics = list(rows[0]["metrics"])
    directions = list(rows[0].get("translation", {}))
    title = f"{content['task']}: {content['model']} on data from {content['data']['source']}"
    told = (
        "chrF++ ± half its 95% interval; in brackets, that of the source as it stands."
        if directions
        else "TS, TF: right in English and right, wrong in the language."
    )
    caption = (
        f"{'Translation' if directions else 'Accuracy'}: {config.task['num_fewshot']}-shot. {told} "
        "Metrics: share of aligned items, over the layers before the final norm. "
        f"Tables and plots: {folder}"
    )
    made = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    made.add_column("language")
    choice = () if directions else ("accuracy", ENGLISH, "TS", "TF")
    for column in ("n", *choice, *(f"{direction}\nchrF++" for direction in directions)):
        made.add_column(column, justify="right")
    for metric in metrics:
        made.add_column(f"{metric}\nmax @layer, mean", justify="right", no_wrap=True)
    for row in rows:
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.3f} ±{row['stderr']:.3f}"
        english = "" if row["english_accuracy"] is None else f"{row['english_accuracy']:.3f}"
        counts = ["" if row[key] is None else str(row[key]) for key in ("ts", "tf")]
        found = [row["metrics"][metric] for metric in metrics]
        cells = [f"{m['max']:.3f} @{m['best_layer']}, {m['mean']:.3f}" for m in found]
        own = [_chrf(row["translation"][d]) for d in directions] if directions else [accuracy, english, *counts]
        made.add_row(row["language"], str(row["n"]), *own, *cells)
    return made


def _chrf(found: Mapping[str, Any]) -> str:
    score, copied = found["chrf"], found["copied_source"]["chrf"]
    within = f" ±{(score['high'] - score['low']) / 2:.1f}" if "low" in score else ""
    return f"{score['score']:.1f}{within} ({copied:.1f})"


def _rates(found: Mapping[str, Any]) -> dict[str, float]:
    """Counted sentences as shares."""
    names = ("empty", "copies", "cut_off", "off_target")
    return {name: found[name] / found["n"] for name in names if found[name] is not None}
