"""Random numbers that depend only on a key and an index.

Element i of a stream is a function of the key and of i, not of the number of threads, the
instruction set, the memory layout or how an array is split. There is no global state: a key is an
immutable value, and the same key gives the same numbers again. Derive a new key for every use::

    key = rl.Key(0)
    for step in range(1000):
        noise = rl.random.normal((64, 128), key.fold_in(step))

The generator is Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011), which passes BigCrush for any key
and needs no state. Part of an array can be drawn on its own: ``offset=`` for a contiguous range in
C order, ``index=`` for a slice along any axes.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from . import _checks as check
from . import _core
from ._numbering import Index, Part, part_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypedDict

    from typing_extensions import Unpack

    from ._typing import ArrayT

    class _Options(TypedDict, total=False):
        dtype: npt.DTypeLike | None
        offset: int
        index: Index | None

    class _NormalOptions(_Options, total=False):
        mean: float
        std: float


__all__ = ["Key", "bernoulli", "integers", "normal", "uniform"]

Array: TypeAlias = Any
Shape: TypeAlias = "int | Sequence[int]"


class Key:
    """The key of a stream of random numbers.

    Keys are immutable, and compare, hash, copy and pickle by value.

    Parameters
    ----------
    seed : int
        In [0, 2**64): the two 32-bit words of a Philox4x32 key, low word first.

    Raises
    ------
    TypeError
        If `seed` is not an integer.
    ValueError
        If `seed` is out of range.

    Examples
    --------
    >>> import ridgeline as rl
    >>> key = rl.Key(42)
    >>> key
    Key(42)
    >>> key.fold_in(0) == rl.Key(42).fold_in(0), key.fold_in(0) == key.fold_in(1)
    (True, False)
    >>> [k == key.split(3)[0] for k in key.split(2)]
    [True, False]
    """

    __slots__ = ("_seed",)
    _seed: int

    def __init__(self, seed: int) -> None:
        object.__setattr__(self, "_seed", _word("seed", seed))

    @property
    def seed(self) -> int:
        """The 64 bits of the key: ``Key(key.seed) == key``."""
        return self._seed

    def fold_in(self, data: int) -> Key:
        """Derive a key from a number, such as a step, layer or worker index.

        Its seed is the first two words of Philox at counter `data`, in a separate stream.

        Parameters
        ----------
        data : int
            In [0, 2**64).

        Returns
        -------
        Key

        Examples
        --------
        >>> import ridgeline as rl
        >>> rl.Key(42).fold_in(7).fold_in(1)
        Key(18079908786380069151)
        """
        return Key(_core.fold_in(self._seed, _word("data", data)))

    def split(self, n: int = 2) -> list[Key]:
        """Derive n keys; the first keys do not depend on n.

        Parameters
        ----------
        n : int, default 2
            The number of keys, at least 0.

        Returns
        -------
        list of Key

        Examples
        --------
        >>> import ridgeline as rl
        >>> weights, noise = rl.Key(42).split()
        >>> weights == noise
        False
        """
        if _word("n", n) > 2**32:
            raise ValueError(f"n: got {n}, wants at most 2**32")
        return [Key(seed) for seed in _core.split(self._seed, int(n))]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Key is immutable; got a new value for {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Key is immutable; got a deletion of {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self._seed == other._seed

    def __hash__(self) -> int:
        return hash((Key, self._seed))

    def __repr__(self) -> str:
        return f"Key({self._seed})"

    def __reduce__(self) -> tuple[type[Key], tuple[int]]:
        return Key, (self._seed,)


_core.set_key_type(Key)


def check_key(key: object, wants: str = "a ridgeline.Key") -> None:
    """Raise unless it is a Key."""
    if not isinstance(key, Key):
        number = isinstance(key, int | np.integer) and not isinstance(key, bool)
        hint = f", such as rl.Key({key})" if number else ""
        raise TypeError(f"key: got {type(key).__name__}, wants {wants}{hint}")


def _word(name: str, value: object) -> int:
    """Return an unsigned integer of 64 bits."""
    number = check.integer(name, value)
    if not 0 <= number < 2**64:
        raise ValueError(f"{name}: got {number}, wants an integer in [0, 2**64)")
    return number


def _dtype(dtype: object, out: Array, default: type) -> np.dtype[Any] | None:
    """Return the requested dtype; None if `out` determines it."""
    if dtype is None and out is not None:
        return None
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    try:
        return np.dtype(cast("npt.DTypeLike", default if dtype is None else dtype))
    except TypeError:
        raise TypeError(
            f"dtype: got {dtype!r}, wants a NumPy dtype (for a PyTorch tensor pass out=)"
        ) from None


_FLOATS = ("float32", "float64", "bfloat16", "float16")


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.name in _FLOATS and dtype.isnative


def _prepare(
    shape: Shape, index: Index | None, dtype: object, out: Array, default: type
) -> tuple[Array, Part | None]:
    """Return the array to fill, and which part of the whole it is."""
    whole = check.shape("shape", shape)
    part, own = (None, whole) if index is None else part_of(whole, index)
    wanted = _dtype(dtype, out, default)
    if default is np.float32 and wanted is not None and not _is_float(wanted):
        raise TypeError(f"dtype: got {wanted}, wants one of {', '.join(_FLOATS)}")
    if out is None:
        return np.empty(own, wanted), part
    _core.check_torch_target("out", out)
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise TypeError(f"out: got {type(out).__name__}, wants an array")
    if tuple(out.shape) != own:
        raise ValueError(f"out: got shape {tuple(out.shape)}, wants {own}")
    if wanted is not None and str(wanted) != str(out.dtype).removeprefix("torch."):
        raise TypeError(f"out: got dtype {out.dtype}, wants {wanted}, the value of dtype=")
    return out, part


@overload
def uniform(
    shape: Shape, key: Key, *, out: None = None, **options: Unpack[_Options]
) -> npt.NDArray[Any]: ...
@overload
def uniform(shape: Shape, key: Key, *, out: ArrayT, **options: Unpack[_Options]) -> ArrayT: ...
def uniform(
    shape: Shape,
    key: Key,
    *,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index | None = None,
    out: Array = None,
) -> Array:
    """Draw numbers uniformly from [0, 1).

    Values are integers of 24 random bits times 2**-24 for float32, and likewise of 53 bits for
    float64, 11 for float16 and 8 for bfloat16: the width of the significand, so that 1 is never
    drawn.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the result; with `index`, of the whole array of which it is a part.
    key : Key
    dtype : data type, optional
        float32 (default), float64, float16 or bfloat16 (as a string, or from ml_dtypes).
    offset : int, default 0
        The index of the first element in the stream of the key.
    index : slice, int, Ellipsis or tuple of them, optional
        The part to return, as in ``uniform(shape, key)[index]``.
    out : array, optional
        Written. With the result's shape and any strides.

    Returns
    -------
    array
        `out`, or a new NumPy array.

    Raises
    ------
    TypeError
        If `key` is not a Key, or the dtype is not one of these.
    ValueError
        If `offset` is negative, `index` does not fit, or `out` has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> whole = rl.random.uniform((4, 6), rl.Key(1))
    >>> right = rl.random.uniform((4, 6), rl.Key(1), index=np.s_[:, 3:])
    >>> np.array_equal(right, whole[:, 3:])
    True
    >>> np.array_equal(rl.random.uniform(12, rl.Key(1), offset=12), whole.ravel()[12:])
    True
    """
    result, part = _prepare(shape, index, dtype, out, np.float32)
    _core.random_uniform(result, key, offset, part)
    return result


@overload
def normal(
    shape: Shape, key: Key, *, out: None = None, **options: Unpack[_NormalOptions]
) -> npt.NDArray[Any]: ...
@overload
def normal(shape: Shape, key: Key, *, out: ArrayT, **options: Unpack[_NormalOptions]) -> ArrayT: ...
def normal(
    shape: Shape,
    key: Key,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index | None = None,
    out: Array = None,
) -> Array:
    """Draw numbers from a normal distribution.

    ::

        μ + σ √(-2 ln u) cos(2πv)  and  μ + σ √(-2 ln u) sin(2πv)

    (Box & Muller 1958) with our own logarithm, sine and cosine, so that every machine gives the
    same bits. u has 32 bits for float32 and the half types, and 64 for float64, which limits the
    distance from μ to 6.77 σ and 9.5 σ, respectively; a true normal number exceeds that once in
    7e10, or in 4e20.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the result; with `index`, of the whole array of which it is a part.
    key : Key
    mean : float, default 0
        μ.
    std : float, default 1
        σ, at least 0.
    dtype : data type, optional
        float32 (default), float64, float16 or bfloat16. The half types get the values of float32,
        rounded; float64 has different values.
    offset, index, out : optional
        As for `uniform`.

    Returns
    -------
    array
        `out`, or a new NumPy array.

    Raises
    ------
    TypeError
        If `key` is not a Key, or the dtype is not one of these.
    ValueError
        If `mean` or `std` is not finite, `std` or `offset` is negative, `index` does not fit, or
        `out` has another shape.

    Examples
    --------
    >>> import ridgeline as rl
    >>> z = rl.random.normal(100_000, rl.Key(1), mean=3.0, std=2.0)
    >>> f"{z.mean():.1f} {z.std():.1f}"
    '3.0 2.0'
    """
    result, part = _prepare(shape, index, dtype, out, np.float32)
    _core.random_normal(result, key, mean, std, offset, part)
    return result


@overload
def bernoulli(
    shape: Shape, key: Key, p: float = 0.5, *, out: None = None, **options: Unpack[_Options]
) -> npt.NDArray[Any]: ...
@overload
def bernoulli(
    shape: Shape, key: Key, p: float = 0.5, *, out: ArrayT, **options: Unpack[_Options]
) -> ArrayT: ...
def bernoulli(
    shape: Shape,
    key: Key,
    p: float = 0.5,
    *,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index | None = None,
    out: Array = None,
) -> Array:
    """Draw True with probability p.

    The result is True exactly where `ridgeline.dropout` drops with the same p and key. The
    probability is floor(p * 2**32) / 2**32.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the result; with `index`, of the whole array of which it is a part.
    key : Key
    p : float, default 0.5
        In [0, 1].
    dtype : data type, optional
        bool (default), or any NumPy dtype, which gets zeros and ones.
    offset, index, out : optional
        As for `uniform`.

    Returns
    -------
    array
        `out`, or a new NumPy array.

    Raises
    ------
    TypeError
        If `key` is not a Key, or `p` is not a number.
    ValueError
        If `p` is not in [0, 1], `offset` is negative, `index` does not fit, or `out` has another
        shape.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.random.bernoulli(5, rl.Key(1), 0.9)
    array([ True,  True,  True,  True,  True])
    """
    result, part = _prepare(shape, index, dtype, out, np.bool_)
    own = tuple(result.shape)
    words = keep_words(own, p, key, offset, part)
    np.invert(words, out=words)
    bits = np.unpackbits(words.view(np.uint8), count=math.prod(own), bitorder="little")
    drawn = bits.view(np.bool_).reshape(own)
    if out is None and result.dtype == drawn.dtype:
        return drawn
    _write(result, drawn)
    return result


def keep_words(
    shape: tuple[int, ...], p: float, key: Key, offset: int, part: Part | None
) -> npt.NDArray[np.uint64]:
    """Return the keep bits of dropout, 64 per word."""
    words = np.empty((math.prod(shape) + 63) // 64, np.uint64)
    _core.random_keep(words, list(shape), p, key, offset, part)
    return words


def _write(out: Array, values: npt.NDArray[Any]) -> None:
    """Copy values into a NumPy array or a torch tensor of any dtype."""
    torch = sys.modules.get("torch")
    tensor = torch is not None and isinstance(out, torch.Tensor)
    if tensor:
        if out.device.type != "cpu":
            raise TypeError(f"out: got a tensor on {out.device}, wants one in CPU memory")
        nested = _is_nested(out.shape, out.stride(), 1)
    else:
        if not isinstance(out, np.ndarray):
            try:
                out = np.from_dlpack(out)
            except (AttributeError, BufferError, RuntimeError, TypeError) as error:
                raise TypeError(
                    f"out: got {type(out).__name__} ({error}), wants an array"
                ) from None
        if not out.flags.writeable:
            raise ValueError("out: got a read-only array, wants a writable one")
        nested = _is_nested(out.shape, out.strides, out.itemsize)
    if values.size and not nested:
        raise ValueError("out: got an array whose elements share memory, wants distinct elements")
    if not tensor:
        out[...] = values
        return
    with cast("Any", torch).no_grad():
        out.copy_(cast("Any", torch).from_numpy(values))


def _is_nested(shape: Sequence[int], strides: Sequence[int], item: int) -> bool:
    """Return whether each axis strides over the full extent of the faster axes."""
    reach = item
    for stride, extent in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            return False
        reach += stride * (extent - 1)
    return True


@overload
def integers(
    shape: Shape,
    key: Key,
    low: int | None = None,
    high: int | None = None,
    *,
    out: None = None,
    **options: Unpack[_Options],
) -> npt.NDArray[Any]: ...
@overload
def integers(
    shape: Shape,
    key: Key,
    low: int | None = None,
    high: int | None = None,
    *,
    out: ArrayT,
    **options: Unpack[_Options],
) -> ArrayT: ...
def integers(
    shape: Shape,
    key: Key,
    low: int | None = None,
    high: int | None = None,
    *,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index | None = None,
    out: Array = None,
) -> Array:
    """Draw integers uniformly from [low, high).

    Unbiased (Lemire 2019): all values are equally likely for every range.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the result; with `index`, of the whole array of which it is a part.
    key : Key
    low : int, optional
        The smallest value. If `high` is omitted, `low` is used as `high` and the smallest value is
        0, as in NumPy. If both are omitted, the range is that of the dtype.
    high : int, optional
        One above the largest value.
    dtype : data type, optional
        int64 (default) or another integer type. For a given range the values do not depend on it.
    offset, index, out : optional
        As for `uniform`.

    Returns
    -------
    array
        `out`, or a new NumPy array.

    Raises
    ------
    TypeError
        If `key` is not a Key, a bound is not an integer, or the dtype is not an integer type.
    ValueError
        If [low, high) is empty or exceeds the range of the dtype, `offset` is negative, `index`
        does not fit, or `out` has another shape.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.random.integers(8, rl.Key(1), 1, 7)
    array([6, 5, 2, 2, 5, 2, 2, 2])
    """
    result, part = _prepare(shape, index, dtype, out, np.int64)
    try:
        wanted = np.dtype(str(result.dtype).removeprefix("torch."))
    except TypeError:
        wanted = np.dtype(np.void)
    if wanted.kind not in "iu" or not wanted.isnative:
        raise TypeError(f"dtype: got {result.dtype}, wants an integer type")
    bounds = np.iinfo(wanted)
    first, last = int(bounds.min), int(bounds.max) + 1
    if low is not None:
        bound = check.integer("low", low)
        first, last = (0, bound) if high is None else (bound, last)
    if high is not None:
        first, last = (0 if low is None else first), check.integer("high", high)
    if first >= last:
        raise ValueError(f"high: got the empty range [{first}, {last}), wants high above low")
    if first < bounds.min or last > int(bounds.max) + 1:
        raise ValueError(f"high: got [{first}, {last}), wants a range within that of {wanted}")
    values = result if out is None else np.empty(tuple(result.shape), wanted)
    span = (last - first) % 2**64
    _core.random_integers(values, key, first % 2**64, span, offset, part)
    if out is not None:
        _write(out, values)
    return result
