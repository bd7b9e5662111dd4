"""Masks of one bit an element, and sets of them that mirror a container of arrays.

A file of masks is a ``.npz`` or a ``.safetensors`` file with an array of uint64 for each mask: bit
``i % 64`` of word ``i // 64`` says whether element i, in C order, is kept; bits beyond the last
element are 0. The arrays have the names of `MaskSet.flat`, that of a single mask is ``words``;
``#3`` where a file cannot hold the name. ``ridgeline`` is a JSON text, as bytes in an array, or in
the metadata of safetensors: ``{"version": 1, "masks": ...}``. There a mask is
``{"mask": name of its array, "shape": [...]}``, a list ``{"values": [...]}`` and a dict
``{"keys": [...], "values": [...]}``.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._files import checked_path, file_names, safetensors_of
from ._numbering import shape_of

if TYPE_CHECKING:
    from collections.abc import ItemsView, KeysView, ValuesView

    from ._typing import SupportsDLPack, Tree

__all__ = ["Mask", "MaskSet"]

Words: TypeAlias = npt.NDArray[np.uint64]
Keys: TypeAlias = tuple[object, ...]  # the way from a container to one of its arrays


def _place(name: str, path: Keys) -> str:
    """Return what an error calls a part of the argument `name`."""
    return name + "".join(f"[{key!r}]" for key in path)


def _count(words: Words) -> int:
    """Return how many bits are 1."""
    if hasattr(np, "bitwise_count"):
        return int(np.bitwise_count(words).sum(dtype=np.int64))
    return int(np.unpackbits(words.view(np.uint8)).sum(dtype=np.int64))  # NumPy 1


def _sparsity(size: int, count: int) -> float:
    return (size - count) / size if size else 0.0


def _mask_of(array: object, place: str) -> Mask:
    """Return the mask of an array of bool."""
    bools = np.asarray(array)
    if bools.dtype != np.bool_:
        raise TypeError(f"{place}: got dtype {bools.dtype}, wants bool")
    words = np.zeros((bools.size + 63) // 64, np.uint64)
    packed = np.packbits(bools, bitorder="little")
    words.view(np.uint8)[: packed.size] = packed
    return Mask._of(bools.shape, words)


class Mask:
    """Which elements of an array are kept: one bit each, True for kept.

    Masks are values: they never change, and compare by shape and bits. `ridgeline.dropout_mask`
    makes one, `from_array` another.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> mask = rl.Mask.from_array(np.array([[True, False], [True, True]]))
    >>> mask
    Mask(shape=(2, 2), sparsity=0.25)
    >>> w = np.ones((2, 2))
    >>> mask.apply_(w)
    >>> w
    array([[1., 0.],
           [1., 1.]])
    """

    __slots__ = ("_shape", "_words")
    __hash__ = None  # type: ignore[assignment]
    _shape: tuple[int, ...]
    _words: Words

    __array_ufunc__ = None  # NumPy leaves operators to us, and does not take a mask for an object

    def __init__(self) -> None:
        """Refuse: `from_array` makes a mask."""
        raise TypeError("a Mask is made by Mask.from_array, dropout_mask or pruning")

    @classmethod
    def _of(cls, shape: tuple[int, ...], words: Words) -> Mask:
        """Return the mask of words whose bits beyond the last element are 0."""
        mask = object.__new__(cls)
        object.__setattr__(mask, "_shape", shape)
        object.__setattr__(mask, "_words", words)
        words.setflags(False)  # type: ignore[call-arg]  # by name it takes three times as long
        return mask

    @staticmethod
    def from_array(array: npt.ArrayLike) -> Mask:
        """Return the mask of an array of bool.

        Parameters
        ----------
        array : array of bool
            True for elements to keep. Anything that NumPy reads.

        Returns
        -------
        Mask

        Raises
        ------
        TypeError
            If the array's dtype is not bool.

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.Mask.from_array([True, False, True]).sparsity
        0.3333333333333333
        """
        return _mask_of(array, "array")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that the mask is for."""
        return self._shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self._shape)

    @property
    def count(self) -> int:
        """The number of elements that are kept."""
        return _count(self._words)

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the bits take: an eighth of `size`, in words of 8 bytes."""
        return self._words.nbytes

    @property
    def sparsity(self) -> float:
        """The fraction of elements that are not kept; 0 for a mask of no elements."""
        return _sparsity(self.size, self.count)

    def to_array(self) -> npt.NDArray[np.bool_]:
        """Return the mask as an array of bool.

        Returns
        -------
        ndarray of bool

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.Mask.from_array([True, False]).to_array()
        array([ True, False])
        """
        bits = np.unpackbits(self._words.view(np.uint8), count=self.size, bitorder="little")
        return bits.view(np.bool_).reshape(self._shape)

    def apply_(self, params: SupportsDLPack) -> None:
        """Set elements that are not kept to 0, in place; the others keep every bit.

        As a parameter update it acts as under ``torch.no_grad()``.

        Parameters
        ----------
        params : array
            Written. Of the mask's shape.

        Raises
        ------
        TypeError
            If it is no array of a supported dtype in CPU memory.
        ValueError
            If its shape is another, or it is read-only.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0, np.nan])
        >>> rl.Mask.from_array([True, False]).apply_(w)
        >>> w
        array([1., 0.])
        """
        _core.apply_mask(params, self._words, self._shape)

    def save(self, file: str | PathLike[str]) -> None:
        """Write the mask to a file: one bit an element.

        Parameters
        ----------
        file : str or path
            A name that ends in ``.npz`` or in ``.safetensors``. A file that is there is replaced.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        ModuleNotFoundError
            If it ends in ``.safetensors`` and that package is missing.

        Examples
        --------
        >>> import tempfile
        >>> import ridgeline as rl
        >>> mask = rl.Mask.from_array([True, False])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mask.save(f"{folder}/mask.npz")
        ...     rl.Mask.load(f"{folder}/mask.npz") == mask
        True
        """
        _save(file, self)

    @staticmethod
    def load(file: str | PathLike[str]) -> Mask:
        """Read a mask that `save` wrote.

        Parameters
        ----------
        file : str or path
            A ``.npz`` or ``.safetensors`` file.

        Returns
        -------
        Mask

        Raises
        ------
        ValueError
            If it is no such file, is damaged, of another version, or holds a `MaskSet`.
        ModuleNotFoundError
            If it is a ``.safetensors`` file and that package is missing.

        Examples
        --------
        >>> import tempfile
        >>> import ridgeline as rl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rl.Mask.from_array([True, False]).save(f"{folder}/mask.npz")
        ...     rl.Mask.load(f"{folder}/mask.npz")
        Mask(shape=(2,), sparsity=0.5)
        """
        mask = _load(file)
        if not isinstance(mask, Mask):
            raise ValueError(f"file: got {Path(file).name!r} of a MaskSet, wants one of a Mask")
        return mask

    def _alike(self, other: Mask) -> Words:
        """Return the words of a mask of the same shape."""
        if other._shape != self._shape:
            raise ValueError(f"mask: got shape {other._shape}, wants {self._shape}")
        return other._words

    def __and__(self, other: Mask) -> Mask:
        if not isinstance(other, Mask):
            return NotImplemented
        return Mask._of(self._shape, self._words & self._alike(other))

    def __or__(self, other: Mask) -> Mask:
        if not isinstance(other, Mask):
            return NotImplemented
        return Mask._of(self._shape, self._words | self._alike(other))

    def __invert__(self) -> Mask:
        words = ~self._words
        if self.size % 64:
            words[-1] &= np.uint64(2 ** (self.size % 64) - 1)
        return Mask._of(self._shape, words)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return self._shape == other._shape and np.array_equal(self._words, other._words)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Mask never changes; got a new value for {name!r}")

    def __repr__(self) -> str:
        return f"Mask(shape={self._shape}, sparsity={self.sparsity:.4g})"

    def __reduce__(self) -> tuple[Any, tuple[tuple[int, ...], Words]]:
        return _restored, (self._shape, self._words)


def _restored(shape: object, words: Words) -> Mask:
    """Return a mask that was pickled."""
    return Mask._of(shape_of("shape", shape), words.copy())


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

    __array_ufunc__ = None

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
                raise TypeError(f"{place}: got {type(node).__name__}, wants a Mask")
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
            if not _is_array(node):
                raise TypeError(f"{place}: got {type(node).__name__}, wants an array of bool")
            return _mask_of(node, place)

        return _set_of(arrays, "arrays", "arrays of bool", leaf)

    @property
    def _leaves(self) -> list[tuple[Keys, Mask]]:
        """The masks with the keys that lead to them."""
        found: list[tuple[Keys, Mask]] = []
        children = self._children
        for key, child in children.items() if isinstance(children, dict) else enumerate(children):
            if isinstance(child, Mask):
                found.append(((key,), child))
            else:
                found += [((key, *path), mask) for path, mask in child._leaves]
        return found

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
        return sum(mask.count for mask in self._masks)

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the bits take."""
        return sum(mask.nbytes for mask in self._masks)

    @property
    def sparsity(self) -> float:
        """The fraction of all elements that are not kept; 0 for no elements."""
        return _sparsity(self.size, self.count)

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
        return [("/".join(map(str, path)), mask) for path, mask in self._leaves]

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

    def apply_(self, params: Tree) -> None:
        """Set elements that are not kept to 0, in place; the others keep every bit.

        One call for all arrays. Nothing is written unless all of them fit. As a parameter update
        it acts as under ``torch.no_grad()``.

        Parameters
        ----------
        params : list, tuple, dict or iterable of arrays
            Written. Of the set's structure and the masks' shapes; the order of a dict's keys does
            not matter. A set that mirrors a list fits ``model.parameters()``.

        Raises
        ------
        TypeError
            If something is no array of a supported dtype in CPU memory.
        ValueError
            If the structure or a shape is another, or an array is read-only or appears twice.

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
        masks = self._masks
        _core.apply_masks(
            _aligned(self, params, writing=True),
            [mask._words for mask in masks],
            [mask._shape for mask in masks],
        )

    def save(self, file: str | PathLike[str]) -> None:
        """Write the masks to a file, with their names and the structure.

        Parameters
        ----------
        file : str or path
            A name that ends in ``.npz`` or in ``.safetensors``. A file that is there is replaced.

        Raises
        ------
        TypeError
            If a key of a dict is neither a string nor an integer.
        ValueError
            If the name ends otherwise.
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
        _save(file, self)

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
        masks = _load(file)
        if not isinstance(masks, MaskSet):
            raise ValueError(f"file: got {Path(file).name!r} of a Mask, wants one of a MaskSet")
        return masks

    def __and__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, operator.and_)

    def __or__(self, other: MaskSet) -> MaskSet:
        return self._combined(other, operator.or_)

    def _combined(self, other: MaskSet, op: Callable[[Mask, Mask], Mask]) -> MaskSet:
        if not isinstance(other, MaskSet):
            return NotImplemented
        others = iter(_leaves_of(self, _aligned(self, other, "masks")))

        def leaf(mask: Mask) -> Mask:
            path, fellow = next(others)
            if mask.shape != fellow.shape:
                place = _place("masks", path)
                raise ValueError(f"{place}: got shape {fellow.shape}, wants {mask.shape}")
            return op(mask, fellow)

        return MaskSet.of(_mapped(self, leaf))

    def __invert__(self) -> MaskSet:
        return MaskSet.of(_mapped(self, operator.invert))

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


def _is_array(node: object) -> bool:
    return hasattr(node, "__array__") or hasattr(node, "__dlpack__")


def _kind(node: object) -> str:
    """Return what an error calls something found instead of something else."""
    if isinstance(node, dict | _MaskDict):
        return f"a dict of {len(node)}"
    if isinstance(node, list | tuple | _MaskList):
        return f"a sequence of {len(node)}"
    if isinstance(node, Mask):
        return "one array"
    return "an array" if _is_array(node) else f"a {type(node).__name__}"


def _made(children: tuple[Mask | MaskSet, ...] | dict[Any, Mask | MaskSet]) -> MaskSet:
    """Return the set of masks and sets."""
    mapping = isinstance(children, dict)
    result = object.__new__(_MaskDict if mapping else _MaskList)
    object.__setattr__(result, "_children", children)
    object.__setattr__(result, "_masks", _masks_in(children))
    return result


def _masks_in(
    children: tuple[Mask | MaskSet, ...] | dict[Any, Mask | MaskSet],
) -> tuple[Mask, ...]:
    """Return the masks depth first: the tuple itself, if it holds nothing else."""
    if isinstance(children, tuple) and all(isinstance(child, Mask) for child in children):
        return cast("tuple[Mask, ...]", children)
    masks: list[Mask] = []
    for child in children.values() if isinstance(children, dict) else children:
        masks += [child] if isinstance(child, Mask) else child._masks
    return tuple(masks)


def _set_of(tree: object, name: str, what: str, leaf: Callable[[object, str], Mask]) -> MaskSet:
    """Return the set of the masks that `leaf` makes of what is in a container."""

    def build(node: object, path: Keys) -> Mask | MaskSet:
        if isinstance(node, dict):
            return _made({key: build(child, (*path, key)) for key, child in node.items()})
        if isinstance(node, list | tuple):
            return _made(tuple(build(child, (*path, i)) for i, child in enumerate(node)))
        return leaf(node, _place(name, path))

    plain = _core.reusable_tree(tree, name)
    if not isinstance(plain, dict | list | tuple):
        raise TypeError(f"{name}: got {_kind(tree)}, wants a list, tuple or dict of {what}")
    return cast("MaskSet", build(plain, ()))


def _mapped(masks: Mask | MaskSet, leaf: Callable[[Mask], Any]) -> Any:
    """Return lists and dicts of what `leaf` makes of the masks, depth first."""
    if isinstance(masks, Mask):
        return leaf(masks)
    if isinstance(masks._children, dict):
        return {key: _mapped(child, leaf) for key, child in masks._children.items()}
    return [_mapped(child, leaf) for child in masks._children]


def _aligned(
    masks: Mask | MaskSet, params: object, name: str = "params", *, writing: bool = False
) -> Any:
    """Return lists and dicts of the arrays of `params`, in the order of the masks.

    Raises an error that names the place if the structure is not that of the masks.
    """

    def align(masks: Mask | MaskSet, node: Any, path: Keys) -> Any:
        if isinstance(masks, Mask):
            if isinstance(node, list | tuple | dict):
                raise ValueError(f"{_place(name, path)}: got {_kind(node)}, wants {_kind(masks)}")
            return node
        children = masks._children
        mapping = isinstance(children, dict)
        if not isinstance(node, dict if mapping else list | tuple) or (
            not mapping and len(node) != len(children)
        ):
            known = isinstance(node, list | tuple | dict | Mask) or _is_array(node)
            raise (ValueError if known else TypeError)(
                f"{_place(name, path)}: got {_kind(node)}, wants {_kind(masks)}, as the masks"
            )
        if not isinstance(children, dict):
            flat = masks._masks is children
            if flat and not any(isinstance(own, list | tuple | dict) for own in node):
                return list(node)
            pairs = zip(children, node, strict=True)
            return [align(child, own, (*path, i)) for i, (child, own) in enumerate(pairs)]
        missing = [key for key in children if key not in node]
        if missing:
            place = _place(name, path)
            raise ValueError(f"{place}: got no key {missing[0]!r}, wants those of the masks")
        for key in node:
            if key not in children:
                place = _place(name, path)
                raise ValueError(f"{place}: got a key {key!r}, wants those of the masks")
        return {key: align(child, node[key], (*path, key)) for key, child in children.items()}

    return align(masks, _core.reusable_tree(params, name, writing), ())


def _leaves_of(masks: Mask | MaskSet, tree: Any) -> list[tuple[Keys, Any]]:
    """List the arrays of what `_aligned` returned, with the way to each."""
    if isinstance(masks, Mask):
        return [((), tree)]
    leaves = []
    for path, _ in masks._leaves:
        node = tree
        for key in path:
            node = node[key]
        leaves.append((path, node))
    return leaves


# ---- files

_VERSION = 1


def _save(file: str | PathLike[str], masks: Mask | MaskSet) -> None:
    """Write masks to a file."""
    path = checked_path(file)
    library = safetensors_of(path)
    flat = [("words", masks)] if isinstance(masks, Mask) else masks.flat()
    names = file_names(name for name, _ in flat)
    arrays = {name: mask._words for name, (_, mask) in zip(names, flat, strict=True)}
    rest = iter(names)

    def layout(masks: Mask | MaskSet) -> dict[str, Any]:
        if isinstance(masks, Mask):
            return {"mask": next(rest), "shape": masks.shape}
        children = masks._children
        if not isinstance(children, dict):
            return {"values": [layout(child) for child in children]}
        for key in children:
            if type(key) not in (str, int):
                raise TypeError(f"masks: got the key {key!r}, wants strings or integers in a file")
        values = [layout(child) for child in children.values()]
        return {"keys": list(children), "values": values}

    text = json.dumps({"version": _VERSION, "masks": layout(masks)})
    if library is None:
        members: dict[str, Any] = {"ridgeline": np.frombuffer(text.encode(), np.uint8), **arrays}
        with path.open("wb") as stream:
            np.savez(stream, **members)
    else:
        library.numpy.save_file(arrays, path, {"ridgeline": text})


def _load(file: str | PathLike[str]) -> Mask | MaskSet:
    """Read masks from a file."""
    path = checked_path(file)
    library = safetensors_of(path)
    with path.open("rb") as stream:
        try:
            if library is None:
                with np.load(stream, allow_pickle=False) as arrays:
                    text = arrays["ridgeline"].tobytes().decode()
                    return _read(text, arrays.__getitem__)
            with library.safe_open(path, framework="np") as tensors:
                return _read((tensors.metadata() or {})["ridgeline"], tensors.get_tensor)
        except Exception as error:  # of a damaged file, anything
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            problem = f"file: got {path.name!r}, wants a file that save wrote"
            raise ValueError(f"{problem}: {reason or type(error).__name__}") from error


def _read(text: str, read: Callable[[str], Any]) -> Mask | MaskSet:
    """Return the masks that a file's JSON text describes, whose words `read` returns."""

    def build(node: Any) -> Mask | MaskSet:
        if "mask" in node:
            name, shape = node["mask"], shape_of("shape", node["shape"])
            size = math.prod(shape)
            words = read(name)
            if words.dtype != np.uint64 or words.shape != ((size + 63) // 64,):
                raise ValueError(
                    f"got {words.dtype} words of shape {words.shape} for {name!r}, "
                    f"wants uint64 words of {size} bits"
                )
            if size % 64 and int(words[-1]) >> size % 64:
                raise ValueError(f"got bits beyond the last element in {name!r}, wants zeros")
            return Mask._of(shape, words)
        values = [build(child) for child in node["values"]]
        if "keys" not in node:
            return _made(tuple(values))
        keys = node["keys"]
        if any(type(key) not in (str, int) for key in keys) or len(set(keys)) < len(keys):
            raise ValueError("got keys that are not distinct strings or integers")
        return _made(dict(zip(keys, values, strict=True)))

    described = json.loads(text)
    if described["version"] != _VERSION:
        raise ValueError(f"got version {described['version']!r}, wants {_VERSION}")
    return build(described["masks"])
