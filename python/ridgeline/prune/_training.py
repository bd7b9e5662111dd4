"""The base of `Pruner`, `SET` and `RigL`: masks that are applied at every step of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import _bits
from .. import _checks as check
from .._arrays import torch_if
from .._tree import is_array, lasting, leaves, paths, rebuilt
from ..masks import Mask, MaskSet, _aligned, _apply_all, _lost, _made

if TYPE_CHECKING:
    from .._typing import Gradients, Parameters
    from ..random import Key

Schedule: TypeAlias = Callable[[int], float]
Method: TypeAlias = Callable[..., "Mask | MaskSet"]
States: TypeAlias = "Sequence[Any] | Mapping[Any, Any]"

_VERSION = 1


@dataclass(frozen=True)
class PruneReport:
    """The report of a step of a `Pruner`, `SET` or `RigL`.

    Parameters
    ----------
    step : int
        The index of the step, from 0.
    sparsity : float
        The fraction of all elements that are pruned after the step, including excluded arrays.
    updated : bool
        Whether masks were recomputed; they may be unchanged.
    pruned : int
        The number of elements that are pruned after the step.
    dropped, grown : int
        The numbers of newly pruned elements and of elements that are no longer pruned.

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


def _repeated(masks: Mask | MaskSet, states: States) -> MaskSet:
    """Return a MaskSet like the states that repeats the masks."""
    if is_array(states) or not isinstance(states, Sequence | Mapping):
        raise TypeError(
            f"states: got {check.type_of(states)}, wants a list or dict of containers like params"
        )
    mapping = isinstance(states, Mapping)
    return _made(dict.fromkeys(states, masks) if mapping else [masks] * len(states))


class Training:
    """Base class of objects that apply masks to parameters at every step."""

    _params: Any
    _states: States
    _masks: Mask | MaskSet
    _state_masks: MaskSet
    _pruned: int
    _size: int
    _step: int

    def _start(self, params: Parameters, masks: Mask | MaskSet, states: States | None) -> None:
        """Check and store the parameters, the states and the initial masks."""
        self._step = 0
        self._size = masks.size
        self._params = params
        self._states = () if states is None else lasting("states", states)
        self._set(masks)
        # This only checks: kept elements are not written.
        full = (Mask._of(mask.shape, _bits.full(mask.size)) for mask in leaves(masks))
        everything = rebuilt(masks, full, _made)
        self._apply(everything, self._of_states(everything), params)

    def _set(self, masks: Mask | MaskSet) -> None:
        self._masks = masks
        self._pruned = self._size - masks.count
        self._state_masks = self._of_states(masks)

    def _of_states(self, masks: Mask | MaskSet) -> MaskSet:
        """Return the masks of the states."""
        return _repeated(masks, self._states)

    def _apply(self, masks: Mask | MaskSet, states: MaskSet, params: Parameters) -> None:
        """Write zeros into parameters and states: all of them, or none if one does not fit."""
        _apply_all([("params", masks, params), ("states", states, self._states)])

    @property
    def masks(self) -> Any:
        """The current masks: a Mask for one array, else a MaskSet like the parameters."""
        return self._masks

    @property
    def sparsity(self) -> float:
        """The fraction of all elements that the masks prune, including excluded arrays."""
        return _bits.sparsity(self._size, self._size - self._pruned)

    @property
    def step_count(self) -> int:
        """The number of steps taken, which is the index of the next step."""
        return self._step

    @property
    def will_update(self) -> bool:
        """Whether the next step recomputes the masks, and so needs gradients or scores."""
        return self._is_update(self._step)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(step_count={self.step_count}, sparsity={self.sparsity:.4g})"

    def _is_update(self, step: int) -> bool:
        raise NotImplementedError

    def _key(self) -> Key | None:
        raise NotImplementedError

    def apply_(self) -> None:
        """Set pruned weights and states to 0, in place, without taking a step.

        Every step does this, too. Useful for new weights: the initial ones with `SET` and `RigL`,
        or those loaded from a file.

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

    def mask_gradients_(self, grads: Gradients) -> None:
        """Set the gradients of pruned weights to 0, in place.

        Zeros stay zero without it, because `step` restores them. It removes pruned weights from
        the norm that clips, and keeps the optimizer's moments at 0. Do not call it before an update
        of `RigL`, which reads the gradients of pruned weights.

        Parameters
        ----------
        grads : array or tree of arrays
            Written. Like the parameters; None stands for a missing gradient and is skipped.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory.
        ValueError
            If the structure or a shape differs, or an array is read-only.

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
        """Set the optimizer's state to 0, in place, where weights are pruned.

        For optimizers that create their state late, as PyTorch's do in their first step. Pass state
        that exists from the start as ``states=``.

        Parameters
        ----------
        states : list or dict of trees of arrays
            Written. Each like the parameters, such as ``[m, v]``.

        Raises
        ------
        TypeError
            If it is not a list or dict, or something is not an array of a supported dtype in CPU
            memory.
        ValueError
            If the structure or a shape differs, or an array is read-only.

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
        _apply_all([("states", _repeated(self._masks, states), states)])

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a run can be resumed: numbers, names and arrays.

        Returns
        -------
        dict
            ``version``, ``kind``, ``step``, ``key`` (None without one) and for each mask its
            ``names``, ``shapes`` and ``words``: copies with one bit per element. For PyTorch
            parameters words are int64 tensors, so that ``torch.load`` can read them back; otherwise
            uint64 arrays.

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
            "names": paths(self._masks),
            "shapes": [list(mask.shape) for mask in leaves(self._masks)],
            "words": [self._library(mask._words.copy()) for mask in leaves(self._masks)],
        }

    def _library(self, words: Any) -> Any:
        """Return words in the library of the parameters."""
        arrays = _aligned(self._masks, self._params)
        torch = next((torch_if(array) for array in arrays if torch_if(array)), None)
        return words if torch is None else torch.from_numpy(words.view(np.int64))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume a run from its state.

        The schedule and the other arguments remain those of this object: if they are the same as
        before, so are all later masks. Weights are not written; `apply_` does that.

        Parameters
        ----------
        state : dict
            From `state_dict`, for parameters of any library. Arrays are copied.

        Raises
        ------
        TypeError
            If it is not a dict, or an entry has another type.
        ValueError
            If it is from another version or class, or has another key, or masks with other names or
            shapes. Nothing has been changed then.

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
        check.instance(Mapping, wants="a dict of state_dict")("state", state)
        key = self._key()
        known = {
            "version": _VERSION,
            "kind": type(self).__name__,
            "key": None if key is None else key.seed,
        }
        for name in (*known, "step", "names", "shapes", "words"):
            if name not in state:
                raise ValueError(f"state: got no {name!r}, wants what state_dict returned")
        for name, wanted in known.items():
            if state[name] != wanted:
                raise ValueError(f"state[{name!r}]: got {state[name]!r}, wants {wanted!r}")
        step = check.integer("state['step']", state["step"], 0)
        own = leaves(self._masks)
        for name in ("names", "shapes", "words"):
            check.instance(list, tuple, wants="a list")(f"state[{name!r}]", state[name])
            if len(state[name]) != len(own):
                raise ValueError(f"state[{name!r}]: got {len(state[name])}, wants {len(own)}")
        masks = [
            _loaded(state, i, name, mask)
            for i, (name, mask) in enumerate(zip(paths(self._masks), own, strict=True))
        ]
        self._check_state(masks)
        self._set(rebuilt(self._masks, masks, _made))
        self._step = step

    def _check_state(self, masks: list[Mask]) -> None:
        """Refuse masks that are impossible for this object."""

    def _report(self, updated: bool, before: Mask | MaskSet, pruned: int) -> PruneReport:
        """Count the step and return its report."""
        step, dropped, grown = self._step, 0, 0
        if updated:
            dropped = _lost(before, self._masks)
            grown = dropped - (self._pruned - pruned)
        self._step += 1
        return PruneReport(step, self.sparsity, updated, self._pruned, dropped, grown)


def _loaded(state: Mapping[str, Any], i: int, name: str, mask: Mask) -> Mask:
    """Return mask i of a state, which has the name and the shape of `mask`."""
    if state["names"][i] != name:
        raise ValueError(f"state['names'][{i}]: got {state['names'][i]!r}, wants {name!r}")
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
    return Mask._of(shape, words.copy())
