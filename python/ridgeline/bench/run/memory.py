"""Peak extra memory of a call: each implementation once, in a separate process.

What the call allocates beyond the arrays that it is given: its result, the states of an optimizer.
The libraries are loaded and the functions compiled before, by a call on smaller arrays. Linux only.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import ridgeline as rl

from ..peers import registry
from ..peers.registry import Implementation
from ..report.results import Row
from ..rows import own
from ..rows.cases import Case, select
from ..rows.layouts import Layout
from .arguments import Memory, arguments, norms_of

_RESET = Path("/proc/self/clear_refs")


def is_possible() -> bool:
    """Whether the system tells a peak that can be reset."""
    return _RESET.exists()


def added(row: Row, case: Case, without: Iterable[str], files: Sequence[Path]) -> Row:
    """Return the row with the extra bytes of ours and of the best peer."""
    found, left_out = dict(row.implementations), dict(row.left_out)
    for name, each in row.implementations.items():
        if each.role == "ours" or name == row.best_peer:
            extra, reason = measure(case, name, without, files)
            found[name] = dataclasses.replace(each, extra_bytes=extra)
            if reason:
                left_out[f"{name}'s memory"] = reason
    return dataclasses.replace(row, implementations=found, left_out=left_out)


def measure(
    case: Case, name: str, without: Iterable[str], files: Sequence[Path] = ()
) -> tuple[int | None, str]:
    """Return the extra bytes of one call, or why there are none."""
    settings = {
        "case_name": case.name,
        "name": name,
        "threads": rl.get_num_threads(),
        "target": rl.runtime.target(),
        "without": list(without),
        "files": [str(each) for each in files],
    }
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 0:
        return int(run.stdout.split()[-1]), ""
    return None, (run.stderr.strip().splitlines() or ["no message"])[-1]


def _child(
    case_name: str,
    name: str,
    threads: int,
    target: str,
    without: Container[str],
    files: Iterable[str],
) -> int:
    """Return the extra bytes of one call."""
    for file in files:
        own.load(Path(file))
    rl.set_num_threads(threads)
    rl.runtime.use_target(target)
    (case,) = (case for case in select(case_name) if case.name == case_name)
    (implementation,) = (each for each in case.implementations(without) if each.name == name)
    if implementation.kind in ("torch", "numba"):
        registry.set_threads(threads)
    sizes = case.operation.reduced(case.sizes)
    small = Layout(case.layout.name, sizes, case.layout.single)
    for each in (dataclasses.replace(case, layout=small), case):
        memory = Memory(each.bytes)
        memory.restore(each.elements, each.dtype)
        memory.restore_params(each.elements, each.dtype)
        memory.fill_results(each.elements, 0, each.dtype)
        call = _first_call(each, implementation, memory)
        gc.collect()
        _RESET.write_text("5")
        before = _status("VmHWM")
        call()
    return _status("VmHWM") - before


def _first_call(case: Case, implementation: Implementation, memory: Memory) -> Callable[[], Any]:
    """Return the first call; of a step also what makes it."""
    sets = memory.arrays(case)
    (given,) = arguments(case, implementation, sets, norms_of(case, sets), 1)
    if case.operation.recipe is not None:
        return lambda: implementation.function(*given)(given[0])
    return lambda: implementation.function(*given)


def _status(name: str) -> int:
    """Return a figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    raise KeyError(name)


if __name__ == "__main__":
    print(_child(**json.loads(sys.argv[1])))
