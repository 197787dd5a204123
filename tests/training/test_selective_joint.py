"""Joint fine-tuning: what is borrowed, how the heads share a step, and that it behaves as an estimator."""

import copy

import numpy as np
import pytest
import sklearn
import torch
from modAL.models import ActiveLearner
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skal import ActiveClassifier, FrozenPrefixClassifier, Query, SelectiveJoint, random_sampling
from skal._random import seeded
from skal.selective import FilterBankDescriptor, SymmetricKLNeighbors
from skal.training import Problem
from skal.training.batches import LabelledRows
from skal.training.selective_joint import JointNet, PairedRows, TwoHeads, more_neighbors
from tests.conftest import SMALL


@pytest.fixture
def joint(convnet):
    return FrozenPrefixClassifier(
        convnet,
        recipe=SelectiveJoint(3, n_iterations=3),
        preprocess=SMALL,
        n_frozen=1,
        max_epochs=6,
        min_steps=0,
        lr=5e-3,
        relative_lr=False,
        random_state=0,
    )


@pytest.fixture
def source():
    """60 images of 6 classes of other colours."""
    rng = np.random.default_rng(5)
    y = np.arange(60) % 6
    base = rng.integers(40, 210, (6, 3))[y]
    noise = rng.integers(-60, 60, size=(60, 16, 16, 3))
    return (base[:, None, None] + noise).clip(0, 255).astype(np.uint8), np.array(list("uvwxyz"))[y]


def test_what_is_borrowed_are_the_nearest_of_large_enough_classes(joint, pixels, source):
    X, y = pixels
    X_source, y_source = source
    joint.set_params(recipe__min_per_class=3).fit(X[:12], y[:12], X_source=X_source, y_source=y_source)
    descriptor = FilterBankDescriptor("conv", backbone=joint.backbone, preprocess=SMALL).fit(X[:12])
    search = SymmetricKLNeighbors(60, weights=descriptor.weights_).fit(descriptor.transform(X_source))
    expected = search.kneighbors(descriptor.transform(X[:12]))[1]
    np.testing.assert_array_equal(joint.neighbors_, expected[:, : joint.neighbors_.shape[1]])
    assert (joint.n_neighbors_[0] == 3).all()
    for n_near, borrowed in zip(joint.n_neighbors_, joint.borrowed_, strict=True):
        of_all = np.unique(np.concatenate([expected[i, :n] for i, n in enumerate(n_near)]))
        classes, counts = np.unique(y_source[of_all], return_counts=True)
        np.testing.assert_array_equal(borrowed, of_all[np.isin(y_source[of_all], classes[counts >= 3])])
    steps = set(np.diff(joint.n_neighbors_, axis=0).ravel().tolist())
    assert steps <= {0, 6, 12}


def test_hard_images_are_given_more_neighbours():
    given = more_neighbors([5, 5, 9, 9], [True, True, False, False], [0.1, 0.0999, 0.0, 2.0], n_first=5)
    assert given.tolist() == [15, 5, 29, 29]


def test_each_loss_is_over_its_own_images():
    """The loss of a batch is the target's cross-entropy plus the source's; the penalty is the target head's."""
    with seeded(0):
        both = TwoHeads(nn.Module(), nn.Linear(4, 3))
        both.suffix.head = nn.Linear(4, 2)
        both.suffix.head_input = nn.Identity()
        x = torch.randn(7, 4)
    net = JointNet(both, criterion=nn.CrossEntropyLoss, head_penalty=0.5, classes=[0, 1], train_split=None)
    net.initialize()
    y = {"target": torch.tensor([0, 1, 1, 0, 2, 1, 2]), "is_source": torch.arange(7) >= 3}
    loss = net.get_loss(both(x), y, training=True)
    of_target = nn.functional.cross_entropy(both.suffix.head(x[:3]), y["target"][:3])
    of_source = nn.functional.cross_entropy(both.source_head(x[3:]), torch.tensor([0, 2, 1, 2]))
    expected = of_target + of_source + 0.5 * both.suffix.head.weight.square().sum()
    torch.testing.assert_close(loss, expected)


def test_a_batch_pairs_each_image_with_one_of_its_neighbours():
    target = LabelledRows(torch.arange(4.0)[:, None].__getitem__, torch.tensor([0, 1, 0, 1]))
    lists = [np.array([5, 6]), np.array([7]), np.array([], dtype=int), np.array([0, 1, 2])]
    y_source = np.arange(8) % 3
    rows = PairedRows(target, lists, y_source, lambda rows: torch.as_tensor(rows).float()[:, None] + 100)
    seen = {i: set() for i in range(4)}
    with seeded(0):
        for _ in range(60):
            x, y = rows[[3, 0, 2, 1]]
            assert x[:4, 0].tolist() == [3, 0, 2, 1]
            assert y["target"][:4].tolist() == [1, 0, 0, 1]
            assert y["is_source"].tolist() == [False] * 4 + [True] * 3
            drawn = (x[4:, 0] - 100).int().tolist()  # the third image has no neighbour left
            assert y["target"][4:].tolist() == [y_source[i] for i in drawn]
            for i, row in zip([3, 0, 1], drawn, strict=True):
                seen[i].add(row)
    assert seen == {0: {5, 6}, 1: {7}, 2: set(), 3: {0, 1, 2}}


def test_the_probabilities_of_all_iterations_are_averaged(joint, pixels, source, device):
    X, y = pixels
    joint.set_params(device=device)
    joint.fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    models = [*joint.fused_, joint.net_.module_]
    assert len(models) == 3
    each = []
    for model in models:
        alone = copy.copy(joint)
        alone.fused_, alone.net_ = [], copy.copy(joint.net_)
        alone.net_.module_ = model
        each.append(alone.predict_proba(X))
    np.testing.assert_allclose(joint.predict_proba(X), np.mean(each, axis=0), atol=1e-6)
    assert np.abs(each[0] - each[2]).max() > 1e-4
    last = clone(joint).set_params(recipe__fusion=False).fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    np.testing.assert_allclose(last.predict_proba(X), each[2], atol=1e-6)


def test_the_source_teaches_the_shared_layers(joint, pixels, source):
    X, y = pixels
    fits = [
        clone(joint).set_params(wise_alpha=1).fit(X[:12], y[:12], X_source=source[0], y_source=labels)
        for labels in (source[1], np.sort(source[1]))
    ]
    bodies = [torch.cat([p.flatten() for p in fit.net_.module_.body.parameters()]) for fit in fits]
    assert not torch.allclose(bodies[0], bodies[1], atol=1e-4)


def test_without_a_source_it_is_an_ordinary_classifier(joint, pixels):
    X, y = pixels
    plain = clone(joint).set_params(recipe=None).fit(X, y)
    np.testing.assert_array_equal(joint.fit(X, y).predict_proba(X), plain.predict_proba(X))
    assert not hasattr(joint, "borrowed_")


def test_several_sources_keep_their_classes_apart(joint, pixels, source):
    X, y = pixels
    X_source, _ = source
    sets = ((X_source[:30], X_source[30:]), (np.arange(30) % 6, np.arange(30) % 6))
    joint.set_params(recipe__n_neighbors=60, recipe__min_per_class=1).fit(
        X[:12], y[:12], X_source=sets[0], y_source=sets[1]
    )
    assert len(joint.borrowed_[0]) == 60
    together = clone(joint).fit(
        X[:12], y[:12], X_source=X_source, y_source=np.concatenate([sets[1][0], 6 + sets[1][1]])
    )
    np.testing.assert_allclose(joint.predict_proba(X), together.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("bank", ["gabor", "conv"])
def test_files_are_a_source(joint, files, source, bank, pixels):
    X, y = files
    descriptor = FilterBankDescriptor(bank, backbone=joint.backbone, preprocess=SMALL)
    joint.set_params(recipe__descriptor=descriptor)
    of_files = clone(joint).fit(X[:12], y[:12], X_source=X[12:], y_source=y[12:])
    of_pixels = joint.fit(pixels[0][:12], y[:12], X_source=pixels[0][12:], y_source=y[12:])
    np.testing.assert_array_equal(of_files.neighbors_, of_pixels.neighbors_)
    np.testing.assert_allclose(of_files.predict_proba(X), of_pixels.predict_proba(pixels[0]), atol=1e-5)


def test_retrieval_is_kept_in_a_cache_folder(joint, pixels, source, tmp_path, monkeypatch):
    X, y = pixels
    joint.set_params(cache=tmp_path / "cache")
    first = joint.fit(X[:12], y[:12], X_source=source[0], y_source=source[1]).neighbors_
    transformed = []
    original = FilterBankDescriptor._histograms
    monkeypatch.setattr(
        FilterBankDescriptor, "_histograms", lambda self, maps: transformed.append(len(maps[0])) or original(self, maps)
    )
    again = clone(joint).fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    np.testing.assert_array_equal(again.neighbors_, first)
    assert sum(transformed) == 12  # the target's; those of the source were there
    assert np.array_equal(
        clone(joint).set_params(cache=True).fit(X[:12], y[:12], X_source=source[0], y_source=source[1]).neighbors_,
        first,
    )


def test_iterations_share_a_time_limit(joint, pixels, source, monkeypatch):
    X, y = pixels
    net, reserved = Problem.net, []
    monkeypatch.setattr(Problem, "net", lambda *args, **options: reserved.append(options) or net(*args, **options))
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    joint.set_params(max_seconds=60).fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    assert [options.get("reserved", 0) for options in reserved] == [40, 30, 0, 0]  # the last net is not trained


@pytest.mark.parametrize("head_init", ["linear_probe", "random"])
def test_other_ways_of_training(joint, pixels, source, head_init):
    X, y = pixels
    joint.set_params(head_init=head_init, augment=lambda x: x.flip(3), warm_start=True, recipe__min_per_class=8)
    for n in (8, 12):
        joint.fit(X[:n], y[:n], X_source=source[0], y_source=source[1])
    assert joint.predict(X).shape == (40,)


def test_borrowed_images_are_changed_too(joint, pixels, source):
    X, y = pixels
    sizes = []
    counted = clone(joint).set_params(augment=lambda x: sizes.append(len(x)) or x, recipe__n_iterations=1)
    counted.fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    assert set(sizes) == {12}  # of the target and, each time, as many borrowed
    assert len(sizes) % 2 == 0
    plain = clone(joint).set_params(recipe__n_iterations=1).fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    np.testing.assert_allclose(counted.predict_proba(X), plain.predict_proba(X), atol=1e-4)


def test_a_source_of_which_nothing_is_left_changes_nothing_else(joint, pixels, source):
    X, y = pixels
    joint.set_params(recipe__min_per_class=50).fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
    assert [len(borrowed) for borrowed in joint.borrowed_] == [0, 0, 0]
    assert joint.score(X, y) > 0.5


def test_the_neighbors_of_a_pipeline_are_searched(joint, pixels, source):
    X, y = pixels
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(FunctionTransformer(), joint.set_params(max_epochs=2))
        grid = GridSearchCV(pipeline, {"frozenprefixclassifier__recipe__n_neighbors": [2, 4]}, cv=2)
        grid.fit(X, y, X_source=source[0], y_source=source[1])
        assert (grid.best_estimator_[-1].n_neighbors_[0] == grid.best_params_.popitem()[1]).all()


def test_retrieval_follows_the_labels(joint, pixels, source):
    X, y = pixels
    learner = ActiveLearner(joint, X_training=X[:8], y_training=y[:8], X_source=source[0], y_source=source[1])
    learner.teach(X[8:12], y[8:12], X_source=source[0], y_source=source[1])
    assert learner.estimator.neighbors_.shape[0] == 12
    active = ActiveClassifier(joint, Query(random_sampling), n_queries=2, batch_size=6, random_state=0)
    active.fit(X, y, X_source=source[0], y_source=source[1])
    assert active.estimator_.neighbors_.shape[0] == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X_source": 1}, "must be passed together"),
        ({"X_source": 1, "y_source": 1}, "inconsistent numbers of samples"),
        ({"X_source": (), "y_source": 0}, "only one is a tuple"),
        ({"X_source": (1,), "y_source": (1, 1)}, "X_source contains 1 sets, but y_source contains 2"),
    ],
)
def test_sources_that_do_not_fit_are_refused(joint, pixels, source, given, message):
    X, y = pixels
    of = {"X_source": (X, X[:5]), "y_source": (y[:5], y)}

    def made(name, value):
        return tuple(of[name][k] for k in value) if isinstance(value, tuple) else of[name][1 - value]

    with pytest.raises(ValueError, match=message):
        joint.fit(X, y, **{name: made(name, value) for name, value in given.items()})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([np.nan] * 60, r"y_source\[0\] is nan"),
        (np.full(60, np.nan), "Input y_source contains NaN"),
        ([*"uvwxyz" * 9, *"uvwxy", None], r"y_source\[59\] is None"),
        (np.linspace(0, 1, 60), "y_source is not an array of class labels"),
        ([*"uvwxyz" * 9, *range(6)], "y_source contains labels of different types"),
    ],
)
def test_labels_of_the_source_are_checked(joint, pixels, source, bad, message):
    X, y = pixels
    with pytest.raises(ValueError, match=message):
        joint.fit(X, y, X_source=source[0], y_source=bad)
    with pytest.raises(ValueError, match=message.replace("y_source", r"y_source\[1\]", 1)):
        joint.fit(X, y, X_source=(X, source[0]), y_source=(y, bad))
    with pytest.raises(ValueError, match=r"SelectiveJoint requires y_source\[1\] to be passed"):
        joint.fit(X, y, X_source=(X, X), y_source=(y, None))


def test_features_cannot_borrow(mlp):
    X = np.random.default_rng(0).normal(size=(10, 7))
    with pytest.raises(ValueError, match="X contains 2-D features"):
        FrozenPrefixClassifier(mlp, recipe=SelectiveJoint(), random_state=0).fit(
            X, np.arange(10) % 2, X_source=X, y_source=np.arange(10) % 2
        )


@pytest.mark.parametrize(
    ("name", "value"), [("n_neighbors", 0), ("n_iterations", 0), ("delta", -1), ("min_per_class", 0), ("fusion", 3)]
)
def test_parameters_out_of_range_are_refused(joint, pixels, name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        joint.set_params(**{f"recipe__{name}": value}).fit(*pixels)


def test_banks_and_descriptors_are_drawn(joint, pixels):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gabor = FilterBankDescriptor(image_size=16, n_bins=5).fit(pixels[0])
    conv = FilterBankDescriptor("conv", backbone=joint.backbone, preprocess=SMALL, n_bins=5).fit(pixels[0])
    assert len(gabor.plot().axes) == 24
    assert sum(bool(ax.images) for ax in conv.plot().axes) == 6
    drawn = conv.plot(pixels[0][:1]).images[0].get_array()
    np.testing.assert_allclose(drawn, conv.transform(pixels[0][:1]).reshape(-1, 5))
    plt.close("all")


def test_another_source_has_its_own_place_in_the_folder(joint, pixels, source, tmp_path):
    X, y = pixels
    joint.set_params(cache=tmp_path / "cache")
    for n in (60, 40):
        folder = clone(joint).fit(X[:12], y[:12], X_source=source[0][:n], y_source=source[1][:n])
        memory = clone(joint).set_params(cache=True)
        memory.fit(X[:12], y[:12], X_source=source[0][:n], y_source=source[1][:n])
        np.testing.assert_array_equal(folder.neighbors_, memory.neighbors_)


def test_what_a_joint_fit_leaves_is_gone_after_a_plain_one(joint, pixels, source):
    X, y = pixels
    joint.fit(X[:12], y[:12], X_source=source[0], y_source=source[1]).fit(X, y)
    assert not hasattr(joint, "borrowed_")


def test_batches_are_not_to_be_made_by_others(joint, pixels, source):
    X, y = pixels
    joint.set_params(net_params={"train_split": None})
    with pytest.raises(ValueError, match="net_params contains"):
        joint.fit(X[:12], y[:12], X_source=source[0], y_source=source[1])
