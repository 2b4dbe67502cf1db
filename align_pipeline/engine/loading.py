"""Load a causal language model and its tokenizer from the hub, a folder or a GGUF file, with or without an adapter.

Weights that are missing, or whose shape differs from the architecture's, are refused by name, because transformers
would fill them with random numbers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from align_pipeline import distributed, machine
from align_pipeline.config.model import Attention, Dtype, ModelConfig, Parallel
from align_pipeline.engine.checks import check, check_parallel, device_of, parts, quantisation
from align_pipeline.engine.messages import as_line, one_sentence, some_of
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)


_WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
"""Prefixes of weight names in checkpoints of wrapped models: torch.compile, DataParallel, peft."""


def load(config: ModelConfig) -> LanguageModel:
    """Load the model of ``conf/model``; hub, folders and the embedded models all use this function.

    Raises:
        InputError: the model cannot be loaded; says why and what would work.
    """
    check(config)
    device = device_of(config.device)
    path, adapter = parts(config)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    machine.hand_over_logs("transformers", "huggingface_hub")
    revision = None if isinstance(path, Path) else config.revision
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    if config.gguf_file is not None:
        shared["gguf_file"] = config.gguf_file
    quantised = quantisation(path)
    placed = {"device_map": {"": str(device)}} if quantised and config.parallel is Parallel.none else {}
    with one_sentence(config, str(path)):
        tokenizer = AutoTokenizer.from_pretrained(str(path), **shared)

        def weights(**more: Any) -> tuple[Any, dict[str, Any]]:
            with _no_adapter():
                loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
                    str(path),
                    dtype="auto" if config.dtype is Dtype.auto else getattr(torch, config.dtype.value),
                    attn_implementation=config.attention.value,
                    use_safetensors=True if config.safetensors_only and config.gguf_file is None else None,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # so that all are reported; `_check_weights` refuses them
                    **placed,
                    **_spread(config),
                    **shared,
                    **more,
                )
            return loaded

        model, found = weights()
        wrapper = _wrapper(found)
        if wrapper is not None:
            log.info("All weight names of %s begin with '%s'; this prefix is removed.", config.path, wrapper)
            model, found = weights(key_mapping={f"^{wrapper.replace('.', '[.]')}": ""})
    _check_weights(found, config)
    if adapter is not None:
        log.info("The adapter %s is merged into %s.", adapter, path)
        with one_sentence(config, str(adapter)):
            model = _adapted(model, adapter, config)
    _check_attention(model, config)
    if config.chat_template and not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"model.chat_template=true, but the tokenizer of {config.path} has no chat template: it is a base model, "
            "or chat_template.jinja is missing."
        )
    if config.parallel is Parallel.none and not quantised:
        model.to(device)
    model.eval()
    return wrap(model, tokenizer, config.name, config.max_length, config.too_long, config.chat_template)


def parameters(config: ModelConfig) -> int | None:
    """The number of parameters of a model on this machine, from its settings, without its weights.

    Returns:
        the number as `LanguageModel.parameters` counts it; None for a GGUF file and for quantised weights, whose
        tensors are packed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path, _ = parts(config)
    if config.gguf_file is not None or quantisation(path):
        return None
    shared: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    revision = None if isinstance(path, Path) else config.revision
    try:
        settings = AutoConfig.from_pretrained(str(path), revision=revision, local_files_only=True, **shared)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings, **shared)
    except Exception as error:  # anything, of a model's own code too; the job has its results already
        log.info("The number of parameters of %s is not known: %s", config.path, as_line(error))
        return None
    return int(sum(weight.numel() for weight in model.parameters()))


@contextlib.contextmanager
def _no_adapter() -> Iterator[None]:
    """Keep transformers from loading an adapter itself, which it does silently if peft is installed."""
    from transformers import modeling_utils
    from transformers.models.auto import auto_factory

    places = [(modeling_utils, "maybe_load_adapters"), (auto_factory, "find_adapter_config_file")]
    kept = [(module, name, getattr(module, name)) for module, name in places]

    def none_here(path: Any, download_kwargs: Any = None, **kwargs: Any) -> tuple[None, Any, dict[str, Any]]:
        return None, path, kwargs

    modeling_utils.maybe_load_adapters = none_here
    auto_factory.find_adapter_config_file = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def _adapted(model: Any, adapter: Path | str, config: ModelConfig) -> Any:
    """The model with an adapter's weights merged into its own.

    Raises:
        InputError: the adapter is for another model, or its kind cannot be merged.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    settings = PeftConfig.from_pretrained(str(adapter))
    if settings.is_prompt_learning:
        raise InputError(
            f"{adapter} is a {settings.peft_type.value} adapter; only adapters that change weights can be used."
        )
    settings.inference_mode = True
    settings.base_model_name_or_path = None  # peft warns if it is not the folder that the model came from
    try:
        wrapped = get_peft_model(model, settings)
        result = set_peft_model_state_dict(wrapped, load_peft_weights(str(adapter), device="cpu"))
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"The adapter {adapter} does not fit {config.name}: {as_line(error)}") from error
    strange = sorted(result.unexpected_keys)
    lacking = sorted(key for key in result.missing_keys if settings.peft_type.value.lower() in key.lower())
    if strange or lacking:
        key, what = (strange[0], "has") if strange else (lacking[0], "lacks")
        raise InputError(f"The adapter {adapter} does not fit {config.name}: it {what} weights for {key}.")
    return wrapped.merge_and_unload()


def _wrapper(found: dict[str, Any]) -> str | None:
    """The wrapper's prefix of all weight names in a checkpoint, if it is the reason that no weight was recognised."""
    strange = found["unexpected_keys"]
    if not found["missing_keys"] or not strange:
        return None
    return next((w for w in _WRAPPERS if all(key.startswith(w) for key in strange)), None)


def _check_weights(found: dict[str, Any], config: ModelConfig) -> None:
    """Refuse missing weights, which would be random numbers; log unused ones.

    Args:
        found: transformers' ``loading_info``; its missing weights exclude tied ones.
        config: gives the model's name.

    Raises:
        InputError: a weight is missing, or its shape differs from the model's.
    """
    for key, theirs, own in sorted(found["mismatched_keys"]):
        if 0 in theirs:
            raise InputError(
                f"The weight {key} of {config.path} is empty: DeepSpeed ZeRO-3 saved only one process's part; gather "
                "the weights (stage3_gather_16bit_weights_on_model_save, or the checkpoint's zero_to_fp32.py)."
            )
        raise InputError(
            f"The weight {key} of {config.path} has the shape {list(theirs)}, but {list(own)} by config.json; "
            "weights and config.json are of different models."
        )
    missing, strange = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing:
        more = f" (and has {len(strange)} that the architecture does not know, such as {strange[0]})" if strange else ""
        raise InputError(
            f"{config.path} lacks {len(missing)} of the model's weights: {some_of(missing)}{more}; it is incomplete, "
            "or was saved with another architecture."
        )
    for what in ("error_msgs", "conversion_errors"):
        if found.get(what):
            raise InputError(f"The weights of {config.path} cannot be used: {as_line(next(iter(found[what])))}")
    if strange:
        log.warning("%s has %d weights that %s", config.path, len(strange), f"are not used: {some_of(strange)}.")


def _spread(config: ModelConfig) -> dict[str, Any]:
    """Arguments of transformers for a model that is spread over GPUs.

    Raises:
        InputError: the number of processes does not fit.
    """
    distributed.share_out(config.parallel is not Parallel.tensor)
    check_parallel(config.parallel)
    if config.parallel is Parallel.none:
        return {}
    if config.parallel is Parallel.device_map:
        return {"device_map": "auto"}
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def _check_attention(model: Any, config: ModelConfig) -> None:
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped is not None and config.attention is Attention.sdpa:
        raise InputError(
            f"{config.name} caps its attention logits, which SDPA silently ignores; set model.attention=eager."
        )
