"""Communication between the ranks of a job, for ``comm=``."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from . import _core


class Communicator(Protocol):
    """The interface required of ``comm=``: the one method used, as mpi4py's communicators have."""

    def allgather(self, sendobj: object) -> list[object]:
        """Return the objects of all ranks, in rank order."""


def communicator(name: str, value: Any) -> Communicator:
    """Return the communicator, or raise a TypeError that says why it is unusable."""
    kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
    torch_kinds = [kind.__name__ for kind in kinds if kind.__module__.startswith("torch.")]
    if value is sys.modules.get("torch.distributed"):
        torch_kinds = ["torch.distributed"]
    wants = "an object whose allgather(value) returns the list of all ranks' values"
    if "DistributedDataParallel" in torch_kinds:
        raise TypeError(
            f"{name}: got DistributedDataParallel, whose gradients are averaged on every rank: "
            "their norm is that of all ranks already; wants None"
        )
    if torch_kinds:
        raise TypeError(
            f"{name}: got {torch_kinds[0]}, wants {wants}: one that calls "
            "torch.distributed.all_gather_object"
        )
    allgather = getattr(value, "allgather", None)
    if not callable(allgather) or isinstance(value, type):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name}: got {got}, wants {wants}, or None")
    try:
        signature = inspect.signature(allgather)
    except (TypeError, ValueError):  # compiled functions need not have one
        return cast("Communicator", value)
    try:
        signature.bind(0.0)
    except TypeError as error:
        got = f"{type(value).__name__} with allgather{signature}"
        raise TypeError(f"{name}: got {got}, wants {wants}") from error
    return cast("Communicator", value)


def gathered_norms(comm: Communicator, norm: float) -> npt.NDArray[np.float64]:
    """Return the norms of all ranks; `norm` is this rank's."""
    gathered: Any = comm.allgather(norm)
    try:
        norms = [_core.number("comm.allgather", each) for each in gathered]
    except TypeError:
        raise TypeError(
            f"comm.allgather: got {gathered!r}, wants a list with the number of each rank"
        ) from None
    if not norms or any(each < 0 for each in norms):
        raise ValueError(
            f"comm.allgather: got {gathered!r}, wants a number of at least 0 for each rank"
        )
    return np.array(norms)


def share_of_sum(comm: Communicator, value: int) -> tuple[int, int]:
    """Return the sum of an integer over the ranks before this one, and over all."""
    mine = os.urandom(16)
    ranks = cast("list[tuple[bytes, int]]", comm.allgather((mine, value)))
    own = [token for token, _ in ranks].index(mine)
    return sum(n for _, n in ranks[:own]), sum(n for _, n in ranks)


def non_finite_norm(norm: float, array: str | None) -> _core.NonFiniteError:
    """Return the error for a non-finite norm over all ranks, with this rank's first bad array."""
    place = array or "on another rank, or an overflow of the norm"
    error = _core.NonFiniteError(f"the global norm is {norm}; first non-finite array: {place}")
    error.array = array
    return error
