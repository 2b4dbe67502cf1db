"""Load a causal language model and its tokenizer, from the hub, a folder or the package; find its decoder layers."""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from align_pipeline import distributed
from align_pipeline.config import EMBEDDED, Attention, ModelConfig, Parallel, TooLong
from align_pipeline.errors import InputError
from align_pipeline.packing import Costs

log = logging.getLogger(__name__)
Tokens = list[int]


@dataclass
class LanguageModel:
    """A decoder with its tokenizer, ready to run.

    Module tree (Hugging Face)::

        model                    causal LM
        ├── decoder              model.base_model: tokens -> hidden states
        │   ├── layers[0..L-1]   the blocks; block k reads hidden_states[k] and writes the residual stream after it
        │   └── (final norm)     decoder's output is hidden_states[L]
        └── head                 output embeddings: hidden states -> logits

    Attributes:
        name: short name, as in the tables.
        truncated: texts that lost tokens to ``model.too_long=truncate_left`` so far.
        tokens_run: tokens that went through the model so far, padding not counted.
        tokens_computed: the same, padding counted.
        windows: by kind of layer, tokens that a token sees at most, itself included; None: all before it.
        fits: most tokens in a pass that the device has room for, as far as is known; see `forward.token_budget`.
        obeys_trees: whether the model takes rows of trees; None until `forward` has tried.
    """

    name: str
    model: Any
    tokenizer: Any
    layers: Sequence[nn.Module]
    max_length: int
    too_long: TooLong
    truncated: int = 0
    tokens_run: int = 0
    tokens_computed: int = 0
    windows: Mapping[str, int | None] = field(default_factory=lambda: {"full_attention": None})
    obeys_trees: bool | None = None
    fits: int | None = None

    @property
    def num_layers(self) -> int:
        """L, the number of blocks; there are L + 1 hidden states."""
        return len(self.layers)

    @property
    def width(self) -> int:
        """D, the length of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def decoder(self) -> nn.Module:
        """The model without its output embeddings."""
        decoder: nn.Module = self.model.base_model
        return decoder

    @property
    def head(self) -> nn.Module:
        """The output embeddings."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @property
    def window(self) -> int | None:
        """Tokens that a token sees at most, where some layer's attention slides; None if none does."""
        return min((window for window in self.windows.values() if window is not None), default=None)

    @functools.cached_property
    def costs(self) -> Costs:
        """FLOPs of a token; of mixtures of experts, more than it takes: all experts are counted."""
        config = self.model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        parameters = sum(weight.numel() for layer in self.layers for weight in layer.parameters())
        return Costs(2.0 * parameters, 4.0 * self.num_layers * config.num_attention_heads * head)

    def rescales(self, length: int) -> bool:
        """Whether a text is so long that its length changes how all its positions are turned (longrope, dynamic)."""
        config = self.model.config.get_text_config()
        given = getattr(config, "rope_parameters", None) or {}
        for rope in [given, *(part for part in given.values() if isinstance(part, dict))]:
            if rope.get("rope_type") in ("longrope", "dynamic"):
                known = rope.get("original_max_position_embeddings") or config.max_position_embeddings
                if length > known:
                    return True
        return False

    def counted(self) -> tuple[int, int]:
        """`tokens_run` and `tokens_computed` as they stand."""
        return self.tokens_run, self.tokens_computed

    def recount(self, counted: tuple[int, int]) -> None:
        """Go back to what `counted` gave: passes since then were trials."""
        self.tokens_run, self.tokens_computed = counted

    @functools.cached_property
    def line_ends(self) -> frozenset[int]:
        """Tokens with which a generated line is over: those with a line break, and the ends of a text."""
        ids = range(len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
        ends = {token for token, text in zip(ids, texts, strict=True) if "\n" in text}
        generation = getattr(self.model, "generation_config", None)
        for eos in (self.tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
            ends |= set(eos) if isinstance(eos, list) else set() if eos is None else {eos}
        return frozenset(ends)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids with the tokenizer's own special tokens (BOS where it adds one), not yet limited in length."""
        return [list(ids) for ids in self.tokenizer(list(texts))["input_ids"]] if texts else []

    def limit(self, tokens: Tokens, what: str) -> Tokens:
        """The tokens, limited to the model's context as ``model.too_long`` says.

        Args:
            tokens: one text.
            what: names the text in an error, such as its item.

        Raises:
            InputError: the text is too long and the policy is ``error``.
        """
        excess = len(tokens) - self.max_length
        if excess <= 0:
            return tokens
        if self.too_long is TooLong.error:
            raise InputError(
                f"{what} has {len(tokens)} tokens, more than the {self.max_length} that {self.name} reads; use fewer "
                "examples (task.num_fewshot), or model.too_long=truncate_left to drop tokens from the beginning."
            )
        self.truncated += 1
        keep_first = 1 if tokens[0] == self.tokenizer.bos_token_id else 0
        return tokens[:keep_first] + tokens[keep_first + excess :]


def load(config: ModelConfig) -> LanguageModel:
    """Load what ``conf/model`` names; the one path for the hub, folders and the embedded models.

    Raises:
        InputError: it cannot be loaded; says why and what would work.
    """
    device = _device(config.device)
    path = path_of(config)
    if isinstance(path, Path):
        check_folder(path, config)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    revision = None if isinstance(path, Path) else config.revision
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    with _one_sentence(config):
        tokenizer = AutoTokenizer.from_pretrained(str(path), **shared)
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=getattr(torch, config.dtype.value),
            attn_implementation=config.attention.value,
            use_safetensors=True if config.safetensors_only else None,
            **_spread(config),
            **shared,
        )
    _check_attention(model, config)
    if config.parallel is Parallel.none:
        model.to(device)
    model.eval()
    return wrap(model, tokenizer, config.name, config.max_length, config.too_long)


def _spread(config: ModelConfig) -> dict[str, Any]:
    """What transformers is told of a model that is spread over GPUs.

    Raises:
        InputError: the processes do not fit it.
    """
    distributed.share_out(config.parallel is not Parallel.tensor)
    if config.parallel is Parallel.none:
        return {}
    if config.parallel is Parallel.device_map:
        if distributed.size() > 1:
            raise InputError(
                "model.parallel=device_map lets one process use all GPUs that it sees; start one process, or use "
                "model.parallel=tensor."
            )
        return {"device_map": "auto"}
    if distributed.size() == 1:
        raise InputError(
            "model.parallel=tensor splits the model over processes; start them with torchrun --nproc_per_node <GPUs>."
        )
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def wrap(
    model: Any, tokenizer: Any, name: str, max_length: int | None = None, too_long: TooLong = TooLong.error
) -> LanguageModel:
    """A loaded model as a `LanguageModel`.

    Raises:
        InputError: `max_length` is more than the model's positions reach, or its decoder layers cannot be found.
    """
    text_config = model.config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)  # None: ALiBi and the like have no bound
    if max_length is not None and positions is not None and max_length > positions:
        raise InputError(f"model.max_length={max_length} is more than the {positions} positions of {name}.")
    limit = max_length or positions or 2**31 - 1
    lm = LanguageModel(name, model, tokenizer, decoder_layers(model), limit, too_long, windows=_windows(text_config))
    if not set(lm.windows) <= {"full_attention", "sliding_attention"}:  # chunks, recurrence, ...: no tree is sure there
        lm.obeys_trees = False
    return lm


def _windows(config: Any) -> dict[str, int | None]:
    """`LanguageModel.windows` of a text model's configuration."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:  # Qwen names a window that it does not use
        window = None
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {"full_attention" if window is None else "sliding_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in dict.fromkeys(kinds)}


def decoder_layers(model: Any) -> Sequence[nn.Module]:
    """The decoder's blocks in order, whatever the architecture calls them.

    Raises:
        InputError: no list of `num_hidden_layers` modules is in the decoder.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise InputError(f"The decoder layers of a {type(model).__name__} cannot be found; it is not a plain causal LM.")


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


def path_of(config: ModelConfig) -> Path | str:
    """A folder, or a hub id as it stands."""
    if config.path.startswith("embedded:"):
        return EMBEDDED / config.path.removeprefix("embedded:")
    looks_local = config.path.startswith(("/", ".", "~")) or config.path.count("/") > 1
    folder = Path(config.path).expanduser()
    return folder if folder.is_dir() or looks_local else config.path


def check_folder(folder: Path, config: ModelConfig) -> None:
    """Refuse an incomplete model folder, of which transformers speaks in several lines, or too late.

    Raises:
        InputError: something is missing; says what.
    """
    if not folder.is_dir():
        raise InputError(f"The model folder '{config.path}' does not exist; model.path takes a hub id or a folder.")
    if not (folder / "config.json").is_file():
        raise InputError(f"The model folder '{config.path}' has no config.json: it holds no model.")
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("*.bin")) and config.safetensors_only:
            raise InputError(
                f"The model folder '{config.path}' has pickled weights only, which can run code when loaded; convert "
                "them to safetensors, or set model.safetensors_only=false if you trust them."
            )
        if config.safetensors_only or not any(folder.glob("*.bin")):
            raise InputError(f"The model folder '{config.path}' has no weights (*.safetensors).")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"The model folder '{config.path}' has no tokenizer (tokenizer.json).")


def _check_attention(model: Any, config: ModelConfig) -> None:
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped is not None and config.attention is Attention.sdpa:
        raise InputError(
            f"{config.name} caps its attention logits, which SDPA leaves out without a word; set model.attention=eager."
        )


@contextlib.contextmanager
def _one_sentence(config: ModelConfig) -> Iterator[None]:
    """Turn what the hub and transformers raise while loading into one sentence that says what to do."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    path = config.path
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"The weights of {path} are not valid safetensors: {error}.") from error
    except pickle.UnpicklingError as error:  # even trusted ones are read with weights_only=True
        raise InputError(f"The pickled weights of {path} hold more than tensors, or are damaged.") from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        known: dict[type[BaseException] | tuple[type[BaseException], ...], str] = {
            hub.GatedRepoError: f"{path} is gated on the hub: accept its licence at huggingface.co/{path} and log in "
            "with `hf auth login` (or set HF_TOKEN).",
            hub.RevisionNotFoundError: f"{path} has no revision '{config.revision}' on the hub.",
            hub.RepositoryNotFoundError: f"{path} is not on the hub, or is private: check model.path, and log in with "
            "`hf auth login` (or set HF_TOKEN) if it needs a token.",
            (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError): f"{path} is not in the local hub "
            "cache and the hub cannot be reached; point model.path at a folder with the model, or use model=tiny.",
        }
        for cause in _causes(error):
            for kinds, sentence in known.items():
                if isinstance(cause, kinds):
                    raise InputError(sentence) from error
        raise InputError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
