"""The memory of arrays of any library, as NumPy sees it."""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np
import numpy.typing as npt


def is_jax(array: object) -> bool:
    """Return whether it is an array of JAX."""
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
