"""Undo, and adding, renaming and merging of classes."""

import numpy as np
import pytest

from tests.label.conftest import killed, label_all, settled
from tests.label.test_kill import Colours


def test_undo_goes_back_to_the_beginning(quiet):
    session = quiet()
    questions = label_all(session, 9)
    session.unsure(session.next().id)
    assert [session.undo() for _ in range(10)] == ["unsure"] + ["answer"] * 9
    assert len(session.labels) == 0
    assert session.next().id == questions[0].id
    assert [session.undo() for _ in range(4)] == ["class"] * 3 + [None]


def test_undo_is_of_the_own_tab(quiet):
    session = quiet()
    first, second = session.next("a"), session.next("b")
    session.answer(first.id, "red", tab="a")
    session.answer(second.id, "green", tab="b")
    session.undo(tab="a")
    assert session.labels.image.tolist() == [second.id]
    assert session.next("a").id == first.id
    assert session.undo(tab="c") is None


def test_rename_and_merge_change_all_labels_and_can_be_taken_back(quiet, tmp_path):
    session = quiet(classes=["red", "green", "blue", "crimson"])
    label_all(session, 9)
    before = session.labels.label.tolist()
    session.rename_class("red", "scarlet")
    assert session.labels.label.tolist() == [name.replace("red", "scarlet") for name in before]
    assert session.classes == ["scarlet", "green", "blue", "crimson"]
    session.add_class("red")  # a new class with the old name is a different class
    question = session.next()
    session.answer(question.id, "red")
    assert session.labels.label.tolist()[-1] == "red"
    session.rename_class("red", "scarlet")  # merged
    assert session.labels.label.tolist()[-1] == "scarlet"
    assert "red" not in session.classes
    with killed(session, tmp_path, 0) as again:
        assert again.labels.label.tolist() == session.labels.label.tolist()
        assert again.classes == session.classes
    assert session.undo() == "merge"
    assert session.labels.label.tolist()[-1] == "red"
    assert session.undo() == "answer"
    assert session.undo() == "class"
    assert session.undo() == "rename"
    assert session.labels.label.tolist() == before
    with killed(session, tmp_path, 1) as again:
        assert again.labels.label.tolist() == before


def test_predictions_follow_a_rename(opened):
    session = opened()
    label_all(session, 24)
    session.fit()
    n_reds = len(session.grid("red"))
    session.rename_class("red", "scarlet")
    assert len(session.grid("scarlet")) == n_reds
    assert session.grid("red") == []
    session.rename_class("scarlet", "green")
    assert "scarlet" not in session._desk.snapshot.classes
    np.testing.assert_allclose(session._desk.snapshot.proba.sum(axis=1), 1, rtol=1e-5)


def test_suggestions_of_assigned_questions_follow_a_rename(opened):
    """Accepting one under its old name would create the class again."""
    session = settled(opened(audit=0, estimator=Colours(), batch_size=10_000))
    label_all(session, 24)
    session.fit()
    before = [question.suggestion for question in session.upcoming(30)]
    assert "red" in before
    session.rename_class("red", "scarlet")
    assert [q.suggestion for q in session.upcoming(30)] == [name.replace("red", "scarlet") for name in before]
    session.undo()
    assert [q.suggestion for q in session.upcoming(30)] == before


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", "a\0b", "CON", "nul.txt", "a\nb", "x" * 101, "-\\", "RED", None]
)
def test_names_that_are_no_folders(quiet, name):
    session = quiet()
    question = session.next()
    n_events = len(session._log.events)
    for act in (
        lambda: session.answer(question.id, name),
        lambda: session.add_class(name),
        lambda: session.rename_class("green", name),
        lambda: session.import_labels([(question.path, name)], "x"),
    ):
        with pytest.raises(ValueError, match="class name"):
            act()
    assert len(session._log.events) == n_events


def test_unknown_images_and_classes(quiet):
    session = quiet()
    for act in (lambda: session.answer("0" * 32, "red"), lambda: session.unsure("../../etc/passwd")):
        with pytest.raises(ValueError, match=r"image=.* is unknown"):
            act()
    with pytest.raises(ValueError, match="class 'owl' does not exist"):
        session.rename_class("owl", "hawk")
    with pytest.raises(ValueError, match="seconds=-1"):
        session.answer(session.next().id, "red", seconds=-1)
    with pytest.raises(ValueError, match="why='grid'"):
        session.answer(session.next().id, "red", why="grid")
