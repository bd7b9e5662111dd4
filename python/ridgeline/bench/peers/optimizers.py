"""Idiomatic optimizer steps in NumPy, PyTorch, DeepSpeed, optax, scikit-learn and Numba.

Each function takes gradients, parameters and, with a clip, the largest norm, and makes a step: a
function of the gradients that keeps its own states. Lists or one array; PyTorch's step looks at the
``grad`` of its parameters, which is the same memory. What cannot write into an array returns the
new parameters in a list.
"""

from __future__ import annotations

import importlib
import logging
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import ridgeline as rl
from ridgeline import reference

from .settings import COMPILED

Step = Callable[[Any], Any]
Make = Callable[..., Step]

RATE = 0.013  # and a decay that is not round: few steps end halfway between two bfloat16
BETAS = (0.9, 0.999)
EPS = 1e-8
DECAY = 0.11
L1 = 0.1
MOMENTUM = 0.9
KEPT = 1 - RATE * DECAY  # of a weight, by decoupled decay
THRESHOLD = RATE * L1  # of a step that is one learning rate long


_ADAM = {"betas": BETAS, "eps": EPS}
_AMSGRAD_BETAS = (0.9, 0.99)  # with 0.999 the maximum would hardly matter to a few steps
_LION_BETAS = (0.9, 0.99)
_ALPHA = 0.99
_MOMENTUM_DECAY = 4e-3
_SLOW = 0.9999  # the decay of AdEMAMix's second mean, and its weight
_SLOW_WEIGHT = 5.0


@dataclass(frozen=True)
class Rule:
    """An update rule: ridgeline's and PyTorch's class of that name, with these settings.

    ``pattern``: its memory roof. ``torch``: "fused" or "foreach", whatever torch.optim has; "" for
    nothing. ``optax``: the function and its arguments, where the formula is the same.
    """

    optimizer: str
    settings: dict[str, Any]
    pattern: tuple[str, ...]
    torch: str = ""
    optax: tuple[str, dict[str, Any]] | None = None


RULES = {
    "sgd": Rule("SGD", {}, ("add",), "fused", ("sgd", {})),
    "momentum": Rule(
        "SGD", {"momentum": MOMENTUM}, ("momentum",), "fused", ("sgd", {"momentum": MOMENTUM})
    ),
    "adam": Rule(
        "Adam", _ADAM, ("adam",), "fused", ("adam", {"b1": BETAS[0], "b2": BETAS[1], "eps": EPS})
    ),
    "adam_keras": Rule("Adam", {**_ADAM, "convention": "keras"}, ("adam",)),
    "amsgrad": Rule(
        "Adam",
        {"betas": _AMSGRAD_BETAS, "eps": EPS, "amsgrad": True},
        ("adam", "rewrite"),
        "fused",
    ),
    "adamw": Rule(
        "AdamW",
        {**_ADAM, "weight_decay": DECAY},
        ("adam",),
        "fused",
        ("adamw", {"b1": BETAS[0], "b2": BETAS[1], "eps": EPS, "weight_decay": DECAY}),
    ),
    "nadam": Rule("NAdam", {**_ADAM, "momentum_decay": _MOMENTUM_DECAY}, ("adam",), "foreach"),
    "rmsprop": Rule(
        "RMSprop",
        {"alpha": _ALPHA, "eps": EPS},
        ("momentum",),
        "foreach",
        ("rmsprop", {"decay": _ALPHA, "eps": EPS, "eps_in_sqrt": False}),
    ),
    "adagrad": Rule(
        "Adagrad",
        {"eps": 1e-10},
        ("momentum",),
        "fused",
        # inside of the root, where 1e-10 would be another formula
        ("adagrad", {"initial_accumulator_value": 0.0, "eps": 1e-30}),
    ),
    "lion": Rule(
        "Lion",
        {"betas": _LION_BETAS},
        ("momentum",),
        optax=("lion", {"b1": _LION_BETAS[0], "b2": _LION_BETAS[1], "weight_decay": 0.0}),
    ),
    "ftrl": Rule("FTRL", {"lr": 1.0, "beta": 1.0, "l1": 1e-3}, ("adam",)),
    "ademamix": Rule(
        "AdEMAMix",
        {"betas": (*BETAS, _SLOW), "alpha": _SLOW_WEIGHT, "eps": EPS},
        ("adam", "rewrite"),
        optax=(
            "contrib.ademamix",
            {"b1": BETAS[0], "b2": BETAS[1], "b3": _SLOW, "alpha": _SLOW_WEIGHT, "eps": EPS},
        ),
    ),
    "schedule_free_sgd": Rule(
        "ScheduleFreeSGD",
        {"momentum": MOMENTUM},
        ("momentum",),
        optax=("contrib.schedule_free_sgd", {"b1": MOMENTUM}),
    ),
    "schedule_free_adamw": Rule(
        "ScheduleFreeAdamW",
        _ADAM,
        ("adam",),
        optax=("contrib.schedule_free_adamw", {"b1": BETAS[0], "b2": BETAS[1], "eps": EPS}),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What a step does: the rule, after clipping by the global norm, before the prox of L1.

    ``parameters`` is their dtype and that of the gradients, ``states`` how moments are stored:
    those of the peers are float32, or float64 as the parameters.
    """

    rule: str
    clip: bool = True
    prox: bool = True
    parameters: str = "float32"
    states: str = "float32"

    @property
    def name(self) -> str:
        """Name of the operation."""
        words = [self.rule, *(["clip"] * self.clip), *(["l1"] * self.prox)]
        if self.states != "float32":
            words += [{"bfloat16": "bf16"}.get(self.states, self.states), "states"]
        return "_".join(words)

    @property
    def public(self) -> tuple[str, ...]:
        """What of the public interface it calls."""
        return (f"{RULES[self.rule].optimizer}.step",)

    @property
    def passes(self) -> tuple[str, ...]:
        """The memory traffic it cannot do without."""
        step = RULES[self.rule].pattern
        if self.is_half:
            step = ("adam_wide",)
        elif self.states != "float32":
            step = ({"bfloat16": "adam_narrow", "8bit": "adam_bytes"}[self.states],)
        return ("read", *step) if self.clip else step

    @property
    def is_half(self) -> bool:
        """Whether parameters and gradients are of 16 bits."""
        return self.parameters in ("bfloat16", "float16")

    @property
    def of_states(self) -> Any:
        """The dtype of the peers' states."""
        return np.float64 if self.parameters == "float64" else np.float32

    @property
    def peer_tolerance(self) -> float:
        """How far a peer's step may be from the reference's, as a part of the step."""
        return 2e-2 if self.is_half else 1e-4  # PyTorch clips in bfloat16

    @property
    def tolerance(self) -> float:
        """How far ridgeline's may be; the reference has wide states."""
        return {"bfloat16": 5e-3, "8bit": 2e-2}.get(self.states, self.peer_tolerance)


RECIPES = (
    Recipe("adamw"),
    Recipe("adamw", prox=False),
    Recipe("adamw", clip=False, prox=False),
    Recipe("momentum"),
    Recipe("adamw", states="bfloat16"),
    Recipe("adamw", states="8bit"),
    # No prox: after rounding, where peers have it, it is another one.
    Recipe("adamw", prox=False, parameters="bfloat16"),
    Recipe("adamw", prox=False, parameters="float16"),
    Recipe("adamw", prox=False, parameters="float64"),
    *(Recipe(rule, clip=False, prox=False) for rule in RULES if rule not in ("adamw", "momentum")),
)


def _corrections(k: int, betas: tuple[float, float] = BETAS) -> tuple[float, float]:
    """Return lr / (1 - b1^k) and 1 / sqrt(1 - b2^k)."""
    b1, b2 = betas
    return RATE / (1 - b1**k), 1 / math.sqrt(1 - b2**k)


def _listed(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [x]


# ridgeline and its reference


def _settings(recipe: Recipe, clip: Any, l1: Any, limit: tuple[float, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {"lr": RATE, **RULES[recipe.rule].settings}
    if recipe.clip:
        settings["clip"] = clip(*limit)
    if recipe.prox:
        settings.update(penalty=l1(L1), prox="plain")
    return settings


def ridgeline_step(recipe: Recipe, states: str | None = None) -> Make:
    """Return ridgeline's step; `states` in place of the recipe's."""
    stored = states or recipe.states

    def make(grads: Any, params: Any, *limit: float) -> Step:
        settings = _settings(recipe, rl.GlobalNorm, rl.L1, limit)
        if stored != "float32":
            settings["state_dtype"] = stored
        optimizer = getattr(rl, RULES[recipe.rule].optimizer)(params, **settings)

        def step(grads: Any) -> None:
            optimizer.step(grads)

        return step

    return make


def reference_step(recipe: Recipe) -> Make:
    """Return the step of the reference, with states in float64."""
    optimizers = reference.optimizers

    def make(grads: Any, params: Any, *limit: float) -> Step:
        settings = _settings(recipe, optimizers.GlobalNorm, reference.L1, limit)
        optimizer = getattr(optimizers, RULES[recipe.rule].optimizer)(params, **settings)

        def step(grads: Any) -> None:
            optimizer.step(grads)

        return step

    return make


def ridgeline_tables(recipe: Recipe) -> dict[str, Make]:
    """Return what ridgeline's narrow states are compared with: its wide ones."""
    if recipe.states == "float32":
        return {}
    return {"ridgeline float32 states": ridgeline_step(recipe, "float32")}


def unfit(recipe: Recipe, library: str) -> str:
    """Say why a library can't keep float32 states beside such parameters."""
    if library in ("torch", "deepspeed") and recipe.is_half:
        return f"its states would be {recipe.parameters}"
    return "no float16" if library == "numba" and recipe.parameters == "float16" else ""


# NumPy


def numpy_tables(recipe: Recipe) -> dict[str, Make]:
    """Return the formulas, array after array; half types by way of float32."""
    update = _UPDATES[recipe.rule]

    def wide(x: Any) -> Any:
        return x.astype(np.float32) if recipe.is_half else x

    def make(grads: Any, params: Any, *limit: float) -> Step:
        weights = _listed(params)
        states = [[np.zeros(w.shape, recipe.of_states) for _ in range(3)] for w in weights]
        count = 0

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            grads = _listed(grads)
            if limit:
                norm = math.sqrt(sum(float(np.dot(wide(g), wide(g))) for g in grads))
                for g in grads:
                    g *= g.dtype.type(min(1.0, limit[0] / norm))
            for w, g, state in zip(weights, grads, states, strict=True):
                x = update(wide(w), wide(g), *state, count)
                if recipe.prox:
                    threshold = _threshold(recipe, count)
                    x -= np.clip(x, -threshold, threshold)
                w[...] = x

        return step

    return {"numpy": make}


# The new weights, from weights, gradient, up to three states, which change, and the step's number.


def _sgd(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    return w - RATE * g


def _momentum(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    m *= MOMENTUM
    m += g
    return w - RATE * m


def _moments(g: Any, m: Any, v: Any, betas: tuple[float, float] = BETAS) -> None:
    m += (1 - betas[0]) * (g - m)
    v += (1 - betas[1]) * (g * g - v)


def _adam(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    _moments(g, m, v)
    rate, root = _corrections(k)
    return w - rate * m / (np.sqrt(v) * root + EPS)


def _adam_keras(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    _moments(g, m, v)
    rate, root = _corrections(k)
    return w - rate / root * m / (np.sqrt(v) + EPS)


def _amsgrad(w: Any, g: Any, m: Any, v: Any, most: Any, k: int) -> Any:
    _moments(g, m, v, _AMSGRAD_BETAS)
    np.maximum(most, v, out=most)
    rate, root = _corrections(k, _AMSGRAD_BETAS)
    return w - rate * m / (np.sqrt(most) * root + EPS)


def _adamw(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    return _adam(KEPT * w, g, m, v, z, k)


def _nadam(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    _moments(g, m, v)
    mu = [BETAS[0] * (1 - 0.5 * 0.96 ** (j * _MOMENTUM_DECAY)) for j in range(1, k + 2)]
    product = math.prod(mu[:-1])
    of_m, of_g = mu[-1] / (1 - product * mu[-1]), (1 - mu[-2]) / (1 - product)
    return w - RATE * (of_m * m + of_g * g) / (np.sqrt(v) * _corrections(k)[1] + EPS)


def _rmsprop(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    v += (1 - _ALPHA) * (g * g - v)
    return w - RATE * g / (np.sqrt(v) + EPS)


def _adagrad(w: Any, g: Any, m: Any, total: Any, z: Any, k: int) -> Any:
    total += g * g
    return w - RATE * g / (np.sqrt(total) + 1e-10)


def _lion(w: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    moved = np.sign(_LION_BETAS[0] * m + (1 - _LION_BETAS[0]) * g)
    m += (1 - _LION_BETAS[1]) * (g - m)
    return w - RATE * moved


def _ftrl(w: Any, g: Any, n: Any, z: Any, _: Any, k: int) -> Any:
    settings = RULES["ftrl"].settings
    before = np.sqrt(n)
    n += g * g
    root = np.sqrt(n)
    z += g - (root - before) / settings["lr"] * w
    shrunk = z - np.clip(z, -settings["l1"], settings["l1"])
    return -shrunk * settings["lr"] / (settings["beta"] + root)


def _ademamix(w: Any, g: Any, m: Any, v: Any, slow: Any, k: int) -> Any:
    _moments(g, m, v)
    slow += (1 - _SLOW) * (g - slow)
    rate, root = _corrections(k)
    return w - (rate * m + RATE * _SLOW_WEIGHT * slow) / (np.sqrt(v) * root + EPS)


def _schedule_free(y: Any, direction: Any, z: Any, k: int) -> Any:
    """Return the weights at which the next gradient is taken; z starts as the first."""
    if k == 1:
        z[...] = y
    y = y + (z - y) / k - RATE * (1 - MOMENTUM * (1 - 1 / k)) * direction
    z -= RATE * direction
    return y


def _schedule_free_sgd(y: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    return _schedule_free(y, g, z, k)


def _schedule_free_adamw(y: Any, g: Any, m: Any, v: Any, z: Any, k: int) -> Any:
    v += (1 - BETAS[1]) * (g * g - v)
    return _schedule_free(y, g / (np.sqrt(v) * _corrections(k)[1] + EPS), z, k)


_UPDATES: dict[str, Callable[..., Any]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
    "adam_keras": _adam_keras,
    "amsgrad": _amsgrad,
    "adamw": _adamw,
    "nadam": _nadam,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "lion": _lion,
    "ftrl": _ftrl,
    "ademamix": _ademamix,
    "schedule_free_sgd": _schedule_free_sgd,
    "schedule_free_adamw": _schedule_free_adamw,
}


# scikit-learn


def sklearn_tables(recipe: Recipe) -> dict[str, Make]:
    """Return what its multi-layer perceptron uses: private classes, plain steps."""
    if recipe.clip or recipe.rule not in ("sgd", "adam_keras"):
        return {}
    try:
        rules: Any = importlib.import_module("sklearn.neural_network._stochastic_optimizers")
        adam, sgd = rules.AdamOptimizer, rules.SGDOptimizer
    except (ImportError, AttributeError):
        return {}

    def make(grads: Any, params: Any) -> Step:
        weights = _listed(params)
        if recipe.rule == "sgd":
            optimizer = sgd(weights, learning_rate_init=RATE, momentum=0.0, nesterov=False)
        else:
            b1, b2 = BETAS
            optimizer = adam(weights, learning_rate_init=RATE, beta_1=b1, beta_2=b2, epsilon=EPS)

        def step(grads: Any) -> None:
            optimizer.update_params(weights, _listed(grads))

        return step

    return {"scikit-learn": make}


# PyTorch and DeepSpeed


def _threshold(recipe: Recipe, k: int) -> float:
    """Return the threshold of the k-th step: a momentum makes steps longer."""
    if recipe.rule != "momentum":
        return THRESHOLD
    return THRESHOLD * (1 - MOMENTUM**k) / (1 - MOMENTUM)


def _torch_parts() -> tuple[Any, Callable[[list[Any], list[Any]], list[Any]], Callable[..., None]]:
    torch: Any = importlib.import_module("torch")

    def parameters(params: list[Any], grads: list[Any]) -> list[Any]:
        made = [torch.nn.Parameter(w) for w in params]
        for w, g in zip(made, grads, strict=True):
            w.grad = g
        return made

    def shrink(params: list[Any], threshold: float) -> None:
        with torch.no_grad():
            moved = torch._foreach_clamp_min(params, -threshold)
            torch._foreach_clamp_max_(moved, threshold)
            torch._foreach_sub_(params, moved)

    return torch, parameters, shrink


def torch_tables(recipe: Recipe, compiled: bool) -> dict[str, Make]:
    """Return torch.optim, and formulas compiled; its states would be of the half types."""
    rule = RULES[recipe.rule]
    if not rule.torch:
        return {}
    tables = {f"torch {rule.torch}": _torch_optim(recipe)}
    if compiled and recipe.rule in ("adamw", "momentum"):
        tables["torch.compile"] = _torch_compiled(recipe)
    return tables


def _torch_optim(recipe: Recipe) -> Make:
    rule = RULES[recipe.rule]
    torch, parameters, shrink = _torch_parts()

    def make(grads: Any, params: Any, *limit: float) -> Step:
        weights = parameters(_listed(params), _listed(grads))
        settings = {"lr": RATE, **rule.settings, rule.torch: True}
        optimizer = getattr(torch.optim, rule.optimizer)(weights, **settings)
        count = 0

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            if limit:
                torch.nn.utils.clip_grad_norm_(weights, limit[0], foreach=True)
            optimizer.step()
            if recipe.prox:
                shrink(weights, _threshold(recipe, count))

        return step

    return make


def _torch_compiled(recipe: Recipe) -> Make:
    torch: Any = importlib.import_module("torch")
    b1, b2 = BETAS

    def make(grads: Any, params: Any, *limit: float) -> Step:
        weights, held = _listed(params), _listed(grads)
        if len(weights) > COMPILED:
            raise ValueError(f"{len(weights)} arrays would take too long to compile")
        first = [torch.zeros_like(w) for w in weights]
        second = [torch.zeros_like(w) for w in weights]
        count = 0

        def update(
            weights: Any, grads: Any, first: Any, second: Any, rate: Any, root: Any, threshold: Any
        ) -> None:
            scale = 1.0
            if limit:
                norms = torch.stack([torch.linalg.vector_norm(g) for g in grads])
                scale = torch.clamp(limit[0] / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)
            for w, g, m, v in zip(weights, grads, first, second, strict=True):
                g = g * scale
                if recipe.rule == "momentum":
                    m.mul_(MOMENTUM).add_(g)
                    w.sub_(RATE * m)
                else:
                    m.add_((1 - b1) * (g - m))
                    v.add_((1 - b2) * (g * g - v))
                    w.mul_(KEPT).sub_(rate * m / (v.sqrt() * root + EPS))
                if recipe.prox:
                    w.sub_(w.clamp(-threshold, threshold))

        fast = torch.compile(update, dynamic=False, fullgraph=True)

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            numbers = torch.tensor(
                [*_corrections(count), _threshold(recipe, count)], dtype=torch.float32
            )
            fast(weights, held, first, second, *numbers)

        return step

    return make


def deepspeed_tables(recipe: Recipe) -> dict[str, Make]:
    """Return DeepSpeed's, between PyTorch's clip and a prox; they compile at their first use."""
    classes: dict[str, tuple[str, str, dict[str, Any]]] = {
        "adam": ("adam", "DeepSpeedCPUAdam", {**_ADAM, "adamw_mode": False}),
        "adamw": ("adam", "DeepSpeedCPUAdam", {**_ADAM, "weight_decay": DECAY, "adamw_mode": True}),
        "adagrad": ("adagrad", "DeepSpeedCPUAdagrad", RULES["adagrad"].settings),
        "lion": ("lion", "DeepSpeedCPULion", RULES["lion"].settings),
    }
    if recipe.rule not in classes:
        return {}
    module, name, settings = classes[recipe.rule]
    torch, parameters, shrink = _torch_parts()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        library: Any = importlib.import_module(f"deepspeed.ops.{module}")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        weights = parameters(_listed(params), _listed(grads))
        optimizer = getattr(library, name)(weights, lr=RATE, **settings)

        def step(grads: Any) -> None:
            if limit:
                torch.nn.utils.clip_grad_norm_(weights, limit[0], foreach=True)
            optimizer.step()
            if recipe.prox:
                shrink(weights, THRESHOLD)

        return step

    return {"deepspeed": make}


# optax


def optax_tables(recipe: Recipe) -> dict[str, Make]:
    """Return a chain in one compiled function that may reuse parameters and states."""
    called = RULES[recipe.rule].optax
    if called is None:
        return {}
    name, settings = called
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    jnp, tree = jax.numpy, jax.tree

    def wide(arrays: Any) -> Any:
        return tree.map(lambda x: x.astype(recipe.of_states), arrays)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        chain = [optax.clip_by_global_norm(limit[0])] if limit else []
        chain.append(operator.attrgetter(name)(optax)(RATE, **settings))
        rule = optax.chain(*chain)

        count = 0

        def update(weights: Any, state: Any, grads: Any, threshold: Any) -> Any:
            before = wide(weights)
            updates, state = rule.update(wide(grads), state, before)
            after = optax.apply_updates(before, updates)
            if recipe.prox:
                after = tree.map(lambda w: w - jnp.clip(w, -threshold, threshold), after)
            return tree.map(lambda x, w: x.astype(w.dtype), after, weights), state

        fast = jax.jit(update, donate_argnums=(0, 1))
        weights = [jnp.array(w, copy=True) for w in _listed(params)]
        # On the device of the gradients, as what comes out: else the second step compiles again.
        device = _listed(grads)[0].device
        weights, state = jax.device_put((weights, rule.init(wide(weights))), device)

        def step(grads: Any) -> Any:
            nonlocal weights, state, count
            count += 1
            threshold = np.float32(_threshold(recipe, count))
            weights, state = jax.block_until_ready(fast(weights, state, _listed(grads), threshold))
            return weights

        return step

    return {"optax": make}


# Numba


def numba_tables(recipe: Recipe) -> dict[str, Make]:
    """Return the loops by hand: one for the norm, one for all the rest."""
    from . import numba_loops as loops

    if recipe.rule not in ("adam", "adamw", "momentum"):
        return {}
    b1, b2 = (np.float32(x) for x in BETAS)
    momentum, eps = np.float32(MOMENTUM), np.float32(EPS)
    kept = np.float32(KEPT if recipe.rule == "adamw" else 1)

    def make(grads: Any, params: Any, *limit: float) -> Step:
        weights = _listed(params)
        first = [np.zeros(w.shape, recipe.of_states) for w in weights]
        second = [np.zeros(w.shape, recipe.of_states) for w in weights]
        count = 0

        def loop(name: str, x: Any, *arguments: Any) -> Any:
            compiled = loops.of_size(x)
            return (compiled.narrow if recipe.is_half else compiled.wide)[name](x, *arguments)

        def step(grads: Any) -> None:
            nonlocal count
            count += 1
            grads = _listed(grads)
            threshold = np.float32(_threshold(recipe, count) if recipe.prox else 0.0)
            scale = np.float32(1)
            if limit:
                norm = math.sqrt(sum(loop("squares", g) for g in grads))
                scale = np.float32(min(1.0, limit[0] / norm))
            if recipe.rule == "momentum":
                rate = np.float32(RATE)
                for w, g, m in zip(weights, grads, first, strict=True):
                    loop("momentum", w, g, m, scale, rate, momentum, threshold)
                return
            rate, root = (np.float32(x) for x in _corrections(count))
            for w, g, m, v in zip(weights, grads, first, second, strict=True):
                loop("adamw", w, g, m, v, scale, rate, root, b1, b2, eps, kept, threshold)

        return step

    return {"numba": make}
