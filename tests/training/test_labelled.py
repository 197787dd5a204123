"""Images that a fit has seen."""

import numpy as np

from skal.images.inputs import TensorInputs
from skal.training.labelled import Labelled


def rows(*values):
    return TensorInputs(np.array(values, np.float32)[:, None])


def test_new_rows_follow_old_ones_that_are_not_given_again():
    old = Labelled.of(rows(0, 1, 2, 3), np.array(list("abcd")))
    new = Labelled.of(rows(2, 9), np.array(["x", "y"]), np.array([0.5, 2.0]))
    joined, is_old = old.followed_by(new)
    assert joined.y.tolist() == ["a", "b", "d", "x", "y"]
    assert is_old.tolist() == [True, True, True, False, False]
    np.testing.assert_array_equal(joined.inputs.load(range(5))[:, 0], [0, 1, 3, 2, 9])
    np.testing.assert_array_equal(joined.sample_weight, [1, 1, 1, 0.5, 2])
    np.testing.assert_array_equal(joined.content, [*old.content[[0, 1, 3]], *new.content])
    plain, _ = old.followed_by(Labelled.of(rows(9), np.array(["y"])))
    assert plain.sample_weight is None
    np.testing.assert_array_equal(plain.weights, np.ones(5))


def test_rows_of_weight_zero_are_left_out():
    kept = Labelled.of(rows(0, 1, 2), np.array([5, 6, 7]), np.array([0.0, 2.0, 1.0]))
    assert kept.y.tolist() == [6, 7]
    np.testing.assert_array_equal(kept.inputs.load([0, 1])[:, 0], [1, 2])
    np.testing.assert_array_equal(kept.sample_weight, [2, 1])
    assert kept.content.tolist() == [key.hex() for key in kept.inputs.keys([0, 1])]


def test_no_rows_are_of_the_kind_of_labels_that_come():
    none = Labelled.none(np.array(["a", "b"]))
    assert len(none.inputs) == len(none.content) == len(none.y) == 0
    assert none.y.dtype.kind == "U"
    joined, is_old = none.followed_by(Labelled.of(rows(1), np.array(["b"])))
    assert joined.y.tolist() == ["b"]
    assert is_old.tolist() == [False]


def test_an_image_given_again_takes_its_new_label(classifier, pixels, files):
    X, y = pixels
    wrong = y.copy()
    wrong[:4] = np.roll(y[:4], 1)
    classifier.fit(X, wrong).partial_fit(X[:4], y[:4])
    assert len(classifier.seen_.y) == 40
    np.testing.assert_array_equal(np.sort(classifier.seen_.y), np.sort(y))
    classifier.partial_fit(files[0][:3], y[:3])  # other forms join them
    assert len(classifier.seen_.y) == 43
    assert classifier.score(X, y) > 0.9
