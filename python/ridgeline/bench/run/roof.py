"""The memory roof: the speed of trivial arithmetic, measured in C++ beside each row.

`Sampler` is the roof of one row; `survey` measures all of them on huge and on normal pages.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

import numpy as np

from ridgeline import _core

from ..report.results import Roof
from .arguments import Memory

_SAMPLE = 200e-6  # seconds that a sample takes at least
_SHARED = 2**18  # bytes from which threads are worth it
_TRIALS = 3
PAGES = {"huge": "MADV_HUGEPAGE", "normal": "MADV_NOHUGEPAGE"}


class Sampler:
    """Samples of the roof of one row: passes over the same memory, as fast as it can be done.

    "copy" uses plain or non-temporal stores, and each pattern one thread or all of them: what is
    fastest in some trials is sampled from then on.
    """

    def __init__(self, memory: Memory, patterns: Iterable[str], size: int, threads: int) -> None:
        self._passes = [_fastest(memory, pattern, size, threads) for pattern in patterns]

    def sample(self) -> float:
        """Return the seconds of all patterns, one after the other."""
        return sum(_core.memory_pass(*each) for each in self._passes)


def _fastest(memory: Memory, pattern: str, size: int, threads: int) -> tuple[Any, ...]:
    """Return the arguments of the fastest variant."""
    teams = {1, threads} if size >= _SHARED else {1}
    patterns = ("copy", "stream") if pattern == "copy" else (pattern,)
    variants = [(each, memory.of_pattern(each, size), n) for each in patterns for n in teams]
    trials = {}
    for k, each in enumerate(variants):
        seconds = _core.memory_pass(*each, 1)
        count = 1 + int(_SAMPLE / max(_core.memory_pass(*each, 1), 1e-8))
        seconds = median(_core.memory_pass(*each, count) for _ in range(_TRIALS))
        trials[k] = (seconds, count)
    best = min(trials, key=lambda k: trials[k][0])
    return (*variants[best], trials[best][1])


def survey(size: int, threads: Iterable[int], runs: int) -> Iterator[Roof]:
    """Measure each pattern, with each number of threads, on huge and on normal pages."""
    for pages, advice in PAGES.items():
        if not hasattr(mmap, advice):
            continue
        arrays = [_mapped(size * (2 if k >= 2 else 1), advice, k) for k in range(4)]
        for pattern, moved in _core.memory_patterns().items():
            for n in threads:
                _core.memory_pass(pattern, arrays, n, 1)
                speeds = [
                    moved * size / _core.memory_pass(pattern, arrays, n, 1) * 1e-9
                    for _ in range(runs)
                ]
                yield Roof(pattern, pages, n, size, median(speeds), min(speeds), max(speeds), runs)


def _mapped(size: int, advice: str, k: int) -> Any:
    """Return fresh memory, its pages as advised, each written once."""
    space = mmap.mmap(-1, size + 4096)
    space.madvise(getattr(mmap, advice))
    array = np.frombuffer(space, np.uint8)[k * 1088 :][:size]
    array.fill(1)
    return array
