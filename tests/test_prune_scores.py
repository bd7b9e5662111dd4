"""Scores: the oracles, containers, libraries, memory layouts, and every bad argument."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    LAYOUTS,
    WRONG_ARRAYS,
    assert_ulp,
    bits,
    copied,
    dtypes,
    every_setting,
    from_torch,
    layouts,
    placements,
    read_only,
    sample,
    to_torch,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline.prune import scores
from ridgeline.reference import pruning as ref

INF, NAN = np.inf, np.nan
SIZES = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 2**16 + 1]


def norms(shape, dtype=np.float32):
    return np.abs(sample(shape[-1:], dtype, 9)) + dtype(0.5)


#: name -> (ours, the oracle, both of w and g; how many roundings of the arithmetic)
CALLS = {
    "taylor": (scores.taylor, ref.taylor, 0.5),
    "squared": (
        lambda w, g, **more: scores.taylor(w, g, squared=True, **more),
        lambda w, g: ref.taylor(w, g, squared=True),
        1.5,
    ),
    "snip": (scores.snip, ref.snip, 0.5),
    "gradient": (lambda w, g, **more: scores.gradient(g, **more), lambda w, g: ref.gradient(g), 0),
    "lamp": (lambda w, g, **more: scores.lamp(w, **more), lambda w, g: ref.lamp(w), 0.5),
    "wanda": (
        lambda w, g, **more: scores.wanda(w, norms_of(w), **more),
        lambda w, g: ref.wanda(w, norms_of(w)),
        0.5,
    ),
}
calls = pytest.mark.parametrize("name", CALLS)


def norms_of(tree):
    if isinstance(tree, dict):
        return {key: norms_of(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [norms_of(value) for value in tree]
    return norms(tuple(tree.shape))


def pair(shape, dtype):
    return sample(shape, dtype, 1), sample(shape, dtype, 2)


def dtype_of(name, dtype):
    """Scores of float16 weights are float32, but for those that are exact."""
    return np.float32 if dtype == np.float16 and name != "gradient" else dtype


def check(name, got, w, g):
    _, oracle, ulp = CALLS[name]
    assert got.dtype == dtype_of(name, w.dtype)
    expected = np.asarray(oracle(w.astype(np.float64), g.astype(np.float64)))
    assert_ulp(got, expected, got.dtype, ulp)


# --- values ---------------------------------------------------------------------------------------


@calls
@dtypes
def test_against_the_oracle(name, dtype):
    for n in SIZES:
        w, g = pair((n,), dtype)
        with unchanged(w, g):
            got = CALLS[name][0](w, g)
        check(name, got, w, g)


@calls
@dtypes
def test_shapes(name, dtype):
    for shape in [(3, 5), (2, 3, 4), (0, 4), (4, 0), (1, 1, 1)]:
        w, g = pair(shape, dtype)
        check(name, CALLS[name][0](w, g), w, g)


@pytest.mark.parametrize("name", [n for n in CALLS if n != "wanda"])
def test_no_axes(name):
    w, g = np.array(-2.0), np.array(3.0)
    got = CALLS[name][0](w, g)
    assert got.shape == ()
    check(name, got, w, g)


@calls
@layouts
@dtypes
def test_layouts(name, layout, dtype):
    w, g = pair((5, 6, 7), dtype)
    expected = CALLS[name][0](w, g)
    (w_view, w_intact), (g_view, g_intact) = LAYOUTS[layout](w), LAYOUTS[layout](g)
    assert bits(CALLS[name][0](w_view, g_view)) == bits(expected)
    assert bits(CALLS[name][0](w_view, g)) == bits(expected)
    out, intact = LAYOUTS[layout](np.zeros_like(w))
    assert CALLS[name][0](w, g, out=out) is out
    assert bits(out) == bits(expected.astype(dtype))
    assert intact()
    assert w_intact()
    assert g_intact()


@settings(max_examples=50, deadline=None)
@given(placements(), st.data())
def test_any_strides(placement, data):
    shape, place = placement
    w, g = pair(shape, np.float32)
    w_view, _ = place(w)
    for name in CALLS if shape else [n for n in CALLS if n != "wanda"]:
        assert bits(CALLS[name][0](w_view, g)) == bits(CALLS[name][0](w, g))


@calls
def test_the_same_bits_everywhere(name):
    for dtype in DTYPES:
        w, g = pair((3, 2**15 + 3), dtype)
        every_setting(lambda: bits(CALLS[name][0](w, g)))  # noqa: B023


def test_special_values():
    w, g = np.array([NAN, INF, 0.0, -0.0, -INF, 1e-310]), np.array([1.0, 0.0, INF, -2.0, 2.0, 1.0])
    for dtype in DTYPES:
        a, b = w.astype(dtype), g.astype(dtype)
        got = scores.taylor(a, b).astype(np.float64)
        assert np.isnan(got).tolist() == [True, True, True, False, False, False]
        assert got[3:5].tolist() == [0.0, INF]
        assert not np.signbit(got[3:]).any()
        assert got[5] == float(a[5])
        plain = scores.gradient(a).astype(np.float64)
        assert np.array_equal(plain, np.abs(a.astype(np.float64)), equal_nan=True)
        assert not np.signbit(plain[2:]).any()


def test_half_types_round_once():
    """(g w)^2 in float32, though g w is below float16."""
    out = np.zeros(20, np.float16)
    w, g = np.full(20, 2.0**-14, np.float16), np.full(20, 2.0**2, np.float16)
    assert scores.taylor(w, g, squared=True, out=out).tolist() == [2.0**-24] * 20
    w, g = np.full(20, 300, np.float16), np.full(20, 2.0**-9, np.float16)
    assert scores.taylor(w, g, squared=True, out=out)[0] == np.float16((300 / 512) ** 2)


def test_float16_neither_overflows_nor_vanishes():
    w, x = np.array([[1e3, 2e3, 3e3]], np.float16), np.full(3, 1e3, np.float32)
    assert scores.wanda(w, x).tolist() == [[1e6, 2e6, 3e6]]
    assert ref.by_score(scores.wanda(w, x), 1 / 3).tolist() == [[False, True, True]]
    assert scores.taylor(w, w)[0].tolist() == [1e6, 4e6, 9e6]
    assert scores.snip([w], [w])[0].tolist() == [[1e6, 4e6, 9e6]]
    tiny = np.array([2.0**-20, 2.0**-21], np.float16)
    assert scores.taylor(tiny, tiny, squared=True).tolist() == [2.0**-80, 2.0**-84]
    assert scores.lamp(np.array([1, 2.0**-20], np.float16))[1] > 0
    assert scores.gradient(w).dtype == np.float16
    out = np.zeros_like(w)
    assert scores.wanda(w, x, out=out).tolist() == [[INF] * 3]


# --- snip -----------------------------------------------------------------------------------------


@dtypes
def test_snip_normalized(dtype):
    arrays = [pair((40, 5), dtype), pair((7,), dtype)]
    w, g = [a for a, _ in arrays], [b for _, b in arrays]
    got = scores.snip(w, g, normalize=True)
    expected = ref.snip(
        [a.astype(np.float64) for a in w], [b.astype(np.float64) for b in g], normalize=True
    )
    for a, b in zip(got, expected, strict=True):
        # half types: the sum is of rounded products, and the quotient is rounded again
        if a.dtype.itemsize == 2:
            assert a.astype(np.float64) == pytest.approx(b, rel=2**-6, abs=1e-6)
        else:
            assert_ulp(a, b, a.dtype, 4)
    total = sum(float(np.sum(a.astype(np.float64))) for a in got)
    assert total == pytest.approx(1, rel=1e-2 if np.dtype(dtype).itemsize == 2 else 1e-5)
    one = scores.snip(w[0], g[0], normalize=True)
    assert float(np.sum(one.astype(np.float64))) == pytest.approx(1, rel=1e-2)


def test_snip_of_tiny_and_huge_sums():
    for scale in (1e-44, 1e-38, 1e-20, 1e20, 3e37):
        w = np.array([1.0, 3.0], np.float32)
        g = np.full(2, scale, np.float32)
        total = float(g[0]) + float(np.float32(3) * g[1])
        wanted = [float(g[0]) / total, float(np.float32(3) * g[1]) / total]
        assert scores.snip(w, g, normalize=True) == pytest.approx(wanted, rel=1e-6)
    w, g = np.array([1.0, 3.0]), np.array([5e-324, 5e-324])
    assert scores.snip(w, g, normalize=True).tolist() == [0.25, 0.75]
    zero = np.zeros(3)
    assert scores.snip(zero, zero, normalize=True).tolist() == [0.0] * 3
    assert np.isnan(scores.snip(np.array([1.0, NAN]), np.ones(2), normalize=True)).all()
    odd = scores.snip(np.array([1.0, INF]), np.ones(2), normalize=True)
    assert odd[0] == 0
    assert math.isnan(odd[1])


# --- lamp -----------------------------------------------------------------------------------------


def test_lamp_ranks_as_magnitudes():
    w = sample((50, 20), np.float64, 3)
    nonzero = w != 0
    by_lamp = np.argsort(scores.lamp(w)[nonzero])
    assert np.array_equal(by_lamp, np.argsort(np.abs(w[nonzero])))
    assert scores.lamp(w).max() == 1.0
    assert np.all(scores.lamp(w)[~nonzero] == 0)


def test_lamp_by_hand():
    assert scores.lamp(np.array([[2.0, -1.0], [0.0, 2.0]])) == pytest.approx(
        np.array([[1, 1 / 9], [0, 4 / 8]])
    )
    assert scores.lamp(np.zeros(3, np.float16)).tolist() == [0.0] * 3
    assert scores.lamp(np.array([3e200, 4e200])) == pytest.approx([9 / 25, 1])
    assert scores.lamp(np.array([3e-200, 4e-200])) == pytest.approx([9 / 25, 1])
    for bad in (NAN, INF, -INF):
        got = scores.lamp([np.array([2.0, bad, -1.0, 0.0, NAN]), np.array([bad])])
        assert got[0].tolist() == [1.0, INF, 0.2, 0.0, INF]
        assert got[1].tolist() == [INF]
        assert np.array_equal(got[0], ref.lamp(np.array([2.0, bad, -1.0, 0.0, NAN])))
    big = np.ones(2**16, np.float32)
    assert scores.lamp(big)[[0, 1, -1]].tolist() == [1.0, 0.5, 2.0**-16]


# --- wanda ----------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("norm_dtype", [np.float32, np.float64])
def test_wanda_takes_norms_of_either_dtype(dtype, norm_dtype):
    for shape in [(5,), (4, 33), (3, 2, 65), (0, 3)]:
        w, x = sample(shape, dtype, 1), norms(shape, norm_dtype)
        got = scores.wanda(w, x)
        expected = ref.wanda(w.astype(np.float64), x)
        rough = norm_dtype == np.float64
        assert_ulp(got, expected, dtype_of("wanda", dtype), 1.5 if rough else 0.5)


def test_wanda_of_a_layer():
    """Sun et al. 2024: |W_ij| ||X_j||_2, compared in each row."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 8)) * np.arange(1, 9), rng.standard_normal((4, 8))
    got = scores.wanda(w, np.linalg.norm(x, axis=0))
    for i in range(4):
        for j in range(8):
            assert got[i, j] == pytest.approx(abs(w[i, j]) * np.sqrt(np.sum(x[:, j] ** 2)))
    kept = ref.by_score(got, 0.5, per_row=True)
    assert kept.sum(axis=1).tolist() == [4] * 4


@pytest.mark.parametrize("x_norm", [np.ones(3), np.ones((4, 5)), np.ones((1, 5)), np.array(1.0)])
def test_wanda_wants_one_norm_for_each_input(x_norm):
    for w, x, place in [
        (np.ones((4, 5)), x_norm, "x_norm"),
        ([np.ones((4, 5))], [x_norm], r"x_norm\[0\]"),
    ]:
        with pytest.raises(ValueError, match=rf"^{place}: got .*, wants .*5"):
            scores.wanda(w, x)


@pytest.mark.parametrize("x_norm", [np.ones(5, np.int64), None, "norm", np.ones(5, bool)])
def test_wanda_norms_of_a_wrong_type(x_norm):
    with pytest.raises(TypeError, match=r"^x_norm: got "):
        scores.wanda(np.ones((4, 5)), x_norm)


def test_wanda_of_no_axes_has_one_input():
    assert scores.wanda(np.array(-2.0), np.array([3.0])) == 6.0
    assert scores.wanda([np.array(-2.0)], [np.array([3.0])]) == [6.0]


# --- movement -------------------------------------------------------------------------------------


@dtypes
def test_movement(dtype):
    for shape in [(0,), (1,), (33,), (6, 5), (2**16 + 3,)]:
        total = sample(shape, dtype, 3)
        w, g = pair(shape, dtype)
        expected = total.astype(np.float64) - 0.3 * g.astype(np.float64) * w.astype(np.float64)
        scale = np.abs(total.astype(np.float64)) + np.abs(expected) + 1e-3
        with unchanged(w, g):
            assert scores.movement_(total, w, g, 0.3) is None
        assert_ulp(total, expected, dtype, 2.5, scale)


def test_movement_accumulates():
    w, g = pair((100,), np.float64)
    total = {"a": [np.zeros(100)]}
    for _ in range(3):
        scores.movement_(total, {"a": [w]}, {"a": [g]})
    assert total["a"][0] == pytest.approx(-3 * w * g)
    # weights that grow in magnitude rise
    assert np.array_equal(total["a"][0] > 0, (w * g) < 0)


@layouts
def test_movement_layouts(layout):
    total = sample((5, 6, 7), np.float32, 3)
    w, g = pair(total.shape, np.float32)
    view, intact = LAYOUTS[layout](total)
    scores.movement_(total, w, g, 0.5)
    scores.movement_(view, w, LAYOUTS[layout](g)[0], 0.5)
    assert bits(view) == bits(total)
    assert intact()


def test_movement_everywhere():
    w, g = pair((2**17 + 5,), np.float32)

    def moved():
        total = np.zeros_like(w)
        scores.movement_(total, w, g, 0.1)
        return bits(total)

    every_setting(moved)


@pytest.mark.parametrize(
    ("lr", "error"),
    [(NAN, ValueError), (INF, ValueError), ("1", TypeError), (None, TypeError), (True, TypeError)],
)
def test_movement_bad_rates(lr, error):
    total = np.zeros(3)
    with unchanged(total), pytest.raises(error, match=r"^lr: got .*, wants "):
        scores.movement_(total, np.ones(3), np.ones(3), lr)


def test_movement_without_a_gradient():
    total = [np.ones(3), np.ones(3)]
    scores.movement_(total, [np.ones(3)] * 2, [None, np.ones(3)])
    assert total[0].tolist() == [1.0] * 3
    assert total[1].tolist() == [0.0] * 3


def test_movement_bad_arrays():
    good = np.ones(3)
    for totals, w, g, error, place in [
        (read_only(), good, good, ValueError, "scores"),
        ([np.ones(3), read_only()], [good] * 2, [good] * 2, ValueError, "scores"),
        (np.ones(3), np.ones(4), good, ValueError, "w|scores"),
        (np.ones(3), good, np.ones(4), ValueError, "g|scores"),
        (np.ones(3), np.ones(3, np.float32), good, TypeError, "w|scores"),
        (np.ones(3), good, np.ones(3, np.float32), TypeError, "g|scores"),
        ([np.ones(3)], good, [good], ValueError, "w|scores"),
        ([np.ones(3)], [good], {"a": good}, ValueError, "g|scores"),
        ([np.ones(3)] * 2, [good] * 2, [good, np.ones(4)], ValueError, "g|scores"),
    ]:
        with unchanged(totals), pytest.raises(error, match=rf"^({place})(\[\d\])?: got "):
            scores.movement_(totals, w, g)


# --- containers -----------------------------------------------------------------------------------


def trees(dtype):
    def tree(seed):
        a, b, c = (sample(s, dtype, seed + i) for i, s in enumerate([(3, 4), (5,), (2, 3)]))
        return {"block": [a, (b,)], "head": {"w": c, "none": []}}

    return tree(1), tree(7)


@calls
def test_containers(name):
    w, g = trees(np.float32)
    call = CALLS[name][0]
    got = call(w, g)
    assert list(got) == ["block", "head"]
    assert isinstance(got["block"], list)
    assert isinstance(got["block"][1], tuple)
    assert got["head"]["none"] == []
    pairs = [
        (got["block"][0], w["block"][0], g["block"][0]),
        (got["block"][1][0], w["block"][1][0], g["block"][1][0]),
        (got["head"]["w"], w["head"]["w"], g["head"]["w"]),
    ]
    for result, a, b in pairs:
        assert bits(result) == bits(call(a, b))
    out = copied(w)
    assert call(w, g, out=out) is out
    assert bits(out) == bits(got)
    assert bits(call(list(w["block"][1]), [g["block"][1][0]])) == bits([got["block"][1][0]])


def test_iterables_and_order():
    w, g = trees(np.float64)
    assert bits(scores.taylor(iter(w["block"][:1]), iter(g["block"][:1]))) == bits(
        scores.taylor(w["block"][:1], g["block"][:1])
    )
    turned = {"b": w["head"]["w"], "a": w["block"][0]}
    grads = {"a": g["block"][0], "b": g["head"]["w"]}
    got = scores.taylor(turned, grads)
    assert list(got) == ["b", "a"]
    assert bits(got["a"]) == bits(scores.taylor(turned["a"], grads["a"]))
    assert scores.taylor([], []) == []
    assert scores.snip({}, {}, normalize=True) == {}


@pytest.mark.parametrize("function", [scores.taylor, scores.snip])
def test_structures_that_differ(function):
    x = np.ones(3)
    for w, g, place in [
        ([x], x, "g"),
        ([x], {"a": x}, "g"),
        ({"a": x}, [x], "g"),
        ({"a": x}, {"b": x}, "g"),
        ([x], [x, x], "g"),
        ([x, x], [x], "g"),
        ([[x]], [x], r"g\[0\]"),
        ([x], [[x]], r"g\[0\]"),
        ({"a": [x]}, {"a": [np.ones(4)]}, r"g\['a'\]\[0\]"),
    ]:
        with pytest.raises(ValueError, match=rf"^{place}: got .*, wants "):
            function(w, g)
    with pytest.raises((TypeError, ValueError), match=r"^g: got "):
        function(x, [x])
    with pytest.raises(ValueError, match=r"^g: got shape"):
        function(x, np.ones(4))
    with pytest.raises(TypeError, match=r"^g: got dtype|^w: got dtype"):
        function(x, np.ones(3, np.float32))
    with pytest.raises(TypeError, match=r"^g\[1\]: got dtype float32, wants float64"):
        function([x, x], [x, np.ones(3, np.float32)])


@calls
def test_out_is_checked_before_it_is_written(name):
    call = CALLS[name][0]
    w, g = [np.ones((2, 3)), np.ones((3,))], [np.ones((2, 3)), np.ones((3,))]
    for last, error in [
        (read_only(), ValueError),
        (np.ones(4), ValueError),
        (np.ones(3, np.float32), TypeError),
        (None, TypeError),
    ]:
        out = [np.full((2, 3), 9.0), last]
        with unchanged([out[0]]), pytest.raises(error, match=r"^out\[1\]: got .*, wants "):
            call(w, g, out=out)
    for out, error in [
        (read_only(), ValueError),
        (np.ones(4), ValueError),
        (np.ones(3, np.float32), TypeError),
        (3.0, TypeError),
    ]:
        with pytest.raises(error, match=r"^out: got .*"):
            call(np.ones(3), np.ones(3), out=out)


@calls
def test_bad_arrays_in_containers_are_seen_before_a_write(name):
    call = CALLS[name][0]
    for last in (np.ones(3, np.int64), np.ma.ones(3)):
        good = [np.ones(3), np.ones(3)]
        out = [np.full(3, 9.0), np.full(3, 9.0)]
        for w, g in (([good[0], last], good), (good, [good[0], last])):
            if (name in ("lamp", "wanda") and w is good) or (name == "gradient" and g is good):
                continue
            with unchanged(*out), pytest.raises(TypeError, match=r"^[wg]\[1\]: got "):
                call(w, g, out=out)


@calls
def test_no_output_over_another_input(name):
    """out[0] over w[1] gave the score of a score."""
    call = CALLS[name][0]
    read = 1 if name == "gradient" else 0
    block = np.arange(1.0, 9.0)
    out = [block[4:], np.zeros(4)]
    w = [[np.ones(4), np.ones(4)], [np.ones(4), np.ones(4)]]
    w[read][1] = out[0]
    with unchanged(block), pytest.raises(ValueError, match=r"^out\[0\]: got the same memory as "):
        call(*w, out=out)
    w[read][1] = block[3:7]
    with unchanged(block), pytest.raises(ValueError, match=r"^out\[0\]: got memory that overlaps "):
        call(*w, out=out)
    w[read] = [block[3:7], np.ones(4)]  # its own input, shifted
    with unchanged(block), pytest.raises(ValueError, match=r"^out\[0\]: got memory that overlaps "):
        call(*w, out=out)
    with pytest.raises(ValueError, match=r"^out\[1\]: got the same memory as out\[0\]"):
        call(*[[np.ones(4)] * 2] * 2, out=[out[0], out[0]])


def test_no_output_over_norms():
    block = np.ones(4)
    with unchanged(block), pytest.raises(ValueError, match=r"^out\[0\]: got .*x_norm\[1\]"):
        scores.wanda([np.ones(4)] * 2, [np.ones(4), block], out=[block, np.ones(4)])


@calls
def test_iterators(name):
    """One with nothing left is refused; of arrays, it is read once and a list is returned."""
    call = CALLS[name][0]
    w, g = [pair((3,), np.float64)[0]] * 2, [pair((3,), np.float64)[1]] * 2
    out = [np.zeros(3), np.zeros(3)]
    got = call(w, g, out=iter(out))
    assert all(a is b for a, b in zip(got, out, strict=True))
    assert bits(got) == bits(call(w, g))
    if name != "wanda":  # whose norms are made of w here
        w, g = iter(w), iter(g)
        call(w, g)
        with pytest.raises(
            ValueError, match=r"^[wg]: got an iterator that has nothing left, wants "
        ):
            call(w, g)
    with pytest.raises(ValueError, match=r"^out: got an iterator that has nothing left, wants "):
        call([], [], out=iter([]))


@calls
def test_out_may_be_the_argument(name):
    w, g = pair((1000,), np.float32)
    expected = CALLS[name][0](w, g)
    if name != "gradient":
        a = w.copy()
        result = (
            CALLS[name][0](a, g, out=a)
            if name != "wanda"
            else scores.wanda(a, norms((1000,)), out=a)
        )
        assert result is a
        assert bits(a) == bits(expected)
    if name not in ("lamp", "wanda"):
        b = g.copy()
        assert CALLS[name][0](w, b, out=b) is b
        assert bits(b) == bits(expected)


@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_wrong_arrays(what):
    wrong, reading, _ = WRONG_ARRAYS[what]
    good = np.ones(getattr(wrong, "shape", (3,)))
    if reading is None:
        scores.gradient(wrong)
        scores.lamp(wrong)
        return
    for call in (
        lambda: scores.gradient(wrong),
        lambda: scores.lamp(wrong),
        lambda: scores.taylor(wrong, good),
        lambda: scores.wanda(wrong, good),
    ):
        with pytest.raises(reading, match=r"^[wg](\[\d\])?: got "):
            call()
    with pytest.raises((TypeError, ValueError), match=r"^g(\[\d\])?: got "):
        scores.taylor(good, wrong)


# --- libraries ------------------------------------------------------------------------------------


@calls
@dtypes
def test_torch(name, dtype):
    torch = pytest.importorskip("torch")
    w, g = pair((6, 7), dtype)
    expected = CALLS[name][0](w, g)
    a, b = to_torch(w.copy()), to_torch(g.copy())
    got = CALLS[name][0](a, b)
    assert isinstance(got, torch.Tensor)
    assert str(got.dtype) == f"torch.{np.dtype(dtype_of(name, dtype)).name}"
    assert bits(from_torch(got)) == bits(expected)
    tree = CALLS[name][0]({"a": [a]}, {"a": [b]})
    assert bits(from_torch(tree["a"][0])) == bits(expected)
    out = torch.zeros_like(b).t().contiguous().t()
    # the result is no part of a graph
    with pytest.raises(rl.RequiresGradError):
        CALLS[name][0](a.requires_grad_(), b.requires_grad_())
    with torch.no_grad():
        got = CALLS[name][0](a, b)
    assert not got.requires_grad
    assert bits(from_torch(got)) == bits(expected)
    before = out._version
    assert CALLS[name][0](a.detach(), b.detach(), out=out) is out
    assert out._version > before
    assert bits(from_torch(out)) == bits(expected.astype(dtype))


def test_torch_normalized_and_moved():
    torch = pytest.importorskip("torch")
    for dtype in DTYPES:
        w, g = pair((40,), dtype)
        got = scores.snip([to_torch(w)], [to_torch(g)], normalize=True)[0]
        assert bits(from_torch(got)) == bits(scores.snip([w], [g], normalize=True)[0])
        total = torch.zeros_like(to_torch(w))
        ours = np.zeros(40, dtype)
        scores.movement_([total], [to_torch(w)], [to_torch(g)], 0.5)
        scores.movement_(ours, w, g, 0.5)
        assert bits(from_torch(total)) == bits(ours)


@calls
@dtypes
def test_jax(name, dtype):
    pytest.importorskip("jax")
    jnp = pytest.importorskip("jax.numpy")
    if dtype == np.float64:
        pytest.skip("JAX has float64 only by configuration")
    w, g = pair((6, 7), dtype)
    a, b = jnp.asarray(w), jnp.asarray(g)
    got = CALLS[name][0](a, b)
    assert type(got).__module__.startswith("jax")
    assert got.dtype == dtype_of(name, dtype)
    assert bits(np.asarray(got)) == bits(CALLS[name][0](w, g))
    assert bits(np.asarray(a)) == bits(w)
    if name == "snip":
        got = scores.snip([a], [b], normalize=True)[0]
        expected = scores.snip([w], [g], normalize=True)[0].astype(np.float64)
        tolerance = 1e-2 if dtype in (BFLOAT16, np.dtype(np.float16)) else 1e-6
        assert np.asarray(got).astype(np.float64) == pytest.approx(expected, rel=tolerance)
