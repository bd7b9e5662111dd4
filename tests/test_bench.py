"""``ridgeline bench``: that it runs and records what it says. No test asserts a time."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ridgeline as rl
from ridgeline import _core
from ridgeline.bench import cli, machine
from ridgeline.bench.peers import penalties
from ridgeline.bench.peers import registry as peers
from ridgeline.bench.report import results
from ridgeline.bench.rows import cases, layouts, own
from ridgeline.bench.run import arguments, checks, measure, memory, roof, session

pytest.importorskip("rich")

LIBRARIES = ("torch", "jax", "numba", "optax", "deepspeed", "sklearn")
SCRIPTS = Path(__file__).parents[1] / "bench"
NONE = measure.Effort(0, 0.02)


def bench(*options: object) -> int:
    return rl.bench.main([str(option) for option in options])


def one(name: str) -> cases.Case:
    (case,) = (case for case in cases.cases() if case.name == name)
    return case


@pytest.fixture
def without_libraries(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in LIBRARIES else real(name, *rest),
    )


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Survey the roof once in small arrays; forget what a test registered."""
    monkeypatch.setattr(session, "_ROOF", (2**20, 1))
    yield
    own.forget()


@pytest.mark.usefixtures("without_libraries")
class TestRun:
    def test_json_has_the_documented_fields(self, tmp_path, capsys):
        file = tmp_path / "out.json"
        options = ("-k", "global_norm float32 16KiB", "--budget", 0, "--threads", 1)
        assert bench(*options, "--json", file, "--target", "scalar") == 0
        run = results.load(file)
        assert run.format == 2
        facts = {"cpu", "cores", "memory", "caches", "flags", "governor", "huge_pages", "load"}
        assert facts <= set(run.machine)
        assert run.versions["ridgeline"] == rl.__version__
        assert run.versions["numpy"] == np.__version__
        assert run.settings["threads"] == [1]
        assert run.settings["targets"] == ["scalar"]
        assert run.settings["seconds"] > 0
        assert set(run.left_out.values()) == {"not installed"}
        names = [row.name for row in run.rows]
        assert "global_norm_2/float32/scalar/16KiB/1" in names
        assert "clip_by_global_norm_clips/float32/scalar/16KiB/1" in names
        rows = {row.operation: row for row in run.rows}
        norm, clips = rows["global_norm_2"], rows["clip_by_global_norm_clips"]
        assert norm.traffic_bytes == 2**14
        assert clips.traffic_bytes == 3 * 2**14
        assert norm.family == "clipping"
        assert norm.best_peer == "numpy"
        for row in (norm, clips):
            ours, numpy = row.implementations["ridgeline"], row.implementations["numpy"]
            assert row.speedup == numpy.median / ours.median
            assert row.speedup_low <= row.speedup <= row.speedup_high
            for stats in (row.roof, *row.implementations.values()):
                assert 0 < stats.min <= stats.low <= stats.median <= stats.high <= stats.max
                assert stats.runs == len(stats.samples) >= measure.MIN_RUNS
                assert stats.min == pytest.approx(min(stats.samples), rel=1e-3)
            for each in row.implementations.values():
                assert each.gb_per_s == pytest.approx(row.traffic_bytes / each.median * 1e-9)
                assert each.of_roof == row.roof.median / each.median
        roles = {name: each.role for name, each in norm.implementations.items()}
        assert roles == {"ridgeline": "ours", "reference": "reference", "numpy": "peer"}
        assert norm.implementations["ridgeline"].relative_error < 1e-14
        printed = capsys.readouterr().out
        assert "global_norm_2/float32/16KiB" in printed
        assert "without torch: not installed" in printed

    def test_every_number_of_threads_and_target(self, tmp_path, capsys):
        file = tmp_path / "out.json"
        options = ("-k", "prox_l1/float32/16KiB", "--budget", 0, "--json", file)
        assert bench(*options, "--threads", "2,1,2", "--target", "all") == 0
        run = results.load(file)
        best, *others = rl.runtime.targets()
        assert [row.name for row in run.rows] == [
            f"prox_l1/float32/{best}/16KiB/{n}" for n in (2, 1)
        ]
        for row in run.rows:
            targets = [n for n, each in row.implementations.items() if each.role == "target"]
            assert targets == [f"ridgeline {each}" for each in others]
        assert {(each.threads, each.pages) for each in run.roof} == set(
            itertools.product((1, 2), roof.PAGES)
        )
        assert {each.pattern for each in run.roof} == set(_core.memory_patterns())
        printed = capsys.readouterr().out
        assert f"2 threads, {best}" in printed
        assert f"1 thread, {best}" in printed

    def test_settings_are_put_back(self):
        target, threads = rl.runtime.target(), rl.get_num_threads()
        assert bench("-k", "global_norm_2 float32/256", "--budget", 0, "--target", "scalar") == 0
        assert rl.runtime.target() == target
        assert rl.get_num_threads() == threads

    def test_a_call_is_beside_an_empty_one(self, tmp_path, capsys):
        file = tmp_path / "out.json"
        assert bench("-k", "prox_l1/float32/256", "--budget", 0, "--json", file) == 0
        (row,) = results.load(file).rows
        assert set(row.implementations) == {"ridgeline", "reference", "numpy", "empty call"}
        assert row.implementations["empty call"].role == "floor"
        assert row.best_peer == "numpy"
        assert row.roof is None
        assert row.traffic_bytes is None
        assert "over an empty call" in capsys.readouterr().out

    def test_append(self, tmp_path, capsys):
        file = tmp_path / "out.json"

        def run(words, *options):
            return bench("-k", words, "--budget", 0, "--json", file, "--append", *options)

        assert run("prox_l1/float32/16KiB", "--threads", 1) == 0
        first = results.load(file)
        assert run("prox_l2/float32/64MiB", "--threads", 1, "--target", "scalar") == 0
        assert run("prox_l1/float32/16KiB", "--threads", 2) == 0
        assert run("prox_l1/float32/16KiB", "--threads", 2) == 0
        both = results.load(file)
        best = rl.runtime.target()
        assert [row.name for row in both.rows] == [
            f"prox_l1/float32/{best}/16KiB/1",
            "prox_l2/float32/scalar/64MiB/1",
            f"prox_l1/float32/{best}/16KiB/2",
        ]
        assert both.rows[0] == first.rows[0]
        assert both.settings["threads"] == [1, 2]
        assert both.settings["targets"] == list(dict.fromkeys([best, "scalar"]))
        assert len(both.settings["parts"]) == 4
        assert {each.threads for each in both.roof} == {1, 2}
        data = json.loads(file.read_text())
        for row in data["rows"]:
            row["doubts"] = ["shaky"] if row["operation"] == "prox_l1" else []
        file.write_text(json.dumps(data))
        assert run("", "--doubtful", "--list") == 0
        assert capsys.readouterr().out.split()[-1] == "prox_l1/float32/16KiB"
        assert run("prox_l2/", "--doubtful") == 2
        assert "no doubts" in capsys.readouterr().err
        assert bench("--doubtful") == 2
        assert "--doubtful: wants --append" in capsys.readouterr().err
        data["machine"]["cpu"] = "abacus"
        file.write_text(json.dumps(data))
        assert run("prox_l1/float32/16KiB") == 2
        assert "another machine" in capsys.readouterr().err
        assert bench("-k", "prox_l1/float32/16KiB", "--append") == 2
        assert "--append: wants --json" in capsys.readouterr().err

    def test_quick_ends_in_time(self, monkeypatch, capsys):
        monkeypatch.setattr(session, "QUICK", 0.0)
        assert bench("--quick") == 2
        assert "no time left" in capsys.readouterr().err
        names = {case.name for case in cases.cases()}
        assert set(cli._QUICK) <= names

    def test_baseline(self, tmp_path, capsys):
        old = tmp_path / "old.json"
        options = ("-k", "prox_l1/float32/16KiB", "--budget", 0)
        assert bench(*options, "--json", old) == 0
        data = json.loads(old.read_text())
        for row in data["rows"]:
            for stats in (row["roof"], *row["implementations"].values()):
                stats["samples"] = [1e-12 + 1e-15 * i for i in range(30)]
                stats["runs"] = 30
                stats["median"] = stats["min"] = stats["max"] = stats["low"] = stats["high"] = 1e-12
        old.write_text(json.dumps(data))
        assert bench(*options, "--baseline", old) in (1, 2)  # 2: too noisy here
        assert "prox_l1" in capsys.readouterr().out
        assert bench(*options, "--baseline", tmp_path / "none.json") == 2
        assert bench("-k", "prox_l2/float32/512KiB", "--budget", 0, "--baseline", old) == 2
        assert "prox" in capsys.readouterr().err


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--target", "abacus"), "wants one of"),
            (("--json", "none/out.json"), "no directory"),
            (("--load", "none.py"), "--load none.py: no such file"),
        ],
    )
    def test_they_say_what_is_wanted(self, options, message, capsys):
        assert bench("--quick", *options) == 2
        assert message in capsys.readouterr().err

    def test_filter_without_a_case_lists_them(self, capsys):
        assert bench("-k", "no such case") == 2
        message = capsys.readouterr().err
        assert "-k 'no such case'" in message
        assert all(case.name in message for case in cases.cases())

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--threads", "0", "wants numbers of 1 or more"),
            ("--threads", "1,x", "wants numbers of 1 or more"),
            ("--budget", "-1", "wants seconds"),
            ("--budget", "nan", "wants seconds"),
            ("--precision", "2", "wants a part"),
            ("--precision", "tight", "wants a part"),
        ],
    )
    def test_values(self, option, value, message, capsys):
        with pytest.raises(SystemExit):
            bench(option, value)
        assert message in capsys.readouterr().err

    def test_rich_is_asked_for(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "rich.console", None)
        assert bench("--list") == 2
        assert "pip install 'ridgeline[bench]'" in capsys.readouterr().err

    def test_memory_needs_linux(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(memory, "_RESET", tmp_path / "none")
        assert bench("--memory", "-k", "resnet50") == 2
        assert "clear_refs" in capsys.readouterr().err


class TestCases:
    def test_names_are_unique_and_listed(self, capsys):
        names = [case.name for case in cases.cases()]
        assert len(set(names)) == len(names)
        assert bench("--list") == 0
        assert capsys.readouterr().out.split() == names

    def test_words_select_in_any_order(self):
        assert [c.name for c in cases.select("64mib PROX_L1/ float32")] == ["prox_l1/float32/64MiB"]
        assert len(cases.select("")) == len(cases.cases())

    def test_bytes_make_the_elements(self):
        case = one("prox_l1/float32/64MiB")
        assert case.elements == 2**24
        assert replace(case, dtype="bfloat16").elements == 2**25
        assert replace(case, dtype="float64").traffic == 2 * 2**26
        assert one("prox_l1/float32/resnet50").elements == 25_557_032

    def test_workloads_have_all_models(self):
        models = {case.layout.name for case in cases.cases() if case.workload}
        assert models >= {"resnet50", "gpt2", "1000x256", "embedding"}
        for name in ("add_gradient_elastic_net", "clip_by_global_norm_clips", "adamw_clip_l1"):
            found = {c.layout.name for c in cases.select(f"{name}/float32") if c.workload}
            assert found >= {"resnet50", "gpt2", "1000x256", "embedding"}

    def test_what_a_case_needs(self, monkeypatch, capsys):
        large, other = one("adamw_clip_l1/float32/gpt2"), one("dropout_50/float32/64MiB")
        monkeypatch.setattr(measure, "_free_bytes", lambda: 10**9)
        assert measure.obstacle(other, LIBRARIES) is None
        reason = measure.obstacle(large, LIBRARIES)
        assert re.fullmatch(r"needs about \d+ GB of memory, 1 are free", reason)
        assert bench("-k", large.name, "--budget", 0) == 2
        assert f"{large.name}: needs about" in capsys.readouterr().err
        monkeypatch.setattr(measure, "_has_bfloat16", lambda: False)
        assert measure.obstacle(replace(other, dtype="bfloat16"), ()) == "needs ml_dtypes"

    def test_free_memory_is_known(self):
        assert measure._free_bytes() > 0

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
        return one("prox_l1/float32/256")

    @pytest.mark.usefixtures("without_libraries")
    def test_a_wrong_peer_is_left_out(self, case, monkeypatch):
        monkeypatch.setattr(penalties, "_numpy_soft", lambda x, step: None)
        good, left_out = checks.checked(case, LIBRARIES)
        assert [each.name for each in good] == ["ridgeline", "reference", "empty call"]
        assert left_out == {"numpy": "gives another result"}

    @pytest.mark.usefixtures("without_libraries")
    def test_a_failing_peer_is_left_out(self, case, monkeypatch):
        def fail(x, step):
            raise RuntimeError("no compiler\nat all")

        monkeypatch.setattr(penalties, "_numpy_soft", fail)
        _, left_out = checks.checked(case, LIBRARIES)
        assert left_out == {"numpy": "RuntimeError: no compiler"}

    @pytest.mark.usefixtures("without_libraries")
    def test_our_own_mistake_stops_everything(self, case, monkeypatch, capsys):
        wrong = replace(case, operation=replace(case.operation, function=lambda x, step: None))
        monkeypatch.setattr(cli, "select", lambda words: [wrong])
        assert bench("--budget", 0) == 2
        assert "disagree" in capsys.readouterr().err


def runner(name, seconds, role="peer"):
    return SimpleNamespace(name=name, role=role, seconds=list(seconds), calls=1)


class TestRounds:
    @pytest.fixture
    def calls(self):
        """Run a case whose implementations write down who was called; return the rounds."""

        def run(seconds, effort, slow=10.0):
            order = []

            def function(name):
                return lambda *arguments: order.append(name)

            case = one("global_norm_2/float32/16KiB")
            names = ("ridgeline", "a", "b")
            kinds = [
                peers.Implementation(n, function(n), role="peer" if n != "ridgeline" else "ours")
                for n in names
            ]
            clock = itertools.count(step=seconds)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(measure, "checked", lambda case, without: (kinds, {}))
                patch.setattr(measure, "relative_error", lambda norm, arrays: 0.0)
                patch.setattr(measure, "perf_counter", lambda: next(clock))
                patch.setattr(measure, "SLOW", slow)
                row = measure.run_case(case, arguments.Memory(case.bytes), effort, ["scalar"], ())
            return order[-3 * 2 :], row

        return run

    def test_they_take_turns(self, calls):
        last, row = calls(1e-3, NONE)
        assert last == ["ridgeline", "a", "b"] * 2
        assert {each.runs for each in row.implementations.values()} == {measure.MIN_RUNS}

    def test_they_end_when_medians_are_known(self, calls):
        _, row = calls(1e-3, measure.Effort(1e9, 0.02))  # a clock that ticks evenly
        assert row.implementations["ridgeline"].runs == measure.MIN_RUNS
        _, row = calls(1e-3, measure.Effort(0.2, -1.0))
        assert measure.MIN_RUNS < row.implementations["ridgeline"].runs < measure.MAX_RUNS
        _, row = calls(1e-3, measure.Effort(1e9, -1.0))
        assert row.implementations["ridgeline"].runs == measure.MAX_RUNS

    def test_slow_ones_run_four_times(self, calls):
        _, row = calls(1e-3, NONE, slow=0.0)
        assert {each.runs for each in row.implementations.values()} == {4}
        assert not any(each.trusted for each in row.implementations.values())
        assert row.doubts[0] == "ridgeline ran 4 times: too few for an interval"

    def test_precision_looks_at_ours_and_the_fastest(self):
        steady, shaky = [1.0, 1.01] * 10, [1.0, 2.0] * 10
        ours = runner("ridgeline", steady, "ours")
        known = measure._is_known
        assert known([ours, runner("a", steady), runner("slower", [9, 18] * 10)], 0.02)
        assert not known([ours, runner("a", shaky)], 0.02)
        assert not known([runner("ridgeline", shaky, "ours"), runner("a", steady)], 0.02)
        assert not known([runner("ridgeline", steady[:5], "ours")], 0.02)
        assert known([ours, runner("reference", shaky, "reference")], 0.02)

    def test_doubts(self):
        def doubts(ours, best, roofs=()):
            peer = runner("a", best) if best else None
            return list(measure._doubts([runner("ridgeline", ours, "ours")], peer, roofs))

        steady = [1.0, 1.01] * 10
        assert doubts(steady, steady, steady) == []
        assert doubts(steady, None) == []
        assert doubts([1.0, 2.0] * 10, None) == ["the median of ridgeline is only known to 33%"]
        assert doubts(steady, steady[:4]) == ["a ran 4 times: too few for an interval"]
        drifts = [1.0] * 30 + [1.5] * 31
        assert (
            doubts(drifts, None)[-1] == "ridgeline was 1.5 times slower in one half of the rounds"
        )
        moves = [1.0, 1.0, 1.5, 1.5] * 5
        assert doubts(steady, steady, moves) == ["the roof moved by 50% meanwhile"]


class TestOwn:
    def test_a_function_beside_ours(self, tmp_path):
        @rl.bench.case("prox_l1", name="maxima")
        def soft_threshold(x, step):
            x[...] = np.maximum(x - step, 0) - np.maximum(-x - step, 0)

        @rl.bench.case("prox_l1")
        def wrong(x, step):
            x -= step

        file = tmp_path / "out.json"
        assert bench("-k", "prox_l1/float32/16KiB", "--budget", 0, "--json", file) == 0
        (row,) = results.load(file).rows
        assert row.implementations["maxima"].role == "peer"
        assert row.left_out["wrong"] == "gives another result"
        assert not row.own

    def test_an_operation_of_their_own(self, tmp_path, capsys):
        file = tmp_path / "kernels.py"
        file.write_text(
            "import numpy as np\n"
            "import ridgeline as rl\n"
            "def plain(x, y, factor):\n"
            "    y[...] = factor * x\n"
            "@rl.bench.case('scaled', traffic=['copy'], reference=plain, numbers=[2.5],\n"
            "               arrays=['gradients', 'results'], layouts=['16KiB'],\n"
            "               dtypes=['float32', 'float64'])\n"
            "def multiplied(x, y, factor):\n"
            "    np.multiply(x, factor, out=y)\n"
            "@rl.bench.case('scaled')\n"
            "def off(x, y, factor):\n"
            "    np.multiply(x, 1.001 * factor, out=y)\n"
        )
        out = tmp_path / "out.json"
        options = ("--load", file, "-k", "scaled float32", "--budget", 0)
        assert bench(*options, "--json", out) == 0
        (row,) = results.load(out).rows
        assert row.name == f"scaled/float32/{rl.runtime.target()}/16KiB/{rl.get_num_threads()}"
        assert row.own
        assert row.family == "own"
        assert row.traffic_bytes == 2 * 2**14
        roles = {name: each.role for name, each in row.implementations.items()}
        assert roles == {"multiplied": "ours", "reference": "reference"}
        assert row.left_out["off"] == "gives another result"
        assert "scaled/float32/16KiB" in capsys.readouterr().out

    def test_the_example_of_the_documentation(self, tmp_path):
        text = (SCRIPTS.parent / "docs" / "benchmarks.md").read_text()
        file = tmp_path / "my_kernels.py"
        file.write_text(text.split("```python\n")[1].split("```")[0])
        out = tmp_path / "out.json"
        options = ("--load", file, "-k", "damp/float32/16KiB", "--budget", 0, "--json", out)
        assert bench(*options) == 0
        assert results.load(out).rows[0].left_out == {}
        options = ("--load", file, "-k", "prox_l1/float32/16KiB", "--budget", 0, "--json", out)
        own.forget()
        assert bench(*options) == 0
        assert "two maxima" in results.load(out).rows[0].implementations

    def test_lists_of_arrays(self):
        def plain(arrays):
            for x in arrays:
                x *= 2

        @rl.bench.case("doubled", traffic=["rewrite"], reference=plain, layouts=["1000x256"])
        def doubled(arrays):
            assert len(arrays) == 1000
            plain(arrays)

        good, left_out = checks.checked(one("doubled/float32/1000x256"), LIBRARIES)
        assert [each.name for each in good] == ["doubled", "reference"]
        assert left_out == {}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"operation": "prox_l9"}, "operation: got 'prox_l9', wants one that exists"),
            ({"operation": "prox_l1", "traffic": ["read"]}, "'prox_l1' exists"),
            ({"traffic": ["read"]}, "wants traffic and reference"),
            ({"reference": len}, "wants traffic and reference"),
            ({"traffic": ["sideways"], "reference": len}, "traffic: got 'sideways', wants one of"),
            (
                {"operation": "a b", "traffic": ["read"], "reference": len},
                "got 'a b', wants letters",
            ),
            ({"kind": "fortran"}, "kind: got 'fortran'"),
            ({"traffic": ["read"], "reference": len, "arrays": ["x"]}, "arrays: got 'x'"),
            ({"traffic": ["read"], "reference": len, "layouts": ["1MiB"]}, "layouts: got '1MiB'"),
            ({"traffic": ["read"], "reference": len, "dtypes": ["int8"]}, "dtypes: got 'int8'"),
            (
                {"traffic": ["read"], "reference": len, "layouts": ["16KiB", "gpt2"]},
                "single arrays and lists",
            ),
        ],
    )
    def test_refusals(self, settings, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            rl.bench.case(**{"operation": "mine", **settings})(print)
        assert own.operations() == []

    def test_names_are_taken_once(self):
        rl.bench.case("prox_l1", name="mine")(print)
        for name in ("mine", "ridgeline"):
            with pytest.raises(ValueError, match="is taken"):
                rl.bench.case("prox_l1", name=name)(print)


class TestMachine:
    def test_what_is_known(self):
        facts = machine.describe()["machine"]
        assert facts["cores"] >= 1
        assert set(facts["flags"]) <= set((Path("/proc/cpuinfo").read_text()).split())
        assert all(re.fullmatch(r"L\d[di]?", name) for name in facts["caches"])

    def test_environment(self, monkeypatch):
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
        assert machine.describe()["environment"]["OMP_WAIT_POLICY"] == "passive"

    def test_noise_is_seen(self, monkeypatch):
        now = [1000.0, 100.0, 0.0]
        monkeypatch.setattr(machine, "_ticks", lambda: tuple(now))
        monkeypatch.setattr(machine, "_own_seconds", lambda: 0.0)
        monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.0, 0, 0))
        monkeypatch.setattr(machine, "_text", lambda path: None)
        quiet = machine.Watch()
        assert quiet.warnings() == []
        now[:] = [2000.0, 140.0, 5.0]
        assert quiet.warnings() == []
        now[:] = [2000.0, 350.0, 50.0]
        assert quiet.warnings() == [
            "other programs used 25% of the processors",
            "other virtual machines took 5% of the processors",
        ]
        monkeypatch.setattr(machine.os, "getloadavg", lambda: (99.0, 0, 0))
        monkeypatch.setattr(machine, "_text", lambda path: "powersave")
        assert [each.split()[0:3] for each in machine.Watch().warnings()] == [
            ["the", "load", "was"],
            ["the", "frequency", "governor"],
        ]

    def test_own_work_is_no_noise(self):
        watch = machine.Watch()
        assert watch._own <= machine._own_seconds()
        total, busy, stolen = machine._ticks()
        assert total >= busy >= 0
        assert stolen >= 0


class TestMemory:
    pytestmark = pytest.mark.skipif(not memory.is_possible(), reason="Linux only")

    @pytest.mark.usefixtures("without_libraries")
    def test_column(self, tmp_path, capsys):
        file = tmp_path / "out.json"
        name = "dropout_50_forward_backward/float32/gpt2-activations"
        assert bench("--memory", "-k", name, "--budget", 0, "--json", file) == 0
        (row,) = results.load(file).rows
        size = one(name).bytes
        found = {name: each.extra_bytes for name, each in row.implementations.items()}
        assert found["ridgeline"] < 0.05 * size
        assert row.best_peer in ("numpy", "numpy SFC64")
        assert 0.2 * size < found[row.best_peer] < 0.6 * size  # a bool for each element
        assert "extra memory" in capsys.readouterr().out

    def test_states_count(self):
        case = one("adamw_clip_l1_8bit_states/float32/64MiB")
        extra, reason = memory.measure(case, "ridgeline", (*LIBRARIES, "numpy"))
        assert reason == ""
        assert 0.50 * case.bytes < extra < 0.62 * case.bytes

    def test_a_failure_is_told(self):
        unknown = replace(one("prune_50/float32/512KiB"), layout=layouts.Layout("nothing", (5,)))
        extra, reason = memory.measure(unknown, "ridgeline", LIBRARIES)
        assert extra is None
        assert "Error" in reason
        row = measure.run_case(
            one("prox_l1/float32/16KiB"), arguments.Memory(2**14), NONE, ["scalar"], LIBRARIES
        )
        marked = memory.added(row, unknown, (*LIBRARIES, "numpy"), ())
        assert "ridgeline's memory" in marked.left_out

    def test_users_kernels(self, tmp_path):
        file = tmp_path / "kernels.py"
        file.write_text(
            "import ridgeline as rl\n"
            "@rl.bench.case('prox_l1', name='copies')\n"
            "def copies(x, step):\n"
            "    y = x.copy()\n"
            "    rl.L1(1.0).prox_(y, step)\n"
            "    x[...] = y\n"
        )
        case = one("prox_l1/float32/64MiB")
        extra, _ = memory.measure(case, "copies", LIBRARIES, [file])
        assert 0.98 * case.bytes < extra < 1.1 * case.bytes


class TestRoof:
    def test_survey(self):
        found = list(roof.survey(2**18, [1, 2], 3))
        assert len(found) == len(_core.memory_patterns()) * 2 * len(roof.PAGES)
        for each in found:
            assert 0 < each.gb_per_s_min <= each.gb_per_s <= each.gb_per_s_max
            assert each.runs == 3
            assert each.bytes == 2**18

    @pytest.mark.parametrize("pattern", _core.memory_patterns())
    def test_passes_leave_what_they_read(self, pattern):
        size = 2**18
        data = arguments.Memory(2 * size)
        data.restore(size // 2)
        data.restore_params(size // 2)
        data.fill_results(size // 2, 1.0)
        arrays = data.of_pattern(pattern, size)
        before = [x.copy() for x in arrays]
        assert roof.Sampler(data, [pattern], size, 2).sample() > 0
        changed = [not np.array_equal(x, y) for x, y in zip(before, arrays, strict=True)]
        overwrites = pattern in ("copy", "stream", "write")
        assert changed == [False, overwrites, overwrites, False]  # the second and third are one

    def test_a_row_is_the_sum_of_its_passes(self, monkeypatch):
        monkeypatch.setattr(roof._core, "memory_pass", lambda *arguments: 0.25)
        data = arguments.Memory(2**14)
        assert roof.Sampler(data, ["read", "rewrite", "copy"], 2**14, 2).sample() == 0.75

    def test_the_fastest_variant_is_the_roof(self, monkeypatch):
        def seconds(pattern, arrays, threads, passes):
            return {"copy": 3.0, "stream": 2.0}[pattern] / threads

        monkeypatch.setattr(roof._core, "memory_pass", seconds)
        data = arguments.Memory(2**20)
        assert roof.Sampler(data, ["copy"], 2**20, 2).sample() == 1.0
        assert roof.Sampler(data, ["copy"], 2**20, 1).sample() == 2.0
        assert roof.Sampler(data, ["copy"], 2**14, 2).sample() == 2.0  # too small to share


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
        text = run("step_ablation.py", "--arrays", "512KiB", "--rounds", "1", "--adamw", adamw)
        assert text.count("| one pass: rl.AdamW | 32.12 |") == 2
        assert text.count("| one pass: rl.AdamW | 30.12 |") == 1
        assert text.count("| ratio |") == 3

    @pytest.mark.slow
    def test_state_quality(self, run):
        text = run("state_quality.py", "--seeds", "2", "--epochs", "2")
        assert text.count("\n| ") == 9
        for loss in re.findall(r"\| [\w, -]+ \| ([\d.]+) ±", text):
            assert 0 < float(loss) < 2.4
