"""Files are complete or absent, respect the umask, and detect damage."""

import os
import stat
import sys
import time

import pytest
import torch

from skal._files import append_line, map_tensor, read_tensors, remove_stale, replace_file, write_tensors
from tests.damage import GONE, TENSOR_DAMAGES, swap

TENSORS = {"a": torch.arange(1.0, 400.0), "b": torch.tensor(3), "c": torch.ones(0, 2), "d": torch.ones(5).bool()}


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_have_the_mode_of_the_umask(umask, tmp_path, profile, classifier, pixels):
    write_tensors(tmp_path / "tensors", "example", TENSORS, {})
    profile.save(tmp_path / "profile")
    append_line(tmp_path / "lines", "a")
    classifier.set_params(source=None, cache=tmp_path / "cache", max_epochs=0).fit(*pixels).save(tmp_path / "net")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert {mode(path) for path in written} == {0o666 & ~umask}


def test_tensors_come_back_with_their_description(tmp_path):
    write_tensors(tmp_path / "x", "example", TENSORS, {"name": "née", "n": [1, 2]})
    tensors, described = read_tensors(tmp_path / "x", "example")
    assert described == {"name": "née", "n": [1, 2]}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_all_types(dtype, tmp_path):
    tensor = torch.arange(7).to(dtype)
    write_tensors(tmp_path / "x", "example", {"t": tensor, "transposed": torch.ones(2, 3).to(dtype).T}, {})
    torch.testing.assert_close(read_tensors(tmp_path / "x", "example")[0]["t"], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("damage", TENSOR_DAMAGES)
def test_damage_is_a_value_error_that_names_the_file(damage, tmp_path):
    path = tmp_path / "numbers.safetensors"
    write_tensors(path, "example", TENSORS, {"n": 1})
    TENSOR_DAMAGES[damage](path)
    with pytest.raises(ValueError, match=r"numbers\.safetensors' is (not a skal example file|damaged)"):
        read_tensors(path, "example")


@pytest.mark.parametrize("damage", GONE)
def test_what_is_no_file_is_an_os_error_that_names_it(damage, tmp_path):
    path = tmp_path / "numbers.safetensors"
    write_tensors(path, "example", TENSORS, {})
    GONE[damage](path)
    with pytest.raises(OSError, match=r"numbers\.safetensors"):
        read_tensors(path, "example")


def test_every_byte_counts(tmp_path):
    path = tmp_path / "x"
    write_tensors(path, "example", {"t": torch.arange(1, 9, dtype=torch.uint8)}, {"n": 1})
    content = path.read_bytes()
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(ValueError, match=str(path)):
            read_tensors(path, "example")


def test_a_swap_is_noticed_by_the_kind(tmp_path):
    for name in ("one", "two"):
        write_tensors(tmp_path / name, name, TENSORS, {})
    swap(tmp_path / "one", tmp_path / "two")
    with pytest.raises(ValueError, match="one' is not a skal one file"):
        read_tensors(tmp_path / "one", "one")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fails():
        with replace_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    monkeypatch.setattr("skal._files.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, "example", TENSORS, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"old"


def test_only_old_temporary_files_of_skal_are_removed(tmp_path):
    names = [".skal-" + "0" * 32 + ".tmp", ".skal-" + "1" * 32 + ".tmp", "mine.tmp", ".skal-notes.tmp"]
    for name in names:
        (tmp_path / name).touch()
        old = time.time() - 7200
        if not name.startswith(".skal-1"):
            os.utime(tmp_path / name, (old, old))
    remove_stale(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    remove_stale(tmp_path / "nowhere")


def test_lines_are_appended(tmp_path):
    for line in "ab":
        append_line(tmp_path / "x", line)
    assert (tmp_path / "x").read_text() == "a\nb\n"


@pytest.mark.parametrize("read", [read_tensors, lambda *args: map_tensor(*args, "a")])
def test_an_interrupt_while_a_file_is_read_is_no_damage(read, tmp_path):
    write_tensors(tmp_path / "x", "example", TENSORS, {})
    events = []

    def interrupts(nth):
        def trace(frame, event, argument):
            events.append(event)
            if len(events) == nth:
                raise KeyboardInterrupt

        return trace

    def run(nth):
        events.clear()
        sys.setprofile(interrupts(nth))
        try:
            read(tmp_path / "x", "example")
        finally:
            sys.setprofile(None)

    run(0)
    for nth in range(1, len(events) - 1):  # the last is the end of tracing
        with pytest.raises(KeyboardInterrupt):
            run(nth)
