"""Files of named arrays: ``.npz`` and ``.safetensors``."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """Return names valid in a file: ``#3`` replaces the fourth if it is invalid or a duplicate.

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


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace `path` atomically by the file that `write` creates.

    It is written beside the old one and reaches the disk before it takes the name, so that a crash
    or a full disk leaves the old file. A symbolic link stays one, with a new target. Permissions
    are those of the old file.
    """
    path = Path(os.path.realpath(path))
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if old and not stat.S_ISREG(old.st_mode):
        write(path)  # a device or a pipe
        return
    if old:
        path.open("r+b").close()  # one that must not be written is not replaced either
    # A folder, because `write` may have temporary files too.
    folder = Path(tempfile.mkdtemp(prefix=".ridgeline-", dir=path.parent))
    try:
        part = folder / "part"
        part.touch()
        mode = stat.S_IMODE((old or part.stat()).st_mode)
        write(part)
        if old:
            with contextlib.suppress(PermissionError):
                os.chown(part, old.st_uid, old.st_gid)
        part.chmod(mode)
        _sync(part)
        part.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        _sync(path.parent)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_arrays(
    file: str | PathLike[str], arrays: Mapping[str, npt.NDArray[Any]], text: str | None = None
) -> None:
    """Write arrays under their names, and a text."""
    path = checked_path(file)
    library = safetensors_of(path)

    def write(part: Path) -> None:
        if library is None:
            first = {} if text is None else {"ridgeline": np.frombuffer(text.encode(), np.uint8)}
            # As np.savez, which in older versions leaves the file open when the disk is full.
            with zipfile.ZipFile(part, "w") as members:
                for name, array in {**first, **arrays}.items():
                    with members.open(f"{name}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, array, allow_pickle=False)
            return
        try:
            library.numpy.save_file(
                dict(arrays), part, None if text is None else {"ridgeline": text}
            )
        except library.SafetensorError as error:
            raise OSError(f"file: {path} could not be written: {error}") from error

    replace_file(path, write)


@contextlib.contextmanager
def reading(
    file: str | PathLike[str],
) -> Iterator[tuple[list[str], Callable[[str], npt.NDArray[Any]], str | None]]:
    """Open what `save_arrays` wrote: the names, a function that reads an array, and the text.

    What goes wrong inside, as in a damaged file anything may, is raised as ValueError.
    """
    path = checked_path(file)
    library = safetensors_of(path)
    with path.open("rb") as stream:
        try:
            if library is None:
                with np.load(stream, allow_pickle=False) as arrays:
                    _check_sizes(arrays.zip, os.fstat(stream.fileno()).st_size)
                    names = list(arrays.files)
                    text = None
                    if "ridgeline" in names:
                        names.remove("ridgeline")
                        text = arrays["ridgeline"].tobytes().decode()
                    yield names, arrays.__getitem__, text
            else:
                with library.safe_open(path, framework="np") as tensors:
                    text = (tensors.metadata() or {}).get("ridgeline")
                    yield list(tensors.keys()), tensors.get_tensor, text
        except MemoryError:
            raise
        except Exception as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            problem = f"file: got {path.name!r}, wants a file that save wrote"
            raise ValueError(f"{problem}: {reason or type(error).__name__}") from error


def _check_sizes(file: zipfile.ZipFile, size: int) -> None:
    """Refuse a small file that claims large arrays, before memory is allocated for them."""
    members = file.infolist()
    total = sum(member.file_size for member in members)
    if total > size:
        raise ValueError(f"{total} bytes packed into {size}, and save does not compress")
    for member in members:
        with file.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"{member.filename!r} is of another version of NumPy's format")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                raise ValueError(
                    f"{member.filename!r} has {member.file_size} bytes for {dtype}, {shape}"
                )


def load_arrays(file: str | PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a file."""
    with reading(file) as (names, read, _):
        return {name: read(name) for name in names}
