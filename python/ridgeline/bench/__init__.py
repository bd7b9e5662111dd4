"""``ridgeline bench``: measure this machine.

Each case is one operation on one set of arrays, done by ridgeline and by its peers (NumPy, PyTorch
and Numba where installed) in turn, beside the memory roof of the same moment::

    cases.py    what is measured, and how its results are checked
    peers.py    the same operations in NumPy and PyTorch; loops.py: in Numba
    roof.py     the speed of memory with trivial arithmetic
    measure.py  interleaved rounds, medians
    cli.py      options, table, JSON
"""
