"""What a full layer sweep of patching costs, against plain accuracy and against running the prompt again per layer.

Usage: python benchmarks/patching.py [items] [layers] [examples]
A random Llama (256 wide, as many layers as asked for) on Belebele-like items of about 250 tokens, in seconds of one
core. Compared are the sweep of one condition over every item, with and without reading the English activations, one
plain accuracy pass over the same items, and the naive way: each item's whole prompt once per layer, on a few items.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import tokenizer

from align_pipeline.config import PatchConfig
from align_pipeline.evaluate import predict
from align_pipeline.model import LanguageModel, wrap
from align_pipeline.patch import Activations, Plan, patch
from align_pipeline.records import Item
from align_pipeline.tasks import ItemSet, Pair

TOKENS = 250
MOST_OF_PLAIN, LEAST_OF_NAIVE = 2.0, 20.0


def model(layers: int) -> LanguageModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    return wrap(LlamaForCausalLM(config).eval(), tokenizer(), "random")


def side(language: str, count: int, examples: int, seed: int) -> ItemSet:
    """Items of about 250 tokens, two to a passage, after shared examples."""
    draw = random.Random(seed)

    def text(tokens: int) -> str:
        return "".join(draw.choice("bcdfghjklmnpqrstvwxz") for _ in range(tokens))

    def own(passage: str) -> str:
        options = "\n".join(f"{letter}: {text(18)}" for letter in "ABCD")
        return f"P: {passage}\nQ: {text(25)}\n{options}\nAnswer:"

    shots = "".join(own(text(TOKENS - 130)) + " A\n\n" for _ in range(examples))
    items, letters = [], (" A", " B", " C", " D")
    for number in range(count):
        passage = passage if number % 2 else text(TOKENS - 130)  # noqa: F821
        prompt = shots + own(passage)
        items.append(Item(str(number), ("",) * 4, passage, prompt, letters, number % 4))
    return ItemSet(language, "eng_Latn", tuple(items))


def naive(lm: LanguageModel, items: tuple[Item, ...], values: list[torch.Tensor]) -> None:
    """Each item's whole prompt once per layer, a hook in it."""
    for item, value in zip(items, values, strict=True):
        tokens = torch.tensor(lm.encode([item.prompt]))
        for layer in range(lm.num_layers + 1):

            def put(module: object, args: tuple[torch.Tensor], layer: int = layer, value: torch.Tensor = value) -> None:
                args[0][:, -1] = value[layer, 0]

            at = lm.layers[layer] if layer < lm.num_layers else lm.decoder.norm
            handle = at.register_forward_pre_hook(put)
            with torch.inference_mode():
                lm.model(input_ids=tokens, use_cache=False, logits_to_keep=1)
            handle.remove()


def main() -> None:
    """Print times and ratios, and fail if either ratio is over its limit."""
    torch.set_num_threads(1)
    given = [int(value) for value in sys.argv[1:]]
    count, layers, examples = (given + [40, 32, 0][len(given) :])[:3]
    lm = model(layers)
    english, own = side("eng_Latn", count, examples, 1), side("swh_Latn", count, examples, 2)
    lengths = [len(tokens) for tokens in lm.encode([item.prompt for item in own.items])]
    parameters = sum(p.numel() for p in lm.model.parameters()) / 1e6
    print(
        f"{count} items of {sum(lengths) / count:.0f} tokens ({examples} examples), {layers} layers, {parameters:.0f}M"
    )
    predict(lm, own.items[:2], None, lambda texts: None)  # warm up

    def timed(run: object) -> tuple[float, int]:
        before, start = lm.tokens_run, time.process_time()
        run()  # type: ignore[operator]
        return time.process_time() - start, lm.tokens_run - before

    pair = Pair(own, english, tuple(item.id for item in english.items), {})
    memory = Activations(lm, PatchConfig().component, "last", None)
    asked = Plan(PatchConfig(conditions=["parallel"]), {})
    plain, plain_tokens = timed(lambda: predict(lm, own.items, None, lambda texts: None))
    read, read_tokens = timed(lambda: memory.of(english.items))
    sweep, sweep_tokens = timed(lambda: patch(lm, asked, pair, pair.ids, memory, 0, None))
    few = own.items[: max(1, count // 20)]
    values = memory.of(english.items[: len(few)])
    rerun = timed(lambda: naive(lm, few, values))[0] * count / len(few)
    print(f"plain accuracy        {plain:7.1f} s {plain_tokens:9,} tokens")
    print(f"English activations   {read:7.1f} s {read_tokens:9,} tokens (once for all languages)")
    print(f"sweep of all layers   {sweep:7.1f} s {sweep_tokens:9,} tokens")
    print(f"a prompt per layer    {rerun:7.1f} s (from {len(few)} items)")
    of_plain, of_naive = (sweep + read) / plain, rerun / sweep
    print(
        f"sweep with reading: {of_plain:.2f}x plain accuracy (alone {sweep / plain:.2f}x); {of_naive:.1f}x faster than"
    )
    print(f"a prompt per layer ({rerun / (sweep + read):.1f}x with reading)")
    if of_plain > MOST_OF_PLAIN or (of_naive < LEAST_OF_NAIVE and layers >= 32):
        sys.exit(f"Over the limit of {MOST_OF_PLAIN}x plain accuracy, or below {LEAST_OF_NAIVE}x.")


if __name__ == "__main__":
    main()
