"""The tables and the picture of README.md and docs/benchmarks.md are those of the stored result."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ridgeline.bench.report import results
from ridgeline.bench.rows import cases

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def tables():
    yield from script("tables")


@pytest.fixture(scope="module")
def picture(tables):
    yield from script("picture")


@pytest.fixture(scope="module")
def run(tables):
    return results.load(tables.RESULT)


def test_they_are_up_to_date(tables, run):
    for file, own in tables.files(run).items():
        text = (ROOT / file).read_text()
        assert tables.filled(text, own) == text, f"{file}: run python bench/tables.py"


def test_the_picture_is_up_to_date(tables, picture, run):
    assert set(picture.CASES) <= set(tables.README)
    text = picture.picture(run)
    assert picture.PICTURE.read_text(encoding="utf-8") == text, "run python bench/picture.py"
    words = [
        each.text for each in ElementTree.fromstring(text).iter() if each.tag.endswith("}text")
    ]
    assert {*picture.CASES.values(), *picture.LIBRARIES} <= set(words)
    assert len(text) < 20_000


def test_another_result_gives_others(tables, picture, run):
    data = json.loads(gzip.decompress(tables.RESULT.read_bytes()))
    changed = next(
        row for row in data["rows"] if row["name"] == "prox_l1/float32/x86_64_v4/64MiB/2"
    )
    changed["implementations"]["ridgeline"]["median"] *= 1.5
    other = results.from_json(json.dumps(data))
    assert tables.files(other)["docs/benchmarks.md"] != tables.files(run)["docs/benchmarks.md"]
    assert picture.picture(other) != picture.picture(run)


def test_the_result_is_a_whole_one(tables, run):
    """All cases of today were measured, or are named with the reason."""
    measured = {f"{row.operation}/{row.dtype}/{row.layout}" for row in run.rows}
    missing = {case.name for case in cases.cases()} - measured - set(run.left_out)
    assert not missing
    assert {goal.case for goal in tables.GOALS} <= measured
    assert set(tables.README) <= measured
    assert run.machine["cpu"]
    assert {row.threads for row in run.rows} == set(run.settings["threads"])


def test_goals_are_judged(tables, run):
    text = tables.goals(run)
    for goal in tables.GOALS:
        assert f"`{tables.row_of(run, goal.case).name}`" in text
    easy = tables.Goal("prox_l1/float32/64MiB", of_roof=1e-9, times=1e-9, seconds=1e9)
    hard = tables.Goal("prox_l1/float32/64MiB", of_roof=1e9, times=1e9, seconds=1e-12)
    row = tables.row_of(run, easy.case)
    assert [fine for fine, _ in tables._reached(easy, row)] == [True] * 3
    assert [fine for fine, _ in tables._reached(hard, row)] == [False] * 3
    unknown = tables.Goal(easy.case, times=1, over="nobody")
    assert list(tables._reached(unknown, row)) == [(False, "no such peer")]


def test_comments_must_be_there(tables):
    with pytest.raises(SystemExit, match="no <!-- table: x -->"):
        tables.filled("nothing", {"x": "table"})
    begin, end = "<!-- table: x -->\n", "<!-- end -->\n"
    text = f"a\n{begin}old\n{end}b\n"
    assert tables.filled(text, {"x": "new\n"}) == f"a\n{begin}\nnew\n\n{end}b\n"
