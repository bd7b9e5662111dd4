"""Construction: parameter groups, the core's optimizer, and changes of hyperparameters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .. import _core
from .._checks import non_negative
from .._files import file_names
from .._tree import located, named_tree, rebuilt
from .fields import Field, Hyperparameter, refuse_change
from .group import Decay, Group, ParameterFilter, check_foreign, detached, number_of
from .saving import Saved
from .states import HALVES, dtype_name


class Grouped(Saved):
    """The part of an optimizer that manages groups; a base class of `Optimizer` only."""

    _fields: dict[str, Field[Any, Any]]
    _conventions: ClassVar[tuple[str, ...]] = ("torch", "keras", "optax")
    _torch_couples_decay: ClassVar[bool] = True

    def _configure(self) -> None:
        """Pass the settings to the core."""
        raise NotImplementedError

    def set_mask(self, mask: Any, *, reset: bool = False) -> None:
        """Set the mask: pruned elements are not updated."""
        raise NotImplementedError

    def _take_groups(self, params: Any, shared: dict[str, Any]) -> None:
        """Create the groups from the constructor's arguments."""
        self._grouped = _is_groups(params)
        self._shared = {name: shared[name] for name in self._hyperparameters()}
        self.groups = tuple(
            self._group(f"params[{place}]", given, self._shared)
            for place, given in enumerate(params if self._grouped else [{"params": params}])
        )

    def _hyperparameters(self) -> list[str]:
        """Return the names of the hyperparameters: the common ones first, then the rule's own."""
        names = [n for n, field in self._fields.items() if isinstance(field, Hyperparameter)]
        first = ["lr", "weight_decay", "decay", "penalty", "prox", "constraint"]
        first += ["decay_filter", "penalty_filter", "lr_independent_decay", "state_dtype"]
        return sorted(names, key=lambda n: first.index(n) if n in first else len(first))

    def _group(self, place: str, given: Mapping[str, Any], values: dict[str, Any]) -> Group:
        """Return a group; `values` fills in the hyperparameters that `given` does not set."""
        tree = named_tree(given["params"], writing=True)
        if isinstance(tree, list) and not tree and isinstance(given["params"], Iterator):
            raise ValueError("params: got an iterator that has nothing left, wants arrays")
        # Our own containers: later changes of the caller's containers have no effect.
        tree = rebuilt(tree, [array for _, _, array in located("params", tree)])
        values, foreign = dict(values), {}
        for name, value in given.items():
            if name in values:
                values[name] = number_of(self, name).check(name, value)
            elif name != "params":
                check_foreign(place, name, values)
                foreign[name] = value
        self._check_decay(values)
        self._check_group(values)
        return Group._of(tree, values, foreign, self)

    def _tree(self) -> Any:
        """Return the parameters: a list of trees if there are groups."""
        trees = [group._params for group in self.groups]
        return trees if self._grouped else trees[0]

    def _connect(self) -> None:
        """Inspect all parameters and create the core's optimizer for them."""
        tree = self._tree()
        found = located("params", tree)
        if not found:
            raise ValueError("params: got no arrays, wants at least one")
        # Filters see a parameter's name within its group; in files the group comes first.
        paths = [path for _, path, _ in found]
        own = [(0, path) for path in paths]
        if self._grouped:
            parts = [path.partition("/") for path in paths]
            own = [(int(group), path) for group, _, path in parts]
        dtypes = [dtype_name(array) for _, _, array in found]
        kinds = [
            self._state_type_for(place, array, dtype, self.groups[group]._values["state_dtype"])
            for (place, _, array), dtype, (group, _) in zip(found, dtypes, own, strict=True)
        ]
        self._check_halves(dtypes)
        sizes = Counter(g for g, _ in own)
        self._core = _core.Optimizer(
            kind=self._kind(),
            convention=self._options["convention"],
            state_types=kinds,
            accumulation_steps=self._every,
            params=tree,
            grouped=self._grouped,
            sizes=[sizes[place] for place in range(len(self.groups))],
        )
        self._dtypes = dtypes
        self._state_types = kinds
        self._shapes = [tuple(int(n) for n in array.shape) for _, _, array in found]
        self._paths = file_names([path or "param" for path in paths])
        self._own_names = [name for _, name in own]
        self._group_of = [g for g, _ in own]
        self._arrays = [array for _, _, array in found]
        self._places = rebuilt(tree, range(len(found)))
        self._by_name = isinstance(tree, dict)
        self._make_states(
            self._options["master_weights"],
            self._options["kahan"],
            average=self._options["ema"] is not None,
        )
        for i, group in enumerate(self.groups):
            group._attach(self, self._core.group(i))
        for name in ("decay_filter", "penalty_filter"):
            self._set_factors(name, [group._values[name] for group in self.groups])
        self._find_rates()

    def _state_type_for(self, place: str, array: Any, dtype: str, kind: str | None) -> str:
        """Return the core's name for the type in which a parameter's states are stored."""
        if kind is None:
            return "compute"
        wide = dtype == "float64"
        if wide != (kind == "float64"):
            wants = "float64" if wide else "float32, bfloat16 or 8bit"
            raise TypeError(
                f"state_dtype: got {kind!r} for {place} of {dtype}, wants {wants} or None"
            )
        self._check_state_type("state_dtype", kind)
        small = math.prod(array.shape) < self._options["min_8bit_size"]
        return "compute" if kind.startswith("float") or (kind == "8bit" and small) else kind

    def _check_state_type(self, name: str, value: str) -> None:
        """Refuse a state type that the rule does not support."""

    def _check_halves(self, dtypes: list[str]) -> None:
        for name in ("master_weights", "kahan", "stochastic_rounding"):
            if self._options[name] is not False and not any(each in HALVES for each in dtypes):
                raise TypeError(
                    f"{name}: got params of {', '.join(dict.fromkeys(dtypes))}, wants bfloat16 or "
                    "float16 among them"
                )

    def add_group(self, params: Any, **hyperparameters: Any) -> None:
        """Add a parameter group with new states; existing states are unchanged.

        If the optimizer was created without groups, its parameters become the first group: from
        then on gradients are a list with one container per group, and names in files start with
        ``0/``.

        Parameters
        ----------
        params : array or tree of arrays, or dict with ``"params"``
            The parameters of the new group, or the group as in the constructor.
        **hyperparameters : lr, weight_decay and more
            Hyperparameters that differ from the constructor's arguments, and items of your own.

        Raises
        ------
        TypeError, ValueError
            As in the constructor. Nothing has been changed then.
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
                group = self._group(place, given, self._shared)
                self.groups, self._grouped = (*self.groups, group), True
                self._kept = {name: [*arrays] for name, arrays in self._kept.items()}
                self._connect()
                self._configure()
                new = len(self._shapes) - len(core.steps)
                self._core.steps = core.steps + [0] * new
                for name in self._of_parameters():
                    first = getattr(self._core, name)[len(core.steps) :]
                    setattr(self._core, name, getattr(core, name) + first)
                self._core.accumulated = core.accumulated + [False] * new
                self._core.count, self._core.micro_step = core.count, core.micro_step
                self._core.is_training = core.is_training
                if self._mask is not None:
                    self.set_mask([*(self._mask if before["_grouped"] else [self._mask]), None])
            except BaseException:
                self.__dict__.clear()
                self.__dict__.update(before)
                for i, old in enumerate(self.groups):
                    old._attach(self, core.group(i))
                raise

    def _change(self, groups: Sequence[Group], name: str, value: object) -> None:
        """Set a hyperparameter of groups; on an error all keep the old value."""
        number = number_of(self, name)
        if number.fixed:
            refuse_change(self, name)
        checked = number.check(name, value)
        for group in groups:
            values = {**group._values, name: checked}
            self._check_decay(values)
            self._check_group(values)
        if name in ("decay_filter", "penalty_filter"):
            chosen = set(groups)
            filters = [checked if g in chosen else g._values[name] for g in self.groups]
            self._set_factors(name, filters)
        for group in groups:
            if name in self._asked:
                self._asked[name] += _is_asked(checked) - _is_asked(group._values[name])
            group._take(self, name, checked)

    def _check_decay(self, values: Mapping[str, Any]) -> None:
        if not values["lr_independent_decay"]:
            return
        if self._couples_decay(values["decay"]):
            raise ValueError(
                "lr_independent_decay: got True with coupled decay, wants decay='decoupled'"
            )
        decay = values["weight_decay"]
        if not callable(decay) and decay > 1:
            raise ValueError(
                f"weight_decay: got {decay} with lr_independent_decay, wants at most 1: weights "
                "are multiplied by 1 - weight_decay"
            )

    def _check_group(self, values: Mapping[str, Any]) -> None:
        """Check the hyperparameters of a group against each other."""

    def _check_rate(self, lr: float) -> None:
        """Check a rule's further conditions on the learning rate of one step."""

    def _in_core(self, name: str, value: Any) -> Any:
        """Return a hyperparameter's value for the core."""
        return value

    def _couples_decay(self, choice: Decay | None) -> bool:
        """Return whether weight decay is added to the gradient; None follows the convention."""
        if choice is None:
            return self._torch_couples_decay and self._options["convention"] == "torch"
        return choice == "coupled"

    def _set_factors(self, name: str, filters: Sequence[ParameterFilter | None]) -> None:
        """Pass each parameter's factor, as given by the filters of the groups, to the core."""
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

    def _find_rates(self) -> None:
        """Count the rates that must be evaluated at each step: functions and arrays."""
        self._asked = {
            name: sum(_is_asked(group._values[name]) for group in self.groups)
            for name in ("lr", "weight_decay")
        }

    def _rates(self, lr: float | None) -> dict[str, Any]:
        """Return the rates of a step that differ from those stored in the core."""
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

    def _fix(self) -> None:
        """Decide what is determined by the hyperparameters at construction."""


def _is_asked(rate: object) -> bool:
    return type(rate) is not float


def _is_groups(params: Any) -> bool:
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, dict) and "params" in group for group in params)
    )
