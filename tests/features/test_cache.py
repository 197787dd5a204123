"""The parameter `cache`: memory, nothing, a folder, or a cache object; anything else is named."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skal import FrozenPrefixClassifier
from skal.features import ActivationCache, FolderCache
from skal.features.cache import CACHE, find_cache
from tests.conftest import SMALL, TinyConvNet


def test_the_parameter_names_memory_nothing_or_a_folder(tmp_path, monkeypatch):
    assert find_cache(True) is CACHE
    assert find_cache(np.bool_(True)) is CACHE
    assert find_cache(False) is None
    assert find_cache(tmp_path / "new") is find_cache(str(tmp_path / "new"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_cache("~/new") is find_cache(tmp_path / "new")
    assert find_cache(Path("~/new")) is find_cache(tmp_path / "new")
    assert FolderCache("~/own").folder == tmp_path / "own"


def test_a_cache_object_is_taken_as_it_is(tmp_path):
    for cache in (ActivationCache(1000), FolderCache(tmp_path, dtype="float16")):
        assert find_cache(cache) is cache


@pytest.mark.parametrize("value", ["", None, 1, 0, b"folder", 3.5, FolderCache, object()])
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"cache=.* must be True \(memory\), False \(none\), the path of a folder"):
        find_cache(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"max_bytes": 0}, "max_bytes=0"), ({"dtype": "int8"}, "'int8' is not one of"), ({"folder": ""}, "not a folder")],
)
def test_a_folder_cache_checks_what_it_is_given(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        FolderCache(**{"folder": tmp_path, **given})


def test_estimators_share_a_cache_object_and_send_it(pixels, tmp_path):
    X, y = pixels
    for cache in (ActivationCache(), FolderCache(tmp_path, 10**8, "float16")):
        net = FrozenPrefixClassifier(TinyConvNet, preprocess=SMALL, max_epochs=0, random_state=0, cache=cache).fit(X, y)
        assert clone(net).cache is cache
        assert copy.deepcopy(net).cache is cache
        sent = pickle.loads(pickle.dumps(cache))
        assert type(sent) is type(cache)
        assert sent.max_bytes == cache.max_bytes
    assert sent.dtype == "float16"
    assert list(tmp_path.glob("*/*.safetensors"))


def test_half_precision_stores_half_and_is_kept_apart(tmp_path):
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32))
    keys = [bytes([i]) * 16 for i in range(50)]
    sizes = {}
    for dtype in ("float32", "float16"):
        FolderCache(tmp_path, dtype=dtype).put(b"s", keys, rows)
        found = torch.stack(list(FolderCache(tmp_path, dtype=dtype).get(b"s", keys).values()))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, rows, rtol=0 if dtype == "float32" else 2**-11, atol=1e-7)
        sizes[dtype] = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert rows.nbytes < sizes["float32"]
    assert rows.nbytes / 2 < sizes["float16"] - sizes["float32"] < 0.7 * rows.nbytes  # keys and header included
    large = torch.tensor([[1e6]])  # beyond half precision's range: stored whole
    FolderCache(tmp_path, dtype="float16").put(b"large", keys[:1], large)
    torch.testing.assert_close(FolderCache(tmp_path, dtype="float16").get(b"large", keys[:1])[0], large[0])
    numbers = torch.tensor([[123457]])
    FolderCache(tmp_path, dtype="float16").put(b"numbers", keys[:1], numbers)
    torch.testing.assert_close(FolderCache(tmp_path, dtype="float16").get(b"numbers", keys[:1])[0], numbers[0])
