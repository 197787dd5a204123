"""Resizing, cropping and normalising, and what extreme images cost."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from torch.nn import functional as F

from skal.images.inputs import InputSpec
from skal.images.transform import ImageTransform

SHAPES = [(1, 300), (300, 1), (3, 40), (7, 411), (500, 13), (2, 17), (1000, 40), (33, 400), (9, 73)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_extreme_image_gives_what_resizing_it_whole_gives(interpolation):
    generator, differences = torch.Generator().manual_seed(0), []
    for shape, (resize, crop) in itertools.product(SHAPES, [(32, 28), (33, 33), (129, 112), (17, 4), (40, 1)]):
        pixels = torch.randint(0, 256, (2, *shape, 3), dtype=torch.uint8, generator=generator)
        transform = ImageTransform(resize, crop, mean=(0,) * 3, std=(1,) * 3, interpolation=interpolation)
        size = [int(side * resize / min(shape)) for side in shape]
        whole = F.interpolate(pixels.permute(0, 3, 1, 2), size=size, mode=interpolation, antialias=True)
        top, left = (round((side - crop) / 2) for side in size)
        expected = whole[..., top : top + crop, left : left + crop].float()
        # Two roundings to integers, one an axis; a cubic weight is up to 1.13.
        assert_allclose(transform(pixels) * 255, expected, atol=2.01, err_msg=f"{shape} {resize} {crop}")
        differences.append((transform(pixels) * 255 - expected).abs().flatten())
    assert torch.cat(differences).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_a_small_file_stays_small(size, tmp_path, monkeypatch):
    Image.new("L", size, 7).save(tmp_path / "line.png")
    assert (tmp_path / "line.png").stat().st_size < 200
    largest = 0
    resize = F.interpolate

    def watched(x, **options):
        nonlocal largest
        out = resize(x, **options)
        largest = max(largest, out.nbytes)
        return out

    monkeypatch.setattr(F, "interpolate", watched)
    tracemalloc.start()
    loaded = InputSpec(ImageTransform(256, 224)).check([tmp_path / "line.png"]).load([0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded.shape == (1, 3, 224, 224)
    assert_allclose(loaded.std((2, 3)), 0, atol=1e-6)
    assert max(peak, largest) < 2e6


def test_the_name_of_a_pre_processing_tells_a_background_only_where_it_is_chosen():
    assert repr(ImageTransform(12, 10, (0.5,), (0.25,))) == (
        "ImageTransform(resize=12, crop=10, mean=(0.5,), std=(0.25,), interpolation='bilinear')"
    )
    assert "background=(0, 0, 0)" in repr(ImageTransform(12, 10, background=(0, 0, 0)))
    for wrong in ((0, 0), (0, 0, 256), (0.5, 0, 0), (-1, 0, 0)):
        with pytest.raises(ValueError, match="background="):
            ImageTransform(12, 10, background=wrong)


def test_the_background_reaches_files_and_open_images(tmp_path):
    image = Image.new("RGBA", (12, 12), (9, 9, 9, 0))
    image.save(tmp_path / "a.png")
    for X in ([str(tmp_path / "a.png")], [image]):
        keys = []
        for colour in (255, 0):
            inputs = InputSpec(ImageTransform(12, 10, (0,) * 3, (1,) * 3, background=(colour,) * 3)).check(X)
            assert_allclose(inputs.load(np.array([0])), colour / 255)
            keys += inputs.keys([0])
        assert keys[0] != keys[1]
