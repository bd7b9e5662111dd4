r"""Pruning while a model trains: masks that follow a schedule, and masks that move.

All are made of the parameters and stepped after the optimizer, two lines in a loop::

    pruner = rl.prune.Pruner(params, rl.prune.CubicSchedule(0.9, begin=500, end=5000, every=100))
    for batch in batches:
        ...
        optimizer.step()
        pruner.step()

Steps count from 0. Every step sets the weights that are pruned to 0, whatever momentum made of
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .. import _bits
from .. import _checks as check
from .._arrays import torch_if
from .._environment import in_default_environment
from .._tree import is_array, lasting, rebuilt
from ..masks import Mask, MaskSet, _aligned, _apply_all, _mapped, _sparsity
from ..random import Key
from . import budget as _budget
from ._select import (
    Normalize,
    Scope,
    Structure,
    _Pruning,
    _Scores,
    check_key,
    magnitude,
    random,
)
from .schedules import _Ramp
from .structures import NM

if TYPE_CHECKING:
    from .._tree import Exclude
    from .._typing import Tree
    from ._select import Fractions

__all__ = ["SET", "PruneReport", "Pruner", "RigL"]

Schedule: TypeAlias = Callable[[int], float]
Method: TypeAlias = Callable[..., "Mask | MaskSet"]
States: TypeAlias = "Sequence[Any] | Mapping[Any, Any]"

_VERSION = 1


@dataclass(frozen=True)
class PruneReport:
    """What a step of a `Pruner`, `SET` or `RigL` did.

    Parameters
    ----------
    step : int
        Its number, from 0.
    sparsity : float
        The fraction of all elements that is pruned after it, excluded arrays counted.
    updated : bool
        Whether masks were made anew. They may be as before.
    pruned : int
        The number of elements that are pruned after it.
    dropped, grown : int
        The elements that were pruned and were not before, and those that are no longer.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([3.0, 1.0, 2.0, 4.0])
    >>> rl.prune.Pruner(w, rl.prune.OneShotSchedule(0.5, step=0)).step()
    PruneReport(step=0, sparsity=0.5, updated=True, pruned=2, dropped=2, grown=0)
    """

    step: int
    sparsity: float
    updated: bool
    pruned: int
    dropped: int = 0
    grown: int = 0


def _leaves(masks: Mask | MaskSet) -> list[tuple[str, Mask]]:
    return [("", masks)] if isinstance(masks, Mask) else masks.flat()


def _repeated(masks: Mask | MaskSet, states: States) -> Any:
    """Return a container like the states, of masks."""
    if is_array(states) or not isinstance(states, Sequence | Mapping):
        raise TypeError(
            f"states: got {type(states).__name__}, wants a list or dict of containers like params"
        )
    return dict.fromkeys(states, masks) if isinstance(states, Mapping) else [masks] * len(states)


class _Training:
    """Masks of parameters, that are applied at every step."""

    _params: Any
    _states: States
    _masks: Mask | MaskSet
    _state_masks: MaskSet
    _pruned: int
    _size: int
    _step: int

    def _start(self, params: Tree, masks: Mask | MaskSet, states: States | None) -> None:
        """Take parameters and states, which are checked, and the masks to begin with."""
        self._step = 0
        self._size = masks.size
        self._params = params
        self._states = () if states is None else lasting("states", states)
        self._set(masks)
        # Writes nothing: what is kept keeps every bit.
        everything = _mapped(masks, lambda mask: Mask._of(mask.shape, _bits.full(mask.size)))
        if not isinstance(everything, Mask):
            everything = MaskSet.of(everything)
        self._apply(everything, self._of_states(everything), params)

    def _set(self, masks: Mask | MaskSet) -> None:
        self._masks = masks
        self._pruned = masks.size - masks.count
        self._state_masks = self._of_states(masks)

    def _of_states(self, masks: Mask | MaskSet) -> MaskSet:
        """Return the masks of the states."""
        return MaskSet.of(_repeated(masks, self._states))

    def _apply(self, masks: Mask | MaskSet, states: MaskSet, params: Tree) -> None:
        """Write zeros into parameters and states: all of them, or none if one does not fit."""
        _apply_all([("params", masks, params), ("states", states, self._states)])

    @property
    def masks(self) -> Any:
        """The masks now: a Mask for one array, else a MaskSet like the parameters."""
        return self._masks

    @property
    def sparsity(self) -> float:
        """The fraction of all elements that the masks prune, excluded arrays counted."""
        return _sparsity(self._size, self._size - self._pruned)

    @property
    def step_count(self) -> int:
        """The number of steps taken, which is the number of the next."""
        return self._step

    @property
    def will_update(self) -> bool:
        """Whether the next step makes masks anew: what it needs to do so can wait until then."""
        return self._is_update(self._step)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(step_count={self.step_count}, sparsity={self.sparsity:.4g})"

    def _is_update(self, step: int) -> bool:
        raise NotImplementedError

    def _key(self) -> Key | None:
        raise NotImplementedError

    def apply_(self) -> None:
        """Set weights and states that are pruned to 0, in place, without a step.

        Every step does so. For weights that came from elsewhere: the first ones of `SET` and
        `RigL`, or those of a file.

        Raises
        ------
        TypeError, ValueError
            If the arrays no longer fit the masks.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.ones(8)
        >>> sparse = rl.prune.SET(w, 0.75, rl.Key(0))
        >>> sparse.apply_()
        >>> int(np.sum(w))
        2
        """
        self._apply(self._masks, self._state_masks, self._params)

    def mask_gradients_(self, grads: Tree) -> None:
        """Set the gradients of weights that are pruned to 0, in place.

        Not needed for zeros to stay zero: `step` sees to that. It keeps the pruned out of a norm
        that clips, and moments of the optimizer at 0. Not before `RigL` grows, which reads the
        gradients of what is pruned.

        Parameters
        ----------
        grads : array or tree of arrays
            Written. Like the parameters; None, for one without a gradient, is passed over.

        Raises
        ------
        TypeError
            If something is no array of a supported dtype in CPU memory.
        ValueError
            If structure or shapes are others, or an array is read-only.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, grad = np.array([1.0, 2.0]), np.array([0.3, 0.4])
        >>> pruner = rl.prune.Pruner(w, rl.prune.OneShotSchedule(0.5, step=0))
        >>> _ = pruner.step()
        >>> pruner.mask_gradients_(grad)
        >>> grad
        array([0. , 0.4])
        """
        _apply_all([("grads", self._masks, grads)], holes=True)

    def reset_state_(self, states: States) -> None:
        """Set the optimizer's state to 0 where weights are pruned, in place.

        For optimizers that make their state late, as PyTorch's do at their first step; what is
        there from the start goes to ``states=``.

        Parameters
        ----------
        states : list or dict of trees of arrays
            Written. Each like the parameters: such as ``[m, v]``.

        Raises
        ------
        TypeError
            If it is no list or dict, or something is no array of a supported dtype in CPU memory.
        ValueError
            If structure or shapes are others, or an array is read-only.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, velocity = np.array([1.0, 2.0]), np.array([0.3, 0.4])
        >>> pruner = rl.prune.Pruner(w, rl.prune.OneShotSchedule(0.5, step=0))
        >>> if pruner.step().updated:
        ...     pruner.reset_state_([velocity])
        >>> velocity
        array([0. , 0.4])
        """
        masks = MaskSet.of(_repeated(self._masks, states))
        _apply_all([("states", masks, states)])

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on where it stopped: numbers, names and arrays.

        Returns
        -------
        dict
            ``version``, ``kind``, ``step``, ``key`` (None without one) and for each mask its
            ``names``, ``shapes`` and ``words``: copies, of one bit an element. Words of PyTorch
            parameters are int64 tensors, so that ``torch.load`` reads what ``torch.save`` wrote;
            others are uint64 arrays.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([3.0, 1.0, 2.0, 4.0])
        >>> schedule = rl.prune.LinearSchedule(0.5, begin=0, end=2)
        >>> pruner = rl.prune.Pruner(w, schedule)
        >>> _ = pruner.step(), pruner.step()
        >>> state = pruner.state_dict()
        >>> again = rl.prune.Pruner(w, schedule)
        >>> again.load_state_dict(state)
        >>> again
        Pruner(step_count=2, sparsity=0.25)
        """
        key = self._key()
        return {
            "version": _VERSION,
            "kind": type(self).__name__,
            "step": self._step,
            "key": None if key is None else key.seed,
            "names": [name for name, _ in _leaves(self._masks)],
            "shapes": [list(mask.shape) for _, mask in _leaves(self._masks)],
            "words": [self._library(mask._words.copy()) for _, mask in _leaves(self._masks)],
        }

    def _library(self, words: Any) -> Any:
        """Return words in the library of the parameters."""
        arrays = _aligned(self._masks, self._params)
        torch = next((torch_if(array) for array in arrays if torch_if(array)), None)
        return words if torch is None else torch.from_numpy(words.view(np.int64))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run stopped.

        The schedule and the other arguments are those of this object: made with the same ones, it
        has the masks of a run that did not stop. Weights are not written: `apply_` does.

        Parameters
        ----------
        state : dict
            Of `state_dict`, of parameters of any library. Arrays are copied.

        Raises
        ------
        TypeError
            If it is no dict, or something in it has another type.
        ValueError
            If it is of another version or class, has another key, or masks of other names or
            shapes. Nothing is changed then.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> schedule = rl.prune.OneShotSchedule(0.5, step=3)
        >>> pruner = rl.prune.Pruner([np.ones(4)], schedule)
        >>> pruner.load_state_dict(rl.prune.Pruner([np.ones(5)], schedule).state_dict())
        Traceback (most recent call last):
        ValueError: state['shapes'][0]: got (5,), wants (4,)
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {type(state).__name__}, wants a dict of state_dict")
        key = self._key()
        known = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "key": None if key is None else key.seed,
        }
        own = _leaves(self._masks)
        for name in (*known, "step", "names", "shapes", "words"):
            if name not in state:
                raise ValueError(f"state: got no {name!r}, wants what state_dict returned")
        for name, wanted in known.items():
            if state[name] != wanted:
                raise ValueError(f"state[{name!r}]: got {state[name]!r}, wants {wanted!r}")
        step = check.integer("state['step']", state["step"], 0)
        for name in ("names", "shapes", "words"):
            if not isinstance(state[name], list | tuple):
                kind = type(state[name]).__name__
                raise TypeError(f"state[{name!r}]: got {kind}, wants a list")
            if len(state[name]) != len(own):
                raise ValueError(f"state[{name!r}]: got {len(state[name])}, wants {len(own)}")
        masks = []
        for i, (wanted, mask) in enumerate(own):
            if state["names"][i] != wanted:
                raise ValueError(
                    f"state['names'][{i}]: got {state['names'][i]!r}, wants {wanted!r}"
                )
            place = f"state['shapes'][{i}]"
            shape = check.shape(place, state["shapes"][i])
            if shape != mask.shape:
                raise ValueError(f"{place}: got {shape}, wants {mask.shape}")
            place, words = f"state['words'][{i}]", np.asarray(state["words"][i])
            if words.dtype not in (np.uint64, np.int64):
                raise TypeError(f"{place}: got dtype {words.dtype}, wants uint64 or int64")
            words = words.view(np.uint64)
            if words.shape != mask._words.shape:
                raise ValueError(f"{place}: got shape {words.shape}, wants {mask._words.shape}")
            if np.any(words & ~_bits.full(mask.size)):
                raise ValueError(f"{place}: got bits beyond the last element, wants zeros")
            masks.append(Mask._of(shape, words.copy()))
        self._check_state(masks)
        rest = iter(masks)
        restored = _mapped(self._masks, lambda mask: next(rest))
        self._set(restored if isinstance(restored, Mask) else MaskSet.of(restored))
        self._step = step

    def _check_state(self, masks: list[Mask]) -> None:
        """Refuse masks that this object could not have."""

    def _report(self, updated: bool, before: Mask | MaskSet, pruned: int) -> PruneReport:
        """Count the step, and tell what it did."""
        step, dropped, grown = self._step, 0, 0
        if updated:
            dropped = (before & ~self._masks).count
            grown = dropped - (self._pruned - pruned)
        self._step += 1
        return PruneReport(step, self.sparsity, updated, self._pruned, dropped, grown)


class Pruner(_Training):
    r"""Prune while training, by a schedule (Zhu & Gupta 2017).

    At the steps at which the schedule says so, masks are made anew for the sparsity it gives. Every
    step sets what is pruned to 0.

    Parameters
    ----------
    params : array or tree of arrays, or torch.nn.Module
        Kept by reference and written at every step. Of a module the parameters are looked up at
        each step, by name: those that ``module.weight = Parameter(...)`` or
        ``load_state_dict(assign=True)`` put there are pruned from then on. If arrays of a list or
        dict are replaced there, it prunes the new ones. Of an iterator such as
        ``model.parameters()`` the arrays are kept, and it cannot know that a model has others by
        now: give the module, or the new ones to `step`. Tied weights are given once, as a module
        and its ``parameters()`` do.
    schedule : callable
        Such as `CubicSchedule`: ``schedule(step)`` is the sparsity, ``schedule.is_update(step)``
        says whether masks are to be made anew.
    method : {"magnitude", "random"} or callable, default "magnitude"
        What goes. A function is called as ``method(params, sparsity, mask=masks)`` and returns a
        Mask, or a MaskSet like `params`; `mask` is None unless `incremental`.
    scope, structure, exclude, normalize : optional
        As for `prune.magnitude`. A function of your own has them its own way.
    key : Key, optional
        For ``method="random"``, which uses the same numbers at every step: what is pruned at a
        lower sparsity is at a higher one.
    incremental : bool, default True
        What is pruned stays so. Else all weights compete at every update: what is pruned begins at
        0, with the step that the optimizer has just made.
    states : list or dict of trees of arrays, optional
        State of the optimizer, kept by reference: each like `params`, such as ``[m, v]``. Where a
        weight is pruned they are set to 0 too.

    Raises
    ------
    TypeError
        If something is no array of a supported dtype in CPU memory, or an argument of another type.
    ValueError
        If arguments do not go together, the schedule does not fit `NM`, `exclude` has a name that
        no array has, states are not like the parameters, or an array is read-only or appears twice.

    See Also
    --------
    SET, RigL : Sparse from the start; connections move.

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
        params: Tree,
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
            raise ValueError(
                f"method: got {method!r}, wants 'magnitude', 'random' or a function that "
                "returns masks"
            )
        if not isinstance(incremental, bool | np.bool_):
            raise TypeError(f"incremental: got {type(incremental).__name__}, wants a bool")
        if method == "random":
            check_key(key, "a Key for method='random'")
            if normalize != "none":
                raise ValueError(f"normalize: got {normalize!r}, wants 'none' with method='random'")
        elif key is not None:
            raise ValueError("key: got one, wants none but for method='random'")
        if not isinstance(exclude, str | int) and isinstance(exclude, Iterable):
            exclude = list(exclude)
        common: dict[str, Any] = {"scope": scope, "structure": structure, "exclude": exclude}
        self._schedule, self._incremental, self._own_key = schedule, bool(incremental), key
        params = lasting("params", params)
        if callable(method):
            for name, value, default in (
                ("scope", scope, "tensor"),
                ("structure", structure, None),
                ("exclude", exclude, None),
                ("normalize", normalize, "none"),
            ):
                if value != default:
                    raise ValueError(f"{name}: got {value!r}, wants none with a method of your own")
            masks = magnitude(params, 0.0)
        else:
            if isinstance(structure, NM):
                _check_schedule_of(structure, schedule)
            sparsity = structure.sparsity if isinstance(structure, NM) else 0.0
            # For NM only to check the arguments.
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

    def step(self, params: Tree | None = None) -> PruneReport:
        """Make masks anew if the schedule says so, and set what is pruned to 0.

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
        TypeError
            If something is no array of a supported dtype in CPU memory, or the method returns
            something else than masks.
        ValueError
            If the arrays are not like those before, the schedule gives no fraction, or the method
            returns masks that are not like the parameters, or that keep what was pruned. Nothing is
            written then, and the step does not count.

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
        """Return new masks, which fit the old ones."""
        before = self._masks
        masks = self._method(params, sparsity, mask=before if self._incremental else None)
        if not isinstance(masks, Mask | MaskSet):
            raise TypeError(f"method: got {type(masks).__name__}, wants a Mask or MaskSet")
        names = [(name, mask.shape) for name, mask in _leaves(before)]
        if isinstance(masks, Mask) != isinstance(before, Mask) or sorted(names) != sorted(
            (name, mask.shape) for name, mask in _leaves(masks)
        ):
            raise ValueError(f"method: got {masks!r}, wants masks like {before!r}")
        if self._incremental and (masks & ~before).count:
            raise ValueError(
                "method: got masks that keep what was pruned, wants none with incremental=True"
            )
        return masks


def _check_schedule_of(structure: NM, schedule: Any) -> None:
    """Refuse a schedule whose sparsities are not that of n of m."""
    wants = f"OneShotSchedule or ConstantSchedule of {structure.sparsity} for {structure}"
    if isinstance(schedule, _Ramp):
        raise ValueError(f"schedule: got {type(schedule).__name__}, wants {wants}")
    sparsity = getattr(schedule, "sparsity", structure.sparsity)
    if abs(sparsity - structure.sparsity) > 1e-12:
        raise ValueError(f"schedule: got a sparsity of {sparsity}, wants {wants}")


class _Moving(_Training):
    """Masks of a constant count, whose connections move."""

    def __init__(
        self,
        params: Tree,
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
        if budget not in ("erk", "uniform"):
            raise ValueError(f"budget: got {budget!r}, wants 'erk' or 'uniform'")
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
        self._counts = [mask.count for _, mask in _leaves(masks)]
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

    def _survivors(self, params: Tree, still: Sequence[bool]) -> Any:
        """Drop the active weights of least magnitude, but none of an array that is `still`.

        Those of a dense array would grow again.
        """
        dropping = self._fraction_at(self._step)
        rest = iter(still)

        def fraction(mask: Mask) -> float:
            return 0.0 if next(rest) or mask.count == mask.size else dropping

        return magnitude(params, _mapped(self._masks, fraction), mask=self._masks, of="remaining")

    def _candidates(self, survivors: Any) -> tuple[Any, Any]:
        """Return masks of what may grow, and of them the fractions that must not."""
        candidates = ~survivors
        counts = iter(self._counts)

        def staying(mask: Mask) -> float:
            missing = next(counts) - (mask.size - mask.count)
            return (mask.count - missing) / mask.count if mask.count else 0.0

        return candidates, _mapped(candidates, staying)

    def _moved(
        self,
        params: Tree | None,
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
        params: Tree,
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

    def step(self, params: Tree | None = None) -> PruneReport:
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
        params: Tree,
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

    def step(self, params: Tree | None = None, *, grads: Tree | None) -> PruneReport:
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
        own_grads: Any = grads
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
            ranked = _Scores("grads", magnitude=True)
            return _Pruning(
                ranked, tree, "tensor", None, candidates, None, "none", "remaining", 0.0, 1.0, None
            ).masks(fractions)

        return self._moved(params, grow, still)
