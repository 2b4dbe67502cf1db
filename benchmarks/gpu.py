"""A real model's architecture with random bfloat16 weights on a GPU: rates, seconds per language, memory.

Usage: python benchmarks/gpu.py [--shape SHAPE] [--data FOLDER] [--items N] [--small]

Nothing is downloaded; the tokenizer is trained on the texts. Measured in one call: the device's matrix-product rate (a
product of the model's own shape), extraction of a language pair (all options, all layers, English included), 5-shot
scoring of a language, and both against plain passes on some items. The share of the matrix rate counts tokens without
padding, and only the products with weights (2 x parameters of the blocks x tokens). `--small` makes the shape small,
for any device.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from setting import item_set, parameters, show, source, task, timed, tokenizer

from align_pipeline.data.tasks.parallel import Pair
from align_pipeline.engine.forward import hidden_states, loglikelihoods, token_budget
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.measurements.accuracy.scoring import encode_options, predict
from align_pipeline.measurements.alignment.similarity import english_states, similarities

LLAMA = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
GEMMA3 = {
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "sliding_window": 512,
}
GEMMA2 = {
    "vocab_size": 256000,
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "sliding_window": 4096,
}
SHAPES = {  # name -> transformers' names, the shape, attention (SDPA leaves Gemma 2's soft-capping out)
    "llama3.1-8b": ("Llama", LLAMA | {"rope_theta": 500000.0, "bos_token_id": 0, "eos_token_id": 1}, "sdpa"),
    "gemma3-270m": ("Gemma3", GEMMA3, "sdpa"),
    "gemma2-9b": ("Gemma2", GEMMA2, "eager"),
}
SMALL = {"vocab_size": 8000, "hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 4}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
CHECKED = 8  # items that are compared with plain passes


def build(name: str, small: bool, texts: list[str], device: str, dtype: torch.dtype) -> LanguageModel:
    """The random model, made on the device."""
    import transformers

    kind, shape, attention = SHAPES[name]
    config = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(kind, f"{kind}Config"))
    made = config(**{**shape, **(SMALL if small else {}), "max_position_embeddings": 131072})
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation=attention, dtype=dtype)
    torch.set_default_dtype(torch.float32)
    for key, frequencies in model.model.rotary_emb.named_buffers():
        setattr(model.model.rotary_emb, key, frequencies.float())
    return wrap(model.eval(), tokenizer(texts), f"random {name}")


def matrix_rate(lm: LanguageModel) -> float:
    """FLOP/s of a product of the model's largest shape."""
    weight = lm.layers[0].mlp.up_proj.weight
    rows = torch.randn(8192 if weight.is_cuda else 512, weight.shape[1], dtype=weight.dtype, device=weight.device)
    runs = 50 if weight.is_cuda else 5
    for _ in range(5):
        rows @ weight.T
    seconds, _ = timed(lambda: [rows @ weight.T for _ in range(runs)])
    return 2.0 * rows.shape[0] * weight.numel() * runs / seconds


def plain_difference(lm: LanguageModel, pair: Pair, budget: int | None) -> tuple[float, float]:
    """Relative error of last-token states, and largest difference of log-likelihoods, against plain passes."""
    items = pair.language.items[:CHECKED]
    groups = [lm.encode(list(item.options)) for item in items]
    error = norm = 0.0
    for chosen, states in hidden_states(lm, groups, [i.id for i in items], [lm.num_layers // 2], ["last"], budget):
        for place, index in enumerate(chosen):
            for option, tokens in enumerate(groups[index]):
                with torch.inference_mode():
                    out = lm.decoder(
                        torch.tensor([tokens], device=lm.device), output_hidden_states=True, use_cache=False
                    )
                plain = out.hidden_states[lm.num_layers // 2][0, -1].float()
                error += float((states["last"][0, place, option].float() - plain).square().sum())
                norm += float(plain.square().sum())
    requests = [request for item in items[:2] for request in encode_options(lm, item)]
    worst = 0.0
    for found, (context, continuation) in zip(loglikelihoods(lm, requests, budget), requests, strict=True):
        with torch.inference_mode():
            logits = lm.model(torch.tensor([[*context, *continuation]], device=lm.device)).logits[0].float()
        at = logits[len(context) - 1 : -1].log_softmax(-1)
        plain_sum = sum(float(at[k, token]) for k, token in enumerate(continuation))
        worst = max(worst, abs(found - plain_sum))
    return (error / norm) ** 0.5, worst


def main() -> None:
    """Print the table; with $OUT set, also write it as JSON there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="llama3.1-8b")
    parser.add_argument("--data")
    parser.add_argument("--languages", nargs=2, default=["eng_Latn", "swh_Latn"])
    parser.add_argument("--items", type=int)
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    belebele = task("belebele", limit=options.items)
    english, other = (
        item_set(source(options.data), "belebele", code, limit=options.items) for code in options.languages
    )
    pair = Pair(other, english, tuple(item.id for item in other.items), {})
    texts = [item.premise for item in (*english.items, *other.items)]
    lm = build(options.shape, options.small, texts, device, dtype)
    error, worst = plain_difference(lm, pair, options.batch_tokens)
    rate = matrix_rate(lm)
    budget = token_budget(lm, options.batch_tokens)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    rows = []

    def measure(what: str, run: object) -> float:
        lm.recount((0, 0))
        seconds, _ = timed(run)  # type: ignore[arg-type]
        share = 2.0 * parameters(lm) * lm.tokens_run / seconds / rate
        counts = [f"{lm.tokens_run:,}", f"{lm.tokens_computed / lm.tokens_run:.3f}"]
        rows.append([what, f"{seconds:.1f} s", *counts, f"{lm.tokens_computed / seconds:,.0f}", f"{share:.2f}"])
        print(rows[-1], flush=True)
        return seconds

    def extract() -> None:
        states = english_states(lm, english, options.batch_tokens, lambda n: None)
        similarities(lm, pair, states, options.batch_tokens, lambda n: None)

    measure(f"extraction, {len(english.items)} + {len(other.items)} items", extract)
    measure(
        f"5-shot scoring, {len(other.items)} items", lambda: predict(lm, other.items, options.batch_tokens, _ignore)
    )
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    show(
        f"{lm.name}, {belebele.name}",
        ["stage", "time", "tokens", "with padding", "computed tokens/s", "of the matrix rate"],
        rows,
    )
    facts = {
        "matrix rate (TFLOP/s)": round(rate / 1e12, 1),
        "token budget": budget,
        "peak memory (GiB)": round(peak, 1),
        "relative error of states against plain passes": error,
        "largest difference of log-likelihoods": worst,
    }
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()))
    if os.environ.get("OUT"):
        (Path(os.environ["OUT"]) / "gpu.json").write_text(json.dumps({"rows": rows, **facts}))


def _ignore(texts: int) -> None:
    """No progress bar."""


if __name__ == "__main__":
    main()
