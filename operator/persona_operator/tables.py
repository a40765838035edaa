"""Values by namespace and name that are found again by any number of other keys."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Identity = tuple[str, str]
"""Namespace and name."""
Value = TypeVar("Value")


class Table(Generic[Value]):
    """Values and the keys under which each of them is found; a look-up walks no other values."""

    def __init__(self) -> None:
        self._values: dict[Identity, Value] = {}
        self._keys: dict[Identity, tuple[Hashable, ...]] = {}
        self._at: dict[Hashable, dict[Identity, None]] = {}

    def get(self, at: Identity) -> Value | None:
        """Return one value, None where there is none."""
        return self._values.get(at)

    def put(self, at: Identity, value: Value, keys: Iterable[Hashable]) -> None:
        """Add a value, or replace the former one and its keys."""
        self.remove(at)
        self._values[at] = value
        self._keys[at] = tuple(keys)
        for key in self._keys[at]:
            self._at.setdefault(key, {})[at] = None

    def remove(self, at: Identity) -> None:
        """Remove a value, if there is one."""
        self._values.pop(at, None)
        for key in self._keys.pop(at, ()):
            found = self._at[key]
            del found[at]
            if not found:
                del self._at[key]

    def find(self, key: Hashable) -> dict[Identity, Value]:
        """Return the values of a key, the oldest entry first."""
        return {at: self._values[at] for at in self._at.get(key, ())}

    def count(self, key: Hashable) -> int:
        """Return the number of values of a key."""
        return len(self._at.get(key, ()))

    def identities(self) -> list[Identity]:
        """Return what all values are called."""
        return list(self._values)
