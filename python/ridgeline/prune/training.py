"""Pruning during training: masks that follow a schedule, and masks whose positions change.

Each object is created with the parameters and stepped after the optimizer::

    pruner = rl.prune.Pruner(params, rl.prune.CubicSchedule(0.9, begin=500, end=5000, every=100))
    for batch in batches:
        ...
        optimizer.step()
        pruner.step()

Steps count from 0. Every step sets the pruned weights to 0, including updates from momentum.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from .. import _checks as check
from .._tree import lasting, leaves, matched
from ..masks import Mask, MaskSet, _lost
from ..random import Key, check_key
from ..structures import NM
from ._select import magnitude, random
from ._training import Method, PruneReport, Schedule, States, Training
from .moving import SET, RigL
from .schedules import _Ramp

if TYPE_CHECKING:
    from .._tree import Exclude
    from .._typing import Parameters
    from ._plan import Normalize, Scope, Structure

__all__ = ["SET", "PruneReport", "Pruner", "RigL"]


class Pruner(Training):
    """Prune during training, following a schedule (Zhu & Gupta 2017).

    At each update of the schedule, masks are recomputed for its sparsity. Every step sets pruned
    weights to 0.

    Parameters
    ----------
    params : array or tree of arrays, or torch.nn.Module
        Stored by reference and written at every step. The parameters of a module are looked up by
        name at each step, so that those assigned by ``module.weight = Parameter(...)`` or
        ``load_state_dict(assign=True)`` are pruned from then on, as are arrays replaced in a list
        or dict. The arrays of an iterator such as ``model.parameters()`` are stored, so later
        replacements are not seen: pass the module, or the new arrays to `step`. Pass tied weights
        once, as a module and its ``parameters()`` do.
    schedule : callable
        For example `CubicSchedule`: ``schedule(step)`` is the sparsity, and
        ``schedule.is_update(step)`` says whether masks are recomputed.
    method : {"magnitude", "random"} or callable, default "magnitude"
        How weights are selected for pruning. A function is called as
        ``method(params, sparsity, mask=masks)`` and returns a Mask, or a MaskSet like `params`;
        `mask` is None unless `incremental`.
    scope, structure, exclude, normalize : optional
        As for `prune.magnitude`. Not allowed if `method` is a function.
    key : Key, optional
        For ``method="random"``, which draws the same random numbers at every step: weights pruned
        at a lower sparsity are also pruned at a higher one.
    incremental : bool, default True
        Whether pruned weights stay pruned. If False, all weights compete at every update; pruned
        weights compete with 0 plus the optimizer's latest update.
    states : list or dict of trees of arrays, optional
        State of the optimizer, stored by reference: each like `params`, such as ``[m, v]``. It is
        also set to 0 where a weight is pruned.

    Raises
    ------
    TypeError
        If something is not an array of a supported dtype in CPU memory, or an argument has another
        type.
    ValueError
        If arguments cannot be combined, the schedule does not fit `NM`, `exclude` has a name that
        no array has, states are not like the parameters, or an array is read-only or appears twice.

    See Also
    --------
    SET, RigL : Sparse from the start; the positions of the weights change.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> target = np.arange(1.0, 9.0)
    >>> w, velocity = np.zeros(8), np.zeros(8)
    >>> schedule = rl.prune.CubicSchedule(0.75, begin=40, end=80, every=20)
    >>> pruner = rl.prune.Pruner(w, schedule, states=[velocity])
    >>> for _ in range(81):
    ...     velocity *= 0.9
    ...     velocity += w - target
    ...     w -= 0.1 * velocity
    ...     report = pruner.step()
    >>> report
    PruneReport(step=80, sparsity=0.75, updated=True, pruned=6, dropped=1, grown=0)
    >>> w.round(), velocity[:6]
    (array([0., 0., 0., 0., 0., 0., 7., 8.]), array([0., 0., 0., 0., 0., 0.]))
    """

    def __init__(
        self,
        params: Parameters,
        schedule: Schedule,
        *,
        method: Literal["magnitude", "random"] | Method = "magnitude",
        scope: Scope = "tensor",
        structure: Structure = None,
        exclude: Exclude = None,
        normalize: Normalize = "none",
        key: Key | None = None,
        incremental: bool = True,
        states: States | None = None,
    ) -> None:
        if not callable(schedule) or not callable(getattr(schedule, "is_update", None)):
            raise TypeError(
                f"schedule: got {type(schedule).__name__}, wants one with is_update, such as "
                "CubicSchedule"
            )
        if not callable(method) and method not in ("magnitude", "random"):
            wants = "'magnitude', 'random' or a function that returns masks"
            raise ValueError(f"method: got {method!r}, wants {wants}")
        if method == "random":
            check_key(key, "a Key for method='random'")
            if normalize != "none":
                raise ValueError(f"normalize: got {normalize!r}, wants 'none' with method='random'")
        elif key is not None:
            raise ValueError("key: got a Key, wants None unless method='random'")
        if not isinstance(exclude, str | int) and isinstance(exclude, Iterable):
            exclude = list(exclude)
        common: dict[str, Any] = {"scope": scope, "structure": structure, "exclude": exclude}
        self._schedule, self._own_key = schedule, key
        self._incremental = check.flag("incremental", incremental)
        params = lasting("params", params)
        if callable(method):
            for name, value, default in (
                ("scope", scope, "tensor"),
                ("structure", structure, None),
                ("exclude", exclude, None),
                ("normalize", normalize, "none"),
            ):
                if value != default:
                    raise ValueError(f"{name}: got {value!r}, wants {default!r} with your method")
            masks = magnitude(params, 0.0)
        else:
            if isinstance(structure, NM):
                _check_schedule_of(structure, schedule)
            sparsity = structure.sparsity if isinstance(structure, NM) else 0.0
            # With NM, this call only checks the arguments.
            masks = magnitude(params, sparsity, normalize=normalize, **common)
            if isinstance(structure, NM):
                masks = magnitude(params, 0.0)
        self._method: Method
        if callable(method):
            self._method = method
        elif method == "magnitude":
            self._method = partial(magnitude, normalize=normalize, **common)
        else:
            self._method = partial(random, key=key, **common)
        self._start(params, masks, states)

    def _key(self) -> Key | None:
        return self._own_key

    def _is_update(self, step: int) -> bool:
        return bool(self._schedule.is_update(step))  # type: ignore[attr-defined]

    def step(self, params: Parameters | None = None) -> PruneReport:
        """Recompute the masks if the schedule has an update, and set pruned weights to 0.

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
        TypeError
            If something is not an array of a supported dtype in CPU memory, or the method returns
            something other than masks.
        ValueError
            If the arrays are not like the previous ones, the schedule returns no fraction, or the
            method returns masks that are not like the parameters, or that keep pruned weights.
            Nothing has been written then, and the step does not count.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([3.0, 1.0, 2.0, 4.0])
        >>> pruner = rl.prune.Pruner(w, rl.prune.OneShotSchedule(0.5, step=1))
        >>> pruner.step().updated, pruner.step().updated
        (False, True)
        >>> w = w + 1
        >>> pruner.step(w).sparsity
        0.5
        >>> w
        array([4., 0., 0., 5.])
        """
        own = self._params if params is None else lasting("params", params)
        before, pruned, masks = self._masks, self._pruned, self._masks
        updated = self._is_update(self._step)
        if updated:
            sparsity = check.fraction("schedule", self._schedule(self._step))
            if sparsity or not self._incremental:
                masks = self._masks_for(own, sparsity)
        states = self._state_masks if masks is before else self._of_states(masks)
        self._apply(masks, states, own)
        self._params = own
        if masks is not before:
            self._set(masks)
        return self._report(updated, before, pruned)

    def _masks_for(self, params: Any, sparsity: float) -> Any:
        """Return new masks, checked against the old ones."""
        before = self._masks
        masks = self._method(params, sparsity, mask=before if self._incremental else None)
        check.instance(Mask, MaskSet, wants="a Mask or MaskSet")("method", masks)
        if not _alike(before, masks):
            raise ValueError(f"method: got {masks!r}, wants masks like {before!r}")
        if self._incremental and _lost(masks, before):
            raise ValueError(
                "method: got masks that keep pruned weights, wants none with incremental=True"
            )
        return masks


def _alike(masks: Mask | MaskSet, others: Mask | MaskSet) -> bool:
    """Return whether masks have the same structure and shapes."""
    try:
        found = matched(masks, others, "masks", "the masks")
    except (TypeError, ValueError):
        return False
    pairs = zip(leaves(masks), found, strict=True)
    return all(own._shape == other._shape for own, other in pairs)


def _check_schedule_of(structure: NM, schedule: Any) -> None:
    """Refuse a schedule with other sparsities than that of n of m."""
    wants = f"OneShotSchedule or ConstantSchedule of {structure.sparsity} for {structure}"
    if isinstance(schedule, _Ramp):
        raise ValueError(f"schedule: got {type(schedule).__name__}, wants {wants}")
    sparsity = getattr(schedule, "sparsity", structure.sparsity)
    if abs(sparsity - structure.sparsity) > 1e-12:
        raise ValueError(f"schedule: got a sparsity of {sparsity}, wants {wants}")
