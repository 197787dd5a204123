"""The Python code of README, CONTRIBUTING and docs compiles, imports existing names, and runs on toys if possible."""

import ast
import builtins
import doctest
import importlib
import inspect
import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.model_selection import GridSearchCV
from torch import nn

import skal
from skal import FrozenPrefixClassifier, ImageTransform, SourceProfile
from skal._random import seeded
from skal.cli import _parser
from skal.metrics import target_density
from skal.query import STRATEGIES
from tests.conftest import SMALL

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = {
    page.relative_to(ROOT).as_posix(): re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    for page in PAGES
}
NETWORKS = {"alexnet", "efficientnet_lite0", "mobilenet_v2", "resnet18"}
#: Not run, since it has its own test or costs too much. Identified by a word of its code.
LEFT_OUT = {
    "examples/data": ".ci/run runs it",
    "distributed": "starts a cluster; tests of large pools use Dask",
    "onnx": "tests/label/test_predictor.py runs the program, tests/training/test_export.py the export",
    "LabelSession": "tests/label runs it",
}


MAIN = ["guide", "adaptation", "selective", "emoc", "index", "get_started"]
MAIN = [f"docs/{page}.md" for page in MAIN] + [page for page in SNIPPETS if page.startswith("docs/task_")]


class AtToySize(ast.NodeTransformer):
    """The same code with the toy network instead of pre-trained ones, two rounds, and searches over one candidate."""

    def visit_Constant(self, node):
        return ast.Name("toy", ast.Load()) if node.value in NETWORKS else node

    def visit_Dict(self, node):
        self.generic_visit(node)
        for key, value in zip(node.keys, node.values, strict=True):
            value.elts = [ast.Constant(1)] if key.value.endswith("n_frozen") else value.elts[:1]
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in ("weights", "image_size")]
        for keyword in node.keywords:
            if keyword.arg in ("n_queries", "n_instances", "batch_size"):
                keyword.value = ast.Constant(2)
            elif keyword.arg == "n_jobs" or (keyword.arg == "n_frozen" and isinstance(keyword.value, ast.UnaryOp)):
                keyword.value = ast.Constant(1)
        called = node.func.id if isinstance(node.func, ast.Name) else None
        if called == "range":
            node.args = [ast.Constant(2)]
        elif called == "GridSearchCV":
            node.keywords = [k for k in node.keywords if k.arg != "cv"] + [ast.keyword("cv", ast.Constant(2))]
        return node


def imports(tree):
    """Modules, the names imported from them, and their names in the code."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                module, name = (alias.name, None) if isinstance(node, ast.Import) else (node.module, alias.name)
                yield module, name, alias.asname or alias.name.split(".")[0]


def unknown_names(tree, known):
    """Names that a reader must define."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    made |= {called for _, _, called in imports(tree)}
    return {node.id for node in names} - made - set(known) - set(dir(builtins))


@pytest.fixture
def namespace(monkeypatch, convnet, pixels, files, source_images, tmp_path):
    """Toy versions of the names that the pages assume."""
    profile = SourceProfile(convnet, preprocess=SMALL).fit(*source_images)
    quick = partial(FrozenPrefixClassifier, source=profile, max_epochs=1, min_steps=2, preprocess=SMALL)
    monkeypatch.setattr(skal, "FrozenPrefixClassifier", quick)
    descriptor = partial(importlib.import_module("skal.selective").FilterBankDescriptor, preprocess=SMALL)
    monkeypatch.setattr("skal.selective.FilterBankDescriptor", descriptor)
    monkeypatch.chdir(tmp_path)
    X, y = pixels
    for i, (image, label) in enumerate(zip(X, y, strict=True)):  # as written by skal export
        folder = tmp_path / "sorted" / ("audit" if i % 4 == 0 else "train") / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    (tmp_path / "model").mkdir()
    source = np.concatenate([255 - X, X // 2, 255 - X // 2])
    net = quick(convnet, random_state=0).fit(X[:8], y[:8])
    net.save("model/model.safetensors")
    given = {
        "net": net,
        "module": nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),  # takes raw pixels
        "toy": convnet,
        "GridSearchCV": GridSearchCV,
        "target_density": target_density,
        "X": X[:24],
        "y": y[:24],
        "X_pool": X,
        "paths": files[0],
        "X_reference": X[:3],
        "X_source": source,
        "y_source": np.tile(y, 3),
        "X_target": X,
        "X_unlabeled": X,
        "X_all": np.concatenate([source, X]),
        "y_all": np.concatenate([np.tile(y, 3), np.full(40, "-1")]),
        "domain": np.repeat([1, -1], [120, 40]),
        "ask_a_person": lambda images: [y[np.flatnonzero((image == X).all(axis=(1, 2, 3)))[0]] for image in images],
    }
    with seeded(0):
        given["module"](torch.zeros(1, 16, 16, 3))
    registered = dict(STRATEGIES)
    yield {name: getattr(skal, name) for name in skal.__all__} | given
    STRATEGIES.clear()  # a page may register its own strategy
    STRATEGIES.update(registered)


@pytest.mark.parametrize("page", [page for page, snippets in SNIPPETS.items() if snippets])
def test_snippets_import_what_there_is(page):
    for code in SNIPPETS[page]:
        for module, name, _ in imports(ast.parse(code, page)):
            if module.split(".")[0] == "skal":
                assert name is None or hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize(
    "package", ["", ".query", ".training", ".label", ".features", ".backbones", ".images", ".selective"]
)
def test_every_public_name_has_a_page(package):
    api = (ROOT / "docs" / "api.md").read_text("utf-8").split()
    listed = {line.split(".")[-1] for line in api}
    strategies = {strategy.function.__name__ for strategy in STRATEGIES.values()}  # listed by docs/conf.py
    module = importlib.import_module(f"skal{package}")
    names = {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
    assert names - strategies <= listed


def test_commands_of_the_pages_exist():
    commands = [line for page in PAGES for line in re.findall(r"^(skal .*)$", page.read_text("utf-8"), re.M)]
    assert len(commands) > 10
    for command in commands:
        _parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions_print_what_they_show(page):
    shown = "\n".join(re.findall(r"^```pycon\n(.*?)^```", page.read_text("utf-8"), re.M | re.S))
    test = doctest.DocTestParser().get_doctest(shown, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("page", [page for page, snippets in SNIPPETS.items() if snippets])
def test_snippets_run_on_toys(page, namespace):
    run = 0
    for code in SNIPPETS[page]:
        tree = ast.parse(code, page)
        if any(word in code for word in LEFT_OUT) or unknown_names(tree, namespace):
            continue
        exec(compile(ast.fix_missing_locations(AtToySize().visit(tree)), page, "exec"), namespace)
        run += 1
    if not run:
        pytest.skip("nothing of this page can run on toys")


@pytest.mark.parametrize("size", [(40, 31), (90, 240)])  # enlarged, and shrunk
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_prepared_without_skal_as_with_it(size, interpolation, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    code = next(code for code in SNIPPETS["docs/task_production.md"] if "def prepare" in code)
    (function,) = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    namespace = {"Image": Image, "ImageOps": ImageOps, "np": np}
    namespace["model"] = {"resize": 70, "image_size": 64, "interpolation": interpolation}
    exec(compile(ast.Module([function], []), "prepare", "exec"), namespace)
    plain = ImageTransform(70, 64, (0.0,) * 3, (1.0,) * 3, interpolation)
    expected = plain(torch.from_numpy(noise[None]))[0]
    np.testing.assert_allclose(namespace["prepare"](tmp_path / "noise.png"), expected, atol=2.01 / 255)


def test_the_main_pages_run_on_toys(namespace):
    """A page that needs undefined names would be skipped silently above."""
    for page in MAIN:
        known = set(namespace)
        for code in SNIPPETS[page]:
            if any(word in code for word in LEFT_OUT):
                continue
            tree = ast.parse(code, page)
            assert not unknown_names(tree, known), page
            known |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
