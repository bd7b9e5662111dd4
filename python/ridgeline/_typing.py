"""Types of arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar


class SupportsDLPack(Protocol):
    """An array that another library can look at: NumPy's, PyTorch's, JAX's."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=SupportsDLPack)
Tree: TypeAlias = SupportsDLPack | Iterable["Tree"] | Mapping[Any, "Tree"]
