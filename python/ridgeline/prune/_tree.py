"""Containers of arrays: their names, what they are like, and which of them are left out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from .._arrays import parameters_of

# A name or index, several of them, or a function of a name and an array.
Exclude: TypeAlias = "str | int | Iterable[str | int] | Callable[[str, Any], bool] | None"


def is_array(value: object) -> bool:
    """Return whether it is an array, and not a container."""
    return isinstance(value, np.ndarray) or (
        hasattr(value, "__dlpack__") and hasattr(value, "shape")
    )


def located(name: str, tree: Any) -> list[tuple[str, str, Any]]:
    """List the arrays of a container, depth first, with their places and names.

    Examples
    --------
    >>> import numpy as np
    >>> located("w", {"block": [np.zeros(1), np.ones(1)]})
    [("w['block'][0]", 'block/0', array([0.])), ("w['block'][1]", 'block/1', array([1.]))]
    """
    found: list[tuple[str, str, Any]] = []
    _locate(name, (), tree, found)
    return found


# Not inside of it: a function that calls itself and holds arrays is freed by the collector alone.
def _locate(at: str, path: tuple[str, ...], node: Any, found: list[tuple[str, str, Any]]) -> None:
    if is_array(node):
        found.append((at, "/".join(path), node))
        return
    for key, value in _items(at, node):
        _locate(f"{at}[{key!r}]", (*path, str(key)), value, found)


def arrays_in(tree: Any) -> list[Any]:
    """List the arrays of a container of nothing else, depth first.

    Examples
    --------
    >>> import numpy as np
    >>> arrays_in({"block": [np.zeros(1), np.ones(1)]})
    [array([0.]), array([1.])]
    """
    if is_array(tree):
        return [tree]
    found: list[Any] = []
    for node in tree.values() if isinstance(tree, Mapping) else tree:
        if isinstance(node, np.ndarray):
            found.append(node)
        else:
            found += arrays_in(node)
    return found


def leaves(name: str, tree: Any) -> list[tuple[str, Any]]:
    """List the arrays of a container, depth first, with their names: keys joined by "/".

    Examples
    --------
    >>> import numpy as np
    >>> leaves("params", {"block": [np.zeros(1), np.ones(1)], "head": np.ones(0)})
    [('block/0', array([0.])), ('block/1', array([1.])), ('head', array([], dtype=float64))]
    """
    return [(key, array) for _, key, array in located(name, tree)]


def _items(at: str, node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return node.items()
    if isinstance(node, Iterable) and not isinstance(node, str | bytes):
        return enumerate(node)
    raise TypeError(
        f"{at}: got {type(node).__name__}, wants an array, or a list, tuple or dict of arrays"
    )


def fixed(name: str, tree: Any) -> Any:
    """Return a container that can be read twice: iterables become lists.

    Examples
    --------
    >>> fixed("w", iter([1, 2]))
    [1, 2]
    """
    tree = parameters_of(tree)
    if is_array(tree) or isinstance(tree, str | bytes) or not isinstance(tree, Iterable):
        return tree
    if isinstance(tree, Mapping):
        return {key: fixed(f"{name}[{key!r}]", value) for key, value in tree.items()}
    values = [fixed(f"{name}[{i}]", value) for i, value in enumerate(tree)]
    if isinstance(tree, Iterator) and not values:
        raise ValueError(f"{name}: got an iterator that has nothing left, wants arrays")
    if isinstance(tree, tuple):
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return values


def lasting(name: str, tree: Any) -> Any:
    """Return the container itself, or one that can be read again and again."""
    return fixed(name, tree) if _read_once(parameters_of(tree)) else tree


def _read_once(tree: Any) -> bool:
    """Return whether a container, or one in it, can be read only once."""
    if is_array(tree) or isinstance(tree, str | bytes) or not isinstance(tree, Iterable):
        return False
    if isinstance(tree, Iterator):
        return True
    return any(map(_read_once, tree.values() if isinstance(tree, Mapping) else tree))


def like(tree: Any, values: Iterable[Any]) -> Any:
    """Return a container of the structure of `tree`, which is `fixed`, with other leaves.

    Examples
    --------
    >>> import numpy as np
    >>> like({"w": [np.zeros(1)], "b": np.ones(1)}, [1, 2])
    {'w': [1], 'b': 2}
    """
    return _built(tree, iter(values))


def _built(node: Any, rest: Iterator[Any]) -> Any:
    if is_array(node):
        return next(rest)
    if isinstance(node, Mapping):
        return {key: _built(value, rest) for key, value in node.items()}
    if hasattr(node, "_fields"):
        return type(node)(*[_built(value, rest) for value in node])
    return type(node)([_built(value, rest) for value in node])


def excluded(exclude: Exclude, named: list[tuple[str, Any]]) -> list[bool]:
    """Return of each named array whether it is excluded, by its own name or that of a container.

    ``"/"`` and ``"."`` are the same in names. One with ``*``, ``?`` or ``[`` is a pattern, as of
    files, if it is no name.

    Examples
    --------
    >>> import numpy as np
    >>> named = [("block/0", np.zeros(1)), ("block/1", np.zeros((1, 1))), ("head", np.zeros(1))]
    >>> excluded("block", named), excluded(["block.1", "h*"], named)
    ([True, True, False], [False, True, True])
    >>> excluded(lambda name, array: array.ndim < 2, named)
    [True, False, True]
    """
    if exclude is None:
        return [False] * len(named)
    if callable(exclude):
        return [bool(exclude(name, array)) for name, array in named]
    if isinstance(exclude, bytes) or not isinstance(exclude, str | int | Iterable):
        raise TypeError(
            f"exclude: got {type(exclude).__name__}, wants names, indices or a function"
        )
    entries = [exclude] if isinstance(exclude, str | int) else list(exclude)
    names = [name.replace("/", ".") for name, _ in named]
    within: dict[str, list[int]] = {}  # the arrays of each name, and of each container
    for i, name in enumerate(names):
        ends = [at for at, letter in enumerate(name) if letter == "."]
        for end in (*ends, len(name)):
            within.setdefault(name[:end], []).append(i)
    result = [False] * len(named)
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, str | int):
            raise TypeError(f"exclude: got {type(entry).__name__}, wants names or indices")
        text = str(entry).replace("/", ".")
        hits = within.get(text, [])
        if not hits and any(letter in text for letter in "*?["):
            fits = re.compile(fnmatch.translate(text)).match
            hits = [i for i, name in enumerate(names) if fits(name)]
        if not hits:
            known = ", ".join(repr(name) for name, _ in named[:8])
            more = ", ..." if len(named) > 8 else ""
            raise ValueError(f"exclude: got {entry!r}, wants one of {known}{more}")
        for i in hits:
            result[i] = True
    return result
