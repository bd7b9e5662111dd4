"""Idiomatic clipping and constraints in NumPy, scikit-learn, PyTorch and JAX, and Numba loops."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from .tools import Table, donating, for_each, silent, waiting, wide

# NumPy


def _clip_value(x: Any, limits: tuple[float, float]) -> None:
    np.clip(x, *limits, out=x)


def _norm(x: Any, ord: float = 2) -> float:
    return float(np.linalg.norm(wide(x), ord))


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
    x[np.argmax(np.abs(x))] = 0


NUMPY: Table = {
    "clip_by_value": _clip_value,
    "non_negative": lambda x: silent(np.maximum)(x, 0, x),
    "global_norm": _norm,
    "global_norm_2": _norm,
    "clip_by_global_norm": _clip,
    "clip_by_norm": lambda x, max_norm: [_clip(x, max_norm)],
    "clip_by_rms": _clip_rms,
    "zero_largest_1": _zero_largest,
}
_NUMPY_MANY: Table = {
    "clip_by_value": for_each(_clip_value),
    "global_norm_2": _norm_of_all,
    "clip_by_global_norm": _clip_all,
    "clip_by_norm": for_each(_clip),
}


def numpy_table(single: bool) -> Table:
    """Return the functions of one array or of a list."""
    return NUMPY if single else _NUMPY_MANY


def sklearn_tables(single: bool) -> dict[str, Table]:
    """Return scikit-learn's norm."""
    squared_norm = importlib.import_module("sklearn.utils.extmath").squared_norm
    if not single:
        return {}
    return {"scikit-learn": {"global_norm_2": lambda x: math.sqrt(squared_norm(wide(x)))}}


# PyTorch


def _clamp(x: Any, limits: tuple[float, float]) -> None:
    x.clamp_(*limits)


class _Torch:
    """What one array and lists have in common."""

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")

    def norm(self, x: Any, ord: float = 2) -> Any:
        half = x.element_size() < 4
        return self.torch.linalg.vector_norm(x, ord, dtype=self.torch.float32 if half else None)

    def factor(self, norm: Any, limit: float) -> Any:
        return self.torch.clamp(limit / (norm + 1e-6), max=1.0)

    def clip(self, x: Any, max_norm: float) -> float:
        norm = self.norm(x)
        x.mul_(self.factor(norm, max_norm))
        return float(norm)


def torch_tables(single: bool, compiled: bool) -> dict[str, Table]:
    """Return the functions of one array or of a list; of one also compiled."""
    return _torch_one(compiled) if single else _torch_many()


def _torch_one(compiled: bool) -> dict[str, Table]:
    of = _Torch()
    torch = of.torch

    def clip_rms(x: Any, max_rms: float) -> list[float]:
        rms = of.norm(x) / math.sqrt(x.numel())
        x.mul_(of.factor(rms, max_rms))
        return [float(rms)]

    def zero_largest(x: Any, count: int) -> None:
        x[torch.argmax(x.abs())] = 0

    tables: dict[str, Table] = {
        "torch": {
            "clip_by_value": _clamp,
            "non_negative": lambda x: silent(x.clamp_)(0),
            "global_norm": lambda x, ord: of.norm(x, ord).item(),
            "global_norm_2": lambda x: of.norm(x).item(),
            "clip_by_global_norm": of.clip,
            "clip_by_norm": lambda x, max_norm: [of.clip(x, max_norm)],
            "clip_by_rms": clip_rms,
            "zero_largest_1": zero_largest,
        }
    }
    if compiled:
        norm = torch.compile(lambda x: (x * x).sum().sqrt(), dynamic=False)
        tables["torch.compile"] = {
            "clip_by_value": torch.compile(_clamp, dynamic=False),
            "global_norm_2": lambda x: norm(x).item(),
        }
    return tables


def _torch_many() -> dict[str, Table]:
    of = _Torch()
    torch = of.torch
    total_norm = importlib.import_module("torch.nn.utils").get_total_norm

    def clip_all(arrays: Any, max_norm: float, foreach: bool) -> float:
        norm = total_norm(arrays, foreach=foreach)
        factor = of.factor(norm, max_norm)
        if foreach:
            torch._foreach_mul_(arrays, factor)
        else:
            for x in arrays:
                x.mul_(factor)
        return float(norm)

    def foreach_clamp(arrays: Any, limits: tuple[float, float]) -> None:
        torch._foreach_clamp_min_(arrays, limits[0])
        torch._foreach_clamp_max_(arrays, limits[1])

    def foreach_clip(arrays: Any, max_norm: float) -> list[float]:
        norms = torch.stack(torch._foreach_norm(arrays))
        torch._foreach_mul_(arrays, list(of.factor(norms, max_norm).unbind()))
        result: list[float] = norms.tolist()
        return result

    return {
        "torch": {
            "clip_by_value": for_each(_clamp),
            "global_norm_2": lambda arrays: float(total_norm(arrays, foreach=False)),
            "clip_by_global_norm": lambda arrays, limit: clip_all(arrays, limit, False),
            "clip_by_norm": for_each(of.clip),
        },
        "torch foreach": {
            "clip_by_value": foreach_clamp,
            "global_norm_2": lambda arrays: float(total_norm(arrays, foreach=True)),
            "clip_by_global_norm": lambda arrays, limit: clip_all(arrays, limit, True),
            "clip_by_norm": foreach_clip,
        },
    }


# JAX


def jax_table(single: bool) -> Table:
    """Return compiled functions of one array or of a list."""
    jax: Any = importlib.import_module("jax")
    jnp, tree = jax.numpy, jax.tree

    def floats(x: Any) -> Any:
        return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x

    def norm(x: Any, ord: float = 2) -> Any:
        return jnp.linalg.norm(floats(x), ord)

    def joint(arrays: Any) -> Any:
        return jnp.sqrt(sum(jnp.vdot(floats(x), floats(x)) for x in tree.leaves(arrays)))

    def scaled(x: Any, factor: Any) -> Any:
        return (x * factor).astype(x.dtype)

    def clamp(arrays: Any, limits: Any) -> Any:
        return tree.map(lambda x: jnp.clip(x, *limits).astype(x.dtype), arrays)

    def clip_all(arrays: Any, max_norm: float) -> Any:
        before = joint(arrays)
        factor = jnp.minimum(max_norm / before, 1)
        return before, tree.map(lambda x: scaled(x, factor), arrays)

    def clip_each(arrays: Any, max_norm: float) -> Any:
        norms = [norm(x) for x in tree.leaves(arrays)]
        factors = [jnp.minimum(max_norm / each, 1) for each in norms]
        made = [scaled(x, c) for x, c in zip(tree.leaves(arrays), factors, strict=True)]
        return norms, made[0] if single else made

    table = {
        "clip_by_value": donating(clamp),
        "global_norm_2": waiting(joint),
        "clip_by_global_norm": donating(clip_all),
        "clip_by_norm": donating(clip_each),
    }
    if not single:
        return table
    norms = jax.jit(norm, static_argnums=1)

    def clip_rms(x: Any, max_rms: float) -> Any:
        rms = norm(x) / math.sqrt(x.size)
        return [rms], scaled(x, jnp.minimum(max_rms / rms, 1))

    return {
        **table,
        "non_negative": donating(lambda x: jnp.maximum(x, 0)),
        "global_norm": lambda x, ord: jax.block_until_ready(norms(x, ord)),
        "clip_by_rms": donating(clip_rms),
        "zero_largest_1": donating(lambda x, count: x.at[jnp.argmax(jnp.abs(x))].set(0)),
    }


# Numba


def numba_tables(single: bool, serial: bool, threaded: bool, is_wide: bool) -> dict[str, Table]:
    """Return the loops; for wide arrays only those whose sums are wide too."""
    from . import numba_loops as loops

    if not single:
        return {
            "numba": {
                "clip_by_value": loops.clamp,
                "global_norm_2": loops.norm,
                "clip_by_global_norm": loops.clip,
                "clip_by_norm": loops.clip_each,
            }
        }

    def sums(compiled: Any) -> Table:
        return {
            "global_norm_2": compiled.norm,
            "clip_by_global_norm": compiled.clip,
            "clip_by_norm": compiled.clip,
        }

    tables: dict[str, Table] = {}
    for name, is_there, narrow, in_float64 in (
        ("numba serial", serial, loops.serial, loops.serial_float64),
        ("numba prange", threaded, loops.parallel, loops.parallel_float64),
    ):
        if is_there:
            tables[name] = {"clip_by_value": narrow.clamp, "non_negative": narrow.non_negative}
            if not is_wide:
                tables[name] |= sums(narrow)
            tables[f"{name} float64"] = sums(in_float64)
    return tables
