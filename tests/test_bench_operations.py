"""What ``ridgeline bench`` measures: the operations, their data, their peers."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import ridgeline as rl
from ridgeline import _core
from ridgeline.bench.peers import optimizers as step_peers
from ridgeline.bench.peers import pruning as prune_peers
from ridgeline.bench.peers import random as random_peers
from ridgeline.bench.peers import registry as peers
from ridgeline.bench.peers import settings, tools
from ridgeline.bench.peers.registry import Implementation
from ridgeline.bench.rows import OPERATIONS, cases, fairness, layouts
from ridgeline.bench.rows.cases import Case
from ridgeline.bench.rows.layouts import Layout
from ridgeline.bench.rows.operation import GRADS, OUT, PARAMS
from ridgeline.bench.run import arguments, checks, measure, memory

LIBRARIES = tuple(peers.LIBRARIES)
NUMPY = "numpy"


@pytest.fixture
def without_libraries(monkeypatch):
    real = importlib.util.find_spec
    gone = peers.LIBRARIES.values()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in gone else real(name, *rest)
    )


def by_name(operation):
    return f"{operation.name}-{operation.dtypes[0]}"


def a_case(operation, layout=layouts.CACHE_1):
    return Case(operation, layout, operation.dtypes[0])


class TestOperations:
    def test_a_run_stays_short(self):
        assert len(cases.cases()) < 330

    def test_each_is_there_once_in_a_dtype(self):
        pairs = [(op.name, dtype) for op in OPERATIONS for dtype in op.dtypes]
        assert len(set(pairs)) == len(pairs)

    def test_traffic_is_what_patterns_move(self):
        known = _core.memory_patterns()
        for operation in OPERATIONS:
            assert set(operation.passes) <= set(known)
        without = {op.name for op in OPERATIONS if not op.passes}
        assert without == {"dropout_mask_50", "patch_dropout_50", "score_lamp"}

    def test_types(self):
        wide = {op.name for op in OPERATIONS if "float64" in op.dtypes}
        half = {op.name for op in OPERATIONS if "bfloat16" in op.dtypes}
        assert wide - half == {"uniform", "normal"}
        assert half == {
            "value_elastic_net",
            "add_gradient_elastic_net",
            "prox_l1",
            "clip_by_value_everything",
            "global_norm_2",
            "clip_by_global_norm_clips",
            "dropout_50",
            "dropout_add_10",
            "alpha_dropout_10",
            "prune_50",
            "prune_2_of_4",
            "apply_mask_first",
            "apply_mask_again",
            "adamw_clip",
        }

    def test_the_models_have_what_training_needs(self):
        for model in layouts.WORKLOADS:
            names = {case.operation.name for case in cases.cases() if case.layout is model}
            assert names >= {
                "add_gradient_elastic_net",
                "clip_by_global_norm_clips",
                "adamw_clip_l1",
                "momentum_clip_l1",
                "prune_global_90",
            }

    @pytest.mark.usefixtures("without_libraries")
    @pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
    def test_data_costs_the_same_at_every_call(self, operation):
        """Also the last call of a run writes, where the operation says that calls write."""
        most = max(300, abs(math.prod(operation.shape)))
        layout = operation.layouts[0]
        sizes = (most,) if layout.single else tuple(min(n, most) for n in layout.sizes[:3])
        case = a_case(operation, Layout("small", sizes, layout.single))
        memory = arguments.Memory(case.bytes)
        memory.restore(case.elements, case.dtype)
        memory.restore_params(case.elements, case.dtype)
        memory.fill_results(case.elements, 1, case.dtype)
        arrays = memory.arrays(case)
        norms = arguments.norms_of(case, arrays)
        ridgeline = case.implementations(LIBRARIES)[0]
        count = 1 if operation.once else measure.CALLS
        function, calls = arguments.calls(case, ridgeline, arrays, norms, count)
        changed = False
        for given in calls:
            before = [x.copy() for each in arrays for x in each]
            function(*given)
            after = [x for each in arrays for x in each]
            changed = any(x.tobytes() != y.tobytes() for x, y in zip(before, after, strict=True))
        # Those that find nothing more to do, and cost the same.
        still = ("_nothing", "_within", "_again", "_l0", "_largest_1", "prox_capped_l1")
        is_still = operation.name.endswith(still)
        in_place = operation.writes and not operation.results
        if operation.recipe is not None:
            assert changed or case.itemsize == 2  # where steps round to nothing
            grads = zip(before[: len(arrays[0])], arrays[0], strict=True)
            assert all(np.array_equal(x, y) for x, y in grads)
        elif operation.changes or operation.once:
            assert changed != is_still
        else:
            assert not changed or in_place or OUT in operation.arrays
        tiny = np.finfo(np.float32).tiny
        written = [x.astype(np.float64) for x in after]
        assert all(np.all((np.abs(x) >= tiny) | (x == 0)) for x in written)
        assert all(np.all(np.isfinite(x)) for x in written)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the peers' own
    @pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
    def test_every_peer_computes_the_same(self, operation):
        without = peers.missing(compiled=False, threads=10**6)
        single = [each for each in operation.layouts if each.single]
        layout = layouts.CACHE_2 if single else layouts.THOUSAND
        if operation.recipe is not None:
            layout = SMALL
        several = operation.fair is None or operation.name in ("dropout_50", "uniform", "normal")
        for dtype in operation.dtypes if several else operation.dtypes[:1]:
            good, left_out = checks.checked(Case(operation, layout, dtype), without)
            assert good[0].name == "ridgeline"
            assert set(left_out.values()) <= unfit(operation, dtype)
            kinds = {each.kind for each in good if each.role == "peer"}
            assert NUMPY in kinds
            if dtype == "float32":
                assert left_out == {}


def unfit(operation, dtype):
    """Return why peers may be left out in a dtype."""
    return {
        f"no {dtype}",
        f"its states would be {dtype}",
        f"keeps others of equals, of which {dtype} has many",
        "its keys have 32 bits",
        "its hash has 32 bits",
    }


# What of the public interface is no kernel, or is measured under another name.
NO_KERNEL = {
    "decay_filter_for": "answers a question about a parameter",
    "skip_biases_and_norms": "answers a question about a name",
    "show_config": "prints",
    "get_num_threads": "a setting",
    "set_num_threads": "a setting",
    "feature_alpha_dropout_backward": "alpha_dropout_backward, with axes that share",
    "prune.Channels": "what rows and columns make",
    "prune.Pruner": "magnitude or by_score at some steps, and apply_",
    "prune.SET": "as Pruner, and a random choice",
    "prune.RigL": "as Pruner, and a choice by gradients",
    "prune.plot": "draws",
    "prune.report": "counts bits",
    "prune.scores.snip": "taylor, then global_norm_1 and a scale",
}
# Beside the objects of clipping, which are settings of a step, and exceptions and results.
NO_OPERATION = ("GlobalNorm", "Norm", "Value", "Key", "NonFiniteError", "RequiresGradError")


def public_kernels():
    """Yield the public names that do something with arrays."""
    for name in rl.__all__:
        thing = getattr(rl, name)
        if inspect.ismodule(thing) or name in NO_OPERATION or name == "__version__":
            continue
        if not inspect.isclass(thing):
            yield name
        elif name in ("Mask", "MaskSet"):
            yield f"{name}.apply_"
        elif issubclass(thing, rl.Penalty) and thing is not rl.Penalty:
            yield from (f"{name}.{verb}" for verb in ("value", "add_gradient_", "prox_"))
        elif issubclass(thing, rl.Constraint) and thing is not rl.Constraint:
            yield f"{name}.project_"
        elif issubclass(thing, rl.optimizers.Optimizer):
            yield f"{name}.step"
    yield from (f"penalties.Sum.{verb}" for verb in ("value", "add_gradient_", "prox_"))
    yield "L1.prox"
    for name in rl.random.__all__:
        if name not in NO_OPERATION:
            yield f"random.{name}"
    settings = ("Schedule", "Report")
    for name in rl.prune.__all__:
        if not inspect.ismodule(getattr(rl.prune, name)) and not name.endswith(settings):
            yield f"prune.{name}"
    yield from (f"prune.scores.{name}" for name in rl.prune.scores.__all__)


class TestPublicInterface:
    def test_every_kernel_has_an_operation(self):
        measured = set(itertools.chain.from_iterable(op.public for op in OPERATIONS))
        known = set(public_kernels()) - {"L0.add_gradient_"}  # there is none
        assert known - measured == set(NO_KERNEL)
        assert measured - known == set()

    def test_every_optimizer_has_plain_steps(self):
        plain = {op.recipe.rule for op in STEPS.values() if not (op.recipe.clip or op.recipe.prox)}
        assert plain == set(step_peers.RULES) - {"momentum"}


class TestDtypes:
    def test_what_numba_does_not_know_is_said(self):
        pytest.importorskip("numba")
        for name in ("prox_l1", "apply_mask", "dropout"):
            draws = name == "dropout"
            found = peers.peers(name, None, draws, True, 10**6, ("torch", "jax"), "bfloat16")
            reasons = {each.unfit for each in found if each.kind == "numba"}
            assert reasons == {"no bfloat16"}
            assert all(not each.unfit for each in found if each.kind == "numpy")

    def test_an_unfit_peer_is_not_called(self, monkeypatch):
        def fail(*arguments):
            raise AssertionError

        given = [Implementation("one", fail, unfit="no such dtype")]
        monkeypatch.setattr(cases, "peers", lambda *arguments: given)
        (case,) = cases.select("prox_l1/float32/512KiB")
        good, left_out = checks.checked(case, LIBRARIES)
        assert "one" not in {each.name for each in good}
        assert left_out == {"one": "no such dtype"}

    @pytest.mark.usefixtures("without_libraries")
    @pytest.mark.parametrize(
        "case",
        [
            Case(op, layouts.CACHE_2 if op.recipe is None else Layout("small", (5_003,)), dtype)
            for op in OPERATIONS
            for dtype in op.dtypes
            if dtype != "float32"
        ],
        ids=lambda case: case.name,
    )
    def test_numpy_does_the_same(self, case):
        good, left_out = checks.checked(case, LIBRARIES)
        assert good[0].name == "ridgeline"
        assert NUMPY in {each.kind for each in good if each.role == "peer"}
        assert set(left_out.values()) <= unfit(case.operation, case.dtype)


class TestJax:
    """It returns what others write."""

    @pytest.fixture
    def check(self, monkeypatch):
        def left_out(words, function):
            given = [Implementation("one", function, "jax")]
            monkeypatch.setattr(cases, "peers", lambda *arguments: given)
            monkeypatch.setattr(arguments, "_jax_array", np.copy)
            (case,) = cases.select(words)
            return checks.checked(case, LIBRARIES)[1].get("one")

        return left_out

    @pytest.mark.parametrize(
        ("function", "is_right"),
        [
            (lambda x, step: x - np.clip(x, -step, step), True),
            (lambda x, step: x, False),
            (lambda x, step: None, False),
            (lambda x, step: (x - np.clip(x, -step, step))[:-1], False),
            (lambda x, step: x[:1] - np.clip(x[:1], -step, step), False),
            (lambda x, step: (x - np.clip(x, -step, step)).astype(np.float64), False),
            (lambda x, step: [x - np.clip(x, -step, step)] * 2, False),
        ],
    )
    def test_new_arrays(self, check, function, is_right):
        assert (check("prox_l1/float32/512KiB", function) is None) == is_right

    @pytest.mark.parametrize(
        ("function", "is_right"),
        [
            (lambda x, norm, limit: (norm, x * np.float32(limit / norm)), True),
            (lambda x, norm, limit: (2 * norm, x * np.float32(limit / norm)), False),
            (lambda x, norm, limit: (norm, x), False),
            (lambda x, norm, limit: x * np.float32(limit / norm), False),
            (lambda x, norm, limit: norm, False),
        ],
    )
    def test_what_the_operation_returns_comes_first(self, check, function, is_right):
        def clip(x, limit):
            return function(x, float(np.linalg.norm(x)), limit)

        assert (check("clip_by_global_norm_clips/float32/512KiB", clip) is None) == is_right

    def test_writing_is_not_enough(self, check):
        def write(x, step):
            x -= np.clip(x, -step, step)

        assert check("prox_l1/float32/512KiB", write) is not None

    def test_calls_follow_each_other(self):
        jax = pytest.importorskip("jax")
        x = jax.numpy.arange(4.0)
        double = tools.donating(lambda x: 2 * x)
        assert np.array_equal(double(x), [0, 2, 4, 6])
        assert np.array_equal(double(x), [0, 4, 8, 12])
        assert np.array_equal(double(jax.numpy.ones(2)), [2, 2])
        assert np.array_equal(x, [0, 1, 2, 3])

    def test_only_float64_rows_have_float64(self):
        jax = pytest.importorskip("jax")
        for dtype in ("float64", "float32"):
            peers.peers("prox_l1", None, False, True, 10, ("torch", "numba"), dtype)
            assert jax.numpy.zeros(1).dtype == dtype


DRAWS = {op.name: op for op in OPERATIONS if op.fair and not op.prunes}


def draw(name, function=None):
    """Return what a call of an operation read and made, and its numbers."""
    operation = DRAWS[name]
    layout = Layout("test", operation.reduced((10**6,)))
    case = a_case(operation, layout)
    implementation = Implementation("one", function or operation.function)
    outcome = checks.outcome(case, arguments.Memory(case.bytes), implementation)
    read = [x.reshape(operation.shape) for x in outcome.read]
    made = outcome.results(operation.arrays)
    if not operation.results:
        made = [x.reshape(operation.shape) for x in made]
    return read, made, outcome.numbers


def is_fair(name, read, made, numbers):
    if DRAWS[name].results:
        return DRAWS[name].fair(read, made, numbers)
    return DRAWS[name].fair(read, [np.float32(x) for x in made], numbers)


# Those that are no choice of one element in two ways.
NO_CHOICE = (
    "gaussian_dropout_10",
    "gaussian_noise",
    "uniform",
    "normal",
    "integers",
    "random_shrink",
    "drop_block_10",
    "patch_dropout_50",
)
# The axes that share no choice.
SHARED = {
    "spatial_dropout_50": 2,
    "feature_alpha_dropout_10": 2,
    "token_dropout_50": 2,
    "drop_path_20": 1,
}


def choices_of(name, read):
    """Return how many choices an operation makes."""
    if name == "bernoulli":
        return 4 * DRAWS[name].checked
    return math.prod(read[0].shape[: SHARED.get(name, len(read[0].shape))])


def chosen(name, read, p, keep):
    """Return what dropout of each kind makes of the choices."""
    if name == "bernoulli":
        return [~keep]
    x = read[0]
    if name in SHARED:
        keep = keep.reshape(*x.shape[: SHARED[name]], *[1] * (x.ndim - SHARED[name]))
    a, shift, dropped = settings.alpha_constants(p)
    if name in ("alpha_dropout_10", "feature_alpha_dropout_10"):
        return [np.where(keep, a * x + shift, dropped)]
    if name == "alpha_dropout_backward_10":
        return [np.where(keep, a * x, 0)]
    if name == "zoneout_10":
        return [np.where(keep, x, read[1])]
    if name == "zoneout_backward_10":
        return [np.where(keep, x, 0), np.where(keep, 0, x)]
    if name == "dropout_add_10":
        return [np.where(keep, x / (1 - p), 0) + read[1]]
    return [np.where(keep, each / (1 - p), 0) for each in read]


class TestFairness:
    @pytest.mark.parametrize("name", DRAWS)
    def test_ridgeline_is_fair(self, name):
        assert is_fair(name, *draw(name))

    @pytest.mark.parametrize("generator", [np.random.PCG64, np.random.SFC64])
    @pytest.mark.parametrize("name", DRAWS)
    def test_numpy_is_fair(self, name, generator):
        table = random_peers.numpy_table(generator)
        for _ in range(3):
            assert is_fair(name, *draw(name, table[DRAWS[name].peers or name]))

    @pytest.mark.parametrize("errors", [-7, -5, 0, 5, 7])
    @pytest.mark.parametrize("name", [name for name in DRAWS if name not in NO_CHOICE])
    def test_another_probability_is_not(self, name, errors):
        """With the right scale, and the probability off by that many standard errors."""
        read, _, (p, *_) = draw(name)
        n = choices_of(name, read)
        u = np.random.default_rng(0).permutation((np.arange(n) + 0.5) / n)  # no error of its own
        keep = u >= p + errors * math.sqrt(p * (1 - p) / n)
        assert is_fair(name, read, chosen(name, read, p, keep), (p,)) == (abs(errors) < 6)

    @pytest.mark.parametrize(
        "name", ["dropout_50", "dropout_10", "dropout_50_in_place", "spatial_dropout_50"]
    )
    def test_dropout_without_its_scale_is_not(self, name):
        read, (y,), (p, *_) = draw(name)
        assert not is_fair(name, read, [y * np.float32(1 - p)], (p,))
        assert not is_fair(name, read, [y * np.float32(1 + 1e-6)], (p,))

    def test_one_wrong_element_is_not_fair(self):
        read, (y,), numbers = draw("dropout_50")
        for wrong in (np.nan, np.inf, 1e-30, -y[y != 0][0]):
            z = y.copy()
            z[np.flatnonzero(y)[0]] = wrong
            assert not is_fair("dropout_50", read, [z], numbers)

    @pytest.mark.parametrize("length", [1, 2, 64, 4096, 40_000])
    @pytest.mark.parametrize("name", ["dropout_50", "dropout_10"])
    def test_a_mask_shared_between_rows_is_not(self, name, length):
        """Also if it has exactly the right number of choices."""
        (x,), _, (p, *_) = draw(name)
        u = np.random.default_rng(0).permutation((np.arange(length) + 0.5) / length)
        keep = np.resize(u >= p, x.size)
        assert not is_fair(name, [x], [np.where(keep, x / (1 - p), 0)], (p,))
        keep = np.repeat(u >= p, -(-x.size // length))[: x.size]
        assert not is_fair(name, [x], [np.where(keep, x / (1 - p), 0)], (p,))

    def test_elements_are_no_channels(self):
        (x,), (y,), (p, *_) = draw("spatial_dropout_50")
        alone = rl.dropout(x, p, rl.Key(1))
        assert not is_fair("spatial_dropout_50", [x], [alone], (p,))
        assert not is_fair("dropout_50", [x], [y], (p,))
        samples = rl.dropout(x, p, rl.Key(1), broadcast_axes=(1, 2, 3))
        assert not is_fair("spatial_dropout_50", [x], [samples], (p,))

    def test_forward_and_backward_share_a_mask(self):
        name = "dropout_50_forward_backward"
        (x, dy), (y, dx), numbers = draw(name)
        other = rl.dropout(dy, numbers[0], rl.Key(99))
        assert not is_fair(name, [x, dy], [y, other], numbers)
        one = dx.copy()
        one[np.flatnonzero(dx)[0]] = 0
        assert not is_fair(name, [x, dy], [y, one], numbers)
        assert not is_fair(name, [x, dy], [y, dx / 2], numbers)
        assert not is_fair(name, [x, dy], [y, y], numbers)

    def test_dropout_add_adds_the_residual_alone(self):
        name = "dropout_add_10"
        (x, r), (y,), (p, *_) = draw(name)
        assert not is_fair(name, [x, r], [rl.dropout(x, p, rl.Key(1))], (p,))
        assert not is_fair(name, [x, r], [rl.dropout(x + r, p, rl.Key(1))], (p,))
        assert not is_fair(name, [x, r], [r + (y - r) * (1 - p)], (p,))
        assert not is_fair(name, [x, r], [y + np.float32(1e-4)], (p,))

    def test_alpha_dropout_is_no_dropout(self):
        name = "alpha_dropout_10"
        (x,), (y,), (p, *_) = draw(name)
        a, _, dropped = settings.alpha_constants(p)
        kept = np.abs(y - dropped) > 1e-5
        assert not is_fair(name, [x], [rl.dropout(x, p, rl.Key(1))], (p,))
        assert not is_fair(name, [x], [np.where(kept, a * x, dropped)], (p,))
        assert not is_fair(name, [x], [np.where(kept, x, dropped)], (p,))
        assert not is_fair(name, [x], [np.where(kept, y, dropped + 1e-3)], (p,))
        assert not is_fair(name, [x], [np.where(kept, y, 0)], (p,))

    @pytest.mark.parametrize("name", ["normal", "gaussian_dropout_10"])
    def test_numbers_that_are_not_normal(self, name):
        rng = np.random.default_rng(0)
        n = 100_003
        x = np.float32(rng.uniform(1, 2, n))
        p = 0.1

        def fair(z):
            if name == "normal":
                return is_fair(name, [], [z], ())
            return is_fair(name, [x], [x * (1 + math.sqrt(p / (1 - p)) * z)], (p,))

        z = rng.standard_normal(n)
        assert fair(z)
        assert not fair(1.03 * z)
        assert not fair(0.97 * z)
        assert not fair(z + 0.03)
        assert not fair(np.abs(z))
        assert not fair(np.clip(z, -2.5, 2.5))
        assert not fair(rng.uniform(-math.sqrt(3), math.sqrt(3), n))
        assert not fair(rng.choice([-1.0, 1.0], n))
        assert not fair(rng.standard_t(8, n) * math.sqrt(6 / 8))
        assert not fair(rng.standard_exponential(n) - 1)
        assert not fair(np.resize(z[:1000], n))
        assert not fair(np.repeat(z, 2)[:n])
        assert not fair(np.where(np.arange(n) == 5, np.nan, z))

    def test_numbers_that_are_not_uniform(self):
        rng = np.random.default_rng(0)
        n = 100_003

        def fair(u):
            return is_fair("uniform", [], [u], ())

        u = rng.random(n, dtype=np.float32)
        assert fair(u)
        for wrong in (1.0, -1e-7, np.nan, np.inf):
            assert not fair(np.where(np.arange(n) == 5, np.float32(wrong), u))
        assert not fair(u * np.float32(0.97))
        assert not fair(np.sqrt(u) * np.float32(0.999))
        assert not fair(rng.beta(1.05, 1.05, n))
        assert not fair(rng.integers(0, 2, n) * 0.9)
        assert not fair(np.resize(u[:1000], n))
        assert not fair(np.sort(u))
        assert not fair(np.abs(2 * u - 1)[np.repeat(np.arange(n), 2)[:n]])

    def test_blocks_are_whole_and_as_many_as_should_be(self):
        name = "drop_block_10"
        (x,), (y,), (p, key) = draw(name)
        assert is_fair(name, [x], [y], (p,))
        one_more = y.copy()
        one_more.flat[np.flatnonzero(y)[0]] = 0
        for wrong in (
            rl.dropout(x, p, key),
            rl.drop_block(x, p, 2, key),
            rl.drop_block(x, 0.12, settings.BLOCK, key),
            rl.drop_block(x, p, settings.BLOCK, key, per_channel=False),
            rl.drop_block(x, p, settings.BLOCK, key, edges="clipped"),
            y * np.float32(1 + 1e-5),
            np.where(y == 0, 0, x),
            one_more,
            np.zeros_like(x),
        ):
            assert not is_fair(name, [x], [wrong], (p,))

    def test_patches_are_rows_in_their_order(self):
        name = "patch_dropout_50"
        (x,), (y,), (p, key) = draw(name)
        rows = y.reshape(len(x), -1, x.shape[2])
        kept = rows.shape[1] - 1
        assert is_fair(name, [x], [y], (p,))
        altered = rows.copy()
        altered[3, 5, 7] += 1
        for wrong in (
            rl.patch_dropout(x, p, key, ordered=False)[0],
            rl.patch_dropout(x, p, key, num_prefix_tokens=0)[0],
            rl.patch_dropout(x, 0.4, key)[0],
            x[:, : kept + 1],
            x[:, [0, *range(x.shape[1] - kept, x.shape[1])]],
            rows[::-1],
            altered,
        ):
            assert not is_fair(name, [x], [wrong], (p,))

    def test_integers_that_are_not_uniform(self):
        rng = np.random.default_rng(0)
        n, high = 50_000, settings.HIGH

        def fair(x):
            return is_fair("integers", [], [x], ())

        x = rng.integers(high, size=n)
        assert fair(x)
        for wrong in (-1, high):
            assert not fair(np.where(np.arange(n) == 5, wrong, x))
        assert not fair(x.astype(np.int32))
        assert not fair(x // 2 * 2)
        assert not fair(rng.integers(high - 30, size=n))
        assert not fair(np.sort(x))
        assert not fair(np.resize(x[:1000], n))
        assert not fair(np.arange(n) % high)  # each as often as can be

    def test_shrinking_by_other_parts(self):
        name = "random_shrink"
        (x,), _, (strength, _) = draw(name)
        rng = np.random.default_rng(0)

        def fair(u):
            return is_fair(name, [x], [x - np.float32(strength) * np.float32(u) * x], (strength,))

        u = rng.random(x.size)
        assert fair(u)
        assert not fair(0.97 * u)
        assert not fair(1 + u)
        assert not fair(np.full(x.size, 0.5))
        assert not fair(np.resize(u[:1000], x.size))
        assert not is_fair(name, [x], [x], (strength,))

    def test_noise_of_another_deviation(self):
        name = "gaussian_noise"
        (x,), _, (std, _) = draw(name)
        z = np.random.default_rng(0).standard_normal(x.size)
        assert is_fair(name, [x], [x + std * z], (std,))
        for wrong in (x, x + 1.03 * std * z, x + std * np.abs(z), std * z, x * (1 + std * z)):
            assert not is_fair(name, [x], [wrong], (std,))

    @pytest.mark.parametrize(("name", "axes"), SHARED.items())
    def test_elements_alone_share_no_choice(self, name, axes):
        (x,), (y,), (p, key) = draw(name)
        alone = rl.alpha_dropout if "alpha" in name else rl.dropout
        fewer = tuple(range(axes + 1, x.ndim))
        assert is_fair(name, [x], [y], (p,))
        assert not is_fair(name, [x], [alone(x, p, key)], (p,))
        assert not is_fair(name, [x], [alone(x, p, key, broadcast_axes=fewer)], (p,))

    def test_zoneout_takes_either(self):
        (new, old), (y,), (p, *_) = draw("zoneout_10")
        assert not is_fair("zoneout_10", [new, old], [np.where(y == new, old, new)], (p,))
        assert not is_fair("zoneout_10", [new, old], [y / np.float32(1 - p)], (p,))
        (dy,), (d_new, d_old), (p, *_) = draw("zoneout_backward_10")
        for wrong in ([d_old, d_new], [d_new, d_new], [d_new, dy], [d_new, 0 * d_old]):
            assert not is_fair("zoneout_backward_10", [dy], wrong, (p,))

    def test_bools_have_the_type_of_bools(self):
        kept = np.random.default_rng(0).random(100_003) >= 0.1
        assert fairness.bernoulli([], [~kept], (0.1,))
        assert not fairness.bernoulli([], [kept], (0.1,))
        assert not fairness.bernoulli([], [(~kept).astype(np.uint8)], (0.1,))
        assert fairness.kept_bits([], [kept], (0.1, None))
        assert not fairness.kept_bits([], [~kept], (0.1, None))


class TestPeersThatDraw:
    @pytest.fixture
    def check(self, monkeypatch):
        """Check a case with NumPy's table changed."""

        def left_out(name, function):
            operation = DRAWS[name]
            table = {operation.peers or name: function}
            monkeypatch.setattr(random_peers, "numpy_tables", lambda: {"numpy": table})
            good, reasons = checks.checked(a_case(operation), LIBRARIES)
            names = ["ridgeline", "reference", "numpy"]
            assert [each.name for each in good] == names[: 3 - len(reasons)]
            return reasons.get("numpy")

        return left_out

    def test_fair_ones_stay(self, check):
        rng = np.random.default_rng(0)
        assert check("dropout_50", lambda x, out, p, key: rl.dropout(x, p, rl.Key(3))) is None
        assert check("normal", lambda out, key: rng.random(out=out)) is not None

    @pytest.mark.parametrize(
        "function",
        [
            lambda x, out, p, key: x,
            lambda x, out, p, key: None,
            lambda x, out, p, key: rl.dropout(x, 0.4, key),
            lambda x, out, p, key: rl.drop_connect(x, p, key, scale=False),
            lambda x, out, p, key: rl.dropout(x.astype(np.float64), p, key),
            lambda x, out, p, key: rl.dropout(x, p, key)[:-1],
            lambda x, out, p, key: rl.dropout(x[::-1], p, key),
        ],
    )
    def test_unfair_ones_are_left_out(self, check, function):
        assert check("dropout_50", function) == "gives another result"

    def test_a_gradient_that_is_missing_or_another(self, check):
        def forward_only(x, dy, y, dx, p, key):
            return rl.dropout(x, p, key)

        def other_mask(x, dy, y, dx, p, key):
            return rl.dropout(x, p, key), rl.dropout(dy, p, key.fold_in(1))

        for wrong in (forward_only, other_mask):
            assert check("dropout_50_forward_backward", wrong) == "gives another result"

    @pytest.mark.parametrize(
        "function",
        [
            lambda x, out, p, key: rl.dropout(x, p, rl.Key(3), out=out),
            lambda x, out, p, key: rl.dropout(x, p, key),
        ],
    )
    def test_ridgeline_has_to_write_the_numbers_of_the_reference(self, function):
        """Fair is not enough."""
        operation = replace(DRAWS["dropout_50"], function=function)
        with pytest.raises(checks.WrongResult, match="dropout_50"):
            checks.checked(a_case(operation), (*LIBRARIES, "numpy"))


PRUNES = {op.name: op for op in OPERATIONS if op.prunes and op.family == "pruning"}


class TestPruning:
    @pytest.mark.parametrize("name", PRUNES)
    def test_every_operation_has_peers(self, name):
        operation = PRUNES[name]
        assert (operation.peers or name) in prune_peers.OPERATIONS
        found = a_case(operation, operation.layouts[0]).implementations(LIBRARIES)
        assert "numpy" in {each.kind for each in found if each.role == "peer"}

    @pytest.fixture
    def check(self):
        """Check a function as a peer would be."""

        def is_right(name, function, sizes=(100_003,), peer="numpy"):
            operation = PRUNES[name]
            if operation.shape != (-1,):
                sizes = (24 * 4096,)
            case = a_case(operation, Layout("test", sizes, single=len(sizes) == 1))
            data = arguments.Memory(case.bytes)
            wanted = checks.outcome(case, data, Implementation("reference", operation.reference))
            kind = "ridgeline" if peer == "ridgeline" else "numpy"
            got = checks.outcome(case, data, Implementation(peer, function, kind))
            return checks.is_right(case, peer, got, wanted)

        return is_right

    @pytest.mark.parametrize("peer", ["ridgeline", "numpy"])
    @pytest.mark.parametrize("name", [name for name in PRUNES if name.startswith("prune_")])
    def test_a_wrong_mask_is_found(self, check, name, peer):
        sizes = (50_000, 257, 40_000) if name.startswith("prune_global") else (100_003,)

        def changed(change):
            def function(*arguments):
                mask = PRUNES[name].function(*arguments).to_array()
                return change(mask) if len(sizes) == 1 else [*map(change, mask)]

            return check(name, function, sizes, peer)

        def one_off(kept):
            wrong = kept.copy()
            wrong.flat[3] ^= True
            return wrong

        def two_exchanged(kept):
            wrong = kept.copy()
            for which in (np.flatnonzero(kept)[7], np.flatnonzero(~kept)[7]):
                wrong.flat[which] ^= True
            return wrong

        assert changed(lambda kept: kept)
        assert changed(np.float32)
        assert changed(np.uint8)
        assert not changed(one_off)
        if peer == "ridgeline" or PRUNES[name].fair is None:
            assert not changed(two_exchanged)
            assert not changed(np.logical_not)
        assert not changed(np.zeros_like)
        assert not changed(lambda kept: kept.ravel()[:-1])
        assert not changed(lambda kept: np.where(kept, 0.5, 0))
        assert not changed(lambda kept: np.where(kept, np.nan, 0))
        assert check(name, PRUNES[name].function, sizes, peer)

    def test_weights_stay(self, check):
        def writes(w, sparsity):
            mask = rl.prune.magnitude(w, sparsity)
            mask.apply_(w)
            return mask

        assert not check("prune_50", writes)

    @pytest.mark.parametrize("name", [name for name in PRUNES if name.startswith("apply_mask")])
    @pytest.mark.parametrize("sizes", [(100_003,), (257, 1000)])
    def test_masks_are_applied(self, check, name, sizes):
        def one_more(w, kept):
            prune_peers._copy_zero(w, kept)
            w[np.flatnonzero(kept)[5]] = 0

        assert check(name, PRUNES[name].function, sizes, "ridgeline")
        if len(sizes) == 1:
            assert check(name, prune_peers._copy_zero)
            assert not check(name, one_more)
        assert not check(name, lambda arrays, masks: None, sizes)

    @pytest.mark.parametrize("name", [name for name in PRUNES if name.startswith("apply_mask")])
    def test_only_the_first_application_writes(self, name):
        operation = PRUNES[name]
        case = a_case(operation, Layout("test", (1000,)))
        data = arguments.Memory(case.bytes)
        data.restore(1000)
        (x,) = data.flat(1000, GRADS)
        implementation = case.implementations(LIBRARIES)[0]
        runner = measure._Runner(case, implementation, [[x]], [1.0], data)
        runner.calibrate()
        for _ in range(2):
            before = x.copy()
            runner.sample()
            assert np.array_equal(x, before)
        assert 0.4 < np.mean(x == 0) < 0.6
        assert operation.once == operation.writes == (name == "apply_mask_first")
        if operation.once:
            assert runner.calls == 1

    def fair(self, kept, p=0.5):
        return fairness.pruned([], [kept], (p, None))

    @pytest.mark.parametrize("p", [0.5, 0.1, 0.9])
    def test_random_masks_are_fair(self, p):
        w = np.empty(100_003, np.float32)
        for seed in range(3):
            assert self.fair(rl.prune.random(w, p, rl.Key(seed)).to_array(), p)
            for table in prune_peers.numpy_tables(single=True, half=False).values():
                if "prune_random" in table:
                    assert self.fair(table["prune_random"](w, p, None), p)

    def test_unfair_ones_are_not(self):
        n = 100_003
        rng = np.random.default_rng(0)
        gone = round(0.5 * n)
        kept = rl.prune.random(np.empty(n, np.float32), 0.5, rl.Key(0)).to_array()

        def ranked(ranks):
            return ranks > np.partition(ranks, gone - 1)[gone - 1]

        assert self.fair(kept)
        assert self.fair(ranked(rng.random(n)))
        one_more = kept.copy()
        one_more[np.flatnonzero(~kept)[0]] = True
        assert not self.fair(one_more)
        assert not self.fair(rng.random(n) < 0.4)
        assert not self.fair(np.sort(kept))
        assert not self.fair(np.arange(n) % 2 == 1)  # the right number of each block
        assert not self.fair(ranked(rng.random(n) - 0.1 * (np.arange(n) < n // 4)))
        for length in (64, 4096, 40_000):  # rows that nearly share a mask
            shared = np.resize(rng.permutation(length) / length, n)
            assert not self.fair(ranked(shared + 0.1 * rng.random(n)))

    def test_equals_are_many_in_half_types(self):
        """And others than the first are no longer the same mask."""
        case = Case(PRUNES["prune_50"], Layout("test", (100_003,)), "float16")
        found = {each.name: each for each in case.implementations(LIBRARIES)}
        assert not found["numpy argsort"].unfit
        assert "equals" in found["numpy argpartition"].unfit
        data = arguments.Memory(case.bytes)
        wanted, *got = (
            checks.outcome(case, data, found[name])
            for name in ("reference", "numpy argsort", "numpy argpartition")
        )
        right = [checks.is_right(case, "numpy", each, wanted) for each in got]
        assert right == [True, False]


STEPS = {f"{op.name}/{op.dtypes[0]}": op for op in OPERATIONS if op.recipe is not None}
SMALL = Layout("small", (257, 40_003, 3, 1), single=False)
ALONE = Layout("one", (5_003,))


def bytes_of(name):
    """Return the bytes that a step moves for each element."""
    case = a_case(STEPS[name], layouts.MEMORY)
    return case.traffic / case.elements


class TestSteps:
    def test_models(self):
        assert len(layouts.GPT2.sizes) == 148
        assert sum(layouts.GPT2.sizes) == 124_439_808

    def test_bytes_moved(self):
        assert {name: bytes_of(name) for name in STEPS} == {
            "adamw_clip_l1/float32": 4 + 28,
            "adamw_clip/float32": 4 + 28,
            "adamw/float32": 28,
            "momentum_clip_l1/float32": 4 + 20,
            "adamw_clip_l1_bf16_states/float32": 4 + 20,
            "adamw_clip_l1_8bit_states/float32": 4 + 16,
            "adamw_clip/bfloat16": 2 + 22,
            "adamw_clip/float16": 2 + 22,
            "adamw_clip/float64": 8 + 56,
            "sgd/float32": 12,
            "adam/float32": 28,
            "adam_keras/float32": 28,
            "amsgrad/float32": 36,
            "nadam/float32": 28,
            "rmsprop/float32": 20,
            "adagrad/float32": 20,
            "lion/float32": 20,
            "ftrl/float32": 28,
            "ademamix/float32": 36,
            "schedule_free_sgd/float32": 20,
            "schedule_free_adamw/float32": 28,
        }

    @pytest.mark.parametrize("layout", [SMALL, ALONE], ids=lambda layout: layout.name)
    @pytest.mark.parametrize("name", STEPS)
    def test_ridgeline_and_numpy_do_the_same(self, name, layout):
        good, left_out = checks.checked(a_case(STEPS[name], layout), LIBRARIES)
        assert left_out == {}
        wide = ["ridgeline float32 states"] * ("states" in name)
        assert [each.name for each in good] == ["ridgeline", "reference", *wide, "numpy"]

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the peers' own
    @pytest.mark.parametrize("name", STEPS)
    def test_libraries_have_steps(self, name):
        rule = step_peers.RULES[STEPS[name].recipe.rule]
        without = peers.missing(compiled=False, threads=10**6)
        good, _ = checks.checked(a_case(STEPS[name], ALONE), without)
        wanted = {"numpy"}
        if rule.optax and "optax" not in without:
            wanted.add("optax")
        if rule.torch and "torch" not in without and not STEPS[name].recipe.is_half:
            wanted.add(f"torch {rule.torch}")
        if name.startswith(("sgd", "adam_keras")) and "scikit-learn" not in without:
            wanted.add("scikit-learn")
        assert wanted <= {each.name for each in good}

    @pytest.fixture
    def check(self):
        """Check a step that the reference takes with other settings."""
        optimizers = rl.reference.optimizers

        def is_right(name, *, layout=SMALL, change=None, factor=1.0, limit=1.0, **other):
            operation = STEPS[name]
            recipe = operation.recipe
            case = a_case(operation, layout)

            def make(grads, params, *norms):
                settings = step_peers._settings(
                    recipe, optimizers.GlobalNorm, rl.reference.L1, [limit * n for n in norms]
                )
                rule = getattr(optimizers, step_peers.RULES[recipe.rule].optimizer)
                optimizer = rule(params, **{**settings, **other})

                def step(grads):
                    optimizer.step([factor * g for g in grads])
                    if change is not None:
                        change(params)

                return step

            data = arguments.Memory(case.bytes)
            wanted = checks.outcome(case, data, Implementation("reference", operation.reference))
            got = checks.outcome(case, data, Implementation("peer", make))
            return checks.is_right(case, "peer", got, wanted)

        return is_right

    @pytest.mark.parametrize("name", STEPS)
    def test_a_wrong_step_is_found(self, check, name):
        def off(params):
            params[1][7] += 0.05

        recipe = STEPS[name].recipe
        settings = step_peers.RULES[recipe.rule].settings
        rate = settings.get("lr", step_peers.RATE)
        assert check(name)
        assert not check(name, lr=1.1 * rate)
        assert not check(name, change=lambda params: params[1].fill(0))
        if not recipe.is_half:
            assert not check(name, lr=1.001 * rate)
            assert not check(name, change=off)
            assert not check(name, weight_decay=0.2)
        if "betas" in settings:
            assert not check(name, betas=(0.8, *settings["betas"][1:]))
        if "eps" in settings and recipe.rule != "adagrad":
            assert not check(name, eps=1e-3)
        if recipe.rule in ("adamw", "adam", "adam_keras", "amsgrad") and not recipe.is_half:
            assert not check(name, betas=(0.9, 0.95))
        if recipe.rule in ("adamw", "adam") and not recipe.is_half:
            assert not check(name, eps=1e-6)
        if recipe.rule in ("momentum", "sgd"):
            assert not check(name, momentum=0.5)
        if recipe.rule == "momentum":
            assert not check(name, dampening=0.1)
            assert not check(name, nesterov=True)
        if recipe.rule == "ademamix":
            assert not check(name, betas=(0.9, 0.999, 0.999))
            assert not check(name, alpha=4.0)
            assert not check(name, beta3_warmup=100)
        if recipe.rule.startswith("schedule_free"):
            assert not check(name, warmup_steps=2)
            assert not check(name, r=1.0)
        if recipe.rule == "amsgrad":
            assert not check(name, amsgrad=False)
        if recipe.rule == "nadam":
            assert not check(name, momentum_decay=0.4)
        if recipe.rule == "rmsprop":
            assert not check(name, alpha=0.9)
            assert not check(name, centered=True)
        if recipe.rule == "adagrad":
            assert not check(name, initial_accumulator_value=0.1)
            assert not check(name, eps=1e-3)
        if recipe.rule == "ftrl":
            assert not check(name, beta=2.0)
            assert not check(name, l1=1e-2)
            assert not check(name, l2=1e-1)
        if recipe.clip:
            assert not check(name, clip=None)
            assert not check(name, limit=1.1)
        if recipe.prox:
            assert not check(name, penalty=None)
            assert not check(name, prox=None)
            assert not check(name, prox="preconditioned") or recipe.rule == "momentum"

    def test_arrays_that_are_missing_are_found(self):
        x = np.ones(3)
        assert fairness.stepped([0 * x, x], [x, x], [x, x], 0.1)
        assert not fairness.stepped([0 * x, x], [x], [x, x], 0.1)
        assert not fairness.stepped([0 * x], [x[:2]], [x], 0.1)
        assert not fairness.stepped([0 * x], [np.nan * x], [x], 0.1)

    @pytest.mark.usefixtures("without_libraries")
    @pytest.mark.parametrize("name", ["momentum_clip_l1/float32", "adamw_clip/bfloat16"])
    def test_data_are_put_back(self, name):
        case = a_case(STEPS[name], SMALL)
        data = arguments.Memory(arguments.room(case))
        data.restore_params(case.elements, case.dtype)
        before = data.flat(case.elements, PARAMS, dtype=case.dtype)[0].copy()
        effort = measure.Effort(0.0, 0.02)
        row = measure.run_case(case, data, effort, [rl.runtime.target()], LIBRARIES)
        after = data.flat(case.elements, PARAMS, dtype=case.dtype)[0]
        assert np.array_equal(after, before)
        assert row.traffic_bytes == 24 * case.elements
        assert row.roof.median > 0
        assert set(row.implementations) == {"ridgeline", "reference", "numpy"}

    def test_what_a_case_needs(self, monkeypatch):
        narrow, large, other = (
            cases.select(words)[0]
            for words in (
                "adamw_clip/bfloat16/resnet50",
                "adamw_clip_l1/float32/gpt2",
                "dropout_50/float32/64MiB",
            )
        )
        monkeypatch.setattr(measure, "_free_bytes", lambda: 10**9)
        assert measure.obstacle(narrow, LIBRARIES) is None
        assert measure.obstacle(other, LIBRARIES) is None
        assert "GB of memory, 1 are free" in measure.obstacle(large, LIBRARIES)
        monkeypatch.setattr(measure, "_has_bfloat16", lambda: False)
        assert measure.obstacle(narrow, LIBRARIES) == "needs ml_dtypes"

    @pytest.mark.skipif(not memory.is_possible(), reason="Linux only")
    @pytest.mark.parametrize(
        ("name", "states"), [("adamw", 2.0), ("adamw_clip_l1_8bit_states", 0.51)]
    )
    def test_memory_holds_the_states(self, name, states):
        case = a_case(STEPS[f"{name}/float32"], layouts.MEMORY)
        extra, reason = memory.measure(case, "ridgeline", (*LIBRARIES, "numpy"))
        assert reason == ""
        assert 0.98 * states < extra / 2**26 < states + 0.1
