"""An error of a config as one sentence that names what exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from align_pipeline.config.paths import CONF
from align_pipeline.errors import InputError, unknown, unwritable


def one_sentence(error: Exception) -> str | None:
    """An error of ours or of a config as one sentence that names what exists; None if it is something else."""
    from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:  # ours, with Hydra's and OmegaConf's own around it
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, OmegaConfBaseException) else None)
    if isinstance(error, OSError) and error.filename is not None:
        found = unwritable(error, error.filename)
        return None if found is None else str(found)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file == "hydra/launcher/submitit_slurm":
        return "hydra/launcher=slurm needs the extra 'slurm': pip install 'align_pipeline[slurm]'."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).partition("/")
        options = [str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml")]
        return str(unknown({"lang": "language"}.get(group, group), name, [*options, *(error.options or ())]))
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        return one_sentence(error.__cause__)
    text = re.split(r"\n\s*(?:full_key|object_type|reference_type)", str(error))[0].strip().replace("\n", " ")
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        named = re.search(r"mandatory value: ([\w.]+)", text)
        unset = named[1] if named else getattr(error, "full_key", None) or "A key"
        value = "<hub id or folder>" if unset == "model.path" else "<value>"
        return f"{unset} is not set; say {unset}={value}."
    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None) or ""
        parent = getattr(error, "parent_node", None)
        missing = re.match(r"Key '([^']+)' (?:not in|is not in struct)", text)
        if missing and parent is not None:
            return _no_key(missing[1], key, parent)
        return f"{key}: {text}." if key else text
    called = re.match(r"Error in call to target '([^']+)':.*unexpected keyword argument '(\w+)'", text)
    if called:
        return f"There is no key '{called[2]}' of {called[1].rpartition('.')[2]}; --cfg job prints the keys that exist."
    located = re.match(r"Error locating target '([^']+)'", text)
    if located:
        return f"_target_ names '{located[1]}', which is no class that can be imported."
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        quoted = f"; quote a value with special characters: '{key}=\"{value}\"'" if re.search("[/=]", value) else ""
        return f"The argument '{error.override}' is not of the form key=value: {text.splitlines()[-1]}{quoted}"
    if isinstance(error, HydraException):
        wrong = re.match(r"Could not override '([^']+)'", text)
        if wrong:
            return f"There is no key '{wrong[1]}'; --cfg job prints the keys that exist."
        return re.sub(r"\s+", " ", text)
    return None


def _no_key(name: str, key: str, parent: Any) -> str:
    """That a key does not exist, and which do: the same name elsewhere first."""
    prefix = f"{key.rpartition('.')[0]}." if "." in key else ""
    elsewhere = sorted(full for full in _keys(parent._get_root()) if full.rpartition(".")[2] == name)
    if elsewhere:
        return f"There is no key '{prefix}{name}'; there is {' and '.join(elsewhere)}."
    return str(unknown("key", prefix + name, [prefix + str(k) for k in parent if k != "named"]))


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node if OmegaConf.is_dict(node) and not node._is_none() and not node._is_missing() else ():
        full = f"{prefix}{key}"
        yield full
        child = node._get_node(key)
        if OmegaConf.is_dict(child) and full != "hydra":
            yield from _keys(child, f"{full}.")
