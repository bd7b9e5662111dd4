"""What one pass saves: the parts of an optimizer step as separate calls, beside rl.AdamW.

Unscale, clip by the global norm, add a penalty's gradient or take its proximal step, AdamW, apply a
mask, clamp, and store bfloat16: each call reads and writes all arrays once more. Prints a table in
Markdown for each way to combine them, with the bytes that each call moves for an element and its
median time. Before it is timed, a few steps of both are compared.

    python bench/step_ablation.py                        # GPT-2 small: 124 million elements, 6 GB
    python bench/step_ablation.py --arrays 1000x256 --rounds 3
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import ml_dtypes
import numpy as np

import ridgeline as rl
from ridgeline.bench import machine
from ridgeline.bench.peers import registry
from ridgeline.bench.rows import layouts

LR, BETAS, EPS, DECAY = 1e-2, (0.9, 0.999), 1e-8, 0.1
L1, LIMIT, SPARSITY, SCALE = 0.1, 10.0, 0.5, 1024.0  # nothing reaches the limit
LAYOUTS = {
    each.name: each.elements(4)
    for each in (layouts.GPT2, layouts.RESNET, layouts.THOUSAND, layouts.MEMORY, layouts.CACHE_2)
}
CHECKED = 3  # steps that are compared

Arrays = list[Any]


@dataclass(frozen=True)
class Way:
    """How a step is put together."""

    title: str
    prox: bool = True  # else the penalty's gradient
    mixed: bool = False  # bfloat16 parameters and gradients, float32 master weights


WAYS = (
    Way("float32, proximal step"),
    Way("float32, gradient of the penalty", prox=False),
    Way("bfloat16 parameters and gradients, float32 master weights, proximal step", mixed=True),
)


@dataclass(frozen=True)
class Part:
    """A separate call, and the bytes that it moves for an element."""

    name: str
    nbytes: float
    call: Callable[[], Any]


@dataclass
class Data:
    """The arrays of a way: original gradients, those that are changed, float32 weights, states."""

    original: Arrays
    grads: Arrays
    weights: Arrays
    stored: Arrays
    first: Arrays
    second: Arrays


def numpy_adamw(data: Data) -> tuple[float, Callable[[], None]]:
    """Return the bytes of an element and the step: a call of NumPy for each operation."""
    b1, b2 = BETAS
    work = np.empty(max(w.size for w in data.weights), np.float32)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        rate, root = LR / (1 - b1**count), 1 / math.sqrt(1 - b2**count)
        for w, g, m, v in zip(data.weights, data.grads, data.first, data.second, strict=True):
            t = work[: w.size]
            m *= b1
            np.multiply(g, 1 - b1, out=t)
            m += t
            v *= b2
            np.multiply(g, g, out=t)
            t *= 1 - b2
            v += t
            w *= 1 - LR * DECAY
            np.sqrt(v, out=t)
            t *= root
            t += EPS
            np.divide(m, t, out=t)
            t *= rate
            w -= t

    return 10 * 8 + 4 * 12, step


def torch_adamw(data: Data) -> tuple[float, Callable[[], None]]:
    """Return the bytes of an element and the step of torch.optim.AdamW(fused=True)."""
    torch: Any = importlib.import_module("torch")
    params = [torch.nn.Parameter(torch.from_numpy(w)) for w in data.weights]
    for w, g in zip(params, data.grads, strict=True):
        w.grad = torch.from_numpy(g)
    optimizer = torch.optim.AdamW(
        params, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    return 28, optimizer.step


def unscale(data: Data, mixed: bool) -> None:
    """Write gradients / SCALE in float32."""
    sources = data.original if mixed else data.grads
    for g, source in zip(data.grads, sources, strict=True):
        np.multiply(source, np.float32(1 / SCALE), out=g)


def narrow(data: Data) -> None:
    """Store the weights in bfloat16."""
    for w, x in zip(data.weights, data.stored, strict=True):
        np.copyto(x, w, casting="unsafe")


def separate_parts(
    way: Way, data: Data, adamw: str, mask: rl.MaskSet, max_norm: float
) -> list[Part]:
    """List the separate calls of a step."""
    penalty = rl.L1(L1)
    make = torch_adamw if adamw == "torch" else numpy_adamw
    nbytes, step = make(data)
    name = "torch.optim.AdamW(fused=True)" if adamw == "torch" else "AdamW in NumPy"
    parts = [
        Part("unscale", 6 if way.mixed else 8, lambda: unscale(data, way.mixed)),
        Part("clip_by_global_norm_", 12, lambda: rl.clip_by_global_norm_(data.grads, max_norm)),
    ]
    if not way.prox:
        add = penalty.add_gradient_
        parts.append(Part("penalty.add_gradient_", 12, lambda: add(data.grads, data.weights)))
    parts.append(Part(name, nbytes, step))
    if way.prox:
        parts.append(Part("penalty.prox_", 8, lambda: penalty.prox_(data.weights, LR)))
    parts += [
        Part("mask.apply_", 8 + 1 / 8, lambda: mask.apply_(data.weights)),
        Part("Box.project_", 4, lambda: rl.Box(-LIMIT, LIMIT).project_(data.weights)),
    ]
    if way.mixed:
        parts.append(Part("copy to bfloat16", 6, lambda: narrow(data)))
    return parts


def one_pass(
    way: Way, grads: Arrays, params: Arrays, mask: rl.MaskSet, max_norm: float
) -> tuple[float, Callable[[], Any]]:
    """Return the bytes of an element and rl.AdamW's step."""
    optimizer = rl.AdamW(
        params,
        lr=LR,
        betas=BETAS,
        eps=EPS,
        weight_decay=DECAY,
        clip=rl.GlobalNorm(max_norm),
        penalty=rl.L1(L1),
        prox="plain" if way.prox else None,
        mask=mask,
        constraint=rl.Box(-LIMIT, LIMIT),
        master_weights=way.mixed,
    )
    # the norm; gradient, weight, two moments, mask; and the copy
    nbytes = 2 + 2 + 24 + 1 / 8 + 2 if way.mixed else 4 + 28 + 1 / 8
    return nbytes, lambda: optimizer.step(grads, loss_scale=SCALE)


def drawn(sizes: tuple[int, ...], seed: int, dtype: Any, scale: float = 1.0) -> Arrays:
    """Return normal numbers."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal(n, dtype=np.float32) * np.float32(scale)).astype(dtype) for n in sizes
    ]


def measure(way: Way, arrays: str, adamw: str, rounds: int) -> str:
    """Return the table of a way."""
    sizes = LAYOUTS[arrays]
    dtype = ml_dtypes.bfloat16 if way.mixed else np.float32
    original = drawn(sizes, 0, dtype, SCALE)
    params = drawn(sizes, 1, dtype)
    mask = rl.prune.magnitude(params, SPARSITY)
    mask.apply_(params)
    weights = [w.astype(np.float32) for w in params]
    zeros = [[np.zeros(n, np.float32) for n in sizes] for _ in range(2)]
    stored = [w.copy() for w in params] if way.mixed else []
    grads = [np.empty(n, np.float32) for n in sizes]
    data = Data(original, grads, weights, stored, *zeros)
    max_norm = math.sqrt(sum(sizes)) / 2
    parts = separate_parts(way, data, adamw, mask, max_norm)
    nbytes, step = one_pass(way, original, params, mask, max_norm)

    times: dict[str, list[float]] = {part.name: [] for part in parts}
    together: list[float] = []
    for done in range(CHECKED + rounds):
        if not way.mixed:
            for g, source in zip(grads, original, strict=True):
                np.copyto(g, source)
        for part in parts:
            start = perf_counter()
            part.call()
            times[part.name].append(perf_counter() - start)
        start = perf_counter()
        step()
        together.append(perf_counter() - start)
        if done < CHECKED:
            compare(way, stored or weights, params, done + 1)

    rows = [(part.name, part.nbytes, median(times[part.name][CHECKED:])) for part in parts]
    total_bytes, total_time = sum(row[1] for row in rows), sum(row[2] for row in rows)
    time = median(together[CHECKED:])
    rows += [("all separate calls", total_bytes, total_time), ("one pass: rl.AdamW", nbytes, time)]
    lines = [
        f"### {way.title}: {arrays}, {len(sizes)} arrays, {sum(sizes):,} elements",
        "",
        "| call | bytes an element | time (ms) | GB/s |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {per:.4g} | {1e3 * s:.3g} | {per * sum(sizes) / s * 1e-9:.1f} |"
            for name, per, s in rows
        ),
        f"| ratio | {total_bytes / nbytes:.2f} | {total_time / time:.2f} | |",
    ]
    return "\n".join(lines) + "\n"


def compare(way: Way, separate: Arrays, together: Arrays, steps: int) -> None:
    """Stop if the separate calls lead elsewhere than the one pass."""
    most = 2**-7 if way.mixed else 1e-5  # of bfloat16 a rounding that goes the other way
    for x, y in zip(separate, together, strict=True):
        for i in range(0, x.size, 2**20):
            a, b = (each[i : i + 2**20].astype(np.float32) for each in (x, y))
            if not np.allclose(a, b, rtol=most, atol=1e-2 * LR * steps):
                worst = float(np.max(np.abs(a - b)))
                sys.exit(f"{way.title}: after {steps} steps the results differ by {worst:.2g}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrays", choices=list(LAYOUTS), default="gpt2")
    parser.add_argument(
        "--adamw",
        choices=("numpy", "torch"),
        default="torch" if importlib.util.find_spec("torch") else "numpy",
        help="whose AdamW is the separate call (default: torch's if it is installed)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="a round calls everything once")
    parser.add_argument("--threads", type=int, help="for ridgeline and torch")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds: got {args.rounds}, wants 1 or more")

    threads = args.threads or rl.get_num_threads()
    registry.set_threads(threads)
    facts = machine.describe()
    cpu, versions = facts["machine"]["cpu"], facts["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("ridgeline", "numpy", "torch"))
    print(f"{cpu}, {threads} threads, target {rl.runtime.target()}; {libraries}.")
    print(f"Medians of {args.rounds} rounds, each of which makes every call once, in turn.\n")
    with rl.threads(threads):
        for way in WAYS:
            print(measure(way, args.arrays, args.adamw, args.rounds))


if __name__ == "__main__":
    main()
