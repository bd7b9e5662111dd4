"""Dropout in all its forms, without storing masks.

Whether an element is dropped depends only on the key and its index (in C order, plus ``offset``),
so the backward pass of dropout is the same call on the gradient::

    y = rl.dropout(x, 0.1, key)
    dx = rl.dropout(dy, 0.1, key)

It does not depend on dtype, strides, threads, instruction set or how a tensor is split: ``offset=``
continues one split along its first axis; ``shape=`` and ``index=`` name a slice of a larger array.

**How exact the probability is.** An element has 32 random bits and is dropped if they are below
T = floor(2**32 p), so exactly T of the 2**32 equally likely values drop it. Eight of the bits are
its byte of one stream of Philox; the other 24 are drawn from a second stream only if that byte
equals the upper byte of T: for one element in 256, and for none if p is a multiple of 1/256.

Functions take one array: NumPy, PyTorch on the CPU, JAX, or anything with ``__dlpack__``; float32,
float64, bfloat16 or float16; any strides. They return an array of the same library, or ``out``,
which may be the input. Only `patch_dropout` accepts a torch tensor that requires grad in grad mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from . import _bits, _core
from . import _checks as check
from ._numbering import Index, part_of
from .masks import Mask
from .random import Key, Shape, integers, keep_words

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._typing import ArrayT

__all__ = [
    "alpha_dropout",
    "alpha_dropout_backward",
    "drop_block",
    "drop_connect",
    "drop_path",
    "dropout",
    "dropout_add",
    "dropout_mask",
    "feature_alpha_dropout",
    "feature_alpha_dropout_backward",
    "gaussian_dropout",
    "gaussian_noise",
    "patch_dropout",
    "token_dropout",
    "zoneout",
    "zoneout_backward",
]

Axes: TypeAlias = "int | Sequence[int]"


def _shape(name: str, x: Any) -> tuple[int, ...]:
    if not hasattr(x, "shape"):
        raise TypeError(f"{name}: got {type(x).__name__}, wants one array")
    return tuple(x.shape)


def dropout(
    x: ArrayT,
    p: float,
    key: Key,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Zero elements with probability p and scale the others (Srivastava et al. 2014).

    ::

        y = x / (1 - p) with probability 1 - p, else 0

    The backward pass is the same call on dy. Autograd does not see the call, so a torch tensor that
    requires grad is refused; docs/dropout.md has the ``autograd.Function``. Dropped elements are
    exactly 0, even NaN and infinity; ``p=0`` copies every bit, ``p=1`` gives zeros. The factor
    1/(1 - p) is rounded to float32, for float64 to float64; half types are rounded once.

    Parameters
    ----------
    x : array
        Only read.
    p : float
        The probability of dropping, in [0, 1], exact to 2**-32 (see above).
    key : Key
        Use a new key for every call: ``key.fold_in(step)``.
    broadcast_axes : int or sequence of int
        Axes along which all elements are kept or dropped together: ``(2, 3)`` is spatial dropout of
        (N, C, H, W); ``1`` is locked (variational) dropout of (batch, time, features), and row
        dropout of an embedding. The index then counts in a mask with extent 1 along these axes.
    offset : int, default 0
        Added to the index of every element.
    shape : int or sequence of int, optional
        The shape of the whole array of which x is a part.
    index : slice, Ellipsis or tuple of them, optional
        The position of x in it: the result is that of ``dropout(whole, p, key)[index]``.
    out : array, optional
        Written. An array like x; may be x itself.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError
        If `key` is not a Key, `p` no number, or something no array of a supported dtype.
    ValueError
        If `p` is not in [0, 1], `offset` is negative, an axis, `shape` or `index` does not fit,
        or `out` has another shape, is read-only or overlaps x.
    RequiresGradError
        If x or `out` is a torch tensor that requires grad, outside ``torch.no_grad()`` and the
        ``forward`` of a ``torch.autograd.Function``.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> x = np.arange(1.0, 9.0)
    >>> key = rl.Key(128)
    >>> y = rl.dropout(x, 0.5, key)
    >>> y
    array([ 0.,  4.,  0.,  8.,  0., 12., 14., 16.])
    >>> np.array_equal(rl.dropout(x[4:], 0.5, key, offset=4), y[4:])
    True
    >>> batch = np.ones((2, 3, 4))
    >>> rl.dropout(batch, 0.5, key, broadcast_axes=1)[0]
    array([[0., 2., 0., 2.],
           [0., 2., 0., 2.],
           [0., 2., 0., 2.]])

    Uncertainty of a prediction by Monte Carlo dropout (Gal & Ghahramani 2016), one key per draw:

    >>> w = np.full((8, 1), 0.125)
    >>> draws = [(rl.dropout(x, 0.5, k) @ w).item() for k in key.split(1000)]
    >>> f"{np.mean(draws):.1f} +- {np.std(draws):.1f}"
    '4.5 +- 1.8'
    """
    return _core.dropout(x, p, key, offset, broadcast_axes, shape, index, out)


def dropout_mask(
    shape: Shape, p: float, key: Key, *, offset: int = 0, index: Index | None = None
) -> Mask:
    """Return the mask of `dropout`: one bit per element, True for kept.

    Parameters
    ----------
    shape : int or sequence of int
        The shape of the mask; with `index`, of the whole array of which it is a part. For
        ``broadcast_axes``, use extent 1 along these axes.
    p : float
        The probability of dropping, in [0, 1].
    key : Key
    offset : int, default 0
        Added to the index of every element.
    index : slice, int, Ellipsis or tuple of them, optional
        The part to return.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError
        If `key` is not a Key, or `p` is not a number.
    ValueError
        If `p` is not in [0, 1], `offset` is negative, or `index` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> mask = rl.dropout_mask((1000, 1000), 0.1, rl.Key(128))
    >>> mask.nbytes, f"{mask.sparsity:.3f}"
    (125000, '0.100')
    >>> y = rl.dropout(np.ones((1000, 1000)), 0.1, rl.Key(128))
    >>> np.array_equal(y != 0, mask.to_array())
    True
    """
    whole = check.shape("shape", shape)
    part, own = (None, whole) if index is None else part_of(whole, index)
    return Mask._of(own, keep_words(own, p, key, offset, part))


def dropout_add(
    x: ArrayT,
    residual: ArrayT,
    p: float,
    key: Key,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Return dropout(x) + residual in one pass.

    Bit-identical to the two separate steps in float32 and float64; half types round only the sum.
    The gradient of `residual` is dy, that of x is ``dropout(dy, p, key)``.

    Parameters
    ----------
    x, residual : array
        Only read. Both have the same shape and dtype.
    p : float
        The probability of dropping an element of x, in [0, 1].
    key : Key
    broadcast_axes, offset, shape, index : optional
        As for `dropout`.
    out : array, optional
        Written. An array like x; may be x or `residual` itself.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if `residual` differs from x in shape or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> x, r = np.arange(1.0, 5.0), np.full(4, 100.0)
    >>> rl.dropout_add(x, r, 0.5, rl.Key(128))
    array([100., 104., 100., 108.])
    """
    return _core.dropout_add(x, residual, p, key, offset, broadcast_axes, shape, index, out)


def alpha_dropout(
    x: ArrayT,
    p: float,
    key: Key,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Drop elements to SELU's lower limit, keeping mean 0 and variance 1 (Klambauer et al. 2017).

    ::

        y = a d + α' a p,  d = x if kept, else -α',  a = 1 / √((α'² p + 1) (1 - p))

    with α' = 1.7580993408473766, as in PyTorch. ``p=0`` copies, ``p=1`` gives zeros.

    Parameters
    ----------
    x : array
        Only read.
    p : float
        The probability of dropping, in [0, 1].
    key : Key
    broadcast_axes, offset, shape, index, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`.

    Examples
    --------
    >>> import ridgeline as rl
    >>> x = rl.random.normal(100_000, rl.Key(128))
    >>> y = rl.alpha_dropout(x, 0.2, rl.Key(2))
    >>> f"{abs(y.mean()):.1f} {y.var():.1f}"
    '0.0 1.0'
    """
    return _core.alpha_dropout(x, p, key, offset, broadcast_axes, shape, index, out)


def alpha_dropout_backward(
    dy: ArrayT,
    p: float,
    key: Key,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Return the gradient of `alpha_dropout`: a dy where kept, 0 where dropped.

    Parameters
    ----------
    dy : array
        Only read. The gradient of the result.
    p : float
        The same as in the forward call.
    key : Key
        The same as in the forward call.
    broadcast_axes, offset, shape, index, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.alpha_dropout_backward(np.ones(4), 0.5, rl.Key(128)).round(4)
    array([0.    , 0.8864, 0.    , 0.8864])
    """
    return _core.alpha_dropout_backward(dy, p, key, offset, broadcast_axes, shape, index, out)


def _feature_axes(name: str, x: Any) -> tuple[int, ...]:
    ndim = len(_shape(name, x))
    if ndim < 2:
        raise ValueError(f"{name}: got {ndim} axes, wants at least 2: (samples, channels, ...)")
    return tuple(range(2, ndim))


def feature_alpha_dropout(
    x: ArrayT, p: float, key: Key, *, offset: int = 0, out: ArrayT | None = None
) -> ArrayT:
    """Alpha dropout of whole channels, given by the first two axes.

    The same as `alpha_dropout` with all axes from the third on as ``broadcast_axes``.

    Parameters
    ----------
    x : array
        Only read. (samples, channels, ...).
    p : float
        The probability of dropping a channel, in [0, 1].
    key : Key
    offset, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if x has fewer than 2 axes.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.feature_alpha_dropout(np.ones((1, 2, 3)), 0.5, rl.Key(128)).round(4)
    array([[[-0.7792, -0.7792, -0.7792],
            [ 1.6656,  1.6656,  1.6656]]])
    """
    axes = _feature_axes("x", x)
    return alpha_dropout(x, p, key, broadcast_axes=axes, offset=offset, out=out)


def feature_alpha_dropout_backward(
    dy: ArrayT, p: float, key: Key, *, offset: int = 0, out: ArrayT | None = None
) -> ArrayT:
    """Return the gradient of `feature_alpha_dropout`.

    Parameters
    ----------
    dy : array
        Only read. The gradient of the result.
    p : float
        The same as in the forward call.
    key : Key
        The same as in the forward call.
    offset, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if dy has fewer than 2 axes.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.feature_alpha_dropout_backward(np.ones((1, 2, 2)), 0.5, rl.Key(128)).round(4)
    array([[[0.    , 0.    ],
            [0.8864, 0.8864]]])
    """
    axes = _feature_axes("dy", dy)
    return alpha_dropout_backward(dy, p, key, broadcast_axes=axes, offset=offset, out=out)


def gaussian_dropout(
    x: ArrayT,
    p: float,
    key: Key,
    *,
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Multiply by normal noise of mean 1 and variance p/(1 - p) (Wang & Manning 2013).

    ::

        y = x (1 + √(p / (1 - p)) z)

    The backward pass is the same call on dy. z is the result of `ridgeline.random.normal`.

    Parameters
    ----------
    x : array
        Only read.
    p : float
        In [0, 1).
    key : Key
    offset, shape, index, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if `p` is 1.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> y = rl.gaussian_dropout(np.ones(100_000), 0.2, rl.Key(128))
    >>> f"{y.mean():.1f} {y.var():.2f}"
    '1.0 0.25'
    """
    return _core.gaussian_dropout(x, p, key, offset, (), shape, index, out)


def gaussian_noise(
    x: ArrayT,
    std: float,
    key: Key,
    *,
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Add normal noise with mean 0; the gradient of x is dy.

    Parameters
    ----------
    x : array
        Only read.
    std : float
        The standard deviation, at least 0.
    key : Key
    offset, shape, index, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if `std` is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> y = rl.gaussian_noise(np.ones(100_000), 0.5, rl.Key(128))
    >>> f"{y.mean():.1f} {y.std():.1f}"
    '1.0 0.5'
    """
    return _core.gaussian_noise(x, std, key, offset, (), shape, index, out)


def drop_connect(
    w: ArrayT,
    p: float,
    key: Key,
    *,
    scale: bool = True,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Drop weights instead of activations (Wan et al. 2013).

    The backward pass is the same call on the gradient of the result.

    Parameters
    ----------
    w : array
        Only read.
    p : float
        The probability of dropping a weight, in [0, 1].
    key : Key
    scale : bool, default True
        Whether kept weights are multiplied by 1/(1 - p), so that the expected weight is w, as in
        AWD-LSTM (Merity et al. 2018). The original paper scales at inference instead.
    broadcast_axes, offset, shape, index, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.drop_connect(np.arange(1.0, 5.0), 0.5, rl.Key(128), scale=False)
    array([0., 2., 0., 4.])
    """
    scale = check.flag("scale", scale)
    return _core.drop_connect(w, p, key, scale, offset, broadcast_axes, shape, index, out)


def drop_path(
    x: ArrayT,
    p: float,
    key: Key,
    *,
    scale: Literal["expected", "actual", "none"] = "expected",
    offset: int = 0,
    out: ArrayT | None = None,
) -> ArrayT:
    """Drop whole samples of a residual branch: stochastic depth (Huang et al. 2016).

    Each index of the first axis is kept or dropped as a whole. The backward pass is the same call
    on dy. To skip the computation of dropped branches, call ``dropout_mask(len(x), p, key)`` first:
    it keeps the same samples.

    Parameters
    ----------
    x : array
        Only read. (samples, ...).
    p : float
        The probability of dropping a sample, in [0, 1].
    key : Key
    scale : {"expected", "actual", "none"}
        The factor of kept samples: 1/(1 - p); the number of samples divided by the number kept, so
        that the factors sum to the batch size; or 1.
    offset, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if x has no axes or `scale` has another value.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.drop_path(np.ones((4, 2)), 0.25, rl.Key(0), scale="actual")
    array([[1.33333333, 1.33333333],
           [0.        , 0.        ],
           [1.33333333, 1.33333333],
           [1.33333333, 1.33333333]])
    """
    if scale not in ("expected", "actual", "none"):
        raise ValueError(f"scale: got {scale!r}, wants 'expected', 'actual' or 'none'")
    own = _shape("x", x)
    if not own:
        raise ValueError("x: got no axes, wants (samples, ...)")
    axes = tuple(range(1, len(own)))
    if scale == "expected":
        return _core.dropout(x, p, key, offset, axes, None, None, out)
    factor = 1.0
    if scale == "actual":
        kept = _bits.count(keep_words(own[:1], p, key, offset, None))
        factor = own[0] / kept if kept else 0.0
    return _core.dropout_scaled(x, p, key, factor, offset, axes, None, None, out)


def drop_block(
    x: ArrayT,
    p: float,
    block: int | Sequence[int],
    key: Key,
    *,
    edges: Literal["full", "clipped"] = "full",
    per_channel: bool = True,
    out: ArrayT | None = None,
) -> ArrayT:
    """Drop contiguous blocks of feature maps (Ghiasi, Lin & Le 2018), in 2-D or 3-D.

    ::

        γ = min(1, p · Π Sᵢ / (Π kᵢ · Π (Sᵢ - kᵢ + 1)))

    Each position is a seed with probability γ (S: spatial extents, k: those of a block), and the
    block of every seed is dropped. Kept elements are multiplied by the number of elements divided
    by the number kept. ``p=0`` copies, ``p=1`` gives zeros. Backward is the same call on dy.

    Parameters
    ----------
    x : array
        Only read. (N, C, H, W) or (N, C, D, H, W).
    p : float
        The approximate fraction to drop (blocks overlap), in [0, 1].
    block : int or sequence of int
        The extent k of a block, for all spatial axes or for each; clipped to that of x.
    key : Key
    edges : {"full", "clipped"}
        "full": seeds only where a whole block fits, as in the paper and torchvision. "clipped":
        seeds everywhere, blocks centered on them and clipped at the edges, as in timm.
    per_channel : bool, default True
        Whether each channel has its own blocks (torchvision) or all channels share them (timm).
    out : array, optional
        Written: like x, and may be x.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if x has another number of axes, or `block` or `edges` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> (rl.drop_block(np.ones((1, 1, 5, 6)), 0.3, 3, rl.Key(4))[0, 0] > 0).astype(int)
    array([[1, 1, 1, 1, 1, 1],
           [1, 0, 0, 0, 1, 1],
           [1, 0, 0, 0, 1, 1],
           [1, 0, 0, 0, 1, 1],
           [1, 1, 1, 1, 1, 1]])
    """
    sizes = list(check.shape("block", block))
    if isinstance(block, Sequence) and len(sizes) != len(_shape("x", x)) - 2:
        raise ValueError(f"block: got {len(sizes)} sizes, wants one, or one per spatial axis")
    per_channel = check.flag("per_channel", per_channel)
    return _core.drop_block(x, p, sizes, key, edges, per_channel, out)


def zoneout(
    new: ArrayT,
    old: ArrayT,
    p: float,
    key: Key,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
    out: ArrayT | None = None,
) -> ArrayT:
    """Keep the old state of a recurrent cell with probability p (Krueger et al. 2017).

    Dropped elements take the old value, the others the new one, bit for bit and without scaling. At
    inference use the mean, ``p * old + (1 - p) * new``.

    Parameters
    ----------
    new, old : array
        Only read. Both have the same shape and dtype.
    p : float
        The probability of the old value, in [0, 1].
    key : Key
    broadcast_axes, offset, shape, index : optional
        As for `dropout`.
    out : array, optional
        Written. An array like `new`; may be `new` or `old` itself.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`, and if `old` differs from `new` in shape or dtype.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.zoneout(np.ones(4), np.zeros(4), 0.5, rl.Key(128))
    array([0., 1., 0., 1.])
    """
    return _core.zoneout(new, old, p, key, offset, broadcast_axes, shape, index, out)


def zoneout_backward(
    dy: ArrayT,
    p: float,
    key: Key,
    *,
    broadcast_axes: Axes = (),
    offset: int = 0,
    shape: Shape | None = None,
    index: Index | None = None,
) -> tuple[ArrayT, ArrayT]:
    """Return the gradients of `zoneout`, in one pass over dy.

    Parameters
    ----------
    dy : array
        Only read. The gradient of the result.
    p : float
        The same as in the forward call.
    key : Key
        The same as in the forward call.
    broadcast_axes, offset, shape, index : optional
        As for `dropout`.

    Returns
    -------
    d_new, d_old : array
        dy where the new or the old value was taken, respectively, and 0 elsewhere.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.zoneout_backward(np.ones(4), 0.5, rl.Key(128))
    (array([0., 1., 0., 1.]), array([1., 0., 1., 0.]))
    """
    return _core.zoneout_backward(dy, p, key, offset, broadcast_axes, shape, index)


def token_dropout(
    x: ArrayT, p: float, key: Key, *, offset: int = 0, out: ArrayT | None = None
) -> ArrayT:
    """Drop whole tokens: all features of a token, on the last axis, together.

    The same as `dropout` with ``broadcast_axes=-1``; for an embedding table (rows, features) it
    drops whole words. The backward pass is the same call on dy.

    Parameters
    ----------
    x : array
        Only read. (..., tokens, features).
    p : float
        The probability of dropping a token, in [0, 1].
    key : Key
    offset, out : optional
        As for `dropout`.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError, RequiresGradError
        As for `dropout`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.token_dropout(np.ones((3, 2)), 0.5, rl.Key(128))
    array([[0., 0.],
           [2., 2.],
           [0., 0.]])
    """
    return dropout(x, p, key, broadcast_axes=-1, offset=offset, out=out)


def patch_dropout(
    x: ArrayT,
    p: float,
    key: Key,
    *,
    num_prefix_tokens: int = 1,
    ordered: bool = True,
    offset: int = 0,
) -> tuple[ArrayT, npt.NDArray[np.int64]]:
    """Keep a random subset of the tokens of each sample: PatchDropout (Liu et al. 2023).

    Each sample keeps ``max(1, int((L - prefix) * (1 - p)))`` of its L - prefix patches: those with
    the smallest random integers, one drawn per patch. Nothing is scaled. x is indexed by its own
    library, so gradients flow through the result for a torch tensor or a JAX array.

    Parameters
    ----------
    x : array
        Only read. (B, L, ...): samples of L tokens.
    p : float
        The fraction of patches to drop, in [0, 1].
    key : Key
    num_prefix_tokens : int, default 1
        Tokens at the front that are always kept, such as the class token.
    ordered : bool, default True
        Whether kept tokens stay in their original order; if False, they are in random order.
    offset : int, default 0
        Added to the index of every patch.

    Returns
    -------
    y : array
        (B, kept, ...): a copy of the tokens kept.
    indices : ndarray of int64
        (B, kept): their positions in x.

    Raises
    ------
    TypeError
        If `key` is not a Key, or x is not an array.
    ValueError
        If `p` is not in [0, 1], or x has fewer than 2 axes or tokens.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> x = np.arange(12.0).reshape(2, 6)
    >>> y, indices = rl.patch_dropout(x, 0.5, rl.Key(128))
    >>> indices.shape
    (2, 3)
    >>> np.array_equal(y, np.take_along_axis(x, indices, axis=1))
    True
    """
    shape, probability = _shape("x", x), check.fraction("p", p)
    if len(shape) < 2:
        raise ValueError(f"x: got {len(shape)} axes, wants (samples, tokens, ...)")
    (prefix,) = check.shape("num_prefix_tokens", num_prefix_tokens)
    patches = shape[1] - prefix
    if patches < 1:
        raise ValueError(
            f"x: got {shape[1]} tokens, wants more than num_prefix_tokens, which is {prefix}"
        )
    kept = max(1, int(patches * (1 - probability)))
    draws = integers((shape[0], patches), key, dtype=np.uint64, offset=offset)
    chosen = np.argsort(draws, axis=1, kind="stable")[:, :kept]
    if ordered:
        chosen.sort(axis=1)
    front = np.broadcast_to(np.arange(prefix), (shape[0], prefix))
    indices = np.concatenate([front, chosen + prefix], axis=1)
    rows = np.arange(shape[0])[:, None]
    return cast("ArrayT", cast("Any", x)[rows, indices]), indices
