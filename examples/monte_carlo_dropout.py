"""How sure a network is of its digits, by Monte-Carlo dropout (Gal and Ghahramani 2016).

A 64-128-10 network in NumPy learns 400 of scikit-learn's digits with half of its hidden units
dropped. It then predicts the others 200 times, with a key a draw. The entropy of the mean
prediction is all its uncertainty; the mutual information (entropy of the mean less mean entropy)
is the part on which the draws differ. Both are higher where it errs, and for images unlike those
it has learned from: rotated ones, and with noise. They do not tell all: turned far, some digits
look like others, and the network is surer of them than of those turned by 30 degrees.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import ridgeline as rl

P, DRAWS = 0.5, 200
SIZES, EPOCHS, BATCH, LR = (64, 128, 10), 100, 32, 0.1
ANGLES = np.arange(0, 91, 15)


def forward(params, x, key):
    """Return the hidden units and the odds of the digits."""
    w1, b1, w2, b2 = params
    hidden = rl.dropout(np.maximum(x @ w1 + b1, 0), P, key)
    scores = hidden @ w2 + b2
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, odds / odds.sum(axis=1, keepdims=True)


def gradient(params, x, y, key):
    hidden, delta = forward(params, x, key)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    back = rl.dropout(delta @ params[2].T, P, key) * (hidden > 0)  # the same call: the same choices
    return x.T @ back, back.sum(axis=0), hidden.T @ delta, delta.sum(axis=0)


def train(x, y, key):
    first, second, orders, key = key.split(4)
    inputs, units, outputs = SIZES
    params = [
        rl.random.normal((inputs, units), first, std=np.sqrt(2 / inputs)),
        np.zeros(units, np.float32),
        rl.random.normal((units, outputs), second, std=np.sqrt(2 / units)),
        np.zeros(outputs, np.float32),
    ]
    step = 0
    for epoch in range(EPOCHS):
        order = np.argsort(rl.random.integers(len(x), orders.fold_in(epoch)))
        for at in range(0, len(x), BATCH):
            batch = order[at : at + BATCH]
            for param, grad in zip(
                params, gradient(params, x[batch], y[batch], key.fold_in(step)), strict=True
            ):
                param -= LR * grad
            step += 1
    return params


def entropy(odds):
    return -np.sum(odds * np.log(np.maximum(odds, 1e-30)), axis=-1)


def predict(params, x, key):
    """Return the mean prediction, its entropy and the mutual information."""
    draws = np.array([forward(params, x, k)[1] for k in key.split(DRAWS)], np.float64)
    mean = draws.mean(axis=0)
    return mean, entropy(mean), entropy(mean) - entropy(draws).mean(axis=0)


def turned(x, angle):
    """Return images rotated about their centre."""
    images = rotate(x.reshape(-1, 8, 8), angle, axes=(1, 2), reshape=False, order=1)
    return images.reshape(-1, 64).astype(np.float32)


def draw(entropies, wrong, turns):
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, np.log(10), 31)
    for which, color, label in ((~wrong, "#0072B2", "right"), (wrong, "#D55E00", "wrong")):
        left.hist(
            entropies[which],
            bins,
            density=True,
            histtype="stepfilled",
            color=color,
            alpha=0.5,
            label=f"{label}: {which.sum()}",
        )
    left.set_title("Entropy of right and wrong predictions", loc="left")
    left.set_xlabel("entropy (nats); log 10 = 2.3 if all digits are equally likely")
    left.set_ylabel("density")
    left.legend(frameon=False)
    for values, color, line, label in zip(
        turns,
        ("#000000", "#0072B2", "#E69F00"),
        ("-", "--", "-."),
        ("share of wrong predictions", "entropy (nats)", "mutual information (nats)"),
        strict=True,
    ):
        right.plot(ANGLES, values, line, color=color, marker="o", markersize=4, label=label)
    right.set_xticks(ANGLES)
    right.set_ylim(0)
    right.set_title("Held-out digits, rotated", loc="left")
    right.set_xlabel("angle (degrees)")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("monte_carlo_dropout.png", dpi=150)


def main():
    images, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (images / 16).astype(np.float32), digits, train_size=400, stratify=digits, random_state=0
    )
    learning, drawing, noising = rl.Key(0).split(3)
    params = train(x, y, learning)

    mean, total, mutual = predict(params, x_test, drawing)
    wrong = mean.argmax(axis=1) != y_test
    print(f"{len(x)} digits learned, {len(x_test)} held out, {DRAWS} draws; in nats\n")
    print("                            wrong  entropy  mutual information")
    for name, which in (("right predictions", ~wrong), ("wrong predictions", wrong)):
        print(f"{name:<22} {'':>10} {total[which].mean():8.3f} {mutual[which].mean():19.3f}")
    for name, values in (("entropy", total), ("mutual information", mutual)):
        area = roc_auc_score(wrong, values)
        print(f"a wrong one has the higher {name} than a right one with probability {area:.3f}")

    print()
    turns = []
    for angle in ANGLES:
        mean, h, m = predict(params, turned(x_test, angle), drawing)
        turns.append((np.mean(mean.argmax(axis=1) != y_test), h.mean(), m.mean()))
        print(f"rotated by {angle:>2} degrees {turns[-1][0]:12.1%} {h.mean():8.3f} {m.mean():19.3f}")
    for std in (0.25, 0.5):
        mean, h, m = predict(params, rl.gaussian_noise(x_test, std, noising), drawing)
        share = np.mean(mean.argmax(axis=1) != y_test)
        print(f"noise of std {std:<4} {share:17.1%} {h.mean():8.3f} {m.mean():19.3f}")

    draw(total, wrong, np.transpose(turns))
    print(f"picture: {Path('monte_carlo_dropout.png').resolve()}")


if __name__ == "__main__":
    main()
