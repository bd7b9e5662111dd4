"""Trees of arrays: flattening, rebuilding, matching, and excluding arrays by name.

A tree is an array, or a list, tuple or dict of trees. A leaf is whatever is no container; a
`MaskSet` is a container. Every function takes the shortcut for a list of leaves, which makes
1,000 of them cheap.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from . import _core
from ._arrays import parameters_of
from ._checks import type_of

Keys: TypeAlias = tuple[object, ...]  # the path from a tree to one of its leaves
# A name or index, several of them, or a function of a name and an array.
Exclude: TypeAlias = "str | int | Iterable[str | int] | Callable[[str, Any], bool] | None"


def is_array(value: object) -> bool:
    """Return whether a value is an array and not a container."""
    return isinstance(value, np.ndarray) or (
        hasattr(value, "__dlpack__") and hasattr(value, "shape")
    )


@lru_cache(maxsize=256)
def _contains(kind: type) -> bool:
    return issubclass(kind, dict | list | tuple) or (
        issubclass(kind, Mapping | Sequence) and not issubclass(kind, str | bytes)
    )


def is_container(value: object) -> bool:
    """Return whether a value is a list, tuple, dict or similar container."""
    return _contains(type(value))  # type: ignore[arg-type]


def is_flat(nodes: Iterable[Any]) -> bool:
    """Return whether there are no containers among them."""
    return not any(map(_contains, set(map(type, nodes))))


def kind_of(node: object) -> str:
    """Return the description of a tree in errors.

    Examples
    --------
    >>> kind_of([1, 2]), kind_of({}), kind_of(np.ones(3)), kind_of(2.0)
    ('a sequence of 2', 'a dict of 0', 'an array', 'float')
    """
    if is_container(node):
        kind = "a dict of" if isinstance(node, Mapping) else "a sequence of"
        return f"{kind} {len(node)}"  # type: ignore[arg-type]
    return "an array" if is_array(node) else type_of(node)


def place_of(name: str, keys: Keys) -> str:
    """Return the name in errors of a part of the argument `name`.

    Examples
    --------
    >>> place_of("params", ("block", 0))
    "params['block'][0]"
    """
    return name + "".join(f"[{key!r}]" for key in keys)


def path_of(keys: Keys) -> str:
    """Return the name of a leaf: its keys, joined by "/"."""
    return "/".join(map(str, keys))


# ---- taken apart


def leaves(tree: Any) -> list[Any]:
    """List the leaves of a tree, depth first.

    Examples
    --------
    >>> leaves({"block": [1, 2], "head": 3})
    [1, 2, 3]
    """
    if not is_container(tree):
        return [tree]
    children = tree.values() if isinstance(tree, Mapping) else tree
    if is_flat(children):
        return list(children)
    return [leaf for child in children for leaf in leaves(child)]


def keys_of(tree: Any) -> list[Keys]:
    """List the keys that lead to the leaves of a tree, depth first.

    Examples
    --------
    >>> keys_of({"block": [1, 2], "head": 3})
    [('block', 0), ('block', 1), ('head',)]
    """
    if not is_container(tree):
        return [()]
    if is_flat(tree.values() if isinstance(tree, Mapping) else tree):
        return [(key,) for key in (tree if isinstance(tree, Mapping) else range(len(tree)))]
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return [(key, *rest) for key, child in pairs for rest in keys_of(child)]


def places(name: str, tree: Any) -> list[str]:
    """List the names in errors of the leaves of the argument `name`."""
    return [place_of(name, keys) for keys in keys_of(tree)]


def paths(tree: Any) -> list[str]:
    """List the names of the leaves of a tree.

    Examples
    --------
    >>> paths({"block": [1, 2], "head": 3})
    ['block/0', 'block/1', 'head']
    """
    return [path_of(keys) for keys in keys_of(tree)]


def located(name: str, tree: Any) -> list[tuple[str, str, Any]]:
    """List the arrays of a tree of nothing else, depth first, with their places and paths.

    Examples
    --------
    >>> import numpy as np
    >>> located("w", {"block": [np.zeros(1), np.ones(1)]})
    [("w['block'][0]", 'block/0', array([0.])), ("w['block'][1]", 'block/1', array([1.]))]
    >>> located("w", [3])
    Traceback (most recent call last):
    TypeError: w[0]: got int, wants an array, or a list, tuple or dict of arrays
    """
    found = []
    for keys, leaf in zip(keys_of(tree), leaves(tree), strict=True):
        place = place_of(name, keys)
        if not is_array(leaf):
            raise TypeError(
                f"{place}: got {type_of(leaf)}, wants an array, or a list, tuple or dict of arrays"
            )
        found.append((place, path_of(keys), leaf))
    return found


# ---- put together


def fixed(name: str, tree: Any) -> Any:
    """Return a tree that can be read twice: iterables become lists.

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
    values = list(tree)
    if isinstance(tree, Iterator) and not values:
        raise ValueError(f"{name}: got an iterator that has nothing left, wants arrays")
    kinds = _no_arrays(values)
    if kinds:
        values = [
            fixed(f"{name}[{i}]", value) if type(value) in kinds else value
            for i, value in enumerate(values)
        ]
    return _filled_like(tree, values) if isinstance(tree, tuple) else values


def lasting(name: str, tree: Any) -> Any:
    """Return the tree itself, or one that can be read repeatedly."""
    return fixed(name, tree) if _is_read_once(parameters_of(tree)) else tree


def _is_read_once(tree: Any) -> bool:
    """Return whether a tree, or a part of it, can be read only once."""
    if is_array(tree) or isinstance(tree, str | bytes) or not isinstance(tree, Iterable):
        return False
    if isinstance(tree, Iterator):
        return True
    children = tree.values() if isinstance(tree, Mapping) else tree
    kinds = _no_arrays(children)
    return bool(kinds) and any(_is_read_once(child) for child in children if type(child) in kinds)


def _no_arrays(nodes: Iterable[Any]) -> set[type]:
    """Return the types of nodes that may be something else than arrays."""
    return {
        kind
        for kind in set(map(type, nodes))
        if not issubclass(kind, np.ndarray)
        and not (hasattr(kind, "__dlpack__") and hasattr(kind, "shape"))
    }


def _filled_like(node: Any, children: list[Any]) -> Any:
    """Return a container like `node`, which is no mapping, with other children."""
    if not isinstance(node, tuple):
        return children
    return type(node)(*children) if hasattr(node, "_fields") else type(node)(children)


def rebuilt(tree: Any, values: Iterable[Any], made: Callable[[Any], Any] | None = None) -> Any:
    """Return a tree of the same structure with other leaves.

    Containers are dicts, lists and the tuples of `tree`, or what `made` makes of the dict or list
    of the children.

    Examples
    --------
    >>> rebuilt({"w": [None], "b": None}, [1, 2])
    {'w': [1], 'b': 2}
    """
    return _rebuilt(tree, iter(values), made)


# Not inside of it: a function that calls itself and holds arrays is freed by the collector alone.
def _rebuilt(node: Any, rest: Iterator[Any], made: Callable[[Any], Any] | None) -> Any:
    if not is_container(node):
        return next(rest)
    children: Any
    if isinstance(node, Mapping):
        children = {key: _rebuilt(child, rest, made) for key, child in node.items()}
        return made(children) if made else children
    if is_flat(node):
        children = [leaf for _, leaf in zip(node, rest, strict=False)]
    else:
        children = [_rebuilt(child, rest, made) for child in node]
    return made(children) if made else _filled_like(node, children)


# ---- matched


def matched(tree: Any, other: Any, name: str, whose: str, *, holes: bool = False) -> list[Any]:
    """List the leaves of the argument `name` in the order of those of `tree`, whose structure it
    has: lists of the same length, dicts of the same keys.

    With `holes`, None stands for a container of None.

    Examples
    --------
    >>> matched({"w": [1], "b": 2}, {"b": "y", "w": ["x"]}, "names", "params")
    ['x', 'y']
    >>> matched({"w": [1], "b": 2}, {"b": None, "w": []}, "names", "params")
    Traceback (most recent call last):
    ValueError: names['w']: got a sequence of 0, wants a sequence of 1, as params
    """
    found: list[Any] = []
    _match(tree, other, name, whose, holes, found)
    return found


def _match(tree: Any, other: Any, place: str, whose: str, holes: bool, found: list[Any]) -> None:
    if not is_container(tree):
        if is_container(other):
            raise ValueError(f"{place}: got {kind_of(other)}, wants an array, as {whose}")
        found.append(other)
    elif other is None and holes:
        found += [None] * len(leaves(tree))
    elif isinstance(tree, Mapping):
        if not isinstance(other, Mapping):
            _refuse(tree, other, place, whose)
        for key in tree:
            if key not in other:
                raise ValueError(f"{place}: got no key {key!r}, wants those of {whose}")
        for key in other:
            if key not in tree:
                raise ValueError(f"{place}: got a key {key!r}, wants those of {whose}")
        for key, child in tree.items():
            _match(child, other[key], f"{place}[{key!r}]", whose, holes, found)
    else:
        if not is_container(other) or isinstance(other, Mapping) or len(other) != len(tree):
            _refuse(tree, other, place, whose)
        if is_flat(tree) and is_flat(other):
            found += other
            return
        for i, (child, own) in enumerate(zip(tree, other, strict=True)):
            _match(child, own, f"{place}[{i}]", whose, holes, found)


def _refuse(tree: Any, other: Any, place: str, whose: str) -> None:
    known = is_container(other) or hasattr(other, "__array__") or hasattr(other, "__dlpack__")
    error = ValueError if known else TypeError
    raise error(f"{place}: got {kind_of(other)}, wants {kind_of(tree)}, as {whose}")


# ---- of an optimizer's arguments


def named_tree(params: Any, name: str = "params", *, writing: bool = False) -> Any:
    """Return a tree that can be traversed repeatedly; (name, array) pairs become a dict."""
    kinds = [kind.__name__ for kind in type(params).__mro__]
    if hasattr(params, "named_parameters") and "ParameterList" not in kinds:
        raise TypeError(
            f"{name}: got {type_of(params)}, wants its parameters: .parameters() or "
            ".named_parameters() of it"
        )
    tree = _core.reusable_tree(params, name, writing)

    def is_pair(node: Any) -> bool:
        return isinstance(node, list | tuple) and len(node) == 2 and isinstance(node[0], str)

    if isinstance(tree, list | tuple) and tree and all(map(is_pair, tree)):
        names = [name for name, _ in tree]
        if len(set(names)) < len(names):
            raise ValueError(f"{name}: got the same name twice")
        return dict(tree)
    return tree


def without_none(tree: Any) -> Any:
    """Return a tree without its children that are None.

    Examples
    --------
    >>> without_none({"w": [1, None], "b": None})
    {'w': [1]}
    """
    if isinstance(tree, Mapping):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    if is_container(tree):
        return [without_none(value) for value in tree if value is not None]
    return tree


# ---- left out


def excluded(exclude: Exclude, named: list[tuple[str, Any]]) -> list[bool]:
    """Return for each named array whether it is excluded, by its name or that of a container.

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
        raise TypeError(f"exclude: got {type_of(exclude)}, wants names, indices or a function")
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
            raise TypeError(f"exclude: got {type_of(entry)}, wants names or indices")
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
