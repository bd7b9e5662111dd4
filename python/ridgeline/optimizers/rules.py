"""The rules: for each optimizer its formula, its hyperparameters and its states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .. import _core
from .._checks import flag, non_negative, optional
from .fields import Field, fixed, hyperparameter
from .group import LearningRate, WeightDecay, detached
from .optimizer import GradientStep, Optimizer


class _Momentum(GradientStep):
    """A rule whose momentum has a state only if there is one at construction."""

    def _fix(self) -> None:
        if self._stateful is None:
            self._stateful = any(group.momentum for group in self.groups)

    def _check_group(self, values: Mapping[str, Any]) -> None:
        if self._stateful is False and values["momentum"]:
            raise ValueError(
                f"momentum: got {values['momentum']}, wants 0: without a momentum at construction "
                "there is no state"
            )


class SGD(_Momentum):
    """Stochastic gradient descent, with momentum (Polyak 1964; Sutskever et al. 2013).

    ::

        b ← μ b + (1 - τ) g;  w ← w - η b, or w ← w - η (g + μ b) with Nesterov's momentum

    At an array's first step b is g. With ``convention="keras"`` the state is a velocity that holds
    the learning rate: ``v ← μ v - η g``, ``w ← w + v``.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 1e-3
        The learning rate η.
    momentum : float, default 0
        μ, at least 0. Without a momentum there is no state.
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
        Written by every step; see `Optimizer`.
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
        Use the largest v so far. ``convention="optax"`` compares corrected ones.
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

        w ← w (1 - η λ), then as Adam

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
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
    """Adam with Nesterov's momentum (Dozat 2016).

    ::

        μₖ = β₁ (1 - 0.96^(kψ) / 2);  m, v as in Adam
        w ← w - η ((1 - μₖ) / (1 - Π μᵢ, i ≤ k) g + μₖ₊₁ / (1 - Π μᵢ, i ≤ k + 1) m) / (√v̂ + ε)

    ``convention="optax"`` keeps μ at β₁.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
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


class RMSprop(_Momentum):
    """RMSprop (Tieleman and Hinton 2012), centered (Graves 2013), with momentum.

    ::

        v ← α v + (1 - α) g²;  w ← w - η g / (√v + ε)

    Centered, the square of the gradient's mean is subtracted from v. With momentum,
    ``b ← μ b + g / (√v + ε)`` and ``w ← w - η b``. ``convention="keras"`` and ``"optax"`` have
    √(v + ε), and their b holds η.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
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
        Whether to subtract the mean.
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
                f"{name}: got {value!r} for a centered RMSprop, which subtracts states of nearly "
                "the same size; wants 'float32'"
            )


class _Sums(Optimizer):
    """A rule whose state is a sum of squares."""

    _sum: ClassVar[str]

    def _initial_value(self, state: str) -> float:
        return float(self._options["initial_accumulator_value"]) if state == self._sum else 0.0

    def _check_state_type(self, name: str, value: str) -> None:
        if value == "8bit":
            raise ValueError(
                f"{name}: got '8bit' for {type(self).__name__}, whose sums only grow by less than "
                "a byte resolves; wants 'float32' or 'bfloat16'"
            )


class Adagrad(_Sums, GradientStep):
    """Adagrad (Duchi, Hazan and Singer 2011).

    ::

        s ← s + g²;  w ← w - η / (1 + (k - 1) δ) · g / (√s + ε)

    ``convention="keras"`` and ``"optax"`` have √(s + ε).

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
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
        Written by every step; see `Optimizer`.
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


class FTRL(_Sums):
    """FTRL-Proximal (McMahan et al. 2013), whose L1 gives exact zeros.

    ::

        n' = n + g²;  z ← z + g - (√n' - √n) / η · w
        w ← 0 if |z| ≤ λ₁, else -(z - λ₁ sign(z)) / ((β + √n') / η + λ₂)

    Weights follow from z and n, which start without them: initial weights other than 0 count only
    through the first step, as in TensorFlow.

    Parameters
    ----------
    params : array or tree of arrays, or list of groups
        Written by every step; see `Optimizer`.
    lr : float or callable, default 0.1
        The learning rate η, above 0; alpha in the paper.
    beta : float, optional
        β, at least 0; 1 by default, 0 with ``convention="keras"``.
    l1, l2 : float, default 0
        λ₁ and λ₂, at least 0. With ``convention="keras"`` `l2` counts twice.
    initial_accumulator_value : float, optional
        The first value of n; 0 by default, 0.1 with ``convention="keras"``.
    weight_decay : float or callable, default 0
        λ; decoupled unless `decay` of `Optimizer` says otherwise.
    **options : penalty, clip, mask, constraint and more
        See `Optimizer`. `L1`, `L2` and `ElasticNet` as `penalty` add to `l1` and `l2`; the gradient
        of others, and of their sums, joins the gradient. There is no `prox`, which this step is,
        and no `max_update_rms`.

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
            raise ValueError("lr: got 0, wants a finite number above 0: FTRL divides by it")

    def _kind(self) -> str:
        return "ftrl"

    def _in_core(self, name: str, value: Any) -> Any:
        return 2 * value if name == "l2" and self.convention == "keras" else value
