"""Models in the background."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from skal.label.catalogue import Catalogue
from skal.label.fitting import Learner, build_estimator, choose, takes_unlabeled
from tests.label.conftest import label_all, never, settled


def test_models_come_by_themselves_and_choose(opened):
    session = settled(opened(audit=0))
    label_all(session, 15)
    settled(session)
    assert session.status().model >= 1
    assert session.next().why == "strategy"
    assert session._state.models[-1]["n_labels"] >= 10


def test_every_image_is_embedded_however_slowly_it_is_read(opened, monkeypatch):
    read = Catalogue.read

    def slow(self, path):
        time.sleep(0.02)
        return read(self, path)

    monkeypatch.setattr(Catalogue, "read", slow)
    session = settled(opened())
    assert session._modelling._embedded == set(session._catalogue.items)
    assert session.status().progress == 1


def test_an_estimator_that_fails_is_not_a_fault_of_the_images(opened, estimator):
    session = opened(estimator=estimator.set_params(n_frozen=9), audit=0)
    settled(session)
    status = session.status()
    assert status.n_images == 60
    assert status.unreadable == []
    assert "n_frozen=9 is invalid" in status.failure
    assert session._modelling.next_task() is None  # it is not tried again and again
    estimator.set_params(n_frozen=2)
    label_all(session, 12)
    session.fit()
    assert settled(session).status().failure is None
    assert len(session._modelling._embedded) == 60 - 12


def test_the_strategy_chooses_before_there_is_any_label(opened):
    session = settled(opened(audit=0))
    assert {q.why for q in session.upcoming(20)} == {"strategy"}


def test_what_is_out_stays_out_when_a_queue_is_swapped(opened):
    session = settled(opened())
    label_all(session, 12)
    before = session.upcoming(4)
    session.fit()
    assert session.upcoming(4) == before


def test_successive_models_are_compared(opened):
    session = settled(opened(audit=0, batch_size=10_000))
    for _ in range(4):
        label_all(session, 11)
        session.fit()
    kappas = [event.get("kappa") for event in session._state.models]
    assert kappas[0] is None
    assert all(value is not None for value in kappas[1:])
    assert [point["n_labels"] for point in session.status().curve] == [11, 22, 33, 44]


class Taking(LogisticRegression):
    """A classifier that declares what its fit takes, like FrozenPrefixClassifier."""

    takes = ()


@pytest.mark.parametrize(
    ("takes", "expected"), [((), False), (("X_unlabeled",), True), (("X_source", "y_source", "X_unlabeled"), False)]
)
def test_the_pool_goes_to_those_who_learn_from_it(takes, expected):
    estimator = Taking()
    estimator.takes = takes
    assert takes_unlabeled(estimator) == expected


def test_the_default_learns_from_the_pool_and_others_do_not():
    assert takes_unlabeled(build_estimator({}))
    assert not takes_unlabeled(LogisticRegression())


def test_strategies_are_called_as_modal_calls_them():
    def pairs(learner, X_pool, n_instances=1, *, random_state=None):
        return np.array([random_state, 1]), np.zeros(2)

    assert choose(pairs, Learner(None), ["a", "b", "c"], 2, seed=2) == [2, 1]
    assert choose(never, Learner(None), ["a", "b"], 5, seed=0) == [0, 1]
    assert choose(never, Learner(None), [], 5, seed=0) == []
