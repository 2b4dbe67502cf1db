"""Figures and tables for a paper: ``style=paper``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from align_pipeline.arguments import Arguments
from align_pipeline.config.lang import known_languages
from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError, unknown
from align_pipeline.figures import style
from align_pipeline.figures.look import MOST, Look
from align_pipeline.report import latex
from align_pipeline.report.results import Results

KEYS = ("width", "font", "fontsize", "names", "color", "highlight")
"""The keys that need ``style=paper``."""
_WIDTHS = {"column": 3.25, "text": 6.75}
_TALLEST = 8.0  # inches
_SIZES = (5.0, 16.0)
_FLOATS = 12
"""Figures after which a page ends: LaTeX keeps a limited number of them waiting."""
_FONTS = "DejaVu Sans, DejaVu Serif or STIXGeneral (like Times)"


@dataclass(frozen=True)
class Paper:
    """What the command line asks for.

    Attributes:
        look: width, font and size of figures.
        named: whether languages are called by their names, not by their codes.
        color: ``resource`` or ``family`` to colour languages by it; "" for colours of their own.
        highlight: languages to label, by FLORES code or as in ``lang=``.
    """

    look: Look = field(default_factory=Look)
    named: bool = False
    color: str = ""
    highlight: Sequence[str] = ()


def asked(arguments: Arguments) -> Paper | None:
    """The paper that the arguments ask for; None without ``style=paper``.

    Raises:
        InputError: a value is not possible, or a key is of use only with ``style=paper``.
    """
    form = _one(arguments, "style", ("paper",), "")
    given = [key for key in KEYS if key in arguments.values]
    if not form:
        if given:
            raise InputError(f"{given[0]} is about the figures of a paper; add style=paper.")
        return None
    highlight = arguments.names("highlight")
    if len(set(highlight)) > MOST:
        raise InputError(f"highlight has {len(set(highlight))} languages; use at most {MOST}, so that labels fit.")
    width = arguments.values.get("width", ["column"])[-1]
    inches = _WIDTHS.get(width) or _number("width", width, (2.0, 12.0), "column, text or a number of inches")
    size = _number("fontsize", arguments.values.get("fontsize", ["8"])[-1], _SIZES, "a number of points")
    font = arguments.values.get("font", ["DejaVu Sans"])[-1]
    _check_font(font)
    names = _one(arguments, "names", ("codes", "names"), "codes")
    color = _one(arguments, "color", ("resource", "family"), "")
    return Paper(Look(inches, size, font), names == "names", color, highlight)


def look_of(paper: Paper, results: Results) -> Look:
    """The look of a report's figures: with the names, groups and ranking of its languages.

    The ranking is by the share of aligned items at the best layer, the mean over models, tasks and metrics; without
    alignment by accuracy, and then by code.

    Raises:
        InputError: a language to highlight is not in the tables.
    """
    table = results.languages
    names = {str(code): str(name) for code, name in table["name"].items()} if paper.named else {}
    groups: dict[str, str] = {}
    if paper.color:
        groups = {str(code): str(group) for code, group in table[paper.color].dropna().items()}
    order = _ranking(results)
    flores = {code: str(language.get("flores", code)) for code, language in known_languages().items()}
    chosen = [name if name in order else flores.get(name, name) for name in paper.highlight]
    missing = next((name for name, code in zip(paper.highlight, chosen, strict=True) if code not in order), None)
    if missing is not None:
        raise unknown("language to highlight", missing, sorted(order))
    return replace(paper.look, names=names, groups=groups, order=order, highlight=chosen)


def write(
    folder: Path,
    look: Look,
    tables: Mapping[str, tuple[pd.DataFrame, str]],
    drawings: Mapping[str, Callable[[], Any]],
    with_methods: bool,
) -> None:
    """Write the figures (PDF and SVG), the tables (LaTeX) and a document that shows them all.

    Args:
        folder: an existing folder.
        look: of the figures.
        tables: rows and description of each CSV file, by its name.
        drawings: the function that draws each figure, by the figure's name.
        with_methods: whether there are ``methods.tex`` and ``references.bib`` in the folder above.
    """
    for name in ("figures", "tables"):
        (folder / name).mkdir()
    captions = []
    with style.style(look):
        for name, draw in drawings.items():
            figure = draw()
            style.write(figure, folder / "figures" / name, ("pdf", "svg"))
            wide, tall = figure.get_size_inches()
            is_fit = abs(wide - look.width) < 0.01 or (wide <= _WIDTHS["text"] and tall <= _TALLEST)
            captions.append(_figure(name, str(figure.get_label()), wide if is_fit else None))
    pages = ["\n".join(captions[i : i + _FLOATS]) for i in range(0, len(captions), _FLOATS)]
    (folder / "figures.tex").write_text("\n\\clearpage\n".join(pages), encoding="utf-8")
    for name, (table, about) in tables.items():
        text = latex.tables(name, table, about, lambda code: look.names.get(code, code))
        (folder / "tables" / f"{name}.tex").write_text(text, encoding="utf-8")
    (folder / "paper.tex").write_text(_document(list(tables), with_methods), encoding="utf-8")


def _figure(name: str, caption: str, width: float | None) -> str:
    """A figure of so many inches; None for one that is drawn for the page and too large, which is scaled."""
    star = "*" if width is None or width > 4.5 else ""
    scaled = r"[width=\textwidth,height=0.85\textheight,keepaspectratio]" if width is None else ""
    caption = latex.escape(caption[:1].upper() + caption[1:])
    return "\n".join(
        (
            rf"\begin{{figure{star}}}",
            r"\centering",
            rf"\includegraphics{scaled}{{figures/{name}.pdf}}",
            rf"\caption{{{caption}.}}\label{{fig:{name}}}",
            rf"\end{{figure{star}}}",
            "",
        )
    )


def _document(tables: Sequence[str], with_methods: bool) -> str:
    """A document with all parts, to look at and to copy from."""
    cited = (
        r"\section*{Methods}",
        r"\input{../methods}",
        r"\bibliographystyle{plainnat}",
        r"\bibliography{../references}",
    )
    return "\n".join(
        (
            r"\documentclass[twocolumn]{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage[margin=0.8in]{geometry}",
            r"\usepackage{array,booktabs,graphicx,natbib,url}",
            r"\setlength{\columnsep}{0.25in}",
            r"\extrafloats{200}",
            r"\maxdeadcycles=1000",
            r"\begin{document}",
            *(cited if with_methods else ()),
            r"\section*{Figures}",
            r"\input{figures}",
            r"\clearpage",
            r"\section*{Tables}",
            *(rf"\input{{tables/{name}}}\clearpage" for name in tables),
            r"\end{document}",
            "",
        )
    )


def _ranking(results: Results) -> list[str]:
    cells, groups = results.by_name["cells"], results.by_name["groups"]
    best = cells[cells["best_layer"].astype(bool)].groupby("language", observed=True)["share"].mean()
    right = groups.groupby("language", observed=True)["accuracy"].mean()
    found = [*best.sort_values(ascending=False).index, *right.sort_values(ascending=False).index]
    tables = [table for table in results.tables.by_name.values() if "language" in table]
    every = sorted({str(code) for table in tables for code in table["language"].unique()})
    return [str(code) for code in dict.fromkeys([*found, *every]) if code != ENGLISH]


def _one(arguments: Arguments, key: str, known: Sequence[str], default: str) -> str:
    value = arguments.values.get(key, [default])[-1]
    if value not in known and value != default:
        raise InputError(f"{key}={value} is not valid; use {' or '.join(f'{key}={name}' for name in known)}.")
    return value


def _number(key: str, text: str, ends: tuple[float, float], what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not ends[0] <= value <= ends[1]:
        raise InputError(f"{key}={text} is not valid; use {what} from {ends[0]:g} to {ends[1]:g}.")
    return value


def _check_font(font: str) -> None:
    """Refuse a font that matplotlib cannot embed.

    Raises:
        InputError: it is not installed, or PDF would get it as Type 3.
    """
    from matplotlib import font_manager

    try:
        path = font_manager.findfont(font_manager.FontProperties(family=[font]), fallback_to_default=False)
    except ValueError:
        raise InputError(f"font={font} is not installed; use an installed font, or {_FONTS}.") from None
    with Path(path).open("rb") as file:
        if file.read(4) == b"OTTO":
            raise InputError(f"font={font} has no TrueType outlines ({path}); use a TrueType font, or {_FONTS}.")
