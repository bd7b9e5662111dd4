"""Steps of optimizers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ..peers import optimizers as peers
from ..peers.optimizers import Recipe
from .layouts import GPT2, MEMORY, RESNET, WORKLOADS, Layout
from .operation import GRADS, NO_NUMBERS, PARAMS, Numbers, Operation


def _half_joint(norms: list[float]) -> Iterator[Numbers]:
    return itertools.repeat((math.hypot(*norms) / 2,))


def _layouts(recipe: Recipe) -> tuple[Layout, ...]:
    """Return the models on which a step is measured."""
    if recipe == peers.RECIPES[0] or recipe.rule == "momentum":
        return WORKLOADS
    if recipe.clip and recipe.parameters in ("float32", "bfloat16"):
        return (RESNET, GPT2)
    return (RESNET,) if recipe.rule in ("sgd", "adam") else ()


ROWS = tuple(
    Operation(
        recipe.name,
        peers.ridgeline_step(recipe),
        peers.reference_step(recipe),
        family="optimizers",
        public=recipe.public,
        arrays=(GRADS, PARAMS),
        numbers=_half_joint if recipe.clip else NO_NUMBERS,
        recipe=recipe,
        passes=recipe.passes,
        writes=False,
        layouts=(MEMORY, *_layouts(recipe)),
        dtypes=(recipe.parameters,),
        overhead=recipe == Recipe("adamw"),
        checked=10_007,
    )
    for recipe in peers.RECIPES
)
