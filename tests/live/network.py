"""A network of its own for one program, whose cable can be cut. It takes root, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

__all__ = ["Network", "network"]

_TOOLS = "ip", "nsenter", "unshare"


class Network:
    """A network namespace, joined to this one by a cable.

    Attributes:
        host: its address, for programs outside.
        within: a command that runs another command inside.
    """

    def __init__(self, holder: int) -> None:
        """Lay the cable to the namespace of a process.

        Raises:
            CalledProcessError: it is not allowed here.
        """
        number = secrets.randbelow(1 << 14)
        near, self.host = (f"198.18.{number >> 6}.{(number & 63) * 4 + end}" for end in (1, 2))
        self._inside = f"zin{number}"
        outside = f"zout{number}"
        self.within = ("nsenter", f"--net=/proc/{holder}/ns/net")
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", self._inside, "netns", str(holder))
        for within, name, address in ((), outside, near), (self.within, self._inside, self.host):
            _run(*within, "ip", "address", "add", f"{address}/30", "dev", name)
            _run(*within, "ip", "link", "set", name, "up")
        # A neighbour that is known is not asked for, so that nobody is told that it does not answer.
        hardware = json.loads(_run(*self.within, "ip", "-json", "link", "show", self._inside))[0]["address"]
        _run("ip", "neighbour", "replace", self.host, "lladdr", hardware, "dev", outside, "nud", "permanent")

    def cut(self) -> None:
        """Have all that is sent vanish, both ways: connections hang, and nobody is told."""
        _run(*self.within, "ip", "link", "set", self._inside, "down")

    def mend(self) -> None:
        """Join the cable again."""
        _run(*self.within, "ip", "link", "set", self._inside, "up")


@contextlib.contextmanager
def network() -> Iterator[Network | None]:
    """Yield a network that ends with the process that holds it; `None` if this machine does not allow one."""
    if os.geteuid() or not all(map(shutil.which, _TOOLS)):
        yield None
        return
    command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        found = None
        if holder.stdout.readline():
            with contextlib.suppress(subprocess.CalledProcessError):
                found = Network(holder.pid)
        try:
            yield found
        finally:
            holder.stdin.close()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
