"""Fixtures that several test files share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ridgeline", deadline=None)  # no test asserts a time
settings.load_profile("ridgeline")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def cmake() -> Callable[..., None]:
    """Run CMake, that of the virtual environment or of the system."""
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    program = shutil.which("cmake", path=search)
    if program is None:
        pytest.skip("needs cmake")
    if not any(shutil.which(c, path=search) for c in (os.environ.get("CXX"), "c++", "g++") if c):
        pytest.skip("needs a C++ compiler")

    def run(*arguments: str | Path) -> None:
        command = [program, *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, "PATH": search}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"

    return run


def _left_build() -> Path | None:
    """The build directory that `pip install .` or a preset left, if no source is newer."""
    sources = [p for folder in ("cpp", "python/src") for p in (ROOT / folder).rglob("*.*")]
    newest = max(p.stat().st_mtime for p in [*sources, ROOT / "CMakeLists.txt"])
    release = {"CMAKE_BUILD_TYPE:STRING=", "CMAKE_BUILD_TYPE:STRING=Release"}  # by default
    for library in (ROOT / "build").glob("*/cpp/libridgeline.a"):
        build = library.parent.parent
        cache = {*(build / "CMakeCache.txt").read_text().splitlines()}
        plain = {f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}", "RIDGELINE_SANITIZE:STRING="} <= cache
        if plain and release & cache and library.stat().st_mtime > newest:
            return build
    return None


@pytest.fixture(scope="session")
def core_build(tmp_path_factory: pytest.TempPathFactory, cmake: Callable[..., None]) -> Path:
    """A build directory of the C++ core with all targets.

    The one that is there, else one for all workers of the session: that takes minutes.
    """
    if left := _left_build():
        return left
    temporary = tmp_path_factory.getbasetemp()
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary
    build = shared / "core"
    with (shared / "core.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (build / "done").exists():
            cmake("-S", ROOT, "-B", build)
            cmake("--build", build, "--parallel", str(os.cpu_count() or 1))
            (build / "done").touch()
    return build
