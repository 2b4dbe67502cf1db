"""Legends, colour bars and labels, on the page and in a paper, where they fit the figure without overlap."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from align_pipeline.figures import look
from align_pipeline.figures.style import INK, spread_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE = 1.2
"""Distance of lines of text, in font sizes."""


def width_of(text: str, size: float) -> float:
    """Width of a text in inches, in the font of the figure; of its longest line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    lines = [TextPath((0, 0), line, size=size, prop=FontProperties()) for line in text.split("\n") if line]
    return max((float(line.get_extents().width) for line in lines), default=0.0) / 72


def settle(figure: Figure) -> None:
    """In a paper, lay the figure out, so that positions are final; axis labels that are too long get several lines, and
    ticks whose labels would touch get further apart."""
    from matplotlib.ticker import AutoLocator, MaxNLocator

    paper = look.current()
    if paper is None:
        return
    for name in ("xaxis", "yaxis"):  # lines below the axes leave less room beside them
        figure.draw_without_rendering()
        for axes in figure.axes:
            axis, is_x = getattr(axes, name), name == "xaxis"
            text, room = " ".join(axis.get_label_text().split()), axes.bbox.width if is_x else axes.bbox.height
            if not text:
                continue
            if is_x and isinstance(axis.get_major_locator(), AutoLocator):
                ticks = [width_of(tick.get_text(), paper.size) for tick in axis.get_ticklabels()]
                fit = int(room / figure.dpi / max([*ticks, 0.1]))
                axis.set_major_locator(MaxNLocator(max(min(fit - 1, 8), 2)))
            letters = max(int(len(text) * room / figure.dpi / width_of(text, paper.size)), 8)
            axis.set_label_text("\n".join(textwrap.wrap(text, letters, break_long_words=False)))
    figure.draw_without_rendering()


def legend(axes: Axes, size: float, handles: Sequence[Any] = (), **where: Any) -> None:
    """A legend of the axes' artists, or of others: on the page where the arguments say, in a paper below the figure."""
    handles = handles or axes.get_legend_handles_labels()[0]
    if look.current() is None:
        axes.legend(handles=handles, fontsize=size, **where)
    else:
        below(axes.figure, handles, str(where.get("title", "")))


def below(figure: Any, handles: Sequence[Any], title: str = "") -> None:
    """In a paper, a legend in rows below the figure, which grows by its height."""
    paper = look.current()
    assert paper is not None
    size, texts = paper.size - 1, [str(handle.get_label()) for handle in handles]
    widths = [width_of(text, size) + 3.8 * size / 72 for text in texts]
    fits = (n for n in range(len(texts), 1, -1) if sum(map(max, _columns(widths, n))) <= paper.width - 0.1)
    across = next(fits, 1)
    where: Any = {"loc": "outside lower center", "handlelength": 1.6, "columnspacing": 1.2}
    figure.legend(handles=handles, ncols=across, title=title or None, **where)
    lines = max(map(sum, _columns([1 + text.count("\n") for text in texts], across))) + bool(title)
    wide, tall = figure.get_size_inches()
    figure.set_size_inches(wide, tall + 1.35 * size / 72 * lines)


def _columns(values: Sequence[float], across: int) -> list[Sequence[float]]:
    """A legend's values by column; the first columns have one more than the others if not all have as many."""
    count, more = divmod(len(values), across)
    ends = np.cumsum([0, *(count + (i < more) for i in range(across))])
    return [values[start:end] for start, end in pairwise(ends)]


def group_legend(axes: Axes, codes: Sequence[str]) -> None:
    """In a paper with languages coloured by group, a legend of the groups."""
    from matplotlib.lines import Line2D

    own = look.group_entries(codes)
    if not own:
        return
    handles, _ = axes.get_legend_handles_labels()
    handles += [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=4, label=name) for name, colour in own.items()
    ]
    is_class = all(name.isdigit() or name == look.OTHER for name in own)
    below(axes.figure, handles, "resource class" if is_class else "")


def dots(axes: Axes, x: NDArray[Any], y: NDArray[Any], codes: Mapping[str, str], colour: str) -> None:
    """In a paper, a point per language: in the colour of its group, or in `colour` and grey without a label.

    Args:
        axes: where.
        x, y: [n], the points.
        codes: n FLORES codes by name.
        colour: of the labelled languages.
    """
    named, hues, grouped = look.labelled(codes), look.colours(codes), look.group_colours(list(codes.values()))
    for name, px, py in zip(codes, x, y, strict=True):
        hue = hues[name] if grouped else colour if name in named else look.REST
        axes.plot(px, py, "o", color=hue, markersize=4, markeredgecolor="#444444", markeredgewidth=0.3)


def colour_bar(figure: Any, axes: Axes, image: Any, label: str, height: float) -> None:
    """A colour bar on the right; `height` is the figure's on the page, in inches."""
    if look.current() is not None:
        bar = figure.colorbar(image, ax=axes, label=label, aspect=25, pad=0.02)
        bar.outline.set_linewidth(0.5)
        return
    tall = min(height - 1.17, 3.0)
    bar = figure.add_axes((8.12 / 9, (height - 0.62 - tall) / height, 0.16 / 9, tall / height))
    figure.colorbar(image, cax=bar, label=label)


def row_labels(axes: Axes, names: Sequence[str], size: float, codes: Mapping[str, str], last: float) -> None:
    """Label the rows 0, 1, ... of a figure; the limits and the legend must be final.

    In a paper with more than `look.MOST` rows only the labelled languages get a label, with a line to the row where
    labels had to be moved apart. Rows that are no language always have one.

    Args:
        axes: whose y axis has the rows.
        names: of the rows.
        size: of the text on the page.
        codes: FLORES code by name, of the rows that are languages.
        last: position of the last row.
    """
    paper = look.current()
    at = np.linspace(0, last, len(names)) if len(names) > 1 else np.zeros(1)
    if paper is None or len(names) <= look.MOST:
        axes.set_yticks(at, names, fontsize=look.points(size))
        settle(axes.figure)  # type: ignore[arg-type]
        return
    keep = look.labelled({k: code for k, code in codes.items() if k in names})
    rows = [i for i, name in enumerate(names) if name in keep or name not in codes]
    axes.set_yticks([])
    beside, low, high = axes.get_yaxis_transform(), *sorted(axes.get_ylim())
    texts = [
        axes.text(-0.035, at[row], names[row], ha="right", va="center", fontsize=paper.size - 1, transform=beside)
        for row in rows
    ]
    settle(axes.figure)  # type: ignore[arg-type]
    line = _line(axes)
    places = spread_apart(at[rows], line, low + line / 2, high - line / 2)
    for row, text, place in zip(rows, texts, places, strict=True):
        text.set_y(place)
        axes.plot([0, -0.025], [at[row], place], color=INK, linewidth=0.4, clip_on=False, transform=beside)


def _line(axes: Axes) -> float:
    """Distance of lines of text, in units of the y axis; once the figure is settled."""
    low, high = sorted(axes.get_ylim())
    return _LINE * look.points(0) / 72 * (high - low) / (axes.bbox.height / axes.figure.dpi)


def end_labels(
    axes: Axes,
    ends: NDArray[Any],
    texts: Sequence[Mapping[str, Any]],
    layer: int,
    gutter: float,
    gap: float,
    as_legend: bool = False,
) -> None:
    """Label lines at their ends, one below the other, with a thin line from each end to its label.

    Args:
        axes: with limits that are final.
        ends: height of each line at its last layer.
        texts: of each label, what `Axes.text` needs, and ``line``, the colour of the thin line.
        layer: the last one.
        gutter: width of the thin line, as a share of the axes' width.
        gap: distance of the labels on the page, in units of the axis.
        as_legend: whether `ends` are other heights, which order the labels; each has a piece of its line beside it.
    """
    low, high = axes.get_ylim()
    left, edge = axes.get_xlim()
    wide = gutter * (edge - left)
    drawn = [
        axes.text(edge + 1.15 * wide, end, va="center", **{key: value for key, value in text.items() if key != "line"})
        for text, end in zip(texts, ends, strict=True)
    ]
    settle(axes.figure)  # type: ignore[arg-type]
    spots = spread_apart(ends, gap if look.current() is None else _line(axes), low, high)
    for label, text, spot, end in zip(drawn, texts, spots, ends, strict=True):
        label.set_y(spot)
        if as_legend:
            axes.plot([edge + 0.2 * wide, edge + 0.9 * wide], [spot, spot], color=text["line"], clip_on=False)
            continue
        axes.plot(
            [layer, edge, edge + wide], [end, end, spot], color=text["line"], linewidth=0.5, clip_on=False, zorder=1.5
        )


def place_labels(
    axes: Axes, x: NDArray[Any], y: NDArray[Any], labels: Sequence[str], keep: Sequence[bool] = ()
) -> None:
    """Write a label beside each point, at a nearby place inside the axes that covers no labelled point and no text, if
    there is one; a near place that covers a point without a label may be better than a far one.

    Args:
        axes: with limits that are final.
        x, y: the points.
        labels: of the points.
        keep: which points get a label; default: all.
    """
    paper = look.current()
    size = paper.size - 1 if paper else 8 if len(labels) <= 25 else 6
    settle(axes.figure)  # type: ignore[arg-type]
    points = axes.transData.transform(np.column_stack([x, y]))
    dots = axes.figure.get_dpi() / 72
    radius = 3 * dots if paper else 4 * dots
    boxes = [(px - radius, py - radius, px + radius, py + radius) for px, py in points]
    named = np.array(keep, bool) if len(keep) else np.ones(len(x), bool)
    taken = [box for box, own in zip(boxes, named, strict=True) if own]
    taken += [text.get_window_extent().extents for text in axes.texts]
    weak = [box for box, own in zip(boxes, named, strict=True) if not own]
    back = axes.transData.inverted()
    for i in np.lexsort((x, y)):
        if not named[i]:
            continue
        wide = dots * (72 * width_of(labels[i], size) + 3)
        places = _places(points[i], (wide, size * dots * 1.05), dots)
        box, ring = _best(places, taken, weak, axes.bbox.extents)
        taken.append(box)
        (left, low), (right, _) = back.transform([(box[0], (box[1] + box[3]) / 2), (box[2], box[3])])
        if ring > 1:
            near = min(max(x[i], left), right)
            axes.plot([x[i], near], [y[i], low], color="#AAAAAA", linewidth=0.4, zorder=1)
        axes.text(left, low, labels[i], fontsize=size, va="center")
    figure = axes.get_figure(root=True)
    if paper and figure is not None:
        figure.set_layout_engine("none")  # keeps the positions, in which nothing overlaps


_Box = tuple[float, float, float, float]
_COVERED = 2.0
"""A place that covers a point without a label counts as so many rings further away."""


def _best(
    places: Iterator[tuple[_Box, int]], taken: Sequence[_Box], weak: Sequence[_Box], inside: _Box
) -> tuple[_Box, int]:
    """The nearest place inside that covers nothing that is taken; the last one if there is none."""
    least, found = np.inf, None
    last = ((0.0, 0.0, 0.0, 0.0), 0)
    for last in places:
        box, ring = last
        if ring >= least:
            break
        is_out = box[0] < inside[0] or box[2] > inside[2] or box[1] < inside[1] or box[3] > inside[3]
        if is_out or any(_overlap(box, other) for other in taken):
            continue
        cost = ring + _COVERED * sum(_overlap(box, other) for other in weak)
        if cost < least:
            least, found = cost, last
    return found or last


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def _places(point: Any, size: tuple[float, float], dots: float) -> Iterator[tuple[_Box, int]]:
    """Places around a point, in eight directions, nearer ones first, each with its ring."""
    (px, py), (wide, high) = point, size
    for ring in range(1, 25):
        for angle in (0, 180, 45, 135, -45, -135, 90, -90):
            dx, dy = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            left = px + dx * 5 * dots * ring + (0 if dx > 0.1 else -wide if dx < -0.1 else -wide / 2)
            low = py + dy * 5 * dots * ring - high / 2
            yield (left, low, left + wide, low + high), ring
