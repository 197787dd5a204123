"""Learning from the pool: what fit does with X_unlabeled."""

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skal import ActiveClassifier, FineTuning, FrozenPrefixClassifier, Pool, Query, random_sampling
from skal.experiment import Task, run_experiment
from skal.training import pseudo_labels, unlabelled
from skal.training.unlabelled import is_of_another_kind


@pytest.fixture
def few(pixels):
    """One labelled image of each class, the whole pool, its labels."""
    X, y = pixels
    return X[:4], y[:4], X, y


def test_the_pool_teaches(classifier, few):
    _, y, pool, truth = few
    noisy = (pool.astype(int) + np.random.default_rng(0).integers(-90, 90, pool.shape)).clip(0, 255).astype(np.uint8)
    alone = clone(classifier).fit(noisy[:4], y)
    taught = clone(classifier).fit(noisy[:4], y, X_unlabeled=noisy)
    assert taught.score(noisy, truth) >= alone.score(noisy, truth)
    assert not np.allclose(taught.predict_proba(noisy), alone.predict_proba(noisy), atol=1e-3)


@pytest.mark.parametrize("max_epochs", [0, 5])
def test_the_head_is_the_regression_on_labels_and_what_the_pool_is_taken_for(classifier, few, max_epochs):
    """Of the features that training has made: an oracle by scikit-learn on rows repeated for each class."""
    X, y, pool, _ = few
    pool = pool[4:]
    classifier.set_params(max_epochs=max_epochs).fit(X, y, X_unlabeled=pool)
    features = [classifier.transform(images) for images in (X, pool)]
    unit = [F / np.linalg.norm(F, axis=1, keepdims=True) for F in features]
    mean = np.concatenate(unit).mean(axis=0)
    Z = [(F - mean) / np.linalg.norm(F - mean, axis=1, keepdims=True) for F in unit]
    both = np.concatenate(Z)
    own = np.searchsorted(classifier.classes_, y)
    centered = (both - both.mean(axis=0)).astype(np.float32)
    proba = pseudo_labels(centered[:4], own, centered[4:], 4)
    rows = np.concatenate([Z[0], np.repeat(Z[1], 4, axis=0)])
    labels = np.concatenate([own, np.tile(np.arange(4), len(pool))])
    total = min(10 * len(y), len(pool)) * len(pool) / (len(pool) + 10 * 4)
    weight = np.concatenate([np.ones(4), (proba * total / len(pool)).ravel()])
    scale2 = ((both - both.mean(axis=0)) ** 2).sum(axis=1).mean()
    oracle = LogisticRegression(C=10 / scale2, tol=1e-8, max_iter=5000).fit(rows, labels, sample_weight=weight)
    np.testing.assert_allclose(classifier.predict_proba(pool), oracle.predict_proba(Z[1]), atol=5e-3)
    pretrained = classifier.activations(pool, [-2], pretrained=True)[0]
    assert np.allclose(features[1], pretrained, atol=1e-6) == (max_epochs == 0)


def test_a_query_takes_what_the_end_of_the_fit_has_computed(classifier, few):
    X, y, pool, _ = few
    classifier.fit(X, y, X_unlabeled=pool)
    ran = []
    classifier.net_.module_.body.register_forward_hook(lambda _, args, out: ran.append(len(args[0])))
    classifier.predict_proba(pool[4:])
    assert ran == []
    features = classifier.transform(pool[::-1])  # the labelled images alone are not known
    assert sum(ran) == 4
    np.testing.assert_allclose(features[-4:], classifier.transform(pool[3::-1]), atol=1e-6)
    classifier._final.clear()
    np.testing.assert_allclose(features, classifier.transform(pool[::-1]), atol=1e-6)


class Clock:
    """A clock that moves only while the head is fitted to the pool: quadratically in the number of images."""

    def __init__(self, monkeypatch, seconds_per_250):
        self.now, self.sizes = 100.0, []
        fit_head = unlabelled._fit_head

        def timed(suffix, read, problem):
            self.sizes.append(len(read) - len(problem.y))
            self.now += seconds_per_250 * (self.sizes[-1] / 250) ** 2
            return fit_head(suffix, read, problem)

        monkeypatch.setattr(unlabelled, "_fit_head", timed)
        monkeypatch.setattr(unlabelled.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (None, [3000, 3000]),
        (1000, [250, 1000, 3000, 3000]),  # 1 + 16 + 144 seconds, and 144 again after training
        (200, [250, 1000, 1000]),  # the whole pool might take 256 seconds
        (40, [250, 1000]),  # after which there are 23 seconds, and the second solution would take 16
        (20, [250, 250]),
        (1, [250]),
    ],
)
def test_the_pool_takes_half_of_a_time_limit(mlp, monkeypatch, limit, sizes):
    classifier, rng = FrozenPrefixClassifier(mlp, max_epochs=2, min_steps=0, random_state=0), np.random.default_rng(0)
    pool = rng.normal(size=(3000, 7)).astype(np.float32)
    X, y = rng.normal(size=(20, 7)).astype(np.float32), np.arange(20) % 2
    clock = Clock(monkeypatch, 1.0)
    classifier.set_params(max_seconds=limit).fit(X, y, X_unlabeled=pool)
    assert clock.sizes == sizes
    assert len(classifier.net_.history) == (0 if limit == 1 else 2)


def test_labelled_images_in_the_pool_are_left_out(classifier, few):
    X, y, pool, _ = few
    whole = clone(classifier).fit(X, y, X_unlabeled=pool).predict_proba(pool)
    rest = clone(classifier).fit(X, y, X_unlabeled=pool[4:]).predict_proba(pool)
    np.testing.assert_array_equal(whole, rest)


def test_a_pool_of_labelled_images_only_teaches_nothing(classifier, few):
    X, y, pool, _ = few
    np.testing.assert_array_equal(
        clone(classifier).fit(X, y, X_unlabeled=X).predict_proba(pool), clone(classifier).fit(X, y).predict_proba(pool)
    )


@pytest.mark.parametrize("max_epochs", [0, 5])
def test_same_seed_same_result_whatever_the_cache(classifier, few, tmp_path, max_epochs):
    X, y, pool, _ = few
    classifier.set_params(max_epochs=max_epochs)
    first = clone(classifier).fit(X, y, X_unlabeled=pool).predict_proba(pool)
    for cache in (True, False, tmp_path):
        again = clone(classifier).set_params(cache=cache).fit(X, y, X_unlabeled=pool).predict_proba(pool)
        np.testing.assert_allclose(again, first, atol=1e-5)


def test_at_most_so_many_images_are_read(classifier, few, monkeypatch):
    X, y, pool, _ = few
    asked = []
    monkeypatch.setattr(
        "skal.training.unlabelled.pseudo_labels",
        lambda labelled, y, pool, n, **options: (
            asked.append(len(pool)) or pseudo_labels(labelled, y, pool, n, **options)
        ),
    )
    classifier.set_params(recipe=FineTuning(max_unlabeled=7))
    first = clone(classifier).fit(X, y, X_unlabeled=pool).predict_proba(pool)
    assert asked == [7, 7]  # before training and after it
    np.testing.assert_array_equal(clone(classifier).fit(X, y, X_unlabeled=pool).predict_proba(pool), first)
    other = clone(classifier).set_params(random_state=1).fit(X, y, X_unlabeled=pool).predict_proba(pool)
    assert not np.array_equal(other, first)


def test_classes_that_appear_and_a_fit_that_continues(classifier, few):
    X, y, pool, truth = few
    alone = clone(classifier).fit(X[:2], y[:2]).partial_fit(X[2:], y[2:])
    classifier.fit(X[:2], y[:2], X_unlabeled=pool)
    classifier.partial_fit(X[2:], y[2:])  # the pool of the last fit is learned from again
    assert len(classifier.classes_) == 4
    assert classifier.score(pool, truth) >= alone.score(pool, truth)


def test_labels_of_one_class_teach_alone(classifier, few):
    X, y, pool, _ = few
    assert set(classifier.fit(X[:1], y[:1], X_unlabeled=pool).predict(pool)) == {y[0]}


def test_files_augmentation_weights_and_a_pool_object(classifier, files):
    paths, y = files
    classifier.set_params(augment=lambda x: x + torch.randn_like(x) / 100)
    classifier.fit(paths[:8], y[:8], np.linspace(0.5, 2, 8), X_unlabeled=Pool(paths))
    assert classifier.score(paths, y) > 0.9


def test_features_instead_of_images(mlp):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (np.eye(3, 7)[y] * 3 + rng.normal(size=(60, 7))).astype(np.float32)
    net = FrozenPrefixClassifier(mlp, random_state=0, max_epochs=5).fit(X[:6], y[:6], X_unlabeled=X)
    assert net.predict_proba(X).shape == (60, 3)


def test_saved_and_loaded_it_predicts_the_same(classifier, few, tmp_path):
    X, y, pool, _ = few
    classifier.fit(X, y, X_unlabeled=pool).save(tmp_path / "model.safetensors")
    loaded = clone(classifier).load(tmp_path / "model.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(pool), classifier.predict_proba(pool), atol=1e-6)
    from_pixels = torch.from_numpy(pool).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        exported = classifier.to_module()(from_pixels)
    np.testing.assert_allclose(exported, classifier.predict_proba(pool), atol=1e-5)


def test_a_pipeline_passes_the_pool_to_its_last_step(mlp):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = (np.eye(2, 7)[y] * 3 + rng.normal(size=(40, 7))).astype(np.float32)
    net = FrozenPrefixClassifier(mlp, random_state=0, max_epochs=2)
    piped = make_pipeline(StandardScaler(), net)
    piped.fit(
        X[:10], y[:10], frozenprefixclassifier__X_unlabeled=StandardScaler().fit(X[:10]).transform(X).astype("f4")
    )
    assert piped[-1].net_.module_.mean is not None


def test_modal_teaches_with_the_pool(classifier, few):
    X, y, pool, truth = few
    learner = ActiveLearner(classifier, query_strategy=random_sampling, X_training=X[:2], y_training=y[:2])
    learner.teach(X[2:], y[2:], X_unlabeled=pool)
    assert learner.estimator.net_.module_.mean is not None
    assert learner.score(pool, truth) > 0.9


def test_the_loop_passes_the_pool_by_itself(classifier, few):
    _, _, pool, truth = few
    options = {"n_queries": 2, "batch_size": 6, "random_state": 0}
    query = Query(random_sampling)
    fits = {
        use: ActiveClassifier(clone(classifier), query, use_pool=use, **options).fit(pool, truth)
        for use in ("auto", True, False)
    }
    assert fits["auto"].estimator_.net_.module_.mean is not None
    assert fits[False].estimator_.net_.module_.mean is None
    np.testing.assert_array_equal(fits["auto"].predict_proba(pool), fits[True].predict_proba(pool))
    ActiveClassifier(LogisticRegression(), query, **options).fit(pool.reshape(40, -1) / 255.0, truth)
    with pytest.raises(ValueError, match="use_pool=True, but LogisticRegression does not accept X_unlabeled"):
        ActiveClassifier(LogisticRegression(), query, use_pool=True, **options).fit(pool.reshape(40, -1), truth)


def test_an_experiment_with_and_without_the_pool(classifier, few, tmp_path):
    _, _, pool, truth = few
    tasks = {"colours": Task(pool, truth, pool, truth)}
    options = {"n_queries": 2, "batch_size": 4, "seeds": [0]}
    curves = [
        run_experiment(
            classifier, {"random": random_sampling}, tasks, use_pool=use, folder=tmp_path / str(use), **options
        )
        for use in (True, False)
    ]
    assert curves[0].indices.tolist() == curves[1].indices.tolist()
    with pytest.raises(ValueError, match="use_pool"):
        run_experiment(
            classifier, {"random": random_sampling}, tasks, use_pool=False, folder=tmp_path / "True", **options
        )


def test_images_that_the_network_does_not_take_are_named(classifier, few):
    X, y, _, _ = few
    with pytest.raises(ValueError, match="channels"):
        classifier.fit(X, y, X_unlabeled=np.zeros((3, 8, 8, 4), dtype=np.uint8))


def test_a_pool_of_another_kind_is_left_out_with_a_warning(mlp):
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    X = (np.eye(3, 7)[y] * 3 + rng.normal(size=(30, 7))).astype(np.float32)
    other = (rng.normal(size=(160, 7)) - 20 * np.eye(1, 7, 6)).astype(np.float32)
    net = FrozenPrefixClassifier(mlp, random_state=0, max_epochs=2)
    alone = clone(net).fit(X, y).predict_proba(X)
    with pytest.warns(UserWarning, match="X_unlabeled is not used for training"):
        net.fit(X, y, X_unlabeled=other)
    np.testing.assert_array_equal(net.predict_proba(X), alone)


@pytest.mark.parametrize("n", [2, 10, 60])
def test_a_pool_is_apart_by_hand(n):
    """Of the same cloud no pool is apart, however small; clouds on two sides are."""
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(200, 6)).astype(np.float32)
    for m in (1, 20, 100):
        assert not is_of_another_kind(cloud[:n], cloud[n : n + m])
    side = np.float32([30, 0, 0, 0, 0, 0])
    assert is_of_another_kind(cloud[:10] + side, cloud[100:] - side)
