"""Weights & Biases: one run per job, with curves against a `layer` axis and the tables as an artifact."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_pipeline.config.wandb import WandbConfig, WandbMode
from align_pipeline.errors import InputError
from align_pipeline.files import room

log = logging.getLogger(__name__)
_PATIENCE = 30
"""Seconds that a job waits for W&B's server when it begins."""
_UPLOAD = 120
"""Seconds that it waits for uploads when it ends. What is not uploaded by then stays in the output folder."""
_FULL = 2**20
"""Free bytes on a disk that is as good as full."""


@dataclass(frozen=True)
class Curve:
    """Values by layer for one language: a share of items, or a score.

    Attributes:
        metric: the alignment metric, the condition of patching, prefixed by the direction for translation, or the
            measure of representations with its pooling.
        group: ``alignment`` (share of aligned items), ``representations``, ``logit_lens`` (probabilities and shares of
            tokens), ``patching`` (share of TF items corrected) or ``patched_chrf`` (chrF++ of patched translations).
    """

    metric: str
    language: str
    layers: Sequence[int]
    values: Sequence[float]
    group: str = "alignment"


GROUPS = {
    "alignment": "aligned items",
    "representations": "value",
    "logit_lens": "share",
    "patching": "TF items corrected",
    "patched_chrf": "chrF++",
}
"""Groups of curves, which have the layer as their axis, and what their values are."""


def log_job(
    run: Any, summary: Mapping[str, Any], curves: Sequence[Curve], plots: Sequence[Path], tables: Sequence[Path]
) -> None:
    """Log what a finished job has beside its numbers and curves by layer.

    Args:
        run: W&B's open run.
        summary: flat numbers, by name.
        curves: one chart per group and metric. A job with one language also logs ``<group>/<metric>`` by layer, so that
            a dashboard can overlay the jobs of a sweep.
        plots: PNG files.
        tables: parquet files for the artifact.
    """
    import wandb

    log_charts(run, curves)
    run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in plots})
    run.summary.update(dict(summary))
    artifact = wandb.Artifact(f"tables-{run.id}", type="tables")
    for path in tables:
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def checked(config: WandbConfig) -> WandbConfig:
    """Check the settings before the forward passes, so that a job does not fail late: names that W&B refuses, no login.

    Returns:
        The config to use: offline if there is no login, disabled if nothing could be logged.

    Raises:
        InputError: W&B refuses and `config.required` is set.
    """
    if config.mode is WandbMode.disabled:
        return config
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    mode = WandbMode.disabled
    try:
        wandb.Settings(project=config.project, entity=config.entity, run_group=config.group)
        mode = WandbMode.offline
        if config.mode is WandbMode.online:
            # Where WANDB_MODE=offline is set and the config asks for online, login() would check nothing.
            wandb.setup(wandb.Settings(mode="online"))
            wandb.login()  # on a terminal it asks for the key
    except Exception as error:
        what = "nothing is logged" if mode is WandbMode.disabled else "the run is kept offline"
        complain(config, error, f"{what}; `wandb login` or wandb.project=<name> may fix it")
        return dataclasses.replace(config, mode=mode)
    return config


def complain(config: WandbConfig, error: BaseException, consequence: str) -> None:
    """Log a line that W&B failed, or raise an error if W&B is required.

    Raises:
        InputError: `config.required` is set.
    """
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if config.required:
        raise InputError(f"W&B failed, and wandb.required=true: {reason}.") from error
    log.warning("W&B failed (%s): %s.", reason, consequence)


def abandon(run: Any) -> None:
    """Give up a run that failed; an open one would swallow the next job's run in this process."""
    with contextlib.suppress(Exception):
        run.finish(exit_code=1)
    _end_process()


def _end_process() -> None:
    """End W&B's own process, which may be dead or hold the id of a run that failed; the next run starts another."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # it ends with the exit code of its process
        wandb.teardown()


def tell_offline(config: WandbConfig, folder: Path) -> None:
    """Say where an offline run is kept and how to upload it."""
    if config.mode is WandbMode.offline:
        log.info("The W&B run is kept offline; upload it with `wandb sync %s/wandb/offline-run-*`.", folder)


def tell_full(folder: Path) -> None:
    """Say that the disk of W&B's files is full, as W&B itself then leaves out rows and says nothing."""
    place, free = room(folder / "wandb")
    if free < _FULL:
        log.warning("The disk of %s is full: W&B's run may be incomplete; the results are still in %s.", place, folder)


@contextlib.contextmanager
def own_folders(folder: Path) -> Iterator[None]:
    """Make W&B write its local copies to the output folder, where `wandb sync` finds them, not to the home folder."""
    kinds = ["cache", "data"]
    if not os.access(Path.home(), os.W_OK):
        kinds.append("config")
    names = {f"WANDB_{kind.upper()}_DIR": kind for kind in kinds}
    added = {key: str(folder.resolve() / "wandb" / kind) for key, kind in names.items() if key not in os.environ}
    for place in added.values():
        Path(place).mkdir(parents=True, exist_ok=True)
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def start(
    config: WandbConfig,
    folder: Path,
    name: str,
    tags: Sequence[str],
    settings: Mapping[str, Any],
    kind: str,
    identity: str | None = None,
) -> Any:
    """Start a W&B run, or go on with that of the same identity; if it cannot go online, it is kept offline."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    def init(mode: WandbMode) -> Any:
        return wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            job_type=kind,
            name=name,
            id=identity,
            resume="allow" if identity and mode is WandbMode.online else None,
            tags=[tag[:64] for tag in tags],
            config=dict(settings),
            mode=mode.value,
            dir=str(folder),
            # The machine's name and git data are not part of the experiment, and a git remote may contain a token.
            # On a busy cluster node W&B's own process needs longer to start than the default of 30 s.
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_machine_info=True,
                x_disable_stats=kind == "report",  # GPU and memory use of jobs
                x_service_wait=300,
                init_timeout=_PATIENCE if mode is WandbMode.online else 300,
                # Without it W&B tries for hours to reach a server that went away.
                finish_timeout=_UPLOAD,
                finish_timeout_raises=True,
            ),
        )

    try:
        return init(config.mode)
    except Exception as error:
        if config.mode is not WandbMode.online:
            raise
        complain(
            config, error, f"the run is kept offline; upload it later with `wandb sync {folder}/wandb/offline-run-*`"
        )
        _end_process()
        return init(WandbMode.offline)


def identity_of(folder: Path, name: str, work: str) -> str:
    """The id of a run: the same whenever the same work starts again in the same folder."""
    return hashlib.sha256(f"{folder.resolve()}/{name}/{work}".encode()).hexdigest()[:16]


def log_rows(run: Any, curves: Sequence[Curve], alone: bool = False) -> None:
    """Log a row per layer with the value of every curve there; if `alone`, the language is left out of the names."""
    for layer in sorted({layer for curve in curves for layer in curve.layers}):
        row: dict[str, float] = {"layer": layer}
        for curve in curves:
            values = dict(zip(curve.layers, curve.values, strict=True))
            if layer in values:  # attention and MLP start at layer 1
                row[f"{curve.group}/{curve.metric}" + ("" if alone else f"/{curve.language}")] = values[layer]
        run.log(row)


def log_charts(run: Any, curves: Sequence[Curve]) -> None:
    """Log one chart per group and metric, with a line per language."""
    import wandb

    if len({curve.language for curve in curves}) == 1:
        log_rows(run, curves, alone=True)
    for group, metric in dict.fromkeys((curve.group, curve.metric) for curve in curves):
        chosen = [curve for curve in curves if (curve.group, curve.metric) == (group, metric)]
        chart = wandb.plot.line_series(
            xs=[list(curve.layers) for curve in chosen],
            ys=[list(curve.values) for curve in chosen],
            keys=[curve.language for curve in chosen],
            title=f"{metric}: {GROUPS[group]} by layer",
            xname="layer",
        )
        run.log({f"curves/{metric}" if group == "alignment" else f"curves/{group}/{metric}": chart})


def track_report(config: WandbConfig, folder: Path, report: Path, failed: Sequence[str]) -> None:
    """Log a sweep's report as a run of its group: the page, correlations and verdicts, plots, all files as an artifact.

    Args:
        config: mode, project, entity and group.
        folder: the sweep's folder.
        report: the report's folder.
        failed: one line per failed job.
    """
    if config.mode is WandbMode.disabled:
        return
    try:
        with own_folders(folder):
            _track_report(config, folder, report, failed)
            tell_offline(config, folder)
    except Exception as error:  # no result is lost
        complain(config, error, "tables, plots and summary are still in the output folder")


def _track_report(config: WandbConfig, folder: Path, report: Path, failed: Sequence[str]) -> None:
    import pandas as pd
    import wandb

    name = f"report_{folder.name}"
    run = start(
        config, folder, name, ["report"], {"failed": list(failed)}, "report", identity_of(folder, name, "report")
    )
    with run:
        level, verdicts = (pd.read_csv(report / f"{table}.csv") for table in ("language_level", "verdicts"))
        chosen = level[level["reduce"].isin(["max", "mean"]) & (level["group"] == "all")]
        for table, rows in (("language_level", chosen), ("verdicts", verdicts)):
            run.log({table: wandb.Table(dataframe=rows.astype(object).where(rows.notna(), None))})
        run.log({"report": wandb.Html(str(report / "report.html"), inject=False)})
        for row in verdicts[verdicts["effect"].notna()].to_dict("records"):
            question = "/".join(str(row[key]) for key in ("model", "task", "question", "metric"))
            run.summary.update({f"{question}/{key}": row[key] for key in ("effect", "p_adjusted", "verdict")})
        run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(report.rglob("*.png"))})
        run.summary.update({"failed_jobs": len(failed)})
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        artifact.add_dir(str(report))
        run.log_artifact(artifact)
