"""``ridgeline bench``: measure this machine.

Each case is one operation on one set of arrays, done by ridgeline, by its reference and by its
peers (NumPy, PyTorch, JAX, Numba and others where installed) in turn, beside the memory roof of the
same moment::

    operations.py    what is measured; layouts.py: on which arrays; cases.py: both; own.py: users'
    peers.py         the same operations in NumPy, PyTorch and JAX; loops.py: in Numba
    penalty_peers.py the penalties among them
    random_peers.py  those that draw at random; fairness.py: whether they draw what they should
    prune_peers.py   those that prune; step_peers.py: steps of optimizers
    arguments.py     memory and arguments of calls; checks.py: whether results are the same
    roof.py          the speed of memory with trivial arithmetic
    measure.py       interleaved rounds, medians, doubts
    memory.py        peak extra memory, in fresh processes
    machine.py       where figures come from, and what disturbed them
    cli.py           options and tables
    results.py       the JSON of a run; compare.py: two of them; report.py: as a page
"""

from __future__ import annotations

from collections.abc import Sequence

from .own import case

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
