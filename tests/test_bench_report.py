"""The report of a run: its page, also in a browser, and its Markdown."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import os
import re
import select
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ridgeline.bench.report import page as report
from ridgeline.bench.report import results
from ridgeline.bench.report.data import ours, summary, verdict
from ridgeline.bench.report.markdown import markdown_table, roof_table

HOSTILE = "<script>alert(\"1\")</script> & 'x' | `y`"
VOID = {"meta", "link", "input", "br", "wbr"}
SIZES = {"256": 256, "16KiB": 2**12, "512KiB": 2**17, "64MiB": 2**24, "resnet50": 25_557_032}


def stats(seconds, runs=9):
    """Return samples around a median; the interval is narrower than the range."""
    spread = [1 + 0.01 * (k - runs // 2) for k in range(runs)]
    samples = [seconds * factor for factor in spread]
    low, high = (samples[1], samples[-2]) if runs >= 7 else (None, None)
    return {
        "median": samples[runs // 2],
        "min": samples[0],
        "max": samples[-1],
        "low": low,
        "high": high,
        "runs": runs,
        "calls": 1,
        "samples": samples,
    }


def implementation(seconds, role, traffic, roof, **more):
    timed = stats(seconds, more.pop("runs", 9))
    return {
        **timed,
        "role": role,
        "gb_per_s": traffic and traffic / timed["median"] * 1e-9,
        "of_roof": roof and roof / timed["median"],
        "relative_error": None,
        "extra_bytes": None,
        "trusted": True,
        **more,
    }


def row(
    operation="prox_l1",
    layout="64MiB",
    *,
    dtype="float32",
    target="x86_64_v4",
    threads=2,
    peers=(("torch", 2.0), ("numba prange", 1.3)),
    others=(),
    speedup=(1.3, 1.25, 1.36),
    doubts=(),
    of_roof=0.9,
    **more,
):
    """Return the JSON of a row; peers and others are told by their time over ours."""
    elements = SIZES[layout]
    traffic = None if layout == "256" else 8 * elements
    roof = traffic and traffic / (30e9 * threads)
    seconds = roof / of_roof if roof else 4e-7
    timed = {"ridgeline": implementation(seconds, "ours", traffic, roof, **more)}
    for name, factor, role in (*((*each, "peer") for each in peers), *others):
        timed[name] = implementation(seconds * factor, role, traffic, roof)
    best = min(peers, key=lambda each: each[1], default=(None, 0))[0]
    value, low, high = speedup if best else (None, None, None)
    return {
        "name": f"{operation}/{dtype}/{target}/{layout}/{threads}",
        "operation": operation,
        "family": operation.partition("_")[0],
        "dtype": dtype,
        "target": target,
        "layout": layout,
        "threads": threads,
        "arrays": 161 if layout == "resnet50" else 1,
        "elements": elements,
        "traffic_bytes": traffic,
        "workload": layout == "resnet50",
        "own": False,
        "roof": roof and stats(roof),
        "implementations": timed,
        "left_out": {},
        "best_peer": best,
        "speedup": value,
        "speedup_low": low,
        "speedup_high": high,
        "doubts": list(doubts),
    }


def roofs():
    return [
        {
            "pattern": pattern,
            "pages": pages,
            "threads": threads,
            "bytes": 2**28,
            "gb_per_s": speed,
            "gb_per_s_min": 0.9 * speed,
            "gb_per_s_max": 1.1 * speed,
            "runs": 9,
        }
        for pattern, base in (("read", 30.0), ("rewrite", 31.0))
        for threads in (1, 2)
        for pages, speed in (("huge", base * threads), ("normal", 0.8 * base * threads))
    ]


def run(*rows, **more):
    data = {
        "format": 2,
        "date": "2026-11-21T22:00:00+00:00",
        "machine": {"cpu": "Some CPU", "cores": 2, "flags": ["avx2", "fma"], "governor": None},
        "versions": {"ridgeline": "0.1.0", "numpy": "2.4.6", "torch": None},
        "environment": {"OMP_NUM_THREADS": "2"},
        "settings": {"threads": [1, 2], "quick": False},
        "left_out": {"jax": "not installed"},
        "warnings": [],
        "roof": [],
        "rows": list(rows),
    }
    return results.from_json(json.dumps(data | more))


def full(**more):
    """Return a run with something for each section."""
    rows = [
        row(layout=layout, threads=threads, others=[("ridgeline x86_64_v3", 1.1, "target")])
        for layout in ("16KiB", "512KiB", "64MiB")
        for threads in (1, 2)
    ]
    rows += [
        row("value_l1", "64MiB", speedup=(0.9, 0.85, 0.95), peers=[("torch", 0.9)]),
        row("value_l1", "16KiB", doubts=["the roof moved by 41 %"]),
        row("value_l1", dtype="bfloat16", speedup=(1.01, 0.98, 1.04)),
        row("clip_all", "resnet50", extra_bytes=2**20, trusted=False),
        row("clip_all", "256", others=[("empty call", 0.2, "floor")]),
    ]
    for each in rows[-2]["implementations"].values():
        each["relative_error"] = 1e-9
    more = {"roof": roofs(), "warnings": ["load 1.3 at the start"]} | more
    return run(*rows, **more)


class Page(HTMLParser):
    """What is checked of a page; tags have to be closed in the order they were opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.addresses, self.svgs, self.tags = [], [], [], [], []
        self.text, self.tables, self.headings, self.tips = "", {}, [], []
        self._table = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), f"{tag} has an attribute twice"
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag == "svg":
            self.svgs.append({"attributes": values, "marks": 0, "texts": []})
        elif "svg" in self.open and "m" in values.get("class", "").split():
            self.svgs[-1]["marks"] += 1
        if tag == "table":
            self._table = self.tables.setdefault(values["id"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
        elif tag == "h2":
            self.headings.append("")
        elif tag == "title":
            self.tips.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if "title" in self.open:
            self.tips[-1] += data
        elif "td" in self.open or "th" in self.open:
            self._table[-1][-1] += data
        elif "h2" in self.open:
            self.headings[-1] += data
        elif "svg" in self.open and "text" in self.open:
            self.svgs[-1]["texts"].append(data)


def svg(page, slug):
    wanted = f"{slug}-title {slug}-desc"
    return next(x for x in page.svgs if x["attributes"]["aria-labelledby"] == wanted)


def test_page_is_well_formed():
    text = report.html(full())
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    assert text == report.html(full())
    assert page.tags.count("script") == 1
    fragments = {address[1:] for address in page.addresses if address.startswith("#")}
    assert fragments <= set(page.ids)
    assert [a for a in page.addresses if not a.startswith("#")] == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", text)
    for each in page.svgs:
        assert each["attributes"]["role"] == "img"
        assert set(each["attributes"]["aria-labelledby"].split()) <= set(page.ids)
        assert each["texts"]


def test_all_sections():
    page = Page(report.html(full()))
    assert page.headings == [
        "Bandwidth and the roof",
        "By size",
        "Beside the others",
        "Threads",
        "Targets",
        "The memory roof",
        "Extra memory",
        "Errors",
        "All rows",
        "How to read this",
        "Environment",
    ]
    assert "⚠ load 1.3 at the start" in page.text
    for fact in ("Some CPU, 2 cores, 2026-11-21, ridgeline 0.1.0", "avx2, fma", "not installed"):
        assert fact in page.text
    assert page.tables["extra-table"][1] == ["clip_all, ResNet-50", "1.00 MiB (1.0 %)"]
    assert page.tables["error-table"][1] == [
        "clip_all/float32/x86_64_v4/resnet50/2",
        *["1.0e-09"] * 3,
    ]
    huge = page.tables["roof-table"][1]
    assert huge[:4] == ["read", "30.0 (27.0 - 33.0)", "24.0 (21.6 - 26.4)", "1.25 (1.02 - 1.53)"]


def test_every_row():
    data = full()
    page = Page(report.html(data))
    names = [cells[0] for cells in page.tables["all-rows"][1:]]
    assert len(names) == len(data.rows)
    for each, name in zip(data.rows, names, strict=True):
        assert name.startswith(each.name)
        assert all(other in name for other in each.implementations if other != "ridgeline")
    moving = [each for each in data.rows if each.traffic_bytes]
    for slug in ("roofline", "roofline-narrow"):
        assert svg(page, slug)["marks"] == len(moving)
    tips = "\n".join(page.tips)
    for each in moving:
        assert f"{each.name}\n{results.time_text(ours(each).median)}" in tips
    first = page.tables["all-rows"][1]
    assert first[1:] == [
        "1.21 us (1.18 - 1.25 us)",
        "1.17 - 1.26 us",
        "27.0 (26.2 - 27.8)",
        "0.90 (0.85 - 0.96)",
        "1.30 (1.25 - 1.36)",
        "numba prange",
    ]
    assert "⚠ the roof moved by 41 %" in page.tables["all-rows"][8][0]


def test_summary():
    data = full()
    counted = summary(data)
    assert (len(counted.faster), len(counted.as_fast), len(counted.slower)) == (9, 1, 1)
    assert len(counted.doubtful) == 2  # one says why, the other's times are not trusted
    assert [each.value for each in counted.fractions] == pytest.approx([0.9] * 5)
    text = Page(report.html(data)).text
    assert "9 faster than the best peer (2 with doubts)" in text
    assert "1 slower than the best peer" in text
    assert "0.90 of the roof, median of 5 rows from memory (middle half 0.90 - 0.90)" in text
    assert (
        "0.90 of the roof, the row from memory (0.85 - 0.96)" in Page(report.html(run(row()))).text
    )
    assert "value_l1/float32/x86_64_v4/64MiB/2 0.90 (0.85 - 0.95) of torch's speed" in text


@pytest.mark.parametrize(
    ("speedup", "word"),
    [
        ((1.3, 1.01, 1.4), "faster"),
        ((1.3, 1.0, 1.4), "as fast"),
        ((0.9, 0.8, 1.0), "as fast"),
        ((0.9, 0.8, 0.99), "slower"),
    ],
)
def test_verdict(speedup, word):
    data = run(row(speedup=speedup))
    assert verdict(data.rows[0]) == word
    assert verdict(run(row(peers=())).rows[0]) == ""


def test_many_slower_rows_are_all_named():
    rows = [row(f"slow_{k}", speedup=(0.5, 0.4, 0.6)) for k in range(20)]
    text = Page(report.html(run(*rows))).text
    listed = text.partition("Slower than the best peer")[2].partition("Bandwidth")[0]
    assert all(f"slow_{k}/" in listed for k in range(20))
    assert "8 more" in listed


def test_everything_is_escaped():
    hostile = row(HOSTILE, peers=[(HOSTILE, 1.5), ("numpy", 4.0)], doubts=[HOSTILE])
    hostile |= {"left_out": {HOSTILE: HOSTILE}, "family": HOSTILE, "layout": HOSTILE}
    hostile["implementations"]["ridgeline"] |= {"extra_bytes": 1, "relative_error": 1.0}
    more = {key: {HOSTILE: HOSTILE} for key in ("environment", "settings", "left_out")}
    more |= {"machine": {"cpu": HOSTILE}, "versions": {HOSTILE: HOSTILE}, "warnings": [HOSTILE]}
    roof = [each | {"pattern": HOSTILE} for each in roofs()[:1]]
    data = run(hostile, hostile | {"name": HOSTILE, "threads": 1}, roof=roof, date=HOSTILE, **more)
    page = Page(report.html(data))
    assert page.tags.count("script") == 1
    assert page.text.count("<script>") > 15
    assert len(set(page.ids)) == len(page.ids)
    text = report.markdown(data, roof=True)
    assert "<script" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert columns == [6] * 4 + [3] * 3


PLAIN = ["Bandwidth and the roof", "All rows", "How to read this", "Environment"]


@pytest.mark.parametrize(
    ("data", "headings"),
    [
        (run(row(peers=())), PLAIN),
        (run(row(peers=(), runs=2, doubts=["few"])), PLAIN),
        (run(row("call", "256", peers=())), PLAIN[1:]),
        (run(row(peers=()) | {"roof": None}), PLAIN),
        (run(row()), [PLAIN[0], "Beside the others", *PLAIN[1:]]),
        (run(row(peers=()), row(peers=(), threads=1)), [PLAIN[0], "Threads", *PLAIN[1:]]),
        (
            run(row(peers=()), row(peers=(), target="scalar", of_roof=0.5)),
            [PLAIN[0], "Targets", *PLAIN[1:]],
        ),
        (run(row(peers=()), roof=roofs()), [PLAIN[0], "The memory roof", *PLAIN[1:]]),
        (run(row(peers=(), layout="16KiB"), row(peers=())), [PLAIN[0], "By size", *PLAIN[1:]]),
        (run(row(peers=()), machine={}, versions={}, date=""), PLAIN),
    ],
    ids=[
        "alone",
        "few samples",
        "cost of a call",
        "no roof",
        "peers",
        "threads",
        "targets",
        "roofs",
        "sizes",
        "nothing known",
    ],
)
def test_sections_without_content_are_left_out(data, headings):
    text = report.html(data)
    page = Page(text)
    assert page.headings == headings
    assert "nan" not in page.text.lower()
    assert not re.search(r'="[^"]*\b(nan|inf|None)\b', text)


def test_google_benchmark():
    entry = {"run_type": "iteration", "GB/s": 60.0, "of_roof": 0.9, "roof_GB/s": 66.0}
    names = [f"prox_l1/float32/x86_64_v4/64MiB/{threads}/real_time" for threads in (1, 2)]
    entries = [
        entry | {"name": name, "median_us": 2000.0 / k + i}
        for k, name in enumerate(names, 1)
        for i in range(7)
    ]
    data = results.from_json(json.dumps({"context": {"cpu": "Other"}, "benchmarks": entries}))
    page = Page(report.html(data))
    assert page.headings == [PLAIN[0], "Threads", *PLAIN[1:]]
    assert "repetitions" in page.text
    assert svg(page, "scaling-2-1")["marks"] == 1


def test_charts_say_what_they_show():
    text = report.html(full())
    descriptions = dict(re.findall(r'<desc id="([\w-]+)-desc">([^<]*)', text))
    assert "Roof of rewrite: 62.0 GB/s" in descriptions["roofline"]
    assert "0.90 of its roof" in descriptions["roofline"]
    assert "prox_l1 0.90" in descriptions["fraction-1"]
    assert "ridgeline: 16 KiB 54" in descriptions["sweep-prox_l1"]
    assert "numba prange 3.23 ms" in descriptions["bars-1-0"]
    assert "prox_l1 2.00" in descriptions["scaling-2-1"]
    assert "prox_l1 1.10" in descriptions["target-x86_64_v3-1"]


def test_size():
    peers = [(f"a library {k}", 1.5 + k) for k in range(5)]
    others = [("ridgeline x86_64_v3", 1.1, "target"), ("reference", 9.0, "reference")]
    rows = [
        row(f"operation_with_a_name_{k}", layout, peers=peers, others=others, threads=threads)
        for k in range(30)
        for layout in SIZES
        for threads in (1, 2)
    ]
    assert len(report.html(run(*rows, roof=roofs()))) < 800_000


def test_markdown_table():
    data = run(row(), row("value_l1", doubts=["it rained"], extra_bytes=2**26))
    assert markdown_table(data.rows) == (
        "| row | ridgeline, median (min - max) | of roof (interval) "
        "| best peer, median (min - max) | speedup (interval) |\n"
        "|---|--:|--:|--:|--:|\n"
        "| `prox_l1/float32/x86_64_v4/64MiB/2` | 2.49 ms (2.39 - 2.58 ms) | 0.90 (0.85 - 0.96) "
        "| numba prange 3.23 ms (3.10 - 3.36 ms) | 1.30 (1.25 - 1.36) |\n"
        "| `value_l1/float32/x86_64_v4/64MiB/2` † | 2.49 ms (2.39 - 2.58 ms) | 0.90 (0.85 - 0.96) "
        "| numba prange 3.23 ms (3.10 - 3.36 ms) | 1.30 (1.25 - 1.36) |\n"
        "\n"
        "† can't be trusted:\n"
        "\n"
        "* `value_l1/float32/x86_64_v4/64MiB/2`: it rained\n"
    )
    names = {data.rows[1].name: "the penalty's value"}
    assert markdown_table(
        data.rows[1:], ("row", "torch", "extra", "gb_per_s"), names=names, notes=False
    ) == (
        "| row | torch, median (min - max) | extra memory (of the arrays) | GB/s (interval) |\n"
        "|---|--:|--:|--:|\n"
        "| the penalty's value † | 4.97 ms (4.77 - 5.17 ms) | 64.0 MiB (100 %) "
        "| 54.00 (52.43 - 55.67) |\n"
    )
    with pytest.raises(ValueError, match=r"^columns: got 'nonsense', wants some of row, "):
        markdown_table(data.rows, ("row", "nonsense"))


def test_markdown():
    text = report.markdown(full(), ["value 64MiB", "clip"], roof=True)
    heading, *lines = text.splitlines()
    assert heading == "Some CPU, 2 cores, 2026-11-21, ridgeline 0.1.0, numpy 2.4.6"
    assert "* ⚠ load 1.3 at the start" in lines
    assert re.findall(r"^\| `(.+?)/\w+/\w+/(\w+)/\d`", text, re.MULTILINE) == [
        ("value_l1", "64MiB"),
        ("value_l1", "64MiB"),
        ("clip_all", "resnet50"),
        ("clip_all", "256"),
    ]
    assert text.endswith("\n" + roof_table(full().roof))
    assert "| read, 256 MiB | 30.0 (27.0 - 33.0) | 24.0 (21.6 - 26.4) | 60.0 " in text
    assert "GB/s, median" not in report.markdown(full())


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Run ``ridgeline bench report`` beside a result; return the status and what it says."""
    monkeypatch.chdir(tmp_path)
    Path("result.json").write_text(json.dumps(dataclasses.asdict(full())))

    def call(*arguments):
        parser = argparse.ArgumentParser()
        report.add_arguments(parser)
        status = report.run(parser.parse_args(arguments))
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_command(command):
    assert command("result.json") == (0, "result.html\n", "")
    assert Path("result.html").read_text(encoding="utf-8") == report.html(full())
    assert command("result.json", "--format", "md", "--roof") == (
        0,
        report.markdown(full(), roof=True),
        "",
    )
    assert command("result.json", "-o", "table.md", "--rows", "value", "clip 256")[0] == 0
    table = report.markdown(full(), ["value", "clip 256"])
    assert Path("table.md").read_text(encoding="utf-8") == table
    assert table.count("| `") == 4
    assert command("result.json", "-o", "page.html", "--rows", "clip resnet50")[0] == 0
    page = Page(Path("page.html").read_text(encoding="utf-8"))
    assert len(page.tables["all-rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.json"], "[Errno 2] No such file or directory: 'missing.json'"),
        (["other.json"], "other.json: got other JSON"),
        (["empty.json"], "empty.json: rows: got none"),
        (["strange.json"], "strange.json: only: implementations: got none with the role 'ours'"),
        (["result.json", "-o", "no/page.html"], "-o no/page.html: no directory no"),
        (["result.json", "-o", "."], "-o .: is a directory"),
        (["result.json", "-o", "./result.json"], "-o result.json: is the result itself"),
        (["result.json", "--rows", "nothing", "clip 1"], "--rows 'nothing' 'clip 1': no row"),
    ],
)
def test_command_refuses(command, arguments, reason):
    data = dataclasses.asdict(full())
    Path("other.json").write_text("{}")
    Path("empty.json").write_text(json.dumps(data | {"rows": []}))
    strange = row() | {"name": "only", "implementations": {}}
    Path("strange.json").write_text(json.dumps(data | {"rows": [strange]}))
    before = sorted(Path().iterdir())
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"ridgeline bench report: {reason}")
    assert sorted(Path().iterdir()) == before


LAUNCH = """  # Chromium reads commands from 3 and writes answers to 4.
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(x), fcntl.F_DUPFD, 10) for x in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """Chromium without a window, driven through its pipe with the DevTools protocol."""

    def __init__(self, program, profile):
        reads, self._commands = os.pipe()
        self._answers, writes = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(reads), str(writes), program, *options],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._count, self._rest, self._session = 0, b"", {}
        self.events = []
        page = self("Target.createTarget", url="about:blank")
        found = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        """Give a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], 30)
            assert ready, "Chromium says nothing"
            got = os.read(self._answers, 2**20)
            assert got, "Chromium has left"
            self._rest += got
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, width, *, dark=False):
        """Load a page into a window of some width."""
        self.events.clear()
        size = {"width": width, "height": 800, "deviceScaleFactor": 1}
        self("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=path.as_uri())
        while not any(each.get("method") == "Page.loadEventFired" for each in self.events):
            self.events.append(self._next())

    def value(self, expression):
        """Return what JavaScript gives."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self):
        """Return errors, messages to the console, and what was loaded besides the page."""
        seen = [
            each
            for each in self.events
            if each.get("method")
            in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]
        loaded = [
            each["params"]["request"]["url"]
            for each in self.events
            if each.get("method") == "Network.requestWillBeSent"
        ]
        return seen + [url for url in loaded if not url.startswith(("file:", "data:"))]

    def close(self):
        """End it."""
        self._session = {}
        self("Browser.close")
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None or os.name != "posix":
        pytest.skip("needs chromium")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(report.html(full()), encoding="utf-8")
    return path


FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
PAPER = "getComputedStyle(document.body).backgroundColor"
BEYOND = """
[...document.querySelectorAll("body *")].filter((each) => {
  const box = each.getBoundingClientRect();
  return !each.closest(".scroll") && box.width > 0 && box.right > innerWidth + 0.5;
}).map((each) => each.outerHTML.slice(0, 80))
"""
# Labels of a chart that lie on each other by more than a rounding, or leave it.
COLLISIONS = """
[...document.querySelectorAll("svg")].flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter((each) => frame.width);
  const boxes = texts.map((each) => [each, each.getBoundingClientRect()]);
  const meets = (a, b) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  return boxes.flatMap(([each, box], i) => [
    ...(box.left < frame.left - 1 || box.right > frame.right + 1 ? [each.textContent] : []),
    ...boxes.slice(i + 1).filter(([, other]) => meets(box, other))
      .map(([other]) => `${each.textContent} / ${other.textContent}`),
  ]);
})
"""


@pytest.mark.parametrize(
    ("width", "dark", "paper"),
    [(1280, False, "rgb(255, 255, 255)"), (360, True, "rgb(20, 23, 26)")],
)
def test_browser_layout(browser, page_file, width, dark, paper):
    browser.open(page_file, width, dark=dark)
    assert browser.value(PAPER) == paper
    assert browser.value(FITS)
    assert browser.value(BEYOND) == []
    assert browser.value(COLLISIONS) == []
    drawn = browser.value(
        "['broad', 'narrow'].map((each) => document.querySelector('.' + each).clientHeight > 99)"
    )
    assert drawn == [width > 640, width <= 640]
    picture = base64.b64decode(browser("Page.captureScreenshot", format="png")["data"])
    assert picture.startswith(b"\x89PNG")
    assert browser.complaints() == []


ORDER = "[...document.querySelectorAll('#all-rows tbody tr')].filter((each) => !each.hidden)"
NAMES = ORDER + ".map((each) => each.querySelector('code').textContent)"
HEADINGS = "document.querySelectorAll('#all-rows thead th')"


def test_browser_sorts_and_filters(browser, page_file):
    browser.open(page_file, 1280)
    rows = {each.name: each for each in full().rows}
    assert browser.value(NAMES) == list(rows)
    browser.value(f"{HEADINGS}[1].querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):  # a button is pressed with the keyboard too
        browser("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                windowsVirtualKeyCode=13)  # fmt: skip
    by_time = browser.value(NAMES)
    assert by_time == sorted(rows, key=lambda name: ours(rows[name]).median)
    assert by_time != list(rows)
    assert browser.value(f"{HEADINGS}[1].getAttribute('aria-sort')") == "ascending"
    for direction in ("ascending", "descending"):
        browser.value(f"{HEADINGS}[3].querySelector('button').click()")
        sorts = browser.value(f"[1, 3].map((k) => {HEADINGS}[k].getAttribute('aria-sort'))")
        assert sorts == ["none", direction]
        speeds = [ours(rows[name]).gb_per_s for name in browser.value(NAMES)]
        assert speeds.pop() is None  # what is empty comes last, up or down
        rounded = [float(f"{each:.5g}") for each in speeds]
        assert rounded == sorted(rounded, reverse=direction == "descending")
    typed = "const box = document.getElementById('filter-rows'); box.value = 'VALUE 64MiB';"
    browser.value(typed + "box.dispatchEvent(new Event('input'))")
    assert sorted(browser.value(NAMES)) == [
        "value_l1/bfloat16/x86_64_v4/64MiB/2",
        "value_l1/float32/x86_64_v4/64MiB/2",
    ]
    assert browser.value("document.querySelector('output').textContent") == "2 of 11 rows"
    browser.value("document.getElementById('family-1').click()")
    dimmed = "[...document.querySelectorAll('.broad .m')].map((x) => getComputedStyle(x).opacity)"
    assert browser.value(dimmed).count("1") == 3
    assert browser.complaints() == []


def test_browser_without_scripts(browser, page_file):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page_file, 1280)
    browser("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.value("document.querySelector('.filter').clientHeight") == 0
    assert browser.value(HEADINGS + ".length") == 7
    assert browser.value("document.querySelectorAll('th button').length") == 0
    assert browser.value(NAMES) == [each.name for each in full().rows]


def test_browser_prints(browser, page_file):
    browser.open(page_file, 1280, dark=True)
    pdf = base64.b64decode(browser("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert browser.value("[...document.querySelectorAll('details')].every((x) => x.open)")
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser("Emulation.setEmulatedMedia", media="print", features=[dark])
    assert browser.value(PAPER) == "rgb(255, 255, 255)"
    shown = (
        "[...document.querySelectorAll('nav, .filter, .key input')].filter((x) => x.clientHeight)"
    )
    assert browser.value(f"{shown}.length") == 0
    sheet = {"width": 703, "height": 300, "deviceScaleFactor": 1, "mobile": False}
    browser("Emulation.setDeviceMetricsOverride", **sheet)
    assert browser.value(FITS)
    cut = "(x) => x.scrollWidth > x.clientWidth + 1 || x.scrollHeight > x.clientHeight + 1"
    assert browser.value(f"[...document.querySelectorAll('.scroll')].filter({cut}).length") == 0
    assert browser.value(COLLISIONS) == []
    assert browser.complaints() == []
