"""The update rules: the formula, hyperparameters and states of each optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import _core
from .._checks import decay as below_one
from .._checks import flag, non_negative, optional
from .fields import Field, fixed, hyperparameter
from .group import LearningRate, Number, WeightDecay, detached
from .optimizer import GradientStep, Optimizer
from .states import Array


class _Momentum(GradientStep):
    """A rule that has a momentum state only if some group has a momentum at construction."""

    def _fix(self) -> None:
        if self._stateful is None:
            self._stateful = any(group.momentum for group in self.groups)

    def _check_group(self, values: Mapping[str, Any]) -> None:
        if self._stateful is False and values["momentum"]:
            raise ValueError(
                f"momentum: got {values['momentum']}, wants 0: no state was allocated, because "
                "there was no momentum at construction"
            )


class SGD(_Momentum):
    """Stochastic gradient descent, with momentum (Polyak 1964; Sutskever et al. 2013).

    ::

        b ← μ b + (1 - τ) g;  w ← w - η b, or w ← w - η (g + μ b) with Nesterov momentum

    At an array's first step b is g. With ``convention="keras"`` the state is a velocity that
    includes the learning rate: ``v ← μ v - η g``, ``w ← w + v``.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        The learning rate η.
    momentum : float, default 0
        μ, at least 0. If it is 0 there is no state.
    dampening : float, default 0
        τ.
    nesterov : bool, default False
        Requires a momentum and no dampening.
    weight_decay : float or callable, default 0
        λ, coupled or decoupled; see `decay` of `Optimizer`.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.SGD(w, lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     report = opt.step(w.copy())  # the gradient of w^2/2
    >>> w.round(3)
    array([ 0.72, -1.44])
    """

    lr: LearningRate = hyperparameter(default=1e-3)
    momentum: float = hyperparameter(default=0.0)
    dampening: float = hyperparameter(default=0.0)
    nesterov: bool = hyperparameter(default=False)
    weight_decay: WeightDecay = hyperparameter(default=0.0)

    def _check_group(self, values: Mapping[str, Any]) -> None:
        super()._check_group(values)
        if values["nesterov"] and (not values["momentum"] or values["dampening"]):
            raise ValueError(
                f"nesterov: got True with momentum={values['momentum']} and "
                f"dampening={values['dampening']}, wants a momentum and no dampening"
            )

    def _kind(self) -> str:
        return "momentum" if self._stateful else "sgd"


class Adam(GradientStep):
    """Adam (Kingma and Ba 2015), with `amsgrad` (Reddi, Kale and Kumar 2018).

    ::

        m ← m + (1 - β₁)(g - m);  v ← β₂ v + (1 - β₂) g²
        w ← w - η / (1 - β₁ᵏ) · m / (√(v / (1 - β₂ᵏ)) + ε)

    k counts the array's own steps. ``convention="keras"`` adds ε to √v before the correction, and
    its default is 1e-7.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        The learning rate η.
    betas : (float, float), default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, optional
        ε, at least 0; 1e-8 by default.
    weight_decay : float or callable, optional
        λ, 0 by default. Coupled as in torch; decoupled with other conventions and in `AdamW`, see
        `decay` of `Optimizer`.
    amsgrad : bool, default False
        Use the largest v so far. ``convention="optax"`` compares bias-corrected values.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.Adam(w, lr=0.1).step(np.array([3.0, -0.5]))
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    lr: LearningRate = hyperparameter(default=1e-3)
    betas: tuple[float, float] = hyperparameter(default=(0.9, 0.999))
    eps: Field[float, float | None] = hyperparameter(
        default=None, torch=1e-8, keras=1e-7, optax=1e-8
    )
    weight_decay: Field[WeightDecay, WeightDecay | None] = hyperparameter(
        default=None, torch=0.0, keras=0.0, optax=0.0
    )
    amsgrad: bool = fixed(default=False, check=flag)

    def _kind(self) -> str:
        return "amsgrad" if self.amsgrad else "adam"


class AdamW(Adam):
    """Adam with decoupled weight decay by default (Loshchilov and Hutter 2019).

    ::

        w ← w (1 - η λ), then the update of Adam

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        The learning rate η.
    betas : (float, float), default (0.9, 0.999)
        See `Adam`.
    eps : float, optional
        See `Adam`.
    weight_decay : float or callable, optional
        λ: 1e-2 by default, as in torch; 4e-3 with ``convention="keras"``, 1e-4 with ``"optax"``.
    amsgrad : bool, default False
        See `Adam`.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.AdamW(w, lr=0.1, clip=rl.GlobalNorm(1.0), penalty=rl.L1(0.5), prox="plain")
    >>> opt.step(np.array([3.0, 4.0])).norm
    5.0
    >>> w.round(3)
    array([ 0.849, -2.048])
    """

    weight_decay: Field[WeightDecay, WeightDecay | None] = hyperparameter(
        default=None, torch=1e-2, keras=4e-3, optax=1e-4
    )

    _torch_couples_decay = False


class NAdam(GradientStep):
    """Adam with Nesterov momentum (Dozat 2016).

    ::

        μₖ = β₁ (1 - 0.96^(kψ) / 2);  m, v as in Adam
        w ← w - η ((1 - μₖ) / (1 - Π μᵢ, i ≤ k) g + μₖ₊₁ / (1 - Π μᵢ, i ≤ k + 1) m) / (√v̂ + ε)

    ``convention="optax"`` keeps μ at β₁.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 2e-3
        The learning rate η.
    betas : (float, float), default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, optional
        ε, at least 0; 1e-8 by default, 1e-7 with ``convention="keras"``.
    weight_decay : float or callable, default 0
        λ, coupled or decoupled; see `decay` of `Optimizer`.
    momentum_decay : float, optional
        ψ, at least 0; 4e-3 by default, 1 with ``convention="keras"``.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.NAdam(w, lr=0.1).step(np.array([3.0, -0.5]))
    >>> w.round(4)
    array([ 0.8944, -1.8944])
    """

    lr: LearningRate = hyperparameter(default=2e-3)
    betas: tuple[float, float] = hyperparameter(default=(0.9, 0.999))
    eps: Field[float, float | None] = hyperparameter(
        default=None, torch=1e-8, keras=1e-7, optax=1e-8
    )
    weight_decay: WeightDecay = hyperparameter(default=0.0)
    momentum_decay: Field[float, float | None] = hyperparameter(
        default=None, torch=4e-3, keras=1.0, optax=0.0
    )

    def _kind(self) -> str:
        return "nadam"

    def _of_parameters(self) -> tuple[str, ...]:
        return ("products",)


class RMSprop(_Momentum):
    """RMSprop (Tieleman and Hinton 2012), centered (Graves 2013), with momentum.

    ::

        v ← α v + (1 - α) g²;  w ← w - η g / (√v + ε)

    If centered, the square of the gradient's mean is subtracted from v. With momentum,
    ``b ← μ b + g / (√v + ε)`` and ``w ← w - η b``. ``convention="keras"`` and ``"optax"`` use
    √(v + ε), and their b includes η.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-2
        The learning rate η.
    alpha : float, optional
        α in [0, 1); 0.99 by default, 0.9 with the other conventions.
    eps : float, optional
        ε, at least 0; 1e-8 by default, 1e-7 with ``convention="keras"``.
    weight_decay : float or callable, default 0
        λ, coupled or decoupled; see `decay` of `Optimizer`.
    momentum : float, default 0
        μ, at least 0.
    centered : bool, default False
        Whether to subtract the squared mean, which estimates the variance of the gradient.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.RMSprop(w, lr=0.01).step(np.array([3.0, -0.5]))
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    lr: LearningRate = hyperparameter(default=1e-2)
    alpha: Field[float, float | None] = hyperparameter(
        default=None, torch=0.99, keras=0.9, optax=0.9
    )
    eps: Field[float, float | None] = hyperparameter(
        default=None, torch=1e-8, keras=1e-7, optax=1e-8
    )
    weight_decay: WeightDecay = hyperparameter(default=0.0)
    momentum: float = hyperparameter(default=0.0)
    centered: bool = fixed(default=False, check=flag)

    def _kind(self) -> str:
        return f"rmsprop{'_centered' * self.centered}{'_momentum' * bool(self._stateful)}"

    def _check_state_type(self, name: str, value: str) -> None:
        if self.centered and value in ("bfloat16", "8bit"):
            raise ValueError(
                f"{name}: got {value!r} for a centered RMSprop, wants 'float32': it subtracts "
                "states of nearly equal size"
            )


class _Sums(Optimizer):
    """A rule whose state is a sum of squares."""

    _sum: ClassVar[str]

    def _initial_value(self, state: str) -> float:
        return float(self._options["initial_accumulator_value"]) if state == self._sum else 0.0

    def _check_state_type(self, name: str, value: str) -> None:
        if value == "8bit":
            raise ValueError(
                f"{name}: got '8bit' for {type(self).__name__}, wants 'float32' or 'bfloat16': its "
                "sums grow by less than 8 bits resolve"
            )


class Adagrad(_Sums, GradientStep):
    """Adagrad (Duchi, Hazan and Singer 2011).

    ::

        s ← s + g²;  w ← w - η / (1 + (k - 1) δ) · g / (√s + ε)

    ``convention="keras"`` and ``"optax"`` use √(s + ε).

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-2
        The learning rate η.
    lr_decay : float, default 0
        δ, at least 0.
    weight_decay : float or callable, default 0
        λ, coupled or decoupled; see `decay` of `Optimizer`.
    initial_accumulator_value : float, optional
        The first value of s; 0 by default, 0.1 with the other conventions.
    eps : float, optional
        ε, at least 0; 1e-10 by default, 1e-7 with the other conventions.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> report = rl.Adagrad(w, lr=0.1).step(np.array([3.0, -0.5]))
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    lr: LearningRate = hyperparameter(default=1e-2)
    lr_decay: float = hyperparameter(default=0.0)
    weight_decay: WeightDecay = hyperparameter(default=0.0)
    initial_accumulator_value: Field[float, float | None] = fixed(
        default=None, check=optional(non_negative), torch=0.0, keras=0.1, optax=0.1
    )
    eps: Field[float, float | None] = hyperparameter(
        default=None, torch=1e-10, keras=1e-7, optax=1e-7
    )

    _sum = "sum"

    def _kind(self) -> str:
        return "adagrad"


class Lion(GradientStep):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum.

    ::

        w ← w - η sign(β₁ m + (1 - β₁) g);  m ← β₂ m + (1 - β₂) g

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-4
        The learning rate η.
    betas : (float, float), default (0.9, 0.99)
        β₁ and β₂, in [0, 1).
    weight_decay : float or callable, optional
        0 by default, 1e-3 with ``convention="optax"``.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0, 0.5])
    >>> report = rl.Lion(w, lr=0.25).step(np.array([3.0, -0.5, 0.0]))
    >>> w
    array([ 0.75, -1.75,  0.5 ])
    """

    lr: LearningRate = hyperparameter(default=1e-4)
    betas: tuple[float, float] = hyperparameter(default=(0.9, 0.99))
    weight_decay: Field[WeightDecay, WeightDecay | None] = hyperparameter(
        default=None, torch=0.0, keras=0.0, optax=1e-3
    )

    _torch_couples_decay = False

    def _kind(self) -> str:
        return "lion"


def _three_betas(name: str, value: Any) -> tuple[float, float, float]:
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise TypeError(f"{name}: got {value!r}, wants three numbers in [0, 1)")
    first, second, third = (below_one(f"{name}[{i}]", each) for i, each in enumerate(value))
    return first, second, third


class AdEMAMix(GradientStep):
    """AdEMAMix (Pagliardini, Ablin and Grangier 2024): Adam with a second, slow mean.

    ::

        m₁ ← β₁ m₁ + (1 - β₁) g;  m₂ ← β₃ m₂ + (1 - β₃) g;  v ← β₂ v + (1 - β₂) g²
        w ← w (1 - η λ) - η (m₁ / (1 - β₁ᵏ) + α m₂) / (√(v / (1 - β₂ᵏ)) + ε)

    During warm-up α grows linearly from 0, and β₃ grows from β₁ such that its half-life is linear
    in the step.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        The learning rate η.
    betas : (float, float, float), default (0.9, 0.999, 0.9999)
        β₁, β₂ and β₃, in [0, 1).
    alpha : float, default 5
        α, at least 0: the weight of the slow mean.
    eps : float, default 1e-8
        ε, at least 0.
    weight_decay : float or callable, default 0
        λ; decoupled unless `decay` of `Optimizer` says otherwise.
    alpha_warmup, beta3_warmup : int, default 0
        The number of steps after which α and β₃ reach their values; the paper recommends the total
        number of training steps.
    **options : penalty, prox, clip, mask, constraint and more
        See `Optimizer`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.AdEMAMix(w, lr=0.1, alpha=5.0, alpha_warmup=100, beta3_warmup=100)
    >>> report = opt.step(np.array([3.0, -0.5]))
    >>> w.round(4)
    array([ 0.9, -1.9])
    """

    lr: LearningRate = hyperparameter(default=1e-3)
    betas: tuple[float, float, float] = hyperparameter(
        default=(0.9, 0.999, 0.9999), number=Number(_three_betas, "betas")
    )
    alpha: float = hyperparameter(default=5.0, number=Number(non_negative, "slow_weight"))
    eps: float = hyperparameter(default=1e-8)
    weight_decay: WeightDecay = hyperparameter(default=0.0)
    alpha_warmup: int = hyperparameter(default=0)
    beta3_warmup: int = hyperparameter(default=0)

    _torch_couples_decay = False

    def _kind(self) -> str:
        return "ademamix"


class FTRL(_Sums):
    """FTRL-Proximal (McMahan et al. 2013), whose L1 term produces exact zeros.

    ::

        n' = n + g²;  z ← z + g - (√n' - √n) / η · w
        w ← 0 if |z| ≤ λ₁, else -(z - λ₁ sign(z)) / ((β + √n') / η + λ₂)

    Weights are computed from z and n, which do not start from them: nonzero initial weights have an
    effect only through the first step, as in TensorFlow.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 0.1
        The learning rate η, above 0; alpha in the paper.
    beta : float, optional
        β, at least 0; 1 by default, 0 with ``convention="keras"``.
    l1, l2 : float, default 0
        λ₁ and λ₂, at least 0. With ``convention="keras"`` λ₂ is twice `l2`.
    initial_accumulator_value : float, optional
        The first value of n; 0 by default, 0.1 with ``convention="keras"``.
    weight_decay : float or callable, default 0
        λ; decoupled unless `decay` of `Optimizer` says otherwise.
    **options : penalty, clip, mask, constraint and more
        See `Optimizer`. `L1`, `L2` and `ElasticNet` as `penalty` add to `l1` and `l2`; the gradient
        of other penalties, and of their sums, is added to the gradient. There is no `prox`, because
        the update is one, no `max_update_rms` and no `cautious`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.zeros(2)
    >>> opt = rl.FTRL(w, lr=0.5, l1=1.0)
    >>> report = opt.step(np.array([3.0, 0.5]))
    >>> w
    array([-0.25,  0.  ])
    """

    lr: LearningRate = hyperparameter(default=0.1)
    beta: Field[float, float | None] = hyperparameter(default=None, torch=1.0, keras=0.0)
    l1: float = hyperparameter(default=0.0)
    l2: float = hyperparameter(default=0.0)
    initial_accumulator_value: Field[float, float | None] = fixed(
        default=None, check=optional(non_negative), torch=0.0, keras=0.1
    )
    weight_decay: WeightDecay = hyperparameter(default=0.0)

    _torch_couples_decay = False
    _conventions = ("torch", "keras")
    _sum = "n"

    def _check_group(self, values: Mapping[str, Any]) -> None:
        if not callable(values["lr"]):
            self._check_rate(_core.number("lr", detached(values["lr"])))

    def _check_rate(self, lr: float) -> None:
        if not lr > 0:
            raise ValueError("lr: got 0, wants a finite number above 0: FTRL divides by lr")

    def _kind(self) -> str:
        return "ftrl"

    def _in_core(self, name: str, value: Any) -> Any:
        return 2 * value if name == "l2" and self.convention == "keras" else value


class _ScheduleFree(Optimizer):
    """A rule that replaces the schedule by a running mean of the weights, used for evaluation."""

    _torch_couples_decay = False
    _conventions = ("torch",)
    _copies = ("z",)

    @property
    def is_training(self) -> bool:
        """Whether the parameters hold the training weights; see `train_` and `eval_`."""
        return self._core.is_training

    def train_(self) -> None:
        """Set the parameters, in place, to the training weights y, where gradients are computed.

        Does nothing if they already hold y, as they do when the optimizer is created.

        Raises
        ------
        TypeError, ValueError
            If a parameter can no longer be written.

        Examples
        --------
        See `eval_`.

        >>> import numpy as np
        >>> import ridgeline as rl
        >>> opt = rl.ScheduleFreeSGD(np.ones(2))
        >>> opt.train_()
        >>> opt.is_training
        True
        """
        self._core.move_weights(training=True)

    def eval_(self) -> None:
        """Set the parameters, in place, to the mean x, for evaluation, saving and pruning.

        Does nothing if they already hold x. `step` raises an error until `train_` is called.

        Raises
        ------
        TypeError, ValueError
            If a parameter can no longer be written.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0])
        >>> opt = rl.ScheduleFreeSGD(w, lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     report = opt.step(w.copy())  # the gradient of w^2/2
        >>> opt.eval_()
        >>> x = w.copy()
        >>> opt.train_()
        >>> x, w
        (array([0.375]), array([0.3125]))
        """
        self._core.move_weights(training=False)

    def _check_group(self, values: Mapping[str, Any]) -> None:
        if values["constraint"] is not None:
            raise ValueError(
                f"constraint: got {values['constraint']!r}, wants None: {type(self).__name__} "
                "averages weights, which would violate it"
            )
        if values["decay"] is not None:
            raise ValueError(
                f"decay: got {values['decay']!r}, wants None: {type(self).__name__} has only one "
                "kind of decay"
            )
        if values["lr_independent_decay"]:
            raise ValueError(
                f"lr_independent_decay: got True, wants False: {type(self).__name__} adds the "
                "decay to the gradient"
            )
        by_momentum = "momentum" in values
        name = "momentum" if by_momentum else "betas[0]"
        beta = values["momentum"] if by_momentum else values["betas"][0]
        if not beta > 0:
            raise ValueError(f"{name}: got {beta:g}, wants a number in (0, 1)")

    def _check_state_type(self, name: str, value: str) -> None:
        if value in ("8bit", "bfloat16"):
            raise ValueError(
                f"{name}: got {value!r} for {type(self).__name__}, wants 'float32': its state z "
                "holds weights"
            )

    def _of_parameters(self) -> tuple[str, ...]:
        return ("weight_sums", "largest_rates")

    def _counts(self) -> dict[str, Array]:
        return super()._counts() | {"is_training": np.array(self.is_training, np.uint8)}


class ScheduleFreeSGD(_ScheduleFree):
    """Schedule-free SGD (Defazio et al. 2024).

    ::

        ηₖ = η min(k / warmup_steps, 1);  c = cₖ / Σ cᵢ, cᵢ = iʳ (max ηⱼ, j ≤ i)^p
        d = g + λ y;  x ← (1 - c) x + c z;  y ← y + c (z - y) - ηₖ (1 - β (1 - c)) d;  z ← z - ηₖ d

    Gradients are computed at y, which the parameters hold during training; x is the mean, for
    evaluation. `eval_` writes x into the parameters, and `train_` writes y back. z is the state. r,
    p and β are `r`, `weight_lr_power` and `momentum`.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 1
        The learning rate η.
    momentum : float, default 0.9
        β, in (0, 1): the share of x in y.
    weight_decay : float or callable, default 0
        λ, applied at y.
    warmup_steps : int, default 0
        The number of steps over which the learning rate grows linearly.
    r : float, default 0
        The power of the step count in the weights of the mean.
    weight_lr_power : float, default 2
        The power of the largest learning rate so far in the weights of the mean.
    **options : penalty, clip, mask and more
        See `Optimizer`. A penalty adds its gradient; there is no `prox` and no `constraint`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.
    RuntimeError
        If `step` is called while the parameters hold the mean.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.ScheduleFreeSGD(w, lr=0.5)
    >>> for _ in range(50):
    ...     report = opt.step(w.copy())  # the gradient of w^2/2
    >>> opt.eval_()
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    lr: LearningRate = hyperparameter(default=1.0)
    momentum: float = hyperparameter(default=0.9, number=Number(below_one, "momentum"))
    weight_decay: WeightDecay = hyperparameter(default=0.0)
    warmup_steps: int = hyperparameter(default=0)
    r: float = hyperparameter(default=0.0)
    weight_lr_power: float = hyperparameter(default=2.0)

    def _kind(self) -> str:
        return "schedule_free_sgd"


class ScheduleFreeAdamW(_ScheduleFree):
    """Schedule-free AdamW (Defazio et al. 2024).

    ::

        v ← β₂ v + (1 - β₂) g²;  d = g / (√(v / (1 - β₂ᵏ)) + ε) + λ y

    and then as in `ScheduleFreeSGD` with β₁ for β.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Updated in place by every step; see `Optimizer`.
    lr : float or callable, default 0.0025
        The learning rate η.
    betas : (float, float), default (0.9, 0.999)
        β₁, in (0, 1), and β₂, in [0, 1).
    eps : float, default 1e-8
        ε, at least 0.
    weight_decay : float or callable, default 0
        λ, applied at y.
    warmup_steps : int, default 0
        See `ScheduleFreeSGD`.
    r : float, default 0
        See `ScheduleFreeSGD`.
    weight_lr_power : float, default 2
        See `ScheduleFreeSGD`.
    **options : penalty, clip, mask and more
        See `Optimizer`. A penalty adds its gradient; there is no `prox` and no `constraint`.

    Raises
    ------
    TypeError, ValueError
        See `Optimizer`.
    RuntimeError
        If `step` is called while the parameters hold the mean.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> w = np.array([1.0, -2.0])
    >>> opt = rl.ScheduleFreeAdamW(w, lr=0.1, warmup_steps=10)
    >>> for _ in range(200):
    ...     report = opt.step(w.copy())  # the gradient of w^2/2
    >>> opt.eval_()
    >>> bool(np.abs(w).max() < 0.1)
    True
    """

    lr: LearningRate = hyperparameter(default=0.0025)
    betas: tuple[float, float] = hyperparameter(default=(0.9, 0.999))
    eps: float = hyperparameter(default=1e-8)
    weight_decay: WeightDecay = hyperparameter(default=0.0)
    warmup_steps: int = hyperparameter(default=0)
    r: float = hyperparameter(default=0.0)
    weight_lr_power: float = hyperparameter(default=2.0)

    def _kind(self) -> str:
        return "schedule_free_adamw"
