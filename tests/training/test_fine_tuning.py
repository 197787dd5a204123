"""The default recipe: replay, and the penalty of the head."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

import skal.features.activations
import skal.query._pool
import skal.training.fine_tuning
from skal import FineTuning
from skal.training.batches import BatchLoader


def test_replayed_and_new_images_share_the_steps(classifier, pixels, monkeypatch):
    """With replay = 0.9 nine in ten images of a step are old ones, also where most of all images are new."""
    X, y = pixels
    drawn = []
    original = skal.training.fine_tuning.replay_shares

    def recorded(is_old, replay):
        drawn.append((is_old.tolist(), replay))
        return original(is_old, replay)

    monkeypatch.setattr("skal.training.fine_tuning.replay_shares", recorded)
    classifier.set_params(warm_start=True).fit(X[:8], y[:8])
    classifier.fit(X[2:20], y[2:20])
    classifier.partial_fit(X[19:24], y[19:24])
    assert drawn == [
        ([False] * 8, 0.9),
        ([True] * 6 + [False] * 12, 0.9),
        ([True] * 17 + [False] * 5, 0.9),
    ]
    shares = original(np.array([True] * 5 + [False] * 20), 0.9)
    assert shares[:5].sum() == pytest.approx(0.9)
    assert shares[5:].sum() == pytest.approx(0.1)
    assert original(np.array([False, False]), 0.9) is None
    assert original(np.array([True, True]), 0.9) is None


@pytest.mark.parametrize("normalize", [False, True])
def test_fine_tuning_keeps_the_penalty_of_the_head(classifier, pixels, normalize):
    """The loss of training is that of the probe: with a frozen body, the probe is where it stays."""
    X, y = pixels
    classifier.set_params(n_frozen=4, normalize=normalize, lr=1e-3)
    probe = clone(classifier).set_params(max_epochs=0).fit(X, y).predict_proba(X)
    classifier.set_params(max_epochs=100).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X), probe, atol=0.02)


class Recorded(torch.optim.AdamW):
    """Counts its steps."""

    steps = 0

    def step(self, closure=None):
        Recorded.steps += 1
        return super().step(closure)


def test_only_what_is_new_or_wrong_is_trained_on(classifier, pixels, monkeypatch, device):
    """ACFT: images of the last fit that it gets right take no part in the next steps."""
    X, y = pixels
    classifier.set_params(device=device)
    seen = []
    original = BatchLoader.__init__

    def recorded(self, dataset, *args, **kwargs):
        seen.append(len(dataset))
        original(self, dataset, *args, **kwargs)

    monkeypatch.setattr(BatchLoader, "__init__", recorded)
    classifier.set_params(warm_start=True, recipe=FineTuning("misclassified"), optimizer=Recorded).fit(X[:20], y[:20])
    assert set(seen) == {20}
    relabelled = np.array(y[:24])
    relabelled[3] = "r" if y[3] != "r" else "g"
    wrong = classifier.predict(X[:20]) != relabelled[:20]
    assert 1 <= wrong.sum() < 20
    seen.clear()
    classifier.fit(X[:24], relabelled)
    assert set(seen) == {wrong.sum() + 4}
    rows = np.flatnonzero(classifier.predict(X[:24]) == relabelled)
    steps = Recorded.steps
    classifier.fit(X[rows], relabelled[rows])  # nothing to train on: the head alone is solved again
    assert Recorded.steps == steps
    assert classifier.score(X[rows], relabelled[rows]) > 0.9
    with pytest.raises(ValueError, match="replay"):
        classifier.set_params(recipe=FineTuning("wrong")).fit(X, y)
