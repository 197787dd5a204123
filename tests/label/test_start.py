"""What is done before the first question does not grow with the folder."""

import threading

import pytest

from skal.label import catalogue
from skal.label.reading import _FIRST
from tests.label.conftest import draw


@pytest.mark.parametrize("n_files", [40, 400])
def test_the_first_question_takes_a_few_files(n_files, tmp_path, opened, monkeypatch):
    """All others are read behind it, however many they are."""
    for i in range(n_files):
        draw(tmp_path / "many" / f"red-{i}.png", "red", i)
    read, go_on = [], threading.Event()
    original = catalogue.read_fingerprint

    def counted(path):
        if threading.current_thread().name == "skal reading":
            go_on.wait(30)
        else:
            read.append(path)
        return original(path)

    monkeypatch.setattr(catalogue, "read_fingerprint", counted)
    session = opened(folder=tmp_path / "many", project=tmp_path / "many.skal", batch_size=10_000)
    try:
        assert session.next() is not None
        assert len(read) == _FIRST
    finally:
        go_on.set()
