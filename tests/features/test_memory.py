"""The cache in memory: within its bound, it keeps what fits of a pool that is too large, and lets old networks go."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skal.features import memory
from skal.features.memory import ActivationCache, memory_of_machine


def scan(cache, space, n_rows, block=8, width=4):
    """Go through a pool once as `frozen_activations` does; the share of rows that were found."""
    found = 0
    for start in range(0, n_rows, block):
        keys = [i.to_bytes(4, "little") for i in range(start, min(start + block, n_rows))]
        known = cache.get(space, keys)
        for i, row in known.items():
            assert torch.equal(row, torch.full((width,), float(start + i)))
        missing = [i for i in range(len(keys)) if i not in known]
        if missing:
            rows = torch.tensor([[float(start + i)] * width for i in missing])
            cache.put(space, [keys[i] for i in missing], rows)
        found += len(known)
    return found / n_rows


@pytest.fixture(autouse=True)
def _without_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the cache in memory is limited", RuntimeWarning)
        yield


@settings(max_examples=15, deadline=None, derandomize=True)
@given(n_fit=st.integers(80, 400), block=st.integers(1, 70))
def test_of_a_pool_a_tenth_too_large_four_fifths_are_found(n_fit, block):
    """The least recently used cycling would find nothing."""
    cache = ActivationCache(max_bytes=16 * n_fit)
    scan(cache, b"s", int(1.1 * n_fit), block)
    for _ in range(5):
        # A block goes as a whole: where blocks are large beside the bound, one more may be missing.
        assert scan(cache, b"s", int(1.1 * n_fit), block) >= 0.8 - block / n_fit
        assert cache.n_bytes <= cache.max_bytes


@settings(max_examples=10, deadline=None, derandomize=True)
@given(times=st.floats(1, 4), block=st.integers(1, 20))
def test_of_a_pool_up_to_four_times_too_large_half_of_what_fits_is_found(times, block):
    cache = ActivationCache(max_bytes=16 * 400)
    scan(cache, b"s", int(400 * times), block)
    assert min(scan(cache, b"s", int(400 * times), block) for _ in range(4)) >= 0.5 / times - block / 400


def test_a_pool_that_fits_is_found_whole():
    cache = ActivationCache(max_bytes=16 * 100)
    assert [scan(cache, b"s", 100) for _ in range(3)] == [0, 1, 1]


def test_a_new_network_takes_the_place_of_an_old_one_at_once():
    cache = ActivationCache(max_bytes=16 * 100)
    for space in (b"a", b"b", b"c"):
        assert [scan(cache, space, 100) for _ in range(3)] == [0, 1, 1]
    assert not cache.holds(b"a")


def test_the_least_recently_used_of_an_old_network_go_first():
    cache = ActivationCache(max_bytes=3 * 8)
    row = torch.zeros(1, 2)
    for key in (b"a", b"b", b"c"):
        cache.put(b"old", [key], row)
    cache.get(b"old", [b"a"])  # now b is the least recently used
    cache.put(b"new", [b"d"], row)
    assert [key for key in (b"a", b"b", b"c") if cache.get(b"old", [key])] == [b"a", b"c"]
    assert cache.n_bytes == 24
    cache.put(b"new", [b"big"], torch.zeros(1, 9))
    assert cache.n_bytes == 24
    cache.clear()
    assert cache.n_bytes == 0


def test_two_networks_in_turn_share_what_fits():
    cache = ActivationCache(max_bytes=16 * 100)
    shares = [[scan(cache, space, 80) for space in (b"a", b"b")] for _ in range(6)]
    assert all(sum(pair) / 2 >= 0.45 for pair in shares[2:])  # 100 of 160 fit


def test_another_pool_of_the_same_network_takes_over_within_a_few_passes():
    cache = ActivationCache(max_bytes=16 * 100)

    def other(n_passes):
        found = 0
        for _ in range(n_passes):
            found = 0
            for start in range(1000, 1100, 4):
                keys = [i.to_bytes(4, "little") for i in range(start, start + 4)]
                known = cache.get(b"s", keys)
                found += len(known)
                if len(known) < 4:
                    cache.put(b"s", keys, torch.zeros(4, 4))
        return found

    scan(cache, b"s", 100)
    assert other(2) < 50
    assert other(20) > 90


def test_a_lowered_bound_holds_from_the_next_row_on():
    cache = ActivationCache(max_bytes=16 * 100)
    scan(cache, b"s", 100)
    cache.max_bytes = 16 * 10
    cache.put(b"s", [b"new!"], torch.zeros(1, 4))
    assert cache.n_bytes <= 160


def test_equal_rows_in_one_block_are_kept_once():
    cache = ActivationCache(max_bytes=12)
    cache.put(b"s", [b"a", b"a"], torch.ones(2, 1))
    cache.put(b"s", [b"b", b"c", b"d"], torch.ones(3, 1))
    assert cache.n_bytes == 12


def test_the_bytes_that_are_needed_are_said_once():
    cache = ActivationCache(max_bytes=16 * 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan(cache, b"s", 110, block=5)
        assert not caught  # it is not known yet whether there is a second pass
        for _ in range(3):
            scan(cache, b"s", 110, block=5)
    (warning,) = caught
    assert f"CACHE.max_bytes = {16 * 110}" in str(warning.message)
    cache.max_bytes = 16 * 110
    scan(cache, b"s", 110, block=5)
    assert scan(cache, b"s", 110, block=5) == 1


def test_the_bound_comes_from_the_machine(monkeypatch):
    assert 2**28 < memory_of_machine() < 2**50
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 64 * 2**30)
    assert ActivationCache().max_bytes == 16 * 2**30
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 2**30)
    assert ActivationCache().max_bytes == 2**30


def test_a_container_is_allowed_less_than_the_machine_has(monkeypatch):
    texts = {
        "/proc/self/cgroup": "0::/user.slice/session\n",
        "/sys/fs/cgroup/user.slice/session/memory.max": "max\n",
        "/sys/fs/cgroup/user.slice/memory.max": str(2**30),
    }

    def read_text(path):
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(memory.Path, "read_text", read_text)
    assert memory_of_machine() == 2**30
    texts["/sys/fs/cgroup/memory.max"] = str(2**29)
    assert memory_of_machine() == 2**29
    texts.clear()
    assert memory_of_machine() > 2**30
