"""The page's interactive figures and first sentences: specifications, numbers, and a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from test_analysis_simulated import simulate
from test_report import chromium, markup, save

from align_pipeline.config.lang import name_of, names
from align_pipeline.figures import interactive, short, style
from align_pipeline.inference.study import Study
from align_pipeline.measurements.alignment.leads import depth
from align_pipeline.page import columns
from align_pipeline.page.part import Part, _compact
from align_pipeline.page.template import render
from align_pipeline.report import report
from align_pipeline.report.page import headlines

AXE = REPOSITORY / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interactive")
    metrics = (("dali", "last"), ("mexa_t", "weighted"))
    save(folder / "run", *simulate(8, 60, 4, metrics, effect=0.8, level_effect=1.0, item_spread=0.5))
    return report.write([folder / "run"], folder / "out")


def cells() -> pd.DataFrame:
    """Three languages and five layers; layer 4 does not count, and the third language is never aligned."""
    shares = np.array([[0.1, 0.4, 0.4, 0.2, 0.9], [0.0, 0.2, 0.6, 0.3, 0.9], [0.0] * 5])
    codes = ["swh_Latn", "tam_Taml", "qaa_Latn"]
    rows = [
        {"language": code, "pivot": "eng_Latn", "layer": k, "share": shares[i, k], "chance": 0.05 * k, "inner": k < 4}
        for i, code in enumerate(codes)
        for k in range(5)
    ]
    best = {("swh_Latn", 1), ("tam_Taml", 2), ("qaa_Latn", 0)}
    return pd.DataFrame(rows).assign(
        best_layer=lambda t: [unit in best for unit in zip(t["language"], t["layer"], strict=True)]
    )


def made(figure: str) -> dict[str, Any]:
    content = json.loads(figure)
    assert set(content) == {"spec", "units", "rows"}
    assert len({len(values) for values in content["rows"].values()}) == 1
    return content


def test_a_figure_has_its_rows_and_no_language_twice() -> None:
    found = made(interactive.curves(cells()))
    assert found["units"] == {"language": ["swh_Latn", "tam_Taml", "qaa_Latn"]}
    assert found["rows"]["share"] == cells()["share"].tolist()
    assert found["rows"]["unit"] == [0] * 5 + [1] * 5 + [2] * 5
    assert [i for i, best in enumerate(found["rows"]["best"]) if best] == [1, 7]  # none for the one never aligned
    heat = made(interactive.heatmap(cells()))
    assert [heat["rows"]["order"][5 * i] for i in range(3)] == [1, 0, 2]
    for spec in (found["spec"], heat["spec"]):
        assert {one["name"] for one in spec["params"]} >= {"pinned", "hovered"}


def test_chance_is_drawn_with_its_range_over_languages() -> None:
    part = cells().assign(chance=lambda t: 0.05 * t["layer"] + 0.01 * (t["language"] == "tam_Taml"))
    spec = made(interactive.curves(part))["spec"]
    drawn = [layer for layer in spec["layer"] if layer.get("data", {}).get("name") in spec["datasets"]]
    assert [layer["mark"]["type"] for layer in drawn] == ["area", "line"]
    (name,) = {layer["data"]["name"] for layer in drawn}
    last = spec["datasets"][name][-1]
    assert (last["layer"], last["min"], last["max"]) == (4, 0.2, 0.21)
    assert last["mean"] == pytest.approx(0.61 / 3, abs=1e-4)


def test_a_language_that_is_not_known_can_be_found_too() -> None:
    found = interactive.about(pd.Series(["qaa_Latn", "swh_Latn"]))
    assert found["qaa_Latn"] == ["qaa_Latn", "unknown", "unknown", "unknown"]
    assert found["swh_Latn"][:2] == ["Swahili", "Latn"]


def test_missing_numbers_are_null_and_text_cannot_end_the_script() -> None:
    points = cells()[cells()["best_layer"]].rename(columns={"share": "alignment"})
    points = points.assign(accuracy=[0.5, 0.6, 0.4], stderr=[0.1, np.nan, 0.1], chance=np.nan, language="</script>&")
    figure = interactive.scatter(points.assign(pivot=["a", "b", "c"]))
    assert "<" not in figure
    assert "&" not in figure
    found = made(figure)
    assert found["rows"]["low"] == [0.4, None, 0.3]
    assert found["units"] == {"language": ["</script>&"] * 3, "pivot": ["a", "b", "c"]}  # as a language occurs twice


def test_names_of_neighbours_do_not_cover_each_other() -> None:
    points = cells()[cells()["best_layer"]].assign(alignment=[0.0, 0.001, 1.0], accuracy=[0.0, 0.001, 1.0])
    assert interactive._apart(points.assign(stderr=np.nan)).count(1) == 2
    points = points.assign(alignment=[0.0, 0.03, 1.0], accuracy=[0.0, 0.06, 1.0])
    assert interactive._apart(points.assign(stderr=np.nan)).count(1) == 3
    assert interactive._apart(points.assign(stderr=2.0)).count(1) == 2  # errors need room too


def test_long_names_leave_room_for_the_effects() -> None:
    names = ["Modern Standard Arabic (romanised)", "a_metric_of_my_own_with_a_name_of_fifty_letters_" * 2]
    with style.style():
        (axes,) = short.effects(names, [1, 2], [0, 1], [2, 3], "effect").axes
    assert axes.bbox.width / axes.figure.dpi > 1
    assert [tick.get_text()[:12] for tick in axes.get_yticklabels()] == ["Modern Stand", "a_metric_of_"]


def test_the_sentence_about_depth_has_the_numbers_of_a_plain_loop() -> None:
    chances = pd.DataFrame({"best_layer": [True, True, False], "above": [0.1, 0.2, 0.3], "low": [0.01, -0.1, 0.2]})
    found = depth(cells(), chances)
    means = [sum(cells().query("layer == @k")["share"]) / 3 for k in range(4)]
    assert (found.layer, found.share) == (2, pytest.approx(max(means)))
    assert found.chance == pytest.approx(0.1)
    assert (found.last, found.languages, found.low, found.high) == (4, 3, 1, 2)
    assert (found.above, found.tested) == (1, 2)
    assert depth(cells().assign(chance=np.nan), chances).chance is None


@pytest.mark.parametrize(
    ("found", "words"),
    [(5, "Half of the languages or more have"), (3, "Of the 3 languages with aligned items, half or more have")],
)
def test_the_sentence_about_depth_counts_only_languages_with_aligned_items(found: int, words: str) -> None:
    one = SimpleNamespace(share=0.1, layer=2, last=8, layers=8, chance=None, languages=5, found=found, low=2, high=3)
    one.tested = one.above = 0
    one.is_alone, one.is_outdone = True, False
    text = render(
        "align_pipeline/measurements/alignment/lead.html",
        what="answer",
        about="depth",
        one=one,
        name="DALI",
        pivot="English",
    )
    assert f"{words} their best layer from 2 to 3." in " ".join(text.split())


def test_the_sentence_about_depth_says_no_more_than_the_numbers() -> None:
    def said(shares: list[list[float]], last: float = 0.0) -> str:
        """Of a row per language; then the layer after the final norm."""
        rows = pd.DataFrame(
            {"language": str(u), "pivot": "p", "layer": k, "share": share, "chance": np.nan, "inner": k < len(row)}
            for u, row in enumerate(shares)
            for k, share in enumerate([*row, last])
        )
        rows["best_layer"] = rows.index.isin(rows[rows["inner"]].groupby("language")["share"].idxmax())
        one = depth(rows, pd.DataFrame({"best_layer": [], "above": [], "low": []}))
        template = "align_pipeline/measurements/alignment/lead.html"
        shown = render(template, what="answer", about="depth", one=one, pivot="English", name="DALI")
        return " ".join(re.sub(r"<.*?>", "", shown).split())

    assert "at layer 1 of 2, more than at any other layer (DALI" in said([[0.1, 0.5]])
    assert "at layer 1 of 2, more than at any other layer before the final norm (DALI" in said([[0.1, 0.5]], last=0.6)
    assert "at layer 1 of 3, the first layer with the highest share (DALI" in said([[0.1, 0.5, 0.5]])
    assert said([[0.0, 0.0]]).startswith("No item is aligned with English at any layer (DALI")
    assert said([[0.0, 0.0]], last=0.1).startswith("No item is aligned with English at any layer before the final norm")
    assert "Half of the languages or more have their best layer there" in said([[0.1, 0.5]] * 4)
    few = said([[0.1, 0.5]] * 4 + [[0.0, 0.0]] * 6)
    assert "Of the 4 languages with aligned items, half or more have their best layer there" in few


def test_names_stand_for_codes() -> None:
    assert len(set(names().values())) == len(names())  # a name tells which language it is
    assert (name_of("swh_Latn"), name_of("qaa_Latn")) == ("Swahili", "qaa_Latn")
    row = next(cells().itertuples())
    column = columns.text("Language", "language")
    assert column.title is not None
    assert (column.value(row), column.title(row)) == ("Swahili", "swh_Latn")


def test_columns_without_values_are_left_out() -> None:
    rows = pd.DataFrame({"name": ["a", "b"], "n": [1, 2], "r": [np.nan, np.nan], "note": ["why", "why"]})
    asked = [columns.text("Name", "name"), columns.count("n", "n"), columns.number("r", "r")]
    kept = columns.shown(rows, asked)
    assert [one.head for one in kept] == ["Name", "n"]
    assert columns.is_empty(asked, kept)
    assert not columns.is_empty(asked[:2], kept)
    assert columns.reasons(rows) == ["why."]


def test_a_page_without_interactive_figures_has_languages_to_pick(tmp_path: Path) -> None:
    save(tmp_path, None, simulate(3, 20, 3, seed=3)[1])
    page = report.write([tmp_path], tmp_path / "out").read_text(encoding="utf-8")
    assert 'class="live"' not in page
    listed = re.search(r'id="languages">(.*?)</script>', page)
    assert listed is not None
    assert len(json.loads(listed[1])) == 4


def test_models_whose_names_have_the_same_letters_have_their_own_figures(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    drawings: dict[str, Any] = {}
    for name in ("模型", "说明"):
        part = Part(name, "t", {}, Study(pd.DataFrame(), {}, pd.DataFrame()), pd.DataFrame(), 2, tmp_path, drawings)
        address = part.draw(lambda name=name: Figure(figsize=(1, 1), label=name), "curves")
        assert address.startswith("data:image/svg+xml,")
    assert [draw().get_label() for draw in drawings.values()] == ["模型", "说明"]
    assert {path.stem for path in tmp_path.glob("*.svg")} == set(drawings)


def test_quotes_in_a_picture_stay_quotes() -> None:
    assert _compact('<text x="1">a "b" \'c\'</text>') == "<text x='1'>a &quot;b&quot; &#39;c&#39;</text>"


@pytest.mark.parametrize("languages", [1, 8])
def test_no_answer_is_built_from_a_missing_number(languages: int, written: Path, tmp_path: Path) -> None:
    if languages == 1:
        save(tmp_path, *simulate(languages, 20, 3, seed=3))
        written = report.write([tmp_path], tmp_path / "out")
    page = markup(written)
    answers = re.findall(r'<p class="answer">(.*?)</p>', page, re.DOTALL)
    assert len(answers) == 3
    assert all(re.match(r"<b>[^<]*\d|<b>No item|No answer, because", answer) for answer in answers)
    assert ("because there is only 1 language" in answers[1]) == (languages == 1)
    asked = headlines(page)[1].startswith("Do aligned languages do better? No answer")  # on the console
    assert asked == (languages == 1)
    assert "1 languages" not in page


def test_a_page_has_contents_with_existing_places(written: Path) -> None:
    page = markup(written)
    targets = re.findall(r'<a href="#([^"]+)"', page)
    assert len(targets) > 5
    assert all(page.count(f'id="{target}"') == 1 for target in targets)
    assert written.stat().st_size < 5e6


PROBE = """<script>addEventListener("load", function () {
  setTimeout(function () {
    var out = { drawn: document.querySelectorAll("figure.drawn canvas").length > 0 };
    var panes = Array.from(document.querySelectorAll("figure.drawn .pane"));
    out.hidden = panes.every(function (pane) { return !pane.offsetParent; });
    document.getElementById("find").value = "Swahili";
    document.getElementById("find").dispatchEvent(new Event("change"));
    out.kept = document.getElementById("chips").textContent;
    out.rows = document.querySelectorAll("tr.pinned").length > 0;
    document.getElementById("by-script").value = "Taml";
    document.getElementById("by-script").dispatchEvent(new Event("change"));
    var rows = Array.from(document.querySelectorAll("main tbody tr"));
    rows = rows.filter(function (row) { return row.cells[0].title === "swh_Latn"; });
    out.filtered = rows.length > 0 && rows.every(function (r) { return r.hidden; });
    out.second = document.getElementById("second").hidden;
    dispatchEvent(new Event("beforeprint"));
    out.open = document.querySelectorAll("details:not([open])").length === 0;
    document.title = JSON.stringify(out);
  }, 3000);
});</script></body>"""


def probed(page: Path, script: str, folder: Path, *flags: str) -> Any:
    """What a script left in the title of the page, as JSON."""
    copy = folder / "probed.html"
    copy.write_text(script.join(page.read_text(encoding="utf-8").rsplit("</body>", 1)), encoding="utf-8")
    dom = chromium(folder / "profile", copy, "--dump-dom", "--virtual-time-budget=20000", *flags)
    found = re.search(r"<title>([\[{].*?[\]}])</title>", dom)
    assert found is not None
    return json.loads(found[1])


def test_figures_keep_and_filter_languages_in_a_browser(written: Path, tmp_path: Path) -> None:
    second = '<tr id="second"><td>m</td><td title="swh_Latn">Swahili</td></tr></tbody>'  # a language, not in front
    copy = tmp_path / "report.html"
    copy.write_text(written.read_text(encoding="utf-8").replace("</tbody>", second, 1), encoding="utf-8")
    found = probed(copy, PROBE, tmp_path)
    expected = {"drawn": True, "hidden": True, "kept": "Swahili ×", "rows": True, "filtered": True, "second": True}
    expected["open"] = True
    assert found == expected


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_accessible(width: int, written: Path, tmp_path: Path) -> None:
    if not AXE.exists():
        pytest.skip("no axe-core in node_modules; npm install --no-save axe-core")
    check = f"""<script>{AXE.read_text(encoding="utf-8")}</script><script>addEventListener("load", function () {{
      axe.run().then(function (found) {{
        var bad = found.violations.filter(function (v) {{ return ["serious", "critical"].includes(v.impact); }});
        var fits = document.documentElement.scrollWidth <= innerWidth;
        document.title = JSON.stringify([fits, bad.map(function (v) {{ return v.id; }})]);
      }});
    }});</script></body>"""
    assert probed(written, check, tmp_path, f"--window-size={width},900") == [True, []]
