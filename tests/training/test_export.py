"""The whole network as a module, for torch.export and ONNX."""

import numpy as np
import pytest
import torch

from skal import FrozenPrefixClassifier, ImageTransform, SelectiveJoint
from tests.conftest import SMALL


def as_module_input(X, transform):
    """Images as the module's documentation asks for them."""
    plain = ImageTransform(transform.resize, transform.crop, (0.0,) * 3, (1.0,) * 3, transform.interpolation)
    return plain(torch.from_numpy(X))


@pytest.fixture(params=["fine-tuning", "fused", "mirrored"])
def fitted(request, convnet, pixels):
    X, y = pixels
    recipe, data = None, {}
    if request.param == "fused":
        recipe, data = SelectiveJoint(3, n_iterations=2), {"X_source": 255 - X, "y_source": y}
    net = FrozenPrefixClassifier(
        convnet, preprocess=SMALL, n_frozen=1, recipe=recipe, max_epochs=2, min_steps=0, random_state=0,
        mirror=request.param != "fine-tuning",
    )  # fmt: skip
    return net.fit(X[:20], y[:20], **data)


def test_the_module_gives_the_classifiers_probabilities(fitted, pixels):
    module = fitted.to_module()
    with torch.no_grad():
        proba = module(as_module_input(pixels[0], SMALL))
    np.testing.assert_allclose(proba, fitted.predict_proba(pixels[0]), atol=1e-5)
    assert module.classes == ("b", "g", "r", "y")
    assert (module.image_size, module.resize, module.interpolation) == (16, 16, "bilinear")
    np.testing.assert_allclose(module.mean.flatten(), SMALL.mean, rtol=1e-6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert fitted.score(*pixels) > 0.5  # the classifier's own weights are others


def test_features_have_a_module_too(mlp):
    X, y = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32), np.arange(20) % 2
    net = FrozenPrefixClassifier(mlp, max_epochs=2, min_steps=0, random_state=0).fit(X, y)
    with torch.no_grad():
        np.testing.assert_allclose(net.to_module()(torch.from_numpy(X)), net.predict_proba(X), atol=1e-5)


def test_torch_export(fitted, pixels):
    x = as_module_input(pixels[0], SMALL)
    dynamic = ({0: torch.export.Dim("n", min=2, max=64)},)
    exported = torch.export.export(fitted.to_module(), (x[:3],), dynamic_shapes=dynamic)
    np.testing.assert_allclose(exported.module()(x).detach(), fitted.predict_proba(pixels[0]), atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the exporter's own packages
def test_onnx(fitted, pixels, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x, path = as_module_input(pixels[0], SMALL), tmp_path / "model.onnx"
    dynamic = ({0: torch.export.Dim("n", min=2, max=64)},)
    torch.onnx.export(fitted.to_module(), (x[:3],), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = runtime.InferenceSession(path)
    (proba,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(proba, fitted.predict_proba(pixels[0]), atol=1e-5)
