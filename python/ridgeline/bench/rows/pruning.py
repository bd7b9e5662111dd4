"""Pruning: masks, scores, and what applies them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import ridgeline as rl
from ridgeline import reference

from ..peers.settings import SIDE
from . import fairness
from .layouts import CACHE_2, MEMORY, RESNET, WORKLOADS
from .operation import (
    DTYPES,
    GRADS,
    OUT,
    PARAMS,
    TWO,
    Operation,
    always,
    draws,
    keys,
    makes_masks,
)

score = partial(Operation, family="pruning", writes=False, layouts=(MEMORY,), overhead=False)
applies_masks = partial(
    Operation,
    family="pruning",
    public=("Mask.apply_", "MaskSet.apply_"),
    peers="apply_mask",
    takes_masks=True,
    layouts=(MEMORY, RESNET),
    dtypes=DTYPES,
    overhead=False,
)

_MATRIX = (-1, 4096)
_NORMS = np.random.default_rng(3).random(4096, dtype=np.float32)


def _structured(function: Callable[..., Any], structure: Any) -> Callable[..., Any]:
    return lambda w, sparsity: function(w, sparsity, structure=structure)


def _random_shrink(x: Any, strength: float, key: rl.Key) -> Any:
    return x - np.float32(strength) * reference.random.uniform(x.shape, key) * x


def _apply(arrays: Any, masks: Any) -> None:
    masks.apply_(arrays)


def _apply_reference(arrays: Any, masks: Any) -> None:
    pairs = zip(arrays, masks, strict=True) if isinstance(arrays, list) else [(arrays, masks)]
    for x, kept in pairs:
        x[~kept] = 0


ROWS = (
    *(
        makes_masks(
            f"prune_{percent}",
            rl.prune.magnitude,
            reference.pruning.magnitude,
            public=("prune.magnitude",),
            peers="prune",
            numbers=always(percent / 100),
            layouts=TWO,
            dtypes=DTYPES if percent == 50 else ("float32",),
        )
        for percent in (50, 90)
    ),
    makes_masks(
        "prune_by_score_50",
        rl.prune.by_score,
        reference.pruning.by_score,
        public=("prune.by_score",),
        peers="prune_by_score",
        numbers=always(0.5),
        layouts=TWO,
    ),
    *(
        makes_masks(
            f"prune_{name}_50",
            _structured(rl.prune.magnitude, ours),
            _structured(reference.pruning.magnitude, right),
            public=("prune.magnitude", f"prune.{public}"),
            peers=f"prune_{name}",
            numbers=always(0.5),
            shape=_MATRIX,
            layouts=(MEMORY,),
        )
        for name, public, ours, right in (
            (
                "blocks",
                "Block",
                rl.prune.Block((SIDE, SIDE)),
                ("block", (SIDE, SIDE), 2),
            ),
            ("rows", "rows", rl.prune.rows(), ("channels", 0, 2)),
            ("columns", "columns", rl.prune.columns(), ("channels", 1, 2)),
        )
    ),
    makes_masks(
        "prune_global_90",
        lambda arrays, p: rl.prune.magnitude(arrays, p, scope="global"),
        lambda arrays, p: reference.pruning.magnitude(arrays, p, scope="global"),
        public=("prune.magnitude",),
        peers="prune_global",
        numbers=always(0.9),
        checked=40_009,
        layouts=WORKLOADS,
    ),
    makes_masks(
        "prune_2_of_4",
        lambda w: rl.prune.magnitude(w, structure=rl.prune.NM(2, 4)),
        lambda w: reference.pruning.magnitude(w, structure=("nm", 2, 4)),
        public=("prune.magnitude", "prune.NM"),
        shape=_MATRIX,
        layouts=(MEMORY,),
        dtypes=DTYPES,
    ),
    makes_masks(
        "prune_random_50",
        rl.prune.random,
        reference.pruning.random,
        public=("prune.random",),
        peers="prune_random",
        numbers=keys(0.5),
        fair=fairness.pruned,
        layouts=(MEMORY,),
    ),
    draws(
        "random_shrink",
        rl.prune.random_shrink_,
        _random_shrink,
        family="pruning",
        public=("prune.random_shrink_",),
        arrays=(GRADS,),
        numbers=keys(0.01),
        passes=("rewrite",),
        writes=True,
        fair=fairness.random_shrink,
        layouts=TWO,
    ),
    score(
        "score_taylor",
        lambda w, g, out: rl.prune.scores.taylor(w, g, out=out),
        lambda w, g, out: np.copyto(out, reference.pruning.taylor(w, g)),
        public=("prune.scores.taylor",),
        peers="taylor",
        arrays=(GRADS, PARAMS, OUT),
        passes=("add",),
    ),
    score(
        "score_gradient",
        lambda g, out: rl.prune.scores.gradient(g, out=out),
        lambda g, out: np.copyto(out, reference.pruning.gradient(g)),
        public=("prune.scores.gradient",),
        peers="gradient",
        arrays=(GRADS, OUT),
        passes=("copy",),
    ),
    score(
        "score_movement",
        lambda scores, w, rate: rl.prune.scores.movement_(scores, w, w, rate),
        lambda scores, w, rate: reference.pruning.movement_(scores, w, w, rate),
        public=("prune.scores.movement_",),
        peers="movement",
        arrays=(GRADS, PARAMS),
        numbers=always(0.01),
        writes=True,
        passes=("add",),
    ),
    score(
        "score_wanda",
        lambda w, out, norms: rl.prune.scores.wanda(w, norms, out=out),
        lambda w, out, norms: np.copyto(out, reference.pruning.wanda(w, norms)),
        public=("prune.scores.wanda",),
        peers="wanda",
        arrays=(GRADS, OUT),
        numbers=always(_NORMS),
        passes=("copy",),
        shape=_MATRIX,
    ),
    score(
        "score_lamp",
        rl.prune.scores.lamp,
        reference.pruning.lamp,
        public=("prune.scores.lamp",),
        peers="lamp",
        arrays=(PARAMS,),
        passes=(),
        layouts=(CACHE_2,),
    ),
    applies_masks("apply_mask_first", _apply, _apply_reference, passes=("rewrite",), once=True),
    applies_masks("apply_mask_again", _apply, _apply_reference, passes=("read",), writes=False),
)
