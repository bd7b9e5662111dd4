"""What counts as an array, or as a tree of them, and what is refused before a byte is written."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import itertools
import subprocess
import sys
import textwrap
import types
import weakref
from array import array as from_array
from collections.abc import Mapping

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    LAYOUTS,
    assert_ulp,
    bits,
    dtypes,
    from_torch,
    layouts,
    sample,
    to_torch,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl

as_strided = np.lib.stride_tricks.as_strided


def like(tree):
    """Fresh NumPy arrays or torch tensors of the same values, in lists and dicts."""
    if isinstance(tree, Mapping):
        return {key: like(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [like(value) for value in tree]
    if isinstance(tree, np.ndarray):
        return np.array(tree)
    return tree.detach().clone() if hasattr(tree, "detach") else tree


#: every function that writes, made to change arrays that hold numbers above 1
WRITERS = {
    "clip_by_value_": lambda tree: rl.clip_by_value_(tree, 0.5),
    "clip_by_norm_": lambda tree: rl.clip_by_norm_(tree, 0.5),
    "clip_by_global_norm_": lambda tree: rl.clip_by_global_norm_(tree, 0.5),
    "clip_by_rms_": lambda tree: rl.clip_by_rms_(tree, 0.5),
    "zero_largest_": lambda tree: rl.zero_largest_(tree, 1),
    "add_gradient_": lambda tree: rl.L1(0.5).add_gradient_(tree, like(tree)),
    "prox_": lambda tree: rl.L1(0.5).prox_(tree, 1.0),
}
writers = pytest.mark.parametrize("writer", WRITERS)

READERS = {
    "global_norm": rl.global_norm,
    "value": lambda tree: rl.L2(2.0).value(tree),
    "add_gradient_": lambda tree: rl.L2(2.0).add_gradient_(like(tree), tree),
}
readers = pytest.mark.parametrize("reader", READERS)


def fails_alone(code: str, error: str) -> None:
    """Run code in another process, where it must raise `error` rather than kill the process."""
    script = (
        "import numpy as np\nimport ridgeline as rl\n"
        + textwrap.dedent(code)
        + f"\ntry:\n    call()\nexcept {error} as e:\n    print('refused:', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    assert "refused:" in done.stdout, "no error was raised"


# --- NumPy ----------------------------------------------------------------------------------------


def structured(x):
    """A field of a structured array: unaligned, strides that are no multiple of the item size."""
    records = np.zeros(x.shape, [("a", "i1"), ("b", x.dtype), ("c", "i2")])
    records["a"], records["c"] = 77, -77
    records["b"] = x
    view = records["b"]
    assert view.strides[-1] == x.dtype.itemsize + 3
    return view, lambda: np.all(records["a"] == 77) and np.all(records["c"] == -77)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != BFLOAT16], ids=str)
@writers
def test_fields_of_records(writer, dtype):
    x = sample((5, 11), dtype) + np.asarray(1.5, dtype)
    expected = x.copy()
    WRITERS[writer](expected)
    view, intact = structured(x)
    WRITERS[writer](view)
    assert bits(view) == bits(expected)
    assert bits(expected) != bits(x)
    assert intact()


@dtypes
@layouts
@writers
def test_layouts_in_place(writer, layout, dtype):
    x = sample((3, 5, 7), dtype) + np.asarray(1.5, dtype)
    expected = x.copy()
    returned = WRITERS[writer](expected)
    view, intact = LAYOUTS[layout](x)
    assert WRITERS[writer](view) == returned
    assert bits(view) == bits(expected)
    assert intact()


class Subclass(np.ndarray):
    pass


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", ["subclass", "matrix", "recarray field", "memmap"])
def test_numpy_subclasses(kind, tmp_path):
    x = np.array([[3.0, -0.25], [0.0, 4.0]])
    if kind == "memmap":
        path = tmp_path / "x.bin"
        view = np.memmap(path, np.float64, "w+", shape=(2, 2))
        view[...] = x
    elif kind == "matrix":
        view = np.matrix(x)
    elif kind == "recarray field":
        view = np.rec.fromarrays([x, x], names="a,b").a.view(Subclass)
    else:
        view = x.copy().view(Subclass)
    assert rl.global_norm(view) == rl.global_norm(x)
    result = rl.L1(1.0).prox(view, 1.0)
    assert type(result) is np.ndarray
    assert result.tolist() == [[2, 0], [0, 3]]
    rl.clip_by_value_({"w": [view]}, 1.0)
    assert view.tolist() == [[1, -0.25], [0, 1]]
    if kind == "memmap":
        view.flush()
        assert np.fromfile(path).tolist() == [1, -0.25, 0, 1]
        reading = np.memmap(path, np.float64, "r", shape=(2, 2))
        assert rl.global_norm(reading) == rl.global_norm(view)
        with pytest.raises(ValueError, match=r"^grads: got a read-only"):
            rl.clip_by_value_(reading, 0.5)


REFUSED = {
    "masked": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    "int8": lambda: np.ones(3, np.int8),
    "int64": lambda: np.ones(3, np.int64),
    "uint16": lambda: np.ones(3, np.uint16),
    "bool": lambda: np.ones(3, bool),
    "complex64": lambda: np.ones(3, np.complex64),
    "complex128": lambda: np.ones(3, np.complex128),
    "longdouble": lambda: np.ones(3, np.longdouble),
    "object": lambda: np.array([1.0, 2.0], object),
    "str": lambda: np.array(["a"]),
    "datetime64": lambda: np.array(["2020-01-01"], "datetime64[s]"),
    "record": lambda: np.zeros(2, [("a", "f4")]),
    "swapped float32": lambda: np.ones(3, np.dtype("f4").newbyteorder()),
    "swapped float64": lambda: np.ones(3, np.dtype("f8").newbyteorder()),
    "swapped float16": lambda: np.ones(3, np.dtype("f2").newbyteorder()),
    "float8": lambda: np.ones(3, pytest.importorskip("ml_dtypes").float8_e4m3fn),
    "int4": lambda: np.ones(3, pytest.importorskip("ml_dtypes").int4),
    "numpy scalar": lambda: np.float32(3),
    "numpy double": lambda: np.float64(3),
    "float": lambda: 3.0,
    "text": lambda: "weights",
    "no text": lambda: "",
    "bytes": lambda: b"weights",
    "a type": lambda: np.ndarray,
    "a function": lambda: np.ones,
    "torch int": lambda: pytest.importorskip("torch").ones(3, dtype=int),
    "torch complex": lambda: pytest.importorskip("torch").ones(3) * 1j,
    "torch float8": lambda: (t := pytest.importorskip("torch")).ones(3).to(t.float8_e5m2),
    "torch meta": lambda: pytest.importorskip("torch").ones(3, device="meta"),
    "torch sparse": lambda: pytest.importorskip("torch").ones(3).to_sparse(),
    "torch csr": lambda: pytest.importorskip("torch").eye(3).to_sparse_coo().coalesce(),
    "torch module": lambda: pytest.importorskip("torch").nn.Linear(2, 2),
    "torch size": lambda: pytest.importorskip("torch").ones(3).shape,
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_its_place(what):
    bad, good = REFUSED[what](), np.full(3, 9.0)
    for tree, place in [
        (bad, ""),
        ([good, bad], "[1]"),
        ((good, [good.copy(), (bad,)]), "[1][1][0]"),
        ({"w": good, "b": {"x": [bad]}}, "['b']['x'][0]"),
        (collections.OrderedDict(w=good, b=bad), "['b']"),
        ((x for x in (good, bad)), "[1]"),
    ]:
        with unchanged(good), pytest.raises(TypeError) as error:
            rl.clip_by_value_(tree, 0.5)
        if what == "torch size":
            place += "[0]"  # a tuple of numbers
        assert str(error.value).startswith(f"grads{place}: got "), error.value
    with pytest.raises(TypeError, match=r"^arrays: got |^arrays\[0\]: got "):
        rl.global_norm(bad)
    with pytest.raises(TypeError, match=r"^x: got |^x\[0\]: got "):
        rl.L1(1.0).prox(bad, 1.0)


def test_masked_arrays_are_refused_everywhere():
    x = np.ma.masked_array(np.full(3, 9.0), [True, False, False])
    for function in [*WRITERS.values(), *READERS.values()]:
        with unchanged(x.data), pytest.raises(TypeError, match="masked array"):
            function([x])


def test_place_is_that_of_the_bad_occurrence():
    x = np.ones(3)
    with pytest.raises(ValueError, match=r"^grads\[1\]: got shape \(3,\), wants \(4,\)"):
        rl.L1(1.0).add_gradient_([x, x], [np.ones(3), np.ones(4)])


@writers
def test_zero_size(writer):
    empty = [
        np.ones((0,)),
        np.ones((3, 0, 2)),
        as_strided(np.ones(1), (0, 3), (2**40, -8)),
        as_strided(np.ones(1), (3, 0), (0, 5)),
        np.ones((5, 0))[::-1],
        np.ones((0, 7)).T,
    ]
    x = np.full(4, 3.0)
    for array in empty:
        assert array.size == 0
        WRITERS[writer](array)
        WRITERS[writer]([x, array])
        assert rl.global_norm(array) == 0
        assert rl.L1(1.0).value(array) == 0
        assert rl.L1(1.0).prox(array, 1.0).shape == array.shape


@writers
def test_broadcast_targets_are_refused(writer):
    base = np.full(6, 9.0)
    windows = np.lib.stride_tricks.sliding_window_view(base, 3, writeable=True)
    targets = [
        windows,
        as_strided(base, (4, 3), (0, 8)),
        as_strided(base, (3, 2), (8, 8)),
        as_strided(base[2:], (2, 2), (8, -8)),
        as_strided(base, (2, 2), (4, 16)),
    ]
    for target in targets:
        assert target.flags.writeable
        with unchanged(base), pytest.raises(ValueError, match=r"^(grads|params|out)\[1\]: got"):
            WRITERS[writer]([np.full(3, 9.0), target])


# --- foreign arrays -------------------------------------------------------------------------------


class Foreign:
    """An array of another library that speaks DLPack 1."""

    def __init__(self, x, device=None, error=None):
        self.x, self.device, self.error, self.asked = x, device, error, 0

    def __dlpack_device__(self):
        return self.device or self.x.__dlpack_device__()

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        self.asked += 1
        if self.error:
            raise self.error
        return self.x.__dlpack__(max_version=max_version)


class OldForeign(Foreign):
    """... that speaks DLPack 0."""

    def __dlpack__(self, stream=None):
        return self.x.__dlpack__()


foreigners = pytest.mark.parametrize("foreign", [Foreign, OldForeign])
try:
    np.ones(1).__dlpack__(max_version=(1, 0))
except TypeError:
    foreigners = pytest.mark.parametrize("foreign", [OldForeign])


@foreigners
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_foreign_arrays(foreign, dtype):
    x = sample((6, 5), dtype) + np.asarray(1.5, dtype)
    for view in (x, x.T, x[::2], x[::-1, 1:], x[2, 3, ...], x[:0]):
        f = foreign(view)
        assert rl.global_norm(f) == rl.global_norm(view)
        assert rl.L1(0.1).value({"w": [f]}) == rl.L1(0.1).value(view)
        out = np.zeros_like(view)
        assert rl.L1(0.1).prox(f, 1.0, out=out) is out
        assert bits(out) == bits(rl.L1(0.1).prox(view, 1.0))
        expected = view.copy()
        rl.clip_by_value_(expected, 0.25)
        rl.clip_by_value_([f], 0.25)
        assert bits(view) == bits(expected)
    with pytest.raises(TypeError, match=r"^x: got .*Foreign, wants"):
        rl.L1(0.1).prox(foreign(x), 1.0)  # no way to make a new one


@pytest.mark.parametrize("foreign", [Foreign, OldForeign])
@dtypes
def test_foreign_arrays_backed_by_torch(foreign, dtype):
    pytest.importorskip("torch")
    x = sample((6, 5), dtype) + np.asarray(1.5, dtype)
    expected = x.copy()
    t = to_torch(x)
    for view, model in ((t, expected), (t.t(), expected.T), (t[1::2, ::3], expected[1::2, ::3])):
        assert rl.global_norm(foreign(view)) == rl.global_norm(model)
    rl.clip_by_value_(foreign(t[1::2, ::3]), 0.25)
    rl.clip_by_value_(expected[1::2, ::3], 0.25)
    assert bits(x) == bits(expected)


@foreigners
def test_foreign_arrays_return_to_their_owner(foreign):
    x = np.full(5, 9.0)
    before = sys.getrefcount(x)
    for tree in (foreign(x), [foreign(x)], [foreign(x), None]):
        for function in (*WRITERS.values(), *READERS.values()):
            with contextlib.suppress(TypeError, ValueError):
                function(tree)
    del tree
    gc.collect()
    assert sys.getrefcount(x) == before


@foreigners
def test_foreign_read_only(foreign):
    x = np.full(3, 9.0)
    x.flags.writeable = False
    with unchanged(x), pytest.raises((TypeError, ValueError), match=r"^grads\[0\]: got"):
        rl.clip_by_value_([foreign(x)], 0.5)
    if foreign is Foreign:
        assert rl.global_norm(foreign(x)) == rl.global_norm(x)


@pytest.mark.parametrize("device", [(2, 0), (10, 1), (3, 0)], ids=["cuda", "rocm", "cuda host"])
def test_foreign_device(device):
    f = Foreign(np.full(3, 9.0), device=device)
    good = np.full(3, 9.0)
    with unchanged(f.x, good), pytest.raises(TypeError, match=r"^grads\[1\]: .* another device"):
        rl.clip_by_value_([good, f], 0.5)
    assert f.asked == 0  # a copy between devices may be what asking means


@pytest.mark.parametrize("error", [BufferError("no"), RuntimeError("no"), ValueError("no")])
def test_foreign_errors(error):
    good = np.full(3, 9.0)
    with unchanged(good), pytest.raises((TypeError, ValueError), match=r"^grads\['b'\]: got .*no"):
        rl.clip_by_value_({"a": good, "b": Foreign(np.ones(2), error=error)}, 0.5)


class NoCapsule(Foreign):
    def __dlpack__(self, **_):
        return "nothing"


class Half:
    def __dlpack__(self):
        raise AssertionError("called without __dlpack_device__")


@pytest.mark.parametrize("bad", [NoCapsule(np.ones(3)), Half()], ids=["no capsule", "no device"])
def test_foreign_nonsense(bad):
    good = np.full(3, 9.0)
    with unchanged(good), pytest.raises((TypeError, ValueError)):
        rl.clip_by_value_([good, bad], 0.5)


class Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    _fields_ = (
        ("tensor", Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


class Raw:
    """A hand-made DLPack tensor: float64 (2, 3) in memory of 9 elements, unless told otherwise."""

    def __init__(
        self, offset=0, strides=None, dtype=(2, 64, 1), version=(1, 0), flags=0, old=False
    ):
        self.memory = np.arange(1.0, 10.0)
        self.shape = (ctypes.c_int64 * 2)(2, 3)
        self.strides = strides and (ctypes.c_int64 * 2)(*strides)
        tensor = Tensor(
            self.memory.ctypes.data,
            Device(1, 0),
            2,
            DataType(*dtype),
            self.shape,
            self.strides,
            offset,
        )
        self.name = b"dltensor" if old else b"dltensor_versioned"
        self.managed = (
            Managed(tensor, None, None)
            if old
            else ManagedVersioned(*version, None, None, flags, tensor)
        )

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.managed), self.name, None)


@pytest.mark.parametrize("old", [False, True], ids=["versioned", "old"])
@pytest.mark.parametrize(
    ("options", "elements"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"offset": 16}, [2, 3, 4, 5, 6, 7]),
        ({"strides": (3, 1)}, [0, 1, 2, 3, 4, 5]),
        ({"strides": (1, 2)}, [0, 2, 4, 1, 3, 5]),
        ({"strides": (5, 1), "offset": 8}, [1, 2, 3, 6, 7, 8]),
        ({"strides": (-3, -1), "offset": 40}, [5, 4, 3, 2, 1, 0]),
    ],
)
def test_hand_made_dlpack(options, elements, old):
    raw = Raw(**options, old=old)
    expected = raw.memory.copy()
    out = np.zeros((2, 3))
    rl.L1(1.0).prox(raw, 0.5, out=out)
    assert out.ravel().tolist() == [expected[i] - 0.5 for i in elements]
    expected[elements] = 0.25
    rl.clip_by_value_(raw, 0.25)
    assert raw.memory.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": (2, 64, 2)},
        {"dtype": (0, 64, 1)},
        {"dtype": (1, 32, 1)},
        {"dtype": (2, 8, 1)},
        {"dtype": (4, 32, 1)},
        {"dtype": (5, 64, 1)},
        {"version": (2, 0)},
    ],
)
def test_hand_made_dlpack_of_wrong_types(options):
    raw = Raw(**options)
    with unchanged(raw.memory):
        with pytest.raises(TypeError, match=r"^grads: got "):
            rl.clip_by_value_(raw, 0.25)
        with pytest.raises(TypeError, match=r"^arrays\[1\]: got "):
            rl.global_norm([np.ones(1), raw])


def test_hand_made_dlpack_read_only_flag():
    raw = Raw(flags=1)
    with unchanged(raw.memory), pytest.raises(ValueError, match=r"^grads: got a read-only array"):
        rl.clip_by_value_(raw, 0.25)
    assert rl.global_norm(raw) == rl.global_norm(raw.memory[:6])


# --- PyTorch --------------------------------------------------------------------------------------


TORCH_VIEWS = {  # of a (4, 6) tensor
    "all": lambda t: t,
    "transposed": lambda t: t.t(),
    "strided": lambda t: t[::2, 1::2],
    "row": lambda t: t[1],
    "0-d": lambda t: t[2, 3],
    "empty": lambda t: t[:, :0],
    "detached": lambda t: t.detach(),
    "data": lambda t: t.data,
    "three axes": lambda t: t[:, None, :].transpose(0, 2),
    "parameter": lambda t: pytest.importorskip("torch").nn.Parameter(t, requires_grad=False),
}


@dtypes
@pytest.mark.parametrize("name", TORCH_VIEWS)
@writers
def test_torch_views(writer, name, dtype):
    pytest.importorskip("torch")
    x = np.abs(sample((4, 6), dtype)) + np.asarray(1.5, dtype)
    t, model = to_torch(x.copy()), to_torch(x.copy())
    view, other = TORCH_VIEWS[name](t), TORCH_VIEWS[name](model)
    array = from_torch(other)  # over the memory of `model`
    assert rl.global_norm(view) == rl.global_norm(array)
    assert WRITERS[writer](view) == WRITERS[writer](array)
    assert bits(from_torch(t)) == bits(from_torch(model))
    assert (bits(from_torch(t)) == bits(x)) == (name == "empty")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


GRAD_WRITERS = [name for name in WRITERS if name != "prox_"]


@pytest.mark.parametrize("writer", GRAD_WRITERS)
def test_torch_leaf_that_requires_grad(torch, writer):
    write = WRITERS[writer]
    for make in (
        lambda: torch.full((3,), 9.0, requires_grad=True),
        lambda: torch.nn.Parameter(torch.full((3,), 9.0)),
        lambda: torch.full((3,), 9.0, requires_grad=True) * 1,
        lambda: torch.full((3,), 9.0, requires_grad=True)[1:],
    ):
        t, good = make(), torch.full((3,), 9.0)
        version = t._version
        for tree in (t, [good, t], {"a": good, "b": (t,)}):
            with pytest.raises(rl.RequiresGradError, match=r"^grads.*requires grad") as error:
                write(tree)
            assert isinstance(error.value, RuntimeError)
            assert isinstance(error.value, ValueError)
            assert t.min() == 9
            assert good.min() == 9
            assert t._version == version
        with torch.no_grad():
            if t.is_leaf:  # a parameter, not a gradient
                with pytest.raises(rl.RequiresGradError, match=r"^grads\[1\].*p\.grad for p in"):
                    write([good, t])
                assert t.min() == good.min() == 9
            else:
                write([good, t])
                assert t.ne(9).any()
                assert good.ne(9).any()
                assert t._version > version
        assert t.requires_grad
        detached = make().detach()
        write(detached)
        assert detached.ne(9).any()


def test_torch_prox_acts_as_without_grad(torch):
    t = torch.nn.Parameter(torch.full((3,), 9.0))
    version = t._version
    rl.L1(1.0).prox_([t], 1.0)
    assert t.tolist() == [8.0] * 3
    assert t._version > version
    assert t.requires_grad
    with pytest.raises(rl.RequiresGradError, match=r"^x: .*x\.detach\(\)"):
        rl.L1(1.0).prox(t, 1.0)
    result = rl.L1(1.0).prox(t.detach(), 1.0)
    assert type(result) is torch.Tensor
    with torch.no_grad():
        result = rl.L1(1.0).prox(t, 1.0)
    assert not result.requires_grad
    with pytest.raises(rl.RequiresGradError, match=r"^out"):
        rl.L1(1.0).prox(result, 1.0, out=t)
    assert t.tolist() == [8.0] * 3


#: every parameter update that is not a step
UPDATES = {
    "prox_": lambda t: rl.L1(1.0).prox_(t, 1.0),
    "project_": lambda t: rl.Box(0.0, 8.0).project_(t),
    "apply_": lambda t: rl.Mask.from_array(np.zeros(t.shape, bool)).apply_(t),
    "masks.apply_": lambda t: rl.MaskSet.from_array([np.zeros(t.shape, bool)]).apply_([t]),
    "random_shrink_": lambda t: rl.prune.random_shrink_(t, 0.5, rl.Key(0)),
}


@pytest.mark.parametrize("update", UPDATES)
def test_torch_updates_of_what_is_in_the_graph(torch, update):
    leaf = torch.full((3,), 9.0, requires_grad=True)
    for t in (leaf * 1, leaf[:2], leaf.view(3, 1)):
        with pytest.raises(rl.RequiresGradError, match=r"^params.*is no leaf"):
            UPDATES[update](t)
        assert t.eq(9).all()
        with torch.no_grad():
            UPDATES[update](t)
        assert t.ne(9).all()
        with torch.no_grad():
            t.fill_(9)
    with torch.no_grad():
        view = leaf[1:]
    UPDATES[update](view)
    UPDATES[update](leaf)
    assert leaf.ne(9).all()


#: every function that gives a new array of one or two
MAKERS = {
    "dropout": lambda x, **o: rl.dropout(x, 0.5, rl.Key(0), **o),
    "dropout_add": lambda x, **o: rl.dropout_add(x.detach(), x, 0.5, rl.Key(0), **o),
    "alpha_dropout": lambda x, **o: rl.alpha_dropout(x, 0.5, rl.Key(0), **o),
    "alpha_dropout_backward": lambda x, **o: rl.alpha_dropout_backward(x, 0.5, rl.Key(0), **o),
    "feature_alpha_dropout": lambda x, **o: rl.feature_alpha_dropout(x, 0.5, rl.Key(0), **o),
    "gaussian_dropout": lambda x, **o: rl.gaussian_dropout(x, 0.5, rl.Key(0), **o),
    "gaussian_noise": lambda x, **o: rl.gaussian_noise(x, 0.5, rl.Key(0), **o),
    "drop_connect": lambda x, **o: rl.drop_connect(x, 0.5, rl.Key(0), **o),
    "drop_path": lambda x, **o: rl.drop_path(x, 0.5, rl.Key(0), **o),
    "drop_path, actual": lambda x, **o: rl.drop_path(x, 0.5, rl.Key(0), scale="actual", **o),
    "drop_block": lambda x, **o: rl.drop_block(x, 0.5, 1, rl.Key(0), **o),
    "zoneout, new": lambda x, **o: rl.zoneout(x, x.detach(), 0.5, rl.Key(0), **o),
    "zoneout, old": lambda x, **o: rl.zoneout(x.detach(), x, 0.5, rl.Key(0), **o),
    "zoneout_backward": lambda x: rl.zoneout_backward(x, 0.5, rl.Key(0))[0],
    "token_dropout": lambda x, **o: rl.token_dropout(x, 0.5, rl.Key(0), **o),
    "prox": lambda x, **o: rl.L1(0.5).prox(x, 0.5, **o),
    "prox, weights": lambda x, **o: rl.L1(0.5, weights=x).prox(x.detach(), 0.5, **o),
    "taylor": lambda x, **o: rl.prune.scores.taylor(x, x.detach(), **o),
    "taylor, gradient": lambda x, **o: rl.prune.scores.taylor(x.detach(), x, **o),
    "gradient": lambda x, **o: rl.prune.scores.gradient(x, **o),
    "lamp": lambda x, **o: rl.prune.scores.lamp(x, **o),
    "wanda": lambda x, **o: rl.prune.scores.wanda(x, np.ones(x.shape[-1], np.float32), **o),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_torch_new_arrays_would_cut_the_graph(torch, maker):
    make = MAKERS[maker]
    x = torch.full((2, 3, 4, 5), 9.0, requires_grad=True)
    outs = [{}] if maker == "zoneout_backward" else [{}, {"out": torch.full((2, 3, 4, 5), 7.0)}]
    for options in outs:
        for t in (x, x * 1, torch.nn.Parameter(x.detach().clone())):
            with pytest.raises(rl.RequiresGradError, match=r"requires grad.*no_grad.*examples/"):
                make(t, **options)
            for out in options.values():
                assert out.eq(7).all()
        expected = make(x.detach().clone())
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert torch.equal(make(x, **options), expected)
        make(x.detach(), **options)


def test_torch_scores_of_a_list_write_nothing(torch):
    w = [torch.ones(3), torch.ones(3, requires_grad=True)]
    out = [torch.full((3,), 7.0), torch.full((3,), 7.0)]
    with pytest.raises(rl.RequiresGradError, match=r"^w\[1\]"):
        rl.prune.scores.taylor(w, [torch.ones(3), torch.ones(3)], out=out)
    assert all(t.eq(7).all() for t in out)


def test_torch_autograd_functions_need_not_detach(torch):
    class Dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return rl.dropout(x, 0.5, rl.Key(0))

        @staticmethod
        def backward(ctx, dy):
            return rl.dropout(dy, 0.5, rl.Key(0))

    h = torch.ones(64, requires_grad=True)
    (h + Dropout.apply(h)).sum().backward()
    assert torch.equal(h.grad, 1 + rl.dropout(torch.ones(64), 0.5, rl.Key(0)))
    # a second derivative would be cut off
    with pytest.raises(rl.RequiresGradError, match=r"^x: "):
        torch.autograd.grad((Dropout.apply(h) * h).sum(), h, create_graph=True)


def test_torch_that_requires_grad_may_be_read(torch):
    model = torch.nn.Linear(3, 2)
    x = model.weight * 1
    for t in (model.weight, x):
        rl.global_norm(t)
        rl.L2(1.0).value(t)
        rl.prune.magnitude(t, 0.5)
        rl.prune.by_score(t, 0.5)
    assert rl.Mask.from_array(x > 0).size == 6
    assert rl.global_norm(model.parameters()) > 0


def test_torch_parameters_for_gradients(torch):
    """The advice must not lead to weights that are scaled."""
    model = torch.nn.Linear(3, 2)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(5, 3)).square().sum().backward()
    pruner = rl.prune.Pruner(before, rl.prune.OneShotSchedule(0.5, step=99))
    for write in (*(WRITERS[name] for name in GRAD_WRITERS), pruner.mask_gradients_):
        for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
            with mode(), pytest.raises(rl.RequiresGradError, match=r"^grads\[0\].*a gradient"):
                write(list(model.parameters()))
    assert all(map(torch.equal, before, model.parameters()))
    gradients = [p.grad for p in model.parameters()]
    assert rl.clip_by_global_norm_(gradients, 1e-3) > 1e-3
    assert rl.global_norm(gradients) == pytest.approx(1e-3)
    assert all(map(torch.equal, before, model.parameters()))


class Failing:
    """Makes a class of tensors whose attributes, or some, cannot be asked for."""

    def __new__(cls, torch, what):
        class Tensor(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if what in getattr(function, "__self__", function).__name__:
                    raise LookupError("mine")
                return super().__torch_function__(function, types, args, kwargs or {})

        return torch.full((3,), 9.0).as_subclass(Tensor)


@pytest.mark.parametrize("what", ["", "requires_grad", "is_inference"])
@writers
def test_torch_subclasses_that_fail(torch, writer, what):
    t, good = Failing(torch, what), np.full(3, 9.0)
    with torch._C.DisableTorchFunctionSubclass():
        twin = t.detach().as_subclass(torch.Tensor)
    with unchanged(good), pytest.raises(LookupError, match="mine"):
        rl.clip_by_value_([good, t], 0.5) if writer != "prox_" else rl.L1(1.0).prox_([good, t], 1.0)
    with pytest.raises(LookupError, match="mine"):
        WRITERS[writer](t)
    assert twin.tolist() == [9, 9, 9]


def test_torch_subclasses_of_an_own_mind(torch):
    class Quiet(torch.Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl

    t = torch.full((3,), 9.0).as_subclass(Quiet)
    rl.clip_by_value_(t, 0.5)
    assert t.tolist() == [0.5] * 3


TRACED = {
    "dropout": lambda x: rl.dropout(x, 0.5, rl.Key(0)),
    "prox": lambda x: rl.L1(0.5).prox(x, 0.5),
    "lamp": lambda x: rl.prune.scores.lamp(x),
    "read": lambda x: x * rl.global_norm(x),
    "write": lambda x: rl.clip_by_value_(x, 0.5) or x,
    "update": lambda x: rl.Box(0.0, 0.5).project_(x) or x,
    "uniform": lambda x: rl.random.uniform(3, rl.Key(0), out=x),
    "bernoulli": lambda x: rl.random.bernoulli(3, rl.Key(0), out=x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", TRACED)
def test_torch_traces_are_refused(torch, function):
    from torch.fx.experimental.proxy_tensor import make_fx

    f = TRACED[function]
    x = torch.full((3,), 9.0)
    traces = {
        "jit": lambda: torch.jit.trace(f, x),
        "make_fx": lambda: make_fx(f)(x),
        "make_fx, pre-dispatch": lambda: make_fx(f, pre_dispatch=True)(x),
        "make_fx, fake": lambda: make_fx(f, tracing_mode="fake")(x),
    }
    for trace in traces.values():
        with pytest.raises(TypeError, match=r"^(x|w|g|arrays|grads|params|out): got "):
            trace()
        assert x.tolist() == [9, 9, 9]
    f(x)


def test_torch_modes_that_record_nothing(torch):
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.full((3,), 9.0)
    with FlopCounterMode(display=False):
        assert rl.global_norm(x) == rl.global_norm(x.numpy())
        rl.clip_by_value_(x, 0.5)
    assert x.tolist() == [0.5] * 3


def test_torch_params_may_require_grad(torch):
    model = torch.nn.Linear(3, 2)
    grads = [torch.zeros_like(p, requires_grad=False) for p in model.parameters()]
    value = rl.L2(1.0).add_gradient_(grads, model.parameters())
    assert value > 0
    assert all(torch.equal(g, p) for g, p in zip(grads, model.parameters(), strict=True))


def test_torch_inference_tensors(torch):
    with torch.inference_mode():
        t = torch.full((3,), 9.0)
        p = torch.nn.Parameter(torch.full((3,), 9.0))
        for name, write in WRITERS.items():
            t.fill_(9)
            p.fill_(9)
            write([t, p] if name == "prox_" else t)
            assert t.ne(9).any()
            assert p.eq(9).all() == (name != "prox_")
        t.fill_(9)
    assert t.is_inference()
    good = np.full(3, 9.0, np.float32)
    for name, write in WRITERS.items():
        place = "params" if name == "prox_" else "grads"
        with unchanged(good), pytest.raises(ValueError, match=rf"^{place}\[1\]: got an inference"):
            write([good, t])
    x = torch.from_numpy(good)
    for call in (
        lambda: rl.Box(0.0, 1.0).project_(t),
        lambda: rl.dropout(x, 0.5, rl.Key(0), out=t),
        lambda: rl.random.normal(3, rl.Key(0), out=t),
        lambda: rl.random.bernoulli(3, rl.Key(0), out=t),
    ):
        with pytest.raises(ValueError, match="got an inference tensor"):
            call()
    assert t.tolist() == [9, 9, 9]
    assert rl.global_norm(t) == rl.global_norm(good)
    assert rl.dropout(t, 0.0, rl.Key(0)).tolist() == [9, 9, 9]


def test_torch_lazy_parameters(torch):
    model = torch.nn.Sequential(torch.nn.LazyLinear(2), torch.nn.LazyBatchNorm1d())
    calls = [
        rl.global_norm,
        rl.L1(1.0).value,
        lambda tree: rl.L1(1.0).prox_(tree, 1.0),
        lambda tree: rl.Box(0.0, 1.0).project_(tree),
        lambda tree: rl.prune.magnitude(tree, 0.5),
        lambda tree: rl.SGD(tree, lr=0.1),
        lambda tree: rl.dropout(tree[0], 0.5, rl.Key(0)),
        lambda tree: rl.random.bernoulli((), rl.Key(0), out=tree[0]),
        *(lambda tree, f=f: f(tree) for f in WRITERS.values()),
    ]
    for call in calls:
        for tree in (list(model.parameters()), list(model.buffers())):
            # torch's own, where Python looks at the shape first
            with pytest.raises((TypeError, ValueError, RuntimeError), match=r"Uninit|uninit"):
                call(tree)
    model(torch.ones(3, 4))
    assert rl.global_norm(model.parameters()) > 0


@writers
def test_torch_version_counters(torch, writer):
    base = torch.full((8,), 9.0)
    view, other = base[::2], torch.full((8,), 9.0)
    versions = base._version, other._version
    WRITERS[writer]([view, torch.full((2,), 9.0).numpy()])
    assert base._version == view._version > versions[0]
    assert other._version == versions[1]
    now = base._version
    rl.global_norm([base, other])
    rl.L1(1.0).value([base, other])
    rl.L1(1.0).prox(base, 1.0, out=torch.empty(8))
    with pytest.raises(TypeError):
        WRITERS[writer]([base, "x"])
    assert base._version == now
    assert other._version == versions[1]


def test_torch_out_is_seen_by_autograd(torch):
    out = torch.full((3,), 9.0)
    version = out._version
    rl.L1(1.0).prox(torch.ones(3), 1.0, out=out)
    assert out._version > version


@writers
def test_torch_autograd_sees_writes(torch, writer):
    w = torch.full((3,), 9.0, requires_grad=True) * 1
    loss = (w * w).sum()
    with torch.no_grad():
        WRITERS[writer](w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_torch_negative_bit(torch):
    """The imaginary part of a conjugate is stored with the other sign."""
    t = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert t.is_neg()
    assert t.tolist() == [-2, 4]
    try:
        result = rl.L1(1.0).prox(t, 0.5)
    except (TypeError, ValueError):
        pass
    else:
        assert result.tolist() == [-1.5, 3.5]
    try:
        rl.clip_by_value_(t, (-1.0, 10.0))
    except (TypeError, ValueError):
        assert t.tolist() == [-2, 4]
    else:
        assert t.tolist() == [-1, 4]


NO_MEMORY = {
    "resized storage": """
        t = torch.ones(10)
        t.untyped_storage().resize_(0)  # as FSDP does
    """,
    "zero tensor": "t = torch._efficientzerotensor(10)",
    "fake": """
        from torch._subclasses import FakeTensorMode
        with FakeTensorMode():
            t = torch.ones(10)
    """,
    "wrapper": """
        class Wrapper(torch.Tensor):
            @classmethod
            def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
                raise RuntimeError("no operations")
        t = torch.Tensor._make_wrapper_subclass(Wrapper, (10,))
    """,
    "meta": "t = torch.ones(10, device='meta')",
}


@pytest.mark.parametrize("function", ["rl.global_norm([t])", "rl.clip_by_value_([t], 0.5)"])
@pytest.mark.parametrize("what", NO_MEMORY)
def test_torch_tensors_without_memory(torch, what, function):
    code = "import torch\n" + textwrap.dedent(NO_MEMORY[what]) + f"\ndef call():\n    {function}\n"
    fails_alone(code, "(TypeError, ValueError)")


def test_torch_transforms_are_refused(torch):
    def norm(x):
        return x.sum() * rl.global_norm(x)

    for transform in (torch.vmap(norm), torch.func.grad(norm)):
        with pytest.raises(TypeError, match=r"^arrays: got torch\.Tensor"):
            transform(torch.ones(3))


def test_torch_and_numpy_in_one_call(torch):
    x, t = np.full(3, 9.0), torch.full((3,), 9.0, dtype=torch.float16)
    f = np.full(2, 9.0, np.float32)
    norm = rl.clip_by_global_norm_({"x": x, "t": [t, f]}, 1.0)
    assert_ulp(np.float64(norm), np.sqrt(8 * 81.0), "f8", 2)
    assert t.dtype == torch.float16
    assert rl.global_norm([x, t, f]) == pytest.approx(1, rel=1e-3)
    with pytest.raises(ValueError, match=r"^grads\[1\]: got the same memory as grads\[0\]"):
        rl.clip_by_value_([f, torch.from_numpy(f)], 0.5)


# --- JAX ------------------------------------------------------------------------------------------


@pytest.fixture
def jnp():
    pytest.importorskip("jax")
    return pytest.importorskip("jax.numpy")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_jax_is_read(jnp, dtype):
    x = np.asarray(sample((5, 7), np.float32), BFLOAT16 if dtype == "bfloat16" else dtype)
    j = jnp.asarray(x)
    assert j.dtype == x.dtype
    assert rl.global_norm({"w": [j]}) == rl.global_norm(x)
    assert rl.L1(0.5).value(j) == rl.L1(0.5).value(x)
    for a, b in ((j, x), (j.T, x.T), (j[:0], x[:0]), (j[1, 2], x[1, 2:3].reshape(()))):
        result = rl.L1(0.5).prox(a, 0.5)
        assert type(result) is type(j)
        assert result.shape == b.shape
        assert bits(np.asarray(result)) == bits(rl.L1(0.5).prox(b, 0.5))
    out = np.zeros_like(x)
    assert rl.L1(0.5).prox(j, 0.5, out=out) is out
    assert bits(out) == bits(rl.L1(0.5).prox(x, 0.5))
    grads = np.zeros_like(x)
    rl.L2(1.0).add_gradient_([grads], [j])
    assert bits(grads + x * 0) == bits(x + x * 0)
    assert bits(np.asarray(j)) == bits(x)


@writers
def test_jax_is_never_written(jnp, writer):
    j, good = jnp.full(3, 9.0), np.full(3, 9.0, np.float32)
    with unchanged(good), pytest.raises(ValueError, match=r"^(grads|params)\[1\]: got a JAX array"):
        WRITERS[writer]([good, j])
    assert j.tolist() == [9, 9, 9]
    with pytest.raises(ValueError, match=r"^out: got a JAX array"):
        rl.L1(1.0).prox(good, 1.0, out=j)


def test_jax_integers_are_refused(jnp):
    with pytest.raises(TypeError, match=r"^arrays\[0\]: got dtype int32, wants float32"):
        rl.global_norm([jnp.ones(3, jnp.int32)])


def test_jax_tracers_are_refused(jnp):
    import jax

    for function in (rl.global_norm, lambda x: rl.L1(1.0).prox(x, 1.0)):
        with pytest.raises(TypeError, match=r"^(arrays|x): got jax.*Tracer"):
            jax.jit(function)(jnp.ones(3))


# --- containers -----------------------------------------------------------------------------------


class OwnMapping(Mapping):
    def __init__(self, values):
        self._values = values

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


class OldSequence:
    """Iterable by __getitem__ alone."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i]


Pair = collections.namedtuple("Pair", "w b")

CONTAINERS = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "nested": lambda a, b: [[a], [], ({"b": ()}, {"x": (b,)})],
    "dict": lambda a, b: {"w": a, 3: b},
    "OrderedDict": lambda a, b: collections.OrderedDict([(("t", 1), a), (None, b)]),
    "UserDict": lambda a, b: collections.UserDict(a=a, b=b),
    "UserList": lambda a, b: collections.UserList([a, b]),
    "deque": lambda a, b: collections.deque([a, b]),
    "ChainMap": lambda a, b: collections.ChainMap({"b": b}, {"a": a}),
    "mapping proxy": lambda a, b: types.MappingProxyType({"a": a, "b": b}),
    "own mapping": lambda a, b: OwnMapping({"a": a, "b": {"c": b}}),
    "namedtuple": Pair,
    "generator": lambda a, b: (x for x in (a, b)),
    "iterator": lambda a, b: iter([a, b]),
    "generators in a list": lambda a, b: [(x for x in (a,)), map(np.asarray, [b])],
    "values": lambda a, b: {"a": a, "b": b}.values(),
    "array of one and a tuple": lambda a, b: [a.reshape(1, 2), (b,)],
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers(kind):
    a, b = np.array([3.0, 0.0]), np.array([4.0])
    make = CONTAINERS[kind]
    assert rl.global_norm(make(a, b)) == 5
    assert rl.L1(2.0).value(make(a, b)) == 14
    assert rl.clip_by_norm_(make(a, b), 10.0) == [3, 4]
    assert rl.clip_by_global_norm_(make(a, b), 1.0) == 5
    assert_ulp(np.concatenate([a, b]), [0.6, 0, 0.8], "f8", 1)
    grads = np.zeros(2), np.zeros(1)
    rl.L1(2.0).add_gradient_(make(*grads), make(a, b))
    assert [g.tolist() for g in grads] == [[2, 0], [2]]
    rl.L1(2.0).prox_(make(a, b), 1.0)
    assert [*a, *b] == [0, 0, 0]


@pytest.mark.parametrize(
    "kind", ["parameters", "state_dict", "named", "ParameterList", "ParameterDict"]
)
def test_torch_containers(torch, kind):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    parameters = list(model.parameters())
    tree = {
        "parameters": model.parameters,
        "state_dict": model.state_dict,
        "named": lambda: dict(model.named_parameters()),
        "ParameterList": lambda: torch.nn.ParameterList(parameters),
        "ParameterDict": lambda: torch.nn.ParameterDict(
            {str(i): p for i, p in enumerate(parameters)}
        ),
    }[kind]
    norm = rl.global_norm([p.detach().numpy() for p in parameters])
    assert rl.global_norm(tree()) == norm > 0
    grads = [torch.zeros_like(p, requires_grad=False) for p in parameters]
    expected = rl.L1(1.0).value(parameters)
    if kind in ("parameters", "ParameterList"):
        assert rl.L1(1.0).add_gradient_(grads, tree()) == expected
        assert grads[0].abs().min() == 1
    rl.Box(0.0, 0.0).project_(tree())
    assert rl.global_norm(parameters) == 0


def test_pairs_of_names_and_tensors_are_refused(torch):
    with pytest.raises(TypeError, match=r"^arrays\[0\]\[0\]: got str, wants an array"):
        rl.global_norm(torch.nn.Linear(2, 2).named_parameters())


@pytest.mark.parametrize(
    "nothing",
    [[], (), {}, [[], {}, ()], {}.values(), OwnMapping({}), [None], {"a": [None, None]}],
    ids=["list", "tuple", "dict", "nested", "values", "mapping", "None", "nested None"],
)
def test_no_arrays_at_all(nothing):
    assert rl.global_norm(nothing) == 0
    assert rl.clip_by_global_norm_(nothing, 1.0) == 0


def test_no_arrays_to_write():
    for make in (list, tuple, dict):
        assert rl.L1(1.0).value(make()) == 0
        assert rl.clip_by_norm_(make(), 1.0) == []
        assert rl.clip_by_rms_(make(), 1.0) == []
        assert rl.clip_by_global_norm_(make(), 1.0) == 0
        assert rl.clip_by_value_(make(), 1.0) is None
        assert rl.zero_largest_(make()) is None
        assert rl.L1(1.0).prox_(make(), 1.0) is None
        assert rl.L1(1.0).add_gradient_(make(), make()) == 0


#: every function of one tree
OF_TREES = {
    **WRITERS,
    "global_norm": rl.global_norm,
    "value": lambda tree: rl.L2(2.0).value(tree),
    "params of add_gradient_": lambda tree: rl.L1(0.5).add_gradient_([np.zeros(3)], tree),
    "grads of add_gradient_": lambda tree: rl.L1(0.5).add_gradient_(tree, [np.zeros(3)]),
    "weights": lambda tree: rl.L1(0.5, weights=tree),
    "project_": lambda tree: rl.Box(0.0, 1.0).project_(tree),
    "masks": lambda tree: rl.MaskSet.from_array([np.zeros(3, bool)]).apply_(tree),
    "SGD": lambda tree: rl.SGD(tree, lr=0.1),
    "comm": lambda tree: rl.clip_by_global_norm_(tree, 1.0, comm=Alone()),
}


class Alone:
    def allgather(self, x):
        return [x]


@pytest.mark.parametrize("function", OF_TREES)
def test_iterators_with_nothing_left(function):
    call = OF_TREES[function]
    for make in (iter, lambda a: (x for x in a), lambda a: map(np.asarray, a), reversed):
        used = make([np.full(3, 9.0)])
        list(used)
        for tree, place in ((used, ""), ([used], "[0]"), ({"a": [np.ones(3), used]}, "['a'][1]")):
            with pytest.raises((TypeError, ValueError)) as error:
                call(tree)
            if function == "add_gradient_":  # walks it twice in this test
                continue
            text = f"{place}: got an iterator that has nothing left, wants arrays"
            assert text in str(error.value) or function == "SGD", error.value


def test_a_used_up_generator_clips_nothing_silently():
    gradients = (x for x in [np.full(3, 9.0)])
    rl.global_norm(gradients)
    with pytest.raises(ValueError, match=r"^grads: got an iterator that has nothing left"):
        rl.clip_by_global_norm_(gradients, 1e-3)


# --- None for a gradient that is not there --------------------------------------------------------

GRADIENTS = {
    "global_norm": rl.global_norm,
    **{name: write for name, write in WRITERS.items() if name not in ("prox_", "add_gradient_")},
    "clip_by_global_norm_, raise": lambda g: rl.clip_by_global_norm_(g, 0.5, on_nonfinite="raise"),
    "clip_by_global_norm_, comm": lambda g: rl.clip_by_global_norm_(g, 0.5, comm=Alone()),
    "zero": lambda g: rl.clip_by_global_norm_(g, 0.5, comm=Alone(), on_nonfinite="zero"),
}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("function", GRADIENTS)
def test_none_is_passed_over(function, kind):
    call = GRADIENTS[function]
    for dtype in ("f4", "f8"):
        alone, among = ([np.full(3, 9.0, dtype), np.full((2, 2), 4.0, dtype)] for _ in range(2))
        a, b = among if kind == "numpy" else map(to_torch, among)
        expected = call(alone)
        got = call({"x": None, "y": [a, None, (None, b)], "z": [None]})
        if isinstance(expected, list):
            assert got == [None, expected[0], None, None, expected[1], None]
        else:
            assert got == expected
        assert bits(among) == bits(alone)
    assert call([None, None]) in (0, None, [None, None])
    with pytest.raises(TypeError, match=r"^(arrays|grads): got NoneType"):
        call(None)


def test_none_keeps_the_places_of_errors():
    good = np.full(3, 9.0)
    with unchanged(good), pytest.raises(TypeError, match=r"^grads\['b'\]\[2\]: got dtype int64"):
        rl.clip_by_value_({"a": None, "b": [good, None, np.ones(3, int)]}, 0.5)
    with unchanged(good), pytest.raises(rl.NonFiniteError) as error:
        rl.clip_by_global_norm_([None, good, None, np.full(2, np.nan)], 1.0, on_nonfinite="raise")
    assert error.value.array == "grads[3]"
    with unchanged(good), pytest.raises(ValueError, match=r"^grads\[2\]: .* as grads\[1\]"):
        rl.clip_by_value_([None, good, good], 0.5)


@pytest.mark.parametrize(
    "penalty", [rl.L1(0.5), rl.L1(0.5) + rl.L2(1.0), rl.MCP(0.5), rl.LHalf(0.5) + rl.Huber(1.0)]
)
def test_none_contributes_no_gradient_and_no_value(penalty):
    w = {"a": np.array([1.0, -2.0]), "b": [np.ones((2, 2), "f4"), np.full(5, 3.0)]}
    g = {"a": np.ones(2), "b": [None, np.ones(5)]}
    other = {"a": np.ones(2), "b": [np.ones(5)]}
    value = penalty.add_gradient_(other, {"a": w["a"], "b": [w["b"][1]]})
    with unchanged(w):
        assert penalty.add_gradient_(g, w) == value > 0
    assert bits([g["a"], g["b"][1]]) == bits([other["a"], other["b"][0]])
    assert penalty.add_gradient_([None, None], [np.ones(3), np.ones(2)]) == 0
    with pytest.raises(TypeError, match=r"^params\[1\]: got NoneType"):
        penalty.add_gradient_([np.ones(3), np.ones(3)], [np.ones(3), None])


def test_none_and_weights():
    weights = [np.full(2, 5.0), np.full(3, 2.0)]
    penalty = rl.L1(0.5, weights=weights)
    g = np.zeros(3)
    assert penalty.add_gradient_([None, g], [np.ones(2), np.ones(3)]) == 3
    assert g.tolist() == [1, 1, 1]


# --- what gives copies, and what is no array ------------------------------------------------------


class Copies(Mapping):
    """Gives a new array at each look, as an archive does."""

    def __init__(self, values):
        self.values_ = values

    def __getitem__(self, key):
        return self.values_[key].copy()

    def __iter__(self):
        return iter(self.values_)

    def __len__(self):
        return len(self.values_)


class CopiesInOrder:
    def __init__(self, values):
        self.values_ = values

    def __iter__(self):
        return (x.copy() for x in self.values_)


class Views(CopiesInOrder):
    """New objects over the same memory: writing into them is seen."""

    def __iter__(self):
        return (x[...] for x in self.values_)


class Lists(CopiesInOrder):
    """The same arrays in new lists."""

    def __iter__(self):
        return ([x] for x in self.values_)


@pytest.mark.parametrize(
    "function", [name for name in OF_TREES if name not in ("weights", "value")]
)
def test_writing_into_copies_is_refused(function, tmp_path):
    x = np.full(3, 9.0)
    np.savez(tmp_path / "x.npz", x=x)
    with np.load(tmp_path / "x.npz") as archive:
        trees = [archive, Copies({"x": x}), CopiesInOrder([x])]
        trees += [[tree] for tree in trees] + [collections.UserList([trees[1]])]
        for tree in trees:
            if function == "global_norm":
                assert rl.global_norm(tree) == rl.global_norm(x)
            elif "add_gradient_" not in function and function != "masks":
                with unchanged(x), pytest.raises(TypeError, match="a copy at each look"):
                    OF_TREES[function](tree)
    if "add_gradient_" not in function:
        for tree in (Views([x]), collections.UserList([x]), collections.deque([x])):
            OF_TREES[function](tree)
        if function != "masks":
            OF_TREES[function](Lists([x]))


def test_writing_into_copies_names_the_place():
    with pytest.raises(TypeError, match=r"^grads\[1\]\['a'\]: got .*Copies, which gives a copy"):
        rl.clip_by_value_([np.ones(3), {"a": Copies({"x": np.ones(3)})}], 0.5)
    with pytest.raises(TypeError, match=r"^grads: got .*Copies, which gives a copy"):
        rl.L1(1.0).add_gradient_(Copies({"x": np.ones(3)}), {"x": np.ones(3)})
    masks = rl.MaskSet.from_array({"x": np.ones(3, bool)})
    with pytest.raises(TypeError, match=r"^params: got .*Copies, which gives a copy"):
        masks.apply_(Copies({"x": np.ones(3)}))


def test_dlpack_that_says_that_it_copied():
    raw = Raw(flags=2)
    with unchanged(raw.memory), pytest.raises(TypeError, match="a copy at each look"):
        rl.clip_by_value_(raw, 0.25)
    assert rl.global_norm(raw) > 0


def module(name):
    return pytest.importorskip(name)


STRANGE = {  # what: how it is made, what an error says of it when it is read
    "csr": (lambda: module("scipy.sparse").csr_matrix(np.eye(3)), r"csr_matrix.*\.toarray\(\)"),
    "csr array": (lambda: module("scipy.sparse").csr_array(np.eye(3)), r"csr_array.*\.toarray"),
    "coo": (lambda: module("scipy.sparse").coo_matrix(np.eye(3)), r"coo_matrix.*\.toarray"),
    "dok": (lambda: module("scipy.sparse").dok_matrix(np.eye(3)), r"dok_matrix.*\.toarray"),
    "series": (lambda: module("pandas").Series([1.0, 2.0]), r"pandas.*Series.*\.to_numpy\(\)"),
    "frame": (lambda: module("pandas").DataFrame({"a": [1.0]}), r"pandas.*DataFrame.*\.to_numpy"),
    "memoryview": (lambda: memoryview(np.ones(3)), r"memoryview.*np\.asarray\(x\)"),
    "array.array": (lambda: from_array("d", [1.0]), r"array\.array.*np\.asarray\(x\)"),
    "bytearray": (lambda: bytearray(8), "bytearray"),
    "a character": (lambda: "a", "got str"),
    "coo tensor": (lambda: module("torch").eye(3).to_sparse(), r"sparse_coo.*\.to_dense\(\)"),
    "csr tensor": (lambda: module("torch").eye(3).to_sparse_csr(), r"sparse_csr.*\.to_dense\(\)"),
    "meta": (lambda: module("torch").ones(3, device="meta"), "meta device"),
    "nested": (
        lambda: module("torch").nested.nested_tensor([module("torch").ones(2)]),
        r"nested.*\.unbind\(\)",
    ),
    "quantized": (
        lambda: module("torch").quantize_per_tensor(
            module("torch").ones(2), 0.1, 0, module("torch").qint8
        ),
        "qint8",
    ),
    "module": (lambda: module("torch").nn.Linear(2, 2), r"module.*\.parameters\(\)"),
    "sequence of modules": (
        lambda: module("torch").nn.Sequential(module("torch").nn.Linear(2, 2)),
        r"^[a-z]+(\[1\])?: got .*Sequential, a module.*\.parameters\(\)",
    ),
    "dict of modules": (
        lambda: module("torch").nn.ModuleDict({"a": module("torch").nn.Linear(2, 2)}),
        r"ModuleDict, a module.*\.parameters\(\)",
    ),
    "method": (lambda: module("torch").nn.Linear(2, 2).parameters, r"call it, \.parameters\(\)"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", STRANGE)
def test_strange_things_are_named(what):
    make, text = STRANGE[what]
    bad, good = make(), np.full(3, 9.0)
    for call in (
        rl.global_norm,
        rl.L1(1.0).value,
        lambda x: rl.L1(1.0).prox(x, 1.0),
        lambda x: rl.dropout(x, 0.5, rl.Key(0)),
        lambda x: rl.global_norm([good, x]),
    ):
        with pytest.raises(TypeError, match=text) as error:
            call(bad)
        assert str(error.value).startswith(("arrays: got", "arrays[1]: got", "params: ", "x: got"))
    for name in WRITERS.keys() - {"add_gradient_"}:
        with unchanged(good), pytest.raises(TypeError, match=r"^(grads|params)\[1\]: got "):
            WRITERS[name]([good, bad])
    with unchanged(good), pytest.raises(TypeError, match=r"^grads\[1\]: got |^params\[1\]: got "):
        rl.L1(1.0).add_gradient_([good, bad], [good.copy(), np.ones(3)])


def test_the_ways_out_are_right(torch):
    eye = np.eye(3)
    assert rl.global_norm(module("scipy.sparse").csr_matrix(eye).toarray()) == rl.global_norm(eye)
    assert rl.global_norm(module("pandas").Series([3.0, 4.0]).to_numpy()) == 5
    x = np.array([3.0, 4.0])
    rl.clip_by_value_(np.asarray(memoryview(x)), 1.0)
    assert x.tolist() == [1, 1]
    t = torch.eye(3)
    assert rl.global_norm(t.to_sparse().to_dense()) == rl.global_norm(t)
    parts = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]).unbind()
    assert rl.global_norm(parts) == pytest.approx(5**0.5)


def test_h5py_data_sets(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=np.full((2, 3), 9.0))
        for tree in (data, file, [data]):
            with pytest.raises(TypeError, match=r"got h5py.*then put it back"):
                rl.Box(0.0, 0.5).project_(tree)
        with pytest.raises(TypeError, match=r"^x: got h5py.*such as its dataset\[\.\.\.\]"):
            rl.L1(1.0).prox(data, 1.0)
        assert rl.global_norm(data[...]) == rl.global_norm(np.full((2, 3), 9.0))
        assert data[...].min() == 9


def test_torch_dtensor(torch, tmp_path):
    dist = torch.distributed
    if not dist.is_available():
        pytest.skip("needs torch.distributed")
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        t = distribute_tensor(torch.full((4,), 9.0), init_device_mesh("cpu", (1,)), [Shard(0)])
        for call in (rl.global_norm, lambda t: rl.clip_by_value_([t], 0.5)):
            with pytest.raises(TypeError, match=r"DTensor.*\.to_local\(\)"):
                call(t)
        rl.clip_by_value_(t.to_local(), 0.5)
        assert t.full_tensor().tolist() == [0.5] * 4
        with pytest.raises(TypeError, match=r"^comm: got ProcessGroup.*all_gather_object"):
            rl.clip_by_global_norm_(np.ones(3), 0.5, comm=dist.group.WORLD)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("key", [0, 7, None, "a", 1.5])
def test_keys_that_are_none(key):
    with pytest.raises(TypeError, match=r"^key: got .*, wants ridgeline\.Key, such as rl\.Key\("):
        rl.dropout(np.ones(3), 0.5, key)
    if key == 7:
        with pytest.raises(TypeError, match=r"rl\.Key\(7\)$"):
            rl.random.uniform(3, key)


def test_old_sequences_are_read_or_refused():
    a = np.array([3.0, 4.0])
    try:
        assert rl.global_norm(OldSequence([a])) == 5
    except TypeError as error:
        assert "OldSequence" in str(error)  # noqa: PT017


def test_generators_that_fail():
    a = np.full(3, 9.0)

    def arrays():
        yield a
        raise KeyError("mine")

    with unchanged(a), pytest.raises(KeyError, match="mine"):
        rl.clip_by_value_(arrays(), 0.5)


@pytest.mark.parametrize(
    "code",
    [
        "tree = []; tree.append(tree)",
        "tree = {}; tree['a'] = tree",
        "tree = ([],); tree[0].append(tree)",
        "tree = np.ones(1)\nfor _ in range(200_000): tree = [tree]",
        "class Forever:\n    def __iter__(self): yield Forever()\ntree = Forever()",
    ],
    ids=[
        "list in itself",
        "dict in itself",
        "tuple in its list",
        "very deep",
        "iterables for ever",
    ],
)
@pytest.mark.parametrize("function", ["rl.global_norm(tree)", "rl.clip_by_value_(tree, 1.0)"])
def test_endless_trees(code, function):
    code += f"\ndef call():\n    {function}\n"
    fails_alone(code, "(TypeError, ValueError, RecursionError)")


CHANGED_WHILE_READ = """
class Emptying:
    def __dlpack_device__(self):
        return (1, 0)
    def __dlpack__(self, **_):  # Python code, as JAX's is: other threads may run in it too
        tree.clear()
        self.garbage = [bytearray(24 + 8 * i) for i in range(200)]
        return np.ones(3).__dlpack__()

for attempt in range(20):
    more = [np.full(3, 9.0) for _ in range(50)]
    tree = {tree}
    try:
        {call}
    except (RuntimeError, TypeError, ValueError):
        pass

def call():
    raise ValueError("survived")
"""


@pytest.mark.parametrize(
    "tree",
    [
        "[Emptying(), *more]",
        "[*more, Emptying(), *[np.full(3, 9.0) for _ in range(50)]]",
        "dict(enumerate([*more, Emptying(), *more]))",
    ],
    ids=["first", "amid others", "dict"],
)
@pytest.mark.parametrize(
    "call",
    [
        "more = None; rl.clip_by_value_(tree, 1.0)",
        "rl.L1(1.0).add_gradient_([np.ones(3) for _ in range(len(tree))], tree)",
    ],
    ids=["one argument", "two arguments"],
)
def test_containers_changed_while_read(call, tree):
    fails_alone(CHANGED_WHILE_READ.format(tree=tree, call=call), "ValueError")


def test_hundred_levels():
    tree = x = np.array([3.0, 4.0])
    for i in range(100):
        tree = [tree] if i % 2 else {"a": tree}
    assert rl.global_norm(tree) == 5
    rl.clip_by_value_(tree, 1.0)
    assert x.tolist() == [1, 1]


# --- structure of grads and params ----------------------------------------------------------------

one, two = (lambda: np.full(2, 9.0)), (lambda: np.full((2, 3), 9.0))

MISMATCHES = {  # grads, params, the start of the message
    "fewer": (
        [one()],
        [one(), two()],
        ValueError,
        r"grads: got a sequence of 1, wants a sequence of 2",
    ),
    "more": (
        [one(), two()],
        [one()],
        ValueError,
        r"grads: got a sequence of 2, wants a sequence of 1",
    ),
    "array for a list": (one(), [one()], ValueError, r"grads: got an array, wants a sequence of 1"),
    "list for an array": (
        [one()],
        one(),
        ValueError,
        r"grads: got a sequence of 1, wants an array",
    ),
    "list for a dict": (
        [one()],
        {"w": one()},
        ValueError,
        r"grads: got a sequence of 1, wants a dict",
    ),
    "dict for a list": (
        {0: one()},
        [one()],
        ValueError,
        r"grads: got a dict of 1, wants a sequence",
    ),
    "missing key": (
        {"w": one(), "x": two()},
        {"w": one(), "b": two()},
        ValueError,
        r"grads: got no key 'b'",
    ),
    "one key less": (
        {"w": one()},
        {"w": one(), "b": two()},
        ValueError,
        r"grads: got no key 'b', which params has",
    ),
    "one key more": (
        {"w": one(), "b": two()},
        {"w": one()},
        ValueError,
        r"grads: got key 'b', which params does not have",
    ),
    "nesting": ([[one(), two()]], [[one()], two()], ValueError, r"grads: got a sequence of 1, "),
    "inner nesting": (
        {"a": [one(), [two()]]},
        {"a": [one(), two()]},
        ValueError,
        r"grads\['a'\]\[1\]: got a seq",
    ),
    "inner key": (
        [one(), {"a": one()}],
        [one(), {"b": one()}],
        ValueError,
        r"grads\[1\]: got no key 'b'",
    ),
    "shape": (
        {"w": [one(), two()]},
        {"w": [one(), two().T.copy()]},
        ValueError,
        r"grads\['w'\]\[1\]: got shape \(2, 3\), wants \(3, 2\) as in params",
    ),
    "flat": ([two().ravel()], [two()], ValueError, r"grads\[0\]: got shape \(6,\), wants \(2, 3\)"),
    "0-d": (
        [np.array(9.0)],
        [np.array([9.0])],
        ValueError,
        r"grads\[0\]: got shape \(\), wants \(1,\)",
    ),
    "extra axis": ([two()[None]], [two()], ValueError, r"grads\[0\]: got shape \(1, 2, 3\), wants"),
    "empty": ([np.ones((0, 3))], [np.ones((3, 0))], ValueError, r"grads\[0\]: got shape \(0, 3\)"),
    "dtype": (
        [one(), two().astype("f4")],
        [one(), two()],
        TypeError,
        r"grads\[1\]: got dtype float32, wants float64 as in params",
    ),
    "halves": (
        [one().astype("f2")],
        [one().astype(BFLOAT16)],
        TypeError,
        r"grads\[0\]: got dtype float16, wants bfloat16 as in params",
    ),
    "no arrays": ([], [one()], ValueError, r"grads: got a sequence of 0, wants a sequence of 1"),
    "None for a list": (
        [one(), None],
        [one(), [one()]],
        ValueError,
        r"grads\[1\]: got NoneType, wants a sequence of 1 as in params",
    ),
    "None in params": ([one(), one()], [one(), None], TypeError, r"params\[1\]: got NoneType"),
    "generators": (
        (x for x in [one()]),
        (x for x in [one(), two()]),
        ValueError,
        r"grads: got a sequence of 1, ",
    ),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_structures_differ(what):
    grads, params, error, message = MISMATCHES[what]
    arrays = [
        x
        for tree in (grads, params)
        if not isinstance(tree, types.GeneratorType)
        for x in leaves(tree)
    ]
    with unchanged(*arrays), pytest.raises(error, match="^" + message):
        rl.L1(1.0).add_gradient_(grads, params)


def leaves(tree):
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [x for child in tree for x in leaves(child)]
    return [] if tree is None else [tree]


def test_weights_and_out_agree_too():
    x = two()
    weighted = rl.L1(1.0, weights={"w": one()})
    with unchanged(x), pytest.raises(ValueError, match=r"^weights"):
        weighted.prox_({"v": x}, 1.0)
    with unchanged(x), pytest.raises(ValueError, match=r"^weights\['w'\]: got shape \(2,\), wants"):
        weighted.prox_({"w": x}, 1.0)
    out = np.full((3, 2), 9.0)
    with (
        unchanged(x, out),
        pytest.raises(ValueError, match=r"^out: got shape \(3, 2\), wants \(2, 3\)"),
    ):
        rl.L1(1.0).prox(x, 1.0, out=out)
    with unchanged(x), pytest.raises(TypeError, match=r"^out: got dtype float32, wants float64"):
        rl.L1(1.0).prox(x, 1.0, out=np.ones((2, 3), "f4"))


def test_keys_pair_whatever_their_order():
    params = {"a": np.array([1.0, 2.0]), "b": {"x": np.array([-3.0]), "y": np.array(0.0)}}
    grads = {"b": {"y": np.zeros(()), "x": np.zeros(1)}, "a": np.zeros(2)}
    assert rl.L1(1.0).add_gradient_(grads, params) == 6
    assert grads["a"].tolist() == [1, 1]
    assert grads["b"]["x"].tolist() == [-1]
    assert grads["b"]["y"].tolist() == 0
    # errors name the place in grads, not the same number in params
    bad = {"b": np.zeros(3), "a": np.full(2, 9.0)}
    bad["b"].flags.writeable = False
    with unchanged(bad["a"]), pytest.raises(ValueError, match=r"^grads\['b'\]: got a read-only"):
        rl.L1(1.0).add_gradient_(bad, {"a": one(), "b": np.ones(3)})
    shared = np.zeros(2)
    with pytest.raises(ValueError, match=r"^grads\['c'\]: got the same memory as grads\['b'\]"):
        rl.L1(1.0).add_gradient_(
            {"c": shared, "a": np.zeros(2), "b": shared}, {"a": one(), "b": one(), "c": one()}
        )


@pytest.mark.parametrize(
    ("grads", "params"),
    [
        (list, tuple),
        (tuple, list),
        (lambda x: (a for a in x), list),
        (list, lambda x: (a for a in x)),
        (collections.deque, lambda x: Pair(*x)),
        (
            lambda x: collections.OrderedDict(zip("wb", x, strict=True)),
            lambda x: OwnMapping(dict(zip("wb", x, strict=True))),
        ),
    ],
)
def test_kinds_of_sequences_do_not_matter(grads, params):
    w, g = [np.array([1.0, -2.0]), np.array([3.0])], [np.zeros(2), np.zeros(1)]
    assert rl.L1(1.0).add_gradient_(grads(g), params(w)) == 6
    assert [x.tolist() for x in g] == [[1, -1], [1]]


# --- overlapping memory ---------------------------------------------------------------------------

OVERLAPS = {
    "itself": lambda x: (x, x),
    "another view of all": lambda x: (x, x[:]),
    "reshaped": lambda x: (x, x.reshape(-1)),
    "transposed": lambda x: (x, x.T),
    "reversed": lambda x: (x, x[::-1]),
    "part": lambda x: (x, x[2:3, 2:3]),
    "last element": lambda x: (x, x[-1:, -1:]),
    "neighbouring rows": lambda x: (x[:5], x[4:]),
    "neighbouring columns": lambda x: (x[:, :5], x[:, 4:]),
    "every second and every third": lambda x: (x[:, ::2], x[:, ::3]),
    "a row and a column": lambda x: (x[3], x[:, 7]),
    "other dtype": lambda x: (x, x.view(np.float32)[5:6, 3:4]),
    "some bytes of it": lambda x: (x[0, :2], x.view(np.uint8)[0, 12:20].view(np.float64)),
    "0-d": lambda x: (x, x[3, 3, ...]),
}
DISJOINT = {
    "even and odd": lambda x: (x[::2], x[1::2]),
    "even and odd columns": lambda x: (x[:, ::2], x[:, 1::2]),
    "left and right": lambda x: (x[:, :5], x[:, 5:]),
    "top and bottom": lambda x: (x[:5], x[5:]),
    "right and left": lambda x: (x[:, 5:], x[:, :5]),
    "reversed and the rest": lambda x: (x[4::-1], x[5:]),
    "quarters": lambda x: (x[:5, :5], x[:5, 5:], x[5:, :5], x[5:, 5:]),
    "three combs": lambda x: (x[:, ::3], x[:, 1::3], x[:, 2::3]),
    "a comb and its gaps reversed": lambda x: (x[:, ::2], x[::-1, ::-2]),
    "columns": lambda x: tuple(x.T),
    "rows": lambda x: tuple(x),
    "halves of elements": lambda x: (x.view(np.float32)[:, ::2], x.view(np.float32)[:, 1::2]),
    "a row and a column below": lambda x: (x[0], x[1:, 0]),
    "diagonals": lambda x: (x.reshape(-1)[::11], x.reshape(-1)[1::11]),
}


@pytest.mark.parametrize("name", OVERLAPS)
@writers
def test_overlapping_writes(writer, name):
    base = np.full((10, 10), 9.0)
    first, second = OVERLAPS[name](base)
    assert np.shares_memory(first, second)
    for tree in ([first, second], {"a": second, "b": [first]}, [one(), second, two(), first]):
        with unchanged(base), pytest.raises(ValueError, match=r"^(grads|params).*: got .*overlap"):
            WRITERS[writer](tree)


@pytest.mark.parametrize("name", DISJOINT)
@writers
def test_disjoint_views_of_one_buffer(writer, name):
    base = np.full((10, 10), 9.0)
    base += np.arange(100.0).reshape(10, 10)
    before = base.copy()
    views = DISJOINT[name](base)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(views, 2))
    for order in (views, views[::-1]):
        base[...] = before
        copies = [v.copy() for v in order]
        assert WRITERS[writer](list(order)) == WRITERS[writer](copies)
        assert bits(list(order)) == bits(copies)
        assert base.tolist() != before.tolist()


@pytest.mark.parametrize("name", OVERLAPS)
def test_grads_over_params(name):
    base = np.full((10, 10), 9.0)
    first, second = OVERLAPS[name](base)
    other = np.ones_like
    for grads, params in (
        ([first, other(second)], [other(first), second]),
        ([other(second), first], [second, other(first)]),
    ):
        with (
            unchanged(base),
            pytest.raises(ValueError, match=r"^grads\[[01]\]: got .* params\[[01]\]"),
        ):
            rl.L2(1.0).add_gradient_(grads, params)


@pytest.mark.parametrize("name", DISJOINT)
def test_grads_beside_params(name):
    base = np.arange(1.0, 101.0).reshape(10, 10)
    grads, params = DISJOINT[name](base)[:2]
    if grads.shape == params.shape:
        expected = grads + params
        rl.L2(1.0).add_gradient_(grads, params)
        assert bits(grads) == bits(expected)


def test_out_may_be_x_and_nothing_that_overlaps_it():
    for index in (
        np.s_[:],
        np.s_[::-1],
        np.s_[:, ::2],
        np.s_[::3, 1:4],
        np.s_[3],
        np.s_[3, 4, None],
    ):
        base = np.full((10, 10), 9.0)
        x = base[index]
        out = base[index]  # another view of the same elements
        assert rl.L1(1.0).prox(x, 1.0, out=out) is out
        assert np.all(x == 8)
        assert np.sum(base == 8) == x.size
    base = np.full((10, 10), 9.0)
    for x, out in (
        (base, base[::-1]),
        (base, base.T),
        (base[:9], base[1:]),
        (base[1:], base[:9]),
        (base[:, :9], base[:, 1:]),
        (base[0, :5], base[0, ::2]),
        (base[:, 0], base[0]),
        (np.broadcast_to(base[0, :1], (10,)), base[0]),
    ):
        with unchanged(base), pytest.raises(ValueError, match=r"^out: got memory that overlaps"):
            rl.L1(1.0).prox(x, 1.0, out=out)


def test_out_over_weights():
    weights = np.ones(3)
    with unchanged(weights), pytest.raises(ValueError, match=r"overlap|same memory"):
        rl.L1(1.0, weights=weights).prox(np.full(3, 9.0), 1.0, out=weights)
    with unchanged(weights), pytest.raises(ValueError, match=r"overlap|same memory"):
        rl.L1(1.0, weights=weights).add_gradient_(weights, np.full(3, 9.0))


def test_reads_may_overlap():
    x = np.array([3.0, 4.0])
    assert rl.global_norm([x, x]) == pytest.approx(50**0.5)
    assert rl.L1(1.0).value([x, x[1:], x[::-1]]) == 18
    assert rl.global_norm(np.broadcast_to(x, (5, 2))) == rl.global_norm(np.tile(x, (5, 1)))
    grads = [np.zeros(2), np.zeros(2)]
    assert rl.L1(1.0).add_gradient_(grads, [x, x[::-1]]) == 14
    g = np.zeros((5, 2))
    rl.L2(1.0).add_gradient_(g, np.broadcast_to(x, (5, 2)))
    assert g.tolist() == [[3, 4]] * 5


BUFFER = 400


@st.composite
def views(draw, dtype=None, shape=None):
    """Any view of up to three axes into one small buffer, and the address of each element."""
    if dtype is None:
        dtype = np.dtype(draw(st.sampled_from(["f2", "f4", "f8"])))
    if shape is None:
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    strides = [draw(st.integers(-24, 24)) for _ in shape]
    steps = [s * (n - 1) for s, n in zip(strides, shape, strict=True) if n]
    low, high = sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps) + dtype.itemsize
    while high - low > BUFFER:
        strides = [s // 2 if s > 0 else -(-s // 2) for s in strides]
        steps = [s * (n - 1) for s, n in zip(strides, shape, strict=True) if n]
        low, high = sum(min(s, 0) for s in steps), sum(max(s, 0) for s in steps) + dtype.itemsize
    offset = draw(st.integers(-low, BUFFER - high))
    starts = [
        offset + sum(i * s for i, s in zip(index, strides, strict=True))
        for index in itertools.product(*map(range, shape))
    ]
    return dtype, shape, tuple(strides), offset, starts


def build(base, view):
    dtype, shape, strides, offset, _ = view
    array = np.ndarray(shape, dtype, base, offset if 0 not in shape else 0, strides)
    assert array.strides == strides or 0 in shape
    return array


def touched(view):
    return [byte for start in view[4] for byte in range(start, start + view[0].itemsize)]


@settings(deadline=None, max_examples=400)
@given(views(), views())
def test_overlap_is_found_exactly(a, b):
    base = bytearray(BUFFER)
    x, y = build(base, a), build(base, b)
    bytes_of_both = touched(a) + touched(b)
    disjoint = len(bytes_of_both) == len(set(bytes_of_both))
    for tree in ([x, y], [y, x]):
        if disjoint:
            rl.clip_by_value_(tree, 1.0)
        else:
            with pytest.raises(ValueError, match=r"^grads\[[01]\]: got"):
                rl.clip_by_value_(tree, 1.0)


def slices(n):
    bounds = st.one_of(st.none(), st.integers(0, n - 1))
    return st.builds(slice, bounds, bounds, st.sampled_from([-3, -2, -1, 1, 1, 2, 3]))


windows = st.tuples(slices(5), slices(6), slices(4), st.permutations(range(3)))


@settings(deadline=None, max_examples=400)
@given(windows, windows, st.sampled_from([(5, 6, 4), (8, 7, 6)]))
def test_overlap_of_slices_is_found_exactly(a, b, shape):
    base = np.full(shape, 9.0)[:5, :6, :4]
    x, y = (base[w[:3]].transpose(w[3]) for w in (a, b))
    if np.shares_memory(x, y):
        with unchanged(base), pytest.raises(ValueError, match=r"^grads\[1\]: got"):
            rl.clip_by_value_([x, y], 1.0)
    else:
        rl.clip_by_value_([x, y], 1.0)
        assert np.sum(base == 1) == x.size + y.size


@settings(deadline=None, max_examples=400)
@given(st.data(), views())
def test_outputs_over_inputs(data, a):
    b = data.draw(st.one_of(views(a[0], a[1]), st.just(a)))
    base = bytearray(BUFFER)
    out, x = build(base, a), build(base, b)
    out_bytes, x_bytes = touched(a), touched(b)
    alone = len(out_bytes) == len(set(out_bytes))
    apart = not set(out_bytes) & set(x_bytes)
    penalty = rl.L2(1.0)
    for allowed, call in (
        (alone and apart, lambda: penalty.add_gradient_(out, x)),
        (alone and (apart or a[4] == b[4]), lambda: penalty.prox(x, 1.0, out=out)),
    ):
        base[:] = bytes(i % 120 for i in range(BUFFER))
        before, copy = bytes(base), x.copy()
        with np.errstate(all="ignore"):
            expected = (np.array(out), penalty.prox(copy, 1.0))
        if not allowed:
            with pytest.raises(ValueError, match=r"^(grads|out): got"):
                call()
            assert bytes(base) == before
            continue
        call()
        if call.__code__.co_names[0] == "prox":
            assert bits(out) == bits(expected[1])
        untouched = sorted(set(range(BUFFER)) - set(out_bytes))
        assert [base[i] for i in untouched] == [before[i] for i in untouched]


# --- nothing is written, nothing is leaked --------------------------------------------------------

BAD_LAST = {
    "a number": (lambda: 3.0, TypeError),
    "int64": (lambda: np.ones(3, np.int64), TypeError),
    "read-only": (lambda: (x := np.full(3, 9.0)).setflags(write=False) or x, ValueError),
    "broadcast": (lambda: as_strided(np.full(3, 9.0), (4, 3), (0, 8)), ValueError),
    "a string": (lambda: "x", TypeError),
    "meta": (lambda: pytest.importorskip("torch").ones(3, device="meta"), TypeError),
    "foreign device": (lambda: Foreign(np.ones(3), device=(2, 0)), TypeError),
}


@pytest.mark.parametrize("what", BAD_LAST)
@writers
def test_an_error_writes_nothing(writer, what):
    make, error = BAD_LAST[what]
    rng = np.random.default_rng(1)
    good = [
        rng.standard_normal(100_000) * 9,
        rng.standard_normal((30, 20)).astype(np.float32)[::2, ::-3] * 9,
        np.array(9.0),
        np.full((7, 9), 9.0, np.float16).T,
    ]
    with unchanged(*good), pytest.raises(error, match=r"^(grads|params|out)\[4\]: got"):
        WRITERS[writer]([*good, make()])
    WRITERS[writer](good)  # they would have been written
    assert np.abs(good[0]).max() < 45


@pytest.mark.parametrize("what", ["shape", "dtype", "overlap", "same twice"])
def test_a_gradient_error_writes_nothing(what):
    params = [np.full(50_000, 9.0), np.full((3, 4), 9.0, np.float32)]
    grads = [np.zeros(50_000), np.zeros((3, 4), np.float32)]
    if what == "shape":
        grads[1] = np.zeros((4, 3), np.float32)
    elif what == "dtype":
        grads[1] = np.zeros((3, 4))
    elif what == "overlap":
        grads[1] = params[1]
    else:
        grads, params = [*grads, grads[0]], [*params, params[0].copy()]
    for penalty in (rl.L1(1.0), rl.L1(1.0) + rl.L2(1.0), rl.MCP(1.0) + rl.L2(1.0)):
        with unchanged(*grads, *params), pytest.raises((TypeError, ValueError), match=r"^grads"):
            penalty.add_gradient_(grads, params)


def references(objects):
    gc.collect()
    return [sys.getrefcount(x) for x in objects]


def trees(a):
    """Good and bad trees of some arrays."""
    return [
        *a,
        list(a),
        [a[0], {"k": (a[1], [a[2]])}],
        dict(enumerate(a)),
        [*a, None],
        [a[0], a[0]],
    ]


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax", "foreign"])
def test_references_are_given_back(kind):
    make = {
        "numpy": lambda x: x,
        "torch": lambda x: pytest.importorskip("torch").from_numpy(x),
        "jax": lambda x: pytest.importorskip("jax.numpy").asarray(x),
        "foreign": OldForeign,
    }[kind]
    inner = [np.full(3, 9.0), np.full((200, 400), 9.0), np.full((4, 4), 9.0)[::2]]
    arrays = [make(x) for x in inner]
    nested = trees(arrays)
    watched = [*arrays, *inner, *nested, type(arrays[0])]

    def call():
        for tree in (*nested, (x for x in arrays), iter([*arrays, 3])):
            for function in (*READERS.values(), *WRITERS.values()):
                with contextlib.suppress(TypeError, ValueError):
                    function(tree)
        if kind in ("numpy", "torch"):
            rl.L1(1.0).prox(arrays[0], 1.0, out=arrays[0])

    call()  # fills caches
    before = references(watched)
    for _ in range(3):
        call()
    assert references(watched) == before
    alive = [weakref.ref(x) for x in arrays]
    arrays.clear()
    nested.clear()
    watched.clear()
    inner.clear()
    gc.collect()
    assert [r() for r in alive] == [None] * 3


def test_nonfinite_errors_give_references_back():
    x = np.full(40_000, np.nan)
    tree = {"w": [np.ones(3), x]}
    before = references([x, tree])
    for _ in range(3):
        with pytest.raises(rl.NonFiniteError):
            rl.clip_by_global_norm_(tree, 1.0, on_nonfinite="raise")
    assert references([x, tree]) == before


def test_weights_are_kept_by_the_penalty_alone():
    weights = np.ones(3)
    before = sys.getrefcount(weights)
    penalty = rl.L1(1.0, weights=weights)
    held = sys.getrefcount(weights)
    penalty.prox_(np.ones(3), 1.0)
    both = penalty + rl.L2(1.0)
    both.value(np.ones(3))
    assert sys.getrefcount(weights) > held > before
    del both
    assert sys.getrefcount(weights) == held
    del penalty
    gc.collect()
    assert sys.getrefcount(weights) == before


# --- large arrays ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_elements_than_fit_32_bits():
    n = 2**31 + 5
    x = np.zeros(n, np.float16)  # pages that are never written take no memory
    x[-1], x[2**31 - 1] = 3, -4
    assert rl.global_norm(x) == 5
    rl.clip_by_value_(x, 2.0)
    assert (x[-1], x[2**31 - 1]) == (2, -2)


@pytest.mark.slow
def test_strides_beyond_32_bits():
    x = np.zeros(2**31 + 2**20, np.float16)
    far = x[:: 2**20]
    far[-1] = 3
    assert rl.global_norm(far) == rl.global_norm(far[::-1]) == 3
    few = x[:: 2**30]  # of huge pages, each written element may take one
    rl.clip_by_value_([few[::2], few[1::2]], 2.0)
    assert few.tolist() == [0, 0, 2]
    assert x[2**31] == 2
