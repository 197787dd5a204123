"""Damaged files, odd forms of X and odd labels: no exception but those documented, none without a name."""

import io
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from PIL import Image, features

from skal._targets import check_labels
from skal.images.decode import UnreadableImageError, decode
from skal.images.forms import as_data, is_images
from skal.images.inputs import InputSpec
from skal.images.transform import ImageTransform

SPECS = (InputSpec(ImageTransform(6, 5)), InputSpec(None))


def seeded(n):
    return settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def small_images():
    """Bytes of small valid images in many formats and modes."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    kinds += [(form, "RGB") for form in ("JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA", "ICO", "PCX")]
    kinds += [("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("TIFF", "I;16"), ("TIFF", "F"), ("TIFF", "LAB")]
    kinds += [("AVIF", "RGB")] if "avif" in features.modules and features.check("avif") else []
    kinds += [("JPEG2000", "RGB")] if features.check("jpg_2000") else []
    found = []
    for form, mode in kinds:
        image = pixels.convert("L").convert("I;16") if mode == "I;16" else pixels
        image = Image.merge("LAB", pixels.split()) if mode == "LAB" else image.convert(mode)
        file = io.BytesIO()
        image.save(file, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
        found.append(file.getvalue())
    return found


SEEDS = small_images()
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 2000), st.integers(0, 255)),
        st.tuples(st.just("flip"), st.integers(0, 100), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.integers(0, 2000), st.just(0)),
        st.tuples(st.just("drop"), st.integers(0, 2000), st.integers(1, 40)),
        st.tuples(st.just("double"), st.integers(0, 2000), st.integers(1, 40)),
        st.tuples(st.just("fill"), st.integers(0, 100), st.integers(1, 8)),
    ),
    min_size=1,
    max_size=5,
)


def edited(data, edits):
    data = bytearray(data)
    for what, place, value in edits:
        place %= len(data) or 1
        if what == "cut" or not data:
            del data[place:]
        elif what == "drop":
            del data[place : place + value]
        elif what == "double":
            data[place:place] = data[place : place + value]
        elif what == "fill":
            data[place : place + value] = b"\xff" * value
        else:
            data[place] = value if what == "set" else data[place] ^ (1 << value)
    return bytes(data)


def result(run, expected):
    """What a function returns, and the expected error that it raises instead."""
    try:
        return run(), None
    except expected as error:
        return None, error


def read_damaged(path, data):
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it repairs
        pixels, error = result(lambda: decode(path), UnreadableImageError)
    if error is not None:
        assert error.path == str(path)
        assert str(path) in str(error)
        assert error.reason
    else:
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.datetimes(),
    st.dates(),
    st.just(pd.NA),
    st.just(pd.NaT),
    st.builds(object),
    st.complex_numbers(),
)
INNER = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.tuples(SCALARS, SCALARS))
NESTED = st.one_of(INNER, st.lists(INNER, max_size=3), st.dictionaries(st.text(max_size=2), INNER, max_size=2))
SHAPES = st_np.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
DTYPES = st.one_of(st_np.scalar_dtypes(), st_np.byte_string_dtypes(), st.just(np.dtype("uint8")))
ARRAYS = st.one_of(st_np.arrays(DTYPES, SHAPES), st_np.arrays(np.dtype(object), SHAPES, elements=SCALARS))
TENSORS = st.builds(
    lambda shape, dtype: torch.zeros(shape).to(dtype),
    st_np.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool, torch.cfloat]),
)
PIL = st.builds(
    Image.new,
    st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"]),
    st.tuples(st.integers(0, 9), st.integers(1, 9)),
)
ROWS = st.one_of(NESTED, ARRAYS, TENSORS, PIL)
LISTS = st.one_of(st.lists(ROWS, max_size=4), st.lists(PIL, max_size=4), st.lists(ARRAYS, max_size=3))
SERIES = st.builds(lambda values: pd.Series(values, dtype=object), st.lists(SCALARS, max_size=4))
FORMS = st.one_of(ROWS, LISTS, SERIES, st.builds(iter, LISTS), st.builds(tuple, LISTS), st.builds(pd.Index, SERIES))


def take(X):
    """Check, name and load a form of X, or get a ValueError that names X or a file."""
    for spec in SPECS:
        inputs, error = result(lambda spec=spec: spec.check(as_data(X)), ValueError)
        if error is None:
            assert isinstance(is_images(X), bool)
            rows = range(len(inputs))
            loaded, error = result(lambda inputs=inputs, rows=rows: (inputs.keys(rows), inputs.load(rows)), ValueError)
            assert error is not None or [*map(len, loaded)] == [len(rows)] * 2
        assert error is None or re.search(r"\bX\b|image files", str(error)), repr(error)


LABELS = st.one_of(
    st.lists(SCALARS, max_size=4),
    st.lists(st.text(max_size=2), max_size=4),
    st.lists(st.one_of(st.integers(0, 3), st.floats()), min_size=3, max_size=3),
    NESTED,
    ARRAYS,
    SERIES,
    st.builds(lambda values: pd.Categorical([str(value) for value in values]), st.lists(SCALARS, max_size=3)),
    st.builds(lambda values: pd.array(values, dtype="Int64"), st.lists(st.one_of(st.none(), st.integers(0, 5)))),
    st.builds(frozenset, st.lists(st.integers())),
)


def label(y):
    """Check labels, or get an error that names y."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn: a column was passed
        labels, error = result(lambda: check_labels(None, np.zeros((3, 1)), y), (ValueError, TypeError))
    if error is not None:
        assert re.search(r"\by\b", str(error)), repr(error)
    else:
        assert labels.shape == (3,)
        assert not pd.isna(labels).any()


def test_damaged_images(tmp_path):
    @seeded(300)
    @given(st.sampled_from(SEEDS), EDITS)
    def run(data, edits):
        read_damaged(tmp_path / "damaged.img", edited(data, edits))

    run()


def test_forms_of_x():
    seeded(150)(given(FORMS)(take))()


def test_forms_of_labels():
    seeded(250)(given(LABELS)(label))()


@pytest.mark.slow
def test_many_damaged_images(tmp_path):
    @seeded(5_000)
    @given(st.one_of(st.sampled_from(SEEDS), st.binary(max_size=200)), EDITS)
    def run(data, edits):
        read_damaged(tmp_path / "damaged.img", edited(data, edits))

    run()


@pytest.mark.slow
def test_many_forms():
    seeded(2_000)(given(FORMS)(take))()


@pytest.mark.slow
def test_many_labels():
    seeded(5_000)(given(LABELS)(label))()
