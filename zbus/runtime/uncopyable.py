"""Objects that exist once, in one process: they cannot be copied or sent to another process."""

from __future__ import annotations

from typing import ClassVar, NoReturn

__all__ = ["Uncopyable"]


class Uncopyable:
    """Makes `copy`, `pickle` and so `multiprocessing` refuse an object; `_instead` says what to do."""

    _instead: ClassVar[str]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or sent to another process: {self._instead}"
        )
