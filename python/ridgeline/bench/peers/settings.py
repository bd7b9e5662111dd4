"""The constants that ridgeline's rows and all peers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Penalties
L1 = 1e-5  # of the elastic net
L2 = 1e-4
STRENGTH = 1.0  # of the others
GAMMA = 1.5  # of MCP, which is constant from there
SCAD_GAMMA = 2.1
EPS = 0.5
DELTA = 1.0
CAP = 1.0  # of the capped L1
RIDGE = 1e-2  # of the L2 beside MCP
STEP = 1e-3

# Steps and lists
COMPILED = 200  # arrays: more take a minute to compile

# Pruning
SIDE = 4  # of blocks

# Random numbers and dropout
BLOCK = 3  # of drop_block
HIGH = 1000  # of integers
_SELU = 1.7580993408473766  # scale times alpha of SELU


def alpha_constants(p: float) -> tuple[float, float, float]:
    """Return a and A a p, the factor and the shift of what is kept, and A a p - A a."""
    a = 1 / math.sqrt((_SELU * _SELU * p + 1) * (1 - p))
    return a, _SELU * a * p, _SELU * a * p - _SELU * a


def block_seeds(shape: Sequence[int], p: float) -> float:
    """Return the probability of a seed of drop_block (Ghiasi, Lin & Le 2018)."""
    height, width = shape[2:]
    return p * height * width / BLOCK**2 / ((height - BLOCK + 1) * (width - BLOCK + 1))
