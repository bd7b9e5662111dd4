"""Pruned weights for other programs: scipy.sparse matrices, and packed N:M weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _checks as check
from ..masks import Mask, _no_mask

if TYPE_CHECKING:
    from .._typing import ArrayT

__all__ = ["PackedNM", "from_sparse", "pack_nm", "to_bsr", "to_csr"]

Array: TypeAlias = npt.NDArray[Any]
Bools: TypeAlias = npt.NDArray[np.bool_]
Bytes: TypeAlias = npt.NDArray[np.uint8]


def _sparse() -> Any:
    """Import scipy.sparse."""
    try:
        import scipy.sparse
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ridgeline: sparse matrices need another package: pip install scipy", name="scipy"
        ) from error
    return scipy.sparse


def _is_torch(w: object) -> bool:
    return hasattr(w, "requires_grad")


def _matrix(w: Any, mask: object) -> Any:
    """Return a matrix as an array of NumPy or a torch tensor, after checks."""
    if not hasattr(w, "shape") or not hasattr(w, "dtype"):
        raise TypeError(f"w: got {type(w).__name__}, wants an array")
    if len(w.shape) != 2:
        raise ValueError(f"w: got shape {tuple(w.shape)}, wants two axes")
    if mask is not None and not isinstance(mask, Mask):
        raise TypeError(f"mask: got {_no_mask(mask)}")
    if mask is not None and mask.shape != tuple(w.shape):
        raise ValueError(f"mask: got shape {mask.shape}, wants {tuple(w.shape)}, that of w")
    return w.detach() if _is_torch(w) else np.asarray(w)


def to_csr(w: Any, mask: Mask | None = None) -> Any:
    """Return a matrix in compressed sparse rows.

    Needs SciPy. Only what is kept is stored: a NaN too, and with a mask a 0 too.

    Parameters
    ----------
    w : array
        Of two axes, float32 or float64; a PyTorch CPU tensor as well. Read.
    mask : Mask, optional
        Of w's shape: what to store. Without it that is what is not 0.

    Returns
    -------
    scipy.sparse.csr_array
        With sorted indices. Pruned elements read as 0, whatever their value in w.

    Raises
    ------
    TypeError
        If w is not a float32 or float64 array, or `mask` is not a Mask. SciPy has no half types:
        convert first, ``w.astype(np.float32)`` or ``w.float()``.
    ValueError
        If w has not two axes, or the mask another shape.
    ModuleNotFoundError
        If SciPy is missing.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> from ridgeline.prune.export import to_csr
    >>> w = np.array([[1.0, 2.0, 0.0], [0.0, 5.0, 6.0]])
    >>> mask = rl.Mask.from_array([[True, False, True], [False, False, True]])
    >>> sparse = to_csr(w, mask)
    >>> sparse.data, sparse.indices, sparse.indptr
    (array([1., 0., 6.]), array([0, 2, 2], dtype=int32), array([0, 2, 3], dtype=int32))
    >>> sparse @ np.ones(3)
    array([1., 6.])
    """
    w = _matrix(w, mask)
    name = str(w.dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        convert = "w.float()" if _is_torch(w) else "w.astype(np.float32)"
        raise TypeError(
            f"w: got dtype {name}, wants float32 or float64: scipy.sparse has no half types; "
            f"convert it first, {convert}"
        )
    array = w.numpy() if _is_torch(w) else w
    kept = array != 0 if mask is None else mask.to_array()
    starts = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(np.count_nonzero(kept, axis=1), out=starts[1:])
    index = np.int64 if max(int(starts[-1]), kept.shape[1]) > np.iinfo(np.int32).max else np.int32
    columns = np.broadcast_to(np.arange(kept.shape[1], dtype=index), kept.shape)[kept]
    matrix = _sparse().csr_array((array[kept], columns, starts.astype(index)), shape=kept.shape)
    matrix.has_canonical_format = True
    return matrix


def to_bsr(w: Any, mask: Mask | None = None, blocksize: Sequence[int] | None = None) -> Any:
    """Return a matrix in compressed sparse rows of blocks.

    Needs SciPy. Only blocks in which something is kept are stored, whole; what is not kept in one
    is 0.

    Parameters
    ----------
    w : array
        Of two axes, float32 or float64; a PyTorch CPU tensor as well. Read.
    mask : Mask, optional
        Of w's shape: what is kept. Without it that is what is not 0.
    blocksize : (int, int), optional
        Divides w's shape. By default SciPy chooses by how full blocks would be.

    Returns
    -------
    scipy.sparse.bsr_array

    Raises
    ------
    TypeError
        If w is not a float32 or float64 array, `mask` is not a Mask, or `blocksize` is not two
        integers.
        SciPy has no half types.
    ValueError
        If w has not two axes, the mask has another shape, or the blocks do not tile w.
    ModuleNotFoundError
        If SciPy is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune.export import to_bsr
    >>> w = np.kron(np.eye(2), np.ones((2, 2)))
    >>> sparse = to_bsr(w, blocksize=(2, 2))
    >>> sparse.data.shape
    (2, 2, 2)
    >>> bool((sparse.toarray() == w).all())
    True
    """
    shape = _matrix(w, mask).shape
    block = None
    if blocksize is not None:
        block = check.shape("blocksize", blocksize)
        if len(block) != 2 or min(block) < 1:
            raise ValueError(f"blocksize: got {block}, wants two numbers of at least 1")
        if any(extent % side for extent, side in zip(shape, block, strict=True)):
            raise ValueError(f"blocksize: got {block}, wants one that divides {tuple(shape)}")
    return to_csr(w, mask).tobsr(blocksize=block)


def from_sparse(matrix: Any) -> tuple[Array, Mask]:
    """Return the dense array of a sparse matrix, and the mask of what it stores.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        Of two axes, in any format: what `to_csr` and `to_bsr` return.

    Returns
    -------
    w : ndarray
    mask : Mask
        The stored elements, explicit zeros too. Of blocks, all elements.

    Raises
    ------
    TypeError
        If it is not a sparse matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> from ridgeline.prune.export import from_sparse, to_csr
    >>> w = np.array([[1.0, 2.0], [0.0, 4.0]])
    >>> mask = rl.Mask.from_array([[True, False], [True, True]])
    >>> array, again = from_sparse(to_csr(w, mask))
    >>> array
    array([[1., 0.],
           [0., 4.]])
    >>> again == mask
    True
    """
    if not _sparse().issparse(matrix) or len(matrix.shape) != 2:
        raise TypeError(f"matrix: got {type(matrix).__name__}, wants a matrix of scipy.sparse")
    rows = matrix.tocsr()
    kept = np.zeros(rows.shape, bool)
    kept[np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices] = True
    return rows.toarray(), Mask.from_array(kept)


# ---- N:M


def _bits(m: int) -> int:
    """Return the bits of an index into a group of m."""
    return 2 if m <= 4 else 4 if m <= 16 else 8


def _check_nm(n: object, m: object) -> tuple[int, int]:
    keep, group = check.integer("n", n), check.integer("m", m)
    if not 1 <= group <= 256:
        raise ValueError(f"m: got {group}, wants 1 to 256")
    if not 1 <= keep <= group:
        raise ValueError(f"n: got {keep}, wants 1 to m, which is {group}")
    return keep, group


def _slots(columns: int, n: int, m: int) -> int:
    """Return the number of kept elements of a row."""
    return columns // m * n + min(n, columns % m)


@dataclass(frozen=True, eq=False)
class PackedNM:
    """A matrix with n of every m consecutive elements of a row kept, as values and indices.

    `pack_nm` makes one. Slot s of a row is in group ``s // n``, and its index, 0 to m - 1, says
    where in it; indices of a group ascend. A row's indices lie one after another in its bytes, the
    first in the lowest bits. A last, shorter group of r elements has ``min(n, r)`` slots.

    Parameters
    ----------
    values : array of shape (rows, slots)
        The kept elements, in C order: an array of the library of the weights.
    indices : ndarray of uint8, shape (rows, bytes)
        Of 2 bits each for m up to 4, of 4 up to 16, else of 8.
    shape : tuple of int
        Of the matrix: (rows, columns).
    n, m : int

    Raises
    ------
    TypeError
        If `indices` is not of uint8, or a number no integer.
    ValueError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune.export import PackedNM
    >>> values, indices = np.array([[5.0, 7.0]]), np.array([[0b1101]], np.uint8)
    >>> packed = PackedNM(values, indices, (1, 4), 2, 4)
    >>> packed.unpack()[0]
    array([[0., 5., 0., 7.]])
    """

    values: Any
    indices: Bytes
    shape: tuple[int, int]
    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        """Check that the parts are consistent."""
        n, m = _check_nm(self.n, self.m)
        shape = check.shape("shape", self.shape)
        if len(shape) != 2:
            raise ValueError(f"shape: got {shape}, wants two axes")
        slots = _slots(shape[1], n, m)
        if tuple(self.values.shape) != (shape[0], slots):
            wanted = f"wants {(shape[0], slots)} for {n}:{m} of {shape}"
            raise ValueError(f"values: got shape {tuple(self.values.shape)}, {wanted}")
        if self.indices.dtype != np.uint8:
            raise TypeError(f"indices: got dtype {self.indices.dtype}, wants uint8")
        wants = (shape[0], -(-slots * _bits(m) // 8))
        if self.indices.shape != wants:
            raise ValueError(f"indices: got shape {self.indices.shape}, wants {wants}")

    @property
    def nbytes(self) -> int:
        """The bytes of memory that values and indices take."""
        return int(self.values.nbytes) + self.indices.nbytes

    def unpack(self) -> tuple[Any, Mask]:
        """Return the matrix, 0 where nothing is kept, and the mask.

        Returns
        -------
        w : array
            Of the library and dtype of `values`.
        mask : Mask

        Raises
        ------
        ValueError
            If indices are beyond their group or do not ascend.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> from ridgeline.prune.export import pack_nm
        >>> mask = rl.Mask.from_array([[True, False, False, True]])
        >>> w, again = pack_nm(np.array([[1.0, 2.0, 3.0, 4.0]]), mask).unpack()
        >>> w
        array([[1., 0., 0., 4.]])
        >>> again == mask
        True
        """
        rows, columns = self.shape
        slots, bits = _slots(columns, self.n, self.m), _bits(self.m)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        indices = (self.indices[:, :, None] >> shifts) & np.uint8(2**bits - 1)
        indices = indices.reshape(rows, math.prod(indices.shape[1:]))[:, :slots]
        places = np.arange(slots) // self.n * self.m + indices
        beyond = (indices >= self.m) | (places >= columns)
        # Groups ascend, so slots in order also keep to their own group.
        if beyond.any() or (np.diff(places, axis=1) <= 0).any():
            raise ValueError("indices: got some beyond their group or not ascending")
        kept = np.zeros(self.shape, bool)
        np.put_along_axis(kept, places, True, axis=1)
        if _is_torch(self.values):
            import torch

            w = self.values.new_zeros(self.shape)
            w[torch.from_numpy(kept)] = self.values.reshape(-1)
            return w, Mask.from_array(kept)
        dense = np.zeros(self.shape, self.values.dtype)
        dense[kept] = self.values.reshape(-1)
        return dense, Mask.from_array(kept)


def pack_nm(w: ArrayT, mask: Mask, n: int = 2, m: int = 4) -> PackedNM:
    """Pack a matrix in which n of every m consecutive elements of a row are kept.

    The values, and 2 bits an index for m up to 4: 2:4 in float32 takes 9/16 of the dense bytes.
    Layouts of GPU libraries differ in the order of the indices.

    Parameters
    ----------
    w : array
        Of two axes, any dtype; PyTorch CPU tensors stay such. Read.
    mask : Mask
        Of w's shape. It keeps exactly n of each group of m along the last axis; of a last, shorter
        group of r elements ``min(n, r)``: what ``NM(n, m)`` makes.
    n, m : int, default 2 and 4
        1 <= n <= m <= 256.

    Returns
    -------
    PackedNM

    Raises
    ------
    TypeError
        If w is not an array, `mask` is not a Mask, or n or m is not an integer.
    ValueError
        If w has not two axes, the mask another shape, or a group keeps another number.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> from ridgeline.prune.export import pack_nm
    >>> w = np.arange(1.0, 9.0).reshape(2, 4)
    >>> mask = rl.Mask.from_array([[True, False, False, True], [False, True, True, False]])
    >>> packed = pack_nm(w, mask)
    >>> packed.values
    array([[1., 4.],
           [6., 7.]])
    >>> [f"{byte:04b}" for byte in packed.indices[:, 0]]
    ['1100', '1001']
    """
    n, m = _check_nm(n, m)
    if mask is None:
        raise TypeError("mask: got NoneType, wants a Mask")
    matrix = _matrix(w, mask)
    rows, columns = mask.shape
    kept = mask.to_array()
    _check_groups(kept, n, m)
    slots, bits = _slots(columns, n, m), _bits(m)
    within = (np.arange(columns) % m).astype(np.uint8)
    each = 8 // bits
    width = -(-slots // each)
    indices = np.zeros((rows, width * each), np.uint8)
    indices[:, :slots] = np.broadcast_to(within, kept.shape)[kept].reshape(rows, slots)
    indices = indices.reshape(rows, width, each) << np.arange(0, 8, bits, dtype=np.uint8)
    packed = np.bitwise_or.reduce(indices, axis=2)
    if _is_torch(matrix):
        import torch

        values = matrix[torch.from_numpy(kept)].reshape(rows, slots)
    else:
        values = matrix[kept].reshape(rows, slots)
    return PackedNM(values, packed, (rows, columns), n, m)


def _check_groups(kept: Bools, n: int, m: int) -> None:
    """Raise an error if a group keeps another number than n, or all of a shorter one."""
    rows, columns = kept.shape
    whole = columns // m
    counts = np.count_nonzero(kept[:, : whole * m].reshape(rows, whole, m), axis=2)
    last = np.count_nonzero(kept[:, whole * m :], axis=1)[:, None]
    counts = np.concatenate([counts, last], axis=1)
    wanted = np.full(whole + 1, n)
    wanted[-1] = min(n, columns % m)
    wrong = np.argwhere(counts != wanted)
    if len(wrong):
        row, group = map(int, wrong[0])
        raise ValueError(
            f"mask: got {counts[row, group]} kept of group {group} of row {row}, "
            f"wants {wanted[group]} (a mask of NM({n}, {m}))"
        )
