"""Projections onto a set."""

from __future__ import annotations

from functools import lru_cache, partial

import ridgeline as rl
from ridgeline import reference

from .clipping import LIMITS
from .layouts import MEMORY
from .operation import TWO, Operation, in_turn

row = partial(Operation, family="constraints", passes=("rewrite",), overhead=False)

_box = lru_cache(rl.Box)

ROWS = (
    row(
        "box",
        lambda x, limits: _box(*limits).project_(x),
        lambda x, limits: reference.optimizers.Box(*limits).project_(x),
        public=("Box.project_",),
        peers="clip_by_value",
        numbers=in_turn(*LIMITS),
        layouts=TWO,
    ),
    row(
        "non_negative",
        rl.NonNegative().project_,
        reference.optimizers.NonNegative().project_,
        public=("NonNegative.project_",),
        once=True,
        layouts=(MEMORY,),
    ),
)
