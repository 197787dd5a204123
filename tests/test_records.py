"""Record files: what is cut, what is rejected, and how files are named."""

import json
import os
import stat

import pytest

from skal._records import RecordFile

SETTINGS = {"estimator": "A", "n_queries": 3}
RECORDS = [{"n_labels": 5 * i, "accuracy": 0.1 * i, "indices": [i]} for i in range(1, 4)]


@pytest.fixture
def file(tmp_path):
    file = RecordFile(tmp_path / "run.jsonl", SETTINGS)
    assert file.begin() == []
    for i, record in enumerate(RECORDS):
        file.append(i, record)
    return file


def test_records_come_back_as_they_were(file):
    assert file.read() == file.begin() == RECORDS
    nan = {"accuracy": float("nan"), "auc": 1 / 3}
    file.append(3, nan)
    assert repr(file.read()[3]) == repr(nan)


def test_a_file_cut_at_any_byte_keeps_the_lines_that_are_whole(file):
    content = file.path.read_bytes()
    for n in [*range(0, len(content), 11), len(content) - 1]:
        file.path.write_bytes(content[:n])
        kept = file.read()
        assert file.path.read_bytes() == content[:n]  # reading changes nothing
        assert file.begin() == kept == RECORDS[: max(content[:n].count(b"\n") - 1, 0)]
        for i in range(len(kept), 3):
            file.append(i, RECORDS[i])
        assert file.path.read_bytes() == content


def test_every_changed_byte_is_noticed_or_cut(file):
    content = file.path.read_bytes()
    for place in [*range(0, len(content), 5), len(content) - 1]:
        for byte in (0, ord("\n"), ord("3"), 255):
            if content[place] == byte:
                continue
            file.path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            if place == len(content) - 1:
                assert file.read() == RECORDS[:2]
                continue
            with pytest.raises(ValueError, match=r"run\.jsonl'") as raised:
                file.read()
            line = content[: place + 1].count(b"\n", 0, place) + 1
            assert f"line {line} " in str(raised.value)


def test_a_line_that_is_repeated_missing_or_moved_is_named(file):
    lines = file.path.read_bytes().splitlines(keepends=True)
    for order, message in [
        ([0, 1, 1, 2], "line 3 contains round 0 instead of round 1; delete line 3 and all lines after it"),
        ([0, 1, 3], "line 3 contains round 2 instead of round 1"),
        ([0, 2, 1], "line 2 contains round 1 instead of round 0"),
        ([0, 0, 1], "line 2 contains round None instead of round 0"),
        ([1, 2], "line 1 does not contain the settings; delete the file to rerun these rounds"),
    ]:
        file.path.write_bytes(b"".join(lines[i] for i in order))
        with pytest.raises(ValueError, match=message):
            file.read()
    file.path.write_bytes(b"".join(lines[:2]) + b"\n" + b"".join(lines[2:]))
    with pytest.raises(ValueError, match="line 3 is damaged: its checksum is missing"):
        file.read()


def test_a_changed_number_is_refused(file):
    text = file.path.read_text().replace(json.dumps(RECORDS[1]["accuracy"]), "0.9")
    file.path.write_text(text)
    with pytest.raises(ValueError, match="line 3 is damaged: its checksum is missing or does not match"):
        file.read()


def test_other_settings_are_named(file):
    for settings, message in [
        ({**SETTINGS, "n_queries": 4}, "n_queries=3, but this one has 4; use another folder"),
        ({**SETTINGS, "seed": 0}, "seed=None, but this one has 0"),
        ({"estimator": "A"}, "n_queries=3, but this one has None"),
    ]:
        with pytest.raises(ValueError, match=message):
            RecordFile(file.path, settings).read()


def test_files_carry_the_mode_of_the_umask(tmp_path):
    for mask in (0o022, 0o002, 0o077):
        before = os.umask(mask)
        try:
            file = RecordFile(tmp_path / f"{mask}.jsonl", SETTINGS)
            file.begin()
        finally:
            os.umask(before)
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o666 & ~mask
