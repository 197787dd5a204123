"""Two tabs, grids and reviews."""

import time

import pytest

from tests.label.conftest import CLASSES, label_all, settled, truth

# ------------------------------------------------------------------------ two tabs


def test_tabs_never_have_the_same_image(quiet):
    session = quiet()
    mine, theirs = session.upcoming(5, "a"), session.upcoming(5, "b")
    assert not {q.id for q in mine} & {q.id for q in theirs}
    assert [q.why for q in mine].count("audit") == 1
    assert "audit" not in [q.why for q in theirs]  # none after one that is not answered yet
    for tab, q in (("b", theirs[0]), ("a", mine[0])):
        session.answer(q.id, "red", tab=tab)
    label_all(session, 4, "a")
    assert "audit" in [q.why for q in session.upcoming(6, "b")]


def test_a_lease_ends(quiet, monkeypatch):
    session = quiet()
    question = session.next("a")
    clock = time.monotonic()
    monkeypatch.setattr("skal.label.asking.monotonic", lambda: clock + 121)
    assert session.next("b").id == question.id


def test_what_a_tab_had_that_is_gone_does_not_hold_up_the_audit(quiet, monkeypatch):
    """A tab that goes silent returns its reserved image, and no audit image is skipped."""
    session = quiet()
    first, second = [item.id for item in session._catalogue.reserved[:2]]
    session.stay("a")
    assert first in [q.id for q in session.upcoming(5, "a")]
    label_all(session, 4, "b")
    assert "audit" not in [q.why for q in session.upcoming(6, "b")]
    clock = time.monotonic()
    monkeypatch.setattr("skal.label.asking.monotonic", lambda: clock + 19)
    assert "audit" not in [q.why for q in session.upcoming(6, "b")]
    session.stay("b")
    monkeypatch.setattr("skal.label.asking.monotonic", lambda: clock + 30)
    reserved = [q.id for q in session.upcoming(20, "b") if q.why == "audit"]
    assert reserved[:2] == [first, second]


def test_a_tab_that_thinks_keeps_its_image(quiet, monkeypatch):
    """Whether it reports that it is open, like the page, or never did, like a program."""
    session = quiet()
    questions = {tab: session.next(tab) for tab in ("page", "program")}
    clock = time.monotonic()
    session.stay("page")
    for seconds in range(2, 60, 2):
        monkeypatch.setattr("skal.label.asking.monotonic", lambda now=clock + seconds: now)
        session.stay("page")
        assert session.next("other").id not in [q.id for q in questions.values()]
        assert {tab: session._desk.given(q.id) for tab, q in questions.items()} == questions


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
    session.rename_class(label, "renamed")
    assert wrong[0] not in [q.id for q in session.grid("renamed")]
    session.undo()
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
    with pytest.raises(ValueError, match="cannot be in a grid"):
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
