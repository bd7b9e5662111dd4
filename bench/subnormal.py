"""What subnormal numbers cost on this machine.

Calls on such data, and steps of optimizers whose gradients have stopped long ago, beside the same
on ordinary data: a table in Markdown. Usage: python bench/subnormal.py [elements]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import ridgeline as rl
from ridgeline.bench.machine import describe

ROUNDS = 15
DTYPES = (np.float32, np.float64)
KEY = rl.Key(0)

#: name -> what is done to an array
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "global_norm": lambda x, out: rl.global_norm(x),
    "clip_by_global_norm_": lambda x, out: rl.clip_by_global_norm_(x, rl.global_norm(x) * 0.999),
    "clip_by_value_": lambda x, out: rl.clip_by_value_(x, float(x.max()) * 0.999),
    "L1.prox": lambda x, out: rl.L1(float(x.max()) / 2).prox(x, 1.0, out),
    "L2.prox": lambda x, out: rl.L2(0.1).prox(x, 1.0, out),
    "LogSum.prox": lambda x, out: rl.LogSum(0.1, 0.5).prox(x, 1.0, out),
    "dropout": lambda x, out: rl.dropout(x, 0.3, KEY, out=out),
    "mask.apply": lambda x, out: rl.dropout_mask(x.shape, 0.5, KEY).apply(x, out),
}
#: name -> the optimizer, its options, and after how many zero gradients its states have died out
STEPS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "SGD(momentum)": (rl.SGD, {"momentum": 0.9}, 900),
    "Adam": (rl.Adam, {}, 900),
    "NAdam": (rl.NAdam, {}, 900),
    "RMSprop(momentum)": (rl.RMSprop, {"momentum": 0.9}, 900),
    "Lion": (rl.Lion, {"betas": (0.9, 0.9)}, 900),
    "FTRL": (rl.FTRL, {}, 900),
}


def usual(call: Callable[..., object], *arguments: Any) -> float:
    """Time a call: the median of some rounds, in ns an element of the first argument."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        call(*arguments)
        times.append((time.perf_counter_ns() - start) / arguments[0].size)
    return float(np.median(times))


def calls(n: int) -> None:
    """Print the rows of calls on ordinary and on subnormal data."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        tiny = float(np.finfo(dtype).smallest_normal)
        ordinary = rng.uniform(0.01, 0.9, n).astype(dtype)
        subnormal = (ordinary.astype(np.longdouble) * tiny).astype(dtype)
        for name, call in CALLS.items():
            times = [usual(call, x.copy(), np.empty_like(x)) for x in (ordinary, subnormal)]
            print(row(name, np.dtype(dtype).name, *times))


def steps(n: int) -> None:
    """Print the rows of steps, fresh and after zero gradients."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        zero = np.zeros(n, dtype)
        # Over six decades, as rows of an embedding that were met at different times.
        g = (rng.standard_normal(n) * 10.0 ** rng.uniform(-6, 0, n)).astype(dtype)
        for name, (make, options, idle) in STEPS.items():
            opt = make(rng.standard_normal(n).astype(dtype), lr=1e-3, **options)
            fresh = usual(opt.step, g)
            for _ in range(idle if dtype == np.float32 else 8 * idle):
                opt.step(zero)
            late = usual(opt.step, zero)
            print(row(f"{name}.step", np.dtype(dtype).name, fresh, late))


def row(name: str, dtype: str, before: float, after: float) -> str:
    """Return a line of the table."""
    return f"| {name} | {dtype} | {before:.3f} | {after:.3f} | {after / before:.2f} |"


def main() -> None:
    """Measure and print."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 32768
    machine = describe()["machine"]["cpu"]
    print(f"{machine}, target {rl.runtime.targets()[0]}, {n} elements, one thread\n")
    print("| call | dtype | ordinary (ns) | subnormal, or idle (ns) | ratio |")
    print("|---|---|---:|---:|---:|")
    with rl.threads(1):
        calls(n)
        steps(n)


if __name__ == "__main__":
    main()
