"""Penalties against the float64 oracles, and bit for bit against themselves."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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

STEP = 0.4


@dataclass(frozen=True)
class Case:
    """A penalty, and the bounds of its errors: (ulp, scale) as `helpers.assert_ulp` reads them.

    Every rounding on the way is half an ulp of the magnitude given, parameters' included.
    """

    make: Callable[[Any], Any]
    gradient: tuple[float, Callable[[Any], Any]] | None
    prox: tuple[float, Callable[[Any, float], Any]] | None
    jumps: bool = False


def log_sum_scale(x, t, s=0.9, eps=0.3):
    """(size - eps) + sqrt((size + eps)^2 - 4 u): the square root divides the error by itself."""
    root = np.sqrt(np.maximum((x + eps) ** 2 - 4 * t * s, 1e-3))
    return x + eps + (x + eps) ** 2 / root


# scales are functions of the magnitude, w or x
CASES = {
    "L1": Case(lambda m: m.L1(0.3), (0.5, lambda w: 0.3), (1, lambda x, t: x)),
    "L2": Case(lambda m: m.L2(0.3), (1, lambda w: 0.3 * w), (1, lambda x, t: x / (1 + 0.3 * t))),
    "ElasticNet": Case(
        lambda m: m.ElasticNet(0.3, 0.7),
        (1.5, lambda w: 0.3 + 0.7 * w),
        (2, lambda x, t: x / (1 + 0.7 * t)),
    ),
    "MCP": Case(
        lambda m: m.MCP(0.8, 2.3),
        (1.5, lambda w: 0.8 + np.minimum(w, 0.8 * 2.3) / 2.3),
        (2, lambda x, t: x / (1 - t / 2.3)),
    ),
    "SCAD": Case(
        lambda m: m.SCAD(0.6),
        (2, lambda w: (3.7 * 0.6 + np.minimum(w, 3.7 * 0.6)) / 2.7),
        (3, lambda x, t: (2.7 * x + 3.7 * t * 0.6) / (2.7 - t)),
    ),
    "LogSum": Case(
        lambda m: m.LogSum(0.9, 0.3),
        (2, lambda w: 0.9 / (0.3 + w)),
        (
            2,
            log_sum_scale,
        ),
        True,
    ),
    "LogSum, large eps": Case(
        lambda m: m.LogSum(0.9, 1.7),
        (2, lambda w: 0.9 / (1.7 + w)),
        (2, lambda x, t: log_sum_scale(x, t, 0.9, 1.7)),
    ),
    "L0": Case(lambda m: m.L0(0.3), None, (0, lambda x, t: x), True),
    "LHalf": Case(
        lambda m: m.LHalf(0.6),
        (1.5, lambda w: 0.3 / np.sqrt(w + (w == 0))),
        (5, lambda x, t: x),
        True,
    ),
    "Huber": Case(
        lambda m: m.Huber(0.6, 0.7),
        (1.5, lambda w: 0.6 * np.minimum(w, 0.7)),
        (1.5, lambda x, t: x + 0.6 * 0.7 * t),
    ),
    "CappedL1": Case(
        lambda m: m.CappedL1(0.6, 0.7), (0.5, lambda w: 0.6), (1, lambda x, t: x), True
    ),
    "CappedL1, low threshold": Case(  # u > 2 threshold for the long steps
        lambda m: m.CappedL1(0.6, 0.07), (0.5, lambda w: 0.6), (1, lambda x, t: x), True
    ),
    "L1 + L2": Case(
        lambda m: m.L1(0.3) + m.L2(0.7),
        (1.5, lambda w: 0.3 + 0.7 * w),
        (2, lambda x, t: x / (1 + 0.7 * t)),
    ),
    "MCP + L2": Case(
        lambda m: m.MCP(0.8, 2.3) + m.L2(0.5),
        (3, lambda w: 0.8 + np.minimum(w, 0.8 * 2.3) / 2.3 + 0.5 * w),
        (3.5, lambda x, t: x / (1 - t / 2.3)),
    ),
    "L0 + L2": Case(
        lambda m: m.L0(0.3) + m.L2(0.5), None, (1, lambda x, t: x / (1 + 0.5 * t)), True
    ),
    "L1 + MCP": Case(
        lambda m: m.L1(0.3) + m.MCP(0.8, 2.3),
        (2.5, lambda w: 0.3 + 0.8 + np.minimum(w, 0.8 * 2.3) / 2.3),
        None,
    ),
}
SIMPLE = [name for name in CASES if "+" not in name]
cases = pytest.mark.parametrize("name", CASES)


def effects(penalty, params, grads):
    """Everything the three verbs do, as bits."""
    out = [penalty.value(params)]
    try:
        out.append(penalty.add_gradient_(grads, params))
    except TypeError:
        out.append("no gradient")
    try:
        penalty.prox_(params, STEP)
    except TypeError:
        out.append("no prox")
    return bits([out, params, grads])


def continuous(at, below, above):
    """Where a proximal operator does not jump between two neighbors of x."""
    return ((below == 0) == (above == 0)) & (np.abs(above - below) <= 0.01 * (1 + np.abs(at)))


def magnitude(x):
    return np.abs(np.asarray(x, np.float64))


# ---- against the oracles


def value_bound(penalty, n):
    """Roundings of a float64 sum in 16 lanes of blocks of 4096, and up to 20 within a term, whose
    parts are at most three times as large (MCP, SCAD and Huber subtract)."""
    return 3 * (4096 / 16 + 4 + n / 4096 + 20) * 2.0**-53


@cases
@dtypes
def test_value(name, dtype):
    case = CASES[name]
    for shape in [(1,), (17,), (129, 71), (2**16 + 1,)]:
        x = sample(shape, dtype)
        expected = case.make(ref).value(x)
        got = case.make(rl).value(x)
        assert isinstance(got, float)
        assert got == pytest.approx(expected, rel=value_bound(name, x.size), abs=0)


@cases
@dtypes
def test_gradient(name, dtype):
    case = CASES[name]
    w, g = sample((70, 31), dtype, 1), sample((70, 31), dtype, 2)
    if case.gradient is None:
        with unchanged(g, w), pytest.raises(TypeError, match="L0"):
            case.make(rl).add_gradient_(g, w)
        return
    ulp, scale = case.gradient
    expected = np.asarray(g, np.float64) + case.make(ref).gradient(w.astype(np.float64))
    before = w.copy()
    value = case.make(rl).add_gradient_(g_out := g.copy(), w)
    assert value == case.make(rl).value(w)  # the same memory pass, the same bits
    assert bits(w) == bits(before)
    assert_ulp(g_out, expected, dtype, ulp + 0.5, magnitude(g) + scale(magnitude(w)))


@cases
@dtypes
@pytest.mark.parametrize("step", [0.0, 0.05, STEP, 1.3])
def test_prox(name, dtype, step):
    case = CASES[name]
    x = sample((70, 31), dtype, 3)
    if case.prox is None:
        with unchanged(x), pytest.raises(TypeError):
            case.make(rl).prox(x, step)
        return
    (ulp, scale), oracle = case.prox, case.make(ref)
    wide = x.astype(np.float64)
    expected = oracle.prox(wide, step)
    with unchanged(x):
        got = case.make(rl).prox(x, step)
    assert got.dtype == dtype
    smooth = np.ones(x.shape, bool)
    if case.jumps:  # within rounding of the threshold either side is right
        near = 8 * compute_eps(dtype)
        smooth = continuous(*(oracle.prox(wide * (1 + d), step) for d in (0, -near, near)))
        assert np.mean(smooth) > 0.99
    bound = np.broadcast_to(scale(magnitude(x), step), x.shape)
    assert_ulp(got[smooth], expected[smooth], dtype, ulp, bound[smooth])
    case.make(rl).prox_(x, step)
    assert bits(x) == bits(got)


@cases
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.itemsize == 2], ids=str)
def test_every_half_number(name, dtype):
    case = CASES[name]
    x = np.arange(2**16, dtype=np.uint16).view(dtype)
    x = x[np.isfinite(x.astype(np.float32))]
    wide = x.astype(np.float64)
    if case.gradient:
        ulp, scale = case.gradient
        g = np.zeros_like(x)
        case.make(rl).add_gradient_(g, x)
        assert_ulp(g, case.make(ref).gradient(wide), dtype, ulp, scale(magnitude(x)))
    if case.prox:
        ulp, scale = case.prox
        expected = case.make(ref).prox(wide, STEP)
        near = 8 * compute_eps(dtype)
        around = (case.make(ref).prox(wide * (1 + d), STEP) for d in (0, -near, near))
        smooth = continuous(*around) | (not case.jumps)
        assert np.sum(~smooth) <= 2  # the two at the threshold
        bound = np.broadcast_to(scale(magnitude(x), STEP), x.shape)
        got = case.make(rl).prox(x, STEP)
        assert_ulp(got[smooth], expected[smooth], dtype, ulp, bound[smooth])


@dtypes
def test_adaptive_lasso(dtype):
    params = [sample((30, 7), dtype, 1), sample(19, dtype, 2)]
    weights = [np.abs(sample((30, 7), dtype, 3)), np.abs(sample(19, dtype, 4))]
    grads = [sample((30, 7), dtype, 5), sample(19, dtype, 6)]
    ours, oracle = rl.L1(0.3, weights=weights), ref.L1(0.3, weights=weights)
    before = copied(grads)
    assert ours.value(params) == pytest.approx(oracle.value(params), rel=1e-13)
    assert ours.add_gradient_(grads, params) == ours.value(params)
    for g, g0, a, w in zip(grads, before, weights, params, strict=True):
        slope = 0.3 * magnitude(a)
        expected = np.asarray(g0, np.float64) + slope * np.sign(np.asarray(w, np.float64))
        assert_ulp(g, expected, dtype, 1.5, magnitude(g0) + slope)
    expected = [
        ref.L1(0.3, weights=a).prox(w.astype(np.float64), STEP)
        for a, w in zip(weights, params, strict=True)
    ]
    scales = [magnitude(w) for w in params]
    ours.prox_(params, STEP)
    for w, wants, scale in zip(params, expected, scales, strict=True):
        assert_ulp(w, wants, dtype, 1.5, scale)


def test_sparse_weights_where_a_strength_is_zero():
    for name in ["L1", "L2", "L0", "Huber"]:
        args = (0.0, 0.5) if name == "Huber" else (0.0,)
        x = sample(100, np.float32)
        assert getattr(rl, name)(*args).value(x) == 0
        assert np.array_equal(getattr(rl, name)(*args).prox(x, 1.0), x)
    assert np.array_equal(rl.MCP(0.0, 3.0).prox(x, 1.0), x)
    for penalty in [rl.LHalf(0.0), rl.LogSum(0.0, 0.5), rl.SCAD(0.0)]:
        np.testing.assert_allclose(penalty.prox(x, 1.0), x, rtol=1e-6, atol=1e-6)


# ---- special values

NAN, INF = np.nan, np.inf
TINY = "the smallest subnormal"
ROOT = "a quarter of one over its square root"
#: name: value, gradient, prox(step = 1/2) at NaN, inf, -inf, 0, -0, smallest subnormal, minus that
SPECIAL_INPUTS = [NAN, INF, -INF, 0.0, -0.0, TINY, -1]
SPECIAL = {
    "L1(0.5)": ([NAN, INF, INF, 0, 0], [NAN, 0.5, -0.5, 0, 0, 0.5], 0),
    "L2(1)": ([NAN, INF, INF, 0, 0], [NAN, INF, -INF, 0, 0, TINY], TINY),
    "ElasticNet(0.5, 1)": ([NAN, INF, INF, 0, 0], [NAN, INF, -INF, 0, 0, 0.5], 0),
    "MCP(0.5, 4)": ([NAN, 0.5, 0.5, 0, 0], [NAN, 0, 0, 0, 0, 0.5], 0),
    "SCAD(0.5, 3)": ([NAN, 0.5, 0.5, 0, 0], [NAN, 0, 0, 0, 0, 0.5], 0),
    "LogSum(0.5, 0.25)": ([NAN, INF, INF, 0, 0], [NAN, 0, 0, 0, 0, 2], 0),
    "LogSum(0.5, 2)": ([NAN, INF, INF, 0, 0], [NAN, 0, 0, 0, 0, 0.25], 0),
    "L0(0.5)": ([NAN, 0.5, 0.5, 0, 0], None, 0),
    "LHalf(0.5)": ([NAN, INF, INF, 0, 0], [NAN, 0, 0, 0, 0, ROOT], 0),
    "CappedL1(0.5, 2)": ([NAN, 1, 1, 0, 0], [NAN, 0, 0, 0, 0, 0.5], 0),
    "Huber(1, 2)": ([NAN, INF, INF, 0, 0], [NAN, 2, -2, 0, 0, TINY], TINY),
    "Huber(1, 2) + L2(1)": ([NAN, INF, INF, 0, 0], [NAN, INF, -INF, 0, 0, None], None),
    "MCP(0.5, 4) + L2(1)": ([NAN, INF, INF, 0, 0], [NAN, INF, -INF, 0, 0, 0.5], 0),
}
special = pytest.mark.parametrize("name", SPECIAL)


def build(name, module):
    return eval(
        name, {n: getattr(module, n) for n in ref.__all__ if n[0].isupper() and hasattr(module, n)}
    )


def tiny(dtype):
    return np.array([1], np.uint16 if dtype.itemsize == 2 else f"u{dtype.itemsize}").view(dtype)[0]


@special
@dtypes
def test_special_values(name, dtype):
    value, gradient, prox = SPECIAL[name]
    penalty, oracle = build(name, rl), build(name, ref)
    small = tiny(dtype)
    x = np.array([NAN, INF, -INF, 0.0, -0.0, small, -small], dtype)
    resolve = {TINY: float(small), ROOT: 0.25 / np.sqrt(float(small)), None: None}

    def row(entries):
        full = [resolve.get(e, e) for e in entries]
        full.append(-full[-1] if full[-1] is not None else None)
        return full

    for wants, entry in zip(value, x, strict=False):
        assert penalty.value(np.array([entry])) == pytest.approx(wants, nan_ok=True, abs=0)
    for entry in x[5:]:
        wants = oracle.value(np.array([entry]))
        got = penalty.value(np.array([entry]))
        assert got == pytest.approx(wants, rel=1e-6, abs=1e-323 if dtype == np.float64 else 0)
    # 20 of each: every vector lane, and the remainder
    wide, results = np.repeat(x, 20), []
    if gradient is not None:
        g = np.zeros_like(wide)
        assert np.isnan(penalty.add_gradient_(g, wide))
        results.append((g, row(gradient)))
    results.append((penalty.prox(wide, 0.5), row([NAN, INF, -INF, 0, 0, prox])))
    for got, wants in results:
        for block, want in zip(got.reshape(7, 20).astype(np.float64), wants, strict=True):
            if want is None:
                continue
            assert len({bits(block[i]) for i in range(20)}) == 1
            if want == resolve[ROOT] or want == -resolve[ROOT]:
                np.testing.assert_allclose(block, want, rtol=1e-2 if dtype.itemsize == 2 else 1e-6)
            else:
                np.testing.assert_array_equal(block, want)


@dtypes
def test_largest_values(dtype):
    """A square or a sum of float32 or half numbers doesn't overflow: values are float64."""
    big = {4: 1e30, 8: 1e150}.get(dtype.itemsize, 6e4 if dtype == np.float16 else 1e30)
    x = np.full(100, big, dtype)
    exact = float(x[0])
    assert rl.L2(2.0).value(x) == pytest.approx(100 * exact**2, rel=1e-14)
    assert rl.L1(2.0).value(x) == pytest.approx(200 * exact, rel=1e-14)
    assert rl.ElasticNet(1.0, 2.0).value(x) == pytest.approx(100 * (exact + exact**2), rel=1e-14)
    assert rl.Huber(1.0, 1.0).value(x) == pytest.approx(100 * (exact - 0.5), rel=1e-14)
    assert np.array_equal(rl.MCP(0.5, 4.0).prox(x, 1.0), x)
    assert np.array_equal(rl.SCAD(0.5).prox(x, 1.0), x)
    assert np.array_equal(rl.L0(0.5).prox(x, 1.0), x)
    assert_ulp(rl.LHalf(0.5).prox(x, 1.0), ref.LHalf(0.5).prox(x.astype(np.float64), 1.0), dtype, 5)


def test_exact_thresholds():
    """Numbers at a threshold, where the paper says which side they belong to."""
    one = np.float32(1)
    above, below = np.nextafter(one, one * 2), np.nextafter(one, one * 0)
    at = np.array([below, one, above, -below, -one, -above])
    assert rl.L0(0.5).prox(at, 1.0).tolist() == [0, 0, above, 0, 0, -above]
    gap = float(above) - 1
    assert rl.L1(1.0).prox(at, 1.0).tolist() == [0, 0, gap, 0, 0, -gap]
    assert rl.L1(2.0).prox(at, 0.5).tolist() == [0, 0, gap, 0, 0, -gap]
    assert rl.MCP(1.0, 2.0).prox(at, 1.0).tolist() == [0, 0, 2 * gap, 0, 0, -2 * gap]
    assert rl.MCP(0.5, 2.0).prox(at, 1.0)[2] == above  # beyond gamma s
    assert rl.SCAD(1.0, 3.0).prox(at, 0.5)[1] == 0.5
    # sqrt(u) <= eps: the threshold is u / eps
    assert rl.LogSum(0.5, 0.5).prox(np.array([0.5, -0.5]), 0.5).tolist() == [0, 0]
    # (2/3) 1.5 (1 + cos(pi / 2)) = 1: kept at the threshold itself
    assert rl.LHalf(1.0).prox(np.array([1.5, 1.4999, -1.5]), 1.0) == pytest.approx([1, 0, -1])
    assert rl.Huber(1.0, 0.5).prox(at, 1.0)[1] == 0.5
    assert rl.MCP(1.0, 2.0).value(np.array([2.0])) == rl.MCP(1.0, 2.0).value(np.array([9.0])) == 1
    assert rl.SCAD(1.0, 3.0).value(np.array([3.0])) == rl.SCAD(1.0, 3.0).value(np.array([9.0])) == 2


def test_log_sum_threshold_is_the_tie():
    penalty, oracle = rl.LogSum(1.2, 0.3), ref.LogSum(1.2, 0.3)
    tau = oracle._threshold(0.5 * 1.2)
    got = penalty.prox(np.array([tau * (1 - 1e-12), tau * (1 + 1e-12)]), 0.5)
    assert got[0] == 0
    assert got[1] == pytest.approx(oracle.prox(np.array([tau * (1 + 1e-12)]), 0.5)[0], rel=1e-12)


# ---- same bits


@cases
@dtypes
def test_targets_threads_sizes(name, dtype):
    penalty = CASES[name].make(rl)
    params = [sample(n, dtype, n) for n in SIZES]
    grads = [sample(n, dtype, n + 1) for n in SIZES]
    every_setting(lambda: effects(penalty, copied(params), copied(grads)))


@cases
@dtypes
def test_one_by_one_in_a_list_and_in_pieces(name, dtype):
    """Elementwise work doesn't see how the elements are grouped."""
    penalty = CASES[name].make(rl)
    w, g = sample(3001, dtype, 1), sample(3001, dtype, 2)
    whole_w, whole_g = w.copy(), g.copy()
    whole = effects(penalty, whole_w, whole_g)[1:]
    rng = np.random.default_rng(5)
    cuts = [np.sort(rng.integers(0, w.size, k)) for k in (1, 7, 60)]
    for cut in [*cuts, np.arange(0, w.size, 17)]:
        in_w, in_g = w.copy(), g.copy()
        effects(penalty, np.split(in_w, cut), np.split(in_g, cut))
        assert [bits(in_w), bits(in_g)] == whole


@cases
@dtypes
def test_offsets(name, dtype):
    """Every alignment of the first element, of both arrays."""
    penalty = CASES[name].make(rl)
    w, g = sample(150, dtype, 1), sample(150, dtype, 2)
    for n in (1, 31, 70):
        for start in range(18):
            here = np.s_[start : start + n]
            expected = effects(penalty, w[here].copy(), g[here].copy())
            in_w, in_g = w.copy(), g.copy()
            assert effects(penalty, in_w[here], in_g[here]) == expected
            for array, before in [(in_w, w), (in_g, g)]:
                outside = np.delete(array, np.arange(start, start + n))
                assert bits(outside) == bits(np.delete(before, np.arange(start, start + n)))
            # gradients at another alignment than the weights
            moved = np.concatenate([g[:3], g[here]])[3:]
            assert effects(penalty, w[here].copy(), moved) == expected


@layouts
@dtypes
def test_layouts(layout, dtype):
    for shape in [(3, 5, 7), (40, 33, 50)]:
        w, g = sample(shape, dtype, 1), sample(shape, dtype, 2)
        for name in CASES if shape[0] == 3 else ["ElasticNet", "MCP + L2"]:
            penalty = CASES[name].make(rl)
            expected = effects(penalty, w.copy(), g.copy())
            (in_w, w_intact), (in_g, g_intact) = LAYOUTS[layout](w), LAYOUTS[layout](g)
            assert effects(penalty, in_w, in_g) == expected
            assert w_intact()
            assert g_intact()
            (in_w, _), in_g = LAYOUTS[layout](w), g.copy()
            assert effects(penalty, in_w, in_g) == expected
            (x, _), (out, out_intact) = LAYOUTS[layout](w), LAYOUTS[layout](g)
            if CASES[name].prox:
                wants = penalty.prox(w, STEP)
                assert bits(penalty.prox(x, STEP)) == bits(wants)
                assert penalty.prox(w, STEP, out=out) is out
                assert bits(out) == bits(wants)
                assert out_intact()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(["SCAD", "L0", "L1", "MCP + L2"]))
def test_any_shape_and_strides(data, dtype, name):
    (shape, place), (other_shape, place_other) = (data.draw(placements()) for _ in range(2))
    _, place_g = data.draw(placements(shape))
    penalty = CASES[name].make(rl)
    w, g = sample(shape, dtype, 1), sample(shape, dtype, 2)
    w2, g2 = sample(other_shape, dtype, 3), sample(other_shape, dtype, 4)
    expected = effects(penalty, [w.copy(), w2.copy()], [g.copy(), g2.copy()])
    in_w, w_intact = place(w)
    in_g, g_intact = place_g(g)
    in_w2, w2_intact = place_other(w2)
    assert effects(penalty, [in_w, in_w2], [in_g, g2]) == expected
    assert all(intact() for intact in (w_intact, g_intact, w2_intact))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES))
def test_operands_of_different_strides(data, dtype):
    """Every operand of one call laid out by itself: prox into out, and the adaptive lasso."""
    shape, place_x = data.draw(placements())
    place_out, place_a = (data.draw(placements(shape))[1] for _ in range(2))
    x, out, g, a = (sample(shape, dtype, seed) for seed in range(4))
    a = np.asarray(np.abs(a))
    for name in ("SCAD", "L1 + L2", "MCP + L2"):
        penalty = CASES[name].make(rl)
        wants = penalty.prox(x, STEP)
        (in_x, _), (target, intact) = place_x(x), place_out(out)
        penalty.prox(in_x, STEP, out=target)
        assert bits(target) == bits(wants)
        assert intact()
    expected = effects(rl.L1(0.3, weights=a), x.copy(), g.copy())
    (in_x, x_intact), (in_g, g_intact), (in_a, a_intact) = place_x(x), place_out(g), place_a(a)
    assert effects(rl.L1(0.3, weights=in_a), in_x, in_g) == expected
    assert x_intact()
    assert g_intact()
    assert a_intact()


@dtypes
def test_scalars_and_empty(dtype):
    penalty = rl.L1(0.5)
    w, g = np.array(2.0, dtype), np.array(1.0, dtype)
    assert penalty.add_gradient_(g, w) == 1.0
    assert g == 1.5
    got = penalty.prox(w, 1.0)
    assert got.shape == ()
    assert got == 1.5
    penalty.prox_(w, 1.0)
    assert w == 1.5
    for empty in [np.zeros(0, dtype), np.zeros((3, 0, 2), dtype)]:
        assert penalty.value(empty) == 0.0
        assert penalty.add_gradient_(empty, empty.copy()) == 0.0
        assert penalty.prox(empty, 1.0).shape == empty.shape
        penalty.prox_(empty, 1.0)


@pytest.mark.parametrize(
    "nothing", [[], (), {}, {"a": []}, {}.values()], ids=lambda x: type(x).__name__
)
def test_no_arrays(nothing):
    assert rl.L2(1.0).value(nothing) == 0.0
    assert rl.L2(1.0).add_gradient_([], []) == 0.0
    rl.L2(1.0).prox_(nothing, 1.0)


NOTHING = {
    "L1": rl.L1(0.0),
    "weighted L1": lambda w: rl.L1(0.0, weights=np.full_like(w, 2)),
    "L2": rl.L2(0.0),
    "ElasticNet": rl.ElasticNet(0.0, 0.0),
    "MCP": rl.MCP(0.0),
    "SCAD": rl.SCAD(0.0),
    "LogSum": rl.LogSum(0.0, 0.3),
    "LogSum, large eps": rl.LogSum(0.0, 1.7),
    "L0": rl.L0(0.0),
    "LHalf": rl.LHalf(0.0),
    "Huber": rl.Huber(0.0),
    "CappedL1": rl.CappedL1(0.0, 0.7),
    "CappedL1, low threshold": rl.CappedL1(0.0, 0.07),
    "LogSum + L2": rl.LogSum(0.0, 0.3) + rl.L2(0.0),
}


@dtypes
def test_no_strength_or_no_step_changes_nothing(dtype):
    """Bit for bit: with -0, infinities and subnormal numbers."""
    with np.errstate(over="ignore"):
        x = np.concatenate([sample(4096, dtype, 3), sample(4096, dtype, 4, -30, 30)])
    x[:5] = np.array([-0.0, np.inf, -np.inf, np.nan, 1e-7], dtype)
    x[5:8] = np.array([1, 3, 1000], np.int16 if dtype.itemsize == 2 else f"i{dtype.itemsize}").view(
        dtype
    )
    weights = np.full_like(x, 2)
    cases = [case.make(rl) for case in CASES.values() if case.prox is not None]
    calls = [(penalty, 0.0) for penalty in (*cases, rl.L1(0.3, weights=weights))]
    calls.append((rl.LogSum(0.25, 0.3), 5e-324))  # their product is 0
    for nothing in NOTHING.values():
        penalty = nothing(x) if callable(nothing) else nothing
        calls += [(penalty, 0.0), (penalty, 0.5), (penalty, 1e-3)]
    for penalty, step in calls:
        for view in (x, x[::-1], x.reshape(64, 128).T):
            if "weights" in repr(penalty) and view is not x:
                continue
            with np.errstate(invalid="ignore"):
                assert bits(penalty.prox(view, step)) == bits(view), (penalty, step)
            own = view.copy()
            penalty.prox_(own, step)
            assert bits(own) == bits(view), (penalty, step)


def test_what_has_a_strength_beside_one_without():
    x = sample(1000, np.float64, 5)
    assert bits((rl.LogSum(0.0, 0.3) + rl.L2(0.5)).prox(x, 0.1)) == bits(rl.L2(0.5).prox(x, 0.1))
    assert np.array_equal(rl.ElasticNet(0.0, 0.5).prox(x, 0.1), rl.L2(0.5).prox(x, 0.1))


# ---- containers


def test_containers():
    tree = {"w": [np.ones(2), (np.full((1, 1), 2.0),)], "b": np.full((), 3.0)}
    grads = {"w": [np.zeros(2), (np.zeros((1, 1)),)], "b": np.zeros(())}
    assert rl.L1(1.0).value(tree) == 7.0
    assert rl.L1(1.0).value(a for a in [np.ones(2), np.ones(3)]) == 5.0
    assert rl.L1(1.0).add_gradient_(grads, tree) == 7.0
    assert bits(grads) == bits({"w": [np.ones(2), (np.ones((1, 1)),)], "b": np.ones(())})
    rl.L1(1.0).prox_(tree, 0.5)
    assert bits(tree) == bits(
        {"w": [np.full(2, 0.5), (np.full((1, 1), 1.5),)], "b": np.full((), 2.5)}
    )


def test_dict_keys_pair_or_fail():
    params = {"a": np.array([1.0]), "b": np.array([-1.0])}
    grads = {"b": np.zeros(1), "a": np.zeros(1)}
    before = bits(grads)
    try:
        rl.L1(1.0).add_gradient_(grads, params)
        wants = bits({"b": np.array([-1.0]), "a": np.array([1.0])})
    except ValueError:
        wants = before
    assert bits(grads) == wants


def test_mixed_dtypes_in_a_list():
    arrays = [sample(50, dtype, 1) for dtype in DTYPES]
    grads = [sample(50, dtype, 2) for dtype in DTYPES]
    together = effects(rl.SCAD(0.6), copied(arrays), copied(grads))
    alone = [effects(rl.SCAD(0.6), w.copy(), g.copy()) for w, g in zip(arrays, grads, strict=True)]
    assert together[1] == [a[1] for a in alone]
    assert together[2] == [a[2] for a in alone]


def test_read_twice_counts_twice_written_twice_is_an_error():
    w, g = np.array([1.0, -2.0]), np.zeros(2)
    assert rl.L1(1.0).value([w, w]) == 6.0
    assert rl.L1(1.0).value([w, w[:1]]) == 4.0
    with unchanged(w, g):
        with pytest.raises(ValueError, match="params"):
            rl.L1(1.0).prox_([w, w], 0.5)
        with pytest.raises(ValueError, match="params"):
            rl.L1(1.0).prox_({"a": w, "b": w[1:]}, 0.5)
        with pytest.raises(ValueError, match="grads"):
            rl.L1(1.0).add_gradient_([g, g], [w, w.copy()])


def test_interleaved_views_are_not_the_same_array():
    base = sample((6, 10), np.float32)
    expected = rl.L1(0.3).prox(base, 1.0)
    rl.L1(0.3).prox_([base[:, :4], base[:, 4:]], 1.0)
    assert bits(base) == bits(expected)


# ---- objects

OBJECTS = [
    "L1(0.1)",
    "L2(0.1)",
    "ElasticNet(0.1, 0.2)",
    "MCP(0.1, 3.0)",
    "SCAD(0.1)",
    "LogSum(0.1, 0.5)",
    "L0(0.1)",
    "LHalf(0.1)",
    "Huber(0.1, 0.5)",
    "CappedL1(0.1, 0.5)",
    "L1(0.1) + MCP(0.1, 3.0)",
]


@pytest.mark.parametrize("name", OBJECTS)
def test_penalties_are_values(name):
    penalty, other = build(name, rl), build(name, rl)
    assert penalty == other
    assert hash(penalty) == hash(other)
    assert len({penalty, other}) == 1
    for copy_of in (
        pickle.loads(pickle.dumps(penalty)),
        copy.deepcopy(penalty),
        copy.copy(penalty),
    ):
        assert copy_of == penalty
        assert type(copy_of) is type(penalty)
    assert eval(repr(penalty), dict(vars(rl.penalties))) == penalty
    assert penalty != build(name.replace("0.1", "0.25"), rl)
    assert [n for n in OBJECTS if build(n, rl) == penalty] == [name]
    assert penalty != 0.1
    with pytest.raises(AttributeError):
        penalty.strength = 2.0


def test_attributes():
    assert (rl.L1(0.1).strength, rl.SCAD(0.1).gamma, rl.MCP(0.1, 2).gamma) == (0.1, 3.7, 2)
    net = rl.ElasticNet(l1=0.1, l2=0.2)
    assert (net.l1, net.l2) == (0.1, 0.2)
    assert (rl.LogSum(strength=0.1, eps=1).eps, rl.Huber(strength=1, delta=2).delta) == (1, 2)
    assert rl.L1(np.float64(0.5)) == rl.L1(0.5)
    assert rl.L1(np.float32(0.5)) == rl.L1(0.5)
    assert rl.L1(1) == rl.L1(1.0)
    assert {name for name in OBJECTS if "+" not in name} >= {
        f"{cls}(0.1)" for cls in ("L1", "L2", "L0", "LHalf", "SCAD")
    }
    for cls in PARAMETERS:
        assert getattr(rl, cls) is getattr(rl.penalties, cls)


def test_weights_travel():
    weights = np.array([0.5, 2.0])
    penalty = pickle.loads(pickle.dumps(rl.L1(0.1, weights=weights)))
    assert bits(penalty.weights) == bits(weights)
    assert penalty.value(np.array([1.0, 1.0])) == 0.25


WEIGHTS = {
    "an array": lambda: np.array([0.5, 2.0]),
    "a list": lambda: [np.array([0.5, 2.0]), np.ones((2, 3), np.float32)],
    "nested": lambda: {"a": (np.ones(2, BFLOAT16),), "b": [np.array(0.5), np.zeros((0, 3))]},
    "torch": lambda: [pytest.importorskip("torch").tensor([0.5, 2.0])],
    "jax": lambda: pytest.importorskip("jax.numpy").asarray([0.5, 2.0]),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_are_compared_by_value(what):
    make = WEIGHTS[what]
    penalty = rl.L1(0.1, weights=make())
    for same in (
        rl.L1(0.1, weights=make()),
        pickle.loads(pickle.dumps(penalty)),
        copy.deepcopy(penalty),
        copy.copy(penalty),
    ):
        assert same == penalty
        assert hash(same) == hash(penalty)
        assert same + rl.Huber(1.0) == penalty + rl.Huber(1.0)
    for other in (
        rl.L1(0.2, weights=make()),
        rl.L1(0.1),
        rl.L1(0.1, weights=[make()]),
        rl.L1(0.1, weights=np.array([0.5, 2.5])),
        rl.L1(0.1, weights=np.array([0.5, 2.0], np.float16)),
        rl.L1(0.1, weights={"a": np.array([0.5, 2.0])}),
        rl.L1(0.1, weights=[np.array([0.5, 2.0])]),
    ):
        assert other != penalty
        assert penalty != other


def test_composition():
    assert rl.L1(0.1) + rl.L2(0.2) == rl.L2(0.2) + rl.L1(0.1) == rl.ElasticNet(0.1, 0.2)
    x, g = sample(200, np.float64, 1), np.zeros(200)
    parts = [rl.L1(0.1), rl.MCP(0.2, 3.0), rl.L2(0.3), rl.Huber(0.4, 0.5)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert isinstance(rl.L1(0.1) + rl.MCP(0.2, 3.0), rl.penalties.Sum)
    assert isinstance(total, rl.penalties.Sum)
    assert total.value(x) == pytest.approx(sum(p.value(x) for p in parts), rel=1e-13)
    assert total.add_gradient_(g, x) == total.value(x)
    expected = np.zeros(200)
    for part in parts:
        part.add_gradient_(expected, x)
    np.testing.assert_allclose(g, expected, rtol=1e-14, atol=1e-15)
    with unchanged(x), pytest.raises(TypeError, match="prox"):
        total.prox_(x, 0.5)
    for other in [3, None, "L1", np.ones(2)]:
        with pytest.raises(TypeError):
            rl.L1(0.1) + other
    weights = np.abs(sample(200, np.float64, 2))
    both, oracle = (m.L1(0.3, weights=weights) + m.L2(0.5) for m in (rl, ref))
    assert both.value(x) == pytest.approx(oracle.value(x), rel=1e-13)
    assert_ulp(both.prox(x, 0.4), oracle.prox(x, 0.4), np.float64, 3, np.abs(x))


@pytest.mark.parametrize("name", SIMPLE)
def test_twice_the_same_penalty_is_twice_the_value(name):
    penalty, x = CASES[name].make(rl), sample(100, np.float64)
    assert (penalty + penalty).value(x) == pytest.approx(2 * penalty.value(x), rel=1e-13)


# ---- strength_from_loss


@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize(
    ("convention", "greek", "coefficient"),
    [
        ("lambda", "λ", 0.3),
        ("lambda/2", "λ/2", 0.15),
        ("lambda/m", "λ/m", 0.003),
        ("lambda/(2m)", "λ/(2m)", 0.0015),
    ],
)
def test_strength_from_loss(convention, greek, coefficient, penalty):
    w = np.array([1.0, -3.0])
    for spelling in (convention, greek):
        strength = rl.penalties.strength_from_loss(0.3, 100, convention=spelling, penalty=penalty)
        made = rl.L1(strength) if penalty == "l1" else rl.L2(strength)
        written_out = np.sum(np.abs(w)) if penalty == "l1" else np.sum(w**2)
        assert made.value(w) == pytest.approx(coefficient * written_out, rel=1e-14)
    assert rl.penalties.strength_from_loss(0.3) == 0.3


@pytest.mark.parametrize(
    ("kwargs", "error", "named"),
    [
        ({"lam": -1.0}, ValueError, "lam"),
        ({"lam": NAN}, ValueError, "lam"),
        ({"lam": "1"}, TypeError, "lam"),
        ({"lam": True}, TypeError, "lam"),
        ({"lam": 1.0, "convention": "alpha"}, ValueError, "convention"),
        ({"lam": 1.0, "penalty": "l3"}, ValueError, "penalty"),
        ({"lam": 1.0, "convention": "lambda/m"}, (TypeError, ValueError), "n_samples"),
        ({"lam": 1.0, "convention": "lambda/(2m)", "n_samples": 0}, ValueError, "n_samples"),
        ({"lam": 1.0, "convention": "lambda/m", "n_samples": -5}, ValueError, "n_samples"),
        ({"lam": 1.0, "convention": "lambda/m", "n_samples": "9"}, TypeError, "n_samples"),
    ],
)
def test_strength_from_loss_errors(kwargs, error, named):
    with pytest.raises(error, match=named):
        rl.penalties.strength_from_loss(**kwargs)


# ---- errors

NOT_NUMBERS = ["0.1", True, np.True_, None, [0.1], 1j, np.array([0.1, 0.2])]
PARAMETERS = {
    "L1": {"strength": 0.1},
    "L2": {"strength": 0.1},
    "ElasticNet": {"l1": 0.1, "l2": 0.1},
    "MCP": {"strength": 0.1, "gamma": 3.0},
    "SCAD": {"strength": 0.1, "gamma": 3.0},
    "LogSum": {"strength": 0.1, "eps": 0.5},
    "L0": {"strength": 0.1},
    "LHalf": {"strength": 0.1},
    "Huber": {"strength": 0.1, "delta": 0.5},
    "CappedL1": {"strength": 0.1, "threshold": 0.5},
}
OUT_OF_RANGE = {
    ("MCP", "gamma"): 0.0,
    ("SCAD", "gamma"): 2.0,
    ("LogSum", "eps"): 0.0,
    ("Huber", "delta"): 0.0,
    ("CappedL1", "threshold"): 0.0,
}


@pytest.mark.parametrize(
    ("cls", "argument"), [(cls, name) for cls, args in PARAMETERS.items() for name in args]
)
def test_constructor_errors(cls, argument):
    make, good = getattr(rl, cls), PARAMETERS[cls]
    make(**good)
    for bad in NOT_NUMBERS:
        with pytest.raises(TypeError, match=argument):
            make(**{**good, argument: bad})
    for bad in [NAN, INF, -INF, -0.1, OUT_OF_RANGE.get((cls, argument), -1)]:
        with pytest.raises(ValueError, match=argument):
            make(**{**good, argument: bad})
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize("name", SIMPLE)
def test_step_errors(name):
    penalty, x = CASES[name].make(rl), np.ones(3, np.float32)
    for error, bads in [(TypeError, NOT_NUMBERS), (ValueError, [NAN, INF, -0.1])]:
        for bad in bads:
            with unchanged(x):
                with pytest.raises(error, match="step"):
                    penalty.prox_(x, bad)
                with pytest.raises(error, match="step"):
                    penalty.prox(x, bad)


@pytest.mark.parametrize(
    ("penalty", "steps"),
    [
        (rl.MCP(0.5, 2.0), [2.0, 3.0]),
        (rl.SCAD(0.5, 3.0), [2.0, 9.0]),
        (rl.MCP(0.5, 0.25) + rl.L2(1.0), [0.5]),
    ],
    ids=repr,
)
def test_prox_wants_a_short_step(penalty, steps):
    for step in steps:
        x = np.ones(3)
        with unchanged(x):
            with pytest.raises(ValueError, match=r"gamma|step"):
                penalty.prox_(x, step)
            with pytest.raises(ValueError, match=r"gamma|step"):
                penalty.prox(x, step)


@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_array_errors(what):
    bad, reading, writing = WRONG_ARRAYS[what]
    penalty = rl.ElasticNet(0.1, 0.1)
    one = np.ones(getattr(bad, "shape", 3), np.float64)
    # of the structure of bad, so that nothing else is wrong
    other = [one, one.copy()] if isinstance(bad, list) else one
    with unchanged(other):
        if reading:
            with pytest.raises(reading, match="params"):
                penalty.value(bad)
            with pytest.raises(reading, match="params"):
                penalty.add_gradient_(other, bad)
            with pytest.raises(reading, match="x"):
                penalty.prox(bad, 0.1)
        else:
            assert penalty.value(bad) == pytest.approx(bad.size * 0.15)
        if "None" not in what:  # passed over
            with pytest.raises(writing, match="grads"):
                penalty.add_gradient_(bad, other)
            with pytest.raises(writing, match=r"grads\['w'\]\[1\]"):
                penalty.add_gradient_({"w": [copied(other), bad]}, {"w": [other, copied(other)]})
        if bad is not None:
            # a list in the place of an array may also be said to be of another structure
            either = (TypeError, ValueError) if isinstance(bad, list) else writing
            with pytest.raises(either, match="out"):
                penalty.prox(one, 0.1, out=bad)
        with pytest.raises(writing, match="params"):
            penalty.prox_(bad, 0.1)
        with pytest.raises(writing, match=r"params\[1\]"):
            penalty.prox_([other, bad], 0.1)


@pytest.mark.parametrize(
    ("grads", "params", "error"),
    [
        (np.ones(3), np.ones(4), ValueError),
        (np.ones((3, 1)), np.ones((1, 3)), ValueError),
        (np.ones(3), np.ones(()), ValueError),
        ([np.ones(3)], [np.ones(3), np.ones(3)], ValueError),
        ([np.ones(3), np.ones(3)], [np.ones(3)], ValueError),
        ({"a": np.ones(3)}, {"b": np.ones(3)}, ValueError),
        ({"a": np.ones(3)}, [np.ones(3)], ValueError),
        ([[np.ones(3)], np.ones(3)], [np.ones(3), [np.ones(3)]], ValueError),
        ([np.ones(3)], np.ones(3), ValueError),
        (np.ones(3, np.float32), np.ones(3), TypeError),
        (np.ones(3, np.float16), np.ones(3, BFLOAT16), TypeError),
        ([np.ones(3), np.ones(3)], [np.ones(3), np.ones(3, np.float32)], TypeError),
    ],
)
def test_grads_and_params_agree(grads, params, error):
    with unchanged(grads, params), pytest.raises(error, match=r"grads|params"):
        rl.L2(0.5).add_gradient_(grads, params)


def test_overlap_of_reads_and_writes():
    base = np.arange(10.0)
    with unchanged(base):
        with pytest.raises(ValueError, match=r"grads|params"):
            rl.L2(0.5).add_gradient_(base[1:], base[:-1])
        with pytest.raises(ValueError, match=r"grads|params"):
            rl.L2(0.5).add_gradient_([np.ones(3), base[:5]], [base[2:5], np.ones(5)])
        with pytest.raises(ValueError, match="out"):
            rl.L2(0.5).prox(base[1:], 0.5, out=base[:-1])
        with pytest.raises(ValueError, match=r"weights|params|x"):
            rl.L1(0.5, weights=base[1:]).prox_(base[:-1], 0.5)


def test_out():
    x, out = sample((4, 5), np.float32), np.zeros((4, 5), np.float32)
    assert rl.L1(0.3).prox(x, 0.5, out=out) is out
    assert bits(out) == bits(rl.L1(0.3).prox(x, 0.5))
    assert rl.L1(0.3).prox(x, 0.5, out=x) is x
    assert bits(x) == bits(out)
    for bad, error in [
        (np.zeros((5, 4), np.float32), ValueError),
        (np.zeros((4, 5)), TypeError),
        ([out], (TypeError, ValueError)),
    ]:
        with unchanged(x), pytest.raises(error, match="out"):
            rl.L1(0.3).prox(x, 0.5, out=bad)


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (np.ones(4), ValueError),
        ([np.ones(3)], ValueError),
        (np.ones(3, np.float32), TypeError),
        (np.ones(3, int), TypeError),
        (np.array([1.0, 0.5, -1e-9]), ValueError),
        (np.array([1.0, NAN, 2.0]), ValueError),
        (np.array([INF, 1.0, 2.0]), ValueError),
        ("weights", TypeError),
        (3.0, TypeError),
    ],
    ids=repr,
)
def test_weights_errors(weights, error):
    w, g = np.ones(3), np.ones(3)
    with unchanged(w, g):
        for call in (
            lambda p: p.value(w),
            lambda p: p.add_gradient_(g, w),
            lambda p: p.prox_(w, 0.5),
        ):
            with pytest.raises(error, match="weights"):
                call(rl.L1(0.5, weights=weights))


# ---- torch


@cases
@dtypes
def test_torch_gives_the_same_bits(name, dtype):
    penalty = CASES[name].make(rl)
    w, g = sample((40, 50), dtype, 1), sample((40, 50), dtype, 2)
    expected = effects(penalty, w.copy(), g.copy())
    in_w, in_g = w.copy(), g.copy()
    tensors = to_torch(in_w), to_torch(in_g)
    got = effects(penalty, tensors[0], tensors[1])
    assert got[0] == expected[0]
    assert [bits(in_w), bits(in_g)] == expected[1:]
    columns = np.zeros((50, 80), dtype)
    strided = to_torch(columns)[:, ::2].T
    columns[:, ::2] = w.T
    effects(penalty, strided, to_torch(g.copy()))
    assert bits(columns[:, ::2].T.copy()) == expected[1]
    if CASES[name].prox:
        out = penalty.prox(to_torch(w.copy()), STEP)
        assert type(out) is type(tensors[0])
        assert bits(from_torch(out)) == bits(penalty.prox(w, STEP))
        assert penalty.prox(to_torch(w.copy()), STEP, out=tensors[0]) is tensors[0]


def test_torch_weight_decay():
    """SGD's weight_decay is the gradient of L2."""
    torch = pytest.importorskip("torch")
    decay, lr = 0.03, 0.1
    start, g = sample(1000, np.float32, 1), sample(1000, np.float32, 2)
    theirs, ours = (torch.nn.Parameter(to_torch(start.copy())) for _ in range(2))
    theirs.grad, ours.grad = to_torch(g.copy()), to_torch(g.copy())
    rl.L2(decay).add_gradient_([ours.grad], [ours])
    torch.optim.SGD([theirs], lr=lr, weight_decay=decay).step()
    torch.optim.SGD([ours], lr=lr).step()
    # both round g + decay w (twice) and lr times it, and subtract
    scale = np.abs(start) + lr * (np.abs(g) + decay * np.abs(start))
    difference = np.abs(from_torch(ours).astype(float) - from_torch(theirs).astype(float))
    assert np.all(difference <= 2 * 2 * compute_eps(np.dtype(np.float32)) * scale)


def test_torch_module_parameters():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 2))
    penalty = rl.ElasticNet(0.01, 0.02)
    expected = sum((0.01 * p.abs() + 0.01 * p.square()).sum().item() for p in model.parameters())
    assert penalty.value(model.parameters()) == pytest.approx(expected, rel=1e-5)
    model(torch.ones(3, 5)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    penalty.add_gradient_((p.grad for p in model.parameters()), model.parameters())
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g + 0.01 * p.sign() + 0.02 * p)
    after = [penalty.prox(p.detach(), 0.5) for p in model.parameters()]
    penalty.prox_(model.parameters(), 0.5)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), after, strict=True))
    named = dict(model.named_parameters())
    assert penalty.value(named) == penalty.value(list(model.parameters()))


def test_torch_autograd():
    torch = pytest.importorskip("torch")
    leaf = torch.ones(3, requires_grad=True)
    w = torch.ones(3)
    with pytest.raises(rl.RequiresGradError, match="grads"):
        rl.L1(0.5).add_gradient_(leaf, w)
    assert issubclass(rl.RequiresGradError, RuntimeError)
    assert issubclass(rl.RequiresGradError, ValueError)
    assert leaf.tolist() == [1, 1, 1]
    with torch.no_grad(), pytest.raises(rl.RequiresGradError, match="wants a gradient"):
        rl.L1(0.5).add_gradient_(leaf, w)
    gradient = leaf * 1
    with torch.no_grad():
        rl.L1(0.5).add_gradient_(gradient, w)
    assert gradient.tolist() == [1.5, 1.5, 1.5]
    version = leaf._version
    rl.L1(0.5).prox_(leaf, 1.0)  # a parameter update: always as under no_grad
    assert leaf.tolist() == [0.5, 0.5, 0.5]
    assert leaf._version > version
    assert leaf.requires_grad
    w_version = w._version
    rl.L1(0.5).value(w)
    assert w._version == w_version
    grads = torch.zeros(3)
    rl.L1(0.5).add_gradient_(grads, leaf)
    assert grads._version == 1
    # autograd notices that a saved tensor was changed
    square = (leaf * leaf).sum()
    rl.L2(0.5).prox_(leaf, 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


def test_torch_errors():
    torch = pytest.importorskip("torch")
    good = torch.ones(3)
    for bad, error in [
        (torch.ones(3, dtype=torch.int32), TypeError),
        (torch.ones(3, dtype=torch.complex64), TypeError),
        (torch.ones(3).to_sparse(), TypeError),
        (torch.ones(3, device="meta"), TypeError),
    ]:
        with pytest.raises(error, match="params"):
            rl.L1(0.5).value(bad)
        with pytest.raises(error, match=r"params\[1\]"):
            rl.L1(0.5).prox_([good, bad], 1.0)
        with pytest.raises(error, match="grads"):
            rl.L1(0.5).add_gradient_(bad, good)
    with pytest.raises(ValueError, match="params"):
        rl.L1(0.5).prox_(torch.ones(1).expand(3), 1.0)
    with pytest.raises(TypeError, match=r"grads|params"):
        rl.L1(0.5).add_gradient_(torch.ones(3, dtype=torch.bfloat16), good)
    assert good.tolist() == [1, 1, 1]
    mixed = rl.L1(0.5).value([good, np.ones(3)])
    assert mixed == 3.0


def test_torch_lazy_negation():
    """The memory of such a view holds the numbers negated."""
    torch = pytest.importorskip("torch")
    for n in (1, 3):
        view = torch.complex(torch.zeros(n), torch.ones(n)).conj().imag
        with pytest.raises(TypeError, match="params: got a tensor with lazy negation"):
            rl.L1(0.5).prox_(view, 1.0)
        assert rl.L1(0.5).prox(view.resolve_neg(), 1.0).tolist() == [-0.5] * n


def test_jax_is_read_and_never_written():
    jnp = pytest.importorskip("jax.numpy")
    x = sample(300, np.float32)
    assert rl.LogSum(0.5, 0.1).value(jnp.asarray(x)) == rl.LogSum(0.5, 0.1).value(x)
    half = sample(300, BFLOAT16)
    assert rl.L2(0.5).value(jnp.asarray(half)) == rl.L2(0.5).value(half)
    w = jnp.ones(3)
    with pytest.raises(ValueError, match="params"):
        rl.L1(0.5).prox_(w, 1.0)
    with pytest.raises(ValueError, match="grads"):
        rl.L1(0.5).add_gradient_(w, np.ones(3, np.float32))
    assert w.tolist() == [1, 1, 1]


def test_value_is_exact_over_many_arrays():
    arrays = [sample(n, np.float32, n) for n in range(200)]
    exact = math.fsum(abs(float(v)) for a in arrays for v in a)
    assert rl.L1(0.5).value(arrays) == pytest.approx(exact / 2, rel=1e-14)
    assert rl.L1(0.5).value({str(i): a for i, a in enumerate(arrays)}) == rl.L1(0.5).value(arrays)
