"""``ridgeline bench``: that it runs and records what it says. No test asserts a time."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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
    step_peers,
)

pytest.importorskip("rich")

LIBRARIES = ("torch", "jax", "numba", "optax", "deepspeed")


SCRIPTS = Path(__file__).parents[1] / "bench"


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
        memory.restore(small.elements, operation.dtype)
        memory.restore_params(small.elements, operation.dtype)
        arrays = memory.arrays(small, operation.arrays, operation.dtype)
        norms = measure._norms(case, arrays)
        ridgeline = case.implementations(LIBRARIES)[0]
        function, calls = measure.calls(
            replace(case, layout=small), ridgeline, arrays, norms, cases.CALLS
        )
        changed = False
        for arguments in calls:
            before = [x.copy() for each in arrays for x in each]
            function(*arguments)
            after = [x for each in arrays for x in each]
            changed = any(not np.array_equal(x, y) for x, y in zip(before, after, strict=True))
        in_place = cases.OUT not in operation.arrays
        if operation.variant in ("clips", "everything") or not (in_place or operation.writes):
            assert changed
        if operation.recipe is not None:
            assert changed or operation.dtype == "bfloat16"  # where steps round to nothing
            grads = zip(before[: len(arrays[0])], arrays[0], strict=True)
            assert all(np.array_equal(x, y) for x, y in grads)
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
            if case.operation.recipe is None
            and (case.layout in (cases.CACHE_2, cases.THOUSAND) or case.operation.prunes)
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
        assert list(peers.missing(compiled=False, threads=4)) == ["torch.compile", "deepspeed"]

    def test_libraries_need_others(self, monkeypatch):
        monkeypatch.setattr(peers, "_cores", lambda: 1)
        for name, needed in (("optax", "jax"), ("deepspeed", "torch")):
            monkeypatch.setattr(peers, "_installed", lambda library, gone=needed: library != gone)
            assert peers.missing(compiled=True, threads=1)[name] == f"needs {needed}"


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


STEPS = {op.name: op for op in cases.OPERATIONS if op.recipe is not None}
SMALL = cases.Layout("small", (257, 40_003, 3, 1), single=False)
ONE = cases.Layout("one", (5_003,))


def bytes_of(name):
    """Return the bytes that a step moves for each element."""
    operation = STEPS[name]
    n = 2**20
    return sum(roof.bytes_moved(p, n, operation.itemsize) for p in operation.passes) / n


class TestSteps:
    def test_cases(self):
        assert list(STEPS) == list(step_peers.RECIPES)
        names = [case.name for case in cases.select("step_") if not case.overhead]
        assert names[:8] == [
            "step_adamw_clip_l1/64MiB",
            "step_adamw_clip_l1/resnet50",
            "step_adamw_clip_l1/gpt2",
            "step_adamw_clip_l1/1000x256",
            "step_adamw_clip/64MiB",
            "step_adamw_clip/resnet50",
            "step_adamw_clip/gpt2",
            "step_adamw_clip/1000x256",
        ]
        assert names[-1] == "step_adamw_clip_bf16_parameters/1000x256"
        quick = [case for case in cases.select("step_") if cli._is_quick(case)]
        assert [case.name for case in quick] == [
            "step_adamw_clip_l1/resnet50",
            "overhead/step_adamw_clip_l1",
        ]

    def test_gpt2_has_its_parameters(self):
        assert len(cases.GPT2.sizes) == 148
        assert cases.GPT2.elements == 124_439_808

    def test_bytes_moved(self):
        assert {name: bytes_of(name) for name in STEPS} == {
            "step_adamw_clip_l1": 4 + 28,
            "step_adamw_clip": 4 + 28,
            "step_adamw": 28,
            "step_sgd_clip_l1": 4 + 20,
            "step_adamw_clip_l1_bf16_states": 4 + 20,
            "step_adamw_clip_l1_8bit_states": 4 + 16 + 4 / 64,
            "step_adamw_clip_bf16_parameters": 2 + 22,
        }

    @pytest.mark.parametrize("layout", [SMALL, ONE], ids=lambda layout: layout.name)
    @pytest.mark.parametrize("name", STEPS)
    def test_ridgeline_and_numpy_do_the_same(self, name, layout):
        good, left_out = measure._checked(cases.Case(STEPS[name], layout), LIBRARIES)
        assert left_out == {}
        wide = ["ridgeline float32 states"] * name.endswith("states")
        assert [each.name for each in good] == ["ridgeline", *wide, "numpy"]

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the peers' own
    @pytest.mark.parametrize("layout", [SMALL, ONE], ids=lambda layout: layout.name)
    @pytest.mark.parametrize("name", STEPS)
    def test_every_peer_does(self, name, layout):
        without = peers.missing(compiled=False, threads=10**6)
        good, left_out = measure._checked(cases.Case(STEPS[name], layout), without)
        assert left_out == {}
        wanted = {"numpy"} | {library for library in ("optax", "numba") if library not in without}
        if STEPS[name].dtype == "float32" and "torch" not in without:
            wanted.add("torch fused")
        assert wanted <= {each.name for each in good}

    @pytest.fixture
    def check(self):
        """Check a step that the reference takes with other settings."""
        optimizers = rl.reference.optimizers

        def is_right(name, *, layout=SMALL, change=None, factor=1.0, limit=1.0, **other):
            operation = STEPS[name]
            recipe = operation.recipe
            case = cases.Case(operation, layout)

            def make(grads, params, *norms):
                settings = step_peers._settings(
                    recipe, optimizers.GlobalNorm, rl.reference.L1, [limit * n for n in norms]
                )
                rule = optimizers.SGD if recipe.rule == "sgd" else optimizers.AdamW
                optimizer = rule(params, **{**settings, **other})

                def step(grads):
                    optimizer.step([factor * g for g in grads])
                    if change is not None:
                        change(params)

                return step

            data = measure.Memory(layout.elements)
            reference = peers.Implementation("reference", operation.reference)
            wanted = measure._outcome(case, data, reference)
            got = measure._outcome(case, data, peers.Implementation("peer", make))
            return measure._is_right(case, "peer", got, wanted)

        return is_right

    @pytest.mark.parametrize("name", STEPS)
    def test_a_wrong_step_is_found(self, check, name):
        def off(params):
            params[1][7] += 0.05

        assert check(name)
        assert not check(name, lr=1.02 * step_peers.RATE)
        assert not check(name, change=lambda params: params[1].fill(0))
        if STEPS[name].dtype == "float32":
            assert not check(name, lr=1.001 * step_peers.RATE)
            assert not check(name, change=off)
        if STEPS[name].recipe.rule == "adamw":
            assert not check(name, weight_decay=0.0)
            assert not check(name, betas=(0.8, 0.999))
            assert not check(name, eps=1e-3)
            if STEPS[name].dtype == "float32":
                assert not check(name, betas=(0.9, 0.99))
                assert not check(name, eps=1e-6)
        else:
            assert not check(name, momentum=0.0)
            assert not check(name, dampening=0.1)
            assert not check(name, nesterov=True)
        if STEPS[name].recipe.clip:
            assert not check(name, clip=None)
            assert not check(name, limit=1.1)
        if STEPS[name].recipe.prox:
            assert not check(name, penalty=None)
            assert not check(name, prox=None)
            assert not check(name, prox="preconditioned") or STEPS[name].recipe.rule == "sgd"

    def test_arrays_that_are_missing_are_found(self):
        x = np.ones(3)
        assert fairness.stepped([0 * x, x], [x, x], [x, x], 0.1)
        assert not fairness.stepped([0 * x, x], [x], [x, x], 0.1)
        assert not fairness.stepped([0 * x], [x[:2]], [x], 0.1)
        assert not fairness.stepped([0 * x], [np.nan * x], [x], 0.1)

    @pytest.mark.usefixtures("without_libraries")
    @pytest.mark.parametrize("name", ["step_sgd_clip_l1", "step_adamw_clip_bf16_parameters"])
    def test_data_are_put_back(self, name):
        data = measure.Memory(SMALL.elements)
        (before,) = (x.copy() for x in data.flat(SMALL.elements, cases.PARAMS))
        case = cases.Case(STEPS[name], SMALL)
        result = measure.run_case(case, data, roof.Roof(1), 0, LIBRARIES)
        assert np.array_equal(data.flat(SMALL.elements, cases.PARAMS)[0], before)
        assert result.traffic == 24 * SMALL.elements
        assert result.roof > 0
        assert set(result.timings) == {"ridgeline", "numpy"}

    def test_json_says_the_dtype(self, tmp_path):
        file = tmp_path / "out.json"
        words = "step_adamw_clip_bf16_parameters 1000x256"
        with_numpy = dict.fromkeys(LIBRARIES, "not here")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peers, "missing", lambda compiled, threads: with_numpy)
            assert bench("-k", words, "--budget", 0, "--json", file) == 0
        (result,) = json.loads(file.read_text())["results"]
        assert result["dtype"] == "bfloat16"
        assert result["traffic_bytes"] == 24 * 256_000

    def test_what_a_case_needs(self, monkeypatch, capsys):
        narrow, large, other = (
            cases.select(words)[0]
            for words in ("clip_bf16_parameters 1000x256", "adamw_clip_l1 gpt2", "dropout 64MiB")
        )
        monkeypatch.setattr(measure, "_free_bytes", lambda: 10**9)
        assert measure.obstacle(narrow, LIBRARIES) is None
        assert measure.obstacle(other, LIBRARIES) is None
        assert measure.obstacle(large, LIBRARIES) == "needs about 6 GB of memory, 1 are free"
        assert bench("-k", large.name, "--budget", 0) == 0
        assert f"without {large.name}: needs about" in capsys.readouterr().out
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "ml_dtypes" else real(name)
        )
        assert measure.obstacle(narrow, LIBRARIES) == "needs ml_dtypes"
        assert measure._free_bytes() > 0

    @pytest.mark.skipif(not memory.is_possible(), reason="Linux only")
    def test_memory_holds_the_states(self):
        for name, states in (("step_adamw", 2.0), ("step_adamw_clip_l1_8bit_states", 0.51)):
            (case,) = cases.select(f"{name}/64MiB")
            first = memory.extra(case, (*LIBRARIES, "numpy"))[0]
            assert first.implementation == "ridgeline"
            assert first.arrays == 2 * 2**26
            assert 0.98 * states < first.extra / 2**26 < states + 0.1


class TestScripts:
    @pytest.fixture
    def run(self):
        """Run a script of bench/ and return what it prints."""

        def run(name, *options):
            done = subprocess.run(
                [sys.executable, str(SCRIPTS / name), *options],
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        return run

    @pytest.mark.slow
    @pytest.mark.parametrize("adamw", ["numpy", "torch"])
    def test_ablation(self, run, adamw):
        if adamw == "torch":
            pytest.importorskip("torch")
        text = run("step_ablation.py", "--arrays", "1000x256", "--rounds", "1", "--adamw", adamw)
        assert text.count("| one pass: rl.AdamW | 32.12 |") == 2
        assert text.count("| one pass: rl.AdamW | 30.12 |") == 1
        assert text.count("| ratio |") == 3

    @pytest.mark.slow
    def test_state_quality(self, run):
        text = run("state_quality.py", "--seeds", "2", "--epochs", "2")
        assert text.count("\n| ") == 9
        for loss in re.findall(r"\| [\w, -]+ \| ([\d.]+) ±", text):
            assert 0 < float(loss) < 2.4


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
@pytest.mark.parametrize("pattern", [*roof.TRAFFIC, *roof.STEPS])
def test_roof_without_numba(pattern):
    measured = roof.Roof(threads=2)
    assert measured.source == "numpy, 1 thread"
    passes_leave_the_data(measured, pattern)


@pytest.mark.parametrize("pattern", [*roof.TRAFFIC, *roof.STEPS])
def test_roof_with_numba(pattern):
    pytest.importorskip("numba")
    measured = roof.Roof(threads=2)
    assert measured.source == "numba"
    passes_leave_the_data(measured, pattern)


def passes_leave_the_data(measured, pattern):
    memory = measure.Memory(4096)
    memory.restore(4096)
    for x in memory.flat(4096, cases.OUT, cases.OUT_2):
        x.fill(1)
    arrays = memory.for_roof(4096, pattern)
    before = [x.copy() for x in arrays]
    assert measured.sample(pattern, *arrays) > 0
    if pattern in roof.STEPS:
        assert all(np.array_equal(x, y) for x, y in zip(before, arrays, strict=True))
        gradient, *rewritten = (4 * x.size for x in arrays)
        assert gradient + 2 * sum(rewritten) == roof.bytes_moved(pattern, 4096)
