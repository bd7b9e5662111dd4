"""Forked and spawned children: PyTorch's DataLoader forks its workers after the model has run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

COMMON = """
import hashlib, multiprocessing, os, signal, sys, threading, time
import numpy as np
import ridgeline as rl

N = 2**20

def digest(seed=0):
    '''The bits of large results.'''
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(N).astype(np.float32), rng.standard_normal(N // 4)]
    params = [g[::-1].copy() for g in grads]
    h = hashlib.sha256()
    h.update(rl.clip_by_global_norm_(grads, 1.0).hex().encode())
    h.update((rl.L1(0.1) + rl.L2(0.2)).add_gradient_(grads, params).hex().encode())
    rl.MCP(0.5).prox_(params, 0.5)
    rl.zero_largest_(params, 3)
    for x in grads + params:
        h.update(x)
    return h.hexdigest()

def tasks():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1

def child(queue, seed=0):
    before = tasks()
    result = digest(seed)
    queue.put((result, tasks() - before))

def wait(pid, seconds=60):
    '''The exit status of a child, which is killed if it hangs.'''
    done = threading.Event()
    def kill():
        if not done.wait(seconds):
            os.kill(pid, signal.SIGKILL)
    before = tasks()
    thread = threading.Thread(target=kill)
    thread.start()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    done.set()
    thread.join()
    for _ in range(1000):  # a loaded machine may count it for a while
        if tasks() <= before:
            break
        time.sleep(0.01)
    return status

def join(process):
    process.join(60)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    assert not hung, "the child hangs"
    assert process.exitcode == 0, process.exitcode

def in_fork(function):
    '''Runs a function in a forked child, which must return.'''
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    status = wait(pid)
    assert status == 0, f"the child ended with {status}"

def main():
{main}

if __name__ == "__main__":
    main()
    print("done")
"""


def check(main: str, tmp_path, **environment: str) -> None:
    """Run the body of main() as a program; 2 threads unless told otherwise."""
    script = tmp_path / "script.py"
    indented = "\n".join("    " + line for line in main.strip("\n").splitlines())
    script.write_text(COMMON.replace("{main}", indented))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "fork with torch"])
def test_multiprocessing(method, tmp_path):
    """A child of a parent that has threads gives the same bits; a forked one starts no threads."""
    method, _, library = method.partition(" with ")
    if library:
        pytest.importorskip(library)
        library = "import torch; torch.ones(2**20).sum()"
    check(
        f"""
{library}
expected = digest()
context = multiprocessing.get_context("{method}")
queue = context.Queue()
for _ in range(2):
    process = context.Process(target=child, args=(queue,))
    process.start()
    result, new = queue.get(timeout=60)
    join(process)
    assert result == expected
    if "{method}" == "fork":
        assert new <= 1, new  # the queue's own thread may be there
assert digest() == expected  # the parent goes on
""",
        tmp_path,
    )


def test_pools(tmp_path):
    check(
        """
from concurrent.futures import ProcessPoolExecutor
expected = [digest(seed) for seed in range(3)]
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    assert pool.map_async(digest, range(3)).get(60) == expected
with ProcessPoolExecutor(2, mp_context=context) as pool:
    assert list(pool.map(digest, range(3), timeout=60)) == expected
""",
        tmp_path,
    )


def test_pools_in_children(tmp_path):
    """A child that was forked forks a pool of its own."""
    check(
        """
expected = digest()
def nested():
    assert digest() == expected
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        assert pool.map_async(digest, [0, 0, 0]).get(60) == [expected] * 3
    assert digest() == expected
in_fork(nested)
assert digest() == expected
""",
        tmp_path,
    )


def test_os_fork(tmp_path):
    check(
        """
expected = digest()
def first():
    before = tasks()
    assert digest() == expected
    assert tasks() == before, "a forked child started threads"
    def second():
        assert digest() == expected
        with rl.threads(4):
            assert digest() == expected
        rl.set_num_threads(3)
        assert digest() == expected
        assert tasks() == before, "a forked child started threads"
    in_fork(second)
    assert digest() == expected
for _ in range(3):
    in_fork(first)
before = tasks()
assert digest() == expected
assert tasks() == before
""",
        tmp_path,
    )


def test_parent_stays_parallel(tmp_path):
    from ridgeline import _core

    if not _core.has_openmp or not os.path.isdir("/proc/self/task"):  # noqa: PTH112
        pytest.skip("needs OpenMP and /proc")
    check(
        """
in_fork(lambda: None)
in_fork(digest)
time.sleep(0.5)  # for threads that are about to end
before = tasks()
digest()
assert tasks() == before + 2, (before, tasks())
""",
        tmp_path,
        OMP_NUM_THREADS="3",
    )


def test_fork_before_the_first_call(tmp_path):
    """A parent that never had a team."""
    check(
        """
def work():
    results.append(digest())
    results.append(digest())
    assert results[0] == results[1]
    print(results[0])
results = []
in_fork(work)
print(digest())
""",
        tmp_path,
    )


def test_fork_from_a_thread_and_during_calls(tmp_path):
    """Other threads are inside parallel regions at the moment of the fork."""
    check(
        """
expected = digest()
stop = threading.Event()
def busy():
    x = np.ones(2**22, np.float32)
    while not stop.is_set():
        rl.global_norm(x)
threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
def work():
    assert digest() == expected
failures = []
def forker():
    try:
        for _ in range(5):
            in_fork(work)
    except AssertionError as error:
        failures.append(error)
try:
    forker()
    thread = threading.Thread(target=forker)
    thread.start()
    thread.join()
finally:
    stop.set()
assert not failures, failures
for thread in threads:
    thread.join()
assert digest() == expected
""",
        tmp_path,
    )


def test_settings_reach_children(tmp_path):
    check(
        """
def work(n, target):
    assert rl.get_num_threads() == n
    assert rl.runtime.target() == target
rl.runtime.use_target("scalar")
rl.set_num_threads(3)
in_fork(lambda: work(3, "scalar"))
with rl.threads(2):
    in_fork(lambda: work(2, "scalar"))
""",
        tmp_path,
    )


def test_data_loader(tmp_path):
    """As in training: workers are forked after the parent's first step and use the library."""
    pytest.importorskip("torch")
    check(
        """
import torch

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        x = torch.full((N,), float(i + 1))
        rl.clip_by_norm_(x, 2.0 ** 10)
        return x[:2].clone()

x = torch.full((N,), 3.0)
assert rl.global_norm(x) == 3 * 2**10
loader = torch.utils.data.DataLoader(
    Data(), batch_size=2, num_workers=2, timeout=60, multiprocessing_context="fork")
for epoch in range(2):
    assert torch.cat(list(loader)).tolist() == [[1.0, 1.0]] * 4
    rl.clip_by_norm_(x, 1.0)
""",
        tmp_path,
    )


def test_a_program_ends(tmp_path):
    """The team does not keep the process, or a daemon thread inside a call, from ending."""
    check(
        """
def busy():
    x = np.ones(2**22, np.float32)
    while True:
        rl.global_norm(x)
threading.Thread(target=busy, daemon=True).start()
digest()
""",
        tmp_path,
    )
