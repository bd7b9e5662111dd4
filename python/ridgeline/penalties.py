r"""Penalties: values, gradients and proximal steps.

A penalty is a small immutable object with three verbs, each one call and one memory pass over any
number of arrays::

    penalty = rl.L1(1e-5) + rl.L2(1e-4)           # rl.ElasticNet(l1=1e-5, l2=1e-4)
    penalty.value(params)                         # float64 sum over all arrays
    penalty.add_gradient_(grads, params)          # grads += d penalty / d params; returns the value
    penalty.prox_(params, step)                   # proximal step in place

``params`` and ``grads`` are one array or a list, tuple, dict (nested) or iterable of them: NumPy
arrays, PyTorch CPU tensors or anything else with ``__dlpack__``; float32, float64, bfloat16 or
float16; of any strides. Elements of the half types and of float32 are computed in float32, those of
float64 in float64, and rounded once; values are summed in float64. The subgradient at 0 is 0. NaN
gives NaN.
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
    """What all penalties share: three verbs and ``+``. Not to be created itself.

    Examples
    --------
    >>> import ridgeline as rl
    >>> isinstance(rl.L1(0.1) + rl.L2(0.2), rl.Penalty)
    True
    """

    _terms: _core.Terms

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Refuse to create a penalty of no kind."""
        if cls is Penalty:
            raise TypeError("Penalty is what all penalties share; create L1, L2, ... instead")
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
            If something is no array of a supported dtype in CPU memory.

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
            Written: ``grads += d penalty / d params``. None in place of an array, where there is no
            gradient, leaves that parameter out, in the value too.
        params : array or tree of arrays
            Only read; of the structure, shapes and dtypes of `grads`.

        Returns
        -------
        float
            The value of the penalty whose gradient was added: at the parameters that have a
            gradient, as from :meth:`value`.

        Raises
        ------
        TypeError
            If something is no array of a supported dtype in CPU memory, dtypes differ, or the
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
        r"""Take the proximal step in place.

        .. math:: x \leftarrow \arg\min_y \tfrac12 \lVert y - x \rVert^2 + t\,\text{penalty}(y)

        A parameter update: torch parameters are written as under ``torch.no_grad()``. The penalty
        changes nothing if its strength or the step is 0.

        Parameters
        ----------
        params : array or tree of arrays
            Written.
        step : float
            The step size t >= 0, such as the learning rate.

        Raises
        ------
        TypeError
            If something is no array of a supported dtype in CPU memory, or the penalty is a sum
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
        """Return the proximal step of one array; see :meth:`prox_`.

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
            As :meth:`prox_`.
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
    r"""Lasso penalty (Tibshirani 1996), with weights the adaptive lasso (Zou 2006).

    .. math:: s \sum_i a_i |w_i|

    Gradient :math:`s a_i \operatorname{sign} w_i`; proximal operator
    :math:`\operatorname{sign}(x_i) \max(|x_i| - t s a_i, 0)`.

    Parameters
    ----------
    strength : float
        s >= 0.
    weights : array or tree of arrays, optional
        a >= 0, of the structure, shapes and dtypes of the parameters; 1 if not given. Not copied,
        and checked here alone: change them only to other finite numbers of at least 0.

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
    r"""Ridge penalty (Hoerl and Kennard 1970).

    .. math:: \tfrac{s}{2} \sum_i w_i^2

    Gradient :math:`s w`, as PyTorch's coupled ``weight_decay=s``; Keras' ``L2(s)`` is ``L2(2 * s)``
    here. Proximal operator :math:`x / (1 + t s)`.

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
    r"""Elastic net (Zou and Hastie 2005): the sum of :class:`L1` and :class:`L2`.

    .. math:: s_1 \sum_i |w_i| + \tfrac{s_2}{2} \sum_i w_i^2

    Gradient :math:`s_1 \operatorname{sign} w + s_2 w`; the proximal operator thresholds at
    :math:`t s_1`, then divides by :math:`1 + t s_2`.

    Parameters
    ----------
    l1, l2 : float
        The strengths, >= 0.

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
    r"""Minimax concave penalty (Zhang 2010).

    .. math:: s|w| - \frac{w^2}{2\gamma} \text{ for } |w| \le \gamma s, \qquad
        \frac{\gamma s^2}{2} \text{ beyond}

    Gradient :math:`\operatorname{sign}(w) \max(s - |w|/\gamma, 0)`. Proximal operator, for steps
    :math:`t < \gamma`: 0 up to :math:`ts`, x beyond :math:`\gamma s`, between them
    :math:`\operatorname{sign}(x) (|x| - ts) / (1 - t/\gamma)`.

    Parameters
    ----------
    strength : float
        s >= 0.
    gamma : float
        :math:`\gamma` > 0: smaller is closer to L0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0 or `gamma` not one above 0.

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
    r"""Smoothly clipped absolute deviation (Fan and Li 2001).

    .. math:: s|w| \text{ for } |w| \le s, \qquad
        \frac{2\gamma s|w| - w^2 - s^2}{2(\gamma - 1)} \text{ for } |w| \le \gamma s, \qquad
        \frac{s^2(\gamma + 1)}{2} \text{ beyond}

    Gradient :math:`\operatorname{sign}(w)` times :math:`s`,
    :math:`(\gamma s - |w|)/(\gamma - 1)` and 0. Proximal operator, for steps
    :math:`t < \gamma - 1`: the soft threshold up to :math:`(1 + t)s`, x beyond
    :math:`\gamma s`, between them
    :math:`((\gamma - 1)x - \operatorname{sign}(x) \gamma t s)/(\gamma - 1 - t)`.

    Parameters
    ----------
    strength : float
        s >= 0.
    gamma : float, default 3.7
        :math:`\gamma` > 2; the default is that of the paper.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0 or `gamma` not one above 2.

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
    r"""Log-sum penalty of reweighted L1 (Candes, Wakin and Boyd 2008).

    .. math:: s \sum_i \log(1 + |w_i| / \varepsilon)

    Gradient :math:`s \operatorname{sign}(w) / (\varepsilon + |w|)`. The proximal operator is the
    larger root of :math:`y^2 + (\varepsilon - |x|) y + ts - \varepsilon|x|` where that is better
    than 0, else 0.

    Parameters
    ----------
    strength : float
        s >= 0.
    eps : float
        :math:`\varepsilon` > 0: smaller is closer to L0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0 or `eps` not one above 0.

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
    r"""The number of non-zero weights, times the strength.

    .. math:: s \sum_i [w_i \ne 0]

    No gradient: :meth:`add_gradient_` raises TypeError. The proximal operator is the hard
    threshold: x where :math:`|x| > \sqrt{2ts}`, else 0 (Blumensath and Davies 2008).

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
    r"""L1/2 penalty (Xu, Chang, Xu and Zhang 2012).

    .. math:: s \sum_i \sqrt{|w_i|}

    Gradient :math:`s \operatorname{sign}(w) / (2\sqrt{|w|})`, 0 at 0. With :math:`u = ts` the
    proximal operator is 0 for :math:`|x| < \tfrac32 u^{2/3}`, else
    :math:`\tfrac23 x (1 + \cos(\tfrac23 \arccos(-\tfrac{3^{3/2}}{4} u |x|^{-3/2})))`.

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
    r"""Huber's function (Huber 1964): quadratic near 0, linear beyond.

    .. math:: \tfrac{s}{2} w^2 \text{ for } |w| \le \delta, \qquad
        s\delta(|w| - \tfrac{\delta}{2}) \text{ beyond}

    Gradient :math:`s` times w clamped to :math:`[-\delta, \delta]`. Proximal operator, with
    :math:`u = ts`: :math:`x/(1 + u)` for :math:`|x| \le \delta(1 + u)`, else
    :math:`x - u\delta \operatorname{sign} x`.

    Parameters
    ----------
    strength : float
        s >= 0.
    delta : float, default 1
        :math:`\delta` > 0.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0 or `delta` not one above 0.

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
    r"""Capped L1 (Zhang 2010): the lasso up to a threshold, constant beyond.

    .. math:: s \min(|w|, \theta)

    Gradient :math:`s \operatorname{sign}(w)` for :math:`|w| < \theta`, 0 from :math:`\theta` on.
    Proximal operator, with :math:`u = ts`, for steps of any length: the soft threshold at u for
    :math:`|x| \le \theta + u/2` (or :math:`\sqrt{2u\theta}` where :math:`u > 2\theta`), x
    beyond.

    Parameters
    ----------
    strength : float
        s >= 0.
    threshold : float
        :math:`\theta` > 0: weights of at least this magnitude are not penalized further.

    Raises
    ------
    TypeError, ValueError
        If the strength is not a finite number of at least 0 or `threshold` not one above 0.

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
    r"""A sum of penalties, as made by ``+``.

    Values and gradients add. The proximal operator exists in closed form if all members but one
    are L2: :math:`\operatorname{prox}_{t(f + r/2\,x^2)}(x) =
    \operatorname{prox}_{t/(1+tr) f}(x/(1+tr))` (Parikh and Boyd 2014, section 2.2).

    Parameters
    ----------
    members : tuple of Penalty

    Raises
    ------
    TypeError
        If a member is no penalty.

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
    """Join the plain L1 terms and the L2 terms; the rest stays as it is, in order."""
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
    r"""Turn the regularization constant of a textbook's loss into a strength.

    Texts add :math:`c \sum|\theta|` or :math:`c \sum\theta^2` to the loss, with a coefficient c of
    :math:`\lambda`, :math:`\lambda/2`, :math:`\lambda/m` or :math:`\lambda/(2m)` for m samples.

    Parameters
    ----------
    lam : float
        :math:`\lambda` >= 0.
    n_samples : int, optional
        m; needed by the conventions that name it.
    convention : {"lambda", "lambda/2", "lambda/m", "lambda/(2m)"}
        The coefficient; the Greek letter may be written too.
    penalty : {"l1", "l2"}
        Which penalty the strength is for: ``"l1"`` returns c, the factor of the sum; ``"l2"``
        returns 2c, because ``rl.L2(s)`` is :math:`\frac{s}{2}\sum w^2`.

    Returns
    -------
    float
        The strength to give to the penalty.

    Raises
    ------
    TypeError, ValueError
        If `lam` is not a finite number of at least 0, `n_samples` not a positive integer where it
        is needed, or a name is unknown.

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
