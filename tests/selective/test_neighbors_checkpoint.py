"""The state of a search in a folder: resumed after a kill, not used when damaged or of another search."""

import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skal._files import read_tensors, write_tensors
from skal.selective import SymmetricKLNeighbors
from skal.selective.neighbors import _Search
from tests.damage import GONE, TENSOR_DAMAGES, swap
from tests.reference.retrieval import plain_distances
from tests.selective.retrieval_cases import check_neighbors, histograms
from tests.selective.test_descriptors_write import Kill


class Source:
    """A re-iterable of blocks; the pass that reaches block `fatal` once `path` exists is killed."""

    def __init__(self, blocks, path=None):
        self.blocks, self.fatal, self.path = list(blocks), None, path

    def __iter__(self):
        for i, block in enumerate(self.blocks):
            if i == self.fatal and (i == 0 or self.path.exists()):  # not while the rows are only counted
                raise Kill
            yield block


QUERIES = histograms(3, seed=1)


@pytest.fixture
def killed(tmp_path):
    """A source in six blocks, and the checkpoint of a pass over it that was killed at the fifth."""

    def kill(fatal=4, **kwargs):
        source = Source(np.split(histograms(30), 6), tmp_path / "c")
        est = SymmetricKLNeighbors(4, block_size=5, **kwargs).fit(source)
        source.fatal = fatal
        with pytest.raises(Kill):
            est.kneighbors(QUERIES, checkpoint=tmp_path / "c")
        source.fatal = None
        return est, source, tmp_path / "c"

    return kill


def check(got, blocks=None):
    check_neighbors(got, plain_distances(QUERIES, histograms(30) if blocks is None else np.concatenate(blocks)))


@pytest.mark.parametrize("fatal", [0, 1, 4, 5])
def test_a_killed_retrieval_continues(killed, fatal):
    est, _, path = killed(fatal)
    got = est.kneighbors(QUERIES, checkpoint=path)
    check(got)
    again = est.kneighbors(QUERIES, checkpoint=str(path))
    assert_array_equal(again[1], got[1])
    assert_allclose(again[0], got[0])
    # killed twice, by another process: only parameters and data are shared
    other = SymmetricKLNeighbors(4, block_size=5).fit(Source(np.split(histograms(30), 6)))
    assert_array_equal(other.kneighbors(QUERIES, checkpoint=path)[1], got[1])


def test_finished_blocks_are_not_computed_again(killed, monkeypatch):
    est, _, path = killed(4)
    see, starts = _Search.see, []
    monkeypatch.setattr(_Search, "see", lambda self, start, block: starts.append(start) or see(self, start, block))
    check(est.kneighbors(QUERIES, checkpoint=path))
    assert starts == [20, 25]


def test_a_search_over_another_lazy_source_starts_over(killed):
    est, source, path = killed(4)
    source.blocks[1] = np.repeat(QUERIES, 2, 0)[:5]  # the nearest of all
    check(est.kneighbors(QUERIES, checkpoint=path), source.blocks)
    del source.blocks[2:]
    check(est.kneighbors(QUERIES, checkpoint=path), source.blocks)


def test_a_killed_retrieval_of_the_fitted_rows_continues(tmp_path):
    source = Source(np.split(histograms(12), 4), tmp_path / "c")
    est = SymmetricKLNeighbors(3, block_size=3).fit(source)
    want = est.kneighbors()
    for fatal in (1, 3, 2):
        source.fatal = fatal
        with suppress(Kill):
            est.kneighbors(checkpoint=tmp_path / "c")
    source.fatal = None
    got = est.kneighbors(checkpoint=tmp_path / "c")
    assert_array_equal(got[1], want[1])
    assert_allclose(got[0], want[0])


@pytest.mark.parametrize(
    "change", ["queries", "fewer queries", "k", "weights", "eps", "source", "permuted source", "self"]
)
def test_other_data_or_parameters_have_their_own_state_in_the_folder(killed, change):
    est, _, path = killed(4)
    queries, blocks, k, kwargs = QUERIES, np.split(histograms(30), 6), 4, {}
    if change == "queries":
        queries = histograms(3, seed=2)
    elif change == "fewer queries":
        queries = queries[:2]
    elif change == "k":
        k = 5
    elif change == "weights":
        kwargs = {"weights": np.full(24, 2.0)}
    elif change == "eps":
        kwargs = {"eps": 1e-10}
    elif change == "source":
        blocks = np.split(histograms(30, seed=5), 6)
    elif change == "permuted source":
        blocks = blocks[::-1]
    elif change == "self":
        queries = None
    other = SymmetricKLNeighbors(k, block_size=5, **kwargs).fit(Source(blocks))
    want = other.kneighbors(queries)
    got = other.kneighbors(queries, checkpoint=path)
    assert_array_equal(got[1], want[1])
    assert_allclose(got[0], want[0])
    assert len(list(path.iterdir())) == 2
    check(est.kneighbors(QUERIES, checkpoint=path))


@pytest.mark.parametrize("damage", {**TENSOR_DAMAGES, **GONE})
def test_a_damaged_state_is_a_warning_and_the_search_starts_anew(killed, damage):
    est, _, path = killed(4)
    (file,) = path.iterdir()
    {**TENSOR_DAMAGES, **GONE}[damage](file)
    if damage == "deleted":
        check(est.kneighbors(QUERIES, checkpoint=path))
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(est.kneighbors(QUERIES, checkpoint=path))
    messages = [str(warning.message) for warning in caught]
    assert "starts over" in messages[0]
    assert file.name in messages[0]
    assert len(messages) == (2 if damage == "a folder" else 1)  # a folder is in the way of the new state, too
    if damage != "a folder":
        check(est.kneighbors(QUERIES, checkpoint=path))  # healed


def test_swapped_and_misshapen_states_are_not_used(killed):
    est, _, path = killed(4)
    est.kneighbors(histograms(3, seed=2), checkpoint=path)
    swap(*path.iterdir())
    with pytest.warns(RuntimeWarning, match="belongs to another search"):
        check(est.kneighbors(QUERIES, checkpoint=path))
    for file in path.iterdir():
        described = read_tensors(file, "nearest neighbours")[1]
        tensors = {"distances": torch.zeros(3, 2), "indices": torch.zeros(3, 2, dtype=torch.long)}
        write_tensors(file, "nearest neighbours", tensors, described)
    with pytest.warns(RuntimeWarning, match="starts over.*shape"):
        check(est.kneighbors(QUERIES, checkpoint=path))


def test_a_folder_that_takes_nothing_is_one_warning(killed, tmp_path, monkeypatch):
    est, _, path = killed(4)
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="cannot store the state of the search in .*file") as caught:
        check(est.kneighbors(QUERIES, checkpoint=tmp_path / "file"))
    assert len(caught) == 1

    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("skal._files.os.replace", refused)
    with pytest.warns(RuntimeWarning, match="cannot store the state of the search in .*Permission denied"):
        check(est.kneighbors(QUERIES, checkpoint=path))
