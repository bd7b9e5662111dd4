"""Statistical checks that an implementation's random results are the same computation.

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

from ..peers.settings import BLOCK, HIGH, alpha_constants, block_seeds

Array = npt.NDArray[Any]
Fair = Callable[[Sequence[Array], Sequence[Array], Sequence[Any]], bool]

_ERRORS = 6.0  # standard errors that a sum may be off
_ERRORS_OF_MANY = 8.0  # and the worst of up to 10**6 sums
# Relative errors of a scale and a product, each rounded to float32, or of results in half types.
_ROUNDED = {"float32": 3e-7, "float64": 3e-7, "bfloat16": 2**-7, "float16": 2**-10}
_SUM = 7  # and of a sum of numbers up to 10, so many times that


def dropout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are 0, or x / (1 - p)."""
    p, kept = float(numbers[0]), made[0] != 0
    return _is_chosen(kept, p) and _is_close(made[0][kept], _scaled(read[0], p)[kept])


def shared_dropout(axes: int) -> Fair:
    """Return what tells the same where elements share the choice of their place on the first axes.

    Two axes: channels of (N, C, H, W), or tokens; one axis: samples.
    """

    def fair(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
        p, kept = float(numbers[0]), made[0] != 0
        return _is_chosen_together(kept, axes, p) and _is_close(
            made[0][kept], _scaled(read[0], p)[kept]
        )

    return fair


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
    return _is_chosen(kept, p) and _is_close_sum(made[0][kept], wanted[kept])


def _alpha_kept(read: Array, made: Array, p: float) -> tuple[Array, bool]:
    """Return which are a x + A a p; and whether they are that."""
    a, shift, dropped = alpha_constants(p)
    kept = ~np.isclose(made.astype(np.float64), dropped, rtol=_ROUNDED[made.dtype.name], atol=0)
    wanted = a * read.astype(np.float64) + shift
    return kept, _is_close_sum(made[kept], wanted[kept])


def alpha_dropout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are a x + A a p, or A a p - A a."""
    p = float(numbers[0])
    kept, is_close = _alpha_kept(read[0], made[0], p)
    return is_close and _is_chosen(kept, p)


def feature_alpha_dropout(
    read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]
) -> bool:
    """The same, where the elements of all axes but the first two share a choice."""
    p = float(numbers[0])
    kept, is_close = _alpha_kept(read[0], made[0], p)
    return is_close and _is_chosen_together(kept, 2, p)


def alpha_dropout_backward(
    read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]
) -> bool:
    """Elements are 0, or a dy."""
    p, kept = float(numbers[0]), made[0] != 0
    wanted = alpha_constants(p)[0] * read[0].astype(np.float64)
    return _is_chosen(kept, p) and _is_close(made[0][kept], wanted[kept])


def drop_block(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Whole blocks are 0; others are x, times the number of elements over that of those kept.

    A corner is 0 just where the one block is that covers it, an element further in where any of
    BLOCK^2 blocks is; of those so far apart none shares a block.
    """
    (x,), (y,) = read, made
    drop = y == 0
    seeds = block_seeds(x.shape, float(numbers[0]))
    inner = x.shape[2] - BLOCK + 1, x.shape[3] - BLOCK + 1
    windows = [
        (..., slice(i, i + inner[0]), slice(j, j + inner[1]))
        for i in range(BLOCK)
        for j in range(BLOCK)
    ]
    whole = np.logical_and.reduce([drop[each] for each in windows])
    covered = np.zeros_like(drop)
    for each in windows:
        covered[each] |= whole
    corners = drop[:, :, :: x.shape[2] - 1, :: x.shape[3] - 1]
    apart = drop[:, :, BLOCK - 1 : inner[0] : BLOCK, BLOCK - 1 : inner[1] : BLOCK]
    scale = drop.size / max(1, drop.size - np.count_nonzero(drop))
    return (
        np.array_equal(drop, covered)
        and _is_chosen(~corners, seeds)
        and _is_chosen(~apart, 1 - (1 - seeds) ** BLOCK**2)
        and _is_close(y[~drop], x[~drop].astype(np.float64) * scale)
    )


def zoneout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are the old ones or the new ones."""
    new, old = read
    kept = made[0] == new
    return bool(np.all(made[0][~kept] == old[~kept])) and _is_chosen(kept, float(numbers[0]))


def zoneout_gradients(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Each element of dy is in one gradient, and 0 in the other."""
    (dy,), (d_new, d_old) = read, made
    kept = d_new.reshape(dy.shape) != 0
    return (
        np.array_equal(d_new.reshape(dy.shape), np.where(kept, dy, 0))
        and np.array_equal(d_old.reshape(dy.shape), np.where(kept, 0, dy))
        and _is_chosen(kept, float(numbers[0]))
    )


def patches(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """The first row of each sample, and a fixed number of the others, in order and unchanged."""
    (x,), p = read, float(numbers[0])
    kept = int((x.shape[1] - 1) * (1 - p))
    rows = made[0].reshape(len(x), -1, x.shape[2])
    if rows.shape[1] != 1 + kept:
        return False
    places = np.argmax(x[:, None, :, 0] == rows[:, :, None, 0], axis=2)
    if not np.array_equal(np.take_along_axis(x, places[:, :, None], axis=1), rows):
        return False
    if np.any(places[:, 0] != 0) or np.any(np.diff(places, axis=1) <= 0):
        return False
    chosen = np.zeros(x.shape[:2], np.bool_)
    np.put_along_axis(chosen, places, True, axis=1)
    share = kept / (x.shape[1] - 1)
    of_each = (chosen[:, 1:].sum(axis=0) - share * len(x)) / math.sqrt(share * (1 - share) * len(x))
    # Choices in a sample depend on each other a little: none is looked at twice.
    return bool(np.all(np.abs(of_each) <= _ERRORS)) and _is_uncorrelated(
        (chosen[:, 1].astype(np.float64) - share) / math.sqrt(share * (1 - share))
    )


def kept_bits(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Bits are True with probability 1 - p."""
    return _is_chosen(made[0], float(numbers[0]))


def bernoulli(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Bools are True with probability p."""
    return made[0].dtype == np.bool_ and _is_chosen(~made[0], float(numbers[0]))


def integers(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Integers are uniform on [0, HIGH): each value as often, and independently."""
    x = made[0].ravel()
    if x.dtype != np.int64 or np.any((x < 0) | (x >= HIGH)):
        return False
    counts, mean = np.bincount(x, minlength=HIGH), x.size / HIGH
    # chi^2 has mean HIGH - 1 and variance 2 (HIGH - 1)
    excess = np.sum((counts - mean) ** 2) / mean - (HIGH - 1)
    return bool(abs(excess) <= _ERRORS * math.sqrt(2 * (HIGH - 1))) and _is_uncorrelated(
        (x - (HIGH - 1) / 2) / math.sqrt((HIGH**2 - 1) / 12)
    )


def random_shrink(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are w - strength u w, u uniform on [0, 1)."""
    strength = float(numbers[0])
    u = (1 - made[0] / read[0].astype(np.float64)) / strength
    return _is_uniform(u, 1e-6 / strength)


def gaussian_noise(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements less x are normal, of mean 0 and that standard deviation."""
    return _is_normal((made[0] - read[0].astype(np.float64)) / float(numbers[0]))


def gaussian_dropout(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements over x are normal, of mean 1 and variance p / (1 - p)."""
    p = float(numbers[0])
    return _is_normal((made[0] / read[0].astype(np.float64) - 1) / math.sqrt(p / (1 - p)))


def normal(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are normal, of mean 0 and variance 1."""
    return _is_normal(made[0])


def uniform(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Elements are uniform on [0, 1)."""
    return _is_uniform(made[0].astype(np.float64), 0.0)


def _is_uniform(u: Array, error: float) -> bool:
    u = u.ravel()
    return (
        bool(np.all((u >= -error) & (u < 1 + error)))
        and _has_moments(u, {k: 1 / (k + 1) for k in range(1, 9)})
        and _is_uncorrelated((u - 0.5) * math.sqrt(12))
    )


def pruned(read: Sequence[Array], made: Sequence[Array], numbers: Sequence[Any]) -> bool:
    """Exactly round(p n) are pruned, all equally likely: as many of each block, independently."""
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


def _is_close(got: Array, wanted: Array, terms: int = 0) -> bool:
    rounded = _ROUNDED[got.dtype.name]
    return bool(np.allclose(got.astype(np.float64), wanted, rtol=rounded, atol=terms * rounded))


def _is_close_sum(got: Array, wanted: Array) -> bool:
    return _is_close(got, wanted, _SUM)


def _is_chosen_together(kept: Array, axes: int, p: float) -> bool:
    """Whether elements at one place on the first axes share a choice."""
    groups = kept.reshape(math.prod(kept.shape[:axes]), -1)
    return bool(np.all(groups == groups[:, :1])) and _is_chosen(groups[:, 0], p)


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
    are the inverse transform of the power spectrum of z and half as many zeros, or more: a power of
    2 is transformed fastest.
    """
    n = z.size
    padded = 2 ** (n + n // 2).bit_length()
    sums = np.fft.irfft(np.abs(np.fft.rfft(z, padded)) ** 2, padded)[1 : n // 2]
    errors = np.sqrt(n - np.arange(1, n // 2))
    return bool(np.all(np.abs(sums) <= _ERRORS_OF_MANY * errors))
