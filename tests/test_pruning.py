"""Pruning: the oracle bit for bit, exact counts, ties, structures, and what other libraries do."""

from __future__ import annotations

import collections
import math
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    LAYOUTS,
    THREADS,
    WRONG_ARRAYS,
    bits,
    dtypes,
    from_torch,
    layouts,
    placements,
    sample,
    target,
    to_torch,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clipping import Ranks

import ridgeline as rl
from ridgeline import prune
from ridgeline.reference import pruning as ref
from ridgeline.reference.random import uniform

KEY = rl.Key(42)
INF, NAN = np.inf, np.nan
SAMPLED = 32768  # the threshold of larger arrays is looked for in a sample of so many elements
AROUND = [SAMPLED - 1, SAMPLED, SAMPLED + 1]
SHARED = 2**17 + 5  # enough elements to be shared out


def masks_equal(got, expected):
    """Check every bit of a Mask or MaskSet against arrays of bool in the same containers."""
    if isinstance(expected, np.ndarray | np.generic):
        assert isinstance(got, rl.Mask)
        array = got.to_array()
        assert array.dtype == np.bool_
        assert array.shape == expected.shape
        wrong = np.flatnonzero(array != expected)
        assert not wrong.size, f"{wrong.size} of {array.size} wrong, first {wrong[:5]}"
        assert got.count == np.count_nonzero(expected)  # so that no bit lies beyond the end
        return
    assert isinstance(got, rl.MaskSet)
    assert len(got) == len(expected)
    for key in expected if isinstance(expected, dict) else range(len(expected)):
        masks_equal(got[key], expected[key])


def everywhere(call, expected, threads=THREADS):
    """Check the masks of a call on every target and for every number of threads."""
    for name in rl.runtime.targets():
        for n in threads:
            with target(name), rl.threads(n):
                try:
                    masks_equal(call(), expected)
                except AssertionError as error:
                    raise AssertionError(f"target {name}, {n} threads: {error}") from None


def magnitude_kept(order, k):
    kept = np.ones(order.size, np.bool_)
    kept[order[:k]] = False
    return kept


def order_of(x, magnitude=True, alive=True):
    flat = x.astype(np.float64).ravel()
    return ref.order_of_going(np.abs(flat) if magnitude else flat, alive)


def packed(kept):
    """Masks of arrays of bool."""
    if kept is None:
        return None
    if isinstance(kept, np.ndarray):
        return rl.Mask.from_array(kept)
    return rl.MaskSet.from_array(kept)


def ours(structure):
    """The structure that the oracle calls by a tuple."""
    if structure is None:
        return None
    kind, *rest = structure
    if kind == "nm":
        return prune.NM(*rest)
    if kind == "block":
        return prune.Block(rest[0], ord=rest[1])
    return prune.Channels(*rest)


def agree(name, x, s, *more, expected_of=None, setting=None, **keywords):
    """Check a function against its oracle; structures and masks are those of the oracle."""
    given_mask, structure = keywords.pop("mask", None), keywords.pop("structure", None)
    plain = x if expected_of is None else expected_of
    seeds = [42] if more else []
    expected = getattr(ref, name)(
        plain, s, *seeds, mask=given_mask, structure=structure, **keywords
    )

    def call():
        return getattr(prune, name)(
            x, s, *more, mask=packed(given_mask), structure=ours(structure), **keywords
        )

    with unchanged(plain):
        if setting is None:
            masks_equal(call(), expected)
        else:
            everywhere(call, expected, setting)
    return expected


# ---- what is pruned: data of every kind


def last_bits(n, dtype, rng):
    """Numbers that follow each other without a gap, shuffled: each comes at most a few times."""
    whole = np.dtype(f"u{dtype.itemsize}")
    first = np.ones((), dtype).view(whole)
    return (
        (first + rng.permutation(n) % (1000 if dtype.itemsize == 2 else n))
        .astype(whole)
        .view(dtype)
    )


def special(n, dtype, rng):
    x = rng.standard_normal(n)
    for value in (NAN, -NAN, INF, -INF, 0.0, -0.0):
        x[rng.random(n) < 0.04] = value
    return x.astype(dtype)


DATA = {
    "normal": lambda n, dtype, rng: rng.standard_normal(n).astype(dtype),
    "sorted": lambda n, dtype, rng: np.sort(rng.standard_normal(n)).astype(dtype),
    "sorted by magnitude": lambda n, dtype, rng: np.linspace(0, 1, n).astype(dtype),
    "reversed": lambda n, dtype, rng: np.linspace(1, 0, n).astype(dtype),
    "constant": lambda n, dtype, rng: np.full(n, -1.5, dtype),
    "all zero": lambda n, dtype, rng: np.zeros(n, dtype),
    "zeros of both signs": lambda n, dtype, rng: np.copysign(0.0, rng.standard_normal(n)).astype(
        dtype
    ),
    "two values": lambda n, dtype, rng: rng.choice([-1.0, 2.0], n).astype(dtype),
    "half zeros": lambda n, dtype, rng: (rng.standard_normal(n) * (rng.random(n) < 0.5)).astype(
        dtype
    ),
    "zeros first": lambda n, dtype, rng: (rng.standard_normal(n) * (np.arange(n) > n // 2)).astype(
        dtype
    ),
    "denormals": lambda n, dtype, rng: np.asarray(
        rng.integers(-100, 100, n).astype(dtype)
        * np.asarray(ml_dtypes.finfo(dtype).smallest_subnormal)
    ).astype(dtype),
    "all NaN": lambda n, dtype, rng: np.full(n, NAN, dtype),
    "special": special,
    "last bits": last_bits,
    "both ends of the range": lambda n, dtype, rng: np.asarray(
        rng.choice([-1.0, 1.0, 0.5], n).astype(dtype) * np.asarray(ml_dtypes.finfo(dtype).max)
    ).astype(dtype),
}
data = pytest.mark.parametrize("data", DATA)


@dtypes
def test_every_count_of_every_small_size(dtype):
    for n in [*range(301), *AROUND]:
        rng = np.random.default_rng(n)
        x = (rng.integers(-n // 2 - 1, n // 2 + 2, n) / 8).astype(dtype)  # with ties
        order = order_of(x)
        every = range(n + 1) if n < 40 else {0, 1, n // 2, round(0.9 * n), n - 1, n}
        for k in every:
            mask = prune.magnitude(x, k / n if n else 0.5)
            masks_equal(mask, magnitude_kept(order, k))
            assert mask.size - mask.count == k


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_small_array(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    n = data.draw(st.integers(0, 200))
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, NAN, INF, -INF, 1e-7, 3e-7])
    values = few if data.draw(st.booleans()) else st.floats(width=16)
    x = np.array(data.draw(st.lists(values, min_size=n, max_size=n)), np.float64).astype(dtype)
    s = data.draw(st.floats(0, 1))
    alive = data.draw(
        st.none() | st.lists(st.booleans(), min_size=n, max_size=n).map(lambda b: np.array(b, bool))
    )
    name = data.draw(st.sampled_from(["magnitude", "by_score"]))
    of = data.draw(st.sampled_from(["all", "remaining"]))
    kept = agree(name, x, s, mask=alive, of=of)
    if alive is None:
        assert n - kept.sum() == round(s * n)


def test_counts_are_rounded_half_to_even():
    x = np.arange(10.0)
    for s, gone in [(0.05, 0), (0.15, 2), (0.25, 2), (0.35, 4), (0.45, 4), (1.0, 10), (0.0, 0)]:
        assert x.size - prune.magnitude(x, s).count == gone
    for s in (np.float32(0.5), np.float64(0.5), np.array(0.5), 1, 0):
        assert x.size - prune.magnitude(x, s).count == round(float(s) * 10)


@dtypes
@data
def test_data_of_every_kind(data, dtype):
    for n in (SAMPLED, SHARED):
        x = DATA[data](n, dtype, np.random.default_rng(n))
        order = order_of(x)
        for k in (n // 2, round(0.93 * n), 7):
            threads = THREADS if n == SHARED and k == n // 2 else [3]
            with unchanged(x):
                everywhere(
                    lambda x=x, s=k / n: prune.magnitude(x, s), magnitude_kept(order, k), threads
                )


@dtypes
@pytest.mark.parametrize("data", ["normal", "special", "half zeros", "sorted", "last bits"])
def test_scores_with_a_sign(data, dtype):
    for n in (*AROUND, SHARED):
        x = DATA[data](n, dtype, np.random.default_rng(n))
        order = order_of(x, magnitude=False)
        for k in (n // 2, n // 11, n - 1):
            everywhere(
                lambda x=x, s=k / n: prune.by_score(x, s), magnitude_kept(order, k), threads=[1, 3]
            )


@pytest.mark.parametrize(
    "n", [*AROUND, 2 * SAMPLED - 1, 2 * SAMPLED, 2**17 - 1, 2**17 + 1, 300_007]
)
def test_sizes_where_the_search_changes(n):
    x = sample(n, np.float32, n)
    order = order_of(x)
    for k in {0, 1, 2, n // 1000, n // 3, n - 2, n - 1, n}:
        mask = prune.magnitude(x, k / n)
        assert n - mask.count == k
        everywhere(lambda s=k / n: prune.magnitude(x, s), magnitude_kept(order, k), [1, 2, 7])


# ---- samples that mislead


def sampled_places(n):
    """Where the search takes its sample (place_of of cpp/src/ops/selection.cpp)."""
    i = np.arange(SAMPLED, dtype=np.uint64)
    many, n = np.uint64(SAMPLED), np.uint64(n)
    begin = n // many * i + n % many * i // many
    mixed = (i + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(31)) * np.uint64(0xBF58476D1CE4E5B9)
    return begin + (mixed >> np.uint64(33)) % (n // many)


def steps(n, dtype, low, high):
    """n numbers from low to high: distinct ones as far as the dtype has them."""
    return np.random.default_rng(n).permutation(np.linspace(low, high, n)).astype(dtype)


MISLEADING = {  # what the sample holds, and the rest
    "sample above": lambda n, m, dtype: (steps(n, dtype, 100, 200), steps(m, dtype, 1, 2)),
    "sample below": lambda n, m, dtype: (steps(n, dtype, 1, 2), steps(m, dtype, 100, 200)),
    "sample all equal, above": lambda n, m, dtype: (np.full(n, 9, dtype), steps(m, dtype, 1, 2)),
    "sample all equal, below": lambda n, m, dtype: (np.zeros(n, dtype), steps(m, dtype, 1, 2)),
    "rest all equal": lambda n, m, dtype: (steps(n, dtype, 100, 200), np.full(m, -1.5, dtype)),
    "rest all in the window": lambda n, m, dtype: (
        steps(n, dtype, 1, 2), steps(m, dtype, 1.499, 1.501)
    ),
    "rest NaN": lambda n, m, dtype: (steps(n, dtype, 1, 2), np.full(m, NAN, dtype)),
}  # fmt: skip


@dtypes
@pytest.mark.parametrize("kind", MISLEADING)
@pytest.mark.parametrize("n", [100_001, 200_007])
def test_a_sample_that_misleads(kind, dtype, n):
    at = sampled_places(n)
    assert np.unique(at).size == SAMPLED
    inside, rest = MISLEADING[kind](SAMPLED, n - SAMPLED, dtype)
    x = np.empty(n, dtype)
    others = np.ones(n, np.bool_)
    others[at] = False
    x[at], x[others] = inside, rest
    order = order_of(x)
    k = n // 2
    if kind in ("sample above", "sample below"):  # so that the sample's window does miss
        kth = x[order[k - 1]]
        assert not inside.min() <= kth <= inside.max()
    for count in (k, n // 10 if "above" in kind else n - 40_000):
        everywhere(lambda s=count / n: prune.magnitude(x, s), magnitude_kept(order, count), [1, 3])


def test_a_misleading_sample_of_a_list_and_of_a_part():
    n = 200_003
    at = sampled_places(n)
    x = np.linspace(1, 2, n).astype(np.float32)
    x[at] += 100
    arrays = np.split(x, [3, 50_000, 50_000, 120_001])
    whole = magnitude_kept(order_of(x), n // 3)
    expected = [np.array(m) for m in np.split(whole, [3, 50_000, 50_000, 120_001])]
    count = n // 3 / n
    everywhere(lambda: prune.magnitude(arrays, count, scope="global"), expected)
    for alive in (np.isin(np.arange(n), at), ~np.isin(np.arange(n), at)):  # only the sample; none
        agree("magnitude", x, 0.3, mask=alive, of="remaining", setting=[1, 3])


# ---- ties, lists, containers


def test_ties_keep_the_lower_index():
    masks_equal(prune.magnitude(np.array([1.0, -1.0, 1.0, -1.0]), 0.5), np.array([1, 1, 0, 0]) > 0)
    masks_equal(prune.magnitude(np.array([0.0, -0.0, 0.0]), 1 / 3), np.array([1, 1, 0]) > 0)
    masks_equal(prune.by_score(np.array([0.0, -0.0, 0.0]), 1 / 3), np.array([1, 1, 0]) > 0)
    masks_equal(prune.magnitude(np.array([INF, NAN, -INF, 1.0]), 0.5), np.array([1, 1, 0, 0]) > 0)
    masks_equal(prune.by_score(np.array([NAN, -INF, INF, NAN]), 0.5), np.array([1, 0, 1, 0]) > 0)
    got = prune.magnitude([np.ones(2), -np.ones(3), np.ones(1)], 0.5, scope="global")
    masks_equal(got, [np.array([True, True]), np.array([True, False, False]), np.array([False])])


@pytest.mark.parametrize("n", [70_000, SHARED])
@pytest.mark.parametrize("s", [0.001, 0.5, 0.999])
def test_ties_across_arrays_and_threads(n, s):
    arrays = [np.full(n, 2.0, d) for d in DTYPES]
    arrays[2][::2] = -2
    expected = [np.array(m) for m in np.split(np.arange(4 * n) < 4 * n - round(s * 4 * n), 4)]
    everywhere(lambda: prune.magnitude(arrays, s, scope="global"), expected)


MIXED = [0, 1, 63, 64, 65, 40_000, 3, SAMPLED, 50_001]


def mixed(seed=0, digits=2):
    """Arrays of every dtype, many of whose elements are equal; one is empty and one 0-d."""
    arrays = [
        np.round(sample(n, np.float64, seed + k, -2, 2), digits).astype(DTYPES[k % 4])
        for k, n in enumerate(MIXED)
    ]
    return [*arrays, np.array(0.25, np.float16), np.zeros((3, 0), np.float32)]


@pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_lists_of_mixed_dtypes(s):
    arrays = mixed()
    expected = agree("magnitude", arrays, s, scope="global", setting=THREADS)
    assert sum(m.size - m.sum() for m in expected) == round(s * sum(a.size for a in arrays))
    agree("by_score", arrays, s, scope="global", setting=[1, 3])
    expected = agree("magnitude", arrays, s, setting=[1, 3])
    assert [m.size - m.sum() for m in expected] == [round(s * a.size) for a in arrays]
    agree("random", arrays, s, KEY, scope="global", setting=[1, 3])
    agree("random", arrays, s, KEY, setting=[1, 3])


def test_mixed_dtypes_without_float64_and_bfloat16_alone():
    for kinds in ([0, 2, 3], [2], [2, 2, 3], [0]):
        arrays = [DATA["special"](60_000, DTYPES[k], np.random.default_rng(k)) for k in kinds]
        for name in ("magnitude", "by_score"):
            agree(name, arrays, 0.37, scope="global", setting=[1, 3])


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_small_arrays(scope, dtype):
    arrays = [np.round(sample(256, dtype, k, -2, 2), 1).astype(dtype) for k in range(1000)]
    expected = ref.magnitude(arrays, 0.7, scope=scope)
    everywhere(lambda: prune.magnitude(arrays, 0.7, scope=scope), expected, [1, 3])
    expected = ref.random(arrays, 0.7, 42, scope=scope)
    everywhere(lambda: prune.random(arrays, 0.7, KEY, scope=scope), expected, [2])


def test_empty_and_0d_arrays_and_containers():
    for s in (0.0, 0.4, 0.6, 1.0):
        for x in (np.array(3.0), np.zeros(0), np.zeros((0, 4)), np.zeros((2, 0, 3), np.float16)):
            agree("magnitude", x, s)
            agree("by_score", x, s)
            agree("random", x, s, KEY)
    for scope in ("tensor", "global"):
        for empty in ([], (), {}, {"a": [], "b": {}}):
            got = prune.magnitude(empty, 0.5, scope=scope)
            assert isinstance(got, rl.MaskSet)
            assert got.size == 0


Pair = collections.namedtuple("Pair", ["w", "b"])


def test_containers_are_mirrored():
    a, b, c = (sample(n, np.float32, n) for n in (10, 20, 30))
    flat = ref.magnitude([a, b, c], 0.5, scope="global")
    nested = {"block": [a, {"w": b}], "head": (c,)}
    got = prune.magnitude(nested, 0.5, scope="global")
    masks_equal(got, {"block": [flat[0], {"w": flat[1]}], "head": [flat[2]]})
    assert isinstance(got.to_array(), dict)
    assert [name for name, _ in got.flat()] == ["block/0", "block/1/w", "head/0"]
    for container in ((x for x in (a, b, c)), iter([a, b, c]), collections.deque([a, b, c])):
        masks_equal(prune.magnitude(container, 0.5, scope="global"), flat)
    masks_equal(prune.magnitude({"x": a, 3: b}.values(), 0.5), ref.magnitude([a, b], 0.5))
    masks_equal(prune.magnitude(Pair(a, b), 0.5), ref.magnitude([a, b], 0.5))
    masks_equal(
        prune.magnitude([a, a], 0.5, scope="global"), ref.magnitude([a, a], 0.5, scope="global")
    )
    # and the result fits what was given
    w = {"block": [a.copy(), {"w": b.copy()}], "head": (c.copy(),)}
    got.apply_(w)
    assert bits(w["head"][0]) == bits(np.where(flat[2], c, np.float32(0)))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: prune.magnitude(x, 0.5),
        lambda x: prune.by_score(x, 0.5),
        lambda x: prune.random(x, 0.5, rl.Key(0)),
        lambda x: prune.budget.uniform(x, 0.5),
        lambda x: prune.budget.erk(x, 0.5),
        lambda x: prune.Pruner(x, prune.OneShotSchedule(0.5, 0)),
        lambda x: prune.SET(x, 0.5, rl.Key(0)),
        rl.MaskSet.of,
        rl.MaskSet.from_array,
    ],
)
def test_iterators_with_nothing_left(call):
    call([])
    with pytest.raises(ValueError, match=r"^\w+: got an iterator that has nothing left, wants "):
        call(iter([]))


def test_what_was_meant():
    """Boolean masks in the place of a Mask, and numbers in that of a Key."""
    w, kept = np.ones((4, 4)), np.ones((4, 4), bool)
    for call in (
        lambda: prune.magnitude(w, 0.5, mask=kept),
        lambda: rl.MaskSet.of([kept]),
        lambda: prune.export.to_csr(w, kept),
        lambda: prune.report([kept]),
    ):
        with pytest.raises(
            TypeError, match=r"^masks?(\[0\])?: got ndarray, .*rl\.Mask\.from_array"
        ):
            call()
    for call in (
        lambda: prune.random(w, 0.5, 7),
        lambda: prune.SET(w, 0.5, np.int64(7)),
        lambda: prune.RigL(w, 0.5, 7, end=9),
        lambda: prune.Pruner(w, prune.OneShotSchedule(0.5, 0), method="random", key=7),
    ):
        with pytest.raises(TypeError, match=r"^key: got int\d*, wants a .*Key.*rl\.Key\(7\)"):
            call()


@dtypes
def test_many_elements_at_the_threshold(dtype):
    """Weights that are pruned already, quantized ones, and two values only."""
    rng = np.random.default_rng(5)
    n = 300_000
    dense = rng.standard_normal(n)
    kept = rng.random(n) < 0.1
    two = np.where(rng.random(n) < 0.5, 1.0, -2.0)
    for x in (np.where(kept, dense, 0.0), np.round(dense * 4) / 4, two):
        x = x.astype(dtype)
        ties = np.mean(x == x[np.argmax(~kept)])
        for s in (ties - 1e-4, ties, ties + 1e-4, 0.5, 0.9):
            agree("magnitude", x, s, setting=[1, 3])
            agree("by_score", x, s)
    zeros = np.where(kept, dense, 0.0).astype(dtype)
    agree("magnitude", [zeros, dense.astype(dtype)], 0.45, scope="global", setting=[1, 3])


# ---- memory


@layouts
@dtypes
def test_memory_layouts(layout, dtype):
    x = np.round(sample((12, 40, 130), np.float64, 1, -2, 2), 1).astype(dtype)
    view, intact = LAYOUTS[layout](x)
    half = np.random.default_rng(0).random(x.shape) < 0.6
    for structure, s in [
        (None, 0.7), (("nm", 2, 4, -1), None), (("nm", 2, 4, 0), None), (("nm", 3, 5, 1), None),
        (("block", (2, 4), 1.0), 0.4), (("channels", 1, INF), 0.4),
    ]:  # fmt: skip
        for alive in (None, half):
            agree("magnitude", view, s, structure=structure, mask=alive, expected_of=x)
    agree("by_score", [view, x], 0.7, scope="global", expected_of=[x, x], setting=[1, 3])
    assert intact()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_layout(data):
    shape, put = data.draw(placements())
    dtype = data.draw(st.sampled_from(DTYPES))
    x = np.random.default_rng(3).integers(-3, 4, shape).astype(dtype)
    view, intact = put(x)
    s = data.draw(st.floats(0, 1))
    agree("magnitude", view, s, expected_of=x)
    agree("by_score", [view, x], s, expected_of=[x, x], scope="global")
    assert intact()


def test_large_strided_arrays():
    x = sample((500, 600), np.float32, 5)
    for view in (x.T, x[::-1, ::-1], x[:, ::2], np.broadcast_to(x[0], (300, 600))):
        agree("magnitude", view, 0.6, setting=[1, 3])


@dtypes
def test_torch_tensors(dtype):
    pytest.importorskip("torch")
    x = np.round(sample((300, 200), np.float64, 1, -2, 2), 1).astype(dtype)
    t = to_torch(x.copy())
    for value in (t, t.clone().requires_grad_()):
        for s in (0.3, 0.9):
            agree("magnitude", value, s, expected_of=x, setting=[1, 3])
        agree("magnitude", [value, value.T], 0.4, scope="global", expected_of=[x, x.T])
        agree("magnitude", [value], 0.4, scope="global", normalize="l2", expected_of=[x])
        for structure, s in [
            (("nm", 2, 4, -1), None), (("block", (4, 4), 2), 0.5), (("channels", 0, 2), 0.5)
        ]:  # fmt: skip
            agree("magnitude", value, s, structure=structure, expected_of=x)
        agree("by_score", value, 0.3, per_row=True, expected_of=x)
        agree("random", value, 0.3, KEY, expected_of=x)
    mask = prune.magnitude(t, 0.3)
    mask.apply_(t)
    assert bits(from_torch(t)) == bits(np.where(mask.to_array(), x, np.zeros((), dtype)))


def test_tied_weights():
    """One memory in two places is one array, where all are ranked together."""
    a, b, c = (sample(n, np.float32, n) for n in (40, 30, 20))
    for x, y in ((a, a), (a, a[:])):
        for s in (0.2, 0.5, 0.9):
            got = prune.magnitude({"in": x, "b": b, "out": y}, s, scope="global")
            wants = ref.magnitude([a, b], s, scope="global")
            masks_equal(got, {"in": wants[0], "b": wants[1], "out": wants[0]})
            params = {"in": x.copy(), "b": b.copy()}
            params["out"] = params["in"]
            got.apply_(params)
            assert bits(params["out"]) == bits(np.where(wants[0], a, np.float32(0)))
            got = prune.random([x, b, y], s, KEY, scope="global")
            wants = ref.random([a, b], s, 42, scope="global")
            masks_equal(got, [wants[0], wants[1], wants[0]])
    assert prune.magnitude([a, b, a], 0.5, scope="global", exclude=2)[0].sparsity == 0
    bounded = prune.magnitude([a, b, a], 0.5, scope="global", max_sparsity=[0.9, 1, 0.25])
    assert bounded[0] == bounded[2]
    assert bounded[0].sparsity == 0.25
    half = [rl.Mask.from_array(sample(n, np.float64, 3) > 0) for n in (40, 30, 40)]
    other = [half[0], half[1], ~half[0]]
    assert prune.magnitude([a, b, a], 0, scope="global", mask=rl.MaskSet.of(other))[2].count == 0
    with unchanged(a), pytest.raises(ValueError, match=r"^params\[1\]: got the same memory as "):
        rl.MaskSet.of([half[0], ~half[0]]).apply_([a, a])
    flipped = a[::-1]  # no tie
    masks_equal(
        prune.magnitude([a, flipped], 0.5, scope="global"),
        ref.magnitude([a, flipped], 0.5, scope="global"),
    )
    masks_equal(prune.magnitude([a, c, a], [0.5, 0.1, 0.2]), [
        ref.magnitude(x, s) for x, s in ((a, 0.5), (c, 0.1), (a, 0.2))
    ])  # fmt: skip


def test_tied_torch_weights():
    torch = pytest.importorskip("torch")
    one, two = torch.nn.Linear(6, 5, bias=False), torch.nn.Linear(6, 5, bias=False)
    two.weight = one.weight
    both = torch.nn.ModuleList([one, two])
    alone = prune.magnitude(one, 0.5, scope="global")["weight"]
    for state in (both.state_dict(), [one.weight, two.weight], both):
        masks = prune.magnitude(state, 0.5, scope="global")
        assert [mask for _, mask in masks.flat()] == [alone] * len(masks)
        masks.apply_(state)
    assert int((one.weight == 0).sum()) == 15
    assert len(prune.magnitude(both, 0.5, scope="global")) == 1


def test_a_module_is_its_named_parameters():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5))
    named = dict(model.named_parameters())
    for call in (
        lambda x: prune.magnitude(x, 0.8, exclude="*.bias"),
        lambda x: prune.random(x, 0.8, KEY, exclude=["0.bias", "2"]),
        lambda x: prune.by_score(x, 0.8, scope="global"),
    ):
        assert call(model) == call(named)
    assert prune.budget.erk(model, 0.8, exclude="2") == prune.budget.erk(named, 0.8, exclude="2")
    masks = prune.magnitude(model, 0.8)
    applied = masks.apply(model)
    masks.apply_(model)
    for name, p in model.named_parameters():
        assert torch.equal(applied[name], p)
        assert int((p == 0).sum()) == masks[name].size - masks[name].count > 0
    assert prune.magnitude(torch.nn.Sequential(), 0.5) == rl.MaskSet.of({})


def test_torch_modules():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5))
    arrays = [from_torch(p).copy() for p in model.parameters()]
    expected = ref.magnitude(arrays, 0.8, scope="global")
    got = prune.magnitude(model.parameters(), 0.8, scope="global")
    masks_equal(got, expected)
    names = [name for name, _ in model.named_parameters()]
    got = prune.magnitude(
        dict(model.named_parameters()), 0.8, exclude=lambda name, p: name.endswith("bias")
    )
    masks_equal(got, dict(zip(names, ref.magnitude(arrays, 0.8, exclude=[1, 3]), strict=True)))
    got.apply_(dict(model.named_parameters()))
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert zeros == got.size - got.count == round(0.8 * 600) + round(0.8 * 100)


def test_jax_arrays():
    jnp = pytest.importorskip("jax.numpy")
    x = np.round(sample((60, 70), np.float64, 1, -2, 2), 1).astype(np.float32)
    for dtype in (np.float32, BFLOAT16, np.float16):
        j, own = jnp.asarray(x).astype(dtype), x.astype(dtype)
        for s in (0.3, 0.9):
            masks_equal(prune.magnitude(j, s), ref.magnitude(own, s))
            masks_equal(prune.random(j, s, KEY), ref.random(own, s, 42))
            masks_equal(prune.by_score(j, s, per_row=True), ref.by_score(own, s, per_row=True))
        masks_equal(
            prune.magnitude({"w": j}, 0.3, structure=prune.rows(), scope="global"),
            {"w": ref.magnitude(own, 0.3, structure=("channels", 0, 2))},
        )
        masks_equal(
            prune.magnitude(j, structure=prune.NM(2, 4)),
            ref.magnitude(own, structure=("nm", 2, 4, -1)),
        )


# ---- structures

SHAPES = [(7, 13), (64, 64), (3, 5, 4, 6), (130,), (40, 100), (1, 1), (65, 3, 3)]
STRUCTURES = [
    None,
    ("nm", 2, 4, -1), ("nm", 1, 4, -1), ("nm", 3, 4, -1), ("nm", 0, 4, -1), ("nm", 4, 4, -1),
    ("nm", 1, 3, 0), ("nm", 5, 16, -1), ("nm", 4, 8, 0), ("nm", 1, 2, 0), ("nm", 20, 64, -1),
    ("nm", 1, 1, 0),
    ("block", (2,), 2), ("block", (3,), 1.0), ("block", (64,), INF), ("block", (100,), 1.0),
    ("block", (2, 2), 2), ("block", (4, 4), INF), ("block", (1, 5), 1.0), ("block", (16, 1), 2.0),
    ("block", (2, 2, 2), 1.0), ("block", (1000, 1000), 2),
    ("channels", 0, 2), ("channels", -1, 1.0), ("channels", 0, INF), ("channels", 1, 2),
    ("channels", 2, 1.0),
]  # fmt: skip


def fits(structure, shape):
    if structure is None:
        return True
    kind, first, *_ = structure
    if kind == "block":
        return len(first) <= len(shape)
    axis = structure[-1] if kind == "nm" else first
    return -len(shape) <= axis < len(shape)


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_structures(structure):
    rng = np.random.default_rng(0)
    for shape in filter(lambda shape: fits(structure, shape), SHAPES):
        normal = rng.standard_normal(shape)
        whole = rng.integers(-2, 3, shape)  # sums are exact: many ties
        for share in (None, 0.7, 0.05):
            alive = None if share is None else rng.random(shape) < share
            for dtype in DTYPES if share != 0.05 else DTYPES[:1]:
                for x in (normal.astype(dtype), whole.astype(dtype)):
                    fractions = (
                        [None] if structure and structure[0] == "nm" else [0.0, 0.3, 0.8, 1.0]
                    )
                    for s in fractions:
                        keywords = {"structure": structure, "mask": alive}
                        agree("magnitude", x, s, **keywords)
                        agree("by_score", x, s, **keywords)
                        if dtype == np.float32:
                            agree("random", x, s, KEY, **keywords)
                            agree("magnitude", x, s, of="remaining", **keywords)


@pytest.mark.parametrize(
    "structure",
    [
        ("nm", 2, 4, -1), ("nm", 1, 4, -1), ("nm", 2, 4, 0), ("nm", 7, 16, -1), ("nm", 3, 7, 0),
        ("block", (4, 4), 2), ("block", (1, 16), 1.0), ("block", (3, 5), INF), ("channels", 0, 1.0),
        ("channels", 1, 2),
    ],
    ids=str,
)  # fmt: skip
@dtypes
def test_structures_shared_out(structure, dtype):
    rng = np.random.default_rng(0)
    shape = (420, 333) if structure[1:] == ("nm", 3, 7, 0) else (420, 332)
    x = rng.integers(-3, 4, shape).astype(dtype)
    s = None if structure[0] == "nm" else 0.6
    threads = [1, 2, 7] if dtype.itemsize == 4 else [3]
    agree("magnitude", x, s, structure=structure, setting=threads)
    alive = rng.random(shape) < 0.6
    agree("magnitude", x, s, structure=structure, mask=alive, setting=[3])
    agree("random", x, s, KEY, structure=structure, mask=alive, setting=[3])


def test_signed_scores_of_units():
    """Negative scores count against positive ones: the norm alone ranks them the other way."""
    scores = np.array([[-9.0, 1.0], [2.0, -1.0], [4.0, 4.0], [-1.0, -1.0]])
    for structure, order in [
        (prune.Channels(0, ord=1), [0, 3, 1, 2]),
        (prune.Channels(0, ord=2), [0, 3, 1, 2]),
        (prune.Block((1, 2), ord=INF), [0, 3, 1, 2]),
    ]:
        for gone in range(5):
            kept = prune.by_score(scores, gone / 4, structure=structure).to_array().any(axis=1)
            assert np.flatnonzero(~kept).tolist() == sorted(order[:gone])
        both = prune.by_score([scores, -scores], 0.5, scope="global", structure=structure)
        assert (~both[0].to_array().any(axis=1)).tolist() == [True, False, False, True]
    mask = rl.Mask.from_array(scores != -9)  # the one that weighs down is gone already
    kept = prune.by_score(scores, 0.25, structure=prune.rows(1), mask=mask).to_array()
    assert kept.any(axis=1).tolist() == [True, True, True, False]
    for special in (NAN, INF):
        scores[0, 1] = special
        kept = prune.by_score(scores, 0.75, structure=prune.rows(1)).to_array()
        assert kept.any(axis=1).tolist() == [True, False, False, False]
    x = sample((30, 40), np.float64, 3)
    for order in (0.5, 1, 1.5, 2, 3, 7.25, INF):
        for structure in (("block", (4, 4), order), ("channels", 0, order), ("channels", 1, order)):
            for dtype in DTYPES:
                agree("by_score", x.astype(dtype), 0.4, structure=structure)
                agree("by_score", np.abs(x).astype(dtype), 0.4, structure=structure)


def test_norms_of_any_order():
    x = sample((30, 40), np.float64, 3)
    for order in (0.5, 1, 1.5, 2, 3, 7.25, INF):
        for structure in (("block", (4, 4), order), ("channels", 0, order), ("channels", 1, order)):
            for dtype in DTYPES:
                agree("magnitude", x.astype(dtype), 0.4, structure=structure)


@pytest.mark.parametrize("order", [1, 2, 3, INF])
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1e160, 1e200, 1e300])
def test_norms_of_extreme_numbers(order, scale):
    x = np.random.default_rng(0).uniform(0.5, 1, (12, 5)) * scale
    agree("magnitude", x, 0.5, structure=("channels", 0, order))
    agree("magnitude", x, 0.5, structure=("block", (2, 2), order))


def test_norms_of_float32_with_a_high_order():
    x = np.random.default_rng(0).uniform(0.5, 1, (12, 5)).astype(np.float32)
    for scale in (1e-30, 1e30):
        agree("magnitude", x * np.float32(scale), 0.5, structure=("channels", 0, 16.0))


def test_norms_with_infinities_and_nan():
    x = np.ones((6, 4), np.float32)
    x[1, 2], x[3, 0], x[4, 1] = NAN, INF, -INF
    for order in (1, 2, INF):
        for s in (0.3, 0.5, 0.7):
            agree("magnitude", x, s, structure=("channels", 0, order))
            alive = np.isfinite(x)
            agree("magnitude", x, s, structure=("channels", 0, order), mask=alive)


def test_a_large_kernel_of_filters():
    w = sample((64, 32, 3, 3), np.float32, 0)
    for structure, axes in [(("channels", 0, 2), (1, 2, 3)), (("channels", 1, 2), (0, 2, 3))]:
        norms = np.sqrt(np.sum(w.astype(np.float64) ** 2, axis=axes))
        lowest = np.argsort(norms)[: len(norms) // 4]
        kept = agree("magnitude", w, 0.25, structure=structure)
        gone = np.flatnonzero(~kept.any(axis=axes))
        assert set(gone) == set(lowest)


def test_rows_and_columns():
    assert prune.rows(1) == prune.Channels(0, 1)
    assert prune.columns() == prune.Channels(1, 2)
    w = np.array([[1.0, 5.0], [2.0, 1.0]])
    masks_equal(
        prune.magnitude(w, 0.5, structure=prune.rows()), np.array([[True], [False]]) & (w > 0)
    )
    masks_equal(prune.magnitude(w, 0.5, structure=prune.columns()), np.array([[False, True]] * 2))


def test_n_of_m_by_hand():
    w = np.array([3.0, -1.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, 9.0])
    want = np.array([1, 0, 1, 0, 1, 1, 0, 0, 1, 1]) > 0
    masks_equal(prune.magnitude(w, structure=prune.NM(2, 4)), want)
    masks_equal(prune.magnitude(w, 0.5, structure=prune.NM(2, 4)), want)
    # a last group of 2 of 4: 1 is kept
    masks_equal(prune.magnitude(w[4:], structure=prune.NM(1, 4)), np.array([1, 0, 0, 0, 0, 1]) > 0)
    # those that a mask prunes lose, whatever they are
    alive = np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1]) > 0
    masks_equal(
        prune.magnitude(w, structure=prune.NM(2, 4), mask=packed(alive)),
        np.array([0, 0, 0, 1, 0, 1, 0, 1, 1, 1]) > 0,
    )
    assert prune.NM(2, 4).sparsity == 0.5
    for n in range(1, 200):  # every group has exactly so many
        kept = prune.magnitude(sample(n, np.float16, n), structure=prune.NM(2, 4)).to_array()
        assert np.array_equal(
            np.add.reduceat(kept, range(0, n, 4), dtype=int),
            [min(2, n - i) for i in range(0, n, 4)],
        )


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_any_structure(data):
    shape, put = data.draw(placements())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(-2, 3, shape).astype(data.draw(st.sampled_from(DTYPES)))
    view, intact = put(x)
    axes = len(shape)
    choices = [st.none(), st.tuples(
        st.just("block"), st.lists(st.integers(1, 5), min_size=1, max_size=max(axes, 1)).map(tuple),
        st.sampled_from([1.0, 2.0, INF]),
    ).filter(lambda _: axes > 0)]  # fmt: skip
    if axes and x.size:
        axis = st.integers(-axes, axes - 1)
        choices.append(st.tuples(st.just("channels"), axis, st.sampled_from([1.0, 2.0, INF])))
    if axes:
        m = data.draw(st.integers(1, 9))
        axis = st.integers(-axes, axes - 1)
        choices.append(st.tuples(st.just("nm"), st.integers(0, m), st.just(m), axis))
    structure = data.draw(st.one_of(choices[:1] if axes == 0 else choices))
    s = None if structure and structure[0] == "nm" else data.draw(st.floats(0, 1))
    alive = rng.random(shape) < 0.7 if data.draw(st.booleans()) else None
    if alive is not None:
        alive = np.asarray(alive)
    of = data.draw(st.sampled_from(["all", "remaining"]))
    agree("magnitude", view, s, structure=structure, mask=alive, of=of, expected_of=x)
    agree("random", view, s, KEY, structure=structure, mask=alive, of=of, expected_of=x)
    assert intact()


# ---- masks that are given, and what is left out


@pytest.mark.parametrize("of", ["all", "remaining"])
@pytest.mark.parametrize("n", [200, SHARED])
def test_masks_that_are_given(n, of):
    rng = np.random.default_rng(0)
    x = np.round(rng.standard_normal(n), 1).astype(np.float32)
    for share in (0.0, 0.05, 0.5, 1.0):
        alive = rng.random(n) < share
        for s in (0.0, 0.3, 0.75, 1.0):
            for name, more in [("magnitude", ()), ("by_score", ()), ("random", (KEY,))]:
                kept = agree(name, x, s, *more, mask=alive, of=of, setting=[1, 3])
                assert not np.any(kept & ~alive)
                left = int(alive.sum())
                gone = round(s * left) if of == "remaining" else max(round(s * n) - (n - left), 0)
                assert kept.sum() == left - gone


@pytest.mark.parametrize("of", ["all", "remaining"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("structure", [None, ("block", (4,), 1.0)], ids=str)
def test_mask_sets_that_are_given(scope, of, structure):
    rng = np.random.default_rng(1)
    arrays = [a for a in mixed(1) if a.ndim == 1]
    alive = [rng.random(a.shape) < 0.3 + 0.1 * (k % 5) for k, a in enumerate(arrays)]
    alive[1][:] = False
    alive[3][:] = True
    for s in (0.1, 0.6, 0.95):
        keywords = {"mask": alive, "of": of, "scope": scope, "structure": structure}
        for name, more in [("magnitude", ()), ("random", (KEY,))]:
            agree(name, arrays, s, *more, **keywords)
            agree(name, arrays, s, *more, exclude=[2, 5], **keywords)


def test_pruning_a_mask_again_changes_nothing():
    x = sample(5000, np.float32, 3)
    mask = prune.magnitude(x, 0.7)
    assert prune.magnitude(x, 0.7, mask=mask) == mask
    assert prune.magnitude(x, 0.4, mask=mask) == mask  # nothing comes back
    more = prune.magnitude(x, 0.9, mask=mask)
    assert more == prune.magnitude(x, 0.9)
    assert more & mask == more


def test_exclude():
    arrays = {"w": np.arange(4.0), "block": [np.arange(4.0), np.arange(6.0)], "b": np.ones(2)}
    for exclude, gone in [
        (None, (2, 2, 3, 1)), ("w", (0, 2, 3, 1)), ("block", (2, 0, 0, 1)),
        ("block/1", (2, 2, 0, 1)), (["b", "block/0"], (2, 0, 3, 0)), ([], (2, 2, 3, 1)),
        (lambda name, array: array.size == 4, (0, 0, 3, 1)), ({"w", "b"}, (0, 2, 3, 0)),
        (lambda name, array: True, (0, 0, 0, 0)),
    ]:  # fmt: skip
        masks = prune.magnitude(arrays, 0.5, exclude=exclude)
        assert tuple(m.size - m.count for _, m in masks.flat()) == gone
        masks = prune.magnitude(arrays, 0.5, exclude=exclude, scope="global")
        total = sum(m.size for (_, m), k in zip(masks.flat(), gone, strict=True) if k)
        assert masks.size - masks.count == round(total / 2)
    rows = [np.arange(8.0), np.arange(6.0), np.ones(2)]
    for exclude in (0, [0], "0", np.array([0]).tolist(), [0, 0]):
        masks_equal(
            prune.magnitude(rows, 0.5, exclude=exclude), ref.magnitude(rows, 0.5, exclude=[0])
        )
    # arrays that a structure does not fit may be left out
    both = {"w": np.ones((4, 4)), "b": np.ones(4)}
    masks = prune.magnitude(both, 0.5, structure=prune.Block((2, 2)), exclude="b")
    assert [m.count for _, m in masks.flat()] == [8, 4]
    masks = prune.random(rows, 0.5, KEY, exclude=1)
    masks_equal(masks, ref.random(rows, 0.5, 42, exclude=[1]))
    # what is left out keeps its mask
    alive = [np.arange(8) > 2, np.arange(6) > 1, np.ones(2, bool)]
    agree("magnitude", rows, 0.5, mask=alive, exclude=[1])


# ---- normalize, bounds, budgets, rows


@pytest.mark.parametrize("normalize", ["none", "l2", "rms"])
@pytest.mark.parametrize("structure", [None, ("block", (4,), 2), ("channels", 0, 1.0)], ids=str)
def test_normalize(normalize, structure):
    rng = np.random.default_rng(2)
    arrays = [
        (rng.standard_normal(n) * scale).astype(d)
        for n, scale, d in [
            (500, 1, "f4"), (200, 100, "f4"), (0, 1, "f4"), (333, 0.01, "f2"), (1000, 3, "f8"),
            (40_000, 7, "f4"), (90, 1, BFLOAT16),
        ]
    ]  # fmt: skip
    alive = [rng.random(a.shape) < 0.8 for a in arrays]
    for s in (0.1, 0.5, 0.83):
        for given_mask in (None, alive):
            keywords = {"normalize": normalize, "structure": structure, "mask": given_mask}
            agree("magnitude", arrays, s, scope="global", setting=[1, 3], **keywords)
            agree("by_score", arrays, s, scope="global", **keywords)


def test_normalize_by_hand():
    one, two = np.array([3.0, 4.0]), np.array([30.0, 40.0, 0.0])
    # l2: 0.6 0.8; 0.6 0.8 0. rms: 0.85 1.13; 1.04 1.39 0
    got = prune.magnitude([one, two], 0.4, scope="global", normalize="l2")
    masks_equal(got, [np.array([True, True]), np.array([False, True, False])])
    got = prune.magnitude([one, two], 0.4, scope="global", normalize="rms")
    masks_equal(got, [np.array([False, True]), np.array([True, True, False])])
    got = prune.magnitude([one, two], 0.4, scope="global")
    masks_equal(got, [np.array([False, True]), np.array([True, True, False])])


@pytest.mark.parametrize("normalize", ["l2", "rms"])
def test_norms_that_divide_nothing_and_extreme_ones(normalize):
    y = np.array([0.1, 0.2], np.float32)
    for values in ([0.0, 0.0, 0.0], [INF, 1.0, 2.0], [NAN, 1.0, 0.01]):
        arrays = [np.array(values, np.float32), y]
        for s in (0.2, 0.4, 0.6, 0.8):
            agree("magnitude", arrays, s, scope="global", normalize=normalize)


@pytest.mark.parametrize("normalize", ["l2", "rms"])
@pytest.mark.parametrize("scale", [1e-40, 1e-38, 1e-30, 1e30, 1e37])
def test_normalize_float32_of_extreme_size(normalize, scale):
    arrays = [
        (np.array([1.0, 0.0, 2.0, 0.3]) * scale).astype(np.float32),
        np.array([0.1, 0.2, 0.05], np.float32),
    ]
    for s in (1 / 7, 2 / 7, 3 / 7, 4 / 7, 6 / 7):
        agree("magnitude", arrays, s, scope="global", normalize=normalize)


@pytest.mark.parametrize("normalize", ["l2", "rms"])
@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e300])
def test_normalize_float64_of_extreme_size(normalize, scale):
    arrays = [np.array([1.0, 0.0, 2.0, 0.3]) * scale, np.array([0.1, 0.2, 0.05])]
    for alive in (None, [np.ones(4, bool), np.array([True, True, False])]):
        for s in (2 / 7, 3 / 7, 4 / 7, 6 / 7):
            agree("magnitude", arrays, s, scope="global", normalize=normalize, mask=alive)


BOUNDS = [
    (0.0, 0.9),
    (0.2, 0.85),
    (0.05, 1.0),
    (0.45, 0.55),
    ([0, 0.9, 0, 0, 0.3], [0.1, 1, 1, 1, 0.9]),
]


@pytest.mark.parametrize(("low", "high"), BOUNDS, ids=str)
@pytest.mark.parametrize("given_mask", [False, True])
def test_bounds(low, high, given_mask):
    rng = np.random.default_rng(4)
    arrays = [
        (rng.standard_normal(n) * scale).astype(d)
        for n, scale, d in [
            (50, 1, "f4"),
            (200, 9, "f4"),
            (0, 1, "f4"),
            (33, 0.1, "f2"),
            (100, 2, "f8"),
        ]
    ]
    alive = [rng.random(a.shape) < 0.9 for a in arrays] if given_mask else None
    bounds = {"min_sparsity": low, "max_sparsity": high}
    for s in (0.47, 0.5, 0.53) if isinstance(low, float) else (0.6, 0.7, 0.8):
        for more in ({}, {"normalize": "rms"}, {"of": "remaining"}):
            if "of" in more and given_mask and low == 0.45:
                continue  # none within the bounds
            kept = agree("magnitude", arrays, s, scope="global", mask=alive, **bounds, **more)
            for k, (a, m) in enumerate(zip(arrays, kept, strict=True)):
                least, most = (b[k] if isinstance(b, list) else b for b in (low, high))
                already = 0 if alive is None else int(np.sum(~alive[k]))
                gone = a.size - m.sum()
                assert max(round(least * a.size), already) <= gone
                assert gone <= max(round(most * a.size), already)
        agree("random", arrays, s, KEY, scope="global", mask=alive, **bounds)
    agree("magnitude", arrays, s, scope="global", exclude=[2], **bounds)
    agree("magnitude", arrays, s, scope="global", structure=("block", (3,), 1.0), **bounds)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_bounds(data):
    sizes = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=6))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = [rng.integers(-4, 5, n).astype(np.float32) for n in sizes]
    low = [data.draw(st.floats(0, 1)) for _ in sizes]
    high = [data.draw(st.floats(least, 1)) for least in low]
    total = sum(sizes)
    least, most = (sum(round(b * n) for b, n in zip(bs, sizes, strict=True)) for bs in (low, high))
    if total == 0:
        return
    k = data.draw(st.integers(least, most))
    bounds = {"min_sparsity": low, "max_sparsity": high}
    kept = agree("magnitude", arrays, k / total, scope="global", **bounds)
    assert sum(m.size - m.sum() for m in kept) == k
    agree("random", arrays, k / total, KEY, scope="global", **bounds)


def test_budgets():
    params = {"w": sample((64, 32), np.float32, 0), "v": [sample((8, 8), np.float32, 1)]}
    budget = prune.budget.erk(params, 0.9)
    masks = prune.magnitude(params, budget)
    for (_, mask), s in zip(masks.flat(), (budget["w"], budget["v"][0]), strict=True):
        assert mask.size - mask.count == round(s * mask.size)
    agree("magnitude", [params["w"], params["v"][0]], [0.25, 0.5])
    agree("random", [params["w"], params["v"][0]], [0.25, 0.5], KEY)
    agree("magnitude", [params["w"], params["v"][0]], [0.25, 0.5], structure=("channels", 0, 1.0))
    agree("magnitude", [params["w"], params["v"][0]], [0.25, 0.5], exclude=[0])
    got = prune.magnitude({"a": np.ones(4), "b": np.ones(4)}, {"b": 0.25, "a": 0.75})  # by key
    assert (got["a"].count, got["b"].count) == (1, 3)


@dtypes
@pytest.mark.parametrize(
    "shape", [(20, 70), (20, 128), (3, 5, 7), (9,), (0, 5), (5, 0), (2, SAMPLED + 1), (1200, 1001)]
)
def test_each_row(shape, dtype):
    x = np.round(sample(shape, np.float64, 1, -2, 2), 1).astype(dtype)
    fractions = (0.4,) if x.size > 2**16 else (0.0, 0.4, 0.51, 1.0)
    for s in fractions:
        expected = agree("by_score", x, s, per_row=True, setting=[1, 3] if x.size > 2**10 else [1])
        if x.size:
            assert set(np.sum(~expected.reshape(shape[0], -1), axis=1)) == {round(s * x[0].size)}
    if x.size < 2**16:
        alive = np.random.default_rng(0).random(shape) < 0.6
        for of in ("all", "remaining"):
            agree("by_score", x, 0.5, per_row=True, mask=alive, of=of)
        y = np.asfortranarray(x[::-1])
        agree("by_score", [x, y], [0.2, 0.7], per_row=True)
        agree("by_score", [x, y], 0.7, per_row=True, exclude=[0])


# ---- random


@pytest.mark.parametrize("n", [1, 300, *AROUND, SHARED, 1_000_003])
def test_random_goes_by_the_bits_of_dropout(n):
    x = np.zeros(n, np.float16)
    for p in (0.001, 0.3, 0.5, 0.97):
        dropped = rl.dropout_mask(n, p, KEY)
        gone = dropped.size - dropped.count
        for threads in (1, 3):
            with rl.threads(threads):
                assert prune.random(x, gone / n, KEY) == dropped


@pytest.mark.parametrize("n", [0, 1, 65, *AROUND, SHARED])
def test_random_everywhere(n):
    x = np.zeros(n, np.float32)
    words = ref.choice_words(42, np.arange(n))
    order = ref.order_of_going(words)
    for k in {0, min(1, n), n // 2, n - n // 10, n}:
        s = k / n if n else 0.5
        everywhere(lambda s=s: prune.random(x, s, KEY), magnitude_kept(order, k))
    # neither values nor dtype nor layout matter
    a, b = prune.random(np.full(n, NAN), 0.5, KEY), prune.random(np.zeros(2 * n)[::-2], 0.5, KEY)
    assert a == b == prune.random(x, 0.5, KEY)
    if n > 1000:
        assert prune.random(x, 0.5, rl.Key(43)) != a


def test_random_numbers_elements_through_the_list():
    arrays = [np.zeros(n) for n in (100, 0, 33, 50_000, 7)]
    whole = np.zeros(sum(a.size for a in arrays))
    joined = prune.random(whole, 0.3, KEY).to_array()
    parts = prune.random(arrays, 0.3, KEY, scope="global").to_array()
    assert np.array_equal(np.concatenate(parts), joined)
    agree("random", arrays, [0.5, 0.5, 0.1, 0.9, 0.2], KEY, exclude=[0], setting=[1, 3])


def test_random_prunes_each_element_as_often():
    counts = sum(prune.random(np.zeros(40), 0.25, rl.Key(k)).to_array() for k in range(4000))
    assert np.all(np.abs(counts - 3000) < 5 * math.sqrt(4000 * 0.25 * 0.75))


# ---- random_shrink_


def shrunk(w, strength, key, offset=0):
    """w - strength u w in the type that arithmetic runs in, each operation rounded."""
    own = np.dtype(np.float64 if w.dtype == np.float64 else np.float32)
    u = uniform(w.shape, key, dtype=own, offset=offset)
    with np.errstate(all="ignore"):
        v = w.astype(own)
        return (v - own.type(strength) * u * v).astype(w.dtype)


@dtypes
def test_random_shrink(dtype):
    for n in [*range(70), 4095, 4096, 4097, SHARED]:
        w = sample(n, dtype, n)
        for strength in (0.0, 0.3, 1.0) if n < 5000 else (0.3,):
            expected = shrunk(w, strength, 42)
            for name in rl.runtime.targets():
                for threads in [1, 3]:
                    x = w.copy()
                    with target(name), rl.threads(threads):
                        rl.prune.random_shrink_(x, strength, KEY)
                    assert bits(x) == bits(expected), (n, strength, name)


def test_random_shrink_of_uniform():
    w = np.ones(1000, np.float32)
    prune.random_shrink_(w, 1.0, KEY)
    assert bits(w) == bits(np.float32(1) - rl.random.uniform(1000, KEY))
    w = np.ones(1000)
    prune.random_shrink_(w, 1.0, KEY)
    assert bits(w) == bits(1 - rl.random.uniform(1000, KEY, dtype=np.float64))
    w = np.array([INF, -INF, NAN, 0.0, -0.0])
    prune.random_shrink_(w, 0.5, KEY)
    assert np.all(w[3:] == 0)
    assert np.isnan(w[2])


def test_random_shrink_of_lists_layouts_and_torch():
    arrays = [
        sample(n, d, n) for n, d in zip((10, 0, 5000, 33, 7), [*DTYPES, DTYPES[0]], strict=True)
    ]
    expected, at = [], 0
    for a in arrays:
        expected.append(shrunk(a, 0.4, 42, at))
        at += a.size
    prune.random_shrink_({"w": arrays[:2], "v": tuple(arrays[2:])}, 0.4, KEY)
    assert bits(arrays) == bits(expected)
    x = sample((3, 8, 65), np.float32, 0)
    for put in LAYOUTS.values():
        view, intact = put(x)
        prune.random_shrink_(view, 0.7, KEY)
        assert bits(view) == bits(shrunk(x, 0.7, 42))
        assert intact()
    torch = pytest.importorskip("torch")
    for dtype in DTYPES:
        w = sample(100, dtype, 1)
        t = to_torch(w.copy()).requires_grad_()
        version = t._version
        prune.random_shrink_(t, 0.7, KEY)
        assert bits(from_torch(t)) == bits(shrunk(w, 0.7, 42))
        assert t._version > version
    assert torch.is_grad_enabled()


# ---- ranks


def parts_of(x, cuts):
    return [np.ascontiguousarray(part) for part in np.split(x, cuts)]


COMM_CUTS = [[1000], [0, 1000, 1000], [1, 2999], [500, 1000, 1500, 2000, 2500]]


@pytest.mark.parametrize("cuts", COMM_CUTS, ids=str)
@dtypes
def test_ranks_agree_with_one_process(cuts, dtype):
    x = np.round(sample(3000, np.float64, 1, -2, 2), 1).astype(dtype)
    x[::97] = NAN
    x[::101] = -INF
    parts = parts_of(x, cuts)
    alive = np.random.default_rng(0).random(3000) < 0.6
    lives = parts_of(alive, cuts)
    ranks = Ranks(len(parts))

    whole = {"scope": "global"}

    def check(call, expected):
        got = ranks.run(call)
        for result in got:
            if isinstance(result, Exception):
                raise result
        masks_equal(rl.Mask.from_array(np.concatenate([m.to_array() for m in got])), expected)

    for s in (0.0, 0.1, 0.5, 0.93, 1.0):
        check(lambda r, c, s=s: prune.magnitude(parts[r], s, comm=c, **whole), ref.magnitude(x, s))
        check(lambda r, c, s=s: prune.by_score(parts[r], s, comm=c, **whole), ref.by_score(x, s))
        check(
            lambda r, c, s=s: prune.random(parts[r], s, KEY, comm=c, **whole), ref.random(x, s, 42)
        )
        for of in ("all", "remaining"):
            check(
                lambda r, c, s=s, of=of: prune.magnitude(
                    parts[r], s, comm=c, mask=packed(lives[r]), of=of, **whole
                ),
                ref.magnitude(x, s, mask=alive, of=of),
            )


def test_ranks_with_lists_structures_norms_and_nothing():
    rng = np.random.default_rng(3)
    arrays = [(rng.standard_normal((12, 10)) * 4**k).astype(np.float32) for k in range(4)]
    mine = [[arrays[0]], [], arrays[1:], []]

    def gathered(call):
        results = Ranks(4).run(call)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [m for part in results for m in part.to_array()]

    for structure in (None, ("block", (2, 2), 2), ("channels", 1, 1.0)):
        for normalize in ("none", "l2", "rms"):
            for s in (0.2, 0.55):
                expected = ref.magnitude(
                    arrays, s, scope="global", structure=structure, normalize=normalize
                )
                got = gathered(
                    lambda r, c, s=s, structure=structure, normalize=normalize: prune.magnitude(
                        mine[r], s, scope="global", structure=ours(structure), comm=c,
                        normalize=normalize,
                    )
                )  # fmt: skip
                assert bits(got) == bits(expected)
        expected = ref.random(arrays, 0.3, 42, scope="global", structure=structure, exclude=[2])
        got = gathered(
            lambda r, c, structure=structure: prune.random(
                mine[r], 0.3, KEY, scope="global", structure=ours(structure), comm=c,
                exclude=1 if r == 2 else None,
            )
        )  # fmt: skip
        assert bits(got) == bits(expected)
    got = Ranks(2).run(lambda r, c: prune.magnitude([], 0.5, scope="global", comm=c))
    assert [m.size for m in got] == [0, 0]


def test_ranks_share_large_arrays():
    x = sample(2 * SHARED, np.float32, 0)
    parts = parts_of(x, [SHARED + 77])
    with rl.threads(2):
        got = Ranks(2).run(lambda r, c: prune.magnitude(parts[r], 0.77, scope="global", comm=c))
    expected = prune.magnitude(x, 0.77).to_array()
    assert np.array_equal(np.concatenate([m.to_array() for m in got]), expected)


# ---- what other libraries do


def torch_layer(*shape):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch.nn.Conv2d(*shape) if len(shape) > 2 else torch.nn.Linear(*shape)


def test_torch_l1_unstructured():
    layer = torch_layer(37, 29)
    own = pytest.importorskip("torch.nn.utils.prune")
    w = from_torch(layer.weight).copy()
    mask = None
    for amount in (0.3, 0.5, 0.25, 0.0):
        own.l1_unstructured(layer, "weight", amount)
        mask = prune.magnitude(w, amount, mask=mask, of="remaining")
        masks_equal(mask, from_torch(layer.weight_mask) > 0)


@pytest.mark.parametrize("order", [1, 2, INF])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_torch_ln_structured(order, dim):
    layer = torch_layer(16, 24, 3)
    own = pytest.importorskip("torch.nn.utils.prune")
    w = from_torch(layer.weight).copy()
    if order is INF and dim == -1:
        w = w.astype(np.float64)
    mask = None
    for amount in (0.3, 0.5):
        own.ln_structured(layer, "weight", amount, n=order, dim=dim)
        structure = prune.Channels(dim, order)
        mask = prune.magnitude(w, amount, structure=structure, mask=mask, of="remaining")
        masks_equal(mask, from_torch(layer.weight_mask) > 0)


def test_torch_global_unstructured_and_random():
    own = pytest.importorskip("torch.nn.utils.prune")
    layers = [torch_layer(37, 29), torch_layer(29, 13), torch_layer(3, 8, 3)]
    weights = [from_torch(layer.weight).copy() for layer in layers]
    masks = None
    for amount in (0.4, 0.5):
        pairs = [(layer, "weight") for layer in layers]
        own.global_unstructured(pairs, own.L1Unstructured, amount=amount)
        masks = prune.magnitude(weights, amount, scope="global", mask=masks, of="remaining")
        masks_equal(masks, [from_torch(layer.weight_mask) > 0 for layer in layers])
    for amount in (0.1, 0.25, 0.5, 0.35):  # so many, if not the same ones
        layer = torch_layer(7, 5)
        own.random_unstructured(layer, "weight", amount)
        got = prune.random(from_torch(layer.weight_orig), amount, KEY)
        assert got.count == int(layer.weight_mask.sum())


def test_jaxpruner_keeps_the_lower_index():
    rng = np.random.default_rng(0)
    for n in (10, 1000, 40_000):
        w = rng.integers(-3, 4, n).astype(np.float32)
        for s in (0.25, 0.5, 0.8):
            top = np.argsort(-np.abs(w), kind="stable")[: n - round(s * n)]
            masks_equal(prune.magnitude(w, s), np.isin(np.arange(n), top))


def test_wanda_ranks_each_row():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((12, 40)), rng.standard_normal((100, 40)) * rng.uniform(0.1, 9, 40)
    norms = np.linalg.norm(x, axis=0)
    metric = np.abs(w) * norms
    kept = np.ones(w.shape, bool)
    np.put_along_axis(kept, np.argsort(metric, axis=1, kind="stable")[:, :20], False, 1)
    masks_equal(prune.by_score(prune.scores.wanda(w, norms), 0.5, per_row=True), kept)


# ---- errors

W = np.ones((4, 6))
MASK = rl.Mask.from_array(np.ones((4, 6), bool))
WRONG_FRACTIONS = {-0.1: ValueError, 1.5: ValueError, NAN: ValueError, INF: ValueError}


def refused(error, match, call, *arguments, **keywords):
    with pytest.raises(error, match=match):
        call(*arguments, **keywords)


FUNCTIONS = {
    "magnitude": ("params", lambda x, s=0.5, **more: prune.magnitude(x, s, **more)),
    "by_score": ("scores", lambda x, s=0.5, **more: prune.by_score(x, s, **more)),
    "by_score of rows": (
        "scores",
        lambda x, s=0.5, **more: prune.by_score(x, s, per_row=True, **more),
    ),
    "random": ("params", lambda x, s=0.5, **more: prune.random(x, s, KEY, **more)),
}
functions = pytest.mark.parametrize(("name", "call"), FUNCTIONS.values(), ids=FUNCTIONS)


@functions
@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_wrong_arrays(name, call, what):
    array, error, _ = WRONG_ARRAYS[what]
    if error is None:
        call(array)
        call([W, array])
        return
    refused(error, rf"^{name}.*: got ", call, array)
    refused(error, rf"^{name}\[1\].*: got ", call, [W, array])
    refused(error, rf"^{name}\['a'\]\[0\].*: got ", call, {"a": [array], "b": W})


@functions
def test_wrong_fractions(name, call):
    for value in (-0.1, 1.5, NAN, INF, -INF):
        refused(ValueError, r"^sparsity: got .*, wants a fraction in \[0, 1\]", call, W, value)
        refused(ValueError, r"^sparsity\[1\]: got .*, wants a fraction", call, [W, W], [0.5, value])
        refused(
            ValueError, r"^sparsity\['b'\]\[0\]: got .*, wants a fraction",
            call, {"a": W, "b": [W]}, {"a": 0.1, "b": [value]},
        )  # fmt: skip
    for value in ("0.5", None, 1j, object()):
        refused(TypeError, r"^sparsity: got ", call, W, value)
    refused(TypeError, r"^sparsity\[0\]: got ", call, [W], ["0.5"])
    refused(
        ValueError, r"^sparsity: got a sequence of 1, wants a sequence of 2", call, [W, W], [0.5]
    )
    refused(ValueError, r"^sparsity: got ", call, [W, W], {"a": 0.5, "b": 0.5})
    refused(ValueError, r"^sparsity: got no key 'a'", call, {"a": W}, {"b": 0.5})
    refused((TypeError, ValueError), r"^sparsity.*: got ", call, W, [0.5])


@functions
def test_wrong_words(name, call):
    refused(ValueError, r"^scope: got 'all', wants 'tensor' or 'global'", call, W, scope="all")
    refused(ValueError, r"^of: got None, wants 'all' or 'remaining'", call, W, of=None)
    refused(ValueError, r"^scope: got 1", call, W, scope=1)
    refused(TypeError, r"^structure: got str, wants NM, Block", call, W, structure="2:4")
    refused(TypeError, r"^structure: got tuple", call, W, structure=(2, 4))
    refused(TypeError, r"^exclude: got ", call, [W], exclude=b"a")
    refused(TypeError, r"^exclude: got float", call, [W], exclude=1.5)
    refused(TypeError, r"^exclude: got NoneType", call, [W], exclude=[None])
    refused(ValueError, r"^exclude: got 'b', wants one of 'a'", call, {"a": W}, exclude="b")
    refused(ValueError, r"^exclude: got 2, wants one of '0'", call, [W], exclude=[0, 2])


@functions
def test_wrong_masks(name, call):
    sets = rl.MaskSet.of([MASK, MASK])
    refused(
        TypeError, r"^mask: got ndarray, wants a Mask or MaskSet", call, W, mask=MASK.to_array()
    )
    refused(ValueError, r"^mask: got a MaskSet, wants a Mask for one array", call, W, mask=sets)
    refused(ValueError, r"^mask: got a Mask, wants a MaskSet", call, [W, W], mask=MASK)
    refused(ValueError, r"^mask: got .*, wants", call, [W], mask=sets)
    refused(ValueError, rf"^{name}\[1\]: got shape \(2, 2\), wants \(4, 6\)", call,
            [W, np.ones((2, 2))], mask=sets)  # fmt: skip
    refused(ValueError, rf"^{name}: got shape \(6, 4\), wants \(4, 6\)", call, W.T, mask=MASK)
    refused(ValueError, r"^mask\[0\]: got ", call, [[W], W], mask=sets)
    refused(ValueError, r"^mask: got ", call, {"a": W, "b": W}, mask=sets)


@pytest.mark.parametrize("name", ["magnitude", "by_score", "random"])
def test_arguments_that_do_not_go_together(name):
    label, call = FUNCTIONS[name]
    refused(ValueError, r"^min_sparsity: wants scope=\"global\"", call, [W], min_sparsity=0.1)
    refused(ValueError, r"^max_sparsity: wants scope=\"global\"", call, [W], max_sparsity=0.9)
    refused(ValueError, r"^comm: wants scope=\"global\"", call, W, comm=Ranks(1).comm(0))
    for key in ("min_sparsity", "max_sparsity"):
        both = {"scope": "global", key: 0.5}
        refused(ValueError, r"^comm: got one, wants none", call, W, comm=Ranks(1).comm(0), **both)
        refused(ValueError, rf"^{key}: got 2, wants", call, W, scope="global", **{key: 2})
        refused(TypeError, rf"^{key}: got ", call, W, scope="global", **{key: None})
        refused(ValueError, rf"^{key}\[1\]: got -1", call, [W, W], scope="global", **{key: [0, -1]})
        refused(
            ValueError,
            rf"^{key}: got a sequence of 1",
            call,
            [W, W],
            scope="global",
            **{key: [0.5]},
        )
    crossed = {"min_sparsity": [0, 0.5], "max_sparsity": [1, 0.25]}
    match = rf"^min_sparsity: got 0.5 for {label}\[1\], wants at most max_sparsity, .* 0.25"
    refused(ValueError, match, call, [W, W.copy()], scope="global", **crossed)
    refused(ValueError, r"^sparsity: got 38 of 48 to go, wants 0 to 24", call, [W, W.copy()], 0.8,
            scope="global", max_sparsity=0.5)  # fmt: skip
    refused(ValueError, r"^sparsity: got 10 of 48 to go, wants 24 to 48", call, [W, W.copy()], 0.2,
            scope="global", min_sparsity=0.5)  # fmt: skip
    refused(
        (TypeError, ValueError), r"^sparsity: got ", call, [W, W.copy()], [0.5, 0.5], scope="global"
    )
    nm = prune.NM(2, 4)
    refused(ValueError, r"^scope: got 'global', wants 'tensor' with NM", call, W, scope="global",
            structure=nm)  # fmt: skip
    refused(
        ValueError, r"^sparsity: got 0.25, wants 0.5 or none for NM", call, W, 0.25, structure=nm
    )
    if name != "random":
        refused(ValueError, r"^normalize: wants scope=\"global\"", call, W, normalize="l2")
        refused(ValueError, r"^normalize: got 'l1', wants 'none'", call, W, normalize="l1")


@pytest.mark.parametrize("name", ["magnitude", "by_score", "random"])
def test_structures_that_do_not_fit(name):
    label, call = FUNCTIONS[name]
    small = np.ones(3)
    for structure, s in [
        (prune.Block((2, 2)), 0.5), (prune.Channels(1), 0.5), (prune.Channels(-2), 0.5),
        (prune.NM(2, 4, axis=1), None),
    ]:  # fmt: skip
        refused(ValueError, rf"^{label}: got 1 axes, wants", call, small, s, structure=structure)
        refused(ValueError, rf"^{label}\['b'\]: got 1 axes, wants", call, {"a": W, "b": small}, s,
                structure=structure)  # fmt: skip
    for structure, s in [(prune.Channels(0), 0.5), (prune.Block(2), 0.5), (prune.NM(2, 4), None)]:
        refused(ValueError, rf"^{label}: got 0 axes", call, np.array(1.0), s, structure=structure)


def test_wrong_structures():
    for n, m, match in [(5, 4, "n: got 5, wants 0 to m"), (-1, 4, "n: got -1"), (0, 0, "m: got 0"),
                        (1, 65, "m: got 65, wants 1 to 64")]:  # fmt: skip
        refused(ValueError, f"^{match}", prune.NM, n, m)
    for values in [(2.0, 4), (2, "4"), (2, 4, None), (2, None)]:
        refused(TypeError, r"^(n|m|axis): got ", prune.NM, *values)
    for shape in [(), (0,), (2, -1), 0]:
        refused(ValueError, r"^shape: got .*, wants extents of at least 1", prune.Block, shape)
    for shape in [(2.5,), None, ("a",), 1.5]:
        refused(TypeError, r"^shape: got ", prune.Block, shape)
    refused(TypeError, r"^axis: got ", prune.Channels, 1.0)
    for order in (0, -1, NAN, -INF):
        refused(ValueError, r"^ord: got .*, wants 1, 2, inf", prune.Channels, 0, order)
        refused(ValueError, r"^ord: got ", prune.Block, 2, order)
    refused(TypeError, r"^ord: got ", prune.Channels, 0, "2")
    refused(TypeError, r"^ord: got ", prune.rows, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("length", [1, 7, 16, 17, 63, 64, 65, 200, 8192, 8193])
def test_rows_of_any_length(length, dtype):
    """Rows that end inside a word, with ties, among all elements or some, in any memory order."""
    rng = np.random.default_rng(length)
    rows = 70 if length < 1000 else 3
    w = rng.integers(-40, 40, (rows, length)).astype(dtype)
    w.ravel()[::5] = -0.0
    w.ravel()[::11] = np.nan
    part = rng.random(w.shape) < 0.7
    for mask, alive in ((None, np.ones_like(part)), (rl.Mask.from_array(part), part)):
        ranks = np.where(np.isnan(w), np.inf, w) + dtype(0)
        expected = np.zeros_like(part)
        for i, row in enumerate(ranks):
            places = np.flatnonzero(alive[i])
            order = places[np.argsort(-row[places], kind="stable")]
            expected[i, order[: len(places) - round(0.6 * len(places))]] = True
        for array in (w, np.asfortranarray(w), w[::-1, ::-1].copy()[::-1, ::-1]):
            found = prune.by_score(array, 0.6, per_row=True, mask=mask, of="remaining")
            assert np.array_equal(found.to_array(), expected)


def test_wrong_arguments_of_rows():
    refused(TypeError, r"^per_row: got int, wants True or False", prune.by_score, W, 0.5, per_row=1)
    refused(ValueError, r"^structure: .*per_row", prune.by_score, W, 0.5, per_row=True,
            structure=prune.rows())  # fmt: skip
    refused(ValueError, r"^scope: .*per_row", prune.by_score, W, 0.5, per_row=True, scope="global")
    refused(ValueError, r"^scores: got no axis, wants rows", prune.by_score, np.array(1.0), 0.5,
            per_row=True)  # fmt: skip
    refused(TypeError, r"^sparsity: got None", prune.by_score, W, per_row=True)


def test_wrong_keys():
    for key in (42, None, "a", np.uint64(1)):
        refused(TypeError, r"^key: got ", prune.random, W, 0.5, key)
        refused(TypeError, r"^key: got ", prune.random, [], 0.5, key)
        refused(TypeError, r"^key: got ", prune.random, W, 0.5, key, structure=prune.rows())
        refused(TypeError, r"^key: got ", prune.random_shrink_, W.copy(), 0.5, key)


@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_wrong_arrays_to_shrink(what):
    array, _, error = WRONG_ARRAYS[what]
    good = np.ones(5)
    with unchanged(good):
        refused(error, r"^params\[1\].*: got ", prune.random_shrink_, [good, array], 0.5, KEY)
        named = {"a": good, "b": array}
        refused(error, r"^params\['b'\].*: got ", prune.random_shrink_, named, 0.5, KEY)


def test_wrong_shrinking():
    w = np.ones(9)
    with unchanged(w):
        for strength in (-0.1, 1.1, NAN, INF):
            refused(ValueError, r"^strength: got .*, wants a number in \[0, 1\]",
                    prune.random_shrink_, w, strength, KEY)  # fmt: skip
        for strength in ("a", None, 1j):
            refused(TypeError, r"^strength: got ", prune.random_shrink_, w, strength, KEY)
        refused(
            ValueError, r"^params\[1\]: .*params\[0\]", prune.random_shrink_, [w, w[3:]], 0.5, KEY
        )
    jnp = pytest.importorskip("jax.numpy")
    refused((TypeError, ValueError), r"^params: got ", prune.random_shrink_, jnp.ones(3), 0.5, KEY)


def test_nothing_is_written_by_selection():
    arrays = [sample((40, 30), d, k) for k, d in enumerate(DTYPES)]
    alive = rl.MaskSet.of([rl.Mask.from_array(a.astype(float) > 0) for a in arrays])
    words = [m.to_array().copy() for m in alive]
    with unchanged(arrays):
        for structure in (None, prune.Block((2, 2)), prune.rows(), prune.NM(2, 4)):
            s = None if isinstance(structure, prune.NM) else 0.5
            prune.magnitude(arrays, s, structure=structure, mask=alive)
            prune.random(arrays, s, KEY, structure=structure, mask=alive)
        prune.magnitude(arrays, 0.5, scope="global", normalize="l2", min_sparsity=0.1, mask=alive)
        prune.by_score(arrays, 0.5, per_row=True, mask=alive)
    assert bits([m.to_array() for m in alive]) == bits(words)


# ---- memory

MEMORY = """
import re, sys
import numpy as np
import ridgeline as rl

dtype, kind, threads = sys.argv[1:]
rl.set_num_threads(int(threads))
n = 2**24
if dtype == "bfloat16":
    import ml_dtypes
    dtype = ml_dtypes.bfloat16
rng = np.random.default_rng(0)
w = np.empty(n, dtype)
for part in np.split(w, 64):
    part[:] = rng.standard_normal(part.size, np.float32)
if kind == "zeros":
    w[::2] = 0
x = [w[: n // 2], w[n // 2 : -5], w[-5:]] if kind == "list" else w
calls = [lambda x, s: rl.prune.magnitude(x, s, scope="global")]
if kind == "random":
    calls = [lambda x, s: rl.prune.random(x, s, rl.Key(1), scope="global")]
if kind == "groups":
    calls = [lambda x, s: rl.prune.random(x, None, rl.Key(1), structure=rl.prune.NM(2, 4))]
if kind == "units":
    signed = w.reshape(-1, 1024)
    calls = [lambda x, s: rl.prune.by_score(signed, s, structure=rl.prune.rows(1))]

def status(name):
    with open("/proc/self/status") as file:
        return int(re.search(name + r":\\s+(\\d+) kB", file.read())[1]) * 1024

for call in calls:
    call(w[:300_000], 0.5)
    for s in (0.5, 0.9):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = status("VmRSS")
        masks = call(x, s)
        print((status("VmHWM") - before) / w.nbytes)
        del masks
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs"
)
@pytest.mark.parametrize(
    ("dtype", "kind", "threads"),
    [
        ("float32", "normal", 1), ("float32", "list", 2), ("float32", "zeros", 2),
        ("float32", "random", 2), ("bfloat16", "normal", 2), ("float32", "groups", 2),
        ("float32", "units", 2),
    ],
)  # fmt: skip
def test_memory(dtype, kind, threads):
    command = [sys.executable, "-c", MEMORY, dtype, kind, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shares = [float(line) for line in done.stdout.split()]
    assert len(shares) == 2
    mask = 1 / (8 * (2 if dtype == "bfloat16" else 4))
    # Memory freed by an earlier call may be used again, so less than the mask may be new.
    assert all(share < 0.09 for share in shares), shares
    assert sum(shares) >= mask * 0.25  # something was measured


@pytest.mark.parametrize("target", rl.runtime.targets())
@pytest.mark.parametrize("n", [1, 2, 3])
@dtypes
def test_n_of_4_on_every_target(target, n, dtype):
    """Groups lie in one register, in two or in four."""
    x = np.round(sample((37, 64), np.float64, n, -2, 2), 1).astype(dtype)
    alive = np.random.default_rng(n).random(x.shape) < 0.7
    before = rl.runtime.target()
    rl.runtime.use_target(target)
    try:
        for mask in (None, alive):
            agree("magnitude", x, None, structure=("nm", n, 4, -1), mask=mask, setting=[1])
    finally:
        rl.runtime.use_target(before)


def test_a_mask_for_an_array_without_a_shape():
    """An array that only speaks DLPack is measured by its memory."""

    class Bare:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **keywords):
            return self.array.__dlpack__(**keywords)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    w = np.ones(1000)
    mask = rl.Mask.from_array([True, False, True])
    with pytest.raises(ValueError, match=r"^params: got shape \(1000,\), wants \(3,\)"):
        mask.apply_(Bare(w))
    assert np.all(w == 1)
    three = np.ones(3)
    mask.apply_(Bare(three))
    assert three.tolist() == [1, 0, 1]


def test_an_array_that_grows_during_the_call():
    torch = pytest.importorskip("torch")
    a = torch.ones(10)

    def exclude(name, array):
        a.data = torch.randn(400_000)
        return False

    with pytest.raises(ValueError, match="changed its shape"):
        prune.magnitude([a], 0.5, exclude=exclude)


def test_the_same_out_twice_is_refused():
    w, out = np.ones((4, 4)), np.zeros((5, 4))
    for outs in ([out[:4], out[:4]], [out[:4], out[1:]]):
        with pytest.raises(ValueError, match=r"^out\[[01]\]: got .* out\[[01]\]"):
            prune.scores.taylor([w, w], [w, w], out=outs)
    assert not out.any()


def test_norms_of_blocks_with_infinities_do_not_warn():
    x = np.array([[0.0, 0.0], [1.0, np.inf], [2.0, 2.0]])
    kept = np.array([[False] * 2, [True] * 2, [False] * 2])
    masks_equal(prune.magnitude(x, 0.5, structure=prune.rows()), kept)
