"""Rankings of elements: by value, or by random bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast

import numpy as np

from .. import _bits, _core
from .._ranks import share_of_sum
from ..random import check_key

if TYPE_CHECKING:
    from .._bits import Words
    from .._ranks import Communicator
    from .._typing import SupportsDLPack
    from ..random import Key


Groups: TypeAlias = tuple[int, int, int, int, int]  # outer, length, inner, n, m


class Unit(NamedTuple):
    """The units of one array that are ranked: its elements, or the norms of its blocks."""

    array: Any
    size: int
    words: Words  # the bits to come
    among: Words | None  # the bits of those that take part; None for all
    alive: int  # how many take part
    divisor: float
    block: tuple[int, ...] | None  # the extents of a block


def units_of(columns: Iterable[tuple[Any, ...]]) -> list[Unit]:
    """Return units from tuples of their fields, four times as fast as the constructor."""
    return list(map(partial(tuple.__new__, Unit), columns))


class Ranker(Protocol):
    """Ranks units, and writes the bits of those that are kept.

    ``name`` is the argument of the arrays. ``window`` is the key below all others, and the shift of
    keys that leaves a number of a bin.
    """

    name: str
    window: tuple[int, int]

    def start(self, sizes: Sequence[int], comm: Communicator | None) -> None:
        """Take the sizes of all units; with a communicator, of this rank's."""

    def norms(self, array: Any, block: Sequence[int], ord: float, among: Words | None,
              blocks: int) -> Any:  # fmt: skip
        """Return an array to rank blocks by."""

    def select(
        self, units: list[Unit], count: int | list[int], which: Sequence[int] | None = None
    ) -> None:
        """Prune `count` of the units together, or a count of each; `which` are some of them."""

    def n_of_m(self, at: int, array: Any, groups: Groups, among: Words | None,
               words: Words) -> None:  # fmt: skip
        """Keep n of every m elements of unit `at`."""

    def histogram(self, units: list[Unit], low: int, shift: int, bins: Any) -> int:
        """Count keys up to low, and those above in bins."""

    def at_key(self, units: list[Unit], key: int, ties: int) -> None:
        """Keep units above a key, and the first `ties` of those equal to it."""


def _signed(up: Any, down: Any, ord: float) -> Any:
    """Return the signed ord-th root of up**ord - down**ord."""
    if ord == 1:
        return up - down
    large, small = np.maximum(up, down), np.minimum(up, down)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (1 - (small / large) ** ord) ** (1 / ord)
    return np.where(large > 0, np.copysign(large * left, up - down), large)


@dataclass
class Scores:
    """Arrays that are ranked by value or magnitude."""

    name: str
    magnitude: bool
    window: tuple[int, int] = (-(2**63), 53)

    def start(self, sizes: Sequence[int], comm: Communicator | None) -> None:
        """Nothing to prepare."""

    def norms(self, array: SupportsDLPack, block: Sequence[int], ord: float, among: Words | None,
              blocks: int) -> Any:  # fmt: skip
        """Return the norm of each block; of scores with a sign, `_signed`."""
        if self.magnitude:
            return self._norms(array, block, ord, among, blocks)
        size = math.prod(cast("Any", array).shape)
        part = _bits.blank(size)
        # From the key of -0 and 0 on.
        _core.prune_at_key(self.name, [array], [part], [among], [1.0], False, -1, 0)
        if _bits.count(part) == (size if among is None else _bits.count(among)):
            return self._norms(array, block, ord, among, blocks)
        up = self._norms(array, block, ord, part, blocks)
        part ^= np.uint64(2**64 - 1) if among is None else among
        _bits.cut(part, size)
        down = self._norms(array, block, ord, part, blocks)
        return _signed(up, down, ord)

    def _norms(self, array: SupportsDLPack, block: Sequence[int], ord: float, among: Words | None,
               blocks: int) -> Any:  # fmt: skip
        """Return the norm of each block."""
        norms = np.empty(blocks)
        _core.prune_block_powers(self.name, array, list(block), ord, among, None, norms)
        if ord == math.inf:
            return norms
        # Powers of float32 numbers up to the 6th neither overflow nor vanish in float64.
        wide = ord > 6 or "float64" in str(cast("Any", array).dtype)
        far = (norms > 1e280) | (norms < 1e-280) if wide else np.False_
        if ord != 1:
            np.power(norms, 1 / ord, out=norms)
        if np.any(far):
            largest, scaled = np.empty(blocks), np.empty(blocks)
            _core.prune_block_powers(self.name, array, list(block), math.inf, among, None, largest)
            _core.prune_block_powers(self.name, array, list(block), ord, among, largest, scaled)
            finite = (largest > 0) & np.isfinite(largest)
            np.copyto(norms, largest, where=far & ~finite)
            with np.errstate(invalid="ignore"):
                np.copyto(norms, largest * scaled ** (1 / ord), where=far & finite)
        return norms

    def select(
        self, units: list[Unit], count: int | list[int], which: Sequence[int] | None = None
    ) -> None:
        """Prune `count` of the units together, or a count of each."""
        some = units if which is None else [units[i] for i in which]
        arrays, words, among, divisors = _columns(some)
        _core.prune_select(self.name, arrays, count, words, among, divisors, self.magnitude)

    def n_of_m(self, at: int, array: Any, groups: Groups, among: Words | None,
               words: Words) -> None:  # fmt: skip
        """Keep n of every m elements."""
        _core.prune_n_of_m(self.name, array, *groups, self.magnitude, among, words)

    def histogram(self, units: list[Unit], low: int, shift: int, bins: Any) -> int:
        """Count keys up to low, and those above in bins."""
        arrays, _, among, divisors = _columns(units)
        return _core.prune_histogram(
            self.name, arrays, among, divisors, self.magnitude, low, shift, bins
        )

    def at_key(self, units: list[Unit], key: int, ties: int) -> None:
        """Keep units above a key, and some of those equal to it."""
        arrays, words, among, divisors = _columns(units)
        _core.prune_at_key(self.name, arrays, words, among, divisors, self.magnitude, key, ties)


def _columns(units: list[Unit]) -> tuple[Any, Any, Any, list[float] | None]:
    """Return arrays, words, the bits of units that take part, and divisors if there are any."""
    if not units:
        return [], [], [], None
    arrays, _, words, among, _, divisors, _ = zip(*units, strict=True)
    plain = divisors.count(1.0) == len(divisors)
    return list(arrays), list(words), list(among), None if plain else list(divisors)


@dataclass
class Random:
    """Units that are ranked by the random bits of their index."""

    key: Key | None
    name: str = "params"
    window: tuple[int, int] = (-1, 21)
    first: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_key(self.key)

    def start(self, sizes: Sequence[int], comm: Communicator | None) -> None:
        """Number the units, after those of the ranks before."""
        before = 0 if comm is None else share_of_sum(comm, sum(sizes))[0]
        self.first = [*accumulate(sizes[:-1], initial=before)]

    def norms(self, array: SupportsDLPack, block: Sequence[int], ord: float, among: Words | None,
              blocks: int) -> Any:  # fmt: skip
        """Return an array of as many units; it is not read."""
        return np.broadcast_to(np.float32(0), (blocks,))

    def select(
        self, units: list[Unit], count: int | list[int], which: Sequence[int] | None = None
    ) -> None:
        """Prune `count` of the units together, or a count of each."""
        places = range(len(units)) if which is None else which
        if not isinstance(count, int):
            for i, n in zip(places, count, strict=True):
                self._select(units[i : i + 1], i, n)
            return
        if not places:
            return
        taken, span = set(places), range(places[0], places[-1] + 1)
        # Those in between take part as arrays of which nothing is left.
        self._select(
            [units[i] if i in taken else _left_out(units[i]) for i in span], span[0], count
        )

    def _select(self, units: list[Unit], at: int, count: int) -> None:
        arrays, words, among, _ = _columns(units)
        _core.prune_random(arrays, self.key, self.first[at], count, words, among)

    def n_of_m(self, at: int, array: Any, groups: Groups, among: Words | None,
               words: Words) -> None:  # fmt: skip
        """Keep n of every m elements."""
        _core.prune_random_n_of_m(*groups, self.key, self.first[at], among, words)

    def histogram(self, units: list[Unit], low: int, shift: int, bins: Any) -> int:
        """Count keys up to low, and those above in bins."""
        arrays, _, among, _ = _columns(units)
        first = self.first[0] if self.first else 0
        return _core.prune_random_histogram(
            arrays, self.key, first, among, max(low, -1), shift, bins
        )

    def at_key(self, units: list[Unit], key: int, ties: int) -> None:
        """Keep units above a key, and some of those equal to it."""
        arrays, words, among, _ = _columns(units)
        first = self.first[0] if self.first else 0
        _core.prune_random_at_key(arrays, self.key, first, words, among, key, ties)


def _left_out(unit: Unit) -> Unit:
    nothing = np.zeros_like(unit.words)
    return unit._replace(words=nothing.copy(), among=nothing)
