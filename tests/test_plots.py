"""The content of the figures."""

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from skal.plots import contact_sheet, plot_learning_curves, plot_queried

mpl.use("Agg")


def test_plots(pixels, files, tmp_path):
    records = pd.DataFrame(
        [
            {"strategy": s, "seed": seed, "n_labels": n, "accuracy": 0.1 * n + 0.01 * seed}
            for s in ("adma", "random")
            for seed in range(3)
            for n in (1, 2, 3)
        ]
    )
    ax = plot_learning_curves(records, ceiling=0.9, ax=mpl.figure.Figure().subplots())
    assert [line.get_label() for line in ax.lines] == ["adma", "random", "all labels"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.11, 0.21, 0.31])
    sheet = contact_sheet([pixels[0][0], files[0][1], pixels[0][2][..., 0]], ["a", "b", "c"], n_columns=2)
    assert [ax.get_title() for ax in sheet.axes] == ["a", "b", "c", ""]
    sheet.savefig(tmp_path / "sheet.png")


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_grey_images_of_low_contrast_stay_so(shape):
    pixels = np.random.default_rng(0).integers(100, 110, shape, dtype=np.uint8)
    (image,) = contact_sheet([pixels], [""], n_columns=1).axes[0].images
    np.testing.assert_allclose(image.to_rgba(image.get_array())[..., 0], pixels.reshape(8, 8) / 255, atol=1 / 255)


@pytest.mark.parametrize(("n_images", "n_captions"), [(0, 0), (3, 2)])
def test_every_image_has_a_caption(n_images, n_captions):
    with pytest.raises(ValueError, match=f"lengths {n_images} and {n_captions}"):
        contact_sheet([np.zeros((4, 4), np.uint8)] * n_images, [""] * n_captions)


@pytest.mark.parametrize("caption", ["one line", "two\nlines"])
def test_a_caption_covers_no_image(caption):
    sheet = contact_sheet(list(np.ones((6, 8, 8))), [caption] * 6, n_columns=3)
    sheet.canvas.draw()
    boxes = [(ax.get_window_extent(), ax.title.get_window_extent()) for ax in sheet.axes]
    for image, title in boxes:
        assert title.y1 <= image.y0
    for (_, title), (below, _) in zip(boxes[:3], boxes[3:], strict=True):
        assert title.y0 >= below.y1


def test_the_plane_of_the_pool_marks_what_was_queried():
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    features = rng.normal(size=(30, 5)) + 20 * np.eye(5)[y]
    axes = [plot_queried(features, y, [4, 7], ax=mpl.figure.Figure().subplots()) for _ in range(2)]
    pool, queried = (collection.get_offsets() for collection in axes[0].collections)
    assert pool.shape == (30, 2)
    np.testing.assert_array_equal(queried, pool[[4, 7]])
    np.testing.assert_array_equal(axes[1].collections[0].get_offsets(), pool)
