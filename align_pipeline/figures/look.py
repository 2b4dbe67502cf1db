"""The look of figures for a paper: width, font, and which languages are labelled in which colours.

While `using` is active, the helpers of `style` and `layout` draw in the given look; otherwise figures look as on the
report's page. The drawing functions are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from align_pipeline.config.lang import name_of

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MOST = 12
"""Most languages that get a label and a colour of their own."""
REST = "#BBBBBB"
"""Colour of the languages without a label."""
OTHER = "other"
"""Name of all groups without a colour of their own."""


@dataclass(frozen=True)
class Look:
    """How figures for a paper look.

    Attributes:
        width: of each figure, in inches.
        size: of axis labels, in points; ticks and labels in the figure are one point smaller.
        font: a font family that matplotlib knows.
        names: what a language is called, by FLORES code; the code where there is none.
        groups: resource class or family by FLORES code; empty to give each labelled language its own colour.
        order: FLORES codes; `labelled` takes languages evenly from this ranking.
        highlight: FLORES codes of the languages to label; empty to choose from `order`.
    """

    width: float = 3.25
    size: float = 8.0
    font: str = "DejaVu Sans"
    names: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = ()
    highlight: Sequence[str] = ()

    @property
    def rc(self) -> dict[str, Any]:
        """matplotlib's settings: fonts embedded as TrueType (42) in PDF, and as outlines in SVG."""
        small = self.size - 1
        sizes = {f"{name}.labelsize": small for name in ("xtick", "ytick")} | {"axes.labelsize": self.size}
        return sizes | {
            "font.family": [self.font, "DejaVu Sans"],  # the second for letters that the first lacks
            "font.size": self.size,
            "mathtext.default": "regular",
            "legend.fontsize": small,
            "legend.title_fontsize": small,
            "pdf.fonttype": 42,
            "svg.fonttype": "path",
            "figure.constrained_layout.h_pad": 0.03,
            "figure.constrained_layout.w_pad": 0.03,
            "axes.labelpad": 2,
            "xtick.major.size": 2,
            "ytick.major.size": 2,
            "xtick.major.pad": 2,
            "ytick.major.pad": 2,
        }


_LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


@contextmanager
def using(look: Look | None) -> Iterator[None]:
    """Context in which figures have a look; None for that of the page."""
    token = _LOOK.set(look)
    try:
        yield
    finally:
        _LOOK.reset(token)


def current() -> Look | None:
    """The look for a paper, or None for that of the page."""
    return _LOOK.get()


def points(size: float) -> float:
    """Size of text in a figure that has `size` points on the page."""
    look = current()
    return size if look is None else look.size - 1


def marker(size: float, rows: int) -> float:
    """Size of a marker that has `size` points on the page, in a figure with a row for each."""
    return size if current() is None else size * (0.5 if rows > MOST else 0.8)


def shown(codes: pd.Series[Any]) -> pd.Series[Any]:
    """What languages are called: on the page by name, in a paper as the look says."""
    look = current()
    return codes.map(name_of if look is None else lambda code: look.names.get(code, code))


def labelled(codes: Mapping[str, str]) -> set[str]:
    """The languages of a figure that get a label: all of them on the page, at most `MOST` in a paper.

    In a paper these are the highlighted ones, or, with more than `MOST`, languages at equal distances in the ranking.

    Args:
        codes: FLORES code by name in the figure.
    """
    look = current()
    if look is None:
        return set(codes)
    if look.highlight:
        return {name for name, code in codes.items() if code in look.highlight}
    place = {code: i for i, code in enumerate(look.order)}
    ranked = sorted(codes, key=lambda name: (place.get(codes[name], len(place)), name))
    taken = np.unique(np.linspace(0, len(ranked) - 1, min(MOST, len(ranked))).round().astype(int))
    return {ranked[i] for i in taken}


def palette(names: Sequence[str], most: int = len(OKABE_ITO)) -> dict[str, Any]:
    """A colour per name: of Okabe and Ito for up to `most` names, shades of viridis in the order given for more."""
    from matplotlib import colormaps

    if len(names) <= most:
        return dict(zip(names, OKABE_ITO, strict=False))
    return {name: colormaps["viridis"](0.92 * i / (len(names) - 1)) for i, name in enumerate(names)}


def colours(codes: Mapping[str, str]) -> dict[str, Any]:
    """A colour for each language of a figure.

    Up to seven languages have the colours of Okabe and Ito; more have shades of viridis, in the order given. In a paper
    these are for the labelled languages and the rest is grey, unless languages are coloured by group.

    Args:
        codes: FLORES code by name in the figure.
    """
    groups = group_colours(list(codes.values()))
    if groups:
        return {name: groups[group_of(code)] for name, code in codes.items()}
    named = labelled(codes)
    return dict.fromkeys(codes, REST) | palette([name for name in codes if name in named])


def group_of(code: str) -> str:
    """A language's group."""
    look = current()
    return OTHER if look is None else look.groups.get(code, OTHER)


def group_colours(codes: Sequence[str]) -> dict[str, Any]:
    """A colour per group of these languages, the largest group first; {} if languages are not coloured by group.

    Resource classes have shades of cividis, in their order. The six largest families have a colour each, the others
    are grey.
    """
    from matplotlib import colormaps

    look = current()
    if look is None or not look.groups:
        return {}
    counts = pd.Series([group_of(code) for code in codes]).value_counts()
    names = sorted(counts.index, key=lambda name: (-counts[name], name))
    if all(name.isdigit() for name in names if name != OTHER):
        shade = colormaps["cividis"]
        return {k: shade(1 - int(k) / 5 * 0.95) for k in sorted(set(names) - {OTHER})} | {OTHER: REST}
    large = [name for name in names if name != OTHER][:6]
    return dict.fromkeys(names, REST) | dict(zip(large, OKABE_ITO, strict=False)) | {OTHER: REST}


def group_entries(codes: Sequence[str]) -> dict[str, Any]:
    """The groups of these languages for a legend; those without a colour of their own as one."""
    groups, found = group_colours(codes), {group_of(code) for code in codes}
    own = {name: colour for name, colour in groups.items() if name in found and colour != REST}
    return own | ({OTHER: REST} if groups and len(own) < len(found) else {})
