"""Random numbers."""

from __future__ import annotations

from functools import partial

import ridgeline as rl
from ridgeline import reference

from ..peers.settings import HIGH
from . import fairness, operation
from .dropout import POLYNOMIALS
from .operation import OUT, TWO, keys

draws = partial(operation.draws, family="random", arrays=(OUT,), passes=("write",))

ROWS = (
    draws(
        "uniform",
        lambda out, key: rl.random.uniform(out.shape, key, out=out),
        lambda out, key: reference.random.uniform(out.shape, key, dtype=out.dtype),
        public=("random.uniform",),
        numbers=keys(),
        fair=fairness.uniform,
        dtypes=("float32", "float64"),
    ),
    draws(
        "normal",
        lambda out, key: rl.random.normal(out.shape, key, out=out),
        lambda out, key: reference.random.normal(out.shape, key, dtype=out.dtype),
        public=("random.normal",),
        numbers=keys(),
        fair=fairness.normal,
        tolerance=POLYNOMIALS,
        dtypes=("float32", "float64"),
    ),
    draws(
        "bernoulli",
        lambda out, p, key: rl.random.bernoulli(out.nbytes, key, p),
        lambda out, p, key: reference.random.bernoulli(out.nbytes, key, p),
        public=("random.bernoulli",),
        numbers=keys(0.1),
        fair=fairness.bernoulli,
        results=(1.0,),
        checked=25_003,
        layouts=TWO,
    ),
    draws(
        "integers",
        lambda out, key: rl.random.integers(out.nbytes // 8, key, HIGH),
        lambda out, key: reference.random.integers(out.nbytes // 8, key, HIGH),
        public=("random.integers",),
        numbers=keys(),
        fair=fairness.integers,
        results=(1.0,),
        layouts=TWO,
    ),
)
