"""AdEMAMix, the schedule-free rules and cautious steps, against the oracles."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import ridgeline as rl
from ridgeline.reference import optimizers as ref

SIZE = 300
FREE = {
    "ScheduleFreeSGD": {"momentum": 0.8},
    "ScheduleFreeAdamW": {"betas": (0.8, 0.95), "eps": 1e-6},
}
free = pytest.mark.parametrize("kind", FREE)


def vectors(count, seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size) for _ in range(count)]


# ---- AdEMAMix


@pytest.mark.parametrize("warmups", [(0, 0), (5, 7), (1, 1), (20, 3)])
@pytest.mark.parametrize("betas", [(0.9, 0.999, 0.9999), (0.5, 0.9, 0.99), (0.0, 0.9, 0.99)])
def test_ademamix(warmups, betas):
    start, *grads = vectors(11)
    options = {
        "lr": 0.1, "betas": betas, "alpha": 3.0, "eps": 1e-6, "weight_decay": 0.25,
        "alpha_warmup": warmups[0], "beta3_warmup": warmups[1],
    }  # fmt: skip
    w, exact = start.copy(), start.copy()
    opt, oracle = rl.AdEMAMix(w, **options), ref.AdEMAMix(exact, **options)
    for g in grads:
        opt.step(g)
        oracle.step(g)
    np.testing.assert_allclose(w, exact, rtol=1e-12, atol=1e-14)
    assert list(opt.state) == ["exp_avg_fast", "exp_avg_slow", "exp_avg_sq"]
    for name, state in opt.state.items():
        np.testing.assert_allclose(state, oracle.state[0][name], rtol=1e-12, atol=1e-14)


def test_ademamix_without_the_slow_mean_is_adamw():
    start, *grads = vectors(6)
    for dtype in (np.float32, np.float64):
        w, v = start.astype(dtype), start.astype(dtype)
        opt = rl.AdEMAMix(w, alpha=0.0, weight_decay=0.1)
        other = rl.AdamW(v, weight_decay=0.1)
        for g in grads:
            opt.step(g.astype(dtype))
            other.step(g.astype(dtype))
        np.testing.assert_allclose(w, v, rtol=4 * np.finfo(dtype).eps)


def test_ademamix_arguments():
    w = np.ones(2)
    for name, bad, error in [
        ("betas", (0.9, 0.99), TypeError), ("betas", (0.9, 0.99, 1.0), ValueError),
        ("alpha", -1.0, ValueError), ("alpha_warmup", -1, ValueError),
        ("beta3_warmup", 2.5, TypeError),
    ]:  # fmt: skip
        with pytest.raises(error, match=rf"^{name}(\[2\])?: got .*, wants"):
            rl.AdEMAMix(w, **{name: bad})
    opt = rl.AdEMAMix(w)
    opt.alpha = 2.0  # above 1: a weight here, and a decay in RMSprop
    assert opt.groups[0].alpha == 2.0
    with pytest.raises(ValueError, match=r"^alpha: got 2, wants"):
        rl.RMSprop(w, alpha=2.0)


# ---- schedule-free


def schedule_free(kind, w, grads, **options):
    """Return y, z and x of the oracle after some steps from w."""
    y = w.astype(float)
    opt = getattr(ref, kind)(y, lr=0.25, **FREE[kind], **options)
    for g in grads:
        opt.step(g.astype(float))
    trained = y.copy()
    opt.eval_()
    return trained, opt.state[0]["z"], y


@free
@pytest.mark.parametrize("more", [{}, {"warmup_steps": 4, "r": 0.5}, {"weight_lr_power": 0.0}])
def test_schedule_free(kind, more):
    start, *grads = vectors(10)
    w = start.copy()
    opt = getattr(rl, kind)(w, lr=0.25, weight_decay=0.125, **FREE[kind], **more)
    for g in grads:
        opt.step(g)
    y, z, x = schedule_free(kind, start, grads, weight_decay=0.125, **more)
    np.testing.assert_allclose(w, y, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(opt.state["z"], z, rtol=1e-11, atol=1e-13)
    assert opt.is_training
    before = opt.state_dict()
    opt.eval_()
    np.testing.assert_allclose(w, x, rtol=1e-11, atol=1e-13)
    at_x = w.copy()
    opt.eval_()  # there already
    assert w.tobytes() == at_x.tobytes()
    assert not opt.is_training
    opt.train_()
    np.testing.assert_allclose(w, y, rtol=1e-11, atol=1e-13)
    after = opt.state_dict()
    assert {k: v.tobytes() for k, v in after.items()} == {k: v.tobytes() for k, v in before.items()}


@free
def test_mean_of_equal_weights(kind):
    """With a constant rate and r = 0, x is the plain mean of all z."""
    start, *grads = vectors(9)
    w = start.copy()
    opt = getattr(rl, kind)(w, lr=0.25, **FREE[kind])
    sums = 0 * start
    for g in grads:
        opt.step(g)
        sums += opt.state["z"]
    opt.eval_()
    np.testing.assert_allclose(w, sums / len(grads), rtol=1e-10, atol=1e-12)


@free
def test_step_in_evaluation_is_refused(kind):
    w = np.ones(3)
    opt = getattr(rl, kind)(w, lr=0.25)
    opt.step(np.ones(3))
    opt.eval_()
    before = w.copy()
    for make in (lambda o: o, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        own = make(opt)
        assert not own.is_training
        with pytest.raises(RuntimeError, match=r"of evaluation: call train_\(\)"):
            own.step(np.ones(3))
        assert own.steps == 1
    assert w.tobytes() == before.tobytes()
    saved = opt.state_dict()
    other = getattr(rl, kind)(w, lr=0.25)
    other.load_state_dict(saved)
    assert not other.is_training
    other.train_()
    opt.is_training  # noqa: B018
    assert other.step(np.ones(3)).step == 2


@free
def test_a_group_added_in_evaluation(kind):
    """The weights stay where they are."""
    w, more = np.ones(3), np.full(2, 3.0)
    opt = getattr(rl, kind)(w, lr=0.25)
    for _ in range(3):
        opt.step(w.copy())
    y = w.copy()
    opt.eval_()
    x = w.copy()
    opt.add_group(more)
    assert not opt.is_training
    opt.eval_()
    assert w.tobytes() == x.tobytes()
    opt.train_()
    np.testing.assert_allclose(w, y, rtol=1e-14)
    assert more.tolist() == [3.0, 3.0]


@free
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "master", "kahan"])
def test_schedule_free_in_other_precisions(kind, storage):
    start, *grads = vectors(6)
    dtype = np.float32 if storage == "float32" else ml_dtypes.bfloat16
    w = start.astype(dtype)
    options = {"master": {"master_weights": True}, "kahan": {"kahan": True}}.get(storage, {})
    opt = getattr(rl, kind)(w, lr=0.25, **FREE[kind], **options)
    for g in grads:
        opt.step(g.astype(dtype))
    y, _, x = schedule_free(kind, start.astype(dtype), [g.astype(dtype) for g in grads])
    rtol = {"float32": 1e-5, "bfloat16": 0.05}.get(storage, 0.01)
    np.testing.assert_allclose(w.astype(float), y, rtol=rtol, atol=rtol)
    opt.eval_()
    np.testing.assert_allclose(w.astype(float), x, rtol=rtol, atol=2 * rtol)
    opt.train_()
    np.testing.assert_allclose(w.astype(float), y, rtol=rtol, atol=2 * rtol)


@free
def test_masks_of_schedule_free_rules(kind):
    start, *grads = vectors(5)
    mask = rl.Mask.from_array(np.arange(SIZE) % 3 > 0)
    w = np.where(mask, start, 0.0)
    opt = getattr(rl, kind)(w, lr=0.25, mask=mask, **FREE[kind])
    for g in grads:
        opt.step(g)
    pruned = ~mask.to_array()
    for move in (opt.eval_, opt.train_):
        move()
        assert not w[pruned].any()
        assert np.all(w[~pruned] != 0)


@free
def test_schedule_free_arguments(kind):
    w = np.ones(4, np.float32)
    create = getattr(rl, kind)
    first = {"momentum": 0.0} if kind == "ScheduleFreeSGD" else {"betas": (0.0, 0.9)}
    for options, match in [
        ({"constraint": rl.Box(-1, 1)}, r"^constraint: got .*, wants None"),
        ({"decay": "decoupled"}, r"^decay: got 'decoupled', wants None"),
        ({"state_dtype": "8bit"}, r"^state_dtype: got '8bit'"),
        ({"state_dtype": "bfloat16"}, r"^state_dtype: got 'bfloat16'"),
        ({"convention": "keras"}, r"^convention: got 'keras'"),
        ({"warmup_steps": -1}, r"^warmup_steps: got -1"),
        (first, rf"^{next(iter(first))}(\[0\])?: got 0, wants a number in \(0, 1\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            create(w, **options)
    for name in ("prox", "max_update_rms", "cautious"):
        with pytest.raises(TypeError, match=f"unexpected argument {name!r}"):
            create(w, **{name: None})
    opt = create(w)
    with pytest.raises(ValueError, match=r"^constraint: got"):
        opt.constraint = rl.NonNegative()
    with pytest.raises(AttributeError, match="is_training"):
        opt.is_training = False
    assert not hasattr(rl.AdamW(w), "train_")


# ---- the same bits


@pytest.mark.parametrize("target", rl.runtime.targets())
@pytest.mark.parametrize("kind", [*FREE, "AdEMAMix", "cautious"])
def test_bits(kind, target):
    start, *grads = vectors(4, size=70_000)
    results = []
    before = rl.runtime.target()
    for name, threads in ((before, 1), (target, 1), (target, 3)):
        rl.runtime.use_target(name)
        try:
            with rl.threads(threads):
                w = start.astype(np.float32)
                if kind == "cautious":
                    opt = rl.AdamW(w, lr=0.1, cautious=True)
                else:
                    opt = getattr(rl, kind)(w, lr=0.1)
                for g in grads:
                    opt.step(g.astype(np.float32))
                results.append(w.tobytes())
        finally:
            rl.runtime.use_target(before)
    assert len(set(results)) == 1


# ---- cautious


def test_the_oracle_of_cautious_steps():
    """Liang et al. 2024, algorithm 2, with the scale of their code."""
    start, *grads = vectors(7)
    w = start.copy()
    options = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.25, "cautious": True}
    opt = ref.AdamW(w, **options)
    exact, m, v = start.copy(), 0 * start, 0 * start
    for k, g in enumerate(grads, 1):
        opt.step(g)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g * g
        update = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.99**k)) + 1e-8)
        agree = update * g > 0
        assert 0.4 < agree.mean() <= 1
        exact = exact * (1 - 0.1 * 0.25) - 0.1 * update * agree / max(agree.mean(), 1e-3)
    np.testing.assert_allclose(w, exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("more", [{}, {"mask": True}, {"max_update_rms": 0.5}])
@pytest.mark.parametrize("kind", ["AdamW", "AdEMAMix", "SGD", "RMSprop", "Lion"])
def test_cautious(kind, dtype, more):
    start, *grads = vectors(7)
    w, exact = start.astype(dtype), start.astype(dtype).astype(float)
    kept = np.arange(SIZE) % 3 > 0
    masks = (rl.Mask.from_array(kept), kept) if "mask" in more else (None, None)
    options = {"lr": 0.1, "weight_decay": 0.25, "cautious": True, **more}
    if kind in ("SGD", "RMSprop"):
        options["momentum"] = 0.9
    opt = getattr(rl, kind)(w, **{**options, "mask": masks[0]})
    oracle = getattr(ref, kind)(exact, **{**options, "mask": masks[1]})
    for g in grads:
        opt.step(g.astype(dtype))
        oracle.step(g.astype(dtype))
    rtol = 1e-11 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(w, exact, rtol=rtol, atol=rtol)
    for name, state in opt.state.items():
        np.testing.assert_allclose(state, oracle.state[0][name], rtol, rtol)


def test_cautious_is_a_setting():
    w = np.ones(3)
    opt = rl.SGD(w, lr=0.5, momentum=0.5, cautious=True)
    opt.step(np.array([1.0, 1.0, -1.0]))
    opt.step(np.array([-0.25, 1.0, 0.0]))
    assert w.tolist() == [0.5, -1.75, 1.5]  # one of three agrees: three times its step
    opt.cautious = False
    assert "cautious" not in repr(opt)
    opt.step(np.zeros(3))
    assert w.tolist() == [0.4375, -2.125, 1.625]
    with pytest.raises(TypeError, match="cautious: got int, wants True or False"):
        opt.cautious = 1
