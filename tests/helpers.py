"""What the tests share: samples, error bounds, memory layouts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), BFLOAT16, np.dtype(np.float16)]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

SIZES = [*range(131), 2**16 - 1, 2**16, 2**16 + 1, 2**17 + 5]  # together enough to be shared out
THREADS = [1, 2, 3, 7]


def compute_eps(dtype: np.dtype) -> float:
    """Spacing at 1 of the type the arithmetic runs in: float32, or float64 for float64."""
    return float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)


def is_half(dtype: np.dtype) -> bool:
    return dtype.itemsize == 2


def assert_ulp(actual, expected, dtype, ulp, scale=None, stores=1):
    """Check |actual - expected| <= ulp * eps * scale (+ half an ulp per store in a half type).

    ``expected`` is the exact (float64) answer. One rounding of the arithmetic is 0.5 ``ulp`` of
    the magnitude it acts on; ``scale`` is that magnitude where terms cancel. A float64 answer is
    compared with an oracle that rounds as often, hence twice the bound.
    """
    dtype = np.dtype(dtype)
    assert actual.dtype == dtype
    got, expected = actual.astype(np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    scale = np.abs(expected) if scale is None else np.asarray(scale, np.float64)
    compute = np.finfo(np.float64 if dtype == np.float64 else np.float32)
    with np.errstate(all="ignore"):
        bound = ulp * (2 if dtype == np.float64 else 1) * float(compute.eps) * scale
        bound = np.broadcast_to(bound, got.shape) + np.ceil(2 * ulp) * float(
            compute.smallest_subnormal
        )
        if is_half(dtype):
            half = ml_dtypes.finfo(dtype)
            exponent = np.floor(np.log2(np.maximum(np.abs(expected) + bound, 1e-300)))
            spacing = np.maximum(
                np.exp2(exponent) * float(half.eps), float(half.smallest_subnormal)
            )
            bound = bound + stores * 0.5 * spacing
        error = np.abs(got - expected)
        fine = (error <= bound) | (got == expected) | (np.isnan(got) & np.isnan(expected))
        fine |= np.isinf(got) & (np.abs(expected) + bound > float(ml_dtypes.finfo(dtype).max))
    if not np.all(fine):
        at = np.unravel_index(np.argmin(fine), fine.shape)
        raise AssertionError(
            f"{np.sum(~fine)} of {fine.size} out of bounds, first at {at}: got {got[at]!r}, "
            f"expected {expected[at]!r}, error {error[at]:.3g} > {bound[at]:.3g}"
        )


def sample(shape, dtype, seed=0, low=-8, high=3):
    """Random numbers of both signs over many binades, with zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(low, high, shape))
    x = np.where(rng.random(shape) < 0.03, np.copysign(0.0, x), x)
    return np.asarray(x, dtype)


def bits(tree) -> Any:
    """The bytes of every array and number in a nested container, in logical order."""
    if isinstance(tree, np.ndarray | np.generic):
        return np.asarray(tree).tobytes()
    if isinstance(tree, float):
        return tree.hex()
    if isinstance(tree, Mapping):
        return {key: bits(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [bits(value) for value in tree]
    return tree


def copied(tree):
    """A nested container of fresh copies."""
    if isinstance(tree, np.ndarray):
        return tree.copy()
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return type(tree)(copied(value) for value in tree)


@contextmanager
def unchanged(*trees):
    """Fail when one byte of the arrays differs afterwards."""
    before = bits(list(trees))
    yield
    assert bits(list(trees)) == before


@contextmanager
def target(name: str):
    import ridgeline as rl

    before = rl.runtime.target()
    rl.runtime.use_target(name)
    try:
        yield
    finally:
        rl.runtime.use_target(before)


def every_setting(compute: Callable[[], Any], threads: Iterable[int] = THREADS):
    """Check that a computation has the same bits for every target and number of threads.

    The best target runs with each number of threads. How work is shared out does not depend on the
    target: the others run with one of the numbers, in turn.
    """
    import ridgeline as rl

    with target("scalar"), rl.threads(1):
        expected = compute()
    best, *others = rl.runtime.targets()
    numbers = list(threads)
    settings = [(best, n) for n in numbers]
    settings += zip(others, itertools.cycle([*numbers[1:], numbers[0]]), strict=False)
    for name, n in settings:
        with target(name), rl.threads(n):
            assert compute() == expected, f"target {name}, {n} threads"


FILL = 77  # what lies between the elements of a view

Placed = tuple[np.ndarray, Callable[[], bool]]


def place(x: np.ndarray, index: Any, shape: tuple[int, ...], axes=None) -> Placed:
    """Copy x into the view ``base[index]`` of a larger array; the second result tells whether the
    rest of that array is untouched (and destroys the view)."""
    base = np.full(shape, FILL, x.dtype)
    view = base[index] if axes is None else base[index].transpose(axes)
    view[...] = x

    def intact() -> bool:
        view[...] = FILL
        return bool(np.all(base == np.array(FILL, x.dtype)))

    return view, intact


def place_unaligned(x: np.ndarray) -> Placed:
    raw = np.full(x.nbytes + 2, FILL, np.uint8)
    view = raw[1:-1].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view, lambda: bool(raw[0] == raw[-1] == FILL)


#: name -> a function that lays out a 3-d array in memory differently
LAYOUTS: dict[str, Callable[[np.ndarray], Placed]] = {
    "fortran": lambda x: place(x, np.s_[:], x.shape[::-1], (2, 1, 0)),
    "last axis first": lambda x: place(x, np.s_[:], (x.shape[2], *x.shape[:2]), (1, 2, 0)),
    "middle axis last": lambda x: place(
        x, np.s_[:], (x.shape[0], x.shape[2], x.shape[1]), (0, 2, 1)
    ),
    "reversed": lambda x: place(x, np.s_[::-1, ::-1, ::-1], x.shape),
    "reversed rows": lambda x: place(x, np.s_[::-1], x.shape),
    "every second": lambda x: place(x, np.s_[..., ::2], (*x.shape[:2], 2 * x.shape[2])),
    "every second row": lambda x: place(
        x, np.s_[:, 1::2], (x.shape[0], 2 * x.shape[1], x.shape[2])
    ),
    "columns": lambda x: place(x, np.s_[..., 3 : 3 + x.shape[2]], (*x.shape[:2], x.shape[2] + 5)),
    "backwards thirds": lambda x: place(x, np.s_[..., ::-3], (*x.shape[:2], 3 * x.shape[2])),
    "unaligned": place_unaligned,
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@st.composite
def placements(draw, shape=None):
    """A shape, any or as given, and a function that lays out an array of it with any strides."""
    if shape is None:
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=4)))
    axes = tuple(draw(st.permutations(range(len(shape)))))
    steps = [draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in shape]
    lengths = [shape[axes.index(i)] for i in range(len(shape))]
    base = tuple(n * abs(k) + draw(st.integers(0, 2)) for n, k in zip(lengths, steps, strict=True))
    index = tuple(
        slice(n * abs(k) - 1 if k < 0 else 0, None if k < 0 else n * k, k) if n else slice(0, 0)
        for n, k in zip(lengths, steps, strict=True)
    )
    return shape, lambda x: place(x, (*index, ...), base, axes)


def read_only(n=3):
    x = np.ones(n)
    x.flags.writeable = False
    return x


def overlapping_itself():
    return np.lib.stride_tricks.as_strided(np.ones(4), (3, 2), (8, 8))


WRONG_ARRAYS = {  # what: (the array, the error of reading it or None, the error of writing it)
    "int64": (np.ones(3, np.int64), TypeError, TypeError),
    "bool": (np.ones(3, bool), TypeError, TypeError),
    "complex": (np.ones(3, complex), TypeError, TypeError),
    "longdouble": (np.ones(3, np.longdouble), TypeError, TypeError),
    "objects": (np.array([1.0, None, 2.0], object), TypeError, TypeError),
    "other byte order": (np.ones(3, np.dtype(np.float64).newbyteorder()), TypeError, TypeError),
    "None": (None, TypeError, TypeError),
    "a number": (3.0, TypeError, TypeError),
    "a string": ("abc", TypeError, TypeError),
    "numbers": ([1.0, 2.0], TypeError, TypeError),
    "None in a list": ([np.ones(3), None], TypeError, TypeError),
    "read-only": (read_only(), None, ValueError),
    "overlapping itself": (overlapping_itself(), None, ValueError),
    "broadcast": (np.broadcast_to(np.ones(1), (3,)), None, ValueError),
}


def to_torch(x: np.ndarray):
    """A torch tensor over the same memory."""
    torch = pytest.importorskip("torch")
    if x.dtype == BFLOAT16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def from_torch(t) -> np.ndarray:
    torch = pytest.importorskip("torch")
    if t.dtype == torch.bfloat16:
        return t.detach().view(torch.int16).numpy().view(BFLOAT16)
    return t.detach().numpy()
