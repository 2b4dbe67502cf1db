"""Measures of representations against literal loops, laws and planted effects, and a whole job."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import compose, random_model, run_job, tokenizer
from hydra.utils import instantiate
from numpy.typing import NDArray
from scipy.stats import skew
from torch import Tensor

from align_pipeline.config.representations import REPRESENTATIONS as FAMILIES
from align_pipeline.data.source import Source
from align_pipeline.engine import forward
from align_pipeline.engine.model import LanguageModel, wrap
from align_pipeline.engine.states import first_equal
from align_pipeline.errors import InputError
from align_pipeline.measurements.representations import measures as m
from align_pipeline.measurements.representations.measure import KINDS, POOLINGS, compared
from align_pipeline.measurements.representations.statistics import KEYS, middle_third
from align_pipeline.measurements.representations.table import REPRESENTATIONS
from align_pipeline.page.part import fullest
from align_pipeline.report import report
from align_pipeline.store import folders
from align_pipeline.tracking import wandb as tracking
from align_pipeline.tracking.live import Live

States = NDArray[np.float64]
STATES, MORE, NEURONS = KINDS
MEASURES = [*KINDS[STATES], *KINDS[MORE]]
"""Those of hidden states; the others are of active neurons."""


def draw(n: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sides that are related, each with an offset of its own."""
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(n, d, generator=generator)
    x = e + torch.randn(n, d, generator=generator)
    return e + torch.randn(d, generator=generator), x + torch.randn(d, generator=generator)


def rotation(d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0].float()


# ---- literal forms


def cos(a: States, b: States) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def cosine_table(e: States, x: States) -> list[list[float]]:
    return [[cos(a, b) for b in x] for a in e]


def off_diagonal(s: list[list[float]]) -> float:
    n = len(s)
    return float(np.mean([s[i][j] for i in range(n) for j in range(n) if i != j]))


def hsic(k: States, l: States) -> float:  # noqa: E741
    """The unbiased U-statistic of Song et al. (2012), over all quadruples of different items."""
    n = len(k)
    terms = [k[a, b] * (l[a, b] + l[c, d] - 2 * l[a, c]) for a, b, c, d in itertools.permutations(range(n), 4)]
    return float(np.mean(terms))


def nearest(row: list[float], k: int, leave_out: int = -1) -> set[int]:
    return set(sorted((j for j in range(len(row)) if j != leave_out), key=lambda j: -row[j])[:k])


def literal(e: States, x: States) -> dict[str, float]:
    n = len(e)
    k = min(10, n - 1)
    ce, cx = e - e.mean(axis=0), x - x.mean(axis=0)
    s, moved = cosine_table(e, x), cosine_table(ce, cx)
    t = [list(row) for row in zip(*s, strict=True)]
    found = {}
    for name, table in (("", s), ("_centred", moved)):
        found[f"cosine{name}"] = float(np.mean([table[i][i] for i in range(n)]))
        others = [max(table[i][j] for j in range(n) if j != i) for i in range(n)]
        below = [max(table[j][i] for j in range(n) if j != i) for i in range(n)]
        found[f"mexa{name}"] = sum(table[i][i] > max(others[i], below[i]) for i in range(n)) / n
        rivals = [max(pair) for pair in zip(others, below, strict=True)]
        found[f"margin{name}"] = float(np.mean([table[i][i] - rivals[i] for i in range(n)]))
    ge, gx = e @ e.T, x @ x.T
    found["cka"] = hsic(ge, gx) / math.sqrt(hsic(ge, ge) * hsic(gx, gx)) if n < 9 else math.nan
    for name, table, other in (("en_xx", s, t), ("xx_en", t, s)):
        found[f"retrieval_{name}"] = sum(nearest(table[i], 1) == {i} for i in range(n)) / n
        mean_of = [float(np.mean(sorted(row)[-k:])) for row in other]
        own = [float(np.mean(sorted(row)[-k:])) for row in table]
        scores = [[2 * table[i][j] - own[i] - mean_of[j] for j in range(n)] for i in range(n)]
        found[f"csls_{name}"] = sum(nearest(scores[i], 1) == {i} for i in range(n)) / n
        found[f"hubness_{name}"] = float(skew([sum(j in nearest(table[i], k) for i in range(n)) for j in range(n)]))
    within_e, within_x = cosine_table(e, e), cosine_table(x, x)
    found["anisotropy"], found["anisotropy_english"] = off_diagonal(within_x), off_diagonal(within_e)
    shared = [len(nearest(within_e[i], k, i) & nearest(within_x[i], k, i)) / k for i in range(n)]
    found["neighbours"] = float(np.mean(shared))
    found["neurons"] = float(np.mean([np.corrcoef(e[:, d], x[:, d])[0, 1] for d in range(e.shape[1])]))
    rs = [np.corrcoef(e[:, d], x[:, d])[0, 1] for d in range(e.shape[1])]
    found["neurons_absolute"] = float(np.mean(np.abs(rs)))
    # Of all other sentences of both languages, closest first: English ones are numbered from n.
    both = [[*within_x[i], *t[i]] for i in range(n)]
    found["ilo"] = sum(max(nearest(both[i], k, i)) >= n for i in range(n)) / n
    return found


@pytest.mark.parametrize(("n", "d"), [(5, 3), (7, 4), (8, 40), (11, 6), (30, 8)])
def test_every_measure_is_its_literal_form(n: int, d: int) -> None:
    e, x = draw(n, d, seed=n)
    found, expected = m.measures(e, x), literal(e.double().numpy(), x.double().numpy())
    assert list(found) == list(MEASURES)
    for name, value in expected.items():
        if not math.isnan(value):
            assert found[name][0] == pytest.approx(value, abs=2e-6), name
    assert n >= 9 or not math.isnan(expected["cka"])


def test_neighbours_that_tie_share_the_last_places() -> None:
    """As the mean over all orders of the sentences, if a tie were broken by order."""
    rows = torch.tensor([[3.0, 1, 1, 1, 0], [2, 2, 2, 2, 2], [5, 5, 1, 0, 0], [1, 0, 0, 2, 0]])
    expected = np.zeros(rows.shape)
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        for i, row in enumerate(rows.tolist()):
            for j in sorted(order, key=lambda j, row=row: -row[j])[:2]:  # type: ignore[misc]
                expected[i, j] += 1 / len(orders)
    assert m.closest_k(m.ranked(rows), 2).numpy() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equal_states_are_found(dtype: torch.dtype) -> None:
    states = draw(40, 7)[0].to(dtype)
    states[[9, 31]], states[20] = states[3].clone(), states[8]
    states[39] = states[3]
    states[39, 6] += 0.5  # differs in the last number only
    rows = [tuple(row) for row in states.tolist()]
    assert first_equal(states).tolist() == [rows.index(row) for row in rows]


def test_equal_states_tie_exactly_whatever_the_rounding() -> None:
    """Half of the sentences occur twice: none of them is retrieved, however similar the translations are."""
    e, x = draw(37, 33)
    e, x = torch.cat([e[:18], e[:18], e[18:]]), torch.cat([e[:18] + 1e-3, e[:18] + 1e-3, e[18:] + 1e-3])
    found = m.measures(e, x)
    for name in ("mexa", "mexa_centred", "retrieval_en_xx", "retrieval_xx_en", "csls_en_xx", "csls_xx_en"):
        assert found[name][0] == pytest.approx(19 / 55), name


# ---- laws


def test_cka_is_unchanged_by_rotations_scales_and_offsets_of_a_side() -> None:
    e, x = draw(40, 12)
    before = m.measures(e, x)["cka"]
    assert m.measures(3 * e @ rotation(12, 1) + 5, 0.01 * x @ rotation(12, 2) - 2)["cka"] == pytest.approx(
        before, abs=1e-4
    )
    assert m.measures(e, e @ rotation(12, 3))["cka"][0] == pytest.approx(1, abs=1e-5)
    stretched = e * torch.linspace(0.1, 4, 12)
    assert m.measures(e, stretched)["cka"][0] < 0.95, "other linear maps do change it"


def test_centred_measures_do_not_see_an_offset_and_raw_ones_do() -> None:
    e, x = draw(40, 12)
    before, after = m.measures(e, x), m.measures(e + 3, x + torch.linspace(-9, 4, 12))
    for name in ("cosine_centred", "mexa_centred", "cka", "neurons"):
        assert after[name] == pytest.approx(before[name], abs=1e-4), name
    for name in ("cosine", "anisotropy", "anisotropy_english"):
        assert abs(after[name][0] - before[name][0]) > 0.1, name


def test_a_rotation_of_both_sides_changes_only_single_neurons() -> None:
    e, x = draw(60, 12)
    q = rotation(12)
    before, after = m.measures(e, x), m.measures(e @ q, x @ q)
    for name in set(MEASURES) - {"neurons", "neurons_absolute"}:
        assert after[name] == pytest.approx(before[name], abs=1e-5, nan_ok=True), name
    assert abs(after["neurons"][0] - before["neurons"][0]) > 1e-3
    assert m.measures(e, x @ q)["neighbours"] == pytest.approx(before["neighbours"]), "each side has its own space"
    assert m.measures(e, x @ q)["cosine_centred"][0] < before["cosine_centred"][0] - 0.3
    scales = torch.linspace(0.1, 5, 12)
    assert m.measures(e * scales, x)["neurons"] == pytest.approx(before["neurons"], abs=1e-5)


def shuffled(e: Tensor, x: Tensor, keep: Callable[[tuple[int, ...]], bool]) -> dict[str, float]:
    """The mean of every measure over the permutations of X that are kept."""
    orders = [list(order) for order in itertools.permutations(range(len(e))) if keep(order)]
    values = [[value for value, _ in m.measures(e, x[order]).values()] for order in orders]
    return dict(zip(MEASURES, np.mean(values, axis=0), strict=True))


def test_chance_is_the_exact_mean_over_shuffled_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "NEIGHBOURS", 2)
    e, x = draw(5, 3, seed=4)
    found = m.measures(e, x)
    without_fixed = shuffled(e, x, lambda order: all(i != j for i, j in enumerate(order)))
    for name in ("cosine", "cosine_centred", "mexa", "mexa_centred", "margin", "margin_centred", "neurons"):
        assert found[name][1] == pytest.approx(without_fixed[name], abs=1e-6), name
        assert found[name][1] != pytest.approx(found[name][0], abs=1e-3), name
    every = shuffled(e, x, lambda order: True)
    for name in ("retrieval_en_xx", "retrieval_xx_en", "csls_en_xx", "csls_xx_en", "neighbours"):
        assert found[name][1] == pytest.approx(every[name], abs=1e-6), name
    assert every["cka"] == pytest.approx(0, abs=1e-5)


def test_of_unrelated_sides_every_measure_is_near_chance() -> None:
    """80 pairs of independent sides, in more dimensions than sentences, where CKA is biased unless it is corrected."""
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(80):
        e, x = (torch.randn(24, 60, generator=generator) for _ in range(2))
        runs.append(list(m.measures(e, x).values()))
        assert -0.3 < runs[-1][MEASURES.index("cka")][0] < 0.3
    values, chances = np.array(runs).transpose(2, 0, 1)
    for index, name in enumerate(MEASURES):
        if not name.startswith(("anisotropy", "hubness", "ilo")):  # a sentence more makes a bridge a little likelier
            off = values[:, index] - chances[:, index]
            assert abs(off.mean()) < 4 * off.std(ddof=1) / math.sqrt(len(off)), name
    centred = [g - g.mean(axis=0) for g in (e.double().numpy(), x.double().numpy())]
    a, b = (g @ g.T for g in centred)
    assert np.sum(a * b) / math.sqrt(np.sum(a * a) * np.sum(b * b)) > 0.6, "CKA without the correction"


def test_hubness_of_random_neighbours_is_that_of_a_binomial_count() -> None:
    generator = torch.Generator().manual_seed(0)
    found = np.array([m.hubness(m.ranked(torch.rand(300, 300, generator=generator))) for _ in range(40)])
    assert found[:, 0].mean() == pytest.approx(found[0, 1], abs=0.06)
    assert found[0, 1] == pytest.approx(0.30, abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_shuffles_leave_no_pair_together(n: int) -> None:
    order, steps = m._rotations(n)
    orders = torch.stack([torch.empty_like(order).scatter_(0, order, order.roll(-step)) for step in steps])
    assert len(orders) == min(10, n - 1)
    assert all(sorted(order) == list(range(n)) for order in orders.tolist())
    assert not (orders == torch.arange(n)).any()
    assert len({tuple(order) for order in orders.tolist()}) == len(orders)


def test_cka_is_that_of_its_authors_demo() -> None:
    """The debiased linear CKA that the demo notebook of Kornblith et al. prints for its random data."""
    random = np.random.RandomState(1337)
    e = random.randn(100, 10)
    x = random.randn(100, 10) + e
    assert m.measures(torch.tensor(e), torch.tensor(x))["cka"][0] == pytest.approx(0.51346, abs=5e-6)


# ---- planted effects


def test_languages_apart_have_no_bridges() -> None:
    """Each language in a place of its own: every translation is found, and no neighbour speaks the other language."""
    e, x = draw(40, 30)
    place = torch.zeros(30)
    place[0] = 40
    found = m.measures(e, e + 0.01 * x + place)
    assert found["ilo"] == (0, 0)
    assert found["cka"][0] > 0.9
    mixed = m.measures(e, e + 0.01 * x)
    assert mixed["ilo"][0] == 1
    assert mixed["ilo"][1] > 0.9


def test_an_offset_of_the_language_hides_alignment_from_raw_cosines_only() -> None:
    """As in real middle layers: unrelated sentences have a cosine above 0.97, and each language has its own place."""
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(60, 64, generator=generator)
    places = 12 * torch.randn(2, 64, generator=generator)
    e, x = (content + 0.2 * torch.randn(60, 64, generator=generator) + place for place in places)
    found = m.measures(e, x)
    assert min(found["anisotropy"][0], found["anisotropy_english"][0]) > 0.97
    assert found["cosine"][0] - found["cosine"][1] < 0.02
    assert found["cosine_centred"][0] - found["cosine_centred"][1] > 0.9
    assert found["mexa_centred"][0] == 1
    assert min(found["cka"][0], found["neurons"][0]) > 0.9
    assert found["neighbours"][0] > 4 * found["neighbours"][1]


def test_csls_finds_what_a_hub_takes_and_hubness_shows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    e, noise = (torch.randn(60, 30, generator=generator) for _ in range(2))
    x = e + 1.5 * noise + 1.0
    before = m.measures(e, x)
    e[0] = x.mean(dim=0)  # near every sentence of X
    found = m.measures(e, x)
    assert found["hubness_xx_en"][0] > before["hubness_xx_en"][0] + 1
    assert found["hubness_xx_en"][0] > found["hubness_xx_en"][1] + 2
    assert found["retrieval_xx_en"][0] < before["retrieval_xx_en"][0] - 0.1
    assert found["csls_xx_en"][0] > found["retrieval_xx_en"][0] + 0.1


@pytest.mark.parametrize("name", [name for name in MEASURES if not name.startswith(("anisotropy", "hubness", "ilo"))])
def test_less_noise_is_more_similar(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    e, noise = (torch.randn(50, 20, generator=generator) for _ in range(2))
    values = [m.measures(e, e + level * noise)[name][0] for level in (0.3, 1.0, 4.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[2] + 0.2


# ---- where a measure is not defined


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_sentences_have_no_cka_and_no_error(n: int) -> None:
    found = m.measures(*draw(n, 5))
    assert all(math.isnan(number) for number in found["cka"])
    assert found["cosine"][0] == pytest.approx(found["cosine"][0])
    assert math.isnan(found["cosine"][1]) == (n == 1)


def test_one_state_for_all_sentences_is_no_alignment() -> None:
    """Layer 0, last token: every sentence ends with the same mark. A mean of rounded sums would leave noise."""
    state = torch.randn(1, 24, generator=torch.Generator().manual_seed(0)).expand(41, 24)
    found = m.measures(state, 1.7 * state)
    assert found["cosine"] == pytest.approx((1, 1), abs=1e-6)
    assert found["cosine_centred"] == (0, 0)
    assert all(found[name][0] == 0 for name in MEASURES if name.startswith(("mexa", "retrieval", "csls")))
    assert found["neighbours"][0] == pytest.approx(found["neighbours"][1])
    assert all(math.isnan(found[name][0]) for name in ("cka", "neurons", "hubness_en_xx", "hubness_xx_en"))


# ---- layers, and the middle of them


def test_layers_and_items_are_the_right_ones() -> None:
    sides = {pooling: draw(12, 6, seed) for seed, pooling in enumerate(POOLINGS)}
    english = {pooling: torch.stack([e, e.flip(0), e]) for pooling, (e, _) in sides.items()}
    language = {pooling: torch.stack([x, x, 2 * x])[:, :9] for pooling, (_, x) in sides.items()}
    rows = [3, 1, 2, 0, 4, 5, 9, 7, 11]
    found = compared(english, language, rows, torch.device("cpu"))
    for p, pooling in enumerate(POOLINGS):
        for layer in range(3):
            expected = m.measures(english[pooling][layer][rows], language[pooling][layer])
            value, chance = (
                [number for kind in (STATES, MORE) for number in found[kind][name][p, layer].tolist()]
                for name in ("value", "chance")
            )
            assert value == pytest.approx([v for v, _ in expected.values()])
            assert chance == pytest.approx([c for _, c in expected.values()], nan_ok=True)


def test_the_middle_third() -> None:
    about = {"language": "a", "pivot": "e", "measure": "cka", "pooling": "last", "n": 7}
    table = pd.DataFrame([about | {"layer": k, "value": float(k**2), "chance": -float(k)} for k in range(10)])
    (row,) = middle_third(table, 9).to_dict("records")
    assert (row["value"], row["chance"], row["n"]) == (np.mean([9, 16, 25, 36]), -4.5, 7)
    assert middle_third(table)["value"].tolist() == [row["value"]]
    assert middle_third(table[table["layer"] == 1], 9)["value"].tolist() == [1], "none of the middle was reported"


# ---- config


def test_what_can_be_asked_for() -> None:
    assert compose("representations=all").representations == list(FAMILIES)
    assert compose("representations=[cka,cosine]").representations == ["cosine", "cka"]
    assert compose("representations=mexa").representations == ["mexa"]
    assert compose().representations == []
    with pytest.raises(InputError, match=r"no measure of representations 'cosin'; available: cosine, "):
        compose("representations=[cosin]")
    assert compose("representations=cka", "metric=[]", "evaluate=false").metrics == {}


def test_jobs_that_do_not_measure_it_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    dumps = json.dumps
    monkeypatch.setattr(folders.json, "dumps", lambda *given, **how: seen.append(dumps(*given, **how)) or seen[-1])
    digests = {folders.identity(compose(*asked)) for asked in ([], ["representations=[cka]"], ["representations=all"])}
    assert len(digests) == 3
    assert ["representations" in told for told in seen] == [False, True, True]
    assert folders._difference({"seed": 0}, {"seed": 0, "representations": []}) is None
    assert "representations" in str(folders._difference({"seed": 0}, {"seed": 0, "representations": ["cka"]}))


# ---- a job


def test_the_pass_of_alignment_gives_the_states(model_folder: Path, tmp_path: Path) -> None:
    """With a metric there is no further pass, and the values are those of a job without one."""
    asked = ("task=xcopa", "lang=[swh,tur]", "representations=all", "task.limit=24")
    alone = job(tmp_path / "alone", model_folder, tmp_path / "one", *asked, "metric=[]")
    both = job(tmp_path / "both", model_folder, tmp_path / "two", *asked, "metric=[dali]")
    bare = job(tmp_path / "bare", model_folder, tmp_path / "three", *asked[:2], "task.limit=24", "metric=[dali]")
    assert both["tokens"] == bare["tokens"] != alone["tokens"]
    first, second = (pd.read_parquet(tmp_path / name / "representations.parquet") for name in ("alone", "both"))
    pd.testing.assert_frame_equal(first.drop(columns=["value", "chance"]), second.drop(columns=["value", "chance"]))
    apart = ~first["measure"].str.contains("hubness|neighbours|ilo|mexa|csls|retrieval|neuronxa")
    for name in ("value", "chance"):
        assert second[name][apart].to_numpy() == pytest.approx(first[name][apart].to_numpy(), abs=1e-4, nan_ok=True)
        assert second[name][~apart].to_numpy() == pytest.approx(first[name][~apart].to_numpy(), abs=0.1, nan_ok=True)


def test_a_model_whose_neurons_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.setattr(LanguageModel, "activations", ())
    content = job(tmp_path, model_folder, tmp_path / "cache", "lang=spa", "representations=[cka,neuronxa]")
    rows = pd.read_parquet(tmp_path / "representations.parquet")
    assert rows[rows["measure"] == "cka"]["value"].notna().any()
    assert rows[rows["measure"] == "neuronxa"]["value"].isna().all()
    assert "neuronxa" in content["languages"][0]["representations"]


COUNT = 24
ROWS = 2 * (2 * 5 * len(MEASURES) + 4 * len(KINDS[NEURONS]))
"""Of two languages, with two poolings and five layers of states, and four blocks of neurons."""


def job(folder: Path, model_folder: Path, cache: Path, *overrides: str) -> Any:
    model = ("model=custom", f"model.path={model_folder}", "model.name=random", "model.dtype=float32")
    shared = ("task=flores", "data=embedded", f"task.limit={COUNT}", "evaluate=false", f"cache={cache}")
    return run_job(folder, *model, *shared, *overrides)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(model_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, job(folder, model_folder, cache, "lang=[swh,spa]", "representations=all")


def test_the_table_equals_plain_passes(finished: tuple[Path, Any]) -> None:
    table = pq.read_table(finished[0] / "representations.parquet")
    assert table.schema.equals(REPRESENTATIONS)
    rows = table.to_pandas()
    assert len(rows) == ROWS
    assert (rows["n"] == COUNT).all()
    keys = ["language", "pooling", "layer", "measure"]
    assert not rows.duplicated(keys).any()
    found = rows.set_index(keys)["value"]
    lm = wrap(random_model(), tokenizer(), "random")

    config = compose("task=flores", f"task.limit={COUNT}", "lang=[swh,spa]")
    task = instantiate(config.task)
    for pair in task.pairs(list(config.languages.values()), Source("embedded")):
        sides = []
        for side in (pair.english, pair.language):
            by_id = side.by_id()
            texts = [lm.tokenizer(by_id[i].premise)["input_ids"] for i in pair.ids]
            with torch.inference_mode():
                states = [
                    torch.stack(lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states)
                    for ids in texts
                ]
            sides.append(
                {
                    "active": np.stack([active_neurons(lm.model, ids) for ids in texts], axis=1),
                    "last": torch.stack([s[:, 0, -1] for s in states], dim=1).double().numpy(),
                    "mean": torch.stack([s[:, 0].mean(dim=1) for s in states], dim=1).double().numpy(),
                }
            )
        for pooling, layer in (("mean", 0), ("last", 2), ("mean", 3), ("last", 4)):
            expected = literal(sides[0][pooling][layer], sides[1][pooling][layer])
            for name in set(MEASURES) - {"cka"}:
                value = found[pair.language.language, pooling, layer, name]
                assert value == pytest.approx(expected[name], abs=1e-4), (name, pooling, layer)
        for layer in range(1, 5):
            expected = literal(sides[0]["active"][layer - 1], sides[1]["active"][layer - 1])
            told = found[pair.language.language, "weighted", layer]
            assert told["neuronxa"] == pytest.approx(expected["mexa"])
            assert told["neuron_overlap"] == pytest.approx(expected["cosine"], abs=1e-3)


def active_neurons(model: Any, ids: list[int]) -> States:
    """[layers, F]: a token's weight is its place; a neuron is active where its gate's input to SiLU is above 0."""
    gates: list[Tensor] = []
    handles = [
        block.mlp.gate_proj.register_forward_hook(lambda module, given, output: gates.append(output[0]))
        for block in model.model.layers
    ]
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    total = sum(range(1, len(ids) + 1))
    return np.stack([sum((t + 1) / total * (gate[t] > 0).double().numpy() for t in range(len(ids))) for gate in gates])


def test_the_summary_says_what_the_table_says(finished: tuple[Path, Any]) -> None:
    folder, content = finished
    rows = pd.read_parquet(folder / "representations.parquet")
    for row in content["languages"]:
        assert set(row["representations"]) == {*MEASURES, *KINDS[NEURONS]}
        own = rows[(rows["language"] == row["language"]) & (rows["pooling"] == "mean") & (rows["measure"] == "cka")]
        told = row["representations"]["cka"]["mean"]
        assert told["value"] == pytest.approx(own["value"].tolist())
        assert told["middle"] == pytest.approx(own["value"][own["layer"].isin([2])].mean())
        assert row["metrics"]["mexa"]["layers"] == told["layer"] == list(range(5))
    assert {path.name for path in folder.glob("representations_*.png")} == {
        "representations_flores_last.png",
        "representations_flores_mean.png",
        "representations_flores_weighted.png",
    }
    assert content["seconds"]["representations"] > 0


def test_fewer_measures_and_layers_take_no_pass(
    finished: tuple[Path, Any], model_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "pooled_pass", lambda *given: 1 / 0)
    asked = ("representations=[cka,cosine]", "layers=[1,3]", "lang=spa")
    content = job(tmp_path, model_folder, cache, *asked)
    some, whole = (pd.read_parquet(f / "representations.parquet") for f in (tmp_path, finished[0]))
    assert sorted(some["measure"].unique()) == ["cka", "cosine", "cosine_centred"]
    kept = whole[(whole["language"] == "spa_Latn") & whole["layer"].isin([1, 3])]
    kept = kept[kept["measure"].isin(some["measure"])]
    pd.testing.assert_frame_equal(some.reset_index(drop=True), kept.reset_index(drop=True))
    assert content["languages"][0]["representations"]["cka"]["mean"]["layer"] == [1, 3]
    bare = job(tmp_path / "bare", model_folder, cache, "lang=spa")
    assert "representations" not in bare["languages"][0]
    assert not list((tmp_path / "bare").glob("representations*"))


def test_a_layer_that_does_not_exist_is_refused(model_folder: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers contains 9, but random has layers 0 to 4"):
        job(tmp_path, model_folder, cache, "lang=spa", "representations=cka", "metric=[]", "layers=[9]")


def test_the_premises_of_items_with_options(model_folder: Path, tmp_path: Path) -> None:
    """Each XCOPA language has its own English set; in a job of several languages each must meet its own."""
    model = ("model=custom", f"model.path={model_folder}", "model.name=random", "model.dtype=float32")
    asked = ("task=xcopa", "data=embedded", "task.limit=12", "metric=[]", "evaluate=false")
    parts = []
    for languages in ("[ind,swh,tur]", "ind", "swh", "tur"):
        run_job(tmp_path / languages, *model, *asked, f"lang={languages}", "representations=[mexa,neurons]")
        parts.append(pd.read_parquet(tmp_path / languages / "representations.parquet"))
    assert set(parts[0]["measure"]) == {*FAMILIES["mexa"], *FAMILIES["neurons"]}
    assert (parts[0]["n"] == 12).all()
    alone = pd.concat(parts[1:], ignore_index=True)
    pd.testing.assert_frame_equal(parts[0], alone)
    assert alone[alone["measure"] == "neurons"].groupby("language")["value"].sum().nunique() == 3


def test_the_report_shows_it(finished: tuple[Path, Any], model_folder: Path, cache: Path, tmp_path: Path) -> None:
    page = report.write([finished[0]], tmp_path / "with").read_text(encoding="utf-8")
    assert "Representations: beyond alignment" in page
    written = pd.read_csv(tmp_path / "with" / "representations.csv")
    assert len(written) == ROWS
    middle = middle_third(written[written["pooling"] == "mean"])
    for row in middle[middle["measure"] == "neighbours"].itertuples():
        assert f'<td data-v="{row.value:.10g}">{row.value:.2f} ({row.chance:.2f})</td>' in page
    assert (tmp_path / "with/plots/representations_flores_mean.svg").exists()
    job(tmp_path / "bare", model_folder, cache, "lang=spa")
    assert "Representations" not in report.write([tmp_path / "bare"], tmp_path / "without").read_text(encoding="utf-8")
    assert not (tmp_path / "without" / "representations.csv").exists()


def test_the_middle_third_of_the_report_is_of_the_models_depth(finished: tuple[Path, Any], tmp_path: Path) -> None:
    job = shutil.copytree(finished[0], tmp_path / "job", ignore=shutil.ignore_patterns("wandb"))
    whole = pq.read_table(job / "representations.parquet")
    table = whole.to_pandas()
    pq.write_table(
        whole.filter((table["layer"] < 3).tolist()), job / "representations.parquet"
    )  # L is 4: the middle is layer 2
    page = report.write([job], tmp_path / "out").read_text(encoding="utf-8")
    own = table[(table["measure"] == "cka") & (table["pooling"] == "mean")]
    for row in own[own["layer"] == 2].itertuples():
        assert f'<td data-v="{row.value:.10g}">{row.value:.2f} (' in page


def test_of_two_runs_that_with_more_items_is_shown(finished: tuple[Path, Any], tmp_path: Path) -> None:
    table = pd.read_parquet(finished[0] / "representations.parquet")
    folders = tmp_path / "few", tmp_path / "many"
    few = table[table["layer"] < 4].assign(n=3, value=0.125, chance=0.0)
    for folder in folders:
        folder.mkdir()
    few.to_parquet(folders[0] / "representations.parquet")
    shutil.copy(finished[0] / "representations.parquet", folders[1])
    made = [
        report.write(runs, tmp_path / "out").read_text(encoding="utf-8")
        for runs in ([folders[1]], [*folders], [*folders[::-1]])
    ]
    assert ["different numbers of items: 2. The run with the most" in page for page in made] == [False, True, True]
    shown = [re.findall(r"<table.*?</table>", page[page.index("beyond alignment</h3>") :], re.DOTALL) for page in made]
    assert shown[0] == shown[1] == shown[2]
    # a run of many items that has one layer is not completed with layers of fewer items
    kept, several = fullest(pd.concat([few, table[table["layer"] == 4]]), KEYS)
    assert (kept["layer"].unique().tolist(), several) == ([4], 2)


def test_its_curves_are_logged_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb.plot, "line_series", lambda **given: given["title"])
    run = type("Run", (), {"log": lambda self, row: logged.append(row)})()
    curves = [tracking.Curve("cka_mean", "swh_Latn", [0, 1], [0.5, 0.25], "representations")]
    tracking.log_rows(run, curves)
    tracking.log_charts(run, curves)
    assert logged[1] == {"layer": 1, "representations/cka_mean/swh_Latn": 0.25}
    assert logged[3:] == [
        {"layer": 1, "representations/cka_mean": 0.25},
        {"curves/representations/cka_mean": "cka_mean: value by layer"},
    ]
    assert "representations" in tracking.GROUPS


def test_curves_while_a_job_runs_are_those_at_its_end(
    model_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tracking.Curve]] = []
    monkeypatch.setattr(Live, "is_open", True)
    monkeypatch.setattr(Live, "curves", lambda self, curves: seen.append(list(curves)))
    job(tmp_path, model_folder, cache, "lang=[swh,spa]", "representations=[cka,hubness]", "metric=[]")
    early, end = [one for curves in seen[:-1] for one in curves], seen[-1]
    assert [one.metric for one in early].count("cka_mean") == 2
    assert sorted(early, key=str) == sorted(end, key=str)
