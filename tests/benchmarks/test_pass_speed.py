"""What a pass over images costs: reading photographs ahead of the network, cached rows, and importing skal.

Run alone: python -m pytest tests/benchmarks/test_pass_speed.py -s
"""

import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from skal._random import seeded
from skal.backbones import load_backbone
from skal.features import ActivationCache, activations
from skal.features.activations import Point, frozen_activations
from skal.images import ImageTransform
from skal.images.decode import decode

SIZES = [(1600, 1200), (2592, 1944), (3264, 2448), (4000, 3000)]  # 2, 5, 8 and 12 megapixels


def timed(call, clock=time.perf_counter):
    start = clock()
    call()
    return clock() - start


@pytest.fixture(params=["one thread", "a thread a core"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.param == "one thread" else torch.multiprocessing.cpu_count())
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEG files of 2 to 12 megapixels with edges and noise, of about a byte in four pixels, as cameras write them."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(128):
        size = SIZES[i % len(SIZES)]
        if i < len(SIZES):
            coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 40, size[0] // 40, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
            pixels = pixels + rng.normal(0, 4, pixels.shape)
            path = folder / f"{i}.jpg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=88)
            content = path.read_bytes()
            paths.append((path, content))
        else:
            path = folder / f"{i}.jpg"
            path.write_bytes(paths[i % len(SIZES)][1])
            paths.append((path, None))
    return np.array([str(path) for path, _ in paths])


def test_decoding_ahead_of_the_network(photographs, threads, capsys):
    """On a CPU both compete for the cores, and the best possible is the sum of both; beside a GPU it is the longer."""
    pytest.importorskip("torchvision")
    backbone = load_backbone("resnet18", weights=None)
    inputs = backbone.inputs.check(photographs)
    points = [Point(backbone.layers.features, pooled=True)]
    n = len(inputs)
    half = torch.cat([inputs.load(range(32)) for _ in range(n // 32)])
    ready = backbone.inputs.check(half.numpy())

    def one_by_one():
        for i in range(0, n, 4):
            for row in range(i, i + 4):
                inputs.load([row])  # a single file is decoded in a single thread

    def decode_only():
        for i in range(0, n, 64):
            inputs.load(range(i, i + 64))

    def whole(of):
        return lambda: list(frozen_activations(backbone, of, points, cache=None))

    whole(ready)()
    serial, parallel = timed(one_by_one), timed(decode_only)
    forward, together = timed(whole(ready)), timed(whole(inputs))
    with capsys.disabled():
        print(
            f"\n{n} photographs, {threads} threads: decoding {serial:.1f} s one by one, {parallel:.1f} s in threads; ",
            end="",
        )
        print(
            f"network {forward:.1f} s; both {together:.1f} s = {together / max(parallel, forward):.2f} x the longer, ",
            end="",
        )
        print(f"{together / (parallel + forward):.2f} x the sum, {together / (serial + forward):.2f} x one by one")
    assert together < 1.15 * (serial + forward)


@pytest.mark.parametrize("share", [0.5, 1, 2])
def test_decoding_beside_a_network_on_another_device(photographs, share, monkeypatch, capsys):
    """A network that takes no processor, and so many times as long as decoding on all cores: it sleeps."""
    threads, per_image = torch.get_num_threads(), [0.0]
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    monkeypatch.setattr(activations, "loads_ahead", lambda inputs, device: True)
    with seeded(0):
        convolution = nn.Conv2d(3, 4, 8, stride=32)
        net = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    convolution.register_forward_hook(lambda module, args, out: time.sleep(per_image[0] * len(out)))
    backbone = load_backbone(net, preprocess=ImageTransform(256, 224))
    inputs = backbone.inputs.check(np.tile(photographs, 3))
    ready = backbone.inputs.check(np.zeros((len(inputs), 3, 224, 224), dtype=np.float32))
    points = [Point(backbone.layers.features, pooled=True)]

    def decode_only():
        for i in range(0, len(inputs), 16):
            inputs.load(range(i, i + 16))

    def whole(of):
        return lambda: list(frozen_activations(backbone, of, points, batch_size=16, cache=None))

    per_image[0] = share * min(timed(decode_only) for _ in range(2)) / len(inputs)
    calls = [decode_only, whole(ready), whole(inputs)]
    times = [[timed(call) for call in calls] for _ in range(3)]  # in turn, as other programs come and go
    decoding, forward, together = map(min, zip(*times, strict=True))
    torch.set_num_threads(threads)
    with capsys.disabled():
        print(f"\n{len(inputs)} photographs, decoding {decoding:.1f} s, the network {forward:.1f} s; ", end="")
        print(f"both {together:.1f} s = {together / max(decoding, forward):.2f} x the longer")
    assert together < 1.2 * max(decoding, forward)


def test_decoding_at_a_part_of_the_size(photographs, capsys):
    """JPEG files for a network of 224 pixels, by processor time, and how far their pixels differ."""
    transform = ImageTransform(256, 224, mean=(0, 0, 0), std=(1, 1, 1))

    def load(path, needed):
        return transform(decode(path, needed=needed)[None])

    for path, size in zip(photographs, SIZES, strict=False):
        whole, small = (
            min(timed(partial(load, path, needed), time.process_time) for _ in range(5)) for needed in (None, 256)
        )
        difference = 255 * float((load(path, None) - load(path, 256)).abs().mean())
        with capsys.disabled():
            print(f"\n{size[0]} x {size[1]}: {small * 1e3:.0f} ms, whole {whole * 1e3:.0f} ms, ", end="")
            print(f"{whole / small:.1f} times as long; pixels differ by {difference:.2f} of 255 on average")
        assert difference < 1
    assert whole / small > 1.7


def test_a_warm_pass_of_cached_rows(capsys):
    """Hash, look up, stack: 20,000 images of 32 x 32 pixels whose activations are in memory, by processor time."""
    with seeded(0):
        convolution = nn.Conv2d(3, 8, 3, stride=2)
        net = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5))
    backbone = load_backbone(net, preprocess=ImageTransform(32, 32))
    images = np.random.default_rng(0).integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    inputs = backbone.inputs.check(images)
    points = [Point(backbone.layers.features)]
    cache = ActivationCache()

    def whole():
        for _ in frozen_activations(backbone, inputs, points, cache=cache):
            pass

    whole()
    assert cache.n_bytes == 20_000 * 128 * 4
    seconds = min(timed(whole, time.process_time) for _ in range(3))
    with capsys.disabled():
        print(f"\nwarm pass: {len(images) / seconds:,.0f} images a second")
    assert len(images) / seconds > 10_000


_IMPORT = """
import sys, time
import sklearn.linear_model, sklearn.pipeline, torch, torch.utils.data
start = time.process_time()
import skal
skal.FrozenPrefixClassifier
print(time.process_time() - start)
assert "torchvision" not in sys.modules and "matplotlib" not in sys.modules
"""


def test_import_beyond_torch_and_sklearn(capsys):
    def seconds():
        return float(subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True).stdout)

    took = min(seconds() for _ in range(3))
    with capsys.disabled():
        print(f"\nimport skal beyond torch and scikit-learn: {took:.2f} s of processor")
    assert took < 0.7
