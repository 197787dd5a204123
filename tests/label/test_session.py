"""The session: exact after a crash, honest about accuracy, one action an event, and no answer waits for a model."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from skal.label import LabelSession, LogError
from skal.label import log as log_module
from skal.label.audit import wilson_interval
from skal.label.catalogue import Catalogue
from skal.label.fitting import Learner, choose, takes_unlabeled
from tests.label.conftest import CLASSES, draw, label_all, settled, truth


def never(learner, X_pool, n_instances=1):
    """A strategy that takes the first ones."""
    return np.arange(n_instances)


@pytest.fixture
def quiet(opened):
    """Opens sessions that train nothing by themselves."""
    return lambda **options: opened(**{"batch_size": 10_000, "query": never, **options})


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
    assert list(predictions.columns) == ["path", "label", "probability", "p(blue)", "p(green)", "p(red)"]


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


# ------------------------------------------------------------------- as if nothing had happened


def killed(session, tmp_path, number, **options):
    """Another session on a copy of the project as it is on the disk now."""
    copy = tmp_path / f"copy{number}.skal"
    shutil.copytree(session.project.path, copy)
    return LabelSession(tmp_path / "photos", copy, estimator=session._modelling._estimator, **options)


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


# -------------------------------------------------------------------------- repeats


def test_an_answer_that_is_sent_again_counts_once(quiet):
    session = quiet()
    question = session.next()
    for _ in range(3):
        session.answer(question.id, "red", event="e1")
    session.next()
    session.answer(question.id, "red", event="e1")
    assert len(session.labels) == 1
    with pytest.raises(ValueError, match="another event"):
        session.answer(question.id, "green", event="e1")
    assert session.undo(event="u1") == "answer"
    session.undo(event="u1")
    assert len(session.labels) == 0
    session.add_class("owl", event="c1")
    session.add_class("owl", event="c1")
    with pytest.raises(ValueError, match="a class 'owl' already"):
        session.add_class("owl")


# ------------------------------------------------------------------------ undo, classes


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
    session.add_class("red")  # a new class of the old name is another class
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
        lambda: session.import_labels([(question.path, name)], "x") if name != "RED" else session.add_class(name),
    ):
        with pytest.raises(ValueError, match="class name"):
            act()
    assert len(session._log.events) == n_events


def test_unknown_images_and_classes(quiet):
    session = quiet()
    for act in (lambda: session.answer("0" * 32, "red"), lambda: session.unsure("../../etc/passwd")):
        with pytest.raises(ValueError, match="no image"):
            act()
    with pytest.raises(ValueError, match="no class 'owl'"):
        session.rename_class("owl", "hawk")
    with pytest.raises(ValueError, match="seconds=-1"):
        session.answer(session.next().id, "red", seconds=-1)
    with pytest.raises(ValueError, match="why='grid'"):
        session.answer(session.next().id, "red", why="grid")


# ------------------------------------------------------------------------ two tabs


def test_tabs_never_have_the_same_image(quiet):
    session = quiet()
    mine, theirs = session.upcoming(5, "a"), session.upcoming(5, "b")
    assert not {q.id for q in mine} & {q.id for q in theirs}
    assert [q.why for q in mine].count("audit") == 1
    assert "audit" not in [q.why for q in theirs]  # none behind one that is not answered yet
    for tab, q in (("b", theirs[0]), ("a", mine[0])):
        session.answer(q.id, "red", tab=tab)
    label_all(session, 4, "a")
    assert "audit" in [q.why for q in session.upcoming(6, "b")]


def test_a_lease_ends(quiet, monkeypatch):
    session = quiet()
    question = session.next("a")
    clock = time.monotonic()
    monkeypatch.setattr("skal.label.asking.time.monotonic", lambda: clock + 121)
    assert session.next("b").id == question.id


def test_what_a_closed_tab_had_comes_next_in_the_same_order(opened):
    session = settled(opened())
    label_all(session, 12)
    before = session.upcoming(6)
    session.leave("")
    session.fit()
    assert [(q.id, q.why) for q in session.upcoming(6, "other")] == [(q.id, q.why) for q in before]


def test_a_contradiction_trains_nothing_until_it_is_resolved(quiet):
    session = quiet()
    question = session.next("a")
    session.answer(question.id, "red", tab="a")
    session.answer(question.id, "red", tab="b")
    assert session.status().n_conflicts == 0
    session.answer(question.id, "green", tab="b")
    assert session.status().n_conflicts == 1
    assert session.labels.decision.tolist() == ["conflict"]
    assert session._modelling.training() == []
    (doubt,) = session.review()
    assert (doubt.kind, doubt.labels) == ("conflict", ("green", "red"))
    session.answer(question.id, "blue", tab="a", why="review")
    assert session.labels.label.tolist() == ["blue"]
    assert session.review() == []
    session.undo("a")
    assert session.status().n_conflicts == 1


def test_the_same_tab_changes_its_mind(quiet):
    session = quiet()
    question = session.next()
    session.answer(question.id, "red")
    session.answer(question.id, "green")
    assert session.labels.label.tolist() == ["green"]


# ------------------------------------------------------------------------ grid and review


def test_a_grid_is_one_action(opened):
    session = settled(opened())
    label_all(session, 24)
    session.fit()
    grid = max((session.grid(name) for name in CLASSES), key=len)
    label = grid[0].suggestion
    confidences = [q.probability for q in grid]
    assert confidences == sorted(confidences, reverse=True)
    n_events, n_labels = len(session._log.events), len(session.labels)
    wrong, right = [grid[-1].id], [q.id for q in grid[:-1]]
    for _ in range(2):
        session.answer_grid(label, right, wrong, event="g1")
    assert sum(event["kind"] == "grid" for event in session._log.events[n_events:]) == 1
    assert len(session.labels) == n_labels + len(right)
    assert wrong[0] not in [q.id for q in session.grid(label)]
    assert not {q.id for q in session.upcoming(40)} & set(right)
    assert session.undo() == "grid"
    assert len(session.labels) == n_labels
    assert [q.id for q in session.grid(label)] == [q.id for q in grid]


def test_grids_and_reviews_never_take_audit_images(opened):
    session = settled(opened())
    label_all(session, 20)
    session.fit()
    reserved = [item.id for item in session._catalogue.reserved]
    for name in CLASSES:
        assert not {q.id for q in session.grid(name, 100)} & set(reserved)
    with pytest.raises(ValueError, match="does not belong to a grid"):
        session.answer_grid("red", [reserved[0]])
    image = session.grid(max(CLASSES, key=lambda name: len(session.grid(name))))[0].id
    with pytest.raises(ValueError, match="both accepted and rejected"):
        session.answer_grid("red", [image], [image])


def test_wrong_labels_are_in_the_review(opened):
    session = settled(opened(audit=0))
    label_all(session, 30)
    question = session.next()
    wrong = next(name for name in CLASSES if name != truth(question.path))
    session.answer(question.id, wrong)
    unsure = session.next()
    session.unsure(unsure.id)
    session.fit()
    found = session.review()
    assert found[0].kind == "unsure"
    assert (question.id, (wrong,)) in [(d.question.id, d.labels) for d in found]
    session.answer(unsure.id, "red", why="review")
    assert unsure.id not in [d.question.id for d in session.review()]


# ------------------------------------------------------------------------ audit


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
    # A new reserved image before the last answered one: no number until it is answered.
    item = session._catalogue.reserved[-1]
    session._catalogue.reserved.remove(item)
    item.place = 0
    session._catalogue.reserved.insert(0, item)
    status = session.status()
    assert status.accuracy is None
    assert "Audit images are missing" in status.stop_hint
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
    assert "tested at 50 audit answers; there are 30" in session.status().stop_hint
    label_all(session, 38)
    assert session._state.looks == []
    label_all(session, 2)
    (look,) = session._state.looks
    assert (look["n"], look["place"]) == (50, 0)
    label_all(session, 6)
    assert len(session._state.looks) == 1
    if look["reached"]:
        assert session.status().is_reached
        assert "reached" in session.status().stop_hint


def test_the_target_stays_as_it_was(quiet, tmp_path):
    session = quiet(target=0.9)
    label_all(session, 5)
    session.close()
    with pytest.raises(ValueError, match=r"target=0\.8, but 0\.9"):
        quiet(target=0.8)
    again = quiet()
    assert again.settings.target == 0.9


# ---------------------------------------------------------------- what is in the folder


def test_duplicates_and_unreadable_files_are_listed(photos, quiet):
    shutil.copy(photos / "day0" / "blue-00.png", photos / "again.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photograph")
    (photos / "empty.png").write_bytes(b"")
    (photos / "truncated.png").write_bytes((photos / "day0" / "red-02.png").read_bytes()[:200])
    (photos / "drawing.svg").write_text("<svg/>")
    (photos / "phone.heic").write_bytes(b"?")
    (photos / "outside.png").symlink_to("/etc/hostname")
    session = settled(quiet())
    status = session.status()
    assert status.n_images == 60
    assert sorted(path for path, _ in status.unreadable) == [
        "broken.jpg",
        "empty.png",
        "outside.png",
        "phone.heic",
        "truncated.png",
    ]
    assert dict(status.unreadable)["outside.png"] == "a link that leaves the folder"
    ((first, second),) = status.duplicates
    assert {first, second} == {"again.png", "day0/blue-00.png"}


def test_near_duplicates_are_one_group(tmp_path, quiet):
    folder = tmp_path / "near"
    for i in range(12):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
        with Image.open(folder / f"{CLASSES[i % 3]}-{i}.png") as image:
            image.save(folder / f"{CLASSES[i % 3]}-{i}-again.jpg", quality=97)
    session = settled(quiet(folder=folder, project=tmp_path / "p", audit=0))
    questions = label_all(session)
    assert len(questions) == 12
    assert all(len(q.group) == 1 for q in questions)
    assert len(session.labels) == 24
    session.undo()
    assert len(session.labels) == 22
    question = session.next()
    session.answer(question.id, "red", alone=True)
    assert len(session.labels) == 23
    assert session.next().id == question.group[0]


def test_near_duplicates_of_audit_images_are_left_out(tmp_path, quiet):
    folder = tmp_path / "near"
    for i in range(30):
        draw(folder / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
        with Image.open(folder / f"{CLASSES[i % 3]}-{i}.png") as image:
            image.save(folder / f"{CLASSES[i % 3]}-{i}-again.jpg", quality=97)
    session = settled(quiet(folder=folder, project=tmp_path / "p"))
    stem = {item.id: item.path.replace("-again.jpg", "").replace(".png", "") for item in session._catalogue.order}
    held = {stem[item.id] for item in session._catalogue.reserved}
    questions = label_all(session)
    assert not {stem[q.id] for q in questions if q.why != "audit"} & held
    assert not {stem[item.id] for item, _ in session._modelling.training()} & held
    assert session.status().n_training > 0


def test_images_that_come_later_join(photos, quiet):
    session = settled(quiet())
    label_all(session)
    session.close()
    for i in range(60, 75):
        draw(photos / "later" / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    session = settled(quiet())
    assert session.status().n_images == 75
    assert len(label_all(session)) == 15


def test_a_file_that_is_replaced_is_not_trained_on_under_its_old_label(photos, opened):
    session = settled(opened(audit=0, batch_size=10_000))
    questions = label_all(session, 20)
    draw(photos / session._catalogue.items[questions[0].id].path, "green", 999)
    session.fit()
    settled(session)
    assert session.status().n_training == 19
    assert session.status().n_images == 60  # with the new content
    assert "changed" in str(session.status().unreadable)


# ------------------------------------------------------------------------ trouble


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
        ({"folder": "/does/not/exist"}, "is no folder"),
        ({"folder": ["/does/not/exist.png"]}, "name no file"),
    ],
)
def test_bad_arguments_before_any_work(opened, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        opened(**options)
    assert not (tmp_path / "photos.skal").exists()


def test_the_project_is_beside_the_photos(opened, photos, tmp_path):
    with pytest.raises(ValueError, match="inside the images' folder"):
        opened(project=photos / "project")
    opened().close()
    (tmp_path / "others").mkdir()
    with pytest.raises(ValueError, match="belongs to"):
        opened(folder=tmp_path / "others")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(ValueError, match="no labelling project"):
        opened(project=tmp_path / "mine")


# ------------------------------------------------------------------------ models


def test_models_come_by_themselves_and_choose(opened):
    session = settled(opened(audit=0))
    label_all(session, 15)
    settled(session)
    assert session.status().model >= 1
    assert session.next().why == "strategy"
    assert session._state.models[-1]["n_labels"] >= 10


def test_every_image_is_embedded_however_slowly_it_is_read(opened, monkeypatch):
    read = Catalogue.read

    def slow(self, path):
        time.sleep(0.02)
        return read(self, path)

    monkeypatch.setattr(Catalogue, "read", slow)
    session = settled(opened())
    assert session._modelling._embedded == set(session._catalogue.items)
    assert session.status().progress == 1


def test_the_strategy_chooses_before_there_is_any_label(opened):
    session = settled(opened(audit=0))
    assert {q.why for q in session.upcoming(20)} == {"strategy"}


def test_what_is_out_stays_out_when_a_queue_is_swapped(opened):
    session = settled(opened())
    label_all(session, 12)
    before = session.upcoming(4)
    session.fit()
    assert session.upcoming(4) == before


def test_successive_models_are_compared(opened):
    session = settled(opened(audit=0, batch_size=10_000))
    for _ in range(4):
        label_all(session, 11)
        session.fit()
    kappas = [event.get("kappa") for event in session._state.models]
    assert kappas[0] is None
    assert all(value is not None for value in kappas[1:])
    assert [point["n_labels"] for point in session.status().curve] == [11, 22, 33, 44]


class Recipe:
    def train(self, problem, *, X_unlabeled=None):
        """As a recipe that learns from the pool."""


class RecipeWithSource:
    def train(self, problem, *, X_source=None, y_source=None, X_unlabeled=None):
        """As one that adapts."""


class Estimator(LogisticRegression):
    recipe = None

    def fit(self, X, y, *, X_unlabeled=None):
        return self


@pytest.mark.parametrize(("recipe", "takes"), [(None, False), (Recipe(), True), (RecipeWithSource(), False)])
def test_the_pool_goes_to_those_who_learn_from_it(recipe, takes):
    estimator = Estimator()
    estimator.recipe = recipe
    assert takes_unlabeled(estimator) == takes
    assert not takes_unlabeled(LogisticRegression())


def test_strategies_are_called_as_modal_calls_them():
    def pairs(learner, X_pool, n_instances=1, *, random_state=None):
        return np.array([random_state, 1]), np.zeros(2)

    assert choose(pairs, Learner(None), ["a", "b", "c"], 2, seed=2) == [2, 1]
    assert choose(never, Learner(None), ["a", "b"], 5, seed=0) == [0, 1]
    assert choose(never, Learner(None), [], 5, seed=0) == []


# ------------------------------------------------------------------------ import and ask


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
