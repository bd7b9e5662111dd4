"""One call of pruning: its arguments resolved for each array, and the resulting masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from .. import _bits, _core
from .. import _checks as check
from .._environment import in_default_environment
from .._ranks import communicator, share_of_sum
from .._tree import (
    excluded,
    fixed,
    is_array,
    is_container,
    leaves,
    matched,
    paths,
    places,
    rebuilt,
)
from ..masks import Mask, MaskSet, _made, _no_mask
from ..structures import NM, Block, Channels, axis_of, grid_of
from ._ranking import Scores, Unit, units_of

if TYPE_CHECKING:
    from .._bits import Words
    from .._ranks import Communicator
    from .._tree import Exclude
    from ._ranking import Ranker

Fractions: TypeAlias = "float | Sequence[Any] | Mapping[Any, Any]"
Structure: TypeAlias = "NM | Block | Channels | None"
Scope: TypeAlias = Literal["tensor", "global"]
Normalize: TypeAlias = Literal["none", "l2", "rms"]
Of: TypeAlias = Literal["all", "remaining"]

_BINS = 2048

_CHECKS: dict[str, check.Check] = {
    "scope": check.one_of("tensor", "global"),
    "normalize": check.one_of("none", "l2", "rms"),
    "of": check.one_of("all", "remaining"),
    "structure": check.optional(
        check.instance(NM, Block, Channels, wants="NM, Block, Channels or None")
    ),
    "comm": check.optional(communicator),
}


@dataclass(kw_only=True)
class Request:
    """The arguments of a call other than the arrays and the sparsity; see `magnitude`."""

    scope: Scope = "tensor"
    structure: Structure = None
    mask: Mask | MaskSet | None = None
    exclude: Exclude = None
    normalize: Normalize = "none"
    of: Of = "all"
    min_sparsity: Fractions = 0.0
    max_sparsity: Fractions = 1.0
    comm: Communicator | None = None

    def __post_init__(self) -> None:
        for name, checked in _CHECKS.items():
            checked(name, getattr(self, name))
        if self.scope == "global" and isinstance(self.structure, NM):
            raise ValueError(f"scope: got 'global', wants 'tensor' with {self.structure}")


def refuse(wants: str, **given: bool) -> None:
    """Raise for the first argument that is given and must not be."""
    for name, value in given.items():
        if value:
            raise ValueError(f"{name}: wants {wants}")


def masks_of(tree: Any, shapes: Any, words: Any) -> Mask | MaskSet:
    """Return the masks of the arrays of a tree."""
    return cast("Mask | MaskSet", rebuilt(tree, map(Mask._of, shapes, words), _made))


class Plan:
    """The arrays of a call, with the arguments resolved for each."""

    def __init__(self, ranker: Ranker, params: Any, request: Request) -> None:
        self.ranker, self.request = ranker, request
        self.tree = fixed(ranker.name, params)
        # The place of the array itself, or of the first that is the same memory; None: all differ.
        self.shapes, self.words, self.own = _core.start_pruning(ranker.name, self.tree)
        self.arrays = leaves(self.tree)
        self.sizes = list(map(math.prod, self.shapes))
        self.out = self._excluded()
        self.given = self._given(request.mask)
        self.low = self._bound("min_sparsity", request.min_sparsity, 0.0)
        self.high = self._bound("max_sparsity", request.max_sparsity, 1.0)
        if request.scope == "global":
            self._tie()
            if request.comm is not None and (self.low or self.high):
                raise ValueError("comm: got one, wants none with min_sparsity or max_sparsity")
        else:
            self.own = None
            refuse('scope="global"', normalize=request.normalize != "none",
                   comm=request.comm is not None, min_sparsity=self.low is not None,
                   max_sparsity=self.high is not None)  # fmt: skip

    # --- arguments ---

    @cached_property
    def places(self) -> list[str]:
        """The names of the arrays in errors."""
        return places(self.ranker.name, self.tree)

    def _excluded(self) -> list[bool] | None:
        exclude = self.request.exclude
        if exclude is None:
            return None
        return excluded(exclude, list(zip(paths(self.tree), self.arrays, strict=True)))

    def _given(self, mask: Mask | MaskSet | None) -> list[Mask] | None:
        """Return the mask of each array."""
        if mask is None:
            return None
        if not isinstance(mask, Mask | MaskSet):
            raise TypeError(f"mask: got {_no_mask(mask, 'a Mask or MaskSet')}")
        one = is_array(self.tree)
        if one != isinstance(mask, Mask):
            wants = "a Mask for one array" if one else "a MaskSet for many arrays"
            raise ValueError(
                f"mask: got a {'MaskSet' if isinstance(mask, MaskSet) else 'Mask'}, wants {wants}"
            )
        masks: list[Mask] = matched(self.tree, mask, "mask", self.ranker.name)
        for i, (shape, own) in enumerate(zip(self.shapes, masks, strict=True)):
            if own.shape != shape:
                raise ValueError(
                    f"{self.places[i]}: got shape {shape}, wants {own.shape}, that of the mask"
                )
        return masks

    def _fractions(self, name: str, value: Any) -> list[float]:
        """Return the fraction of each array."""
        if is_container(value):
            found = matched(self.tree, value, name, self.ranker.name)
            return list(map(check.fraction, places(name, self.tree), found))
        return [check.fraction(name, value)] * len(self.arrays)

    def _bound(self, name: str, value: Any, neutral: float) -> list[float] | None:
        """Return the bound of each array; None if it has no effect."""
        if value == neutral and isinstance(value, float):
            return None
        bounds = self._fractions(name, value)
        return None if bounds.count(neutral) == len(bounds) else bounds

    def _tie(self) -> None:
        """Merge tied weights into one array, to which all arguments about them apply."""
        for i, own in enumerate(self.own or ()):
            if own == i:
                continue
            if self.out is not None:
                self.out[own] = self.out[own] or self.out[i]
            if self.low is not None:
                self.low[own] = max(self.low[own], self.low[i])
            if self.high is not None:
                self.high[own] = min(self.high[own], self.high[i])
            if self.given is not None:
                self.given[own] = self.given[own] & self.given[i]

    # --- masks ---

    @in_default_environment
    def masks(self, sparsity: Any) -> Mask | MaskSet:
        """Return the masks."""
        if sparsity is None and not isinstance(self.request.structure, NM):
            raise TypeError("sparsity: got None, wants a fraction in [0, 1]")
        pruned = self._pruned()
        if isinstance(self.request.structure, NM):
            self._n_of_m(self.request.structure, sparsity, pruned)
        else:
            self._lowest(sparsity, pruned)
        return self._finished()

    def _pruned(self) -> Sequence[int]:
        """Return the places of the arrays to prune; fill in the masks of excluded arrays."""
        if self.out is None and self.own is None:
            return range(len(self.arrays))
        once: Sequence[int] = range(len(self.arrays))
        if self.own is not None:
            once = [i for i, own in enumerate(self.own) if i == own]
        if self.out is None:
            return once
        for i in once:
            if self.out[i]:
                self._write_given(i)
        return [i for i in once if not self.out[i]]

    def _write_given(self, i: int) -> None:
        self.words[i][:] = _bits.full(self.sizes[i]) if self.given is None else self.given[i]._words

    def _finished(self) -> Mask | MaskSet:
        words = self.words if self.own is None else [self.words[own] for own in self.own]
        return masks_of(self.tree, self.shapes, words)

    def _n_of_m(self, structure: NM, sparsity: Any, pruned: Sequence[int]) -> None:
        for fraction in [] if sparsity is None else self._fractions("sparsity", sparsity):
            if abs(fraction - structure.sparsity) > 1e-12:
                raise ValueError(
                    f"sparsity: got {fraction}, wants {structure.sparsity} or none for {structure}"
                )
        axes = [axis_of(self.places[i], structure.axis, len(self.shapes[i])) for i in pruned]
        self.ranker.start([self.sizes[i] for i in pruned], None)
        for at, (i, axis) in enumerate(zip(pruned, axes, strict=True)):
            shape = self.shapes[i]
            outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
            groups = (outer, shape[axis], inner, structure.n, structure.m)
            among = None if self.given is None else self.given[i]._words
            self.ranker.n_of_m(at, self.arrays[i], groups, among, self.words[i])

    def _units(self, pruned: Sequence[int]) -> list[Unit]:
        """Return the units to rank of each array."""
        request = self.request
        arrays, sizes, words = self.arrays, self.sizes, self.words
        if not isinstance(pruned, range):
            arrays, sizes, words = ([each[i] for i in pruned] for each in (arrays, sizes, words))
        among: Any = repeat(None)
        alive = sizes
        if self.given is not None:
            given = [self.given[i]._words for i in pruned]
            alive = _core.count_bits(given)
            among = [None if n == all else own
                     for n, all, own in zip(alive, sizes, given, strict=True)]  # fmt: skip
        units = units_of(zip(arrays, sizes, words, among, alive, repeat(1.0), repeat(None)))
        if request.structure is not None:
            units = [self._blocks(i, unit) for i, unit in zip(pruned, units, strict=True)]
        if request.normalize != "none":
            units = [unit._replace(divisor=self._divisor(unit)) for unit in units]
        return units

    def _blocks(self, i: int, unit: Unit) -> Unit:
        """Return the unit of the blocks of an array."""
        structure, shape = cast("Block | Channels", self.request.structure), self.shapes[i]
        block = structure._block(self.places[i], shape)
        size = grid_of(shape, block)
        norms = self.ranker.norms(unit.array, block, structure.ord, unit.among, size)
        among, alive = None, size
        if unit.among is not None:
            among = np.zeros((size + 63) // 64, np.uint64)
            _core.prune_gather(list(shape), list(block), unit.among, among)
            alive = _bits.count(among)
        return Unit(norms, size, _bits.blank(size), among, alive, 1.0, block)

    def _divisor(self, unit: Unit) -> float:
        """Return the divisor of the scores of an array."""
        if unit.size == 0:
            return 1.0
        if unit.among is None:
            norm = _core.global_norm(unit.array, 2.0)
        else:
            whole = [max(n, 1) for n in unit.array.shape]
            ranker = Scores(self.ranker.name, True)
            norm = float(ranker.norms(unit.array, whole, 2.0, unit.among, 1)[0])
        if norm == 0 or not math.isfinite(norm):
            return 1.0
        return norm if self.request.normalize == "l2" else norm / math.sqrt(unit.size)

    def _going(self, fraction: float, size: int, alive: int) -> int:
        """Return the number to prune of the units that take part."""
        if self.request.of == "remaining":
            return round(fraction * alive)
        return max(round(fraction * size) - (size - alive), 0)

    def _lowest(self, sparsity: Any, pruned: Sequence[int]) -> None:
        request = self.request
        if request.scope == "global":
            total = check.fraction("sparsity", sparsity)
        else:
            fractions = self._fractions("sparsity", sparsity)
        units = self._units(pruned)
        self.ranker.start([unit.size for unit in units], request.comm)
        if request.scope == "tensor":
            self.ranker.select(
                units,
                [self._going(fractions[i], unit.size, unit.alive)
                 for i, unit in zip(pruned, units, strict=True)],
            )  # fmt: skip
        elif request.comm is not None:
            self._over_ranks(request.comm, total, units)
        else:
            size = sum(unit.size for unit in units)
            count = self._going(total, size, sum(unit.alive for unit in units))
            if self.low is None and self.high is None:
                self.ranker.select(units, count)
            else:
                self._within_bounds(count, pruned, units)
        if request.structure is not None:
            for i, unit in zip(pruned, units, strict=True):
                _core.prune_spread(list(self.shapes[i]), list(unit.block or ()), unit.words,
                                   self.words[i])  # fmt: skip
                if self.given is not None:
                    self.words[i] &= self.given[i]._words

    def _bounds_of(self, pruned: Sequence[int], units: list[Unit], count: int) -> Any:
        """Return the least and the most elements of each array to prune."""
        low, high = (
            [max(round((own[i] if own else neutral) * unit.size) - (unit.size - unit.alive), 0)
             for i, unit in zip(pruned, units, strict=True)]
            for own, neutral in ((self.low, 0.0), (self.high, 1.0))
        )  # fmt: skip
        for at, i in enumerate(pruned):
            if low[at] > high[at]:
                raise ValueError(
                    f"min_sparsity: got {(self.low or [])[i]} for {self.places[i]}, wants at most "
                    f"max_sparsity, which is {self.high[i] if self.high else 1.0}"
                )
        if not sum(low) <= count <= sum(high):
            size = sum(unit.size for unit in units)
            gone = size - sum(unit.alive for unit in units)
            raise ValueError(
                f"sparsity: got {gone + count} of {size} to go, wants "
                f"{gone + sum(low)} to {gone + sum(high)} within min_sparsity and max_sparsity"
            )
        return low, high

    def _within_bounds(self, count: int, pruned: Sequence[int], units: list[Unit]) -> None:
        """Rank all arrays together, but each within its bounds.

        Those whose share falls outside get the bound, beginning with the side that is off by more;
        the others share the rest, until all shares lie within.
        """
        low, high = self._bounds_of(pruned, units, count)
        share: dict[int, int] = {}
        free = list(range(len(units)))
        while free:
            self.ranker.select(units, count - sum(share.values()), free)
            kept = _core.count_bits([units[i].words for i in free])
            counts = {i: units[i].alive - n for i, n in zip(free, kept, strict=True)}
            under = [i for i in free if counts[i] < low[i]]
            over = [i for i in free if counts[i] > high[i]]
            lacking = sum(low[i] - counts[i] for i in under)
            excess = sum(counts[i] - high[i] for i in over)
            if lacking >= excess:
                share.update({i: low[i] for i in under})
            if excess >= lacking:
                share.update({i: high[i] for i in over})
            if not under and not over:
                share.update(counts)
            free = [i for i in free if i not in share]
        self.ranker.select(units, [share[i] for i in range(len(units))])

    def _over_ranks(self, comm: Communicator, fraction: float, units: list[Unit]) -> None:
        """Rank the arrays of all ranks together: add the bins of all, until a bin is one key."""
        own = sum(unit.alive for unit in units)
        _, size = share_of_sum(comm, sum(unit.size for unit in units))
        _, alive = share_of_sum(comm, own)
        count = self._going(fraction, size, alive)
        if count <= 0 or count >= alive:
            self.ranker.select(units, 0 if count <= 0 else own)
            return
        low, shift = self.ranker.window
        while True:
            bins = np.zeros(_BINS, np.int64)
            below = self.ranker.histogram(units, low, shift, bins)
            total = np.array(comm.allgather([below, *bins.tolist()])).sum(axis=0)
            less = int(total[0]) + np.concatenate([[0], np.cumsum(total[1:])])
            bin_ = int(np.searchsorted(less, count, side="left")) - 1
            low += bin_ << shift
            if shift == 0:
                break
            shift = max(shift - 11, 0)
        mine = int(bins[bin_])
        before, equal = share_of_sum(comm, mine)
        ties = equal - (count - int(less[bin_]))  # those of this key that are kept
        self.ranker.at_key(units, low + 1, min(max(ties - before, 0), mine))

    # --- rows ---

    @in_default_environment
    def masks_of_rows(self, sparsity: Any) -> Mask | MaskSet:
        """Return masks in which each row is ranked separately."""
        if sparsity is None:
            raise TypeError("sparsity: got None, wants a fraction in [0, 1]")
        refuse("no structure with per_row", structure=self.request.structure is not None)
        refuse('scope="tensor" with per_row', scope=self.request.scope == "global")
        fractions = self._fractions("sparsity", sparsity)
        for i, (shape, size) in enumerate(zip(self.shapes, self.sizes, strict=True)):
            if size == 0 or (self.out is not None and self.out[i]):
                self._write_given(i)
                continue
            if not shape:
                raise ValueError(f"{self.places[i]}: got no axis, wants rows")
            length = size // shape[0]
            among = None if self.given is None else self.given[i]._words
            alive = np.full(shape[0], length) if among is None else _alive(among, length, shape[0])
            if self.request.of == "remaining":
                counts = np.rint(fractions[i] * alive).astype(np.int64)
            else:
                counts = round(fractions[i] * length) - (length - alive)
            _core.prune_rows(
                self.ranker.name, self.arrays[i], length, counts, self.words[i], among, False
            )
        return self._finished()


def _alive(among: Words, length: int, rows: int) -> Any:
    """Return the number of set bits of each row, working in small parts."""
    step = 64 * max(2**14 // length, 1)  # a multiple of 64 rows ends with a word
    return np.concatenate(
        [
            np.count_nonzero(
                _bits.unpacked(among[i * length // 64 :], min(step, rows - i) * length).reshape(
                    -1, length
                ),
                axis=1,
            )
            for i in range(0, rows, step)
        ]
    )
