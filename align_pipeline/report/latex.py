"""Tables of the report as LaTeX with booktabs, and text as LaTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from align_pipeline.figures import style
from align_pipeline.page.numbers import as_count, as_number, as_p, as_range, is_missing

ROWS, LETTERS, MOST_ROWS = 45, 112, 1000
"""Rows and letters that fit a page in footnote size; rows above which a table stays a CSV file."""

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
}
_ABSENT = "ĦħĸĿŀŉŦŧſ"
"""Letters before U+0180 that T1 fonts lack."""
_SUBSCRIPT = re.compile(r"(\$_\w\$)")
_KEYS = (
    *("model", "task", "alignment_task", "question", "metric", "pooling", "direction", "score", "measure", "language"),
    *("pivot", "component", "site", "window", "head", "condition", "control", "category", "grouping", "group"),
    *("contrast", "method", "adjusted_for", "form", "term", "reduce", "at", "english", "preset", "role", "against"),
    *("seed", "quantity", "layer"),
)
"""Columns that say what a row is about, in the order of a table; each part of a wide table repeats them."""
_SPLIT = tuple(key for key in _KEYS if key not in ("language", "pivot", "layer", "question"))
"""Columns by whose values a long table is split, the first that has several first."""
_CODED = ("question", "contrast", "method", "form", "term", "reduce", "at", "grouping", "kind", "verdict", "role")
"""Columns whose values are words of the package, joined with underscores."""
_HEADS = {
    "n": "$n$",
    "p": "$p$",
    "z": "$z$",
    "p_holm": "$p$, Holm",
    "p_bh": "$p$, BH",
    "ts": "TS",
    "tf": "TF",
    "ece": "ECE",
    "pearson": "Pearson $r$",
    "spearman": r"Spearman $\rho$",
    "en_xx": "en-xx",
    "xx_en": "xx-en",
}


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]
    is_text: bool

    @property
    def letters(self) -> int:
        """Width as printed, with the gap to the next column."""
        return 2 + min(max(len(_plain(text)) for text in (self.head, *self.cells)), _WIDEST)

    @property
    def kind(self) -> str:
        """How it is aligned; long text is broken into lines."""
        if self.is_text and max(len(_plain(text)) for text in self.cells) > _WIDEST:
            return r">{\raggedright\arraybackslash}p{5.8cm}"
        return "l" if self.is_text else "r"


_WIDEST = 45


def escape(text: str) -> str:
    """Plain text as LaTeX; a subscript such as that of ``DALI$_S$`` stays one."""
    parts = _SUBSCRIPT.split(unicodedata.normalize("NFC", text))
    return "".join(p if _SUBSCRIPT.fullmatch(p) else "".join(map(_letter, p)) for p in parts)


def _letter(letter: str) -> str:
    """A letter as LaTeX; one that T1 fonts lack, where pdflatex would stop, by its code point."""
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    is_there = letter < "\u0180" and letter not in _ABSENT
    return letter if is_there else rf"\texttt{{U+{ord(letter):04X}}}"


def prose(text: str) -> str:
    r"""A paragraph as LaTeX; its ``\citep{key}`` stay commands, and metrics get their subscripts."""
    parts = re.split(r"(\\citep\{[^}]*\})", re.sub(r"\b(DALI|MEXA)_([ST])\b", r"\1$_\2$", text))
    return "".join(part if part.startswith(r"\citep{") else escape(part) for part in parts)


def tables(name: str, table: pd.DataFrame, about: str, language: Callable[[str], str]) -> str:
    """A report's table as LaTeX ``table*`` environments, which need the packages booktabs and array.

    Left out are rows at single layers, where the table also has rows of best layers or over layers, and rows without
    any result. A table of more than `ROWS` rows is split by model, task, metric and so on, and then by rows. One that
    is wider than a page is split by columns, and each part repeats the columns that say what a row is about. A column
    with one value is in the caption, and so is the pooling if each metric has one. Columns without values are left
    out, and so is the pivot if each language has one.

    Args:
        name: of the CSV file.
        table: its rows.
        about: what they are, for the caption.
        language: what a language is called, by its code.
    """
    rows = _summary(table.infer_objects())  # numbers that were joined with a table without rows are objects
    if rows.empty:
        return f"% {name}.csv has no rows.\n"
    if len(rows) > MOST_ROWS:
        return f"% {name}.csv has {len(rows):,} such rows, too many for a paper.\n"
    made = [one for part in _parts(rows) for one in _contents(name, part, about, language, len(rows) < len(table))]
    labels = [f"{name}-{i}" for i in range(1, len(made) + 1)] if len(made) > 1 else [name]
    return "\n".join(_environment(*one, label) for one, label in zip(made, labels, strict=True))


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """Without rows at single layers, if there are others, and rows whose numbers are all missing or counts."""
    rows = _over_layers(table)
    measured = [k for k in rows if k not in _KEYS and pd.api.types.is_float_dtype(rows[k])]
    return rows[rows[measured].notna().any(axis="columns")] if measured else rows


def _over_layers(table: pd.DataFrame) -> pd.DataFrame:
    if "best_layer" in table and pd.api.types.is_bool_dtype(table["best_layer"]):
        return table[table["best_layer"]].drop(columns="best_layer")
    for column in ("at", "reduce"):
        if column in table and (table[column] != "layer").any():
            return table[table[column] != "layer"]
    return table


def _parts(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Parts of at most about `ROWS` lines."""
    lines = _lines(rows)
    if lines.sum() <= ROWS:
        yield rows
        return
    by = next((key for key in _SPLIT if key in rows and rows[key].nunique() > 1), None)
    if by is None:
        yield from (part for _, part in rows.groupby((lines.cumsum() - 1) // ROWS))
        return
    for _, part in rows.groupby(by, sort=False, observed=True):
        yield from _parts(part)


def _lines(rows: pd.DataFrame) -> pd.Series[int]:
    """The lines that each row takes: long text is broken, if it is not in the caption because all rows have it."""
    texts = [rows[name].astype(str) for name in rows if not pd.api.types.is_numeric_dtype(rows[name])]
    letters = [text.str.len() for text in texts if text[~text.isin(("", "nan", "None", "<NA>"))].nunique() > 1]
    lines: pd.Series[int] = pd.Series(1, rows.index)
    for one in letters:
        lines = lines.clip(lower=-(-one // _WIDEST))
    return lines


def _contents(
    name: str, rows: pd.DataFrame, about: str, language: Callable[[str], str], is_part: bool
) -> Iterator[tuple[list[_Column], str]]:
    """The columns and captions of one part's environments, one per group of columns."""
    rows = rows.replace("", pd.NA).dropna(axis="columns", how="all")
    notes = sorted(set(rows["note"].dropna().astype(str))) if "note" in rows else []
    if len(notes) == 1:
        rows = rows.drop(columns="note")
    rows, poolings = _without_doubles(rows)
    keys = [key for key in _KEYS if key in rows]
    fixed = [key for key in keys if len(rows) > 1 and rows[key].nunique(dropna=False) == 1]
    said = "; ".join(f"{_head(key)}: {_text(key, rows[key].iloc[0], language)}" for key in fixed)
    keys = [key for key in keys if key not in fixed]
    first = [_key(rows, key, language) for key in keys]
    values = list(_values(rows.drop(columns=[*keys, *fixed]), language))
    groups = list(_across(first, values))
    for i, group in enumerate(groups, 1):
        caption = [f"{escape(about[:1].upper() + about[1:])}."]
        caption += [f"{said[:1].upper() + said[1:]}."] if said else []
        caption += [f"Pooling: {poolings}."] if poolings else []
        caption += [f"Columns, part {i} of {len(groups)}."] if len(groups) > 1 else []
        caption += [escape(f"All rows are in {name}.csv.")] if is_part else []
        caption += [f"{escape(note[:1].upper() + note[1:].rstrip('.'))}." for note in notes if len(notes) == 1]
        yield [*first, *group], " ".join(caption)


def _without_doubles(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Without pivots and poolings that languages and metrics determine; the poolings for the caption."""
    poolings = ""
    for column, by in (("pivot", "language"), ("pooling", "metric")):
        if not {column, by} <= set(rows) or rows.groupby(by, observed=True)[column].nunique().max() > 1:
            continue
        if column == "pooling" and rows["metric"].nunique() > 1:
            pairs = rows[["metric", "pooling"]].drop_duplicates().itertuples(index=False)
            named = [(_text("metric", metric, str), _text("pooling", pooling, str)) for metric, pooling in pairs]
            poolings = ", ".join(f"{metric} {pooling}" for metric, pooling in named)
        elif column == "pooling":
            continue  # in the caption, as the metric
        rows = rows.drop(columns=column)
    return rows, poolings


def _across(first: Sequence[_Column], values: Sequence[_Column]) -> Iterator[list[_Column]]:
    """Groups of value columns that fit a page beside the first ones."""
    room = LETTERS - sum(column.letters for column in first)
    group: list[_Column] = []
    for column in values:
        if group and sum(one.letters for one in group) + column.letters > room:
            yield group
            group = []
        group.append(column)
    if group or not values:
        yield group


def _environment(columns: Sequence[_Column], caption: str, label: str) -> str:
    lines = [" & ".join(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    lines = [
        "{}" + line if line.startswith(("[", "*")) else line for line in lines
    ]  # not an argument of the line before
    return "\n".join(
        (
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption}}}\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{''.join(column.kind for column in columns)}}}",
            r"\toprule",
            " & ".join(column.head for column in columns) + r" \\",
            r"\midrule",
            *(line + r" \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        )
    )


def _values(rows: pd.DataFrame, language: Callable[[str], str]) -> Iterator[_Column]:
    """The columns of results; the two ends of an interval in one."""
    names = [str(name) for name in rows]
    ends = {low: low.replace("low", "high") for low in names if "low" in low.split("_")}
    ends = {low: high for low, high in ends.items() if high in names}
    for name in names:
        if name in ends:
            low, high = rows[name].to_numpy(), rows[ends[name]].to_numpy()
            digits = 1 if _is_large(rows[name]) or _is_large(rows[ends[name]]) else 2
            rest = " ".join(word for word in name.split("_") if word != "low")
            head = r"95\% interval" + (f", {escape(rest)}" if rest else "")
            cells = [escape(as_range(*pair, digits).strip()) or "--" for pair in zip(low, high, strict=True)]
            yield _Column(head, cells, is_text=False)
        elif name not in ends.values():
            column = _key(rows, name, language)
            yield column if column.is_text else replace(column, cells=list(map(_shown(name, rows[name]), rows[name])))


def _key(rows: pd.DataFrame, name: str, language: Callable[[str], str]) -> _Column:
    numeric = pd.api.types.is_numeric_dtype(rows[name])
    return _Column(_head(name), [_text(name, value, language) for value in rows[name]], is_text=not numeric)


def _text(name: str, value: Any, language: Callable[[str], str]) -> str:
    """A value that is not a measurement."""
    if is_missing(value) or value == "":
        return "--"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if name in _CODED:
        return escape(_words(str(value)))
    known = {"metric": style.METRICS, "pooling": style.POOLINGS, "score": style.SCORES}
    known |= {"task": style.TASKS, "alignment_task": style.TASKS}
    if name in ("language", "pivot"):
        return escape(language(str(value)))
    return escape(known.get(name, {}).get(str(value), str(value)))


def _shown(name: str, column: pd.Series[Any]) -> Callable[[Any], str]:
    """How the page shows the numbers of a column."""
    words = name.split("_")
    if pd.api.types.is_bool_dtype(column):
        return _or_dash(lambda value: "yes" if value else "no")
    if "p" in (words[0], words[-1]):
        return _or_dash(as_p)
    known = column.dropna()
    if pd.api.types.is_integer_dtype(column) or (len(known) and (known % 1 == 0).all() and known.abs().max() > 1):
        return _or_dash(as_count)
    digits = 1 if _is_large(column) else 2 if name == "z" else 3
    sign = bool({"difference", "change", "attributable"} & set(words))
    return _or_dash(lambda value: as_number(value, digits, sign))


def _or_dash(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "--" if is_missing(value) else escape(show(value))


def _is_large(column: pd.Series[Any]) -> bool:
    """Whether the numbers are of a scale such as 0 to 100."""
    return bool((column.astype(float).replace([float("inf"), float("-inf")], float("nan")).abs() >= 10).any())


def _head(name: str) -> str:
    if name in _HEADS:
        return _HEADS[name]
    if name in style.SCORES:
        return escape(style.SCORES[name])
    first, _, rest = name.partition("_")
    if first in ("n", "p") and rest:
        return f"${first}$ {escape(_words(rest))}"
    return escape(_words(name))


def _words(name: str) -> str:
    return " ".join({"ts": "TS", "tf": "TF", "ece": "ECE"}.get(word, word) for word in name.split("_"))


def _plain(text: str) -> str:
    """Text as long as it is when printed, roughly."""
    return re.sub(r"\\[a-z]+\{\}|[\\${}]", "", re.sub(r"\$\\[a-z]+\$", "x", text))
