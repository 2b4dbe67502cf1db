"""What each layer predicts after a prompt, read with the logit lens: ``logit_lens.parquet``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from rich.table import Table
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.data.items import Item
from align_pipeline.data.tasks import ChoiceTask, Pair, ParallelTask
from align_pipeline.engine.lens import lens
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError
from align_pipeline.figures.style import save, slug
from align_pipeline.measurements.accuracy.scoring import BLOCK, encode_options
from align_pipeline.measurements.base import Columns, Measurement, Told, Unit, digest, layers, printed
from align_pipeline.measurements.logit_lens.figures import by_layer
from align_pipeline.measurements.logit_lens.scripts import code, number, scripts
from align_pipeline.measurements.logit_lens.table import KEYS, LOGIT_LENS
from align_pipeline.tracking.wandb import Curve

OTHERS = 10
"""Number of other items whose English answers give the chance level."""


class LogitLens(Measurement):
    """The probability of the right answer's first token, in English and in the language, and the top tokens' script."""

    name: ClassVar[str] = "logit_lens"
    stage: ClassVar[str] = "lens"
    table: ClassVar[str] = "logit_lens"
    schema: ClassVar[pa.Schema] = LOGIT_LENS

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return config.logit_lens

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """See `Measurement`."""
        if not isinstance(task, ChoiceTask):
            raise InputError(f"logit_lens=true reads predictions of answers, but {task.name} has no answer options.")
        if last is not None:
            layers(config, last)

    def units(self) -> Iterator[Unit]:
        """One unit per language."""
        for pair in self.job.pairs:
            what, compute = f"Read layers of {pair.language.language}", functools.partial(self._compute, pair)
            rows, lines = functools.partial(self._rows, pair), functools.partial(self._curves, pair)
            yield Unit("logit lens", _texts(pair), what, compute, rows, curves=lines)

    def _compute(self, pair: Pair) -> dict[str, Tensor]:
        lm, own, english = self.job.lm, pair.language.by_id(), pair.english.by_id()
        layers(self.job.config, lm.num_layers)  # before the passes: a layer that does not exist fails at once
        firsts = [answer(lm, english[item_id])[1] for item_id in pair.ids]
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        with self.job.stages.stage("lens", f"Read layers of {pair.language.language}", len(pair.ids)) as advance:
            for start in range(0, len(pair.ids), BLOCK):  # prompts with few-shot examples are long
                block = range(start, min(start + BLOCK, len(pair.ids)))
                prompts = [answer(lm, own[pair.ids[index]]) for index in block]
                asked = [
                    [token, firsts[index], *(firsts[other] for other in rivals(index, len(firsts)))]
                    for index, (_, token) in zip(block, prompts, strict=True)
                ]
                contexts = [context for context, _ in prompts]
                parts.append((torch.tensor(asked), *lens(lm, contexts, asked, self.job.config.batch_tokens, advance)))
        tokens, chances, best = (torch.cat(one) for one in zip(*parts, strict=True))
        of = scripts(lm.tokenizer, best.flatten().tolist())
        return {
            "tokens": tokens,
            "probabilities": chances,
            "scripts": best.apply_(lambda token: number(of[token])),
        }

    def _rows(self, pair: Pair, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        self.job.num_layers = tensors["probabilities"].shape[1] - 1
        shown = layers(self.job.config, self.job.num_layers)
        for (quantity, script), (value, chance, n) in summarized(tensors).items():
            yield {
                **self.job.columns(pair.language),
                "quantity": quantity,
                "script": script,
                "layer": np.array(shown, dtype=np.int32),
                "value": value[shown],
                "chance": chance[shown],
                "n": np.full(len(shown), n, dtype=np.int32),
            }

    def _curves(self, pair: Pair, tensors: dict[str, Tensor]) -> list[Curve]:
        return list(_curves(pd.concat([pd.DataFrame(part) for part in self._rows(pair, tensors)])))

    def tell(self) -> Told:
        """See `Measurement`."""
        table = self.job.table(self.table)
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for key, rows in table.groupby(KEYS, sort=False):
            language, pivot, quantity, script = map(str, key)
            told = {name: rows[name].tolist() for name in ("layer", "value", "chance")}
            found.setdefault((language, pivot), {})[f"script_{script}" if script else quantity] = told
        name = slug(f"logit_lens_{self.job.task.name}")
        return Told(
            {key: {"logit_lens": one} for key, one in found.items()},
            list(_curves(table)),
            save(functools.partial(by_layer, table), self.job.folder / name, ("png",)),
            printed=[_printed(found)],
        )

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        found = {name: _peak(told)[0] for name, told in row.get("logit_lens", {}).items()}
        return {f"lens_{name}_max": value for name, value in found.items() if math.isfinite(value)}


def answer(lm: LanguageModel, item: Item) -> tuple[Tokens, int]:
    """The prompt, and the first token of the right answer after it."""
    context, continuation = encode_options(lm, item)[item.gold]
    return context, continuation[0]


def rivals(index: int, n: int) -> list[int]:
    """Up to `OTHERS` other items of n, spread over all of them."""
    count = min(OTHERS, n - 1)
    return [(index + 1 + k * (n - 1) // count) % n for k in range(count)]


def summarized(tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], tuple[np.ndarray[Any, Any], Any, int]]:
    """Quantity and script -> value and chance by layer [L + 1], and the number of items.

    Args:
        tensors: ``tokens`` [N, 2 + k], the first tokens of the item's answer, of its English one, and of other items'
            English ones; ``probabilities`` [N, L + 1, 2 + k]; ``scripts`` [N, L + 1], of the top tokens.
    """
    tokens, chances = tensors["tokens"].numpy(), tensors["probabilities"].double().numpy()
    apart = tokens[:, 0] != tokens[:, 1]
    none = np.full(chances.shape[1], np.nan)
    # An other item's answer can begin with the same token as one of the item's own answers.
    foreign = (tokens[:, 2:] != tokens[:, :1]) & (tokens[:, 2:] != tokens[:, 1:2]) & apart[:, None]
    chance = none
    if foreign.any():
        compared = foreign.any(axis=1)
        weights = foreign[compared] / foreign[compared].sum(axis=1, keepdims=True)
        chance = (chances[compared, :, 2:] * weights[:, None]).sum(axis=2).mean(axis=0)
    english, own = (chances[apart, :, k].mean(axis=0) if apart.any() else none for k in (1, 0))
    count = int(apart.sum())
    found = {("english", ""): (english, chance, count), ("own", ""): (own, none, count)}
    codes = tensors["scripts"].numpy()
    shares = {code(int(one)): (codes == one).mean(axis=0) for one in np.unique(codes)}
    for name, share in sorted(shares.items(), key=lambda pair: -float(pair[1].mean())):
        found["script", name] = share, none, len(codes)
    return found


def _curves(table: pd.DataFrame) -> Iterator[Curve]:
    for (language, _, quantity, script), rows in table[table["value"].notna()].groupby(KEYS, sort=False):
        name = f"script_{script}" if script else str(quantity)
        yield Curve(name, str(language), rows["layer"].tolist(), rows["value"].tolist(), "logit_lens")


def _peak(told: Mapping[str, Sequence[float]]) -> tuple[float, int, float]:
    """The largest value, its layer, and the chance level there; NaN if no value is defined."""
    every = zip(told["value"], told["layer"], told["chance"], strict=True)
    defined = [point for point in every if math.isfinite(point[0])]
    value, layer, chance = max(defined, key=lambda point: (point[0], -point[1]), default=(math.nan, 0, math.nan))
    return value, int(layer), chance


def _printed(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> Table:
    title = "Logit lens: right answer's first token, and script of the top token"
    caption = (
        "Probability: highest over layers, in brackets of other items' English answers at the same layer. "
        "Scripts: mean share over the layers. Zyyy: no letters. All layers: logit_lens.parquet."
    )
    heads = ("English answer\nmax @layer", "own answer\nmax @layer", "top tokens")
    made = printed(title, caption, ["language"], heads, no_wrap=True)
    for (language, _), one in found.items():
        cells = []
        for name in ("english", "own"):
            value, layer, chance = _peak(one[name])
            behind = f" ({chance:.3f})" if math.isfinite(chance) else ""
            cells.append(f"{value:.3f} @{layer}{behind}" if math.isfinite(value) else "–")
        means = {key[7:]: np.mean(told["value"]) for key, told in one.items() if key.startswith("script_")}
        most = sorted(means.items(), key=lambda pair: -pair[1])[:3]
        made.add_row(language, *cells, ", ".join(f"{script} {share:.2f}" for script, share in most))
    return made


def _texts(pair: Pair) -> str:
    """Digest of all texts that the pair's numbers depend on, in order."""
    items = [item for side in zip(*pair.items(), strict=True) for item in side]
    return digest([(item.prompt, item.continuations[item.gold], item.shots) for item in items])
