"""Projections: the oracle, NaN, layouts, and nothing written that is within."""

from __future__ import annotations

import dataclasses
import pickle
import sys

import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAYOUTS,
    SIZES,
    WRONG_ARRAYS,
    bits,
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
from test_clipping import on_protected_pages

import ridgeline as rl
from ridgeline.reference import optimizers as ref

NAN, INF = np.nan, np.inf
CONSTRAINTS = {
    "box": (rl.Box(-0.4, 1.5), ref.Box(-0.4, 1.5)),
    "box above 0": (rl.Box(0.25, 0.5), ref.Box(0.25, 0.5)),
    "point": (rl.Box(0.5, 0.5), ref.Box(0.5, 0.5)),
    "half-line": (rl.Box(-INF, 0.1), ref.Box(-INF, 0.1)),
    "all": (rl.Box(-INF, INF), ref.Box(-INF, INF)),
    "non-negative": (rl.NonNegative(), ref.NonNegative()),
}
constraints = pytest.mark.parametrize("constraint", CONSTRAINTS)


def special(dtype):
    return np.array([NAN, INF, -INF, 0.0, -1.0, 1.0, 0.25, -NAN, 1e-7, -1e-7] * 20, dtype)


def numbers(x):
    """Values alone: a zero has no sign, NaN no payload."""
    return (x.astype(np.float64) + 0.0).tobytes()


@dtypes
@constraints
def test_matches_the_oracle(constraint, dtype):
    mine, theirs = CONSTRAINTS[constraint]
    for x in (sample((30, 41), dtype), special(dtype), sample((), dtype), np.zeros((0, 3), dtype)):
        got, expected = x.copy(), x.copy()
        theirs.project_(expected)
        assert mine.project_(got) is None
        np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


@dtypes
def test_nan_stays_nan_and_keeps_its_bits(dtype):
    x = special(dtype)
    got = x.copy()
    rl.Box(-0.5, 0.5).project_(got)
    isnan = np.isnan(x.astype(np.float64))
    assert bits(got[isnan]) == bits(x[isnan])
    assert np.count_nonzero(isnan) == 40
    assert np.all(np.abs(got[~isnan].astype(np.float64)) <= 0.5)


def test_known_answers():
    w = {"a": np.array([-3.0, 0.5, 2.0]), "b": [np.array(-7.0, np.float32)]}
    rl.Box(-1.0, 1.0).project_(w)
    assert w["a"].tolist() == [-1.0, 0.5, 1.0]
    assert w["b"][0] == -1
    rl.NonNegative().project_(w)
    assert w["a"].tolist() == [0.0, 0.5, 1.0]
    assert w["b"][0] == 0


@dtypes
def test_projecting_twice_is_projecting_once(dtype):
    for mine, _ in CONSTRAINTS.values():
        x = sample(3000, dtype)
        mine.project_(x)
        with unchanged(x):
            mine.project_(x)


@dtypes
@constraints
def test_targets_threads_sizes(constraint, dtype):
    arrays = [sample(n, dtype, n) for n in SIZES]

    def project():
        x = copied(arrays)
        CONSTRAINTS[constraint][0].project_(x)
        return bits(x)

    every_setting(project)


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
def test_nothing_is_written_within_the_bounds():
    run = on_protected_pages(
        """
for arrays in (g, columns, strided):
    rl.Box(-0.5, 0.25).project_(arrays)
    rl.Box(-0.5, float("inf")).project_(arrays)
"""
    )
    assert run.returncode == 0, run.stderr
    run = on_protected_pages("rl.NonNegative().project_(g)")
    assert run.stdout.split() == ["ready"]


@layouts
@dtypes
def test_layouts(layout, dtype):
    for shape in [(3, 5, 7), (40, 33, 50)]:
        x = sample(shape, dtype, 1)
        for mine, _ in CONSTRAINTS.values():
            expected = x.copy()
            mine.project_(expected)
            view, intact = LAYOUTS[layout](x)
            mine.project_(view)
            assert bits(np.ascontiguousarray(view)) == bits(expected)
            assert intact()


@settings(max_examples=60, deadline=None)
@given(placements(), st.sampled_from(DTYPES), st.sampled_from(list(CONSTRAINTS)))
def test_any_strides(placement, dtype, constraint):
    (shape, place), mine = placement, CONSTRAINTS[constraint][0]
    x = sample(shape, dtype, 1)
    expected = x.copy()
    mine.project_(expected)
    view, intact = place(x)
    mine.project_(view)
    assert bits(np.ascontiguousarray(view).reshape(shape)) == bits(expected)
    assert intact()


@dtypes
@constraints
def test_inside_the_step(constraint, dtype):
    """The step, then the projection."""
    mine, _ = CONSTRAINTS[constraint]
    w, g = sample((40, 30), dtype, 1), sample((40, 30), dtype, 2)
    for kind in ("SGD", "AdamW", "RMSprop", "Adagrad", "Lion"):
        apart, inside = w.copy(), w.copy()
        getattr(rl, kind)(apart, lr=0.1).step(g)
        mine.project_(apart)
        opt = getattr(rl, kind)(inside, lr=0.1, constraint=mine)
        opt.step(g)
        assert opt.constraint == mine
        assert numbers(inside) == numbers(apart), kind


def test_after_the_proximal_operator():
    w = np.array([1.0, -1.0, 0.3])
    opt = rl.SGD(w, lr=0.5, penalty=rl.L1(1.0), prox="plain", constraint=rl.Box(0.1, 0.4))
    opt.step(np.zeros(3))
    assert w.tolist() == [0.4, 0.1, 0.1]


@pytest.mark.parametrize(
    ("low", "high", "error", "name"),
    [
        (1.0, 0.0, ValueError, "low|high"),
        (NAN, 1.0, ValueError, "low"),
        (0.0, NAN, ValueError, "high"),
        ("a", 1.0, TypeError, "low"),
        (0.0, None, TypeError, "high"),
    ],
)
def test_wrong_bounds(low, high, error, name):
    with pytest.raises(error, match=rf"^({name}).*: got .*wants"):
        rl.Box(low, high)


def test_constraints_are_values():
    assert rl.Box(0, 1) == rl.Box(0.0, 1.0)
    assert hash(rl.Box(0, 1)) == hash(rl.Box(0.0, 1.0))
    assert rl.Box(0.0, 1.0) != rl.Box(0.0, 2.0)
    assert rl.NonNegative() == rl.NonNegative()
    assert rl.NonNegative() != rl.Box(0.0, 1.0)
    assert isinstance(rl.Box(0, 1), rl.Constraint)
    assert isinstance(rl.NonNegative(), rl.Constraint)
    for mine, _ in CONSTRAINTS.values():
        assert pickle.loads(pickle.dumps(mine)) == mine
    with pytest.raises(dataclasses.FrozenInstanceError):
        rl.Box(0.0, 1.0).low = 2.0
    with pytest.raises(TypeError, match="Constraint"):
        rl.Constraint()


@pytest.mark.parametrize("what", WRONG_ARRAYS)
def test_wrong_arrays(what):
    bad, _, error = WRONG_ARRAYS[what]
    good = np.full(3, 5.0)
    with unchanged(good):
        with pytest.raises(error, match="params"):
            rl.Box(0.0, 1.0).project_(bad)
        with pytest.raises(error, match=r"params\['a'\]\[1\]"):
            rl.NonNegative().project_({"a": [good, bad]})


def test_the_same_array_twice():
    w = np.full((4, 4), 5.0)
    for twice in ([w, w], [w, w[1:]], {"a": w, "b": w.T}):
        with unchanged(w), pytest.raises(ValueError, match="params"):
            rl.Box(0.0, 1.0).project_(twice)
    rl.Box(0.0, 1.0).project_([w[:2], w[2:]])
    assert np.all(w == 1)


@dtypes
def test_torch(dtype):
    torch = pytest.importorskip("torch")
    x = sample((40, 30), dtype)
    expected = x.copy()
    rl.Box(-0.4, 1.5).project_(expected)
    p = torch.nn.Parameter(to_torch(x))
    version = p._version
    rl.Box(-0.4, 1.5).project_([p])  # as under no_grad
    assert bits(from_torch(p)) == bits(expected)
    assert p._version > version
    assert p.requires_grad


def test_jax_is_never_written():
    jnp = pytest.importorskip("jax.numpy")
    with pytest.raises(ValueError, match="params"):
        rl.NonNegative().project_(jnp.full(3, -1.0))
