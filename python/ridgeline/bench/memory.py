"""Peak extra memory of a call: each implementation once, in a process of its own.

What the call allocates beyond the arrays that it is given: its result, the states of an optimizer.
The libraries are loaded and the functions compiled before, by a call on smaller arrays. Linux only.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import ridgeline as rl

from . import measure, peers
from .cases import FLOOR, OUT, OUT_2, Case, select

DEFAULT = ("prune_magnitude/50/64MiB", "prune_global/90/resnet50")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Extra:
    """The bytes of a call, or why there are none."""

    case: str
    implementation: str
    arrays: int  # bytes in what is given
    extra: int | None
    reason: str = ""


def is_possible() -> bool:
    """Whether the system tells a peak that can be reset."""
    return _RESET.exists()


def chosen(words: str) -> list[Case]:
    """List the cases whose names hold the words; without words, two that rank many elements."""
    found = [case for case in select(words) if not case.overhead]
    return found if words else [case for case in found if case.name in DEFAULT]


def extra(case: Case, without: Collection[str]) -> list[Extra]:
    """Measure all implementations of a case."""
    found = [each for each in case.implementations(without) if each.name != FLOOR]
    operation = case.operation
    arrays = operation.itemsize * case.layout.elements * len(operation.arrays)
    result = []
    for each in found:
        settings = {
            "case_name": case.name,
            "name": each.name,
            "threads": rl.get_num_threads(),
            "target": rl.runtime.target(),
            "without": list(without),
        }
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", __name__, json.dumps(settings)],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode == 0:
            result.append(Extra(case.name, each.name, arrays, int(run.stdout)))
        else:
            reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
            result.append(Extra(case.name, each.name, arrays, None, reason))
    return result


def _child(case_name: str, name: str, threads: int, target: str, without: Collection[str]) -> int:
    """Return the extra bytes of one call."""
    rl.set_num_threads(threads)
    rl.runtime.use_target(target)
    (case,) = (case for case in select(case_name) if case.name == case_name)
    (implementation,) = (each for each in case.implementations(without) if each.name == name)
    if implementation.kind in ("torch", "numba"):
        peers.set_threads(threads)
    small = replace(case, layout=case.operation.reduced(case.layout))
    for each in (small, case):
        memory = measure.Memory(each.layout.elements)
        memory.restore(each.layout.elements, each.operation.dtype)
        memory.restore_params(each.layout.elements, each.operation.dtype)
        for x in memory.flat(each.layout.elements, OUT, OUT_2):
            x.fill(0)
        call = measure.call_of(each, implementation, memory)
        gc.collect()
        _RESET.write_text("5")
        before = _status("VmHWM")
        call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Return a figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    raise KeyError(name)


if __name__ == "__main__":
    print(_child(**json.loads(sys.argv[1])))
