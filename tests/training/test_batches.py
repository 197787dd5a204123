"""What a training step is given."""

import numpy as np
import pytest
import torch

from skal._random import seeded
from skal.training.batches import BatchLoader, replay_shares


def test_a_last_batch_of_one_has_no_statistics(classifier, pixels):
    X, y = pixels
    assert classifier.set_params(train_batch_norm=True, batch_size=13).fit(X, y).score(X, y) > 0.5


def test_replayed_batches_are_all_full():
    """195 images in batches of 64 would leave 3, whose step would be noise."""
    data = torch.utils.data.TensorDataset(torch.arange(195.0)[:, None], torch.arange(195))
    shares = replay_shares(np.arange(195) < 190, 0.9)
    with seeded(0):
        batches = [len(y) for _, y in BatchLoader(data, 64, shares)]
        assert batches == [64, 64, 64, 64]
        assert [len(y) for _, y in BatchLoader(data, 300, shares)] == [195]
        drawn = np.concatenate([y for _ in range(30) for _, y in BatchLoader(data, 64, shares)])
    assert np.mean(drawn >= 190) == pytest.approx(0.1, abs=0.01)
