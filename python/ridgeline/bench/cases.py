"""What is measured: each operation once, on each set of arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ridgeline as rl
from ridgeline import _core, reference

from .peers import L1, L2, Implementation, peers

Numbers = tuple[Any, ...]
CallNumbers = Callable[[list[float]], Iterator[Numbers]]  # from the norms of the arrays

FLOOR = "empty call"
CALLS = 1000  # at most, in one run: arguments may change from call to call


@dataclass(frozen=True)
class Layout:
    """A set of arrays; `single`: the one array itself is the argument, not a list."""

    name: str
    sizes: tuple[int, ...]
    single: bool = True

    @property
    def elements(self) -> int:
        """Elements in all arrays."""
        return sum(self.sizes)

    def reduced(self) -> Layout:
        """Return the same arrays cut to a size that is quickly checked."""
        return Layout(self.name, tuple(min(n, 100_003) for n in self.sizes), self.single)


def _resnet50() -> Iterator[int]:
    """The parameters of ResNet-50 (He et al. 2016), as torchvision has them."""

    def convolution(out: int, into: int, side: int) -> Iterator[int]:
        yield from (out * into * side * side, out, out)  # and its batch norm

    yield from convolution(64, 3, 7)
    into = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from convolution(width, into, 1)
            yield from convolution(width, width, 3)
            yield from convolution(4 * width, width, 1)
            if block == 0:
                yield from convolution(4 * width, into, 1)
            into = 4 * width
    yield from (1000 * 2048, 1000)


TINY = Layout("256", (256,))
CACHE_1 = Layout("16KiB", (2**12,))
CACHE_2 = Layout("512KiB", (2**17,))
MEMORY = Layout("64MiB", (2**24,))
RESNET = Layout("resnet50", tuple(_resnet50()), single=False)
THOUSAND = Layout("1000x256", (256,) * 1000, single=False)
LAYOUTS = (CACHE_1, CACHE_2, MEMORY, RESNET, THOUSAND)


@dataclass(frozen=True)
class Operation:
    """An operation on `arrays` sets of arrays (the gradients; and the parameters).

    ``numbers(norms)`` gives the other arguments, call by call. They move where data that has been
    clipped once would not be clipped again. ``passes`` is the memory traffic it cannot do without;
    None: only the overhead is measured.
    """

    name: str
    variant: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    passes: tuple[str, ...] | None
    numbers: CallNumbers
    arrays: int = 1
    writes: bool = True

    @property
    def full_name(self) -> str:
        """Name and variant."""
        return f"{self.name}/{self.variant}" if self.variant else self.name


def _always(*numbers: Any) -> CallNumbers:
    return lambda norms: itertools.repeat(numbers)


def _in_turn(*numbers: Numbers) -> CallNumbers:
    return lambda norms: itertools.cycle(numbers)


def _below_joint(norms: list[float]) -> Iterator[Numbers]:
    return ((math.hypot(*norms) * 0.995**k,) for k in itertools.count(1))


def _above_joint(norms: list[float]) -> Iterator[Numbers]:
    return itertools.repeat((2 * math.hypot(*norms),))


def _below_each(norms: list[float]) -> Iterator[Numbers]:
    return ((min(norms) * 0.995**k,) for k in itertools.count(1))


_PENALTY = rl.ElasticNet(L1, L2)
_REFERENCE = reference.ElasticNet(L1, L2)
_READ_WRITE = ("read", "rewrite")

OPERATIONS = (
    Operation("penalty_value", "", _PENALTY.value, _REFERENCE.value, None, _always(), writes=False),
    Operation(
        "penalty_gradient",
        "",
        _PENALTY.add_gradient_,
        _REFERENCE.add_gradient_,
        ("add",),
        _always(),
        arrays=2,
    ),
    Operation(
        "prox_l1",
        "",
        rl.L1(1.0).prox_,
        reference.L1(1.0).prox_,
        ("rewrite",),
        _always(1e-5),
    ),
    Operation(
        "clip_by_value",
        "nothing",
        rl.clip_by_value_,
        reference.clip_by_value_,
        ("read",),
        _always((-1e3, 1e3)),
    ),
    Operation(
        "clip_by_value",
        "everything",
        rl.clip_by_value_,
        reference.clip_by_value_,
        ("rewrite",),
        _in_turn(((10.0, 11.0),), ((-11.0, -10.0),)),
    ),
    Operation(
        "global_norm",
        "",
        rl.global_norm,
        reference.global_norm,
        ("read",),
        _always(),
        writes=False,
    ),
    Operation(
        "clip_by_global_norm",
        "clips",
        rl.clip_by_global_norm_,
        reference.clip_by_global_norm_,
        _READ_WRITE,
        _below_joint,
    ),
    Operation(
        "clip_by_global_norm",
        "within",
        rl.clip_by_global_norm_,
        reference.clip_by_global_norm_,
        ("read",),
        _above_joint,
    ),
    Operation(
        "clip_by_norm",
        "clips",
        rl.clip_by_norm_,
        reference.clip_by_norm_,
        _READ_WRITE,
        _below_each,
    ),
    Operation("clip_by_rms", "", rl.clip_by_rms_, reference.clip_by_rms_, None, _always(1e9)),
    Operation(
        "zero_largest",
        "",
        rl.zero_largest_,
        reference.zero_largest_,
        None,
        _always(1),
    ),
)


@dataclass(frozen=True)
class Case:
    """One operation on one set of arrays."""

    operation: Operation
    layout: Layout

    @property
    def overhead(self) -> bool:
        """Whether the cost of the call itself is what counts."""
        return self.layout is TINY

    @property
    def name(self) -> str:
        """What -k looks at."""
        name = self.operation.full_name
        return f"overhead/{name}" if self.overhead else f"{name}/{self.layout.name}"

    def implementations(self, compiled: bool) -> list[Implementation]:
        """List ridgeline, then the installed peers."""
        layout = self.layout
        found = [Implementation("ridgeline", self.operation.function)]
        found += peers(self.operation.name, layout.single, layout.elements, compiled)
        if self.overhead:
            found.append(Implementation(FLOOR, _core.nothing, "none"))
        return found


def cases() -> list[Case]:
    """List all cases."""
    measured = [Case(op, layout) for op in OPERATIONS if op.passes for layout in LAYOUTS]
    return measured + [Case(op, TINY) for op in OPERATIONS]


def select(words: str) -> list[Case]:
    """List the cases whose names hold all the words, in any order and case."""
    wanted = words.lower().split()
    return [case for case in cases() if all(word in case.name.lower() for word in wanted)]
