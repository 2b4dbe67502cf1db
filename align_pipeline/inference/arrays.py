"""A metric's values and the answers to the same items, as arrays for permutation tests and resampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.inference.study import Array, Study, of_block


@dataclass(frozen=True)
class Bundle:
    """One metric and pooling of one model and task; i is an item, u a language with its pivot, k a layer.

    Attributes:
        key: model, task, metric, pooling.
        items: [N], ids, sorted.
        cluster: [N], integers from 0; items of one cluster (such as a passage) are not independent.
        units: language and pivot, per u.
        layers: [K].
        inner: bool [K], the layers before the final norm.
        best: [U], index into `layers` of the layer with the highest share aligned; chosen without using the answers.
        aligned: float32 [N, U, K]: 1 aligned, 0 not, NaN where there is no value.
        right: float32 [N, U]: 1 right, 0 wrong, NaN where there is no answer.
        english: float32 [N, U]: the same for the item in English.
    """

    key: tuple[str, str, str, str]
    items: Array
    cluster: NDArray[np.int64]
    units: tuple[tuple[str, str], ...]
    layers: Array
    inner: NDArray[np.bool_]
    best: NDArray[np.int64]
    aligned: NDArray[np.float32]
    right: NDArray[np.float32]
    english: NDArray[np.float32]

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0

    @property
    def at_best(self) -> NDArray[np.float32]:
        """[N, U]: `aligned` at each language's best layer."""
        return np.take_along_axis(self.aligned, self.best[None, :, None], axis=2)[:, :, 0]


def bundle(study: Study, key: tuple[str, str, str, str], cells: pd.DataFrame) -> Bundle:
    """The arrays of one block of a study.

    Args:
        study: from `join`.
        key: model, task, metric, pooling.
        cells: from `tally`; gives each language's best layer.
    """
    block = study.blocks[key]
    rows = study.items.iloc[block.rows]
    items, i = np.unique(rows["item_id"].to_numpy(object).astype(str), return_inverse=True)
    u, names = pd.MultiIndex.from_frame(rows[["language", "pivot"]].astype(object)).factorize(sort=True)
    units = tuple((str(language), str(pivot)) for language, pivot in names)
    shape = (len(items), len(units))
    aligned = np.full((*shape, len(block.layers)), np.nan, np.float32)
    aligned[i, u] = np.where(block.values < 0, np.nan, block.values)
    right, english = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    right[i, u] = rows["correct"].to_numpy(float)
    english[i, u] = rows["english_correct"].to_numpy(float)
    cluster = np.empty(len(items), object)
    cluster[i] = rows["cluster"].to_numpy(object)
    best = of_block(cells[cells["best_layer"]], key).set_index(["language", "pivot"])["layer"]
    at = np.searchsorted(block.layers, [int(best[unit]) for unit in units])
    codes = np.unique(cluster.astype(str), return_inverse=True)[1]
    return Bundle(key, items, codes, units, block.layers, block.inner, at, aligned, right, english)


def answered(study: Study, cells: pd.DataFrame) -> Iterator[Bundle]:
    """The arrays of each block of a study that has an answer; the arguments are those of `bundle`."""
    for key, block in study.blocks.items():
        if study.items["correct"].iloc[block.rows].notna().any():
            yield bundle(study, key, cells)


def ratio(part: Array, whole: Array, above: float = 0.0) -> NDArray[np.float64]:
    """part / whole, of the same shape; NaN where the whole is not above a limit."""
    found: NDArray[np.float64] = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > above)
    return found


def answers(rows: pd.DataFrame, items: Array, units: Sequence[tuple[str, str]]) -> Array:
    """[N, U]: whether each item is right in each language with its pivot, NaN where there is no answer.

    Args:
        rows: predictions of one model and task, each once.
        items: [N], ids.
        units: language and pivot, per u.
    """
    wide = rows.pivot(index="item_id", columns=["language", "pivot"], values="correct")
    columns = pd.MultiIndex.from_tuples(units, names=["language", "pivot"]) if len(units) else wide.columns
    found: Array = wide.reindex(index=items, columns=columns).to_numpy(float)
    return found
