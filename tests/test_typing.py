"""A user's wrong lines are found by type checkers, and no right line is called wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
PACKAGE = Path(__file__).parent.parent / "python"


def run(checker, file, *arguments):
    """Return the lines of a file in which a type checker finds errors, and what it says."""
    pytest.importorskip(checker)
    environment = {**os.environ, "MYPYPATH": str(PACKAGE), "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(
        [sys.executable, "-m", checker, *arguments, str(HERE / file)],
        capture_output=True, text=True, env=environment, cwd=PACKAGE.parent,
    )  # fmt: skip
    found = re.findall(rf"{re.escape(file)}:(\d+)(?::\d+)?(?: -|:) error", done.stdout)
    assert found or done.returncode == 0, done.stdout + done.stderr
    return {int(line) for line in found}, done.stdout


@pytest.mark.parametrize(
    ("checker", "arguments"),
    [("mypy", ["--strict", "--config-file=", "--ignore-missing-imports"]), ("pyright", [])],
)
def test_lines_of_a_user(checker, arguments, tmp_path):
    if checker == "mypy":
        arguments = [*arguments, f"--cache-dir={tmp_path}"]
    found, text = run(checker, "right.py", *arguments)
    assert found == set(), text
    lines = (HERE / "wrong.py").read_text().splitlines()
    marked = {i for i, line in enumerate(lines, 1) if line.endswith("# error")}
    found, text = run(checker, "wrong.py", *arguments)
    assert found == marked, f"{found ^ marked}\n{text}"
