"""Targets, threads, the environment and the floating-point modes of a process."""

from __future__ import annotations

import copy
import ctypes
import os
import pickle
import platform
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from every_function import PENALTIES, calls, fresh, inputs
from helpers import DTYPES, bits, every_setting, sample, target

import ridgeline as rl
from ridgeline import _core

openmp = pytest.mark.skipif(not _core.has_openmp, reason="built without OpenMP")
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")


def run(code: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; a variable set to None is taken away."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name in ("OMP_NUM_THREADS", "RIDGELINE_TARGET"):
        env.pop(name, None)
    env.update({k: v for k, v in environment.items() if v is not None})
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        check=False,
    )


def lines(code: str, **environment: str | None) -> list[str]:
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [rl.NonFiniteError, rl.RequiresGradError])
def test_errors_are_public_and_travel(cls):
    assert getattr(rl, cls.__name__) is cls
    assert cls.__module__ == "ridgeline"
    assert cls.__doc__
    error = cls("a message", 3)
    error.array = "grads['w'][0]"
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is cls
        assert twin.args == ("a message", 3)
        assert twin.array == error.array


def test_bases_of_errors():
    assert issubclass(rl.NonFiniteError, FloatingPointError)
    assert issubclass(rl.RequiresGradError, RuntimeError)
    assert issubclass(rl.RequiresGradError, ValueError)


def test_raised_errors_travel():
    with pytest.raises(rl.NonFiniteError, match=r"nan.*grads\['w'\]\[1\]") as raised:
        rl.clip_by_global_norm_({"w": [np.ones(2), np.array([np.nan])]}, 1.0, on_nonfinite="raise")
    twin = pickle.loads(pickle.dumps(raised.value))
    assert type(twin) is rl.NonFiniteError
    assert twin.array == raised.value.array == "grads['w'][1]"
    assert str(twin) == str(raised.value)


def test_everything_in_all_exists():
    for module in (rl, rl.runtime, rl.penalties, rl.clipping):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)


def test_show_config(capsys):
    with rl.threads(3):
        assert rl.show_config() is None
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["ridgeline"] == rl.__version__
    assert rows["python"] == platform.python_version()
    assert platform.machine() in rows["machine"]
    assert rows["compiler"].startswith(("gcc ", "clang "))
    assert rows["targets"].split(", ") == rl.runtime.targets()
    assert rows["target"] == rl.runtime.target()
    assert rows["threads"].startswith("3 of ")


def test_show_config_tells_the_environment():
    shown = lines(
        "import ridgeline as rl; rl.show_config()", OMP_NUM_THREADS="3", RIDGELINE_TARGET="scalar"
    )
    assert "target      scalar" in shown
    assert any(line.startswith("threads     3 of ") for line in shown) or not _core.has_openmp
    assert shown[-1].split(maxsplit=1) == [
        "environment",
        "RIDGELINE_TARGET=scalar, OMP_NUM_THREADS=3",
    ]
    assert "environment -" in lines("import ridgeline as rl; rl.show_config()")


def test_import_is_light():
    """No other library is imported for the user's sake but NumPy, and nothing is printed."""
    assert lines("""
        import sys
        import numpy
        before = set(sys.modules)
        import ridgeline
        heavy = {"torch", "jax", "scipy", "sklearn", "matplotlib", "rich", "ml_dtypes", "numba"}
        print(sorted(heavy & {name.split(".")[0] for name in set(sys.modules) - before}))
    """) == ["[]"]


# --- targets --------------------------------------------------------------------------------------


def test_targets():
    names = rl.runtime.targets()
    assert names[-1] == "scalar"
    assert len(set(names)) == len(names)
    known = ["x86_64_v4", "x86_64_v3", "x86_64_v2", "neon", "scalar"]
    assert names == [name for name in known if name in names]
    assert rl.runtime.target() in names
    names.clear()
    assert rl.runtime.targets()  # a fresh list


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64")
def test_targets_are_those_of_this_cpu():
    with Path("/proc/cpuinfo").open() as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    for name, needed in {
        "x86_64_v2": {"sse4_2", "popcnt", "ssse3", "cx16", "lahf_lm"},
        "x86_64_v3": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"},
        "x86_64_v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    }.items():
        if name in rl.runtime.targets():
            assert needed <= set(flags)
    assert "neon" not in rl.runtime.targets()


def test_use_target():
    before = rl.runtime.target()
    try:
        for name in rl.runtime.targets():
            assert rl.runtime.use_target(name) is None
            assert rl.runtime.target() == name
    finally:
        rl.runtime.use_target(before)


@pytest.mark.parametrize("name", ["avx9000", "", "SCALAR", "x86_64_v5", "scalar "])
def test_unknown_target(name):
    before = rl.runtime.target()
    with pytest.raises(ValueError, match=rf"^name: got '{name}', wants .*") as error:
        rl.runtime.use_target(name)
    assert all(choice in str(error.value) for choice in rl.runtime.targets())
    assert rl.runtime.target() == before


@pytest.mark.parametrize("name", [None, 3, b"scalar", ["scalar"]])
def test_target_that_is_no_name(name):
    with pytest.raises(TypeError, match=r"^name: got "):
        rl.runtime.use_target(name)


def test_target_of_another_architecture():
    other = "neon" if platform.machine() == "x86_64" else "x86_64_v2"
    with pytest.raises(ValueError, match=f"^name: got '{other}'"):
        rl.runtime.use_target(other)


PRINT_TARGET = "import ridgeline as rl; print(rl.runtime.target())"


@pytest.mark.parametrize("name", rl.runtime.targets())
def test_environment_picks_the_target(name):
    assert lines(PRINT_TARGET, RIDGELINE_TARGET=name) == [name]


def test_best_target_is_the_default():
    best = [rl.runtime.targets()[0]]
    assert lines(PRINT_TARGET) == best
    assert lines(PRINT_TARGET, RIDGELINE_TARGET="") == best


@pytest.mark.parametrize("name", ["avx9000", "Scalar", " scalar"])
def test_bad_target_in_the_environment(name):
    done = run("import ridgeline", RIDGELINE_TARGET=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError: ", "ValueError: ")), done.stderr
    assert "RIDGELINE_TARGET" in last
    assert f"'{name}'" in last
    assert all(choice in last for choice in rl.runtime.targets())


def test_use_target_while_others_compute():
    """Each call runs on one target from start to end; all of them give the same bits."""
    x = sample(100_000, np.float32)
    small = sample(300, np.float64)
    penalty = rl.MCP(0.5, 3.0)

    def compute():
        g = x.copy()
        return bits(
            [rl.clip_by_global_norm_(g, 1.0), g, penalty.value(small), penalty.prox(small, 0.5)]
        )

    expected = compute()
    stop = threading.Event()

    def switch():
        names = rl.runtime.targets()
        while not stop.is_set():
            for name in names:
                rl.runtime.use_target(name)
                assert rl.runtime.target() in names

    before = rl.runtime.target()
    try:
        with ThreadPoolExecutor(4) as pool:
            switching = [pool.submit(switch) for _ in range(2)]
            computing = [pool.submit(lambda: [compute() for _ in range(60)]) for _ in range(2)]
            try:
                results = [r for f in computing for r in f.result()]
            finally:
                stop.set()
            for f in switching:
                f.result()
    finally:
        rl.runtime.use_target(before)
    assert all(r == expected for r in results)


# --- threads --------------------------------------------------------------------------------------


@pytest.fixture
def limit():
    """A limit around the test, so that no test depends on the setting of the process."""
    with rl.threads(5) as context:
        yield context


def test_limits_nest(limit):
    assert rl.get_num_threads() == 5
    with rl.threads(2):
        assert rl.get_num_threads() == 2
        with rl.threads(3):
            assert rl.get_num_threads() == 3
            with rl.threads(1):
                assert rl.get_num_threads() == 1
            assert rl.get_num_threads() == 3
        assert rl.get_num_threads() == 2
    assert rl.get_num_threads() == 5


def test_limit_ends_with_an_exception(limit):
    with pytest.raises(KeyError), rl.threads(2):
        raise KeyError
    assert rl.get_num_threads() == 5
    with pytest.raises(TypeError), rl.threads(2):
        rl.global_norm(None)
    assert rl.get_num_threads() == 5


def test_limit_used_again(limit):
    two = rl.threads(2)
    assert rl.get_num_threads() == 5  # nothing happens before `with`
    for _ in range(2):
        with two:
            assert rl.get_num_threads() == 2
            with rl.threads(4), two:
                assert rl.get_num_threads() == 2
            with two, two:
                assert rl.get_num_threads() == 2
            assert rl.get_num_threads() == 2
        assert rl.get_num_threads() == 5


def test_limit_of_a_function(limit):
    @rl.threads(2)
    def depth(n):
        """Count."""
        with rl.threads(n + 6):
            inner = depth(n - 1) if n else []
        return [rl.get_num_threads(), *inner]

    assert depth.__name__ == "depth"
    assert depth.__doc__ == "Count."
    assert depth(3) == [2, 2, 2, 2]
    assert rl.get_num_threads() == 5

    @rl.threads(3)
    def fails():
        raise KeyError(rl.get_num_threads())

    with pytest.raises(KeyError, match="3"):
        fails()
    assert rl.get_num_threads() == 5


def test_limit_of_a_decorated_function_in_many_threads(limit):
    """One ContextDecorator object is entered by all of them at once."""
    barrier = threading.Barrier(4, timeout=30)

    @rl.threads(2)
    def inside():
        barrier.wait()
        return rl.get_num_threads()

    def call(own):
        with rl.threads(own):
            seen = [inside() for _ in range(20)]
            return set(seen), rl.get_num_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, [6, 7, 8, 9])) == [({2}, n) for n in (6, 7, 8, 9)]


def test_limit_belongs_to_its_thread(limit):
    seen = {}
    entered, leave = threading.Event(), threading.Event()

    def other():
        seen["before"] = rl.get_num_threads()
        with rl.threads(2):
            seen["inside"] = rl.get_num_threads()
            entered.set()
            leave.wait(30)

    with rl.threads(3):
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(30)
        seen["here"] = rl.get_num_threads()
        leave.set()
        thread.join()
    assert seen["here"] == 3
    assert seen["inside"] == 2
    with rl.threads(11):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen["before"] != 11


@pytest.mark.parametrize("make", [rl.threads, rl.set_num_threads])
@pytest.mark.parametrize(
    ("n", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (2**40, ValueError),
        (10**30, ValueError),
        (2.0, TypeError),
        ("2", TypeError),
        (None, TypeError),
        (True, TypeError),
        ([2], TypeError),
    ],
)
def test_bad_numbers_of_threads(limit, make, n, error):
    with pytest.raises(error, match=r"^n: got "):
        make(n)
    assert rl.get_num_threads() == 5


def test_numbers_of_numpy(limit):
    with rl.threads(np.int64(2)):
        assert rl.get_num_threads() == 2


def test_set_num_threads_is_for_the_process():
    assert lines("""
        import threading
        import ridgeline as rl
        seen = []
        rl.set_num_threads(3)
        thread = threading.Thread(target=lambda: seen.append(rl.get_num_threads()))
        thread.start(); thread.join()
        print(rl.get_num_threads(), *seen)
        with rl.threads(2):
            rl.set_num_threads(4)
            print(rl.get_num_threads())  # the limit of the thread is above it
        print(rl.get_num_threads())
    """) == ["3 3", "2", "4"]


PRINT_THREADS = "import ridgeline as rl; print(rl.get_num_threads())"


@openmp
@pytest.mark.parametrize("n", ["1", "2", "3"])
def test_omp_num_threads(n):
    assert lines(PRINT_THREADS, OMP_NUM_THREADS=n) == [n]
    assert lines(
        PRINT_THREADS.replace("print", "rl.set_num_threads(4); print"), OMP_NUM_THREADS=n
    ) == ["4"]


@openmp
def test_default_is_the_cpus_of_the_process():
    assert lines(PRINT_THREADS) == [str(len(os.sched_getaffinity(0)))]
    one = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    assert lines(one + PRINT_THREADS) == ["1"]


COUNT_TASKS = """
import os
import numpy as np
import ridgeline as rl
def tasks():
    return len(os.listdir("/proc/self/task"))
x = np.ones(2**18)
before = tasks()
{}
rl.global_norm(x)
print(tasks() - before)
"""


@openmp
@linux
@pytest.mark.parametrize(
    ("setting", "environment", "new"),
    [
        ("", "1", 0),
        ("", "2", 1),
        ("", "4", 3),
        ("rl.set_num_threads(1)", "4", 0),
        ("rl.set_num_threads(3)", "1", 2),
        ("rl.threads(1).__enter__()", "4", 0),
        ("rl.threads(3).__enter__()", "1", 2),
        ("rl.set_num_threads(2); rl.threads(4).__enter__()", "1", 3),
        ("x = x[:5000]", "4", 0),
    ],
)
def test_teams_have_as_many_threads(setting, environment, new):
    """A large call starts the threads that it may use and no more; a small one starts none."""
    assert lines(COUNT_TASKS.format(setting), OMP_NUM_THREADS=environment) == [str(new)]


@openmp
@linux
def test_no_more_threads_inside_a_region_of_threads():
    """Calls from several Python threads each have a team; none is left behind after many calls."""
    code = COUNT_TASKS.format("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    list(pool.map(lambda _: rl.global_norm(x), range(100)))
    assert tasks() - before <= 6, tasks() - before
""")
    assert lines(code, OMP_NUM_THREADS="2")


@openmp
def test_threadpoolctl():
    """Its limits hold until ridgeline is given a number of its own."""
    pytest.importorskip("threadpoolctl")
    assert lines(
        """
        import ridgeline as rl
        from threadpoolctl import threadpool_info, threadpool_limits
        print(any(pool["user_api"] == "openmp" for pool in threadpool_info()))
        print(rl.get_num_threads())
        with threadpool_limits(1):
            print(rl.get_num_threads())
            with threadpool_limits(2, user_api="openmp"):
                print(rl.get_num_threads())
            with rl.threads(3):
                print(rl.get_num_threads())
        print(rl.get_num_threads())
        rl.set_num_threads(3)
        with threadpool_limits(1):
            print(rl.get_num_threads())
        """,
        OMP_NUM_THREADS="4",
    ) == ["True", "4", "1", "2", "3", "4", "3"]


@openmp
@linux
@pytest.mark.parametrize("order", ["import ridgeline, torch", "import torch, ridgeline"])
def test_one_openmp_for_torch_and_ridgeline(order):
    torch = pytest.importorskip("torch")
    bundled = [f.name for f in (Path(torch.__file__).parent / "lib").glob("libgomp*")]
    if bundled != ["libgomp.so.1"]:
        pytest.skip("torch brings no libgomp, or one under another name")
    found = lines(f"""
        {order}
        import numpy as np
        x = torch.ones(2**18)
        assert ridgeline.global_norm(x) == 512 == torch.linalg.vector_norm(x)
        with open("/proc/self/maps") as maps:
            print(*{{line.split()[-1] for line in maps if "libgomp" in line}}, sep="\\n")
    """)
    assert len(found) == 1, found


# --- results do not depend on the floating-point modes of the thread ------------------------------


@contextmanager
def mxcsr(bits_to_set):
    """Sets bits of the SSE control register: those of fenv_t's last word, as glibc lays it out."""
    libm = ctypes.CDLL(None)
    saved = (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(saved) == 0
    changed = (ctypes.c_uint32 * 8)(*saved)
    changed[7] |= bits_to_set
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(saved)


def control_register():
    libm = ctypes.CDLL(None)
    now = (ctypes.c_uint32 * 8)()
    libm.fegetenv(now)
    return now[7] & ~0x3F  # without the flags


MODES = {
    "flush to zero": 0x8000,
    "flush to zero, denormals are zero": 0x8040,
    "round down": 0x2000,
    "round up": 0x4000,
    "round to zero": 0x6000,
}


def tiny(n, dtype, seed=0):
    """Numbers around the smallest normal and of ordinary size."""
    x = sample(n, np.float64, seed)
    smallest = (
        float(np.finfo(np.float64).tiny) if dtype == np.float64 else float(np.finfo("f4").tiny)
    )
    if dtype == np.float16:
        smallest = float(np.finfo("f2").tiny)
    x[::2] *= smallest
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def everything(n, dtype):
    """The bits of a result of every op."""
    x, other = tiny(n, dtype), tiny(n, dtype, 1)
    smallest = x[np.abs(x.astype("f8")) < 1e-3]
    results = []
    for ord in (1, 2, 3.5, np.inf):
        results += [rl.global_norm([smallest, smallest[::2]], ord), rl.global_norm([x, other], ord)]
    for clip in (
        lambda g: rl.clip_by_norm_(g, 1e-3),
        lambda g: rl.clip_by_global_norm_(g, 1.0),
        lambda g: rl.clip_by_rms_(g, 1e-3),
        lambda g: rl.clip_by_value_(g, 1e-3),
        lambda g: rl.zero_largest_(g, 1),
    ):
        g = [x.copy(), other.copy()]
        results += [clip(g), g]
    for penalty in PENALTIES[1:]:  # L0 has no gradient
        g = other.copy()
        results += [
            penalty.value([x, other]),
            penalty.value(smallest),
            penalty.add_gradient_(g, x),
            g,
            penalty.prox(x, 0.3),
        ]
    return results


x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or not sys.platform.startswith("linux"),
    reason="the layout of fenv_t",
)


@x86
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("n", "dtype"), [*((1000, d) for d in DTYPES), (300_000, DTYPES[0])], ids=str
)
def test_modes_do_not_change_bits(mode, n, dtype):
    expected = bits(everything(n, dtype))
    x = tiny(n, dtype)
    calls = (lambda: rl.global_norm(x), lambda: rl.clip_by_value_(x.copy(), 0.5))
    with mxcsr(MODES[mode]):
        set_to = control_register()
        for call in calls:
            call()
            assert control_register() == set_to  # and is given back
    outside = everything_in_mode(n, dtype, MODES[mode])
    different = [i for i, (a, b) in enumerate(zip(expected, outside, strict=True)) if a != b]
    assert not different, f"results {different} of {len(expected)}"


def everything_in_mode(n, dtype, mode):
    """As `everything`, with the mode set during the calls of ridgeline alone."""
    import unittest.mock

    def inside(function):
        def call(*args):
            with mxcsr(mode):
                return function(*args)

        return call

    names = [n for n in dir(_core) if n.startswith(("penalty_", "clip_", "global_", "zero_"))]
    patches = {name: inside(getattr(_core, name)) for name in names}
    assert len(patches) > 7
    with unittest.mock.patch.multiple(_core, **patches):
        return bits(everything(n, dtype))


@x86
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "dtype"), [*((800, d) for d in DTYPES), (300_000, DTYPES[0])])
def test_no_function_depends_on_modes(mode, n, dtype):
    """All of what a call does, not the compiled part alone."""
    x = inputs(n, dtype, strided=n < 1000)
    every = calls(dtype)
    different = []
    for name, call in every.items():
        expected = bits(call(fresh(x)))
        again = fresh(x)
        with mxcsr(MODES[mode]):
            set_to = control_register()
            found = call(again)
            assert control_register() == set_to, name
        if bits(found) != expected:
            different.append(name)
    assert not different, f"{len(different)} of {len(every)}"


@x86
def test_the_modes_are_what_they_should_be():
    """Without the library the same modes do change results: the test above can fail."""
    x = np.full(8, 2.0**-1030)
    with mxcsr(0x8040):
        flushed = x * 0.5
    assert not flushed.any()
    assert (x * 0.5).all()
    with mxcsr(0x4000):
        up = np.full(8, 1.0) / 3
    assert (up != np.full(8, 1.0) / 3).all()


def test_torch_flush_denormal():
    torch = pytest.importorskip("torch")
    x = np.full(100_000, 2.0**-140, np.float32)
    expected = rl.global_norm(x), bits(rl.L2(1.0).prox(x, 0.5))
    assert expected[0] > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("not on this CPU")
    try:
        t = torch.from_numpy(x)
        assert not (t[:10] * 0.5).any()  # it works
        norm, result = rl.global_norm(t), rl.L2(1.0).prox(x, 0.5)
        assert not (t[:10] * 0.5).any()  # and still does
    finally:
        torch.set_flush_denormal(False)
    assert (norm, bits(result)) == expected


def test_every_setting_runs_every_target():
    """The helper that other tests rest on does see a difference."""
    seen = set()

    def compute():
        seen.add((rl.runtime.target(), rl.get_num_threads()))

    every_setting(compute, [1, 2])
    best, *others = rl.runtime.targets()
    assert {(best, 1), (best, 2), ("scalar", 1)} <= seen
    assert {name for name, _ in seen} == {best, *others}
    assert len(seen - {("scalar", 1)}) >= 2 + sum(name != "scalar" for name in others)
    with target("scalar"), pytest.raises(AssertionError):
        every_setting(lambda: rl.runtime.target(), [1])
