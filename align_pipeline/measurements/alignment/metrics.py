"""The alignment metrics: pure functions of cosines, vectorised over layers and items.

Each metric returns a margin in cosine, [layers, items]: positive if the criterion holds (aligned, value 1), zero for a
tie and negative if it fails (value 0). All comparisons of METHOD are strict, so value = margin > 0.
The dataclasses at the end are the metrics of ``conf/metric``; a new metric is another such class. A metric that
says how much, not whether, gives `Number.numbers` in the place of a margin; they are not cut at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from align_pipeline.engine.pooling import POOLINGS
from align_pipeline.errors import InputError
from align_pipeline.measurements.alignment.similarity import Similarities

CRITERIA = ("global", "rowwise")


def dali(cross: Tensor, criterion: str = "global") -> Tensor:
    """DALI (Ravisankar et al.): min_i c_ii - max_{i != j} c_ij, or row by row, min_i (c_ii - max_{j != i} c_ij).

    Args:
        cross: [..., n, n], c_ij = cos(E_i, X_j) over an item's options.
        criterion: ``global`` (published numbers) or ``rowwise`` (the paper's formula).

    Returns:
        [...]; +inf for a single option, because there is no other option to confuse it with.
    """
    own = cross.diagonal(dim1=-2, dim2=-1)
    others = _off_diagonal(cross)
    if criterion == "global":
        return own.amin(dim=-1) - others.amax(dim=(-2, -1))
    return (own - others.amax(dim=-1)).amin(dim=-1)


def dali_strong(cross: Tensor, english: Tensor, language: Tensor) -> Tensor:
    """DALI_S: like `dali`, but the smallest c_ii must also exceed all cos(E_i, E_j) and cos(X_i, X_j), i != j."""
    own = cross.diagonal(dim1=-2, dim2=-1).amin(dim=-1)
    others = torch.stack([_off_diagonal(block).amax(dim=(-2, -1)) for block in (cross, english, language)])
    return own - others.amax(dim=0)


def mexa(own: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """MEXA (Kargaran et al.): s_ii minus the largest off-diagonal entry of its row and of its column."""
    return own - torch.maximum(row, column)


def _off_diagonal(block: Tensor) -> Tensor:
    """The block with its diagonal set to -inf."""
    eye = torch.eye(block.shape[-1], dtype=torch.bool, device=block.device)
    return block.masked_fill(eye, -float("inf"))


class Comparison(Protocol):
    """What all metrics have."""

    needs: ClassVar[str]
    """``options``, ``premises`` or ``sentences``: the texts that a task must have (`ParallelTask.offers`)."""

    @property
    def pooling(self) -> str:
        """The pooling of the hidden states that it compares."""
        ...


class Metric(Comparison, Protocol):
    """The interface of a metric."""

    def margin(self, similarities: Similarities) -> Tensor:
        """[layers, items]."""
        ...


@runtime_checkable
class Number(Comparison, Protocol):
    """The interface of a metric that gives a number per item, more for better alignment, instead of yes or no."""

    def numbers(self, similarities: Similarities) -> Tensor:
        """[layers, items]."""
        ...


@runtime_checkable
class Guessed(Protocol):
    """What a metric over premises or sentences may have as well: its chance level."""

    def by_chance(self, similarities: Similarities) -> Tensor:
        """[layers, items]: probability that an item counts as aligned if the two sides have nothing in common."""
        ...


def of_items(metric: Metric | Number, similarities: Similarities) -> Tensor:
    """[layers, items], float64: what is averaged over items: 1 if aligned and 0 if not, or the metric's numbers."""
    if isinstance(metric, Number):
        return metric.numbers(similarities).double()
    return (metric.margin(similarities) > 0).double()


def _check_pooling(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise InputError(f"pooling={pooling} does not exist; available: {', '.join(POOLINGS)}.")


@dataclass(frozen=True)
class Dali:
    """`dali` as a config."""

    criterion: str = "global"
    pooling: str = "last"
    needs: ClassVar[str] = "options"

    def __post_init__(self) -> None:
        _check_pooling(self.pooling)
        if self.criterion not in CRITERIA:
            raise InputError(
                f"metrics.dali.criterion={self.criterion} does not exist; available: {', '.join(CRITERIA)}."
            )

    def margin(self, similarities: Similarities) -> Tensor:
        """[layers, items]."""
        return dali(similarities.options[self.pooling].cross, self.criterion)


@dataclass(frozen=True)
class DaliStrong:
    """`dali_strong` as a config."""

    pooling: str = "last"
    needs: ClassVar[str] = "options"

    def __post_init__(self) -> None:
        _check_pooling(self.pooling)

    def margin(self, similarities: Similarities) -> Tensor:
        """[layers, items]."""
        blocks = similarities.options[self.pooling]
        return dali_strong(blocks.cross, blocks.english, blocks.language)


@dataclass(frozen=True)
class Mexa:
    """`mexa` over parallel sentences, as a config."""

    pooling: str = "weighted"
    needs: ClassVar[str] = "sentences"

    def __post_init__(self) -> None:
        _check_pooling(self.pooling)

    def margin(self, similarities: Similarities) -> Tensor:
        """[layers, items]."""
        found = similarities.premises[self.pooling]
        return mexa(found.own, found.row, found.column)

    def by_chance(self, similarities: Similarities) -> Tensor:
        """[layers, items]: probability that an item is aligned after shuffling one side; the mean is MEXA by chance."""
        return similarities.premises[self.pooling].swapped

    def among(self, similarities: Similarities, size: int) -> Tensor:
        """[layers, items]: the probability that an item is aligned among itself and `size` - 1 other random sentences.

        No rival may be among them: C(N - 1 - rivals, size - 1) / C(N - 1, size - 1).
        """
        rivals = similarities.premises[self.pooling].rivals.double()
        others = rivals.shape[1] - 1

        def log_ways(rest: Tensor) -> Tensor:
            return torch.lgamma(rest + 1) - torch.lgamma((rest - size + 1).clamp_min(0) + 1)

        rest = others - rivals
        found = torch.exp(log_ways(rest) - log_ways(torch.full_like(rest, float(others))))
        return torch.where(rest >= size - 1, found, 0.0)


@dataclass(frozen=True)
class MexaT(Mexa):
    """`mexa` over a task's premises, as a config."""

    needs: ClassVar[str] = "premises"


@dataclass(frozen=True)
class Retrieval:
    """Top-1 retrieval among a task's premises, as a config: of all translations, is its own the closest to a premise?

    With other pivots, ``en`` in the direction stands for the pivot.
    """

    direction: str = "xx-en"
    pooling: str = "weighted"
    needs: ClassVar[str] = "premises"

    def __post_init__(self) -> None:
        _check_pooling(self.pooling)
        if self.direction not in ("xx-en", "en-xx"):
            raise InputError(f"direction={self.direction} does not exist; available: xx-en, en-xx.")

    def margin(self, similarities: Similarities) -> Tensor:
        """[layers, items]: cosine with the own translation minus that with the closest other one."""
        found = similarities.premises[self.pooling]
        return found.own - (found.column if self.direction == "xx-en" else found.row)

    def by_chance(self, similarities: Similarities) -> Tensor:
        """[layers, items]: 1/N."""
        own = similarities.premises[self.pooling].own
        return torch.full_like(own, 1 / own.shape[1])
