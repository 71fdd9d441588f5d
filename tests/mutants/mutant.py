"""A mutant: one fault, and the tests that must catch it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Mutant"]


class Mutant(NamedTuple):
    """One fault in one file of the package.

    Attributes:
        name: of the fault, by which `--only` finds it.
        file: in `zbus/`.
        old: what the code says; exactly once in the file, and as short as that allows.
        new: what it says instead.
        tests: the node ids (or files), below `tests/`, of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, text: str) -> str:
        """Return the file's `text` with the fault in it.

        Raises:
            ValueError: the old text is not there exactly once, or the new one is no Python.
        """
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is {times} times in {self.file}, not once")
        changed = text.replace(self.old, self.new)
        try:
            compile(changed, self.file, "exec")
        except SyntaxError as error:
            raise ValueError(f"{self.name}: {self.file} is no Python any more: {error}") from error
        return changed
