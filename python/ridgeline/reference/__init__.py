"""Reference implementations of every function of ridgeline, in float64 NumPy.

These are the oracles of the test suite, and the place to read what a function means: each is
the formula of its paper, evaluated in float64, and rounded once when it is stored. They take one
NumPy array or a nested list, tuple or dict of them, and carry the public names. Random numbers and
dropout are equal bit for bit, so those say where they round; they take one array.

>>> import numpy as np
>>> from ridgeline import reference
>>> reference.L1(0.5).prox(np.array([2.0, -0.25]), step=1.0)
array([ 1.5, -0. ])
"""

from ridgeline.reference import optimizers, pruning, random
from ridgeline.reference.clipping import (
    clip_by_global_norm_,
    clip_by_norm_,
    clip_by_rms_,
    clip_by_value_,
    global_norm,
    zero_largest_,
)
from ridgeline.reference.dropout import (
    alpha_dropout,
    alpha_dropout_backward,
    drop_block,
    drop_block_mask,
    drop_connect,
    drop_path,
    dropout,
    dropout_add,
    dropout_mask,
    feature_alpha_dropout,
    feature_alpha_dropout_backward,
    gaussian_dropout,
    gaussian_noise,
    patch_dropout,
    token_dropout,
    zoneout,
    zoneout_backward,
)
from ridgeline.reference.penalties import (
    L0,
    L1,
    L2,
    MCP,
    SCAD,
    CappedL1,
    ElasticNet,
    Huber,
    LHalf,
    LogSum,
    Penalty,
    Sum,
)

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "CappedL1",
    "ElasticNet",
    "Huber",
    "LHalf",
    "LogSum",
    "Penalty",
    "Sum",
    "alpha_dropout",
    "alpha_dropout_backward",
    "clip_by_global_norm_",
    "clip_by_norm_",
    "clip_by_rms_",
    "clip_by_value_",
    "drop_block",
    "drop_block_mask",
    "drop_connect",
    "drop_path",
    "dropout",
    "dropout_add",
    "dropout_mask",
    "feature_alpha_dropout",
    "feature_alpha_dropout_backward",
    "gaussian_dropout",
    "gaussian_noise",
    "global_norm",
    "optimizers",
    "patch_dropout",
    "pruning",
    "random",
    "token_dropout",
    "zero_largest_",
    "zoneout",
    "zoneout_backward",
]
