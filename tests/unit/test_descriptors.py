"""The limit of open files is raised as far as the kernel lets it, and no further is tried."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from zbus.errors import Unavailable
from zbus.runtime import descriptors

UNLIMITED = resource.RLIM_INFINITY


class Kernel:
    """Takes a soft limit up to `most`, and refuses more as macOS does, or as Python says it for it."""

    def __init__(self, soft: int, hard: int, most: int, error: Exception) -> None:
        self.limits = soft, hard
        self._most = most
        self._error = error
        self.asked: list[tuple[int, int]] = []

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        self.asked.append(limits)
        soft, hard = limits
        if soft == UNLIMITED or soft > self._most or (hard != UNLIMITED and soft > hard):
            raise self._error
        self.limits = limits


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError(22, "no")])
@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [
        (256, 4096, 1 << 30, 4096),
        (4096, 4096, 1 << 30, 4096),
        (256, UNLIMITED, 245_760, 65_536),
        (256, UNLIMITED, 10_240, 10_240),
        (256, UNLIMITED, 2_000_000, 1_048_576),
        (100_000, UNLIMITED, 100_000, 100_000),
        (256, UNLIMITED, 256, 256),
        (UNLIMITED, UNLIMITED, 10_240, UNLIMITED),
        (256, 1 << 30, 10_240, 10_240),
    ],
)
def test_the_limit_goes_as_high_as_the_kernel_takes_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception, soft: int, hard: int, most: int, raised: int
) -> None:
    kernel = Kernel(soft, hard, most, error)
    monkeypatch.setattr(resource, "getrlimit", kernel.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", kernel.setrlimit)
    descriptors.raise_limit()
    assert kernel.limits == (raised, hard)
    assert all(hard_asked == hard for _, hard_asked in kernel.asked), "the hard limit stays"


def test_no_limit_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (UNLIMITED, UNLIMITED))
    descriptors.check_headroom(1_000_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_000, UNLIMITED))
    with pytest.raises(Unavailable, match="of 1000 file descriptors"):
        descriptors.check_headroom(1_000)


def test_when_none_is_left_all_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the listing tells then."""

    def listdir(_: str) -> list[str]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 4096))
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(Unavailable, match="200 of 200 file descriptors are in use") as caught:
        descriptors.check_descriptors(1)
    assert caught.value.retryable
    with pytest.raises(Unavailable, match="200 of 200 file descriptors are in use"):
        descriptors.check_headroom(1)
