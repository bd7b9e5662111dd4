"""Masks of one bit an element, and sets of them that mirror a container of arrays."""

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
    """The masks of many arrays, in a container like theirs.

    Of a list or tuple of arrays it is a sequence of masks: ``masks[0]``, ``len(masks)``, iteration,
    slices; of a dict a mapping: ``masks["w"]``, ``masks.items()``. Containers in containers are
    MaskSets in a MaskSet. `size`, `count` and `sparsity` are over all elements of all masks;
    ``&``, ``|`` and ``~`` go mask by mask, dicts by key. Sets are values: they never change, and
    compare by structure, shapes and bits.

    Pruning makes one of a list or dict of parameters, `of` one of masks, `from_array` one of arrays
    of bool.

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
        # Of the mapping that a dict makes.
        def keys(self) -> KeysView[Any]:
            """Return the keys."""

        def values(self) -> ValuesView[Any]:
            """Return the masks."""

        def items(self) -> ItemsView[Any, Any]:
            """Return the keys with the masks."""

    __array_ufunc__ = None  # NumPy leaves operators to us

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError("a MaskSet is no array, its masks are: use to_array(), or one of them")

    def __init__(self) -> None:
        """Refuse: `of` and `from_array` make a set."""
        raise TypeError("a MaskSet is made by MaskSet.of, MaskSet.from_array or pruning")

    @staticmethod
    def of(masks: object) -> MaskSet:
        """Return the set of masks in a container.

        Parameters
        ----------
        masks : list, tuple, dict or iterable of Mask
            Nested as you like; MaskSets may be among them.

        Returns
        -------
        MaskSet

        Raises
        ------
        TypeError
            If it is no container, or holds something else.

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
        """Return the set of masks of the arrays of bool in a container.

        Parameters
        ----------
        arrays : list, tuple, dict or iterable of array of bool
            True for elements to keep. Nested as you like.

        Returns
        -------
        MaskSet

        Raises
        ------
        TypeError
            If it is no container, or holds something else than arrays of bool.

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
        """The number of elements that are kept, in all masks."""
        return sum(_core.count_bits([mask._words for mask in self._masks]))

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the bits take."""
        return sum(mask.nbytes for mask in self._masks)

    @property
    def sparsity(self) -> float:
        """The fraction of all elements that are not kept; 0 for no elements."""
        return _bits.sparsity(self.size, self.count)

    def flat(self) -> list[tuple[str, Mask]]:
        """Return the masks with their names, depth first.

        Returns
        -------
        list of (str, Mask)
            The keys and indexes that lead to a mask, joined by ``"/"``, are its name.

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
        """Return the masks as arrays of bool, in lists and dicts.

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
        """Return new arrays with 0 for elements that are not kept; the others keep every bit.

        Parameters
        ----------
        params : list, tuple, dict or iterable of arrays
            Only read. As for `apply_`.

        Returns
        -------
        list or dict of arrays
            Those of `Mask.apply`: of tensors that require grad, under grad mode, parts of their
            autograd graph.

        Raises
        ------
        TypeError
            If something is no array of a supported dtype in CPU memory.
        ValueError
            If the structure or a shape is another.

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
        """Set elements that are not kept to 0, in place; the others keep every bit.

        One call for all arrays. Nothing is written unless all of them fit. As a parameter update
        it acts as under ``torch.no_grad()``.

        Parameters
        ----------
        params : list, tuple, dict or iterable of arrays, or torch.nn.Module
            Written. Of the set's structure and the masks' shapes; the order of a dict's keys does
            not matter. A set that mirrors a list fits ``model.parameters()``. A module is taken for
            the dict of its ``named_parameters()``. Tied weights, the same array in two places, need
            the same mask in both.

        Raises
        ------
        TypeError
            If something is no array of a supported dtype in CPU memory.
        ValueError
            If the structure or a shape is another, or an array is read-only or appears twice with
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
            A name that ends in ``.npz`` or in ``.safetensors``. A file that is there is
            replaced at once: if that fails, it is as it was.

        Raises
        ------
        TypeError
            If a key of a dict is neither a string nor an integer.
        ValueError
            If the name ends otherwise.
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
            If it is no such file, is damaged, of another version, or holds a single `Mask`.
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
        raise AttributeError(f"a MaskSet never changes; got a new value for {name!r}")

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


# Not by inheritance: `count` is the number of elements kept.
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
    """Return what an error says of something in the place of a mask."""
    array = _looks_like_array(node) and not isinstance(node, MaskSet)
    hint = "; rl.Mask.from_array makes one of an array of bool" if array else ""
    return f"{type(node).__name__}, wants {wants}{hint}"


def _made(children: Sequence[Mask | MaskSet] | dict[Any, Mask | MaskSet]) -> MaskSet:
    """Return the set of masks and sets."""
    mapping = isinstance(children, dict)
    own = children if isinstance(children, dict) else tuple(children)
    result = object.__new__(_MaskDict if mapping else _MaskList)
    object.__setattr__(result, "_children", own)
    object.__setattr__(result, "_masks", _masks_in(own))
    return result


def _masks_in(
    children: tuple[Mask | MaskSet, ...] | dict[Any, Mask | MaskSet],
) -> tuple[Mask, ...]:
    """Return the masks depth first: the tuple itself, if it holds nothing else."""
    if isinstance(children, tuple) and set(map(type, children)) <= {Mask}:
        return cast("tuple[Mask, ...]", children)
    masks: list[Mask] = []
    for child in children.values() if isinstance(children, dict) else children:
        masks += [child] if isinstance(child, Mask) else child._masks
    return tuple(masks)


def _set_of(tree: object, name: str, what: str, leaf: Callable[[object, str], Mask]) -> MaskSet:
    """Return the set of the masks that `leaf` makes of what is in a container."""
    plain = _core.reusable_tree(tree, name)
    if not is_container(plain):
        raise TypeError(f"{name}: got {kind_of(tree)}, wants a list, tuple or dict of {what}")
    found = map(leaf, leaves(plain), places(name, plain))
    return cast("MaskSet", rebuilt(plain, found, _made))


def _mapped(masks: Mask | MaskSet, leaf: Callable[[Mask], Any]) -> Any:
    """Return lists and dicts of what `leaf` makes of the masks, depth first."""
    return rebuilt(masks, map(leaf, leaves(masks)))


def _aligned(
    masks: Mask | MaskSet, params: object, name: str = "params", *, writing: bool = False
) -> list[Any]:
    """List the arrays of `params` in the order of the masks, whose structure it must have."""
    tree = _core.reusable_tree(parameters_of(params), name, writing)
    return matched(masks, tree, name, "the masks")


def _lost(before: Mask | MaskSet, after: Mask | MaskSet) -> int:
    """Return how many elements are kept by masks and not by others of the same structure."""
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
    """Apply masks to the trees of some arguments in one call.

    With `holes`, None is passed over; with `tied`, an array that comes again with an equal mask.
    """
    names, trees, words, shapes = [], [], [], []
    for name, masks, tree in arguments:
        own = (masks,) if isinstance(masks, Mask) else masks._masks
        names.append(name)
        trees.append(rebuilt(masks, _aligned(masks, tree, name, writing=True)))
        words.append([mask._words for mask in own])
        shapes.append([mask._shape for mask in own])
    _core.apply_masks(names, trees, words, shapes, holes, tied)
