"""Hours of use in seconds: acknowledged answers persist whatever happens, and a crash changes nothing."""

import errno
import random

import pytest

from skal.label import LogError
from skal.label import log as log_module
from skal.label.stored import StoredProject
from tests.label.conftest import CLASSES, draw, never, settled
from tests.label.test_kill import Colours

NAMES = ["red", "green", "blue", "Käfer", "日本語", "שלום", "x" * 100, "=1+1", "a b", "🦊"]


def refused(file, content):
    log_module.os.write(file, bytes(content)[:9])
    raise OSError(errno.ENOSPC, "No space left on device")


def act(session, rng, folder, number, monkeypatch):
    """One random action of a person, or of another program that uses the folder."""
    what = rng.choices(
        [
            "answer",
            "unsure",
            "undo",
            "class",
            "rename",
            "grid",
            "review",
            "draw",
            "delete",
            "replace",
            "full",
            "import",
        ],
        [30, 3, 8, 1, 2, 3, 3, 2, 1, 1, 1, 1],
    )[0]
    tab = rng.choice("ab")
    question = session.next(tab, timeout=2)
    if what in ("answer", "unsure") and question is not None:
        event = f"event {number}"
        try:
            if what == "unsure":
                session.unsure(question.id, tab=tab, event=event)
            else:
                session.answer(question.id, rng.choice(session.classes or NAMES), tab=tab, event=event)
        except ValueError:  # the file was just found to have changed
            assert session.file(question.id) is None
            assert event not in session._log
        else:
            assert event in session._log
    elif what == "undo":
        session.undo(tab)
    elif what == "class":
        name = rng.choice(NAMES)
        if name not in session.classes:
            session.add_class(name, tab=tab)
    elif what == "rename" and session.classes:
        session.rename_class(rng.choice(session.classes), rng.choice(NAMES), tab=tab)
    elif what == "grid" and session.classes:
        images = [one.id for one in session.grid(rng.choice(session.classes), 6)]
        session.answer_grid(rng.choice(session.classes), images[1:], images[:1], tab=tab)
    elif what == "review":
        for doubt in session.review(2):
            session.answer(doubt.question.id, rng.choice(session.classes or NAMES), tab=tab, why="review")
    elif what == "full" and question is not None:
        n = len(session.labels)
        with monkeypatch.context() as patch:
            patch.setattr(log_module, "_write", refused)
            with pytest.raises((LogError, ValueError)):
                session.answer(question.id, "red", tab=tab)
            with pytest.raises(LogError):
                session.reopen_log()
        assert len(session.labels) == n
        session.reopen_log()
    else:
        files = sorted(folder.rglob("*.png"))
        path = rng.choice(files)
        if what == "draw":
            label = rng.choice(CLASSES)
            draw(folder / "später" / f"{label}-{number}-{'ü' * 40}.png", label, number)
            session._reading._rescan()
        elif what == "delete":
            path.unlink()
        elif what == "replace":
            draw(path, rng.choice(CLASSES), 10_000 + number)
        elif what == "import":
            pairs = [(str(one), rng.choice(session.classes or NAMES)) for one in rng.sample(files, 3)]
            session.import_labels(pairs, "somewhere")


def seen(session):
    labels = session.labels[["image", "label", "decision", "why", "tab"]]
    return sorted(map(tuple, labels.fillna("").values.tolist())), session.classes


def use(opened, tmp_path, photos, seed, n, monkeypatch):
    rng = random.Random(seed)
    project = tmp_path / "photos.skal"
    options = {"estimator": Colours(), "query": never, "batch_size": 7, "classes": (), "target": 0.9}
    session = opened(project=project, **options)
    for number in range(n):
        act(session, rng, photos, number, monkeypatch)
        if number % 40 == 39:
            settled(session)
            assert session.status().failure is None
            before = seen(session)
            stored = StoredProject(project)
            assert sorted(row[0] for row in stored.rows()) == sorted(row[0] for row in before[0] if row[2] == "label")
            session.close()
            session = opened(project=project, **options)
            assert seen(session) == before
            assert session._log.set_aside == []
    return settled(session)


@pytest.mark.parametrize("seed", range(2))
def test_use(opened, tmp_path, photos, seed, monkeypatch):
    use(opened, tmp_path, photos, seed, 120, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_hours_of_use(opened, tmp_path, photos, seed, monkeypatch):
    use(opened, tmp_path, photos, seed, 1500, monkeypatch)
