"""Constraints: projections of parameters onto sets.

A constraint is a small immutable object that projects in place, alone or inside an optimizer's
step (``constraint=``)::

    rl.Box(-0.01, 0.01).project_(params)                   # weight clipping
    opt = rl.SGD(params, lr=0.1, constraint=rl.NonNegative())
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._typing import Tree

__all__ = ["Box", "Constraint", "NonNegative"]


class Constraint:
    """Base class of all constraints; not instantiated directly.

    Examples
    --------
    >>> import ridgeline as rl
    >>> isinstance(rl.NonNegative(), rl.Constraint)
    True
    """

    _limits: tuple[float, float]  # of an elementwise constraint

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Refuse to instantiate the base class."""
        if cls is Constraint:
            raise TypeError("Constraint is an abstract base class; create Box, ... instead")
        return super().__new__(cls)

    def project_(self, params: Tree) -> None:
        """Move every array to the nearest point of the set, in place.

        A parameter update: torch parameters are written as under ``torch.no_grad()``. NaN stays
        NaN. Blocks that are already in the set are not written.

        Parameters
        ----------
        params : array or tree of arrays
            Written.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory.
        ValueError
            If an array is read-only or appears twice, or memory overlaps.
        RequiresGradError
            If a tensor is in the autograd graph without being a leaf, outside
            ``torch.no_grad()``.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([-0.5, 0.25, 2.0])
        >>> rl.Box(0.0, 1.0).project_(w)
        >>> w
        array([0.  , 0.25, 1.  ])
        """
        _core.project_box(params, *self._limits)


@dataclass(frozen=True)
class Box(Constraint):
    """Weights within limits: the weight clipping of Arjovsky, Chintala and Bottou (2017).

    ::

        w ← min(max(w, low), high)

    Parameters
    ----------
    low, high : float
        ``low <= high``; an infinity leaves that side unbounded.

    Raises
    ------
    TypeError
        If a limit is not a number.
    ValueError
        If a limit is NaN, or `low` is above `high`.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.Box(-0.01, 0.01)
    Box(low=-0.01, high=0.01)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = _core.number(name, getattr(self, name))
            if math.isnan(value):
                raise ValueError(f"{name}: got nan, wants a number")
            object.__setattr__(self, name, value)
        if self.low > self.high:
            raise ValueError(f"low: got {self.low} with high={self.high}, wants low <= high")

    @property
    def _limits(self) -> tuple[float, float]:  # type: ignore[override]
        return self.low, self.high


@dataclass(frozen=True)
class NonNegative(Constraint):
    """Nonnegative weights.

    ::

        w ← max(w, 0)

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([-1.0, 3.0])
    >>> rl.NonNegative().project_(w)
    >>> w
    array([0., 3.])
    """

    @property
    def _limits(self) -> tuple[float, float]:  # type: ignore[override]
        return 0.0, math.inf
