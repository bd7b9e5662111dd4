"""Which peers exist, and which of them can run an operation."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Container
from dataclasses import dataclass

from ..machine import cores as _cores
from . import clipping, optimizers, penalties, pruning, random
from .tools import Function, Table, merged

CACHED = 2**17  # elements up to which a loop without threads is worth a row
LARGE = 2**16  # elements from which one with threads is
HALF = ("bfloat16", "float16")


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
    recipe: optimizers.Recipe | None,
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
        return _optimizers(recipe, without)
    half = dtype in HALF
    serial, threaded = elements <= CACHED, elements >= LARGE
    libraries: dict[str, Callable[[], dict[str, Table]]]
    if operation in pruning.OPERATIONS:
        libraries = {
            "numpy": lambda: pruning.numpy_tables(single, half),
            "torch": lambda: pruning.torch_tables(single, half),
            "jax": lambda: pruning.jax_tables(single, elements),
            "numba": lambda: pruning.numba_tables(single, serial, threaded),
        }
    elif draws:
        libraries = {
            "numpy": random.numpy_tables,
            "torch": lambda: random.torch_tables(compiled),
            "jax": random.jax_tables,
            "numba": lambda: random.numba_tables(serial, threaded),
        }
    else:
        libraries = {
            "numpy": lambda: {
                "numpy": penalties.numpy_table(single) | clipping.numpy_table(single)
            },
            "torch": lambda: merged(
                penalties.torch_tables(single, compiled), clipping.torch_tables(single, compiled)
            ),
            "jax": lambda: {"jax": penalties.jax_table() | clipping.jax_table(single)},
            "numba": lambda: merged(
                penalties.numba_tables(single, serial, threaded, dtype == "float64"),
                clipping.numba_tables(single, serial, threaded, dtype == "float64"),
            ),
            "scikit-learn": lambda: clipping.sklearn_tables(single),
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
    if operation in pruning.TIED and dtype in HALF and name not in pruning.STABLE:
        return f"keeps others of equals, of which {dtype} has many"
    if dtype == "float64":
        if operation in ("uniform", "normal") and library == "numba":
            return "its hash has 32 bits"
        if operation == "prune" and (library == "numba" or name == "jax bisection"):
            return "its keys have 32 bits"
    return ""


def _optimizers(recipe: optimizers.Recipe, without: Container[str]) -> list[Implementation]:
    compiled = "torch.compile" not in without
    libraries: dict[str, tuple[str, Callable[[], dict[str, Function]]]] = {
        "ridgeline": ("ridgeline", lambda: optimizers.ridgeline_tables(recipe)),
        "numpy": ("numpy", lambda: optimizers.numpy_tables(recipe)),
        "torch": ("torch", lambda: optimizers.torch_tables(recipe, compiled)),
        "deepspeed": ("torch", lambda: optimizers.deepspeed_tables(recipe)),
        "optax": ("jax", lambda: optimizers.optax_tables(recipe)),
        "scikit-learn": ("numpy", lambda: optimizers.sklearn_tables(recipe)),
        "numba": ("numba", lambda: optimizers.numba_tables(recipe)),
    }
    return [
        Implementation(
            name,
            function,
            kind,
            "variant" if kind == "ridgeline" else "peer",
            unfit=optimizers.unfit(recipe, library),
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
        from . import numba_loops

        numba_loops.set_num_threads(n)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
