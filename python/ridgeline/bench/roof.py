"""The memory roof: the speed of trivial arithmetic, right beside what is measured.

Numba's loops where it is installed, on one thread and on all; else NumPy's own loops, which run on
one. The arithmetic changes nothing, so that a pass may run over any finite data; "copy" and "write"
overwrite the second array, with plain stores or with non-temporal ones, whichever are faster. The
steps of optimizers read gradients and rewrite parameters and moments.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

TRAFFIC = {  # bytes moved for each byte of an array
    "read": 1,
    "rewrite": 2,
    "add": 3,
    "copy": 2,
    "write": 1,
}
STEPS: dict[str, tuple[float, ...]] = {  # bytes an element: gradient, parameter, moments
    "adam": (4, 4, 4, 4),
    "adam, bfloat16 states": (4, 4, 2, 2),
    "adam, 8-bit states": (4, 4, 65 / 64, 65 / 64),  # and a scale for each 256
    "adam, bfloat16 parameters": (2, 2, 4, 4),
    "momentum": (4, 4, 4),
}
_SAMPLE = 200e-6  # seconds that a sample takes at least
_SHARED = 2**16  # elements from which threads are worth it

Pass = Callable[..., Any]  # of the arrays, a zero, and how often
Passes = dict[str, Pass]


def bytes_moved(pattern: str, elements: int, itemsize: int = 4) -> int:
    """Return the bytes that a pass over so many elements moves."""
    if pattern not in STEPS:
        return TRAFFIC[pattern] * elements * itemsize
    gradient, *rewritten = STEPS[pattern]
    return round((gradient + 2 * sum(rewritten)) * elements)


def words(pattern: str, elements: int, itemsize: int = 4) -> list[int]:
    """Return the sizes of its arrays as numbers of float32: those of a step, or of any other."""
    if pattern not in STEPS:
        return [elements * itemsize // 4] * 2
    return [int(size * elements) // 4 for size in STEPS[pattern]]


def _numpy_passes() -> Passes:
    def repeated(one: Callable[..., Any]) -> Pass:
        def passes(*arguments: Any) -> None:
            *arrays, zero, count = arguments
            for _ in range(count):
                one(*arrays, zero)

        return passes

    def step(*arguments: Any) -> None:
        gradient, *rewritten, zero = arguments
        np.dot(gradient, gradient)
        for x in rewritten:
            np.add(x, zero, out=x)

    return {
        "read": repeated(lambda a, b, zero: np.dot(a, a)),
        "rewrite": repeated(lambda a, b, zero: np.add(a, zero, out=a)),
        "add": repeated(lambda a, b, zero: np.add(a, b, out=a)),
        "copy": repeated(lambda a, b, zero: np.copyto(b, a)),
        "write": repeated(lambda a, b, zero: b.fill(zero)),
        **dict.fromkeys(STEPS, repeated(step)),
    }


class Roof:
    """Samples passes over arrays; keeps how many passes make a sample."""

    def __init__(self, threads: int) -> None:
        variants: list[Passes] = []
        self.source = "numpy, 1 thread"
        if importlib.util.find_spec("numba") is not None:
            from . import loops

            for each in (loops.serial, loops.parallel)[: min(threads, 2)]:
                variants += [each.roof, each.streams, each.blocks]
            self.source = "numba"
        self._variants = variants or [_numpy_passes()]
        self._counts: dict[tuple[str, int, int], int] = {}

    def sample(self, pattern: str, *arrays: Any) -> float:
        """Return seconds a pass, of the faster variant."""
        variants = self._variants if arrays[0].size >= _SHARED else self._variants[:1]
        return min(
            self._time(pattern, which, arrays)
            for which, passes in enumerate(variants)
            if pattern in passes
        )

    def _time(self, pattern: str, variant: int, arrays: tuple[Any, ...]) -> float:
        run = self._variants[variant][pattern]
        key = (pattern, variant, arrays[0].size)
        if key not in self._counts:
            self._seconds(run, arrays, 1)  # compiles
            self._counts[key] = 1 + int(_SAMPLE / max(self._seconds(run, arrays, 1), 1e-8))
        count = self._counts[key]
        return self._seconds(run, arrays, count) / count

    @staticmethod
    def _seconds(run: Pass, arrays: tuple[Any, ...], count: int) -> float:
        zero = np.float32(0)
        start = perf_counter()
        run(*arrays, zero, count)
        return perf_counter() - start
