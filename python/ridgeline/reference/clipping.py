"""Norms and gradient clipping, in float64.

"not (norm <= limit)" rather than "norm > limit": a NaN norm takes part in the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ridgeline.reference._tree import Array, Float64, Tree, arrays_of, float64, leaves, store


def _norm(x: Float64, ord: float) -> float:
    largest = float(np.max(np.abs(x), initial=0.0))
    if np.isinf(ord) or largest == 0 or not np.isfinite(largest):
        return largest
    # dividing by the largest keeps the powers in range (Blue 1978)
    power_sum = float(np.sum((np.abs(x) / largest) ** ord))
    return float(largest * power_sum ** (1 / ord))


def _scale(grads: list[Array], factor: float) -> None:
    with np.errstate(all="ignore"):
        for g in grads:
            store(g, float64(g) * factor)


def global_norm(arrays: Tree, ord: float = 2) -> float:
    """Return the norm of all arrays taken as one vector; the norm of nothing is 0.

    Examples
    --------
    >>> global_norm([np.array([3.0]), np.array([4.0])])
    5.0
    """
    flat = [float64(a).ravel() for a in arrays_of(arrays)]
    return _norm(np.concatenate([np.zeros(0), *flat]), ord)


def clip_by_value_(grads: Tree, limit: float | tuple[float, float]) -> None:
    """Clamp every entry to [-limit, limit], or to (low, high); a NaN stays.

    Examples
    --------
    >>> g = np.array([0.5, -3.0])
    >>> clip_by_value_(g, 1.0)
    >>> g
    array([ 0.5, -1. ])
    """
    low, high = limit if isinstance(limit, tuple) else (-limit, limit)
    for g in arrays_of(grads):
        store(g, np.clip(float64(g), low, high))


def clip_by_norm_(grads: Tree, max_norm: float, ord: float = 2) -> list[float]:
    """Clip each array by its own norm (Pascanu, Mikolov & Bengio 2013); return the norms before.

    Examples
    --------
    >>> g = [np.array([3.0, 4.0]), np.array([0.5])]
    >>> clip_by_norm_(g, 1.0), g
    ([5.0, 0.5], [array([0.6, 0.8]), array([0.5])])
    """
    return [clip_by_global_norm_(g, max_norm, ord) for g in arrays_of(grads)]


def clip_by_global_norm_(
    grads: Tree,
    max_norm: float,
    ord: float = 2,
    *,
    on_nonfinite: str = "propagate",
    comm: Any = None,
) -> float:
    """Scale all arrays by max_norm / norm if the norm of all of them is larger.

    Pascanu, Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks",
    algorithm 1. Returns the norm before.

    Examples
    --------
    >>> g = np.array([3.0, 4.0])
    >>> clip_by_global_norm_(g, 1.0), g
    (5.0, array([0.6, 0.8]))
    """
    norm = global_norm(grads, ord)
    if comm is not None:
        norm = _norm(np.array(comm.allgather(norm), dtype=np.float64), ord)
    if not np.isfinite(norm) and on_nonfinite != "propagate":
        if on_nonfinite == "raise":
            bad = [
                name for name, g in leaves(grads, "grads") if not np.all(np.isfinite(float64(g)))
            ]
            raise FloatingPointError(f"{bad[0] if bad else 'another rank'}: not finite")
        if on_nonfinite == "zero":
            for g in arrays_of(grads):
                store(g, np.zeros(g.shape))
    elif not norm <= max_norm:
        _scale(arrays_of(grads), float(np.float64(max_norm) / norm))
    return norm


def clip_by_rms_(grads: Tree, max_rms: float) -> list[float]:
    """Scale each array whose root mean square is larger than max_rms (Shazeer & Stern 2018).

    Examples
    --------
    >>> g = np.array([3.0, 3.0])
    >>> clip_by_rms_(g, 1.0), g
    ([3.0], array([1., 1.]))
    """
    rms = [_norm(float64(g).ravel(), 2) / max(g.size, 1) ** 0.5 for g in arrays_of(grads)]
    for g, before in zip(arrays_of(grads), rms, strict=True):
        if not before <= max_rms:
            _scale([g], float(np.float64(max_rms) / before))
    return rms


def zero_largest_(grads: Tree, count: int = 1) -> None:
    """Set the ``count`` entries of largest magnitude in each array to 0.

    A NaN is larger than infinity; among equals the lower index in C order goes first.

    Examples
    --------
    >>> g = np.array([1.0, -3.0, 3.0])
    >>> zero_largest_(g)
    >>> g
    array([1., 0., 3.])
    """
    for g in arrays_of(grads):
        size = np.abs(float64(g).ravel())
        isnan = np.isnan(size)
        order = np.lexsort((-np.where(isnan, 0.0, size), ~isnan))
        for index in order[:count]:
            g[np.unravel_index(index, g.shape)] = 0
