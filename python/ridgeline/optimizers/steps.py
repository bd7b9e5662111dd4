"""Taking steps: from the gradients to one call of the core."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from .. import _core
from .._checks import positive
from .._ranks import Communicator, gathered_norms, non_finite_norm
from .._tree import located, named_tree, rebuilt, without_none
from .._typing import Gradients
from ..clipping import GlobalNorm, Norm, Value
from .grouped import Grouped

Clip: TypeAlias = GlobalNorm | Norm | Value
OnNonFinite: TypeAlias = Literal["skip", "raise", "propagate"]


class StepReport(NamedTuple):
    """The report of a step.

    Attributes
    ----------
    norm : float or None
        The norm of all unscaled gradients before clipping; None if it was not computed.
    scale : float or list of float
        The factor of clipping by norm; 1.0 if nothing was clipped. With `Norm` one per array that
        had a gradient.
    skipped : bool
        Whether the step was skipped because a gradient was not finite.
    first_nonfinite : str or None
        The place of the first gradient with a NaN or an infinity, if this was checked.
    penalty : float
        The value of the penalties at the parameters before the step.
    updated : bool
        False if the step was skipped, only accumulated gradients, or had no gradient at all.
    step : int
        The number of updates so far.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> opt = rl.SGD(np.ones(2), lr=0.1, clip=rl.GlobalNorm(1.0))
    >>> opt.step(np.array([3.0, 4.0]))  # doctest: +NORMALIZE_WHITESPACE
    StepReport(norm=5.0, scale=0.2, skipped=False, first_nonfinite=None, penalty=0.0,
               updated=True, step=1)
    """

    norm: float | None
    scale: float | list[float]
    skipped: bool
    first_nonfinite: str | None
    penalty: float
    updated: bool
    step: int


class Steps(Grouped):
    """The part of an optimizer that takes steps; a base class of `Optimizer` only."""

    clip: Clip | None
    comm: Communicator | None
    on_nonfinite: OnNonFinite | None

    def step(
        self, grads: Gradients = None, lr: float | None = None, *, loss_scale: float = 1.0
    ) -> StepReport:
        """Update all parameters from their gradients.

        Parameters
        ----------
        grads : array or tree of arrays
            Only read; with the structure and shapes of the parameters (with groups, a list of such
            trees), and of any float dtype: dtypes that differ are converted on the fly. None in
            place of an array leaves that parameter, its state and its step count unchanged; if all
            are None, nothing happens. If omitted, the ``.grad`` of torch parameters is used.
        lr : float, optional
            The learning rate of this step, for all groups.
        loss_scale : float, default 1
            The factor by which the loss was multiplied; gradients are divided by it.

        Returns
        -------
        StepReport

        Raises
        ------
        NonFiniteError
            With ``on_nonfinite="raise"``, if the norm or a gradient is not finite; it names the
            first such array. Like every error, it leaves parameters and states unchanged.
        TypeError, ValueError
            If the gradients differ from the parameters in structure or shape or overlap them, or
            an argument is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0, 0.05])
        >>> opt = rl.SGD(w, lr=0.1, penalty=rl.L1(1.0), prox="plain")
        >>> report = opt.step(np.array([1.0, 0.0]))
        >>> w.round(3), report.penalty
        (array([0.8, 0. ]), 1.05)
        """
        if self._every == 1 and self._options["comm"] is None:  # one call, which locks by itself
            return self._step(grads, lr, loss_scale)
        with self._core.turn(reads=False):
            return self._step(grads, lr, loss_scale)

    def _step(self, grads: Any, lr: float | None, loss_scale: float) -> StepReport:
        scale = _core.reciprocal(positive("loss_scale", loss_scale))
        grads = self._own_gradients() if grads is None else _no_parameters(grads)
        if self._by_name and not isinstance(grads, dict):
            grads = named_tree(grads, "grads")
        rates = self._rates(lr)
        comm = self._options["comm"]  # self.comm is slower, which a small step would notice
        if comm is not None:
            grads = _core.reusable_tree(grads, "grads")  # they are read more than once
        if self._every > 1 and self._core.micro_step + 1 < self._every:
            # Ranks decide together, on the accumulated sums.
            policy = None if comm is None else "propagate"
            self._core.step(grads, task="add", scale=scale, on_nonfinite=policy, **rates)
            return StepReport(None, 1.0, False, None, 0.0, False, self.steps)
        return self._update(grads, scale=scale, **rates)

    def flush(self, lr: float | None = None) -> StepReport:
        """Update with the mean of the gradients accumulated so far, if there are any.

        For the end of an epoch, when fewer than `accumulation_steps` gradients are left.

        Parameters
        ----------
        lr : float, optional
            The learning rate of this step, for all groups.

        Returns
        -------
        StepReport

        Raises
        ------
        NonFiniteError, TypeError, ValueError
            As `step`.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w = np.array([1.0])
        >>> opt = rl.SGD(w, lr=0.5, accumulation_steps=4)
        >>> for g in (1.0, 0.0):
        ...     report = opt.step(np.array([g]))
        >>> opt.flush().updated, w
        (True, array([0.75]))
        """
        with self._core.turn(reads=False):
            rates = self._rates(lr)
            if self._core.micro_step == 0:
                return StepReport(None, 1.0, False, None, 0.0, False, self.steps)
            nothing = rebuilt(self._places, [None] * len(self._arrays))
            return self._update(nothing, flush=True, **rates)

    def _update(self, grads: Any, **options: Any) -> StepReport:
        """Update, using the norm over all ranks if there is a communicator."""
        known = first = None
        clip, comm = self._options["clip"], self._options["comm"]
        if comm is not None:
            known, first = self._norm_of_ranks(comm, grads, options)
        done = self._core.step(grads, task="update", norm=known, **options)
        norm = done.norm if known is None or isinstance(clip, GlobalNorm) else None
        if isinstance(clip, Norm):
            scale: Any = done.factors
        else:
            scale = 1.0 if done.skipped else done.factors[0]
        bad = first or done.first_nonfinite
        return StepReport(norm, scale, done.skipped, bad, done.penalty, done.updated, self.steps)

    def _norm_of_ranks(
        self, comm: Communicator, grads: Any, options: dict[str, Any]
    ) -> tuple[float | None, str | None]:
        """Return the norm over all ranks, and the place of this rank's first non-finite array."""
        if isinstance(self.clip, Norm):
            raise ValueError(
                "comm: got a communicator with clip=Norm, wants GlobalNorm, Value or None"
            )
        policy = self._policy()
        by_norm = isinstance(self.clip, GlobalNorm)
        if not by_norm and policy == "propagate":
            return None, None
        own = self._core.step(grads, task="norm", **options)
        parts = gathered_norms(comm, own.norm or 0.0)
        norm = _core.global_norm(
            parts, self.clip.ord if isinstance(self.clip, GlobalNorm) else math.inf
        )
        if math.isfinite(norm) or policy != "raise":
            return norm, own.first_nonfinite
        raise non_finite_norm(norm, own.first_nonfinite)

    def _policy(self) -> OnNonFinite:
        by_norm = isinstance(self.clip, GlobalNorm | Norm)
        return self.on_nonfinite or ("skip" if by_norm else "propagate")

    def _own_gradients(self) -> Any:
        """Return the ``.grad`` of the parameters."""
        try:
            found = [array.grad for array in self._arrays]
        except AttributeError:
            known = located("params", self._tree())
            place = next(at for at, _, w in known if not hasattr(w, "grad"))
            raise TypeError(
                f"grads: got None, wants gradients: {place} is not a torch tensor with a .grad"
            ) from None
        return rebuilt(self._places, found)

    def zero_grad_(self, grads: Gradients = None) -> None:
        """Set gradients to 0, in place.

        Parameters
        ----------
        grads : array or tree of arrays
            Written. None in a container is skipped. If omitted, the ``.grad`` of torch parameters.

        Raises
        ------
        TypeError, ValueError
            If something is not a writable array.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, g = np.ones(2), np.ones(2)
        >>> rl.SGD(w).zero_grad_(g)
        >>> g
        array([0., 0.])
        """
        if grads is None:
            grads = [
                array.grad for array in self._arrays if getattr(array, "grad", None) is not None
            ]
        _core.set_zero_(without_none(grads))

    def zero_grad(self, grads: Gradients = None) -> None:
        """Set gradients to 0, in place: `zero_grad_` under torch's name.

        Parameters
        ----------
        grads : array or tree of arrays
            See `zero_grad_`.

        Examples
        --------
        >>> import numpy as np
        >>> import ridgeline as rl
        >>> w, g = np.ones(2), np.ones(2)
        >>> rl.SGD(w).zero_grad(g)
        >>> g
        array([0., 0.])
        """
        self.zero_grad_(grads)


def _no_parameters(grads: Any) -> Any:
    """Return gradients; raise if the first is a parameter, as in step(model.parameters())."""
    if isinstance(grads, Iterator):
        grads = list(grads)
    first = grads
    while isinstance(first, dict | list | tuple) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    if type(first).__name__ == "Parameter" and hasattr(first, "requires_grad"):
        raise _core.RequiresGradError(
            "grads: got parameters, wants gradients: pass [p.grad for p in model.parameters()], or "
            "call step() to use the .grad of the parameters"
        )
    return grads
