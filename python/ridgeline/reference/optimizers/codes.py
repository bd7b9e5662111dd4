"""8-bit moments (Dettmers et al. 2022)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ridgeline.reference._tree import Array, Float64, float64

Codes: TypeAlias = npt.NDArray[np.uint8]

BLOCK = 256


def _bins(signed: bool) -> list[Float64]:
    """Return the edges of the bins of each decade, in units of the largest magnitude."""
    return [
        10.0 ** (i - 6) * np.linspace(0.1, 1.0, 2 ** (i if signed else i + 1) + 1) for i in range(7)
    ]


def dynamic_map(signed: bool) -> npt.NDArray[np.float32]:
    """Return the 256 values of an 8-bit moment, sorted: the dynamic tree quantization map.

    For i = 0 .. 6 the middles of 2^i bins of [10^(i - 7), 10^(i - 6)] with both signs, or of
    2^(i + 1) bins; and 0 and 1 (Dettmers 2016; Dettmers et al. 2022).

    Examples
    --------
    >>> dynamic_map(signed=True)[[0, 126, 127, 128, 255]].tolist()
    [-0.992968738079071, -5.499999815583578e-07, 0.0, 5.499999815583578e-07, 1.0]
    >>> dynamic_map(signed=False)[:2]
    array([0.00e+00, 3.25e-07], dtype=float32)
    """
    values = [0.0, 1.0]
    for edges in _bins(signed):
        middles = (edges[:-1] + edges[1:]) / 2
        values += [*middles, *(-middles if signed else ())]
    return np.sort(np.array(values)).astype(np.float32)


def codes_of(q: Float64, signed: bool) -> Codes:
    """Return the code of the bin that each number in [-1, 1] lies in; from 1 on, that of 1.

    What is below all bins has the code of 0, but of squares only 0 itself: a moment would be
    divided by eps alone.

    Examples
    --------
    >>> codes_of(np.array([-1.0, 0.0, 1e-9, 0.101, 1.0]), signed=True)
    array([  0, 127, 127, 191, 255], dtype=uint8)
    >>> codes_of(np.array([0.0, 1e-9, 0.101, 1.0]), signed=False)
    array([  0,   1, 127, 255], dtype=uint8)
    """
    edges = [edge for decade in _bins(signed) for edge in decade[:-1]]
    number = np.searchsorted([*edges, 1.0], np.abs(q), side="right")
    if signed:
        number = 127 + np.where(q < 0, -np.minimum(number, 127), number)
    else:
        number = np.maximum(number, q > 0)
    return number.astype(np.uint8)


def quantize(x: Array, signed: bool) -> tuple[Codes, npt.NDArray[np.float32]]:
    """Return the codes of x / absmax, and absmax.

    absmax is the largest magnitude of a block of 256 elements in C order. A block whose absmax is
    0 or subnormal has the code of 0.

    Examples
    --------
    >>> codes, scale = quantize(np.array([-2.0, 0.0, 2.0], np.float32), signed=True)
    >>> codes, scale
    (array([  0, 127, 255], dtype=uint8), array([2.], dtype=float32))
    """
    flat = float64(x).ravel()
    codes = np.zeros(flat.size, np.uint8)
    scales = np.zeros(-(-flat.size // BLOCK), np.float32)
    for b in range(scales.size):
        block = flat[b * BLOCK : (b + 1) * BLOCK]
        scales[b] = np.max(np.abs(block))
        q = block / float(scales[b]) if scales[b] >= 2.0**-126 else np.zeros(block.size)
        codes[b * BLOCK : (b + 1) * BLOCK] = codes_of(q, signed)
    return codes.reshape(x.shape), scales


def dequantize(codes: Codes, scales: npt.NDArray[np.float32], signed: bool) -> Float64:
    """Return the values of codes: the map's values times absmax.

    Examples
    --------
    >>> dequantize(np.array([0, 127, 255], np.uint8), np.array([2.0], np.float32), signed=True)
    array([-1.98593748,  0.        ,  2.        ])
    """
    of_element = np.repeat(float64(scales), BLOCK)[: codes.size].reshape(codes.shape)
    return np.asarray(float64(dynamic_map(signed))[codes] * of_element)
