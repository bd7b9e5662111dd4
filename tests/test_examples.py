"""The examples, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path):
    """Run an example in an empty directory and return what it prints."""

    def run(name):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


def number(pattern, text):
    """Return the number that stands in the group of the pattern."""
    match = re.search(pattern, text)
    assert match, text
    return float(match[1])


def test_all_are_tested_and_listed():
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    tests = Path(__file__).read_text(encoding="utf-8")
    for example in EXAMPLES.glob("*.py"):
        assert f"]({example.name})" in index
        assert f'run("{example.name}")' in tests


def test_closed_form(run):
    text = run("closed_form.py")
    assert number(r"squared loss / 2m +([\d.]+)", text) == 6.75
    assert number(r"lambda/m +sum \|theta\| +([\d.]+)", text) == 7.0
    assert number(r"lambda/m +sum theta\^2 +([\d.]+)", text) == 7.0
    assert number(r"lambda/\(2m\) +sum theta\^2 +([\d.]+)", text) == 6.875


def test_ridge_regression(run):
    text = run("ridge_regression.py")
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", text)]
    assert losses[0] == 19.25
    assert losses == sorted(losses, reverse=True)
    # Centred, the slope is 82.5 / (82.5 + 10).
    slope = 82.5 / 92.5
    assert number(r"descent .* \+ ([\d.]+) x", text) == pytest.approx(slope, abs=1e-6)
    assert number(r"descent +y = ([\d.]+)", text) == pytest.approx(5.5 * (1 - slope), abs=1e-6)
    assert number(r"largest difference (\S+)", text) < 1e-9


def test_lasso_path(run, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    text = run("lasso_path.py")
    assert number(r"largest difference .*: (\S+)", text) < 1e-4
    counts = [int(x) for x in re.findall(r"^ +[\d.]+ +(\d+) ", text, re.MULTILINE)]
    assert counts[0] == 0
    assert max(counts) == 10
    assert re.search(r" 3  bmi bp s5\n", text)
    picture = tmp_path / "lasso_path.png"
    assert str(picture.resolve()) in text
    assert picture.read_bytes().startswith(PNG)


def test_pytorch_loop(run):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    text = run("pytorch_loop.py")
    assert number(r"penalty gradient: largest difference (\S+)", text) < 1e-8
    assert number(r"whole gradient, clipped: largest difference (\S+)", text) < 1e-6
    for name in ("autograd", "ridgeline"):
        assert number(rf"{name} +([\d.]+) ms per step", text) > 0
    theirs, ours = (float(x) for x in re.findall(r"accuracy ([\d.]+)%", text))
    assert ours == pytest.approx(theirs, abs=3)
    theirs, ours = (float(x) for x in re.findall(r"step +penalty ([\d.]+)", text))
    assert ours == pytest.approx(theirs, rel=0.01)
