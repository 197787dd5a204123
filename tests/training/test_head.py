"""The head against convex oracles."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from skal._random import seeded
from skal.training.head import HeadPenalty, default_C, solve_head
from tests.conftest import blobs, on_features, toy_mlp
from tests.reference.training.head import ref_solve_head


@pytest.mark.parametrize("normalize", [False, True])
def test_without_epochs_it_is_the_linear_probe(classifier, pixels, normalize, device):
    X, y = pixels
    classifier.set_params(max_epochs=0, normalize=normalize, device=device).fit(X, y)
    Z = classifier.transform(X).astype(np.float64)
    np.testing.assert_allclose(Z, classifier.activations(X, [-2], pretrained=True)[0], rtol=1e-5)
    if normalize:
        Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    Z -= Z.mean(axis=0)
    Z /= np.sqrt((Z**2).sum(axis=1).mean())
    probe = LogisticRegression(C=40 / 20, max_iter=1000, tol=1e-6).fit(Z, y)
    np.testing.assert_allclose(classifier.predict_proba(X), probe.predict_proba(Z), atol=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("normalize", [True, False])
def test_probe_is_the_convex_optimum(n_classes, normalize):
    X, y = blobs(50, n_classes=4)
    keep = np.isin(y, np.unique(y)[:n_classes])
    X, y = X[keep], y[keep]
    classifier = on_features(max_epochs=0, normalize=normalize, class_weight=None).fit(X[::2], y[::2])
    train, test = classifier.transform(X[::2]), classifier.transform(X[1::2])
    net = toy_mlp()
    with torch.no_grad():
        features = net[:-1](torch.tensor(X[::2], dtype=torch.float32)).numpy()
    np.testing.assert_allclose(train, features, atol=1e-5)
    if normalize:
        train, test = (F / np.linalg.norm(F, axis=1, keepdims=True) for F in (train, test))
    C = max(2, len(train) / 20)
    oracle = ref_solve_head(train, y[::2], C=C)
    np.testing.assert_allclose(classifier.predict_proba(X[1::2]), oracle(test), atol=2e-3)
    if n_classes > 2:  # of two classes scikit-learn fits one vector, which its penalty counts otherwise
        center = train.mean(axis=0)
        scale = np.sqrt(((train - center) ** 2).sum(axis=1).mean())
        sk = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit((train - center) / scale, y[::2])
        np.testing.assert_allclose(
            classifier.predict_proba(X[1::2]), sk.predict_proba((test - center) / scale), atol=2e-3
        )
        np.testing.assert_array_equal(classifier.classes_, sk.classes_)


def test_probe_does_not_depend_on_depth_and_weighs_classes():
    X, y = blobs(60)
    y = np.where(np.arange(60) < 40, y, "bee")
    probas = [on_features(max_epochs=0, n_frozen=k).fit(X, y).predict_proba(X) for k in (0, 1, 2, 3)]
    for proba in probas[1:]:
        np.testing.assert_allclose(proba, probas[0], atol=1e-4)
    balanced = on_features(max_epochs=0, class_weight="balanced").fit(X, y)
    classes, counts = np.unique(y, return_counts=True)
    weight = (len(y) / len(classes) / counts)[np.searchsorted(classes, y)]
    F = balanced.transform(X)
    F = F / np.linalg.norm(F, axis=1, keepdims=True)
    np.testing.assert_allclose(balanced.predict_proba(X), ref_solve_head(F, y, C=3, weight=weight)(F), atol=2e-3)


@pytest.mark.parametrize(
    ("weight", "C"),
    [
        ([1] * 10, 2),
        ([5] * 10, 2),  # the scale of weights does not matter
        ([1] * 90, 4.5),
        ([1.0, 1.0, 1.0, 1.8], 2 / 1.5),
        ([1, 1, 1, 9], 1),
        ([1] * 59 + [9], 3),
    ],
)
def test_few_images_of_unequal_weight_have_a_stronger_penalty(weight, C):
    assert default_C(np.array(weight)) == pytest.approx(C)
    assert pytest.approx(C) == HeadPenalty.of(np.eye(len(weight)), sample_weight=np.array(weight)).C


def test_the_penalty_of_few_labels_depends_on_the_balance_of_their_classes():
    """C = 2 with four labels of each class. One label against six weighs 3.5 times the mean, so C is 1."""
    X, y = blobs(24, n_classes=2)
    ants, bees = (np.flatnonzero(y == name) for name in ("ant", "bee"))
    for n_ants, n_bees, C in ((4, 4, 2), (6, 1, 1)):
        rows = np.concatenate([ants[:n_ants], bees[:n_bees]])
        classifier = on_features(max_epochs=0, normalize=False).fit(X[rows], y[rows])
        F = classifier.transform(X[rows])
        weight = compute_sample_weight("balanced", y[rows])
        oracle = ref_solve_head(F, y[rows], C=C, weight=weight)
        np.testing.assert_allclose(classifier.predict_proba(X[rows]), oracle(F), atol=2e-3)


def test_solve_head_on_given_features():
    rng = np.random.default_rng(0)
    y = np.arange(45) % 3
    F = (rng.normal(size=(45, 5)) * [1, 5, 0.1, 1, 1] + 7 + np.eye(3, 5)[y]).astype(np.float32)
    with seeded(0):
        head = nn.Linear(5, 3)
    penalty = HeadPenalty.of(F)
    assert pytest.approx(45 / 20) == penalty.C
    np.testing.assert_allclose(penalty.center, F.mean(axis=0), rtol=1e-5)
    assert penalty.scale == pytest.approx(np.sqrt(((F - F.mean(axis=0)) ** 2).sum(axis=1).mean()), rel=1e-5)
    solve_head(head, F, y, penalty)
    proba = head(torch.tensor(F)).softmax(1).detach().numpy()
    np.testing.assert_allclose(proba, ref_solve_head(F, y, C=45 / 20)(F), atol=1e-3)

    kept = {"weight": head.weight[:2].detach().clone(), "bias": head.bias[:2].detach().clone()}
    solve_head(head, F, y, penalty, new=np.array([2]))
    assert torch.equal(head.weight[:2], kept["weight"])
    assert torch.equal(head.bias[:2], kept["bias"])


def test_new_rows_of_a_grown_head_are_the_optimum_beside_fixed_ones(classifier, pixels):
    """Against scipy on the same convex problem, one row free."""
    X, y = pixels
    three = y != "y"
    classifier.set_params(max_epochs=0, warm_start=True, normalize=False).fit(X[three], y[three])
    old = classifier.net_.module_.head.weight.detach().numpy().copy()
    old_bias = classifier.net_.module_.head.bias.detach().numpy().copy()
    classifier.fit(X, y)
    head = classifier.net_.module_.head
    np.testing.assert_array_equal(head.weight[:3].detach(), old)
    Z = classifier.transform(X).astype(np.float64)
    target = np.searchsorted(classifier.classes_, y)
    scale, C = np.sqrt(((Z - Z.mean(axis=0)) ** 2).sum(axis=1).mean()), 40 / 20

    def objective(row):
        logits = np.column_stack([Z @ old.T + old_bias, Z @ row[:-1] + row[-1]])
        return (logsumexp(logits, axis=1) - logits[np.arange(40), target]).sum() + (row[:-1] ** 2).sum() * scale**2 / (
            2 * C
        )

    own = np.append(head.weight[3].detach().numpy(), head.bias[3].item())
    best = minimize(objective, np.zeros(len(own)), options={"gtol": 1e-8})
    assert objective(own) == pytest.approx(best.fun, rel=1e-4)
