"""The pictures of the page beside this file: ``python docs/label/pictures.py`` remakes them, in some minutes.

600 photographs of shoes (Fashion-MNIST, MIT licence; dark on white, as the shops had them) are labelled truly until an
accuracy is shown, and then until the model suggests a boot for one. Needs the extra "test", and Chromium.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from skal.label import LabelSession
from skal.label.server import Server

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "examples" / "data" / "fashion_mnist.npz"
KINDS = {"boot": "Ankle boot", "sandal": "Sandal", "sneaker": "Sneaker"}
SIZES = [(360, 740), (1280, 800), (3840, 2160)]
#: Answers before the pictures; one in five is audit, and 30 of those make the first accuracy.
N_ANSWERS = 200


def write_photos(folder: Path) -> None:
    """Files named by their class, as `boot-0001.png`."""
    folder.mkdir()
    with np.load(DATA) as data:
        names = data["class_names"][data["y_pool"]]
        for kind, name in KINDS.items():
            for i, pixels in enumerate(data["X_pool"][names == name][:200]):
                photo = Image.fromarray(np.pad(255 - pixels, 8, constant_values=255))
                photo.resize((616, 616), Image.Resampling.BICUBIC).save(folder / f"{kind}-{i + 1:04}.png")


def kind_of(path: str) -> str:
    return Path(path).name.split("-")[0]


def label(session: LabelSession) -> None:
    """Answer truly but for one that is left unsure, until the next is a boot and the model is sure of it."""
    n = 0
    while (question := session.next("person")) is not None:
        kind = kind_of(question.path)
        is_sure = question.probability is not None and question.probability > 0.8
        if n >= N_ANSWERS and is_sure and kind == question.suggestion == "boot":
            break
        if n == N_ANSWERS // 2:
            session.unsure(question.id, seconds=1.0, tab="person")
        else:
            session.answer(question.id, kind, seconds=1.0, tab="person")
        n += 1
        if n % 20 == 0:
            session.fit()
    session.leave("person")


def shoot(page, name: str) -> None:
    """A screenshot in few colours, and at half its size where it is very large."""
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name)
        with Image.open(file.name) as shot:
            small = shot.convert("RGB")
            if shot.width > 2000:
                small = small.resize((shot.width // 2, shot.height // 2))
            small.quantize(48).save(HERE / f"{name}.png", optimize=True)


def main() -> None:
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp())
    write_photos(folder / "photos")
    with LabelSession(folder / "photos", folder / "photos.skal", classes=list(KINDS), target=0.9) as session:
        label(session)
        server = Server(session)
        server.start()
        with sync_playwright() as playwright:
            path = os.environ.get("SKAL_CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox"])
            for scheme in ("light", "dark"):
                for width, height in SIZES:
                    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                    context.set_default_timeout(120_000)
                    page = context.new_page()
                    page.goto(server.link.as_uri())
                    page.wait_for_selector("aside .big")
                    for mode in ("single", "grid", "review"):
                        page.click(f"nav button[data-mode={mode}]")
                        page.wait_for_selector(f"#{mode} img")
                        shoot(page, f"{mode}-{width}-{scheme}")
                    if width < 2000:
                        page.keyboard.press("/")
                        page.wait_for_selector("#class-dialog[open]")
                        shoot(page, f"classes-{width}-{scheme}")
                    context.close()
            browser.close()
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
