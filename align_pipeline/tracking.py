"""Weights & Biases: one run per job, curves against a `layer` axis, the tables as an artifact."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_pipeline.config import WandbConfig, WandbMode
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Curve:
    """A share of items, or a score, per layer, for one language.

    Attributes:
        metric: the alignment metric, or the condition of patching, behind its direction if that is of translation.
        group: ``alignment`` (share of aligned items), ``patching`` (share of TF items corrected) or ``patched_chrf``
            (chrF++ of patched translations).
    """

    metric: str
    language: str
    layers: Sequence[int]
    values: Sequence[float]
    group: str = "alignment"


def track(
    config: WandbConfig,
    folder: Path,
    tags: Sequence[str],
    settings: Mapping[str, Any],
    summary: Mapping[str, Any],
    curves: Sequence[Curve],
    plots: Sequence[Path],
    tables: Sequence[Path],
) -> None:
    """Log a finished job.

    Args:
        config: mode, project, entity and group.
        folder: the job's output folder; W&B's own files go to ``wandb/`` below it.
        tags: task, model and languages.
        settings: the resolved config.
        summary: flat numbers, by name.
        curves: logged against the `layer` axis as ``<group>/<metric>/<language>``; a job of one language also logs
            ``<group>/<metric>``, which a dashboard overlays over the jobs of a sweep.
        plots: PNG files.
        tables: parquet and JSON files for the artifact.

    Raises:
        InputError: W&B refuses (no key, no network, unknown entity).
    """
    if config.mode is WandbMode.disabled:
        return
    import wandb

    task, model, *languages = tags
    name = "_".join([task, model, languages[0] if len(languages) == 1 else f"{len(languages)}_languages"])
    run = _start(config, folder, name, tags, settings, "job")
    with run:
        run.define_metric("layer")
        run.define_metric("alignment/*", step_metric="layer")
        run.define_metric("patching/*", step_metric="layer")
        run.define_metric("patched_chrf/*", step_metric="layer")
        _log_curves(run, curves)
        run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in plots})
        run.summary.update(dict(summary))
        artifact = wandb.Artifact(f"tables-{run.id}", type="tables")
        for path in tables:
            artifact.add_file(str(path))
        run.log_artifact(artifact)


def _start(
    config: WandbConfig, folder: Path, name: str, tags: Sequence[str], settings: Mapping[str, Any], kind: str
) -> Any:
    """A run of W&B.

    Raises:
        InputError: W&B refuses.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        return wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            job_type=kind,
            name=name,
            tags=[tag[:64] for tag in tags],
            config=dict(settings),
            mode=config.mode.value,
            dir=str(folder),
            # Neither the machine nor the checkout is the experiment's business, and a git remote may hold a token.
            # A cluster's node that eighty jobs start on takes its time: W&B's own 30 s are too few.
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_service_wait=300,
                init_timeout=300,
            ),
        )
    except wandb.errors.Error as error:
        raise InputError(
            f"W&B did not start ({' '.join(str(error).split()).rstrip('.')}); log in with `wandb login`, or use "
            "wandb.mode=offline or disabled. The tables are already in the output folder."
        ) from error


def _log_curves(run: Any, curves: Sequence[Curve]) -> None:
    import wandb

    single = len({curve.language for curve in curves}) == 1
    for layer in sorted({layer for curve in curves for layer in curve.layers}):
        row: dict[str, float] = {"layer": layer}
        for curve in curves:
            values = dict(zip(curve.layers, curve.values, strict=True))
            if layer not in values:  # attention and MLPs begin at layer 1
                continue
            row[f"{curve.group}/{curve.metric}/{curve.language}"] = values[layer]
            if single:
                row[f"{curve.group}/{curve.metric}"] = values[layer]
        run.log(row)
    said = {"alignment": "aligned items", "patching": "TF items corrected", "patched_chrf": "chrF++"}
    for group, metric in dict.fromkeys((curve.group, curve.metric) for curve in curves):
        chosen = [curve for curve in curves if (curve.group, curve.metric) == (group, metric)]
        chart = wandb.plot.line_series(
            xs=[list(curve.layers) for curve in chosen],
            ys=[list(curve.values) for curve in chosen],
            keys=[curve.language for curve in chosen],
            title=f"{metric}: {said[group]} by layer",
            xname="layer",
        )
        run.log({f"curves/{metric}" if group == "alignment" else f"curves/{group}/{metric}": chart})


def track_report(config: WandbConfig, folder: Path, report: Path, failed: Sequence[str]) -> None:
    """Log a sweep's report as a run of the sweep's group: correlations as a table, plots, all files as an artifact.

    Args:
        config: mode, project, entity and group.
        folder: the sweep's folder.
        report: the report's folder.
        failed: a line for each failed job.
    """
    if config.mode is WandbMode.disabled:
        return
    import pandas as pd
    import wandb

    run = _start(config, folder, f"report_{folder.name}", ["report"], {"failed": list(failed)}, "report")
    with run:
        level = pd.read_csv(report / "language_level.csv")
        chosen = level[level["reduce"].isin(["max", "mean"]) & (level["group"] == "all")]
        run.log({"language_level": wandb.Table(dataframe=chosen.astype(object).where(chosen.notna(), None))})
        run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(report.rglob("*.png"))})
        run.summary.update({"failed_jobs": len(failed)})
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        artifact.add_dir(str(report))
        run.log_artifact(artifact)
