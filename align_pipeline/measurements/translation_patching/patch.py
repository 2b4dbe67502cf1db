"""Activation patching of translation: replace an activation at the end of the source sentence, then generate and score.

The donor of a condition (see `measurements.patching.conditions`) is a sentence in the same prompt, with the same label
and examples, so that only the sentence differs. For the treatment it is the English sentence in place of the
language's. From English into the language the source already is the English sentence, so there is no treatment, only
controls and ``language=<code>``.

The prompt up to the site is read once per sentence and held in a KV cache; after it, every layer is a row of one batch.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.config.patch import (
    CONDITIONS,
    LANGUAGE_CONDITION,
    TREATMENT,
    UNPATCHED,
    Component,
    PatchConfig,
    PatchItems,
)
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Flores, Pair, Translation
from align_pipeline.engine.forward import Advance
from align_pipeline.engine.generation import (
    Batch,
    cache_budget,
    cached_trunk,
    common_beginning,
    generation_batches,
    in_batches,
    pad_tokens,
    token_limits,
)
from align_pipeline.engine.hooks import Branch, edits_of, hooked_edits, taps
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError, unknown
from align_pipeline.measurements.patching.conditions import (
    OF_ALL_ITEMS,
    Place,
    another_item,
    need_several,
    noise_like,
    others_of,
)
from align_pipeline.measurements.patching.patch import Activations, layers_of
from align_pipeline.measurements.translation.translate import Hypotheses, expected_tokens, lines

log = logging.getLogger(__name__)

SITE = "source"
ALL = (TREATMENT, "self", "random_item", "mean_english", "noise")
OF_OPTIONS = ("same_answer", "permuted_options")
SPREAD = 9
"""Number of layers to patch by default; each costs one translation of every sentence."""


@dataclass(frozen=True)
class Plan:
    """The requested patching, checked against the task.

    Attributes:
        config: the user's config.
        max_new_tokens: maximum length of a translation, in tokens.
        conditions: by direction; a direction without conditions is not patched.
        others: sentences by id, in the language of each ``language=<code>`` condition.
        languages: FLORES codes of these languages.
    """

    config: PatchConfig
    max_new_tokens: int
    conditions: Mapping[str, Sequence[str]]
    others: Mapping[str, Mapping[str, str]]
    languages: Mapping[str, str]


def plan(config: PatchConfig, task: Flores, pairs: Sequence[Pair], source: Source) -> Plan:
    """Check the requested patching against the task and its sentences, before any model is loaded.

    Raises:
        InputError: translation lacks a condition, site, component or choice of items, or has too few sentences.
    """
    asked = list(ALL) if config.conditions == "all" else list(config.conditions)
    able = [c for c in CONDITIONS if c not in OF_OPTIONS] + [LANGUAGE_CONDITION + "<code>"]
    if config.learned:
        raise InputError(
            f"patch.conditions has {config.learned[0]}, but learned maps are for tasks with answer options; with "
            f"{task.name}, use some of {', '.join(able)}."
        )
    for condition in asked:
        if condition in OF_OPTIONS:
            raise InputError(
                f"patch.conditions has {condition}, but {task.name} has no answer options; use some of "
                f"{', '.join(able)}."
            )
        for pair in pairs:
            need_several(condition, pair.english.items)
    if config.site not in ("last", SITE):
        raise unknown(f"patch.site of {task.name}", config.site, ["last", SITE])
    if config.component is Component.head:
        raise InputError(f"patch.component=head does not work with {task.name}; use resid, attn or mlp.")
    if config.items is PatchItems.ts:
        raise InputError(
            "patch.items=ts does not work with translation, which is not right or wrong; use patch.items=all."
        )
    conditions = dict.fromkeys(task.directions, asked)
    if "en-xx" in conditions and (config.conditions == "all" or TREATMENT in asked):
        left = [] if config.conditions == "all" else [c for c in asked if c != TREATMENT]
        said = (
            f"en-xx: the source is the English sentence itself, so there is no {TREATMENT} English activation; choose "
            'other conditions with patch.conditions=["language=<code>",...]'
        )
        if not left and len(conditions) == 1:
            raise InputError(said + ".")
        log.info("%s. Not patched: %s.", said, TREATMENT if left else "en-xx")
        conditions["en-xx"] = left
    others = others_of(asked, task, source)
    return Plan(
        config,
        task.max_new_tokens,
        conditions,
        {c: {item.id: item.premise for item in side.items} for c, side in others.items()},
        {c: side.language for c, side in others.items()},
    )


def digest(asked: Plan, condition: str, translation: Translation, pair: Pair, seed: int) -> str:
    """Digest of everything, except the model, that the translations under a condition depend on."""
    config = asked.config
    settings = (condition, config.layers, config.component.value, config.window, asked.max_new_tokens, seed)
    sentences = [item.premise for item in pair.english.items], asked.others.get(condition)
    return hashlib.sha256(repr((settings, translation, sentences)).encode()).hexdigest()


def patched_layers(lm: LanguageModel, config: PatchConfig) -> list[int]:
    """The layers to patch; by default `SPREAD` layers from the first to the last but one.

    After the last block, no later token reads the patched position, so patching there has no effect.

    Raises:
        InputError: one of them does not exist for the component.
    """
    able = layers_of(lm, config)
    if config.layers != "auto" or len(able) == 1:
        return able
    count = min(SPREAD, len(able) - 1)
    return [able[round(k * (len(able) - 2) / max(count - 1, 1))] for k in range(count)]


# ---- donors


def donors(condition: str, translation: Translation, pair: Pair, seed: int) -> list[str]:
    """For each sentence, the id of the sentence that its activation comes from; "" if from none or from all."""
    if condition == "random_item":
        by_id, pool = pair.english.by_id(), pair.english.items
        found = [another_item(condition, by_id[i], pool, (), seed) for i in translation.ids]
        return [pool[k].id if k is not None else "" for k in found]
    single = condition in (TREATMENT, "self") or condition.startswith(LANGUAGE_CONDITION)
    return list(translation.ids) if single else [""] * len(translation.ids)


def source_language(asked: Plan, condition: str, translation: Translation) -> str:
    """The language of a condition's activations; "" for none."""
    if condition in ("noise", "zero", UNPATCHED):
        return ""
    own = translation.language if translation.direction == "xx-en" else ENGLISH
    return asked.languages.get(condition, own if condition in ("self", "mean") else ENGLISH)


@dataclass
class Sentences:
    """The sentences that a translation's prompts can contain, and their activations at their last tokens.

    Attributes:
        known: activations that were read for an earlier condition.
        own: the translation's prompts as tokens, and the position of each one's site.
    """

    lm: LanguageModel
    asked: Plan
    translation: Translation
    pair: Pair
    seed: int
    batch_tokens: int | None
    known: Activations = field(init=False)
    own: list[Place] = field(init=False)

    def __post_init__(self) -> None:
        self.known = Activations(self.lm, self.asked.config.component, SITE, self.batch_tokens)
        self.own = self.places(self.translation.sources)

    def places(self, sentences: Sequence[str]) -> list[Place]:
        """The prompts with other sentences as sources, and the positions of the sources' last tokens."""
        items = []
        for index, sentence in enumerate(sentences):
            prompt, start, end = self.translation.prompt_of(index, sentence)
            part = (SITE, start - len(prompt), end - len(prompt))
            items.append(Item(self.translation.ids[index], (), sentence, prompt, (), -1, parts=(part,)))
        prompts = [
            self.lm.limit(tokens, f"The prompt of sentence {item.id}")
            for item, tokens in zip(items, self.lm.encode([item.prompt for item in items]), strict=True)
        ]
        return [self.known.place(item, prompt) for item, prompt in zip(items, prompts, strict=True)]

    def values(self, condition: str) -> Tensor:
        """The replacement activations: [n, K, 1, D], K the layers of `hooks.taps`."""
        ids = self.translation.ids
        if condition in ("self", "mean", "zero"):
            sentences: Sequence[str] = self.translation.sources
        elif condition in self.asked.others:
            sentences = [self.asked.others[condition][i] for i in ids]
        else:
            english = self.pair.english.by_id()
            given = donors(condition, self.translation, self.pair, self.seed) if condition == "random_item" else ids
            sentences = [english[i].premise for i in given]
        states = torch.stack(self.known.at(self.places(sentences)))
        if condition == "zero":
            return torch.zeros_like(states)
        if condition == "noise":
            return torch.stack([noise_like(state, self.seed, i) for state, i in zip(states, ids, strict=True)])
        if condition in OF_ALL_ITEMS:  # mean over all others
            total = states.double().sum(dim=0)
            return ((total - states.double()) / (len(states) - 1)).to(states.dtype)
        return states


# ---- generation


def translate_patched(
    sentences: Sentences,
    values: Tensor,
    batch_tokens: int | None,
    advance: Advance = lambda rows: None,
) -> Hypotheses:
    """Greedy decoding with replaced activations; otherwise as `translate.translate`.

    Args:
        sentences: the sentences to translate.
        values: their replacement activations, [n, K, 1, D], K the layers of `hooks.taps`.
        batch_tokens: see `generation.greedy`.
        advance: called with the number of translations that each batch finished.

    Returns:
        Translations layer by layer; each layer has all sentences.

    Raises:
        InputError: logits are not finite, or a prompt exceeds the device's memory.
    """
    lm, config, max_new_tokens = sentences.lm, sentences.asked.config, sentences.asked.max_new_tokens
    places, layers = taps(lm, config.component), patched_layers(lm, config)
    number = {layer: k for k, layer in enumerate(places)}
    prompts = [list(prompt) for prompt, _ in sentences.own]
    heads = [list(prompt[:site]) for prompt, (site,) in sentences.own]
    tails = [list(prompt[site:]) for prompt, (site,) in sentences.own]
    limits = token_limits(lm, prompts, max_new_tokens, expected_tokens(lm, sentences.translation))
    batch_tokens = distributed.least(cache_budget(lm, batch_tokens))
    beginning = common_beginning(heads)
    padded = pad_tokens(lm, max(map(len, prompts)) + max_new_tokens)
    # A row is sentence * layers + layer: a sentence's rows run together and share the tokens before the site.
    rests = [heads[row // len(layers)][len(beginning) :] for row in range(len(prompts) * len(layers))]
    batches = []
    for width in sorted({len(tail) for tail in tails}):
        alike = [row for row in range(len(rests)) if len(tails[row // len(layers)]) == width]
        more = len(beginning) + width + max_new_tokens
        for batch in generation_batches([rests[row] for row in alike], more, batch_tokens, padded):
            batches.append([alike[k] for k in batch])

    @functools.cache
    def trunk() -> Any:
        return cached_trunk(lm, beginning)

    def run(rows: list[int]) -> list[Tokens]:
        chosen = list(dict.fromkeys(row // len(layers) for row in rows))
        branches = []
        for row in rows:
            sentence, layer = row // len(layers), layers[row % len(layers)]
            window = [k for k in range(layer, layer + config.window) if k in number]
            branches.append(Branch({k: values[sentence, number[k]] for k in window}))
        batch = Batch(lm, trunk(), len(beginning), [heads[n][len(beginning) :] for n in chosen])
        origins = [row // len(layers) for row in rows]
        batch.branch([chosen.index(n) for n in origins], [tails[n] for n in origins])
        edits = edits_of(places, branches, [[[(row, 0)]] for row in range(len(rows))])
        return batch.run([limits[n] for n in origins], hooked_edits(edits))

    outputs = in_batches(lm, batches, [len(prompts[row // len(layers)]) for row in range(len(rests))], run, advance)
    return lines(lm, [outputs[n * len(layers) + k] for k in range(len(layers)) for n in range(len(prompts))])
