"""What all recipes share: class weights, augmentation, and the mean with the probe."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch.utils.data import DataLoader

from skal._fitting import prefix_of
from skal.training.batches import without_augmentation
from skal.training.net import Options
from skal.training.problem import Problem
from tests.conftest import Images


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
    shares = []
    for class_weight in ("balanced", None):
        classifier.set_params(max_epochs=0, class_weight=class_weight).fit(X[few], y[few])
        shares.append(classifier.predict_proba(X)[:, classifier.classes_ == "r"].mean())
        assert class_weight is None or classifier.score(X, y) > 0.9
    assert shares[0] < 0.3 < shares[1]  # a quarter of the images are of this class


@pytest.mark.parametrize("mirror", [False, True])
def test_activations_that_do_not_fit_the_memory_are_read_step_by_step(mirror, classifier, pixels, monkeypatch):
    X, y = pixels
    classifier.set_params(mirror=mirror)
    held, probe = clone(classifier).fit(X, y), clone(classifier).set_params(max_epochs=0).fit(X, y)
    monkeypatch.setattr("skal.training.problem.quarter_of_memory", lambda: 1000)
    read, probe_read = clone(classifier).fit(X, y), clone(classifier).set_params(max_epochs=0).fit(X, y)
    np.testing.assert_allclose(probe_read.predict_proba(X), probe.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(read.predict_proba(X), held.predict_proba(X), atol=1e-5)  # rows and views alike


@pytest.mark.parametrize("n_frozen", [0, 1])
@pytest.mark.parametrize("n_first", [5, 64, 128])  # in one batch, one block, and two blocks
def test_images_of_different_sizes_are_named(n_frozen, n_first, classifier):
    rng = np.random.default_rng(0)
    small, large = (rng.normal(size=(n, 3, side, 16)).astype(np.float32) for n, side in ((n_first, 16), (128, 20)))
    y = np.arange(n_first + 128) % 2
    items = [*map(torch.from_numpy, small), *map(torch.from_numpy, large)]
    classifier.set_params(n_frozen=n_frozen, max_epochs=1, source=None)
    message = "different sizes.* resize them to the same size|unlike others of its batch"
    with pytest.raises(ValueError, match=message):
        classifier.fit(Images(items), y)
    with pytest.raises(ValueError, match=message):
        classifier.fit(small, y[:n_first]).partial_fit(large, y[n_first:])


@pytest.mark.parametrize("augment", [None, lambda x: x])
@pytest.mark.parametrize("n_bytes", [1000, 2**30])
def test_rows_are_indexed_as_an_array_is(augment, n_bytes, classifier, pixels, monkeypatch):
    monkeypatch.setattr("skal.training.problem.quarter_of_memory", lambda: n_bytes)
    prefix = prefix_of(classifier, pixels[0])
    classifier.set_params(augment=augment)
    inputs = prefix.check(pixels[0])
    problem = Problem(prefix, Options.of(classifier), inputs, pixels[1], np.zeros(40, dtype=bool))
    whole = torch.cat([*prefix.activations(inputs)])
    order = np.random.default_rng(0).permutation(40)
    for data, expected in (
        (problem.rows(), whole),
        (problem.rows(order), whole[order]),
        (problem.rows(order[:9]), whole[order[:9]]),
    ):
        n = len(expected)
        for rows in (3, -1, [4, 2], slice(1, 5), np.arange(n) % 3 == 0):
            torch.testing.assert_close(data[rows][0], expected[rows])
            assert len(data[rows][1].shape) == np.ndim(np.arange(n)[rows])


@pytest.mark.parametrize("n_bytes", [1000, 2**30])
def test_a_loader_that_asks_row_by_row(n_bytes, classifier, pixels, monkeypatch):
    monkeypatch.setattr("skal.training.problem.quarter_of_memory", lambda: n_bytes)
    classifier.set_params(net_params={"iterator_train": DataLoader}).fit(*pixels)
    assert classifier.score(*pixels) > 0.9


@pytest.mark.parametrize("n_bytes", [1000, 2**30])
def test_rows_without_augmentation_are_the_images_themselves(n_bytes, classifier, pixels, monkeypatch):
    monkeypatch.setattr("skal.training.problem.quarter_of_memory", lambda: n_bytes)
    prefix = replace(prefix_of(classifier.set_params(n_frozen=0), pixels[0]), mirrors=True)
    inputs = prefix.check(pixels[0])
    problem = Problem(prefix, Options.of(classifier), inputs, pixels[1], np.zeros(40, dtype=bool))
    some = np.array([3, 1, 30])
    plain = without_augmentation(problem.rows(some, crops=True))
    torch.testing.assert_close(plain[[2, 0]][0], inputs.load([30, 3]))


def test_what_a_worker_process_is_sent_can_be_pickled(classifier, pixels):
    X, y = np.tile(pixels[0], (13, 1, 1, 1)), np.tile(pixels[1], 13)
    prefix = prefix_of(classifier.set_params(n_frozen=0), X)
    problem = Problem(prefix, Options.of(classifier), prefix.check(X), y, np.zeros(520, dtype=bool))
    sent = pickle.loads(pickle.dumps(problem.rows(crops=True)))
    with torch.random.fork_rng():
        assert sent[[0, 1]][0].shape == (2, 3, 16, 16)
