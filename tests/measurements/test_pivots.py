"""Other pivots than English against literal loops and libraries, simulated levels, planted effects, and a whole job."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import belebele_rows, compose, random_job, random_model, run_job, tokenizer, write_hub
from scipy import stats
from scipy.cluster.hierarchy import leaves_list
from statsmodels.stats.contingency_tables import StratifiedTable

from align_pipeline.engine.forward import hidden_states
from align_pipeline.engine.model import wrap
from align_pipeline.errors import InputError
from align_pipeline.inference import pivots as p
from align_pipeline.inference.study import groups
from align_pipeline.measurements.alignment.similarity import text_tokens
from align_pipeline.measurements.pivots.figures import order_of
from align_pipeline.measurements.pivots.table import PIVOTS
from align_pipeline.page.template import render
from align_pipeline.report import report
from align_pipeline.store import folders

CODES = {"eng_Latn": "eng", "swh_Latn": "swh", "spa_Latn": "spa", "tur_Latn": "tur"}


def draw(n: int, kind: str, seed: int) -> tuple[Any, Any, tuple[str, ...]]:
    """Alignments of n languages with English and each other, and their accuracies."""
    rng = np.random.default_rng([n, seed])
    y, common, noise = rng.normal(size=n), rng.normal(size=n), rng.normal(size=(n, n + 1))
    x = {"none": common[:, None], "equal": 0.7 * (y + common)[:, None], "lead": 0.3 * common[:, None]}[kind] + noise
    if kind == "lead":
        x[:, 0] = 2 * y + 0.5 * noise[:, 0]
    x[np.arange(n), np.arange(n) + 1] = np.nan
    return x, y, ("eng_Latn", *(f"p{i}" for i in range(n)))


# ---- statistics


def test_correlations_and_leads_are_those_of_loops() -> None:
    x, y, names = draw(7, "equal", 3)
    found = p.best(x, y, names, orders=50)

    def lead(rows: list[int], j: int) -> float:
        both = [i for i in rows if not math.isnan(x[i, j])]
        return float(stats.pearsonr(x[both, 0], y[both])[0] - stats.pearsonr(x[both, j], y[both])[0])

    every = list(range(7))
    for j in range(8):
        rows = [i for i in every if not math.isnan(x[i, j])]
        assert found.n[j] == len(rows)
        assert found.r[j] == pytest.approx(stats.pearsonr(x[rows, j], y[rows])[0])
        assert math.isnan(found.leads[0]) if j == 0 else found.leads[j] == pytest.approx(lead(every, j))
    again = [np.mean([lead([i for i in every if i != out], j) for j in range(1, 8)]) for out in every]
    error = math.sqrt(6 / 7 * sum((value - np.mean(again)) ** 2 for value in again))
    assert found.lead == pytest.approx(np.mean([lead(every, j) for j in range(1, 8)]))
    assert found.high - found.lead == pytest.approx(stats.t.ppf(0.975, 6) * error)
    assert found.best == names[int(np.argmax(found.r))]


def test_with_one_pivot_the_p_is_that_of_every_permutation() -> None:
    x, y, names = draw(6, "equal", 1)
    column = x[:, :1]
    sizes = [abs(stats.pearsonr(column[:, 0], y[list(order)])[0]) for order in itertools.permutations(range(6))]
    exact = np.mean([size >= sizes[0] - 1e-12 for size in sizes])
    assert p.best(column, y, names[:1], orders=4000).p[0] == pytest.approx(exact, abs=0.03)


def test_levels_under_no_effect_and_under_equal_pivots() -> None:
    none = [p.best(*draw(8, "none", seed), seed=seed, orders=99) for seed in range(60)]
    assert sum(np.nanmin(one.p) <= 0.05 for one in none) <= 9  # 60 at 5%: more than 9 have a probability of 0.1%
    equal = [p.best(*draw(8, "equal", seed), seed=seed, orders=99) for seed in range(60)]
    assert sum(one.choice_p <= 0.05 for one in equal) <= 9
    assert sum(one.verdict != "undecided" for one in (*none, *equal)) <= 14


def test_a_planted_lead_is_found() -> None:
    found = [p.best(*draw(12, "lead", seed), seed=seed, orders=99) for seed in range(30)]
    assert sum(one.best == "eng_Latn" for one in found) >= 27
    assert sum(one.verdict == "leads" for one in found) >= 24
    assert all(one.p[0] <= 0.05 for one in found)
    swapped = []
    for seed in range(30):  # the same effect, of another pivot that all languages have
        x, y, names = draw(12, "lead", seed)
        x[:, 1] = np.random.default_rng(seed).normal(size=12)
        swapped.append(p.best(x[:, [1, 0]], y, names[:2], orders=99))
    assert sum(one.verdict == "trails" for one in swapped) >= 18
    assert sum(one.choice_p <= 0.05 for one in swapped) >= 18


def test_what_is_not_defined_says_why() -> None:
    x, y, names = draw(8, "equal", 0)
    assert "fewer than" in p.best(x[:4], y[:4], names).note
    assert "accuracy is the same" in p.best(x, np.ones(8), names).note
    flat = x.copy()
    flat[:, 0] = 0.5
    found = p.best(flat, y, names, orders=20)
    assert "alike" in found.note
    assert math.isnan(found.r[0])
    assert found.best
    assert not math.isnan(found.p[1])


def test_transfer_is_cochran_mantel_haenszel() -> None:
    rng = np.random.default_rng(0)
    rows, tables = [], []
    for language in "abc":
        ts, tf = rng.integers(10, 40, size=2)
        a, b = rng.integers(1, ts), rng.integers(1, tf)
        rows.append({"language": language, "pivot": "x", "ts": ts, "tf": tf, "aligned_ts": a, "aligned_tf": b})
        tables.append([[a, ts - a], [b, tf - b]])
    rows.append({"language": "d", "pivot": "x", "ts": 5, "tf": 0, "aligned_ts": 1, "aligned_tf": 0})
    (found,) = p.transfer(pd.DataFrame(rows)).to_dict("records")
    test = StratifiedTable([np.array(table) for table in tables]).test_null_odds(correction=False)
    assert found["z"] ** 2 == pytest.approx(test.statistic)
    assert found["p"] == pytest.approx(test.pvalue) == pytest.approx(found["p_holm"])
    assert found["languages"] == 3
    assert np.sign(found["z"]) == np.sign(found["difference"])


def test_a_pivot_without_a_test_counts_in_no_adjustment_and_a_whole_group_may_be_aligned() -> None:
    row = {"language": "a", "ts": 30, "tf": 20, "aligned_ts": 30, "aligned_tf": 10}
    table = pd.DataFrame([row | {"pivot": "x"}, row | {"pivot": "y", "tf": 0, "aligned_tf": 0}])
    x, y = p.transfer(table).to_dict("records")
    # [[30, 0], [10, 10]]: the pooled odds ratio is infinite, the test is defined
    test = StratifiedTable([np.array([[30, 0], [10, 10]])]).test_null_odds(correction=False)
    assert x["p"] == pytest.approx(test.pvalue)
    assert x["p_holm"] == x["p"]
    assert x["z"] > 0
    assert math.isnan(y["p"])
    assert math.isnan(y["p_holm"])


def test_the_layer_is_the_highest_before_the_last() -> None:
    table = pd.DataFrame({"layer": [0, 1, 2, 3] * 2, "aligned": [1, 4, 4, 9, 1, 3, 3, 9], "n": 10})
    assert p.layer_of(table, 3) == 1
    assert p.layer_of(table, 4) == 3
    assert p.layer_of(table[table["layer"] == 3], 3) == 3


def test_the_matrix_is_in_the_order_of_the_tree() -> None:
    shares = pd.DataFrame(
        [[0.5, np.nan, 0.1, 0.9], [0.4, 0.1, np.nan, 0.1], [0.5, 0.9, 0.1, np.nan]],
        index=["a", "b", "c"],
        columns=["eng_Latn", "a", "b", "c"],
    )
    rows, columns, found = order_of(shares)
    assert abs(rows.index("a") - rows.index("c")) == 1
    assert columns == ["eng_Latn", *rows]
    assert [shares.index[i] for i in leaves_list(found)] == rows
    distance = math.dist([0.5, 1, 0.1, 0.9], [0.5, 0.9, 0.1, 1])
    assert found[0, 2] == pytest.approx(distance)


def test_a_pair_that_no_job_compared_does_not_tell_languages_apart() -> None:
    shares = pd.DataFrame(
        [[0.9, 0.5, np.nan], [0.9, 0.5, 0.9], [0.2, 0.5, 0.9]], index=["a", "b", "c"], columns=["eng_Latn", "x", "y"]
    )
    found = p.tree(shares)
    assert set(found[0, :2]) == {0, 1}
    assert found[0, 2] == pytest.approx(0)


def said(found: p.Best) -> str:
    """The finding of the report's section, as one line."""
    table = p.named(found).assign(share=0.5, agreement=0.5, kappa=0.1, note=found.note)
    table = table.assign(**{f"transfer_{name}": 1.0 for name in ("ts", "tf", "difference", "p_holm")})
    at = {pivot: (r, level) for pivot, r, level in zip(found.pivots, found.r, found.p, strict=True)}
    of_best, english = at.get(found.best, (None, None)), at["eng_Latn"][0]
    one = SimpleNamespace(name="DALI", layer=3, best=found, best_r=of_best[0], best_p=of_best[1], english_r=english)
    one = SimpleNamespace(
        **vars(one), image="a", layers="b", table=table, languages=8, n=10, chance=None, best_name="B"
    )
    page = render("align_pipeline/measurements/pivots/section.html", metrics=[one], several=0)
    return " ".join(page[: page.index("</li>")].split())


def test_the_sentence_claims_no_more_than_the_numbers() -> None:
    verdicts = set()
    for seed, kind in itertools.product(range(12), ("equal", "lead")):
        x, y, names = draw(8, kind, seed)
        one = p.best(x, y, names, orders=50)
        sentence = said(one)
        verdicts.add(one.verdict)
        own = [np.flatnonzero(~np.isnan(column)) for column in x.T]
        r, english = ([stats.pearsonr(x[rows, k * j], y[rows])[0] for j, rows in enumerate(own)] for k in (1, 0))
        assert ("would have a lead over English this large" in sentence) == any(
            a > b for a, b in zip(r, english, strict=True)
        )
        assert ("<b>English leads</b>" in sentence) == (one.low > 0)
        assert ("<b>Undecided whether English leads</b>" in sentence) == (one.low <= 0 <= one.high)
    assert verdicts >= {"leads", "undecided"}
    x, y, names = draw(8, "equal", 0)
    assert "English's lead is not defined, because there are fewer than 5 languages." in said(
        p.best(x[:4], y[:4], names)
    )


# ---- a job


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three languages and English; Turkish lacks an item, and one of its items has another right answer."""
    folder = tmp_path_factory.mktemp("data")
    rows = {code: {"test": belebele_rows(name, 12)} for code, name in CODES.items()}
    rows["tur_Latn"]["test"] = rows["tur_Latn"]["test"][1:]
    rows["tur_Latn"]["test"][2]["correct_answer_num"] = "1"
    write_hub(folder, "facebook/belebele", rows)
    return folder


@pytest.fixture(scope="module")
def finished(model_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("pivots")
    asked = random_job(model_folder, data, "lang=[swh,spa]", "pivot=[spa,tur]", f"cache={folder / 'cache'}")
    return folder, run_job(folder / "job", *asked)


def test_the_table_equals_cosines_of_plain_passes(finished: tuple[Path, Any], data: Path) -> None:
    table = pq.read_table(finished[0] / "job" / "pivots.parquet")
    assert table.schema.equals(PIVOTS)
    rows = table.to_pandas().astype({"language": str, "pivot": str, "metric": str})
    pairs = {
        (a, b) for a in ("swh_Latn", "spa_Latn", "tur_Latn") for b in ("eng_Latn", "spa_Latn", "tur_Latn") if a != b
    }
    assert set(zip(rows["language"], rows["pivot"], strict=True)) == pairs
    found = rows[(rows["language"] == "swh_Latn") & (rows["pivot"] == "tur_Latn")]
    assert (found["n"] == 10).all()

    lm = wrap(random_model(), tokenizer(), "random")
    from hydra.utils import instantiate

    from align_pipeline.data.source import Source

    config = compose(f"data={data}", "task.num_fewshot=2", "lang=[swh,tur]")
    sides = [
        pair.language for pair in instantiate(config.task).pairs(list(config.languages.values()), Source(str(data)))
    ]
    states = []
    for side in sides:
        of = {}
        for item in side.items:
            ((_, got),) = hidden_states(lm, text_tokens(lm, [item]), [item.id], range(5), ("last",), None)
            of[item.id] = (item.gold, got["last"][:, 0, :4].double())
        states.append(of)
    x, e = states
    predictions = pd.read_parquet(finished[0] / "job" / "predictions.parquet").astype({"language": str})
    right = {code: dict(of[["item_id", "correct"]].to_numpy()) for code, of in predictions.groupby("language")}
    counts = np.zeros((5, 3), dtype=int)
    for item_id in e:
        if item_id not in x or x[item_id][0] != e[item_id][0]:
            continue
        for layer in range(5):
            c = torch.nn.functional.cosine_similarity(e[item_id][1][layer][:, None], x[item_id][1][layer], dim=-1)
            others = [float(c[i, j]) for i in range(4) for j in range(4) if i != j]
            if min(float(c[i, i]) for i in range(4)) > max(others):
                counts[layer, 0] += 1
                if right["tur_Latn"][item_id]:
                    counts[layer, 1 if right["swh_Latn"][item_id] else 2] += 1
    own = found[found["metric"] == "dali"].sort_values("layer")
    assert own[["aligned", "aligned_ts", "aligned_tf"]].to_numpy().tolist() == counts.tolist()
    ids = [i for i in e if i in x and x[i][0] == e[i][0]]
    assert own["ts"].iloc[0] == sum(right["tur_Latn"][i] == 1 and right["swh_Latn"][i] == 1 for i in ids)
    assert own["tf"].iloc[0] == sum(right["tur_Latn"][i] == 1 and right["swh_Latn"][i] == 0 for i in ids)


def test_english_is_as_without_other_pivots(
    finished: tuple[Path, Any], model_folder: Path, data: Path, tmp_path: Path
) -> None:
    asked = random_job(model_folder, data, "lang=[swh,spa,tur]", f"cache={tmp_path / 'cache'}")
    run_job(tmp_path / "alone", *asked)
    for name in ("alignment", "baselines", "predictions"):
        with_pivots, alone = (
            pd.read_parquet(of / f"{name}.parquet") for of in (finished[0] / "job", tmp_path / "alone")
        )
        pd.testing.assert_frame_equal(with_pivots, alone, atol=1e-5)
    keys = ["language", "metric", "layer"]
    alignment = pd.read_parquet(tmp_path / "alone" / "alignment.parquet").astype(dict.fromkeys(keys[:2], str))
    table = pd.read_parquet(finished[0] / "job" / "pivots.parquet").astype(
        {"language": str, "metric": str, "pivot": str}
    )
    english = table[table["pivot"] == "eng_Latn"].set_index(keys)["aligned"]
    assert english.to_dict() == alignment.groupby(keys)["value"].sum().to_dict()
    assert not (tmp_path / "alone" / "pivots.parquet").exists()
    identities = [folders.identity(compose(*asked)) for asked in ((), ("pivot=[eng]",), ("pivot=all",))]
    assert identities[0] == identities[1] != identities[2]


def test_a_second_job_computes_nothing(finished: tuple[Path, Any], model_folder: Path, data: Path) -> None:
    folder, first = finished
    asked = random_job(model_folder, data, "lang=[swh,spa,tur]", "pivot=all", f"cache={folder / 'cache'}")
    again = run_job(folder / "again", *asked)
    a, b = (pd.read_parquet(folder / name / "pivots.parquet") for name in ("job", "again"))
    keys = ["language", "pivot", "metric", "layer"]
    a, b = (of.astype(dict.fromkeys(keys[:3], str)).sort_values(keys, ignore_index=True) for of in (a, b))
    pivots = {"eng_Latn", "spa_Latn", "tur_Latn"}
    pd.testing.assert_frame_equal(a, b[b["pivot"].isin(pivots)].reset_index(drop=True))
    assert set(again["tokens"].values()) == {0}
    chosen = run_job(folder / "layers", *asked, "layers=[2]")  # states of these layers only, from a pass of their own
    assert chosen["num_layers"] == first["num_layers"]
    one = pd.read_parquet(folder / "layers" / "pivots.parquet").astype(dict.fromkeys(keys[:3], str))
    pd.testing.assert_frame_equal(
        one.sort_values(keys, ignore_index=True), b[b["layer"] == 2].reset_index(drop=True), check_dtype=False
    )


@pytest.mark.parametrize("more", [["task.limit=6"], ["layers=[3,1]", "pivot=[spa]"]])
def test_another_job_finds_no_wrong_states_in_the_cache(
    finished: tuple[Path, Any], model_folder: Path, data: Path, tmp_path: Path, more: list[str]
) -> None:
    asked = random_job(model_folder, data, "lang=[swh,spa]", "pivot=[spa,tur]", *more)
    for name, cache in (("kept", finished[0] / "cache"), ("fresh", "null")):
        run_job(tmp_path / name, *asked, f"cache={cache}")
    kept, fresh = (pd.read_parquet(tmp_path / name / "pivots.parquet") for name in ("kept", "fresh"))
    pd.testing.assert_frame_equal(kept, fresh)


def test_a_pivot_in_the_place_of_english_gives_ts_and_tf(finished: tuple[Path, Any]) -> None:
    predictions = pd.read_parquet(finished[0] / "job" / "predictions.parquet")
    rows = predictions.astype({"language": str})
    right = {code: dict(of[["item_id", "correct"]].to_numpy()) for code, of in rows.groupby("language")}
    found = groups(p.seen_from(predictions, "spa_Latn")).set_index("language")
    assert set(found.index) == {"swh_Latn", "tur_Latn"}
    for language, row in found.iterrows():
        ids = set(right["spa_Latn"]) & set(right[language])
        assert row["ts"] == sum(right["spa_Latn"][i] == 1 and right[language][i] == 1 for i in ids)
        assert row["tf"] == sum(right["spa_Latn"][i] == 1 and right[language][i] == 0 for i in ids)


def test_the_report_has_the_matrix(finished: tuple[Path, Any], tmp_path: Path) -> None:
    page = report.write([finished[0] / "job"], tmp_path).read_text(encoding="utf-8")
    assert "Which pivot?" in page
    assert "English's lead is not defined, because there are fewer than 5 languages." in " ".join(page.split())
    assert "with options in another order, or texts shuffled, " in " ".join(page.split())  # not any kind of chance
    assert (tmp_path / "pivots.csv").exists()
    assert (tmp_path / "plots" / "pivots_belebele_dali_last.png").exists()


def test_the_best_pivot_has_its_name(finished: tuple[Path, Any], tmp_path: Path) -> None:
    job = finished[0] / "job"
    pairs, answers = (pd.read_parquet(job / f"{name}.parquet") for name in ("pivots", "predictions"))
    codes = ["swh_Latn", "ind_Latn", "tur_Latn", "deu_Latn", "fra_Latn", "ita_Latn"]
    own = pairs[(pairs["language"] == "swh_Latn") & (pairs["pivot"] == "eng_Latn")]
    right = answers[answers["language"] == "swh_Latn"]
    rows, said = [], [answers[answers["language"] == "eng_Latn"]]
    for i, code in enumerate(codes):
        rows += [
            own.assign(language=code, pivot=pivot, n=10, aligned=k)
            for pivot, k in (("eng_Latn", i * i), ("spa_Latn", i))
        ]
        correct = (np.arange(len(right)) < i).astype("int8")
        prediction = np.where(correct, right["gold"], (right["gold"] + 1) % 4)
        said.append(right.assign(language=code, correct=correct, prediction=prediction))
    for name, table in (("pivots", rows), ("predictions", said)):
        pd.concat(table).to_parquet(tmp_path / f"{name}.parquet")
    page = " ".join(report.write([tmp_path], tmp_path / "out").read_text(encoding="utf-8").split())
    assert "The best pivot is Spanish (r = 1.00, p" in page


def test_of_two_runs_of_a_pair_that_with_more_items_is_shown(finished: tuple[Path, Any], tmp_path: Path) -> None:
    table = pd.read_parquet(finished[0] / "job" / "pivots.parquet")
    (tmp_path / "few").mkdir()
    table.assign(n=table["n"] // 2, aligned=0).to_parquet(tmp_path / "few" / "pivots.parquet")
    few, job = tmp_path / "few", finished[0] / "job"
    made = [report.write(runs, tmp_path / "out").read_text() for runs in ([job], [job, few], [few, job])]
    said = f"different numbers of items: {len(table[['language', 'pivot']].drop_duplicates())}."
    assert [said in page for page in made] == [False, True, True]
    tables = [re.findall(r"<table.*?</table>", page[page.index("Which pivot?") :], re.DOTALL) for page in made]
    assert tables[0] == tables[1] == tables[2]


def test_a_full_disk_is_refused_before_any_pass(
    model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    asked = random_job(model_folder, data, "lang=[swh,spa]", "pivot=all", f"cache={tmp_path / 'cache'}")
    with pytest.raises(
        InputError, match="states of 3 sides take 1 MiB, but .* has only 1 MiB free; select fewer layers"
    ):
        run_job(tmp_path / "job", *asked)
    assert not (tmp_path / "cache").exists()


def test_pivots_that_do_not_exist_are_named() -> None:
    with pytest.raises(InputError, match="spam"):
        compose("pivot=spam")
    with pytest.raises(InputError, match="needs a metric"):
        compose("pivot=all", "metric=[]")
    assert compose("pivot=spa", "lang=swh").named == ["swh", "spa"]
    assert list(compose("pivot=[eng,spa]", "lang=swh").languages) == ["swh", "spa"]


def test_an_order_that_makes_english_constant_is_no_warning() -> None:
    """With one aligned language per pivot, some orders leave English without any."""
    aligned = np.array([[0.1, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = p.best(aligned, np.array([0.5, 0.6, 0.55, 0.7, 0.9]), ("eng_Latn", "spa_Latn"), orders=50)
    assert 0 < found.choice_p < 1
