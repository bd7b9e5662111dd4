"""Parameter groups: the hyperparameters, how each is checked, and its name in the core."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeAlias, cast

import numpy as np

from .. import _core
from .._checks import (
    Check,
    any_finite,
    flag,
    instance,
    integer,
    non_negative,
    one_of,
    optional,
    type_of,
)
from .._checks import (
    decay as below_one,
)
from ..constraints import Constraint
from ..penalties import Penalty
from .fields import EVERY_OPTION, Hyperparameter, did_you_mean
from .states import state_type

if TYPE_CHECKING:
    from .grouped import Grouped

Prox: TypeAlias = Literal["plain", "preconditioned"]
Decay: TypeAlias = Literal["coupled", "decoupled"]
LearningRate: TypeAlias = "float | Callable[[int], float] | SupportsFloat"
WeightDecay: TypeAlias = "float | Callable[[int], float]"
ParameterFilter: TypeAlias = "Callable[[str, Any], float]"


def detached(value: object) -> object:
    """Return a tensor detached from the autograd graph; anything else unchanged."""
    return value.detach() if hasattr(value, "detach") else value


def _learning_rate(name: str, value: object) -> LearningRate:
    """Return a float, a function of the step, or an array that is read again at every step."""
    if callable(value):
        return value
    number = non_negative(name, detached(value))
    shared = hasattr(value, "shape") and not isinstance(value, np.generic)
    return cast("LearningRate", value) if shared else number


def _weight_decay(name: str, value: object) -> WeightDecay:
    return value if callable(value) else non_negative(name, value)


def _betas(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name}: got {value!r}, wants a pair of numbers in [0, 1)")
    return below_one(f"{name}[0]", value[0]), below_one(f"{name}[1]", value[1])


def _count(name: str, value: Any) -> int:
    return integer(name, value, 0)


def _filter(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise TypeError(f"{name}: got {type_of(value)}, wants a function of (name, param)")
    return value


def _state_dtype(name: str, value: object) -> str | None:
    kind = state_type(name, value)
    return None if kind == "compute" else kind


def _terms(penalty: Penalty | None) -> object:
    return None if penalty is None else penalty._terms


def _limits(constraint: Constraint | None) -> tuple[float, float]:
    return (-math.inf, math.inf) if constraint is None else constraint._limits


class Number:
    """A hyperparameter of a group: its check, its form in the core, and whether it may change."""

    def __init__(
        self,
        check: Check,
        core: str | None = "",
        convert: Callable[[Any], Any] | None = None,
        fixed: bool = False,
    ) -> None:
        self.check = check
        self.core = core
        self.convert = convert
        self.fixed = fixed

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        if self.core == "":
            self.core = name

    def __get__(self, group: Group | None, kind: type) -> Any:
        if group is None:
            return self
        if self.name not in group._values:
            raise AttributeError(f"a group has no {self.name!r}; it has {', '.join(group._values)}")
        return group._values[self.name]

    def __set__(self, group: Group, value: object) -> None:
        owner = group._owner()
        if owner is None:
            group._values[self.name] = self.check(self.name, value)
        else:
            owner._change((group,), self.name, value)

    def tell(self, core: _core.OptimizerGroup, value: Any) -> None:
        """Pass a checked value to the core, unless it is evaluated anew at every step."""
        if self.core is not None:
            setattr(core, self.core, value if self.convert is None else self.convert(value))


def _number(
    check: Check,
    core: str | None = "",
    convert: Callable[[Any], Any] | None = None,
    fixed: bool = False,
) -> Any:
    return Number(check, core, convert, fixed)


class Group(MutableMapping[str, Any]):
    """A parameter group: parameters that share hyperparameters; `Optimizer.groups` lists them.

    Hyperparameters can be read and changed between steps, as attributes or as items: ``group.lr``
    or ``group["lr"]``. ``group["params"]`` holds the group's parameters. Other items, such as a
    ``"name"``, are stored and otherwise ignored.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> head, body = np.ones(2), np.ones(2)
    >>> opt = rl.AdamW([{"params": body}, {"params": head, "lr": 1e-2, "name": "head"}], lr=1e-3)
    >>> [group.lr for group in opt.groups]
    [0.001, 0.01]
    >>> opt.groups[0]["lr"] = 5e-4
    >>> opt.groups[0]
    Group(lr=0.0005, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-08)
    >>> opt.groups[1]["name"]
    'head'
    """

    # Rates that are functions or arrays are evaluated and passed at each step.
    lr: LearningRate = _number(_learning_rate, None)
    weight_decay: WeightDecay = _number(_weight_decay, None)
    decay: Decay | None = _number(one_of(None, "coupled", "decoupled"), None)
    lr_independent_decay: bool = _number(flag)
    penalty: Penalty | None = _number(
        optional(instance(Penalty, wants="a penalty such as rl.L2(0.1), or None")), convert=_terms
    )
    prox: Prox | None = _number(
        one_of(None, "plain", "preconditioned"), convert=lambda prox: prox or "none"
    )
    constraint: Constraint | None = _number(
        optional(instance(Constraint, wants="a constraint such as rl.Box(-1, 1), or None")),
        "box",
        _limits,
    )
    decay_filter: ParameterFilter | None = _number(_filter, None)
    penalty_filter: ParameterFilter | None = _number(_filter, None)
    state_dtype: str | None = _number(_state_dtype, None, fixed=True)
    betas: tuple[float, ...] = _number(_betas)
    alpha: float = _number(below_one)
    eps: float = _number(non_negative)
    momentum: float = _number(non_negative)
    dampening: float = _number(any_finite)
    nesterov: bool = _number(flag)
    lr_decay: float = _number(non_negative)
    momentum_decay: float = _number(non_negative)
    beta: float = _number(non_negative)
    l1: float = _number(non_negative)
    l2: float = _number(non_negative)
    alpha_warmup: int = _number(_count)
    beta3_warmup: int = _number(_count)
    warmup_steps: int = _number(_count)
    r: float = _number(any_finite)
    weight_lr_power: float = _number(any_finite)

    _values: dict[str, Any]
    _foreign: dict[str, Any]
    _owner: weakref.ref[Grouped]
    _params: Any
    _handle: _core.OptimizerGroup

    def __init__(self) -> None:
        """Refuse: only optimizers create groups."""
        raise TypeError("Group cannot be instantiated directly; opt.add_group adds a group")

    @classmethod
    def _of(
        cls, params: Any, values: dict[str, Any], foreign: dict[str, Any], owner: Grouped
    ) -> Group:
        """Return a group of checked values."""
        group = object.__new__(cls)
        object.__setattr__(group, "_params", params)
        object.__setattr__(group, "_values", values)
        object.__setattr__(group, "_foreign", foreign)
        object.__setattr__(group, "_owner", weakref.ref(owner))  # no cycle: freed with its last use
        return group

    def _attach(self, owner: Grouped, core: _core.OptimizerGroup) -> None:
        object.__setattr__(self, "_handle", core)
        for name in self._values:
            self._tell(owner, name)

    def _take(self, owner: Grouped, name: str, checked: Any) -> None:
        self._values[name] = checked
        self._tell(owner, name)

    def _tell(self, owner: Grouped, name: str) -> None:
        number_of(owner, name).tell(self._handle, owner._in_core(name, self._values[name]))
        if name in ("lr", "weight_decay") and isinstance(self._values[name], float):
            setattr(self._handle, name, self._values[name])
        if name == "decay":
            self._handle.coupled_decay = owner._couples_decay(self._values[name])

    if not TYPE_CHECKING:  # checkers would take any name for an attribute

        def __setattr__(self, name: str, value: object) -> None:
            if name not in self._values:
                hint = did_you_mean(name, self._values)
                raise AttributeError(
                    f"a group has no {name!r}; it has {', '.join(self._values)}{hint}"
                )
            object.__setattr__(self, name, value)

    def __getitem__(self, key: str) -> Any:
        if key == "params":
            return self._params
        return self._values[key] if key in self._values else self._foreign[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "params":
            raise ValueError(
                "params: got other parameters for a group, wants none: opt.add_group adds a group"
            )
        if key in self._values:
            setattr(self, key, value)
        else:
            check_foreign("group", key, self._values)
            self._foreign[key] = value

    def __delitem__(self, key: str) -> None:
        if key in self._values or key == "params":
            raise TypeError(f"{key}: a group requires it, so it cannot be deleted")
        del self._foreign[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["params", *self._values, *self._foreign])

    def __len__(self) -> int:
        return 1 + len(self._values) + len(self._foreign)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> Any:
        raise TypeError("a Group belongs to its optimizer; pickle or copy the optimizer instead")

    def __repr__(self) -> str:
        shown = {**self._values, **self._foreign}
        told = {n: value for n, value in shown.items() if value is not None and value is not False}
        inner = ", ".join(f"{n}={value!r}" for n, value in told.items())
        return f"Group({inner})"


def number_of(owner: Grouped, name: str) -> Number:
    """Return an optimizer's declaration of a hyperparameter: its own, or that of `Group`."""
    field = owner._fields[name]
    assert isinstance(field, Hyperparameter)
    if field.number is None:
        field.number = vars(Group)[name]
    declared: Number = field.number
    return declared


def check_foreign(place: str, key: object, known: Mapping[str, Any]) -> None:
    """Refuse an unknown item of a group that looks like an option; others are the user's own."""
    hint = did_you_mean(str(key), known)
    if not isinstance(key, str) or key in EVERY_OPTION or hint:
        raise TypeError(f"{place}: got {key!r}, wants any of {', '.join(known)}{hint}")
