"""The metadata of a release."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import skal

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
GALLERY = sorted((ROOT / "examples").glob("plot_*.py"))


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == skal.__version__
    changes = (ROOT / "docs" / "changes.md").read_text("utf-8")
    assert re.search(r"^## (\S+)", changes, re.M)[1] == skal.__version__


def test_extras_refer_to_the_distribution_itself():
    extras = PROJECT["optional-dependencies"]
    for requirement in (requirement for extra in extras.values() for requirement in extra):
        if requirement.startswith(PROJECT["name"].split("-")[0]):
            name, inner = re.fullmatch(r"([\w-]+)\[([\w,]+)\]", requirement).groups()
            assert name == PROJECT["name"]
            assert set(inner.split(",")) <= set(extras)


def test_what_ci_installs_is_pinned():
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "tests" / "constraints.txt").read_text("utf-8").split()
    }
    for extra, requirements in PROJECT["optional-dependencies"].items():
        for requirement in requirements:
            name = re.match(r"[\w-]+", requirement)[0].lower()
            assert name == PROJECT["name"] or name in pinned, f"{name} of the extra {extra} is not pinned"


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_an_example_of_the_gallery_has_a_title_and_ends_in_a_picture(path):
    code = path.read_text("utf-8")
    tree = ast.parse(code)
    title, underline = ast.get_docstring(tree).splitlines()[:2]
    assert len(title) == len(underline)
    assert code.rstrip().endswith("plt.show()")
    assert "argparse" not in code
    assert path.stem.removeprefix("plot_") in (ROOT / "docs" / "conf.py").read_text("utf-8")
