"""Greedy translation against plain `generate` loops: ``python benchmarks/translation.py [--data ../shared/data]``.

A random Llama translates sentences after five examples; every loop must give the same tokens. Random models know no
line break, so a share of the vocabulary counts as one, for every loop alike. The plain loops take the sentences as they
come, a batch at a time, padded on the left. Ratios are within one run.
"""

from __future__ import annotations

import argparse
import random

import torch
import yaml
from setting import parameters, random_llama, show, source, timed

from align_pipeline.config.lang import Language
from align_pipeline.config.paths import CONF
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Flores
from align_pipeline.engine.generation import greedy
from align_pipeline.engine.model import LanguageModel, Tokens

SWAHILI = Language("Swahili", "Latn", "Niger-Congo", 2, "swh_Latn", {"flores": "swh_Latn"})


def prompts_of(data: str, sentences: int) -> list[str]:
    """English into Swahili, five examples each."""
    fields = yaml.safe_load((CONF / "task" / "flores.yaml").read_text(encoding="utf-8"))["task"]
    del fields["_target_"]
    task, rows = Flores(**{**fields, "limit": sentences, "direction": "en-xx"}), Source(data)
    (translation,) = task.translations(task.pairs([SWAHILI], rows), [SWAHILI], rows)["swh_Latn"]
    return list(translation.prompts)


def plain(lm: LanguageModel, prompts: list[Tokens], batch: int, max_new_tokens: int) -> list[Tokens]:
    """transformers' `generate`, `batch` prompts at a time."""
    outputs = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        width = max(map(len, rows))
        with torch.inference_mode():
            found = lm.model.generate(
                torch.tensor([[1] * (width - len(row)) + row for row in rows], device=lm.device),
                attention_mask=torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=lm.device),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(lm.line_ends),
                pad_token_id=1,
            )
        for row in found[:, width:].tolist():
            end = next((k for k, token in enumerate(row) if token in lm.line_ends), max_new_tokens)
            outputs.append(row[: end + 1])
    return outputs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with openlanguagedata/flores_plus; default: the package's own sentences")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64], help="of the plain loops")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--ending", type=float, default=0.02, help="share of the vocabulary that ends a line")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    options = parser.parse_args()

    texts = prompts_of(source(options.data), options.sentences)
    lm = random_llama(texts, num_hidden_layers=options.layers, hidden_size=options.hidden, initializer_range=0.1)
    if torch.cuda.is_available():
        lm.model.to("cuda")
    lm.line_ends = frozenset(random.Random(0).sample(range(len(lm.tokenizer)), int(options.ending * len(lm.tokenizer))))
    prompts, most = lm.encode(texts), options.max_new_tokens
    greedy(lm, prompts[:2], 4, None)  # warm up
    own, expected = timed(lambda: greedy(lm, prompts, most, None))
    rows = [["align_pipeline", f"{own:.2f}", "1.00", ""]]
    for batch in options.batches:
        seconds, found = timed(lambda batch=batch: plain(lm, prompts, batch, most))
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        rows.append([f"`generate`, batch {batch}", f"{seconds:.2f}", f"{seconds / own:.2f}", f"{same} of {len(found)}"])
    lengths, new = [len(prompt) for prompt in prompts], [len(output) for output in expected]
    show(
        f"Translation of {len(prompts)} sentences, {sum(lengths) / len(lengths):.0f} tokens a prompt, {min(new)} to "
        f"{max(new)} new ones ({sum(new) / len(new):.1f} on average), {parameters(lm) / 1e6:.1f} M parameters",
        ["loop", "s", "times align_pipeline's", "same outputs"],
        rows,
    )


if __name__ == "__main__":
    main()
