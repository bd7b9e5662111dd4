"""``ridgeline bench``: that it runs and records what it says. No test asserts a time."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

import ridgeline as rl
from ridgeline.bench import (
    cases,
    cli,
    fairness,
    measure,
    memory,
    peers,
    prune_peers,
    random_peers,
    roof,
)

pytest.importorskip("rich")

LIBRARIES = ("torch", "jax", "numba")


def bench(*options: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


@pytest.fixture
def without_libraries(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in LIBRARIES else real(name, *rest),
    )


@pytest.mark.usefixtures("without_libraries")
class TestRun:
    def test_json_has_the_documented_fields(self, tmp_path, capsys):
        file = tmp_path / "out.json"
        options = ("-k", "global_norm 16KiB", "--budget", 0, "--threads", 1, "--json", file)
        assert bench(*options, "--target", "scalar") == 0
        report = json.loads(file.read_text())
        assert report["format"] == 1
        assert {"cpu", "cores", "memory", "huge_pages", "load"} <= set(report["machine"])
        assert report["versions"]["ridgeline"] == rl.__version__
        assert report["versions"]["numpy"] == np.__version__
        assert isinstance(report["environment"], dict)
        assert report["settings"]["threads"] == 1
        assert report["settings"]["target"] == "scalar"
        assert report["left_out"] == dict.fromkeys(LIBRARIES, "not installed")
        names = [result["case"] for result in report["results"]]
        assert names == [
            "global_norm/16KiB",
            "clip_by_global_norm/clips/16KiB",
            "clip_by_global_norm/within/16KiB",
        ]
        norm, clips, _ = report["results"]
        assert norm["traffic_bytes"] == 2**14
        assert clips["traffic_bytes"] == 3 * 2**14
        assert norm["roof_seconds"] > 0
        assert norm["best_peer"] == "numpy"
        assert norm["speedup"] > 0
        for result in report["results"]:
            assert set(result["implementations"]) == {"ridgeline", "numpy"}
            for figures in result["implementations"].values():
                assert 0 < figures["min"] <= figures["median"] <= figures["max"]
                assert figures["runs"] >= 7
                assert figures["gb_per_s"] > 0
                assert figures["of_roof"] > 0
        assert norm["implementations"]["ridgeline"]["relative_error"] < 1e-14
        printed = capsys.readouterr().out
        assert "global_norm/16KiB" in printed
        assert "without torch: not installed" in printed

    def test_settings_are_put_back(self):
        target, threads = rl.runtime.target(), rl.get_num_threads()
        assert bench("-k", "overhead global_norm", "--budget", 0, "--target", "scalar") == 0
        assert rl.runtime.target() == target
        assert rl.get_num_threads() == threads

    def test_overhead_is_over_an_empty_call(self, tmp_path):
        file = tmp_path / "out.json"
        assert bench("-k", "overhead/prox_l1", "--budget", 0, "--json", file) == 0
        (result,) = json.loads(file.read_text())["results"]
        assert set(result["implementations"]) == {"ridgeline", "numpy", "empty call"}
        assert result["best_peer"] == "numpy"
        medians = {name: each["median"] for name, each in result["implementations"].items()}
        assert result["overhead_seconds"] == medians["ridgeline"] - medians["empty call"]
        assert result["roof_seconds"] is None


class TestRefusals:
    def test_filter_without_a_case_lists_them(self, capsys):
        assert bench("-k", "no such case") == 2
        message = capsys.readouterr().err
        assert "-k 'no such case'" in message
        assert all(case.name in message for case in cases.cases())

    def test_unknown_target_names_the_known(self, capsys):
        assert bench("--target", "abacus") == 2
        assert "wants one of" in capsys.readouterr().err

    def test_directory_of_json_must_exist(self, tmp_path, capsys):
        assert bench("--json", tmp_path / "none" / "out.json") == 2
        assert "no directory" in capsys.readouterr().err

    def test_threads_are_positive(self, capsys):
        with pytest.raises(SystemExit):
            bench("--threads", "0")
        assert "wants 1 or more" in capsys.readouterr().err

    def test_rich_is_asked_for(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "rich.console", None)
        assert bench("--list") == 2
        assert "pip install 'ridgeline[bench]'" in capsys.readouterr().err


class TestCases:
    def test_names_are_unique_and_listed(self, capsys):
        names = [case.name for case in cases.cases()]
        assert len(set(names)) == len(names)
        assert bench("--list") == 0
        assert capsys.readouterr().out.split() == names

    def test_words_select_in_any_order(self):
        assert [c.name for c in cases.select("64mib PROX")] == ["prox_l1/64MiB"]
        assert len(cases.select("")) == len(cases.cases())

    def test_resnet50_has_its_parameters(self):
        assert len(cases.RESNET.sizes) == 161
        assert cases.RESNET.elements == 25_557_032

    @pytest.mark.usefixtures("without_libraries")
    @pytest.mark.parametrize("case", cases.cases(), ids=lambda case: case.name)
    def test_data_costs_the_same_at_every_call(self, case):
        """Also the last call of a run writes, where the case says that calls write."""
        operation = case.operation
        most = max(300, abs(math.prod(operation.shape)))
        small = replace(case.layout, sizes=tuple(min(n, most) for n in case.layout.sizes[:3]))
        memory = measure.Memory(small.elements)
        memory.restore(small.elements)
        arrays = memory.arrays(small, operation.arrays)
        norms = measure._norms(case, arrays)
        ridgeline = case.implementations(LIBRARIES)[0]
        calls = measure._arguments(
            replace(case, layout=small), ridgeline, arrays, norms, cases.CALLS
        )
        changed = False
        for arguments in calls:
            before = [x.copy() for each in arrays for x in each]
            operation.function(*arguments)
            after = [x for each in arrays for x in each]
            changed = any(not np.array_equal(x, y) for x, y in zip(before, after, strict=True))
        in_place = cases.OUT not in operation.arrays
        if operation.variant in ("clips", "everything") or not (in_place or operation.writes):
            assert changed
        tiny = np.finfo(np.float32).tiny
        written = [x for x in after if not np.all(np.isnan(x))]
        assert all(np.all((np.abs(x) >= tiny) | (x == 0)) for x in written)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the peers' own
    @pytest.mark.parametrize(
        "case",
        [
            case
            for case in cases.cases()
            if case.layout in (cases.CACHE_2, cases.THOUSAND) or case.operation.prunes
        ],
        ids=lambda case: case.name,
    )
    def test_every_peer_computes_the_same(self, case):
        good, left_out = measure._checked(case, peers.missing(compiled=False, threads=10**6))
        assert left_out == {}
        assert good[0].name == "ridgeline"
        installed = {each.kind for each in good if each.name != "ridgeline"}
        assert {name for name in ("torch", "numba") if peers._installed(name)} <= installed

    def test_jax_needs_all_cores(self, monkeypatch):
        monkeypatch.setattr(peers, "_installed", lambda name: True)
        monkeypatch.setattr(peers, "_cores", lambda: 4)
        assert "4 cores" in peers.missing(compiled=True, threads=3)["jax"]
        assert peers.missing(compiled=True, threads=4) == {}
        assert list(peers.missing(compiled=False, threads=4)) == ["torch.compile"]


class TestChecks:
    @pytest.fixture
    def case(self):
        (case,) = cases.select("overhead/prox_l1")
        return case

    @pytest.mark.usefixtures("without_libraries")
    def test_a_wrong_peer_is_left_out(self, case, monkeypatch):
        monkeypatch.setitem(peers._NUMPY_ONE, "prox_l1", lambda x, step: None)
        good, left_out = measure._checked(case, LIBRARIES)
        assert [each.name for each in good] == ["ridgeline", "empty call"]
        assert left_out == {"numpy": "gives another result"}

    @pytest.mark.usefixtures("without_libraries")
    def test_a_failing_peer_is_left_out(self, case, monkeypatch):
        def fail(x, step):
            raise RuntimeError("no compiler\nat all")

        monkeypatch.setitem(peers._NUMPY_ONE, "prox_l1", fail)
        _, left_out = measure._checked(case, LIBRARIES)
        assert left_out == {"numpy": "RuntimeError: no compiler"}

    @pytest.mark.usefixtures("without_libraries")
    def test_our_own_mistake_stops_everything(self, case, monkeypatch, capsys):
        wrong = replace(case, operation=replace(case.operation, function=lambda x, step: None))
        monkeypatch.setattr(cli, "select", lambda words: [wrong])
        assert bench("--budget", 0) == 2
        assert "disagree" in capsys.readouterr().err


DRAWS = {op.full_name: op for op in cases.OPERATIONS if op.fair and not op.prunes}


def draw(name, function=None):
    """Return what a call of an operation read and made, and its numbers."""
    operation = DRAWS[name]
    small = operation.reduced(cases.CACHE_1)
    case = cases.Case(operation, small)
    implementation = peers.Implementation("one", function or operation.function)
    outcome = measure._outcome(case, measure.Memory(small.elements), implementation)
    results = outcome.results(operation.arrays)
    read, made = ([x.reshape(operation.shape) for x in each] for each in (outcome.read, results))
    return read, made, outcome.numbers


def is_fair(name, read, made, numbers):
    return DRAWS[name].fair(read, [np.float32(x) for x in made], numbers)


NORMAL_OR_UNIFORM = ("gaussian_dropout/10", "random_uniform", "random_normal")


def chosen(name, read, p, keep):
    """Return what dropout of each kind makes of the choices."""
    x = read[0]
    if name == "alpha_dropout/10":
        a, shift, dropped = fairness.alpha_constants(p)
        return [np.where(keep, a * x + shift, dropped)]
    if name == "spatial_dropout/50":
        keep = keep.reshape(*x.shape[:2], 1, 1)
    if name == "dropout_add/10":
        return [np.where(keep, x / (1 - p), 0) + read[1]]
    return [np.where(keep, each / (1 - p), 0) for each in read]


class TestFairness:
    @pytest.mark.parametrize("name", DRAWS)
    def test_ridgeline_is_fair(self, name):
        assert is_fair(name, *draw(name))

    @pytest.mark.parametrize("generator", [np.random.PCG64, np.random.SFC64])
    @pytest.mark.parametrize("name", DRAWS)
    def test_numpy_is_fair(self, name, generator):
        table = random_peers._numpy_table(generator)
        for _ in range(3):
            assert is_fair(name, *draw(name, table[DRAWS[name].name]))

    @pytest.mark.parametrize("errors", [-7, -5, 0, 5, 7])
    @pytest.mark.parametrize("name", [name for name in DRAWS if name not in NORMAL_OR_UNIFORM])
    def test_another_probability_is_not(self, name, errors):
        """With the right scale, and the probability off by that many standard errors."""
        read, _, (p, *_) = draw(name)
        n = read[0].size // (256 if name == "spatial_dropout/50" else 1)
        u = np.random.default_rng(0).permutation((np.arange(n) + 0.5) / n)  # no error of its own
        keep = u >= p + errors * math.sqrt(p * (1 - p) / n)
        assert is_fair(name, read, chosen(name, read, p, keep), (p,)) == (abs(errors) < 6)

    @pytest.mark.parametrize(
        "name", ["dropout/50", "dropout/10", "dropout_in_place/50", "spatial_dropout/50"]
    )
    def test_dropout_without_its_scale_is_not(self, name):
        read, (y,), (p, *_) = draw(name)
        assert not is_fair(name, read, [y * np.float32(1 - p)], (p,))
        assert not is_fair(name, read, [y * np.float32(1 + 1e-6)], (p,))

    def test_one_wrong_element_is_not_fair(self):
        read, (y,), numbers = draw("dropout/50")
        for wrong in (np.nan, np.inf, 1e-30, -y[y != 0][0]):
            z = y.copy()
            z[np.flatnonzero(y)[0]] = wrong
            assert not is_fair("dropout/50", read, [z], numbers)

    @pytest.mark.parametrize("length", [1, 2, 64, 4096, 40_000])
    @pytest.mark.parametrize("name", ["dropout/50", "dropout/10"])
    def test_a_mask_shared_between_rows_is_not(self, name, length):
        """Also if it has exactly the right number of choices."""
        (x,), _, (p, *_) = draw(name)
        u = np.random.default_rng(0).permutation((np.arange(length) + 0.5) / length)
        keep = np.resize(u >= p, x.size)
        assert not is_fair(name, [x], [np.where(keep, x / (1 - p), 0)], (p,))
        keep = np.repeat(u >= p, -(-x.size // length))[: x.size]
        assert not is_fair(name, [x], [np.where(keep, x / (1 - p), 0)], (p,))

    def test_elements_are_no_channels(self):
        (x,), (y,), (p, *_) = draw("spatial_dropout/50")
        alone = rl.dropout(x, p, rl.Key(1))
        assert not is_fair("spatial_dropout/50", [x], [alone], (p,))
        assert not is_fair("dropout/50", [x], [y], (p,))
        samples = rl.dropout(x, p, rl.Key(1), broadcast_axes=(1, 2, 3))
        assert not is_fair("spatial_dropout/50", [x], [samples], (p,))

    def test_forward_and_backward_share_a_mask(self):
        name = "dropout_forward_backward/50"
        (x, dy), (y, dx), numbers = draw(name)
        other = rl.dropout(dy, numbers[0], rl.Key(99))
        assert not is_fair(name, [x, dy], [y, other], numbers)
        one = dx.copy()
        one[np.flatnonzero(dx)[0]] = 0
        assert not is_fair(name, [x, dy], [y, one], numbers)
        assert not is_fair(name, [x, dy], [y, dx / 2], numbers)
        assert not is_fair(name, [x, dy], [y, y], numbers)

    def test_dropout_add_adds_the_residual_alone(self):
        name = "dropout_add/10"
        (x, r), (y,), (p, *_) = draw(name)
        assert not is_fair(name, [x, r], [rl.dropout(x, p, rl.Key(1))], (p,))
        assert not is_fair(name, [x, r], [rl.dropout(x + r, p, rl.Key(1))], (p,))
        assert not is_fair(name, [x, r], [r + (y - r) * (1 - p)], (p,))
        assert not is_fair(name, [x, r], [y + np.float32(1e-4)], (p,))

    def test_alpha_dropout_is_no_dropout(self):
        name = "alpha_dropout/10"
        (x,), (y,), (p, *_) = draw(name)
        a, _, dropped = fairness.alpha_constants(p)
        kept = np.abs(y - dropped) > 1e-5
        assert not is_fair(name, [x], [rl.dropout(x, p, rl.Key(1))], (p,))
        assert not is_fair(name, [x], [np.where(kept, a * x, dropped)], (p,))
        assert not is_fair(name, [x], [np.where(kept, x, dropped)], (p,))
        assert not is_fair(name, [x], [np.where(kept, y, dropped + 1e-3)], (p,))
        assert not is_fair(name, [x], [np.where(kept, y, 0)], (p,))

    @pytest.mark.parametrize("name", ["random_normal", "gaussian_dropout/10"])
    def test_numbers_that_are_not_normal(self, name):
        rng = np.random.default_rng(0)
        n = 100_003
        x = np.float32(rng.uniform(1, 2, n))
        p = 0.1

        def fair(z):
            if name == "random_normal":
                return is_fair(name, [], [z], ())
            return is_fair(name, [x], [x * (1 + math.sqrt(p / (1 - p)) * z)], (p,))

        z = rng.standard_normal(n)
        assert fair(z)
        assert not fair(1.03 * z)
        assert not fair(0.97 * z)
        assert not fair(z + 0.03)
        assert not fair(np.abs(z))
        assert not fair(np.clip(z, -2.5, 2.5))
        assert not fair(rng.uniform(-math.sqrt(3), math.sqrt(3), n))
        assert not fair(rng.choice([-1.0, 1.0], n))
        assert not fair(rng.standard_t(8, n) * math.sqrt(6 / 8))
        assert not fair(rng.standard_exponential(n) - 1)
        assert not fair(np.resize(z[:1000], n))
        assert not fair(np.repeat(z, 2)[:n])
        assert not fair(np.where(np.arange(n) == 5, np.nan, z))

    def test_numbers_that_are_not_uniform(self):
        rng = np.random.default_rng(0)
        n = 100_003

        def fair(u):
            return is_fair("random_uniform", [], [u], ())

        u = rng.random(n, dtype=np.float32)
        assert fair(u)
        for wrong in (1.0, -1e-7, np.nan, np.inf):
            assert not fair(np.where(np.arange(n) == 5, np.float32(wrong), u))
        assert not fair(u * np.float32(0.97))
        assert not fair(np.sqrt(u) * np.float32(0.999))
        assert not fair(rng.beta(1.05, 1.05, n))
        assert not fair(rng.integers(0, 2, n) * 0.9)
        assert not fair(np.resize(u[:1000], n))
        assert not fair(np.sort(u))
        assert not fair(np.abs(2 * u - 1)[np.repeat(np.arange(n), 2)[:n]])


class TestPeersThatDraw:
    @pytest.fixture
    def check(self, monkeypatch):
        """Check a case with NumPy's table changed."""

        def left_out(name, function):
            operation = DRAWS[name]
            table = {**random_peers._numpy_table(np.random.PCG64), operation.name: function}
            monkeypatch.setattr(random_peers, "numpy_tables", lambda: {"numpy": table})
            good, reasons = measure._checked(cases.Case(operation, cases.CACHE_1), LIBRARIES)
            assert [each.name for each in good] == ["ridgeline", "numpy"][: 2 - len(reasons)]
            return reasons.get("numpy")

        return left_out

    def test_fair_ones_stay(self, check):
        rng = np.random.default_rng(0)
        assert check("dropout/50", lambda x, out, p, key: rl.dropout(x, p, rl.Key(3))) is None
        assert check("random_normal", lambda out, key: rng.random(out=out)) is not None

    @pytest.mark.parametrize(
        "function",
        [
            lambda x, out, p, key: x,
            lambda x, out, p, key: None,
            lambda x, out, p, key: rl.dropout(x, 0.4, key),
            lambda x, out, p, key: rl.drop_connect(x, p, key, scale=False),
            lambda x, out, p, key: rl.dropout(x.astype(np.float64), p, key),
            lambda x, out, p, key: rl.dropout(x, p, key)[:-1],
            lambda x, out, p, key: rl.dropout(x[::-1], p, key),
        ],
    )
    def test_unfair_ones_are_left_out(self, check, function):
        assert check("dropout/50", function) == "gives another result"

    def test_a_gradient_that_is_missing_or_another(self, check):
        def forward_only(x, dy, y, dx, p, key):
            return rl.dropout(x, p, key)

        def other_mask(x, dy, y, dx, p, key):
            return rl.dropout(x, p, key), rl.dropout(dy, p, key.fold_in(1))

        for wrong in (forward_only, other_mask):
            assert check("dropout_forward_backward/50", wrong) == "gives another result"

    @pytest.mark.parametrize(
        "function",
        [
            lambda x, out, p, key: rl.dropout(x, p, rl.Key(3), out=out),
            lambda x, out, p, key: rl.dropout(x, p, key),
        ],
    )
    def test_ridgeline_has_to_write_the_numbers_of_the_reference(self, function):
        """Fair is not enough."""
        operation = replace(DRAWS["dropout/50"], function=function)
        with pytest.raises(measure.WrongResult, match="dropout/50"):
            measure._checked(cases.Case(operation, cases.CACHE_1), (*LIBRARIES, "numpy"))


PRUNES = {op.full_name: op for op in cases.OPERATIONS if op.prunes}


class TestPruning:
    def test_cases(self):
        assert [case.name for case in [*cases.select("prune_"), *cases.select("mask_")]] == [
            "prune_magnitude/50/512KiB",
            "prune_magnitude/50/64MiB",
            "prune_magnitude/90/512KiB",
            "prune_magnitude/90/64MiB",
            "prune_global/90/resnet50",
            "prune_global/90/1000x256",
            "prune_2_of_4/64MiB",
            "prune_random/50/64MiB",
            "mask_apply/first/64MiB",
            "mask_apply/first/resnet50",
            "mask_apply/again/64MiB",
            "mask_apply/again/resnet50",
        ]
        quick = [case for case in cases.cases() if case.operation.prunes and cli._is_quick(case)]
        assert [case.name for case in quick] == ["prune_magnitude/50/64MiB"]

    def test_every_operation_has_peers(self):
        assert set(prune_peers.OPERATIONS) == {op.name for op in PRUNES.values()}
        for case in [*cases.select("prune_"), *cases.select("mask_")]:
            assert len(case.implementations(LIBRARIES)) > 1

    @pytest.fixture
    def check(self):
        """Check a function as a peer would be."""

        def is_right(name, function, sizes=(100_003,), peer="numpy"):
            operation = PRUNES[name]
            if name == "prune_2_of_4":
                sizes = (25 * 4096,)
            case = cases.Case(operation, cases.Layout("test", sizes, single=len(sizes) == 1))
            data = measure.Memory(case.layout.elements)
            reference = peers.Implementation("reference", operation.reference)
            wanted = measure._outcome(case, data, reference)
            kind = "ridgeline" if peer == "ridgeline" else "numpy"
            got = measure._outcome(case, data, peers.Implementation(peer, function, kind))
            return measure._is_right(case, peer, got, wanted)

        return is_right

    @pytest.mark.parametrize("peer", ["ridgeline", "numpy"])
    @pytest.mark.parametrize("name", [name for name in PRUNES if name.startswith("prune_")])
    def test_a_wrong_mask_is_found(self, check, name, peer):
        sizes = (50_000, 257, 40_000) if name.startswith("prune_global") else (100_003,)

        def changed(change):
            def function(*arguments):
                mask = PRUNES[name].function(*arguments).to_array()
                return change(mask) if len(sizes) == 1 else [*map(change, mask)]

            return check(name, function, sizes, peer)

        def one_off(kept):
            wrong = kept.copy()
            wrong.flat[3] ^= True
            return wrong

        def two_exchanged(kept):
            wrong = kept.copy()
            for which in (np.flatnonzero(kept)[7], np.flatnonzero(~kept)[7]):
                wrong.flat[which] ^= True
            return wrong

        assert changed(lambda kept: kept)
        assert changed(np.float32)
        assert changed(np.uint8)
        assert not changed(one_off)
        if peer == "ridgeline" or PRUNES[name].fair is None:
            assert not changed(two_exchanged)
            assert not changed(np.logical_not)
        assert not changed(np.zeros_like)
        assert not changed(lambda kept: kept.ravel()[:-1])
        assert not changed(lambda kept: np.where(kept, 0.5, 0))
        assert not changed(lambda kept: np.where(kept, np.nan, 0))
        assert check(name, PRUNES[name].function, sizes, peer)

    def test_weights_stay(self, check):
        def writes(w, sparsity):
            mask = rl.prune.magnitude(w, sparsity)
            mask.apply_(w)
            return mask

        assert not check("prune_magnitude/50", writes)

    @pytest.mark.parametrize("name", [name for name in PRUNES if name.startswith("mask_")])
    @pytest.mark.parametrize("sizes", [(100_003,), (257, 1000)])
    def test_masks_are_applied(self, check, name, sizes):
        def one_more(w, kept):
            prune_peers._copy_zero(w, kept)
            w[np.flatnonzero(kept)[5]] = 0

        assert check(name, PRUNES[name].function, sizes, "ridgeline")
        if len(sizes) == 1:
            assert check(name, prune_peers._copy_zero)
            assert not check(name, one_more)
        assert not check(name, lambda arrays, masks: None, sizes)

    @pytest.mark.parametrize("name", [name for name in PRUNES if name.startswith("mask_")])
    def test_only_the_first_application_writes(self, name):
        operation = PRUNES[name]
        case = cases.Case(operation, cases.Layout("test", (1000,)))
        data = measure.Memory(1000)
        data.restore(1000)
        (x,) = data.flat(1000, cases.GRADS)
        implementation = case.implementations(LIBRARIES)[0]
        runner = measure._Runner(case, implementation, [[x]], [1.0], data)
        runner.calibrate()
        for _ in range(2):
            before = x.copy()
            runner.sample()
            assert np.array_equal(x, before)
        assert 0.4 < np.mean(x == 0) < 0.6
        assert runner._restore == operation.once == (operation.variant == "first")
        if operation.once:
            assert runner.timing().calls == 1

    def fair(self, kept, p=0.5):
        return fairness.pruned([], [kept], (p, None))

    @pytest.mark.parametrize("p", [0.5, 0.1, 0.9])
    def test_random_masks_are_fair(self, p):
        w = np.empty(100_003, np.float32)
        for seed in range(3):
            assert self.fair(rl.prune.random(w, p, rl.Key(seed)).to_array(), p)
            for table in prune_peers.numpy_tables(single=True).values():
                if "prune_random" in table:
                    assert self.fair(table["prune_random"](w, p, None), p)

    def test_unfair_ones_are_not(self):
        n = 100_003
        rng = np.random.default_rng(0)
        gone = round(0.5 * n)
        kept = rl.prune.random(np.empty(n, np.float32), 0.5, rl.Key(0)).to_array()

        def ranked(ranks):
            return ranks > np.partition(ranks, gone - 1)[gone - 1]

        assert self.fair(kept)
        assert self.fair(ranked(rng.random(n)))
        one_more = kept.copy()
        one_more[np.flatnonzero(~kept)[0]] = True
        assert not self.fair(one_more)
        assert not self.fair(rng.random(n) < 0.4)
        assert not self.fair(np.sort(kept))
        assert not self.fair(np.arange(n) % 2 == 1)  # the right number of each block
        assert not self.fair(ranked(rng.random(n) - 0.1 * (np.arange(n) < n // 4)))
        for length in (64, 4096, 40_000):  # rows that nearly share a mask
            shared = np.resize(rng.permutation(length) / length, n)
            assert not self.fair(ranked(shared + 0.1 * rng.random(n)))

    @pytest.mark.usefixtures("without_libraries")
    def test_slow_peers_run_three_times(self, monkeypatch):
        (case,) = cases.select("prune_magnitude/50/512KiB")
        data = measure.Memory(case.layout.elements)
        for limit, runs in ((10.0, 7), (0.0, 3)):
            monkeypatch.setattr(measure, "SLOW", limit)
            result = measure.run_case(case, data, roof.Roof(1), 0, LIBRARIES)
            assert {timing.runs for timing in result.timings.values()} == {runs}


@pytest.mark.skipif(not memory.is_possible(), reason="Linux only")
class TestMemory:
    def test_cases(self):
        assert [case.name for case in memory.chosen("")] == list(memory.DEFAULT)
        assert memory.chosen("global_norm 512KiB") == cases.select("global_norm 512KiB")

    @pytest.mark.usefixtures("without_libraries")
    def test_table(self, tmp_path, capsys):
        file = tmp_path / "out.json"
        assert bench("--memory", "-k", "dropout_in_place 64MiB", "--json", file) == 0
        found = {each["implementation"]: each for each in json.loads(file.read_text())["memory"]}
        assert set(found) == {"ridgeline", "numpy", "numpy SFC64"}
        for each in found.values():
            assert each["arrays"] == 2**26
        assert found["ridgeline"]["extra"] < 0.1 * 2**26
        for name in ("numpy", "numpy SFC64"):  # a number and a bool for each element
            assert 1.2 * 2**26 < found[name]["extra"] < 1.4 * 2**26
        printed = capsys.readouterr().out
        assert "dropout_in_place/50/64MiB" in printed
        assert "numpy SFC64" in printed

    def test_a_failure_is_told(self, monkeypatch):
        (case,) = cases.select("prune_magnitude/50/512KiB")
        without = (*LIBRARIES, "numpy")
        (measured,) = memory.extra(case, without)
        assert measured.implementation == "ridgeline"
        assert measured.extra is not None
        unknown = replace(case, layout=cases.Layout("nothing", (5,)))
        (failed,) = memory.extra(unknown, without)
        assert failed.extra is None
        assert "Error" in failed.reason

    def test_elsewhere_it_refuses(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(memory, "_RESET", tmp_path / "none")
        assert bench("--memory") == 2
        assert "clear_refs" in capsys.readouterr().err


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("pattern", roof.TRAFFIC)
def test_roof_without_numba(pattern):
    memory = measure.Memory(4096)
    memory.restore(4096)
    measured = roof.Roof(threads=2)
    assert measured.source == "numpy, 1 thread"
    assert measured.sample(pattern, *memory.for_roof(4096, pattern)) > 0
