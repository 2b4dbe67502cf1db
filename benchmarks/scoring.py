"""5-shot accuracy: the engine against lm-evaluation-harness's hf backend, same model, data and examples.

Usage: python benchmarks/scoring.py [--data FOLDER] [--items N] [--batch-sizes 1 8 32]

The harness runs its own task files on the data in FOLDER, at the best of the batch sizes (found on a few items); its
time is that of `simple_evaluate` without loading the model. Log-likelihoods are compared option by option.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from setting import item_set, random_llama, show, source, timed

from align_pipeline.evaluate import predict
from align_pipeline.model import LanguageModel

CONFIGS = {"belebele": "swh_Latn", "xcopa": "sw", "xstorycloze": "sw"}
FILES = {"belebele": "belebele_{}.yaml", "xcopa": "default_{}.yaml", "xstorycloze": "default_{}.yaml"}
CASES = [("belebele", "fixed"), ("belebele", "lm_eval"), ("xcopa", "fixed"), ("xcopa", "lm_eval")]
CASES += [("xstorycloze", "fixed"), ("xstorycloze", "lm_eval")]


def harness(
    lm: LanguageModel, data: str, cache: str, name: str, fewshot: str, items: int | None, batch: int
) -> tuple[float, list[list[float]]]:
    """Seconds and log-likelihoods [items][options]."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    spec: dict[str, Any] = load_yaml(Path(lm_eval.__file__).parent / "tasks" / name / FILES[name].format(CONFIGS[name]))
    spec |= {"dataset_path": f"{data}/{spec['dataset_path']}", "dataset_kwargs": {"cache_dir": cache}, "num_fewshot": 5}
    if fewshot == "fixed":
        spec["fewshot_config"] = {"sampler": "first_n"}
    wrapped = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch)
    seconds, result = timed(
        lambda: lm_eval.simple_evaluate(wrapped, tasks=[spec], limit=items, bootstrap_iters=0, verbosity="ERROR")
    )
    samples = sorted(result["samples"][spec["task"]], key=lambda sample: sample["doc_id"])
    return seconds, [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in samples]


def main() -> None:
    """Print the table."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--items", type=int)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--cases", nargs="+", default=[f"{name}:{fewshot}" for name, fewshot in CASES])
    options = parser.parse_args()
    data = source(options.data)
    texts = [item.premise for name, config in CONFIGS.items() for item in item_set(data, name, config).items]
    lm = random_llama(texts)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for case in options.cases:
            name, _, fewshot = case.partition(":")
            trial = {b: harness(lm, data, cache, name, fewshot, 16, b)[0] for b in options.batch_sizes}
            batch = min(trial, key=lambda b: trial[b])

            def ours(name: str = name, fewshot: str = fewshot) -> list[list[float]]:
                items = item_set(data, name, CONFIGS[name], fewshot, options.items).items
                return [list(p.loglikelihoods) for p in predict(lm, items, options.budget, lambda n: None)]

            lm.obeys_trees, lm.tokens_run = None, 0
            own, found = timed(ours)
            tokens = lm.tokens_run
            theirs, expected = harness(lm, data, cache, name, fewshot, options.items, batch)
            error = max(abs(a - b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True))
            row = [name, fewshot, len(found), f"{theirs:.1f} s (batch {batch})", f"{own:.1f} s"]
            rows.append([*row, f"{theirs / own:.1f}x", f"{tokens:,}", f"{error:.1e}"])
            print(rows[-1], flush=True)
    head = ["task", "examples", "items", "lm-evaluation-harness", "engine", "ratio", "engine's tokens", "largest error"]
    show("5-shot scoring", head, rows)


if __name__ == "__main__":
    main()
