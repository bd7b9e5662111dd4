"""Pruning by magnitude, by score and at random: exact counts of the lowest elements."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any, overload

from .. import _checks as check
from .. import _core
from .._tree import fixed
from ._plan import Plan, Request, masks_of
from ._ranking import Random, Scores

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    from .._ranks import Communicator
    from .._tree import Exclude
    from .._typing import ManyArrays, Parameters, SupportsDLPack, Tree
    from ..masks import Mask, MaskSet
    from ..random import Key
    from ._plan import Fractions, Normalize, Of, Scope, Structure

    class _RandomOptions(TypedDict, total=False):
        scope: Scope
        structure: Structure
        mask: Mask | MaskSet | None
        exclude: Exclude
        of: Of
        min_sparsity: Fractions
        max_sparsity: Fractions
        comm: Communicator | None

    class _Options(_RandomOptions, total=False):
        normalize: Normalize

    class _ScoreOptions(_Options, total=False):
        per_row: bool


__all__ = ["by_score", "magnitude", "random", "random_shrink_"]

# The defaults, by which a call without options is known.
_LEAST, _MOST = 0.0, 1.0
_NO_OPTIONS = (None, None, None, "none", "all", _LEAST, _MOST, None)


def _without_options(
    name: str, params: Any, sparsity: object, scope: object, *options: object
) -> Mask | MaskSet | None:
    """Return the masks in one call of the core; None where a plan is needed."""
    plain = type(scope) is str and scope in ("tensor", "global")
    if not plain or type(sparsity) is not float or not 0 <= sparsity <= 1:
        return None
    if not all(map(is_, options, _NO_OPTIONS)):
        return None
    tree = fixed(name, params)
    found = _core.prune_fraction(name, tree, sparsity, name == "params", scope == "global")
    if found is None:
        return None
    return masks_of(tree, *found)


@overload
def magnitude(
    params: SupportsDLPack, sparsity: Fractions | None = None, **options: Unpack[_Options]
) -> Mask: ...
@overload
def magnitude(
    params: ManyArrays, sparsity: Fractions | None = None, **options: Unpack[_Options]
) -> MaskSet: ...
def magnitude(
    params: Parameters,
    sparsity: Fractions | None = None,
    *,
    scope: Scope = "tensor",
    structure: Structure = None,
    mask: Mask | MaskSet | None = None,
    exclude: Exclude = None,
    normalize: Normalize = "none",
    of: Of = "all",
    min_sparsity: Fractions = _LEAST,
    max_sparsity: Fractions = _MOST,
    comm: Communicator | None = None,
) -> Mask | MaskSet:
    r"""Prune the elements of smallest magnitude (Han et al. 2015), exactly round(sparsity * n).

    ``round(sparsity * n)`` of n elements are pruned (half to even): those with the smallest |w|.
    Among equal values the higher flat index, and the later array, is pruned first. -0 equals 0; NaN
    is as large as infinity. Nothing is written until `Mask.apply_` sets pruned elements to 0.

    Parameters
    ----------
    params : array or tree of arrays, or torch.nn.Module
        Only read. A module stands for the dict of its ``named_parameters()``.
    sparsity : float, or container of float like params
        The fraction to prune, in [0, 1]. For ``scope="tensor"`` it may be a container with one
        fraction per array, as from `budget`. Optional with `NM`.
    scope : {"tensor", "global"}
        ``"tensor"``: prune this fraction of each array. ``"global"``: of all arrays together; tied
        weights, the same memory in several places, are counted once and get the same mask.
    structure : NM, Block or Channels, optional
        The unit that is pruned as a whole; n is then the number of blocks or slices, which are
        ranked by their norm.
    mask : Mask or MaskSet, optional
        Elements pruned by it stay pruned, and count as 0 in norms. A block or slice counts as
        pruned if all of its elements are.
    exclude : str, int, iterable of them, or callable, optional
        Arrays that are not pruned and not counted: names, patterns such as ``"*.bias"``, or indices
        (joined by ``"/"`` or ``"."`` for nested containers), or a function of (name, array). Each
        name must exist, and each pattern must match at least one.
    normalize : {"none", "l2", "rms"}
        For ``scope="global"``: divide each array's scores by their 2-norm or their root mean square
        before they are compared. A norm that is 0, infinite or NaN is ignored.
    of : {"all", "remaining"}
        The base of the fraction `sparsity`: all elements, including those that `mask` prunes (which
        all stay pruned, even if they are more); or the elements that `mask` keeps, as in torch.
    min_sparsity, max_sparsity : float, or container of float like params
        For ``scope="global"``: bounds for each array. The total is exact.
    comm : object with ``allgather``, optional
        For ``scope="global"``: a communicator such as mpi4py's. The arrays of all ranks are ranked
        together, in rank order; the result has this rank's masks. Every rank must make the call.

    Returns
    -------
    Mask or MaskSet
        For one array a Mask; else a MaskSet like `params`.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or not a number.
    ValueError
        If a fraction is not in [0, 1], the bounds have no solution, `exclude` has a name that no
        array has, an array has too few axes, `mask` has another structure or shape, or arguments
        cannot be combined.

    Notes
    -----
    A sample brackets the threshold; one pass over the arrays writes the bits and collects the
    elements in the bracket. Additional memory is below 6 % of the weights, except for `Block` and
    `Channels`, which need 8 bytes per block or slice. If the sample misleads, or many elements are
    equal, counting passes narrow the bracket: at most 7 passes over the arrays, 10 for float64.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([0.5, -2.0, 0.1, 1.0])
    >>> mask = rl.prune.magnitude(w, 0.5)
    >>> mask.apply_(w)
    >>> w
    array([ 0., -2.,  0.,  1.])
    >>> params = {"big": np.array([5.0, 6.0]), "small": np.array([1.0, 7.0])}
    >>> rl.prune.magnitude(params, 0.5, scope="global").to_array()
    {'big': array([False,  True]), 'small': array([False,  True])}
    """
    found = _without_options("params", params, sparsity, scope, structure, mask, exclude, normalize,
                             of, min_sparsity, max_sparsity, comm)  # fmt: skip
    if found is not None:
        return found
    request = Request(
        scope=scope,
        structure=structure,
        mask=mask,
        exclude=exclude,
        normalize=normalize,
        of=of,
        min_sparsity=min_sparsity,
        max_sparsity=max_sparsity,
        comm=comm,
    )
    return Plan(Scores("params", magnitude=True), params, request).masks(sparsity)


@overload
def by_score(
    scores: SupportsDLPack, sparsity: Fractions | None = None, **options: Unpack[_ScoreOptions]
) -> Mask: ...
@overload
def by_score(
    scores: ManyArrays, sparsity: Fractions | None = None, **options: Unpack[_ScoreOptions]
) -> MaskSet: ...
def by_score(
    scores: Parameters,
    sparsity: Fractions | None = None,
    *,
    scope: Scope = "tensor",
    structure: Structure = None,
    mask: Mask | MaskSet | None = None,
    exclude: Exclude = None,
    normalize: Normalize = "none",
    of: Of = "all",
    min_sparsity: Fractions = _LEAST,
    max_sparsity: Fractions = _MOST,
    per_row: bool = False,
    comm: Communicator | None = None,
) -> Mask | MaskSet:
    """Prune the elements with the lowest scores, an exact number of them.

    Like `magnitude`, but for signed scores: the lowest are pruned. Blocks and slices are ranked by
    the norm of their scores, in which negative scores offset positive ones: with ``ord=1`` by their
    sum, else by the signed root of the sum of sign(s) |s|^ord.

    Parameters
    ----------
    scores : array or tree of arrays
        Only read. For example from `ridgeline.prune.scores`.
    sparsity, scope, structure, mask, exclude, normalize, of : optional
        As for `magnitude`.
    min_sparsity, max_sparsity : optional
        As for `magnitude`.
    per_row : bool, default False
        Rank each row (slice of axis 0) of each array separately, as Wanda does (Sun et al. 2024).
        Its reference code rounds the number to prune down; here it is rounded half to even.
    comm : optional
        As for `magnitude`.

    Returns
    -------
    Mask or MaskSet
        For one array a Mask; else a MaskSet like `scores`.

    Raises
    ------
    TypeError, ValueError
        As for `magnitude`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.prune.by_score(np.array([-3.0, 1.0, 1.0, 2.0]), 0.5).to_array()
    array([False,  True, False,  True])
    >>> scores = np.array([[1.0, 2.0], [30.0, 40.0]])
    >>> rl.prune.by_score(scores, 0.5, per_row=True).to_array()
    array([[False,  True],
           [False,  True]])
    """
    rows = check.flag("per_row", per_row)
    if not rows:
        found = _without_options("scores", scores, sparsity, scope, structure, mask, exclude,
                                 normalize, of, min_sparsity, max_sparsity, comm)  # fmt: skip
        if found is not None:
            return found
    request = Request(
        scope=scope,
        structure=structure,
        mask=mask,
        exclude=exclude,
        normalize=normalize,
        of=of,
        min_sparsity=min_sparsity,
        max_sparsity=max_sparsity,
        comm=comm,
    )
    plan = Plan(Scores("scores", magnitude=False), scores, request)
    return plan.masks_of_rows(sparsity) if rows else plan.masks(sparsity)


@overload
def random(
    params: SupportsDLPack,
    sparsity: Fractions | None = None,
    key: Key | None = None,
    **options: Unpack[_RandomOptions],
) -> Mask: ...
@overload
def random(
    params: ManyArrays,
    sparsity: Fractions | None = None,
    key: Key | None = None,
    **options: Unpack[_RandomOptions],
) -> MaskSet: ...
def random(
    params: Parameters,
    sparsity: Fractions | None = None,
    key: Key | None = None,
    *,
    scope: Scope = "tensor",
    structure: Structure = None,
    mask: Mask | MaskSet | None = None,
    exclude: Exclude = None,
    of: Of = "all",
    min_sparsity: Fractions = _LEAST,
    max_sparsity: Fractions = _MOST,
    comm: Communicator | None = None,
) -> Mask | MaskSet:
    """Prune an exact number of elements at random.

    Like `magnitude` with random scores of 32 bits, of which the lowest are pruned: element i (block
    or slice i) of all that are not excluded gets the bits that `ridgeline.dropout` draws for index
    i.

    Parameters
    ----------
    params : array or tree of arrays
        Only their shapes matter.
    sparsity : float, or container of float like params
        The fraction to prune, in [0, 1]. Optional with `NM`.
    key : Key
        Required. The same key gives the same masks for all values, instruction sets and thread
        counts.
    scope, structure, mask, exclude, of, min_sparsity, max_sparsity, comm : optional
        As for `magnitude`. With `comm`, elements are numbered in rank order.

    Returns
    -------
    Mask or MaskSet
        For one array a Mask; else a MaskSet like `params`.

    Raises
    ------
    TypeError, ValueError
        As for `magnitude`; a TypeError if `key` is no Key.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> mask = rl.prune.random(np.zeros((100, 10)), 0.3, rl.Key(0))
    >>> mask.size - mask.count
    300
    """
    request = Request(
        scope=scope,
        structure=structure,
        mask=mask,
        exclude=exclude,
        of=of,
        min_sparsity=min_sparsity,
        max_sparsity=max_sparsity,
        comm=comm,
    )
    return Plan(Random(key), params, request).masks(sparsity)


def random_shrink_(params: Tree, strength: float, key: Key) -> None:
    """Shrink every element by a random fraction of itself, in place: w -= strength * u * w.

    u is ``random.uniform(n, key)`` for the n elements of all arrays, in list order. 0 stays 0, NaN
    stays NaN, an infinity becomes NaN. A parameter update: torch parameters are written as under
    ``torch.no_grad()``.

    Parameters
    ----------
    params : array or tree of arrays
        Written.
    strength : float
        In [0, 1].
    key : Key
        Use a new key for each step.

    Raises
    ------
    TypeError
        If `key` is not a Key, or something is not an array of a supported dtype in CPU memory.
    ValueError
        If `strength` is not in [0, 1], or an array is read-only or appears twice.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.ones(3)
    >>> rl.prune.random_shrink_(w, 0.5, rl.Key(0))
    >>> bool(np.all((w > 0.5) & (w <= 1.0)))
    True
    """
    _core.random_shrink_(params, strength, key)
