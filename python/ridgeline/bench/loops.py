"""Loops written by hand and compiled by Numba: the peer to beat, and the roof.

Sums are float32 numbers, or float64 as ridgeline's are. Importing this module needs Numba; a
function compiles when it is first called.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

L1 = np.float32(1e-5)
L2 = np.float32(1e-4)
ZERO = np.float32(0)

numba: Any = importlib.import_module("numba")
prange: Any = numba.prange


def set_num_threads(n: int) -> None:
    """Use OpenMP where this build of Numba has it: one team of threads with ridgeline and torch."""
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        pass
    else:
        numba.config.THREADING_LAYER = "omp"
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))


def _sums(wide: Any) -> dict[str, Callable[..., Any]]:
    """Functions whose sums are numbers of type `wide`."""
    zero = wide(0)
    half = wide(0.5)

    def gradient(g: Any, w: Any) -> Any:
        magnitudes = zero
        squares = zero
        for i in prange(g.size):
            x = w[i]
            g[i] += L1 * np.sign(x) + L2 * x
            magnitudes += abs(wide(x))
            squares += wide(x) * wide(x)
        return L1 * magnitudes + L2 * squares * half

    def value(w: Any) -> Any:
        magnitudes = zero
        squares = zero
        for i in prange(w.size):
            x = wide(w[i])
            magnitudes += abs(x)
            squares += x * x
        return L1 * magnitudes + L2 * squares * half

    def norm(x: Any) -> Any:
        total = zero
        for i in prange(x.size):
            total += wide(x[i]) * wide(x[i])
        return math.sqrt(total)

    def clip(x: Any, max_norm: Any) -> Any:
        total = zero
        for i in prange(x.size):
            total += wide(x[i]) * wide(x[i])
        norm = math.sqrt(total)
        if norm > max_norm:
            factor = np.float32(max_norm / norm)
            for i in prange(x.size):
                x[i] *= factor
        return norm

    return {"gradient": gradient, "value": value, "norm": norm, "clip": clip}


def _prox(x: Any, step: Any) -> None:
    for i in prange(x.size):
        x[i] = x[i] - min(max(x[i], -step), step)


def _clamp(x: Any, limits: Any) -> None:
    low, high = limits
    for i in prange(x.size):
        x[i] = min(max(x[i], low), high)


def _scale(x: Any, factor: Any) -> None:
    for i in prange(x.size):
        x[i] *= factor


def _read(a: Any, b: Any, zero: Any, passes: int) -> Any:
    total = ZERO
    for _ in range(passes):
        for i in prange(a.size):
            total += a[i]
    return total


def _rewrite(a: Any, b: Any, zero: Any, passes: int) -> None:
    for _ in range(passes):
        for i in prange(a.size):
            a[i] = a[i] + zero


def _add(a: Any, b: Any, zero: Any, passes: int) -> None:
    for _ in range(passes):
        for i in prange(a.size):
            a[i] = a[i] + zero * b[i]


def _copy(a: Any, b: Any, zero: Any, passes: int) -> None:
    for _ in range(passes):
        for i in prange(a.size):
            b[i] = a[i] + zero


class Loops:
    """All loops, compiled one way."""

    def __init__(self, parallel: bool, wide: Any = np.float32) -> None:
        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            jit = numba.njit(fastmath=True, parallel=parallel)
            result: Callable[..., Any] = jit(function)
            return result

        sums = _sums(wide)
        self.gradient = compiled(sums["gradient"])
        self.value = compiled(sums["value"])
        self.norm = compiled(sums["norm"])
        self.clip = compiled(sums["clip"])
        self.prox = compiled(_prox)
        self.clamp = compiled(_clamp)
        self.scale = compiled(_scale)
        self.roof = {
            "read": compiled(_read),
            "rewrite": compiled(_rewrite),
            "add": compiled(_add),
            "copy": compiled(_copy),
        }


serial = Loops(parallel=False)
parallel = Loops(parallel=True)
serial_float64 = Loops(parallel=False, wide=np.float64)
parallel_float64 = Loops(parallel=True, wide=np.float64)

_GRAIN = 32768


def _for(x: Any) -> Loops:
    return parallel if x.size >= _GRAIN else serial


def gradient(grads: Any, params: Any) -> float:
    """Loop over the arrays, with threads in the large ones."""
    return sum(float(_for(g).gradient(g, w)) for g, w in zip(grads, params, strict=True))


def prox(arrays: Any, step: Any) -> None:
    """Loop over the arrays, with threads in the large ones."""
    for x in arrays:
        _for(x).prox(x, step)


def clamp(arrays: Any, limits: Any) -> None:
    """Loop over the arrays, with threads in the large ones."""
    for x in arrays:
        _for(x).clamp(x, limits)


def norm(arrays: Any) -> float:
    """Loop over the arrays, with threads in the large ones."""
    return math.sqrt(sum(_for(x).norm(x) ** 2 for x in arrays))


def clip(arrays: Any, max_norm: Any) -> float:
    """Loop over the arrays, with threads in the large ones."""
    before = norm(arrays)
    if before > max_norm:
        factor = np.float32(max_norm / before)
        for x in arrays:
            _for(x).scale(x, factor)
    return before


def clip_each(arrays: Any, max_norm: Any) -> list[float]:
    """Loop over the arrays, with threads in the large ones."""
    return [float(_for(x).clip(x, max_norm)) for x in arrays]
