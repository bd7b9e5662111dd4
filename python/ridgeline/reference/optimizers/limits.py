"""Clips of gradients and constraints of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ridgeline.reference._tree import Tree, arrays_of, float64, store


@dataclass(frozen=True)
class GlobalNorm:
    """Scale all gradients by max_norm / norm if the norm of all of them is larger.

    Examples
    --------
    >>> from ridgeline.reference.optimizers import SGD
    >>> w = [np.zeros(1), np.zeros(1)]
    >>> report = SGD(w, lr=1.0, clip=GlobalNorm(1.0)).step([np.array([3.0]), np.array([-4.0])])
    >>> report.norm, w
    (5.0, [array([-0.6]), array([0.8])])
    """

    max_norm: float
    ord: float = 2


@dataclass(frozen=True)
class Norm:
    """Scale each gradient by max_norm / norm if its own norm is larger.

    Examples
    --------
    >>> from ridgeline.reference.optimizers import SGD
    >>> w = [np.zeros(1), np.zeros(1)]
    >>> SGD(w, lr=1.0, clip=Norm(1.0)).step([np.array([0.5]), np.array([-4.0])]).scale
    [1.0, 0.25]
    """

    max_norm: float
    ord: float = 2


@dataclass(frozen=True)
class Value:
    """Clamp every element to [-limit, limit], or to (low, high).

    Examples
    --------
    >>> Value((-1.0, 2.0)).bounds
    (-1.0, 2.0)
    """

    limit: float | tuple[float, float]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper limit.

        Examples
        --------
        >>> Value(0.5).bounds
        (-0.5, 0.5)
        """
        return self.limit if isinstance(self.limit, tuple) else (-self.limit, self.limit)


@dataclass(frozen=True)
class Box:
    """Weights between two bounds; a NaN stays.

    Examples
    --------
    >>> w = np.array([-3.0, 0.5, np.nan])
    >>> Box(-1.0, 1.0).project_(w)
    >>> w
    array([-1. ,  0.5,  nan])
    """

    low: float
    high: float

    def project_(self, params: Tree) -> None:
        """Clamp every element of every array.

        Examples
        --------
        >>> w = np.array([2.0])
        >>> Box(0.0, 1.0).project_([w]), w
        (None, array([1.]))
        """
        for w in arrays_of(params):
            store(w, np.clip(float64(w), self.low, self.high))


@dataclass(frozen=True)
class NonNegative(Box):
    """Weights of at least 0.

    Examples
    --------
    >>> w = np.array([-3.0, 0.5])
    >>> NonNegative().project_(w), w
    (None, array([0. , 0.5]))
    """

    low: float = 0.0
    high: float = math.inf
