"""Use from Python: measure a model in memory, also while it is trained, and get pandas tables, plots and the report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from transformers import TrainerCallback

from align_pipeline.config import composed, from_hydra, resolved
from align_pipeline.config.messages import one_sentence
from align_pipeline.engine.model import wrap
from align_pipeline.errors import InputError, unknown
from align_pipeline.figures.curves import curves, shares
from align_pipeline.figures.style import style
from align_pipeline.pipeline import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

_NAME = "model"
_ASKED = {
    "alignment": {True: [], False: ["metric=[]"]},
    "accuracy": {True: ["evaluate=true"], False: ["evaluate=false"]},
    "patching": {True: ["patch=english"], False: []},
}


class Results:
    """The results of `study`.

    Attributes:
        summary: a row per language: n, what was measured of accuracy, TS, TF, chrF++ and BLEU by direction, and per
            metric the best layer, its share and chance there.
        content: everything in ``summary.json``.
        folder: where the tables are; removed with this object unless `study` was given a folder.
    """

    def __init__(self, content: Mapping[str, Any], folder: Path, kept: Any = None) -> None:
        self.content, self.folder, self._kept = content, folder, kept
        self.summary = pd.DataFrame([_flat(row) for row in content["languages"]])

    def table(self, name: str) -> pd.DataFrame:
        """A table of the job, such as ``alignment``, ``predictions``, ``baselines`` or ``patching``.

        Raises:
            InputError: there is no such table; names those that there are.
        """
        path = self.folder / f"{name}.parquet"
        if not path.is_file():
            raise unknown("table", name, [found.stem for found in self.folder.glob("*.parquet")])
        return pd.read_parquet(path)

    @property
    def alignment(self) -> pd.DataFrame:
        """Whether each item is aligned, by language, metric and layer."""
        return self.table("alignment")

    @property
    def predictions(self) -> pd.DataFrame:
        """The answers, English included."""
        return self.table("predictions")

    def plot(self, metric: str | None = None) -> Figure:
        """Share of aligned items by layer, a line per language, chance dashed; default: the first metric.

        Raises:
            InputError: the metric was not measured.
        """
        items, chance = self.alignment, self.table("baselines")
        known = list(items["metric"].unique())
        metric = metric or str(known[0])
        if metric not in known:
            raise unknown("metric in these results", metric, known)
        part = shares(items[items["metric"] == metric], chance[chance["metric"] == metric])
        with style():
            return curves(part, last=self.content["num_layers"])

    def report(self, path: str | Path) -> Path:
        """Write the report (page, CSV tables, plots) to a folder; returns the page's path."""
        from align_pipeline.report.report import write

        return write([self.folder], Path(path))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(self.summary.to_html(index=False, float_format=lambda value: f"{value:.3f}"))

    def __repr__(self) -> str:
        return self.summary.to_string(index=False, float_format=lambda value: f"{value:.3f}")


def study(
    model: Any,
    tokenizer: Any,
    task: str = "belebele",
    languages: Sequence[str] = ("swh",),
    measurements: Sequence[str] = ("alignment", "accuracy"),
    metrics: Sequence[str] | None = None,
    data: str = "hub",
    limit: int | None = None,
    name: str = _NAME,
    folder: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Results:
    """Measure a model that is in memory, as `python -m align_pipeline.run` measures one that it loads.

    Args:
        model: a causal language model of transformers, on its device; its training mode is restored.
        tokenizer: its tokenizer.
        task: an option of the config group `task`.
        languages: options of `lang`, such as ``["swh", "set/xcopa"]``; here and below one name may stand alone.
        measurements: of alignment, accuracy, patching (which measures accuracy too).
        metrics: options of `metric`; default: the task's own.
        data: ``hub``, ``embedded`` or a folder with the hub's layout.
        limit: only the first N items.
        name: the model's name in the tables.
        folder: for tables, plots and ``summary.json``; default: a temporary one, removed with the results.
        overrides: further ``key=value`` of the command line.

    Returns:
        the results as tables. Forward passes are not cached, because a model in memory has no identity.

    Raises:
        InputError: an argument cannot be used; says which, and what would work.
    """
    languages, measurements, metrics = _names(languages), _names(measurements), metrics and _names(metrics)
    for one in measurements:
        if one not in _ASKED:
            raise unknown("measurement", one, _ASKED)
    given = [f"task={task}", f"lang=[{','.join(languages)}]", f"data={data}"]
    given += ["model=custom", "model.path=in_memory", f"model.name={name}"]
    given += [f"metric=[{','.join(metrics)}]"] if metrics is not None else []
    wanted = {*measurements, *(("accuracy",) if "patching" in measurements else ())}  # which items fail is an answer
    for what, by in _ASKED.items():
        given += by[what in wanted]
    given += [f"task.limit={limit}"] if limit is not None else []
    asked = [*given, "wandb.mode=disabled", *overrides, "cache=null"]
    with _explained():
        made = composed(asked)
        config, settings = from_hydra(made, asked, multirun=False), resolved(made)
    kept = tempfile.TemporaryDirectory(prefix="align_pipeline-") if folder is None else None
    place = Path(kept.name if kept else str(folder))
    place.mkdir(parents=True, exist_ok=True)
    lm = wrap(model, tokenizer, name, config.model.max_length, config.model.too_long, config.model.chat_template)
    with _explained(), _evaluating(model):
        done = run(config, place, settings, lm)
    if done is None:
        raise InputError(f"{task} has none of the languages {', '.join(languages)} in data={data}.")
    return Results(done.content, place, kept)


def _names(given: Sequence[str]) -> Sequence[str]:
    """A single name stands for a list of one."""
    return [given] if isinstance(given, str) else given


@contextmanager
def _explained() -> Iterator[None]:
    """Turn Hydra's errors into one sentence, as the command does."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        sentence = one_sentence(error)
        if sentence is None:
            raise
        raise InputError(sentence) from None


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A language's numbers of ``summary.json`` in one row."""
    shown = ("language", "n", "accuracy", "english_accuracy", "ts", "tf")
    flat = {key: row[key] for key in shown if row.get(key) is not None}
    for direction, told in (row.get("translation") or {}).items():
        flat |= {f"{score}_{direction}": told[score]["score"] for score in ("chrf", "bleu") if score in told}
    for metric, told in row.get("metrics", {}).items():
        flat |= {f"{metric}_{key}": told[key] for key in ("max", "best_layer", "chance")}
    return flat


class AlignmentCallback(TrainerCallback):  # type: ignore[misc]
    """Measures alignment by layer at each evaluation of transformers' Trainer.

    The numbers go to `history`, to the trainer's ``state.log_history`` and to an open W&B run, as
    ``alignment/<metric>/<language>/layer_<k>``.
    """

    def __init__(
        self, tokenizer: Any, task: str = "belebele", languages: Sequence[str] = ("swh",), **more: Any
    ) -> None:
        """Take the arguments of `study` but the model; ``limit`` is 100 unless given."""
        self.arguments = {"tokenizer": tokenizer, "task": task, "languages": languages, "limit": 100, **more}
        self.history: list[dict[str, float]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See transformers; the process that logs measures."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise InputError(
                "AlignmentCallback needs the whole model in each process; use it without FSDP and DeepSpeed."
            )
        if not state.is_world_process_zero:
            return
        found = study(model, measurements=("alignment",), **self.arguments)
        values: dict[str, float] = {}
        for row in found.content["languages"]:
            for metric, told in row["metrics"].items():
                name = f"alignment/{metric}/{row['language']}/layer_"
                values |= {f"{name}{k}": v for k, v in zip(told["layers"], told["values"], strict=True)}
        self.history.append({"step": state.global_step, **values})
        state.log_history.append({"step": state.global_step, **values})
        self._to_wandb(values)

    @staticmethod
    def _to_wandb(values: Mapping[str, float]) -> None:
        import wandb

        if wandb.run is not None:
            wandb.run.log(dict(values))
