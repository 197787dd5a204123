"""What files decode to: nothing hidden, clipped or wrapped, and every failure named."""

import io
import os
import struct
import warnings
import zlib
from functools import cache

import numpy as np
import PIL
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageDraw, ImageFile, TiffImagePlugin, TiffTags

from skal.images.decode import UnreadableImageError, decode, pixels_of
from skal.images.inputs import InputSpec
from skal.images.transform import ImageTransform

SPEC = InputSpec(ImageTransform(12, 10))
RAMP = np.linspace(0, 1, 400).reshape(20, 20)


def png(width, height, depth, colour, rows, transparent):
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "L"])
def test_a_circle_and_a_square_on_transparent_are_not_the_same_image(mode, tmp_path):
    decoded = []
    for shape in ("ellipse", "rectangle"):
        alpha = Image.new("L", (20, 20), 0)
        getattr(ImageDraw.Draw(alpha), shape)((4, 4, 15, 15), fill=255)
        image = Image.new("LA", (20, 20), (0, 0))
        image.putalpha(alpha)
        suffix, options = ".png", {}
        if mode == "P":
            image = Image.eval(alpha, lambda value: value // 255).convert("P")
            image.putpalette([0, 0, 0, 0, 0, 0])
            options = {"transparency": 0}
        elif mode == "L":  # tRNS: one grey that is transparent
            image, options = Image.eval(alpha, lambda value: 255 - value), {"transparency": 255}
        elif mode == "PA":
            image = Image.new("P", (20, 20))  # as Pillow before 12 loses the alpha channel when it converts
            image.putpalette([0] * 768)
            image.putalpha(alpha)
        else:
            image = image.convert(mode)
        if mode == "PA":  # no format holds it
            pixels = pixels_of(image)
        else:
            pixels = decode(saved(image, tmp_path / f"{shape}{suffix}", **options)).numpy()
        expected = np.where(np.asarray(alpha)[..., None] > 0, 0, 255)
        assert_array_equal(pixels, np.broadcast_to(expected, (20, 20, 3)))
        decoded.append(pixels)
    assert (decoded[0] != decoded[1]).any()


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    path = saved(Image.new("RGBA", (1, 1), (200, 100, 0, 51)), tmp_path / "a.png")  # alpha 0.2
    assert_allclose(decode(path)[0, 0], [244, 224, 204])
    assert_allclose(decode(path, (0, 10, 20))[0, 0], [40, 28, 16])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(2, 1, 1, 0, b"\0\x40", b"\0\1"), [0, 255]),
        (png(2, 1, 2, 0, b"\0\x10", b"\0\1"), [0, 255]),
        (png(2, 1, 4, 0, b"\0\x05", b"\0\5"), [0, 255]),
        (png(2, 1, 8, 0, b"\0\0\5", b"\0\5"), [0, 255]),
        (png(2, 1, 16, 0, b"\0\0\0\1\5", b"\1\5"), [0, 255]),
        (png(2, 1, 16, 2, b"\0" + b"\0" * 6 + b"\1\5" * 3, b"\1\5" * 3), [0, 255]),
        (png(2, 1, 8, 2, b"\0" + b"\0" * 3 + b"\5" * 3, b"\0\5" * 3), [0, 255]),
    ],
)
def test_a_transparent_colour_of_any_depth_is_found(data, expected):
    assert_array_equal(decode(io.BytesIO(data))[0, :, 0], expected)
    image = Image.open(io.BytesIO(data))
    for _ in range(2):  # the first time, the image is loaded
        assert_array_equal(pixels_of(image)[0, :, 0], expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_greys_of_more_than_eight_bits_keep_their_levels(bits, suffix, tmp_path):
    image = Image.fromarray(np.round(RAMP * (2**bits - 1)).astype(np.uint16))
    grey = decode(saved(image, tmp_path / f"a{suffix}"))
    assert_allclose(grey[..., 0], RAMP * 255, atol=0.5 + 128 / 2**bits)  # rounded twice
    assert_array_equal(grey[..., 0], grey[..., 2])
    assert len(np.unique(grey)) == 256


def test_a_declared_range_is_taken(tmp_path):
    values = np.round(RAMP * 1023)
    ten = saved(Image.fromarray(values.astype(np.uint16)), tmp_path / "ten.tiff", tiffinfo={281: 1023})
    assert_allclose(decode(ten)[..., 0], RAMP * 255, atol=0.5 + 128 / 2**10)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 2**20
    tags.tagtype[281] = TiffTags.LONG
    wide = saved(Image.fromarray((RAMP * 2**20).astype(np.int32)), tmp_path / "wide.tiff", tiffinfo=tags)
    assert_allclose(decode(wide)[..., 0], RAMP * 255, atol=0.51)
    with Image.open(wide) as image:
        assert_array_equal(pixels_of(image), decode(wide))


def test_white_is_zero_is_undone_at_sixteen_bits_too(tmp_path):
    for name, image in (("8", np.uint8(RAMP * 255)), ("16", np.uint16(RAMP * 65535))):
        path = saved(Image.fromarray(image), tmp_path / f"{name}.tiff", tiffinfo={262: 0})
        # Pillow writes the values as they are and, at 8 bits, inverts them both when writing and when reading.
        expected = RAMP if name == "8" else 1 - RAMP
        assert_allclose(decode(path)[..., 0], expected * 255, atol=1)
        with Image.open(path) as image:
            assert_array_equal(pixels_of(image), decode(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP.astype(np.float32), "floating-point"),
        ((RAMP * 2**20).astype(np.int32), "integers up to 1048576, which exceed 16 bits"),
        ((RAMP * 100 - 50).astype(np.int32), "values from -50 to 50"),
    ],
)
def test_values_without_a_range_are_refused(values, message, tmp_path):
    with pytest.raises(ValueError, match=rf"odd\.tiff.*{message}"):
        decode(saved(Image.fromarray(values), tmp_path / "odd.tiff"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_other_modes_decode_as_pillow_converts_them(mode, tmp_path):
    if mode == "YCbCr" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the YCbCr file that it writes")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 9, 3), dtype=np.uint8))
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    path = saved(image.convert(mode), tmp_path / ("a.tiff" if mode in ("LAB", "YCbCr", "CMYK") else "a.png"))
    with Image.open(path) as stored:
        assert_array_equal(decode(path), np.asarray(stored.convert("RGB")))


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert_array_equal(decode(path)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_open_images_of_any_mode_are_taken_and_left_as_they_were(mode):
    image = Image.new(mode, (5, 7))
    exif = image.getexif()
    exif[0x0112] = 6
    assert pixels_of(image).shape == (5, 7, 3)  # turned
    assert image.size == (5, 7)
    assert image.mode == mode


def test_every_failure_names_its_file_and_the_reason(tmp_path, monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = saved(image, tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    cases = {
        "cut": "truncated",
        "none": "it is empty",
        "text": "not an image in a format",
        "folder": "it is a folder",
        "link": "broken symbolic link",
        "lacking": "No such file",
    }
    for name, message in cases.items():
        with pytest.raises(UnreadableImageError, match=rf"{name}\.jpg': .*{message}") as caught:
            decode(tmp_path / f"{name}.jpg")
        assert caught.value.path == str(tmp_path / f"{name}.jpg")

    def forbidden(*_):
        raise PermissionError(13, "Permission denied", "whole.jpg")

    for owner, name, read in ((Image, "open", decode), (os, "stat", lambda path: SPEC.check([path]))):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, forbidden)
            with pytest.raises(ValueError, match=r"whole\.jpg': Permission denied"):
                read(str(tmp_path / "whole.jpg"))
    with monkeypatch.context() as patch:  # what the AVIF reader raises
        patch.setattr(ImageFile.ImageFile, "load", lambda self: (_ for _ in ()).throw(RuntimeError("Decoding failed")))
        with pytest.raises(ValueError, match=r"whole\.jpg': RuntimeError: Decoding failed"):
            decode(tmp_path / "whole.jpg")


def test_a_bomb_is_named_with_its_size_before_it_is_decoded(tmp_path, monkeypatch):
    path = saved(Image.new("1", (5000, 400)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert decode(path).shape == (400, 5000, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900_000)
    with pytest.raises(ValueError, match=r"bomb\.png': Image size \(2000000 pixels\) exceeds.*MAX_IMAGE_PIXELS"):
        decode(path)


def test_arrays_of_one_image_are_checked():
    assert pixels_of(np.zeros((4, 5), np.uint8)).shape == (4, 5, 1)
    for wrong in (
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((4, 5)),
        np.zeros(3, np.uint8),
        torch.zeros(0, 4),
        3,
        object(),
    ):
        with pytest.raises(ValueError, match=r"it has shape|it is of type"):
            pixels_of(wrong)


@cache
def scene(width, height):
    """Smooth colours, sharp edges and noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(20):
        (x, y), side = rng.integers(0, (width, height)), rng.integers(5, 90)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        ImageDraw.Draw(image).ellipse((x, y, x + side, y + side), fill=colour)
    pixels = np.asarray(image) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["baseline", "progressive", "fine colours", "turned", "L", "CMYK", "MPO"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_large_photograph_is_decoded_smaller_and_differs_by_a_few_levels(kind, factor, tmp_path):
    image, path = scene(1216, 800), tmp_path / "a.jpg"
    needed = 400 // factor
    if kind in ("L", "CMYK"):
        image = image.convert(kind)
    options = {
        "progressive": {"progressive": True},
        "fine colours": {"subsampling": 0},
        "turned": {"exif": Image.Exif()},
        "MPO": {"format": "MPO", "save_all": True, "append_images": [image.rotate(180)]},
    }.get(kind, {})
    if kind == "turned":
        options["exif"][0x0112] = 6
    saved(image, path, quality=90, **options)
    whole, small = decode(path), decode(path, needed=needed)
    assert [side // factor for side in whole.shape[:2]] == list(small.shape[:2])
    assert (whole.shape[0] > whole.shape[1]) == (kind == "turned")
    for interpolation in ("bilinear", "bicubic"):
        transform = ImageTransform(needed, needed, (0, 0, 0), (1, 1, 1), interpolation)
        difference = (transform(whole[None]) - transform(small[None])).abs() * 255
        assert difference.mean() < 1.5
        assert difference.max() < 20
        assert_array_equal(InputSpec(transform).check([path]).load([0]), transform(small[None]))


@pytest.mark.parametrize(
    ("size", "suffix", "needed"),
    [((1216, 800), ".jpg", 201), ((1217, 800), ".jpg", 100), ((1216, 800), ".png", 100), ((40, 30), ".jpg", 32)],
    ids=["small", "odd", "PNG", "smaller than needed"],
)
def test_other_files_are_decoded_whole(size, suffix, needed, tmp_path):
    path = saved(scene(1280, 800).resize(size), tmp_path / f"a{suffix}")
    assert_array_equal(decode(path, needed=needed), decode(path))


def test_a_damaged_photograph_raises_also_where_it_is_decoded_smaller(tmp_path):
    data = saved(scene(1216, 800), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode(tmp_path / "cut.jpg", needed=50)


@pytest.mark.parametrize(("orientation", "degrees"), [(3, 180), (6, 270), (8, 90)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_an_uncompressed_tiff_is_turned_like_a_png(mode, orientation, degrees, tmp_path):
    """Pillow maps raw files into memory, with the sides swapped before it turns them."""
    image = scene(80, 48).convert(mode)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    image.save(tmp_path / "image.tif", tiffinfo=tags)
    turned = image.transpose(getattr(Image.Transpose, f"ROTATE_{degrees}"))
    turned.save(tmp_path / "image.png")
    assert_array_equal(decode(tmp_path / "image.tif"), decode(tmp_path / "image.png"))
