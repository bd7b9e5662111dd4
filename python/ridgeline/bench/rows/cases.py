"""A case: an operation on a set of arrays of a dtype."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from ridgeline import _core

from ..peers.registry import Implementation, peers
from ..report.results import ITEMSIZES
from . import OPERATIONS, own
from .layouts import CACHE_2, MEMORY, TINY, WORKLOADS, Layout
from .operation import Operation

FLOOR = "empty call"
REFERENCE = 2**18  # elements up to which the reference is timed


@dataclass(frozen=True)
class Case:
    """One operation on one set of arrays."""

    operation: Operation
    layout: Layout
    dtype: str = "float32"

    @property
    def overhead(self) -> bool:
        """Whether the cost of the call itself is what counts."""
        return self.layout is TINY

    @property
    def workload(self) -> bool:
        """Whether the arrays are those of a model."""
        return self.layout in WORKLOADS or self.layout.name.endswith("-activations")

    @property
    def name(self) -> str:
        """What -k looks at."""
        return f"{self.operation.name}/{self.dtype}/{self.layout.name}"

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return ITEMSIZES[self.dtype]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each array."""
        return self.layout.elements(self.itemsize)

    @property
    def elements(self) -> int:
        """Elements in all arrays."""
        return sum(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes in each set of arrays."""
        return self.elements * self.itemsize

    @property
    def traffic(self) -> int | None:
        """Bytes that a call has to move."""
        if self.overhead or not self.operation.passes:
            return None
        moved = _core.memory_patterns()
        return round(sum(moved[pattern] for pattern in self.operation.passes) * self.bytes)

    def implementations(self, without: Container[str]) -> list[Implementation]:
        """List ours, the users' own, the reference, the peers but those without, an empty call."""
        operation = self.operation
        found = [
            Implementation(
                operation.own or "ridgeline", operation.function, operation.kind, role="ours"
            )
        ]
        found += own.beside(operation.name)
        if self.has_reference:
            found.append(Implementation("reference", operation.reference, role="reference"))
        if not operation.own:
            found += peers(
                operation.peers or operation.name,
                operation.recipe,
                operation.fair is not None,
                self.layout.single,
                self.elements,
                without,
                self.dtype,
            )
        if self.overhead:
            found.append(Implementation(FLOOR, _core.nothing, "none", role="floor"))
        return found

    @property
    def has_reference(self) -> bool:
        """Whether the reference, plain NumPy in float64, is timed: where that takes no minutes."""
        return self.elements <= REFERENCE


def cases() -> list[Case]:
    """List all cases: of the operations here, and of those that users registered."""
    found = []
    for op in (*OPERATIONS, *own.operations()):
        first, *others = op.dtypes
        layouts = op.layouts
        found += [Case(op, layout, first) for layout in layouts]
        found += [
            Case(op, layout, dtype)
            for dtype in others
            for layout in layouts
            if layout in (CACHE_2, MEMORY)
        ]
        if op.overhead:
            found.append(Case(op, TINY, first))
    return found


def select(words: str) -> list[Case]:
    """List the cases whose names hold all the words, in any order and case."""
    wanted = words.lower().split()
    return [case for case in cases() if all(word in case.name.lower() for word in wanted)]
