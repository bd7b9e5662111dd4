"""Pruning a PyTorch model from outside: no masks in its modules, no new parameters, no hooks.

A network learns scikit-learn's digits with Adam. `Pruner` is constructed with the named parameters
and stepped after the optimizer. All weights are ranked together, and more and more of them are
pruned; these stay 0 although Adam's moments move them at every step. The state_dict is that of the
plain model. The remaining weights are exported: to scipy.sparse rows, and after 2:4 pruning to
values and 2-bit indices.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import ridgeline as rl
from ridgeline.prune import NM, CubicSchedule, OneShotSchedule, Pruner, export

EPOCHS, BATCH = 30, 64


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    )  # fmt: skip


def is_bias(name, parameter):
    return parameter.ndim < 2


def train(model, x, y, schedule, **keywords):
    """Return the pruner, and the number of pruned weights after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    pruner = Pruner(dict(model.named_parameters()), schedule, exclude=is_bias, **keywords)
    pruned, order = [], torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=order).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            report = pruner.step()

            pruned.append(report.pruned)
            zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)
            assert zeros >= report.pruned  # whatever Adam does
    return pruner, pruned


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).float().mean())


def main():
    torch.set_num_threads(1)  # the network is too small for more; ridgeline follows
    images, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = map(
        torch.from_numpy,
        train_test_split((images / 16).astype(np.float32), digits, test_size=1 / 3, random_state=0),
    )
    steps = EPOCHS * -(-len(x) // BATCH)

    dense = network()
    names = list(dense.state_dict())
    train(dense, x, y, OneShotSchedule(0.0, 0))
    print(f"dense            accuracy {accuracy(dense, x_test, y_test):.1%}")

    model = network()
    schedule = CubicSchedule(0.9, begin=steps // 5, end=steps * 7 // 10, every=10)
    pruner, pruned = train(model, x, y, schedule, scope="global")
    size = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert pruned == sorted(pruned)
    assert pruned[-1] == round(0.9 * size)
    assert list(model.state_dict()) == names  # nothing was added
    print(f"90%, globally    accuracy {accuracy(model, x_test, y_test):.1%}")
    print(rl.prune.report(pruner.masks, dict(model.named_parameters())), "\n")

    dense_bytes = sparse_bytes = 0
    for name, p in model.named_parameters():
        if p.ndim > 1:
            rows = export.to_csr(p, pruner.masks[name])
            again, mask = export.from_sparse(rows)
            assert np.array_equal(again, p.detach().numpy())
            assert mask == pruner.masks[name]
            dense_bytes += p.nbytes
            sparse_bytes += rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
    print(f"as scipy.sparse rows {sparse_bytes:,} bytes, dense {dense_bytes:,}; round trip equal")

    model = network()
    pruner, _ = train(model, x, y, OneShotSchedule(0.5, steps // 2), structure=NM(2, 4))
    packed_bytes = 0
    for name, p in model.named_parameters():
        if p.ndim > 1:
            packed = export.pack_nm(p, pruner.masks[name], 2, 4)
            again, mask = packed.unpack()
            assert torch.equal(again, p)
            assert mask == pruner.masks[name]
            packed_bytes += packed.nbytes
    print(f"\n2:4, half way    accuracy {accuracy(model, x_test, y_test):.1%}")
    print(f"packed {packed_bytes:,} bytes, dense {dense_bytes:,}; round trip equal")


if __name__ == "__main__":
    main()
