"""Kernels that users register, measured beside ridgeline's."""

from __future__ import annotations

import difflib
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ridgeline import _core

from ..peers.registry import Implementation
from . import OPERATIONS
from . import layouts as shapes
from .operation import DTYPES, GRADS, ONE, OUT, PARAMS, Operation, always

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("numpy", "torch", "jax", "numba")
LAYOUTS = {each.name: each for each in (*ONE, *shapes.WORKLOADS, *shapes.ACTIVATIONS)}
_operations: dict[str, Operation] = {}
_beside: dict[str, list[Implementation]] = {}


def case(
    operation: str,
    *,
    name: str | None = None,
    kind: str = "numpy",
    traffic: Sequence[str] | None = None,
    reference: Callable[..., Any] | None = None,
    arrays: Sequence[str] = (GRADS,),
    numbers: Sequence[Any] = (),
    layouts: Sequence[str] = ("16KiB", "512KiB", "64MiB"),
    dtypes: Sequence[str] = ("float32",),
) -> Callable[[F], F]:
    """Register a function to be measured by ``ridgeline bench``.

    With the name of an operation that exists (``ridgeline bench --list``), the function is another
    way to do it: it takes the same arguments, is checked against ``ridgeline.reference``, and is
    timed in the same rounds as ridgeline and its peers. With a new name, ``traffic`` and
    ``reference`` define an operation; further functions may then be registered beside it.

    Parameters
    ----------
    operation : str
        What the function does: ``"prox_l1"``, or a new name of letters, digits and underscores.
    name : str, optional
        How to call it in tables; the function's ``__name__`` by default.
    kind : {"numpy", "torch", "jax", "numba"}, default "numpy"
        Which arrays it takes. NumPy's and torch's are views of the same memory. JAX's are copies:
        such a function returns the new arrays, after what the operation returns. ``"numba"`` takes
        NumPy arrays, and numbers as float32.
    traffic : sequence of str, optional
        Of a new operation: the passes over memory it cannot do without, each one of ``"read"``,
        ``"rewrite"``, ``"add"`` (reads two arrays, rewrites one), ``"copy"``, ``"write"`` and
        others that ``ridgeline._core.memory_patterns()`` lists. They make its memory roof.
    reference : callable, optional
        Of a new operation: the same computation in plain NumPy, with the same arguments. What the
        first array holds after a call, and what is returned, has to agree to 1e-5.
    arrays : sequence of {"gradients", "parameters", "results"}
        Of a new operation: its first arguments, each as large as the layout says. Gradients are
        normal numbers, put back before each run; parameters are other ones.
    numbers : sequence
        Of a new operation: the arguments after the arrays.
    layouts : sequence of str
        Of a new operation: sizes in bytes ``"16KiB"``, ``"512KiB"``, ``"64MiB"`` of one array, or
        models: ``"resnet50"``, ``"gpt2"``, ``"1000x256"``, ``"embedding"``, where arguments are
        lists of arrays.
    dtypes : sequence of {"float32", "float64", "bfloat16", "float16"}
        Of a new operation.

    Returns
    -------
    callable
        A decorator that returns the function as it is.

    Raises
    ------
    ValueError
        If an argument is not one of those above, if a new operation lacks ``traffic`` or
        ``reference``, or an old one has them; if the name is taken.

    Examples
    --------
    Another way to do what ridgeline does:

    >>> import numpy as np
    >>> import ridgeline as rl
    >>> @rl.bench.case("prox_l1", name="two maxima")
    ... def soft_threshold(x, step):
    ...     x[...] = np.maximum(x - step, 0) - np.maximum(-x - step, 0)

    A kernel of one's own:

    >>> def plain(x):
    ...     x *= np.exp(-np.abs(x))
    >>> @rl.bench.case("damp", traffic=["rewrite"], reference=plain)
    ... def damp(x):
    ...     np.multiply(x, np.exp(-np.abs(x)), out=x)

    In a file ``my_kernels.py``, they run with ``ridgeline bench --load my_kernels.py -k damp``.
    """
    _check("kind", [kind], KINDS)
    defines = traffic is not None or reference is not None
    _check_name(operation, defines)
    if defines:
        if not traffic or reference is None:
            raise ValueError("a new operation wants traffic and reference")
        _check("traffic", traffic, _core.memory_patterns())
        _check("arrays", arrays, (GRADS, PARAMS, OUT))
        _check("layouts", layouts, LAYOUTS)
        _check("dtypes", dtypes, DTYPES)
        if len({LAYOUTS[each].single for each in layouts}) > 1:
            raise ValueError("layouts: got single arrays and lists, wants either")

    def register(function: F) -> F:
        called = name or function.__name__
        if called == "ridgeline" or any(each.name == called for each in beside(operation)):
            raise ValueError(f"name: {called!r} is taken for {operation}")
        if not defines:
            _beside.setdefault(operation, []).append(Implementation(called, function, kind))
            return function
        assert traffic is not None
        assert reference is not None
        _operations[operation] = Operation(
            operation,
            function,
            reference,
            family="own",
            arrays=tuple(arrays),
            numbers=always(*numbers),
            passes=tuple(traffic),
            writes=GRADS in arrays,
            layouts=tuple(LAYOUTS[each] for each in layouts),
            dtypes=tuple(dtypes),
            overhead=False,
            kind=kind,
            own=called,
        )
        return function

    return register


def operations() -> list[Operation]:
    """List the operations that users defined."""
    return list(_operations.values())


def beside(operation: str) -> list[Implementation]:
    """List what users registered for an operation."""
    return list(_beside.get(operation, ()))


def load(file: Path) -> None:
    """Run a Python file that registers kernels."""
    if not file.is_file():
        raise FileNotFoundError(f"--load {file}: no such file")
    runpy.run_path(str(file), run_name="__ridgeline_bench__")


def forget() -> None:
    """Forget all that was registered."""
    _operations.clear()
    _beside.clear()


def _check_name(operation: str, defines: bool) -> None:
    known = {each.name for each in (*OPERATIONS, *_operations.values())}
    if not defines and operation not in known:
        near = difflib.get_close_matches(operation, known, 3, 0)
        raise ValueError(
            f"operation: got {operation!r}, wants one that exists, such as {', '.join(near)}; "
            "or traffic and reference, which define a new one"
        )
    if defines and operation in known:
        raise ValueError(f"operation: {operation!r} exists; without traffic and reference")
    if defines and not operation.isidentifier():
        raise ValueError(f"operation: got {operation!r}, wants letters, digits, underscores")


def _check(name: str, got: Sequence[str], known: Any) -> None:
    for each in got:
        if each not in known:
            raise ValueError(f"{name}: got {each!r}, wants one of {', '.join(map(repr, known))}")
