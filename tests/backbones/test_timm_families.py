"""One small network of each of timm's families: followed, cut and fitted."""

import pickle
import warnings
from contextlib import suppress

import numpy as np
import pytest
import timm
import torch

from skal import FrozenPrefixClassifier
from skal._random import seeded
from skal.backbones import load_backbone
from skal.images import ImageTransform

QUICK = ["test_convnext", "test_vit", "efficientvit_m0"]
#: Families whose forward no graph expresses: it assigns to slices, or asks a tensor for the kind of its device.
NOT_FOLLOWED = {"convit", "efficientvit_mit", "mvitv2"}
_MOST = 30e6  # parameters: larger networks take a minute and gigabytes


def smallest(family):
    """The network of a family with the fewest parameters, and how many it has."""
    counted = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = timm.list_models(module=family)
        toys = [name for name in names if name.startswith("test_")]
        for name in toys or names:
            with torch.device("meta"):
                try:
                    model = timm.create_model(name)
                except (RuntimeError, NotImplementedError):  # built from values, which meta tensors lack
                    continue
            counted.append((sum(p.numel() for p in model.parameters()), name))
    return min(counted, default=(0, None))


def check_network(name):
    config = timm.get_pretrained_cfg(name)
    side = config.input_size[-1] if config.fixed_input_size else 64
    side = max(side, (config.min_input_size or (3, 0, 0))[-1])
    backbone = load_backbone(f"timm:{name}", None, preprocess=ImageTransform(side, side))
    layers = backbone.layers
    assert len(layers.weight_layers) >= 2
    net = FrozenPrefixClassifier(
        f"timm:{name}", weights=None, preprocess=ImageTransform(side, side), max_epochs=1, min_steps=1, random_state=0
    )
    X = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    net.fit(X, np.arange(8) % 2)
    assert np.isfinite(net.predict_proba(X)).all()

    cut = layers.cut(net.n_frozen_)
    with seeded(0), torch.inference_mode():
        x = torch.rand(2, 3, side, side)
        (features,) = layers.segment(layers.input, [layers.features])(x)
        (z,) = layers.segment(layers.input, [cut])(x)
        torch.testing.assert_close(layers.segment(cut, [layers.features])(z)[0], features)
        # Heads for distillation: LeViT and VOLO sum two heads that read different tensors, which raises a ValueError.
        with suppress(ValueError):
            outputs = layers.head_segment()(features)[0]
            expected = layers.module(x)
            torch.testing.assert_close(outputs, expected[0] if isinstance(expected, tuple) else expected)
    pickle.loads(pickle.dumps(backbone))  # as joblib sends it to workers


@pytest.mark.parametrize("name", QUICK)
def test_a_sample_of_families(name):
    check_network(name)


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_every_family(family):
    n_parameters, name = smallest(family)
    if name is None or n_parameters > _MOST:
        pytest.skip(f"its smallest network, {name}, has {n_parameters / 1e6:.0f} million parameters")
    if family in NOT_FOLLOWED:
        with pytest.raises(ValueError, match="cannot trace the forward method"):
            check_network(name)
    else:
        check_network(name)
