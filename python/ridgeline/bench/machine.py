"""Where the figures come from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import ridgeline as rl
from ridgeline import _core

_LIBRARIES = ("numpy", "torch", "jax", "numba", "optax", "deepspeed")
_ENVIRONMENT = (
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "RIDGELINE_TARGET",
    "THP_MEM_ALLOC_ENABLE",  # huge pages for what torch allocates
    "XLA_FLAGS",
)


def describe() -> dict[str, Any]:
    """Describe the machine, the versions of the libraries and the environment."""
    return {
        "machine": {
            "cpu": _line_of("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "memory": _line_of("/proc/meminfo", "MemTotal"),
            "system": platform.platform(),
            "huge_pages": _text("/sys/kernel/mm/transparent_hugepage/enabled"),
            "load": os.getloadavg()[0],
        },
        "versions": {
            "ridgeline": rl.__version__,
            "compiler": _core.compiler,
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _line_of(path: str, name: str) -> str | None:
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
