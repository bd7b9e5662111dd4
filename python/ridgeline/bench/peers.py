"""The operations as one writes them in NumPy and in PyTorch, and the Numba loops beside them.

All have the signature of ridgeline's function: arrays first, then the numbers of the case. For many
arrays the arguments are lists. Those that draw at random are in `random_peers`, those that prune in
`prune_peers`, the steps of optimizers in `step_peers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import prune_peers, random_peers, step_peers

L1 = 1e-5
L2 = 1e-4
CACHED = 2**17  # elements up to which a loop without threads is worth a row
LARGE = 2**16  # elements from which one with threads is

Function = Callable[..., Any]


@dataclass(frozen=True)
class Implementation:
    """One way to do an operation; `kind` says which arrays and numbers it takes."""

    name: str
    function: Function
    kind: str = "numpy"  # or "torch", "jax"; "numba", "ridgeline": numbers or masks are their own


def missing(compiled: bool, threads: int) -> dict[str, str]:
    """Say which peers are left out, and why."""
    libraries = ("torch", "jax", "numba", "optax", "deepspeed")
    reasons = {name: "not installed" for name in libraries if not _installed(name)}
    if "jax" not in reasons and threads < (cores := _cores()):
        reasons["jax"] = f"always has a thread for each of the {cores} cores"
    if "torch" not in reasons and not compiled:
        reasons["torch.compile"] = "only with --compile"
    for name, needed in (("optax", "jax"), ("deepspeed", "torch")):
        if needed in reasons:
            reasons.setdefault(name, f"needs {needed}")
    if not compiled:
        reasons.setdefault("deepspeed", "only with --compile")
    return reasons


def peers(
    operation: str, draws: bool, single: bool, elements: int, without: Container[str]
) -> list[Implementation]:
    """List the implementations of an operation, on one array or on a list.

    Those that draw at random take one array.
    """
    compiled = "torch.compile" not in without
    libraries: dict[str, Callable[[], dict[str, dict[str, Function]]]]
    recipe = step_peers.RECIPES.get(operation)
    if recipe is not None:
        return _step_peers(recipe, without)
    if operation in prune_peers.OPERATIONS:
        libraries = {
            "numpy": lambda: prune_peers.numpy_tables(single),
            "torch": lambda: prune_peers.torch_tables(single),
            "jax": lambda: prune_peers.jax_tables(single, elements),
            "numba": lambda: prune_peers.numba_tables(
                single, elements <= CACHED, elements >= LARGE
            ),
        }
    elif draws:
        libraries = {
            "numpy": random_peers.numpy_tables,
            "torch": lambda: random_peers.torch_tables(compiled),
            "jax": random_peers.jax_tables,
            "numba": lambda: _numba_random_tables(elements),
        }
    else:
        libraries = {
            "numpy": lambda: {"numpy": _NUMPY_ONE if single else _NUMPY_MANY},
            "torch": lambda: _torch_tables(single, compiled),
            "numba": lambda: _numba_tables(single, elements),
        }
    return [
        Implementation(name, table[operation], kind)
        for kind, tables in libraries.items()
        if kind not in without
        for name, table in tables().items()
        if operation in table
    ]


def _step_peers(recipe: step_peers.Recipe, without: Container[str]) -> list[Implementation]:
    compiled = "torch.compile" not in without
    libraries: dict[str, tuple[str, Callable[[], dict[str, Function]]]] = {
        "ridgeline": ("ridgeline", lambda: step_peers.ridgeline_tables(recipe)),
        "numpy": ("numpy", lambda: step_peers.numpy_tables(recipe)),
        "torch": ("torch", lambda: step_peers.torch_tables(recipe, compiled)),
        "deepspeed": ("torch", lambda: step_peers.deepspeed_tables(recipe)),
        "optax": ("jax", lambda: step_peers.optax_tables(recipe)),
        "numba": ("numba", lambda: step_peers.numba_tables(recipe)),
    }
    return [
        Implementation(name, function, kind)
        for library, (kind, table) in libraries.items()
        if library not in without
        for name, function in table().items()
    ]


def set_threads(n: int) -> None:
    """Give each peer as many threads."""
    if _installed("torch"):
        importlib.import_module("torch").set_num_threads(n)
    if _installed("numba"):
        from . import loops

        loops.set_num_threads(n)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# NumPy


def _value(w: Any) -> float:
    return float(L1 * np.abs(w).sum() + L2 / 2 * np.dot(w, w))


def _gradient(g: Any, w: Any) -> float:
    g += L1 * np.sign(w) + L2 * w
    return _value(w)


def _prox(x: Any, step: float) -> None:
    x -= np.clip(x, -step, step)


def _clip_value(x: Any, limits: tuple[float, float]) -> None:
    np.clip(x, *limits, out=x)


def _norm(x: Any) -> float:
    return float(np.linalg.norm(x))


def _norm_of_all(arrays: Any) -> float:
    return math.sqrt(sum(float(np.dot(x, x)) for x in arrays))


def _clip(x: Any, max_norm: float) -> float:
    norm = _norm(x)
    if norm > max_norm:
        x *= max_norm / norm
    return norm


def _clip_all(arrays: Any, max_norm: float) -> float:
    norm = _norm_of_all(arrays)
    if norm > max_norm:
        for x in arrays:
            x *= max_norm / norm
    return norm


def _clip_rms(x: Any, max_rms: float) -> list[float]:
    rms = _norm(x) / math.sqrt(x.size)
    if rms > max_rms:
        x *= max_rms / rms
    return [rms]


def _zero_largest(x: Any, count: int) -> None:
    x[np.argpartition(np.abs(x), -count)[-count:]] = 0


def _sum_over(function: Function) -> Function:
    return lambda *lists: sum(function(*arrays) for arrays in zip(*lists, strict=True))


def _for_each(function: Function) -> Function:
    """Results in a list; the last argument is a number for all."""
    return lambda arrays, number: [function(x, number) for x in arrays]


_NUMPY_ONE: dict[str, Function] = {
    "penalty_value": _value,
    "penalty_gradient": _gradient,
    "prox_l1": _prox,
    "clip_by_value": _clip_value,
    "global_norm": _norm,
    "clip_by_global_norm": _clip,
    "clip_by_norm": lambda x, max_norm: [_clip(x, max_norm)],
    "clip_by_rms": _clip_rms,
    "zero_largest": _zero_largest,
}
_NUMPY_MANY: dict[str, Function] = {
    "penalty_value": _sum_over(_value),
    "penalty_gradient": _sum_over(_gradient),
    "prox_l1": _for_each(_prox),
    "clip_by_value": _for_each(_clip_value),
    "global_norm": _norm_of_all,
    "clip_by_global_norm": _clip_all,
    "clip_by_norm": _for_each(_clip),
}


# PyTorch


def _torch_tables(single: bool, compiled: bool) -> dict[str, dict[str, Function]]:
    torch: Any = importlib.import_module("torch")
    total_norm = importlib.import_module("torch.nn.utils").get_total_norm

    def value_tensor(w: Any) -> Any:
        return L1 * w.abs().sum() + L2 / 2 * torch.dot(w, w)

    def gradient_tensor(g: Any, w: Any) -> Any:
        g.add_(w.sign(), alpha=L1).add_(w, alpha=L2)
        return value_tensor(w)

    def prox(x: Any, step: float) -> None:
        x.sub_(x.clamp(-step, step))

    def clamp(x: Any, limits: tuple[float, float]) -> None:
        x.clamp_(*limits)

    def clip_tensor(x: Any, max_norm: float) -> Any:
        norm = torch.linalg.vector_norm(x)
        x.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm

    def clip(x: Any, max_norm: float) -> float:
        return float(clip_tensor(x, max_norm))

    if single:
        tables: dict[str, dict[str, Function]] = {
            "torch": {
                "penalty_value": lambda w: value_tensor(w).item(),
                "penalty_gradient": lambda g, w: gradient_tensor(g, w).item(),
                "prox_l1": prox,
                "clip_by_value": clamp,
                "global_norm": lambda x: torch.linalg.vector_norm(x).item(),
                "clip_by_global_norm": clip,
                "clip_by_norm": lambda x, max_norm: [clip(x, max_norm)],
            }
        }
        if compiled:
            gradient_compiled = torch.compile(gradient_tensor, dynamic=False)
            norm_compiled = torch.compile(lambda x: (x * x).sum().sqrt(), dynamic=False)
            tables["torch.compile"] = {
                "penalty_gradient": lambda g, w: gradient_compiled(g, w).item(),
                "prox_l1": torch.compile(prox, dynamic=False),
                "clip_by_value": torch.compile(clamp, dynamic=False),
                "global_norm": lambda x: norm_compiled(x).item(),
            }
        return tables

    def clip_all(arrays: Any, max_norm: float, foreach: bool) -> float:
        norm = total_norm(arrays, foreach=foreach)
        factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        if foreach:
            torch._foreach_mul_(arrays, factor)
        else:
            for x in arrays:
                x.mul_(factor)
        return float(norm)

    def foreach_gradient(grads: Any, params: Any) -> float:
        torch._foreach_add_(grads, torch._foreach_sign(params), alpha=L1)
        torch._foreach_add_(grads, params, alpha=L2)
        magnitudes = torch.stack(torch._foreach_norm(params, 1)).sum()
        squares = torch.stack(torch._foreach_norm(params, 2)).square().sum()
        return float(L1 * magnitudes + L2 / 2 * squares)

    def foreach_prox(arrays: Any, step: float) -> None:
        moved = torch._foreach_clamp_max(torch._foreach_clamp_min(arrays, -step), step)
        torch._foreach_sub_(arrays, moved)

    def foreach_clamp(arrays: Any, limits: tuple[float, float]) -> None:
        torch._foreach_clamp_min_(arrays, limits[0])
        torch._foreach_clamp_max_(arrays, limits[1])

    def foreach_clip(arrays: Any, max_norm: float) -> list[float]:
        norms = torch.stack(torch._foreach_norm(arrays))
        factors = torch.clamp(max_norm / (norms + 1e-6), max=1.0)
        torch._foreach_mul_(arrays, list(factors.unbind()))
        result: list[float] = norms.tolist()
        return result

    return {
        "torch": {
            "penalty_gradient": lambda gs, ws: float(
                sum(gradient_tensor(g, w) for g, w in zip(gs, ws, strict=True))
            ),
            "prox_l1": _for_each(prox),
            "clip_by_value": _for_each(clamp),
            "global_norm": lambda arrays: float(total_norm(arrays, foreach=False)),
            "clip_by_global_norm": lambda arrays, limit: clip_all(arrays, limit, False),
            "clip_by_norm": _for_each(clip),
        },
        "torch foreach": {
            "penalty_gradient": foreach_gradient,
            "prox_l1": foreach_prox,
            "clip_by_value": foreach_clamp,
            "global_norm": lambda arrays: float(total_norm(arrays, foreach=True)),
            "clip_by_global_norm": lambda arrays, limit: clip_all(arrays, limit, True),
            "clip_by_norm": foreach_clip,
        },
    }


# Numba


def _numba_tables(single: bool, elements: int) -> dict[str, dict[str, Function]]:
    from . import loops

    if not single:
        return {
            "numba": {
                "penalty_gradient": loops.gradient,
                "prox_l1": loops.prox,
                "clip_by_value": loops.clamp,
                "global_norm": loops.norm,
                "clip_by_global_norm": loops.clip,
                "clip_by_norm": loops.clip_each,
            }
        }

    def sums(compiled: Any) -> dict[str, Function]:
        return {
            "penalty_value": compiled.value,
            "penalty_gradient": compiled.gradient,
            "global_norm": compiled.norm,
            "clip_by_global_norm": compiled.clip,
            "clip_by_norm": compiled.clip,
        }

    def all_loops(compiled: Any) -> dict[str, Function]:
        return {"prox_l1": compiled.prox, "clip_by_value": compiled.clamp, **sums(compiled)}

    tables = {}
    if elements <= CACHED:
        tables["numba serial"] = all_loops(loops.serial)
        tables["numba serial float64"] = sums(loops.serial_float64)
    if elements >= LARGE:
        tables["numba prange"] = all_loops(loops.parallel)
        tables["numba prange float64"] = sums(loops.parallel_float64)
    return tables


def _numba_random_tables(elements: int) -> dict[str, dict[str, Function]]:
    from . import loops

    tables = {}
    if elements <= CACHED:
        tables["numba hash serial"] = random_peers.numba_table(loops.serial)
    if elements >= LARGE:
        tables["numba hash prange"] = random_peers.numba_table(loops.parallel)
    return tables
