"""The operations as one writes them in NumPy, PyTorch and JAX, and the Numba loops beside them.

All have the signature of ridgeline's function: arrays first, then the numbers of the case. For many
arrays the arguments are lists. Clipping and constraints are here; penalties in `penalty_peers`,
what draws at random in `random_peers`, pruning in `prune_peers`, the steps of optimizers in
`step_peers`.

JAX cannot write into an array: in place of that, its functions return what the operation returns,
if anything, and the new arrays.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import penalty_peers, prune_peers, random_peers, step_peers
from .machine import cores as _cores
from .penalty_peers import donating, silent, waiting, wide

CACHED = 2**17  # elements up to which a loop without threads is worth a row
LARGE = 2**16  # elements from which one with threads is
HALF = ("bfloat16", "float16")

Function = Callable[..., Any]


@dataclass(frozen=True)
class Implementation:
    """One way to do an operation; `kind` says which arrays and numbers it takes.

    ``role``: "ours", another "target" or a "variant" of ours, a "peer", the "reference", or the
    "floor", which does nothing. ``target``: the instruction set, if it is not the one in use.
    ``unfit``: why it can't do the operation in the dtype; then it is not called.
    """

    name: str
    function: Function
    kind: str = "numpy"  # or "torch", "jax"; "numba", "ridgeline": numbers or masks are their own
    role: str = "peer"
    target: str = ""
    unfit: str = ""


LIBRARIES = {
    "torch": "torch",
    "jax": "jax",
    "numba": "numba",
    "optax": "optax",
    "scikit-learn": "sklearn",
    "deepspeed": "deepspeed",
}


def missing(compiled: bool, threads: int) -> dict[str, str]:
    """Say which peers are left out, and why."""
    reasons = {
        name: "not installed" for name, module in LIBRARIES.items() if not _installed(module)
    }
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
    operation: str,
    recipe: step_peers.Recipe | None,
    draws: bool,
    single: bool,
    elements: int,
    without: Container[str],
    dtype: str = "float32",
) -> list[Implementation]:
    """List the implementations of an operation, on one array or on a list.

    Those that draw at random take one array. ``recipe``: of the step of an optimizer.
    """
    compiled = "torch.compile" not in without
    if "jax" not in without:
        use_jax_in(dtype)
    if recipe is not None:
        return _step_peers(recipe, without)
    half = dtype in HALF
    serial, threaded = elements <= CACHED, elements >= LARGE
    libraries: dict[str, Callable[[], dict[str, dict[str, Function]]]]
    if operation in prune_peers.OPERATIONS:
        libraries = {
            "numpy": lambda: prune_peers.numpy_tables(single, half),
            "torch": lambda: prune_peers.torch_tables(single, half),
            "jax": lambda: prune_peers.jax_tables(single, elements),
            "numba": lambda: prune_peers.numba_tables(single, serial, threaded),
        }
    elif draws:
        libraries = {
            "numpy": random_peers.numpy_tables,
            "torch": lambda: random_peers.torch_tables(compiled),
            "jax": random_peers.jax_tables,
            "numba": lambda: random_peers.numba_tables(serial, threaded),
        }
    else:
        libraries = {
            "numpy": lambda: {"numpy": _NUMPY_ONE if single else _NUMPY_MANY},
            "torch": lambda: _torch_tables(single, compiled),
            "jax": lambda: {"jax": penalty_peers.jax_table() | _jax_table(single)},
            "numba": lambda: _numba_tables(single, serial, threaded, dtype == "float64"),
            "scikit-learn": lambda: _sklearn_tables(single),
        }
    return [
        Implementation(
            name,
            table[operation],
            "numpy" if library == "scikit-learn" else library,
            unfit=_unfit(library, name, operation, dtype),
        )
        for library, tables in libraries.items()
        if library not in without
        for name, table in tables().items()
        if operation in table
    ]


def use_jax_in(dtype: str) -> None:
    """Let JAX have float64, which it has not by default, or not."""
    importlib.import_module("jax").config.update("jax_enable_x64", dtype == "float64")


def _unfit(library: str, name: str, operation: str, dtype: str) -> str:
    """Say why an implementation can't do an operation in a dtype."""
    if library == "numba" and dtype in HALF:
        return f"no {dtype}"
    if operation in prune_peers.TIED and dtype in HALF and name not in prune_peers.STABLE:
        return f"keeps others of equals, of which {dtype} has many"
    if dtype == "float64":
        if operation in ("uniform", "normal") and library == "numba":
            return "its hash has 32 bits"
        if operation == "prune" and (library == "numba" or name == "jax bisection"):
            return "its keys have 32 bits"
    return ""


def _step_peers(recipe: step_peers.Recipe, without: Container[str]) -> list[Implementation]:
    compiled = "torch.compile" not in without
    libraries: dict[str, tuple[str, Callable[[], dict[str, Function]]]] = {
        "ridgeline": ("ridgeline", lambda: step_peers.ridgeline_tables(recipe)),
        "numpy": ("numpy", lambda: step_peers.numpy_tables(recipe)),
        "torch": ("torch", lambda: step_peers.torch_tables(recipe, compiled)),
        "deepspeed": ("torch", lambda: step_peers.deepspeed_tables(recipe)),
        "optax": ("jax", lambda: step_peers.optax_tables(recipe)),
        "scikit-learn": ("numpy", lambda: step_peers.sklearn_tables(recipe)),
        "numba": ("numba", lambda: step_peers.numba_tables(recipe)),
    }
    return [
        Implementation(
            name,
            function,
            kind,
            "variant" if kind == "ridgeline" else "peer",
            unfit=step_peers.unfit(recipe, library),
        )
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


def _sum_over(function: Function) -> Function:
    return lambda *lists: sum(function(*arrays) for arrays in zip(*lists, strict=True))


def _for_each(function: Function) -> Function:
    """Results in a list; the last argument is a number for all."""
    return lambda arrays, number: [function(x, number) for x in arrays]


_NUMPY_ONE: dict[str, Function] = {
    **penalty_peers.numpy_table(),
    "clip_by_value": _clip_value,
    "non_negative": lambda x: silent(np.maximum)(x, 0, x),
    "global_norm": _norm,
    "global_norm_2": _norm,
    "clip_by_global_norm": _clip,
    "clip_by_norm": lambda x, max_norm: [_clip(x, max_norm)],
    "clip_by_rms": _clip_rms,
    "zero_largest_1": _zero_largest,
}
_NUMPY_MANY: dict[str, Function] = {
    "value_elastic_net": _sum_over(_NUMPY_ONE["value_elastic_net"]),
    "add_gradient_elastic_net": _sum_over(_NUMPY_ONE["add_gradient_elastic_net"]),
    "prox_l1": _for_each(_NUMPY_ONE["prox_l1"]),
    "clip_by_value": _for_each(_clip_value),
    "global_norm_2": _norm_of_all,
    "clip_by_global_norm": _clip_all,
    "clip_by_norm": _for_each(_clip),
}


def _sklearn_tables(single: bool) -> dict[str, dict[str, Function]]:
    squared_norm = importlib.import_module("sklearn.utils.extmath").squared_norm
    if not single:
        return {}
    return {"scikit-learn": {"global_norm_2": lambda x: math.sqrt(squared_norm(wide(x)))}}


# PyTorch


def _torch_tables(single: bool, compiled: bool) -> dict[str, dict[str, Function]]:
    torch: Any = importlib.import_module("torch")
    total_norm = importlib.import_module("torch.nn.utils").get_total_norm

    def clamp(x: Any, limits: tuple[float, float]) -> None:
        x.clamp_(*limits)

    def scale(x: Any, norm: Any, limit: float) -> None:
        x.mul_(torch.clamp(limit / (norm + 1e-6), max=1.0))

    def clip(x: Any, max_norm: float) -> float:
        norm = norm_of(x)
        scale(x, norm, max_norm)
        return float(norm)

    def norm_of(x: Any, ord: float = 2) -> Any:
        half = x.element_size() < 4
        return torch.linalg.vector_norm(x, ord, dtype=torch.float32 if half else None)

    if single:

        def clip_rms(x: Any, max_rms: float) -> list[float]:
            rms = norm_of(x) / math.sqrt(x.numel())
            scale(x, rms, max_rms)
            return [float(rms)]

        def zero_largest(x: Any, count: int) -> None:
            x[torch.argmax(x.abs())] = 0

        tables = penalty_peers.torch_tables(compiled)
        tables["torch"] |= {
            "clip_by_value": clamp,
            "non_negative": lambda x: silent(x.clamp_)(0),
            "global_norm": lambda x, ord: norm_of(x, ord).item(),
            "global_norm_2": lambda x: norm_of(x).item(),
            "clip_by_global_norm": clip,
            "clip_by_norm": lambda x, max_norm: [clip(x, max_norm)],
            "clip_by_rms": clip_rms,
            "zero_largest_1": zero_largest,
        }
        if compiled:
            norm_compiled = torch.compile(lambda x: (x * x).sum().sqrt(), dynamic=False)
            tables["torch.compile"] |= {
                "clip_by_value": torch.compile(clamp, dynamic=False),
                "global_norm_2": lambda x: norm_compiled(x).item(),
            }
        return tables

    one = penalty_peers.torch_tables(compiled=False)["torch"]

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
        torch._foreach_add_(grads, torch._foreach_sign(params), alpha=penalty_peers.L1)
        torch._foreach_add_(grads, params, alpha=penalty_peers.L2)
        magnitudes = torch.stack(torch._foreach_norm(params, 1)).sum()
        squares = torch.stack(torch._foreach_norm(params, 2)).square().sum()
        return float(penalty_peers.L1 * magnitudes + penalty_peers.L2 / 2 * squares)

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
            "value_elastic_net": _sum_over(one["value_elastic_net"]),
            "add_gradient_elastic_net": _sum_over(one["add_gradient_elastic_net"]),
            "prox_l1": _for_each(one["prox_l1"]),
            "clip_by_value": _for_each(clamp),
            "global_norm_2": lambda arrays: float(total_norm(arrays, foreach=False)),
            "clip_by_global_norm": lambda arrays, limit: clip_all(arrays, limit, False),
            "clip_by_norm": _for_each(clip),
        },
        "torch foreach": {
            "add_gradient_elastic_net": foreach_gradient,
            "prox_l1": foreach_prox,
            "clip_by_value": foreach_clamp,
            "global_norm_2": lambda arrays: float(total_norm(arrays, foreach=True)),
            "clip_by_global_norm": lambda arrays, limit: clip_all(arrays, limit, True),
            "clip_by_norm": foreach_clip,
        },
    }


# JAX


def _jax_table(single: bool) -> dict[str, Function]:
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


def _numba_tables(
    single: bool, serial: bool, threaded: bool, is_wide: bool
) -> dict[str, dict[str, Function]]:
    """Return the loops; for wide arrays only those whose sums are wide too."""
    from . import loops

    tables = penalty_peers.numba_tables(single, serial, threaded, is_wide)
    if not single:
        tables["numba"] |= {
            "clip_by_value": loops.clamp,
            "global_norm_2": loops.norm,
            "clip_by_global_norm": loops.clip,
            "clip_by_norm": loops.clip_each,
        }
        return tables

    def sums(compiled: Any) -> dict[str, Function]:
        return {
            "global_norm_2": compiled.norm,
            "clip_by_global_norm": compiled.clip,
            "clip_by_norm": compiled.clip,
        }

    for name, narrow, in_float64 in (
        ("serial", loops.serial, loops.serial_float64),
        ("prange", loops.parallel, loops.parallel_float64),
    ):
        if f"numba {name}" in tables:
            tables[f"numba {name}"] |= {
                "clip_by_value": narrow.clamp,
                "non_negative": narrow.non_negative,
                **({} if is_wide else sums(narrow)),
            }
            tables[f"numba {name} float64"] |= sums(in_float64)
    return tables
