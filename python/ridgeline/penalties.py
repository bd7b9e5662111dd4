"""Penalties: values, gradients and proximal steps.

A penalty is a small immutable object with three operations, each one call and one memory pass over
any number of arrays::

    penalty = rl.L1(1e-5) + rl.L2(1e-4)           # rl.ElasticNet(l1=1e-5, l2=1e-4)
    penalty.value(params)                         # float64 sum over all arrays
    penalty.add_gradient_(grads, params)          # grads += d penalty / d params; returns the value
    penalty.prox_(params, step)                   # proximal step in place

``params`` and ``grads`` are one array or a list, tuple, dict (nested) or iterable of them: NumPy
arrays, PyTorch CPU tensors or anything else with ``__dlpack__``; float32, float64, bfloat16 or
float16; of any strides. The half types and float32 are computed in float32, float64 in float64, and
results are rounded once; values are summed in float64. The subgradient at 0 is 0. NaN gives NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from . import _checks as check
from . import _core
from ._typing import ArrayT, Gradients, Tree

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "L0",
    "L1",
    "L2",
    "MCP",
    "SCAD",
    "CappedL1",
    "ElasticNet",
    "Huber",
    "LHalf",
    "LogSum",
    "Penalty",
    "Sum",
    "strength_from_loss",
]


def _same(a: Any, b: Any) -> bool:
    """Return whether two trees of arrays have the same structure and values."""
    if a is b:
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    alike = type(a) is type(b) and hasattr(a, "shape") and hasattr(a, "dtype")
    return alike and a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())


class Penalty:
    """Base class of all penalties; not instantiated directly.

    Examples
    --------
    >>> import ridgeline as rl
    >>> isinstance(rl.L1(0.1) + rl.L2(0.2), rl.Penalty)
    True
    """

    _terms: _core.Terms

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Refuse to instantiate the base class."""
        if cls is Penalty:
            raise TypeError("Penalty is an abstract base class; create L1, L2, ... instead")
        return super().__new__(cls)

    def value(self, params: Tree) -> float:
        """Return the penalty summed over all elements of all arrays, in float64.

        Parameters
        ----------
        params : array or tree of arrays
            Only read.

        Returns
        -------
        float
            0 for no arrays.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> rl.L1(0.1).value([np.array([1.0, -2.0]), np.array([3.0])])
        0.6000000000000001
        """
        return _core.penalty_value(self._terms, params)

    def add_gradient_(self, grads: Gradients, params: Tree) -> float:
        """Add the gradient of the penalty to `grads` and return its value, in one memory pass.

        Parameters
        ----------
        grads : array or tree of arrays
            Written: ``grads += d penalty / d params``. None in place of an array stands for a
            missing gradient: that parameter is skipped, also in the value.
        params : array or tree of arrays
            Only read; with the structure, shapes and dtypes of `grads`.

        Returns
        -------
        float
            The value of the penalty, as from `value`, at the parameters that have a gradient.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory, dtypes differ, or the
            penalty has no gradient (L0).
        ValueError
            If structures or shapes differ, an array of `grads` is read-only or appears twice, or
            memory overlaps.
        RequiresGradError
            If a parameter is given instead of its gradient, or a gradient requires grad outside
            ``torch.no_grad()``.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, g = np.array([1.0, -2.0, 0.0]), np.zeros(3)
        >>> rl.L1(0.5).add_gradient_(g, w)
        1.5
        >>> g
        array([ 0.5, -0.5,  0. ])
        """
        return _core.penalty_add_gradient(self._terms, grads, params)

    def prox_(self, params: Tree, step: float) -> None:
        """Take the proximal step, in place.

        ::

            x ← argmin over y of ½ ‖y - x‖² + t · penalty(y)

        A parameter update: torch parameters are written as under ``torch.no_grad()``. Nothing
        changes if the strength or the step is 0.

        Parameters
        ----------
        params : array or tree of arrays
            Written.
        step : float
            The step size t >= 0, such as the learning rate.

        Raises
        ------
        TypeError
            If something is not an array of a supported dtype in CPU memory, or the penalty is a sum
            whose proximal operator has no closed form.
        ValueError
            If `step` is NaN, infinite, negative or too long for the penalty (MCP, SCAD), an array
            is read-only or appears twice, or memory overlaps.
        RequiresGradError
            If a tensor is in the autograd graph without being a leaf, outside
            ``torch.no_grad()``.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0, -0.2, 0.5])
        >>> rl.L1(1.0).prox_(w, step=0.3)
        >>> w
        array([0.7, 0. , 0.2])
        """
        _core.penalty_prox_in_place(self._terms, params, step)

    def prox(self, x: ArrayT, step: float, out: ArrayT | None = None) -> ArrayT:
        """Return the proximal step of one array; see `prox_`.

        Parameters
        ----------
        x : array
            Only read.
        step : float
            The step size t >= 0.
        out : array, optional
            Where to write, of the shape and dtype of `x`; may be `x` itself.

        Returns
        -------
        array
            `out`, or a new array of the library of `x`.

        Raises
        ------
        TypeError, ValueError
            As `prox_`.
        RequiresGradError
            If x or `out` is a torch tensor that requires grad outside ``torch.no_grad()``.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> rl.L2(1.0).prox(np.array([3.0]), step=0.5)
        array([2.])
        """
        return _core.penalty_prox(self._terms, x, step, out)

    def __add__(self, other: Penalty) -> Penalty:
        if not isinstance(other, Penalty):
            return NotImplemented
        return _sum([*_members(self), *_members(other)])

    def _set(self, **values: object) -> None:
        """Set fields of the frozen dataclass to their checked values."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _set_terms(
        self, kind: str, strength: float, shape: float = 0.0, weights: Any = None
    ) -> None:
        terms = _core.Terms()
        terms.add(kind, strength, shape, weights)
        self._set(_terms=terms)

    def __getstate__(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in fields(cast("Any", self))}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._set(**state)
        cast("Any", self).__post_init__()


@dataclass(frozen=True, eq=False)
class L1(Penalty):
    """Lasso penalty (Tibshirani 1996); with weights, the adaptive lasso (Zou 2006).

    ::

        value = s Σ aᵢ |wᵢ|;  gradient = s aᵢ sign(wᵢ);  prox = sign(xᵢ) max(|xᵢ| - t s aᵢ, 0)

    Parameters
    ----------
    strength : float
        s >= 0.
    weights : array or tree of arrays, optional
        a >= 0, with the structure, shapes and dtypes of the parameters; 1 by default. Not copied,
        and checked only here: later changes must keep them finite and at least 0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0, or a weight is negative or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.L1(0.5).value(np.array([1.0, -2.0]))
    1.5
    >>> rl.L1(0.5, weights=np.array([1.0, 0.0])).value(np.array([1.0, -2.0]))
    0.5
    """

    strength: float
    weights: Any = field(default=None)

    def __post_init__(self) -> None:
        self._set(strength=check.non_negative("strength", self.strength))
        if self.weights is None:
            self._set_terms("l1", self.strength)
        else:
            self._set(weights=_core.reusable_tree(self.weights, "weights"))
            _core.check_weights(self.weights)
            self._set_terms("weighted_l1", self.strength, 0.0, self.weights)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, L1)
            and self.strength == other.strength
            and _same(self.weights, other.weights)
        )

    def __hash__(self) -> int:
        return hash((L1, self.strength))  # weights may change in place

    def __repr__(self) -> str:
        return f"L1(strength={self.strength!r}{'' if self.weights is None else ', weights=...'})"


@dataclass(frozen=True)
class L2(Penalty):
    """Ridge penalty (Hoerl and Kennard 1970).

    ::

        value = s/2 Σ wᵢ²;  gradient = s w;  prox = x / (1 + t s)

    The gradient is that of PyTorch's coupled ``weight_decay=s``; ``L2(s)`` of Keras is
    ``L2(2 * s)`` here.

    Parameters
    ----------
    strength : float
        s >= 0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.L2(0.5).value(np.array([1.0, -2.0]))
    1.25
    """

    strength: float

    def __post_init__(self) -> None:
        self._set(strength=check.non_negative("strength", self.strength))
        self._set_terms("l2", self.strength)


@dataclass(frozen=True)
class ElasticNet(Penalty):
    """Elastic net (Zou and Hastie 2005): the sum of `L1` and `L2`.

    ::

        value = s₁ Σ |wᵢ| + s₂/2 Σ wᵢ²
        gradient = s₁ sign(w) + s₂ w
        prox = sign(x) max(|x| - t s₁, 0) / (1 + t s₂)

    Parameters
    ----------
    l1, l2 : float
        The strengths s₁ and s₂, >= 0.

    Raises
    ------
    TypeError, ValueError
        If a strength is not a finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.L1(0.5) + rl.L2(1.0)
    ElasticNet(l1=0.5, l2=1.0)
    >>> rl.ElasticNet(0.5, 1.0).value(np.array([1.0, -2.0]))
    4.0
    """

    l1: float
    l2: float

    def __post_init__(self) -> None:
        self._set(l1=check.non_negative("l1", self.l1), l2=check.non_negative("l2", self.l2))
        self._set_terms("elastic_net", self.l1, self.l2)


@dataclass(frozen=True)
class MCP(Penalty):
    """Minimax concave penalty (Zhang 2010).

    ::

        value = Σ  s |w| - w² / (2γ)  if |w| ≤ γ s,  else γ s² / 2
        gradient = sign(w) max(s - |w| / γ, 0)
        prox = 0                                   if |x| ≤ t s
               sign(x) (|x| - t s) / (1 - t / γ)   if t s < |x| ≤ γ s
               x                                   else

    The proximal operator requires a step t < γ.

    Parameters
    ----------
    strength : float
        s >= 0.
    gamma : float
        γ > 0: smaller is closer to L0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0, or `gamma` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.MCP(1.0, gamma=3.0).prox(np.array([0.5, 2.0, 5.0]), step=1.0)
    array([0. , 1.5, 5. ])
    """

    strength: float
    gamma: float = 3.0

    def __post_init__(self) -> None:
        self._set(
            strength=check.non_negative("strength", self.strength),
            gamma=check.above("gamma", self.gamma, 0),
        )
        self._set_terms("mcp", self.strength, self.gamma)


@dataclass(frozen=True)
class SCAD(Penalty):
    """Smoothly clipped absolute deviation (Fan and Li 2001).

    ::

        |w| ≤ s:        value = s |w|                                   gradient = s sign(w)
        s < |w| ≤ γ s:  value = (2 γ s |w| - w² - s²) / (2 (γ - 1))
                        gradient = sign(w) (γ s - |w|) / (γ - 1)
        |w| > γ s:      value = s² (γ + 1) / 2                          gradient = 0

        prox = sign(x) max(|x| - t s, 0)                       if |x| ≤ (1 + t) s
               ((γ - 1) x - sign(x) γ t s) / (γ - 1 - t)       if (1 + t) s < |x| ≤ γ s
               x                                               else

    The proximal operator requires a step t < γ - 1.

    Parameters
    ----------
    strength : float
        s >= 0.
    gamma : float, default 3.7
        γ > 2; the default is that of the paper.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0, or `gamma` is not above 2.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.SCAD(1.0).prox(np.array([0.5, 1.5, 5.0]), step=1.0)
    array([0. , 0.5, 5. ])
    """

    strength: float
    gamma: float = 3.7

    def __post_init__(self) -> None:
        self._set(
            strength=check.non_negative("strength", self.strength),
            gamma=check.above("gamma", self.gamma, 2),
        )
        self._set_terms("scad", self.strength, self.gamma)


@dataclass(frozen=True)
class LogSum(Penalty):
    """Log-sum penalty of reweighted L1 (Candes, Wakin and Boyd 2008).

    ::

        value = s Σ log(1 + |wᵢ| / ε);  gradient = s sign(w) / (ε + |w|)

    The magnitude of the proximal operator is the larger root of ``y² + (ε - |x|) y + t s - ε |x|``
    where its objective is lower than that of 0, else 0.

    Parameters
    ----------
    strength : float
        s >= 0.
    eps : float
        ε > 0: smaller is closer to L0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0, or `eps` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.LogSum(1.0, eps=1.0).prox(np.array([0.5, 3.0]), step=1.0).round(4)
    array([0.    , 2.7321])
    """

    strength: float
    eps: float

    def __post_init__(self) -> None:
        self._set(
            strength=check.non_negative("strength", self.strength),
            eps=check.above("eps", self.eps, 0),
        )
        self._set_terms("log_sum", self.strength, self.eps)


@dataclass(frozen=True)
class L0(Penalty):
    """The number of nonzero weights, times the strength.

    ::

        value = s Σ [wᵢ ≠ 0];  prox = x if |x| > √(2 t s), else 0

    The proximal operator is the hard threshold (Blumensath and Davies 2008). There is no gradient:
    `add_gradient_` raises TypeError.

    Parameters
    ----------
    strength : float
        s >= 0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.L0(0.5).prox(np.array([0.9, -1.1]), step=1.0)
    array([ 0. , -1.1])
    """

    strength: float

    def __post_init__(self) -> None:
        self._set(strength=check.non_negative("strength", self.strength))
        self._set_terms("l0", self.strength)


@dataclass(frozen=True)
class LHalf(Penalty):
    """L1/2 penalty (Xu, Chang, Xu and Zhang 2012).

    ::

        value = s Σ √|wᵢ|;  gradient = s sign(w) / (2 √|w|), 0 at 0
        prox, u = t s:  0 if |x| < 3/2 u^(2/3)
                        2/3 x (1 + cos(2/3 arccos(-3^(3/2)/4 u |x|^(-3/2)))) else

    Parameters
    ----------
    strength : float
        s >= 0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.LHalf(1.0).prox(np.array([1.0, 4.0]), step=1.0).round(4)
    array([0.    , 3.7415])
    """

    strength: float

    def __post_init__(self) -> None:
        self._set(strength=check.non_negative("strength", self.strength))
        self._set_terms("l_half", self.strength)


@dataclass(frozen=True)
class Huber(Penalty):
    """Huber's function (Huber 1964): quadratic near 0, linear beyond.

    ::

        value = Σ  s/2 w²  if |w| ≤ δ,  else s δ (|w| - δ/2)
        gradient = s min(max(w, -δ), δ)
        prox, u = t s:  x / (1 + u)  if |x| ≤ δ (1 + u),  else x - u δ sign(x)

    Parameters
    ----------
    strength : float
        s >= 0.
    delta : float, default 1
        δ > 0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0, or `delta` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.Huber(1.0, delta=1.0).value(np.array([0.5, -3.0]))
    2.625
    """

    strength: float
    delta: float = 1.0

    def __post_init__(self) -> None:
        self._set(
            strength=check.non_negative("strength", self.strength),
            delta=check.above("delta", self.delta, 0),
        )
        self._set_terms("huber", self.strength, self.delta)


@dataclass(frozen=True)
class CappedL1(Penalty):
    """Capped L1 (Zhang 2010): the lasso up to a threshold, constant beyond.

    ::

        value = s Σ min(|wᵢ|, θ);  gradient = s sign(w) if |w| < θ, else 0
        prox, u = t s:  sign(x) max(|x| - u, 0)  if |x| ≤ θ + u/2,  else x

    If u > 2θ the bound is ``√(2 u θ)`` instead of ``θ + u/2``. Any step t is allowed.

    Parameters
    ----------
    strength : float
        s >= 0.
    threshold : float
        θ > 0: above this magnitude the penalty no longer grows.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0, or `threshold` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> rl.CappedL1(1.0, threshold=2.0).prox(np.array([0.5, 2.0, 3.0]), step=1.0)
    array([0., 1., 3.])
    """

    strength: float
    threshold: float

    def __post_init__(self) -> None:
        self._set(
            strength=check.non_negative("strength", self.strength),
            threshold=check.above("threshold", self.threshold, 0),
        )
        self._set_terms("capped_l1", self.strength, self.threshold)


@dataclass(frozen=True)
class Sum(Penalty):
    """A sum of penalties, as made by ``+``.

    Values and gradients add. The proximal operator has a closed form if all members but one are L2:
    with an L2 of strength r it is that of the other member at ``x / (1 + t r)`` with the step
    ``t / (1 + t r)`` (Parikh and Boyd 2014, section 2.2).

    Parameters
    ----------
    members : tuple of Penalty

    Raises
    ------
    TypeError
        If a member is not a penalty.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> both = rl.MCP(1.0, gamma=3.0) + rl.L2(0.5)
    >>> both
    Sum(members=(MCP(strength=1.0, gamma=3.0), L2(strength=0.5)))
    >>> both.value(np.array([6.0]))
    10.5
    """

    members: tuple[Penalty, ...]

    def __post_init__(self) -> None:
        members = tuple(self.members)
        for place, member in enumerate(members):
            if not isinstance(member, Penalty):
                raise TypeError(f"members[{place}]: got {type(member).__name__}, wants a penalty")
        self._set(members=members)
        terms = _core.Terms()
        for member in members:
            terms.extend(member._terms)
        self._set(_terms=terms)


def _members(penalty: Penalty) -> list[Penalty]:
    if isinstance(penalty, Sum):
        return list(penalty.members)
    if isinstance(penalty, ElasticNet):
        return [L1(penalty.l1), L2(penalty.l2)]
    return [penalty]


def _sum(members: list[Penalty]) -> Penalty:
    """Merge the unweighted L1 terms and the L2 terms; keep the other terms in order."""
    l1: list[float] = []
    l2: list[float] = []
    rest: list[Penalty] = []
    for member in members:
        if isinstance(member, L2):
            l2.append(member.strength)
        elif isinstance(member, L1) and member.weights is None:
            l1.append(member.strength)
        else:
            rest.append(member)
    if l1 and l2 and not rest:
        return ElasticNet(math.fsum(l1), math.fsum(l2))
    joined = [*([L1(math.fsum(l1))] if l1 else []), *rest, *([L2(math.fsum(l2))] if l2 else [])]
    return joined[0] if len(joined) == 1 else Sum(tuple(joined))


_CONVENTIONS = {"lambda": 1.0, "lambda/2": 0.5, "lambda/m": 1.0, "lambda/(2m)": 0.5}


def strength_from_loss(
    lam: float,
    n_samples: int | None = None,
    *,
    convention: str = "lambda",
    penalty: Literal["l1", "l2"] = "l1",
) -> float:
    """Convert the regularization constant of a textbook's loss to a strength.

    Textbooks add ``c Σ |θ|`` or ``c Σ θ²`` to the loss, with a coefficient c of λ, λ/2, λ/m or
    λ/(2m) for m samples.

    Parameters
    ----------
    lam : float
        λ >= 0.
    n_samples : int, optional
        m; required by the conventions that contain it.
    convention : {"lambda", "lambda/2", "lambda/m", "lambda/(2m)"}
        The coefficient c; the Greek letter is accepted too.
    penalty : {"l1", "l2"}
        Which penalty the strength is for: ``"l1"`` returns c, the factor of the sum; ``"l2"``
        returns 2c, because ``rl.L2(s)`` is ``s/2 Σ w²``.

    Returns
    -------
    float
        The strength of the penalty.

    Raises
    ------
    TypeError, ValueError
        If `lam` is not a finite number of at least 0, `n_samples` is not a positive integer where
        it is required, or a name is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> theta = np.array([1.0, 1.0])
    >>> s = rl.penalties.strength_from_loss(0.5, 4, convention="lambda/(2m)", penalty="l2")
    >>> rl.L2(s).value(theta)
    0.125
    """
    lam = check.non_negative("lam", lam)
    name = str(convention).replace("λ", "lambda").replace(" ", "").replace("/2m", "/(2m)")
    if name not in _CONVENTIONS:
        wanted = ", ".join(map(repr, _CONVENTIONS))
        raise ValueError(f"convention: got {convention!r}, wants one of {wanted}")
    check.one_of("l1", "l2")("penalty", penalty)
    coefficient = lam * _CONVENTIONS[name]
    if "m)" in name or name.endswith("/m"):
        if n_samples is None:
            raise ValueError(f"n_samples: got None, wants the number of samples for {convention!r}")
        n_samples = check.integer("n_samples", n_samples, 1)
        coefficient /= n_samples
    return 2 * coefficient if penalty == "l2" else coefficient
