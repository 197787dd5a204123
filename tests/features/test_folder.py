"""The folder cache: shared by processes, whole or absent after a kill, and the depth search that builds on it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skal import FrozenPrefixClassifier
from skal.backbones.load import load_backbone
from skal.features.activations import Point, frozen_activations
from skal.features.cache import find_cache
from skal.features.folder import FolderCache
from tests.conftest import SMALL, TinyConvNet
from tests.features.test_activations import forwards  # noqa: F401 (a fixture)

KEYS = [bytes([i]) * 16 for i in range(6)]
ROWS = torch.arange(12.0).view(6, 2)


def test_rows_come_back_exactly_to_other_readers(tmp_path):
    writer, reader = FolderCache(tmp_path), FolderCache(tmp_path)
    assert not reader.holds(b"s")
    assert reader.get(b"s", KEYS) == {}
    writer.put(b"s", KEYS[:3], ROWS[:3])
    writer.put(b"s", KEYS[2:5], ROWS[2:5])  # only what is new is written
    assert reader.holds(b"s")
    found = reader.get(b"s", KEYS[::-1])
    assert sorted(found) == [1, 2, 3, 4, 5]
    for i, row in found.items():
        torch.testing.assert_close(row, ROWS[5 - i], rtol=0, atol=0)
    assert reader.get(b"other", KEYS) == {}
    sizes = [path.stat().st_size for path in tmp_path.glob("*/*.safetensors")]
    assert len(sizes) == 2


def test_two_writers_of_the_same_rows_agree(tmp_path):
    first, second = FolderCache(tmp_path), FolderCache(tmp_path)
    first.put(b"s", KEYS, ROWS)
    second.put(b"s", KEYS, ROWS)
    assert len(list(tmp_path.glob("*/*"))) == 1
    torch.testing.assert_close(torch.stack(list(second.get(b"s", KEYS).values())), ROWS)


def test_a_folder_serves_another_process(classifier, files, tmp_path, forwards):  # noqa: F811
    X, y = files
    folder = tmp_path / "cache"
    expected = classifier.set_params(cache=folder, source=None).fit(X, y).predict_proba(X)
    assert len(forwards) == 40
    script = f"""
import numpy as np, torch
from skal import FrozenPrefixClassifier
from skal.images.decode import decode
from tests.conftest import SMALL, TinyConvNet, with_statistics
from skal._random import seeded
import skal.images.inputs
def refuse(path, background):
    raise AssertionError("decoded again")
skal.images.inputs.decode = refuse
with seeded(0):
    net = with_statistics(TinyConvNet())
X, y = np.array({list(X)!r}), np.array({list(y)!r})
classifier = FrozenPrefixClassifier(net, preprocess=SMALL, n_frozen=2, max_epochs=5, min_steps=0, lr={classifier.lr},
                                    relative_lr=False, wise_alpha=1, random_state=0, cache={str(folder)!r})
np.save({str(tmp_path / "proba.npy")!r}, classifier.fit(X, y).predict_proba(X))
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    np.testing.assert_allclose(np.load(tmp_path / "proba.npy"), expected, atol=1e-5)


def test_a_kill_in_a_cached_pass_loses_nothing_finished(tmp_path):
    """Killed without warning while it computes, the next pass computes only what is not there, and the same values."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "X.npy", rng.integers(0, 255, size=(1200, 16, 16, 3), dtype=np.uint8))
    script = f"""
import time, numpy as np
from skal.backbones.load import load_backbone
from skal.features.activations import Point, frozen_activations
from skal.features.cache import find_cache
from tests.conftest import SMALL, TinyConvNet
X = np.load({str(tmp_path / "X.npy")!r}, mmap_mode="r")
backbone = load_backbone(TinyConvNet, preprocess=SMALL)
cache = find_cache({str(tmp_path / "cache")!r})
for _ in frozen_activations(backbone, backbone.inputs.check(X), [Point(backbone.layers.features)], cache=cache):
    print("block", flush=True)
    time.sleep(0.02)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for _ in range(4):
        assert process.stdout.readline() == "block\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    backbone = load_backbone(TinyConvNet, preprocess=SMALL)
    inputs, points = backbone.inputs.check(np.load(tmp_path / "X.npy")), [Point(backbone.layers.features)]
    cache = find_cache(tmp_path / "cache")
    space = backbone.space + f" {points[0].node.name} False ".encode()
    kept = len(cache.get(space, inputs.keys(range(1200))))
    assert 4 * 128 <= kept < 1200
    resumed = torch.cat([block[0] for block in frozen_activations(backbone, inputs, points, cache=cache)])
    expected = torch.cat([block[0] for block in frozen_activations(backbone, inputs, points, cache=None)])
    torch.testing.assert_close(resumed, expected)
    assert len(cache.get(space, inputs.keys(range(1200)))) == 1200


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_deeper_cut_starts_from_the_deepest_one_kept(classifier, pixels, tmp_path, forwards, kind):  # noqa: F811
    X, y = pixels
    classifier.set_params(cache=True if kind == "memory" else tmp_path / "cache", source=None)
    shallow = clone(classifier).set_params(n_frozen=1).fit(X, y)
    assert len(forwards) == 40
    warm = clone(classifier).set_params(n_frozen=4).fit(X, y).predict_proba(X)
    assert len(forwards) == 40  # the stem was not run again
    cold = clone(classifier).set_params(n_frozen=4, cache=False).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(warm, cold, atol=1e-5)
    assert shallow.n_frozen_ == 1


def test_a_search_over_depths_runs_the_first_layers_once(classifier, pixels, forwards):  # noqa: F811
    X, y = pixels
    GridSearchCV(classifier.set_params(source=None), {"n_frozen": [1, 2, 3, 4], "lr": [1e-3, 5e-3]}, cv=2).fit(X, y)
    assert len(forwards) == 40


def test_names_of_spaces_are_the_same_in_every_process():
    backbone = load_backbone(TinyConvNet, preprocess=SMALL)
    script = (
        "from skal.backbones import load_backbone; from tests.conftest import SMALL, TinyConvNet;"
        "print(load_backbone(TinyConvNet, preprocess=SMALL).space.hex())"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == backbone.space.hex()


def test_both_caches_give_the_same_result(pixels, tmp_path):
    X, y = pixels
    probas = [
        FrozenPrefixClassifier(TinyConvNet, preprocess=SMALL, max_epochs=2, min_steps=0, cache=cache, random_state=0)
        .fit(X, y)
        .predict_proba(X)
        for cache in (True, tmp_path / "a", tmp_path / "a", False)
    ]
    for proba in probas[1:]:
        np.testing.assert_allclose(proba, probas[0], atol=1e-6)
    # The cut is kept as a whole, the pooled point apart from it.
    backbone = load_backbone(TinyConvNet, preprocess=SMALL)
    node = backbone.layers.resolve("conv1")
    inputs = backbone.inputs.check(X)
    (whole, pooled), *_ = frozen_activations(
        backbone, inputs, [Point(node), Point(node, True)], cache=FolderCache(tmp_path)
    )
    torch.testing.assert_close(whole.mean((2, 3)), pooled)


def test_a_relative_folder_keeps_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = FolderCache("rows")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cache.put(b"space", [b"key"], torch.ones(1, 3))
    assert not (tmp_path / "elsewhere" / "rows").exists()
    assert list(cache.get(b"space", [b"key"])) == [0]
