"""Fingerprints: every change is noticed, and nothing but a change."""

import copy
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skal import FrozenPrefixClassifier, ImageTransform, SourceProfile
from skal._fingerprint import fingerprint, fingerprint_data, fingerprint_params
from skal._random import seeded
from skal.query import margin_sampling
from tests.conftest import SMALL

RATE = 1


def reads_a_global(x):
    return RATE * x


def calls_another(x):
    return reads_a_global(x) + 1


def load(folder, source, name="user_module"):
    """A module of the user's from its source."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with seeded(0):
        spec.loader.exec_module(module)
    return module


USER = """
    import functools
    from torch import nn
    import torch.nn.functional as F

    RATE = 0.5
    TABLE = {"a": [1, 2], "b": {"x", "y", "z"}}

    def helper(x):
        return RATE * x

    def strategy(learner, X_pool, n_instances=1, *, temperature=2.0):
        "Picks."
        def inner(x):
            return helper(x) + TABLE["a"][0]
        return inner(len(X_pool))

    def made(width):
        return lambda x: x + width

    closed = made(3)
    fixed = functools.partial(strategy, temperature=3.0)

    class Strategy:
        limit = 7

        def __init__(self, weight=1.0):
            self.weight = weight

        def score(self, x):
            return max(x, self.limit)

        def __call__(self, learner, X_pool, n_instances=1):
            return self.score(super().__hash__())

    class Child(Strategy):
        pass

    one, child, bound = Strategy(), Child(), Strategy().score

    class Net(nn.Module):
        def __init__(self, scale=2.0):
            super().__init__()
            self.scale = scale
            self.layer = nn.Linear(3, 2)
            nn.init.ones_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)

        def forward(self, x):
            return F.relu(self.layer(x) * self.scale)

    net = Net()
"""
NAMES = ["strategy", "closed", "fixed", "one", "child", "bound", "net"]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("RATE = 0.5", "RATE = 0.25", {"strategy", "fixed"}),
        ('"y", "z"}', '"y", "w"}', {"strategy", "fixed"}),
        ("return RATE * x", "return RATE / x", {"strategy", "fixed"}),
        ("temperature=2.0", "temperature=2.5", {"strategy", "fixed"}),
        ("made(3)", "made(4)", {"closed"}),
        ("x + width", "x - width", {"closed"}),
        ("temperature=3.0", "temperature=4.0", {"fixed"}),
        ("limit = 7", "limit = 8", {"one", "child", "bound"}),
        ("max(x, self.limit)", "min(x, self.limit)", {"one", "child", "bound"}),
        ("weight=1.0", "weight=2.0", {"one", "child", "bound"}),
        ("        pass", "        limit = 9", {"child"}),
        ("F.relu", "F.tanh", {"net"}),
        ("scale=2.0", "scale=3.0", {"net"}),
        ("ones_(self", "zeros_(self", {"net"}),
        ('"Picks."', '"Picks, as the paper does."', set()),
        ("    RATE = 0.5", "    import os\n    UNUSED = 3\n\n    RATE = 0.5", set()),
    ],
)
def test_a_change_of_the_users_code_is_noticed_where_it_matters(tmp_path, before, after, changed):
    (tmp_path / "other").mkdir()
    assert USER.count(before) == 1
    first = load(tmp_path, USER)
    again = load(tmp_path / "other", USER)
    second = load(tmp_path, USER.replace(before, after))
    for name in NAMES:
        print_ = fingerprint(getattr(first, name))
        assert fingerprint(getattr(again, name)) == print_, name
        assert (fingerprint(getattr(second, name)) != print_) == (name in changed), name


def test_another_process_and_another_order_of_sets_change_nothing(tmp_path):
    load(tmp_path, USER)
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import user_module, torch, numpy as np
from skal._fingerprint import fingerprint, fingerprint_params
from skal.query import adma_sampling, uherding_sampling
from sklearn.linear_model import LogisticRegression
from tests.conftest import TinyConvNet
from skal import FrozenPrefixClassifier
torch.manual_seed(0)
net = TinyConvNet()
net.register_forward_hook(lambda *args: None)
values = [getattr(user_module, name) for name in sys.argv[2].split()]
values += [adma_sampling, uherding_sampling, net]
values += [{"b", "a", 3, user_module.helper, user_module.Strategy}, np.random.RandomState(3), torch.nn.LazyLinear(3)]
print(*map(fingerprint, values), fingerprint_params(FrozenPrefixClassifier(net)))
"""
    printed = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), " ".join(NAMES)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert printed[0].split()[: len(NAMES)] == [fingerprint(getattr(load(tmp_path, USER), name)) for name in NAMES]
    assert len(set(printed[0].split())) == len(NAMES) + 7


def test_globals_are_followed_through_functions(monkeypatch):
    before = fingerprint(calls_another), fingerprint(lambda x: calls_another(x))
    monkeypatch.setattr(sys.modules[__name__], "RATE", 2)
    assert fingerprint(calls_another) != before[0]
    assert fingerprint(lambda x: calls_another(x)) != before[1]


def test_a_wrapper_that_bears_the_name_of_a_library_function_is_not_taken_for_it():
    import functools

    def wrapped(factor):
        @functools.wraps(margin_sampling)
        def wrapper(*args, **kwargs):
            return margin_sampling(*args, **kwargs)[::factor]

        return wrapper

    assert len({fingerprint(margin_sampling), fingerprint(wrapped(1)), fingerprint(wrapped(-1))}) == 3


def test_a_class_that_bears_the_name_of_a_library_class_is_not_taken_for_it():
    fake = type("LogisticRegression", (LogisticRegression,), {"__module__": LogisticRegression.__module__})
    assert fingerprint_params(fake()) != fingerprint_params(LogisticRegression())


ROWS = np.random.default_rng(0).integers(0, 255, size=(10_000, 8), dtype=np.uint8)


def with_one_changed(rows):
    rows = rows.copy()
    rows[7431, 2] ^= 1
    return rows


@pytest.mark.parametrize(
    "change",
    [
        with_one_changed,
        lambda X: X[::-1],
        lambda X: X.astype(np.int16),
        lambda X: X.reshape(5000, 16),
        lambda X: X[:-1],
    ],
)
@pytest.mark.parametrize(
    "form", [lambda X: X, np.asfortranarray, sparse.csr_matrix, pd.DataFrame, torch.from_numpy, lambda X: X.tolist()]
)
def test_a_change_in_any_row_is_noticed(form, change):
    if form(ROWS[:3]).__class__ is list and change(ROWS).shape == ROWS.shape and change(ROWS).dtype != ROWS.dtype:
        pytest.skip("a list has no dtype")
    before = fingerprint_data(form(ROWS))
    assert fingerprint_data(form(np.ascontiguousarray(change(ROWS)))) != before
    assert fingerprint_data(copy.deepcopy(form(ROWS))) == before


def test_the_layout_in_memory_and_the_place_of_an_array_do_not_count(tmp_path):
    expected = fingerprint_data(ROWS)
    np.save(tmp_path / "rows.npy", ROWS)
    for same in (np.asfortranarray(ROWS), np.load(tmp_path / "rows.npy", mmap_mode="r"), np.repeat(ROWS, 2, 0)[::2]):
        assert fingerprint_data(same) == expected


def test_arrays_of_objects_masked_arrays_and_fields():
    objects = np.array(["a", 2, None, (1, "x")], dtype=object)
    other = objects.copy()
    other[3] = (1, "y")
    assert fingerprint_data(objects) == fingerprint_data(copy.deepcopy(objects)) != fingerprint_data(other)
    masks = [np.ma.MaskedArray([1, 2, 3], mask) for mask in ([0, 0, 1], [0, 1, 0])]
    assert fingerprint_data(masks[0]) != fingerprint_data(masks[1])
    fields = [np.zeros(3, dtype=[(name, float)]) for name in "ab"]
    assert fingerprint_data(fields[0]) != fingerprint_data(fields[1])
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert fingerprint_data(frame) != fingerprint_data(frame.rename(columns={"a": "c"}))
    assert fingerprint_data(frame) == fingerprint_data(pickle.loads(pickle.dumps(frame)))


def test_replaced_image_files_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    before = fingerprint_data(paths)
    content, times = paths[1].read_bytes(), os.stat(paths[1])
    os.utime(paths[1])  # touched, but the same
    assert fingerprint_data([str(path) for path in paths]) == before
    paths[1].write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    assert fingerprint_data(paths) != before
    paths[1].write_bytes(content)
    assert fingerprint_data(paths) == before
    assert fingerprint_data(paths[::-1]) != before
    assert fingerprint_data(pd.Series(paths)) == before


def test_of_large_files_the_ends_and_the_time_count(tmp_path):
    path = tmp_path / "large.jpg"
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    path.write_bytes(content)
    before = fingerprint_data([path])
    times = os.stat(path)
    for place in (0, -1):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert fingerprint_data([path]) != before
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_data([path]) == before
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert fingerprint_data([path]) != before


def test_labels_that_look_like_paths_are_texts(tmp_path):
    assert fingerprint_data(["a", "b"]) != fingerprint_data(["a", "c"])


def test_ten_thousand_small_images_take_well_under_a_second(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (10_000, 32, 32, 3), dtype=np.uint8)
    start = time.process_time()
    fingerprint_data(images)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_replaced_weights_file_is_noticed(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(b"first " * 1000)
    times = os.stat(file)
    forms = [
        lambda: fingerprint_params(FrozenPrefixClassifier("resnet18", weights=str(file))),
        lambda: fingerprint_params(FrozenPrefixClassifier("resnet18", weights=file)),
        lambda: fingerprint(partial(torch.load, str(file))),
        lambda: fingerprint(lambda: torch.load(file)),
    ]
    before = [form() for form in forms]
    content = bytearray(file.read_bytes())
    content[3000] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not set(before) & {form() for form in forms}


def changed_weight(net):
    with torch.no_grad():
        net.fc.weight[0, 0] += 1e-6


def changed_statistics(net):
    net.bn1.running_mean[0] += 1e-6


def changed_activation(net):
    net.relu = nn.Tanh()


def changed_setting(net):
    net.conv1.padding = (0, 0)


def changed_attribute(net):
    net.temperature = 2.0


def added_hook(net):
    net.conv1.register_forward_hook(lambda module, args, output: output + 1)


def replaced_forward(net):
    net.forward = lambda x: x


def frozen_layer(net):
    net.conv1.weight.requires_grad_(False)


def changed_order(net):
    stem = list(net.stem)
    net.stem = nn.Sequential(stem[0], stem[2], stem[1], stem[3])


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_statistics,
        changed_activation,
        changed_setting,
        changed_attribute,
        added_hook,
        replaced_forward,
        frozen_layer,
        changed_order,
    ],
)
def test_a_change_of_a_network_is_noticed(convnet, change):
    before = fingerprint_params(FrozenPrefixClassifier(convnet))
    other = copy.deepcopy(convnet)
    assert fingerprint_params(FrozenPrefixClassifier(other.train())) == before
    change(other)
    assert fingerprint_params(FrozenPrefixClassifier(other)) != before


def test_a_followed_network_counts_by_its_code(mlp):
    traced = torch.fx.symbolic_trace(mlp)
    other = torch.fx.symbolic_trace(nn.Sequential(*[nn.Tanh() if isinstance(p, nn.ReLU) else p for p in mlp]))
    assert fingerprint(traced) == fingerprint(torch.fx.symbolic_trace(copy.deepcopy(mlp))) != fingerprint(other)


def test_a_preprocessing_and_a_profile_count(convnet, profile, source_images):
    nets = [FrozenPrefixClassifier(convnet, preprocess=t) for t in (SMALL, ImageTransform(16, 16, std=(1, 1, 1)))]
    assert fingerprint_params(nets[0]) != fingerprint_params(nets[1])
    before = fingerprint_params(FrozenPrefixClassifier(convnet, source=profile))
    profile.patterns(profile.layers_[0])  # computed when it is asked for
    assert fingerprint_params(FrozenPrefixClassifier(convnet, source=profile)) == before
    other = SourceProfile(convnet, preprocess=SMALL).fit(source_images[0][::-1], source_images[1])
    assert fingerprint_params(FrozenPrefixClassifier(convnet, source=other)) != before


def test_a_loaded_profile_is_the_fitted_one(profile, tmp_path):
    profile.save(tmp_path / "profile.safetensors")
    assert fingerprint(SourceProfile.load(tmp_path / "profile.safetensors")) == fingerprint(profile)


def test_estimators_count_by_what_clone_copies():
    X, y = ROWS[:20].astype(float), np.arange(20) % 2
    model = make_pipeline(StandardScaler(), LogisticRegression())
    before = fingerprint_params(model)
    assert fingerprint_params(copy.deepcopy(model).fit(X, y)) == before
    assert fingerprint_params(make_pipeline(StandardScaler(), LogisticRegression(C=2))) != before
    assert fingerprint_params(make_pipeline(StandardScaler(), LogisticRegression(verbose=1))) == before
    frozen = [FrozenEstimator(StandardScaler().fit(part)) for part in (X, X, X[::2])]
    first, same, other = (fingerprint_params(make_pipeline(f, LogisticRegression())) for f in frozen)
    assert first == same != other  # what was learned is not forgotten by a clone
    # A strategy is called as it is, with all that its estimator has learned.
    first, same, other = (fingerprint(partial(margin_sampling, scaler=StandardScaler().fit(p))) for p in (X, X, X[::2]))
    assert first == same != other


def test_what_changes_no_record_is_left_out(tmp_path, convnet):
    net = convnet
    options = [{}, {"cache": False}, {"cache": str(tmp_path)}, {"verbose": True}]
    assert len({fingerprint_params(FrozenPrefixClassifier(net, **option)) for option in options}) == 1
    assert fingerprint_params(FrozenPrefixClassifier(net, device="cuda")) != fingerprint_params(
        FrozenPrefixClassifier(net)
    )


def test_random_generators_count_by_their_state():
    for make, draw in [
        (np.random.RandomState, lambda g: g.rand()),
        (np.random.default_rng, lambda g: g.random()),
        (lambda seed: torch.Generator().manual_seed(seed), lambda g: torch.rand(1, generator=g)),
    ]:
        first, second = make(0), make(0)
        assert fingerprint(first) == fingerprint(second) != fingerprint(make(1))
        draw(second)
        assert fingerprint(first) != fingerprint(second)


class Hiding:
    """Its pickle does not show what it computes with."""

    def __init__(self, weight):
        self.weight = weight

    def __getstate__(self):
        return {}


class Slotted:
    __slots__ = ("weight",)

    def __init__(self, weight):
        self.weight = weight


@pytest.mark.parametrize("kind", [Hiding, Slotted, lambda weight: type("Local", (), {"weight": weight})()])
def test_every_kind_of_attribute_counts(kind):
    assert fingerprint(kind(1)) == fingerprint(kind(1)) != fingerprint(kind(2))


def test_values_that_resemble_each_other_are_told_apart():
    values = [1, 1.5, "1", True, None, (1,), [1], {1}, {1: 1}, b"1", [[1]], [1, 1], [], (), {}, "", np.array([1]), len]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(np.float64(0.5)) == fingerprint(0.5)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_values_that_hold_themselves_end():
    def looped(n):
        values = [n]
        values.append(values)
        return values

    assert fingerprint(looped(1)) == fingerprint(looped(1)) != fingerprint(looped(2))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # still met in users' networks
def test_what_cannot_be_read_is_named(tmp_path):
    scripted = torch.jit.script(nn.ReLU())
    with (
        open(tmp_path / "log", "w") as log,
        pytest.raises(ValueError, match=r"^query strategy\.log is a _io\.Text"),
    ):
        fingerprint(partial(lambda: log), "query strategy")
    with pytest.raises(ValueError, match=r"estimator is a torch\.jit"):
        fingerprint(scripted, "estimator")
    lock = threading.Lock()
    assert fingerprint(lambda: lock)  # holds nothing that is computed with


class Own(BaseEstimator):
    def __init__(self, net=None):
        self.net = net


def test_parameters_of_ones_own_estimator():
    with seeded(0):
        nets = nn.Linear(2, 2), nn.Linear(2, 2)
    assert fingerprint_params(Own(nets[0])) == fingerprint_params(Own(copy.deepcopy(nets[0])))
    assert fingerprint_params(Own(nets[0])) != fingerprint_params(Own(nets[1]))
