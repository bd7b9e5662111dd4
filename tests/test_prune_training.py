"""Pruner, SET and RigL in loops: counts at every step, zeros that stay, resuming, bad arguments."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
from helpers import bits, copied, dtypes, every_setting, read_only, sample, unchanged

import ridgeline as rl
from ridgeline.prune import (
    NM,
    SET,
    Block,
    ConstantSchedule,
    CubicSchedule,
    LinearSchedule,
    OneShotSchedule,
    Pruner,
    PruneReport,
    RigL,
    rows,
)
from ridgeline.reference import pruning as ref

CUBIC = CubicSchedule(0.9, begin=3, end=23, every=5)
KEY = rl.Key(7)


def model(seed=0, dtype=np.float32):
    """Weights of several shapes, with ties and zeros among them."""
    return {
        "w1": sample((13, 11), dtype, seed),
        "block": [sample((5, 8), dtype, seed + 1), {"b": sample((9,), dtype, seed + 2)}],
        "ties": np.asarray(np.tile([2.0, -1.0, 1.0], 7), dtype),
        "empty": np.zeros((0, 3), dtype),
    }


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def zeros(tree):
    tree = copied(tree)
    for leaf in leaves(tree):
        leaf[...] = 0
    return tree


def noise(tree, seed, scale=1.0):
    """Gradients: random, the same for the same seed."""
    tree, rng = copied(tree), np.random.default_rng(seed)
    for leaf in leaves(tree):
        leaf[...] = scale * rng.standard_normal(leaf.shape)
    return tree


def flat_masks(masks):
    return [masks] if isinstance(masks, rl.Mask) else [mask for _, mask in masks.flat()]


def assert_zero(masks, *trees):
    """What is pruned is 0 in all of them."""
    for tree in trees:
        for mask, leaf in zip(flat_masks(masks), leaves(tree), strict=True):
            assert not np.any(leaf[~mask.to_array()])


def momentum(params, velocity, grads, lr=0.1):
    for w, v, g in zip(leaves(params), leaves(velocity), leaves(grads), strict=True):
        v *= 0.9
        v += g
        w -= lr * v


def adam(params, m, v, grads, t, lr=0.1):
    for w, a, b, g in zip(leaves(params), leaves(m), leaves(v), leaves(grads), strict=True):
        a += 0.1 * (g - a)
        b += 0.001 * (g * g - b)
        w -= lr * (a / (1 - 0.9 ** (t + 1))) / (np.sqrt(b / (1 - 0.999 ** (t + 1))) + 1e-8)


# --- Pruner ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_states", [False, True])
def test_counts_and_zeros_under_momentum(with_states):
    params = model()
    velocity = zeros(params)
    pruner = Pruner(params, CUBIC, states=[velocity] if with_states else None)
    before = pruner.masks
    size = sum(leaf.size for leaf in leaves(params))
    for step in range(30):
        assert pruner.step_count == step
        assert pruner.will_update == CUBIC.is_update(step)
        momentum(params, velocity, noise(params, step))
        report = pruner.step()
        pruned = [round(CUBIC(step) * leaf.size) for leaf in leaves(params)]
        gone = [mask.size - mask.count for mask in flat_masks(pruner.masks)]
        assert gone == pruned
        assert report == PruneReport(
            step,
            sum(pruned) / size,
            CUBIC.is_update(step),
            sum(pruned),
            (before & ~pruner.masks).count,
        )
        assert pruner.sparsity == report.sparsity == pruner.masks.sparsity
        assert not (pruner.masks & ~before).count  # pruned stays pruned
        assert_zero(pruner.masks, params)
        if with_states:
            assert_zero(pruner.masks, velocity)
        before = pruner.masks
    assert report.sparsity > 0.88


def test_counts_and_zeros_under_adam():
    params = model()
    m, v = zeros(params), zeros(params)
    pruner = Pruner(
        params,
        LinearSchedule(0.8, 0, 20, 4),
        scope="global",
        exclude="ties",
        states={"m": m, "v": v},
    )
    counted = sum(leaf.size for leaf in leaves(params)) - 21
    for step in range(25):
        adam(params, m, v, noise(params, step), step)
        report = pruner.step()
        assert report.pruned == round(min(step - step % 4, 20) / 20 * 0.8 * counted)
        assert pruner.masks["ties"].sparsity == 0
        assert_zero(pruner.masks, params, m, v)


def test_masks_are_those_of_magnitude():
    """At each update those of what the optimizer left, given the masks before."""
    params = model()
    pruner = Pruner(params, CUBIC, scope="global", normalize="rms")
    masks = None
    for step in range(25):
        momentum(params, zeros(params), noise(params, step))
        plain = copied(params)
        pruner.step()
        if CUBIC.is_update(step):
            masks = rl.prune.magnitude(
                plain, CUBIC(step), scope="global", normalize="rms", mask=masks
            )
            assert pruner.masks == masks
        if masks is not None:
            masks.apply_(plain)
        assert bits(params) == bits(plain)


@pytest.mark.parametrize("structure", [Block((2, 2)), rows(), NM(2, 4)])
def test_structures(structure):
    w = sample((12, 16), np.float32, 3)
    schedule = OneShotSchedule(0.5, 2) if isinstance(structure, NM) else LinearSchedule(0.5, 2, 6)
    pruner = Pruner([w], schedule, structure=structure)
    for step in range(9):
        w += 0.1 * sample(w.shape, np.float32, step)
        plain = w.copy()
        report = pruner.step()
        if schedule.is_update(step) and schedule(step) == 0.5:
            assert report.sparsity == 0.5
        assert_zero(pruner.masks, [w])
        kept = pruner.masks[0].to_array()
        assert np.array_equal(w[kept], plain[kept])
    if isinstance(structure, NM):
        assert np.all(kept.reshape(12, 4, 4).sum(axis=-1) == 2)
    elif structure == rows():
        assert sorted(kept.sum(axis=1)) == [0] * 6 + [16] * 6
    else:
        assert set(kept.reshape(6, 2, 8, 2).sum(axis=(1, 3)).ravel()) == {0, 4}


def test_nm_with_a_constant_schedule():
    w = sample((8, 8), np.float32)
    pruner = Pruner(
        w, ConstantSchedule(0.5, begin=2, every=3), structure=NM(2, 4), incremental=False
    )
    for step in range(9):
        w += sample(w.shape, np.float32, step)
        assert pruner.step().sparsity == (0.5 if step >= 2 else 0)


def test_not_incremental():
    """What is pruned comes back if the optimizer makes it large enough in a step."""
    w = np.array([4.0, 3.0, 2.0, 1.0])
    for incremental, left in ((True, [4, 3, 0, 0]), (False, [4, 0, 0, 9])):
        params = w.copy()
        pruner = Pruner(params, ConstantSchedule(0.5), incremental=incremental)
        assert pruner.step().dropped == 2
        params[3] += 9
        report = pruner.step()
        assert np.array_equal(params, left)
        assert (report.dropped, report.grown) == ((0, 0) if incremental else (1, 1))
        assert report.pruned == 2


def test_a_schedule_that_falls():
    """Nothing comes back but if all compete."""
    schedule = LinearSchedule(0.0, 0, 4, initial=0.8)
    for incremental, sparsity in ((True, 0.8), (False, 0.0)):
        w = np.arange(1.0, 11.0)
        pruner = Pruner(w, schedule, incremental=incremental)
        for _ in range(6):
            report = pruner.step()
        assert report.sparsity == sparsity


def test_random():
    params = model()
    pruner = Pruner(params, LinearSchedule(0.6, 0, 6, 3), method="random", key=KEY, exclude="block")
    for step in range(8):
        report = pruner.step()
        sparsity = min(step - step % 3, 6) / 6 * 0.6
        assert pruner.masks == rl.prune.random(params, sparsity, KEY, exclude="block")
    assert report.pruned == round(0.6 * 143) + round(0.6 * 21)


def test_a_method_of_your_own():
    """Movement pruning: the function sees the masks before, and is called at updates only."""
    params, scores, seen = model(), zeros(model()), []

    def method(arrays, sparsity, mask):
        seen.append((arrays, sparsity, mask))
        return rl.prune.by_score(scores, sparsity, scope="global", mask=mask)

    schedule = LinearSchedule(0.5, 1, 5, 2)
    pruner = Pruner(params, schedule, method=method)
    size = pruner.masks.size
    for step in range(7):
        grads = noise(params, step)
        rl.prune.scores.movement_(scores, params, grads)
        before = pruner.masks
        report = pruner.step()
        assert report.pruned == round(schedule(step) * size)
    assert [sparsity for _, sparsity, _ in seen] == [0.25, 0.5]  # none at a sparsity of 0
    assert seen[0][2].sparsity == 0
    assert seen[0][0] is params
    assert before == pruner.masks

    seen.clear()
    Pruner(params, ConstantSchedule(0.5), method=method, incremental=False).step()
    assert seen[0][2] is None


def test_what_params_may_be():
    w = sample((6, 5), np.float32)
    expected = rl.prune.magnitude(w + 1, 0.5)
    once = OneShotSchedule(0.5, 0)
    for make in (
        lambda x: x,
        lambda x: [x],
        lambda x: (x,),
        lambda x: {"w": x},
        lambda x: iter([x]),
        lambda x: [(y for y in [x])],
        lambda x: {"deep": [{"w": x}]},
    ):
        x = w.copy()
        pruner = Pruner(make(x), once)
        for _ in range(3):
            x += 1
            pruner.step()
        assert flat_masks(pruner.masks) == [expected]
        assert_zero(expected, x)
    assert isinstance(Pruner(w, once).masks, rl.Mask)
    assert Pruner([], once).step() == PruneReport(0, 0.0, True, 0)


def test_arrays_that_are_replaced():
    params = {"w": np.array([1.0, 2.0])}
    pruner = Pruner(params, OneShotSchedule(0.5, 0))
    pruner.step()
    old, params["w"] = params["w"], params["w"] + 1  # in the container
    pruner.step()
    assert np.array_equal(params["w"], [0, 3])
    assert np.array_equal(old, [0, 2])
    new = {"w": np.array([5.0, 6.0])}
    pruner.step(new)  # another container
    new["w"] += 1
    pruner.step()
    assert np.array_equal(new["w"], [0, 7])


def test_missing_gradients():
    """None, as of a frozen layer, is passed over."""
    params = {"a": sample(40, np.float32, 1), "b": sample(50, np.float32, 2)}
    pruner = Pruner(params, OneShotSchedule(0.7, 0))
    pruner.step()
    grads = {"a": None, "b": np.ones(50, np.float32)}
    pruner.mask_gradients_(grads)
    assert grads["a"] is None
    assert np.array_equal(grads["b"] != 0, np.asarray(pruner.masks["b"]))
    pruner.mask_gradients_({"a": None, "b": None})
    one = Pruner(params["a"], OneShotSchedule(0.7, 0))
    with pytest.raises(TypeError, match=r"^grads: got NoneType, wants an array"):
        one.mask_gradients_(None)
    for make in (dict, lambda d: list(d.values())):
        rigl = RigL(make(params), 0.5, KEY, end=9, every=1, budget="uniform")
        alone = RigL({"b": params["b"]}, 0.5, KEY, end=9, every=1, budget="uniform")
        before = flat_masks(rigl.masks)
        alone.load_state_dict({**alone.state_dict(), "words": [before[1]._words]})
        rigl.step(grads=None)
        alone.step(grads=None)
        grad = sample(50, np.float32, 3)
        report = rigl.step(grads=make({"a": None, "b": grad}))
        alone.step(grads={"b": grad})
        after = flat_masks(rigl.masks)
        assert after[0] == before[0]
        assert after[1] == alone.masks["b"] != before[1]
        assert report.dropped == report.grown > 0
        rigl.step(grads=make({"a": None, "b": None}))
        assert flat_masks(rigl.masks) == after


def test_mask_gradients():
    params = model()
    pruner = Pruner(params, OneShotSchedule(0.7, 0))
    pruner.step()
    grads = noise(params, 1)
    plain = copied(grads)
    pruner.mask_gradients_(grads)
    pruner.masks.apply_(plain)
    assert bits(grads) == bits(plain)
    w = np.array([1.0, 2.0])
    one = Pruner(w, OneShotSchedule(0.5, 0))
    one.step()
    grad = np.ones(2)
    one.mask_gradients_(grad)
    assert np.array_equal(grad, [0, 1])


def test_states_of_one_array():
    w, m, v = np.array([1.0, 2.0]), np.ones(2), np.ones(2)
    pruner = Pruner(w, OneShotSchedule(0.5, 0), states=[m, v])
    assert np.array_equal(m, [1, 1])  # nothing is written before
    pruner.step()
    assert np.array_equal([m, v], [[0, 1], [0, 1]])
    other = np.ones(2)
    pruner.reset_state_({"other": other})
    assert np.array_equal(other, [0, 1])
    m[:] = w[:] = 3
    pruner.apply_()
    assert np.array_equal([w, m], [[0, 3], [0, 3]])
    assert pruner.step_count == 1


def test_moments_under_masked_gradients_stay_zero():
    """`reset_state_` once and masked gradients are enough."""
    params = model()
    m, v = zeros(params), zeros(params)
    pruner = Pruner(params, CUBIC)
    for step in range(30):
        grads = noise(params, step)
        pruner.mask_gradients_(grads)
        adam(params, m, v, grads, step)
        if pruner.step().updated:
            pruner.reset_state_([m, v])
        assert_zero(pruner.masks, params, m, v)


def test_the_same_for_every_setting():
    def run():
        params = model()
        velocity = zeros(params)
        pruner = Pruner(params, CUBIC, scope="global", states=[velocity])
        rigl = RigL(copied(params), 0.8, KEY, end=20, every=3)
        sets = SET(copied(params), 0.8, KEY, every=3)
        for step in range(25):
            grads = noise(params, step)
            momentum(params, velocity, grads)
            pruner.step()
            rigl.step(grads=grads)
            sets.step()
        return [bits(params)] + [bits(each.masks.to_array()) for each in (pruner, rigl, sets)]

    every_setting(run, threads=[1, 3])


# --- SET and RigL ---------------------------------------------------------------------------------


def of_key(key, size, first):
    """Random scores of the elements of an array, as the reference has them."""
    return ref.choice_words(key, first + np.arange(size)).astype(np.float64)


def oracle(arrays, masks, k_of, growth):
    """One update in plain NumPy, array by array, with stable sorts.

    Drop the active of least magnitude, the last of equal ones first; grow the best of all that did
    not stay, the first of equal ones.
    """
    new = []
    for i, (w, mask) in enumerate(zip(arrays, masks, strict=True)):
        w, active = np.abs(w.ravel().astype(np.float64)), mask.ravel()
        k = k_of(active.sum())
        order = np.lexsort((-np.arange(w.size), w))
        going = [j for j in order if active[j]][:k]
        stay = active.copy()
        stay[going] = False
        score = growth(i, stay)
        best = [j for j in np.lexsort((np.arange(w.size), -score)) if not stay[j]][:k]
        stay[best] = True
        new.append(stay.reshape(mask.shape))
    return new


def half_even(x):
    down = math.floor(x)
    return down + (x - down > 0.5 or (x - down == 0.5 and down % 2))


def run_against_oracle(kind, fraction, exclude):
    params, steps, every, end = model(), 24, 4, 16
    m, v = zeros(params), zeros(params)
    plain = copied(params)
    pm, pv = zeros(params), zeros(params)
    arguments = {"fraction": fraction, "every": every, "end": end, "exclude": exclude}
    sparse = kind(params, 0.7, KEY, states=[m, v], **arguments)
    fractions = rl.prune.budget.erk(params, 0.7, exclude=exclude)
    first = rl.prune.random(params, fractions, KEY.fold_in(0), exclude=exclude)
    assert sparse.masks == first
    masks = [mask.to_array() for mask in flat_masks(first)]
    counts = [mask.sum() for mask in masks]
    sparse.apply_()
    sizes = [array.size for array in leaves(plain)]
    for array, mask in zip(leaves(plain), masks, strict=True):
        array[~mask] = 0
    for step in range(steps):
        grads = noise(params, step)
        adam(params, m, v, grads, step)
        adam(plain, pm, pv, grads, step)
        report = sparse.step(grads=grads) if kind is RigL else sparse.step()

        update = step > 0 and step % every == 0 and step <= end
        f = fraction
        if kind is RigL:
            f = fraction / 2 * (1 + math.cos(math.pi * step / end))
        old = masks
        if update:

            def growth(i, stay, step=step, grads=grads):
                if kind is RigL:
                    return np.abs(leaves(grads)[i].ravel().astype(np.float64))
                return of_key(KEY.fold_in(step), sizes[i], sum(sizes[:i]))

            masks = oracle(leaves(plain), masks, lambda a, f=f: int(half_even(f * a)), growth)
        for trees in zip(leaves(plain), leaves(pm), leaves(pv), masks, old, strict=True):
            for array in trees[:3]:
                array[~(trees[3] & trees[4])] = 0
        assert [mask.sum() for mask in masks] == counts
        for mine, mask in zip(flat_masks(sparse.masks), masks, strict=True):
            assert np.array_equal(mine.to_array(), mask)
        assert bits([params, m, v]) == bits([plain, pm, pv])
        assert report == PruneReport(
            step,
            sparse.masks.sparsity,
            update,
            sum(sizes) - sum(counts),
            *[
                sum(int((a & ~b).sum()) for a, b in zip(*pair, strict=True))
                for pair in ((old, masks), (masks, old))
            ],
        )
        if update:
            assert report.dropped == report.grown
    return report


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 1.0, 0.0])
@pytest.mark.parametrize("exclude", [None, ["block/1", "ties"]])
def test_against_the_oracle(kind, fraction, exclude):
    run_against_oracle(kind, fraction, exclude)


def test_when_connections_move():
    w = np.ones(100)
    sets = SET(w, 0.5, KEY, every=3, end=7)
    rigl = RigL(w, 0.5, KEY, every=3, end=9)
    moved, moved_by_gradient = [], []
    for step in range(15):
        assert sets.will_update == (step in (3, 6))
        if sets.step().updated:
            moved.append(step)
        if rigl.step(grads=w if rigl.will_update else None).updated:
            moved_by_gradient.append(step)
    assert moved == [3, 6]
    assert moved_by_gradient == [3, 6, 9]
    endless = SET(w, 0.5, KEY, every=50)
    assert sum(endless.step().updated for _ in range(1000)) == 19


def test_moves_only_what_is_not_dense():
    """Arrays that ERK keeps dense, and excluded ones, are not touched."""
    params = {"w": sample((64, 64), np.float32), "b": sample((64,), np.float32), "x": np.ones(5)}
    kept = {name: params[name].copy() for name in ("b", "x")}
    sparse = RigL(params, 0.9, KEY, end=10, every=1, exclude="x")
    for step in range(12):
        report = sparse.step(grads=noise(params, step))
    assert bits({name: params[name] for name in ("b", "x")}) == bits(kept)
    assert sparse.masks["b"].sparsity == sparse.masks["x"].sparsity == 0
    assert report.pruned == round(0.9 * (4096 + 64))


@pytest.mark.parametrize(
    ("sparsity", "keywords", "pruned"),
    [
        (0.5, {"budget": "uniform"}, [72, 20, 4, 10, 0]),
        (0.5, {"budget": "uniform", "exclude": 0}, [0, 20, 4, 10, 0]),
        ([0.25, 1.0, 0, 0.5, 0], {}, [36, 40, 0, 10, 0]),
        (0.0, {}, [0, 0, 0, 0, 0]),
        (1.0, {}, [143, 40, 9, 21, 0]),
    ],
)
def test_first_masks(sparsity, keywords, pruned):
    params = leaves(model())
    with unchanged(params):
        for sparse in (
            SET(params, sparsity, KEY, **keywords),
            RigL(params, sparsity, KEY, end=9, **keywords),
        ):
            assert [mask.size - mask.count for mask in sparse.masks] == pruned
    for _ in range(3):
        sparse.step(grads=params)
    assert sparse.masks.sparsity == sum(pruned) / 213
    assert_zero(sparse.masks, params)
    assert SET(params, 0.7, KEY).masks == RigL(params, 0.7, KEY, end=9).masks
    assert SET(params, 0.7, KEY).masks != SET(params, 0.7, rl.Key(8)).masks


def test_growth_by_gradient_by_hand():
    """Ties go to the lower index; NaN is the largest."""
    w = np.array([5.0, 1.0, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0])
    keep = rl.Mask.from_array([True] * 4 + [False] * 4)

    def sparse():
        result = RigL(w.copy(), 0.5, KEY, end=2**40, fraction=0.25, every=1)
        state = result.state_dict()
        state["words"][0][:] = keep._words
        state["step"] = 1
        result.load_state_dict(state)
        return result

    for gradient, grown in (
        ([9, 9, 9, 9, 1, 2, 2, 0], 2),  # the one dropped comes back: its gradient is the largest
        ([9, 9, 0, 9, 1, 2, -2, 0], 5),
        ([9, 9, 3, 9, 1, 2, np.nan, np.inf], 6),
        ([0, 0, 0, 0, 0, 0, 0, 0], 2),
    ):
        one = sparse()
        report = one.step(grads=np.array(gradient, float))
        expected = {0, 1, 3, grown}  # of the two ones the last goes
        assert set(np.flatnonzero(one.masks.to_array())) == expected
        assert report.grown == report.dropped == (grown != 2)


def test_set_keeps_any_choice():
    """Each pruned element comes about as often as another, and a dropped one may come back."""
    size, came = 40, np.zeros(40)
    for seed in range(400):
        w = np.arange(1.0, size + 1)
        sparse = SET(w, 0.5, rl.Key(seed), fraction=0.5, every=1)
        sparse.step()
        survivors = rl.prune.magnitude(w, 0.5, mask=sparse.masks, of="remaining").to_array()
        sparse.step()
        new = sparse.masks.to_array() & ~survivors
        assert new.sum() == 10
        came += new - 10 / 30 * ~survivors
    assert abs(came.sum()) < 1e-6
    assert np.abs(came).max() < 5 * math.sqrt(400 * 0.75 * 2 / 9)


def test_moments_of_grown_weights():
    w, m = np.arange(1.0, 101.0), np.ones(100)
    sparse = SET(w, 0.5, KEY, fraction=0.4, every=1, states=[m])
    sparse.step()
    before = sparse.masks.to_array()
    w += 50  # an optimizer that writes everywhere
    m += 1
    report = sparse.step()
    after = sparse.masks.to_array()
    assert report.grown == (after & ~before).sum() > 0
    assert np.all(w[after & ~before] == 0)
    assert np.array_equal(m != 0, after & before)
    assert np.array_equal(w != 0, after & before)


@dtypes
def test_dtypes(dtype):
    params = model(dtype=dtype)
    m = zeros(params)
    size = sum(leaf.size for leaf in leaves(params))
    pruner = Pruner(
        copied(params), LinearSchedule(0.5, 0, 4), scope="global", states=[zeros(params)]
    )
    sets = SET(copied(params), 0.7, KEY, every=2, states=[zeros(params)])
    rigl = RigL(params, 0.7, KEY, end=9, every=2, states=[m])
    counts = [mask.count for mask in flat_masks(rigl.masks)]
    for step in range(9):
        grads = noise(params, step)
        momentum(params, m, grads)
        assert pruner.step().pruned == round(min(step, 4) / 8 * size)
        assert sets.step().updated == rigl.step(grads=grads).updated == (step in (2, 4, 6, 8))
        for sparse in (sets, rigl):
            assert [mask.count for mask in flat_masks(sparse.masks)] == counts
        assert_zero(rigl.masks, params, m)


# --- state ----------------------------------------------------------------------------------------


def makers(params, states):
    return {
        "Pruner": lambda: Pruner(params, CUBIC, states=states),
        "random": lambda: Pruner(params, CUBIC, states=states, method="random", key=KEY),
        "SET": lambda: SET(params, 0.7, KEY, every=4, end=16, states=states),
        "RigL": lambda: RigL(params, 0.7, KEY, every=4, end=16, states=states),
    }


def steps_of(pruner, params, velocity, steps):
    for step in steps:
        grads = noise(params, step)
        momentum(params, velocity, grads)
        if isinstance(pruner, RigL):
            pruner.step(grads=grads)
        else:
            pruner.step()


@pytest.mark.parametrize("kind", ["Pruner", "random", "SET", "RigL"])
@pytest.mark.parametrize("stop", [0, 4, 9, 20])
def test_resuming_is_not_stopping(kind, stop):
    whole, velocity = model(), zeros(model())
    pruner = makers(whole, [velocity])[kind]()
    steps_of(pruner, whole, velocity, range(25))

    half, part = model(), zeros(model())
    first = makers(half, [part])[kind]()
    steps_of(first, half, part, range(stop))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    steps_of(first, half, part, range(stop, stop + 3))  # what was saved does not follow

    half, part = model(), zeros(model())
    steps_of(makers(half, [part])[kind](), half, part, range(stop))
    with unchanged(half, part):  # made of trained weights
        second = makers(half, [part])[kind]()
        second.load_state_dict(state)
    assert second.step_count == stop
    steps_of(second, half, part, range(stop, 25))
    assert second.masks == pruner.masks
    assert bits([half, part]) == bits([whole, velocity])
    for word in state["words"]:
        word[...] = 0  # nor does it follow what was saved
    assert second.masks == pruner.masks


def test_state_is_plain():
    pruner = SET(model(), 0.7, KEY)
    state = pruner.state_dict()
    words = state.pop("words")
    assert json.loads(json.dumps(state)) == state
    assert state == {
        "version": 1,
        "kind": "SET",
        "step": 0,
        "key": 7,
        "names": ["w1", "block/0", "block/1/b", "ties", "empty"],
        "shapes": [[13, 11], [5, 8], [9], [21], [0, 3]],
    }
    assert [(word.dtype, word.size) for word in words] == [(np.uint64, n) for n in (3, 1, 1, 1, 0)]
    assert Pruner(np.ones(3), CUBIC).state_dict()["key"] is None


def spoiled(change):
    def state(good):
        good = copy.deepcopy(good)
        change(good)
        return good

    return state


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda s: [s], TypeError, r"state: got list, wants a dict"),
        (spoiled(lambda s: s.pop("words")), ValueError, r"state: got no 'words'"),
        (spoiled(lambda s: s.update(version=2)), ValueError, r"state\['version'\]: got 2, wants 1"),
        (spoiled(lambda s: s.update(kind="RigL")), ValueError, r"'kind'.*'RigL', wants 'SET'"),
        (spoiled(lambda s: s.update(key=8)), ValueError, r"state\['key'\]: got 8, wants 7"),
        (spoiled(lambda s: s.update(step=-1)), ValueError, r"state\['step'\]: got -1"),
        (spoiled(lambda s: s.update(step="1")), TypeError, r"state\['step'\]"),
        (spoiled(lambda s: s.update(names=None)), TypeError, r"'names'\]: got NoneType, wants a"),
        (spoiled(lambda s: s["names"].pop()), ValueError, r"state\['names'\]: got 1, wants 2"),
        (spoiled(lambda s: s["shapes"].append([1])), ValueError, r"'shapes'\]: got 3, wants 2"),
        (
            spoiled(lambda s: s["names"].reverse()),
            ValueError,
            r"state\['names'\]\[0\]: got 'b', wants 'a'",
        ),
        (
            spoiled(lambda s: s["shapes"].__setitem__(1, [7])),
            ValueError,
            r"state\['shapes'\]\[1\]: got \(7,\), wants \(6,\)",
        ),
        (
            spoiled(lambda s: s["words"].__setitem__(0, np.ones(2))),
            TypeError,
            r"state\['words'\]\[0\]: got dtype float64, wants uint64 or int64",
        ),
        (
            spoiled(lambda s: s["words"].__setitem__(0, np.ones(3, np.uint64))),
            ValueError,
            r"state\['words'\]\[0\]: got shape \(3,\), wants \(2,\)",
        ),
        (
            spoiled(lambda s: s["words"].__setitem__(1, np.array([64], np.uint64))),
            ValueError,
            r"state\['words'\]\[1\]: got bits beyond",
        ),
        (
            spoiled(lambda s: s["words"].__setitem__(1, np.array([1], np.uint64))),
            ValueError,
            r"state\['words'\]\[1\]: got 1 elements kept, wants 3",
        ),
    ],
)
def test_bad_states(spoil, error, message):
    params = {"a": np.ones((8, 9)), "b": np.ones(6)}
    sparse = SET(params, 0.5, KEY, budget="uniform", every=1)
    good = sparse.state_dict()
    sparse.step(), sparse.step()
    masks = sparse.masks
    with unchanged(params), pytest.raises(error, match=message):
        sparse.load_state_dict(spoil(good))
    assert sparse.masks == masks
    assert sparse.step_count == 2
    sparse.load_state_dict(good)
    assert sparse.step_count == 0


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["dict", "parameters"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_torch(of, optimizer):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    opt = (
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        if optimizer == "SGD"
        else torch.optim.Adam(network.parameters(), lr=0.01)
    )
    params = dict(network.named_parameters()) if of == "dict" else network.parameters()
    bias = ["0.bias", "2.bias"] if of == "dict" else [1, 3]
    pruner = Pruner(params, CUBIC, exclude=bias)
    x, y = torch.randn(64, 12), torch.randint(0, 3, (64,))
    losses = []
    for step in range(40):
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        opt.step()
        report = pruner.step()
        losses.append(loss.item())
        assert report.pruned == round(CUBIC(step) * 240) + round(CUBIC(step) * 60)
        for mask, p in zip(flat_masks(pruner.masks), network.parameters(), strict=True):
            assert not p.detach()[torch.from_numpy(~mask.to_array())].any()
            assert p.requires_grad
    assert losses[-1] < losses[0]
    grads = [p.grad for p in network.parameters()]
    if of == "parameters":
        pruner.mask_gradients_(iter(grads))
    else:
        pruner.mask_gradients_({name: p.grad for name, p in network.named_parameters()})
    moment = "momentum_buffer" if optimizer == "SGD" else "exp_avg"
    state = [opt.state[p][moment] for p in network.parameters()]
    state = state if of == "parameters" else dict(zip(params, state, strict=True))
    pruner.reset_state_([state])
    for tree in (grads, state if of == "parameters" else list(state.values())):
        for mask, tensor in zip(flat_masks(pruner.masks), tree, strict=True):
            assert not tensor[torch.from_numpy(~mask.to_array())].any()


def test_torch_moves_connections():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.Linear(30, 20)
    opt = torch.optim.Adam(layer.parameters(), lr=0.01)
    sparse = RigL(layer.parameters(), 0.9, KEY, end=30, every=5, exclude=1)
    sparse.apply_()
    for _ in range(40):
        opt.zero_grad()
        (layer(torch.randn(16, 30)) - 1).square().sum().backward()
        opt.step()
        report = sparse.step(grads=[p.grad for p in layer.parameters()])
        assert int((layer.weight != 0).sum()) <= 60
        assert report.pruned == 540


def test_parameters_that_are_replaced():
    """Of a module the parameters are looked up at each step."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 4))
    makes = [
        lambda: Pruner(model, OneShotSchedule(0.5, 0), exclude="*.bias"),
        lambda: SET(model, 0.5, KEY, every=1, exclude="*.bias"),
        lambda: RigL(model, 0.5, KEY, end=9, every=2, exclude="*.bias"),
    ]
    for make in makes:
        pruner = make()
        step = pruner.step if not isinstance(pruner, RigL) else lambda p=pruner: p.step(grads=None)
        step()
        fresh = {name: torch.ones_like(p) for name, p in model.state_dict().items()}
        model.load_state_dict(fresh, assign=True)
        step()
        model[1].weight = torch.nn.Parameter(torch.ones(4, 6))
        for write in (step, pruner.apply_):
            if isinstance(pruner, RigL) and write is step:
                write = pruner.apply_
            write()
            for name, p in model.named_parameters():
                kept = np.asarray(pruner.masks[name])
                assert not p.detach().numpy()[~kept].any()
                assert p.detach().numpy()[kept].any()
    model[1].weight = torch.nn.Parameter(torch.ones(3, 6))
    with pytest.raises(ValueError, match=r"^params\['1\.weight'\]: got shape"):
        pruner.apply_()
    del model[1]
    with pytest.raises(ValueError, match=r"^params: got no key '1\.weight'"):
        pruner.apply_()


def objects(params):
    """All that prunes while training, and what it is made of."""
    m = copied(params)
    yield Pruner(params, CUBIC, states=[m], structure=rl.prune.Channels(0), exclude=["b"])
    yield Pruner(params, ConstantSchedule(0.5), method="random", key=KEY, scope="global")
    yield Pruner(params, OneShotSchedule(0.5, 0), structure=rl.prune.NM(2, 4))
    yield Pruner(params, LinearSchedule(0.5, 0, 9), method=rl.prune.magnitude)
    yield SET(params, 0.5, KEY, states=[m])
    yield RigL(params, 0.5, KEY, end=9, exclude="b")


def test_pickles_and_copies():
    params = {"a": sample((8, 4), np.float32, 1), "b": sample((4, 4), np.float32, 2)}
    for made in objects(params):
        step = {"grads": None} if isinstance(made, RigL) else {}
        made.step(**step)
        for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
            assert again.masks == made.masks
            assert repr(again) == repr(made)
            assert again._params["a"] is not params["a"]
            report = again.step(**step)
            assert report.step == 1
            assert made.step_count == 1
            assert_zero(again.masks["a"], again._params["a"])
            other = copy.deepcopy(made)
            assert other.step(**step) == report
            assert other.masks == again.masks
    for value in (
        *(rl.prune.NM(2, 4), rl.prune.Block((2, 2), 1), rl.prune.rows(), rl.prune.columns(1)),
        PruneReport(0, 0.5, True, 3),
        rl.prune.report(rl.prune.magnitude(params, 0.5)),
        KEY,
    ):
        for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
            assert again == value


@pytest.mark.parametrize("kind", ["Pruner", "SET", "RigL"])
def test_files_of_torch(kind, tmp_path):
    """What torch.save writes of a state, torch.load reads as it is by default."""
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(70, 3)
    makes = {
        "Pruner": lambda x: Pruner(x, ConstantSchedule(0.5), method="random", key=KEY),
        "SET": lambda x: SET(x, 0.5, KEY),
        "RigL": lambda x: RigL(x, 0.5, KEY, end=9),
    }
    arrays = [p.detach().numpy().copy() for p in layer.parameters()]
    made, plain = makes[kind](layer.parameters()), makes[kind](arrays)
    for each in (made, plain):
        each.step(**({"grads": None} if kind == "RigL" else {}))
    state = made.state_dict()
    assert all(type(words) is torch.Tensor for words in state["words"])
    assert all(type(words) is np.ndarray for words in plain.state_dict()["words"])
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    for x in (list(layer.parameters()), arrays):
        for source in (loaded, plain.state_dict()):
            again = makes[kind](x)
            again.load_state_dict(source)
            assert again.masks == made.masks
            assert again.step_count == 1
    again.load_state_dict(loaded)
    loaded["words"][0].zero_()  # arrays are copied
    assert again.masks == made.masks


# --- bad arguments --------------------------------------------------------------------------------

W = np.ones((4, 4))
ONCE = OneShotSchedule(0.5, 0)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((W, 0.5), {}, TypeError, "schedule: got float, wants one with is_update"),
        ((W, lambda step: 0.5), {}, TypeError, "schedule: got function"),
        ((3.0, ONCE), {}, TypeError, "params"),
        (([W, None], ONCE), {}, TypeError, r"params\[1\]"),
        (("abc", ONCE), {}, TypeError, "params"),
        ((np.ones(3, int), ONCE), {}, TypeError, "params"),
        (([W, read_only()], ONCE), {}, ValueError, r"params'?\]?\[1\]"),
        (([W, W], ONCE), {}, ValueError, "params"),
        ((W, ONCE), {"method": "best"}, ValueError, "method: got 'best'"),
        ((W, ONCE), {"method": "random"}, TypeError, "key: got NoneType, wants a Key"),
        ((W, ONCE), {"method": "random", "key": 3}, TypeError, "key: got int"),
        ((W, ONCE), {"key": KEY}, ValueError, "key: got a Key, wants None unless"),
        (
            (W, ONCE),
            {"method": "random", "key": KEY, "normalize": "l2"},
            ValueError,
            "normalize: got 'l2', wants 'none'",
        ),
        ((W, ONCE), {"scope": "all"}, ValueError, "scope: got 'all'"),
        ((W, ONCE), {"scope": "global", "normalize": "l3"}, ValueError, "normalize: got 'l3'"),
        ((W, ONCE), {"normalize": "l2"}, ValueError, "normalize"),
        ((W, ONCE), {"structure": 4}, TypeError, "structure: got int"),
        (([W], ONCE), {"exclude": "w"}, ValueError, "exclude: got 'w'"),
        ((W, ONCE), {"incremental": "yes"}, TypeError, "incremental: got str"),
        ((W, ONCE), {"method": rl.prune.magnitude, "scope": "global"}, ValueError, "scope: got"),
        ((W, ONCE), {"method": rl.prune.magnitude, "structure": NM(2, 4)}, ValueError, "structure"),
        ((W, ONCE), {"method": rl.prune.magnitude, "exclude": 0}, ValueError, "exclude: got 0"),
        (
            (W, CUBIC),
            {"structure": NM(2, 4)},
            ValueError,
            r"schedule: got CubicSchedule, wants OneShotSchedule or ConstantSchedule of 0.5",
        ),
        (
            (W, OneShotSchedule(0.75, 0)),
            {"structure": NM(2, 4)},
            ValueError,
            r"schedule: got a sparsity of 0.75, wants .* 0.5",
        ),
        ((np.ones(4), ONCE), {"structure": Block((2, 2))}, ValueError, "params: got 1 axes"),
        ((np.ones(4), ONCE), {"structure": NM(2, 4, axis=1)}, ValueError, "params: got 1 axes"),
        ((W, ONCE), {"states": np.ones((4, 4))}, TypeError, "states: got ndarray, wants a list"),
        ((W, ONCE), {"states": 3}, TypeError, "states: got int, wants a list"),
        ((W, ONCE), {"states": [np.ones((4, 3))]}, ValueError, r"^states\[0\]: "),
        ((W, ONCE), {"states": {"m": W}}, ValueError, "params"),
        (([W], ONCE), {"states": [np.ones((4, 4))]}, ValueError, r"^states\[0\]: "),
        (({"w": W}, ONCE), {"states": {"w": W.copy()}}, ValueError, r"^states\['w'\]: "),
    ],
)
def test_bad_arguments(arguments, keywords, error, message):
    with unchanged(W), pytest.raises(error, match=message):
        Pruner(*arguments, **keywords)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((W, 0.5, 3), {}, TypeError, "key: got int, wants a ridgeline.Key, such as rl.Key"),
        ((W, 1.5, KEY), {}, ValueError, "sparsity: got 1.5"),
        ((W, "half", KEY), {}, TypeError, "sparsity"),
        (([W], [0.5, 0.5], KEY), {}, ValueError, "sparsity: got a sequence of 2, wants"),
        ((W, 0.5, KEY), {"fraction": -0.1}, ValueError, "fraction: got -0.1"),
        ((W, 0.5, KEY), {"fraction": None}, TypeError, "fraction"),
        ((W, 0.5, KEY), {"every": 0}, ValueError, "every: got 0"),
        ((W, 0.5, KEY), {"every": 1.5}, TypeError, "every"),
        ((W, 0.5, KEY), {"end": 0}, ValueError, "end: got 0"),
        ((W, 0.5, KEY), {"budget": "lamp"}, ValueError, "budget: got 'lamp'"),
        (([W], 0.5, KEY), {"exclude": 1}, ValueError, "exclude: got 1"),
        (([W], [0.5], KEY), {"exclude": "x"}, ValueError, "exclude: got 'x'"),
        (([W, read_only()], 0.5, KEY), {}, ValueError, r"\[1\]"),
        (([W, 1], 0.5, KEY), {}, TypeError, "params"),
        ((W, 0.5, KEY), {"states": 3}, TypeError, "states: got int"),
        ((W, 0.5, KEY), {"states": [np.ones(3)]}, ValueError, r"^states\[0\]: "),
    ],
)
def test_bad_arguments_of_set_and_rigl(arguments, keywords, error, message):
    for kind, more in ((SET, {}), (RigL, {"end": 10})):
        with unchanged(W), pytest.raises(error, match=message):
            kind(*arguments, **{**more, **keywords})


def test_rigl_needs_an_end():
    with pytest.raises(TypeError, match="end"):
        RigL(W, 0.5, KEY, end=None)
    with pytest.raises(TypeError, match="end"):
        RigL(W, 0.5, KEY)


def test_nothing_is_written_by_a_bad_step():
    params = {"a": np.arange(1.0, 9.0), "b": np.ones(4)}
    m = copied(params)
    pruner = Pruner(params, ConstantSchedule(0.5), states=[m])
    rigl = RigL(params, 0.5, KEY, end=9, every=1, budget="uniform")
    rigl.step(grads=None)
    pruner.step()
    for leaf in (*leaves(params), *leaves(m)):
        leaf += 1
    keep = pruner.masks

    def refused(error, match, call):
        with unchanged(params, m), pytest.raises(error, match=match):
            call()
        assert pruner.masks is keep
        assert (pruner.step_count, rigl.step_count) == (1, 1)

    refused(ValueError, "params", lambda: pruner.step([np.ones(8), np.ones(4)]))
    refused(ValueError, "params", lambda: pruner.step({"a": np.ones(9), "b": np.ones(4)}))
    refused(TypeError, "params", lambda: pruner.step(3))
    refused(ValueError, "b", lambda: pruner.step({"a": np.ones(8), "b": read_only(4)}))
    refused(ValueError, "grads", lambda: pruner.mask_gradients_({"a": np.ones(8)}))
    refused(TypeError, "states", lambda: pruner.reset_state_(np.ones(8)))
    refused(ValueError, "states", lambda: pruner.reset_state_([params, {"a": np.ones(8)}]))
    refused(TypeError, "grads: got None, wants gradients at step 1", lambda: rigl.step(grads=None))
    refused(
        ValueError,
        r"grads\['b'\]: got shape \(5,\), wants \(4,\)",
        lambda: rigl.step(grads={"a": np.ones(8), "b": np.ones(5)}),
    )
    grads = {"a": np.ones(8), "b": np.ones(5)}
    refused(ValueError, r"^grads\['b'\]: got shape", lambda: pruner.mask_gradients_(grads))
    refused(ValueError, r"^states\[0\]\['b'\]: got shape", lambda: pruner.reset_state_([grads]))
    m["b"] = np.ones(5)  # the optimizer's state was replaced
    refused(ValueError, "states", pruner.step)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "method: got NoneType, wants a Mask or MaskSet"),
        (rl.Mask.from_array([True]), ValueError, "method: got Mask"),
        (rl.MaskSet.from_array([np.ones(3, bool)]), ValueError, "method: got MaskSet"),
        (rl.MaskSet.from_array({"0": np.ones(4, bool), "1": np.ones(1, bool)}), ValueError, "got"),
    ],
)
def test_bad_methods(returned, error, message):
    params = [np.ones(4)]
    pruner = Pruner(params, ONCE, method=lambda params, sparsity, mask: returned)
    with unchanged(params), pytest.raises(error, match=message):
        pruner.step()
    assert pruner.step_count == 0


def test_a_method_that_brings_back_what_was_pruned():
    pruner = Pruner(
        np.arange(8.0),
        LinearSchedule(0.5, 0, 2, initial=0.25),
        method=lambda w, sparsity, mask: (
            rl.prune.magnitude(-7 + w, sparsity)
            if mask.sparsity
            else rl.prune.magnitude(w, sparsity)
        ),
    )
    pruner.step()
    with pytest.raises(ValueError, match="method: got masks that keep pruned weights"):
        pruner.step()
    with pytest.raises(ValueError, match=r"schedule: got 2, wants a fraction"):
        Pruner(np.ones(3), Twice()).step()


class Twice:
    """A schedule that gives no fraction."""

    def __call__(self, step):
        return 2.0

    def is_update(self, step):
        return True


def test_repr():
    assert repr(SET(W.copy(), 0.5, KEY)) == "SET(step_count=0, sparsity=0.5)"
