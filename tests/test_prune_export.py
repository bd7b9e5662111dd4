"""Pruned weights as scipy.sparse matrices and packed N:M weights, there and back."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
from helpers import bits, dtypes, sample, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.masks import Mask
from ridgeline.prune.export import PackedNM, from_sparse, pack_nm, to_bsr, to_csr

FLOATS = [np.float32, np.float64]
floats = pytest.mark.parametrize("dtype", FLOATS)
SHAPES = [(0, 0), (0, 5), (5, 0), (1, 1), (1, 9), (9, 1), (8, 12), (13, 17)]


def mask_of(shape, p=0.4, seed=0) -> tuple[np.ndarray, Mask]:
    kept = np.asarray(np.random.default_rng(seed).random(shape) < p)
    return kept, Mask.from_array(kept)


def masked(w, kept):
    return np.where(kept, w, np.zeros((), w.dtype))


def nm_mask(shape, n, m, seed=0) -> np.ndarray:
    """A mask that keeps min(n, group) at random in each group along the last axis."""
    rng = np.random.default_rng(seed)
    kept = np.zeros(shape, bool)
    for row in range(shape[0]):
        for start in range(0, shape[1], m):
            group = np.arange(start, min(start + m, shape[1]))
            kept[row, rng.permutation(group)[:n]] = True
    return kept


# ---- scipy.sparse


@floats
@pytest.mark.parametrize("shape", SHAPES)
def test_csr(shape, dtype):
    sparse = pytest.importorskip("scipy.sparse")
    w = sample(shape, dtype, seed=3)
    kept, mask = mask_of(shape)
    with unchanged(w):
        got = to_csr(w, mask)
    assert isinstance(got, sparse.csr_array)
    assert got.shape == shape
    assert got.dtype == dtype
    got.check_format(full_check=True)
    assert got.has_sorted_indices
    assert got.nnz == mask.count
    assert bits(got.data) == bits(w[kept])  # zeros that are kept, of both signs, among them
    assert np.array_equal(got.toarray(), masked(w, kept))
    dense, again = from_sparse(got)
    assert again == mask
    assert dense.dtype == dtype
    assert np.array_equal(dense, masked(w, kept))

    plain = to_csr(w)
    reference = sparse.csr_array(w)
    assert plain.nnz == np.count_nonzero(w)
    assert np.array_equal(plain.indptr, reference.indptr)
    assert np.array_equal(plain.indices, reference.indices)
    assert bits(plain.data) == bits(reference.data)
    assert from_sparse(plain)[1] == Mask.from_array(w != 0)


def test_csr_of_zeros_and_nan():
    pytest.importorskip("scipy.sparse")
    w = np.array([[0.0, np.nan, 1.0], [np.inf, -0.0, np.nan]])
    kept = np.array([[True, True, False], [False, True, False]])
    got = to_csr(w, Mask.from_array(kept))
    assert bits(got.data) == bits(np.array([0.0, np.nan, -0.0]))
    dense, again = from_sparse(got)
    assert np.array_equal(dense, [[0, np.nan, 0], [0, 0, 0]], equal_nan=True)
    assert again == Mask.from_array(kept)
    assert to_csr(w).nnz == 4
    none = to_csr(w, Mask.from_array(np.zeros((2, 3), bool)))
    assert none.nnz == 0
    assert np.array_equal(none.toarray(), np.zeros((2, 3)))
    every = to_csr(w, Mask.from_array(np.ones((2, 3), bool)))
    assert every.nnz == 6
    assert every.indices.dtype == np.int32


def test_csr_of_any_layout():
    pytest.importorskip("scipy.sparse")
    base = sample((14, 30), np.float32)
    kept, mask = mask_of((10, 7))
    for w in (base.T[::3, ::2], np.asfortranarray(base[:10, :7]), base[::-1, ::-1][:10, :7]):
        got = to_csr(w, mask)
        assert np.array_equal(got.toarray(), masked(w, kept))
        assert from_sparse(got)[1] == mask


@floats
@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 4), (8, 12), (1, 12), (8, 1), None])
def test_bsr(block, dtype):
    sparse = pytest.importorskip("scipy.sparse")
    w = sample((8, 12), dtype, seed=1)
    kept, mask = mask_of((8, 12), 0.1)
    got = to_bsr(w, mask, block)
    assert isinstance(got, sparse.bsr_array)
    got.check_format(full_check=True)
    rows, columns = got.blocksize
    if block is not None:
        assert (rows, columns) == block
    blocks = kept.reshape(8 // rows, rows, 12 // columns, columns).any(axis=(1, 3))
    assert got.data.shape == (blocks.sum(), rows, columns)
    assert np.array_equal(got.toarray(), masked(w, kept))
    dense, stored = from_sparse(got)
    assert np.array_equal(dense, masked(w, kept))
    assert stored == Mask.from_array(np.kron(blocks, np.ones((rows, columns), bool)))
    assert np.array_equal(to_bsr(w, blocksize=block).toarray(), w)


def test_bsr_of_pruned_blocks():
    pytest.importorskip("scipy.sparse")
    blocks, _ = mask_of((5, 6), 0.3)
    kept = np.kron(blocks, np.ones((4, 2), bool))
    w = sample(kept.shape, np.float64)
    w[:4, :2] = 0  # a block of zeros that is kept is stored
    kept[:4, :2] = True
    mask = Mask.from_array(kept)
    dense, again = from_sparse(to_bsr(w, mask, (4, 2)))
    assert again == mask
    assert np.array_equal(dense, masked(w, kept))
    w[4, 3] = np.nan
    chosen = to_bsr(w, Mask.from_array(np.ones(w.shape, bool)))
    assert np.array_equal(chosen.toarray(), w, equal_nan=True)
    for shape in [(0, 0), (0, 4), (4, 0)]:
        assert to_bsr(np.zeros(shape)).shape == shape
        assert to_bsr(np.zeros(shape), mask_of(shape)[1], (2, 2)).shape == shape


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 20), columns=st.integers(0, 20), p=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_csr_round_trips(rows, columns, p, seed):
    pytest.importorskip("scipy.sparse")
    kept, mask = mask_of((rows, columns), p, seed)
    w = sample((rows, columns), np.float64, seed=seed)
    dense, again = from_sparse(to_csr(w, mask))
    assert again == mask
    assert np.array_equal(dense, masked(w, kept))


def test_sparse_of_torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("scipy.sparse")
    layer = torch.nn.Linear(6, 4)
    kept, mask = mask_of((4, 6))
    w = layer.weight.detach().numpy()
    assert np.array_equal(to_csr(layer.weight, mask).toarray(), masked(w, kept))
    assert np.array_equal(to_csr(layer.weight).toarray(), w)
    turned = to_csr(layer.weight.T, Mask.from_array(kept.T))
    assert np.array_equal(turned.toarray(), masked(w, kept).T)
    assert np.array_equal(to_bsr(layer.weight, mask, (2, 2)).toarray(), masked(w, kept))
    for half, dtype in [(layer.weight.half(), "float16"), (layer.weight.bfloat16(), "bfloat16")]:
        for convert in (to_csr, to_bsr):
            with pytest.raises(TypeError, match=rf"^w: got dtype {dtype}, .* half .*w\.float\(\)"):
                convert(half, mask)
    with pytest.raises(TypeError, match="got dtype int64"):
        to_csr(torch.ones(2, 2, dtype=torch.int64))


def test_sparse_errors():
    pytest.importorskip("scipy.sparse")
    w, (kept, mask) = np.ones((4, 6)), mask_of((4, 6))
    for convert in (to_csr, to_bsr):
        for dtype in (np.float16, ml_dtypes.bfloat16):
            with pytest.raises(TypeError, match=r"wants float32 or float64: .*astype\(np.float32"):
                convert(w.astype(dtype), mask)
        for dtype in (np.int64, bool, complex, object):
            with pytest.raises(TypeError, match=r"^w: got dtype "):
                convert(w.astype(dtype))
        for bad in (None, 3, "abc", [[1.0]]):
            with pytest.raises(TypeError, match=r"^w: got \w+, wants an array"):
                convert(bad)
        for shape in ((), (24,), (2, 2, 6)):
            with pytest.raises(ValueError, match=r"^w: got shape .*, wants two axes"):
                convert(np.ones(shape))
        for bad in (kept, 3, "abc"):
            with pytest.raises(TypeError, match=r"^mask: got \w+, wants a Mask"):
                convert(w, bad)
        with pytest.raises(ValueError, match=r"^mask: got shape \(4, 6\), wants \(6, 4\)"):
            convert(w.T, mask)
    for bad in ((3, 2), (4, 4), (8, 6), (0, 1), (-1, 2), (2,), (2, 2, 2)):
        with pytest.raises(ValueError, match=r"^blocksize: got "):
            to_bsr(w, mask, bad)
    for bad in ((2.0, 2), "22", (None, 2)):
        with pytest.raises(TypeError, match=r"^blocksize: got "):
            to_bsr(w, mask, bad)
    for bad in (w, None, mask):
        with pytest.raises(TypeError, match=r"^matrix: got "):
            from_sparse(bad)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    for call in (to_csr, to_bsr, from_sparse):
        with pytest.raises(ModuleNotFoundError, match=r"ridgeline: .*pip install scipy"):
            call(np.ones((2, 2)))
    kept = nm_mask((3, 8), 2, 4)
    assert pack_nm(np.ones((3, 8)), Mask.from_array(kept)).unpack()[1] == Mask.from_array(kept)


# ---- N:M


def index_of(packed: PackedNM, row: int, slot: int) -> int:
    """One index, read bit by bit."""
    width = 2 if packed.m <= 4 else 4 if packed.m <= 16 else 8
    number = int.from_bytes(packed.indices[row].tobytes(), "little")
    return number >> width * slot & 2**width - 1


PATTERNS = [
    (1, 1), (1, 2), (2, 2), (2, 3), (1, 4), (2, 4), (3, 4), (4, 4), (2, 5), (4, 8), (8, 16),
    (5, 17), (1, 32), (16, 64), (63, 64), (7, 256),
]  # fmt: skip
patterns = pytest.mark.parametrize(("n", "m"), PATTERNS, ids=lambda v: str(v))


@patterns
def test_packed(n, m):
    for columns in (m, 3 * m, 2 * m + 1, 3 * m - 1, max(m // 2, 1), 0):
        kept = nm_mask((3, columns), n, m, seed=columns)
        w = sample((3, columns), np.float32, seed=1)
        mask = Mask.from_array(kept)
        with unchanged(w):
            packed = pack_nm(w, mask, n, m)
        slots = int(kept[0].sum())
        assert packed.values.shape == (3, slots)
        assert bits(packed.values) == bits(w[kept])
        width = 2 if m <= 4 else 4 if m <= 16 else 8
        assert packed.indices.dtype == np.uint8
        assert packed.indices.shape == (3, (slots * width + 7) // 8)
        assert (packed.shape, packed.n, packed.m) == ((3, columns), n, m)
        for row in range(3):
            wanted = np.flatnonzero(kept[row]) % m
            assert [index_of(packed, row, slot) for slot in range(slots)] == list(wanted)
        dense, again = packed.unpack()
        assert again == mask
        assert bits(dense) == bits(masked(w, kept))


@dtypes
def test_packed_dtypes_and_bytes(dtype):
    kept = nm_mask((64, 128), 2, 4)
    w = sample((64, 128), dtype)
    packed = pack_nm(w, Mask.from_array(kept))
    assert packed.values.dtype == dtype
    assert packed.values.shape == (64, 64)
    assert packed.indices.shape == (64, 16)
    assert packed.nbytes == w.nbytes // 2 + w.size // 8
    dense, _ = packed.unpack()
    assert dense.dtype == dtype
    assert bits(dense) == bits(masked(w, kept))


def test_packed_zeros_nan_and_layouts():
    kept = nm_mask((12, 10), 2, 4)
    w = np.zeros((12, 10))
    w[::2] = np.nan
    w[1::4] = -0.0
    for view in (w, np.asfortranarray(w), np.repeat(w, 2, 1)[:, ::2], w[::-1, ::-1]):
        dense, again = pack_nm(view, Mask.from_array(kept)).unpack()
        assert again == Mask.from_array(kept)
        assert bits(dense) == bits(masked(view, kept))


@pytest.mark.parametrize("shape", [(0, 0), (0, 8), (8, 0), (1, 1), (1, 3)])
def test_packed_small(shape):
    kept = nm_mask(shape, 2, 4)
    w = np.ones(shape, np.float32)
    packed = pack_nm(w, Mask.from_array(kept))
    dense, again = packed.unpack()
    assert again == Mask.from_array(kept)
    assert bits(dense) == bits(masked(w, kept))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_packed_round_trips(data):
    m = data.draw(st.integers(1, 70))
    n = data.draw(st.integers(1, m))
    shape = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3 * m + 2))
    kept = nm_mask(shape, n, m, data.draw(st.integers(0, 99)))
    w = sample(shape, np.float32)
    dense, again = pack_nm(w, Mask.from_array(kept), n, m).unpack()
    assert again == Mask.from_array(kept)
    assert bits(dense) == bits(masked(w, kept))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_packed_torch(dtype):
    torch = pytest.importorskip("torch")
    kept = nm_mask((6, 10), 2, 4)
    w = torch.nn.Parameter(torch.randn(6, 10).to(getattr(torch, dtype)))
    for tensor in (w, w.T.contiguous().T):
        packed = pack_nm(tensor, Mask.from_array(kept))
        assert isinstance(packed.values, torch.Tensor)
        assert not packed.values.requires_grad
        assert packed.values.dtype == w.dtype
        assert packed.nbytes == 6 * 6 * w.element_size() + 6 * 2
        dense, again = packed.unpack()
        assert dense.dtype == w.dtype
        assert torch.equal(dense, w.detach() * torch.from_numpy(kept))
        assert again == Mask.from_array(kept)


def test_packed_errors():
    w = np.ones((3, 8))
    kept = nm_mask((3, 8), 2, 4)
    mask = Mask.from_array(kept)
    fewer = kept.copy()
    fewer[1, 4 + int(np.argmax(kept[1, 4:]))] = False
    with pytest.raises(ValueError, match=r"^mask: got 1 kept of group 1 of row 1, wants 2"):
        pack_nm(w, Mask.from_array(fewer))
    with pytest.raises(ValueError, match=r"^mask: got 4 kept of group 0 of row 0, wants 2"):
        pack_nm(w, Mask.from_array(np.ones((3, 8), bool)))
    with pytest.raises(ValueError, match=r"^mask: got 1 kept of group 1 of row 0, wants 2 .*NM"):
        pack_nm(np.ones((1, 6)), Mask.from_array([[True, True, False, False, True, False]]))
    for n, m in [(0, 4), (5, 4), (-1, 4), (1, 0), (1, 257)]:
        with pytest.raises(ValueError, match=r"^[nm]: got "):
            pack_nm(w, mask, n, m)
    for n, m in [(2.0, 4), (2, "4"), (True, 4), (None, 4)]:
        with pytest.raises(TypeError, match=r"^[nm]: got "):
            pack_nm(w, mask, n, m)
    for bad in (None, kept):
        with pytest.raises(TypeError, match=r"^mask: got \w+, wants a Mask"):
            pack_nm(w, bad)
    with pytest.raises(ValueError, match=r"^w: got shape \(24,\), wants two axes"):
        pack_nm(w.ravel(), mask)
    with pytest.raises(ValueError, match=r"^mask: got shape"):
        pack_nm(w.T, mask)
    with pytest.raises(TypeError, match=r"^w: got NoneType"):
        pack_nm(None, mask)


def test_packed_parts_are_checked():
    packed = pack_nm(np.ones((3, 8)), Mask.from_array(nm_mask((3, 8), 2, 4)))
    values, indices = packed.values, packed.indices
    for bad, error, message in [
        ((values[:, 1:], indices, (3, 8), 2, 4), ValueError, r"values: got shape \(3, 3\)"),
        ((values, indices[1:], (3, 8), 2, 4), ValueError, r"indices: got shape \(2, 1\)"),
        ((values, indices.astype(np.int8), (3, 8), 2, 4), TypeError, r"indices: got dtype int8"),
        ((values, indices, (3, 8, 1), 2, 4), ValueError, r"shape: got"),
        ((values, indices, (3, 16), 2, 4), ValueError, r"values: got shape"),
        ((values, indices, (3, 8), 5, 4), ValueError, r"n: got 5"),
    ]:
        with pytest.raises(error, match=f"^{message}"):
            PackedNM(*bad)
    for byte in (0b01000000, 0b01000101, 0b01000001):  # twice the same, or not ascending
        wrong = PackedNM(values, np.full((3, 1), byte, np.uint8), (3, 8), 2, 4)
        with pytest.raises(ValueError, match=r"^indices: got some beyond"):
            wrong.unpack()
    beyond = PackedNM(np.ones((1, 1)), np.array([[3]], np.uint8), (1, 3), 1, 3)
    with pytest.raises(ValueError, match=r"^indices: got some beyond"):
        beyond.unpack()
    short = PackedNM(np.ones((1, 1)), np.array([[3]], np.uint8), (1, 2), 1, 4)
    with pytest.raises(ValueError, match=r"^indices: got some beyond"):
        short.unpack()
    with pytest.raises(AttributeError):
        packed.n = 3
