"""Predictive uncertainty by Monte Carlo dropout (Gal and Ghahramani 2016).

A 64-128-10 network in NumPy is trained on 400 of scikit-learn's digits with dropout of half of its
hidden units. It then predicts the other digits 200 times, with one key per draw. The entropy of the
mean prediction measures the total uncertainty; the mutual information (entropy of the mean minus
mean entropy) is the part that comes from disagreement between the draws. Both are higher for wrong
predictions, and for images unlike the training data: rotated ones, and ones with noise. They do not
reveal every error: the network misreads more digits rotated by 75 degrees than by 30, with less
entropy. The plots are in `monte_carlo_dropout.png`.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import ridgeline as rl

P, DRAWS = 0.5, 200
SIZES, EPOCHS, BATCH, LR = (64, 128, 10), 100, 32, 0.1
ANGLES = np.arange(0, 91, 15)


def units(params, x):
    w1, b1, _, _ = params
    return np.maximum(x @ w1 + b1, 0)


def probs_of(params, hidden):
    """Return the probabilities of the digits."""
    _, _, w2, b2 = params
    scores = hidden @ w2 + b2
    probs = np.exp(scores - scores.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True)


def gradient(params, x, y, key):
    hidden = rl.dropout(units(params, x), P, key)
    delta = probs_of(params, hidden)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    back = rl.dropout(delta @ params[2].T, P, key) * (hidden > 0)  # same key, same choices
    return x.T @ back, back.sum(axis=0), hidden.T @ delta, delta.sum(axis=0)


def train(x, y, key):
    first, second, orders, key = key.split(4)
    inputs, hidden, outputs = SIZES
    params = [
        rl.random.normal((inputs, hidden), first, std=np.sqrt(2 / inputs)),
        np.zeros(hidden, np.float32),
        rl.random.normal((hidden, outputs), second, std=np.sqrt(2 / hidden)),
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


def entropy(probs):
    return -np.sum(probs * np.log(np.maximum(probs, 1e-30)), axis=-1)


def predict(params, x, key):
    """Return the mean prediction, its entropy and the mutual information."""
    hidden = units(params, x)
    draws = [probs_of(params, rl.dropout(hidden, P, k)) for k in key.split(DRAWS)]
    draws = np.array(draws, np.float64)
    mean = draws.mean(axis=0)
    return mean, entropy(mean), entropy(mean) - entropy(draws).mean(axis=0)


def turned(x, angle):
    """Return images rotated about their center."""
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
    print(f"{len(x)} training digits, {len(x_test)} held out, {DRAWS} draws; means in nats\n")
    print("prediction          images   entropy   mutual information")
    for name, which in (("right", ~wrong), ("wrong", wrong)):
        h, m = total[which].mean(), mutual[which].mean()
        print(f"{name:<18} {which.sum():>7} {h:9.3f} {m:20.3f}")
    for name, values in (("entropy", total), ("mutual information", mutual)):
        area = roc_auc_score(wrong, values)
        print(f"A wrong prediction has higher {name} than a right one with probability {area:.3f}.")

    # The same keys are used for all images, so differences are due to the images alone.
    unlike = [(f"rotated by {angle} degrees", turned(x_test, angle)) for angle in ANGLES]
    for std, key in zip((0.25, 0.5), noising.split(), strict=True):
        unlike.append((f"noise of std {std}", rl.gaussian_noise(x_test, std, key)))
    print("\nimages                 wrong   entropy   mutual information")
    means = []
    for name, changed in unlike:
        mean, h, m = predict(params, changed, drawing)
        means.append((np.mean(mean.argmax(axis=1) != y_test), h.mean(), m.mean()))
        print("{:<22} {:>5.1%} {:9.3f} {:20.3f}".format(name, *means[-1]))

    draw(total, wrong, np.transpose(means[: len(ANGLES)]))
    print(f"\nPicture: {Path('monte_carlo_dropout.png').resolve()}")


if __name__ == "__main__":
    with threadpool_limits(1):  # the products are too small to gain from more threads
        main()
