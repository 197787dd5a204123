"""What unlabelled images are taken for."""

import numpy as np
import pytest

from skal.training import pseudo_labels


def clusters(n=60, n_classes=3, spread=0.15, seed=0):
    """Points around axes, in random order; each axis is a class."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    X = np.eye(n_classes, 8)[y] + rng.normal(scale=spread, size=(n, 8))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y


def first_of_each(y, k=1):
    return np.concatenate([np.flatnonzero(y == label)[:k] for label in np.unique(y)])


def taken(X, y, labelled, n_classes=None, **options):
    rest = np.setdiff1d(np.arange(len(y)), labelled)
    return pseudo_labels(X[labelled], y[labelled], X[rest], n_classes or int(y.max()) + 1, **options), y[rest]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "b", "c"], r"y contains the classes \['a', 'b', 'c'\], but must contain numbers from 0 to 2"),
        ([1, 2, 3], "numbers from 0 to 2"),
        ([-1, 0, 1], "numbers from 0 to 2"),
        ([0, 1], "inconsistent numbers of samples"),
    ],
)
def test_labels_that_are_no_class_numbers_are_named(y, message):
    X, _ = clusters(12)
    with pytest.raises(ValueError, match=message):
        pseudo_labels(X[:3], np.array(y), X[3:], 3)


def test_features_in_double_precision():
    X, y = clusters()
    labelled = first_of_each(y)
    np.testing.assert_array_equal(taken(X.astype(float), y, labelled)[0], taken(X, y, labelled)[0])


@pytest.mark.parametrize("k", [1, 2, 6])
def test_clusters_are_told_apart_from_a_label_each(k):
    X, y = clusters()
    proba, truth = taken(X, y, first_of_each(y, k))
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(proba.argmax(axis=1), truth)


def test_a_class_without_a_label_has_probability_zero():
    X, y = clusters(n_classes=4)
    labelled = first_of_each(y)[[0, 1, 3]]
    proba, _ = taken(X, y, labelled, n_classes=6)
    assert proba.shape[1] == 6
    np.testing.assert_array_equal(proba[:, [2, 4, 5]], 0)


def test_images_far_from_all_labels_are_less_certain():
    """The cluster of a class that nobody has named yet is not forced into one of the others."""
    X, y = clusters(n=120, n_classes=4)
    proba, truth = taken(X, y, first_of_each(y)[:3], n_classes=4)
    entropy = -(proba * np.log(proba + 1e-12)).sum(axis=1)
    assert entropy[truth == 3].min() > np.quantile(entropy[truth < 3], 0.9)
    assert entropy[truth == 3].mean() > 0.8 * np.log(3)


def test_order_of_images_and_names_of_classes_do_not_matter():
    X, y = clusters()
    labelled = first_of_each(y, 2)
    proba, _ = taken(X, y, labelled)
    rest = np.setdiff1d(np.arange(len(y)), labelled)
    order = np.random.default_rng(0).permutation(len(rest))
    np.testing.assert_allclose(pseudo_labels(X[labelled], y[labelled], X[rest][order], 3), proba[order], atol=1e-4)
    renamed = (y + 1) % 3
    by_name = np.argsort(renamed[labelled], kind="stable")
    other = pseudo_labels(X[labelled][by_name], renamed[labelled][by_name], X[rest], 3)
    np.testing.assert_allclose(other[:, [1, 2, 0]], proba, atol=1e-4)


def test_the_graph_counts_less_where_it_says_nothing_about_the_classes():
    """Labels follow one coordinate of noise, which neighbours do not share: the probe alone can know."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 40)).astype(np.float32)
    X[:, 0] *= 3
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = (X[:, 0] > 0).astype(int)
    labelled = np.arange(100)
    proba, truth = taken(X, y, labelled)
    assert np.mean(proba.argmax(axis=1) == truth) > 0.85


def test_shares_of_an_unequal_pool_show():
    X, y = clusters(n=300, n_classes=2, spread=0.3)
    keep = np.flatnonzero((y == 0) | (np.cumsum(y) <= 30))
    proba, truth = taken(X[keep], y[keep], first_of_each(y[keep], 10))
    assert proba[:, 1].mean() == pytest.approx(np.mean(truth), abs=0.06)
    assert np.mean(proba.argmax(axis=1) == truth) > 0.95


def test_weights_of_labels_count():
    """Two labels of one image say different things; the heavier one is believed."""
    X, y = clusters(n_classes=2)
    labelled = first_of_each(y)
    twice, told = X[[*labelled, labelled[0]]], np.array([0, 1, 1])
    for weight, expected in ([1.0, 1.0, 0.01], 0), ([0.01, 1.0, 1.0], 1):
        proba = pseudo_labels(twice, told, X[labelled[:1]], 2, sample_weight=np.array(weight))
        assert proba[0].argmax() == expected


@pytest.mark.parametrize("m", [1, 2, 20])
def test_tiny_pools(m):
    X, y = clusters()
    labelled = first_of_each(y, 2)
    proba = pseudo_labels(X[labelled], y[labelled], np.delete(X, labelled, axis=0)[:m], 3)
    assert proba.shape == (m, 3)
    assert np.isfinite(proba).all()
