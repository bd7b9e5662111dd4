"""What all optimizers share: one step, array after array."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from ridgeline.reference._tree import Array, Float64, float64, rounded, store
from ridgeline.reference.clipping import _norm
from ridgeline.reference.optimizers.codes import dequantize, quantize
from ridgeline.reference.optimizers.limits import GlobalNorm, Norm, Value
from ridgeline.reference.optimizers.proximal import prox
from ridgeline.reference.penalties import Penalty

Settings: TypeAlias = "dict[str, Any]"
State: TypeAlias = "dict[str, Float64]"
Bools: TypeAlias = npt.NDArray[np.bool_]


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
        cautious: bool = False,
        convention: str = "torch",
        **settings: Any,
    ) -> None:
        known = {
            "weight_decay": 0.0,
            "decay": None,
            "lr_independent_decay": False,
            "penalty": None,
            "prox": None,
            "constraint": None,
            "decay_filter": decay_filter,
            **self.defaults,
            **self.conventions.get(convention, {}),
        }
        if unknown := set(settings) - set(known):
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        self.clip, self.on_nonfinite, self.convention = clip, on_nonfinite, convention
        self._set_parameters(params, {**known, **settings, "lr": lr})
        self.clips_sum = clip is not None and (
            convention == "keras" if clip_after_penalty is None else clip_after_penalty
        )
        self.state_dtype, self.max_update_rms = state_dtype, max_update_rms
        self.cautious = cautious
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

    def _set_parameters(self, params: Any, given: Settings) -> None:
        """Set the name, the array and the settings of every parameter, group by group."""
        grouped = isinstance(params, list) and params and isinstance(params[0], Mapping)
        self.groups: list[Settings] = params if grouped else [{"params": params}]
        self.grouped = bool(grouped)
        self.options: list[Settings] = []
        self.names: list[str] = []
        self.arrays: list[Array] = []
        couples = self.torch_couples and self.convention == "torch"
        for group in self.groups:
            leaves = _leaves(group["params"], "params")
            options = {**given, **{k: v for k, v in group.items() if k != "params"}}
            how = options["decay"] or ("coupled" if couples else "decoupled")
            shares = self._shares(options["penalty"], group["params"], len(leaves))
            for (_, path, w), penalty in zip(leaves, shares, strict=True):
                chosen = options["decay_filter"]
                factor = 1.0 if chosen is None else float(chosen(path, w))
                decay = options["weight_decay"] * factor
                self.options.append(
                    {**options, "penalty": penalty, "weight_decay": decay, "decay": how}
                )
                self.names.append(path)
                self.arrays.append(w)

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
        >>> from ridgeline.reference.optimizers import SGD
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
        if self.cautious:
            agrees = (u * g > 0) & kept
            u = np.where(agrees, u / max(agrees.sum() / max(kept.sum(), 1), 1e-3), 0.0)
        if self.max_update_rms is not None:
            u = u / max(1.0, _rms(np.where(kept, u, 0.0)) / self.max_update_rms)
        own = t / (1 + (k - 1) * o.get("lr_decay", 0.0))
        there = np.asarray(d) != 0
        u, steps = np.where(there, u, 0.0), np.where(there, own / d, 0.0)
        return self.decayed(w, t, o) - own * u, steps * self.length(k, o)

    @staticmethod
    def decayed(w: Float64, t: float, o: Settings) -> Float64:
        """Apply the decoupled decay."""
        rate = 1.0 if o["lr_independent_decay"] else t
        return w * (1 - rate * o["weight_decay"]) if o["decay"] == "decoupled" else w

    def length(self, k: int, o: Settings) -> float:
        """Return how many learning rates the k-th step is long after equal gradients.

        Examples
        --------
        >>> from ridgeline.reference.optimizers import SGD
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
        >>> from ridgeline.reference import L1
        >>> from ridgeline.reference.optimizers import SGD
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
