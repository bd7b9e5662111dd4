"""Sparse training from the start: masks of a constant count, whose connections move."""

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
    """Masks of a constant count, whose connections move."""

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
        """Return the part of the active weights that is dropped at a step."""
        return self._fraction

    def _survivors(self, params: Parameters, still: Sequence[bool]) -> Any:
        """Drop the active weights of least magnitude, but none of an array that is `still`.

        Those of a dense array would grow again.
        """
        dropping = self._fraction_at(self._step)
        fractions = [
            0.0 if stays or mask.count == mask.size else dropping
            for stays, mask in zip(still, leaves(self._masks), strict=True)
        ]
        return magnitude(params, rebuilt(self._masks, fractions), mask=self._masks, of="remaining")

    def _candidates(self, survivors: Any) -> tuple[Any, Any]:
        """Return masks of what may grow, and of them the fractions that must not."""
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
        """Step: ``grow(params, candidates, fractions)`` returns the masks of what grows."""
        own = self._params if params is None else lasting("params", params)
        before, pruned = self._masks, self._pruned
        masks: Any = before
        updated = self._is_update(self._step)
        if updated:
            survivors = self._survivors(own, still or [False] * len(self._counts))
            masks = survivors | grow(own, *self._candidates(survivors))
        # What grows was pruned, so that it begins at 0 although the optimizer wrote to it.
        left = masks & before if updated else before
        self._apply(left, self._of_states(left) if updated else self._state_masks, own)
        self._params = own
        if updated:
            self._set(masks)
        return self._report(updated, before, pruned)


class SET(_Moving):
    r"""Sparse evolutionary training: weak connections go, random ones come (Mocanu et al. 2018).

    Training is sparse from the start, with exactly as many active weights in each array all along.
    At every update :math:`\text{round}(f a)` of the a active weights of each array go, those of
    least magnitude, and as many come, chosen at random among all that did not stay.

    Parameters
    ----------
    params : array or tree of arrays
        Kept by reference and written at every step, as by `Pruner`, which also says what becomes of
        parameters that are replaced. The constructor writes nothing:
        `apply_` sets the first weights to 0 where they are pruned, else the first step does.
    sparsity : float, or container of float like params
        The fraction pruned of all elements, which `budget` shares out; or of each array. Which ones
        are the first is random.
    key : Key
        Of all that is random: ``key.fold_in(0)`` for the first masks, ``key.fold_in(step)`` for
        those of a step.
    fraction : float, default 0.3
        f, in [0, 1].
    every : int, default 100
        Updates are at steps `every`, 2 `every` and so on.
    end : int, optional
        No updates after this step. Without it there is no end.
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay dense, as for `prune.magnitude`.
    budget : {"erk", "uniform"}, default "erk"
        How `sparsity` is shared out if it is one number: `budget.erk`, or the same for all arrays.
    states : list or dict of trees of arrays, optional
        State of the optimizer, kept by reference: each like `params`, such as ``[m, v]``. 0 where a
        weight is pruned, and so 0 where one has just come.

    Raises
    ------
    TypeError
        If something is no array of a supported dtype in CPU memory, `key` no Key, or an argument of
        another type.
    ValueError
        If a fraction is not in [0, 1], `every` or `end` below 1, `budget` none of these, `exclude`
        has a name that no array has, states are not like the parameters, or an array is read-only
        or appears twice.

    See Also
    --------
    RigL : Grows by gradient.

    Notes
    -----
    New weights begin at 0. One that goes and comes in the same update goes on as it was, as in the
    RigL authors' code for both methods; arrays that are dense so do not change. The SET paper takes
    the fraction of positive and of negative weights apart, here they are taken together.

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
        """Move connections if it is time to, and set what is pruned to 0.

        Call it after the optimizer's step.

        Parameters
        ----------
        params : array or tree of arrays, optional
            Arrays to prune from now on, like those before: for loops that make new ones.

        Returns
        -------
        PruneReport

        Raises
        ------
        TypeError, ValueError
            If the arrays are not like those before. Nothing is written then, and the step does not
            count.

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
    r"""The rigged lottery: connections come where the gradient is large (Evci et al. 2020).

    Training is sparse from the start, with exactly as many active weights in each array all along.
    At an update at step t,

    .. math:: \text{round}\Bigl(a \frac{f}{2} \Bigl(1 + \cos \frac{\pi t}{t_{end}}\Bigr)\Bigr)

    of the a active weights of each array go, those of least magnitude, and as many come, those of
    the largest gradients among all that did not stay.

    Parameters
    ----------
    params : array or tree of arrays
        Kept by reference and written at every step, as by `Pruner`, which also says what becomes of
        parameters that are replaced. The constructor writes nothing:
        `apply_` sets the first weights to 0 where they are pruned, else the first step does.
    sparsity : float, or container of float like params
        The fraction pruned of all elements, which `budget` shares out; or of each array. Which ones
        are the first is random.
    key : Key
        ``key.fold_in(0)`` is that of the first masks.
    end : int
        :math:`t_{end}`, after which masks stay. The paper has three quarters of the training.
    fraction : float, default 0.3
        f, in [0, 1].
    every : int, default 100
        Updates are at steps `every`, 2 `every` and so on.
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay dense, as for `prune.magnitude`.
    budget : {"erk", "uniform"}, default "erk"
        How `sparsity` is shared out if it is one number: `budget.erk`, or the same for all arrays.
    states : list or dict of trees of arrays, optional
        State of the optimizer, kept by reference: each like `params`, such as ``[m, v]``. 0 where a
        weight is pruned, and so 0 where one has just come.

    Raises
    ------
    TypeError
        If something is no array of a supported dtype in CPU memory, `key` no Key, or an argument of
        another type.
    ValueError
        If a fraction is not in [0, 1], `every` or `end` below 1, `budget` none of these, `exclude`
        has a name that no array has, states are not like the parameters, or an array is read-only
        or appears twice.

    See Also
    --------
    SET : Grows at random.

    Notes
    -----
    New weights begin at 0. One that goes and comes in the same update goes on as it was, as in the
    authors' code; arrays that are dense so do not change. Of equal gradients, and of equal
    magnitudes, the lower index is preferred; a gradient of NaN is as large as infinity. The authors
    leave out the optimizer's step at an update; here it has been made, with the same gradients.

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
        """Move connections if it is time to, and set what is pruned to 0.

        Call it after the optimizer's step.

        Parameters
        ----------
        params : array or tree of arrays, optional
            Arrays to prune from now on, like those before: for loops that make new ones.
        grads : array or tree of arrays, or None
            Like the parameters, of all weights, those that are pruned too: not those of
            `mask_gradients_`. Read if `will_update`; else they may be None. In a list or dict, None
            stands for a gradient that is not there: of that array no connections move.

        Returns
        -------
        PruneReport

        Raises
        ------
        TypeError, ValueError
            If the arrays are not like those before, the gradients not like them, or None at an
            update. Nothing is written then, and the step does not count.

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
            # None of those without a gradient grows, so that any array of their shape will do.
            params = _aligned(self._masks, own)
            found = [p if g is None else g for p, g in zip(params, own_grads, strict=True)]
            tree = rebuilt(self._masks, found)
            request = Request(mask=candidates, of="remaining")
            return Plan(Scores("grads", magnitude=True), tree, request).masks(fractions)

        return self._moved(params, grow, still)
