"""Full disks, failing strategies and fits, and wrong arguments."""

import os

import pytest
from sklearn.linear_model import LogisticRegression

from skal.label import LogError
from skal.label import log as log_module
from tests.label.conftest import draw, label_all, never, settled
from tests.label.test_kill import Colours


def test_a_full_disk_is_not_acknowledged(quiet, monkeypatch):
    session = quiet()
    label_all(session, 3)
    question = session.next()

    def full(file, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "_write", full)
        with pytest.raises(LogError, match="No space left"):
            session.answer(question.id, "red", event="e1")
    assert len(session.labels) == 3
    assert session.next() == question
    assert "No space left" in session.status().failure
    with pytest.raises(LogError):
        session.answer(question.id, "red", event="e1")
    session.reopen_log()
    session.answer(question.id, "red", event="e1")
    assert len(session.labels) == 4
    assert session.status().failure is None


def test_a_strategy_that_fails_leaves_random_images(opened):
    def broken(learner, X_pool, n_instances=1):
        raise RuntimeError("no idea")

    session = settled(opened(query=broken))
    assert {q.why for q in label_all(session, 30)} == {"random", "audit"}
    session.fit()
    assert session.status().model >= 1
    assert len(label_all(session)) == 30


def test_a_fit_that_fails_is_said(opened):
    session = settled(opened(estimator=LogisticRegression(), query=never))
    label_all(session, 12)
    with pytest.raises(ValueError, match="training failed"):
        session.fit()
    assert len(label_all(session)) > 10


def test_a_fit_needs_two_classes(quiet):
    with pytest.raises(ValueError, match="two classes"):
        quiet().fit()


def test_one_process_at_a_time(session, opened):
    with pytest.raises(BlockingIOError, match="open in another process"):
        opened()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audit": 1.5}, "audit=1.5"),
        ({"target": 1.0}, "target=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"classes": ["a/b"]}, "'a/b'"),
        ({"classes": ["owl", "Owl"]}, "only in case"),
        ({"folder": "/does/not/exist"}, "is not a folder"),
        ({"folder": ["/does/not/exist.png"]}, "are not files"),
    ],
)
def test_bad_arguments_before_any_work(opened, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        opened(**options)
    assert not (tmp_path / "photos.skal").exists()


def test_the_project_is_beside_the_photos(opened, photos, tmp_path):
    with pytest.raises(ValueError, match="inside the folder of images"):
        opened(project=photos / "project")
    opened().close()
    draw(tmp_path / "others" / "red.png", "red", 1)
    with pytest.raises(ValueError, match="belongs to"):
        opened(folder=tmp_path / "others")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not a labelling project"):
        opened(project=tmp_path / "mine")


def test_predictions_that_are_lost_are_computed_again(opened):
    """The numbers of models began again at 1, so that no later model was recorded."""
    session = settled(opened(batch_size=12, estimator=Colours()))
    label_all(session, 24)
    session.fit()
    version = session.status().model
    session.close()
    session.project.snapshot.unlink()
    session = settled(opened(batch_size=12, estimator=Colours()))
    assert session.status().failure is None
    assert session.status().model == version + 1
    assert session._state.models[-1]["version"] == version + 1


def test_a_disk_that_was_full_at_the_first_start(opened, tmp_path):
    project = tmp_path / "photos.skal"
    project.mkdir()
    (project / "project.tmp").write_text('{"format"')
    assert opened().project.load() is not None


def test_a_relative_project_keeps_its_place(quiet, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = settled(quiet(project="here.skal", estimator=Colours()))
    monkeypatch.chdir(photos)
    label_all(session, 12)
    session.fit()
    assert session.status().failure is None
    assert (tmp_path / "here.skal" / "predictions.npz").exists()


def test_an_answer_that_is_sent_again_is_known_even_if_its_file_is_gone(quiet):
    session = quiet()
    question = session.next()
    session.answer(question.id, "red", event="e1")
    os.unlink(question.path)
    session.set_aside(question.id, "gone")
    session.answer(question.id, "red", event="e1")
    assert session.labels.label.tolist() == ["red"]
