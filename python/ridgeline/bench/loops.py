"""Loops written by hand and compiled by Numba: the peer to beat, and the roof.

Float32 sums accumulate in float32, as fastmath loops do. Importing this module needs Numba.
"""
# ruff: noqa: NPY002

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

os.environ.setdefault("NUMBA_THREADING_LAYER", "omp")  # one team of threads with ridgeline's

import numba
from numba import prange

_F = TypeVar("_F", bound=Callable[..., Any])


def _serial(function: _F) -> _F:
    return cast("_F", numba.njit(fastmath=True, nogil=True)(function))


def _parallel(function: _F) -> _F:
    return cast("_F", numba.njit(fastmath=True, nogil=True, parallel=True)(function))


def _gradient(g: Any, w: Any, l1: Any, l2: Any) -> Any:
    magnitudes = g.dtype.type(0)
    squares = g.dtype.type(0)
    for i in prange(g.size):
        x = w[i]
        g[i] += math.copysign(l1, x) * (x != 0) + l2 * x
        magnitudes += abs(x)
        squares += x * x
    return l1 * magnitudes + l2 * squares / 2


def _prox_l1(x: Any, threshold: Any) -> None:
    for i in prange(x.size):
        x[i] = math.copysign(max(abs(x[i]) - threshold, threshold - threshold), x[i])


def _clamp(x: Any, low: Any, high: Any) -> None:
    for i in prange(x.size):
        x[i] = min(max(x[i], low), high)


def _sum_squares(x: Any) -> Any:
    total = x.dtype.type(0)
    for i in prange(x.size):
        total += x[i] * x[i]
    return total


def _scale(x: Any, factor: Any) -> None:
    for i in prange(x.size):
        x[i] *= factor


def _read_roof(a: Any, b: Any, one: Any) -> Any:
    total = a.dtype.type(0)
    for i in prange(a.size):
        total += a[i]
    return total


def _rewrite_roof(a: Any, b: Any, one: Any) -> None:
    for i in prange(a.size):
        a[i] *= one


def _add_roof(a: Any, b: Any, one: Any) -> None:
    for i in prange(a.size):
        a[i] += (one - one) * b[i]


def _copy_roof(a: Any, b: Any, one: Any) -> None:
    for i in prange(a.size):
        b[i] = a[i] * one


gradient, parallel_gradient = _serial(_gradient), _parallel(_gradient)
prox_l1, parallel_prox_l1 = _serial(_prox_l1), _parallel(_prox_l1)
clamp, parallel_clamp = _serial(_clamp), _parallel(_clamp)
sum_squares, parallel_sum_squares = _serial(_sum_squares), _parallel(_sum_squares)
scale, parallel_scale = _serial(_scale), _parallel(_scale)
