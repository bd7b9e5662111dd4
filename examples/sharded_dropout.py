"""Dropout on four shards of a network that is bit-identical to dropout on the whole.

Two workers share the batch, and two the columns of the hidden layer (tensor parallelism). No worker
creates or sees the mask of the others: `shape=` and `index=` tell where in the whole an array is
located, and `offset=` does the same for contiguous rows. Activations and gradients, put together,
are those of the undivided network.

Weights and inputs are small multiples of 1/8, and p = 0.5 scales by 2, so that every sum is exact
in whatever order NumPy adds, and only the dropout is compared.
"""

import numpy as np

import ridgeline as rl

ROWS, INPUTS, HIDDEN, OUTPUTS = 64, 24, 32, 6
P = 0.5
KEYS = hidden_key, output_key = rl.Key(2024).fold_in(0).split()  # step 0, one key per layer


def eighths(shape, key):
    return rl.random.integers(shape, key, -8, 9) / 8


def whole(x, w1, w2, dy):
    """Return hidden units, outputs and the gradients of the weights, undivided."""
    hidden = rl.dropout(np.maximum(x @ w1, 0), P, hidden_key)
    y = rl.dropout(hidden @ w2, P, output_key)
    d_scores = rl.dropout(dy, P, output_key)
    back = rl.dropout(d_scores @ w2.T, P, hidden_key) * (hidden > 0)
    return hidden, y, x.T @ back, hidden.T @ d_scores


def in_four(x, w1, w2, dy):
    """Return the same; every product and every dropout is computed in parts."""
    hidden = np.empty((ROWS, HIDDEN))
    y = np.empty((ROWS, OUTPUTS))
    d_w1, d_w2 = np.zeros_like(w1), np.zeros_like(w2)
    halves = (slice(0, ROWS // 2), slice(ROWS // 2, ROWS))
    columns = (slice(0, HIDDEN // 2), slice(HIDDEN // 2, HIDDEN))
    for rows in halves:
        partial = 0
        for cols in columns:
            part = {"shape": (ROWS, HIDDEN), "index": (rows, cols)}
            mine = rl.dropout(np.maximum(x[rows] @ w1[:, cols], 0), P, hidden_key, **part)
            hidden[rows, cols] = mine
            partial = partial + mine @ w2[cols]  # all-reduce
        # Whole rows are contiguous in C order: the index of the first element is enough.
        offset = rows.start * OUTPUTS
        y[rows] = rl.dropout(partial, P, output_key, offset=offset)
        d_scores = rl.dropout(dy[rows], P, output_key, offset=offset)
        for cols in columns:
            part = {"shape": (ROWS, HIDDEN), "index": (rows, cols)}
            back = rl.dropout(d_scores @ w2[cols].T, P, hidden_key, **part)
            back *= hidden[rows, cols] > 0
            d_w1[:, cols] += x[rows].T @ back  # all-reduce
            d_w2[cols] += hidden[rows, cols].T @ d_scores
    return hidden, y, d_w1, d_w2


def main():
    arrays = [
        eighths(shape, key)
        for shape, key in zip(
            ((ROWS, INPUTS), (INPUTS, HIDDEN), (HIDDEN, OUTPUTS), (ROWS, OUTPUTS)),
            rl.Key(7).split(4),
            strict=True,
        )
    ]
    names = ("hidden units", "outputs", "gradient of w1", "gradient of w2")
    for name, one, other in zip(names, whole(*arrays), in_four(*arrays), strict=True):
        same = np.array_equal(one.view(np.uint64), other.view(np.uint64))
        print(f"{name:<15} {one.shape!s:>9}  bits {'equal' if same else 'DIFFERENT'}")
        assert same

    # Masks can be computed in parts as well, and so can choices that are shared along an axis.
    left = np.s_[:, : HIDDEN // 2]
    mask = rl.dropout_mask((ROWS, HIDDEN), P, hidden_key).to_array()
    part = rl.dropout_mask((ROWS, HIDDEN), P, hidden_key, index=left).to_array()
    assert np.array_equal(part, mask[left])

    images = np.ones((4, 6, 5, 5))  # spatial dropout, cut along the height
    dropped = rl.dropout(images, P, hidden_key, broadcast_axes=(2, 3))
    top = rl.dropout(
        images[:, :, :2],
        P,
        hidden_key,
        broadcast_axes=(2, 3),
        shape=images.shape,
        index=np.s_[:, :, :2],
    )
    assert np.array_equal(top, dropped[:, :, :2])
    print("mask of the left half, channels of the upper half of images: equal")

    # Without index= both halves would drop the same positions.
    share = np.mean(part == mask[:, HIDDEN // 2 :])
    print(f"left and right half make the same choice in {share:.0%} of the positions")


if __name__ == "__main__":
    main()
