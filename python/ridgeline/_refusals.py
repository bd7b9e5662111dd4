"""Error texts for objects that are not usable arrays: what they are, and what to do instead."""

from __future__ import annotations

import sys
from array import array
from typing import Any

_ARRAY = "an array (NumPy, or anything with __dlpack__ in CPU memory)"


def reason(x: Any, writing: bool, cause: str) -> str:
    """Return "got ..., wants ..." for an object, from what it is.

    `cause` is why a library would not show the memory of an array of its own.
    """
    name = _name(type(x))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _of_tensor(torch, x, name, writing, cause)
    if torch is not None and isinstance(x, torch.nn.Module):
        if writing:
            return (
                f"got {name}, a module, wants arrays: for parameters its .parameters(), for "
                "gradients [p.grad for p in module.parameters()]"
            )
        return f"got {name}, a module, wants arrays: its .parameters()"
    if any(_name(t).startswith("jax.") and t.__name__ == "Tracer" for t in type(x).__mro__):
        return (
            f"got {name}, which jax traces, wants an array with values: call it outside of "
            "jax.jit, jax.grad and jax.vmap, or through jax.pure_callback"
        )
    way = _way(x)
    if way is not None and writing:
        return f"got {name}, wants {_ARRAY}: write to one from {way}, then put it back"
    if way is not None:
        return f"got {name}, wants {_ARRAY}, such as {way}"
    if isinstance(x, memoryview | array):
        return f"got {name}, wants {_ARRAY}, such as np.asarray(x), which shares its memory"
    if type(x).__name__ == "method" and x.__name__ in ("parameters", "buffers"):
        return f"got the method {x.__name__}, wants arrays: call it, .{x.__name__}()"
    if cause:
        return f"got {name} that offers no view of CPU memory ({cause}), wants {_ARRAY}"
    return f"got {name}, wants {_ARRAY}, or a list, tuple or dict of arrays"


def _name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _way(x: Any) -> str | None:
    """Return how to make an array from an array-like object."""
    for method in ("to_numpy", "toarray", "todense"):
        if callable(getattr(x, method, None)):
            return f"its .{method}()"
    if hasattr(x, "shape") and hasattr(x, "dtype") and type(x).__module__.startswith("h5py"):
        return "its dataset[...]"
    return None


def _of_tensor(torch: Any, x: Any, name: str, writing: bool, cause: str) -> str:
    """Return the same for a tensor of torch whose memory cannot be seen."""
    if hasattr(type(x), "cls_to_become"):
        return (
            f"got {name}, a parameter without a shape, wants one that is initialized: run its "
            "module once"
        )
    kind = type(x).__name__
    if kind == "FakeTensor":
        return (
            f"got {name}, which torch traces (torch.export, make_fx or a FakeTensorMode), wants a "
            "tensor with values: call it outside"
        )
    if kind == "DTensor":
        return (
            f"got {name}, a part of which is on each rank, wants a tensor: .to_local() is the part "
            "of this rank"
        )
    if kind == "MaskedTensor":
        return f"got {name}, wants a plain tensor"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return (
            f"got {name} inside torch.vmap, torch.func.grad or another transform, wants a plain "
            "tensor: call it outside of the transform"
        )
    if x.is_meta:
        return f"got {name} on the meta device, which has no values, wants one in CPU memory"
    if x.is_nested:
        return f"got {name} that is nested, wants plain tensors: .unbind()"
    if x.is_quantized:
        return f"got {name} of {x.dtype}, wants float32, float64, bfloat16 or float16"
    if x.layout is not torch.strided:
        dense = "put its .to_dense() in its place" if writing else ".to_dense()"
        return f"got {name} with layout {x.layout}, wants a dense one: {dense}"
    if cause == "it has no memory":
        return f"got {name} without memory, wants an array in CPU memory"
    return f"got {name} that offers no view of CPU memory ({cause}), wants one in CPU memory"
