"""Results of benchmarks: reading them, and telling a change from noise. No test measures a time."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import itertools
import json
import math
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ridgeline.bench.report import compare, results
from ridgeline.bench.report.results import Implementation, Row, Run, Stats

pytest.importorskip("rich")

DATA = Path(__file__).parent / "data"
OURS_FILE, GOOGLE_FILE = DATA / "bench_run.json", DATA / "bench_google.json"

SURE = 1e-6  # how rarely a simulation may leave its bounds


def stats_of(samples) -> Stats:
    samples = tuple(float(each) for each in samples)
    low, high = results.median_interval(samples)
    return Stats(median(samples), min(samples), max(samples), low, high, len(samples), 1, samples)


def row_of(name, samples, roof=None, *, role="ours", trusted=True, **fields) -> Row:
    """Make a row with these samples of ridgeline, or of each implementation of a mapping."""
    operation, dtype, target, layout, threads = name.split("/")
    implementations = {
        each: Implementation(
            **vars(stats_of(times)),
            role=role,
            gb_per_s=None,
            of_roof=None,
            relative_error=None,
            extra_bytes=None,
            trusted=trusted,
        )
        for each, times in (
            samples if isinstance(samples, dict) else {"ridgeline": samples}
        ).items()
    }
    row = Row(
        name=name,
        operation=operation,
        family="penalties",
        dtype=dtype,
        target=target,
        layout=layout,
        threads=int(threads),
        arrays=1,
        elements=4096,
        traffic_bytes=None if roof is None else 32768,
        workload=False,
        own=False,
        roof=None if roof is None else stats_of(roof),
        implementations=implementations,
        left_out={},
        best_peer=None,
        speedup=None,
        speedup_low=None,
        speedup_high=None,
        doubts=(),
    )
    return dataclasses.replace(row, **fields)


def run_of(*rows, **fields) -> Run:
    run = Run(
        format=2,
        date="2026-01-02T03:04:05+00:00",
        machine={"cpu": "Example CPU", "flags": ["avx2"]},
        versions={"ridgeline": "0.1.0", "numpy": "2.0.0"},
        environment={},
        settings={"threads": [1], "targets": ["x86_64_v4"]},
        left_out={},
        warnings=(),
        roof=(),
        rows=rows,
    )
    return dataclasses.replace(run, **fields)


def name_of(operation) -> str:
    return f"{operation}/float32/x86_64_v4/16KiB/1"


A, B, C = (name_of(operation) for operation in ("prox_a", "prox_b", "prox_c"))
BASE = np.linspace(0.98, 1.02, 21)  # around 1, no two alike
OTHER = BASE + 1e-5


def judged(old, new, **options):
    """Compare two runs of one row each."""
    (row,) = compare.compare_runs(run_of(old), run_of(new), **options).rows
    return row


def verdict_of(old, new, old_roof=None, new_roof=None, **options):
    return judged(row_of(A, old, old_roof), row_of(A, new, new_roof), **options).verdict


def write(path, run) -> Path:
    path.write_text(json.dumps(dataclasses.asdict(run)))
    return path


class TestLoad:
    def test_compressed_files(self, tmp_path):
        file = tmp_path / "run.json.gz"
        file.write_bytes(gzip.compress(OURS_FILE.read_bytes()))
        assert results.load(file) == results.load(OURS_FILE)
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r"run\.json\.gz"):
            results.load(file)

    def test_every_field_is_where_the_format_puts_it(self):
        run = results.load(OURS_FILE)
        assert run.date == "2026-01-02T03:04:05+00:00"
        assert run.machine["caches"] == {"L1d": "32K", "L2": "1024K"}
        assert run.versions["torch"] is None
        assert run.environment == {"OMP_NUM_THREADS": "2"}
        assert run.settings["threads"] == [1, 2]
        assert run.left_out == {"torch": "not installed"}
        assert run.warnings == ("load 1.3 at the start: other programs disturb these figures",)
        assert run.roof == (results.Roof("read", "huge", 1, 268435456, 30.0, 28.0, 31.0, 9),)
        prox, own = run.rows
        assert prox.name == "prox_l1/float32/x86_64_v4/64MiB/2"
        assert (prox.arrays, prox.elements, prox.traffic_bytes) == (1, 2**24, 2**27)
        assert (prox.best_peer, prox.speedup, prox.speedup_low, prox.speedup_high) == (
            "numpy",
            2.0,
            1.9,
            2.1,
        )
        assert prox.doubts == ("the roof moved by 41 % while this was measured",)
        assert prox.left_out == {"jax": "gives another result"}
        assert prox.roof is not None
        assert prox.roof.median == 0.002
        ours, numpy = prox.implementations.values()
        assert (ours.role, ours.of_roof, ours.extra_bytes, ours.trusted) == ("ours", 0.8, 0, True)
        assert ours.samples == (0.0025, 0.0026, 0.0024, 0.00255, 0.00245, 0.00265, 0.00235)
        assert (numpy.low, numpy.high, numpy.trusted) == (None, None, False)
        assert (own.own, own.roof, own.traffic_bytes) == (True, None, None)

    def test_a_run_written_again_is_the_same(self):
        for file in (OURS_FILE, GOOGLE_FILE):
            run = results.load(file)
            assert results.from_json(json.dumps(dataclasses.asdict(run))) == run

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.update(format=1), "format: got 1, wants 2: measure again"),
            (lambda d: d.update(format="2"), "format: got '2', wants 2"),
            (lambda d: d.update(rows=[]), "rows: got none, wants at least one"),
            (lambda d: d.update(rows={}), "rows: got {}, wants a list"),
            (lambda d: d.pop("machine"), "machine: is missing"),
            (lambda d: d.update(warnings=[3]), r"warnings\[0\]: got 3, wants a text"),
            (lambda d: d["rows"].append(d["rows"][1]), "got 'my_clip/.*' twice, wants each once"),
            (lambda d: d["rows"].append(7), r"rows\[2\]: got 7, wants an object"),
            (lambda d: d["rows"][1].pop("threads"), r"rows\[1\]\.threads: is missing"),
            (lambda d: d["rows"][1].update(threads=1.5), "threads: got 1.5, wants a whole number"),
            (lambda d: d["rows"][1].update(threads=True), "threads: got True, wants a whole"),
            (lambda d: d["rows"][1].update(own=1), "own: got 1, wants true or false"),
            (
                lambda d: d["rows"][0]["roof"].update(median="x"),
                "roof.median: got 'x', wants a fin",
            ),
            (lambda d: d["rows"][0]["roof"].update(samples=[]), "roof: samples: got none, wants"),
            (lambda d: d["rows"][0].update(roof=[1]), r"rows\[0\]\.roof: got \[1\], wants an obj"),
            (
                lambda d: d["rows"][0]["implementations"]["numpy"].update(samples=[1.0, -1.0]),
                "numpy: samples: got -1.0, wants times above 0",
            ),
            (
                lambda d: d["rows"][0]["implementations"]["numpy"].update(samples=[math.nan]),
                r"implementations\['numpy'\]\.samples\[0\]: got nan, wants a finite number",
            ),
        ],
    )
    def test_what_is_wrong_with_a_file_is_said(self, change, message, tmp_path):
        data = json.loads(OURS_FILE.read_text())
        change(data)
        file = tmp_path / "bad.json"
        file.write_text(json.dumps(data))
        with pytest.raises(ValueError, match=message) as caught:
            results.load(file)
        assert str(caught.value).startswith(f"{file}: ")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"[" * 10**5, "not JSON"),
            (b"\xff\xfe", "no text"),
            (b"[1]", "got other JSON, wants that of `ridgeline bench` or google-benchmark"),
            (b'{"rows": []}', "got other JSON"),
        ],
    )
    def test_other_files_are_refused(self, content, message, tmp_path):
        file = tmp_path / "bad.json"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            results.load(file)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            results.load(tmp_path / "none.json")


@pytest.fixture
def google():
    return json.loads(GOOGLE_FILE.read_text())


def load_google(data) -> Run:
    return results.from_json(json.dumps(data))


def keep(data, wanted) -> None:
    data["benchmarks"] = [entry for entry in data["benchmarks"] if wanted(entry)]


class TestGoogleBenchmark:
    def test_each_repetition_is_a_sample(self, google):
        prox, half, clip = load_google(google).rows
        assert prox.name == "prox_l1/float32/x86_64_v4/16KiB/1"
        assert (prox.operation, prox.dtype, prox.target) == ("prox_l1", "float32", "x86_64_v4")
        assert (prox.layout, prox.threads, prox.family) == ("16KiB", 1, "penalties")
        assert (prox.elements, prox.arrays, prox.traffic_bytes) == (4096, 1, 32768)
        assert (half.elements, half.threads) == (2**25, 2)
        assert (clip.arrays, clip.elements, clip.workload) == (161, None, True)
        assert clip.traffic_bytes == 306684384
        assert list(prox.implementations) == ["ridgeline"]
        ours = prox.implementations["ridgeline"]
        # The counter, 0.25 us and thousandths more, not google-benchmark's time.
        expected = [0.25, 0.25075, 0.2515, 0.2505, 0.25125, 0.25025, 0.251]
        assert ours.samples == pytest.approx([1e-6 * each for each in expected], rel=1e-12)
        assert ours.median == pytest.approx(0.25075e-6)
        assert (ours.low, ours.high) == (ours.min, ours.max)
        assert ours.gb_per_s == pytest.approx(32768 / 0.25075e-6 * 1e-9)
        assert ours.of_roof == pytest.approx(0.5)
        assert prox.roof is not None
        assert prox.roof.samples == pytest.approx([each / 2 for each in ours.samples])
        assert prox.doubts == half.doubts == clip.doubts == ()

    def test_context_and_roof(self, google):
        run = load_google(google)
        assert run.machine["cpu"] == "Example CPU"
        assert run.machine["caches"]["L1d"] == "32K"
        assert run.settings["threads"] == [1, 2]
        assert run.settings["targets"] == ["x86_64_v4", "scalar"]
        assert run.warnings == ()
        assert run.roof == (results.Roof("read", "huge", 2, 2**26, 30.0, 28.0, 31.0, 3),)

    def test_a_disturbed_machine_is_told(self, google):
        google["context"].update(load_avg=[1.7, 0, 0], cpu_scaling_enabled=True)
        load, scaling = load_google(google).warnings
        assert "load 1.7" in load
        assert "frequency" in scaling

    def test_one_repetition_has_no_spread(self, google):
        keep(google, lambda entry: entry.get("repetition_index") == 0)
        row = load_google(google).rows[0]
        ours = row.implementations["ridgeline"]
        assert (ours.runs, ours.low, ours.high) == (1, None, None)
        assert row.doubts == ("one repetition: no spread; use --benchmark_repetitions=7",)

    @pytest.mark.parametrize(("count", "doubts"), [(2, 1), (3, 0)])
    def test_few_repetitions(self, google, count, doubts):
        keep(google, lambda entry: entry.get("repetition_index", 9) < count)
        row = load_google(google).rows[0]
        assert row.implementations["ridgeline"].low is None
        assert len(row.doubts) == doubts

    def test_aggregates_only(self, google):
        keep(google, lambda entry: entry["run_type"] == "aggregate")
        row = load_google(google).rows[0]
        assert row.implementations["ridgeline"].samples == pytest.approx((0.25075e-6,))
        assert "--benchmark_report_aggregates_only" in row.doubts[0]

    def test_a_row_that_failed_is_left_out(self, google):
        for entry in google["benchmarks"][:7]:
            entry.update(error_occurred=True, error_message="no memory")
        keep(google, lambda entry: entry["run_type"] == "iteration")
        run = load_google(google)
        assert run.left_out == {"prox_l1/float32/x86_64_v4/16KiB/1": "no memory"}
        assert len(run.rows) == 2

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"run_name": "BM_sort/1024"}, "got the name 'BM_sort/1024', wants operation/dtype/"),
            ({"run_name": "a/b/c/d/e"}, "got 'e' threads in 'a/b/c/d/e', wants a number"),
            ({"run_name": 3}, r"benchmarks\[0\]\.name: got 3, wants a text"),
            ({"median_us": None}, "16KiB/1: median_us: got None, wants a finite number"),
            ({"of_roof": 0}, "16KiB/1: of_roof: got 0.0, wants a number above 0"),
            ({"run_name": "roof/read/1"}, "wants roof/pattern/size/threads"),
        ],
    )
    def test_what_is_wrong_is_said(self, google, change, message):
        google["benchmarks"][0].update(change)
        with pytest.raises(ValueError, match=message):
            load_google(google)

    @pytest.mark.parametrize(
        "change", [{"caches": 3}, {"caches": [{}]}, {"load_avg": ["x"]}, {"num_cpus": None}]
    )
    def test_damaged_context(self, google, change):
        google["context"].update(change)
        with pytest.raises(ValueError, match=r"context\."):
            load_google(google)

    def test_roofs_alone_are_no_rows(self, google):
        keep(google, lambda entry: entry["name"].startswith("roof/"))
        with pytest.raises(ValueError, match="rows: got none"):
            load_google(google)


class TestText:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0, "0.00 ns"),
            (0.25e-9, "0.25 ns"),
            (999.4e-9, "999 ns"),
            (999.6e-9, "1.00 us"),
            (9.994e-6, "9.99 us"),
            (9.996e-6, "10.0 us"),
            (99.96e-3, "100 ms"),
            (-0.0023, "-2.30 ms"),
            (123.4, "123 s"),
        ],
    )
    def test_time_has_three_digits(self, seconds, text):
        assert results.time_text(seconds) == text

    def test_range_names_a_common_unit_once(self):
        assert results.range_text(stats_of([2.3e-3, 2.41e-3])) == "2.30 - 2.41 ms"
        assert results.range_text(stats_of([900e-6, 1.2e-3])) == "900 us - 1.20 ms"

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (98 * 2**20, "98.0 MiB")],
    )
    def test_bytes(self, count, text):
        assert results.bytes_text(count) == text


class TestStatistics:
    @pytest.mark.parametrize("n", [*range(1, 60), 201])
    def test_interval_of_the_median_is_the_narrowest_that_is_sure(self, n):
        low, high = results.median_interval(range(n))
        heads = scipy_stats.binom(n, 0.5)
        if low is None:
            assert 2 * heads.cdf(0) > 0.05
            return
        assert (low + 1) + (high + 1) == n + 1
        assert 2 * heads.cdf(low) <= 0.05 < 2 * heads.cdf(low + 1)

    def test_u_counted_by_hand(self):
        # Only 4 > 3 is in the wrong order: U = 1. Of the 35 ways to deal ranks to 3 and 4 samples
        # one has U = 0 and one U = 1, so P(U <= 1) = 2/35, twice that for both sides.
        assert compare.mann_whitney([1, 2, 4], [3, 5, 6, 7]) == pytest.approx(4 / 35)
        # The published table for 5 and 5 at 5 % says U <= 2: four of the 252 ways.
        assert compare.mann_whitney([1, 2, 3, 4, 7], [5, 6, 8, 9, 10]) == pytest.approx(8 / 252)

    def test_exact_p_is_that_of_all_ways_to_deal(self):
        rng = np.random.default_rng(1)
        old, new = rng.random(5), rng.random(6)
        both = np.concatenate([old, new])

        def distance(chosen):
            rest = np.delete(both, list(chosen))
            return abs(sum((a > rest).sum() for a in both[list(chosen)]) - 15)

        ways = [distance(chosen) for chosen in itertools.combinations(range(11), 5)]
        expected = np.mean(np.array(ways) >= distance(range(5)))
        assert compare.mann_whitney(old, new) == pytest.approx(expected)

    @pytest.mark.parametrize(("n", "method"), [(30, "exact"), (31, "asymptotic")])
    def test_scipy_agrees(self, n, method):
        rng = np.random.default_rng(2)
        old, new = rng.random(n), rng.random(20) + 0.2
        expected = scipy_stats.mannwhitneyu(old, new, method=method).pvalue
        assert compare.mann_whitney(old, new) == expected

    def test_ties(self):
        assert compare.mann_whitney([1.0] * 7, [1.0] * 7) == 1
        # The normal distribution says 0.008; there are only 10 ways to deal.
        assert compare.mann_whitney([1.0], [2.0] * 9) == 0.2

    def test_holm_by_hand(self):
        # In order: 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which is raised to the one before.
        assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert compare.holm([0.6, 0.7]) == [1, 1]
        assert compare.holm([]) == []

    def test_bootstrap_covers_the_true_ratio(self):
        rng = np.random.default_rng(3)
        n, sigma, trials = 15, 0.1, 300
        intervals = []
        for _ in range(trials):
            old, new = rng.lognormal(0, sigma, n), 1.1 * rng.lognormal(0, sigma, n)
            intervals.append(compare.ratio_interval(old, new))
        covered = sum(low <= 1.1 <= high for low, high in intervals)
        assert covered >= scipy_stats.binom.ppf(SURE, trials, 0.95)
        # The median's standard error is sqrt(pi/2) of the mean's.
        error = math.sqrt(2) * math.sqrt(math.pi / 2) * sigma / math.sqrt(n)
        widths = [math.log(high / low) for low, high in intervals]
        assert 0.8 < np.mean(widths) / (2 * 1.96 * error) < 1.25

    def test_bootstrap_is_the_same_each_time(self):
        assert compare.ratio_interval(BASE, OTHER) == compare.ratio_interval(BASE, OTHER)
        assert compare.ratio_interval([2.0] * 5, [3.0] * 4) == (1.5, 1.5)
        assert compare.ratio_interval([2.0], [3.0, 3.0]) == (None, None)

    def test_p_is_below_alpha_as_often_as_chance_may(self):
        n, alpha, trials = 8, 0.05, 800
        # How often each U comes: ways to choose n of 2 n ranks, by their sum.
        ways = {(0, 0): 1}
        for rank in range(2 * n):
            for (count, total), number in list(ways.items()):
                key = (count + 1, total + rank)
                ways[key] = ways.get(key, 0) + number
        counts = [ways[n, n * (n - 1) // 2 + u] for u in range(n * n + 1)]
        tails = 2 * np.cumsum(counts) / math.comb(2 * n, n)
        size = tails[tails <= alpha].max()
        rng = np.random.default_rng(4)
        found = sum(
            compare.mann_whitney(rng.random(n), rng.random(n)) <= alpha for _ in range(trials)
        )
        bounds = scipy_stats.binom(trials, size)
        assert bounds.ppf(SURE) <= found <= bounds.ppf(1 - SURE)

    def test_whole_comparisons_are_seldom_wrong(self):
        rng = np.random.default_rng(5)
        trials, rows, alpha = 40, 12, 0.05
        wrong = 0
        for _ in range(trials):
            old, new = (
                run_of(*(row_of(name_of(f"op{i}"), rng.lognormal(0, 0.05, 9)) for i in range(rows)))
                for _ in range(2)
            )
            counts = compare.compare_runs(old, new, threshold=0, alpha=alpha).counts()
            assert counts["unclear"] == counts["machine"] == 0
            wrong += counts["regression"] + counts["improvement"] > 0
        # Without Holm's correction it would be 1 - 0.95^12 = 46 %.
        assert wrong <= scipy_stats.binom.ppf(1 - SURE, trials, alpha)


class TestVerdict:
    def test_slower_and_faster(self):
        assert verdict_of(BASE, 1.2 * BASE) == "regression"
        assert verdict_of(1.2 * BASE, BASE) == "improvement"
        assert verdict_of(BASE, OTHER) == "unchanged"

    def test_figures(self):
        row = judged(row_of(A, BASE), row_of(A, 1.2 * BASE))
        assert row.time.ratio == pytest.approx(1.2)
        assert row.time.low < 1.2 < row.time.high
        assert row.time.p == scipy_stats.mannwhitneyu(BASE, 1.2 * BASE, method="exact").pvalue
        assert (row.over_roof, row.old_of_roof) == (None, None)

    @pytest.mark.parametrize(
        ("factor", "verdict"),
        [(1.09, "unchanged"), (1.11, "regression"), (0.92, "unchanged"), (0.9, "improvement")],
    )
    def test_threshold_is_a_ratio_both_ways(self, factor, verdict):
        old, new = 1 + BASE / 1000, (1 + BASE / 1000) * factor
        assert compare.mann_whitney(old, new) < 1e-9
        assert verdict_of(old, new, threshold=0.1) == verdict

    def test_a_large_change_within_the_noise_is_none(self):
        rng = np.random.default_rng(0)
        old, new = rng.permutation(np.geomspace(1, 10, 21)), np.geomspace(1.2, 12, 21)
        row = judged(row_of(A, old), row_of(A, new))
        assert row.time.ratio == pytest.approx(1.2)
        assert row.verdict == "unchanged"

    def test_p_is_corrected_for_the_number_of_rows(self):
        old, new = BASE, BASE + 0.0121
        p = compare.mann_whitney(old, new)
        assert 0.01 / 20 < p < 0.01
        assert verdict_of(old, new, threshold=0.01) == "regression"
        rest = [row_of(name_of(f"op{i}"), BASE) for i in range(19)]
        comparison = compare.compare_runs(
            run_of(row_of(A, old), *rest), run_of(row_of(A, new), *rest), threshold=0.01
        )
        assert comparison.rows[0].time.p == pytest.approx(20 * p)
        assert comparison.counts()["unchanged"] == 20

    @pytest.mark.parametrize(
        ("time", "roof", "verdict"),
        [
            (1.3, 1.0, "regression"),
            (1.3, 1.3, "machine"),
            (1.3, 1.6, "machine"),
            (1.0, 1.3, "machine"),
            (0.7, 0.7, "machine"),
            (0.7, 1.0, "improvement"),
            (1.0, 1.0, "unchanged"),
            (1.3, 0.8, "regression"),
        ],
    )
    def test_time_over_roof_has_to_agree(self, time, roof, verdict):
        old, new = row_of(A, BASE, BASE / 2), row_of(A, time * OTHER, roof * OTHER[:15] / 2)
        row = judged(old, new)
        assert row.verdict == verdict
        assert (row.reason != "") == (verdict == "machine")
        assert row.over_roof.ratio == pytest.approx(time / roof, rel=0.02)
        assert row.old_of_roof == pytest.approx(0.5)
        assert row.new_of_roof == pytest.approx(0.5 * roof / time, rel=0.02)

    def test_samples_are_over_the_roof_of_their_round(self):
        rng = np.random.default_rng(7)
        # The machine is twice as fast in some rounds as in others: times alone say nothing.
        old_roof, new_roof = rng.uniform(1, 2, 21), rng.uniform(1, 2, 21)
        old, new = old_roof * BASE, 1.2 * new_roof * OTHER
        row = judged(row_of(A, old, old_roof), row_of(A, new, new_roof))
        assert row.verdict == "machine"
        assert row.reason == "unchanged, though the roof moved"
        assert row.over_roof.ratio == pytest.approx(1.2, rel=1e-3)
        assert row.over_roof.p == pytest.approx(compare.mann_whitney(BASE, 1.2 * OTHER))
        # With another number of samples it is not known which round each is of.
        row = judged(row_of(A, old, old_roof), row_of(A, new[:-1], new_roof))
        assert row.verdict == "unchanged"
        expected = (median(new[:-1]) / median(new_roof)) / (median(old) / median(old_roof))
        assert row.over_roof.ratio == pytest.approx(expected)

    def test_roofs_for_other_traffic_are_not_compared(self):
        old = row_of(A, BASE, BASE)
        new = row_of(A, 1.3 * BASE, 1.3 * BASE, traffic_bytes=1)
        row = judged(old, new)
        assert (row.verdict, row.over_roof) == ("regression", None)

    def test_doubts_make_it_unclear(self):
        doubted = row_of(A, 2 * BASE, trusted=False, doubts=("the roof moved", "load"))
        row = judged(row_of(A, BASE), doubted)
        assert (row.verdict, row.reason) == ("unclear", "NEW: the roof moved; NEW: load")
        assert row.time.p is None
        assert row.time.ratio == pytest.approx(2)
        assert judged(doubted, row_of(A, BASE)).reason.startswith("OLD: the roof moved")
        row = judged(row_of(A, BASE, trusted=False), row_of(A, 2 * BASE))
        assert (row.verdict, row.reason) == ("unclear", "OLD: ridgeline is not trusted")

    def test_doubts_about_others_do_not_matter(self):
        """Of a peer, or of the roof: the times of ours are known."""
        doubted = row_of(A, BASE)
        doubted = dataclasses.replace(doubted, doubts=("the median of numpy is only known to 12%",))
        assert judged(doubted, row_of(A, BASE)).verdict == "unchanged"

    def test_doubted_rows_do_not_count_in_the_correction(self):
        doubted = row_of(B, BASE, trusted=False, doubts=("load",))
        new = run_of(row_of(A, 1.2 * BASE), doubted)
        comparison = compare.compare_runs(run_of(row_of(A, BASE), doubted), new)
        alone = judged(row_of(A, BASE), row_of(A, 1.2 * BASE))
        assert comparison.rows[0].time == alone.time

    @pytest.mark.parametrize("field", ["arrays", "elements"])
    def test_other_work_is_unclear(self, field):
        row = judged(row_of(A, BASE), row_of(A, 2 * BASE, **{field: 5000}))
        assert row.verdict == "unclear"
        assert row.reason.startswith(f"not the same work: {field} ")

    def test_unknown_sizes_are_no_obstacle(self):
        assert judged(row_of(A, BASE), row_of(A, 2 * BASE, elements=None)).verdict == "regression"

    def test_too_few_samples_for_any_verdict(self):
        # Of 4 and 4 samples there are 70 ways to deal: p is 2/70 at least; of 6 and 6, 924 ways.
        row = judged(row_of(A, [1, 2, 3, 4]), row_of(A, [5, 6, 7, 8]))
        assert row.verdict == "unclear"
        assert row.reason == (
            "too few samples: with 4 and 4, p is at least 0.029 among 1 row; wants 5 of each"
        )
        assert verdict_of([1, 2, 3, 4, 4.5], [5, 6, 7, 8, 9]) == "regression"
        assert verdict_of([1, 2, 3, 4], [5, 6, 7, 8], alpha=0.03) == "regression"
        assert verdict_of([1], [2]) == "unclear"

    def test_samples_that_are_too_few_among_many_rows(self):
        many = [row_of(name_of(f"op{i}"), BASE) for i in range(9)]
        old, new = BASE[:6], 2 * BASE[:6]
        assert verdict_of(old, new) == "regression"
        comparison = compare.compare_runs(
            run_of(row_of(A, old), *many), run_of(row_of(A, new), *many)
        )
        row = comparison.rows[0]
        assert row.verdict == "unclear"
        assert "with 6 and 6, p is at least 0.022 among 10 rows; wants 7 of each" in row.reason
        assert comparison.counts()["unchanged"] == 9
        # 7 of each would do.
        old, new = BASE[:7], 2 * BASE[:7]
        comparison = compare.compare_runs(
            run_of(row_of(A, old), *many), run_of(row_of(A, new), *many)
        )
        assert comparison.rows[0].verdict == "regression"

    def test_few_samples_that_agree_are_enough(self):
        # Of 6 and 6 among 10 rows p can't reach alpha, but the interval says how large at most.
        many = [row_of(name_of(f"op{i}"), BASE) for i in range(9)]

        def verdict(new, threshold):
            old = run_of(row_of(A, BASE[6:12]), *many)
            runs = old, run_of(row_of(A, new), *many)
            return compare.compare_runs(*runs, threshold=threshold).rows[0].verdict

        assert verdict(BASE[6:12] + 0.001, 0.05) == "unchanged"
        assert verdict(BASE[6:12] + 0.001, 0.005) == "unclear"
        assert verdict(BASE[6:12] - 0.001, 0.005) == "unclear"
        assert verdict(BASE[6:12] + 0.06, 0.05) == "unclear"
        assert verdict(BASE[6:12] - 0.06, 0.05) == "unclear"

    def test_few_samples_beside_a_row_that_is_certain(self):
        # Alone each p of 5 and 5 reaches alpha, corrected for two rows none does; but the least p
        # is the other row's, so the correction is that for one.
        few = np.array([1, 1.02, 1.04, 1.06, 1.08])

        def verdict(new, threshold=0.2):
            before = run_of(row_of(A, few), row_of(B, BASE))
            after = run_of(row_of(A, new), row_of(B, 2 * BASE))
            return compare.compare_runs(before, after, threshold=threshold).rows[0].verdict

        assert verdict(few * 1.5) == "regression"
        assert verdict(few * 1.15) == "unchanged"
        assert verdict(few * 1.03, threshold=0.05) == "unclear"


class TestComparison:
    def test_rows_of_one_run_only(self):
        old, new = (
            run_of(row_of(A, BASE), row_of(B, BASE)),
            run_of(row_of(C, BASE), row_of(B, BASE)),
        )
        comparison = compare.compare_runs(old, new)
        assert [row.name for row in comparison.rows] == [B]
        assert (comparison.only_old, comparison.only_new) == ((A,), (C,))

    def test_the_greatest_change_comes_first(self):
        factors = {"a": 1.2, "b": 1.5, "c": 0.5, "d": 0.8, "e": 1.0, "f": 1.3, "g": 1.001}
        old = run_of(*(row_of(name_of(key), BASE) for key in factors))
        new = run_of(*(row_of(name_of(key), BASE * factor) for key, factor in factors.items()))
        comparison = compare.compare_runs(old, new)

        def found(verdict):
            return "".join(row.name[0] for row in comparison.of(verdict))

        assert (found("regression"), found("improvement"), found("unchanged")) == (
            "bfa",
            "cd",
            "eg",
        )
        assert comparison.counts() == {
            "regression": 3,
            "machine": 0,
            "improvement": 2,
            "unclear": 0,
            "unchanged": 2,
        }

    def test_another_implementation(self):
        old = row_of(A, {"ridgeline": BASE, "numpy": BASE})
        new = row_of(A, {"ridgeline": BASE, "numpy": 2 * BASE})
        assert judged(old, new).verdict == "unchanged"
        assert judged(old, new, implementation="numpy").verdict == "regression"

    def test_a_row_that_lost_the_implementation(self):
        both = {"ridgeline": BASE, "numpy": BASE}
        old, new = (
            run_of(row_of(A, both), row_of(B, both)),
            run_of(row_of(A, BASE), row_of(B, both)),
        )
        comparison = compare.compare_runs(old, new, implementation="numpy")
        assert comparison.only_old == (A,)

    def test_nothing_in_common(self):
        old, new = run_of(row_of(A, BASE)), run_of(row_of(B, BASE))
        with pytest.raises(ValueError, match=r"no row is in both files: OLD has prox_a/.*prox_b/"):
            compare.compare_runs(old, new)
        with pytest.raises(
            ValueError, match=r"got 'numpi', which is not in OLD or NEW; wants .*ridgeline"
        ):
            compare.compare_runs(old, old, implementation="numpi")

    def test_status(self):
        same, slow = row_of(A, BASE), row_of(A, 2 * BASE)
        doubted = row_of(B, BASE, trusted=False, doubts=("load",))

        def status(old, new):
            return compare.compare_runs(run_of(*old), run_of(*new)).status()

        assert status([same], [same]) == 0
        assert status([same], [slow]) == 1
        assert status([slow], [same]) == 0
        assert status([same, doubted], [same, doubted]) == 0
        assert status([doubted], [doubted]) == 2

    def test_json_has_verdicts_and_no_samples(self):
        comparison = compare.compare_runs(run_of(row_of(A, BASE)), run_of(row_of(A, 2 * BASE)))
        data = json.loads(json.dumps(compare.to_json(comparison), allow_nan=False))
        assert data["status"] == 1
        assert data["counts"]["regression"] == 1
        (row,) = data["rows"]
        assert row["verdict"] == "regression"
        assert row["new"] == {"median": 2.0, "min": 1.96, "max": 2.04, "runs": 21}


class TestDifferences:
    def warnings(self, old=(), new=()):
        runs = (run_of(row_of(A, BASE), **dict(fields)) for fields in (old, new))
        return compare.compare_runs(*runs).warnings

    def test_none(self):
        assert self.warnings() == ()

    @pytest.mark.parametrize(
        ("old", "new", "warning"),
        [
            (
                {"machine": {"cpu": "One"}},
                {"machine": {"cpu": "Two"}},
                "cpu: One in OLD, Two in NEW",
            ),
            (
                {"machine": {"flags": ["avx2", "avx512f"]}},
                {"machine": {"flags": ["avx2"]}},
                "flags: avx512f in OLD, no more in NEW",
            ),
            (
                {"machine": {"governor": None}},
                {"machine": {"governor": "performance"}},
                "governor: none in OLD, performance in NEW",
            ),
            (
                {"versions": {"torch": "2.13.0"}},
                {"versions": {"torch": None}},
                "torch: 2.13.0 in OLD, none in NEW",
            ),
            ({}, {"environment": {"XLA_FLAGS": "x"}}, "XLA_FLAGS: none in OLD, x in NEW"),
            (
                {"settings": {"threads": [1, 2]}},
                {"settings": {"threads": [1, 4]}},
                "threads: 2 in OLD, 4 in NEW",
            ),
            (
                {"settings": {"quick": False}},
                {"settings": {"quick": True}},
                "quick: False in OLD, True in NEW",
            ),
            ({}, {"settings": {"suite": "ridgeline_bench"}}, "one run is of ridgeline bench"),
            ({"warnings": ("load 1.3",)}, {}, "OLD: load 1.3"),
        ],
    )
    def test_each(self, old, new, warning):
        (found,) = self.warnings(old, new)
        assert found.startswith(warning)

    def test_what_is_expected_or_unknown_is_no_difference(self):
        assert (
            self.warnings({"versions": {"ridgeline": "1"}}, {"versions": {"ridgeline": "2"}}) == ()
        )
        assert self.warnings({"machine": {}}, {"machine": {"cpu": "Two"}}) == ()
        assert self.warnings({"machine": {"load": 0.1}}, {"machine": {"load": 0.2}}) == ()


def command(*options: object) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.run(parser.parse_args([str(option) for option in options]))


@pytest.fixture
def old(tmp_path):
    rows = (row_of(name, BASE, BASE / 2) for name in (A, B, C))
    return write(tmp_path / "old.json", run_of(*rows))


class TestCommand:
    def test_nothing_changed(self, old, capsys):
        assert command(old, old) == 0
        printed = capsys.readouterr().out
        assert printed.splitlines()[-1] == (
            "0 regressions, 0 machine, 0 improvements, 0 unclear, 3 unchanged of 3 rows"
            " (ridgeline, threshold 0.05, alpha 0.01)"
        )
        assert A not in printed
        command(old, old, "--all")
        assert A in capsys.readouterr().out

    @pytest.mark.parametrize("columns", ["200", "80"])
    def test_order_of_what_is_printed(self, old, columns, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        new = run_of(
            row_of(A, 1.2 * BASE, BASE / 2),
            row_of(B, 1.4 * BASE, BASE / 2),
            row_of(C, 1.3 * BASE, 1.3 * BASE / 2),
            row_of(name_of("new_[red]"), BASE),
            machine={"cpu": "Two"},
        )
        file = tmp_path / "verdicts.json"
        assert command(old, write(tmp_path / "new.json", new), "--json", file) == 1
        printed = capsys.readouterr().out
        expected = (
            "warning: cpu: Example CPU in OLD, Two in NEW",
            "2 regressions",
            B,
            "1.00 s",
            "980 ms - 1.02 s",
            "1.40",
            A,
            "1.20",
            "1 machine",
            C,
            "0.50 -> 0.50",
            "only in NEW (1):",
            name_of("new_[red]"),
            "2 regressions, 1 machine,",
        )
        at = 0
        for part in expected:
            at = printed.find(part, at)
            assert at >= 0, part
        assert json.loads(file.read_text())["counts"]["regression"] == 2

    def test_unclear_is_told_with_its_reason(self, old, tmp_path, capsys):
        doubted = row_of(B, [1.0, 1.1], trusted=False, doubts=("the roof moved by 41 %",))
        rows = (row_of(A, BASE), doubted)
        assert command(old, write(tmp_path / "new.json", run_of(*rows))) == 0
        printed = capsys.readouterr().out
        assert "1 unclear" in printed
        assert "NEW: the roof moved by 41 %" in printed

    def test_no_spread_is_told(self, old, tmp_path, capsys):
        new = write(tmp_path / "new.json", run_of(row_of(A, [1.0])))
        assert command(old, new) == 2
        captured = capsys.readouterr()
        assert "(no interval)" in captured.out
        assert "not one row could be judged" in captured.err

    def test_google_benchmark(self, google, tmp_path, capsys):
        assert command(GOOGLE_FILE, GOOGLE_FILE) == 0
        for entry in google["benchmarks"]:
            if entry["name"].startswith("prox_l1/float32"):
                entry["median_us"] *= 1.5
                entry["of_roof"] /= 1.5
        file = tmp_path / "new.json"
        file.write_text(json.dumps(google))
        assert command(GOOGLE_FILE, file) == 1
        assert "1 regression," in capsys.readouterr().out
        keep(google, lambda entry: entry["run_type"] == "aggregate")
        file.write_text(json.dumps(google))
        assert command(GOOGLE_FILE, file) == 2
        assert "aggregates only" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["none.json", "{old}"], "none.json"),
            (["{old}", "{bad}"], "bad.json: got something that is not JSON"),
            (["{old}", "{old}", "--implementation", "numpi"], "--implementation: got 'numpi'"),
            (["{old}", "{old}", "--json", "none/out.json"], "--json none/out.json: no directory"),
            (["{old}", "{ours}", "--json", "{old}"], "old.json: is one of the runs"),
            (["{old}", "{ours}"], "no row is in both files"),
        ],
    )
    def test_refusals(self, options, message, old, tmp_path, capsys):
        bad = tmp_path / "bad.json"
        bad.write_text("{")
        named = {"old": old, "bad": bad, "ours": OURS_FILE}
        assert command(*(option.format(**named) for option in options)) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("ridgeline bench compare: ")
        assert message in captured.err
        assert captured.out == ""

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--threshold", "-0.1"),
            ("--threshold", "nan"),
            ("--threshold", "x"),
            ("--alpha", "0"),
            ("--alpha", "1"),
            ("--alpha", "nan"),
        ],
    )
    def test_numbers_are_checked(self, option, value, old, capsys):
        with pytest.raises(SystemExit) as caught:
            command(old, old, f"{option}={value}")
        assert caught.value.code == 2
        assert f"argument {option}" in capsys.readouterr().err

    @pytest.mark.parametrize("package", ["rich.console", "scipy"])
    def test_packages_are_asked_for(self, package, old, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, package, None)
        assert command(old, old) == 2
        assert "pip install 'ridgeline[bench]'" in capsys.readouterr().err

    def test_help_says_how_it_judges(self, capsys):
        with pytest.raises(SystemExit):
            command("--help")
        printed = capsys.readouterr().out
        for word in ("Mann-Whitney", "Holm", "bootstrap", "machine", "unclear", "Exit status"):
            assert word in printed
