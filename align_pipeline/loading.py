"""Load a causal language model and its tokenizer: from the hub, a folder, a GGUF file, with an adapter or without.

A checkpoint is what it says: weights that are missing, or of another shape than the architecture's, are refused and
named, since transformers fills them with random numbers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import pickle
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from align_pipeline import distributed, files
from align_pipeline.config import EMBEDDED, Attention, Dtype, ModelConfig, Parallel
from align_pipeline.errors import InputError
from align_pipeline.model import LanguageModel, wrap

log = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"
SUFFIXES = (".json", ".safetensors", ".gguf", ".bin", ".model", ".txt", ".jinja")
"""Of the files of a model folder that its numbers depend on."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
_WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
"""What torch.compile, DataParallel and peft put before the name of every weight when a wrapped model is saved."""
_QUANTISED = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "aqlm": "aqlm",
    "hqq": "hqq",
    "eetq": "eetq",
    "compressed-tensors": "compressed_tensors",
    "quanto": "optimum.quanto",
    "torchao": "torchao",
}
"""The package that runs each kind of quantised weights."""


def load(config: ModelConfig) -> LanguageModel:
    """Load what ``conf/model`` names; the one path for the hub, folders and the embedded models.

    Raises:
        InputError: it cannot be loaded; says why and what would work.
    """
    check(config)
    device = _device(config.device)
    path, adapter = parts(config)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    revision = None if isinstance(path, Path) else config.revision
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    if config.gguf_file is not None:
        shared["gguf_file"] = config.gguf_file
    quantised = _quantisation(path)
    placed = {"device_map": {"": str(device)}} if quantised and config.parallel is Parallel.none else {}
    with _one_sentence(config, str(path)):
        tokenizer = AutoTokenizer.from_pretrained(str(path), **shared)

        def weights(**more: Any) -> tuple[Any, dict[str, Any]]:
            with _no_adapter():
                loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
                    str(path),
                    dtype="auto" if config.dtype is Dtype.auto else getattr(torch, config.dtype.value),
                    attn_implementation=config.attention.value,
                    use_safetensors=True if config.safetensors_only and config.gguf_file is None else None,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # so that all are told of; `_check_weights` refuses them
                    **placed,
                    **_spread(config),
                    **shared,
                    **more,
                )
            return loaded

        model, found = weights()
        wrapper = _wrapper(found)
        if wrapper is not None:
            log.info("Each weight's name of %s begins with '%s', which is taken off.", config.path, wrapper)
            model, found = weights(key_mapping={f"^{wrapper.replace('.', '[.]')}": ""})
    _check_weights(found, config)
    if adapter is not None:
        log.info("The adapter %s is merged into %s.", adapter, path)
        with _one_sentence(config, str(adapter)):
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


def parts(config: ModelConfig) -> tuple[Path | str, Path | str | None]:
    """The model and its adapter, if it has one, each a folder or a hub id.

    An adapter's folder as ``model.path`` brings its base model with it; one that lies beside a full model is taken too.

    Raises:
        InputError: an adapter names no base model.
    """
    path = path_of(config.path)
    adapter = None if config.adapter is None else path_of(config.adapter)
    if adapter is not None or not isinstance(path, Path) or not (path / ADAPTER).is_file():
        return path, adapter
    if (path / "config.json").is_file():
        return path, path
    base = _json(path / ADAPTER).get("base_model_name_or_path")
    if not base:
        raise InputError(
            f"The adapter '{config.path}' does not say what its base model is; name it with model.path and the adapter "
            "with model.adapter."
        )
    return path_of(str(base)), path


def path_of(given: str) -> Path | str:
    """A folder, or a hub id as it stands."""
    if given.startswith("embedded:"):
        return EMBEDDED / given.removeprefix("embedded:")
    looks_local = given.startswith(("/", ".", "~")) or given.count("/") > 1
    folder = Path(given).expanduser()
    return folder if folder.is_dir() or looks_local else given


def check(config: ModelConfig) -> None:
    """Refuse what can be seen to be of no use before anything is read, whether the cache will have the answers or not.

    Raises:
        InputError: a device or package is not there, or a folder is incomplete; says what is missing.
    """
    _device(config.device)
    _check_parallel(config.parallel)
    if config.attention is Attention.flash_attention_2 and find_spec("flash_attn") is None:
        raise InputError(
            "model.attention=flash_attention_2 needs the package flash-attn: pip install flash-attn; or use sdpa."
        )
    path, adapter = parts(config)
    for folder in (path, adapter):
        if isinstance(folder, Path) and folder.is_dir():
            files.check(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if config.gguf_file is not None:
        _check_gguf(path, config)
    elif isinstance(path, Path):
        _check_folder(path, config)
    kind = _quantisation(path)
    package = _QUANTISED.get(kind or "")
    if package is not None and find_spec(package.split(".")[0]) is None:
        raise InputError(
            f"{config.path} has weights quantised with {kind}, which need the package {package}: pip install {package}."
        )
    if adapter is None:
        return
    if find_spec("peft") is None:
        raise InputError(f"{adapter} is an adapter, which needs the package peft: pip install 'align_pipeline[peft]'.")
    if isinstance(adapter, Path):
        if not (adapter / ADAPTER).is_file():
            raise InputError(f"model.adapter={adapter} has no {ADAPTER}: it holds no adapter.")
        if not any((adapter / f"adapter_model{end}").is_file() for end in (".safetensors", ".bin")):
            raise InputError(f"The adapter '{adapter}' has no weights (adapter_model.safetensors).")


def num_layers(config: ModelConfig) -> int | None:
    """L by the model's own settings, before its weights are loaded; None where they do not say.

    Raises:
        InputError: the model is not on the hub, or cannot be reached.
    """
    path, _ = parts(config)
    if config.gguf_file is not None:
        return None
    settings = _settings(path, config)
    settings = settings.get("text_config") or settings
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    found = next((settings[name] for name in names if settings.get(name) is not None), None)
    return found if isinstance(found, int) else None


def _settings(path: Path | str, config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of a folder, or of a hub repository, which is asked for it if this machine does not have it."""
    if isinstance(path, Path):
        return _json(path / "config.json")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    here = try_to_load_from_cache(path, "config.json", revision=config.revision)
    if isinstance(here, str):
        return _json(Path(here))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each attempt; the end is said below
    with _one_sentence(config, path):
        try:
            return _json(Path(hf_hub_download(path, "config.json", revision=config.revision)))
        except LocalEntryNotFoundError:
            raise
        except RemoteEntryNotFoundError as error:
            raise InputError(
                f"{path} has no config.json on the hub: a GGUF repository needs model.gguf_file=<its file>, and an "
                f"adapter model.path=<base model> model.adapter={path}."
            ) from error


def _check_shards(folder: Path) -> None:
    """Refuse weights in several files of which some, or the list of them, are missing.

    Raises:
        InputError: they are; names a file.
    """
    shards = sorted(path.name for path in folder.glob("*.safetensors") if _SHARD.search(path.name))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = sorted(set(_json(index).get("weight_map", {}).values()))
        missing = [name for name in listed if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder} lacks {_some(missing)}, which {index.name} names: its download is incomplete.")
    elif shards and not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder} has its weights in parts ({shards[0]}, ...) but no {index.name}, which says where each is: copy "
            "it from where the parts are from, or save the model again."
        )


def _check_folder(folder: Path, config: ModelConfig) -> None:
    """Refuse an incomplete model folder, of which transformers speaks in several lines, or too late."""
    shown = config.path if path_of(config.path) == folder else str(folder)
    if folder.is_file() and folder.suffix == ".gguf":
        raise InputError(
            f"model.path takes a folder; for this file say model.path={folder.parent} model.gguf_file={folder.name}."
        )
    if not folder.is_dir():
        raise InputError(f"The model folder '{shown}' does not exist; model.path takes a hub id or a folder.")
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.glob("*.gguf"))
        if found:
            raise InputError(
                f"The model folder '{shown}' has no config.json, but a GGUF file: model.gguf_file={found[0]} loads it."
            )
        raise InputError(f"The model folder '{shown}' has no config.json: it holds no model.")
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) and config.safetensors_only:
            raise InputError(
                f"The model folder '{shown}' has pickled weights only, which can run code when loaded; convert "
                "them to safetensors, or set model.safetensors_only=false if you trust them."
            )
        if config.safetensors_only or not any(folder.glob("*.bin")):
            raise InputError(f"The model folder '{shown}' has no weights (*.safetensors).")
    _check_shards(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"The model folder '{shown}' has no tokenizer (tokenizer.json).")


def _check_gguf(path: Path | str, config: ModelConfig) -> None:
    """Refuse a GGUF file that is not there, is cut off, or cannot be read here."""
    if find_spec("gguf") is None:
        raise InputError(
            f"model.gguf_file={config.gguf_file} needs the package gguf: pip install 'align_pipeline[gguf]'."
        )
    if not isinstance(path, Path):
        return
    assert config.gguf_file is not None
    file = path / config.gguf_file
    if not file.is_file():
        there = ", ".join(sorted(other.name for other in path.glob("*.gguf"))) or "none"
        raise InputError(f"The model folder '{path}' has no file {config.gguf_file}; its GGUF files: {there}.")
    size = file.stat().st_size
    if (end := _gguf_end(file, size, file.stat().st_mtime_ns)) > size:
        raise InputError(f"{file} is cut off: {size:,} bytes of {end:,}.")


@functools.lru_cache(maxsize=1)
def _gguf_end(file: Path, size: int, changed: int) -> int:
    """Bytes up to the last tensor's end; kept, since a job asks several times and a vocabulary takes seconds to read.

    Args:
        file: a GGUF file.
        size, changed: of it; another file is read anew.

    Raises:
        InputError: it cannot be read.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(file)
    except Exception as error:  # whatever the reader raises when bytes are not what they should be
        raise InputError(f"{file} is cut off or is no GGUF file: {_line(error)}") from error
    return max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no settings.")
    return found


def _quantisation(path: Path | str) -> str | None:
    """How a folder's weights are quantised; None where they are not, or that is not known before they are fetched."""
    if not isinstance(path, Path) or not (path / "config.json").is_file():
        return None
    settings = _json(path / "config.json").get("quantization_config") or {}
    method = settings.get("quant_method")
    return None if method is None else str(method)


@contextlib.contextmanager
def _no_adapter() -> Iterator[None]:
    """Keep transformers from loading an adapter by itself, which it does without a word where peft is installed."""
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
        InputError: the adapter is for another model, or of a kind that cannot be merged.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    settings = PeftConfig.from_pretrained(str(adapter))
    if settings.is_prompt_learning:
        raise InputError(f"{adapter} is a {settings.peft_type.value} adapter; adapters that change weights are loaded.")
    settings.inference_mode = True
    settings.base_model_name_or_path = None  # peft warns where it is not the folder that the model came from
    try:
        wrapped = get_peft_model(model, settings)
        result = set_peft_model_state_dict(wrapped, load_peft_weights(str(adapter), device="cpu"))
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"The adapter {adapter} does not fit {config.name}: {_line(error)}") from error
    strange = sorted(result.unexpected_keys)
    lacking = sorted(key for key in result.missing_keys if settings.peft_type.value.lower() in key.lower())
    if strange or lacking:
        key, what = (strange[0], "has") if strange else (lacking[0], "lacks")
        raise InputError(f"The adapter {adapter} does not fit {config.name}: it {what} weights for {key}.")
    return wrapped.merge_and_unload()


def _wrapper(found: dict[str, Any]) -> str | None:
    """What stands before the name of every weight of a checkpoint, if nothing of it was known for that reason."""
    strange = found["unexpected_keys"]
    if not found["missing_keys"] or not strange:
        return None
    return next((w for w in _WRAPPERS if all(key.startswith(w) for key in strange)), None)


def _check_weights(found: dict[str, Any], config: ModelConfig) -> None:
    """Refuse weights that are random numbers; say which were not used.

    Args:
        found: transformers' ``loading_info``; tied weights are not among its missing ones.
        config: names the model.

    Raises:
        InputError: a weight is missing or has another shape than the model's.
    """
    for key, theirs, own in sorted(found["mismatched_keys"]):
        if 0 in theirs:
            raise InputError(
                f"The weight {key} of {config.path} is empty: DeepSpeed ZeRO-3 saved its own part alone; gather the "
                "weights (stage3_gather_16bit_weights_on_model_save, or the checkpoint's zero_to_fp32.py)."
            )
        raise InputError(
            f"The weight {key} of {config.path} has the shape {list(theirs)}, but config.json makes it {list(own)}; "
            "they are not of one model."
        )
    missing, strange = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing:
        more = f" (and {len(strange)} that the architecture does not know, such as {strange[0]})" if strange else ""
        raise InputError(
            f"{config.path} lacks {len(missing)} of the model's weights: {_some(missing)}{more}; it is incomplete, or "
            "was saved from another architecture."
        )
    for what in ("error_msgs", "conversion_errors"):
        if found.get(what):
            raise InputError(f"The weights of {config.path} cannot be used: {_line(next(iter(found[what])))}")
    if strange:
        log.warning("%s has %d weights that %s", config.path, len(strange), f"are not used: {_some(strange)}.")


def _some(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _line(error: object) -> str:
    """What an error says, as one line that ends with a stop and is not cut in the middle of a word."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.replace("`", "'").replace("trust_remote_code=True", "model.trust_remote_code=true")
    text = re.sub(r"attn_implementation=.?eager.?", "model.attention=eager", text)
    if len(text) > 1500:  # its remedies come last
        text = f"{text[:700].rsplit(' ', 1)[0]} ... {text[-700:].split(' ', 1)[-1]}"
    return text if text.endswith((".", "!", "?")) else text + "."


def _spread(config: ModelConfig) -> dict[str, Any]:
    """What transformers is told of a model that is spread over GPUs.

    Raises:
        InputError: the processes do not fit it.
    """
    distributed.share_out(config.parallel is not Parallel.tensor)
    _check_parallel(config.parallel)
    if config.parallel is Parallel.none:
        return {}
    if config.parallel is Parallel.device_map:
        return {"device_map": "auto"}
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def _check_parallel(parallel: Parallel) -> None:
    """Refuse a way to spread a model that does not go with the number of processes."""
    if parallel is Parallel.device_map and distributed.size() > 1:
        raise InputError(
            "model.parallel=device_map lets one process use all GPUs that it sees; start one process, or use "
            "model.parallel=tensor."
        )
    if parallel is Parallel.tensor and distributed.size() == 1:
        raise InputError(
            "model.parallel=tensor splits the model over processes; start them with torchrun --nproc_per_node <GPUs>."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda", distributed.local_gpu()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"model.device={name} is no device; use auto, cpu, cuda or cuda:<n>.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device={name}, but this machine has no CUDA GPU that torch can use; use cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"model.device={name}, but there are {torch.cuda.device_count()} GPUs here, counted from 0.")
    return device


def _check_attention(model: Any, config: ModelConfig) -> None:
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped is not None and config.attention is Attention.sdpa:
        raise InputError(
            f"{config.name} caps its attention logits, which SDPA leaves out without a word; set model.attention=eager."
        )


@contextlib.contextmanager
def _one_sentence(config: ModelConfig, path: str) -> Iterator[None]:
    """Turn what the hub and transformers raise while loading into one sentence that says what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        sentence = _sentence(error, config, path)
        if sentence is None:
            raise
        raise InputError(sentence) from error


def _sentence(error: Exception, config: ModelConfig, path: str) -> str | None:
    """What to say of an error while loading; None if it is none of those that loading is known to raise."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    known: dict[type[BaseException] | tuple[type[BaseException], ...], str] = {
        hub.GatedRepoError: f"{path} is gated on the hub: accept its licence at huggingface.co/{path} and log in with "
        "`hf auth login` (or set HF_TOKEN).",
        hub.RevisionNotFoundError: f"{path} has no revision '{config.revision}' on the hub.",
        hub.RepositoryNotFoundError: f"{path} is not on the hub, or is private: check model.path, and log in with "
        "`hf auth login` (or set HF_TOKEN) if it needs a token.",
        (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError): f"{path} is not in the local hub "
        "cache and the hub cannot be reached; point model.path at a folder with the model, or use model=tiny.",
        # Even trusted ones are read with weights_only=True.
        pickle.UnpicklingError: f"The pickled weights of {path} hold more than tensors, or are damaged.",
    }
    for cause in _causes(error):
        for kinds, sentence in known.items():
            if isinstance(cause, kinds):
                return sentence
    text = str(error)
    if isinstance(error, MemoryError) or re.search(r"allocate memory|out of memory", text):
        return _too_large(config, path)
    if isinstance(error, SafetensorError):
        return f"The weights of {path} are not valid safetensors: {_line(error)}"
    damaged = _damaged(path)
    expected = isinstance(error, (OSError, ValueError, ImportError, RuntimeError, KeyError))
    if damaged is None and not expected and type(error) is not Exception:  # which is what tokenizers raises
        return None
    if "scaled_dot_product_attention" in text:
        return f"transformers has no SDPA for the architecture of {path}: set model.attention=eager."
    if "trust_remote_code" in text:
        return (
            f"{path} comes with Python code of its own, which is not run unasked: read it, and set "
            "model.trust_remote_code=true if you trust it."
        )
    what = path if config.gguf_file is None else f"{config.gguf_file} of {path}"
    return f"{what} cannot be loaded: {damaged or _line(error)}"


def _too_large(config: ModelConfig, path: str) -> str:
    """That there is no room for the model, and how much it takes."""
    folder = Path(path)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    needs = ""
    if stored and config.gguf_file is None:
        of = "" if config.dtype is Dtype.auto else f" as stored, and is loaded as {config.dtype.value}"
        needs = f": it takes {stored / 1e9:.2f} GB{of}"
    return (
        f"There is not enough memory to load {path}{needs}; give the job more (ulimit -v, hydra.launcher.mem_gb), or "
        "load it as model.dtype=bfloat16."
    )


def _damaged(path: str) -> str | None:
    """The JSON file of a folder that cannot be read, and why; None if all can."""
    folder = Path(path)
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{file.name} is damaged: {_line(error)}"
    return None


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
