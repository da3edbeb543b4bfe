"""Models in memory, up to a number of bytes. Knows nothing of what it holds but how large it is.

with cache.lease(key, load) as model: ...      # nothing takes the model away until the block ends
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass
class _Held:
    value: Any
    bytes: int
    leases: int = 0
    unwanted: bool = False


class Cache:
    """Values by key, the least recently used dropped first. Safe to use from several threads; loads one value at a time, so that
    two loads never share the memory that was freed for one."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes. One value larger than that is held all the same, alone."""
        self.limit = limit
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @contextmanager
    def lease(self, key: Hashable, load: Callable[[], tuple[Value, int]], *, expects: int = 0) -> Iterator[Value]:
        """The value for `key`, which stays in memory until the block ends.

        When it is not there, others make room for `expects` bytes (the size of the file, say) before `load` gives the value and
        its size in bytes. What `load` raises is raised here, and nothing is kept.
        """
        held = self._taken(key)
        if held is None:
            with self._loading:
                held = self._taken(key) or self._loaded(key, load, expects)
        try:
            yield held.value
        finally:
            self._give_back(key, held)

    def unload(self, key: Hashable | None = None) -> int:
        """Drop the value of `key`, or all values. A leased one goes when its last lease ends. Returns the bytes that were dropped
        now."""
        with self._lock:
            keys = [one for one in self._held if key is None or one == key]
            for one in keys:
                self._held[one].unwanted = True
            dropped = self._drop([one for one in keys if not self._held[one].leases])
        _free(dropped)
        return dropped

    @property
    def bytes(self) -> int:
        """Size of all that is held."""
        with self._lock:
            return self._bytes()

    def sizes(self) -> dict[Hashable, int]:
        """Bytes of each value that is held, the least recently used first."""
        with self._lock:
            return {key: held.bytes for key, held in self._held.items()}

    def keys(self) -> list[Hashable]:
        """What is held, the least recently used first."""
        with self._lock:
            return list(self._held)

    def _taken(self, key: Hashable) -> _Held | None:
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                held.leases += 1
                held.unwanted = False
                self._held.move_to_end(key)
            return held

    def _loaded(self, key: Hashable, load: Callable[[], tuple[Value, int]], expects: int) -> _Held:
        self._make_room(expects)
        value, size = load()
        held = _Held(value, size, leases=1)
        with self._lock:
            self._held[key] = held
        self._make_room(0)
        return held

    def _make_room(self, expects: int) -> None:
        """Drop what nobody uses, the least recently used first, until `expects` more bytes are within the limit."""
        with self._lock:
            dropped = 0
            for key in [key for key, held in self._held.items() if not held.leases]:
                if self._bytes() + expects <= self.limit:
                    break
                dropped += self._drop([key])
        _free(dropped)

    def _give_back(self, key: Hashable, held: _Held) -> None:
        with self._lock:
            held.leases -= 1
            gone = held.unwanted and not held.leases and self._held.get(key) is held
            dropped = self._drop([key]) if gone else 0
        _free(dropped)

    def _drop(self, keys: list[Hashable]) -> int:
        return sum(self._held.pop(key).bytes for key in keys)

    def _bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())


def _free(dropped: int) -> None:
    """Give memory back to the system, and to the graphics card's other users, after something was dropped."""
    if not dropped:
        return
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
