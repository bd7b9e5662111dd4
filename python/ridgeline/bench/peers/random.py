"""Idiomatic random numbers and dropout in NumPy, PyTorch and JAX, and Numba loops.

All have the signature of the operation: arrays to read, arrays to write, numbers. What cannot write
into an array returns a new one. Ridgeline's key is ignored: each library has a generator or a key
of its own, made before the clock starts. The Numba loops use ours, as the seed of their hash.

`random.bernoulli` makes bools and `random.integers` int64: those that are told to write are given
the same memory as float32, those that return may return either.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .settings import BLOCK, HIGH, alpha_constants, block_seeds
from .tools import Function, Table


def numpy_tables() -> dict[str, Table]:
    """Return the functions with NumPy's usual generator, and with its fastest."""
    return {"numpy": numpy_table(np.random.PCG64), "numpy SFC64": numpy_table(np.random.SFC64)}


def numpy_table(bits: Callable[[int], Any]) -> Table:
    """Return the functions with a generator."""
    return _NumPy(bits).table()


class _NumPy:
    """The functions with a generator of random bits."""

    def __init__(self, bits: Callable[[int], Any]) -> None:
        self.rng = np.random.Generator(bits(0))

    def units(self, out: Any) -> Any:
        """Return numbers in float32, where results go if they can."""
        if out.dtype == np.float32:
            return self.rng.random(out=out, dtype=np.float32)
        return self.rng.random(out.shape, dtype=np.float32)

    def dropout(self, x: Any, out: Any, p: float, key: Any) -> Any:
        np.multiply(x, self.units(out) >= p, out=out)
        out *= 1 / (1 - p)
        return out

    def forward_backward(self, x: Any, dy: Any, y: Any, dx: Any, p: float, key: Any) -> Any:
        keep = self.units(y) >= p
        for read, made in ((x, y), (dy, dx)):
            np.multiply(read, keep, out=made)
            made *= 1 / (1 - p)
        return y, dx

    def in_place(self, x: Any, p: float, key: Any) -> Any:
        x *= self.rng.random(x.shape, dtype=np.float32) >= p
        x *= 1 / (1 - p)
        return x

    def add(self, x: Any, residual: Any, out: Any, p: float, key: Any) -> Any:
        self.dropout(x, out, p, key)
        out += residual
        return out

    def alpha(self, x: Any, out: Any, p: float, key: Any) -> Any:
        a, shift, dropped = alpha_constants(p)
        drop = self.units(out) < p
        np.multiply(x, x.dtype.type(a), out=out)
        out += x.dtype.type(shift)
        np.copyto(out, dropped, where=drop)
        return out

    def alpha_backward(self, dy: Any, out: Any, p: float, key: Any) -> Any:
        np.multiply(dy, self.units(out) >= p, out=out)
        out *= alpha_constants(p)[0]
        return out

    def gaussian(self, x: Any, out: Any, p: float, key: Any) -> Any:
        self.rng.standard_normal(out=out, dtype=np.float32)
        out *= math.sqrt(p / (1 - p))
        out += 1
        out *= x
        return out

    def noise(self, x: Any, out: Any, std: float, key: Any) -> Any:
        self.rng.standard_normal(out=out, dtype=np.float32)
        out *= std
        out += x
        return out

    def choices(self, x: Any, axes: int) -> Any:
        """Return a number for each place on the first axes."""
        return self.rng.random((*x.shape[:axes], *[1] * (x.ndim - axes)), dtype=np.float32)

    def shared(self, axes: int) -> Function:
        def run(x: Any, out: Any, p: float, key: Any) -> Any:
            return np.multiply(x, (self.choices(x, axes) >= p) * np.float32(1 / (1 - p)), out=out)

        return run

    def feature_alpha(self, x: Any, out: Any, p: float, key: Any) -> Any:
        a, shift, dropped = alpha_constants(p)
        np.multiply(x, np.float32(a), out=out)
        out += np.float32(shift)
        np.copyto(out, dropped, where=self.choices(x, 2) < p)
        return out

    def block(self, x: Any, out: Any, p: float, key: Any) -> Any:
        seeds = block_seeds(x.shape, p)
        height, width = x.shape[2] - BLOCK + 1, x.shape[3] - BLOCK + 1
        chosen = self.rng.random((*x.shape[:2], height, width), dtype=np.float32) < seeds
        keep = np.ones(x.shape, np.bool_)
        for i in range(BLOCK):
            for j in range(BLOCK):
                keep[:, :, i : i + height, j : j + width] &= ~chosen
        return np.multiply(x, keep * np.float32(keep.size / np.count_nonzero(keep)), out=out)

    def zoneout(self, new: Any, old: Any, out: Any, p: float, key: Any) -> Any:
        drop = self.units(out) < p
        np.copyto(out, new)
        np.copyto(out, old, where=drop)
        return out

    def zoneout_backward(self, dy: Any, p: float, key: Any) -> Any:
        keep = self.rng.random(dy.shape, dtype=np.float32) >= p
        return dy * keep, dy * ~keep

    def patches(self, x: Any, p: float, key: Any) -> Any:
        kept = int((x.shape[1] - 1) * (1 - p))
        ranks = self.rng.random((x.shape[0], x.shape[1] - 1), dtype=np.float32)
        chosen = np.sort(np.argpartition(ranks, kept, axis=1)[:, :kept], axis=1)
        front = np.zeros((len(x), 1), chosen.dtype)
        indices = np.concatenate([front, chosen + 1], axis=1)
        return np.take_along_axis(x, indices[:, :, None], axis=1)

    def shrink(self, x: Any, strength: float, key: Any) -> None:
        u = self.rng.random(x.shape, dtype=np.float32)
        u *= x
        u *= strength
        x -= u

    def normal(self, out: Any, key: Any) -> Any:
        return self.rng.standard_normal(out=out, dtype=out.dtype)

    def uniform(self, out: Any, key: Any) -> Any:
        return self.rng.random(out=out, dtype=out.dtype)

    def table(self) -> Table:
        """Return the functions by operation."""
        return {
            "alpha_dropout": self.alpha,
            "alpha_dropout_backward": self.alpha_backward,
            "bernoulli": lambda out, p, key: self.rng.random(out.nbytes, dtype=np.float32) < p,
            "drop_block": self.block,
            "drop_path": self.shared(1),
            "dropout": self.dropout,
            "dropout_add": self.add,
            "dropout_forward_backward": self.forward_backward,
            "dropout_in_place": self.in_place,
            "dropout_mask": lambda w, p, key: self.rng.random(w.shape, dtype=np.float32) >= p,
            "feature_alpha_dropout": self.feature_alpha,
            "gaussian_dropout": self.gaussian,
            "gaussian_noise": self.noise,
            "integers": lambda out, key: self.rng.integers(HIGH, size=out.nbytes // 8),
            "normal": self.normal,
            "patch_dropout": self.patches,
            "random_shrink": self.shrink,
            "spatial_dropout": self.shared(2),
            "token_dropout": self.shared(2),
            "uniform": self.uniform,
            "zoneout": self.zoneout,
            "zoneout_backward": self.zoneout_backward,
        }


def torch_tables(compiled: bool) -> dict[str, Table]:
    """Return torch.nn.functional, native_dropout which makes a mask, and the former compiled."""
    torch: Any = importlib.import_module("torch")
    functional: Any = importlib.import_module("torch.nn.functional")

    def functional_dropout(x: Any, p: float) -> Any:
        return functional.dropout(x, p, training=True)

    def native_dropout(x: Any, p: float) -> Any:
        return torch.native_dropout(x, p, True)[0]

    new = _torch_new(torch, functional)
    tables: dict[str, Table] = {
        "torch": {
            **_torch_dropout(torch, functional_dropout),
            **{name: _new(function) for name, function in new.items()},
            **_torch_draws(torch, functional),
            **_torch_zoneout(torch),
        },
        "torch native": _torch_dropout(torch, native_dropout),
    }
    if compiled:

        def fast(function: Function) -> Function:
            return torch.compile(function, dynamic=False)  # type: ignore[no-any-return]

        def gaussian(x: Any, p: float) -> Any:
            return x * (1 + math.sqrt(p / (1 - p)) * torch.randn_like(x))

        add = fast(lambda x, r, p: r + functional_dropout(x, p))
        left_out = ("drop_block", "feature_alpha_dropout")
        tables["torch.compile"] = {
            **_torch_dropout(torch, fast(functional_dropout)),
            **{name: _new(fast(each)) for name, each in new.items() if name not in left_out},
            "dropout_add": lambda x, residual, out, p, key: add(x, residual, p),
            "gaussian_dropout": _new(fast(gaussian)),
        }
    return tables


def _torch_dropout(torch: Any, dropout: Function) -> Table:
    """Return what is made of a dropout of x and p."""

    def forward_backward(x: Any, dy: Any, y: Any, dx: Any, p: float, key: Any) -> Any:
        leaf = x.detach().requires_grad_()
        result = dropout(leaf, p)
        return result, torch.autograd.grad(result, leaf, dy)[0]

    def add(x: Any, residual: Any, out: Any, p: float, key: Any) -> Any:
        return torch.add(residual, dropout(x, p), out=out)

    return {
        "dropout": _new(dropout),
        "dropout_forward_backward": forward_backward,
        "dropout_add": add,
    }


def _torch_new(torch: Any, functional: Any) -> Table:
    """Return functions of x and p that make their own result."""

    def training(function: Function) -> Function:
        return lambda x, p: function(x, p, training=True)

    def alpha_backward(dy: Any, p: float) -> Any:
        """Multiply by the derivative that torch's own keeps: a where kept."""
        keep = torch.empty_like(dy).bernoulli_(1 - p)
        return dy * keep.mul_(alpha_constants(p)[0])

    def shared(axes: int) -> Function:
        def run(x: Any, p: float) -> Any:
            keep = x.new_empty((*x.shape[:axes], *[1] * (x.ndim - axes))).bernoulli_(1 - p)
            return x * keep.div_(1 - p)

        return run

    def drop_block(x: Any, p: float) -> Any:
        n, channels, height, width = x.shape
        shape = (n, channels, height - BLOCK + 1, width - BLOCK + 1)
        noise = torch.empty(shape, dtype=x.dtype).bernoulli_(block_seeds(x.shape, p))
        noise = functional.pad(noise, [BLOCK // 2] * 4)
        noise = functional.max_pool2d(noise, stride=1, kernel_size=BLOCK, padding=BLOCK // 2)
        keep = 1 - noise
        return x * keep * (keep.numel() / keep.sum())

    return {
        "alpha_dropout": training(functional.alpha_dropout),
        "alpha_dropout_backward": alpha_backward,
        "drop_block": drop_block,
        "drop_path": shared(1),
        "feature_alpha_dropout": training(functional.feature_alpha_dropout),
        "spatial_dropout": training(functional.dropout2d),
        "token_dropout": shared(2),
    }


def _torch_draws(torch: Any, functional: Any) -> Table:
    """Return what writes its random numbers where results belong, or into x."""

    def bernoulli(out: Any, p: float, key: Any) -> Any:
        return torch.empty(out.nbytes, dtype=torch.bool).bernoulli_(p)

    def dropout_in_place(x: Any, p: float, key: Any) -> Any:
        return functional.dropout(x, p, training=True, inplace=True)

    def dropout_mask(w: Any, p: float, key: Any) -> Any:
        return torch.empty_like(w, dtype=torch.bool).bernoulli_(1 - p)

    def gaussian(x: Any, out: Any, p: float, key: Any) -> Any:
        return out.normal_(1.0, math.sqrt(p / (1 - p))).mul_(x)

    def shrink(x: Any, strength: float, key: Any) -> None:
        x.addcmul_(torch.rand_like(x), x, value=-strength)

    return {
        "bernoulli": bernoulli,
        "dropout_in_place": dropout_in_place,
        "dropout_mask": dropout_mask,
        "gaussian_dropout": gaussian,
        "gaussian_noise": lambda x, out, std, key: out.normal_(0.0, std).add_(x),
        "integers": lambda out, key: torch.randint(HIGH, (out.nbytes // 8,)),
        "normal": lambda out, key: out.normal_(),
        "random_shrink": shrink,
        "uniform": lambda out, key: out.uniform_(),
    }


def _torch_zoneout(torch: Any) -> Table:
    """Return what picks: of two arrays, or of patches."""

    def zoneout(new: Any, old: Any, out: Any, p: float, key: Any) -> Any:
        drop = torch.empty_like(new, dtype=torch.bool).bernoulli_(p)
        return torch.where(drop, old, new, out=out)

    def zoneout_backward(dy: Any, p: float, key: Any) -> Any:
        keep = torch.empty_like(dy).bernoulli_(1 - p)
        return dy * keep, dy * (1 - keep)

    def patches(x: Any, p: float, key: Any) -> Any:
        kept = int((x.shape[1] - 1) * (1 - p))
        ranks = torch.rand(x.shape[0], x.shape[1] - 1)
        chosen = ranks.topk(kept, dim=1, sorted=False).indices.sort(dim=1).values + 1
        indices = torch.cat([chosen.new_zeros(len(x), 1), chosen], dim=1)
        return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))

    return {"patch_dropout": patches, "zoneout": zoneout, "zoneout_backward": zoneout_backward}


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


class _Compiled:
    """Compiles a function of a key, arrays and a last argument, for each last argument."""

    def __init__(self, jax: Any, key: Any) -> None:
        self.jax, self.key = jax, key

    def __call__(self, function: Function) -> Function:
        """Return what waits for the result."""
        compiled: dict[Any, Function] = {}

        def run(*arguments: Any) -> Any:
            *arrays, last = arguments
            if last not in compiled:
                compiled[last] = self.jax.jit(lambda *arrays: function(*arrays, last))
            return self.jax.block_until_ready(compiled[last](self.key, *arrays))

        return run

    def of_one(self, function: Function) -> Function:
        """Take one array, and ignore where results go."""
        run = self(function)
        return lambda x, out, p, seed: run(x, p)

    def of_two(self, function: Function) -> Function:
        """Take two arrays, and ignore where results go."""
        run = self(function)
        return lambda x, y, out, p, seed: run(x, y, p)

    def returned(self, function: Function) -> Function:
        """Take one array."""
        run = self(function)
        return lambda x, p, seed: run(x, p)

    def in_dtype(self, draw: Function) -> Function:
        """Take the shape and the dtype of an array."""
        run = self(lambda key, of: draw(key, *of))
        return lambda out, seed: run((out.shape, out.dtype))


def _jax_table(jax: Any, key: Any) -> Table:
    fast = _Compiled(jax, key)
    return {**_jax_dropout(jax, fast), **_jax_shared(jax, fast), **_jax_draws(jax, fast)}


def _jax_keep(jax: Any, key: Any, x: Any, p: float) -> Any:
    return jax.random.bernoulli(key, np.float32(1 - p), x.shape)


def _jax_dropout(jax: Any, fast: _Compiled) -> Table:
    """Return what decides about each element."""
    where, keep = jax.numpy.where, partial(_jax_keep, jax)

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

    def alpha_backward(key: Any, dy: Any, p: float) -> Any:
        return where(keep(key, dy, p), dy * alpha_constants(p)[0], 0)

    def zoneout(key: Any, new: Any, old: Any, p: float) -> Any:
        return where(keep(key, new, p), new, old)

    def zoneout_backward(key: Any, dy: Any, p: float) -> Any:
        kept = keep(key, dy, p)
        return where(kept, dy, 0), where(kept, 0, dy)

    both = fast(forward_backward)
    return {
        "alpha_dropout": fast.of_one(alpha),
        "alpha_dropout_backward": fast.of_one(alpha_backward),
        "dropout": fast.of_one(dropout),
        "dropout_add": fast.of_two(add),
        "dropout_forward_backward": lambda x, dy, y, dx, p, seed: both(x, dy, p),
        "dropout_mask": fast.returned(keep),
        "zoneout": fast.of_two(zoneout),
        "zoneout_backward": fast.returned(zoneout_backward),
    }


def _jax_shared(jax: Any, fast: _Compiled) -> Table:
    """Return what decides about channels, samples, tokens, blocks and patches."""
    where, keep = jax.numpy.where, partial(_jax_keep, jax)

    def spatial(key: Any, x: Any, p: float) -> Any:
        return where(keep(key, x[:, :, :1, :1], p), x / (1 - p), 0)

    def feature_alpha(key: Any, x: Any, p: float) -> Any:
        a, shift, dropped = alpha_constants(p)
        return where(keep(key, x[:, :, :1, :1], p), a * x + shift, dropped)

    def path(key: Any, x: Any, p: float) -> Any:
        return where(keep(key, x[:, :1, :1], p), x / (1 - p), 0)

    def tokens(key: Any, x: Any, p: float) -> Any:
        return where(keep(key, x[:, :, :1], p), x / (1 - p), 0)

    def block(key: Any, x: Any, p: float) -> Any:
        chosen = jax.random.bernoulli(
            key,
            np.float32(block_seeds(x.shape, p)),
            (*x.shape[:2], x.shape[2] - BLOCK + 1, x.shape[3] - BLOCK + 1),
        )
        far = (BLOCK - 1, BLOCK - 1)
        drop = jax.lax.reduce_window(
            chosen,
            False,
            jax.lax.bitwise_or,
            (1, 1, BLOCK, BLOCK),
            (1,) * 4,
            (*[(0, 0)] * 2, far, far),
        )
        return where(drop, 0, x * (drop.size / (drop.size - drop.sum())).astype(x.dtype))

    def patches(key: Any, x: Any, p: float) -> Any:
        count = int((x.shape[1] - 1) * (1 - p))
        ranks = jax.random.uniform(key, (x.shape[0], x.shape[1] - 1), np.float32)
        chosen = jax.numpy.sort(jax.lax.top_k(ranks, count)[1], axis=1) + 1
        indices = jax.numpy.pad(chosen, ((0, 0), (1, 0)))
        return jax.numpy.take_along_axis(x, indices[:, :, None], axis=1)

    return {
        "drop_block": fast.of_one(block),
        "drop_path": fast.of_one(path),
        "feature_alpha_dropout": fast.of_one(feature_alpha),
        "patch_dropout": fast.returned(patches),
        "spatial_dropout": fast.of_one(spatial),
        "token_dropout": fast.of_one(tokens),
    }


def _jax_draws(jax: Any, fast: _Compiled) -> Table:
    """Return random numbers, and what adds them or multiplies by them."""
    random = jax.random

    def gaussian(key: Any, x: Any, p: float) -> Any:
        return x * (1 + math.sqrt(p / (1 - p)) * random.normal(key, x.shape, x.dtype))

    def noise(key: Any, x: Any, std: float) -> Any:
        return x + std * random.normal(key, x.shape, x.dtype)

    def shrink(key: Any, x: Any, strength: float) -> Any:
        return x - strength * random.uniform(key, x.shape, x.dtype) * x

    def bernoulli(key: Any, shape: Any) -> Any:
        n, p = shape
        return random.bernoulli(key, np.float32(p), (n,))

    chosen = fast(bernoulli)
    return {
        "bernoulli": lambda out, p, seed: chosen((out.nbytes, p)),
        "gaussian_dropout": fast.of_one(gaussian),
        "gaussian_noise": fast.of_one(noise),
        "normal": fast.in_dtype(random.normal),
        "random_shrink": fast.returned(shrink),
        "uniform": fast.in_dtype(random.uniform),
    }


def numba_tables(serial: bool, threaded: bool) -> dict[str, Table]:
    """Return the loops by hand: of small arrays, of large ones."""
    from . import numba_loops as loops

    tables = {}
    if serial:
        tables["numba hash serial"] = _numba_table(loops.serial)
    if threaded:
        tables["numba hash prange"] = _numba_table(loops.parallel)
    return tables


def _numba_table(compiled: Any) -> Table:

    def forward_backward(x: Any, dy: Any, y: Any, dx: Any, p: Any, key: Any) -> None:
        compiled.dropout(x, y, p, key)
        compiled.dropout(dy, dx, p, key)

    def zoneout_backward(dy: Any, p: Any, key: Any) -> Any:
        d_new, d_old = np.empty_like(dy), np.empty_like(dy)
        compiled.zoneout_backward(dy, d_new, d_old, p, key)
        return d_new, d_old

    def choices(function: Function, size: int, p: Any, key: Any) -> Any:
        made = np.empty(size, np.bool_)
        function(made, p, key)
        return made

    return {
        "alpha_dropout": compiled.alpha_dropout,
        "alpha_dropout_backward": compiled.alpha_dropout_backward,
        "bernoulli": lambda out, p, key: choices(compiled.bernoulli, out.nbytes, p, key),
        "dropout_mask": lambda w, p, key: choices(
            compiled.keep, w.size, np.float32(p), np.uint64(key.seed)
        ),
        "feature_alpha_dropout": compiled.feature_alpha_dropout,
        "gaussian_noise": compiled.gaussian_noise,
        "random_shrink": compiled.random_shrink,
        "token_dropout": lambda x, out, p, key: compiled.spatial_dropout(
            x[..., None], out[..., None], p, key
        ),
        "zoneout": compiled.zoneout,
        "zoneout_backward": zoneout_backward,
        "drop_path": lambda x, out, p, key: compiled.spatial_dropout(
            x[:, None], out[:, None], p, key
        ),
        "dropout": compiled.dropout,
        "dropout_add": compiled.dropout_add,
        "dropout_forward_backward": forward_backward,
        "dropout_in_place": compiled.dropout_in_place,
        "gaussian_dropout": compiled.gaussian_dropout,
        "normal": compiled.normal,
        "uniform": compiled.uniform,
        "spatial_dropout": compiled.spatial_dropout,
    }
