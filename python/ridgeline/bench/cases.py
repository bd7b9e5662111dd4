"""What is measured: each operation once, on each set of arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

import ridgeline as rl
from ridgeline import _core, reference

from . import fairness, step_peers
from .fairness import Fair
from .peers import L1, L2, Implementation, peers
from .step_peers import Recipe

Numbers = tuple[Any, ...]
CallNumbers = Callable[[list[float]], Iterator[Numbers]]  # from the norms of the arrays

FLOOR = "empty call"
GRADS, PARAMS, OUT, OUT_2 = "gradients", "parameters", "results", "more results"  # regions
PRUNED = 0.5  # of the masks that are arguments
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


def _gpt2() -> Iterator[int]:
    """The parameters of GPT-2 small (Radford et al. 2019)."""
    width = 768
    norm = (width, width)
    yield from (50257 * width, 1024 * width)
    for _ in range(12):
        yield from norm
        yield from (3 * width * width, 3 * width, width * width, width)
        yield from norm
        yield from (4 * width * width, 4 * width, 4 * width * width, width)
    yield from norm


TINY = Layout("256", (256,))
CACHE_1 = Layout("16KiB", (2**12,))
CACHE_2 = Layout("512KiB", (2**17,))
MEMORY = Layout("64MiB", (2**24,))
RESNET = Layout("resnet50", tuple(_resnet50()), single=False)
GPT2 = Layout("gpt2", tuple(_gpt2()), single=False)
THOUSAND = Layout("1000x256", (256,) * 1000, single=False)
LAYOUTS = (CACHE_1, CACHE_2, MEMORY, RESNET, THOUSAND)


@dataclass(frozen=True)
class Operation:
    """An operation on sets of arrays: gradients, parameters, and where results go.

    ``numbers(norms)`` gives the other arguments, call by call. They move where data that has been
    clipped once would not be clipped again. ``passes`` is the memory traffic it cannot do without;
    None: only the overhead is measured. ``writes``: to the gradients. ``fair`` tells, where numbers
    are drawn at random, whether a peer's are as they should be; ridgeline's are those that the
    reference returns, up to ``tolerance``. ``shape``: of the array, where it is not flat.
    ``makes_masks``: what counts of the result is which elements it keeps. ``takes_masks``: masks of
    the arrays, half pruned, are an argument. ``once``: a second call would find other data, so each
    run is one. ``checked``: so many elements of each array, at most, are compared. ``recipe``: of
    the step of an optimizer, see `step_peers`: functions make what is called with gradients.
    """

    name: str
    variant: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    passes: tuple[str, ...] | None
    numbers: CallNumbers
    arrays: tuple[str, ...] = (GRADS,)
    writes: bool = True
    fair: Fair | None = None
    tolerance: float = 0.0
    layouts: tuple[Layout, ...] = LAYOUTS
    shape: tuple[int, ...] = (-1,)
    overhead: bool = True
    makes_masks: bool = False
    takes_masks: bool = False
    once: bool = False
    checked: int = 100_003
    recipe: Recipe | None = None

    @property
    def dtype(self) -> str:
        """Of the arrays."""
        return "float32" if self.recipe is None else self.recipe.parameters

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 4 if self.dtype == "float32" else 2

    @property
    def prunes(self) -> bool:
        """Whether it makes or applies masks."""
        return self.makes_masks or self.takes_masks

    @property
    def full_name(self) -> str:
        """Name and variant."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    def reduced(self, layout: Layout) -> Layout:
        """Return the same arrays in a size that is quickly checked; for statistics, no smaller."""
        unit = abs(math.prod(self.shape))
        most = 1000 * unit if self.fair and unit > 1 else self.checked // unit * unit
        sizes = (most if self.fair else min(n, most) for n in layout.sizes)
        return Layout(layout.name, tuple(sizes), layout.single)


def _always(*numbers: Any) -> CallNumbers:
    return lambda norms: itertools.repeat(numbers)


def _in_turn(*numbers: Numbers) -> CallNumbers:
    return lambda norms: itertools.cycle(numbers)


def _below_joint(norms: list[float]) -> Iterator[Numbers]:
    return ((math.hypot(*norms) * 0.995**k,) for k in itertools.count(1))


def _above_joint(norms: list[float]) -> Iterator[Numbers]:
    return itertools.repeat((2 * math.hypot(*norms),))


def _half_joint(norms: list[float]) -> Iterator[Numbers]:
    return itertools.repeat((math.hypot(*norms) / 2,))


def _below_each(norms: list[float]) -> Iterator[Numbers]:
    return ((min(norms) * 0.995**k,) for k in itertools.count(1))


def _keys(*numbers: Any) -> CallNumbers:
    """Return the numbers, and another key at each call."""
    key = rl.Key(1)
    return lambda norms: ((*numbers, key.fold_in(k)) for k in itertools.count())


def _into(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, out, p, key: function(x, p, key, out=out)


def _new(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, out, p, key: function(x, p, key)


def _draws(
    full_name: str,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    fair: Fair,
    *,
    p: float | None = None,
    arrays: tuple[str, ...] = (GRADS, OUT),
    passes: tuple[str, ...] = ("copy",),
    tolerance: float = 0.0,
    shape: tuple[int, ...] = (-1,),
    overhead: bool = False,
) -> Operation:
    name, _, variant = full_name.partition("/")
    return Operation(
        name,
        variant,
        function,
        reference,
        passes,
        _keys() if p is None else _keys(p),
        arrays=arrays,
        writes=arrays == (GRADS,),
        fair=fair,
        tolerance=tolerance,
        layouts=(CACHE_1, CACHE_2, MEMORY),
        shape=shape,
        overhead=overhead,
    )


def _makes_masks(
    full_name: str,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    numbers: CallNumbers,
    *layouts: Layout,
    shape: tuple[int, ...] = (-1,),
    fair: Fair | None = None,
    checked: int = 100_003,
) -> Operation:
    name, _, variant = full_name.partition("/")
    return Operation(
        name,
        variant,
        function,
        reference,
        ("read",),
        numbers,
        arrays=(PARAMS,),
        writes=False,
        fair=fair,
        layouts=layouts,
        shape=shape,
        overhead=False,
        makes_masks=True,
        checked=checked,
    )


def _takes_masks(variant: str, passes: tuple[str, ...], *, once: bool) -> Operation:
    def reference(arrays: Any, masks: Any) -> None:
        pairs = zip(arrays, masks, strict=True) if isinstance(arrays, list) else [(arrays, masks)]
        for x, kept in pairs:
            x[~kept] = 0

    return Operation(
        "mask_apply",
        variant,
        lambda arrays, masks: masks.apply_(arrays),
        reference,
        passes,
        _always(),
        writes=once,
        layouts=(MEMORY, RESNET),
        overhead=False,
        takes_masks=True,
        once=once,
    )


def _step(recipe: Recipe, *layouts: Layout) -> Operation:
    return Operation(
        recipe.name,
        "",
        step_peers.ridgeline_step(recipe),
        step_peers.reference_step(recipe),
        recipe.passes,
        _half_joint if recipe.clip else _always(),
        arrays=(GRADS, PARAMS),
        writes=False,
        layouts=layouts,
        overhead=recipe == Recipe("adamw"),
        checked=10_007,
        recipe=recipe,
    )


_PENALTY = rl.ElasticNet(L1, L2)
_REFERENCE = reference.ElasticNet(L1, L2)
_READ_WRITE = ("read", "rewrite")
_POLYNOMIALS = 2e-6  # the reference's log, sin and cos are others

OPERATIONS = (
    Operation("penalty_value", "", _PENALTY.value, _REFERENCE.value, None, _always(), writes=False),
    Operation(
        "penalty_gradient",
        "",
        _PENALTY.add_gradient_,
        _REFERENCE.add_gradient_,
        ("add",),
        _always(),
        arrays=(GRADS, PARAMS),
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
    _draws(
        "dropout/50",
        _into(rl.dropout),
        _new(reference.dropout),
        fairness.dropout,
        p=0.5,
        overhead=True,
    ),
    _draws(
        "dropout/10",
        _into(rl.dropout),
        _new(reference.dropout),
        fairness.dropout,
        p=0.1,
    ),
    _draws(
        "dropout_in_place/50",
        lambda x, p, key: rl.dropout(x, p, key, out=x),
        reference.dropout,
        fairness.dropout,
        p=0.5,
        arrays=(GRADS,),
        passes=("rewrite",),
    ),
    _draws(
        "dropout_forward_backward/50",
        lambda x, dy, y, dx, p, key: (
            rl.dropout(x, p, key, out=y),
            rl.dropout(dy, p, key, out=dx),
        ),
        lambda x, dy, y, dx, p, key: (
            reference.dropout(x, p, key),
            reference.dropout(dy, p, key),
        ),
        fairness.dropout_and_gradient,
        p=0.5,
        arrays=(GRADS, PARAMS, OUT, OUT_2),
        passes=("copy", "copy"),
    ),
    _draws(
        "dropout_add/10",
        lambda x, residual, out, p, key: rl.dropout_add(x, residual, p, key, out=out),
        lambda x, residual, out, p, key: reference.dropout_add(x, residual, p, key),
        fairness.dropout_add,
        p=0.1,
        arrays=(GRADS, PARAMS, OUT),
        passes=("add",),
    ),
    _draws(
        "alpha_dropout/10",
        _into(rl.alpha_dropout),
        _new(reference.alpha_dropout),
        fairness.alpha_dropout,
        p=0.1,
    ),
    _draws(
        "gaussian_dropout/10",
        _into(rl.gaussian_dropout),
        _new(reference.gaussian_dropout),
        fairness.gaussian_dropout,
        p=0.1,
        tolerance=_POLYNOMIALS,
    ),
    _draws(
        "spatial_dropout/50",
        lambda x, out, p, key: rl.dropout(x, p, key, broadcast_axes=(2, 3), out=out),
        lambda x, out, p, key: reference.dropout(x, p, key, broadcast_axes=(2, 3)),
        fairness.dropout_channels,
        p=0.5,
        shape=(-1, 4, 16, 16),
    ),
    _draws(
        "random_uniform",
        lambda out, key: rl.random.uniform(out.shape, key, out=out),
        lambda out, key: reference.random.uniform(out.shape, key),
        fairness.uniform,
        arrays=(OUT,),
        passes=("write",),
    ),
    _draws(
        "random_normal",
        lambda out, key: rl.random.normal(out.shape, key, out=out),
        lambda out, key: reference.random.normal(out.shape, key),
        fairness.normal,
        arrays=(OUT,),
        passes=("write",),
        tolerance=_POLYNOMIALS,
    ),
    *(
        _makes_masks(
            f"prune_magnitude/{percent}",
            rl.prune.magnitude,
            reference.pruning.magnitude,
            _always(percent / 100),
            CACHE_2,
            MEMORY,
        )
        for percent in (50, 90)
    ),
    _makes_masks(
        "prune_global/90",
        lambda arrays, p: rl.prune.magnitude(arrays, p, scope="global"),
        lambda arrays, p: reference.pruning.magnitude(arrays, p, scope="global"),
        _always(0.9),
        RESNET,
        THOUSAND,
        checked=40_009,
    ),
    _makes_masks(
        "prune_2_of_4",
        lambda w: rl.prune.magnitude(w, structure=rl.prune.NM(2, 4)),
        lambda w: reference.pruning.magnitude(w, structure=("nm", 2, 4)),
        _always(),
        MEMORY,
        shape=(-1, 4096),
    ),
    _makes_masks(
        "prune_random/50",
        rl.prune.random,
        reference.pruning.random,
        _keys(0.5),
        MEMORY,
        fair=fairness.pruned,
    ),
    _takes_masks("first", ("rewrite",), once=True),
    _takes_masks("again", ("read",), once=False),
    *(
        _step(recipe, MEMORY, RESNET, GPT2, *([THOUSAND] if "states" not in name else []))
        for name, recipe in step_peers.RECIPES.items()
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

    def implementations(self, without: Container[str]) -> list[Implementation]:
        """List ridgeline, then the peers but those without."""
        layout = self.layout
        found = [Implementation("ridgeline", self.operation.function, "ridgeline")]
        found += peers(
            self.operation.name,
            self.operation.fair is not None,
            layout.single,
            layout.elements,
            without,
        )
        if self.overhead:
            found.append(Implementation(FLOOR, _core.nothing, "none"))
        return found


def cases() -> list[Case]:
    """List all cases."""
    measured = [Case(op, layout) for op in OPERATIONS if op.passes for layout in op.layouts]
    return measured + [Case(op, TINY) for op in OPERATIONS if op.overhead]


def select(words: str) -> list[Case]:
    """List the cases whose names hold all the words, in any order and case."""
    wanted = words.lower().split()
    return [case for case in cases() if all(word in case.name.lower() for word in wanted)]
