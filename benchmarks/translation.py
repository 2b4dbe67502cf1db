"""Greedy translation against plain `generate` loops: ``python benchmarks/translation.py``.

A random Llama translates sentences after five examples; every loop must give the same tokens. Lines end by chance, as
a random model knows no line break: a share of the vocabulary counts as one, for every loop. The plain loops take the
sentences as they come, a batch at a time, padded on the left, with transformers' own KV cache; ratios are within one
run. The best batch size is that of the fastest plain loop.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align_pipeline.config import Dtype, Language, ModelConfig
from align_pipeline.data import Source
from align_pipeline.model import LanguageModel, Tokens, load
from align_pipeline.tasks import Flores
from align_pipeline.translate import greedy


def plain(lm: LanguageModel, prompts: list[Tokens], batch: int, max_new_tokens: int) -> list[Tokens]:
    """transformers' `generate`, `batch` prompts at a time, padded on the left."""
    outputs = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=lm.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=lm.device)
        with torch.inference_mode():
            found = lm.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(lm.line_ends),
                pad_token_id=0,
            )
        for row in found[:, width:].tolist():
            end = next((k for k, token in enumerate(row) if token in lm.line_ends), len(row) - 1)
            outputs.append(row[: end + 1])
    return outputs


def timed(run: Callable[[], list[Tokens]]) -> tuple[float, list[Tokens]]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="embedded", help="embedded, or a folder with openlanguagedata/flores_plus")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--ending", type=float, default=0.03, help="share of the vocabulary that ends a line")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()

    lm = load(ModelConfig(name="tiny", path="embedded:tiny", dtype=Dtype.float32, device=options.device))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(lm.tokenizer),
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 32,
        num_key_value_heads=max(options.hidden // 128, 1),
        max_position_embeddings=8192,
        initializer_range=0.1,
    )
    lm.model = LlamaForCausalLM(config).to(options.device, getattr(torch, options.dtype)).eval()
    lm.max_length = 8192
    vocabulary = range(len(lm.tokenizer))
    lm.line_ends = frozenset(random.Random(0).sample(vocabulary, int(options.ending * len(vocabulary))))
    swahili = Language("Swahili", "Latn", "Niger-Congo", 2, "swh_Latn", {"flores": "swh_Latn"})
    source = Source(options.data)
    task = Flores("flores", "openlanguagedata/flores_plus", "devtest", "dev", pivot="eng_Latn", limit=options.sentences)
    translations = task.translations(task.pairs([swahili], source), [swahili], source)["swh_Latn"]
    prompts = lm.encode(translations[0].prompts)
    tokens = sum(map(len, prompts)) / len(prompts)
    size = sum(p.numel() for p in lm.model.parameters())
    print(f"{len(prompts)} sentences, {tokens:.0f} tokens a prompt, {size:,} parameters")

    limit = options.max_new_tokens
    greedy(lm, prompts[:4], 8, options.batch_tokens)  # warm up
    own, expected = timed(lambda: greedy(lm, prompts, limit, options.batch_tokens))
    lengths = [len(output) for output in expected]
    print(f"{min(lengths)} to {max(lengths)} new tokens, {sum(lengths) / len(lengths):.1f} on average")
    print(f"align_pipeline: {own:.2f} s")
    for batch in [1, *options.batches]:
        seconds, found = timed(lambda batch=batch: plain(lm, prompts, batch, limit))
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        ratio = f"{seconds / own:.2f} times as long"
        print(f"generate, batch {batch}: {seconds:.2f} s, {ratio}; {same} of {len(found)} the same")


if __name__ == "__main__":
    main()
