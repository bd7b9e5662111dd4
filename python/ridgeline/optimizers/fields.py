"""Declared options: one line gives the name, type, default and check, and what editors show.

The fields of an optimizer's class are the parameters of its constructor, in order, as in a
dataclass (PEP 681): type checkers and `inspect.signature` list all of them. The field also handles
reading and assigning::

    class Lion(Optimizer):
        lr: LearningRate = hyperparameter(default=1e-4)
        betas: tuple[float, float] = hyperparameter(default=(0.9, 0.99))
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from .._checks import Check

if TYPE_CHECKING:
    from typing import overload

    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        """Do nothing: this exists for type checkers."""
        return lambda cls: cls


Read = TypeVar("Read", covariant=True)
Given = TypeVar("Given", contravariant=True)


class Field(Generic[Read, Given]):
    """An option of an optimizer: `Given` is the type accepted, `Read` the type read back."""

    name: str
    annotation: str  # of what the constructor accepts
    instead = ""  # advice for the error when an assignment is refused

    def __init__(
        self,
        default: Any,
        check: Check | None,
        read: Callable[[Any], Any] | None,
        by_convention: Mapping[str, Any],
    ) -> None:
        self.default = default
        self.check = check
        self.reader = read
        self.by_convention = by_convention

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:

        @overload
        def __get__(self, owner: None, kind: type) -> Self: ...
        @overload
        def __get__(self, owner: object, kind: type) -> Read: ...
        def __get__(self, owner: object, kind: type) -> Any: ...
        def __set__(self, owner: Any, value: Given) -> None: ...

    else:

        def __get__(self, owner: Any, kind: type) -> Any:
            return self if owner is None else self.read(owner)

        def __set__(self, owner: Any, value: Any) -> None:
            self.write(owner, value)

    def read(self, owner: Any) -> Any:
        """Return the checked value, or the result of the field's reader if it has one."""
        return owner._options[self.name] if self.reader is None else self.reader(owner)

    def write(self, owner: Any, value: Any) -> None:
        """Refuse: allocated memory or the parameters depend on the option."""
        refuse_change(owner, self.name, self.instead)

    def checked(self, value: Any, convention: str) -> Any:
        """Return the value, or its default, in the form in which it is stored."""
        if value is None and self.by_convention:
            value = self.by_convention[convention]
        return value if self.check is None else self.check(self.name, value)


def refuse_change(owner: object, name: str, instead: str = "") -> NoReturn:
    """Raise for an option that only the constructor takes."""
    fixed = f"{name}: is fixed when {type(owner).__name__} is created"
    raise AttributeError(f"{fixed}; {instead}" if instead else fixed)


class Setting(Field[Read, Given]):
    """An option that can be changed between steps."""

    def write(self, owner: Any, value: Any) -> None:
        """Check the value and pass it to the core."""
        owner._change_setting(self.name, self.checked(value, owner.convention))


class Hyperparameter(Field[Read, Given]):
    """An option that each group has; on the optimizer it stands for all groups."""

    number: Any

    def read(self, owner: Any) -> Any:
        """Return the value that all groups share."""
        values = [getattr(group, self.name) for group in owner.groups]
        if any(value != values[0] for value in values[1:]):
            raise AttributeError(
                f"{self.name}: differs between groups; read opt.groups[i].{self.name}"
            )
        return values[0]

    def write(self, owner: Any, value: Any) -> None:
        """Set the value in all groups."""
        owner._change(owner.groups, self.name, value)
        owner._shared[self.name] = owner.groups[0]._values[self.name]


def required(*, read: Callable[[Any], Any]) -> Any:
    """Declare an argument without a default."""
    return Field(inspect.Parameter.empty, None, read, {})


def fixed(
    *,
    default: Any = None,
    check: Check | None = None,
    read: Callable[[Any], Any] | None = None,
    instead: str = "",
    **by_convention: Any,
) -> Any:
    """Declare an option that only the constructor accepts."""
    field: Field[Any, Any] = Field(default, check, read, by_convention)
    field.instead = instead
    return field


def setting(*, default: Any = None, check: Check | None = None) -> Any:
    """Declare an option that can be assigned to."""
    return Setting(default, check, None, {})


def hyperparameter(*, default: Any = None, number: Any = None, **by_convention: Any) -> Any:
    """Declare an option that every group has.

    `Group` declares its check and its name in the core; `number` overrides that for a rule in which
    the name has another meaning.
    """
    field: Hyperparameter[Any, Any] = Hyperparameter(default, None, None, by_convention)
    field.number = number
    return field


EVERY_OPTION: set[str] = set()  # of all optimizers


@dataclass_transform(field_specifiers=(required, fixed, setting, hyperparameter), eq_default=False)
class Declared:
    """A class whose constructor accepts its fields."""

    _fields: dict[str, Field[Any, Any]] = {}  # noqa: RUF012
    _keyword_only: frozenset[str] = frozenset()

    def __init_subclass__(cls) -> None:
        """Write the constructor that the fields declare."""
        super().__init_subclass__()
        own: dict[str, Field[Any, Any]] = {}
        by_keyword: set[str] = set()
        after = False
        annotations = inspect.get_annotations(cls)
        for name, annotation in annotations.items():
            after = after or annotation == "KW_ONLY"  # those after dataclasses.KW_ONLY
            if isinstance(cls.__dict__.get(name), Field):
                own[name] = cls.__dict__[name]
                own[name].annotation = re.sub(r"Field\[(.*), (.*)\]", r"\2", annotation)
                if after:
                    by_keyword.add(name)
        if not own:
            return
        EVERY_OPTION.update(own)
        cls._fields = {**cls._fields, **own}
        cls._keyword_only = cls._keyword_only | by_keyword
        if "__init__" not in cls.__dict__:
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]

    def _start(self, given: dict[str, Any]) -> None:
        raise NotImplementedError


def _constructor(cls: type[Declared]) -> Callable[..., None]:
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY
            if field.name in cls._keyword_only
            else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=field.annotation,
        )
        for field in cls._fields.values()
    ]
    parameters.sort(key=lambda parameter: parameter.kind)
    signature = inspect.Signature(parameters)

    def __init__(self: Declared, *args: Any, **kwargs: Any) -> None:
        unknown = next((name for name in kwargs if name not in signature.parameters), None)
        if unknown is not None:
            known = list(signature.parameters)
            raise TypeError(
                f"{type(self).__name__}: got an unexpected argument {unknown!r}, "
                f"wants any of {', '.join(known)}{did_you_mean(unknown, known)}"
            )
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        given.apply_defaults()
        self._start(given.arguments)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own, *parameters]
    )
    __init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return __init__


# Names in other libraries; a hint is given only for options that the optimizer has.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "step_size": "lr",
    "beta1": "betas=(beta1, beta2)",
    "beta2": "betas=(beta1, beta2)",
    "beta_1": "betas=(beta_1, beta_2)",
    "beta_2": "betas=(beta_1, beta_2)",
    "b1": "betas=(b1, b2)",
    "b2": "betas=(b1, b2)",
    "epsilon": "eps",
    "rho": "alpha",
    "t_alpha": "alpha_warmup",
    "t_beta3": "beta3_warmup",
    "wd": "weight_decay",
    "clipnorm": "clip=rl.Norm(...)",
    "global_clipnorm": "clip=rl.GlobalNorm(...)",
    "clip_norm": "clip=rl.GlobalNorm(...)",
    "clip_grad_norm": "clip=rl.GlobalNorm(...)",
    "max_norm": "clip=rl.GlobalNorm(...)",
    "max_grad_norm": "clip=rl.GlobalNorm(...)",
    "gradient_clip_val": "clip=rl.GlobalNorm(...)",
    "clipvalue": "clip=rl.Value(...)",
    "clip_value": "clip=rl.Value(...)",
    "l1": "penalty=rl.L1(...)",
    "l2": "penalty=rl.L2(...)",
    "regularizer": "penalty",
    "ema_decay": "ema",
    "ema_momentum": "ema",
    "use_ema": "ema",
    "gradient_accumulation_steps": "accumulation_steps",
    "param_groups": "groups",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the ending of an error about an unknown name: "; did you mean ...?", or ""."""
    known = list(known)
    near = [_OTHER_NAMES.get(name, ""), *get_close_matches(name, known, 1)]
    found = [each for each in near if each.split("=")[0] in known]
    return f"; did you mean {found[0]}?" if found else ""
