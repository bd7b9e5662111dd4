"""The base class of all optimizers: its options, settings, mask and copies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from .._checks import decay as below_one
from .._checks import flag, integer, one_of, optional, positive, type_of
from .._ranks import Communicator, communicator
from .._tree import located, matched
from .._typing import SupportsDLPack
from ..clipping import GlobalNorm, Norm, Value
from ..constraints import Constraint
from ..masks import Mask
from ..penalties import Penalty
from ..random import Key
from .fields import (
    Declared,
    Field,
    Hyperparameter,
    did_you_mean,
    fixed,
    hyperparameter,
    required,
    setting,
)
from .group import Decay, ParameterFilter, Prox, number_of
from .states import Array
from .steps import Clip, OnNonFinite, Steps

Convention: TypeAlias = Literal["torch", "keras", "optax"]
# A tree, groups, or pairs of names and arrays. A union of all three confuses type checkers.
Updated: TypeAlias = SupportsDLPack | Mapping[Any, Any] | Iterable[Any]


def _clip(name: str, value: Any) -> Any:
    if value is None or isinstance(value, GlobalNorm | Norm | Value):
        return value
    got, limit = type_of(value), "..."
    if isinstance(value, int | float) and not isinstance(value, bool):
        got = repr(float(value))
        limit = got if value >= 0 else limit
    raise TypeError(
        f"{name}: got {got}, wants rl.GlobalNorm({limit}), rl.Norm({limit}), rl.Value({limit}) "
        "or None"
    )


def _rounding(name: str, value: Any) -> Key | bool:
    return value if isinstance(value, Key) else flag(name, value)


class Optimizer(Declared, Steps):
    """Base class of all optimizers; not instantiated directly.

    One step processes each element in this order: multiply the gradient by ``1 / loss_scale``;
    check that it is finite; apply `clip`; add the gradient of `penalty` (before `clip` with
    `clip_after_penalty`) and the coupled weight decay; update the moments; apply the decoupled
    weight decay, the update, the proximal operator, `mask` and `constraint`; round to the
    parameter's dtype; update the average of the weights.

    A step in which no parameter has a gradient does nothing and is not counted. Means of gradients
    below 2**-100 in magnitude (2**-960 in float64) and subnormal means of squares are flushed to 0.
    Where the denominator of an update is 0, as for a zero gradient with ``eps=0``, the element does
    not change.

    Parameters
    ----------
    params : array or tree of arrays, pairs of names and arrays, or list of groups
        Updated in place by every step. float32, float64, bfloat16 or float16; any strides. A group
        is a dict of ``"params"`` and any of the hyperparameters of a `Group`. There must be at
        least one array; a group may be empty.
    lr : float or callable
        The learning rate η, at least 0, or a function of the number of updates so far. A tensor or
        array of one element is stored by reference and read at every step.
    weight_decay : float or callable
        λ, coupled or decoupled: see `decay`.
    decay : {None, "coupled", "decoupled"}
        ``"coupled"`` adds ``λ w`` to the clipped gradient. ``"decoupled"`` multiplies the weight by
        ``1 - η λ`` before the update. None follows the library of `convention`: torch couples it in
        SGD, Adam, NAdam, RMSprop and Adagrad and decouples it in AdamW and Lion; Keras and optax
        decouple it everywhere. FTRL's is decoupled.
    lr_independent_decay : bool, default False
        Decoupled decay that does not depend on the learning rate: ``w ← w (1 - λ)``, with λ at most
        1. To schedule it, pass a function as `weight_decay`.
    penalty : Penalty, optional
        Any elementwise penalty.
    prox : {None, "plain", "preconditioned"}
        None: the penalty's gradient is added to the gradient. ``"plain"``: the penalty's proximal
        operator is applied after the update, with its step size: η, and with momentum μ and
        dampening τ the accumulated step size for constant gradients, which grows from η at the
        first step to ``η (1 - τ) / (1 - μ)``. The weights then converge to the minimum of loss plus
        penalty. ``"preconditioned"``: with each element's own step size, ``η / (√v̂ + ε)`` in Adam
        (Yun, Lozano and Yang 2021); the same as "plain" for optimizers without such a denominator
        (SGD, Lion).
    clip : GlobalNorm, Norm or Value, optional
        How the gradients are clipped.
    clip_after_penalty : bool, optional
        Clip the sum of the gradient and the penalty's gradient, as in a training loop whose loss
        includes the penalty: the same as ``penalty.add_gradient_`` followed by a clip. The norm
        then also reads the weights. Defaults to True with ``convention="keras"``, else False. Has
        no effect with `prox`; coupled weight decay is always added after clipping.
    mask : Mask, MaskSet or tree of them, optional
        Pruned elements are not updated, whatever their gradient: weight and moments keep their bits
        (8-bit states only as closely as the scales of their blocks allow). Norms cover all
        elements.
    constraint : Constraint, optional
        `Box` or `NonNegative`.
    decay_filter : callable, optional
        ``decay_filter(name, param)`` returns whether a parameter decays, or a factor for its
        `weight_decay`. See `skip_biases_and_norms` and `decay_filter_for`.
    penalty_filter : callable, optional
        The same for `penalty`: whether it applies to a parameter, or a factor for its strength.
    on_nonfinite : {None, "skip", "raise", "propagate"}
        What to do if a gradient or their norm is not finite: skip the step, raise, or update all
        the same. None: "skip" where a norm is computed (`GlobalNorm`, `Norm`), else "propagate".
        "skip" and "raise" without a norm cost one more pass over the gradients.
    stochastic_rounding : bool or Key, default False
        Round 16-bit parameters to one of their two neighbors at random, so that the expected value
        is exact. The key determines the random bits; True is ``Key(0)``.
    comm : object with ``allgather``, optional
        For parameters sharded across ranks: the norm of `GlobalNorm` is that of the gradients of
        all ranks, which are disjoint parts of one model. ``comm.allgather(value)`` returns the list
        of all ranks' values, as in mpi4py. Every rank must call `step`. Not for replicas, such as
        under PyTorch's DistributedDataParallel: each holds the whole gradient, and its norm would
        be counted once per rank.
    state_dtype : {None, "float32", "bfloat16", "8bit"}
        How moments are stored. None: in float64 for float64 parameters, else in float32.
        "bfloat16": rounded stochastically. "8bit": one byte per element and a float32 scale per 256
        elements, in the dynamic map of Dettmers et al. (2022); not for sums that only grow
        (Adagrad, FTRL). Can differ between groups.
    min_8bit_size : int, default 0
        Parameters with fewer elements have moments in float32 where `state_dtype` is "8bit". The
        default of bitsandbytes is 4096.
    master_weights : bool, default False
        Keep a float32 copy of 16-bit parameters; the copy is updated and the parameters are rounded
        from it.
    kahan : bool, default False
        Store the rounding error of 16-bit parameters in a second 16-bit array, and add it back.
    ema : float, optional
        Keep an exponential moving average of the weights with this decay:
        ``ema += (1 - decay) (w - ema)`` after each update. It starts at the weights passed to the
        constructor; see `restart_ema_`.
    ema_warmup : bool, default False
        Average over fewer steps at first: update k, counted from 0, uses the decay
        ``min(ema, (1 + k) / (10 + k))``, as in TensorFlow.
    accumulation_steps : int, default 1
        Update once per this number of calls of `step`, with the mean gradient.
    max_update_rms : float, optional
        Scale down each array's update, before the learning rate, if its root mean square exceeds
        this limit: the update clipping of Adafactor (Shazeer and Stern 2018). Costs one more pass.
    cautious : bool, default False
        Drop the elements of an update whose sign differs from that of their gradient, and scale the
        others of the array by the inverse of their share, at most by 1,000 (Liang et al. 2024).
        Moments and decay are unaffected. Costs one more pass.
    convention : {"torch", "keras", "optax"}
        The library whose rule and defaults are followed where they differ.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, there are no parameters, or one is
        read-only or appears twice.

    Examples
    --------
    >>> import ridgeline as rl
    >>> issubclass(rl.AdamW, rl.optimizers.Optimizer)
    True
    """

    params: Field[Any, Updated] = required(read=lambda opt: opt._tree())
    _: KW_ONLY
    penalty: Penalty | None = hyperparameter(default=None)
    clip: Clip | None = setting(default=None, check=_clip)
    mask: Any = fixed(default=None, read=lambda opt: opt._mask, instead="call set_mask")
    constraint: Constraint | None = hyperparameter(default=None)
    decay_filter: ParameterFilter | None = hyperparameter(default=None)
    penalty_filter: ParameterFilter | None = hyperparameter(default=None)
    decay: Decay | None = hyperparameter(default=None)
    lr_independent_decay: bool = hyperparameter(default=False)
    clip_after_penalty: bool | None = setting(default=None, check=optional(flag))
    on_nonfinite: OnNonFinite | None = setting(
        default=None, check=one_of(None, "skip", "raise", "propagate")
    )
    stochastic_rounding: bool | Key = fixed(default=False, check=_rounding)
    comm: Communicator | None = setting(default=None, check=optional(communicator))
    state_dtype: Field[str | None, Any] = hyperparameter(default=None)
    min_8bit_size: int = fixed(default=0, check=lambda name, value: integer(name, value, 0))
    master_weights: bool = fixed(default=False, check=flag)
    kahan: bool = fixed(default=False, check=flag)
    ema: Field[Any, float | None] = fixed(
        default=None,
        check=optional(below_one),
        read=lambda opt: opt._averages(),
        instead="assign ema_decay",
    )
    ema_warmup: bool = setting(default=False, check=flag)
    accumulation_steps: int = fixed(default=1, check=lambda name, value: integer(name, value, 1))
    convention: Convention = fixed(default="torch")

    # ---- construction

    def _start(self, given: dict[str, Any]) -> None:
        """Check all arguments, inspect the parameters, and allocate the states."""
        if not hasattr(type(self), "lr"):
            raise TypeError(
                f"{type(self).__name__} is an abstract base class; create AdamW, SGD, ... instead"
            )
        params, mask = given.pop("params"), given.pop("mask")
        convention = one_of(*self._conventions)("convention", given["convention"])
        shared = {}
        options = {}
        for name, value in given.items():
            field = self._fields[name]
            checked = field.checked(value, convention)
            if isinstance(field, Hyperparameter):
                shared[name] = number_of(self, name).check(name, checked)
            else:
                options[name] = checked
        self._options = options
        self._every = options["accumulation_steps"]
        self._check_settings(options)
        self._check_storage()
        self._mask = None
        self._kept = {}
        self._take_groups(params, shared)
        self._fix()
        self._connect()
        self._configure()
        if mask is not None:
            self.set_mask(mask)

    def _check_storage(self) -> None:
        """Check that at most one way of compensating rounding errors is chosen."""
        options = self._options
        key = options["stochastic_rounding"]
        if key is not False and options["master_weights"]:
            raise ValueError(
                "stochastic_rounding: got True with master_weights=True, wants one of them"
            )
        if options["kahan"]:
            for name, used in (
                ("master_weights", options["master_weights"]), ("stochastic_rounding", key),
            ):  # fmt: skip
                if used is not False:
                    first, second = sorted(("kahan", name))
                    raise ValueError(f"{second}: got True with {first}, wants one of them")

    def _change_setting(self, name: str, checked: Any) -> None:
        self._check_settings({**self._options, name: checked})
        self._options[name] = checked
        self._configure()

    def _check_settings(self, options: Mapping[str, Any]) -> None:
        """Check settings against each other."""
        if options["ema_warmup"] and options["ema"] is None:
            raise ValueError("ema_warmup: got True with ema=None, wants ema= too")

    def _configure(self) -> None:
        """Pass the settings to the core."""
        core, clip = self._core, self.clip
        if clip is None:
            core.set_clip("none")
        elif isinstance(clip, Value):
            core.set_clip("value", low=clip._limits[0], high=clip._limits[1])
        else:
            kind = "norm" if isinstance(clip, Norm) else "global_norm"
            core.set_clip(kind, max_norm=clip.max_norm, ord=clip.ord)
        after = self.clip_after_penalty
        core.set_clip_after_penalty(self.convention == "keras" if after is None else after)
        core.set_on_nonfinite(self._policy())
        key = self.stochastic_rounding
        core.set_rounding_key(Key(0) if key is True else key or None)
        core.set_average_decay(self._options["ema"] or 0.0, warmup=self.ema_warmup)

    @property
    def ema_decay(self) -> float | None:
        """The decay of the average of the weights, or None if there is none."""
        found: float | None = self._options["ema"]
        return found

    @ema_decay.setter
    def ema_decay(self, value: float | None) -> None:
        checked = None if value is None else below_one("ema_decay", value)
        if (checked is None) != (self._options["ema"] is None):
            wants = "a number in [0, 1)"
            if checked is not None:
                wants = "None: there is no average; pass ema= to the constructor"
            raise ValueError(f"ema_decay: got {value!r}, wants {wants}")
        self._change_setting("ema", checked)

    def _averages(self) -> Any:
        """Return a tree like the parameters, of read-only views of the averages."""
        if "ema" not in self._kept:
            raise AttributeError("ema: there is no average; pass ema= to the constructor")
        return self._tree_of(self._kept["ema"])

    if not TYPE_CHECKING:  # checkers would take any name for an attribute

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("_") or name == "groups" or hasattr(type(self), name):
                object.__setattr__(self, name, value)
                return
            hint = did_you_mean(name, self._fields)
            raise AttributeError(f"{type(self).__name__} has no {name!r} to set{hint}")

        def __getattr__(self, name: str) -> Any:
            if name in self._fields and "_options" in self.__dict__:
                return self._fields[name].read(self)  # raises its own error again
            hint = "" if name.startswith("_") else did_you_mean(name, dir(self))
            raise AttributeError(f"{type(self).__name__} has no {name!r}{hint}")

    def set_mask(self, mask: Any, *, reset: bool = False) -> None:
        """Set the mask: pruned elements are not updated.

        Parameters
        ----------
        mask : Mask, MaskSet, tree of Mask, or None
            A tree with the structure and shapes of the parameters (with groups, a list of such
            trees). None, for the whole or for a part of it, means no mask. Pruned weights are not
            set to 0 here; use ``mask.apply_(params)`` for that.
        reset : bool, default False
            Set the states of pruned elements to 0, so that elements that are kept again later
            (RigL, SET) start from scratch.

        Raises
        ------
        TypeError, ValueError
            If `mask` has another type, structure or shape.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0, 0.0])
        >>> opt = rl.SGD(w, lr=0.5)
        >>> opt.set_mask(rl.Mask.from_array([True, False]))
        >>> report = opt.step(np.array([1.0, np.nan]))
        >>> w
        array([0.5, 0. ])
        """
        words: list[Array | None] = [None] * len(self._shapes)
        masks: list[Mask | None] = []
        if mask is not None:
            masks = self._masks(mask)
            words = [None if own is None else own._words for own in masks]
        reset = flag("reset", reset)
        with self._core.turn(reads=False):
            self._core.attach_masks(words)
            self._mask = mask
            for k, own in enumerate(masks if reset else []):
                if own is not None:
                    self._reset_states(k, ~own.to_array())

    def _masks(self, mask: Any) -> list[Mask | None]:
        """Return the masks of all parameters, in their order."""
        tree = self._tree()
        masks = matched(self._places, mask, "mask", "params", holes=True)
        for (place, _, _), own, shape in zip(
            located("mask", tree), masks, self._shapes, strict=True
        ):
            if own is None:
                continue
            if not isinstance(own, Mask):
                hint = (
                    "" if np.ndim(own) == 0 else ", as rl.Mask.from_array makes of an array of bool"
                )
                raise TypeError(f"{place}: got {type_of(own)}, wants a Mask{hint}")
            if own.shape != shape:
                raise ValueError(f"{place}: got shape {own.shape}, wants {shape}")
        return masks

    # ---- copies

    def __getstate__(self) -> dict[str, Any]:
        return {
            "version": 2,
            "groups": [{"params": g._params, **g._values, **g._foreign} for g in self.groups],
            "grouped": self._grouped,
            "shared": self._shared,
            "options": dict(self._options),
            "stateful": self._stateful,
            "mask": self._mask,
            "state": self._snapshot(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        options = dict(state["options"])
        if "version" in state:
            self._stateful = state["stateful"]
        else:
            options |= state["settings"]
            options["ema"] = options.pop("ema_decay")
            structure = dict(state["structure"])
            self._stateful = structure.pop("stateful", None)
            if "initial" in structure:
                structure["initial_accumulator_value"] = structure.pop("initial")
            options |= structure
        groups = state["groups"]
        first = state.get("shared", groups[0])
        shared = {name: first[name] for name in self._hyperparameters() if name in first}
        params = groups if state["grouped"] else groups[0]["params"]
        if not state["grouped"]:  # the only group has the current values
            shared |= {name: groups[0][name] for name in shared}
        given = {name: field.default for name, field in self._fields.items()}
        given |= {name: value for name, value in options.items() if name in given}
        self._start({**given, **shared, "params": params, "mask": state["mask"]})
        if not state["grouped"]:
            known = (*self.groups[0]._values, "params")
            self.groups[0]._foreign.update({n: v for n, v in groups[0].items() if n not in known})
        self.load_state_dict(state["state"])

    def __copy__(self) -> Optimizer:
        raise TypeError("an optimizer cannot be copied without its parameters; use copy.deepcopy")

    def __repr__(self) -> str:
        arrays = len(self._shapes)
        elements = sum(map(math.prod, self._shapes))
        inner = ", ".join(map(repr, self.groups))
        options = "".join(
            f", {name}={value!r}"
            for name, value in self._options.items()
            if value != self._fields[name].default
        )
        return (
            f"{type(self).__name__}({arrays} array{'s' * (arrays != 1)}, {elements} elements, "
            f"step={self.steps}: {inner}{options})"
        )


class GradientStep(Optimizer):
    """Base class of optimizers that add an update to the weights; not instantiated directly."""

    _: KW_ONLY
    prox: Prox | None = hyperparameter(default=None)
    max_update_rms: float | None = setting(default=None, check=optional(positive))
    cautious: bool = setting(default=False, check=flag)

    def _configure(self) -> None:
        super()._configure()
        self._core.set_max_update_rms(self.max_update_rms)
        self._core.set_cautious(self.cautious)
