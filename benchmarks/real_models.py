"""Two pretrained models on real data: the engine against lm-evaluation-harness and against plain loops, on a CPU.

Usage: REAL_MODELS=FOLDER python benchmarks/real_models.py --data FOLDER [--cases NAME ...]

Both sides of each ratio run in this process, one after the other, in float32: the harness with its own task files and
`simple_evaluate` (batch size 1, loading left out), extraction as one text at a time with
output_hidden_states=True, MEXA as its authors' script extracts it: text by text through the causal model, logits and
all. Tokens are counted with padding beside those without. `of the rate` is the share of the machine's rate of matrix
products that the products with weights of real tokens reach, both by processor time, which other processes change
little. `system` is the share of the engine's time that the kernel took; `peak` is the process's largest resident size
so far, so cases are run one to a process for it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from align_pipeline import machine

machine.settle()

import torch  # noqa: E402
from scoring import FILES  # noqa: E402
from setting import item_set, random_llama, show, task  # noqa: E402

from align_pipeline.config import ModelConfig  # noqa: E402
from align_pipeline.config.model import Dtype  # noqa: E402
from align_pipeline.data.items import Item  # noqa: E402
from align_pipeline.data.source import Source  # noqa: E402
from align_pipeline.engine.forward import hidden_states  # noqa: E402
from align_pipeline.engine.loading import load  # noqa: E402
from align_pipeline.engine.model import LanguageModel  # noqa: E402
from align_pipeline.measurements.accuracy.scoring import predict  # noqa: E402

SCORING = {  # case -> task, config, shots, items
    "belebele-5-60": ("belebele", "spa_Latn", 5, 60),
    "belebele-5-8": ("belebele", "spa_Latn", 5, 8),
    "belebele-0-32": ("belebele", "spa_Latn", 0, 32),
    "xcopa-0-60": ("xcopa", "sw", 0, 60),
    "xstorycloze-0-30": ("xstorycloze", "sw", 0, 30),
    "global-mmlu-5-40": ("global_mmlu_lite", "es", 5, 40),
}
OTHERS = ["extraction", "mexa", "rate-80", "rate-900"]
HEAD = ["case", "other", "engine", "ratio", "tokens", "padded", "largest difference", "of the rate", "system", "peak"]


class Measured(NamedTuple):
    """What a run took.

    Attributes:
        seconds: of wall-clock time.
        processor: seconds of all threads together.
        system: share of the wall-clock time that the kernel took.
    """

    seconds: float
    processor: float
    system: float


def measured(lm: LanguageModel, run: Callable[[], Any]) -> tuple[Measured, Any]:
    """What a run took and returned; token counts begin anew."""
    lm.recount((0, 0))
    before, processor = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    start = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - start
    system = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before.ru_stime
    return Measured(seconds, time.process_time() - processor, system / seconds), found


def harness(lm: LanguageModel, data: str, name: str, config: str, shots: int, limit: int) -> list[list[float]]:
    """Log-likelihoods, [items][options]."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    with tempfile.TemporaryDirectory() as cache:
        spec: dict[str, Any] = load_yaml(Path(lm_eval.__file__).parent / "tasks" / name / FILES[name].format(config))
        spec |= {"dataset_path": f"{data}/{spec['dataset_path']}", "dataset_kwargs": {"cache_dir": cache}}
        spec |= {"task": name, "num_fewshot": shots, "fewshot_config": {"sampler": "first_n"}}
        wrapped = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=1)
        result = lm_eval.simple_evaluate(wrapped, tasks=[spec], limit=limit, bootstrap_iters=0, verbosity="ERROR")
    samples = sorted(result["samples"][spec["task"]], key=lambda sample: sample["doc_id"])
    return [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in samples]


def row(lm: LanguageModel, case: str, own: Measured) -> list[str]:
    """The case's line of the table, before the other side has run."""
    share = lm.costs.token * lm.tokens_run / own.processor / matrix_rate(lm)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [
        case,
        "",
        f"{own.seconds:.1f} s",
        "",
        f"{lm.tokens_run:,}",
        f"{lm.tokens_computed / lm.tokens_run:.3f}",
        "",
        f"{share:.0%}",
        f"{own.system:.1%}",
        f"{peak:.2f} GiB",
    ]


def matrix_rate(lm: LanguageModel) -> float:
    """FLOPs per second of processor time of a product of an MLP's shape, the median of some tries."""
    weight = lm.layers[0].mlp.up_proj.weight
    rows = torch.randn(1024, weight.shape[1])
    tries = []
    for _ in range(15):
        start = time.process_time()
        for _ in range(20):
            rows @ weight.T
        tries.append(time.process_time() - start)
    return 2.0 * 20 * rows.shape[0] * weight.numel() / statistics.median(tries)


def scoring(lm: LanguageModel, data: str, case: str) -> list[str]:
    """A task against the harness."""
    name, config, shots, limit = SCORING[case]
    with tempfile.TemporaryDirectory() as folder:
        if name == "global_mmlu_lite":
            in_the_layout_of_global_mmlu(data, Path(folder), limit)
            data = folder
        items = (
            replace(task(name, limit=limit), num_fewshot=shots)._side(Source(data), config, config, "eng_Latn").items
        )

        def ours() -> list[list[float]]:
            return [list(p.loglikelihoods) for p in predict(lm, items[:limit], None, lambda n: None)]

        own, found = measured(lm, ours)
        line = row(lm, case, own)
        other, expected = measured(lm, lambda: harness(lm, data, name, config, shots, limit))
    error = max(abs(a - b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True))
    line[1], line[3] = f"{other.seconds:.1f} s", f"{other.seconds / own.seconds:.1f}x"
    line[6] = f"{error:.0e}"
    return line


def in_the_layout_of_global_mmlu(data: str, folder: Path, count: int) -> None:
    """Write a data folder with Belebele's Spanish questions, without their passages, as Global-MMLU's: the data set is
    not at hand, but its questions are of this length."""
    found = []
    for k, row in enumerate(Source(data).load("facebook/belebele", "spa_Latn", "test", None, None)[: count + 5]):
        options = {f"option_{letter}": row[f"mc_answer{j}"] for j, letter in enumerate("abcd", 1)}
        answer = "ABCD"[int(row["correct_answer_num"]) - 1]
        found.append({"sample_id": f"a/test/{k}", "question": row["question"], **options, "answer": answer})
    base = folder / "CohereLabs/Global-MMLU-Lite"
    base.mkdir(parents=True)
    for split, rows in (("dev", found[:5]), ("test", found[5:])):
        lines = [json.dumps(row | {"cultural_sensitivity_label": "CA"}) + "\n" for row in rows]
        (base / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    splits = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("dev", "test"))
    (base / "README.md").write_text(f"---\nconfigs:\n- config_name: es\n  data_files:\n{splits}---\n", encoding="utf-8")


def states(lm: LanguageModel, groups: list[list[list[int]]], poolings: list[str]) -> torch.Tensor:
    """[groups, m, D] of the last layer by the engine, all layers pooled."""
    kept: dict[int, torch.Tensor] = {}
    names = [str(k) for k in range(len(groups))]
    for chosen, found in hidden_states(lm, groups, names, range(lm.num_layers + 1), poolings, None):
        for place, index in enumerate(chosen):
            kept[index] = found[poolings[0]][-1, place]
    return torch.stack([kept[index] for index in range(len(groups))])


@torch.inference_mode()
def loop(lm: LanguageModel, groups: list[list[list[int]]], pooling: str, logits: bool) -> torch.Tensor:
    """The same, text by text."""
    kept = []
    for text in (text for group in groups for text in group):
        run = lm.model if logits else lm.decoder
        hidden = run(input_ids=torch.tensor([text]), output_hidden_states=True, use_cache=False).hidden_states
        weights = torch.arange(1, len(text) + 1.0) if pooling == "weighted" else torch.eye(len(text))[-1]
        kept.append([weights @ state[0] / weights.sum() for state in hidden][-1])
    return torch.stack(kept).unflatten(0, (len(groups), -1))


def extraction(lm: LanguageModel, data: str, case: str) -> list[str]:
    """Hidden states of Belebele's options, or of FLORES' first 100 sentences."""
    if case == "mexa":
        texts = []
        for code in ("eng_Latn", "ind_Latn", "swh_Latn", "tam_Taml"):
            rows = Source(data).load("openlanguagedata/flores_plus", code, "devtest", None, None)
            texts += [[str(row["text"])] for row in rows[:100]]
        pooling = "weighted"
    else:
        items = item_set(data, "belebele", "spa_Latn", limit=40).items
        texts, pooling = [[*item.options, item.premise] for item in items], "last"
    groups = [lm.encode(group) for group in texts]
    own, found = measured(lm, lambda: states(lm, groups, [pooling]))
    line = row(lm, case, own)
    other, expected = measured(lm, lambda: loop(lm, groups, pooling, logits=case == "mexa"))
    line[1], line[3] = f"{other.seconds:.1f} s", f"{other.seconds / own.seconds:.1f}x"
    line[6] = f"{float((found - expected).norm() / expected.norm()):.0e}"
    return line


def rate(data: str, case: str) -> list[str]:
    """The share of the matrix rate that embedding Belebele with the random Llama of 34 million parameters reaches."""
    items: list[Item] = list(item_set(data, "belebele", "swh_Latn", limit=int(case.split("-")[1])).items)
    lm = random_llama([item.premise for item in item_set(data, "belebele", "swh_Latn").items])
    groups = [lm.encode([*item.options, item.premise]) for item in items]
    return row(lm, case, measured(lm, lambda: states(lm, groups, ["last", "weighted"]))[0])


def run(case: str, data: str, models: Path) -> list[str]:
    """One case."""
    if case.startswith("rate"):
        return rate(data, case)
    name = "smollm2-135m-instruct" if case.startswith("smollm2:") else "gemma3-270m"
    lm = load(ModelConfig(name=name, path=str(models / name), dtype=Dtype.float32, device="cpu"))
    own = case.removeprefix("smollm2:")
    line = extraction(lm, data, own) if own in OTHERS else scoring(lm, data, own)
    return [case, *line[1:]]


def main() -> None:
    """Print the table, a process to a case."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--cases", nargs="+", default=[*SCORING, *OTHERS, "smollm2:belebele-5-8"])
    options = parser.parse_args()
    models = Path(os.environ["REAL_MODELS"])
    if len(options.cases) == 1:
        print("\t".join(run(options.cases[0], options.data, models)))
        return
    rows = []
    for case in options.cases:
        command = [sys.executable, __file__, "--data", options.data, "--cases", case]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            sys.exit(found.stderr)
        rows.append(found.stdout.strip().splitlines()[-1].split("\t"))
        print(rows[-1], flush=True)
    show("Gemma 3 270M (and SmolLM2 135M Instruct), float32", HEAD, rows)


if __name__ == "__main__":
    main()
