"""The page in a real browser: everything works by keyboard, and errors are shown."""

import errno
import os
import shutil
from itertools import pairwise

import pytest

from skal.label import log as log_module
from tests.label.browser import BROWSER_TEST, key_of, label, press, rename, saved, shows
from tests.label.conftest import CLASSES, label_all, settled

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
        page.keyboard.down("1")  # repeats while it is down
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
            assert page.inner_text("#suggestion") == "No suggestion for this image: press a class's key"
            press(page, key_of(path))
        else:
            suggested = page.get_attribute(".suggested", "data-label")
            press(page, "Enter")
            saved(page)
            assert session.labels.set_index("path").label[path] == suggested


def test_a_key_that_no_class_has_is_said_and_the_suggestion_stays(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    path = page.inner_text("#path")
    page.keyboard.press("x")
    assert page.inner_text("#suggestion") == "No class has the key x"
    assert page.inner_text("#spoken") == "No class has the key x"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#path") == path
    label(page, 24)
    assert "No class has" not in page.inner_text("#suggestion")
    session.fit()
    page.reload()
    page.wait_for_selector("#classes button")
    while page.locator(".suggested").count() == 0:
        press(page, key_of(page.inner_text("#path")))
    suggested = page.inner_text("#suggestion")
    page.keyboard.press("x")
    assert page.inner_text("#suggestion") == f"No class has the key x. {suggested}"
    press(page, "Enter")


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
    rename(page, "owl", "hawk")
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


@pytest.mark.parametrize("key", ["1", "Backspace"])
def test_what_is_not_saved_is_said_until_a_server_that_was_started_again_has_it(serve, opened, visit, key):
    session = opened(batch_size=10_000)
    client = serve(session)
    page = visit(client, tolerated=("ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "403"))
    label(page, 2)
    client.server.stop()
    page.keyboard.press(key)
    banner_says(page, "skal label has stopped or does not respond. Saved answers are on disk. To continue, start")
    assert page.inner_text("#saved") == "1 not saved yet"
    again = serve(session, port=client.server.port)
    banner_says(page, f"skal label was restarted. To continue here, open {again.server.link}")
    page.wait_for_timeout(3500)  # retried and refused meanwhile
    assert page.inner_text("#saved") == "1 not saved yet"
    assert len(session.labels) == 2
    other = page.context.new_page()
    other.goto(again.server.link.as_uri())
    other.wait_for_selector("#stage img")
    page.wait_for_function("() => document.getElementById('saved').textContent === 'All saved'")
    page.wait_for_selector("#banner", state="hidden")
    assert len(session.labels) == (3 if key == "1" else 1)
    label(page, 1)


def banner_says(page, words):
    page.wait_for_function("words => document.getElementById('banner').textContent.includes(words)", arg=words)


# ------------------------------------------------------------------------ messages


def test_at_the_end_the_page_says_what_comes_next(serve, opened, visit):
    session = settled(opened(batch_size=10_000))
    label_all(session, 59, tab="before")
    session.leave("before")
    page = visit(serve(session))
    page.keyboard.press(key_of(page.inner_text("#path")))
    page.wait_for_selector("#stage code")
    command = f"skal predict {session.project.path} NEW/ --output predictions.csv"
    assert page.inner_text("#stage code") == command
    assert "Done: nothing is left to label" in page.inner_text("#stage")


def test_the_first_accuracy_is_announced(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    page.wait_for_selector("#status h2")
    assert "of at least 30 audit answers" in page.inner_text("#status")


_SHOWN = """status => import('/page/status.js').then(({showStatus}) => {
  showStatus({
    accuracy: 0.9, interval: [0.8, 0.95], bounds: [0.9, 0.9], acceptance: null, target: 0.9, stop_hint: '',
    seconds_left: null, classes: [], per_class: {}, recalls: [], n_labels: 0, n_images: 0, n_audit: 30, n_unsure: 0,
    n_conflicts: 0, not_used: {}, background: '', model: 3, n_newer: 0, progress: 1, failure: null, curve: [],
    unreadable: [], links: [], duplicates: [], set_aside: [], ...status});
  return document.getElementById('status').innerText; })"""


def test_the_curve_starts_with_two_points_and_counts_all_labels(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))

    def shows_curve(*models):
        curve = [{"n_labels": n, "audit": audit} for n, audit in models]
        page.evaluate(_SHOWN, {"curve": curve})
        return page.locator("svg.curve").get_attribute("aria-label") if page.locator("svg.curve").count() else None

    assert shows_curve((20, [10, 5, 0]), (30, [24, 6, 1])) is None
    assert shows_curve((30, [24, 6, 1]), (30, [25, 5, 1])) is None  # two models with the same number of labels
    assert shows_curve((30, [24, 6, 1]), (30, [26, 4, 1]), (40, [30, 2, 0])) == (
        "Accuracy from 86.7 % at 60 labels to 93.8 % at 72"
    )


def test_the_labels_of_the_curve_stand_beside_it(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    curve = [{"n_labels": n, "audit": [25 + n, 5, 0]} for n in (30, 60)]
    page.evaluate(_SHOWN, {"curve": curve})
    ends = page.evaluate(
        "() => [...document.querySelectorAll('svg.curve text')].filter((text) => text.textContent.includes('%'))"
        ".map((text) => text.getBBox().x + text.getBBox().width)"
    )
    assert len(ends) == 2
    assert max(ends) < page.evaluate("() => document.querySelector('svg.curve .band').getBBox().x")


def test_the_dashed_line_of_the_curve_is_named_if_there_is_a_target(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    curve = [{"n_labels": n, "audit": [25 + n, 5, 0]} for n in (1030, 1060)]
    for target, named in [(0.9, True), (None, False)]:
        page.evaluate(_SHOWN, {"curve": curve, "target": target})
        texts = page.locator("svg.curve text").all_text_contents()
        assert ("target" in texts) == named
        assert page.locator("svg.curve .target").count() == (2 if named else 0)
    page.evaluate(_SHOWN, {"curve": curve})
    boxes = page.evaluate(
        "() => [...document.querySelectorAll('svg.curve text, svg.curve .target')].map((part) => part.getBBox())"
        ".filter((box) => box.y > 110).map((box) => [box.x, box.x + box.width]).sort((one, other) => one[0] - other[0])"
    )
    assert len(boxes) == 4  # labels at both ends, and the line with its name between them
    assert all(one[1] < other[0] for one, other in pairwise(boxes))


def test_percentages_that_were_chosen_are_not_written_as_measured(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    text = page.evaluate(_SHOWN, {"acceptance": {"confidence": 0.95, "share": 0.5}, "target": 0.975})
    assert "Of the predictions with a confidence above 95 %, at least 97.5 % are right, as the audit shows." in text


@pytest.mark.parametrize("name", ["photos", "photographs-of-many-birds-in-the-winter-of-2025"])
def test_a_narrow_header_is_one_line(serve, opened, visit, photos, tmp_path, name):
    shutil.copytree(photos, tmp_path / "given" / name)
    session = opened(folder=tmp_path / "given" / name, project=tmp_path / f"{name}-.skal", batch_size=10_000)
    page = visit(serve(session), 360, 740)
    label(page, 1)
    page.wait_for_function("() => document.getElementById('saved').textContent === 'All saved'")
    parts = page.locator("header > *")
    middles = [box["y"] + box["height"] / 2 for box in (part.bounding_box() for part in parts.all())]
    assert max(middles) - min(middles) < 3
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_a_recall_is_counted_and_newer_answers_are_said(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    recall = {"label": "owl", "n": 1, "n_right": 1, "recall": 1.0, "interval": [0.207, 1.0], "is_known": True}
    text = page.evaluate(_SHOWN, {"classes": ["owl"], "per_class": {"owl": 4}, "recalls": [recall], "n_newer": 7})
    assert "Right in the audit" in text
    assert "1 of 1" in text
    assert "100.0 % of 1" not in text
    assert "Model 3; 7 newer answers will be in the next one." in text
    assert "up to date" in page.evaluate(_SHOWN, {})


@pytest.mark.parametrize("width", [360, 1280])
def test_a_new_class_is_named_and_added_in_one_line(serve, opened, visit, width):
    page = visit(serve(opened(batch_size=10_000)), width)
    page.keyboard.press("/")
    page.wait_for_selector("#class-dialog[open]")
    field, button = (page.locator(one).bounding_box() for one in ("#new-class", "#add-class"))
    label_box = page.locator("label[for=new-class]").bounding_box()
    assert abs(field["y"] + field["height"] / 2 - button["y"] - button["height"] / 2) < 3
    assert field["x"] - label_box["x"] - label_box["width"] >= 8
