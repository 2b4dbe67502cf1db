"""The command `python -m align_pipeline.workspace`: create a W&B workspace with panels for the study's questions.

Building the workspace is tested offline; saving it needs W&B's server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align_pipeline.arguments import Arguments, command
from align_pipeline.errors import InputError

USAGE = """Create a W&B workspace with panels for the study's questions, and print its address.

  python -m align_pipeline.workspace entity=my-team project=align_pipeline

It needs the extra `workspaces` (pip install 'align_pipeline[workspaces]') and a W&B login."""
METRICS = ("dali", "dali_strong", "mexa_t")


def workspace(entity: str, project: str, metrics: Sequence[str] = METRICS) -> Any:
    """The workspace, not yet saved: curves by layer, alignment against accuracy, transfer, and reports of sweeps.

    Args:
        entity: W&B user or team.
        project: W&B project, `wandb.project` of the runs.
        metrics: alignment metrics that the runs have.

    Raises:
        InputError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise InputError(
            "A workspace needs the package wandb-workspaces: pip install 'align_pipeline[workspaces]'."
        ) from error
    curves = [
        panels.LinePlot(title=f"{metric}: aligned items by layer", x="layer", y=[f"alignment/{metric}"], range_y=(0, 1))
        for metric in metrics
    ]
    languages = [
        panels.LinePlot(
            title=f"{metric}: jobs of several languages",
            x="layer",
            metric_regex=f"alignment/{metric}/.*",
            range_y=(0, 1),
        )
        for metric in metrics
    ]
    against = [
        panels.ScatterPlot(
            title=f"Accuracy against {metric} (max over layers)",
            x=panels.SummaryMetric(f"{metric}_max"),
            y=panels.SummaryMetric("accuracy"),
            regression=True,
        )
        for metric in metrics
    ]
    transfer = [
        panels.BarPlot(title="TS: right in English and in the language", metrics=[panels.SummaryMetric("ts")]),
        panels.BarPlot(title="TF: right in English, wrong in the language", metrics=[panels.SummaryMetric("tf")]),
        panels.BarPlot(title="Accuracy", metrics=[panels.SummaryMetric("accuracy")]),
    ]
    patched = [
        panels.LinePlot(title="TF items corrected by layer", x="layer", metric_regex="patching/[^/]*", range_y=(0, 1)),
        panels.LinePlot(title="chrF++ of patched translations", x="layer", metric_regex="patched_chrf/[^/]*/[^/]*"),
    ]
    drawn = [panels.MediaBrowser(title="Plots of jobs and reports", media_keys=["plots/*"])]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="align_pipeline",
        sections=[
            ws.Section(name="Alignment by layer", panels=[*curves, *languages], is_open=True),
            ws.Section(name="Alignment against accuracy", panels=against, is_open=True),
            ws.Section(name="Transfer", panels=transfer, is_open=True),
            ws.Section(name="Patching", panels=patched),
            ws.Section(name="Plots", panels=drawn),
        ],
    )


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    command(given, USAGE, _run)


def _run(given: Sequence[str]) -> None:
    asked = Arguments(given, ("entity", "project"), required=("entity",))
    made = workspace(asked.values["entity"][-1], asked.text("project") or "align_pipeline")
    try:
        saved = made.save()
    except Exception as error:  # W&B can raise anything, its server's errors included
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"W&B did not save the workspace of entity={made.entity} project={made.project} ({reason}); log in "
            "with `wandb login`, and use an entity that you may write to."
        ) from error
    print(saved.url)


if __name__ == "__main__":
    main()
