"""The page with slow answers of the server, double clicks, and classes that change while it is open."""

import pytest

from tests.label.browser import BROWSER_TEST, image_of, press, rename, saved, shows
from tests.label.conftest import label_all, never, settled, truth
from tests.label.test_kill import Colours

pytestmark = BROWSER_TEST


@pytest.fixture
def fitted(opened):
    """A session whose model predicts the images that are left, without audit."""
    session = settled(opened(audit=0, batch_size=10_000, estimator=Colours(), query=never))
    label_all(session, 12)
    return session.fit()


def held(page, pattern, when=lambda request: True):
    """Hold the requests of a page back. Returns how to let them go."""
    routes, is_held = [], [True]

    def take(route):
        if is_held and when(route.request):
            routes.append(route)
        else:
            route.continue_()

    def let_go():
        is_held.clear()
        while routes:
            routes.pop(0).continue_()

    page.route(pattern, take)
    return let_go


def banner_is_hidden(page):
    return page.locator("#banner").is_hidden()


# ------------------------------------------------------------------------ clicks


def test_a_double_click_is_about_one_image(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    page.dblclick("#classes button[data-label=red]")
    saved(page)
    assert session.labels.label.tolist() == ["red"]
    page.dblclick("#unsure")
    saved(page)
    assert session.labels.label.tolist() == ["red", ""]
    page.click("#classes button[data-label=blue]")
    page.click("#classes button[data-label=blue]")
    saved(page)
    assert len(session.labels) == 4


# ------------------------------------------------------------------------ the grid


def test_a_grid_is_accepted_once_and_as_the_class_it_shows(serve, fitted, visit):
    page = visit(serve(fitted))
    page.keyboard.press(".")
    page.wait_for_selector("#cells button:focus")
    before = len(fitted.labels)
    let_go = held(page, "**/api/grid*", lambda request: "label=green" in request.url)
    page.select_option("#grid-class", "green")
    assert page.is_disabled("#accept")  # the cells still show the first class
    page.select_option("#grid-class", "red")
    page.wait_for_function("() => document.getElementById('grid-hint').textContent.includes('as red')")
    let_go()  # the grid that was asked first arrives last
    page.wait_for_load_state("networkidle")
    names = page.eval_on_selector_all("#cells button", "all => all.map((one) => one.getAttribute('aria-label'))")
    assert {truth(name) for name in names} == {"red"}
    let_go = held(page, "**/api/grid")
    page.focus("#cells button")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    let_go()
    saved(page)
    assert sum(event["kind"] == "grid" for event in fitted._log.events) == 1
    assert len(fitted.labels) == before + len(names)


def test_a_grid_follows_the_rename_of_its_class(serve, fitted, visit):
    page = visit(serve(fitted))
    page.keyboard.press(".")
    page.wait_for_selector("#cells button:focus")
    page.select_option("#grid-class", "green")
    page.wait_for_function("() => document.getElementById('grid-hint').textContent.includes('as green')")
    fitted.rename_class("green", "lime", tab="other")
    page.wait_for_function("() => document.getElementById('grid-hint').textContent.includes('as lime')")


# ------------------------------------------------------------------------ classes


def test_the_review_says_why_a_key_does_nothing(serve, opened, visit):
    session = opened(batch_size=10_000)
    session.unsure(session.next("before").id, tab="before")
    page = visit(serve(session))
    page.keyboard.press(",")
    page.wait_for_selector("#review-stage img")
    page.keyboard.press("x")
    assert page.inner_text("#review-about").startswith("No class has the key x. You were unsure")
    page.keyboard.press("Enter")
    assert "There is no single label to keep" in page.inner_text("#review-about")
    page.keyboard.press("1")
    saved(page)
    assert session.labels.label.tolist() == ["blue"]


def test_a_renamed_class_is_not_created_again(serve, opened, visit):
    """Neither by a key that is pressed after an undo, nor in a tab that does not know yet."""
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    page.keyboard.press("/")
    rename(page, "red", "scarlet")
    page.keyboard.press("Escape")
    page.keyboard.press("Backspace")
    page.wait_for_selector("#classes button[data-label=red]")
    press(page, "3")
    saved(page)
    assert session.labels.label.tolist() == ["red"]
    let_go = held(page, "**/api/status*")
    session.rename_class("blue", "navy", tab="other")
    image = image_of(page)
    press(page, "1")
    shows(page, image)
    assert "class 'blue' no longer exists" in page.inner_text("#banner")
    assert sorted(session.classes) == ["green", "navy", "red"]
    let_go()
    page.wait_for_selector("#classes button[data-label=navy]")
    page.click("#banner button")
    assert banner_is_hidden(page)
    press(page, "1")
    saved(page)
    assert session.labels.label.tolist() == ["red", "navy"]


def test_the_dialog_keeps_the_focus_half_typed_names_and_keys(serve, opened, visit):
    session = opened(classes=["red", "constructor", "blue"], batch_size=10_000)
    page = visit(serve(session))
    assert page.locator("#classes kbd").all_text_contents() == ["1", "2", "3"]
    page.keyboard.press("/")
    page.fill("input[aria-label='Key of red']", "z")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Key of red"
    let_go = held(page, "**/api/rename")
    page.fill("input[aria-label='Name of red']", "scarlet")
    for key in ("Tab", "Tab", "Control+A"):
        page.keyboard.press(key)
    page.keyboard.type("half")
    let_go()
    page.wait_for_selector("input[aria-label='Name of scarlet']")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Name of constructor"
    assert page.input_value("input[aria-label='Name of constructor']") == "half"
    assert page.input_value("input[aria-label='Key of scarlet']") == "z"
    page.keyboard.type("/full")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('class-problem').textContent.includes('not allowed')")
    assert banner_is_hidden(page)
    page.fill("#new-class", "ねこ")
    page.evaluate(  # Enter ends the input of a character, not of the name
        "document.getElementById('new-class').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    page.fill("input[aria-label='Name of blue']", "scarlet")
    page.keyboard.press("Enter")
    page.wait_for_selector("input[aria-label='Name of blue']", state="detached")
    assert page.evaluate("document.activeElement.id") == "new-class"
    assert session.classes == ["scarlet", "constructor"]


def test_escape_discards_half_typed_names_and_keys(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    for field, typed, before in (("Name", "re", "red"), ("Key", "z", "3")):
        page.keyboard.press("/")
        page.click(f"input[aria-label='{field} of red']")
        page.keyboard.press("Control+A")
        page.keyboard.type(typed)
        page.keyboard.press("Escape")
        page.wait_for_selector("#class-dialog", state="hidden")
        page.keyboard.press("/")
        assert page.input_value(f"input[aria-label='{field} of red']") == before
        page.keyboard.press("Escape")
    press(page, "3")
    saved(page)
    assert session.labels.label.tolist() == ["red"]
    assert session.classes == ["blue", "green", "red"]


def test_a_chosen_key_follows_renames_undos_and_other_tabs(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    page.keyboard.press("/")
    page.fill("input[aria-label='Key of red']", "z")
    page.keyboard.press("Enter")
    rename(page, "red", "scarlet")
    page.keyboard.press("Escape")
    assert page.inner_text("#classes button[data-label=scarlet] kbd") == "z"
    page.keyboard.press("Backspace")
    page.wait_for_selector("#classes button[data-label=red]")
    assert page.inner_text("#classes button[data-label=red] kbd") == "z"
    session.rename_class("red", "ruby", tab="other")
    page.wait_for_selector("#classes button[data-label=ruby]")
    assert page.inner_text("#classes button[data-label=ruby] kbd") == "z"


@pytest.mark.parametrize("width", [360, 1280])
def test_long_names_and_many_classes_fit(serve, opened, visit, width):
    names = ["a" * 100, "3", "2", *(f"class {i}" for i in range(60))]
    page = visit(serve(opened(classes=names, batch_size=10_000)), width)
    page.wait_for_selector("#status tbody td")
    shown = page.eval_on_selector_all("#status tbody td:first-child", "all => all.map((one) => one.textContent)")
    assert shown == names
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.eval_on_selector("#single", "single => single.scrollWidth <= single.clientWidth")
    if width > 1000:
        box = page.locator("#unsure").bounding_box()
        assert box["y"] + box["height"] <= 800  # in view


# ------------------------------------------------------------------------ tabs and trouble


def test_undo_is_about_the_action_before_it(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    first = image_of(page)
    let_go = held(page, "**/api/answer")
    press(page, "1")
    second = image_of(page)
    page.keyboard.press("Backspace")
    press(page, "2")
    let_go()
    shows(page, first)
    saved(page)
    assert session.labels.image.tolist() == [second]


def test_a_duplicated_tab_has_images_of_its_own_and_a_reload_keeps_its_images(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    image = image_of(page)
    with page.expect_popup() as opening:
        page.evaluate("window.open('/')")  # copies the storage of the tab, as duplicating it does
    opening.value.wait_for_selector("#stage img")
    assert image_of(opening.value) != image
    page.reload()
    page.wait_for_selector("#stage img")
    assert image_of(page) == image


def test_without_an_answer_of_the_server_nothing_is_said_to_be_done_or_gone(serve, fitted, visit):
    for question in fitted.upcoming(5):
        fitted.unsure(question.id)
    page = visit(serve(fitted), tolerated=("ERR_FAILED",))
    page.route("**/api/questions*", lambda route: route.abort())
    page.route("**/image/*", lambda route: route.abort())
    page.reload()
    page.wait_for_selector("#banner:not([hidden])")
    assert page.inner_text("#stage") == "One moment …"
    page.unroute("**/api/questions*")
    page.wait_for_selector("#stage img")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.keyboard.press(",")
    page.wait_for_selector("#review-stage img")
    page.wait_for_timeout(500)
    assert sum("/api/review" in url for url in requests) == 1
    assert page.inner_text("#spoken") == ""
    page.unroute("**/image/*")
    page.wait_for_function("() => document.querySelector('#review-stage img').naturalWidth > 0")


def test_an_image_that_undo_brings_back_is_as_sharp_as_the_others(serve, fitted, visit):
    page = visit(serve(fitted))
    press(page, "1")
    page.keyboard.press(".")
    page.wait_for_selector("#cells button:focus")
    page.keyboard.press("Backspace")
    saved(page)
    page.keyboard.press(",")
    page.wait_for_selector("#stage img")
    sides = page.evaluate("() => [...document.querySelectorAll('#stage img')].map((image) => image.src.split('=')[1])")
    assert int(sides[0]) > 256
