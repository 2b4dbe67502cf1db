"""What a full layer sweep of patching costs, against plain accuracy and against running the prompt again per layer.

Usage: python benchmarks/patching.py [--data FOLDER] [--items N] [--examples N] [--layers N] [--naive N]

Belebele, one condition (parallel), every item, in seconds of one core. The sweep is timed with and without reading the
English activations, which all languages share. The naive way, each item's whole prompt once per layer with a hook, is
timed on a few items and scaled up; it computes logits of the last token alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from setting import parameters, random_llama, show, source, task
from torch import Tensor

from align_pipeline.config.lang import Language
from align_pipeline.config.patch import Component, PatchConfig
from align_pipeline.data.items import Item
from align_pipeline.data.source import Source
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements.accuracy.scoring import encode_options, predict
from align_pipeline.measurements.patching.conditions import Plan
from align_pipeline.measurements.patching.patch import Activations, patch


def naive(lm: LanguageModel, items: Sequence[Item], values: Sequence[Tensor]) -> list[list[float]]:
    """Run each prompt once per layer; the options' log-likelihoods [item][option] with the last layer patched."""
    found = []
    for item, value in zip(items, values, strict=True):
        requests = encode_options(lm, item)
        tokens = torch.tensor([requests[0][0]])
        for layer in range(lm.num_layers + 1):

            def put(module: Any, args: Any, layer: int = layer, value: Tensor = value) -> None:
                args[0][:, -1] = value[layer, 0]

            last = layer == lm.num_layers
            handle = (lm.decoder.norm if last else lm.layers[layer]).register_forward_pre_hook(put)
            with torch.inference_mode():
                logits = lm.model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[0, -1]
            handle.remove()
        found.append([logits.log_softmax(-1)[tail[0]].item() for _, tail in requests])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--examples", type=int, default=5)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--naive", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    belebele = replace(task("belebele", limit=options.items), num_fewshot=options.examples)
    swahili = Language("Swahili", "Latn", "Niger-Congo", 2, "swh_Latn", {"belebele": "swh_Latn"})
    (pair,) = belebele.pairs([swahili], Source(source(options.data)))
    texts = [item.prompt for item in pair.english.items]  # as most tokenizers: English above all
    shape = {"num_hidden_layers": options.layers, "hidden_size": 256, "intermediate_size": 1024}
    lm = random_llama(texts, **shape)
    own = [len(lm.encode([item.prompt.rpartition("\n\n")[2]])[0]) for item in pair.language.items]
    predict(lm, pair.language.items[:2], None, lambda texts: None)  # so that nothing is timed at its first use

    def timed(run: Callable[[], Any]) -> tuple[float, int, Any]:
        tokens, start = lm.tokens_run, time.process_time()
        result = run()
        return time.process_time() - start, lm.tokens_run - tokens, result

    memory = Activations(lm, Component.resid, "last", None)
    asked = Plan(PatchConfig(conditions=["parallel"]), {})
    plain = timed(lambda: predict(lm, pair.language.items, None, lambda texts: None))
    read = timed(lambda: memory.of(pair.english.items))
    sweep = timed(lambda: patch(lm, asked, pair, pair.ids, memory, 0, None))
    few = pair.language.items[: options.naive]
    states = memory.of([pair.english.by_id()[item.id] for item in few])
    rerun = timed(lambda: naive(lm, few, states))
    scale = len(pair.ids) / len(few)
    patched = [[float(value) for value in sweep[2].loglikelihoods[0, i, -1, 0]] for i in range(len(few))]
    error = max(abs(a - b) for x, y in zip(patched, rerun[2], strict=True) for a, b in zip(x, y, strict=True))

    rows = [
        ["plain accuracy", f"{plain[0]:.1f} s", f"{plain[1]:,}", "1.00x"],
        ["reading English, once for all languages", f"{read[0]:.1f} s", f"{read[1]:,}", f"{read[0] / plain[0]:.2f}x"],
        ["sweep of all layers", f"{sweep[0]:.1f} s", f"{sweep[1]:,}", f"{sweep[0] / plain[0]:.2f}x"],
        ["reading and sweep", f"{read[0] + sweep[0]:.1f} s", "", f"{(read[0] + sweep[0]) / plain[0]:.2f}x"],
        [
            f"a prompt per layer (from {len(few)} items)",
            f"{rerun[0] * scale:.0f} s",
            "",
            f"{rerun[0] * scale / plain[0]:.1f}x",
        ],
    ]
    title = f"Patching: {len(pair.ids)} items of {sum(own) / len(own):.0f} tokens after {options.examples} examples, "
    title += f"{options.layers} layers, {parameters(lm) / 1e6:.0f} million parameters"
    show(title, ["", "seconds of a core", "tokens", "of plain accuracy"], rows)
    print(f"\nA prompt per layer takes {rerun[0] * scale / sweep[0]:.1f}x the sweep; largest difference {error:.1e}.")


if __name__ == "__main__":
    main()
