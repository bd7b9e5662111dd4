"""Loops written by hand and compiled by Numba: the peer to beat.

Sums are float32 numbers, or float64 as ridgeline's are. Importing this module needs Numba; a
function compiles when it is first called.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import settings
from .settings import alpha_constants

STRENGTH = np.float32(settings.STRENGTH)
PENALTIES = {  # l1 and l2
    "l1": (STRENGTH, np.float32(0)),
    "l2": (np.float32(0), STRENGTH),
    "elastic_net": (np.float32(settings.L1), np.float32(settings.L2)),
}
ZERO = np.float32(0)
ONE = np.float32(1)

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


def _penalty(wide: Any, l1: Any, l2: Any) -> dict[str, Callable[..., Any]]:
    """Functions of a penalty whose sums are numbers of type `wide`."""
    zero = wide(0)
    half = wide(0.5)

    def add_gradient(g: Any, w: Any) -> Any:
        magnitudes = zero
        squares = zero
        for i in prange(g.size):
            x = w[i]
            g[i] += l1 * np.sign(x) + l2 * x
            magnitudes += abs(wide(x))
            squares += wide(x) * wide(x)
        return l1 * magnitudes + l2 * squares * half

    def value(w: Any) -> Any:
        magnitudes = zero
        squares = zero
        for i in prange(w.size):
            x = wide(w[i])
            magnitudes += abs(x)
            squares += x * x
        return l1 * magnitudes + l2 * squares * half

    return {"add_gradient": add_gradient, "value": value}


def _proximal(l1: Any, l2: Any) -> Callable[..., Any]:
    def prox(x: Any, step: Any) -> None:
        threshold = step * l1
        scale = ONE / (ONE + step * l2)
        for i in prange(x.size):
            x[i] = scale * (x[i] - min(max(x[i], -threshold), threshold))

    return prox


def _sums(wide: Any) -> dict[str, Callable[..., Any]]:
    """Functions whose sums are numbers of type `wide`."""
    zero = wide(0)

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

    return {"norm": norm, "clip": clip}


def _soft_out(x: Any, out: Any, step: Any) -> None:
    threshold = step * STRENGTH
    for i in prange(x.size):
        out[i] = x[i] - min(max(x[i], -threshold), threshold)


def _clamp(x: Any, limits: Any) -> None:
    low, high = limits
    for i in prange(x.size):
        x[i] = min(max(x[i], low), high)


def _non_negative(x: Any) -> None:
    for i in prange(x.size):
        x[i] = max(x[i], ZERO)


def _scale(x: Any, factor: Any) -> None:
    for i in prange(x.size):
        x[i] *= factor


# Random numbers: a hash of the index, far cheaper than Philox and far weaker.

_alpha_constants = numba.njit(alpha_constants)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _hash(i: Any, seed: Any) -> Any:
    """Wellons (2018), "Prospecting for hash functions": lowbias32."""
    x = np.uint32(np.uint32(i) ^ seed)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _threshold(p: Any) -> Any:
    return np.uint32(np.float64(p) * 4294967296.0)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _inverse(p: Any) -> Any:
    return np.float32(1 / (1 - np.float64(p)))


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _unit(bits: Any) -> Any:
    return np.float32(np.int32(bits >> np.uint32(8))) * np.float32(2**-24)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _normals(i: Any, seed: Any) -> Any:
    """Return numbers i, which is even, and i + 1 (Box & Muller 1958)."""
    u = _unit(_hash(i, seed)) + np.float32(2**-25)
    angle = np.float32(2 * math.pi) * _unit(_hash(i + 1, seed))
    radius = np.sqrt(np.float32(-2) * np.log(u))
    return radius * np.cos(angle), radius * np.sin(angle)


def _dropout(x: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit, scale = np.uint32(key), _threshold(p), _inverse(p)
    for i in prange(x.size):
        out[i] = x[i] * scale if _hash(i, seed) >= limit else ZERO


def _dropout_in_place(x: Any, p: Any, key: Any) -> None:
    seed, limit, scale = np.uint32(key), _threshold(p), _inverse(p)
    for i in prange(x.size):
        x[i] = x[i] * scale if _hash(i, seed) >= limit else ZERO


def _dropout_add(x: Any, residual: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit, scale = np.uint32(key), _threshold(p), _inverse(p)
    for i in prange(x.size):
        out[i] = residual[i] + (x[i] * scale if _hash(i, seed) >= limit else ZERO)


def _alpha_dropout(x: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    factor, added, lowest = _alpha_constants(np.float64(p))
    a, shift, dropped = np.float32(factor), np.float32(added), np.float32(lowest)
    for i in prange(x.size):
        out[i] = a * x[i] + shift if _hash(i, seed) >= limit else dropped


def _alpha_dropout_backward(dy: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    factor = np.float32(_alpha_constants(np.float64(p))[0])
    for i in prange(dy.size):
        out[i] = dy[i] * factor if _hash(i, seed) >= limit else ZERO


def _zoneout(new: Any, old: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    for i in prange(new.size):
        out[i] = new[i] if _hash(i, seed) >= limit else old[i]


def _zoneout_backward(dy: Any, d_new: Any, d_old: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    for i in prange(dy.size):
        kept = _hash(i, seed) >= limit
        d_new[i] = dy[i] if kept else ZERO
        d_old[i] = ZERO if kept else dy[i]


def _keep(kept: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    for i in prange(kept.size):
        kept[i] = _hash(i, seed) >= limit


def _bernoulli(chosen: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    for i in prange(chosen.size):
        chosen[i] = _hash(i, seed) < limit


def _random_shrink(x: Any, strength: Any, key: Any) -> None:
    seed = np.uint32(key)
    for i in prange(x.size):
        x[i] -= strength * _unit(_hash(i, seed)) * x[i]


def _feature_alpha_dropout(x: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit = np.uint32(key), _threshold(p)
    factor, added, lowest = _alpha_constants(np.float64(p))
    a, shift, dropped = np.float32(factor), np.float32(added), np.float32(lowest)
    channels, area = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]
    flat, made = x.reshape(channels, area), out.reshape(channels, area)
    for c in prange(channels):
        kept = _hash(c, seed) >= limit
        for i in range(area):
            made[c, i] = a * flat[c, i] + shift if kept else dropped


def _gaussian_noise(x: Any, out: Any, std: Any, key: Any) -> None:
    seed = np.uint32(key)
    for k in prange(x.size // 2):
        first, second = _normals(2 * k, seed)
        out[2 * k] = x[2 * k] + std * first
        out[2 * k + 1] = x[2 * k + 1] + std * second
    if x.size % 2:
        out[-1] = x[-1] + std * _normals(x.size - 1, seed)[0]


def _spatial_dropout(x: Any, out: Any, p: Any, key: Any) -> None:
    seed, limit, scale = np.uint32(key), _threshold(p), _inverse(p)
    channels, area = x.shape[0] * x.shape[1], x.shape[2] * x.shape[3]
    flat, made = x.reshape(channels, area), out.reshape(channels, area)
    for c in prange(channels):
        factor = scale if _hash(c, seed) >= limit else ZERO
        for i in range(area):
            made[c, i] = flat[c, i] * factor


def _gaussian_dropout(x: Any, out: Any, p: Any, key: Any) -> None:
    seed, wide = np.uint32(key), np.float64(p)
    std = np.float32(math.sqrt(wide / (1 - wide)))
    for k in prange(x.size // 2):
        first, second = _normals(2 * k, seed)
        out[2 * k] = x[2 * k] * (ONE + std * first)
        out[2 * k + 1] = x[2 * k + 1] * (ONE + std * second)
    if x.size % 2:
        out[-1] = x[-1] * (ONE + std * _normals(x.size - 1, seed)[0])


def _fill_normal(out: Any, key: Any) -> None:
    seed = np.uint32(key)
    for k in prange(out.size // 2):
        out[2 * k], out[2 * k + 1] = _normals(2 * k, seed)
    if out.size % 2:
        out[-1] = _normals(out.size - 1, seed)[0]


def _fill_uniform(out: Any, key: Any) -> None:
    seed = np.uint32(key)
    for i in prange(out.size):
        out[i] = _unit(_hash(i, seed))


# Pruning: keys are magnitudes as integers, or hashes; their 31 bits are two digits.

_KEY = np.uint32(0x7FFFFFFF)
_DIGIT = np.uint32(15)


def _high_digits(keys: Any, counts: Any) -> None:
    parts = counts.shape[0]
    for t in prange(parts):
        for i in range(t * keys.size // parts, (t + 1) * keys.size // parts):
            counts[t, (keys[i] & _KEY) >> _DIGIT] += np.uint32(1)


def _low_digits(keys: Any, high: Any, counts: Any) -> None:
    parts = counts.shape[0]
    for t in prange(parts):
        for i in range(t * keys.size // parts, (t + 1) * keys.size // parts):
            key = keys[i] & _KEY
            if key >> _DIGIT == high:
                counts[t, key & np.uint32(0x7FFF)] += np.uint32(1)


def _above(keys: Any, threshold: Any, kept: Any) -> None:
    for i in prange(keys.size):
        kept[i] = keys[i] & _KEY > threshold


def _hashes(keys: Any, seed: Any) -> None:
    for i in prange(keys.size):
        keys[i] = _hash(i, np.uint32(seed))


def _two_of_4(w: Any, kept: Any) -> None:
    for k in prange(w.size // 4):
        i = 4 * k
        a, b, c, d = abs(w[i]), abs(w[i + 1]), abs(w[i + 2]), abs(w[i + 3])
        low = max(min(a, b), min(c, d))
        second = min(low, min(max(a, b), max(c, d)))
        kept[i] = a > second
        kept[i + 1] = b > second
        kept[i + 2] = c > second
        kept[i + 3] = d > second


def _apply_mask(w: Any, kept: Any) -> None:
    for i in prange(w.size):
        w[i] = w[i] if kept[i] else ZERO


# Optimizers: the sum of squares, then all the rest in one loop. bfloat16 is uint16 here.


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _wide(x: Any) -> Any:
    """Return the float32 of a bfloat16's bits."""
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _narrow(x: Any) -> Any:
    """Return the bits of the nearest bfloat16."""
    bits = np.float32(x).view(np.uint32)
    half = np.uint32(0x7FFF) + (np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(bits + half) >> np.uint32(16))


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _same(x: Any) -> Any:
    return x


def _steps(load: Any, store: Any) -> dict[str, Callable[..., Any]]:
    """Functions of parameters and gradients that are stored in some way; states are float32."""

    def squares(g: Any) -> Any:
        total = ZERO
        for i in prange(g.size):
            x = load(g[i])
            total += x * x
        return total

    def adamw(
        w: Any,
        g: Any,
        m: Any,
        v: Any,
        scale: Any,
        rate: Any,
        root: Any,
        b1: Any,
        b2: Any,
        eps: Any,
        kept: Any,
        threshold: Any,
    ) -> None:
        for i in prange(w.size):
            x = scale * load(g[i])
            m[i] = b1 * m[i] + (ONE - b1) * x
            v[i] = b2 * v[i] + (ONE - b2) * x * x
            y = kept * load(w[i]) - rate * m[i] / (np.sqrt(v[i]) * root + eps)
            w[i] = store(y - min(max(y, -threshold), threshold))

    def momentum_step(
        w: Any, g: Any, m: Any, scale: Any, rate: Any, momentum: Any, threshold: Any
    ) -> None:
        for i in prange(w.size):
            m[i] = momentum * m[i] + scale * load(g[i])
            y = load(w[i]) - rate * m[i]
            w[i] = store(y - min(max(y, -threshold), threshold))

    return {"squares": squares, "adamw": adamw, "momentum": momentum_step}


class Loops:
    """All loops, compiled one way."""

    def __init__(self, parallel: bool, wide: Any = np.float32) -> None:
        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            jit = numba.njit(fastmath=True, parallel=parallel)
            result: Callable[..., Any] = jit(function)
            return result

        sums = _sums(wide)
        self.penalties = {
            name: {verb: compiled(each) for verb, each in _penalty(wide, *strengths).items()}
            for name, strengths in PENALTIES.items()
        }
        self.proximal = {
            f"prox_{name}": compiled(_proximal(*strengths)) for name, strengths in PENALTIES.items()
        }
        self.norm = compiled(sums["norm"])
        self.clip = compiled(sums["clip"])
        self.soft_out = compiled(_soft_out)
        self.clamp = compiled(_clamp)
        self.non_negative = compiled(_non_negative)
        self.scale = compiled(_scale)
        self.dropout = compiled(_dropout)
        self.dropout_in_place = compiled(_dropout_in_place)
        self.dropout_add = compiled(_dropout_add)
        self.alpha_dropout = compiled(_alpha_dropout)
        self.alpha_dropout_backward = compiled(_alpha_dropout_backward)
        self.feature_alpha_dropout = compiled(_feature_alpha_dropout)
        self.spatial_dropout = compiled(_spatial_dropout)
        self.gaussian_noise = compiled(_gaussian_noise)
        self.zoneout = compiled(_zoneout)
        self.zoneout_backward = compiled(_zoneout_backward)
        self.keep = compiled(_keep)
        self.bernoulli = compiled(_bernoulli)
        self.random_shrink = compiled(_random_shrink)
        self.gaussian_dropout = compiled(_gaussian_dropout)
        self.normal = compiled(_fill_normal)
        self.uniform = compiled(_fill_uniform)
        self.above = compiled(_above)
        self.hashes = compiled(_hashes)
        self.two_of_4 = compiled(_two_of_4)
        self.apply_mask = compiled(_apply_mask)
        self.high_digits = compiled(_high_digits)
        self.low_digits = compiled(_low_digits)
        self.wide = {name: compiled(each) for name, each in _steps(_same, _same).items()}
        self.narrow = {name: compiled(each) for name, each in _steps(_wide, _narrow).items()}


serial = Loops(parallel=False)
parallel = Loops(parallel=True)
serial_float64 = Loops(parallel=False, wide=np.float64)
parallel_float64 = Loops(parallel=True, wide=np.float64)

_GRAIN = 32768


def counters(bits: int) -> Any:
    """Return zeros to count digits in, a row for each thread."""
    return np.zeros((numba.get_num_threads(), 2**bits), np.uint32)


def of_size(x: Any) -> Loops:
    """Return the loops with threads for a large array, else without."""
    return parallel if x.size >= _GRAIN else serial


def add_gradient(grads: Any, params: Any) -> float:
    """Loop over the arrays, with threads in the large ones."""
    pairs = zip(grads, params, strict=True)
    return sum(float(of_size(g).penalties["elastic_net"]["add_gradient"](g, w)) for g, w in pairs)


def prox(arrays: Any, step: Any) -> None:
    """Loop over the arrays, with threads in the large ones."""
    for x in arrays:
        of_size(x).proximal["prox_l1"](x, step)


def clamp(arrays: Any, limits: Any) -> None:
    """Loop over the arrays, with threads in the large ones."""
    for x in arrays:
        of_size(x).clamp(x, limits)


def norm(arrays: Any) -> float:
    """Loop over the arrays, with threads in the large ones."""
    return math.sqrt(sum(of_size(x).norm(x) ** 2 for x in arrays))


def clip(arrays: Any, max_norm: Any) -> float:
    """Loop over the arrays, with threads in the large ones."""
    before = norm(arrays)
    if before > max_norm:
        factor = np.float32(max_norm / before)
        for x in arrays:
            of_size(x).scale(x, factor)
    return before


def clip_each(arrays: Any, max_norm: Any) -> list[float]:
    """Loop over the arrays, with threads in the large ones."""
    return [float(of_size(x).clip(x, max_norm)) for x in arrays]
