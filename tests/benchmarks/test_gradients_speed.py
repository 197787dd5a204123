"""What EMOC's scores cost, against one jvp a candidate over all references: ``pytest tests/benchmarks``."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp

from skal import FrozenPrefixClassifier, emoc_sampling
from skal._random import seeded
from skal.gradients.change import output_change

pytestmark = pytest.mark.usefixtures("all_threads")


def mlp(n_classes):
    layers = [nn.Linear(9216, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, n_classes)]
    return nn.Sequential(*layers), (9216,)


def resnet_suffix(n_classes):
    from torchvision.models import resnet18  # not before skal, which declares its operators

    net = resnet18()
    suffix = nn.Sequential(net.layer4, net.avgpool, nn.Flatten(), nn.Linear(512, n_classes))
    return suffix.eval(), (256, 14, 14)


def mobilenet_suffix(n_classes):
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2()
    suffix = nn.Sequential(*net.features[16:], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, n_classes))
    return suffix.eval(), (160, 5, 5)


def early_layer(n_classes):
    layers = [nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, n_classes)), (64, 32, 32)


def by_jvp(module, references, candidates):
    """The direct way: a gradient a candidate, and the outputs' derivative along it over the batch of references."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    scores = []
    for x in candidates:

        def loss(p, x=x):
            logits = functional_call(module, p, (x[None],))
            return nn.functional.cross_entropy(logits, logits.argmax(1))

        step = grad(loss)(parameters)
        _, change = jvp(lambda p: functional_call(module, p, (references,)), (parameters,), (step,))
        scores.append(change.abs().sum(1).mean())
    return torch.stack(scores).numpy()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inside torch.func.jvp
@pytest.mark.parametrize(
    ("make", "n_classes", "n", "asked"),
    [(mlp, 20, 2000, 50), (resnet_suffix, 20, 512, 3), (resnet_suffix, 67, 512, 2), (mobilenet_suffix, 15, 512, 3)],
)
def test_a_pair_against_jvp(benchmark, make, n_classes, n, asked, capsys):
    with seeded(0):
        module, shape = make(n_classes)
        references, candidates = torch.rand(200, *shape), torch.rand(n, *shape)
    output_change(module, references[:2], candidates[:2])
    benchmark.pedantic(lambda: output_change(module, references, candidates), rounds=2)
    ours = benchmark.stats.stats.min / (100 * n)
    start = time.perf_counter()
    direct = by_jvp(module, references, candidates[:6])
    theirs = (time.perf_counter() - start) / 600
    np.testing.assert_allclose(output_change(module, references, candidates[:6]), direct, rtol=1e-3)
    benchmark.extra_info |= {"ms_a_pair": ours * 1e3, "jvp_ms_a_pair": theirs * 1e3, "ratio": theirs / ours}
    with capsys.disabled():
        print(
            f"\n{make.__name__}, {n_classes} classes, {n} candidates: {ours * 1e3:.4f} ms a pair, "
            f"jvp {theirs * 1e3:.3f}, ratio {theirs / ours:.1f}"
        )
    assert theirs / ours > asked


def test_a_query_of_2000_cached_images(benchmark, capsys):
    """MobileNetV2 at 129 px with its last two blocks trainable, 15 classes, 100 references; asked: five minutes."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 255, size=(2000, 129, 129, 3), dtype=np.uint8)
    net = FrozenPrefixClassifier(
        "mobilenet_v2", weights=None, image_size=129, n_frozen=45, random_state=0, min_steps=1, max_epochs=1
    )
    net.fit(pool[:60], np.arange(60) % 15)
    start = time.perf_counter()
    net.predict_proba(pool)
    forward = time.perf_counter() - start
    benchmark.pedantic(lambda: emoc_sampling(net, pool, 10, random_state=0, batch="top"), rounds=1)
    query = benchmark.stats.stats.mean
    benchmark.extra_info |= {"seconds": query, "forward": forward}
    with capsys.disabled():
        print(f"\n2,000 cached images x 100 references: {query:.1f} s; a cold forward pass of them {forward:.1f} s")
    assert query < 300


_PEAK = """
import sys, torch
from tests.benchmarks import test_gradients_speed as nets
from skal.gradients.change import output_change
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
module, shape = getattr(nets, sys.argv[3])(int(sys.argv[1]))
references, candidates = torch.rand(200, *shape), torch.rand(64, *shape)
output_change(module, references[:4], candidates[:4], max_memory=1 << 26)
before = peak()
output_change(module, references, candidates, max_memory=int(sys.argv[2]) << 20)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("make", "n_classes", "mebibytes"),
    [(resnet_suffix, 20, 512), (resnet_suffix, 20, 2048), (resnet_suffix, 67, 1024), (early_layer, 10, 1024)],
)
def test_memory_stays_within_its_bound(make, n_classes, mebibytes, capsys):
    arguments = [sys.executable, "-c", _PEAK, str(n_classes), str(mebibytes), make.__name__]
    grown = float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    with capsys.disabled():
        print(f"\n{make.__name__}, {n_classes} classes, 200 references: {grown:.0f} MiB of {mebibytes} allowed")
    assert grown < mebibytes
