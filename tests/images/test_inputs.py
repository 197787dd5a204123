"""What X may be, what is refused, and that every form of one image gives one input."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from skal.images.decode import decode
from skal.images.forms import as_data, is_images
from skal.images.inputs import InputSpec
from skal.images.transform import ImageTransform

IMAGES = InputSpec(ImageTransform(12, 10))
GREY = InputSpec(ImageTransform(12, 10, mean=(0.5,), std=(0.5,)))
FEATURES = InputSpec(None)


@pytest.mark.parametrize("sizes", [(30, 40, 16, 12), (57, 33, 32, 25), (33, 51, 33, 32), (129, 167, 116, 112)])
def test_transform_equals_torchvision(sizes):
    height, width, resize, crop = sizes
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8, generator=generator)
    transform = ImageTransform(resize, crop)
    reference = v2.Compose(
        [
            v2.Resize(resize, antialias=True),
            v2.CenterCrop(crop),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(transform.mean, transform.std),
        ]
    )
    torch.testing.assert_close(transform(pixels), reference(pixels.permute(0, 3, 1, 2)), rtol=0, atol=0.02)


def test_files_pixels_and_tensors_of_one_image_give_one_input(files, pixels):
    as_files, as_pixels = IMAGES.check(files[0]), IMAGES.check(pixels[0])
    rows = np.array([3, 1])
    torch.testing.assert_close(as_files.load(rows), as_pixels.load(rows), rtol=0, atol=0)
    tensors = as_pixels.load(np.arange(5))
    torch.testing.assert_close(IMAGES.check(tensors).load(np.arange(5)), tensors, rtol=0, atol=0)
    torch.testing.assert_close(IMAGES.check(tensors.numpy()).load([2]), tensors[2:3], rtol=0, atol=0)


def test_grey_images_are_spread_over_the_channels_and_colour_becomes_grey(pixels):
    grey = pixels[0][..., 0]
    expected = IMAGES.check(np.repeat(grey[..., None], 3, axis=3)).load([0, 1])
    torch.testing.assert_close(IMAGES.check(grey).load([0, 1]), expected)
    luma = np.array([np.asarray(Image.fromarray(image).convert("L")) for image in pixels[0][:2]])
    torch.testing.assert_close(GREY.check(pixels[0]).load([0, 1]), GREY.check(luma).load([0, 1]), rtol=0, atol=0.02)


def test_sizes_may_differ_between_files_and_rotation_is_undone(tmp_path):
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 255, size=(20, 35, 3), dtype=np.uint8))
    exif = wide.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    paths = [tmp_path / "wide.png", tmp_path / "tall.jpg", tmp_path / "palette.png"]
    wide.save(paths[0])
    wide.save(paths[1], exif=exif, quality=95)
    wide.convert("P").save(paths[2])
    inputs = IMAGES.check(paths)
    assert inputs.load([0, 1, 2]).shape == (3, 3, 10, 10)
    upright = np.asarray(Image.open(paths[1]).rotate(-90, expand=True))[None]
    torch.testing.assert_close(inputs.load([1]), IMAGES.check(upright).load([0]))


def test_sixteen_bits_keep_their_range(tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, size=(20, 20), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "eight.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "floats.tiff")
    torch.testing.assert_close(decode(tmp_path / "sixteen.png"), decode(tmp_path / "eight.png"), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"floats\.tiff.*floating-point"):
        decode(tmp_path / "floats.tiff")


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="crop=64 is not between 1 and resize=32"):
        ImageTransform(32, 64)


def test_keys_name_content_not_identity(pixels, files):
    X = pixels[0]
    keys = IMAGES.check(X).keys(range(5))
    assert IMAGES.check(X[[4, 2]].copy()).keys([0, 1]) == [keys[4], keys[2]]
    assert len(set(keys)) == 5
    assert set(keys).isdisjoint(InputSpec(ImageTransform(12, 12)).check(X).keys(range(5)))
    assert set(keys).isdisjoint(IMAGES.check(X.astype(np.float32).transpose(0, 3, 1, 2)[:, :, :10, :10]).keys(range(5)))
    (before,) = IMAGES.check(files[0][:1]).keys([0])
    Image.fromarray(X[7]).save(files[0][0])
    assert IMAGES.check(files[0][:1]).keys([0]) != [before]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((4, 8, 8, 2), np.uint8), r"shape \(4, 8, 8, 2\)"),
        (np.zeros((4, 3, 8, 8), np.uint8), r"shape \(4, 3, 8, 8\)"),
        (np.zeros((20, 20, 3), np.uint8), r"looks like a single image; pass X\[None\]"),
        (np.zeros((4, 8), np.uint8), r"shape \(4, 8\)"),
        (np.zeros((4, 1, 8, 8), np.float32), "pre-processed float images"),
        (np.zeros((4, 8, 8, 3), np.int64), "type int64"),
        (np.zeros((0, 8, 8, 3), np.uint8), "X is empty"),
        (np.full((2, 3, 8, 8), np.nan), "NaN or infinity, first in row 0"),
        (["no/such/file.png"], "1 of 1 image files: 'no/such/file.png': No such file"),
    ],
)
def test_bad_images_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        IMAGES.check(X)


def test_bad_features_are_refused(files):
    with pytest.raises(ValueError, match="2-D features"):
        FEATURES.check(np.zeros((2, 3, 4, 4)))
    with pytest.raises(ValueError, match="40 file paths"):
        FEATURES.check(files[0])
    with pytest.raises(ValueError, match="row 1"):
        FEATURES.check(np.array([[0.0], [np.inf]]))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.raises(ValueError, match=r"cannot read 1 of 1 image files: '.*broken\.png'"):
        IMAGES.check([path]).load([0])


def test_lists_become_arrays(pixels, files):
    np.testing.assert_array_equal(as_data(list(pixels[0])), pixels[0])
    assert is_images(list(files[0]))
    assert not is_images(np.zeros((3, 2)))
