"""Where buses of this machine are: the roots that processes use, and the buses in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import zbus

from ..roster.location import VERSION

__all__ = ["chosen_by", "is_used", "listening_buses", "other_buses", "own_roots", "used_buses"]

# What a socket of a bus is bound to; it gets its last name afterwards.
_SOCKET = re.compile(rf"^[^/\n]* (/.*)/{VERSION}/([^/\n]+)/[0-9a-f]{{8,32}}\.(?:sock|new)$", re.MULTILINE)


def own_roots() -> Iterator[tuple[str, Path]]:
    """Yield the roots that processes of this user may use, each with what chose it, if this process knows."""
    user, env = os.geteuid(), os.environ
    for name, below in (("ZBUS_DIR", ""), ("XDG_RUNTIME_DIR", "zbus"), ("TMPDIR", f"zbus-{user}")):
        if value := env.get(name):
            yield f"from ${name}", Path(os.path.abspath(value), below)
    yield "by default", Path(f"/tmp/zbus-{user}")
    yield "", Path(f"/run/user/{user}/zbus")


def chosen_by(root: Path, *, given: bool) -> str:
    """Return what chose a root: `" (from $ZBUS_DIR)"`, for example, or nothing if this process does not know.

    Args:
        root: that of a bus.
        given: whether `--dir` named it.
    """
    why = "from --dir" if given else next((why for why, other in own_roots() if why and other == root), "")
    return f" ({why})" if why else ""


def is_used(bus: str, root: Path) -> bool:
    """Return whether somebody alive is on a bus that this process may look at."""
    with suppress(zbus.Error):
        return any(peer.alive for peer in zbus.peers(bus, dir=root))
    return False


def used_buses(root: Path) -> list[str]:
    """Return the names of the buses below a root that somebody is on, sorted."""
    with suppress(OSError):
        return [name for name in sorted(os.listdir(root / VERSION)) if is_used(name, root)]
    return []


def listening_buses() -> Iterator[tuple[str, Path]]:
    """Yield each bus on which somebody listens, also below roots that nothing names: its name and its root.

    The kernel lists all sockets, those in directories that this process may not read, too. Elsewhere than on
    Linux it tells nothing. Anybody can bind a socket, so a name or a root may be nonsense.
    """
    with suppress(OSError):
        text = Path("/proc/net/unix").read_text(errors="replace")  # names are any bytes
        yield from dict.fromkeys((match[2], Path(match[1])) for match in _SOCKET.finditer(text))


def other_buses(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield each bus in use but the one in the directory `path`: its name and its root.

    It looks below the root of `path`, the roots of this user, those of other users that this process may
    read, which root may everywhere, and wherever somebody listens.
    """
    known = [path.parents[1], *(root for _, root in own_roots())]
    for above, pattern in (("/run/user", "*/zbus"), ("/tmp", "zbus-*")):
        known += sorted(Path(above).glob(pattern))
    found = [(name, root) for root in dict.fromkeys(known) for name in used_buses(root)]
    found += ((name, root) for name, root in listening_buses() if root not in known and is_used(name, root))
    yield from ((name, root) for name, root in found if root / VERSION / name != path)
