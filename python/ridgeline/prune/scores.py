"""Pruning scores: alternatives to ranking weights by magnitude.

Scores are arrays like the weights, to be passed to ``by_score``, which prunes the lowest::

    masks = rl.prune.by_score(rl.prune.scores.taylor(params, grads), 0.5)

Every function accepts one array, or a list, tuple, dict (nested) or iterable of them, and returns
the same containers: NumPy arrays, PyTorch CPU tensors or JAX arrays; float32, float64, bfloat16 or
float16; of any strides. The half types and float32 are computed in float32, float64 in float64, and
results are rounded once to the dtype of the weights. Scores of float16 weights are float32, so that
products neither overflow nor underflow, except for `gradient`, which is exact. With `out` they have
the dtype of the weights: float16 is infinite beyond 65504, and such scores rank as equal. NaN gives
NaN, which ranks highest. Results are not part of an autograd graph.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from .. import _checks as check
from .. import _core
from .._arrays import is_jax, numpy_view, torch_if
from .._environment import in_default_environment
from .._tree import fixed, is_array, lasting, leaves, located, matched, places, rebuilt
from .._typing import Tree

__all__ = ["gradient", "lamp", "movement_", "snip", "taylor", "wanda"]

TreeT = TypeVar("TreeT", bound=Tree)


def _matched(name: str, tree: Any, model_name: str, model: Any) -> list[Any]:
    """Return the arrays of a tree in the order of another tree of the same structure."""
    found = matched(model, tree, name, model_name)
    for place, array in zip(places(name, model), found, strict=True):
        if not is_array(array):
            raise TypeError(f"{place}: got {check.type_of(array)}, wants an array, as {model_name}")
    return found


def _mapped(function: Callable[..., Any], out: Any, exact: bool = False, **arguments: Any) -> Any:
    """Call a function of arrays and an output for each array of the containers.

    Everything is checked before the first call. Float16 is widened unless results are `exact`.
    """
    trees = {key: fixed(key, value) for key, value in arguments.items()}
    if out is not None:
        out = lasting("out", out)
    (name, first), *rest = trees.items()  # and one more at most
    arrays = located(name, first)
    columns = [leaves(first)]
    for key, argument in rest:
        columns.append(_matched(key, argument, name, first))
        if key == "x_norm":
            _check_norms(arrays, columns[-1])
    other, tree = rest[0] if rest else (None, None)
    _core.check_outputs(name, first, other, tree, other != "x_norm", out)
    if out is None:
        read = (lambda array: array) if exact else _widened
        return rebuilt(
            first, [function(*map(read, row), None) for row in zip(*columns, strict=True)]
        )
    for row in zip(*columns, matched(first, out, "out", name), strict=True):
        function(*row)
    return out


def _widened(array: Any) -> Any:
    """Return a float32 copy of a float16 array, or the array."""
    if str(array.dtype).removeprefix("torch.") != "float16":
        return array
    return array.detach().float() if torch_if(array) else array.astype(np.float32)


def _check_norms(places: list[tuple[str, str, Any]], norms: list[Any]) -> None:
    """Raise unless there is a norm for each input of every array."""
    for (at, _, w), norm in zip(places, norms, strict=True):
        place = "x_norm" + at.removeprefix("w")
        shape, inputs = tuple(norm.shape), tuple(w.shape)[-1:] or (1,)
        if shape != inputs:
            raise ValueError(f"{place}: got shape {shape}, wants {inputs}, the inputs of {at}")


def taylor(w: TreeT, g: Tree, *, squared: bool = False, out: Any = None) -> TreeT:
    """Score weights by the first-order change of the loss if they are pruned.

    ::

        |gᵢ wᵢ|, or (gᵢ wᵢ)² with squared=True

    Molchanov, Tyree, Karras, Aila & Kautz (2017); squared: Molchanov, Mallya, Tyree, Frosio & Kautz
    (2019). Both average over batches: add up the scores of several.

    Parameters
    ----------
    w : array or tree of arrays
        The weights. Only read.
    g : array or tree of arrays
        Their gradients, of the same structure, shapes and dtypes. Only read.
    squared : bool, default False
        Whether to square. In `out` of float16, squares below 6e-8 are 0.
    out : array or tree of arrays, optional
        Where to write, like `w`; may be `w` or `g`.

    Returns
    -------
    array or tree of arrays
        `out`, or new arrays in the containers of `w`.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or dtypes differ.
    ValueError
        If structures or shapes differ, or an array of `out` is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import scores
    >>> w, g = np.array([2.0, -1.0, 3.0]), np.array([0.5, 3.0, 0.0])
    >>> scores.taylor(w, g)
    array([1., 3., 0.])
    >>> scores.taylor({"w": w}, {"w": g}, squared=True)
    {'w': array([1., 9., 0.])}
    """

    def saliency(weights: Any, grads: Any, result: Any) -> Any:
        return _core.prune_saliency(weights, grads, bool(squared), result)

    return cast("TreeT", _mapped(saliency, out, w=w, g=g))


@in_default_environment
def snip(w: TreeT, g: Tree, *, normalize: bool = False, out: Any = None) -> TreeT:
    """Score connections by their sensitivity at initialization: SNIP (Lee, Ajanthan & Torr 2019).

    ::

        |gᵢ wᵢ|, or |gᵢ wᵢ| / Σ |gⱼ wⱼ| with normalize=True

    The sum is over all arrays, in float64; it does not change the ranks.

    Parameters
    ----------
    w : array or tree of arrays
        The weights. Only read.
    g : array or tree of arrays
        Their gradients on a batch, of the same structure, shapes and dtypes. Only read.
    normalize : bool, default False
        Whether to divide by the sum, unless it is 0: rounds a second time.
    out : array or tree of arrays, optional
        Where to write, like `w`; may be `w` or `g`.

    Returns
    -------
    array or tree of arrays
        `out`, or new arrays in the containers of `w`.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or dtypes differ.
    ValueError
        If structures or shapes differ, or an array of `out` is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import scores
    >>> w, g = [np.array([2.0]), np.array([-1.0])], [np.array([0.5]), np.array([3.0])]
    >>> scores.snip(w, g, normalize=True)
    [array([0.25]), array([0.75])]
    """
    result = taylor(w, g, out=out)
    if not normalize:
        return result
    total = _core.global_norm(result, 1)
    if total == 0:
        return result
    factors = []
    while math.isfinite(total) and not 1e-30 < total < 1e30:  # so that 1 / total is a float32
        factors.append(2.0**100 if total < 1 else 2.0**-100)
        total *= factors[-1]
    factors.append(1 / total)
    arrays = leaves(result)
    if any(is_jax(array) for array in arrays):
        for factor in factors:
            arrays = [array * factor for array in arrays]
        return cast("TreeT", rebuilt(result, arrays))
    for factor in factors:
        _core.scale_(arrays, factor)
    return result


def gradient(g: TreeT, out: Any = None) -> TreeT:
    """Score weights by the magnitude of their gradients, by which RigL grows weights.

    Parameters
    ----------
    g : array or tree of arrays
        Only read.
    out : array or tree of arrays, optional
        Where to write, like `g`; may be `g`.

    Returns
    -------
    array or tree of arrays
        `out`, or new arrays in the containers of `g`.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or dtypes differ.
    ValueError
        If structures or shapes differ, or an array of `out` is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import scores
    >>> scores.gradient([np.array([-2.0, 1.0])])
    [array([2., 1.])]
    """
    return cast("TreeT", _mapped(_core.prune_magnitudes, out, exact=True, g=g))


def movement_(scores: Tree, w: Tree, g: Tree, lr: float = 1.0) -> None:
    """Add a step to movement scores, in place (Sanh, Wolf & Rush 2020).

    ::

        sᵢ ← sᵢ - lr · gᵢ wᵢ

    Scores are signed: those of weights that move toward 0 decrease, and are pruned first.

    Parameters
    ----------
    scores : array or tree of arrays
        Written. Zeros before the first step.
    w, g : array or tree of arrays
        Only read. Weights and their gradients, with the structure, shapes and dtypes of `scores`.
        None in `g` stands for a missing gradient and is skipped.
    lr : float, default 1
        The learning rate.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, dtypes differ, or `lr` is
        not a number.
    ValueError
        If structures or shapes differ, `lr` is not finite, an array of `scores` is read-only or
        appears twice, or memory overlaps.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune.scores import movement_
    >>> total, w, g = np.zeros(2), np.array([1.0, -1.0]), np.array([2.0, 2.0])
    >>> movement_(total, w, g, lr=0.5)
    >>> movement_(total, w, g, lr=0.5)
    >>> total
    array([-2.,  2.])
    """
    rate = check.any_finite("lr", lr)
    _core.prune_movement(scores, w, g, rate)


def wanda(w: TreeT, x_norm: Any, out: Any = None) -> TreeT:
    """Score weights by magnitude times the norm of their input (Sun, Liu, Bair & Kolter 2024).

    ::

        |wᵢⱼ| · ‖xⱼ‖₂

    Wanda compares the weights of each output separately: ``by_score(scores, sparsity,
    per_row=True)``.

    Parameters
    ----------
    w : array or tree of arrays
        The weights (out, ..., in). Only read.
    x_norm : array or tree of arrays
        For each array of `w` one float32 or float64 array (in,): the norms, or root mean squares,
        of the inputs over the tokens of a calibration set. Only read.
    out : array or tree of arrays, optional
        Where to write, like `w`; may be `w`.

    Returns
    -------
    array or tree of arrays
        `out`, or new arrays in the containers of `w`.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or dtypes differ.
    ValueError
        If structures or shapes differ, or an array of `out` is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import scores
    >>> x = np.array([[3.0, 0.0], [4.0, 1.0]])  # two tokens
    >>> scores.wanda(np.array([[1.0, -2.0], [0.5, 4.0]]), np.linalg.norm(x, axis=0))
    array([[5. , 2. ],
           [2.5, 4. ]])
    """
    return cast("TreeT", _mapped(_wanda, out, w=w, x_norm=x_norm))


def _wanda(w: Any, x_norm: Any, out: Any) -> Any:
    if "float16" in str(getattr(x_norm, "dtype", "")):  # and bfloat16
        x_norm = numpy_view(x_norm).astype(np.float32)
    return _core.prune_wanda(w, x_norm, out)


def lamp(w: TreeT, out: Any = None) -> TreeT:
    """Score weights by their share of the remaining weights: LAMP (Lee, Park, Mo, Ahn & Shin 2021).

    ::

        w_u² / Σ w_v², v ≥ u

    with each array's weights in ascending order of magnitude; among equal ones the higher index
    comes first. Within an array the ranks are those of the magnitudes. The largest weight of each
    array scores 1, so with ``scope="global"`` no array is pruned entirely while others have more
    than one weight left. 0 scores 0. An infinity or NaN scores infinity, and is excluded from the
    sums of the others.

    Parameters
    ----------
    w : array or tree of arrays
        The weights. Only read.
    out : array or tree of arrays, optional
        Where to write, like `w`; may be `w`.

    Returns
    -------
    array or tree of arrays
        `out`, or new arrays in the containers of `w`.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or dtypes differ.
    ValueError
        If structures or shapes differ, or an array of `out` is read-only.

    Notes
    -----
    Squares and sums are float64, rounded once; an `out` of float16 has no scores below 6e-8, as
    large arrays need them. Sorting takes about 40 bytes of memory per element of the largest array.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import scores
    >>> scores.lamp([np.array([2.0, 1.0, 0.0]), np.array([1.0])])
    [array([1. , 0.2, 0. ]), array([1.])]
    """
    return cast("TreeT", _mapped(_lamp, out, w=w))


@in_default_environment
def _lamp(w: Any, out: Any) -> Any:
    result = _core.prune_magnitudes(w, out)  # of the library and dtype of w
    size = numpy_view(result)
    flat = size.astype(np.float64).ravel()
    endless = ~np.isfinite(flat)
    flat[endless] = 0
    order = flat.size - 1 - np.argsort(flat[::-1], kind="stable")
    top = flat[order[-1]] if flat.size else 0.0
    if top > 0:
        np.ldexp(flat, 1 - math.frexp(top)[1], out=flat)  # so that squares stay in range
    with np.errstate(all="ignore"):
        share = np.square(flat[order])
        tail = np.cumsum(share[::-1])[::-1]
        np.divide(share, tail, out=share, where=share != 0)
        flat[order] = share
        flat[endless] = np.inf
        values = flat.reshape(size.shape).astype(size.dtype)
    if is_jax(result):
        return sys.modules["jax.numpy"].asarray(values)
    size[...] = values
    return result
