"""The type of progress functions, which wrap an iterable of known length, e.g. in a progress bar, and yield its items."""

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def no_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The items, without showing progress."""
    return items
