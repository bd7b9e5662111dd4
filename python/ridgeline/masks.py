"""Masks of one bit an element."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._numbering import shape_of

if TYPE_CHECKING:
    from ._typing import SupportsDLPack

__all__ = ["Mask"]


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
    _words: npt.NDArray[np.uint64]

    def __init__(self) -> None:
        """Refuse to make a mask of nothing."""
        raise TypeError("a Mask is made by Mask.from_array, dropout_mask or pruning")

    @classmethod
    def _of(cls, shape: tuple[int, ...], words: npt.NDArray[np.uint64]) -> Mask:
        """Return the mask of words whose bits beyond the last element are 0."""
        mask = object.__new__(cls)
        object.__setattr__(mask, "_shape", shape)
        object.__setattr__(mask, "_words", words)
        words.flags.writeable = False
        return mask

    @classmethod
    def from_array(cls, array: npt.ArrayLike) -> Mask:
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
        bools = np.asarray(array)
        if bools.dtype != np.bool_:
            raise TypeError(f"array: got dtype {bools.dtype}, wants bool")
        words = np.zeros((bools.size + 63) // 64, np.uint64)
        packed = np.packbits(bools, bitorder="little")
        words.view(np.uint8)[: packed.size] = packed
        return cls._of(bools.shape, words)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that the mask is for."""
        return self._shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self._shape)

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the bits take: an eighth of `size`, in words of 8 bytes."""
        return self._words.nbytes

    @property
    def sparsity(self) -> float:
        """The fraction of elements that are not kept; 0 for a mask of no elements."""
        kept = int(np.bitwise_count(self._words).sum(dtype=np.int64))
        return (self.size - kept) / self.size if self.size else 0.0

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
        shape = tuple(getattr(params, "shape", self._shape))
        if shape != self._shape:
            raise ValueError(f"params: got shape {shape}, wants {self._shape}, that of the mask")
        _core.apply_mask(params, self._words)

    def _alike(self, other: Mask) -> npt.NDArray[np.uint64]:
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

    def __reduce__(self) -> tuple[Any, tuple[tuple[int, ...], npt.NDArray[np.uint64]]]:
        return _restored, (self._shape, self._words)


def _restored(shape: object, words: npt.NDArray[np.uint64]) -> Mask:
    """Return a mask that was pickled."""
    return Mask._of(shape_of("shape", shape), cast("npt.NDArray[np.uint64]", words.copy()))
