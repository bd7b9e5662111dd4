"""What an optimizer keeps: precision of parameters and moments, and saving them."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
from helpers import BFLOAT16, assert_ulp, bits, copied, every_setting, from_torch, sample
from test_optimizers import EVERY, VARIANTS, gradients, oracle, ours, states, variants, weights

import ridgeline as rl
from ridgeline.reference import optimizers as ref
from ridgeline.reference._tree import rounded

NAN, INF = np.nan, np.inf
FLOAT32 = np.dtype(np.float32)
HALVES = [BFLOAT16, np.dtype(np.float16)]
halves = pytest.mark.parametrize("dtype", HALVES, ids=str)
every_optimizer = pytest.mark.parametrize("variant", EVERY)
SHAPES = [(33, 20), (700,), (), (0, 3)]
KEY = rl.Key(7)
MORE = {"weight_decay": 0.1, "penalty": rl.Huber(0.2, 0.5), "clip": rl.GlobalNorm(3.0)}


def wide(arrays):
    return [np.asarray(a.astype(np.float32)) for a in arrays]


def twin_of(variant, opt, values, **options):
    """An optimizer of float32 parameters with these values and the moments of another."""
    twin = ours(variant, values, **options)
    own = twin.state_dict()
    theirs = opt.state_dict()
    twin.load_state_dict({key: theirs[key] for key in own})
    return twin


def ulp_down(x, dtype):
    """The number of a 16-bit type next to float32 numbers towards zero."""
    x = np.asarray(x, np.float32)
    near = rounded(x.astype(np.float64), np.dtype(dtype))
    beyond = np.abs(near.astype(np.float64)) > np.abs(x)
    return (near.view(np.uint16) - beyond.astype(np.uint16)).view(dtype)


def ulp_up(x, dtype):
    """The next number away from zero, or the number itself."""
    down = ulp_down(x, dtype)
    inexact = down.astype(np.float64) != x
    return (down.view(np.uint16) + inexact.astype(np.uint16)).view(dtype)


# ---- 16-bit parameters: those of float32, rounded


@halves
@variants
def test_parameters_are_rounded_once_a_step(variant, dtype):
    params = weights(SHAPES, dtype)
    opt = ours(variant, params, **MORE)
    for grads in gradients(SHAPES, dtype, 4):
        single = wide(params)
        twin = twin_of(variant, opt, single, **MORE)
        twin.step(wide(grads))
        opt.step(grads)
        expected = [rounded(w.astype(np.float64), dtype) for w in single]
        assert bits(params) == bits(expected)
        assert bits(states(opt)) == bits(states(twin))


@halves
@variants
def test_master_weights(variant, dtype):
    """The steps of float32 parameters, and their rounded copy; nothing is lost."""
    params = weights(SHAPES, dtype)
    opt = ours(variant, params, master_weights=True, ema=0.5, **MORE)
    single = wide(params)
    twin = ours(variant, single, ema=0.5, **MORE)
    assert bits(list(states(opt)["master"].values())) == bits(single)
    for grads in gradients(SHAPES, dtype, 5):
        value = MORE["penalty"].value(params)
        report, expected = opt.step(grads), twin.step(wide(grads))
        assert report.norm == expected.norm
        assert report.penalty == pytest.approx(value, rel=1e-13)  # of what others see
        found = states(opt)
        assert bits(list(found.pop("master").values())) == bits(single)
        assert bits(params) == bits([rounded(w.astype(np.float64), dtype) for w in single])
        assert bits(found) == bits(states(twin))


def kept_part(high, low):
    """The second number, one step nearer 0 where it would take the sum to another first one."""
    total = (high.astype(np.float32) + low.astype(np.float32)).astype(high.dtype)
    nearer = (low.view(np.uint16) - np.uint16(1)).view(low.dtype)
    return np.where(total == high, low, nearer)


@halves
@variants
def test_kahan(variant, dtype):
    """A second number of 16 bits holds what rounding lost."""
    params = weights(SHAPES, dtype)
    opt = ours(variant, params, kahan=True, **MORE)
    lost = [np.zeros(p.shape, dtype) for p in params]
    for grads in gradients(SHAPES, dtype, 5):
        single = [np.asarray(p + c) for p, c in zip(wide(params), wide(lost), strict=True)]
        twin = twin_of(variant, opt, single, **MORE)
        twin.step(wide(grads))
        opt.step(grads)
        expected = [rounded(w.astype(np.float64), dtype) for w in single]
        rest = [
            w.astype(np.float64) - p.astype(np.float64)
            for w, p in zip(single, expected, strict=True)
        ]
        lost = [kept_part(p, rounded(r, dtype)) for p, r in zip(expected, rest, strict=True)]
        assert bits(params) == bits(expected)
        found = list(states(opt)["compensation"].values())
        assert all(c.dtype == np.uint16 for c in found)
        assert bits(found) == bits([c.view(np.uint16) for c in lost])


@halves
def test_small_steps_are_not_lost(dtype):
    """Each is a fortieth of the spacing: rounded to nearest, nothing ever moves."""
    spacing = 2.0**-7 if dtype == BFLOAT16 else 2.0**-10
    n, count, lr = 2000, 200, spacing / 40
    exact = 1 + count * lr
    results = {}
    for name, options in {
        "nearest": {},
        "master": {"master_weights": True},
        "kahan": {"kahan": True},
        "stochastic": {"stochastic_rounding": KEY},
    }.items():
        w = np.ones(n, dtype)
        opt = rl.SGD(w, lr=lr, **options)
        for _ in range(count):
            opt.step(np.full(n, -1.0, dtype))
        results[name] = w.astype(np.float64)
        if name == "kahan":
            kept = opt.state_dict()["compensation/param"].view(dtype).astype(np.float64)
            np.testing.assert_allclose(w.astype(np.float64) + kept, exact, atol=spacing / 20)
    assert np.all(results["nearest"] == 1.0)
    np.testing.assert_allclose(results["master"], exact, atol=spacing / 2)
    np.testing.assert_allclose(results["kahan"], exact, atol=spacing * 0.55)
    # a walk of 200 steps, each with p = 1/40 of one spacing: the mean of n has deviation
    deviation = spacing * math.sqrt(count * (1 / 40) * (39 / 40) / n)
    assert abs(results["stochastic"].mean() - exact) < 6 * deviation
    assert results["stochastic"].std() > 0


@halves
@pytest.mark.parametrize("how", ["nearest", "master", "kahan", "stochastic"])
@pytest.mark.parametrize("variant", ["SGD momentum", "AdamW", "RMSprop", "FTRL"])
def test_masks_of_halves(variant, how, dtype):
    """With everything that a step has: what is masked keeps all its bits, the rest is stepped."""
    options = {
        "nearest": {},
        "master": {"master_weights": True},
        "kahan": {"kahan": True},
        "stochastic": {"stochastic_rounding": KEY},
    }[how]
    penalty = rl.MCP(0.2, gamma=5.0) + rl.L2(0.1)
    more = {"penalty": penalty, "constraint": rl.Box(-0.8, 1.1), "clip": rl.Value(1.5)}
    more |= {} if variant == "FTRL" else {"prox": "preconditioned"}
    params = weights(SHAPES, dtype)
    kept = [np.asarray(np.random.default_rng(i).random(s) < 0.7) for i, s in enumerate(SHAPES)]
    first, second = (gradients(SHAPES, dtype, 2) for _ in range(2))
    opt = ours(variant, params, ema=0.5, **more, **options)
    for grads in first:  # so that there is something to keep
        opt.step(grads)
    opt.set_mask(rl.MaskSet.from_array(kept))
    old, found = copied(params), states(opt)
    free = copied(params)
    twin = ours(variant, free, ema=0.5, **more, **options)
    twin.load_state_dict(opt.state_dict())
    twin.step(second[0])
    for k, g in zip(kept, second[0], strict=True):
        g[~k] = NAN
    opt.step(second[0])
    after, stepped = states(opt), states(twin)
    for i, k in enumerate(kept):
        assert bits(params[i][~k]) == bits(old[i][~k])
        assert bits(params[i][k]) == bits(free[i][k])
        for name in set(found) - {"ema"}:
            assert bits(after[name][str(i)][~k]) == bits(found[name][str(i)][~k]), name
            assert bits(after[name][str(i)][k]) == bits(stepped[name][str(i)][k]), name


# ---- stochastic rounding


@halves
@every_optimizer
def test_stochastic_rounding_takes_a_neighbour(variant, dtype):
    params = weights(SHAPES, dtype)
    opt = ours(variant, params, stochastic_rounding=KEY, **MORE)
    up = 0
    for grads in gradients(SHAPES, dtype, 3):
        single = wide(params)
        twin = twin_of(variant, opt, single, **MORE)
        twin.step(wide(grads))
        opt.step(grads)
        for p, w in zip(params, single, strict=True):
            low, high = ulp_down(w, dtype), ulp_up(w, dtype)
            assert np.all((p == low) | (p == high))
            up += np.count_nonzero((p == high) & (low != high))
        assert bits(states(opt)) == bits(states(twin))
    total = 3 * sum(p.size for p in params)
    assert 0.3 * total < up < 0.7 * total


@halves
@pytest.mark.parametrize("start", [1.0, -1.0, 2.0**-10, -1e-6])
@pytest.mark.parametrize("eighths", [0, 1, 3, 7])
def test_stochastic_rounding_is_unbiased(eighths, start, dtype):
    """Also among float16's subnormal numbers. Away from 0 by so many eighths of the spacing."""
    start = np.array(start, dtype)
    size = abs(float(start))
    spacing = float(ulp_up(size * (1 + 2.0**-20), dtype)) - size
    n, p = 2**16, eighths / 8
    w = np.full(n, start)
    opt = rl.SGD(w, stochastic_rounding=KEY)
    opt.step(np.full(n, -np.sign(float(start)), dtype), lr=spacing * p)
    share = (np.abs(w.astype(np.float64)) - size) / spacing
    assert set(np.unique(share)) <= {0.0, 1.0}
    assert abs(share.mean() - p) <= 6 * math.sqrt(p * (1 - p) / n)
    for lag in (1, 2, 8, 128, 4096):  # elements are independent of each other
        both = np.mean(share[:-lag] * share[lag:])
        assert abs(both - p * p) <= 12 * math.sqrt(p * p * (1 - p * p) / n)


@halves
def test_random_bits_depend_on_key_step_array_and_place_alone(dtype):
    shapes = [(300, 7), (2100,), (2100,)]
    params = [np.ones(shape, dtype) for shape in shapes]
    g = [np.full(shape, -(2.0**-11), dtype) for shape in shapes]

    def run(key, steps=1, layout=lambda a: a):
        mine = [layout(p.copy()) for p in params]
        opt = rl.SGD(mine, lr=1.0, stochastic_rounding=key)
        for _ in range(steps):
            opt.step(g)
        return [np.ascontiguousarray(p) for p in mine]

    first = run(KEY)
    assert bits(run(KEY)) == bits(first)
    assert bits(run(rl.Key(8))) != bits(first)
    assert bits(first[1]) != bits(first[2])  # equal numbers in another array
    assert bits(run(KEY, layout=np.asfortranarray)) == bits(first)
    every_setting(lambda: bits(run(KEY, 2)))
    assert bits(run(True)) == bits(run(True))
    assert bits(run(True)) != bits(
        [rounded(1 + 2.0**-11 + 0 * p.astype(np.float64), dtype) for p in params]
    )
    for a, b in zip(first, run(KEY, 2), strict=True):
        assert np.any(b[a == 1] > 1)  # the second step draws other bits
    longer = np.ones(5000, dtype)  # the same choice for the same element of a longer array
    rl.SGD([longer], lr=1.0, stochastic_rounding=KEY).step([np.full(5000, -(2.0**-11), dtype)])
    assert bits(longer[:2100]) == bits(first[0].ravel())


@halves
def test_stochastic_rounding_of_special_numbers(dtype):
    largest = np.array(np.finfo(dtype).max if dtype != BFLOAT16 else 3.3895313892515355e38, dtype)
    w = np.array([0.0, -0.0, 1.5, largest, -largest, INF, -INF, NAN] * 20, dtype)
    before = w.copy()
    rl.SGD(w, lr=1.0, stochastic_rounding=KEY).step(np.zeros(w.size, dtype))
    same = (w == before) | (np.isnan(w.astype(np.float64)) & np.isnan(before.astype(np.float64)))
    assert np.all(same)


@pytest.mark.parametrize("option", ["stochastic_rounding", "kahan", "master_weights"])
def test_options_for_halves_alone(option):
    for dtype in (np.float32, np.float64):
        with pytest.raises(TypeError, match=rf"^{option}: got params of float.*, wants"):
            rl.AdamW(np.ones(3, dtype), **{option: True})
        # Among others, each as if alone.
        mixed = [np.ones(300, BFLOAT16), np.ones(300, dtype)]
        alone = [mixed[0].copy(), mixed[1].copy()]
        together = rl.AdamW(mixed, lr=1e-3, **{option: True})
        first = rl.AdamW([alone[0]], lr=1e-3, **{option: True})
        second = rl.AdamW([alone[1]], lr=1e-3)
        for _ in range(5):
            g = [np.full(300, 0.5, BFLOAT16), np.full(300, 0.5, dtype)]
            together.step(g)
            first.step(g[:1])
            second.step(g[1:])
        assert bits(mixed) == bits(alone)
        copied_state = together.state_dict()
        together.load_state_dict(copied_state)
        assert bits(together.state_dict()) == bits(copied_state)


# ---- moments of 16 bits


def bfloat16_of(opt, name, path):
    return opt.state_dict()[f"{name}/{path}"].view(BFLOAT16)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@variants
def test_bfloat16_moments(variant, dtype):
    """The step is that of the moments before; they are stored as one of two neighbours."""
    names = VARIANTS[variant][2]
    if not names or not has_small_moments(variant, "bfloat16"):
        pytest.skip("no moments")
    params = weights(SHAPES, dtype)
    opt = ours(variant, params, state_dtype="bfloat16")
    up = total = 0
    for grads in gradients(SHAPES, dtype, 3):
        it = oracle(variant, [p.astype(np.float64) for p in params])
        before = copied(params)
        for i in range(len(params)):
            for name in names:
                old = opt.state_dict()[f"{name}/{i}"]
                assert old.dtype == np.uint16
                it.state[i][name] = old.view(BFLOAT16).astype(np.float64).reshape(old.shape)
        it.counts = [opt.steps] * len(params)
        opt.step(grads)
        it.step([g.astype(np.float64) for g in grads])
        for i, p in enumerate(params):
            w = it.arrays[i]
            moved = np.max(np.abs(w - before[i].astype(np.float64)), initial=0.0)
            assert_ulp(p, w, dtype, 8, np.abs(w) + moved)
            for name in names:
                got = bfloat16_of(opt, name, i).astype(np.float64)
                exact = it.state[i][name]
                low = np.abs(ulp_down(exact, BFLOAT16).astype(np.float64))
                high = np.abs(ulp_up(exact, BFLOAT16).astype(np.float64))
                slack = 1e-6 * np.max(np.abs(exact), initial=0.0)
                assert np.all((np.abs(got) >= low - slack) & (np.abs(got) <= high + slack))
                up += np.count_nonzero(np.abs(got) > np.abs(exact))
                total += np.count_nonzero(exact)
    assert 0.3 * total < up < 0.7 * total


def test_bfloat16_moments_are_unbiased():
    n = 2**16
    for eighths in (1, 4, 7):
        g = np.full(n, 1 + eighths * 2.0**-10, np.float32)
        w = np.zeros(n, np.float32)
        opt = rl.SGD(w, lr=1.0, momentum=0.5, state_dtype="bfloat16")
        opt.step(g)
        share = (bfloat16_of(opt, "momentum_buffer", "param").astype(np.float64) - 1) * 2**7
        p = eighths / 8
        assert set(np.unique(share)) == {0.0, 1.0}
        assert abs(share.mean() - p) <= 6 * math.sqrt(p * (1 - p) / n)
        opt.step(np.zeros(n, np.float32))
        later = (bfloat16_of(opt, "momentum_buffer", "param").astype(np.float64) * 2 - 1) * 2**7
        assert np.array_equal(later, share)  # halves of them, exactly


def test_bfloat16_moments_keep_no_bias_over_time():
    """Second moments of b2 = 0.999 stand still when rounded to nearest."""
    n = 4096
    w = np.zeros(n, np.float32)
    opt = rl.Adam(w, lr=0.0, state_dtype="bfloat16")
    for _ in range(300):
        opt.step(np.ones(n, np.float32))
    v = bfloat16_of(opt, "exp_avg_sq", "param").astype(np.float64)
    exact = 1 - 0.999**300
    assert v.mean() == pytest.approx(exact, rel=5e-3)


# ---- moments of 8 bits

BLOCK_SIZES = [0, 1, 2, 255, 256, 257, 1000, 4096 + 3, 20_000]


def codes_of(opt, name, path):
    found = opt.state_dict()
    codes, scale = found[f"{name}/{path}"], found[f"{name}_scale/{path}"]
    assert (codes.dtype, scale.dtype) == (np.uint8, np.float32)
    return codes, scale


def block_samples(n, seed=0):
    """Blocks of every kind: many binades, constants, zeros, subnormal and large numbers."""
    rng = np.random.default_rng(seed)
    x = sample(n, np.float32, seed, low=-20, high=3)
    kinds = [
        lambda k: np.zeros(k),
        lambda k: np.full(k, -2.5),
        lambda k: rng.standard_normal(k),
        lambda k: rng.standard_normal(k) * 1e-42,
        lambda k: rng.standard_normal(k) * 1e37,
        lambda k: np.where(np.arange(k) == k // 2, -1e4, rng.standard_normal(k) * 1e-3),
    ]
    for i, start in enumerate(range(0, n, 256)):
        if i % 2:
            k = min(256, n - start)
            x[start : start + k] = kinds[i // 2 % len(kinds)](k).astype(np.float32)
    return x


@pytest.mark.parametrize("n", BLOCK_SIZES)
def test_codes_of_first_moments(n):
    """After the first step of SGD with momentum, the buffer is the gradient, or 0 below 2^-100."""
    g = block_samples(n)
    opt = rl.SGD(np.zeros(n, np.float32), lr=0.1, momentum=0.5, state_dtype="8bit")
    opt.step(g)
    codes, scale = codes_of(opt, "momentum_buffer", "param")
    g = np.where(np.abs(g) < 2.0**-100, np.float32(0), g)
    wants, scales = ref.quantize(g, signed=True)
    assert scale.shape == scales.shape
    assert bits(scale) == bits(scales)
    same_codes(codes, wants, g, scales, signed=True)


@pytest.mark.parametrize("n", BLOCK_SIZES)
def test_codes_of_second_moments(n):
    g = block_samples(n)
    g = np.where(np.abs(g) > 1e18, 1e18, g).astype(np.float32)
    opt = rl.RMSprop(np.zeros(n, np.float32), alpha=0.0, state_dtype="8bit")
    opt.step(g)
    codes, scale = codes_of(opt, "square_avg", "param")
    squares = g * g
    wants, scales = ref.quantize(squares, signed=False)
    assert bits(scale) == bits(scales)
    same_codes(codes, wants, squares, scales, signed=False)


def has_small_moments(variant, state_dtype):
    """Sums only grow: their last bits count. Centered, two that are nearly alike are subtracted."""
    if state_dtype not in ("bfloat16", "8bit"):
        return True
    if variant in ("RMSprop centered", "RMSprop both"):
        return False
    return state_dtype == "bfloat16" or (variant != "FTRL" and "Adagrad" not in variant)


def same_codes(codes, wants, x, scales, signed):
    """The oracle's codes, but where a number is next to an edge: float32 rounds what it divides."""
    with np.errstate(all="ignore"):
        q = x.astype(np.float64) / np.repeat(scales.astype(np.float64), 256)[: x.size]
    q = np.where(np.repeat(scales, 256)[: x.size] >= 2.0**-126, q, 0.0)
    either = [ref.codes_of(q * (1 + off), signed) for off in (-(2.0**-19), 2.0**-19)]
    assert np.all((codes == either[0]) | (codes == either[1]) | (codes == wants))
    assert np.count_nonzero(codes != wants) <= 1e-3 * codes.size


def test_codes_of_the_values_of_the_map():
    """Every value of the map, times any power of two, has its own code and comes back."""
    for signed, kind in [(True, "first"), (False, "second")]:
        table = ref.dynamic_map(signed)
        for scale in (1.0, 2.0**-30, 2.0**20):
            x = (table * np.float32(scale)).astype(np.float32)
            codes = np.arange(256, dtype=np.uint8)
            w = np.zeros(256, np.float32)
            opt = rl.Adam(w, lr=0.1, betas=(0.5, 0.5), state_dtype="8bit")
            state = opt.state_dict()
            name = "exp_avg" if kind == "first" else "exp_avg_sq"
            state[f"{name}/param"] = codes
            state[f"{name}_scale/param"] = np.array([scale], np.float32)
            opt.load_state_dict(state)
            opt.step(np.zeros(256, np.float32))  # halves them all
            again, scales = codes_of(opt, name, "param")
            assert np.array_equal(again, codes)
            assert scales.tolist() == [scale / 2]
            assert np.array_equal(ref.quantize(x, signed)[0], codes)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@variants
def test_8bit_moments(variant, dtype):
    """The step is that of the decoded moments; they are stored as their codes."""
    names = VARIANTS[variant][2]
    if not names or not has_small_moments(variant, "8bit"):
        pytest.skip("no such moments")
    shapes = [(33, 20), (700,), (), (0, 3), (256,)]
    params = weights(shapes, dtype)
    opt = ours(variant, params, state_dtype="8bit")
    for grads in gradients(shapes, dtype, 3):
        it = oracle(variant, [p.astype(np.float64) for p in params])
        before = copied(params)
        for i in range(len(params)):
            for name in names:
                it.state[i][name] = ref.dequantize(
                    *codes_of(opt, name, i), name not in ref.Optimizer.unsigned
                )
        it.counts = [opt.steps] * len(params)
        opt.step(grads)
        it.step([g.astype(np.float64) for g in grads])
        for i, p in enumerate(params):
            w = it.arrays[i]
            moved = np.max(np.abs(w - before[i].astype(np.float64)), initial=0.0)
            if not np.all(np.isfinite(w)):
                continue
            assert_ulp(p, w, dtype, 8, np.abs(w) + moved)
            for name in names:
                signed = name not in ref.Optimizer.unsigned
                codes, scale = codes_of(opt, name, i)
                exact = it.state[i][name].astype(np.float32)
                np.testing.assert_allclose(scale, ref.quantize(exact, signed)[1], rtol=1e-6)
                q = exact / np.repeat(scale, 256)[: exact.size].reshape(exact.shape)
                off = 4e-6 * np.abs(q) + 2e-7  # terms may cancel
                low, high = (ref.codes_of(q + a * off, signed) for a in (-1, 1))
                assert np.all((low <= codes) & (codes <= high))
                inside = np.abs(q) < 0.999  # 1 is an edge
                assert np.count_nonzero(low[inside] != high[inside]) <= 0.1 * exact.size
                back = ref.dequantize(codes, scale, signed)
                largest = np.repeat(scale, 256)[: exact.size].reshape(exact.shape)
                assert np.all(np.abs(back - exact) <= (0.0071 if signed else 0.0036) * largest)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
@variants
def test_small_moments_on_every_target(variant, state_dtype):
    if not has_small_moments(variant, state_dtype):
        pytest.skip("no such moments")
    shapes = [(257,), (70_001,), (33, 20), (), (0,)]
    params, grads = weights(shapes, FLOAT32), gradients(shapes, FLOAT32, 2)

    def run():
        mine = copied(params)
        opt = ours(variant, mine, state_dtype=state_dtype, **MORE)
        for some in grads:
            opt.step(some)
        return bits([mine, opt.state_dict()])

    every_setting(run, [1, 3])


def test_8bit_of_a_mask():
    """Blocks are of all elements; a masked one keeps its code as long as its block's scale."""
    w = weights([(512,)], FLOAT32)[0]
    kept = np.arange(512) % 4 != 0
    w[~kept] = 0
    opt = rl.AdamW(w, lr=0.1, mask=rl.Mask.from_array(kept), state_dtype="8bit")
    for (g,) in gradients([(512,)], FLOAT32, 3):
        g[~kept] = NAN
        opt.step(g)
    assert not np.any(w[~kept])
    assert np.all(np.isfinite(w))
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        assert np.all(ref.dequantize(*codes_of(opt, name, "param"), signed)[~kept] == 0)


def test_bytes_of_states():
    w = np.zeros(2**16, np.float32)
    sizes = {}
    for state_dtype in (None, "float32", "bfloat16", "8bit"):
        state = rl.AdamW(w, state_dtype=state_dtype).state_dict()
        sizes[state_dtype] = sum(v.nbytes for k, v in state.items() if k.startswith("exp_avg"))
    assert sizes[None] == sizes["float32"] == 8 * w.size
    assert sizes["bfloat16"] == 4 * w.size
    assert sizes["8bit"] == 2 * (w.size + 4 * w.size // 256)


def test_training_with_small_moments():
    """A regression ends where float32 moments end, within a few percent of the way."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200, 300)).astype(np.float32)
    y = a @ rng.standard_normal(300).astype(np.float32)
    losses = {}
    for state_dtype in (None, "bfloat16", "8bit"):
        w = np.zeros(300, np.float32)
        opt = rl.AdamW(w, lr=0.03, weight_decay=0.0, state_dtype=state_dtype)
        for _ in range(150):
            opt.step(a.T @ (a @ w - y) / np.float32(200))
        losses[state_dtype] = float(np.mean((a @ w - y) ** 2))
    start = float(np.mean(y**2))
    assert losses[None] < 0.01 * start
    for state_dtype in ("bfloat16", "8bit"):
        assert losses[state_dtype] < losses[None] + 0.02 * start


# ---- saving

PRECISIONS = {
    "float32": (FLOAT32, {}),
    "float64": (np.dtype(np.float64), {}),
    "bfloat16": (BFLOAT16, {}),
    "float16": (np.dtype(np.float16), {}),
    "master": (BFLOAT16, {"master_weights": True}),
    "kahan": (np.dtype(np.float16), {"kahan": True}),
    "stochastic": (BFLOAT16, {"stochastic_rounding": KEY}),
    "bfloat16 moments": (FLOAT32, {"state_dtype": "bfloat16"}),
    "8bit": (FLOAT32, {"state_dtype": "8bit"}),
    "average": (FLOAT32, {"ema": 0.9}),
    "accumulation": (BFLOAT16, {"accumulation_steps": 2, "ema": 0.5}),
    "all small": (BFLOAT16, {"state_dtype": "8bit", "stochastic_rounding": KEY, "ema": 0.9}),
}
precisions = pytest.mark.parametrize("precision", PRECISIONS)


def through_npz(state, tmp_path):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return np.load(file)


def through_safetensors(state, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(state, tmp_path / "state.safetensors")
    return numpy.load_file(tmp_path / "state.safetensors")


def numbered(tree):
    return {"w": [tree[0], tree[1]], "b": {"c": tree[2], "empty": tree[3]}}


@precisions
@variants
def test_resuming(variant, precision, tmp_path):
    check_resuming(variant, precision, through_npz, tmp_path)


@precisions
def test_resuming_through_safetensors(precision, tmp_path):
    check_resuming("AdamW", precision, through_safetensors, tmp_path)


def check_resuming(variant, precision, through, tmp_path):
    """Three steps, a stop, three steps: the bits of six steps. Half a sum may be under way."""
    dtype, options = PRECISIONS[precision]
    if not has_small_moments(variant, options.get("state_dtype")):
        pytest.skip("no such moments")
    grads = gradients(SHAPES, dtype, 6)
    frozen = [numbered([None if k == 1 and i == 0 else g for i, g in enumerate(gs)])
              for k, gs in enumerate(grads)]  # fmt: skip
    params = numbered(weights(SHAPES, dtype))
    opt = ours(variant, params, **MORE, **options)
    for some in frozen[:3]:
        opt.step(some)
    resumed = copied(params)
    state = opt.state_dict()
    new = ours(variant, resumed, **MORE, **options)
    new.load_state_dict(through(state, tmp_path))
    assert bits(new.state_dict()) == bits(state)
    assert new.steps == opt.steps
    for some in frozen[3:]:
        opt.step(some)
        new.step(some)
    assert bits(resumed) == bits(params)
    assert bits(new.state_dict()) == bits(opt.state_dict())


@precisions
@every_optimizer
def test_pickling(variant, precision):
    dtype, options = PRECISIONS[precision]
    if not has_small_moments(variant, options.get("state_dtype")):
        pytest.skip("no such moments")
    grads = gradients(SHAPES, dtype, 6)
    params = weights(SHAPES, dtype)
    more = {**MORE, "mask": rl.MaskSet.from_array([np.asarray(p != 0) for p in params])}
    more |= {"constraint": rl.Box(-2, 2), "on_nonfinite": "raise"}
    opt = ours(variant, params, **more, **options)
    for some in grads[:3]:
        opt.step(some)
    resumed, new = pickle.loads(pickle.dumps((params, opt)))
    assert bits(resumed) == bits(params)
    assert not any(np.shares_memory(a, b) for a, b in zip(resumed, params, strict=True))
    for some in grads[3:]:
        opt.step(some)
        new.step(some)
    assert bits(resumed) == bits(params)
    assert bits(new.state_dict()) == bits(opt.state_dict())
    assert (new.lr, new.clip, new.penalty) == (opt.lr, opt.clip, opt.penalty)
    bad = [np.full(p.shape, NAN, dtype) for p in params]
    before = bits([resumed, new.state_dict()])
    with pytest.raises(rl.NonFiniteError, match="grads"):  # at once, also where sums are kept
        new.step(bad)
    assert bits([resumed, new.state_dict()]) == before


def test_copying():
    w = np.ones(3)
    opt = rl.AdamW(w, lr=0.1)
    opt.step(np.ones(3))
    other, both = copy.deepcopy((w, opt))
    both.step(np.ones(3))
    assert w[0] != other[0]
    assert opt.steps == 1
    opt.step(np.ones(3))
    assert bits(w) == bits(other)


def test_pickling_torch_parameters():
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.ones(3))
    opt = rl.AdamW([p], lr=0.1)
    opt.step([torch.ones(3)])
    other, new = pickle.loads(pickle.dumps((p, opt)))
    new.step([torch.ones(3)])
    opt.step([torch.ones(3)])
    assert bits(from_torch(p)) == bits(from_torch(other))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@precisions
def test_files(precision, suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy")
    dtype, options = PRECISIONS[precision]
    params = weights(SHAPES, dtype)
    opt = ours("AdamW", params, **options)
    grads = gradients(SHAPES, dtype, 3)
    for some in grads:
        opt.step(some)
    for file in (tmp_path / f"a{suffix}", str(tmp_path / f"b{suffix}")):
        opt.save(file)
        new = ours("AdamW", copied(params), **options)
        new.load(file)
        assert bits(new.state_dict()) == bits(opt.state_dict())
    with pytest.raises(ValueError, match=r"^file: got .*wants"):
        opt.save(tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"^file: got .*wants"):
        opt.load(tmp_path / "state.pt")
    with pytest.raises(FileNotFoundError):
        opt.load(tmp_path / f"none{suffix}")


def test_what_is_saved():
    params = {"w": [np.ones((2, 3), np.float32)], "b": np.ones(4, BFLOAT16), "d": np.ones(())}
    opt = rl.AdamW(params, ema=0.5, amsgrad=True)
    state = opt.state_dict()
    moments = [f"{m}/{p}" for m in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "ema")
               for p in ("w/0", "b", "d")]  # fmt: skip
    assert set(state) == {"version", "optimizer", "step", "steps", *moments}
    assert all(type(v) is np.ndarray and v.dtype.kind in "iuf" for v in state.values())
    assert (state["version"].shape, state["version"].dtype, int(state["version"])) == (
        (), np.int64, 1,
    )  # fmt: skip
    assert state["optimizer"].tobytes() == b"AdamW"
    assert state["step"].shape == ()
    assert (state["steps"].dtype, state["steps"].tolist()) == (np.int64, [0, 0, 0])
    assert state["exp_avg/w/0"].shape == (2, 3)
    assert [state[f"exp_avg/{p}"].dtype for p in ("w/0", "b", "d")] == [
        np.float32, np.float32, np.float64
    ]  # fmt: skip
    grads = copied(params)
    grads["b"] = None
    opt.step(grads)
    assert not np.any(state["exp_avg/d"])  # copies
    later = opt.state_dict()
    assert int(later["step"]) == 1
    assert later["steps"].tolist() == [1, 0, 1]
    later["exp_avg/d"][...] = 5
    assert opt.state["exp_avg"]["d"] == pytest.approx(0.1)
    one = rl.SGD(np.ones(3), momentum=0.5).state_dict()
    assert set(one) == {"version", "optimizer", "step", "steps", "momentum_buffer/param"}
    assert set(rl.SGD(np.ones(3)).state_dict()) == {"version", "optimizer", "step", "steps"}
    masters = rl.SGD([np.ones(3, BFLOAT16)], master_weights=True).state_dict()
    assert masters["master/0"].dtype == np.float32
    rests = rl.SGD([np.ones(3, BFLOAT16)], kahan=True).state_dict()
    assert rests["compensation/0"].dtype == np.uint16
    codes = rl.AdamW([np.ones(300, np.float32)], state_dtype="8bit").state_dict()
    assert codes["exp_avg/0"].dtype == np.uint8
    assert (codes["exp_avg_scale/0"].dtype, codes["exp_avg_scale/0"].shape) == (np.float32, (2,))


def test_half_a_sum_is_saved():
    w = np.zeros(3, BFLOAT16)
    opt = rl.SGD([w], lr=1.0, accumulation_steps=2)
    opt.step([np.full(3, 3.0, BFLOAT16)])
    state = opt.state_dict()
    assert state["accumulated/0"].dtype == np.float32
    assert state["accumulated/0"].tolist() == [3, 3, 3]
    other = np.zeros(3, BFLOAT16)
    new = rl.SGD([other], lr=1.0, accumulation_steps=2)
    new.load_state_dict(state)
    for bad in (-1, 2):
        with pytest.raises(ValueError, match=r"micro_step.*: got .*wants"):
            new.load_state_dict({**state, "micro_step": np.array(bad)})
    assert new.step([np.full(3, 1.0, BFLOAT16)]).updated
    assert other.astype(float).tolist() == [-2, -2, -2]


def test_states_that_do_not_fit():
    params = {"w": [np.ones((2, 3), np.float32)], "b": np.ones(4, np.float32)}
    opt = rl.AdamW(params, ema=0.5)
    opt.step(copied(params))
    good = opt.state_dict()
    before = bits([params, good])

    def without(key):
        return {k: v for k, v in good.items() if k != key}

    later = good["version"] + 1
    shape = np.ones((3, 2), np.float32)
    for bad, match in [
        ({**good, "version": later}, "version 2, wants 1"),
        ({**good, "optimizer": np.frombuffer(b"Adam", np.uint8)}, "state: got .*wants AdamW"),
        ({**good, "optimizer": np.frombuffer(b"AdamX", np.uint8)}, "state: got .*wants AdamW"),
        (without("version"), "version"),
        (without("optimizer"), "state: got no 'optimizer'"),
        (without("step"), "step"),
        (without("steps"), "steps"),
        (without("exp_avg/b"), "exp_avg/b"),
        (without("ema/w/0"), "ema/w/0"),
        ({**good, "exp_avg/c": shape}, "exp_avg/c"),
        ({**good, "momentum_buffer/b": good["exp_avg/b"]}, "momentum_buffer/b"),
        ({**good, "exp_avg/w/0": shape}, r"exp_avg/w/0.*: got .*wants"),
        ({**good, "exp_avg/w/0": good["exp_avg/w/0"].ravel()}, r"exp_avg/w/0.*: got .*wants"),
        ({**good, "exp_avg/b": good["exp_avg/b"].astype(float)}, r"exp_avg/b.*: got .*wants"),
        ({**good, "exp_avg_sq/b": np.ones(4, np.uint8)}, r"exp_avg_sq/b.*: got .*wants"),
        ({**good, "steps": np.ones(3, np.int64)}, r"steps.*: got .*wants"),
        ({**good, "steps": -good["steps"]}, r"steps.*: got .*wants"),
        ({**good, "step": np.array(-1)}, r"step.*: got .*wants"),
        (rl.AdamW(params, ema=0.5, state_dtype="8bit").state_dict(), "exp_avg"),
        (rl.AdamW(params).state_dict(), "ema"),
        (rl.AdamW(params, ema=0.5, amsgrad=True).state_dict(), "max_exp_avg_sq"),
        ({}, "version|state"),
    ]:
        with pytest.raises((ValueError, TypeError, KeyError), match=match):
            opt.load_state_dict(bad)
        assert bits([params, opt.state_dict()]) == before, match
    with pytest.raises((TypeError, ValueError), match="state"):
        opt.load_state_dict(3)
    opt.load_state_dict(dict(reversed(good.items())))
    assert bits([params, opt.state_dict()]) == before


def test_nadam_resumes_with_other_betas():
    """Its product of momenta is that of the steps taken, whatever the numbers are now."""
    w = weights([(50,)], np.float64)[0]
    grads = [g for (g,) in gradients([(50,)], np.float64, 4)]
    opt = rl.NAdam(w, lr=0.1)
    opt.step(grads[0])
    opt.betas = (0.5, 0.9)
    opt.step(grads[1])
    other = w.copy()
    new = rl.NAdam(other, lr=0.1, betas=(0.5, 0.9))
    new.load_state_dict(opt.state_dict())
    for g in grads[2:]:
        opt.step(g)
        new.step(g)
    assert bits(w) == bits(other)


# ---- options that do not fit the parameters


def test_wrong_precision():
    w = np.ones(3, BFLOAT16)
    for name, bad in [
        ("state_dtype", "int4"), ("state_dtype", 4), ("state_dtype", np.int32),
        ("master_weights", "yes"), ("kahan", 1.5),
    ]:  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: got .*wants"):
            rl.AdamW(w, **{name: bad})
    with pytest.raises(ValueError, match=r"kahan|master_weights"):
        rl.AdamW(w, kahan=True, master_weights=True)


# ---- parameters that somebody else writes


def test_master_weights_follow_what_others_write():
    w = np.full(300, 2.0, BFLOAT16)
    opt = rl.SGD([w], lr=0.0, master_weights=True)
    g = [np.zeros(300, BFLOAT16)]
    rl.Box(0.0, 1.0).project_(w)
    opt.step(g)
    assert np.all(w == 1)
    w[7] = 5.0
    opt.step(g)
    assert w[7] == 5
    assert opt.state["master"][0][7] == 5
    # What only rounding hides stays: 1 + 300 * 1e-4 in steps that bfloat16 alone would lose.
    small = rl.SGD([w], lr=1e-4, master_weights=True)
    w[:] = 1.0
    for _ in range(300):
        small.step([np.full(300, -1.0, BFLOAT16)])
    assert abs(small.state["master"][0][0] - 1.03) < 1e-5


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "8bit"])
def test_a_mask_can_reset_states(state_dtype):
    w = np.ones(600, np.float32)
    opt = rl.Adam([w], lr=0.1, state_dtype=state_dtype)
    opt.step([np.ones(600, np.float32)])
    keep = np.arange(600) % 3 != 0
    mask = rl.Mask.from_array(keep)
    before = bits(opt.state)
    opt.set_mask([mask])
    assert bits(opt.state) == before
    opt.set_mask([mask], reset=True)
    assert opt.mask[0] == mask
    zero = {"exp_avg": 127, "exp_avg_sq": 0} if state_dtype == "8bit" else {}
    for name in ("exp_avg", "exp_avg_sq"):
        (state,) = opt.state[name]
        assert np.all(state[~keep] == zero.get(name, 0))
        assert np.all(state[keep] != zero.get(name, 0))
    with pytest.raises(TypeError, match=r"^reset: got int, wants"):
        opt.set_mask([mask], reset=1)


def test_moments_that_small_types_cannot_hold():
    w = np.ones(300, np.float32)
    for state_dtype in ("bfloat16", "8bit"):
        with pytest.raises(ValueError, match=r"^state_dtype: got .* centered RMSprop.*wants"):
            rl.RMSprop(w, centered=True, state_dtype=state_dtype)


def test_an_outlier_takes_no_others_with_it():
    """v overflows for one of them: the others' moments are as small as their codes let them be."""
    w = np.ones(600, np.float32)
    opt = rl.Adam([w], lr=1e-3, state_dtype="8bit")
    g = np.ones(600, np.float32)
    g[5] = 1e21
    for _ in range(3):
        opt.step([g])
    others = np.delete(w, 5)
    assert np.all(np.isfinite(others))
    assert np.all(others < 1)
