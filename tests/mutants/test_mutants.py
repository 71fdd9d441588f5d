"""The mutants keep up with the code: each applies, and the tests that must catch it are there."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from . import MUTANTS
from .harness import CAUGHT, CHECKOUT, MISSED, STALE, Tree
from .mutant import Mutant


def test_every_mutant_applies_to_the_code_of_today() -> None:
    stale = []
    for mutant in MUTANTS:
        text = (CHECKOUT / "zbus" / mutant.file).read_text(encoding="utf-8")
        try:
            assert mutant.apply(text) != text, mutant.name
        except ValueError as error:
            stale.append(str(error))
    assert stale == []


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_bytes())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_tests_that_must_catch_them_are_there() -> None:
    for mutant in MUTANTS:
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            file, _, name = test.partition("::")
            there = functions(CHECKOUT / "tests" / file)
            assert name.partition("[")[0] in there if name else there, (mutant.name, test)


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert [name for name, times in Counter(mutant.name for mutant in MUTANTS).items() if times > 1] == []


def test_a_tree_tells_what_is_caught_from_what_is_not() -> None:
    """In a copy: the checkout stays as it is."""
    test = ("unit/test_timeouts.py::test_none_is_for_ever",)
    right = Mutant("none is at once", "options.py", "return inf\n    if", "return 0.0\n    if", test)
    before = (CHECKOUT / "zbus" / right.file).read_bytes()
    tree = Tree()
    try:
        assert tree.failing(test) == set()
        assert tree.judge(right).what == CAUGHT
        harmless = right._replace(old="Return `timeout` in seconds; `None` is infinite.", new="")
        assert tree.judge(harmless).what == MISSED
        assert tree.judge(right._replace(old="no such text")).what == STALE
        assert tree.judge(right._replace(new="return (\n    if")).what == STALE
        assert (tree.root / "zbus" / right.file).read_bytes() == before
    finally:
        tree.close()
    assert (CHECKOUT / "zbus" / right.file).read_bytes() == before
