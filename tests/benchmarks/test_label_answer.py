"""From a key to the next image on the screen: ``SKAL_SLOW=1 pytest tests/benchmarks/test_label_answer.py -s``."""

import numpy as np

from tests.label.browser import BROWSER_TEST, key_of, press
from tests.label.conftest import (  # noqa: F401 (fixtures)
    CLASSES,
    browser,
    draw,
    estimator,
    opened,
    photos,
    serve,
    visit,
)

pytestmark = BROWSER_TEST


def test_the_next_image_is_painted_within_a_tenth_of_a_second(serve, opened, visit, tmp_path):  # noqa: F811
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
