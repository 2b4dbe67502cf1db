"""The report from folders of tables: files, page, command line, published figures, and a look in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import SHARED
from scipy import stats
from test_analysis_simulated import simulate

from align_pipeline import measurements
from align_pipeline.data.items import ENGLISH
from align_pipeline.errors import InputError
from align_pipeline.figures import curves, style
from align_pipeline.inference import languages
from align_pipeline.inference import study as analysis
from align_pipeline.page.part import Section
from align_pipeline.report import read, report, results

LANGUAGE_LEVEL = [
    "task",
    "metric",
    "pooling",
    "reduce",
    "layer",
    "group",
    "n",
    "pearson",
    "pearson_p",
    "pearson_low",
    "pearson_high",
    "spearman",
    "spearman_p",
    "spearman_low",
    "spearman_high",
]
INSTANCE_LEVEL = [
    "task",
    "language",
    "metric",
    "pooling",
    "layer",
    "best_layer",
    "contrast",
    "n_a",
    "n_b",
    "mean_a",
    "mean_b",
    "difference",
    "low",
    "high",
    "z",
    "p_one_sided",
    "p_fisher",
    "p_holm",
    "p_bh",
]
FILES = ["language_level", "instance_level", "calibration", "regression", "confidence", "groups", "points"]


def save(folder: Path, alignment: pd.DataFrame | None, predictions: pd.DataFrame | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("alignment", alignment), ("predictions", predictions)):
        if table is not None:
            table.to_parquet(folder / f"{name}.parquet", index=False)


def sweep(folder: Path, alignment: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """A folder per language, the English answers in each of them."""
    for language, rows in alignment.groupby("language", observed=True):
        save(folder / f"lang={language}", rows, predictions[predictions["language"].isin([language, ENGLISH])])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of six languages with two metrics, and one job that wrote nothing."""
    folder = tmp_path_factory.mktemp("runs")
    metrics = (("dali", "last"), ("mexa_t", "weighted"))
    alignment, predictions = simulate(6, 60, 4, metrics, effect=0.8, level_effect=1.0, item_spread=0.5)
    unknown = [
        table.astype({"language": str}).replace({"language": {"tam_Taml": "qaa_Latn"}})
        for table in (alignment, predictions)
    ]
    sweep(folder, *unknown)
    (folder / "lang=xxx" / ".cache").mkdir(parents=True)
    (folder / "lang=xxx" / ".cache" / "alignment.parquet").write_text("not for reading")
    return folder


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "new" / "folder"
    assert report.write([runs], out, failed=["lang=xxx: out of <memory>"]) == out / "report.html"
    return out


def test_the_files_and_their_columns(written: Path) -> None:
    for name in FILES:
        table = pd.read_csv(written / f"{name}.csv")
        assert len(table)
    assert list(pd.read_csv(written / "language_level.csv").columns[: len(LANGUAGE_LEVEL)]) == LANGUAGE_LEVEL
    assert list(pd.read_csv(written / "instance_level.csv").columns[: len(INSTANCE_LEVEL)]) == INSTANCE_LEVEL
    names = {path.name for path in (written / "plots").iterdir()}
    for kind in ("scatter", "curves", "heatmap", "transfer", "differences"):
        for metric in ("dali_last", "mexa_t_weighted"):
            assert {f"{kind}_belebele_{metric}.png", f"{kind}_belebele_{metric}.svg"} <= names
    assert {"correlation_belebele.png", "odds_belebele.png", "reliability_belebele.png"} <= names
    assert [path.name for path in written.iterdir() if path.name.startswith(".")] == []


def test_rows_without_numbers_say_why(written: Path) -> None:
    for name, column in (("language_level", "pearson"), ("instance_level", "z"), ("calibration", "ece")):
        table = pd.read_csv(written / f"{name}.csv", keep_default_na=False, na_values=[""])
        missing = table[table[column].isna()]
        assert missing["note"].astype(str).str.contains("not defined, because").all()


def markup(page: Path) -> str:
    """The page without the library of its figures, in which any word may occur."""
    return re.sub(r'<script id="vega">.*?</script>', "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_page_needs_nothing_else(written: Path) -> None:
    page = markup(written / "report.html")
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "http" not in re.sub(r'data:image/svg\+xml,[^"]+', "", page)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.DOTALL)
    assert page.count("<figure") == len(captions) == page.count("data:image/svg+xml") == 3 + 2 * 5 + 3
    assert "1 of the jobs failed" in page
    assert "lang=xxx: out of &lt;memory&gt;" in page
    assert "n = 6 languages" in " ".join(page.split())
    assert ">nan<" not in page.lower()
    assert all("n = " in " ".join(caption.split()) for caption in captions)


def test_order_overlap_and_repetition_of_folders_change_nothing(runs: Path, written: Path, tmp_path: Path) -> None:
    jobs = sorted(path for path in runs.iterdir() if path.name != "lang=xxx")
    report.write([*jobs[:2:-1], *jobs, runs], tmp_path)
    for name in FILES:
        assert (tmp_path / f"{name}.csv").read_text() == (written / f"{name}.csv").read_text()


def test_tables_of_other_hands_are_read(tmp_path: Path) -> None:
    alignment, predictions = simulate(4, 30, 3, effect=0.5, seed=1)
    sweep(tmp_path / "ours", alignment, predictions)
    plain = alignment.astype({"language": object, "item_id": object, "layer": "int64", "value": "int64"})
    required = ["model", "task", "language", "pivot", "item_id", "gold", "prediction", "correct", "confidence"]
    save(
        tmp_path / "theirs",
        plain[plain.columns[::-1].drop("margin")],
        predictions[required].astype({"item_id": "category"}),
    )
    a, b = (results.analyse(read.read([tmp_path / name])) for name in ("ours", "theirs"))
    pd.testing.assert_frame_equal(a.by_name["instance_level"], b.by_name["instance_level"])
    both = ["pearson", "pearson_low", "spearman"]
    pd.testing.assert_frame_equal(a.by_name["language_level"][both], b.by_name["language_level"][both])


def test_several_models_and_tasks(tmp_path: Path) -> None:
    for model, task in (("tiny", "belebele"), ("org/big model", "xcopa")):
        save(tmp_path / task, *simulate(4, 30, 3, seed=2, model=model, task=task))
    page = markup(report.write([tmp_path], tmp_path / "out"))
    assert len(re.findall("<h2", page)) == 1 + 2 + 1
    assert (tmp_path / "out" / "plots" / "curves_org-big-model_xcopa_dali_last.png").exists()
    assert pd.read_csv(tmp_path / "out" / "language_level.csv").groupby(["model", "task"]).ngroups == 2


@pytest.mark.parametrize("kind", ["alignment", "predictions", "one", "no English", "constant"])
def test_partial_studies_are_reported(kind: str, tmp_path: Path) -> None:
    alignment, predictions = simulate(1 if kind == "one" else 4, 20, 3, seed=3)
    if kind == "no English":
        predictions = predictions[predictions["language"] != ENGLISH]
    if kind == "constant":
        alignment["value"] = 0
    save(tmp_path, None if kind == "predictions" else alignment, None if kind == "alignment" else predictions)
    page = markup(report.write([tmp_path], tmp_path / "out"))
    assert "not defined, because" in page.lower() or kind == "predictions"
    assert not re.search(r"\bnan\b", re.sub(r"data:[^\"]+", "", page), re.IGNORECASE)


def test_summaries_tell_where_the_data_are_from_and_which_layer_is_last(tmp_path: Path) -> None:
    alignment, predictions = simulate(3, 20, 3, seed=3)
    save(tmp_path / "a", alignment, predictions)
    summary = '{"model": "tiny", "num_layers": 8, "data": {"dataset": "facebook/belebele", "source": "embedded"}}'
    (tmp_path / "a" / "summary.json").write_text(summary)
    found = results.analyse(read.read([tmp_path]))
    assert found.by_name["cells"]["inner"].all()
    assert "facebook/belebele (embedded)" in report.write([tmp_path], tmp_path / "out").read_text(encoding="utf-8")


def test_layers_that_are_not_all_there_are_said(tmp_path: Path) -> None:
    alignment, predictions = simulate(3, 20, 5, seed=3)
    save(tmp_path, alignment[alignment["layer"].isin([0, 2, 4])], predictions)
    (note,) = results.analyse(read.read([tmp_path])).notes
    assert "the highest, layer 4, is treated as the one after the final norm" in note
    (tmp_path / "summary.json").write_text('{"model": "tiny", "num_layers": 8}')
    (note,) = results.analyse(read.read([tmp_path])).notes
    assert note.startswith("Tables of tiny hold only some of its layers 0 to 8: 0, 2, 4; maxima, means and best layers")


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    tables = simulate(3, 20, 3, (("<q>metric", "odd&pool"),), seed=3, model="<q>model", task="<q>task")
    first = sorted(set(tables[0]["language"]))[0]
    save(tmp_path, *[t.astype({"language": str}).replace({"language": {first: "<q>_Latn"}}) for t in tables])
    page = markup(report.write([tmp_path], tmp_path / "out"))
    assert "<q" not in page
    for name in ("&lt;q&gt;metric (odd&amp;pool)", "&lt;q&gt;task, &lt;q&gt;model", "&lt;q&gt;_Latn"):
        assert name in page


def test_tables_of_other_packages_are_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = pa.schema({"language": pa.string(), "value": pa.int8(), "more": pa.float64()})
    added = Section("norms", schema, lambda part: "<b>", optional=frozenset({"more"}))
    monkeypatch.setattr(read, "sections", lambda: [*measurements.sections(), added])
    table = pd.DataFrame({"language": ["swh_Latn", "deu_Latn"], "value": [0, 1]})
    table.to_parquet(tmp_path / "norms.parquet")
    found = read.read([tmp_path])
    assert found.by_name["norms"]["language"].tolist() == ["swh_Latn", "deu_Latn"]
    assert found.by_name["alignment"].empty
    wrongs = ((table.drop(columns="language"), "no column language"), (table.assign(value=2), "values other than 0"))
    for wrong, says in wrongs:
        wrong.to_parquet(tmp_path / "norms.parquet")
        with pytest.raises(InputError, match=says):
            read.read([tmp_path])


def test_a_failed_report_leaves_the_old_one(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(report, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write([runs], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_without_torch(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from align_pipeline.report import report; report.main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'wandb', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    arguments = [f"runs={runs}/lang=*", f"out={tmp_path / 'out'}", "seed=3"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs=."], "out=<folder> is missing"),
        (["out=."], "runs=<folder> is missing"),
        ([".", "out=."], "'.' is a path; write runs=."),
        (["run=.", "out=."], "There is no argument 'run'; available: runs"),
        (["runs", "out=."], "runs needs a value"),
        (["runs=/nowhere/*", "out=."], "runs=/nowhere/* matches no folder"),
        (["runs={empty}", "out=."], "There is no alignment.parquet or logit_lens.parquet or patching.parquet or"),
        (["runs={runs}", "out=/proc/report"], "Nothing can be written to /proc/report"),
        (["runs={runs}", "out={empty}", "seed=x"], "seed=x is not valid"),
        (["runs={broken}", "out=."], "predictions.parquet is damaged and cannot be read as a table"),
    ],
)
def test_mistakes_end_in_one_sentence(
    arguments: list[str], says: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: tmp_path / name for name in ("empty", "broken")}
    for place in places.values():
        place.mkdir()
    (places["broken"] / "predictions.parquet").write_text("no table")
    with pytest.raises(SystemExit) as stopped:
        report.main([argument.format(runs=runs, **places) for argument in arguments])
    message = str(stopped.value.code)
    assert message.startswith("Error: ")
    assert says in message
    assert "\n" not in message
    report.main(["--help"])
    assert "runs=<folder or glob>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": 2}, "has values other than 0 and 1 in value"),
        ({"layer": None}, "has empty cells in layer"),
        ({"drop": "item_id"}, "has no column item_id"),
        ({"layer": -1}, r"alignment\.parquet, row 1: layer is -1, but layers are counted from 0"),
    ],
)
def test_tables_that_are_wrong_are_named(change: dict[str, object], says: str, tmp_path: Path) -> None:
    alignment, _ = simulate(1, 5, 2)
    wrong = alignment.drop(columns="item_id") if "drop" in change else alignment.assign(**change)
    save(tmp_path, wrong, None)
    with pytest.raises(InputError, match=says):
        read.read([tmp_path])


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("confidence", 1.5, "confidence is 1.5, but it must be a probability from 0 to 1"),
        ("confidence", -0.1, "confidence is -0.1, but"),
        ("confidence", np.inf, "confidence is inf, but"),
        ("gold", -1, "gold is -1, but options are counted from 0"),
        ("gold", 9, "gold is 9, but options are counted from 0, and each has a log-likelihood"),
        ("correct", None, r"correct is [01], but prediction is \d and gold is \d\.$"),
    ],
)
def test_answers_that_cannot_be_are_named(column: str, value: float | None, says: str, tmp_path: Path) -> None:
    _, predictions = simulate(1, 5, 2)
    predictions.loc[predictions.index[3], column] = 1 - predictions[column].iloc[3] if value is None else value
    save(tmp_path, None, predictions)
    with pytest.raises(InputError, match=rf"predictions\.parquet, row 4: {says}"):
        read.read([tmp_path])


# ---------------------------------------------------------------------------------------------------- published figures


def as_published(task: str, metrics: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items made so that every language has exactly the published accuracy, max and mean over layers 0..31."""
    accuracy = pd.read_csv(SHARED / "published" / "accuracy.csv").query("task == @task")
    scores = pd.read_csv(SHARED / "published" / "alignment.csv").query("task == @task and flores_code != @ENGLISH")
    pivots = results.published().query("task == @task and quantity == 'accuracy'").set_index("language")["pivot"]
    answers, values = [], []
    about = {"model": "llama3.1-8b", "task": task}
    for row in accuracy[accuracy["flores_code"] != ENGLISH].itertuples():
        ids = np.arange(row.n).astype(str)
        right = (np.arange(row.n) < round(row.acc * row.n)).astype(int)
        unit = {**about, "language": row.flores_code, "pivot": pivots[row.flores_code], "item_id": ids}
        answers.append(pd.DataFrame({**unit, "gold": 0, "prediction": 1 - right, "correct": right, "confidence": 0.5}))
    for row in scores[scores["metric"].isin(metrics)].itertuples():
        aligned = np.zeros((33, row.n), dtype=np.int8)
        aligned[32] = 1  # after the final norm: may count in no maximum and no mean
        total, most = round(row.mean_0_31 * 32 * row.n), round(row.max_0_31 * row.n)
        aligned[row.argmax_0_31, :most] = 1
        left = total - most
        for layer in (k for k in range(31, -1, -1) if k != row.argmax_0_31):
            share = min(most, left)
            aligned[layer, :share] = 1
            left -= share
        pooling = "last" if row.embedding == "last token" else "weighted"
        unit = {**about, "language": row.flores_code, "pivot": pivots[row.flores_code], "pooling": pooling}
        layer, item = np.repeat(np.arange(33), row.n), np.tile(np.arange(row.n), 33).astype(str)
        more = {"metric": metrics[row.metric], "layer": layer, "item_id": item, "value": aligned.ravel()}
        values.append(pd.DataFrame({**unit, **more}))
    return pd.concat(values, ignore_index=True), pd.concat(answers, ignore_index=True)


@pytest.mark.parametrize(("task", "metrics"), [("xcopa", "DALI DALI_S MEXA_T"), ("belebele", "DALI")])
def test_the_studys_figures_are_reproduced(task: str, metrics: str) -> None:
    """Items with the study's accuracies and alignments give its correlations, and no difference from its figures."""
    if not (SHARED / "published").is_dir():
        pytest.skip("no ../shared/published beside this checkout")
    names = {"DALI": "dali", "DALI_S": "dali_strong", "MEXA_T": "mexa_t"}
    alignment, predictions = as_published(task, {m: names[m] for m in metrics.split()})
    study = analysis.join(alignment, predictions)
    points = analysis.points(study, analysis.tally(study))
    level = languages.language_level(points[points["reduce"] != "layer"])
    level = level[level["grouping"] == "all"].set_index(["metric", "reduce"])
    accuracy = pd.read_csv(SHARED / "published" / "accuracy.csv").query("task == @task and flores_code != @ENGLISH")
    scores = pd.read_csv(SHARED / "published" / "alignment.csv").query("task == @task and flores_code != @ENGLISH")
    for metric in metrics.split():
        both = scores[scores["metric"] == metric].merge(accuracy, on="flores_code")
        for reduce in ("max", "mean"):
            row = level.loc[(names[metric], reduce)]
            assert row["n"] == len(both)
            x = both[f"{reduce}_0_31"]
            assert (row["pearson"], row["pearson_p"]) == pytest.approx(tuple(stats.pearsonr(x, both["acc"])))
            assert row["spearman"] == pytest.approx(stats.spearmanr(x, both["acc"]).statistic)
    table = results.against_published(study, points)
    expected = len(accuracy) + 2 * scores["metric"].isin(metrics.split()).sum()
    assert len(table) == expected
    assert table["difference"].abs().max() < 1e-9


@pytest.mark.parametrize(
    ("task", "source", "metric", "pearson", "n"),
    [
        ("belebele", "belebele", "dali", 0.886, 81),
        ("belebele", "belebele", "dali_strong", 0.712, 81),
        ("belebele", "belebele", "mexa_t", 0.854, 81),
        ("belebele", "flores", "mexa", 0.890, 81),
        ("xstorycloze", "xstorycloze", "dali", 0.897, 10),
        ("xcopa", "xcopa", "mexa_t", 0.925, 9),
    ],
)
def test_correlations_of_the_packaged_figures(task: str, source: str, metric: str, pearson: float, n: int) -> None:
    """Max over layers against accuracy, as scipy gives it on ../shared/published."""
    table = results.published()
    accuracy = table[(table["task"] == task) & (table["quantity"] == "accuracy") & (table["language"] != ENGLISH)]
    scores = table[(table["task"] == source) & (table["quantity"] == metric) & (table["reduce"] == "max")]
    both = scores.merge(accuracy, on="language")
    assert len(both) == n
    assert stats.pearsonr(both["value_x"], both["value_y"]).statistic == pytest.approx(pearson, abs=0.0005)


def test_the_package_carries_the_published_figures() -> None:
    if not (SHARED / "published").is_dir():
        pytest.skip("no ../shared/published beside this checkout")
    ours = results.published()
    accuracy = pd.read_csv(SHARED / "published" / "accuracy.csv")
    assert (ours["quantity"] == "accuracy").sum() == len(accuracy) - 1  # Quechua's English side is Swahili's
    alignment = pd.read_csv(SHARED / "published" / "alignment.csv").query("flores_code != @ENGLISH")
    for reduce in ("max", "mean"):
        kept = ours[ours["reduce"] == reduce]
        assert kept["value"].tolist() == pytest.approx(alignment[f"{reduce}_0_31"].tolist())
        assert kept["language"].tolist() == alignment["flores_code"].tolist()
    comet = pd.read_csv(SHARED / "published" / "comet_flores100.csv")
    assert ours.loc[ours["quantity"].str.startswith("comet"), "value"].tolist() == pytest.approx(comet["mean"].tolist())
    assert "arXiv 2504.09378" in (results.PACKAGE / "published.csv").read_text().splitlines()[0]


def test_what_is_missing_is_named_and_no_test_is_claimed_without_answers(tmp_path: Path) -> None:
    alignment, predictions = simulate(3, 20, 3, (("dali", "last"),))
    text = {}
    for name, tables in (("alignment", (alignment, None)), ("answers", (None, predictions))):
        save(tmp_path / name, *tables)
        page = report.write([tmp_path / name], tmp_path / "out").read_text(encoding="utf-8")
        text[name] = " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<main>") :]).split())
    assert "Not defined, because there are no accuracies for these languages in the tables." in text["alignment"]
    assert "permutation tests at the best layer, adjusted" not in text["alignment"].replace(
        "Permutation", "permutation"
    )
    assert "Not defined, because there is no alignment in the tables." in text["answers"]
    assert "then per metric" not in text["answers"]


def test_only_the_studys_model_is_set_beside_its_figures() -> None:
    alignment, predictions = simulate(3, 10, 2)
    for model, rows in (
        ("llama3.1-8b", True),
        ("meta-llama/Llama-3.1-8B", True),
        ("Llama-3.1-8B-Instruct", False),
        ("tiny", False),
    ):
        study = analysis.join(alignment.assign(model=model), predictions.assign(model=model))
        points = analysis.points(study, analysis.tally(study))
        assert bool(len(results.against_published(study, points))) == rows


# -------------------------------------------------------------------------------------------------------------- plots


@pytest.mark.parametrize("languages", [1, 5, 82])
def test_layer_curves(languages: int, tmp_path: Path) -> None:
    alignment, _ = simulate(languages, 10, 33 if languages > 5 else 3, (("dali", "last"), ("mexa_t", "weighted")))
    paths = curves.layer_curves(alignment, tmp_path)
    assert [path.name for path in paths] == ["curves_belebele_dali_last.png", "curves_belebele_mexa_t_weighted.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in paths)
    assert curves.layer_curves(alignment.iloc[:0], tmp_path) == []


def test_labels_keep_their_distance() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(rng.uniform(0.4, 0.5, 50))
    placed = style.spread_apart(values, 0.02, 0.0, 1.0)
    assert np.diff(placed).min() >= 0.02 - 1e-9
    assert placed.min() >= -1e-9
    assert placed.max() <= 1 + 1e-9
    assert style.spread_apart(np.array([0.1, 0.9]), 0.02, 0, 1) == pytest.approx([0.1, 0.9])


# ------------------------------------------------------------------------------------------------------------ browser

PROBE = """<script>addEventListener("load", function () {
  var images = Array.from(document.images), out = {};
  out.broken = images.filter(function (i) { return i.complete && !i.naturalWidth; }).length;
  out.images = images.length;
  function column_of(t) {
    return Array.from(t.querySelectorAll("th")).findIndex(function (h) { return h.textContent === "Accuracy"; });
  }
  var table = Array.from(document.querySelectorAll("table.sortable")).find(function (t) { return column_of(t) >= 0; });
  var heads = Array.from(table.querySelectorAll("th")), column = column_of(table);
  function value(row) { return +row.cells[column].dataset.v; }
  function values() { return Array.from(table.tBodies[0].rows).map(value); }
  heads[column].click(); var up = values(); heads[column].click(); var down = values();
  out.up = up.every(function (v, i) { return !i || up[i - 1] <= v; });
  out.down = down.every(function (v, i) { return !i || down[i - 1] >= v; });
  out.wide = document.documentElement.scrollWidth <= innerWidth;
  document.title = JSON.stringify(out);
});</script></body>"""


def chromium(folder: Path, page: Path, *flags: str) -> str:
    program = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [program, *quiet.split(), "--disable-component-update", "--disable-sync", f"--user-data-dir={folder}"]
    done = subprocess.run(
        [*command, "--window-size=1280,2000", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout


def test_the_page_in_a_browser(written: Path, tmp_path: Path) -> None:
    page = (written / "report.html").read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(PROBE.join(page.rsplit("</body>", 1)), encoding="utf-8")
    dom = chromium(tmp_path / "profile", probed, "--dump-dom")
    found = re.search(r"<title>(\{.*?\})</title>", dom)
    assert found is not None
    assert found[1] == '{"broken":0,"images":16,"up":true,"down":true,"wide":true}'
    picture = tmp_path / "page.png"
    chromium(tmp_path / "profile2", written / "report.html", f"--screenshot={picture}")
    assert picture.stat().st_size > 50_000


def test_a_question_without_an_odds_ratio_says_why_and_its_test_is_counted(tmp_path: Path) -> None:
    """At the strongest layer only items that transfer are aligned: the ratio is infinite, the p exists."""
    alignment, predictions = simulate(3, 60, 2)
    right = predictions[predictions["correct"] == 1][["language", "item_id"]].assign(right=1)
    merged = alignment.astype({"language": str, "item_id": str}).merge(right, "left", ["language", "item_id"])
    ones = (merged["right"] == 1) & (merged["item_id"].str[-1].astype(int) < 4)
    save(tmp_path / "run", alignment.assign(value=ones.to_numpy().astype(np.int8)), predictions)
    page = report.write([tmp_path / "run"], tmp_path / "out").read_text(encoding="utf-8")
    found = pd.read_csv(tmp_path / "out" / "verdicts.csv")
    row = found[found["question"] == "items_somewhere"].iloc[0]
    assert row["p"] < 0.05
    assert row["verdict"] is np.nan or pd.isna(row["verdict"])
    assert row["note"].startswith("layer 0; not defined, because the pooled odds ratio is zero or infinite")
    text = " ".join(page.split())
    assert "the pooled odds ratio is zero or infinite, or there are no items." in text
    assert f"is over all {found['p'].notna().sum()} possible tests" in text
