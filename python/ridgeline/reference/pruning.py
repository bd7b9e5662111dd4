"""Which elements pruning keeps, the scores it ranks by, and how much it prunes where and when.

One array in, one array of bool out, True for kept; a list in, a list out. Scores are compared in
float64. The lowest go, and of equal ones the last: a lower flat index is kept first, an earlier
array before a later one. NaN is the largest, equal to inf; -0 equals 0.

A structure says what goes as a whole: ``("block", shape, ord)``, ``("channels", axis, ord)``; or
``("nm", n, m, axis)``, n kept of every m. What ``mask`` prunes stays pruned, is counted, and is 0
in the norm of its unit and of its array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ridgeline.reference._tree import (
    Array,
    Float64,
    Tree,
    arrays_of,
    float64,
    rounded,
    store,
)
from ridgeline.reference.random import (
    CHOICE,
    HALF,
    LOW,
    TIES,
    Bools,
    Words,
    _key_words,
    philox4x32,
    words,
)

Arrays: TypeAlias = "Array | Sequence[Array]"
Masks: TypeAlias = "Bools | Sequence[Bools]"
Fractions: TypeAlias = "float | Sequence[float]"
Structure: TypeAlias = "tuple[Any, ...] | None"
Integers: TypeAlias = npt.NDArray[np.intp]

# --- ranks ----------------------------------------------------------------------------------------


def order_of_going(scores: npt.ArrayLike, alive: npt.ArrayLike = True) -> Integers:
    """Return the order, along the last axis, in which elements go; first those that are not alive.

    Examples
    --------
    >>> order_of_going([np.nan, -0.0, 0.0, np.inf, -1.0])
    array([4, 2, 1, 3, 0])
    """
    scores = np.asarray(scores, np.float64)
    key = np.where(np.isnan(scores), np.inf, scores)
    places = np.broadcast_to(np.arange(scores.shape[-1]), scores.shape)
    return np.lexsort((-places, key, np.broadcast_to(alive, scores.shape)), axis=-1)


def _without(scores: Float64, alive: Bools, gone: int) -> Bools:
    kept = np.ones(scores.shape, np.bool_)
    kept[order_of_going(scores, alive)[:gone]] = False
    return kept


def shares(
    scores: Sequence[Float64],
    alive: Sequence[Bools],
    gone: int,
    low: Sequence[int],
    high: Sequence[int],
) -> list[int]:
    """Return how many go of each array when all are ranked together, from low to high of each.

    The first ``low`` of each array go, those after the first ``high`` stay, and of those between
    the first of all arrays go: no other choice within the bounds removes lower ranks.

    Examples
    --------
    >>> one, two = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])
    >>> alive = [np.ones(3, bool), np.ones(2, bool)]
    >>> shares([one, two], alive, 3, [0, 0], [3, 2])
    [3, 0]
    >>> shares([one, two], alive, 3, [0, 0], [1, 2])
    [1, 2]
    """
    if not sum(low) <= gone <= sum(high):
        raise ValueError(f"sparsity: wants {gone} to go, of {sum(low)} to {sum(high)}")
    owner = np.repeat(np.arange(len(scores)), [s.size for s in scores])
    owner = owner[order_of_going(np.concatenate(scores), np.concatenate(alive))]
    place = np.zeros(owner.size, np.intp)  # in the order of its own array
    for i, s in enumerate(scores):
        place[owner == i] = np.arange(s.size)
    between = (place >= np.array(low)[owner]) & (place < np.array(high)[owner])
    more = np.bincount(owner[between][: gone - sum(low)], minlength=len(scores))
    return [int(n) for n in np.array(low) + more]


# --- structures -----------------------------------------------------------------------------------


def units(shape: Sequence[int], structure: Structure = None) -> tuple[Integers, int]:
    """Return the number of the unit of every element, and the number of units.

    Examples
    --------
    >>> units((3, 4), ("block", (2, 3), 2))
    (array([[0, 0, 0, 1],
           [0, 0, 0, 1],
           [2, 2, 2, 3]]), 4)
    >>> units((2, 3), ("channels", 1, 2))[0]
    array([[0, 1, 2],
           [0, 1, 2]])
    """
    if structure is None:
        return np.arange(math.prod(shape)).reshape(tuple(shape)), math.prod(shape)
    places = np.indices(tuple(shape))
    if 0 in shape:
        return np.zeros(tuple(shape), np.intp), 0
    if structure[0] == "channels":
        return places[structure[1]], shape[structure[1]]
    sides = (*(1,) * (len(shape) - len(structure[1])), *structure[1])
    number, count = np.zeros(tuple(shape), np.intp), 1
    for place, side, extent in zip(places, sides, shape, strict=True):
        grid = -(-extent // side)
        number, count = number * grid + place // side, count * grid
    return number, count


def unit_norms(x: Array, number: Integers, count: int, ord: float = 2) -> Float64:
    """Return the norm of every unit.

    Examples
    --------
    >>> unit_norms(np.array([3.0, 5.0, -4.0]), np.array([0, 1, 0]), 2)
    array([5., 5.])
    """
    size, at = np.abs(float64(x)).ravel(), number.ravel()
    largest = np.zeros(count)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, at, size)
    if np.isinf(ord):
        return largest
    fine = np.isfinite(largest) & (largest > 0)
    # dividing by a power of 2 near the largest is exact and keeps the powers in range
    scale = np.ldexp(1.0, np.frexp(np.where(fine, largest, 1.0))[1] - 1)
    with np.errstate(all="ignore"):
        sums = np.bincount(at, (size / scale[at]) ** ord, count)
        norms = np.sqrt(sums) if ord == 2 else sums ** (1 / ord)
        return np.where(fine, scale * norms, largest)


def signed_norms(x: Array, number: Integers, count: int, ord: float = 2) -> Float64:
    """Return the signed ord-th root of the sum of sign(x) |x|^ord over every unit.

    Examples
    --------
    >>> signed_norms(np.array([3.0, 5.0, -4.0]), np.array([0, 1, 0]), 2, 1)
    array([-1.,  5.])
    """
    x = float64(x)
    up = unit_norms(np.where(x < 0, 0.0, x), number, count, ord)
    down = unit_norms(np.where(x < 0, x, 0.0), number, count, ord)
    large, small = np.maximum(up, down), np.minimum(up, down)
    with np.errstate(all="ignore"):
        left = (1 - (small / large) ** ord) ** (1 / ord)
        value = np.copysign(large * left, up - down)
    return up - down if ord == 1 else np.where(large > 0, value, large)


def n_of_m(scores: Array, n: int, m: int, axis: int = -1, mask: Bools | None = None) -> Bools:
    """Keep the n highest of every m along an axis; a last group of r < m keeps min(n, r).

    Examples
    --------
    >>> n_of_m(np.array([1.0, 2.0, 2.0, 2.0, 9.0]), 2, 4).astype(int)
    array([0, 1, 1, 0, 1])
    """
    last = np.moveaxis(float64(scores), axis, -1)
    alive = np.ones(last.shape, np.bool_) if mask is None else np.moveaxis(mask, axis, -1)
    missing = -last.shape[-1] % m
    pad = [(0, 0)] * (last.ndim - 1) + [(0, missing)]
    groups = (*last.shape[:-1], -1, m) if last.size else (*last.shape[:-1], 0, m)
    padded = np.pad(last, pad).reshape(groups)
    present = np.pad(alive, pad).reshape(groups)
    kept = np.zeros(padded.shape, np.bool_)
    np.put_along_axis(kept, order_of_going(padded, present)[..., m - n :], True, -1)
    kept = (kept & present).reshape(*last.shape[:-1], -1 if last.size else last.shape[-1])
    return np.moveaxis(kept[..., : last.shape[-1]], -1, axis)


# --- selection ------------------------------------------------------------------------------------


def _each(value: Fractions, n: int) -> list[float]:
    return [float(value)] * n if np.ndim(value) == 0 else [float(v) for v in value]  # type: ignore[arg-type, union-attr]


def _factor(score: Float64, normalize: str) -> float:
    """Return what the scores of an array are divided by; not by 0, inf or NaN."""
    if normalize == "none":
        return 1.0
    norm = float(unit_norms(score, np.zeros(score.size, np.intp), 1)[0])
    if norm == 0 or not np.isfinite(norm):
        return 1.0
    return norm if normalize == "l2" else norm / math.sqrt(score.size)


def _going(of: str, fraction: float, size: int, before: int) -> int:
    """Return the number of units to prune, given that some were pruned before."""
    if of == "remaining":
        return before + round(fraction * (size - before))
    return max(before, round(fraction * size))


def _prune_groups(
    arrays: Arrays,
    alive: Sequence[Bools],
    chosen: Iterable[int],
    result: list[Bools],
    scores_of: Callable[[int, Array, Bools, Integers, int], Array],
    structure: tuple[Any, ...],
) -> None:
    """Write the masks of n of every m elements into the result."""
    _, kept, group, *axis = structure
    first = 0
    for i in chosen:
        score = scores_of(first, arrays[i], alive[i], *units(arrays[i].shape))
        score = np.asarray(score).reshape(arrays[i].shape)
        first += score.size
        result[i] = n_of_m(score, kept, group, axis[0] if axis else -1, alive[i])


def _prune(
    arrays: Arrays,
    scores_of: Callable[[int, Array, Bools, Integers, int], Array],
    sparsity: Fractions | None,
    scope: str,
    structure: Structure,
    mask: Masks | None,
    exclude: Iterable[int],
    normalize: str,
    of: str,
    min_sparsity: Fractions,
    max_sparsity: Fractions,
) -> Any:
    if isinstance(arrays, np.ndarray):
        given = None if mask is None else [np.asarray(mask)]
        settings = (scope, structure, given, exclude, normalize, of, min_sparsity, max_sparsity)
        return _prune([arrays], scores_of, sparsity, *settings)[0]
    n = len(arrays)
    alive = [np.ones(a.shape, np.bool_) for a in arrays] if mask is None else list(mask)
    result = [np.array(a) for a in alive]
    chosen = [i for i in range(n) if i not in set(exclude)]
    if structure is not None and structure[0] == "nm":
        _prune_groups(arrays, alive, chosen, result, scores_of, structure)
        return result

    numbers, scores, living, first = [], [], [], 0
    for i in chosen:
        number, count = units(arrays[i].shape, structure)
        live = np.zeros(count, np.bool_)
        np.logical_or.at(live, number.ravel(), alive[i].ravel())
        live |= np.bincount(number.ravel(), minlength=count) == 0  # units of no elements
        score = np.where(live, float64(scores_of(first, arrays[i], alive[i], number, count)), 0.0)
        scores.append(score / _factor(score, normalize) if scope == "global" else score)
        numbers.append(number)
        living.append(live)
        first += count
    sizes = [live.size for live in living]
    already = [int(np.sum(~live)) for live in living]

    if scope == "tensor":
        fractions = _each(0.0 if sparsity is None else sparsity, n)
        counts = [
            _going(of, fractions[i], *at) for i, *at in zip(chosen, sizes, already, strict=True)
        ]
    elif chosen:
        assert isinstance(sparsity, int | float)
        low, high = (
            [
                max(before, round(fractions[i] * size))
                for i, size, before in zip(chosen, sizes, already, strict=True)
            ]
            for fractions in (_each(min_sparsity, n), _each(max_sparsity, n))
        )
        gone = _going(of, sparsity, sum(sizes), sum(already))
        counts = shares(scores, living, gone, low, high)
    else:
        counts = []
    for i, number, score, live, count in zip(chosen, numbers, scores, living, counts, strict=True):
        result[i] = np.asarray(_without(score, live, count)[number] & alive[i])
    return result


def by_score(
    scores: Arrays,
    sparsity: Fractions | None = None,
    *,
    scope: str = "tensor",
    structure: Structure = None,
    mask: Masks | None = None,
    exclude: Iterable[int] = (),
    normalize: str = "none",
    of: str = "all",
    min_sparsity: Fractions = 0.0,
    max_sparsity: Fractions = 1.0,
    per_row: bool = False,
) -> Any:
    """Keep all but the round(sparsity * n) units of lowest score; of blocks `signed_norms`.

    ``scope="tensor"``: n of each array; "global": n of all arrays, ranked together, after each
    array's scores are divided by their norm ("l2") or root mean square ("rms"), with bounds on the
    sparsity of each array. ``of="remaining"``: a fraction of what ``mask`` keeps. Arrays of the
    indices ``exclude`` keep all, and are not counted. ``per_row``: each row is an array.

    Examples
    --------
    >>> by_score(np.array([-3.0, 1.0, 1.0, 2.0]), 0.5).astype(int)
    array([0, 1, 0, 1])
    >>> by_score([np.array([5.0, 1.0]), np.array([2.0, 3.0])], 0.5, scope="global")
    [array([ True, False]), array([False,  True])]
    """
    if per_row and isinstance(scores, np.ndarray):
        rows = None if mask is None else [np.asarray(mask)]
        return by_score([scores], sparsity, mask=rows, of=of, per_row=True)[0]
    if per_row:
        fractions, skip = _each(0.0 if sparsity is None else sparsity, len(scores)), set(exclude)
        alive = [np.ones(a.shape, np.bool_) for a in scores] if mask is None else list(mask)
        return [
            np.array(m)
            if i in skip or not len(a)
            else np.stack(by_score(list(a), f, mask=list(m), of=of))
            for i, (a, m, f) in enumerate(zip(scores, alive, fractions, strict=True))
        ]

    def scores_of(first: int, x: Array, alive: Bools, number: Integers, count: int) -> Array:
        if structure is None or structure[0] == "nm":
            return x.ravel()
        return signed_norms(np.where(alive, float64(x), 0.0), number, count, structure[2])

    bounds = (min_sparsity, max_sparsity)
    return _prune(
        scores, scores_of, sparsity, scope, structure, mask, exclude, normalize, of, *bounds
    )


def magnitude(arrays: Arrays, sparsity: Fractions | None = None, **keywords: Any) -> Any:
    """Keep all but the units of least magnitude: `by_score` of absolute values.

    Examples
    --------
    >>> magnitude(np.array([-3.0, 1.0, 0.5, 2.0]), 0.5).astype(int)
    array([1, 0, 0, 1])
    >>> w = np.array([[1.0, 2.0, 1.0], [0.0, 4.0, 9.0]])
    >>> magnitude(w, 0.5, structure=("channels", 0, 2))
    array([[False, False, False],
           [ True,  True,  True]])
    >>> magnitude(np.array([4.0, 1.0, 2.0, 3.0]), structure=("nm", 2, 4, -1)).astype(int)
    array([1, 0, 0, 1])
    """
    if isinstance(arrays, np.ndarray):
        return by_score(np.asarray(np.abs(arrays)), sparsity, **keywords)
    return by_score([np.asarray(np.abs(a)) for a in arrays], sparsity, **keywords)


def choice_words(key: Any, i: npt.ArrayLike) -> Words:
    """Return the 32 bits by which dropout chooses at every i: it drops where they are below 2^32 p.

    Examples
    --------
    >>> from ridgeline.reference.random import choice
    >>> i = np.arange(1000)
    >>> np.array_equal(choice_words(42, i) < 2**30, choice(0.25, 42, i))
    True
    """
    i = np.asarray(i, np.uint64)
    shift = ((i & np.uint64(3)) * np.uint64(8)).astype(np.uint32)
    byte = (words(key, CHOICE, i >> np.uint64(2)) >> shift) & np.uint32(255)
    rest = philox4x32((i & LOW, i >> HALF, TIES, 0), _key_words(key))[0] >> np.uint32(8)
    return np.asarray(byte << np.uint32(24) | rest)


def random(
    arrays: Arrays,
    sparsity: Fractions,
    key: Any,
    *,
    scope: str = "tensor",
    structure: Structure = None,
    mask: Masks | None = None,
    exclude: Iterable[int] = (),
    of: str = "all",
    min_sparsity: Fractions = 0.0,
    max_sparsity: Fractions = 1.0,
) -> Any:
    """Prune an exact number of units at random: those with the lowest 32 random bits.

    Units are numbered through all arrays, but those excluded, and have the bits of that element.

    Examples
    --------
    >>> random(np.zeros(4), 0.5, 56).astype(int)
    array([0, 1, 0, 1])
    """

    def scores_of(first: int, x: Array, alive: Bools, number: Integers, count: int) -> Array:
        return choice_words(key, first + np.arange(count))

    bounds = (min_sparsity, max_sparsity)
    return _prune(arrays, scores_of, sparsity, scope, structure, mask, exclude, "none", of, *bounds)


# --- scores ---------------------------------------------------------------------------------------


def taylor(w: Array, g: Array, *, squared: bool = False) -> Array:
    """Return |g w| or (g w)^2 (Molchanov et al. 2017, 2019).

    Examples
    --------
    >>> taylor(np.array([2.0, -1.0]), np.array([0.5, 3.0]), squared=True)
    array([1., 9.])
    """
    with np.errstate(all="ignore"):
        product = float64(g) * float64(w)
        return rounded(product * product if squared else np.abs(product), w.dtype)


def snip(w: Arrays, g: Arrays, *, normalize: bool = False) -> Any:
    """Return |g w|, with ``normalize`` divided by its sum over all arrays (Lee et al. 2019).

    Examples
    --------
    >>> snip(np.array([2.0, -1.0]), np.array([0.5, 3.0]), normalize=True)
    array([0.25, 0.75])
    """
    if isinstance(w, np.ndarray):
        return snip([w], [np.asarray(g)], normalize=normalize)[0]
    with np.errstate(all="ignore"):
        products = [np.abs(float64(b) * float64(a)) for a, b in zip(w, g, strict=True)]
        total = math.fsum(float(np.sum(p)) for p in products) if normalize else 1.0
        return [rounded(p / (total or 1.0), a.dtype) for p, a in zip(products, w, strict=True)]


def gradient(g: Array) -> Array:
    """Return |g|.

    Examples
    --------
    >>> gradient(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    return np.asarray(np.abs(g))


def movement_(scores: Tree, w: Tree, g: Tree, lr: float = 1.0) -> None:
    """Subtract lr g w from the scores, in place (Sanh, Wolf & Rush 2020).

    Examples
    --------
    >>> s = np.zeros(2)
    >>> movement_(s, np.array([1.0, -1.0]), np.array([2.0, 2.0]), 0.5)
    >>> s
    array([-1.,  1.])
    """
    for s, a, b in zip(arrays_of(scores), arrays_of(w), arrays_of(g), strict=True):
        with np.errstate(all="ignore"):
            store(s, float64(s) - lr * float64(b) * float64(a))


def wanda(w: Array, x_norm: Array) -> Array:
    """Return |w| times the norm of the input that each element of the last axis multiplies.

    Sun, Liu, Bair & Kolter (2024), "A simple and effective pruning approach for large language
    models": w is (out, in), and each row of the scores is ranked by itself.

    Examples
    --------
    >>> wanda(np.array([[1.0, -2.0]]), np.array([3.0, 0.5]))
    array([[3., 1.]])
    """
    with np.errstate(all="ignore"):
        return rounded(np.abs(float64(w)) * float64(x_norm), w.dtype)


def lamp(w: Array) -> Array:
    """Return w_u^2 / sum of w_v^2 over v >= u in ascending order of |w| (Lee et al. 2021).

    Of equal ones the lower index has the higher score. 0 is 0, also where all of the sum is. An
    infinity or NaN is infinite, and in no sum.

    Examples
    --------
    >>> lamp(np.array([2.0, 1.0, 0.0]))
    array([1. , 0.2, 0. ])
    """
    size = np.abs(float64(w).ravel())
    finite = np.isfinite(size)
    score = np.full(size.shape, np.inf)
    score[finite] = _lamp(size[finite])
    return rounded(score.reshape(w.shape), w.dtype)


def _lamp(size: Float64) -> Float64:
    order = np.lexsort((-np.arange(size.size), size))
    top = float(np.max(size, initial=0.0))
    if top > 0:
        size = np.ldexp(size, 1 - math.frexp(top)[1])  # so that squares stay in range
    square = np.square(size)
    with np.errstate(all="ignore"):
        tail = np.cumsum(square[order][::-1])[::-1]
        score = np.zeros(square.shape)
        score[order] = np.where(square[order] == 0, 0.0, square[order] / tail)
    return score


# --- budgets --------------------------------------------------------------------------------------


def uniform(
    shapes: Sequence[tuple[int, ...]], sparsity: float, exclude: Iterable[int] = ()
) -> list[float]:
    """Return the same sparsity for every shape, 0 for those excluded.

    Examples
    --------
    >>> uniform([(4, 4), (4,)], 0.5, exclude=[1])
    [0.5, 0.0]
    """
    skip = set(exclude)
    return [0.0 if i in skip else sparsity for i in range(len(shapes))]


def erk(
    shapes: Sequence[tuple[int, ...]],
    sparsity: float,
    exclude: Iterable[int] = (),
    power: float = 1.0,
) -> list[float]:
    """Return the sparsities of Erdős-Rényi-kernel: densities eps (sum(shape) / prod(shape))^power.

    Evci, Gale, Menick, Castro & Elsen (2020), "Rigging the lottery": while a density is above 1,
    the arrays with the largest become dense, and eps is what gives the total with the others.

    Examples
    --------
    >>> [round(s, 4) for s in erk([(4, 4), (8, 8)], 0.75)]  # densities of 2 to 1
    [0.5833, 0.7917]
    """
    skip = set(exclude)
    sparse = [i for i in range(len(shapes)) if i not in skip and 0 not in shapes[i]]
    size = {i: math.prod(shapes[i]) for i in sparse}
    raw = {i: (sum(shapes[i] or (1,)) / size[i]) ** power for i in sparse}
    left = (1 - sparsity) * sum(size.values())
    while sparse:
        eps = left / sum(raw[i] * size[i] for i in sparse)
        top = max(raw[i] for i in sparse)
        if eps * top <= 1:
            break
        left -= sum(size[i] for i in sparse if raw[i] == top)
        sparse = [i for i in sparse if raw[i] < top]
    return [1 - eps * raw[i] if i in sparse else 0.0 for i in range(len(shapes))]


# --- schedules ------------------------------------------------------------------------------------


def cubic(
    step: int, final: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> float:
    """Return the sparsity at a step: final + (initial - final) (1 - (t - t0) / (t1 - t0))^3.

    Zhu & Gupta (2017), "To prune, or not to prune"; t is the last multiple of ``every`` after
    begin.

    Examples
    --------
    >>> [cubic(step, 0.5, 10, 20, 5) for step in (9, 10, 14, 15, 20)]
    [0.0, 0.0, 0.0, 0.4375, 0.5]
    """
    if step < begin:
        return initial
    if step >= end:
        return final
    t = step - (step - begin) % every
    if t == begin:
        return initial
    return final + (initial - final) * (1 - (t - begin) / (end - begin)) ** 3
