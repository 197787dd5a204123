"""An image and its mirror image as inputs of a network."""

import numpy as np
import pytest
import torch

from skal.features.stored import StoredActivations
from skal.features.views import MirroredInputs, both_views
from skal.images.inputs import JoinedInputs, PathInputs, PixelInputs, TensorInputs
from tests.conftest import SMALL


class Counted(TensorInputs):
    """Counts what is loaded."""

    n_loaded = 0

    def load(self, rows):
        self.n_loaded += len(rows)
        return super().load(rows)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(12, 3, 4, 5)).astype(np.float32)


def test_left_and_right_are_exchanged_whatever_the_images_are(pixels, files):
    X = pixels[0]
    want = PixelInputs(X[:, :, ::-1], SMALL).load(range(40))
    for inputs in (PixelInputs(X, SMALL), PathInputs(np.array(files[0]), SMALL)):
        torch.testing.assert_close(MirroredInputs(inputs).load(range(40)), want)


def test_a_mirror_image_has_another_name_than_its_image(images):
    inputs = TensorInputs(images)
    names = {*inputs.keys(range(12)), *MirroredInputs(inputs).keys(range(12))}
    assert len(names) == 24
    assert len({len(name) for name in names}) == 1
    assert MirroredInputs(inputs).keys([3, 5]) == [MirroredInputs(inputs).keys(range(12))[i] for i in (3, 5)]


def test_both_views_read_each_image_once_where_they_go_in_step(images):
    inputs = Counted(images)
    plain, mirrored = both_views(inputs)
    for rows in ([0, 1, 2], [3, 4], [5]):
        torch.testing.assert_close(plain.load(rows).flip(-1), mirrored.load(rows))
    assert inputs.n_loaded == 6


def test_both_views_are_right_in_any_order(images):
    plain, mirrored = both_views(Counted(images))
    rng = np.random.default_rng(1)
    for _ in range(60):
        rows = rng.choice(12, size=2)
        view, want = [(plain, images), (mirrored, images[..., ::-1])][rng.integers(2)]
        np.testing.assert_array_equal(view.load(rows), want[rows])


def test_joined_and_stored_images_keep_their_order(images):
    rows = torch.from_numpy(images[:4])
    stored = StoredActivations(rows, [b"a", b"b", b"c", b"d"], rows.flip(-1))
    inputs = TensorInputs(images)
    plain, mirrored = both_views(JoinedInputs((stored, [2]), (inputs, [7, 1]), (stored, [0]), (inputs, [3])))
    assert plain.keys([0, 3]) == mirrored.keys([0, 3]) == [b"c", b"a"]
    np.testing.assert_array_equal(plain.load([1, 2]), images[[7, 1]])
    np.testing.assert_array_equal(mirrored.load([1, 2, 4]), images[[7, 1, 3]][..., ::-1])
    (part, own), *_ = mirrored.runs([0])
    torch.testing.assert_close(part.rows[own], rows[[2]].flip(-1))


def test_what_was_stored_without_mirror_images_says_so():
    with pytest.raises(ValueError, match="saved without"):
        both_views(StoredActivations(torch.zeros(1, 2), [b"a"]))
