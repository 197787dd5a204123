"""The folder cache under damage, full disks, bounds, and processes that are killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from skal.features.disk_bound import DiskBound
from skal.features.folder import FolderCache
from tests.damage import TENSOR_DAMAGES, swap

KEYS = [bytes([i]) * 16 for i in range(64)]
ROWS = torch.arange(1.0, 64 * 32 + 1).view(64, 32)


def found(cache, keys=KEYS, rows=ROWS, space=b"s"):
    """How many rows are found; each must be exact."""
    known = cache.get(space, keys)
    for i, row in known.items():
        torch.testing.assert_close(row, rows[i], rtol=0, atol=0)
    return len(known)


@pytest.fixture
def filled(tmp_path):
    cache = FolderCache(tmp_path)
    cache.put(b"s", KEYS[:40], ROWS[:40])
    cache.put(b"s", KEYS[40:], ROWS[40:])
    return sorted(tmp_path.glob("*/*.safetensors"), key=lambda path: -path.stat().st_size)[0]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("damage", TENSOR_DAMAGES)
def test_damage_is_one_warning_and_healed(filled, tmp_path, damage, known):
    cache = FolderCache(tmp_path)
    if known:  # it was whole when this process first read it
        assert found(cache) == 64
    TENSOR_DAMAGES[damage](filled)
    with pytest.warns(RuntimeWarning, match=f"{filled.name}.*its rows will be recomputed") as caught:
        assert found(cache) == 24
    assert len(caught) == 1
    cache.put(b"s", KEYS, ROWS)
    assert found(cache) == 64
    assert found(FolderCache(tmp_path)) == 64


def test_swapped_files_are_noticed(filled, tmp_path):
    swap(*filled.parent.iterdir())
    with pytest.warns(RuntimeWarning, match="name does not match its keys") as caught:
        assert found(FolderCache(tmp_path)) == 0
    assert len(caught) == 2


def test_files_of_another_network_are_noticed(filled, tmp_path):
    cache = FolderCache(tmp_path)
    cache.put(b"other", KEYS[:40], -ROWS[:40])
    (other,) = set(tmp_path.glob("*/*.safetensors")) - set(filled.parent.iterdir())
    swap(filled, other)
    with pytest.warns(RuntimeWarning, match="belongs to another network"):
        assert found(FolderCache(tmp_path)) == 24


def test_deleted_files_and_a_deleted_folder_are_computed_again(filled, tmp_path):
    cache = FolderCache(tmp_path)
    assert found(cache) == 64
    filled.unlink()
    assert found(cache) == 24
    for path in filled.parent.iterdir():
        path.unlink()
    filled.parent.rmdir()
    assert found(cache) == 0
    assert not cache.holds(b"s")
    cache.put(b"s", KEYS, ROWS)
    assert found(cache) == 64


def test_what_others_wrote_after_a_deletion_is_found(filled, tmp_path):
    cache = FolderCache(tmp_path)
    assert found(cache) == 64
    filled.unlink()
    assert found(cache) == 24
    FolderCache(tmp_path).put(b"s", KEYS[:40], ROWS[:40])  # under the same name
    assert found(cache) == 64


def test_old_temporary_files_are_removed(filled, tmp_path):
    left = filled.parent / (".skal-" + "0" * 32 + ".tmp")
    left.write_bytes(b"half")
    assert found(FolderCache(tmp_path)) == 64
    assert left.exists()  # its writer may be at work
    old = time.time() - 7200
    os.utime(left, (old, old))
    FolderCache(tmp_path)
    assert not left.exists()


def test_a_file_in_the_way_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.warns(RuntimeWarning, match="cannot store activations in .*file"):
            cache = FolderCache(folder)
        for _ in range(2):  # without another warning
            cache.put(b"s", KEYS, ROWS)
            assert found(cache) == 0
            assert not cache.holds(b"s")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_refuses_is_one_warning(filled, tmp_path, monkeypatch, call, error):
    cache = FolderCache(tmp_path)

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"skal._files.os.{call}", refuse)
    with pytest.warns(RuntimeWarning, match=f"cannot store activations in .*{error.strerror}"):
        cache.put(b"new", KEYS[:1], ROWS[:1])
    cache.put(b"new", KEYS[1:2], ROWS[:1])  # without another warning
    assert found(cache) == 64
    assert not list(tmp_path.glob("*/.skal*"))


def test_a_folder_of_another_user_is_one_warning(tmp_path):
    """As a user who may not write; the files there are read nevertheless."""
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("needs to become another user")
    script = """
import os, sys, warnings, torch
from skal.features.folder import FolderCache
os.setgid(65534); os.setuid(65534)
keys, rows = [bytes([i]) * 16 for i in range(64)], torch.arange(1.0, 64 * 32 + 1).view(64, 32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    cache = FolderCache("readable")
    assert len(cache.get(b"s", keys)) == 64
    for i in range(3):
        cache.put(b"new", keys[i:i + 1], rows[:1])
    assert len(caught) == 1 and "Permission denied" in str(caught[0].message), caught
    cache = FolderCache("secret")
    cache.put(b"s", keys, rows)
    assert cache.get(b"s", keys) == {}
    assert len(caught) == 2 and "secret" in str(caught[1].message), [str(c.message) for c in caught]
    FolderCache("secret/below")
    FolderCache("made")
    assert len(caught) == 4
"""
    base = tmp_path / "base"
    base.mkdir()
    FolderCache(base / "readable").put(b"s", KEYS, ROWS)
    FolderCache(base / "secret").put(b"s", KEYS, ROWS)
    (base / "secret").chmod(0o700)
    opened = []
    for folder in (base, *base.parents):  # pytest's own folders are closed to others
        mode = folder.stat().st_mode
        opened.append((folder, mode))
        folder.chmod(mode | 0o055)
    try:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([sys.executable, "-c", script], check=True, cwd=base, env=env)
    finally:
        for folder, mode in opened:
            folder.chmod(mode)


# ---------------------------------------------------------------- the bound


def scan(cache, space, n_rows, block=8, offset=0):
    hits = 0
    for start in range(offset, offset + n_rows, block):
        keys = [i.to_bytes(16, "little") for i in range(start, start + block)]
        rows = torch.arange(start, start + block)[:, None].expand(-1, 256).float()
        known = found(cache, keys, rows, space)
        hits += known
        if known < block:
            cache.put(space, keys, rows)
    return hits / n_rows


def size(folder):
    return sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))


@pytest.mark.filterwarnings("ignore:the cache folder:RuntimeWarning")
def test_of_a_pool_that_is_too_large_what_fits_stays(tmp_path):
    scan(FolderCache(tmp_path), b"s", 400)
    need = size(tmp_path)
    for path in tmp_path.glob("*/*"):
        path.unlink()
    cache = FolderCache(tmp_path, max_bytes=int(need / 1.1))
    scan(cache, b"s", 400)
    for _ in range(3):
        assert scan(cache, b"s", 400) >= 0.75
        assert size(tmp_path) <= cache.max_bytes * 1.01


def test_a_new_network_takes_the_place_of_an_old_one(tmp_path):
    cache = FolderCache(tmp_path, max_bytes=500_000)
    scan(cache, b"old", 400)
    old = time.time() - 1000
    for path in [*tmp_path.glob("*/*"), *tmp_path.glob("*")]:
        os.utime(path, (old, old))
    cache = FolderCache(tmp_path, max_bytes=500_000)
    scan(cache, b"new", 400)
    assert scan(cache, b"new", 400) == 1
    assert size(tmp_path) <= 500_000


def test_the_bytes_that_are_needed_are_said_once(tmp_path):
    cache = FolderCache(tmp_path, max_bytes=100_000)
    scan(cache, b"s", 200)
    with pytest.warns(RuntimeWarning, match=r"is limited to 100000 bytes, but the images in use need \d+") as caught:
        scan(cache, b"s", 200)
    assert len(caught) == 1
    scan(cache, b"s", 200)


def test_use_is_noted(tmp_path, monkeypatch):
    cache = FolderCache(tmp_path)
    cache.put(b"s", KEYS, ROWS)
    (path,) = tmp_path.glob("*/*.safetensors")
    os.utime(path, (1_000_000, 1_000_000))
    assert found(cache) == 64
    info = path.stat()
    assert time.time() - info.st_atime < 60
    assert info.st_mtime == 1_000_000


def test_by_default_a_tenth_of_the_disk(tmp_path, monkeypatch):
    usage = type("Usage", (), {"total": 500 * 10**9})
    monkeypatch.setattr("skal.features.disk_bound.shutil.disk_usage", lambda folder: usage)
    assert DiskBound(tmp_path, None).max_bytes == 50 * 10**9
    usage.total = 10**9
    assert DiskBound(tmp_path, None).max_bytes == 2**30
    assert DiskBound(tmp_path, 77).max_bytes == 77


# ---------------------------------------------------------------- processes

SCRIPT = """
import sys, time
from pathlib import Path
from skal.features.folder import FolderCache
from tests.features.test_folder_reliability import scan
folder, seconds, offset = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
cache = FolderCache(folder, max_bytes=600_000)
Path(folder, f"ready-{offset}").touch()
end = time.time() + seconds
n = 0
while n < 3 or time.time() < end:
    scan(cache, b"s", 400, offset=offset % 3)
    scan(cache, b"t", 100, offset=offset % 3)
    n += 1
"""


def run_processes(folder, n_processes, n_killed, seconds):
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-Wignore", "-c", SCRIPT, str(folder), str(seconds), str(i)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for i in range(n_processes)
    ]
    while len(list(folder.glob("ready-*"))) < n_processes:
        assert all(process.poll() in (None, 0) for process in processes)
        time.sleep(0.02)
    rng = np.random.default_rng(0)
    for process in processes[:n_killed]:
        time.sleep(rng.uniform(0, seconds / n_killed))
        process.send_signal(signal.SIGKILL)
    codes = [process.wait(timeout=120) for process in processes]
    assert set(codes[:n_killed]) <= {0, -9}
    assert set(codes[n_killed:]) == {0}  # every row they read was exact


def check_whole(folder):
    """Whatever is left can be read, exactly, without a warning."""
    cache = FolderCache(folder)
    assert scan(cache, b"s", 400) > 0
    assert scan(cache, b"s", 400) == 1
    assert size(folder) <= 600_000 * 1.3


@pytest.mark.slow
def test_two_processes_on_one_folder_one_killed(tmp_path):
    run_processes(tmp_path / "c", 2, 1, 0.5)
    check_whole(tmp_path / "c")


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 8])
def test_processes_killed_at_random_leave_exact_rows(tmp_path, n_processes):
    run_processes(tmp_path / "c", n_processes, n_processes * 2 // 3, 3)
    check_whole(tmp_path / "c")
