"""Instruction sets and threads.

Environment variables, read when ridgeline is imported or first called: ``RIDGELINE_TARGET`` names
the target to use, ``OMP_NUM_THREADS`` the number of threads.
"""

from __future__ import annotations

import os
import platform
import threading
from contextlib import ContextDecorator

from . import _core

__all__ = [
    "get_num_threads",
    "set_num_threads",
    "show_config",
    "target",
    "targets",
    "threads",
    "use_target",
]


def targets() -> list[str]:
    """Return the targets that this build contains and this CPU supports, best first.

    Returns
    -------
    list of str
        Of ``"x86_64_v4"`` (AVX-512), ``"x86_64_v3"`` (AVX2), ``"x86_64_v2"`` (SSE4.2), ``"neon"``
        and ``"scalar"``; the last is always there. All of them give the same bits.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.runtime.targets()[-1]
    'scalar'
    """
    return _core.targets()


def target() -> str:
    """Return the target in use: that of ``RIDGELINE_TARGET``, or the best.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.runtime.target() in rl.runtime.targets()
    True
    """
    return _core.target()


def use_target(name: str) -> None:
    """Use a target for all later calls of this process.

    Parameters
    ----------
    name : str
        One of :func:`targets`.

    Raises
    ------
    ValueError
        If this build does not hold it or this CPU does not run it.

    Examples
    --------
    >>> import ridgeline as rl
    >>> best = rl.runtime.target()
    >>> rl.runtime.use_target("scalar")
    >>> rl.runtime.target()
    'scalar'
    >>> rl.runtime.use_target(best)
    """
    if not isinstance(name, str):
        raise TypeError(f"name: got {type(name).__name__}, wants the name of a target")
    _core.use_target(name)


def get_num_threads() -> int:
    """Return the number of threads that a call may currently use.

    Examples
    --------
    >>> import ridgeline as rl
    >>> with rl.threads(1):
    ...     rl.get_num_threads()
    1
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set the number of threads for the whole process.

    Until this is called, OpenMP's own setting holds: ``OMP_NUM_THREADS``, or what ``threadpoolctl``
    last set. Small arrays are worked on by one thread whatever the setting. Results do not depend
    on it. No call uses more than 256 threads: larger settings, those of OpenMP too, count as 256.

    Parameters
    ----------
    n : int
        1 to 4096.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer, less than 1 or more than 4096.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.set_num_threads(2)
    >>> rl.get_num_threads()
    2
    """
    _core.set_num_threads(n)


class threads(ContextDecorator):
    """Limit the threads of the calls made inside a ``with`` block, or of a decorated function.

    The limit belongs to the calling thread; other threads of the program keep theirs.

    Parameters
    ----------
    n : int
        1 to 4096; more than 256 count as 256.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer, less than 1 or more than 4096.

    Examples
    --------
    >>> import numpy as np
    >>> import ridgeline as rl
    >>> with rl.threads(1):
    ...     norm = rl.global_norm(np.ones(4))
    >>> rl.threads(1)(rl.global_norm)(np.ones(4))  # one call
    2.0
    """

    def __init__(self, n: int) -> None:
        _core.restore_thread_limit(_core.exchange_thread_limit(n))  # refuses a bad n here
        self._n = n
        self._entered = threading.local()

    def __enter__(self) -> threads:
        outer = self._entered.__dict__.setdefault("outer", [])
        outer.append(_core.exchange_thread_limit(self._n))
        return self

    def __exit__(self, *exception: object) -> None:
        _core.restore_thread_limit(self._entered.outer.pop())


def show_config() -> None:
    """Print the version, the build, the targets and the threads.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.show_config()  # doctest: +ELLIPSIS
    ridgeline ...
    """
    for name, value in _config().items():
        print(f"{name:<12}{value}")


def _config() -> dict[str, str]:
    from . import __version__

    environment = {
        name: os.environ[name]
        for name in ("RIDGELINE_TARGET", "OMP_NUM_THREADS")
        if name in os.environ
    }
    return {
        "ridgeline": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "compiler": _core.compiler,
        "targets": ", ".join(targets()),
        "target": target(),
        "threads": f"{get_num_threads()} of {os.cpu_count()}"
        + ("" if _core.has_openmp else " (built without OpenMP)"),
        "environment": ", ".join(f"{k}={v}" for k, v in environment.items()) or "-",
    }
