"""What is measured: each operation once, a file for each family, and on which arrays."""

from __future__ import annotations

from . import clipping, constraints, dropout, optimizers, penalties, pruning, random

OPERATIONS = (
    *penalties.ROWS,
    *clipping.ROWS,
    *constraints.ROWS,
    *dropout.ROWS,
    *random.ROWS,
    *pruning.ROWS,
    *optimizers.ROWS,
)
