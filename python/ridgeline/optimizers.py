r"""Optimizers: the regularized step in one pass over memory.

One call does it all for every parameter: unscale the gradient, look for what is not finite, clip,
add the penalty's gradient, update the moments, decay, step, apply the proximal operator, the mask
and the constraint, average, and round to the parameter's type. Each element's data is read once and
written once, after the one reading of the gradients that a norm needs::

    opt = rl.AdamW(params, lr=1e-3, weight_decay=1e-2, clip=rl.GlobalNorm(1.0),
                   penalty=rl.L1(1e-6), prox="plain")
    for batch in data:
        report = opt.step(gradients(params, batch))

``params`` are one array or a list, tuple, dict (nested) or iterable of them, pairs of names and
arrays as from ``model.named_parameters()``, or a list of groups (dicts with ``"params"`` and the
numbers that differ). ``grads`` are like them; None stands for a gradient that is not there: that
parameter stays as it is. The same bits for any number of threads, any target and any layout.
"""

from __future__ import annotations

import math
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from os import PathLike
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    SupportsFloat,
    TypeAlias,
    cast,
)

import numpy as np
import numpy.typing as npt

from . import _core
from ._files import file_names, load_arrays, save_arrays
from ._ranks import Communicator, communicator, gathered_norms
from ._tree import located
from ._tree import rebuilt as like
from .clipping import GlobalNorm, Norm, Value
from .constraints import Constraint
from .masks import Mask
from .penalties import Penalty
from .random import Key

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    class Options(TypedDict, total=False):
        """What every optimizer takes; see `Optimizer`."""

        penalty: Penalty | None
        prox: Prox | None
        clip: Clip | None
        mask: Any
        constraint: Constraint | None
        decay_filter: DecayFilter | None
        decay: Literal["coupled", "decoupled"] | None
        clip_after_penalty: bool | None
        on_nonfinite: OnNonFinite | None
        stochastic_rounding: bool | Key
        comm: Communicator | None
        state_dtype: Any
        master_weights: bool
        kahan: bool
        ema: float | None
        ema_warmup: bool
        accumulation_steps: int
        max_update_rms: float | None
        convention: Convention


__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Group",
    "Lion",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "StepReport",
    "decay_filter_for",
    "skip_biases_and_norms",
]

Array: TypeAlias = npt.NDArray[Any]
Prox: TypeAlias = Literal["plain", "preconditioned"]
Clip: TypeAlias = GlobalNorm | Norm | Value
OnNonFinite: TypeAlias = Literal["skip", "raise", "propagate"]
Convention: TypeAlias = Literal["torch", "keras", "optax"]
LearningRate: TypeAlias = "float | Callable[[int], float] | SupportsFloat"
DecayFilter: TypeAlias = "Callable[[str, Any], float]"

_VERSION = 1


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


# The name of a module that normalizes: norm1, layer_norm, input_layernorm, LayerNorm_0, ln_f, bn2.
_NORM = re.compile(
    r"(\w*_)?"
    r"(((layer|batch|group|instance|rms|sync_?batch)_?)?norm(\dd)?|bn|ln|gn)"
    r"(_?\d+|_(f|in|out|pre|post|final))?"
)
_NORM_TYPE = re.compile(r"norm(\dd)?$")


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith("_bias")


def skip_biases_and_norms(name: str, param: Any) -> bool:
    """Return whether a parameter decays: for ``decay_filter=``, no decay for biases and norms.

    A parameter does not decay if it has fewer than two axes, if it is called ``bias`` or
    ``..._bias``, or if it belongs to a normalization: if the last part of its name or the one
    before is ``norm``, ``norm1``, ``layer_norm``, ``ln_f``, ``bn2`` or the like, as a whole.
    ``norm1.linear.weight`` and ``normal_head.weight`` do decay. `decay_filter_for` asks the modules
    of a PyTorch model instead of names.

    Parameters
    ----------
    name : str
        The parameter's name: its keys joined by ``/``, or torch's with dots.
    param : array
        The parameter.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w, b = np.ones((2, 2)), np.ones(2)
    >>> rl.skip_biases_and_norms("layer/w", w), rl.skip_biases_and_norms("layer/b", b)
    (True, False)
    >>> rl.skip_biases_and_norms("norm1.weight", w)
    False
    """
    parts = name.lower().replace("/", ".").split(".")
    if len(np.shape(param)) <= 1 or _is_bias(parts[-1]):
        return False
    return not any(_NORM.fullmatch(part) for part in parts[-2:])


def decay_filter_for(model: Any) -> DecayFilter:
    """Return a ``decay_filter=`` for the parameters of a PyTorch model, as timm chooses them.

    A parameter does not decay if it has fewer than two axes, if it is called ``bias`` or
    ``..._bias``, if the type of its module is called a norm (``LayerNorm``, ``BatchNorm2d``,
    ``LlamaRMSNorm``), or if ``no_weight_decay()`` of the model, or of a module in it, names it.
    Such names may be patterns with ``*``; they are relative to the module that has the method.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters, or some of them, are those of the optimizer, in any container.

    Returns
    -------
    callable
        A function of a name and a parameter, which it knows by identity, not by name.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        From the optimizer, for a parameter that is not the model's.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> class LayerNorm:  # stands for torch.nn.LayerNorm
    ...     weight = np.ones((2, 2))
    ...
    ...     def __call__(self, x):
    ...         return x
    ...
    ...     def named_modules(self):
    ...         return [("", self)]
    ...
    ...     def named_parameters(self, recurse):
    ...         return [("weight", self.weight)]
    >>> model = LayerNorm()
    >>> decays = rl.decay_filter_for(model)
    >>> decays("weight", model.weight)
    False
    >>> opt = rl.AdamW({"weight": model.weight}, decay_filter=decays)
    """
    if isinstance(model, type) or not (hasattr(model, "named_modules") and callable(model)):
        raise TypeError(f"model: got {_type_of(model)}, wants a torch.nn.Module")
    decaying: list[Any] = []
    spared: list[Any] = []
    patterns: list[str] = []
    modules = list(model.named_modules())
    for path, module in modules:
        if callable(method := getattr(module, "no_weight_decay", None)):
            patterns += [f"{path}.{name}" if path else name for name in method()]
    for path, module in modules:
        is_norm = any(_NORM_TYPE.search(kind.__name__.lower()) for kind in type(module).__mro__)
        for name, param in module.named_parameters(recurse=False):
            whole = f"{path}.{name}" if path else name
            spares = is_norm or param.ndim <= 1 or _is_bias(name.lower())
            spares = spares or any(fnmatchcase(whole, pattern) for pattern in patterns)
            (spared if spares else decaying).append(param)
    return _DecayOf(decaying, spared)


class _DecayOf:
    """Whether a parameter decays, by identity; copied and pickled together with the parameters."""

    def __init__(self, decaying: list[Any], spared: list[Any]) -> None:
        self._of = decaying, spared  # one that is shared may be in both: spared
        self._known = {id(param): True for param in decaying}
        self._known |= {id(param): False for param in spared}

    def __call__(self, name: str, param: Any) -> bool:
        if id(param) not in self._known:
            raise ValueError(f"decay_filter: got {name!r}, wants parameters of the model")
        return self._known[id(param)]

    def __reduce__(self) -> Any:
        return type(self), self._of


# ---- checks

Check: TypeAlias = "Callable[[str, Any], Any]"


def _type_of(value: object) -> str:
    return type(value).__name__


# What other libraries call it; only what an optimizer has is said.
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
    "zero_grad": "zero_grad_",
}


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question to end an error about an unknown name with, or nothing."""
    known = list(known)
    near = [_OTHER_NAMES.get(name, ""), *get_close_matches(name, known, 1)]
    found = [each for each in near if each.split("=")[0] in known]
    return f"; did you mean {found[0]}?" if found else ""


def _number(name: str, value: object, low: float, high: float, wants: str) -> float:
    number = _core.number(name, value)
    if not (low <= number < high):
        raise ValueError(f"{name}: got {number:g}, wants {wants}")
    return number


def _non_negative(name: str, value: object) -> float:
    return _number(name, value, 0, math.inf, "a finite number of at least 0")


def _any_finite(name: str, value: object) -> float:
    return _number(name, value, -math.inf, math.inf, "a finite number")


def _fraction(name: str, value: object) -> float:
    return _number(name, value, 0, 1, "a number in [0, 1)")


def _betas(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name}: got {value!r}, wants a pair of numbers in [0, 1)")
    return _fraction(f"{name}[0]", value[0]), _fraction(f"{name}[1]", value[1])


def _learning_rate(name: str, value: object) -> LearningRate:
    """Return a number, a function of the step, or an array that is read at every step."""
    if callable(value):
        return value
    number = _non_negative(name, _detached(value))
    shared = hasattr(value, "shape") and not isinstance(value, np.generic)
    return cast("LearningRate", value) if shared else number


def _detached(value: object) -> object:
    return value.detach() if hasattr(value, "detach") else value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {_type_of(value)}, wants True or False")
    return bool(value)


def _one_of(*choices: str | None) -> Check:
    def check(name: str, value: Any) -> Any:
        if value in choices and isinstance(value, str | None):
            return value
        raise ValueError(f"{name}: got {value!r}, wants {' or '.join(map(repr, choices))}")

    return check


def _instance(*types: type, what: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is None or isinstance(value, types):
            return value
        raise TypeError(f"{name}: got {_type_of(value)}, wants {what}, or None")

    return check


def _clip(name: str, value: Any) -> Any:
    if value is None or isinstance(value, GlobalNorm | Norm | Value):
        return value
    got, limit = _type_of(value), "..."
    if isinstance(value, int | float) and not isinstance(value, bool):
        got = repr(float(value))
        limit = got if value >= 0 else limit
    raise TypeError(
        f"{name}: got {got}, wants rl.GlobalNorm({limit}), rl.Norm({limit}), rl.Value({limit}) "
        "or None"
    )


def _optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _rms(name: str, value: object) -> float:
    return _number(name, value, 5e-324, math.inf, "a finite number above 0")


def _filter(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise TypeError(f"{name}: got {_type_of(value)}, wants a function of a name and an array")
    return value


_prox = _one_of(None, "plain", "preconditioned")

# What a group can hold, and what it must be. An optimizer has some of them.
_NUMBERS: dict[str, Check] = {
    "lr": _learning_rate,
    "weight_decay": _non_negative,
    "penalty": _instance(Penalty, what="a penalty such as rl.L2(0.1)"),
    "prox": _prox,
    "constraint": _instance(Constraint, what="a constraint such as rl.Box(-1, 1)"),
    "decay_filter": _filter,
    "decay": _one_of(None, "coupled", "decoupled"),
    "betas": _betas,
    "alpha": _fraction,
    "eps": _non_negative,
    "momentum": _non_negative,
    "dampening": _any_finite,
    "nesterov": _flag,
    "lr_decay": _non_negative,
    "momentum_decay": _non_negative,
    "beta": _non_negative,
    "l1": _non_negative,
    "l2": _non_negative,
}
_SHARED = ("lr", "weight_decay", "decay", "penalty", "prox", "constraint", "decay_filter")

_OPTIONS = (
    "penalty",
    "prox",
    "clip",
    "mask",
    "constraint",
    "decay_filter",
    "decay",
    "clip_after_penalty",
    "on_nonfinite",
    "stochastic_rounding",
    "comm",
    "state_dtype",
    "master_weights",
    "kahan",
    "ema",
    "ema_warmup",
    "accumulation_steps",
    "max_update_rms",
    "convention",
)

_SETTINGS: dict[str, Check] = {
    "clip": _clip,
    "clip_after_penalty": _optional(_flag),
    "on_nonfinite": _one_of(None, "skip", "raise", "propagate"),
    "max_update_rms": _optional(_rms),
    "ema_decay": _optional(_fraction),
    "ema_warmup": _flag,
    "comm": _optional(communicator),
}


class Group:
    """Parameters that share their numbers; `Optimizer.groups` lists them.

    Attributes are ``lr``, ``weight_decay``, ``penalty``, ``prox``, ``constraint``, ``decay_filter``
    and the optimizer's own numbers. They can be changed between steps.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> head, body = np.ones(2), np.ones(2)
    >>> opt = rl.AdamW([{"params": body}, {"params": head, "lr": 1e-2}], lr=1e-3)
    >>> [group.lr for group in opt.groups]
    [0.001, 0.01]
    >>> opt.groups[0].lr = 5e-4
    >>> opt.groups[0]
    Group(lr=0.0005, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-08)
    """

    def __init__(self) -> None:
        """Refuse: optimizers make groups."""
        raise TypeError("a Group is made by an optimizer")

    @classmethod
    def _of(cls, names: tuple[str, ...], values: Mapping[str, Any], owner: Optimizer) -> Group:
        """Return a group of checked numbers."""
        group = object.__new__(cls)
        object.__setattr__(group, "_names", names)
        object.__setattr__(group, "_owner", weakref.ref(owner))  # no cycle: freed with its last use
        for name in names:
            setattr(group, name, values[name])
        return group

    if TYPE_CHECKING:
        _names: tuple[str, ...]
        _owner: weakref.ref[Optimizer]
        _last: tuple[Any, ...] | None

        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self._names:
            wants = ", ".join(self._names)
            hint = _did_you_mean(name, self._names)
            raise AttributeError(f"a group has no {name!r}; it has {wants}{hint}")
        owner = self._owner()
        if owner is None:
            self._take(name, _NUMBERS[name](name, value))
        else:
            owner._change((self,), name, value)

    def _take(self, name: str, checked: Any) -> None:
        object.__setattr__(self, "_last", None)
        object.__setattr__(self, name, checked)

    def __reduce__(self) -> Any:
        raise TypeError("a Group is a part of its optimizer: pickle or copy that")

    def __repr__(self) -> str:
        shown = [n for n in self._names if getattr(self, n) is not None]
        return f"Group({', '.join(f'{n}={getattr(self, n)!r}' for n in shown)})"

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def _numbers_at(self, lr: float, double_l2: bool, couples: bool) -> tuple[Any, ...]:
        """Return the same, the last one again if nothing has changed."""
        numbers = self._last
        if numbers is None or numbers[0] != lr:
            numbers = self._numbers(lr, double_l2, couples)
            object.__setattr__(self, "_last", numbers)
        return numbers

    def _numbers(self, lr: float, double_l2: bool, couples: bool) -> tuple[Any, ...]:
        """Return what the core wants of a group."""

        def get(name: str) -> float:
            return float(self.__dict__.get(name, 0.0))

        own = self.__dict__
        beta1, beta2 = own.get("betas", (0.0, own.get("alpha", 0.0)))
        low, high = own["constraint"]._limits if own["constraint"] else (-math.inf, math.inf)
        penalty = own["penalty"]
        return (
            lr,
            own["weight_decay"],
            beta1,
            beta2,
            get("eps"),
            get("momentum"),
            get("dampening"),
            get("nesterov"),
            get("lr_decay"),
            get("momentum_decay"),
            get("beta"),
            get("l1"),
            get("l2") * (2 if double_l2 else 1),
            own.get("prox") or "none",
            low,
            high,
            None if penalty is None else penalty._terms,
            couples if own["decay"] is None else own["decay"] == "coupled",
        )


# ---- trees of parameters


def _named(params: Any, name: str = "params", *, writing: bool = False) -> Any:
    """Return a tree that can be walked more than once; pairs of names and arrays become a dict."""
    kinds = [kind.__name__ for kind in type(params).__mro__]
    if hasattr(params, "named_parameters") and "ParameterList" not in kinds:
        raise TypeError(
            f"params: got {_type_of(params)}, wants its parameters: .parameters() or "
            ".named_parameters() of it"
        )
    tree = _core.reusable_tree(params, name, writing)

    def is_pair(node: Any) -> bool:
        return isinstance(node, list | tuple) and len(node) == 2 and isinstance(node[0], str)

    if isinstance(tree, list | tuple) and tree and all(map(is_pair, tree)):
        names = [name for name, _ in tree]
        if len(set(names)) < len(names):
            raise ValueError("params: got the same name twice")
        return dict(tree)
    return tree


def _is_groups(params: Any) -> bool:
    return (
        isinstance(params, list | tuple)
        and len(params) > 0
        and all(isinstance(group, dict) and "params" in group for group in params)
    )


def _dtype_name(array: Any) -> str:
    return str(array.dtype).rsplit(".", 1)[-1]  # torch says torch.float32


_HALVES = ("bfloat16", "float16")


def _state_type(value: object) -> str:
    """Return the core's name of a state type."""
    if value is None:
        return "compute"
    name: str = value if isinstance(value, str) else _dtype_name_of(value)
    if name in ("float32", "float64"):
        return name
    if name == "bfloat16":
        return name
    if name in ("8bit", "uint8", "int8"):
        return "8bit"
    raise ValueError(f"state_dtype: got {value!r}, wants 'float32', 'bfloat16' or '8bit'")


def _dtype_name_of(value: object) -> str:
    try:
        return str(np.dtype(value).name)  # type: ignore[call-overload]
    except TypeError:
        return str(value).rsplit(".", 1)[-1]


def _own_memory(dtype: str, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Return zeroed arrays of one piece of memory, each on a cache line of its own."""
    item = np.dtype(dtype).itemsize
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.cumsum([0, *[(size * item + 63) // 64 * 64 for size in sizes]])
    memory: Any = _core.Memory(max(int(starts[-1]), 64))
    return [
        np.frombuffer(memory, dtype, size, int(start)).reshape(shape)
        if size
        else np.empty(shape, dtype)
        for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]


def _read_only(array: Array) -> Array:
    view: Array = array.view()
    view.flags.writeable = False
    return view


class Optimizer:
    r"""What all optimizers share. Not to be created itself.

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

    _names: ClassVar[tuple[str, ...]] = ()  # of the optimizer's own numbers
    # Defaults that depend on the convention.
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    _conventions: ClassVar[tuple[str, ...]] = ("torch", "keras", "optax")
    _has_prox: ClassVar[bool] = True
    _torch_couples_decay: ClassVar[bool] = True
    _only_grows: ClassVar[bool] = False

    groups: tuple[Group, ...]

    def __new__(cls, *args: object, **kwargs: object) -> Optimizer:
        """Refuse to create an optimizer of no kind."""
        if cls is Optimizer:
            raise TypeError("Optimizer is what all optimizers share; create AdamW, ... instead")
        return super().__new__(cls)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    # ---- construction

    def _start(
        self, params: Any, numbers: dict[str, Any], options: Mapping[str, Any], **structure: Any
    ) -> None:
        """Check everything, look at the parameters, and make room for the states."""
        options = dict(options)
        convention = options.pop("convention", "torch")
        if convention not in self._conventions:
            wants = " or ".join(map(repr, self._conventions))
            raise ValueError(f"convention: got {convention!r}, wants {wants}")
        names = (*(n for n in _SHARED if self._has_prox or n != "prox"), *self._names)
        values: dict[str, Any] = {"penalty": None, "prox": None, "constraint": None}
        values |= {"decay_filter": None, "decay": None, "weight_decay": 0.0}
        values |= numbers
        for name in ("penalty", "prox", "constraint", "decay_filter", "decay"):
            if name in names and name in options:
                values[name] = options.pop(name)
        for name, defaults in self._defaults.items():
            if values.get(name) is None:
                values[name] = defaults[convention]

        take = options.pop
        self._set(
            _convention=convention,
            _structure=structure,
            _keys=(*names, *_SETTINGS),
            _state_type=_state_type(take("state_dtype", None)),
            _master=_flag("master_weights", take("master_weights", False)),
            _kahan=_flag("kahan", take("kahan", False)),
            _every=self._checked_count(take("accumulation_steps", 1)),
            _rounding=self._checked_rounding(take("stochastic_rounding", False)),
            _building=True,
        )
        for name in ("clip", "clip_after_penalty", "on_nonfinite", "max_update_rms", "comm"):
            setattr(self, name, take(name, None))
        average = take("ema", None)
        self._set(_average=average is not None)
        self.ema_decay = average if average is None else _fraction("ema", average)
        self.ema_warmup = take("ema_warmup", False)
        mask = take("mask", None)
        if options:
            known = dict.fromkeys([*names, *structure, *_OPTIONS])
            unknown = next(iter(options))
            raise TypeError(
                f"{type(self).__name__}: got an unexpected argument {unknown!r}, "
                f"wants any of {', '.join(known)}{_did_you_mean(unknown, known)}"
            )
        if self._master and self._kahan:
            raise ValueError("kahan: got True beside master_weights, wants one of them")
        if self._master and self._rounding is not None:
            raise ValueError(
                "stochastic_rounding: got True beside master_weights, which are not rounded"
            )
        if self._kahan and self._rounding is not None:
            raise ValueError("stochastic_rounding: got True beside kahan, wants one of them")
        self._take_parameters(params, names, values)
        self._make_states()
        self._set(_mask=None, _building=False)
        self._core.set_decay(self._decay_factors([group.decay_filter for group in self.groups]))
        if mask is not None:
            self.set_mask(mask)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @staticmethod
    def _checked_count(value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"accumulation_steps: got {_type_of(value)}, wants an integer")
        if (count := int(value)) < 1:
            raise ValueError(f"accumulation_steps: got {count}, wants at least 1")
        return count

    @staticmethod
    def _checked_rounding(value: Any) -> Key | None:
        if isinstance(value, Key):
            return value
        return Key(0) if _flag("stochastic_rounding", value) else None

    def _take_parameters(self, params: Any, names: tuple[str, ...], values: dict[str, Any]) -> None:
        grouped = _is_groups(params)
        trees = []
        groups: list[Group] = []
        for place, given in enumerate(params if grouped else [{"params": params}]):
            tree = _named(given["params"], writing=True)
            if isinstance(tree, list) and not tree and isinstance(given["params"], Iterator):
                raise ValueError("params: got an iterator that has nothing left, wants arrays")
            # Our own containers: what becomes of the caller's does not matter.
            trees.append(like(tree, (array for _, _, array in located("params", tree))))
            own = {name: value for name, value in given.items() if name != "params"}
            for name in own:
                if name not in names:
                    raise TypeError(
                        f"params[{place}]: got {name!r}, wants any of {', '.join(names)}"
                        f"{_did_you_mean(name, names)}"
                    )
            groups.append(Group._of(names, {**values, **own}, self))
        self._set(groups=tuple(groups), _grouped=grouped, _tree=trees if grouped else trees[0])
        self._set_kind()

        # A parameter's name for filters is that in its group, for files that in all of them.
        found = located("params", self._tree)
        if not found:
            raise ValueError("params: got no arrays, wants at least one")
        inner = [
            (g, name) for g, tree in enumerate(trees) for _, name, _ in located("params", tree)
        ]
        dtypes = [_dtype_name(array) for _, _, array in found]
        for (at, _, _), dtype in zip(found, dtypes, strict=True):
            self._check_precision(at, dtype)
        for name, used in (
            ("master_weights", self._master),
            ("kahan", self._kahan),
            ("stochastic_rounding", self._rounding is not None),
        ):
            if used and not any(dtype in _HALVES for dtype in dtypes):
                raise TypeError(
                    f"{name}: got params of {', '.join(dict.fromkeys(dtypes))}, wants bfloat16 or "
                    "float16 among them"
                )
        core = _core.Optimizer(
            self._kind(),
            self._convention,
            "compute" if self._state_type.startswith("float") else self._state_type,
            self._every,
            self._tree,
            grouped,
            [sum(g == place for g, _ in inner) for place in range(len(trees))],
        )
        self._set(
            _core=core,
            _dtypes=dtypes,
            _shapes=[tuple(int(n) for n in array.shape) for _, _, array in found],
            _paths=file_names([path or "param" for _, path, _ in found]),
            _own_names=[name for _, name in inner],
            _group_of=[g for g, _ in inner],
            _arrays=[array for _, _, array in found],
            _places=like(self._tree, range(len(found))),
        )

    def _check_precision(self, place: str, dtype: str) -> None:
        wide = dtype == "float64"
        if self._state_type != "compute" and wide != (self._state_type == "float64"):
            wants = "float64" if wide else "float32, bfloat16 or 8bit"
            raise TypeError(
                f"state_dtype: got {self._state_type!r} for {place} of {dtype}, "
                f"wants {wants} or None"
            )
        if self._structure.get("centered") and self._state_type in ("bfloat16", "8bit"):
            raise ValueError(
                f"state_dtype: got {self._state_type!r} for a centered RMSprop, which subtracts "
                "states of nearly the same size; wants 'float32'"
            )
        if self._only_grows and self._state_type == "8bit":
            raise ValueError(
                f"state_dtype: got '8bit' for {type(self).__name__}, whose sums only grow by less "
                "than a byte resolves; wants 'float32' or 'bfloat16'"
            )

    def _kind(self) -> str:
        """Return the core's name of the rule."""
        raise NotImplementedError

    def _state_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _set_kind(self) -> None:
        """Fix what depends on the numbers at construction."""

    def _squares(self, state: str) -> bool:
        return state in ("exp_avg_sq", "max_exp_avg_sq", "square_avg")

    def _compute(self) -> list[str]:
        return ["float64" if dtype == "float64" else "float32" for dtype in self._dtypes]

    def _own(self, dtypes: list[str], shapes: list[tuple[int, ...]] | None = None) -> list[Array]:
        """Return zeroed arrays for all parameters."""
        shapes = self._shapes if shapes is None else shapes
        arrays: list[Array] = [np.empty(0)] * len(shapes)
        for dtype in dict.fromkeys(dtypes):
            at = [k for k, own in enumerate(dtypes) if own == dtype]
            for k, array in zip(at, _own_memory(dtype, [shapes[k] for k in at]), strict=True):
                arrays[k] = array
        return arrays

    def _make_states(self) -> None:
        core = self._core
        count = len(self._shapes)
        kept: dict[str, list[Array]] = {}  # by the names of state_dict
        state_dtypes = {"bfloat16": ["uint16"] * count, "8bit": ["uint8"] * count}.get(
            self._state_type, self._compute()
        )
        for j, name in enumerate(self._state_names()):
            kept[name] = self._own(state_dtypes)
            core.attach("state", j, kept[name])
            if self._state_type == "8bit":
                blocks: list[tuple[int, ...]] = [
                    ((math.prod(shape) + 255) // 256,) for shape in self._shapes
                ]
                kept[f"{name}_scale"] = self._own(["float32"] * count, blocks)
                core.attach("scale", j, kept[f"{name}_scale"])
                if not self._squares(name):
                    for codes in kept[name]:
                        codes[...] = 127  # 0
        halves = [dtype in _HALVES for dtype in self._dtypes]
        for name, dtype, used in (
            ("master", "float32", self._master),
            ("compensation", "uint16", self._kahan),
        ):
            if used:  # the others have none: empty arrays
                shapes = [
                    shape if half else (0,)
                    for shape, half in zip(self._shapes, halves, strict=True)
                ]
                kept[name] = self._own([dtype] * count, shapes)
                there = zip(kept[name], halves, strict=True)
                core.attach(name, 0, [array if half else None for array, half in there])
        if self._average:
            kept["ema"] = self._own(self._compute())
            core.attach("ema", 0, kept["ema"])
        if self._every > 1:
            kept["accumulated"] = self._own(self._compute())
            core.attach("accumulated", 0, kept["accumulated"])
        params = self._arrays
        if self._master:
            chosen = [k for k, half in enumerate(halves) if half]
            _core.widen([params[k] for k in chosen], [kept["master"][k] for k in chosen])
        if self._average:
            _core.widen(params, kept["ema"])
        self._set(_kept=kept)
        self._initial_states()

    def _initial_states(self) -> None:
        """Give states their first values where those are not 0."""

    def _fill_state(self, name: str, value: float) -> None:
        for array in self._kept[name]:
            if self._state_type == "bfloat16":
                bits = np.float32(value).view(np.uint32)
                array[...] = np.uint16((int(bits) + 0x7FFF + (int(bits) >> 16 & 1)) >> 16)
            else:
                array[...] = value

    # ---- numbers

    def _change(self, groups: Sequence[Group], name: str, value: object) -> None:
        """Give groups a new number; on an error all keep the old one."""
        checked = _NUMBERS[name](name, value)
        for group in groups:
            self._check_number(group, name, checked)
        if name == "decay_filter" and not self._building:
            filters = [checked if group in groups else group.decay_filter for group in self.groups]
            self._core.set_decay(self._decay_factors(filters))
        for group in groups:
            group._take(name, checked)

    def _check_number(self, group: Group | None, name: str, value: Any) -> None:
        """Check a number of a group, or that of one step, more closely."""

    def _decay_factors(self, filters: Sequence[DecayFilter | None]) -> list[float]:
        """Return each parameter's factor, given the filters of the groups."""
        factors = []
        for k, array in enumerate(self._arrays):
            chosen = filters[self._group_of[k]]
            factor: Any = 1.0
            if chosen is not None:
                factor = chosen(self._own_names[k], array)
                if isinstance(factor, bool | np.bool_):
                    factor = float(factor)
                factor = _non_negative("decay_filter", factor)
            factors.append(factor)
        return factors

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            checked = _SETTINGS[name](name, value)
            if name == "max_update_rms" and checked is not None and not self._has_prox:
                raise ValueError("max_update_rms: FTRL has no update to scale, only new weights")
            if name == "ema_decay" and (checked is None) == self._average:
                raise ValueError(
                    f"ema_decay: got {value!r}, wants "
                    + (
                        "a number in [0, 1)"
                        if self._average
                        else "None: there is no average; give ema= at construction"
                    )
                )
            if name == "ema_warmup" and checked and not self._average:
                raise ValueError("ema_warmup: got True without an average; give ema= too")
            object.__setattr__(self, name, checked)
            return
        if name in self.__dict__.get("_keys", ()):
            self._change(self.groups, name, value)
            return
        keys = self.__dict__.get("_keys", ())
        hint = _did_you_mean(name, keys)
        raise AttributeError(f"{type(self).__name__} has no {name!r} to set{hint}")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            own = self.__dict__
            if name == "ema":  # the property's own error comes here
                raise AttributeError("ema: there is no average; give ema= at construction")
            if name.startswith("_") or name not in own.get("_keys", ()):
                hint = "" if name.startswith("_") else _did_you_mean(name, dir(self))
                raise AttributeError(f"{type(self).__name__} has no {name!r}{hint}")
            values = [getattr(group, name) for group in self.groups]
            if any(value != values[0] for value in values[1:]):
                raise AttributeError(f"{name}: differs between groups; read opt.groups[i].{name}")
            return values[0]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.__dict__.get("_keys", ())]

    @property
    def mask(self) -> Any:
        """What `set_mask` was given."""
        return self._mask

    @property
    def convention(self) -> str:
        """Whose rule is followed: "torch", "keras" or "optax"."""
        convention: str = self._convention
        return convention

    @property
    def state_dtype(self) -> str | None:
        """How moments are kept, as given; None for as float32 or float64."""
        return None if self._state_type == "compute" else self._state_type

    @property
    def accumulation_steps(self) -> int:
        """How many gradients make one update."""
        count: int = self._every
        return count

    @property
    def steps(self) -> int:
        """The number of updates so far."""
        count: int = self._core.count
        return count

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
        masks: list[tuple[str, Mask | None]] = []
        if mask is not None:
            masks = self._masks(mask)
            for k, (place, own) in enumerate(masks):
                if own is None:
                    continue
                if own.shape != self._shapes[k]:
                    raise ValueError(f"{place}: got shape {own.shape}, wants {self._shapes[k]}")
                words[k] = own._words
        reset = _flag("reset", reset)
        with self._core.turn(reads=False):
            self._core.attach("mask", 0, words)
            self._set(_mask=mask)
            for k, (_, own) in enumerate(masks if reset else []):
                if own is None:
                    continue
                pruned = ~own.to_array()
                for name in (*self._state_names(), "compensation"):
                    if name in self._kept and self._kept[name][k].shape == pruned.shape:
                        signed = self._state_type == "8bit" and not self._squares(name)
                        zero = 127 if signed and name != "compensation" else 0
                        self._kept[name][k][pruned] = zero

    def _masks(self, mask: Any) -> list[tuple[str, Mask | None]]:
        """List the places and masks of all parameters, in their order."""
        found: list[tuple[str, Mask | None]] = []
        _find_masks(self._tree, mask, "mask", found)
        return found

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
        scale = _core.reciprocal(
            _number("loss_scale", loss_scale, 5e-324, math.inf, "a finite number above 0")
        )
        numbers = self._group_numbers(lr)
        grads = self._own_gradients() if grads is None else _no_parameters(grads)
        if isinstance(self._tree, dict) and not isinstance(grads, dict):
            grads = _named(grads, "grads")
        if self.comm is not None:
            grads = _core.reusable_tree(grads, "grads")  # they are looked at more than once
        policy = self.on_nonfinite
        if policy is None:
            policy = "skip" if isinstance(self.clip, GlobalNorm | Norm) else "propagate"
        after = self.clip_after_penalty
        if after is None:
            after = self._convention == "keras"

        def step(task: str, known: float | None = None, policy: str = policy) -> Any:
            return self._core.step(
                grads,
                numbers,
                scale,
                self._clip_numbers(),
                after,
                known,
                policy,
                self.max_update_rms,
                self._average_decay(),
                self._rounding,
                task,
            )

        if self._core.micro_step + 1 < self._every:
            # Ranks decide together, on their sums.
            step("add", policy=policy if self.comm is None else "propagate")
            return StepReport(None, 1.0, False, None, 0.0, False, self.steps)
        known = first = None
        if self.comm is not None:
            known, first = self._norm_of_ranks(step, policy)
        norm, factors, skipped, bad, penalty, updated = step("update", known)
        if known is not None and not isinstance(self.clip, GlobalNorm):
            norm = None
        one = factors if isinstance(self.clip, Norm) else 1.0 if skipped else factors[0]
        return StepReport(norm, one, skipped, first or bad, penalty, updated, self.steps)

    def _group_numbers(self, lr: float | None) -> list[tuple[Any, ...]]:
        own = None if lr is None else self._rate(lr)
        numbers = []
        for group in self.groups:
            rate = group.lr if own is None else own
            if not isinstance(rate, float):
                rate = self._rate(rate(self.steps) if callable(rate) else rate)
            numbers.append(group._numbers_at(rate, self._doubles_l2(), self._couples_decay()))
        return numbers

    def _rate(self, value: object) -> float:
        """Return the learning rate of a step."""
        number = _non_negative("lr", _detached(value))
        self._check_number(None, "lr", number)
        return number

    def _doubles_l2(self) -> bool:
        return False

    def _couples_decay(self) -> bool:
        """Return whether weight decay joins the gradient in the library of the convention."""
        return self._torch_couples_decay and self._convention == "torch"

    def _average_decay(self) -> float:
        decay: float = self.ema_decay or 0.0
        return min(decay, (1 + self.steps) / (10 + self.steps)) if self.ema_warmup else decay

    def _clip_numbers(self) -> tuple[Any, ...]:
        clip = self.clip
        if clip is None:
            return ("none",)
        if isinstance(clip, Value):
            return ("value", *clip._limits)
        return ("norm" if isinstance(clip, Norm) else "global_norm", clip.max_norm, clip.ord)

    def _norm_of_ranks(
        self, step: Callable[[str], Any], policy: str
    ) -> tuple[float | None, str | None]:
        """Return the norm over all ranks, and this rank's first array that is not finite."""
        if isinstance(self.clip, Norm):
            raise ValueError(
                "comm: got a communicator with clip=Norm, wants GlobalNorm, Value or None"
            )
        by_norm = isinstance(self.clip, GlobalNorm)
        if not by_norm and policy == "propagate":
            return None, None
        own, _, _, bad, _, _ = step("norm")
        parts = gathered_norms(self.comm, own)
        norm = _core.global_norm(parts, self.clip.ord if by_norm else math.inf)
        if math.isfinite(norm) or policy != "raise":
            return norm, bad
        place = bad or "on another rank, or an overflow of the norm"
        raise _non_finite(f"the global norm is {norm}; first non-finite array: {place}", bad)

    def _own_gradients(self) -> Any:
        """Return the gradients that torch left in the parameters."""
        try:
            found = [array.grad for array in self._arrays]
        except AttributeError:
            place = next(at for at, _, w in located("params", self._tree) if not hasattr(w, "grad"))
            raise TypeError(
                f"grads: got None, wants gradients: {place} is no torch tensor with its own"
            ) from None
        return _filled(self._places, found)

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
        _core.set_zero_(_without_none(grads))

    # ---- states

    def _tree_of(self, arrays: list[Array]) -> Any:
        return _filled(self._places, [*map(_read_only, arrays)])

    @property
    def state(self) -> dict[str, Any]:
        """The states: a tree like the parameters for each name, of read-only NumPy views.

        float32 or float64; the bits of bfloat16 as uint16; 8-bit codes as uint8, with ``_scale``.
        """
        named_states = {name: arrays for name, arrays in self._kept.items() if name != "ema"}
        return {name: self._tree_of(arrays) for name, arrays in named_states.items()}

    @property
    def ema(self) -> Any:
        """The average of the weights: a tree like the parameters, of read-only NumPy views."""
        if not self._average:
            raise AttributeError("ema")
        return self._tree_of(self._kept["ema"])

    def restart_ema_(self) -> None:
        """Set the average to the weights as they are now.

        To be called after a checkpoint has been loaded into the model, or weights were written by
        other means: the average starts with the weights that the constructor saw.

        Raises
        ------
        ValueError
            If there is no average, or a parameter has another shape now.
        RuntimeError
            If another thread is in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.zeros(2)
        >>> opt = rl.SGD(w, ema=0.99)
        >>> w[:] = 5.0  # a checkpoint
        >>> opt.restart_ema_()
        >>> opt.ema
        array([5., 5.])
        """
        if not self._average:
            raise ValueError("ema: there is no average; give ema= at construction")
        found = located("params", self._tree)
        for (place, _, w), shape, dtype in zip(found, self._shapes, self._dtypes, strict=True):
            if tuple(w.shape) != shape or _dtype_name(w) != dtype:
                raise ValueError(f"{place}: got another shape or dtype than at construction")
        with self._core.turn(reads=False):
            _core.widen([w for _, _, w in found], self._kept["ema"])

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that steps change, except the parameters, as a flat dict.

        ``version``, ``optimizer`` (its name), ``step``, ``steps`` (one for each parameter), and
        ``exp_avg/w`` and the like: a state and the parameter's keys, joined by ``/``; a single
        array is called ``param``. bfloat16 as its bits, uint16. Settings such as ``lr`` are not in
        it.

        The values are NumPy arrays, the name in bytes; ``np.savez`` and safetensors take them. If
        a parameter is a torch tensor, they are torch tensors, and numbers, a string and lists of
        numbers: ``torch.load`` reads what ``torch.save`` writes, with ``weights_only=True``.

        A step that another thread is taking is waited for, and the next one waits for the copy.

        Returns
        -------
        dict of str to ndarray, or to tensors, int, str and list

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> opt = rl.AdamW({"w": np.ones(2)})
        >>> sorted(opt.state_dict())
        ['exp_avg/w', 'exp_avg_sq/w', 'optimizer', 'step', 'steps', 'version']
        """
        state: dict[str, Any] = self._snapshot()
        torch: Any = sys.modules.get("torch")
        if torch is None or not any(isinstance(w, torch.Tensor) for w in self._arrays):
            return state
        plain = self._counts()
        for name, array in state.items():
            state[name] = array.tolist() if name in plain else torch.from_numpy(array)
        state["optimizer"] = type(self).__name__
        return state

    def _counts(self) -> dict[str, Array]:
        """Return what is saved beside the states."""
        counts: dict[str, Array] = {
            "version": np.array(_VERSION),
            "optimizer": np.frombuffer(type(self).__name__.encode(), np.uint8).copy(),
            "step": np.array(self.steps),
            "steps": np.array(self._core.steps, np.int64),
        }
        if self._kind() == "nadam":
            counts["products"] = np.array(self._core.products, np.float64)
        if self._every > 1:
            counts["micro_step"] = np.array(self._core.micro_step)
            counts["has_accumulated"] = np.array(self._core.accumulated, np.uint8)
        return counts

    def _snapshot(self) -> dict[str, Array]:
        """Return copies of what `state_dict` holds, as arrays, of one moment between two steps."""
        with self._core.turn(reads=True):
            return self._counts() | {name: array.copy() for name, array in self._all_states()}

    def _all_states(self) -> Iterator[tuple[str, Array]]:
        for name, arrays in self._kept.items():
            for path, array in zip(self._paths, arrays, strict=True):
                yield f"{name}/{path}", array

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned: the next steps have the same bits.

        Parameters
        ----------
        state : mapping of str to array
            What `state_dict` returned for NumPy or for torch parameters, whichever these are, or
            what ``np.load`` or ``torch.load`` made of it.

        Raises
        ------
        TypeError, ValueError
            If it is of another optimizer or version, an array is missing, unexpected, or of another
            shape or dtype. Nothing is changed then.
        RuntimeError
            If another thread is in the middle of a step.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, g = np.ones(2), np.array([1.0, -1.0])
        >>> opt = rl.Adam(w)
        >>> report = opt.step(g)
        >>> other = rl.Adam(w)
        >>> other.load_state_dict(opt.state_dict())
        >>> other.steps
        1
        """
        if not hasattr(state, "keys") or not hasattr(state, "__getitem__"):
            raise TypeError(f"state: got {_type_of(state)}, wants a mapping of names to arrays")
        own = self._counts()
        states = dict(self._all_states())
        wants = own | states
        given = {}
        for key in state.keys():  # noqa: SIM118
            count = own.get(str(key))
            given[str(key)] = _saved_array(f"state[{key!r}]", state[key], count)
        if "version" not in given:
            raise ValueError("state: got no 'version', wants what state_dict returns")
        if given["version"].shape != () or given["version"] != _VERSION:
            raise ValueError(f"state: got version {given['version']!s}, wants {_VERSION}")
        if "optimizer" in given:
            name = given["optimizer"].tobytes().decode(errors="replace")
            if name != type(self).__name__:
                raise ValueError(f"state: got that of {name}, wants {type(self).__name__}")
        for key in wants:
            if key not in given:
                raise ValueError(f"state: got no {key!r}, wants the states of this optimizer")
        for key, array in given.items():
            if key not in wants:
                raise ValueError(f"state: got {key!r}, which this optimizer does not have")
            if array.shape != wants[key].shape:
                raise ValueError(
                    f"state[{key!r}]: got shape {array.shape}, wants {wants[key].shape}"
                )
            if array.dtype != wants[key].dtype:
                raise TypeError(f"state[{key!r}]: got {array.dtype}, wants {wants[key].dtype}")
        limits = {"micro_step": self._every - 1}
        for key in ("step", "steps", "micro_step"):
            if key in own and np.any((given[key] < 0) | (given[key] > limits.get(key, 2**62))):
                bound = f"at most {limits[key]}" if key in limits else "at least 0"
                raise ValueError(f"state[{key!r}]: got {given[key]}, wants numbers of {bound}")
        with self._core.turn(reads=False):
            for key, array in states.items():
                array[...] = given[key]
            self._core.steps = given["steps"].tolist()
            if "products" in own:
                self._core.products = given["products"].tolist()
            if "micro_step" in own:
                self._core.accumulated = given["has_accumulated"].astype(bool).tolist()
                self._core.micro_step = int(given["micro_step"])
            self._core.count = int(given["step"])

    def save(self, file: str | PathLike[str]) -> None:
        """Write `state_dict` to a file.

        Parameters
        ----------
        file : str or path
            A name that ends in ``.npz`` or in ``.safetensors``. A file that is there is
            replaced at once: if that fails, it is as it was.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        OSError
            If the file cannot be written.
        ModuleNotFoundError
            If it ends in ``.safetensors`` and that package is missing.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> opt = rl.Lion(np.ones(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     opt.save(f"{folder}/state.npz")
        ...     opt.load(f"{folder}/state.npz")
        """
        save_arrays(file, self._snapshot())

    def load(self, file: str | PathLike[str]) -> None:
        """Go on from a file that `save` wrote.

        Parameters
        ----------
        file : str or path
            A ``.npz`` or ``.safetensors`` file.

        Raises
        ------
        TypeError, ValueError
            If it is no such file, or does not fit; see `load_state_dict`.
        ModuleNotFoundError
            If it is a ``.safetensors`` file and that package is missing.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.ones(3)
        >>> opt = rl.Lion(w)
        >>> report = opt.step(np.ones(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     opt.save(f"{folder}/state.safetensors")
        ...     other = rl.Lion(w)
        ...     other.load(f"{folder}/state.safetensors")
        >>> other.steps
        1
        """
        self.load_state_dict(load_arrays(file))

    def __getstate__(self) -> dict[str, Any]:
        groups = [
            {"params": tree, **group._values()}
            for tree, group in zip(
                self._tree if self._grouped else [self._tree], self.groups, strict=True
            )
        ]
        return {
            "groups": groups,
            "grouped": self._grouped,
            "state": self._snapshot(),
            "mask": self._mask,
            "settings": {name: getattr(self, name) for name in _SETTINGS},
            "options": {
                "convention": self._convention,
                "state_dtype": None if self._state_type == "compute" else self._state_type,
                "master_weights": self._master,
                "kahan": self._kahan,
                "accumulation_steps": self._every,
                "stochastic_rounding": False if self._rounding is None else self._rounding,
            },
            "structure": self._structure,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = dict(state["settings"])
        options = {**state["options"], "ema": settings.pop("ema_decay"), "mask": state["mask"]}
        options |= settings
        groups = state["groups"]
        numbers = dict(groups[0])
        params = numbers.pop("params")
        self._start(groups if state["grouped"] else params, numbers, options, **state["structure"])
        self.load_state_dict(state["state"])

    def __copy__(self) -> Optimizer:
        raise TypeError("an optimizer writes its parameters: copy.deepcopy copies both")

    def __repr__(self) -> str:
        arrays = len(self._shapes)
        elements = sum(map(math.prod, self._shapes))
        inner = ", ".join(map(repr, self.groups))
        return (
            f"{type(self).__name__}({arrays} array{'s' * (arrays != 1)}, {elements} elements, "
            f"step={self.steps}: {inner}{self._other_settings()})"
        )

    def _other_settings(self) -> str:
        shown = {name: getattr(self, name) for name in _SETTINGS}
        shown |= {"state_dtype": self.state_dtype, "convention": self._convention}
        shown |= {"master_weights": self._master or None, "kahan": self._kahan or None}
        shown |= {"accumulation_steps": self._every, "stochastic_rounding": self._rounding}
        shown |= {"ema_warmup": self.ema_warmup or None}
        usual = {"accumulation_steps": 1, "convention": "torch"}
        return "".join(
            f", {name}={value!r}" for name, value in shown.items() if value != usual.get(name)
        )


def _filled(places: Any, values: Sequence[Any]) -> Any:
    """Return a container like one of numbers, with the values of these numbers."""
    if isinstance(places, int):
        return values[places]
    inner: Any = places.values() if isinstance(places, dict) else places
    inner = [values[place] if isinstance(place, int) else _filled(place, values) for place in inner]
    if isinstance(places, dict):
        return dict(zip(places, inner, strict=True))
    if isinstance(places, list):
        return inner
    return type(places)(*inner) if hasattr(places, "_fields") else type(places)(inner)


def _find_masks(tree: Any, node: Any, place: str, found: list[tuple[str, Mask | None]]) -> None:
    """List the places and masks of a container that is like that of the parameters."""
    if isinstance(tree, dict | list | tuple):
        if node is None:
            node = dict.fromkeys(tree) if isinstance(tree, dict) else [None] * len(tree)
        mapping = isinstance(tree, dict)
        if not isinstance(node, Mapping if mapping else Sequence):
            kind = "a mapping" if mapping else "a sequence"
            raise TypeError(f"{place}: got {_type_of(node)}, wants {kind} of Mask as in params")
        if set(node) != set(tree) if mapping else len(node) != len(tree):
            what = "keys" if mapping else "length"
            raise ValueError(f"{place}: got other {what}, wants those of params")
        for key, child in dict(tree if mapping else enumerate(tree)).items():
            _find_masks(child, node[key], f"{place}[{key!r}]", found)
    elif node is None or isinstance(node, Mask):
        found.append((place, node))
    else:
        hint = "" if np.ndim(node) == 0 else ", as rl.Mask.from_array makes of an array of bool"
        raise TypeError(f"{place}: got {_type_of(node)}, wants a Mask{hint}")


def _saved_array(place: str, value: Any, count: Array | None) -> Array:
    """Return an array of what a file may hold, of a count's own dtype if it is one."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        value = str(value)
    if isinstance(value, str):
        return np.frombuffer(value.encode(), np.uint8)
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        array = np.asarray(value)
        if count is not None:  # files and lists may have widened it
            plain, array = array, array.astype(count.dtype)
            if (plain.dtype.kind == "f") != (array.dtype.kind == "f") or np.any(plain != array):
                raise ValueError(f"{count.dtype} cannot hold {value}")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{place}: got {_type_of(value)}, wants an array: {error}") from error
    return array


def _non_finite(message: str, array: str | None) -> _core.NonFiniteError:
    error = _core.NonFiniteError(message)
    error.array = array
    return error


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


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list | tuple):
        return [_without_none(value) for value in tree if value is not None]
    return tree


class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum (Polyak 1964; Sutskever et al. 2013).

    .. math:: b \leftarrow \mu b + (1 - \tau) g, \qquad w \leftarrow w - \eta b
        \quad\text{or}\quad w \leftarrow w - \eta (g + \mu b) \text{ (Nesterov)}

    At an array's first step b is g. With ``convention="keras"`` the state is a velocity that holds
    the learning rate: :math:`v \leftarrow \mu v - \eta g`, :math:`w \leftarrow w + v`.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        :math:`\eta`.
    momentum : float, default 0
        :math:`\mu \ge 0`. Without it there is no state.
    dampening : float, default 0
        :math:`\tau`.
    nesterov : bool, default False
        Needs a momentum, and no dampening.
    weight_decay : float, default 0
        :math:`\lambda`; coupled or decoupled, see `decay` of `Optimizer`.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.SGD(w, lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     report = opt.step(w.copy())  # the gradient of w^2/2
    >>> w.round(3)
    array([ 0.72, -1.44])
    """

    _names = ("momentum", "dampening", "nesterov")

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        self._start(params, numbers | {"weight_decay": weight_decay}, options)

    def _set_kind(self) -> None:
        self._structure.setdefault("stateful", any(group.momentum for group in self.groups))

    def _check_number(self, group: Group | None, name: str, value: Any) -> None:
        _needs_state(self, name, value)
        if group is None:
            return
        now = {**group.__dict__, name: value}
        if len(now.keys() & set(self._names)) < len(self._names):
            return  # not all of them are there yet
        if now["nesterov"] and (not now["momentum"] or now["dampening"]):
            raise ValueError(
                f"nesterov: got True with momentum={now['momentum']} and "
                f"dampening={now['dampening']}, wants a momentum and no dampening"
            )

    def _kind(self) -> str:
        return "momentum" if self._structure["stateful"] else "sgd"

    def _state_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self._structure["stateful"] else ()


def _needs_state(optimizer: Optimizer, name: str, value: Any) -> None:
    """Check that a momentum finds the state that it needs."""
    if name == "momentum" and value and not optimizer._structure.get("stateful", True):
        raise ValueError(
            f"momentum: got {value}, wants 0: without a momentum at construction there is no state"
        )


class Adam(Optimizer):
    r"""Adam (Kingma and Ba 2015), with `amsgrad` (Reddi, Kale and Kumar 2018).

    .. math::
        m \leftarrow m + (1 - \beta_1)(g - m), \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2,
        \quad w \leftarrow w - \frac{\eta}{1 - \beta_1^k}
        \frac{m}{\sqrt{v / (1 - \beta_2^k)} + \epsilon}

    k counts the array's own steps. ``convention="keras"`` adds :math:`\epsilon` to
    :math:`\sqrt v` before the correction, and its default is 1e-7.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        :math:`\eta`.
    betas : (float, float), default (0.9, 0.999)
        :math:`\beta_1, \beta_2` in [0, 1).
    eps : float, optional
        :math:`\epsilon \ge 0`; 1e-8 by default.
    weight_decay : float, optional
        :math:`\lambda`, 0 by default. Coupled as in torch; decoupled with other conventions and in
        `AdamW`, see `decay` of `Optimizer`.
    amsgrad : bool, default False
        Use the largest v so far. ``convention="optax"`` compares corrected ones.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.Adam(w, lr=0.1).step(np.array([3.0, -0.5]))
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _names = ("betas", "eps")
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "eps": {"torch": 1e-8, "keras": 1e-7, "optax": 1e-8},
        "weight_decay": {"torch": 0.0, "keras": 0.0, "optax": 0.0},
    }

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self._start(params, numbers, options, amsgrad=_flag("amsgrad", amsgrad))

    def _kind(self) -> str:
        return "amsgrad" if self._structure["amsgrad"] else "adam"

    def _state_names(self) -> tuple[str, ...]:
        names = ("exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if self._structure["amsgrad"] else names


class AdamW(Adam):
    r"""Adam with decoupled weight decay by default (Loshchilov and Hutter 2019).

    .. math:: w \leftarrow w (1 - \eta\lambda), \text{ then as } \texttt{Adam}

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        :math:`\eta`.
    betas : (float, float), default (0.9, 0.999)
        See `Adam`.
    eps : float, optional
        See `Adam`.
    weight_decay : float, optional
        :math:`\lambda`: 1e-2 by default, as in torch; 4e-3 with ``convention="keras"``, 1e-4 with
        ``"optax"``.
    amsgrad : bool, default False
        See `Adam`.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.AdamW(w, lr=0.1, clip=rl.GlobalNorm(1.0), penalty=rl.L1(0.5), prox="plain")
    >>> opt.step(np.array([3.0, 4.0])).norm
    5.0
    >>> w.round(3)
    array([ 0.849, -2.048])
    """

    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **Adam._defaults,
        "weight_decay": {"torch": 1e-2, "keras": 4e-3, "optax": 1e-4},
    }
    _torch_couples_decay = False


class NAdam(Optimizer):
    r"""Adam with Nesterov's momentum (Dozat 2016).

    .. math::
        \mu_k = \beta_1 (1 - \tfrac12 0.96^{k\psi}), \quad
        w \leftarrow w - \eta \Bigl( \frac{1 - \mu_k}{1 - \prod_{i \le k} \mu_i} g
        + \frac{\mu_{k+1}}{1 - \prod_{i \le k+1} \mu_i} m \Bigr) \Big/ (\sqrt{\hat v} + \epsilon)

    ``convention="optax"`` keeps :math:`\mu` at :math:`\beta_1`.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 2e-3
        :math:`\eta`.
    betas : (float, float), default (0.9, 0.999)
        :math:`\beta_1, \beta_2` in [0, 1).
    eps : float, optional
        :math:`\epsilon \ge 0`; 1e-8 by default, 1e-7 with ``convention="keras"``.
    weight_decay : float, default 0
        :math:`\lambda`; coupled or decoupled, see `decay` of `Optimizer`.
    momentum_decay : float, optional
        :math:`\psi \ge 0`; 4e-3 by default, 1 with ``convention="keras"``.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.NAdam(w, lr=0.1).step(np.array([3.0, -0.5]))
    >>> w.round(4)
    array([ 0.8944, -1.8944])
    """

    _names = ("betas", "eps", "momentum_decay")
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "eps": {"torch": 1e-8, "keras": 1e-7, "optax": 1e-8},
        "momentum_decay": {"torch": 4e-3, "keras": 1.0, "optax": 0.0},
    }

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float | None = None,
        weight_decay: float = 0.0,
        momentum_decay: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        self._start(params, numbers | {"momentum_decay": momentum_decay}, options)

    def _kind(self) -> str:
        return "nadam"

    def _state_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")


class RMSprop(Optimizer):
    r"""RMSprop (Tieleman and Hinton 2012), centered (Graves 2013), with momentum.

    .. math:: v \leftarrow \alpha v + (1 - \alpha) g^2, \qquad
        w \leftarrow w - \eta \frac{g}{\sqrt v + \epsilon}

    Centered, v less the square of the gradient's mean. With momentum,
    :math:`b \leftarrow \mu b + g / (\sqrt v + \epsilon)` and :math:`w \leftarrow w - \eta b`.
    ``convention="keras"`` and ``"optax"`` have :math:`\sqrt{v + \epsilon}`, and their b holds
    :math:`\eta`.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-2
        :math:`\eta`.
    alpha : float, optional
        :math:`\alpha` in [0, 1); 0.99 by default, 0.9 with the other conventions.
    eps : float, optional
        :math:`\epsilon \ge 0`; 1e-8 by default, 1e-7 with ``convention="keras"``.
    weight_decay : float, default 0
        :math:`\lambda`; coupled or decoupled, see `decay` of `Optimizer`.
    momentum : float, default 0
        :math:`\mu \ge 0`.
    centered : bool, default False
        Whether to subtract the mean.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.RMSprop(w, lr=0.01).step(np.array([3.0, -0.5]))
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _names = ("alpha", "eps", "momentum")
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "alpha": {"torch": 0.99, "keras": 0.9, "optax": 0.9},
        "eps": {"torch": 1e-8, "keras": 1e-7, "optax": 1e-8},
    }

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-2,
        alpha: float | None = None,
        eps: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        numbers["momentum"] = momentum
        self._start(params, numbers, options, centered=_flag("centered", centered))

    def _set_kind(self) -> None:
        self._structure.setdefault("stateful", any(group.momentum for group in self.groups))

    def _check_number(self, group: Group | None, name: str, value: Any) -> None:
        _needs_state(self, name, value)

    def _kind(self) -> str:
        centered = "_centered" * self._structure["centered"]
        return f"rmsprop{centered}{'_momentum' * self._structure['stateful']}"

    def _state_names(self) -> tuple[str, ...]:
        names = ("square_avg", "grad_avg", "momentum_buffer")
        there = (True, self._structure["centered"], self._structure["stateful"])
        return tuple(name for name, here in zip(names, there, strict=True) if here)


class Adagrad(Optimizer):
    r"""Adagrad (Duchi, Hazan and Singer 2011).

    .. math:: s \leftarrow s + g^2, \qquad
        w \leftarrow w - \frac{\eta}{1 + (k - 1)\delta} \frac{g}{\sqrt s + \epsilon}

    ``convention="keras"`` and ``"optax"`` have :math:`\sqrt{s + \epsilon}`.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-2
        :math:`\eta`.
    lr_decay : float, default 0
        :math:`\delta \ge 0`.
    weight_decay : float, default 0
        :math:`\lambda`; coupled or decoupled, see `decay` of `Optimizer`.
    initial_accumulator_value : float, optional
        What s starts with; 0 by default, 0.1 with the other conventions.
    eps : float, optional
        :math:`\epsilon \ge 0`; 1e-10 by default, 1e-7 with the other conventions.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.Adagrad(w, lr=0.1).step(np.array([3.0, -0.5]))
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _names = ("lr_decay", "eps")
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "eps": {"torch": 1e-10, "keras": 1e-7, "optax": 1e-7}
    }
    _only_grows = True

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float | None = None,
        eps: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        initial = _initial_value(initial_accumulator_value, options)
        self._start(params, numbers, options, initial=initial)

    def _kind(self) -> str:
        return "adagrad"

    def _state_names(self) -> tuple[str, ...]:
        return ("sum",)

    def _initial_states(self) -> None:
        self._fill_state("sum", self._structure["initial"])


def _initial_value(value: float | None, options: Options) -> float:
    """Return what sums of squares start with."""
    if value is None:
        return 0.0 if options.get("convention", "torch") == "torch" else 0.1
    return _non_negative("initial_accumulator_value", value)


class Lion(Optimizer):
    r"""Lion (Chen et al. 2023): the sign of an interpolated momentum.

    .. math:: w \leftarrow w - \eta \operatorname{sign}(\beta_1 m + (1 - \beta_1) g), \qquad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-4
        :math:`\eta`.
    betas : (float, float), default (0.9, 0.99)
        :math:`\beta_1, \beta_2` in [0, 1).
    weight_decay : float, optional
        0 by default, 1e-3 with ``convention="optax"``.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0, 0.5])
    >>> report = rl.Lion(w, lr=0.25).step(np.array([3.0, -0.5, 0.0]))
    >>> w
    array([ 0.75, -1.75,  0.5 ])
    """

    _names = ("betas",)
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "weight_decay": {"torch": 0.0, "keras": 0.0, "optax": 1e-3}
    }
    _torch_couples_decay = False

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        self._start(params, numbers, options)

    def _kind(self) -> str:
        return "lion"

    def _state_names(self) -> tuple[str, ...]:
        return ("exp_avg",)


class FTRL(Optimizer):
    r"""FTRL-Proximal (McMahan et al. 2013), whose L1 gives exact zeros.

    .. math::
        n' = n + g^2, \quad z \leftarrow z + g - \frac{\sqrt{n'} - \sqrt n}{\eta} w, \qquad
        w \leftarrow \begin{cases} 0 & |z| \le \lambda_1 \\
        -\dfrac{z - \lambda_1 \operatorname{sign} z}{(\beta + \sqrt{n'})/\eta + \lambda_2}
        & \text{else} \end{cases}

    Weights follow from z and n, which start without them: initial weights other than 0 count only
    through the first sigma, as in TensorFlow.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 0.1
        :math:`\eta > 0`, alpha in the paper.
    beta : float, optional
        :math:`\beta \ge 0`; 1 by default, 0 with ``convention="keras"``.
    l1, l2 : float, default 0
        :math:`\lambda_1, \lambda_2 \ge 0`. With ``convention="keras"`` `l2` counts twice.
    initial_accumulator_value : float, optional
        What n starts with; 0 by default, 0.1 with ``convention="keras"``.
    weight_decay : float, default 0
        :math:`\lambda`; decoupled unless `decay` of `Optimizer` says otherwise.
    **options : penalty, clip, mask, constraint and more
        See `Optimizer`. `L1`, `L2` and `ElasticNet` as `penalty` add to `l1` and `l2`; the gradient
        of others, and of their sums, joins the gradient. There is no `prox`: this is one, and no
        `max_update_rms`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.zeros(2)
    >>> opt = rl.FTRL(w, lr=0.5, l1=1.0)
    >>> report = opt.step(np.array([3.0, 0.5]))
    >>> w
    array([-0.25,  0.  ])
    """

    _names = ("beta", "l1", "l2")
    _defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"beta": {"torch": 1.0, "keras": 0.0}}
    _torch_couples_decay = False
    _conventions = ("torch", "keras")
    _has_prox = False
    _only_grows = True

    def __init__(
        self,
        params: Any,
        lr: LearningRate = 0.1,
        beta: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        initial_accumulator_value: float | None = None,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        numbers = {"lr": lr, "beta": beta, "l1": l1, "l2": l2, "weight_decay": weight_decay}
        initial = _initial_value(initial_accumulator_value, options)
        self._start(params, numbers, options, initial=initial)

    def _check_number(self, group: Group | None, name: str, value: Any) -> None:
        if name == "lr" and not callable(value) and not _core.number(name, _detached(value)) > 0:
            raise ValueError("lr: got 0, wants a finite number above 0: FTRL divides by it")

    def _kind(self) -> str:
        return "ftrl"

    def _state_names(self) -> tuple[str, ...]:
        return ("z", "n")

    def _initial_states(self) -> None:
        self._fill_state("n", self._structure["initial"])

    def _doubles_l2(self) -> bool:
        convention: str = self._convention
        return convention == "keras"
