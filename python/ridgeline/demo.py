"""What regularization does: one network on real digits, with some wrong labels, trained many ways.

The 1,797 images of scikit-learn's digits, a third of them held out. A fifth of the training labels
are replaced by wrong ones, so that there is something not to learn. A 64-128-10 network learns
with forward and backward in plain NumPy; then one call of an optimizer does the rest: clipping,
penalty, step, proximal operator and mask, in one pass. A `Method` is a row of the table: add one to
`METHODS` to see it here.

For one seed all methods see the same split, wrong labels, first weights and batches, and those with
dropout the same random bits. The strengths were chosen on seeds from 100 on, which are not among
those reported; those of L1 and L2 for each row on its own, so that they are weaker beside dropout.

Then the network is pruned, with the right labels: a row of the second table is a `Method` of
`PRUNING`, trained by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from . import (
    L1,
    L2,
    SGD,
    AdamW,
    ElasticNet,
    GlobalNorm,
    Key,
    Mask,
    Penalty,
    dropout,
    global_norm,
    prune,
)
from .prune import NM, CubicSchedule, OneShotSchedule, Pruner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .optimizers import Optimizer

__all__ = [
    "METHODS",
    "PRUNING",
    "Method",
    "Run",
    "Task",
    "run",
    "train",
]

Array: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]
Params: TypeAlias = dict[str, Array]
Drop: TypeAlias = Callable[[int, Array], Array]

HIDDEN = 128
BATCH = 32
WRONG = 0.2  # of the training labels
DROPOUT = (0.1, 0.5)  # of the inputs, of the hidden units
SMOOTH = 5  # epochs that a point of a drawn curve is the mean of
SPARSITY = 0.9  # of the weights that are pruned one by one
RAMP = (0.2, 0.7)  # of training: where gradual pruning begins and ends
sgd = partial(SGD, lr=0.5)  # the learning rate falls to 0 in a straight line
adamw = partial(AdamW, lr=0.004, weight_decay=0.0)  # so does this


@dataclass(frozen=True)
class Method:
    """A row of the table: what a step does besides following the gradient of the loss.

    Parameters
    ----------
    name : str
        Its label.
    color, line : str
        How its curves are drawn.
    optimizer : callable
        ``optimizer(groups)`` makes the optimizer of the weights and of the biases.
    penalty : Penalty
        On the weights, not the biases.
    dropout : pair of float
        The probability of dropping an input, and a hidden unit.
    pruner : callable
        ``pruner(weights, steps)`` returns an object that prunes the weights in `steps` steps.
    stored : callable
        ``stored(w, mask)`` returns the bytes in which weights are stored after training.
    """

    name: str
    color: str
    line: str = "-"
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] = sgd
    penalty: Penalty | None = None
    dropout: tuple[float, float] = (0.0, 0.0)
    pruner: Callable[[list[Array], int], Pruner] | None = None
    stored: Callable[[Array, Mask], int] | None = None


def weights(params: Params) -> list[Array]:
    """Return what is penalized and pruned."""
    return [params["w1"], params["w2"]]


def biases(params: Params) -> list[Array]:
    """Return what is not."""
    return [params["b1"], params["b2"]]


METHODS = (
    Method("none", "#000000"),
    Method("L1", "#E69F00", penalty=L1(1e-3)),
    Method("L1, proximal", "#D55E00", "--", partial(sgd, prox="plain"), L1(1e-3)),
    Method("L1, AdamW", "#56B4E9", "--", partial(adamw, prox="preconditioned"), L1(1e-3)),
    Method("L2", "#0072B2", penalty=L2(5e-3)),
    Method("elastic net", "#009E73", "--", penalty=ElasticNet(l1=4e-4, l2=3e-3)),
    Method("clipping", "#CC79A7", optimizer=partial(sgd, clip=GlobalNorm(0.1))),
    Method("dropout", "#000000", "--", dropout=DROPOUT),
    Method("dropout, L1", "#E69F00", "--", penalty=L1(2e-4), dropout=DROPOUT),
    Method("dropout, L2", "#0072B2", "--", penalty=L2(2e-3), dropout=DROPOUT),
)
BESIDE_DROPOUT = ("none", "L1", "L2")  # drawn once more, to compare with


def gradual(params: list[Array], steps: int) -> Pruner:
    """Prune the least weights of the network, more and more of them."""
    begin, end = (round(part * steps) for part in RAMP)
    schedule = CubicSchedule(SPARSITY, begin, end, every=max((end - begin) // 50, 1))
    return Pruner(params, schedule, scope="global")


def at_once(params: list[Array], steps: int) -> Pruner:
    """Prune the least weights of the network after training."""
    return Pruner(params, OneShotSchedule(SPARSITY, steps - 1), scope="global")


def two_of_four(params: list[Array], steps: int) -> Pruner:
    """Keep two of four inputs of a unit from half of training on; axis 0 is that of the inputs."""
    return Pruner(params, OneShotSchedule(0.5, steps // 2), structure=NM(2, 4, axis=0))


def transposed(mask: Mask) -> Mask:
    """Return the mask of the transpose."""
    return Mask.from_array(mask.to_array().T)


def sparse_bytes(w: Array, mask: Mask) -> int:
    """Return the bytes of compressed sparse rows: values, their columns, and where rows begin."""
    rows = prune.export.to_csr(w.T, transposed(mask))
    return int(rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes)


def packed_bytes(w: Array, mask: Mask) -> int:
    """Return the bytes of packed 2:4: values, and 2 bits each that tell where in four they are."""
    return prune.export.pack_nm(w.T, transposed(mask)).nbytes


PRUNING = (
    Method("dense", "#000000"),
    Method("90%, gradual", "#0072B2", pruner=gradual, stored=sparse_bytes),
    Method("90%, at once", "#D55E00", "--", pruner=at_once, stored=sparse_bytes),
    Method("2:4, retrained", "#009E73", pruner=two_of_four, stored=packed_bytes),
)


@dataclass(frozen=True)
class Task:
    """The images of one seed; ``wrong`` marks the training labels that were replaced."""

    x: Array
    y: Labels
    wrong: npt.NDArray[np.bool_]
    x_test: Array
    y_test: Labels

    @classmethod
    def of_seed(cls, seed: int, share: float = WRONG) -> Task:
        """Split the digits and replace a share of the training labels."""
        images, digits = load_digits(return_X_y=True)
        x, x_test, y, y_test = train_test_split(
            (images / 16).astype(np.float32),
            digits,
            test_size=1 / 3,
            stratify=digits,
            random_state=seed,
        )
        rng = np.random.default_rng([seed, 0])
        wrong = rng.random(len(y)) < share
        y = np.where(wrong, (y + rng.integers(1, 10, len(y))) % 10, y)
        return cls(x, y, wrong, x_test, y_test)


@dataclass
class Run:
    """What one training run gave; the curves have a number per epoch."""

    test_accuracy: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    sparsity: list[float] = field(default_factory=list)
    train_accuracy: float = 0.0
    learned_wrong: float = 0.0
    zeros: float = 0.0
    norm: float = 0.0
    nbytes: int = 0
    seconds_stepping: float = 0.0
    seconds_dropping: float = 0.0
    seconds_pruning: float = 0.0


def keep(layer: int, values: Array) -> Array:
    """Drop nothing."""
    return values


def forward(params: Params, x: Array, drop: Drop = keep) -> tuple[Array, Array, Array]:
    """Return the inputs and hidden units, those dropped being 0, and the odds of the digits."""
    x = drop(0, x)
    hidden = drop(1, np.maximum(x @ params["w1"] + params["b1"], 0))
    scores = hidden @ params["w2"] + params["b2"]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return x, hidden, odds / odds.sum(axis=1, keepdims=True)


def backward(params: Params, x: Array, y: Labels, drop: Drop = keep) -> Params:
    """Return the gradient of the mean cross-entropy."""
    x, hidden, delta = forward(params, x, drop)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    back = drop(1, delta @ params["w2"].T) * (hidden > 0)
    return {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ delta, "b2": delta.sum(0)}


def initial(rng: np.random.Generator, sizes: Sequence[int] = (64, HIDDEN, 10)) -> Params:
    """Draw weights of variance 2 / inputs (He et al. 2015); biases are 0."""
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        w = rng.standard_normal((inputs, outputs), dtype=np.float32)
        params[f"w{layer}"] = w * np.float32(np.sqrt(2 / inputs))
        params[f"b{layer}"] = np.zeros(outputs, np.float32)
    return params


def train(
    method: Method, task: Task, seed: int, epochs: int, tick: Callable[[], None] = lambda: None
) -> Run:
    """Train the network one way.

    Parameters
    ----------
    method : Method
    task : Task
    seed : int
        Of the first weights and the order of the batches.
    epochs : int
    tick : callable, optional
        Called after every epoch.

    Returns
    -------
    Run
    """
    rng = np.random.default_rng([seed, 1])
    params = initial(rng)
    optimizer = method.optimizer(
        [{"params": weights(params), "penalty": method.penalty}, {"params": biases(params)}]
    )
    keys = Key(seed).split()  # of the inputs, and of the hidden units
    step = 0
    run = Run()

    def drop(layer: int, values: Array) -> Array:
        """Drop the same elements in the forward and the backward pass of a step."""
        start = perf_counter()
        values = dropout(values, method.dropout[layer], keys[layer].fold_in(step))
        run.seconds_dropping += perf_counter() - start
        return values

    dropping = drop if any(method.dropout) else keep
    steps = epochs * -(-len(task.x) // BATCH)
    pruner = None if method.pruner is None else method.pruner(weights(params), steps)
    dense = [Mask.from_array(np.ones(b.shape, bool)) for b in biases(params)]
    first_lr = float(cast("float", optimizer.lr))
    for epoch in range(epochs):
        lr = first_lr * (1 - epoch / epochs)
        order = rng.permutation(len(task.x))
        for at in range(0, len(order), BATCH):
            batch = order[at : at + BATCH]
            grads = backward(params, task.x[batch], task.y[batch], dropping)
            start = perf_counter()
            optimizer.step([weights(grads), biases(grads)], lr)
            run.seconds_stepping += perf_counter() - start
            if pruner is not None:
                start = perf_counter()
                if pruner.step().updated:
                    optimizer.set_mask([pruner.masks, dense])  # what is 0 now stays 0
                run.seconds_pruning += perf_counter() - start
            step += 1

        test = forward(params, task.x_test)[-1].argmax(axis=1)
        odds = forward(params, task.x)[-1]
        chance = np.maximum(odds[np.arange(len(odds)), task.y], 1e-12)
        run.test_accuracy.append(float(np.mean(test == task.y_test)))
        run.train_loss.append(float(-np.log(chance).mean()))
        run.sparsity.append(0.0 if pruner is None else pruner.sparsity)
        tick()

    right = odds.argmax(axis=1) == task.y
    run.train_accuracy = float(right.mean())
    run.learned_wrong = float(right[task.wrong].mean()) if task.wrong.any() else 0.0
    run.zeros = float(np.mean(np.concatenate([w.ravel() for w in weights(params)]) == 0))
    run.norm = global_norm(weights(params))
    run.nbytes = sum(param.nbytes for param in params.values())
    if pruner is not None and method.stored is not None:
        for w, mask in zip(weights(params), pruner.masks, strict=True):
            run.nbytes += method.stored(w, mask) - w.nbytes
    return run


def run(
    quick: bool = False, seeds: int | None = None, output: str | Path = "."
) -> tuple[Path, Path]:
    """Train by every method and seed, print the tables and draw the curves.

    Parameters
    ----------
    quick : bool, default False
        100 epochs and 2 seeds in place of 200 and 5.
    seeds : int, optional
        How many seeds; the first is 0.
    output : path, default "."
        The directory for ``ridgeline-demo.png`` and ``ridgeline-demo-pruning.png``. It is made if
        it is not there.

    Returns
    -------
    pair of Path
        The pictures.
    """
    epochs = 100 if quick else 200
    seeds = seeds or (2 if quick else 5)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)

    tasks = [Task.of_seed(seed) for seed in range(seeds)]
    console.print(
        f"{len(tasks[0].x):,} images of digits to learn from, {WRONG:.0%} of the labels wrong; "
        f"{len(tasks[0].x_test)} held out.\n"
        f"64-{HIDDEN}-10 network in NumPy, regularized by ridgeline: {epochs} epochs, "
        f"{seeds} seed{'s' * (seeds > 1)}."
    )
    runs: dict[str, list[Run]] = {method.name: [] for method in (*METHODS, *PRUNING)}
    clean = [Task.of_seed(seed, 0.0) for seed in range(seeds)]
    columns = (TextColumn("{task.description:<14}"), BarColumn(None), TimeRemainingColumn())
    with (
        threadpool_limits(1),  # the products are too small to gain from more threads
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        bar = progress.add_task("", total=len(runs) * seeds * epochs)
        for methods, over in ((METHODS, tasks), (PRUNING, clean)):
            for seed, task in enumerate(over):
                for method in methods:
                    progress.update(bar, description=method.name)
                    runs[method.name].append(
                        train(method, task, seed, epochs, lambda: progress.advance(bar))
                    )

    console.print(_table({method.name: runs[method.name] for method in METHODS}))
    path = (output / "ridgeline-demo.png").resolve()
    _figure(runs).savefig(path, dpi=150)
    console.print(f"Curves: {path}\n", soft_wrap=True)

    console.print("Pruned: the same network and images, all labels right.")
    console.print(_pruning_table({method.name: runs[method.name] for method in PRUNING}))
    pruning = (output / "ridgeline-demo-pruning.png").resolve()
    _pruning_figure(runs).savefig(pruning, dpi=150)
    console.print(f"Curves: {pruning}", soft_wrap=True)
    return path, pruning


def _table(runs: dict[str, list[Run]]) -> Table:
    """Lay out the figures at the end of training, mean and standard deviation over the seeds."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="Accuracy in %, mean ± standard deviation over the seeds. Train: on the labels "
        f"given, right or wrong. Gap: train - test; {-100 * WRONG:.0f} if all is learned but the "
        "wrong labels. Wrong learned: share of the wrong labels learned by heart. Zeros: weights "
        "that are exactly 0. Step: its time per epoch, with clipping, penalty and prox inside; "
        "drop: that of dropout. L1, AdamW: by the preconditioned proximal step. "
        f"Dropout: {DROPOUT[0]:.0%} of the inputs and {DROPOUT[1]:.0%} of the hidden units.",
        caption_justify="left",
    )
    table.add_column("\nmethod", no_wrap=True)
    for header in (
        "train\naccuracy",
        "test\naccuracy",
        "\ngap",
        "wrong\nlearned",
        "\nzeros",
        "weight\nnorm",
        "step\nms",
        "drop\nms",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for name, rows in runs.items():
        train_accuracy = 100 * np.array([row.train_accuracy for row in rows])
        test_accuracy = 100 * np.array([row.test_accuracy[-1] for row in rows])
        epochs = sum(len(row.train_loss) for row in rows)
        stepping = sum(row.seconds_stepping for row in rows)
        dropping = sum(row.seconds_dropping for row in rows)
        table.add_row(
            name,
            f"{train_accuracy.mean():.1f}",
            f"{test_accuracy.mean():.1f}"
            + (f" ± {_deviation(test_accuracy):.1f}" if len(rows) > 1 else ""),
            f"{np.mean(train_accuracy - test_accuracy):+.1f}",
            f"{np.mean([row.learned_wrong for row in rows]):.0%}",
            f"{np.mean([row.zeros for row in rows]):.0%}",
            f"{np.mean([row.norm for row in rows]):.1f}",
            f"{1e3 * stepping / epochs:.2f}",
            f"{1e3 * dropping / epochs:.2f}",
        )
    return table


def _pruning_table(runs: dict[str, list[Run]]) -> Table:
    """Lay out what pruning costs and saves, mean and standard deviation over the seeds."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="Accuracy in %, mean ± standard deviation over the seeds. Loss: of accuracy, "
        "against dense with the same seed, in points. Bytes: biases and weights as stored, dense "
        "in float32, 90% in compressed sparse rows with 4-byte indices, 2:4 packed with 2-bit "
        f"indices. Time: spent pruning, per epoch. Gradual: from {RAMP[0]:.0%} to {RAMP[1]:.0%} of "
        "training; at once: after training; 2:4: in the middle of it.",
        caption_justify="left",
    )
    table.add_column("\nmethod", no_wrap=True)
    for header in ("\nsparsity", "test\naccuracy", "\nloss", "\nbytes", "of\ndense", "time\nms"):
        table.add_column(header, justify="right", no_wrap=True)
    dense = runs["dense"]
    against = np.array([row.test_accuracy[-1] for row in dense])
    for name, rows in runs.items():
        accuracy = np.array([row.test_accuracy[-1] for row in rows])
        epochs = sum(len(row.sparsity) for row in rows)
        table.add_row(
            name,
            f"{np.mean([row.sparsity[-1] for row in rows]):.1%}",
            f"{100 * accuracy.mean():.1f}"
            + (f" ± {100 * _deviation(accuracy):.1f}" if len(rows) > 1 else ""),
            f"{100 * np.mean(against - accuracy):.1f}",
            f"{np.mean([row.nbytes for row in rows]):,.0f}",
            f"{sum(row.nbytes for row in rows) / sum(row.nbytes for row in dense):.0%}",
            f"{1e3 * sum(row.seconds_pruning for row in rows) / epochs:.2f}",
        )
    return table


def _deviation(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the standard deviation over the first axis, the seeds; 0 for one seed."""
    deviation: npt.NDArray[np.float64] = values.std(axis=0, ddof=min(1, len(values) - 1))
    return deviation


def _figure(runs: dict[str, list[Run]]) -> Figure:
    """Draw held-out accuracy and training loss over the epochs."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    seeds = len(runs[METHODS[0].name])
    bands = ", mean and deviation" if seeds > 1 else ""
    figure.suptitle(
        f"A 64-{HIDDEN}-10 network on digits, {WRONG:.0%} of its training labels wrong "
        f"({seeds} seed{'s' * (seeds > 1)}{bands})"
    )
    others = [method for method in METHODS if not any(method.dropout)]
    dropping = [method for method in METHODS if any(method.dropout)]
    compared = [method for method in others if method.name in BESIDE_DROPOUT]
    panels = (("Penalties and clipping", others), ("Dropout", compared + dropping))
    for (title, methods), (accuracy, loss) in zip(panels, figure.subplots(2, 2), strict=True):
        for method in methods:
            rows = runs[method.name]
            _curve(accuracy, method, [row.test_accuracy for row in rows])
            _curve(loss, method, [row.train_loss for row in rows])
        accuracy.set_title(f"{title}: accuracy on held-out digits", loc="left")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        accuracy.set_ylim(0.75, 1)
        accuracy.legend(ncols=2, loc="lower right")
        loss.set_title(f"{title}: loss on the training labels", loc="left")
        loss.set_ylim(0, 1.5)
        for axes in (accuracy, loss):
            axes.set_xlabel(f"epoch (running mean over {SMOOTH})")
            axes.margins(x=0.01)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _pruning_figure(runs: dict[str, list[Run]]) -> Figure:
    """Draw held-out accuracy and sparsity over the epochs, and accuracy against size."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    seeds = len(runs["dense"])
    bands = ", mean and deviation" if seeds > 1 else ""
    figure.suptitle(
        f"A 64-{HIDDEN}-10 network on digits, pruned ({seeds} seed{'s' * (seeds > 1)}{bands})"
    )
    axes = figure.subplot_mosaic([["accuracy", "size"], ["sparsity", "size"]])
    accuracy, sparsity, size = axes["accuracy"], axes["sparsity"], axes["size"]
    for method in PRUNING:
        rows = runs[method.name]
        _curve(accuracy, method, [row.test_accuracy for row in rows], smooth=1)
        _curve(sparsity, method, [row.sparsity for row in rows], smooth=1)
        last = np.array([row.test_accuracy[-1] for row in rows])
        size.errorbar(
            np.mean([row.nbytes for row in rows]) / 1000,
            last.mean(),
            float(_deviation(last)),
            fmt="o",
            color=method.color,
            markerfacecolor="white" if method.line == "--" else method.color,
            markersize=8,
            capsize=4,
            label=method.name,
        )
    accuracy.set_title("Accuracy on held-out digits", loc="left")
    accuracy.set_ylim(0.75, 1)
    accuracy.set_xlabel("epoch")
    sparsity.set_title("Weights that are pruned", loc="left")
    sparsity.set_ylim(-0.03, 1)
    sparsity.set_xlabel("epoch")
    sparsity.legend(loc="upper left")
    size.set_title("Accuracy after training against size", loc="left")
    size.set_xlim(0)
    size.yaxis.set_major_locator(MultipleLocator(0.05))
    size.set_xlabel("weights and biases as stored (kB)")
    size.legend(loc="lower right")
    for panel in (accuracy, sparsity, size):
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in (accuracy, sparsity):
        panel.margins(x=0.01)
    return figure


def _curve(axes: Axes, method: Method, curves: list[list[float]], smooth: int = SMOOTH) -> None:
    """Draw the mean over the seeds and a band of one standard deviation."""
    window = np.ones(smooth)
    values = np.array([np.convolve(curve, window, "same") for curve in curves])
    values /= np.convolve(np.ones(values.shape[1]), window, "same")
    mean, deviation = values.mean(axis=0), _deviation(values)
    epochs = np.arange(1, len(mean) + 1)
    axes.plot(epochs, mean, method.line, color=method.color, label=method.name, linewidth=1.8)
    axes.fill_between(
        epochs, mean - deviation, mean + deviation, color=method.color, alpha=0.15, linewidth=0
    )
