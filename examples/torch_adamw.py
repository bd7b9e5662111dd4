"""rl.AdamW in a PyTorch loop, in place of torch.optim.AdamW and clip_grad_norm_.

The same network is trained on the same batches three times: with torch's default AdamW, with its
fused AdamW, and with ridgeline's, where clipping is part of the step. The program prints the
losses, which agree up to rounding, and the median time of a step with clipping. The images are
scikit-learn's 8x8 digits, enlarged to 28x28.
"""

from time import perf_counter

import numpy as np
import torch
from sklearn.datasets import load_digits

import ridgeline as rl

MAX_NORM = 1.0
LR, WEIGHT_DECAY = 1e-3, 1e-2
EPOCHS, BATCH = 8, 128


def images():
    """Return digits as 28x28 images: every pixel becomes 3x3, with a border of 2."""
    small, labels = load_digits(return_X_y=True)
    large = np.kron(small.reshape(-1, 8, 8) / 16, np.ones((3, 3)))
    large = np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    return torch.from_numpy(large.reshape(-1, 784)), torch.from_numpy(labels)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
        torch.nn.Linear(512, 10),
    )  # fmt: skip


def with_torch(model, **keywords):
    """Return a function that takes the step, and returns the norm of the gradients."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, **keywords)

    def step():
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return float(norm)

    return step


def with_ridgeline(model):
    """Do the same with ridgeline; the step uses the gradients in the parameters."""
    optimizer = rl.AdamW(
        model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, clip=rl.GlobalNorm(MAX_NORM)
    )
    return lambda: optimizer.step().norm


def train(way, x, y):
    """Return the losses and norms of all steps, and the median time of a step in ms."""
    model = network()
    step = way(model)
    order = torch.Generator().manual_seed(0)
    losses, norms, times = [], [], []
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            model.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            begin = perf_counter()
            norms.append(step())
            times.append(perf_counter() - begin)
            losses.append(loss.item())
    return np.array(losses), np.array(norms), 1e3 * float(np.median(times))


def main():
    torch.set_num_threads(1)  # more reliable on a busy machine; ridgeline follows
    x, y = images()
    ways = {
        "torch": with_torch,
        "torch, fused": lambda model: with_torch(model, fused=True),
        "ridgeline": with_ridgeline,
    }
    runs = {name: train(way, x, y) for name, way in ways.items()}
    print("losses at step" + "".join(f"{i:>9}" for i in range(0, 120, 17)))
    for name, (losses, _, _) in runs.items():
        print(f"{name:<14}" + "".join(f"{loss:9.5f}" for loss in losses[:120:17]))

    losses, norms, theirs = runs["torch"]
    print(f"\n{np.mean(norms > MAX_NORM):.0%} of the steps were clipped")
    for name, (other, _, _) in runs.items():
        if name != "torch":
            print(f"{name}: largest difference of a loss {np.abs(other - losses).max():.1e}")
    print()
    for name, (_, _, ms) in runs.items():
        ratio = theirs / ms
        print(
            f"{name:<14} {ms:7.3f} ms per step with clipping; torch takes {ratio:.1f} times as long"
        )


if __name__ == "__main__":
    main()
