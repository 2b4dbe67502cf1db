"""Every config key, typed: what the YAML files under ``conf/`` are checked against, and what the code sees of them.

Hydra composes the files once; `from_hydra` turns the result into these dataclasses once; no DictConfig goes further.
Only standard-library and Hydra imports here: ``--help`` and a mistyped key must answer before torch is loaded.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from align_pipeline.errors import InputError, unknown, unwritable

PACKAGE = Path(__file__).parent
EMBEDDED = PACKAGE / "embedded"
# A checkout keeps conf/ beside the package; a wheel carries it inside.
CONF = PACKAGE.parent / "conf" if (PACKAGE.parent / "conf" / "config.yaml").is_file() else PACKAGE / "conf"


class TooLong(Enum):
    """What happens to a text that has more tokens than the model's context."""

    error = "error"
    truncate_left = "truncate_left"


class WandbMode(Enum):
    """Where Weights & Biases runs go."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


class Dtype(Enum):
    """The floating-point type of the model's weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    auto = "auto"


class Attention(Enum):
    """The attention implementation of transformers that the model runs with."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


class Parallel(Enum):
    """How a model that is larger than one GPU is spread over several."""

    none = "none"
    device_map = "device_map"
    tensor = "tensor"


@dataclass
class ModelConfig:
    """A causal language model: a hub repository or a folder, and how to load it."""

    name: str = MISSING
    """Short name, as it stands in the tables."""
    path: str = MISSING
    """Hub id (``meta-llama/Llama-3.1-8B``), a folder, or ``embedded:<name>`` for one that ships with the package."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null is the default branch."""
    gguf_file: str | None = None
    """A GGUF file in that repository or folder, to be loaded instead of safetensors; its weights are dequantised."""
    adapter: str | None = None
    """A PEFT adapter, hub id or folder, merged into the model; ``model.path`` itself may be an adapter's folder too."""
    chat_template: bool = False
    """Put the prompts of multiple-choice tasks through the tokenizer's chat template, examples as turns, as
    lm-evaluation-harness's ``--apply_chat_template`` does. Alignment texts never have a template."""
    dtype: Dtype = Dtype.bfloat16
    """float32, bfloat16, float16 or auto (as the weights are stored)."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:<n>``."""
    parallel: Parallel = Parallel.none
    """For a model larger than one GPU: ``device_map`` puts whole layers on the GPUs that one process sees; ``tensor``
    splits every layer over the processes of `torchrun`, which then run one model in step."""
    attention: Attention = Attention.sdpa
    """sdpa, eager or flash_attention_2; models with soft-capped attention (Gemma 2) need eager."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off: a checkpoint is data, not a program."""
    safetensors_only: bool = True
    """Refuse pickled weights (``pytorch_model.bin``), which can run code when they are loaded."""
    max_length: int | None = None
    """Longest text in tokens; null is the model's own context length."""
    too_long: TooLong = TooLong.error
    """``error`` names the item; ``truncate_left`` drops tokens from the beginning (never BOS) and counts texts."""


@dataclass
class Language:
    """A language: what it is, and what each data set calls it."""

    name: str = MISSING
    """English name."""
    script: str = MISSING
    """ISO 15924 code."""
    family: str = MISSING
    """Top-level language family."""
    resource: int = MISSING
    """Resource class, 0 (least) to 5, of Joshi et al. 2020."""
    flores: str = MISSING
    """FLORES code, the language's name in every table."""
    codes: dict[str, str] = field(default_factory=dict)
    """The config that holds the language, by task name."""
    pivots: dict[str, str] = field(default_factory=dict)
    """The config of the English side, by task name, where it is the language's own (XCOPA)."""


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    """offline, online or disabled; the environment variable WANDB_MODE sets the default."""
    project: str = "align_pipeline"
    """Project that runs are logged to."""
    entity: str | None = None
    """User or team; null is the account's default."""
    group: str | None = None
    """Group of the run; null is the sweep's folder in a multirun, none in a single run."""
    required: bool = False
    """Fail a job that W&B does not take; off: a line says so, and the results are in the output folder all the same."""


class Component(Enum):
    """What is replaced: the residual stream, or what one attention, MLP or attention head adds to it."""

    resid = "resid"
    attn = "attn"
    mlp = "mlp"
    head = "head"


class PatchItems(Enum):
    """Which items are patched: right in English and wrong (tf) or right (ts) in the language, or all."""

    tf = "tf"
    ts = "ts"
    all = "all"


TREATMENT = "parallel"
UNPATCHED = "unpatched"
CONDITIONS = (
    TREATMENT,
    "self",
    "random_item",
    "same_answer",
    "permuted_options",
    "mean_english",
    "noise",
    "zero",
    "mean",
)
"""What an activation can be replaced by; `align_pipeline.patch` says what each is. ``language=<code>`` is another."""
LANGUAGE_CONDITION = "language="


@dataclass
class PatchConfig:
    """Activation patching: replace an activation of the language's run; score the options, or translate, again."""

    conditions: Any = field(default_factory=list)
    """``all`` (the treatment and every control the task can have) or a list of conditions; [] patches nothing."""
    layers: Any = "auto"
    """``all``, a list, numbered as everywhere, or ``auto``: all, for translation nine from the first to the last but
    one; attn, mlp and head of block l are layer l, from 1."""
    items: PatchItems = PatchItems.tf
    """tf (right in English, wrong in the language), ts (right in both) or all; translation has but all."""
    site: str = "last"
    """Token: last (of the context; of the sentence to be translated), passage, question, options (ends of all at once),
    option_1, option_2, ..."""
    component: Component = Component.resid
    """resid (residual stream after the block), attn, mlp or head (each head of the block alone)."""
    window: int = 1
    """Replace in this many layers at once, from the row's layer on."""

    def __post_init__(self) -> None:
        if self.conditions != "all":
            given = self.conditions if isinstance(self.conditions, list) else [self.conditions]
            for name in given:
                if name not in CONDITIONS and not str(name).startswith(LANGUAGE_CONDITION):
                    raise unknown("condition", str(name), [*CONDITIONS, LANGUAGE_CONDITION + "<code>"])
            self.conditions = list(dict.fromkeys(given))
        if self.layers != "auto":
            self.layers = layer_list("patch.layers", self.layers)
        if self.window < 1:
            raise InputError(f"patch.window={self.window} replaces nothing; use 1 or more layers.")
        if self.window > 1 and self.component is Component.head:
            raise InputError("patch.window is for resid, attn and mlp: a head of one block has no like in another.")


def layer_list(key: str, given: Any) -> Any:
    """``all``, or layer numbers in order.

    Raises:
        InputError: it is neither.
    """
    if given == "all":
        return given
    numbers = given if isinstance(given, list) else [given]
    if not numbers or not all(isinstance(k, int) and not isinstance(k, bool) for k in numbers):
        raise InputError(f"{key}={given} is neither 'all' nor a list of layer numbers such as [0,4,8].")
    return sorted(set(numbers))


@dataclass
class Config:
    """One job."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model (group `model`)."""
    task: Any = MISSING
    """The benchmark (group `task`): `_target_` is a class of align_pipeline.tasks, the rest its arguments."""
    languages: dict[str, Language] = field(default_factory=dict)
    """The languages (group `lang`), by code."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The alignment metrics (group `metric`), by name: `_target_` is a class of align_pipeline.metrics."""
    patch: PatchConfig = field(default_factory=PatchConfig)
    """Activation patching (group `patch`)."""
    data: str | None = None
    """``hub``, ``embedded`` or a folder with ``<hub id>/`` below it; null: embedded for model=tiny, else hub."""
    layers: Any = "all"
    """``all`` or a list of layers to report; 0 is the embedding output, L the output after the final norm."""
    evaluate: bool = True
    """Also measure task accuracy."""
    batch_tokens: int | None = None
    """Most tokens in one forward pass, a longer text runs alone; null: as many as the device's memory has room for."""
    cache: str | None = "outputs/cache"
    """Folder that keeps what forward passes gave, for later jobs; null keeps nothing."""
    seed: int = 0
    """Seed of whatever is drawn at random."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases (group `wandb`)."""
    named: list[str] = field(default_factory=list)
    """Set by run.py: languages asked for by name in a single run, which the task must have."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise InputError("No language is selected; lang=swh or lang=set/xcopa selects some.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens={self.batch_tokens} leaves no room for a token; use 1 or more.")
        self.layers = layer_list("layers", self.layers)
        if not self.metrics and not self.evaluate:
            raise InputError("There is nothing to do with metric=[] and evaluate=false; select a metric or evaluate.")
        if self.patch.conditions and not self.evaluate:
            raise InputError("patch needs evaluate=true: which items fail is found by scoring them.")

    @property
    def source(self) -> str:
        """Where rows come from: ``hub``, ``embedded`` or a folder; demo data only ever with the demo model."""
        return self.data or ("embedded" if self.model.path.startswith("embedded:") else "hub")


@functools.cache
def known_languages() -> dict[str, dict[str, Any]]:
    """What ``conf/lang`` says of each language, by the name that ``lang=`` takes."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = {path.stem: yaml.load(path.read_bytes(), loader) for path in sorted((CONF / "lang").glob("*.yaml"))}
    return {code: language for code, language in found.items() if language}


def register() -> None:
    """Put the schema and the resolvers where ``conf`` finds them."""
    ConfigStore.instance().store(name="schema", node=Config, provider="align_pipeline")
    for resolver in (_codes, _file_name, _last_part, _wandb_mode):
        OmegaConf.register_new_resolver(f"align_pipeline{resolver.__name__}", resolver, replace=True)


def _codes(languages: Any) -> str:
    """``${align_pipeline_codes:${languages}}``: the languages in a folder's name, or how many they are."""
    names = list(languages)
    return "-".join(names) if len(names) <= 3 else f"{len(names)}_languages"


def _file_name(text: str) -> str:
    """``${align_pipeline_file_name:${model.name}}``: the text without what would make folders of it."""
    return re.sub(r"[^\w.+=-]+", "-", str(text)).strip(".-") or "unnamed"


def _last_part(path: str) -> str:
    """``${align_pipeline_last_part:${model.path}}``: a model's name by its path or hub id."""
    return re.split(r"[/:]", str(path).rstrip("/"))[-1] or str(path)


def _wandb_mode() -> str:
    """``${align_pipeline_wandb_mode:}``: what W&B's environment variables say, old ones too; offline by default."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    mode = os.environ.get("WANDB_MODE", "offline").lower()
    mode = {"dryrun": "offline", "run": "online", "": "offline"}.get(mode, mode)
    if mode not in WandbMode.__members__:
        raise unknown("mode of W&B (environment variable WANDB_MODE)", mode, WandbMode.__members__)
    return mode


def from_hydra(composed: DictConfig, overrides: Sequence[str], multirun: bool) -> Config:
    """The composed config as dataclasses; `task` and `metrics` stay plain dicts until they are built.

    Args:
        composed: what Hydra composed.
        overrides: the command line's, such as ``lang=[swh,set/xcopa]``.
        multirun: whether the job is one of a sweep, where a (task, language) pair that does not exist is left out.

    Raises:
        InputError: a value has the wrong type, or values contradict each other.
    """
    # Hydra's own record, runtime.choices, holds no group of which several options are selected.
    chosen = [name for o in overrides if o.startswith("lang=") for name in re.findall(r"[\w/]+", o[len("lang=") :])]
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    config.named = [] if multirun else [code for code in chosen if not code.startswith("set/")]
    return config


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
