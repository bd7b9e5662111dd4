"""What an optimizer keeps between steps: its memory, and how it is saved and loaded."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._checks import type_of
from .._files import load_arrays, save_arrays
from .._tree import located, rebuilt

Array: TypeAlias = npt.NDArray[Any]

if TYPE_CHECKING:
    from .group import Group, LearningRate

HALVES = ("bfloat16", "float16")
_RULES = _core.optimizer_kinds()
_VERSION = 1
_BLOCK = 256  # of elements that share the scale of an 8-bit state


class LoadReport(NamedTuple):
    """What `Optimizer.load_state_dict` did not find, as in torch.

    Attributes
    ----------
    missing_keys : list of str
        Entries of the optimizer that the given dict does not have: they keep their values.
    unexpected_keys : list of str
        Entries of the dict that the optimizer does not have: they are ignored.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> saved = rl.Lion({"w": np.ones(2), "old": np.ones(3)}).state_dict()
    >>> rl.Lion({"w": np.ones(2)}).load_state_dict(saved, strict=False)
    LoadReport(missing_keys=['steps'], unexpected_keys=['exp_avg/old'])
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


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
    return str(array.dtype).rsplit(".", 1)[-1]  # torch says torch.float32


def _own_memory(dtype: str, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Return zeroed arrays in one block of memory, each on a cache line of its own."""
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
    """Return the dtypes in which parameters of some dtypes are updated."""
    return ["float64" if dtype == "float64" else "float32" for dtype in dtypes]


def _read_only(array: Array) -> Array:
    view: Array = array.view()
    view.flags.writeable = False
    return view


class States:
    """The part of an optimizer that owns memory; a base class of `Optimizer` alone."""

    groups: tuple[Group, ...]
    """The parameter groups: one, if the constructor was given none."""

    if TYPE_CHECKING:
        lr: LearningRate  # a field of every rule

    _core: _core.Optimizer
    _arrays: list[Any]  # the parameters
    _shapes: list[tuple[int, ...]]
    _dtypes: list[str]
    _paths: list[str]  # their names in files
    _places: Any  # a tree like that of the parameters, of their numbers
    _kept: dict[str, list[Array]]  # by the names of state_dict
    _state_type: str
    _every: int
    _options: dict[str, Any]  # by the names of the fields
    _stateful: bool | None = None  # whether a momentum has a state, where that depends
    _mask: Any
    _grouped: bool
    _by_name: bool  # whether the parameters are a dict
    _own_names: list[str]  # in their groups
    _group_of: list[int]
    _asked: dict[str, bool]  # rates that each step has to ask for

    def _kind(self) -> str:
        """Return the core's name of the rule."""
        raise NotImplementedError

    def _squares(self) -> dict[str, bool]:
        """Return for each state of the rule, by its name, whether it is one of squares."""
        return dict(_RULES[self._kind()])

    def _initial_value(self, state: str) -> float:
        """Return what a state starts with."""
        return 0.0

    def _make_states(self, master: bool, kahan: bool, average: bool) -> None:
        """Allocate the states of the parameters that have none yet, and tell the core of all."""
        first = len(next(iter(self._kept.values()), ()))
        for name, arrays in self._new_states(first, master, kahan, average).items():
            self._kept.setdefault(name, []).extend(arrays)
        self._attach()

    def _new_states(
        self, first: int, master: bool, kahan: bool, average: bool
    ) -> dict[str, list[Array]]:
        shapes, dtypes = self._shapes[first:], self._dtypes[first:]
        count, compute = len(shapes), compute_dtypes(dtypes)
        kept: dict[str, list[Array]] = {}
        of_states = {"bfloat16": ["uint16"] * count, "8bit": ["uint8"] * count}
        for name in self._squares():
            kept[name] = zeroed(of_states.get(self._state_type, compute), shapes)
            if self._state_type == "8bit":
                blocks = [((math.prod(shape) + _BLOCK - 1) // _BLOCK,) for shape in shapes]
                kept[f"{name}_scale"] = zeroed(["float32"] * count, blocks)  # type: ignore[arg-type]
            for array in kept[name]:
                array[...] = self._stored(name, self._initial_value(name))
        # Parameters that are not of 16 bits have no master or compensation: empty arrays.
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

    def _stored(self, state: str, value: float) -> Any:
        """Return how the number is stored in a state, with a scale of 0 if that is of 8 bits."""
        if self._state_type == "bfloat16":
            bits = int(np.float32(value).view(np.uint32))
            return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
        if self._state_type == "8bit":
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
                zero = 0 if name == "compensation" else self._stored(name, 0.0)
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
        """The states: a tree like the parameters for each name, of read-only NumPy views.

        float32 or float64; the bits of bfloat16 as uint16; 8-bit codes as uint8, with ``_scale``.
        """
        named_states = {name: arrays for name, arrays in self._kept.items() if name != "ema"}
        return {name: self._tree_of(arrays) for name, arrays in named_states.items()}

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
        if "ema" not in self._kept:
            raise ValueError("ema: there is no average; give ema= at construction")
        found = located("params", self._tree())
        for (place, _, w), shape, dtype in zip(found, self._shapes, self._dtypes, strict=True):
            if tuple(w.shape) != shape or dtype_name(w) != dtype:
                raise ValueError(f"{place}: got another shape or dtype than at construction")
        with self._core.turn(reads=False):
            _core.widen([w for _, _, w in found], self._kept["ema"])

    def _tree(self) -> Any:
        """Return the parameters in a container of our own: a list of trees if there are groups."""
        raise NotImplementedError

    # ---- saving

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

    # ---- loading

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Go on from what `state_dict` returned: the next steps have the same bits.

        The names of parameters may differ by what wrappers put before them: ``module.`` of data
        parallelism and ``_orig_mod.`` of ``torch.compile``.

        Parameters
        ----------
        state : mapping of str to array
            What `state_dict` returned for NumPy or for torch parameters, whichever these are, or
            what ``np.load`` or ``torch.load`` made of it.
        strict : bool, default True
            Whether a missing or an unexpected entry is an error. If not, states that are missing
            keep their values, and entries of other parameters are ignored; the counts of steps of
            the parameters are taken if there is one for each.

        Returns
        -------
        LoadReport
            The entries that were missing and those that were unexpected.

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
        LoadReport(missing_keys=[], unexpected_keys=[])
        >>> other.steps
        1
        """
        if not hasattr(state, "keys") or not hasattr(state, "__getitem__"):
            raise TypeError(f"state: got {type_of(state)}, wants a mapping of names to arrays")
        own = self._counts()
        states = dict(self._all_states())
        given, missing, unexpected = self._matched(state, own, states, strict)
        self._check_loaded(given, own, states)
        with self._core.turn(reads=False):
            for key in states.keys() & given.keys():
                states[key][...] = given[key]
            if "steps" in given:
                self._core.steps = given["steps"].tolist()
            if "products" in given:
                self._core.products = given["products"].tolist()
            if "has_accumulated" in given:
                self._core.accumulated = given["has_accumulated"].astype(bool).tolist()
                self._core.micro_step = int(given["micro_step"])
            if "step" in given:
                self._core.count = int(given["step"])
        return LoadReport(missing, unexpected)

    def _matched(
        self,
        state: Mapping[str, Any],
        own: dict[str, Array],
        states: dict[str, Array],
        strict: bool,
    ) -> tuple[dict[str, Array], list[str], list[str]]:
        """Return the entries under our names, the names that are missing, and the other entries."""
        plain = {_unwrapped(name): name for name in states}
        given: dict[str, Array] = {}
        unexpected: list[str] = []
        for key in state.keys():  # noqa: SIM118
            text = str(key)
            name = text if text in states or text in own else plain.get(_unwrapped(text), text)
            if name in given:
                raise ValueError(f"state: got {text!r} beside another entry for {name!r}")
            if name in own or name in states:
                given[name] = _saved_array(f"state[{key!r}]", state[key], own.get(name))
            elif name != "version":
                unexpected.append(text)
        if "version" not in given:
            raise ValueError("state: got no 'version', wants what state_dict returns")
        if given["version"].shape != () or given["version"] != _VERSION:
            raise ValueError(f"state: got version {given['version']!s}, wants {_VERSION}")
        if "optimizer" in given:
            name = given["optimizer"].tobytes().decode(errors="replace")
            if name != type(self).__name__:
                raise ValueError(f"state: got that of {name}, wants {type(self).__name__}")
        if not strict:
            for name in ("steps", "products", "has_accumulated"):
                if name in given and given[name].shape != own[name].shape:
                    del given[name]
        missing = [name for name in own | states if name not in given]
        if strict and missing:
            raise ValueError(f"state: got no {missing[0]!r}, wants the states of this optimizer")
        if strict and unexpected:
            raise ValueError(f"state: got {unexpected[0]!r}, which this optimizer does not have")
        return given, missing, unexpected

    def _check_loaded(
        self, given: dict[str, Array], own: dict[str, Array], states: dict[str, Array]
    ) -> None:
        for key, array in given.items():
            wants = own[key] if key in own else states[key]
            if key != "optimizer" and array.shape != wants.shape:
                raise ValueError(f"state[{key!r}]: got shape {array.shape}, wants {wants.shape}")
            if array.dtype != wants.dtype:
                raise TypeError(f"state[{key!r}]: got {array.dtype}, wants {wants.dtype}")
        limits = {"micro_step": self._every - 1}
        for key in ("step", "steps", "micro_step"):
            if key in given and np.any((given[key] < 0) | (given[key] > limits.get(key, 2**62))):
                bound = f"at most {limits[key]}" if key in limits else "at least 0"
                raise ValueError(f"state[{key!r}]: got {given[key]}, wants numbers of {bound}")

    # ---- files

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
        LoadReport(missing_keys=[], unexpected_keys=[])
        """
        save_arrays(file, self._snapshot())

    def load(self, file: str | PathLike[str], strict: bool = True) -> LoadReport:
        """Go on from a file that `save` wrote.

        Parameters
        ----------
        file : str or path
            A ``.npz`` or ``.safetensors`` file.
        strict : bool, default True
            See `load_state_dict`.

        Returns
        -------
        LoadReport

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
        ...     report = other.load(f"{folder}/state.safetensors")
        >>> other.steps
        1
        """
        return self.load_state_dict(load_arrays(file), strict)


def _unwrapped(name: str) -> str:
    """Return a state's name without what wrappers of modules put before that of the parameter."""
    return re.sub(r"(?<=/)module\.", "", name.replace("_orig_mod.", ""))


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
        raise TypeError(f"{place}: got {type_of(value)}, wants an array: {error}") from error
    return array
