"""The vectorised metrics against literal double loops, on random and on adversarial vectors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from align_pipeline.errors import InputError
from align_pipeline.measurements.alignment.metrics import (
    Dali,
    DaliStrong,
    Mexa,
    MexaT,
    Retrieval,
    dali,
    dali_strong,
    mexa,
)
from align_pipeline.measurements.alignment.similarity import (
    MISMATCHES,
    OptionCosines,
    PremiseStream,
    Similarities,
    cosines,
    cross_cosines,
    derangements,
    option_cosines,
    partners,
)

Vectors = NDArray[np.float64]


def cos(a: Vectors, b: Vectors) -> float:
    norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def literal_dali(e: Vectors, x: Vectors, criterion: str) -> bool:
    n = len(e)
    own = [cos(e[i], x[i]) for i in range(n)]
    if criterion == "rowwise":
        return all(own[i] > cos(e[i], x[j]) for i in range(n) for j in range(n) if i != j)
    return all(min(own) > cos(e[i], x[j]) for i in range(n) for j in range(n) if i != j)


def literal_dali_strong(e: Vectors, x: Vectors) -> bool:
    n = len(e)
    least = min(cos(e[i], x[i]) for i in range(n))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    within = [cos(side[i], side[j]) for side in (e, x) for i, j in pairs]
    return literal_dali(e, x, "global") and all(least > value for value in within)


def literal_mexa(e: Vectors, x: Vectors) -> list[bool]:
    n = len(e)
    s = [[cos(e[i], x[j]) for j in range(n)] for i in range(n)]
    return [all(s[i][i] > s[i][j] and s[i][i] > s[j][i] for j in range(n) if j != i) for i in range(n)]


@st.composite
def sides(draw: st.DrawFn, most: int = 5) -> tuple[Vectors, Vectors]:
    """Two sides of n integer vectors of few distinct values: ties, duplicates and zero vectors come up often."""
    n, d = draw(st.integers(1, most)), draw(st.integers(1, 4))
    vector = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
    side = st.lists(vector, min_size=n, max_size=n)
    return np.array(draw(side), dtype=float), np.array(draw(side), dtype=float)


def first_equal(texts: Vectors) -> torch.Tensor:
    rows = [tuple(row) for row in texts]
    return torch.tensor([[rows.index(row) for row in rows]])


def blocks(e: Vectors, x: Vectors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[1 layer, 1 item, n, n] blocks in float64, where the loops' roundings are the vectorised code's too."""
    found = option_cosines(
        torch.tensor(e, dtype=torch.float32)[None, None],
        torch.tensor(x, dtype=torch.float32)[None, None],
        first_equal(e),
        first_equal(x),
    )
    return found["cross"], found["english"], found["language"]


def decided(margin: float) -> bool:
    """Whether float32 can tell the margin from a tie; exact ties are tested on their own."""
    return abs(margin) > 1e-6


@given(sides(), st.sampled_from(["global", "rowwise"]))
@settings(max_examples=400, deadline=None)
def test_dali_is_the_double_loop(pair: tuple[Vectors, Vectors], criterion: str) -> None:
    e, x = pair
    margin = dali(blocks(e, x)[0], criterion).item()
    if decided(margin):
        assert (margin > 0) == literal_dali(e, x, criterion)


@given(sides())
@settings(max_examples=400, deadline=None)
def test_dali_strong_is_the_double_loop(pair: tuple[Vectors, Vectors]) -> None:
    e, x = pair
    margin = dali_strong(*blocks(e, x)).item()
    if decided(margin):
        assert (margin > 0) == literal_dali_strong(e, x)


@given(sides(most=9), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_mexa_is_the_double_loop_however_it_streams(pair: tuple[Vectors, Vectors], size: int, shuffle: object) -> None:
    e, x = pair
    order = list(range(len(e)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    stream = PremiseStream(torch.tensor(e, dtype=torch.float32)[None], first_equal(e)[0], first_equal(x)[0])
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        stream.add(chosen, torch.tensor(x[chosen], dtype=torch.float32)[None])
    found = stream.finish()
    margins = mexa(found.own, found.row, found.column)[0].tolist()
    for margin, expected in zip(margins, literal_mexa(e, x), strict=True):
        if decided(margin):
            assert (margin > 0) == expected


def test_retrieval_finds_what_argmax_finds_in_both_directions_and_mexa_needs_both() -> None:
    generator = np.random.default_rng(3)
    e, x = generator.normal(size=(2, 12, 5))
    x = e + 1.5 * x  # some are found, others are not
    stream = PremiseStream(torch.tensor(e, dtype=torch.float32)[None], first_equal(e)[0], first_equal(x)[0])
    stream.add(list(range(12)), torch.tensor(x, dtype=torch.float32)[None])
    every = Similarities({}, {"weighted": stream.finish()})
    s = np.array([[cos(a, b) for b in x] for a in e])
    found = {d: (Retrieval(d).margin(every)[0] > 0).numpy() for d in ("xx-en", "en-xx")}
    assert (found["xx-en"] == (s.argmax(axis=0) == np.arange(12))).all()
    assert (found["en-xx"] == (s.argmax(axis=1) == np.arange(12))).all()
    assert (found["xx-en"] != found["en-xx"]).any()
    assert ((Mexa().margin(every)[0] > 0).numpy() == (found["xx-en"] & found["en-xx"])).all()
    assert Retrieval().by_chance(every).tolist() == [[pytest.approx(1 / 12)] * 12]
    with pytest.raises(InputError, match="direction=both does not exist; available: xx-en, en-xx"):
        Retrieval("both")


def test_most_random_cases_are_decided() -> None:
    """The properties above skip what float32 cannot decide; that must be the exception."""
    generator = np.random.default_rng(0)
    margins = [dali(blocks(*generator.integers(-2, 3, (2, 3, 4)).astype(float))[0]).item() for _ in range(300)]
    assert np.mean([decided(margin) for margin in margins]) > 0.8


def test_equal_options_are_an_exact_tie_at_any_scale() -> None:
    """Two equal English options: some c_ii equals some c_ij exactly, so nothing is aligned (strict >)."""
    generator = np.random.default_rng(1)
    for _ in range(100):
        e, x = generator.normal(size=(2, 4, 256)) * generator.uniform(0.01, 100)
        e[2] = e[0]
        x[2] = x[0]
        cross, english, language = blocks(e, x)
        assert dali(cross).item() <= 0
        assert dali_strong(cross, english, language).item() <= 0
    identical = generator.normal(size=(3, 64))
    identical[1] = identical[0]
    assert dali(blocks(identical, identical)[0]).item() == 0.0


def test_equal_premises_are_an_exact_tie() -> None:
    generator = np.random.default_rng(2)
    e = generator.normal(size=(6, 300))
    e[4] = e[1]
    stream = PremiseStream(torch.tensor(e, dtype=torch.float32)[None], first_equal(e)[0], first_equal(e)[0])
    for index in range(6):
        stream.add([index], torch.tensor(e[[index]], dtype=torch.float32)[None])
    found = stream.finish()
    margin = mexa(found.own, found.row, found.column)[0]
    assert (margin == 0).tolist() == [False, True, False, False, True, False]
    assert (margin > 0).tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("width", [128, 576, 640])
def test_equal_states_of_different_texts_are_an_exact_tie(width: int) -> None:
    """As in layer 0, where texts with the same last token have one state: products of some sizes round such ties."""
    generator = torch.Generator().manual_seed(0)
    for n in range(2, 80):
        e, x = (torch.randn(3, width, generator=generator) for _ in range(2))
        rows_e, rows_x = (torch.randint(0, 3, (n,), generator=generator) for _ in range(2))
        stream = PremiseStream(e[rows_e][None], torch.arange(n), torch.arange(n))
        stream.add(list(range(n)), x[rows_x][None])
        found = stream.finish()
        twin_e, twin_x = ((rows[:, None] == rows).sum(dim=1) > 1 for rows in (rows_e, rows_x))
        assert not (found.own > found.row)[0, twin_x].any(), n
        assert not (found.own > found.column)[0, twin_e].any(), n
        assert (found.rivals[0, twin_e | twin_x] > 0).all(), n


def test_a_single_option_and_a_single_premise_are_aligned() -> None:
    e = np.ones((1, 3))
    assert dali(blocks(e, -e)[0]).item() == math.inf
    stream = PremiseStream(torch.ones(1, 1, 3), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    stream.add([0], torch.ones(1, 1, 3))
    found = stream.finish()
    assert mexa(found.own, found.row, found.column).item() == math.inf


def test_zero_vectors_have_cosine_zero() -> None:
    assert cosines(torch.zeros(2, 3), torch.ones(1, 3)).tolist() == [[0.0], [0.0]]


@given(sides())
@settings(max_examples=200, deadline=None)
def test_laws(pair: tuple[Vectors, Vectors]) -> None:
    """Strong implies global implies rowwise; swapping the sides changes nothing of the global criterion."""
    e, x = pair
    cross, english, language = blocks(e, x)
    assert dali_strong(cross, english, language) <= dali(cross)
    assert dali(cross) <= dali(cross, "rowwise") + 1e-6
    assert dali(cross.transpose(-1, -2)) == dali(cross)


def test_vectorised_over_layers_and_items() -> None:
    cross = torch.randn(3, 5, 4, 4)
    whole = dali(cross)
    assert whole.shape == (3, 5)
    assert torch.equal(whole, torch.stack([torch.stack([dali(item) for item in layer]) for layer in cross]))


@pytest.mark.parametrize("metric", [Dali, DaliStrong, MexaT])
def test_unknown_pooling_is_refused(metric: type) -> None:
    with pytest.raises(InputError, match="pooling=mean does not exist; available: last, weighted"):
        metric(pooling="mean")


def test_unknown_criterion_is_refused() -> None:
    with pytest.raises(InputError, match="criterion=columnwise does not exist; available: global, rowwise"):
        Dali(criterion="columnwise")


def pairs_of_states(n: int, options: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, n, options, 8, generator=generator) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_partners_are_shuffles_without_a_fixed_point_that_never_agree(n: int) -> None:
    rows = partners(n)
    assert len(rows) == min(n - 1, MISMATCHES)
    for row in rows:
        assert sorted(row.tolist()) == list(range(n))
        assert (row != torch.arange(n)).all()
    assert all(len(set(column)) == len(rows) for column in rows.T.tolist())


def test_all_derangements_of_up_to_four_options_and_rotations_of_more() -> None:
    assert [len(derangements(n)) for n in range(1, 7)] == [0, 1, 2, 9, 4, 5]
    for n in range(1, 7):
        for order in derangements(n):
            assert sorted(order) == list(range(n))
            assert all(i != j for i, j in enumerate(order))


@given(sides(most=7))
@settings(max_examples=200, deadline=None)
def test_what_mexa_gives_among_fewer_and_after_shuffles_is_the_mean_over_all_of_them(
    pair: tuple[Vectors, Vectors],
) -> None:
    e, x = pair
    n = len(e)
    stream = PremiseStream(torch.tensor(e, dtype=torch.float32)[None], first_equal(e)[0], first_equal(x)[0])
    stream.add(list(range(n)), torch.tensor(x, dtype=torch.float32)[None])
    found = stream.finish()
    margins = mexa(found.own, found.row, found.column)[0]
    if not all(decided(float(m)) for m in margins):
        return
    assert ((found.rivals[0] == 0) == (margins > 0)).all()
    s = np.array([[cos(a, b) for b in x] for a in e])
    if len(np.unique(np.round(s, 5))) < s.size:
        return  # float32 breaks ties of unequal vectors by rounding
    every = Similarities({}, {"weighted": found})
    for size in range(1, n + 1):
        drawn = list(itertools.combinations(range(n), size))
        expected = [
            np.mean([literal_mexa(e[list(c)], x[list(c)])[c.index(i)] for c in drawn if i in c]) for i in range(n)
        ]
        assert Mexa().among(every, size)[0].tolist() == pytest.approx(expected)
    shuffles = [list(p) for p in itertools.permutations(range(n)) if all(i != j for i, j in enumerate(p))]
    if shuffles:
        share = np.mean([np.mean(literal_mexa(e, x[p])) for p in shuffles])
        assert float(Mexa().by_chance(every).mean()) == pytest.approx(share)


def test_chance_of_two_unrelated_options_is_one_in_six_and_of_four_one_in_1820() -> None:
    """Of exchangeable cosines the n own ones are the n highest of n x n once in C(n^2, n)."""
    for options, chance, n in ((2, 1 / 6, 3000), (4, 1 / 1820, 3000)):
        e, x = pairs_of_states(n, options)
        rows = partners(n)
        twins = torch.arange(options).repeat(n, 1)
        aligned = [(dali(cross_cosines(e[:, other], x, twins, twins)) > 0).float().mean().item() for other in rows]
        error = math.sqrt(chance / (n * len(rows)))
        assert abs(np.mean(aligned) - chance) < 5 * error


def test_similarities_beside_other_items_are_those_items_own() -> None:
    n, options = 6, 3
    e, x = pairs_of_states(n, options)
    twins = torch.arange(options).repeat(n, 1)
    rows = partners(n)
    mismatched = torch.stack([cross_cosines(e[:, other], x, twins, twins) for other in rows], dim=2)
    own = OptionCosines(**option_cosines(e, x, twins, twins), mismatched=mismatched)
    every = Similarities({"last": own}, {})
    for other, variant in zip(rows, every.mismatched(), strict=True):
        literal = [literal_dali_strong(e[0, j].numpy(), x[0, i].numpy()) for i, j in enumerate(other.tolist())]
        assert (DaliStrong().margin(variant)[0] > 0).tolist() == literal
    for order, variant in zip(derangements(options), every.deranged(), strict=True):
        literal = [literal_dali_strong(e[0, i].numpy(), x[0, i, order].numpy()) for i in range(n)]
        assert (DaliStrong().margin(variant)[0] > 0).tolist() == literal
