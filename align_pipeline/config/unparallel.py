"""Well-known multilingual benchmarks that cannot be used, because their items are not paired with English ones."""

from __future__ import annotations

from align_pipeline.errors import InputError

UNPARALLEL = {
    "include": "INCLUDE has other questions in each language, from local exams, so that no item has an English version",
    "xwinograd": "XWinograd has other sentences in each language, so that no item has an English version",
    "mmmlu": "MMMLU has neither ids nor an English version; use task=global_mmlu, the same questions with both",
    "global_piqa_nonparallel": "this split of Global PIQA has other items in each language; use task=global_piqa",
}
"""Why a benchmark is refused, by the name that someone would give its task."""

_DATASETS = {
    "coherelabs/include-base-44": "include",
    "coherelabs/include-lite-44": "include",
    "coherelabs/include-base": "include",
    "muennighoff/xwinograd": "xwinograd",
    "openai/mmmlu": "mmmlu",
    "mrlbenchmarks/global-piqa-nonparallel": "global_piqa_nonparallel",
}


def refuse_unparallel(dataset: str) -> None:
    """Refuse a data set whose items are not parallel.

    Raises:
        InputError: it is one; says why.
    """
    name = _DATASETS.get(dataset.lower().replace("cohereforai/", "coherelabs/"))
    if name is not None:
        raise InputError(f"{dataset} cannot be used: {UNPARALLEL[name]}.")
