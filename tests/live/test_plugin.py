"""The pytest plugin is loaded by every run of pytest, and imports zbus when a test asks for it."""

from __future__ import annotations

import pytest

UNUSED = """
import sys

def test_nothing_is_imported():
    assert "zbus_pytest" in sys.modules
    assert not {name.partition(".")[0] for name in sys.modules} & {"zbus", "zmq", "orjson"}
"""
USED = """
import sys

def test_a_fixture_imports_it(zbus_bus, zbus_capture):
    import zbus
    zbus.send("orders", "order.created", "/orders/1")
    assert zbus_capture == [("orders", "order.created", "/orders/1", None)]
"""


def test_pytest_imports_nothing_of_zbus_until_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_1_unused=UNUSED, test_2_used=USED)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("name", ["zbus", "zbus.testing"])
def test_the_plugin_can_be_named_where_none_is_loaded_by_itself(
    name: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(USED)
    result = pytester.runpytest_subprocess("-p", name, "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
