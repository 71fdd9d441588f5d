"""What exists once, in one process: it cannot be copied, nor sent to another."""

from __future__ import annotations

from typing import ClassVar, NoReturn

__all__ = ["Uncopyable"]


class Uncopyable:
    """Refuses what `copy`, `pickle` and so `multiprocessing` would do with it. A subclass may know better."""

    _instead: ClassVar[str]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or sent to another process: {self._instead}"
        )
