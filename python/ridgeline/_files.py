"""Files of named arrays: ``.npz`` and ``.safetensors``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SUFFIXES = (".npz", ".safetensors")
_TAKEN = {"ridgeline", "file", "allow_pickle"}  # the last two are arguments of np.savez


def checked_path(file: str | PathLike[str]) -> Path:
    """Return the path of a file of arrays."""
    path = Path(file)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"file: got {path.name!r}, wants a name in {' or '.join(_SUFFIXES)}")
    return path


def safetensors_of(path: Path) -> Any:
    """Import safetensors for a file that needs it, else None."""
    if path.suffix != ".safetensors":
        return None
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ridgeline: .safetensors files need another package: pip install safetensors",
            name="safetensors",
        ) from error
    return safetensors


def file_names(names: Iterable[str]) -> list[str]:
    """Return names that a file can hold: ``#3`` for the fourth where it cannot, or has it already.

    Examples
    --------
    >>> file_names(["w", "a/b", "w", ""])
    ['w', 'a/b', '#2', '#3']
    """
    result: list[str] = []
    for place, name in enumerate(names):
        # What a zip file or NumPy would change or mistake.
        plain = name.isprintable() and "\\" not in name and 0 < len(name) < 1000
        plain = plain and not name.startswith(("#", "__")) and not name.endswith(".npy")
        if not plain or name in result or name in _TAKEN:
            name = f"#{place}"
        result.append(name)
    return result


def save_arrays(file: str | PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays under their names."""
    path = checked_path(file)
    library = safetensors_of(path)
    if library is None:
        with path.open("wb") as stream:
            np.savez(stream, **dict(arrays))  # type: ignore[arg-type]
    else:
        library.numpy.save_file(dict(arrays), path)


def load_arrays(file: str | PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a file."""
    path = checked_path(file)
    library = safetensors_of(path)
    try:
        if library is not None:
            loaded: dict[str, npt.NDArray[Any]] = library.numpy.load_file(path)
            return loaded
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise
    except Exception as error:  # of a damaged file, anything
        raise ValueError(
            f"file: got {path.name!r}, wants a file that save wrote: {error}"
        ) from error
