"""The session: the same questions after a crash, and one event per action."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.label.conftest import CLASSES, draw, killed, label_all, never, settled, truth

# ------------------------------------------------------------------------ questions


def test_a_session_from_the_first_answer_to_the_model(opened):
    session = opened(audit=0.4)
    label_all(session, 45)
    session.fit()
    status = session.status()
    assert (status.n_images, status.n_labels, status.model >= 1) == (60, 45, True)
    assert status.per_class == {name: (session.labels.label == name).sum() for name in CLASSES}
    assert status.n_training + status.n_audit == 45
    paths = [session._catalogue.file(item.path) for item in session._catalogue.order]
    predictions = session.predict(paths)
    assert (predictions.label == [truth(path) for path in paths]).mean() > 0.9
    np.testing.assert_allclose(predictions.filter(like="p(").sum(axis=1), 1, rtol=1e-5)
    assert list(predictions.columns) == [
        "path",
        "label",
        "your_label",
        "confidence",
        "probability",
        "p(blue)",
        "p(green)",
        "p(red)",
    ]


def test_one_question_in_five_is_audit_and_comes_without_suggestion(opened):
    session = settled(opened())
    questions = label_all(session, 15)
    session.fit()
    questions += label_all(session, 15)
    assert [q.why == "audit" for q in questions] == [False, False, False, False, True] * 6
    assert all(q.suggestion is None and q.probability is None for q in questions if q.why == "audit")
    assert questions[-2].suggestion in CLASSES


def test_every_image_is_asked_once(quiet):
    session = quiet()
    questions = label_all(session)
    assert len({q.id for q in questions}) == len(questions) == 60
    assert session.next() is None
    assert session.upcoming(3) == []


def test_the_same_question_until_it_is_answered(quiet):
    session = quiet()
    first = session.next()
    assert session.next() == first
    upcoming = session.upcoming(4)
    assert upcoming[0] == first
    session.answer(first.id, "red")
    assert session.upcoming(3) == upcoming[1:]


def test_audit_images_come_in_keyed_order(quiet):
    session = settled(quiet())
    asked = [q.id for q in label_all(session) if q.why == "audit"]
    assert asked == [item.id for item in session._catalogue.reserved]
    assert [item.place for item in session._catalogue.reserved] == sorted(i.place for i in session._catalogue.reserved)


@pytest.mark.parametrize("audit", [0, 0.5, 1])
def test_share_of_the_audit(quiet, audit):
    session = settled(quiet(audit=audit))
    first = label_all(session, 10)
    assert sum(q.why == "audit" for q in first) == 10 * audit
    assert (session.status().n_reserved == 0) == (audit == 0)


# ------------------------------------------------------------------------ resuming


def test_the_background_work_ends_before_the_process(opened, monkeypatch):
    at_exit = []
    monkeypatch.setattr(
        "skal.label.session.atexit", SimpleNamespace(register=at_exit.append, unregister=at_exit.remove)
    )
    session = opened()
    (close,) = at_exit
    close()
    assert not at_exit
    assert not any(worker.is_alive() for worker in session._workers)


def test_after_a_kill_the_next_question_is_the_same(quiet, tmp_path):
    session = settled(quiet(target=0.9))
    for step in range(24):
        if step == 12:
            session.fit()
        expected = session.upcoming(4)
        with killed(session, tmp_path, step, batch_size=10_000, query=never) as again:
            assert [(q.id, q.why) for q in again.upcoming(4)] == [(q.id, q.why) for q in expected]
            assert again.labels.drop(columns="time").equals(session.labels.drop(columns="time"))
            assert again.classes == session.classes
            assert again.status().accuracy == session.status().accuracy
            assert again.status().stop_hint == session.status().stop_hint
        if step % 7 == 3:
            session.undo()
        elif step % 7 == 5:
            session.unsure(expected[0].id)
        else:
            session.answer(expected[0].id, truth(expected[0].path))


def test_a_folder_that_grew_is_asked_in_the_same_order_after_a_kill(quiet, tmp_path, photos):
    session = settled(quiet())
    for i in range(60, 90):
        draw(photos / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session._reading._rescan()
    settled(session)
    order = [item.path for item in session._catalogue.order]
    assert len(order) == 90
    expected = [(q.id, q.why) for q in session.upcoming(40)]
    with killed(session, tmp_path, 0, batch_size=10_000, query=never) as again:
        assert [item.path for item in again._catalogue.order] == order  # immediately, however large the folder is
        assert [q.id for q in again.upcoming(40)] == [image for image, _ in expected]


def backwards(learner, X_pool, n_instances=1):
    """A strategy that picks the last images, the very last one first."""
    return np.arange(len(X_pool))[::-1][:n_instances]


def test_what_is_given_out_is_asked_first_after_a_kill(quiet, tmp_path):
    """In the same order and for the same reason, even if there is a newer queue."""
    session = quiet(query=backwards)
    session.upcoming(4)  # before there is any queue
    settled(session)
    for step in range(3):
        expected = [(q.id, q.why) for q in session.upcoming(6)]
        with killed(session, tmp_path, step, batch_size=10_000, query=backwards) as again:
            assert [(q.id, q.why) for q in again.upcoming(6)] == expected
            settled(again)
            assert [(q.id, q.why) for q in again.upcoming(12)] == [(q.id, q.why) for q in session.upcoming(12)]
        label_all(session, 9)
        session.fit()


def test_a_fit_that_is_due_after_a_kill_knows_the_pool(opened, tmp_path):
    """Such a fit used to predict only the labelled images, and all later questions were random."""
    session = settled(opened(batch_size=10_000, query=backwards, audit=0))
    label_all(session, 12)
    session.fit()
    label_all(session, 12)
    with killed(session, tmp_path, 0, batch_size=5, query=backwards) as again:
        again.fit()
        assert len(again._desk.snapshot.ids) == 60
        assert {question.why for question in again.upcoming(10)} == {"strategy"}


def test_an_undone_image_comes_next_also_after_a_kill(quiet, tmp_path):
    session = quiet()
    questions = label_all(session, 6)
    for _ in range(3):
        session.undo()
    assert [q.id for q in session.upcoming(3)] == [q.id for q in questions[3:]]
    with killed(session, tmp_path, 0, batch_size=10_000) as again:
        assert [q.id for q in again.upcoming(3)] == [q.id for q in questions[3:]]


def test_the_log_can_be_read_by_a_person(quiet):
    session = quiet()
    (question,) = label_all(session, 1)
    line = json.loads(session.project.log.read_text().splitlines()[-1])
    assert line["kind"] == "answer"
    assert line["image"] == question.id
    assert question.path.endswith(line["path"])
    assert {"time", "label", "tab", "seconds", "suggestion", "probability", "model", "why"} <= set(line)
    assert (session.project.path.stat().st_mode & 0o777) == 0o700


def test_what_was_shown_is_in_the_log(opened):
    session = settled(opened())
    label_all(session, 24)
    session.fit()
    settled(session)
    question = next(q for q in session.upcoming(3) if q.why == "strategy")
    while session.next() != question:
        label_all(session, 1)
    session.answer(question.id, "red")
    event = session._log.events[-1]
    assert (event["suggestion"], event["probability"]) == (question.suggestion, question.probability)
    assert event["model"] == question.model >= 1


# ------------------------------------------------------------------------ repeats


def test_an_answer_that_is_sent_again_counts_once(quiet):
    session = quiet()
    question = session.next()
    for _ in range(3):
        session.answer(question.id, "red", event="e1")
    session.next()
    session.answer(question.id, "red", event="e1")
    assert len(session.labels) == 1
    with pytest.raises(ValueError, match="used by another event"):
        session.answer(question.id, "green", event="e1")
    assert session.undo(event="u1") == "answer"
    session.undo(event="u1")
    assert len(session.labels) == 0
    session.add_class("owl", event="c1")
    session.add_class("owl", event="c1")
    with pytest.raises(ValueError, match="class 'owl' already exists"):
        session.add_class("owl")
