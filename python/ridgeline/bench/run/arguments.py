"""The memory that all cases use in turn, and the arguments of their calls."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline import Key, Mask, MaskSet

from ..peers.registry import Implementation
from ..rows.cases import Case
from ..rows.operation import GRADS, OUT, OUT_2, PARAMS, Numbers

PRUNED = 0.5  # of the masks that are arguments
REGIONS = (GRADS, PARAMS, OUT, OUT_2)
_STAGGER = 1088  # bytes; starts differ modulo 4096, lest stores and loads look like one address

Flat = npt.NDArray[Any]


class Memory:
    """Gradients, parameters and results: memory regions that all cases use in turn."""

    def __init__(self, size: int) -> None:
        size += len(REGIONS) * _STAGGER
        self._regions = {name: _aligned(size)[k * _STAGGER :] for k, name in enumerate(REGIONS)}

    def flat(self, elements: int, *regions: str, dtype: str = "float32") -> list[Flat]:
        """Return that many elements of each region."""
        kind = dtype_of(dtype)
        size = elements * kind.itemsize
        return [self._regions[name][:size].view(kind) for name in regions]

    def of_pattern(self, pattern: str, size: int) -> list[Flat]:
        """Return the arrays of a pattern of memory access; the first has `size` bytes."""
        second = OUT if pattern in ("copy", "stream", "write") else PARAMS
        sizes = {"adam_wide": 2.0, "adam_narrow": 0.5, "adam_bytes": 0.25}
        state = int(size * sizes.get(pattern, 1.0))
        found = [self._regions[name] for name in (GRADS, second, OUT, OUT_2)]
        return [x[:n] for x, n in zip(found, (size, size, state, state), strict=True)]

    def restore(self, elements: int, dtype: str = "float32") -> None:
        """Undo what was written to the gradients."""
        (gradients,) = self.flat(elements, GRADS, dtype=dtype)
        sample = _sample(dtype)
        for start in range(0, elements, sample.size):
            piece = gradients[start : start + sample.size]
            piece[...] = sample[: piece.size]

    def restore_params(self, elements: int, dtype: str = "float32") -> None:
        """Undo what was written to the parameters."""
        # Hardly any two alike: what ranks them has few ties to break.
        rng = np.random.default_rng(1)
        (params,) = self.flat(elements, PARAMS, dtype=dtype)
        if dtype == "float32":
            rng.standard_normal(dtype=np.float32, out=params)
            return
        for start in range(0, elements, 2**20):
            piece = params[start : start + 2**20]
            piece[...] = rng.standard_normal(piece.size, dtype=np.float32)

    def fill_results(self, elements: int, value: float, dtype: str = "float32") -> None:
        """Write one value where results go."""
        for x in self.flat(elements, OUT, OUT_2, dtype=dtype):
            x.fill(value)

    def arrays(self, case: Case) -> list[list[Flat]]:
        """Return the arrays of a case in each region."""
        ends = np.cumsum(case.sizes)[:-1]
        flats = self.flat(case.elements, *case.operation.arrays, dtype=case.dtype)
        return [np.split(flat, ends) for flat in flats]


def _aligned(size: int) -> Flat:
    """Return bytes that start at a line of the cache."""
    line = 64
    array = np.empty(size + line, np.uint8)
    return array[-array.ctypes.data % line :][:size]


def room(case: Case) -> int:
    """Return the bytes that a region of memory needs: states may be wider than what they move."""
    return case.bytes * (2 if "adam_wide" in case.operation.passes else 1)


def dtype_of(name: str) -> Any:
    """Return NumPy's dtype."""
    if name == "bfloat16":
        name = importlib.import_module("ml_dtypes").bfloat16
    return np.dtype(name)


@lru_cache
def _sample(dtype: str) -> Flat:
    numbers = np.random.default_rng(0).standard_normal(2**16 + 1, dtype=np.float32)
    return numbers.astype(dtype_of(dtype))


def calls(
    case: Case,
    implementation: Implementation,
    sets: list[list[Flat]],
    norms: list[float],
    count: int,
) -> tuple[Callable[..., Any], list[tuple[Any, ...]]]:
    """Return what is called, and the arguments of the first `count` calls."""
    function = implementation.function
    if case.operation.recipe is None or implementation.kind == "none":
        return function, arguments(case, implementation, sets, norms, count)
    (given,) = arguments(case, implementation, sets, norms, 1)
    return function(*given), [given[:1]] * count


def arguments(
    case: Case,
    implementation: Implementation,
    sets: list[list[Flat]],
    norms: list[float],
    count: int,
) -> list[tuple[Any, ...]]:
    """Return the arguments of the first `count` calls."""
    if implementation.kind == "none":
        return [()] * count
    shape = case.operation.shape
    arrays: list[list[Any]] = [[x.reshape(shape) for x in each] for each in sets]
    convert: Any = None
    if implementation.kind == "torch":
        arrays = [[_torch_tensor(x) for x in each] for each in arrays]
    elif implementation.kind == "jax":
        arrays = [
            each if name in (OUT, OUT_2) else [_jax_array(x) for x in each]
            for name, each in zip(case.operation.arrays, arrays, strict=True)
        ]
    elif implementation.kind == "numba" and not case.operation.prunes:
        convert = _numba_number
        if case.dtype == "bfloat16":
            arrays = [[x.view(np.uint16) for x in each] for each in arrays]
    if case.operation.takes_masks:
        arrays.append(_masks(case, implementation.kind))
    first = [each[0] if case.layout.single else each for each in arrays]
    if case.operation.takes_masks and implementation.kind == "ridgeline":
        first[-1] = (Mask if case.layout.single else MaskSet).from_array(first[-1])
    numbers = itertools.islice(case.operation.numbers(norms), count)
    return [(*first, *_converted(each, convert)) for each in numbers]


def _masks(case: Case, kind: str) -> list[Any]:
    """Return bool arrays, False for pruned elements."""
    rng = np.random.default_rng(2)
    shape = case.operation.shape
    masks = [rng.random(n, np.float32).reshape(shape) >= PRUNED for n in case.sizes]
    if kind == "torch":
        return [importlib.import_module("torch").from_numpy(kept) for kept in masks]
    return masks


def _torch_tensor(x: Any) -> Any:
    torch: Any = importlib.import_module("torch")
    if x.dtype.name != "bfloat16":
        return torch.from_numpy(x)
    return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)


def _jax_array(x: Any) -> Any:
    jax: Any = importlib.import_module("jax")
    return jax.device_put(x, jax.devices("cpu")[0])


def _numba_number(x: Any) -> Any:
    return np.uint64(x.seed) if isinstance(x, Key) else np.float32(x)


def _converted(numbers: Numbers, convert: Any) -> Numbers:
    if convert is None:
        return numbers
    return tuple(_converted(x, convert) if isinstance(x, tuple) else convert(x) for x in numbers)


def norms_of(case: Case, sets: list[list[Flat]]) -> list[float]:
    """Return the norms of the gradients, where there are any."""
    if case.operation.arrays[0] != GRADS:
        return []
    return [float(np.linalg.norm(x.astype(np.float32, copy=False))) for x in sets[0]]
