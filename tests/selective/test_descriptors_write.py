"""Descriptors in a folder: resumed after a kill, healed after damage, shared by sets of images and by processes."""

import os
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import skal.images.inputs
from skal import ImageTransform
from skal.features.cache import CACHE
from skal.selective import FilterBankDescriptor, SymmetricKLNeighbors
from tests.damage import DAMAGES, GONE, swap
from tests.reference.retrieval import plain_distances
from tests.selective.retrieval_cases import small_net


class Kill(Exception):  # noqa: N818
    pass


def describe(n_bins=3):
    return FilterBankDescriptor("conv", backbone=small_net(), n_bins=n_bins, preprocess=ImageTransform(6, 6))


@pytest.fixture
def paths(tmp_path):
    pixels = np.random.default_rng(11).integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    names = [str(tmp_path / "images" / f"{i}.png") for i in range(40)]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(name)
    return np.array(names)


def counted(monkeypatch, limit=None):
    """Count decoded files; the one after `limit` raises."""
    decode, calls = skal.images.inputs.decode, []

    def patched(path, *args, **kwargs):
        if limit is not None and len(calls) >= limit:
            raise Kill
        calls.append(str(path))
        return decode(path, *args, **kwargs)

    monkeypatch.setattr(skal.images.inputs, "decode", patched)
    return calls


def test_write_equals_transform_and_is_not_computed_twice(paths, tmp_path, monkeypatch):
    est = describe().fit(paths[:4])
    want = est.transform(paths)
    got = est.write(paths, tmp_path / "out")
    assert isinstance(got, np.memmap)
    assert not got.flags.writeable
    assert got.shape == want.shape
    assert got.dtype == np.float32
    assert_allclose(got, want, atol=1e-6)
    CACHE.clear()
    calls = counted(monkeypatch)
    assert_array_equal(est.write(paths, str(tmp_path / "out")), got)
    assert not calls


@pytest.mark.parametrize("limit", [0, 1, 30, 39])
def test_a_killed_write_continues(paths, tmp_path, monkeypatch, limit):
    est = describe().fit(paths[:4])
    want = est.transform(paths)
    CACHE.clear()
    with monkeypatch.context() as patch:
        counted(patch, limit)
        with pytest.raises(Kill):
            est.write(paths, tmp_path / "out")
    calls = counted(monkeypatch)
    assert_allclose(est.write(paths, tmp_path / "out"), want, atol=1e-6)
    if limit >= 30:
        assert len(calls) < 40  # finished blocks are kept


def test_other_images_or_bins_have_their_own_place_in_the_folder(paths, tmp_path):
    est = describe().fit(paths[:4])
    folder = tmp_path / "out"
    kept = np.array(est.write(paths, folder))
    others = [
        (est, paths[::-1]),
        (est, paths[:39]),
        (describe(4).fit(paths[:4]), paths),
        (describe().fit(paths[4:6]), paths),  # as many bins, other edges
    ]
    for other, X in others:
        assert_allclose(other.write(X, folder), other.transform(X), atol=1e-6)
    assert_array_equal(est.write(paths, folder), kept)
    assert len(list(folder.iterdir())) == 5


def test_descriptors_of_another_network_are_not_returned(paths, tmp_path):
    est = describe().fit(paths[:4])
    est.write(paths, tmp_path)
    with torch.no_grad():
        next(est.backbone.parameters()).mul_(-1)
    assert_allclose(est.write(paths, tmp_path), est.transform(paths), atol=1e-6)
    est.set_params(activation=False)
    assert_allclose(est.write(paths, tmp_path), est.transform(paths), atol=1e-6)


def only(folder, name):
    (path,) = folder.glob(f"descriptors-*/{name}")
    return path


@pytest.mark.parametrize("name", ["descriptors.npy", "blocks.txt"])
@pytest.mark.parametrize("damage", {**DAMAGES, **GONE})
def test_damage_is_healed_or_worked_around(paths, tmp_path, damage, name):
    est = describe().fit(paths[:4])
    want = np.array(est.write(paths, tmp_path / "out"))
    {**DAMAGES, **GONE}[damage](only(tmp_path / "out", name))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        healed = est.write(paths, tmp_path / "out")
    assert len(caught) <= 1
    assert caught or name == "blocks.txt"  # a line of checksums may be lost without a trace
    assert_array_equal(healed, want)
    if damage != "a folder":
        assert_array_equal(est.write(paths, tmp_path / "out"), want)  # without a warning


def test_only_the_damaged_block_is_computed_again(paths, tmp_path, monkeypatch):
    est = describe().fit(paths[:4])
    want = np.array(est.write(paths, tmp_path / "out"))
    DAMAGES["a zeroed block"](only(tmp_path / "out", "descriptors.npy"))
    calls = counted(monkeypatch)
    with pytest.warns(RuntimeWarning, match=r"1 of 3 blocks of .*descriptors\.npy' are damaged"):
        assert_array_equal(est.write(paths, tmp_path / "out"), want)
    assert len(calls) == 16


def test_other_shapes_and_swapped_tables_are_noticed(paths, tmp_path):
    est = describe().fit(paths[:4])
    folder = tmp_path / "out"
    first, second = np.array(est.write(paths, folder)), np.array(est.write(paths[::-1], folder))
    for name in ("descriptors.npy", "blocks.txt"):
        swap(*folder.glob(f"descriptors-*/{name}"))
        for X, want in ((paths, first), (paths[::-1], second)):
            with pytest.warns(RuntimeWarning, match="are damaged and will be recomputed"):
                assert_array_equal(est.write(X, folder), want)
    for path in folder.glob("descriptors-*/descriptors.npy"):
        np.save(path, first.T)
    with pytest.warns(RuntimeWarning, match="3 of 3 blocks"):
        assert_array_equal(est.write(paths, folder), first)


def test_a_folder_that_takes_nothing_is_a_warning(paths, tmp_path, monkeypatch):
    est = describe().fit(paths[:4])
    want = est.transform(paths)
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.warns(RuntimeWarning, match="cannot store descriptors in .*file"):
            assert_array_equal(est.write(paths, folder), want)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("skal._files.os.fsync", full)
        with pytest.warns(RuntimeWarning, match="out.*No space left"):
            assert_array_equal(est.write(paths, tmp_path / "out"), want)
    assert_allclose(est.write(paths, tmp_path / "out"), want, atol=1e-6)
    shutil.rmtree(tmp_path / "out")
    assert_allclose(est.write(paths, tmp_path / "out"), want, atol=1e-6)


def read_all(folder, X):
    """Descriptors of the images and the neighbours of the first six, by way of the folder."""
    est = describe().fit(X[:4])
    rows = est.write(X, folder)
    search = SymmetricKLNeighbors(3, weights=est.weights_, block_size=16).fit(rows)
    return (rows, *search.kneighbors(est.transform(X[:6]), checkpoint=folder))


def check_all(results, X):
    """Exact, and the same for all."""
    est = describe().fit(X[:4])
    want = est.transform(X)
    nearest = np.sort(plain_distances(want[:6], want, est.weights_), axis=1)[:, :3]
    for rows, distances, indices in results:
        assert_array_equal(rows, want)
        assert_allclose(distances, nearest, rtol=1e-4, atol=1e-9)
        assert_array_equal(indices, results[0][2])


@pytest.fixture
def many():
    return np.random.default_rng(2).integers(0, 256, (200, 6, 6, 3), dtype=np.uint8)


def test_four_readers_at_once_fill_one_folder(many, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        check_all(list(threads.map(lambda _: read_all(tmp_path / "shared", many), range(4))), many)


SCRIPT = """
import sys
import numpy as np
from tests.selective.test_descriptors_write import read_all
folder, images, output = sys.argv[1:]
rows, distances, indices = read_all(folder, np.load(images))
np.savez(output, rows=rows, distances=distances, indices=indices)
"""


@pytest.mark.slow
def test_eight_processes_on_one_folder_some_killed(many, tmp_path):
    np.save(tmp_path / "X.npy", many)
    outputs = [tmp_path / f"{i}.npz" for i in range(8)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-Werror::RuntimeWarning", "-c", SCRIPT, tmp_path / "shared", tmp_path / "X.npy", output],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for output in outputs
    ]
    while not list((tmp_path / "shared").glob("*/blocks.txt")):
        time.sleep(0.05)
    rng = np.random.default_rng(0)
    for process in processes[:5]:
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
    codes = [process.wait(timeout=120) for process in processes]
    assert set(codes[5:]) == {0}
    results = [np.load(output) for output, code in zip(outputs, codes, strict=True) if code == 0]
    check_all([(result["rows"], result["distances"], result["indices"]) for result in results], many)
    check_all([read_all(tmp_path / "shared", many)], many)
