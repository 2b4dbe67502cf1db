"""Learned maps against closed forms, literal loops, scipy and naive runs, and their placebos."""

from __future__ import annotations

import hashlib
import html
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import belebele_rows, compose, random_model, run_job, tokenizer, write_hub
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from test_patch import naive_activation, naive_score
from test_patching_analysis import literal, literal_log_odds, simulate

from align_pipeline.config.patch import (
    MAP_CONDITIONS,
    MAPS,
    Component,
    is_kept,
    is_placebo,
    map_of,
    treatment_of,
    with_strength,
)
from align_pipeline.data.items import ENGLISH
from align_pipeline.data.parallel import Pairs
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Pair
from align_pipeline.engine.model import wrap
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.scoring import encode_options
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.patching import conditions, figures
from align_pipeline.measurements.patching.conditions import Plan, digest, site_positions
from align_pipeline.measurements.patching.learned import move
from align_pipeline.measurements.patching.maps import FOLDS, GRID, folds, learn, procrustes, ridge, shuffled
from align_pipeline.measurements.patching.statistics import MIDDLE, by_category, contrasts, effects, summary
from align_pipeline.measurements.patching.table import PATCHING
from align_pipeline.measurements.patching.units import join
from align_pipeline.report import report


def clouds(n: int, width: int, seed: int = 0, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """X, Y = a rotation of X plus a mean and noise, and the rotation."""
    draw = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))[0]
    scale = torch.linspace(0.3, 3, width, dtype=torch.float64)
    x = torch.randn(n, width, generator=draw, dtype=torch.float64) * scale + 5
    y = (x - 5) @ rotation - 2 + noise * torch.randn(n, width, generator=draw, dtype=torch.float64)
    return x, y, rotation


# ---- the maps


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_shift_adds_the_difference_of_the_means(n: int, width: int, seed: int) -> None:
    x, y, _ = clouds(n, width, seed)
    h = torch.randn(4, width, generator=torch.Generator().manual_seed(seed))
    found = learn(["shift"], x.float(), y.float(), seed)["shift"](h)
    expected = h.double() + sum(y.float().double()) / n - sum(x.float().double()) / n
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(learn(["shift"], x, x, seed)["shift"](h), h.double())  # the same language: no shift


def literal_ridge(x: Any, y: Any, penalty: float) -> tuple[Any, Any]:
    """Weights and intercept from the normal equations with an unpenalised column of ones."""
    design = np.hstack([x, np.ones((len(x), 1))])
    punished = np.diag([penalty] * x.shape[1] + [0.0])
    solved = np.linalg.solve(design.T @ design + punished, design.T @ y)
    return solved[:-1], solved[-1]


@pytest.mark.parametrize(("n", "width"), [(40, 6), (14, 20)])
def test_ridge_is_a_literal_solve_for_each_penalty_in_a_literal_loop_over_folds(n: int, width: int) -> None:
    x, y, _ = clouds(n, width, noise=2.0)
    other = torch.randn(n, width, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    chosen = []
    for target, found in zip((y, other), ridge(x, [y, other], seed=3), strict=True):
        a, b, fold = x.numpy(), target.numpy(), folds(n, 3).numpy()
        centred = a - a.mean(0)
        eigenvalues = np.linalg.eigvalsh(centred.T @ centred)
        scale = eigenvalues.sum() / min(n - 1, width)
        errors = []
        for factor in GRID:
            error = 0.0
            for number in range(FOLDS):
                weights, intercept = literal_ridge(a[fold != number], b[fold != number], factor * scale)
                error += ((a[fold == number] @ weights + intercept - b[fold == number]) ** 2).sum()
            errors.append(error)
        best = int(np.argmin(errors))
        assert found.penalty == pytest.approx(GRID[best] * scale)
        total = sum(((b[fold == number] - b[fold != number].mean(0)) ** 2).sum() for number in range(FOLDS))
        assert found.explained == pytest.approx(1 - errors[best] / total)
        weights, intercept = literal_ridge(a, b, GRID[best] * scale)
        h = np.random.default_rng(0).normal(size=(5, width)) * 3
        np.testing.assert_allclose(found(torch.tensor(h)).numpy(), h @ weights + intercept, rtol=1e-6, atol=1e-6)
        chosen.append(best)
    assert chosen[0] < chosen[1]  # unrelated pairs are punished more: the choice could fail


def test_procrustes_is_scipys_where_the_pairs_decide_it() -> None:
    x, y, _ = clouds(60, 8, noise=0.5)
    a, b = (x - x.mean(0)).numpy(), (y - y.mean(0)).numpy()
    expected = orthogonal_procrustes(a, b)[0]
    h = torch.randn(5, 8, dtype=torch.float64)
    found = procrustes(x, y)(h)
    torch.testing.assert_close(found, y.mean(0) + (h - x.mean(0)) @ torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [7, 14])  # computed in the space of the sentences, and in the whole space
def test_procrustes_of_few_sentences_is_the_best_map_that_is_nearest_to_the_identity(n: int) -> None:
    width = 20
    x, y, _ = clouds(n, width)
    fitted = procrustes(x, y)
    eye = torch.eye(width, dtype=torch.float64)
    rotation = fitted(eye + fitted.centre) - fitted.target
    torch.testing.assert_close(rotation @ rotation.T, eye, rtol=0, atol=1e-6)
    a, b = x - x.mean(0), y - y.mean(0)
    scipys = torch.tensor(orthogonal_procrustes(a.numpy(), b.numpy())[0])
    assert (a @ rotation - b).norm() == pytest.approx(float((a @ scipys - b).norm()), rel=1e-6)
    span = torch.linalg.matrix_rank(torch.cat([a, b]))
    outside = torch.linalg.svd(torch.cat([a, b]))[2][span:]
    torch.testing.assert_close(outside @ rotation, outside, rtol=0, atol=1e-6)
    if n == 7:
        assert len(outside) == width - 2 * (n - 1)
    assert torch.trace(rotation) > torch.trace(scipys)


def test_a_planted_rotation_is_recovered_and_shuffled_pairs_are_not() -> None:
    x, y, rotation = clouds(300, 10, noise=0.2)
    held_x, held_y, _ = clouds(900, 10, noise=0.2)
    held_x, held_y = held_x[300:], (held_x[300:] - 5) @ rotation - 2
    names = ["linear", "procrustes", "linear_shuffled", "procrustes_shuffled"]
    found = learn(names, x, y, 0)
    eye = torch.eye(10, dtype=torch.float64)
    procrusted = found["procrustes"]
    assert (procrusted(eye + procrusted.centre) - procrusted.target - rotation).abs().max() < 0.03
    errors = {name: float((found[name](held_x) - held_y).square().mean()) for name in names}
    variance = float((held_y - held_y.mean(0)).square().mean())
    assert errors["linear"] < 0.01 * variance
    assert errors["procrustes"] < 0.01 * variance
    assert errors["linear_shuffled"] == pytest.approx(variance, rel=0.15)  # no better than the mean
    assert errors["procrustes_shuffled"] > variance
    assert found["linear"].explained > 0.98
    assert abs(found["linear_shuffled"].explained) < 0.05


def test_unrelated_languages_give_maps_that_are_no_better_than_shuffled_ones() -> None:
    gains = []
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        x, y = torch.randn(60, 6, generator=draw), torch.randn(60, 6, generator=draw)
        new = torch.randn(500, 6, generator=draw), torch.randn(500, 6, generator=draw)
        found = learn(["linear", "linear_shuffled"], x, y, seed)
        errors = [float((found[name](new[0]) - new[1]).square().mean()) for name in ("linear", "linear_shuffled")]
        gains.append(errors[1] - errors[0])
    assert abs(np.mean(gains)) < 3 * np.std(gains, ddof=1) / math.sqrt(len(gains)) + 1e-3


def test_activations_that_are_all_equal_are_mapped_to_the_english_mean() -> None:
    x = torch.full((12, 4), 0.1)  # as at the embedding of the full stop that ends each sentence
    y = torch.randn(12, 4)
    found = learn(["shift", "linear", "procrustes"], x, y, 0)
    h = torch.tensor([[3.0, -1.0, 0.5, 2.0]])
    torch.testing.assert_close(found["linear"](h), y.double().mean(0, keepdim=True))
    for name in ("shift", "procrustes"):
        torch.testing.assert_close(found[name](h), h.double() + y.double().mean(0) - x.double().mean(0))


@given(st.integers(2, 200), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_no_shuffled_sentence_keeps_its_translation_and_folds_have_equal_sizes(n: int, seed: int) -> None:
    order = shuffled(n, seed).tolist()
    assert sorted(order) == list(range(n))
    assert all(k != other for k, other in enumerate(order))
    assert shuffled(n, seed).tolist() == order
    sizes = np.bincount(folds(n, seed).numpy(), minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1


def moved_by(strength: float, seed: int = 0) -> tuple[Any, dict[Any, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    other, english = torch.randn(30, 5, 8, generator=draw), torch.randn(30, 5, 8, generator=draw)
    states = {((k,), (0, 1)): torch.randn(5, 2, 8, generator=draw) for k in range(3)}
    return move(MAP_CONDITIONS, other, english, states, [1, 3], strength, seed), states


@pytest.mark.parametrize("strength", [1.0, 0.25, -2.0])
def test_a_placebo_moves_as_far_as_its_map_in_a_direction_of_its_own(strength: float) -> None:
    moved, states = moved_by(strength)
    whole, _ = moved_by(1.0)
    for name in MAPS:
        directions = []
        for number, (place, h) in enumerate(states.items()):
            by_map = moved.value(name, h, place, f"i{number}") - h
            by_chance = moved.value(f"{name}_random", h, place, f"i{number}") - h
            torch.testing.assert_close(by_map, strength * (whole.value(name, h, place, "") - h), atol=2e-6, rtol=1e-5)
            assert (by_map[[0, 2, 4]] == 0).all()  # not patched
            assert (by_chance[[0, 2, 4]] == 0).all()
            torch.testing.assert_close(by_map.norm(dim=-1), by_chance.norm(dim=-1), atol=2e-6, rtol=1e-5)
            assert torch.equal(by_chance + h, moved.value(f"{name}_random", h, place, f"i{number}"))
            directions += list(torch.nn.functional.normalize(by_chance[[1, 3]].flatten(0, 1), dim=-1))
            directions += [torch.nn.functional.normalize(by_map[1, 0], dim=-1)] * (number == 0)  # a shift's is shared
        cosines = torch.stack(directions) @ torch.stack(directions).T - torch.eye(len(directions))
        assert cosines.max() < 0.98  # by item, layer and token
    again, other_seed = moved_by(strength)[0], moved_by(strength, seed=1)[0]
    place, h = next(iter(states.items()))
    assert torch.equal(again.value("shift_random", h, place, "i0"), moved.value("shift_random", h, place, "i0"))
    assert not torch.equal(
        other_seed.value("shift_random", h, place, "i0"), moved.value("shift_random", h, place, "i0")
    )


# ---- a job


LANGUAGES = (ENGLISH, "swh_Latn", "spa_Latn")
WORDS = (
    "farmer",
    "maize",
    "window",
    "rain",
    "kitchen",
    "girl",
    "book",
    "market",
    "jua",
    "mbwa",
    "niña",
    "perro",
    "lee",
)


def sentences(language: str, count: int = 24) -> list[dict[str, Any]]:
    draw = random.Random(f"sentences/{language}")
    return [{"id": k, "text": " ".join(draw.choices(WORDS, k=6)) + "."} for k in range(count)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    write_hub(folder, "facebook/belebele", {code: {"test": belebele_rows(code)} for code in LANGUAGES})
    write_hub(folder, "openlanguagedata/flores_plus", {code: {"dev": sentences(code)} for code in LANGUAGES})
    settings = ["model=custom", "model.name=random", "model.dtype=float32", "task.num_fewshot=2", "metric=[]"]
    return [*settings, f"model.path={model_folder}", f"data={folder}"]


def rows_of(folder: Path, base: list[str], *overrides: str) -> pd.DataFrame:
    run_job(folder, *base, *overrides)
    assert pq.read_schema(folder / "patching.parquet").equals(PATCHING)
    return pd.read_parquet(folder / "patching.parquet")


def paired(base: list[str]) -> Pair:
    config = compose("lang=swh", *base)
    pair: Pair = instantiate(config.task).pairs(list(config.languages.values()), Source(config.source))[0]
    return pair


@pytest.mark.parametrize(("site", "limit", "strength"), [("last", 24, 1.0), ("options", 12, 0.5)])
def test_every_map_equals_a_naive_run(base: list[str], tmp_path: Path, site: str, limit: int, strength: float) -> None:
    wanted = [*(c for c in MAP_CONDITIONS if "random" not in c), "english+linear_shuffled"]
    given = f"patch.conditions=[{','.join(wanted)}]"
    keys = [f"patch.site={site}", "patch.layers=[2]", f"patch.pairs.limit={limit}", f"patch.strength={strength}"]
    rows = rows_of(tmp_path, base, "lang=swh", given, "patch.items=all", *keys)
    lm = wrap(random_model(), tokenizer(), "llama")
    pair = paired(base)

    def states(language: str) -> torch.Tensor:
        found = []
        for row in sentences(language)[:limit]:
            (tokens,) = lm.encode([row["text"]])
            found.append(naive_activation(lm, tokens, [len(tokens) - 1], Component.resid)[2][0])
        return torch.stack(found).double()

    x, y = states("swh_Latn"), states(ENGLISH)
    maps = learn(["shift", "linear", "procrustes", "linear_shuffled", "procrustes_shuffled"], x, y, seed=0)
    scipys = torch.tensor(orthogonal_procrustes((x - x.mean(0)).numpy(), (y - y.mean(0)).numpy())[0])
    if limit == 24:  # else the pairs leave a part of the rotation open
        h = x[:3]
        near = y.mean(0) + (h - x.mean(0)) @ scipys
        torch.testing.assert_close(maps["procrustes"](h), near, rtol=1e-3, atol=1e-3)
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    right = predictions[(predictions["language"] == ENGLISH) & (predictions["correct"] == 1)]["item_id"]
    assert 0 < len(right) < len(pair.ids)
    names = [with_strength(condition, strength) for condition in wanted]
    assert list(rows["condition"].unique()) == names
    for condition, name in zip(wanted, names, strict=True):
        own = rows[rows["condition"] == name]
        side = pair.english if is_kept(condition) else pair.language
        assert list(own["item_id"]) == [i for i in pair.ids if not is_kept(condition) or i in set(right)]
        assert (own["language"] == "swh_Latn").all()
        assert (own["source_language"] == side.language).all()
        for row in own.iloc[[0, -1]].itertuples():
            requests = encode_options(lm, side.by_id()[row.item_id])
            context = requests[0][0]
            sites = site_positions(lm, side.by_id()[row.item_id], context, site)
            h = naive_activation(lm, context, sites, Component.resid)[2]
            mapped = maps[condition.removeprefix("english+")](h)
            new = h + strength * (mapped.float() - h)
            expected = [naive_score(lm, context, tail, sites, {2: new}, Component.resid) for _, tail in requests]
            np.testing.assert_allclose(row.loglikelihoods, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(("component", "window"), [("resid", 1), ("mlp", 2)])
def test_without_strength_every_map_is_the_items_own_activation(
    base: list[str], tmp_path: Path, component: str, window: int
) -> None:
    keys = [f"patch.component={component}", f"patch.window={window}", "patch.strength=0", "patch.items=all"]
    rows = rows_of(tmp_path, base, "lang=swh", "patch=maps", *keys)
    before = pd.read_parquet(tmp_path / "predictions.parquet").set_index(["language", "item_id"])["loglikelihoods"]
    values = rows.set_index(["condition", "layer", "item_id"])["loglikelihoods"]
    first = 0 if component == "resid" else 1
    assert set(rows["layer"]) == set(range(first, 5))
    for (condition, layer, item_id), value in values.items():
        if condition == "parallel":
            continue
        if not is_kept(condition):
            assert np.abs(value - values["self", layer, item_id]).max() < 1e-5
        side = ENGLISH if is_kept(condition) else "swh_Latn"
        assert np.abs(value - before[side, item_id]).max() < 1e-5
    assert set(rows["condition"]) == {"parallel", "self", *(f"{condition}*0" for condition in MAP_CONDITIONS)}


def test_the_english_runs_count_only_for_english(base: list[str], tmp_path: Path) -> None:
    content = run_job(tmp_path, *base, "lang=[swh,spa]", "patch=maps")
    rows = pd.read_parquet(tmp_path / "patching.parquet")
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    right = predictions.assign(right=predictions["correct"] == 1).pivot(
        index="item_id", columns="language", values="right"
    )
    table = effects(join(rows, predictions))
    for language in ("swh_Latn", "spa_Latn"):
        failed = set(right.index[right[ENGLISH] & ~right[language]])
        own = rows[(rows["language"] == language) & ~rows["condition"].map(is_kept)]
        assert set(own["item_id"]) == failed
        tried = rows[(rows["language"] == language) & rows["condition"].map(is_kept)]
        ids = set(tried["item_id"])
        assert ids <= set(right.index[right[ENGLISH]])
        assert len(ids) == min(len(failed), right[ENGLISH].sum())
        for row in table[(table["language"] == language) & table["condition"].map(is_kept)].itertuples():
            chosen = tried[(tried["condition"] == row.condition) & (tried["layer"] == row.layer)]
            assert (row.n_tf, row.n_ts, row.damaged) == (0, len(ids), (chosen["correct"] == 0).sum())
            assert row.damage_rate == pytest.approx((chosen["correct"] == 0).mean())
            assert math.isnan(row.correction_rate)
            golds = predictions[predictions["language"] == ENGLISH].set_index("item_id")
            changes = [
                literal_log_odds(list(r.loglikelihoods), r.gold)
                - literal_log_odds(list(golds.loc[r.item_id, "loglikelihoods"]), r.gold)
                for r in chosen.itertuples()
            ]
            assert row.log_odds_change_ts == pytest.approx(np.mean(changes), abs=1e-6)
    for row in content["languages"]:
        found = {one["condition"]: one for one in row["patching"]}
        assert row["map_pairs"] == {"name": "FLORES+ dev", "count": 24}
        kept = table[(table["language"] == row["language"]) & (table["condition"] == "english+shift")]
        middle = kept[kept["layer"].between(4 / 3, 8 / 3)]["damage_rate"].mean()
        assert found["english+shift"]["middle_damage"] == pytest.approx(middle)
        assert found["english+shift"]["middle_correction"] is None
        assert found["shift"]["strongest_control"] == "shift_random"
        assert found["linear"]["strongest_control"] in ("linear_shuffled", "linear_random")
        assert found["self"]["strongest_control"] is None
    assert {path.stem for path in tmp_path.glob("patching*.png")} == {
        f"patching_belebele_resid_last_1_{kind}" for kind in ("correction", "maps", "languages")
    }


def test_the_cache_key_has_strength_and_sentences_only_with_maps(base: list[str]) -> None:
    pair, ids = paired(base), ["passage-0/1"]
    config = compose("lang=swh", "patch=maps", *base).patch
    plain = compose("lang=swh", "patch.conditions=[parallel,self]", *base).patch
    texts = [[(i.id, i.prompt, i.continuations, i.gold) for i in side.items] for side in (pair.language, pair.english)]
    literally = ((["parallel", "self"], "auto", "last", "resid", 1, 0), ids, texts)
    assert digest(Plan(plain, {}), pair, ids, [], 0) == hashlib.sha256(repr(literally).encode()).hexdigest()
    plain.strength, plain.pairs.source = 0.5, "ntrex"
    assert digest(Plan(plain, {}), pair, ids, [], 0) == hashlib.sha256(repr(literally).encode()).hexdigest()
    learnt = Pairs("swh_Latn", ("a", "b"), ("c", "d"), "mine")
    first = digest(Plan(config, {}, {"swh_Latn": learnt}), pair, ids, ids, 0)
    seen = {first}
    for other in (Pairs("swh_Latn", ("a", "b"), ("d", "c"), "mine"), Pairs("swh_Latn", ("b", "a"), ("c", "d"), "mine")):
        seen.add(digest(Plan(config, {}, {"swh_Latn": other}), pair, ids, ids, 0))
    assert (
        digest(
            Plan(config, {}, {"swh_Latn": Pairs("swh_Latn", *(learnt.english, learnt.other), "x")}), pair, ids, ids, 0
        )
        == first
    )
    seen.add(digest(Plan(config, {}, {"swh_Latn": learnt}), pair, ids, [], 0))
    config.strength = 0.5
    seen.add(digest(Plan(config, {}, {"swh_Latn": learnt}), pair, ids, ids, 0))
    assert len(seen) == 5


def test_the_same_maps_write_the_same_bytes_and_a_cache_runs_no_model(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["lang=swh", "patch=maps", f"cache={tmp_path / 'cache'}"]
    rows_of(tmp_path / "one", base, *keys)
    monkeypatch.setattr("align_pipeline.measurements.base.load", lambda config: pytest.fail("the model was loaded"))
    rows_of(tmp_path / "two", base, *keys)
    assert (tmp_path / "one/patching.parquet").read_bytes() == (tmp_path / "two/patching.parquet").read_bytes()
    stored = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert stored < 200_000  # results, no activations
    monkeypatch.undo()
    rows_of(tmp_path / "three", base, "lang=swh", "patch=maps")
    assert (tmp_path / "one/patching.parquet").read_bytes() == (tmp_path / "three/patching.parquet").read_bytes()


# ---- statistics


MAPPED = {
    "parallel": 0.8,
    "noise": 0.2,
    "linear": 0.6,
    "linear_shuffled": 0.3,
    "linear_random": 0.1,
    "shift*0.5": 0.4,
    "shift_random*0.5": 0.4,
}


def test_predictions_without_loglikelihoods_have_rates_and_no_log_odds() -> None:
    patching, predictions = simulate({**MAPPED, "shift": 0.5})
    whole = effects(join(patching, predictions))
    for without in (predictions.assign(loglikelihoods=None), predictions.drop(columns="loglikelihoods")):
        found = effects(join(patching, without))
        assert found["correction_rate"].equals(whole["correction_rate"])
        assert found["log_odds_change_tf"].isna().all()


def test_a_map_is_compared_with_its_own_placebos_of_the_same_strength() -> None:
    patching, predictions = simulate({**MAPPED, "shift": 0.5})
    units = join(patching, predictions)
    table = contrasts(units)
    pairs_of = {
        "noise": "parallel",
        "linear_shuffled": "linear",
        "linear_random": "linear",
        "shift_random*0.5": "shift*0.5",
    }
    assert set(table["control"]) == set(pairs_of)
    assert table["lacks_concept"].all()
    for row in table[table["at"] == "layer"].itertuples():
        treated = literal(patching, predictions, pairs_of[row.control], row.layer, "tf")
        controlled = literal(patching, predictions, row.control, row.layer, "tf")
        differences = [int(treated[i].correct) - int(controlled[i].correct) for i in treated]
        assert row.difference == pytest.approx(np.mean(differences))
        assert (row.only_treatment, row.only_control) == (differences.count(1), differences.count(-1))
        odds = [
            literal_log_odds(treated[i].loglikelihoods, treated[i].gold)
            - literal_log_odds(controlled[i].loglikelihoods, controlled[i].gold)
            for i in treated
        ]
        assert row.log_odds_difference == pytest.approx(np.mean(odds))
    found = summary(units).set_index("condition")
    assert found["strongest_control"].dropna().to_dict() == {
        "parallel": "noise",
        "linear": "linear_shuffled",
        "shift*0.5": "shift_random*0.5",
    }
    middle = table[table["at"] == MIDDLE].set_index("control")["difference"]
    assert found.loc["linear", "attributable"] == pytest.approx(middle[["linear_shuffled", "linear_random"]].min())
    alone = simulate({"parallel": 0.8, "noise": 0.2})
    without = contrasts(join(*alone)).set_index("layer")["n"]
    assert (without == table[table["control"] == "noise"].set_index("layer")["n"]).all()


def test_a_planted_map_is_found_and_one_like_its_placebos_is_not() -> None:
    inside = {"planted": 0, "null": 0}
    for seed in range(12):
        for name, rate in (("planted", 0.7), ("null", 0.3)):
            tables = simulate({"shift": rate, "shift_random": 0.3}, items=80, seed=seed)
            row = summary(join(*tables), resamples=300).set_index("condition").loc["shift"]
            inside[name] += row["attributable_low"] <= rate - 0.3 <= row["attributable_high"]
            assert (row["attributable_low"] > 0) or name == "null"
    assert min(inside.values()) >= 9


def with_kept(patching: pd.DataFrame, predictions: pd.DataFrame, damage: float) -> pd.DataFrame:
    """Adds English runs of the items right in English, of which some become wrong."""
    draw = random.Random(0)
    english = predictions[(predictions["language"] == ENGLISH) & (predictions["correct"] == 1)]
    kept = patching[(patching["condition"] == "linear") & patching["item_id"].isin(set(english["item_id"]))].copy()
    kept["condition"] = "english+linear"
    wrong = np.array([draw.random() < damage for _ in range(len(kept))])
    kept["prediction"] = np.where(wrong, (kept["gold"] + 1) % 3, kept["gold"])
    kept["correct"] = (kept["prediction"] == kept["gold"]).astype("int8")
    return pd.concat([patching, kept], ignore_index=True)


def test_english_runs_change_no_number_of_the_language() -> None:
    patching, predictions = simulate(MAPPED)
    more = with_kept(patching, predictions, 0.25)
    for statistic in (effects, contrasts, by_category, summary):
        before, after = statistic(join(patching, predictions)), statistic(join(more, predictions))
        name = "control" if "control" in after else "condition"
        kept = after[name].map(is_kept).astype(bool)
        pd.testing.assert_frame_equal(before, after[~kept], check_dtype=False)
        assert kept.any() == (statistic in (effects, summary))
    row = effects(join(more, predictions)).query("condition == 'english+linear'").iloc[0]
    english = predictions[(predictions["language"] == ENGLISH) & (predictions["correct"] == 1)]
    assert (row["n_tf"], row["n_ts"]) == (0, len(english))
    chosen = more[(more["condition"] == "english+linear") & (more["layer"] == row["layer"])]
    assert row["damaged"] == (chosen["correct"] == 0).sum()
    assert row["damage_low"] <= row["damage_rate"] <= row["damage_high"]


def test_the_report_and_its_figure_tell_of_maps(tmp_path: Path) -> None:
    patching, predictions = simulate(MAPPED, languages=("swh_Latn", "spa_Latn"))
    patching = with_kept(patching, predictions, 0.25)
    run = tmp_path / "run"
    run.mkdir()
    for name, table, schema in (("patching", patching, PATCHING), ("predictions", predictions, PREDICTIONS)):
        pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), run / f"{name}.parquet")
    page = html.unescape(" ".join(report.write([run], tmp_path / "report").read_text().split()))
    shown = "(linear map; residual stream at the context's last token)"
    assert f"When a learned map moves the activation towards English {shown}" in page
    assert "Each learned map against its placebos" in page
    assert "Does English stay right?" in page
    assert "shift × 0.5" in page
    part = effects(join(patching, predictions))
    drawn = dict(figures.figures(part))
    assert set(drawn) == {"correction", "maps", "languages"}
    axes = drawn["maps"]().axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert texts >= {figures.condition_name(c) for c in MAPPED if c != "noise"}
    assert figures.condition_name("noise") not in texts
    lines = {line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 7}
    assert lines == {"-", "--", ":"}
    rates = part[part["condition"] == "linear_shuffled"].groupby("layer")[["corrected", "n_tf"]].sum()
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(dashed.get_ydata()) == pytest.approx(list(rates["corrected"] / rates["n_tf"]))


def test_a_report_does_not_mix_maps_that_learned_from_different_sentences(base: list[str], tmp_path: Path) -> None:
    keys = ["lang=swh", "patch.conditions=[shift,self]"]
    run_job(tmp_path / "runs/one", *base, *keys)
    run_job(tmp_path / "runs/half", *base, *keys, "patch.strength=0.5")
    report.write([tmp_path / "runs"], tmp_path / "report")
    found = pd.read_csv(tmp_path / "report/patching.csv")
    assert set(found["condition"]) == {"shift", "shift*0.5", "self"}
    run_job(tmp_path / "runs/two", *base, *keys, "patch.pairs.limit=12")
    with pytest.raises(
        InputError, match=r"learned from 24 sentences of FLORES\+ dev in .* and from 12 sentences of FL"
    ):
        report.write([tmp_path / "runs"], tmp_path / "other")


# ---- names and mistakes


def test_every_placebo_knows_its_map() -> None:
    assert {c: treatment_of(c) for c in MAP_CONDITIONS} == {
        "shift": "",
        "linear": "",
        "procrustes": "",
        "linear_shuffled": "linear",
        "procrustes_shuffled": "procrustes",
        "shift_random": "shift",
        "linear_random": "linear",
        "procrustes_random": "procrustes",
        "english+shift": "",
        "english+linear": "",
        "english+procrustes": "",
    }
    for condition in MAP_CONDITIONS:
        name = with_strength(condition, 0.25)
        assert name == f"{condition}*0.25"
        assert (map_of(name), is_placebo(name), is_kept(name)) == (
            map_of(condition),
            is_placebo(condition),
            is_kept(condition),
        )
        assert treatment_of(name) == (f"{treatment_of(condition)}*0.25" if treatment_of(condition) else "")
    for condition in ("parallel", "self", "noise", "same_answer", "language=spa", "random_item", "mean_english"):
        assert (map_of(condition), is_placebo(condition), with_strength(condition, 2)) == ("", False, condition)
        assert treatment_of(condition) == ("" if condition == "parallel" else "parallel")


def test_all_has_no_maps(base: list[str]) -> None:
    config = compose("lang=swh", "patch=english", *base)
    found = conditions.plan(config.patch, instantiate(config.task), [paired(base)], Source(config.source))
    assert not any(map(map_of, found.conditions))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["patch.pairs.limit=9"], "FLORES+ dev has 9 sentence pairs of Swahili to learn a map from, but at least 10"),
        (["patch.conditions=[shift_shuffled]"], "There is no shift_shuffled, because a shift does not depend on"),
        (["patch.conditions=[english+shift_shuffled]"], "There is no shift_shuffled"),
        (["patch.conditions=[lineer]"], "There is no condition 'lineer'; available: linear"),
        (["patch.conditions=[english+parallel]"], "There is no condition 'english+parallel'"),
        (['patch.conditions=["shift*2"]'], "There is no condition 'shift*2'; available: shift"),
        (["patch.component=head"], "The map shift is not learned for single heads; use patch.component=attn"),
        (["patch.strength=nan"], "patch.strength=nan is not a number"),
        (["patch.pairs.source=nowhere"], "'nowhere' is not a source of sentence pairs"),
    ],
)
def test_mistakes_are_told_in_one_sentence(base: list[str], tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        run_job(tmp_path, *base, "lang=swh", "patch=maps", *overrides)
    assert message in str(error.value)
    assert not (tmp_path / "patching.parquet").exists()


def test_sentences_of_the_evaluated_items_are_refused_unless_allowed(
    base: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = paired(base).language.items
    lines = [f"english\tother\nA farmer reads a long book.\t{items[0].premise.splitlines()[0]}"]
    lines += [f"{row['text']}\t{other['text']}" for row, other in zip(sentences("a"), sentences("b"), strict=True)]
    (tmp_path / "swh_Latn.tsv").write_text("\n".join(lines) + "\n")
    keys = ["lang=swh", "patch.conditions=[shift,self]", f"patch.pairs.source='{tmp_path}/LANG.tsv'"]
    with pytest.raises(InputError, match="1 of the sentences that the map of Swahili has learnt from occur in the eva"):
        run_job(tmp_path / "one", *base, *keys)
    with caplog.at_level("WARNING"):
        rows_of(tmp_path / "two", base, *keys, "patch.pairs.allow_overlap=true")
    assert "1 of the sentences that the map of Swahili has learnt from occur in the evaluated texts." in caplog.text


def test_translation_refuses_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learned maps are for tasks with answer options; with flores, use some of"):
        run_job(tmp_path, "task=flores", "lang=swh", "patch=maps", "data=embedded")
