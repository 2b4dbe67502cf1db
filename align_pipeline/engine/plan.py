"""Passes that are counted instead of run: what a job would cost, and how long a sample of its passes takes.

`planning` makes a model that goes through the engine's code as ever (tokens, trees, packing, masks), but whose passes
return zeros at once. A few of the passes are kept to be run and timed afterwards. They are drawn with a probability
proportional to their work, so that the mean of seconds per work, times all work, is an unbiased estimate of the time,
whatever the unit of work; it is FLOPs, and more for small passes, so that the ratio varies little.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SAMPLES = 4
"""Number of passes of each kind that may be timed."""
FEWEST = 2
"""Number that is timed even if it takes long."""
PATIENCE = 4.0
"""Seconds after which no further pass of a kind is timed."""

Repeat = Callable[[], Callable[[], object]]
"""Prepares a pass; what it returns runs it."""


@dataclass
class Kind:
    """The passes of one kind, such as those that read states.

    Attributes:
        passes: number of them.
        work: of all of them.
        chosen: the sample, (work, how to run it).
        largest: tokens of the largest pass, with padding, and how to run it.
    """

    passes: int = 0
    work: float = 0.0
    chosen: list[tuple[float, Repeat]] = field(default_factory=list)
    largest: tuple[int, Repeat] | None = None

    def add(self, work: float, tokens: int, repeat: Repeat, rng: random.Random) -> None:
        """Count a pass; it replaces each member of the sample with probability work / (all work so far)."""
        self.passes += 1
        self.work += work
        if not self.chosen:
            self.chosen = [(work, repeat)] * SAMPLES
        self.chosen = [(work, repeat) if rng.random() * self.work < work else one for one in self.chosen]
        if self.largest is None or tokens > self.largest[0]:
            self.largest = (tokens, repeat)


@dataclass
class Plan:
    """The passes that a model was asked for since the last `take`.

    Attributes:
        kinds: by name.
        alone: tokens of all texts, each alone and without sharing.
        kept: the most bytes of pooled states that are in memory together, since the beginning.
        stored: bytes of states that go to the cache beside the units' results.
        held: the prefix in the KV cache of the passes that are timed.
    """

    kinds: dict[str, Kind] = field(default_factory=dict)
    alone: int = 0
    kept: int = 0
    stored: int = 0
    held: Any = None
    _rng: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, kind: str, work: float, tokens: int, alone: int, repeat: Repeat) -> None:
        """Count a pass.

        Args:
            kind: of the pass.
            work: see `layout.work_of`.
            tokens: with padding.
            alone: tokens of its texts, each alone.
            repeat: prepares it, to be run.
        """
        self.alone += alone
        self.kinds.setdefault(kind, Kind()).add(work, tokens, repeat, self._rng)

    def hold(self, size: int) -> None:
        """Note so many bytes of states that stay in memory for a while."""
        self.kept = max(self.kept, size)

    def take(self) -> Plan:
        """What was counted since the last call."""
        taken = Plan(self.kinds, self.alone, self.kept, self.stored)
        self.kinds, self.alone, self.stored = {}, 0, 0
        return taken

    @property
    def passes(self) -> int:
        """Number of passes."""
        return sum(kind.passes for kind in self.kinds.values())


def seconds_per_work(kind: Kind, synchronize: Callable[[], Any]) -> float:
    """Time the sample of a kind: the mean over its passes of seconds / work. The largest pass runs first, untimed."""
    if kind.largest is not None:
        kind.largest[1]()()
    found: list[float] = []
    spent = 0.0
    for work, repeat in kind.chosen:
        if len(found) >= FEWEST and spent > PATIENCE:
            break
        run = repeat()
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        spent += time.perf_counter() - start
        found.append((time.perf_counter() - start) / work)
    return sum(found) / len(found)
