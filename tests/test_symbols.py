"""What the kernels' object files hold. A function that is inline in C++ would be a weak symbol, and
the linker could take the copy compiled for the widest target (pytorch#39600)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files"),
    pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm"),
]

KERNELS = Path(__file__).resolve().parent.parent / "cpp" / "src" / "kernels"
FAMILIES = sorted(source.stem for source in KERNELS.glob("*.cpp"))

#: what a compiler may call without being asked; everything else must be inlined
ALLOWED = {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_"}


@pytest.fixture(scope="module")
def objects(core_build: Path) -> list[tuple[str, str, Path]]:
    """(target, family, object file) of all kernels."""
    found = []
    for folder in sorted(core_build.glob("cpp/CMakeFiles/ridgeline_kernels_*.dir")):
        target = folder.name.removeprefix("ridgeline_kernels_").removesuffix(".dir")
        found += [(target, p.name.split(".")[0], p) for p in folder.rglob("*.o")]
    return found


def symbols(path: Path) -> list[tuple[str, str]]:
    """(mangled name, type letter as nm has it), local symbols too."""
    output = subprocess.run(["nm", "-P", path], check=True, capture_output=True, text=True).stdout
    return [tuple(line.split()[:2]) for line in output.splitlines() if line]


def test_every_family_is_compiled_for_every_target(objects):
    targets = {target for target, _, _ in objects}
    assert "scalar" in targets
    assert {(t, family) for t, family, _ in objects} == {(t, f) for t in targets for f in FAMILIES}


def test_the_table_is_the_one_global_symbol(objects):
    for target, family, path in objects:
        defined = [name for name, kind in symbols(path) if kind.isupper() and kind != "U"]
        assert defined == [f"_ZN9ridgeline{len(target)}{target}{len(family)}{family}E"]


def test_no_weak_symbols(objects):
    for target, family, path in objects:
        weak = [name for name, kind in symbols(path) if kind in "VvWwu"]
        assert weak == [], f"{family} for {target}"


def test_nothing_is_called_outside(objects):
    for target, family, path in objects:
        called = {name for name, kind in symbols(path) if kind == "U"}
        assert called <= ALLOWED, f"{family} for {target}"


def test_nothing_runs_at_start(objects):
    """A static constructor would run code of every target on every CPU."""
    for target, family, path in objects:
        started = [name for name, _ in symbols(path) if "_GLOBAL__sub_I" in name]
        assert started == [], f"{family} for {target}"
        sections = subprocess.run(
            ["objdump", "-h", path], check=True, capture_output=True, text=True
        ).stdout
        assert ".init_array" not in sections
