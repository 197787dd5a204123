"""Learning rates, steps, and skorch's own arguments."""

import torch
from sklearn.base import clone
from skorch.callbacks import Callback
from torch.utils.data import DataLoader


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
