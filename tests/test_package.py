"""What an installed package brings along."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

import ridgeline as rl

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def files():
    """Return the files of the installed package."""
    try:
        found = metadata.distribution("ridgeline").files or []
    except metadata.PackageNotFoundError:
        found = []
    here = Path(rl.__file__).resolve()
    if not any(Path(file.locate()).resolve() == here for file in found):
        pytest.skip("ridgeline is imported from its sources")
    return found


@pytest.mark.parametrize("notice", ["LICENSE", "licenses/pybind11.txt"])
def test_the_licences_are_installed(notice, files):
    """That of pybind11 too, whose code is compiled into the extension."""
    (file,) = (f for f in files if str(f).endswith(f".dist-info/licenses/{notice}"))
    assert file.read_text() == (ROOT / notice).read_text()


def test_pybind11_is_named_as_it_wants():
    text = (ROOT / "licenses" / "pybind11.txt").read_text()
    assert "Wenzel Jakob" in text
    assert "reproduce the above copyright notice" in text
