"""ridgeline in a PyTorch training loop, in place of penalties computed by autograd.

A 784-128-10 network is trained with 0.01 times the sum of absolute weights (L1), 0.001 times the
sum of their squares (L2), and the gradient clipped by its global norm. Usually penalties are added
to the loss, so that autograd records and replays them. Here their gradients are added to ``p.grad``
after ``backward()``, in one memory pass that also returns their value. The images are
scikit-learn's 8x8 digits, enlarged to 28x28.
"""

from time import perf_counter

import numpy as np
import torch
from sklearn.datasets import load_digits

import ridgeline as rl

L1, L2 = 1e-2, 1e-3
PENALTY = rl.L1(L1) + rl.L2(2 * L2)  # rl.L2(s) is s/2 times the sum of squares
MAX_NORM = 1.0
EPOCHS, BATCH, LR = 5, 128, 0.1


def images():
    """Return digits as 28x28 images: every pixel becomes 3x3, with a border of 2."""
    small, labels = load_digits(return_X_y=True)
    large = np.kron(small.reshape(-1, 8, 8) / 16, np.ones((3, 3)))
    large = np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    return torch.from_numpy(large.reshape(-1, 784)), torch.from_numpy(labels)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


def weights(model):
    return [p for p in model.parameters() if p.ndim > 1]


def penalty_through_autograd(params):
    l1 = sum(p.abs().sum() for p in params)
    l2 = sum(p.square().sum() for p in params)
    return L1 * l1 + L2 * l2


def with_autograd(model, x, y):
    """Leave the regularized, clipped gradient in ``p.grad``; return the penalty."""
    penalty = penalty_through_autograd(weights(model))
    (torch.nn.functional.cross_entropy(model(x), y) + penalty).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    return float(penalty.detach())


def with_ridgeline(model, x, y):
    """Do the same; autograd computes only the gradient of the loss."""
    params = weights(model)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    penalty = PENALTY.add_gradient_([p.grad for p in params], params)
    rl.clip_by_global_norm_([p.grad for p in model.parameters()], MAX_NORM)
    return penalty


def train(regularized_backward, x, y):
    """Return the model, the last penalty and the median time of a step in ms."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    order = torch.Generator().manual_seed(0)
    times = []
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            begin = perf_counter()
            optimizer.zero_grad()
            penalty = regularized_backward(model, x[batch], y[batch])
            optimizer.step()
            times.append(perf_counter() - begin)
    return model, penalty, 1e3 * float(np.median(times))


def main():
    torch.set_num_threads(1)  # the network is too small for more; ridgeline follows
    x, y = images()
    params = weights(network())
    theirs = torch.autograd.grad(penalty_through_autograd(params), params)
    ours = [torch.zeros_like(g) for g in theirs]
    PENALTY.add_gradient_(ours, params)
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    print(f"penalty gradient: largest difference {difference:.1e}")
    assert difference < 1e-8

    one, other = network(), network()
    with_autograd(one, x[:BATCH], y[:BATCH])
    with_ridgeline(other, x[:BATCH], y[:BATCH])
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    difference = max(float((a.grad - b.grad).abs().max()) for a, b in pairs)
    print(f"whole gradient, clipped: largest difference {difference:.1e}")
    assert difference < 1e-6

    for name, way in (("autograd", with_autograd), ("ridgeline", with_ridgeline)):
        model, penalty, ms = train(way, x, y)
        with torch.no_grad():
            accuracy = float((model(x).argmax(dim=1) == y).float().mean())
        print(
            f"{name:<10} {ms:6.3f} ms per step   penalty {penalty:.4f}   "
            f"training accuracy {accuracy:.1%}"
        )


if __name__ == "__main__":
    main()
