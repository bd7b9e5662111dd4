"""Steps where optimizers meet the rest of a training loop: fixed points, decay, clipping, states
that die out, gradients that are missing or of another dtype, errors and interrupts."""

from __future__ import annotations

import functools
import itertools
import signal
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
from helpers import bits, every_setting
from test_clipping import Ranks

import ridgeline as rl

BF16 = np.dtype(ml_dtypes.bfloat16)
KINDS = {
    "SGD": (rl.SGD, {}),
    "momentum": (rl.SGD, {"momentum": 0.9}),
    "Adam": (rl.Adam, {}),
    "AMSGrad": (rl.Adam, {"amsgrad": True}),
    "AdamW": (rl.AdamW, {}),
    "NAdam": (rl.NAdam, {}),
    "RMSprop": (rl.RMSprop, {}),
    "RMSprop both": (rl.RMSprop, {"momentum": 0.9, "centered": True}),
    "Adagrad": (rl.Adagrad, {}),
    "Lion": (rl.Lion, {}),
    "FTRL": (rl.FTRL, {}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def made(kind, params, **options):
    make, own = KINDS[kind]
    return make(params, **{**own, **options})


# ---- the fixed point of a step and a proximal operator


PENALTIES = {
    "L1": (rl.L1(0.5), 2.5),
    "elastic net": (rl.ElasticNet(0.5, 0.25), 2.0),  # (3 - 0.5) / (1 + 0.25)
    "MCP": (rl.MCP(0.5, 10.0), 25 / 9),  # w - 3 + 0.5 - w / 10 = 0
    "SCAD": (rl.SCAD(1.5, 3.7), None),
    "log-sum": (rl.LogSum(0.5, 0.5), (2.5 + np.sqrt(2.5**2 + 4)) / 2),  # (w - 3)(w + 0.5) + 0.5 = 0
    "Huber and L2": (rl.Huber(0.25, 1.0) + rl.L2(0.25), 2.2),  # w - 3 + 0.25 + 0.25 w = 0
}


@functools.cache
def minimiser(name):
    """Of (w - 3)^2 / 2 + penalty(w), on a grid."""
    penalty = PENALTIES[name][0]
    w = np.linspace(0, 4, 400001)
    values = [penalty.value(w[i : i + 1]) for i in range(0, w.size, 100)]
    coarse = w[::100][np.argmin((w[::100] - 3) ** 2 / 2 + values)]
    near = np.linspace(coarse - 0.02, coarse + 0.02, 4001)
    exact = [(x - 3) ** 2 / 2 + penalty.value(np.array([x])) for x in near]
    return near[np.argmin(exact)]


MOMENTA = {
    f"{make.__name__} {convention} {momentum} {extra}": (make, convention, momentum, extra)
    for make in (rl.SGD, rl.RMSprop)
    for convention in ("torch", "keras", "optax")
    for momentum in (0.0, 0.9, 0.99)
    for extra in ({}, {"nesterov": True}, {"dampening": 0.5})
    if not (extra and make is rl.RMSprop)
    and not ("nesterov" in extra and momentum == 0.0)
    and not ("dampening" in extra and convention == "keras")
}


def a_third(*factors):
    """Choose a third of all combinations; of three factors each pair of values remains."""
    indexed = itertools.product(*map(enumerate, factors))
    return [tuple(x for _, x in each) for each in indexed if sum(i for i, _ in each) % 3 == 0]


@pytest.mark.parametrize(("case", "name"), a_third(MOMENTA, PENALTIES))
def test_a_momentum_ends_at_the_minimum_of_loss_and_penalty(case, name):
    make, convention, momentum, extra = MOMENTA[case]
    penalty, expected = PENALTIES[name]
    prox = "plain" if make is rl.SGD else "preconditioned"
    w = np.zeros(1)
    w[:] = 2.9
    # A longer step would swing about the minimum of penalties that are not convex: the momentum
    # answers to the gradient 1 / (1 - momentum) steps late, the proximal operator at once.
    length = 0.1 if momentum < 0.99 else 0.01
    lr = (length if make is rl.SGD else 4e-3) * (1 - momentum)
    opt = make(
        w, lr=lr, momentum=momentum, penalty=penalty, prox=prox, convention=convention, **extra
    )
    for _ in range(4000 if make is rl.SGD else 7000):
        opt.step(w - 3)
    least = minimiser(name)
    if expected is not None:
        assert least == pytest.approx(expected, abs=2e-5)
    assert w[0] == pytest.approx(least, abs=1e-3)


ADAPTIVE = ("Adam", "AMSGrad", "AdamW", "NAdam", "RMSprop", "Adagrad")


@pytest.mark.parametrize(
    ("kind", "name", "convention"), a_third(ADAPTIVE, PENALTIES, ("torch", "keras", "optax"))
)
def test_an_adaptive_step_ends_at_the_minimum(kind, name, convention):
    w = np.full(1, 2.9)
    opt = made(
        kind,
        w,
        lr=lambda step: 0.05 / (1 + step / 100) if kind != "Adagrad" else 0.5,
        weight_decay=0.0,
        penalty=PENALTIES[name][0],
        prox="preconditioned",
        convention=convention,
    )
    for _ in range(3000):
        opt.step(w - 3)
    assert w[0] == pytest.approx(minimiser(name), abs=2e-3)


def test_the_first_threshold_of_a_momentum_is_that_of_the_first_step():
    w = np.array([0.05, 1.0])
    rl.SGD(w, lr=0.1, momentum=0.9, penalty=rl.L1(0.1), prox="plain").step(np.zeros(2))
    np.testing.assert_allclose(w, [0.04, 0.99])


@pytest.mark.parametrize("make", [rl.SGD, rl.RMSprop])
def test_a_momentum_that_grows_for_ever_has_no_proximal_step(make):
    w = np.ones(2)
    opt = make(w, lr=0.1, momentum=1.0, penalty=rl.L1(0.1), prox="plain")
    with pytest.raises(ValueError, match=r"^momentum: got 1 .*wants less than 1"):
        opt.step(np.ones(2))
    assert np.all(w == 1)
    assert opt.steps == 0


def test_long_steps_of_a_momentum_are_an_error():
    w = np.ones(2)
    opt = rl.SGD(w, lr=0.1, momentum=0.99, penalty=rl.MCP(1.0, 3.0), prox="plain")
    with pytest.raises(
        ValueError, match=r"^lr: got 0.1, which momentum makes a step of 9\.99.*wants less than g"
    ):
        opt.step(np.ones(2))
    opt.momentum = 0.9
    opt.step(np.ones(2))
    with pytest.raises(ValueError, match=r"^dampening: got 1.5 with a prox, wants at most 1"):
        rl.SGD(w, lr=0.1, momentum=0.9, dampening=1.5, penalty=rl.L1(0.1), prox="plain").step(
            np.ones(2)
        )


# ---- weight decay


@pytest.mark.parametrize(
    "kind",
    ["SGD", "momentum", "Adam", "AMSGrad", "AdamW", "NAdam", "RMSprop", "RMSprop both", "Adagrad"],
)
def test_weight_decay_means_what_it_means_in_torch(kind):
    torch = pytest.importorskip("torch")
    make, own = KINDS[kind]
    rng = np.random.default_rng(0)
    start = rng.standard_normal(50)
    rtol = 1e-6 if kind == "NAdam" else 1e-9  # torch keeps a product in float32
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    w = start.copy()
    other = getattr(torch.optim, make.__name__)([theirs], lr=0.01, weight_decay=0.1, **own)
    opt = make(w, lr=0.01, weight_decay=0.1, **own)
    for _ in range(200):
        g = rng.standard_normal(50)
        theirs.grad = torch.from_numpy(g.copy())
        other.step()
        opt.step(g)
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=rtol, atol=1e-12)


@kinds
def test_decay_can_be_said(kind):
    """Coupled decay is the gradient of L2, decoupled decay a factor before the step."""
    g = np.random.default_rng(1).standard_normal((20, 40))
    start = np.random.default_rng(2).standard_normal(40)
    w, as_penalty, first, plain = (start.copy() for _ in range(4))
    coupled = made(kind, w, lr=0.01, weight_decay=0.1, decay="coupled")
    same = made(kind, as_penalty, lr=0.01, weight_decay=0.0, penalty=rl.L2(0.1))
    decoupled = made(kind, first, lr=0.01, weight_decay=0.1, decay="decoupled")
    without = made(kind, plain, lr=0.01, weight_decay=0.0)
    for step in g:
        coupled.step(step)
        if kind != "FTRL":
            same.step(step)
    decoupled.step(g[0])
    plain *= 1 - 0.01 * 0.1
    without.step(g[0])
    if kind != "FTRL":  # takes L2 into its closed form
        assert bits(w) == bits(as_penalty)
    np.testing.assert_allclose(first, plain, rtol=1e-14, atol=1e-16)
    assert not np.array_equal(w, first)


@kinds
@pytest.mark.parametrize("convention", ["torch", "keras", "optax"])
def test_decay_follows_the_convention(kind, convention):
    if kind == "FTRL" and convention == "optax":
        pytest.skip("there is none")
    couples = convention == "torch" and kind not in ("AdamW", "Lion", "FTRL")
    g = np.random.default_rng(1).standard_normal((5, 40))
    ends = []
    for decay in (None, "coupled" if couples else "decoupled"):
        w = np.random.default_rng(2).standard_normal(40)
        opt = made(kind, w, lr=0.01, weight_decay=0.1, decay=decay, convention=convention)
        for step in g:
            opt.step(step)
        ends.append(bits(w))
    assert ends[0] == ends[1]


def test_decay_is_a_number_of_groups():
    a, b = np.ones(2), np.ones(2)
    opt = rl.SGD(
        [{"params": a}, {"params": b, "decay": "decoupled"}],
        lr=0.5,
        momentum=0.9,
        weight_decay=0.5,
        decay_filter=lambda name, array: 0.5,
    )
    for _ in range(2):
        opt.step([np.zeros(2), np.zeros(2)])
    # b1 = 0.25, w = 0.875; b2 = 0.9 * 0.25 + 0.25 * 0.875, w -= b2 / 2
    np.testing.assert_allclose(a, 0.875 - 0.5 * (0.225 + 0.21875))
    np.testing.assert_allclose(b, 0.875**2)
    opt.groups[0].decay = "decoupled"
    before = a.copy()
    opt.step([np.zeros(2), None])
    np.testing.assert_allclose(a, before * 0.875 - 0.5 * 0.9 * (0.225 + 0.21875))
    with pytest.raises(ValueError, match=r"^decay: got 'none', wants None, 'coupled' or"):
        opt.decay = "none"


# ---- clipping


def after_penalty(clip, grads, params, penalty):
    """What a loop does with a penalty in its loss."""
    grads = [g.copy() for g in grads]
    if penalty is not None:
        penalty.add_gradient_(grads, params)
    if isinstance(clip, rl.GlobalNorm):
        norm = rl.clip_by_global_norm_(grads, clip.max_norm, clip.ord)
    elif isinstance(clip, rl.Norm):
        norm = max(rl.clip_by_norm_(grads, clip.max_norm, clip.ord))
    else:
        norm = None
        rl.clip_by_value_(grads, clip.limit)
    return grads, norm


CLIPS = {
    "global": rl.GlobalNorm(1.0),
    "loose": rl.GlobalNorm(1e6),
    "l1": rl.GlobalNorm(1.0, 1),
    "l3": rl.GlobalNorm(1.0, 3),
    "inf": rl.GlobalNorm(0.1, np.inf),
    "each": rl.Norm(1.0),
    "value": rl.Value(0.05),
}
REGULARIZERS = {
    "L1": rl.L1(0.1),
    "elastic net": rl.ElasticNet(0.1, 0.2),
    "LogSum": rl.LogSum(0.1, 0.5),
    "sum": rl.L1(0.1) + rl.Huber(0.3, 1.0) + rl.L2(0.2),
}


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_after_the_penalty(clip, name, dtype):
    rng = np.random.default_rng(0)
    shapes = [(300, 40), (7,), (1500, 3)]
    start = [rng.standard_normal(s).astype(dtype) for s in shapes]
    grads = [rng.standard_normal(s).astype(dtype) for s in shapes]

    def run():
        w = [x.copy() for x in start]
        expected = [x.copy() for x in start]
        options = {"penalty": REGULARIZERS[name], "clip": CLIPS[clip], "momentum": 0.5, "lr": 0.25}
        opt = rl.SGD(w, clip_after_penalty=True, **options)
        other = rl.SGD(expected, momentum=0.5, lr=0.25)
        for _ in range(2):
            report = opt.step(grads)
            clipped, norm = after_penalty(CLIPS[clip], grads, expected, REGULARIZERS[name])
            other.step(clipped)
            for a, b in zip(w, expected, strict=True):
                assert bits(a) == bits(b)
        if isinstance(CLIPS[clip], rl.GlobalNorm):
            assert report.norm == norm
        before = [x.copy() for x in start]
        rl.SGD(before, **options).step(grads)
        if clip != "loose":
            assert bits(before[0]) != bits(w[0])
        return bits(w[0])

    every_setting(run, threads=(1, 2))


@pytest.mark.parametrize("convention", ["torch", "keras", "optax"])
def test_keras_clips_after_the_penalty(convention):
    w, g = np.array([3.0, 4.0]), np.zeros(2)
    opt = rl.SGD(w, lr=1.0, penalty=rl.L2(1.0), clip=rl.GlobalNorm(1.0), convention=convention)
    report = opt.step(g)
    assert report.norm == (5.0 if convention == "keras" else 0.0)
    np.testing.assert_allclose(w, [2.4, 3.2] if convention == "keras" else 0, atol=1e-15)
    w[:] = [3.0, 4.0]
    opt.clip_after_penalty = convention != "keras"
    assert opt.step(g).norm == (0.0 if convention == "keras" else 5.0)
    with pytest.raises(TypeError, match=r"^clip_after_penalty: got int, wants True or False"):
        opt.clip_after_penalty = 1


def test_clipping_after_the_penalty_with_all_else():
    """Coupled decay joins after the clip; halves, master weights, accumulation, ranks, skipping."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(3000).astype(BF16)
    g = [rng.standard_normal(3000).astype(BF16) for _ in range(2)]
    wide = w.astype(np.float32)
    opt = rl.SGD(
        w,
        lr=0.5,
        weight_decay=0.125,
        penalty=rl.L1(0.5),
        clip=rl.GlobalNorm(2.0),
        clip_after_penalty=True,
        master_weights=True,
        accumulation_steps=2,
    )
    for x in g:
        report = opt.step(x)
    mean = (g[0].astype(np.float32) + g[1].astype(np.float32)) / 2
    rl.L1(0.5).add_gradient_(mean, wide)
    norm = rl.clip_by_global_norm_(mean, 2.0)
    assert report.norm == norm
    mean += np.float32(0.125) * wide
    wide -= np.float32(0.5) * mean
    assert bits(opt.state["master"]) == bits(wide)
    assert report.norm > report.scale * report.norm == pytest.approx(2.0)


def test_ranks_clip_after_the_penalty():
    ranks = Ranks(2)
    params = [np.array([3.0]), np.array([4.0])]

    def run(rank, comm):
        opt = rl.SGD(
            params[rank],
            lr=1.0,
            penalty=rl.L2(1.0),
            clip=rl.GlobalNorm(1.0),
            clip_after_penalty=True,
            comm=comm,
        )
        return opt.step(np.zeros(1)).norm

    assert ranks.run(run) == [5.0, 5.0]
    np.testing.assert_allclose(np.concatenate(params), [2.4, 3.2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["SGD", "momentum"])
def test_the_clip_factor_is_rounded_once(kind, dtype):
    """Every product is the number nearest to gradient times factor, as clip_by_global_norm_'s."""
    rng = np.random.default_rng(3)
    eps = np.finfo(dtype)
    # A momentum of less than 2^-100 is 0.
    for limit in (1.0, 1e-3, 0.7, *((1e-30, 3e-39) if kind == "SGD" else ())):
        g = (rng.standard_normal(801) * rng.choice([1e-3, 1, 1e3, 1e6], 801)).astype(dtype)
        w = np.zeros_like(g)
        report = made(kind, w, lr=1.0, clip=rl.GlobalNorm(limit)).step(g)
        expected = g.copy()
        rl.clip_by_global_norm_(expected, limit)
        np.testing.assert_array_equal(-w, expected)
        if dtype == np.float32:
            nearest = (g.astype(np.float64) * report.scale).astype(np.float32)
            np.testing.assert_array_equal(expected, nearest)
        assert report.norm > limit > 0
        assert eps.bits in (32, 64)


def test_clip_factors_beyond_float32():
    g = np.array([3e38, 1e38], np.float32)
    w = np.zeros(2, np.float32)
    rl.SGD(w, lr=1.0, clip=rl.GlobalNorm(1e-6)).step(g)
    np.testing.assert_allclose(-w, [9.486833e-07, 3.1622776e-07], rtol=2e-7)
    rl.clip_by_global_norm_(g, 1e-6)
    np.testing.assert_array_equal(-w, g)
    tiny = np.full(3, 1e-40, np.float32)
    w = np.zeros(3, np.float32)
    rl.SGD(w, lr=1.0).step(tiny, loss_scale=1e-39)
    np.testing.assert_array_equal(-w, (tiny.astype(np.float64) / 1e-39).astype(np.float32))


# ---- denominators of 0, means, states that die out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convention", ["torch", "keras", "optax"])
@pytest.mark.parametrize(
    "kind", ["Adam", "AMSGrad", "AdamW", "NAdam", "RMSprop", "RMSprop both", "Adagrad"]
)
@pytest.mark.parametrize("prox", [None, "plain", "preconditioned"])
def test_no_eps_and_no_gradient_is_no_step(kind, convention, dtype, prox):
    start = np.array([1.0, -2.0, 0.5], dtype)
    w = start.copy()
    options = {} if prox is None else {"penalty": rl.LogSum(1e-3, 1.0), "prox": prox}
    if kind == "Adagrad":
        options["initial_accumulator_value"] = 0.0
    opt = made(kind, w, lr=0.1, eps=0.0, weight_decay=0.0, convention=convention, **options)
    for _ in range(3):
        opt.step(np.array([0.0, 1.0, 0.0], dtype))
    if prox != "plain":  # whose threshold is the same for all
        np.testing.assert_array_equal(w[[0, 2]], start[[0, 2]])
    assert np.all(np.isfinite(w))
    assert w[1] < -2


def test_ftrl_without_any_denominator():
    w = np.array([1.0, 2.0])
    rl.FTRL(w, lr=0.1, beta=0.0).step(np.zeros(2))
    np.testing.assert_array_equal(w, 0)


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "AMSGrad", "NAdam"])
def test_small_betas_keep_small_gradients(kind):
    """As torch's lerp: m + (1 - b1)(g - m) would be 0 after 1e8 and 1."""
    w = np.zeros(1, np.float32)
    opt = made(kind, w, betas=(0.0, 0.9))
    opt.step(np.array([1e8], np.float32))
    opt.step(np.array([1.0], np.float32))
    assert opt.state["exp_avg"][0] == 1.0


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.3, 0.5, 0.6, 0.9, 0.999])
def test_means_are_torchs(beta):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    p = torch.nn.Parameter(torch.zeros(500))
    theirs = torch.optim.Adam([p], betas=(beta, 0.9))
    w = np.zeros(500, np.float32)
    opt = rl.Adam(w, betas=(beta, 0.9))
    for _ in range(20):
        g = (rng.standard_normal(500) * 10.0 ** rng.integers(-8, 9, 500)).astype(np.float32)
        p.grad = torch.from_numpy(g.copy())
        theirs.step()
        opt.step(g)
    np.testing.assert_allclose(
        opt.state["exp_avg"], theirs.state[p]["exp_avg"].numpy(), rtol=1e-4, atol=1e-12
    )


def test_other_means_keep_small_numbers():
    w = np.array([1e8], np.float32)
    opt = rl.SGD(w, lr=0.0, ema=0.0)
    w[0] = 1.0
    opt.step(np.zeros(1, np.float32))
    assert opt.ema[0] == 1.0
    w = np.zeros(1, np.float32)
    opt = rl.RMSprop(w, alpha=0.0, centered=True)
    opt.step(np.array([1e8], np.float32))
    opt.step(np.array([1.0], np.float32))
    assert opt.state["grad_avg"][0] == 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("momentum", {"momentum": 0.5}),
        ("Adam", {"betas": (0.5, 0.5)}),
        ("AMSGrad", {"betas": (0.5, 0.5)}),
        ("NAdam", {"betas": (0.5, 0.5)}),
        ("RMSprop both", {"alpha": 0.5, "momentum": 0.5}),
        ("Lion", {"betas": (0.5, 0.5)}),
    ],
)
def test_states_are_never_subnormal(kind, options, dtype):
    """They end at 0 on every target, and until then are what they were."""
    g = np.random.default_rng(0).standard_normal(100).astype(dtype)
    info = np.finfo(dtype)

    def run():
        w = np.ones(100, dtype)
        opt = made(kind, w, **options)
        opt.step(g)
        for _ in range(2300 if dtype == np.float64 else 350):  # halvings from 1 to 0, twice
            opt.step(np.zeros(100, dtype))
            for name, state in opt.state.items():
                least = np.abs(state[state != 0])
                assert np.all(least >= info.smallest_normal), name
        left = [name for name, state in opt.state.items() if np.any(state)]
        assert left == (["max_exp_avg_sq"] if kind == "AMSGrad" else [])
        return bits(w)

    every_setting(run, threads=(1,))


def test_an_average_of_zeros_ends_at_zero():
    w = np.zeros(50, np.float32)
    w[:] = np.linspace(1, 2, 50)
    opt = rl.SGD(w, lr=0.0, ema=0.5)
    w[:25] = 0
    w[25:] = 1e-40
    for _ in range(300):
        opt.step(np.zeros(50, np.float32))
    assert not np.any(opt.ema[:25])
    np.testing.assert_array_equal(opt.ema[25:], w[25:])


# ---- 16-bit weights


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)])
def test_kahan_forgets_what_belongs_to_a_weight_that_others_wrote(dtype):
    w = np.array([1.0, 1.0], dtype)
    opt = rl.SGD(w, lr=1e-4, kahan=True)
    opt.step(np.array([1.0, 1.0], dtype))
    assert np.all(w == 1)
    w[0] = 0
    opt.step(np.zeros(2, dtype))
    assert w[0] == 0
    assert opt.state["compensation"].view(dtype)[1] != 0


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)])
def test_a_lost_part_never_moves_its_weight(dtype):
    """What is stored, high + low, always rounds to high: also where low itself was rounded up."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(200000).astype(dtype)
    opt = rl.SGD(w, lr=1.0, kahan=True)
    opt.step((rng.standard_normal(200000) * 1e-2).astype(np.float32))
    low = opt.state["compensation"].view(dtype).astype(np.float32)
    high = w.astype(np.float32)
    np.testing.assert_array_equal((high + low).astype(dtype).view(np.uint16), w.view(np.uint16))
    assert np.count_nonzero(low) > 150000


@pytest.mark.parametrize(
    "options", [{}, {"stochastic_rounding": True}, {"kahan": True}, {"master_weights": True}]
)
@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)])
def test_averages_are_of_what_is_stored(options, dtype):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(300).astype(dtype)
    opt = rl.SGD(w, lr=0.01, ema=0.0, **options)
    opt.step(rng.standard_normal(300).astype(dtype))
    stored = w.astype(np.float32)
    if "kahan" in options:
        stored += opt.state["compensation"].view(dtype).astype(np.float32)
    if "master_weights" in options:
        stored = opt.state["master"]
    # The sum of both parts in memory lacks what rounding the second one lost.
    np.testing.assert_allclose(opt.ema, stored, atol=2.0**-16 if "kahan" in options else 0, rtol=0)


# ---- dtypes of gradients


FLOATS = [np.dtype(np.float32), np.dtype(np.float64), BF16, np.dtype(np.float16)]


@pytest.mark.parametrize(("own", "other"), list(itertools.product(FLOATS, FLOATS)), ids=str)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_gradients_of_any_float_dtype(kind, own, other):
    """The step is that of the gradient in the compute type."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((70, 90)).astype(own)
    g = rng.standard_normal((70, 90)).astype(other)
    compute = np.float64 if own == np.float64 else np.float32

    def run(grads, options):
        w = {"a": start.copy(), "b": start[:3].copy()}
        opt = made(kind, w, lr=0.05, **options)
        for _ in range(2):
            opt.step({"a": grads, "b": grads[:3]})
        return bits(w["a"]), bits(w["b"])

    for options in (
        {},
        {"clip": rl.Value(0.5), "penalty": rl.LogSum(1e-2, 1.0)},
        {"accumulation_steps": 2},
    ):
        expected = run(g.astype(compute), options)
        assert run(np.asfortranarray(g), options) == expected

        def same(options=options, expected=expected):
            assert run(g, options) == expected

        every_setting(same, threads=(1, 2))


def test_norms_of_gradients_of_another_dtype_are_their_own():
    w, g = np.zeros(2, np.float32), np.array([3e200, 4e200])
    report = rl.SGD(w, lr=1.0, clip=rl.GlobalNorm(1.0)).step(g)
    assert report.norm == pytest.approx(5e200)
    np.testing.assert_allclose(w, [-0.6, -0.8], rtol=1e-7)


def test_gradients_of_another_dtype_in_torch():
    torch = pytest.importorskip("torch")
    w = torch.ones(5)
    rl.SGD(w, lr=0.5).step(torch.ones(5, dtype=torch.bfloat16))
    assert torch.equal(w, torch.full((5,), 0.5))
    with pytest.raises(TypeError, match=r"^grads: got dtype int64|^grads: got dtype torch.int64"):
        rl.SGD(w, lr=0.5).step(torch.ones(5, dtype=torch.int64))


# ---- steps without gradients


@pytest.mark.parametrize("clip", [None, rl.GlobalNorm(1.0), rl.Norm(1.0), rl.Value(1.0)])
@pytest.mark.parametrize("every", [1, 2])
def test_a_step_without_gradients_is_none(clip, every):
    w = {"a": np.ones(2), "b": np.ones(3)}
    seen = []
    opt = rl.Adam(
        w, lr=lambda step: seen.append(step) or 0.1, clip=clip, ema=0.5, accumulation_steps=every
    )
    for _ in range(every):
        report = opt.step({"a": None, "b": None})
    assert not report.updated
    assert not report.skipped
    assert report.step == opt.steps == 0
    assert report.norm == (0.0 if isinstance(clip, rl.GlobalNorm | rl.Norm) else None)
    assert np.all(w["a"] == 1)
    for _ in range(every):
        report = opt.step({"a": np.ones(2), "b": None})
    assert report.updated
    assert report.step == 1
    assert set(seen) == {0}  # the schedule has not moved


def test_torch_parameters_without_gradients():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(2, 2)
    opt = rl.AdamW(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    assert not opt.step().updated
    assert torch.equal(layer.weight, before)
    with pytest.raises(TypeError, match=r"wants gradients: params is not a torch tensor"):
        rl.AdamW(np.ones(2)).step()


# ---- errors in the call that ends an accumulation


class Broken:
    """A communicator that fails, or returns nonsense, as often as told."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def allgather(self, value):
        answer = self.answers.pop(0) if self.answers else [value]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("bad", ["comm", "nonsense", "nonfinite", "argument", "lr"])
def test_an_error_in_the_last_call_keeps_the_sums(bad):
    w = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    options = {"clip": rl.GlobalNorm(100.0)}
    if bad == "comm":
        options["comm"] = Broken(RuntimeError("lost"))
    elif bad == "nonsense":
        options["comm"] = Broken("words")
    elif bad == "nonfinite":
        options["on_nonfinite"] = "raise"
    opt = rl.SGD(w, lr=1.0, accumulation_steps=2, **options)
    opt.step({"a": np.array([1, 2], "f4"), "b": None})
    last = {"a": np.array([3, 4], "f4"), "b": np.ones(3, "f4")}
    wrong, lr = last, None
    if bad == "nonfinite":
        wrong = {**last, "a": np.array([np.nan, 1], "f4")}
    elif bad == "argument":
        wrong = {**last, "b": np.ones(4, "f4")}
    elif bad == "lr":
        lr = -1.0
    before = opt.state_dict()
    with pytest.raises((RuntimeError, ValueError, TypeError, rl.NonFiniteError)):
        opt.step(wrong, lr)
    after = opt.state_dict()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    report = opt.step(last)
    assert report.updated
    np.testing.assert_array_equal(w["a"], [-2, -3])
    np.testing.assert_array_equal(w["b"], -0.5)


# ---- interrupts


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("every", [1, 3])
def test_an_interrupt_comes_before_or_after_a_step(every):
    """Weights that count steps, and the counter of steps, agree wherever Ctrl-C hits."""
    program = textwrap.dedent(
        f"""
        import signal, sys
        import numpy as np
        import ridgeline as rl

        every = {every}
        n = 1_000_000
        w = np.zeros(n, np.float32)
        g = np.full(n, -1.0, np.float32)
        opt = rl.SGD(w, lr=1.0, accumulation_steps=every, ema=0.5)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for attempt in range(25):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.003 + 0.0007 * attempt)
                while True:
                    opt.step(g)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert np.all(w == opt.steps), (w[0], opt.steps)
            state = opt.state_dict()
            if every > 1:
                sums = state["accumulated/param"][0] if state["has_accumulated"][0] else 0
                assert sums == -state["micro_step"], state
        print("steps", opt.steps)
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.split()[1]) > 2


# ---- states of two bytes in a rule without states


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
@pytest.mark.parametrize(
    "options", [{}, {"penalty": rl.L1(0.1), "prox": "plain"}, {"weight_decay": 0.1}, {"ema": 0.5}]
)
def test_small_states_of_a_rule_that_has_none(state_dtype, options):
    for n in (1, 4, 1000):
        expected = np.ones(n, np.float32)
        rl.SGD(expected, lr=0.1, **options).step(np.ones(n, np.float32))

        def same(n=n, expected=expected):
            w = np.ones(n, np.float32)
            rl.SGD(w, lr=0.1, state_dtype=state_dtype, **options).step(np.ones(n, np.float32))
            assert bits(w) == bits(expected)

        every_setting(same, threads=(1,))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("prox", ["plain", "preconditioned"])
@pytest.mark.parametrize(
    "penalty",
    [rl.L1(0.0), rl.LogSum(0.0, 0.3), rl.MCP(0.0, 3.0), rl.LogSum(0.0, 0.3) + rl.L2(0.0)],
    ids=str,
)
def test_a_penalty_without_strength_is_none(penalty, prox, dtype):
    rng = np.random.default_rng(0)
    start, g = (rng.standard_normal(500).astype(dtype) for _ in range(2))
    w, expected, still = start.copy(), start.copy(), start.copy()
    rl.Adam(w, lr=0.1, penalty=penalty, prox=prox).step(g)
    rl.Adam(expected, lr=0.1).step(g)
    rl.SGD(still, lr=0.0, penalty=rl.LogSum(0.5, 0.3), prox=prox).step(g)
    assert bits(w) == bits(expected)
    assert bits(still) == bits(start)


def test_parameters_are_no_gradients():
    torch = pytest.importorskip("torch")
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    opt = rl.SGD(model.parameters(), lr=0.1)
    for grads in (other.parameters(), list(other.parameters()), list(model.parameters())):
        with pytest.raises(rl.RequiresGradError, match=r"^grads: got parameters, wants gradients"):
            opt.step(grads)
        with torch.no_grad(), pytest.raises(rl.RequiresGradError, match=r"^grads"):
            opt.step(list(other.parameters()))
    assert opt.steps == 0
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    model(torch.ones(1, 2)).sum().backward()
    opt.step([p.grad for p in model.parameters()])
    opt.step(p.grad for p in model.parameters())
    assert opt.steps == 2


def test_a_gradient_of_a_wider_dtype_may_reach_into_a_parameter():
    """Where the gradients of the step before, at the same address, did not."""
    memory = np.zeros(200, np.float32)
    w, g = memory[100:], memory[:100]
    opt = rl.SGD(w, lr=0.5)
    g[:] = 1
    opt.step(g)
    with pytest.raises(ValueError, match=r"^(params|grads).*overlaps"):
        opt.step(memory.view(np.float64))
    np.testing.assert_array_equal(w, -0.5)
    assert opt.steps == 1
