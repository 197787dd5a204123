"""Output change on whole networks: the real suffixes, classifiers, and what must stay as it was."""

import numpy as np
import pytest
import torch
from modAL.models import ActiveLearner
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.gradients.change import OutputChange, output_change
from skal.training.suffix import Suffix
from tests.reference.gradients.output_change import ref_changes, ref_output_change, ref_scores


def resnet18_suffix():
    from torchvision.models import resnet18

    net = resnet18()
    return nn.Sequential(net.layer4, net.avgpool, nn.Flatten(), nn.Linear(512, 3)), (256, 6, 6)


def mobilenet_suffix():
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2()
    layers = [*net.features[16:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(1280, 3)]
    return nn.Sequential(*layers), (160, 3, 3)


def squeezenet_suffix():
    from torchvision.models import squeezenet1_1

    net = squeezenet1_1()
    return nn.Sequential(*net.features[11:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 3)), (384, 5, 5)


@pytest.fixture(params=[resnet18_suffix, mobilenet_suffix, squeezenet_suffix], ids=lambda make: make.__name__)
def suffix(request):
    with seeded(0):
        module, shape = request.param()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
        return module.eval(), torch.randn(2, *shape), torch.randn(2, *shape)


@pytest.mark.parametrize("output", ["logit", "probability"])
def test_suffixes_of_real_networks(suffix, output):
    module, references, X = (part.double() for part in suffix)
    change = ref_changes(module, references, X, lambda logits: logits if output == "logit" else logits.softmax(0))
    with torch.no_grad():
        proba = module(X).softmax(1)
    for labels in ("map", "posterior"):
        given = output_change(module.double(), references, X, output=output, labels=labels)
        np.testing.assert_allclose(given, ref_scores(change, proba, labels), rtol=1e-8)
        given = output_change(module.float(), references, X, output=output, labels=labels)
        np.testing.assert_allclose(given, ref_scores(change, proba, labels), rtol=1e-3)
        assert given.dtype == np.float32


class Centred(nn.Module):
    """Each sample is seen relative to its batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(0))


def test_samples_that_mix_are_refused():
    with seeded(0):
        centred = Centred()
        without_statistics = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="depend on the other samples"):
        output_change(centred, np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="running statistics"):
        output_change(without_statistics, np.eye(3), np.eye(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "logits"}, "output='logits'"),
        ({"labels": "MAP"}, "labels='MAP'"),
        ({"norm": "l3"}, "norm='l3'"),
        ({"max_memory": 0}, "max_memory=0"),
        ({"labels": [0, 1]}, r"shape \(2,\)"),
        ({"labels": [0, 1, 5]}, "integers from 0 to 1"),
        ({"labels": [0.0, 1.0, 1.0]}, "integers from 0 to 1"),
    ],
)
def test_options_are_checked(options, message):
    with seeded(0):
        module = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=message):
        output_change(module, np.eye(3), np.eye(3), **options)


def test_what_cannot_be_scored_is_refused():
    with seeded(0):
        module = nn.Linear(3, 2)
        flat = nn.Sequential(nn.Linear(3, 2), nn.Flatten(0))
    for value in (np.nan, np.inf):
        odd = np.where(np.eye(3)[::-1] * [1, 1, 0], value, 1)  # in rows 1 and 2
        with pytest.raises(ValueError, match=r"^X contains NaN or infinity, first in row 1"):
            output_change(module, np.eye(3), odd)
        with pytest.raises(ValueError, match=r"^X_reference contains NaN or infinity, first in row 1"):
            output_change(module, torch.from_numpy(odd), np.eye(3))
    with pytest.raises(ValueError, match="X_reference is empty"):
        output_change(module, np.empty((0, 3)), np.eye(3))
    with pytest.raises(ValueError, match="X is empty"):
        output_change(module, np.eye(3), np.empty((0, 3)))
    with pytest.raises(ValueError, match=r"must return logits \(n, C\)"):
        output_change(flat, np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="no trainable parameter"):
        output_change(module.requires_grad_(False), np.eye(3), np.eye(3))
    with pytest.raises(ValueError, match="float provides no gradients"):
        output_change(1.0, np.eye(3), np.eye(3))


def test_the_module_stays_as_it_was(convnet):
    convnet.train()
    convnet.bn1.eval()
    modes = [part.training for part in convnet.modules()]
    state = {name: value.clone() for name, value in convnet.state_dict().items()}
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    output_change(convnet, x, x)
    assert [part.training for part in convnet.modules()] == modes
    assert all(p.grad is None for p in convnet.parameters())
    for name, value in convnet.state_dict().items():
        assert torch.equal(value, state[name])


def test_references_beyond_the_memory_are_passed_in_blocks(convnet):
    with seeded(0):
        references, X = torch.randn(21, 3, 16, 16), torch.randn(12, 3, 16, 16)
    little = OutputChange(convnet, references, "logit", "map", "l1", 200_000)
    much = OutputChange(convnet, references, "logit", "map", "l1", 1 << 30)
    assert little._block < 21 == much._block
    np.testing.assert_allclose(little.scores(X), much.scores(X), rtol=1e-4)
    y = np.arange(12) % 5
    np.testing.assert_allclose(little.scores(X, y), much.scores(X, y), rtol=1e-4)
    one_by_one = np.concatenate([much.scores(x[None]) for x in X])
    np.testing.assert_allclose(much.scores(X), one_by_one, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- of a classifier


def test_a_classifier_uses_the_cached_prefix(classifier, pixels, device):
    X, y = pixels
    classifier.set_params(device=device).fit(X[:20], y[:20])
    prefix, inputs = classifier._checked(X)
    at_cut = torch.cat([*prefix.activations(inputs)])
    suffix = classifier.net_.module_.cpu()
    assert isinstance(suffix, Suffix)
    assert suffix.normalize
    expected = ref_output_change(suffix.eval(), at_cut[:10], at_cut)
    np.testing.assert_allclose(classifier.output_change(X[:10], X), expected, rtol=1e-3)
    np.testing.assert_allclose(output_change(classifier, X[:10], X), expected, rtol=1e-3)
    np.testing.assert_allclose(classifier.output_change(X[:10], X, max_memory=10_000), expected, rtol=1e-3)
    learner = ActiveLearner(classifier)
    np.testing.assert_allclose(output_change(learner, X[:10], X), expected, rtol=1e-3)
    pipeline = make_pipeline(FunctionTransformer(lambda images: images[..., ::-1].copy()), classifier)
    np.testing.assert_allclose(output_change(pipeline, X[:10, ..., ::-1], X[..., ::-1]), expected, rtol=1e-3)


def test_labels_of_a_classifier_are_its_classes(classifier, pixels):
    X, y = pixels
    classifier.fit(X[:20], y[:20])
    each = classifier.output_change(X[:10], X, labels="each")
    assert each.shape == (40, 4)
    columns = np.searchsorted(classifier.classes_, y)
    np.testing.assert_allclose(classifier.output_change(X[:10], X, labels=y), each[np.arange(40), columns], rtol=1e-4)
    posterior = (each * classifier.predict_proba(X)).sum(axis=1)
    np.testing.assert_allclose(classifier.output_change(X[:10], X, labels="posterior"), posterior, rtol=1e-4)
    with pytest.raises(ValueError, match="labels contains 'blue'"):
        classifier.output_change(X[:10], X[:1], labels=["blue"])
    with pytest.raises(ValueError, match="output='margin'"):
        classifier.output_change(X[:10], X, output="margin")
    with pytest.raises(ValueError, match=r"labels has shape \(39,\), but there are 40 images"):
        classifier.output_change(X[:10], X, labels=y[:39])


def test_a_single_class_changes_nothing(mlp):
    X = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    net = FrozenPrefixClassifier(mlp, n_frozen=1, random_state=0).fit(X, np.zeros(12))
    assert not net.output_change(X, X).any()


def test_samples_of_another_shape_are_refused():
    with seeded(0):
        tokens = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
        tokens(torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match=r"shape \(6, 5\), but those of X_reference are of shape \(1, 5\)"):
        output_change(tokens, np.zeros((4, 1, 5)), np.zeros((3, 6, 5)))


def test_arrays_of_any_memory_layout(mlp):
    X = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    read_only = X.copy()
    read_only.flags.writeable = False
    expected = output_change(mlp, X, X)
    for other in (X[::-1].copy()[::-1], X.astype(">f4"), read_only):
        np.testing.assert_array_equal(output_change(mlp, other, other), expected)


def test_one_reference_is_enough_to_tell_that_samples_mix():
    with seeded(0):
        module = Centred()
    with pytest.raises(ValueError, match="depend on the other samples"):
        output_change(module, np.eye(3)[:1], np.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_and_half_precision(dtype):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.words(x)).mean(1))

    with seeded(0):
        module, x = Text(), torch.randint(0, 9, (6, 5))
    expected = ref_output_change(module, x, x)
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    np.testing.assert_allclose(output_change(module.to(dtype), x, x), expected, rtol=tolerance)


def test_memory_may_be_any_number():
    with seeded(0):
        module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
        x = torch.randn(60, 1, 5, 5)
    np.testing.assert_allclose(output_change(module, x, x, max_memory=2e4), output_change(module, x, x), rtol=1e-4)
    with pytest.raises(ValueError, match="max_memory='2GB'"):
        output_change(module, x, x, max_memory="2GB")
