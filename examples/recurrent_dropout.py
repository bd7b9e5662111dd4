"""A recurrent cell with locked dropout and zoneout; its backward pass is written by hand.

Scikit-learn's digits are read as sequences of 8 rows of 8 pixels. The cell is
h[t] = zoneout(tanh(x[t] Wx + h[t-1] Wh + b), h[t-1]), where zoneout keeps the previous value of
some units (Krueger et al. 2017); the mean of the states over time predicts the digit. Locked
(variational) dropout drops the same inputs and the same units of the states at all steps of a
sequence (Gal and Ghahramani 2016): `broadcast_axes=1` of (batch, time, features).

No mask is kept for the backward pass, because the same keys make the same choices. The gradient is
checked against finite differences. Then the cell learns from 200 digits. Both methods raise the
accuracy on held-out digits by more than the gain varies between seeds, locked dropout the most;
together they gain about as much as locked dropout alone. (Learning rate and strengths were chosen
on seeds 100 to 104: the rate as the best without either method, each strength separately.)
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import ridgeline as rl

UNITS, EPOCHS, BATCH, LR, SEEDS = 48, 100, 25, 0.8, 5
P_INPUT, P_STATE, P_ZONEOUT = 0.1, 0.15, 0.05
TIME = 1  # the axis of (batch, time, features) that shares a choice


def initial(key, dtype=np.float32):
    def weights(inputs, outputs, key):
        return rl.random.normal((inputs, outputs), key, std=np.sqrt(1 / inputs), dtype=dtype)

    wx, wh, wo = key.split(3)
    return {
        "wx": weights(8, UNITS, wx),
        "wh": weights(UNITS, UNITS, wh),
        "b": np.zeros(UNITS, dtype),
        "wo": weights(UNITS, 10, wo),
        "bo": np.zeros(10, dtype),
    }


def forward(params, x, key, p):
    """Return the probabilities and what the backward pass needs; key None for inference."""
    p_input, p_state, p_zoneout = p
    if key is not None:
        inputs, states, zones = key.split(3)
        x = rl.dropout(x, p_input, inputs, broadcast_axes=TIME)
    h = np.zeros((len(x), UNITS), x.dtype)
    new, old = np.empty((2, len(x), x.shape[1], UNITS), x.dtype)
    out = np.empty_like(new)
    for t in range(x.shape[1]):
        old[:, t] = h
        new[:, t] = np.tanh(x[:, t] @ params["wx"] + h @ params["wh"] + params["b"])
        if key is not None:
            h = rl.zoneout(new[:, t], h, p_zoneout, zones.fold_in(t))
        else:  # the expected value of zoneout
            h = p_zoneout * h + (1 - p_zoneout) * new[:, t]
        out[:, t] = h
    if key is not None:
        out = rl.dropout(out, p_state, states, broadcast_axes=TIME)
    mean = out.mean(axis=TIME)
    scores = mean @ params["wo"] + params["bo"]
    probs = np.exp(scores - scores.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True), (x, new, old, mean)


def loss(params, x, y, key, p):
    probs, _ = forward(params, x, key, p)
    return -np.log(probs[np.arange(len(y)), y]).mean()


def gradient(params, x, y, key, p):
    """Return the gradient of `loss`; every dropout is repeated with its key."""
    _, p_state, p_zoneout = p
    _, states, zones = key.split(3)
    delta, (dropped, new, old, mean) = forward(params, x, key, p)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    steps = x.shape[1]
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    grads["wo"] += mean.T @ delta
    grads["bo"] += delta.sum(axis=0)

    d_mean = (delta @ params["wo"].T / steps)[:, None, :]
    d_out = rl.dropout(np.broadcast_to(d_mean, new.shape), p_state, states, broadcast_axes=TIME)
    dh = np.zeros_like(d_out[:, 0])
    for t in reversed(range(steps)):
        d_new, d_old = rl.zoneout_backward(dh + d_out[:, t], p_zoneout, zones.fold_in(t))
        back = d_new * (1 - new[:, t] ** 2)
        grads["wx"] += dropped[:, t].T @ back
        grads["wh"] += old[:, t].T @ back
        grads["b"] += back.sum(axis=0)
        dh = d_old + back @ params["wh"].T
    return grads


def check():
    """Return the largest difference from finite differences, relative to the largest gradient."""
    key = rl.Key(5)
    p = (0.3, 0.4, 0.25)
    params = initial(key, np.float64)
    x = rl.random.uniform((4, 8, 8), key.fold_in(1), dtype=np.float64)
    y = rl.random.integers(4, key.fold_in(2), 10)
    worst, largest = 0.0, 0.0
    for name, grad in gradient(params, x, y, key, p).items():
        flat = params[name].reshape(-1)
        for i, exact in enumerate(grad.ravel()):
            value = flat[i]
            losses = []
            for step in (1e-5, -1e-5):
                flat[i] = value + step
                losses.append(loss(params, x, y, key, p))
            flat[i] = value
            worst = max(worst, abs((losses[0] - losses[1]) / 2e-5 - exact))
            largest = max(largest, abs(exact))
    return worst / largest


def train(x, y, p, seed):
    first, orders, key = rl.Key(seed).split(3)
    params = initial(first)
    step = 0
    for epoch in range(EPOCHS):
        lr = LR * (1 - epoch / EPOCHS)
        order = np.argsort(rl.random.integers(len(x), orders.fold_in(epoch)))
        for at in range(0, len(x), BATCH):
            batch = order[at : at + BATCH]
            grads = gradient(params, x[batch], y[batch], key.fold_in(step), p)
            rl.clip_by_global_norm_(grads, 1.0)
            for name, grad in grads.items():
                params[name] -= lr * grad
            step += 1
    return params


def main():
    difference = check()
    print(f"gradient: largest difference from finite differences {difference:.1e}")
    assert difference < 1e-7

    images, digits = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32).reshape(-1, 8, 8)
    print(f"\n200 digits to learn from, {len(x) - 200} held out, {SEEDS} seeds; accuracy in %\n")
    print("                     training       held out      gain         loss held out")
    without = None
    for name, p in (
        ("nothing dropped", (0.0, 0.0, 0.0)),
        ("locked dropout", (P_INPUT, P_STATE, 0.0)),
        ("zoneout", (0.0, 0.0, P_ZONEOUT)),
        ("both", (P_INPUT, P_STATE, P_ZONEOUT)),
    ):
        results = []
        for seed in range(SEEDS):
            few, many, y, y_many = train_test_split(
                x, digits, train_size=200, stratify=digits, random_state=seed
            )
            params = train(few, y, p, seed)
            probs, _ = forward(params, few, None, p)
            probs_many, _ = forward(params, many, None, p)
            results.append(
                [
                    100 * np.mean(probs.argmax(axis=1) == y),
                    100 * np.mean(probs_many.argmax(axis=1) == y_many),
                    loss(params, many, y_many, None, p),
                ]
            )
        train_accuracy, accuracy, losses = np.transpose(results)
        gain = "" if without is None else spread(accuracy - without, 1)
        without = accuracy if without is None else without
        print(
            f"{name:<20} {train_accuracy.mean():8.1f}   {spread(accuracy, 1):>12}  "
            f"{gain:>10}  {spread(losses, 3):>16}"
        )
    print("Mean ± standard deviation over the seeds; gain: over nothing dropped, per seed.")


def spread(values, digits):
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


if __name__ == "__main__":
    with threadpool_limits(1):  # the products are too small to gain from more threads
        main()
