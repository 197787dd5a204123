"""
50,000 images
=============

A pool can be larger than memory: an array of paths, or a memory map as here. Images are passed through the network
in blocks, each image once. The second query reads cached activations.
"""

import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from modAL.models import ActiveLearner
from sklearn.datasets import load_digits
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform
from skal.plots import contact_sheet
from skal.query import uherding_sampling

# %%
# 50,000 digits on disk: those of scikit-learn, shifted and with noise.

rng = np.random.default_rng(0)
digits = load_digits()
file = Path(tempfile.mkdtemp()) / "pool.npy"
pool = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(50_000, 12, 12))
source = rng.integers(len(digits.target), size=len(pool))
for start in range(0, len(pool), 5_000):
    rows = slice(start, start + 5_000)
    padded = np.pad(digits.images[source[rows]] * 15, [(0, 0), (2, 2), (2, 2)])
    shifts = rng.integers(-2, 3, size=(5_000, 2))
    shifted = [np.roll(image, shift, axis=(0, 1)) for image, shift in zip(padded, shifts, strict=True)]
    pool[rows] = (np.stack(shifted) + rng.integers(0, 16, size=padded.shape)).astype(np.uint8)
pool = np.load(file, mmap_mode="r")
y = digits.target[source]

# %%
# A small network keeps the first pass short. With an ImageNet network this pass takes milliseconds per image.

torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 48, 3), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
net = FrozenPrefixClassifier(module, preprocess=ImageTransform(12, 12), n_frozen=-2, random_state=0)

# %%
# Three rounds of 40 labels. The first query computes the activations of the whole pool. Later queries read them from
# the cache.

learner = ActiveLearner(net, query_strategy=uherding_sampling)
unlabelled = np.arange(len(pool))
first = None
for step in range(3):
    start = time.perf_counter()
    positions, images = learner.query(pool[unlabelled], n_instances=40)
    seconds = time.perf_counter() - start
    first = images if first is None else first
    learner.teach(images, y[unlabelled[positions]])
    unlabelled = np.delete(unlabelled, positions)
    print(f"{40 * (step + 1)} labels: query {seconds:.1f} s, {len(learner.estimator.classes_)} classes")

# %%
# The first 40 queried images of 50,000. :doc:`Time and memory up to a million images </speed>` are measured for every
# strategy that scales.

contact_sheet(first, [""] * 40)
plt.show()
