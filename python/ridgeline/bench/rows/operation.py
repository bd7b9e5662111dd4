"""A row of the benchmark: an operation on sets of arrays, with everything needed to run it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import ridgeline as rl

from ..peers.optimizers import Recipe
from .fairness import Fair
from .layouts import CACHE_1, CACHE_2, MEMORY, RESNET, THOUSAND, Layout

Numbers = tuple[Any, ...]
CallNumbers = Callable[[list[float]], Iterator[Numbers]]  # from the norms of the arrays

GRADS, PARAMS, OUT, OUT_2 = "gradients", "parameters", "results", "more results"  # regions
ONE = (CACHE_1, CACHE_2, MEMORY)
TWO = (CACHE_2, MEMORY)
LAYOUTS = (*ONE, RESNET, THOUSAND)
DTYPES = ("float32", "float64", "bfloat16", "float16")
_FLOAT32 = ("float32",)


def always(*numbers: Any) -> CallNumbers:
    """Give every call the same numbers."""
    return lambda norms: itertools.repeat(numbers)


NO_NUMBERS = always()


def in_turn(*numbers: Numbers) -> CallNumbers:
    """Give calls these numbers in turn."""
    return lambda norms: itertools.cycle(numbers)


def keys(*numbers: Any) -> CallNumbers:
    """Give every call the numbers and a new key."""
    key = rl.Key(1)
    return lambda norms: ((*numbers, key.fold_in(k)) for k in itertools.count())


@dataclass(frozen=True)
class Operation:
    """An operation on sets of arrays.

    Two kinds of settings need an explanation. Data that has been clipped once would not be clipped
    again, so ``numbers`` may change from call to call. And peers that draw at random draw other
    numbers than ridgeline: ``fair`` decides whether theirs have the right distribution, while
    ridgeline's have to be those of the reference.
    """

    name: str
    function: Callable[..., Any]  # of ridgeline
    reference: Callable[..., Any]
    _: KW_ONLY
    family: str
    public: tuple[str, ...] = ()  # the part of the public interface that is called
    peers: str = ""  # its row in the peers' tables; by default the name

    # Arguments: one array, or a list of arrays, of each region, then the numbers.
    arrays: tuple[str, ...] = (GRADS,)
    takes_masks: bool = False  # the last argument are masks of the arrays, half of them pruned
    numbers: CallNumbers = NO_NUMBERS
    kind: str = "ridgeline"  # of arrays and numbers, see `peers.registry.Implementation`
    recipe: Recipe | None = None  # of an optimizer's step: then functions make the step

    # Effects
    passes: tuple[str, ...]  # memory traffic it cannot do without; () if no pattern has as much
    writes: bool = True  # to the gradients
    once: bool = False  # a second call would find other data: each run is one call
    makes_masks: bool = False  # only which elements the result keeps is compared
    results: tuple[float, ...] = ()  # new arrays it returns, in parts of the first argument's bytes

    # Checks
    fair: Fair | None = None
    tolerance: float = 0.0  # of ridgeline's random numbers against the reference's
    checked: int = 100_003  # elements of each array that are compared, at most

    # Data: every layout in the first dtype; CACHE_2 and MEMORY in the others.
    layouts: tuple[Layout, ...] = LAYOUTS
    dtypes: tuple[str, ...] = _FLOAT32
    shape: tuple[int, ...] = (-1,)
    overhead: bool = True  # also measured on 256 elements, for the cost of the call itself
    own: str = ""  # the name of a user's function

    @property
    def prunes(self) -> bool:
        """Whether it makes or applies masks."""
        return self.makes_masks or self.takes_masks

    @property
    def changes(self) -> bool:
        """Whether it changes the gradients to what they have to be."""
        return self.writes and self.fair is None and not self.takes_masks

    def reduced(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return sizes that are quickly checked; for statistics, no smaller."""
        unit = abs(math.prod(self.shape))
        most = 1000 * unit if self.fair and unit > 1 else self.checked // unit * unit
        return tuple(most if self.fair else min(n, most) for n in sizes)


# The defaults of rows that draw at random, and of rows that make masks.
draws = partial(
    Operation,
    family="dropout",
    arrays=(GRADS, OUT),
    passes=("copy",),
    writes=False,
    layouts=ONE,
    overhead=False,
)
makes_masks = partial(
    Operation,
    family="pruning",
    arrays=(PARAMS,),
    passes=("read",),
    writes=False,
    overhead=False,
    makes_masks=True,
)
