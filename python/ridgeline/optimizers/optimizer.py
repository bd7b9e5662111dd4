"""The optimizer: construction, groups, mask and step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np

from .. import _core
from .._checks import decay as below_one
from .._checks import flag, integer, non_negative, one_of, optional, positive, type_of
from .._files import file_names
from .._ranks import Communicator, communicator, gathered_norms, non_finite_norm
from .._tree import located, matched, named_tree, rebuilt, without_none
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
from .group import Decay, Group, ParameterFilter, Prox, check_foreign, detached, number_of
from .states import HALVES, Array, States, dtype_name, state_type

Clip: TypeAlias = GlobalNorm | Norm | Value
OnNonFinite: TypeAlias = Literal["skip", "raise", "propagate"]
Convention: TypeAlias = Literal["torch", "keras", "optax"]


class StepReport(NamedTuple):
    """What a step did.

    Attributes
    ----------
    norm : float or None
        The norm of all unscaled gradients before clipping; None if none was taken.
    scale : float or list of float
        The factor of clipping by a norm: 1.0 if it did not clip. With `Norm` one for each array
        that had a gradient.
    skipped : bool
        Whether nothing was changed, because a gradient was not finite.
    first_nonfinite : str or None
        The place of the first gradient with a NaN or an infinity, if that was looked for.
    penalty : float
        The value of the penalties at the parameters before the step.
    updated : bool
        False if skipped, while gradients are accumulated, and if no parameter had a gradient.
    step : int
        The number of updates so far.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> opt = rl.SGD(np.ones(2), lr=0.1, clip=rl.GlobalNorm(1.0))
    >>> opt.step(np.array([3.0, 4.0]))  # doctest: +NORMALIZE_WHITESPACE
    StepReport(norm=5.0, scale=0.2, skipped=False, first_nonfinite=None, penalty=0.0,
               updated=True, step=1)
    """

    norm: float | None
    scale: float | list[float]
    skipped: bool
    first_nonfinite: str | None
    penalty: float
    updated: bool
    step: int


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


def _state_dtype(name: str, value: object) -> str | None:
    kind = state_type(name, value)
    return None if kind == "compute" else kind


class Optimizer(Declared, States):
    r"""Base class of all optimizers; not instantiated directly.

    The order of one step, for each element: the gradient times ``1 / loss_scale``; the finite
    check; `clip`; the gradient of `penalty` (with `clip_after_penalty` before `clip`) and the
    coupled weight decay; the moments; the decoupled weight decay; the step; the proximal operator;
    `mask`; `constraint`; rounding to the parameter's dtype; the average of the weights.

    A step in which no parameter has a gradient does nothing and is not counted. Moments below
    2**-100 (means of gradients; 2**-960 in float64) or below the normal numbers (means of squares)
    become 0. Where the denominator of a step is 0, as for a zero gradient with ``eps=0``, the
    element does not move.

    Parameters
    ----------
    params : array or tree of arrays, pairs of names and arrays, or list of groups
        Written by every step. float32, float64, bfloat16 or float16; any strides. A group is a dict
        of ``"params"`` and any of the settings of a `Group`. There must be at least one array; a
        group may be empty.
    lr : float or callable
        The learning rate, at least 0, or a function of the number of updates so far. A tensor or
        array of one element is kept and read at every step.
    weight_decay : float
        :math:`\lambda`, coupled or decoupled: see `decay`.
    decay : {None, "coupled", "decoupled"}
        ``"coupled"``: :math:`\lambda w` joins the clipped gradient. ``"decoupled"``:
        :math:`w \leftarrow w (1 - \eta\lambda)` before the step. None: as the library of
        `convention` does. torch couples it in SGD, Adam, NAdam, RMSprop and Adagrad and decouples
        it in AdamW and Lion; Keras and optax decouple it everywhere; FTRL's is decoupled.
    penalty : Penalty, optional
        Any elementwise penalty.
    prox : {None, "plain", "preconditioned"}
        None: the penalty's gradient joins the gradient. ``"plain"``: its proximal operator follows
        the step, with the length of the step: the learning rate :math:`\eta`, and with momentum
        :math:`\mu` and dampening :math:`\tau` what equal gradients make of it, from
        :math:`\eta` at the first step to :math:`\eta (1 - \tau) / (1 - \mu)` in the long run.
        The weights then settle where loss plus penalty is least. ``"preconditioned"``: with the
        step of each element, :math:`\eta / (\sqrt{\hat v} + \epsilon)` in Adam (Yun, Lozano and
        Yang 2021); the same as plain where the optimizer has no such denominator (SGD, Lion).
    clip : GlobalNorm, Norm or Value, optional
        How the gradients are clipped.
    clip_after_penalty : bool, optional
        Clip the sum of the gradient and the penalty's gradient, as a loop does that has the penalty
        in its loss: the same as ``penalty.add_gradient_`` followed by a clip. The norm then reads
        the weights, too. By default True with ``convention="keras"``, else False. It changes
        nothing with a `prox`, and coupled weight decay joins after the clip in any case.
    mask : Mask, MaskSet or tree of them, optional
        Elements that are not kept are not touched: weight and moments keep their bits (8-bit states
        as well as their blocks' scales let them), whatever the gradient. Norms are over all
        elements.
    constraint : Constraint, optional
        `Box` or `NonNegative`.
    decay_filter : callable, optional
        ``decay_filter(name, param)`` says whether a parameter decays, or by what factor of
        `weight_decay`; `skip_biases_and_norms` is one, `decay_filter_for` makes one.
    penalty_filter : callable, optional
        The same for `penalty`: whether it applies to a parameter, or what its strength is
        multiplied by.
    on_nonfinite : {None, "skip", "raise", "propagate"}
        What to do if a gradient is not finite, or their norm: change nothing, raise, or compute all
        the same. None: "skip" where a norm is taken (`GlobalNorm`, `Norm`), else "propagate".
        "skip" and "raise" without a norm cost one more reading of the gradients.
    stochastic_rounding : bool or Key, default False
        Round 16-bit parameters to one of their neighbours so that the mean is exact. The key says
        with which random bits; True is ``Key(0)``.
    comm : object with ``allgather``, optional
        For parameters that are split between ranks: the norm of `GlobalNorm` is that of the
        gradients of all ranks, disjoint parts of one model. ``comm.allgather(value)`` returns the
        list of all ranks' values, as in mpi4py. Every rank must step. Not for replicas, such as
        under PyTorch's DistributedDataParallel: each has the whole gradient, and its norm would
        count once for each rank.
    state_dtype : {None, "float32", "bfloat16", "8bit"}
        How moments are kept. None: as float64 for float64, else float32. "bfloat16": rounded
        stochastically. "8bit": a byte each and a float32 for each 256, the dynamic map of Dettmers
        et al. (2022); not where sums only grow (Adagrad, FTRL).
    master_weights : bool, default False
        Keep a float32 copy of 16-bit parameters: that is what is updated, they are its rounding.
    kahan : bool, default False
        Keep what rounding 16-bit parameters loses in a second 16-bit array, and add it back.
    ema : float, optional
        Keep an average of the weights, ``ema += (1 - decay) (w - ema)`` after each update. It
        starts with the weights that the constructor sees; see `restart_ema_`.
    ema_warmup : bool, default False
        Average over few steps at first: update k, counted from 0, has the decay
        ``min(ema, (1 + k) / (10 + k))``, as in TensorFlow.
    accumulation_steps : int, default 1
        Update with the mean gradient of so many calls of `step`.
    max_update_rms : float, optional
        Scale down each array's update, before the learning rate, if its root mean square is above:
        the update clipping of Adafactor (Shazeer and Stern 2018). Costs one more pass.
    convention : {"torch", "keras", "optax"}
        Whose rule and defaults are followed where libraries differ.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, there is no parameter, one cannot be
        written, or one appears twice.

    Examples
    --------
    >>> import ridgeline as rl
    >>> issubclass(rl.AdamW, rl.optimizers.Optimizer)
    True
    """

    params: Any = required(read=lambda opt: opt._tree())
    _: KW_ONLY
    penalty: Penalty | None = hyperparameter(default=None)
    clip: Clip | None = setting(default=None, check=_clip)
    mask: Any = fixed(default=None, read=lambda opt: opt._mask)
    constraint: Constraint | None = hyperparameter(default=None)
    decay_filter: ParameterFilter | None = hyperparameter(default=None)
    penalty_filter: ParameterFilter | None = hyperparameter(default=None)
    decay: Decay | None = hyperparameter(default=None)
    clip_after_penalty: bool | None = setting(default=None, check=optional(flag))
    on_nonfinite: OnNonFinite | None = setting(
        default=None, check=one_of(None, "skip", "raise", "propagate")
    )
    stochastic_rounding: bool | Key = fixed(default=False, check=_rounding)
    comm: Communicator | None = setting(default=None, check=optional(communicator))
    state_dtype: Field[str | None, Any] = fixed(default=None, check=_state_dtype)
    master_weights: bool = fixed(default=False, check=flag)
    kahan: bool = fixed(default=False, check=flag)
    ema: Field[Any, float | None] = fixed(
        default=None, check=optional(below_one), read=lambda opt: opt._averages()
    )
    ema_warmup: bool = setting(default=False, check=flag)
    accumulation_steps: int = fixed(default=1, check=lambda name, value: integer(name, value, 1))
    convention: Convention = fixed(default="torch")

    _conventions: ClassVar[tuple[str, ...]] = ("torch", "keras", "optax")
    _torch_couples_decay: ClassVar[bool] = True

    # ---- construction

    def _start(self, given: dict[str, Any]) -> None:
        """Check everything, look at the parameters, and make room for the states."""
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
                shared[name] = number_of(name).check(name, checked)
            else:
                options[name] = checked
        self._options = options
        self._state_type = options["state_dtype"] or "compute"
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
        """Check that ways to keep what rounding loses do not exclude each other."""
        options = self._options
        key = options["stochastic_rounding"]
        if key is not False and options["master_weights"]:
            raise ValueError(
                "stochastic_rounding: got True beside master_weights, which are not rounded"
            )
        if options["kahan"]:
            for name, used in (
                ("master_weights", options["master_weights"]), ("stochastic_rounding", key),
            ):  # fmt: skip
                if used is not False:
                    first, second = sorted(("kahan", name))
                    raise ValueError(f"{second}: got True beside {first}, wants one of them")

    def _take_groups(self, params: Any, shared: dict[str, Any]) -> None:
        """Make the groups from what the constructor was given."""
        self._grouped = _is_groups(params)
        names = self._hyperparameters()
        values = {name: shared[name] for name in names}
        self.groups = tuple(
            self._group(f"params[{place}]", given, values)
            for place, given in enumerate(params if self._grouped else [{"params": params}])
        )

    def _hyperparameters(self) -> list[str]:
        """List the names of a group's hyperparameters: those of all optimizers, then our own."""
        names = [n for n, field in self._fields.items() if isinstance(field, Hyperparameter)]
        first = ["lr", "weight_decay", "decay", "penalty", "prox", "constraint"]
        first += ["decay_filter", "penalty_filter"]
        return sorted(names, key=lambda n: first.index(n) if n in first else len(first))

    def _group(self, place: str, given: Mapping[str, Any], values: dict[str, Any]) -> Group:
        """Return a group of its own parameters, with the values that it does not give."""
        tree = named_tree(given["params"], writing=True)
        if isinstance(tree, list) and not tree and isinstance(given["params"], Iterator):
            raise ValueError("params: got an iterator that has nothing left, wants arrays")
        # Our own containers: what becomes of the caller's does not matter.
        tree = rebuilt(tree, [array for _, _, array in located("params", tree)])
        values, foreign = dict(values), {}
        for name, value in given.items():
            if name in values:
                values[name] = number_of(name).check(name, value)
            elif name != "params":
                check_foreign(place, name, values)
                foreign[name] = value
        self._check_group(values)
        return Group._of(tree, values, foreign, self)

    def _fix(self) -> None:
        """Fix what depends on the hyperparameters at construction."""

    def _tree(self) -> Any:
        """Return the parameters: a list of trees if there are groups."""
        trees = [group._params for group in self.groups]
        return trees if self._grouped else trees[0]

    def _connect(self) -> None:
        """Look at all parameters, and give the core what it needs of them."""
        tree = self._tree()
        found = located("params", tree)
        if not found:
            raise ValueError("params: got no arrays, wants at least one")
        # A parameter's name for filters is that in its group, for files that in all of them.
        own = [
            (g, name)
            for g, group in enumerate(self.groups)
            for _, name, _ in located("params", group._params)
        ]
        dtypes = [dtype_name(array) for _, _, array in found]
        for (place, _, _), dtype in zip(found, dtypes, strict=True):
            self._check_precision(place, dtype)
        self._check_halves(dtypes)
        self._core = _core.Optimizer(
            kind=self._kind(),
            convention=self.convention,
            state_type="compute" if self._state_type.startswith("float") else self._state_type,
            accumulation_steps=self._every,
            params=tree,
            grouped=self._grouped,
            sizes=[sum(g == place for g, _ in own) for place in range(len(self.groups))],
        )
        self._dtypes = dtypes
        self._shapes = [tuple(int(n) for n in array.shape) for _, _, array in found]
        self._paths = file_names([path or "param" for _, path, _ in found])
        self._own_names = [name for _, name in own]
        self._group_of = [g for g, _ in own]
        self._arrays = [array for _, _, array in found]
        self._places = rebuilt(tree, range(len(found)))
        self._by_name = isinstance(tree, dict)
        self._make_states(self.master_weights, self.kahan, average=self._options["ema"] is not None)
        for i, group in enumerate(self.groups):
            group._attach(self, self._core.group(i))
        for name in ("decay_filter", "penalty_filter"):
            self._set_factors(name, [group._values[name] for group in self.groups])
        self._find_rates()

    def _check_precision(self, place: str, dtype: str) -> None:
        wide, kind = dtype == "float64", self._state_type
        if kind == "compute":
            return
        if wide != (kind == "float64"):
            wants = "float64" if wide else "float32, bfloat16 or 8bit"
            raise TypeError(
                f"state_dtype: got {kind!r} for {place} of {dtype}, wants {wants} or None"
            )
        self._check_state_type("state_dtype", kind)

    def _check_state_type(self, name: str, value: str) -> None:
        """Refuse a type of states in which the rule does not work."""

    def _check_halves(self, dtypes: list[str]) -> None:
        for name in ("master_weights", "kahan", "stochastic_rounding"):
            if self._options[name] is not False and not any(each in HALVES for each in dtypes):
                raise TypeError(
                    f"{name}: got params of {', '.join(dict.fromkeys(dtypes))}, wants bfloat16 or "
                    "float16 among them"
                )

    # ---- groups and settings

    def add_group(self, params: Any, **hyperparameters: Any) -> None:
        """Add a group of parameters, with states of its own; the other states stay as they are.

        If the optimizer was created without groups, its parameters become the first group:
        gradients are a list of containers afterwards, and names in files start with ``0/``.

        Parameters
        ----------
        params : array or tree of arrays, or dict with ``"params"``
            The parameters of the new group, or the group as in the constructor.
        **hyperparameters : lr, weight_decay and more
            What differs from the first group, and items of your own.

        Raises
        ------
        TypeError, ValueError
            As in the constructor. Nothing is changed then.
        RuntimeError
            If another thread is in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> body, head = np.ones(2), np.ones(2)
        >>> opt = rl.SGD(body, lr=0.5)
        >>> opt.add_group(head, lr=0.25)
        >>> report = opt.step([np.ones(2), np.ones(2)])
        >>> body, head
        (array([0.5, 0.5]), array([0.75, 0.75]))
        """
        given = params if _is_groups([params]) else {"params": params}
        given = {**given, **hyperparameters}
        core, before = self._core, dict(self.__dict__)
        with core.turn(reads=False):
            try:
                place = f"params[{len(self.groups)}]"
                group = self._group(place, given, dict(self.groups[0]._values))
                self.groups, self._grouped = (*self.groups, group), True
                self._kept = {name: [*arrays] for name, arrays in self._kept.items()}
                self._connect()
                self._configure()
                new = len(self._shapes) - len(core.steps)
                self._core.steps = core.steps + [0] * new
                self._core.products = core.products + [1.0] * new
                self._core.accumulated = core.accumulated + [False] * new
                self._core.count, self._core.micro_step = core.count, core.micro_step
                if self._mask is not None:
                    self.set_mask([*(self._mask if before["_grouped"] else [self._mask]), None])
            except BaseException:
                self.__dict__.clear()
                self.__dict__.update(before)
                for i, old in enumerate(self.groups):
                    old._attach(self, core.group(i))
                raise

    def _change(self, groups: Sequence[Group], name: str, value: object) -> None:
        """Give groups a new value; on an error all keep the old one."""
        checked = number_of(name).check(name, value)
        for group in groups:
            self._check_group({**group._values, name: checked})
        if name in ("decay_filter", "penalty_filter"):
            filters = [checked if g in groups else g._values[name] for g in self.groups]
            self._set_factors(name, filters)
        for group in groups:
            group._take(self, name, checked)
        self._find_rates()

    def _check_group(self, values: Mapping[str, Any]) -> None:
        """Check the hyperparameters of a group against each other."""

    def _check_rate(self, lr: float) -> None:
        """Check the learning rate of one step more closely."""

    def _in_core(self, name: str, value: Any) -> Any:
        """Return a hyperparameter as the core takes it."""
        return value

    def _couples_decay(self, choice: Decay | None) -> bool:
        """Return whether weight decay joins the gradient: as in the library of the convention."""
        if choice is None:
            return self._torch_couples_decay and self.convention == "torch"
        return choice == "coupled"

    def _set_factors(self, name: str, filters: Sequence[ParameterFilter | None]) -> None:
        """Tell the core each parameter's factor, given the filters of the groups."""
        factors = []
        for k, array in enumerate(self._arrays):
            chosen = filters[self._group_of[k]]
            factor: Any = 1.0
            if chosen is not None:
                factor = chosen(self._own_names[k], array)
                if isinstance(factor, bool | np.bool_):
                    factor = float(factor)
                factor = non_negative(name, factor)
            factors.append(factor)
        core = self._core
        set_them = core.set_decay if name == "decay_filter" else core.set_penalty_factors
        set_them(factors)

    def _change_setting(self, name: str, checked: Any) -> None:
        self._check_settings({**self._options, name: checked})
        self._options[name] = checked
        self._configure()

    def _check_settings(self, options: Mapping[str, Any]) -> None:
        """Check settings against each other."""
        if options["ema_warmup"] and options["ema"] is None:
            raise ValueError("ema_warmup: got True without an average; give ema= too")

    def _configure(self) -> None:
        """Tell the core the settings."""
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

    def _policy(self) -> OnNonFinite:
        by_norm = isinstance(self.clip, GlobalNorm | Norm)
        return self.on_nonfinite or ("skip" if by_norm else "propagate")

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
                wants = "None: there is no average; give ema= at construction"
            raise ValueError(f"ema_decay: got {value!r}, wants {wants}")
        self._change_setting("ema", checked)

    def _averages(self) -> Any:
        """Return a tree like the parameters, of read-only views of the averages."""
        if "ema" not in self._kept:
            raise AttributeError("ema: there is no average; give ema= at construction")
        return self._tree_of(self._kept["ema"])

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name == "groups" or hasattr(type(self), name):
            object.__setattr__(self, name, value)
            return
        hint = did_you_mean(name, self._fields)
        raise AttributeError(f"{type(self).__name__} has no {name!r} to set{hint}")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in self._fields and "_options" in self.__dict__:
                return self._fields[name].read(self)  # raises its own error again
            hint = "" if name.startswith("_") else did_you_mean(name, dir(self))
            raise AttributeError(f"{type(self).__name__} has no {name!r}{hint}")

    def set_mask(self, mask: Any, *, reset: bool = False) -> None:
        """Choose which elements the steps leave alone.

        Parameters
        ----------
        mask : Mask, MaskSet, tree of Mask, or None
            Of the structure and shapes of the parameters (with groups, a list of such trees); None,
            also in the place of a mask or a tree, for no mask. Weights that are not kept are not
            set to 0 here: ``mask.apply_(params)`` does.
        reset : bool, default False
            Set the states of elements that are not kept to 0, so that those that come back later
            (RigL, SET) start anew.

        Raises
        ------
        TypeError, ValueError
            If it is something else, or its structure or a shape differs.

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
        """List the masks of all parameters, in their order."""
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

    # ---- steps

    def step(
        self, grads: Any = None, lr: float | None = None, *, loss_scale: float = 1.0
    ) -> StepReport:
        """Update all parameters from their gradients.

        Parameters
        ----------
        grads : array or tree of arrays
            Only read; of the structure and shapes of the parameters (with groups, a list of such
            trees), and of any float dtype: other dtypes are converted on the way. None in place of
            an array leaves that parameter, its state and its count of steps as they are; if all
            are None, nothing happens. Not given: the ``.grad`` of torch parameters.
        lr : float, optional
            The learning rate of this step, for all groups.
        loss_scale : float, default 1
            What the loss was multiplied by: gradients are divided by it.

        Returns
        -------
        StepReport

        Raises
        ------
        NonFiniteError
            If asked for by ``on_nonfinite="raise"``; it names the first bad array. Like every
            error, it leaves parameters and states as they were.
        TypeError, ValueError
            If the gradients differ from the parameters in structure or shape, overlap them, or a
            number is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0, 0.05])
        >>> opt = rl.SGD(w, lr=0.1, penalty=rl.L1(1.0), prox="plain")
        >>> report = opt.step(np.array([1.0, 0.0]))
        >>> w.round(3), report.penalty
        (array([0.8, 0. ]), 1.05)
        """
        if self._every == 1 and self.comm is None:  # one call of the core, which is a turn
            return self._step(grads, lr, loss_scale)
        with self._core.turn(reads=False):
            return self._step(grads, lr, loss_scale)

    def _step(self, grads: Any, lr: float | None, loss_scale: float) -> StepReport:
        scale = _core.reciprocal(positive("loss_scale", loss_scale))
        grads = self._own_gradients() if grads is None else _no_parameters(grads)
        if self._by_name and not isinstance(grads, dict):
            grads = named_tree(grads, "grads")
        rates = self._rates(lr)
        if self.comm is not None:
            grads = _core.reusable_tree(grads, "grads")  # they are looked at more than once
        if self._core.micro_step + 1 < self._every:
            # Ranks decide together, on their sums.
            policy = None if self.comm is None else "propagate"
            self._core.step(grads, task="add", scale=scale, on_nonfinite=policy, **rates)
            return StepReport(None, 1.0, False, None, 0.0, False, self.steps)
        return self._update(grads, scale=scale, **rates)

    def flush(self, lr: float | None = None) -> StepReport:
        """Update with the mean of the gradients accumulated so far, if there are any.

        For the last window of an epoch that is shorter than `accumulation_steps`.

        Parameters
        ----------
        lr : float, optional
            The learning rate of this step, for all groups.

        Returns
        -------
        StepReport

        Raises
        ------
        NonFiniteError, TypeError, ValueError
            As `step`.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0])
        >>> opt = rl.SGD(w, lr=0.5, accumulation_steps=4)
        >>> for g in (1.0, 0.0):
        ...     report = opt.step(np.array([g]))
        >>> opt.flush().updated, w
        (True, array([0.75]))
        """
        with self._core.turn(reads=False):
            if self._core.micro_step == 0:
                return StepReport(None, 1.0, False, None, 0.0, False, self.steps)
            nothing = rebuilt(self._places, [None] * len(self._arrays))
            return self._update(nothing, flush=True, **self._rates(lr))

    def _update(self, grads: Any, **options: Any) -> StepReport:
        """Update, by the norm over all ranks if there are some."""
        known = first = None
        if self.comm is not None:
            known, first = self._norm_of_ranks(self.comm, grads, options)
        done = self._core.step(grads, task="update", norm=known, **options)
        by_norm = isinstance(self.clip, GlobalNorm)
        norm = done.norm if known is None or by_norm else None
        if isinstance(self.clip, Norm):
            scale: Any = done.factors
        else:
            scale = 1.0 if done.skipped else done.factors[0]
        bad = first or done.first_nonfinite
        return StepReport(norm, scale, done.skipped, bad, done.penalty, done.updated, self.steps)

    def _find_rates(self) -> None:
        """Note which rates each step has to ask for: functions and arrays."""
        self._asked = {
            name: any(type(group._values[name]) is not float for group in self.groups)
            for name in ("lr", "weight_decay")
        }

    def _rates(self, lr: float | None) -> dict[str, Any]:
        """Return the rates of a step where they are not those that the core knows."""
        rates: dict[str, Any] = {}
        if lr is not None:
            rates["lr"] = [self._rate("lr", lr)] * len(self.groups)
        for name, asked in self._asked.items():
            if asked and name not in rates:
                rates[name] = [self._rate(name, group._values[name]) for group in self.groups]
        return rates

    def _rate(self, name: str, value: Any) -> float:
        rate = non_negative(name, detached(value(self.steps) if callable(value) else value))
        if name == "lr":
            self._check_rate(rate)
        return rate

    def _norm_of_ranks(
        self, comm: Communicator, grads: Any, options: dict[str, Any]
    ) -> tuple[float | None, str | None]:
        """Return the norm over all ranks, and this rank's first array that is not finite."""
        if isinstance(self.clip, Norm):
            raise ValueError(
                "comm: got a communicator with clip=Norm, wants GlobalNorm, Value or None"
            )
        policy = self._policy()
        by_norm = isinstance(self.clip, GlobalNorm)
        if not by_norm and policy == "propagate":
            return None, None
        own = self._core.step(grads, task="norm", **options)
        parts = gathered_norms(comm, own.norm or 0.0)
        norm = _core.global_norm(
            parts, self.clip.ord if isinstance(self.clip, GlobalNorm) else math.inf
        )
        if math.isfinite(norm) or policy != "raise":
            return norm, own.first_nonfinite
        raise non_finite_norm(norm, own.first_nonfinite)

    def _own_gradients(self) -> Any:
        """Return the gradients that torch left in the parameters."""
        try:
            found = [array.grad for array in self._arrays]
        except AttributeError:
            known = located("params", self._tree())
            place = next(at for at, _, w in known if not hasattr(w, "grad"))
            raise TypeError(
                f"grads: got None, wants gradients: {place} is no torch tensor with its own"
            ) from None
        return rebuilt(self._places, found)

    def zero_grad_(self, grads: Any = None) -> None:
        """Set gradients to 0, in place.

        Parameters
        ----------
        grads : array or tree of arrays
            Written. None among them is passed over. Not given: the ``.grad`` of torch parameters.

        Raises
        ------
        TypeError, ValueError
            If something is no array that can be written.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, g = np.ones(2), np.ones(2)
        >>> rl.SGD(w).zero_grad_(g)
        >>> g
        array([0., 0.])
        """
        if grads is None:
            grads = [
                array.grad for array in self._arrays if getattr(array, "grad", None) is not None
            ]
        _core.set_zero_(without_none(grads))

    def zero_grad(self, grads: Any = None) -> None:
        """Set gradients to 0, in place: `zero_grad_` under torch's name.

        Parameters
        ----------
        grads : array or tree of arrays
            See `zero_grad_`.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, g = np.ones(2), np.ones(2)
        >>> rl.SGD(w).zero_grad(g)
        >>> g
        array([0., 0.])
        """
        self.zero_grad_(grads)

    # ---- copies

    def __getstate__(self) -> dict[str, Any]:
        return {
            "version": 2,
            "groups": [{"params": g._params, **g._values, **g._foreign} for g in self.groups],
            "grouped": self._grouped,
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
        shared = {name: groups[0][name] for name in self._hyperparameters() if name in groups[0]}
        params = groups if state["grouped"] else groups[0]["params"]
        given = {name: field.default for name, field in self._fields.items()}
        given |= {name: value for name, value in options.items() if name in given}
        self._start({**given, **shared, "params": params, "mask": state["mask"]})
        if not state["grouped"]:
            known = (*self.groups[0]._values, "params")
            self.groups[0]._foreign.update({n: v for n, v in groups[0].items() if n not in known})
        self.load_state_dict(state["state"])

    def __copy__(self) -> Optimizer:
        raise TypeError("an optimizer writes its parameters: copy.deepcopy copies both")

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
    """Base class of optimizers that move the weights by a step; not instantiated directly."""

    _: KW_ONLY
    prox: Prox | None = hyperparameter(default=None)
    max_update_rms: float | None = setting(default=None, check=optional(positive))

    def _configure(self) -> None:
        super()._configure()
        self._core.set_max_update_rms(self.max_update_rms)


def _is_groups(params: Any) -> bool:
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, dict) and "params" in group for group in params)
    )


def _no_parameters(grads: Any) -> Any:
    """Return gradients; an error if the first is a parameter, as in step(model.parameters())."""
    if isinstance(grads, Iterator):
        grads = list(grads)
    first = grads
    while isinstance(first, dict | list | tuple) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    if type(first).__name__ == "Parameter" and hasattr(first, "requires_grad"):
        raise _core.RequiresGradError(
            "grads: got parameters, wants gradients: [p.grad for p in model.parameters()], or none "
            "in step(), which takes these"
        )
    return grads
