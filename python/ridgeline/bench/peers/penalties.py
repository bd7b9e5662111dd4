"""Idiomatic penalties: each formula once for NumPy, PyTorch and JAX, and Numba loops.

A formula takes the library (`numpy`, `torch` or `jax.numpy`) and an array; that of a proximal step
also takes the step size. The functions made of them have the signature of ridgeline's. Half types
are computed in float32.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .settings import CAP, COMPILED, DELTA, EPS, GAMMA, L1, L2, RIDGE, SCAD_GAMMA, STRENGTH
from .tools import Function, Table, donating, for_each, held, silent, sum_over, waiting, wide

_TINY = 1e-30


@dataclass(frozen=True)
class Formulas:
    """The value, the gradient and the proximal step of a penalty."""

    value: Function
    prox: Function
    gradient: Function | None = None


def _soft(xp: Any, x: Any, threshold: float) -> Any:
    return x - xp.clip(x, -threshold, threshold)


def _mcp_value(xp: Any, w: Any) -> Any:
    reached = xp.clip(xp.abs(w), 0, GAMMA * STRENGTH)
    return (reached * (STRENGTH - reached / (2 * GAMMA))).sum()


def _mcp_gradient(xp: Any, w: Any) -> Any:
    return xp.sign(w) * xp.clip(STRENGTH - xp.abs(w) / GAMMA, 0, STRENGTH)


def _mcp_prox(xp: Any, x: Any, t: float) -> Any:
    near = _soft(xp, x, t * STRENGTH) / (1 - t / GAMMA)
    return xp.where(xp.abs(x) > GAMMA * STRENGTH, x, near)


def _scad_value(xp: Any, w: Any) -> Any:
    s, gamma, a = STRENGTH, SCAD_GAMMA, xp.abs(w)
    near, reached = xp.clip(a, 0, s), xp.clip(a, s, gamma * s)
    # the slope falls from s to 0 between s and gamma s
    return (s * near + (reached - s) * (gamma * s - (reached + s) / 2) / (gamma - 1)).sum()


def _scad_gradient(xp: Any, w: Any) -> Any:
    s, gamma = STRENGTH, SCAD_GAMMA
    return xp.sign(w) * xp.clip((gamma * s - xp.abs(w)) / (gamma - 1), 0, s)


def _scad_prox(xp: Any, x: Any, t: float) -> Any:
    s, gamma, a = STRENGTH, SCAD_GAMMA, xp.abs(x)
    between = ((gamma - 1) * x - xp.sign(x) * (gamma * t * s)) / (gamma - 1 - t)
    far = xp.where(a > gamma * s, x, between)
    return xp.where(a > (1 + t) * s, far, _soft(xp, x, t * s))


def _log_sum_prox(xp: Any, x: Any, t: float) -> Any:
    """The root of a quadratic, where there is one: t STRENGTH is below EPS^2."""
    a = xp.abs(x)
    root = xp.sqrt((a + EPS) ** 2 - 4 * t * STRENGTH)
    return xp.sign(x) * xp.clip((a - EPS + root) / 2, 0, None)


def _l_half_gradient(xp: Any, w: Any) -> Any:
    return STRENGTH / 2 * xp.sign(w) / xp.sqrt(xp.clip(xp.abs(w), _TINY, None))


def _l_half_prox(xp: Any, x: Any, t: float) -> Any:
    u, a = t * STRENGTH, xp.abs(x)
    threshold = 1.5 * u ** (2 / 3)
    far = xp.clip(a, threshold, None)
    angle = xp.arccos(-(3**1.5 / 4 * u) / (far * xp.sqrt(far)))
    return xp.where(a < threshold, 0 * x, 2 / 3 * x * (1 + xp.cos(2 / 3 * angle)))


def _huber_value(xp: Any, w: Any) -> Any:
    a = xp.abs(w)
    near = xp.clip(a, 0, DELTA)
    return STRENGTH * (near * (a - near / 2)).sum()


def _huber_prox(xp: Any, x: Any, t: float) -> Any:
    u = t * STRENGTH
    return x - u * xp.clip(x / (1 + u), -DELTA, DELTA)


_MCP = Formulas(_mcp_value, _mcp_prox, _mcp_gradient)
FORMULAS: dict[str, Formulas] = {
    "l1": Formulas(
        lambda xp, w: STRENGTH * xp.abs(w).sum(),
        lambda xp, x, t: _soft(xp, x, t * STRENGTH),
        lambda xp, w: STRENGTH * xp.sign(w),
    ),
    "l2": Formulas(
        lambda xp, w: STRENGTH / 2 * xp.dot(w, w),
        lambda xp, x, t: x * (1 / (1 + t * STRENGTH)),
        lambda xp, w: STRENGTH * w,
    ),
    "elastic_net": Formulas(
        lambda xp, w: L1 * xp.abs(w).sum() + L2 / 2 * xp.dot(w, w),
        lambda xp, x, t: _soft(xp, x, t * L1) * (1 / (1 + t * L2)),
        lambda xp, w: L1 * xp.sign(w) + L2 * w,
    ),
    "mcp": _MCP,
    "scad": Formulas(_scad_value, _scad_prox, _scad_gradient),
    "log_sum": Formulas(
        lambda xp, w: STRENGTH * xp.log1p(xp.abs(w) * (1 / EPS)).sum(),
        _log_sum_prox,
        lambda xp, w: STRENGTH * xp.sign(w) / (EPS + xp.abs(w)),
    ),
    "l0": Formulas(
        lambda xp, w: STRENGTH * xp.count_nonzero(w),
        lambda xp, x, t: xp.where(xp.abs(x) > (2 * t * STRENGTH) ** 0.5, x, 0 * x),
    ),
    "l_half": Formulas(
        lambda xp, w: STRENGTH * xp.sqrt(xp.abs(w)).sum(), _l_half_prox, _l_half_gradient
    ),
    "huber": Formulas(
        _huber_value, _huber_prox, lambda xp, w: STRENGTH * xp.clip(w, -DELTA, DELTA)
    ),
    "capped_l1": Formulas(
        lambda xp, w: STRENGTH * xp.clip(xp.abs(w), 0, CAP).sum(),
        # for t STRENGTH of at most 2 CAP
        lambda xp, x, t: xp.where(
            xp.abs(x) > CAP + t * STRENGTH / 2, x, _soft(xp, x, t * STRENGTH)
        ),
        lambda xp, w: STRENGTH * xp.where(xp.abs(w) < CAP, xp.sign(w), 0 * w),
    ),
    "mcp_l2": Formulas(
        lambda xp, w: _mcp_value(xp, w) + RIDGE / 2 * xp.dot(w, w),
        # Parikh & Boyd (2014), section 2.2
        lambda xp, x, t: _mcp_prox(xp, x * (1 / (1 + t * RIDGE)), t / (1 + t * RIDGE)),
        lambda xp, w: _mcp_gradient(xp, w) + RIDGE * w,
    ),
}


def _table(library: Callable[[str, Formulas], Table], *names: str) -> Table:
    found: Table = {}
    for name in names or FORMULAS:
        found |= library(name, FORMULAS[name])
    return found


# NumPy


def _numpy(name: str, of: Formulas) -> Table:
    def add_gradient(g: Any, w: Any) -> float:
        x = wide(w)
        g += of.gradient(np, x).astype(g.dtype, copy=False)  # type: ignore[misc]
        return float(of.value(np, x))

    def prox(x: Any, step: float) -> None:
        x[...] = of.prox(np, wide(x), step)

    made: Table = {f"value_{name}": lambda w: float(of.value(np, wide(w))), f"prox_{name}": prox}
    return made | ({f"add_gradient_{name}": add_gradient} if of.gradient else {})


def _numpy_soft(x: Any, step: float) -> None:
    if x.itemsize < 4:
        x[...] = _soft(np, wide(x), step)
    else:
        x -= np.clip(x, -step, step)


def _numpy_soft_out(x: Any, out: Any, step: float) -> Any:
    np.clip(x, -step, step, out=out)
    return np.subtract(x, out, out=out)


def _numpy_scale(x: Any, step: float) -> None:
    x *= 1 / (1 + step * STRENGTH)


def _numpy_weighted() -> Function:
    thresholds = held(np.abs)

    def prox(x: Any, weights: Any, step: float) -> None:
        threshold = step * STRENGTH * thresholds(weights)
        x -= np.clip(x, -threshold, threshold)

    return prox


def numpy_table(single: bool) -> Table:
    """Return the functions of one array, in place where that is possible, or of a list."""
    table: Table = {
        **_table(_numpy),
        "prox_l1": _numpy_soft,
        "prox_l1_out": _numpy_soft_out,
        "prox_l2": _numpy_scale,
        "prox_weighted_l1": _numpy_weighted(),
    }
    return table if single else _of_lists(table)


def _of_lists(table: Table) -> Table:
    return {
        "value_elastic_net": sum_over(table["value_elastic_net"]),
        "add_gradient_elastic_net": sum_over(table["add_gradient_elastic_net"]),
        "prox_l1": for_each(table["prox_l1"]),
    }


# PyTorch


def torch_tables(single: bool, compiled: bool) -> dict[str, Table]:
    """Return the formulas, torch's own functions, and compiled; lists also by foreach."""
    torch: Any = importlib.import_module("torch")
    table = _torch_formulas(torch, lambda function: function) | _torch_by_hand(torch)
    if not single:
        return {"torch": _of_lists(table), "torch foreach": _torch_foreach(torch)}
    tables = {"torch": table, **_torch_functional(torch)}
    if compiled:
        tables["torch.compile"] = _torch_formulas(
            torch, lambda function: torch.compile(function, dynamic=False)
        )
    return tables


def _item(function: Function) -> Function:
    return lambda *arrays: function(*arrays).item()


def _torch_wide(x: Any) -> Any:
    return x.float() if x.element_size() < 4 else x


def _torch_soft(x: Any, step: float) -> None:
    x.sub_(x.clamp(-step, step))


def _torch_formulas(torch: Any, change: Function) -> Table:
    """Return the functions after `change`, which compiles them or returns them as they are."""

    def add_gradient_of(of: Formulas) -> Function:
        def add_gradient(g: Any, w: Any) -> Any:
            x = _torch_wide(w)
            g.add_(of.gradient(torch, x))  # type: ignore[misc]
            return of.value(torch, x)

        return add_gradient

    def elastic_net(g: Any, w: Any) -> Any:
        g.add_(w.sign(), alpha=L1).add_(w, alpha=L2)
        return FORMULAS["elastic_net"].value(torch, _torch_wide(w))

    def prox_of(of: Formulas) -> Function:
        return silent(lambda x, step: x.copy_(of.prox(torch, _torch_wide(x), step)))

    def make(name: str, of: Formulas) -> Table:
        made = {
            f"value_{name}": _item(change(lambda w: of.value(torch, _torch_wide(w)))),
            f"prox_{name}": change(prox_of(of)),
        }
        if of.gradient:
            made[f"add_gradient_{name}"] = _item(change(add_gradient_of(of)))
        return made

    return {
        **_table(make),
        "add_gradient_elastic_net": _item(change(elastic_net)),
        "prox_l1": change(_torch_soft),
    }


def _torch_by_hand(torch: Any) -> Table:
    """Return what takes fewer passes than its formula."""
    thresholds = held(torch.abs)

    def weighted(x: Any, weights: Any, step: float) -> None:
        threshold = step * STRENGTH * thresholds(weights)
        x.sub_(torch.clamp(x, -threshold, threshold))

    return {
        "prox_l1_out": lambda x, out, step: torch.sub(x, x.clamp(-step, step), out=out),
        "prox_l2": silent(lambda x, step: x.mul_(1 / (1 + step * STRENGTH))),
        "prox_weighted_l1": weighted,
    }


def _torch_functional(torch: Any) -> dict[str, Table]:
    functional = torch.nn.functional

    def huber(w: Any) -> Any:
        zeros = torch.zeros((), dtype=w.dtype).expand_as(w)
        return STRENGTH * functional.huber_loss(w, zeros, reduction="sum", delta=DELTA)

    return {
        "torch softshrink": {
            "prox_l1": silent(lambda x, step: x.copy_(functional.softshrink(x, step))),
            "prox_l1_out": lambda x, out, step: functional.softshrink(x, step),
        },
        "torch hardshrink": {
            "prox_l0": silent(
                lambda x, step: x.copy_(functional.hardshrink(x, math.sqrt(2 * step * STRENGTH)))
            ),
        },
        "torch huber_loss": {"value_huber": _item(huber)},
    }


def _torch_foreach(torch: Any) -> Table:
    def add_gradient(grads: Any, params: Any) -> float:
        torch._foreach_add_(grads, torch._foreach_sign(params), alpha=L1)
        torch._foreach_add_(grads, params, alpha=L2)
        magnitudes = torch.stack(torch._foreach_norm(params, 1)).sum()
        squares = torch.stack(torch._foreach_norm(params, 2)).square().sum()
        return float(L1 * magnitudes + L2 / 2 * squares)

    def prox(arrays: Any, step: float) -> None:
        moved = torch._foreach_clamp_max(torch._foreach_clamp_min(arrays, -step), step)
        torch._foreach_sub_(arrays, moved)

    return {"add_gradient_elastic_net": add_gradient, "prox_l1": prox}


# JAX


def jax_table() -> Table:
    """Return compiled functions of one array or of a list."""
    jax: Any = importlib.import_module("jax")
    jnp, tree = jax.numpy, jax.tree

    def wide(x: Any) -> Any:
        return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x

    def make(name: str, of: Formulas) -> Table:
        def value(params: Any) -> Any:
            if isinstance(params, list) and len(params) > COMPILED:
                raise ValueError(f"{len(params)} arrays would take too long to compile")
            return sum(of.value(jnp, wide(w)) for w in tree.leaves(params))

        def changed(g: Any, w: Any) -> Any:
            return g + of.gradient(jnp, wide(w)).astype(g.dtype)  # type: ignore[misc]

        def add_gradient(grads: Any, params: Any) -> Any:
            return value(params), tree.map(changed, grads, params)

        def prox(params: Any, step: float) -> Any:
            return tree.map(lambda x: of.prox(jnp, wide(x), step).astype(x.dtype), params)

        made = {f"value_{name}": waiting(value), f"prox_{name}": donating(prox)}
        return made | ({f"add_gradient_{name}": donating(add_gradient)} if of.gradient else {})

    soft = waiting(lambda x, step: _soft(jnp, x, step))

    def weighted(x: Any, thresholds: Any, step: float) -> Any:
        threshold = step * STRENGTH * thresholds
        return x - jnp.clip(x, -threshold, threshold)

    fast, magnitudes = donating(weighted), held(jnp.abs)
    return {
        **_table(make),
        "prox_l1_out": lambda x, out, step: soft(x, step),
        "prox_weighted_l1": lambda x, weights, step: fast(x, magnitudes(weights), step),
    }


# Numba


def numba_tables(single: bool, serial: bool, threaded: bool, is_wide: bool) -> dict[str, Table]:
    """Return the loops by hand; sums in the dtype of the arrays, and in float64."""
    from . import numba_loops as loops

    if not single:
        return {
            "numba": {"add_gradient_elastic_net": loops.add_gradient, "prox_l1": loops.prox},
        }

    def table(compiled: Any) -> Table:
        made: Table = {}
        for name, each in compiled.penalties.items():
            made |= {f"{verb}_{name}": function for verb, function in each.items()}
        return made

    def changes(compiled: Any) -> Table:
        return {**compiled.proximal, "prox_l1_out": compiled.soft_out}

    tables: dict[str, Table] = {}
    if serial:
        tables["numba serial"] = changes(loops.serial)
        tables["numba serial float64"] = table(loops.serial_float64)
    if threaded:
        tables["numba prange"] = changes(loops.parallel)
        tables["numba prange float64"] = table(loops.parallel_float64)
    if not is_wide:
        for name, compiled in (("serial", loops.serial), ("prange", loops.parallel)):
            if f"numba {name}" in tables:
                tables[f"numba {name}"] |= table(compiled)
    return tables
