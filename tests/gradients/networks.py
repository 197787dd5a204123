"""Toy networks that use their parameters in every way known, with references and candidates."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import nn

from skal._random import seeded


def close(actual, expected, rtol=1e-8):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert_allclose(actual, expected, rtol=rtol, atol=rtol * 1e-2 * np.abs(expected).max())


class Wrapped(nn.Module):
    """Parts by name and a forward function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def after(*convs, channels, n_classes=3):
    """Convolutions and tanh in turn, average, head."""
    body = [part for conv in convs for part in (conv, nn.Tanh())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, n_classes))


def frozen(net, keep):
    """Only parameters whose name `keep` accepts are trainable."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(keep(name))
    return net


def tied():
    net = Wrapped(
        lambda s, x: s.head(torch.tanh(s.second(torch.tanh(s.first(x))))),
        first=nn.Linear(5, 5),
        second=nn.Linear(5, 5),
        head=nn.Linear(5, 3),
    )
    net.second.weight = net.first.weight
    return net


def tied_transposed():
    """A decoder that reads the encoder's weight through the functional interface."""
    return Wrapped(
        lambda s, x: s.head(F.linear(torch.tanh(s.first(x)), s.first.weight.t(), s.bias)),
        first=nn.Linear(5, 4),
        bias=nn.Parameter(torch.randn(5)),
        head=nn.Linear(5, 3),
    )


def twice():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.conv(torch.tanh(s.conv(x)))).mean((2, 3))),
        conv=nn.Conv2d(3, 3, 3, padding=1),
        head=nn.Linear(3, 3),
    )


def attention(fused=False):
    return Wrapped(
        lambda s, x: s.head(s.norm(x + s.attend(x + s.place, x, x, need_weights=not fused)[0]).mean(1)),
        attend=nn.MultiheadAttention(4, 2, batch_first=True),
        place=nn.Parameter(torch.randn(1, 5, 4)),
        norm=nn.LayerNorm(4),
        head=nn.Linear(4, 3),
    )


def class_token():
    """A learnt token before the others, and a hidden layer on all tokens."""
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(torch.cat([s.token.expand(len(x), -1, -1), x], 1)))[:, :2].flatten(1)),
        token=nn.Parameter(torch.randn(1, 1, 4)),
        mlp=nn.Linear(4, 6),
        head=nn.Linear(12, 3),
    )


def sequence_first():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(x.transpose(0, 1))).sum(0)), mlp=nn.Linear(4, 6), head=nn.Linear(6, 3)
    )


def folded_tokens():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(x.reshape(-1, 4))).view(len(x), -1, 6).mean(1)),
        mlp=nn.Linear(4, 6),
        head=nn.Linear(6, 3),
    )


def folded_maps():
    """Channels become images of their own, as frames of a film do."""
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.norm(s.conv(x.flatten(0, 1)[:, None]))).view(len(x), 3, 4, -1).mean((1, 3))),
        conv=nn.Conv2d(1, 4, 3),
        norm=nn.GroupNorm(2, 4),
        head=nn.Linear(4, 3),
    )


def residual():
    def run(s, x):
        out = s.relu(s.bn1(s.conv1(x)))
        out = s.bn2(s.conv2(out))
        out += s.shortcut(x)
        return s.head(s.relu(out).mean((2, 3)))

    return Wrapped(
        run,
        conv1=nn.Conv2d(3, 5, 3, 2, 1, bias=False),
        bn1=nn.BatchNorm2d(5),
        conv2=nn.Conv2d(5, 6, 3, 1, 1, bias=False),
        bn2=nn.BatchNorm2d(6),
        shortcut=nn.Conv2d(3, 6, 1, 2),
        relu=nn.ReLU(inplace=True),
        head=nn.Linear(6, 4),
    )


def unused():
    net = Wrapped(lambda s, x: s.head(torch.tanh(s.first(x))), first=nn.Linear(5, 4), head=nn.Linear(4, 3))
    net.spare = nn.Linear(7, 2)
    return net


def channels_last():
    return Wrapped(
        lambda s, x: s.head(torch.tanh(s.mlp(s.norm(s.conv(x).permute(0, 2, 3, 1)))).mean((1, 2))),
        conv=nn.Conv2d(3, 4, 2, 2),
        norm=nn.LayerNorm(4),
        mlp=nn.Linear(4, 5),
        head=nn.Linear(5, 3),
    )


VECTOR, IMAGE, TOKENS, LINE = (5,), (3, 7, 6), (5, 4), (3, 9)
NETS = {
    "linear-2": (lambda: nn.Linear(5, 2), VECTOR),
    "linear-no-bias": (lambda: nn.Linear(5, 4, bias=False), VECTOR),
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 4)), VECTOR),
    "mlp-2": (lambda: nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(inplace=True), nn.Linear(7, 2)), VECTOR),
    "many-classes": (lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 17)), VECTOR),
    "conv": (lambda: after(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3), channels=5), IMAGE),
    "stride": (lambda: after(nn.Conv2d(3, 4, 3, stride=(2, 1), padding=(0, 2)), channels=4), IMAGE),
    "dilation": (lambda: after(nn.Conv2d(3, 4, 2, dilation=(3, 2), padding=1), channels=4), IMAGE),
    "groups": (lambda: after(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 3, groups=2, padding=1), channels=4), IMAGE),
    "depthwise": (
        lambda: after(nn.Conv2d(3, 3, 3, groups=3, padding=1, bias=False), nn.Conv2d(3, 6, 1), channels=6),
        IMAGE,
    ),
    "same": (lambda: after(nn.Conv2d(3, 4, 3, padding="same", dilation=2), channels=4), IMAGE),
    "same-even": (lambda: after(nn.Conv2d(3, 4, (3, 5), padding="same"), channels=4, n_classes=2), IMAGE),
    "valid": (lambda: after(nn.Conv2d(3, 4, 3, padding="valid"), channels=4), IMAGE),
    "rectangular": (lambda: after(nn.Conv2d(3, 4, (1, 5), padding=(0, 1)), nn.Conv2d(4, 4, (3, 1)), channels=4), IMAGE),
    "pointwise-strided": (lambda: after(nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 5, 1), channels=5), IMAGE),
    "reflect": (lambda: after(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), channels=4), IMAGE),
    "circular": (lambda: after(nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), channels=4), IMAGE),
    "kernel-of-all": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, (7, 6)), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)),
        IMAGE,
    ),
    "transposed": (lambda: after(nn.ConvTranspose2d(3, 4, 2, stride=2), channels=4), IMAGE),
    "batch-norm": (lambda: after(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), channels=4), IMAGE),
    "batch-norm-1d": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), VECTOR),
    "group-norm": (lambda: after(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), channels=6), IMAGE),
    "layer-norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)), VECTOR),
    "layer-norm-maps": (lambda: after(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 5, 4)), channels=4), IMAGE),
    "instance-norm": (lambda: after(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), channels=4), IMAGE),
    "residual": (residual, IMAGE),
    "biases": (lambda: frozen(residual(), lambda name: name.endswith("bias")), IMAGE),
    "weights": (lambda: frozen(residual(), lambda name: name.endswith("weight")), IMAGE),
    "norms": (lambda: frozen(residual(), lambda name: name.startswith("bn")), IMAGE),
    "frozen-first": (lambda: frozen(residual(), lambda name: "2" in name or "head" in name), IMAGE),
    "frozen-last": (lambda: frozen(residual(), lambda name: name == "conv1.weight"), IMAGE),
    "head": (lambda: frozen(residual(), lambda name: "head" in name), IMAGE),
    "prelu": (lambda: nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), nn.Linear(6, 3)), VECTOR),
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 3)), VECTOR),
    "twice": (twice, IMAGE),
    "tied": (tied, VECTOR),
    "tied-transposed": (tied_transposed, VECTOR),
    "attention": (attention, TOKENS),
    "attention-fused": (lambda: attention(fused=True), TOKENS),
    "class-token": (class_token, TOKENS),
    "tokens": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Flatten(), nn.Linear(30, 3)), TOKENS),
    "sequence-first": (sequence_first, TOKENS),
    "folded-tokens": (folded_tokens, TOKENS),
    "folded-maps": (folded_maps, IMAGE),
    "channels-last": (channels_last, IMAGE),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)),
        LINE,
    ),
    "unused": (unused, VECTOR),
    "weight-norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 3)),
        VECTOR,
    ),
}


LOOPS = {"attention-fused", "prelu", "weight-norm"}  # vmap fails or warns


def make(name, dtype=torch.float64, n_reference=5, n=7):
    """A network with weights large enough to be sure of some labels, references and candidates."""
    build, shape = NETS[name]
    with seeded(3), torch.no_grad():
        net = build().to(dtype)
        for part in net.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 1.5)
            if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.3)
        return net, torch.randn(n_reference, *shape, dtype=dtype), 1.5 * torch.randn(n, *shape, dtype=dtype)
