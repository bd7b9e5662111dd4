"""Schedules of sparsity and budgets of layers: known values, the oracles, every bad argument."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections import namedtuple

import numpy as np
import pytest
from helpers import to_torch
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.prune import (
    ConstantSchedule,
    CubicSchedule,
    LinearSchedule,
    OneShotSchedule,
    budget,
)
from ridgeline.reference import pruning as ref

fractions = st.floats(0, 1)

# --- schedules ------------------------------------------------------------------------------------

SCHEDULES = [
    CubicSchedule(0.9, 10, 50, 7, 0.2),
    LinearSchedule(0.9, 10, 50, 7, 0.2),
    ConstantSchedule(0.5, 3, 4),
    OneShotSchedule(0.5, 7),
]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def updates(schedule, steps=100):
    return [step for step in range(steps) if schedule.is_update(step)]


def test_cubic_by_hand():
    schedule = CubicSchedule(final=0.8, begin=100, end=140, every=10)
    assert [schedule(step) for step in (0, 99, 100, 109)] == [0.0] * 4
    for step, part in [(110, 27 / 64), (119, 27 / 64), (120, 8 / 64), (130, 1 / 64), (139, 1 / 64)]:
        assert schedule(step) == pytest.approx(0.8 * (1 - part), rel=1e-15)
    assert [schedule(step) for step in (140, 141, 10**9)] == [0.8] * 3
    assert updates(schedule, 1000) == [100, 110, 120, 130, 140]


def test_cubic_is_the_polynomial_decay_of_tensorflow():
    """initial 0.5, final 0.8, begin 200, end 400, frequency 100, as the guide of TF-MOT has it:
    0.8 + (0.5 - 0.8) (1 - 1/2)^3 half way."""
    schedule = CubicSchedule(0.8, 200, 400, 100, initial=0.5)
    assert schedule(200) == 0.5
    assert schedule(300) == 0.8 - 0.3 / 8
    assert schedule(399) == schedule(300)
    assert schedule(400) == 0.8


def test_cubic_in_the_terms_of_torchao():
    """CubicSL: s_f - s_f (1 - (t - init_t) / (delta_t total_t))^3."""
    init_t, delta_t, total_t = 5, 10, 4
    schedule = CubicSchedule(0.6, init_t, init_t + delta_t * total_t, delta_t)
    for n in range(total_t + 1):
        wanted = 0.6 - 0.6 * (1 - n / total_t) ** 3
        assert schedule(init_t + delta_t * n) == pytest.approx(wanted, rel=1e-15)


def test_linear_by_hand():
    schedule = LinearSchedule(final=0.75, begin=4, end=8, initial=0.25)
    assert [schedule(step) for step in range(10)] == [
        *[0.25] * 5,
        *(0.375, 0.5, 0.625),
        *[0.75] * 2,
    ]
    assert updates(schedule) == [4, 5, 6, 7, 8]


def test_end_is_an_update_whatever_the_rest():
    for kind in (CubicSchedule, LinearSchedule):
        schedule = kind(0.9, 0, 25, 10)
        assert updates(schedule) == [0, 10, 20, 25]
        assert schedule(24) == schedule(20) < schedule(25) == 0.9


def test_constant_and_one_shot():
    constant = ConstantSchedule(0.5, begin=3, every=4)
    assert [constant(step) for step in (0, 2, 3, 1000)] == [0.0, 0.0, 0.5, 0.5]
    assert updates(constant, 20) == [3, 7, 11, 15, 19]
    assert updates(ConstantSchedule(0.5), 4) == [0, 1, 2, 3]
    once = OneShotSchedule(0.5, 7)
    assert [once(step) for step in (0, 6, 7, 8)] == [0.0, 0.0, 0.5, 0.5]
    assert updates(once) == [7]


@given(
    fractions,
    fractions,
    st.integers(0, 50),
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(0, 150),
)
def test_ramps(final, initial, begin, length, every, step):
    cubic = CubicSchedule(final, begin, begin + length, every, initial)
    assert cubic(step) == ref.cubic(step, final, begin, begin + length, every, initial)
    for schedule in (cubic, LinearSchedule(final, begin, begin + length, every, initial)):
        value = schedule(step)
        assert min(initial, final) - 1e-15 <= value <= max(initial, final) + 1e-15
        # nothing changes but at updates
        if step and value != schedule(step - 1):
            assert schedule.is_update(step)
        # never back
        assert abs(value - initial) <= abs(schedule(step + 1) - initial) + 1e-15


@schedules
def test_a_schedule_is_a_value(schedule):
    assert copy.deepcopy(schedule) == schedule == pickle.loads(pickle.dumps(schedule))
    assert hash(copy.copy(schedule)) == hash(schedule)
    assert eval(repr(schedule)) == schedule
    for field in dataclasses.fields(schedule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(schedule, field.name, 1)
    with pytest.raises(TypeError):
        type(schedule)()


def test_numbers_of_numpy_are_taken():
    schedule = CubicSchedule(np.float32(0.5), np.int64(0), np.int8(4), np.uint8(2))
    assert schedule == CubicSchedule(0.5, 0, 4, 2)
    assert [type(v) for v in dataclasses.astuple(schedule)] == [float, int, int, int, float]
    assert schedule(np.int32(4)) == 0.5


@schedules
@pytest.mark.parametrize(
    ("step", "error"),
    [
        (-1, ValueError),
        (1.0, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (np.float64(1), TypeError),
    ],
)
def test_bad_steps(schedule, step, error):
    for call in (schedule, schedule.is_update):
        with pytest.raises(error, match=r"^step: got .*, wants an integer"):
            call(step)


RAMP = {"final": 0.5, "begin": 1, "end": 4}
VALID = {
    CubicSchedule: RAMP,
    LinearSchedule: RAMP,
    ConstantSchedule: {"sparsity": 0.5},
    OneShotSchedule: {"sparsity": 0.5, "step": 3},
}
BAD_FRACTIONS = [
    *((value, ValueError) for value in (-0.1, 1.1, math.nan, math.inf, 2)),
    *((value, TypeError) for value in ("a half", None, True, [0.5])),
]
BAD_STEPS = [
    (-1, ValueError),
    *((value, TypeError) for value in (1.0, "1", None, True)),
]


def bad_arguments():
    for kind, valid in VALID.items():
        for field in dataclasses.fields(kind):
            bad = BAD_FRACTIONS if field.type == "float" else BAD_STEPS
            for value, error in [*bad, *([(0, ValueError)] if field.name == "every" else [])]:
                yield pytest.param(
                    kind,
                    valid,
                    field.name,
                    value,
                    error,
                    id=f"{kind.__name__}-{field.name}-{value}",
                )


@pytest.mark.parametrize(("kind", "valid", "name", "value", "error"), list(bad_arguments()))
def test_bad_arguments(kind, valid, name, value, error):
    with pytest.raises(error, match=rf"^{name}: got .*, wants "):
        kind(**{**valid, name: value})


@pytest.mark.parametrize("kind", [CubicSchedule, LinearSchedule])
def test_end_is_after_begin(kind):
    for end in (0, 4, 5):
        with pytest.raises(
            ValueError, match=rf"^end: got {end}, wants a step after begin, which is 5"
        ):
            kind(0.5, 5, end)


# --- budgets --------------------------------------------------------------------------------------

Layer = namedtuple("Layer", ["weight", "bias"])


def arrays(*shapes):
    return [np.zeros(shape, np.float32) for shape in shapes]


def total_density(shapes, sparsities):
    sizes = [math.prod(shape) for shape in shapes]
    return sum(n * (1 - s) for n, s in zip(sizes, sparsities, strict=True)) / sum(sizes)


def test_uniform():
    assert budget.uniform(np.zeros(3), 0.3) == 0.3
    assert budget.uniform(arrays((2,), (3, 4)), 0.3) == [0.3, 0.3]
    assert budget.uniform([], 0.3) == []
    assert budget.uniform(iter(arrays((2,), (3,))), 0.25, exclude=1) == [0.25, 0.0]


@pytest.mark.parametrize("function", [budget.uniform, budget.erk])
def test_containers(function):
    a, b, c = arrays((4, 4), (4,), (8, 4))
    for params in [
        {"x": [a, (b,)], 3: {"y": c}},
        Layer(weight=(a, c), bias=b),
        [a, [b, [c]]],
        {"a": a, "empty": [], "more": {"b": b, "c": c}},
    ]:
        result = function(params, 0.5)
        assert like_structure(result) == like_structure(params)
    once = function((array for array in (a, c)), 0.5)
    assert once == function([a, c], 0.5)


def like_structure(tree):
    if isinstance(tree, dict):
        return {key: like_structure(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree), [like_structure(value) for value in tree]
    return None


def test_exclude():
    params = {
        "stem": np.zeros((4, 4)),
        "block": [np.zeros((8, 8)), np.zeros(8)],
        7: np.zeros((4, 2)),
    }

    def left_out(exclude):
        result = budget.uniform(params, 0.5, exclude=exclude)
        return [s == 0 for s in (result["stem"], *result["block"], result[7])]

    assert left_out(None) == [False] * 4
    assert left_out("stem") == left_out(["stem"]) == [True, False, False, False]
    assert left_out("block") == [False, True, True, False]
    assert left_out("block/1") == left_out(["block/1"]) == [False, False, True, False]
    assert left_out(7) == left_out("7") == left_out({7}) == [False, False, False, True]
    assert left_out(("stem", 7)) == [True, False, False, True]
    assert left_out([]) == [False] * 4
    assert left_out(lambda name, array: array.ndim < 2 or name == "stem") == [
        True,
        False,
        True,
        False,
    ]
    assert left_out("block.1") == left_out("block/1") == left_out("*k?1") == left_out("b*[1-9]")
    assert left_out("*") == [True] * 4
    assert left_out("b*") == left_out("block") == left_out(["block.*", "b*"])
    for wrong in ("blo", "block/2", "tem", 0, ["stem", "x"], "", "*x", ["*", "x*"], "B*"):
        with pytest.raises(ValueError, match=r"^exclude: got .*, wants one of 'stem', 'block/0'"):
            left_out(wrong)
    for wrong in (1.5, True, [None], [True], b"stem", [b"stem"]):
        with pytest.raises(TypeError, match=r"^exclude: got .*, wants names"):
            left_out(wrong)


def test_excluded_names_of_torch():
    names = ["conv1.weight", "conv1.bias", "layer1.0.weight", "layer1.0.bias", "norm[0]", "norm0"]
    params = {name: np.zeros(4) for name in names}

    def left_out(exclude):
        result = budget.uniform(params, 0.5, exclude=exclude)
        return [name for name in names if result[name] == 0]

    assert left_out("*.bias") == ["conv1.bias", "layer1.0.bias"]
    assert left_out("conv1") == ["conv1.weight", "conv1.bias"]
    assert left_out("layer1/0") == left_out("layer1.0") == left_out("layer1") == names[2:4]
    assert left_out(["*.0.*", "conv1.bias"]) == names[1:4]
    assert left_out("norm[0]") == ["norm[0]"]  # a name before it is a pattern
    assert left_out("norm[01]") == ["norm0"]
    many = {f"layer.{i}.weight": np.zeros(1) for i in range(10_000)}
    assert set(budget.uniform(many, 0.5, exclude=list(many)).values()) == {0.0}
    with pytest.raises(ValueError, match=r"^exclude: got '\*\.gain', wants one of "):
        left_out(["*.bias", "*.gain"])


def test_erk_of_a_small_network():
    """The equation of Evci et al. 2020, appendix, written out: the first and the last layer of
    four come out above 1, one after the other."""
    shapes = [(3, 3, 3, 16), (3, 3, 16, 64), (3, 3, 64, 128), (128, 10)]
    sizes = [432, 9216, 73728, 1280]
    ratio = [25 / 432, 86 / 9216, 198 / 73728, 138 / 1280]
    wanted = 0.1 * sum(sizes)
    epsilon = wanted / (25 + 86 + 198 + 138)
    assert epsilon * ratio[3] > 1
    assert epsilon * ratio[0] > 1
    epsilon = (wanted - 1280) / (25 + 86 + 198)
    assert epsilon * ratio[0] > 1
    epsilon = (wanted - 1280 - 432) / (86 + 198)
    assert epsilon * ratio[1] < 1
    expected = [0, 1 - epsilon * ratio[1], 1 - epsilon * ratio[2], 0]
    assert budget.erk(arrays(*shapes), 0.9) == pytest.approx(expected, abs=1e-14)
    assert total_density(shapes, expected) == pytest.approx(0.1)


def test_erk_of_matrices_is_erdos_renyi():
    """Density in proportion to (in + out) / (in out) (Mocanu et al. 2018)."""
    shapes = [(784, 300), (300, 100), (100, 10)]
    density = [1 - s for s in budget.erk(arrays(*shapes), 0.95)]
    epsilon = [d * m * n / (m + n) for d, (m, n) in zip(density, shapes, strict=True)]
    assert epsilon == pytest.approx([epsilon[0]] * 3)
    assert total_density(shapes, [1 - d for d in density]) == pytest.approx(0.05)


def test_erk_excludes():
    shapes = [(64, 64), (256, 64), (64,), (10, 64)]
    result = budget.erk(arrays(*shapes), 0.8, exclude=[0, 2])
    assert [result[0], result[2]] == [0.0, 0.0]
    assert result[1::2] == budget.erk(arrays(*shapes[1::2]), 0.8)
    assert budget.erk(arrays(*shapes), 0.8, exclude=range(4)) == [0.0] * 4


def test_erk_power():
    shapes = [(64, 64), (256, 64), (512, 512)]
    assert budget.erk(arrays(*shapes), 0.8, power=0) == pytest.approx([0.8] * 3)
    half, one, huge = (budget.erk(arrays(*shapes), 0.8, power=p) for p in (0.5, 1, 1e6))
    assert 0.8 > half[0] > one[0] == huge[0] == 0.0
    assert 0.8 < half[2] < one[2] < huge[2]
    assert total_density(shapes, huge) == pytest.approx(0.2)


def test_erk_at_the_ends():
    assert budget.erk(np.zeros((4, 5)), 0.3) == pytest.approx(0.3)
    assert budget.erk([], 0.3) == []
    assert budget.erk(arrays((4, 5), (), (0, 3)), 1.0) == [1.0, 1.0, 0.0]
    assert budget.erk(arrays((4, 5), (), (0, 3)), 0.0) == pytest.approx([0.0] * 3, abs=1e-15)
    assert budget.erk(arrays((100, 50), ()), 0.5)[1] == 0.0


shapes_lists = st.lists(st.lists(st.integers(0, 12), max_size=4).map(tuple), min_size=1, max_size=6)


@given(shapes_lists, fractions, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.data())
def test_erk_against_the_oracle_and_its_definition(shapes, sparsity, power, data):
    exclude = data.draw(st.lists(st.integers(0, len(shapes) - 1), unique=True))
    result = budget.erk(arrays(*shapes), sparsity, exclude, power)
    assert result == pytest.approx(ref.erk(shapes, sparsity, exclude, power), abs=1e-9)
    inside = [i for i, s in enumerate(shapes) if i not in exclude and 0 not in s]
    assert all(0 <= s <= 1 for s in result)
    assert all(result[i] == 0 for i in range(len(shapes)) if i not in inside)
    if not inside:
        return
    some = [shapes[i] for i in inside]
    density = [1 - result[i] for i in inside]
    assert total_density(some, [1 - d for d in density]) == pytest.approx(1 - sparsity, abs=1e-9)
    # min(1, eps * ratio) for one eps, that of the densest that is not dense
    ratio = [(sum(s or (1,)) / math.prod(s)) ** power for s in some]
    epsilon = max(
        (d / r for d, r in zip(density, ratio, strict=True) if d < 1 - 1e-9), default=math.inf
    )
    for d, r in zip(density, ratio, strict=True):
        assert d == pytest.approx(min(1, epsilon * r), abs=1e-9)


@given(shapes_lists, fractions, st.data())
def test_uniform_against_the_oracle(shapes, sparsity, data):
    exclude = data.draw(st.lists(st.integers(0, len(shapes) - 1), unique=True))
    assert budget.uniform(arrays(*shapes), sparsity, exclude) == ref.uniform(
        shapes, sparsity, exclude
    )


def test_torch():
    tensors = [to_torch(a) for a in arrays((16, 8), (16,))]
    assert budget.erk(tensors, 0.5) == budget.erk(arrays((16, 8), (16,)), 0.5)


@pytest.mark.parametrize("function", [budget.uniform, budget.erk])
def test_bad_budgets(function):
    for value, error in BAD_FRACTIONS:
        with pytest.raises(error, match=r"^sparsity: got .*, wants "):
            function([np.zeros(3)], value)
    for params, place in [
        (None, "params"),
        (3.0, "params"),
        ("abc", "params"),
        ([np.zeros(3), None], r"params\[1\]"),
        ({"a": [1.0]}, r"params\['a'\]\[0\]"),
    ]:
        with pytest.raises(TypeError, match=rf"^{place}: got \w+, wants an array"):
            function(params, 0.5)


@pytest.mark.parametrize(
    ("power", "error"),
    [*((p, ValueError) for p in (-1, math.nan, math.inf)), ("1", TypeError), (None, TypeError)],
)
def test_bad_power(power, error):
    with pytest.raises(error, match=r"^power: got .*, wants "):
        budget.erk([np.zeros(3)], 0.5, power=power)
