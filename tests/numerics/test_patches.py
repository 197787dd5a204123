"""Products of patches against unfolding them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skal.numerics.patches import Geometry, Pixels, Unfolded, patches

GEOMETRIES = [
    Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1),
    Geometry((3, 3), (2, 2), (1, 1), (1, 1), 1),
    Geometry((1, 1), (2, 2), (0, 0), (1, 1), 1),
    Geometry((5, 2), (1, 3), (2, 0), (1, 2), 1),
    Geometry((2, 3), (3, 2), (0, 2), (2, 1), 1),
    Geometry((7, 7), (1, 1), (3, 3), (1, 1), 1),
    Geometry((3, 1), (4, 1), (1, 0), (1, 1), 1),
]


def images(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_patches_are_what_the_weights_of_a_convolution_meet(geometry):
    x, weight = images(0, 3, 4, 9, 8), images(1, 5, 4, *geometry.kernel)
    out = F.conv2d(x, weight, stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation)
    unfolded = patches(x, geometry)
    torch.testing.assert_close(unfolded @ weight.flatten(1).T, out.flatten(2).transpose(1, 2))
    assert geometry.out_size((9, 8)) == tuple(out.shape[2:])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("sizes", [((9, 8), (9, 8)), ((9, 8), (10, 12))], ids=["same size", "two sizes"])
def test_products_of_pixels_are_those_of_patches(geometry, sizes):
    a, b = images(0, 3, 4, *sizes[0]), images(1, 2, 4, *sizes[1])
    expected = torch.einsum("ntp,mup->ntmu", patches(a, geometry), patches(b, geometry))
    torch.testing.assert_close(Pixels(a, geometry, False).products(Pixels(b, geometry, True)), expected)
    rows, columns = patches(a, geometry), patches(b, geometry)
    torch.testing.assert_close(Unfolded(rows, False).products(Unfolded(columns, True)), expected)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_pixels_that_meet_are_counted(geometry):
    grids = Pixels(images(0, 1, 2, 9, 8), geometry, False)._phases.values()
    assert sorted(geometry.pixels((9, 8))) == sorted(height * width for _, (height, width) in grids)


def test_a_phase_worked_by_hand():
    """Stride 2, kernel 3, padding 1: offsets -1 and 1 fall on odd pixels, 0 on even ones."""
    assert Geometry((3, 3), (2, 2), (1, 1), (1, 1), 1).phases(0) == {1: [-1, 0], 0: [0]}
    assert Geometry((3, 3), (1, 1), (1, 1), (2, 2), 1).phases(1) == {0: [-1, 1, 3]}
