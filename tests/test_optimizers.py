"""Optimizer steps against float64 oracles, PyTorch, optax and Keras, and bit for bit against
themselves."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import os
import threading
import warnings

import numpy as np
import pytest
from helpers import (
    DTYPES,
    LAYOUTS,
    assert_ulp,
    bits,
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
from test_clipping import Ranks

import ridgeline as rl
from ridgeline import reference
from ridgeline.reference import optimizers as ref

NAN, INF = np.nan, np.inf
EPS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}

#: what: the class, its learning rate and options; every state each of them keeps
VARIANTS = {
    "SGD": ("SGD", {"lr": 0.05}, []),
    "SGD momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}, ["momentum_buffer"]),
    "SGD dampening": (
        "SGD",
        {"lr": 0.05, "momentum": 0.8, "dampening": 0.3},
        ["momentum_buffer"],
    ),
    "SGD nesterov": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        ["momentum_buffer"],
    ),
    "Adam": ("Adam", {"lr": 0.02}, ["exp_avg", "exp_avg_sq"]),
    "AMSGrad": (
        "Adam",
        {"lr": 0.02, "betas": (0.8, 0.95), "amsgrad": True},
        ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    ),
    "AdamW": ("AdamW", {"lr": 0.02}, ["exp_avg", "exp_avg_sq"]),
    "NAdam": ("NAdam", {"lr": 0.02}, ["exp_avg", "exp_avg_sq"]),
    "RMSprop": ("RMSprop", {"lr": 0.01}, ["square_avg"]),
    "RMSprop momentum": (
        "RMSprop",
        {"lr": 0.01, "momentum": 0.7},
        ["square_avg", "momentum_buffer"],
    ),
    "RMSprop centered": ("RMSprop", {"lr": 0.01, "centered": True}, ["square_avg", "grad_avg"]),
    "RMSprop both": (
        "RMSprop",
        {"lr": 0.01, "centered": True, "momentum": 0.7, "alpha": 0.9},
        ["square_avg", "momentum_buffer", "grad_avg"],
    ),
    "Adagrad": ("Adagrad", {"lr": 0.1}, ["sum"]),
    "Adagrad slower": (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5},
        ["sum"],
    ),
    "Lion": ("Lion", {"lr": 0.01}, ["exp_avg"]),
    "AdEMAMix": (
        "AdEMAMix",
        {"lr": 0.02, "betas": (0.8, 0.99, 0.9), "alpha_warmup": 2, "beta3_warmup": 3},
        ["exp_avg_fast", "exp_avg_slow", "exp_avg_sq"],
    ),
    "FTRL": ("FTRL", {"lr": 0.1, "l1": 0.05, "l2": 0.1}, ["z", "n"]),
}
variants = pytest.mark.parametrize("variant", VARIANTS)
EVERY = ["SGD", "SGD momentum", "Adam", "AdamW", "NAdam", "RMSprop both", "Adagrad", "Lion"]
EVERY += ["AdEMAMix", "FTRL"]
every_optimizer = pytest.mark.parametrize("variant", EVERY)


def ours(variant, params, **options):
    name, numbers, _ = VARIANTS[variant]
    return getattr(rl, name)(params, **{**numbers, **options})


def translated(value):
    """The object of the oracles that one of ridgeline stands for."""
    if isinstance(value, rl.penalties.Sum):
        return reference.Sum(tuple(translated(member) for member in value.members))
    for kinds in (reference, ref):
        if dataclasses.is_dataclass(value) and hasattr(kinds, type(value).__name__):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            return getattr(kinds, type(value).__name__)(**fields)
    if isinstance(value, rl.Mask):
        return value.to_array()
    if isinstance(value, rl.MaskSet):
        keys = list(value) if hasattr(value, "keys") else None
        return {k: translated(value[k]) for k in keys} if keys else [translated(m) for m in value]
    return value


def oracle(variant, params, **options):
    name, numbers, _ = VARIANTS[variant]
    options = {key: translated(value) for key, value in options.items()}
    return getattr(ref, name)(params, **{**numbers, **options})


def gradients(shapes, dtype, steps, seed=0):
    """Gradients for every step: correlated, as those of training are."""
    rng = np.random.default_rng(seed)
    mean = [rng.standard_normal(shape) * 0.3 for shape in shapes]
    return [
        [np.asarray(m + rng.standard_normal(m.shape), dtype) for m in mean] for _ in range(steps)
    ]


def weights(shapes, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


# ---- the oracles, against the libraries


def torch_steps(kind, options, w, grads):
    """The parameter after each step of a torch optimizer."""
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.from_numpy(w.copy()))
    default = torch.get_default_dtype()
    torch.set_default_dtype(p.dtype)  # NAdam keeps a product in it
    try:
        opt = getattr(torch.optim, kind)([p], **options)
        for step, g in enumerate(grads):
            opt.param_groups[0]["lr"] = learning_rate(step)
            p.grad = torch.from_numpy(g.copy())
            opt.step()
            yield p.detach().numpy().copy()
    finally:
        torch.set_default_dtype(default)


def optax_steps(make, w, grads):
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        rates = jax.numpy.asarray([learning_rate(step) for step in range(len(grads))], w.dtype)
        transform = make(optax, lambda count: rates[count])
        p = jax.numpy.asarray(w)
        state = transform.init(p)
        for g in grads:
            updates, state = transform.update(jax.numpy.asarray(g), state, p)
            p = optax.apply_updates(p, updates)
            assert p.dtype == w.dtype
            yield np.asarray(p)


def keras_steps(make, w, grads):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    opt = make(keras.optimizers, learning_rate(0))
    v = keras.Variable(w.copy(), dtype=str(w.dtype))
    for step, g in enumerate(grads):
        opt.learning_rate = learning_rate(step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            opt.apply([keras.ops.convert_to_tensor(g)], [v])
        value = v.value.detach() if hasattr(v.value, "detach") else v.value
        yield np.asarray(value).copy()


def learning_rate(step):
    """Changes from the tenth step on; Keras keeps it in float32."""
    return 2.0**-5 if step < 10 else 2.0 ** -(4 + step % 3)


#: torch's class and options -> ours, where they differ
TORCH = {
    "SGD": ("SGD", {}, {}),
    "SGD momentum": ("SGD", {"momentum": 0.9}, {}),
    "SGD dampening": ("SGD", {"momentum": 0.8, "dampening": 0.3}, {}),
    "SGD nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, {}),
    "SGD L2": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, {"penalty": rl.L2(0.1)}),
    "Adam": ("Adam", {}, {}),
    "Adam betas": ("Adam", {"betas": (0.7, 0.9), "eps": 1e-3}, {}),
    "Adam L2": ("Adam", {"weight_decay": 0.1}, {"penalty": rl.L2(0.1)}),
    "AMSGrad": ("Adam", {"amsgrad": True, "betas": (0.9, 0.8)}, {}),
    "AdamW": ("AdamW", {}, {}),
    "AdamW amsgrad": ("AdamW", {"amsgrad": True, "weight_decay": 0.3, "betas": (0.9, 0.8)}, {}),
    "NAdam": ("NAdam", {}, {}),
    "NAdam decay": (
        "NAdam",
        {"momentum_decay": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"weight_decay": 0.1, "decay": "decoupled"},
    ),
    "NAdam coupled": ("NAdam", {"weight_decay": 0.1}, {}),
    "SGD decay": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, {}),
    "Adam decay": ("Adam", {"weight_decay": 0.1}, {}),
    "RMSprop decay": ("RMSprop", {"weight_decay": 0.1}, {}),
    "RMSprop": ("RMSprop", {}, {}),
    "RMSprop momentum": ("RMSprop", {"momentum": 0.7, "alpha": 0.9}, {}),
    "RMSprop centered": ("RMSprop", {"centered": True}, {}),
    "RMSprop both": ("RMSprop", {"centered": True, "momentum": 0.7, "alpha": 0.9}, {}),
    "RMSprop L2": ("RMSprop", {"weight_decay": 0.1}, {"penalty": rl.L2(0.1)}),
    "Adagrad": ("Adagrad", {}, {}),
    "Adagrad decay": ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}, {}),
    "Adagrad L2": ("Adagrad", {"weight_decay": 0.1}, {"penalty": rl.L2(0.1)}),
}
OPTAX = {
    "SGD": ("SGD", {}, lambda o, lr: o.sgd(lr)),
    "SGD momentum": ("SGD", {"momentum": 0.9}, lambda o, lr: o.sgd(lr, 0.9)),
    "SGD nesterov": (
        "SGD",
        {"momentum": 0.9, "nesterov": True},
        lambda o, lr: o.sgd(lr, 0.9, nesterov=True),
    ),
    "Adam": ("Adam", {}, lambda o, lr: o.adam(lr)),
    "AMSGrad": (
        "Adam",
        {"amsgrad": True, "betas": (0.9, 0.8)},
        lambda o, lr: o.amsgrad(lr, 0.9, 0.8),
    ),
    "AdamW": ("AdamW", {}, lambda o, lr: o.adamw(lr)),
    "AdamW decay": ("AdamW", {"weight_decay": 0.3}, lambda o, lr: o.adamw(lr, weight_decay=0.3)),
    "NAdam": ("NAdam", {}, lambda o, lr: o.nadam(lr)),
    "RMSprop": ("RMSprop", {}, lambda o, lr: o.rmsprop(lr)),
    "RMSprop momentum": ("RMSprop", {"momentum": 0.7}, lambda o, lr: o.rmsprop(lr, momentum=0.7)),
    "RMSprop eps": ("RMSprop", {"eps": 0.1}, lambda o, lr: o.rmsprop(lr, eps=0.1)),
    "RMSprop centered": (
        "RMSprop",
        {"centered": True, "eps": 1e-2},
        lambda o, lr: o.rmsprop(lr, centered=True, eps=1e-2),
    ),
    "RMSprop both": (
        "RMSprop",
        {"centered": True, "momentum": 0.7},
        lambda o, lr: o.rmsprop(lr, centered=True, momentum=0.7),
    ),
    "Adagrad": ("Adagrad", {}, lambda o, lr: o.adagrad(lr)),
    "Adagrad from 0": (
        "Adagrad",
        {"initial_accumulator_value": 0.0, "eps": 0.1},
        lambda o, lr: o.adagrad(lr, 0.0, 0.1),
    ),
    "Lion": ("Lion", {}, lambda o, lr: o.lion(lr)),
}
KERAS = {
    "SGD": ("SGD", {}, lambda k, lr: k.SGD(lr)),
    "SGD momentum": ("SGD", {"momentum": 0.9}, lambda k, lr: k.SGD(lr, 0.9)),
    "SGD nesterov": (
        "SGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.125},
        lambda k, lr: k.SGD(lr, 0.9, nesterov=True, weight_decay=0.125),
    ),
    "Adam": ("Adam", {}, lambda k, lr: k.Adam(lr)),
    "Adam eps": ("Adam", {"eps": 0.01}, lambda k, lr: k.Adam(lr, epsilon=0.01)),
    "AMSGrad": (
        "Adam",
        {"amsgrad": True, "betas": (0.9, 0.8)},
        lambda k, lr: k.Adam(lr, 0.9, 0.8, amsgrad=True),
    ),
    "AdamW": ("AdamW", {}, lambda k, lr: k.AdamW(lr)),
    "AdamW decay": ("AdamW", {"weight_decay": 0.25}, lambda k, lr: k.AdamW(lr, weight_decay=0.25)),
    "NAdam": ("NAdam", {}, lambda k, lr: k.Nadam(lr)),
    "NAdam eps": ("NAdam", {"eps": 0.01}, lambda k, lr: k.Nadam(lr, epsilon=0.01)),
    "RMSprop": ("RMSprop", {}, lambda k, lr: k.RMSprop(lr)),
    "RMSprop eps": ("RMSprop", {"eps": 0.1}, lambda k, lr: k.RMSprop(lr, epsilon=0.1)),
    "RMSprop momentum": ("RMSprop", {"momentum": 0.7}, lambda k, lr: k.RMSprop(lr, momentum=0.7)),
    "RMSprop both": (
        "RMSprop",
        {"centered": True, "momentum": 0.7, "alpha": 0.8},
        lambda k, lr: k.RMSprop(lr, 0.8, 0.7, centered=True),
    ),
    "Adagrad": ("Adagrad", {}, lambda k, lr: k.Adagrad(lr)),
    "Adagrad eps": (
        "Adagrad",
        {"eps": 0.1, "initial_accumulator_value": 0.3},
        lambda k, lr: k.Adagrad(lr, 0.3, 0.1),
    ),
    "Lion": ("Lion", {}, lambda k, lr: k.Lion(lr, 0.9, 0.99)),
    "FTRL": ("FTRL", {}, lambda k, lr: k.Ftrl(lr)),
    "FTRL numbers": (
        "FTRL",
        {"l1": 0.25, "l2": 0.125, "beta": 0.75, "initial_accumulator_value": 0.5},
        lambda k, lr: k.Ftrl(
            lr,
            l1_regularization_strength=0.25,
            l2_regularization_strength=0.125,
            beta=0.75,
            initial_accumulator_value=0.5,
        ),
    ),
}
PEERS = {
    **{("torch", case): TORCH[case] for case in TORCH},
    **{("optax", case): OPTAX[case] for case in OPTAX},
    **{("keras", case): KERAS[case] for case in KERAS},
}
peers = pytest.mark.parametrize(
    ("convention", "case"), [pytest.param(*key, id=" ".join(key)) for key in PEERS]
)


def peer(convention, case, w, grads, **more):
    """A class, its options, and the parameter after each step of the library of the convention."""
    kind, options, rest = PEERS[convention, case]
    if convention == "torch":
        theirs = torch_steps(kind, {**options, **more}, w, grads)
        options = {k: v for k, v in options.items() if k != "decoupled_weight_decay"}
        if rest:
            options = {**{k: v for k, v in options.items() if k != "weight_decay"}, **rest}
    elif convention == "optax":
        theirs = optax_steps(rest, w, grads)
    else:
        theirs = keras_steps(rest, w, grads)
    return kind, {"lr": learning_rate, "convention": convention, **options}, theirs


#: Keras rounds their numbers to float32
KERAS_ROUNDS = ["AdamW", "NAdam", "NAdam eps"]


def data_of_peers(dtype, n=200, steps=20):
    """Weights and gradients: zeros, and some as small as every eps, among them."""
    w = weights([n], dtype)[0]
    grads = [g for (g,) in gradients([n], dtype, steps)]
    for g in grads:
        g[:5] = 0.0
        g[5:15] *= 1e-8
        g[15:25] *= 1e-7
        g[25:35] *= 1e-4
    return w, grads


@peers
def test_the_oracle_does_what_the_library_does(convention, case):
    w, grads = data_of_peers(np.float64)
    kind, options, theirs = peer(convention, case, w, grads)
    options = {key: translated(value) for key, value in options.items()}
    opt = getattr(ref, kind)(w, **options)
    rounded = convention == "keras" and case in KERAS_ROUNDS
    for step, expected in enumerate(theirs):
        opt.step(grads[step])
        np.testing.assert_allclose(
            w,
            expected,
            rtol=1e-6 if rounded else 1e-11,
            atol=1e-7 if rounded else 1e-13,
            err_msg=f"step {step}",
        )
    assert step == 19


# ---- against the libraries


@peers
def test_conventions(convention, case):
    w, grads = data_of_peers(np.float64)
    kind, options, theirs = peer(convention, case, w, grads)
    opt = getattr(rl, kind)(w, **options)
    rounded = convention == "keras" and case in KERAS_ROUNDS
    for step, expected in enumerate(theirs):
        report = opt.step(grads[step])
        assert report.step == step + 1
        np.testing.assert_allclose(
            w,
            expected,
            rtol=1e-6 if rounded else 1e-11,
            atol=1e-7 if rounded else 1e-13,
            err_msg=f"step {step}",
        )
    assert step == 19


FUSED = ("SGD", "Adam", "AdamW", "Adagrad")


@pytest.mark.parametrize("fused", [False, True], ids=["for-loop", "fused"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", TORCH)
def test_two_ulp_per_step(case, dtype, fused):
    """Of the largest magnitude that has taken part in an element so far."""
    if fused and TORCH[case][0] not in FUSED:
        pytest.skip("torch has no fused one")
    w, grads = data_of_peers(dtype, 2000)
    more = {"fused": True} if fused else {"foreach": False}
    kind, options, theirs = peer("torch", case, w, grads, **more)
    opt = getattr(rl, kind)(w, **options)
    before, scale = w.copy(), np.zeros(w.shape)
    for step, expected in enumerate(theirs):
        opt.step(grads[step])
        moved = np.abs(w.astype(np.float64) - before)
        scale = np.maximum(scale, np.maximum(np.abs(before), np.abs(w)) + moved)
        bound = 2 * (step + 1) * np.finfo(dtype).eps * scale
        error = np.abs(w.astype(np.float64) - expected)
        assert np.all(error <= bound), f"step {step}: {np.max(error / bound)} of the bound"
        if case in ("SGD", "SGD momentum"):  # torch rounds as often, and the rate is a power of 2
            assert bits(w) == bits(expected)
        before = w.copy()
    assert step == 19


# ---- against the oracles


def states(opt):
    """name -> path -> array, of the moments and what else there is for each parameter."""
    found = {}
    for key, value in opt.state_dict().items():
        name, _, path = key.partition("/")
        if path:
            found.setdefault(name, {})[path] = value
    return found


def synchronized(variant, opt, params, **options):
    """An oracle in float64 with the parameters and the state of an optimizer, and its steps."""
    exact = [p.astype(np.float64) for p in params]
    it = oracle(variant, exact, **options)
    found = states(opt)
    for i, path in enumerate(it.names):
        for name in VARIANTS[variant][2]:
            assert found[name][path].shape == params[i].shape
            it.state[i][name] = found[name][path].astype(np.float64)
        if it.ema is not None:
            it.ema[i] = found["ema"][path].astype(np.float64)
    it.counts, it.steps = [opt.steps] * len(params), opt.steps
    return it


def close(actual, expected, others, dtype, ulp, *magnitudes):
    """Check within so many roundings of the magnitudes; beside a jump, either side of it.

    ``others`` are the oracle's answers for numbers that are a little different.
    """
    scale = np.abs(expected)
    for magnitude in magnitudes:
        scale = scale + np.abs(magnitude)
    for other in others:
        jump = np.abs(other - expected) > 1e-4 * scale
        assert np.sum(jump) <= 2  # few, or the data is no test
        nearer = np.abs(other - actual) < np.abs(expected - actual)
        expected = np.where(jump & nearer, other, expected)
    assert_ulp(actual, expected, dtype, ulp, scale)


def same_number(got, expected, tolerance):
    assert type(got) is type(expected)
    assert got == (expected if expected is None else pytest.approx(expected, rel=tolerance))


def agree(variant, dtype, steps=4, shapes=((40, 30), (), (0,), (257,)), ulp=6, lr=None, **options):
    """Check every step from the state that the optimizer is in."""
    params = weights(shapes, dtype)
    opt = ours(variant, params, **options)
    compute = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    for grads in gradients(shapes, dtype, steps):
        its = [synchronized(variant, opt, params, **options) for _ in range(3)]
        before, old_states = copied(params), states(opt)
        with unchanged(grads):
            report = opt.step(grads, lr)
        reports = []
        for it, slightly in zip(its, (1.0, 1 - 4e-6, 1 + 4e-6), strict=True):
            rate = (VARIANTS[variant][1]["lr"] if lr is None else lr) * slightly
            exact_grads = [np.asarray(g.astype(np.float64) * slightly) for g in grads]
            reports.append(it.step(exact_grads, rate))
        assert (report.updated, report.skipped, report.step) == (True, False, its[0].steps)
        # The sum with the penalty's gradient is rounded before its norm is taken.
        summed = options.get("clip_after_penalty") and compute == np.float32
        for name, tolerance in (("norm", 1e-6), ("penalty", 1e-12), ("scale", 1e-6)):
            tolerance = tolerance if summed else 1e-12
            same_number(getattr(report, name), getattr(reports[0], name), tolerance)
        found = states(opt)
        for i, path in enumerate(its[0].names):
            exact = its[0].arrays[i]
            moved = np.max(np.abs(exact - before[i].astype(np.float64)), initial=0.0)
            others = [it.arrays[i] for it in its[1:]]
            old = before[i].astype(np.float64)
            close(params[i], exact, others, dtype, ulp, old, moved)
            for name in VARIANTS[variant][2]:
                new = its[0].state[i][name]
                largest = np.max(np.abs(new), initial=0.0)
                old = old_states[name][path].astype(np.float64)
                assert_ulp(found[name][path], new, compute, ulp, np.abs(old) + largest)
            if "ema" in found:
                expected, others = its[0].ema[i], [it.ema[i] for it in its[1:]]
                if is_half(dtype):  # the average is of what was stored
                    mean = old_states["ema"][path].astype(np.float64)
                    expected = mean + (1 - options["ema"]) * (params[i].astype(np.float64) - mean)
                    others = []
                close(found["ema"][path], expected, others, compute, ulp, old, moved)
    return params, opt


@dtypes
@variants
def test_matches_the_oracle(variant, dtype):
    params, opt = agree(variant, dtype)
    assert opt.steps == 4
    assert not np.array_equal(params[0], weights([(40, 30)], dtype)[0])
    assert set(states(opt)) == set(VARIANTS[variant][2])


@pytest.mark.parametrize("convention", ["keras", "optax"])
@variants
def test_conventions_in_float32(variant, convention):
    if "dampening" in variant or "slower" in variant or (variant, convention) == ("FTRL", "optax"):
        pytest.skip("torch's alone")
    agree(variant, np.dtype(np.float32), convention=convention)


PENALTIES = {
    "L1": rl.L1(0.3),
    "L2": rl.L2(0.5),
    "ElasticNet": rl.ElasticNet(0.3, 0.5),
    "MCP": rl.MCP(0.4, gamma=2.5),
    "SCAD": rl.SCAD(0.2, gamma=3.0),
    "LogSum": rl.LogSum(0.2, eps=0.3),
    "LogSum narrow": rl.LogSum(0.1, eps=0.01),
    "L0": rl.L0(0.2),
    "LHalf": rl.LHalf(0.2),
    "Huber": rl.Huber(0.8, delta=0.4),
    "CappedL1": rl.CappedL1(0.4, threshold=0.5),
    "CappedL1 low": rl.CappedL1(0.4, threshold=0.02),
    "MCP + L2": rl.MCP(0.4, gamma=2.5) + rl.L2(0.7),
    "L0 + L2": rl.L0(0.2) + rl.L2(0.7),
    "Huber + L2": rl.Huber(0.8, delta=0.4) + rl.L2(0.7),
    "Sum of three": rl.L1(0.1) + rl.Huber(0.5, 1.0) + rl.L2(0.1),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES)
SOME = ["SGD", "SGD nesterov", "AdamW", "NAdam", "RMSprop momentum", "Adagrad", "Lion"]
ADAPTIVE = ["Adam", "AMSGrad", "NAdam", "RMSprop", "RMSprop both", "Adagrad slower"]
HAS_GRADIENT = [name for name in PENALTIES if "L0" not in name]
HAS_PROX = [name for name in PENALTIES if name != "Sum of three"]


@pytest.mark.parametrize("penalty", HAS_PROX)
def test_the_oracle_finds_the_global_minimiser(penalty):
    """Against a search; against the closed forms where the step is short."""
    exact = translated(PENALTIES[penalty])
    rng = np.random.default_rng(2)
    x = rng.uniform(-6, 6, 3000)
    t = np.exp(rng.uniform(np.log(0.01), np.log(50.0), x.size))
    y = ref.prox(exact, x, t)
    least = np.full(x.shape, INF)
    for point in np.linspace(-6.5, 6.5, 2601):
        least = np.minimum(least, cost_of(exact, np.full(x.shape, point), x, t))
    assert np.all(cost_of(exact, y, x, t) <= least + 1e-9 * (1 + np.abs(least)))
    for step in (0.1, 0.9):
        np.testing.assert_allclose(
            ref.prox(exact, x, step), exact.prox(x, step), rtol=1e-12, atol=1e-14
        )


def cost_of(penalty, y, x, t):
    terms = sum(m._terms(y) for m in (getattr(penalty, "members", None) or (penalty,)))
    return (y - x) ** 2 / 2 + t * terms


@pytest.mark.parametrize("penalty", HAS_GRADIENT)
def test_gradient_of_the_penalty(penalty):
    for dtype in DTYPES:
        # in few digits g + dP/dw is often 0, where the first step of Adam and the like jumps
        for variant in ("SGD momentum", "AdamW", "RMSprop")[: 1 if is_half(dtype) else 3]:
            agree(variant, dtype, 3, penalty=PENALTIES[penalty], ulp=10)


@pytest.mark.parametrize("penalty", HAS_PROX)
def test_plain_prox(penalty):
    for dtype in DTYPES:
        for variant in SOME:
            lr = {"Lion": 0.3, "SGD": 0.3}.get(variant)
            agree(
                variant,
                dtype,
                2,
                ((500,),),
                penalty=PENALTIES[penalty],
                prox="plain",
                ulp=16,
                lr=lr,
            )


@pytest.mark.parametrize("penalty", HAS_PROX)
def test_preconditioned_prox(penalty):
    for dtype in DTYPES:
        for variant in ADAPTIVE:
            agree(
                variant, dtype, 2, ((700,),), penalty=PENALTIES[penalty], prox="preconditioned",
                ulp=24, lr=0.5 if variant == "Adam" else None,
            )  # fmt: skip


@pytest.mark.parametrize("convention", ["keras", "optax"])
@pytest.mark.parametrize("variant", ADAPTIVE[:-1])
def test_preconditioned_prox_of_conventions(variant, convention):
    """The step of an element is that of its update, corrected for the bias of v."""
    for penalty in (rl.L1(0.05), rl.MCP(0.05, gamma=2.5)):
        options = {"penalty": penalty, "prox": "preconditioned", "convention": convention}
        agree(variant, np.dtype(np.float64), 3, ((300,),), ulp=24, **options)


@pytest.mark.parametrize("penalty", [rl.L1(0.3), rl.L2(0.3), rl.MCP(0.4, gamma=2.5)])
@pytest.mark.parametrize("prox", ["plain", "preconditioned"])
def test_prox_with_a_learning_rate_that_decays(prox, penalty):
    """Plain is the prox of lr times the penalty, whatever the optimizer makes of lr."""
    agree("Adagrad slower", np.dtype(np.float64), 4, ((300,),), ulp=24, penalty=penalty, prox=prox)


@pytest.mark.parametrize("variant", ["SGD", "SGD nesterov", "Lion"])
def test_preconditioned_is_plain_without_a_denominator(variant):
    for penalty in (rl.MCP(0.4, gamma=2.5), rl.ElasticNet(0.3, 0.2)):
        results = []
        for prox in ("plain", "preconditioned"):
            params = weights([(300,), (5, 4)], np.float64)
            opt = ours(variant, params, penalty=penalty, prox=prox)
            for grads in gradients([(300,), (5, 4)], np.float64, 3):
                opt.step(grads)
            results.append(np.concatenate([p.ravel() for p in params]))
        np.testing.assert_allclose(*results, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "penalty", [rl.MCP(0.5, gamma=1.5), rl.SCAD(0.5, gamma=2.1), rl.MCP(0.5, 1.5) + rl.L2(0.01)]
)
def test_steps_too_long_for_the_formula_take_the_global_minimiser(penalty):
    """Against a search: every element's own step, from a tenth to a hundred times gamma."""
    w = np.linspace(-12, 12, 4001)
    rate = np.exp(np.random.default_rng(1).uniform(np.log(0.1), np.log(100.0), w.size))
    # Adagrad's denominator is |g| in the first step, which is g's only part in the prox
    g, lr = 1e-3 / rate, 1e-3
    before = w.copy()
    rl.Adagrad(w, lr=lr, eps=0.0, penalty=penalty, prox="preconditioned").step(g)
    x, t = before - lr, lr / g
    assert np.count_nonzero(t > 2) > 1000
    exact = translated(penalty)
    least = np.full(x.shape, INF)
    for y in np.linspace(-13, 13, 5201):
        least = np.minimum(least, cost_of(exact, np.full(x.shape, y), x, t))
    assert np.all(cost_of(exact, w, x, t) <= least + 1e-9 * (1 + np.abs(least)))
    np.testing.assert_allclose(w, ref.prox(exact, x, t), rtol=1e-9, atol=1e-12)


def test_plain_steps_too_long_are_an_error():
    w = np.ones(3)
    for penalty in (rl.MCP(1.0, gamma=2.0), rl.SCAD(1.0, gamma=3.0)):
        opt = rl.SGD(w, lr=1.0, penalty=penalty, prox="plain")
        opt.step(np.zeros(3))
        before = bits([w, opt.state_dict()])
        for lr in (2.0, 3.0):
            with pytest.raises(ValueError, match=r"(step|lr): got .*wants"):
                opt.step(np.zeros(3), lr=lr)
        assert bits([w, opt.state_dict()]) == before
    joined = rl.MCP(1.0, gamma=2.0) + rl.L2(1.0)  # its step is t / (1 + t)
    rl.SGD(w, lr=3.0, penalty=joined, prox="plain").step(np.zeros(3))


@dtypes
def test_adaptive_lasso(dtype):
    shapes = ((30, 7), (11,))
    a = [np.abs(x) for x in weights(shapes, dtype, 5)]
    exact = reference.L1(0.3, [x.astype(np.float64) for x in a])
    for variant, prox in [
        ("SGD momentum", None),
        ("AdamW", "plain"),
        ("Adam", "preconditioned"),
        ("RMSprop", "preconditioned"),
    ]:
        params = weights(shapes, dtype)
        opt = ours(variant, params, penalty=rl.L1(0.3, weights=a), prox=prox)
        for grads in gradients(shapes, dtype, 3):
            it = synchronized(variant, opt, params, penalty=exact, prox=prox)
            report = opt.step(grads)
            expected = it.step([g.astype(np.float64) for g in grads])
            assert report.penalty == pytest.approx(expected.penalty, rel=1e-12)
            for p, w in zip(params, it.arrays, strict=True):
                assert_ulp(p, w, dtype, 16, np.abs(w) + 1)


OPTIONS = {
    "decay": {"weight_decay": 0.3},
    "coupled decay": {"weight_decay": 0.3, "decay": "coupled"},
    "decoupled decay": {"weight_decay": 0.3, "decay": "decoupled"},
    "decay alone": {"weight_decay": 0.3, "decay": "decoupled", "lr_independent_decay": True},
    "penalty before the clip": {
        "penalty": rl.ElasticNet(0.3, 0.2),
        "clip": rl.GlobalNorm(0.5),
        "clip_after_penalty": True,
    },
    "global norm": {"clip": rl.GlobalNorm(0.5)},
    "global norm inf": {"clip": rl.GlobalNorm(0.5, ord=np.inf)},
    "global norm 1": {"clip": rl.GlobalNorm(3.0, 1)},
    "global norm, not reached": {"clip": rl.GlobalNorm(1e4)},
    "norm": {"clip": rl.Norm(0.7)},
    "norm 3": {"clip": rl.Norm(0.7, ord=3)},
    "value": {"clip": rl.Value(0.3)},
    "range": {"clip": rl.Value((-0.2, 0.9))},
    "box": {"constraint": rl.Box(-0.5, 0.75)},
    "non-negative": {"constraint": rl.NonNegative()},
    "ema": {"ema": 0.75},
    "update rms": {"max_update_rms": 0.5},
    "skip": {"on_nonfinite": "skip"},
    "raise": {"on_nonfinite": "raise"},
    "many": {
        "weight_decay": 0.1,
        "clip": rl.GlobalNorm(0.5),
        "constraint": rl.Box(-0.5, 0.75),
        "ema": 0.9,
        "penalty": rl.ElasticNet(0.1, 0.2),
        "max_update_rms": 0.25,
    },
}


def without_update_rms(variant, options):
    """FTRL has no update to scale."""
    return {k: v for k, v in options.items() if (variant, k) != ("FTRL", "max_update_rms")}


@pytest.mark.parametrize("option", OPTIONS)
@every_optimizer
def test_each_option(variant, option):
    for dtype in DTYPES:
        agree(variant, dtype, 3, ulp=10, **without_update_rms(variant, OPTIONS[option]))


def test_options_do_something():
    """The samples above reach every limit."""
    shapes = ((40, 30), (), (0,), (257,))
    grads, params = gradients(shapes, np.float32, 1)[0], weights(shapes, np.float32)
    for ord, limit in [(2, 0.5), (np.inf, 0.5), (1, 3.0)]:
        report = rl.SGD(copied(params), clip=rl.GlobalNorm(limit, ord)).step(grads)
        assert report.norm > limit
        assert report.scale == limit / report.norm
    report = rl.SGD(copied(params), clip=rl.Norm(0.7)).step(grads)
    assert report.scale[0] < 1
    for variant in EVERY[:-1]:
        free, limited = copied(params), copied(params)
        ours(variant, free).step(grads)
        ours(variant, limited, max_update_rms=0.5).step(grads)
        assert not np.array_equal(free[0], limited[0])


@st.composite
def experiments(draw):
    """Everything that takes part in the arithmetic."""
    variant = draw(st.sampled_from(list(VARIANTS)))
    alone = "dampening" in variant or "slower" in variant
    conventions = ["torch", "keras", "optax"][: 1 if alone else 2 if variant == "FTRL" else 3]
    options = {
        "convention": draw(st.sampled_from(conventions)),
        "weight_decay": draw(st.sampled_from([0.0, 0.0, 0.1, 0.7])),
        "decay": draw(st.sampled_from([None, None, "coupled", "decoupled"])),
        "clip_after_penalty": draw(st.sampled_from([None, True, False])),
        "clip": draw(
            st.sampled_from(
                [
                    None, rl.GlobalNorm(0.8), rl.GlobalNorm(1.0, ord=1), rl.GlobalNorm(1e3),
                    rl.Norm(0.6), rl.Norm(0.6, ord=np.inf), rl.Value(0.4), rl.Value((-0.1, 2.0)),
                ]
            )
        ),
        "constraint": draw(st.sampled_from([None, None, rl.Box(-0.4, 0.6), rl.NonNegative()])),
        "ema": draw(st.sampled_from([None, 0.0, 0.9])),
        "accumulation_steps": draw(st.sampled_from([1, 1, 2, 3])),
        "max_update_rms": draw(st.sampled_from([None, None, 0.3, 100.0])),
        "on_nonfinite": draw(st.sampled_from([None, "skip", "raise", "propagate"])),
    }  # fmt: skip
    options["lr"] = draw(st.sampled_from([0.003, 0.05, 0.4]))
    if variant == "FTRL":
        del options["max_update_rms"]
        name = draw(st.sampled_from([None, "L1", "L2", "ElasticNet", "MCP", "Huber"]))
        options["penalty"] = PENALTIES.get(name)
    else:
        prox = draw(st.sampled_from([None, "plain", "preconditioned"]))
        names = HAS_GRADIENT if prox is None else HAS_PROX
        name = draw(st.sampled_from([None, *names]))
        options |= {"penalty": PENALTIES.get(name), "prox": prox}
        if prox is not None and name in ("MCP", "MCP + L2", "SCAD"):
            options["lr"] = min(options["lr"], 0.05)  # with momentum 0.9, ten times as long a step
    extent = st.integers(0, 6)
    shapes = draw(st.lists(st.lists(extent, max_size=3).map(tuple), min_size=1, max_size=4))
    seed = draw(st.integers(0, 2**20))
    if draw(st.booleans()):
        rng = np.random.default_rng(seed)
        kept = [np.asarray(rng.random(shape) < 0.7) for shape in shapes]
        options["mask"] = rl.MaskSet.from_array(kept)
    frozen = draw(st.lists(st.sets(st.integers(0, 3)), min_size=6, max_size=6))
    return variant, options, shapes, seed, frozen, draw(st.sampled_from([1.0, 128.0, 0.1]))


@settings(deadline=None, max_examples=200)
@given(experiments())
def test_any_options(experiment):
    variant, options, shapes, seed, frozen, loss_scale = experiment
    params = weights(shapes, np.float64, seed)
    exact = copied(params)
    opt, it = ours(variant, params, **options), oracle(variant, exact, **options)
    frozen = [set() if options["accumulation_steps"] > 1 else some for some in frozen]
    for grads, gone in zip(gradients(shapes, np.float64, 6, seed), frozen, strict=True):
        grads = [None if i in gone else np.asarray(g * loss_scale) for i, g in enumerate(grads)]
        report = opt.step(grads, loss_scale=loss_scale)
        expected = it.step(grads, loss_scale=loss_scale)
        for name in ("updated", "skipped", "step", "first_nonfinite"):
            assert getattr(report, name) == getattr(expected, name), name
        for name in ("norm", "scale", "penalty"):
            same_number(getattr(report, name), getattr(expected, name), 1e-11)
        for p, w in zip(params, exact, strict=True):
            np.testing.assert_allclose(p, w, rtol=1e-9, atol=1e-11)
    found = states(opt)
    for i, path in enumerate(it.names):
        for name in VARIANTS[variant][2]:
            np.testing.assert_allclose(
                found[name][path], it.state[i][name], rtol=1e-9, atol=1e-11, err_msg=name
            )
        if options["ema"] is not None:
            np.testing.assert_allclose(found["ema"][path], it.ema[i], rtol=1e-9, atol=1e-11)


# ---- known answers


def steps_of(opt, w, *grads):
    values = []
    for g in grads:
        opt.step(np.array([g], w.dtype))
        values.append(w.item())
    return values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_known_answers(dtype):
    """Numbers that all dtypes hold, so that nothing is rounded."""
    w = np.array([1.0], dtype)
    assert steps_of(rl.SGD(w, lr=0.25), w, 1.0, -2.0) == [0.75, 1.25]
    w = np.array([1.0], dtype)
    opt = rl.SGD(w, lr=0.5, momentum=0.5)
    assert steps_of(opt, w, 1.0, 1.0, 0.0) == [0.5, -0.25, -0.625]
    w = np.array([1.0], dtype)
    opt = rl.SGD(w, lr=0.5, momentum=0.5, dampening=0.5)  # not in the first step
    assert steps_of(opt, w, 1.0, 1.0) == [0.5, 0.0]
    w = np.array([1.0], dtype)
    opt = rl.SGD(w, lr=0.5, momentum=0.5, nesterov=True)
    assert steps_of(opt, w, 1.0, 0.0) == [0.25, 0.125]
    w = np.array([2.0], dtype)
    assert steps_of(rl.SGD(w, lr=0.5, weight_decay=0.5), w, 1.0) == [1.0]
    w = np.array([1.0], dtype)
    assert steps_of(rl.RMSprop(w, lr=0.25, alpha=0.75, eps=0.0), w, 3.0) == [0.5]
    w = np.array([1.0], dtype)
    opt = rl.RMSprop(w, lr=0.25, alpha=0.75, eps=0.5, momentum=0.5)  # 3 / (1.5 + 0.5)
    assert steps_of(opt, w, 3.0, 0.0) == [0.625, 0.4375]
    w = np.array([1.0], dtype)
    opt = rl.Adagrad(w, lr=0.5, eps=0.0, initial_accumulator_value=7.0)
    assert steps_of(opt, w, 3.0) == [0.625]
    w = np.array([1.0], dtype)
    opt = rl.Adagrad(w, lr=0.5, eps=0.0, lr_decay=1.0)
    assert steps_of(opt, w, 3.0, 4.0) == [0.5, pytest.approx(0.3, abs=0.002)]
    w = np.array([1.0], dtype)
    opt = rl.Lion(w, lr=0.25, betas=(0.5, 0.5))  # the average is 2, 0, -4
    assert steps_of(opt, w, 4.0, -2.0, -8.0) == [0.75, 0.75, 1.0]
    w = np.array([0.0], dtype)
    opt = rl.FTRL(w, lr=0.5, beta=1.0, l1=1.0)  # n 9, 25; z -3, 1 - 2 (2/7) / 0.5
    assert steps_of(opt, w, -3.0) == [pytest.approx(2 / 8, abs=1e-3)]
    w = np.array([0.0], dtype)
    assert steps_of(rl.FTRL(w, lr=1.0, beta=1.0, l1=2.0, l2=4.0), w, -1.0, -3.0)[0] == 0
    w = np.array([1.0], dtype)
    opt = rl.AdamW(w, lr=0.25, weight_decay=1.0, eps=0.0)
    first = np.array([0.75 - 0.25]).astype(dtype).item()
    assert steps_of(opt, w, 5.0) == [pytest.approx(first, rel=1e-2 if is_half(w.dtype) else 1e-6)]


def test_ftrl_gives_exact_zeros():
    """The closed form of McMahan et al. (2013) from the sums alone."""
    rng = np.random.default_rng(0)
    w = np.zeros(2000)
    opt = rl.FTRL(w, lr=0.5, beta=1.0, l1=4.0, l2=0.5)
    z, n, old = np.zeros(2000), np.zeros(2000), np.zeros(2000)
    for _ in range(30):
        g = rng.standard_normal(2000) + 0.1
        opt.step(g)
        z += g - (np.sqrt(n + g * g) - np.sqrt(n)) / 0.5 * old
        n += g * g
        shrunk = np.sign(z) * np.maximum(np.abs(z) - 4.0, 0.0)
        old = -shrunk / ((1.0 + np.sqrt(n)) / 0.5 + 0.5)
        np.testing.assert_allclose(w, old, rtol=1e-11, atol=1e-14)
    zeros = np.count_nonzero(w == 0)
    assert 200 < zeros < 1900
    assert zeros == np.count_nonzero(np.abs(z) <= 4.0)


def test_proximal_sgd_solves_the_lasso():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((60, 100))
    truth = np.zeros(100)
    truth[[3, 30, 90]] = 2.0, -3.0, 1.5
    y = a @ truth
    step = 1 / np.linalg.norm(a, 2) ** 2
    w = np.zeros(100)
    opt = rl.SGD(w, lr=step, penalty=rl.L1(1.0), prox="plain")
    for _ in range(3000):
        opt.step(a.T @ (a @ w - y))
    gradient = a.T @ (a @ w - y)
    assert np.flatnonzero(w).tolist() == [3, 30, 90]
    np.testing.assert_allclose(gradient[[3, 30, 90]], [-1, 1, -1], rtol=1e-6)
    assert np.all(np.abs(gradient) <= 1 + 1e-6)


@variants
def test_learning_rate_0(variant):
    if variant == "FTRL":
        pytest.skip("divides by it")
    params = weights([(50,)], np.float32)
    opt = ours(variant, params, weight_decay=0.5)
    with unchanged(params):
        for grads in gradients([(50,)], np.float32, 2):
            opt.step(grads, lr=0.0)
    assert opt.steps == 2


# ---- same bits

BIT_SIZES = [*range(70), 127, 128, 129, 255, 256, 257, 4095, 4096, 4097, 2**17 + 5]
ALL_OPTIONS = {
    "weight_decay": 0.1,
    "penalty": rl.MCP(0.2, gamma=5.0) + rl.L2(0.1),
    "clip": rl.GlobalNorm(1.0),
    "constraint": rl.Box(-0.8, 1.1),
    "ema": 0.9,
    "max_update_rms": 0.3,
}


def full(variant):
    """Every option that an optimizer has."""
    prox = {"FTRL": {}, "SGD": {"prox": "plain"}, "Lion": {}}
    options = without_update_rms(variant, ALL_OPTIONS)
    return {**options, **prox.get(variant, {"prox": "preconditioned"})}


def after(variant, params, grads, **options):
    """Everything that some steps leave behind, as bits."""
    params = copied(params)
    opt = ours(variant, params, **options)
    reports = []
    for some in grads:
        report = opt.step(some)
        reports.append([report.norm, report.scale, report.penalty])
    return bits([params, opt.state_dict(), reports])


@dtypes
@variants
def test_targets_threads_sizes(variant, dtype):
    params, grads = weights(BIT_SIZES, dtype), gradients(BIT_SIZES, dtype, 2)
    rng = np.random.default_rng(3)
    mask = rl.MaskSet.from_array([rng.random(n) < 0.8 for n in BIT_SIZES])
    every_setting(lambda: after(variant, params, grads))
    every_setting(lambda: after(variant, params, grads[:1], mask=mask, **full(variant)), [3])


@layouts
@dtypes
def test_layouts(layout, dtype):
    shape = (9, 33, 50)
    params, grads = weights([shape], dtype), gradients([shape], dtype, 2)
    mask = rl.MaskSet.from_array([np.random.default_rng(3).random(shape) < 0.8])
    for variant in ("SGD", "AdamW", "RMSprop both"):
        for options in ({}, {"mask": mask, **full(variant)}):
            expected = after(variant, params, grads, **options)
            placed = [[LAYOUTS[layout](g) for g in some] for some in grads]
            laid_out = [[view for view, _ in some] for some in placed]
            assert after(variant, params, laid_out, **options) == expected
            view, intact = LAYOUTS[layout](params[0])
            opt = ours(variant, [view], **options)
            reports = [opt.step(some) for some in laid_out]
            reports = [[r.norm, r.scale, r.penalty] for r in reports]
            assert bits([[np.ascontiguousarray(view)], opt.state_dict(), reports]) == expected
            assert intact()
            assert all(g_intact() for some in placed for _, g_intact in some)


@st.composite
def two_placements(draw):
    shape, first = draw(placements())
    return shape, first, draw(placements(shape))[1]


@settings(max_examples=40, deadline=None)
@given(two_placements(), st.sampled_from(DTYPES), st.sampled_from(list(VARIANTS)))
def test_any_strides(placement, dtype, variant):
    shape, place_w, place_g = placement
    params, grads = weights([shape], dtype), gradients([shape], dtype, 2)
    expected = after(variant, params, grads, **full(variant))
    view, intact = place_w(params[0])
    opt = ours(variant, [view], **full(variant))
    reports = []
    for (g,) in grads:
        laid_out, g_intact = place_g(g)
        report = opt.step([laid_out])
        reports.append([report.norm, report.scale, report.penalty])
        assert g_intact()
    assert bits([[np.ascontiguousarray(view).reshape(shape)], opt.state_dict(), reports]) == (
        expected
    )
    assert intact()


@dtypes
@every_optimizer
def test_one_array_or_many(variant, dtype):
    """An element's bits do not depend on where its array ends or what else there is."""
    whole, grads = weights([9001], dtype), gradients([9001], dtype, 3)
    options = {"weight_decay": 0.1, "penalty": rl.L1(0.1), "ema": 0.5, "clip": rl.Value(0.5)}
    expected = copied(whole)
    together = ours(variant, expected, **options)
    cuts = [0, 0, 1, 5, 130, 4096, 4100, 9001]
    pieces = [whole[0][a:b].copy() for a, b in itertools.pairwise(cuts)]
    apart = ours(variant, pieces, **options)
    for (g,) in grads:
        together.step([g])
        apart.step([g[a:b] for a, b in itertools.pairwise(cuts)])
    assert bits(np.concatenate(pieces)) == bits(expected[0])
    for name, of_paths in states(together).items():
        assert bits(np.concatenate(list(states(apart)[name].values()))) == bits(of_paths["0"])


# ---- masks


@dtypes
@variants
def test_masked_elements_keep_every_bit(variant, dtype):
    shapes = [(33, 20), (1000,), ()]
    rng = np.random.default_rng(5)
    kept = [np.asarray(rng.random(shape) < 0.6) for shape in shapes]
    params = [
        np.where(k, w, np.zeros((), dtype))
        for k, w in zip(kept, weights(shapes, dtype), strict=True)
    ]
    params[1][~kept[1]] = 5.0  # beyond the box
    before = copied(params)
    options = {"weight_decay": 0.1, "penalty": rl.ElasticNet(0.1, 0.1), "clip": rl.Value(1.0)}
    options |= {"constraint": rl.Box(-2.0, 2.0), "ema": 0.5}
    if variant != "FTRL":
        options["prox"] = "preconditioned"
    opt = ours(variant, params, mask=rl.MaskSet.from_array(kept), **options)
    start = states(opt)
    small = [w[k] for k, w in zip(kept, before, strict=True)]
    alone = ours(variant, small, **options)
    for grads in gradients(shapes, dtype, 3):
        alone.step([np.asarray(g[k]) for k, g in zip(kept, grads, strict=True)])
        for k, g, bad in zip(kept, grads, (NAN, INF, NAN), strict=True):
            g[~k] = bad
        report = opt.step(grads)
        assert report.updated
    for i, k in enumerate(kept):
        assert bits(params[i][~k]) == bits(before[i][~k])
        assert bits(params[i][k]) == bits(small[i])
        for name, of_paths in states(opt).items():
            assert bits(of_paths[str(i)][~k]) == bits(start[name][str(i)][~k]), name
            assert bits(of_paths[str(i)][k]) == bits(states(alone)[name][str(i)]), name


def test_zeros_stay_zeros():
    w = weights([(64, 64)], np.float32)[0]
    mask = rl.prune.magnitude(w, 0.75)
    mask.apply_(w)
    opt = rl.AdamW(w, lr=0.1, mask=mask)
    for (g,) in gradients([(64, 64)], np.float32, 5):
        opt.step(g)
    assert np.count_nonzero(w) == 1024
    moved = w.copy()
    opt.set_mask(None)
    opt.step(np.ones((64, 64), np.float32))
    assert np.count_nonzero(w) == 4096
    opt.set_mask(rl.Mask.from_array(np.zeros((64, 64), bool)))
    with unchanged(w):
        opt.step(np.full((64, 64), NAN, np.float32))
    assert not np.array_equal(w, moved)


def test_norms_are_over_all_elements():
    w = np.zeros(2)
    mask = rl.Mask.from_array(np.array([True, False]))
    opt = rl.SGD(w, lr=1.0, clip=rl.GlobalNorm(1.0), mask=mask)
    assert opt.step(np.array([3.0, 4.0])).norm == 5.0
    assert w == pytest.approx([-0.6, 0.0])
    with unchanged(w):
        report = opt.step(np.array([3.0, NAN]))
    assert report.skipped


def test_masks_of_groups_and_of_dicts_in_another_order():
    w, v = {"a": np.ones(2), "b": np.ones(3)}, [np.ones(2)]
    kept = {"b": np.array([True, False, True]), "a": np.array([False, True])}
    opt = rl.SGD([{"params": w}, {"params": v}], lr=1.0)
    opt.set_mask([rl.MaskSet.from_array(kept), rl.MaskSet.from_array([np.array([True, False])])])
    opt.step([{"a": np.ones(2), "b": np.ones(3)}, [np.ones(2)]])
    assert w["a"].tolist() == [1, 0]
    assert w["b"].tolist() == [0, 1, 0]
    assert v[0].tolist() == [0, 1]


def test_masks_that_do_not_fit():
    w = [np.ones((2, 3)), np.ones(5)]
    good = [np.ones((2, 3), bool), np.ones(5, bool)]
    opt = rl.SGD(w, mask=rl.MaskSet.from_array(good))
    for bad in (
        rl.MaskSet.from_array(good[:1]),
        rl.MaskSet.from_array([good[0].T, good[1]]),
        rl.MaskSet.from_array({"a": good[0], "b": good[1]}),
        rl.Mask.from_array(good[0]),
        good[0],
        3,
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(masks?|params).*: got .*wants"):
            rl.SGD(w, mask=bad)
        with pytest.raises((TypeError, ValueError), match=r"^(masks?|params).*: got .*wants"):
            opt.set_mask(bad)
    opt.step([np.ones((2, 3)), np.ones(5)])


# ---- frozen parameters, groups


def test_frozen_parameters_as_in_torch():
    torch = pytest.importorskip("torch")
    shapes = [(30,), (4, 5), (7,)]
    params = weights(shapes, np.float64)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    peer = torch.optim.AdamW(theirs, lr=0.05, weight_decay=0.1)
    opt = rl.AdamW(params, lr=0.05, weight_decay=0.1)
    frozen = [{1}, {1}, {0, 2}, set(), {0, 1, 2}, {2}, set()]
    for gone, grads in zip(frozen, gradients(shapes, np.float64, len(frozen)), strict=True):
        grads = [None if i in gone else g for i, g in enumerate(grads)]
        before, old = copied(params), states(opt)
        opt.step(grads)
        for i in gone:
            assert bits(params[i]) == bits(before[i])
            assert all(
                bits(s[str(i)]) == bits(old[name][str(i)]) for name, s in states(opt).items()
            )
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(g)
        peer.step()
        for p, t in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p, from_torch(t), rtol=1e-12)
    assert opt.state_dict()["steps"].tolist() == [5, 4, 4]
    assert opt.steps == 6  # one step had no gradient at all


@every_optimizer
def test_frozen_at_first(variant):
    """The first step of an array is its own, whatever others did: dampening, bias corrections."""
    w, late = weights([40, 40], np.float32)
    grads = gradients([40], np.float32, 3)
    alone = ours(variant, [expected := late.copy()])
    opt = ours(variant, [w, late])
    opt.step([np.ones(40, np.float32), None])
    for (g,) in grads:
        alone.step([g])
        opt.step([g, g])
    assert bits(late) == bits(expected)


def test_norm_of_what_is_not_frozen():
    params = [np.zeros(1), np.zeros(1), np.zeros(1)]
    opt = rl.SGD(params, lr=1.0, clip=rl.GlobalNorm(1.0))
    report = opt.step([np.array([3.0]), None, np.array([4.0])])
    assert report.norm == 5.0
    assert [p.item() for p in params] == pytest.approx([-0.6, 0.0, -0.8])
    opt.clip = rl.Norm(1.0)
    assert opt.step([np.array([2.0]), None, np.array([0.5])]).scale[0] == 0.5


@dtypes
def test_groups(dtype):
    """As an optimizer for each; the global norm is that of all."""
    shapes = [(30, 5), (11,), (6,)]
    params, grads = weights(shapes, dtype), gradients(shapes, dtype, 3)
    own = [
        {"lr": 0.05, "weight_decay": 0.0, "betas": (0.8, 0.9)},
        {"lr": 0.01, "penalty": rl.L1(0.1), "prox": "plain", "constraint": rl.NonNegative()},
        {"eps": 1e-2, "penalty": rl.Huber(0.1, 1.0)},
    ]
    apart, together = copied(params), copied(params)
    groups = [{"params": [p], **own[i]} for i, p in enumerate(together)]
    opt = rl.AdamW(groups, lr=0.02, weight_decay=0.1, clip=rl.Value(0.5))
    alone = [
        rl.AdamW([p], **{"lr": 0.02, "weight_decay": 0.1, "clip": rl.Value(0.5), **own[i]})
        for i, p in enumerate(apart)
    ]
    for some in grads:
        report = opt.step([[g] for g in some])
        values = [one.step([g]).penalty for one, g in zip(alone, some, strict=True)]
        assert report.penalty == pytest.approx(sum(values), rel=1e-12)
    assert bits(together) == bits(apart)
    assert len(opt.groups) == 3
    assert [g.lr for g in opt.groups] == [0.05, 0.01, 0.02]
    assert [g.betas for g in opt.groups] == [(0.8, 0.9), (0.9, 0.999), (0.9, 0.999)]
    assert opt.groups[1].penalty == rl.L1(0.1)
    with pytest.raises((AttributeError, ValueError), match="lr"):
        _ = opt.lr
    opt.groups[0].lr = 0.5
    before = copied(together)
    opt.step([[g] for g in grads[0]])
    assert np.max(np.abs((together[0] - before[0]).astype(np.float64))) > 0.2
    opt.lr = 0.25
    assert [g.lr for g in opt.groups] == [0.25] * 3
    assert opt.lr == 0.25


def test_groups_of_trees():
    w = {"a": np.zeros(1), "b": [np.zeros(1)]}
    v = np.zeros(1)
    opt = rl.SGD([{"params": w}, {"params": v, "lr": 1.0}], lr=0.5, clip=rl.GlobalNorm(13.0))
    report = opt.step([{"a": np.array([3.0]), "b": [np.array([4.0])]}, np.array([12.0])])
    assert report.norm == 13.0
    assert (w["a"].item(), w["b"][0].item(), v.item()) == (-1.5, -2.0, -12.0)
    opt.step([{"a": None, "b": [np.array([4.0])]}, None])
    assert (w["a"].item(), w["b"][0].item(), v.item()) == (-1.5, -4.0, -12.0)
    bad = [{"a": np.array([3.0]), "b": [np.array([NAN])]}, np.array([12.0])]
    name = opt.step(bad).first_nonfinite
    assert name == "grads[0]['b'][0]"


def test_penalty_value_is_that_before_the_step():
    w = np.array([1.0, -2.0])
    for prox in (None, "plain"):
        opt = rl.SGD(w.copy(), lr=0.1, penalty=rl.L1(0.5), prox=prox)
        assert opt.step(np.array([1.0, 1.0])).penalty == 1.5
    assert rl.SGD(w, lr=0.1).step(np.array([1.0, 1.0])).penalty == 0.0


# ---- names


def test_decay_filter():
    shapes = {"fc.weight": (3, 4), "fc.bias": (4,), "norm1.weight": (4, 1), "bn.weight": (2, 2)}
    shapes |= {"head": (2, 5), "out_bias": (2, 2), "scale": ()}
    params = {name: np.ones(shape) for name, shape in shapes.items()}
    seen = {}

    def spy(name, param):
        seen[name] = param.shape
        return rl.skip_biases_and_norms(name, param)

    opt = rl.SGD(params, lr=0.5, weight_decay=0.5, decay_filter=spy)
    opt.step({name: np.zeros(shape) for name, shape in shapes.items()})
    assert seen == shapes
    decayed = {name for name, p in params.items() if p.size and p.flat[0] != 1}
    assert decayed == {"fc.weight", "head"}
    assert params["head"].flat[0] == 0.75
    factors = [np.ones(2), np.ones(2), np.ones(2)]
    of = {0: 0.0, 1: 2, 2: True}
    names = iter(of)
    opt = rl.SGD(factors, lr=0.5, weight_decay=0.5, decay_filter=lambda n, p: of[next(names)])
    opt.step([np.zeros(2)] * 3)
    assert [p[0] for p in factors] == [1.0, 0.5, 0.75]


@pytest.mark.parametrize("bad", [-1.0, NAN, INF, "yes", None])
def test_bad_decay_factors(bad):
    with pytest.raises((TypeError, ValueError), match=r"decay_filter.*got .*wants"):
        rl.SGD(np.ones(2), weight_decay=0.1, decay_filter=lambda name, p: bad)


@pytest.mark.parametrize(
    ("name", "shape", "decays"),
    [
        ("weight", (2, 2), True), ("bias", (2, 2), False), ("a.bias", (2, 2), False),
        ("a_bias", (2, 2), False), ("layernorm.weight", (2, 2), False), ("bn2.w", (2, 2), False),
        ("w", (2,), False), ("w", (), False), ("biases.weight", (2, 2), True),
        ("w", (1, 1, 1), True), ("normal_head.weight", (2, 2), True), ("norm", (1, 2), False),
        ("norm1.linear.weight", (2, 2), True), ("block/norm/scale", (2, 2), False),
        ("abnormal.weight", (2, 2), True), ("cabn.weight", (2, 2), True),
        ("norms.weight", (2, 2), True), ("normalize.weight", (2, 2), True),
        ("bn_head.weight", (2, 2), True), ("norm_head.weight", (2, 2), True),
        ("enormous.weight", (2, 2), True), ("norm.0.weight", (2, 2), True),
        ("h.norm1.weight", (2, 2), False), ("h.layer_norm.weight", (2, 2), False),
        ("h.layernorm.w", (2, 2), False), ("h.ln.w", (2, 2), False), ("h.ln_1.w", (2, 2), False),
        ("ln_f.w", (2, 2), False), ("h.batch_norm.w", (2, 2), False), ("gn3.w", (2, 2), False),
        ("h.input_layernorm.w", (2, 2), False), ("h.LayerNorm_0.scale", (2, 2), False),
        ("h.BatchNorm2d.w", (2, 2), False), ("attn.q_norm.w", (2, 2), False),
        ("h.groupnorm.w", (2, 2), False), ("h.final_layer_norm1.w", (2, 2), False),
    ],
)  # fmt: skip
def test_skip_biases_and_norms(name, shape, decays):
    assert rl.skip_biases_and_norms(name, np.ones(shape)) is decays


def test_named_parameters():
    pairs = [("fc.weight", np.ones((2, 2))), ("fc.bias", np.ones((2, 2)))]
    opt = rl.SGD(iter(pairs), lr=0.5, weight_decay=0.5, decay_filter=rl.skip_biases_and_norms)
    opt.step({"fc.weight": np.zeros((2, 2)), "fc.bias": np.zeros((2, 2))})
    assert pairs[0][1][0, 0] == 0.75
    assert pairs[1][1][0, 0] == 1.0


def test_trees():
    opt = rl.SGD(w := np.ones(2), lr=1.0)
    opt.step(np.ones(2))
    assert w.tolist() == [0, 0]
    nested = {"a": [np.ones(1), (np.ones(1),)], "b": {"c": np.ones(1)}}
    opt = rl.SGD(nested, lr=1.0, momentum=0.5, ema=0.0)
    opt.step({"a": [np.full(1, 2.0), (np.full(1, 3.0),)], "b": {"c": np.full(1, 4.0)}})
    assert (nested["a"][0], nested["a"][1][0], nested["b"]["c"]) == (-1, -2, -3)
    assert opt.state["momentum_buffer"]["a"][1][0].item() == 3.0
    assert opt.ema["b"]["c"].item() == -3.0
    assert isinstance(opt.ema["a"][1], tuple)
    many = [np.ones(1) for _ in range(3)]
    opt = rl.SGD((p for p in many), lr=1.0)
    opt.step(g for g in [np.ones(1)] * 3)
    assert [p.item() for p in many] == [0, 0, 0]


def test_state_is_read_only():
    w = np.ones(3)
    opt = rl.Adam([w], lr=0.1, ema=0.5)
    state, average = opt.state["exp_avg"][0], opt.ema[0]
    assert state.tolist() == [0, 0, 0]
    assert average.tolist() == [1, 1, 1]
    for view in (state, average):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
    opt.step([np.ones(3)])
    assert state == pytest.approx([0.1] * 3)  # views
    assert average == pytest.approx([0.95] * 3)


# ---- settings that change


def test_learning_rate_of_the_step():
    asked = []

    def rate(step):
        asked.append(step)
        return 2.0**-step

    w = np.zeros(1)
    opt = rl.SGD(w, lr=rate, clip=rl.GlobalNorm(1e9))
    for _ in range(3):
        opt.step(np.ones(1))
    assert w.item() == -1.75
    opt.step(np.array([NAN]))  # skipped
    opt.step(np.ones(1))
    assert w.item() == -1.875
    opt.step(np.ones(1), lr=4.0)
    assert w.item() == -5.875
    opt.step(np.ones(1))
    assert w.item() == -5.875 - 2.0**-5
    assert set(asked) <= {0, 1, 2, 3, 4, 5}
    opt.lr = 0.5
    opt.step(np.ones(1))
    assert w.item() == -6.375 - 2.0**-5
    bad = rl.SGD(w, lr=lambda step: NAN)
    with unchanged(w), pytest.raises(ValueError, match=r"^lr.*: got nan, wants"):
        bad.step(np.ones(1))
    assert bad.steps == 0


@dtypes
@every_optimizer
def test_settings_may_change_between_steps(variant, dtype):
    """As a new optimizer with these settings and the state so far."""
    shapes = [(40, 6), (13,)]
    grads = gradients(shapes, dtype, 4)
    params = weights(shapes, dtype)
    opt = ours(variant, params, ema=0.5)
    opt.step(grads[0])
    settings = {"lr": 0.07, "weight_decay": 0.2, "penalty": rl.L1(0.2)}
    if variant != "FTRL":
        settings["prox"] = "plain"
    if variant in ("Adam", "AdamW", "NAdam", "Lion"):
        settings["betas"] = (0.6, 0.7)
    if variant == "RMSprop both":
        settings |= {"alpha": 0.5, "momentum": 0.3, "eps": 0.1}
    settings |= {"constraint": rl.Box(-1.5, 1.5)}
    others = {"clip": rl.GlobalNorm(0.5), "on_nonfinite": "raise"}
    for name, value in {**settings, **others}.items():
        setattr(opt, name, value)
        assert getattr(opt, name) == value
    opt.ema_decay = 0.25
    twins = copied(params)
    twin = ours(variant, twins, **{**settings, **others}, ema=0.25)
    twin.load_state_dict(opt.state_dict())
    for some in grads[1:]:
        opt.step(some)
        twin.step(some)
    assert bits([params, opt.state_dict()]) == bits([twins, twin.state_dict()])
    opt.penalty, opt.constraint, opt.clip = None, None, None
    if variant != "FTRL":
        opt.prox = None
    assert opt.step(grads[0]).norm is None


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("lr", -1.0), ("lr", NAN), ("weight_decay", -0.1), ("penalty", 3.0), ("prox", "fast"),
        ("constraint", (0, 1)), ("clip", 1.0), ("on_nonfinite", "zero"), ("ema_decay", 1.0),
        ("betas", (0.9, 1.0)), ("eps", -1.0),
    ],
)  # fmt: skip
def test_settings_are_checked(name, bad):
    opt = rl.AdamW(np.ones(2), ema=0.5, penalty=rl.L1(0.1))
    before = getattr(opt, name)
    with pytest.raises((TypeError, ValueError), match=rf"^({name}|ema).*: got .*wants"):
        setattr(opt, name, bad)
    assert getattr(opt, name) == before


# ---- accumulation, average, loss scale


@dtypes
def test_accumulation(dtype):
    shapes = [(40,), (3, 3)]
    grads = gradients(shapes, dtype, 6)
    params = weights(shapes, dtype)
    exact = [p.astype(np.float64) for p in params]
    opt = rl.AdamW(params, lr=0.05, clip=rl.GlobalNorm(0.4), accumulation_steps=3)
    twin = ref.AdamW(exact, lr=0.05, clip=ref.GlobalNorm(0.4))
    for k, some in enumerate(grads):
        with unchanged(some):
            before, old = bits([params, states(opt).get("exp_avg")]), copied(params)
            report = opt.step(some)
        if k % 3 < 2:
            assert (report.updated, report.skipped, report.norm) == (False, False, None)
            assert bits([params, states(opt).get("exp_avg")]) == before
        else:
            mean = [
                sum(grads[j][i].astype(np.float64) for j in range(k - 2, k + 1)) / 3
                for i in range(2)
            ]
            for p, w in zip(old, exact, strict=True):
                w[...] = p.astype(np.float64)
            expected = twin.step(mean)
            assert report.updated
            assert report.norm == pytest.approx(expected.norm, rel=1e-6)
            for p, w in zip(params, exact, strict=True):
                assert_ulp(p, w, dtype, 20, np.abs(w) + 0.1)
        assert report.step == opt.steps == (k + 1) // 3


def test_a_skipped_update_clears_the_sum():
    w = np.zeros(1)
    opt = rl.SGD(w, lr=1.0, accumulation_steps=2, on_nonfinite="skip")
    opt.step(np.array([NAN]))
    report = opt.step(np.array([1.0]))
    assert (report.skipped, report.updated, report.first_nonfinite) == (True, False, "grads")
    opt.step(np.array([1.0]))
    assert opt.step(np.array([3.0])).updated
    assert w.item() == -2.0


def test_each_gradient_of_a_sum_has_its_own_loss_scale():
    opt = rl.SGD(w := np.zeros(1), lr=1.0, accumulation_steps=2)
    opt.step(np.array([16.0]), loss_scale=16.0)
    opt.step(np.array([64.0]), loss_scale=64.0)
    assert w.item() == -1.0


def test_an_error_leaves_the_sum_as_it_was():
    w = np.zeros(2)
    opt = rl.SGD(w, lr=1.0, accumulation_steps=2, penalty=rl.MCP(0.5, gamma=2.0), prox="plain")
    opt.step(np.ones(2))
    before = bits([w, opt.state_dict()])
    for bad in (lambda: opt.step(np.ones(3)), lambda: opt.step(np.ones(2), lr=5.0)):
        with pytest.raises(ValueError, match=r"^(grads|lr): got"):
            bad()
        assert bits([w, opt.state_dict()]) == before
    assert opt.step(np.full(2, 3.0)).updated
    assert w.tolist() == [-2.0, -2.0]


@dtypes
def test_average_of_weights(dtype):
    w = weights([(50,)], dtype)[0]
    opt = rl.SGD(w, lr=0.5, ema=0.75)
    wide = np.float64 if dtype == np.float64 else np.float32
    assert opt.ema.dtype == wide
    assert np.array_equal(opt.ema, w.astype(wide))
    exact, mean = w.astype(np.float64), w.astype(np.float64)
    for (g,) in gradients([(50,)], dtype, 4):
        before = w.astype(np.float64)
        opt.step(g)
        exact = before - 0.5 * g.astype(np.float64)
        if is_half(dtype):  # the average is of what was stored
            exact = w.astype(np.float64)
        mean = mean + 0.25 * (exact - mean)
        assert_ulp(opt.ema, mean, wide, 8, np.abs(mean) + 2)
    with pytest.raises(AttributeError, match="ema"):
        _ = rl.SGD(w).ema


@dtypes
@pytest.mark.parametrize("clip", [None, rl.GlobalNorm(0.5), rl.Norm(0.5), rl.Value(0.5)])
def test_loss_scale(dtype, clip):
    """A power of two changes nothing but what is read."""
    shapes = [(40,), (3, 3)]
    results = []
    for scale in (1.0, 64.0):
        params = weights(shapes, dtype)
        opt = rl.AdamW(params, lr=0.05, clip=clip)
        reports = []
        for grads in gradients(shapes, dtype, 2):
            scaled = [(g * dtype.type(scale)).astype(dtype) for g in grads]
            report = opt.step(scaled, loss_scale=scale)
            reports.append([report.norm, report.scale])
        results.append(bits([params, opt.state, reports]))
    assert results[0] == results[1]
    for bad in (0.0, -1.0, NAN, INF):
        with unchanged(params), pytest.raises(ValueError, match=r"^loss_scale: got .*wants"):
            opt.step(grads, loss_scale=bad)


def test_max_update_rms():
    w = np.zeros(4)
    rl.SGD(w, lr=1.0, max_update_rms=1.0).step(np.array([1.0, 1.0, 1.0, 5.0]))
    rms = math.sqrt(28 / 4)
    assert w == pytest.approx([-1 / rms, -1 / rms, -1 / rms, -5 / rms])
    with_decay = np.full(2, 8.0)
    options = {"lr": 0.5, "weight_decay": 1.0, "max_update_rms": 2.0}
    rl.SGD(with_decay, decay="decoupled", **options).step(np.array([4.0, 4.0]))
    assert with_decay.tolist() == [3.0, 3.0]
    rl.SGD(with_decay, **options).step(np.array([4.0, 4.0]))  # 4 + 3 is above 2
    assert with_decay.tolist() == [2.0, 2.0]
    two = [np.zeros(1), np.zeros(1)]
    rl.SGD(two, lr=1.0, max_update_rms=1.0).step([np.array([8.0]), np.array([0.5])])
    assert [p.item() for p in two] == [-1.0, -0.5]
    adam = np.zeros(3)
    rl.Adam(adam, lr=1.0, eps=0.0, max_update_rms=0.25).step(np.array([1.0, -5.0, 1e-3]))
    assert adam == pytest.approx([-0.25, 0.25, -0.25])


def test_zero_grad():
    grads = {"a": np.ones(3, np.float32), "b": [np.full((2, 2), NAN)]}
    opt = rl.SGD({"a": np.ones(3, np.float32), "b": [np.ones((2, 2))]})
    opt.zero_grad_(grads)
    assert not np.any(grads["a"])
    assert not np.any(grads["b"][0])
    opt.zero_grad_({"a": None, "b": [np.ones((2, 2))]})


# ---- gradients that are not finite

POLICIES = [None, "skip", "raise", "propagate"]
LIMITS = {"none": None, "global": rl.GlobalNorm(1.0), "norm": rl.Norm(1.0), "value": rl.Value(1.0)}


@dtypes
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("clip", LIMITS)
@pytest.mark.parametrize("policy", POLICIES)
def test_nonfinite_policies(policy, clip, bad, dtype):
    params = {"b": np.ones(40, dtype), "w": [np.ones(3, dtype), np.ones((70, 3), dtype)]}
    good = {"b": np.ones(40, dtype), "w": [np.ones(3, dtype), np.ones((70, 3), dtype)]}
    opt = rl.AdamW(params, lr=0.1, clip=LIMITS[clip], on_nonfinite=policy, ema=0.5)
    opt.step(good)
    grads = copied(good)
    grads["w"][1][40, 1] = bad
    grads["w"][0][2] = 0.0
    before = bits([params, opt.state_dict()])
    does = policy or ("skip" if clip in ("global", "norm") else "propagate")
    if does == "raise":
        with unchanged(grads), pytest.raises(rl.NonFiniteError) as caught:
            opt.step(grads)
        assert caught.value.array == "grads['w'][1]"
        assert "grads['w'][1]" in str(caught.value)
        assert bits([params, opt.state_dict()]) == before
    elif does == "skip":
        report = opt.step(grads)
        assert (report.skipped, report.updated, report.step) == (True, False, 1)
        assert report.first_nonfinite == "grads['w'][1]"
        assert bits([params, opt.state_dict()]) == before
    else:
        report = opt.step(grads)
        assert (report.skipped, report.updated, report.step) == (False, True, 2)
        assert bits([params, opt.state_dict()]) != before
        finite = clip == "value" and not math.isnan(bad)
        assert bool(np.isfinite(params["w"][1].astype(np.float64)[40, 1])) is finite
        if clip in ("none", "value"):
            assert np.sum(~np.isfinite(params["w"][1].astype(np.float64))) == (not finite)
            assert np.all(np.isfinite(params["w"][0].astype(np.float64)))
            assert np.all(np.isfinite(params["b"].astype(np.float64)))
    assert opt.step(good).updated  # and on


def test_norm_beyond_float64():
    w = np.ones(4)
    opt = rl.SGD(w, clip=rl.GlobalNorm(1.0))
    with unchanged(w):
        report = opt.step(np.full(4, 1.7e308))
    assert (report.skipped, report.first_nonfinite, report.norm) == (True, None, INF)
    opt.on_nonfinite = "raise"
    with unchanged(w), pytest.raises(rl.NonFiniteError) as caught:
        opt.step(np.full(4, 1.7e308))
    assert caught.value.array is None
    assert opt.steps == 0
    report = opt.step(np.full(4, 1e-3 * 1.7e308))
    assert report.norm == pytest.approx(3.4e305, rel=1e-12)
    half = np.ones(4, np.float16)
    report = rl.SGD(half, lr=1.0, clip=rl.GlobalNorm(1.0)).step(np.full(4, 60000, np.float16))
    assert report.norm == 120000
    assert half == pytest.approx(0.5)


def test_first_nonfinite_for_any_number_of_threads():
    params = [np.ones(5000, np.float32) for _ in range(300)]
    grads = copied(params)
    for i in (123, 200, 299):
        grads[i][-1] = NAN

    def name(policy, clip):
        report = rl.SGD(params, on_nonfinite=policy, clip=clip).step(grads)
        return report.first_nonfinite

    for policy, clip in [("skip", None), (None, rl.GlobalNorm(1.0)), (None, rl.Norm(1.0))]:
        assert name(policy, clip) == "grads[123]"
        every_setting(lambda policy=policy, clip=clip: name(policy, clip))


# ---- ranks


def test_ranks_share_the_norm():
    shapes = [(500,), (3,), (700,)]
    grads = gradients(shapes, np.float64, 2)
    whole = weights(shapes, np.float64)
    shards = [copied(whole[:2]), copied(whole[2:])]
    opt = rl.AdamW(whole, lr=0.05, clip=rl.GlobalNorm(0.5))
    ranks = Ranks(2)
    opts = [
        rl.AdamW(shards[r], lr=0.05, clip=rl.GlobalNorm(0.5), comm=ranks.comm(r)) for r in (0, 1)
    ]
    for some in grads:
        expected = opt.step(some)
        parts = [some[:2], some[2:]]
        reports = ranks.run(lambda r, _, parts=parts: opts[r].step(parts[r]))
        assert reports[0].norm == reports[1].norm == pytest.approx(expected.norm, rel=1e-13)
        assert reports[0].scale == reports[1].scale == pytest.approx(expected.scale, rel=1e-13)
        for p, w in zip([*shards[0], *shards[1]], whole, strict=True):
            np.testing.assert_allclose(p, w, rtol=1e-12)


def test_ranks_accumulate():
    shapes = [(50,), (30,)]
    grads = gradients(shapes, np.float64, 4)
    whole = weights(shapes, np.float64)
    shards = [copied(whole[:1]), copied(whole[1:])]
    ranks = Ranks(2)
    options = {"lr": 0.05, "clip": rl.GlobalNorm(0.5), "accumulation_steps": 2}
    opt = rl.AdamW(whole, **options)
    opts = [rl.AdamW(shards[r], **options, comm=ranks.comm(r)) for r in (0, 1)]
    for some in grads:
        expected = opt.step(some)
        reports = ranks.run(lambda r, _, some=some: opts[r].step([some[r]]))
        assert [r.updated for r in reports] == [expected.updated] * 2, reports
        assert reports[0].norm == (
            None if expected.norm is None else pytest.approx(expected.norm, rel=1e-13)
        )
    for p, w in zip([*shards[0], *shards[1]], whole, strict=True):
        np.testing.assert_allclose(p, w, rtol=1e-12)


@pytest.mark.parametrize("clip", [None, rl.Value(1.0)])
def test_ranks_skip_together_without_a_norm(clip):
    params, ranks = [[np.ones(3)], [np.ones(2)]], Ranks(2)
    opts = [
        rl.SGD(params[r], lr=0.5, clip=clip, on_nonfinite="skip", comm=ranks.comm(r))
        for r in (0, 1)
    ]
    with unchanged(params):
        bad = [[np.ones(3)], [np.array([1.0, NAN])]]
        reports = ranks.run(lambda r, _: opts[r].step(bad[r]))
    assert all(r.skipped for r in reports), reports
    reports = ranks.run(lambda r, _: opts[r].step([np.ones(3 - r)]))
    assert all(r.updated and r.norm is None for r in reports), reports
    assert params[0][0].tolist() == [0.5] * 3
    assert params[1][0].tolist() == [0.5] * 2


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("policy", [None, "skip", "raise"])
def test_ranks_share_the_policy(policy, bad):
    params = [[np.ones(3)], [np.ones(3), np.ones(2)]]
    grads = [[np.ones(3)], [np.ones(3), np.array([1.0, bad])]]
    ranks = Ranks(2)
    opts = [
        rl.SGD(params[r], lr=0.1, clip=rl.GlobalNorm(1.0), on_nonfinite=policy, comm=ranks.comm(r))
        for r in (0, 1)
    ]
    with unchanged(params):
        results = ranks.run(lambda r, _: opts[r].step(grads[r]))
    if policy == "raise":
        assert all(isinstance(r, rl.NonFiniteError) for r in results), results
        assert results[1].array == "grads[1]"
    else:
        assert all(r.skipped for r in results)
        assert results[1].first_nonfinite == "grads[1]"
    assert [opt.steps for opt in opts] == [0, 0]


# ---- torch, JAX


@dtypes
@every_optimizer
def test_torch_gives_the_same_bits(variant, dtype):
    torch = pytest.importorskip("torch")
    shapes = [(40, 30), (7,), ()]
    grads = gradients(shapes, dtype, 3)
    options = {**full(variant), "ema": None}
    expected = after(variant, weights(shapes, dtype), grads, **options)
    memory = weights(shapes, dtype)
    tensors = [torch.nn.Parameter(to_torch(w)) for w in memory]
    versions = [p._version for p in tensors]
    opt = ours(variant, (p for p in tensors), **options)
    reports = []
    for some in grads:
        theirs = [to_torch(g) for g in some]
        before = [t._version for t in theirs]
        report = opt.step(theirs)
        reports.append([report.norm, report.scale, report.penalty])
        assert [t._version for t in theirs] == before
    twin = ours(variant, weights(shapes, dtype), **options)
    twin.load_state_dict(opt.state_dict())  # of tensors, into arrays
    assert bits([[from_torch(p) for p in tensors], twin.state_dict(), reports]) == expected
    assert all(p._version > v for p, v in zip(tensors, versions, strict=True))
    assert all(p.requires_grad and p.is_leaf for p in tensors)


def test_versions_tell_of_writing():
    torch = pytest.importorskip("torch")
    p = torch.ones(3, requires_grad=True)
    opt = rl.SGD([p], lr=0.1, clip=rl.GlobalNorm(1.0))
    version = p._version
    opt.step([torch.full((3,), NAN)])
    with pytest.raises(ValueError, match="grads"):
        opt.step([torch.ones(4)])
    loss = (p * p).sum()
    opt.step([torch.ones(3)])
    assert p._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_torch_training():
    """rl.AdamW and clipping in place of torch's in a loop of today."""
    torch = pytest.importorskip("torch")

    def train(step_of):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        ).double()
        x = torch.randn(64, 8, dtype=torch.float64)
        y = torch.sin(x.sum(1, keepdim=True))
        step, losses = step_of(net), []
        for _ in range(30):
            net.zero_grad()
            loss = torch.nn.functional.mse_loss(net(x), y)
            loss.backward()
            step()
            losses.append(loss.item())
        return losses

    def with_torch(net):
        opt = torch.optim.AdamW(net.parameters(), lr=0.01)

        def step():
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()

        return step

    def with_ours(net):
        opt = rl.AdamW(net.named_parameters(), lr=0.01, clip=rl.GlobalNorm(0.5))
        return lambda: opt.step({name: p.grad for name, p in net.named_parameters()})

    np.testing.assert_allclose(train(with_ours), train(with_torch), rtol=1e-4)


def test_gradients_that_torch_keeps():
    torch = pytest.importorskip("torch")
    one, two, three = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    opt = rl.SGD([one, {"a": two}, three], lr=0.5)
    assert not opt.step().updated
    (one.sum() + 2 * two.sum()).backward()
    opt.step()
    assert one.tolist() == [0.5] * 3
    assert two.tolist() == [0.0] * 3
    assert three.tolist() == [1.0] * 3
    opt.zero_grad_()
    assert one.grad.tolist() == two.grad.tolist() == [0.0] * 3
    with pytest.raises(TypeError, match=r"^grads: got None"):
        rl.SGD(np.ones(3)).step()


def test_parameters_that_torch_moves():
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.ones(3))
    opt = rl.SGD([p], lr=0.25, momentum=0.5)
    opt.step([torch.ones(3)])
    old = p.data
    p.data = p.data.clone()
    opt.step([torch.ones(3)])
    assert p.tolist() == [0.375] * 3
    assert old.tolist() == [0.75] * 3
    p.data = torch.ones(4)
    with pytest.raises(ValueError, match="params"):
        opt.step([torch.ones(4)])
    p.data = torch.ones(3, dtype=torch.float64)
    with pytest.raises((TypeError, ValueError), match="params"):
        opt.step([torch.ones(3, dtype=torch.float64)])
    assert p.tolist() == [1.0] * 3


def test_torch_layouts():
    torch = pytest.importorskip("torch")
    w, (g,) = weights([(6, 5, 4, 3)], np.float32)[0], gradients([(6, 5, 4, 3)], np.float32, 1)[0]
    expected = w.copy()
    rl.AdamW(expected, lr=0.1).step(g)
    p = to_torch(w.copy()).to(memory_format=torch.channels_last)
    rl.AdamW([p], lr=0.1).step([to_torch(g)])
    assert bits(np.ascontiguousarray(from_torch(p))) == bits(expected)
    turned = to_torch(w.transpose(3, 2, 1, 0).copy()).permute(3, 2, 1, 0)
    rl.AdamW([turned], lr=0.1).step([to_torch(g).to(memory_format=torch.channels_last)])
    assert bits(np.ascontiguousarray(from_torch(turned))) == bits(expected)


def test_jax_gradients():
    jax = pytest.importorskip("jax")
    shapes = [(40, 3), ()]
    grads = gradients(shapes, np.float32, 3)
    expected = after("AdamW", weights(shapes, np.float32), grads)
    theirs = [[jax.numpy.asarray(g) for g in some] for some in grads]
    assert after("AdamW", weights(shapes, np.float32), theirs) == expected
    with pytest.raises(ValueError, match="params"):
        rl.SGD([jax.numpy.ones(3)])


@variants
def test_gradients_at_a_new_address_every_step(variant):
    """And of other layouts, and objects, and in the memory of earlier ones."""
    torch = pytest.importorskip("torch")
    shapes = [(20, 30), (7,)]
    grads = gradients(shapes, np.float32, 8)
    expected = after(variant, weights(shapes, np.float32), grads)
    params = weights(shapes, np.float32)
    opt = ours(variant, params)
    reports, buffers = [], copied(grads[0])
    for k, some in enumerate(grads):
        if k < 2:
            given_ = [g.copy() for g in some]
        elif k < 4:
            given_ = [np.asfortranarray(g) for g in some]
        elif k < 6:
            for buffer, g in zip(buffers, some, strict=True):
                buffer[...] = g
            given_ = list(buffers)
        else:
            given_ = [torch.from_numpy(g.copy()) for g in some]
        report = opt.step(given_)
        reports.append([report.norm, report.scale, report.penalty])
        for g in given_:  # what is read later would be wrong
            g.fill_(NAN) if hasattr(g, "fill_") else g.fill(NAN)
        del given_
    assert bits([params, opt.state_dict(), reports]) == expected


def test_gradients_keep_their_place_in_a_dict():
    w = {"a": np.zeros(2), "b": np.zeros(2)}
    opt = rl.SGD(w, lr=1.0)
    for _ in range(3):
        opt.step({"b": np.full(2, 2.0), "a": np.ones(2)})
    assert w["a"].tolist() == [-3, -3]
    assert w["b"].tolist() == [-6, -6]


# ---- errors: nothing is changed


def refused(opt, params, error, match, *args, **kwargs):
    before = bits([params, opt.state_dict()])
    with pytest.raises(error, match=match):
        opt.step(*args, **kwargs)
    assert bits([params, opt.state_dict()]) == before


def test_gradients_that_do_not_fit():
    params = {"w": [np.ones((2, 3)), np.ones(4, np.float32)], "b": np.ones(())}
    good = {"w": [np.ones((2, 3)), np.ones(4, np.float32)], "b": np.ones(())}
    opt = rl.AdamW(params, ema=0.5, clip=rl.GlobalNorm(1.0))

    def change(first=good["w"][0], second=good["w"][1], b=good["b"]):
        return {"w": [first, second], "b": b}

    opt.step(good)
    for bad, error, match in [
        (change(first=np.ones((3, 2))), ValueError, r"grads\['w'\]\[0\]: got .*wants"),
        (change(first=np.ones(6)), ValueError, r"grads\['w'\]\[0\]: got .*wants"),
        (change(second=np.ones(4, np.int64)), TypeError, r"grads\['w'\]\[1\]"),
        (change(b=np.ones(1)), ValueError, r"grads\['b'\]: got .*wants"),
        (change(b=1.0), TypeError, r"grads\['b'\]"),
        (change(b="x"), TypeError, r"grads\['b'\]"),
        ({"w": good["w"]}, (ValueError, TypeError), "grads"),
        ({**good, "c": np.ones(1)}, (ValueError, TypeError), "grads"),
        ({"w": good["w"][:1], "b": good["b"]}, (ValueError, TypeError), r"grads\['w'\]"),
        ({"w": good["w"][0], "b": good["b"]}, (ValueError, TypeError), r"grads\['w'\]"),
        ([good["w"], good["b"]], (ValueError, TypeError), "grads"),
        (np.ones(3), (ValueError, TypeError), "grads"),
        (change(first=params["w"][0]), ValueError, "grads.*overlap|overlap.*grads"),
        (change(first=params["w"][0][::-1]), ValueError, "grads.*overlap|overlap.*grads"),
    ]:
        refused(opt, params, error, match, bad)
    assert opt.steps == 1
    opt.step(good)
    opt.step({"w": [None, None], "b": None})


def test_learning_rates_of_a_step_that_are_none():
    w = np.ones(2)
    opt = rl.AdamW(w)
    for bad in (-1.0, NAN, INF):
        refused(opt, w, ValueError, r"^lr: got .*wants", np.ones(2), bad)
    refused(opt, w, TypeError, r"^lr: got str, wants", np.ones(2), "fast")
    ftrl = rl.FTRL(w)
    refused(ftrl, w, ValueError, r"^lr: got 0", np.ones(2), 0.0)


def test_parameters_written_by_others_may_become_read_only():
    w = np.ones(3)
    opt = rl.AdamW(w)
    opt.step(np.ones(3))
    w.flags.writeable = False
    before = bits([w, opt.state_dict()])
    with pytest.raises(ValueError, match=r"^params: got .*read-only"):
        opt.step(np.ones(3))
    assert bits([w, opt.state_dict()]) == before


def test_parameters_that_are_none():
    frozen = np.ones(3)
    frozen.flags.writeable = False
    for bad, error, name in [
        (np.ones(3, np.int32), TypeError, "params"),
        ([np.ones(2), np.ones(3, complex)], TypeError, r"params\[1\]"),
        ({"a": [frozen]}, ValueError, r"params\['a'\]\[0\]"),
        (np.broadcast_to(np.ones(1), (3,)), ValueError, "params"),
        (3.0, TypeError, "params"),
        ("weights", TypeError, "params"),
        (None, TypeError, "params"),
        ([np.ones(2), None], TypeError, r"params\[1\]"),
    ]:
        with pytest.raises(error, match=rf"^{name}: "):
            rl.AdamW(bad)


def test_parameters_in_two_places():
    w = np.ones((4, 4))
    for twice in ([w, w], {"a": w, "b": [w]}, [w, w[1:]], [w[:, ::2], w[:, 1:]], [w, w.T]):
        with pytest.raises(ValueError, match="params"):
            rl.SGD(twice)
        items = list(twice.values()) if isinstance(twice, dict) else twice
        with pytest.raises(ValueError, match="params"):
            rl.SGD([{"params": items[0]}, {"params": items[1], "lr": 0.1}])
    opt = rl.SGD([w[:, ::2], w[:, 1::2]], lr=1.0)  # side by side
    opt.step([np.ones((4, 2)), np.ones((4, 2))])
    assert not np.any(w)


WRONG = {
    "lr": [(-1.0, ValueError), (NAN, ValueError), (INF, ValueError), ("x", TypeError)],
    "weight_decay": [(-0.1, ValueError), (NAN, ValueError), ("x", TypeError)],
    "penalty": [(0.1, TypeError), ("l1", TypeError), (reference.L1(0.1), TypeError)],
    "prox": [("fast", ValueError), (True, (TypeError, ValueError))],
    "clip": [(1.0, TypeError), ("norm", TypeError)],
    "mask": [(np.ones(3, bool), TypeError), (1, TypeError)],
    "constraint": [((0, 1), TypeError), (1.0, TypeError)],
    "decay_filter": [("bias", TypeError)],
    "on_nonfinite": [("zero", ValueError), ("ignore", ValueError), (1, (TypeError, ValueError))],
    "stochastic_rounding": [("yes", TypeError), (3, TypeError)],
    "comm": [(object(), TypeError)],
    "state_dtype": [("int4", ValueError), ("float16", ValueError)],
    "ema": [(1.0, ValueError), (-0.1, ValueError), (NAN, ValueError), ("x", TypeError)],
    "accumulation_steps": [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("x", TypeError)],
    "max_update_rms": [(-1.0, ValueError), (NAN, ValueError), ("x", TypeError)],
    "convention": [("tensorflow", ValueError), (1, (TypeError, ValueError))],
}
OWN = {
    "SGD": {
        "momentum": [(-0.1, ValueError), (NAN, ValueError), ("x", TypeError)],
        "dampening": [(NAN, ValueError), ("x", TypeError)],
    },
    "Adam": {
        "betas": [
            ((1.0, 0.9), ValueError),
            ((0.9, -0.1), ValueError),
            ((0.9,), (TypeError, ValueError)),
            (0.9, TypeError),
            (("a", "b"), TypeError),
        ],
        "eps": [(-1e-8, ValueError), (NAN, ValueError), ("x", TypeError)],
    },
    "NAdam": {"momentum_decay": [(-1.0, ValueError), (NAN, ValueError)]},
    "RMSprop": {
        "alpha": [(-0.1, ValueError), (1.5, ValueError), (NAN, ValueError)],
        "eps": [(-1.0, ValueError)],
        "momentum": [(-1.0, ValueError)],
    },
    "Adagrad": {
        "lr_decay": [(-1.0, ValueError)],
        "initial_accumulator_value": [(-1.0, ValueError)],
        "eps": [(-1.0, ValueError)],
    },
    "Lion": {"betas": [((1.0, 0.9), ValueError), ((0.9, 1.5), ValueError)]},
    "FTRL": {
        "beta": [(-1.0, ValueError)],
        "l1": [(-1.0, ValueError), (NAN, ValueError)],
        "l2": [(-1.0, ValueError)],
        "initial_accumulator_value": [(-1.0, ValueError)],
    },
}


@pytest.mark.parametrize(
    ("kind", "name", "bad", "error"),
    [("AdamW", name, *case) for name, cases in WRONG.items() for case in cases]
    + [(kind, name, *case) for kind, own in OWN.items() for name, cs in own.items() for case in cs],
)
def test_wrong_options(kind, name, bad, error):
    more = {"penalty": rl.L1(0.1)} if name == "prox" else {}
    with pytest.raises(error, match=rf"^{name}s?\b.*: got .*, wants"):
        getattr(rl, kind)(np.ones(3), **{**more, name: bad})
    if name in ("lr", "weight_decay", "penalty", "constraint", "prox") or (
        name not in WRONG and not name.startswith("initial")
    ):
        groups = [{"params": np.ones(2)}, {"params": np.ones(3), name: bad}]
        with pytest.raises(error, match=rf"\b{name}\b.*: got .*, wants"):
            getattr(rl, kind)(groups)


def test_options_that_contradict_each_other():
    w = np.ones(3, np.float32)
    for kind, options, name in [
        ("SGD", {"nesterov": True}, "nesterov"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
        ("SGD", {"penalty": rl.L0(0.1)}, "penalty"),
        ("SGD", {"penalty": rl.L1(0.1) + rl.Huber(1.0, 1.0), "prox": "plain"}, "penalty"),
        ("FTRL", {"penalty": rl.L0(0.1)}, "penalty"),
        ("FTRL", {"convention": "optax"}, "convention"),
        ("FTRL", {"state_dtype": "8bit"}, "state_dtype"),
        ("Adagrad", {"state_dtype": "8bit"}, "state_dtype"),
    ]:
        with unchanged(w), pytest.raises((TypeError, ValueError), match=rf"^{name}: "):
            getattr(rl, kind)(w, **options).step(np.ones(3, np.float32))
    for kind, name in [
        ("FTRL", "prox"), ("FTRL", "max_update_rms"), ("Lion", "eps"), ("SGD", "betas"),
        ("AdamW", "momentum"),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match=name):
            getattr(rl, kind)(w, **{name: None})


def test_options_that_come_to_contradict_each_other():
    opt = rl.SGD(np.ones(3), lr=0.1, momentum=0.9, nesterov=True)
    for name, bad in [("dampening", 0.5), ("momentum", 0.0)]:
        with pytest.raises(ValueError, match=r"^(nesterov|dampening|momentum): got .*wants"):
            setattr(opt, name, bad)
    plain = rl.SGD(np.ones(3), lr=0.1)
    for name, bad in [("nesterov", True), ("momentum", 0.9)]:
        with pytest.raises(ValueError, match=r"^(nesterov|momentum): got .*wants"):
            setattr(plain, name, bad)
    assert (opt.momentum, opt.dampening, plain.nesterov, plain.momentum) == (0.9, 0.0, False, 0.0)


def test_groups_that_are_wrong():
    for bad, error, match in [
        ([{"lr": 0.1}], (TypeError, ValueError), "params"),
        ([{"params": np.ones(2), "learning_rate": 0.1}], (TypeError, ValueError), "learning_rate"),
        ([{"params": np.ones(2), "clip": rl.Value(1.0)}], (TypeError, ValueError), "clip"),
        ([{"params": np.ones(2)}, {"params": np.ones(2), "lr": -1.0}], ValueError, "lr"),
    ]:
        with pytest.raises(error, match=match):
            rl.AdamW(bad)
    opt = rl.AdamW([{"params": np.ones(2)}, {"params": np.ones(3)}])
    for bad in ([np.ones(2)], [np.ones(2), np.ones(3), np.ones(1)], np.ones(2), {"a": np.ones(2)}):
        with pytest.raises((TypeError, ValueError), match="grads"):
            opt.step(bad)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: rl.GlobalNorm(-1.0), "max_norm"), (lambda: rl.GlobalNorm(NAN), "max_norm"),
        (lambda: rl.GlobalNorm(1.0, ord=0), "ord"), (lambda: rl.GlobalNorm("x"), "max_norm"),
        (lambda: rl.Norm(-1.0), "max_norm"), (lambda: rl.Norm(1.0, ord=-2), "ord"),
        (lambda: rl.Value(-1.0), "limit"), (lambda: rl.Value(NAN), "limit"),
        (lambda: rl.Value((1.0, 0.0)), "limit"), (lambda: rl.Value("x"), "limit"),
        (lambda: rl.Value((1.0, 2.0, 3.0)), "limit"),
    ],
)  # fmt: skip
def test_clips_that_are_wrong(make, name):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b.*: got .*wants"):
        make()


def test_clips_are_values():
    assert rl.GlobalNorm(1.0) == rl.GlobalNorm(1.0, 2)
    assert rl.GlobalNorm(1.0) != rl.Norm(1.0)
    assert len({rl.Value(1.0), rl.Value(1.0), rl.Value((-1.0, 1.0))}) in (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rl.Norm(1.0).max_norm = 2.0
    assert "1.0" in repr(rl.GlobalNorm(1.0))
    assert rl.GlobalNorm(INF).max_norm == INF


def test_gradients_are_read_only_to_us():
    """Also where memory may not be written."""
    g = sample(5000, np.float32)
    g.flags.writeable = False
    w = np.zeros(5000, np.float32)
    for variant in EVERY:
        for options in ({}, full(variant)):
            with unchanged(g):
                ours(variant, w, **options).step(g)
    with pytest.raises(ValueError, match="grads"):
        rl.SGD(w).zero_grad_(g)


def test_every_optimizer_is_exported():
    kinds = ["SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad", "Lion", "FTRL", "AdEMAMix"]
    for name in [*kinds, "ScheduleFreeSGD", "ScheduleFreeAdamW"]:
        assert name in rl.__all__
        assert getattr(rl, name) is getattr(importlib.import_module("ridgeline.optimizers"), name)
    for name in ("GlobalNorm", "Norm", "Value", "Box", "NonNegative", "skip_biases_and_norms"):
        assert name in rl.__all__


def test_defaults():
    w = np.ones(2)
    for kind, lr in [
        ("SGD", 1e-3), ("Adam", 1e-3), ("AdamW", 1e-3), ("NAdam", 2e-3), ("RMSprop", 1e-2),
        ("Adagrad", 1e-2), ("Lion", 1e-4), ("FTRL", 0.1), ("AdEMAMix", 1e-3),
        ("ScheduleFreeSGD", 1.0), ("ScheduleFreeAdamW", 2.5e-3),
    ]:  # fmt: skip
        assert getattr(rl, kind)(w).lr == lr
    assert [rl.AdamW(w, convention=c).weight_decay for c in ("torch", "keras", "optax")] == [
        1e-2, 4e-3, 1e-4
    ]  # fmt: skip
    assert rl.Lion(w, convention="optax").weight_decay == 1e-3
    assert rl.Lion(w).weight_decay == rl.Adam(w, convention="keras").weight_decay == 0.0
    assert rl.AdamW(w, eps=1e-8, weight_decay=0.0, convention="keras").eps == 1e-8
    assert rl.AdamW(w, weight_decay=0.0, convention="keras").weight_decay == 0.0
    assert rl.Adam(w, convention="keras").eps == 1e-7
    assert rl.NAdam(w, convention="keras").momentum_decay == 1.0
    assert rl.RMSprop(w, convention="keras").alpha == 0.9


# ---- containers that change


def test_the_callers_containers_are_not_ours():
    params = {"w": np.ones(3)}
    opt = rl.Adam(params)
    del params["w"]
    for bad in ({}, {"w": np.ones(3), "x": np.ones(2)}, []):
        with pytest.raises(ValueError, match=r"^grads: got"):
            opt.step(bad)
    opt.decay_filter = rl.skip_biases_and_norms
    assert opt.step({"w": np.ones(3)}).updated
    with pytest.raises(AttributeError):
        opt.groups.append(opt.groups[0])
    used = iter([np.ones(2)])
    list(used)
    with pytest.raises(ValueError, match=r"^params: got an iterator that has nothing left"):
        rl.SGD(used)


def test_a_refused_number_changes_no_group():
    groups = [{"params": np.ones(2)}, {"params": np.ones(3), "nesterov": True}]
    opt = rl.SGD(groups, momentum=0.9)
    with pytest.raises(ValueError, match="nesterov"):
        opt.momentum = 0.0
    assert opt.momentum == 0.9


def test_what_there_is_to_read():
    opt = rl.AdamW(np.ones(2, np.float32), state_dtype="bfloat16", accumulation_steps=2)
    assert (opt.convention, opt.state_dtype, opt.accumulation_steps) == ("torch", "bfloat16", 2)
    assert opt.mask is None
    assert {"lr", "betas", "clip", "weight_decay"} <= set(dir(opt))
    assert "state_dtype='bfloat16', betas" in repr(opt)
    assert "), accumulation_steps=2)" in repr(opt)
    with pytest.raises(AttributeError, match="ema: there is no average"):
        opt.ema  # noqa: B018
    with pytest.raises(AttributeError, match=r"no .sets_mask.; did you mean set_mask\?"):
        opt.sets_mask  # noqa: B018
    with pytest.raises(TypeError, match=r"argument 'cilp', wants any of params, lr, .*clip\?$"):
        rl.AdamW(np.ones(2), cilp=rl.Value(1.0))


def test_gradients_of_torch_parameters():
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.ones(3))
    frozen = torch.nn.Parameter(torch.ones(2))
    for params in ([w, frozen], {"a": {"w": w}, "f": frozen}):
        opt = rl.SGD(params, lr=0.5)
        w.grad = torch.ones(3)
        before = w.detach().clone()
        opt.step()
        assert torch.equal(w.detach(), before - 0.5)
        assert torch.equal(frozen.detach(), torch.ones(2))
        w.grad = None
        assert not opt.step().updated
        assert opt.steps == 1


# ---- parameters that change under the optimizer


def test_a_refused_parameter_stays_refused():
    w = np.ones((2, 3))
    opt = rl.AdamW([w], lr=0.1)
    opt.step([np.ones((2, 3))])
    w.shape = (3, 2)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^params\[0\]: got another shape"):
            opt.step([np.ones((3, 2))])
    w.shape = (2, 3)
    assert opt.step([np.ones((2, 3))]).updated
    for _ in range(3):
        w.flags.writeable = False
        with pytest.raises(ValueError, match=r"^params\[0\]: got a read-only array"):
            opt.step([np.ones((2, 3))])
    w.flags.writeable = True
    assert opt.step([np.ones((2, 3))]).step == 3


def test_torch_parameters_that_are_resized_or_moved():
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.zeros(16))
    opt = rl.AdamW([p], lr=0.1)
    opt.step([torch.ones(16)])
    p.data = torch.zeros(4000)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^params\[0\]: got another shape"):
            opt.step([torch.ones(4000)])
    p.data = torch.zeros(16)
    opt.step([torch.ones(16)])
    assert torch.all(p != 0)


def test_torch_counts_writes_of_what_was_written():
    torch = pytest.importorskip("torch")
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = rl.SGD([a, b], lr=0.1)
    versions = a._version, b._version
    opt.step([torch.ones(3), None])
    assert a._version > versions[0]
    assert b._version == versions[1]


def test_one_step_at_a_time():
    w = np.ones((1500, 1500), order="F")
    opt = rl.SGD(w, lr=1e-3)
    g = np.ones((1500, 1500))
    refused, done = [], []

    def work():
        for _ in range(8):
            try:
                done.append(opt.step(g).updated)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) + len(refused) == 24
    assert set(refused) <= {"the optimizer is at work in another thread"}
    assert opt.steps == len(done)
    assert np.allclose(w, 1 - 1e-3 * len(done))


def test_ftrl_without_beta():
    w = np.zeros(4)
    opt = rl.FTRL(w, lr=0.1, beta=0.0, l1=1.0)
    opt.step(np.array([0.0, 1.0, -5.0, 0.0]))
    assert w.tolist() == [0, 0, 0.08, 0]
    opt.step(np.array([np.nan, 0.0, 0.0, 0.0]))
    assert np.isnan(w[0])
    with pytest.raises(AttributeError, match="FTRL has no 'max_update_rms' to set"):
        opt.max_update_rms = 1.0


def test_gradients_that_can_be_read_once():
    w = [np.zeros(2), np.zeros(3)]
    opt = rl.SGD(w, lr=1.0, accumulation_steps=2)
    for _ in range(2):
        report = opt.step(np.ones(n) for n in (2, 3))
    assert report.updated
    assert [each.tolist() for each in w] == [[-1, -1], [-1, -1, -1]]
