"""Norms and clipping against the float64 oracles, and bit for bit against themselves."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    LAYOUTS,
    SIZES,
    WRONG_ARRAYS,
    assert_ulp,
    bits,
    compute_eps,
    copied,
    dtypes,
    every_setting,
    from_torch,
    is_half,
    layouts,
    placements,
    sample,
    to_torch,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline import reference as ref

NAN, INF = np.nan, np.inf
ORDS = [1, 2, np.inf, 3, 0.5]
ords = pytest.mark.parametrize("ord", ORDS)

#: functions of the gradients alone, with limits that samples exceed
CLIPS = {
    "value": lambda m, g: m.clip_by_value_(g, 0.4),
    "range": lambda m, g: m.clip_by_value_(g, (-0.25, 1.5)),
    "norm": lambda m, g: m.clip_by_norm_(g, 0.7),
    "norm 1": lambda m, g: m.clip_by_norm_(g, 0.7, ord=1),
    "norm inf": lambda m, g: m.clip_by_norm_(g, 0.7, np.inf),
    "norm 3": lambda m, g: m.clip_by_norm_(g, 0.7, 3),
    "global": lambda m, g: m.clip_by_global_norm_(g, 0.7),
    "global 1": lambda m, g: m.clip_by_global_norm_(g, 0.7, ord=1),
    "global inf": lambda m, g: m.clip_by_global_norm_(g, 0.7, np.inf),
    "global 0.5": lambda m, g: m.clip_by_global_norm_(g, 0.7, 0.5),
    "rms": lambda m, g: m.clip_by_rms_(g, 0.3),
    "largest": lambda m, g: m.zero_largest_([a for a in _list(g) if a.size > 2], 3),
}
clips = pytest.mark.parametrize("clip", CLIPS)
EPS64 = 2.0**-53


def _list(grads):
    return [grads] if isinstance(grads, np.ndarray) else grads


def effects(clip, grads):
    """What a clipping function returns and leaves behind, as bits."""
    returned = CLIPS[clip](rl, grads)
    norms = [rl.global_norm(grads, ord) for ord in (1, 2, np.inf)]
    return bits([returned, grads, norms])


def norm_bound(n, ord):
    """A float64 sum in 16 lanes of blocks of 4096 and its oracle; 4 roundings per power and root,
    the exponent 1 / ord multiplying what the sum is off by."""
    if np.isinf(ord):
        return 0.0
    sum_error = (4096 / 16 + 4 + n / 4096 + 40) * EPS64
    return sum_error * max(1, 1 / ord) + 8 * EPS64


# ---- against the oracles


@ords
@dtypes
def test_global_norm(dtype, ord):
    arrays = [sample((33, 40), dtype, 1), sample((), dtype, 2), sample(2**16 + 1, dtype, 3)]
    for case in (arrays, arrays[0], arrays[1], {"a": arrays[2]}):
        n = 70_000
        got = rl.global_norm(case, ord)
        assert isinstance(got, float)
        assert got == pytest.approx(ref.global_norm(case, ord), rel=norm_bound(n, ord), abs=0)
    assert rl.global_norm(arrays) == rl.global_norm(arrays, ord=2)


@clips
@dtypes
def test_clips_match_the_oracle(clip, dtype):
    grads = [
        sample((30, 41), dtype, 1),
        sample(50, dtype, 2),
        sample((7, 3, 2), dtype, 3) / dtype.type(64),
    ]
    exact = [g.astype(np.float64) for g in grads]
    before = copied(grads)
    expected = CLIPS[clip](ref, exact)
    returned = CLIPS[clip](rl, grads)
    if expected is None:
        assert returned is None
    else:
        assert returned == pytest.approx(expected, rel=norm_bound(2000, 0.5))
        assert type(returned) is type(expected)
    for g, wants, old in zip(grads, exact, before, strict=True):
        if clip in ("value", "range", "largest"):
            assert bits(g) == bits(wants.astype(dtype))
        else:  # the scale and the product are rounded, and float64's norm is not exact
            of_norm = norm_bound(2000, 0.5) / 2 / compute_eps(dtype) if dtype == np.float64 else 0
            assert_ulp(g, wants, dtype, 1 + of_norm)
        small = wants == old.astype(np.float64)
        assert bits(g[small]) == bits(old[small])


def test_some_are_clipped_and_some_are_not():
    """The sample above must have both kinds."""
    grads = [sample((30, 41), np.float32, 1), sample((7, 3, 2), np.float32, 3) / 64]
    norms = rl.clip_by_norm_(grads, 0.7)
    assert norms[0] > 0.7 > norms[1]
    rms = rl.clip_by_rms_([sample((30, 41), np.float32, 1), grads[1]], 0.3)
    assert rms[0] > 0.3 > rms[1]


@dtypes
def test_clipped_norm_is_the_limit(dtype):
    grads = [sample(1000, dtype, 1), sample(500, dtype, 2)]
    norm = rl.clip_by_global_norm_(grads, 0.5)
    assert norm > 0.5
    rounding = 2.0**-8 if is_half(dtype) else compute_eps(dtype)
    assert rl.global_norm(grads) == pytest.approx(0.5, rel=2 * rounding)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != np.float64], ids=str)
def test_limits_are_rounded_once(dtype):
    g = np.array([5.0, -5.0, 0.05, INF, -INF], dtype)
    rl.clip_by_value_(g, 0.1)
    wants = np.array([0.1, -0.1, 0.05, 0.1, -0.1]).astype(np.float32).astype(dtype)
    assert bits(g) == bits(wants)


def test_float32_does_not_overflow():
    g = np.array([1e30, 1e30], np.float32)
    assert rl.global_norm(g) == pytest.approx(math.sqrt(2) * float(g[0]), rel=1e-15)
    assert rl.global_norm(g, 1) == 2 * float(g[0])
    assert rl.clip_by_global_norm_(g, 1.0) == pytest.approx(1.414e30, rel=1e-3)
    assert_ulp(g, np.full(2, 0.5**0.5), np.float32, 1)
    half = np.full(1000, 3000, np.float16)
    assert rl.clip_by_global_norm_(half, 1.0) == pytest.approx(3000 * math.sqrt(1000), rel=1e-15)
    assert_ulp(half, np.full(1000, 1 / math.sqrt(1000)), np.float16, 1)


@pytest.mark.parametrize(
    ("dtype", "big", "limit"),
    [
        (np.float32, 3e38, 1.0),
        (np.float32, 1e38, 1e-3),
        (np.float32, 1e20, 1e-19),
        (BFLOAT16, 1e38, 1e-3),
        (np.float64, 1e307, 1e-2),
    ],
)
def test_scale_below_the_normal_range(dtype, big, limit):
    """max_norm / norm is a subnormal float32 (or float64): the product must not lose bits."""
    g = np.full(4, big, dtype)
    expected = g.astype(np.float64)
    assert rl.clip_by_global_norm_(g, limit) == ref.clip_by_global_norm_(expected, limit)
    assert_ulp(g, expected, dtype, 1)


@pytest.mark.parametrize("scale", [2.0**990, 2.0**600, 2.0**-600, 2.0**-1000])
@ords
def test_float64_squares_leave_the_range(scale, ord):
    x = sample(5000, np.float64, 1, low=-2, high=1)
    expected = rl.global_norm(x, ord) * scale
    g = x * scale
    assert rl.global_norm(g, ord) == pytest.approx(expected, rel=1e-13, abs=0)
    assert rl.clip_by_global_norm_([g], expected / 2, ord) == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(g / scale, x / 2, rtol=1e-13)
    assert rl.clip_by_norm_(g, expected / 4, ord) == pytest.approx([expected / 2], rel=1e-13)
    big = [x * scale, np.ones(3, np.float32), np.zeros(0)]
    assert rl.global_norm(big, ord) == pytest.approx(ref.global_norm(big, ord), rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_leave_the_range(dtype):
    for x, ord in [([2.0, 1.0], 1100), ([1e30, 1e30], 12), ([1e-30, 1e-30], 12), ([1.0] * 3, 0.01)]:
        g = np.array(x, dtype)
        assert rl.global_norm(g, ord) == pytest.approx(ref.global_norm(g, ord), rel=1e-13, abs=0)
    assert rl.global_norm(np.full(2, 1.7e308)) == INF  # as the norm itself is


def test_float64_rms_leaves_the_range():
    g = np.full(100, 1e300)
    assert rl.clip_by_rms_(g, 1e299) == pytest.approx([1e300], rel=1e-14)
    np.testing.assert_allclose(g, 1e299, rtol=1e-14)
    tiny = np.full(100, 1e-300)
    assert rl.clip_by_rms_(tiny, 1.0) == pytest.approx([1e-300], rel=1e-14)


@dtypes
def test_subnormal_gradients(dtype):
    unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.itemsize]
    g = np.array([3, 4] * 20, unsigned).view(dtype)
    step = float(g[0]) / 3
    assert rl.global_norm(g) == pytest.approx(5 * step * math.sqrt(20), rel=1e-12)
    assert rl.global_norm(g, np.inf) == 4 * step
    with unchanged(g):
        rl.clip_by_global_norm_(g, 1.0)
    rl.clip_by_norm_(g, 2.0 * step, np.inf)
    assert set(g.astype(np.float64) / step) == {2.0}  # 1.5 and 2, to nearest even
    rl.clip_by_value_(g, 1.0 * step)
    assert set(g.astype(np.float64) / step) == {1.0}


@pytest.mark.slow
def test_64_million_elements():
    x = np.random.default_rng(0).standard_normal(2**26, np.float32)
    squares, sizes = [], []
    for block in np.split(x, 64):
        wide = block.astype(np.float64)
        squares.append(float(np.dot(wide, wide)))
        sizes.append(float(np.sum(np.abs(wide))))
    norm = math.sqrt(math.fsum(squares))
    assert rl.global_norm(x) == pytest.approx(norm, rel=1e-7)
    assert rl.global_norm(x, 1) == pytest.approx(math.fsum(sizes), rel=1e-7)
    assert rl.L2(1.0).value(x) == pytest.approx(norm**2 / 2, rel=1e-7)
    assert rl.L1(1.0).value(np.split(x, 64)) == pytest.approx(math.fsum(sizes), rel=1e-7)
    assert rl.clip_by_global_norm_(x, 1.0) == pytest.approx(norm, rel=1e-7)
    assert rl.global_norm(x) == pytest.approx(1.0, rel=1e-7)


# ---- non-finite numbers

#: what a clip leaves of [NaN, 1] [inf, -1] [-inf, 8] [-0, 0.5], each a separate array
PER_ARRAY = {
    "value": [[NAN, 0.4], [0.4, -0.4], [-0.4, 0.4], [-0.0, 0.4]],
    "range": [[NAN, 1], [1.5, -0.25], [-0.25, 1.5], [-0.0, 0.5]],
    "norm": [[NAN, NAN], [NAN, -0.0], [NAN, 0], [-0.0, 0.5]],
    "norm 1": [[NAN, NAN], [NAN, -0.0], [NAN, 0], [-0.0, 0.5]],
    "norm inf": [[NAN, NAN], [NAN, -0.0], [NAN, 0], [-0.0, 0.5]],
    "norm 3": [[NAN, NAN], [NAN, -0.0], [NAN, 0], [-0.0, 0.5]],
    "rms": [[NAN, NAN], [NAN, -0.0], [NAN, 0], [-0.0, 0.3 * math.sqrt(2)]],
}


@pytest.mark.parametrize("clip", PER_ARRAY)
@dtypes
def test_special_values_per_array(clip, dtype):
    rows = [[NAN, 1], [INF, -1], [-INF, 8], [-0.0, 0.5]]
    grads = [np.repeat(np.array(row, dtype), 20) for row in rows]
    if clip == "norm":  # 20 of each are larger than two of each
        grads[3] = np.array(rows[3], dtype)
    if clip in ("norm 1", "norm 3"):
        grads[3] = np.array(rows[3], dtype)
    returned = CLIPS[clip](rl, grads)
    if returned is not None:
        np.testing.assert_array_equal(returned[:3], [NAN, INF, INF])
    for g, wants in zip(grads, PER_ARRAY[clip], strict=True):
        wide = np.repeat(np.array(wants, np.float32).astype(dtype), g.size // 2).astype(np.float64)
        got = g.astype(np.float64)
        np.testing.assert_allclose(got, wide, rtol=2e-7 if not is_half(dtype) else 1e-2)
        if not is_half(dtype) or clip in ("value", "range"):
            zeros = wide == 0
            np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(wide[zeros]))


@pytest.mark.parametrize("ord", ORDS)
@dtypes
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("policy", ["propagate", "raise", "skip", "zero"])
def test_nonfinite_policies(policy, bad, dtype, ord):
    arrays = [np.array([0.5, -2.0] * 20, dtype) for _ in range(4)]
    grads = {"b": arrays[0], "w": [arrays[1], (arrays[2],)], "z": arrays[3]}
    arrays[2][17] = arrays[3][0] = bad
    before, norm = copied(arrays), INF if abs(bad) == INF else NAN
    if policy == "raise":
        with unchanged(arrays), pytest.raises(rl.NonFiniteError) as caught:
            rl.clip_by_global_norm_(grads, 1.0, ord, on_nonfinite=policy)
        assert caught.value.array == "grads['w'][1][0]"
        assert "grads['w'][1][0]" in str(caught.value)
        assert isinstance(caught.value, FloatingPointError)
        return
    returned = rl.clip_by_global_norm_(grads, 1.0, ord, on_nonfinite=policy)
    np.testing.assert_array_equal(returned, norm)
    for g, old in zip(arrays, before, strict=True):
        if policy == "skip":
            assert bits(g) == bits(old)
        elif policy == "zero":
            assert not np.any(g.astype(np.float64))
        else:
            old = old.astype(np.float64)
            wants = np.full(old.shape, NAN) if norm != INF else np.where(np.isinf(old), NAN, 0)
            np.testing.assert_array_equal(g.astype(np.float64), wants)


@pytest.mark.parametrize("policy", ["propagate", "raise", "skip", "zero"])
def test_policies_clip_finite_gradients(policy):
    g = np.array([3.0, 4.0])
    assert rl.clip_by_global_norm_(g, 1.0, on_nonfinite=policy) == 5.0
    assert g == pytest.approx([0.6, 0.8], rel=1e-15)


@pytest.mark.parametrize(
    ("grads", "name"),
    [
        (np.array([NAN]), "grads"),
        ([np.ones(2), np.array([1.0, INF])], "grads[1]"),
        ((np.ones(2), {"a": np.array([NAN])}), "grads[1]['a']"),
        ({3: [np.array([INF])]}, "grads[3][0]"),
        ((a for a in [np.ones(1), np.array([NAN])]), "grads[1]"),
    ],
)
def test_nonfinite_error_names_the_array(grads, name):
    with pytest.raises(rl.NonFiniteError) as caught:
        rl.clip_by_global_norm_(grads, 1.0, on_nonfinite="raise")
    assert caught.value.array == name


def test_first_bad_array_for_any_number_of_threads():
    arrays = [np.ones(5000, np.float32) for _ in range(300)]
    for i in (123, 200, 299):
        arrays[i][-1] = NAN

    def name():
        with pytest.raises(rl.NonFiniteError) as caught:
            rl.clip_by_global_norm_(arrays, 1.0, on_nonfinite="raise")
        return caught.value.array

    assert name() == "grads[123]"
    every_setting(name)


def test_limits_at_the_ends():
    g = np.array([3.0, -4.0])
    with unchanged(g):
        assert rl.clip_by_global_norm_(g, INF) == 5.0
        assert rl.clip_by_norm_(g, INF) == [5.0]
        assert rl.clip_by_global_norm_(g, 5.0) == 5.0
    assert rl.clip_by_global_norm_(g, 0.0) == 5.0
    assert g.tolist() == [0, 0]
    with unchanged(g):
        assert rl.clip_by_global_norm_(g, 0.0) == 0.0  # 0 / 0 doesn't happen
        assert rl.clip_by_norm_([g], 0.0) == [0.0]
        assert rl.clip_by_rms_([g], 0.0) == [0.0]
    bad = np.array([INF, 1.0])
    with unchanged(bad):
        assert rl.clip_by_global_norm_(bad, INF) == INF  # inf <= inf
    rl.clip_by_value_(g := np.array([-3.0, 2.0, NAN, INF]), 0.0)
    np.testing.assert_array_equal(g, [0, 0, NAN, 0])
    rl.clip_by_value_(g := np.array([-3.0, 2.0, 0.5]), (0.5, 0.5))
    assert g.tolist() == [0.5, 0.5, 0.5]
    rl.clip_by_value_(g := np.array([-3.0, 2.0]), (-INF, 1.0))
    assert g.tolist() == [-3, 1]


# ---- same bits


@clips
@dtypes
def test_targets_threads_sizes(clip, dtype):
    grads = [sample(n, dtype, n) for n in SIZES]
    every_setting(lambda: effects(clip, copied(grads)))


@dtypes
def test_norms_on_every_target(dtype):
    arrays = [sample(n, dtype, n) for n in [*range(40), 4095, 4096, 4097, 100_003]]

    def norms():
        return bits([rl.global_norm(a, ord) for a in [*arrays, arrays] for ord in ORDS])

    every_setting(norms)


@clips
@dtypes
def test_offsets(clip, dtype):
    g = sample(150, dtype, 1)
    for n in (3, 31, 70):
        for start in range(18):
            expected = effects(clip, g[start : start + n].copy())
            inside = g.copy()
            assert effects(clip, inside[start : start + n]) == expected
            assert bits(inside[:start]) == bits(g[:start])
            assert bits(inside[start + n :]) == bits(g[start + n :])


@layouts
@dtypes
def test_layouts(layout, dtype):
    for shape in [(3, 5, 7), (40, 33, 50)]:
        g = sample(shape, dtype, 1)
        for clip in CLIPS:
            expected = effects(clip, g.copy())
            view, intact = LAYOUTS[layout](g)
            assert effects(clip, view) == expected, clip
            assert intact(), clip


@settings(max_examples=60, deadline=None)
@given(placements(), placements(), st.sampled_from(DTYPES), st.sampled_from(list(CLIPS)))
def test_any_shape_and_strides(placement, other, dtype, clip):
    (shape, place), (other_shape, place_other) = placement, other
    g, h = sample(shape, dtype, 1), sample(other_shape, dtype, 2)
    expected = effects(clip, [g.copy(), h.copy()])
    (in_g, g_intact), (in_h, h_intact) = place(g), place_other(h)
    assert effects(clip, [in_g, in_h]) == expected
    assert g_intact()
    assert h_intact()


@dtypes
def test_clip_by_value_in_pieces(dtype):
    g = sample(3001, dtype, 1)
    whole = g.copy()
    rl.clip_by_value_(whole, (-0.3, 0.9))
    for cuts in [np.sort(np.random.default_rng(k).integers(0, 3001, k)) for k in (1, 7, 60)]:
        pieces = g.copy()
        rl.clip_by_value_(np.split(pieces, cuts), (-0.3, 0.9))
        assert bits(pieces) == bits(whole)


@dtypes
def test_scalars_and_empty(dtype):
    g = np.array(-3.0, dtype)
    assert rl.global_norm(g) == 3.0
    assert rl.clip_by_norm_(g, 2.0) == [3.0]
    assert g == pytest.approx(-2.0)
    rl.clip_by_value_(g, 1.0)
    assert g == -1
    rl.zero_largest_(g)
    assert g == 0
    for empty in [np.zeros(0, dtype), np.zeros((3, 0), dtype)]:
        assert rl.global_norm(empty) == 0.0
        assert rl.global_norm(empty, np.inf) == 0.0
        assert rl.clip_by_global_norm_(empty, 1.0) == 0.0
        rms = rl.clip_by_rms_([empty, np.full(2, 3.0, dtype)], 4.0)
        assert rms == pytest.approx([0.0, 3.0], rel=1e-15)
        rl.clip_by_value_(empty, 1.0)
        rl.zero_largest_(empty, 3)


@pytest.mark.parametrize("nothing", [[], (), {}, [{}, []]], ids=repr)
def test_no_arrays(nothing):
    for ord in ORDS:
        assert rl.global_norm(nothing, ord) == 0.0
    for policy in ["propagate", "raise", "skip", "zero"]:
        assert rl.clip_by_global_norm_(nothing, 0.0, on_nonfinite=policy) == 0.0
    assert rl.clip_by_norm_(nothing, 1.0) == []
    assert rl.clip_by_rms_(nothing, 1.0) == []
    rl.clip_by_value_(nothing, 1.0)
    rl.zero_largest_(nothing)


# ---- containers


def test_containers():
    tree = {"w": [np.array([3.0]), (np.array([[4.0]]),)], "b": np.array(12.0)}
    assert rl.global_norm(tree) == 13.0
    assert rl.clip_by_norm_(tree, 6.0) == [3.0, 4.0, 12.0]
    assert rl.clip_by_global_norm_(tree, 100.0) == pytest.approx(math.sqrt(9 + 16 + 36))
    assert rl.global_norm(a for a in [np.array([3.0]), np.array([4.0])]) == 5.0
    mixed = [np.array([3.0], np.float32), np.array([4.0], BFLOAT16), np.array([12.0], np.float16)]
    assert rl.clip_by_global_norm_(mixed, 6.5) == 13.0
    assert [float(a[0]) for a in mixed] == [1.5, 2.0, 6.0]
    assert [a.dtype for a in mixed] == [np.float32, BFLOAT16, np.float16]


def test_read_twice_counts_twice_written_twice_is_an_error():
    g = np.array([3.0, 4.0])
    assert rl.global_norm([g, g]) == pytest.approx(math.sqrt(50))
    for twice in ([g, g], {"a": g, "b": [g]}, (g, g[1:]), [g, g.reshape(1, 2)], [g[::-1], g]):
        for call in (
            lambda x: rl.clip_by_global_norm_(x, 1.0),
            lambda x: rl.clip_by_global_norm_(x, 100.0),
            lambda x: rl.clip_by_norm_(x, 1.0),
            lambda x: rl.clip_by_rms_(x, 1.0),
            lambda x: rl.clip_by_value_(x, 1.0),
            lambda x: rl.zero_largest_(x),
        ):
            with unchanged(g), pytest.raises(ValueError, match="grads"):
                call(twice)


def test_disjoint_views_of_one_buffer():
    flat = sample(100, np.float32)
    expected = flat.copy()
    rl.clip_by_value_(expected, 0.1)
    rl.clip_by_value_([flat[:50], flat[50:]], 0.1)
    assert bits(flat) == bits(expected)
    square, expected = sample((8, 8), np.float32), sample((8, 8), np.float32)
    rl.clip_by_value_(expected, 0.1)
    rl.clip_by_value_([square[:, ::2], square[:, 1::2]], 0.1)
    assert bits(square) == bits(expected)


# ---- nothing written, if need be

PAGE = """
import ctypes, mmap, sys
import numpy as np
import ridgeline as rl

libc = ctypes.CDLL(None, use_errno=True)
g = []
for dtype in (np.float32, np.float64, np.float16):
    page = mmap.mmap(-1, 1 << 20)
    array = np.frombuffer(page, dtype)
    array[:] = np.where(np.arange(array.size) % 2, -0.5, 0.25)
    address = ctypes.c_void_p(array.ctypes.data)
    assert libc.mprotect(address, ctypes.c_size_t(1 << 20), mmap.PROT_READ) == 0
    g.append(array)
columns = [a.reshape(-1, 64)[:, ::3] for a in g]
strided = [a.reshape(-1, 64).T for a in g]
print("ready", flush=True)
exec(sys.argv[1])
print("done", flush=True)
"""


def on_protected_pages(code):
    return subprocess.run(
        [sys.executable, "-c", PAGE, code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
def test_nothing_is_written_when_nothing_is_clipped():
    run = on_protected_pages(
        """
for arrays in (g, columns, strided):
    for ord in (1, 2, float("inf"), 3):
        norm = rl.global_norm(arrays, ord)
        assert rl.clip_by_global_norm_(arrays, norm, ord) == norm
        rl.clip_by_norm_(arrays, norm, ord)
    for policy in ("raise", "skip", "zero"):
        rl.clip_by_global_norm_(arrays, 1e9, on_nonfinite=policy)
    rl.clip_by_rms_(arrays, 0.5)
    rl.clip_by_value_(arrays, 0.5)
    rl.clip_by_value_(arrays, (-0.5, 0.25))
    rl.zero_largest_(arrays, 0)
    rl.L1(0.1).value(arrays)
    for bad in (lambda: rl.clip_by_norm_(arrays, -1.0), lambda: rl.zero_largest_(arrays, 1 << 30)):
        try:
            bad()
        except ValueError:
            continue
        raise AssertionError
"""
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["ready", "done"]


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
def test_nothing_is_written_when_skipping():
    # the one bad number is in an array of its own
    run = on_protected_pages(
        """
bad = [*g, np.array([np.nan])]
rl.clip_by_global_norm_(bad, 1.0, on_nonfinite="skip")
try:
    rl.clip_by_global_norm_(bad, 1.0, on_nonfinite="raise")
except rl.NonFiniteError as error:
    assert error.array == "grads[3]"
else:
    raise AssertionError
"""
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
def test_the_pages_above_are_protected():
    run = on_protected_pages("rl.clip_by_global_norm_(g, 0.1)")
    assert run.returncode < 0 or "AddressSanitizer: SEGV" in run.stderr
    assert run.stdout.split() == ["ready"]


def test_only_arrays_over_their_limit_are_written():
    torch = pytest.importorskip("torch")
    small, large = torch.full((4,), 0.1), torch.full((4,), 5.0)
    versions = small._version, large._version
    rl.clip_by_norm_([small, large], 1.0)
    assert large._version > versions[1]
    assert small.tolist() == torch.full((4,), 0.1).tolist()
    assert rl.global_norm(large) == pytest.approx(1.0, rel=1e-6)


# ---- zero_largest_


@dtypes
@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_zero_largest(dtype, count):
    rng = np.random.default_rng(count)
    grads = [
        sample((13, 11), dtype, 1),
        np.asarray(rng.integers(-3, 4, (20, 30)), dtype),  # ties everywhere
        np.asarray(rng.integers(-3, 4, 5000), dtype),
        np.asarray(rng.integers(-1, 2, (30, 4)), dtype).T,
        np.full(60, -2, dtype),
    ]
    grads[2][rng.integers(0, 5000, 7)] = NAN
    grads[2][rng.integers(0, 5000, 7)] = -INF
    expected = copied(grads)
    ref.zero_largest_(expected, count)
    assert rl.zero_largest_(grads, count) is None
    for g, wants, old in zip(grads, expected, copied(grads), strict=True):
        assert bits(g) == bits(wants)
        assert old.shape == g.shape


@dtypes
@pytest.mark.parametrize("count", [65, 119, 120])
def test_zero_largest_of_many(dtype, count):
    """More than are put aside one by one."""
    rng = np.random.default_rng(count)
    grads = [
        sample((13, 11), dtype, 1),
        sample(120, dtype, 2),
        sample((40, 256), dtype, 3)[:, ::2],
        np.asarray(rng.integers(-3, 4, (20, 30)), dtype),
        np.asarray(rng.integers(-1, 2, (30, 4)), dtype).T,
        np.full(130, -2, dtype),
        np.full(130, NAN, dtype),
    ]
    grads[2][0, rng.integers(0, 128, 7)] = NAN
    grads[2][5, rng.integers(0, 128, 7)] = -INF
    expected = copied(grads)
    ref.zero_largest_(expected, count)
    every = copied(grads)
    rl.zero_largest_(every, count)
    assert bits(every) == bits(expected)
    rl.zero_largest_(grads[2], 3000)
    ref.zero_largest_(expected[2], 3000 - count)
    assert bits(grads[2]) == bits(expected[2])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory")
def test_zero_largest_of_many_takes_little_memory():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, numpy as np, ridgeline as rl\n"
            "n = 1 << 22\n"
            "grads = [np.arange(1, n + 1, dtype='f4') for _ in range(2)]\n"
            "rl.zero_largest_(grads)\n"  # the threads and their stacks are there
            "used = 4096 * int(open('/proc/self/statm').read().split()[0])\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 2 * n, used + 2 * n))\n"
            "rl.zero_largest_(grads, n // 2)\n"
            "print([int(np.count_nonzero(g)) for g in grads])\n",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["[2097151,", "2097151]"], done.stderr


def test_zero_largest_ties_and_nan():
    g = np.array([[1.0, -3.0, 3.0], [NAN, INF, NAN]])
    for wants in (
        [1, -3, 3, 0, INF, NAN],
        [1, -3, 3, 0, INF, 0],
        [1, -3, 3, 0, 0, 0],
        [1, 0, 3, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ):
        rl.zero_largest_(g)
        np.testing.assert_array_equal(g.ravel(), wants)
    rl.zero_largest_(g, 2)
    assert not np.any(np.signbit(g))
    columns = np.array([[1.0, 2.0], [2.0, 1.0]]).T  # C order of the view: 1, 2, 2, 1
    rl.zero_largest_(columns)
    assert columns.tolist() == [[1, 0], [2, 1]]
    whole = np.array([-1.0, -0.0, NAN])
    rl.zero_largest_(whole, 3)
    assert bits(whole) == bits(np.zeros(3))
    per_array = {"a": np.array([1.0, 5.0]), "b": np.array([9.0, 7.0])}
    rl.zero_largest_(per_array)
    assert bits(per_array) == bits({"a": np.array([1.0, 0.0]), "b": np.array([0.0, 7.0])})


# ---- comm


def test_generators_are_walked_once():
    """With comm= too, where the arrays are looked at several times."""
    one = types.SimpleNamespace(allgather=lambda norm: [norm])
    for policy in ("propagate", "raise", "skip", "zero"):
        for last in (4.0, math.nan):
            mine, plain = ([np.array([3.0, 0.0]), np.array([last])] for _ in range(2))
            calls = (
                lambda g, p=policy: rl.clip_by_global_norm_(g, 1.0, on_nonfinite=p, comm=one),
                lambda g, p=policy: rl.clip_by_global_norm_(g, 1.0, on_nonfinite=p),
            )
            if policy == "raise" and last != 4:
                for call in calls:
                    with pytest.raises(rl.NonFiniteError, match=r"grads\[1\]"):
                        call(x for x in mine)
                continue
            norms = [
                call(x for x in arrays) for call, arrays in zip(calls, (mine, plain), strict=True)
            ]
            assert str(norms[0]) == str(norms[1])
            assert bits(mine) == bits(plain)


def test_what_a_communicator_returns():
    for good in ([5.0], (5.0, 0), np.array([5.0, 0.0]), [np.float32(5), 0], iter([5.0])):
        g = np.array([3.0, 4.0])
        comm = types.SimpleNamespace(allgather=lambda _, x=good: x)
        assert rl.clip_by_global_norm_(g, 1.0, comm=comm) == 5
        assert g.tolist() == pytest.approx([0.6, 0.8])
    for bad in (math.inf, math.nan):
        g = np.array([3.0, 4.0])
        comm = types.SimpleNamespace(allgather=lambda norm, x=bad: [norm, x])
        assert str(rl.clip_by_global_norm_(g, 1.0, on_nonfinite="skip", comm=comm)) == str(bad)
        assert g.tolist() == [3, 4]


class Ranks:
    """mpi4py's allgather between threads of one process; values travel pickled."""

    def __init__(self, size):
        self.size = size
        self.values = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def comm(self, rank):
        ranks = self

        class Comm:
            def allgather(self, value):
                ranks.values[rank] = pickle.dumps(value)
                ranks.barrier.wait()
                gathered = [pickle.loads(v) for v in ranks.values]
                ranks.barrier.wait()
                return gathered

        return Comm()

    def run(self, function):
        """Call function(rank, comm) on every rank; return the results, or the errors."""
        results = [None] * self.size

        def work(rank):
            try:
                results[rank] = function(rank, self.comm(rank))
            except Exception as error:
                results[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@ords
@pytest.mark.parametrize("scale", [1.0, 2.0**600])
def test_two_ranks(ord, scale):
    shards = [
        [sample(500, np.float64, 1) * scale, sample(3, np.float32, 2)],
        [sample(700, np.float64, 3)],
    ]
    whole = [a.copy() for shard in shards for a in shard]
    exact = ref.global_norm(whole, ord)
    norms = Ranks(2).run(
        lambda rank, comm: rl.clip_by_global_norm_(shards[rank], exact / 3, ord, comm=comm)
    )
    assert norms[0] == norms[1] == pytest.approx(exact, rel=norm_bound(1200, ord), abs=0)
    for got, old in zip([a for shard in shards for a in shard], whole, strict=True):
        assert_ulp(got, old.astype(np.float64) / 3, got.dtype, 300)


@pytest.mark.parametrize(("limit", "factor"), [(5.0, 1.0), (4.0, 0.8)])
def test_two_ranks_near_the_limit(limit, factor):
    shards = [np.array([3.0, 0.0]), np.array([4.0])]
    norms = Ranks(2).run(lambda rank, comm: rl.clip_by_global_norm_(shards[rank], limit, comm=comm))
    assert norms == [5.0, 5.0]
    np.testing.assert_allclose(np.concatenate(shards), np.multiply([3.0, 0.0, 4.0], factor))


def test_ranks_agree_and_order_matters_to_neither():
    shards = [sample(1000, np.float32, seed) for seed in range(3)]

    def clip(order):
        mine = [shards[i].copy() for i in order]
        norms = Ranks(3).run(lambda rank, comm: rl.clip_by_global_norm_(mine[rank], 0.1, comm=comm))
        return norms, mine

    norms, clipped = clip([0, 1, 2])
    assert len(set(norms)) == 1
    assert norms == clip([0, 1, 2])[0]
    assert rl.global_norm(clipped) == pytest.approx(0.1, rel=1e-6)
    one = [shards[0].copy()]
    assert Ranks(1).run(lambda _, comm: rl.clip_by_global_norm_(one, 0.1, comm=comm)) == [
        rl.clip_by_global_norm_([shards[0].copy()], 0.1)
    ]


def test_rank_without_arrays():
    g = [np.array([3.0, 4.0])]
    norms = Ranks(2).run(
        lambda rank, comm: rl.clip_by_global_norm_(g if rank else [], 1.0, comm=comm)
    )
    assert norms == [5.0, 5.0]
    assert g[0] == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("policy", ["propagate", "raise", "skip", "zero"])
def test_ranks_share_the_policy(policy, bad):
    shards = [[np.array([3.0])], [np.array([1.0]), np.array([bad])]]
    results = Ranks(2).run(
        lambda rank, comm: rl.clip_by_global_norm_(
            shards[rank], 1.0, on_nonfinite=policy, comm=comm
        )
    )
    left = [a.item() for shard in shards for a in shard]
    if policy == "raise":
        assert all(isinstance(r, rl.NonFiniteError) for r in results), results
        assert results[1].array == "grads[1]"
        np.testing.assert_array_equal(left, [3, 1, bad])
        return
    np.testing.assert_array_equal(results, [bad, bad])
    wants = {
        "skip": [3, 1, bad],
        "zero": [0, 0, 0],
        "propagate": [0, 0, NAN] if bad == INF else [NAN, NAN, NAN],
    }
    np.testing.assert_array_equal(left, wants[policy])


# ---- errors

NOT_NUMBERS = ["1", True, np.True_, None, [1.0], 1j, np.array([1.0, 2.0])]
LIMITS = {
    "max_norm": [
        lambda g, v: rl.clip_by_global_norm_(g, v),
        lambda g, v: rl.clip_by_norm_(g, v),
    ],
    "max_rms": [lambda g, v: rl.clip_by_rms_(g, v)],
    "ord": [
        lambda g, v: rl.global_norm(g, v),
        lambda g, v: rl.clip_by_norm_(g, 1.0, v),
        lambda g, v: rl.clip_by_global_norm_(g, 1.0, v),
        lambda g, v: rl.clip_by_global_norm_(g, 1.0, ord=v),
    ],
}


@pytest.mark.parametrize("argument", LIMITS)
def test_scalar_errors(argument):
    g = np.array([3.0, 4.0])
    out_of_range = [NAN, -1.0, -INF, *([0.0] if argument == "ord" else [])]
    for call in LIMITS[argument]:
        for error, bads in [(TypeError, NOT_NUMBERS), (ValueError, out_of_range)]:
            for bad in bads:
                with unchanged(g), pytest.raises(error, match=argument):
                    call([g], bad)


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        *[(bad, TypeError) for bad in ("1", True, None, 1j, ("0", 1.0), (0.0, None), (True, 2.0))],
        *[(bad, ValueError) for bad in (-1.0, NAN, (1.0, 0.5), (NAN, 1.0), (0.0, NAN), -INF)],
        *[(bad, (TypeError, ValueError)) for bad in ((1.0,), (0.0, 1.0, 2.0), (), np.ones(3))],
    ],
    ids=repr,
)
def test_limit_errors(limit, error):
    g = np.array([3.0, -4.0])
    with unchanged(g), pytest.raises(error, match="limit"):
        rl.clip_by_value_(g, limit)


@pytest.mark.parametrize(
    ("count", "error"),
    [
        *[(bad, TypeError) for bad in (1.0, "1", True, None, [1], NAN)],
        *[(bad, ValueError) for bad in (-1, 3, 10**30)],
    ],
    ids=repr,
)
def test_count_errors(count, error):
    g = [np.arange(5.0), np.array([3.0, -4.0])]
    with unchanged(g), pytest.raises(error, match="count"):
        rl.zero_largest_(g, count)
    rl.zero_largest_(g, np.int64(1))
    assert g[1].tolist() == [3, 0]


def test_option_errors():
    g = np.array([3.0, -4.0])
    with unchanged(g):
        for bad, error in [
            ("ignore", ValueError),
            (None, (TypeError, ValueError)),
            (0, (TypeError, ValueError)),
        ]:
            with pytest.raises(error, match="on_nonfinite"):
                rl.clip_by_global_norm_(g, 1.0, on_nonfinite=bad)
        for bad in (object(), 3, "world", types.SimpleNamespace(allgather=3)):
            with pytest.raises(TypeError, match=r"^comm: got .*, wants an object whose allgather"):
                rl.clip_by_global_norm_(g, 1.0, comm=bad)
        for nonsense in (None, 3.0, "12", [None], ["1"], [[1.0]], [True], np.ones((2, 2))):
            comm = types.SimpleNamespace(allgather=lambda _, x=nonsense: x)
            with pytest.raises(TypeError, match=r"(?s)^comm.allgather: got .*, wants a list"):
                rl.clip_by_global_norm_(g, 1.0, comm=comm)
        for nonsense in ([], [-1.0], (1.0, -math.inf)):
            comm = types.SimpleNamespace(allgather=lambda _, x=nonsense: x)
            with pytest.raises(ValueError, match=r"^comm.allgather: got .* at least 0"):
                rl.clip_by_global_norm_(g, 1.0, comm=comm)
        with pytest.raises(TypeError):
            rl.clip_by_global_norm_(g, 1.0, 2, "skip")


@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_array_errors(what):
    bad, reading, writing = WRONG_ARRAYS[what]
    if what == "None in a list":
        return  # passed over: tests/test_arrays.py
    good = np.full(3, 5.0)
    if reading:
        with pytest.raises(reading, match="arrays"):
            rl.global_norm(bad)
    else:
        assert rl.global_norm(bad) == pytest.approx(math.sqrt(bad.size))
    for call in (
        lambda g: rl.clip_by_global_norm_(g, 0.5),
        lambda g: rl.clip_by_global_norm_(g, 500.0),
        lambda g: rl.clip_by_norm_(g, 0.5),
        lambda g: rl.clip_by_rms_(g, 0.5),
        lambda g: rl.clip_by_value_(g, 0.5),
        lambda g: rl.zero_largest_(g),
    ):
        with unchanged(good):
            with pytest.raises(writing, match="grads"):
                call(bad)
            if bad is not None:
                with pytest.raises(writing, match=r"grads\['a'\]\[1\]"):
                    call({"a": [good, bad]})


# ---- torch


@clips
@dtypes
def test_torch_gives_the_same_bits(clip, dtype):
    grads = [sample((40, 50), dtype, 1), sample(7, dtype, 2)]
    plain, inside = copied(grads), copied(grads)
    expected = CLIPS[clip](rl, plain)
    tensors = [to_torch(g) for g in inside]
    function = CLIPS[clip]
    if clip == "largest":
        rl.zero_largest_(tensors, 3)
        returned = None
    else:
        returned = function(rl, tensors)
    assert bits(returned) == bits(expected)
    assert bits(inside) == bits(plain)
    assert rl.global_norm(tensors) == rl.global_norm(plain)
    turned = to_torch(np.asfortranarray(grads[0]).T.copy()).T
    rl.clip_by_value_(turned, 0.4)
    rl.clip_by_value_(grads[0], 0.4)
    assert bits(np.ascontiguousarray(from_torch(turned))) == bits(grads[0])


@ords
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_grad_norm(dtype, max_norm, ord):
    """torch.nn.utils.clip_grad_norm_, which divides by norm + 1e-6 and sums in float32."""
    torch = pytest.importorskip("torch")
    grads = [sample((20, 30), dtype, 1), sample(50, dtype, 2), sample((), dtype, 5)]
    theirs = [torch.nn.Parameter(to_torch(np.zeros_like(g))) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = to_torch(g.copy())
    ours = copied(grads)
    norm = rl.clip_by_global_norm_(ours, max_norm, ord)
    total = float(torch.nn.utils.clip_grad_norm_(theirs, max_norm, ord))
    eps = float(np.finfo(dtype).eps)
    n = sum(g.size for g in grads)
    assert total == pytest.approx(norm, rel=n * eps * max(1, 1 / ord))
    clipped = norm > max_norm
    assert clipped == (max_norm == 0.5)
    # their scale over ours, as their norm turned out; both round the scale and the product
    tolerance = abs(norm / (total + 1e-6) - 1) + 4 * eps if clipped else 0.0
    for p, g in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(from_torch(p.grad), g, rtol=tolerance, atol=0)


@dtypes
@pytest.mark.parametrize("limit", [0.1, 0.5, 100.0])
def test_clip_grad_value(dtype, limit):
    torch = pytest.importorskip("torch")
    g = sample((20, 30), dtype, 1)
    g[0, :4] = NAN, INF, -INF, 1.0
    p = torch.nn.Parameter(to_torch(np.zeros_like(g)))
    p.grad = to_torch(g.copy())
    torch.nn.utils.clip_grad_value_([p], limit)
    rl.clip_by_value_(g, limit)
    theirs = from_torch(p.grad)
    np.testing.assert_array_equal(theirs.astype(np.float64), g.astype(np.float64))


def test_torch_autograd():
    torch = pytest.importorskip("torch")
    leaf = torch.full((3,), 5.0, requires_grad=True)
    for call in (
        lambda g: rl.clip_by_global_norm_(g, 1.0),
        lambda g: rl.clip_by_norm_(g, 1.0),
        lambda g: rl.clip_by_rms_(g, 1.0),
        lambda g: rl.clip_by_value_(g, 1.0),
        lambda g: rl.zero_largest_(g),
    ):
        with pytest.raises(rl.RequiresGradError, match="grads"):
            call(leaf)
        with pytest.raises(rl.RequiresGradError, match=r"grads\[1\]"):
            call([torch.ones(3), leaf])
        assert leaf.tolist() == [5, 5, 5]
        # a gradient of create_graph=True is no leaf
        fresh = torch.full((3,), 5.0, requires_grad=True) * 1
        with pytest.raises(rl.RequiresGradError, match=r"call under torch\.no_grad"):
            call(fresh)
        with torch.no_grad():
            with pytest.raises(rl.RequiresGradError, match="wants a gradient"):
                call(leaf)
            version = fresh._version
            call(fresh)
            assert fresh._version > version
            assert fresh[0] < 5
    assert rl.global_norm(leaf) == pytest.approx(math.sqrt(75))


def test_torch_errors():
    torch = pytest.importorskip("torch")
    good = torch.full((3,), 5.0)
    for bad, error in [
        (torch.ones(3, dtype=torch.int64), TypeError),
        (torch.ones(3, dtype=torch.complex64), TypeError),
        (torch.ones(3).to_sparse(), TypeError),
        (torch.ones(3, device="meta"), TypeError),
    ]:
        with pytest.raises(error, match="arrays"):
            rl.global_norm(bad)
        with pytest.raises(error, match=r"grads\[1\]"):
            rl.clip_by_value_([good, bad], 1.0)
    with pytest.raises(ValueError, match="grads"):
        rl.clip_by_value_(torch.full((1,), 5.0).expand(3), 1.0)
    with pytest.raises(ValueError, match="grads"):
        rl.clip_by_value_([good, good.detach()], 1.0)
    assert good.tolist() == [5, 5, 5]


def test_jax_is_read_and_never_written():
    jnp = pytest.importorskip("jax.numpy")
    x = sample(300, np.float32)
    assert rl.global_norm([jnp.asarray(x), x]) == rl.global_norm([x, x])
    g = jnp.full(3, 5.0)
    for call in (
        lambda: rl.clip_by_global_norm_(g, 1.0),
        lambda: rl.clip_by_value_([np.ones(3), g], 0.5),
        lambda: rl.zero_largest_(g),
    ):
        with pytest.raises(ValueError, match="grads"):
            call()
    assert g.tolist() == [5, 5, 5]
