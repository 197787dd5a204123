"""The images of a folder: each content once, in an order determined by the key."""

import io

import numpy as np
import pytest
from PIL import Image

from skal.label.catalogue import Catalogue, in_keyed_order
from skal.label.folder import LEAVES, list_images, read_fingerprint
from skal.label.looks import Looks
from skal.label.thumbnails import SIDES, ChangedError, Thumbnails, make_thumbnail
from tests.label.conftest import draw


@pytest.fixture
def catalogue(photos, tmp_path):
    catalogue = Catalogue(photos, b"key", 2**62, tmp_path / "images.jsonl")
    yield catalogue
    catalogue.close()


def fill(catalogue, paths):
    for path in in_keyed_order(paths, catalogue):
        fingerprint, stamp = catalogue.read(path)
        if fingerprint is not None:
            catalogue.add(path, fingerprint, stamp)


def test_listing(photos, tmp_path):
    (photos / ".hidden").mkdir()
    draw(photos / ".hidden" / "x.png", "red", 1)
    draw(photos / "sub" / "deep" / "UPPER.PNG", "red", 2)
    (photos / "notes.txt").write_text("x")
    (tmp_path / "else").mkdir()
    draw(tmp_path / "else" / "y.png", "red", 3)
    (photos / "loop").symlink_to(photos)
    (photos / "out").symlink_to(tmp_path / "else")
    paths, left_out = list_images(photos)
    assert len(paths) == 61
    assert "sub/deep/UPPER.PNG" in paths
    assert [path for path, _ in left_out] == ["out"]
    paths, left_out = list_images(photos, follow_links=True)
    assert len(paths) == 62
    assert "out/y.png" in paths
    assert left_out == []


def test_links_end_however_they_run(photos, tmp_path):
    """Circular links, and links to a parent folder, twice to one folder, to themselves and to nothing."""
    draw(tmp_path / "else" / "y.png", "red", 3)
    (tmp_path / "else" / "back").symlink_to(photos)
    (tmp_path / "else" / "day").symlink_to(photos / "day0")
    (tmp_path / "else" / "self").symlink_to(tmp_path / "else")
    (photos / "all").symlink_to(tmp_path)
    for name in ("out", "again"):
        (photos / name).symlink_to(tmp_path / "else")
    (photos / "one.png").symlink_to(tmp_path / "else" / "y.png")
    (photos / "notes.txt").symlink_to("/etc/hostname")
    (photos / "round.png").symlink_to("round.png")
    (photos / "gone.png").symlink_to("nothing.png")
    paths, left_out = list_images(photos, follow_links=True)
    assert sorted(path for path in paths if not path.startswith("day")) == ["again/y.png", "one.png"]
    assert len(paths) == 62
    assert dict(left_out) == dict.fromkeys(["round.png", "gone.png"], "a broken link")
    paths, left_out = list_images(photos)
    assert len(paths) == 60
    assert {path for path, why in left_out if why == LEAVES} == {"all", "out", "again", "one.png"}
    assert len(left_out) == 6


def test_a_project_in_the_folder_is_passed_over(photos):
    (photos / "old.skal").mkdir()
    (photos / "old.skal" / "project.json").write_text("{}")
    draw(photos / "old.skal" / "x.png", "red", 1)
    assert len(list_images(photos)[0]) == 60


def test_what_was_read_is_remembered(photos, catalogue, tmp_path, monkeypatch):
    paths, _ = list_images(photos)
    (photos / "broken.png").write_bytes(b"x")
    fill(catalogue, [*paths, "broken.png"])
    first = [(item.id, item.path, item.is_reserved, item.leader) for item in catalogue.order]
    catalogue.close()
    with open(tmp_path / "images.jsonl", "a") as file:
        file.write('{"path": "torn')
    draw(photos / paths[0], "red", 77)
    read = []
    monkeypatch.setattr("skal.label.catalogue.read_fingerprint", lambda p: read.append(p) or read_fingerprint(p))
    again = Catalogue(photos, b"key", 2**62, tmp_path / "images.jsonl")
    recalled = again.recall({*paths, "broken.png"})
    assert [again.stamp(one.path) == one.stamp for one in recalled].count(False) == 1
    again.drop(paths[0], next(one.content for one in recalled if one.path == paths[0]), "changed")
    fill(again, [paths[0]])
    again.close()
    assert read == [str(photos / paths[0])]  # only the one that has changed
    second = [(item.id, item.path, item.is_reserved, item.leader) for item in again.order]
    assert second[:-1] == first  # in the order they were read, with new ones at the end
    assert set(again.unreadable) == {"broken.png", paths[0]}


def test_the_order_is_the_keys(photos, tmp_path):
    paths, _ = list_images(photos)
    orders = []
    for key in (b"one", b"two"):
        catalogue = Catalogue(photos, key, 0, tmp_path / "images.jsonl")
        orders.append(in_keyed_order(paths, catalogue))
        assert orders[-1] == in_keyed_order(paths[::-1], catalogue)
        catalogue.close()
    assert orders[0] != orders[1]


def test_whether_an_image_is_reserved_is_its_contents(photos, catalogue):
    paths, _ = list_images(photos)
    fill(catalogue, paths)
    before = {item.id for item in catalogue.reserved}
    assert 5 < len(before) < 30
    (photos / "day0").rename(photos / "renamed")
    again = Catalogue(photos, b"key", 2**62, catalogue.root.parent / "other.jsonl")
    fill(again, list_images(photos)[0])
    again.close()
    assert {item.id for item in again.reserved} == before


def test_thumbnails_are_upright_and_small(tmp_path):
    pixels = np.zeros((200, 400, 3), dtype=np.uint8)
    pixels[:, :200] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    content = read_fingerprint(tmp_path / "turned.jpg").content
    (tmp_path / "out.jpg").write_bytes(make_thumbnail(content, str(tmp_path / "turned.jpg"), 100))
    with Image.open(tmp_path / "out.jpg") as out:
        assert out.size == (50, 100)
        assert out.getpixel((25, 10))[0] > 200
        assert out.getpixel((25, 90))[0] < 50


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "1", "CMYK"])
def test_thumbnails_of_every_kind(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16))
    else:
        image = Image.new("RGB", (20, 20), "white").convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    out = make_thumbnail(read_fingerprint(path).content, str(path), 256)
    assert out[:3] == b"\xff\xd8\xff"


def test_a_replaced_file_is_never_shown(tmp_path):
    draw(tmp_path / "x.png", "red", 1)
    content = read_fingerprint(tmp_path / "x.png").content
    draw(tmp_path / "x.png", "blue", 2)
    with pytest.raises(ChangedError, match="replaced"):
        make_thumbnail(content, str(tmp_path / "x.png"), 256)
    (tmp_path / "x.png").unlink()
    with pytest.raises(ChangedError, match="No such file"):
        make_thumbnail(content, str(tmp_path / "x.png"), 256)


def test_memory_of_thumbnails_is_bounded(tmp_path):
    thumbnails = Thumbnails(max_bytes=5000)
    for i in range(30):
        draw(tmp_path / f"{i}.png", "red", i)
        content = read_fingerprint(tmp_path / f"{i}.png").content
        thumbnails.get(content, str(tmp_path / f"{i}.png"), SIDES[0])
    assert sum(map(len, thumbnails._kept.values())) == thumbnails._bytes <= 5000


def test_a_bomb_is_unreadable(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="pixels"):
        read_fingerprint(tmp_path / "bomb.png")


def test_images_of_more_than_8_bits_look_as_the_network_sees_them(tmp_path):
    """They were white to the search for near-duplicates, and those of 12 bits black on the page."""
    rng = np.random.default_rng(0)
    found = []
    for bits in (12, 12, 16, 16):
        values = np.kron(rng.integers(0, 2**bits, (8, 8)), np.ones((4, 4))).astype(np.uint16)
        path = tmp_path / "x.tif"
        Image.fromarray(values).save(path)
        found.append(read_fingerprint(path))
        with Image.open(io.BytesIO(make_thumbnail(found[-1].content, str(path), 256))) as shown:
            assert np.abs(np.asarray(shown.convert("L")) - values * (255 / values.max())).mean() < 5  # JPEG
    assert len({fingerprint.grey for fingerprint in found}) == 4
    looks = Looks()
    assert [looks.add(fingerprint) for fingerprint in found] == [[]] * 4
    Image.fromarray(values.astype(np.float32)).save(path)
    with pytest.raises(ValueError, match="floating-point"):
        read_fingerprint(path)
