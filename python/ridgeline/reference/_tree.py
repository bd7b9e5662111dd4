"""Nested containers of arrays, and the one rounding at a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Float64: TypeAlias = npt.NDArray[np.float64]
Tree: TypeAlias = "Array | Iterable[Tree] | Mapping[Any, Tree]"


def leaves(tree: Tree, name: str = "arrays") -> list[tuple[str, Array]]:
    """List the arrays of a container with their names, depth first.

    Examples
    --------
    >>> leaves({"w": [np.zeros(1), np.ones(1)]}, "grads")
    [("grads['w'][0]", array([0.])), ("grads['w'][1]", array([1.]))]
    """
    if isinstance(tree, np.ndarray):
        return [(name, tree)]
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return [leaf for key, value in items for leaf in leaves(value, f"{name}[{key!r}]")]


def arrays_of(tree: Tree) -> list[Array]:
    """List the arrays of a container, depth first.

    Examples
    --------
    >>> arrays_of((np.zeros(1), {"b": np.ones(1)}))
    [array([0.]), array([1.])]
    """
    return [array for _, array in leaves(tree)]


def float64(array: Array) -> Float64:
    """Convert any float array to float64, which is exact.

    Examples
    --------
    >>> float64(np.array([0.1], np.float16))
    array([0.09997559])
    """
    return np.asarray(array).astype(np.float64)


def rounded(values: Float64, dtype: np.dtype[Any]) -> Array:
    """Round float64 values to a dtype, once, to nearest even.

    ml_dtypes converts by way of float32 and so rounds twice; rounding to odd on the way there
    makes the second rounding the only one that counts (Boldo & Melquiond 2008).

    Examples
    --------
    >>> rounded(np.array([1 / 3]), np.dtype(np.float16))
    array([0.3333], dtype=float16)
    """
    if dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(values, dtype)
    single = rounded(values, np.dtype(np.float32))
    inexact = (single != values) & np.isfinite(values)
    toward_zero = np.where(np.abs(single) > np.abs(values), np.nextafter(single, 0.0), single)
    odd = toward_zero.astype(np.float32).view(np.uint32) | inexact.astype(np.uint32)
    return np.asarray(odd.view(np.float32).astype(dtype))


def store(target: Array, values: Float64) -> None:
    """Write float64 values into an array, rounded once to its dtype.

    Examples
    --------
    >>> w = np.zeros(2, np.float32)
    >>> store(w, np.array([0.1, 0.2]))
    >>> w
    array([0.1, 0.2], dtype=float32)
    """
    target[...] = rounded(values, target.dtype)
