"""Where a bus is, and which error says that it cannot be there."""

from __future__ import annotations

import errno
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from zbus.errors import Error, Invalid, PermissionDenied, Timeout, Unavailable
from zbus.roster import location
from zbus.roster.location import file_errors, locate


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give a copy of the module as it is on macOS."""
    monkeypatch.setattr(sys, "platform", "darwin")
    spec = importlib.util.spec_from_file_location("zbus.roster.elsewhere", location.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_path_is_as_long_as_linux_takes() -> None:
    root = "/" + "x" * (107 - len("//v1/b/0123456789abcdef.sock"))
    assert locate(root, "b") == Path(root, "v1", "b")
    with pytest.raises(Invalid, match="108 bytes of at most 107"):
        locate(root + "x", "b")


def test_a_path_is_shorter_where_the_kernel_takes_less(elsewhere: ModuleType) -> None:
    root = "/" + "x" * (103 - len("//v1/b/0123456789abcdef.sock"))
    assert elsewhere.locate(root, "b") == Path(root, "v1", "b")
    with pytest.raises(Invalid, match="104 bytes of at most 103"):
        elsewhere.locate(root + "x", "b")


@pytest.mark.parametrize("error", [PermissionDenied("no"), Timeout("late"), Unavailable("no"), Invalid("no")])
def test_an_error_of_zbus_is_no_error_of_the_file_system(error: Error) -> None:
    """Though some are an OSError, too."""
    with pytest.raises(Error) as caught, file_errors("open", Path("/x")):
        raise error
    assert caught.value is error


def test_an_error_of_the_file_system_says_what_was_tried() -> None:
    with pytest.raises(Unavailable) as caught, file_errors("open", Path("/x")):
        raise OSError(errno.EFBIG, "no")
    assert caught.value.message == "cannot open /x: File too large"
    assert caught.value.details == {"path": "/x", "errno": errno.EFBIG}
