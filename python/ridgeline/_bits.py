"""Bit sets in 64-bit words, one bit per element of an array: bit i % 64 of word i // 64.

Bits beyond the last element are 0.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ._environment import in_default_environment

Words: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def count(words: Words) -> int:
    """Return the number of set bits."""
    if hasattr(np, "bitwise_count"):
        return int(np.bitwise_count(words).sum(dtype=np.int64))
    return int(_ONES[words.view(np.uint8)].sum(dtype=np.int64))  # NumPy 1


@in_default_environment
def sparsity(size: int, count: int) -> float:
    """Return the fraction of bits that are 0; 0 if there are no bits."""
    return (size - count) / size if size else 0.0


def blank(size: int) -> Words:
    """Return uninitialized words of `size` bits."""
    return np.empty((size + 63) // 64, np.uint64)


def full(size: int) -> Words:
    """Return words of `size` bits that are 1."""
    return cut(np.full((size + 63) // 64, 2**64 - 1, np.uint64), size)


def cut(words: Words, size: int) -> Words:
    """Set the bits beyond the last element to 0, in place."""
    if size % 64:
        words[-1] &= np.uint64(2 ** (size % 64) - 1)
    return words


def packed(bools: Bools) -> Words:
    """Return the words of bools, in C order.

    Examples
    --------
    >>> packed(np.array([True, False, True]))
    array([5], dtype=uint64)
    """
    words = np.zeros((bools.size + 63) // 64, np.uint64)
    octets = np.packbits(bools, bitorder="little")
    words.view(np.uint8)[: octets.size] = octets
    return words


def unpacked(words: Words, size: int) -> Bools:
    """Return the bools of words.

    Examples
    --------
    >>> unpacked(np.array([5], np.uint64), 3)
    array([ True, False,  True])
    """
    bits = np.unpackbits(words.view(np.uint8), count=size, bitorder="little")
    return bits.view(np.bool_)
