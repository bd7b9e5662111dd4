"""One step of each optimizer, in float64, one array after the other.

An element passes through, in this order: unscale, clip, the penalty's gradient (``prox=None``; with
``clip_after_penalty`` before the clip) and the coupled decay, moments, decoupled decay, step,
proximal operator, constraint, mask, moving average, store. Moments and the average are float64, or
rounded to float32 at each store, or 8-bit blocks. A penalty is one of :mod:`ridgeline.reference`, a
mask an array of bool, True for kept. Where a denominator is 0, nothing moves.

Besides the papers named below: Loshchilov & Hutter (2019) for decoupled decay, Yun, Lozano & Yang
(2021) for the preconditioned proximal step, Shazeer & Stern (2018) for ``max_update_rms``,
Dettmers et al. (2022) for the 8-bit moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from ridgeline.reference._tree import Array, Float64, Tree, arrays_of, float64, rounded, store
from ridgeline.reference.clipping import _norm
from ridgeline.reference.penalties import (
    L0,
    L1,
    L2,
    MCP,
    SCAD,
    CappedL1,
    ElasticNet,
    Huber,
    LHalf,
    LogSum,
    Penalty,
    Sum,
    _keep_nan,
    soft_threshold,
)

Settings: TypeAlias = "dict[str, Any]"
State: TypeAlias = "dict[str, Float64]"
Codes: TypeAlias = npt.NDArray[np.uint8]
Bools: TypeAlias = npt.NDArray[np.bool_]

# --- clips and constraints ------------------------------------------------------------------------


@dataclass(frozen=True)
class GlobalNorm:
    """Scale all gradients by max_norm / norm if the norm of all of them is larger.

    Examples
    --------
    >>> w = [np.zeros(1), np.zeros(1)]
    >>> report = SGD(w, lr=1.0, clip=GlobalNorm(1.0)).step([np.array([3.0]), np.array([-4.0])])
    >>> report.norm, w
    (5.0, [array([-0.6]), array([0.8])])
    """

    max_norm: float
    ord: float = 2


@dataclass(frozen=True)
class Norm:
    """Scale each gradient by max_norm / norm if its own norm is larger.

    Examples
    --------
    >>> w = [np.zeros(1), np.zeros(1)]
    >>> SGD(w, lr=1.0, clip=Norm(1.0)).step([np.array([0.5]), np.array([-4.0])]).scale
    [1.0, 0.25]
    """

    max_norm: float
    ord: float = 2


@dataclass(frozen=True)
class Value:
    """Clamp every element to [-limit, limit], or to (low, high).

    Examples
    --------
    >>> Value((-1.0, 2.0)).bounds
    (-1.0, 2.0)
    """

    limit: float | tuple[float, float]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper limit.

        Examples
        --------
        >>> Value(0.5).bounds
        (-0.5, 0.5)
        """
        return self.limit if isinstance(self.limit, tuple) else (-self.limit, self.limit)


@dataclass(frozen=True)
class Box:
    """Weights between two bounds; a NaN stays.

    Examples
    --------
    >>> w = np.array([-3.0, 0.5, np.nan])
    >>> Box(-1.0, 1.0).project_(w)
    >>> w
    array([-1. ,  0.5,  nan])
    """

    low: float
    high: float

    def project_(self, params: Tree) -> None:
        """Clamp every element of every array.

        Examples
        --------
        >>> w = np.array([2.0])
        >>> Box(0.0, 1.0).project_([w]), w
        (None, array([1.]))
        """
        for w in arrays_of(params):
            store(w, np.clip(float64(w), self.low, self.high))


@dataclass(frozen=True)
class NonNegative(Box):
    """Weights of at least 0.

    Examples
    --------
    >>> w = np.array([-3.0, 0.5])
    >>> NonNegative().project_(w), w
    (None, array([0. , 0.5]))
    """

    low: float = 0.0
    high: float = math.inf


# --- proximal operators with a step for every element ---------------------------------------------


def _candidates(penalty: Penalty, x: Float64, t: Float64) -> list[Float64]:
    """List where (y - x)^2 / 2 + t P(y) can be least for y >= 0, given x >= 0."""
    zero = np.zeros_like(x)
    if isinstance(penalty, L0):
        return [zero, x]
    if isinstance(penalty, MCP):
        s, gamma = penalty.strength, penalty.gamma
        inner = np.clip((x - t * s) / (1 - t / gamma), 0.0, gamma * s)
        return [zero, inner, np.maximum(x, gamma * s)]
    if isinstance(penalty, SCAD):
        s, gamma = penalty.strength, penalty.gamma
        inner = ((gamma - 1) * x - gamma * t * s) / (gamma - 1 - t)
        ends = [np.clip(x - t * s, 0.0, s), np.maximum(x, gamma * s)]
        return [*ends, np.clip(inner, s, gamma * s)]
    if isinstance(penalty, LogSum):
        root = np.sqrt((x + penalty.eps) ** 2 - 4 * t * penalty.strength)
        return [zero, np.maximum(((x - penalty.eps) + root) / 2, 0.0)]
    if isinstance(penalty, CappedL1):
        theta = penalty.threshold
        return [np.clip(x - t * penalty.strength, 0.0, theta), np.maximum(x, theta)]
    assert isinstance(penalty, LHalf)
    angle = np.arccos(np.clip(-(3**1.5 / 4) * t * penalty.strength * x**-1.5, -1.0, 1.0))
    return [zero, 2 / 3 * x * (1 + np.cos(2 / 3 * angle))]


def prox(penalty: Penalty, x: Float64, t: float | Float64) -> Float64:
    """Minimise (y - x)^2 / 2 + t P(y) over y, for each element with its own step t.

    The global minimiser for every t: of the points where the derivative is 0, the ends of the
    pieces and 0, the one with the least objective; of equal ones the smallest.

    Examples
    --------
    >>> prox(L1(1.0), np.array([3.0, 3.0]), np.array([1.0, 2.0]))
    array([2., 1.])
    >>> prox(MCP(1.0, gamma=2.0), np.array([3.9, 4.1]), 8.0)  # sqrt(t gamma) = 4
    array([0. , 4.1])
    """
    x = np.asarray(x)
    t, size = np.broadcast_to(np.asarray(t, np.float64), x.shape), np.abs(x)
    with np.errstate(all="ignore"):
        if isinstance(penalty, Sum):
            ridge = sum(m.strength for m in penalty.members if isinstance(m, L2))
            others = [m for m in penalty.members if not isinstance(m, L2)]
            x, t = x / (1 + t * ridge), t / (1 + t * ridge)
            if len(others) > 1:
                raise TypeError("the prox of a Sum is known only when all members but one are L2")
            return prox(others[0], x, t) if others else x
        if isinstance(penalty, L1):
            return _keep_nan(x, soft_threshold(x, t * penalty._scale()))
        if isinstance(penalty, L2):
            return np.asarray(x / (1 + t * penalty.strength))
        if isinstance(penalty, ElasticNet):
            return _keep_nan(x, soft_threshold(x, t * penalty.l1) / (1 + t * penalty.l2))
        if isinstance(penalty, Huber):
            u, delta = t * penalty.strength, penalty.delta
            return np.where(size <= delta * (1 + u), x / (1 + u), x - u * delta * np.sign(x))
        points = _candidates(penalty, size, t)
        best = np.full(x.shape, np.inf)
        found = size
        for y in sorted_by_size(points):
            # the objective without x^2 / 2: exact where y is 0
            cost = y * (y / 2 - size) + t * penalty._terms(y)
            better = cost < best
            best, found = np.where(better, cost, best), np.where(better, y, found)
    return _keep_nan(x, np.sign(x) * found)


def sorted_by_size(points: Iterable[Float64]) -> Float64:
    """Sort candidates, element by element; a NaN goes last.

    Examples
    --------
    >>> sorted_by_size([np.array([3.0, 1.0]), np.array([2.0, np.nan])])
    array([[ 2.,  1.],
           [ 3., nan]])
    """
    return np.sort(np.stack(list(points)), axis=0)


# --- 8-bit moments --------------------------------------------------------------------------------

BLOCK = 256


def _bins(signed: bool) -> list[Float64]:
    """Return the edges of the bins of each decade, in units of the largest magnitude."""
    return [
        10.0 ** (i - 6) * np.linspace(0.1, 1.0, 2 ** (i if signed else i + 1) + 1) for i in range(7)
    ]


def dynamic_map(signed: bool) -> npt.NDArray[np.float32]:
    """Return the 256 values of an 8-bit moment, sorted: the dynamic tree quantization map.

    For i = 0 .. 6 the middles of 2^i bins of [10^(i - 7), 10^(i - 6)] with both signs, or of
    2^(i + 1) bins; and 0 and 1 (Dettmers 2016; Dettmers et al. 2022).

    Examples
    --------
    >>> dynamic_map(signed=True)[[0, 126, 127, 128, 255]].tolist()
    [-0.992968738079071, -5.499999815583578e-07, 0.0, 5.499999815583578e-07, 1.0]
    >>> dynamic_map(signed=False)[:2]
    array([0.00e+00, 3.25e-07], dtype=float32)
    """
    values = [0.0, 1.0]
    for edges in _bins(signed):
        middles = (edges[:-1] + edges[1:]) / 2
        values += [*middles, *(-middles if signed else ())]
    return np.sort(np.array(values)).astype(np.float32)


def codes_of(q: Float64, signed: bool) -> Codes:
    """Return the code of the bin that each number in [-1, 1] lies in; from 1 on, that of 1.

    What is below all bins has the code of 0, but of squares only 0 itself: a moment would be
    divided by eps alone.

    Examples
    --------
    >>> codes_of(np.array([-1.0, 0.0, 1e-9, 0.101, 1.0]), signed=True)
    array([  0, 127, 127, 191, 255], dtype=uint8)
    >>> codes_of(np.array([0.0, 1e-9, 0.101, 1.0]), signed=False)
    array([  0,   1, 127, 255], dtype=uint8)
    """
    edges = [edge for decade in _bins(signed) for edge in decade[:-1]]
    number = np.searchsorted([*edges, 1.0], np.abs(q), side="right")
    if signed:
        number = 127 + np.where(q < 0, -np.minimum(number, 127), number)
    else:
        number = np.maximum(number, q > 0)
    return number.astype(np.uint8)


def quantize(x: Array, signed: bool) -> tuple[Codes, npt.NDArray[np.float32]]:
    """Return the codes of x / absmax, and absmax.

    absmax is the largest magnitude of a block of 256 elements in C order. A block whose absmax is
    0 or subnormal has the code of 0.

    Examples
    --------
    >>> codes, scale = quantize(np.array([-2.0, 0.0, 2.0], np.float32), signed=True)
    >>> codes, scale
    (array([  0, 127, 255], dtype=uint8), array([2.], dtype=float32))
    """
    flat = float64(x).ravel()
    codes = np.zeros(flat.size, np.uint8)
    scales = np.zeros(-(-flat.size // BLOCK), np.float32)
    for b in range(scales.size):
        block = flat[b * BLOCK : (b + 1) * BLOCK]
        scales[b] = np.max(np.abs(block))
        q = block / float(scales[b]) if scales[b] >= 2.0**-126 else np.zeros(block.size)
        codes[b * BLOCK : (b + 1) * BLOCK] = codes_of(q, signed)
    return codes.reshape(x.shape), scales


def dequantize(codes: Codes, scales: npt.NDArray[np.float32], signed: bool) -> Float64:
    """Return the values of codes: the map's values times absmax.

    Examples
    --------
    >>> dequantize(np.array([0, 127, 255], np.uint8), np.array([2.0], np.float32), signed=True)
    array([-1.98593748,  0.        ,  2.        ])
    """
    of_element = np.repeat(float64(scales), BLOCK)[: codes.size].reshape(codes.shape)
    return np.asarray(float64(dynamic_map(signed))[codes] * of_element)


# --- the step -------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a step did."""

    norm: float | None = None
    scale: float | list[float] = 1.0
    skipped: bool = False
    first_nonfinite: str | None = None
    penalty: float = 0.0
    updated: bool = False
    step: int = 0


def _leaves(tree: Any, name: str, path: str = "") -> list[tuple[str, str, Any]]:
    """List name, path and array of every leaf; None is a leaf."""
    if tree is None or isinstance(tree, np.ndarray):
        return [(name, path or "param", tree)]
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return [
        leaf
        for key, value in items
        for leaf in _leaves(value, f"{name}[{key!r}]", f"{path}/{key}".lstrip("/"))
    ]


def _rms(x: Float64) -> float:
    return float(_norm(x.ravel(), 2) / max(x.size, 1) ** 0.5)


class Optimizer:
    """What all optimizers share; ``direction`` is what they differ in.

    Attributes
    ----------
    names, arrays
        The path and the array of every parameter.
    state
        A dict of the moments of each parameter.
    counts
        How many steps each parameter has taken.
    """

    defaults: ClassVar[Settings] = {}
    conventions: ClassVar[dict[str, Settings]] = {}
    torch_couples: ClassVar[bool] = True  # weight decay and gradient
    unsigned: ClassVar[set[str]] = {
        "exp_avg_sq",
        "max_exp_avg_sq",
        "square_avg",
        "sum",
        "n",
    }

    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float],
        *,
        clip: Any = None,
        clip_after_penalty: bool | None = None,
        mask: Any = None,
        on_nonfinite: str | None = None,
        decay_filter: Callable[[str, Array], bool | float] | None = None,
        state_dtype: str = "float64",
        master_weights: bool = False,
        ema: float | None = None,
        accumulation_steps: int = 1,
        max_update_rms: float | None = None,
        convention: str = "torch",
        **settings: Any,
    ) -> None:
        known = {
            "weight_decay": 0.0,
            "decay": None,
            "penalty": None,
            "prox": None,
            "constraint": None,
            "decay_filter": decay_filter,
            **self.defaults,
            **self.conventions.get(convention, {}),
        }
        if unknown := set(settings) - set(known):
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        given = {**known, **settings, "lr": lr}
        grouped = isinstance(params, list) and params and isinstance(params[0], Mapping)
        self.groups: list[Settings] = params if grouped else [{"params": params}]
        self.grouped = bool(grouped)
        self.options: list[Settings] = []
        self.names: list[str] = []
        self.arrays: list[Array] = []
        for group in self.groups:
            leaves = _leaves(group["params"], "params")
            options = {**given, **{k: v for k, v in group.items() if k != "params"}}
            shares = self._shares(options["penalty"], group["params"], len(leaves))
            for (_, path, w), penalty in zip(leaves, shares, strict=True):
                chosen = options["decay_filter"]
                factor = 1.0 if chosen is None else float(chosen(path, w))
                decay = options["weight_decay"] * factor
                how = options["decay"] or (
                    "coupled" if self.torch_couples and convention == "torch" else "decoupled"
                )
                self.options.append(
                    {**options, "penalty": penalty, "weight_decay": decay, "decay": how}
                )
                self.names.append(path)
                self.arrays.append(w)
        self.clip, self.on_nonfinite, self.convention = clip, on_nonfinite, convention
        self.clips_sum = clip is not None and (
            convention == "keras" if clip_after_penalty is None else clip_after_penalty
        )
        self.state_dtype, self.max_update_rms = state_dtype, max_update_rms
        self.ema_decay, self.accumulation_steps = ema, accumulation_steps
        self.set_mask(mask)
        self.steps, self.calls = 0, 0
        self.counts = [0 for _ in self.arrays]
        self.masters = [float64(w) for w in self.arrays] if master_weights else None
        self.ema = None if ema is None else [float64(w) for w in self.arrays]
        self.sums: list[Float64 | None] = [None for _ in self.arrays]
        self.state: list[State] = [
            {name: self._stored(name, value) for name, value in self.initial(w, o).items()}
            for w, o in zip(self.arrays, self.options, strict=True)
        ]

    @staticmethod
    def _shares(penalty: Penalty | None, params: Any, n: int) -> list[Penalty | None]:
        """Return the penalty of every array: with weights, their own."""
        if penalty is None:
            return [None] * n
        return [each for each, _ in penalty._for_each(params)]

    def set_mask(self, mask: Any) -> None:
        """Set the mask: arrays of bool in the containers of the parameters, or None.

        Examples
        --------
        >>> w = np.array([1.0, 0.0])
        >>> opt = SGD(w, lr=1.0)
        >>> opt.set_mask(np.array([True, False]))
        >>> opt.step(np.array([0.5, np.nan])), w  # doctest: +ELLIPSIS
        (Report(...), array([0.5, 0. ]))
        """
        if mask is None:
            self.masks: list[Any] = [None] * len(self.arrays)
        else:
            self.masks = [m for _, _, m in _leaves(mask, "mask")]

    # what each optimizer says

    def initial(self, w: Array, o: Settings) -> State:
        """Return the moments before the first step."""
        return {}

    def direction(
        self, g: Float64, s: State, k: int, t: float, o: Settings
    ) -> tuple[Float64, float | Float64]:
        """Update the moments s; return u and d of the k-th step w -= t u; t / d is the prox's."""
        raise NotImplementedError

    def move(
        self, w: Float64, g: Float64, s: State, k: int, t: float, o: Settings, kept: Bools
    ) -> tuple[Float64, float | Float64]:
        """Decay, then step; return the weights and the step that each element takes."""
        u, d = self.direction(g, s, k, t, o)
        if self.max_update_rms is not None:
            u = u / max(1.0, _rms(np.where(kept, u, 0.0)) / self.max_update_rms)
        own = t / (1 + (k - 1) * o.get("lr_decay", 0.0))
        there = np.asarray(d) != 0
        u, steps = np.where(there, u, 0.0), np.where(there, own / d, 0.0)
        return self.decayed(w, t, o) - own * u, steps * self.length(k, o)

    @staticmethod
    def decayed(w: Float64, t: float, o: Settings) -> Float64:
        """Apply the decoupled decay."""
        return w * (1 - t * o["weight_decay"]) if o["decay"] == "decoupled" else w

    def length(self, k: int, o: Settings) -> float:
        """Return how many learning rates the k-th step is long after equal gradients.

        Examples
        --------
        >>> opt = SGD(np.zeros(1), lr=0.1, momentum=0.5)
        >>> [opt.length(k, opt.options[0]) for k in (1, 2, 3)]
        [1.0, 1.5, 1.75]
        """
        mu = o.get("momentum", 0.0)
        tau = o.get("dampening", 0.0) if self.convention != "keras" else 0.0
        length = 1.0
        for _ in range(k - 1 if mu else 0):
            length = mu * length + (1 - tau)
        return 1 + mu * length if o.get("nesterov") else length

    # what all do

    def _stored(self, name: str, values: Float64) -> Float64:
        if self.state_dtype == "float64":
            return values
        single = rounded(values, np.dtype(np.float32))
        if self.state_dtype == "8bit":
            signed = name not in self.unsigned
            return dequantize(*quantize(single, signed), signed)
        return float64(single)

    def _gradients(self, grads: Any, loss_scale: float) -> list[tuple[str, Float64 | None]]:
        leaves = _leaves(grads, "grads")
        if len(leaves) != len(self.arrays):
            raise ValueError(f"grads: got {len(leaves)} arrays, wants {len(self.arrays)}")
        return [(name, None if g is None else float64(g) / loss_scale) for name, _, g in leaves]

    def _penalty(self, named: list[tuple[str, Float64 | None]]) -> float:
        """Return the value at the parameters that have a gradient."""
        taking_part = [i for i, (_, g) in enumerate(named) if g is not None]
        terms = [(self.options[i]["penalty"], self.arrays[i]) for i in taking_part]
        return sum((penalty.value(w) for penalty, w in terms if penalty is not None), 0.0)

    def step(self, grads: Any, lr: float | None = None, *, loss_scale: float = 1.0) -> Report:
        """Take one step.

        Examples
        --------
        >>> w = np.array([1.0, 0.1])
        >>> SGD(w, lr=0.5, penalty=L1(1.0), prox="plain").step(np.array([0.2, 0.2])).penalty
        1.1
        >>> w
        array([0.4, 0. ])
        """
        named = self._gradients(grads, loss_scale)
        if self.accumulation_steps > 1:
            for i, (_, g) in enumerate(named):
                if g is not None:
                    before = self.sums[i]
                    self.sums[i] = g if before is None else before + g
            self.calls += 1
            if self.calls < self.accumulation_steps:
                return Report(step=self.steps)
            named = [
                (name, None if total is None else total / self.accumulation_steps)
                for (name, _), total in zip(named, self.sums, strict=True)
            ]
            self.sums, self.calls = [None for _ in self.arrays], 0
        report = Report(step=self.steps)
        if self.clips_sum:
            named = [(n, self._regularized(i, g)) for i, (n, g) in enumerate(named)]
        factors = self._factors(named, report)
        if report.skipped:
            return report
        report.penalty = self._penalty(named)
        for i, ((_, g), factor) in enumerate(zip(named, factors, strict=True)):
            if g is not None:
                t = self.options[i]["lr"] if lr is None else lr
                with np.errstate(all="ignore"):
                    self._update(i, g * factor, t(self.steps) if callable(t) else t)
        report.updated = any(g is not None for _, g in named)
        self.steps += report.updated
        report.step = self.steps
        return report

    def _regularized(self, i: int, g: Float64 | None) -> Float64 | None:
        """Add the gradient of a penalty that enters by it."""
        o = self.options[i]
        if g is None or o["penalty"] is None or o["prox"] is not None:
            return g
        w = float64(self.arrays[i]) if self.masters is None else self.masters[i]
        return self.penalized(g, w, o["penalty"])

    def _factors(self, named: list[tuple[str, Float64 | None]], report: Report) -> list[float]:
        """Return what clipping multiplies each gradient by; look for what isn't finite."""
        present = [(name, g) for name, g in named if g is not None]
        norms: list[float] = []
        factors = [1.0 for _ in named]
        with np.errstate(all="ignore"):
            if isinstance(self.clip, (GlobalNorm, Norm)):
                flat = np.concatenate([np.zeros(0), *(g.ravel() for _, g in present)])
                report.norm = _norm(flat, self.clip.ord)
                norms = [report.norm]
                report.scale = self._factor(report.norm)
                factors = [report.scale for _ in named]
            if isinstance(self.clip, Norm):
                each = [
                    _norm(np.zeros(0) if g is None else g.ravel(), self.clip.ord) for _, g in named
                ]
                factors = [self._factor(norm) for norm in each]
                taking_part = zip(factors, named, strict=True)
                report.scale = [factor for factor, (_, g) in taking_part if g is not None]
        policy = self.on_nonfinite or ("skip" if norms else "propagate")
        if policy != "propagate":
            bad = [name for name, g in present if not np.all(np.isfinite(g))]
            if bad or not np.all(np.isfinite(norms)):
                report.first_nonfinite = bad[0] if bad else None
                if policy == "raise":
                    raise FloatingPointError(f"{report.first_nonfinite}: not finite")
                report.skipped = True
        return factors

    def _factor(self, norm: float) -> float:
        limit = np.float64(self.clip.max_norm)
        return 1.0 if norm <= limit else float(limit / norm)

    def _update(self, i: int, g: Float64, t: float) -> None:
        o, s, mask = self.options[i], dict(self.state[i]), self.masks[i]
        if isinstance(self.clip, Value):
            g = np.clip(g, *self.clip.bounds)
        kept = np.ones(g.shape, np.bool_) if mask is None else mask
        g = np.where(kept, g, 0.0)
        old = float64(self.arrays[i]) if self.masters is None else self.masters[i]
        penalty = o["penalty"]
        if not self.clips_sum:
            g = np.asarray(self._regularized(i, g))
        if o["decay"] == "coupled":
            g = g + o["weight_decay"] * old
        self.counts[i] += 1
        k = self.counts[i]
        w, steps = self.move(old, g, s, k, t, o, kept)
        if penalty is not None and o["prox"] is not None:
            w = prox(penalty, w, steps if o["prox"] == "preconditioned" else t * self.length(k, o))
        w = np.asarray(w)  # NumPy makes numbers of 0-d arrays
        if o["constraint"] is not None:
            o["constraint"].project_(w)
        w = np.where(kept, w, old)
        for name, value in s.items():
            self.state[i][name] = self._stored(name, np.where(kept, value, self.state[i][name]))
        store(self.arrays[i], w)
        if self.masters is not None:
            self.masters[i] = w
        elif self.arrays[i].dtype.itemsize == 2:
            w = float64(self.arrays[i])
        if self.ema is not None and self.ema_decay is not None:
            average = self.ema[i] + (1 - self.ema_decay) * (w - self.ema[i])
            self.ema[i] = self._stored("ema", average) if self.state_dtype != "8bit" else average

    def penalized(self, g: Float64, w: Float64, penalty: Penalty) -> Float64:
        """Add the penalty's gradient."""
        return np.asarray(g + penalty.gradient(w))


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
