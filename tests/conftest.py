"""Fixtures that several test files share."""

from __future__ import annotations

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


@pytest.fixture(scope="session")
def core_build(tmp_path_factory: pytest.TempPathFactory, cmake: Callable[..., None]) -> Path:
    """The build directory of the C++ core, with all targets: about a minute of one CPU."""
    build = tmp_path_factory.mktemp("core")
    cmake("-S", ROOT, "-B", build)
    cmake("--build", build, "--parallel", str(os.cpu_count() or 1))
    return build
