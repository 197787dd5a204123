"""A whole session of a person, from the first key to the model: keyboard only, on 300 images of handwritten digits.

``SKAL_IMAGES=DIR SKAL_SLOW=1 pytest tests/label/test_person.py -s`` labels 300 photographs of DIR/CLASS/ instead, with
the default network, and prints the results.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits

from skal.label.stored import StoredProject
from tests.label.browser import BROWSER_TEST, IMAGES, image_of, key_of, label, press, saved, shows
from tests.label.conftest import settled, truth

pytestmark = BROWSER_TEST
DIGITS = ("zero", "one", "two", "three", "four")
N_FOLDER, N_LABELS = 500, 300


def write_digits(folder, further):
    """Enlarged digits: 500 in class folders, and the others, which are never asked, elsewhere."""
    digits = load_digits(n_class=len(DIGITS))
    order = np.random.default_rng(0).permutation(len(digits.target)).tolist()
    paths = []
    for place, i in enumerate(order):
        name = DIGITS[digits.target[i]]
        path = (folder if place < N_FOLDER else further) / name / f"{name}-{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths[N_FOLDER:]


def copy_photographs(folder, further):
    """800 random photographs of the classes of a folder: 500 to label, and others to measure the model on."""
    classes = [path for path in sorted(Path(IMAGES).iterdir()) if path.is_dir()]
    rows = [sorted(path for path in one.rglob("*") if path.is_file()) for one in classes]
    rng = np.random.default_rng(0)
    found = [(one.name.replace("-", "_"), path) for one, row in zip(classes, rows, strict=True) for path in row]
    others = []
    for place, i in enumerate(rng.permutation(len(found))[: N_FOLDER + 300].tolist()):
        name, path = found[i]
        to = (folder if place < N_FOLDER else further) / name / f"{name}-{i:05d}{path.suffix}"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
        others += [to] if place >= N_FOLDER else []
    return others, tuple(sorted({name for name, _ in found}))


def add_class(page, name):
    page.keyboard.press("/")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector(f"input[aria-label='Name of {name}']")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"#classes button[data-label={name}]")


def answer(page, session, rng, n, classes):
    """Label with 3 % wrong keys that are undone, 1 % unsure, and a class that is added when it is first seen."""
    for _ in range(n):
        path = page.inner_text("#path")
        if truth(path) not in session.classes:
            saved(page)
            add_class(page, truth(path))
        if rng.random() < 0.03:
            image = image_of(page)
            press(page, "1" if key_of(path, classes) != "1" else "2")
            page.keyboard.press("Backspace")
            shows(page, image)
        press(page, " " if rng.random() < 0.01 else key_of(path, classes))
    saved(page)


def accept_a_grid(page):
    """Mark the wrong images of a grid and accept the others. Returns how many."""
    page.keyboard.press(".")
    page.wait_for_selector("#cells button:focus")
    wanted = page.input_value("#grid-class")
    names = page.eval_on_selector_all("#cells button", "all => all.map((one) => one.getAttribute('aria-label'))")
    for i, name in enumerate(names):
        if truth(name) != wanted:
            page.keyboard.press(" ")
        if i + 1 < len(names):
            page.keyboard.press("ArrowRight")
    first = page.get_attribute("#cells button", "data-id")
    page.keyboard.press("Enter")
    page.wait_for_function("id => document.querySelector('#cells button')?.dataset.id !== id", arg=first)
    saved(page)
    return sum(truth(name) == wanted for name in names)


def review_what_is_unsure(page, classes):
    """Go to the review and decide the open images there."""
    page.keyboard.press(".")
    page.wait_for_selector("#review img")
    while "unsure" in (about := page.inner_text("#review-about")):
        name = about.split(" \u2013 ")[1].split(" (")[0]
        page.keyboard.press(key_of(name, classes))
        page.wait_for_function("before => document.getElementById('review-about').textContent !== before", arg=about)
    saved(page)


def test_a_person_labels_a_folder(serve, opened, visit, tmp_path, estimator):
    folder = tmp_path / "digits"
    classes, network = DIGITS, estimator
    if IMAGES:
        (others, classes), network = copy_photographs(folder, tmp_path / "others"), None
    else:
        others = write_digits(folder, tmp_path / "others")
    options = {"classes": classes[:-1], "audit": 0.3, "batch_size": 10_000, "estimator": network}
    session = settled(opened(folder=folder, project=tmp_path / "digits.skal", **options), 400)
    client = serve(session)
    page = visit(client)
    rng = np.random.default_rng(0)
    answer(page, session, rng, 120, classes)
    before = image_of(page)
    page.reload()
    page.wait_for_selector("#classes button")
    shows(page, before)
    answer(page, session, rng, 40, classes)
    assert len(session.labels) == 160 or IMAGES  # some photographs are near-duplicates, labelled together

    second = visit(client, context=page.context)
    assert image_of(second) != image_of(page)
    label(second, 10, classes)
    second.close(run_before_unload=True)

    session.fit()
    n_before = len(session.labels)
    n_accepted = accept_a_grid(page)
    assert n_accepted > 10 or IMAGES
    assert len(session.labels) == n_before + n_accepted
    review_what_is_unsure(page, classes)
    page.keyboard.press(",")
    page.keyboard.press(",")
    page.wait_for_selector("#stage img")
    answer(page, session, rng, N_LABELS - len(session.labels), classes)
    session.fit()

    labels = session.labels
    decided = labels[labels.decision == "label"]
    assert len(labels) == N_LABELS or (IMAGES and len(labels) > N_LABELS)
    assert list(decided.label) == [truth(path) for path in decided.path]
    assert sorted(session.classes) == sorted(classes)
    status = session.status()
    assert status.n_audit >= 60
    model = session.predict(others)
    low, high = status.interval
    true = np.mean(model.label == [truth(path) for path in others])
    if IMAGES:
        counts = f"{len(labels)} labels, {status.n_audit} audit, {n_accepted} of a grid"
        print(f"{counts}: accuracy {status.accuracy:.3f} ({low:.3f} to {high:.3f}), truly {true:.3f} of {len(others)}")
    assert low <= true <= high

    stored = StoredProject(session.project.path)
    assert stored.export("csv", tmp_path / "labels.csv") == len(decided)
    with open(tmp_path / "labels.csv", newline="", encoding="utf-8") as file:
        exported = {row["path"]: row["label"] for row in csv.DictReader(file)}
    assert exported == dict(zip(decided.path, decided.label, strict=True))
    saved_model = clone(session._modelling._estimator).load(session.project.model)
    assert list(saved_model.predict(np.array([str(path) for path in others]))) == list(model.label)
    events = [json.loads(line) for line in session.project.log.read_text().splitlines()]
    assert {"answer", "unsure", "undo", "class", "grid", "model"} <= {event["kind"] for event in events}
    assert len({event["tab"] for event in events if event["kind"] == "answer"}) == 2
