"""Settings, groups and states of optimizers: changed, refused, shared, saved and freed."""

from __future__ import annotations

import collections
import copy
import gc
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import ridgeline as rl

KINDS = [rl.SGD, rl.Adam, rl.AdamW, rl.NAdam, rl.RMSprop, rl.Adagrad, rl.Lion, rl.FTRL]

# ---- what a failing setter leaves


def of_two_groups(kind=rl.SGD, **options):
    a, b = np.ones((2, 2)), np.ones((2, 2))
    return [a, b], kind([{"params": a}, {"params": b}], **options)


def decayed(opt, params):
    """The factors by which the weights decay in a step of zero gradients."""
    before = [p.copy() for p in params]
    opt.step([np.zeros_like(p) for p in params])
    return [1 - float((p / q).flat[0]) for p, q in zip(params, before, strict=True)]


class Stop(BaseException):
    """As KeyboardInterrupt is: no Exception."""


@pytest.mark.parametrize("of_one_group", [False, True])
@pytest.mark.parametrize("bad", [Stop, RuntimeError, "nan", -1.0, "x", None, 3])
def test_a_filter_that_fails_changes_nothing(bad, of_one_group):
    params, opt = of_two_groups(lr=0.5, weight_decay=0.5, decay_filter=lambda name, p: 0.5)
    old = opt.decay_filter
    seen = []

    def fails(name, param):
        seen.append(name)
        if isinstance(bad, type) and len(seen) == (1 if of_one_group else 2):
            raise bad("on purpose")
        return bad if isinstance(bad, str | float | None) else 2.0

    owner = opt.groups[1] if of_one_group else opt
    value = bad if bad == 3 else fails
    with pytest.raises((Stop, RuntimeError, TypeError, ValueError)):
        owner.decay_filter = value
    assert [group.decay_filter for group in opt.groups] == [old, old]
    assert decayed(opt, params) == [0.125, 0.125]
    owner.decay_filter = lambda name, p: 1
    assert decayed(opt, params) == [0.125 if of_one_group else 0.25, 0.25]


def test_a_filter_is_asked_once_for_each_array():
    _, opt = of_two_groups()
    seen = []

    def spy(name, param):
        seen.append(id(param))
        return True

    opt.decay_filter = spy
    assert len(seen) == len(set(seen)) == 2


@pytest.mark.parametrize(
    ("name", "bad"),
    [("lr", -1.0), ("momentum", 0.0), ("penalty", 3), ("constraint", 1), ("nesterov", 1)],
)
def test_a_refused_number_changes_no_group(name, bad):
    groups = [{"params": np.ones(2), "lr": 0.1}, {"params": np.ones(3), "nesterov": True}]
    opt = rl.SGD(groups, momentum=0.9)
    before = [repr(group) for group in opt.groups]
    with pytest.raises((TypeError, ValueError), match=f"^{name}|^nesterov"):
        setattr(opt, name, bad)
    with pytest.raises((TypeError, ValueError), match=f"^{name}|^nesterov"):
        setattr(opt.groups[1], name, bad)
    assert [repr(group) for group in opt.groups] == before


# ---- other threads, forked children


def count_up(opt, grads, done):
    """Step until told to stop; with momentum 1 and gradients of ones, b is the number of steps."""
    while not done.is_set():
        opt.step(grads)


def is_one_moment(state):
    step = int(np.asarray(state["step"]))
    return (
        np.all(np.asarray(state["steps"]) == step)
        and np.all(np.asarray(state["momentum_buffer/0"]) == step)
        and np.all(np.asarray(state["momentum_buffer/1"]) == step)
    )


def through_file(opt, folder):
    opt.save(folder / "state.npz")
    return dict(np.load(folder / "state.npz"))


def through_pickle(opt, folder):
    return pickle.loads(pickle.dumps(opt)).state_dict()


@pytest.mark.parametrize(
    "read", [lambda opt, folder: opt.state_dict(), through_file, through_pickle]
)
def test_snapshots_are_of_one_moment(read, tmp_path):
    sizes = 400_000, 3
    opt = rl.SGD([np.zeros(n, np.float32) for n in sizes], lr=1e-6, momentum=1.0)
    done = threading.Event()
    grads = [np.ones(n, np.float32) for n in sizes]
    thread = threading.Thread(target=count_up, args=(opt, grads, done))
    thread.start()
    try:
        states = [read(opt, tmp_path) for _ in range(25)]
    finally:
        done.set()
        thread.join()
    assert all(map(is_one_moment, states))
    steps = [int(state["step"]) for state in states]
    assert steps == sorted(steps)
    assert opt.steps >= steps[-1]  # no step was refused for a reader


def test_sums_and_their_count_are_of_one_moment():
    n = 300_000
    opt = rl.SGD([np.zeros(n, np.float32)], lr=1e-6, momentum=1.0, accumulation_steps=3)
    done = threading.Event()
    thread = threading.Thread(target=count_up, args=(opt, [np.ones(n, np.float32)], done))
    thread.start()
    try:
        states = [opt.state_dict() for _ in range(40)]
    finally:
        done.set()
        thread.join()
    for state in states:
        assert np.all(state["momentum_buffer/0"] == state["step"])
        if state["has_accumulated"][0]:
            assert np.all(state["accumulated/0"] == state["micro_step"])
        else:
            assert state["micro_step"] == 0


def test_readers_and_steps_take_turns():
    """Nobody starves: with readers that never stop there are steps, and all threads end."""
    opt = rl.SGD([np.zeros(200_000)], lr=1e-6, momentum=1.0)
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            seen.append(int(opt.state_dict()["step"]))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        opt.step([np.ones(200_000)])
    done.set()
    for thread in threads:
        thread.join()
    assert opt.steps == 20
    assert seen


def test_a_call_inside_of_a_step():
    """What a step calls may look at the optimizer; that it cannot step is said."""
    w = np.ones(3)
    seen = []

    class Comm:
        def allgather(self, value):
            seen.append(opt.state_dict())
            return [value]

    opt = rl.SGD(w, lr=0.5, clip=rl.GlobalNorm(10.0), comm=Comm())
    opt.step(np.ones(3))
    assert int(seen[0]["step"]) == 0
    assert opt.steps == 1

    class Lazy:  # Python that runs while the core is at work
        shape, dtype = (3,), np.dtype(float)

        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **options):
            try:
                self.call()
            except RuntimeError as error:
                seen.append(str(error))
            return np.ones(3).__dlpack__(**options)

    grad = Lazy()
    opt = rl.SGD(w, lr=0.5)
    grad.call = lambda: seen.append(int(opt.state_dict()["step"]))
    opt.step(grad)
    assert seen[-1] == 0
    assert opt.steps == 1


FORKS = """
import os, threading, numpy as np, ridgeline as rl
n = 2_000_000
w = np.zeros(n, np.float32)
opt = rl.SGD(w, lr=1e-3, momentum=0.5)
g = np.ones(n, np.float32)
done = threading.Event()
def work():
    while not done.is_set():
        opt.step(g)
def read():
    while not done.is_set():
        opt.state_dict()
threads = [threading.Thread(target=f) for f in (work, read)]
for thread in threads:
    thread.start()
failed = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        before = opt.state_dict()
        opt.load_state_dict(before)
        opt.set_mask(None)
        opt.decay_filter = None
        report = opt.step(g)
        ok = report.updated and opt.state_dict()["steps"][0] == before["steps"][0] + 1
        grandchild = os.fork()
        if grandchild == 0:
            opt.step(g)
            os._exit(0)
        ok = ok and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if ok else 1)
    failed.append(os.waitpid(pid, 0)[1])
done.set()
for thread in threads:
    thread.join()
opt.step(g)
assert not any(failed), failed
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_has_an_optimizer_that_is_not_busy():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


# ---- no parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "empty", [[], (), {}, [[]], {"a": {}}, [{"params": []}], [{"params": {}}, {"params": ()}]]
)
def test_an_optimizer_wants_parameters(kind, empty):
    with pytest.raises(ValueError, match=r"^params: got no arrays, wants at least one$"):
        kind(empty)


def test_iterators_with_nothing_left():
    for empty in (iter(()), [{"params": np.ones(2)}, {"params": iter(())}]):
        with pytest.raises(ValueError, match=r"^params: got an iterator that has nothing left"):
            rl.AdamW(empty)


def test_a_group_may_be_empty():
    w = np.ones(2)
    opt = rl.SGD([{"params": []}, {"params": w}, {"params": {}}], lr=0.5, momentum=0.9)
    opt.step([[], np.ones(2), {}])
    assert w.tolist() == [0.5, 0.5]
    assert [len(part) for part in opt.state["momentum_buffer"]] == [0, 2, 0]


# ---- what is freed


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_is_freed_with_its_last_reference(kind, no_collector):
    w = {"a": [np.ones((3, 4)), np.ones(5)], "b": np.ones(3)}
    mask = {"a": [None, rl.Mask.from_array([True, False, True, True, True])], "b": None}
    opt = kind([{"params": w}, {"params": np.ones(2)}], lr=0.1, ema=0.9)
    grads = [{"a": [np.ones((3, 4)), np.ones(5)], "b": np.ones(3)}, np.ones(2)]
    opt.step(grads)
    opt.lr = 0.2
    opt.decay_filter = rl.skip_biases_and_norms
    opt.groups[0].weight_decay = 0.1
    opt.set_mask([mask, None], reset=True)
    opt.load_state_dict(opt.state_dict())
    copies = pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)
    assert opt.state is not None
    assert opt.ema is not None
    repr(opt)
    with pytest.raises(ValueError, match="grads"):
        opt.step([])
    watched = [weakref.ref(each) for each in (opt, opt._core, *copies)]
    watched += [weakref.ref(array) for arrays in opt._kept.values() for array in arrays]
    watched.append(weakref.ref(w["b"]))
    del opt, copies, w
    assert [ref() for ref in watched] == [None] * len(watched)


def test_a_group_outlives_its_optimizer(no_collector):
    group = rl.AdamW(np.ones(2), lr=0.1).groups[0]
    group.lr = 0.2
    assert repr(group).startswith("Group(lr=0.2")
    with pytest.raises(ValueError, match=r"^lr: got -1"):
        group.lr = -1
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="belongs to its optimizer"):
            make(group)


# ---- learning rates that somebody else writes


def shared_rates():
    torch = pytest.importorskip("torch")
    jnp = pytest.importorskip("jax.numpy")
    array, one = np.array(0.5), np.array([0.5])
    tensor, double = torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64)
    grown = torch.tensor(0.5, requires_grad=True)
    return {
        "array": (array, lambda v: array.fill(v)),
        "tensor": (tensor, tensor.fill_),
        "one element": (double, double.fill_),
        "requires grad": (grown, lambda v: grown.data.fill_(v)),
        "jax": (jnp.float32(0.5), None),
        "array of one": (one, None),
        "scalar": (np.float32(0.5), None),
    }


@pytest.mark.parametrize("name", ["array", "tensor", "one element", "requires grad"])
@pytest.mark.parametrize("own_group", [False, True])
def test_a_learning_rate_that_is_an_array_is_read_at_every_step(name, own_group):
    rate, fill = shared_rates()[name]
    w = np.zeros(2)
    if own_group:
        opt = rl.SGD([{"params": w, "lr": rate}], lr=1.0)
    else:
        opt = rl.SGD(w, lr=1.0)
        opt.lr = rate
    grads = [np.ones(2)] if own_group else np.ones(2)
    assert opt.lr is rate
    opt.step(grads)
    assert w[0] == -0.5
    fill(2.0)
    opt.step(grads)
    assert w[0] == -2.5
    assert "lr=" in repr(opt)
    twin, v = copy.deepcopy((opt, w))
    for bad in (-1.0, float("nan"), float("inf")):
        fill(bad)
        with pytest.raises(ValueError, match=r"^lr: got .*, wants a finite number of at least 0"):
            opt.step(grads)
    assert (w[0], opt.steps) == (-2.5, 2)
    twin.step(grads)
    assert v[0] == -4.5
    again = pickle.loads(pickle.dumps(twin))
    assert np.asarray(getattr(again.lr, "data", again.lr)) == 2.0
    opt.lr = 0.25
    assert opt.lr == 0.25


@pytest.mark.parametrize("name", ["jax", "scalar"])
def test_learning_rates_that_nobody_can_write(name):
    rate, _ = shared_rates()[name]
    w = np.zeros(2)
    opt = rl.SGD(w, lr=rate)
    opt.step(np.ones(2))
    assert w[0] == -0.5
    assert opt.lr == 0.5


def test_learning_rates_that_are_no_numbers():
    torch = pytest.importorskip("torch")
    for bad in (np.ones(2), np.array([0.5]), torch.ones(2), np.array("x"), "0.1", None, [0.1]):
        with pytest.raises(TypeError, match=r"^lr: got "):
            rl.SGD(np.ones(2), lr=bad)
    opt = rl.SGD(np.zeros(2), lr=lambda step: torch.tensor(0.5, requires_grad=True))
    opt.step(np.ones(2), lr=torch.tensor(0.25))
    assert opt.step(np.ones(2)).updated


def test_numbers_of_groups_are_made_again_where_they_changed():
    w = [np.zeros(1), np.zeros(1)]
    opt = rl.SGD([{"params": p} for p in w], lr=1.0)
    opt.step([np.ones(1)] * 2)
    opt.groups[1].lr = 2.0
    opt.step([np.ones(1)] * 2)
    opt.constraint = rl.Box(-2.5, 0.0)
    opt.step([np.ones(1)] * 2, lr=0.25)
    assert [float(p[0]) for p in w] == [-2.25, -2.5]
    opt.constraint = None
    opt.step([np.ones(1)] * 2)
    assert [float(p[0]) for p in w] == [-3.25, -4.5]
    opt.groups[0].penalty = rl.L2(1.0)
    opt.step([np.zeros(1)] * 2)
    assert [float(p[0]) for p in w] == [0.0, -4.5]


# ---- communicators


class NoArguments:
    def allgather(self):
        return []


class TwoArguments:
    def allgather(self, outputs, inputs):
        return []


class NotCallable:
    allgather = 3


class Ranks:
    def allgather(self, value):
        return [value]


@pytest.mark.parametrize("bad", [3, "world", NoArguments(), TwoArguments(), NotCallable(), Ranks])
def test_objects_that_are_no_communicators(bad):
    w = np.ones(2)
    with pytest.raises(TypeError, match=r"^comm: got .*wants an object whose allgather\(value\)"):
        rl.SGD(w, clip=rl.GlobalNorm(1.0), comm=bad)
    opt = rl.SGD(w, clip=rl.GlobalNorm(1.0), comm=Ranks())
    old = opt.comm
    with pytest.raises(TypeError, match=r"^comm: got "):
        opt.comm = bad
    assert opt.comm is old
    assert opt.step(np.ones(2)).updated


def test_communicators_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available():
        pytest.skip("torch without distributed")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        for bad in (dist.group.WORLD, dist, dist.group):
            with pytest.raises(TypeError, match=r"^comm: got .*all_gather_object|^comm: got the c"):
                rl.SGD(np.ones(2), comm=bad)
        with pytest.raises(TypeError, match=r"^comm: got Dist.*averaged.*wants None"):
            rl.SGD(model.parameters(), comm=model)

        class Ours:  # as in docs/optimizers.md
            def allgather(self, value):
                values = [None] * dist.get_world_size()
                dist.all_gather_object(values, value)
                return values

        opt = rl.SGD(np.ones(2), clip=rl.GlobalNorm(1.0), comm=Ours())
        assert opt.step(np.array([3.0, 4.0])).norm == 5.0
    finally:
        dist.destroy_process_group()


def test_ftrl_divides_by_its_learning_rate():
    """0 is refused at once, in a group, by a setter, and as the rate of one step."""
    torch = pytest.importorskip("torch")
    w = np.zeros(2)
    opt = rl.FTRL(w)
    for make in (
        lambda: rl.FTRL(w, lr=0.0),
        lambda: rl.FTRL(w, lr=torch.tensor(0.0)),
        lambda: rl.FTRL([{"params": w, "lr": 0}]),
        lambda: setattr(rl.FTRL(w), "lr", 0.0),
        lambda: setattr(opt.groups[0], "lr", np.array(0.0)),
        lambda: rl.FTRL(w).step(np.ones(2), lr=0.0),
        lambda: rl.FTRL(w, lr=lambda step: 0.0).step(np.ones(2)),
    ):
        with pytest.raises(ValueError, match=r"^lr: got 0, wants a finite number above 0"):
            make()
    assert not w.any()
    for kind in set(KINDS) - {rl.FTRL}:
        assert kind(w, lr=0.0).step(np.ones(2)).updated


# ---- states in the types of torch


STATES = [
    {"ema": 0.9},
    {"state_dtype": "8bit", "accumulation_steps": 2},
    {"state_dtype": "bfloat16"},
    {"kahan": True},
    {"master_weights": True, "accumulation_steps": 3},
]


def of_torch(kind, dtype="float32", **options):
    torch = pytest.importorskip("torch")
    params = {"w": torch.ones(3, 4), "b": torch.ones(()), "empty": torch.ones(0)}
    params = {name: torch.nn.Parameter(w.to(getattr(torch, dtype))) for name, w in params.items()}
    return params, kind(params, lr=0.1, **options)


@pytest.mark.parametrize("options", STATES)
@pytest.mark.parametrize("kind", [rl.AdamW, rl.NAdam, rl.SGD])
def test_torch_loads_what_it_saves(kind, options):
    torch = pytest.importorskip("torch")
    dtype = "bfloat16" if {"kahan", "master_weights"} & set(options) else "float32"
    momentum = {"momentum": 0.9} if kind is rl.SGD else {}
    params, opt = of_torch(kind, dtype, **options, **momentum)
    for _ in range(3):
        opt.step({name: 0.5 * w.detach() for name, w in params.items()})
    state = opt.state_dict()
    plain = {"version", "optimizer", "step", "steps", "products", "micro_step", "has_accumulated"}
    for name, value in state.items():
        assert type(value) in ((int, str, list) if name in plain else (torch.Tensor,)), name
    assert state["optimizer"] == kind.__name__
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    _, other = of_torch(kind, dtype, **options, **momentum)
    other.load_state_dict(loaded)
    same_states(other, opt)
    # The other kinds: arrays of the released format, and np.savez of both.
    arrays = opt._snapshot()
    assert all(type(value) is np.ndarray for value in arrays.values())
    for given in (arrays, state):
        file = io.BytesIO()
        np.savez(file, **given)
        file.seek(0)
        for form in (given, np.load(file)):
            _, other = of_torch(kind, dtype, **options, **momentum)
            other.load_state_dict(form)
            same_states(other, opt)
    # And into an optimizer of arrays.
    if dtype == "float32":
        memory = {name: w.detach().numpy().copy() for name, w in params.items()}
        numpy = kind(memory, lr=0.1, **options, **momentum)
        numpy.load_state_dict(loaded)
        same_states(numpy, opt)
        assert all(type(value) is np.ndarray for value in numpy.state_dict().values())


def same_states(a, b):
    a, b = a._snapshot(), b._snapshot()
    assert a.keys() == b.keys()
    for name, array in a.items():
        assert array.dtype == b[name].dtype
        assert np.array_equal(array, b[name]), name


def test_states_of_torch_are_copies():
    torch = pytest.importorskip("torch")
    params, opt = of_torch(rl.AdamW)
    state = opt.state_dict()
    opt.step({name: torch.ones_like(w) for name, w in params.items()})
    assert not state["exp_avg/w"].any()
    assert state["step"] == 0
    assert state["steps"] == [0, 0, 0]
    later = opt.state_dict()
    later["exp_avg/w"].fill_(7)
    assert opt.state["exp_avg"]["w"].max() < 1


def test_plain_states_that_do_not_fit():
    torch = pytest.importorskip("torch")
    params, opt = of_torch(rl.NAdam, accumulation_steps=2, ema=0.5)
    opt.step({name: torch.ones_like(w) for name, w in params.items()})
    good = opt.state_dict()
    before = {name: array.tobytes() for name, array in opt._snapshot().items()}
    for bad in (
        {"version": 2}, {"version": "1"}, {"version": 1.5}, {"optimizer": "AdamW"},
        {"optimizer": 3}, {"optimizer": ["N"]}, {"step": -1}, {"step": 0.5}, {"step": [1]},
        {"step": 2**70}, {"steps": [1, 1]}, {"steps": [1, 1, -1]}, {"steps": [1, 1, 1.5]},
        {"steps": [[1], [1, 2], 3]}, {"steps": None}, {"steps": "111"}, {"micro_step": 2},
        {"has_accumulated": [1, 1, 300]}, {"products": [1, 1]}, {"products": "x"},
        {"exp_avg/w": torch.ones(4, 3)}, {"exp_avg/w": torch.ones(3, 4, dtype=torch.float64)},
        {"exp_avg/w": torch.ones(3, 4, dtype=torch.bfloat16)}, {"exp_avg/w": None},
        {"exp_avg/w": torch.ones(3, 4).to_sparse()}, {"exp_avg/w": torch.ones(3, 4, device="meta")},
        {"exp_avg/b": "x"}, {"exp_avg/w": [1]}, {"exp_avg/x": torch.ones(1)}, {3: 4},
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"^state.*got "):
            opt.load_state_dict({**good, **bad})
        assert {n: array.tobytes() for n, array in opt._snapshot().items()} == before, bad
    opt.load_state_dict({**good, "has_accumulated": [True, True, True]})
    opt.load_state_dict({**good, "exp_avg/w": good["exp_avg/w"].requires_grad_()})
    assert {n: array.tobytes() for n, array in opt._snapshot().items()} == before


def test_loading_copies_no_states():
    opt = rl.AdamW([np.ones(1_000_000, np.float32)])
    state = opt.state_dict()
    tracemalloc.start()
    opt.load_state_dict(state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


# ---- the average of the weights


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_restarting_the_average(dtype):
    w = {"a": np.zeros((3, 2), dtype)[:, ::-1], "b": np.zeros(2, dtype)}
    opt = rl.SGD(w, lr=1.0, ema=0.75)
    w["a"][...] = np.arange(6).reshape(3, 2)
    w["b"][...] = 4
    opt.restart_ema_()
    assert all(np.array_equal(opt.ema[name], w[name]) for name in w)
    opt.step({"a": np.zeros((3, 2), dtype), "b": np.ones(2, dtype)})
    assert opt.ema["b"].tolist() == [3.75, 3.75]
    assert np.array_equal(opt.ema["a"], w["a"])
    with pytest.raises(ValueError, match=r"^ema: there is no average"):
        rl.SGD(np.ones(2)).restart_ema_()


def test_restarting_the_average_of_halves():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    opt = rl.AdamW(model.named_parameters(), ema=0.9)
    model.load_state_dict({"weight": torch.full((2, 3), 0.5), "bias": torch.full((2,), 2.0)})
    opt.restart_ema_()
    assert np.all(opt.ema["weight"] == 0.5)
    assert np.all(opt.ema["bias"] == 2.0)
    model.weight.data = torch.ones(4, 4, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="shape"):
        opt.restart_ema_()
    assert np.all(opt.ema["weight"] == 0.5)


def test_warming_up_the_average():
    w = np.zeros(1)
    opt = rl.SGD(w, lr=1.0, ema=0.4, ema_warmup=True)
    assert "ema_warmup=True" in repr(opt)
    assert "ema_warmup" not in repr(rl.SGD(w, ema=0.4))
    average = 0.0
    for k in range(12):
        opt.step(np.array([-1.0]))
        decay = min(0.4, (1 + k) / (10 + k))
        average += (1 - decay) * (w[0] - average)
        assert opt.ema[0] == pytest.approx(average, rel=1e-14)
        if k == 2:
            w, opt = pickle.loads(pickle.dumps((w, opt)))
            assert opt.ema_warmup is True
    opt.ema_warmup = False
    opt.step(np.array([-1.0]))
    assert opt.ema[0] == pytest.approx(average + 0.6 * (w[0] - average), rel=1e-14)
    plain = rl.SGD(w, lr=1.0)
    assert plain.ema_warmup is False
    for bad, error in ((True, ValueError), (1, TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^ema_warmup: got "):
            plain.ema_warmup = bad
        with pytest.raises(error, match=r"^ema_warmup: got "):
            rl.SGD(w, ema_warmup=bad)


# ---- gradients that torch keeps, in containers of every form


def test_own_gradients_of_any_container():
    torch = pytest.importorskip("torch")

    def parameter(value):
        w = torch.nn.Parameter(torch.zeros(2))
        w.grad = None if value is None else torch.full((2,), float(value))
        return w

    Pair = collections.namedtuple("Pair", "a b")
    a, b, c, d, e = ws = [parameter(v) for v in (1, None, 3, 4, 5)]
    for params in (
        ws,
        tuple(ws),
        {str(i): w for i, w in enumerate(ws)},
        [(str(i), w) for i, w in enumerate(ws)],
        {"x": [a, (b, c)], "y": {"z": d, "none": []}, "w": e},
        Pair(a, {"b": b, "rest": Pair(c, [d, e])}),
        [{"params": [a, b]}, {"params": []}, {"params": {"c": c, "d": (d, e)}}],
    ):
        for w in ws:
            w.data.zero_()
        opt = rl.SGD(params, lr=1.0, momentum=0.5, ema=0.0)
        assert opt.step().updated
        assert [w[0].item() for w in ws] == [-1, 0, -3, -4, -5]
        assert first_elements(opt.ema) == [-1, 0, -3, -4, -5]
    mixed = rl.SGD({"a": [a, np.zeros(2)]})
    with pytest.raises(
        TypeError, match=r"^grads: got None, wants gradients: params\['a'\]\[1\] is"
    ):
        mixed.step()


def first_elements(tree):
    """The first elements of all arrays, depth first."""
    if isinstance(tree, np.ndarray):
        return [float(tree[0])]
    nodes = tree.values() if isinstance(tree, dict) else tree
    return [value for node in nodes for value in first_elements(node)]


# ---- which parameters of a model decay


def a_model():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class LlamaRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.ones(2, 2))
            self.other = nn.Parameter(torch.ones(2, 2))

        def no_weight_decay(self):
            return {"tab*"}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.ones(1, 2, 2))
            self.normal_head = nn.Linear(2, 2)
            self.norm1 = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((2, 2)))
            self.first = nn.LayerNorm((2, 2))
            self.second = LlamaRMSNorm()
            self.positions = Positions()
            self.attn = nn.MultiheadAttention(2, 1)
            self.tied = nn.Linear(2, 2, bias=False)
            self.tied.weight = self.normal_head.weight

        def no_weight_decay(self):
            return ["pos_embed", "no_such"]

    return Model()


SPARED = {
    "pos_embed", "normal_head.bias", "norm1.0.bias", "norm1.1.weight", "norm1.1.bias",
    "first.weight", "first.bias", "second.weight", "positions.table", "attn.in_proj_bias",
    "attn.out_proj.bias",
}  # fmt: skip


def test_decay_of_a_model():
    torch = pytest.importorskip("torch")
    model = a_model()
    filters = rl.decay_filter_for(model)
    names = dict(model.named_parameters())
    assert {name for name, p in names.items() if not filters("?", p)} == SPARED
    wrapped = rl.decay_filter_for(torch.nn.Sequential(model))
    assert {name for name, p in names.items() if not wrapped("?", p)} == SPARED
    for params in (model.parameters(), model.named_parameters(), [{"params": model.parameters()}]):
        for p in model.parameters():
            p.data.fill_(1.0)
            p.grad = torch.zeros_like(p)
        opt = rl.SGD(params, lr=0.5, weight_decay=1.0, decay_filter=filters)
        opt.step()
        assert {name for name, p in names.items() if torch.all(p == 1)} == SPARED
    for again, ours in (copy.deepcopy((opt, model)), pickle.loads(pickle.dumps((opt, names)))):
        named = dict(ours.named_parameters()) if isinstance(ours, torch.nn.Module) else ours
        for p in named.values():
            p.data.fill_(1.0)
            p.grad = torch.zeros_like(p)
        again.step()
        assert {name for name, p in named.items() if torch.all(p == 1)} == SPARED


def test_decay_of_other_parameters():
    torch = pytest.importorskip("torch")
    model = a_model()
    stranger = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"^decay_filter: got '1', wants a parameter of the model"):
        rl.SGD([model.pos_embed, stranger], decay_filter=rl.decay_filter_for(model))
    for bad in (None, 3, torch.nn.Linear, list(model.parameters()), "model"):
        with pytest.raises(TypeError, match=r"^model: got .*, wants a torch.nn.Module"):
            rl.decay_filter_for(bad)


# ---- names and values of other libraries


def advice(error):
    """What an error about an unknown name asks, or nothing."""
    return str(error.value).rpartition("; did you mean ")[2].removesuffix("?")


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        (rl.AdamW, "learning_rate", "lr"), (rl.FTRL, "learning_rate", "lr"),
        (rl.AdamW, "beta1", "betas=(beta1, beta2)"), (rl.Lion, "b2", "betas=(b1, b2)"),
        (rl.Adam, "epsilon", "eps"), (rl.SGD, "wd", "weight_decay"), (rl.RMSprop, "rho", "alpha"),
        (rl.SGD, "clipnorm", "clip=rl.Norm(...)"),
        (rl.SGD, "global_clipnorm", "clip=rl.GlobalNorm(...)"),
        (rl.SGD, "clipvalue", "clip=rl.Value(...)"),
        (rl.SGD, "max_grad_norm", "clip=rl.GlobalNorm(...)"),
        (rl.SGD, "l1", "penalty=rl.L1(...)"), (rl.NAdam, "l2", "penalty=rl.L2(...)"),
        (rl.SGD, "momentun", "momentum"), (rl.AdamW, "wieght_decay", "weight_decay"),
        (rl.AdamW, "ema_decay", "ema"), (rl.AdamW, "use_ema", "ema"),
        (rl.AdamW, "gradient_accumulation_steps", "accumulation_steps"),
        (rl.SGD, "beta1", None), (rl.SGD, "epsilon", None), (rl.AdamW, "rho", None),
        (rl.SGD, "foreach", None),
    ],
)  # fmt: skip
def test_did_you_mean(kind, name, says):
    w = np.ones(2)
    with pytest.raises(TypeError, match=f"unexpected argument '{name}', wants any of") as error:
        kind(w, **{name: 0.5})
    assert ("did you mean" in str(error.value)) == (says is not None)
    if says is None:
        return
    assert advice(error) == says
    # The advice is right: the optimizer takes it.
    option = says.split("=")[0]
    values = {"betas": (0.9, 0.99), "accumulation_steps": 2, "clip": rl.Value(1.0)}
    assert kind(w, **{option: values.get(option, rl.L2(0.5) if option == "penalty" else 0.5)})
    if option in kind(w).groups[0]:
        with pytest.raises(TypeError, match=r"^params\[0\]: got ") as error:
            kind([{"params": w, name: 0.5}])
        assert advice(error) == says
        for owner in (kind(w), kind(w).groups[0]):
            with pytest.raises(AttributeError, match="has no") as error:
                setattr(owner, name, 0.5)
            assert advice(error) == says


def test_clips_that_are_numbers():
    for value in (1.0, 2, np.float64(0.5)):
        with pytest.raises(TypeError, match=r"^clip: got .*wants rl.GlobalNorm") as error:
            rl.SGD(np.ones(2), clip=value)
        offers = re.findall(r"rl\.\w+\([0-9.]+\)", str(error.value))
        assert len(offers) == 3
        for offer in offers:
            assert rl.SGD(np.ones(2), clip=eval(offer))
    for bad in (-1.0, float("nan"), True, (-1, 1), "norm", rl.L1(1.0)):
        with pytest.raises(TypeError, match=r"^clip: got .*, wants rl.GlobalNorm\(\.\.\.\)"):
            rl.SGD(np.ones(2), clip=bad)


def test_masks_that_are_arrays():
    w = np.ones((2, 2))
    for params, mask in ((w, w > 0), ([w], [w > 0]), ({"w": w}, {"w": (w > 0).astype(int)})):
        with pytest.raises(TypeError, match=r"^mask.*: got ndarray, wants a Mask, as rl.Mask.from"):
            rl.SGD(params, mask=mask)
    assert rl.SGD(w, mask=rl.Mask.from_array(w > 0)).step(w.copy()).updated


def test_models_in_place_of_their_parameters():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    for model in (
        nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.ParameterDict({"w": torch.ones(2)}),
        nn.ModuleList([nn.Linear(2, 2)]),
    ):  # fmt: skip
        for params in (model, [{"params": model}]):
            with pytest.raises(TypeError, match=r"^params: got .*\.parameters\(\) or \.named_par"):
                rl.SGD(params)
        assert rl.SGD(model.parameters())
        assert rl.SGD(model.named_parameters())
    assert rl.SGD(nn.ParameterList([torch.ones(2)])).step([torch.ones(2)]).updated
