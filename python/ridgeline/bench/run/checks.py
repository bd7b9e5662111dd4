"""Checks that implementations compute the same, made before anything is timed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline import Mask, MaskSet

from ..peers.registry import Implementation
from ..rows import fairness
from ..rows.cases import FLOOR, Case
from ..rows.layouts import Layout
from ..rows.operation import GRADS, OUT, OUT_2, PARAMS, Numbers
from .arguments import Flat, Memory, arguments, dtype_of, norms_of

_SCALES = (1.0, 0.25, 2.0, 1.5)  # of the gradients of the steps that are checked
# Relative error of a result against the reference's, which has wider sums and one rounding.
_TOLERANCE = {"float64": 1e-7, "float32": 1e-5, "bfloat16": 2**-7, "float16": 2**-9}


class WrongResult(RuntimeError):
    """ridgeline and its reference disagree."""


@dataclass(frozen=True)
class Outcome:
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
        return [_numpy(x) for x in made]


def _numpy(x: Any) -> npt.NDArray[Any]:
    if not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach()
    if str(x.dtype) != "torch.bfloat16":
        return np.array(x)
    return np.array(x.view(importlib.import_module("torch").uint16)).view(dtype_of("bfloat16"))


def outcome(case: Case, memory: Memory, implementation: Implementation) -> Outcome:
    """Call an implementation once; make some steps if it is one of an optimizer."""
    elements, regions = case.elements, case.operation.arrays
    memory.restore(elements, case.dtype)
    memory.restore_params(elements, case.dtype)
    if case.operation.recipe is not None:
        return _steps(case, memory, implementation)
    memory.fill_results(elements, math.nan, case.dtype)
    sets = memory.arrays(case)
    pairs = zip(sets, regions, strict=True)
    read = [x[0].copy() for x, name in pairs if name in (GRADS, PARAMS)]
    (given,) = arguments(case, implementation, sets, norms_of(case, sets), 1)
    returned = implementation.function(*given)
    written = [[x.copy() for x in each] for each in sets]
    return Outcome(read, written, returned, given[len(regions) :])


def _steps(case: Case, memory: Memory, implementation: Implementation) -> Outcome:
    """What some steps, of gradients that change, did to the parameters."""
    sets = memory.arrays(case)
    grads, before = ([x.copy() for x in each] for each in sets)
    (given,) = arguments(case, implementation, sets, norms_of(case, sets), 1)
    step = implementation.function(*given)
    returned = None
    for k, scale in enumerate(_SCALES):
        for target, source in zip(sets[0], grads, strict=True):
            target[...] = np.roll(source, k) * source.dtype.type(scale)
        (now,) = arguments(case, implementation, sets, [1.0], 1)
        returned = step(now[0])
    written = [[x.copy() for x in each] for each in sets]
    return Outcome(before, written, returned, given[2:])


def checked(case: Case, without: Container[str]) -> tuple[list[Implementation], dict[str, str]]:
    """List the implementations that compute the same as the reference, and why others do not."""
    sizes = case.operation.reduced(case.sizes)
    small = replace(case, layout=Layout(case.layout.name, sizes, case.layout.single))
    memory = Memory(small.bytes)
    wanted = outcome(small, memory, Implementation("reference", case.operation.reference))
    good: list[Implementation] = []
    left_out: dict[str, str] = {}
    for each in case.implementations(without):
        if each.name == FLOOR:
            good.append(each)
            continue
        if each.unfit:
            left_out[each.name] = each.unfit
            continue
        ours = not good and not left_out
        try:
            got = outcome(small, memory, each)
            if each.kind == "jax" and case.operation.changes:
                got = _as_written(got, wanted)
        except Exception as error:
            if ours:
                raise
            first_line = (str(error).splitlines() or [""])[0]
            left_out[each.name] = f"{type(error).__name__}: {first_line}"
            continue
        if is_right(small, each.name, got, wanted):
            good.append(each)
        elif ours:
            raise WrongResult(f"{case.name}: {each.name} and its reference disagree")
        else:
            left_out[each.name] = "gives another result"
    return good, left_out


def _as_written(got: Outcome, wanted: Outcome) -> Outcome:
    """What JAX would have written: it returns it, after what the operation returns."""
    returned, made = (None, got.returned) if wanted.returned is None else got.returned
    written = [np.asarray(x) for x in (made if isinstance(made, list) else [made])]
    return replace(got, returned=returned, arrays=[written, *got.arrays[1:]])


def is_right(case: Case, name: str, got: Outcome, wanted: Outcome) -> bool:
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
        return _is_same(case, name, got, wanted)
    results = got.results(operation.arrays)
    if name == "ridgeline":
        mine = results if operation.results else got.written(operation.arrays)
        pairs = zip(mine, wanted.results(operation.arrays), strict=True)
        if not all(_agree(x.ravel(), y.ravel(), operation.tolerance) for x, y in pairs):
            return False
    read = [x.reshape(operation.shape) for x in got.read]
    if operation.results:
        sizes = [part * case.bytes for part in operation.results]
        if len(results) != len(sizes) or any(
            not 0 <= size - x.nbytes < 8 for x, size in zip(results, sizes, strict=True)
        ):
            return False
        return operation.fair(read, results, got.numbers)
    if len(results) != len(got.written(operation.arrays)):
        return False
    if any(x.dtype != dtype_of(case.dtype) or x.size != case.elements for x in results):
        return False
    made = [x.reshape(operation.shape) for x in results]
    return operation.fair(read, made, got.numbers)


def _agree(x: Flat, y: Flat, tolerance: float) -> bool:
    if x.dtype.kind == "b" or not tolerance:
        return np.array_equal(x, y)
    x, y = (each.astype(np.float64) for each in (x, y))
    return np.allclose(x, y, rtol=tolerance, atol=tolerance)


def _kept(case: Case, returned: Any) -> list[npt.NDArray[np.bool_]] | None:
    """Return which elements of each array are kept; None if what is returned is no mask."""
    if isinstance(returned, Mask | MaskSet):
        returned = returned.to_array()
    masks = [np.asarray(x) for x in ([returned] if case.layout.single else returned)]
    if [x.size for x in masks] != list(case.sizes):
        return None
    if not all(np.all((x == 0) | (x == 1)) for x in masks):
        return None
    return [x.ravel() != 0 for x in masks]


def _keeps_the_same(case: Case, name: str, got: Outcome, wanted: Outcome) -> bool:
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


def _is_same(case: Case, name: str, got: Outcome, wanted: Outcome) -> bool:
    """Whether the arrays and what is returned are those of the reference."""
    tolerance = _TOLERANCE[case.dtype]
    if OUT in case.operation.arrays and name != "ridgeline" and got.returned is not None:
        got = replace(got, arrays=[*got.arrays[:-1], got.results(case.operation.arrays)])
    for xs, ys in zip(got.arrays, wanted.arrays, strict=True):
        if [(x.size, x.dtype) for x in xs] != [(y.size, y.dtype) for y in ys]:
            return False
        for x, y in zip(xs, ys, strict=True):
            if not _is_near(x, y, tolerance, tolerance / 20):
                return False
    return wanted.returned is None or _is_near(got.returned, wanted.returned, 10 * tolerance, 1e-8)


def _is_near(x: Any, y: Any, relative: float, absolute: float) -> bool:
    a, b = (np.ravel(np.asarray(each, np.float64)) for each in (x, y))
    return a.size == b.size and np.allclose(a, b, rtol=relative, atol=absolute, equal_nan=True)


def relative_error(norm: float, arrays: list[Flat]) -> float:
    """Return the error of a 2-norm against float64."""
    pieces = (x[i : i + 2**20].astype(np.float64) for x in arrays for i in range(0, x.size, 2**20))
    exact = math.sqrt(math.fsum(float(np.dot(piece, piece)) for piece in pieces))
    return abs(float(norm) - exact) / exact
