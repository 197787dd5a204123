"""Every form of X that users have: taken, or refused with what to pass instead."""

import collections
import io
import os
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from skal import FrozenPrefixClassifier
from skal.images.crops import RandomCrops
from skal.images.forms import Pool, as_data, as_paths, is_images
from skal.images.inputs import InputSpec
from skal.images.transform import ImageTransform
from tests.conftest import Images

SPEC = InputSpec(ImageTransform(12, 10))
FEATURES = InputSpec(None)
NAN = float("nan")
PIXELS = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
FLOATS = torch.rand(3, 3, 10, 10, generator=torch.Generator().manual_seed(0))


class Endless(Dataset):
    def __getitem__(self, i):
        return PIXELS[0]


class Stream(IterableDataset):
    def __iter__(self):
        yield PIXELS[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three images in a folder of class folders, which is the current one."""
    (tmp_path / "class").mkdir()
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "class" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder):
    return [str(folder / "class" / f"{i}.png") for i in range(3)]


def opened(paths):
    """Images that hold no file open."""
    return [Image.open(io.BytesIO(Path(path).read_bytes())) for path in paths]


FILES = {
    "list": lambda p: p,
    "tuple": tuple,
    "array": np.array,
    "object array": lambda p: np.array(p, dtype=object),
    "string dtype": lambda p: np.array(p, dtype=np.dtypes.StringDType()),
    "numpy str_": lambda p: [np.str_(path) for path in p],
    "Path": lambda p: [Path(path) for path in p],
    "relative": lambda p: [os.path.relpath(path) for path in p],
    "Series": pd.Series,
    "Series of objects": lambda p: pd.Series(p, dtype=object),
    "Series of Path": lambda p: pd.Series([Path(path) for path in p]),
    "column": lambda p: pd.DataFrame({"path": p, "label": 1})["path"],
    "frame of one column": lambda p: pd.DataFrame({"path": p}),
    "Index": pd.Index,
    "pandas array": pd.array,
    "string array": lambda p: pd.array(p, dtype="string"),
    "Categorical": pd.Categorical,
    "Dask array": lambda p: da.from_array(np.array(p, dtype=object), chunks=2),
    "Pool": Pool,
    "ImageFolder": lambda p: ImageFolder("."),
    "samples": lambda p: ImageFolder(".").samples,
    "imgs": lambda p: ImageFolder(".").imgs,
}
IMAGES = {
    "uint8": lambda p: PIXELS,
    "memory map": lambda p: np.memmap("m", np.uint8, "w+", shape=PIXELS.shape) + PIXELS,
    "tensor": lambda p: torch.from_numpy(PIXELS),
    "list of arrays": lambda p: list(PIXELS),
    "list of tensors": lambda p: list(torch.from_numpy(PIXELS)),
    "Dask": lambda p: da.from_array(PIXELS, chunks=2),
    "object array of arrays": lambda p: pd.Series(list(PIXELS)).to_numpy(),
    "PIL": opened,
    "PIL, loaded": lambda p: [Image.fromarray(pixels) for pixels in PIXELS],
    "Series of PIL": lambda p: pd.Series(opened(p)),
    "PIL and arrays": lambda p: [opened(p)[0], *PIXELS[1:]],
    "Dataset of PIL": lambda p: Images(opened(p)),
    "Dataset of arrays": lambda p: Images(list(PIXELS)),
    "Dataset of tuples": lambda p: Images([(pixels, 1) for pixels in PIXELS]),
    "Dataset of files": lambda p: Images(p),
    "list of tuples": lambda p: [(pixels, 1) for pixels in PIXELS],
    "Subset": lambda p: Subset(ImageFolder("."), [0, 1, 2]),
    "ConcatDataset": lambda p: ConcatDataset([Images(list(PIXELS[:1])), Images(list(PIXELS[1:]))]),
    "deque": lambda p: collections.deque(opened(p)),
}
READY = {
    "tensor": lambda: FLOATS,
    "array": lambda: FLOATS.numpy(),
    "float64": lambda: FLOATS.double().numpy(),
    "with gradient": lambda: FLOATS.clone().requires_grad_(),
    "list of tensors": lambda: list(FLOATS),
    "TensorDataset": lambda: TensorDataset(FLOATS, torch.zeros(3)),
    "Dataset": lambda: Images(list(FLOATS)),
    "bfloat16": lambda: FLOATS.bfloat16(),
    "float16": lambda: FLOATS.half(),
    "numpy float16": lambda: FLOATS.half().numpy(),
    "Dataset of big-endian": lambda: Images(list(FLOATS.numpy().astype(">f4"))),
    "Dataset of longdouble": lambda: Images(list(FLOATS.numpy().astype(np.longdouble))),
}


@pytest.mark.parametrize("form", FILES)
def test_files_are_taken_in_any_form(form, folder):
    X = FILES[form](names(folder))
    data = as_data(X)
    assert_array_equal(as_paths(X), data)
    assert data.dtype.kind == "U"
    assert is_images(X)
    assert as_data(data) is data
    expected = SPEC.check(PIXELS).load(range(3))
    assert_allclose(SPEC.check(X).load(range(3)), expected)
    assert_allclose(SPEC.check(data[[2, 0]]).load([0, 1]), expected[[2, 0]])


@pytest.mark.parametrize("form", IMAGES)
def test_images_are_taken_in_any_form(form, folder):
    X = IMAGES[form](names(folder))
    data = as_data(X)
    assert is_images(X)
    assert is_images(data)
    inputs, expected = SPEC.check(data), SPEC.check(PIXELS)
    assert len(inputs) == 3
    assert_allclose(inputs.load([2, 0]), expected.load([2, 0]))
    assert len(set(inputs.keys(range(3)))) == 3
    if "files" not in form:
        assert inputs.keys(range(3)) == expected.keys(range(3))  # they name pixels


@pytest.mark.parametrize("form", READY)
def test_pre_processed_images_are_taken_in_any_form(form):
    X = READY[form]()
    inputs = SPEC.check(as_data(X))
    assert is_images(X)
    assert_allclose(inputs.load([2, 0]), FLOATS[[2, 0]], atol=5e-3 if "16" in form else 1e-7)
    assert len(set(inputs.keys(range(3)))) == 3


def test_images_of_any_size_and_mode_are_taken():
    modes = [("L", (9, 14)), ("RGBA", (20, 20)), ("P", (30, 11)), ("I;16", (12, 12)), ("1", (5, 5)), ("CMYK", (3, 9))]
    images = [Image.new(mode, size) for mode, size in modes]
    images += [np.zeros((7, 8), np.uint8), np.zeros((8, 7, 3), np.uint8), torch.zeros(9, 9, 1, dtype=torch.uint8)]
    X = as_data(images)
    assert X.shape == (9,)
    assert SPEC.check(X).load(range(9)).shape == (9, 3, 10, 10)
    assert SPEC.check(X[[4, 1]]).keys([1]) == SPEC.check(X).keys([1])
    crops = RandomCrops(9, 4, np.random.RandomState(0)).of(np.arange(9), X)
    assert [crop.shape for crop in crops[:2]] == [(4, 14, 9, 3), (4,)]  # the second is transparent


def test_keys_of_images_know_the_pre_processing():
    X = [Image.new("RGB", (14, 12)), Image.new("RGB", (12, 14))]
    inputs = SPEC.check(X)
    assert set(inputs.keys([0, 1])).isdisjoint(inputs.with_transform(ImageTransform(12, 12)).keys([0, 1]))
    assert inputs.with_transform(ImageTransform(9, 8)).load([0]).shape == (1, 3, 8, 8)
    assert inputs.with_transform(None).keys([1]) == inputs.keys([1])


def test_an_image_folder_with_a_transform_or_loader_of_its_own_keeps_it(folder):
    to_floats = v2.Compose([v2.ToImage(), v2.Resize(10), v2.ToDtype(torch.float32, scale=True)])
    for dataset in (ImageFolder(".", transform=to_floats), ImageFolder(".", loader=lambda path: PIXELS[0])):
        assert as_data(dataset) is dataset
        assert SPEC.check(dataset).load([0, 1]).shape == (2, 3, 10, 10)


REFUSED = {
    "None": (None, "X is None"),
    "list of None": ([None, None], r"X\[0\] .* None"),
    "empty list": ([], "X is empty"),
    "empty array": (np.array([]), "X is empty"),
    "empty strings": (np.array([], dtype=str), "X is empty"),
    "empty Dataset": (Images([]), "X is empty"),
    "paths with NaN": (["a.png", NAN], r"X\[1\] .* nan, neither a path nor an image; drop the row"),
    "paths with None": (pd.Series(["a.png", None]), r"X\[1\] .* neither a path nor an image"),
    "paths with NA": (pd.Series(["a.png", pd.NA], dtype="string"), r"X\[1\] .* <NA>"),
    "paths and an image": (["a.png", Image.new("L", (2, 2))], r"X\[1\] is of type Image, but other rows are paths"),
    "path": ("a.png", r"single path 'a\.png'; pass a list"),
    "Path of one file": (Path("a.png"), r"single path 'a\.png'"),
    "folder": (".", r"X is the folder '\.'"),
    "folder in a list": (["."], r"'\.': it is a folder"),
    "glob": ("images/*.png", r"pattern 'images/\*\.png'.*glob\.glob"),
    "zip": ("a.zip", r"archive 'a\.zip'; unpack"),
    "missing files": (["a.png", "b.png"], r"2 of 2 image files: 'a\.png': No such file"),
    "null character": (["a\0.png"], "null"),
    "no regular file": ([os.devnull], "not a regular file"),
    "frame with paths": (pd.DataFrame({"path": ["a.png"], "y": [1]}), r"pass the column of paths, such as X\['path'\]"),
    "column of paths": (np.array([["a.png"], ["b.png"]]), r"X\.ravel\(\)"),
    "dict": ({"image": [], "label": []}, r"dict with the columns \['image', 'label'\]"),
    "rows of dicts": ([{"image": 1}], r"X\[0\] .*dict with keys \['image'\]; pass only the images"),
    "Dataset of dicts": (Images([{"image": 1}]), r"X\[0\] .*dict with keys"),
    "generator": ((path for path in ["a.png"]), r"X is a generator.*list\(X\)"),
    "map": (map(str, [1]), r"X is a map.*list\(X\)"),
    "set": ({"a.png"}, r"X is a set.*list\(X\)"),
    "IterableDataset": (Stream(), r"X is a Stream.*list\(X\)"),
    "Dataset without length": (Endless(), "Endless, which has no length"),
    "DataLoader": (DataLoader(Images([1])), r"X\.dataset"),
    "bytes paths": ([b"a.png"], r"X\[0\] .*bytes; convert paths with os.fsdecode"),
    "array of bytes": (np.array([b"a.png"]), "X contains bytes"),
    "encoded image": (b"\x89PNG", "X is bytes.*BytesIO"),
    "open files": ([io.BytesIO(b"")], r"X\[0\] .*open file; pass its path"),
    "single image": (PIXELS[0], r"single image; pass X\[None\]"),
    "single grey image": (PIXELS[0, ..., 0], r"single grey image as X\[None\]"),
    "single ready image": (FLOATS[0], r"a single image as X\[None\]"),
    "single PIL image": (Image.new("L", (2, 2)), r"single PIL image; .*\[X\]"),
    "int64 pixels": (PIXELS.astype(int), r"X\.astype\(np\.uint8\)"),
    "nested lists of pixels": (PIXELS.tolist(), r"X\.astype\(np\.uint8\)"),
    "float pixels": (PIXELS.astype(float), r"X\.astype\(np\.uint8\)"),
    "bool pixels": (PIXELS > 3, r"X\.astype\(np\.uint8\)"),
    "channels first": (PIXELS.transpose(0, 3, 1, 2), r"channels of pixels must come last: pass X\.transpose"),
    "four channels": (np.zeros((2, 9, 9, 4), np.uint8), "X has 4 channels: if the fourth is transparency"),
    "objects": (PIXELS.astype(object), "type object"),
    "complex": (np.zeros((2, 3, 9, 9), complex), "type complex128"),
    "dates": (np.zeros((2, 3), "M8[s]"), "type datetime64"),
    "masked": (np.ma.masked_equal(np.zeros((2, 3, 9, 9)), 0), "X is a masked array"),
    "NaN": (np.full((2, 3, 9, 9), NAN), "NaN or infinity, first in row 0"),
    "Dataset with NaN": (Images([FLOATS[0] * NAN]), r"X\[0\] .*NaN or infinity"),
    "unequal floats": (
        [np.zeros((3, 9, 9)), np.zeros((3, 8, 8))],
        r"X\[0\] is float64.*pre-processed images must all have the same size",
    ),
    "unequal, channels first": (
        [np.zeros((3, 9, 9), np.uint8), np.zeros((3, 8, 8), np.uint8)],
        "in the last dimension",
    ),
    "Dataset, channels first": (Images([torch.zeros(3, 9, 9, dtype=torch.uint8)]), r"X\[0\] .*in the last dimension"),
    "Dataset of features": (TensorDataset(torch.zeros(3, 7)), r"X\[0\] .*shape \(7,\)"),
    "Dataset of labels": (Images([1, 2]), r"X\[0\] .*of type int"),
    "Dataset that fails": (Images({}.values()), "X is empty"),
    "sparse matrix": (sp.csr_matrix(np.eye(3)), r"sparse matrix.*toarray"),
    "sparse tensor": (torch.eye(3).to_sparse(), r"to_dense"),
    "frame of features": (pd.DataFrame(np.eye(3)), r"shape \(3, 3\)"),
    "ragged lists": ([[1, 2], [3]], "cannot be combined into an array of numbers"),
    "numbers and None": ([1.0, None], "cannot be combined into an array of numbers"),
    "text": (["hello"], "'hello': No such file"),
    "number": (5, "X is 5 of type int"),
    "numpy number": (np.float64(5), "X is np.float64"),
    "object": (object, "pass images, image files or features"),
    "range": (range(3), r"X\[0\] .*of type int"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_not_taken_is_named_with_what_to_pass(form):
    X, message = REFUSED[form]
    with pytest.raises(ValueError, match=message):
        SPEC.check(X)


def test_images_and_files_are_refused_by_a_network_on_features(folder):
    for X in (names(folder), opened(names(folder)), Images(list(PIXELS))):
        with pytest.raises(ValueError, match="2-D features"):
            FEATURES.check(X)
    assert FEATURES.check(pd.DataFrame(np.eye(3))).load([0]).shape == (1, 3)


def test_a_damaged_row_of_a_data_set_is_named(folder):
    (folder / "class" / "1.png").write_bytes(b"nothing")
    inputs = SPEC.check(Images(names(folder)))
    for read in (inputs.keys, inputs.load):
        with pytest.raises(ValueError, match=r"X\[1\] .*1\.png"):
            read([0, 1])
    inputs = SPEC.check(Images([PIXELS[0], FLOATS[0]]))
    assert inputs.load([0, 1]).shape == (2, 3, 10, 10)
    with pytest.raises(ValueError, match=r"X\[1\] is a pre-processed image of shape \(3, 9, 9\)"):
        SPEC.check(Images([FLOATS[0], FLOATS[0, :, :9, :9]])).load([0, 1])


def test_floats_too_small_for_the_network_are_named(convnet):
    net = FrozenPrefixClassifier(convnet, preprocess=ImageTransform(16, 16), n_frozen=2, random_state=0)
    with pytest.raises(ValueError, match=r"X contains pre-processed images of shape \(3, 1, 1\), which the network"):
        net.fit(np.zeros((2, 3, 1, 1)), [0, 1])


@pytest.mark.parametrize("form", ["PIL", "Dataset of tuples", "ImageFolder"])
def test_a_classifier_learns_from_any_form_what_it_learns_from_pixels(form, folder, convnet):
    net = FrozenPrefixClassifier(convnet, preprocess=ImageTransform(16, 16), n_frozen=2, max_epochs=2, random_state=0)
    X = {**FILES, **IMAGES}[form](names(folder))
    expected = net.fit(PIXELS, [0, 1, 1]).predict_proba(PIXELS)
    assert_allclose(net.fit(X, [0, 1, 1]).predict_proba(X), expected, atol=1e-6)
