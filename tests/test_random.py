"""Keys and random numbers: the NumPy oracle, published answers, and the laws of probability."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from dataclasses import dataclass
from decimal import Decimal, localcontext
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from helpers import (
    BFLOAT16,
    DTYPES,
    LAYOUTS,
    assert_ulp,
    bits,
    dtypes,
    every_setting,
    from_torch,
    is_half,
    layouts,
    place,
    placements,
    to_torch,
    unchanged,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import ridgeline as rl
from ridgeline import reference as ref

KEY = rl.Key(42)
SEEDS = [0, 1, 42, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1]
INTS = [np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8)]
SHARED = 300_001  # elements: enough to be shared out
#: where a word of a counter wraps: 2^32 elements, or so many counters of 4, 2 or 16 of them; where
#: an index times the size of an item does; the last index
OFFSETS = [
    *(0, 1, 15, 16, 17, 63, 64, 1000),
    *(2**k - 70 for k in (32, 33, 34, 36)),
    *(2**60 + 5, 2**61, 2**61 + 64, 2**62 - 70, 2**62, 2**63 - 201),
]

#: |relative error| of a normal number in units of eps. ln: 2, and the root halves it; the root,
#: 1/2; sine or cosine, 2; their product, 1/2.
NORMAL_ULP = 4


@dataclass(frozen=True)
class Made:
    """A function, and what to call it with."""

    name: str
    dtype: Any
    arguments: tuple[tuple[str, Any], ...] = ()

    def __call__(self, shape, key=KEY, **keywords):
        return self._call(rl.random, shape, key, keywords)

    def oracle(self, shape, key=KEY, **keywords):
        return self._call(ref.random, shape, key, keywords)

    def _call(self, module, shape, key, keywords):
        keywords = {"dtype": self.dtype, **dict(self.arguments), **keywords}
        return getattr(module, self.name)(shape, key, **keywords)

    def check(self, got, expected):
        assert got.dtype == expected.dtype == self.dtype
        assert got.shape == expected.shape
        if self.name != "normal":
            assert bits(got) == bits(expected)
            return
        assert_ulp(got, expected, self.dtype, NORMAL_ULP, stores=2)


MAKERS = {
    **{f"uniform {d}": Made("uniform", d) for d in DTYPES},
    **{f"normal {d}": Made("normal", d) for d in DTYPES},
    **{
        f"bernoulli {p}": Made("bernoulli", np.dtype(bool), (("p", p),))
        for p in (0.5, 0.3, 1 / 256, 1e-9, 1 - 1e-9)
    },
    **{f"integers {d}": Made("integers", d) for d in INTS},
    "integers below 10": Made("integers", np.dtype("i8"), (("low", 10),)),
    "integers rejected": Made("integers", np.dtype("i8"), (("low", -(2**62)), ("high", 2**63 - 9))),
    "integers, one bit more": Made("integers", np.dtype("u8"), (("high", 2**63 + 1), ("low", 0))),
    "integers small": Made("integers", np.dtype("i1"), (("low", -100), ("high", 100))),
}
makers = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)


# ---- the oracle itself


def known_answers():
    for line in (Path(__file__).parent / "data" / "philox4x32_kat.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        rounds, *words = line.split()
        numbers = [int(word, 16) for word in words]
        yield int(rounds), numbers[:4], numbers[4:6], numbers[6:]


def test_philox_known_answers():
    vectors = list(known_answers())
    assert sorted(rounds for rounds, *_ in vectors) == [7, 7, 7, 10, 10, 10]
    for rounds, counter, key, result in vectors:
        assert ref.random.philox4x32(counter, key, rounds).tolist() == result


def test_known_answers_through_the_surface():
    """Counter 0 of stream 0 with key 0: word w is that of element 16 w."""
    [words] = [w for rounds, c, k, w in known_answers() if rounds == 10 and not any(c + k)]
    got = rl.random.uniform(64, rl.Key(0), dtype=np.float32)
    assert [int(u * 2**24) for u in got[::16]] == [word >> 8 for word in words]
    # words 32 and 33 are the third of counters 0 and 1
    low, high = (int(ref.random.philox4x32((c, 0, 0, 0), (0, 0))[2]) for c in (0, 1))
    assert low == words[2]
    assert rl.random.uniform(17, rl.Key(0), dtype=np.float64)[16] == (
        ((high << 32 | low) >> 11) * 2.0**-53
    )


def exact_box_muller(u, v, n):
    """Of 60 digits: the cosine and the sine by their series, after the same exact reduction."""
    with localcontext() as context:
        context.prec = 60
        radius = (-2 * ((Decimal(u) + Decimal("0.5")) / 2**n).ln()).sqrt()
        pi = 4 * (4 * arctan(Decimal(1) / 5) - arctan(Decimal(1) / 239))  # Machin
        result = []
        for shift in (0, 2 ** (n - 2)):  # sin x = cos(x - pi/2)
            angle = 2 * pi * Decimal((v - shift) % 2**n - 2 ** (n - 1)) / 2**n  # and minus pi
            term = total = Decimal(-1)
            for k in range(1, 60):
                term *= -angle * angle / ((2 * k - 1) * (2 * k))
                total += term
            # cos(quarter turns) is exactly 0
            exact_zero = (v - shift) % 2 ** (n - 1) == 2 ** (n - 2)
            result.append(0.0 if exact_zero else float(radius * total))
        return result


def arctan(x):
    total, power, k = Decimal(0), x, 1
    while abs(power) > Decimal("1e-65"):
        total += power / k
        power *= -x * x
        k += 2
    return total


@pytest.mark.parametrize("n", [32, 64])
def test_oracle_of_normal_to_many_digits(n):
    rng = np.random.default_rng(1)
    top, quarter = 2**n, 2 ** (n - 2)
    us = [0, 1, top // 2 - 1, top // 2, top - 2, top - 1, top - 2**12, top - 2 ** (n // 2)]
    vs = [(q * quarter + d) % top for q in range(4) for d in (-3, -1, 0, 1, quarter // 2, 12345)]
    us += [int(u) for u in rng.integers(0, 2**63, 20) >> (63 - n if n < 63 else 0)]
    for u, v in itertools.product(us, vs):
        got = np.array(ref.random.box_muller(u, v, n))
        np.testing.assert_allclose(got, exact_box_muller(u, v, n), rtol=1e-15, atol=0)


@pytest.mark.parametrize("span", [1, 2, 3, 10, 2**32 - 1, 2**32, 2**62 + 1, 3 * 2**62, 2**64])
def test_oracle_of_integers_one_at_a_time(span):
    got = ref.random.integers(200, 7, 0, span, dtype=np.uint64)
    attempts = 0
    for i, value in enumerate(got.tolist()):
        for attempt in itertools.count():
            m = int(ref.random.double_words(7, ref.random.INTEGERS, i, attempt)) * span
            if m % 2**64 >= 2**64 % span:
                break
            attempts += 1
        assert value == m >> 64
    assert (attempts > 0) == (span in (2**62 + 1, 3 * 2**62))


def test_oracle_indices():
    whole = np.arange(5 * 6 * 4, dtype=np.uint64).reshape(5, 6, 4) + np.uint64(9)
    for index in (None, 2, -1, ..., np.s_[1:], np.s_[..., ::-2], np.s_[3, ..., 1], np.s_[::2, 5:1]):
        expected = whole if index is None else whole[index]
        assert bits(ref.random.indices((5, 6, 4), 9, index)) == bits(np.asarray(expected))
        assert ref.random.indices((5, 6, 4), 9, index).shape == expected.shape


# ---- keys


def test_keys_are_values():
    for seed in SEEDS:
        key = rl.Key(seed)
        assert key.seed == seed
        assert isinstance(key.seed, int)
        assert repr(key) == f"Key({seed})"
        assert eval(repr(key), {"Key": rl.Key}) == key
        for same in (rl.Key(seed), copy.copy(key), copy.deepcopy(key)):
            assert same == key
            assert not (same != key)  # noqa: SIM202
            assert hash(same) == hash(key)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            same = pickle.loads(pickle.dumps(key, protocol))
            assert type(same) is rl.Key
            assert same == key
    assert len({rl.Key(seed) for seed in SEEDS * 2}) == len(SEEDS)
    assert rl.Key(1) != rl.Key(2)
    assert rl.Key(1) != 1
    assert 1 != rl.Key(1)  # noqa: SIM300
    assert rl.Key(1) != "Key(1)"
    assert rl.Key(1) != None  # noqa: E711
    assert rl.Key(np.uint64(2**64 - 1)) == rl.Key(2**64 - 1)
    assert rl.Key(np.int8(5)) == rl.Key(seed=5)


def test_keys_do_not_change():
    key = rl.Key(1)
    with pytest.raises(AttributeError):
        key.seed = 2
    with pytest.raises(AttributeError):
        key.other = 2
    with pytest.raises(AttributeError):
        del key.seed
    with pytest.raises(TypeError):
        key < rl.Key(2)  # noqa: B015
    assert key.seed == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_derived_keys(seed):
    key = rl.Key(seed)
    for data in [0, 1, 7, 2**32 - 1, 2**32, 2**64 - 1]:
        child = key.fold_in(data)
        assert type(child) is rl.Key
        assert child.seed == ref.random.fold_in(seed, data)
    assert key.fold_in(np.int64(7)) == key.fold_in(7)
    assert [child.seed for child in key.split(50)] == ref.random.split(seed, 50)
    assert key.split() == key.split(2) == key.split(50)[:2]
    assert isinstance(key.split(), list)
    assert key.split(0) == []
    assert key.split(n=np.int32(1)) == key.split(1)
    assert key == rl.Key(seed)


def test_derived_keys_differ():
    keys = [KEY, *KEY.split(1000), *map(KEY.fold_in, range(1000))]
    keys += [child for key in KEY.split(20) for child in (*key.split(20), key.fold_in(0))]
    assert len(set(keys)) == len(keys)


NOT_INTEGERS = [1.0, "1", None, True, np.True_, 1j, [1], np.array([1, 2]), np.float64(3)]


@pytest.mark.parametrize("bad", NOT_INTEGERS, ids=repr)
def test_integers_only(bad):
    with pytest.raises(TypeError, match=r"^seed: got .*, wants"):
        rl.Key(bad)
    with pytest.raises(TypeError, match=r"^data: got .*, wants"):
        KEY.fold_in(bad)
    with pytest.raises(TypeError, match=r"^n: got .*, wants"):
        KEY.split(bad)


def test_keys_out_of_range():
    for bad in (-1, 2**64, 10**30, -(10**30)):
        with pytest.raises(ValueError, match=r"^seed: got .*, wants"):
            rl.Key(bad)
        with pytest.raises(ValueError, match=r"^data: got .*, wants"):
            KEY.fold_in(bad)
    with pytest.raises(ValueError, match=r"^n: got -1, wants"):
        KEY.split(-1)
    with pytest.raises(TypeError):
        rl.Key()


# ---- against the oracle


@makers
def test_oracle(maker):
    for shape in [(1000,), 100, (7, 5, 9), (2, 0), (), (0,), (4096,), (1, 1)]:
        maker.check(maker(shape), maker.oracle(shape))
    big = maker(SHARED, offset=3)
    for part in (np.s_[:2000], np.s_[-2000:], np.s_[262_000:263_000]):
        maker.check(big[part], maker.oracle(SHARED, offset=3, index=part))


@makers
def test_keys_and_offsets(maker):
    for seed in SEEDS:
        maker.check(maker(500, rl.Key(seed)), maker.oracle(500, seed))
    for offset in OFFSETS:
        maker.check(maker((2, 100), offset=offset), maker.oracle((2, 100), offset=offset))


@makers
def test_every_start_and_length(maker):
    whole = maker(400)
    for start in [*range(70), 127, 128, 129]:
        for n in (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 131, 200):
            got = maker(n, offset=start)
            assert bits(got) == bits(whole[start : start + n]), (start, n)
    for n in range(131):
        assert bits(maker(n)) == bits(whole[:n])


@makers
def test_targets_and_threads(maker):
    sizes = [*range(0, 131, 5), 4095, 4097, SHARED]
    every_setting(lambda: bits([maker(n, offset=n % 37) for n in sizes]))


def test_more_than_the_caches_hold():
    """Large results may be written in another way."""
    n = 2**22 + 77
    for maker in (MAKERS["uniform float32"], MAKERS["integers uint64"], MAKERS["normal float64"]):
        whole = maker(n)
        for start in range(0, n, 2**17 - 5):
            part = whole[start : start + 2**17 - 5]
            assert bits(part) == bits(maker(len(part), offset=start))


@dtypes
def test_uniform_is_on_its_grid(dtype):
    levels = {2: 2**8 if dtype == BFLOAT16 else 2**11, 4: 2**24, 8: 2**53}[dtype.itemsize]
    u = rl.random.uniform(2**18, KEY, dtype=dtype).astype(np.float64)
    assert np.all((u >= 0) & (u < 1))
    assert np.all(u * levels == np.floor(u * levels))
    if levels <= 2**11:
        assert np.array_equal(np.unique(u), np.arange(levels) / levels)
    assert np.any(u * levels % 2 == 1)


#: indices of key 42 with U or V at an end, found by looking at 2^33 words: (index, U, V)
EXTREMES = [
    (1669635681, 0x00000000, 0x6A809420),
    (2707010377, 0x00000001, 0xB981C92C),
    (6414110275, 0xFFFFFFFF, 0x3ADB3A4B),
    (567748738, 0x03159FC5, 0x40000000),
    (4899751116, 0x3AFF52D0, 0x80000000),
    (1648915019, 0xF94D8D58, 0xC0000000),
]


@pytest.mark.parametrize(("i", "u", "v"), EXTREMES)
def test_normal_at_the_ends(i, u, v):
    words = ref.random.words(KEY, ref.random.NORMAL, [i, i + 16])
    assert words.tolist() == [u, v]
    exact = exact_box_muller(u, v, 32)
    for dtype in (np.float32, np.float16, BFLOAT16):
        got = rl.random.normal(17, KEY, dtype=dtype, offset=i)[[0, 16]]
        assert_ulp(got, exact, dtype, NORMAL_ULP)
    if v % 2**30 == 0:
        assert 0 in rl.random.normal(17, KEY, offset=i)[[0, 16]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_smallest_and_largest_normal_numbers(dtype):
    """The bound is relative, so that it holds near 0 too."""
    n = 2**20
    got = rl.random.normal(n, KEY, dtype=dtype)
    order = np.argsort(np.abs(got))
    ends = np.concatenate([order[:2000], order[-2000:]])
    exact = ref.random.standard_normal(KEY, ends, dtype)
    assert_ulp(got[ends], exact, dtype, NORMAL_ULP)
    assert np.abs(exact[0]) < 5e-6
    assert np.abs(exact[-1]) > 4.5


@dtypes
def test_mean_and_std(dtype):
    """mean + std z in the type of the arithmetic, rounded after each operation."""
    number = np.float64 if dtype == np.float64 else np.float32
    z = rl.random.normal(1000, KEY, dtype=number)
    for mean, std in [(0.0, 1.0), (3.0, 0.1), (-1e3, 1e-3), (0.1, 0.0), (1, 2), (0.0, 1e30)]:
        got = rl.random.normal(1000, KEY, mean=mean, std=std, dtype=dtype)
        with np.errstate(over="ignore"):
            expected = (number(mean) + number(std) * z).astype(dtype)
        assert bits(got) == bits(expected)
    assert np.all(rl.random.normal(5, KEY, mean=2.5, std=0) == 2.5)


def test_normal_of_a_dtype_is_rounded_from_float32():
    z = rl.random.normal(5000, KEY, dtype=np.float32)
    for dtype in (BFLOAT16, np.dtype(np.float16)):
        assert bits(rl.random.normal(5000, KEY, dtype=dtype)) == bits(z.astype(dtype))


def test_integers_do_not_depend_on_the_dtype():
    values = rl.random.integers(2000, KEY, 0, 100)
    assert values.dtype == np.int64
    for dtype in INTS:
        assert np.array_equal(rl.random.integers(2000, KEY, 100, dtype=dtype), values)
    assert np.array_equal(rl.random.integers(2000, KEY, -50, 50), values - 50)
    assert np.array_equal(rl.random.integers(2000, KEY, 2**62, 2**62 + 100), values + 2**62)
    top = rl.random.integers(2000, KEY, 2**64 - 100, 2**64, dtype=np.uint64)
    assert np.array_equal(top - np.uint64(2**64 - 100), values)


def test_integers_of_the_whole_range_are_the_words():
    words = ref.random.double_words(KEY, ref.random.INTEGERS, np.arange(1000))
    for dtype in INTS:
        got = rl.random.integers(1000, KEY, dtype=dtype)
        first = words >> np.uint64(64 - 8 * dtype.itemsize)
        low = 2 ** (8 * dtype.itemsize - 1) if dtype.kind == "i" else 0
        assert [int(x) + low for x in got] == first.tolist()
        info = np.iinfo(dtype)
        whole = rl.random.integers(1000, KEY, int(info.min), int(info.max) + 1, dtype=dtype)
        assert bits(got) == bits(whole)
    one = rl.random.integers(50, KEY, 7, 8)
    assert one.tolist() == [7] * 50
    assert rl.random.integers(50, KEY, 1).tolist() == [0] * 50


@pytest.mark.parametrize("p", [0.0, 1.0, 0.5, 0.25, 2.0**-32, 2.0**-33, 1 - 2.0**-33, 1e-300])
def test_bernoulli_at_round_numbers(p):
    got = rl.random.bernoulli(100_000, KEY, p)
    assert got.dtype == bool
    assert bits(got) == bits(ref.random.bernoulli(100_000, KEY, p))
    if p in (0.0, 2.0**-33, 1e-300):
        assert not got.any()
    if p == 1:
        assert got.all()
    assert bits(rl.random.bernoulli(100, KEY)) == bits(rl.random.bernoulli(100, KEY, 0.5))


def test_bernoulli_of_other_dtypes():
    expected = rl.random.bernoulli((30, 7), KEY, 0.3)
    for dtype in (*INTS, np.float32, np.float64, np.float16):
        got = rl.random.bernoulli((30, 7), KEY, 0.3, dtype=dtype)
        assert bits(got) == bits(expected.astype(dtype))


def test_bernoulli_flips_where_the_numbers_of_an_element_say():
    """An element with the number u of 32 bits is dropped for p = (u + 1) / 2^32, not for u / 2^32.

    With these p its byte is always that of the threshold, and the other 24 bits decide.
    """
    i = np.arange(300, dtype=np.uint64)
    byte = (ref.random.words(KEY, ref.random.CHOICE, i // 4) >> (8 * (i % 4)).astype("u4")) & 255
    counter = (i & np.uint64(2**32 - 1), i >> np.uint64(32), ref.random.TIES, 0)
    rest = ref.random.philox4x32(counter, (42, 0))[0] >> np.uint32(8)
    for at, u in enumerate((byte.astype(np.uint64) << np.uint64(24) | rest).tolist()):
        below, above = (
            rl.random.bernoulli(i.size, KEY, p)
            for p in (math.nextafter((u + 1) / 2**32, 0), (u + 1) / 2**32)
        )
        assert (below[at], above[at]) == (False, True)
        assert not np.any(below & ~above)  # what is dropped stays dropped as p grows


def test_no_number_of_32_bits_is_lost_in_the_decision():
    """Counted: of the 2^32 pairs of a byte and 24 more bits, exactly T are below T."""
    rng = np.random.default_rng(2)
    ends = [0, 1, 255, 256, 2**24 - 1, 2**24, 2**24 + 1, 2**32 - 2**24, 2**32 - 1, 2**32]
    rests, some = np.arange(2**24, dtype=np.uint32), np.array([0, 1, 2**23, 2**24 - 1])
    for threshold in [*ends, *rng.integers(0, 2**32, 5).tolist()]:
        count = 0
        for byte in range(256):
            below = ref.random.is_below(byte, some, threshold)
            if below.all() or not below.any():  # as all numbers between these: it is monotone
                count += 2**24 * bool(below[0])
            else:
                count += int(np.sum(ref.random.is_below(byte, rests, threshold)))
        assert count == threshold


# ---- pieces


@st.composite
def indexed(draw):
    """A shape, and an index into it as NumPy has them."""
    extents = st.sampled_from([7, 5, 4, 3, 2, 1, 0])
    shape = tuple(draw(st.lists(extents, min_size=draw(st.integers(0, 3)), max_size=4)))
    items = []
    for n in shape:
        bound = st.one_of(st.none(), st.integers(-n - 2, n + 2))
        step = st.sampled_from([-1, 2, None, 1, 3, -2])
        item = st.builds(slice, bound, bound, step)
        items.append(draw(st.one_of(item, st.integers(-n, n - 1)) if n else item))
    if draw(st.booleans()):
        low, high = sorted([draw(st.integers(0, len(items))) for _ in range(2)])
        items[low:high] = [...]
    else:
        items = items[: draw(st.integers(0, len(items)))]
    if len(items) == 1 and draw(st.booleans()):
        return shape, items[0]
    return shape, tuple(items)


PIECES = ["uniform float32", "normal float64", "bernoulli 0.3", "integers rejected"]


def check_index(shape, index, offset=0):
    for name in PIECES:
        whole = MAKERS[name](shape, offset=offset)
        got = MAKERS[name](shape, offset=offset, index=index)
        expected = np.asarray(whole[index])
        assert got.shape == expected.shape
        assert bits(got) == bits(expected)


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        ...,
        (),
        np.s_[::-1],
        np.s_[4:1:-1],
        np.s_[:, ::-2],
        np.s_[..., ::-1],
        np.s_[1:9, 2, ::-3],
        np.s_[-2:, ..., -1],
        np.s_[:0],
        np.s_[5, :, :],
        np.s_[0, 1, 2],
        np.s_[2:3, 3:4, 1:2],
    ],
    ids=repr,
)
def test_indices(index):
    check_index((9, 6, 20), index)
    check_index((9, 6, 20), index, 2**34 - 300)


@settings(max_examples=150, deadline=None)
@given(indexed(), st.sampled_from([0, 5, 2**34 - 20]))
def test_index_is_that_of_numpy(indexed, offset):
    check_index(*indexed, offset)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(PIECES))
def test_shards_are_the_whole(data, name):
    shape = tuple(data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    cuts = [
        [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=2))), n]  # some are empty
        for n in shape
    ]
    whole = MAKERS[name](shape)
    put_together = np.zeros_like(whole)
    for corner in itertools.product(*(itertools.pairwise(c) for c in cuts)):
        index = tuple(slice(*pair) for pair in corner)
        put_together[index] = MAKERS[name](shape, index=index)
    assert bits(put_together) == bits(whole)
    flat = whole.ravel()
    cut = data.draw(st.integers(0, flat.size))
    parts = [MAKERS[name](cut), MAKERS[name](flat.size - cut, offset=cut)]
    assert bits(np.concatenate(parts)) == bits(flat)


def test_a_piece_of_what_does_not_fit_into_memory():
    shape = (2**20, 3, 2**20)
    for index in (np.s_[5:7, 1, -3:], np.s_[-1, ..., :40], np.s_[:: 2**18, :, 2**19]):
        for name in PIECES:
            MAKERS[name].check(
                np.asarray(MAKERS[name](shape, index=index)),
                np.asarray(MAKERS[name].oracle(shape, index=index)),
            )


@makers
def test_large_pieces(maker):
    """Long enough to be shared out, rows apart."""
    shape, index = (700, 900), np.s_[10:690, 100:800]
    whole = maker(shape, offset=7)
    every_setting(lambda: bits(maker(shape, offset=7, index=index)) == bits(whole[index]), [1, 3])
    assert bits(maker(shape, offset=7, index=index)) == bits(whole[index])


# ---- out


@makers
@layouts
def test_layouts_of_out(maker, layout):
    for shape in [(3, 5, 7), (40, 33, 50)]:
        expected = maker(shape)
        out, intact = LAYOUTS[layout](np.zeros(shape, maker.dtype))
        assert maker(shape, out=out) is out
        assert bits(out) == bits(expected)
        assert intact()


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([*PIECES, "uniform bfloat16", "integers int8"]))
def test_any_strides_of_out(data, name):
    maker = MAKERS[name]
    shape, place_out = data.draw(placements())
    out, intact = place_out(np.zeros(shape, maker.dtype))
    maker(shape, offset=9, out=out)
    assert bits(out) == bits(maker(shape, offset=9))
    assert intact()


@makers
def test_out(maker):
    out = np.ones((4, 50), maker.dtype)
    assert maker((4, 50), out=out, dtype=None) is out  # its dtype
    assert bits(out) == bits(maker((4, 50)))
    part, intact = place(np.zeros((2, 3), maker.dtype), np.s_[:, ::2], (2, 6))
    maker((4, 50), out=part, index=np.s_[1:3, 7:10], offset=11)
    assert bits(part) == bits(maker((4, 50), offset=11)[1:3, 7:10])
    assert intact()
    nothing = np.zeros((0, 3), maker.dtype)
    assert maker((0, 3), out=nothing) is nothing
    scalar = np.zeros((), maker.dtype)
    maker((), out=scalar)
    assert bits(scalar) == bits(maker(()))
    assert maker(()).shape == ()
    other = np.zeros((4, 50), np.int16 if maker.dtype != np.int16 else np.int32)
    for bad, error in [
        (np.ones((50, 4), maker.dtype), ValueError),
        (np.ones(200, maker.dtype), ValueError),
        (other, TypeError),
        ([[0.0] * 50] * 4, (TypeError, ValueError)),
        (3.0, TypeError),
        (np.broadcast_to(np.ones(1, maker.dtype), (4, 50)), ValueError),
        (np.lib.stride_tricks.as_strided(out, (4, 50), (out.itemsize, out.itemsize)), ValueError),
    ]:
        with pytest.raises(error, match=r"^(out|dtype)"):
            maker((4, 50), out=bad)
    read_only = np.ones((4, 50), maker.dtype)
    read_only.flags.writeable = False
    with unchanged(read_only), pytest.raises(ValueError, match=r"^out"):
        maker((4, 50), out=read_only)


TORCH = [
    *(m for m in MAKERS.values() if m.name in ("uniform", "normal")),
    MAKERS["bernoulli 0.3"],
    *(MAKERS[f"integers {d}"] for d in ("int8", "int16", "int32", "int64", "uint8")),
]


@pytest.mark.parametrize("maker", TORCH, ids=lambda m: f"{m.name} {m.dtype}")
def test_torch_out(maker):
    torch = pytest.importorskip("torch")
    out = to_torch(np.zeros((30, 20), maker.dtype))
    version = out._version
    assert maker((30, 20), out=out, dtype=None) is out
    assert out._version > version
    assert bits(from_torch(out)) == bits(maker((30, 20)))
    base = torch.zeros((40, 30), dtype=out.dtype)
    view = base.t()[::2, 3:33]
    assert maker((15, 30), out=view, dtype=None) is view
    assert bits(from_torch(view.contiguous())) == bits(maker((15, 30)))
    view.zero_()
    assert not base.any()


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int16", "int64", "float16", "bfloat16", "float32", "float64", "complex64"],
)
def test_bernoulli_into_any_tensor(dtype):
    torch = pytest.importorskip("torch")
    expected = rl.random.bernoulli((30, 20), KEY, 0.3)
    base = torch.full((40, 30), 7, dtype=getattr(torch, dtype))
    view = base.t()[:, 3:23]
    version = base._version
    assert rl.random.bernoulli((30, 20), KEY, 0.3, out=view) is view
    assert base._version > version
    assert np.array_equal(view.to(torch.bool).numpy(), expected)
    assert view.to(torch.complex64).real.sum() == expected.sum()
    rest = base.clone()
    rest.t()[:, 3:23] = 7
    assert (rest == torch.full_like(base, 7)).all()


def test_torch_outs_that_cannot_be_written():
    torch = pytest.importorskip("torch")
    for make in (rl.random.bernoulli, rl.random.integers, rl.random.uniform):
        dtype = torch.int64 if make is rl.random.integers else torch.float32
        for bad in (
            torch.zeros(3, dtype=dtype, device="meta"),
            torch.zeros(3, dtype=dtype).to_sparse(),
            torch.zeros(1, dtype=dtype).expand(3),
            torch.zeros(3, dtype=dtype).as_strided((3,), (0,)),
        ):
            with pytest.raises((TypeError, ValueError), match=r"^out: got "):
                make(3, KEY, out=bad)


def test_torch_out_that_requires_grad():
    torch = pytest.importorskip("torch")
    for make in (rl.random.uniform, rl.random.normal, rl.random.bernoulli):
        out = torch.full((3,), 9.0, requires_grad=True)
        with pytest.raises(rl.RequiresGradError, match=r"^out"):
            make(3, KEY, out=out)
        assert out.tolist() == [9, 9, 9]
        with torch.no_grad():
            make(3, KEY, out=out)
        assert out.tolist() == make(3, KEY).tolist()


def test_jax_out_is_never_written():
    jnp = pytest.importorskip("jax.numpy")
    out = jnp.full((3,), 9.0)
    with pytest.raises((TypeError, ValueError), match=r"^out"):
        rl.random.uniform(3, KEY, out=out)
    assert out.tolist() == [9, 9, 9]


# ---- defaults and errors


def test_defaults():
    assert rl.random.uniform(3, KEY).dtype == np.float32
    assert rl.random.normal((3,), KEY).dtype == np.float32
    assert rl.random.bernoulli([2, 3], KEY).dtype == bool
    assert rl.random.integers(3, KEY).dtype == np.int64
    assert rl.random.uniform((np.int64(2), 3), KEY).shape == (2, 3)
    assert rl.random.uniform(np.int32(4), KEY).shape == (4,)
    assert bits(rl.random.uniform(3, KEY, dtype="float64")) == bits(
        rl.random.uniform(3, KEY, dtype=np.float64)
    )
    assert bits(rl.random.integers(9, KEY, high=5)) == bits(rl.random.integers(9, KEY, 0, 5))
    assert bits(rl.random.uniform(9, KEY, offset=np.uint8(3))) == bits(
        rl.random.uniform(12, KEY)[3:]
    )
    result = rl.random.uniform((2, 3), KEY)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert result.flags.owndata or result.base is not None


EVERY = [MAKERS["uniform float32"], MAKERS["normal float32"], MAKERS["bernoulli 0.3"]]
EVERY += [MAKERS["integers int64"]]
every = pytest.mark.parametrize("maker", EVERY, ids=lambda m: m.name)


@every
def test_errors_of_all(maker):
    out = np.zeros(4, maker.dtype)
    with unchanged(out):
        for bad in (42, None, "key", 1.0, np.uint64(3), [KEY]):
            kind = type(bad).__name__
            with pytest.raises(TypeError, match=rf"^key: got .*{kind}.*, wants ridgeline\.Key"):
                maker(4, bad, out=out)
        for bad in ("4", 4.0, None, (2.0, 2), ("2", 2)):
            with pytest.raises(TypeError, match=r"^shape: got .*, wants"):
                maker(bad, out=out)
        for bad in (-1, (2, -2), (-4,)):
            with pytest.raises(ValueError, match=r"^shape: got .*, wants"):
                maker(bad, out=out)
        for bad in (1.0, "1", None, True, np.array([1, 2])):
            with pytest.raises(TypeError, match=r"^offset: got .*, wants"):
                maker(4, offset=bad, out=out)
        with pytest.raises(ValueError, match=r"^offset: got -1, wants"):
            maker(4, offset=-1, out=out)
        for bad in (1.5, "1", np.s_[:, :], (0, 0), 4, -5, [0, 1], np.array([True] * 4), (..., ...)):
            with pytest.raises((TypeError, ValueError, IndexError), match=r"^index: got"):
                maker(4, index=bad)
        with pytest.raises((TypeError, ValueError), match=r"^index"):
            maker(4, index=np.s_[::0])
        wrong = () if maker.name == "bernoulli" else (complex, object, np.longdouble, "M8[s]", "S3")
        for bad in ("no such type", 3, *wrong):
            with pytest.raises((TypeError, ValueError), match=r"^dtype"):
                maker(4, dtype=bad)
        with pytest.raises(TypeError):
            maker(4, KEY, nonsense=1)


def test_dtypes_that_are_refused():
    for make in (rl.random.uniform, rl.random.normal):
        for bad in (bool, *INTS):
            with pytest.raises((TypeError, ValueError), match=r"^dtype"):
                make(4, KEY, dtype=bad)
    for bad in (bool, *DTYPES):
        with pytest.raises((TypeError, ValueError), match=r"^dtype"):
            rl.random.integers(4, KEY, dtype=bad)
    with pytest.raises((TypeError, ValueError), match=r"^dtype"):
        rl.random.uniform(4, KEY, dtype=np.dtype(np.float32).newbyteorder())


NOT_NUMBERS = ["0.1", True, np.True_, None, [0.1], 1j, np.array([0.1, 0.2])]


def test_errors_of_normal():
    for name in ("mean", "std"):
        for bad in NOT_NUMBERS:
            with pytest.raises(TypeError, match=rf"^{name}: got .*, wants"):
                rl.random.normal(4, KEY, **{name: bad})
        for bad in (math.nan, math.inf, -math.inf, *([-0.1] if name == "std" else [])):
            with pytest.raises(ValueError, match=rf"^{name}: got .*, wants"):
                rl.random.normal(4, KEY, **{name: bad})


def test_errors_of_bernoulli():
    out = np.zeros(4, bool)
    with unchanged(out):
        for bad in NOT_NUMBERS:
            with pytest.raises(TypeError, match=r"^p: got .*, wants"):
                rl.random.bernoulli(4, KEY, bad, out=out)
        for bad in (-0.1, 1.1, math.nan, math.inf, -1e-300, np.nextafter(1, 2)):
            with pytest.raises(ValueError, match=r"^p: got .*, wants"):
                rl.random.bernoulli(4, KEY, bad, out=out)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "error", "named"),
    [
        (5, 5, None, ValueError, "low|high"),
        (5, 4, None, ValueError, "low|high"),
        (0, None, None, ValueError, "low|high"),
        (-3, None, None, ValueError, "low|high"),
        (None, 0, None, ValueError, "low|high"),
        (0, 2**63 + 1, None, ValueError, "low|high"),
        (-(2**63) - 1, 0, None, ValueError, "low|high"),
        (-1, 5, np.uint64, ValueError, "low|high"),
        (0, 2**64 + 1, np.uint64, ValueError, "low|high"),
        (0, 129, np.int8, ValueError, "low|high"),
        (-129, 0, np.int8, ValueError, "low|high"),
        (0, 10**30, None, ValueError, "low|high"),
        (300, None, np.uint8, ValueError, "low|high"),
        (1.0, None, None, TypeError, "low|high"),
        (0, 5.0, None, TypeError, "high"),
        ("0", 5, None, TypeError, "low"),
        (True, 5, None, TypeError, "low"),
        (0, True, None, TypeError, "high"),
    ],
)
def test_errors_of_integers(low, high, dtype, error, named):
    with pytest.raises(error, match=rf"^({named}): got .*, wants"):
        rl.random.integers(4, KEY, low, high, dtype=dtype)


# ---- the laws of probability
#
# Keys are fixed, so a test passes always or never. Bounds are those a truly random source would
# break once in a million.

Z = NormalDist().inv_cdf(1 - 0.5e-6)
N = 2**20


def assert_normal(value, mean, variance):
    assert abs(value - mean) <= Z * math.sqrt(variance), (value, mean, math.sqrt(variance))


def assert_chi_square(counts, expected):
    """Pearson's test by the cube root of Wilson & Hilferty (1931); too even is as unlikely."""
    counts, expected = np.broadcast_arrays(np.asarray(counts, float), expected)
    assert np.min(expected) >= 20
    freedom = counts.size - 1
    value = float(np.sum((counts - expected) ** 2 / expected))
    assert_normal((value / freedom) ** (1 / 3), 1 - 2 / (9 * freedom), 2 / (9 * freedom))


def assert_poisson(count, mean):
    """By the tails added up."""
    term, below = math.exp(-mean), 0.0
    low = high = None
    for k in itertools.count():
        below += term
        low = k if low is None and below > 0.5e-6 else low
        if 1 - below < 0.5e-6:
            high = k
            break
        term *= mean / (k + 1)
    assert low <= count <= high, (count, low, high)


def test_the_bounds():
    """What the statistical tests trust: they refuse what is off by a little more than chance."""
    assert pytest.approx(4.8916, abs=1e-4) == Z
    assert_normal(4.8, 0, 1)
    assert_poisson(256, 256.0)
    even = np.full(100, 1000.0)
    assert_chi_square(even + 31.6 * np.array([1, -1] * 50), 1000)
    for check in (
        lambda: assert_normal(5.0, 0, 1),
        lambda: assert_poisson(350, 256.0),
        lambda: assert_poisson(180, 256.0),
        lambda: assert_chi_square(even, 1000),
        lambda: assert_chi_square(even + 45 * np.array([1, -1] * 50), 1000),
    ):
        with pytest.raises(AssertionError):
            check()


def words_of(key, n=N):
    return rl.random.integers(n, key, dtype=np.uint64)


#: sources of 32 random bits
SOURCES = {
    "integers": lambda n, key=KEY: rl.random.integers(n, key, dtype=np.uint32),
    "lower half of integers": lambda n, key=KEY: (words_of(key, n) & 0xFFFFFFFF).astype("u4"),
    "uniform": lambda n, key=KEY: (rl.random.uniform(n, key, dtype=np.float64) * 2.0**32).astype(
        "u4"
    ),
    "words of uniform": lambda n, key=KEY: (
        # two of 24 bits: the first 16 of each
        lambda u: (u[0::2] << np.uint32(8)) & np.uint32(0xFFFF0000) | u[1::2] >> np.uint32(8)
    )((rl.random.uniform(2 * n, key) * 2**24).astype("u4")),
    "choices": lambda n, key=KEY: np.packbits(rl.random.bernoulli(32 * n, key)).view("u4"),
    "large seed": lambda n, key=None: rl.random.integers(n, rl.Key(2**63 + 5), dtype=np.uint32),
}
sources = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@sources
def test_bits_are_even(source):
    x = source(N)
    for bit in range(32):
        assert_normal(np.sum(x >> np.uint32(bit) & 1), N / 2, N / 4)
    for shift in (0, 10, 22):
        assert_chi_square(np.bincount(x >> np.uint32(shift) & 1023, minlength=1024), N / 1024)


@sources
def test_pairs_and_triples(source):
    """The serial test: tuples of neighbours fill a cube evenly; at other distances, pairs do."""
    x = source(N) >> np.uint32(27)
    for lag in (1, 2, 3, 4, 7, 8, 15, 16, 17, 32, 48, 64, 128, 1024):
        a = x[: N // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
        pairs = (a[:, 0] * 32 + a[:, 1]).ravel()
        assert_chi_square(np.bincount(pairs, minlength=1024), pairs.size / 1024)
    a = x[: N // 3 * 3].reshape(-1, 3)
    coarse = (a >> 1) @ np.array([256, 16, 1], a.dtype)
    assert_chi_square(np.bincount(coarse, minlength=4096), len(a) / 4096)


@sources
def test_runs(source):
    """Of bits equal to their neighbour (Wald & Wolfowitz), and of rising or falling numbers."""
    x = source(N)
    for bit in (31, 20, 0):
        b = x >> np.uint32(bit) & 1
        assert_normal(1 + np.sum(b[1:] != b[:-1]), 1 + (N - 1) / 2, (N - 1) / 4)
    rising = x[1:] > x[:-1]
    assert_normal(1 + np.sum(rising[1:] != rising[:-1]), (2 * N - 1) / 3, (16 * N - 29) / 90)


@sources
def test_serial_correlation(source):
    u = source(N) * 2.0**-32 - 0.5
    for lag in (*range(1, 34), 48, 63, 64, 65, 127, 128, 256, 1000, 1024, 4096, 65536):
        assert_normal(np.dot(u[lag:], u[:-lag]) * 12, 0, N - lag)


@sources
def test_birthday_spacings(source):
    """Marsaglia & Tsang (2002): equal spacings among 4096 birthdays in 2^32 days are Poisson."""
    days, rounds = 4096, 64
    birthdays = np.sort(source(days * rounds).reshape(rounds, days).astype(np.int64), axis=1)
    spacings = np.sort(np.diff(birthdays, axis=1), axis=1)
    equal = int(np.sum(spacings[:, 1:] == spacings[:, :-1]))
    assert_poisson(equal, rounds * days**3 / (4 * 2**32))


@dtypes
def test_moments_of_uniform(dtype):
    levels = {2: 2**8 if dtype == BFLOAT16 else 2**11, 4: 2**24, 8: 2**53}[dtype.itemsize]
    u = rl.random.uniform(4 * N, KEY, dtype=dtype).astype(np.float64)
    for k in (1, 2, 3, 4):
        if levels <= 2**11:
            mean, square = (float(np.mean((np.arange(levels) / levels) ** m)) for m in (k, 2 * k))
        else:
            mean, square = 1 / (k + 1) - 0.5 / levels, 1 / (2 * k + 1)
        assert_normal(np.mean(u**k), mean, (square - mean**2) / u.size)
    bins = np.bincount((u * 256).astype(int), minlength=256)
    assert_chi_square(bins, u.size / 256)


def double_factorial(n):
    return math.prod(range(n, 0, -2))


@dtypes
def test_moments_of_normal(dtype):
    z = rl.random.normal(4 * N, KEY, dtype=dtype).astype(np.float64)
    # rounding to a half type adds a variance of about eps^2 / 24 z^2: below chance here
    for k in (1, 2, 3, 4, 6):
        mean = 0 if k % 2 else double_factorial(k - 1)
        bias = 0 if not is_half(dtype) or k % 2 else mean * k * k * 2.0**-16 / 24
        got = float(np.mean(z**k))
        assert abs(got - mean) <= bias + Z * math.sqrt(
            (double_factorial(2 * k - 1) - mean**2) / z.size
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distribution_of_normal(dtype):
    z = rl.random.normal(4 * N, KEY, dtype=dtype).astype(np.float64)
    law = NormalDist()
    edges = np.array([law.inv_cdf(k / 1024) for k in range(1, 1024)])
    assert_chi_square(np.bincount(np.searchsorted(edges, z), minlength=1024), z.size / 1024)
    for limit in (1.0, 2.0, 3.0, 4.0, 4.5):
        outside = 2 * law.cdf(-limit)
        count, mean = int(np.sum(np.abs(z) > limit)), outside * z.size
        if mean < 500:
            assert_poisson(count, mean)
        else:
            assert_normal(count, mean, mean * (1 - outside))
    assert np.abs(z).max() <= math.sqrt(2 * math.log(2) * (65 if dtype == np.float64 else 33))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_numbers_of_a_pair_are_independent(dtype):
    """Cosine and sine share a radius and an angle, 16 elements apart."""
    z = rl.random.normal(4 * N, KEY, dtype=dtype).astype(np.float64).reshape(-1, 2, 16)
    a, b = z[:, 0].ravel(), z[:, 1].ravel()
    n = a.size
    assert_normal(np.dot(a, b), 0, n)
    assert_normal(np.dot(a**2 - 1, b**2 - 1), 0, 4 * n)
    assert_normal(np.dot(a**2 - 1, b), 0, 2 * n)
    assert_normal(np.dot(a, b**3), 0, 15 * n)
    quadrants = np.bincount((a > 0) * 2 + (b > 0), minlength=4)
    assert_chi_square(quadrants, n / 4)
    for lag in (*range(1, 34), 64, 1024):
        flat = z.ravel()
        assert_normal(np.dot(flat[lag:], flat[:-lag]), 0, flat.size - lag)


@pytest.mark.parametrize("span", [2, 3, 6, 10, 1000, 3 * 2**61, 3 * 2**62, 2**64 - 1])
def test_integers_are_even(span):
    """With 3 * 2^62 of 2^64, what is not rejected would show in a third of the values."""
    x = rl.random.integers(N, KEY, 0, span, dtype=np.uint64)
    cells = span if span <= 1000 else 96
    cell = x if span <= 1000 else x // np.uint64(-(-span // 96))
    counts = np.bincount(cell.astype(np.int64), minlength=cells)
    assert counts.size == cells
    assert_chi_square(counts, N / cells)
    if span > 1000:
        assert_chi_square(np.bincount((x % np.uint64(3)).astype(np.int64)), N / 3)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.9, 0.004, 1 / 3])
def test_rate_of_bernoulli(p):
    x = rl.random.bernoulli(16 * N, KEY, p)
    assert_normal(np.count_nonzero(x), p * x.size, p * (1 - p) * x.size)
    together = np.count_nonzero(x[1:] & x[:-1])
    # neighbours share an element with the pair before
    n, q = x.size - 1, p * p
    assert_normal(together, n * q, n * (q * (1 - q) + 2 * p**3 * (1 - p)))


def keys_of_all_kinds():
    keys = [rl.Key(seed) for seed in (0, 1, 2, 3, 2**31, 2**32, 2**63, 2**64 - 1)]
    keys += [*KEY.split(6), *map(KEY.fold_in, range(6)), *map(KEY.fold_in, (2**32, 2**63))]
    return [*keys, *KEY.split(2)[0].split(2), KEY.fold_in(3).fold_in(4), KEY.fold_in(4).fold_in(3)]


def test_streams_of_different_keys_are_uncorrelated():
    keys = keys_of_all_kinds()
    u = np.array([rl.random.uniform(N // 4, key) for key in keys], np.float64) - 0.5
    z = np.array([rl.random.normal(N // 4, key) for key in keys], np.float64)
    for rows, variance in ((u, 1 / 12), (z, 1.0)):
        product = rows @ rows.T / variance
        for i, j in itertools.combinations(range(len(keys)), 2):
            assert_normal(product[i, j], 0, rows.shape[1])
    words = [words_of(key, N // 32) for key in keys]
    for a, b in itertools.combinations(words, 2):
        distance = np.count_nonzero(np.unpackbits((a ^ b).view(np.uint8)))
        assert_normal(distance, 32 * a.size, 16 * a.size)
    together = np.concatenate(words)
    assert np.unique(together).size == together.size  # nor is one another, shifted


def test_streams_of_a_key_are_uncorrelated():
    """Uniform, normal, choice and integers of one key come from streams of their own."""
    n = 4 * N
    rows = [
        (rl.random.uniform(n, KEY).astype(np.float64) - 0.5) * math.sqrt(12),
        rl.random.normal(n, KEY).astype(np.float64),
        rl.random.bernoulli(n, KEY) * 2.0 - 1,
        rl.random.integers(n, KEY, -1, 2) * math.sqrt(1.5),
    ]
    for a, b in itertools.combinations(rows, 2):
        assert_normal(np.dot(a, b), 0, n)
        assert_normal(np.dot(a[1:], b[:-1]), 0, n)
        assert_normal(np.dot(a[:-1], b[1:]), 0, n)


def test_the_last_indices():
    """An offset that leaves no room for the part is refused, not taken without its start."""
    last = 2**63 - 1
    rl.random.uniform(20, KEY, offset=last - 11, index=slice(10, 11))
    for past in (10, 6, 1, 0):
        with pytest.raises(ValueError, match=r"^offset: "):
            rl.random.uniform(20, KEY, offset=last - past, index=slice(10, 11))
