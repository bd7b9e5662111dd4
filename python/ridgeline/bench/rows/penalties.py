"""Penalties: value, gradient and proximal step of each."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial
from typing import Any

import numpy as np

import ridgeline as rl
from ridgeline import reference

from ..peers.settings import CAP, DELTA, EPS, GAMMA, L1, L2, RIDGE, SCAD_GAMMA, STEP, STRENGTH
from ..peers.tools import held
from .layouts import MEMORY, WORKLOADS, Layout
from .operation import DTYPES, GRADS, LAYOUTS, ONE, OUT, PARAMS, TWO, Operation, always

row = partial(Operation, family="penalties")


def _verbs(
    name: str,
    make: Callable[[Any], Any],
    *,
    public: str,
    value: tuple[Layout, ...] = (MEMORY,),
    gradient: tuple[Layout, ...] = (MEMORY,),
    prox: tuple[Layout, ...] = TWO,
    dtypes: tuple[str, ...] = ("float32",),
    prox_dtypes: tuple[str, ...] = ("float32",),
    step: float = STEP,
    overhead: Container[str] = (),
) -> Iterator[Operation]:
    """The three operations of a penalty; `make` takes `ridgeline` or its reference."""
    ours, right = make(rl), make(reference)
    yield row(
        f"value_{name}",
        ours.value,
        right.value,
        public=(f"{public}.value",),
        arrays=(PARAMS,),
        passes=("read",),
        writes=False,
        layouts=value,
        dtypes=dtypes,
        overhead="value" in overhead,
    )
    if name != "l0":
        yield row(
            f"add_gradient_{name}",
            ours.add_gradient_,
            right.add_gradient_,
            public=(f"{public}.add_gradient_",),
            arrays=(GRADS, PARAMS),
            passes=("add",),
            layouts=gradient,
            dtypes=dtypes,
            overhead="add_gradient" in overhead,
        )
    yield row(
        f"prox_{name}",
        ours.prox_,
        right.prox_,
        public=(f"{public}.prox_",),
        numbers=always(step),
        passes=("rewrite",),
        layouts=prox,
        dtypes=prox_dtypes,
        overhead="prox" in overhead,
    )


def _mcp_and_ridge(library: Any) -> Any:
    return library.MCP(STRENGTH, GAMMA) + library.L2(RIDGE)


def _adaptive(library: Any) -> Callable[..., None]:
    """Return the proximal step of the adaptive lasso: its weights are checked but once."""
    made = held(lambda a: library.L1(STRENGTH, weights=np.abs(a)))

    def prox(x: Any, weights: Any, step: float) -> None:
        made(weights).prox_(x, step)

    return prox


_L1 = rl.L1(STRENGTH)

ROWS = (
    *_verbs(
        "elastic_net",
        lambda library: library.ElasticNet(L1, L2),
        public="ElasticNet",
        value=LAYOUTS,
        gradient=(*ONE, *WORKLOADS),
        dtypes=DTYPES,
        overhead=("value", "add_gradient"),
    ),
    *_verbs(
        "l1",
        lambda library: library.L1(STRENGTH),
        public="L1",
        value=TWO,
        gradient=TWO,
        prox=LAYOUTS,
        prox_dtypes=DTYPES,
        overhead=("prox",),
        step=1e-5,
    ),
    *_verbs("l2", lambda library: library.L2(STRENGTH), public="L2", value=TWO, gradient=TWO),
    *_verbs("mcp", lambda library: library.MCP(STRENGTH, GAMMA), public="MCP"),
    *_verbs("scad", lambda library: library.SCAD(STRENGTH, SCAD_GAMMA), public="SCAD"),
    *_verbs("log_sum", lambda library: library.LogSum(STRENGTH, EPS), public="LogSum"),
    *_verbs("l0", lambda library: library.L0(STRENGTH), public="L0"),
    *_verbs("l_half", lambda library: library.LHalf(STRENGTH), public="LHalf"),
    *_verbs("huber", lambda library: library.Huber(STRENGTH, DELTA), public="Huber"),
    *_verbs("capped_l1", lambda library: library.CappedL1(STRENGTH, CAP), public="CappedL1"),
    *_verbs("mcp_l2", _mcp_and_ridge, public="penalties.Sum"),
    row(
        "prox_l1_out",
        lambda x, out, step: _L1.prox(x, step, out=out),
        lambda x, out, step: np.copyto(out, reference.L1(STRENGTH).prox(x, step)),
        public=("L1.prox",),
        arrays=(GRADS, OUT),
        numbers=always(STEP),
        passes=("copy",),
        writes=False,
        layouts=TWO,
        overhead=False,
    ),
    row(
        "prox_weighted_l1",
        _adaptive(rl),
        _adaptive(reference),
        public=("L1.prox_",),
        arrays=(GRADS, PARAMS),
        numbers=always(STEP),
        passes=("add",),
        layouts=TWO,
        overhead=False,
    ),
)
