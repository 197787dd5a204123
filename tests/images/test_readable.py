"""Unreadable files are found before they cost a query."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from skal.images import ImageTransform, InputSpec, readable
from skal.images import decode as decode_file

SPEC = InputSpec(ImageTransform(12, 10))


def broken(paths, rows):
    for i in rows:
        with open(paths[i], "r+b") as file:
            file.truncate(60)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_unreadable_files_are_found_with_reasons(files, n_jobs):
    paths = files[0]
    broken(paths, [3, 17])
    mask, failures = readable(paths, n_jobs=n_jobs)
    assert_array_equal(np.flatnonzero(~mask), [3, 17])
    assert failures.index.tolist() == [3, 17]
    assert failures["path"].tolist() == [paths[3], paths[17]]
    assert failures["reason"].str.len().min() > 5
    assert SPEC.check(paths[mask]).load(range(38)).shape == (38, 3, 10, 10)


def test_what_readable_passes_decodes_and_the_rest_does_not(files, tmp_path):
    paths = [*files[0][:3], str(tmp_path), "no.png", ""]
    broken(paths, [1])
    mask = readable(pd.Series(paths)).mask
    for path, is_readable in zip(paths, mask, strict=True):
        if is_readable:
            decode_file(path)
        else:
            with pytest.raises(ValueError, match="cannot decode"):
                decode_file(path)
    assert mask.tolist() == [True, False, True, False, False, False]


def test_readable_takes_paths_alone():
    with pytest.raises(ValueError, match="paths must be a sequence of image files, but got ndarray"):
        readable(np.zeros((2, 3)))


def test_one_error_names_five_files_and_the_number(files):
    paths = files[0]
    inputs = SPEC.check(paths)
    broken(paths, range(2, 9))
    with pytest.raises(ValueError, match=r"cannot read 7 of 20 image files: .*02\.png.*06\.png.*and 2 more") as caught:
        inputs.load(np.arange(20))
    assert "07.png" not in str(caught.value)
    with pytest.raises(ValueError, match=r"cannot read 1 of 1 image files: .*08\.png.*: "):
        inputs.load([8])


def test_files_that_vanish_are_named(files, tmp_path):
    inputs = SPEC.check(files[0])
    (tmp_path / "04.png").unlink()
    with pytest.raises(ValueError, match=r"cannot read 1 of 40 image files: .*04\.png': No such file"):
        inputs.keys(range(40))
    with pytest.raises(ValueError, match=r"cannot read 2 of 4 image files: .*04\.png.*; .*it is a folder"):
        SPEC.check([*files[0][3:6], str(tmp_path)])
