"""Imports go one way: a module imports only modules that come before it."""

import ast
from pathlib import Path

import pytest

import skal

ROOT = Path(skal.__file__).parent
#: From modules that use no others to those that use all of them.
ORDER = [
    "_torchvision",
    "_random",
    "_validation",
    "_extras",
    "_files",
    "_threads",
    "_labels",
    "_targets",
    "_compat",
    "_device",
    "_grey",
    "_learners",
    "numerics",
    "images",
    "_code",
    "_fingerprint",
    "backbones",
    "features",
    "gradients",
    "source",
    "selective",
    "training",
    "_fitting",
    "_prediction",
    "_saving",
    "classifier",
    "query",
    "metrics",
    "active",
    "_records",
    "experiment",
    "plots",
    "label",
    "cli",
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name != "__init__.py")


def module_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        imported |= {name.split(".")[1] for name in names if name and name.startswith("skal.")}
    own = module_of(path)
    later = {name for name in imported if ORDER.index(name) > ORDER.index(own)}
    # query/ does not use networks. Of the modules that do, it imports only the profile.
    networks = (
        imported & {"backbones", "features", "gradients", "training", "classifier", "selective"}
        if own == "query"
        else set()
    )
    assert not later | networks
