"""Config errors as one sentence that names the valid choices."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from align_pipeline.config.lang import known_languages
from align_pipeline.config.paths import CONF
from align_pipeline.config.resolvers import options_of
from align_pipeline.config.unparallel import UNPARALLEL
from align_pipeline.errors import InputError, unknown, unwritable


def one_sentence(error: Exception) -> str | None:
    """An `InputError` or a config error as one sentence that names the valid choices; None for other errors."""
    from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:  # ours, with Hydra's and OmegaConf's own around it
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__ or (cause.__context__ if isinstance(cause, OmegaConfBaseException) else None)
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, FileNotFoundError):
        found = unwritable(error, error.filename)
        return None if found is None else str(found)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file == "hydra/launcher/submitit_slurm":
        return "hydra/launcher=slurm needs the extra 'slurm': pip install 'align_pipeline[slurm]'."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).partition("/")
        if group == "task" and name in UNPARALLEL:
            return f"task={name} is not available: {UNPARALLEL[name]}."
        return str(_no_option(group, name, error.options or ()))
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        return one_sentence(error.__cause__)
    text = re.split(r"\n\s*(?:full_key|object_type|reference_type)", str(error))[0].strip().replace("\n", " ")
    if isinstance(error, (MissingMandatoryValue, InterpolationToMissingValueError)):
        named = re.search(r"mandatory value: ([\w.]+)", text)
        unset = named[1] if named else getattr(error, "full_key", None) or "A key"
        value = "<hub id or folder>" if unset == "model.path" else "<value>"
        return f"{unset} is not set; set it with {unset}={value}."
    if isinstance(error, OmegaConfBaseException):
        key = getattr(error, "full_key", None) or ""
        parent = getattr(error, "parent_node", None)
        missing = re.match(r"Key '([^']+)' (?:not in|is not in struct)", text)
        if missing and parent is not None:
            return _no_key(missing[1], key, parent)
        return f"{key}: {text}." if key else text
    called = re.match(r"Error in call to target '([^']+)':.*unexpected keyword argument '(\w+)'", text)
    if called:
        return f"{called[1].rpartition('.')[2]} has no key '{called[2]}'; --cfg job prints the keys that exist."
    located = re.match(r"Error locating target '([^']+)'", text)
    if located:
        return f"The class '{located[1]}', which _target_ names, cannot be imported."
    if isinstance(error, OverrideParseException):
        return _no_override(error.override, text)
    if isinstance(error, HydraException):
        swept = re.match(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\. ", text)
        if swept:
            key, values = swept.groups()
            return f"{key}={values} has several values: -m makes a job for each; {key}=[{values}] is one list."
        swept = re.match(r"Sweep parameters '(.*)' requires --multirun", text)
        if swept:
            return f"{swept[1]} selects several values, which needs -m: a sweep with a job for each."
        wrong = re.match(r"Could not override '([^']+)'", text)
        if wrong:
            return f"There is no key '{wrong[1]}'; --cfg job prints the keys that exist."
        return re.sub(r"\s+", " ", text)
    return None


def _no_override(argument: str, text: str) -> str:
    """Says why an argument cannot be parsed; `text` is Hydra's reason."""
    key, equals, value = argument.partition("=")
    if not equals:
        return f"The argument '{argument}' is not of the form key=value, such as task=xcopa."
    if value.count("[") > value.count("]"):
        why = f"its list does not end; write it without spaces, or in quotes: '{key}=[a, b]'"
        return f"The argument '{argument}' is not of the form key=value: {why}."
    hint = ""
    if value.startswith("[") and value.endswith("]"):
        items = ",".join(f'"{one}"' if re.search("[/=]", one) else one for one in value[1:-1].split(","))
        hint = f"; quote an element with special characters: '{key}=[{items}]'" if '"' in items else ""
    elif re.search("[/=]", value):
        hint = f"; quote a value with special characters: '{key}=\"{value}\"'"
    return f"The argument '{argument}' is not of the form key=value: {text.splitlines()[-1]}{hint}"


def _no_option(group: str, name: str, more: Collection[str] = ()) -> InputError:
    """An `InputError` for an option that a config group does not have; `more` are options from other folders."""
    meant = _languages_called(name) if group == "lang" else []
    if meant:
        return InputError(f"There is no language '{name}'; did you mean {' or '.join(meant)}?")
    return unknown({"lang": "language"}.get(group, group), name, [*options_of(group), *more])


def _languages_called(name: str) -> list[str]:
    """The codes, as in ``lang=``, of the languages with this FLORES code, English name or name in a data set."""
    known, asked = known_languages(), name.casefold()
    spellings = {code: {one["name"], one["flores"], *one.get("codes", {}).values()} for code, one in known.items()}
    return [code for code, names in spellings.items() if asked in {str(spelling).casefold() for spelling in names}]


def flags_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with options such as ``-m`` after the overrides: Hydra refuses overrides on both sides of one.

    Raises:
        InputError: there is no such option, or an option has no such value.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; settings are key=value, such as task=xcopa.")

    if "--info" in arguments:  # its value may be an override
        return list(arguments)
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    overrides: list[str] = parser.parse_intermixed_args(list(arguments)).overrides
    flags, left = [], list(overrides)
    for one in arguments:
        if left and one == left[0]:
            left.pop(0)
        else:
            flags.append(one)
    return [*overrides, *flags]


def refuse_no_names(arguments: Sequence[str]) -> None:
    """Refuse arguments that end in a traceback of Hydra: options that are not names (task=3, patch=null), no key (=3).

    Raises:
        InputError: there is such an argument.
        OverrideParseException: the value of a group cannot be parsed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep

    for argument in arguments:
        key, equals, _ = argument.partition("=")
        group = key.lstrip("+~").partition("@")[0]
        if not equals or not (CONF / group).is_dir():
            continue
        if not group:
            raise InputError(f"The argument '{argument}' has no key; write key=value, such as task=xcopa.")
        value = OverridesParser.create().parse_overrides([argument])[0].value()
        options = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
        for option in options:
            if option is None or isinstance(option, (bool, int, float)):
                raise _no_option(group, json.dumps(option))


def refuse_added(composed: DictConfig) -> None:
    """Refuse keys that ``+key=value`` added but that nothing reads; tasks and metrics check their own keys.

    Raises:
        InputError: there is such a key; names the keys that exist.
    """
    for prefix, block in _blocks(composed):
        kind = OmegaConf.get_type(block)
        known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else list(block)
        added = next((str(key) for key in block if key not in known), None)
        if added is not None:
            raise InputError(_no_key(added, prefix + added, block))


def _no_key(name: str, key: str, parent: Any) -> str:
    """Says that a key does not exist, and which do: first the same name in other groups, then similar names."""
    prefix = f"{key.rpartition('.')[0]}." if "." in key else ""
    others = sorted(full for full in _keys(parent._get_root()) if full != prefix + name)
    elsewhere = [full for full in others if full.rpartition(".")[2] == name]
    if elsewhere:
        return f"There is no key '{prefix}{name}'; did you mean {' or '.join(elsewhere)}?"
    own = [prefix + str(k) for k in parent if k not in ("named", name)]
    return str(unknown("key", prefix + name, [*own, *difflib.get_close_matches(prefix + name, others)]))


def _keys(config: Any) -> Iterator[str]:
    for prefix, block in _blocks(config):
        yield from (f"{prefix}{key}" for key in block)


def _blocks(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The prefix of the keys and the block itself, for every block of keys except Hydra's own."""
    if not OmegaConf.is_dict(node) or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    yield prefix, node
    for key in node:
        if prefix or key != "hydra":
            yield from _blocks(node._get_node(key), f"{prefix}{key}.")
