"""What the cache saves, as ratios measured side by side: ``pytest tests/benchmarks``."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from modAL.uncertainty import margin_sampling
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from torch.utils.flop_counter import FlopCounterMode

from skal import ActiveClassifier, FrozenPrefixClassifier, Query, SourceProfile, adma_sampling
from skal.active import Learner
from skal.backbones.load import load_backbone
from skal.features.cache import CACHE
from tests.benchmarks.conftest import seconds

pytestmark = pytest.mark.usefixtures("all_threads")

SIZE = 129


def images(n):
    return np.random.default_rng(0).integers(0, 255, size=(n, SIZE, SIZE, 3), dtype=np.uint8)


def operations(module, x):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(x)
    return counter.get_total_flops()


def test_a_round_against_its_share_of_the_operations(capsys):
    """Fine-tune on 100 labels, then query 2,000 images, everything cached; random weights are as fast as trained ones.

    The prediction: seconds of a whole forward pass, times the suffix's share of its operations, times the images that
    pass the suffix, a training step counting three times (forward, and backward for activations and weights).
    """
    pool, y = images(2000), np.arange(2000) % 10
    net = FrozenPrefixClassifier("mobilenet_v2", weights=None, image_size=SIZE, random_state=0)
    labelled = np.arange(100)
    learner = Learner(net, pool, y)
    learner.labelled = labelled
    net.fit(pool[labelled], y[labelled])
    uncached = seconds(lambda: net.set_params(cache=False).predict_proba(pool), 2)
    net.set_params(cache=True).predict_proba(pool)
    layers = net.backbone_.layers
    whole = layers.segment(layers.input, [layers.features])
    x = torch.zeros(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        at_cut = layers.segment(layers.input, [layers.cut(net.n_frozen_)])(x)[0]
    share = operations(net.net_.module_, at_cut) / operations(whole, x)
    trained = 100 * len(net.net_.history)
    predicted = uncached / 2000 * share * (2000 + 3 * trained)

    fit = seconds(learner.fit, 3)
    query = seconds(lambda: margin_sampling(learner, pool, 10), 3)
    with capsys.disabled():
        print(
            f"\nsuffix {share:.3f} of the operations, whole pass {uncached:.2f} s; round predicted {predicted:.2f} s, "
            f"took {fit + query:.2f} s (fit {fit:.2f}, query {query:.2f}): ratio {(fit + query) / predicted:.2f}"
        )


def test_a_grid_over_lam_and_depth_with_and_without_cache(capsys):
    pool, y = images(300), np.arange(300) % 5
    profile = SourceProfile("mobilenet_v2", weights=None, image_size=SIZE).fit(images(100), np.arange(100))
    depth = len(load_backbone("mobilenet_v2", None, image_size=SIZE).layers.weight_layers)
    net = FrozenPrefixClassifier(
        "mobilenet_v2", weights=None, image_size=SIZE, source=profile, random_state=0, max_epochs=1, min_steps=5
    )
    active = ActiveClassifier(net, Query(adma_sampling), n_queries=3, batch_size=10, random_state=0)
    grid = {"query__lam": [0, 0.05, 0.2, 1], "estimator__n_frozen": [depth - 2, depth - 1, depth]}
    taken = []
    for cache in (True, False):
        CACHE.clear()
        search = GridSearchCV(
            active.set_params(estimator__cache=cache), grid, cv=ShuffleSplit(1, random_state=0), refit=False
        )
        taken.append(seconds(lambda search=search: search.fit(pool, y)))
    with capsys.disabled():
        print(f"\n12 points: {taken[0]:.1f} s with the cache, {taken[1]:.1f} s without: {taken[1] / taken[0]:.1f} x")


@pytest.mark.parametrize("n", [100_000])
def test_memory_of_a_pool_by_path(tmp_path, capsys, n):
    """100,000 files, scored with MobileNetV2 at 64 px; resident memory as the operating system sees it."""
    script = f"""
import os, sys
import numpy as np
import psutil
from PIL import Image
from skal import FrozenPrefixClassifier
from skal.features.cache import CACHE
from skal.query._pool import score_pool
from skal.query.uncertainty import uncertainty

folder, n = {str(tmp_path)!r}, {n}
rng = np.random.default_rng(0)
for i in range(200):
    Image.fromarray(rng.integers(0, 255, size=(64, 64, 3), dtype=np.uint8)).save(f"{{folder}}/{{i}}.png")
paths = [f"{{folder}}/{{i}}.png" for i in range(200)]
for i in range(200, n):
    os.link(paths[i % 200], f"{{folder}}/{{i}}.png")
    paths.append(f"{{folder}}/{{i}}.png")
paths = np.array(paths)
CACHE.max_bytes = 2**27
net = FrozenPrefixClassifier("mobilenet_v2", weights=None, image_size=64, random_state=0, max_epochs=1, min_steps=1)
net.fit(paths[:20], np.arange(20) % 4)
done = 0
def score(rows):
    global done
    scores = uncertainty(net.predict_proba(rows), "margin")
    done += len(rows)
    if done // 10_000 > (done - len(rows)) // 10_000 or done == n:
        print(done, psutil.Process().memory_info().rss // 2**20, flush=True)
    return scores
assert score_pool(score, paths).shape == (n,)
"""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=os.environ)
    resident = dict(tuple(map(int, line.split())) for line in done.stdout.splitlines())
    with capsys.disabled():
        print(f"\nMiB resident after so many images: {resident}, in {time.perf_counter() - start:.0f} s")
    assert max(resident.values()) < 2 * 1024
    assert max(resident.values()) < 1.1 * resident[min(resident)]
