"""Fingerprints of arrays, frames, labels and image files: a change in any row is detected."""

import copy
import os
import pickle
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse

from skal._fingerprint import fingerprint_data

ROWS = np.random.default_rng(0).integers(0, 255, size=(10_000, 8), dtype=np.uint8)


def with_one_changed(rows):
    rows = rows.copy()
    rows[7431, 2] ^= 1
    return rows


@pytest.mark.parametrize(
    "change",
    [
        with_one_changed,
        lambda X: X[::-1],
        lambda X: X.astype(np.int16),
        lambda X: X.reshape(5000, 16),
        lambda X: X[:-1],
    ],
)
@pytest.mark.parametrize(
    "form", [lambda X: X, np.asfortranarray, sparse.csr_matrix, pd.DataFrame, torch.from_numpy, lambda X: X.tolist()]
)
def test_a_change_in_any_row_is_noticed(form, change):
    if form(ROWS[:3]).__class__ is list and change(ROWS).shape == ROWS.shape and change(ROWS).dtype != ROWS.dtype:
        pytest.skip("a list has no dtype")
    before = fingerprint_data(form(ROWS))
    assert fingerprint_data(form(np.ascontiguousarray(change(ROWS)))) != before
    assert fingerprint_data(copy.deepcopy(form(ROWS))) == before


def test_the_layout_in_memory_and_the_place_of_an_array_do_not_count(tmp_path):
    expected = fingerprint_data(ROWS)
    np.save(tmp_path / "rows.npy", ROWS)
    for same in (np.asfortranarray(ROWS), np.load(tmp_path / "rows.npy", mmap_mode="r"), np.repeat(ROWS, 2, 0)[::2]):
        assert fingerprint_data(same) == expected


def test_arrays_of_objects_masked_arrays_and_fields():
    objects = np.array(["a", 2, None, (1, "x")], dtype=object)
    other = objects.copy()
    other[3] = (1, "y")
    assert fingerprint_data(objects) == fingerprint_data(copy.deepcopy(objects)) != fingerprint_data(other)
    masks = [np.ma.MaskedArray([1, 2, 3], mask) for mask in ([0, 0, 1], [0, 1, 0])]
    assert fingerprint_data(masks[0]) != fingerprint_data(masks[1])
    fields = [np.zeros(3, dtype=[(name, float)]) for name in "ab"]
    assert fingerprint_data(fields[0]) != fingerprint_data(fields[1])
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert fingerprint_data(frame) != fingerprint_data(frame.rename(columns={"a": "c"}))
    assert fingerprint_data(frame) == fingerprint_data(pickle.loads(pickle.dumps(frame)))


def test_replaced_image_files_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    before = fingerprint_data(paths)
    content, times = paths[1].read_bytes(), os.stat(paths[1])
    os.utime(paths[1])  # touched, but unchanged
    assert fingerprint_data([str(path) for path in paths]) == before
    paths[1].write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    assert fingerprint_data(paths) != before
    paths[1].write_bytes(content)
    assert fingerprint_data(paths) == before
    assert fingerprint_data(paths[::-1]) != before
    assert fingerprint_data(pd.Series(paths)) == before


def test_of_large_files_the_ends_and_the_time_count(tmp_path):
    path = tmp_path / "large.jpg"
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    path.write_bytes(content)
    before = fingerprint_data([path])
    times = os.stat(path)
    for place in (0, -1):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert fingerprint_data([path]) != before
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_data([path]) == before
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert fingerprint_data([path]) != before


def test_labels_that_look_like_paths_are_texts(tmp_path):
    assert fingerprint_data(["a", "b"]) != fingerprint_data(["a", "c"])


def test_ten_thousand_small_images_take_well_under_a_second(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (10_000, 32, 32, 3), dtype=np.uint8)
    start = time.process_time()
    fingerprint_data(images)
    assert time.process_time() - start < 1
