"""Arithmetic in the default floating-point environment, for Python and NumPy as in the core."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from . import _core

P = ParamSpec("P")
R = TypeVar("R")


def in_default_environment(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function round to nearest and keep subnormal numbers, whatever the thread is set to.

    torch.set_flush_denormal and libraries built with -ffast-math change the settings of a thread.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        environment = _core.FloatEnvironment()
        try:
            return function(*args, **kwargs)
        finally:
            environment.leave()

    return call
