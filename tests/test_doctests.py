"""Runs the examples of every docstring, each module that has some in its own process."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ridgeline as rl

MODULES = sorted(
    {"ridgeline"}
    | {
        module.name
        for module in pkgutil.walk_packages(rl.__path__, "ridgeline.", onerror=lambda name: None)
        if not module.name.endswith(("__main__", "._core"))
    }
)


def has_examples(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is None or ">>>" in Path(spec.origin).read_text(encoding="utf-8")


WITH_EXAMPLES = [name for name in MODULES if has_examples(name)]

SCRIPT = """
import doctest, importlib, sys
try:
    module = importlib.import_module(sys.argv[1])
except ImportError as error:
    if (error.name or "ridgeline").split(".")[0] == "ridgeline":
        raise
    print("missing", error.name)
    raise SystemExit(77)
result = doctest.testmod(module)
print("ran", result.attempted)
raise SystemExit(result.failed > 0)
"""


def run(module: str, tmp_path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, module],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **environment},
    )
    if done.returncode == 77:
        pytest.skip(f"{module}: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module, tmp_path):
    run(module, tmp_path)


@pytest.mark.parametrize("module", sorted({*MODULES} - {*WITH_EXAMPLES}))
def test_other_modules_can_be_imported(module):
    if module == "ridgeline.bench.peers.numba_loops":
        pytest.importorskip("numba")
    importlib.import_module(module)


def test_the_modules_are_found():
    assert {"ridgeline", "ridgeline.penalties", "ridgeline.clipping", "ridgeline.runtime"} <= set(
        MODULES
    )
    assert "ridgeline.reference.penalties" in MODULES
    assert {"ridgeline.bench", "ridgeline.reference.penalties"} <= set(WITH_EXAMPLES)


def test_examples_do_not_depend_on_the_setting(tmp_path):
    for module in ("ridgeline.penalties", "ridgeline.clipping"):
        for target in rl.runtime.targets():
            run(module, tmp_path, RIDGELINE_TARGET=target, OMP_NUM_THREADS="3")


def examples_of(value) -> int:
    """How many examples the docstring of a function, or of a class and its methods, has."""
    module = importlib.import_module(value.__module__)
    return sum(len(test.examples) for test in doctest.DocTestFinder().find(value, module=module))


PUBLIC = [
    name
    for name in rl.__all__
    if inspect.isclass(getattr(rl, name)) or inspect.isroutine(getattr(rl, name))
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert examples_of(getattr(rl, name)) > 0


@pytest.mark.parametrize(
    "name",
    [
        f"{module.__name__}.{name}"
        for module in vars(rl).values()
        if isinstance(module, types.ModuleType) and hasattr(module, "__all__")
        for name in module.__all__
        if name not in PUBLIC
    ],
)
def test_every_public_name_of_a_module_has_an_example(name):
    module, _, name = name.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if callable(value):
        assert examples_of(value) > 0


def test_examples_of_a_module_are_run(tmp_path):
    """What the other tests trust: an example that is wrong fails."""
    (tmp_path / "wrong_example.py").write_text('"""\n>>> 1 + 1\n3\n"""\n')
    with pytest.raises(AssertionError, match="Expected"):
        run("wrong_example", tmp_path)
