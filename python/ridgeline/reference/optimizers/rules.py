"""The update rules."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ridgeline.reference._tree import Array, Float64
from ridgeline.reference.optimizers.optimizer import Bools, Optimizer, Settings, State
from ridgeline.reference.penalties import L1, L2, ElasticNet, Penalty


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = SGD(w, lr=0.1, momentum=0.5)
    >>> for _ in range(2):
    ...     _ = opt.step(np.array([1.0]))
    >>> w
    array([0.75])
    """

    defaults: ClassVar[Settings] = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        return {"momentum_buffer": np.zeros(w.shape)} if o["momentum"] else {}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        mu = o["momentum"]
        if not mu:
            return g, 1.0
        if self.convention == "keras":
            v = s["momentum_buffer"] = mu * s["momentum_buffer"] - t * g
            return (g - mu * v / t if o["nesterov"] else -v / t), 1.0
        buffer = g if k == 1 else mu * s["momentum_buffer"] + (1 - o["dampening"]) * g
        s["momentum_buffer"] = buffer
        return (g + mu * buffer if o["nesterov"] else buffer), 1.0


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015), AMSGrad (Reddi, Kale & Kumar 2018).

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> _ = Adam(w, lr=0.1, eps=0.0).step(np.array([3.0, -0.01]))
    >>> w
    array([0.9, 1.1])
    """

    defaults: ClassVar[Settings] = {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
    conventions: ClassVar[dict[str, Settings]] = {"keras": {"eps": 1e-7}}

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if o["amsgrad"] else [])]
        return {name: np.zeros(w.shape) for name in names}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        (b1, b2), eps = o["betas"], o["eps"]
        c1, c2 = 1 - b1**k, 1 - b2**k
        m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
        v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g**2
        if self.convention == "optax":
            v = v / c2
        if o["amsgrad"]:
            v = s["max_exp_avg_sq"] = np.maximum(s["max_exp_avg_sq"], v)
        if self.convention == "keras":
            d = (np.sqrt(v) + eps) / math.sqrt(c2)
        elif self.convention == "optax":
            d = np.sqrt(v) + eps
        else:
            d = np.sqrt(v / c2) + eps
        return m / c1 / d, d


class AdamW(Adam):
    """Adam with decoupled decay by default (Loshchilov & Hutter 2019).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> _ = AdamW(w, lr=0.1, weight_decay=0.5).step(np.array([0.0]))
    >>> w
    array([0.95])
    """

    torch_couples: ClassVar[bool] = False
    defaults: ClassVar[Settings] = {**Adam.defaults, "weight_decay": 1e-2}
    conventions: ClassVar[dict[str, Settings]] = {
        "keras": {"eps": 1e-7, "weight_decay": 4e-3},
        "optax": {"weight_decay": 1e-4},
    }


class AdEMAMix(Optimizer):
    """Adam with a second, slow mean of the gradients (Pagliardini, Ablin & Grangier 2024).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> _ = AdEMAMix(w, lr=0.1, betas=(0.9, 0.999, 0.75), alpha=2.0, eps=0.0).step(np.array([3.0]))
    >>> w
    array([0.85])
    """

    torch_couples: ClassVar[bool] = False
    defaults: ClassVar[Settings] = {
        "betas": (0.9, 0.999, 0.9999),
        "alpha": 5.0,
        "eps": 1e-8,
        "alpha_warmup": 0,
        "beta3_warmup": 0,
    }

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        names = ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq")
        return {name: np.zeros(w.shape) for name in names}

    @staticmethod
    def warmed(k: int, o: Settings) -> tuple[float, float]:
        """Return alpha and beta3 of the k-th step: equations 3 and 4.

        Examples
        --------
        >>> o = {"betas": (0.25, 0.999, 0.5), "alpha": 5.0, "alpha_warmup": 5, "beta3_warmup": 3}
        >>> for k in (1, 3):
        ...     alpha, beta3 = AdEMAMix.warmed(k, o)
        ...     print(alpha, f"{beta3:.4f}")
        1.0 0.3536
        3.0 0.5000
        """
        alpha, (start, _, end) = o["alpha"], o["betas"]
        if k < o["alpha_warmup"]:
            alpha = alpha * k / o["alpha_warmup"]
        if k >= o["beta3_warmup"]:
            return alpha, end
        part = k / o["beta3_warmup"]
        logs = np.log(np.array([start, end]))
        return alpha, float(np.exp(1 / ((1 - part) / logs[0] + part / logs[1])))

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        b1, b2, _ = o["betas"]
        alpha, b3 = self.warmed(k, o)
        fast = s["exp_avg_fast"] = b1 * s["exp_avg_fast"] + (1 - b1) * g
        slow = s["exp_avg_slow"] = b3 * s["exp_avg_slow"] + (1 - b3) * g
        v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g**2
        d = np.sqrt(v / (1 - b2**k)) + o["eps"]
        return (fast / (1 - b1**k) + alpha * slow) / d, d


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> _ = NAdam(w, lr=0.1, betas=(0.0, 0.999), eps=0.0).step(np.array([3.0]))
    >>> w
    array([0.9])
    """

    defaults: ClassVar[Settings] = {"betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3}
    conventions: ClassVar[dict[str, Settings]] = {"keras": {"eps": 1e-7, "momentum_decay": 1.0}}

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        return {"exp_avg": np.zeros(w.shape), "exp_avg_sq": np.zeros(w.shape)}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        b1, b2 = o["betas"]
        m = s["exp_avg"] = b1 * s["exp_avg"] + (1 - b1) * g
        v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g**2
        d = np.sqrt(v / (1 - b2**k)) + o["eps"]
        if self.convention == "optax":
            return (b1 / (1 - b1 ** (k + 1)) * m + (1 - b1) / (1 - b1**k) * g) / d, d
        mu = [b1 * (1 - 0.5 * 0.96 ** (j * o["momentum_decay"])) for j in range(1, k + 2)]
        product = math.prod(mu[:-1])
        of_m, of_g = mu[-1] / (1 - product * mu[-1]), (1 - mu[-2]) / (1 - product)
        return (of_m * m + of_g * g) / d, d


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012), centered as in Graves (2013).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> _ = RMSprop(w, lr=0.1, alpha=0.75, eps=0.0).step(np.array([3.0]))
    >>> w
    array([0.8])
    """

    defaults: ClassVar[Settings] = {
        "alpha": 0.99,
        "eps": 1e-8,
        "momentum": 0.0,
        "centered": False,
    }
    conventions: ClassVar[dict[str, Settings]] = {
        "keras": {"alpha": 0.9, "eps": 1e-7},
        "optax": {"alpha": 0.9},
    }

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        names = ["square_avg"]
        names += ["momentum_buffer"] if o["momentum"] else []
        names += ["grad_avg"] if o["centered"] else []
        return {name: np.zeros(w.shape) for name in names}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        alpha, eps, torch = o["alpha"], o["eps"], self.convention == "torch"
        v = s["square_avg"] = alpha * s["square_avg"] + (1 - alpha) * g**2
        if o["centered"]:
            a = s["grad_avg"] = alpha * s["grad_avg"] + (1 - alpha) * g
            v = v - a**2
        d = np.sqrt(v) + eps if torch else np.sqrt(v + eps)
        if not o["momentum"]:
            return g / d, d
        scale = 1.0 if torch else t
        buffer = s["momentum_buffer"] = o["momentum"] * s["momentum_buffer"] + scale * g / d
        return buffer / scale, d


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011).

    Examples
    --------
    >>> w = np.array([1.0])
    >>> opt = Adagrad(w, lr=0.1, eps=0.0, initial_accumulator_value=7.0)
    >>> _ = opt.step(np.array([3.0]))
    >>> w
    array([0.925])
    """

    defaults: ClassVar[Settings] = {
        "lr_decay": 0.0,
        "eps": 1e-10,
        "initial_accumulator_value": 0.0,
    }
    conventions: ClassVar[dict[str, Settings]] = {
        "keras": {"eps": 1e-7, "initial_accumulator_value": 0.1},
        "optax": {"eps": 1e-7, "initial_accumulator_value": 0.1},
    }

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        return {"sum": np.full(w.shape, float(o["initial_accumulator_value"]))}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        total = s["sum"] = s["sum"] + g**2
        torch, eps = self.convention == "torch", o["eps"]
        d = np.sqrt(total) + eps if torch else np.sqrt(total + eps)
        u = g / d
        if self.convention == "optax":
            u = np.where(total > 0, u, 0.0)
        return u, d


class Lion(Optimizer):
    """Lion (Chen et al. 2023).

    Examples
    --------
    >>> w = np.array([1.0, 1.0])
    >>> _ = Lion(w, lr=0.1).step(np.array([1e-9, -5.0]))
    >>> w
    array([0.9, 1.1])
    """

    torch_couples: ClassVar[bool] = False
    defaults: ClassVar[Settings] = {"betas": (0.9, 0.99)}
    conventions: ClassVar[dict[str, Settings]] = {"optax": {"weight_decay": 1e-3}}

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        return {"exp_avg": np.zeros(w.shape)}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Return the direction."""
        (b1, b2), m = o["betas"], s["exp_avg"]
        s["exp_avg"] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g), 1.0


class FTRL(Optimizer):
    """Follow the regularized leader, proximal (McMahan et al. 2013).

    Examples
    --------
    >>> w = np.zeros(2)
    >>> _ = FTRL(w, lr=1.0, beta=1.0, l1=1.0).step(np.array([0.5, -3.0]))
    >>> w
    array([0. , 0.5])
    """

    torch_couples: ClassVar[bool] = False
    defaults: ClassVar[Settings] = {
        "beta": 1.0,
        "l1": 0.0,
        "l2": 0.0,
        "initial_accumulator_value": 0.0,
    }
    conventions: ClassVar[dict[str, Settings]] = {
        "keras": {"beta": 0.0, "initial_accumulator_value": 0.1}
    }

    def initial(self, w: Array, o: Settings) -> State:
        """Return the sums before the first step."""
        start = np.full(w.shape, float(o["initial_accumulator_value"]))
        return {"z": np.zeros(w.shape), "n": start}

    def penalized(self, g: Float64, w: Float64, penalty: Penalty) -> Float64:
        """Add the penalty's gradient, unless it joins l1 and l2."""
        return g if any(self.joined(penalty)) else super().penalized(g, w, penalty)

    @staticmethod
    def joined(penalty: Penalty | None) -> tuple[float, float]:
        """Return what a penalty adds to l1 and to l2."""
        if isinstance(penalty, L1) and penalty.weights is None:
            return penalty.strength, 0.0
        if isinstance(penalty, ElasticNet):
            return penalty.l1, penalty.l2
        return 0.0, penalty.strength if isinstance(penalty, L2) else 0.0

    def move(
        self, w: Float64, g: Float64, s: State, k: int, t: float, o: Settings, kept: Bools
    ) -> tuple[Float64, float | Float64]:
        """Return the weights, which follow from the sums z and n."""
        l1, l2 = o["l1"], o["l2"] * (2 if self.convention == "keras" else 1)
        more = self.joined(o["penalty"])
        l1, l2 = l1 + more[0], l2 + more[1]
        w = self.decayed(w, t, o)
        before = s["n"]
        n = s["n"] = before + g**2
        z = s["z"] = s["z"] + g - (np.sqrt(n) - np.sqrt(before)) / t * w
        d = (o["beta"] + np.sqrt(n)) / t + l2
        return np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / d), 1.0
