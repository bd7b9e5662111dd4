"""Dropout for PyTorch's autograd that stores no mask.

The backward pass is the forward call with the same key, so only a few numbers have to be kept. The
gradient is checked by `torch.autograd.gradcheck`, and the bytes that autograd saves are counted. A
checkpoint, which computes a layer again in the backward pass, drops the same elements: the key
comes from outside the layer, so the state of a generator does not have to be saved.
"""

import torch
from torch.utils.checkpoint import checkpoint

import ridgeline as rl


class Dropout(torch.autograd.Function):
    """``Dropout.apply(x, p, key, broadcast_axes)``: `ridgeline.dropout` with a gradient."""

    @staticmethod
    def forward(ctx, x, p, key, broadcast_axes=()):
        """Drop elements, and remember p, the key and the axes."""
        ctx.same = (p, key, broadcast_axes)
        return rl.dropout(x.detach(), p, key, broadcast_axes=broadcast_axes)

    @staticmethod
    def backward(ctx, dy):
        """Drop the same elements of the gradient."""
        p, key, broadcast_axes = ctx.same
        return rl.dropout(dy, p, key, broadcast_axes=broadcast_axes), None, None, None


def saved_bytes(function, x):
    """Return the bytes of the tensors that autograd keeps for the backward pass."""
    saved = []

    def pack(tensor):
        saved.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(x)
    return sum(saved)


def main():
    key = rl.Key(0)
    x = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    for axes in ((), 1, (0, 2)):
        assert torch.autograd.gradcheck(lambda x, a=axes: Dropout.apply(x, 0.4, key, a), x)
    print("gradcheck: passed")

    x = torch.ones(1000, 1000, requires_grad=True)
    theirs = saved_bytes(lambda x: torch.nn.functional.dropout(x, 0.1), x)
    ours = saved_bytes(lambda x: Dropout.apply(x, 0.1, key), x)
    print(f"saved for {x.numel():,} elements of float32: torch {theirs:,} bytes, ridgeline {ours}")
    assert ours == 0

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    x = torch.randn(32, 64)

    def block(x):
        return Dropout.apply(torch.relu(layer(x)), 0.5, key.fold_in(1))

    block(x).square().sum().backward()
    direct = layer.weight.grad.clone()
    layer.weight.grad = None
    again = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
    again.square().sum().backward()
    difference = float((layer.weight.grad - direct).abs().max())
    print(f"gradient through a checkpoint: largest difference {difference}")
    assert difference == 0


if __name__ == "__main__":
    main()
