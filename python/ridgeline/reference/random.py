"""Random numbers as functions of a key and an index.

Every number comes from a word W_s[j] of one of the streams s of a key, and a word is Philox4x32-10
(Salmon, Moraes, Dror & Shaw 2011) at a counter made from j and s: nothing has a state. A key is
an integer, or anything with one as its ``seed``. Everything is made at its logical index: the place
in C order within ``shape``, plus ``offset``; ``index`` makes ``shape[index]`` only.

>>> from ridgeline.reference import random
>>> random.uniform(3, 42)
array([0.61295986, 0.98771864, 0.8258668 ], dtype=float32)
>>> random.uniform((2, 3), 42, index=(0, slice(1, None)))
array([0.98771864, 0.8258668 ], dtype=float32)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ridgeline.reference._tree import Array, Float64

Words: TypeAlias = npt.NDArray[np.uint32]
Doubles: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Shape: TypeAlias = int | Sequence[int]
Item: TypeAlias = slice | int | EllipsisType
Index: TypeAlias = Item | tuple[Item, ...] | None

UNIFORM, CHOICE, TIES, NORMAL, INTEGERS, FOLD_IN, SPLIT = range(7)  # the streams

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox4x32(counter: Sequence[Any], key: tuple[int, int], rounds: int = 10) -> Words:
    """Return the four words at a counter of four words: (4, ...) for arrays of counters.

    Examples
    --------
    >>> [f"{word:08x}" for word in philox4x32((0, 0, 0, 0), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> HALF) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HALF) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.array([c0, c1, c2, c3]).astype(np.uint32)


def _key_words(key: Any) -> tuple[int, int]:
    seed = int(getattr(key, "seed", key))
    return seed & 0xFFFFFFFF, seed >> 32


def words(key: Any, stream: int, j: npt.ArrayLike, attempt: int = 0) -> Words:
    """Return W_s[j] for every j: word (j // 16) % 4 of counter 16 (j // 64) + j % 16.

    Examples
    --------
    >>> [f"{word:08x}" for word in words(0, UNIFORM, [0, 16, 32, 48])]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    at = np.asarray(j, np.uint64)
    tile, word, lane = at >> np.uint64(6), (at >> np.uint64(4)) & np.uint64(3), at & np.uint64(15)
    c = (tile << np.uint64(4)) + lane
    four = philox4x32((c & LOW, c >> HALF, stream, attempt), _key_words(key))
    return np.asarray(np.choose(word.astype(np.intp), list(four)))


def double_words(key: Any, stream: int, i: npt.ArrayLike, attempt: int = 0) -> Doubles:
    """Return D_s[i] = W_s[2i] + 2^32 W_s[2i + 1] for every i.

    Examples
    --------
    >>> low, high = words(0, UNIFORM, [14, 15]).tolist()
    >>> int(double_words(0, UNIFORM, 7)) == low + 2**32 * high
    True
    """
    j = np.asarray(i, np.uint64) << np.uint64(1)
    low, high = (words(key, stream, at, attempt).astype(np.uint64) for at in (j, j | np.uint64(1)))
    return np.asarray(low | (high << HALF))


def _derived(key: Any, data: int, stream: int) -> int:
    w0, w1, _, _ = philox4x32((data & 0xFFFFFFFF, data >> 32, stream, 0), _key_words(key))
    return int(w0) | int(w1) << 32


def fold_in(key: Any, data: int) -> int:
    """Return the seed of a key made from a key and a number.

    Examples
    --------
    >>> fold_in(42, 7) != fold_in(42, 8)
    True
    """
    return _derived(key, data, FOLD_IN)


def split(key: Any, n: int = 2) -> list[int]:
    """Return the seeds of n keys made from a key.

    Examples
    --------
    >>> split(42, 3)[:2] == split(42)
    True
    """
    return [_derived(key, i, SPLIT) for i in range(n)]


def full_index(index: Index, ndim: int) -> tuple[slice | int, ...]:
    """Return an index with one item for each axis.

    Examples
    --------
    >>> full_index((..., 3), 3)
    (slice(None, None, None), slice(None, None, None), 3)
    """
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    items = [...] if index is None else items
    if ... not in items:
        items.append(...)
    gap = items.index(...)
    return tuple(items[:gap] + [slice(None)] * (ndim + 1 - len(items)) + items[gap + 1 :])


def indices(shape: Shape, offset: int = 0, index: Index = None) -> Doubles:
    """Return the logical index of every element, or of those at ``index``.

    Examples
    --------
    >>> indices((2, 3), 10)
    array([[10, 11, 12],
           [13, 14, 15]], dtype=uint64)
    >>> indices((2, 3), 10, (slice(None), -1))
    array([12, 15], dtype=uint64)
    """
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    result = np.array(offset, np.uint64)
    for axis, item in enumerate(full_index(index, len(shape))):
        stride = math.prod(shape[axis + 1 :])
        along = range(shape[axis])[item]
        places = (
            np.arange(along.start, along.stop, along.step) if isinstance(along, range) else along
        )
        result = np.add.outer(result, np.asarray(places).astype(np.uint64) * np.uint64(stride))
    return np.asarray(result, np.uint64)


def uniform(
    shape: Shape,
    key: Any,
    *,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index = None,
) -> Array:
    """Return multiples of 2^-k in [0, 1), k the bits of the significand: the first of a word.

    Examples
    --------
    >>> uniform(2, 0, dtype=np.float64)
    array([0.9722412 , 0.78736777])
    """
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    i = indices(shape, offset, index)
    k = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype.name]
    if dtype == np.float64:
        first = double_words(key, UNIFORM, i) >> np.uint64(64 - k)
    else:
        first = words(key, UNIFORM, i) >> np.uint32(32 - k)
    return np.asarray(first * 2.0**-k).astype(dtype)


def is_below(byte: npt.ArrayLike, rest: npt.ArrayLike, threshold: int) -> Bools:
    """Return whether 2^24 byte + rest < threshold; the rest counts only where the byte is a tie.

    Examples
    --------
    >>> is_below([1, 2, 2, 3], [0, 7, 8, 0], 2 * 2**24 + 8)
    array([ True,  True, False, False])
    """
    first, others = threshold >> 24, threshold & 0xFFFFFF
    byte = np.asarray(byte)
    return np.asarray(np.where(byte == first, np.asarray(rest) < others, byte < first))


def choice(p: float, key: Any, i: npt.ArrayLike) -> Bools:
    """Return whether dropout drops element i, for every i: with probability floor(2^32 p) / 2^32.

    It is dropped if an integer, uniform on [0, 2^32), is below T = floor(2^32 p). Its first byte
    decides unless it equals the first byte of T, which is one case in 256; the other 24 bits come
    from a stream of their own. So of the 2^32 values exactly T are dropped.

    Examples
    --------
    >>> choice(0.5, 42, np.arange(8))
    array([ True,  True, False,  True,  True, False, False,  True])
    """
    i = np.asarray(i, np.uint64)
    threshold = int(p * 2**32)
    shift = ((i & np.uint64(3)) * np.uint64(8)).astype(np.uint32)
    byte = np.asarray((words(key, CHOICE, i >> np.uint64(2)) >> shift) & np.uint32(255))
    tie = byte == threshold >> 24
    rest = np.zeros(i.shape, np.uint32)
    at = i[tie]
    rest[tie] = philox4x32((at & LOW, at >> HALF, TIES, 0), _key_words(key))[0] >> np.uint32(8)
    return is_below(byte, rest, threshold)


def bernoulli(
    shape: Shape,
    key: Any,
    p: float = 0.5,
    *,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index = None,
) -> Array:
    """Return True with probability p, where dropout with this p and key drops.

    Examples
    --------
    >>> bernoulli(4, 42, 0.25, dtype=np.float32)
    array([0., 1., 0., 1.], dtype=float32)
    """
    return choice(p, key, indices(shape, offset, index)).astype(bool if dtype is None else dtype)


def box_muller(u: npt.ArrayLike, v: npt.ArrayLike, bits: int) -> tuple[Float64, Float64]:
    """Return two normal numbers from two integers of `bits` bits (Box & Muller 1958).

    radius = sqrt(-2 ln((u + 1/2) / 2^bits)), angle = 2 pi v / 2^bits: radius times cos and sin.
    A u near 2^bits, and an angle near a multiple of pi / 2, are measured from there, where the
    logarithm, and the sine or cosine, are near 0: the result is accurate however small it is.

    Examples
    --------
    >>> cos, sin = box_muller(2**31 - 1, 2**29, 32)  # ln(1/2) and 45 degrees
    >>> np.round([cos, sin, np.sqrt(np.log(2))], 6)
    array([0.832555, 0.832555, 0.832555])
    """
    u, v = np.asarray(u, np.uint64), np.asarray(v, np.uint64)
    below_one = np.uint64(2**bits - 1) - u
    upper = u >= np.uint64(2 ** (bits - 1))
    near_zero = (np.where(upper, 2 ** (bits - 1), u).astype(np.float64) + 0.5) * 2.0**-bits
    near_one = (np.where(upper, below_one, 0).astype(np.float64) + 0.5) * 2.0**-bits
    radius = np.sqrt(-2 * np.where(upper, np.log1p(-near_one), np.log(near_zero)))

    with np.errstate(over="ignore"):  # modulo 2^64
        turned = (v + np.uint64(2 ** (bits - 3))) & np.uint64(2**bits - 1)
    quarter = (turned >> np.uint64(bits - 2)).astype(np.intp)
    rest = (turned & np.uint64(2 ** (bits - 2) - 1)).astype(np.int64) - 2 ** (bits - 3)
    angle = rest * (2 * np.pi * 2.0**-bits)
    cos, sin = np.cos(angle), np.sin(angle)
    return (
        np.asarray(radius * np.choose(quarter, [cos, -sin, -cos, sin])),
        np.asarray(radius * np.choose(quarter, [sin, cos, -sin, -cos])),
    )


def standard_normal(key: Any, i: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Float64:
    """Return the normal number of every index i, in float64: 32 bits of each word, or 64.

    Elements come in pairs, 16 apart: the cosine's has bit 4 of its index clear, the sine's has it
    set.

    Examples
    --------
    >>> print(standard_normal(42, 1).round(6))
    0.852786
    """
    i = np.asarray(i, np.uint64)
    first = i & ~np.uint64(16)
    draw, bits = (double_words, 64) if np.dtype(dtype) == np.float64 else (words, 32)
    cos, sin = box_muller(draw(key, NORMAL, first), draw(key, NORMAL, first | np.uint64(16)), bits)
    return np.asarray(np.where(i & np.uint64(16), sin, cos))[()]


def normal(
    shape: Shape,
    key: Any,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index = None,
) -> Array:
    """Return mean + std z, rounded after each operation: to float64, else to float32.

    Examples
    --------
    >>> normal(2, 42, mean=100.0)
    array([ 97.61222, 100.85278], dtype=float32)
    """
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    compute = np.float64 if dtype == np.float64 else np.float32
    z = np.asarray(standard_normal(key, indices(shape, offset, index), dtype)).astype(compute)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(compute(mean) + compute(std) * z).astype(dtype)


def _wide_product(a: Doubles, b: int) -> tuple[Doubles, Doubles]:
    """Return the upper and the lower 64 bits of a times b, b at most 2^64."""
    if b == 2**64:
        return a, np.zeros_like(a)
    b_low, b_high = np.uint64(b & 0xFFFFFFFF), np.uint64(b >> 32)
    low = (a & LOW) * b_low
    middle = (a >> HALF) * b_low + (low >> HALF)
    other = (a & LOW) * b_high + (middle & LOW)
    return (
        (a >> HALF) * b_high + (middle >> HALF) + (other >> HALF),
        (other << HALF) | (low & LOW),
    )


def integers(
    shape: Shape,
    key: Any,
    low: int | None = None,
    high: int | None = None,
    *,
    dtype: npt.DTypeLike | None = None,
    offset: int = 0,
    index: Index = None,
) -> Array:
    """Return integers in [low, high), all equally likely (Lemire 2019).

    D times (high - low), a number of 128 bits: its upper half is the result, unless the lower half
    is among the first 2^64 mod (high - low); then the next attempt's D decides.

    Examples
    --------
    >>> integers(8, 42, 1, 7)
    array([5, 2, 1, 4, 4, 2, 1, 1])
    """
    dtype = np.dtype(np.int64 if dtype is None else dtype)
    if low is None and high is None:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) + 1
    elif high is None:
        low, high = 0, low
    assert low is not None
    assert high is not None
    span = int(high) - int(low)
    at = indices(shape, offset, index)
    i, result = at.ravel(), np.zeros(at.size, np.uint64)
    waiting, attempt = np.arange(at.size), 0
    while waiting.size:
        upper, lower = _wide_product(double_words(key, INTEGERS, i[waiting], attempt), span)
        accepted = lower >= np.uint64(2**64 % span)
        result[waiting[accepted]] = upper[accepted]
        waiting, attempt = waiting[~accepted], attempt + 1
    result += np.uint64(int(low) % 2**64)  # modulo 2^64, and so is the conversion
    return result.reshape(at.shape).astype(dtype)
