"""Idiomatic pruning in NumPy, PyTorch and JAX, and with the Numba loops.

All have the signature of the operation, and return a mask of their own kind: an array of bool or of
0 and 1, or a list of them. Most compare with the k-th magnitude: where elements equal it, more or
fewer stay than asked for, which happens to none of the data here. Those of PyTorch's own pruning
(`torch.nn.utils.prune`) are the methods that make the mask, without the module around it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .settings import SIDE
from .tools import Function, Table, donating, held, merged, silent, waiting

OPERATIONS = (
    "prune",
    "prune_global",
    "prune_by_score",
    "prune_2_of_4",
    "prune_blocks",
    "prune_rows",
    "prune_columns",
    "prune_random",
    "apply_mask",
    "taylor",
    "gradient",
    "movement",
    "wanda",
    "lamp",
)
TIED = ("prune", "prune_2_of_4")  # the operations whose data, in half types, has equal magnitudes
# Of equals these keep the first, as ridgeline does.
STABLE = ("numpy argsort", "torch argsort", "jax ranks")
SORTED = 2**17  # elements that JAX sorts in a bearable time


def _gone(sparsity: float, elements: int) -> int:
    return round(sparsity * elements)


# NumPy


def _kth(magnitudes: Any, gone: int) -> Any:
    return np.partition(magnitudes, gone - 1)[gone - 1]


def _without(indices: Any, shape: tuple[int, ...]) -> Any:
    kept = np.ones(shape, np.bool_)
    kept.reshape(-1)[indices] = False
    return kept


def _threshold(w: Any, sparsity: float) -> Any:
    magnitudes = np.abs(w)
    return magnitudes > _kth(magnitudes, _gone(sparsity, w.size))


def _indices(w: Any, sparsity: float) -> Any:
    gone = _gone(sparsity, w.size)
    return _without(np.argpartition(np.abs(w), gone - 1)[:gone], w.shape)


def _threshold_of_all(arrays: Any, sparsity: float) -> Any:
    magnitudes = [np.abs(w) for w in arrays]
    joined = np.concatenate(magnitudes)
    kth = _kth(joined, _gone(sparsity, joined.size))
    return [x > kth for x in magnitudes]


def _second_of_4(w: Any) -> Any:
    groups = np.abs(w).reshape(-1, 4)
    return (groups > np.partition(groups, 1, axis=1)[:, 1:2]).reshape(w.shape)


def _network_of_4(w: Any) -> Any:
    groups = np.abs(w).reshape(-1, 4)
    a, b, c, d = groups.T
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))
    second = np.minimum(low, np.minimum(np.maximum(a, b), np.maximum(c, d)))
    return (groups > second[:, None]).reshape(w.shape)


def _stable(w: Any, sparsity: float) -> Any:
    """Sort 16 bits of a magnitude by their digits; of equals the first stay."""
    keys = ~w.view(np.uint16) | np.uint16(0x8000)
    kept = np.zeros(w.shape, np.bool_)
    kept[np.argsort(keys, kind="stable")[: w.size - _gone(sparsity, w.size)]] = True
    return kept


def _stable_of_4(w: Any) -> Any:
    keys = (~w.view(np.uint16) | np.uint16(0x8000)).reshape(-1, 4)
    kept = np.zeros(keys.shape, np.bool_)
    np.put_along_axis(kept, np.argsort(keys, axis=1, kind="stable")[:, :2], True, axis=1)
    return kept.reshape(w.shape)


def _by_score(scores: Any, sparsity: float) -> Any:
    return scores > _kth(scores, _gone(sparsity, scores.size))


def _best(squares: Any, sparsity: float) -> Any:
    """Return which sums of squares stay."""
    return squares > _kth(squares.ravel(), _gone(sparsity, squares.size))


def _blocks(w: Any, sparsity: float) -> Any:
    tiles = w.reshape(w.shape[0] // SIDE, SIDE, w.shape[1] // SIDE, SIDE)
    kept = _best(np.einsum("iajb,iajb->ij", tiles, tiles), sparsity)
    return kept.repeat(SIDE, axis=0).repeat(SIDE, axis=1)


def _rows(w: Any, sparsity: float) -> Any:
    kept = _best(np.einsum("ij,ij->i", w, w), sparsity)
    return np.broadcast_to(kept[:, None], w.shape)


def _columns(w: Any, sparsity: float) -> Any:
    return np.broadcast_to(_best(np.einsum("ij,ij->j", w, w), sparsity), w.shape)


def _taylor(w: Any, g: Any, out: Any) -> None:
    np.multiply(w, g, out=out)
    np.abs(out, out=out)


def _movement(scores: Any, w: Any, rate: float) -> None:
    scores -= rate * w * w


def _wanda(w: Any, out: Any, norms: Any) -> None:
    np.abs(w, out=out)
    out *= norms


def _lamp(w: Any) -> Any:
    squares = w.astype(np.float64) ** 2
    order = np.argsort(-squares, kind="stable")
    made = np.empty_like(w)
    made[order] = squares[order] / np.cumsum(squares[order])
    return made


def _multiply(w: Any, kept: Any) -> None:
    w *= kept


def _copy_zero(w: Any, kept: Any) -> None:
    np.copyto(w, 0, where=~kept)


def _each(function: Function) -> Function:
    def run(arrays: Any, masks: Any) -> None:
        for w, kept in zip(arrays, masks, strict=True):
            function(w, kept)

    return run


def _numpy_random(bits: Callable[[int], Any]) -> dict[str, Function]:
    rng = np.random.Generator(bits(0))

    def permuted(w: Any, sparsity: float, key: Any) -> Any:
        return _without(rng.permutation(w.size)[: _gone(sparsity, w.size)], w.shape)

    def ranked(w: Any, sparsity: float, key: Any) -> Any:
        gone = _gone(sparsity, w.size)
        ranks = rng.random(w.size, dtype=np.float32)
        return _without(np.argpartition(ranks, gone - 1)[:gone], w.shape)

    def corrected(w: Any, sparsity: float, key: Any) -> Any:
        """Choose each on its own, then change as many as are too few or too many."""
        kept = rng.random(w.size, dtype=np.float32) >= sparsity
        surplus = int(np.count_nonzero(kept)) - (w.size - _gone(sparsity, w.size))
        while surplus:
            i = rng.integers(w.size, size=abs(surplus))
            kept[i] = surplus < 0
            surplus = int(np.count_nonzero(kept)) - (w.size - _gone(sparsity, w.size))
        return kept.reshape(w.shape)

    return {"permutation": permuted, "argpartition": ranked, "corrected": corrected}


def numpy_tables(single: bool, half: bool) -> dict[str, Table]:
    """Return the functions, by how they do it; of arrays of 16 bits also a sort."""
    apply = {"multiply": _multiply, "copyto": _copy_zero}
    if not single:
        return {
            "numpy partition": {"prune_global": _threshold_of_all},
            **{f"numpy {name}": {"apply_mask": _each(each)} for name, each in apply.items()},
        }
    usual, fastest = _numpy_random(np.random.PCG64), _numpy_random(np.random.SFC64)
    return {
        "numpy": {
            "taylor": _taylor,
            "gradient": lambda g, out: np.abs(g, out=out),
            "movement": _movement,
            "wanda": _wanda,
            "lamp": _lamp,
        },
        "numpy partition": {
            "prune": _threshold,
            "prune_by_score": _by_score,
            "prune_2_of_4": _second_of_4,
            "prune_blocks": _blocks,
            "prune_rows": _rows,
            "prune_columns": _columns,
        },
        **({"numpy argsort": {"prune": _stable, "prune_2_of_4": _stable_of_4}} if half else {}),
        "numpy argpartition": {
            "prune": _indices,
            "prune_random": usual["argpartition"],
        },
        "numpy minimum": {"prune_2_of_4": _network_of_4},
        "numpy permutation": {"prune_random": usual["permutation"]},
        "numpy corrected": {"prune_random": usual["corrected"]},
        "numpy SFC64 corrected": {"prune_random": fastest["corrected"]},
        **{f"numpy {name}": {"apply_mask": each} for name, each in apply.items()},
    }


# PyTorch


def torch_tables(single: bool, half: bool) -> dict[str, Table]:
    """Return torch.nn.utils.prune, and what one writes by hand."""
    torch: Any = importlib.import_module("torch")

    def multiply(w: Any, kept: Any) -> None:
        w.mul_(kept)

    def fill(w: Any, kept: Any) -> None:
        w.masked_fill_(~kept, 0)

    apply = {"torch mul": multiply, "torch masked_fill": fill}
    if not single:
        return {
            **_torch_global(torch),
            **{name: {"apply_mask": _each(function)} for name, function in apply.items()},
        }
    return merged(
        {"torch": _torch_scores(torch)},
        _torch_structured(torch),
        _torch_magnitude(torch, half),
        _torch_of_4(torch),
        {name: {"apply_mask": function} for name, function in apply.items()},
    )


def _torch_kth(torch: Any, values: Any, sparsity: float) -> Any:
    return torch.kthvalue(values.ravel(), _gone(sparsity, values.numel())).values


def _torch_global(torch: Any) -> dict[str, Table]:
    prune: Any = importlib.import_module("torch.nn.utils.prune")

    def module(w: Any) -> Any:
        made = torch.nn.Module()
        made.weight = torch.nn.Parameter(w, requires_grad=False)
        return made

    def global_unstructured(arrays: Any, sparsity: float) -> Any:
        modules = [module(w) for w in arrays]
        prune.global_unstructured(
            [(each, "weight") for each in modules], prune.L1Unstructured, amount=sparsity
        )
        return [each.weight_mask for each in modules]

    def kthvalue_of_all(arrays: Any, sparsity: float) -> Any:
        magnitudes = [w.abs() for w in arrays]
        kth = _torch_kth(torch, torch.cat(magnitudes), sparsity)
        return [x > kth for x in magnitudes]

    return {
        "torch prune": {"prune_global": global_unstructured},
        "torch kthvalue": {"prune_global": kthvalue_of_all},
    }


def _torch_scores(torch: Any) -> Table:
    vector = held(torch.from_numpy)

    def lamp(w: Any) -> Any:
        squares, order = w.double().square().sort(descending=True)
        made = torch.empty_like(w)
        made[order] = (squares / squares.cumsum(0)).float()
        return made

    return {
        "taylor": lambda w, g, out: torch.mul(w, g, out=out).abs_(),
        "gradient": lambda g, out: torch.abs(g, out=out),
        "movement": silent(lambda scores, w, rate: scores.addcmul_(w, w, value=-rate)),
        "wanda": lambda w, out, norms: torch.abs(w, out=out).mul_(vector(norms)),
        "lamp": lamp,
    }


def _torch_structured(torch: Any) -> dict[str, Table]:
    prune: Any = importlib.import_module("torch.nn.utils.prune")

    def structured(dim: int) -> Function:
        return lambda w, sparsity: prune.LnStructured(sparsity, n=2, dim=dim).compute_mask(
            w, torch.ones_like(w)
        )

    def best(squares: Any, sparsity: float) -> Any:
        return squares > _torch_kth(torch, squares, sparsity)

    def blocks(w: Any, sparsity: float) -> Any:
        tiles = w.reshape(w.shape[0] // SIDE, SIDE, w.shape[1] // SIDE, SIDE)
        kept = best(tiles.square().sum((1, 3)), sparsity)
        return kept.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)

    def rows(w: Any, sparsity: float) -> Any:
        return best(w.square().sum(1), sparsity)[:, None].expand_as(w)

    def columns(w: Any, sparsity: float) -> Any:
        return best(w.square().sum(0), sparsity).expand_as(w)

    return {
        "torch prune": {"prune_rows": structured(0), "prune_columns": structured(1)},
        "torch kthvalue": {"prune_blocks": blocks, "prune_rows": rows, "prune_columns": columns},
    }


def _torch_magnitude(torch: Any, half: bool) -> dict[str, Table]:
    prune: Any = importlib.import_module("torch.nn.utils.prune")

    def unstructured(w: Any, sparsity: float) -> Any:
        return prune.L1Unstructured(sparsity).compute_mask(w, torch.ones_like(w))

    def random(w: Any, sparsity: float, key: Any) -> Any:
        return prune.RandomUnstructured(sparsity).compute_mask(w, torch.ones_like(w))

    def by_score(scores: Any, sparsity: float) -> Any:
        return scores > _torch_kth(torch, scores, sparsity)

    def topk(w: Any, sparsity: float) -> Any:
        gone = _gone(sparsity, w.numel())
        lowest = torch.topk(w.abs(), gone, largest=False, sorted=False).indices
        kept = torch.ones_like(w, dtype=torch.bool)
        kept[lowest] = False
        return kept

    def argsort(w: Any, sparsity: float) -> Any:
        order = torch.argsort(w.abs(), descending=True, stable=True)
        kept = torch.zeros_like(w, dtype=torch.bool)
        kept[order[: w.numel() - _gone(sparsity, w.numel())]] = True
        return kept

    return {
        "torch prune": {"prune": unstructured, "prune_random": random},
        "torch kthvalue": {
            "prune": lambda w, sparsity: by_score(w.abs(), sparsity),
            "prune_by_score": by_score,
        },
        "torch topk": {"prune": topk},
        "torch argsort": {"prune": argsort} if half else {},
    }


def _torch_of_4(torch: Any) -> dict[str, Table]:
    def kept_of_4(w: Any, choose: Function) -> Any:
        groups = w.abs().reshape(-1, 4)
        kept = torch.zeros_like(groups, dtype=torch.bool)
        return kept.scatter_(1, choose(groups), True).reshape(w.shape)

    def topk(w: Any) -> Any:
        return kept_of_4(w, lambda x: x.topk(2, sorted=False).indices)

    def argsort(w: Any) -> Any:
        return kept_of_4(w, lambda x: x.argsort(dim=1, descending=True, stable=True)[:, :2])

    def sparsifier(w: Any) -> Any:
        ao: Any = importlib.import_module("torch.ao.pruning")
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta")
        layer.weight = torch.nn.Parameter(w, requires_grad=False)
        model = torch.nn.Sequential(layer)
        made = ao.WeightNormSparsifier(
            sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2
        )
        made.prepare(model, [{"tensor_fqn": "0.weight"}])
        made.step()
        return layer.parametrizations.weight[0].mask

    return {
        "torch topk": {"prune_2_of_4": topk},
        "torch argsort": {"prune_2_of_4": argsort},
        "torch ao": {"prune_2_of_4": sparsifier},
    }


# JAX


def jax_tables(single: bool, elements: int) -> dict[str, Table]:
    """Return compiled functions of one array; JAX cannot write into one, so none applies masks."""
    if not single:
        return {}
    jax: Any = importlib.import_module("jax")
    jnp, lax = jax.numpy, jax.lax

    def fast(function: Function, **static: int) -> Function:
        compiled = jax.jit(function, **static)
        return lambda *arguments: jax.block_until_ready(compiled(*arguments))

    def by_sort(w: Any, sparsity: float) -> Any:
        magnitudes = jnp.abs(w)
        return magnitudes > jnp.sort(magnitudes)[_gone(sparsity, w.size) - 1]

    def by_bisection(w: Any, sparsity: float) -> Any:
        """Find the bits of the threshold, the highest first: magnitudes order as integers."""
        keys = lax.bitcast_convert_type(jnp.abs(w), jnp.int32)

        def set_bit(i: Any, found: Any) -> Any:
            tried = found | (1 << (30 - i))
            below = jnp.sum(keys < tried, dtype=jnp.int32)
            return jnp.where(below < _gone(sparsity, w.size), tried, found)

        return keys > lax.fori_loop(0, 31, set_bit, jnp.int32(0))

    def top_2_of_4(w: Any) -> Any:
        groups = jnp.abs(w).reshape(-1, 4)
        return (groups >= lax.top_k(groups, 2)[0][:, 1:]).reshape(w.shape)

    def ranks_in_4(w: Any) -> Any:
        """Count those that are larger, or equal and before."""
        groups = jnp.abs(w).reshape(-1, 4)
        one, other = groups[:, :, None], groups[:, None, :]
        before = jnp.tri(4, k=-1, dtype=bool)
        larger = jnp.sum((other > one) | ((other == one) & before), axis=-1)
        return (larger < 2).reshape(w.shape)

    def movement(scores: Any, w: Any, rate: float) -> Any:
        return scores - rate * w * w

    taylor, gradient = waiting(lambda w, g: jnp.abs(w * g)), waiting(jnp.abs)
    wanda = waiting(lambda w, norms: jnp.abs(w) * norms)

    tables: dict[str, Table] = {
        "jax": {
            "taylor": lambda w, g, out: taylor(w, g),
            "gradient": lambda g, out: gradient(g),
            "movement": donating(movement),
            "wanda": lambda w, out, norms: wanda(w, norms),
        },
        "jax bisection": {"prune": fast(by_bisection, static_argnums=1)},
        "jax top_k": {"prune_2_of_4": fast(top_2_of_4)},
        "jax ranks": {"prune_2_of_4": fast(ranks_in_4)},
    }
    if elements <= SORTED:
        tables["jax sort"] = {"prune": fast(by_sort, static_argnums=1)}
    return tables


# Numba


def _selected(arrays: list[Any], sparsity: float, loops_for: Function) -> list[Any]:
    """Return the masks of uint32 keys of 31 bits, ranked together, by two histograms."""
    from . import numba_loops as loops

    gone = _gone(sparsity, sum(keys.size for keys in arrays))
    counts = loops.counters(16)
    for keys in arrays:
        loops_for(keys).high_digits(keys, counts)
    high = np.cumsum(counts.sum(axis=0, dtype=np.int64))
    digit = int(np.searchsorted(high, gone))
    gone -= int(high[digit - 1]) if digit else 0
    counts = loops.counters(15)
    for keys in arrays:
        loops_for(keys).low_digits(keys, np.uint32(digit), counts)
    low = np.cumsum(counts.sum(axis=0, dtype=np.int64))
    threshold = np.uint32(digit << 15 | int(np.searchsorted(low, gone)))
    kept = []
    for keys in arrays:
        kept.append(np.empty(keys.size, np.bool_))
        loops_for(keys).above(keys, threshold, kept[-1])
    return kept


def _numba_table(compiled: Any) -> Table:
    def select(keys: Any, sparsity: float) -> Any:
        return _selected([keys], sparsity, lambda keys: compiled)[0]

    def random(w: Any, sparsity: float, key: Any) -> Any:
        keys = np.empty(w.size, np.uint32)
        compiled.hashes(keys, np.uint64(key.seed))
        return select(keys, sparsity)

    def two_of_4(w: Any) -> Any:
        kept = np.empty(w.shape, np.bool_)
        compiled.two_of_4(w.reshape(-1), kept.reshape(-1))
        return kept

    return {
        "prune": lambda w, sparsity: select(w.view(np.uint32), sparsity),
        "prune_2_of_4": two_of_4,
        "prune_random": random,
        "apply_mask": compiled.apply_mask,
    }


def numba_tables(single: bool, serial: bool, threaded: bool) -> dict[str, Table]:
    """Return the loops by hand; of those that draw, by the hash."""
    from . import numba_loops as loops

    if not single:
        return {
            "numba": {
                "prune_global": lambda arrays, sparsity: _selected(
                    [w.view(np.uint32) for w in arrays], sparsity, loops.of_size
                ),
                "apply_mask": _each(lambda w, kept: loops.of_size(w).apply_mask(w, kept)),
            }
        }
    tables: dict[str, Table] = {}
    if serial:
        tables["numba serial"] = _numba_table(loops.serial)
    if threaded:
        tables["numba prange"] = _numba_table(loops.parallel)
    return tables
