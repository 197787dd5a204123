"""Browser helpers for tests of the page. They wait for states, never for fixed times."""

import os

import pytest

from tests.label.conftest import CLASSES, truth

CHROMIUM = os.environ.get("SKAL_CHROMIUM", "/usr/bin/chromium")
IMAGES = os.environ.get("SKAL_IMAGES")  # class folders of photographs, for the person of test_person.py
BROWSER_TEST = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason=f"there is no browser at {CHROMIUM}"),
]
#: Without these, Chromium contacts hosts of its vendor at every start.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def image_of(page):
    """The image that is shown."""
    return page.get_attribute("#stage img", "data-id")


def shows(page, image):
    """Wait until an image is shown."""
    page.wait_for_function("id => document.querySelector('#stage img')?.dataset.id === id", arg=image)


def press(page, key):
    """Press a key in the labelling mode and wait for the next image."""
    before = image_of(page)
    page.keyboard.press(key)
    page.wait_for_function(
        "id => { const shown = document.querySelector('#stage img'); return shown && shown.dataset.id !== id; }",
        arg=before,
    )


def rename(page, name, to):
    """Rename a class in the dialog of classes, which is open, to a name that no class has."""
    page.fill(f"input[aria-label='Name of {name}']", to)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"input[aria-label='Name of {to}']")


def saved(page):
    """Wait until every action is on disk. Before the first action the page shows nothing about it."""
    page.wait_for_function("() => !document.getElementById('saved').textContent.includes('not saved')")


_KEYS = "1234567890qwertyuiopasdfghjklzxcvbnm"


def key_of(path, classes=CLASSES):
    """The key of an image's class, from its name."""
    return _KEYS[classes.index(truth(path))]


def label(page, n, classes=CLASSES):
    """Answer n questions correctly."""
    for _ in range(n):
        press(page, key_of(page.inner_text("#path"), classes))
    saved(page)
