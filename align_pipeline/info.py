"""``--info task=xcopa``: what a config selects and what there is to select, without loading a model or data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from align_pipeline.config import composed, from_hydra
from align_pipeline.config.lang import Language, known_languages
from align_pipeline.config.paths import CONF
from align_pipeline.config.resolvers import options_of
from align_pipeline.data.items import ENGLISH
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import OWN_FILES
from align_pipeline.errors import InputError, unknown

_HYDRA = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
"""What Hydra's own ``--info`` prints."""


def is_asked(arguments: Sequence[str]) -> bool:
    """Whether `info` answers a command line; if not, ``--info`` is Hydra's, or not there."""
    return "--info" in arguments and not _HYDRA & set(arguments)


def info(arguments: Sequence[str]) -> None:
    """Print all options of the config groups that are named, or the task of a command line and its languages.

    Args:
        arguments: names of groups, or overrides.

    Raises:
        InputError: there is no such group, another option is given, an override cannot be used, or the data folder
            lacks the task's data set.
    """
    option = next((argument for argument in arguments if argument.startswith("-")), None)
    if option is not None:
        raise InputError(
            f"--info takes names of groups or overrides, not {option}; it reads the package's own configs."
        )
    groups = [argument for argument in arguments if "=" not in argument]
    for group in groups:
        if not (CONF / group).is_dir():
            raise unknown("group", group, (path.name for path in CONF.iterdir() if path.is_dir()))
        Console().print(f"{group}: {', '.join(options_of(group))}", highlight=False)
    if not groups:
        _of_task(arguments)


def _of_task(overrides: Sequence[str]) -> None:
    config = from_hydra(composed(overrides), overrides, multirun=True)
    task, source = instantiate(config.task), Source(config.source)
    present = task.present(source)
    known = {code: Language(**entry) for code, entry in known_languages().items()}
    have = {code: one for code, one in known.items() if task.config_of(one, present) is not None}
    rows = Table(title=f"Languages of {task.name} (lang=<code>)", title_justify="left")
    for name in ("code", "language", "script", "family"):
        rows.add_column(name)
    rows.add_column("resource", justify="right")
    for code, one in sorted(have.items()):
        if one.flores != ENGLISH:
            rows.add_row(code, one.name, one.script, one.family, str(one.resource))
    console = Console()
    console.print(rows)
    sets = ", ".join(_sets(have.keys())) or "none"
    console.print(
        f"{task.name}: {task.dataset or OWN_FILES}, split {task.split}, {task.num_fewshot} examples, "
        f"{task.origin(source)}. Sets of languages, with how many of them it has: {sets}. Metrics that fit: "
        f"{', '.join(_metrics(task.offers))}. Model: {config.model.name} ({config.model.path}).",
        markup=False,
    )


def _sets(codes: Collection[str]) -> Iterator[str]:
    """The sets at least half of whose languages are there."""
    for file in sorted((CONF / "lang/set").glob("*.yaml")):
        languages = OmegaConf.load(file).defaults[0]["/lang"]
        have = sum(code in codes for code in languages)
        if 2 * have >= len(languages):
            yield f"set/{file.stem} ({have} of {len(languages)})"


def _metrics(offers: frozenset[str]) -> list[str]:
    names = sorted(path.stem for path in (CONF / "metric").glob("*.yaml"))
    chosen = composed([f"metric=[{','.join(names)}]"]).metrics
    return [name for name in names if instantiate(chosen[name]).needs in offers]
