"""The page in a real browser: the keyboard alone does everything, and nothing that was acknowledged is lost."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skal.label import log as log_module
from skal.label.stored import StoredProject
from tests.label.conftest import CLASSES, draw, settled, truth

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
pytest.importorskip("starlette", reason="the page needs the extra 'label'")
CHROMIUM = os.environ.get("SKAL_CHROMIUM", "/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason=f"there is no browser at {CHROMIUM}"),
]
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DATA = Path(__file__).parents[2] / "examples" / "data" / "fashion_mnist.npz"
PICTURES = os.environ.get("SKAL_PICTURES")  # a folder to keep the screenshots in, as docs/label


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page of a client in a fresh browser; every complaint of the browser fails the test."""
    contexts, complaints = [], []

    def complain(message, tolerated):
        if message.type == "error" and not any(code in message.text for code in tolerated):
            complaints.append(message.text)

    def is_own(url):
        return url.startswith(("http://127.0.0.1:", "file:"))

    def start(client, width=1280, height=800, scheme="light", context=None, tolerated=("507", "422")):
        own = context or browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        if context is None:
            contexts.append(own)
        page = own.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complain(message, tolerated))
        page.on("request", lambda request: None if is_own(request.url) else complaints.append(request.url))
        page.goto(client.server.link.as_uri() if context is None else f"http://{client.host}/")
        page.wait_for_selector("#stage img")
        page.wait_for_selector("#classes button")
        return page

    yield start
    for context in contexts:
        context.close()
    assert complaints == []


def press(page, key):
    """Press a key in the labelling mode, and wait for another image."""
    before = page.get_attribute("#stage img", "data-id")
    page.keyboard.press(key)
    page.wait_for_function(
        "id => { const shown = document.querySelector('#stage img'); return shown && shown.dataset.id !== id; }",
        arg=before,
    )


def saved(page):
    page.wait_for_function("() => document.getElementById('saved').textContent === 'All saved'")


def key_of(path):
    return str(1 + CLASSES.index(truth(path)))


def label(page, n):
    for _ in range(n):
        press(page, key_of(page.inner_text("#path")))
    saved(page)


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
    page.wait_for_function("id => document.querySelector('#stage img').dataset.id === id", arg=first)
    saved(page)
    assert len(session.labels) == 0


def test_a_key_that_is_held_answers_once(serve, opened, visit):
    session = opened(batch_size=10_000)
    page = visit(serve(session))
    page.keyboard.down("1")
    for _ in range(5):
        page.keyboard.down("1")  # repeats, as long as it is not up
    page.keyboard.up("1")
    page.wait_for_timeout(300)
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
    for _ in range(5):
        path = page.inner_text("#path")
        item = next(item for item in session._catalogue.order if item.path == path)
        if item.is_reserved:
            assert "without a suggestion" in page.inner_text("#suggestion")
            assert page.locator(".suggested").count() == 0
            page.keyboard.press("Enter")
            page.wait_for_timeout(100)
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
    page.wait_for_function("id => document.querySelector('#stage img').dataset.id === id", arg=image)
    assert len(session.labels) == 2
    page.click("#banner button")
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_function("id => document.querySelector('#stage img').dataset.id === id", arg=image)
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
    page.wait_for_function("id => document.querySelector('#stage img').dataset.id === id", arg=third.id)
    assert second.id not in session.labels.image.tolist()
    assert len(session.status().unreadable) == 1
    assert first.id in session.labels.image.tolist()


# ------------------------------------------------------------------------ by the book

_CHECK = """() => {
  const problems = [];
  const seen = (e) => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
  const name = (e) => (e.getAttribute('aria-label') || e.innerText || e.alt || (e.labels && e.labels[0]
    && e.labels[0].innerText) || '').trim();
  for (const e of document.querySelectorAll('button, input, select, summary')) {
    if (seen(e) && !name(e)) problems.push('no name: ' + e.outerHTML.slice(0, 80));
    const box = e.getBoundingClientRect();
    if (seen(e) && Math.min(box.width, box.height) < 24) problems.push('small target: ' + e.outerHTML.slice(0, 80));
  }
  for (const e of document.querySelectorAll('img')) if (!e.hasAttribute('alt')) problems.push('no alt');
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  if (new Set(ids).size !== ids.length) problems.push('an id twice');
  if (!document.documentElement.lang || !document.title) problems.push('no language or title');
  if (document.querySelectorAll('main, h1').length !== 2) problems.push('no single main and h1');
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const back = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(e) || e.closest(':disabled') || e.tagName === 'OPTION') continue;
    const style = getComputedStyle(e);
    const [a, b] = [luminance(parse(style.color)), luminance(back(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(1)}: ` + e.outerHTML.slice(0, 80));
  }
  if (document.documentElement.scrollWidth > innerWidth + 1) problems.push('scrolls sideways');
  return problems;
}"""


KINDS = ("Bag", "Sneaker", "Trouser")


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


def keep_picture(page, name, tmp_path):
    """A screenshot in few colours, and at half its size where it is very large."""
    page.screenshot(path=tmp_path / "shot.png")
    if PICTURES:
        with Image.open(tmp_path / "shot.png") as shot:
            small = shot.convert("RGB").resize((shot.width // 2, shot.height // 2)) if shot.width > 2000 else shot
            small.convert("RGB").quantize(48).save(Path(PICTURES) / f"{name}.png", optimize=True)


SIZES = [(360, 740), (1280, 800), (3840, 2160)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_mode_at_every_size(serve, opened, visit, fashion, scheme, tmp_path):
    project = tmp_path / "clothes.skal"
    session = opened(folder=fashion, project=project, classes=KINDS, audit=0.5, batch_size=10_000, target=0.7)
    question, n = session.next("before"), 0
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
        page.wait_for_selector("aside .big")
        for mode in ("single", "grid", "review"):
            page.click(f"nav button[data-mode={mode}]")
            page.wait_for_selector(f"#{mode} img")
            page.wait_for_function("() => [...document.images].every((image) => image.complete)")
            page.wait_for_timeout(100)
            assert page.evaluate(_CHECK) == [], (mode, width, scheme)
            keep_picture(page, f"{mode}-{width}-{scheme}", tmp_path)
        page.keyboard.press("/")
        page.wait_for_selector("#class-dialog[open]")
        assert page.evaluate(_CHECK) == []
        keep_picture(page, f"classes-{width}-{scheme}", tmp_path)
        page.close()


def test_everything_is_reached_by_the_tab_key(serve, opened, visit):
    page = visit(serve(opened(batch_size=10_000)))
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert {"unsure", "undo", "edit-classes", "open-help", "Grid", "Review"} <= reached


# ------------------------------------------------------------------------ a session of a person


def test_a_person_labels_a_folder(serve, opened, visit, tmp_path):
    """Keyboard only: wrong keys undone, a class added on the way, a grid, a review, a reload and a second tab."""
    folder = tmp_path / "many"
    for i in range(150):
        draw(folder / f"{CLASSES[i % 3]}-{i:03d}.png", CLASSES[i % 3], i)
    session = opened(folder=folder, project=tmp_path / "many.skal", classes=CLASSES[:2], audit=0.4)
    client = serve(session)
    page = visit(client)
    rng = np.random.default_rng(0)
    done = 0
    while done < 70:
        path = page.inner_text("#path")
        if truth(path) == "red" and "red" not in session.classes:
            page.keyboard.press("/")
            page.keyboard.type("red")
            page.keyboard.press("Enter")
            page.wait_for_selector("input[aria-label='Name of red']")
            page.keyboard.press("Escape")
        if rng.random() < 0.03:
            image = page.get_attribute("#stage img", "data-id")
            press(page, "1" if key_of(path) != "1" else "2")
            page.keyboard.press("Backspace")
            page.wait_for_function("id => document.querySelector('#stage img').dataset.id === id", arg=image)
        press(page, key_of(path))
        done += 1
        if done == 30:
            saved(page)
            before = page.get_attribute("#stage img", "data-id")
            page.reload()
            page.wait_for_selector("#stage img")
            page.wait_for_selector("#classes button")
            assert page.get_attribute("#stage img", "data-id") == before
    saved(page)
    assert len(session.labels) == 70
    second = visit(client, context=page.context)
    assert second.get_attribute("#stage img", "data-id") != page.get_attribute("#stage img", "data-id")
    label(second, 5)
    second.goto("about:blank")  # as when it is closed: what it was given goes back
    second.close()
    session.fit()
    page.keyboard.press(".")
    page.wait_for_selector("#grid:not([hidden])")
    page.wait_for_selector("#cells button")
    label_of_grid = page.input_value("#grid-class")
    n_before = len(session.labels)
    cells = page.locator("#cells button")
    names = [cells.nth(i).get_attribute("aria-label") for i in range(cells.count())]
    for i, name in enumerate(names):
        if truth(name) != label_of_grid:
            page.keyboard.press(" ")
        if i + 1 < len(names):
            page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("n => document.getElementById('spoken').textContent.startsWith('Labelled')", arg=0)
    saved(page)
    right = sum(truth(name) == label_of_grid for name in names)
    assert len(session.labels) == n_before + right
    page.keyboard.press(".")
    page.wait_for_selector("#review:not([hidden])")
    page.keyboard.press(",")
    page.keyboard.press(",")
    label(page, 10)
    session.fit()
    assert (session.labels.label == [truth(path) for path in session.labels.path]).all()
    status = session.status()
    assert status.n_audit >= 30
    paths = [session._catalogue.file(item.path) for item in session._catalogue.order]
    predicted = session.predict(paths).label
    low, high = status.interval
    assert low <= (predicted == [truth(path) for path in paths]).mean() <= high
    stored = StoredProject(session.project.path)
    rows = {path: name for _, path, name, _ in stored.rows()}
    assert rows == dict(zip(session.labels.path, session.labels.label, strict=True))
    lines = [json.loads(line) for line in session.project.log.read_text().splitlines()]
    assert {"answer", "undo", "class", "grid", "model"} <= {line["kind"] for line in lines}
    assert len({line["tab"] for line in lines if line["kind"] == "answer"}) == 2


@pytest.mark.slow
def test_the_next_image_is_painted_within_a_tenth_of_a_second(serve, opened, visit, tmp_path):
    """While a model is trained all the time."""
    folder = tmp_path / "many"
    for i in range(400):
        draw(folder / f"{CLASSES[i % 3]}-{i:03d}.png", CLASSES[i % 3], i)
    session = opened(folder=folder, project=tmp_path / "many.skal", batch_size=1)
    page = visit(serve(session))
    page.evaluate(
        """() => {
          window.times = [];
          document.addEventListener('keydown', () => {
            const start = performance.now();
            const id = document.querySelector('#stage img').dataset.id;
            const look = () => {
              const shown = document.querySelector('#stage img');
              if (shown && shown.dataset.id !== id && shown.complete) window.times.push(performance.now() - start);
              else requestAnimationFrame(look);
            };
            requestAnimationFrame(look);
          }, true);
        }"""
    )
    for _ in range(200):
        press(page, key_of(page.inner_text("#path")))
        page.wait_for_timeout(150)
    times = np.array(page.evaluate("window.times"))
    print(f"{len(times)} answers, median {np.median(times):.0f} ms, 95 % below {np.percentile(times, 95):.0f} ms")
    assert np.percentile(times, 95) < 100
