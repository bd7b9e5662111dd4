"""The lasso path of scikit-learn's diabetes data by accelerated proximal gradient descent.

Minimizes |y - Xw|^2 / 2m + lambda |w|_1 for decreasing lambda, each time starting from the previous
solution, and plots at which lambda each feature enters the model. The solutions are checked against
`sklearn.linear_model.Lasso`.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

import ridgeline as rl

NAMES = {
    "bp": "blood pressure",
    "s1": "cholesterol",
    "s2": "LDL",
    "s3": "HDL",
    "s4": "chol. / HDL",
    "s5": "triglycerides",
    "s6": "glucose",
}


def lasso(X, y, lam, w, tolerance=1e-10, max_steps=20_000):
    """Minimize from w by FISTA (Beck and Teboulle 2009) with restarts (O'Donoghue, Candes 2015)."""
    m = len(y)
    step = m / np.linalg.norm(X, 2) ** 2
    penalty = rl.L1(lam)
    ahead, momentum = w, 1.0
    for _ in range(max_steps):
        new = ahead - step * (X.T @ (X @ ahead - y) / m)
        penalty.prox_(new, step)
        if (ahead - new) @ (new - w) > 0:
            momentum = 1.0
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / grown * (new - w)
        change = np.abs(new - w).max()
        w, momentum = new, grown
        if change <= tolerance * np.abs(w).max():
            break
    return w


def draw(lams, path, names):
    """Plot the coefficients over lambda, with the name of each feature at the end of its line."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    colors = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"]
    ends = path[-1].copy()
    gap = 0.045 * np.ptp(path)
    order = np.argsort(ends)
    for low, high in pairwise(order):  # labels must not overlap
        ends[high] = max(ends[high], ends[low] + gap)
    ends += (path[-1] - ends).mean()
    for j, name in enumerate(names):
        color, line = colors[j % len(colors)], "--" if j >= len(colors) else "-"
        axes.plot(lams, path[:, j], line, color=color)
        axes.annotate(
            NAMES.get(name, name),
            (lams[-1], path[-1, j]),
            (lams[-1] / 1.35, ends[j]),
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6},
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("λ")
    axes.set_ylabel("coefficient (features standardized)")
    axes.set_title("Lasso path of the diabetes data", loc="left")
    figure.savefig("lasso_path.png", dpi=150)


def main():
    data = load_diabetes(scaled=False)
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    y = data.target - data.target.mean()
    top = np.abs(X.T @ y).max() / len(y)  # at this lambda and above, all coefficients are 0
    lams = np.geomspace(top, top / 1000, 60)
    path = np.empty((len(lams), X.shape[1]))
    w = np.zeros(X.shape[1])
    for i, lam in enumerate(lams):
        path[i] = w = lasso(X, y, lam, w)

    print("    lambda  features with a nonzero coefficient")
    for i in range(0, len(lams), 7):
        chosen = [name for name, c in zip(data.feature_names, path[i], strict=True) if c != 0]
        print(f"{lams[i]:10.3f}  {len(chosen):>2}  {' '.join(chosen)}")

    checked = range(0, len(lams), 10)
    worst = 0.0
    for i in checked:
        theirs = Lasso(lams[i], fit_intercept=False, tol=1e-10, max_iter=100_000).fit(X, y).coef_
        assert np.array_equal(theirs == 0, path[i] == 0)
        worst = max(worst, float(np.abs(theirs - path[i]).max()))
    print(f"largest difference from scikit-learn's Lasso at {len(checked)} lambdas: {worst:.1e}")
    assert worst < 1e-4

    draw(lams, path, data.feature_names)
    print(f"picture: {Path('lasso_path.png').resolve()}")


if __name__ == "__main__":
    main()
