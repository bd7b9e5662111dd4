"""The oracles of pruning, checked against hand-written cases, brute force and PyTorch."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from helpers import from_torch, sample
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline.reference import pruning as ref
from ridgeline.reference.random import choice

INF, NAN = np.inf, np.nan
KEY = 42


def ints(kept):
    return kept.astype(int).tolist()


def rank(value, index):
    """What elements are sorted by, those to go first: value, then the later index."""
    return (INF if math.isnan(value) else value + 0.0, -index)


def brute(values, gone):
    order = sorted(range(len(values)), key=lambda i: rank(values[i], i))
    return [int(i not in order[:gone]) for i in range(len(values))]


# few values, so that there are ties
numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, INF, -INF, NAN, 1e-310])
finite = st.integers(-3, 3).map(float)
fractions = st.floats(0, 1)


def lists_of(elements, max_size=12):
    return st.lists(elements, max_size=max_size).map(lambda x: np.array(x, np.float64))


# --- by hand --------------------------------------------------------------------------------------


def test_by_hand():
    w = np.array([-3.0, 0.5, 2.0, -1.0])
    assert ints(ref.magnitude(w, 0.5)) == [1, 0, 1, 0]
    assert ints(ref.by_score(w, 0.5)) == [0, 1, 1, 0]
    assert ints(ref.magnitude(w, 0.0)) == [1] * 4
    assert ints(ref.magnitude(w, 1.0)) == [0] * 4
    assert ref.magnitude(w.reshape(2, 2), 0.5).tolist() == [[True, False], [True, False]]
    assert ref.magnitude(np.array(2.0), 0.5).tolist() is True
    assert ref.magnitude(np.zeros((0, 3)), 0.5).shape == (0, 3)


def test_ties_keep_the_lower_index():
    assert ints(ref.magnitude(np.ones(5), 0.6)) == [1, 1, 0, 0, 0]
    assert ints(ref.magnitude(np.array([0.0, -0.0, 0.0]), 1 / 3)) == [1, 1, 0]
    assert ints(ref.by_score(np.array([-0.0, 0.0]), 0.5)) == [1, 0]
    assert ints(ref.magnitude(np.array([NAN, -INF, INF, NAN]), 0.5)) == [1, 1, 0, 0]
    assert ints(ref.by_score(np.array([NAN, 1.0, -INF, INF]), 0.75)) == [1, 0, 0, 0]
    one, two = ref.magnitude([np.ones(3), np.ones(3)], 0.5, scope="global")
    assert (ints(one), ints(two)) == ([1, 1, 1], [0, 0, 0])


def test_counts_round_half_to_even():
    """As torch: 0.5 of 5 is 2, of 7 is 4."""
    for n, gone in [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4), (11, 6)]:
        assert np.sum(~ref.magnitude(np.arange(1.0, n + 1), 0.5)) == gone
    # each array by itself, or all at once
    arrays = [np.arange(3.0), np.arange(3.0), np.arange(3.0)]
    assert [int(np.sum(~m)) for m in ref.magnitude(arrays, 0.5)] == [2, 2, 2]
    assert sum(int(np.sum(~m)) for m in ref.magnitude(arrays, 0.5, scope="global")) == 4


def test_global_normalized():
    large, small = np.array([40.0, 30.0]), np.array([0.75, 1.0, 0.0, 0.0])

    def kept(gone, normalize):
        return [
            ints(k)
            for k in ref.magnitude([large, small], gone / 6, scope="global", normalize=normalize)
        ]

    assert kept(4, "none") == [[1, 1], [0, 0, 0, 0]]
    assert kept(3, "l2") == [[1, 1], [0, 1, 0, 0]]  # 0.8, 0.6 both: a tie
    assert kept(4, "l2") == [[1, 0], [0, 1, 0, 0]]
    assert kept(4, "rms") == [[0, 0], [1, 1, 0, 0]]  # 0.8, 0.6 times sqrt(2), or 2
    # a norm of 0 or inf divides nothing
    for odd in (np.zeros(2), np.array([INF, 1.0])):
        a, b = ref.magnitude([odd, np.array([3.0, 4.0])], 0.5, scope="global", normalize="l2")
        assert [ints(a), ints(b)] == ([[0, 0], [1, 1]] if odd[0] == 0 else [[1, 1], [0, 0]])


def test_exclude_and_budgets():
    arrays = [np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([3.0, 4.0])]
    kept = ref.magnitude(arrays, 0.5, scope="global", exclude=[1])
    assert [ints(k) for k in kept] == [[0, 0], [1, 1], [1, 1]]
    kept = ref.magnitude(arrays, [0.0, 0.5, 1.0])
    assert [ints(k) for k in kept] == [[1, 1], [0, 1], [0, 0]]
    assert ref.magnitude(arrays, 0.5, scope="global", exclude=range(3))[2].all()
    assert ref.magnitude([], 0.5) == []


def test_bounds_by_hand():
    arrays = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])]

    def kept(sparsity, **bounds):
        return [ints(k) for k in ref.magnitude(arrays, sparsity, scope="global", **bounds)]

    assert kept(0.5) == [[0] * 4, [1] * 4]
    assert kept(0.5, max_sparsity=0.75) == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert kept(0.5, min_sparsity=[0, 0.5]) == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert kept(0.5, max_sparsity=[0.25, 1.0]) == [[0, 1, 1, 1], [0, 0, 0, 1]]
    for bounds in ({"max_sparsity": 0.25}, {"min_sparsity": 0.75}):
        with pytest.raises(ValueError, match="sparsity"):
            kept(0.5, **bounds)


def test_mask_by_hand():
    w, mask = np.arange(1.0, 11.0), np.ones(10, bool)
    mask[[7, 8, 9]] = False
    assert ints(ref.magnitude(w, 0.5, mask=mask)) == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert ints(ref.magnitude(w, 0.2, mask=mask)) == ints(mask)
    # half of 7 is 4
    assert ints(ref.magnitude(w, 0.5, mask=mask, of="remaining")) == [0] * 4 + [1] * 3 + [0] * 3
    # what is gone ranks lowest of all
    assert ints(ref.by_score(np.array([-INF, NAN]), 0.5, mask=np.array([True, False]))) == [1, 0]


def test_n_of_m_by_hand():
    w = np.array([[1.0, -4.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    assert ints(ref.magnitude(w, structure=("nm", 2, 4, -1))) == [[0, 1, 1, 0], [1, 1, 0, 0]]
    assert ints(ref.magnitude(w, structure=("nm", 1, 2, 0))) == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert ints(ref.by_score(w, structure=("nm", 1, 4))) == [[0, 0, 1, 0], [1, 0, 0, 0]]
    # a last group of 1 keeps 1, of 3 keeps 2
    assert ints(ref.magnitude(np.arange(5.0), structure=("nm", 2, 4))) == [0, 0, 1, 1, 1]
    assert ints(ref.magnitude(np.arange(7.0), structure=("nm", 2, 4))) == [0, 0, 1, 1, 0, 1, 1]
    assert ints(ref.magnitude(np.array([NAN, 1.0, INF, 2.0]), structure=("nm", 2, 4))) == [
        1,
        0,
        1,
        0,
    ]
    assert ints(ref.by_score(np.full(3, -INF), structure=("nm", 2, 4))) == [1, 1, 0]
    mask = np.array([False, True, True, False])
    assert ints(ref.magnitude(np.ones(4), structure=("nm", 1, 4), mask=mask)) == [0, 1, 0, 0]
    assert ints(ref.magnitude(np.ones(4), structure=("nm", 3, 4), mask=mask)) == [0, 1, 1, 0]
    assert ref.magnitude(np.zeros((3, 0)), structure=("nm", 2, 4)).shape == (3, 0)
    assert ref.magnitude(np.zeros((0, 8)), structure=("nm", 2, 4)).shape == (0, 8)
    # kept of every group: n, whatever the axis
    x = sample((8, 6, 12), np.float32)
    for axis, (n, m) in itertools.product(range(-3, 3), [(2, 4), (1, 2), (3, 4), (0, 2), (2, 2)]):
        kept = np.moveaxis(ref.magnitude(x, structure=("nm", n, m, axis)), axis, -1)
        if kept.shape[-1] % m == 0:
            assert np.all(kept.reshape(-1, m).sum(axis=-1) == n)


def test_blocks_by_hand():
    w = np.array([[3.0, 0, 1, 1], [0, 4, 1, 1], [2, 2, 0, 0]])
    number, count = ref.units(w.shape, ("block", (2, 2), 2))
    assert number.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]
    norms = {
        1: [7, 4, 4, 0],
        2: [5, 2, 8**0.5, 0],
        INF: [4, 1, 2, 0],
        3: [91 ** (1 / 3), 4 ** (1 / 3), 16 ** (1 / 3), 0],
    }
    for ord, wanted in norms.items():
        assert ref.unit_norms(w, number, count, ord) == pytest.approx(wanted)

    def gone(sparsity, ord):
        kept = ref.magnitude(w, sparsity, structure=("block", (2, 2), ord))
        return sorted(set(number[~kept].tolist()))

    assert gone(0.5, 2) == [1, 3]
    assert gone(0.5, 1) == [2, 3]  # a tie: the lower block is kept
    # a shorter block, on the last axes; the others have extent 1
    assert ref.units((2, 3, 5), ("block", (2, 2), 2))[1] == 2 * 2 * 3
    assert ref.units((2, 3), ("block", (9, 9), 2))[0].tolist() == [[0] * 3] * 2
    kept = ref.magnitude(np.array([[1.0, 2, 9, 0]]), 0.5, structure=("block", (2,), 1))
    assert ints(kept) == [[0, 0, 1, 1]]
    assert ref.magnitude(np.zeros((0, 4)), 0.5, structure=("block", (2, 2), 2)).shape == (0, 4)


def test_channels_by_hand():
    w = np.array([[3.0, -4.0], [0.0, 6.0], [5.0, 1.0]])
    tied = ref.magnitude(w, 1 / 3, structure=("channels", 0, 1))
    assert ints(tied) == [[1, 1], [1, 1], [0, 0]]
    assert ints(ref.magnitude(w, 2 / 3, structure=("channels", 0, INF))) == [[0, 0], [1, 1], [0, 0]]
    assert ints(ref.magnitude(w, 0.5, structure=("channels", -1, 1))) == [[0, 1]] * 3
    assert ints(
        ref.magnitude(np.array([[NAN, 0.0], [9, 9]]), 0.5, structure=("channels", 0, 2))
    ) == [
        [1, 1],
        [0, 0],
    ]


def test_norms_do_not_overflow():
    x, number = np.array([3e200, 4e200, 3e-200, 4e-200, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    for ord, scale in [(1, 7.0), (2, 5.0), (4, 337**0.25)]:
        wanted = np.array([1e200, 1e-200, 0]) * scale
        assert ref.unit_norms(x, number, 3, ord) == pytest.approx(wanted, rel=1e-15)
    odd = ref.unit_norms(np.array([INF, NAN, INF, 1.0]), np.array([0, 0, 1, 1]), 2)
    assert math.isnan(odd[0])
    assert odd[1] == INF


def test_masks_and_units():
    """What the mask prunes is 0 in a norm, and a unit of which nothing is left counts as gone."""
    w = np.array([[9.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    mask = np.ones((4, 2), bool)
    mask[0, 0] = False
    structure = ("channels", 0, 2)
    kept = ref.magnitude(w, 0.25, structure=structure, mask=mask)
    assert ints(kept) == [[0, 0], [1, 1], [1, 1], [1, 1]]
    mask[3] = False
    kept = ref.magnitude(w, 0.25, structure=structure, mask=mask)
    assert ints(kept) == ints(mask)
    kept = ref.magnitude(w, 0.5, structure=structure, mask=mask)
    assert ints(kept) == [[0, 0], [1, 1], [1, 1], [0, 0]]
    kept = ref.magnitude(w, 1 / 3, structure=structure, mask=mask, of="remaining")
    assert ints(kept) == [[0, 0], [1, 1], [1, 1], [0, 0]]


def test_rows_by_hand():
    s = np.array([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    assert ints(ref.by_score(s, 0.5, per_row=True)) == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert ref.by_score(np.zeros((0, 4)), 0.5, per_row=True).shape == (0, 4)
    kept = ref.by_score([s, s], [0.25, 0.5], per_row=True, exclude=[1])
    assert [ints(k) for k in kept] == [[[0, 1, 1, 1], [1, 1, 1, 0]], [[1] * 4] * 2]


# --- brute force ----------------------------------------------------------------------------------


@given(lists_of(numbers), fractions)
def test_one_array(x, sparsity):
    gone = round(sparsity * x.size)
    assert ints(ref.by_score(x, sparsity)) == brute(x.tolist(), gone)
    assert ints(ref.magnitude(x, sparsity)) == brute(np.abs(x).tolist(), gone)


@given(st.lists(lists_of(numbers, 6), max_size=4), fractions)
def test_several_arrays_together(arrays, sparsity):
    flat = [v for x in arrays for v in x.tolist()]
    kept = ref.by_score(arrays, sparsity, scope="global")
    assert [v for k in kept for v in ints(k)] == brute(flat, round(sparsity * len(flat)))
    assert [k.shape for k in kept] == [x.shape for x in arrays]


@given(lists_of(numbers), fractions, st.sampled_from(["all", "remaining"]), st.data())
def test_incremental(x, sparsity, of, data):
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=x.size, max_size=x.size)), bool)
    kept = ref.by_score(x, sparsity, mask=mask, of=of)
    left = int(mask.sum())
    more = (
        round(sparsity * left)
        if of == "remaining"
        else max(0, round(sparsity * x.size) - (x.size - left))
    )
    expected = np.zeros(x.size, int)
    expected[mask] = brute(x[mask].tolist(), more)
    assert ints(kept) == expected.tolist()


@settings(max_examples=300, deadline=None)
@given(st.lists(lists_of(finite, 4), min_size=1, max_size=3), fractions, st.data())
def test_bounds(arrays, sparsity, data):
    """Of all subsets within the bounds, the one that removes the lowest ranks; and water filling:
    arrays beyond a bound are fixed there, the others ranked together again."""
    n = len(arrays)
    ends = [sorted(data.draw(st.tuples(fractions, fractions))) for _ in range(n)]
    low = [round(a * x.size) for (a, _), x in zip(ends, arrays, strict=True)]
    high = [round(b * x.size) for (_, b), x in zip(ends, arrays, strict=True)]
    gone = round(sparsity * sum(x.size for x in arrays))
    bounds = {"min_sparsity": [a for a, _ in ends], "max_sparsity": [b for _, b in ends]}
    if not sum(low) <= gone <= sum(high):
        with pytest.raises(ValueError, match="sparsity"):
            ref.by_score(arrays, sparsity, scope="global", **bounds)
        return
    kept = ref.by_score(arrays, sparsity, scope="global", **bounds)

    flat = [(v, k, i) for k, x in enumerate(arrays) for i, v in enumerate(x.tolist())]
    order = sorted(range(len(flat)), key=lambda p: rank(flat[p][0], p))
    place = {p: r for r, p in enumerate(order)}
    owner = [k for _, k, _ in flat]

    def within(subset):
        counts = [sum(owner[p] == k for p in subset) for k in range(n)]
        return all(a <= c <= b for a, c, b in zip(low, counts, high, strict=True))

    best = min(
        filter(within, itertools.combinations(range(len(flat)), gone)),
        key=lambda subset: sum(place[p] for p in subset),
    )
    expected = [int(p not in best) for p in range(len(flat))]
    assert [v for k in kept for v in ints(k)] == expected
    assert [int(np.sum(~k)) for k in kept] == water_filling(owner, order, gone, low, high)


def water_filling(owner, order, gone, low, high):
    fixed = {}
    while True:
        free = [p for p in order if owner[p] not in fixed]
        some = free[: gone - sum(fixed.values())]
        counts = {k: sum(owner[p] == k for p in some) for k in range(len(low)) if k not in fixed}
        short = {k: low[k] - c for k, c in counts.items() if c < low[k]}
        over = {k: c - high[k] for k, c in counts.items() if c > high[k]}
        if not short and not over:
            return [(fixed | counts)[k] for k in range(len(low))]
        # the side that is further out is certain to be bound
        if sum(over.values()) >= sum(short.values()):
            fixed |= {k: high[k] for k in over}
        if sum(short.values()) >= sum(over.values()):
            fixed |= {k: low[k] for k in short}


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 20), st.sampled_from([0, 1]), st.data())
def test_n_of_m(m, n, extent, axis, data):
    n = min(n, m)
    rows = data.draw(
        st.lists(st.lists(numbers, min_size=extent, max_size=extent), min_size=3, max_size=3)
    )
    x = np.array(rows, np.float64).reshape(3, extent)
    kept = ref.by_score(x.T if axis == 0 else x, structure=("nm", n, m, axis))
    kept = kept.T if axis == 0 else kept
    for row, got in zip(x.tolist(), ints(kept), strict=True):
        wanted = []
        for start in range(0, extent, m):
            group = row[start : start + m]
            wanted += brute(group, len(group) - min(n, len(group)))
        assert got == wanted


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([1, 2, INF]),
    fractions,
    st.integers(0, 99),
)
def test_blocks(shape, block, ord, sparsity, seed):
    w = np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)
    blocks = [
        w[i : i + block[0], j : j + block[1]]
        for i in range(0, shape[0], block[0])
        for j in range(0, shape[1], block[1])
    ]
    norms = [float(np.linalg.norm(b.ravel(), ord)) for b in blocks]
    kept = iter(brute(norms, round(sparsity * len(blocks))))
    expected = np.zeros(shape, bool)
    for i in range(0, shape[0], block[0]):
        for j in range(0, shape[1], block[1]):
            expected[i : i + block[0], j : j + block[1]] = next(kept)
    assert np.array_equal(ref.magnitude(w, sparsity, structure=("block", block, ord)), expected)


@given(st.integers(0, 2), st.sampled_from([1, 2, INF]), fractions, st.integers(0, 99))
def test_channels(axis, ord, sparsity, seed):
    w = np.random.default_rng(seed).integers(-3, 4, (4, 3, 5)).astype(np.float64)
    slices = np.moveaxis(w, axis, 0)
    norms = [float(np.linalg.norm(s.ravel(), ord)) for s in slices]
    expected = np.array(brute(norms, round(sparsity * len(slices))), bool)
    kept = np.moveaxis(ref.magnitude(w, sparsity, structure=("channels", axis, ord)), axis, 0)
    assert np.array_equal(kept, np.broadcast_to(expected[:, None, None], slices.shape))


# --- what must hold -------------------------------------------------------------------------------

STRUCTURES = [None, ("block", (2, 3), 2), ("channels", 0, 1), ("nm", 1, 3, -1)]


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@given(seed=st.integers(0, 99), first=fractions, second=fractions)
def test_more_is_a_subset(structure, seed, first, second):
    low, high = sorted((first, second))
    w = np.random.default_rng(seed).integers(-9, 10, (5, 7)).astype(np.float64)
    less, more = (ref.magnitude(w, s, structure=structure) for s in (low, high))
    assert not np.any(more & ~less)
    again = ref.magnitude(w, high, structure=structure, mask=less)
    assert np.array_equal(again, more)
    assert np.array_equal(ref.magnitude(w * less, high, structure=structure, mask=less), more)


@given(st.integers(0, 99), fractions, st.sampled_from(["l2", "rms"]), st.floats(1e-3, 1e3))
def test_normalized_does_not_depend_on_scale(seed, sparsity, normalize, factor):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(9), rng.standard_normal((3, 4))]
    how = {"scope": "global", "normalize": normalize}
    scaled = [arrays[0] * 2.0 ** round(math.log2(factor)), arrays[1]]
    one, two = (ref.magnitude(a, sparsity, **how) for a in (arrays, scaled))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_arrays_are_only_read():
    w, mask = np.array([1.0, 2.0]), np.array([True, False])
    kept = ref.magnitude(w, 0.0, mask=mask)
    kept[...] = True
    assert w.tolist() == [1.0, 2.0]
    assert mask.tolist() == [True, False]


# --- random ---------------------------------------------------------------------------------------


def test_choice_words_are_those_of_dropout():
    for start in (0, 1000, 2**34 - 3, 2**60):
        i = np.arange(start, start + 5000, dtype=np.uint64)
        word = ref.choice_words(KEY, i).astype(np.uint64)
        for p in (0.0, 2.0**-9, 0.1, 0.5, 0.731, 1 - 2.0**-32, 1.0):
            assert np.array_equal(word < int(p * 2**32), choice(p, KEY, i))


@given(st.integers(0, 300), fractions, st.integers(0, 2**64 - 1))
def test_random_is_exact(n, sparsity, key):
    kept = ref.random(np.zeros(n), sparsity, key)
    assert int(np.sum(~kept)) == round(sparsity * n)
    if n:
        score = ref.choice_words(key, np.arange(n))
        assert score[~kept].max(initial=0) <= score[kept].min(initial=2**32 - 1)


def test_random_runs_over_the_list():
    arrays = [np.zeros((3, 5)), np.zeros(7), np.zeros((2, 2))]
    whole = ref.random(np.zeros(26), 0.5, KEY)
    together = ref.random(arrays, 0.5, KEY, scope="global")
    assert np.array_equal(np.concatenate([k.ravel() for k in together]), whole)
    apart = ref.random(arrays, 0.5, KEY)
    words = ref.choice_words(KEY, np.arange(26))
    for kept, some in zip(apart, (words[:15], words[15:22], words[22:]), strict=True):
        assert np.array_equal(kept.ravel(), ref.by_score(some, 0.5))
    without = ref.random(arrays, 0.5, KEY, scope="global", exclude=[1])
    others = ref.random(arrays[::2], 0.5, KEY, scope="global")
    assert without[1].all()
    assert all(np.array_equal(a, b) for a, b in zip(without[::2], others, strict=True))
    blocks = ref.random([np.zeros((4, 4))] * 2, 0.5, KEY, structure=("block", (2, 2), 2))
    for kept, first in zip(blocks, (0, 4), strict=True):
        some = ref.choice_words(KEY, first + np.arange(4)).reshape(2, 2)
        assert np.array_equal(kept[::2, ::2], ref.by_score(some, 0.5))


def test_random_structures():
    kept = ref.random(np.zeros((8, 4)), 0.5, KEY, structure=("channels", 0, 2))
    assert np.array_equal(kept.any(axis=1), kept.all(axis=1))
    assert np.array_equal(kept[:, 0], ref.random(np.zeros(8), 0.5, KEY))
    kept = ref.random(np.zeros((4, 8)), 0.5, KEY, structure=("nm", 2, 4))
    assert np.all(kept.reshape(-1, 4).sum(axis=1) == 2)


def test_random_is_uniform():
    """Each of 6 pairs out of 4 goes about as often: chi-squared of 5 degrees, once in a million."""
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for key in range(6000):
        counts[tuple(np.flatnonzero(~ref.random(np.zeros(4), 0.5, key)).tolist())] += 1
    assert sum((c - 1000) ** 2 / 1000 for c in counts.values()) < 35.9


# --- PyTorch --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch_prune():
    pytest.importorskip("torch")
    return pytest.importorskip("torch.nn.utils.prune")


def linear(torch, w):
    layer = torch.nn.Linear(*w.shape[::-1], bias=False)
    layer.weight.data = torch.from_numpy(w.copy())
    return layer


AMOUNTS = [0.0, 0.1, 0.25, 0.5, 0.77, 1.0]


def weights(shape, seed):
    """Random weights without ties."""
    w = sample(shape, np.float32, seed)
    w[w == 0] = np.random.default_rng(seed).uniform(3, 4, int(np.sum(w == 0)))
    assert np.unique(np.abs(w)).size == w.size
    return w


@pytest.mark.parametrize("amount", AMOUNTS)
def test_torch_l1_unstructured(torch_prune, amount):
    import torch

    for shape in [(7, 5), (9, 4), (1, 1), (3, 7)]:
        w = weights(shape, 1)
        layer = linear(torch, w)
        torch_prune.l1_unstructured(layer, "weight", amount)
        assert np.array_equal(from_torch(layer.weight_mask) != 0, ref.magnitude(w, amount))
        # again: of what is left
        torch_prune.l1_unstructured(layer, "weight", 0.5)
        first = ref.magnitude(w, amount)
        again = ref.magnitude(w, 0.5, mask=first, of="remaining")
        assert np.array_equal(from_torch(layer.weight_mask) != 0, again)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_torch_random_counts(torch_prune, amount):
    import torch

    for shape in [(7, 5), (9, 4), (1, 1), (3, 7)]:
        layer = linear(torch, weights(shape, 1))
        torch_prune.random_unstructured(layer, "weight", amount)
        kept = ref.random(np.zeros(shape), amount, KEY)
        assert int(from_torch(layer.weight_mask).sum()) == int(kept.sum())


@pytest.mark.parametrize("ord", [1, 2, 3, INF])
@pytest.mark.parametrize("axis", [0, 1])
def test_torch_ln_structured(torch_prune, axis, ord):
    import torch

    for amount in AMOUNTS:
        w = weights((9, 6), 2)
        layer = linear(torch, w)
        torch_prune.ln_structured(layer, "weight", amount, n=float(ord), dim=axis)
        kept = ref.magnitude(w, amount, structure=("channels", axis, ord))
        assert np.array_equal(from_torch(layer.weight_mask) != 0, kept)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_torch_global(torch_prune, amount):
    import torch

    arrays = [weights((40,), 3)[a:b].reshape(-1, 2) for a, b in [(0, 18), (18, 20), (20, 40)]]
    layers = [linear(torch, w) for w in arrays]
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        pruning_method=torch_prune.L1Unstructured,
        amount=amount,
    )
    for layer, kept in zip(layers, ref.magnitude(arrays, amount, scope="global"), strict=True):
        assert np.array_equal(from_torch(layer.weight_mask) != 0, kept)


# --- scores, budgets, schedules -------------------------------------------------------------------


def test_scores_by_hand():
    w, g = np.array([2.0, -1.0, 0.0], np.float32), np.array([-0.5, 3.0, 7.0], np.float32)
    assert ref.taylor(w, g).tolist() == [1.0, 3.0, 0.0]
    assert ref.taylor(w, g, squared=True).tolist() == [1.0, 9.0, 0.0]
    assert ref.snip(w, g).tolist() == [1.0, 3.0, 0.0]
    assert [s.tolist() for s in ref.snip([w, w], [g, 0 * g], normalize=True)] == [
        [0.25, 0.75, 0.0],
        [0.0] * 3,
    ]
    assert ref.snip(w, 0 * g, normalize=True).tolist() == [0.0] * 3
    assert ref.gradient(g).tolist() == [0.5, 3.0, 7.0]
    total = np.zeros(3, np.float32)
    ref.movement_(total, w, g, 0.5)
    assert total.tolist() == [0.5, 1.5, 0.0]
    assert ref.wanda(np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([10.0, 1.0])).tolist() == [
        [10.0, 2.0],
        [30.0, 4.0],
    ]
    for score in (ref.taylor(w, g), ref.snip(w, g), ref.gradient(g), ref.lamp(w)):
        assert score.dtype == np.float32


def test_lamp_by_hand():
    assert ref.lamp(np.array([[2.0, -1.0], [0.0, 2.0]])) == pytest.approx(
        np.array([[1, 1 / 9], [0, 4 / 8]])
    )
    assert ref.lamp(np.zeros(3)).tolist() == [0.0] * 3
    assert ref.lamp(np.zeros((0, 2))).shape == (0, 2)
    assert ref.lamp(np.array([3.0])).tolist() == [1.0]
    assert ref.lamp(np.array([3e200, 4e200])) == pytest.approx([9 / 25, 1])
    assert ref.lamp(np.array([3e-200, 4e-200])) == pytest.approx([9 / 25, 1])
    assert ref.lamp(np.array([1.0, 2.0], ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


@given(st.integers(0, 99), st.integers(1, 20))
def test_lamp_is_its_definition(seed, n):
    w = np.random.default_rng(seed).standard_normal(n)
    score = ref.lamp(w)
    for u in range(n):
        assert score[u] == pytest.approx(w[u] ** 2 / np.sum(w[np.abs(w) >= abs(w[u])] ** 2))
    assert np.argsort(score).tolist() == np.argsort(np.abs(w)).tolist()
    assert score.max() == 1.0


def test_erk_by_hand():
    """Evci et al. 2020 for 784-300-100-10: density eps (in + out) / (in out); the last is dense."""
    shapes = [(784, 300), (300, 100), (100, 10)]
    wanted = 0.1 * (235_200 + 30_000 + 1000)
    assert wanted / (1084 + 400 + 110) * 110 / 1000 > 1
    epsilon = (wanted - 1000) / (1084 + 400)
    expected = [1 - epsilon * 1084 / 235_200, 1 - epsilon * 400 / 30_000, 0.0]
    assert ref.erk(shapes, 0.9) == pytest.approx(expected)
    assert ref.erk(shapes, 0.9, exclude=[2])[:2] == pytest.approx(ref.erk(shapes[:2], 0.9))
    # kernels: (3 + 3 + 16 + 32) / (3 3 16 32), against a matrix
    a, b = ref.erk([(3, 3, 16, 32), (64, 64)], 0.5)
    assert (1 - a) / (1 - b) == pytest.approx((54 / 4608) / (128 / 4096))


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4).map(tuple), min_size=1), fractions
)
def test_erk_has_its_total(shapes, sparsity):
    """By bisection: the eps for which the densities min(1, eps ratio) have the total."""
    sizes = np.array([math.prod(s) for s in shapes], np.float64)
    ratio = np.array([sum(s) for s in shapes]) / sizes
    low, high = 0.0, 1 / ratio.min()
    for _ in range(200):
        middle = (low + high) / 2
        short = np.sum(np.minimum(1, middle * ratio) * sizes) < (1 - sparsity) * sizes.sum()
        low, high = (middle, high) if short else (low, middle)
    expected = 1 - np.minimum(1, high * ratio)
    assert ref.erk(shapes, sparsity) == pytest.approx(expected, abs=1e-9)


def test_cubic_by_hand():
    assert [ref.cubic(t, 1.0, 0, 4) for t in range(6)] == [0, 37 / 64, 56 / 64, 63 / 64, 1, 1]
    assert [ref.cubic(t, 0.5, 2, 6, 2, 0.25) for t in range(7)] == [
        *[0.25] * 4,
        *[0.5 - 0.25 / 8] * 2,
        0.5,
    ]


def test_calls_without_options_make_no_plan(monkeypatch):
    from ridgeline.prune import _select

    def no_plan(*_):
        raise AssertionError

    monkeypatch.setattr(_select, "Plan", no_plan)
    w = np.array([1.0, 3.0, 2.0, 4.0])
    for call in (rl.prune.magnitude, rl.prune.by_score):
        assert call(w, 0.5).to_array().tolist() == [False, True, False, True]
        assert call([w, -w], 0.5, scope="global").size == 8
        with pytest.raises(AssertionError):
            call(w, 0.5, of="remaining")


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_calls_without_options(scope, sparsity):
    """They are one call of the core: the same masks as by the plan of a call with options."""
    draw = np.random.default_rng(8)
    params = [draw.normal(size=n).astype(np.float32).round(1) for n in (2, 6, 0, 257, 70)]
    no_bounds = {"max_sparsity": np.float64(1), "scope": scope}
    tied = [*params, params[3]]
    if scope == "tensor":
        no_bounds = {"exclude": (), "scope": scope}
    for tree in (params, tied, {"a": params[0], "b": params[1:]}, tuple(params)):
        for call in (rl.prune.magnitude, rl.prune.by_score):
            assert call(tree, sparsity, scope=scope) == call(tree, sparsity, **no_bounds)
    for array in params:
        plain = rl.prune.magnitude(array, sparsity, scope=scope)
        assert plain == rl.prune.magnitude(array, sparsity, **no_bounds)
        assert plain.count == array.size - round(sparsity * array.size)
        assert not plain._words.flags.writeable
