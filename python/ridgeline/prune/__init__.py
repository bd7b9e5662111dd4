"""Pruning: exact selection of the weights to prune, and masks with one bit per element.

`magnitude`, `by_score` and `random` return masks; `NM`, `Block` and `Channels` are structures that
are pruned as a whole. A schedule is called with a step and returns a sparsity; `budget` distributes
a sparsity among arrays; `scores` has alternatives to ranking by magnitude.
"""

from ..structures import NM, Block, Channels, columns, rows
from . import budget, export, scores
from ._select import by_score, magnitude, random, random_shrink_
from .report import Report, plot, report
from .schedules import ConstantSchedule, CubicSchedule, LinearSchedule, OneShotSchedule
from .training import SET, Pruner, PruneReport, RigL

__all__ = [
    "NM",
    "SET",
    "Block",
    "Channels",
    "ConstantSchedule",
    "CubicSchedule",
    "LinearSchedule",
    "OneShotSchedule",
    "PruneReport",
    "Pruner",
    "Report",
    "RigL",
    "budget",
    "by_score",
    "columns",
    "export",
    "magnitude",
    "plot",
    "random",
    "random_shrink_",
    "report",
    "rows",
    "scores",
]
