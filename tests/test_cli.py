"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial

import numpy as np
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
    pattern = r"^ ([\w][\w ,:%]*?)  +(-?\d.*%.*)$"
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
    done = ridgeline("demo", "--quick", "--seeds", "1", "--output", "new/place")
    assert done.returncode == 0, done.stderr
    for name in ("ridgeline-demo.png", "ridgeline-demo-pruning.png"):
        picture = tmp_path / "new" / "place" / name
        assert str(picture.resolve()) in done.stdout
        assert picture.read_bytes().startswith(PNG)
    regularized, pruned = done.stdout.split("Pruned:")
    check_regularized(rows(regularized))
    check_pruned(rows(pruned))


def check_pruned(table):
    sparse = ["90%, gradual", "90%, at once"]
    assert list(table) == ["dense", *sparse, "2:4, retrained"]
    columns = ("sparsity", "test", "loss", "bytes", "part", "ms")
    table = {
        name: dict(zip(columns, (float(cell.replace(",", "")) for cell in cells), strict=True))
        for name, cells in table.items()
    }
    dense, gradual, at_once, two_of_four = table.values()
    weights, biases = 64 * 128 + 128 * 10, 128 + 10
    assert dense["bytes"] == 4 * (weights + biases)
    for row in (gradual, at_once):
        assert row["sparsity"] == 90
        kept = weights - round(0.9 * weights)
        assert row["bytes"] == 4 * (2 * kept + 129 + 11 + biases)
        assert row["part"] == 23
    assert two_of_four["sparsity"] == 50
    assert two_of_four["bytes"] == 2 * weights + weights // 8 + 4 * biases
    assert dense["loss"] == dense["sparsity"] == dense["ms"] == 0
    assert dense["test"] > 96
    assert gradual["loss"] < 2
    assert two_of_four["loss"] < 1
    assert at_once["loss"] > 5
    for row in (gradual, at_once, two_of_four):
        assert row["loss"] == pytest.approx(dense["test"] - row["test"], abs=0.11)
        assert row["ms"] > 0


def check_regularized(table):
    dropping = ["dropout", "dropout, L1", "dropout, L2"]
    penalties = ["L1", "L1, proximal", "L1, AdamW", "L2", "elastic net"]
    assert list(table) == ["none", *penalties, "clipping", *dropping]
    columns = ("train", "test", "gap", "learned", "zeros", "norm", "step", "drop")
    table = {
        name: dict(zip(columns, map(float, cells), strict=True)) for name, cells in table.items()
    }
    none = table.pop("none")
    assert none["step"] > 0 == none["drop"]
    for name, row in table.items():
        assert row["test"] > none["test"] + 2
        assert row["gap"] < none["gap"]
        assert row["learned"] < none["learned"]
        assert row["norm"] < none["norm"]
        assert row["step"] > 0
        assert (row["drop"] > 0) == (name in dropping)
    for name in ("L1, proximal", "L1, AdamW"):
        assert table.pop(name)["zeros"] > 30
    assert all(row["zeros"] < 1 for row in table.values())
    assert table["dropout, L1"]["norm"] < table["dropout"]["norm"]
    assert table["dropout, L2"]["norm"] < table["dropout"]["norm"]


def test_demo_drops_the_same_in_both_passes(demo_installed):
    """The network with dropout learns the gradient that finite differences show."""
    from ridgeline import demo

    rng = np.random.default_rng(1)
    params = {name: x.astype("f8") for name, x in demo.initial(rng, (6, 5, 10)).items()}
    x, y = rng.random((7, 6)), rng.integers(0, 10, 7)
    keys = rl.Key(3).split()

    def drop(layer, values):
        return rl.dropout(values, 0.4, keys[layer])

    def loss(params):
        odds = demo.forward(params, x, drop)[-1]
        return -np.log(odds[np.arange(7), y]).mean()

    inputs, hidden, _ = demo.forward(params, x, drop)
    assert 0 < np.mean(inputs == 0) < 1
    assert 0 < np.mean(hidden == 0) < 1
    for name, grad in demo.backward(params, x, y, drop).items():
        for at in np.ndindex(grad.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = {key: value.copy() for key, value in params.items()}
                moved[name][at] += step
                sides.append(loss(moved))
            assert grad[at] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-8)


def test_demo_prunes_while_training(demo_installed):
    """Sparsity follows the schedules, and what is stored is what was learned."""
    from ridgeline import demo

    task = demo.Task.of_seed(0, 0.0)
    assert not task.wrong.any()
    runs = {method.name: demo.train(method, task, 0, 10) for method in demo.PRUNING}
    assert runs["dense"].sparsity == [0] * 10
    gradual = runs["90%, gradual"].sparsity
    assert gradual == sorted(gradual)
    assert gradual[1] == 0
    assert 0 < gradual[3] < gradual[5] < gradual[7] == gradual[-1] == pytest.approx(0.9, abs=1e-4)
    assert runs["90%, at once"].sparsity[:-1] == [0] * 9
    assert runs["2:4, retrained"].sparsity == [0] * 5 + [0.5] * 5
    # Until it is pruned the network is the dense one.
    assert runs["90%, at once"].test_accuracy[:-1] == runs["dense"].test_accuracy[:-1]
    assert runs["2:4, retrained"].train_loss[:5] == runs["dense"].train_loss[:5]
    assert runs["90%, gradual"].zeros == pytest.approx(0.9, abs=1e-4)


def test_demo_learns_as_well_with_small_states(demo_installed):
    """Moments of 2 bytes and of 1 end where those of 4 do, within the noise over 5 seeds."""
    from ridgeline import demo

    last = {}
    for states in ("float32", "bfloat16", "8bit"):
        method = demo.Method(states, "k", optimizer=partial(demo.adamw, state_dtype=states))
        runs = [demo.train(method, demo.Task.of_seed(seed), seed, 20) for seed in range(5)]
        last[states] = np.array([[run.train_loss[-1], run.test_accuracy[-1]] for run in runs])
    noise = last["float32"].std(axis=0, ddof=1)
    for states in ("bfloat16", "8bit"):
        difference = (last[states] - last["float32"]).mean(axis=0)
        assert np.all(abs(difference) < noise / 2), states


def test_demo_repeats(demo_installed):
    from ridgeline import demo

    method = next(method for method in demo.METHODS if any(method.dropout))
    task = demo.Task.of_seed(0)
    once, again, other = (demo.train(method, task, seed, 2) for seed in (0, 0, 1))
    assert once.train_loss == again.train_loss
    assert once.test_accuracy == again.test_accuracy
    assert once.train_loss != other.train_loss


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
    # Shells let their background jobs ignore the signal, and processes inherit that. A program of
    # its own listens again: preexec_fn would fork beside JAX's threads.
    listen = (
        "import os, signal, sys;"
        "signal.signal(signal.SIGINT, signal.SIG_DFL);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", listen, "-u", "-m", "ridgeline", "demo"]
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
