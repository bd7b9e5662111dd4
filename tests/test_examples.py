"""The examples, run as a user runs them."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path):
    """Run an example in an empty directory and return what it prints.

    With ``change``, of a text in it, a copy of the example: fewer seeds take less time.
    """

    def run(name, change=None):
        script = EXAMPLES / name
        if change is not None:
            old, new = change
            text = script.read_text(encoding="utf-8")
            assert text.count(old) == 1
            (tmp_path / "changed").mkdir()
            script = tmp_path / "changed" / name
            script.write_text(text.replace(old, new), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(script)],
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
        assert f'run("{example.name}"' in tests


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


def test_monte_carlo_dropout(run, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    text = run("monte_carlo_dropout.py")
    rows = dict(re.findall(r"^(\S[\w .]*?)  +(\d.*)$", text, re.MULTILINE))
    rows = {name: [float(x) for x in re.findall(r"[\d.]+", row)] for name, row in rows.items()}
    images, right_entropy, right_mutual = rows.pop("right")
    mistakes, wrong_entropy, wrong_mutual = rows.pop("wrong")
    assert images + mistakes == 1397
    assert mistakes < 140
    assert wrong_entropy > 2 * right_entropy
    assert wrong_mutual > 2 * right_mutual
    for name in ("entropy", "mutual information"):
        assert number(rf"higher {name} than .* probability ([\d.]+)\.", text) > 0.85
    plain = rows.pop("rotated by 0 degrees")
    assert plain[0] == pytest.approx(100 * mistakes / 1397, abs=0.06)
    assert len(rows) == 8
    for row in rows.values():
        assert all(more > less for more, less in zip(row, plain, strict=True))
        assert row[2] < row[1]
    less, more = rows["rotated by 30 degrees"], rows["rotated by 75 degrees"]
    assert more[0] > less[0]
    assert more[1] < less[1]
    picture = tmp_path / "monte_carlo_dropout.png"
    assert str(picture.resolve()) in text
    assert picture.read_bytes().startswith(PNG)


def test_recurrent_dropout(run):
    pytest.importorskip("sklearn")
    text = run("recurrent_dropout.py", ("0.8, 5\n", "0.8, 2\n"))
    assert number(r"finite differences (\S+)", text) < 1e-7
    rows = {}
    for name in ("nothing dropped", "locked dropout", "zoneout", "both"):
        row = re.search(rf"^{name} +(.*)$", text, re.MULTILINE)
        rows[name] = [float(x) for x in re.findall(r"-?[\d.]+", row[1])]
    fitted, accuracy, _, loss, _ = rows.pop("nothing dropped")
    assert fitted > 99
    for _, mean, _, gain, varies, held_out, _ in rows.values():
        assert gain == pytest.approx(mean - accuracy, abs=0.11)
        assert gain > 0
        assert varies > 0
        assert held_out < loss
    gains = {name: row[3] for name, row in rows.items()}
    assert gains["locked dropout"] > gains["zoneout"]
    assert gains["both"] == pytest.approx(gains["locked dropout"], abs=1)
    for name in ("locked dropout", "zoneout"):
        assert rows[name][3] > rows[name][4]


def test_sharded_dropout(run):
    text = run("sharded_dropout.py")
    assert len(re.findall(r"bits equal$", text, re.MULTILINE)) == 4
    assert "DIFFERENT" not in text
    assert 40 < number(r"same choice in (\d+)%", text) < 60


def test_pytorch_dropout(run):
    pytest.importorskip("torch")
    text = run("pytorch_dropout.py")
    assert "gradcheck: passed" in text
    assert "torch 4,000,000 bytes" in text
    assert number(r"ridgeline (\d+)", text) == 0
    assert number(r"checkpoint: largest difference (\S+)", text) == 0


def test_pruning_gradual(run):
    pytest.importorskip("sklearn")
    text = run("pruning_gradual.py", ("0.05, 5\n", "0.05, 2\n"))
    dense = number(r"dense: ([\d.]+) ±", text)
    rows = dict(re.findall(r"^(\w[\w ]*?)  +(\d.* ± .*)$", text, re.MULTILINE))
    assert list(rows) == ["after training", "half way", "gradual", "SET", "RigL"]
    weights = {name: int(row.split()[-1].replace(",", "")) for name, row in rows.items()}
    means = {name: [float(x) for x in re.findall(r"([\d.]+) ±", row)] for name, row in rows.items()}
    for row in means.values():
        assert row == pytest.approx(sorted(row, reverse=True), abs=0.3)
        assert row[0] < dense
    assert means["after training"][0] < dense - 10
    assert means["gradual"][0] > dense - 2
    assert all(a >= b for row in means.values() for a, b in zip(means["gradual"], row, strict=True))
    assert means["RigL"][2] > means["half way"][2] + 3
    assert means["RigL"][2] > means["SET"][2] + 3
    left = 9472 - round(0.9 * 9472)
    for name, most in weights.items():
        assert (most <= left) == (name in ("SET", "RigL"))
        assert most <= 9472
    better = re.findall(r"better than .* for (\d) of 2", text)
    assert len(better) == 3
    assert min(map(int, better)) == 2


def test_torch_adamw(run):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    text = run("torch_adamw.py")
    for name in ("torch, fused", "ridgeline"):
        assert number(rf"{name}: largest difference of a loss (\S+)", text) < 1e-4
    assert 20 < number(r"(\d+)% of the steps were clipped", text) < 100
    for name in ("torch", "torch, fused", "ridgeline"):
        assert number(rf"\n{name} +([\d.]+) ms per step", text) > 0
        losses = re.search(rf"^{name} +(\d.*\d)$", text, re.MULTILINE)[1].split()
        assert float(losses[0]) > 2 > 0.1 > float(losses[-1])


def test_online_ftrl(run):
    pytest.importorskip("sklearn")
    text = run("online_ftrl.py")
    rows = re.findall(r"^(\w+) +([\d.]+) +([\d.]+) +([\d.]+)% +(\d+)$", text, re.MULTILINE)
    assert [name for name, *_ in rows] == 4 * ["SGD"] + 4 * ["Adagrad"] + 5 * ["FTRL"]
    table = {(name, float(l1)): tuple(map(float, row)) for name, l1, *row in rows}
    for name in ("SGD", "Adagrad", "FTRL"):
        left = [row[2] for key, row in table.items() if key[0] == name]
        assert left[0] == 891  # a feature that was never there keeps the weight 0
        assert left == sorted(left, reverse=True)
        assert len(set(left)) == len(left)
    # Half of the weights and not a worse loss; and better than the others with less.
    assert table["FTRL", 2][2] < 0.5 * 891
    assert table["FTRL", 2][0] == pytest.approx(table["FTRL", 0][0], rel=0.05)
    for name in ("SGD", "Adagrad"):
        assert table["FTRL", 2][0] < min(row[0] for key, row in table.items() if key[0] == name)
        assert table["FTRL", 2][2] < table[name, 0.01][2]
        assert table["FTRL", 2][1] < table[name, 0.01][1]


def test_proximal_sgd(run, tmp_path):
    pytest.importorskip("matplotlib")
    text = run("proximal_sgd.py")
    rows = re.findall(r"^(\S.*?)  +(\d+) +([\d,]+) +([\d.]+)$", text, re.MULTILINE)
    rows = {name: (int(a), int(b.replace(",", "")), float(c)) for name, a, b, c in rows}
    assert list(rows) == ["no penalty", "L1, gradient", "L1, proximal", "MCP, proximal"]
    assert all(found == 30 for found, _, _ in rows.values())
    wrong = [row[1] for row in rows.values()]
    assert wrong[:2] == [1970, 1970]
    assert 0 < wrong[2] < 600
    assert wrong[3] == 0
    errors = [row[2] for row in rows.values()]
    assert errors[0] > 0.5 > 0.3 > max(errors[1:3])
    assert errors[3] < 0.05
    picture = tmp_path / "proximal_sgd.png"
    assert str(picture.resolve()) in text
    assert picture.read_bytes().startswith(PNG)


def test_pruning_pytorch(run):
    for package in ("torch", "sklearn", "scipy", "rich"):
        pytest.importorskip(package)
    text = run("pruning_pytorch.py")
    dense, sparse, packed = (float(x) for x in re.findall(r"accuracy ([\d.]+)%", text))
    assert dense > 94
    assert sparse > dense - 3
    assert packed > dense - 2
    assert re.search(r"^total +26,122 +2,852 +89.08% +23,270$", text, re.MULTILINE)
    weights, kept, rows = 25_856, 2_586, 128 + 128 + 10
    assert f"rows {8 * kept + 4 * (rows + 3):,} bytes, dense {4 * weights:,}" in text
    assert f"packed {2 * weights + weights // 8:,} bytes" in text
    assert text.count("round trip equal") == 2


DOCUMENTS = sorted(
    path.name
    for path in (ROOT / "docs").glob("*.md")
    # benchmarks.md has a file for a command: tests/test_bench.py runs it
    if "```python" in path.read_text(encoding="utf-8") and path.name != "benchmarks.md"
)


def blocks(document):
    """Return the Python blocks of a document, blank lines before to keep their line numbers."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


def imports(block):
    """Return the names a block imports from packages that may be missing, and the packages."""
    found = {}
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.partition(".")[0]
                found[name.asname or top] = top
        elif isinstance(node, ast.ImportFrom):
            found |= {
                name.asname or name.name: node.module.partition(".")[0] for name in node.names
            }
    always = sys.stdlib_module_names | {"numpy", "ridgeline"}
    return {name: package for name, package in found.items() if package not in always}


def test_the_documents_are_found():
    assert {"dropout.md", "optimizers.md", "pruning.md"} <= set(DOCUMENTS)
    for document in DOCUMENTS:
        text = (ROOT / "docs" / document).read_text(encoding="utf-8")
        found = list(blocks(document))
        assert len(found) == text.count("```") / 2
        assert sum("assert " in block for block in found) >= 10


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_block_imports_what_may_be_missing(document):
    """Not only a block before it: that one is left out where the package is missing."""
    optional = set().union(*map(imports, blocks(document))) | {"torch", "jax", "scipy"}
    for block in blocks(document):
        line = len(block) - len(block.lstrip("\n")) + 1
        loads = {node.id for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Name)}
        missing = (loads & optional) - set(imports(block))
        assert not missing, f"{document}:{line} uses {missing} and does not import it"


def run_blocks(document, folder, available):
    """Run the blocks whose packages are available; return how many, and what others need."""
    script = "done = {'__name__': '__main__'}\n"
    ran, missing = 0, []
    for block in blocks(document):
        absent = {package for package in imports(block).values() if not available(package)}
        if absent:
            missing += absent
            continue
        ran += 1
        script += f"exec(compile({block!r}, {document!r}, 'exec'), done)\nprint('ran')\n"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran\n" * ran
    return ran, missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_of_the_documents(document, tmp_path):
    ran, missing = run_blocks(document, tmp_path, importlib.util.find_spec)
    if missing:
        packages = ", ".join(sorted(set(missing)))
        pytest.skip(f"{document}: {ran} blocks ran, {len(missing)} need {packages}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_blocks_stand_without_those_that_are_left_out(document, tmp_path):
    """Nothing that a block with torch or JAX has made is used by one without."""
    run_blocks(document, tmp_path, lambda package: False)
