"""Optimizer steps as one writes them in NumPy, PyTorch, DeepSpeed and optax, and in Numba's loops.

Each function takes gradients, parameters and, with a clip, the largest norm, and makes a step: a
function of the gradients that keeps its own states. Lists or one array; PyTorch's step looks at the
``grad`` of its parameters, which is the same memory. What cannot write into an array returns the
new parameters in a list.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import ridgeline as rl
from ridgeline import reference

Step = Callable[[Any], Any]
Make = Callable[..., Step]

RATE = 0.013  # and a decay that is not round: few steps end halfway between two bfloat16
BETAS = (0.9, 0.999)
EPS = 1e-8
DECAY = 0.11
L1 = 0.1
MOMENTUM = 0.9
KEPT = 1 - RATE * DECAY  # of a weight, by decoupled decay
THRESHOLD = RATE * L1
COMPILED = 200  # arrays: torch.compile takes half a second for each
NARROW = {"bfloat16": "bf16", "8bit": "8bit"}


@dataclass(frozen=True)
class Recipe:
    """What a step does: the rule, after clipping by the global norm, before the prox of L1.

    ``parameters`` is their dtype and that of the gradients, ``states`` how moments are stored:
    those of the peers are float32.
    """

    rule: str
    clip: bool = True
    prox: bool = True
    parameters: str = "float32"
    states: str = "float32"

    @property
    def name(self) -> str:
        """Name of the operation."""
        words = ["step", self.rule, *(["clip"] * self.clip), *(["l1"] * self.prox)]
        if self.states != "float32":
            words += [NARROW[self.states], "states"]
        if self.parameters != "float32":
            words += [NARROW[self.parameters], "parameters"]
        return "_".join(words)

    @property
    def pattern(self) -> str:
        """Its memory roof, but for the reading of a norm."""
        if self.rule == "sgd":
            return "momentum"
        if self.parameters == "bfloat16":
            return "adam, bfloat16 parameters"
        return {
            "float32": "adam",
            "bfloat16": "adam, bfloat16 states",
            "8bit": "adam, 8-bit states",
        }[self.states]

    @property
    def passes(self) -> tuple[str, ...]:
        """The memory traffic it cannot do without."""
        return ("read", self.pattern) if self.clip else (self.pattern,)

    @property
    def is_bfloat16(self) -> bool:
        """Whether parameters and gradients are."""
        return self.parameters == "bfloat16"

    @property
    def peer_tolerance(self) -> float:
        """How far a peer's step may be from the reference's, as a part of the step."""
        return 2e-2 if self.is_bfloat16 else 1e-4  # PyTorch clips in bfloat16

    @property
    def tolerance(self) -> float:
        """How far ridgeline's may be; the reference has wide states."""
        return {"bfloat16": 5e-3, "8bit": 2e-2}.get(self.states, self.peer_tolerance)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("adamw"),
        Recipe("adamw", prox=False),
        Recipe("adamw", clip=False, prox=False),
        Recipe("sgd"),
        Recipe("adamw", states="bfloat16"),
        Recipe("adamw", states="8bit"),
        # No prox: after rounding, where peers have it, it is another one.
        Recipe("adamw", prox=False, parameters="bfloat16"),
    )
}


def _corrections(k: int) -> tuple[float, float]:
    """Return lr / (1 - b1^k) and 1 / sqrt(1 - b2^k)."""
    b1, b2 = BETAS
    return RATE / (1 - b1**k), 1 / math.sqrt(1 - b2**k)


def _listed(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [x]


# ridgeline and its reference


def _settings(recipe: Recipe, clip: Any, l1: Any, limit: tuple[float, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {"lr": RATE}
    if recipe.rule == "sgd":
        settings["momentum"] = MOMENTUM
    else:
        settings.update(betas=BETAS, eps=EPS, weight_decay=DECAY)
    if recipe.clip:
        settings["clip"] = clip(*limit)
    if recipe.prox:
        settings.update(penalty=l1(L1), prox="plain")
    return settings


def ridgeline_step(recipe: Recipe, states: str | None = None) -> Make:
    """Return ridgeline's step; `states` in place of the recipe's."""
    stored = states or recipe.states

    def make(grads: Any, params: Any, *limit: float) -> Step:
        rule = rl.SGD if recipe.rule == "sgd" else rl.AdamW
        settings = _settings(recipe, rl.GlobalNorm, rl.L1, limit)
        if stored != "float32":
            settings["state_dtype"] = stored
        optimizer = rule(params, **settings)

        def step(grads: Any) -> None:
            optimizer.step(grads)

        return step

    return make


def reference_step(recipe: Recipe) -> Make:
    """Return the step of the reference, with states in float64."""
    optimizers = reference.optimizers

    def make(grads: Any, params: Any, *limit: float) -> Step:
        rule = optimizers.SGD if recipe.rule == "sgd" else optimizers.AdamW
        optimizer = rule(params, **_settings(recipe, optimizers.GlobalNorm, reference.L1, limit))

        def step(grads: Any) -> None:
            optimizer.step(grads)

        return step

    return make


def ridgeline_tables(recipe: Recipe) -> dict[str, Make]:
    """Return what ridgeline's narrow states are compared with: its wide ones."""
    if recipe.states == "float32":
        return {}
    return {"ridgeline float32 states": ridgeline_step(recipe, "float32")}


# NumPy


def numpy_tables(recipe: Recipe) -> dict[str, Make]:
    """Return the formulas, array after array; bfloat16 by way of float32."""
    b1, b2 = BETAS

    def wide(x: Any) -> Any:
        return x.astype(np.float32, copy=False)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        weights = _listed(params)
        first = [np.zeros(w.shape, np.float32) for w in weights]
        second = [np.zeros(w.shape, np.float32) for w in weights]
        count = 0

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            grads = _listed(grads)
            if limit:
                norm = math.sqrt(sum(float(np.dot(wide(g), wide(g))) for g in grads))
                for g in grads:
                    g *= g.dtype.type(min(1.0, limit[0] / norm))
            rate, root = _corrections(count)
            for w, g, m, v in zip(weights, grads, first, second, strict=True):
                x, g = wide(w), wide(g)
                if recipe.rule == "sgd":
                    m *= MOMENTUM
                    m += g
                    x = x - RATE * m
                else:
                    m += (1 - b1) * (g - m)
                    v += (1 - b2) * (g * g - v)
                    x = KEPT * x - rate * m / (np.sqrt(v) * root + EPS)
                if recipe.prox:
                    x -= np.clip(x, -THRESHOLD, THRESHOLD)
                w[...] = x

        return step

    return {"numpy": make}


# PyTorch and DeepSpeed


def _torch_parts() -> tuple[Any, Callable[[list[Any], list[Any]], list[Any]], Callable[..., None]]:
    torch: Any = importlib.import_module("torch")

    def parameters(params: list[Any], grads: list[Any]) -> list[Any]:
        made = [torch.nn.Parameter(w) for w in params]
        for w, g in zip(made, grads, strict=True):
            w.grad = g
        return made

    def shrink(params: list[Any]) -> None:
        with torch.no_grad():
            moved = torch._foreach_clamp_min(params, -THRESHOLD)
            torch._foreach_clamp_max_(moved, THRESHOLD)
            torch._foreach_sub_(params, moved)

    return torch, parameters, shrink


def torch_tables(recipe: Recipe, compiled: bool) -> dict[str, Make]:
    """Return torch.optim with fused=True, and the formulas compiled; both want float32 states."""
    if recipe.is_bfloat16:
        return {}
    torch, parameters, shrink = _torch_parts()
    b1, b2 = BETAS

    def fused(grads: Any, params: Any, *limit: float) -> Step:
        weights = parameters(_listed(params), _listed(grads))
        if recipe.rule == "sgd":
            optimizer = torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM, fused=True)
        else:
            optimizer = torch.optim.AdamW(
                weights, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
            )

        def step(grads: Any) -> None:
            if limit:
                torch.nn.utils.clip_grad_norm_(weights, limit[0], foreach=True)
            optimizer.step()
            if recipe.prox:
                shrink(weights)

        return step

    def by_compiler(grads: Any, params: Any, *limit: float) -> Step:
        weights, held = _listed(params), _listed(grads)
        if len(weights) > COMPILED:
            raise ValueError(f"{len(weights)} arrays would take too long to compile")
        first = [torch.zeros_like(w) for w in weights]
        second = [torch.zeros_like(w) for w in weights]
        count = 0

        def update(weights: Any, grads: Any, first: Any, second: Any, rate: Any, root: Any) -> None:
            scale = 1.0
            if limit:
                norms = torch.stack([torch.linalg.vector_norm(g) for g in grads])
                scale = torch.clamp(limit[0] / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
            for w, g, m, v in zip(weights, grads, first, second, strict=True):
                g = g * scale
                if recipe.rule == "sgd":
                    m.mul_(MOMENTUM).add_(g)
                    w.sub_(RATE * m)
                else:
                    m.add_((1 - b1) * (g - m))
                    v.add_((1 - b2) * (g * g - v))
                    w.mul_(KEPT).sub_(rate * m / (v.sqrt() * root + EPS))
                if recipe.prox:
                    w.sub_(w.clamp(-THRESHOLD, THRESHOLD))

        fast = torch.compile(update, dynamic=False, fullgraph=True)

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            numbers = torch.tensor(_corrections(count), dtype=torch.float32)
            fast(weights, held, first, second, numbers[0], numbers[1])

        return step

    return {"torch fused": fused, **({"torch.compile": by_compiler} if compiled else {})}


def deepspeed_tables(recipe: Recipe) -> dict[str, Make]:
    """Return DeepSpeedCPUAdam, between PyTorch's clip and a prox; it compiles at its first use."""
    if recipe.rule != "adamw":
        return {}
    torch, parameters, shrink = _torch_parts()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        adam: Any = importlib.import_module("deepspeed.ops.adam")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        weights = parameters(_listed(params), _listed(grads))
        optimizer = adam.DeepSpeedCPUAdam(
            weights, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, adamw_mode=True
        )

        def step(grads: Any) -> None:
            if limit:
                torch.nn.utils.clip_grad_norm_(weights, limit[0], foreach=True)
            optimizer.step()
            if recipe.prox:
                shrink(weights)

        return step

    return {"deepspeed": make}


# optax


def optax_tables(recipe: Recipe) -> dict[str, Make]:
    """Return a chain in one compiled function that may reuse parameters and states."""
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    jnp, tree = jax.numpy, jax.tree

    def wide(arrays: Any) -> Any:
        return tree.map(lambda x: x.astype(jnp.float32), arrays)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        chain = [optax.clip_by_global_norm(limit[0])] if limit else []
        if recipe.rule == "sgd":
            chain.append(optax.sgd(RATE, momentum=MOMENTUM))
        else:
            chain.append(optax.adamw(RATE, *BETAS, eps=EPS, weight_decay=DECAY))
        rule = optax.chain(*chain)

        def shrink(w: Any) -> Any:
            return w - jnp.clip(w, -THRESHOLD, THRESHOLD)

        def update(weights: Any, state: Any, grads: Any) -> Any:
            before = wide(weights)
            updates, state = rule.update(wide(grads), state, before)
            after = optax.apply_updates(before, updates)
            if recipe.prox:
                after = tree.map(shrink, after)
            return tree.map(lambda x, w: x.astype(w.dtype), after, weights), state

        fast = jax.jit(update, donate_argnums=(0, 1))
        weights = [jnp.array(w, copy=True) for w in _listed(params)]
        # On the device of the gradients, as what comes out: else the second step compiles again.
        device = _listed(grads)[0].device
        weights, state = jax.device_put((weights, rule.init(wide(weights))), device)

        def step(grads: Any) -> Any:
            nonlocal weights, state
            weights, state = jax.block_until_ready(fast(weights, state, _listed(grads)))
            return weights

        return step

    return {"optax": make}


# Numba


def numba_tables(recipe: Recipe) -> dict[str, Make]:
    """Return the loops by hand: one for the norm, one for all the rest."""
    from . import loops

    b1, b2 = (np.float32(x) for x in BETAS)
    momentum, eps, kept = np.float32(MOMENTUM), np.float32(EPS), np.float32(KEPT)
    threshold = np.float32(THRESHOLD if recipe.prox else 0.0)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        weights = _listed(params)
        first = [np.zeros(w.shape, np.float32) for w in weights]
        second = [np.zeros(w.shape, np.float32) for w in weights]
        count = 0

        def loop(name: str, x: Any, *arguments: Any) -> Any:
            compiled = loops.of_size(x)
            return (compiled.narrow if recipe.is_bfloat16 else compiled.wide)[name](x, *arguments)

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            grads = _listed(grads)
            scale = np.float32(1)
            if limit:
                norm = math.sqrt(sum(loop("squares", g) for g in grads))
                scale = np.float32(min(1.0, limit[0] / norm))
            if recipe.rule == "sgd":
                rate = np.float32(RATE)
                for w, g, m in zip(weights, grads, first, strict=True):
                    loop("sgd", w, g, m, scale, rate, momentum, threshold)
                return
            rate, root = (np.float32(x) for x in _corrections(count))
            for w, g, m, v in zip(weights, grads, first, second, strict=True):
                loop("adamw", w, g, m, v, scale, rate, root, b1, b2, eps, kept, threshold)

        return step

    return {"numba": make}
