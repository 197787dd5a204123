"""What every recipe promises: one suite over all of them, and a recipe of a user's own."""

import numpy as np
import pytest
import sklearn
import torch
from modAL.models import ActiveLearner
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skal import DAN, FineTuning, FrozenPrefixClassifier, Pool, Query, SelectiveJoint, random_sampling
from skal.training import Recipe, Trained
from tests.conftest import SMALL

RECIPES = {
    "default": None,
    "fine-tuning": FineTuning(0.5),
    "misclassified": FineTuning("misclassified"),
    "dan": DAN(lam=0.5),
    "selective": SelectiveJoint(3, n_iterations=2),
}
SOURCE = ("dan", "selective")


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


@pytest.fixture
def net(name, convnet):
    return FrozenPrefixClassifier(
        convnet, recipe=RECIPES[name], preprocess=SMALL, n_frozen=1, max_epochs=4, min_steps=0, random_state=0
    )


@pytest.fixture
def data(name, pixels):
    """What the recipe takes beside X and y: other images of the same four classes."""
    X, y = pixels
    given = {"X_source": 255 - X[20:], "y_source": y[20:]} if name in SOURCE else {}
    return {**given, "X_unlabeled": X[12:30]} if name == "dan" else given


def test_the_same_seed_gives_the_same_model_and_the_recipe_is_not_changed(net, data, pixels):
    X, y = pixels
    before = repr(net.recipe)
    fits = [clone(net).fit(X[:12], y[:12], **data).predict_proba(X) for _ in range(2)]
    np.testing.assert_array_equal(*fits)
    net.fit(X[:12], y[:12], **data)
    assert net.recipe_ is not net.recipe
    assert repr(net.recipe) == before


def test_workers_that_load_the_batches_change_nothing(net, data, pixels):
    """Neither mirror images, crops and neighbours that are drawn when a batch is loaded, nor what a step draws."""
    X, y = pixels
    net.set_params(n_frozen=0, min_steps=2, max_epochs=2, batch_size=8, mirror=True)
    fits = [
        clone(net).set_params(net_params={"iterator_train__num_workers": n}).fit(X[:12], y[:12], **data) for n in (0, 2)
    ]
    np.testing.assert_array_equal(*(fit.predict_proba(X) for fit in fits))


def test_a_saved_model_predicts_the_same(net, data, pixels, tmp_path):
    X, y = pixels
    net.fit(X[:12], y[:12], **data).save(tmp_path / "model.safetensors")
    loaded = clone(net).load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(X), net.predict_proba(X))
    assert loaded.predict(X).tolist() == net.predict(X).tolist()


def test_partial_fit_continues_with_the_data_of_the_fit(net, data, pixels):
    X, y = pixels
    given = [
        clone(net).fit(X[:12], y[:12], **data).partial_fit(X[12:20], y[12:20], **further) for further in ({}, data)
    ]
    np.testing.assert_array_equal(*(model.predict_proba(X) for model in given))
    assert len(given[0].seen_.y) == 20
    assert set(given[0].data_) == set(data)


def test_warm_start_continues_with_the_data_of_the_fit(net, data, pixels):
    X, y = pixels
    net.set_params(warm_start=True)
    given = [clone(net).fit(X[:12], y[:12], **data).fit(X[:20], y[:20], **further) for further in ({}, data)]
    np.testing.assert_array_equal(*(model.predict_proba(X) for model in given))


def test_a_loaded_model_that_lacks_its_data_does_not_continue_without_it(net, data, pixels, tmp_path):
    X, y = pixels
    net.fit(X[:12], y[:12], **data).save(tmp_path / "model.safetensors")
    loaded = clone(net).load(tmp_path / "model.safetensors")
    if data:
        with pytest.raises(ValueError, match="which a loaded classifier does not contain"):
            loaded.partial_fit(X[12:20], y[12:20])
    loaded.partial_fit(X[:20], y[:20], **data)
    assert loaded.score(X[:20], y[:20]) > 0.5


def test_another_recipe_does_not_continue_a_fit(name, net, data, pixels, tmp_path):
    X, y = pixels
    net.fit(X[:12], y[:12], **data).save(tmp_path / "model.safetensors")
    other = FineTuning() if name in SOURCE else DAN()
    for fitted in (net, clone(net).load(tmp_path / "model.safetensors")):
        proba = fitted.predict_proba(X)
        with pytest.raises(ValueError, match="call fit with warm_start=False"):
            fitted.set_params(recipe=other).partial_fit(X[12:], y[12:])
        np.testing.assert_array_equal(fitted.predict_proba(X), proba)


def test_data_that_a_recipe_does_not_take_are_named(name, net, pixels):
    X, y = pixels
    refused = {"X_source": X, "y_source": y} if name not in SOURCE else {"sample_domain": np.ones(40)}
    if name == "dan":
        refused = {"X_source": X}
    with pytest.raises(ValueError, match=r"takes|must be passed together"):
        net.fit(X, y, **refused)
    assert not hasattr(net, "net_")


def test_through_teach(net, data, pixels):
    X, y = pixels
    learner = ActiveLearner(net, query_strategy=Query(random_sampling, random_state=0))
    for rows in (slice(0, 8), slice(8, 14)):
        learner.teach(X[rows], y[rows], **data)
    direct = clone(net).fit(X[:14], y[:14], **data)
    np.testing.assert_array_equal(learner.predict_proba(X), direct.predict_proba(X))


@pytest.mark.parametrize("routing", [False, True])
def test_in_a_pipeline_and_a_search(name, net, data, pixels, routing):
    X, y = pixels
    with sklearn.config_context(enable_metadata_routing=routing):
        prefix = "" if routing else "frozenprefixclassifier__"
        pipeline = make_pipeline(FunctionTransformer(), clone(net))
        pipeline.fit(X[:12], y[:12], **{prefix + key: value for key, value in data.items()})
        np.testing.assert_array_equal(
            pipeline.predict_proba(X), clone(net).fit(X[:12], y[:12], **data).predict_proba(X)
        )
        search = GridSearchCV(net, {"n_frozen": [1, 2]}, cv=2, error_score="raise")
        search.fit(X[:20], y[:20], **{key: Pool(value) for key, value in data.items()})
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("name", SOURCE, indirect=True)
@pytest.mark.parametrize("routing", [False, True])
def test_a_pool_as_long_as_X_passes_whole(name, net, data, pixels, routing):
    """scikit-learn cuts an array as long as X to the rows of the fold; a Pool it cannot cut."""
    X, y = pixels
    with sklearn.config_context(enable_metadata_routing=routing):
        same_length = {key: value[np.arange(20) % len(value)] for key, value in data.items()}
        search = GridSearchCV(net, {"n_frozen": [1]}, cv=[(np.arange(10), np.arange(10, 20))], refit=False)
        lengths = []
        search.scoring = lambda estimator, *_: lengths.append(len(estimator.data_["X_source"])) or 0.0
        search.fit(X[:20], y[:20], **same_length)
        search.fit(X[:20], y[:20], **{key: Pool(value) for key, value in same_length.items()})
    assert lengths == [10, 20]


def test_recipe_its_parameters_and_the_depth_are_searched_together(convnet, pixels):
    X, y = pixels
    net = FrozenPrefixClassifier(convnet, preprocess=SMALL, max_epochs=2, min_steps=0, random_state=0)
    grid = [
        {"recipe": [DAN()], "recipe__lam": [0.3, 1.0], "n_frozen": [1, 2]},
        {"recipe": [SelectiveJoint(n_iterations=1)], "recipe__n_neighbors": [2, 4], "n_frozen": [1, 2]},
    ]
    search = GridSearchCV(net, grid, cv=2, error_score="raise")
    search.fit(X, y, X_source=Pool(255 - X), y_source=Pool(y))
    assert len(search.cv_results_["params"]) == 8
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert type(search.best_estimator_.recipe_) in (DAN, SelectiveJoint)
    flat = GridSearchCV(net, {"recipe": [None, FineTuning(0.5)], "lr": [1e-3, 3e-3]}, cv=2, error_score="raise")
    assert np.isfinite(flat.fit(X, y).cv_results_["mean_test_score"]).all()


def test_weights_of_rows(net, data, pixels):
    """A row of weight 0 is as good as absent, and one of large weight decides."""
    X, y = pixels
    weight = np.ones(14)
    weight[12:] = 0
    weighted = clone(net).fit(X[:14], y[:14], weight, **data)
    absent = clone(net).fit(X[:12], y[:12], np.ones(12), **data)
    np.testing.assert_array_equal(weighted.predict_proba(X), absent.predict_proba(X))
    unweighted = clone(net).fit(X[:12], y[:12], **data)
    np.testing.assert_allclose(absent.predict_proba(X), unweighted.predict_proba(X), atol=1e-4)
    twice_X, twice_y = np.concatenate([X[:12], X[:1]]), np.append(y[:12], "y" if y[0] != "y" else "g")
    for favoured in (0, 12):  # two rows of the same pixels, with two labels
        weight = np.ones(13)
        weight[favoured] = 50
        favouring = clone(net).set_params(class_weight=None).fit(twice_X, twice_y, weight, **data)
        assert favouring.predict(X[:1]) == twice_y[favoured]


def test_the_scale_of_weights_does_not_matter(net, data, pixels):
    X, y = pixels
    weight = np.linspace(1, 2, 12)
    fits = [clone(net).fit(X[:12], y[:12], factor * weight, **data) for factor in (1, 1 / 64)]
    np.testing.assert_allclose(*(fit.predict_proba(X) for fit in fits), atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(12), "at least 0"),
        (np.zeros(12), "zero|0 for every row"),
        (np.ones(11), "shape"),
        (np.full(12, np.nan), "NaN"),
    ],
)
def test_impossible_weights_are_named(net, data, pixels, weight, message):
    with pytest.raises(ValueError, match=message):
        net.fit(pixels[0][:12], pixels[1][:12], weight, **data)


def test_a_class_weight_that_no_class_has_is_named(net, data, pixels):
    X, y = pixels
    with pytest.raises(ValueError, match=r"class_weight contains 'red', which is not a class, but no weight for 'r'"):
        net.set_params(class_weight={"b": 1, "g": 1, "red": 2, "y": 1}).fit(X, y, **data)
    net.set_params(class_weight={"b": 1, "g": 1, "r": 2, "y": 1, "to come": 1}).fit(X, y, **data)


def test_class_weights_of_0_leave_a_class(net, data, pixels):
    X, y = pixels
    weights = dict.fromkeys([*"bgry", "to come"], 0.0)
    with pytest.raises(ValueError, match=r"class_weight is 0 for every class that has images, \['b', 'g', 'r', 'y'\]"):
        net.set_params(class_weight={**weights, "to come": 1.0}).fit(X, y, **data)
    net.set_params(class_weight={**weights, "r": 1.0}).fit(X, y, **data)


def test_an_interrupt_reaches_the_caller_and_the_earlier_fit_stays(net, data, pixels):
    """skorch takes a KeyboardInterrupt for the end of training."""
    X, y = pixels
    net.fit(X[:12], y[:12], **data)
    proba, state = net.predict_proba(X), dict(vars(net))

    class Interrupting(torch.optim.AdamW):
        def step(self, closure=None):
            raise KeyboardInterrupt

    net.set_params(optimizer=Interrupting)
    for call in (net.fit, net.partial_fit):
        with pytest.raises(KeyboardInterrupt):
            call(X[:20], y[:20], **data)
        np.testing.assert_array_equal(net.predict_proba(X), proba)
        assert {name for name in vars(net) if name.endswith("_")} == {name for name in state if name.endswith("_")}


def test_a_fit_that_fails_changes_nothing(mlp):
    X, y = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32), np.arange(20) % 2
    net = FrozenPrefixClassifier(mlp, random_state=0, relative_lr=False).fit(X, y)
    before = {name: value for name, value in vars(net).items() if name.endswith("_")}
    net.set_params(lr=1e30)
    with pytest.raises(ValueError, match="training diverged"):
        net.fit(X[:, :7], y)
    assert {k: v for k, v in vars(net).items() if k.endswith("_")} == {
        k: v for k, v in before.items() if k.endswith("_")
    }


class HeadOnly(Recipe):
    """A user's recipe: the probe, with a head whose weights are multiplied."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def train(self, problem, *, X_unlabeled=None):
        start = problem.start()
        with torch.no_grad():
            start.suffix.head.weight.mul_(self.factor)
        n = 0 if X_unlabeled is None else len(problem.check(X_unlabeled))
        return Trained(problem.finished_net(start.suffix), problem.classes, attributes={"n_unlabeled_": n})


def test_a_recipe_of_a_users_own_is_one_class(convnet, pixels, tmp_path):
    X, y = pixels
    net = FrozenPrefixClassifier(convnet, recipe=HeadOnly(), preprocess=SMALL, random_state=0)
    net.fit(X[:20], y[:20], X_unlabeled=X[20:])
    assert net.n_unlabeled_ == 20
    plain = FrozenPrefixClassifier(convnet, preprocess=SMALL, max_epochs=0, random_state=0).fit(X[:20], y[:20])
    np.testing.assert_array_equal(net.predict_proba(X), plain.predict_proba(X))
    search = GridSearchCV(net, {"recipe__factor": [1.0, 0.0]}, cv=2).fit(X, y)
    assert search.best_params_ == {"recipe__factor": 1.0}
    with pytest.raises(ValueError, match=r"X_source was given, but recipe=HeadOnly\(\) takes X_unlabeled"):
        net.fit(X, y, X_source=X, y_source=y)
    with pytest.raises(TypeError, match="abstract"):
        Recipe()
    with pytest.raises(ValueError, match="'recipe' parameter"):
        FrozenPrefixClassifier(convnet, recipe="dan").fit(X, y)


def test_labels_of_the_source_and_then_of_the_target(mlp):
    """A target without labels at first: X, y are the source; what partial_fit adds are labels of the target."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 7)).astype(np.float32) + y[:, None]
    target = X + 2
    net = FrozenPrefixClassifier(
        mlp, n_frozen=0, recipe=DAN(labels="source"), max_epochs=3, min_steps=0, random_state=0
    )
    net.fit(X, y, X_unlabeled=target)
    assert len(net.seen_.y) == 0
    assert net.trained_classes_.tolist() == [0, 1]
    assert clone(net).set_params(max_epochs=0).fit(X, y).trained_classes_.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"Input y contains NaN or None: y\[59\] is None"):
        clone(net).fit(X, [*y[:59], None])
    with pytest.raises(ValueError, match=r"Input y_source contains NaN or None: y_source\[59\] is None"):
        clone(net).fit(target, y, X_source=X, y_source=[*y[:59], None])
    net.partial_fit(target[:10], y[:10])
    assert len(net.seen_.y) == 10
    assert len(net.data_["X_source"]) == 60
    with pytest.raises(ValueError, match="DAN requires a source"):
        clone(net).set_params(recipe__labels="target").fit(X, y, X_unlabeled=target)
    with pytest.raises(ValueError, match="sample_weight applies to labelled target images"):
        clone(net).fit(X, y, np.ones(60), X_unlabeled=target)


def test_what_a_loaded_classifier_can_do(name, net, data, pixels, tmp_path):
    """It can be saved again, by the recipe that made it, also over an earlier fit of another."""
    X, y = pixels
    net.fit(X[:12], y[:12], **data).save(tmp_path / "one")
    over = clone(net).set_params(recipe=FineTuning()).fit(X[:12], y[:12]).load(tmp_path / "one")
    over.save(tmp_path / "two")
    again = clone(net).load(tmp_path / "two")
    np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
    assert type(again.recipe_) is type(net.recipe_)
    again.partial_fit(X[:12], y[:12], **data)


def test_another_preprocessing_is_not_continued(convnet, pixels):
    X, y = pixels
    net = FrozenPrefixClassifier(convnet, preprocess=SMALL, max_epochs=2, min_steps=0, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"partial_fit cannot continue a fit with .*crop=16.*call fit"):
        net.set_params(preprocess=None, image_size=12).partial_fit(X, y)


def test_a_warm_start_adapts_from_the_source_it_was_given(mlp):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 7)).astype(np.float32), np.arange(30) % 2
    net = FrozenPrefixClassifier(
        mlp, n_frozen=0, recipe=DAN(), warm_start=True, max_epochs=2, min_steps=0, random_state=0
    )
    net.fit(X[:6], y[:6], X_source=X, y_source=y, X_unlabeled=X + 1).fit(X[:8], y[:8], X_unlabeled=X + 2)
    assert len(net.data_["X_source"]) == 30
    with pytest.raises(ValueError, match="X_source and y_source have inconsistent numbers of samples: 30 and 29"):
        clone(net).fit(X, y, X_source=X, y_source=y[:29])
    with pytest.raises(ValueError, match="sample_weight cannot be combined with sample_domain"):
        clone(net).fit(X, y, np.ones(30), sample_domain=np.where(y, 1, -1))
    masked = np.where(np.arange(30) < 20, y, -1.0)
    domain = np.where(np.arange(30) < 20, 1, -1)
    assert clone(net).fit(X, masked, sample_domain=domain).classes_.tolist() == [0.0, 1.0]


def test_names_of_columns_go_with_the_fit_that_had_them(mlp):
    pd = pytest.importorskip("pandas")
    X, y = np.random.default_rng(0).normal(size=(20, 7)), np.arange(20) % 2
    net = FrozenPrefixClassifier(mlp, max_epochs=1, min_steps=0, random_state=0)
    net.fit(pd.DataFrame(X, columns=list("abcdefg")), y)
    assert net.feature_names_in_.tolist() == list("abcdefg")
    net.fit(X, y).predict(X)  # would warn of missing names
    assert not hasattr(net, "feature_names_in_")
