"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

import ridgeline as rl
from ridgeline import cli

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def ridgeline(tmp_path):
    """Run ``python -m ridgeline`` in an empty directory."""

    def run(*arguments, before="", timeout=120):
        program = [f"import sys; {before}; from ridgeline.cli import main; sys.exit(main())"]
        program = ["-c", *program] if before else ["-m", "ridgeline"]
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "80"},
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )

    return run


@pytest.fixture
def demo_installed():
    for package in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(package)


def rows(table):
    """Return the cells of a row by the name of its method."""
    pattern = r"^ (none|L1|L1, proximal|L2|elastic net|clipping) +(\d.*)$"
    cells = re.findall(pattern, table, re.MULTILINE)
    return {name: re.sub(r" ± [\d.]+|%", "", row).split() for name, row in cells}


def test_info(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    rl.show_config()
    assert printed == capsys.readouterr().out
    assert rl.__version__ in printed
    assert rl.runtime.target() in printed


def test_module(ridgeline):
    done = ridgeline("info")
    assert done.returncode == 0
    assert done.stdout.startswith("ridgeline ")
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_reader_leaves(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-u", "-m", "ridgeline", "info"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == b""


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"ridgeline {rl.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["nothing"], "nothing"),
        (["info", "more"], "more"),
        (["demo", "--seeds", "0"], "wants a whole number of at least 1"),
        (["demo", "--seeds", "two"], "'two'"),
        (["demo", "--output"], "--output"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("usage: ridgeline")
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [["--help"], ["info", "-h"], ["demo", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(arguments)
    assert capsys.readouterr().out.startswith("usage: ridgeline")


@pytest.mark.parametrize("package", ["matplotlib", "rich", "sklearn"])
def test_missing_package(ridgeline, package, demo_installed):
    done = ridgeline("demo", "--quick", before=f"sys.modules[{package!r}] = None")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f'ridgeline demo: {package} is not installed; try pip install "ridgeline[demo]"\n'
    )


def test_info_needs_no_optional_package(ridgeline):
    packages = ["matplotlib", "rich", "sklearn", "threadpoolctl"]
    done = ridgeline("info", before=f"sys.modules.update(dict.fromkeys({packages}))")
    assert done.returncode == 0, done.stderr


def test_demo(ridgeline, tmp_path, demo_installed):
    done = ridgeline("demo", "--quick", "--output", "new/place")
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "new" / "place" / "ridgeline-demo.png"
    assert str(picture.resolve()) in done.stdout
    assert picture.read_bytes().startswith(PNG)

    table = rows(done.stdout)
    assert list(table) == ["none", "L1", "L1, proximal", "L2", "elastic net", "clipping"]
    columns = ("train", "test", "gap", "learned", "zeros", "norm", "ms", "share")
    table = {
        name: dict(zip(columns, map(float, cells), strict=True)) for name, cells in table.items()
    }
    none = table.pop("none")
    assert none["ms"] == none["share"] == 0
    for row in table.values():
        assert row["test"] > none["test"] + 2
        assert row["gap"] < none["gap"]
        assert row["learned"] < none["learned"]
        assert row["norm"] < none["norm"]
        assert row["ms"] > 0
        assert 0 < row["share"] < 50
    for name in ("L1", "L2", "elastic net"):
        assert table[name]["zeros"] < 1
    assert table["L1, proximal"]["zeros"] > 30


def test_demo_where_nothing_can_be_written(ridgeline, tmp_path, demo_installed):
    (tmp_path / "taken").write_text("a file")
    done = ridgeline("demo", "--output", "taken")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ridgeline demo: ")
    assert "taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt(tmp_path, demo_installed):
    command = [sys.executable, "-u", "-m", "ridgeline", "demo"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
