"""The memory of an optimizer: the states it keeps between steps."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._tree import located, rebuilt

Array: TypeAlias = npt.NDArray[Any]

if TYPE_CHECKING:
    from .group import Group, LearningRate

HALVES = ("bfloat16", "float16")
_RULES = _core.optimizer_kinds()
_BLOCK = 256  # of elements that share the scale of an 8-bit state


def state_type(name: str, value: object) -> str:
    """Return the core's name of a state type."""
    if value is None:
        return "compute"
    text: str = value if isinstance(value, str) else _dtype_name_of(value)
    if text in ("float32", "float64", "bfloat16"):
        return text
    if text in ("8bit", "uint8", "int8"):
        return "8bit"
    raise ValueError(f"{name}: got {value!r}, wants 'float32', 'bfloat16' or '8bit'")


def _dtype_name_of(value: object) -> str:
    try:
        return str(np.dtype(value).name)  # type: ignore[call-overload]
    except TypeError:
        return str(value).rsplit(".", 1)[-1]


def dtype_name(array: Any) -> str:
    """Return the name of an array's dtype, NumPy's or torch's."""
    return _name(array.dtype)


@cache
def _name(dtype: Any) -> str:
    return str(dtype).rsplit(".", 1)[-1]  # torch says torch.float32


def _own_memory(dtype: str, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Return zeroed arrays in one block of memory, each starting on a new cache line."""
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


def zeroed(dtypes: list[str], shapes: list[tuple[int, ...]]) -> list[Array]:
    """Return zeroed arrays, those of one dtype in one block of memory."""
    arrays: list[Array] = [np.empty(0)] * len(shapes)
    for dtype in dict.fromkeys(dtypes):
        at = [k for k, own in enumerate(dtypes) if own == dtype]
        for k, array in zip(at, _own_memory(dtype, [shapes[k] for k in at]), strict=True):
            arrays[k] = array
    return arrays


def compute_dtypes(dtypes: list[str]) -> list[str]:
    """Return the dtypes in which parameters of these dtypes are updated."""
    return ["float64" if dtype == "float64" else "float32" for dtype in dtypes]


def _none(count: int) -> list[Array]:
    """Return empty arrays, for states without scales."""
    return [np.empty(0, np.float32) for _ in range(count)]


def _read_only(array: Array) -> Array:
    view: Array = array.view()
    view.flags.writeable = False
    return view


class States:
    """The part of an optimizer that owns memory; a base class of `Optimizer` only."""

    groups: tuple[Group, ...]
    """The parameter groups; a single one if the constructor was not given groups."""

    if TYPE_CHECKING:
        lr: LearningRate  # a field of every rule

    _core: _core.Optimizer
    _arrays: list[Any]  # the parameters
    _shapes: list[tuple[int, ...]]
    _dtypes: list[str]
    _paths: list[str]  # their names in files
    _places: Any  # a tree like that of the parameters, of their indices
    _kept: dict[str, list[Array]]  # by the names of state_dict
    _state_types: list[str]  # by the core's names
    _every: int
    _options: dict[str, Any]  # by the names of the fields
    _stateful: bool | None = None  # whether there is a momentum state, for rules where it varies
    _copies: ClassVar[tuple[str, ...]] = ()  # states that start as copies of the weights
    _mask: Any
    _grouped: bool
    _by_name: bool  # whether the parameters are a dict
    _own_names: list[str]  # in their groups
    _group_of: list[int]
    _asked: dict[str, int]  # the number of groups whose rate is evaluated at each step
    _shared: dict[str, Any]  # the hyperparameters of a group that sets none

    def _kind(self) -> str:
        """Return the core's name of the rule."""
        raise NotImplementedError

    def _squares(self) -> dict[str, bool]:
        """Return, for each state of the rule by name, whether it holds squares."""
        return dict(_RULES[self._kind()])

    def _initial_value(self, state: str) -> float:
        """Return the initial value of a state."""
        return 0.0

    def _make_states(self, master: bool, kahan: bool, average: bool) -> None:
        """Allocate the states of the parameters that have none yet, and pass all to the core."""
        first = len(next(iter(self._kept.values()), ()))
        new = self._new_states(first, master, kahan, average)
        for name in {**self._kept, **new}:  # scales exist once one state has 8 bits
            own = self._kept.setdefault(name, _none(first))
            own.extend(new.get(name, _none(len(self._shapes) - first)))
        self._attach()

    def _new_states(
        self, first: int, master: bool, kahan: bool, average: bool
    ) -> dict[str, list[Array]]:
        shapes, dtypes = self._shapes[first:], self._dtypes[first:]
        count, compute = len(shapes), compute_dtypes(dtypes)
        kept: dict[str, list[Array]] = {}
        kinds = self._state_types[first:]
        stored_as = {"bfloat16": "uint16", "8bit": "uint8"}
        of_states = [stored_as.get(kind, wide) for kind, wide in zip(kinds, compute, strict=True)]
        for name in self._squares():
            kept[name] = zeroed(of_states, shapes)
            if "8bit" in kinds:
                blocks = [
                    ((math.prod(shape) + _BLOCK - 1) // _BLOCK if kind == "8bit" else 0,)
                    for shape, kind in zip(shapes, kinds, strict=True)
                ]
                kept[f"{name}_scale"] = zeroed(["float32"] * count, blocks)  # type: ignore[arg-type]
            for array, kind in zip(kept[name], kinds, strict=True):
                first_value = self._stored(name, self._initial_value(name), kind)
                if first_value:  # pages of zeros stay untouched
                    array[...] = first_value
            if name in self._copies:
                _core.widen(self._arrays[first:], kept[name])
        # Parameters that are not 16-bit have empty arrays as master and compensation.
        half_shapes = [
            shape if dtype in HALVES else (0,) for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        if master:
            kept["master"] = zeroed(["float32"] * count, half_shapes)
            chosen = [k for k, dtype in enumerate(dtypes) if dtype in HALVES]
            _core.widen(
                [self._arrays[first + k] for k in chosen], [kept["master"][k] for k in chosen]
            )
        if kahan:
            kept["compensation"] = zeroed(["uint16"] * count, half_shapes)
        if average:
            kept["ema"] = zeroed(compute, shapes)
            _core.widen(self._arrays[first:], kept["ema"])
        if self._every > 1:
            kept["accumulated"] = zeroed(compute, shapes)
        return kept

    def _stored(self, state: str, value: float, kind: str) -> Any:
        """Return a state's code for a value; 8-bit states get the code of 0, for scales of 0."""
        if kind == "bfloat16":
            bits = int(np.float32(value).view(np.uint32))
            return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
        if kind == "8bit":
            return 0 if self._squares()[state] else 127
        return value

    def _attach(self) -> None:
        kept, core = self._kept, self._core
        for j, name in enumerate(self._squares()):
            core.attach_states(j, kept[name], kept.get(f"{name}_scale"))
        for name, attach in (
            ("master", core.attach_masters),
            ("compensation", core.attach_compensations),
        ):
            if name in kept:
                there = zip(kept[name], self._dtypes, strict=True)
                attach([array if dtype in HALVES else None for array, dtype in there])
        if "ema" in kept:
            core.attach_averages(kept["ema"])
        if "accumulated" in kept:
            core.attach_sums(kept["accumulated"])

    def _reset_states(self, k: int, elements: Array) -> None:
        """Set the states of some elements of a parameter to 0."""
        for name in (*self._squares(), "compensation"):
            if name in self._kept and self._kept[name][k].shape == elements.shape:
                zero = (
                    0 if name == "compensation" else self._stored(name, 0.0, self._state_types[k])
                )
                self._kept[name][k][elements] = zero

    # ---- reading

    def _tree_of(self, arrays: list[Array]) -> Any:
        return rebuilt(self._places, [*map(_read_only, arrays)])

    @property
    def steps(self) -> int:
        """The number of updates so far."""
        return self._core.count

    @property
    def state(self) -> dict[str, Any]:
        """The states: for each name a tree like the parameters, of read-only NumPy views.

        States are float32 or float64; bfloat16 states are their bits as uint16; 8-bit states are
        codes as uint8, with scales under the name plus ``_scale``.
        """
        named_states = {name: arrays for name, arrays in self._kept.items() if name != "ema"}
        return {name: self._tree_of(arrays) for name, arrays in named_states.items()}

    def restart_ema_(self) -> None:
        """Set the average to the current weights.

        Call this after loading a checkpoint into the model, or after writing weights by other
        means: the average starts at the weights passed to the constructor.

        Raises
        ------
        ValueError
            If there is no average, or the shape or dtype of a parameter has changed.
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
        if "ema" not in self._kept:
            raise ValueError("ema: there is no average; pass ema= to the constructor")
        found = located("params", self._tree())
        for (place, _, w), shape, dtype in zip(found, self._shapes, self._dtypes, strict=True):
            if tuple(w.shape) != shape or dtype_name(w) != dtype:
                raise ValueError(
                    f"{place}: got {dtype_name(w)} of shape {tuple(w.shape)}, wants {dtype} of "
                    f"shape {shape} as at construction"
                )
        with self._core.turn(reads=False):
            _core.widen([w for _, _, w in found], self._kept["ema"])

    def _tree(self) -> Any:
        """Return the parameters in our own container: a list of trees if there are groups."""
        raise NotImplementedError
