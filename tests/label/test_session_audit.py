"""The accuracy of a session is honest: nothing is trained on the images it is measured on."""

import pytest

from skal.label import report
from skal.label.audit import Estimate, wilson_interval
from skal.label.stopping import StopTest
from tests.label.conftest import CLASSES, draw, label_all, settled, truth


def test_reserved_images_train_nothing(opened):
    session = settled(opened(audit=0.5))
    label_all(session, 40)
    reserved = {item.id for item in session._catalogue.reserved}
    assert not {item.id for item, _ in session._modelling.training()} & reserved
    session.import_labels([(item.path, "red") for item in session._catalogue.reserved], "x")
    assert not {item.id for item, _ in session._modelling.training()} & reserved


def test_accuracy_is_agreement_on_the_audit_with_its_interval(tmp_path, opened):
    folder = tmp_path / "many"
    for i in range(150):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session = settled(opened(folder=folder, project=tmp_path / "p", audit=0.5, target=0.6, batch_size=10_000))
    label_all(session, 58)
    session.fit()
    status = session.status()
    assert status.n_audit == 29
    assert status.accuracy is None
    label_all(session, 2)
    status = session.status()
    assert status.n_audit == 30
    predicted = session._desk.snapshot.predictions()
    answered = session.labels[session.labels.why == "audit"]
    n_right = sum(predicted[image] == label for image, label in zip(answered.image, answered.label, strict=True))
    assert status.accuracy == n_right / 30
    assert status.interval == wilson_interval(n_right, 30)
    assert sum(recall.n for recall in status.recalls) == 30
    # A new reserved image before the last answered one: no accuracy until it is answered.
    item = session._catalogue.reserved[-1]
    session._catalogue.reserved.remove(item)
    item.place = 0
    session._catalogue.reserved.insert(0, item)
    status = session.status()
    assert status.accuracy is None
    assert "Audit answers are missing" in status.stop_hint
    session.answer(item.id, truth(item.path))
    assert session.status().accuracy is not None


def test_the_target_is_tested_at_its_looks_alone(tmp_path, opened):
    folder = tmp_path / "many"
    for i in range(180):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session = settled(opened(folder=folder, project=tmp_path / "p", audit=0.5, target=0.8, batch_size=10_000))
    assert session.settings.looks == [50, 60]
    label_all(session, 60)
    session.fit()
    assert session.status().next_look == 50
    assert session.status().stop_hint.startswith(
        "First test of the target of 80 % at 50 audit answers: at least 46 must be right then. Now "
    )
    n_right = round(30 * session.status().accuracy)
    assert session.status().stop_hint.endswith(
        f"Now {n_right} of 30; every new model is compared with all of them again."
    )
    label_all(session, 38)
    assert session._state.looks == []
    label_all(session, 2)
    (look,) = session._state.looks
    assert (look["n"], look["place"]) == (50, 0)
    label_all(session, 6)
    assert len(session._state.looks) == 1
    said = session.status().stop_hint
    assert f"Tested at 50: {look['n_right']} right, 46 were needed." in said
    assert session.status().is_reached == look["reached"] == said.startswith("The target of 80 % is reached.")


def test_the_target_stays_as_it_was(quiet, tmp_path):
    session = quiet(target=0.9)
    label_all(session, 5)
    session.close()
    with pytest.raises(ValueError, match=r"target=0\.8 differs from the project's target 0\.9"):
        quiet(target=0.8)
    again = quiet()
    assert again.settings.target == 0.9


class Standing:
    """A minimal audit and log of a session, sufficient for the messages about the target."""

    is_complete = is_predicted = True

    def __init__(self, n_answered, *looks, n_reserved=400, n_wrong=0):
        self.n_answered, self.n_reserved = n_answered, n_reserved
        self.estimate = Estimate(n_answered - n_wrong, n_wrong)
        keys = ("place", "n", "n_right", "reached")
        self.looks = [dict(zip(keys, look, strict=True)) for look in looks]
        self.n_looks = max((look["place"] for look in self.looks), default=-1) + 1

    def says(self, *, is_whole=True, target=0.95, planned=400):
        test = StopTest.plan(target, planned)
        return report._stop_hint(test, False, self, report._next_look(test, self, self, is_whole), self)


def test_a_test_that_was_not_passed_is_said_with_what_was_needed():
    failed = (0, 100, 98, False)
    assert Standing(120, failed).says() == (
        "Tested at 100: 98 right, 100 were needed. Next test at 200 audit answers: at least 197 must be right then. "
        "Now 120 of 120; every new model is compared with all of them again."
    )
    done = Standing(400, failed, (1, 200, 195, False), (2, 400, 389, False)).says()
    assert done.startswith("Tested at 400: 389 right, 390 were needed. All tests of the target of 95 % are done;")
    passed = Standing(230, failed, (1, 200, 198, True)).says()
    assert passed == "The target of 95 % is reached. Tested at 200: 198 right, 197 were needed."


def test_before_the_first_test_the_right_answers_so_far_are_said():
    start = "First test of the target of 95 % at 100 audit answers: all 100 must be right then."
    assert Standing(31, n_wrong=4).says() == (
        f"{start} Now 27 of 31; every new model is compared with all of them again."
    )
    assert Standing(29).says() == f"{start} 29 answered so far."  # no accuracy is shown yet
    later = Standing(31)
    later.is_predicted = False
    assert later.says() == f"{start} 31 answered so far."
    assert "First test of the target of 97.5 % at" in Standing(0).says(target=0.975)


def test_the_next_test_is_at_the_end_of_the_reserve_where_that_comes_first():
    """The draw may reserve fewer images than the plan expected, or more."""
    failed = (0, 100, 98, False)
    assert (
        "Next test at 190 audit answers: at least 187 must be right then."
        in Standing(120, failed, n_reserved=190).says()
    )
    later = Standing(210, failed, (1, 200, 190, False), n_reserved=355).says(planned=333)
    assert "Next test at 355 audit answers: at least 346 must be right then." in later
    assert "at 73 audit answers" in Standing(0, n_reserved=3).says(is_whole=False, planned=73)  # 3 read so far
    assert "even all right would not be enough" in Standing(0, n_reserved=50).says(planned=73)
    short = Standing(50, (0, 50, 50, False), n_reserved=50).says(planned=73)
    assert short.startswith("Tested at 50: 50 right, even all would not have been enough. All tests")


def test_a_test_that_is_due_is_not_called_done():
    """The last answer is given, but the model to test is not trained yet."""
    said = Standing(400, (1, 200, 190, False)).says()
    assert "A test is due. It runs once" in said
    assert "done" not in said
    assert Standing(120).says().startswith("A test is due. It runs once")  # not the next one, at 200


def test_a_review_of_an_audit_image_stays_an_audit_answer(quiet):
    """When the answer before it was undone, the image was missing among the audit answers for ever."""
    session = settled(quiet(audit=1.0))
    label_all(session, 2, "a")
    question = session.next("a")
    session.unsure(question.id, tab="a")
    session.answer(question.id, truth(question.path), tab="b", why="review")
    label_all(session, 1, "c")
    session.undo("a")
    status = session.status()
    assert status.n_audit == 4
    assert "missing" not in status.stop_hint
    session.undo("b")
    assert session.status().n_audit == 3
    assert session.next("a").id == question.id


def test_no_time_is_named_without_an_audit(quiet):
    quiet(target=0.6).close()
    assert quiet(audit=0).status().seconds_left is None
