"""Random numbers and dropout as one writes them in NumPy, PyTorch and JAX.

All have the signature of the operation: arrays to read, arrays to write, numbers. What cannot write
into an array returns a new one. Ridgeline's key is ignored: each library has a generator or a key
of its own, made before the clock starts. `numba_table` uses ours, as the seed of its hash.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .fairness import alpha_constants

Function = Callable[..., Any]
Table = dict[str, Function]


def numpy_tables() -> dict[str, Table]:
    """Return the functions with NumPy's usual generator, and with its fastest."""
    return {"numpy": _numpy_table(np.random.PCG64), "numpy SFC64": _numpy_table(np.random.SFC64)}


def _numpy_table(bits: Callable[[int], Any]) -> Table:
    rng = np.random.Generator(bits(0))

    def dropout(x: Any, out: Any, p: float, key: Any) -> Any:
        rng.random(out=out, dtype=np.float32)
        np.multiply(x, out >= p, out=out)
        out *= 1 / (1 - p)
        return out

    def forward_backward(x: Any, dy: Any, y: Any, dx: Any, p: float, key: Any) -> Any:
        rng.random(out=y, dtype=np.float32)
        keep = y >= p
        for read, made in ((x, y), (dy, dx)):
            np.multiply(read, keep, out=made)
            made *= 1 / (1 - p)
        return y, dx

    def in_place(x: Any, p: float, key: Any) -> Any:
        x *= rng.random(x.shape, dtype=np.float32) >= p
        x *= 1 / (1 - p)
        return x

    def add(x: Any, residual: Any, out: Any, p: float, key: Any) -> Any:
        dropout(x, out, p, key)
        out += residual
        return out

    def alpha(x: Any, out: Any, p: float, key: Any) -> Any:
        a, shift, dropped = alpha_constants(p)
        rng.random(out=out, dtype=np.float32)
        drop = out < p
        np.multiply(x, a, out=out)
        out += shift
        np.copyto(out, dropped, where=drop)
        return out

    def gaussian(x: Any, out: Any, p: float, key: Any) -> Any:
        rng.standard_normal(out=out, dtype=np.float32)
        out *= math.sqrt(p / (1 - p))
        out += 1
        out *= x
        return out

    def spatial(x: Any, out: Any, p: float, key: Any) -> Any:
        keep = rng.random((*x.shape[:2], 1, 1), dtype=np.float32) >= p
        return np.multiply(x, keep * np.float32(1 / (1 - p)), out=out)

    return {
        "alpha_dropout": alpha,
        "dropout": dropout,
        "dropout_add": add,
        "dropout_forward_backward": forward_backward,
        "dropout_in_place": in_place,
        "gaussian_dropout": gaussian,
        "random_normal": lambda out, key: rng.standard_normal(out=out, dtype=np.float32),
        "random_uniform": lambda out, key: rng.random(out=out, dtype=np.float32),
        "spatial_dropout": spatial,
    }


def torch_tables(compiled: bool) -> dict[str, Table]:
    """Return torch.nn.functional, native_dropout which makes a mask, and the former compiled."""
    torch: Any = importlib.import_module("torch")
    functional: Any = importlib.import_module("torch.nn.functional")

    def functional_dropout(x: Any, p: float) -> Any:
        return functional.dropout(x, p, training=True)

    def native_dropout(x: Any, p: float) -> Any:
        return torch.native_dropout(x, p, True)[0]

    def alpha_dropout(x: Any, p: float) -> Any:
        return functional.alpha_dropout(x, p, training=True)

    def spatial_dropout(x: Any, p: float) -> Any:
        return functional.dropout2d(x, p, training=True)

    def gaussian_tensor(x: Any, p: float) -> Any:
        return x * (1 + math.sqrt(p / (1 - p)) * torch.randn_like(x))

    def gaussian(x: Any, out: Any, p: float, key: Any) -> Any:
        return out.normal_(1.0, math.sqrt(p / (1 - p))).mul_(x)

    def table(dropout: Function) -> Table:
        def forward_backward(x: Any, dy: Any, y: Any, dx: Any, p: float, key: Any) -> Any:
            leaf = x.detach().requires_grad_()
            result = dropout(leaf, p)
            return result, torch.autograd.grad(result, leaf, dy)[0]

        return {
            "dropout": _new(dropout),
            "dropout_forward_backward": forward_backward,
            "dropout_add": lambda x, residual, out, p, key: torch.add(
                residual, dropout(x, p), out=out
            ),
        }

    tables: dict[str, Table] = {
        "torch": {
            **table(functional_dropout),
            "alpha_dropout": _new(alpha_dropout),
            "dropout_in_place": lambda x, p, key: functional.dropout(
                x, p, training=True, inplace=True
            ),
            "gaussian_dropout": gaussian,
            "random_normal": lambda out, key: out.normal_(),
            "random_uniform": lambda out, key: out.uniform_(),
            "spatial_dropout": _new(spatial_dropout),
        },
        "torch native": table(native_dropout),
    }
    if compiled:

        def fast(function: Function) -> Function:
            return _new(torch.compile(function, dynamic=False))

        add = torch.compile(lambda x, r, p: r + functional_dropout(x, p), dynamic=False)
        tables["torch.compile"] = {
            **table(torch.compile(functional_dropout, dynamic=False)),
            "alpha_dropout": fast(alpha_dropout),
            "dropout_add": lambda x, residual, out, p, key: add(x, residual, p),
            "gaussian_dropout": fast(gaussian_tensor),
            "spatial_dropout": fast(spatial_dropout),
        }
    return tables


def _new(function: Function) -> Function:
    """Return the function, of x and p, that makes its own result."""
    return lambda x, out, p, key: function(x, p)


def jax_tables() -> dict[str, Table]:
    """Return compiled functions with JAX's usual generator, and with that of XLA."""
    jax: Any = importlib.import_module("jax")
    cpu = jax.devices("cpu")[0]
    keys = {name: jax.random.key(0, impl=name) for name in ("threefry2x32", "rbg")}
    return {
        "jax": _jax_table(jax, jax.device_put(keys["threefry2x32"], cpu)),
        "jax rbg": _jax_table(jax, jax.device_put(keys["rbg"], cpu)),
    }


def _jax_table(jax: Any, key: Any) -> Table:
    random, where = jax.random, jax.numpy.where

    def keep(key: Any, x: Any, p: float) -> Any:
        return random.bernoulli(key, 1 - p, x.shape)

    def dropout(key: Any, x: Any, p: float) -> Any:
        return where(keep(key, x, p), x / (1 - p), 0)

    def forward_backward(key: Any, x: Any, dy: Any, p: float) -> Any:
        y, backward = jax.vjp(lambda x: dropout(key, x, p), x)
        return y, backward(dy)[0]

    def add(key: Any, x: Any, residual: Any, p: float) -> Any:
        return dropout(key, x, p) + residual

    def alpha(key: Any, x: Any, p: float) -> Any:
        a, shift, dropped = alpha_constants(p)
        return where(keep(key, x, p), a * x + shift, dropped)

    def gaussian(key: Any, x: Any, p: float) -> Any:
        return x * (1 + math.sqrt(p / (1 - p)) * random.normal(key, x.shape))

    def spatial(key: Any, x: Any, p: float) -> Any:
        return where(keep(key, x[:, :, :1, :1], p), x / (1 - p), 0)

    def fast(function: Function) -> Function:
        """Compile for each last argument; wait for the result."""
        compiled: dict[Any, Function] = {}

        def run(*arguments: Any) -> Any:
            *arrays, last = arguments
            if last not in compiled:
                compiled[last] = jax.jit(lambda *arrays: function(*arrays, last))
            return jax.block_until_ready(compiled[last](key, *arrays))

        return run

    def of_one(function: Function) -> Function:
        run = fast(function)
        return lambda x, out, p, seed: run(x, p)

    both, sum_of_two = fast(forward_backward), fast(add)
    normal, uniform = fast(random.normal), fast(random.uniform)
    return {
        "alpha_dropout": of_one(alpha),
        "dropout": of_one(dropout),
        "dropout_add": lambda x, residual, out, p, seed: sum_of_two(x, residual, p),
        "dropout_forward_backward": lambda x, dy, y, dx, p, seed: both(x, dy, p),
        "gaussian_dropout": of_one(gaussian),
        "random_normal": lambda out, seed: normal(out.shape),
        "random_uniform": lambda out, seed: uniform(out.shape),
        "spatial_dropout": of_one(spatial),
    }


def numba_table(compiled: Any) -> Table:
    """Return the loops by hand, compiled one way."""

    def forward_backward(x: Any, dy: Any, y: Any, dx: Any, p: Any, key: Any) -> None:
        compiled.dropout(x, y, p, key)
        compiled.dropout(dy, dx, p, key)

    return {
        "alpha_dropout": compiled.alpha_dropout,
        "dropout": compiled.dropout,
        "dropout_add": compiled.dropout_add,
        "dropout_forward_backward": forward_backward,
        "dropout_in_place": compiled.dropout_in_place,
        "gaussian_dropout": compiled.gaussian_dropout,
        "random_normal": compiled.normal,
        "random_uniform": compiled.uniform,
        "spatial_dropout": compiled.spatial_dropout,
    }
