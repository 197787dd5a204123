"""Class names are valid folder names on every system."""

import pytest

from skal.label.names import check_class_name

GOOD = ["cat", "red fox", "Käfer", "犬", "a.b", "class-1", "it's", "50%", "a&b", "(x)", "COM10"]
BAD = ["", "  ", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "con", "Com1.txt", "LPT9", ".hidden", "end.", "a:b", "a*b"]
BAD += ["<b>", '"', "a|b", "a?b", "\u202egnp", "\ud800", "x" * 101, 7, None, b"x"]


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name, tmp_path):
    assert check_class_name(name) == name
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name):
    with pytest.raises(ValueError, match="class name"):
        check_class_name(name)


def test_names_are_normal():
    assert check_class_name("  Ka\u0308fer ") == "Käfer"
    assert check_class_name("cat", ["Cat", "cat", "dog"]) == "cat"
    with pytest.raises(ValueError, match="only in case"):
        check_class_name("Cat", ["dog", "cat"])
