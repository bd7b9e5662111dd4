"""Penalties as the papers write them: value, gradient and proximal operator.

For a penalty P and a step t, ``prox(x)`` is the minimiser of (y - x)^2 / 2 + t P(y). A NaN stays a
NaN everywhere, and the derivative of |w| at 0 is taken to be 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.reference._tree import Array, Float64, Tree, arrays_of, float64, rounded, store


def soft_threshold(x: Float64, threshold: float | Float64) -> Float64:
    """Move x towards 0 by a threshold, stopping at 0 (Donoho & Johnstone 1994).

    Examples
    --------
    >>> soft_threshold(np.array([3.0, 0.5]), 1.0)
    array([2., 0.])
    """
    moved: Float64 = np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)
    return moved


@dataclass(frozen=True)
class Penalty:
    """A function of each weight: its terms, their derivatives and their proximal operator.

    Examples
    --------
    >>> L1(1.0) + L2(0.5)
    ElasticNet(l1=1.0, l2=0.5)
    """

    def _terms(self, w: Float64) -> Float64:
        raise NotImplementedError

    def _slope(self, w: Float64) -> Float64:
        raise TypeError(f"{type(self).__name__} has no gradient")

    def _shrink(self, x: Float64, t: float) -> Float64:
        raise NotImplementedError

    def _for_each(self, params: Tree) -> list[tuple[Penalty, Array]]:
        return [(self, w) for w in arrays_of(params)]

    def value(self, params: Tree) -> float:
        """Sum the terms over all arrays.

        Examples
        --------
        >>> L1(0.5).value([np.array([1.0, -2.0]), np.array([4.0])])
        3.5
        """
        with np.errstate(all="ignore"):
            pairs = [(each, float64(w)) for each, w in self._for_each(params)]
            return sum((float(np.sum(_keep_nan(w, each._terms(w)))) for each, w in pairs), 0.0)

    def gradient(self, w: Array) -> Array:
        """Return the derivative of the penalty at each weight.

        Examples
        --------
        >>> L2(0.5).gradient(np.array([1.0, -2.0]))
        array([ 0.5, -1. ])
        """
        with np.errstate(all="ignore"):
            return rounded(_keep_nan(float64(w), self._slope(float64(w))), w.dtype)

    def add_gradient_(self, grads: Tree, params: Tree) -> float:
        """Add the gradient at ``params`` to ``grads`` and return the value.

        Examples
        --------
        >>> g = np.zeros(2)
        >>> L1(0.5).add_gradient_(g, np.array([1.0, -2.0])), g
        (1.5, array([ 0.5, -0.5]))
        """
        for g, (each, w) in zip(arrays_of(grads), self._for_each(params), strict=True):
            with np.errstate(all="ignore"):
                store(g, float64(g) + each.gradient(float64(w)))
        return self.value(params)

    def prox(self, x: Array, step: float) -> Array:
        """Apply the proximal operator to one array.

        Examples
        --------
        >>> L2(1.0).prox(np.array([3.0]), step=0.5)
        array([2.])
        """
        with np.errstate(all="ignore"):
            return rounded(_keep_nan(float64(x), self._shrink(float64(x), step)), x.dtype)

    def prox_(self, params: Tree, step: float) -> None:
        """Apply the proximal operator to every array, in place.

        Examples
        --------
        >>> w = np.array([3.0])
        >>> L1(1.0).prox_({"w": w}, step=0.5)
        >>> w
        array([2.5])
        """
        for each, w in self._for_each(params):
            store(w, float64(each.prox(float64(w), step)))

    def __add__(self, other: Penalty) -> Penalty:
        """Add two penalties; L1 and L2 together are the elastic net."""
        if isinstance(self, L2) and isinstance(other, L1):
            return other + self
        if isinstance(self, L1) and self.weights is None and isinstance(other, L2):
            return ElasticNet(self.strength, other.strength)
        return Sum(_members(self) + _members(other))


def _keep_nan(x: Float64, result: Float64) -> Float64:
    return np.where(np.isnan(x), x, result)


def _members(penalty: Penalty) -> tuple[Penalty, ...]:
    return penalty.members if isinstance(penalty, Sum) else (penalty,)


@dataclass(frozen=True)
class L1(Penalty):
    """The lasso, s |w| (Tibshirani 1996); with weights a the adaptive lasso, s a |w| (Zou 2006).

    Examples
    --------
    >>> L1(1.0, weights=np.array([0.0, 2.0])).prox(np.array([3.0, 3.0]), step=1.0)
    array([3., 1.])
    """

    strength: float
    weights: Any = None

    def _for_each(self, params: Tree) -> list[tuple[Penalty, Array]]:
        if self.weights is None:
            return super()._for_each(params)
        pairs = zip(arrays_of(self.weights), arrays_of(params), strict=True)
        return [(L1(self.strength, a), w) for a, w in pairs]

    def _scale(self) -> float | Float64:
        return self.strength if self.weights is None else self.strength * float64(self.weights)

    def _terms(self, w: Float64) -> Float64:
        return self._scale() * np.abs(w)

    def _slope(self, w: Float64) -> Float64:
        return self._scale() * np.sign(w)

    def _shrink(self, x: Float64, t: float) -> Float64:
        return soft_threshold(x, t * self._scale())


@dataclass(frozen=True)
class L2(Penalty):
    """Ridge, s/2 w^2 (Hoerl & Kennard 1970): the gradient s w is weight decay.

    Examples
    --------
    >>> L2(0.5).value(np.array([2.0]))
    1.0
    """

    strength: float

    def _terms(self, w: Float64) -> Float64:
        return self.strength / 2 * w**2

    def _slope(self, w: Float64) -> Float64:
        return self.strength * w

    def _shrink(self, x: Float64, t: float) -> Float64:
        return x / (1 + t * self.strength)


@dataclass(frozen=True)
class ElasticNet(Penalty):
    """The elastic net, l1 |w| + l2/2 w^2 (Zou & Hastie 2005): threshold first, then shrink.

    Examples
    --------
    >>> ElasticNet(1.0, 1.0).prox(np.array([3.0]), step=1.0)
    array([1.])
    """

    l1: float
    l2: float

    def _terms(self, w: Float64) -> Float64:
        return self.l1 * np.abs(w) + self.l2 / 2 * w**2

    def _slope(self, w: Float64) -> Float64:
        return self.l1 * np.sign(w) + self.l2 * w

    def _shrink(self, x: Float64, t: float) -> Float64:
        return soft_threshold(x, t * self.l1) / (1 + t * self.l2)


@dataclass(frozen=True)
class MCP(Penalty):
    """Minimax concave penalty (Zhang 2010): the lasso at 0, flat from gamma s on.

    Examples
    --------
    >>> MCP(1.0, gamma=2.0).prox(np.array([0.5, 1.5, 3.0]), step=1.0)
    array([0., 1., 3.])
    """

    strength: float
    gamma: float

    def _terms(self, w: Float64) -> Float64:
        s, gamma, size = self.strength, self.gamma, np.abs(w)
        return np.where(size <= gamma * s, s * size - size**2 / (2 * gamma), gamma * s**2 / 2)

    def _slope(self, w: Float64) -> Float64:
        s, gamma, size = self.strength, self.gamma, np.abs(w)
        return np.where(size <= gamma * s, np.sign(w) * (s - size / gamma), 0.0)

    def _shrink(self, x: Float64, t: float) -> Float64:
        s, gamma = self.strength, self.gamma
        if gamma <= t:
            raise ValueError(f"step: got {t}, wants less than gamma = {gamma}")
        return np.where(np.abs(x) <= gamma * s, soft_threshold(x, t * s) / (1 - t / gamma), x)


@dataclass(frozen=True)
class SCAD(Penalty):
    """Smoothly clipped absolute deviation (Fan & Li 2001).

    Examples
    --------
    >>> SCAD(1.0).prox(np.array([0.5, 1.5, 5.0]), step=1.0)
    array([0. , 0.5, 5. ])
    """

    strength: float
    gamma: float = 3.7

    def _terms(self, w: Float64) -> Float64:
        s, gamma, size = self.strength, self.gamma, np.abs(w)
        bend = (2 * gamma * s * size - size**2 - s**2) / (2 * (gamma - 1))
        flat = s**2 * (gamma + 1) / 2
        return np.where(size <= s, s * size, np.where(size <= gamma * s, bend, flat))

    def _slope(self, w: Float64) -> Float64:
        s, gamma, size = self.strength, self.gamma, np.abs(w)
        bend = (gamma * s - size) / (gamma - 1)
        return np.sign(w) * np.where(size <= s, s, np.where(size <= gamma * s, bend, 0.0))

    def _shrink(self, x: Float64, t: float) -> Float64:
        s, gamma, size = self.strength, self.gamma, np.abs(x)
        if gamma <= 1 + t:
            raise ValueError(f"step: got {t}, wants less than gamma - 1 = {gamma - 1}")
        bend = ((gamma - 1) * x - np.sign(x) * gamma * t * s) / (gamma - 1 - t)
        soft = soft_threshold(x, t * s)
        return np.where(size <= (1 + t) * s, soft, np.where(size <= gamma * s, bend, x))


@dataclass(frozen=True)
class LogSum(Penalty):
    """Log-sum penalty, s log(1 + |w| / eps) (Candes, Wakin & Boyd 2008; prox: Gong et al. 2013).

    Examples
    --------
    >>> LogSum(0.25, eps=0.5).prox(np.array([0.5, 1.5]), step=1.0)
    array([0.       , 1.3660254])
    """

    strength: float
    eps: float

    def _terms(self, w: Float64) -> Float64:
        return self.strength * np.log1p(np.abs(w) / self.eps)

    def _slope(self, w: Float64) -> Float64:
        return self.strength * np.sign(w) / (self.eps + np.abs(w))

    def _stationary(self, size: Float64, u: float) -> Float64:
        """Return the larger root of y - size + u / (eps + y) = 0."""
        root = np.sqrt(np.maximum((size + self.eps) ** 2 - 4 * u, 0.0))
        return np.asarray(((size - self.eps) + root) / 2)

    def _threshold(self, u: float) -> float:
        """Return the largest |x| whose minimiser is 0."""
        if np.sqrt(u) <= self.eps:
            return u / self.eps
        low, high = 2 * np.sqrt(u) - self.eps, u / self.eps
        while low < (middle := (low + high) / 2) < high:
            y = float(self._stationary(np.array(middle), u))
            gain = middle**2 / 2 - ((y - middle) ** 2 / 2 + u * np.log1p(y / self.eps))
            low, high = (low, middle) if y > 0 and gain > 0 else (middle, high)
        return float(low)

    def _shrink(self, x: Float64, t: float) -> Float64:
        u, size = t * self.strength, np.abs(x)
        kept = np.sign(x) * self._stationary(size, u)
        return np.where(size <= self._threshold(u), 0.0, kept)


@dataclass(frozen=True)
class L0(Penalty):
    """The number of weights that aren't 0, times s: the hard threshold (Donoho & Johnstone 1994).

    Examples
    --------
    >>> L0(0.5).prox(np.array([1.0, 1.25]), step=1.0)
    array([0.  , 1.25])
    """

    strength: float

    def _terms(self, w: Float64) -> Float64:
        return np.where(w != 0, self.strength, 0.0)

    def _shrink(self, x: Float64, t: float) -> Float64:
        return np.where(np.abs(x) > np.sqrt(2 * t * self.strength), x, 0.0)


@dataclass(frozen=True)
class LHalf(Penalty):
    """The square root of |w|, times s, and its half thresholding (Xu et al. 2012).

    Examples
    --------
    >>> LHalf(1.0).prox(np.array([1.0, 4.0]), step=1.0)
    array([0.        , 3.74150827])
    """

    strength: float

    def _terms(self, w: Float64) -> Float64:
        return self.strength * np.sqrt(np.abs(w))

    def _slope(self, w: Float64) -> Float64:
        return np.where(w == 0, 0.0, self.strength * np.sign(w) / (2 * np.sqrt(np.abs(w))))

    def _shrink(self, x: Float64, t: float) -> Float64:
        u, size = t * self.strength, np.abs(x)
        angle = np.arccos(-(3**1.5 / 4) * u * size**-1.5)
        kept = 2 / 3 * x * (1 + np.cos(2 / 3 * angle))
        return np.where((size < 1.5 * u ** (2 / 3)) | (size == 0), 0.0, kept)


@dataclass(frozen=True)
class Huber(Penalty):
    """Huber's loss times s: quadratic up to delta, linear from there on (Huber 1964).

    Examples
    --------
    >>> Huber(1.0, delta=1.0).prox(np.array([1.0, 4.0]), step=1.0)
    array([0.5, 3. ])
    """

    strength: float
    delta: float

    def _terms(self, w: Float64) -> Float64:
        s, delta, size = self.strength, self.delta, np.abs(w)
        return np.where(size <= delta, s / 2 * w**2, s * delta * (size - delta / 2))

    def _slope(self, w: Float64) -> Float64:
        return np.clip(w, -self.delta, self.delta) * self.strength

    def _shrink(self, x: Float64, t: float) -> Float64:
        u, delta = t * self.strength, self.delta
        return np.where(np.abs(x) <= delta * (1 + u), x / (1 + u), x - u * delta * np.sign(x))


@dataclass(frozen=True)
class CappedL1(Penalty):
    """s min(|w|, threshold) (Zhang 2010).

    The gradient is 0 from the threshold on. The prox is the better of the lasso's, held below the
    threshold, and of x itself, held above it.

    Examples
    --------
    >>> CappedL1(1.0, threshold=2.0).prox(np.array([2.0, 3.0]), step=1.0)
    array([1., 3.])
    """

    strength: float
    threshold: float

    def _terms(self, w: Float64) -> Float64:
        return self.strength * np.minimum(np.abs(w), self.threshold)

    def _slope(self, w: Float64) -> Float64:
        return np.where(np.abs(w) < self.threshold, self.strength * np.sign(w), 0.0)

    def _shrink(self, x: Float64, t: float) -> Float64:
        u, size = t * self.strength, np.abs(x)
        low = np.clip(size - u, 0.0, self.threshold)
        high = np.maximum(size, self.threshold)
        with np.errstate(invalid="ignore"):
            cost_low = low * (low / 2 - size) + u * low
            cost_high = high * (high / 2 - size) + u * self.threshold
        return np.sign(x) * np.where(cost_low <= cost_high, low, high)


@dataclass(frozen=True)
class Sum(Penalty):
    """Several penalties added; its prox is known when all of them but one are L2.

    Completing the square, prox of t (f + s/2 y^2) at x is prox of t / (1 + t s) f at
    x / (1 + t s) (Parikh & Boyd 2014, section 2.2).

    Examples
    --------
    >>> (MCP(1.0, gamma=2.0) + L2(1.0)).prox(np.array([1.0, 8.0]), step=1.0)
    array([0., 4.])
    """

    members: tuple[Penalty, ...]

    def _for_each(self, params: Tree) -> list[tuple[Penalty, Array]]:
        columns = zip(*(member._for_each(params) for member in self.members), strict=True)
        return [(Sum(tuple(each for each, _ in column)), column[0][1]) for column in columns]

    def value(self, params: Tree) -> float:
        """Sum the members' values.

        Examples
        --------
        >>> Sum((L1(1.0), L0(1.0))).value(np.array([2.0]))
        3.0
        """
        return sum((member.value(params) for member in self.members), 0.0)

    def gradient(self, w: Array) -> Array:
        """Sum the members' gradients.

        Examples
        --------
        >>> Sum((L1(1.0), L2(1.0))).gradient(np.array([2.0]))
        array([3.])
        """
        total = sum((m.gradient(float64(w)) for m in self.members), np.zeros(w.shape))
        return rounded(total, w.dtype)

    def _shrink(self, x: Float64, t: float) -> Float64:
        ridge = 1 + t * sum(m.strength for m in self.members if isinstance(m, L2))
        others = [m for m in self.members if not isinstance(m, L2)]
        if len(others) > 1:
            raise TypeError("the prox of a Sum is known only when all members but one are L2")
        return others[0]._shrink(x / ridge, t / ridge) if others else x / ridge
