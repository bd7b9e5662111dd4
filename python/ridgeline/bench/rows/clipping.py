"""Clipping by norm, by RMS and by value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial

import ridgeline as rl
from ridgeline import reference

from .layouts import WORKLOADS
from .operation import DTYPES, ONE, TWO, CallNumbers, Numbers, Operation, always, in_turn

row = partial(Operation, family="clipping")

LIMITS = (((10.0, 11.0),), ((-11.0, -10.0),))  # each call changes all that the last one left
_READ_WRITE = ("read", "rewrite")


def _below_joint(norms: list[float]) -> Iterator[Numbers]:
    return ((math.hypot(*norms) * 0.995**k,) for k in itertools.count(1))


def _above_joint(norms: list[float]) -> Iterator[Numbers]:
    return itertools.repeat((2 * math.hypot(*norms),))


def _below_each(norms: list[float]) -> Iterator[Numbers]:
    return ((min(norms) * 0.995**k,) for k in itertools.count(1))


def _falling(first: float) -> CallNumbers:
    return lambda norms: ((first * 0.995**k,) for k in itertools.count())


ROWS = (
    row(
        "clip_by_value_nothing",
        rl.clip_by_value_,
        reference.clip_by_value_,
        public=("clip_by_value_",),
        peers="clip_by_value",
        numbers=always((-1e3, 1e3)),
        passes=("read",),
    ),
    row(
        "clip_by_value_everything",
        rl.clip_by_value_,
        reference.clip_by_value_,
        public=("clip_by_value_",),
        peers="clip_by_value",
        numbers=in_turn(*LIMITS),
        passes=("rewrite",),
        dtypes=DTYPES,
    ),
    row(
        "global_norm_2",
        rl.global_norm,
        reference.global_norm,
        public=("global_norm",),
        passes=("read",),
        writes=False,
        dtypes=DTYPES,
    ),
    *(
        row(
            f"global_norm_{ord}",
            rl.global_norm,
            reference.global_norm,
            public=("global_norm",),
            peers="global_norm",
            numbers=always(ord),
            passes=("read",),
            writes=False,
            layouts=TWO,
            overhead=False,
        )
        for ord in (1, 3, math.inf)
    ),
    row(
        "clip_by_global_norm_clips",
        rl.clip_by_global_norm_,
        reference.clip_by_global_norm_,
        public=("clip_by_global_norm_",),
        peers="clip_by_global_norm",
        numbers=_below_joint,
        passes=_READ_WRITE,
        layouts=(*ONE, *WORKLOADS),
        dtypes=DTYPES,
    ),
    row(
        "clip_by_global_norm_within",
        rl.clip_by_global_norm_,
        reference.clip_by_global_norm_,
        public=("clip_by_global_norm_",),
        peers="clip_by_global_norm",
        numbers=_above_joint,
        passes=("read",),
    ),
    row(
        "clip_by_norm_clips",
        rl.clip_by_norm_,
        reference.clip_by_norm_,
        public=("clip_by_norm_",),
        peers="clip_by_norm",
        numbers=_below_each,
        passes=_READ_WRITE,
    ),
    row(
        "clip_by_rms_clips",
        rl.clip_by_rms_,
        reference.clip_by_rms_,
        public=("clip_by_rms_",),
        peers="clip_by_rms",
        numbers=_falling(0.9),
        passes=_READ_WRITE,
        layouts=TWO,
    ),
    row(
        "zero_largest_1",
        rl.zero_largest_,
        reference.zero_largest_,
        public=("zero_largest_",),
        numbers=always(1),
        passes=("read",),
        layouts=TWO,
    ),
)
