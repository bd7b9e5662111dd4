"""NumPy views of the memory of arrays of any library."""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np
import numpy.typing as npt


def is_jax(array: object) -> bool:
    """Return whether it is a JAX array."""
    return type(array).__module__.partition(".")[0] in ("jax", "jaxlib")


def torch_if(array: object) -> Any:
    """Return the torch module if the array is a tensor of it, else None."""
    torch: Any = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else None


def numpy_view(array: Any) -> npt.NDArray[Any]:
    """Return a view of the memory of an array; of a JAX array a copy that is not for writing."""
    if isinstance(array, np.ndarray):
        return array
    torch = torch_if(array)
    if torch is not None:
        tensor = array.detach()
        if tensor.dtype != torch.bfloat16:
            return cast("npt.NDArray[Any]", tensor.numpy())
        import ml_dtypes

        view = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return cast("npt.NDArray[Any]", view)
    return np.asarray(array) if is_jax(array) else np.from_dlpack(array)


def parameters_of(tree: Any) -> Any:
    """Return the parameters of a PyTorch module by name; anything else unchanged."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(tree, torch.nn.Module):
        return dict(tree.named_parameters())
    return tree


def memory_of(array: Any) -> object:
    """Return what is equal for arrays that are the same elements of memory, of some elements."""
    if isinstance(array, np.ndarray) and array.size:
        address = array.__array_interface__["data"][0]
        return address, array.shape, array.strides, array.dtype.str
    if torch_if(array) and array.numel():
        return array.data_ptr(), tuple(array.shape), array.stride(), array.dtype
    return id(array)
