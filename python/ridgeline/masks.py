"""Masks with one bit per element, and sets of masks that mirror a container of arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from . import _bits, _core
from ._arrays import parameters_of
from ._mask import Mask, _mask_of
from ._mask import _restored as _restored  # pickles of before look for it here
from ._mask_files import load_masks, save_masks
from ._tree import is_container, kind_of, leaves, matched, paths, places, rebuilt

if TYPE_CHECKING:
    from collections.abc import ItemsView, KeysView, ValuesView

    from ._typing import Tree

__all__ = ["Mask", "MaskSet"]


class MaskSet:
    """The masks of many arrays, in a container with the same structure.

    For a list or tuple of arrays it is a sequence of masks: ``masks[0]``, ``len(masks)``, iteration
    and slices; for a dict it is a mapping: ``masks["w"]``, ``masks.items()``. Nested containers
    become nested MaskSets. `size`, `count` and `sparsity` cover all elements of all masks; ``&``,
    ``|`` and ``~`` apply mask by mask, in dicts by key. Sets are immutable, and compare by
    structure, shapes and bits.

    Pruning functions return one for a list or dict of parameters, `of` for a container of masks,
    and `from_array` for a container of bool arrays.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> masks = rl.MaskSet.from_array({"w": np.eye(3, dtype=bool), "b": np.ones(3, bool)})
    >>> masks
    MaskSet of 2 masks, sparsity=0.5
      w  (3, 3)  0.6667
      b  (3,)    0
    >>> masks["b"]
    Mask(shape=(3,), sparsity=0)
    >>> params = {"b": np.ones(3), "w": np.full((3, 3), 7.0)}
    >>> masks.apply_(params)
    >>> params["w"]
    array([[7., 0., 0.],
           [0., 7., 0.],
           [0., 0., 7.]])
    """

    __slots__ = ("_children", "_masks")
    __hash__ = None  # type: ignore[assignment]
    _children: tuple[Mask | MaskSet, ...] | dict[Any, Mask | MaskSet]
    _masks: tuple[Mask, ...]  # depth first

    if TYPE_CHECKING:
        # Only the set of a dict has these.
        def keys(self) -> KeysView[Any]:
            """Return the keys."""

        def values(self) -> ValuesView[Any]:
            """Return the masks."""

        def items(self) -> ItemsView[Any, Any]:
            """Return the keys with the masks."""

    __array_ufunc__ = None  # NumPy leaves operators to us

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError("a MaskSet is not an array; use to_array(), or one of its masks")

    def __init__(self) -> None:
        """Refuse: `of` and `from_array` create sets."""
        raise TypeError("a MaskSet is made by MaskSet.of, MaskSet.from_array or pruning")

    @staticmethod
    def of(masks: object) -> MaskSet:
        """Return the set of masks in a container.

        Parameters
        ----------
        masks : list, tuple, dict or iterable of Mask
            With any nesting; may contain MaskSets.

        Returns
        -------
        MaskSet

        Raises
        ------
        TypeError
            If it is not a container, or contains something other than masks.

        Examples
        --------
        >>> import ridgeline as rl
        >>> mask = rl.Mask.from_array([True, False])
        >>> masks = rl.MaskSet.of([mask, ~mask, {"c": mask | ~mask}])
        >>> masks
        MaskSet of 3 masks, sparsity=0.3333
          0    (2,)  0.5
          1    (2,)  0.5
          2/c  (2,)  0
        >>> len(masks), masks[2]["c"].sparsity
        (3, 0.0)
        """

        def leaf(node: object, place: str) -> Mask:
            if not isinstance(node, Mask):
                raise TypeError(f"{place}: got {_no_mask(node)}")
            return node

        return _set_of(masks, "masks", "Masks", leaf)

    @staticmethod
    def from_array(arrays: object) -> MaskSet:
        """Return the set of masks for a container of bool arrays.

        Parameters
        ----------
        arrays : list, tuple, dict or iterable of array of bool
            True for elements to keep. With any nesting.

        Returns
        -------
        MaskSet

        Raises
        ------
        TypeError
            If it is not a container, or contains something other than bool arrays.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> weights = [np.array([3.0, 0.0]), np.array([0.0])]
        >>> rl.MaskSet.from_array([w != 0 for w in weights]).count
        1
        """

        def leaf(node: object, place: str) -> Mask:
            if not _looks_like_array(node):
                raise TypeError(f"{place}: got {type(node).__name__}, wants an array of bool")
            return _mask_of(node, place)

        return _set_of(arrays, "arrays", "arrays of bool", leaf)

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._children)

    def __getitem__(self, key: Any) -> Any:
        raise NotImplementedError

    @property
    def size(self) -> int:
        """The number of elements of all masks."""
        return sum(mask.size for mask in self._masks)

    @property
    def count(self) -> int:
        """The number of kept elements in all masks."""
        return sum(_core.count_bits([mask._words for mask in self._masks]))

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the bits take."""
        return sum(mask.nbytes for mask in self._masks)

    @property
    def sparsity(self) -> float:
        """The fraction of all elements that are pruned; 0 if there are no elements."""
        return _bits.sparsity(self.size, self.count)

    def flat(self) -> list[tuple[str, Mask]]:
        """Return the masks with their names, depth first.

        Returns
        -------
        list of (str, Mask)
            A mask's name consists of the keys and indices that lead to it, joined by ``"/"``.

        Examples
        --------
        >>> import ridgeline as rl
        >>> mask = rl.Mask.from_array([True, False])
        >>> masks = rl.MaskSet.of({"conv.weight": mask, "block": [mask, mask]})
        >>> [name for name, _ in masks.flat()]
        ['conv.weight', 'block/0', 'block/1']
        """
        return list(zip(paths(self), self._masks, strict=True))

    def to_array(self) -> Any:
        """Return the masks as bool arrays, in lists and dicts.

        Returns
        -------
        list or dict of ndarray of bool

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.MaskSet.of({"w": rl.Mask.from_array([True, False])}).to_array()
        {'w': array([ True, False])}
        """
        return _mapped(self, lambda mask: mask.to_array())

    def apply(self, params: Tree) -> Any:
        """Return new arrays with pruned elements set to 0; the others keep their bits.

        Parameters
        ----------
        params : list, tuple, dict or iterable of arrays
            Only read. As for `apply_`.

        Returns
        -------
        list or dict of arrays
            As from `Mask.apply`: for tensors that require grad, the results are part of the
            autograd graph in grad mode.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory.
        ValueError
            If the structure or a shape differs.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> masks = rl.MaskSet.from_array({"w": np.array([True, False])})
        >>> masks.apply({"w": np.array([1.0, 2.0])})
        {'w': array([1., 0.])}
        """
        arrays = _aligned(self, params)
        _core.check_arrays("params", rebuilt(self, arrays))
        self._check_shapes("params", arrays)
        return rebuilt(self, map(Mask.apply, self._masks, arrays))

    def _check_shapes(self, name: str, arrays: list[Any]) -> None:
        """Raise unless arrays, or masks, have the shapes of the masks."""
        for i, (mask, array) in enumerate(zip(self._masks, arrays, strict=True)):
            if tuple(array.shape) != mask.shape:
                place = places(name, self)[i]
                raise ValueError(f"{place}: got shape {tuple(array.shape)}, wants {mask.shape}")

    def apply_(self, params: Tree) -> None:
        """Set pruned elements to 0, in place; the others keep their bits.

        One call for all arrays; nothing is written unless all of them fit. A parameter update:
        torch parameters are written as under ``torch.no_grad()``.

        Parameters
        ----------
        params : list, tuple, dict or iterable of arrays, or torch.nn.Module
            Written. With the set's structure and the masks' shapes; the order of a dict's keys does
            not matter. A set that mirrors a list fits ``model.parameters()``. A module stands for
            the dict of its ``named_parameters()``. Tied weights, the same array in two places, must
            have the same mask in both.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory.
        ValueError
            If the structure or a shape differs, or an array is read-only or appears twice with
            different masks.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> masks = rl.MaskSet.from_array([np.array([True, False]), np.array([False])])
        >>> params = [np.array([1.0, np.nan]), np.array([2.0])]
        >>> masks.apply_(params)
        >>> params
        [array([1., 0.]), array([0.])]
        >>> masks.apply_(params[:1])
        Traceback (most recent call last):
        ValueError: params: got a sequence of 1, wants a sequence of 2, as the masks
        """
        _apply_all([("params", self, params)], tied=True)

    def save(self, file: str | PathLike[str]) -> None:
        """Write the masks to a file, with their names and the structure.

        Parameters
        ----------
        file : str or path
            A name that ends in ``.npz`` or ``.safetensors``. An existing file is replaced
            atomically: if writing fails, it is unchanged.

        Raises
        ------
        TypeError
            If a key of a dict is neither a string nor an integer.
        ValueError
            If the name has another ending.
        OSError
            If the file cannot be written.
        ModuleNotFoundError
            If it ends in ``.safetensors`` and that package is missing.

        Examples
        --------
        >>> import tempfile
        >>> import ridgeline as rl
        >>> masks = rl.MaskSet.of({"conv.weight": rl.Mask.from_array([[True], [False]])})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     masks.save(f"{folder}/masks.npz")
        ...     rl.MaskSet.load(f"{folder}/masks.npz") == masks
        True
        """
        save_masks(file, self)

    @staticmethod
    def load(file: str | PathLike[str]) -> MaskSet:
        """Read a set that `save` wrote: lists stay lists, dicts stay dicts.

        Parameters
        ----------
        file : str or path
            A ``.npz`` or ``.safetensors`` file.

        Returns
        -------
        MaskSet

        Raises
        ------
        ValueError
            If the file is of another kind or version, is damaged, or holds a single `Mask`.
        ModuleNotFoundError
            If it is a ``.safetensors`` file and that package is missing.

        Examples
        --------
        >>> import tempfile
        >>> import ridgeline as rl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rl.MaskSet.of([rl.Mask.from_array([True, False])]).save(f"{folder}/masks.npz")
        ...     rl.MaskSet.load(f"{folder}/masks.npz")
        MaskSet of 1 mask, sparsity=0.5
          0  (2,)  0.5
        """
        masks = load_masks(file, Mask._of)
        if isinstance(masks, Mask):
            raise ValueError(f"file: got {Path(file).name!r} of a Mask, wants one of a MaskSet")
        return cast("MaskSet", rebuilt(masks, leaves(masks), _made))

    def __and__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, operator.and_)

    def __or__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, operator.or_)

    def _combined(self, other: MaskSet, op: Callable[[Mask, Mask], Mask]) -> MaskSet:
        if not isinstance(other, MaskSet):
            return NotImplemented
        others = matched(self, other, "masks", "the masks")
        self._check_shapes("masks", others)
        return cast("MaskSet", rebuilt(self, map(op, self._masks, others), _made))

    def __invert__(self) -> MaskSet:
        return cast("MaskSet", rebuilt(self, map(operator.invert, self._masks), _made))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskSet):
            return NotImplemented
        return type(self) is type(other) and self._children == other._children

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a MaskSet is immutable; got a new value for {name!r}")

    def __repr__(self) -> str:
        rows = [(name, str(mask.shape), f"{mask.sparsity:.4g}") for name, mask in self.flat()]
        if len(rows) > 20:
            rows[10:-5] = [("...", "", "")]
        name_width, shape_width = (max((len(row[i]) for row in rows), default=0) for i in range(2))
        masks = f"{len(self._masks)} mask{'s' * (len(self._masks) != 1)}"
        return "\n".join(
            [f"MaskSet of {masks}, sparsity={self.sparsity:.4g}"]
            + [f"  {n:{name_width}}  {s:{shape_width}}  {p}".rstrip() for n, s, p in rows]
        )

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return MaskSet.of, (_mapped(self, lambda mask: mask),)


class _MaskList(MaskSet):
    """The masks of a list or tuple."""

    __slots__ = ()
    _children: tuple[Mask | MaskSet, ...]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return _made(self._children[key])
        return self._children[key]

    def index(self, value: object, *bounds: int) -> int:
        """Return the first index of a mask, as `list.index`."""
        return self._children.index(cast("Mask", value), *bounds)


# Registered, not inherited, because `count` is the number of kept elements here.
Sequence.register(_MaskList)


class _MaskDict(MaskSet, Mapping[Any, Any]):
    """The masks of a dict."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    _children: dict[Any, Mask | MaskSet]

    def __getitem__(self, key: Any) -> Any:
        return self._children[key]


def _looks_like_array(node: object) -> bool:
    return hasattr(node, "__array__") or hasattr(node, "__dlpack__")


def _no_mask(node: object, wants: str = "a Mask") -> str:
    """Return the end of an error about an object that should be a mask."""
    array = _looks_like_array(node) and not isinstance(node, MaskSet)
    hint = "; rl.Mask.from_array makes one of an array of bool" if array else ""
    return f"{type(node).__name__}, wants {wants}{hint}"


def _made(children: Sequence[Mask | MaskSet] | dict[Any, Mask | MaskSet]) -> MaskSet:
    """Return a set with these masks and sets as children."""
    mapping = isinstance(children, dict)
    own = children if isinstance(children, dict) else tuple(children)
    result = object.__new__(_MaskDict if mapping else _MaskList)
    object.__setattr__(result, "_children", own)
    object.__setattr__(result, "_masks", _masks_in(own))
    return result


def _masks_in(
    children: tuple[Mask | MaskSet, ...] | dict[Any, Mask | MaskSet],
) -> tuple[Mask, ...]:
    """Return the masks, depth first; a tuple of only masks is returned as is."""
    if isinstance(children, tuple) and set(map(type, children)) <= {Mask}:
        return cast("tuple[Mask, ...]", children)
    masks: list[Mask] = []
    for child in children.values() if isinstance(children, dict) else children:
        masks += [child] if isinstance(child, Mask) else child._masks
    return tuple(masks)


def _set_of(tree: object, name: str, what: str, leaf: Callable[[object, str], Mask]) -> MaskSet:
    """Return the set of the masks that `leaf` makes of the items of a container."""
    plain = _core.reusable_tree(tree, name)
    if not is_container(plain):
        raise TypeError(f"{name}: got {kind_of(tree)}, wants a list, tuple or dict of {what}")
    found = map(leaf, leaves(plain), places(name, plain))
    return cast("MaskSet", rebuilt(plain, found, _made))


def _mapped(masks: Mask | MaskSet, leaf: Callable[[Mask], Any]) -> Any:
    """Return lists and dicts of the results of `leaf` for the masks, depth first."""
    return rebuilt(masks, map(leaf, leaves(masks)))


def _aligned(
    masks: Mask | MaskSet, params: object, name: str = "params", *, writing: bool = False
) -> list[Any]:
    """Return the arrays of `params` in the order of the masks; the structures must match."""
    tree = _core.reusable_tree(parameters_of(params), name, writing)
    return matched(masks, tree, name, "the masks")


def _lost(before: Mask | MaskSet, after: Mask | MaskSet) -> int:
    """Return the number of elements kept by `before` but not by `after`."""
    others = matched(before, after, "masks", "the masks")
    return _core.count_lost_bits(
        [mask._words for mask in leaves(before)], [mask._words for mask in others]
    )


def _apply_all(
    arguments: Sequence[tuple[str, Mask | MaskSet, object]],
    *,
    holes: bool = False,
    tied: bool = False,
) -> None:
    """Apply masks to the trees of several arguments in one call.

    With `holes`, None is skipped; with `tied`, an array may appear again with an equal mask.
    """
    names, trees, words, shapes = [], [], [], []
    for name, masks, tree in arguments:
        own = (masks,) if isinstance(masks, Mask) else masks._masks
        names.append(name)
        trees.append(rebuilt(masks, _aligned(masks, tree, name, writing=True)))
        words.append([mask._words for mask in own])
        shapes.append([mask._shape for mask in own])
    _core.apply_masks(names, trees, words, shapes, holes, tied)
