"""``ridgeline bench``: that it runs and records what it says. No test asserts a time."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import ridgeline as rl
from ridgeline.bench import cases, cli, measure, peers, roof

pytest.importorskip("rich")


def bench(*options: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


@pytest.fixture
def without_libraries(monkeypatch):
    real = importlib.util.find_spec
    hidden = ("torch", "numba")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in hidden else real(name, *rest),
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
        assert report["left_out"] == {"torch": "not installed", "numba": "not installed"}
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
        sizes = tuple(min(n, 300) for n in case.layout.sizes[:3])
        memory = measure.Memory(sum(sizes))
        layout = replace(case.layout, sizes=sizes)
        memory.restore(layout.elements)
        arrays = memory.arrays(layout, case.operation.arrays)
        norms = [float(np.linalg.norm(x)) for x in arrays[0]]
        first = [each[0] if layout.single else each for each in arrays]
        numbers = case.operation.numbers(norms)
        changed = False
        for _ in range(cases.CALLS):
            before = [x.copy() for x in arrays[0]]
            case.operation.function(*first, *next(numbers))
            changed = any(not np.array_equal(x, y) for x, y in zip(before, arrays[0], strict=True))
        if case.operation.variant in ("clips", "everything"):
            assert changed
        tiny = np.finfo(np.float32).tiny
        assert all(np.all((np.abs(x) >= tiny) | (x == 0)) for x in arrays[0])

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the peers' own
    @pytest.mark.parametrize(
        "case", [*cases.select("512KiB"), *cases.select("1000x256")], ids=lambda case: case.name
    )
    def test_every_peer_computes_the_same(self, case):
        good, left_out = measure._checked(case, compiled=False)
        assert left_out == {}
        assert good[0].name == "ridgeline"


class TestChecks:
    @pytest.fixture
    def case(self):
        (case,) = cases.select("overhead/prox_l1")
        return case

    @pytest.mark.usefixtures("without_libraries")
    def test_a_wrong_peer_is_left_out(self, case, monkeypatch):
        monkeypatch.setitem(peers._NUMPY_ONE, "prox_l1", lambda x, step: None)
        good, left_out = measure._checked(case, compiled=False)
        assert [each.name for each in good] == ["ridgeline", "empty call"]
        assert left_out == {"numpy": "gives another result"}

    @pytest.mark.usefixtures("without_libraries")
    def test_a_failing_peer_is_left_out(self, case, monkeypatch):
        def fail(x, step):
            raise RuntimeError("no compiler\nat all")

        monkeypatch.setitem(peers._NUMPY_ONE, "prox_l1", fail)
        _, left_out = measure._checked(case, compiled=False)
        assert left_out == {"numpy": "RuntimeError: no compiler"}

    @pytest.mark.usefixtures("without_libraries")
    def test_our_own_mistake_stops_everything(self, case, monkeypatch, capsys):
        wrong = replace(case, operation=replace(case.operation, function=lambda x, step: None))
        monkeypatch.setattr(cli, "select", lambda words: [wrong])
        assert bench("--budget", 0) == 2
        assert "disagree" in capsys.readouterr().err


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("pattern", roof.TRAFFIC)
def test_roof_without_numba(pattern):
    memory = measure.Memory(4096)
    memory.restore(4096)
    measured = roof.Roof(threads=2)
    assert measured.source == "numpy, 1 thread"
    assert measured.sample(pattern, *memory.flat(4096)) > 0
