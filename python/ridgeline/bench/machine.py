"""The machine that made the figures, and what may have disturbed them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ridgeline as rl
from ridgeline import _core

_LIBRARIES = ("numpy", "torch", "jax", "optax", "numba", "scikit-learn", "deepspeed")
_ENVIRONMENT = (
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "RIDGELINE_TARGET",
    "THP_MEM_ALLOC_ENABLE",  # huge pages for what torch allocates
    "XLA_FLAGS",
)
_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "asimd", "asimdhp", "bf16", "sve", "sve2")
_CPU = Path("/sys/devices/system/cpu")
_BUSY = 0.05  # of the processors, by others
_STOLEN = 0.01  # of the time, by other virtual machines


def describe() -> dict[str, Any]:
    """Describe the machine, the versions of the libraries and the environment."""
    flags = _line_of("/proc/cpuinfo", "flags") or _line_of("/proc/cpuinfo", "Features") or ""
    words = flags.split()
    return {
        "machine": {
            "cpu": _line_of("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
            "architecture": platform.machine(),
            "cores": cores(),
            "memory": _line_of("/proc/meminfo", "MemTotal"),
            "caches": dict(_caches()),
            "flags": [each for each in words if each in _FLAGS or each.startswith("avx512")],
            "governor": _text(_CPU / "cpu0/cpufreq/scaling_governor"),
            "boost": _text(_CPU / "cpufreq/boost"),
            "virtual": "hypervisor" in words if words else None,
            "system": platform.platform(),
            "huge_pages": _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        },
        "versions": {
            "ridgeline": rl.__version__,
            "compiler": _core.compiler,
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Watch:
    """Observes the other load of the machine from now on."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0]
        self._total, self._busy, self._stolen = _ticks()
        self._own = _own_seconds()

    def warnings(self) -> list[str]:
        """Say what may have disturbed the figures."""
        found = []
        if self.load > 0.5 * cores():
            found.append(f"the load was {self.load:.1f} at the start: other programs were running")
        total, busy, stolen = (
            now - then
            for now, then in zip(_ticks(), (self._total, self._busy, self._stolen), strict=True)
        )
        if total > 0:
            others = busy - (_own_seconds() - self._own) * os.sysconf("SC_CLK_TCK")
            if others > _BUSY * total:
                found.append(f"other programs used {others / total:.0%} of the processors")
            if stolen > _STOLEN * total:
                found.append(f"other virtual machines took {stolen / total:.0%} of the processors")
        governor = _text(_CPU / "cpu0/cpufreq/scaling_governor")
        if governor not in (None, "performance"):
            found.append(f"the frequency governor is {governor!r}: 'performance' keeps it steady")
        return found


def _ticks() -> tuple[float, float, float]:
    """Return the ticks of all processors: in total, busy, and stolen."""
    first = (_text(Path("/proc/stat")) or "cpu").splitlines()[0].split()[1:9]
    user, nice, system, idle, wait, irq, soft, steal = [*map(float, first), *[0.0] * 8][:8]
    busy = user + nice + system + irq + soft
    return busy + idle + wait + steal, busy, steal


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _caches() -> Iterator[tuple[str, str]]:
    kinds = {"Data": "d", "Instruction": "i", "Unified": ""}
    for index in sorted((_CPU / "cpu0/cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if level and kind and size:
            yield f"L{level}{kinds.get(kind, '')}", size


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _line_of(path: str, name: str) -> str | None:
    for line in (_text(Path(path)) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
