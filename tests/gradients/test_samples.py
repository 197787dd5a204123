"""Gradients of single samples: every form of a layer, and what is no layer."""

import numpy as np
import pytest
import torch
from torch import nn

from skal._random import seeded
from skal.gradients import samples as forms
from skal.gradients.change import output_change
from tests.reference.gradients.output_change import ref_output_change


def mixed():
    """Layers that count decides differently, at one and at several positions, with groups, stride and dilation."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), nn.Tanh(),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 2), dilation=(1, 2), bias=False), nn.Tanh(),
        nn.Conv2d(8, 6, (4, 4), groups=2), nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["whole", "positions pixels", "positions patches", "chosen"])
@pytest.mark.parametrize("labels", ["map", "posterior"])
def test_every_form_of_a_layer_gives_the_same(form, labels, monkeypatch):
    with seeded(0):
        module = mixed().double()
        references, X = torch.randn(11, 2, 8, 8).double(), torch.randn(9, 2, 8, 8).double()
    original = forms.cheapest_form
    taken = []

    def forced(key, uses, n_outputs, n_labels):
        layer = original(key, uses, n_outputs, n_labels)
        if form == "whole":
            layer = layer._replace(form="whole")
        elif form != "chosen":
            unfolded = form.endswith("patches") or uses[0].geometry is None
            layer = layer._replace(form="positions", unfolded=unfolded)
        taken.append((layer.form, layer.unfolded))
        return layer

    monkeypatch.setattr(forms, "cheapest_form", forced)
    given = output_change(module, references, X, labels=labels)
    np.testing.assert_allclose(given, ref_output_change(module, references, X, labels=labels), rtol=1e-10)
    assert {name for name, _ in taken} == {form.split()[0]} or form == "chosen"


def test_the_cheaper_form_is_chosen_by_counting():
    with seeded(0):
        wide = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    uses = _uses(wide, torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert [forms.cheapest_form(use.key, [use], 4, 1).form for use in uses] == ["positions", "outer"]
    uses = _uses(wide, torch.randn(2, 64, 40, 40, generator=torch.Generator().manual_seed(0)))
    assert [forms.cheapest_form(use.key, [use], 4, 1).form for use in uses] == ["whole", "outer"]


def _uses(module, x):
    return forms.Gradients(module, x, 1, 1 << 20)._run(x)[1].uses


class Gated(nn.Module):
    """A weight that acts as a layer, and once more in another way, for one sample in two not at all."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        gate = (x[:, :1] > 0).to(x.dtype)
        return self.last(h + gate * (h @ self.first.weight))


class SequenceFirst(nn.Module):
    """Rows of the first layer's input are tokens, not samples."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.tokens(x.transpose(0, 1))).mean(0))


@pytest.mark.parametrize(("make", "shape"), [(Gated, (4,)), (SequenceFirst, (3, 5)), (SequenceFirst, (7, 5))])
def test_what_is_no_layer_of_its_samples_is_differentiated(make, shape):
    with seeded(0):
        module = make().double()
        references, X = torch.randn(6, *shape).double(), torch.randn(5, *shape).double()
    np.testing.assert_allclose(
        output_change(module, references, X), ref_output_change(module, references, X), rtol=1e-10
    )


def test_a_layer_changed_by_a_hook_is_not_taken_for_one():
    with seeded(0):
        module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        references, X = torch.randn(4, 4).double(), torch.randn(3, 4).double()
    module[0].register_forward_hook(lambda layer, args, out: 2 * out)
    np.testing.assert_allclose(
        output_change(module, references, X), ref_output_change(module, references, X), rtol=1e-10
    )


class Branching(nn.Module):
    """Uses the weight of its first layer in another way for some inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(h @ self.first.weight if x[0, 0] > 0 else h)


def test_a_module_that_uses_a_weight_in_two_ways_is_named():
    with seeded(0):
        module = Branching().double()
        x = torch.randn(5, 4).double().abs()
    with pytest.raises(ValueError, match="differently for different inputs"):
        output_change(module, -x, x)
    assert output_change(module, x, x).shape == output_change(module, -x, -x).shape == (5,)


def test_a_gradient_that_is_zero_but_for_rounding_keeps_its_layer():
    """A bias before a normalisation of each channel changes nothing."""
    with seeded(0):
        module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
        x = torch.randn(5, 2, 5, 5)
    for dtype in (torch.float32, torch.float64):
        assert not forms.Gradients(module.to(dtype), x[:3].to(dtype), 1, 1 << 20)._others
    np.testing.assert_allclose(
        output_change(module, x, x), ref_output_change(module, x.double(), x.double()), rtol=1e-8
    )
