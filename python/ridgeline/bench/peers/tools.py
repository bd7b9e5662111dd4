"""Small helpers of the peers' functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., Any]
Table = dict[str, Function]


def held(make: Function) -> Function:
    """Return what `make` makes of the last array that it was given, made once."""
    last: list[Any] = [None, None]

    def get(array: Any) -> Any:
        if last[0] is not array:
            last[:] = array, make(array)
        return last[1]

    return get


def silent(function: Function) -> Function:
    """Return a function that returns nothing."""

    def run(*arguments: Any) -> None:
        function(*arguments)

    return run


def wide(x: Any) -> Any:
    """Return float32 for a half type."""
    return x.astype(np.float32) if x.itemsize < 4 else x


def donating(function: Function) -> Function:
    """Compile a function of what it changes and other arguments, for calls that follow each other.

    It returns what the operation returns, if anything, and the new arrays, which may lie where
    those of the call before were: that is as near as JAX comes to writing in place.
    """
    jax: Any = importlib.import_module("jax")
    compiled = jax.jit(function, donate_argnums=0)
    given = current = None

    def run(changed: Any, *arguments: Any) -> Any:
        nonlocal given, current
        if given is not changed:
            given = changed
            current = jax.tree.map(lambda x: jax.numpy.array(x, copy=True), changed)
        result = jax.block_until_ready(compiled(current, *arguments))
        current = result[1] if isinstance(result, tuple) else result
        return result

    return run


def waiting(function: Function) -> Function:
    """Compile a function, and wait for its result."""
    jax: Any = importlib.import_module("jax")
    compiled = jax.jit(function)
    return lambda *arguments: jax.block_until_ready(compiled(*arguments))


def sum_over(function: Function) -> Function:
    """Return the sum of a function's results over arrays of lists."""
    return lambda *lists: sum(function(*arrays) for arrays in zip(*lists, strict=True))


def for_each(function: Function) -> Function:
    """Return a list of a function's results; the last argument is a number for all arrays."""
    return lambda arrays, number: [function(x, number) for x in arrays]


def merged(*tables: dict[str, Table]) -> dict[str, Table]:
    """Return the functions of several families, by how they do it."""
    found: dict[str, Table] = {}
    for each in tables:
        for name, table in each.items():
            found[name] = found.get(name, {}) | table
    return found
