"""What a training step is given."""

import numpy as np
import pytest
import torch
from skorch.dataset import ValidSplit

from skal._random import seeded
from skal.training.batches import BatchLoader, LabelledRows, replay_shares


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


def test_rows_held_out_for_validation_are_not_replayed(classifier, pixels):
    X, y = pixels
    classifier.set_params(net_params={"train_split": ValidSplit(5, stratified=False)}).fit(X[:30], y[:30])
    assert len(classifier.seen_.y) == 24
    assert "valid_loss" in classifier.partial_fit(X[30:], y[30:]).net_.history[-1]
    assert len(classifier.seen_.y) == 24 + 8


def test_every_row_is_drawn_once_but_for_a_last_one_alone():
    data = torch.utils.data.TensorDataset(torch.arange(13.0)[:, None], torch.arange(13))
    with seeded(0):
        for size, lengths in ((13, [13]), (12, [12]), (5, [5, 5, 3]), (1, [1] * 13)):
            drawn = [y for _, y in BatchLoader(data, size)]
            assert [len(y) for y in drawn] == lengths
            assert len(set(torch.cat(drawn).tolist())) == sum(lengths)
        assert torch.cat([y for _, y in BatchLoader(data, 5)]).tolist() != list(range(13))


def test_labelled_rows_carry_their_weights():
    x = torch.arange(4.0)[:, None]
    plain, weighted = (
        LabelledRows(x.__getitem__, torch.tensor([1, 0, 1, 2]), w) for w in (None, torch.tensor([0.5, 1, 2, 4]))
    )
    assert len(plain) == len(weighted) == 4
    torch.testing.assert_close(plain[[2, 0]], (x[[2, 0]], torch.tensor([1, 1])))
    rows, labels = weighted[[3, 1]]
    torch.testing.assert_close(rows, x[[3, 1]])
    torch.testing.assert_close(labels, {"target": torch.tensor([2, 0]), "weight": weighted.weights[[3, 1]]})
