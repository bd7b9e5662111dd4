r"""How sparsity grows with the step of training.

A schedule is an immutable value that is called with a step and returns the sparsity there, and says
at which steps masks are to be recomputed::

    schedule = rl.prune.CubicSchedule(final=0.9, begin=1000, end=9000, every=100)
    for step in range(10_000):
        ...
        if schedule.is_update(step):
            masks = rl.prune.magnitude(params, schedule(step))

Steps are integers from 0 on, sparsities fractions of elements pruned in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import _checks as check
from .._environment import in_default_environment

__all__ = ["ConstantSchedule", "CubicSchedule", "LinearSchedule", "OneShotSchedule"]


class _Checked:
    """A frozen dataclass that sets its fields to their checked values."""

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class _Ramp(_Checked):
    final: float
    begin: int
    end: int
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        self._set(
            final=check.fraction("final", self.final),
            begin=check.integer("begin", self.begin, 0),
            end=check.integer("end", self.end, 0),
            every=check.integer("every", self.every, 1),
            initial=check.fraction("initial", self.initial),
        )
        if self.end <= self.begin:
            raise ValueError(
                f"end: got {self.end}, wants a step after begin, which is {self.begin}"
            )

    def _left(self, progress: float) -> float:
        """Return which part of the way is left at some progress in [0, 1)."""
        raise NotImplementedError

    @in_default_environment
    def __call__(self, step: int) -> float:
        """Return the sparsity at a step."""
        at = check.integer("step", step, 0)
        if at < self.begin:
            return self.initial
        if at >= self.end:
            return self.final
        at -= (at - self.begin) % self.every
        if at == self.begin:
            return self.initial
        left = self._left((at - self.begin) / (self.end - self.begin))
        return self.final + (self.initial - self.final) * left

    def is_update(self, step: int) -> bool:
        """Return whether masks should be recomputed at a step.

        At `begin`, at every multiple of `every` steps after it, and for the last time at `end`.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            If `step` is no integer of at least 0.

        Examples
        --------
        >>> from ridgeline.prune import LinearSchedule
        >>> schedule = LinearSchedule(0.5, begin=10, end=15, every=2)
        >>> [step for step in range(20) if schedule.is_update(step)]
        [10, 12, 14, 15]
        """
        at = check.integer("step", step, 0)
        if at == self.end:
            return True
        return self.begin <= at < self.end and (at - self.begin) % self.every == 0


@dataclass(frozen=True)
class CubicSchedule(_Ramp):
    r"""Gradual pruning that slows down (Zhu & Gupta 2017).

    .. math:: s_f + (s_i - s_f) \Bigl(1 - \frac{t - t_0}{t_1 - t_0}\Bigr)^3

    at the last multiple t of `every` steps after :math:`t_0`; :math:`s_i` before :math:`t_0`,
    :math:`s_f` from :math:`t_1` on.

    Parameters
    ----------
    final : float
        :math:`s_f`, the sparsity at the end, in [0, 1].
    begin, end : int
        :math:`t_0 \ge 0` and :math:`t_1 > t_0`, as steps.
    every : int, default 1
        The steps between one update and the next. The last update is at `end`, whatever the rest.
    initial : float, default 0
        :math:`s_i`, the sparsity at the begin and before it, in [0, 1].

    Raises
    ------
    TypeError
        If a sparsity is no number, or a step no integer.
    ValueError
        If a sparsity is not in [0, 1], `begin` is negative, `end` is not after `begin` or `every`
        not above 0.

    Notes
    -----
    From conventions elsewhere: ``final_sparsity``, ``begin_step``, ``end_step``, ``frequency`` of
    TensorFlow Model Optimization's ``PolynomialDecay`` (power 3) are `final`, `begin`, `end` and
    `every`. torchao's ``CubicSL`` has the number of updates for ``total_t``: `end` is ``init_t +
    delta_t * total_t``. Neural Compressor's "cube" is another curve, slow at first.

    Examples
    --------
    >>> from ridgeline.prune import CubicSchedule
    >>> schedule = CubicSchedule(final=0.5, begin=10, end=20, every=5)
    >>> [schedule(step) for step in (9, 10, 14, 15, 19, 20)]
    [0.0, 0.0, 0.0, 0.4375, 0.4375, 0.5]
    >>> [step for step in range(30) if schedule.is_update(step)]
    [10, 15, 20]
    """

    def _left(self, progress: float) -> float:
        return (1 - progress) ** 3


@dataclass(frozen=True)
class LinearSchedule(_Ramp):
    r"""Gradual pruning at a constant rate.

    .. math:: s_i + (s_f - s_i) \frac{t - t_0}{t_1 - t_0}

    at the last multiple t of `every` steps after :math:`t_0`; :math:`s_i` before :math:`t_0`,
    :math:`s_f` from :math:`t_1` on.

    Parameters
    ----------
    final : float
        :math:`s_f`, the sparsity at the end, in [0, 1].
    begin, end : int
        :math:`t_0 \ge 0` and :math:`t_1 > t_0`, as steps.
    every : int, default 1
        The steps between one update and the next. The last update is at `end`, whatever the rest.
    initial : float, default 0
        :math:`s_i`, the sparsity at the begin and before it, in [0, 1].

    Raises
    ------
    TypeError
        If a sparsity is no number, or a step no integer.
    ValueError
        If a sparsity is not in [0, 1], `begin` is negative, `end` is not after `begin` or `every`
        not above 0.

    Examples
    --------
    >>> from ridgeline.prune import LinearSchedule
    >>> schedule = LinearSchedule(final=0.5, begin=10, end=20, every=5)
    >>> [schedule(step) for step in (9, 10, 14, 15, 19, 20)]
    [0.0, 0.0, 0.0, 0.25, 0.25, 0.5]
    """

    def _left(self, progress: float) -> float:
        return 1 - progress


@dataclass(frozen=True)
class ConstantSchedule(_Checked):
    """The same sparsity from a step on, with masks recomputed again and again.

    Parameters
    ----------
    sparsity : float
        In [0, 1]; before `begin` it is 0.
    begin : int, default 0
        The first step that prunes.
    every : int, default 1
        The steps between one update and the next.

    Raises
    ------
    TypeError
        If `sparsity` is no number, or a step no integer.
    ValueError
        If `sparsity` is not in [0, 1], `begin` is negative or `every` not above 0.

    Examples
    --------
    >>> from ridgeline.prune import ConstantSchedule
    >>> schedule = ConstantSchedule(0.5, begin=2, every=3)
    >>> schedule(1), schedule(2)
    (0.0, 0.5)
    >>> [step for step in range(10) if schedule.is_update(step)]
    [2, 5, 8]
    """

    sparsity: float
    begin: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        self._set(
            sparsity=check.fraction("sparsity", self.sparsity),
            begin=check.integer("begin", self.begin, 0),
            every=check.integer("every", self.every, 1),
        )

    def __call__(self, step: int) -> float:
        """Return the sparsity at a step."""
        return self.sparsity if check.integer("step", step, 0) >= self.begin else 0.0

    def is_update(self, step: int) -> bool:
        """Return whether masks should be recomputed at a step: every so many from `begin` on.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            If `step` is no integer of at least 0.

        Examples
        --------
        >>> from ridgeline.prune import ConstantSchedule
        >>> ConstantSchedule(0.5, every=10).is_update(20)
        True
        """
        at = check.integer("step", step, 0)
        return at >= self.begin and (at - self.begin) % self.every == 0


@dataclass(frozen=True)
class OneShotSchedule(_Checked):
    """All at once, at one step.

    Parameters
    ----------
    sparsity : float
        In [0, 1]; before `step` it is 0.
    step : int
        The step that prunes.

    Raises
    ------
    TypeError
        If `sparsity` is no number, or `step` no integer.
    ValueError
        If `sparsity` is not in [0, 1], or `step` is negative.

    Examples
    --------
    >>> from ridgeline.prune import OneShotSchedule
    >>> schedule = OneShotSchedule(0.5, step=2)
    >>> [(schedule(step), schedule.is_update(step)) for step in (1, 2, 3)]
    [(0.0, False), (0.5, True), (0.5, False)]
    """

    sparsity: float
    step: int

    def __post_init__(self) -> None:
        self._set(
            sparsity=check.fraction("sparsity", self.sparsity),
            step=check.integer("step", self.step, 0),
        )

    def __call__(self, step: int) -> float:
        """Return the sparsity at a step."""
        return self.sparsity if check.integer("step", step, 0) >= self.step else 0.0

    def is_update(self, step: int) -> bool:
        """Return whether masks should be recomputed at a step: once.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            If `step` is no integer of at least 0.

        Examples
        --------
        >>> from ridgeline.prune import OneShotSchedule
        >>> OneShotSchedule(0.5, step=2).is_update(2)
        True
        """
        return check.integer("step", step, 0) == self.step
