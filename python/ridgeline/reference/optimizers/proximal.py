"""Proximal operators with a step for every element."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ridgeline.reference._tree import Float64
from ridgeline.reference.penalties import (
    L0,
    L1,
    L2,
    MCP,
    SCAD,
    CappedL1,
    ElasticNet,
    Huber,
    LHalf,
    LogSum,
    Penalty,
    Sum,
    _keep_nan,
    soft_threshold,
)


def _candidates(penalty: Penalty, x: Float64, t: Float64) -> list[Float64]:
    """List where (y - x)^2 / 2 + t P(y) can be least for y >= 0, given x >= 0."""
    zero = np.zeros_like(x)
    if isinstance(penalty, L0):
        return [zero, x]
    if isinstance(penalty, MCP):
        s, gamma = penalty.strength, penalty.gamma
        inner = np.clip((x - t * s) / (1 - t / gamma), 0.0, gamma * s)
        return [zero, inner, np.maximum(x, gamma * s)]
    if isinstance(penalty, SCAD):
        s, gamma = penalty.strength, penalty.gamma
        inner = ((gamma - 1) * x - gamma * t * s) / (gamma - 1 - t)
        ends = [np.clip(x - t * s, 0.0, s), np.maximum(x, gamma * s)]
        return [*ends, np.clip(inner, s, gamma * s)]
    if isinstance(penalty, LogSum):
        root = np.sqrt((x + penalty.eps) ** 2 - 4 * t * penalty.strength)
        return [zero, np.maximum(((x - penalty.eps) + root) / 2, 0.0)]
    if isinstance(penalty, CappedL1):
        theta = penalty.threshold
        return [np.clip(x - t * penalty.strength, 0.0, theta), np.maximum(x, theta)]
    assert isinstance(penalty, LHalf)
    angle = np.arccos(np.clip(-(3**1.5 / 4) * t * penalty.strength * x**-1.5, -1.0, 1.0))
    return [zero, 2 / 3 * x * (1 + np.cos(2 / 3 * angle))]


def prox(penalty: Penalty, x: Float64, t: float | Float64) -> Float64:
    """Minimise (y - x)^2 / 2 + t P(y) over y, for each element with its own step t.

    The global minimiser for every t: of the points where the derivative is 0, the ends of the
    pieces and 0, the one with the least objective; of equal ones the smallest.

    Examples
    --------
    >>> prox(L1(1.0), np.array([3.0, 3.0]), np.array([1.0, 2.0]))
    array([2., 1.])
    >>> prox(MCP(1.0, gamma=2.0), np.array([3.9, 4.1]), 8.0)  # sqrt(t gamma) = 4
    array([0. , 4.1])
    """
    x = np.asarray(x)
    t, size = np.broadcast_to(np.asarray(t, np.float64), x.shape), np.abs(x)
    with np.errstate(all="ignore"):
        if isinstance(penalty, Sum):
            ridge = sum(m.strength for m in penalty.members if isinstance(m, L2))
            others = [m for m in penalty.members if not isinstance(m, L2)]
            x, t = x / (1 + t * ridge), t / (1 + t * ridge)
            if len(others) > 1:
                raise TypeError("the prox of a Sum is known only when all members but one are L2")
            return prox(others[0], x, t) if others else x
        if isinstance(penalty, L1):
            return _keep_nan(x, soft_threshold(x, t * penalty._scale()))
        if isinstance(penalty, L2):
            return np.asarray(x / (1 + t * penalty.strength))
        if isinstance(penalty, ElasticNet):
            return _keep_nan(x, soft_threshold(x, t * penalty.l1) / (1 + t * penalty.l2))
        if isinstance(penalty, Huber):
            u, delta = t * penalty.strength, penalty.delta
            return np.where(size <= delta * (1 + u), x / (1 + u), x - u * delta * np.sign(x))
        points = _candidates(penalty, size, t)
        best = np.full(x.shape, np.inf)
        found = size
        for y in sorted_by_size(points):
            # the objective without x^2 / 2: exact where y is 0
            cost = y * (y / 2 - size) + t * penalty._terms(y)
            better = cost < best
            best, found = np.where(better, cost, best), np.where(better, y, found)
    return _keep_nan(x, np.sign(x) * found)


def sorted_by_size(points: Iterable[Float64]) -> Float64:
    """Sort candidates, element by element; a NaN goes last.

    Examples
    --------
    >>> sorted_by_size([np.array([3.0, 1.0]), np.array([2.0, np.nan])])
    array([[ 2.,  1.],
           [ 3., nan]])
    """
    return np.sort(np.stack(list(points)), axis=0)
