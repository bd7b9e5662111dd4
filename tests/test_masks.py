"""Masks and sets of them: values, containers, files. What applies a mask is in test_dropout.py."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    LAYOUTS,
    bits,
    copied,
    dtypes,
    every_setting,
    layouts,
    sample,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline.masks import Mask, MaskSet

SUFFIXES = [".npz", ".safetensors"]
suffixes = pytest.mark.parametrize("suffix", SUFFIXES)


def bools(*shape: int, seed: int = 0, p: float = 0.5) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).random(shape) < p)


def container():
    """Nested, with names of every kind, 0-d and empty arrays, and empty containers."""
    return {
        "conv.weight": bools(4, 3, 5, seed=1),
        "block/0": [bools(65, seed=2), {"w": bools(seed=3), "empty": bools(0, 7)}],
        "block": [bools(64, seed=4), []],
        "Gewicht ü 重み": {},
        "": bools(1, seed=5),
        3: (bools(2, 2, seed=6), [[bools(3, seed=7)]]),
    }


def listed(tree):
    """Lists for tuples: a set does not tell them apart."""
    if isinstance(tree, dict):
        return {key: listed(value) for key, value in tree.items()}
    return [listed(v) for v in tree] if isinstance(tree, list | tuple) else tree


def leaves(tree) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    return [tree]


def mapped(function, *trees):
    """A container of what `function` makes of the arrays in the same places."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: mapped(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, list | tuple):
        return [mapped(function, *children) for children in zip(*trees, strict=True)]
    return function(*trees)


def views_of_one_buffer(sizes, seed=0) -> tuple[list[Mask], np.ndarray]:
    """Masks whose words lie in one array, as selection makes them."""
    arrays = [bools(n, seed=seed + i) for i, n in enumerate(sizes)]
    words = [Mask.from_array(array)._words for array in arrays]
    buffer = np.concatenate(words)
    masks, start = [], 0
    for n, part in zip(sizes, words, strict=True):
        masks.append(Mask._of((n,), buffer[start : start + len(part)]))
        start += len(part)
    return masks, buffer


# ---- one mask


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 127, 128, 1000, 2**20 + 1])
def test_count(n):
    array = bools(n, seed=n)
    mask = Mask.from_array(array)
    assert mask.count == int(array.sum())
    assert type(mask.count) is int
    assert (~mask).count == n - mask.count
    if n:
        assert mask.sparsity == (n - mask.count) / n


def test_count_with_numpy_1(monkeypatch):
    masks = MaskSet.from_array(container())
    count = masks.count
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert masks.count == count


@suffixes
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (64,), (65,), (3, 5, 7), (1000,)])
def test_files_of_a_mask(tmp_path, suffix, shape):
    mask = Mask.from_array(bools(*shape))
    mask.save(tmp_path / f"m{suffix}")
    again = Mask.load(str(tmp_path / f"m{suffix}"))
    assert again == mask
    assert again.shape == shape
    assert not again._words.flags.writeable
    assert ~again == ~mask
    with pytest.raises(ValueError, match="wants one of a MaskSet"):
        MaskSet.load(tmp_path / f"m{suffix}")


def test_files_are_read_without_ridgeline(tmp_path):
    array = bools(5, 13)
    Mask.from_array(array).save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["ridgeline", "words"]
        text = json.loads(arrays["ridgeline"].tobytes())
        words = arrays["words"]
    assert text == {"version": 1, "masks": {"mask": "words", "shape": [5, 13]}}
    got = [words[i // 64] >> np.uint64(i % 64) & np.uint64(1) for i in range(array.size)]
    assert got == list(array.ravel())


# ---- as an array


def test_numpy_functions_take_the_bits():
    array = bools(3, 70)
    mask, w = Mask.from_array(array), sample((3, 70), np.float32)
    assert bits(np.asarray(mask)) == bits(array)
    assert bits(np.array(mask, np.float32)) == bits(array.astype(np.float32))
    assert bits(np.where(mask, w, 0)) == bits(np.where(array, w, 0))
    assert np.count_nonzero(mask) == mask.count
    zeroed = w.copy()
    np.copyto(zeroed, 0, where=~mask)
    assert bits(zeroed) == bits(np.where(array, w, np.float32(0)))
    assert bits(w[mask]) == bits(w[array])
    for got, wants in [
        (w * mask, w * array),
        (mask & array[0], array & array[0]),
        (array & mask, array),
        (mask | ~array, np.ones_like(array)),
        (mask ^ True, ~array),
        (np.logical_not(mask), ~array),
        (np.logical_and(mask, ~mask), np.zeros_like(array)),
    ]:
        assert type(got) is np.ndarray
        assert bits(got) == bits(wants)
    assert (mask ^ ~mask) == Mask.from_array(np.ones((3, 70), bool))
    with pytest.raises(ValueError, match="copy"):
        mask.__array__(copy=False)
    with pytest.raises(TypeError):
        np.multiply(w, w, out=mask)
    for whole in (MaskSet.of([mask]), MaskSet.of({"w": mask})):
        with pytest.raises(TypeError, match="to_array"):
            np.where(whole, w, 0)


def test_comparison_with_arrays():
    array = bools(3, 5)
    mask = Mask.from_array(array)
    for other in (array, array.astype(np.float32), array.tolist(), array[0], True, 0, 1.0):
        got, wants = mask == other, array == np.asarray(other)
        assert bits(got) == bits(wants)
        assert bits(other == mask) == bits(wants)
        assert bits(mask != other) == bits(~wants)
    assert (mask == ~mask) is False
    assert (mask != ~mask) is True
    assert (mask == mask.reshape(5, 3)) is False
    for other in (None, "text", {}, MaskSet.of([mask])):
        assert (mask == other) is False
        assert (mask != other) is True


def test_no_truth():
    for mask in (Mask.from_array(bools(3)), Mask.from_array(True), Mask.from_array(bools(0))):
        with pytest.raises(ValueError, match="ambiguous"):
            bool(mask)


def test_reshaped_and_indexed():
    array = bools(4, 6, 5)
    mask = Mask.from_array(array)
    for got, wants in [
        (mask.reshape(24, 5), array.reshape(24, 5)),
        (mask.reshape((-1,)), array.ravel()),
        (mask.reshape(2, -1, 15), array.reshape(2, -1, 15)),
        (mask.T, array.T),
        (mask.transpose(1, 0, 2), array.transpose(1, 0, 2)),
        (mask.transpose((2, 0, 1)), array.transpose(2, 0, 1)),
        (mask[1], array[1]),
        (mask[1:3, ..., ::2], array[1:3, ..., ::2]),
        (mask[:, None, -1], array[:, None, -1]),
        (mask[[0, 2]], array[[0, 2]]),
    ]:
        assert isinstance(got, Mask)
        assert bits(got.to_array()) == bits(wants)
        assert not got._words.flags.writeable
    assert mask[1, 2, 3] is bool(array[1, 2, 3])
    assert (len(mask), mask.ndim) == (4, 3)
    assert [row.shape for row in mask] == [(6, 5)] * 4
    for bad, error in [
        (lambda: mask.reshape(7), ValueError),
        (lambda: mask.transpose(0, 0, 1), ValueError),
        (lambda: mask[4], IndexError),
        (lambda: mask[0, 0, 0, 0], IndexError),
        (lambda: len(mask[1:, 0, 0].reshape(3)[0:1].reshape(())), TypeError),
    ]:
        with pytest.raises(error):
            bad()


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", "f4", "f8", BFLOAT16])
def test_from_numbers(dtype):
    array = bools(3, 5)
    assert Mask.from_array(array.astype(dtype)) == Mask.from_array(array)
    if dtype != "?":
        with pytest.raises(ValueError, match=r"^array: got 2\S* in it, wants 0 and 1, or bool"):
            Mask.from_array(np.array([0, 1, 2]).astype(dtype))
    if np.dtype(dtype).kind == "f":
        with pytest.raises(ValueError, match=r"^array: got nan in it"):
            Mask.from_array(np.array([0, 1, np.nan], dtype))
        with pytest.raises(ValueError, match=r"^arrays\['w'\]\[0\]: got nan in it"):
            MaskSet.from_array({"w": [np.array([0, 1, np.nan], dtype)]})


def test_from_the_masks_of_torch():
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    layer = torch.nn.Linear(8, 4)
    prune.random_unstructured(layer, "weight", 0.5)
    mask = Mask.from_array(layer.weight_mask)
    assert mask.count == 16
    assert bits(mask.to_array()) == bits(layer.weight_mask.numpy() != 0)
    for dtype in (torch.bfloat16, torch.int32, torch.bool):
        assert Mask.from_array(layer.weight_mask.to(dtype)) == mask
    assert Mask.from_array(torch.nn.Parameter(layer.weight_mask)) == mask
    for bad in (np.ones(3, complex), ["a"], [None]):
        with pytest.raises(TypeError, match=r"^array: got dtype .*, wants bool, or the numbers 0"):
            Mask.from_array(bad)


# ---- applied to a copy


@dtypes
@layouts
def test_apply_to_a_copy(dtype, layout):
    w, array = sample((5, 6, 7), dtype), bools(5, 6, 7)
    w.ravel()[:20] = [np.nan, np.inf, -0.0, -1.0] * 5
    mask = Mask.from_array(array)
    wants = np.where(array, w, np.zeros_like(w))
    view, intact = LAYOUTS[layout](w)
    with unchanged(view):
        assert bits(mask.apply(view)) == bits(wants)
    out, whole = LAYOUTS[layout](np.ones_like(w))
    assert mask.apply(w, out) is out
    assert bits(out) == bits(wants)
    assert mask.apply(view, out=view) is view
    assert bits(view) == bits(wants)
    assert intact()
    assert whole()


def test_apply_everywhere():
    w, array = sample(2**17 + 5, np.float32), bools(2**17 + 5)
    mask = Mask.from_array(array)
    every_setting(lambda: bits(mask.apply(w)))
    assert bits(mask.apply(w)) == bits(np.where(array, w, np.float32(0)))


def test_apply_errors():
    mask, w = Mask.from_array(bools(4)), np.ones(4)
    block = np.ones(9)
    for bad, out, error, place in [
        ([w], None, TypeError, "w"),
        (np.ones(4, int), None, TypeError, "w"),
        (np.ones(5), None, ValueError, "w"),
        (w, np.ones(5), ValueError, "out"),
        (w, np.ones(4, np.float32), TypeError, "out"),
        (block[:4], block[1:5], ValueError, "out"),
        (w, mask, TypeError, "out"),
        (w, "text", TypeError, "out"),
    ]:
        with unchanged(block), pytest.raises(error, match=rf"^{place}: got .*, wants "):
            mask.apply(bad, out)
    with pytest.raises(ValueError, match=r"^params\[1\]: got shape \(5,\), wants \(4,\)"):
        MaskSet.of([mask, mask]).apply([w, np.ones(5)])
    with pytest.raises(TypeError, match=r"^params\[1\]: got "):
        MaskSet.of([mask, mask]).apply([w, np.ones(4, int)])
    with pytest.raises(ValueError, match=r"^params: got a sequence of 1, wants a sequence of 2"):
        MaskSet.of([mask, mask]).apply([w])


def test_apply_of_a_set():
    arrays = {"b": bools(3), "w": [bools(2, 2), {"c": bools(70)}]}
    params = mapped(lambda a: sample(a.shape, np.float32), arrays)
    masks = MaskSet.from_array(arrays)
    wants = mapped(lambda a, w: np.where(a, w, np.float32(0)), arrays, params)
    turned = dict(reversed(params.items()))
    with unchanged(*leaves(params)):
        assert bits(masks.apply(turned)) == bits(wants)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own gradcheck
def test_apply_in_torch():
    torch = pytest.importorskip("torch")
    array = bools(6, 20)
    mask, keep = Mask.from_array(array), torch.from_numpy(array)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        w = torch.randn(6, 20).to(dtype)
        got = mask.apply(w)
        assert got.dtype == dtype
        assert torch.equal(got, torch.where(keep, w, torch.zeros_like(w)))
        got = mask.T.apply(w.T)
        assert torch.equal(got, torch.where(keep, w, torch.zeros_like(w)).T)
    w = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    for make in (lambda: w, lambda: w * 1):
        w.grad = None
        (mask.apply(make()) ** 2).sum().backward()
        assert torch.equal(w.grad, torch.where(keep, 2 * w, 0).detach())
        w.grad = None
        MaskSet.of({"h": mask}).apply({"h": make()})["h"].sum().backward()
        assert torch.equal(w.grad, keep.to(torch.float64))
    assert torch.autograd.gradcheck(mask.apply, (w,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(mask.apply, (w,))
    with torch.no_grad():
        assert not mask.apply(w).requires_grad
        out = torch.empty(6, 20, dtype=torch.float64)
        before = out._version
        assert mask.apply(w, out) is out
        assert out._version > before
    for a, out in ((w, torch.empty_like(w)), (w.detach(), w)):
        kept = out.detach().clone()
        with pytest.raises(rl.RequiresGradError, match=r"^(w|out): got a tensor that requires"):
            mask.apply(a, out)
        assert bits(out.detach().numpy()) == bits(kept.numpy())


def test_no_write_into_a_graph():
    torch = pytest.importorskip("torch")
    w = torch.ones(4, requires_grad=True)
    mask = Mask.from_array([True, False, True, False])
    h = w * 1
    for call in (
        lambda: mask.apply_(h),
        lambda: MaskSet.of([mask]).apply_([h]),
        lambda: mask.apply(w.detach(), out=h),
    ):
        with pytest.raises(rl.RequiresGradError, match=r"^(params|out)(\[0\])?: got a tensor that"):
            call()
        assert h.detach().tolist() == [1.0] * 4
    mask.apply_(w)
    assert w.detach().tolist() == [1.0, 0.0, 1.0, 0.0]
    with torch.no_grad():
        mask.apply_(h)
    assert h.detach().tolist() == [1.0, 0.0, 1.0, 0.0]


def test_apply_in_jax():
    jnp = pytest.importorskip("jax.numpy")
    array, w = bools(6, 20), sample((6, 20), np.float32)
    got = Mask.from_array(array).apply(jnp.asarray(w))
    assert type(got).__module__.startswith("jax")
    assert bits(np.asarray(got)) == bits(np.where(array, w, np.float32(0)))


# ---- containers


def test_a_list_makes_a_sequence():
    arrays = [bools(3), bools(4, 5), bools()]
    for source in (arrays, tuple(arrays), iter(arrays), dict(enumerate(arrays)).values()):
        masks = MaskSet.from_array(source)
        assert isinstance(masks, MaskSet)
        assert isinstance(masks, Sequence)
        assert not isinstance(masks, Mapping)
        assert not hasattr(masks, "keys")
        assert len(masks) == 3
        assert [m.shape for m in masks] == [(3,), (4, 5), ()]
        assert [m.shape for m in reversed(masks)] == [(), (4, 5), (3,)]
        assert masks[0] == Mask.from_array(arrays[0])
        assert masks[-1].shape == ()
        assert masks[1] in masks
        assert Mask.from_array(bools(9)) not in masks
        assert masks.index(masks[1]) == 1
        assert masks[1:] == MaskSet.from_array(arrays[1:])
        assert isinstance(masks[:0], MaskSet)
        assert bits(masks.to_array()) == bits(arrays)
        for bad in (3, -4):
            with pytest.raises(IndexError):
                masks[bad]
        with pytest.raises(TypeError):
            masks["w"]


def test_a_dict_makes_a_mapping():
    arrays = {"w": bools(3), "b": bools(4, 5), 7: bools()}
    for source in (arrays, OrderedDict(arrays)):
        masks = MaskSet.from_array(source)
        assert isinstance(masks, MaskSet)
        assert isinstance(masks, Mapping)
        assert not isinstance(masks, Sequence)
        assert list(masks) == list(masks.keys()) == ["w", "b", 7]
        assert len(masks) == 3
        assert masks["b"].shape == (4, 5)
        assert [m.shape for m in masks.values()] == [(3,), (4, 5), ()]
        assert {k: m.shape for k, m in masks.items()} == {"w": (3,), "b": (4, 5), 7: ()}
        assert "w" in masks
        assert "x" not in masks
        assert masks.get("x") is None
        assert dict(masks)["w"] == masks["w"]
        assert bits(masks.to_array()) == bits(arrays)
        with pytest.raises(KeyError):
            masks["x"]


def test_nested():
    arrays = container()
    masks = MaskSet.from_array(arrays)
    assert isinstance(masks["block/0"], MaskSet)
    assert isinstance(masks["block/0"], Sequence)
    assert isinstance(masks["block/0"][1], Mapping)
    assert isinstance(masks["block/0"][1]["w"], Mask)
    assert len(masks["block"][1]) == len(masks["Gewicht ü 重み"]) == 0
    flat = leaves(arrays)
    assert masks.size == sum(a.size for a in flat)
    assert masks.count == sum(int(a.sum()) for a in flat)
    assert masks.sparsity == (masks.size - masks.count) / masks.size
    assert masks.nbytes == sum((a.size + 63) // 64 * 8 for a in flat)
    assert bits(masks.to_array()) == bits(listed(arrays))
    names = ["conv.weight", "block/0/0", "block/0/1/w", "block/0/1/empty", "block/0", ""]
    assert [name for name, _ in masks.flat()] == [*names, "3/0", "3/1/0/0"]
    assert [bits(mask.to_array()) for _, mask in masks.flat()] == [bits(a) for a in flat]


@pytest.mark.parametrize("empty", [[], {}, (), [[], {}], {"a": {}}])
def test_nothing(empty, tmp_path):
    masks = MaskSet.from_array(empty)
    assert masks == MaskSet.of(empty)
    assert (masks.size, masks.count, masks.nbytes, masks.sparsity) == (0, 0, 0, 0.0)
    assert masks.flat() == []
    assert masks.to_array() == listed(empty)
    assert ~masks == masks & masks == masks | masks == masks
    assert repr(masks) == "MaskSet of 0 masks, sparsity=0"
    assert pickle.loads(pickle.dumps(masks)) == masks
    for suffix in SUFFIXES:
        masks.save(tmp_path / f"m{suffix}")
        assert MaskSet.load(tmp_path / f"m{suffix}") == masks


def test_of():
    mask = Mask.from_array(bools(3))
    inner = MaskSet.of({"a": mask})
    for source in ([mask, {"a": mask}], (mask, inner), MaskSet.of([mask, inner])):
        masks = MaskSet.of(source)
        assert masks == MaskSet.of([mask, inner])
        assert masks[0] is mask
    assert MaskSet.of(inner) == inner
    assert MaskSet.of(m for m in [mask]) == MaskSet.of([mask])
    for bad in (mask, None, 3, "abc", np.ones(3, bool), Mask):
        with pytest.raises(TypeError, match=r"^masks: got .*, wants a list, tuple or dict of"):
            MaskSet.of(bad)
    for bad, place in [
        ([mask, np.ones(3, bool)], r"masks\[1\]"),
        ({"w": [mask, None]}, r"masks\['w'\]\[1\]"),
        ({"w": "abc"}, r"masks\['w'\]"),
    ]:
        with pytest.raises(TypeError, match=rf"^{place}: got \w+, wants a Mask"):
            MaskSet.of(bad)
    with pytest.raises(TypeError):
        MaskSet()


def test_from_array_errors():
    for bad in (np.ones(3, bool), None, True, "abc"):
        with pytest.raises(TypeError, match=r"^arrays: got .*, wants a list, tuple or dict"):
            MaskSet.from_array(bad)
    for bad, place in [
        ([bools(3), np.ones(3, "M8[s]")], r"arrays\[1\]"),
        ({"w": np.ones(3, np.complex64)}, r"arrays\['w'\]"),
        ({"a": [None]}, r"arrays\['a'\]\[0\]"),
        ([True, False], r"arrays\[0\]"),
    ]:
        with pytest.raises(TypeError, match=rf"^{place}: got .*, wants .*bool"):
            MaskSet.from_array(bad)


def test_from_torch():
    torch = pytest.importorskip("torch")
    array = bools(3, 4)
    masks = MaskSet.from_array({"w": torch.from_numpy(array).T})
    assert masks == MaskSet.from_array({"w": array.T})


# ---- logic


def test_logic():
    a = container()
    b = mapped(lambda x: bools(*x.shape, seed=99), a)
    m, n = MaskSet.from_array(a), MaskSet.from_array(b)
    for got, wants in [
        (m & n, mapped(np.logical_and, a, b)),
        (m | n, mapped(np.logical_or, a, b)),
        (~m, mapped(np.logical_not, a)),
        (~~m, a),
    ]:
        assert isinstance(got, MaskSet)
        assert got == MaskSet.from_array(mapped(np.asarray, wants))
        assert not any(mask._words.flags.writeable for _, mask in got.flat())
    assert bits(m.to_array()) == bits(listed(a))  # operands stay


def test_dicts_are_matched_by_key():
    a, b = Mask.from_array(bools(5)), Mask.from_array(bools(70))
    one, other = MaskSet.of({"a": a, "b": b}), MaskSet.of({"b": ~b, "a": ~a})
    assert one == ~other
    assert (one & other).count == 0
    assert list(one & other) == ["a", "b"]
    assert list(other & one) == ["b", "a"]


def test_logic_of_other_structures():
    mask, wide = Mask.from_array(bools(5)), Mask.from_array(bools(6))
    one = MaskSet.of({"a": mask, "b": [mask, mask]})
    for other, message in [
        ([mask, [mask, mask]], r"masks: got a sequence of 2, wants a dict of 2"),
        ({"a": mask}, r"masks: got no key 'b'"),
        ({"a": mask, "b": [mask, mask], "c": mask}, r"masks: got a key 'c'"),
        ({"a": mask, "b": [mask]}, r"masks\['b'\]: got a sequence of 1, wants a sequence of 2"),
        ({"a": mask, "b": mask}, r"masks\['b'\]: got Mask, wants a sequence of 2"),
        ({"a": [mask], "b": [mask, mask]}, r"masks\['a'\]: got a sequence of 1, wants an array"),
        ({"a": mask, "b": [mask, wide]}, r"masks\['b'\]\[1\]: got shape \(6,\), wants \(5,\)"),
    ]:
        other = MaskSet.of(other)
        for op in (lambda x, y: x & y, lambda x, y: x | y):
            with pytest.raises(ValueError, match=f"^{message}"):
                op(one, other)
        assert one != other
    for bad in (mask, {"a": mask}, None, 3, [mask]):
        with pytest.raises(TypeError):
            one & bad
        with pytest.raises(TypeError):
            one | bad
        with pytest.raises(TypeError):
            bad & one
        assert one != bad


def test_equality():
    arrays = container()
    masks = MaskSet.from_array(arrays)
    assert masks == MaskSet.from_array(copied(arrays))
    other = copied(arrays)
    other["block/0"][0][-1] ^= True
    assert masks != MaskSet.from_array(other)
    assert MaskSet.of([]) != MaskSet.of({})
    assert MaskSet.of({0: masks["block"]}) != MaskSet.of([masks["block"]])
    assert MaskSet.from_array([bools(6)]) != MaskSet.from_array([bools(6).reshape(2, 3)])


def test_values_do_not_change():
    masks = MaskSet.from_array(container())
    for value in (masks, masks["block"], masks["block"][0]):
        with pytest.raises(TypeError, match="unhashable"):
            hash(value)
        with pytest.raises(AttributeError, match="immutable"):
            value.size = 3
        with pytest.raises(AttributeError):
            value.anything = 3
    with pytest.raises(TypeError):
        masks["conv.weight"] = masks["conv.weight"]
    with pytest.raises(TypeError):
        masks["block"][0] = masks["block"][0]
    with pytest.raises(TypeError):
        del masks["block"]
    shared, _ = views_of_one_buffer([100, 200])
    for mask in (*(m for _, m in masks.flat()), *shared, *(~MaskSet.of(shared))):
        assert not mask._words.flags.writeable
        if mask.size:
            with pytest.raises(ValueError, match="read-only"):
                mask._words[0] = 1
    source = {"w": bools(3)}
    masks = MaskSet.from_array(source)
    array = masks.to_array()
    array["w"][:] = False
    source["w"][:] = False
    source["b"] = None
    assert masks == MaskSet.from_array({"w": bools(3)})


def test_repr():
    masks = MaskSet.from_array({"conv": [bools(2, 2, p=1)], "b": bools(4, p=0)})
    assert repr(masks).splitlines() == [
        "MaskSet of 2 masks, sparsity=0.5",
        "  conv/0  (2, 2)  0",
        "  b       (4,)    1",
    ]
    many = MaskSet.from_array([bools(10)] * 1000)
    assert len(repr(many).splitlines()) == 17
    assert "  999  " in repr(many)
    assert "  ...\n" in repr(many)


# ---- pickles and copies


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol):
    masks = MaskSet.from_array(container())
    for value in (masks, masks["block"], masks["conv.weight"]):
        again = pickle.loads(pickle.dumps(value, protocol))
        assert again == value
        assert type(again) is type(value)
    assert not again._words.flags.writeable
    for same in (copy.copy(masks), copy.deepcopy(masks)):
        assert same == masks
        assert isinstance(same["block"], Sequence)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_a_mask_does_not_carry_the_buffer(protocol, tmp_path):
    masks, buffer = views_of_one_buffer([1000, 2**20, 64, 0])
    assert masks[0]._words.base is buffer
    for mask, limit in zip(masks, [600, 2**17 + 500, 500, 500], strict=True):
        assert len(pickle.dumps(mask, protocol)) < limit
        assert pickle.loads(pickle.dumps(mask, protocol)) == mask
        for suffix in SUFFIXES:
            mask.save(tmp_path / f"m{suffix}")
            assert (tmp_path / f"m{suffix}").stat().st_size < limit + 1000
            assert Mask.load(tmp_path / f"m{suffix}") == mask
        again = copy.deepcopy(mask)
        owner = again._words if again._words.base is None else again._words.base
        assert owner.nbytes == mask.nbytes
    whole = MaskSet.of(masks)
    assert len(pickle.dumps(whole, protocol)) < 2**17 + 2000
    assert pickle.loads(pickle.dumps(whole, protocol)) == whole
    buffers = []
    if protocol >= 5:
        data = pickle.dumps(masks[2], protocol, buffer_callback=buffers.append)
        assert sum(b.raw().nbytes for b in buffers) == 8
        assert pickle.loads(data, buffers=buffers) == masks[2]


# ---- files


@suffixes
def test_files(tmp_path, suffix):
    masks = MaskSet.from_array(container())
    file = tmp_path / f"masks.all{suffix}"
    file.write_bytes(b"what was there")
    masks.save(file)
    again = MaskSet.load(str(file))
    assert again == masks
    assert [name for name, _ in again.flat()] == [name for name, _ in masks.flat()]
    assert list(again) == list(masks)
    assert isinstance(again["block"], Sequence)
    assert isinstance(again["Gewicht ü 重み"], Mapping)
    assert not any(mask._words.flags.writeable for _, mask in again.flat())
    with pytest.raises(ValueError, match="wants one of a Mask"):
        Mask.load(file)
    first = file.read_bytes()
    again.save(file)
    assert file.read_bytes() == first
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


@suffixes
def test_files_have_the_names(tmp_path, suffix):
    names = ["conv.weight", "block/0", "ü"]
    MaskSet.from_array({"conv.weight": bools(3), "block": [bools(70)], "ü": bools()}).save(
        tmp_path / f"m{suffix}"
    )
    if suffix == ".npz":
        with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays:
            assert {name: arrays[name].shape for name in names} == dict(
                zip(names, [(1,), (2,), (1,)], strict=True)
            )
    else:
        numpy = pytest.importorskip("safetensors.numpy")
        assert set(numpy.load_file(tmp_path / "m.safetensors")) == set(names)


STRANGE = [
    "file", "allow_pickle", "layout", "ridgeline", "words", "mask", "__metadata__", "", "#0", "#2",
    "a", "a.npy", "a.npy.npy", "a/b", "../up", "/abs", "a\\b", "a\0b", "a\nb", "arr_0", "\ud800",
    ".", "x" * 5000, "keys", "values", " ", "0", 0, -1, 10**30,
]  # fmt: skip


@suffixes
def test_files_with_strange_names(tmp_path, suffix):
    source = {name: Mask.from_array(bools(9, seed=i)) for i, name in enumerate(STRANGE)}
    source["nested"] = MaskSet.of({"a": {"b": source["a"]}, **source})
    source["nested/a"] = MaskSet.of([source["file"]])
    source["nested/a/0"] = ~source["file"]
    masks = MaskSet.of(source)
    masks.save(tmp_path / f"m{suffix}")
    assert MaskSet.load(tmp_path / f"m{suffix}") == masks
    assert list(MaskSet.load(tmp_path / f"m{suffix}")) == list(masks)


keys = st.one_of(st.text(max_size=6), st.integers(), st.sampled_from(STRANGE))
arrays = st.builds(
    lambda shape, seed: bools(*shape, seed=seed),
    st.lists(st.integers(0, 9), max_size=3),
    st.integers(0, 2**32),
)
trees = st.recursive(
    arrays, lambda t: st.lists(t, max_size=4) | st.dictionaries(keys, t, max_size=4), max_leaves=10
).filter(lambda t: not isinstance(t, np.ndarray))


@suffixes
@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_round_trips(tmp_path_factory, suffix, tree):
    masks = MaskSet.from_array(tree)
    file = tmp_path_factory.getbasetemp() / f"round_trips{suffix}"
    masks.save(file)
    for again in (
        MaskSet.load(file),
        pickle.loads(pickle.dumps(masks)),
        copy.deepcopy(masks),
        MaskSet.of(masks),
        MaskSet.from_array(masks.to_array()),
        ~~masks,
        masks & masks,
        masks | masks,
    ):
        assert again == masks
        assert bits(again.to_array()) == bits(listed(tree))
        assert [n for n, _ in again.flat()] == [n for n, _ in masks.flat()]


def test_file_names(tmp_path):
    mask = Mask.from_array(bools(3))
    for value in (mask, MaskSet.of([mask])):
        for bad in ("m", "m.npy", "m.pt", ".npz", "m.npz.gz"):
            with pytest.raises(ValueError, match=r"^file: got .*, wants a name in \.npz or"):
                value.save(tmp_path / bad)
            with pytest.raises(ValueError, match=r"^file: got .*, wants a name in \.npz or"):
                type(value).load(tmp_path / bad)
        for suffix in SUFFIXES:
            with pytest.raises(FileNotFoundError, match="nowhere"):
                type(value).load(tmp_path / f"nowhere{suffix}")
    for key in (("a", 1), None, 2.0, True):
        for suffix in SUFFIXES:
            with pytest.raises(TypeError, match=r"^masks: got the key .*, wants strings or int"):
                MaskSet.of({key: mask}).save(tmp_path / f"keys{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_without_safetensors(tmp_path, monkeypatch):
    mask = Mask.from_array(bools(3))
    mask.save(tmp_path / "there.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (
        lambda: mask.save(tmp_path / "m.safetensors"),
        lambda: MaskSet.of([mask]).save(tmp_path / "m.safetensors"),
        lambda: Mask.load(tmp_path / "there.safetensors"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"ridgeline: .*pip install safetensors"):
            call()
    assert not (tmp_path / "m.safetensors").exists()
    mask.save(tmp_path / "m.npz")
    assert Mask.load(tmp_path / "m.npz") == mask


class Evil:
    def __reduce__(self):
        return pytest.fail, ("a file was unpickled",)


GOOD = {"mask": "words", "shape": [70]}
WORDS = np.array([2**64 - 1, 2**6 - 1], np.uint64)
BAD_FILES = {
    "a version to come": ({"version": 2}, GOOD, WORDS),
    "no version": ({"version": None}, GOOD, WORDS),
    "no text": (None, GOOD, WORDS),
    "a bit too far": ({}, GOOD, np.array([0, 2**6], np.uint64)),
    "a word too few": ({}, GOOD, WORDS[:1]),
    "a word too many": ({}, GOOD, np.zeros(3, np.uint64)),
    "two axes": ({}, GOOD, WORDS.reshape(2, 1)),
    "int64": ({}, GOOD, WORDS.view(np.int64)),
    "bytes": ({}, GOOD, WORDS.view(np.uint8)),
    "another name": ({}, {"mask": "w", "shape": [70]}, WORDS),
    "negative extents": ({}, {"mask": "words", "shape": [-7, -10]}, WORDS),
    "a float extent": ({}, {"mask": "words", "shape": [70.0]}, WORDS),
    "an extent of text": ({}, {"mask": "words", "shape": "70"}, WORDS),
    "no shape": ({}, {"mask": "words"}, WORDS),
    "a number": ({}, 3, WORDS),
    "null": ({}, None, WORDS),
    "a list": ({}, [GOOD], WORDS),
    "an empty object": ({}, {}, WORDS),
    "keys too few": ({}, {"keys": [], "values": [GOOD]}, WORDS),
    "a key twice": ({}, {"keys": ["a", "a"], "values": [GOOD, GOOD]}, WORDS),
    "a list as key": ({}, {"keys": [["a"]], "values": [GOOD]}, WORDS),
    "a null key": ({}, {"keys": [None], "values": [GOOD]}, WORDS),
}


def write(file, texts, **arrays):
    """Write a file as `save` does: what a test makes of one."""
    if file.suffix == ".npz":
        encoded = {key: np.frombuffer(text.encode(), np.uint8) for key, text in texts.items()}
        np.savez(file, **encoded, **arrays)
    else:
        pytest.importorskip("safetensors.numpy").save_file(arrays, file, texts)


@suffixes
def test_written_files(tmp_path, suffix):
    """What the next test changes can be read as it is."""
    text = json.dumps({"version": 1, "masks": GOOD})
    write(tmp_path / f"good{suffix}", {"ridgeline": text}, words=WORDS)
    assert Mask.load(tmp_path / f"good{suffix}").count == 70


@suffixes
@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files(tmp_path, suffix, what):
    changes, masks, words = BAD_FILES[what]
    texts = {}
    if changes is not None:
        texts["ridgeline"] = json.dumps({"version": 1, "masks": masks} | changes)
    write(tmp_path / f"bad{suffix}", texts, words=words)
    file = tmp_path / f"bad{suffix}"
    for kind in (Mask, MaskSet):
        with pytest.raises(ValueError, match=rf"^file: got 'bad{suffix}', wants a file that save"):
            kind.load(file)


@suffixes
def test_files_of_something_else(tmp_path, suffix):
    file = tmp_path / f"bad{suffix}"

    def refused():
        with pytest.raises(ValueError, match=r"^file: got .*, wants a file that save wrote"):
            MaskSet.load(file)

    for data in (b"", b"x", b"PK\x03\x04", b"\x93NUMPY", bytes(1000), pickle.dumps(Evil())):
        file.write_bytes(data)
        refused()
    with file.open("wb") as stream:
        np.save(stream, WORDS)
    refused()
    with file.open("wb") as stream:
        np.savez(stream, ridgeline=np.array([Evil()], object))
    refused()
    deep = '{"values": [' * 100_000 + "]}" * 100_000
    write(file, {"ridgeline": f'{{"version": 1, "masks": {deep}}}'})
    refused()


@suffixes
def test_damaged_files(tmp_path, suffix):
    """Every truncation is noticed; of a changed byte no more is asked than a clear error or masks
    (safetensors has no check sums)."""
    file = tmp_path / f"m{suffix}"
    MaskSet.from_array({"w": bools(70), "b": [bools(3)]}).save(file)
    data = file.read_bytes()
    for n in range(0, len(data), 7):
        file.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r"^file: got "):
            MaskSet.load(file)
    rng = np.random.default_rng(0)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            masks = MaskSet.load(file)
        except ValueError:
            continue
        assert isinstance(masks, MaskSet)
        assert all(~~mask == mask for _, mask in masks.flat())  # no stray bits


# ---- apply_


def params_like(tree, dtype=np.float64):
    return mapped(lambda a: sample(a.shape, dtype, seed=a.size), tree)


@dtypes
def test_apply(dtype):
    arrays = container()
    masks = MaskSet.from_array(arrays)
    params = params_like(arrays, dtype)
    expected = mapped(lambda a, w: np.where(a, w, np.zeros((), dtype)), arrays, params)
    assert masks.apply_(params) is None
    assert bits(params) == bits(expected)
    masks.apply_(params)
    assert bits(params) == bits(expected)


def test_apply_to_nan_and_mixed_dtypes():
    arrays = [bools(100, seed=1), bools(3, 40, seed=2)]
    params = [np.full(100, np.nan, np.float32), np.full((3, 40), -np.inf, np.float16)]
    MaskSet.from_array(arrays).apply_(params)
    for array, w, bad in zip(arrays, params, [np.nan, -np.inf], strict=True):
        assert bits(w) == bits(np.where(array, w.dtype.type(bad), w.dtype.type(0)))


def test_apply_matches_keys():
    arrays = {"a": bools(5), "b": {"x": bools(5, seed=1), "y": bools(5, seed=2)}}
    params = {"b": {"y": np.ones(5), "x": np.ones(5)}, "a": np.ones(5)}
    for order in (params, OrderedDict(params)):
        MaskSet.from_array(arrays).apply_(order)
        assert bits(params["a"]) == bits(1.0 * arrays["a"])
        assert bits(params["b"]["x"]) == bits(1.0 * arrays["b"]["x"])
        assert bits(params["b"]["y"]) == bits(1.0 * arrays["b"]["y"])


def test_apply_to_iterables_and_views():
    arrays = [bools(5, 4), bools(70)]
    masks = MaskSet.from_array(arrays)
    base = np.ones((2, 4, 5))
    params = [base[0].T, np.ones(140)[::2]]
    masks.apply_(w for w in params)
    for array, w in zip(arrays, params, strict=True):
        assert bits(w) == bits(1.0 * array)
    assert bits(base[1]) == bits(np.ones((4, 5)))
    shared, _ = views_of_one_buffer([5, 100, 0, 64])
    params = [np.ones(mask.shape) for mask in shared]
    MaskSet.of(shared).apply_(tuple(params))
    for mask, w in zip(shared, params, strict=True):
        assert bits(w) == bits(1.0 * mask.to_array())
    MaskSet.of([]).apply_([])
    MaskSet.of({}).apply_({})


def test_apply_to_torch():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    arrays = [bools(*p.shape, seed=i) for i, p in enumerate(model.parameters())]
    before = [p.detach().numpy().copy() for p in model.parameters()]
    MaskSet.from_array(arrays).apply_(model.parameters())  # a parameter update, as under no_grad
    for p, array, w in zip(model.parameters(), arrays, before, strict=True):
        assert bits(p.detach().numpy()) == bits(np.where(array, w, np.float32(0)))
    state = model.state_dict()
    named = dict(zip(state, arrays, strict=True))
    (~MaskSet.from_array(named)).apply_(state)
    assert all(not p.any() for p in model.parameters())


def test_apply_errors_come_first():
    ok = [np.ones((2, 3)), np.ones(2)]
    masks = MaskSet.from_array({"conv": [bools(2, 3, p=0), bools(2, p=0)], "b": bools(4, p=0)})
    read_only = np.ones(4)
    read_only.flags.writeable = False
    b = np.ones(4)
    for bad, error, message in [
        ({"conv": [np.ones((3, 2)), ok[1]], "b": b}, ValueError,
         r"params\['conv'\]\[0\]: got shape \(3, 2\), wants \(2, 3\), that of the mask"),
        ({"conv": ok, "b": np.ones((4, 1))}, ValueError, r"params\['b'\]: got shape \(4, 1\)"),
        ({"b": np.ones(5), "conv": ok}, ValueError, r"params\['b'\]: got shape \(5,\)"),
        ({"conv": ok}, ValueError, r"params: got no key 'b'"),
        ({"conv": ok, "b": b, "c": b}, ValueError, r"params: got a key 'c'"),
        ({"conv": ok[:1], "b": b}, ValueError,
         r"params\['conv'\]: got a sequence of 1, wants a sequence of 2"),
        ({"conv": [*ok, b], "b": b}, ValueError, r"params\['conv'\]: got a sequence of 3"),
        ({"conv": [[ok[0]], ok[1]], "b": b}, ValueError,
         r"params\['conv'\]\[0\]: got a sequence of 1, wants an array"),
        ({"conv": dict(enumerate(ok)), "b": b}, ValueError,
         r"params\['conv'\]: got a dict of 2, wants a sequence of 2"),
        ({"conv": ok[0], "b": b}, ValueError, r"params\['conv'\]: got an array, wants a seq"),
        ([ok, b], ValueError, r"params: got a sequence of 2, wants a dict of 2"),
        (b, ValueError, r"params: got an array, wants a dict of 2"),
        (None, TypeError, r"params: got .*None"),
        (3.0, TypeError, r"params: got float, wants a dict of 2"),
        ({"conv": ok, "b": None}, TypeError, r"params\['b'\]: got "),
        ({"conv": ok, "b": np.ones(4, np.int64)}, TypeError, r"params\['b'\]: got .*int64"),
        ({"conv": ok, "b": read_only}, ValueError, r"params\['b'\]: got .*read-only"),
        ({"conv": ok, "b": np.broadcast_to(b[:1], 4)}, ValueError, r"params\['b'\]: got"),
        ({"conv": [ok[0], ok[0][0, :2]], "b": b}, ValueError, r"params.*overlap"),
    ]:  # fmt: skip
        with unchanged(ok, b), pytest.raises(error, match=f"^{message}"):
            masks.apply_(bad)
    same = np.ones(4)
    twice = MaskSet.from_array([bools(4, p=0), bools(4, p=1)])
    with unchanged(same), pytest.raises(ValueError, match=r"^params\[1\]: got the same memory as"):
        twice.apply_([same, same])
    with unchanged(same), pytest.raises(ValueError, match=r"^params: got an array, wants a seq"):
        twice.apply_(np.ones((2, 4)))


def test_every_setting():
    arrays = [bools(300, 301, seed=1), bools(7, seed=2), bools(2**16 + 3, seed=3)]
    base = [sample(a.shape, np.float32) for a in arrays]

    def compute():
        masks = MaskSet.from_array(arrays)
        params = copied(base)
        masks.apply_(params)
        return [bits(params), masks.count]

    every_setting(compute)
    masks = [rl.dropout_mask(a.shape, 0.5, rl.Key(i)) for i, a in enumerate(arrays)]
    assert MaskSet.of(masks).count == sum(mask.count for mask in masks)
