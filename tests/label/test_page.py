"""The page in a real browser: the keyboard alone does everything, and what goes wrong is said."""

import errno
import os

from skal.label import log as log_module
from tests.label.browser import BROWSER_TEST, key_of, label, press, saved, shows
from tests.label.conftest import CLASSES, settled

pytestmark = BROWSER_TEST


# ------------------------------------------------------------------------ the keys


def test_keys_answer_undo_and_pass(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    first = page.get_attribute("#stage img", "data-id")
    press(page, "1")
    press(page, "Numpad2")
    press(page, " ")
    saved(page)
    assert session.labels.label.tolist() == ["blue", "green", ""]
    assert session.labels.seconds.notna().all()
    for _ in range(3):
        page.keyboard.press("Backspace")
    shows(page, first)
    saved(page)
    assert len(session.labels) == 0


def test_a_key_that_is_held_answers_once(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    page.keyboard.down("1")
    for _ in range(5):
        page.keyboard.down("1")  # repeats, as long as it is not up
    page.keyboard.up("1")
    saved(page)
    assert len(session.labels) == 1


def test_enter_accepts_the_suggestion_but_there_is_none_for_the_audit(serve, opened, visit):
    session = opened(batch_size=10_000)
    client = serve(session)
    page = visit(client)
    label(page, 24)
    session.fit()
    page.reload()
    page.wait_for_selector("#stage img")
    page.wait_for_selector("#classes button")
    for _ in range(5):
        path = page.inner_text("#path")
        item = next(item for item in session._catalogue.order if item.path == path)
        if item.is_reserved:
            assert "without a suggestion" in page.inner_text("#suggestion")
            assert page.locator(".suggested").count() == 0
            page.keyboard.press("Enter")
            assert page.inner_text("#path") == path
            press(page, key_of(path))
        else:
            suggested = page.get_attribute(".suggested", "data-label")
            press(page, "Enter")
            saved(page)
            assert session.labels.set_index("path").label[path] == suggested


def test_classes_are_added_renamed_merged_and_bound(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    page.keyboard.press("/")
    page.keyboard.type("owl")
    page.keyboard.press("Enter")
    page.wait_for_selector("input[aria-label='Name of owl']")
    page.keyboard.type("../x")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('class-problem').textContent.includes('not allowed')")
    page.fill("input[aria-label='Name of owl']", "hawk")
    page.keyboard.press("Enter")
    page.wait_for_selector("input[aria-label='Name of hawk']")
    page.fill("input[aria-label='Key of hawk']", "z")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    press(page, "z")
    saved(page)
    assert session.labels.label.tolist() == ["hawk"]
    page.keyboard.press("/")
    page.fill("input[aria-label='Name of hawk']", "red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector(\"input[aria-label='Name of hawk']\")")
    assert session.classes == list(CLASSES)
    assert session.labels.label.tolist() == ["red"]


# ------------------------------------------------------------------------ trouble


def test_a_full_disk_is_said_and_the_image_comes_back(serve, opened, visit, monkeypatch):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    label(page, 2)
    image = page.get_attribute("#stage img", "data-id")

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "_write", full)
        page.keyboard.press("1")
        page.wait_for_selector("#banner:not([hidden])")
    assert "No space left" in page.inner_text("#banner")
    shows(page, image)
    assert len(session.labels) == 2
    page.click("#banner button")
    page.wait_for_selector("#banner", state="hidden")
    shows(page, image)
    label(page, 1)
    assert len(session.labels) == 3


def test_a_file_that_is_gone_is_passed_over(serve, opened, visit):
    session = settled(opened(batch_size=10_000))
    client = serve(session)
    first, second, third = session.upcoming(3, "somebody")
    session.leave("somebody")
    os.unlink(second.path)
    page = visit(client, tolerated=("410", "404"))
    label(page, 1)
    shows(page, third.id)
    assert second.id not in session.labels.image.tolist()
    assert len(session.status().unreadable) == 1
    assert first.id in session.labels.image.tolist()
