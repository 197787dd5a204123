"""The log: acknowledged events stay, once; damage is reported; nothing is written after a failed write."""

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from skal.label import log as log_module
from skal.label.lock import FileLock
from skal.label.log import EventLog, LogError, decode_line, encode_line


def answer(number, label="cat"):
    return {"id": f"e{number}", "kind": "answer", "label": label, "image": f"{number:032x}"}


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "labels.jsonl")
    yield log
    log.close()


def reopened(log):
    log.close()
    return EventLog(log.path)


def test_a_line_is_json_that_a_person_reads(log):
    log.append({"id": "1", "label": 'a "quoted" Käfer\n', "seconds": 0.25})
    (line,) = log.path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"id": "1", "label": 'a "quoted" Käfer\n', "seconds": 0.25, "crc": line[-10:-2]}
    assert "Käfer" in line


def test_events_come_back_in_order(log):
    for i in range(5):
        assert log.append(answer(i))
    again = reopened(log)
    assert again.events == [answer(i) for i in range(5)]
    assert again.set_aside == []
    again.close()


def test_a_repeat_is_recorded_once_and_keeps_its_first_time(log):
    assert log.append(answer(1) | {"time": 1.0})
    assert not log.append(answer(1) | {"time": 2.0})
    assert log.append_all([answer(2), answer(2), answer(1)]) == 1
    assert [event["id"] for event in log.events] == ["e1", "e2"]
    assert log.events[0]["time"] == 1.0
    again = reopened(log)
    assert not again.append(answer(2))
    again.close()


def test_an_id_of_another_event_is_an_error(log):
    log.append(answer(1))
    with pytest.raises(ValueError, match="'e1' is already used by another event"):
        log.append(answer(1, "dog"))
    with pytest.raises(ValueError, match="id=None"):
        log.append({"kind": "answer"})
    with pytest.raises(ValueError, match="id=7"):
        log.append({"id": 7})
    with pytest.raises(ValueError):
        log.append({"id": "nan", "seconds": float("nan")})
    assert len(log.path.read_bytes().splitlines()) == 1


@pytest.mark.parametrize("length", range(1, len(encode_line(answer(1)))))
def test_every_torn_tail_is_cut_and_saved(tmp_path, length):
    path = tmp_path / "labels.jsonl"
    whole, torn = encode_line(answer(0)), encode_line(answer(1))[:length]
    path.write_bytes(whole + torn)
    log = EventLog(path)
    assert log.events == [answer(0)]
    assert path.read_bytes() == whole
    (saved,) = tmp_path.glob("labels.torn-*")
    assert saved.read_bytes() == torn
    assert saved.name in log.set_aside[0]
    assert log.append(answer(1))
    log.close()
    log = EventLog(path)
    assert log.events == [answer(0), answer(1)]
    assert log.set_aside == []
    log.close()


def test_a_tail_of_zeros_as_a_power_cut_leaves_it(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_bytes(encode_line(answer(0)) + bytes(4096))
    log = EventLog(path)
    assert log.events == [answer(0)]
    log.close()


def test_every_flipped_bit_in_the_middle_is_found(tmp_path):
    path = tmp_path / "labels.jsonl"
    lines = [encode_line(answer(i)) for i in range(3)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        garbled = bytearray(lines[1])
        position = rng.integers(len(garbled) - 1)
        garbled[position] ^= 1 << rng.integers(8)
        if garbled[position] == ord("\n"):
            continue
        for left in tmp_path.glob("*"):
            left.unlink()
        path.write_bytes(lines[0] + garbled + lines[2])
        log = EventLog(path)
        assert log.events == [answer(0), answer(2)]
        assert log.set_aside == [
            f"line 2 is garbled and was left out; a copy is in {next(tmp_path.glob('*garbled*')).name}"
        ]
        assert path.read_bytes() == lines[0] + garbled + lines[2]  # nothing is rewritten
        log.close()


def test_a_line_that_was_pasted_twice_counts_once(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_bytes(encode_line(answer(0)) * 2)
    log = EventLog(path)
    assert log.events == [answer(0)]
    log.close()


@pytest.mark.parametrize("line", [b"", b"{}", b'["id"]', b'{"id":"1"}', b'{"id":"1","crc":"00000000"}', b"\xff" * 40])
def test_what_is_no_line(line):
    assert decode_line(line) is None


def test_a_checksum_of_something_else_than_an_event():
    for event in ([1], {"kind": "answer"}, {"id": 3}):
        assert decode_line(encode_line(event).rstrip(b"\n")) is None


def test_only_one_process_writes(log):
    with pytest.raises(BlockingIOError, match="open in another process"):
        EventLog(log.path)
    script = "import sys; from skal.label.log import EventLog; EventLog(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, str(log.path)], capture_output=True, text=True)
    assert "BlockingIOError" in done.stderr
    log.close()
    EventLog(log.path).close()


def test_the_lock_goes_with_its_process(tmp_path):
    script = "import sys, os; from skal.label.lock import FileLock; l = FileLock(sys.argv[1]); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], check=False)
    FileLock(tmp_path / "lock").release()


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl")
def test_a_file_system_without_locks_is_not_called_open_elsewhere(tmp_path, monkeypatch):
    def refused(file, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("skal.label.lock.fcntl.flock", refused)
    with pytest.raises(OSError, match=r"cannot be locked \(No locks available\): .*lock'"):
        FileLock(tmp_path / "lock")


class Disk:
    """Replaces the system calls that write, and fails on demand."""

    def __init__(self, monkeypatch, *, fails=None, writes=None):
        self.calls = []
        self.fails, self.writes = fails, writes
        self._write, self._fsync = os.write, os.fsync
        monkeypatch.setattr(log_module.os, "write", self.write)
        monkeypatch.setattr(log_module.os, "fsync", self.fsync)

    def write(self, file, content):
        self.calls.append("write")
        if self.fails == "write":
            if self.writes:
                self._write(file, bytes(content)[: self.writes])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(file, bytes(content)[: self.writes or None])

    def fsync(self, file):
        self.calls.append("fsync")
        if self.fails == "fsync":
            raise OSError(errno.EIO, "Input/output error")
        self._fsync(file)


def refused(path, content):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_it_is_on_the_disk_before_it_is_acknowledged(log, monkeypatch):
    disk = Disk(monkeypatch)
    log.append(answer(1))
    assert disk.calls == ["write", "fsync"]


def test_short_writes_go_on(log, monkeypatch):
    Disk(monkeypatch, writes=7)
    log.append(answer(1))
    assert reopened(log).events == [answer(1)]


@pytest.mark.parametrize(("fails", "writes", "left"), [("write", 0, 0), ("write", 20, 0), ("fsync", None, 1)])
def test_after_a_failure_nothing_is_written_until_it_is_reopened(log, monkeypatch, fails, writes, left):
    log.append(answer(0))
    with monkeypatch.context() as patch:
        Disk(patch, fails=fails, writes=writes)
        with pytest.raises(LogError, match="cannot be written"):
            log.append(answer(1))
    assert "e1" not in log
    with pytest.raises(LogError, match="nothing is recorded"):  # although the disk would work now
        log.append(answer(2))
    assert log.events == [answer(0)]
    log.reopen()
    assert log.failure is None
    assert len(log.events) == 1 + left  # what a failed fsync left is on disk anyway
    log.append(answer(1))
    log.append(answer(2))
    again = reopened(log)
    assert again.events == [answer(0), answer(1), answer(2)]
    again.close()


@pytest.mark.parametrize("space", ["write", "save"])
def test_a_disk_that_is_still_full_stays_read_only(log, monkeypatch, space):
    """Otherwise the next answer would be written after the truncated line, acknowledged, and lost."""
    log.append(answer(0))
    with monkeypatch.context() as patch:
        Disk(patch, fails="write", writes=20)
        with pytest.raises(LogError):
            log.append(answer(1))
        if space == "save":  # there is space for a copy, but not for the truncated line beside it
            patch.undo()
            patch.setattr(log_module.Path, "write_bytes", refused)
        for _ in range(2):
            with pytest.raises(LogError, match="No space left"):
                log.reopen()
            with pytest.raises(LogError, match="nothing is recorded"):
                log.append(answer(2))
            assert (log.events, log.find("e0")) == ([answer(0)], answer(0))
    assert log.failure is not None
    log.reopen()
    assert log.events == [answer(0)]
    log.append(answer(2))
    again = reopened(log)
    assert again.events == [answer(0), answer(2)]
    again.close()


def test_what_a_failed_fsync_left_is_written_anew(log, monkeypatch):
    """The readable content of the old file may exist only in memory, and a second fsync could falsely succeed."""
    log.append(answer(0))
    before = log.path.stat().st_ino
    with monkeypatch.context() as patch:
        Disk(patch, fails="fsync")
        with pytest.raises(LogError):
            log.append(answer(1))
    disk = Disk(monkeypatch)
    log.reopen()
    assert disk.calls[:2] == ["write", "fsync"]
    assert log.path.stat().st_ino != before
    assert log.events == [answer(0), answer(1)]


def test_a_closed_log_is_not_opened_by_its_old_owner(log):
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.reopen()


def test_files_belong_to_their_owner(log):
    log.append(answer(0))
    assert (log.path.stat().st_mode & 0o777) == 0o600


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        EventLog(tmp_path)


def test_closed_is_closed(log):
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.append(answer(1))


def test_a_hundred_thousand_events_open_in_two_seconds(tmp_path):
    path = tmp_path / "labels.jsonl"
    event = answer(0) | {"path": "photographs/2024/IMG_0001.jpg", "time": 1.5, "seconds": 0.8, "why": "strategy"}
    event |= {"suggestion": "cat", "probability": 0.93, "model": 12, "tab": "0123456789abcdef", "seen": None}
    path.write_bytes(b"".join(encode_line(event | {"id": f"{i:032x}"}) for i in range(100_000)))
    start = time.process_time()
    log = EventLog(path)
    assert time.process_time() - start < 2
    assert len(log.events) == 100_000
    log.close()
