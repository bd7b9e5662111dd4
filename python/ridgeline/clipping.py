"""Norms, and clipping gradients by value or by norm.

Norms are accumulated in float64 for every dtype: float32 ``[1e30, 1e30]`` has norm 1.414e30, and
the norm of 2**26 elements is as accurate as that of one. Results are bit-identical for every thread
count, instruction set and memory layout.

``arrays`` and ``grads`` are one array or a list, tuple, dict (nested) or iterable of them: NumPy
arrays, PyTorch CPU tensors or anything else with ``__dlpack__``; float32, float64, bfloat16 or
float16; of any strides. None in a container, as for a frozen layer, is skipped::

    rl.clip_by_global_norm_([p.grad for p in model.parameters()], 1.0)

Functions that write accept gradients, not parameters: a leaf tensor of PyTorch that requires grad
is refused, even under ``torch.no_grad()``. `global_norm` only reads, and accepts both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import _core
from ._ranks import Communicator, communicator, gathered_norms, non_finite_norm
from ._typing import Gradients

__all__ = [
    "GlobalNorm",
    "Norm",
    "Value",
    "clip_by_global_norm_",
    "clip_by_norm_",
    "clip_by_rms_",
    "clip_by_value_",
    "global_norm",
    "zero_largest_",
]

NonFinitePolicy = Literal["propagate", "raise", "skip", "zero"]


def _checked_norm(spec: GlobalNorm | Norm) -> None:
    """Check the fields of a limit on norms, and convert them to float."""
    max_norm, order = _core.number("max_norm", spec.max_norm), _core.number("ord", spec.ord)
    if not max_norm >= 0:
        raise ValueError(f"max_norm: got {max_norm}, wants a number of at least 0")
    if not order > 0:
        raise ValueError(f"ord: got {order}, wants a number above 0")
    object.__setattr__(spec, "max_norm", max_norm)
    object.__setattr__(spec, "ord", order)


@dataclass(frozen=True)
class GlobalNorm:
    """Clipping by the norm of all gradients together, for an optimizer's ``clip=``.

    Does inside the step what `clip_by_global_norm_` does.

    Parameters
    ----------
    max_norm : float
        The limit, at least 0; ``inf`` computes the norm and clips nothing.
    ord : float, default 2
        The order of the norm: 1, 2, ``inf`` or any number above 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or is out of range.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.GlobalNorm(1)
    GlobalNorm(max_norm=1.0, ord=2.0)
    """

    max_norm: float
    ord: float = 2

    def __post_init__(self) -> None:
        _checked_norm(self)


@dataclass(frozen=True)
class Norm:
    """Clipping each gradient by its own norm, for an optimizer's ``clip=``.

    Does inside the step what `clip_by_norm_` does.

    Parameters
    ----------
    max_norm : float
        The limit for each array, at least 0; ``inf`` computes the norms and clips nothing.
    ord : float, default 2
        The order of the norm: 1, 2, ``inf`` or any number above 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or is out of range.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.Norm(0.5, ord=1)
    Norm(max_norm=0.5, ord=1.0)
    """

    max_norm: float
    ord: float = 2

    def __post_init__(self) -> None:
        _checked_norm(self)


@dataclass(frozen=True)
class Value:
    """Clamping every gradient element, for an optimizer's ``clip=``.

    Does inside the step what `clip_by_value_` does.

    Parameters
    ----------
    limit : float or (float, float)
        A limit L >= 0 clamps to [-L, L]; a pair to [low, high].

    Raises
    ------
    TypeError, ValueError
        If a limit is not a number, NaN or negative, or low is above high.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.Value(0.5)
    Value(limit=0.5)
    """

    limit: float | tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self._limits
        if self._pair:
            object.__setattr__(self, "limit", (low, high))
        if math.isnan(low) or math.isnan(high) or low > high:
            wants = "(low, high) with low <= high" if self._pair else "a number of at least 0"
            raise ValueError(f"limit: got {self.limit!r}, wants {wants}")

    @property
    def _pair(self) -> bool:
        return isinstance(self.limit, tuple | list)

    @property
    def _limits(self) -> tuple[float, float]:
        if isinstance(self.limit, tuple | list):
            if len(self.limit) != 2:
                raise ValueError(f"limit: got {len(self.limit)} numbers, wants one or (low, high)")
            return _core.number("limit", self.limit[0]), _core.number("limit", self.limit[1])
        bound = _core.number("limit", self.limit)
        return -bound, bound


def global_norm(arrays: Gradients, ord: float = 2) -> float:
    """Return the norm of all elements of all arrays together.

    ::

        (Σ |xᵢ|^p)^(1/p), or max |xᵢ| for p = inf

    Parameters
    ----------
    arrays : array or tree of arrays
        Only read. Gradients, or parameters: ``rl.global_norm(model.parameters())``. An array that
        appears twice counts twice; None in a container is skipped.
    ord : float, default 2
        The order p: 1, 2, ``inf`` or any number above 0.

    Returns
    -------
    float
        0 if there are no arrays. NaN if an element is NaN, else ``inf`` if one is infinite.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or `ord` is not a number.
    ValueError
        If `ord` is not above 0, or an iterator is exhausted.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.global_norm({"w": np.array([3.0, 0.0]), "b": np.array([4.0])})
    5.0
    >>> f"{rl.global_norm(np.array([1e30, 1e30], dtype=np.float32)):.4g}"
    '1.414e+30'
    """
    return _core.global_norm(arrays, ord)


def clip_by_value_(grads: Gradients, limit: float | tuple[float, float]) -> None:
    """Clamp every element, in place.

    NaN stays NaN; infinities become the limit. Blocks already within the limits are not written.

    Parameters
    ----------
    grads : array or tree of arrays
        Written. None in a container is skipped.
    limit : float or (float, float)
        A limit L >= 0 clamps to [-L, L]; a pair to [low, high].

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or `limit` is neither a
        number nor a pair of them.
    ValueError
        If a limit is NaN or negative, low is above high, an array is read-only, or memory overlaps.
    RequiresGradError
        If a parameter is given instead of its gradient, or a gradient requires grad outside
        ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> g = np.array([-3.0, 0.5, 2.0])
    >>> rl.clip_by_value_(g, 1.0)
    >>> g
    array([-1. ,  0.5,  1. ])
    """
    _core.clip_by_value_(grads, limit)


def clip_by_norm_(grads: Gradients, max_norm: float, ord: float = 2) -> list[float | None]:
    """Scale down each array whose own norm is above a limit, in place.

    ::

        x ← x · c / ‖x‖ₚ if not ‖x‖ₚ ≤ c

    An array within the limit is not written. An array whose norm is infinite or NaN is still
    scaled, following IEEE arithmetic.

    Parameters
    ----------
    grads : array or tree of arrays
        Written. None in a container is skipped.
    max_norm : float
        The limit c >= 0; ``inf`` clips nothing.
    ord : float, default 2
        The order p of the norm: 1, 2, ``inf`` or any number above 0.

    Returns
    -------
    list of float or None
        The norm of each array before clipping, also for a single array; None for None.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory.
    ValueError
        If `max_norm` is NaN or negative, `ord` is not above 0, an array is read-only or appears
        twice, or memory overlaps.
    RequiresGradError
        If a parameter is given instead of its gradient, or a gradient requires grad outside
        ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> g = [np.array([3.0, 4.0]), np.array([0.5])]
    >>> rl.clip_by_norm_(g, 1.0)
    [5.0, 0.5]
    >>> g
    [array([0.6, 0.8]), array([0.5])]
    """
    return _core.clip_by_norm_(grads, max_norm, ord)


def clip_by_global_norm_(
    grads: Gradients,
    max_norm: float,
    ord: float = 2,
    *,
    on_nonfinite: NonFinitePolicy = "propagate",
    comm: Communicator | None = None,
) -> float:
    """Scale all arrays by one factor if their joint norm is above a limit, in place.

    ::

        x ← x · c / n if not n ≤ c,  n = (Σ |xᵢ|^p)^(1/p)

    Nothing is written if the norm is within the limit (Pascanu, Mikolov and Bengio 2013).

    Parameters
    ----------
    grads : array or tree of arrays
        Written. None in a container is skipped.
    max_norm : float
        The limit c >= 0; ``inf`` clips nothing.
    ord : float, default 2
        The order p of the norm: 1, 2, ``inf`` or any number above 0.
    on_nonfinite : {"propagate", "raise", "skip", "zero"}
        What to do if the norm is NaN or infinite: ``"propagate"`` still scales, as in PyTorch
        (an infinite norm makes finite elements 0 and infinite ones NaN; a NaN norm makes all NaN);
        ``"raise"`` raises and ``"skip"`` returns, both with nothing written; ``"zero"`` sets every
        array to 0.
    comm : object with ``allgather``, optional
        A communicator such as mpi4py's: the norm is that of the arrays of all ranks, which are
        disjoint parts of one gradient. Every rank must make the call.

    Returns
    -------
    float
        The norm before clipping.

    Raises
    ------
    NonFiniteError
        With ``on_nonfinite="raise"``; it names the first non-finite array.
    TypeError
        If something is not an array of a supported dtype in CPU memory.
    ValueError
        If `max_norm` is NaN or negative, `ord` is not above 0, an array is read-only or appears
        twice, or memory overlaps.
    RequiresGradError
        If a parameter is given instead of its gradient, or a gradient requires grad outside
        ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> g = {"w": np.array([3.0, 0.0]), "b": np.array([4.0])}
    >>> rl.clip_by_global_norm_(g, 1.0)
    5.0
    >>> g["b"]
    array([0.8])
    >>> rl.clip_by_global_norm_([np.array([np.nan])], 1.0, on_nonfinite="raise")
    Traceback (most recent call last):
    ridgeline.NonFiniteError: the global norm is nan; first non-finite array: grads[0]
    """
    if comm is None:
        return _core.clip_by_global_norm_(grads, max_norm, ord, on_nonfinite)
    return _clip_by_global_norm_of_ranks(grads, max_norm, ord, on_nonfinite, comm)


def _clip_by_global_norm_of_ranks(
    grads: Gradients, max_norm: float, ord: float, on_nonfinite: NonFinitePolicy, comm: Communicator
) -> float:
    """Clip by the norm over all ranks: every rank computes the same factor."""
    comm = communicator("comm", comm)
    grads = _core.reusable_tree(grads, "grads", writing=True)  # it is traversed more than once
    _core.check_clip(grads, max_norm, ord, on_nonfinite)
    norm = _core.global_norm(gathered_norms(comm, _core.global_norm(grads, ord)), ord)
    if np.isfinite(norm) or on_nonfinite == "propagate":
        if not norm <= max_norm:
            _core.scale_(grads, np.divide(max_norm, norm))
    elif on_nonfinite == "zero":
        _core.set_zero_(grads)
    elif on_nonfinite == "raise":
        raise non_finite_norm(norm, _core.first_nonfinite(grads))
    return norm


def clip_by_rms_(grads: Gradients, max_rms: float) -> list[float | None]:
    """Scale down each array whose root mean square is above a limit, in place.

    ::

        x ← x · c / r if not r ≤ c,  r = √(Σ xᵢ² / n)

    The update clipping of Adafactor (Shazeer and Stern 2018).

    Parameters
    ----------
    grads : array or tree of arrays
        Written. None in a container is skipped.
    max_rms : float
        The limit c >= 0; ``inf`` clips nothing.

    Returns
    -------
    list of float or None
        The root mean square of each array before clipping; 0 for an empty one, None for None.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory.
    ValueError
        If `max_rms` is NaN or negative, an array is read-only or appears twice, or memory overlaps.
    RequiresGradError
        If a parameter is given instead of its gradient, or a gradient requires grad outside
        ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> g = np.array([2.0, -2.0])
    >>> rl.clip_by_rms_(g, 1.0)
    [2.0]
    >>> g
    array([ 1., -1.])
    """
    return _core.clip_by_rms_(grads, max_rms)


def zero_largest_(grads: Gradients, count: int = 1) -> None:
    """Zero the entries of largest magnitude in each array, in place.

    Exactly `count` entries become 0. Among equal magnitudes the first in C order are zeroed; NaN
    counts as the largest.

    Parameters
    ----------
    grads : array or tree of arrays
        Written. Empty arrays, and None in a container, are skipped.
    count : int, default 1
        The number of entries to zero in each array.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or `count` is no integer.
    ValueError
        If `count` is negative or more than an array holds, an array is read-only or appears twice,
        or memory overlaps.
    RequiresGradError
        If a parameter is given instead of its gradient, or a gradient requires grad outside
        ``torch.no_grad()``.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> g = np.array([1.0, -5.0, 3.0])
    >>> rl.zero_largest_(g)
    >>> g
    array([1., 0., 3.])
    """
    _core.zero_largest_(grads, count)
