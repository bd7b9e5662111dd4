"""Files are replaced whole or not at all, and what is damaged or inflates is refused."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ridgeline as rl
from ridgeline import _files

suffixes = pytest.mark.parametrize("suffix", [".npz", ".safetensors"])


def optimizer(fill: float, n: int = 50_000) -> rl.Adam:
    opt = rl.Adam(np.zeros(n, np.float32), lr=1.0)
    opt.step(np.full(n, fill, np.float32))
    return opt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SAVED = {
    "optimizer": optimizer,
    "mask": lambda fill: rl.Mask.from_array(np.arange(400_000) % 7 < fill),
    "masks": lambda fill: rl.MaskSet.from_array({"w": np.arange(400_000) % 7 < fill}),
}
kinds = pytest.mark.parametrize("kind", SAVED)

# Saves over the file that is there, in a process in which something happens.
SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_files import SAVED
import ridgeline as rl

file = Path(sys.argv[2])
new = SAVED[sys.argv[1]](3)
{happens}
try:
    new.save(file)
except OSError as error:
    print("OSError", error)
else:
    print("saved")
"""

KILL = """
def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
"""
HALF = """
true = np.lib.format.write_array
def half(stream, array, *args, **kwargs):
    stream.write(b"half")
    stream.flush()
    killed()
np.lib.format.write_array = half
"""
HAPPENS = {
    "nothing": "",
    "killed while it writes": KILL + HALF,
    "killed before the sync": KILL + "os.fsync = killed",
    "killed before the replacing": KILL + "os.replace = os.rename = killed",
    "a limit of file size": "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
}


def save_while(happens: str, kind: str, file: Path) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(tests=str(Path(__file__).parent), happens=HAPPENS[happens])
    return subprocess.run(
        [sys.executable, "-c", script, kind, file], capture_output=True, text=True, timeout=120
    )


@suffixes
@pytest.mark.parametrize("happens", HAPPENS)
@kinds
def test_a_file_is_replaced_or_as_it_was(kind, happens, suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
        if happens == "killed while it writes":
            pytest.skip("of the npz only: safetensors writes in its own code")
    file = tmp_path / f"saved{suffix}"
    SAVED[kind](1).save(file)
    before = file.read_bytes()
    assert len(before) > 40_000
    done = save_while(happens, kind, file)
    if happens == "nothing":
        assert done.stdout == "saved\n", done.stderr
        assert len(file.read_bytes()) == len(before)
        assert file.read_bytes() != before
        assert names(tmp_path) == [file.name]
        return
    if happens.startswith("killed"):
        assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)
    else:
        assert done.stdout.startswith("OSError"), (done.stdout, done.stderr)
        assert re.search("File too large", done.stdout)
        assert done.stderr == ""
        assert names(tmp_path) == [file.name]
    assert file.read_bytes() == before
    SAVED[kind](2).save(file)
    assert file.read_bytes() != before


@suffixes
def test_what_cannot_be_written(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    opt = optimizer(1, 3)
    with pytest.raises(FileNotFoundError):
        opt.save(tmp_path / "nowhere" / f"a{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        opt.save(tmp_path / f"folder{suffix}")
    loop = tmp_path / f"loop{suffix}"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        opt.save(loop)
    assert names(tmp_path) == [f"folder{suffix}", loop.name]
    assert loop.is_symlink()


@pytest.fixture
def nobody():
    """Root may write everywhere: for these tests, it is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@suffixes
def test_read_only(suffix, tmp_path, request):
    """Neither a file nor a directory that must not be written is worked around."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    old, new = optimizer(1, 3), optimizer(2, 3)
    folders = {name: tmp_path / name for name in ("folder", "file")}
    for folder in folders.values():
        folder.mkdir()
        old.save(folder / f"a{suffix}")
        for path in (tmp_path, folder, folder / f"a{suffix}"):
            path.chmod(0o777)
    for parent in tmp_path.parents:
        if os.geteuid() == 0 and stat.S_IMODE(parent.stat().st_mode) == 0o700:
            parent.chmod(0o711)
    folders["folder"].chmod(0o555)
    (folders["file"] / f"a{suffix}").chmod(0o444)
    before = (folders["file"] / f"a{suffix}").read_bytes()
    request.getfixturevalue("nobody")
    for folder in folders.values():
        with pytest.raises(PermissionError):
            new.save(folder / f"a{suffix}")
        assert (folder / f"a{suffix}").read_bytes() == before
        assert names(folder) == [f"a{suffix}"]


@suffixes
def test_links_and_permissions_stay(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    opt = optimizer(1, 3)
    umask = os.umask(0o026)
    try:
        opt.save(tmp_path / f"new{suffix}")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / f"new{suffix}").stat().st_mode) == 0o640
    (tmp_path / "target").mkdir()
    real, link = tmp_path / "target" / "of another name", tmp_path / f"link{suffix}"
    link.symlink_to(Path("target") / real.name)
    for mode in (None, 0o600, 0o664):  # first, a link to nothing
        if mode is not None:
            real.chmod(mode)
        opt.save(link)
        assert link.is_symlink()
        assert not real.is_symlink()
        assert mode is None or stat.S_IMODE(real.stat().st_mode) == mode
        optimizer(5, 3).load(link)
        opt.step(np.ones(3, np.float32))
    assert names(tmp_path / "target") == [real.name]


def test_a_pipe_is_written_and_stays(tmp_path):
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", "import sys; print(len(open(sys.argv[1], 'rb').read()))", pipe]
    opt = optimizer(1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        try:
            opt.save(pipe)
            assert int(reader.communicate(timeout=60)[0]) > 400_000
        finally:
            reader.kill()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_fails_leaves_nothing(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def write(part):
        part.write_text("half")
        (part.parent / "more").write_text("a file of its own")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _files.replace_file(file, write)
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_result_of_a_benchmark_stays(tmp_path):
    """`ridgeline bench` writes its files by the same function."""
    from ridgeline.bench.report import store

    file = tmp_path / "result.json.gz"
    store.write(file, "old")
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.write(file, "".join(map(str, range(100_000))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert names(tmp_path) == [file.name]


@pytest.mark.parametrize("kind", [rl.Mask, rl.MaskSet, rl.Adam])
def test_a_small_file_of_large_arrays(kind, tmp_path):
    """Refused by what it says about itself; nothing is read or allocated."""
    load = optimizer(1, 3).load if kind is rl.Adam else kind.load
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, ridgeline=np.zeros(2**24, np.uint8), param=np.zeros(2**20))
    with pytest.raises(ValueError, match=r"^file: got 'packed.npz', .* bytes packed into"):
        load(packed)
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**50},), }}"
    header += " " * (117 - len(header)) + "\n"
    lying = tmp_path / "lying.npz"
    with zipfile.ZipFile(lying, "w") as file:
        file.writestr("ridgeline.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode())
    with pytest.raises(ValueError, match=r"'ridgeline.npy' has 128 bytes for float64, \(11258999"):
        load(lying)


def test_errors_of_the_system_are_no_damage(tmp_path):
    for call in (rl.Mask.load, optimizer(1, 3).load):
        for suffix in (".npz", ".safetensors"):
            (tmp_path / f"folder{suffix}").mkdir(exist_ok=True)
            with pytest.raises(IsADirectoryError):
                call(tmp_path / f"folder{suffix}")
            with pytest.raises(FileNotFoundError):
                call(tmp_path / f"nowhere{suffix}")
