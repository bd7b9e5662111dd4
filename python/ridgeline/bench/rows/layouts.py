"""The sets of arrays that operations run on: those of `shapes.def`, which the C++ suite has too."""

from __future__ import annotations

from dataclasses import dataclass

from .shapes import BYTES, SIZES


@dataclass(frozen=True)
class Layout:
    """A set of arrays; `single`: the one array itself is the argument, not a list.

    ``bytes`` in place of ``sizes``: of the one array, of whatever dtype.
    """

    name: str
    sizes: tuple[int, ...] = ()
    single: bool = True
    bytes: int = 0

    def elements(self, itemsize: int) -> tuple[int, ...]:
        """Return the numbers of elements of the arrays."""
        return (self.bytes // itemsize,) if self.bytes else self.sizes


TINY = Layout("256", (256,))  # where the cost of a call itself counts
CACHE_1, CACHE_2, MEMORY = (Layout(name, bytes=size) for name, size in BYTES.items())
RESNET, GPT2, THOUSAND = (
    Layout(name, SIZES[name], single=False) for name in ("resnet50", "gpt2", "1000x256")
)
EMBEDDING = Layout("embedding", SIZES["embedding"], single=False)
WORKLOADS = (RESNET, GPT2, THOUSAND, EMBEDDING)  # the parameters of models
# What dropout sees: 256 samples before ResNet-50's last layer, 8 texts of 1,024 in GPT-2.
ACTIVATIONS = (
    Layout("resnet50-activations", (256 * 2048,)),
    Layout("gpt2-activations", (8 * 1024 * 768,)),
)
