"""Labels from elsewhere: imported, or of a person whom a program asks."""

import threading

import numpy as np
import pytest
from PIL import Image

from tests.label.conftest import label_all, settled, truth


def test_labels_are_imported(photos, quiet):
    session = settled(quiet())
    items = list(session._catalogue.order)
    pairs = [(item.path, truth(item.path)) for item in items[:20]] + [("no.png", "red"), ("../x.png", "red")]
    counts = session.import_labels([*pairs, (str(photos / items[0].path), "red")], "labels.csv")
    n_reserved = sum(item.is_reserved for item in items[:20])
    repeated_reserved = int(items[0].is_reserved)
    assert counts == {
        "imported": 20 - n_reserved,
        "reserved": n_reserved + repeated_reserved,
        "unknown": 2,
        "decided": 1 - repeated_reserved,
    }
    assert session.status().n_training == 20 - n_reserved
    assert session.status().n_audit == 0
    asked = {q.id for q in label_all(session)}
    assert not asked & {item.id for item in items[:20] if not item.is_reserved}
    assert {item.id for item in items if item.is_reserved} <= asked


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
    labels, is_answered = session.ask(arrays)  # answered already
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
