"""Loops written by hand and compiled by Numba: the peer to beat, and the roof.

Sums are float32 as fastmath loops have them. Importing this module needs Numba; a function compiles
when it is first called.
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


def _gradient(g: Any, w: Any) -> Any:
    magnitudes = ZERO
    squares = ZERO
    for i in prange(g.size):
        x = w[i]
        g[i] += L1 * np.sign(x) + L2 * x
        magnitudes += abs(x)
        squares += x * x
    return L1 * magnitudes + L2 * squares * np.float32(0.5)


def _value(w: Any) -> Any:
    magnitudes = ZERO
    squares = ZERO
    for i in prange(w.size):
        magnitudes += abs(w[i])
        squares += w[i] * w[i]
    return L1 * magnitudes + L2 * squares * np.float32(0.5)


def _prox(x: Any, step: Any) -> None:
    for i in prange(x.size):
        x[i] = x[i] - min(max(x[i], -step), step)


def _clamp(x: Any, limits: Any) -> None:
    low, high = limits
    for i in prange(x.size):
        x[i] = min(max(x[i], low), high)


def _norm(x: Any) -> Any:
    total = ZERO
    for i in prange(x.size):
        total += x[i] * x[i]
    return math.sqrt(total)


def _scale(x: Any, factor: Any) -> None:
    for i in prange(x.size):
        x[i] *= factor


def _clip(x: Any, max_norm: Any) -> Any:
    total = ZERO
    for i in prange(x.size):
        total += x[i] * x[i]
    norm = np.float32(math.sqrt(total))
    if norm > max_norm:
        factor = max_norm / norm
        for i in prange(x.size):
            x[i] *= factor
    return norm


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

    def __init__(self, parallel: bool) -> None:
        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            jit = numba.njit(fastmath=True, parallel=parallel)
            result: Callable[..., Any] = jit(function)
            return result

        self.gradient = compiled(_gradient)
        self.value = compiled(_value)
        self.prox = compiled(_prox)
        self.clamp = compiled(_clamp)
        self.norm = compiled(_norm)
        self.scale = compiled(_scale)
        self.clip = compiled(_clip)
        self.roof = {
            "read": compiled(_read),
            "rewrite": compiled(_rewrite),
            "add": compiled(_add),
            "copy": compiled(_copy),
        }


serial = Loops(parallel=False)
parallel = Loops(parallel=True)

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
