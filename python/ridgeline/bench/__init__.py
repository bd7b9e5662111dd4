"""``ridgeline bench``: measure this machine.

Each case is one operation on one set of arrays, done by ridgeline and by its peers (NumPy, PyTorch,
JAX and Numba where installed) in turn, beside the memory roof of the same moment::

    cases.py         what is measured
    peers.py         the same operations in NumPy and PyTorch; loops.py: in Numba
    random_peers.py  those that draw at random; fairness.py: whether they draw what they should
    prune_peers.py   those that prune; step_peers.py: steps of optimizers
    roof.py          the speed of memory with trivial arithmetic
    measure.py       checks, interleaved rounds, medians
    memory.py        peak extra memory, in fresh processes
    cli.py           options, table, JSON
"""
