"""Whether what an implementation drew at random is the same computation.

Peers draw other numbers than ridgeline. Here is what each operation promises for any of them: which
values are possible, and sums that lie within some standard errors of what they should be. Functions
take the arrays that were read, those that came out, and the numbers of the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Fair = Callable[[Sequence[Array], Sequence[Array], Sequence[Any]], bool]

_SELU = 1.7580993408473766  # scale times alpha of SELU
_ERRORS = 6.0  # standard errors that a sum may be off
_ERRORS_OF_MANY = 8.0  # and the worst of up to 10**6 sums
_ROUNDED = 3e-7  # relative: a scale and a product, each rounded to float32
_SUMMED = 2e-6  # and a sum of numbers up to 10


def alpha_constants(p: float) -> tuple[float, float, float]:
    """Return a and A a p, the factor and the shift of what is kept, and A a p - A a."""
    a = 1 / math.sqrt((_SELU * _SELU * p + 1) * (1 - p))
    return a, _SELU * a * p, _SELU * a * p - _SELU * a


def dropout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are 0, or x / (1 - p)."""
    p, kept = float(numbers[0]), made[0] != 0
    return _is_chosen(kept, p) and _is_close(made[0][kept], _scaled(read[0], p)[kept])


def dropout_channels(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """The same, where the elements of all axes but the first two share a choice."""
    p, kept = float(numbers[0]), made[0] != 0
    channels = kept.reshape(kept.shape[0] * kept.shape[1], -1)
    return (
        bool(np.all(channels == channels[:, :1]))
        and _is_chosen(channels[:, 0], p)
        and _is_close(made[0][kept], _scaled(read[0], p)[kept])
    )


def dropout_and_gradient(
    read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]
) -> bool:
    """The gradient is 0 exactly where the result is, else dy / (1 - p)."""
    (x, dy), (y, dx) = read, made
    return (
        dropout([x], [y], numbers)
        and np.array_equal(y != 0, dx != 0)
        and dropout([dy], [dx], numbers)
    )


def dropout_add(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are the residual, or that and x / (1 - p)."""
    x, residual = read
    p, kept = float(numbers[0]), made[0] != residual
    wanted = _scaled(x, p) + residual.astype(np.float64)
    return _is_chosen(kept, p) and _is_close(made[0][kept], wanted[kept], _SUMMED)


def alpha_dropout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are a x + A a p, or A a p - A a."""
    p = float(numbers[0])
    a, shift, dropped = alpha_constants(p)
    kept = np.abs(made[0] - dropped) > _SUMMED
    wanted = a * read[0].astype(np.float64) + shift
    return _is_chosen(kept, p) and _is_close(made[0][kept], wanted[kept], _SUMMED)


def gaussian_dropout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements over x are normal, of mean 1 and variance p / (1 - p)."""
    p = float(numbers[0])
    return _is_normal((made[0] / read[0].astype(np.float64) - 1) / math.sqrt(p / (1 - p)))


def normal(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are normal, of mean 0 and variance 1."""
    return _is_normal(made[0])


def uniform(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are uniform on [0, 1)."""
    u = made[0].astype(np.float64).ravel()
    return (
        bool(np.all((u >= 0) & (u < 1)))
        and _has_moments(u, {k: 1 / (k + 1) for k in range(1, 9)})
        and _is_uncorrelated((u - 0.5) * math.sqrt(12))
    )


def pruned(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Exactly round(p n) go, and none sooner than others: as many of each block, independently."""
    p, kept = float(numbers[0]), made[0].ravel()
    n = kept.size
    if n - np.count_nonzero(kept) != round(p * n):
        return False
    share = np.count_nonzero(kept) / n
    for block in (2**k for k in range(6, 16)):
        counts = kept[: n // block * block].reshape(-1, block).sum(axis=1)
        # hypergeometric: of n elements so many, without replacement
        variance = block * share * (1 - share) * (n - block) / (n - 1)
        if np.any(np.abs(counts - block * share) > _ERRORS * math.sqrt(variance)):
            return False
    return _is_chosen(kept, p)


def stepped(
    before: Sequence[Array], got: Sequence[Array], wanted: Sequence[Array], tolerance: float
) -> bool:
    """The arrays moved as wanted, but for errors of that part of the way, in the 2-norm."""
    if [x.size for x in got] != [x.size for x in wanted]:
        return False
    start, end, right = (np.concatenate([*map(_float64, x)]) for x in (before, got, wanted))
    return bool(np.linalg.norm(end - right) <= tolerance * np.linalg.norm(right - start))


def _float64(x: Array) -> npt.NDArray[np.float64]:
    return np.asarray(x).astype(np.float64).ravel()


def _scaled(x: Array, p: float) -> Array:
    return x.astype(np.float64) / (1 - p)


def _is_close(got: Array, wanted: Array, absolute: float = 0.0) -> bool:
    return bool(np.allclose(got, wanted, rtol=_ROUNDED, atol=absolute))


def _is_chosen(kept: Array, p: float) -> bool:
    """Whether choices have probability 1 - p and are independent."""
    z = (kept.ravel() - (1 - p)) / math.sqrt(p * (1 - p))
    return _is_small(z) and _is_uncorrelated(z)


def _is_normal(z: Array) -> bool:
    z = z.astype(np.float64).ravel()
    # E z^k = (k - 1)!! for even k
    return _has_moments(z, {1: 0, 2: 1, 3: 0, 4: 3, 6: 15, 8: 105}) and _is_uncorrelated(z)


def _has_moments(x: Array, wanted: dict[int, float]) -> bool:
    """Whether the means of x^k are as wanted, by the wanted means of x^2k."""
    return all(
        _is_small((x**k - mean) / math.sqrt(wanted[2 * k] - mean**2))
        for k, mean in wanted.items()
        if 2 * k in wanted
    )


def _is_small(z: Array) -> bool:
    """Whether the sum of uncorrelated numbers of mean 0 and variance 1 is what it may be."""
    return bool(abs(np.sum(z)) <= _ERRORS * math.sqrt(z.size))


def _is_uncorrelated(z: Array) -> bool:
    """Whether numbers of mean 0 and variance 1 are, at all distances up to half of them.

    A repeated row or block correlates at its length. Wiener & Khinchin: the sums of z_i z_(i + d)
    are the inverse transform of the power spectrum of z and as many zeros.
    """
    n = z.size
    sums = np.fft.irfft(np.abs(np.fft.rfft(z, 2 * n)) ** 2, 2 * n)[1 : n // 2]
    errors = np.sqrt(n - np.arange(1, n // 2))
    return bool(np.all(np.abs(sums) <= _ERRORS_OF_MANY * errors))
