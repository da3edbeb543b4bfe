"""Models in memory: within the limit, dropped before the next is loaded, never taken from somebody who uses them."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from webui.weights.cache import Cache


class Weights:
    """Something that can be seen to be gone."""


def held(cache: Cache, key: str, size: int = 10, **options: Any) -> None:
    with cache.lease(key, lambda: (Weights(), size), **options):
        pass


def test_a_value_is_loaded_once():
    cache, loads = Cache(100), []

    def load() -> tuple[Weights, int]:
        loads.append(1)
        return Weights(), 10

    with cache.lease("a", load) as first, cache.lease("a", load) as second:
        assert first is second
    with cache.lease("a", load) as third:
        assert third is first
    assert loads == [1] and cache.bytes == 10


def test_the_least_recently_used_goes_first():
    cache = Cache(30)
    for key in "abc":
        held(cache, key)
    held(cache, "a")
    held(cache, "d")
    assert cache.keys() == ["c", "a", "d"] and cache.bytes == 30


def test_room_is_made_before_the_next_is_loaded():
    cache = Cache(30)
    for key in "abc":
        held(cache, key)
    seen: list[int] = []

    def load() -> tuple[Weights, int]:
        seen.append(cache.bytes)
        return Weights(), 20

    with cache.lease("d", load, expects=20):
        assert seen == [10] and cache.keys() == ["c", "d"]


def test_what_is_leased_stays():
    cache = Cache(10)
    with cache.lease("a", lambda: (Weights(), 10)) as leased:
        with cache.lease("b", lambda: (Weights(), 10), expects=10):
            assert cache.keys() == ["a", "b"]
        assert cache.unload() == 10 and cache.keys() == ["a"]
        with cache.lease("a", lambda: (Weights(), 10)) as again:
            assert again is leased


def test_a_value_larger_than_the_limit_is_held_alone():
    cache = Cache(30)
    held(cache, "a")
    held(cache, "big", 50, expects=50)
    assert cache.keys() == ["big"]
    held(cache, "a")
    assert cache.keys() == ["a"]


def test_unloading_frees():
    cache = Cache(100)
    with cache.lease("a", lambda: (Weights(), 10)) as value:
        seen = weakref.ref(value)
    del value
    held(cache, "b")
    assert cache.unload("a") == 10 and cache.keys() == ["b"]
    assert seen() is None
    assert cache.unload("none") == 0 and cache.unload() == 10 and cache.bytes == 0


def test_what_is_unloaded_while_leased_goes_with_its_last_lease():
    cache = Cache(100)
    with cache.lease("a", lambda: (Weights(), 10)):
        assert cache.unload("a") == 0 and cache.keys() == ["a"]
    assert cache.keys() == []
    with cache.lease("a", lambda: (Weights(), 10)):
        cache.unload("a")
        with cache.lease("a", lambda: (Weights(), 10)):
            pass  # asked for anew, so it stays
    assert cache.keys() == ["a"]


def test_a_load_that_fails_leaves_nothing():
    cache = Cache(100)

    def load() -> tuple[Weights, int]:
        raise OSError("no")

    with pytest.raises(OSError), cache.lease("a", load):
        pass
    held(cache, "a")
    assert cache.keys() == ["a"]


def test_many_threads_get_what_they_ask_for_and_stay_within_the_limit():
    cache, broken = Cache(30), []

    def work(number: int) -> None:
        for turn in range(60):
            key = (number + turn) % 5

            def load(key: int = key) -> tuple[list[int], int]:
                return [key], 10

            with cache.lease(key, load, expects=10) as value:
                if value != [key]:
                    broken.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held(cache, "last", 10, expects=10)
    gc.collect()
    assert broken == [] and cache.bytes <= 30


def test_two_who_ask_at_once_wait_for_one_load():
    cache, loads, started = Cache(100), [], threading.Event()

    def load() -> tuple[str, int]:
        loads.append(1)
        started.wait(5)
        return "value", 1

    got: list[str] = []

    def ask() -> None:
        with cache.lease("a", load) as value:
            got.append(value)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    assert got == ["value"] * 3 and loads == [1]
