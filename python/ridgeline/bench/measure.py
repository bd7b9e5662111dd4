"""Interleaved rounds: roof, ridgeline, peer, peer, and again; medians over the rounds."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import itertools
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline import Key, Mask, MaskSet

from . import fairness
from .cases import CALLS, FLOOR, GRADS, OUT, OUT_2, PARAMS, PRUNED, Case, Layout, Numbers
from .peers import Implementation
from .roof import STEPS, Roof, bytes_moved, words

MIN_RUNS = 7
MAX_RUNS = 201
SLOW = 0.25  # seconds of a call from which it is made in every third round only
_SAMPLE = 500e-6  # seconds that a run takes at least
_SCALES = (1.0, 0.25, 2.0, 1.5)  # of the gradients of the steps that are checked
_REGIONS = 5  # of a Memory, with the original gradients

Flat = npt.NDArray[Any]


class WrongResult(RuntimeError):
    """ridgeline and its reference disagree."""


class Memory:
    """Gradients, their original, parameters and results: regions that all cases use in turn."""

    def __init__(self, elements: int) -> None:
        sample = np.random.default_rng(0).standard_normal(2**16 + 1, dtype=np.float32)
        self._original = np.resize(sample, elements)
        # Starts differ modulo 4096, lest stores and loads look like one address to the core.
        self._regions = {
            GRADS: np.empty(elements + 272, np.float32)[272:],
            PARAMS: np.empty(elements, np.float32),
            OUT: np.empty(elements + 544, np.float32)[544:],
            OUT_2: np.empty(elements + 816, np.float32)[816:],
        }
        self.restore_params(elements)

    def flat(self, elements: int, *regions: str, dtype: str = "float32") -> list[Flat]:
        """Return that many elements of each region."""
        kind = _dtype(dtype)
        return [self._regions[name].view(kind)[:elements] for name in regions]

    def for_roof(self, elements: int, pattern: str, itemsize: int = 4) -> list[Flat]:
        """Return the arrays of a pattern."""
        regions = [GRADS, OUT if pattern in ("copy", "write") else PARAMS]
        if pattern in STEPS:
            regions = [GRADS, PARAMS, OUT, OUT_2]
        sizes = words(pattern, elements, itemsize)
        return [self._regions[name][:n] for name, n in zip(regions, sizes, strict=False)]

    def restore(self, elements: int, dtype: str = "float32") -> None:
        """Undo what was written to the gradients."""
        (gradients,) = self.flat(elements, GRADS, dtype=dtype)
        np.copyto(gradients, self._original[:elements], casting="unsafe")

    def restore_params(self, elements: int, dtype: str = "float32") -> None:
        """Undo what was written to the parameters."""
        # Hardly any two alike: what ranks them has few ties to break.
        rng = np.random.default_rng(1)
        (params,) = self.flat(elements, PARAMS, dtype=dtype)
        if dtype == "float32":
            rng.standard_normal(dtype=np.float32, out=params)
        else:
            params[...] = rng.standard_normal(elements, dtype=np.float32)

    def arrays(
        self, layout: Layout, regions: Iterable[str], dtype: str = "float32"
    ) -> list[list[Flat]]:
        """Return the arrays of a layout in each region."""
        ends = np.cumsum(layout.sizes)[:-1]
        flats = self.flat(layout.elements, *regions, dtype=dtype)
        return [np.split(flat, ends) for flat in flats]


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        name = importlib.import_module("ml_dtypes").bfloat16
    return np.dtype(name)


def obstacle(case: Case, without: Container[str]) -> str | None:
    """Say why a case is left out: steps keep states, for each implementation."""
    if case.operation.recipe is None:
        return None
    if case.operation.dtype == "bfloat16" and importlib.util.find_spec("ml_dtypes") is None:
        return "needs ml_dtypes"
    # states and as much again while a call runs, for those that copy
    needs = 4 * case.layout.elements * (_REGIONS + 4 * len(case.implementations(without)))
    if needs > (free := _free_bytes()):
        return f"needs about {needs * 1e-9:.0f} GB of memory, {free * 1e-9:.0f} are free"
    return None


def _free_bytes() -> int:
    """Return what is free, files in memory included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return sys.maxsize
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    min: float
    max: float
    runs: int
    calls: int


@dataclass
class Result:
    """What one case gave. Times are seconds."""

    case: Case
    timings: dict[str, Timing]
    left_out: dict[str, str]
    roof: float | None
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def traffic(self) -> int:
        """Bytes that a call has to move."""
        operation, elements = self.case.operation, self.case.layout.elements
        return sum(bytes_moved(p, elements, operation.itemsize) for p in operation.passes or ())

    @property
    def best_peer(self) -> str | None:
        """The fastest of the others."""
        peers = [name for name in self.timings if name not in ("ridgeline", FLOOR)]
        return min(peers, key=lambda name: self.timings[name].median, default=None)

    @property
    def speedup(self) -> float | None:
        """Time of the best peer over ours."""
        if self.best_peer is None:
            return None
        return self.timings[self.best_peer].median / self.timings["ridgeline"].median

    @property
    def overhead(self) -> float | None:
        """Our time over that of an empty call."""
        if FLOOR not in self.timings:
            return None
        return self.timings["ridgeline"].median - self.timings[FLOOR].median


def run_case(
    case: Case, memory: Memory, roof: Roof, budget: float, without: Container[str]
) -> Result:
    """Check all implementations of a case, then time them for `budget` seconds or seven rounds."""
    timed, left_out = _checked(case, without)
    layout, operation = case.layout, case.operation
    memory.restore(layout.elements, operation.dtype)
    if operation.recipe is not None:
        memory.restore_params(layout.elements, operation.dtype)
        for x in memory.flat(layout.elements, OUT, OUT_2):
            x.fill(0)
    sets = memory.arrays(layout, operation.arrays, operation.dtype)
    norms = _norms(case, sets)
    runners = [_Runner(case, each, sets, norms, memory) for each in timed]
    result = Result(case, {}, left_out, None)
    if operation.name == "global_norm" and not case.overhead:
        result.errors = {r.name: _relative_error(r.call(), sets[0]) for r in runners}

    passes = () if case.overhead else (operation.passes or ())
    patterns = [
        (each, memory.for_roof(layout.elements, each, operation.itemsize)) for each in passes
    ]
    roofs: list[float] = []
    with _no_garbage_collection():
        for runner in runners:
            runner.calibrate()
        start = perf_counter()
        while len(roofs) < MAX_RUNS and (len(roofs) < MIN_RUNS or perf_counter() - start < budget):
            roofs.append(sum(roof.sample(each, *flat) for each, flat in patterns))
            for runner in runners:
                if len(roofs) % 3 == 0 or not runner.is_slow:
                    runner.sample()
    result.timings = {runner.name: runner.timing() for runner in runners}
    result.roof = median(roofs) if passes else None
    if operation.recipe is not None:
        memory.restore_params(layout.elements)
    return result


def call_of(case: Case, implementation: Implementation, memory: Memory) -> Callable[[], Any]:
    """Return the first call of an implementation; of a step also what makes it."""
    operation = case.operation
    sets = memory.arrays(case.layout, operation.arrays, operation.dtype)
    (arguments,) = _arguments(case, implementation, sets, _norms(case, sets), 1)
    if operation.recipe is not None:
        return lambda: implementation.function(*arguments)(arguments[0])
    return lambda: implementation.function(*arguments)


class _Runner:
    """One implementation with its arguments."""

    def __init__(
        self,
        case: Case,
        implementation: Implementation,
        sets: list[list[Flat]],
        norms: list[float],
        memory: Memory,
    ) -> None:
        self.name = implementation.name
        self._function, self._arguments = calls(case, implementation, sets, norms, CALLS + 1)
        self._restore = case.operation.writes
        self._elements = case.layout.elements
        self._memory = memory
        self._once = case.operation.once
        self._calls = 1
        self.is_slow = False
        self._seconds: list[float] = []

    def call(self) -> Any:
        """Call once."""
        return self._function(*self._arguments[0])

    def calibrate(self) -> None:
        """Warm up, and find how many calls make a run."""
        self._run()
        while self._calls < CALLS:
            seconds = self._run()
            self.is_slow = seconds / self._calls >= SLOW
            if seconds >= _SAMPLE or self._once:
                break
            wanted = 1.2 * _SAMPLE / max(seconds / self._calls, 1e-9)
            self._calls = min(CALLS, max(2 * self._calls, int(wanted) + 1))
        if self.is_slow:  # 2 more in 7 rounds
            self._seconds.append(seconds / self._calls)

    def sample(self) -> None:
        """Time one run."""
        self._seconds.append(self._run() / self._calls)

    def timing(self) -> Timing:
        """Summarize the samples."""
        s = self._seconds
        return Timing(median(s), min(s), max(s), len(s), self._calls)

    def _run(self) -> float:
        if self._restore:
            self._memory.restore(self._elements)
        function = self._function
        calls = self._arguments[1 : 1 + self._calls]
        if self._calls > 1:
            self.call()  # brings the data back into the cache
        start = perf_counter()
        for arguments in calls:
            function(*arguments)
        return perf_counter() - start


def calls(
    case: Case,
    implementation: Implementation,
    sets: list[list[Flat]],
    norms: list[float],
    count: int,
) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """Return what is called, and the arguments of the first `count` calls."""
    function = implementation.function
    if case.operation.recipe is None or implementation.kind == "none":
        return function, _arguments(case, implementation, sets, norms, count)
    (arguments,) = _arguments(case, implementation, sets, norms, 1)
    return function(*arguments), [arguments[:1]] * count


def _arguments(
    case: Case,
    implementation: Implementation,
    sets: list[list[Flat]],
    norms: list[float],
    count: int,
) -> list[tuple[Any, ...]]:
    """The arguments of the first `count` calls."""
    if implementation.kind == "none":
        return [()] * count
    shape = case.operation.shape
    arrays: list[list[Any]] = [[x.reshape(shape) for x in each] for each in sets]
    convert: Any = None
    if implementation.kind == "torch":
        arrays = [[_torch_tensor(x) for x in each] for each in arrays]
    elif implementation.kind == "jax":
        arrays = [
            each if name in (OUT, OUT_2) else [_jax_array(x) for x in each]
            for name, each in zip(case.operation.arrays, arrays, strict=True)
        ]
    elif implementation.kind == "numba" and not case.operation.prunes:
        convert = _numba_number
        if case.operation.dtype == "bfloat16":
            arrays = [[x.view(np.uint16) for x in each] for each in arrays]
    if case.operation.takes_masks:
        arrays.append(_masks(case, implementation.kind))
    first = [each[0] if case.layout.single else each for each in arrays]
    if case.operation.takes_masks and implementation.kind == "ridgeline":
        first[-1] = (Mask if case.layout.single else MaskSet).from_array(first[-1])
    numbers = itertools.islice(case.operation.numbers(norms), count)
    return [(*first, *_converted(each, convert)) for each in numbers]


def _masks(case: Case, kind: str) -> list[Any]:
    """Return arrays of bool, False for the elements that go."""
    rng = np.random.default_rng(2)
    shape = case.operation.shape
    masks = [rng.random(n, np.float32).reshape(shape) >= PRUNED for n in case.layout.sizes]
    if kind == "torch":
        return [importlib.import_module("torch").from_numpy(kept) for kept in masks]
    return masks


def _torch_tensor(x: Any) -> Any:
    torch: Any = importlib.import_module("torch")
    if x.dtype == np.float32:
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)


def _jax_array(x: Any) -> Any:
    jax: Any = importlib.import_module("jax")
    return jax.device_put(x, jax.devices("cpu")[0])


def _numba_number(x: Any) -> Any:
    return np.uint64(x.seed) if isinstance(x, Key) else np.float32(x)


def _converted(numbers: Numbers, convert: Any) -> Numbers:
    if convert is None:
        return numbers
    return tuple(_converted(x, convert) if isinstance(x, tuple) else convert(x) for x in numbers)


def _norms(case: Case, sets: list[list[Flat]]) -> list[float]:
    """The norms of the gradients, where there are any."""
    if case.operation.arrays[0] != GRADS:
        return []
    return [float(np.linalg.norm(x.astype(np.float32, copy=False))) for x in sets[0]]


@dataclass(frozen=True)
class _Outcome:
    """What one call read, wrote to its arrays, and returned."""

    read: list[Flat]
    arrays: list[list[Flat]]
    returned: Any
    numbers: Numbers

    def written(self, regions: tuple[str, ...]) -> list[Flat]:
        """Return what was written where results go, or in place."""
        pairs = zip(self.arrays, regions, strict=True)
        results = [x[0] for x, name in pairs if name in (OUT, OUT_2)]
        return results or [self.arrays[0][0]]

    def results(self, regions: tuple[str, ...]) -> list[npt.NDArray[Any]]:
        """Return what was returned, or else written: peers do one or the other."""
        if self.returned is None:
            return [*self.written(regions)]
        made = self.returned if isinstance(self.returned, tuple) else (self.returned,)
        return [np.array(x.detach() if hasattr(x, "detach") else x) for x in made]


def _outcome(case: Case, memory: Memory, implementation: Implementation) -> _Outcome:
    elements, regions = case.layout.elements, case.operation.arrays
    if case.operation.recipe is not None:
        return _steps(case, memory, implementation)
    memory.restore(elements)
    for x in memory.flat(elements, OUT, OUT_2):
        x.fill(np.nan)
    sets = memory.arrays(case.layout, regions)
    pairs = zip(sets, regions, strict=True)
    read = [x[0].copy() for x, name in pairs if name in (GRADS, PARAMS)]
    (arguments,) = _arguments(case, implementation, sets, _norms(case, sets), 1)
    returned = implementation.function(*arguments)
    written = [[x.copy() for x in each] for each in sets]
    return _Outcome(read, written, returned, arguments[len(regions) :])


def _steps(case: Case, memory: Memory, implementation: Implementation) -> _Outcome:
    """What some steps, of gradients that change, did to the parameters."""
    elements, operation = case.layout.elements, case.operation
    memory.restore(elements, operation.dtype)
    memory.restore_params(elements, operation.dtype)
    sets = memory.arrays(case.layout, operation.arrays, operation.dtype)
    grads, before = ([x.copy() for x in each] for each in sets)
    (arguments,) = _arguments(case, implementation, sets, _norms(case, sets), 1)
    step = implementation.function(*arguments)
    returned = None
    for k, scale in enumerate(_SCALES):
        for target, source in zip(sets[0], grads, strict=True):
            target[...] = np.roll(source, k) * source.dtype.type(scale)
        (now,) = _arguments(case, implementation, sets, [1.0], 1)
        returned = step(now[0])
    written = [[x.copy() for x in each] for each in sets]
    return _Outcome(before, written, returned, arguments[2:])


def _checked(case: Case, without: Container[str]) -> tuple[list[Implementation], dict[str, str]]:
    """List the implementations that compute the same as the reference, and why others do not."""
    small = replace(case, layout=case.operation.reduced(case.layout))
    memory = Memory(small.layout.elements)
    wanted = _outcome(small, memory, Implementation("reference", case.operation.reference))
    good: list[Implementation] = []
    left_out: dict[str, str] = {}
    for each in case.implementations(without):
        if each.name == FLOOR:
            good.append(each)
            continue
        try:
            got = _outcome(small, memory, each)
        except Exception as error:
            if each.name == "ridgeline":
                raise
            left_out[each.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        if _is_right(small, each.name, got, wanted):
            good.append(each)
        elif each.name == "ridgeline":
            raise WrongResult(f"{case.name}: ridgeline and ridgeline.reference disagree")
        else:
            left_out[each.name] = "gives another result"
    return good, left_out


def _is_right(case: Case, name: str, got: _Outcome, wanted: _Outcome) -> bool:
    """Whether results are those of the reference; for a peer that draws at random, as good."""
    operation = case.operation
    if operation.recipe is not None:
        moved = got.arrays[1] if got.returned is None else got.returned
        own = name == "ridgeline"
        tolerance = operation.recipe.tolerance if own else operation.recipe.peer_tolerance
        return fairness.stepped(got.read, moved, wanted.arrays[1], tolerance)
    if operation.makes_masks:
        return _keeps_the_same(case, name, got, wanted)
    if operation.fair is None:
        return _is_same(got, wanted)
    if name == "ridgeline":
        pairs = zip(got.written(operation.arrays), wanted.results(operation.arrays), strict=True)
        if not all(
            np.allclose(x, y.ravel(), rtol=operation.tolerance, atol=operation.tolerance)
            for x, y in pairs
        ):
            return False
    results = got.results(operation.arrays)
    if len(results) != len(got.written(operation.arrays)):
        return False
    if any(x.dtype != np.float32 or x.size != case.layout.elements for x in results):
        return False
    read, made = ([x.reshape(operation.shape) for x in each] for each in (got.read, results))
    return operation.fair(read, made, got.numbers)


def _kept(case: Case, returned: Any) -> list[npt.NDArray[np.bool_]] | None:
    """Return which elements of each array are kept; None if what is returned is no mask."""
    if isinstance(returned, Mask | MaskSet):
        returned = returned.to_array()
    masks = [np.asarray(x) for x in ([returned] if case.layout.single else returned)]
    if [x.size for x in masks] != list(case.layout.sizes):
        return None
    if not all(np.all((x == 0) | (x == 1)) for x in masks):
        return None
    return [x.ravel() != 0 for x in masks]


def _keeps_the_same(case: Case, name: str, got: _Outcome, wanted: _Outcome) -> bool:
    """Whether masks keep what those of the reference keep; of a peer that draws, as good."""
    fair = case.operation.fair
    kept, right = _kept(case, got.returned), _kept(case, wanted.returned)
    if kept is None or right is None:
        return False
    exact = fair is None or name == "ridgeline"
    if exact and not all(np.array_equal(x, y) for x, y in zip(kept, right, strict=True)):
        return False
    untouched = all(
        np.array_equal(x, y)
        for each, before in zip(got.arrays, wanted.arrays, strict=True)
        for x, y in zip(each, before, strict=True)
    )
    return untouched and (fair is None or fair(got.read, kept, got.numbers))


def _is_same(got: _Outcome, wanted: _Outcome) -> bool:
    """Whether the first set of arrays and what is returned are those of the reference."""
    pairs = zip(got.arrays[0], wanted.arrays[0], strict=True)
    same = all(np.allclose(x, y, rtol=1e-5, atol=1e-7) for x, y in pairs)
    if wanted.returned is not None:
        same = same and np.allclose(np.ravel(got.returned), np.ravel(wanted.returned), rtol=1e-4)
    return same


def _relative_error(norm: float, arrays: list[Flat]) -> float:
    pieces = (x[i : i + 2**20].astype(np.float64) for x in arrays for i in range(0, x.size, 2**20))
    exact = math.sqrt(math.fsum(float(np.dot(piece, piece)) for piece in pieces))
    return abs(float(norm) - exact) / exact


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
