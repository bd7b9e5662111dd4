"""Calls from several Python threads at once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from every_function import calls, fresh, inputs
from helpers import DTYPES, bits, sample, to_torch

import ridgeline as rl

SIZES = [1, 50, 5_000, 40_000, 300_000]  # below and above where the GIL is released and shared out


def work(seed: int) -> list:
    """The bits of a result of many ops on arrays of this thread alone."""
    results = []
    for i, n in enumerate(SIZES):
        dtype = DTYPES[(seed + i) % 4]
        params = {"w": sample(n, dtype, seed), "b": [sample(7, dtype, seed + 1)]}
        grads = {"b": (sample(7, dtype, seed + 2),), "w": sample(n, dtype, seed + 3)}
        results += [
            rl.global_norm(params, 3),
            rl.clip_by_global_norm_(grads, 0.5),
            (rl.SCAD(0.1) + rl.L2(0.2)).add_gradient_(grads, params),
            rl.clip_by_norm_(grads, 0.25, ord=np.inf),
            rl.L1(0.1).prox(params["w"], 0.5),
        ]
        rl.clip_by_value_(grads, (-0.1, 0.2))
        rl.zero_largest_(params, 1)
        rl.LHalf(0.01).prox_(params, 0.5)
        results += [params, grads]
    return bits(results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("team", [1, 2])
def test_small_stacks(dtype, team):
    """Of the calling thread: no tile is on it."""
    x = inputs(800 if team == 1 else 300_000, dtype, strided=True)
    every = calls(dtype)
    expected = {name: bits(call(fresh(x))) for name, call in every.items()}
    found = {}

    def run():
        with rl.threads(team):
            for name, call in every.items():
                found[name] = bits(call(fresh(x)))

    before = threading.stack_size(128 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert found == expected


SMALL_STACKS = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
import ridgeline as rl
from every_function import calls, fresh, inputs
from helpers import DTYPES, bits
for dtype in DTYPES:
    x = inputs(300_000, dtype, strided=True)
    for name, call in calls(dtype).items():
        with rl.threads(1):
            expected = bits(call(fresh(x)))
        assert bits(call(fresh(x))) == expected, name
print(rl.get_num_threads())
"""


def test_small_stacks_of_teams():
    done = subprocess.run(
        [sys.executable, "-c", SMALL_STACKS.format(tests=str(Path(__file__).parent))],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_STACKSIZE": "64k", "OMP_NUM_THREADS": "3"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"


@pytest.mark.parametrize("n", ["257", "99999"])
def test_teams_have_a_largest_size(n):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import numpy as np, ridgeline as rl, threading\n"
            "def run():\n"
            "    print(rl.get_num_threads(), rl.global_norm(np.ones(2**18)))\n"
            "run()\n"
            "rl.set_num_threads(4096)\n"
            "run()\n"
            "with rl.threads(4096): run()\n"
            "threading.stack_size(128 * 1024)\n"
            "thread = threading.Thread(target=run)\n"
            "thread.start()\n"
            "thread.join()\n",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": n},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["256 512.0"] * 4


@contextmanager
def switch_interval(seconds):
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("team", [1, 2, 3])
def test_own_arrays(team):
    expected = [work(seed) for seed in range(8)]
    barrier = threading.Barrier(8, timeout=60)

    def run(seed):
        barrier.wait()
        with rl.threads(team):
            return work(seed), work(seed)

    with switch_interval(1e-5), ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(8)))
    assert results == [(e, e) for e in expected]


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_shared_arrays_that_are_read(library):
    arrays = [sample(n, np.float32, n) for n in (300_000, 40_000, 20)]
    for x in arrays:
        x.flags.writeable = library == "torch"
    tree = [to_torch(x) for x in arrays] if library == "torch" else arrays
    penalty = rl.L1(0.5, weights=[np.abs(x) for x in arrays])

    def read(_):
        out = np.empty_like(arrays[0])
        rl.Huber(0.5).prox(tree[0], 0.5, out=to_torch(out) if library == "torch" else out)
        return bits([rl.global_norm(tree), penalty.value(tree), rl.L2(0.1).value(tree[::-1]), out])

    before = bits(arrays)
    expected = read(0)
    with switch_interval(1e-5), ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(read, range(80)))
    assert bits(arrays) == before


def test_parts_of_one_array_that_are_written():
    x = sample(8 * 300_000, np.float32)
    expected = x.copy()
    for part in np.split(expected, 8):
        rl.clip_by_norm_(part, 1.0)
    with switch_interval(1e-5), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: rl.clip_by_norm_(part, 1.0), np.split(x, 8)))
    assert bits(x) == bits(expected)


def test_errors_stay_in_their_thread():
    def run(i):
        good = np.full(300_000 + i, 9.0)
        bad = np.full(300_000 + i, np.nan)
        for _ in range(20):
            with pytest.raises(rl.NonFiniteError) as error:
                rl.clip_by_global_norm_({i: [good, bad]}, 1.0, on_nonfinite="raise")
            assert error.value.array == f"grads[{i}][1]"
            with pytest.raises(ValueError, match=rf"^grads\[{i}\]\[1\]: got the same memory"):
                rl.clip_by_value_({i: [good, good]}, 1.0)
            with pytest.raises(TypeError, match=rf"^params\['{i}'\]: got str"):
                rl.L1(1.0).value({str(i): str(i)})
        return good.min()

    with switch_interval(1e-5), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [9.0] * 8


def ran_during(call) -> bool:
    """Whether another Python thread ran while `call` did.

    With this switch interval a thread gives up the GIL only where it releases it itself. The
    other thread waits for a lock; once that is free it can run only if `call` releases the GIL.
    """
    lock, ready, ran = threading.Lock(), threading.Event(), []

    def other():
        ready.set()
        lock.acquire()
        ran.append(True)
        lock.release()

    lock.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(30)
    with switch_interval(1000):
        lock.release()
        call()
        result = bool(ran)
    thread.join()
    return result


CALLS = {
    "global_norm": rl.global_norm,
    "clip_by_value_": lambda x: rl.clip_by_value_(x, 0.5),
    "clip_by_norm_": lambda x: rl.clip_by_norm_(x, 1.0),
    "clip_by_global_norm_": lambda x: rl.clip_by_global_norm_(x, 1.0),
    "clip_by_rms_": lambda x: rl.clip_by_rms_(x, 1.0),
    "zero_largest_": rl.zero_largest_,
    "value": lambda x: rl.LHalf(1.0).value(x),
    "add_gradient_": lambda x: rl.LHalf(1.0).add_gradient_(x[: x.size // 2], x[x.size // 2 :]),
    "prox_": lambda x: rl.LHalf(1.0).prox_(x, 0.1),
    "prox": lambda x: rl.LHalf(1.0).prox(x, 0.1, out=x),
    "weights": lambda x: rl.L1(1.0, weights=x),
}


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL to release"
)
@pytest.mark.parametrize("name", CALLS)
def test_large_calls_release_the_gil(name):
    large, small = np.full(2**23, 0.75), np.full(64, 0.75)
    with rl.threads(1):
        assert any(ran_during(lambda: CALLS[name](large)) for _ in range(50))
        # the check can fail: a small call keeps the GIL
        assert not any(ran_during(lambda: CALLS[name](small)) for _ in range(5))


MUTATION = """
import sys, threading
import numpy as np
import ridgeline as rl
{library}

def make(n):
    x = np.full(n, 0.75, np.float32)
    return torch.from_numpy(x) if {torch} else x

def fresh():
    return [make(300_000), make(7), make(50_000)]

trees = {{
    "list": (fresh, list.clear, lambda t: t.extend(fresh())),
    "dict": (lambda: dict(enumerate(fresh())), dict.clear, lambda t: t.update(enumerate(fresh()))),
}}
make_tree, clear, refill = trees["{kind}"]
tree, other = make_tree(), make_tree()
stop = threading.Event()

def mutate():
    while not stop.is_set():
        clear(tree)
        garbage = [bytearray(64 + 8 * i) for i in range(50)]  # takes the place of what was freed
        refill(tree)
        clear(other)
        refill(other)

sys.setswitchinterval(1e-6)
thread = threading.Thread(target=mutate)
thread.start()
calls = 0
try:
    for _ in range({rounds}):
        for call in (
            lambda: rl.clip_by_global_norm_(tree, 0.5),
            lambda: rl.clip_by_norm_(tree, 0.5),
            lambda: rl.clip_by_value_(tree, 0.5),
            lambda: rl.L1(0.5).prox_(tree, 0.001),
            lambda: rl.L2(0.5).add_gradient_(other, tree),
            lambda: rl.global_norm(tree),
            lambda: rl.clip_by_global_norm_([tree, make(3), tree], 1.0),
            lambda: rl.L1(0.5, weights=tree),
        ):
            try:
                call()
                calls += 1
            except ValueError:
                pass  # structures differ, or the same array twice
finally:
    stop.set()
    thread.join()
assert calls > {rounds}
print("survived")
"""


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_containers_changed_during_calls(library, kind):
    """Another thread empties the container while its arrays are worked on."""
    if library == "torch":
        pytest.importorskip("torch")
    script = textwrap.dedent(MUTATION).format(
        library="import torch" if library == "torch" else "",
        torch=library == "torch",
        kind=kind,
        rounds=60,
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout == "survived\n"


EMPTIED = """
import sys, threading
import numpy as np
import ridgeline as rl
import weakref
{library}
freed = 0
for attempt in range(60):
    x = np.full(2**24, 2.0)  # long enough for the other thread to wake up on a busy machine
    tree = [torch.from_numpy(x) if {torch} else x]
    del x
    gone = weakref.ref(tree[0])
    lock, ready = threading.Lock(), threading.Event()
    def empty():
        ready.set()
        with lock:
            tree.clear()
    lock.acquire()
    thread = threading.Thread(target=empty)
    thread.start()
    ready.wait()
    sys.setswitchinterval(1000)  # so that it runs during the call or after it
    lock.release()
    rl.clip_by_value_(tree, 1.0)
    freed += gone() is None  # the call held the last reference
    sys.setswitchinterval(0.005)
    thread.join()
    assert gone() is None
    if freed == 2:
        break
assert freed, "the other thread never ran during the call"
print("survived")
"""


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="orders threads by the GIL"
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_last_reference_dropped_during_a_call(library):
    if library == "torch":
        pytest.importorskip("torch")
    script = EMPTIED.format(
        library="import torch" if library == "torch" else "", torch=library == "torch"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout == "survived\n"
