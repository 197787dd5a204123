"""Accessibility of the page: axe-core finds no violation in any mode, and all sizes work, light and dark."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.label.browser import BROWSER_TEST
from tests.label.conftest import settled, truth

pytestmark = BROWSER_TEST
DATA = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"
KINDS = ("Bag", "Sneaker", "Trouser")
SIZES = [(360, 740), (1280, 800), (3840, 2160)]
_AXE = """() => axe.run().then(({violations}) => violations.flatMap(
  ({id, nodes}) => nodes.map(({html, failureSummary}) => `${id}: ${html.slice(0, 120)}: ${failureSummary}`)))"""
#: Not checked by axe-core: small targets, and horizontal scrolling of the page.
_SIZES = """() => {
  const problems = [];
  for (const e of document.querySelectorAll('button, input, select, summary')) {
    const box = e.getBoundingClientRect();
    if (e.getClientRects().length && Math.min(box.width, box.height) < 24) problems.push('small: ' + e.outerHTML);
  }
  if (document.documentElement.scrollWidth > innerWidth + 1) problems.push('scrolls sideways');
  return problems;
}"""


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("axe-core comes with the package axe-playwright-python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def fashion(tmp_path):
    """120 pictures of clothes in one folder, named by their class."""
    with np.load(DATA) as data:
        names = data["class_names"]
        for kind in KINDS:
            for i in np.flatnonzero(names[data["y_pool"]] == kind)[:40].tolist():
                path = tmp_path / "clothes" / f"{kind}-{i}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(data["X_pool"][i]).resize((112, 112), Image.Resampling.NEAREST).save(path)
    return tmp_path / "clothes"


def problems(page):
    return [*page.evaluate(_AXE), *page.evaluate(_SIZES)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_mode_at_every_size(serve, opened, visit, fashion, axe, scheme, tmp_path):
    project = tmp_path / "clothes.skal"
    session = opened(folder=fashion, project=project, classes=KINDS, audit=0.5, batch_size=10_000, target=0.7)
    question, n = session.next("before"), 0
    settled(session)  # images that are read after a fit have no suggestion
    while n < 66 or question.suggestion is None:
        session.answer(question.id, truth(question.path), seconds=0.9, tab="before")
        n += 1
        if n in (60, 63, 66):
            session.fit()
        if n == 50:
            session.unsure(session.next("before").id, tab="before")
        if n == 66:
            session.leave("before")
        question = session.next("before")
    session.leave("before")
    assert session.status().accuracy is not None
    client = serve(session)
    for width, height in SIZES:
        page = visit(client, width, height, scheme)
        page.evaluate(axe)
        page.wait_for_selector("aside .big")
        for mode in ("single", "grid", "review"):
            page.click(f"nav button[data-mode={mode}]")
            page.wait_for_selector(f"#{mode} img")
            page.wait_for_function("() => [...document.images].every((image) => image.complete)")
            assert problems(page) == [], (mode, width, scheme)
        page.keyboard.press("/")
        page.wait_for_selector("#class-dialog[open]")
        assert problems(page) == []
        page.keyboard.press("Escape")
        page.wait_for_selector("#class-dialog", state="hidden")
        page.keyboard.press("?")
        page.wait_for_selector("#help[open]")
        assert problems(page) == []
        page.close()


def test_the_first_start_and_the_banner(serve, opened, visit, axe):
    """The dialog that opens if there is no class yet, a banner, and nothing left to label."""
    client = serve(opened(batch_size=10_000))
    page = visit(client)
    page.evaluate(axe)
    page.evaluate("import('/page/main.js').then(({showBanner}) => showBanner('The disk is full.', true))")
    page.wait_for_selector("#banner:not([hidden])")
    page.evaluate("document.getElementById('stage').replaceChildren()")
    assert problems(page) == []


def test_everything_is_reached_by_the_tab_key(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert {"status", "unsure", "undo", "edit-classes", "open-help", "Grid", "Review"} <= reached
