"""Which elements go: exactly so many, the lowest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from .. import _bits, _core
from .. import _checks as check
from .._arrays import memory_of
from .._bits import Words
from .._environment import in_default_environment
from .._ranks import share_of_sum
from .._tree import excluded, fixed, is_array, is_container, leaves, located, matched, places
from ..masks import Mask, MaskSet, _no_mask
from ..masks import _made as _set_made
from ..random import Key
from .structures import NM, Block, Channels, axis_of, grid_of

if TYPE_CHECKING:
    from .._ranks import Communicator
    from .._tree import Exclude
    from .._typing import SupportsDLPack, Tree

__all__ = ["by_score", "magnitude", "random", "random_shrink_"]

Fractions: TypeAlias = "float | Sequence[Any] | Mapping[Any, Any]"
Structure: TypeAlias = "NM | Block | Channels | None"
Scope: TypeAlias = Literal["tensor", "global"]
Normalize: TypeAlias = Literal["none", "l2", "rms"]
Of: TypeAlias = Literal["all", "remaining"]

_LOWEST = -(2**63)
_BINS = 2048


def magnitude(
    params: Tree,
    sparsity: Fractions | None = None,
    *,
    scope: Scope = "tensor",
    structure: Structure = None,
    mask: Mask | MaskSet | None = None,
    exclude: Exclude = None,
    normalize: Normalize = "none",
    of: Of = "all",
    min_sparsity: Fractions = 0.0,
    max_sparsity: Fractions = 1.0,
    comm: Communicator | None = None,
) -> Any:
    r"""Keep all but the elements of least magnitude (Han et al. 2015): exactly so many.

    Of n elements ``round(sparsity * n)`` go, rounded half to even. Those of least |w| go; of equal
    ones the last, so that a lower flat index is kept first, and an earlier array before a later
    one. -0 equals 0; NaN is as large as infinity. Nothing is written: `Mask.apply_` sets to 0.

    Parameters
    ----------
    params : array or tree of arrays, or torch.nn.Module
        Only read. A module is taken for the dict of its ``named_parameters()``.
    sparsity : float, or container of float like params
        The fraction that goes, in [0, 1]. A container, as from `budget`, has one for each array,
        for ``scope="tensor"``. With `NM` it may be left out.
    scope : {"tensor", "global"}
        ``"tensor"``: so many of each array. ``"global"``: of all arrays together; tied weights,
        the same memory in several places, are counted once and get the same mask in each.
    structure : NM, Block or Channels, optional
        What goes as a whole; n is then the number of blocks or slices, which are ranked by their
        norm.
    mask : Mask or MaskSet, optional
        What it prunes stays pruned, and is 0 in norms. A block or slice is gone if all of it is.
    exclude : str, int, iterable of them, or callable, optional
        Arrays that stay as they are and are not counted: names, patterns such as ``"*.bias"``, or
        indices (``"/"`` or ``"."`` between those of nested containers), or a function of name and
        array. Each name must be there, each pattern fit one.
    normalize : {"none", "l2", "rms"}
        For ``scope="global"``: what an array's scores are divided by before they are compared:
        their 2-norm, or their root mean square. A norm of 0, infinity or NaN divides nothing.
    of : {"all", "remaining"}
        Of what `sparsity` is a fraction: all elements, those that `mask` prunes among them (if it
        prunes more, nothing comes back); or those that `mask` keeps, torch's rule.
    min_sparsity, max_sparsity : float, or container of float like params
        For ``scope="global"``: bounds for each array. The total is exact.
    comm : object with ``allgather``, optional
        For ``scope="global"``: an mpi4py communicator, or the like. The arrays of all ranks are
        ranked together, in rank order; masks are of this rank's. Every rank must call.

    Returns
    -------
    Mask or MaskSet
        For one array a Mask; else a MaskSet like `params`.

    Raises
    ------
    TypeError
        If something is no array of a supported dtype in CPU memory, or no number.
    ValueError
        If a fraction is not in [0, 1], the bounds leave no solution, `exclude` has a name that no
        array has, an array has too few axes, `mask` has another structure or shape, or arguments
        do not go together.

    Notes
    -----
    A sample brackets the threshold, one pass over the arrays writes the bits and gathers what lies
    in the bracket. Memory beside the masks is below 6 % of the weights, but for `Block` and
    `Channels`, which hold 8 bytes for each block or slice. Where a sample misleads, or
    many elements are equal, passes that count divide the bracket: at most 7 readings of the
    arrays, 10 for float64.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([0.5, -2.0, 0.1, 1.0])
    >>> mask = rl.prune.magnitude(w, 0.5)
    >>> mask.apply_(w)
    >>> w
    array([ 0., -2.,  0.,  1.])
    >>> params = {"big": np.array([5.0, 6.0]), "small": np.array([1.0, 7.0])}
    >>> rl.prune.magnitude(params, 0.5, scope="global").to_array()
    {'big': array([False,  True]), 'small': array([False,  True])}
    """
    ranked = _Scores("params", magnitude=True)
    return _Pruning(
        ranked,
        params,
        scope,
        structure,
        mask,
        exclude,
        normalize,
        of,
        min_sparsity,
        max_sparsity,
        comm,
    ).masks(sparsity)


def by_score(
    scores: Tree,
    sparsity: Fractions | None = None,
    *,
    scope: Scope = "tensor",
    structure: Structure = None,
    mask: Mask | MaskSet | None = None,
    exclude: Exclude = None,
    normalize: Normalize = "none",
    of: Of = "all",
    min_sparsity: Fractions = 0.0,
    max_sparsity: Fractions = 1.0,
    per_row: bool = False,
    comm: Communicator | None = None,
) -> Any:
    """Keep all but the elements of lowest score: exactly so many.

    As `magnitude`, but for scores with a sign: the lowest go. Blocks and slices are ranked by the
    norm of their scores, in which negative ones count against positive ones: with ``ord=1`` by
    their sum, else by the signed root of the sum of sign(s) |s|^ord.

    Parameters
    ----------
    scores : array or tree of arrays
        Only read. Such as those of `scores`.
    sparsity, scope, structure, mask, exclude, normalize, of : optional
        As for `magnitude`.
    min_sparsity, max_sparsity : optional
        As for `magnitude`.
    per_row : bool, default False
        Rank each row (slice of axis 0) of each array on its own, as Wanda does (Sun et al. 2024);
        its reference rounds the number that goes down, here it is rounded half to even.
    comm : optional
        As for `magnitude`.

    Returns
    -------
    Mask or MaskSet
        For one array a Mask; else a MaskSet like `scores`.

    Raises
    ------
    TypeError, ValueError
        As for `magnitude`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.prune.by_score(np.array([-3.0, 1.0, 1.0, 2.0]), 0.5).to_array()
    array([False,  True, False,  True])
    >>> scores = np.array([[1.0, 2.0], [30.0, 40.0]])
    >>> rl.prune.by_score(scores, 0.5, per_row=True).to_array()
    array([[False,  True],
           [False,  True]])
    """
    if not isinstance(per_row, bool | np.bool_):
        raise TypeError(f"per_row: got {type(per_row).__name__}, wants a bool")
    pruning = _Pruning(
        _Scores("scores", magnitude=False),
        scores, scope, structure, mask, exclude, normalize, of, min_sparsity, max_sparsity, comm,
    )  # fmt: skip
    return pruning.masks_of_rows(sparsity) if per_row else pruning.masks(sparsity)


def random(
    params: Tree,
    sparsity: Fractions | None = None,
    key: Key | None = None,
    *,
    scope: Scope = "tensor",
    structure: Structure = None,
    mask: Mask | MaskSet | None = None,
    exclude: Exclude = None,
    of: Of = "all",
    min_sparsity: Fractions = 0.0,
    max_sparsity: Fractions = 1.0,
    comm: Communicator | None = None,
) -> Any:
    """Keep all but exactly so many elements, chosen at random.

    As `magnitude` with scores of 32 random bits: element i (block or slice i) of all that are not
    excluded has those by which `ridgeline.dropout` chooses at index i. The lowest go.

    Parameters
    ----------
    params : array or tree of arrays
        Only their shapes matter.
    sparsity : float, or container of float like params
        The fraction that goes, in [0, 1]. With `NM` it may be left out.
    key : Key
        Must be given. The same key gives the same masks, whatever the values, the target and the
        threads.
    scope, structure, mask, exclude, of, min_sparsity, max_sparsity, comm : optional
        As for `magnitude`. With `comm`, elements are numbered in rank order.

    Returns
    -------
    Mask or MaskSet
        For one array a Mask; else a MaskSet like `params`.

    Raises
    ------
    TypeError, ValueError
        As for `magnitude`; a TypeError if `key` is no Key.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> mask = rl.prune.random(np.zeros((100, 10)), 0.3, rl.Key(0))
    >>> mask.size - mask.count
    300
    """
    return _Pruning(
        _Random(key),
        params,
        scope,
        structure,
        mask,
        exclude,
        "none",
        of,
        min_sparsity,
        max_sparsity,
        comm,
    ).masks(sparsity)


def random_shrink_(params: Tree, strength: float, key: Key) -> None:
    """Shrink every element by a random part of itself, in place: w -= strength * u * w.

    u is uniform on [0, 1): that of ``random.uniform(n, key)`` for the n elements of all arrays, in
    list order. 0 stays 0, NaN stays, an infinity becomes NaN. As a parameter update it acts as
    under ``torch.no_grad()``.

    Parameters
    ----------
    params : array or tree of arrays
        Written.
    strength : float
        In [0, 1].
    key : Key
        A new one for each step.

    Raises
    ------
    TypeError
        If `key` is no Key, or something no array of a supported dtype in CPU memory.
    ValueError
        If `strength` is not in [0, 1], or an array is read-only or appears twice.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.ones(3)
    >>> rl.prune.random_shrink_(w, 0.5, rl.Key(0))
    >>> bool(np.all((w > 0.5) & (w <= 1.0)))
    True
    """
    _core.random_shrink_(params, strength, key)


def check_key(key: object, wants: str = "a ridgeline.Key") -> None:
    """Raise unless it is a Key."""
    if not isinstance(key, Key):
        number = isinstance(key, int | np.integer) and not isinstance(key, bool)
        hint = f", such as rl.Key({key})" if number else ""
        raise TypeError(f"key: got {type(key).__name__}, wants {wants}{hint}")


def _signed(up: Any, down: Any, ord: float) -> Any:
    """Return the signed ord-th root of up**ord - down**ord."""
    if ord == 1:
        return up - down
    large, small = np.maximum(up, down), np.minimum(up, down)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = (1 - (small / large) ** ord) ** (1 / ord)
    return np.where(large > 0, np.copysign(large * left, up - down), large)


@dataclass
class _Scores:
    """Arrays that are ranked by value or magnitude."""

    name: str
    magnitude: bool

    def start(self, sizes: list[int], comm: Communicator | None) -> None:
        """Nothing to prepare."""

    def norms(self, array: SupportsDLPack, block: Sequence[int], ord: float, among: Words | None,
              blocks: int) -> Any:  # fmt: skip
        """Return the norm of each block; of scores with a sign, `_signed`."""
        if self.magnitude:
            return self._norms(array, block, ord, among, blocks)
        size = math.prod(cast("Any", array).shape)
        part = _bits.blank([size])[0]
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

    def select(self, chosen: _Chosen, which: list[int], count: int | list[int]) -> None:
        """Prune so many of some arrays together, or of each."""
        _core.prune_select(
            self.name, [chosen.units[i] for i in which], count, [chosen.words[i] for i in which],
            [chosen.among[i] for i in which], [chosen.divisors[i] for i in which], self.magnitude,
        )  # fmt: skip

    def histogram(self, chosen: _Chosen, low: int, shift: int, bins: Any) -> int:
        """Count keys up to low, and those above in bins."""
        return _core.prune_histogram(
            self.name, chosen.units, chosen.among, chosen.divisors, self.magnitude, low, shift,
            bins,
        )  # fmt: skip

    def at_key(self, chosen: _Chosen, key: int, ties: int) -> None:
        """Keep what is above a key, and some of what equals it."""
        _core.prune_at_key(
            self.name, chosen.units, chosen.words, chosen.among, chosen.divisors, self.magnitude,
            key, ties,
        )  # fmt: skip


@dataclass
class _Random:
    """Units that are ranked by the random bits of their number."""

    key: Key | None
    name: str = "params"
    first: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_key(self.key)

    def start(self, sizes: list[int], comm: Communicator | None) -> None:
        """Number the units, after those of the ranks before."""
        before = 0 if comm is None else share_of_sum(comm, sum(sizes))[0]
        self.first = [*accumulate(sizes[:-1], initial=before)]

    def norms(self, array: SupportsDLPack, block: Sequence[int], ord: float, among: Words | None,
              blocks: int) -> Any:  # fmt: skip
        """Return an array of so many units; it is not read."""
        return np.broadcast_to(np.float32(0), (blocks,))

    def select(self, chosen: _Chosen, which: list[int], count: int | list[int]) -> None:
        """Prune so many of consecutive arrays together, or of each."""
        if isinstance(count, int):
            parts = [(which, count)]
        else:
            parts = [([i], n) for i, n in zip(which, count, strict=True)]
        for part, n in parts:
            _core.prune_random(
                [chosen.units[i] for i in part], self.key, self.first[part[0]] if part else 0, n,
                [chosen.words[i] for i in part], [chosen.among[i] for i in part],
            )  # fmt: skip

    def histogram(self, chosen: _Chosen, low: int, shift: int, bins: Any) -> int:
        """Count keys up to low, and those above in bins."""
        first = self.first[0] if self.first else 0
        return _core.prune_random_histogram(
            chosen.units, self.key, first, chosen.among, max(low, -1), shift, bins
        )

    def at_key(self, chosen: _Chosen, key: int, ties: int) -> None:
        """Keep what is above a key, and some of what equals it."""
        first = self.first[0] if self.first else 0
        _core.prune_random_at_key(
            chosen.units, self.key, first, chosen.words, chosen.among, key, ties
        )


@dataclass
class _Chosen:
    """Of the arrays that are pruned: what is ranked, what takes part, and the bits to come."""

    units: list[Any]
    sizes: list[int]
    among: list[Words | None]
    alive: list[int]
    divisors: list[float]
    words: list[Words]
    blocks: list[tuple[int, ...] | None]


class _Pruning:
    """One call: arguments checked, then masks."""

    def __init__(
        self,
        ranked: _Scores | _Random,
        params: Tree,
        scope: Scope,
        structure: Structure,
        mask: Mask | MaskSet | None,
        exclude: Exclude,
        normalize: Normalize,
        of: Of,
        min_sparsity: Fractions,
        max_sparsity: Fractions,
        comm: Communicator | None,
    ) -> None:
        for name, value, known in (
            ("scope", scope, ("tensor", "global")),
            ("normalize", normalize, ("none", "l2", "rms")),
            ("of", of, ("all", "remaining")),
        ):
            if value not in known:
                wants = ", ".join(map(repr, known))
                raise ValueError(f"{name}: got {value!r}, wants one of {wants}")
        if not isinstance(structure, NM | Block | Channels | None):
            kind = type(structure).__name__
            raise TypeError(f"structure: got {kind}, wants NM, Block, Channels or None")
        self.ranked, self.structure, self.normalize, self.of = ranked, structure, normalize, of
        self.whole = scope == "global"
        self.comm = comm
        if comm is not None and not hasattr(comm, "allgather"):
            raise TypeError(f"comm: got {type(comm).__name__}, wants an object with allgather")
        self.tree = fixed(ranked.name, params)
        _core.check_arrays(ranked.name, self.tree)
        self.arrays = leaves(self.tree)
        self.shapes = [
            x.shape if isinstance(x, np.ndarray) else tuple(map(int, x.shape)) for x in self.arrays
        ]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.out = [False] * len(self.arrays)
        if exclude is not None:
            self.out = excluded(
                exclude, [(path, array) for _, path, array in located(ranked.name, self.tree)]
            )
        self.given = self._masks_like(mask)
        # The place of the array itself, or of the one before it that is the same memory.
        self.own = list(range(len(self.arrays)))
        self.bounds = [
            self._fractions(name, value)
            for name, value in (("min_sparsity", min_sparsity), ("max_sparsity", max_sparsity))
        ]
        if self.whole:
            self._tie()
        self.bounded = any(self.bounds[0]) or any(value != 1 for value in self.bounds[1])
        if not self.whole:
            self._refuse('scope="global"', normalize=normalize != "none", comm=comm is not None,
                         min_sparsity=any(self.bounds[0]),
                         max_sparsity=any(value != 1 for value in self.bounds[1]))  # fmt: skip
        elif isinstance(structure, NM):
            raise ValueError(f"scope: got 'global', wants 'tensor' with {structure}")
        elif comm is not None and self.bounded:
            raise ValueError("comm: got one, wants none with min_sparsity or max_sparsity")

    def _tie(self) -> None:
        """Take tied weights once: pruned as one array, which all that is said of them holds for."""
        first: dict[object, int] = {}
        for i, array in enumerate(self.arrays):
            own = self.own[i] = first.setdefault(memory_of(array), i)
            self.out[own] = self.out[own] or self.out[i]
            for bound, narrower in zip(self.bounds, (max, min), strict=True):
                bound[own] = narrower(bound[own], bound[i])
            given = self.given[i]
            if own != i and given is not None:
                self.given[own] = cast("Mask", self.given[own]) & given

    @cached_property
    def places(self) -> list[str]:
        """What errors call the arrays."""
        return [place for place, _, _ in located(self.ranked.name, self.tree)]

    @staticmethod
    def _refuse(wants: str, **given: bool) -> None:
        for name, value in given.items():
            if value:
                raise ValueError(f"{name}: wants {wants}")

    def _masks_like(self, mask: Mask | MaskSet | None) -> list[Mask | None]:
        """Return the mask of each array."""
        if mask is None:
            return [None] * len(self.arrays)
        if not isinstance(mask, Mask | MaskSet):
            raise TypeError(f"mask: got {_no_mask(mask, 'a Mask or MaskSet')}")
        if is_array(self.tree) != isinstance(mask, Mask):
            wants = "a Mask for one array" if is_array(self.tree) else "a MaskSet for many arrays"
            kind = "Mask" if isinstance(mask, Mask) else "MaskSet"
            raise ValueError(f"mask: got a {kind}, wants {wants}")
        masks: list[Mask | None] = matched(self.tree, mask, "mask", self.ranked.name)
        for place, shape, own in zip(self.places, self.shapes, masks, strict=True):
            assert own is not None
            if own.shape != shape:
                raise ValueError(f"{place}: got shape {shape}, wants {own.shape}, that of the mask")
        return masks

    def _fractions(self, name: str, value: Any) -> list[float]:
        """Return the fraction of each array."""
        if is_container(value):
            found = matched(self.tree, value, name, self.ranked.name)
            places_of = places(name, self.tree)
            return [check.fraction(*pair) for pair in zip(places_of, found, strict=True)]
        return [check.fraction(name, value)] * len(self.arrays)

    @in_default_environment
    def masks(self, sparsity: Any) -> Any:
        """Return the masks."""
        words = _bits.blank(self.sizes)
        once = [i for i, own in enumerate(self.own) if i == own]
        pruned = [i for i in once if not self.out[i]]
        for i in once:
            if self.out[i]:
                given = self.given[i]
                words[i][:] = _bits.full(self.sizes[i]) if given is None else given._words
        if isinstance(self.structure, NM):
            self._n_of_m(self.structure, sparsity, pruned, words)
        else:
            if sparsity is None:
                raise TypeError("sparsity: got None, wants a fraction in [0, 1]")
            self._lowest(sparsity, pruned, words)
        return self._made([words[own] for own in self.own])

    def _made(self, words: list[Words]) -> Any:
        found = list(map(Mask._of, self.shapes, words))
        if isinstance(self.tree, list | tuple) and all(map(is_array, self.tree)):
            return _set_made(tuple(found))
        masks = iter(found)

        def built(node: Any) -> Mask | MaskSet:
            if is_array(node):
                return next(masks)
            if isinstance(node, Mapping):
                return _set_made({key: built(value) for key, value in node.items()})
            return _set_made(tuple(map(built, node)))

        return built(self.tree)

    # --- n of m ---

    def _n_of_m(self, structure: NM, sparsity: Any, pruned: list[int], words: list[Words]) -> None:
        if sparsity is not None:
            for fraction in self._fractions("sparsity", sparsity):
                if abs(fraction - structure.sparsity) > 1e-12:
                    raise ValueError(
                        f"sparsity: got {fraction}, wants {structure.sparsity} or none for "
                        f"{structure}"
                    )
        axes = [axis_of(self.places[i], structure.axis, len(self.shapes[i])) for i in pruned]
        numbers = []
        if isinstance(self.ranked, _Random):
            self.ranked.start([self.sizes[i] for i in pruned], None)
            numbers = self.ranked.first
        for at, (i, axis) in enumerate(zip(pruned, axes, strict=True)):
            shape, given = self.shapes[i], self.given[i]
            groups = (
                math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]),
                structure.n, structure.m,
            )  # fmt: skip
            among = None if given is None else given._words
            if isinstance(self.ranked, _Random):
                _core.prune_random_n_of_m(*groups, self.ranked.key, numbers[at], among, words[i])
            else:
                _core.prune_n_of_m(
                    self.ranked.name, self.arrays[i], *groups, self.ranked.magnitude, among,
                    words[i],
                )  # fmt: skip

    # --- the lowest ---

    def _chosen(self, pruned: list[int], words: list[Words]) -> _Chosen:
        """Work out what is ranked."""
        if (
            self.structure is None
            and self.normalize == "none"
            and all(own is None for own in self.given)
        ):
            sizes = [self.sizes[i] for i in pruned]
            n = len(pruned)
            return _Chosen(
                [self.arrays[i] for i in pruned], sizes, [None] * n, sizes, [1.0] * n,
                [words[i] for i in pruned], [None] * n,
            )  # fmt: skip
        result = _Chosen([], [], [], [], [], [], [])
        for i in pruned:
            shape, given = self.shapes[i], self.given[i]
            among = None if given is None or given.count == given.size else given._words
            if self.structure is None:
                unit, size, block = self.arrays[i], self.sizes[i], None
                own = words[i]
            else:
                assert not isinstance(self.structure, NM)
                block = self.structure._block(self.places[i], shape)
                size = grid_of(shape, block)
                unit = self.ranked.norms(self.arrays[i], block, self.structure.ord, among, size)
                if among is not None:
                    alive = np.zeros((size + 63) // 64, np.uint64)
                    _core.prune_gather(list(shape), list(block), among, alive)
                    among = alive
                own = _bits.blank([size])[0]
            result.units.append(unit)
            result.sizes.append(size)
            result.among.append(among)
            result.alive.append(size if among is None else _bits.count(among))
            result.divisors.append(self._divisor(unit, size, among))
            result.words.append(own)
            result.blocks.append(block)
        return result

    def _divisor(self, unit: Any, size: int, among: Words | None) -> float:
        if self.normalize == "none" or size == 0:
            return 1.0
        if among is None:
            norm = _core.global_norm(unit, 2.0)
        else:
            whole = [max(n, 1) for n in unit.shape]
            norm = float(_Scores(self.ranked.name, True).norms(unit, whole, 2.0, among, 1)[0])
        if norm == 0 or not math.isfinite(norm):
            return 1.0
        return norm if self.normalize == "l2" else norm / math.sqrt(size)

    def _going(self, fraction: float, size: int, alive: int) -> int:
        """Return how many go that are there."""
        if self.of == "remaining":
            return round(fraction * alive)
        return max(round(fraction * size) - (size - alive), 0)

    def _lowest(self, sparsity: Any, pruned: list[int], words: list[Words]) -> None:
        if self.whole:
            fractions = [check.fraction("sparsity", sparsity)]
        else:
            every = self._fractions("sparsity", sparsity)
            fractions = [every[i] for i in pruned]
        chosen = self._chosen(pruned, words)
        blocks = self.structure is not None
        self.ranked.start(chosen.sizes, self.comm)
        everything = list(range(len(pruned)))
        if not self.whole:
            counts = [
                self._going(*each)
                for each in zip(fractions, chosen.sizes, chosen.alive, strict=True)
            ]
            self.ranked.select(chosen, everything, counts)
        elif self.comm is not None:
            self._over_ranks(self.comm, fractions[0], chosen)
        else:
            count = self._going(fractions[0], sum(chosen.sizes), sum(chosen.alive))
            if self.bounded:
                self._within_bounds(count, pruned, chosen)
            else:
                self.ranked.select(chosen, everything, count)
        if blocks:
            for i, own, block in zip(pruned, chosen.words, chosen.blocks, strict=True):
                _core.prune_spread(list(self.shapes[i]), list(block or ()), own, words[i])
                given = self.given[i]
                if given is not None:
                    words[i] &= given._words

    def _within_bounds(self, count: int, pruned: list[int], chosen: _Chosen) -> None:
        """Rank all arrays together, but each within its bounds.

        Those whose share falls outside get the bound, beginning with the side that is off by more;
        the others share the rest, until all shares lie within.
        """
        low, high = (
            [
                max(round(bound[i] * size) - (size - alive), 0)
                for i, size, alive in zip(pruned, chosen.sizes, chosen.alive, strict=True)
            ]
            for bound in self.bounds
        )
        for at, i in enumerate(pruned):
            if low[at] > high[at]:
                raise ValueError(
                    f"min_sparsity: got {self.bounds[0][i]} for {self.places[i]}, wants at most "
                    f"max_sparsity, which is {self.bounds[1][i]}"
                )
        if not sum(low) <= count <= sum(high):
            gone = sum(chosen.sizes) - sum(chosen.alive)
            raise ValueError(
                f"sparsity: got {gone + count} of {sum(chosen.sizes)} to go, wants "
                f"{gone + sum(low)} to {gone + sum(high)} within min_sparsity and max_sparsity"
            )
        share: dict[int, int] = {}
        free = list(range(len(pruned)))
        while free:
            self._select_some(chosen, free, count - sum(share.values()))
            counts = {i: chosen.alive[i] - _bits.count(chosen.words[i])
                      for i in free}  # fmt: skip
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
        everything = list(range(len(pruned)))
        self.ranked.select(chosen, everything, [share[i] for i in everything])

    def _select_some(self, chosen: _Chosen, which: list[int], count: int) -> None:
        """Prune so many of some arrays together; the numbers of random units stay theirs."""
        if isinstance(self.ranked, _Scores) or which == list(range(which[0], which[-1] + 1)):
            self.ranked.select(chosen, which, count)
            return
        # Those in between take part as arrays of which nothing is left.
        nothing = [np.zeros_like(words) for words in chosen.words]
        span = range(which[0], which[-1] + 1)
        some = _Chosen(
            chosen.units, chosen.sizes,
            [chosen.among[i] if i in which else nothing[i] for i in range(len(nothing))],
            chosen.alive, chosen.divisors,
            [chosen.words[i] if i in which else nothing[i].copy() for i in range(len(nothing))],
            chosen.blocks,
        )  # fmt: skip
        self.ranked.select(some, list(span), count)

    def _over_ranks(self, comm: Communicator, fraction: float, chosen: _Chosen) -> None:
        """Rank the arrays of all ranks together: the bins of all are added, until one is a key."""
        _, size = share_of_sum(comm, sum(chosen.sizes))
        _, alive = share_of_sum(comm, sum(chosen.alive))
        count = self._going(fraction, size, alive)
        if count <= 0 or count >= alive:
            self.ranked.select(
                chosen, list(range(len(chosen.units))), 0 if count <= 0 else sum(chosen.alive)
            )
            return
        low, shift = (-1, 21) if isinstance(self.ranked, _Random) else (_LOWEST, 53)
        while True:
            bins = np.zeros(_BINS, np.int64)
            below = self.ranked.histogram(chosen, low, shift, bins)
            parts = np.array(comm.allgather([below, *bins.tolist()]))
            total = parts.sum(axis=0)
            less = int(total[0]) + np.concatenate([[0], np.cumsum(total[1:])])
            bin_ = int(np.searchsorted(less, count, side="left")) - 1
            low += bin_ << shift
            if shift == 0:
                break
            shift = max(shift - 11, 0)
        mine = int(bins[bin_])
        before, equal = share_of_sum(comm, mine)
        ties = equal - (count - int(less[bin_]))  # those of this key that stay
        self.ranked.at_key(chosen, low + 1, min(max(ties - before, 0), mine))

    # --- rows ---

    @in_default_environment
    def masks_of_rows(self, sparsity: Any) -> Any:
        """Return masks for which each row is ranked on its own."""
        if sparsity is None:
            raise TypeError("sparsity: got None, wants a fraction in [0, 1]")
        self._refuse("no structure with per_row", structure=self.structure is not None)
        self._refuse('scope="tensor" with per_row', scope=self.whole)
        fractions = self._fractions("sparsity", sparsity)
        words = _bits.blank(self.sizes)
        for i, (shape, out) in enumerate(zip(self.shapes, self.out, strict=True)):
            given = self.given[i]
            if out or self.sizes[i] == 0:
                words[i][:] = _bits.full(self.sizes[i]) if given is None else given._words
                continue
            if not shape:
                raise ValueError(f"{self.places[i]}: got no axis, wants rows")
            length = self.sizes[i] // shape[0]
            # Masks of 64 rows end at a word's end.
            step = 64 * max(2**14 // length, 1)
            for begin in range(0, shape[0], step):
                end = min(begin + step, shape[0])
                array = cast("Any", self.arrays[i])
                rows = [array[row : row + 1] for row in range(begin, end)]
                own = _bits.blank([length] * len(rows))
                among: list[Words | None] = [None] * len(rows)
                if given is not None:
                    alive = _bits.unpacked(
                        given._words[begin * length // 64 :], (end - begin) * length
                    )
                    among = [Mask.from_array(row)._words for row in alive.reshape(-1, length)]
                left = [length if part is None else _bits.count(part) for part in among]
                counts = [self._going(fractions[i], length, n) for n in left]
                _core.prune_select(self.ranked.name, rows, counts, own, among, None, False)
                kept = np.concatenate([_bits.unpacked(row, length) for row in own])
                packed = Mask.from_array(kept)._words
                words[i][begin * length // 64 :][: packed.size] = packed
        return self._made(words)
