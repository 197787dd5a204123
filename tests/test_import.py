"""``import skal`` does not import torch. Names are imported on first use."""

import pickle
import subprocess
import sys
from types import ModuleType

import pytest

import skal

_HEAVY = ("torch", "torchvision", "sklearn", "skorch", "scipy", "pandas", "modAL")


def run(code):
    """The output of a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_takes_no_torch():
    assert run(f"import sys, skal; print(*(name for name in {_HEAVY} if name in sys.modules))") == []


def test_every_name_is_there():
    assert set(skal.__all__) <= set(dir(skal))
    for name in skal.__all__:
        found = getattr(skal, name)
        assert (found.__name__ if isinstance(found, ModuleType) else found.__module__).startswith("skal.")
    assert pickle.loads(pickle.dumps(skal.FrozenPrefixClassifier)) is skal.FrozenPrefixClassifier
    assert set(run("from skal import *; print(*globals())")) >= set(skal.__all__)
    with pytest.raises(AttributeError, match="No skal attribute nothing"):
        _ = skal.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from skal import nothing  # noqa: F401


def test_packages_are_attributes():
    names = ["active", "backbones", "classifier", "features", "gradients", "images", "numerics", "query", "training"]
    found = run(f"import skal; print(*(getattr(skal, name).__name__ for name in {names}))")
    assert found == [f"skal.{name}" for name in names]
    assert "uherding" in run("import skal.query; print(*skal.query.STRATEGIES)")


@pytest.mark.parametrize(
    "code", ["import skal.query", "from skal import FrozenPrefixClassifier", "import skal; skal.ActiveClassifier"]
)
def test_what_meets_modal_repairs_it(code):
    code = f"from modAL.models.base import BaseLearner; {code}; print(hasattr(BaseLearner, '__sklearn_clone__'))"
    assert run(code) == ["True"]
