"""Labels from other sources: imported, or from a person asked by a program."""

import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from skal import cli
from skal.label import LabelSession, catalogue
from skal.label.folder import list_images
from skal.label.sources import read_labels
from tests.label.conftest import killed, label_all, settled, truth


def test_labels_are_imported(photos, quiet):
    session = settled(quiet())
    items = list(session._catalogue.order)
    pairs = [(item.path, truth(item.path)) for item in items[:20]] + [("no.png", "red"), ("../x.png", "red")]
    counts = session.import_labels([*pairs, (str(photos / items[0].path), truth(items[0].path))], "x")
    n_reserved = sum(item.is_reserved for item in items[:20])
    repeated_reserved = int(items[0].is_reserved)
    assert counts == {
        "imported": 20 - n_reserved,
        "reserved": n_reserved + repeated_reserved,
        "unknown": 2,
        "decided": 1 - repeated_reserved,
        "waiting": 0,
    }
    assert session.status().n_training == 20 - n_reserved
    assert session.status().n_audit == 0
    asked = {q.id for q in label_all(session)}
    assert not asked & {item.id for item in items[:20] if not item.is_reserved}
    assert {item.id for item in items if item.is_reserved} <= asked


def test_labels_of_files_that_are_not_read_yet_wait(quiet, photos, tmp_path, monkeypatch):
    """The import does not wait for the files, and is completed even if the session ends before they are read."""
    go_on, read = threading.Event(), catalogue.read_fingerprint

    def held(path):
        if threading.current_thread().name == "skal reading":
            go_on.wait(30)
        return read(path)

    monkeypatch.setattr(catalogue, "read_fingerprint", held)
    session = quiet()
    paths, _ = list_images(photos)
    start = time.monotonic()
    counts = session.import_labels([(path, truth(path)) for path in paths], "x")
    assert counts["waiting"] >= 40
    assert counts["waiting"] + counts["imported"] + counts["reserved"] == 60
    copied = tmp_path / "copy.skal"
    shutil.copytree(session.project.path, copied)
    go_on.set()
    assert time.monotonic() - start < 10
    with killed(settled(session), tmp_path, 0) as finished:
        assert finished._state.waiting == {}
        n_reserved = finished.status().n_reserved
        assert finished.status().not_used == {"reserved": n_reserved}
        assert finished.status().n_labels + n_reserved == 60
    for one in (session, LabelSession(photos, copied, estimator=session._modelling._estimator, batch_size=10_000)):
        labels = settled(one).labels
        assert len(labels) == 60 - one.status().n_reserved
        assert list(labels.label) == [truth(path) for path in labels.path]
        assert one._state.waiting == {}
    one.close()


def test_imported_labels_that_are_not_used_are_counted(photos, quiet, capsys):
    (photos / "broken.png").write_bytes(b"x")
    session = settled(quiet())
    reserved, one = (next(i for i in session._catalogue.order if i.is_reserved is kind) for kind in (True, False))
    session.answer(one.id, "red")
    pairs = [(reserved.path, "red"), (one.path, "red"), (one.path, "green"), ("broken.png", "red")]
    counts = session.import_labels(pairs, "x")
    assert (counts["reserved"] + counts["decided"], counts["waiting"]) == (3, 1)
    assert settled(session).status().not_used == {"reserved": 1, "decided": 2, "waiting": 1}
    session.close()
    assert cli.main(["status", str(session.project.path)]) == 0
    assert "imported labels not used: 1 reserved, 2 decided, 1 waiting" in capsys.readouterr().out


def test_imported_labels_that_differ_are_a_conflict(quiet):
    session = settled(quiet(audit=0))
    first, second = session._catalogue.order[:2]
    counts = session.import_labels([(first.path, "red"), (first.path, "green"), (second.path, "red")], "x")
    assert counts["imported"] == 3
    assert (session.status().n_conflicts, session.status().n_training) == (1, 1)
    assert session.review()[0].labels == ("green", "red")
    session.answer(first.id, "green", why="review")
    assert (session.status().n_conflicts, session.status().n_training) == (0, 2)


def test_labels_of_class_folders_under_a_relative_name(photos, quiet, monkeypatch, tmp_path):
    for path in photos.rglob("*.png"):
        (photos / "sorted" / truth(path)).mkdir(parents=True, exist_ok=True)
        path.rename(photos / "sorted" / truth(path) / path.name)
    session = settled(quiet())
    monkeypatch.chdir(tmp_path)
    counts = session.import_labels(read_labels("photos").pairs, "photos")
    assert counts["imported"] + counts["reserved"] == 60


def test_ask_a_person(quiet, tmp_path):
    session = settled(quiet(audit=0))
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 255, size=(3, 8, 8, 3), dtype=np.uint8)
    answers = []

    def person():
        while len(answers) < 3:
            question = session.next(timeout=1)
            if question is not None and question.why == "ask":
                answers.append(question)
                if len(answers) == 2:
                    session.unsure(question.id)
                else:
                    session.answer(question.id, "red")

    thread = threading.Thread(target=person, daemon=True)
    thread.start()
    labels, is_answered = session.ask(arrays, timeout=30)
    thread.join()
    assert labels.tolist() == ["red", "", "red"]
    assert is_answered.tolist() == [True, False, True]
    with Image.open(answers[0].path) as stored:
        np.testing.assert_array_equal(np.asarray(stored), arrays[0])
    labels, is_answered = session.ask(arrays)  # already answered
    assert labels.tolist() == ["red", "", "red"]
    paths = [question.path for question in session.upcoming(2)]
    labels, is_answered = session.ask(paths, timeout=0.1)
    assert not is_answered.any()
    with pytest.raises(ValueError, match="float64"):
        session.ask(arrays.astype(float))


def test_ask_without_a_folder(opened, tmp_path):
    session = opened(folder=[], project=tmp_path / "asked")
    assert session.next() is None
    image = np.zeros((1, 8, 8), dtype=np.uint8)
    thread = threading.Timer(0.2, lambda: session.answer(session.next().id, "black"))
    thread.start()
    labels, is_answered = session.ask(image, timeout=20)
    thread.join()
    assert labels.tolist() == ["black"]
    assert is_answered.all()


def test_asking_ends_if_the_file_is_gone(photos, quiet):
    """It waited for an answer that nobody could give."""
    session = settled(quiet(audit=0))
    path = photos / "day0" / "red-02.png"
    found = []
    asking = threading.Thread(target=lambda: found.append(session.ask([path])))
    asking.start()
    with session._changed:
        assert session._changed.wait_for(lambda: session._desk.asked, 30)
    question = session.next()
    assert question.path == str(path)
    path.unlink()
    session.set_aside(question.id, "gone")
    asking.join(30)
    assert [value.tolist() for value in found[0]] == [[""], [False]]


def test_labels_that_differ_only_in_case_are_not_imported(quiet):
    """Neither of the two classes could be used afterwards."""
    session = settled(quiet(audit=0))
    first, second = session._catalogue.order[:2]
    with pytest.raises(ValueError, match="'owl' differs from 'Owl' only in case"):
        session.import_labels([(first.path, "Owl"), (second.path, "owl")], "x")
    assert "Owl" not in session.classes
