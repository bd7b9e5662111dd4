"""Regularization kernels for training loops on the CPU.

Penalties, proximal steps and gradient clipping that work in place on NumPy arrays, PyTorch CPU
tensors and anything else with ``__dlpack__``, one array or a whole model in a call. The same bits
for any number of threads, any instruction set and any memory layout.
"""

from . import clipping, penalties, runtime
from ._core import NonFiniteError, RequiresGradError
from .clipping import (
    clip_by_global_norm_,
    clip_by_norm_,
    clip_by_rms_,
    clip_by_value_,
    global_norm,
    zero_largest_,
)
from .penalties import L0, L1, L2, MCP, SCAD, ElasticNet, Huber, LHalf, LogSum, Penalty
from .runtime import get_num_threads, set_num_threads, show_config, threads

__version__ = "0.1.0"

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "ElasticNet",
    "Huber",
    "LHalf",
    "LogSum",
    "NonFiniteError",
    "Penalty",
    "RequiresGradError",
    "__version__",
    "clip_by_global_norm_",
    "clip_by_norm_",
    "clip_by_rms_",
    "clip_by_value_",
    "clipping",
    "get_num_threads",
    "global_norm",
    "penalties",
    "runtime",
    "set_num_threads",
    "show_config",
    "threads",
    "zero_largest_",
]
