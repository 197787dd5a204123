"""The cache of the frozen prefix changes no result, and nothing is computed twice."""

import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext

import numpy as np
import pytest
from modAL.uncertainty import margin_sampling
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skal import (
    ActiveClassifier,
    ImageTransform,
    Query,
)
from skal.features.cache import CACHE
from tests.conftest import on_pixels, toy_cnn


@pytest.fixture
def stem_rows(monkeypatch):
    """Counts the images that pass a first convolution; batches below 5 are the checks of a graph, not data."""
    seen = []
    forward = nn.Conv2d._conv_forward

    def counted(self, x, *args, **kwargs):
        if self.in_channels == 3 and len(x) >= 5:
            seen.append(len(x))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counted)
    return seen


def test_cache_changes_no_prediction(pixels, tmp_path, stem_rows):
    X, y = pixels
    predictions = {}
    for name, cache in {"none": False, "memory": True, "folder": tmp_path / "c", "again": tmp_path / "c"}.items():
        if name == "again":
            CACHE.clear()
        del stem_rows[:]
        classifier = on_pixels(cache=cache).fit(X[:20], y[:20])
        predictions[name] = [classifier.predict_proba(X), classifier.predict_proba(X[::-1])[::-1]]
        predictions[name] += [classifier.transform(X), *classifier.activations(X, [-2, -3])]
        if name == "again":
            assert sum(stem_rows) == 0
        elif name != "none":
            assert sum(stem_rows) == 40
    for name in ("memory", "folder", "again"):
        for a, b in zip(predictions["none"], predictions[name], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(predictions["folder"], predictions["again"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_clones_and_copies_of_rows_share_the_prefix(pixels, stem_rows):
    X, y = pixels
    on_pixels().fit(X, y)
    del stem_rows[:]
    GridSearchCV(on_pixels(), {"lr": [1e-3, 1e-2]}, cv=2).fit(X.copy(), y)
    ActiveClassifier(on_pixels(), Query(margin_sampling), n_queries=2, batch_size=5, n_initial=8, random_state=0).fit(
        X.copy(), y
    )
    assert sum(stem_rows) == 0
    changed = X.copy()
    changed[3, 0, 0, 0] ^= 1
    on_pixels().fit(changed, y)
    assert sum(stem_rows) <= 5 + 1  # one image is new (its batch is below the counter's size or not)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 0, 3, 1)])
@pytest.mark.parametrize("where", ["memory", "folder"])
def test_depth_search_is_that_without_cache(pixels, tmp_path, order, where, stem_rows):
    X, y = pixels
    cache = True if where == "memory" else tmp_path / "cache"
    cached = [on_pixels(cache=cache, n_frozen=k).fit(X[:24], y[:24]).predict_proba(X) for k in order]
    passes = sum(stem_rows)
    plain = [on_pixels(cache=False, n_frozen=k).fit(X[:24], y[:24]).predict_proba(X) for k in order]
    for a, b in zip(cached, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    if order == (1, 2, 3):  # each depth starts from the one before it
        assert passes == 40


def test_other_weights_preprocessing_or_files_are_not_confused(pixels, files):
    X, y = pixels
    a = on_pixels(max_epochs=0).fit(X, y)
    b = on_pixels(net=toy_cnn(seed=1), max_epochs=0)
    np.testing.assert_array_equal(
        b.fit(X, y).predict_proba(X), clone(b).set_params(cache=False).fit(X, y).predict_proba(X)
    )
    other = ImageTransform(16, 16, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    c = on_pixels(preprocess=other, max_epochs=0)
    np.testing.assert_allclose(
        c.fit(X, y).predict_proba(X), clone(c).set_params(cache=False).fit(X, y).predict_proba(X), atol=1e-6
    )
    paths, _ = files
    before = a.predict_proba(paths)
    np.testing.assert_allclose(before, a.predict_proba(X), atol=1e-5)
    shutil.copy(paths[1], paths[0])  # a file that changes is another image
    after = a.predict_proba(paths)
    np.testing.assert_allclose(after[0], before[1], atol=1e-5)
    np.testing.assert_allclose(after[1:], before[1:], atol=1e-6)


SCRIPT = """
    import os, signal, sys
    import numpy as np
    from torch import nn
    sys.path.insert(0, {tests!r})
    replace, left = os.replace, [2]

    def killing(*args, **kwargs):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return replace(*args, **kwargs)

    os.replace = os.rename = killing
    os.environ["SCIPY_ARRAY_API"] = "1"
    import torch
    torch.set_num_threads(1)
    from skal import FrozenPrefixClassifier, ImageTransform
    from skal._random import seeded
    with seeded(0):
        net = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Conv2d(6, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3))
    X = np.load({images!r})
    classifier = FrozenPrefixClassifier(net, n_frozen=2, random_state=0, max_epochs=2, min_steps=3,
                                        preprocess=ImageTransform(16, 16), cache={cache!r})
    classifier.fit(X, np.arange(len(X)) % 3)
    print("not killed")
"""


def test_folder_of_a_killed_process_is_used_and_completed(tmp_path, stem_rows):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 255, size=(300, 16, 16, 3), dtype=np.uint8), np.arange(300) % 3
    np.save(tmp_path / "X.npy", X)
    folder = tmp_path / "cache"
    code = textwrap.dedent(SCRIPT).format(tests=str(tmp_path), images=str(tmp_path / "X.npy"), cache=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr + done.stdout
    finished = {p: p.read_bytes() for p in folder.rglob("*.safetensors")}
    assert finished
    classifier = on_pixels(cache=folder).fit(X, y)
    assert 0 < sum(stem_rows) < 300  # what the killed process had finished is not computed again
    for path, content in finished.items():
        assert path.read_bytes() == content
    plain = on_pixels(cache=False).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X), plain.predict_proba(X), atol=1e-5)
    CACHE.clear()
    del stem_rows[:]
    again = on_pixels(cache=folder).fit(X, y)
    assert sum(stem_rows) == 0
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete", "junk"])
def test_damaged_folder_is_recomputed(pixels, tmp_path, damage):
    X, y = pixels
    folder = tmp_path / "cache"
    reference = on_pixels(cache=folder).fit(X, y).predict_proba(X)
    written = sorted(p for p in folder.rglob("*") if p.is_file())
    assert written
    for path in written:
        content = path.read_bytes()
        path.unlink()  # a new file: the old one may be mapped
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
    if damage == "junk":
        for path in written:
            path.with_name("." + path.name + ".tmp123").write_bytes(b"half")
            path.with_name("junk.safetensors").write_bytes(b"half a file")
    CACHE.clear()
    named = nullcontext() if damage == "delete" else pytest.warns(RuntimeWarning, match="is damaged")
    with named:
        np.testing.assert_allclose(on_pixels(cache=folder).fit(X, y).predict_proba(X), reference, atol=1e-5)
