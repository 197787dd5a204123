"""Images are loaded ahead of the network, in a thread where that is safe, with the result of loading them in turn."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import skal.features.activations as activations
import skal.features.ahead as ahead
from skal._fitting import prefix_of
from skal.backbones import load_backbone
from skal.features.activations import Point, frozen_activations
from skal.features.ahead import Loader, loads_ahead, one_ahead
from skal.features.stored import KeyedInputs
from skal.features.views import both_views
from skal.images.inputs import ItemInputs, JoinedInputs, PathInputs, PixelInputs
from skal.training.net import Options
from skal.training.problem import Problem
from tests.conftest import SMALL


@pytest.fixture(autouse=True)
def _a_core_more_than_the_network_uses(monkeypatch):
    monkeypatch.setattr(ahead, "cpu_count", lambda: torch.get_num_threads() + 1)


@pytest.fixture
def backbone(convnet):
    return load_backbone(convnet, preprocess=SMALL)


def whole(backbone, inputs, **options):
    points = [Point(backbone.layers.features)]
    return torch.cat([block for (block,) in frozen_activations(backbone, inputs, points, cache=None, **options)])


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if "ThreadPool" in thread.name]  # tqdm starts one of its own


def test_a_loader_in_a_thread_keeps_the_order_and_passes_on_errors():
    with Loader(ahead=True) as loader:
        results = [loader.submit(lambda i=i: (i, threading.current_thread().name)) for i in range(5)]
        failed = loader.submit(int, "one")
        assert [result()[0] for result in results] == [0, 1, 2, 3, 4]
        assert results[0]()[1] != threading.current_thread().name
        with pytest.raises(ValueError, match="one"):
            failed()


def test_a_loader_without_a_thread_calls_where_the_result_is_asked_for():
    with Loader(ahead=False) as loader:
        assert loader.submit(threading.current_thread)() is threading.current_thread()


def test_one_ahead():
    asked = []

    def items():
        for i in range(3):
            asked.append(i)
            yield i

    result = one_ahead(items())
    assert next(result) == 0
    assert asked == [0, 1]
    assert list(result) == [1, 2]
    assert list(one_ahead([])) == []


def test_a_users_data_set_is_read_in_the_callers_thread(files, pixels):
    paths = PathInputs(files[0], SMALL)
    items = ItemInputs(TensorDataset(torch.from_numpy(pixels[0])), SMALL)
    assert loads_ahead(paths, "cpu")
    assert loads_ahead(KeyedInputs(paths), "cpu")
    assert not loads_ahead(items, "cpu")
    assert not loads_ahead(KeyedInputs(items), "cpu")
    assert not any(loads_ahead(view, "cpu") for view in both_views(items))
    assert loads_ahead(JoinedInputs((paths, [0, 1])), "cpu")
    assert not loads_ahead(JoinedInputs((paths, [0, 1]), (items, [0])), "cpu")


def test_a_network_on_every_core_has_nothing_beside_it(files, monkeypatch):
    monkeypatch.setattr(ahead, "cpu_count", torch.get_num_threads)
    paths = PathInputs(files[0], SMALL)
    assert not loads_ahead(paths, "cpu")
    assert loads_ahead(paths, "cuda")


def test_the_next_block_is_loaded_while_the_network_computes(backbone, files, monkeypatch):
    monkeypatch.setattr(activations, "BLOCK", 4)
    begun, waited = threading.Event(), []

    class Inputs(PathInputs):
        def load(self, rows):
            if 4 in rows:
                begun.set()
            return super().load(rows)

    def pool(values, pooled):
        waited.append(begun.wait(timeout=30))
        return values

    monkeypatch.setattr(activations, "pool", pool)
    whole(backbone, Inputs(files[0][:8], SMALL))
    assert waited == [True, True]


@pytest.mark.parametrize("threads", [1, 4])
def test_files_in_threads_have_the_activations_of_files_in_turn(backbone, files, threads, monkeypatch):
    inputs = PathInputs(files[0], SMALL)
    in_turn = torch.cat([inputs.load([i]) for i in range(len(inputs))])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.testing.assert_close(inputs.load(np.arange(len(inputs))), in_turn, rtol=0, atol=0)
    monkeypatch.setattr(activations, "BLOCK", 5)
    expected = whole(backbone, backbone.inputs.check(in_turn.numpy()), batch_size=3)
    torch.testing.assert_close(whole(backbone, inputs, batch_size=3), expected, rtol=0, atol=0)


def test_a_damaged_file_is_named_and_what_was_before_it_is_yielded(backbone, files, monkeypatch):
    monkeypatch.setattr(activations, "BLOCK", 4)
    with open(files[0][5], "wb") as damaged:
        damaged.write(b"no image")
    blocks = frozen_activations(backbone, PathInputs(files[0], SMALL), [Point(backbone.layers.features)], cache=None)
    assert len(next(blocks)[0]) == 4
    with pytest.raises(ValueError, match="cannot read 1 of 4 image files"):
        next(blocks)


def test_a_pass_that_is_left_early_leaves_no_thread(backbone, files, monkeypatch):
    monkeypatch.setattr(activations, "BLOCK", 2)
    blocks = frozen_activations(backbone, PathInputs(files[0], SMALL), [Point(backbone.layers.features)], cache=None)
    next(blocks)
    blocks.close()


def test_of_images_that_do_not_fit_the_memory_one_block_is_loaded_to_know_their_size(classifier, pixels, monkeypatch):
    X, y = np.tile(pixels[0], (10, 1, 1, 1)), np.tile(pixels[1], 10)
    prefix = prefix_of(classifier.set_params(cache=False), X)
    problem = Problem(prefix, Options.of(classifier), prefix.check(X), y, np.zeros(400, dtype=bool))
    loaded = []
    load = PixelInputs.load
    monkeypatch.setattr(PixelInputs, "load", lambda self, rows: loaded.extend(rows) or load(self, rows))
    monkeypatch.setattr("skal.training.problem.quarter_of_memory", lambda: 1000)
    assert problem.held is None
    assert loaded == [*range(128)]
