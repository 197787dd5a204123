"""FrozenPrefixClassifier on images: what trains, what stays, and what is refused before any work."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

import skal.training.fine_tuning
from skal import FineTuning, FrozenPrefixClassifier
from skal._random import seeded
from skal.training.batches import BatchLoader, replay_shares
from skal.training.suffix import interpolate
from tests.conftest import SMALL, TinyConvNet


def test_learns_real_forms_of_images(classifier, pixels, files):
    X, y = pixels
    assert classifier.fit(X, y).score(X, y) > 0.9
    proba = classifier.predict_proba(X)
    assert set(classifier.classes_) == {"r", "g", "b", "y"}
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(classifier.predict(X), classifier.classes_[proba.argmax(axis=1)])
    tensors = torch.cat([classifier.backbone_.inputs.check(X).load([i]) for i in range(len(X))])
    for same in (list(files[0]), files[0], list(X), tensors, tensors.numpy()):
        np.testing.assert_allclose(classifier.predict_proba(same), proba, atol=1e-5)
        np.testing.assert_allclose(clone(classifier).fit(same, y).predict_proba(X), proba, atol=1e-4)


def test_predictions_are_those_of_the_whole_network(classifier, convnet, pixels):
    """Cut, cached and put together again, prefix and suffix equal the plain module with the trained weights."""
    X, y = pixels
    classifier.set_params(normalize=False).fit(X, y)
    whole = copy.deepcopy(convnet)
    trained = classifier.net_.module_
    whole.load_state_dict(trained.body.state_dict(), strict=False)
    whole.fc = trained.head
    with torch.inference_mode():
        logits = whole.eval()(classifier.backbone_.inputs.check(X).load(range(len(X))))
    np.testing.assert_allclose(classifier.predict_proba(X), logits.softmax(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("train_batch_norm", [False, True])
def test_frozen_layers_and_statistics_do_not_move(classifier, convnet, pixels, train_batch_norm):
    X, y = pixels
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    classifier.set_params(train_batch_norm=train_batch_norm).fit(X, y)
    after = classifier.net_.module_.body.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    # Two frozen layers: stem and conv1. The suffix begins before the block, so conv1 is in it, frozen.
    assert "conv1.weight" in after
    assert {name.split(".")[0] for name in moved} == {"conv2", "bn2", "shortcut", "conv3"}
    assert ("bn2.running_mean" in moved) is train_batch_norm
    assert not any(name.startswith(("conv1", "bn1")) for name in moved)
    assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())


@pytest.mark.parametrize("normalize", [False, True])
def test_without_epochs_it_is_the_linear_probe(classifier, pixels, normalize):
    X, y = pixels
    classifier.set_params(max_epochs=0, normalize=normalize).fit(X, y)
    Z = classifier.transform(X).astype(np.float64)
    np.testing.assert_allclose(Z, classifier.activations(X, [-2], pretrained=True)[0], rtol=1e-5)
    if normalize:
        Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    Z -= Z.mean(axis=0)
    Z /= np.sqrt((Z**2).sum(axis=1).mean())
    probe = LogisticRegression(C=40 / 20, max_iter=1000, tol=1e-6).fit(Z, y)
    np.testing.assert_allclose(classifier.predict_proba(X), probe.predict_proba(Z), atol=1e-3)


def test_two_classes_and_one_class(classifier, pixels):
    X, y = pixels
    two = np.isin(y, ["r", "g"])
    probe = clone(classifier).set_params(max_epochs=0).fit(X[two], y[two])
    assert probe.score(X[two], y[two]) > 0.9
    assert classifier.fit(X[two], y[two]).predict_proba(X).shape == (40, 2)
    one = classifier.fit(X[:1], y[:1])
    np.testing.assert_array_equal(one.predict_proba(X[:3]), np.ones((3, 1)))
    assert (one.predict(X) == y[0]).all()


def test_same_seed_same_result_and_another_seed_another(classifier, pixels):
    X, y = pixels
    first = classifier.fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(clone(classifier).fit(X, y).predict_proba(X), first)
    assert not np.allclose(clone(classifier).set_params(random_state=1).fit(X, y).predict_proba(X), first, atol=1e-6)


def test_warm_start_continues_and_grows(classifier, pixels):
    X, y = pixels
    two = np.isin(y, ["g", "y"])
    classifier.set_params(warm_start=True).fit(X[two], y[two])
    head = classifier.net_.module_.head.weight.detach().clone()
    classifier.set_params(max_epochs=0).fit(X, y)
    np.testing.assert_array_equal(classifier.classes_, ["b", "g", "r", "y"])
    grown = classifier.net_.module_.head
    torch.testing.assert_close(grown.weight[[1, 3]], head, rtol=0, atol=0)
    assert grown.out_features == 4
    classifier.set_params(max_epochs=60).fit(X, y)
    assert classifier.score(X, y) > 0.9
    # A later fit that lacks a class keeps its column.
    classifier.fit(X[two], y[two])
    assert len(classifier.classes_) == 4


def test_warm_start_of_another_network_starts_afresh(classifier, pixels):
    X, y = pixels
    with seeded(3):
        other = TinyConvNet()
    classifier.set_params(source=None, warm_start=True).fit(X, y)
    expected = clone(classifier).set_params(backbone=other).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(classifier.set_params(backbone=other).fit(X, y).predict_proba(X), expected)


def test_an_interrupted_warm_start_loses_nothing(classifier, pixels):
    X, y = pixels

    class Failing(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("out of memory")

    two = np.isin(y, ["g", "y"])
    before = classifier.set_params(warm_start=True).fit(X[two], y[two]).predict_proba(X)
    with pytest.raises(RuntimeError, match="out of memory"):
        classifier.set_params(net_params={"callbacks": [Failing()]}).fit(X, y)
    np.testing.assert_array_equal(classifier.predict_proba(X), before)


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


def test_activations_before_and_after_the_cut(classifier, convnet, pixels):
    X, y = pixels
    kept = {}
    for name in ("stem", "bn2", "conv3"):
        convnet.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: kept.update({name: out.clone()})
        )
    before = classifier.activations(X, ["stem", "bn2", "conv3"])
    inputs = classifier.fit(X, y).backbone_.inputs.check(X).load(range(40))
    with torch.inference_mode():
        convnet(inputs)
    for values, name in zip(before, ("stem", "bn2", "conv3"), strict=True):
        np.testing.assert_allclose(values, kept[name].flatten(1), atol=1e-5)
    after = classifier.activations(X, ["stem", "bn2", "conv3"])
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.allclose(after[2], before[2], atol=1e-4)
    np.testing.assert_allclose(classifier.activations(X, ["bn2"], pretrained=True)[0], before[1], atol=1e-5)
    (pooled,) = classifier.activations(X, ["conv3"], pooled=True)
    np.testing.assert_allclose(pooled, after[2].reshape(40, 10, -1).mean(axis=2), atol=1e-5)
    np.testing.assert_allclose(classifier.transform(X), classifier.activations(X, [-2])[0], atol=1e-5)
    for layers in ([-2, -2], ["stem", "stem"], ["conv1", "conv1", "bn2"]):  # one layer asked for twice
        assert [len(values) for values in classifier.activations(X, layers)] == [40] * len(layers)


def test_source_proba_is_that_of_the_pretrained_network(classifier, convnet, pixels):
    X, y = pixels
    classifier.fit(X, y)
    with torch.inference_mode():
        expected = convnet(classifier.backbone_.inputs.check(X).load(range(40))).softmax(1)
    np.testing.assert_allclose(classifier.source_proba(X), expected, atol=1e-6)


def test_in_pipelines_and_searches(classifier, pixels):
    X, y = pixels
    brighter = FunctionTransformer(lambda images: np.minimum(images, 200).astype(np.uint8))
    pipeline = make_pipeline(brighter, classifier).fit(X, y)
    assert pipeline.score(X, y) > 0.9
    on_top = make_pipeline(classifier, LogisticRegression(max_iter=1000)).fit(X, y)
    assert on_top.score(X, y) > 0.9
    search = GridSearchCV(classifier, {"n_frozen": [1, 3], "lr": [1e-3, 5e-3]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8
    assert cross_val_score(classifier, list(X), y, cv=2).shape == (2,)


def test_pickle_and_file(classifier, pixels, tmp_path):
    X, y = pixels
    proba = classifier.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(classifier)).predict_proba(X), proba, atol=1e-6)
    classifier.save(tmp_path / "net.safetensors")
    loaded = clone(classifier).load(tmp_path / "net.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(X), proba, atol=1e-6)
    np.testing.assert_array_equal(loaded.classes_, classifier.classes_)
    loaded.set_params(warm_start=True).fit(X, y)
    with seeded(1):
        other = TinyConvNet()
    with pytest.raises(ValueError, match="belongs to the backbone"):
        FrozenPrefixClassifier(other, preprocess=SMALL).load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"crop=16.*crop=12"):
        clone(classifier).set_params(preprocess=None, image_size=12).load(tmp_path / "net.safetensors")
    classifier.source.save(tmp_path / "profile.safetensors")
    with pytest.raises(ValueError, match="no classifier written by skal"):
        classifier.load(tmp_path / "profile.safetensors")


def test_a_default_depth_reaches_layer_A_and_shallow_nets_have_one():
    with seeded(0):
        deep = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(5, 5), nn.ReLU())], nn.Linear(5, 2))
        shallow = nn.Linear(5, 2)
    X, y = np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 2
    assert FrozenPrefixClassifier(deep, max_epochs=1, random_state=0).fit(X, y).n_frozen_ == 4
    assert FrozenPrefixClassifier(shallow, max_epochs=1, random_state=0).fit(X, y).n_frozen_ == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_frozen": 7}, "n_frozen=7 is not possible: this network has 4 weight layers below its head"),
        ({"lr": -1}, "'lr' parameter .* must be a float in the range"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"head_init": "zeros"}, "'head_init' parameter .* 'zeros'"),
        ({"source": "imagenet"}, "'source' parameter"),
        ({"optimizer": "adam"}, "'optimizer' parameter .* 'adam'"),
        ({"lr": 1e30}, r"training diverged.*lr=1e\+30"),
    ],
)
def test_bad_parameters_are_refused(classifier, pixels, parameters, message):
    with pytest.raises(ValueError, match=message):
        classifier.set_params(**parameters).fit(*pixels)
    assert not hasattr(classifier, "net_")


def test_bad_data_is_refused_before_training(classifier, pixels, files):
    X, y = pixels
    for bad_X, bad_y, message in [
        (X, y[:-1], "inconsistent numbers of samples"),
        (X, None, "requires y to be passed"),
        (X, np.linspace(0, 1, 40), "Unknown label type"),
        (X[..., 0:2], y, "but this network takes uint8 images"),
        (X.reshape(40, -1), y, "but this network takes uint8 images"),
        (np.full((40, 3, 16, 16), np.nan, np.float32), y, "NaN"),
        ([*files[0][:-1], "gone.png"], y, "gone.png"),
    ]:
        with pytest.raises(ValueError, match=message):
            classifier.fit(bad_X, bad_y)
    with open(files[0][-1], "wb") as file:
        file.write(b"not an image")
    with pytest.raises(ValueError, match=r"cannot read 1 of \d+ image files: '.*39\.png'"):
        classifier.fit(files[0], y)
    assert not hasattr(classifier, "net_")


def test_the_profile_of_another_backbone_is_refused(classifier, pixels):
    with seeded(5):
        classifier.set_params(backbone=TinyConvNet())
    with pytest.raises(ValueError, match="source profile belongs to another backbone"):
        classifier.fit(*pixels)


def test_partial_fit_forgets_nothing(classifier, pixels):
    X, y = pixels
    old, new = np.isin(y, ["r", "g"]), np.isin(y, ["b", "y"])
    classifier.set_params(max_epochs=20).fit(X[old], y[old])
    head = classifier.net_.module_.head.weight.detach().clone()
    frozen = clone(classifier).set_params(max_epochs=0).fit(X[old], y[old])
    frozen.partial_fit(X[new], y[new])
    assert frozen.score(X, y) > 0.9  # the new rows are solved for, the old ones stay
    classifier.partial_fit(X[new], y[new])
    np.testing.assert_array_equal(classifier.classes_, ["b", "g", "r", "y"])
    assert classifier.score(X[old], y[old]) == 1
    assert classifier.score(X[new], y[new]) > 0.9
    assert len(classifier.seen_.y) == 40
    assert not torch.equal(classifier.net_.module_.head.weight[1:3], head)


def test_partial_fit_starts_afresh_and_knows_classes_to_come(classifier, pixels):
    X, y = pixels
    two = np.isin(y, ["r", "g"])
    names = ["b", "g", "r", "y"]
    classifier.partial_fit(X[two][:6], y[two][:6], classes=names)
    np.testing.assert_array_equal(classifier.classes_, names)
    proba = classifier.predict_proba(X)
    assert proba.shape == (40, 4)
    assert proba[two].argmax(axis=1).tolist() == [names.index(label) for label in y[two]]
    with pytest.raises(ValueError, match=r"y holds .*'y'.* not among classes="):
        classifier.partial_fit(X, y, classes=["b", "g", "r"])
    np.testing.assert_array_equal(classifier.predict_proba(X), proba)


def test_an_image_given_again_takes_its_new_label(classifier, pixels, files):
    X, y = pixels
    wrong = y.copy()
    wrong[:4] = np.roll(y[:4], 1)
    classifier.fit(X, wrong).partial_fit(X[:4], y[:4])
    assert len(classifier.seen_.y) == 40
    np.testing.assert_array_equal(np.sort(classifier.seen_.y), np.sort(y))
    classifier.partial_fit(files[0][:3], y[:3])  # other forms join them
    assert len(classifier.seen_.y) == 43
    assert classifier.score(X, y) > 0.9


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


@pytest.mark.parametrize("normalize", [False, True])
def test_fine_tuning_keeps_the_penalty_of_the_head(classifier, pixels, normalize):
    """The loss of training is that of the probe: with a frozen body, the probe is where it stays."""
    X, y = pixels
    classifier.set_params(n_frozen=4, normalize=normalize, lr=1e-3)
    probe = clone(classifier).set_params(max_epochs=0).fit(X, y).predict_proba(X)
    classifier.set_params(max_epochs=100).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X), probe, atol=0.02)


def test_relative_rates_change_every_tensor_by_the_same_share(classifier, pixels):
    X, y = pixels
    classifier.set_params(lr=0.01, max_epochs=1, batch_size=40, relative_lr=True, weight_decay=0).fit(X, y)
    trained, before = classifier.net_.module_, clone(classifier).set_params(max_epochs=0).fit(X, y).net_.module_
    for (name, end), start in zip(trained.named_parameters(), before.parameters(), strict=True):
        if end.requires_grad and not name.endswith("bias"):
            share = (end - start).norm() / start.norm()
            assert 0.5 < share / 0.01 < 1.1, name  # Adam's first step is the rate, where a weight has a gradient


def test_weights_lie_between_the_probe_and_the_fine_tuned_net(classifier, pixels):
    X, y = pixels
    ends = [clone(classifier).set_params(wise_alpha=alpha).fit(X, y).net_.module_ for alpha in (0, 1)]
    between = classifier.set_params(wise_alpha=None).fit(X, y).net_.module_
    alpha = 10 / (10 + 5)
    for zero, one, mixed in zip(*(net.parameters() for net in (*ends, between)), strict=True):
        torch.testing.assert_close(mixed, (1 - alpha) * zero + alpha * one)
    probe = clone(classifier).set_params(max_epochs=0).fit(X, y).net_.module_
    for zero, start in zip(ends[0].parameters(), probe.parameters(), strict=True):
        torch.testing.assert_close(zero, start)


def test_class_weights_balance(classifier, pixels):
    X, y = pixels
    few = np.concatenate([np.flatnonzero(y == "r"), np.flatnonzero(y == "g")[:2]])
    plain = clone(classifier).set_params(class_weight=None).fit(X[few], y[few]).predict_proba(X)
    balanced = clone(classifier).set_params(class_weight="balanced").fit(X[few], y[few]).predict_proba(X)
    given = clone(classifier).set_params(class_weight={"g": 3.0, "r": 0.6}).fit(X[few], y[few]).predict_proba(X)
    assert balanced[:, 0].mean() > plain[:, 0].mean()
    np.testing.assert_allclose(given, balanced, atol=1e-3)  # 12 / (2 * 2) and 12 / (2 * 10)


def test_augmented_images_pass_the_whole_network(classifier, pixels):
    X, y = pixels
    seen = []

    def flipped(x):
        seen.append(x.shape)
        return x.flip(3) if torch.rand(()) < 0.5 else x

    first, second = (clone(classifier).set_params(augment=flipped).fit(X, y) for _ in range(2))
    assert set(seen) == {(32, 3, 16, 16), (8, 3, 16, 16)}
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.score(X, y) > 0.9
    same = clone(classifier).set_params(augment=lambda x: x).fit(X, y)
    np.testing.assert_allclose(same.predict_proba(X), classifier.fit(X, y).predict_proba(X), atol=1e-4)


def test_few_images_are_passed_more_often(classifier, pixels):
    X, y = pixels
    assert len(classifier.set_params(min_steps=30).fit(X, y).net_.history) == 15  # of two steps each
    assert len(classifier.fit(X[:20], y[:20]).net_.history) == 30


def test_a_bar_shows_long_passes_alone(classifier, pixels, capsys):
    X, y = pixels
    many = np.concatenate([X] * 15)
    classifier.set_params(verbose=True).fit(X, y).predict(many)
    assert "600/600" in capsys.readouterr().err
    classifier.predict(X)
    assert capsys.readouterr().err == ""


def test_memory_maps_are_read_block_by_block(classifier, pixels, tmp_path):
    X, y = pixels
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = classifier.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(classifier.predict_proba(mapped), expected, atol=1e-6)
    tensors = classifier.backbone_.inputs.check(X).load(range(40)).numpy().astype(np.float64)
    np.save(tmp_path / "T.npy", tensors)
    mapped = np.load(tmp_path / "T.npy", mmap_mode="r")
    assert classifier.backbone_.inputs.check(mapped).array is mapped  # not converted as a whole
    np.testing.assert_allclose(classifier.predict_proba(mapped), expected, atol=1e-5)
    tensors[3] = 1e300
    with pytest.raises(ValueError, match="NaN or infinity, first in row 3"):
        classifier.predict(tensors)


def test_classes_foretold_or_alone_are_solved_for_when_they_come(classifier, pixels):
    X, y = pixels
    order = np.argsort(y, kind="stable")
    classifier.set_params(max_epochs=0)
    foretold, plain = clone(classifier), clone(classifier)
    for chunk in np.split(order, 4):  # one class after the other; the first fit knows a single one
        foretold.partial_fit(X[chunk], y[chunk], classes=["b", "g", "r", "y"])
        plain.partial_fit(X[chunk], y[chunk])
    assert plain.score(X, y) > 0.9
    assert foretold.score(X, y) > 0.9


def test_a_continuation_of_another_network_or_other_labels_is_refused(classifier, pixels):
    X, y = pixels
    proba = classifier.fit(X, y).predict_proba(X)
    with pytest.raises(ValueError, match=r"fit with 2 frozen layers .* but there are 3 .*call fit"):
        classifier.set_params(n_frozen=3).partial_fit(X[:2], y[:2])
    with pytest.raises(ValueError, match=r"y holds .*1.*, but the classes so far are .* of another kind"):
        classifier.set_params(n_frozen=2).partial_fit(X[:2], [1, 2])
    np.testing.assert_array_equal(classifier.predict_proba(X), proba)


def test_a_fit_that_fails_changes_nothing(mlp):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 7)).astype(np.float32), np.arange(20) % 2
    fitted = FrozenPrefixClassifier(mlp, random_state=0, max_epochs=1).fit(X, y)
    proba = fitted.predict_proba(X)
    with pytest.raises((ValueError, RuntimeError)):
        fitted.fit(X[:, :5], y)
    assert fitted.n_features_in_ == 7
    np.testing.assert_array_equal(fitted.predict_proba(X), proba)


def test_one_weight_for_all_classes_changes_nothing(classifier, pixels):
    X, y = pixels
    weighted = clone(classifier).set_params(class_weight=dict.fromkeys("rgb", 100.0) | {"y": 100.0}).fit(X, y)
    np.testing.assert_allclose(weighted.predict_proba(X), classifier.fit(X, y).predict_proba(X), atol=1e-3)
    some = clone(classifier).set_params(class_weight={"y": 2.0})  # of a class that is not there yet
    few = np.isin(y, ["r", "g"])
    assert some.fit(X[few], y[few]).score(X[few], y[few]) > 0.9


def test_numpy_integers_are_depths(classifier, pixels):
    X, y = pixels
    search = GridSearchCV(classifier.set_params(source=None), {"n_frozen": np.arange(2, 4)}, cv=2).fit(X, y)
    assert search.best_estimator_.n_frozen_ in (2, 3)


def test_a_last_batch_of_one_has_no_statistics(classifier, pixels):
    X, y = pixels
    assert classifier.set_params(train_batch_norm=True, batch_size=13).fit(X, y).score(X, y) > 0.5


def test_skorchs_own_loader_and_no_callbacks(classifier, pixels):
    X, y = pixels
    further = {"callbacks": "disable", "iterator_train": DataLoader, "iterator_train__shuffle": True}
    assert classifier.set_params(net_params=further).fit(X, y).score(X, y) > 0.9


def test_shared_weights_are_averaged_once():
    with seeded(0):
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    start, end = nn.Sequential(first, first), nn.Sequential(second, second)
    expected = (first.weight + second.weight) / 2
    interpolate(start, end, 0.5)
    torch.testing.assert_close(end[0].weight, expected)


def test_a_damaged_checkpoint_is_named(classifier, pixels, tmp_path):
    classifier.fit(*pixels).save(tmp_path / "net.safetensors")
    content = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"net\.safetensors' is no classifier written by skal, or is damaged"):
        clone(classifier).load(tmp_path / "net.safetensors")


def test_few_labels_of_unequal_classes_are_not_swallowed_by_the_largest(classifier, pixels):
    X, y = pixels
    few = np.concatenate([np.flatnonzero(y == "r")[:8], *(np.flatnonzero(y == label)[:1] for label in "gby")])
    assert classifier.set_params(max_epochs=0).fit(X[few], y[few]).score(X, y) > 0.9
    assert classifier.set_params(class_weight=None).fit(X[few], y[few]).score(X, y) < 0.9


class Recorded(torch.optim.AdamW):
    """Counts its steps."""

    steps = 0

    def step(self, closure=None):
        Recorded.steps += 1
        return super().step(closure)


def test_only_what_is_new_or_wrong_is_trained_on(classifier, pixels, monkeypatch):
    """ACFT: images of the last fit that it gets right take no part in the next steps."""
    X, y = pixels
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
