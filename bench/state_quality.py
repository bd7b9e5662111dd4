"""Whether narrow states and parameters learn as well: the demo's network, over some seeds.

scikit-learn's digits with a fifth of the training labels wrong, a 64-128-10 network in NumPy, and
rl.AdamW with its states in float32, bfloat16 and 8 bits, and with parameters in bfloat16. For one
seed all see the same split, first weights and batches. Prints a table in Markdown: the loss on the
training set and on the test set at the end, mean and standard error over the seeds, and by how much
it differs from that of float32 on the same seed.

    python bench/state_quality.py                        # 10 seeds, 60 epochs: minutes
    python bench/state_quality.py --seeds 2 --epochs 5
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from threadpoolctl import threadpool_limits

import ridgeline as rl
from ridgeline.demo import BATCH, WRONG, Task, backward, forward, initial

LR = 3e-3  # falls to 0 in a straight line
DECAY = 0.1
MAX_NORM = 1.0


@dataclass(frozen=True)
class Way:
    """What is stored in how many bits: a row of the table."""

    name: str
    dtype: Any = np.float32  # of parameters and gradients
    options: dict[str, Any] = field(default_factory=dict)


WAYS = (
    Way("float32"),
    Way("bfloat16 states", options={"state_dtype": "bfloat16"}),
    Way("8-bit states", options={"state_dtype": "8bit"}),
    Way("bfloat16 parameters, master weights", ml_dtypes.bfloat16, {"master_weights": True}),
    Way("bfloat16 parameters, Kahan", ml_dtypes.bfloat16, {"kahan": True}),
    Way("bfloat16 parameters, stochastic", ml_dtypes.bfloat16, {"stochastic_rounding": True}),
    Way("bfloat16 parameters, to nearest", ml_dtypes.bfloat16),
    Way(
        "bfloat16 parameters, stochastic, 8-bit states",
        ml_dtypes.bfloat16,
        {"stochastic_rounding": True, "state_dtype": "8bit"},
    ),
)


def train(way: Way, seed: int, epochs: int) -> tuple[float, float]:
    """Return the loss on the training set, wrong labels included, and on the test set."""
    task = Task.of_seed(seed)
    rng = np.random.default_rng([seed, 1])
    params = {name: w.astype(way.dtype) for name, w in initial(rng).items()}
    steps = epochs * -(-len(task.x) // BATCH)
    options = dict(way.options)
    if options.get("stochastic_rounding"):
        options["stochastic_rounding"] = rl.Key(seed)
    optimizer = rl.AdamW(
        params,
        lr=lambda step: LR * (1 - step / steps),
        weight_decay=DECAY,
        clip=rl.GlobalNorm(MAX_NORM),
        decay_filter=rl.skip_biases_and_norms,
        **options,
    )
    for _ in range(epochs):
        order = rng.permutation(len(task.x))
        for at in range(0, len(order), BATCH):
            batch = order[at : at + BATCH]
            wide = {name: w.astype(np.float32) for name, w in params.items()}
            grads = backward(wide, task.x[batch], task.y[batch])
            optimizer.step({name: g.astype(way.dtype) for name, g in grads.items()})
    wide = {name: w.astype(np.float32) for name, w in params.items()}
    return loss(wide, task.x, task.y), loss(wide, task.x_test, task.y_test)


def loss(params: Any, x: Any, y: Any) -> float:
    """Return the mean cross-entropy."""
    odds = forward(params, x)[-1].astype(np.float64)
    return float(-np.mean(np.log(np.maximum(odds[np.arange(len(y)), y], 1e-30))))


def shown(values: Any) -> str:
    """Return mean and standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.4f} ± {error:.4f}"


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    for name in ("seeds", "epochs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: got {getattr(args, name)}, wants 1 or more")

    print(
        f"64-128-10 network, digits with {WRONG:.0%} of the training labels wrong, rl.AdamW, "
        f"{args.epochs} epochs, {args.seeds} seeds: mean and standard error.\n"
    )
    print("| stored | training loss | less float32's | test loss | less float32's |")
    print("|---|---:|---:|---:|---:|", flush=True)
    base: Any = None
    with threadpool_limits(1):  # the products are too small to gain from more threads
        for way in WAYS:
            losses = np.array([train(way, seed, args.epochs) for seed in range(args.seeds)]).T
            base = losses if base is None else base
            cells = [
                text
                for each, first in zip(losses, base, strict=True)
                for text in (shown(each), "" if way is WAYS[0] else shown(each - first))
            ]
            print(f"| {way.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
