"""Random crops, and when images are cropped."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skal import SelectiveJoint
from skal.training.crops import cropped


def test_a_crop_is_the_image_moved_by_up_to_an_eighth_of_its_sides():
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 2, 16, 8)).astype(np.float32))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved = cropped(images).numpy()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (1, 1)), mode="reflect")
    found = []
    for crop, image in zip(moved, padded, strict=True):
        places = [(t, s) for t in range(5) for s in range(3) if np.array_equal(crop, image[:, t : t + 16, s : s + 8])]
        assert len(places) == 1
        found += places
    assert len(set(found)) == 15  # every place comes up, in one batch


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 7), (3, 1, 3, 3), (3, 1, 2, 40)])
def test_what_is_too_small_or_no_image_stays(shape):
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    assert cropped(values) is values


@pytest.mark.parametrize(
    ("parameters", "n", "is_cropped"),
    [
        ({}, 500, True),
        ({}, 499, False),
        ({"n_frozen": 1}, 500, False),
        ({"augment": None}, 500, False),
        ({"augment": lambda x: x}, 500, False),
        ({"recipe": SelectiveJoint()}, 500, False),
    ],
)
def test_images_are_cropped_where_all_layers_learn_from_many(
    parameters, n, is_cropped, classifier, pixels, monkeypatch
):
    sizes = []
    monkeypatch.setattr("skal.training.step_rows.cropped", lambda x: sizes.append(x.shape) or x)
    rows = np.arange(n) % 40
    X, y = pixels[0][rows], pixels[1][rows]
    data = {"X_source": X[:40], "y_source": y[:40]} if "recipe" in parameters else {}
    classifier.set_params(n_frozen=0, source=None, max_epochs=1, batch_size=250)
    clone(classifier).set_params(**parameters).fit(X, y, **data)
    assert sizes == [(250, 3, 16, 16)] * 2 * is_cropped
