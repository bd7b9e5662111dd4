"""Interleaved rounds: roof, ridgeline, peer, peer, and again; medians over the rounds.

A round calls each implementation in turn, so that what disturbs the machine disturbs them alike.
Rounds go on until the medians that are compared are known to the precision asked for, or until the
budget is spent. What is left of doubt is written into the row.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import ridgeline as rl

from ..peers.registry import Implementation
from ..report import results
from ..report.compare import ratio_interval
from ..rows.cases import Case
from .arguments import REGIONS, Flat, Memory, calls, norms_of
from .checks import checked, relative_error
from .roof import Sampler

MIN_RUNS = 11  # fewer can't be significant among many rows
MAX_RUNS = 201
SLOW = 0.25  # seconds of a call from which it is made in every third round only
CALLS = 1000  # at most, in one run: arguments may change from call to call
WIDE = 0.1  # of the median: an interval wider than that, to either side, is not trusted
DRIFT = 1.3  # between the lower and the upper quartile of the roof
_SAMPLE = 500e-6  # seconds that a run takes at least


@dataclass(frozen=True)
class Effort:
    """How long to measure a row: until a median is known to `precision`, or `budget` seconds."""

    budget: float
    precision: float


def obstacle(case: Case, without: Container[str]) -> str | None:
    """Say why a case is left out: for want of memory or of a dtype."""
    if case.dtype == "bfloat16" and not _has_bfloat16():
        return "needs ml_dtypes"
    # steps keep states, for each implementation, and as much again where a call makes copies
    steps = case.operation.recipe is not None
    copies = 4 * len(case.implementations(without)) if steps else 2
    needs = case.bytes * (len(REGIONS) + copies)
    if needs > (free := _free_bytes()):
        return f"needs about {needs * 1e-9:.0f} GB of memory, {free * 1e-9:.0f} are free"
    return None


def _has_bfloat16() -> bool:
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        return False
    return True


def _free_bytes() -> int:
    """Return what is free, files in memory included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return sys.maxsize
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def run_case(
    case: Case,
    memory: Memory,
    effort: Effort,
    targets: Sequence[str],
    without: Container[str],
) -> results.Row:
    """Check all implementations of a case, then time them with the threads that are set.

    The first of the targets is measured beside the peers; ridgeline's calls on the others are
    further implementations.
    """
    target, *others = targets
    threads = rl.get_num_threads()
    timed, left_out = checked(case, without)
    if timed[0].kind == "ridgeline":
        timed[1:1] = [
            Implementation(
                f"ridgeline {each}", timed[0].function, timed[0].kind, role="target", target=each
            )
            for each in others
        ]
    if not case.has_reference:
        left_out["reference"] = "too slow for this number of elements"
    memory.restore(case.elements, case.dtype)
    memory.restore_params(case.elements, case.dtype)
    memory.fill_results(case.elements, 0, case.dtype)
    sets = memory.arrays(case)
    norms = norms_of(case, sets)
    runners: list[_Runner] = []
    for each in timed:
        # Another target meets the same objects; a step has states of its own.
        same = each.role == "target" and case.operation.recipe is None
        runners.append(_Runner(case, each, sets, norms, memory, runners[0] if same else None))
    errors = {}
    if case.operation.name == "global_norm_2" and case.traffic:
        errors = {r.name: relative_error(r.call(), sets[0]) for r in runners}

    patterns = case.operation.passes if case.traffic else None
    roof = Sampler(memory, patterns, case.bytes, threads) if patterns else None
    roofs: list[float] = []
    with _no_garbage_collection():
        for runner in runners:
            runner.calibrate()
        start = perf_counter()
        rounds = 0
        while rounds < MAX_RUNS and (
            rounds < MIN_RUNS
            or (perf_counter() - start < effort.budget and not _is_known(runners, effort.precision))
        ):
            rounds += 1
            if roof is not None:
                roofs.append(_rounded(roof.sample()))
            for runner in runners:
                if rounds % 3 == 0 or not runner.is_slow:
                    runner.sample()
    memory.restore_params(case.elements, case.dtype)
    name = f"{case.operation.name}/{case.dtype}/{target}/{case.layout.name}/{threads}"
    return _row(name, case, target, threads, runners, roofs, errors, left_out)


def _is_known(runners: Sequence[_Runner], precision: float) -> bool:
    """Whether the medians of ours and of the fastest peer are known well enough."""
    peers = [r for r in runners if r.role == "peer"]
    compared = [runners[0], *sorted(peers, key=lambda r: median(r.seconds))[:1]]
    return all(_half_width(r.seconds) <= precision for r in compared)


def _rounded(seconds: float) -> float:
    """Return it with five digits: results are kept, sample by sample."""
    return float(f"{seconds:.5g}")


def _is_trusted(seconds: Sequence[float]) -> bool:
    return _half_width(seconds) <= WIDE and _drift(seconds) <= DRIFT


def _half_width(seconds: Sequence[float]) -> float:
    """Return how far the median may be off, as a part of it."""
    low, high = results.median_interval(seconds)
    if low is None or high is None:
        return np.inf
    middle = median(seconds)
    return max(high - middle, middle - low) / middle


def _row(
    name: str,
    case: Case,
    target: str,
    threads: int,
    runners: Sequence[_Runner],
    roofs: Sequence[float],
    errors: dict[str, float],
    left_out: dict[str, str],
) -> results.Row:
    roof = results.stats_of(roofs) if roofs else None
    found = {}
    for runner in runners:
        stats = results.stats_of(runner.seconds, runner.calls)
        found[runner.name] = results.Implementation(
            **vars(stats),
            role=runner.role,
            gb_per_s=case.traffic / stats.median * 1e-9 if case.traffic else None,
            of_roof=roof.median / stats.median if roof else None,
            relative_error=errors.get(runner.name),
            extra_bytes=None,
            trusted=_is_trusted(runner.seconds),
        )
    peers = [each for each in runners if each.role == "peer"]
    best = min(peers, key=lambda each: median(each.seconds), default=None)
    speedup = speedup_low = speedup_high = None
    if best is not None:
        speedup = median(best.seconds) / median(runners[0].seconds)
        speedup_low, speedup_high = ratio_interval(runners[0].seconds, best.seconds)
    return results.Row(
        name=name,
        operation=case.operation.name,
        family=case.operation.family,
        dtype=case.dtype,
        target=target,
        layout=case.layout.name,
        threads=threads,
        arrays=len(case.sizes),
        elements=case.elements,
        traffic_bytes=case.traffic,
        workload=case.workload,
        own=bool(case.operation.own),
        roof=roof,
        implementations=found,
        left_out=left_out,
        best_peer=best.name if best else None,
        speedup=speedup,
        speedup_low=speedup_low,
        speedup_high=speedup_high,
        doubts=tuple(_doubts(runners, best, roofs)),
    )


def _doubts(
    runners: Sequence[_Runner], best: _Runner | None, roofs: Sequence[float]
) -> Iterator[str]:
    """Say why a row can't be trusted."""
    for runner in (runners[0], *([best] if best else [])):
        off = _half_width(runner.seconds)
        if not np.isfinite(off):
            yield f"{runner.name} ran {len(runner.seconds)} times: too few for an interval"
        elif off > WIDE:
            yield f"the median of {runner.name} is only known to {off:.0%}"
        drift = _drift(runner.seconds)
        if drift > DRIFT:
            yield f"{runner.name} was {drift:.1f} times slower in one half of the rounds"
    if roofs:
        low, high = np.percentile(roofs, [25, 75])
        if high / low > DRIFT:
            yield f"the roof moved by {high / low - 1:.0%} meanwhile"


def _drift(seconds: Sequence[float]) -> float:
    """Return the ratio of the medians of both halves."""
    half = len(seconds) // 2
    halves = sorted((median(seconds[:half]), median(seconds[-half:]))) if half else (1.0, 1.0)
    return halves[1] / halves[0]


class _Runner:
    """One implementation with its arguments."""

    def __init__(
        self,
        case: Case,
        implementation: Implementation,
        sets: list[list[Flat]],
        norms: list[float],
        memory: Memory,
        same: _Runner | None = None,
    ) -> None:
        self.name = implementation.name
        self.role = implementation.role
        self.calls = 1
        self.is_slow = False
        self.seconds: list[float] = []
        self._target = implementation.target
        self._function: Callable[..., Any]
        self._arguments: list[tuple[Any, ...]]
        if same is None:
            self._function, self._arguments = calls(case, implementation, sets, norms, CALLS + 1)
        else:
            self._function, self._arguments = same._function, same._arguments
        self._case = case
        self._memory = memory

    def call(self) -> Any:
        """Call once."""
        return self._function(*self._arguments[0])

    def calibrate(self) -> None:
        """Warm up, and find how many calls make a run."""
        self._run()
        while self.calls < CALLS:
            seconds = self._run()
            self.is_slow = seconds / self.calls >= SLOW
            if seconds >= _SAMPLE or self._case.operation.once:
                break
            wanted = 1.2 * _SAMPLE / max(seconds / self.calls, 1e-9)
            self.calls = min(CALLS, max(2 * self.calls, int(wanted) + 1))
        if self.is_slow:  # few more follow: it runs in every third round
            self.seconds.append(_rounded(seconds / self.calls))

    def sample(self) -> None:
        """Time one run."""
        self.seconds.append(_rounded(self._run() / self.calls))

    def _run(self) -> float:
        case = self._case
        if case.operation.writes:
            self._memory.restore(case.elements, case.dtype)
        function = self._function
        calls = self._arguments[1 : 1 + self.calls]
        target = rl.runtime.target()
        rl.runtime.use_target(self._target or target)
        try:
            if self.calls > 1:
                self.call()  # brings the data back into the cache
            start = perf_counter()
            for arguments in calls:
                function(*arguments)
            return perf_counter() - start
        finally:
            rl.runtime.use_target(target)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
