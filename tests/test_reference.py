"""The oracles, checked against definitions: brute-force minimisation and finite differences."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

from ridgeline import reference as ref
from ridgeline.reference._tree import arrays_of, leaves, rounded

PENALTIES = [
    ref.L1(0.7),
    ref.L1(0.7, weights=np.array([1.5])),
    ref.L2(1.3),
    ref.ElasticNet(0.4, 0.9),
    ref.MCP(0.8, 2.5),
    ref.SCAD(0.6),
    ref.SCAD(0.5, 2.5),
    ref.LogSum(0.3, 0.9),
    ref.LogSum(1.2, 0.3),
    ref.LogSum(2.0, 0.01),
    ref.L0(0.6),
    ref.LHalf(0.8),
    ref.LHalf(0.05),
    ref.Huber(0.9, 0.5),
    ref.CappedL1(0.8, 0.6),
    ref.CappedL1(2.0, 0.3),
    ref.MCP(0.8, 2.5) + ref.L2(0.7),
    ref.L0(0.6) + ref.L2(1.1) + ref.L2(0.2),
    ref.L1(0.2) + ref.L2(0.3),
    ref.L1(0.2, weights=np.array([2.0])) + ref.L2(0.3),
    ref.LogSum(1.2, 0.3) + ref.L2(0.5),
]
penalties = pytest.mark.parametrize("penalty", PENALTIES, ids=repr)


def value_at(penalty, y):
    """The penalty of every number in y on its own."""
    flat = ref.Sum(penalty.members) if isinstance(penalty, ref.Sum) else penalty
    if isinstance(flat, ref.Sum):
        return sum(value_at(member, y) for member in flat.members)
    return flat._terms(y)


@penalties
@pytest.mark.parametrize("step", [0.0, 0.25, 1.0])
def test_prox_is_the_global_minimiser(penalty, step):
    coarse = np.linspace(-6, 6, 60_001)  # holds 0
    for x in [-5.0, -1.3, 0.0, *np.linspace(0.01, 5, 67)]:
        y = float(penalty.prox(np.array([x]), step)[0])
        # near y, 200 times finer
        grid = np.concatenate([coarse, y + np.linspace(-1e-3, 1e-3, 2001)])
        objective = (grid - x) ** 2 / 2 + step * value_at(penalty, grid)
        at_y = (y - x) ** 2 / 2 + step * float(penalty.value(np.array([y])))
        assert at_y <= objective.min() + 1e-12


@penalties
def test_odd_and_monotone(penalty):
    x = np.linspace(0, 6, 61)[:, None]
    kept = np.array([float(penalty.prox(v, 0.5)[0]) for v in x])
    mirrored = np.array([float(penalty.prox(-v, 0.5)[0]) for v in x])
    assert np.array_equal(mirrored, -kept)
    assert np.all(np.diff(kept) >= 0)
    assert np.all(kept <= x.ravel())


@penalties
def test_gradient_is_the_derivative(penalty):
    if "L0" in repr(penalty):
        with pytest.raises(TypeError, match="L0"):
            penalty.gradient(np.array([1.0]))
        return
    h = 1e-6
    for w in np.concatenate([np.linspace(-4, -0.01, 101), np.linspace(0.01, 4, 101)]):
        plus, minus = (penalty.value(np.array([w + d])) for d in (h, -h))
        slope = float(penalty.gradient(np.array([w]))[0])
        # a jump of the second derivative within h of w costs h / 2 times the jump
        assert abs((plus - minus) / (2 * h) - slope) <= 1e-4 * h * w**-4 + 1e-5
    assert penalty.gradient(np.array([0.0]))[0] == 0


@penalties
def test_nan_stays(penalty):
    nan = np.array([np.nan])
    assert np.isnan(penalty.value(nan))
    assert np.isnan(penalty.prox(nan, 0.5)[0])
    if "L0" not in repr(penalty):
        assert np.isnan(penalty.gradient(nan)[0])


def test_thresholds():
    """Where the minimiser jumps, both ends have the same objective."""
    for penalty in [ref.LogSum(1.2, 0.3), ref.LogSum(2.0, 0.01)]:
        tau = penalty._threshold(0.5 * penalty.strength)
        below, above = penalty.prox(np.array([tau, np.nextafter(tau, 9)]), 0.5)
        assert below == 0
        assert above > 0.1
        kept = (above - tau) ** 2 / 2 + 0.5 * penalty.value(np.array([above]))
        assert kept == pytest.approx(tau**2 / 2, rel=1e-13)
    # u = 1: the half threshold is 3/2 and keeps 1 there (Xu et al. 2012, theorem 1)
    assert ref.LHalf(1.0).prox(np.array([1.5, 1.4999]), 1.0) == pytest.approx([1.0, 0.0])
    assert list(ref.L0(0.5).prox(np.array([1.0, np.nextafter(1, 2)]), 1.0)) == [0, 1 + 2**-52]


@pytest.mark.parametrize("penalty", [ref.MCP(1.0, 2.0), ref.SCAD(1.0, 3.0)])
def test_prox_needs_a_convex_objective(penalty):
    with pytest.raises(ValueError, match="step"):
        penalty.prox(np.ones(1), 2.0)


def test_sum_and_addition():
    assert ref.L2(2.0) + ref.L1(1.0) == ref.ElasticNet(1.0, 2.0)
    three = ref.L1(1.0) + ref.MCP(1.0, 3.0) + ref.L2(1.0)
    assert [type(m) for m in three.members] == [ref.L1, ref.MCP, ref.L2]
    with pytest.raises(TypeError):
        three.prox(np.ones(1), 0.5)
    w, g = np.array([2.0]), np.array([10.0])
    assert three.add_gradient_(g, w) == three.value(w) == 2.0 + (2.0 - 4 / 6) + 2.0
    assert g[0] == pytest.approx(10 + 1 + (1 - 2 / 3) + 2)


def test_containers():
    tree = {"w": [np.ones(2), (np.full(1, 2.0),)], "b": np.full((), 3.0)}
    assert [name for name, _ in leaves(tree, "p")] == ["p['w'][0]", "p['w'][1][0]", "p['b']"]
    assert ref.L1(1.0).value(tree) == 7.0
    ref.L1(1.0).prox_(tree, 0.5)
    assert [float(a.sum()) for a in arrays_of(tree)] == [1.0, 1.5, 2.5]
    weighted = ref.L1(1.0, weights=[np.array([1.0, 0.0]), np.array([3.0])]) + ref.L2(1.0)
    w = [np.array([4.0, 4.0]), np.array([4.0])]
    weighted.prox_(w, 1.0)
    assert [list(a) for a in w] == [[1.5, 2.0], [0.5]]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32], ids=str)
def test_store_rounds_once(dtype):
    info = ml_dtypes.finfo(dtype)
    rng = np.random.default_rng(1)
    low = np.abs(rng.standard_normal(2000)).astype(dtype).astype(np.float64)
    gap = np.exp2(np.floor(np.log2(low))) * float(info.eps)
    for shift, wants in [(-(2.0**-26), low), (2.0**-26, low + gap)]:
        got = rounded(low + gap * (0.5 + shift), np.dtype(dtype)).astype(np.float64)
        assert np.array_equal(got, wants)
    ends = rounded(np.array([np.inf, -1e300, np.nan, -0.0]), np.dtype(dtype)).astype(np.float64)
    assert list(ends[:2]) == [np.inf, -np.inf]
    assert np.isnan(ends[2])
    assert np.signbit(ends[3])


@pytest.mark.parametrize("ord", [0.5, 1, 2, 3, np.inf])
def test_norms(ord):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)), rng.standard_normal(5)]
    flat = np.concatenate([a.ravel() for a in arrays])
    wants = np.linalg.norm(flat, ord)
    assert ref.global_norm(arrays, ord) == pytest.approx(wants, rel=1e-14)
    assert ref.global_norm([a * 2.0**1000 for a in arrays], ord) == pytest.approx(
        wants * 2.0**1000, rel=1e-14
    )
    assert ref.global_norm([], ord) == 0.0
    assert ref.clip_by_global_norm_(arrays, wants / 4, ord) == pytest.approx(wants, rel=1e-14)
    assert ref.global_norm(arrays, ord) == pytest.approx(wants / 4, rel=1e-14)
    assert np.allclose(np.concatenate([a.ravel() for a in arrays]), flat / 4, rtol=1e-14)
    assert ref.clip_by_norm_(arrays, 1e-3, ord)[1] == pytest.approx(
        np.linalg.norm(flat[12:] / 4, ord)
    )
    assert [ref.global_norm(a, ord) for a in arrays] == pytest.approx([1e-3, 1e-3])
    assert np.isnan(ref.global_norm(np.array([np.inf, np.nan]), ord))
    assert ref.global_norm(np.array([-np.inf, 1.0]), ord) == np.inf


def test_clip_by_rms_and_value():
    g = [np.array([3.0, 4.0]), np.array([0.1]), np.zeros(0)]
    assert ref.clip_by_rms_(g, 1.0) == pytest.approx([12.5**0.5, 0.1, 0.0])
    assert [a.tolist() for a in g] == [pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5]), [0.1], []]
    v = np.array([-9.0, -0.5, np.nan, np.inf])
    ref.clip_by_value_(v, (-1.0, 2.0))
    assert np.array_equal(v, [-1.0, -0.5, np.nan, 2.0], equal_nan=True)


@pytest.mark.parametrize(
    ("policy", "wants"), [("propagate", [0, np.nan]), ("skip", [1, np.inf]), ("zero", [0, 0])]
)
def test_nonfinite(policy, wants):
    g = [np.array([1.0]), np.array([np.inf])]
    assert ref.clip_by_global_norm_(g, 1.0, on_nonfinite=policy) == np.inf
    assert np.array_equal(np.concatenate(g), wants, equal_nan=True)


def test_nonfinite_names_the_array():
    with pytest.raises(FloatingPointError, match=r"grads\['w'\]\[1\]"):
        ref.clip_by_global_norm_({"w": [np.ones(1), np.array([np.nan])]}, 1, on_nonfinite="raise")


def test_zero_largest():
    g = np.array([[1.0, -3.0, 3.0], [np.nan, np.inf, 0.0]])
    for wants in [[1, -3, 3, 0, np.inf, 0], [1, -3, 3, 0, 0, 0], [1, 0, 3, 0, 0, 0]]:
        ref.zero_largest_(g)
        assert g.ravel().tolist() == wants
    two = np.array([2.0, -2.0, 2.0]), np.zeros(0)
    ref.zero_largest_(two, 2)
    assert two[0].tolist() == [0, 0, 2]


def test_ranks_together():
    class Comm:
        def __init__(self):
            self.values, self.barrier = [None, None], threading.Barrier(2, timeout=10)

        def rank(self, index):
            def allgather(value):
                self.values[index] = value
                self.barrier.wait()
                return list(self.values)

            return type("Rank", (), {"allgather": staticmethod(allgather)})

    comm, g, norms = Comm(), [np.array([3.0]), np.array([4.0])], [0.0, 0.0]

    def run(i):
        norms[i] = ref.clip_by_global_norm_(g[i], 1.0, comm=comm.rank(i))

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert norms == [5.0, 5.0]
    assert np.concatenate(g) == pytest.approx([0.6, 0.8])
