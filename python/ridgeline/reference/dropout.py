"""Dropout and its relatives, element by element from the choices of `reference.random`.

Arithmetic is that of ridgeline: float64 for float64, else float32, rounded once when it is
stored. Constants are computed in float64 and rounded to the type of the arithmetic. What is chosen
by select is chosen bit for bit: a dropped NaN is +0.

``offset``, ``shape`` and ``index`` are those of `reference.random`: x is ``whole[index]`` of a
tensor of ``shape``, and is treated as it would be there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ridgeline.reference._tree import Array
from ridgeline.reference.random import (
    INTEGERS,
    Bools,
    Index,
    choice,
    double_words,
    full_index,
    indices,
    standard_normal,
)

Axes = int | Iterable[int]

SELU = 1.7580993408473766  # scale times alpha of SELU (Klambauer et al. 2017)


def _arithmetic(x: Array) -> type[np.float64] | type[np.float32]:
    return np.float64 if x.dtype == np.float64 else np.float32


def _stored(values: Any, x: Array) -> Array:
    """Round results of the arithmetic to the dtype of x."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(x.dtype)


def _inverse(keep: float) -> float:
    return 1 / keep if keep > 0 else 0.0


def _kept(
    x: Array,
    p: float,
    key: Any,
    axes: Axes = (),
    offset: int = 0,
    shape: Sequence[int] | None = None,
    index: Index = None,
) -> Bools:
    """Return what is kept of x, of extent 1 along the axes that share a choice."""
    whole = x.shape if shape is None else tuple(shape)
    each = (axes,) if isinstance(axes, int) else tuple(axes)
    shared = {axis % len(whole) for axis in each}
    reduced = tuple(1 if axis in shared else n for axis, n in enumerate(whole))
    items = full_index(index, len(whole))
    items = tuple(slice(None) if axis in shared else item for axis, item in enumerate(items))
    return ~choice(p, key, indices(reduced, offset, items))


def dropout_mask(
    shape: Sequence[int], p: float, key: Any, *, offset: int = 0, index: Index = None
) -> Bools:
    """Return where dropout keeps.

    Examples
    --------
    >>> dropout_mask((4,), 0.5, 56)
    array([False,  True, False,  True])
    """
    return ~choice(p, key, indices(shape, offset, index))


def dropout(
    x: Array,
    p: float,
    key: Any,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Sequence[int] | None = None,
    index: Index = None,
) -> Array:
    """Return x / (1 - p) where kept, 0 where dropped with probability p (Srivastava et al. 2014).

    Elements that differ only along ``broadcast_axes`` share a choice.

    Examples
    --------
    >>> dropout(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, 56)
    array([0., 4., 0., 8.])
    """
    kept = _kept(x, p, key, broadcast_axes, offset, shape, index)
    if p == 0:
        return np.array(x)
    return _stored(np.where(kept, _scaled(x, _inverse(1 - p)), 0), x)


def _scaled(x: Array, factor: float) -> Array:
    number = _arithmetic(x)
    with np.errstate(all="ignore"):
        return np.asarray(x.astype(number) * number(factor))


def dropout_add(x: Array, residual: Array, p: float, key: Any, **keywords: Any) -> Array:
    """Return dropout(x) + residual; the sum is made before it is rounded to a half type.

    Examples
    --------
    >>> dropout_add(np.array([1.0, 2.0]), np.array([10.0, 20.0]), 0.5, 56)
    array([10., 24.])
    """
    kept = _kept(x, p, key, **_axes(keywords))
    number = _arithmetic(x)
    with np.errstate(all="ignore"):
        dropped_out = np.where(kept, _scaled(x, _inverse(1 - p)), number(0))
        return _stored(dropped_out + residual.astype(number), x)


def _axes(keywords: dict[str, Any]) -> dict[str, Any]:
    return {("axes" if k == "broadcast_axes" else k): value for k, value in keywords.items()}


def _alpha_constants(p: float) -> tuple[float, float, float]:
    """Return a, what is added to a kept element, and what a dropped one becomes."""
    a = 1 / math.sqrt((SELU * SELU * p + 1) * (1 - p))
    return a, SELU * a * p, SELU * a * p - SELU * a


def alpha_dropout(x: Array, p: float, key: Any, **keywords: Any) -> Array:
    """Return x with elements set to the limit of SELU, and mean and variance restored.

    Klambauer, Unterthiner, Mayr & Hochreiter (2017), "Self-normalizing neural networks":
    a (x m - A (1 - m)) + A a p for a mask m, A = 1.758...

    Examples
    --------
    >>> alpha_dropout(np.array([0.0, 0.0]), 0.5, 56).round(4)
    array([-0.7792,  0.7792])
    """
    kept = _kept(x, p, key, **_axes(keywords))
    if p in (0, 1):
        return np.array(x) if p == 0 else np.zeros_like(x)
    a, shift, dropped = _alpha_constants(p)
    number = _arithmetic(x)
    with np.errstate(all="ignore"):
        return _stored(np.where(kept, _scaled(x, a) + number(shift), number(dropped)), x)


def alpha_dropout_backward(dy: Array, p: float, key: Any, **keywords: Any) -> Array:
    """Return the gradient of alpha_dropout: a dy where kept, 0 where dropped.

    Examples
    --------
    >>> alpha_dropout_backward(np.ones(2), 0.5, 56).round(4)
    array([0.    , 0.8864])
    """
    kept = _kept(dy, p, key, **_axes(keywords))
    if p == 1:
        return np.zeros_like(dy)
    return _stored(np.where(kept, _scaled(dy, _alpha_constants(p)[0]), 0), dy)


def feature_alpha_dropout(x: Array, p: float, key: Any, *, offset: int = 0) -> Array:
    """Return alpha_dropout with one choice for each of the first two axes.

    Examples
    --------
    >>> feature_alpha_dropout(np.zeros((1, 2, 2)), 0.5, 56).round(4)
    array([[[-0.7792, -0.7792],
            [ 0.7792,  0.7792]]])
    """
    return alpha_dropout(x, p, key, broadcast_axes=range(2, x.ndim), offset=offset)


def feature_alpha_dropout_backward(dy: Array, p: float, key: Any, *, offset: int = 0) -> Array:
    """Return the gradient of feature_alpha_dropout.

    Examples
    --------
    >>> feature_alpha_dropout_backward(np.ones((1, 2, 1)), 0.5, 56).round(4)
    array([[[0.    ],
            [0.8864]]])
    """
    return alpha_dropout_backward(dy, p, key, broadcast_axes=range(2, dy.ndim), offset=offset)


def _noise(x: Array, key: Any, offset: int, shape: Sequence[int] | None, index: Index) -> Array:
    i = indices(x.shape if shape is None else shape, offset, index)
    return np.asarray(standard_normal(key, i, x.dtype)).astype(_arithmetic(x))


def gaussian_dropout(
    x: Array,
    p: float,
    key: Any,
    *,
    offset: int = 0,
    shape: Sequence[int] | None = None,
    index: Index = None,
) -> Array:
    """Return x times normal numbers of mean 1 and variance p / (1 - p) (Srivastava et al. 2014).

    Examples
    --------
    >>> gaussian_dropout(np.ones(2, np.float32), 0.5, 56)
    array([-0.97195065,  0.9580929 ], dtype=float32)
    """
    number, z = _arithmetic(x), _noise(x, key, offset, shape, index)
    with np.errstate(all="ignore"):
        factor = number(1) + number(math.sqrt(p / (1 - p))) * z
        return _stored(x.astype(number) * factor, x)


def gaussian_noise(
    x: Array,
    std: float,
    key: Any,
    *,
    offset: int = 0,
    shape: Sequence[int] | None = None,
    index: Index = None,
) -> Array:
    """Return x plus normal numbers of a standard deviation.

    Examples
    --------
    >>> gaussian_noise(np.ones(2, np.float32), 0.5, 56)
    array([0.01402467, 0.97904646], dtype=float32)
    """
    number, z = _arithmetic(x), _noise(x, key, offset, shape, index)
    with np.errstate(all="ignore"):
        return _stored(x.astype(number) + number(std) * z, x)


def drop_connect(
    w: Array,
    p: float,
    key: Any,
    *,
    scale: bool = True,
    offset: int = 0,
    shape: Sequence[int] | None = None,
    index: Index = None,
) -> Array:
    """Return dropout of weights; those kept stay as they are without ``scale`` (Wan et al. 2013).

    Examples
    --------
    >>> drop_connect(np.array([1.0, 2.0]), 0.5, 56, scale=False)
    array([0., 2.])
    """
    if scale:
        return dropout(w, p, key, offset=offset, shape=shape, index=index)
    return np.where(_kept(w, p, key, (), offset, shape, index), w, np.zeros((), w.dtype))


def drop_path(x: Array, p: float, key: Any, *, scale: str = "expected", offset: int = 0) -> Array:
    """Return whole samples dropped (stochastic depth, Huang et al. 2016).

    Kept samples are divided by 1 - p ("expected"), by the part of the batch that was kept
    ("actual"), or left as they are ("none").

    Examples
    --------
    >>> drop_path(np.ones((4, 1)), 0.25, 56, scale="actual").ravel().round(4)
    array([0., 2., 0., 2.])
    """
    kept = _kept(x, p, key, range(1, x.ndim), offset)
    if scale == "none":
        return np.where(kept, x, np.zeros((), x.dtype))
    if scale == "expected":
        return dropout(x, p, key, broadcast_axes=range(1, x.ndim), offset=offset)
    count = int(np.sum(kept))
    return _stored(np.where(kept, _scaled(x, len(x) / count if count else 0.0), 0), x)


def drop_block_mask(
    shape: Sequence[int],
    p: float,
    block: int | Sequence[int],
    key: Any,
    *,
    edges: str = "full",
    per_channel: bool = True,
) -> Bools:
    """Return where drop_block keeps, with one channel for all unless ``per_channel``.

    Examples
    --------
    >>> drop_block_mask((1, 1, 4, 4), 0.25, 2, 56)[0, 0].astype(int)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1],
           [0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    n, channels, *space = shape
    sizes = [block] * len(space) if isinstance(block, int) else list(block)
    sizes = [min(k, extent) for k, extent in zip(sizes, space, strict=True)]
    inside = [extent - k + 1 for k, extent in zip(sizes, space, strict=True)]
    lead = (n, channels if per_channel else 1)
    kept = np.ones((*lead, *space), bool)
    if kept.size == 0:
        return kept
    gamma = min(1.0, p * math.prod(space) / math.prod(sizes) / math.prod(inside))
    gamma = 1.0 if p == 1 else gamma
    seeds = choice(gamma, key, indices((*lead, *(inside if edges == "full" else space))))
    for sample, channel, *seed in np.argwhere(seeds):
        before = [0 if edges == "full" else (k - 1) // 2 for k in sizes]
        window = tuple(
            slice(max(s - b, 0), s - b + k) for s, b, k in zip(seed, before, sizes, strict=True)
        )
        kept[sample, channel][window] = False
    return kept


def drop_block(
    x: Array,
    p: float,
    block: int | Sequence[int],
    key: Any,
    *,
    edges: str = "full",
    per_channel: bool = True,
) -> Array:
    """Return x without blocks of pixels, the rest times (all / kept) (Ghiasi, Lin & Le 2018).

    Blocks are seeded with probability gamma, the paper's, so that about a part p is dropped.
    ``edges="full"``: a seed is the first element of a block that fits; "clipped": the middle of a
    block, anywhere, that is cut at the edges.

    Examples
    --------
    >>> drop_block(np.ones((1, 1, 2, 4)), 0.5, 2, 0)[0, 0]
    array([[4., 0., 0., 0.],
           [4., 0., 0., 0.]])
    """
    kept = drop_block_mask(x.shape, p, block, key, edges=edges, per_channel=per_channel)
    count = int(np.sum(kept))
    return _stored(np.where(kept, _scaled(x, kept.size / count if count else 0.0), 0), x)


def zoneout(new: Array, old: Array, p: float, key: Any, **keywords: Any) -> Array:
    """Return old where dropped, new where kept (Krueger et al. 2017).

    Examples
    --------
    >>> zoneout(np.array([1.0, 2.0]), np.array([10.0, 20.0]), 0.5, 56)
    array([10.,  2.])
    """
    return np.where(_kept(new, p, key, **_axes(keywords)), new, old)


def zoneout_backward(dy: Array, p: float, key: Any, **keywords: Any) -> tuple[Array, Array]:
    """Return the gradients of zoneout by new and by old.

    Examples
    --------
    >>> zoneout_backward(np.array([1.0, 2.0]), 0.5, 56)
    (array([0., 2.]), array([1., 0.]))
    """
    kept, zero = _kept(dy, p, key, **_axes(keywords)), np.zeros((), dy.dtype)
    return np.where(kept, dy, zero), np.where(kept, zero, dy)


def token_dropout(x: Array, p: float, key: Any, *, offset: int = 0) -> Array:
    """Return dropout with one choice for all features of a token.

    Examples
    --------
    >>> token_dropout(np.ones((2, 2)), 0.5, 56)
    array([[0., 0.],
           [2., 2.]])
    """
    return dropout(x, p, key, broadcast_axes=-1, offset=offset)


def patch_dropout(
    x: Array,
    p: float,
    key: Any,
    *,
    num_prefix_tokens: int = 1,
    ordered: bool = True,
    offset: int = 0,
) -> tuple[Array, Array]:
    """Return some of the tokens of each sample, and which (Liu, Matsoukas et al. 2023).

    The prefix (class token) and the max(1, int(n (1 - p))) of the n others with the smallest random
    numbers; in the order of those numbers unless ``ordered``.

    Examples
    --------
    >>> x = np.arange(5.0).reshape(1, 5, 1)
    >>> y, indices = patch_dropout(x, 0.5, 56)
    >>> y.ravel(), indices
    (array([0., 1., 3.]), array([[0, 1, 3]]))
    """
    batch, length = x.shape[:2]
    others = length - num_prefix_tokens
    count = min(others, max(1, int(others * (1 - p))))
    chosen = np.zeros((batch, num_prefix_tokens + count), np.int64)
    chosen[:, :num_prefix_tokens] = np.arange(num_prefix_tokens)
    numbers = double_words(key, INTEGERS, indices((batch, others), offset))
    smallest = np.argsort(numbers, axis=1, kind="stable")[:, :count]
    chosen[:, num_prefix_tokens:] = num_prefix_tokens + (
        np.sort(smallest, axis=1) if ordered else smallest
    )
    y = np.array([sample[rows] for sample, rows in zip(x, chosen, strict=True)], x.dtype)
    return y.reshape(chosen.shape + x.shape[2:]), chosen
