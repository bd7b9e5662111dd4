"""The installed C++ library, as another CMake project finds it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CONSUMER = Path(__file__).resolve().parent / "consumer"


@pytest.mark.slow
def test_another_project_finds_and_uses_it(core_build, cmake, tmp_path):
    cmake("--install", core_build, "--prefix", tmp_path / "prefix", "--component", "cpp")
    cmake("-S", CONSUMER, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    cmake("--build", tmp_path / "build")
    output = subprocess.run(
        [tmp_path / "build" / "consumer"], check=True, capture_output=True, text=True
    ).stdout
    assert output.splitlines() == [
        "value 14.5",
        "prox 2.5 -3.5 0",
        "norm 6",
        "clipped 0.416667 -0.583333 0",
        "limit: got low = 2 above high = 1",
        "last target scalar",
    ]
