"""What a session finds in its folder: duplicates, damage, and changes while it is open."""

import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from skal import cli
from skal.label import reading
from tests.label.conftest import CLASSES, draw, draw_twice, label_all, settled
from tests.label.test_kill import Colours


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
    assert dict(status.unreadable)["broken.jpg"] == "it is not an image in a format that Pillow can read"
    assert sorted(path for path, _ in status.unreadable) == [
        "broken.jpg",
        "empty.png",
        "phone.heic",
        "truncated.png",
    ]
    assert status.links == ["outside.png"]
    ((first, second),) = status.duplicates
    assert {first, second} == {"again.png", "day0/blue-00.png"}


def test_links_are_followed_if_they_may_be_also_when_the_session_is_resumed(photos, tmp_path, quiet, capsys):
    for i in range(6):
        draw(tmp_path / "archive" / f"{CLASSES[i % 3]}-a{i}.png", CLASSES[i % 3], 100 + i)
    (photos / "archive").symlink_to(tmp_path / "archive")
    session = settled(quiet())
    assert (session.status().n_images, session.status().links) == (60, ["archive"])
    session.close()
    assert cli.main(["status", str(session.project.path)]) == 0
    assert "links that leave the folder, left out: 1; skal label --follow-links" in capsys.readouterr().out
    quiet(follow_links=True).close()
    session = settled(quiet())
    assert (session.status().n_images, session.status().links) == (66, [])
    counts = session.import_labels([(photos / "archive" / "red-a2.png", "red"), ("archive/red-a5.png", "red")], "x")
    assert counts["imported"] + counts["reserved"] == 2
    before = list(session._catalogue.order)
    session.ask([tmp_path / "photos" / "archive" / "blue-a0.png"], timeout=0.1)
    assert session._catalogue.order == before
    session.close()
    assert cli.main(["status", str(session.project.path)]) == 0
    assert "links" not in capsys.readouterr().out
    session = quiet(follow_links=False)
    assert session.status().links == ["archive"]
    assert not any(path.startswith("archive") for path in session._reading.known)


def test_a_link_that_comes_while_the_session_is_open_is_counted(photos, quiet, monkeypatch):
    monkeypatch.setattr("skal.label.reading.RESCAN_SECONDS", 0.05)
    session = settled(quiet())
    (photos / "late.png").symlink_to("/etc/hostname")
    end = time.monotonic() + 30
    while session.status().links != ["late.png"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_file_that_becomes_a_link_out_of_the_folder_is_not_read(photos, tmp_path, quiet):
    draw(tmp_path / "secret.png", "red", 4321)
    session = settled(quiet())
    question = session.next()
    path = Path(question.path)
    path.unlink()
    path.symlink_to(tmp_path / "secret.png")
    session.set_aside(question.id, "changed")  # as when its picture is requested
    settled(session)
    assert session.status().n_images == 59
    assert dict(session.status().unreadable)[str(path.relative_to(photos))] == "a link that leaves the folder"


def test_near_duplicates_are_one_group(tmp_path, quiet):
    folder = draw_twice(tmp_path / "near", 12)
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


def test_another_answer_also_decides_what_the_first_one_did(tmp_path, quiet):
    """In the review or not, but not what has been decided by itself. An answer about a near-duplicate is its own."""
    folder = draw_twice(tmp_path / "near", 4)
    session = settled(quiet(folder=folder, project=tmp_path / "p", audit=0))
    first, second, third = label_all(session, 3)
    labels = session._state.labels

    session.answer(first.id, "violet", why="review")
    assert labels()[first.group[0]] == "violet"
    session.undo()
    assert labels()[first.group[0]] == labels()[first.id] != "violet"
    session.answer(first.id, "violet")
    session.unsure(first.id, why="review")
    assert {first.id, first.group[0]}.isdisjoint(labels())
    assert [(d.question.id, d.question.group) for d in session.review()] == [(first.group[0], ())]

    session.answer(second.group[0], "violet", why="review")
    session.answer(second.id, "grey", why="review")
    assert (labels()[second.id], labels()[second.group[0]]) == ("grey", "violet")

    session.answer(third.id, "grey", tab="b")
    assert session.review()[0].question.group == third.group
    session.answer(third.id, "grey", tab="b", why="review")
    assert labels()[third.group[0]] == "grey"


def test_near_duplicates_of_audit_images_are_left_out(tmp_path, quiet):
    folder = draw_twice(tmp_path / "near", 30)
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


def test_images_join_while_the_session_is_open(photos, quiet, monkeypatch):
    """Including one that is found while it is still being copied."""
    monkeypatch.setattr(reading, "RESCAN_SECONDS", 0.02)
    session = settled(quiet())
    draw(photos / "copied.png", "red", 99)
    content = (photos / "copied.png").read_bytes()
    (photos / "half.png").write_bytes(content[:200])
    os.unlink(photos / "copied.png")
    for i in range(60, 65):
        draw(photos / "later" / f"{CLASSES[i % 3]}-{i}.png", CLASSES[i % 3], i)
    with session._changed:
        assert session._changed.wait_for(
            lambda: len(session._catalogue.items) == 65 and "half.png" in session._catalogue.unreadable, 30
        )
    (photos / "half.png").write_bytes(content)
    with session._changed:
        assert session._changed.wait_for(lambda: len(session._catalogue.items) == 66, 30)
    assert session.status().unreadable == []
    assert len(label_all(session)) >= 60


def test_a_file_that_is_replaced_is_not_trained_on_under_its_old_label(photos, opened):
    session = settled(opened(audit=0, batch_size=10_000))
    questions = label_all(session, 20)
    draw(photos / session._catalogue.items[questions[0].id].path, "green", 999)
    session.fit()
    settled(session)
    assert session.status().n_training == 19
    assert session.status().n_images == 60  # with the new content
    assert session.status().unreadable == []


def test_a_near_duplicate_that_comes_after_the_answer_is_asked(photos, quiet):
    """It was in no group, and would never have been labelled."""
    session = settled(quiet(audit=0))
    label_all(session)
    session.close()
    with Image.open(photos / "day0" / "red-02.png") as image:
        image.save(photos / "again.jpg", quality=97)
        image.save(photos / "again.webp", quality=97)
    session = settled(quiet(audit=0))
    (question,) = label_all(session)
    assert len(question.group) == 1
    assert len(session.labels) == 62


def test_the_second_copy_joins_when_the_first_is_deleted(photos, quiet):
    session = settled(quiet(audit=0))
    item = session._catalogue.items[session.next().id]
    shutil.copy(photos / item.path, photos / "copy.png")
    session.close()
    session = settled(quiet(audit=0))
    first = session._catalogue.file(session._catalogue.items[item.id].path)
    os.unlink(first)
    asked = {question.id: question.path for question in label_all(settled(session))}
    settled(session)
    asked |= {question.id: question.path for question in label_all(session)}
    assert len(asked) == 60
    assert asked[item.id] != first


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_models_go_on_when_an_unlabelled_file_is_deleted(photos, opened, monkeypatch, when):
    """Every later fit used to fail, since a fit predicts the pool."""
    session = settled(opened(audit=0, batch_size=10_000, estimator=Colours()))
    label_all(session, 20)
    left = [item.path for item in session._catalogue.order if item.id not in session._state]
    fit = Colours.fit

    def deleting(self, X, y):
        (photos / left[1]).unlink(missing_ok=True)
        return fit(self, X, y)

    if when == "meanwhile":
        monkeypatch.setattr(Colours, "fit", deleting)
    (photos / left[0]).unlink()
    session.fit()
    settled(session)
    assert session.status().failure is None
    assert session.status().n_images == (59 if when == "before" else 58)


def test_no_question_about_a_file_that_is_gone(photos, quiet):
    session = settled(quiet(audit=0))
    session.next()
    for path in sorted(photos.rglob("*.png"))[:30]:
        path.unlink()
    session.close()
    session = quiet(audit=0)
    for question in label_all(session):
        assert os.path.exists(question.path)


def nothing(learner, X_pool, n_instances=1):
    return []


def test_a_file_that_is_moved_while_the_session_is_open_is_asked_at_its_new_path(photos, quiet, monkeypatch):
    """The search for the next random image never ended: it returned to the item of the old path."""
    monkeypatch.setattr(reading, "RESCAN_SECONDS", 0.02)
    session = settled(quiet(audit=0, query=nothing))
    question = session.next()
    session.leave("")
    moved = photos / "moved.png"
    shutil.move(question.path, moved)
    assert session.next().id != question.id
    session.leave("")
    with session._changed:
        assert session._changed.wait_for(
            lambda: question.id in session._catalogue.items and session.file(question.id) == str(moved), 30
        )
    questions = label_all(session)
    assert len({q.id for q in questions}) == 60
    assert next(q.path for q in questions if q.id == question.id) == str(moved)


def test_a_file_that_is_only_touched_is_not_listed_as_unreadable(quiet):
    session = settled(quiet(audit=0))
    question = session.next()
    session.leave("")
    os.utime(question.path, (1, 1))
    session.next()
    settled(session)
    assert session.status().unreadable == []
    assert session.status().n_images == 60


def test_a_name_that_is_not_text_is_left_out_and_listed(photos, quiet, tmp_path, capsys):
    """It can be written neither to the log nor to a CSV file."""
    odd = os.fsdecode(b"\xe9.png")
    shutil.copy(photos / "day0" / "red-02.png", photos / odd)
    (photos / os.fsdecode(b"\xe9t\xe9")).mkdir()
    session = settled(quiet())
    reason = "its name is not valid UTF-8; rename it"
    assert sorted(session.status().unreadable) == [("\ufffd.png", reason), ("\ufffdt\ufffd", reason)]
    assert len(label_all(session)) == 60
    with pytest.raises(ValueError, match="1 of 1 paths are not valid UTF-8"):
        quiet(folder=[photos / odd], project=tmp_path / "other.skal")
    session.close()
    assert cli.main(["status", str(session.project.path)]) == 0
    assert reason in capsys.readouterr().out


def test_near_duplicates_of_images_accepted_in_a_grid_are_asked(tmp_path, opened):
    """A grid and an import label only the images themselves. Their near-duplicates were never asked."""
    folder = draw_twice(tmp_path / "near", 24)
    session = settled(opened(folder=folder, project=tmp_path / "p", audit=0, estimator=Colours(), batch_size=10_000))
    label_all(session, 9)
    session.fit()
    for name in CLASSES:
        session.answer_grid(name, [question.id for question in session.grid(name)])
    assert len(session.labels) == 33
    assert len(label_all(session)) == 15


class Unable(Colours):
    """It cannot decode some of the files."""

    bad = ("red-02.png",)

    def activations(self, X, layers, pooled, pretrained):
        self._features(X)

    def _features(self, X):
        for path in X:
            if path.endswith(self.bad):
                raise ValueError(f"cannot decode {str(path)!r}")
        return super()._features(X)


def test_a_labelled_file_that_only_the_estimator_cannot_read_is_set_aside(quiet, photos, monkeypatch):
    """Every fit used to fail, since only images that may still be asked were checked."""
    monkeypatch.setattr(reading, "RESCAN_SECONDS", 0.02)
    session = settled(quiet(audit=0, estimator=Colours()))
    label_all(session)
    session.close()
    session = settled(quiet(audit=0, estimator=Unable()))
    session.fit()
    assert session.status().n_training == 59
    assert [path for path, _ in session.status().unreadable] == ["day0/red-02.png"]
    monkeypatch.setattr(Unable, "bad", ())
    os.utime(photos / "day0" / "red-02.png", (1, 1))
    with session._changed:
        assert session._changed.wait_for(lambda: len(session._catalogue.items) == 60, 30)
    assert session.status().unreadable == []
    assert session.status().n_training == 60
