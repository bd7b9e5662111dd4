"""Saving and loading the state of an optimizer."""

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
    """The entries that `Optimizer.load_state_dict` could not match, as in torch.

    Attributes
    ----------
    missing_keys : list of str
        Entries of the optimizer that the dict lacks; they keep their values.
    unexpected_keys : list of str
        Entries of the dict that the optimizer lacks; they are ignored.

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
    """The part of an optimizer that saves and loads; a base class of `Optimizer` only."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that steps change, except the parameters, as a flat dict.

        The keys are ``version``, ``optimizer`` (its name), ``step``, ``steps`` (one per parameter),
        and entries such as ``exp_avg/w``: the name of a state and the parameter's keys, joined by
        ``/``; a single array is called ``param``. bfloat16 states are stored as their bits, in
        uint16. Hyperparameters such as ``lr`` are not included.

        The values are NumPy arrays, the name as bytes, ready for ``np.savez`` and safetensors. If
        a parameter is a torch tensor, the values are torch tensors, numbers, a string and lists of
        numbers, which survive ``torch.save`` and ``torch.load`` with ``weights_only=True``.

        If another thread is in the middle of a step, this waits for it; the next step waits for
        the copy.

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
        """Return the entries that are saved in addition to the states."""
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
        """Return the names of the scalars that the rule keeps for each parameter."""
        return ()

    def _snapshot(self) -> dict[str, Array]:
        """Return a consistent copy of the entries of `state_dict`, between two steps, as arrays."""
        with self._core.turn(reads=True):
            return self._counts() | {name: array.copy() for name, array in self._all_states()}

    def _all_states(self) -> Iterator[tuple[str, Array]]:
        for name, arrays in self._kept.items():
            for path, array in zip(self._paths, arrays, strict=True):
                yield f"{name}/{path}", array

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Restore what `state_dict` returned; later steps are bit-identical.

        The names of parameters may differ by the prefixes of wrappers: ``module.`` of data
        parallelism and ``_orig_mod.`` of ``torch.compile``.

        Parameters
        ----------
        state : mapping of str to array
            The result of `state_dict`, for NumPy or for torch parameters alike, also after saving
            and loading it with NumPy or torch.
        strict : bool, default True
            Whether a missing or an unexpected entry is an error. If not, missing states keep their
            values, and unexpected entries are ignored; the step counts of the parameters are
            restored only if there is one for each parameter.

        Returns
        -------
        LoadReport
            The missing and the unexpected entries.

        Raises
        ------
        TypeError, ValueError
            If `state` is from another optimizer or version, or an array is missing, unexpected, or
            has another shape or dtype. Nothing has been changed then.
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
        """Return the entries under our names, the missing names, and the unexpected names."""
        plain = {_unwrapped(name): name for name in states}
        given: dict[str, Array] = {}
        unexpected: list[str] = []
        for key in state.keys():  # noqa: SIM118
            text = str(key)
            name = text if text in states or text in own else plain.get(_unwrapped(text), text)
            if name in given:
                raise ValueError(f"state: got {text!r} and another entry for {name!r}, wants one")
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
                raise ValueError(f"state: got the state of {name}, wants {type(self).__name__}")
        if not strict:
            for name in ("steps", *self._of_parameters(), "has_accumulated"):
                if name in given and given[name].shape != own[name].shape:
                    del given[name]
        missing = [name for name in own | states if name not in given]
        if strict and missing:
            raise ValueError(f"state: got no {missing[0]!r}, wants the states of this optimizer")
        if strict and unexpected:
            raise ValueError(f"state: got {unexpected[0]!r}, wants the states of this optimizer")
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
                raise ValueError(f"state[{key!r}]: got {given[key]}, wants {bound}")

    def save(self, file: str | PathLike[str]) -> None:
        """Write `state_dict` to a file.

        Parameters
        ----------
        file : str or path
            A name that ends in ``.npz`` or ``.safetensors``. An existing file is replaced
            atomically: if writing fails, it is unchanged.

        Raises
        ------
        ValueError
            If the name has another ending.
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
        """Restore the state from a file that `save` wrote.

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
            If the file is not of this kind or does not match; see `load_state_dict`.
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
    """Return a state's name without the prefixes that wrappers of modules add."""
    return re.sub(r"(?<=/)module\.", "", name.replace("_orig_mod.", ""))


def _saved_array(place: str, value: Any, count: Array | None) -> Array:
    """Return an entry of a file as an array; an entry other than a state gets its own dtype."""
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
