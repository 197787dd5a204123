"""DAN: what its loss holds, what it is given, and that it brings domains together."""

import math

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch.history import History
from torch import nn

from skal import DAN, FrozenPrefixClassifier
from skal._random import seeded
from skal.metrics import soft_neighborhood_density, target_density
from skal.numerics.discrepancy import kernel_weights, median_bandwidths, mmd2
from skal.training.batches import LabelledRows
from skal.training.dan import AdaptationNet, TwoDomains, WithActivations, split_domains
from tests.conftest import SMALL


@pytest.fixture
def shifted():
    """Two classes in 7 features, and the same moved so far that one lies where the other was."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = rng.normal(size=(120, 7)).astype(np.float32)
    X[:, 0] += 3 * y
    target = rng.normal(size=(120, 7)).astype(np.float32)
    target[:, 0] += 3 * y
    target[:, 0] += 2.0
    return X, y, target


@pytest.fixture
def dan(mlp):
    return FrozenPrefixClassifier(
        mlp, n_frozen=0, recipe=DAN(labels="source"), max_epochs=15, min_steps=0, random_state=0
    )


def test_adaptation_brings_the_domains_together(dan, shifted, device):
    X, y, target = shifted
    dan.set_params(max_epochs=60, device=device)
    alone = clone(dan).fit(X, y)
    adapted = dan.set_params(recipe__lam=3.0).fit(X, y, X_unlabeled=target)

    def discrepancy(model):
        features = [model.transform(part) for part in (X, target)]
        return mmd2(*features, bandwidths=median_bandwidths(*features))

    assert discrepancy(adapted) < discrepancy(alone) / 2
    assert adapted.score(target, y) > alone.score(target, y)


@pytest.mark.parametrize("optimal", [False, True])
@pytest.mark.parametrize("estimator", ["unbiased", "biased", "linear"])
def test_the_loss_is_that_of_the_text(optimal, estimator):
    with seeded(0):
        module = nn.Module()
        module.head = nn.Linear(3, 2)
        logits, inner = torch.randn(18, 2), torch.randn(18, 5)
    net = AdaptationNet(
        module, lam=0.7, with_logits=True, n_kernels=3, optimal=optimal, estimator=estimator, n_rows=6, batch_size=6,
        criterion=nn.CrossEntropyLoss, classes=[0, 1], train_split=None, max_epochs=4, head_penalty=0.1,
    ).initialize()  # fmt: skip
    for _ in range(2):
        net.history.new_epoch()
    net.history.new_batch()
    y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1])
    domain = torch.arange(3).repeat_interleave(6)  # source, labelled target, target
    loss = net.get_loss((logits, [inner]), {"target": y, "domain": domain}, training=True)
    expected = nn.functional.cross_entropy(logits[:12], y) + 0.1 * module.head.weight.square().sum()
    p = 1 / 4  # one of four epochs is done
    warm = 0.7 * (2 / (1 + math.exp(-10 * p)) - 1)
    for values in (inner, logits):
        source, target = values[:6], values[12:]
        sigmas = median_bandwidths(source, target, 3)
        beta = kernel_weights(source, target, bandwidths=sigmas) if optimal else None
        expected = expected + warm * mmd2(source, target, bandwidths=sigmas, weights=beta, estimator=estimator)
    torch.testing.assert_close(loss, expected.to(loss))


@pytest.mark.parametrize("case", ["few", "coinciding"])
def test_without_a_bandwidth_or_enough_images_the_loss_is_that_of_the_labels(case):
    n_target = 3 if case == "few" else 6
    with seeded(0):
        module = nn.Module()
        module.head = nn.Linear(3, 2)
        logits, inner = torch.randn(6 + n_target, 2), torch.randn(6 + n_target, 5)
    if case == "coinciding":
        inner = torch.ones_like(inner)
    net = AdaptationNet(
        module, lam=0.7, with_logits=False, n_kernels=3, optimal=False, estimator="unbiased", n_rows=6, batch_size=6,
        criterion=nn.CrossEntropyLoss, classes=[0, 1], train_split=None, max_epochs=1, head_penalty=0.0,
    ).initialize()  # fmt: skip
    net.history.new_epoch()
    net.history.new_batch()
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    domain = torch.tensor([0] * 6 + [2] * n_target)
    loss = net.get_loss((logits, [inner]), {"target": y, "domain": domain}, training=True)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits[:6], y))


def test_the_weight_of_the_discrepancy_follows_the_steps_or_the_time_limit(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with seeded(0):
        module = nn.Module()
        module.head = nn.Linear(3, 2)
    net = AdaptationNet(
        module, lam=0.7, with_logits=False, n_kernels=3, optimal=False, estimator="unbiased", n_rows=6, batch_size=6,
        criterion=nn.CrossEntropyLoss, classes=[0, 1], train_split=None, max_epochs=10, deadline=110.0,
    ).initialize()  # fmt: skip
    weights = []
    for n_epochs, now in ((0, 100.0), (0, 105.0), (5, 105.1), (6, 105.2), (7, 109.0), (8, 120.0)):
        clock[0] = now
        net.history_ = History([{"batches": [{}]}] * (n_epochs + 1))  # in the first batch of the next epoch
        weights.append(net._warmed_up())
    progress = np.array([0, 0.5, 0.51, 0.6, 0.9, 1.0])
    np.testing.assert_allclose(weights, 0.7 * (2 / (1 + np.exp(-10 * progress)) - 1), atol=1e-9)


def test_without_epochs_the_head_is_fitted_on_both_domains(mlp, shifted):
    X, y, target = shifted
    probe = FrozenPrefixClassifier(mlp, recipe=DAN(), max_epochs=0, random_state=0)
    alone = clone(probe).set_params(recipe=None).fit(np.concatenate([X, target[:10]]), np.concatenate([y, y[:10]]))
    probe.fit(target[:10], y[:10], X_source=X, y_source=y, X_unlabeled=target)
    np.testing.assert_array_equal(probe.predict_proba(target), alone.predict_proba(target))
    assert len(probe.net_.history) == 0


def test_domains_of_which_every_target_row_is_labelled():
    X, y = np.arange(6.0)[:, None], np.array(["a", "b", "a", "b", "b", "a"])
    own, labels, data = split_domains(X, y, np.array([1, -1, 2, -2, 1, -1]))
    np.testing.assert_array_equal(own[:, 0], [1, 3, 5])
    assert labels.tolist() == ["b", "b", "a"]
    np.testing.assert_array_equal(data["X_source"][:, 0], [0, 2, 4])
    assert data["y_source"].tolist() == ["a", "a", "b"]
    assert "X_unlabeled" not in data


def test_a_batch_holds_source_labelled_target_and_target():
    labelled = LabelledRows(torch.arange(9.0)[:, None].__getitem__, torch.arange(9) % 3)
    rows = TwoDomains(labelled, 6, 3, 20, lambda rows: torch.as_tensor(rows)[:, None].float() + 100)
    with seeded(0):
        x, y = rows[[5, 0, 2, 1]]
    assert x[:4, 0].tolist() == [5, 0, 2, 1]
    assert y["target"][:4].tolist() == [2, 0, 2, 1]
    assert sorted(x[4:7, 0].tolist()) == [6, 7, 8]
    assert y["target"][4:].tolist() == (x[4:7, 0].int() % 3).tolist()
    assert len(set(x[7:, 0].tolist())) == 4
    assert (x[7:] >= 100).all()
    assert y["domain"].tolist() == [0] * 4 + [1] * 3 + [2] * 4


def test_the_target_is_changed_too(dan, shifted):
    X, y, target = shifted
    maxima = []
    dan.set_params(max_epochs=3)
    same = clone(dan).set_params(augment=lambda x: maxima.append(float(x[:, 0].max())) or x)
    target = target + np.float32(100)
    same.fit(X, y, X_unlabeled=target)
    assert min(maxima) < 50 < max(maxima)
    np.testing.assert_allclose(same.predict_proba(X), dan.fit(X, y, X_unlabeled=target).predict_proba(X), atol=1e-4)


def test_activations_are_those_of_the_suffix_itself(convnet, pixels):
    fitted = FrozenPrefixClassifier(convnet, preprocess=SMALL, n_frozen=1, max_epochs=1, min_steps=0, random_state=0)
    fitted.fit(*pixels)
    layers, suffix = fitted.backbone_.layers, fitted.net_.module_
    both = WithActivations(suffix, layers.segment(layers.cut(1), [layers.resolve(-2), layers.features], suffix.body))
    assert {id(p) for p in both.parameters()} == {id(p) for p in suffix.parameters()}
    (at_cut,) = fitted.activations(pixels[0], [layers.cut(1).name])
    x = torch.from_numpy(at_cut).view(40, *_shape(layers, pixels))
    logits, (inner,) = both.eval()(x)
    torch.testing.assert_close(logits, suffix.eval()(x))
    np.testing.assert_allclose(inner.detach(), fitted.activations(pixels[0], [-2], pooled=True)[0], atol=1e-5)


def _shape(layers, pixels):
    example = SMALL(torch.from_numpy(pixels[0][:1]))
    return layers.segment(layers.input, [layers.cut(1)]).eval()(example)[0].shape[1:]


def test_three_forms_of_the_same_data(dan, shifted):
    X, y, target = shifted
    dan.set_params(max_epochs=3)
    fits = [
        clone(dan).fit(target[:10], y[:10], X_source=X, y_source=y, X_unlabeled=target[10:]),
        clone(dan).fit(
            np.concatenate([target[:10], X, target[10:]]),
            np.concatenate([y[:10], y, np.full(110, -1)]),
            sample_domain=np.concatenate([np.full(10, -2), np.full(120, 1), np.full(110, -2)]),
        ),
    ]
    np.testing.assert_array_equal(*(fit.predict_proba(target) for fit in fits))
    unlabelled = [
        clone(dan).fit(X, y, X_unlabeled=target),
        clone(dan).fit(
            np.concatenate([X, target]),
            np.concatenate([y, np.full(120, -1)]),
            sample_domain=np.repeat([1, -1], 120),
        ),
    ]
    np.testing.assert_array_equal(*(fit.predict_proba(target) for fit in unlabelled))
    np.testing.assert_array_equal(unlabelled[0].data_["X_source"], X)
    np.testing.assert_array_equal(unlabelled[0].data_["X_unlabeled"], target)


def test_without_a_target_it_is_an_ordinary_classifier(dan, shifted):
    X, y, _ = shifted
    plain = FrozenPrefixClassifier(dan.backbone, n_frozen=0, max_epochs=15, min_steps=0, random_state=0).fit(X, y)
    np.testing.assert_array_equal(dan.fit(X, y).predict_proba(X), plain.predict_proba(X))


def test_new_classes_of_the_target_join_those_of_the_source(dan, shifted):
    X, y, target = shifted
    names = np.array(["zero", "one", "two"])
    fitted = dan.fit(target[:6], names[[0, 1, 2, 2, 2, 2]], X_source=X, y_source=names[y], X_unlabeled=target[6:])
    assert fitted.classes_.tolist() == ["one", "two", "zero"]


def test_files_are_a_target(convnet, pixels, files):
    fits = [
        FrozenPrefixClassifier(
            convnet, preprocess=SMALL, recipe=DAN(labels="source"), max_epochs=2, min_steps=0, random_state=0
        ).fit(part[0][:20], part[1][:20], X_unlabeled=part[0][20:])
        for part in (pixels, files)
    ]
    np.testing.assert_allclose(fits[0].predict_proba(pixels[0]), fits[1].predict_proba(files[0]), atol=1e-5)


def test_selection_without_target_labels(dan, shifted):
    X, y, target = shifted
    with sklearn.config_context(enable_metadata_routing=True):
        dan.set_params(max_epochs=3)
        grid = GridSearchCV(dan, {"recipe__lam": [0.0, 1.0]}, scoring=target_density, cv=2)
        grid.fit(X, y, X_unlabeled=target[:100])
        assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    with pytest.raises(ValueError, match="fitted without target images"):
        target_density(clone(dan).fit(X, y))


def test_density_equals_a_plain_version():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 30)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    entropies = []
    for i in range(30):
        similar = np.exp(np.delete(unit @ unit[i], i) / 0.05)
        similar /= similar.sum()
        entropies.append(-(similar * np.log(similar)).sum())
    assert soft_neighborhood_density(p) == pytest.approx(np.mean(entropies))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X_source": 1}, "must be passed together"),
        ({"sample_domain": np.ones(20), "X_unlabeled": 1}, "X_source and X_unlabeled are not allowed"),
        ({"sample_domain": np.append(np.ones(19), 0)}, r"must contain a positive number .* sample_domain\[19\] is 0"),
        ({"sample_domain": [1, 1, np.nan, *[-1] * 17]}, r"sample_domain\[2\] is nan"),
        ({"sample_domain": ["source"] * 20}, "must contain a positive number .*'source'"),
        ({"sample_domain": np.ones((20, 1))}, r"its shape is \(20, 1\)"),
        ({"sample_domain": -np.ones(20)}, "there is no source"),
        ({"sample_domain": np.ones(19)}, "inconsistent numbers of samples"),
        ({"X_unlabeled": np.zeros((3, 7), np.float32)}, "got 3 target images, but DAN needs at least 4"),
        ({"X_unlabeled": np.zeros((9, 6), np.float32)}, "features"),
    ],
)
def test_data_that_do_not_fit_are_refused(dan, given, message):
    X = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    given = {name: X if isinstance(value, int) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        dan.fit(X, np.arange(20) % 2, **given)


@pytest.mark.parametrize(
    ("name", "value"), [("lam", -1), ("n_kernels", 0), ("kernel_weights", "best"), ("estimator", "exact")]
)
def test_parameters_out_of_range_are_refused(dan, shifted, name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        dan.set_params(**{f"recipe__{name}": value}).fit(*shifted[:2])


def test_a_frozen_layer_cannot_be_adapted(convnet, pixels):
    X, y = pixels
    with pytest.raises(ValueError, match="frozen"):
        FrozenPrefixClassifier(convnet, preprocess=SMALL, n_frozen=3, recipe=DAN(mmd_layers=["conv1"])).fit(
            X, y, X_source=X, y_source=y, X_unlabeled=X
        )


def test_names_can_be_masked(dan, shifted):
    X, y, target = shifted
    names = np.array(["a", "b"])[y]
    both, domain = np.concatenate([X, target]), np.repeat([1, -1], 120)
    dan.set_params(max_epochs=2)
    for masked in ([*names, *[-1] * 120], np.concatenate([names, ["-1"] * 120])):
        fitted = clone(dan).fit(both, masked, sample_domain=domain)
        assert fitted.classes_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="must have the same type"):
        dan.fit(target[:4], names[:4], X_source=X, y_source=y)


def test_a_batch_too_small_for_a_discrepancy_is_refused(dan, shifted):
    X, y, target = shifted
    with pytest.raises(ValueError, match="batch_size=2 or the number of source images, 120, is below"):
        dan.set_params(batch_size=2).fit(X, y, X_unlabeled=target)


def test_the_loop_hands_on_the_whole_target(dan, shifted):
    from skal import ActiveClassifier

    X, y, target = shifted
    active = ActiveClassifier(dan.set_params(max_epochs=1), n_queries=2, batch_size=5, random_state=0)
    active.fit(target, y, X_source=X, y_source=y, X_unlabeled=target)
    assert len(active.estimator_.data_["X_unlabeled"]) == 120
    assert len(active.estimator_.data_["X_source"]) == 120
    assert len(active.estimator_.seen_.y) == 10


def test_behind_a_scaler_the_source_is_compared_as_the_network_saw_it(dan, shifted):
    from sklearn.preprocessing import StandardScaler

    from skal.query._features import features_of

    X, y, target = shifted
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), dan.set_params(max_epochs=1))
        pipeline.fit(X, y, X_unlabeled=target[:60])
    own = features_of(pipeline, target, own_sources=[pipeline[-1].data_["X_source"]]).source
    np.testing.assert_allclose(own, pipeline[-1].transform(pipeline[0].transform(X)), atol=1e-5)
