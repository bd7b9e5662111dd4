"""Dropout and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ridgeline as rl
from ridgeline import reference

from ..peers.settings import BLOCK
from . import fairness
from .layouts import ACTIVATIONS, MEMORY
from .operation import DTYPES, GRADS, ONE, OUT, OUT_2, PARAMS, TWO, draws, keys, makes_masks

# The reference's log, sin and cos are other polynomials.
POLYNOMIALS = 2e-6
_PATCHES = (-1, 64, 64)
_TOKENS = (-1, 16, 64)
_MAPS = (-1, 4, 16, 16)


def _into(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, out, p, key: function(x, p, key, out=out)


def _new(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, out, p, key: function(x, p, key)


ROWS = (
    draws(
        "dropout_50",
        _into(rl.dropout),
        _new(reference.dropout),
        public=("dropout",),
        peers="dropout",
        numbers=keys(0.5),
        fair=fairness.dropout,
        layouts=(*ONE, *ACTIVATIONS),
        dtypes=DTYPES,
        overhead=True,
    ),
    draws(
        "dropout_10",
        _into(rl.dropout),
        _new(reference.dropout),
        public=("dropout",),
        peers="dropout",
        numbers=keys(0.1),
        fair=fairness.dropout,
    ),
    draws(
        "dropout_50_in_place",
        lambda x, p, key: rl.dropout(x, p, key, out=x),
        reference.dropout,
        public=("dropout",),
        peers="dropout_in_place",
        arrays=(GRADS,),
        numbers=keys(0.5),
        passes=("rewrite",),
        writes=True,
        fair=fairness.dropout,
    ),
    draws(
        "dropout_50_forward_backward",
        lambda x, dy, y, dx, p, key: (
            rl.dropout(x, p, key, out=y),
            rl.dropout(dy, p, key, out=dx),
        ),
        lambda x, dy, y, dx, p, key: (
            reference.dropout(x, p, key),
            reference.dropout(dy, p, key),
        ),
        public=("dropout",),
        peers="dropout_forward_backward",
        arrays=(GRADS, PARAMS, OUT, OUT_2),
        numbers=keys(0.5),
        passes=("copy", "copy"),
        fair=fairness.dropout_and_gradient,
        layouts=(*ONE, *ACTIVATIONS),
    ),
    draws(
        "dropout_add_10",
        lambda x, residual, out, p, key: rl.dropout_add(x, residual, p, key, out=out),
        lambda x, residual, out, p, key: reference.dropout_add(x, residual, p, key),
        public=("dropout_add",),
        peers="dropout_add",
        arrays=(GRADS, PARAMS, OUT),
        numbers=keys(0.1),
        passes=("add",),
        fair=fairness.dropout_add,
        dtypes=DTYPES,
    ),
    draws(
        "alpha_dropout_10",
        _into(rl.alpha_dropout),
        _new(reference.alpha_dropout),
        public=("alpha_dropout",),
        peers="alpha_dropout",
        numbers=keys(0.1),
        fair=fairness.alpha_dropout,
        dtypes=DTYPES,
    ),
    draws(
        "alpha_dropout_backward_10",
        _into(rl.alpha_dropout_backward),
        _new(reference.alpha_dropout_backward),
        public=("alpha_dropout_backward",),
        peers="alpha_dropout_backward",
        numbers=keys(0.1),
        fair=fairness.alpha_dropout_backward,
        layouts=(MEMORY,),
    ),
    draws(
        "feature_alpha_dropout_10",
        _into(rl.feature_alpha_dropout),
        _new(reference.feature_alpha_dropout),
        public=("feature_alpha_dropout",),
        peers="feature_alpha_dropout",
        numbers=keys(0.1),
        fair=fairness.feature_alpha_dropout,
        shape=_MAPS,
        layouts=(MEMORY,),
    ),
    draws(
        "gaussian_noise",
        _into(rl.gaussian_noise),
        _new(reference.gaussian_noise),
        public=("gaussian_noise",),
        numbers=keys(0.1),
        fair=fairness.gaussian_noise,
        tolerance=POLYNOMIALS,
        layouts=TWO,
    ),
    draws(
        "drop_connect_50",
        _into(rl.drop_connect),
        _new(reference.drop_connect),
        public=("drop_connect",),
        peers="dropout",
        numbers=keys(0.5),
        fair=fairness.dropout,
        layouts=(MEMORY,),
    ),
    draws(
        "drop_path_20",
        _into(rl.drop_path),
        _new(reference.drop_path),
        public=("drop_path",),
        peers="drop_path",
        numbers=keys(0.2),
        fair=fairness.shared_dropout(1),
        shape=_TOKENS,
        layouts=TWO,
    ),
    draws(
        "token_dropout_50",
        _into(rl.token_dropout),
        _new(reference.token_dropout),
        public=("token_dropout",),
        peers="token_dropout",
        numbers=keys(0.5),
        fair=fairness.shared_dropout(2),
        shape=_TOKENS,
        layouts=TWO,
    ),
    draws(
        "drop_block_10",
        lambda x, out, p, key: rl.drop_block(x, p, BLOCK, key, out=out),
        lambda x, out, p, key: reference.drop_block(x, p, BLOCK, key),
        public=("drop_block",),
        peers="drop_block",
        numbers=keys(0.1),
        fair=fairness.drop_block,
        shape=_MAPS,
        layouts=TWO,
    ),
    draws(
        "zoneout_10",
        lambda new, old, out, p, key: rl.zoneout(new, old, p, key, out=out),
        lambda new, old, out, p, key: reference.zoneout(new, old, p, key),
        public=("zoneout",),
        peers="zoneout",
        arrays=(GRADS, PARAMS, OUT),
        numbers=keys(0.1),
        passes=("add",),
        fair=fairness.zoneout,
        layouts=TWO,
    ),
    draws(
        "zoneout_backward_10",
        rl.zoneout_backward,
        reference.zoneout_backward,
        public=("zoneout_backward",),
        peers="zoneout_backward",
        arrays=(GRADS,),
        numbers=keys(0.1),
        passes=("add",),
        fair=fairness.zoneout_gradients,
        results=(1.0, 1.0),
        layouts=(MEMORY,),
    ),
    draws(
        "patch_dropout_50",
        lambda x, p, key: rl.patch_dropout(x, p, key)[0],
        lambda x, p, key: reference.patch_dropout(x, p, key)[0],
        public=("patch_dropout",),
        peers="patch_dropout",
        arrays=(GRADS,),
        numbers=keys(0.5),
        passes=(),
        fair=fairness.patches,
        results=(0.5,),
        shape=_PATCHES,
        layouts=(MEMORY,),
    ),
    makes_masks(
        "dropout_mask_50",
        lambda w, p, key: rl.dropout_mask(w.shape, p, key),
        lambda w, p, key: reference.dropout_mask(w.shape, p, key),
        family="dropout",
        public=("dropout_mask",),
        peers="dropout_mask",
        numbers=keys(0.5),
        passes=(),
        fair=fairness.kept_bits,
        layouts=TWO,
    ),
    draws(
        "gaussian_dropout_10",
        _into(rl.gaussian_dropout),
        _new(reference.gaussian_dropout),
        public=("gaussian_dropout",),
        peers="gaussian_dropout",
        numbers=keys(0.1),
        fair=fairness.gaussian_dropout,
        tolerance=POLYNOMIALS,
    ),
    draws(
        "spatial_dropout_50",
        lambda x, out, p, key: rl.dropout(x, p, key, broadcast_axes=(2, 3), out=out),
        lambda x, out, p, key: reference.dropout(x, p, key, broadcast_axes=(2, 3)),
        public=("dropout",),
        peers="spatial_dropout",
        numbers=keys(0.5),
        fair=fairness.shared_dropout(2),
        shape=_MAPS,
    ),
)
