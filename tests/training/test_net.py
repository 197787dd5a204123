"""Learning rates, steps, and skorch's own arguments."""

import time

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import DataLoader

from skal._random import seeded
from skal.training.net import Options, SuffixNet, build_net
from tests.conftest import blobs, on_features


def test_random_head_and_skorch_arguments(classifier, pixels):
    X, y = pixels
    epochs = []

    class Recorder(Callback):
        def on_epoch_end(self, net, **kwargs):
            epochs.append(net.history[-1, "train_loss"])

    classifier.set_params(
        head_init="random",
        optimizer=torch.optim.SGD,
        net_params={"callbacks": [Recorder()], "optimizer__momentum": 0.9},
    ).fit(X, y)
    assert len(epochs) == 5
    assert classifier.net_.optimizer_.param_groups[0]["momentum"] == 0.9
    assert classifier.net_.optimizer_.param_groups[0]["lr"] < 5e-3  # falls to zero


def test_relative_rates_change_every_tensor_by_the_same_share(classifier, pixels):
    X, y = pixels
    classifier.set_params(lr=0.01, max_epochs=1, batch_size=40, relative_lr=True, weight_decay=0).fit(X, y)
    trained, before = classifier.net_.module_, clone(classifier).set_params(max_epochs=0).fit(X, y).net_.module_
    for (name, end), start in zip(trained.named_parameters(), before.parameters(), strict=True):
        if end.requires_grad and not name.endswith("bias"):
            share = (end - start).norm() / start.norm()
            assert 0.5 < share / 0.01 < 1.1, name  # Adam's first step is the rate, where a weight has a gradient


def test_few_images_are_passed_more_often(classifier, pixels):
    X, y = pixels
    assert len(classifier.set_params(min_steps=30).fit(X, y).net_.history) == 15  # of two steps each
    assert len(classifier.fit(X[:20], y[:20]).net_.history) == 30


def test_skorchs_own_loader_and_no_callbacks(classifier, pixels):
    X, y = pixels
    further = {"callbacks": "disable", "iterator_train": DataLoader, "iterator_train__shuffle": True}
    assert classifier.set_params(net_params=further).fit(X, y).score(X, y) > 0.9


def test_early_stopping_ends_the_training_but_an_interrupt_reaches_the_caller(classifier, pixels):
    X, y = pixels
    stop = EarlyStopping("train_loss", patience=2, threshold=0.9)  # no epoch improves the loss so much
    classifier.set_params(max_epochs=20, net_params={"callbacks": [stop]}).fit(X, y)
    assert len(classifier.net_.history) == 3
    assert classifier.score(X, y) > 0.5

    class Interrupting(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.set_params(net_params={"callbacks": [stop, Interrupting()]}).fit(X, y)


def test_weighted_rows_held_out_for_validation_are_scored(classifier, pixels):
    X, y = pixels
    classifier.set_params(net_params={"train_split": ValidSplit(4)}).fit(X, y, np.linspace(1, 2, 40))
    assert classifier.net_.history[-1, "valid_acc"] > 0.8


@pytest.mark.parametrize("pool", [False, True])
def test_nothing_is_trained_on_rows_held_out_for_validation(pool):
    X, y = blobs(160, n_classes=4)
    y = np.random.default_rng(0).permutation(y)  # nothing can be learned, but a head can remember these rows
    net = on_features(net_params={"train_split": ValidSplit(4, stratified=True)}, n_frozen=0, min_steps=40, lr=0.1)
    net.fit(X, y, **({"X_unlabeled": X} if pool else {}))
    assert max(net.net_.history[:, "valid_acc"]) < 0.5
    assert len(net.seen_.y) == 120
    net.partial_fit(X[:40] + 1, y[:40])  # a quarter of them is held out too
    assert len(net.seen_.y) == 150


def test_a_split_with_rows_of_its_own_is_refused(classifier, pixels):
    other = torch.utils.data.TensorDataset(torch.zeros(3, 2), torch.zeros(3))
    classifier.set_params(net_params={"train_split": predefined_split(other)})
    with pytest.raises(ValueError, match=r"train_split=.* must divide the labelled images"):
        classifier.fit(*pixels)


def test_rows_held_out_for_validation_are_not_augmented(classifier, pixels):
    n_augmented = []

    def counted(x):
        n_augmented.append(len(x))
        return x

    net_params = {"train_split": ValidSplit(4)}
    classifier.set_params(augment=counted, net_params=net_params, max_epochs=2, min_steps=0).fit(*pixels)
    assert sum(n_augmented) == 2 * 30


def test_the_loss_of_weighted_rows_by_hand():
    """The mean of each row's cross-entropy times its weight; plus the penalty in training."""
    with seeded(0):
        module = nn.Module()
        module.head = nn.Linear(4, 3)
        logits = torch.randn(5, 3)
    target, weight = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([1.0, 0.5, 3.0, 1.0, 2.0])
    net = SuffixNet(module, criterion=nn.CrossEntropyLoss, head_penalty=0.25, classes=[0, 1, 2]).initialize()
    of_rows = [-logits[i].log_softmax(0)[k] for i, k in enumerate(target)]
    expected = sum(loss * w for loss, w in zip(of_rows, weight, strict=True)) / 5
    y = {"target": target, "weight": weight}
    torch.testing.assert_close(net.get_loss(logits, y), expected)
    penalty = 0.25 * module.head.weight.square().sum()
    torch.testing.assert_close(net.get_loss(logits, y, training=True), expected + penalty)
    equal = net.get_loss(logits, {"target": target, "weight": torch.ones(5)})
    torch.testing.assert_close(equal, net.get_loss(logits, target))


@pytest.mark.parametrize("batch_size", [1, 90])
def test_weights_count_whatever_the_batch_size(batch_size):
    X, y = blobs()
    net = on_features(
        batch_size=batch_size, wise_alpha=1, class_weight=None, head_init="random", min_steps=180, n_frozen=0
    )
    plain = clone(net).fit(X, y).predict_proba(X)[:, 0].mean()
    by_row = clone(net).fit(X, y, np.where(y == "ant", 20.0, 1.0)).predict_proba(X)
    by_class = clone(net).set_params(class_weight={"ant": 20}).fit(X, y).predict_proba(X)
    assert by_row[:, 0].mean() > plain + 0.05
    np.testing.assert_allclose(by_class, by_row, atol=1e-4)
    none = clone(net).set_params(class_weight={"ant": 0}).fit(X, y)  # batches whose weights are all 0
    assert none.predict_proba(X)[:, 0].mean() < plain - 0.05


def test_weights_have_no_unit(classifier, pixels):
    X, y = pixels
    weights = np.linspace(1, 2, len(y))
    tiny, large = (clone(classifier).fit(X, y, weights * scale).predict_proba(X) for scale in (1e-40, 1e20))
    np.testing.assert_allclose(tiny, large, atol=1e-5)


def test_parameters_of_the_classifier_are_not_taken_from_net_params(classifier, pixels):
    classifier.set_params(net_params={"max_epochs": 60})
    with pytest.raises(ValueError, match="net_params contains 'max_epochs', which is a parameter of the classifier"):
        classifier.fit(*pixels)


@pytest.mark.parametrize(
    ("n_rows", "max_epochs", "min_steps", "n_parts", "epochs"),
    [(40, 5, 0, 1, 5), (40, 5, 30, 1, 15), (64, 5, 30, 1, 15), (65, 5, 30, 1, 10), (40, 0, 30, 1, 0), (0, 5, 30, 1, 0),
     (40, 30, 150, 5, 15), (40, 6, 0, 4, 2)],
)  # fmt: skip
def test_epochs_by_hand(classifier, n_rows, max_epochs, min_steps, n_parts, epochs):
    """Batches of 32: at least max_epochs, and as many as make min_steps; several nets share both."""
    options = Options.of(classifier.set_params(max_epochs=max_epochs, min_steps=min_steps))
    module = nn.Module()
    with seeded(0):
        module.head = nn.Linear(4, 3)
    share = {
        "head_penalty": 0.0,
        "share_of": None,
        "hidden": None,
        "device": "cpu",
        "deadline": None,
        "n_parts": n_parts,
    }
    assert build_net(module, n_rows, options, **share).max_epochs == epochs
    with seeded(0):
        module.head = nn.Linear(4, 1)
    assert build_net(module, n_rows, options, **share).max_epochs == 0  # a single class teaches nothing


def test_a_fit_ends_in_time_with_what_it_has(classifier, pixels):
    X, y = pixels
    classifier.set_params(max_epochs=100_000, max_seconds=0.5).fit(X[:4], y[:4])  # caches, imports
    start = time.perf_counter()
    classifier.fit(X, y)
    assert time.perf_counter() - start < 2
    losses = classifier.net_.history[:, "train_loss"]
    assert 1 < len(losses) < 100_000
    assert losses[-1] < losses[0]


def test_without_time_it_is_the_probe(classifier, pixels):
    X, y = pixels
    classifier.set_params(max_seconds=1e-9, wise_alpha=None).fit(X, y)
    probe = clone(classifier).set_params(max_epochs=0).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X), probe.predict_proba(X), atol=1e-6)
    assert len(classifier.net_.history) == 0


def test_time_enough_changes_nothing(classifier, pixels):
    X, y = pixels
    classifier.set_params(lr=1e-3, net_params={"callbacks": []})
    whole = clone(classifier).fit(X, y)
    in_time = clone(classifier).set_params(max_seconds=1e9).fit(X, y)
    np.testing.assert_allclose(in_time.predict_proba(X), whole.predict_proba(X), atol=1e-5)
