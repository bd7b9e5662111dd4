"""Optimizers: groups, signatures, accumulation's last window, and what earlier versions saved."""

from __future__ import annotations

import inspect
import io
import pickle
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import ridgeline as rl

RULES = ["SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad", "Lion", "FTRL"]
rules = pytest.mark.parametrize("rule", RULES)
SAVED = Path(__file__).parent / "data" / "v0.1.zip"


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(3, 4), (5,)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


# ---- signatures


@rules
def test_signature_lists_every_option(rule):
    kind = getattr(rl, rule)
    parameters = inspect.signature(kind).parameters
    names = list(parameters)
    assert names[:2] == ["params", "lr"]
    assert {"clip", "penalty", "mask", "constraint", "convention", "state_dtype"} <= set(names)
    assert ("prox" in names) == ("max_update_rms" in names) == (rule != "FTRL")
    opt = kind(np.ones(3, np.float32))
    for name, parameter in parameters.items():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if parameter.default is not None and name != "params":
            assert getattr(opt, name) == parameter.default, name
    own = [name for name in names if parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    for name in own[1:]:
        assert f"\n    {name}" in kind.__doc__ or f", {name} :" in kind.__doc__, name
    for name in names[len(own) :]:
        assert f"\n    {name} :" in rl.optimizers.Optimizer.__doc__, name


def test_too_many_and_too_few_arguments():
    with pytest.raises(TypeError, match=r"^Lion: too many positional arguments"):
        rl.Lion(np.ones(2), 0.1, (0.9, 0.99), 0.0, 1.0)
    with pytest.raises(TypeError, match=r"^Lion: missing a required argument: 'params'"):
        rl.Lion()
    with pytest.raises(TypeError, match=r"^Optimizer is an abstract base class; create AdamW"):
        rl.optimizers.Optimizer(np.ones(2))


def test_subclasses():
    class Halved(rl.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr / 2)

    class Plain(rl.AdamW):
        """No constructor."""

    w = np.ones(2)
    Halved(w, 1.0).step(np.ones(2))
    assert w.tolist() == [0.5, 0.5]
    assert Plain(w, 0.5).lr == 0.5
    assert "clip" in inspect.signature(Plain).parameters


# ---- groups


def test_group_is_a_mapping():
    w, b = arrays()
    opt = rl.AdamW([{"params": w, "name": "body"}, {"params": {"b": b}, "lr": 0.5}], lr=0.25)
    body, head = opt.groups
    assert (body["lr"], head["lr"], body.lr, head.lr) == (0.25, 0.5, 0.25, 0.5)
    assert body["params"] is w
    assert head["params"] == {"b": b}
    assert body["name"] == "body"
    assert "name" not in head
    assert head.get("name", "none") == "none"
    assert set(body) - set(head) == {"name"}
    assert len(body) == len(list(body)) == len(dict(body))
    head["lr"] = 0.125
    head["initial_lr"] = 0.5
    assert (head.lr, head["initial_lr"], body.lr) == (0.125, 0.5, 0.25)
    del head["initial_lr"]
    assert "initial_lr" not in head
    with pytest.raises(TypeError, match="lr: a group requires it"):
        del head["lr"]
    with pytest.raises(ValueError, match=r"^lr: got -1, wants"):
        head["lr"] = -1.0
    with pytest.raises(ValueError, match="params: got other parameters"):
        head["params"] = b
    with pytest.raises(KeyError):
        head["nothing"]
    assert {body, head} == {head, body}


@pytest.mark.parametrize("key", ["learning_rate", "clip", "momentum", "weight_decya", "beta1", 3])
def test_items_that_were_meant_as_settings(key):
    """They would be kept and ignored."""
    w = np.ones(2)
    with pytest.raises(TypeError, match=rf"^params\[0\]: got {key!r}, wants any of lr, "):
        rl.AdamW([{"params": w, key: 0.5}])
    opt = rl.AdamW(w)
    with pytest.raises(TypeError, match=rf"^group: got {key!r}, wants any of lr, "):
        opt.groups[0][key] = 0.5
    with pytest.raises(TypeError, match=rf"^params\[1\]: got {key!r}, wants any of lr, "):
        opt.add_group({"params": np.ones(3), key: 0.5})
    assert len(opt.groups) == 1


def test_params():
    w, b = arrays()
    for tree in (w, [w, b], {"w": w, "rest": (b,)}):
        opt = rl.SGD(tree)
        got, wants = opt.params, tree
        assert type(got) is type(wants)
        assert str(got) == str(wants)
    assert opt.params["rest"][0] is b
    opt = rl.SGD(iter([w, b]))
    assert [id(each) for each in opt.params] == [id(w), id(b)]
    assert rl.SGD([{"params": w}, {"params": [b]}]).params[1][0] is b


def test_options_that_are_fixed():
    opt = rl.AdamW(np.ones(2), ema=0.5)
    for name, advice in [("mask", "; call set_mask"), ("ema", "; assign ema_decay"),
                         ("amsgrad", ""), ("convention", ""), ("params", "")]:  # fmt: skip
        with pytest.raises(AttributeError, match=rf"^{name}: is fixed .* is created{advice}$"):
            setattr(opt, name, None)
    opt.set_mask(rl.Mask.from_array([True, False]))
    opt.ema_decay = 0.25
    with pytest.raises(TypeError, match=r"^strict: got int, wants True or False"):
        opt.load_state_dict(opt.state_dict(), strict=1)


# ---- adding a group


@rules
@pytest.mark.parametrize("grouped", [False, True])
def test_add_group(rule, grouped):
    """The same bits as of two optimizers, whose steps are counted for each array."""
    (w, b), (v, c) = arrays(), arrays()
    options = {"momentum": 0.5} if rule in ("SGD", "RMSprop") else {}
    if rule != "FTRL":
        options |= {"penalty": rl.L1(0.01), "ema": 0.5}
    kind = getattr(rl, rule)
    first, second = kind(v, lr=0.1, **options), None
    opt = kind([{"params": w, "name": "w"}] if grouped else w, lr=0.1, **options)
    for k in range(6):
        g, h = arrays(10 + k)
        if k == 3:
            opt.add_group({"params": b, "lr": 0.2, "name": "b"})
            second = kind(c, lr=0.2, **options)
        if k < 3:
            opt.step([g] if grouped else g)
        else:
            report = opt.step([g, h])
            assert report.step == k + 1
            second.step(h)
        first.step(g)
    assert w.tobytes() == v.tobytes()
    assert b.tobytes() == c.tobytes()
    for name, tree in opt.state.items():
        for got, wants in zip(tree, (first.state[name], second.state[name]), strict=True):
            assert got.tobytes() == wants.tobytes(), name
    assert [group["name"] for group in opt.groups if "name" in group][-1] == "b"
    if "ema" in options:
        assert opt.ema[0].tobytes() == first.ema.tobytes()
        assert opt.ema[1].tobytes() == second.ema.tobytes()
    again = pickle.loads(pickle.dumps(opt))
    assert again.state_dict().keys() == opt.state_dict().keys()


def test_add_group_during_accumulation_and_with_a_mask():
    w, b = np.ones(4), np.ones(2)
    mask = rl.Mask.from_array([True, False, True, False])
    opt = rl.SGD(w, lr=1.0, accumulation_steps=2, mask=mask)
    opt.step(np.full(4, 0.5))
    opt.add_group(b, lr=0.5)
    opt.step([np.full(4, 1.5), np.ones(2)])
    assert w.tolist() == [0, 1, 0, 1]
    assert b.tolist() == [0.75, 0.75]  # the mean with a gradient that was not there
    assert opt.mask == [mask, None]


def test_a_new_group_takes_the_arguments_of_the_constructor():
    """Not what the first group has of its own."""
    opt = rl.SGD([{"params": np.ones(2), "lr": 0.125}], lr=0.5)
    opt.add_group(np.ones(3))
    again = pickle.loads(pickle.dumps(opt))
    again.add_group(np.ones(1))
    assert [group.lr for group in again.groups] == [0.125, 0.5, 0.5]
    opt.lr = 0.25  # of all, and of those that come
    opt.add_group(np.ones(1))
    assert [group.lr for group in opt.groups] == [0.25] * 3


def test_rates_become_functions_and_numbers_again():
    w, b = np.zeros(1), np.zeros(1)
    opt = rl.SGD([{"params": w}, {"params": b}], lr=1.0)
    for i, rate in [(0, lambda step: 2.0), (1, lambda step: 4.0), (0, 8.0), (1, 16.0)]:
        opt.groups[i].lr = rate
        opt.step([np.ones(1), np.ones(1)])
    assert (w.item(), b.item()) == (-2 - 2 - 8 - 8, -1 - 4 - 4 - 16)


STATM = Path("/proc/self/statm")


@pytest.mark.skipif(not STATM.exists(), reason="needs Linux's /proc/self/statm")
def test_zeros_are_not_written_into_new_states():
    """Their pages are not there before the first step."""
    w = np.zeros(2**22, np.float32)
    before = int(STATM.read_text().split()[1])
    opt = rl.Adam(w)
    pages = int(STATM.read_text().split()[1]) - before
    assert pages * 4096 < w.nbytes / 2  # twice w.nbytes if all were written
    assert opt.state["exp_avg"].shape == w.shape


def test_a_group_that_cannot_be_added():
    w = np.ones(4, np.float32)
    opt = rl.Adam({"w": w}, lr=0.5, state_dtype="bfloat16")
    g = {"w": np.ones(4, np.float32)}
    opt.step(g)
    before, groups = opt.state_dict(), opt.groups
    for bad, error in [
        ({"params": np.ones(2), "lr": 0.1}, TypeError),  # float64
        ({"params": np.ones(2, np.float32), "lr": -1.0}, ValueError),
        ({"params": np.ones(2, int)}, TypeError),
        ({"params": w[:2]}, ValueError),
        (iter([]), ValueError),
        ({"params": np.ones(2, np.float32), "decay_filter": lambda *_: -1.0}, ValueError),
    ]:
        with pytest.raises(error):
            opt.add_group(bad)
        assert opt.groups is groups
        after = opt.state_dict()
        assert {k: a.tobytes() for k, a in after.items()} == {
            k: a.tobytes() for k, a in before.items()
        }
    opt.lr = 0.25
    assert opt.step(g).step == 2


# ---- rates


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_weight_decay_as_a_function(decay):
    (w, _), (v, _) = arrays(), arrays()
    opt = rl.AdamW(w, lr=0.1, weight_decay=lambda step: 0.5 / (1 + step), decay=decay)
    other = rl.AdamW(v, lr=0.1, decay=decay)
    for k in range(3):
        g, _ = arrays(k)
        other.weight_decay = 0.5 / (1 + k)
        opt.step(g)
        other.step(g)
        assert w.tobytes() == v.tobytes()
    opt.weight_decay = lambda step: -1.0
    with pytest.raises(ValueError, match=r"^weight_decay: got -1, wants"):
        opt.step(g)
    opt.weight_decay = 0.0
    assert opt.step(g).step == 4


# ---- filters of penalties


@pytest.mark.parametrize(
    ("rule", "prox"), [(rule, None) for rule in RULES] + [(rule, "plain") for rule in RULES[:-1]]
)
def test_penalty_filter(rule, prox):
    """The bits of groups with penalties of their own."""
    (w, b), (v, c) = arrays(), arrays()
    u, d = np.ones(3, np.float32), np.ones(3, np.float32)
    options = {} if prox is None else {"prox": prox}
    factors = {"w": True, "b": False, "u": 0.5}
    penalty = rl.L1(0.25) + rl.L2(0.5) + rl.Huber(0.25, 1.0) if prox is None else rl.MCP(0.25, 8.0)
    half = rl.L1(0.125) + rl.L2(0.25) + rl.Huber(0.125, 1.0) if prox is None else rl.MCP(0.125, 8.0)
    kind = getattr(rl, rule)
    opt = kind(
        {"w": w, "b": b, "u": u}, lr=0.1, penalty=penalty,
        penalty_filter=lambda name, _: factors[name], **options,
    )  # fmt: skip
    groups = [{"params": v, "penalty": penalty}, {"params": c}, {"params": d, "penalty": half}]
    other = kind(groups, lr=0.1, **options)
    for k in range(3):
        g, h = arrays(k)
        e = g.ravel()[:3].copy()
        report = opt.step({"w": g, "b": h, "u": e})
        wants = other.step([g, h, e])
        assert report.penalty == wants.penalty > 0
    for got, expected in ((w, v), (b, c), (u, d)):
        assert got.tobytes() == expected.tobytes()
    factors["b"] = -1.0
    with pytest.raises(ValueError, match=r"^penalty_filter: got -1, wants"):
        opt.penalty_filter = lambda name, _: factors[name]
    opt.penalty_filter = None
    factors["b"] = 1.0
    assert opt.step({"w": g, "b": h, "u": e}).penalty > other.step([g, h, e]).penalty


def test_penalty_filter_and_weights():
    """Weights of the adaptive lasso stay with their arrays."""
    tree = {"a": np.ones(2), "b": np.ones(3), "c": np.ones(2)}
    weights = {"a": np.full(2, 2.0), "b": np.full(3, 4.0), "c": np.full(2, 8.0)}
    opt = rl.SGD(
        tree, lr=0.125, penalty=rl.L1(1.0, weights=weights), prox="plain",
        penalty_filter=lambda name, _: {"a": 0.5, "b": 0.0, "c": 0.25}[name],
    )  # fmt: skip
    opt.step({name: np.zeros_like(each) for name, each in tree.items()})
    assert [each.tolist() for each in tree.values()] == [[0.875] * 2, [1.0] * 3, [0.75] * 2]


# ---- the last window


@rules
def test_flush(rule):
    """The mean of the gradients that there are."""
    (w, _), (v, _) = arrays(), arrays()
    kind = getattr(rl, rule)
    opt = kind(w, lr=0.1, accumulation_steps=4, clip=rl.GlobalNorm(0.5))
    other = kind(v, lr=0.1, accumulation_steps=3, clip=rl.GlobalNorm(0.5))
    assert not opt.flush().updated
    with pytest.raises(TypeError, match=r"^lr: got str"):
        opt.flush(lr="0.1")  # with nothing to do, too
    for k in range(3):
        g, _ = arrays(k)
        opt.step(g)
        wants = other.step(g)
    report = opt.flush()
    assert report == wants
    assert report.updated
    assert w.tobytes() == v.tobytes()
    assert not opt.flush().updated
    assert opt.steps == 1
    opt.step(g)
    assert opt.flush(lr=0.5).step == 2


def test_flush_of_an_error_keeps_the_sums():
    w = np.zeros(2)
    opt = rl.SGD(w, lr=1.0, accumulation_steps=3, on_nonfinite="propagate")
    opt.step(np.array([np.inf, 0.0]))
    opt.on_nonfinite = "raise"
    with pytest.raises(rl.NonFiniteError):
        opt.flush()
    assert w.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"^lr: got -1, wants"):
        opt.flush(lr=-1.0)
    opt.on_nonfinite = "propagate"
    assert opt.flush().updated
    assert w.tolist() == [-np.inf, 0]


# ---- loading


def test_loading_what_does_not_fit():
    w, b = arrays()
    g = {"w": np.ones_like(w), "b": np.ones_like(b)}
    opt = rl.Adam({"w": w, "b": b})
    opt.step(g)
    saved = opt.state_dict()
    del saved["exp_avg/b"]
    saved["exp_avg/old"] = np.ones(3, np.float32)
    other = rl.Adam({"w": w, "b": b})
    with pytest.raises(ValueError, match=r"^state: got no 'exp_avg/b'"):
        other.load_state_dict(saved)
    assert other.steps == 0
    report = other.load_state_dict(saved, strict=False)
    assert report.missing_keys == ["exp_avg/b"]
    assert report.unexpected_keys == ["exp_avg/old"]
    assert other.steps == 1
    assert other.state["exp_avg"]["w"].tobytes() == opt.state["exp_avg"]["w"].tobytes()
    assert not other.state["exp_avg"]["b"].any()
    assert other.state["exp_avg_sq"]["b"].tobytes() == opt.state["exp_avg_sq"]["b"].tobytes()
    fewer = rl.Adam({"w": w})
    report = fewer.load_state_dict(opt.state_dict(), strict=False)
    assert report.missing_keys == ["steps"]
    assert report.unexpected_keys == ["exp_avg/b", "exp_avg_sq/b"]
    counting = rl.SGD(w, accumulation_steps=2)
    without = {k: v for k, v in counting.state_dict().items() if k != "micro_step"}
    assert counting.load_state_dict(without, strict=False).missing_keys == ["micro_step"]
    with pytest.raises(ValueError, match=r"got shape"):
        rl.Adam({"w": np.ones(2, np.float32)}).load_state_dict(saved, strict=False)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("wrapped", ["saved", "own"])
def test_prefixes_of_wrapped_modules(prefix, wrapped):
    w, b = arrays()
    plain = {"layer.weight": w, "layer.bias": b}
    inner = "layer._orig_mod." if prefix == "_orig_mod." else "layer."
    outer = {prefix + name.replace("layer.", inner): each for name, each in plain.items()}
    first, second = (outer, plain) if wrapped == "saved" else (plain, outer)
    opt = rl.AdamW(first)
    opt.step({name: np.ones_like(each) for name, each in first.items()})
    other = rl.AdamW(second)
    assert other.load_state_dict(opt.state_dict()) == ([], [])
    got = [each.tobytes() for each in other.state["exp_avg"].values()]
    assert got == [each.tobytes() for each in opt.state["exp_avg"].values()]
    saved = opt.state_dict()
    saved["exp_avg/module.layer.weight"] = saved["exp_avg/_orig_mod.layer.weight"] = np.ones_like(w)
    with pytest.raises(ValueError, match="and another entry"):
        rl.AdamW(plain).load_state_dict(saved)


# ---- what version 0.1 saved

saved = pytest.mark.skipif(
    find_spec("numpy._core") is None, reason="NumPy 1 does not read NumPy 2's pickles"
)


@saved
@rules
def test_saved_by_version_0_1(rule):
    """Pickles and files of commit 40abb13 go on with the bits that they went on with then."""
    with zipfile.ZipFile(SAVED) as file:
        params, opt = pickle.loads(file.read(f"{rule}.pickle"))
        state = np.load(io.BytesIO(file.read(f"{rule}.npz")))
        after = np.load(io.BytesIO(file.read(f"{rule}.after.npz")))
    opt.load_state_dict(state)
    rng = np.random.default_rng(103)
    grads = {"w": rng.standard_normal((3, 4)).astype("f4")}
    grads["b"] = [rng.standard_normal(5).astype("f4")]
    opt.step([grads["w"], grads["b"]] if rule == "AdamW" else grads)
    assert opt.steps == (2 if rule == "NAdam" else 4)
    assert params["w"].tobytes() == after["w"].tobytes()
    assert params["b"][0].tobytes() == after["b"].tobytes()


@saved
def test_objects_saved_by_version_0_1():
    with zipfile.ZipFile(SAVED) as file:
        mask, masks, key, penalty, box, clip = pickle.loads(file.read("mask.pickle"))
        params, pruner, state, *structures = pickle.loads(file.read("pruner.pickle"))
    assert (mask.sparsity, masks.sparsity) == (0.5, 0.5)
    assert key == rl.Key(3).fold_in(2)
    assert (penalty, box, clip) == (rl.L1(0.1) + rl.L2(0.2), rl.Box(-1, 2), rl.GlobalNorm(2.0))
    assert pruner.step_count == 4
    assert pruner.step().step == 4
    assert structures == [rl.prune.NM(2, 4), rl.prune.Channels(0), rl.prune.rows(1)]
    moving = rl.prune.RigL({"w": np.ones((20, 20), "f4")}, 0.8, key=rl.Key(1), every=2, end=20)
    moving.load_state_dict(state)
    assert not params["w"][~pruner.masks["w"].to_array()].any()


# ---- states of several types, and decay without the learning rate


def _after_three_steps(make, sizes=(5000, 300, 700)):
    draw = np.random.default_rng(3)
    arrays = [draw.normal(size=n).astype(np.float32) for n in sizes]
    opt = make([{"params": arrays[:2]}, {"params": arrays[2]}])
    for _ in range(3):
        grads = [draw.normal(size=n).astype(np.float32) for n in sizes]
        opt.step([grads[:2], grads[2]])
    return arrays, opt


def test_state_dtype_of_a_group():
    def mixed(groups):
        groups[0]["state_dtype"] = "8bit"
        return rl.AdamW(groups, state_dtype="bfloat16")

    arrays, opt = _after_three_steps(mixed)
    coded, _ = _after_three_steps(lambda groups: rl.AdamW(groups, state_dtype="8bit"))
    halves, _ = _after_three_steps(lambda groups: rl.AdamW(groups, state_dtype="bfloat16"))
    for own, other in zip(arrays, [*coded[:2], halves[2]], strict=True):
        np.testing.assert_array_equal(own, other)
    assert [array.dtype for array in opt.state["exp_avg"][0]] == [np.uint8] * 2
    assert opt.state["exp_avg"][1].dtype == np.uint16
    assert opt.state["exp_avg_scale"][1].shape == (0,)
    assert [group["state_dtype"] for group in opt.groups] == ["8bit", "bfloat16"]
    with pytest.raises(AttributeError, match=r"state_dtype: differs between groups"):
        _ = opt.state_dtype
    again = pickle.loads(pickle.dumps(opt))
    assert again.groups[1].state_dtype == "bfloat16"
    for name, array in opt.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)


def test_state_dtype_of_an_added_group():
    opt = rl.AdamW(np.ones(4000, np.float32))
    opt.add_group(np.ones(600, np.float32), state_dtype="8bit")
    assert [array.shape for array in opt.state["exp_avg_scale"]] == [(0,), (3,)]
    opt.add_group(np.ones(5, np.float32))
    assert [array.shape for array in opt.state["exp_avg_scale"]] == [(0,), (3,), (0,)]
    opt.step([np.ones(n, np.float32) for n in (4000, 600, 5)])
    other = pickle.loads(pickle.dumps(opt))
    other.load_state_dict(opt.state_dict())
    np.testing.assert_array_equal(other.state["exp_avg"][1], opt.state["exp_avg"][1])


def test_small_parameters_keep_wide_moments():
    def make(groups):
        return rl.AdamW(groups, state_dtype="8bit", min_8bit_size=1000)

    arrays, _ = _after_three_steps(make)
    coded, _ = _after_three_steps(lambda groups: rl.AdamW(groups, state_dtype="8bit"))
    wide, _ = _after_three_steps(rl.AdamW)
    for own, other in zip(arrays, [coded[0], wide[1], wide[2]], strict=True):
        np.testing.assert_array_equal(own, other)
    exactly = rl.AdamW(np.ones(1000, np.float32), state_dtype="8bit", min_8bit_size=1000)
    assert exactly.state["exp_avg"].dtype == np.uint8


def test_state_dtype_is_fixed():
    opt = rl.AdamW(np.ones(2, np.float32))
    for change in (
        lambda: setattr(opt, "state_dtype", "8bit"),
        lambda: setattr(opt.groups[0], "state_dtype", "8bit"),
        lambda: opt.groups[0].update(state_dtype="8bit"),
    ):
        with pytest.raises(AttributeError, match="state_dtype: is fixed when AdamW is created"):
            change()
    with pytest.raises(ValueError, match="state_dtype: got '8bit' for Adagrad"):
        rl.Adagrad([{"params": np.ones(2, np.float32), "state_dtype": "8bit"}])
    with pytest.raises(TypeError, match=r"state_dtype: got 'float64' for params\[1\]"):
        rl.Adam([{"params": np.ones(2)}, {"params": np.ones(2, np.float32)}], state_dtype="float64")


@pytest.mark.parametrize("lr", [0.0, 0.5])
def test_decay_without_the_learning_rate(lr):
    w, g = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    rl.SGD(w, lr=lr, decay="decoupled", weight_decay=0.125, lr_independent_decay=True).step(g)
    np.testing.assert_array_equal(w, np.array([1.0, -2.0]) * (1 - 0.125) - lr * g)


def test_decay_without_the_learning_rate_is_refused():
    w = np.ones(2)
    with pytest.raises(ValueError, match="lr_independent_decay: got True with coupled decay"):
        rl.Adam(w, lr_independent_decay=True)
    with pytest.raises(ValueError, match=r"weight_decay: got 2.* with lr_independent_decay"):
        rl.AdamW(w, lr_independent_decay=True, weight_decay=2)
    opt = rl.AdamW(w, lr_independent_decay=True, weight_decay=lambda _: 2.0)
    with pytest.raises(ValueError, match=r"weight_decay: got 2.* with lr_independent_decay"):
        opt.step(np.ones(2))
    layers = {"a": np.ones(2), "b": np.ones(2)}
    opt = rl.AdamW(
        layers, lr_independent_decay=True, weight_decay=0.75,
        decay_filter=lambda name, _: 4.0 if name == "b" else 1.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"weight_decay\['b'\]: got 3.* with lr_independent"):
        opt.step({"a": np.ones(2), "b": np.ones(2)})
    assert all((layer == 1).all() for layer in layers.values())
    with pytest.raises(ValueError, match="lr_independent_decay: got True, wants False"):
        rl.ScheduleFreeAdamW(w, lr_independent_decay=True)
    opt = rl.AdamW(w, lr_independent_decay=True)
    with pytest.raises(ValueError, match=r"weight_decay: got 1\.5"):
        opt.weight_decay = 1.5
    with pytest.raises(ValueError, match="lr_independent_decay: got True with coupled"):
        opt.decay = "coupled"
    assert (opt.weight_decay, opt.decay) == (0.01, None)
    assert (w == 1).all()
