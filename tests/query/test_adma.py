"""ADMA's queries compared with the plain version, image by image."""

from functools import partial

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner, Committee
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn
from torch.utils.data import TensorDataset

import skal.query._context
from skal import FrozenPrefixClassifier, ImageTransform, Query, SourceProfile, adma_sampling
from skal.query._batch import cover
from tests.query.conftest import make_world
from tests.reference import indices_of
from tests.reference.adma import ONE, TIE, TWO, activations, assert_picks, current_network, plain_scores
from tests.reference.uncertainty import plain_uncertainty

PAPER = Query(adma_sampling, batch="top")
adma = indices_of(PAPER)


@pytest.mark.parametrize(("layers", "aggregate"), [(ONE, "mean"), (None, "mean"), (None, "variance")])
@pytest.mark.parametrize("alpha", ["distance", "predict"])
def test_picks_from_zero_labels(world, alpha, layers, aggregate):
    scores, fragile = plain_scores(world, world.net, world.X, layers or TWO, alpha, aggregate)
    for learner in (world.blank(), ActiveLearner(world.blank(), query_strategy=PAPER)):
        picks = adma(learner, world.X, 12, alpha=alpha, layers=layers, aggregate=aggregate, lam=0.5, t=2)
        assert_picks(picks, scores, fragile, 12)
        if layers == ONE:  # tau takes few values: ties go to the first in the pool
            for value in np.unique(scores[~fragile].round(9)):
                equal = [i for i in picks if not fragile[i] and abs(scores[i] - value) < 1e-8]
                assert equal == sorted(equal)


@pytest.mark.parametrize(
    ("alpha", "layers", "aggregate", "kind", "lam", "t"),
    [
        ("distance", ONE, "mean", "gini", 0.01, 1),
        ("predict", ONE, "mean", "entropy", 0.1, 3),
        ("distance", None, "mean", "margin", 0.5, 1),
        ("predict", None, "mean", "least_confident", 0.3, 2),
        ("distance", TWO, "variance", "gini", 0.1, 5),
        ("predict", None, "variance", "entropy", 0.2, 1),
        ("distance", [TWO[1]], "mean", "entropy", 0.0, 8),
        ("predict", ONE, "mean", "margin", 0.5, 7),
    ],
)
def test_picks_after_teaching(world, alpha, layers, aggregate, kind, lam, t):
    options = {"alpha": alpha, "layers": layers, "aggregate": aggregate, "uncertainty": kind, "lam": lam, "t": t}
    scores, fragile = plain_scores(world, world.current, world.X, layers or TWO, alpha, aggregate, kind, lam, t)
    assert ((scores >= 0) & (scores <= 1)).all()
    every = adma(world.learner, world.X, 12, **options)
    assert_picks(every, scores, fragile, 12)
    for n_instances in (1, 2):
        picks, images = world.learner.query(world.X, n_instances=n_instances, **options)
        assert_array_equal(picks, every[:n_instances])
        assert_array_equal(images, world.X[picks])
    assert_array_equal(adma(world.learner.estimator, world.X, 12, **options), every)


def test_picks_among_uint8_images():
    w = make_world("mobilenet")
    preprocess = ImageTransform(32, 32)
    rng, mean, std = np.random.default_rng(0), np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    source, pool = (rng.integers(0, 256, size=(n, 32, 32, 3), dtype=np.uint8) for n in (6, 12))
    profile = SourceProfile(w.net, image_size=32, preprocess=preprocess).fit(source, np.arange(6))
    estimator = w.blank(source=profile, image_size=32, preprocess=preprocess)
    w.X_source, X = (((images / 255 - mean) / std).transpose(0, 3, 1, 2) for images in (source, pool))
    w.centers = range(6)
    scores, fragile = plain_scores(w, w.net, X, ONE)
    assert_picks(adma(estimator, pool, 12), scores, fragile, 12)


def test_query_by_hand():
    # A = x, B = (x_1, 0); centres (0, 0), (3, 4), (0, 8) have patterns (0, 2, 8), (2, 0, 2), (8, 2, 0).
    # (3, 0): S = (0, 4, 5.5), expected ~ (1.44, 0.90, 3.17): one of three pairs is discordant, tau = 1/3, d = 1/3.
    # (6, 8): S = (4, 2, 0), expected ~ (1.73, 0.53, 1.20): the same. (3, 4) is a centre and (0, 1) agrees: d = 0.
    with torch.no_grad(), torch.random.fork_rng():
        net = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(2, 2), nn.ReLU())), nn.Linear(2, 3))
        for i, second in [(0, 1.0), (2, 1.0), (4, 0.0)]:
            net[i].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, second]]))
            net[i].bias.zero_()
    centres = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]], dtype=np.float32)
    profile = SourceProfile(net).fit(centres, [0, 1, 2])
    assert profile.layers_ == ONE
    assert_allclose(profile.patterns((-4, -2)), [[0, 2, 8], [2, 0, 2], [8, 2, 0]], atol=1e-6)
    pool = np.array([[3.0, 4.0], [3.0, 0.0], [0.0, 1.0], [6.0, 8.0]], dtype=np.float32)
    assert_array_equal(adma(FrozenPrefixClassifier(net, source=profile), pool, 4), [1, 3, 0, 2])


def test_the_number_of_the_query_is_read_off_the_learner(toy):
    learner = ActiveLearner(toy.blank(), PAPER, toy.X_labelled[:5], toy.y_labelled[:5])
    for labels in (5, 7):
        firsts = set()
        for n_initial, n_instances in [(0, 4), (0, 2), (0, 1), (3, 1), (3, 2), (5, 1), (5, 2), (50, 2)]:
            t = 1 + max(0, labels - n_initial) // n_instances
            options = {"n_instances": n_instances, "lam": 0.3, "uncertainty": "margin"}
            picks = adma(learner, toy.X, n_initial=n_initial, **options)
            assert_array_equal(picks, adma(learner, toy.X, t=t, **options))
            firsts.add(picks[0])
        assert len(firsts) > 1, "the picks must depend on t, or this test tells nothing"
        learner.teach(toy.X_labelled[3:5], toy.y_labelled[3:5])


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mlp", {"n_frozen": 4}),  # only the head is trained
        ("mlp", {"n_frozen": None, "cache": False}),
        ("mlp", {"n_frozen": 0, "warm_start": True}),
        ("convnet", {"n_frozen": 2, "train_batch_norm": True, "warm_start": True}),
        ("convnet", {"n_frozen": 3, "head_init": "random"}),
    ],
)
def test_rounds_from_zero_labels_on(name, params):
    w = make_world(name)
    learner, kind = ActiveLearner(w.blank(**params), query_strategy=PAPER), None
    for t in (1, 2, 3):  # 0, 12 and 24 labels
        net = w.net if t == 1 else current_network(w, learner.estimator)
        scores, fragile = plain_scores(w, net, w.X, TWO, kind=kind, lam=0.2, t=t)
        picks, images = learner.query(w.X, n_instances=12, lam=0.2)
        assert_picks(picks, scores, fragile, 12)
        learner.teach(images, np.arange(12) % (t + 1))
        kind = "gini"


def test_committee_averages_distinctiveness(toy):
    sets = [(toy.X_labelled, toy.y_labelled), (toy.images(5), [0, 1, 0, 1, 1])]  # the second has two classes
    members = [ActiveLearner(toy.blank(n_frozen=2 * i, random_state=i), adma_sampling, *sets[i]) for i in range(2)]
    committee = Committee(members, query_strategy=PAPER)
    nets = [current_network(toy, member.estimator) for member in members]
    cases = [("distance", "gini", 0.2, 2), ("predict", "entropy", 0.9, 1), ("distance", "margin", 2, 2)]
    for alpha, kind, lam, t in cases:
        per_member = [plain_scores(toy, net, toy.X, TWO, alpha) for net in nets]
        w = min(lam * t, 1)
        known = [activations(net, toy.X, [], True)[1] for net in nets]
        proba = sum(np.pad(p, ((0, 0), (0, 3 - p.shape[1]))) for p in known) / 2
        assert_allclose(committee.predict_proba(toy.X), proba, atol=1e-4)
        scores = (1 - w) * sum(s for s, _ in per_member) / 2 + w * plain_uncertainty(proba, kind)
        fragile = (per_member[0][1] | per_member[1][1]) & (w < 1)
        picks, _ = committee.query(toy.X, n_instances=12, alpha=alpha, uncertainty=kind, lam=lam, t=t)
        assert_picks(picks, scores, fragile, 12)
    cold = Committee([ActiveLearner(toy.blank(random_state=i)) for i in range(2)], query_strategy=PAPER)
    scores, fragile = plain_scores(toy, toy.net, toy.X)
    assert_picks(cold.query(toy.X, n_instances=12)[0], scores, fragile, 12)


@pytest.mark.parametrize("aggregate", ["mean", "variance"])
def test_a_pool_larger_than_a_block_scores_as_its_pieces(toy, aggregate):
    X = toy.images(1100)
    options = {"aggregate": aggregate, "lam": 0.4, "t": 1}
    scores, fragile = plain_scores(toy, toy.current, X, TWO, "distance", aggregate, "gini", 0.4, 1)
    picks = adma(toy.learner, X, 1100, **options)
    assert_picks(picks, scores, fragile, 1100)
    if aggregate == "mean":  # the variance is rescaled over the pool, so parts of a pool have another scale
        for piece in (np.arange(500), np.arange(500, 1030), np.arange(1030, 1100)):
            alone = piece[adma(toy.learner, X[piece], len(piece), **options)]
            assert_allclose(scores[alone], scores[picks[np.isin(picks, piece)]], atol=TIE)


def test_a_data_set_is_a_pool():
    w = make_world("convnet")
    images = TensorDataset(torch.as_tensor(w.X), torch.zeros(len(w.X)))
    assert_array_equal(adma(w.blank(), images, 5), adma(w.blank(), w.X, 5))


def test_permuting_the_pool_permutes_the_picks(world):
    options = {"lam": 0.3, "t": 1}
    scores, fragile = plain_scores(world, world.current, world.X, kind="gini", **options)
    pool = world.X.copy()
    picks = adma(world.learner, pool, 12, **options)
    order = np.random.default_rng(1).permutation(12)
    pool[:] = pool[order]  # in place, so that activations cached by identity would be wrong
    permuted = adma(world.learner, pool, 12, **options)
    assert_picks(order[permuted], scores, fragile, 12)
    assert_allclose(scores[order[permuted]], scores[picks], atol=TIE)
    assert_array_equal(adma(world.learner, np.asfortranarray(pool, np.float64), 12, **options), permuted)


def test_duplicates_in_the_pool_tie_and_the_first_wins(toy):
    X = np.concatenate([toy.X, toy.X])
    for learner in (toy.blank(), toy.learner):
        place = np.argsort(adma(learner, X, 24, lam=0.2, t=1))
        assert (place[:12] < place[12:]).all()


def test_a_centre_in_the_pool_is_not_distinctive(world):
    X = np.concatenate([world.X_source[world.centers], world.X])
    K, (scores, fragile) = len(world.classes), plain_scores(world, world.net, X, ONE)
    picks = adma(world.blank(), X, len(X), layers=ONE)
    sure = ~fragile[:K]
    assert_allclose(scores[:K][sure], 0, atol=1e-9)
    assert_picks(picks, scores, fragile, len(X))


def test_named_layers_source_argument_and_pipeline(toy):
    scores, fragile = plain_scores(toy, toy.net, 2 * toy.X, ONE)
    profile = SourceProfile(toy.net, layers=[("3", "7")], pooled=False).fit(toy.X_source, toy.y_source)
    assert_picks(adma(toy.blank(source=None), 2 * toy.X, 12, source=profile), scores, fragile, 12)
    doubled = make_pipeline(FunctionTransformer(lambda X: 2 * X), toy.blank(max_epochs=1))
    doubled.fit(toy.X_labelled, toy.y_labelled)
    options = {"layers": ONE, "lam": 0.5, "t": 1}
    scores, fragile = plain_scores(toy, current_network(toy, doubled[-1]), 2 * toy.X, ONE, kind="gini", lam=0.5)
    assert_picks(adma(doubled, toy.X, 12, **options), scores, fragile, 12)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("n_frozen", [-2, -3, 0])
@pytest.mark.parametrize("batch", ["top", "herding"])
def test_the_trainable_layers_run_once(batch, n_frozen, mirror, pixels, classifier):
    """One pass gives patterns, probabilities and the features for herding, whether or not layer A is frozen."""
    X, y = pixels
    net = classifier.set_params(n_frozen=n_frozen, mirror=mirror).fit(X[:20], y[:20])
    rows = []
    net.net_.module_.body.get_submodule("conv3").register_forward_hook(lambda _, args, out: rows.append(len(out)))
    indices_of(Query(adma_sampling, batch=batch, lam=0.5, t=1))(net, X, 3)
    assert sum(rows) == len(X) * (2 if mirror else 1)
    rows.clear()
    pair = net.source.layers_[0]
    before, after = clone(net).set_params(cache=False).fit(X[:20], y[:20]).activations(X, pair, pooled=True)
    net._final.clear()
    for _ in range(2):  # computed together, and from the known final representations
        current = net.activations(X, pair, pooled=True)
        assert_allclose(current[0], before, atol=1e-5)
        assert_allclose(current[1], after, atol=1e-5)


def test_a_seed_draws_the_sample_of_a_large_pool(toy, monkeypatch):
    """Coverage of many images is estimated on a sample."""
    monkeypatch.setattr(skal.query._context, "cover", partial(cover, max_reference=30))
    seeded = indices_of(adma_sampling)
    picks = [seeded(toy.learner, toy.images(90), 8, random_state=seed).tolist() for seed in (0, 0, 1)]
    assert picks[0] == picks[1] != picks[2]
