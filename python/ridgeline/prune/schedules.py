"""Sparsity schedules: how sparsity grows during training.

A schedule is an immutable object. Called with a step it returns the sparsity at that step;
`is_update` says whether masks should be recomputed there::

    schedule = rl.prune.CubicSchedule(final=0.9, begin=1000, end=9000, every=100)
    for step in range(10_000):
        ...
        if schedule.is_update(step):
            masks = rl.prune.magnitude(params, schedule(step))

Steps are integers starting at 0; a sparsity is the fraction of pruned elements, in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import _checks as check
from .._environment import in_default_environment

__all__ = ["ConstantSchedule", "CubicSchedule", "LinearSchedule", "OneShotSchedule"]


class _Checked:
    """Base class of frozen dataclasses that set their fields to the checked values."""

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
        """Return the fraction of the change that remains at a progress in [0, 1)."""
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

        That is at `begin`, every `every` steps after it, and for the last time at `end`.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            If `step` is not an integer of at least 0.

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
    """Gradual pruning that slows down (Zhu & Gupta 2017).

    ::

        final + (initial - final) (1 - (t - begin) / (end - begin))³

    where t is the step of the latest update; `initial` before `begin`, `final` from `end` on.

    Parameters
    ----------
    final : float
        The sparsity at the end, in [0, 1].
    begin, end : int
        The first and the last step of the ramp: ``begin >= 0`` and ``end > begin``.
    every : int, default 1
        The number of steps between updates. The last update is always at `end`.
    initial : float, default 0
        The sparsity up to and including `begin`, in [0, 1].

    Raises
    ------
    TypeError
        If a sparsity is not a number, or a step is not an integer.
    ValueError
        If a sparsity is not in [0, 1], `begin` is negative, `end` is not after `begin`, or `every`
        is not above 0.

    Notes
    -----
    Names in other libraries: ``final_sparsity``, ``begin_step``, ``end_step`` and ``frequency`` of
    TensorFlow Model Optimization's ``PolynomialDecay`` (power 3) are `final`, `begin`, `end` and
    `every`. In torchao's ``CubicSL``, ``total_t`` is the number of updates: `end` is ``init_t +
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
    """Gradual pruning at a constant rate.

    ::

        initial + (final - initial) (t - begin) / (end - begin)

    where t is the step of the latest update; `initial` before `begin`, `final` from `end` on.

    Parameters
    ----------
    final : float
        The sparsity at the end, in [0, 1].
    begin, end : int
        The first and the last step of the ramp: ``begin >= 0`` and ``end > begin``.
    every : int, default 1
        The number of steps between updates. The last update is always at `end`.
    initial : float, default 0
        The sparsity up to and including `begin`, in [0, 1].

    Raises
    ------
    TypeError
        If a sparsity is not a number, or a step is not an integer.
    ValueError
        If a sparsity is not in [0, 1], `begin` is negative, `end` is not after `begin`, or `every`
        is not above 0.

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
    """A constant sparsity from a given step on, with masks recomputed regularly.

    Parameters
    ----------
    sparsity : float
        In [0, 1]; before `begin` it is 0.
    begin : int, default 0
        The first step that prunes.
    every : int, default 1
        The number of steps between updates.

    Raises
    ------
    TypeError
        If `sparsity` is not a number, or a step is not an integer.
    ValueError
        If `sparsity` is not in [0, 1], `begin` is negative, or `every` is not above 0.

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
        """Return whether masks should be recomputed at a step: every `every` steps from `begin`.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            If `step` is not an integer of at least 0.

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
    """Prune once, at a given step.

    Parameters
    ----------
    sparsity : float
        In [0, 1]; before `step` it is 0.
    step : int
        The step that prunes.

    Raises
    ------
    TypeError
        If `sparsity` is not a number, or `step` is not an integer.
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
        """Return whether masks should be recomputed at a step: only at `step`.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool

        Raises
        ------
        TypeError, ValueError
            If `step` is not an integer of at least 0.

        Examples
        --------
        >>> from ridgeline.prune import OneShotSchedule
        >>> OneShotSchedule(0.5, step=2).is_update(2)
        True
        """
        return check.integer("step", step, 0) == self.step
