"""``ridgeline bench``: measure this machine.

Each case is one operation on one set of arrays, done by ridgeline, by its reference and by its
peers (NumPy, PyTorch, JAX, Numba and others where installed) in turn, beside the memory roof of the
same moment::

    report/      the JSON of a run, a comparison of two, tables and a page
    peers/       the operations in NumPy, PyTorch, JAX, Numba and others
    rows/        what is measured: operations, a file for each family; on which arrays
    run/         arguments, checks of the results, interleaved rounds, the memory roof
    machine.py   where figures come from, and what disturbed them
    cli.py       the options

A room imports only rooms that stand above it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .rows.own import case

__all__ = ["case", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ridgeline bench``, as a file that registers kernels may do for itself.

    Parameters
    ----------
    argv : sequence of str, optional
        Its options; those of the process by default.

    Returns
    -------
    int
        The exit status: 0; 1 if something became slower (``--baseline``); 2 for options that can't
        be followed.

    Examples
    --------
    >>> import ridgeline as rl
    >>> rl.bench.main(["--list", "-k", "prox_l1/float32/64MiB"])
    prox_l1/float32/64MiB
    0
    """
    import argparse

    from . import cli

    parser = argparse.ArgumentParser(prog="ridgeline bench", description=cli.DESCRIPTION)
    cli.add_arguments(parser)
    parser.set_defaults(run=cli.run)
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status
