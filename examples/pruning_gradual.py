"""Five ways to train a sparse network, compared at 90 to 98 % sparsity.

A 64-128-10 network in NumPy learns scikit-learn's digits with momentum. 90, 95 or 98 % of its
weights are pruned after training; half way through, followed by more training; or gradually (Zhu
and Gupta 2017). Or the network is sparse from the start and its connections move, at random (SET,
Mocanu et al. 2018) or to where the gradient is large (RigL, Evci et al. 2020). Each method takes
two lines in the same loop: it is constructed with the parameters and stepped after the optimizer.
Momentum moves pruned weights at every step; the pruner sets them, and their velocity, back to 0.

Pruning after training ruins the network. Gradual pruning keeps the most accuracy at every sparsity.
RigL comes close, and never has more weights than remain at the end; SET falls behind when few
weights remain. (No method was tuned.)
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import ridgeline as rl
from ridgeline.prune import SET, CubicSchedule, OneShotSchedule, Pruner, RigL

SIZES, EPOCHS, BATCH, LR, SEEDS = (64, 128, 10), 60, 32, 0.05, 5
BIASES = ["b1", "b2"]  # not pruned
SPARSITIES = (0.9, 0.95, 0.98)


def after(params, sparsity, steps, **shared):
    return Pruner(params, OneShotSchedule(sparsity, steps - 1), scope="global", **shared)


def half_way(params, sparsity, steps, **shared):
    return Pruner(params, OneShotSchedule(sparsity, steps // 2), scope="global", **shared)


def gradual(params, sparsity, steps, **shared):
    schedule = CubicSchedule(sparsity, begin=steps // 10, end=steps * 7 // 10, every=20)
    return Pruner(params, schedule, scope="global", **shared)


def at_random(params, sparsity, steps, **shared):
    return SET(params, sparsity, rl.Key(0), every=50, end=steps * 3 // 4, **shared)


def by_gradient(params, sparsity, steps, **shared):
    return RigL(params, sparsity, rl.Key(0), every=50, end=steps * 3 // 4, **shared)


WAYS = {
    "after training": after,
    "half way": half_way,
    "gradual": gradual,
    "SET": at_random,
    "RigL": by_gradient,
}


def initial(key):
    first, second = key.split()
    inputs, hidden, outputs = SIZES
    return {
        "w1": rl.random.normal((inputs, hidden), first, std=np.sqrt(2 / inputs)),
        "b1": np.zeros(hidden, np.float32),
        "w2": rl.random.normal((hidden, outputs), second, std=np.sqrt(2 / hidden)),
        "b2": np.zeros(outputs, np.float32),
    }


def forward(params, x):
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    scores = hidden @ params["w2"] + params["b2"]
    probs = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, probs / probs.sum(axis=1, keepdims=True)


def gradient(params, x, y):
    hidden, delta = forward(params, x)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    back = delta @ params["w2"].T * (hidden > 0)
    return {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ delta, "b2": delta.sum(0)}


def train(way, sparsity, x, y, seed):
    """Return the parameters, and the largest number of nonzero weights after any step."""
    first, orders = rl.Key(seed).split()
    params = initial(first)
    velocity = {name: np.zeros_like(param) for name, param in params.items()}
    steps = EPOCHS * -(-len(x) // BATCH)
    pruner = way and way(params, sparsity, steps, exclude=BIASES, states=[velocity])
    if isinstance(pruner, SET | RigL):
        pruner.apply_()  # sparse from the first forward pass on
    step, most = 0, 0
    for epoch in range(EPOCHS):
        order = np.argsort(rl.random.integers(len(x), orders.fold_in(epoch)))
        for at in range(0, len(x), BATCH):
            batch = order[at : at + BATCH]
            grads = gradient(params, x[batch], y[batch])
            for name, param in params.items():
                velocity[name] *= 0.9
                velocity[name] += grads[name]
                param -= LR * (1 - step / steps) * velocity[name]
            if isinstance(pruner, RigL):
                pruner.step(grads=grads)
            elif pruner:
                pruner.step()
            most = max(most, np.count_nonzero(params["w1"]) + np.count_nonzero(params["w2"]))
            step += 1
    return params, most


def main():
    images, digits = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    size = SIZES[0] * SIZES[1] + SIZES[1] * SIZES[2]
    splits = [
        train_test_split(x, digits, test_size=1 / 3, stratify=digits, random_state=seed)
        for seed in range(SEEDS)
    ]

    def accuracies(way, sparsity):
        """Return the accuracies on held-out digits, one per seed, and the most weights."""
        result, most = [], 0
        for seed, (few, held_out, y, y_held_out) in enumerate(splits):
            params, weights = train(way, sparsity, few, y, seed)
            left = np.count_nonzero(params["w1"]) + np.count_nonzero(params["w2"])
            assert left <= size - round(sparsity * size) + 1
            right = forward(params, held_out)[1].argmax(axis=1) == y_held_out
            result.append(100 * right.mean())
            most = max(most, weights)
        return np.array(result), most

    dense, _ = accuracies(None, 0.0)
    print(f"{size:,} weights, {SEEDS} seeds, accuracy in % on {len(splits[0][1])} held-out digits")
    print(f"dense: {spread(dense)}\n")
    titles = "".join(f"{sparsity:>16.0%}" for sparsity in SPARSITIES)
    print(f"pruned           {titles}   most weights")
    table = {}
    for name, way in WAYS.items():
        columns = [accuracies(way, sparsity) for sparsity in SPARSITIES]
        table[name] = np.array([accuracy for accuracy, _ in columns])
        cells = "".join(f"{spread(accuracy):>16}" for accuracy, _ in columns)
        print(f"{name:<17}{cells}   {columns[0][1]:>12,}")
    print("Mean ± standard deviation over seeds. Most weights: nonzero after any step, at 90%.\n")

    mean = {name: rows.mean(axis=1) for name, rows in table.items()}
    assert mean["after training"][0] < dense.mean() - 10
    assert mean["gradual"][0] > dense.mean() - 2
    assert all(np.all(mean["gradual"] >= mean[name]) for name in WAYS)
    assert mean["RigL"][-1] > max(mean["half way"][-1], mean["SET"][-1]) + 3
    for name, other in (("gradual", "half way"), ("RigL", "half way"), ("RigL", "SET")):
        better = np.sum(table[name][-1] > table[other][-1])
        print(
            f"At {SPARSITIES[-1]:.0%} {name} is better than {other} for {better} of {SEEDS} seeds."
        )


def spread(values):
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


if __name__ == "__main__":
    with threadpool_limits(1):  # the products are too small to gain from more threads
        main()
