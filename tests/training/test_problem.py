"""What all recipes share: class weights, augmentation, and the mean with the probe."""

import numpy as np
import torch
from sklearn.base import clone


def test_weights_lie_between_the_probe_and_the_fine_tuned_net(classifier, pixels):
    X, y = pixels
    ends = [clone(classifier).set_params(wise_alpha=alpha).fit(X, y).net_.module_ for alpha in (0, 1)]
    between = classifier.set_params(wise_alpha=None).fit(X, y).net_.module_
    alpha = 10 / (10 + 1)
    for zero, one, mixed in zip(*(net.parameters() for net in (*ends, between)), strict=True):
        torch.testing.assert_close(mixed, (1 - alpha) * zero + alpha * one)
    probe = clone(classifier).set_params(max_epochs=0).fit(X, y).net_.module_
    for zero, start in zip(ends[0].parameters(), probe.parameters(), strict=True):
        torch.testing.assert_close(zero, start)


def test_class_weights_balance(classifier, pixels):
    X, y = pixels
    few = np.concatenate([np.flatnonzero(y == "r"), np.flatnonzero(y == "g")[:2]])
    plain = clone(classifier).set_params(class_weight=None).fit(X[few], y[few]).predict_proba(X)
    balanced = clone(classifier).set_params(class_weight="balanced").fit(X[few], y[few]).predict_proba(X)
    given = clone(classifier).set_params(class_weight={"g": 3.0, "r": 0.6}).fit(X[few], y[few]).predict_proba(X)
    assert balanced[:, 0].mean() > plain[:, 0].mean()
    np.testing.assert_allclose(given, balanced, atol=1e-3)  # 12 / (2 * 2) and 12 / (2 * 10)


def test_augmented_images_pass_the_whole_network(classifier, pixels):
    X, y = pixels
    seen = []

    def flipped(x):
        seen.append(x.shape)
        return x.flip(3) if torch.rand(()) < 0.5 else x

    first, second = (clone(classifier).set_params(augment=flipped).fit(X, y) for _ in range(2))
    assert set(seen) == {(32, 3, 16, 16), (8, 3, 16, 16)}
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.score(X, y) > 0.9
    same = clone(classifier).set_params(augment=lambda x: x).fit(X, y)
    np.testing.assert_allclose(same.predict_proba(X), classifier.fit(X, y).predict_proba(X), atol=1e-4)


def test_one_weight_for_all_classes_changes_nothing(classifier, pixels):
    X, y = pixels
    weighted = clone(classifier).set_params(class_weight=dict.fromkeys("rgb", 100.0) | {"y": 100.0}).fit(X, y)
    np.testing.assert_allclose(weighted.predict_proba(X), classifier.fit(X, y).predict_proba(X), atol=1e-3)
    some = clone(classifier).set_params(class_weight={"g": 1.0, "r": 1.0, "y": 2.0})  # of a class that is not there yet
    few = np.isin(y, ["r", "g"])
    assert some.fit(X[few], y[few]).score(X[few], y[few]) > 0.9


def test_few_labels_of_unequal_classes_are_not_swallowed_by_the_largest(classifier, pixels):
    X, y = pixels
    few = np.concatenate([np.flatnonzero(y == "r")[:8], *(np.flatnonzero(y == label)[:1] for label in "gby")])
    assert classifier.set_params(max_epochs=0).fit(X[few], y[few]).score(X, y) > 0.9
    assert classifier.set_params(class_weight=None).fit(X[few], y[few]).score(X, y) < 0.9


def test_activations_that_do_not_fit_the_memory_are_read_step_by_step(classifier, pixels, monkeypatch):
    X, y = pixels
    held, probe = clone(classifier).fit(X, y), clone(classifier).set_params(max_epochs=0).fit(X, y)
    monkeypatch.setattr("skal.training.problem.quarter_of_memory", lambda: 1000)
    read, probe_read = clone(classifier).fit(X, y), clone(classifier).set_params(max_epochs=0).fit(X, y)
    np.testing.assert_allclose(probe_read.predict_proba(X), probe.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(read.predict_proba(X), held.predict_proba(X), atol=1e-5)  # the order is drawn alike
