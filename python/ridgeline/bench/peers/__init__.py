"""The operations in NumPy, PyTorch, JAX, Numba and others: a file for each family.

All have the signature of ridgeline's function: arrays first, then the numbers of the case. For many
arrays the arguments are lists. JAX cannot write into an array: in place of that, its functions
return what the operation returns, if anything, and the new arrays.
"""
