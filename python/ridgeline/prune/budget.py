"""Sparsity budgets: how a total sparsity is distributed among the arrays of a model.

A budget is a container of fractions like the parameters, to be passed as ``sparsity=``::

    masks = rl.prune.magnitude(params, rl.prune.budget.erk(params, 0.9))

``params`` is one array or a list, tuple, dict (nested) or iterable of them; only the shapes are
read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import _checks as check
from .._environment import in_default_environment
from .._tree import excluded, fixed, located, rebuilt

if TYPE_CHECKING:
    from .._tree import Exclude
    from .._typing import Tree

__all__ = ["erk", "uniform"]


@in_default_environment
def uniform(params: Tree, sparsity: float, exclude: Exclude = None) -> Any:
    """Give every array the same sparsity, and excluded arrays 0.

    Parameters
    ----------
    params : array or tree of arrays
        Only their shapes are read.
    sparsity : float
        In [0, 1].
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay dense: names, patterns such as "*.bias" or indices, joined by "/" or "."
        for nested containers ("block/0"; "block" for everything in it), or a function of (name,
        array).

    Returns
    -------
    float or tree of float
        The sparsity of each array, in the containers of `params`.

    Raises
    ------
    TypeError
        If something is not an array, `sparsity` is not a number, or `exclude` has another type.
    ValueError
        If `sparsity` is not in [0, 1], or `exclude` has a name that no array has.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import budget
    >>> budget.uniform({"w": np.ones((4, 4)), "b": np.ones(4)}, 0.5, exclude="b")
    {'w': 0.5, 'b': 0.0}
    """
    fraction, tree = check.fraction("sparsity", sparsity), fixed("params", params)
    named = [(path, array) for _, path, array in located("params", tree)]
    return rebuilt(tree, [0.0 if out else fraction for out in excluded(exclude, named)])


@in_default_environment
def erk(params: Tree, sparsity: float, exclude: Exclude = None, power: float = 1.0) -> Any:
    """Give larger arrays a higher sparsity: Erdős-Rényi-Kernel (Evci et al. 2020).

    The density of an array with the extents n is ::

        ε (Σ nᵢ / Π nᵢ)^power

    where ε is chosen such that the pruned fraction of all elements is `sparsity`. Arrays for which
    this exceeds 1 are dense, and ε compensates for them. For a matrix (out, in) the density is
    proportional to (out + in) / (out in), as for the random graphs of SET (Mocanu et al. 2018).

    Parameters
    ----------
    params : array or tree of arrays
        Only their shapes are read. An array without axes counts as an array of one element.
    sparsity : float
        The pruned fraction of all elements that are not excluded, in [0, 1].
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay dense and are not counted, as for `uniform`.
    power : float, default 1
        At least 0: 0 is uniform; larger values make small arrays denser.

    Returns
    -------
    float or tree of float
        The sparsity of each array, in the containers of `params`; 0 for excluded arrays.

    Raises
    ------
    TypeError
        If something is not an array, `sparsity` or `power` is not a number, or `exclude` has
        another type.
    ValueError
        If `sparsity` is not in [0, 1], `power` is not a finite number of at least 0, or `exclude`
        has a name that no array has.

    Notes
    -----
    After rounding to whole elements, the total is exact to half an element per array. The original
    code rounds down.

    Examples
    --------
    >>> import numpy as np
    >>> from ridgeline.prune import budget
    >>> params = {"conv": np.ones((16, 8, 3, 3)), "head": np.ones((10, 16)), "bias": np.ones(10)}
    >>> {name: round(s, 3) for name, s in budget.erk(params, 0.8, exclude="bias").items()}
    {'conv': 0.878, 'head': 0.239, 'bias': 0.0}
    """
    fraction, tree = check.fraction("sparsity", sparsity), fixed("params", params)
    exponent = check.non_negative("power", power)
    named = [(path, array) for _, path, array in located("params", tree)]
    shapes = [tuple(array.shape) for _, array in named]
    out = excluded(exclude, named)
    size = [math.prod(shape) for shape in shapes]
    sparse = {i for i in range(len(shapes)) if size[i] and not out[i]}
    ratio = {i: sum(shapes[i] or (1,)) / size[i] for i in sparse}
    left = (1 - fraction) * sum(size[i] for i in sparse)
    density = dict.fromkeys(range(len(shapes)), 1.0)
    while sparse:
        top = max(ratio[i] for i in sparse)
        raw = {i: (ratio[i] / top) ** exponent for i in sparse}
        epsilon = left / math.fsum(raw[i] * size[i] for i in sparse)
        dense = {i for i in sparse if epsilon * raw[i] > 1}
        if not dense:
            density.update({i: epsilon * raw[i] for i in sparse})
            break
        left -= sum(size[i] for i in dense)
        sparse -= dense
    return rebuilt(tree, [1.0 - density[i] for i in range(len(shapes))])
