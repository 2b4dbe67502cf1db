"""What conf computes: `${align_pipeline_...:}`."""

from __future__ import annotations

import itertools
import os
import re
from typing import Any

from align_pipeline.config.paths import CONF
from align_pipeline.config.wandb import WandbMode
from align_pipeline.errors import unknown


def codes(languages: Any) -> str:
    """``${align_pipeline_codes:${languages}}``: the languages in a folder's name, or how many they are."""
    names = list(languages)
    return "-".join(names) if len(names) <= 3 else f"{len(names)}_languages"


def file_name(text: str) -> str:
    """``${align_pipeline_file_name:${model.name}}``: the text as a file name."""
    return re.sub(r"[^\w.+=-]+", "-", str(text)).strip(".-") or "unnamed"


def last_part(path: str) -> str:
    """``${align_pipeline_last_part:${model.path}}``: a model's name, from its path or hub id."""
    return re.split(r"[/:]", str(path).rstrip("/"))[-1] or str(path)


def revised(name: str, revision: str | None) -> str:
    """``${align_pipeline_revised:pythia,${model.revision}}``: a model's name, which ends in ``@<revision>`` if there is
    one, so that checkpoints have names of their own; commits are shortened to eight characters."""
    if revision is None:
        return str(name)
    return f"{name}@{revision[:8] if re.fullmatch('[0-9a-f]{40}', str(revision)) else revision}"


def options(group: str, room: int = 50) -> str:
    """``${align_pipeline_options:model}``: the first options of a group, and how many there are."""
    names = options_of(group)
    shown = list(itertools.takewhile(lambda count: len(", ".join(names[:count])) <= room, range(1, len(names) + 1)))
    more = len(names) - len(shown)
    return ", ".join(names[: len(shown)]) + (f", and {more} more" if more else "")


def options_of(group: str) -> list[str]:
    """The options of a config group of this package; the sets of languages come before the languages."""
    names = [str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" not in name, name))


def wandb_mode() -> str:
    """``${align_pipeline_wandb_mode:}``: the mode from W&B's environment variables; default: offline."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    mode = os.environ.get("WANDB_MODE", "offline").lower()
    mode = {"dryrun": "offline", "run": "online", "": "offline"}.get(mode, mode)
    if mode not in WandbMode.__members__:
        raise unknown("mode of W&B (environment variable WANDB_MODE)", mode, WandbMode.__members__)
    return mode
