"""Schedule-free rules: gradients at y, a step of z, their mean x (Defazio et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ridgeline.reference._tree import Array, Float64, float64, store
from ridgeline.reference.optimizers.optimizer import Bools, Optimizer, Settings, State


class _ScheduleFree(Optimizer):
    """The parameters are y, which is ``(1 - beta) z + beta x``; x follows from y and z."""

    torch_couples: ClassVar[bool] = False
    defaults: ClassVar[Settings] = {"warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}

    def __init__(self, params: Any, lr: Any, **options: Any) -> None:
        super().__init__(params, lr, **options)
        self.is_training = True

    def initial(self, w: Array, o: Settings) -> State:
        """Return z before the first step, and prepare to remember the learning rates."""
        o["rates"] = []
        return {"z": float64(w)}

    @staticmethod
    def beta(o: Settings) -> float:
        """Return how much of x is in y."""
        return float(o["momentum"] if "momentum" in o else o["betas"][0])

    @staticmethod
    def share(rates: list[float], o: Settings) -> float:
        """Return the last step's part of the mean: of weights k^r (largest rate so far)^p.

        Examples
        --------
        >>> o = {"r": 0.0, "weight_lr_power": 2.0}
        >>> [ScheduleFreeSGD.share(rates, o) for rates in ([0.1], [0.1, 0.1], [1.0, 2.0, 0.5])]
        [1.0, 0.5, 0.4444444444444444]
        """
        largest = np.maximum.accumulate(rates)
        weights = np.arange(1, len(rates) + 1) ** o["r"] * largest ** o["weight_lr_power"]
        return float(weights[-1] / weights.sum()) if weights.any() else 0.0

    def scaled(self, g: Float64, s: State, k: int, o: Settings) -> Float64:
        """Return the gradient, over its denominator if there is one."""
        return g

    def move(
        self, w: Float64, g: Float64, s: State, k: int, t: float, o: Settings, kept: Bools
    ) -> tuple[Float64, float | Float64]:
        """Return y of algorithm 1; the decay is that of the weights y."""
        beta, y, z = self.beta(o), w, s["z"]
        x = (y - (1 - beta) * z) / beta
        rate = t * min(1.0, k / o["warmup_steps"]) if o["warmup_steps"] else t
        o["rates"].append(rate)
        z = s["z"] = z - rate * (self.scaled(g, s, k, o) + o["weight_decay"] * y)
        c = self.share(o["rates"], o)
        x = (1 - c) * x + c * z
        return (1 - beta) * z + beta * x, 1.0

    def eval_(self) -> None:
        """Write x into the parameters.

        Examples
        --------
        >>> w = np.array([1.0])
        >>> opt = ScheduleFreeSGD(w, lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     _ = opt.step(w)  # the gradient of w^2/2
        >>> opt.eval_(), w
        (None, array([0.375]))
        """
        self._write(is_training=False)

    def train_(self) -> None:
        """Write y into the parameters.

        Examples
        --------
        >>> w = np.array([1.0])
        >>> opt = ScheduleFreeSGD(w, lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     _ = opt.step(w)  # the gradient of w^2/2
        >>> opt.eval_(), opt.train_(), w
        (None, None, array([0.3125]))
        """
        self._write(is_training=True)

    def _write(self, is_training: bool) -> None:
        if is_training == self.is_training:
            return
        self.is_training = is_training
        for i, (array, o, kept) in enumerate(
            zip(self.arrays, self.options, self.masks, strict=True)
        ):
            beta, z = self.beta(o), self.state[i]["z"]
            old = float64(array) if self.masters is None else self.masters[i]
            w = (1 - beta) * z + beta * old if is_training else (old - (1 - beta) * z) / beta
            w = w if kept is None else np.where(kept, w, old)
            if self.masters is not None:
                self.masters[i] = w
            store(array, w)


class ScheduleFreeSGD(_ScheduleFree):
    """Schedule-free SGD.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> _ = ScheduleFreeSGD(w, lr=0.5).step(w)
    >>> w
    array([0.5])
    """

    defaults: ClassVar[Settings] = {**_ScheduleFree.defaults, "momentum": 0.9}


class ScheduleFreeAdamW(_ScheduleFree):
    """Schedule-free AdamW.

    Examples
    --------
    >>> w = np.array([1.0])
    >>> _ = ScheduleFreeAdamW(w, lr=0.5, eps=0.0).step(w)
    >>> w
    array([0.5])
    """

    defaults: ClassVar[Settings] = {
        **_ScheduleFree.defaults,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    }

    def initial(self, w: Array, o: Settings) -> State:
        """Return z and the mean of squares before the first step."""
        return {**super().initial(w, o), "exp_avg_sq": np.zeros(w.shape)}

    def scaled(self, g: Float64, s: State, k: int, o: Settings) -> Float64:
        """Return the gradient over its denominator."""
        b2 = o["betas"][1]
        v = s["exp_avg_sq"] = b2 * s["exp_avg_sq"] + (1 - b2) * g**2
        d = np.sqrt(v / (1 - b2**k)) + o["eps"]
        return np.asarray(np.where(d != 0, g / d, 0.0))
