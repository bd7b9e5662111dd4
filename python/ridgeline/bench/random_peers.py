"""Random numbers and dropout as one writes them in NumPy, PyTorch and JAX.

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
from typing import Any

import numpy as np

from .fairness import BLOCK, HIGH, alpha_constants, block_seeds

Function = Callable[..., Any]
Table = dict[str, Function]


def numpy_tables() -> dict[str, Table]:
    """Return the functions with NumPy's usual generator, and with its fastest."""
    return {"numpy": _numpy_table(np.random.PCG64), "numpy SFC64": _numpy_table(np.random.SFC64)}


def _numpy_table(bits: Callable[[int], Any]) -> Table:
    rng = np.random.Generator(bits(0))

    def units(out: Any) -> Any:
        """Return numbers in float32, where results go if they can."""
        if out.dtype == np.float32:
            return rng.random(out=out, dtype=np.float32)
        return rng.random(out.shape, dtype=np.float32)

    def dropout(x: Any, out: Any, p: float, key: Any) -> Any:
        np.multiply(x, units(out) >= p, out=out)
        out *= 1 / (1 - p)
        return out

    def forward_backward(x: Any, dy: Any, y: Any, dx: Any, p: float, key: Any) -> Any:
        keep = units(y) >= p
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
        drop = units(out) < p
        np.multiply(x, x.dtype.type(a), out=out)
        out += x.dtype.type(shift)
        np.copyto(out, dropped, where=drop)
        return out

    def alpha_backward(dy: Any, out: Any, p: float, key: Any) -> Any:
        np.multiply(dy, units(out) >= p, out=out)
        out *= alpha_constants(p)[0]
        return out

    def gaussian(x: Any, out: Any, p: float, key: Any) -> Any:
        rng.standard_normal(out=out, dtype=np.float32)
        out *= math.sqrt(p / (1 - p))
        out += 1
        out *= x
        return out

    def noise(x: Any, out: Any, std: float, key: Any) -> Any:
        rng.standard_normal(out=out, dtype=np.float32)
        out *= std
        out += x
        return out

    def choices(x: Any, axes: int) -> Any:
        """Return a number for each place on the first axes."""
        return rng.random((*x.shape[:axes], *[1] * (x.ndim - axes)), dtype=np.float32)

    def shared(axes: int) -> Function:
        def run(x: Any, out: Any, p: float, key: Any) -> Any:
            return np.multiply(x, (choices(x, axes) >= p) * np.float32(1 / (1 - p)), out=out)

        return run

    def feature_alpha(x: Any, out: Any, p: float, key: Any) -> Any:
        a, shift, dropped = alpha_constants(p)
        np.multiply(x, np.float32(a), out=out)
        out += np.float32(shift)
        np.copyto(out, dropped, where=choices(x, 2) < p)
        return out

    def block(x: Any, out: Any, p: float, key: Any) -> Any:
        seeds = block_seeds(x.shape, p)
        height, width = x.shape[2] - BLOCK + 1, x.shape[3] - BLOCK + 1
        chosen = rng.random((*x.shape[:2], height, width), dtype=np.float32) < seeds
        keep = np.ones(x.shape, np.bool_)
        for i in range(BLOCK):
            for j in range(BLOCK):
                keep[:, :, i : i + height, j : j + width] &= ~chosen
        return np.multiply(x, keep * np.float32(keep.size / np.count_nonzero(keep)), out=out)

    def zoneout(new: Any, old: Any, out: Any, p: float, key: Any) -> Any:
        drop = units(out) < p
        np.copyto(out, new)
        np.copyto(out, old, where=drop)
        return out

    def zoneout_backward(dy: Any, p: float, key: Any) -> Any:
        keep = rng.random(dy.shape, dtype=np.float32) >= p
        return dy * keep, dy * ~keep

    def patches(x: Any, p: float, key: Any) -> Any:
        kept = int((x.shape[1] - 1) * (1 - p))
        ranks = rng.random((x.shape[0], x.shape[1] - 1), dtype=np.float32)
        chosen = np.sort(np.argpartition(ranks, kept, axis=1)[:, :kept], axis=1)
        front = np.zeros((len(x), 1), chosen.dtype)
        indices = np.concatenate([front, chosen + 1], axis=1)
        return np.take_along_axis(x, indices[:, :, None], axis=1)

    def shrink(x: Any, strength: float, key: Any) -> None:
        u = rng.random(x.shape, dtype=np.float32)
        u *= x
        u *= strength
        x -= u

    def normal(out: Any, key: Any) -> Any:
        return rng.standard_normal(out=out, dtype=out.dtype)

    def uniform(out: Any, key: Any) -> Any:
        return rng.random(out=out, dtype=out.dtype)

    return {
        "alpha_dropout": alpha,
        "alpha_dropout_backward": alpha_backward,
        "bernoulli": lambda out, p, key: rng.random(out.nbytes, dtype=np.float32) < p,
        "drop_block": block,
        "drop_path": shared(1),
        "dropout": dropout,
        "dropout_add": add,
        "dropout_forward_backward": forward_backward,
        "dropout_in_place": in_place,
        "dropout_mask": lambda w, p, key: rng.random(w.shape, dtype=np.float32) >= p,
        "feature_alpha_dropout": feature_alpha,
        "gaussian_dropout": gaussian,
        "gaussian_noise": noise,
        "integers": lambda out, key: rng.integers(HIGH, size=out.nbytes // 8),
        "normal": normal,
        "patch_dropout": patches,
        "random_shrink": shrink,
        "spatial_dropout": shared(2),
        "token_dropout": shared(2),
        "uniform": uniform,
        "zoneout": zoneout,
        "zoneout_backward": zoneout_backward,
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

    def feature_alpha_dropout(x: Any, p: float) -> Any:
        return functional.feature_alpha_dropout(x, p, training=True)

    def alpha_backward(dy: Any, p: float) -> Any:
        """Multiply by the derivative that torch's own keeps: a where kept."""
        keep = torch.empty_like(dy).bernoulli_(1 - p)
        return dy * keep.mul_(alpha_constants(p)[0])

    def shared(x: Any, p: float, axes: int) -> Any:
        keep = x.new_empty((*x.shape[:axes], *[1] * (x.ndim - axes))).bernoulli_(1 - p)
        return x * keep.div_(1 - p)

    def drop_path(x: Any, p: float) -> Any:
        return shared(x, p, 1)

    def token_dropout(x: Any, p: float) -> Any:
        return shared(x, p, 2)

    def drop_block(x: Any, p: float) -> Any:
        n, channels, height, width = x.shape
        shape = (n, channels, height - BLOCK + 1, width - BLOCK + 1)
        noise = torch.empty(shape, dtype=x.dtype).bernoulli_(block_seeds(x.shape, p))
        noise = functional.pad(noise, [BLOCK // 2] * 4)
        noise = functional.max_pool2d(noise, stride=1, kernel_size=BLOCK, padding=BLOCK // 2)
        keep = 1 - noise
        return x * keep * (keep.numel() / keep.sum())

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

    def shrink(x: Any, strength: float, key: Any) -> None:
        x.addcmul_(torch.rand_like(x), x, value=-strength)

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
            "alpha_dropout_backward": _new(alpha_backward),
            "bernoulli": lambda out, p, key: torch.empty(out.nbytes, dtype=torch.bool).bernoulli_(
                p
            ),
            "drop_block": _new(drop_block),
            "drop_path": _new(drop_path),
            "dropout_in_place": lambda x, p, key: functional.dropout(
                x, p, training=True, inplace=True
            ),
            "dropout_mask": lambda w, p, key: torch.empty_like(w, dtype=torch.bool).bernoulli_(
                1 - p
            ),
            "feature_alpha_dropout": _new(feature_alpha_dropout),
            "gaussian_dropout": gaussian,
            "gaussian_noise": lambda x, out, std, key: out.normal_(0.0, std).add_(x),
            "integers": lambda out, key: torch.randint(HIGH, (out.nbytes // 8,)),
            "normal": lambda out, key: out.normal_(),
            "patch_dropout": patches,
            "random_shrink": shrink,
            "spatial_dropout": _new(spatial_dropout),
            "token_dropout": _new(token_dropout),
            "uniform": lambda out, key: out.uniform_(),
            "zoneout": zoneout,
            "zoneout_backward": zoneout_backward,
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
            "alpha_dropout_backward": fast(alpha_backward),
            "drop_path": fast(drop_path),
            "token_dropout": fast(token_dropout),
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
        return random.bernoulli(key, np.float32(1 - p), x.shape)

    def dropout(key: Any, x: Any, p: float) -> Any:
        return where(keep(key, x, p), x / (1 - p), 0)

    def alpha_backward(key: Any, dy: Any, p: float) -> Any:
        return where(keep(key, dy, p), dy * alpha_constants(p)[0], 0)

    def forward_backward(key: Any, x: Any, dy: Any, p: float) -> Any:
        y, backward = jax.vjp(lambda x: dropout(key, x, p), x)
        return y, backward(dy)[0]

    def add(key: Any, x: Any, residual: Any, p: float) -> Any:
        return dropout(key, x, p) + residual

    def alpha(key: Any, x: Any, p: float) -> Any:
        a, shift, dropped = alpha_constants(p)
        return where(keep(key, x, p), a * x + shift, dropped)

    def gaussian(key: Any, x: Any, p: float) -> Any:
        return x * (1 + math.sqrt(p / (1 - p)) * random.normal(key, x.shape, x.dtype))

    def noise(key: Any, x: Any, std: float) -> Any:
        return x + std * random.normal(key, x.shape, x.dtype)

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
        chosen = random.bernoulli(
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

    def zoneout(key: Any, new: Any, old: Any, p: float) -> Any:
        return where(keep(key, new, p), new, old)

    def zoneout_backward(key: Any, dy: Any, p: float) -> Any:
        kept = keep(key, dy, p)
        return where(kept, dy, 0), where(kept, 0, dy)

    def patches(key: Any, x: Any, p: float) -> Any:
        count = int((x.shape[1] - 1) * (1 - p))
        ranks = random.uniform(key, (x.shape[0], x.shape[1] - 1), np.float32)
        chosen = jax.numpy.sort(jax.lax.top_k(ranks, count)[1], axis=1) + 1
        indices = jax.numpy.pad(chosen, ((0, 0), (1, 0)))
        return jax.numpy.take_along_axis(x, indices[:, :, None], axis=1)

    def shrink(key: Any, x: Any, strength: float) -> Any:
        return x - strength * random.uniform(key, x.shape, x.dtype) * x

    def mask(key: Any, x: Any, p: float) -> Any:
        return keep(key, x, p)

    def bernoulli(key: Any, shape: Any) -> Any:
        n, p = shape
        return random.bernoulli(key, np.float32(p), (n,))

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

    def in_dtype(draw: Function) -> Function:
        run = fast(lambda key, of: draw(key, *of))
        return lambda out, seed: run((out.shape, out.dtype))

    def of_two(function: Function) -> Function:
        run = fast(function)
        return lambda x, y, out, p, seed: run(x, y, p)

    def returned(function: Function) -> Function:
        run = fast(function)
        return lambda x, p, seed: run(x, p)

    both, chosen = fast(forward_backward), fast(bernoulli)
    return {
        "alpha_dropout": of_one(alpha),
        "alpha_dropout_backward": of_one(alpha_backward),
        "bernoulli": lambda out, p, seed: chosen((out.nbytes, p)),
        "drop_block": of_one(block),
        "drop_path": of_one(path),
        "dropout": of_one(dropout),
        "dropout_add": of_two(add),
        "dropout_forward_backward": lambda x, dy, y, dx, p, seed: both(x, dy, p),
        "dropout_mask": returned(mask),
        "feature_alpha_dropout": of_one(feature_alpha),
        "gaussian_dropout": of_one(gaussian),
        "gaussian_noise": of_one(noise),
        "normal": in_dtype(random.normal),
        "patch_dropout": returned(patches),
        "random_shrink": returned(shrink),
        "spatial_dropout": of_one(spatial),
        "token_dropout": of_one(tokens),
        "uniform": in_dtype(random.uniform),
        "zoneout": of_two(zoneout),
        "zoneout_backward": returned(zoneout_backward),
    }


def numba_tables(serial: bool, threaded: bool) -> dict[str, Table]:
    """Return the loops by hand: of small arrays, of large ones."""
    from . import loops

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
