"""5-shot accuracy: the engine against lm-evaluation-harness's hf backend, same model, data and examples.

Usage: python benchmarks/scoring.py [--data FOLDER] [--items N] [--part K] [--batch-sizes 1 8 32] [--shape KEY=N ...]

The harness runs its own task files on the data in FOLDER, at the best of the batch sizes (found on a few items); its
time is that of `simple_evaluate` without loading the model. Log-likelihoods are compared option by option. With --part,
the engine runs all items and the harness every K-th: what it takes in the model is scaled by tokens, as no prompt gets
cheaper by the others, and what it takes around the model is counted as it is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from setting import item_set, random_llama, show, source, timed
from study_cost import Model, Work, scoring, total

from align_pipeline.data.items import Item
from align_pipeline.data.tasks.parallel import ItemSet
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.measurements.accuracy.scoring import BLOCK, encode_options, predict

CONFIGS = {"belebele": "swh_Latn", "xcopa": "sw", "xstorycloze": "sw"}
FILES = {"belebele": "belebele_{}.yaml", "xcopa": "default_{}.yaml", "xstorycloze": "default_{}.yaml"}
FILES |= {"global_mmlu_lite": "../global_mmlu/default/{0}/_{0}_template_yaml"}
CASES = [("belebele", "fixed"), ("belebele", "lm_eval"), ("xcopa", "fixed"), ("xcopa", "lm_eval")]
CASES += [("xstorycloze", "fixed"), ("xstorycloze", "lm_eval")]


def harness(
    lm: LanguageModel, data: str, cache: str, name: str, fewshot: str, items: Sequence[int], batch: int
) -> tuple[float, float, list[list[float]]]:
    """Seconds in the model and around it, and log-likelihoods [items][options], of the items at these places."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    spec: dict[str, Any] = load_yaml(Path(lm_eval.__file__).parent / "tasks" / name / FILES[name].format(CONFIGS[name]))
    spec |= {"dataset_path": f"{data}/{spec['dataset_path']}", "dataset_kwargs": {"cache_dir": cache}, "num_fewshot": 5}
    if fewshot == "fixed":
        spec["fewshot_config"] = {"sampler": "first_n"}
    inside = 0.0

    class Timed(HFLM):  # type: ignore[misc]
        def loglikelihood(self, *arguments: Any, **options: Any) -> Any:
            nonlocal inside
            inside, found = timed(lambda: super(Timed, self).loglikelihood(*arguments, **options))
            return found

    wrapped = Timed(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch)
    chosen = {"samples": {spec["task"]: list(items)}, "bootstrap_iters": 0, "verbosity": "ERROR"}
    seconds, result = timed(lambda: lm_eval.simple_evaluate(wrapped, tasks=[spec], **chosen))
    samples = sorted(result["samples"][spec["task"]], key=lambda sample: sample["doc_id"])
    return inside, seconds - inside, [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in samples]


def prompts(requests: Sequence[tuple[Tokens, Tokens]]) -> list[list[int]]:
    """What the harness runs: each different input once, which options of one token share."""
    return [list(tokens) for tokens in {(*context, *continuation[:-1]) for context, continuation in requests}]


def predicted(lm: LanguageModel, side: ItemSet) -> float:
    """FLOPs of the harness by those of the engine, as the study's costs are counted.

    The harness runs each prompt as a causal row and computes logits at every token of it.
    """
    config = lm.model.config
    key_values = config.num_key_value_heads * config.head_dim
    model = Model(lm.name, lm.num_layers, config.hidden_size, config.intermediate_size, key_values, config.vocab_size)
    lengths = [len(prompt) for item in side.items for prompt in prompts(encode_options(lm, item))]
    theirs = Work(tokens=sum(lengths), cells=sum(n * n / 2 for n in lengths), predicted=sum(lengths))
    blocks = [replace(side, items=side.items[at : at + BLOCK]) for at in range(0, len(side.items), BLOCK)]
    return model.flops(theirs) / model.flops(total(scoring(lm, block) for block in blocks))


def main() -> None:
    """Print the table."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--items", type=int)
    parser.add_argument("--part", type=int, default=1)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--shape", nargs="*", default=[], help="of the model, such as hidden_size=1024")
    parser.add_argument("--cases", nargs="+", default=[f"{name}:{fewshot}" for name, fewshot in CASES])
    options = parser.parse_args()
    data = source(options.data)
    texts = [item.premise for name, config in CONFIGS.items() for item in item_set(data, name, config).items]
    lm = random_llama(texts, **{key: int(value) for key, _, value in (given.partition("=") for given in options.shape)})
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for case in options.cases:
            name, _, fewshot = case.partition(":")
            trial = {b: harness(lm, data, cache, name, fewshot, range(16), b)[0] for b in options.batch_sizes}
            batch = min(trial, key=lambda b: trial[b])
            side = item_set(data, name, CONFIGS[name], fewshot, options.items)
            items = list(side.items)

            def ours(items: list[Item] = items) -> list[list[float]]:
                return [list(p.loglikelihoods) for p in predict(lm, items, options.budget, lambda n: None)]

            lm.obeys_trees, lm.tokens_run = None, 0
            own, found = timed(ours)
            tokens = lm.tokens_run
            requests = [encode_options(lm, item) for item in items]
            part = range(0, len(items), options.part)
            inside, around, expected = harness(lm, data, cache, name, fewshot, part, batch)
            lengths = [sum(map(len, prompts(item))) for item in requests]
            theirs = around + inside * sum(lengths) / sum(lengths[index] for index in part)
            compared = zip((found[index] for index in part), expected, strict=True)
            error = max(abs(a - b) for x, y in compared for a, b in zip(x, y, strict=True))
            ratio, promised = theirs / own, predicted(lm, side)
            row = [name, fewshot, f"{len(part)} of {len(items)}", f"{theirs:.1f} s (batch {batch})", f"{own:.1f} s"]
            row += [f"{ratio:.1f}x", f"{sum(lengths) / tokens:.1f}x", f"{promised:.1f}x", f"{ratio / promised:.0%}"]
            rows.append([*row, f"{error:.1e}"])
            print(rows[-1], flush=True)
    head = ["task", "examples", "items", "lm-evaluation-harness", "engine", "ratio", "tokens", "FLOPs", "of FLOPs"]
    show(f"5-shot scoring, {sum(p.numel() for p in lm.model.parameters()):,} parameters", [*head, "error"], rows)


if __name__ == "__main__":
    main()
