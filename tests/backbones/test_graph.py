"""Weight layers, cuts, freezing and named layers, against the table of the paper and against plain forwards."""

import pickle

import pytest
import torch
from torch import nn
from torchvision import models

from skal._random import seeded
from skal.backbones.graph import LayerGraph
from tests.conftest import with_statistics


def torchvision_net(name):
    with seeded(0):
        return with_statistics(models.get_model(name, weights=None))


@pytest.mark.parametrize(
    ("name", "n_layers", "shape_A", "shape_B"),
    [
        ("alexnet", 8, (9216,), (4096,)),
        ("vgg16", 16, (25088,), (4096,)),
        ("resnet18", 18, (512, 7, 7), (512,)),
    ],
)
def test_layers_A_and_B_are_those_of_the_paper(name, n_layers, shape_A, shape_B):
    with torch.device("meta"):  # shapes only: VGG's weights would take half a gigabyte
        net = models.get_model(name, weights=None)
        layers = LayerGraph(net)
        nodes = [layers.resolve(-4), layers.resolve(-2)]
        a, b = layers.segment(layers.input, nodes)(torch.zeros(2, 3, 224, 224))
    assert len(layers.weight_layers) + 1 == n_layers
    assert (a.shape[1:], b.shape[1:]) == (shape_A, shape_B)


def test_resnet_names_are_the_blocks():
    layers = LayerGraph(torchvision_net("resnet18"))
    assert layers.resolve(-4) is layers.resolve("layer4.0")
    assert layers.resolve("avgpool") is layers._body[-2]
    assert layers.weight_layers[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert layers.shortcuts["layer2.0.downsample.0"] == "layer2.0.conv2"
    # The paper freezes 8 layers: up to layer2.1.conv1, which lies inside a block, so the cut is before that block.
    assert layers.weight_layers[7] == "layer2.1.conv1"
    assert layers.cut(8) is layers.resolve("layer2.0")


@pytest.mark.parametrize(
    "name",
    ["resnet50", "mobilenet_v2", "squeezenet1_1", "densenet121", "shufflenet_v2_x0_5", "efficientnet_b0", "vit_b_16"],
)
def test_every_cut_gives_the_same_features_as_the_whole(name):
    if name == "vit_b_16":
        with seeded(0):
            net = models.VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
    else:
        net = torchvision_net(name)
    layers = LayerGraph(net)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (features,) = layers.segment(layers.input, [layers.features])(x)
        torch.testing.assert_close(layers.head_segment()(features)[0], net(x), rtol=1e-3, atol=1e-4)
        n = len(layers.weight_layers)
        for depth in {0, 1, n // 2, n - 1, n}:
            cut = layers.cut(depth)
            (z,) = layers.segment(layers.input, [cut])(x)
            (again,) = layers.segment(cut, [layers.features])(z)
            torch.testing.assert_close(again, features)


def test_pattern_layers_differ_where_counting_gives_one_tensor():
    layers = LayerGraph(torchvision_net("resnet50"))
    assert layers.resolve(-4) is layers.resolve(-2)  # all within the last bottleneck
    (a, b) = layers.pattern_layers()[0]
    assert layers.resolve(a) is layers.resolve("layer4.1")
    assert b == -2


def test_exactly_the_first_n_layers_are_frozen(convnet):
    layers = LayerGraph(convnet)
    assert layers.weight_layers == ["stem.0", "conv1", "conv2", "conv3"]
    assert layers.shortcuts == {"shortcut.0": "conv2"}
    modules = {
        0: set(),
        1: {"stem.0", "stem.1"},
        2: {"stem.0", "stem.1", "conv1", "bn1"},
        3: {"stem.0", "stem.1", "conv1", "bn1", "conv2", "bn2", "shortcut.0", "shortcut.1"},
    }
    for n_frozen, expected in modules.items():
        frozen = {name.rpartition(".")[0] for name in layers.frozen_parameters(n_frozen)}
        assert frozen == expected
    assert layers.cut(2) is layers.cut(1) is layers.resolve("stem")  # inside the block: before the block
    assert layers.cut(0) is layers.input


@pytest.mark.parametrize("n_frozen", [-5, 5, 2.5, True])
def test_impossible_depths_are_refused(convnet, n_frozen):
    with pytest.raises(ValueError, match="integer from 0 to 4"):
        LayerGraph(convnet).check_n_frozen(n_frozen)


def test_unknown_layers_are_refused_with_those_that_exist(convnet):
    with pytest.raises(ValueError, match=r"unknown layer 'conv9'.*'conv3'"):
        LayerGraph(convnet).resolve("conv9")
    with pytest.raises(ValueError, match="from -5 to -2"):
        LayerGraph(convnet).resolve(-9)


def test_the_module_is_copied_and_in_place_operations_spare_what_is_kept(convnet):
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    layers = LayerGraph(convnet)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pre_sum, post = layers.segment(layers.input, [layers.resolve("bn2"), layers.resolve("conv3")])(x)
    kept = {}
    convnet.bn2.register_forward_hook(lambda module, args, out: kept.update(pre_sum=out.clone()))
    convnet.conv3.register_forward_hook(lambda module, args, out: kept.update(post=out.clone()))
    with torch.inference_mode():
        convnet(x)
    torch.testing.assert_close(pre_sum, kept["pre_sum"])
    torch.testing.assert_close(post, kept["post"])
    assert convnet.relu.inplace
    assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())


class Branching(nn.Module):
    """Branches on sizes and values, which a symbolic trace cannot follow."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        n, _, height, _ = x.shape
        if height > 4:
            x = x[:, :, : int(height / 2)]
        for _ in range(len(x.shape) - 3):
            x = x * 2
        out = self.first(x).mean((2, 3))
        out.relu_()
        return self.last(out.view(n, -1))


def test_branches_are_followed_along_an_example():
    with seeded(0):
        net = Branching().eval()
    with pytest.raises(ValueError, match="cannot trace the forward method of Branching"):
        LayerGraph(net)
    layers = LayerGraph(net, torch.zeros(2, 3, 16, 16))
    assert (layers.weight_layers, layers.head) == (["first"], "last")
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (features,) = layers.segment(layers.input, [layers.features])(x)
    torch.testing.assert_close(layers.head_segment()(features)[0], net(x))


class TwoHeads(nn.Module):
    """Its output is a sum of two heads that read different tensors, as VOLO's is."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.main, self.aux = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.main(self.b(x)) + self.aux(x.relu())


def test_outputs_that_need_more_than_the_features_raise():
    with seeded(0):
        layers = LayerGraph(TwoHeads().eval(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="cannot be computed from 'relu' alone"):
        layers.head_segment()


class BiasByIndex(nn.Module):
    """Adds learned biases, looked up by a buffer of indices and cached by device, as the attention of TinyViT does."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.biases = nn.Parameter(torch.randn(3))
        self.register_buffer("places", torch.tensor([0, 2, 1, 2]), persistent=False)
        self.cached = {}

    def forward(self, x, mask=None):
        device = str(x.device)
        if device not in self.cached:
            self.cached[device] = self.biases[self.places]
        x = self.a(x) + self.cached[device]
        if x.shape[1] > 3:  # a branch, so that an example is needed
            x = x.relu()
        if mask is not None:
            x = x * mask
        return self.fc(self.b(x))


def test_tensors_among_the_arguments_and_caches_in_a_forward_are_followed():
    with seeded(0):
        net = BiasByIndex().eval()
        x = torch.rand(5, 4)
    layers = LayerGraph(net, torch.zeros(2, 4))
    (features,) = layers.segment(layers.input, [layers.features])(x)
    torch.testing.assert_close(layers.head_segment()(features)[0], net(x))
    assert "biases" in layers.frozen_parameters(1)
    assert pickle.loads(pickle.dumps(layers.module)).cached == {}  # no stand-in of the trace is left behind


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)


class OpaqueReLU(nn.Module):
    def forward(self, x):
        return Opaque.apply(x)


def test_a_part_that_cannot_be_traced_is_kept_whole():
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, 4), OpaqueReLU(), nn.Linear(4, 2)).eval()
    layers = LayerGraph(net)
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    (features,) = layers.segment(layers.input, [layers.features])(x)
    torch.testing.assert_close(layers.head_segment()(features)[0], net(x))


def test_a_network_without_head_gives_its_output_as_features(convnet):
    body = nn.Sequential(convnet.stem, convnet.conv1, convnet.bn1)
    layers = LayerGraph(body)
    assert layers.head is None
    assert layers.weight_layers == ["0.0", "1"]
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layers.segment(layers.input, [layers.features])(x)[0], body(x))
    with pytest.raises(ValueError, match="no head of its own"):
        layers.head_segment()


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="Flatten has no convolutional or linear layer"):
        LayerGraph(nn.Flatten())


class Careless(nn.Module):
    """In-place operations as statements and functions, a tied weight and a layer applied twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.a.weight
        self.aux = nn.Linear(6, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        first = self.a(x)
        x = first * 1
        self.relu(x)
        x = self.b(self.b(x))
        nn.functional.leaky_relu(x, 0.1, inplace=True)
        x = self.tied(x)
        torch.relu_(x)
        x += 1
        return self.fc(x), self.aux(first)


def test_in_place_statements_act_and_keep_what_was_there_before():
    with seeded(0):
        net = Careless().eval()
    layers = LayerGraph(net, torch.zeros(2, 6))
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) - 0.5
    first, features = layers.segment(layers.input, [layers.resolve("a"), layers.features])(x)
    torch.testing.assert_close(first, net.a(x))
    torch.testing.assert_close(layers.head_segment()(features)[0], net(x)[0])


def test_the_head_is_what_the_output_comes_from_and_tied_weights_freeze_together():
    with seeded(0):
        layers = LayerGraph(Careless().eval(), torch.zeros(2, 6))
    assert layers.head == "fc"
    assert layers.weight_layers == ["a", "b", "tied"]
    assert layers.depth(layers.features) == 3
    assert "tied.weight" in layers.frozen_parameters(1)


class SequenceFirst(nn.Module):
    """Works on (tokens, samples, features) in the middle."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x.view(-1, 3, 4))
        x = self.b(x.transpose(0, 1))
        return self.fc(self.c(x.mean(0)))


def test_a_tensor_without_a_row_a_sample_is_no_cut():
    with seeded(0):
        net = SequenceFirst().eval()
    layers = LayerGraph(net, torch.zeros(2, 12))
    assert layers.cut(2) is layers.resolve("a") or layers.cut(2).name == "mean"
    x = torch.rand(7, 12, generator=torch.Generator().manual_seed(0))
    for depth in range(4):
        (z,) = layers.segment(layers.input, [layers.cut(depth)])(x)
        assert len(z) == 7
        (features,) = layers.segment(layers.cut(depth), [layers.features])(z)
        torch.testing.assert_close(layers.head_segment()(features)[0], net(x), rtol=1e-3, atol=1e-4)


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, 2)

    def forward(self, x):
        x = self.a(x)
        return self.fc(x.view(len(x), -1))


def test_a_graph_that_holds_for_one_batch_size_alone_is_refused():
    with seeded(0), pytest.raises(ValueError, match="FixedBatch fails on 3 samples"):
        LayerGraph(FixedBatch(), torch.zeros(2, 3, 8, 8))


def test_a_negative_depth_counts_from_the_end(mlp):
    layers = LayerGraph(mlp)
    assert layers.weight_layers == ["0", "2", "4"]
    assert [layers.check_n_frozen(n) for n in (-1, -3, 0, 3)] == [2, 0, 0, 3]
    for n in (-4, 4, True, 1.0):
        with pytest.raises(ValueError, match=f"n_frozen={n} is invalid.*from -3 to -1"):
            layers.check_n_frozen(n)
