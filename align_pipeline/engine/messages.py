"""Turn errors of loading into one sentence that says what to do."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from align_pipeline.config.model import Dtype, ModelConfig
from align_pipeline.errors import InputError


def some_of(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and the number of remaining ones."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def as_line(error: object) -> str:
    """An error's message on one line that ends with a full stop; cuts are made between words."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.replace("`", "'").replace("trust_remote_code=True", "model.trust_remote_code=true")
    text = re.sub(r"attn_implementation=.?eager.?", "model.attention=eager", text)
    if len(text) > 1500:  # the end often holds the remedy
        text = f"{text[:700].rsplit(' ', 1)[0]} ... {text[-700:].split(' ', 1)[-1]}"
    return text if text.endswith((".", "!", "?")) else text + "."


@contextlib.contextmanager
def one_sentence(config: ModelConfig, path: str) -> Iterator[None]:
    """Turn errors of the hub and transformers while loading into one sentence that says what to do."""
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
    """The sentence for an error while loading; None for an unknown kind of error."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    known: dict[type[BaseException] | tuple[type[BaseException], ...], str] = {
        hub.GatedRepoError: f"{path} is gated on the hub: accept its licence at huggingface.co/{path} and log in with "
        "`hf auth login` (or set HF_TOKEN).",
        hub.RevisionNotFoundError: f"{path} has no revision '{config.revision}' on the hub.",
        hub.RepositoryNotFoundError: f"{path} is not on the hub, or is private: check model.path, and log in with "
        "`hf auth login` (or set HF_TOKEN) if it needs a token.",
        (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError): f"{path} is not in the local hub "
        "cache and the hub cannot be reached; set model.path to a folder with the model, or use model=tiny.",
        # Even trusted pickles are read with weights_only=True.
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
        return f"The weights of {path} are not valid safetensors: {as_line(error)}"
    damaged = _damaged(path)
    expected = isinstance(error, (OSError, ValueError, ImportError, RuntimeError, KeyError))
    if damaged is None and not expected and type(error) is not Exception:  # tokenizers raises plain Exception
        return None
    if "scaled_dot_product_attention" in text:
        return f"transformers has no SDPA for the architecture of {path}: set model.attention=eager."
    if "trust_remote_code" in text:
        return (
            f"{path} comes with its own Python code, which is not run by default; read it, and set "
            "model.trust_remote_code=true if you trust it."
        )
    what = path if config.gguf_file is None else f"{config.gguf_file} of {path}"
    return f"{what} cannot be loaded: {damaged or as_line(error)}"


def _too_large(config: ModelConfig, path: str) -> str:
    """The sentence for a model that does not fit the memory, with its size."""
    folder = Path(path)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    needs = ""
    if stored and config.gguf_file is None:
        of = "" if config.dtype is Dtype.auto else f" as stored, and is loaded as {config.dtype.value}"
        needs = f": it takes {stored / 1e9:.2f} GB{of}"
    return (
        f"There is not enough memory to load {path}{needs}; give the job more (ulimit -v, hydra.launcher.mem_gb), or "
        "use model.dtype=bfloat16."
    )


def _damaged(path: str) -> str | None:
    """The first unreadable JSON file of a folder, and why; None if all can be read."""
    folder = Path(path)
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{file.name} is damaged: {as_line(error)}"
    return None


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
