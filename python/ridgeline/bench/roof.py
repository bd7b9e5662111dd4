"""The memory roof: the speed of trivial arithmetic, right beside what is measured.

Numba's loops where it is installed, on one thread and on all; else NumPy's own loops, which run on
one. The arithmetic changes nothing, so that a pass may run over any finite data; "copy" and "write"
overwrite the second array, with plain stores or with non-temporal ones, whichever are faster.
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
_SAMPLE = 200e-6  # seconds that a sample takes at least
_SHARED = 2**16  # elements from which threads are worth it

Pass = Callable[[Any, Any, Any, int], Any]
Passes = dict[str, Pass]


def _numpy_passes() -> Passes:
    def repeated(one: Callable[[Any, Any, Any], Any]) -> Pass:
        def passes(a: Any, b: Any, zero: Any, count: int) -> None:
            for _ in range(count):
                one(a, b, zero)

        return passes

    return {
        "read": repeated(lambda a, b, zero: np.dot(a, a)),
        "rewrite": repeated(lambda a, b, zero: np.add(a, zero, out=a)),
        "add": repeated(lambda a, b, zero: np.add(a, b, out=a)),
        "copy": repeated(lambda a, b, zero: np.copyto(b, a)),
        "write": repeated(lambda a, b, zero: b.fill(zero)),
    }


class Roof:
    """Samples passes over arrays a and b; keeps how many passes make a sample."""

    def __init__(self, threads: int) -> None:
        variants: list[Passes] = []
        self.source = "numpy, 1 thread"
        if importlib.util.find_spec("numba") is not None:
            from . import loops

            for each in (loops.serial, loops.parallel)[: min(threads, 2)]:
                variants += [each.roof, each.streams]
            self.source = "numba"
        self._variants = variants or [_numpy_passes()]
        self._counts: dict[tuple[str, int, int], int] = {}

    def sample(self, pattern: str, a: Any, b: Any) -> float:
        """Return seconds a pass, of the faster variant."""
        variants = self._variants if a.size >= _SHARED else self._variants[:1]
        return min(
            self._time(pattern, which, a, b)
            for which, passes in enumerate(variants)
            if pattern in passes
        )

    def _time(self, pattern: str, variant: int, a: Any, b: Any) -> float:
        run = self._variants[variant][pattern]
        key = (pattern, variant, a.size)
        if key not in self._counts:
            self._seconds(run, a, b, 1)  # compiles
            self._counts[key] = 1 + int(_SAMPLE / max(self._seconds(run, a, b, 1), 1e-8))
        count = self._counts[key]
        return self._seconds(run, a, b, count) / count

    @staticmethod
    def _seconds(run: Pass, a: Any, b: Any, count: int) -> float:
        zero = np.float32(0)
        start = perf_counter()
        run(a, b, zero, count)
        return perf_counter() - start
