"""Pruning structures: n of every m elements, blocks, and slices along an axis."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from . import _checks as check
from . import _core

__all__ = ["NM", "Block", "Channels", "columns", "rows"]


@dataclass(frozen=True)
class NM:
    """N kept of every m elements along an axis, as NVIDIA's 2:4 (Mishra et al. 2021).

    Groups are of consecutive elements from the start of the axis. Of equal magnitudes the first is
    kept. A last group of r < m elements keeps min(n, r): what is missing counts as pruned.

    Some libraries (INC, Wanda's ``prune_n``) count the zeros instead: their n:m is m - n of m here.

    Parameters
    ----------
    n : int
        The number of kept elements per group, 0 to m.
    m : int
        The size of a group, 1 to 64.
    axis : int, default -1
        The last axis is that of the inputs in PyTorch's layout (out, in).

    Raises
    ------
    TypeError
        If an argument is not an integer.
    ValueError
        If n or m is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([[3.0, -1.0, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0]])
    >>> rl.prune.magnitude(w, structure=rl.prune.NM(2, 4)).to_array()
    array([[ True, False,  True, False],
           [ True,  True, False, False]])
    """

    n: int
    m: int
    axis: int = -1

    def __post_init__(self) -> None:
        for name in ("n", "m", "axis"):
            object.__setattr__(self, name, check.integer(name, getattr(self, name)))
        if not 1 <= self.m <= 64:
            raise ValueError(f"m: got {self.m}, wants 1 to 64")
        if not 0 <= self.n <= self.m:
            raise ValueError(f"n: got {self.n}, wants 0 to m, which is {self.m}")

    @property
    def sparsity(self) -> float:
        """The pruned fraction of complete groups."""
        return 1 - self.n / self.m


def _order(ord: object) -> float:
    value = _core.number("ord", ord)
    if not value > 0:
        raise ValueError(f"ord: got {value}, wants 1, 2, inf or another number above 0")
    return value


@dataclass(frozen=True)
class Block:
    """Blocks that tile the array from its first element; each is pruned or kept as a whole.

    Blocks are ranked by their norm. At the far edges they are cut, and have fewer elements.

    Parameters
    ----------
    shape : int or sequence of int
        The extents of a block along the last axes; along those before it is 1 wide.
    ord : float, default 2
        The order of the norm: 1, 2, ``inf`` or any number above 0.

    Raises
    ------
    TypeError
        If an extent is not an integer.
    ValueError
        If there are no extents, one is below 1, or `ord` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([[1.0, 1.0, 5.0], [1.0, 1.0, 0.0]])
    >>> rl.prune.magnitude(w, 0.5, structure=rl.prune.Block((2, 2))).to_array()
    array([[False, False,  True],
           [False, False,  True]])
    """

    shape: tuple[int, ...]
    ord: float = 2.0

    def __post_init__(self) -> None:
        given = list(self.shape) if isinstance(self.shape, Sequence) else [self.shape]
        extents = tuple(check.integer("shape", extent) for extent in given)
        if not extents or min(extents) < 1:
            raise ValueError(f"shape: got {extents}, wants extents of at least 1")
        object.__setattr__(self, "shape", extents)
        object.__setattr__(self, "ord", _order(self.ord))

    def _block(self, place: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the extents of a block along each axis of an array of that shape."""
        if len(shape) < len(self.shape):
            raise ValueError(
                f"{place}: got {len(shape)} axes, wants {len(self.shape)} or more for {self}"
            )
        return (1,) * (len(shape) - len(self.shape)) + self.shape


@dataclass(frozen=True)
class Channels:
    """The slices along an axis, such as filters or inputs; each is pruned or kept as a whole.

    Slices are ranked by their norm (Li et al. 2017 with ``ord=1``).

    Parameters
    ----------
    axis : int, default 0
        The axis whose slices go as a whole: torch's ``dim``. Of PyTorch's (out, in, ...) weights 0
        is that of the filters.
    ord : float, default 2
        The order of the norm: 1, 2, ``inf`` or any number above 0.

    Raises
    ------
    TypeError
        If `axis` is not an integer.
    ValueError
        If `ord` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([[1.0, 2.0, 1.0], [0.0, 4.0, 9.0]])
    >>> rl.prune.magnitude(w, 0.5, structure=rl.prune.Channels(axis=0)).to_array()
    array([[False, False, False],
           [ True,  True,  True]])
    """

    axis: int = 0
    ord: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", check.integer("axis", self.axis))
        object.__setattr__(self, "ord", _order(self.ord))

    def _block(self, place: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        own = axis_of(place, self.axis, len(shape))
        return tuple(1 if i == own else max(extent, 1) for i, extent in enumerate(shape))


def rows(ord: float = 2) -> Channels:
    """Return the structure of rows: ``Channels(axis=0)``.

    Parameters
    ----------
    ord : float, default 2
        The order of the norm that ranks them.

    Returns
    -------
    Channels

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.prune.rows()
    Channels(axis=0, ord=2.0)
    """
    return Channels(0, ord)


def columns(ord: float = 2) -> Channels:
    """Return the structure of columns: ``Channels(axis=1)``.

    Parameters
    ----------
    ord : float, default 2
        The order of the norm that ranks them.

    Returns
    -------
    Channels

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.prune.columns(1)
    Channels(axis=1, ord=1.0)
    """
    return Channels(1, ord)


def axis_of(place: str, axis: int, ndim: int) -> int:
    """Return an axis in [0, ndim); the error names the array."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"{place}: got {ndim} axes, wants one that has axis {axis}")
    return operator.index(axis % ndim)


def grid_of(shape: tuple[int, ...], block: tuple[int, ...]) -> int:
    """Return the number of blocks."""
    return math.prod(-(-extent // side) for extent, side in zip(shape, block, strict=True))
