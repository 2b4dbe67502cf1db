"""Figures and tables for a paper: embedded fonts, width, labels without overlap, LaTeX that compiles."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from test_analysis_simulated import simulate
from test_methods import summary

from align_pipeline.arguments import Arguments
from align_pipeline.config.lang import known_languages
from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError
from align_pipeline.figures import curves, labels, look, models, plots, style
from align_pipeline.figures.look import MOST, Look
from align_pipeline.inference import study as analysis
from align_pipeline.report import latex, paper, report
from align_pipeline.report.results import language_table

CODES = [code for code in language_table().index if code != ENGLISH]
LOOKS = [Look(), Look(width=6.75, size=10, font="STIXGeneral"), Look(width=2.5, size=7)]


def renamed(count: int, **how: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A simulated study of `count` languages, all of them known."""
    tables = simulate(count, 24, 6, effect=0.8, level_effect=1.0, seed=4, **how)
    names = dict(zip(sorted(set(tables[0]["language"].astype(str))), CODES, strict=False))
    alignment, predictions = (table.astype({"language": str}).replace({"language": names}) for table in tables)
    return alignment, predictions


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a paper, of some languages and a model whose name LaTeX would read as commands."""
    folder = tmp_path_factory.mktemp("paper")
    alignment, predictions = renamed(5, model="my_model 50% & {x}")
    for name, table in (("alignment", alignment), ("predictions", predictions)):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "summary.json").write_text(json.dumps(summary(model="my_model 50% & {x}", task="belebele", num_layers=5)))
    more = ("style=paper", "font=STIXGeneral", "names=names", "color=family")
    report.main([f"runs={folder}", f"out={folder / 'out'}", *more])
    return folder / "out"


def test_every_figure_is_pdf_and_svg_in_column_width_with_embedded_fonts(written: Path) -> None:
    drawn = {path.stem for path in (written / "plots").glob("*.png") if not path.stem.startswith("short_")}
    for form in ("pdf", "svg"):
        assert {path.stem for path in (written / "paper" / "figures").glob(f"*.{form}")} == drawn
    for path in (written / "paper" / "figures").glob("*.pdf"):
        content = path.read_bytes()
        box = re.search(rb"/MediaBox \[ ?([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)", content)
        assert box is not None
        assert float(box[3]) == pytest.approx(3.25 * 72)
        fonts = set(re.findall(rb"/BaseFont /([^\s/]+)", content))
        assert any(b"STIXGeneral" in name for name in fonts), fonts
        assert b"/Subtype /Type3" not in content
        assert content.count(b"/FontDescriptor ") >= content.count(b"/FontFile2") > 0
    for path in (written / "paper" / "figures").glob("*.svg"):
        assert "<text" not in path.read_text(encoding="utf-8")


def figures(count: int) -> Iterator[tuple[str, Any]]:
    """Functions that draw the figures with labelled languages."""
    alignment, predictions = renamed(count)
    study = analysis.join(alignment, predictions)
    cells = analysis.tally(study)
    points = analysis.points(study, cells)
    points = points[points["reduce"] == "max"].assign(stderr=0.05, chance=0.25)
    rng = np.random.default_rng(0)
    differs = cells[cells["best_layer"].astype(bool)].assign(difference=rng.normal(0, 0.1, count), p_languages=0.5)
    differs = differs.assign(low=differs["difference"] - 0.1, high=differs["difference"] + 0.1)
    numbers = pd.Series({"pearson": 0.5, "pearson_low": 0.1, "pearson_high": 0.8})
    yield "curves", lambda: curves.curves(cells)
    yield "heatmap", lambda: curves.heatmap(cells)
    yield "scatter", lambda: plots.scatter(points, numbers, language_table()["resource"])
    yield "forest", lambda: plots.forest(differs)


@pytest.mark.parametrize(("count", "one"), [(4, LOOKS[0]), *((82, one) for one in LOOKS)])
def test_labels_are_few_and_do_not_overlap(count: int, one: Look) -> None:
    """Checked on the boxes that matplotlib itself computes for the drawn texts."""
    names = {str(code): str(name) for code, name in language_table()["name"].items()}
    made = Look(one.width, one.size, one.font, names if one.size == 10 else {}, order=CODES)
    called = {made.names.get(code, code) for code in CODES}
    for kind, draw in figures(count):
        with style.style(made):
            figure = draw()
            figure.draw_without_rendering()
            texts = [
                t for axes in figure.axes for t in (*axes.texts, *axes.get_yticklabels()) if t.get_text() in called
            ]
            boxes = {t.get_text(): t.get_window_extent() for t in texts}
            size = {t.get_fontsize() for t in texts}
        assert len(texts) == len(boxes) == min(count, MOST), kind
        assert size == {made.size - 1}, kind
        for (a, box), (b, other) in combinations(boxes.items(), 2):
            assert not box.shrunk(0.98, 0.7).overlaps(other.shrunk(0.98, 0.7)), (
                kind,
                a,
                b,
            )  # a box has room above letters
        for name, box in boxes.items():
            assert box.x0 > -1, (kind, name)
            assert box.x1 < figure.bbox.width + 1, (kind, name)


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    draw = dict(figures(14))["curves"]
    for name in ("a", "b"):
        with style.style(Look()):
            style.write(draw(), tmp_path / name, ("pdf", "svg"))
    for form in ("pdf", "svg"):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()


NAMES = {
    "few": ["gemma3-270m", "smollm2-135m", "smollm2-135m-chat"],
    "long": ["a", "averyveryverylongmodelname-" * 4 + "_end_70B-instruct", "Meta-Llama-3.1-70B-Instruct-AWQ-INT4"],
    "many": [f"pythia-160m@step{2**i}" for i in range(12)],
}


def of_models(names: list[str]) -> Iterator[tuple[str, Any]]:
    """Functions that draw the figures of several models."""
    metrics = [("dali", "last"), ("dali_strong", "last"), ("mexa_t", "weighted")]
    about = {"task": "xcopa", "metric": "dali", "pooling": "last", "pivot": ENGLISH, "chance": 0.02, "n": 250}
    rows = [
        about | {"model": name, "language": code, "layer": k, "depth": k / 12, "inner": k < 12, "share": 0.04 * k}
        for name in names
        for code in CODES[:5]
        for k in range(13)
    ]
    part = pd.DataFrame(rows)
    table = pd.DataFrame(
        {"model": name, "parameters": 10**7 * (i + 1), "step": 100 * i, "metric": metric, "pooling": pooling}
        for i, name in enumerate(names)
        for metric, pooling in metrics
    ).assign(task="xcopa", alignment_task="xcopa", series="org/name", english_accuracy=0.7, chance=0.1, n_languages=5)
    for value in ("accuracy", "alignment", "r", "same_item"):
        table = table.assign(**{value: 0.3, f"{value}_low": 0.1, f"{value}_high": 0.5})
    yield "depth", lambda: models.depth(part)
    yield "depth_by_language", lambda: models.depth_by_language(part)
    yield "parameters", lambda: models.scale(table, "parameters")
    yield "step", lambda: models.scale(table, "step")
    yield "relation", lambda: models.relation(table)


@pytest.mark.parametrize(
    ("kind", "one"), [("few", LOOKS[0]), ("few", LOOKS[1]), ("long", None), ("long", LOOKS[0]), ("many", LOOKS[0])]
)
def test_figures_of_several_models_fit(kind: str, one: Look | None) -> None:
    """No text leaves the figure or covers another one of its panel, on the page and in a paper."""
    for name, draw in of_models(NAMES[kind]):
        with style.style(one):
            figure = draw()
            figure.draw_without_rendering()
            if one is not None:
                assert figure.get_size_inches()[0] == pytest.approx(one.width), name
            shown = [legend.get_window_extent() for legend in figure.legends]
            for axes in (one for one in figure.axes if one.get_visible()):
                legend = axes.get_legend()
                shown += [] if legend is None else [legend.get_window_extent()]
                low, high = sorted(axes.get_ylim())
                ticks = [tick for tick in axes.get_yticklabels() if low <= tick.get_position()[1] <= high]
                words = [*ticks, axes.xaxis.label, axes.yaxis.label, axes.title]
                boxes = [text.get_window_extent() for text in words if text.get_text()]
                shown += boxes
                for a, b in combinations(boxes, 2):
                    assert not a.shrunk(0.98, 0.8).overlaps(b.shrunk(0.98, 0.8)), name
                assert axes.bbox.width > 0.12 * figure.bbox.width, name
            for box in shown:
                assert box.x0 > -2, name
                assert box.x1 < figure.bbox.width + 2, name
                assert box.y0 > -2, name
                assert box.y1 < figure.bbox.height + 2, name


@pytest.mark.parametrize(
    ("series", "called"),
    [
        (["EleutherAI/pythia-70m", "runs/x/*"], ["pythia-70m", "x"]),
        (["a/checkpoints/*", "b/checkpoints/*"], ["a/checkpoints", "b/checkpoints"]),
        (["out/pythia-*", "out/llama-*"], ["out/pythia-*", "out/llama-*"]),
    ],
)
def test_trainings_are_told_apart(series: list[str], called: list[str]) -> None:
    """Otherwise a line would join the checkpoints of two trainings."""
    table = pd.DataFrame({"series": np.repeat(series, 2), "step": [0, 1, 0, 1], "accuracy": [0.1, 0.2, 0.3, 0.4]})
    table = table.assign(model=list("abcd"), task="t", metric="", pooling="", english_accuracy=0.5, n_languages=2)
    with style.style():
        (axes,) = models.scale(table, "step").axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()[:2]] == called
    values = [list(map(float, line.get_ydata())) for line in axes.lines]
    assert [0.1, 0.2] in values
    assert [0.3, 0.4] in values


def test_labels_of_points_stay_inside_the_axes_of_the_page() -> None:
    draw = dict(figures(30))["scatter"]
    with style.style():
        figure = draw()
        figure.draw_without_rendering()
        (axes,) = figure.axes
        assert len(axes.texts) > 30
        boxes = [text.get_window_extent() for text in axes.texts[:-1] if text.get_text()]
    assert min(box.x0 for box in boxes) >= axes.bbox.x0 - 1
    assert max(box.x1 for box in boxes) <= axes.bbox.x1 + 1


@pytest.mark.parametrize("count", range(2, 9))
def test_legends_are_inside_the_figure(count: int) -> None:
    """Checked on the box that matplotlib computes, for texts of several lengths."""
    with style.style(Look()):
        figure, axes = style.new_figure(9.0, 4.0)
        for i in range(count):
            axes.plot([0, 1], [0, i], label="condition " + "longer " * (i % 3))
        labels.legend(axes, 8.5)
        figure.draw_without_rendering()
        (box,) = (legend.get_window_extent() for legend in figure.legends)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_without_a_paper_all_languages_are_labelled() -> None:
    codes = {code: code for code in CODES[:30]}
    assert look.labelled(codes) == set(codes)
    with look.using(Look(order=CODES)):
        assert len(look.labelled(codes)) == MOST
        assert {CODES[0], CODES[29]} <= look.labelled(codes)  # the ends of the ranking
        assert set(look.colours(codes).values()) > {look.REST}
    with look.using(Look(order=CODES, highlight=CODES[3:5])):
        assert look.labelled(codes) == set(CODES[3:5])


def test_colours_of_groups() -> None:
    families = {str(code): str(family) for code, family in language_table()["family"].items()}
    with look.using(Look(groups=families)):
        entries = look.group_entries(CODES)
        sizes = pd.Series(families)[CODES].value_counts()
        assert list(entries)[:6] == sorted(sizes.index, key=lambda name: (-sizes[name], name))[:6]
        assert list(entries)[6:] == ["other"]
        assert len(set(entries.values())) == 7
    with look.using(Look(groups=dict.fromkeys(CODES[:3], "3") | {CODES[3]: "0"})):
        assert list(look.group_entries(CODES[:4])) == ["0", "3"]


# --------------------------------------------------------------------------------------------------------------- LaTeX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50% #1 {x}", r"a\_b \& 50\% \#1 \{x\}"),
        ("DALI$_S$ costs $5", r"DALI$_S$ costs \$5"),
        ("模 é", r"\texttt{U+6A21} é"),
        ("−0.5 <0.001 → a\\b~^", r"$-$0.5 $<$0.001 $\to$ a\textbackslash{}b\textasciitilde{}\textasciicircum{}"),
    ],
)
def test_text_as_latex(text: str, expected: str) -> None:
    assert latex.escape(text) == expected


def test_methods_keep_their_citations() -> None:
    assert latex.prose(r"MEXA_T of my_set \citep{a_b,c}.") == r"MEXA$_T$ of my\_set \citep{a_b,c}."


def test_a_table_by_hand() -> None:
    table = pd.DataFrame(
        {
            "model": ["m_1"] * 3,
            "metric": ["dali", "dali_strong", "dali"],
            "language": ["swh_Latn", "ind_Latn", "tha_Thai"],
            "best_layer": [True, True, False],
            "n": [1200, 250, 9],
            "difference": [0.12345, -0.5, 0.3],
            "low": [0.1, -0.61, 0.0],
            "high": [0.2, np.nan, 0.0],
            "p_holm": [0.0001, 0.25, 1.0],
            "chrf": [31.26, 9.0, 1.0],
            "note": ["", "too few", ""],
        }
    )
    text = latex.tables("made", table, "differences", lambda code: {"swh_Latn": "Swahili"}.get(code, code))
    assert r"\begin{tabular}{llrrrrr}" in text
    assert r"metric & language & $n$ & difference & 95\% interval & $p$, Holm & chrF++ \\" in text
    assert r"DALI & Swahili & 1,200 & +0.123 & [0.10, 0.20] & $<$0.001 & 31.3 \\" in text
    assert r"DALI$_S$ & ind\_Latn & 250 & $-$0.500 & -- & 0.250 & 9.0 \\" in text
    assert r"\caption{Differences. Model: m\_1. All rows are in made.csv. Too few.}\label{tab:made}" in text
    assert "tha" not in text  # not its best layer


def test_captions_and_first_cells_that_latex_would_misread() -> None:
    table = pd.DataFrame({"model": ["m@step2"] * 2, "low": [0.1, 0.2], "high": [0.3, 0.4]})
    text = latex.tables("made", table, "values", str)
    assert r"Model: m@step2.}\label{tab:made}" in text
    assert [line for line in text.splitlines() if "[0." in line] == [r"{}[0.10, 0.30] \\", r"{}[0.20, 0.40] \\"]


def test_rows_of_long_text_take_more_of_a_page() -> None:
    table = pd.DataFrame(
        {"layer": range(60), "value": 0.5, "note": [f"{i} not defined, " + "because " * 20 for i in range(60)]}
    )
    parts = re.findall(r"\\midrule(.*?)\\bottomrule", latex.tables("made", table, "values", str), re.DOTALL)
    assert sum(part.count(r"\\") for part in parts) == 60
    assert max(part.count(r"\\") for part in parts) <= latex.ROWS / 4 + 1  # a note takes four lines
    alike = table.assign(note="not defined, " + "because " * 20)  # stands in the caption
    assert latex.tables("made", alike, "values", str).count(r"\midrule") == 2


def test_long_and_wide_tables_are_split_and_nothing_is_lost() -> None:
    rng = np.random.default_rng(0)
    rows = 60
    table = pd.DataFrame({"metric": ["dali", "mexa_t"] * (rows // 2), "language": [f"x{i:02}" for i in range(rows)]})
    for i in range(30):
        table[f"value_{i}"] = rng.uniform(0, 0.9, rows)
    text = latex.tables("wide", table, "values", str)
    numbers = sorted(re.findall(r"(?<![\d.])0\.\d{3}(?!\d)", text))
    assert numbers == sorted(f"{value:.3f}" for value in table.filter(like="value").to_numpy().ravel())
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert labels == [f"tab:wide-{i}" for i in range(1, len(labels) + 1)]
    for part in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
        columns = re.match(r"\\begin\{tabular\}\{([lr]+)\}", part)
        assert columns is not None
        lines = [line for line in part.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") for line in lines} == {len(columns[1]) - 1}
        assert len(lines) <= latex.ROWS + 1
        assert max(len(line) for line in lines) < 1.5 * latex.LETTERS


def test_numbers_that_pandas_holds_as_objects_are_numbers() -> None:
    table = pd.DataFrame(
        {"language": ["a", "b"], "difference": [0.16515143935670315, -1.5], "lacks_concept": [True, False]}
    )
    joined = pd.concat([pd.DataFrame(columns=table.columns), table])
    assert set(joined.dtypes.astype(str)) == {"object"}
    text = latex.tables("made", joined, "values", str)
    assert text == latex.tables("made", table, "values", str)
    assert r"a & +0.165 & yes \\" in text


def test_a_table_without_rows_and_one_with_too_many() -> None:
    assert latex.tables("none", pd.DataFrame({"n": []}), "nothing", str) == "% none.csv has no rows.\n"
    many = pd.DataFrame({"n": range(latex.MOST_ROWS + 1)})
    assert latex.tables("many", many, "much", str).startswith("% many.csv has 1,001 such rows")


def test_the_document_compiles(written: Path) -> None:
    document = (written / "paper" / "paper.tex").read_text(encoding="utf-8")
    tables = {path.stem for path in written.glob("*.csv")}
    assert set(re.findall(r"\\input\{tables/(.*?)\}", document)) == tables
    assert {path.stem for path in (written / "paper" / "tables").glob("*.tex")} == tables
    log = compiled(written / "paper", document)
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log


def compiled(folder: Path, document: str) -> str:
    """What pdflatex says."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine")
    (folder / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=120)
    log = done.stdout.decode("latin-1")
    assert done.returncode == 0, log[-2000:]
    return log


def test_all_letters_compile(tmp_path: Path) -> None:
    letters = [chr(k) for k in (*range(0x21, 0x7F), *range(0xA1, 0x250), *range(0x391, 0x3CA), *range(0x1E00, 0x1F00))]
    head, _, _ = paper._document([], False).partition(r"\section*{Figures}")
    compiled(tmp_path, "\n\n".join([head, *map(latex.escape, [*letters, "\N{MINUS SIGN}…模"]), r"\end{document}"]))


def test_many_figures_compile_and_those_drawn_for_the_page_are_scaled(tmp_path: Path) -> None:
    def draw(width: float, height: float = 1.5) -> Any:
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height))

    drawings = {"page": lambda: draw(9.0), "small": lambda: draw(2.0), "tall": lambda: draw(3.0, 20.0)} | dict.fromkeys(
        (f"f{i}" for i in range(130)), lambda: draw(3.25)
    )
    paper.write(tmp_path, Look(), {}, drawings, False)
    text = (tmp_path / "figures.tex").read_text(encoding="utf-8")
    for name, options in (("page", True), ("small", False), ("tall", True)):
        how = r"[width=\textwidth,height=0.85\textheight,keepaspectratio]" if options else ""
        start = r"\begin{figure*}" if options else r"\begin{figure}"
        assert "\n".join((start, r"\centering", rf"\includegraphics{how}{{figures/{name}.pdf}}")) in text
    assert text.count(r"\includegraphics{figures/f") == 130
    log = compiled(tmp_path, (tmp_path / "paper.tex").read_text(encoding="utf-8"))
    assert "Overfull" not in log
    assert "Float too large" not in log


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["style=web"], "style=web is not valid; use style=paper."),
        (["width=column"], "width is about the figures of a paper; add style=paper."),
        (
            ["style=paper", "width=wide"],
            "width=wide is not valid; use column, text or a number of inches from 2 to 12.",
        ),
        (["style=paper", "width=nan"], "width=nan is not valid"),
        (["style=paper", "fontsize=40"], "fontsize=40 is not valid; use a number of points from 5 to 16."),
        (["style=paper", "font=No Such Font"], "font=No Such Font is not installed; use an installed font, or DejaVu"),
        (["style=paper", "names=full"], "names=full is not valid; use names=codes or names=names."),
        (["style=paper", "color=script"], "color=script is not valid; use color=resource or color=family."),
        (["style=paper", "highlight=" + ",".join(CODES[:13])], "highlight has 13 languages; use at most 12"),
    ],
)
def test_wrong_values_are_named(given: list[str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        paper.asked(Arguments(given, ("style", *paper.KEYS), ()))


def test_right_values() -> None:
    keys = ("style", *paper.KEYS)
    assert paper.asked(Arguments([], keys, ())) is None
    for width, inches in (("column", 3.25), ("text", 6.75), ("5.5", 5.5)):
        made = paper.asked(Arguments(["style=paper", f"width={width}"], keys, ()))
        assert made is not None
        assert made.look.width == inches


def test_the_commands_of_the_documentation_are_valid() -> None:
    page = (REPOSITORY / "docs" / "outputs.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if "style=paper" in line and line.startswith("python")]
    assert len(commands) == 3
    for command in commands:
        given = [word for word in shlex.split(command)[3:] if not word.startswith(("runs=", "out="))]
        assert paper.asked(Arguments(given, ("style", *paper.KEYS), ())) is not None


def test_a_language_to_highlight_must_be_there(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = next(code for code, one in known_languages().items() if one.get("flores") == CODES[60])
    with pytest.raises(SystemExit) as stopped:
        report.main([f"runs={written.parent}", f"out={written}", "style=paper", f"highlight={absent}"])
    assert f"There is no language to highlight '{absent}'; available: " in str(stopped.value.code)
