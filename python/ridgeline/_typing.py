"""Types of arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar


class SupportsDLPack(Protocol):
    """An array that another library can look at: NumPy's, PyTorch's, JAX's."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> Any: ...


ArrayT = TypeVar("ArrayT", bound=SupportsDLPack)


class HasParameters(Protocol):
    """A module, whose parameters have names: PyTorch's."""

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterable[tuple[str, Any]]: ...


Tree: TypeAlias = SupportsDLPack | Iterable["Tree"] | Mapping[Any, "Tree"]
# None stands for a gradient that is not there.
Gradients: TypeAlias = SupportsDLPack | Iterable["Gradients"] | Mapping[Any, "Gradients"] | None
ManyArrays: TypeAlias = Iterable[Tree] | Mapping[Any, Tree] | HasParameters
Parameters: TypeAlias = Tree | HasParameters
