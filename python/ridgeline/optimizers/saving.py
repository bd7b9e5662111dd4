"""Saving and loading what an optimizer keeps between steps."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from .._checks import flag, type_of
from .._files import load_arrays, save_arrays
from .states import Array, States

_VERSION = 1


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


class Saved(States):
    """The part of an optimizer that is saved and loaded; a base class of `Optimizer` alone."""

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
        for name in self._of_parameters():
            counts[name] = np.array(getattr(self._core, name), np.float64)
        if self._every > 1:
            counts["micro_step"] = np.array(self._core.micro_step)
            counts["has_accumulated"] = np.array(self._core.accumulated, np.uint8)
        return counts

    def _of_parameters(self) -> tuple[str, ...]:
        """Return the names of the numbers that the rule keeps for each parameter."""
        return ()

    def _snapshot(self) -> dict[str, Array]:
        """Return copies of what `state_dict` holds, as arrays, of one moment between two steps."""
        with self._core.turn(reads=True):
            return self._counts() | {name: array.copy() for name, array in self._all_states()}

    def _all_states(self) -> Iterator[tuple[str, Array]]:
        for name, arrays in self._kept.items():
            for path, array in zip(self._paths, arrays, strict=True):
                yield f"{name}/{path}", array

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
        strict = flag("strict", strict)
        own = self._counts()
        states = dict(self._all_states())
        given, missing, unexpected = self._matched(state, own, states, strict)
        self._check_loaded(given, own, states)
        with self._core.turn(reads=False):
            for key in states.keys() & given.keys():
                states[key][...] = given[key]
            if "steps" in given:
                self._core.steps = given["steps"].tolist()
            for name in self._of_parameters():
                if name in given:
                    setattr(self._core, name, given[name].tolist())
            if "is_training" in given:
                self._core.is_training = bool(given["is_training"])
            if "has_accumulated" in given and "micro_step" in given:
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
            for name in ("steps", *self._of_parameters(), "has_accumulated"):
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
