"""Passes over memory from Python; tests/cpp/test_roof.cpp tests what they touch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ridgeline import _core

STATES = {"adam_wide": 2, "adam_narrow": 0.5, "adam_bytes": 0.25}
WRITTEN = {"copy", "stream", "write"}


def regions(pattern: str, size: int) -> list[np.ndarray]:
    """Random bytes, as many of each region as the pattern needs."""
    state = int(size * STATES.get(pattern, 1))
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, n, np.uint8) for n in (size, size, state, state)]


def test_traffic():
    assert _core.memory_patterns() == {
        "read": 1,
        "rewrite": 2,
        "add": 3,
        "copy": 2,
        "stream": 2,
        "write": 1,
        "momentum": 5,
        "adam": 7,
        "adam_wide": 11,
        "adam_narrow": 5,
        "adam_bytes": 4,
    }


@pytest.mark.parametrize("pattern", _core.memory_patterns())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_only_what_the_pattern_overwrites_changes(pattern, threads):
    arrays, before = regions(pattern, 70_000), regions(pattern, 70_000)
    assert _core.memory_pass(pattern, arrays, threads, 2) > 0
    whole = 70_000 // 256 * 256
    if pattern in WRITTEN:
        before[1][:whole] = 0x3F if pattern == "write" else before[0][:whole]
    for x, y in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16, bool])
def test_any_dtype(dtype):
    x = np.ones(1000, dtype)
    y = np.zeros(1000, dtype)
    _core.memory_pass("copy", [x, y], 1, 1)
    assert y.view(np.uint8)[:256].tobytes() == x.view(np.uint8)[:256].tobytes()


def test_read_only_arrays_may_be_read():
    x, y = regions("copy", 512)[:2]
    x.flags.writeable = False
    _core.memory_pass("copy", [x, y], 1, 1)
    np.testing.assert_array_equal(x, y)


def array(size: int = 1024) -> np.ndarray:
    return np.zeros(size, np.uint8)


SAME = array()
FIXED = array()
FIXED.flags.writeable = False


@pytest.mark.parametrize(
    ("pattern", "arrays", "threads", "passes", "message"),
    [
        ("reed", [array()], 1, 1, "pattern: got 'reed', wants one of read, rewrite, "),
        ("read", [array()], 0, 1, "threads: got 0, wants 1 or more"),
        ("read", [array()], 4097, 1, "threads: got 4097, wants 4096 or less"),
        ("read", [array()], 1, 0, "passes: got 0, wants 1 or more"),
        ("copy", [array()], 1, 1, "arrays: got 1, wants 2 for 'copy'"),
        ("adam", [array()] * 3, 1, 1, "arrays: got 3, wants 4 for 'adam'"),
        ("copy", [array(), FIXED], 1, 1, r"arrays\[1\]: got a read-only array"),
        ("copy", [SAME, SAME], 1, 1, r"arrays\[1\]: got memory that overlaps arrays\[0\]"),
        ("copy", [SAME[:600], SAME[424:]], 1, 1, r"arrays\[1\]: got memory that overlaps"),
        ("copy", [array(), array(1023)], 1, 1, r"arrays\[1\]: got 1023 bytes, wants 1024 or more"),
        ("read", [array(255)], 1, 1, r"arrays\[0\]: got 255 bytes, wants 256 or more"),
        ("read", [array()[::2]], 1, 1, r"arrays\[0\]: got an array with strides"),
        (
            "adam_wide",
            [array(), array(), array(2047), array(2048)],
            1,
            1,
            r"arrays\[2\]: got 2047 bytes, wants 2048 or more",
        ),
    ],
)
def test_bad_values(pattern, arrays, threads, passes, message):
    with pytest.raises(ValueError, match=message):
        _core.memory_pass(pattern, arrays, threads, passes)


@pytest.mark.parametrize(
    ("arrays", "threads", "message"),
    [
        ([None], 1, r"arrays\[0\]: got NoneType, wants a NumPy array"),
        ([array()], 1.5, "threads: got float, wants an integer"),
    ],
)
def test_bad_types(arrays, threads, message):
    with pytest.raises(TypeError, match=message):
        _core.memory_pass("read", arrays, threads, 1)
