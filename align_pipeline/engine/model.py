"""A causal language model as the engine uses it: its modules, its attention windows and its tokenizer."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from align_pipeline.config.model import TooLong
from align_pipeline.engine.packing import Costs
from align_pipeline.engine.plan import Plan
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)
Tokens = list[int]


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that a tokenizer adds to each text.

    Attributes:
        behind: ids of those after the text.
        doubled: number of repeated BOS tokens before the text, beyond the first.
    """

    behind: tuple[int, ...]
    doubled: int


@dataclass
class LanguageModel:
    """A decoder model and its tokenizer, ready to run.

    Module tree (Hugging Face)::

        model                    causal LM
        ├── decoder              decoder_of(model): tokens -> hidden states
        │   ├── layers[0..L-1]   the blocks; block k reads hidden_states[k] and writes the residual stream after it
        │   └── (final norm)     decoder's output is hidden_states[L]
        └── head                 output embeddings: hidden states -> logits

    Attributes:
        name: short name, as in the tables.
        truncated: number of texts truncated so far by ``model.too_long=truncate_left``.
        tokens_run: tokens that went through the model so far, without padding.
        tokens_computed: the same, with padding.
        windows: by kind of layer, the attention window in tokens, with the token itself; None: full causal attention.
        fits: maximum tokens per pass that fit the device, as far as is known; see `forward.token_budget`.
        chat: whether prompts use the tokenizer's chat template.
        obeys_trees: whether the model handles packed trees correctly; None until `forward` has tested it.
        plan: counts the passes, which then return zeros instead of running; see `engine.plan`. None: they run.
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
    chat: bool = False
    obeys_trees: bool | None = None
    fits: int | None = None
    plan: Plan | None = None

    @property
    def num_layers(self) -> int:
        """L, the number of blocks; there are L + 1 hidden states."""
        return len(self.layers)

    @property
    def parameters(self) -> int:
        """Number of parameters; tied weights count once, and an adapter is part of the weights it was merged into."""
        return int(sum(weight.numel() for weight in self.model.parameters()))

    @property
    def width(self) -> int:
        """D, the size of a hidden state; zeros that stand for one have a number per attention head."""
        config = self.model.config.get_text_config()
        return int(config.hidden_size if self.plan is None else config.num_attention_heads)

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def decoder(self) -> nn.Module:
        """The model without its output embeddings."""
        return decoder_of(self.model)

    @property
    def head(self) -> nn.Module:
        """The output embeddings."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @functools.cached_property
    def activations(self) -> tuple[nn.Module, ...]:
        """Each block's activation function, whose outputs are its MLP's neurons; () if a block has none or several."""
        found = [[part for part in block.modules() if isinstance(part, _activation_kinds())] for block in self.layers]
        return tuple(parts[0] for parts in found) if all(len(parts) == 1 for parts in found) else ()

    @functools.cached_property
    def neurons(self) -> int:
        """F, the number of neurons of each block's MLP; 0 if they cannot be read, or not all blocks have as many."""
        widths: list[int] = []

        def count(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            widths.append(output.shape[-1])

        handles = [function.register_forward_hook(count) for function in self.activations]
        try:
            with torch.inference_mode():
                self.decoder(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return widths[0] if len(widths) == self.num_layers and len(set(widths)) == 1 else 0

    @property
    def vocabulary(self) -> int:
        """V, the size of the vocabulary and of a logit vector."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def window(self) -> int | None:
        """The smallest attention window of all layers, in tokens; None if no layer has one."""
        return min((window for window in self.windows.values() if window is not None), default=None)

    @functools.cached_property
    def costs(self) -> Costs:
        """FLOPs per token; too high for mixtures of experts, because all experts are counted."""
        config = self.model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        parameters = sum(weight.numel() for layer in self.layers for weight in layer.parameters())
        return Costs(2.0 * parameters, 4.0 * self.num_layers * config.num_attention_heads * head)

    def rescales(self, length: int) -> bool:
        """Whether a text is long enough to change the rotary embedding of all its positions (longrope, dynamic)."""
        return self._known_length is not None and length > self._known_length

    @functools.cached_property
    def _known_length(self) -> int | None:
        """Length up to which all texts share one rotary embedding; None: at any length."""
        config = self.model.config.get_text_config()
        given = getattr(config, "rope_parameters", None) or {}
        for rope in [given, *(part for part in given.values() if isinstance(part, dict))]:
            if rope.get("rope_type") in ("longrope", "dynamic"):
                return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
        return None

    def counted(self) -> tuple[int, int]:
        """`tokens_run` and `tokens_computed` at this moment."""
        return self.tokens_run, self.tokens_computed

    def recount(self, counted: tuple[int, int]) -> None:
        """Reset the counters to a value of `counted`, because the passes since then were only tests."""
        self.tokens_run, self.tokens_computed = counted

    @functools.cached_property
    def line_ends(self) -> frozenset[int]:
        """Tokens that end a generated line: all that contain a line break, and the end-of-text tokens."""
        ids = range(len(self.tokenizer))
        texts = self.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
        ends = {token for token, text in zip(ids, texts, strict=True) if "\n" in text}
        generation = getattr(self.model, "generation_config", None)
        for eos in (self.tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
            ends |= set(eos) if isinstance(eos, list) else set() if eos is None else {eos}
        return frozenset(ends)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids with the tokenizer's special tokens in front (such as BOS), not yet limited in length.

        Special tokens at the end are dropped, because the last state must be that of the text. BOS appears only once,
        even if the text starts with it, as with some chat templates.
        """
        bos, special = self.tokenizer.bos_token, self.special
        begins = [bool(bos) and text.startswith(bos) for text in texts]
        found: list[Tokens] = [[]] * len(texts)
        for given in (False, True):
            chosen = [index for index, yes in enumerate(begins) if yes is given]
            if not chosen:
                continue
            ids = self.tokenizer([texts[index] for index in chosen], add_special_tokens=not given)["input_ids"]
            for index, tokens in zip(chosen, ids, strict=True):
                end = len(tokens) if given else len(tokens) - len(special.behind)
                found[index] = list(tokens[0 if given else special.doubled : end])
        self._check_known(found)
        return found

    def _check_known(self, texts: Sequence[Tokens]) -> None:
        """Refuse token ids for which the model has no embedding.

        Raises:
            InputError: there is such a token; names it.
        """
        rows = self.model.get_input_embeddings().weight.shape[0]
        highest = max((max(tokens) for tokens in texts if tokens), default=-1)
        if highest >= rows:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise InputError(
                f"The tokenizer of {self.name} gives '{token}' the id {highest}, but the model has only {rows} "
                "embeddings (ids from 0): the tokenizer belongs to another model, or tokens were added to the "
                "tokenizer but not to the model."
            )

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of each token in the text, in characters; the tokens are those of `encode`."""
        (tokens,) = self.encode([text])
        bos = self.tokenizer.bos_token
        given = bool(bos) and text.startswith(bos)
        found = self.tokenizer(text, add_special_tokens=not given, return_offsets_mapping=True)["offset_mapping"]
        start = 0 if given else self.special.doubled
        return [(int(a), int(b)) for a, b in found[start : start + len(tokens)]]

    @functools.cached_property
    def special(self) -> SpecialTokens:
        """The special tokens of the tokenizer; those that are dropped are logged once."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a")["input_ids"]
        at = next((k for k in range(len(whole)) if whole[k : k + len(bare)] == bare), 0)
        front, behind = tuple(whole[:at]), tuple(whole[at + len(bare) :])
        bos = self.tokenizer.bos_token_id
        doubled = sum(a == b == bos for a, b in itertools.pairwise(front))
        if behind:
            names = " ".join(self.tokenizer.convert_ids_to_tokens(list(behind)))
            log.info("The tokenizer of %s adds %s at the end of each text; it is removed.", self.name, names)
        if doubled:
            log.info(
                "The tokenizer of %s adds %d BOS tokens at the beginning of each text; one is kept.",
                self.name,
                doubled + 1,
            )
        return SpecialTokens(behind, doubled)

    def limit(self, tokens: Tokens, what: str) -> Tokens:
        """The tokens, limited to the model's context length according to ``model.too_long``.

        Args:
            tokens: one text.
            what: name of the text for an error, such as its item.

        Raises:
            InputError: the text is too long and the policy is ``error``.
        """
        excess = len(tokens) - self.max_length
        if excess <= 0:
            return tokens
        if self.too_long is TooLong.error:
            raise InputError(
                f"{what} has {len(tokens)} tokens, more than the limit of {self.max_length} of {self.name}; use fewer "
                "examples (task.num_fewshot), or model.too_long=truncate_left to drop tokens from the beginning."
            )
        self.truncated += 1
        keep_first = 1 if tokens[0] == self.tokenizer.bos_token_id else 0
        return tokens[:keep_first] + tokens[keep_first + excess :]


def _activation_kinds() -> tuple[type, ...]:
    """The classes of activation functions that transformers builds from a model's configuration."""
    from transformers.activations import ACT2CLS

    return tuple({kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()})


def wrap(
    model: Any,
    tokenizer: Any,
    name: str,
    max_length: int | None = None,
    too_long: TooLong = TooLong.error,
    chat: bool = False,
) -> LanguageModel:
    """Wrap a loaded model as a `LanguageModel`.

    Raises:
        InputError: `max_length` exceeds the model's position range, or its decoder layers cannot be found.
    """
    text_config = model.config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)  # None: no limit, such as with ALiBi
    if max_length is not None and positions is not None and max_length > positions:
        raise InputError(f"model.max_length={max_length} is more than the {positions} positions of {name}.")
    limit = max_length or positions or 2**31 - 1
    lm = LanguageModel(
        name, model, tokenizer, decoder_layers(model), limit, too_long, windows=_windows(text_config), chat=chat
    )
    if not set(lm.windows) <= {"full_attention", "sliding_attention"}:  # chunked attention, recurrence, ...: no trees
        lm.obeys_trees = False
    return lm


def _windows(config: Any) -> dict[str, int | None]:
    """`LanguageModel.windows` from the configuration of a text model."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:  # Qwen's config gives a window even when it is unused
        window = None
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {"full_attention" if window is None else "sliding_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in dict.fromkeys(kinds)}


def decoder_of(model: Any) -> nn.Module:
    """The module that computes hidden states: the model without output embeddings and without image towers."""
    decoder: nn.Module = model.get_decoder()
    embeddings: nn.Module = model.get_input_embeddings()
    if decoder is not model:
        return decoder
    # transformers finds it by the name of the base model, which does not always exist (Llama 4).
    inner = [part for part in model.children() if any(module is embeddings for module in part.modules())]
    return next((part for part in inner if part is not embeddings), decoder)


def decoder_layers(model: Any) -> Sequence[nn.Module]:
    """The decoder's blocks in order, whatever the architecture calls them.

    Raises:
        InputError: the decoder has no list of `num_hidden_layers` modules.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in decoder_of(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise InputError(
        f"The decoder layers of a {type(model).__name__} cannot be found; it is not a supported causal LM."
    )
