"""A mask with one bit per element."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from . import _bits, _core
from . import _checks as check
from ._arrays import numpy_view, torch_if
from ._mask_files import load_masks, save_masks

if TYPE_CHECKING:
    from ._bits import Words
    from ._typing import ArrayT, SupportsDLPack


def _mask_of(array: object, place: str) -> Mask:
    """Return the mask for an array of bools, or of zeros and ones."""
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
    """Return torch's ``autograd.Function`` that applies a mask."""
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
    """Which elements of an array are kept: one bit per element, True for kept.

    Masks are immutable, and equal if their shapes and bits are. `from_array`,
    `ridgeline.dropout_mask` and the pruning functions create them.

    NumPy treats a mask as its bool array (`to_array`): ``np.where(mask, w, 0)``, ``w * mask``,
    ``np.count_nonzero(mask)``. ``mask == array``, and ``&``, ``|`` and ``^`` with a bool array, are
    elementwise and give a bool array; for two masks ``==`` gives a bool, the others give a mask. As
    for an array, the truth value of a mask is ambiguous: ``if mask:`` raises. `reshape`,
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
        """Refuse: `from_array` creates masks."""
        raise TypeError("a Mask is made by Mask.from_array, dropout_mask or pruning")

    @classmethod
    def _of(cls, shape: tuple[int, ...], words: Words) -> Mask:
        """Return the mask of words whose bits beyond the last element are 0."""
        mask = object.__new__(cls)
        _set_shape(mask, shape)
        _set_words(mask, words)
        words.setflags(False)  # type: ignore[call-arg]  # a keyword takes three times as long
        return mask

    @staticmethod
    def from_array(array: npt.ArrayLike) -> Mask:
        """Return the mask for an array of bools, or of zeros and ones.

        Parameters
        ----------
        array : array of bool, integers or floats
            True or 1 for elements to keep, as in the masks of ``torch.nn.utils.prune``. Anything
            that NumPy or DLPack can read.

        Returns
        -------
        Mask

        Raises
        ------
        TypeError
            If the dtype is not bool, integer or float.
        ValueError
            If an element is neither 0 nor 1.

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
        """The number of kept elements."""
        return _bits.count(self._words)

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the bits take: an eighth of `size`, in words of 8 bytes."""
        return self._words.nbytes

    @property
    def sparsity(self) -> float:
        """The fraction of elements that are pruned; 0 for an empty mask."""
        return _bits.sparsity(self.size, self.count)

    def to_array(self) -> npt.NDArray[np.bool_]:
        """Return the mask as a bool array.

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
            If the number of elements differs.

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
            If they are not a permutation of the axes.

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
        """Return the array with pruned elements set to 0; the others keep their bits.

        Parameters
        ----------
        w : array
            Only read. A NumPy array, PyTorch tensor or JAX array with the mask's shape.
        out : array, optional
            Where to write, with the shape and dtype of `w`; may be `w` itself.

        Returns
        -------
        array
            `out`, or a new array of the library, shape and dtype of `w`. For a tensor that requires
            grad, in grad mode, it is part of the autograd graph: the gradient is masked too.

        Raises
        ------
        TypeError
            If it is not an array of a supported dtype in CPU memory.
        ValueError
            If the shape differs, or `out` does not fit, is read-only or overlaps `w`.
        RequiresGradError
            If `out` is given in grad mode, and it or `w` requires grad.

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
                    "autograd would not see the result; omit out=, or call under torch.no_grad()"
                )
        return _core.masked(w, self._words, self._shape, out)

    def apply_(self, params: SupportsDLPack) -> None:
        """Set pruned elements to 0, in place; the others keep their bits.

        A parameter update: torch parameters are written as under ``torch.no_grad()``.

        Parameters
        ----------
        params : array
            Written. An array with the mask's shape.

        Raises
        ------
        TypeError
            If it is not an array of a supported dtype in CPU memory.
        ValueError
            If the shape differs, or the array is read-only.

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
        """Write the mask to a file, with one bit per element.

        Parameters
        ----------
        file : str or path
            A name that ends in ``.npz`` or ``.safetensors``. An existing file is replaced
            atomically: if writing fails, it is unchanged.

        Raises
        ------
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
        >>> mask = rl.Mask.from_array([True, False])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mask.save(f"{folder}/mask.npz")
        ...     rl.Mask.load(f"{folder}/mask.npz") == mask
        True
        """
        save_masks(file, self)

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
            If the file is of another kind or version, is damaged, or holds a `MaskSet`.
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
        mask = load_masks(file, Mask._of)
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
        raise AttributeError(f"a Mask is immutable; got a new value for {name!r}")

    def __repr__(self) -> str:
        return f"Mask(shape={self._shape}, sparsity={self.sparsity:.4g})"

    def __reduce__(self) -> tuple[Any, tuple[tuple[int, ...], Words]]:
        return _restored, (self._shape, self._words)


# The slots' own setters take half the time of object.__setattr__.
_set_shape: Callable[[Mask, tuple[int, ...]], None] = vars(Mask)["_shape"].__set__
_set_words: Callable[[Mask, Words], None] = vars(Mask)["_words"].__set__


def _operand(other: object) -> Any:
    """Return the other operand as an array; None if it is not an array or a number."""
    if getattr(other, "__array_ufunc__", True) is None:  # a MaskSet has its own operators
        return None
    if hasattr(other, "__dlpack__"):
        return numpy_view(other)
    numeric = isinstance(other, bool | int | float | list | tuple)
    return np.asarray(other) if numeric or hasattr(other, "__array__") else None


def _restored(shape: object, words: Words) -> Mask:
    """Return a mask that was pickled."""
    return Mask._of(check.shape("shape", shape), words.copy())
