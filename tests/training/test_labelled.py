"""Images that a fit has seen."""

import numpy as np


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
