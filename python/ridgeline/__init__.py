"""Regularization kernels for training loops on the CPU.

Penalties, proximal steps, gradient clipping, dropout and pruning that work on NumPy arrays, PyTorch
CPU tensors and anything else with ``__dlpack__``, one array or a whole model in a call. The same
bits for any number of threads, any instruction set and any memory layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import clipping, constraints, optimizers, penalties, prune, random, runtime
from ._core import NonFiniteError, RequiresGradError
from .clipping import (
    GlobalNorm,
    Norm,
    Value,
    clip_by_global_norm_,
    clip_by_norm_,
    clip_by_rms_,
    clip_by_value_,
    global_norm,
    zero_largest_,
)
from .constraints import Box, Constraint, NonNegative
from .dropout import (
    alpha_dropout,
    alpha_dropout_backward,
    drop_block,
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
from .masks import Mask, MaskSet
from .optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    AdEMAMix,
    Lion,
    NAdam,
    RMSprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    decay_filter_for,
    skip_biases_and_norms,
)
from .penalties import (
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
)
from .random import Key
from .runtime import get_num_threads, set_num_threads, show_config, threads

if TYPE_CHECKING:
    from . import bench as bench

__version__ = "0.1.0"

__all__ = [
    "FTRL",
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "SGD",
    "AdEMAMix",
    "Adagrad",
    "Adam",
    "AdamW",
    "Box",
    "CappedL1",
    "Constraint",
    "ElasticNet",
    "GlobalNorm",
    "Huber",
    "Key",
    "LHalf",
    "Lion",
    "LogSum",
    "Mask",
    "MaskSet",
    "NAdam",
    "NonFiniteError",
    "NonNegative",
    "Norm",
    "Penalty",
    "RMSprop",
    "RequiresGradError",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Value",
    "__version__",
    "alpha_dropout",
    "alpha_dropout_backward",
    "clip_by_global_norm_",
    "clip_by_norm_",
    "clip_by_rms_",
    "clip_by_value_",
    "clipping",
    "constraints",
    "decay_filter_for",
    "drop_block",
    "drop_connect",
    "drop_path",
    "dropout",
    "dropout_add",
    "dropout_mask",
    "feature_alpha_dropout",
    "feature_alpha_dropout_backward",
    "gaussian_dropout",
    "gaussian_noise",
    "get_num_threads",
    "global_norm",
    "optimizers",
    "patch_dropout",
    "penalties",
    "prune",
    "random",
    "runtime",
    "set_num_threads",
    "show_config",
    "skip_biases_and_norms",
    "threads",
    "token_dropout",
    "zero_largest_",
    "zoneout",
    "zoneout_backward",
]


def __getattr__(name: str) -> Any:
    if name == "bench":  # loaded where it is used
        import importlib

        return importlib.import_module(".bench", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
