"""Queries by discrepancy compared with removal from scratch: greedy picks, the mixture with coverage, and extremes."""

import numpy as np
import pytest
from modAL.models import ActiveLearner
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression

import skal.query
from skal.query.discrepancy import discrepancy_coreset_sampling, mmd_sampling
from tests.reference.numerics.mmd2 import ref_bandwidths, ref_gram

TIE = 1e-6  # biased MMD² nearer than this may come in either order
TIE_SCALED = 1e-4  # the same after scaling to [0, 1]


def picks_of(result):
    """The picks, even if modAL 0.4.2 gets them with scores."""
    if isinstance(result, tuple):
        assert len(result) == 2
        assert len(result[0]) == len(result[1])
        return np.asarray(result[0])
    return np.asarray(result)


def world(n_labelled=6, n_pool=40, n_source=25, seed=0):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n_source, 5))
    target = rng.normal(size=(n_pool + n_labelled, 5))
    target[::3] += 1.5
    X_labelled, pool = target[:n_labelled], target[n_labelled:]
    taught = {"X_training": X_labelled, "y_training": np.arange(n_labelled) % 2} if n_labelled else {}
    return ActiveLearner(LogisticRegression(), query_strategy=mmd_sampling, **taught), pool, source, X_labelled


class Removals:
    """The biased MMD² between source and target with some of the pool's rows removed, from scratch each time."""

    def __init__(self, pool, labelled, source, bandwidths=None):
        self.target = np.vstack([pool, labelled]).astype(float)
        self.bandwidths = ref_bandwidths(self.target, source) if bandwidths is None else bandwidths
        self.n_pool = len(pool)
        self.TT = ref_gram(self.target, self.target, self.bandwidths)
        self.TS = ref_gram(self.target, source, self.bandwidths)
        self.SS = ref_gram(source, source, self.bandwidths).mean()

    def __call__(self, removed):
        kept = np.setdiff1d(np.arange(len(self.target)), removed)
        return self.TT[np.ix_(kept, kept)].mean() - 2 * self.TS[kept].mean() + self.SS

    def left(self, picks):
        return np.setdiff1d(np.arange(self.n_pool), picks)


def check_picks(picks, n_instances, n_pool):
    assert picks.shape == (n_instances,)
    assert np.issubdtype(picks.dtype, np.integer)
    assert len(set(picks.tolist())) == n_instances
    assert ((picks >= 0) & (picks < n_pool)).all()


def assert_greedy_removal(picks, removals):
    clear = 0
    for step, pick in enumerate(picks):
        earlier = picks[:step].tolist()
        left = removals.left(earlier)
        if step == len(removals.target) - 1:
            break  # nothing would remain to compare with
        values = np.array([removals([*earlier, j]) for j in left])
        assert values[left == pick].item() <= values.min() + TIE, f"pick {step}"
        clear += len(values) > 1 and np.diff(np.sort(values)[:2]).item() > TIE
    assert clear >= 0.7 * (len(picks) - 1), "too many ties for a test"


def minmax(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 1e-10 else np.zeros(len(values))


def assert_greedy_mixture(picks, removals, balance):
    for step, pick in enumerate(picks):
        earlier = picks[:step].tolist()
        left = removals.left(earlier)
        if len(left) == 1:
            break
        gain = np.array([removals(earlier) - removals([*earlier, j]) for j in left])
        known = [*earlier, *range(removals.n_pool, len(removals.target))]
        T = removals.target
        distance = np.array([min((np.linalg.norm(T[j] - T[i]) for i in known), default=0.0) for j in left])
        scores = balance * minmax(gain) + (1 - balance) * minmax(distance)
        assert scores[left == pick].item() >= scores.max() - TIE_SCALED, f"pick {step}"


def test_the_strategies_are_exported():
    assert skal.query.mmd_sampling is mmd_sampling
    assert skal.query.discrepancy_coreset_sampling is discrepancy_coreset_sampling


@pytest.mark.parametrize("n_labelled", [0, 6])
@pytest.mark.parametrize("n_instances", [1, 2, 12])
def test_mmd_picks_against_removal_from_scratch(n_labelled, n_instances):
    learner, pool, source, labelled = world(n_labelled)
    picks = picks_of(mmd_sampling(learner, pool, n_instances, X_source=source))
    check_picks(picks, n_instances, len(pool))
    removals = Removals(pool, labelled, source)
    assert_greedy_removal(picks, removals)
    assert removals(picks) < removals([])


@pytest.mark.parametrize("n_labelled", [0, 2])
@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling])
def test_the_whole_pool_can_be_picked(n_labelled, strategy):
    learner, pool, source, labelled = world(n_labelled, n_pool=9)
    picks = picks_of(strategy(learner, pool, 9, X_source=source))
    assert_array_equal(np.sort(picks), np.arange(9))
    if strategy is mmd_sampling:
        assert_greedy_removal(picks, Removals(pool, labelled, source))
    assert_array_equal(picks_of(strategy(learner, pool[:1], X_source=source)), [0])


def test_given_bandwidths_count_and_labelled_rows_count():
    learner, pool, source, labelled = world()
    narrow = [0.3, 0.6]
    picks = picks_of(mmd_sampling(learner, pool, 10, X_source=source, bandwidths=narrow))
    assert_greedy_removal(picks, Removals(pool, labelled, source, narrow))
    wide = picks_of(mmd_sampling(learner, pool, 10, X_source=source))
    assert not np.array_equal(picks, wide)
    given = ref_bandwidths(np.vstack([pool, labelled]), source)
    assert_array_equal(picks_of(mmd_sampling(learner, pool, 10, X_source=source, bandwidths=given)), wide)
    untaught = ActiveLearner(LogisticRegression())
    alone = picks_of(mmd_sampling(untaught, pool, 10, X_source=source, bandwidths=given))
    assert_greedy_removal(alone, Removals(pool, labelled[:0], source, given))
    # labelled rows close to a removable group make that group heavier: the picks must depend on them
    crowd = np.tile(pool[wide[-1]], (15, 1)) + 0.01 * np.random.default_rng(0).normal(size=(15, 5))
    taught = ActiveLearner(LogisticRegression(), X_training=crowd, y_training=np.arange(15) % 2)
    crowded = picks_of(mmd_sampling(taught, pool, 10, X_source=source, bandwidths=given))
    assert_greedy_removal(crowded, Removals(pool, crowd, source, given))
    assert not np.array_equal(crowded, alone)


def test_mmd_picks_worked_by_hand():
    # removing 10 leaves the source itself; with n = 2 the other follows
    pool, source = np.array([[0.0], [10.0]]), np.array([[0.0]])
    learner = ActiveLearner(LogisticRegression())
    assert_array_equal(picks_of(mmd_sampling(learner, pool, 2, X_source=source)), [1, 0])
    # the source itself and a group that it lacks: the group is picked first
    rng = np.random.default_rng(0)
    source, group = rng.normal(size=(30, 3)), [4, 11, 17, 28]
    pool = np.insert(source, [4, 10, 15, 25], 6 + 0.1 * rng.normal(size=(4, 3)), axis=0)
    assert (pool[group] > 5).all()
    picks = picks_of(mmd_sampling(learner, pool, 4, X_source=source))
    assert sorted(picks.tolist()) == group


@pytest.mark.parametrize("n_labelled", [0, 6])
@pytest.mark.parametrize("balance", [0.2, 0.5, 0.8, 1.0])
def test_mixed_picks_against_loops(n_labelled, balance):
    learner, pool, source, labelled = world(n_labelled, seed=1)
    picks = picks_of(discrepancy_coreset_sampling(learner, pool, 12, X_source=source, balance=balance))
    check_picks(picks, 12, len(pool))
    assert_greedy_mixture(picks, Removals(pool, labelled, source), balance)
    if balance == 0.5:
        assert_array_equal(picks_of(discrepancy_coreset_sampling(learner, pool, 12, X_source=source)), picks)


def test_given_bandwidths_count_in_the_mixture():
    learner, pool, source, labelled = world(seed=1)
    picks = picks_of(discrepancy_coreset_sampling(learner, pool, 10, X_source=source, bandwidths=[0.4], balance=0.6))
    assert_greedy_mixture(picks, Removals(pool, labelled, source, [0.4]), 0.6)


@pytest.mark.parametrize("n_labelled", [0, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_balance_at_its_ends(n_labelled, seed):
    learner, pool, source, labelled = world(n_labelled, seed=seed)
    only_mmd = picks_of(discrepancy_coreset_sampling(learner, pool, 10, X_source=source, balance=1))
    assert_array_equal(only_mmd, picks_of(mmd_sampling(learner, pool, 10, X_source=source)))
    only_cover = picks_of(discrepancy_coreset_sampling(learner, pool, 10, X_source=source, balance=0))
    if n_labelled:
        assert_array_equal(only_cover, picks_of(skal.query.coreset_sampling(learner, pool, 10)))
    else:
        assert only_cover[0] == 0  # all distances are 0: the first one wins
    centres, expected = list(labelled), []
    for _ in range(10):
        distances = [min((np.linalg.norm(x - c) for c in centres), default=0.0) for x in pool]
        expected.append(int(np.argmax(distances)))
        centres.append(pool[expected[-1]])
    assert_array_equal(only_cover, expected)


def test_constant_quantities_scale_to_zero():
    """Rounding errors between equal rows must not be amplified to [0, 1]."""
    _, _, source, labelled = world()
    taught = ActiveLearner(LogisticRegression(), X_training=labelled, y_training=np.arange(6) % 2)
    pool = np.tile([[0.1, 0.7, -0.3, 1.1, 0.9]], (11, 1))
    for learner in (taught, ActiveLearner(LogisticRegression())):
        for balance in (0.0, 0.5, 1.0):
            picks = picks_of(discrepancy_coreset_sampling(learner, pool, 5, X_source=source, balance=balance))
            assert_array_equal(picks, np.arange(5))


def test_equal_rows_are_picked_once_each():
    learner, pool, source, _ = world()
    pool = np.repeat(pool[:8], 3, axis=0)
    for strategy in (mmd_sampling, discrepancy_coreset_sampling):
        check_picks(picks_of(strategy(learner, pool, 24, X_source=source)), 24, 24)


@pytest.mark.parametrize("strategy", [mmd_sampling, discrepancy_coreset_sampling])
class TestBoth:
    def test_greedy_picks_are_prefixes_and_repeat(self, strategy):
        learner, pool, source, _ = world()
        every = picks_of(strategy(learner, pool, 12, X_source=source, random_state=0))
        for n in (1, 5):
            assert_array_equal(picks_of(strategy(learner, pool, n, X_source=source, random_state=0)), every[:n])
        assert_array_equal(picks_of(strategy(learner, pool, X_source=source)), every[:1])
        # small data: bandwidths are computed on all rows, so nothing is random
        generator = np.random.RandomState(7)
        assert_array_equal(picks_of(strategy(learner, pool, 12, X_source=source, random_state=generator)), every)

    def test_learner_pool_and_source_stay(self, strategy):
        learner, pool, source, _ = world()
        before = pool.copy(), source.copy(), learner.X_training.copy(), learner.estimator.coef_.copy()
        strategy(learner, pool, 5, X_source=source)
        after = pool, source, learner.X_training, learner.estimator.coef_
        for old, new in zip(before, after, strict=True):
            assert_array_equal(new, old)

    def test_through_a_learners_query(self, strategy):
        _, pool, source, labelled = world()
        learner = ActiveLearner(
            LogisticRegression(), query_strategy=strategy, X_training=labelled, y_training=np.arange(6) % 2
        )
        picks, rows = learner.query(pool, n_instances=3, X_source=source)[:2]
        assert_array_equal(picks, picks_of(strategy(learner, pool, 3, X_source=source)))
        assert_array_equal(rows, pool[picks])
        learner.teach(rows, [0, 1, 0])  # what was picked is labelled now, and stays in the target sample
        left = np.delete(pool, picks, axis=0)
        later = picks_of(strategy(learner, left, 5, X_source=source))
        removals = Removals(left, np.vstack([labelled, rows]), source)
        if strategy is mmd_sampling:
            assert_greedy_removal(later, removals)
        else:
            assert_greedy_mixture(later, removals, 0.5)

    def test_a_bare_estimator_and_float32(self, strategy):
        _, pool, source, _ = world(0)
        expected = picks_of(strategy(ActiveLearner(LogisticRegression()), pool, 6, X_source=source))
        assert_array_equal(picks_of(strategy(LogisticRegression(), pool, 6, X_source=source)), expected)
        single = strategy(LogisticRegression(), np.float32(pool), 6, X_source=np.float32(source))
        assert_array_equal(picks_of(single), expected)

    def test_far_from_the_origin(self, strategy):
        learner, pool, source, _ = world(0)
        pool, source = (np.round(part * 64) / 64 for part in (pool, source))  # exact in float32 even far from zero
        expected = picks_of(strategy(learner, pool, 6, X_source=source))
        assert_array_equal(picks_of(strategy(learner, pool + 300, 6, X_source=source + 300)), expected)

    def test_refusals(self, strategy):
        learner, pool, source, _ = world()
        with pytest.raises(ValueError, match="X_source") as error:
            strategy(learner, pool, 2)
        assert "profile" in str(error.value)
        with pytest.raises(ValueError, match="41"):
            strategy(learner, pool, 41, X_source=source)
