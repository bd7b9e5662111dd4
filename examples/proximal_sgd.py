"""Proximal SGD recovers a sparse signal: 30 of 2,000 weights, from 1,000 noisy observations.

Without a penalty the observations do not determine the weights. With the gradient of L1 the weights
become small, but none becomes 0. With `prox="plain"` the step ends in the proximal operator of the
learning rate times the penalty: L1 sets most of the wrong weights to 0 and shrinks the others; MCP
finds exactly the right ones and does not shrink them. The plot shows how much of the support is
recovered.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import ridgeline as rl

OBSERVATIONS, WEIGHTS, NONZERO = 1000, 2000, 30
NOISE, BATCH, STEPS, LR = 0.5, 100, 800, 0.05
STRENGTH = 0.2
METHODS = {
    "no penalty": ("#000000", {}),
    "L1, gradient": ("#E69F00", {"penalty": rl.L1(STRENGTH)}),
    "L1, proximal": ("#0072B2", {"penalty": rl.L1(STRENGTH), "prox": "plain"}),
    "MCP, proximal": ("#009E73", {"penalty": rl.MCP(STRENGTH, 3.0), "prox": "plain"}),
}


def signal():
    """Return the observed inputs and outputs, and the true weights."""
    rng = np.random.default_rng(0)
    truth = np.zeros(WEIGHTS)
    support = rng.choice(WEIGHTS, NONZERO, replace=False)
    truth[support] = rng.choice([-1, 1], NONZERO) * rng.uniform(0.5, 2, NONZERO)
    X = rng.standard_normal((OBSERVATIONS, WEIGHTS))
    return X, X @ truth + NOISE * rng.standard_normal(OBSERVATIONS), truth


def descend(X, y, truth, **options):
    """Return, after each step: true and false nonzero weights, and the relative error."""
    w = np.zeros(WEIGHTS)
    optimizer = rl.SGD(w, lambda step: LR * (1 - step / STEPS), **options)
    rng = np.random.default_rng(1)
    curve = []
    for _ in range(STEPS):
        batch = rng.choice(len(y), BATCH, replace=False)
        optimizer.step(X[batch].T @ (X[batch] @ w - y[batch]) / BATCH)
        found = np.count_nonzero(w[truth != 0])
        wrong = np.count_nonzero(w[truth == 0])
        curve.append((found, wrong, np.linalg.norm(w - truth) / np.linalg.norm(truth)))
    return np.array(curve)


def draw(curves):
    """Plot the recovery of the support and the error over the steps."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    recovery, error = figure.subplots(1, 2)
    steps = np.arange(1, STEPS + 1)
    for name, (color, _) in METHODS.items():
        found, wrong, distance = curves[name].T
        line = "--" if name == "L1, gradient" else "-"
        recovery.plot(steps, found / (NONZERO + wrong), line, color=color, label=name)
        error.plot(steps, distance, line, color=color, label=name)
    recovery.set_title("Support recovery: true nonzero weights over all found or true ones")
    recovery.set_ylim(-0.02, 1.03)
    error.set_title("Relative distance to the true weights")
    error.set_ylim(0, 1)
    error.legend(loc="upper right")
    for axes in (recovery, error):
        axes.title.set_fontsize("medium")
        axes.set_xlabel("step")
        axes.margins(x=0.01)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("proximal_sgd.png", dpi=150)


def main():
    X, y, truth = signal()
    curves = {name: descend(X, y, truth, **options) for name, (_, options) in METHODS.items()}
    print(f"{NONZERO} of {WEIGHTS:,} weights are nonzero.\n")
    print("                found   false nonzero   relative error")
    for name, curve in curves.items():
        found, wrong, distance = curve[-1]
        print(f"{name:<14} {found:6.0f}   {wrong:13,.0f}   {distance:14.3f}")
    draw(curves)
    print(f"\npicture: {Path('proximal_sgd.png').resolve()}")


if __name__ == "__main__":
    main()
