"""What is measured: each operation once; and what of the public interface it stands for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import ridgeline as rl
from ridgeline import reference

from . import fairness, penalty_peers, prune_peers, step_peers
from .fairness import Fair
from .layouts import (
    ACTIVATIONS,
    CACHE_1,
    CACHE_2,
    GPT2,
    MEMORY,
    RESNET,
    THOUSAND,
    WORKLOADS,
    Layout,
)
from .penalty_peers import STRENGTH
from .step_peers import Recipe

Numbers = tuple[Any, ...]
CallNumbers = Callable[[list[float]], Iterator[Numbers]]  # from the norms of the arrays

GRADS, PARAMS, OUT, OUT_2 = "gradients", "parameters", "results", "more results"  # regions
ONE = (CACHE_1, CACHE_2, MEMORY)
TWO = (CACHE_2, MEMORY)
LAYOUTS = (*ONE, RESNET, THOUSAND)
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class Operation:
    """An operation on sets of arrays: gradients, parameters, and where results go.

    ``public`` names what of the public interface it calls, ``peers`` the row of the peers' tables.
    ``numbers(norms)`` gives the other arguments, call by call. They move where data that has been
    clipped once would not be clipped again. ``passes`` is the memory traffic it cannot do without;
    none where no pattern has as much. ``writes``: to the gradients. ``fair`` tells, where numbers
    are drawn at random, whether a peer's are as they should be; ridgeline's are those that the
    reference returns, up to ``tolerance``. ``results``: what it returns are new arrays of so many
    bytes, as parts of the first one; otherwise it writes. ``shape``: of the array, where it is not
    flat.
    ``makes_masks``: what counts of the result is which elements it keeps. ``takes_masks``: masks of
    the arrays, half pruned, are an argument. ``once``: a second call would find other data, so each
    run is one. ``checked``: so many elements of each array, at most, are compared. ``recipe``: of
    the step of an optimizer, see `step_peers`: functions make what is called with gradients.
    ``dtypes``: of the arrays; all layouts are measured in the first of them, those of one array
    from the second-level cache and from memory in the others. ``own``:
    the name of a user's function, which takes what ``kind`` says.
    """

    name: str
    family: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    passes: tuple[str, ...]
    numbers: CallNumbers
    public: tuple[str, ...] = ()
    peers: str = ""
    arrays: tuple[str, ...] = (GRADS,)
    writes: bool = True
    fair: Fair | None = None
    tolerance: float = 0.0
    results: tuple[float, ...] = ()
    layouts: tuple[Layout, ...] = LAYOUTS
    dtypes: tuple[str, ...] = ("float32",)
    shape: tuple[int, ...] = (-1,)
    overhead: bool = True
    makes_masks: bool = False
    takes_masks: bool = False
    once: bool = False
    checked: int = 100_003
    recipe: Recipe | None = None
    kind: str = "ridgeline"
    own: str = ""

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


def _falling(first: float) -> CallNumbers:
    return lambda norms: ((first * 0.995**k,) for k in itertools.count())


def _keys(*numbers: Any) -> CallNumbers:
    """Return the numbers, and another key at each call."""
    key = rl.Key(1)
    return lambda norms: ((*numbers, key.fold_in(k)) for k in itertools.count())


def _into(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, out, p, key: function(x, p, key, out=out)


def _new(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, out, p, key: function(x, p, key)


def _draws(
    name: str,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    fair: Fair,
    *,
    public: tuple[str, ...],
    peers: str = "",
    family: str = "dropout",
    p: float | None = None,
    arrays: tuple[str, ...] = (GRADS, OUT),
    passes: tuple[str, ...] = ("copy",),
    tolerance: float = 0.0,
    results: tuple[float, ...] = (),
    shape: tuple[int, ...] = (-1,),
    layouts: tuple[Layout, ...] = ONE,
    dtypes: tuple[str, ...] = ("float32",),
    overhead: bool = False,
    checked: int = 100_003,
) -> Operation:
    return Operation(
        name,
        family,
        function,
        reference,
        passes,
        _keys() if p is None else _keys(p),
        public,
        peers,
        arrays=arrays,
        writes=arrays == (GRADS,) and not results,
        fair=fair,
        tolerance=tolerance,
        results=results,
        layouts=layouts,
        dtypes=dtypes,
        shape=shape,
        overhead=overhead,
        checked=checked,
    )


def _makes_masks(
    name: str,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    numbers: CallNumbers,
    *layouts: Layout,
    public: tuple[str, ...],
    peers: str = "",
    family: str = "pruning",
    passes: tuple[str, ...] = ("read",),
    shape: tuple[int, ...] = (-1,),
    fair: Fair | None = None,
    dtypes: tuple[str, ...] = ("float32",),
    checked: int = 100_003,
) -> Operation:
    return Operation(
        name,
        family,
        function,
        reference,
        passes,
        numbers,
        public,
        peers,
        arrays=(PARAMS,),
        writes=False,
        fair=fair,
        layouts=layouts,
        dtypes=dtypes,
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
        f"apply_mask_{variant}",
        "pruning",
        lambda arrays, masks: masks.apply_(arrays),
        reference,
        passes,
        _always(),
        ("Mask.apply_", "MaskSet.apply_"),
        "apply_mask",
        writes=once,
        layouts=(MEMORY, RESNET),
        dtypes=DTYPES,
        overhead=False,
        takes_masks=True,
        once=once,
    )


def _step(recipe: Recipe, *layouts: Layout) -> Operation:
    return Operation(
        recipe.name,
        "optimizers",
        step_peers.ridgeline_step(recipe),
        step_peers.reference_step(recipe),
        recipe.passes,
        _half_joint if recipe.clip else _always(),
        recipe.public,
        arrays=(GRADS, PARAMS),
        writes=False,
        layouts=layouts,
        dtypes=(recipe.parameters,),
        overhead=recipe == Recipe("adamw"),
        checked=10_007,
        recipe=recipe,
    )


def _step_layouts(recipe: Recipe) -> tuple[Layout, ...]:
    if recipe in step_peers.RECIPES[:1] or recipe.rule == "momentum":
        return WORKLOADS
    if recipe.clip and recipe.parameters in ("float32", "bfloat16"):
        return (RESNET, GPT2)
    return (RESNET,) if recipe.rule in ("sgd", "adam") else ()


_READ_WRITE = ("read", "rewrite")
_POLYNOMIALS = 2e-6  # the reference's log, sin and cos are others


def _penalty(
    name: str,
    make: Callable[[Any], Any],
    *,
    public: str,
    value: tuple[Layout, ...] = (MEMORY,),
    gradient: tuple[Layout, ...] = (MEMORY,),
    prox: tuple[Layout, ...] = TWO,
    dtypes: tuple[str, ...] = ("float32",),
    prox_dtypes: tuple[str, ...] = ("float32",),
    step: float = penalty_peers.STEP,
    overhead: Container[str] = (),
) -> Iterator[Operation]:
    """The three verbs of a penalty; `make` takes `ridgeline` or its reference."""
    ours, right = make(rl), make(reference)
    yield Operation(
        f"value_{name}",
        "penalties",
        ours.value,
        right.value,
        ("read",),
        _always(),
        (f"{public}.value",),
        arrays=(PARAMS,),
        writes=False,
        layouts=value,
        dtypes=dtypes,
        overhead="value" in overhead,
    )
    if name != "l0":
        yield Operation(
            f"add_gradient_{name}",
            "penalties",
            ours.add_gradient_,
            right.add_gradient_,
            ("add",),
            _always(),
            (f"{public}.add_gradient_",),
            arrays=(GRADS, PARAMS),
            layouts=gradient,
            dtypes=dtypes,
            overhead="add_gradient" in overhead,
        )
    yield Operation(
        f"prox_{name}",
        "penalties",
        ours.prox_,
        right.prox_,
        ("rewrite",),
        _always(step),
        (f"{public}.prox_",),
        layouts=prox,
        dtypes=prox_dtypes,
        overhead="prox" in overhead,
    )


def _score(
    name: str,
    function: Callable[..., Any],
    reference: Callable[..., Any],
    passes: tuple[str, ...],
    arrays: tuple[str, ...],
    *numbers: Any,
    shape: tuple[int, ...] = (-1,),
    layouts: tuple[Layout, ...] = (MEMORY,),
) -> Operation:
    return Operation(
        f"score_{name.strip('_')}",
        "pruning",
        function,
        reference,
        passes,
        _always(*numbers),
        (f"prune.scores.{name}",),
        name.strip("_"),
        arrays=arrays,
        writes=arrays == (GRADS, PARAMS),
        layouts=layouts,
        shape=shape,
        overhead=False,
    )


def _structured(function: Callable[..., Any], structure: Any) -> Callable[..., Any]:
    return lambda w, sparsity: function(w, sparsity, structure=structure)


def _random_shrink(x: Any, strength: float, key: rl.Key) -> Any:
    return x - np.float32(strength) * reference.random.uniform(x.shape, key) * x


def _held_penalty(library: Any) -> Callable[..., None]:
    """Return the proximal step of the adaptive lasso: its weights are checked but once."""
    made = penalty_peers.held(lambda a: library.L1(STRENGTH, weights=np.abs(a)))

    def prox(x: Any, weights: Any, step: float) -> None:
        made(weights).prox_(x, step)

    return prox


_LIMITS = (((10.0, 11.0),), ((-11.0, -10.0),))  # each call changes all that the last one left
_L1 = rl.L1(STRENGTH)
_box = lru_cache(rl.Box)
_PATCHES = (-1, 64, 64)
_TOKENS = (-1, 16, 64)
_MAPS = (-1, 4, 16, 16)
_MATRIX = (-1, 4096)
_NORMS = np.random.default_rng(3).random(4096, dtype=np.float32)

OPERATIONS = (
    *_penalty(
        "elastic_net",
        lambda library: library.ElasticNet(penalty_peers.L1, penalty_peers.L2),
        public="ElasticNet",
        value=LAYOUTS,
        gradient=(*ONE, *WORKLOADS),
        dtypes=DTYPES,
        overhead=("value", "add_gradient"),
    ),
    *_penalty(
        "l1",
        lambda library: library.L1(STRENGTH),
        public="L1",
        value=TWO,
        gradient=TWO,
        prox=LAYOUTS,
        prox_dtypes=DTYPES,
        overhead=("prox",),
        step=1e-5,
    ),
    *_penalty("l2", lambda library: library.L2(STRENGTH), public="L2", value=TWO, gradient=TWO),
    *itertools.chain.from_iterable(
        _penalty(name, make, public=public)
        for name, public, make in (
            ("mcp", "MCP", lambda library: library.MCP(STRENGTH, penalty_peers.GAMMA)),
            ("scad", "SCAD", lambda library: library.SCAD(STRENGTH, penalty_peers.SCAD_GAMMA)),
            ("log_sum", "LogSum", lambda library: library.LogSum(STRENGTH, penalty_peers.EPS)),
            ("l0", "L0", lambda library: library.L0(STRENGTH)),
            ("l_half", "LHalf", lambda library: library.LHalf(STRENGTH)),
            ("huber", "Huber", lambda library: library.Huber(STRENGTH, penalty_peers.DELTA)),
            (
                "mcp_l2",
                "penalties.Sum",
                lambda library: (
                    library.MCP(STRENGTH, penalty_peers.GAMMA) + library.L2(penalty_peers.RIDGE)
                ),
            ),
        )
    ),
    Operation(
        "prox_l1_out",
        "penalties",
        lambda x, out, step: _L1.prox(x, step, out=out),
        lambda x, out, step: np.copyto(out, reference.L1(STRENGTH).prox(x, step)),
        ("copy",),
        _always(penalty_peers.STEP),
        ("L1.prox",),
        arrays=(GRADS, OUT),
        writes=False,
        layouts=TWO,
        overhead=False,
    ),
    Operation(
        "prox_weighted_l1",
        "penalties",
        _held_penalty(rl),
        _held_penalty(reference),
        ("add",),
        _always(penalty_peers.STEP),
        ("L1.prox_",),
        arrays=(GRADS, PARAMS),
        layouts=TWO,
        overhead=False,
    ),
    Operation(
        "clip_by_value_nothing",
        "clipping",
        rl.clip_by_value_,
        reference.clip_by_value_,
        ("read",),
        _always((-1e3, 1e3)),
        ("clip_by_value_",),
        "clip_by_value",
    ),
    Operation(
        "clip_by_value_everything",
        "clipping",
        rl.clip_by_value_,
        reference.clip_by_value_,
        ("rewrite",),
        _in_turn(*_LIMITS),
        ("clip_by_value_",),
        "clip_by_value",
        dtypes=DTYPES,
    ),
    Operation(
        "global_norm_2",
        "clipping",
        rl.global_norm,
        reference.global_norm,
        ("read",),
        _always(),
        ("global_norm",),
        writes=False,
        dtypes=DTYPES,
    ),
    *(
        Operation(
            f"global_norm_{ord}",
            "clipping",
            rl.global_norm,
            reference.global_norm,
            ("read",),
            _always(ord),
            ("global_norm",),
            "global_norm",
            writes=False,
            layouts=TWO,
            overhead=False,
        )
        for ord in (1, 3, math.inf)
    ),
    Operation(
        "clip_by_global_norm_clips",
        "clipping",
        rl.clip_by_global_norm_,
        reference.clip_by_global_norm_,
        _READ_WRITE,
        _below_joint,
        ("clip_by_global_norm_",),
        "clip_by_global_norm",
        layouts=(*ONE, *WORKLOADS),
        dtypes=DTYPES,
    ),
    Operation(
        "clip_by_global_norm_within",
        "clipping",
        rl.clip_by_global_norm_,
        reference.clip_by_global_norm_,
        ("read",),
        _above_joint,
        ("clip_by_global_norm_",),
        "clip_by_global_norm",
    ),
    Operation(
        "clip_by_norm_clips",
        "clipping",
        rl.clip_by_norm_,
        reference.clip_by_norm_,
        _READ_WRITE,
        _below_each,
        ("clip_by_norm_",),
        "clip_by_norm",
    ),
    Operation(
        "clip_by_rms_clips",
        "clipping",
        rl.clip_by_rms_,
        reference.clip_by_rms_,
        _READ_WRITE,
        _falling(0.9),
        ("clip_by_rms_",),
        "clip_by_rms",
        layouts=TWO,
    ),
    Operation(
        "zero_largest_1",
        "clipping",
        rl.zero_largest_,
        reference.zero_largest_,
        ("read",),
        _always(1),
        ("zero_largest_",),
        layouts=TWO,
    ),
    Operation(
        "box",
        "constraints",
        lambda x, limits: _box(*limits).project_(x),
        lambda x, limits: reference.optimizers.Box(*limits).project_(x),
        ("rewrite",),
        _in_turn(*_LIMITS),
        ("Box.project_",),
        "clip_by_value",
        layouts=TWO,
        overhead=False,
    ),
    Operation(
        "non_negative",
        "constraints",
        rl.NonNegative().project_,
        reference.optimizers.NonNegative().project_,
        ("rewrite",),
        _always(),
        ("NonNegative.project_",),
        layouts=(MEMORY,),
        overhead=False,
        once=True,
    ),
    _draws(
        "dropout_50",
        _into(rl.dropout),
        _new(reference.dropout),
        fairness.dropout,
        public=("dropout",),
        peers="dropout",
        p=0.5,
        layouts=(*ONE, *ACTIVATIONS),
        dtypes=DTYPES,
        overhead=True,
    ),
    _draws(
        "dropout_10",
        _into(rl.dropout),
        _new(reference.dropout),
        fairness.dropout,
        public=("dropout",),
        peers="dropout",
        p=0.1,
    ),
    _draws(
        "dropout_50_in_place",
        lambda x, p, key: rl.dropout(x, p, key, out=x),
        reference.dropout,
        fairness.dropout,
        public=("dropout",),
        peers="dropout_in_place",
        p=0.5,
        arrays=(GRADS,),
        passes=("rewrite",),
    ),
    _draws(
        "dropout_50_forward_backward",
        lambda x, dy, y, dx, p, key: (
            rl.dropout(x, p, key, out=y),
            rl.dropout(dy, p, key, out=dx),
        ),
        lambda x, dy, y, dx, p, key: (
            reference.dropout(x, p, key),
            reference.dropout(dy, p, key),
        ),
        fairness.dropout_and_gradient,
        public=("dropout",),
        peers="dropout_forward_backward",
        p=0.5,
        arrays=(GRADS, PARAMS, OUT, OUT_2),
        passes=("copy", "copy"),
        layouts=(*ONE, *ACTIVATIONS),
    ),
    _draws(
        "dropout_add_10",
        lambda x, residual, out, p, key: rl.dropout_add(x, residual, p, key, out=out),
        lambda x, residual, out, p, key: reference.dropout_add(x, residual, p, key),
        fairness.dropout_add,
        public=("dropout_add",),
        peers="dropout_add",
        p=0.1,
        arrays=(GRADS, PARAMS, OUT),
        passes=("add",),
        dtypes=DTYPES,
    ),
    _draws(
        "alpha_dropout_10",
        _into(rl.alpha_dropout),
        _new(reference.alpha_dropout),
        fairness.alpha_dropout,
        public=("alpha_dropout",),
        peers="alpha_dropout",
        p=0.1,
        dtypes=DTYPES,
    ),
    _draws(
        "alpha_dropout_backward_10",
        _into(rl.alpha_dropout_backward),
        _new(reference.alpha_dropout_backward),
        fairness.alpha_dropout_backward,
        public=("alpha_dropout_backward",),
        peers="alpha_dropout_backward",
        p=0.1,
        layouts=(MEMORY,),
    ),
    _draws(
        "feature_alpha_dropout_10",
        _into(rl.feature_alpha_dropout),
        _new(reference.feature_alpha_dropout),
        fairness.feature_alpha_dropout,
        public=("feature_alpha_dropout",),
        peers="feature_alpha_dropout",
        p=0.1,
        layouts=(MEMORY,),
        shape=_MAPS,
    ),
    _draws(
        "gaussian_noise",
        _into(rl.gaussian_noise),
        _new(reference.gaussian_noise),
        fairness.gaussian_noise,
        public=("gaussian_noise",),
        p=0.1,
        tolerance=_POLYNOMIALS,
        layouts=TWO,
    ),
    _draws(
        "drop_connect_50",
        _into(rl.drop_connect),
        _new(reference.drop_connect),
        fairness.dropout,
        public=("drop_connect",),
        peers="dropout",
        p=0.5,
        layouts=(MEMORY,),
    ),
    _draws(
        "drop_path_20",
        _into(rl.drop_path),
        _new(reference.drop_path),
        fairness.shared_dropout(1),
        public=("drop_path",),
        peers="drop_path",
        p=0.2,
        layouts=TWO,
        shape=_TOKENS,
    ),
    _draws(
        "token_dropout_50",
        _into(rl.token_dropout),
        _new(reference.token_dropout),
        fairness.shared_dropout(2),
        public=("token_dropout",),
        peers="token_dropout",
        p=0.5,
        layouts=TWO,
        shape=_TOKENS,
    ),
    _draws(
        "drop_block_10",
        lambda x, out, p, key: rl.drop_block(x, p, fairness.BLOCK, key, out=out),
        lambda x, out, p, key: reference.drop_block(x, p, fairness.BLOCK, key),
        fairness.drop_block,
        public=("drop_block",),
        peers="drop_block",
        p=0.1,
        layouts=TWO,
        shape=_MAPS,
    ),
    _draws(
        "zoneout_10",
        lambda new, old, out, p, key: rl.zoneout(new, old, p, key, out=out),
        lambda new, old, out, p, key: reference.zoneout(new, old, p, key),
        fairness.zoneout,
        public=("zoneout",),
        peers="zoneout",
        p=0.1,
        arrays=(GRADS, PARAMS, OUT),
        passes=("add",),
        layouts=TWO,
    ),
    _draws(
        "zoneout_backward_10",
        rl.zoneout_backward,
        reference.zoneout_backward,
        fairness.zoneout_gradients,
        public=("zoneout_backward",),
        peers="zoneout_backward",
        p=0.1,
        arrays=(GRADS,),
        passes=("add",),
        results=(1.0, 1.0),
        layouts=(MEMORY,),
    ),
    _draws(
        "patch_dropout_50",
        lambda x, p, key: rl.patch_dropout(x, p, key)[0],
        lambda x, p, key: reference.patch_dropout(x, p, key)[0],
        fairness.patches,
        public=("patch_dropout",),
        peers="patch_dropout",
        p=0.5,
        arrays=(GRADS,),
        passes=(),
        results=(0.5,),
        layouts=(MEMORY,),
        shape=_PATCHES,
    ),
    _makes_masks(
        "dropout_mask_50",
        lambda w, p, key: rl.dropout_mask(w.shape, p, key),
        lambda w, p, key: reference.dropout_mask(w.shape, p, key),
        _keys(0.5),
        *TWO,
        public=("dropout_mask",),
        peers="dropout_mask",
        family="dropout",
        passes=(),
        fair=fairness.kept_bits,
    ),
    _draws(
        "gaussian_dropout_10",
        _into(rl.gaussian_dropout),
        _new(reference.gaussian_dropout),
        fairness.gaussian_dropout,
        public=("gaussian_dropout",),
        peers="gaussian_dropout",
        p=0.1,
        tolerance=_POLYNOMIALS,
    ),
    _draws(
        "spatial_dropout_50",
        lambda x, out, p, key: rl.dropout(x, p, key, broadcast_axes=(2, 3), out=out),
        lambda x, out, p, key: reference.dropout(x, p, key, broadcast_axes=(2, 3)),
        fairness.shared_dropout(2),
        public=("dropout",),
        peers="spatial_dropout",
        p=0.5,
        shape=_MAPS,
    ),
    _draws(
        "uniform",
        lambda out, key: rl.random.uniform(out.shape, key, out=out),
        lambda out, key: reference.random.uniform(out.shape, key, dtype=out.dtype),
        fairness.uniform,
        public=("random.uniform",),
        family="random",
        arrays=(OUT,),
        passes=("write",),
        dtypes=("float32", "float64"),
    ),
    _draws(
        "normal",
        lambda out, key: rl.random.normal(out.shape, key, out=out),
        lambda out, key: reference.random.normal(out.shape, key, dtype=out.dtype),
        fairness.normal,
        public=("random.normal",),
        family="random",
        arrays=(OUT,),
        passes=("write",),
        tolerance=_POLYNOMIALS,
        dtypes=("float32", "float64"),
    ),
    _draws(
        "bernoulli",
        lambda out, p, key: rl.random.bernoulli(out.nbytes, key, p),
        lambda out, p, key: reference.random.bernoulli(out.nbytes, key, p),
        fairness.bernoulli,
        public=("random.bernoulli",),
        family="random",
        p=0.1,
        arrays=(OUT,),
        passes=("write",),
        results=(1.0,),
        layouts=TWO,
        checked=25_003,
    ),
    _draws(
        "integers",
        lambda out, key: rl.random.integers(out.nbytes // 8, key, fairness.HIGH),
        lambda out, key: reference.random.integers(out.nbytes // 8, key, fairness.HIGH),
        fairness.integers,
        public=("random.integers",),
        family="random",
        arrays=(OUT,),
        passes=("write",),
        results=(1.0,),
        layouts=TWO,
    ),
    *(
        _makes_masks(
            f"prune_{percent}",
            rl.prune.magnitude,
            reference.pruning.magnitude,
            _always(percent / 100),
            CACHE_2,
            MEMORY,
            public=("prune.magnitude",),
            peers="prune",
            dtypes=DTYPES if percent == 50 else ("float32",),
        )
        for percent in (50, 90)
    ),
    _makes_masks(
        "prune_by_score_50",
        rl.prune.by_score,
        reference.pruning.by_score,
        _always(0.5),
        *TWO,
        public=("prune.by_score",),
        peers="prune_by_score",
    ),
    *(
        _makes_masks(
            f"prune_{name}_50",
            _structured(rl.prune.magnitude, ours),
            _structured(reference.pruning.magnitude, right),
            _always(0.5),
            MEMORY,
            public=("prune.magnitude", f"prune.{public}"),
            peers=f"prune_{name}",
            shape=_MATRIX,
        )
        for name, public, ours, right in (
            (
                "blocks",
                "Block",
                rl.prune.Block((prune_peers.SIDE, prune_peers.SIDE)),
                ("block", (prune_peers.SIDE, prune_peers.SIDE), 2),
            ),
            ("rows", "rows", rl.prune.rows(), ("channels", 0, 2)),
            ("columns", "columns", rl.prune.columns(), ("channels", 1, 2)),
        )
    ),
    _makes_masks(
        "prune_global_90",
        lambda arrays, p: rl.prune.magnitude(arrays, p, scope="global"),
        lambda arrays, p: reference.pruning.magnitude(arrays, p, scope="global"),
        _always(0.9),
        *WORKLOADS,
        public=("prune.magnitude",),
        peers="prune_global",
        checked=40_009,
    ),
    _makes_masks(
        "prune_2_of_4",
        lambda w: rl.prune.magnitude(w, structure=rl.prune.NM(2, 4)),
        lambda w: reference.pruning.magnitude(w, structure=("nm", 2, 4)),
        _always(),
        MEMORY,
        public=("prune.magnitude", "prune.NM"),
        shape=_MATRIX,
        dtypes=DTYPES,
    ),
    _makes_masks(
        "prune_random_50",
        rl.prune.random,
        reference.pruning.random,
        _keys(0.5),
        MEMORY,
        public=("prune.random",),
        peers="prune_random",
        fair=fairness.pruned,
    ),
    _draws(
        "random_shrink",
        rl.prune.random_shrink_,
        _random_shrink,
        fairness.random_shrink,
        public=("prune.random_shrink_",),
        family="pruning",
        p=0.01,
        arrays=(GRADS,),
        passes=("rewrite",),
        layouts=TWO,
    ),
    _score(
        "taylor",
        lambda w, g, out: rl.prune.scores.taylor(w, g, out=out),
        lambda w, g, out: np.copyto(out, reference.pruning.taylor(w, g)),
        ("add",),
        (GRADS, PARAMS, OUT),
    ),
    _score(
        "gradient",
        lambda g, out: rl.prune.scores.gradient(g, out=out),
        lambda g, out: np.copyto(out, reference.pruning.gradient(g)),
        ("copy",),
        (GRADS, OUT),
    ),
    _score(
        "movement_",
        lambda scores, w, rate: rl.prune.scores.movement_(scores, w, w, rate),
        lambda scores, w, rate: reference.pruning.movement_(scores, w, w, rate),
        ("add",),
        (GRADS, PARAMS),
        0.01,
    ),
    _score(
        "wanda",
        lambda w, out, norms: rl.prune.scores.wanda(w, norms, out=out),
        lambda w, out, norms: np.copyto(out, reference.pruning.wanda(w, norms)),
        ("copy",),
        (GRADS, OUT),
        _NORMS,
        shape=_MATRIX,
    ),
    _score(
        "lamp",
        rl.prune.scores.lamp,
        reference.pruning.lamp,
        (),
        (PARAMS,),
        layouts=(CACHE_2,),
    ),
    _takes_masks("first", ("rewrite",), once=True),
    _takes_masks("again", ("read",), once=False),
    *(_step(recipe, MEMORY, *_step_layouts(recipe)) for recipe in step_peers.RECIPES),
)
