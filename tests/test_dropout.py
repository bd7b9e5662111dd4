"""Dropout and its relatives: the NumPy oracle bit for bit, and what must hold whatever the bits."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    LAYOUTS,
    WRONG_ARRAYS,
    assert_ulp,
    bits,
    dtypes,
    every_setting,
    from_torch,
    layouts,
    place,
    placements,
    sample,
    to_torch,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline import reference as ref

KEY = rl.Key(42)
P = 0.3
INF, NAN = np.inf, np.nan
SHAPE = (6, 5, 8, 9)  # as images
SHARED = (29, 3, 58, 59)  # enough elements to be shared out
OFFSETS = [
    *(0, 1, 63, 64, 100),
    *(2**k - 200 for k in (32, 34, 36, 61, 62)),
    *(2**60 + 5, 2**61, 2**62, 2**63 - 10_000),
]
Z = NormalDist().inv_cdf(1 - 0.5e-6)  # two-sided, once in a million

TINY = [2.0**-33, 2.0**-32, 1e-9, 1e-300]
NEAR_ONE = [1 - 2.0**-32, 1 - 2.0**-33, 1 - 1e-9, 0.9999]
PROBABILITIES = [0.0, 1.0, 0.5, 0.1, P, 1 / 256, 0.996, *TINY, *NEAR_ONE]


@dataclass(frozen=True)
class Op:
    """A function of an array, its oracle, and which keywords it knows."""

    call: Callable[..., Any]
    oracle: Callable[..., Any]
    inputs: int = 1
    pieces: bool = True  # shape=, index=
    offset: bool = True
    out: bool = True
    axes: bool = False
    exact: bool = True  # the oracle has its bits
    zeros: bool = True  # dropped elements are 0
    one: bool = True  # p may be 1
    names: tuple[str, ...] = ("x",)
    keywords: dict[str, Any] = field(default_factory=dict)


def plain(name, *, keywords=None, **features):
    given = keywords or {}
    ours, theirs = getattr(rl, name), getattr(ref, name)

    def call(*arrays, p=P, key=KEY, **more):
        return ours(*arrays, p, key, **{**given, **more})

    def oracle(*arrays, p=P, key=KEY, **more):
        return theirs(*arrays, p, key, **{**given, **more})

    return Op(call, oracle, keywords=given, **features)


def block(edges, size, **keywords):
    def call(x, p=P, key=KEY, **more):
        return rl.drop_block(x, p, size, key, edges=edges, **keywords, **more)

    def oracle(x, p=P, key=KEY):
        return ref.drop_block(x, p, size, key, edges=edges, **keywords)

    return Op(call, oracle, pieces=False, offset=False)


OPS = {
    "dropout": plain("dropout", axes=True),
    "dropout of channels": plain("dropout", keywords={"broadcast_axes": (2, 3)}, pieces=False),
    "dropout of rows": plain("dropout", keywords={"broadcast_axes": -1}, pieces=False),
    "dropout, locked": plain("dropout", keywords={"broadcast_axes": 0}, pieces=False),
    "dropout, one choice": plain(
        "dropout", keywords={"broadcast_axes": (0, 1, 2, 3)}, pieces=False
    ),
    "dropout_add": plain("dropout_add", inputs=2, axes=True, names=("x", "residual"), zeros=False),
    "alpha_dropout": plain("alpha_dropout", axes=True, zeros=False),
    "alpha_dropout_backward": plain("alpha_dropout_backward", axes=True, names=("dy",)),
    "feature_alpha_dropout": plain("feature_alpha_dropout", pieces=False, zeros=False),
    "feature_alpha_dropout_backward": plain(
        "feature_alpha_dropout_backward", pieces=False, names=("dy",)
    ),
    "gaussian_dropout": plain("gaussian_dropout", exact=False, zeros=False, one=False),
    "gaussian_noise": plain("gaussian_noise", exact=False, zeros=False),
    "drop_connect": plain("drop_connect", names=("w",)),
    "drop_connect, unscaled": plain("drop_connect", keywords={"scale": False}, names=("w",)),
    "drop_path": plain("drop_path", pieces=False),
    "drop_path, actual": plain("drop_path", keywords={"scale": "actual"}, pieces=False),
    "drop_path, none": plain("drop_path", keywords={"scale": "none"}, pieces=False),
    "drop_block": block("full", 3),
    "drop_block, clipped": block("clipped", 3),
    "drop_block, even": block("full", (2, 4)),
    "drop_block, even, clipped": block("clipped", (2, 4), per_channel=False),
    "zoneout": plain("zoneout", inputs=2, axes=True, names=("new", "old"), zeros=False),
    "zoneout_backward": plain("zoneout_backward", out=False, axes=True, names=("dy",), zeros=False),
    "token_dropout": plain("token_dropout", pieces=False),
}
ops = pytest.mark.parametrize("op", OPS.values(), ids=OPS)
exact_ops = pytest.mark.parametrize(
    "op", [o for o in OPS.values() if o.exact], ids=[n for n, o in OPS.items() if o.exact]
)
out_ops = pytest.mark.parametrize(
    "op", [o for o in OPS.values() if o.out], ids=[n for n, o in OPS.items() if o.out]
)
PIECES = [name for name, op in OPS.items() if op.pieces]


def arrays_for(op, shape, dtype, seed=0):
    return [sample(shape, dtype, seed + k) for k in range(op.inputs)]


def canonical(x):
    """Bits, with one NaN for all."""
    x = np.array(x)
    x[np.isnan(x.astype(np.float64))] = NAN
    return bits(x)


def assert_same(got, expected):
    if isinstance(expected, tuple):
        assert isinstance(got, tuple)
        assert len(got) == len(expected)
        for pair in zip(got, expected, strict=True):
            assert_same(*pair)
        return
    assert isinstance(got, np.ndarray)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if canonical(got) != canonical(expected):
        word = {2: np.uint16, 4: np.uint32, 8: np.uint64}[got.dtype.itemsize]
        same = np.ascontiguousarray(got).view(word) == np.ascontiguousarray(expected).view(word)
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{np.sum(~same)} of {got.size} differ, first at {at}: got {got[at]!r}, "
            f"expected {expected[at]!r}"
        )


# ---- against the oracle


@exact_ops
@dtypes
def test_oracle(op, dtype):
    for p in (P, 0.5, 0.9, 0.0, 1.0, 0.004):
        arrays = arrays_for(op, SHAPE, dtype)
        with unchanged(*arrays):
            assert_same(op.call(*arrays, p=p), op.oracle(*arrays, p=p))


@exact_ops
def test_oracle_where_threads_share(op):
    arrays = arrays_for(op, SHARED, np.float32)
    assert_same(op.call(*arrays), op.oracle(*arrays))


@exact_ops
@pytest.mark.parametrize("p", PROBABILITIES)
def test_probabilities(op, p):
    for dtype in (np.float32, BFLOAT16):
        arrays = arrays_for(op, (20, 5, 12, 13), dtype)
        assert_same(op.call(*arrays, p=p), op.oracle(*arrays, p=p))


@exact_ops
def test_keys_and_offsets(op):
    arrays = arrays_for(op, SHAPE, np.float32)
    for key in (rl.Key(0), rl.Key(2**64 - 1), KEY.split()[1]):
        assert_same(op.call(*arrays, key=key), op.oracle(*arrays, key=key))
    for offset in OFFSETS if op.offset else ():
        assert_same(op.call(*arrays, offset=offset), op.oracle(*arrays, offset=offset))


def expected_gaussian(name, x, p, **keywords):
    """In the numbers of rl.random.normal, which has a test of its own: bit for bit."""
    number = np.float64 if x.dtype == np.float64 else np.float32
    shape = keywords.pop("shape", None) or x.shape
    with np.errstate(all="ignore"):
        if name == "gaussian_dropout":
            std = math.sqrt(p / (1 - p))
            z = rl.random.normal(shape, KEY, mean=1, std=std, dtype=number, **keywords)
            return np.asarray(x.astype(number) * z).astype(x.dtype)
        z = rl.random.normal(shape, KEY, std=p, dtype=number, **keywords)
        return np.asarray(x.astype(number) + z).astype(x.dtype)


@pytest.mark.parametrize("name", ["gaussian_dropout", "gaussian_noise"])
@dtypes
def test_gaussian(name, dtype):
    x, op = sample(SHAPE, dtype), OPS[name]
    for p in (P, 0.0, 0.9, 0.999):
        with unchanged(x):
            got = op.call(x, p=p)
        assert_same(got, expected_gaussian(name, x, p))
        # and the formula itself: 4 ulp of z, times std, and three roundings
        std = p if name == "gaussian_noise" else math.sqrt(p / (1 - p))
        wide = x.astype(np.float64)
        z = np.abs(ref.random.standard_normal(KEY, ref.random.indices(SHAPE), dtype))
        scale = np.abs(wide) + std * z if name == "gaussian_noise" else np.abs(wide) * (1 + std * z)
        assert_ulp(
            got, op.oracle(wide, p=p) if False else formula(name, wide, std, dtype), dtype, 6, scale
        )
        for offset in (1, 17, 2**34 - 100, 2**61, 2**62 - 100, 2**63 - 10_000):
            assert_same(
                op.call(x, p=p, offset=offset), expected_gaussian(name, x, p, offset=offset)
            )
    if name == "gaussian_noise":
        assert_same(op.call(x, p=1e3), expected_gaussian(name, x, 1e3))
    piece = np.s_[1:3, ..., ::2]
    got = op.call(np.ascontiguousarray(x[piece]), shape=SHAPE, index=piece)
    assert_same(got, op.call(x)[piece])


def formula(name, wide, std, dtype):
    z = ref.random.standard_normal(KEY, ref.random.indices(wide.shape), dtype)
    return wide + std * z if name == "gaussian_noise" else wide * (1 + std * z)


# ---- what a call means


@dtypes
def test_meaning(dtype):
    """Written out once more, in plain NumPy, with the choices of bernoulli."""
    x, r = sample(SHAPE, dtype, 1), sample(SHAPE, dtype, 2)
    number = np.float64 if dtype == np.float64 else np.float32
    for p in (P, 0.75):
        dropped = rl.random.bernoulli(SHAPE, KEY, p)
        assert bits(rl.dropout_mask(SHAPE, p, KEY).to_array()) == bits(~dropped)
        scaled = x.astype(number) * number(1 / (1 - p))
        y = np.where(dropped, number(0), scaled)
        assert_same(rl.dropout(x, p, KEY), y.astype(dtype))
        assert_same(rl.dropout_add(x, r, p, KEY), (y + r.astype(number)).astype(dtype))
        assert_same(rl.zoneout(x, r, p, KEY), np.where(dropped, r, x))
        zero = np.zeros((), dtype)
        assert_same(rl.drop_connect(x, p, KEY, scale=False), np.where(dropped, zero, x))
        assert_same(
            rl.zoneout_backward(x, p, KEY),
            (np.where(dropped, zero, x), np.where(dropped, x, zero)),
        )
        a = 1 / math.sqrt((1.7580993408473766**2 * p + 1) * (1 - p))
        alpha = rl.alpha_dropout(x, p, KEY).astype(np.float64)
        wants = np.where(dropped, -1.7580993408473766, x.astype(np.float64)) * a
        wants += a * 1.7580993408473766 * p
        scale = a * (np.abs(x.astype(np.float64)) + 2)
        assert_ulp(alpha.astype(dtype), wants, dtype, 2, scale)


def test_dropout_add_is_a_sum():
    for dtype in (np.float32, np.float64):
        x, r = sample(SHARED, dtype, 1), sample(SHARED, dtype, 2)
        with np.errstate(all="ignore"):
            assert_same(rl.dropout_add(x, r, P, KEY), rl.dropout(x, P, KEY) + r)
    zero, minus = np.zeros(100, np.float32), np.full(100, -0.0, np.float32)
    for p in (0.5, 1.0):  # always added: 0 + -0 is 0
        dropped = rl.random.bernoulli(100, KEY, p)
        got = rl.dropout_add(minus, minus, p, KEY)
        assert np.array_equal(np.signbit(got), ~dropped)
        assert not np.signbit(rl.dropout_add(zero, minus, p, KEY)).any()


@pytest.mark.parametrize("dtype", [BFLOAT16, np.dtype(np.float16)], ids=str)
def test_dropout_add_is_rounded_once(dtype):
    x, r = sample(5000, dtype, 1), sample(5000, dtype, 2)
    kept = ~rl.random.bernoulli(5000, KEY, 0.1)
    scaled = np.where(kept, x.astype(np.float32) * np.float32(1 / 0.9), np.float32(0))
    once = (scaled + r.astype(np.float32)).astype(dtype)
    twice = (scaled.astype(dtype).astype(np.float32) + r.astype(np.float32)).astype(dtype)
    assert_same(rl.dropout_add(x, r, 0.1, KEY), once)
    assert bits(once) != bits(twice)


SPECIAL = [NAN, -NAN, INF, -INF, 0.0, -0.0]


@ops
@dtypes
def test_special_values(op, dtype):
    """Dropped elements are +0 whatever they were; kept ones follow IEEE arithmetic."""
    if not op.exact:
        return
    finfo = np.finfo(dtype) if dtype != BFLOAT16 else None
    values = np.array([*SPECIAL, float(finfo.max) if finfo else 3e38, 1e-7, 1.0], dtype)
    x = np.resize(values, SHAPE)
    others = [np.resize(values[::-1], SHAPE) for _ in range(op.inputs - 1)]
    for p in (P, 1.0, 0.0):
        assert_same(op.call(x, *others, p=p), op.oracle(x, *others, p=p))
    if op.zeros:
        everything = op.call(x, p=1.0)
        assert bits(everything) == bits(np.zeros(SHAPE, dtype))


@dtypes
def test_bits_of_what_is_kept(dtype):
    """p = 0, zoneout and unscaled drop_connect move bits: every NaN, and all half numbers."""
    word = {2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.itemsize]
    rng = np.random.default_rng(1)
    high = np.iinfo(word).max
    raw = rng.integers(0, high, 2**16, word, endpoint=True)
    raw[:100] = high - np.arange(100, dtype=word)  # NaNs, signalling ones below
    raw[100:200] = (np.arange(100) + 1).astype(word)  # subnormal numbers
    if dtype.itemsize == 2:
        raw = np.arange(2**16, dtype=np.uint16)
    x, y = raw.view(dtype), raw[::-1].copy().view(dtype)
    dropped = rl.random.bernoulli(x.shape, KEY, P)
    assert bits(rl.dropout(x, 0.0, KEY)) == bits(x)
    assert bits(rl.zoneout(x, y, P, KEY)) == bits(np.where(dropped, raw[::-1], raw))
    assert bits(rl.zoneout(x, y, 0, KEY)) == bits(x)
    assert bits(rl.zoneout(x, y, 1, KEY)) == bits(y)
    unscaled = rl.drop_connect(x, P, KEY, scale=False)
    assert bits(unscaled) == bits(np.where(dropped, 0, raw).astype(word))
    new, old = rl.zoneout_backward(x, P, KEY)
    assert bits(new) == bits(np.where(dropped, 0, raw).astype(word))
    assert bits(old) == bits(np.where(dropped, raw, 0).astype(word))
    masked = x.copy()
    rl.dropout_mask(x.shape, P, KEY).apply_(masked)
    assert bits(masked) == bits(unscaled)


def test_the_backward_pass_is_the_same_call():
    """dropout is linear, so its gradient is what it does to ones."""
    x = np.abs(sample(SHAPE, np.float64)) + 1
    kept = rl.dropout_mask(SHAPE, P, KEY).to_array()
    for name in ("dropout", "dropout of channels", "drop_path", "drop_block", "token_dropout"):
        factor = OPS[name].call(np.ones(SHAPE))
        assert_same(OPS[name].call(x), np.where(factor == 0, 0, x * factor))
    dy = sample(SHAPE, np.float64, 9)
    assert np.array_equal(rl.dropout(dy, P, KEY) != 0, kept & (dy != 0))
    # alpha dropout is affine: differences follow its backward pass
    step = rl.alpha_dropout(x + 1, P, KEY) - rl.alpha_dropout(x, P, KEY)
    np.testing.assert_allclose(
        step, rl.alpha_dropout_backward(np.ones(SHAPE), P, KEY), rtol=0, atol=1e-12
    )
    step = rl.feature_alpha_dropout(x + 1, P, KEY) - rl.feature_alpha_dropout(x, P, KEY)
    wants = rl.feature_alpha_dropout_backward(np.ones(SHAPE), P, KEY)
    np.testing.assert_allclose(step, wants, rtol=0, atol=1e-12)
    new, old = rl.zoneout_backward(dy, P, KEY)
    assert_same(new + old, dy + 0.0)


def test_calls_that_are_the_same():
    x = sample(SHAPE, np.float32)
    same = [
        (rl.token_dropout(x, P, KEY), rl.dropout(x, P, KEY, broadcast_axes=-1)),
        (
            rl.feature_alpha_dropout(x, P, KEY, offset=3),
            rl.alpha_dropout(x, P, KEY, broadcast_axes=(2, 3), offset=3),
        ),
        (rl.drop_path(x, P, KEY), rl.dropout(x, P, KEY, broadcast_axes=(1, 2, 3))),
        (rl.drop_connect(x, P, KEY), rl.dropout(x, P, KEY)),
        (rl.dropout(x, P, KEY, broadcast_axes=(-1, -2)), OPS["dropout of channels"].call(x)),
        (rl.dropout(x, P, KEY, broadcast_axes=[3, 2]), OPS["dropout of channels"].call(x)),
        (rl.dropout(x, P, KEY, broadcast_axes=range(2, 4)), OPS["dropout of channels"].call(x)),
        (rl.dropout(x, P, KEY, broadcast_axes=()), rl.dropout(x, P, KEY)),
        (rl.dropout(x, np.float32(0.5), KEY), rl.dropout(x, 0.5, KEY)),
        (rl.dropout(x, 1, KEY), rl.dropout(x, 1.0, KEY)),
        (rl.dropout(x=x, p=P, key=KEY), rl.dropout(x, P, KEY)),
        (rl.dropout(x, P, KEY, shape=SHAPE), rl.dropout(x, P, KEY)),
        (rl.dropout(x, P, KEY, shape=SHAPE, index=...), rl.dropout(x, P, KEY)),
    ]
    for got, wants in same:
        assert_same(got, wants)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([0, 7, 2**36 - 20]))
def test_broadcast_axes_against_a_loop(data, offset):
    shape = tuple(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=4)))
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    signs = [data.draw(st.booleans()) for _ in axes]
    given_axes = tuple(a - len(shape) if s else a for a, s in zip(axes, signs, strict=True))
    reduced = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    mask = ~rl.random.bernoulli(reduced, KEY, P, offset=offset)
    x = sample(shape, np.float32)
    expected = np.zeros_like(x)
    for index in np.ndindex(shape):
        if mask[tuple(0 if axis in axes else i for axis, i in enumerate(index))]:
            expected[index] = x[index] * np.float32(1 / (1 - P))
    assert_same(rl.dropout(x, P, KEY, broadcast_axes=given_axes, offset=offset), expected)


# ---- pieces


def slices(n):
    bound = st.one_of(st.none(), st.integers(-n - 1, n + 1))
    return st.builds(slice, bound, bound, st.sampled_from([-1, 2, None, 1, 3, -2]))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(PIECES), st.sampled_from([0, 5, 2**34 - 9]))
def test_pieces_by_index(data, name, offset):
    op = OPS[name]
    extents = st.sampled_from([8, 5, 3, 2, 1])
    shape = tuple(data.draw(st.lists(extents, min_size=data.draw(st.integers(1, 3)), max_size=4)))
    index = tuple(data.draw(slices(n)) for n in shape)
    keywords: dict[str, Any] = {"offset": offset}
    if op.axes and data.draw(st.booleans()):
        keywords["broadcast_axes"] = tuple(
            data.draw(st.sets(st.integers(-len(shape), -1), max_size=len(shape)))
        )
    elif data.draw(st.booleans()):  # an axis goes
        axis = data.draw(st.integers(0, len(shape) - 1))
        item = data.draw(st.integers(-shape[axis], shape[axis] - 1))
        index = (*index[:axis], item, *index[axis + 1 :])
    index = (*index[: data.draw(st.integers(0, len(index)))], ...)
    arrays = arrays_for(op, shape, np.float32)
    whole = op.call(*arrays, **keywords)
    parts = [np.asarray(x[index]) for x in arrays]
    got = op.call(*parts, shape=shape, index=index, **keywords)
    if isinstance(whole, tuple):
        assert_same(got, tuple(np.asarray(w[index]) for w in whole))
    else:
        assert_same(got, np.asarray(whole[index]))


@pytest.mark.parametrize("name", PIECES)
@dtypes
def test_shards_are_the_whole(name, dtype):
    op = OPS[name]
    shape, cuts = (33, 40, 50), [(0, 10, 33), (0, 20, 21, 40), (0, 7, 50)]
    arrays = arrays_for(op, shape, dtype)
    for keywords in ({}, {"offset": 9}, *([{"broadcast_axes": (0, 2)}] if op.axes else [])):
        whole = op.call(*arrays, **keywords)
        whole = whole[1] if isinstance(whole, tuple) else whole
        put_together = np.zeros_like(whole)
        for corner in itertools.product(*(itertools.pairwise(c) for c in cuts)):
            index = tuple(slice(*pair) for pair in corner)
            parts = [x[index] for x in arrays]  # not contiguous
            part = op.call(*parts, shape=shape, index=index, **keywords)
            put_together[index] = part[1] if isinstance(part, tuple) else part
        assert_same(put_together, whole)


@exact_ops
def test_halves_by_offset(op):
    """Along the first axis, an offset is enough."""
    x = arrays_for(op, (8, 3, 4, 5), np.float32)
    if not op.offset or op.call is OPS["drop_path, actual"].call:
        return
    shared = {"dropout, locked", "dropout, one choice"}
    if any(op is OPS[name] for name in shared):
        return
    per_sample = {
        "dropout of channels": 3,
        "feature_alpha_dropout": 3,
        "feature_alpha_dropout_backward": 3,
        "drop_path": 1,
        "drop_path, none": 1,
        "token_dropout": 12,
        "dropout of rows": 12,
    }
    name = next(n for n, o in OPS.items() if o is op)
    step = per_sample.get(name, 60)
    whole = op.call(*x)
    for cut in (1, 3, 8):
        parts = [op.call(*(a[:cut] for a in x)), op.call(*(a[cut:] for a in x), offset=cut * step)]
        if isinstance(whole, tuple):
            for k in (0, 1):
                assert_same(np.concatenate([part[k] for part in parts]), whole[k])
        else:
            assert_same(np.concatenate(parts), whole)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_of_masks(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 9), max_size=4)))
    index = tuple(data.draw(slices(n)) for n in shape)
    offset = data.draw(st.sampled_from([0, 3, 2**36 - 40]))
    whole = rl.dropout_mask(shape, P, KEY, offset=offset).to_array()
    got = rl.dropout_mask(shape, P, KEY, offset=offset, index=index)
    assert got.shape == whole[index].shape
    assert bits(got.to_array()) == bits(whole[index])


# ---- same bits


@ops
def test_targets_and_threads(op):
    sets = [arrays_for(op, shape, np.float32) for shape in [SHARED, (3, 2, 5, 7), (1, 1, 4, 4)]]
    every_setting(lambda: [bits(op.call(*arrays)) for arrays in sets])


@pytest.mark.parametrize("name", ["dropout", "dropout_add", "alpha_dropout", "gaussian_dropout"])
@dtypes
def test_targets_and_threads_of_dtypes(name, dtype):
    op = OPS[name]
    sets = [arrays_for(op, n, dtype) for n in (*range(0, 131, 3), 2**18 + 77)]
    every_setting(lambda: [bits(op.call(*arrays, offset=11)) for arrays in sets], [1, 3])


@pytest.mark.parametrize("name", ["dropout", "dropout_add", "zoneout", "drop_connect, unscaled"])
@dtypes
def test_every_start_and_length(name, dtype):
    op = OPS[name]
    arrays = arrays_for(op, 700, dtype)
    whole = op.call(*arrays)
    for start in [*range(66), 127, 128, 129, 300]:
        for n in (0, 1, 2, 15, 16, 17, 63, 64, 65, 131, 300):
            here = slice(start, start + n)
            got = op.call(*(x[here] for x in arrays), offset=start)  # at every alignment
            assert bits(got) == bits(whole[here]), (start, n)


@pytest.mark.parametrize(
    "name", ["dropout", "dropout_add", "gaussian_noise", "dropout, one choice"]
)
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=["float32", "bfloat16"])
def test_more_than_the_caches_hold(name, dtype):
    """Large results may be written past the caches: at any alignment, and not over their ends."""
    op = OPS[name]
    shape = (1, 1, 1, 2**22 + 5 if dtype == BFLOAT16 else 2**21 + 5)
    arrays = arrays_for(op, shape, dtype)
    n, step = shape[-1], 2**17 + 3
    small = np.concatenate(
        [
            op.call(*(x[..., at : at + step] for x in arrays), **at_offset(name, at))
            for at in range(0, n, step)
        ],
        axis=-1,
    )
    room = np.full(n + 200, 77, dtype)
    for start in (0, 1, 3, 17):
        room[...] = 77
        out = room[64 + start : 64 + start + n].reshape(shape)
        assert op.call(*arrays, out=out) is out
        assert bits(out) == bits(small)
        assert np.all(room[: 64 + start] == 77)
        assert np.all(room[64 + start + n :] == 77)
    in_place = arrays[0].copy()
    op.call(in_place, *arrays[1:], out=in_place)
    assert bits(in_place) == bits(small)


def at_offset(name, at):
    return {"offset": 0 if name == "dropout, one choice" else at}


@layouts
@dtypes
def test_layouts(layout, dtype):
    for shape in [(3, 5, 7), (40, 33, 50)]:
        for name in ("dropout", "dropout_add", "zoneout", "gaussian_noise", "drop_path, actual"):
            op = OPS[name]
            arrays = arrays_for(op, shape, dtype)
            expected = bits(op.call(*arrays))
            placed = [LAYOUTS[layout](x) for x in arrays]
            laid_out = [view for view, _ in placed]
            assert bits(op.call(*laid_out)) == expected  # the logical order counts
            (out, out_intact) = LAYOUTS[layout](np.zeros(shape, dtype))
            assert op.call(*arrays, out=out) is out
            assert bits(out) == expected
            assert out_intact()
            assert op.call(*laid_out, out=laid_out[0]) is laid_out[0]
            assert bits(laid_out[0]) == expected
            assert all(intact() for _, intact in placed)


@out_ops
@pytest.mark.parametrize("layout", ["fortran", "reversed", "every second", "unaligned"])
def test_layouts_of_every_function(op, layout):
    """Images: an axis of samples in front."""
    arrays = arrays_for(op, SHAPE, np.float32)
    expected = bits(op.call(*arrays))

    def laid_out(x):
        if layout == "fortran":
            return np.asfortranarray(x)
        if layout == "reversed":
            return place(x, np.s_[::-1, ::-1, ::-1, ::-1], SHAPE)[0]
        if layout == "every second":
            return place(x, np.s_[:, :, ::2, ::-2], (*SHAPE[:2], *(2 * n for n in SHAPE[2:])))[0]
        return LAYOUTS["unaligned"](x)[0]

    views = [laid_out(x) for x in arrays]
    assert bits(op.call(*views)) == expected
    out = laid_out(np.zeros(SHAPE, np.float32))
    op.call(*views, out=out)
    assert bits(out) == expected
    op.call(*views, out=views[0])
    assert bits(views[0]) == expected


@settings(max_examples=80, deadline=None)
@given(
    st.data(),
    st.sampled_from(DTYPES),
    st.sampled_from(["dropout", "dropout_add", "alpha_dropout", "zoneout", "gaussian_dropout"]),
)
def test_operands_of_different_strides(data, dtype, name):
    op = OPS[name]
    shape, place_x = data.draw(placements())
    places = [place_x] + [data.draw(placements(shape))[1] for _ in range(op.inputs)]
    arrays = arrays_for(op, shape, dtype)
    expected = bits(op.call(*arrays, offset=5))
    placed = [put(x) for put, x in zip(places, arrays, strict=False)]
    out, out_intact = places[-1](np.zeros(shape, dtype))
    op.call(*(view for view, _ in placed), offset=5, out=out)
    assert bits(out) == expected
    assert out_intact()
    assert all(intact() for _, intact in placed)


@dtypes
def test_scalars_and_empty(dtype):
    for name in ("dropout", "dropout_add", "alpha_dropout", "gaussian_dropout", "zoneout"):
        op = OPS[name]
        for shape in [(), (0,), (3, 0, 2), (1, 1, 1)]:
            arrays = arrays_for(op, shape, dtype)
            got = op.call(*arrays)
            assert got.shape == shape
            assert got.dtype == dtype
            if op.exact:
                assert_same(got, op.oracle(*arrays))
            assert op.call(*arrays, out=arrays[0]) is arrays[0]
            assert bits(arrays[0]) == bits(got)
    empty = np.zeros((0, 3, 4, 4), dtype)
    for op in OPS.values():
        got = op.call(*[empty] * op.inputs)
        for result in got if isinstance(got, tuple) else [got]:
            assert result.shape == empty.shape
            assert result.dtype == dtype
    assert rl.drop_block(np.zeros((2, 3, 0, 4), dtype), P, 2, KEY).shape == (2, 3, 0, 4)
    assert rl.drop_path(np.zeros((2, 0), dtype), P, KEY, scale="actual").shape == (2, 0)
    assert rl.dropout_mask((), P, KEY).to_array().shape == ()
    assert rl.dropout_mask((2, 0), P, KEY).to_array().shape == (2, 0)


def test_drop_path_with_numpy_1(monkeypatch):
    x = np.ones((50, 3), np.float32)
    expected = rl.drop_path(x, P, KEY, scale="actual")
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert bits(rl.drop_path(x, P, KEY, scale="actual")) == bits(expected)


def test_read_only_inputs_are_fine():
    x = sample(SHAPE, np.float32)
    expected = rl.dropout(x, P, KEY)
    x.flags.writeable = False
    assert_same(rl.dropout(x, P, KEY), expected)
    stretched = np.broadcast_to(sample(9, np.float32), SHAPE)
    assert_same(rl.dropout(stretched, P, KEY), rl.dropout(stretched.copy(), P, KEY))
    with unchanged(x), pytest.raises(ValueError, match=r"^out"):
        rl.dropout(x, P, KEY, out=x)


# ---- out


@out_ops
def test_out(op):
    arrays = arrays_for(op, SHAPE, np.float32)
    expected = op.call(*arrays)
    out = np.ones(SHAPE, np.float32)
    with unchanged(*arrays):
        assert op.call(*arrays, out=out) is out
    assert_same(out, expected)
    for k in range(op.inputs):  # each input, and another view of it
        for view in (lambda x: x, lambda x: x[:]):
            copies = [x.copy() for x in arrays]
            target = view(copies[k])
            assert op.call(*copies, out=target) is target
            assert_same(copies[k], expected)
    for bad, error in [
        (np.ones(SHAPE[::-1], np.float32), ValueError),
        (np.ones(SHAPE[:-1], np.float32), ValueError),
        (np.ones(SHAPE), TypeError),
        (np.ones(SHAPE, np.int32), TypeError),
        ([out], (TypeError, ValueError)),
        (3.0, TypeError),
        (np.broadcast_to(np.ones(1, np.float32), SHAPE), ValueError),
    ]:
        with unchanged(*arrays), pytest.raises(error, match=r"^out: got"):
            op.call(*arrays, out=bad)
    read_only = out.copy()
    read_only.flags.writeable = False
    with unchanged(read_only), pytest.raises(ValueError, match=r"^out: got"):
        op.call(*arrays, out=read_only)


@out_ops
def test_out_may_not_overlap_otherwise(op):
    n = math.prod(SHAPE)
    for p in (P, 0.0, 1.0):
        if p == 1 and not op.one:
            continue
        for k in range(op.inputs):
            base = sample(2 * n, np.float32)
            arrays = arrays_for(op, SHAPE, np.float32)
            arrays[k] = base[:n].reshape(SHAPE)
            for out in (
                base[1 : n + 1].reshape(SHAPE),
                base[n - 1 : 2 * n - 1].reshape(SHAPE),
                base[:n][::-1].reshape(SHAPE),
                base[: 2 * n : 2].reshape(SHAPE),
            ):
                with unchanged(base), pytest.raises(ValueError, match=r"^out: got .*overlap"):
                    op.call(*arrays, p=p, out=out)
            fine = base[n:].reshape(SHAPE)
            op.call(*arrays, p=p, out=fine)


# ---- errors

NOT_NUMBERS = ["0.1", True, np.True_, None, [0.1], 1j, np.array([0.1, 0.2])]
NOT_INTEGERS = [1.0, "1", None, True, np.array([1, 2])]


@ops
def test_errors(op):
    arrays = arrays_for(op, SHAPE, np.float32)
    out = {"out": np.full(SHAPE, 9.0, np.float32)} if op.out else {}
    p_name = "std" if op is OPS["gaussian_noise"] else "p"
    with unchanged(*arrays, *out.values()):
        for bad in NOT_NUMBERS:
            with pytest.raises(TypeError, match=rf"^{p_name}: got .*, wants"):
                op.call(*arrays, p=bad, **out)
        above = [] if p_name == "std" else [1.1, np.nextafter(1, 2)]
        for bad in (-0.1, NAN, INF, -INF, -1e-300, *above, *([] if op.one else [1, 1.0])):
            with pytest.raises(ValueError, match=rf"^{p_name}: got .*, wants"):
                op.call(*arrays, p=bad, **out)
        for bad in (42, None, "key", 1.0, np.uint64(3), [KEY]):
            kind = type(bad).__name__
            with pytest.raises(TypeError, match=rf"^key: got .*{kind}.*, wants ridgeline\.Key"):
                op.call(*arrays, key=bad, **out)
        if op.offset:
            for bad in NOT_INTEGERS:
                with pytest.raises(TypeError, match=r"^offset: got .*, wants"):
                    op.call(*arrays, offset=bad, **out)
            with pytest.raises(ValueError, match=r"^offset: got -1, wants"):
                op.call(*arrays, offset=-1, **out)
        with pytest.raises(TypeError):
            op.call(*arrays, nonsense=1)


@ops
@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_array_errors(op, what):
    bad, reading, _ = WRONG_ARRAYS[what]
    if reading is None:
        return
    if isinstance(bad, np.ndarray):
        bad = bad.reshape(1, 1, 1, 3)
    # a list in the place of an array may also be said to be of another structure
    error = (TypeError, ValueError) if isinstance(bad, list) else reading
    for k, name in enumerate(op.names):
        arrays = arrays_for(op, (1, 1, 1, 3), np.float32)
        arrays[k] = bad
        with pytest.raises(error, match=rf"^{name}: got .*, wants"):
            op.call(*arrays)


@pytest.mark.parametrize("name", ["dropout_add", "zoneout"])
def test_inputs_agree(name):
    op = OPS[name]
    x, out = sample(SHAPE, np.float32), np.full(SHAPE, 9.0, np.float32)
    with unchanged(x, out):
        for other, error in [
            (np.ones(SHAPE), TypeError),
            (np.ones(SHAPE, BFLOAT16), TypeError),
            (np.ones(SHAPE[::-1], np.float32), ValueError),
            (np.ones(SHAPE[1:], np.float32), ValueError),
            (np.ones((), np.float32), ValueError),
        ]:
            with pytest.raises(error, match=rf"^({'|'.join(op.names)}): got"):
                op.call(x, other, out=out)


@pytest.mark.parametrize("name", [n for n in PIECES if OPS[n].axes])
def test_errors_of_axes(name):
    op = OPS[name]
    arrays = arrays_for(op, SHAPE, np.float32)
    with unchanged(*arrays):
        for bad in (4, -5, (0, 4), (1, 1), (1, -3)):
            with pytest.raises(ValueError, match=r"^broadcast_axes: got .*, wants"):
                op.call(*arrays, broadcast_axes=bad)
        for bad in (1.0, "1", None, (0.5,), True, ("1",)):
            with pytest.raises(TypeError, match=r"^broadcast_axes: got .*, wants"):
                op.call(*arrays, broadcast_axes=bad)


@pytest.mark.parametrize("name", PIECES)
def test_errors_of_pieces(name):
    op = OPS[name]
    arrays = arrays_for(op, (4, 6), np.float32)
    out = {"out": np.full((4, 6), 9.0, np.float32)} if op.out else {}
    either = (TypeError, ValueError, IndexError)
    with unchanged(*arrays, *out.values()):
        for shape, index in [
            ((8, 6), np.s_[:5]),
            ((8, 6), np.s_[:4, :5]),
            ((8, 6), None),
            ((6, 4), None),
            ((4, 6, 1), None),
            ((8, 6), 3),
            ((8, 6), np.s_[:4, :, :]),
            ((8, 6), [0, 1, 2, 3]),
            ((8, 6), "index"),
            ((8, 6), np.s_[9, :]),
            ((-4, 6), None),
            ((4.0, 6), None),
            ("shape", None),
            (None, np.s_[:3]),
        ]:
            with pytest.raises(either, match=r"^(shape|index|x|w|dy|new): got"):
                op.call(*arrays, shape=shape, index=index, **out)
        if op.axes:
            stack = {"shape": (2, 4, 6), "index": 1, "broadcast_axes": 0}
            with pytest.raises(either, match=r"^(index|broadcast_axes): got"):
                op.call(*arrays, **stack, **out)


def test_errors_of_single_functions():
    x = sample((3, 4, 5, 6), np.float32)
    with unchanged(x):
        for bad in ("Expected", "", "mean"):
            with pytest.raises(ValueError, match=r"^scale: got .*, wants"):
                rl.drop_path(x, P, KEY, scale=bad)
        for bad in (None, 1, True):
            with pytest.raises((TypeError, ValueError), match=r"^scale: got .*, wants"):
                rl.drop_path(x, P, KEY, scale=bad)
        with pytest.raises(ValueError, match=r"^x: got .*, wants"):
            rl.drop_path(np.ones(()), P, KEY)
        for bad in ("both", "FULL", None):
            with pytest.raises((TypeError, ValueError), match=r"^edges: got .*, wants"):
                rl.drop_block(x, P, 2, KEY, edges=bad)
        for bad in (0, -1, (2, 0), (2,), (2, 2, 2)):
            with pytest.raises(ValueError, match=r"^block: got .*, wants"):
                rl.drop_block(x, P, bad, KEY)
        for bad in (2.0, "2", None, (2.0, 2), True):
            with pytest.raises(TypeError, match=r"^block: got .*, wants"):
                rl.drop_block(x, P, bad, KEY)
        for shape in [(), (3,), (3, 4), (3, 4, 5, 6, 7, 8)]:
            with pytest.raises(ValueError, match=r"^x: got .*, wants"):
                rl.drop_block(np.ones(shape), P, 1, KEY)
        for f in (rl.feature_alpha_dropout, rl.feature_alpha_dropout_backward):
            for shape in [(), (3,)]:
                with pytest.raises(ValueError, match=r"^(x|dy): got .*, wants"):
                    f(np.ones(shape), P, KEY)
        with pytest.raises(ValueError, match=r"^(x|broadcast_axes): got .*, wants"):
            rl.token_dropout(np.ones(()), P, KEY)
        for bad in (-1, 5):
            with pytest.raises(ValueError, match=r"^(num_prefix_tokens|x): got .*, wants"):
                rl.patch_dropout(x, P, KEY, num_prefix_tokens=bad)
        for bad in (1.0, "1", None):
            with pytest.raises(TypeError, match=r"^num_prefix_tokens: got .*, wants"):
                rl.patch_dropout(x, P, KEY, num_prefix_tokens=bad)
        for shape in [(), (3,)]:
            with pytest.raises(ValueError, match=r"^x: got .*, wants"):
                rl.patch_dropout(np.ones(shape), P, KEY)
        for bad in (-0.1, 1.1, NAN):
            with pytest.raises(ValueError, match=r"^p: got .*, wants"):
                rl.patch_dropout(x, bad, KEY)
            with pytest.raises(ValueError, match=r"^p: got .*, wants"):
                rl.dropout_mask(4, bad, KEY)
        with pytest.raises(TypeError, match=r"^key: got int, wants ridgeline\.Key"):
            rl.patch_dropout(x, P, 42)
        with pytest.raises(TypeError, match=r"^key: got int, wants ridgeline\.Key"):
            rl.dropout_mask(4, P, 42)
        for bad in ((2, -1), -1):
            with pytest.raises(ValueError, match=r"^shape: got .*, wants"):
                rl.dropout_mask(bad, P, KEY)
        with pytest.raises(TypeError, match=r"^shape: got .*, wants"):
            rl.dropout_mask(2.5, P, KEY)


# ---- torch and JAX


@out_ops
@dtypes
def test_torch(op, dtype):
    torch = pytest.importorskip("torch")
    arrays = arrays_for(op, SHAPE, dtype)
    expected = op.call(*arrays)
    tensors = [to_torch(x) for x in arrays]
    got = op.call(*tensors)
    assert type(got) is torch.Tensor
    assert bits(from_torch(got)) == bits(expected)
    assert not got.requires_grad
    out = torch.zeros_like(tensors[0])
    version = out._version
    assert op.call(*tensors, out=out) is out
    assert out._version > version
    assert bits(from_torch(out)) == bits(expected)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in tensors]
    assert bits(from_torch(op.call(*turned).contiguous())) == bits(expected)
    assert op.call(*tensors, out=tensors[0]) is tensors[0]
    assert bits(arrays[0]) == bits(expected)


def test_torch_zoneout_backward_and_patches():
    torch = pytest.importorskip("torch")
    dy = sample((4, 9, 5), np.float32)
    for got, wants in zip(
        rl.zoneout_backward(torch.from_numpy(dy), P, KEY),
        rl.zoneout_backward(dy, P, KEY),
        strict=True,
    ):
        assert type(got) is torch.Tensor
        assert bits(got.numpy()) == bits(wants)
    y, rows = rl.patch_dropout(torch.from_numpy(dy), P, KEY)
    y_numpy, rows_numpy = rl.patch_dropout(dy, P, KEY)
    assert type(y) is torch.Tensor
    assert bits(y.numpy()) == bits(y_numpy)
    assert bits(np.asarray(rows)) == bits(rows_numpy)
    assert np.asarray(rows).dtype == np.int64


def test_torch_that_requires_grad():
    torch = pytest.importorskip("torch")
    x = torch.full((100,), 9.0, requires_grad=True)
    with pytest.raises(rl.RequiresGradError, match=r"^x: .*requires grad.*x\.detach\(\)"):
        rl.dropout(x, 0.5, KEY)
    y = rl.dropout(x.detach(), 0.5, KEY)
    assert not y.requires_grad
    assert sorted(set(y.tolist())) == [0, 18]
    plain_x = torch.full((100,), 9.0)
    for source, out, name in [(plain_x, x, "out"), (x, x, "x"), (plain_x, x[:], "out")]:
        with pytest.raises(rl.RequiresGradError, match=rf"^{name}: .*requires grad"):
            rl.dropout(source, 0.5, KEY, out=out)
        assert x.detach().min() == 9
    with torch.no_grad():
        assert rl.dropout(x, 0.5, KEY, out=x) is x
    assert sorted(set(x.tolist())) == [0, 18]
    parameter = torch.nn.Parameter(torch.full((100,), 9.0))
    rl.dropout_mask(100, 0.5, KEY).apply_(parameter)  # a parameter update
    assert sorted(set(parameter.tolist())) == [0, 9]
    assert parameter.requires_grad


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("source", ["an argument", "torch's generator", "counted calls"])
def test_torch_checkpoints(source, reentrant):
    """A recomputed layer has the gradient of the choice it made, if its key is that of the first
    call; docs/dropout.md says which are."""
    torch = pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint

    keys = []

    class Dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, key):
            ctx.key = key
            keys.append(key)
            return rl.dropout(x.detach(), 0.5, key)

        @staticmethod
        def backward(ctx, dy):
            return rl.dropout(dy, 0.5, ctx.key), None

    weight = torch.full((1000,), 3.0, requires_grad=True)

    def layer(x, key=None):
        if source == "torch's generator":
            key = rl.Key(torch.randint(2**63 - 1, ()).item())
        elif source == "counted calls":
            key = KEY.fold_in(len(keys))
        return Dropout.apply(x * weight, key).square()

    x = torch.ones(1000, requires_grad=True)
    extra = (KEY,) if source == "an argument" else ()
    y = checkpoint(layer, x, *extra, use_reentrant=reentrant)
    torch.rand(7)  # others draw between the passes
    y.sum().backward()
    assert len(keys) == 2
    right = 2 * y.detach() / 3  # the derivative of y = (2 x w)^2 is 2 y / w, and 0 of y = 0
    assert (keys[0] == keys[1]) == torch.equal(weight.grad, right) == (source != "counted calls")


def test_gradients_flow_through_patches():
    torch = pytest.importorskip("torch")
    x = torch.randn(3, 9, 2, requires_grad=True)
    y, rows = rl.patch_dropout(x, 0.5, KEY)
    assert y.requires_grad
    (2 * y).sum().backward()
    expected = np.zeros(x.shape, np.float32)
    np.put_along_axis(expected, rows[..., None], 2, axis=1)
    assert bits(x.grad.numpy()) == bits(expected)
    jax = pytest.importorskip("jax")
    j = jax.numpy.asarray(x.detach().numpy())
    assert bits(np.asarray(jax.grad(lambda j: 2 * rl.patch_dropout(j, 0.5, KEY)[0].sum())(j))) == (
        bits(expected)
    )


@pytest.mark.parametrize(
    "name", ["dropout", "dropout_add", "alpha_dropout", "gaussian_noise", "drop_path", "drop_block"]
)
def test_jax(name):
    jax = pytest.importorskip("jax")
    op = OPS[name]
    for dtype in (np.float32, BFLOAT16, np.float16):
        arrays = arrays_for(op, SHAPE, dtype)
        in_jax = [jax.numpy.asarray(x) for x in arrays]
        got = op.call(*in_jax)
        assert isinstance(got, jax.Array)
        assert bits(np.asarray(got)) == bits(op.call(*arrays))
        for before, x in zip(arrays, in_jax, strict=True):
            assert bits(np.asarray(x)) == bits(before)
    x = jax.numpy.full((3,), 9.0)
    for inputs, out in [((x,), x), ((np.ones(3, np.float32),), x)]:
        with pytest.raises((TypeError, ValueError), match=r"^out"):
            rl.dropout(*inputs, 0.5, KEY, out=out)
    assert x.tolist() == [9, 9, 9]


# ---- the rate


def assert_rate(dropped, n, p, z=Z):
    assert abs(dropped - n * p) <= z * math.sqrt(n * p * (1 - p)), (dropped / n, p)


def test_rate_is_exact():
    """2^30 choices tell p from the p of a byte, or of a tie that always drops, or never does.

    T = floor(0.004 2^32) = 2^24 + 402,653: byte 0 drops, byte 1 is a tie that drops with
    probability 402,653 / 2^24. One standard error is 1.93e-6; a tie that never drops is off by
    9.37e-5, one that always does by 3.8e-3.
    """
    p, n, piece = 0.004, 2**30, 2**26
    threshold = int(p * 2**32)
    assert threshold == 2**24 + 402_653
    exact = threshold / 2**32
    standard_error = math.sqrt(exact * (1 - exact) / n)
    assert standard_error < 2e-6
    assert exact - 1 / 256 > 9.3e-5 > 9 * Z * standard_error
    dropped = 0
    for offset in range(0, n, piece):
        sparsity = rl.dropout_mask(piece, p, KEY, offset=offset).sparsity
        dropped += round(sparsity * piece)
    assert_rate(dropped, n, exact)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.25, 1 / 3, 0.9, 0.004, 0.998, 1e-5])
def test_rate(p):
    n = 2**24
    assert_rate(round(rl.dropout_mask(n, p, rl.Key(7)).sparsity * n), n, p)
    x = np.ones(2**22, np.float32)
    assert_rate(np.count_nonzero(rl.dropout(x, p, rl.Key(8)) == 0), x.size, p)


def test_choices_of_different_keys_are_independent():
    n = 2**22
    keys = [KEY, *KEY.split(3), KEY.fold_in(0), rl.Key(43)]
    masks = [rl.dropout_mask(n, 0.5, key) for key in keys]
    for a, b in itertools.combinations(masks, 2):
        assert_rate(round((a & b).sparsity * n), n, 0.75)
    same = rl.dropout_mask(n, 0.25, KEY) & rl.dropout_mask(n, 0.5, KEY)
    assert same == rl.dropout_mask(n, 0.5, KEY)  # what p = 0.25 drops p = 0.5 drops


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5])
def test_alpha_dropout_keeps_mean_and_variance(p):
    """Of independent elements of mean 0 and variance 1 (Klambauer et al. 2017)."""
    n = 2**22
    for x in (rl.random.normal(n, rl.Key(1)), np.resize(np.float32([-1, 1]), n)):
        y = rl.alpha_dropout(x, p, KEY).astype(np.float64)
        a = 1 / math.sqrt((1.7580993408473766**2 * p + 1) * (1 - p))
        kept = rl.dropout_mask(n, p, KEY).to_array()
        assert len(np.unique(y[~kept])) == 1
        fourth = np.mean((y - y.mean()) ** 4)  # of a bounded or normal law: close enough
        assert abs(y.mean()) <= Z / math.sqrt(n)
        assert abs(y.var() - 1) <= 1.01 * Z * math.sqrt((fourth - 1) / n)
        assert y[~kept][0] == pytest.approx(a * 1.7580993408473766 * (p - 1), rel=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_moments_of_noise(p):
    n = 2**22
    variance = p / (1 - p)
    for y, mean, var in [
        (rl.gaussian_dropout(np.ones(n, np.float32), p, KEY), 1, variance),
        (rl.gaussian_noise(np.full(n, 3.0, np.float32), p, KEY), 3, p * p),
    ]:
        y = y.astype(np.float64)
        assert abs(y.mean() - mean) <= Z * math.sqrt(var / n)
        assert abs(y.var() - var) <= Z * var * math.sqrt(2 / n)


@pytest.mark.parametrize("name", ["dropout", "dropout of channels", "drop_path", "token_dropout"])
def test_expectation_is_kept(name):
    """Over many keys the mean of dropout is what went in."""
    op, n, total = OPS[name], 4000, 0.0
    x = np.ones((2, 3, 1, 1), np.float64)
    for key in KEY.split(n):
        total += op.call(x, key=key).sum()
    choices = n * {"drop_path": 2}.get(name, 6)
    mean = total / (6 * n)
    assert abs(mean - 1) <= Z * math.sqrt(P / (1 - P) / choices)


# ---- drop_path


@pytest.mark.parametrize("scale", ["expected", "actual", "none"])
@dtypes
def test_drop_path(scale, dtype):
    x = np.abs(sample((12, 5, 7), dtype)) + np.asarray(1, dtype)
    number = np.float64 if dtype == np.float64 else np.float32
    for p in (P, 0.9, 0.99):
        kept = ~rl.random.bernoulli(12, KEY, p, offset=4)
        factor = {
            "expected": 1 / (1 - p),
            "actual": 12 / kept.sum() if kept.any() else 0.0,
            "none": 1,
        }[scale]
        y = rl.drop_path(x, p, KEY, scale=scale, offset=4)
        for i in range(12):
            wants = (x[i].astype(number) * number(factor)).astype(dtype) if kept[i] else 0 * x[i]
            assert_same(y[i], wants)
    ones = np.ones((50, 2))
    kept = rl.drop_path(ones, P, KEY, scale="actual")
    assert kept.mean() == pytest.approx(1, rel=1e-14)
    assert bits(rl.drop_path(ones, 1.0, KEY, scale=scale)) == bits(np.zeros((50, 2)))
    assert bits(rl.drop_path(ones, 0.0, KEY, scale=scale)) == bits(ones)
    assert rl.drop_path(np.ones(20), P, KEY, scale=scale).shape == (20,)


def test_drop_path_without_survivors():
    """NaN in a dropped sample, and a batch that is dropped as a whole."""
    key = next(k for k in map(rl.Key, range(1000)) if rl.random.bernoulli(3, k, 0.7).all())
    x = np.full((3, 4), NAN)
    assert bits(rl.drop_path(x, 0.7, key, scale="actual")) == bits(np.zeros((3, 4)))


# ---- drop_block


def seeds_of(shape, p, block, edges, per_channel, key=KEY):
    """The seeds by the formula of the paper, drawn by bernoulli."""
    space = shape[2:]
    sizes = [min(k, s) for k, s in zip(block, space, strict=True)]
    fits = [s - k + 1 for k, s in zip(sizes, space, strict=True)]
    gamma = min(1, p * math.prod(space) / math.prod(sizes) / math.prod(fits))
    lead = (shape[0], shape[1] if per_channel else 1)
    grid = fits if edges == "full" else space
    return rl.random.bernoulli((*lead, *grid), key, gamma), sizes


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("space", "block"),
    [
        ((8, 9), (3, 3)),
        ((8, 9), (2, 2)),
        ((8, 9), (1, 1)),
        ((7, 12), (4, 5)),
        ((5, 6), (9, 2)),
        ((3, 3), (3, 3)),
        ((5, 6, 7), (3, 3, 3)),
        ((5, 6, 7), (2, 1, 4)),
    ],
)
def test_drop_block_by_max_pooling(space, block, per_channel):
    """torchvision pools the padded seeds; timm pools the seeds over all places, and crops."""
    torch = pytest.importorskip("torch")
    pool = torch.nn.functional.max_pool2d if len(space) == 2 else torch.nn.functional.max_pool3d
    shape = (4, 3, *space)
    x = np.ones(shape, np.float32)
    for p, edges in itertools.product((0.1, 0.4), ("full", "clipped")):
        seeds, sizes = seeds_of(shape, p, block, edges, per_channel)
        t = torch.from_numpy(seeds.astype(np.float32))
        if edges == "full":  # k - 1 zeros on each side: a window ends at each place
            pad = [k - 1 for k in reversed(sizes) for _ in (0, 1)]
            dropped = pool(torch.nn.functional.pad(t, pad), sizes, stride=1)
        else:
            # pooling pads both sides alike: for an even size a row too many, at the end
            dropped = pool(t, sizes, stride=1, padding=[k // 2 for k in sizes])
            dropped = dropped[(..., *(slice(n) for n in space))]
        kept = 1 - dropped.numpy()
        assert kept.shape == (4, 3 if per_channel else 1, *space)
        left = kept.sum()
        expected = x * kept * np.float32(kept.size / left if left else 0)
        size = block if len(set(block)) > 1 else block[0]
        got = rl.drop_block(x, p, size, KEY, edges=edges, per_channel=per_channel)
        assert_same(got, expected.astype(np.float32))
        assert_same(
            rl.drop_block(x, p, list(block), KEY, edges=edges, per_channel=per_channel), got
        )


def test_drop_block_by_hand():
    """One seed: the block that grows from it, in both conventions."""
    shape = (1, 1, 6, 7)
    for edges, block in itertools.product(("full", "clipped"), ((3, 3), (2, 4))):
        found = 0
        for key in map(rl.Key, range(400)):
            seeds, _ = seeds_of(shape, 0.15, block, edges, True, key)
            if seeds.sum() != 1:
                continue
            found += 1
            _, _, row, column = (int(i) for i in np.argwhere(seeds)[0])
            if edges == "clipped":
                row, column = row - (block[0] - 1) // 2, column - (block[1] - 1) // 2
            y = rl.drop_block(np.ones(shape), 0.15, block, key, edges=edges)[0, 0]
            dropped = {(int(i), int(j)) for i, j in np.argwhere(y == 0)}
            rows, columns = range(row, row + block[0]), range(column, column + block[1])
            inside = {(i, j) for i in rows for j in columns if 0 <= i < 6 and 0 <= j < 7}
            assert dropped == inside
            assert np.all(y[y != 0] == 42 / (42 - len(inside)))
        assert found > 50


@dtypes
def test_drop_block_keeps_the_sum_of_ones(dtype):
    x = np.ones((16, 4, 10, 10), dtype)
    y = rl.drop_block(x, 0.2, 3, KEY)
    kept = np.count_nonzero(y.astype(np.float64))
    factor = np.asarray(np.float64(x.size / kept)).astype(
        np.float64 if dtype == np.float64 else np.float32
    )
    assert np.all(y[y != 0] == factor.astype(dtype))
    assert 0.1 < 1 - kept / x.size < 0.3
    assert bits(rl.drop_block(x, 0.0, 3, KEY)) == bits(x)
    for edges in ("full", "clipped"):
        assert bits(rl.drop_block(x, 1.0, 10, KEY, edges=edges)) == bits(np.zeros_like(x))
        assert bits(rl.drop_block(x, 1.0, 1, KEY, edges=edges)) == bits(np.zeros_like(x))
    nothing = rl.drop_block(np.full(x.shape, NAN, dtype), 1.0, 1, KEY)
    assert bits(nothing) == bits(np.zeros_like(x))
    shared = rl.drop_block(x, 0.2, 3, KEY, per_channel=False) == 0
    assert np.array_equal(shared, np.broadcast_to(shared[:, :1], shared.shape))
    own = rl.drop_block(x, 0.2, 3, KEY) == 0
    assert not np.array_equal(own, np.broadcast_to(own[:, :1], own.shape))


# ---- patches


@dtypes
@pytest.mark.parametrize("ordered", [True, False])
def test_patch_dropout(dtype, ordered):
    for shape, prefix in [((6, 20, 3), 1), ((2, 50), 0), ((3, 9, 2, 2), 4), ((1, 2, 1), 1)]:
        x = sample(shape, dtype)
        for p in (P, 0.5, 0.0, 0.99):
            for offset in (0, 11):
                keywords = {"num_prefix_tokens": prefix, "ordered": ordered, "offset": offset}
                with unchanged(x):
                    y, rows = rl.patch_dropout(x, p, KEY, **keywords)
                y_wants, rows_wants = ref.patch_dropout(x, p, KEY, **keywords)
                assert rows.dtype == np.int64
                assert rows.tolist() == rows_wants.tolist()
                assert_same(y, y_wants)
    x = np.arange(2 * 11.0).reshape(2, 11)
    y, rows = rl.patch_dropout(x, 0.35, KEY, ordered=ordered)
    assert rows.shape == (2, 1 + int(10 * 0.65))
    assert np.all(rows[:, 0] == 0)
    for i in range(2):
        assert len(set(rows[i].tolist())) == rows.shape[1]
        assert y[i].tolist() == x[i][rows[i]].tolist()
        assert (sorted(rows[i]) == rows[i].tolist()) == ordered
    # the tokens kept are those with the smallest numbers
    numbers = rl.random.integers((2, 10), KEY, dtype=np.uint64)
    for i in range(2):
        smallest = np.argsort(numbers[i], kind="stable")[: rows.shape[1] - 1] + 1
        assert (
            rows[i, 1:].tolist() == (sorted(smallest) if ordered else smallest).tolist()
            if (not ordered)
            else rows[i, 1:].tolist() == sorted(smallest.tolist())
        )


def test_patch_dropout_keeps_one():
    x = np.arange(3 * 8.0).reshape(3, 8)
    y, rows = rl.patch_dropout(x, 1.0, KEY)
    assert rows.shape == y.shape == (3, 2)
    assert rows.tolist() == ref.patch_dropout(x, 1.0, KEY)[1].tolist()


def test_patch_dropout_keeps_each_token_as_often():
    n, tokens = 2**14, 16
    _, rows = rl.patch_dropout(np.zeros((n, tokens + 1)), 0.75, KEY)
    counts = np.bincount(rows[:, 1:].ravel() - 1, minlength=tokens)
    assert counts.sum() == n * 4
    for count in counts:
        assert_rate(count, n, 0.25)


# ---- masks


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 2**32))
def test_mask_round_trip(shape, seed):
    array = np.random.default_rng(seed).random(shape) < 0.4
    mask = rl.Mask.from_array(array)
    assert mask.shape == array.shape
    assert mask.size == array.size
    got = mask.to_array()
    assert got.dtype == bool
    assert got.shape == array.shape
    assert bits(got) == bits(np.asarray(array))
    assert mask == rl.Mask.from_array(np.asarray(array).copy())
    if array.size:
        assert mask.sparsity == pytest.approx(1 - np.mean(array), abs=1e-15)
        other = np.array(array)
        other.flat[0] = ~other.flat[0]
        assert mask != rl.Mask.from_array(other)
        last = np.array(array)
        last.flat[-1] = ~last.flat[-1]
        assert mask != rl.Mask.from_array(last)


def test_mask_from_any_layout():
    array = np.random.default_rng(1).random((30, 40)) < 0.4
    for view in (array.T, array[::-1, ::3], array[5], array[:, 7], np.asfortranarray(array)):
        assert bits(rl.Mask.from_array(view).to_array()) == bits(view)


def test_mask_is_a_bit_for_each_element():
    for n in (0, 1, 63, 64, 65, 1000, 2**20 + 1):
        mask = rl.dropout_mask(n, 0.5, KEY)
        assert mask.nbytes == (n + 63) // 64 * 8
        assert (mask.size, mask.shape) == (n, (n,))
    assert rl.dropout_mask((3, 4), 0.5, KEY).size == 12
    assert rl.dropout_mask((3, 4), 0.0, KEY).sparsity == 0
    assert rl.dropout_mask((3, 4), 1.0, KEY).sparsity == 1
    assert rl.dropout_mask((3, 4), 0.0, KEY).to_array().all()


def test_mask_logic():
    rng = np.random.default_rng(2)
    for shape in [(), (1,), (63,), (64,), (65,), (5, 13), (0,), (1000,)]:
        a, b = (np.asarray(rng.random(shape) < 0.5) for _ in range(2))
        m, n = rl.Mask.from_array(a), rl.Mask.from_array(b)
        for got, wants in [(m & n, a & b), (m | n, a | b), (~m, ~a), (~~m, a), (m & ~m, a & ~a)]:
            assert isinstance(got, rl.Mask)
            assert got.shape == shape
            assert bits(got.to_array()) == bits(np.asarray(wants))
            assert got == rl.Mask.from_array(np.asarray(wants))  # no stray bits at the end
            if a.size:
                assert got.sparsity == np.mean(~np.asarray(wants))
        assert bits(m.to_array()) == bits(a)  # operands stay
    m = rl.Mask.from_array(np.ones(6, bool))
    assert m != rl.Mask.from_array(np.ones((2, 3), bool))
    assert m != rl.Mask.from_array(np.ones(7, bool))
    for bad in (np.ones(6), 3, None, "text"):
        with pytest.raises(TypeError):
            m & bad
        with pytest.raises(TypeError):
            m | bad
    for bad in (rl.Mask.from_array(np.ones(7, bool)), rl.Mask.from_array(np.ones((2, 3), bool))):
        with pytest.raises(ValueError, match="shape"):
            m & bad
        with pytest.raises(ValueError, match="shape"):
            m | bad


def test_masks_travel():
    mask = rl.dropout_mask((7, 19), 0.5, KEY)
    for same in (pickle.loads(pickle.dumps(mask)), copy.copy(mask), copy.deepcopy(mask)):
        assert same == mask
        assert bits(same.to_array()) == bits(mask.to_array())
    assert "Mask" in repr(mask)


@dtypes
def test_mask_apply(dtype):
    for shape in [(), (5,), (0,), (6, 70), SHARED]:
        mask = rl.dropout_mask(shape, 0.5, KEY)
        w = sample(shape, dtype)
        expected = np.where(mask.to_array(), w, np.zeros((), dtype))
        target = w.copy()
        mask.apply_(target)
        assert bits(target) == bits(expected)
    w = sample((6, 70, 5), dtype)
    mask = rl.dropout_mask(w.shape, 0.5, KEY)
    expected = np.where(mask.to_array(), w, np.zeros((), dtype))
    for layout in LAYOUTS:
        view, intact = LAYOUTS[layout](w)
        mask.apply_(view)
        assert bits(view) == bits(expected)
        assert intact()


def test_mask_apply_to_nan_and_torch():
    mask = rl.dropout_mask(100, 0.5, KEY)
    w = np.full(100, NAN, np.float32)
    mask.apply_(w)
    assert bits(w) == bits(np.where(mask.to_array(), np.float32(NAN), np.float32(0)))
    torch = pytest.importorskip("torch")
    t = torch.full((100,), 3.0, dtype=torch.bfloat16)
    mask.apply_(t)
    assert t.tolist() == (3.0 * mask.to_array()).tolist()


def test_mask_errors():
    for bad in (np.ones(3, complex), np.ones(3, "M8[s]"), None, "mask"):
        with pytest.raises(TypeError, match=r"got .*, wants"):
            rl.Mask.from_array(bad)
    mask = rl.Mask.from_array(np.ones((2, 3), bool))
    for bad, error in [
        (np.ones((3, 2)), ValueError),
        (np.ones(6), ValueError),
        (np.ones((2, 3), np.int64), TypeError),
        (None, TypeError),
        (3.0, TypeError),
        (np.broadcast_to(np.ones(3), (2, 3)), ValueError),
    ]:
        with pytest.raises(error, match=r"^params: got .*"):
            mask.apply_(bad)
    read_only = np.ones((2, 3))
    read_only.flags.writeable = False
    with unchanged(read_only), pytest.raises(ValueError, match=r"^params"):
        mask.apply_(read_only)
    with pytest.raises(AttributeError):
        mask.shape = (6,)


def test_every_setting_of_masks():
    base = sample(SHARED, np.float32)

    def compute():
        mask = rl.dropout_mask(SHARED, P, KEY, offset=3)
        target = base.copy()
        mask.apply_(target)
        return [bits(mask.to_array()), bits(target), mask.sparsity, bits((~mask & mask).to_array())]

    every_setting(compute)
