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
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import _bits, _core
from . import _checks as check
from ._arrays import numpy_view, parameters_of, torch_if
from ._bits import Words
from ._environment import in_default_environment
from ._files import file_names, reading, save_arrays
from ._tree import is_container, kind_of, leaves, matched, paths, places, rebuilt

if TYPE_CHECKING:
    from collections.abc import ItemsView, KeysView, ValuesView

    from ._typing import SupportsDLPack, Tree

__all__ = ["Mask", "MaskSet"]

ArrayT = TypeVar("ArrayT", bound="SupportsDLPack")


@in_default_environment
def _sparsity(size: int, count: int) -> float:
    return (size - count) / size if size else 0.0


def _mask_of(array: object, place: str) -> Mask:
    """Return the mask of an array of bool, or of the numbers 0 and 1."""
    bools = np.asarray(numpy_view(array) if hasattr(array, "__dlpack__") else array)
    if bools.dtype != np.bool_:
        if bools.dtype.kind not in "iuf" and bools.dtype.name != "bfloat16":
            raise TypeError(f"{place}: got dtype {bools.dtype}, wants bool, or the numbers 0 and 1")
        ones = bools == 1
        other = bools[~(ones | (bools == 0))]
        if other.size:
            raise ValueError(f"{place}: got {other[0]} in it, wants 0 and 1, or bool")
        bools = ones
    return Mask._of(bools.shape, _bits.packed(bools))


@cache
def _masking() -> Any:
    """Return the function of an autograd graph of torch that applies a mask."""
    import torch

    class Masking(torch.autograd.Function):
        @staticmethod
        def forward(w: Any, mask: Mask) -> Any:
            return mask.apply(w)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, Mask], output: Any) -> None:
            _, ctx.mask = inputs

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return ctx.mask.apply(grad), None

        @staticmethod
        def jvp(ctx: Any, tangent: Any, _: None) -> Any:
            return ctx.mask.apply(tangent)

    return Masking.apply


class Mask:
    """Which elements of an array are kept: one bit each, True for kept.

    Masks are values: they never change, and two masks are equal if their shapes and bits are.
    `ridgeline.dropout_mask` makes one, `from_array` another.

    NumPy takes a mask for its array of bool (`to_array`): ``np.where(mask, w, 0)``, ``w * mask``,
    ``np.count_nonzero(mask)``. ``mask == array``, and ``&``, ``|`` and ``^`` with an array of bool,
    are elementwise and give an array of bool; of two masks ``==`` gives a bool, the others a mask.
    Like that of an array, the truth of a mask is ambiguous: ``if mask:`` raises. `reshape`,
    `transpose` and indexing give masks.

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
    >>> np.where(mask, 5, 7)
    array([[5, 7],
           [5, 5]])
    >>> mask.T == [[True, True], [False, True]]
    array([[ True,  True],
           [ True,  True]])
    """

    __slots__ = ("_shape", "_words")
    __hash__ = None  # type: ignore[assignment]
    _shape: tuple[int, ...]
    _words: Words

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
        """Return the mask of an array of bool, or of the numbers 0 and 1.

        Parameters
        ----------
        array : array of bool, integers or floats
            True or 1 for elements to keep, as the masks of ``torch.nn.utils.prune``. Anything that
            NumPy or DLPack reads.

        Returns
        -------
        Mask

        Raises
        ------
        TypeError
            If the array has another dtype.
        ValueError
            If a number is neither 0 nor 1.

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.Mask.from_array([True, False, True]).sparsity
        0.3333333333333333
        >>> rl.Mask.from_array([1.0, 0.0, 0.5])
        Traceback (most recent call last):
        ValueError: array: got 0.5 in it, wants 0 and 1, or bool
        """
        return _mask_of(array, "array")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that the mask is for."""
        return self._shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self._shape)

    @property
    def count(self) -> int:
        """The number of elements that are kept."""
        return _bits.count(self._words)

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
        return _bits.unpacked(self._words, self.size).reshape(self._shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("copy: got False, wants None or True: the bits of a Mask are unpacked")
        return self.to_array() if dtype is None else self.to_array().astype(dtype)

    def reshape(self, *shape: Any) -> Mask:
        """Return the mask of the array's elements in another shape, in C order.

        Parameters
        ----------
        *shape : int, or a tuple of int
            As for ``ndarray.reshape``; one extent may be -1.

        Returns
        -------
        Mask

        Raises
        ------
        ValueError
            If the number of elements is another.

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.Mask.from_array([True, False, True, True]).reshape(2, -1)
        Mask(shape=(2, 2), sparsity=0.25)
        """
        return Mask._of(self.to_array().reshape(*shape).shape, self._words)

    def transpose(self, *axes: Any) -> Mask:
        """Return the mask of the transposed array.

        Parameters
        ----------
        *axes : int, or a tuple of int
            As for ``ndarray.transpose``: the order of the axes, reversed by default.

        Returns
        -------
        Mask

        Raises
        ------
        ValueError
            If they are not the axes of the mask.

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.Mask.from_array([[True, False, True]]).transpose().shape
        (3, 1)
        """
        return Mask.from_array(self.to_array().transpose(*axes))

    @property
    def T(self) -> Mask:
        """The mask of the transposed array."""
        return self.transpose()

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("a Mask of no axes has no length")
        return self._shape[0]

    def __getitem__(self, key: Any) -> Any:
        part = self.to_array()[key]
        return Mask.from_array(part) if isinstance(part, np.ndarray) else bool(part)

    def __bool__(self) -> bool:
        raise ValueError(
            "the truth of a Mask is ambiguous; use mask.count, mask.sparsity, or "
            "mask.to_array().any() or .all()"
        )

    def apply(self, w: ArrayT, out: ArrayT | None = None) -> ArrayT:
        """Return the array with 0 for elements that are not kept; the others keep every bit.

        Parameters
        ----------
        w : array
            Of the mask's shape: a NumPy array, PyTorch tensor or JAX array. Only read.
        out : array, optional
            Where to write, of the shape and dtype of `w`; may be `w`.

        Returns
        -------
        array
            `out`, or a new array of the library, shape and dtype of `w`. Of a tensor that requires
            grad, under grad mode, a part of its autograd graph: the gradient is masked too.

        Raises
        ------
        TypeError
            If it is no array of a supported dtype in CPU memory.
        ValueError
            If its shape is another, or `out` does not fit, is read-only or overlaps `w`.
        RequiresGradError
            If `out` is given under grad mode, and it or `w` requires grad.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> rl.Mask.from_array([True, False]).apply(np.array([1.0, np.nan]))
        array([1., 0.])
        """
        torch = torch_if(w)
        if torch is not None and torch.is_grad_enabled():
            if out is None:
                return cast("ArrayT", _masking()(w, self))  # a dual tensor does not require grad
            if cast("Any", w).requires_grad:
                raise _core.RequiresGradError(
                    "w: got a tensor that requires grad, wants one that does not with out=: "
                    "autograd would not see the result; leave out= away, or call under "
                    "torch.no_grad()"
                )
        return _core.masked(w, self._words, self._shape, out)

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
            A name that ends in ``.npz`` or in ``.safetensors``. A file that is there is
            replaced at once: if that fails, it is as it was.

        Raises
        ------
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

    def _combined(self, other: object, op: Callable[[Any, Any], Any]) -> Any:
        if isinstance(other, Mask):
            return Mask._of(self._shape, op(self._words, self._alike(other)))
        array = _operand(other)
        if array is None or array.dtype != np.bool_:
            return NotImplemented
        return op(self.to_array(), array)

    def __and__(self, other: Any) -> Any:
        return self._combined(other, operator.and_)

    def __or__(self, other: Any) -> Any:
        return self._combined(other, operator.or_)

    def __xor__(self, other: Any) -> Any:
        return self._combined(other, operator.xor)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Mask:
        return Mask._of(self._shape, _bits.cut(~self._words, self.size))

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Mask):
            return self._shape == other._shape and np.array_equal(self._words, other._words)
        array = _operand(other)
        return NotImplemented if array is None else self.to_array() == array

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        if isinstance(equal, bool):
            return not equal
        return equal if equal is NotImplemented else ~equal

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Mask never changes; got a new value for {name!r}")

    def __repr__(self) -> str:
        return f"Mask(shape={self._shape}, sparsity={self.sparsity:.4g})"

    def __reduce__(self) -> tuple[Any, tuple[tuple[int, ...], Words]]:
        return _restored, (self._shape, self._words)


def _operand(other: object) -> Any:
    """Return the array or number that stands beside a mask; None if it is none."""
    if isinstance(other, MaskSet):
        return None
    if hasattr(other, "__dlpack__"):
        return numpy_view(other)
    numeric = isinstance(other, bool | int | float | list | tuple)
    return np.asarray(other) if numeric or hasattr(other, "__array__") else None


def _restored(shape: object, words: Words) -> Mask:
    """Return a mask that was pickled."""
    return Mask._of(check.shape("shape", shape), words.copy())


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
    if isinstance(children, tuple) and all(isinstance(child, Mask) for child in children):
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


# ---- files

_VERSION = 1


def _save(file: str | PathLike[str], masks: Mask | MaskSet) -> None:
    """Write masks to a file."""
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
    save_arrays(file, arrays, text)


def _load(file: str | PathLike[str]) -> Mask | MaskSet:
    """Read masks from a file."""
    with reading(file) as (_, read, text):
        if text is None:
            raise KeyError("ridgeline")
        return _read(text, read)


def _read(text: str, read: Callable[[str], Any]) -> Mask | MaskSet:
    """Return the masks that a file's JSON text describes, whose words `read` returns."""

    def build(node: Any) -> Mask | MaskSet:
        if "mask" in node:
            name, shape = node["mask"], check.shape("shape", node["shape"])
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
