"""Sparse training from the start: the number of kept weights is fixed, their positions change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .. import _checks as check
from .._environment import in_default_environment
from .._tree import lasting, leaves, rebuilt
from ..masks import Mask, _aligned
from ..random import Key, check_key
from . import budget as _budget
from ._plan import Plan, Request
from ._ranking import Scores
from ._select import magnitude, random
from ._training import PruneReport, States, Training

if TYPE_CHECKING:
    from .._tree import Exclude
    from .._typing import Gradients, Parameters
    from ._plan import Fractions

__all__ = ["SET", "RigL"]


class _Moving(Training):
    """Base of SET and RigL: the number of kept weights is constant, their positions change."""

    def __init__(
        self,
        params: Parameters,
        sparsity: Fractions,
        key: Key,
        fraction: float,
        every: int,
        end: int | None,
        exclude: Exclude,
        budget: str,
        states: States | None,
    ) -> None:
        check_key(key)
        check.one_of("erk", "uniform")("budget", budget)
        if not isinstance(exclude, str | int) and isinstance(exclude, Iterable):
            exclude = list(exclude)
        self._fraction = check.fraction("fraction", fraction)
        self._every = check.integer("every", every, 1)
        self._end = None if end is None else check.integer("end", end, 1)
        self._own_key = key
        params = lasting("params", params)
        fractions: Any = sparsity
        if not isinstance(sparsity, Sequence | Mapping) or isinstance(sparsity, str):
            share = getattr(_budget, budget)
            fractions = share(params, check.fraction("sparsity", sparsity), exclude)
        masks = random(params, fractions, key.fold_in(0), exclude=exclude)
        self._counts = [mask.count for mask in leaves(masks)]
        self._start(params, masks, states)

    def _key(self) -> Key | None:
        return self._own_key

    def _is_update(self, step: int) -> bool:
        return step > 0 and step % self._every == 0 and (self._end is None or step <= self._end)

    def _check_state(self, masks: list[Mask]) -> None:
        for i, (mask, count) in enumerate(zip(masks, self._counts, strict=True)):
            if mask.count != count:
                raise ValueError(
                    f"state['words'][{i}]: got {mask.count} elements kept, wants {count}"
                )

    def _fraction_at(self, step: int) -> float:
        """Return the fraction of the active weights that is dropped at a step."""
        return self._fraction

    def _survivors(self, params: Parameters, still: Sequence[bool]) -> Any:
        """Drop the active weights of smallest magnitude, except in arrays that are `still`.

        Dense arrays are skipped too: their weights would only grow again.
        """
        dropping = self._fraction_at(self._step)
        fractions = [
            0.0 if stays or mask.count == mask.size else dropping
            for stays, mask in zip(still, leaves(self._masks), strict=True)
        ]
        return magnitude(params, rebuilt(self._masks, fractions), mask=self._masks, of="remaining")

    def _candidates(self, survivors: Any) -> tuple[Any, Any]:
        """Return masks of the weights that may grow, and the fractions of them that must not."""
        candidates = ~survivors

        def staying(mask: Mask, count: int) -> float:
            missing = count - (mask.size - mask.count)
            return (mask.count - missing) / mask.count if mask.count else 0.0

        fractions = map(staying, leaves(candidates), self._counts)
        return candidates, rebuilt(candidates, fractions)

    def _moved(
        self,
        params: Parameters | None,
        grow: Callable[[Any, Any, Any], Any],
        still: Sequence[bool] | None = None,
    ) -> PruneReport:
        """Step: ``grow(params, candidates, fractions)`` returns the masks of grown weights."""
        own = self._params if params is None else lasting("params", params)
        before, pruned = self._masks, self._pruned
        masks: Any = before
        updated = self._is_update(self._step)
        if updated:
            survivors = self._survivors(own, still or [False] * len(self._counts))
            masks = survivors | grow(own, *self._candidates(survivors))
        # Weights that grow were pruned until now: they start at 0 even if the optimizer wrote them.
        left = masks & before if updated else before
        self._apply(left, self._of_states(left) if updated else self._state_masks, own)
        self._params = own
        if updated:
            self._set(masks)
        return self._report(updated, before, pruned)


class SET(_Moving):
    """Sparse evolutionary training: drop weak weights, grow random ones (Mocanu et al. 2018).

    Training is sparse from the start, and the number of active weights of each array is constant.
    At every update ``round(f a)`` of the a active weights of each array are dropped, those of
    smallest magnitude, and as many are grown, chosen at random among all inactive weights,
    including those just dropped.

    Parameters
    ----------
    params : array or tree of arrays
        Stored by reference and written at every step. See `Pruner` about replaced parameters. The
        constructor writes nothing: `apply_`, or else the first step, sets the initially pruned
        weights to 0.
    sparsity : float, or container of float like params
        The pruned fraction of all elements, which `budget` distributes; or that of each array. The
        initial masks are random.
    key : Key
        The key of all random choices: ``key.fold_in(0)`` for the initial masks,
        ``key.fold_in(step)`` for those of a step.
    fraction : float, default 0.3
        f, in [0, 1].
    every : int, default 100
        Masks are updated at steps `every`, 2 `every` and so on.
    end : int, optional
        The last step that may update the masks; unlimited by default.
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay dense, as for `prune.magnitude`.
    budget : {"erk", "uniform"}, default "erk"
        How a single `sparsity` is distributed: `budget.erk`, or the same for all arrays.
    states : list or dict of trees of arrays, optional
        State of the optimizer, stored by reference: each like `params`, such as ``[m, v]``. It is
        set to 0 where a weight is pruned, so it is also 0 where one has just grown.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, `key` is not a Key, or an
        argument has another type.
    ValueError
        If a fraction is not in [0, 1], `every` or `end` is below 1, `budget` has another value,
        `exclude` has a name that no array has, states are not like the parameters, or an array is
        read-only or appears twice.

    See Also
    --------
    RigL : Grows by gradient.

    Notes
    -----
    New weights start at 0. A weight that is dropped and grown in the same update keeps its value,
    as in the RigL authors' code for both methods; dense arrays therefore do not change. The SET
    paper drops the fraction of positive and of negative weights separately; here they are ranked
    together by magnitude.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = rl.random.normal((20, 30), rl.Key(1))
    >>> sparse = rl.prune.SET(w, 0.9, rl.Key(0), every=10)
    >>> sparse.apply_()
    >>> for _ in range(100):
    ...     w += 0.1
    ...     report = sparse.step()
    >>> int(np.count_nonzero(w)), report.updated
    (60, False)
    """

    def __init__(
        self,
        params: Parameters,
        sparsity: Fractions,
        key: Key,
        *,
        fraction: float = 0.3,
        every: int = 100,
        end: int | None = None,
        exclude: Exclude = None,
        budget: Literal["erk", "uniform"] = "erk",
        states: States | None = None,
    ) -> None:
        super().__init__(params, sparsity, key, fraction, every, end, exclude, budget, states)

    def step(self, params: Parameters | None = None) -> PruneReport:
        """Update the masks if it is time to, and set pruned weights to 0.

        Call it after the optimizer's step.

        Parameters
        ----------
        params : array or tree of arrays, optional
            Arrays to prune from now on, like the previous ones: for loops that create new arrays.

        Returns
        -------
        PruneReport

        Raises
        ------
        TypeError, ValueError
            If the arrays are not like the previous ones. Nothing has been written then, and the
            step does not count.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> sparse = rl.prune.SET(np.ones(10), 0.5, rl.Key(0), fraction=0.4, every=1)
        >>> sparse.step().updated, sparse.step().updated
        (False, True)
        """

        def grow(own: Any, candidates: Any, fractions: Any) -> Any:
            key = self._own_key.fold_in(self._step)
            return random(own, fractions, key, mask=candidates, of="remaining")

        return self._moved(params, grow)


class RigL(_Moving):
    """The rigged lottery: grow weights where the gradient is large (Evci et al. 2020).

    Training is sparse from the start, and the number of active weights of each array is constant.
    An update at step t drops ::

        round(a f / 2 (1 + cos(π t / end)))

    of the a active weights of each array, those of smallest magnitude, and grows as many: those
    with the largest gradients among all inactive weights, including those just dropped.

    Parameters
    ----------
    params : array or tree of arrays
        Stored by reference and written at every step. See `Pruner` about replaced parameters. The
        constructor writes nothing: `apply_`, or else the first step, sets the initially pruned
        weights to 0.
    sparsity : float, or container of float like params
        The pruned fraction of all elements, which `budget` distributes; or that of each array. The
        initial masks are random.
    key : Key
        ``key.fold_in(0)`` is the key of the initial masks.
    end : int
        The last step that may update the masks. The paper uses three quarters of the training.
    fraction : float, default 0.3
        f, in [0, 1].
    every : int, default 100
        Masks are updated at steps `every`, 2 `every` and so on.
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay dense, as for `prune.magnitude`.
    budget : {"erk", "uniform"}, default "erk"
        How a single `sparsity` is distributed: `budget.erk`, or the same for all arrays.
    states : list or dict of trees of arrays, optional
        State of the optimizer, stored by reference: each like `params`, such as ``[m, v]``. It is
        set to 0 where a weight is pruned, so it is also 0 where one has just grown.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, `key` is not a Key, or an
        argument has another type.
    ValueError
        If a fraction is not in [0, 1], `every` or `end` is below 1, `budget` has another value,
        `exclude` has a name that no array has, states are not like the parameters, or an array is
        read-only or appears twice.

    See Also
    --------
    SET : Grows at random.

    Notes
    -----
    New weights start at 0. A weight that is dropped and grown in the same update keeps its value,
    as in the authors' code; dense arrays therefore do not change. Among equal gradients, and among
    equal magnitudes, the lower index is preferred; a gradient of NaN is as large as infinity. The
    authors skip the optimizer's step at an update; here it has already been taken, with the same
    gradients.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w, target = np.array([3.0, 0.1, 2.0, 0.2]), np.array([3.0, 0.0, 2.0, 5.0])
    >>> sparse = rl.prune.RigL(w, 0.5, rl.Key(8), end=20, fraction=0.5, every=5)
    >>> sparse.apply_()
    >>> w
    array([3. , 0.1, 0. , 0. ])
    >>> for _ in range(50):
    ...     grad = w - target
    ...     w -= 0.2 * grad
    ...     report = sparse.step(grads=grad)
    >>> w.round(3)
    array([3., 0., 0., 5.])
    """

    def __init__(
        self,
        params: Parameters,
        sparsity: Fractions,
        key: Key,
        *,
        end: int,
        fraction: float = 0.3,
        every: int = 100,
        exclude: Exclude = None,
        budget: Literal["erk", "uniform"] = "erk",
        states: States | None = None,
    ) -> None:
        last = check.integer("end", end)
        super().__init__(params, sparsity, key, fraction, every, last, exclude, budget, states)

    @in_default_environment
    def _fraction_at(self, step: int) -> float:
        assert self._end is not None
        return self._fraction / 2 * (1 + math.cos(math.pi * step / self._end))

    def step(self, params: Parameters | None = None, *, grads: Gradients) -> PruneReport:
        """Update the masks if it is time to, and set pruned weights to 0.

        Call it after the optimizer's step.

        Parameters
        ----------
        params : array or tree of arrays, optional
            Arrays to prune from now on, like the previous ones: for loops that create new arrays.
        grads : array or tree of arrays, or None
            Like the parameters. Gradients of all weights, including the pruned ones, so before
            `mask_gradients_`. Only read if `will_update`; otherwise they may be None. In a list or
            dict, None stands for a missing gradient: the mask of that array does not change.

        Returns
        -------
        PruneReport

        Raises
        ------
        TypeError, ValueError
            If the arrays are not like the previous ones, the gradients are not like the arrays, or
            they are None at an update. Nothing has been written then, and the step does not count.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> sparse = rl.prune.RigL(np.ones(10), 0.5, rl.Key(0), end=100, every=1)
        >>> _ = sparse.step(grads=None)
        >>> sparse.will_update, sparse.step(grads=np.arange(10.0)).grown > 0
        (True, True)
        """
        still: list[bool] | None = None
        own_grads: list[Any] = []
        if grads is not None and self._is_update(self._step):
            own_grads = _aligned(self._masks, grads, "grads")
            still = [array is None for array in own_grads]

        def grow(own: Any, candidates: Any, fractions: Any) -> Any:
            if grads is None:
                raise TypeError(f"grads: got None, wants gradients at step {self._step}")
            # Weights without a gradient do not grow, so any array of their shape will do.
            params = _aligned(self._masks, own)
            found = [p if g is None else g for p, g in zip(params, own_grads, strict=True)]
            tree = rebuilt(self._masks, found)
            request = Request(mask=candidates, of="remaining")
            return Plan(Scores("grads", magnitude=True), tree, request).masks(fractions)

        return self._moved(params, grow, still)
