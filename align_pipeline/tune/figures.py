"""Figures of a training: its losses, and held-out alignment by layer before and after."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from align_pipeline.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(losses: pd.DataFrame, held_out: pd.DataFrame, folder: Path) -> list[Path]:
    """Write both figures as PNG.

    Args:
        losses: step, objective, loss.
        held_out: step, metric, language, layer, value.
        folder: the output folder.
    """
    paths = style.save(partial(_losses, losses), folder / "losses", ("png",))
    return paths + style.save(partial(_held_out, held_out), folder / "held_out", ("png",))


def _losses(losses: pd.DataFrame) -> Figure:
    figure, axes = style.new_figure(6.0, 3.4)
    for colour, (name, rows) in zip(style.OKABE_ITO, losses.groupby("objective", sort=False), strict=False):
        axes.plot(rows["step"], rows["loss"], color=colour, alpha=0.3, linewidth=0.8)
        smooth = rows["loss"].rolling(10, min_periods=1).mean()
        axes.plot(rows["step"], smooth, color=colour, label=str(name), linewidth=1.8)
    axes.set(xlabel="Optimizer step", ylabel="Loss (nats)", title="Losses (thick: mean of 10 steps)")
    axes.legend()
    return figure


def _held_out(held_out: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(held_out["metric"]))
    figure = Figure(figsize=(1.2 + 4.4 * len(metrics), 3.8), layout="constrained")
    is_share = bool(held_out["value"].between(0, 1).all())  # a metric of one's own may give other numbers
    grid = figure.subplots(1, len(metrics), sharey=is_share, squeeze=False)
    languages = list(dict.fromkeys(held_out["language"]))
    last = held_out["step"].max()
    for axes, metric in zip(grid[0], metrics, strict=True):
        for colour, language in zip(style.OKABE_ITO, languages, strict=False):
            rows = held_out[(held_out["metric"] == metric) & (held_out["language"] == language)]
            for step, line, label in ((0, "--", f"{language}, before"), (last, "-", f"{language}, after {last} steps")):
                one = rows[rows["step"] == step]
                if len(one):
                    axes.plot(one["layer"], one["value"], line, color=colour, label=label)
        values = held_out.loc[held_out["metric"] == metric, "value"]
        if values.between(0, 1).all():
            axes.set(ylim=(-0.02, 1.02))
        axes.set(xlabel="Layer", title=style.METRICS.get(metric, metric))
    grid[0][0].set_ylabel("Share of aligned held-out items" + ("" if is_share else " or mean over them"))
    grid[0][-1].legend(fontsize=8)
    return figure
