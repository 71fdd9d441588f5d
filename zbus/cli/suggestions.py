"""What the shell offers at Tab where click does not know it: names of buses and of members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

import zbus

from ..observe.places import used_buses
from ..roster.location import default_root

__all__ = ["bus_names", "member_names"]


def bus_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of the buses that somebody is on, below the root that `--dir` names."""
    root = context.params.get("directory")
    with suppress(OSError, zbus.Error):
        return _beginning(begun, used_buses(Path(root) if root else default_root()))
    return []


def member_names(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of the programs on the bus that `--bus` and `--dir` name."""
    named = context.params
    with suppress(OSError, zbus.Error):
        return _beginning(begun, _programs(named.get("bus") or None, named.get("directory")))
    return []


def _programs(bus: str | None, root: str | None) -> Iterator[str]:
    return (peer.process for peer in zbus.peers(bus, dir=root) if peer.alive and peer.role == "member")


def _beginning(begun: str, names: Iterator[str] | list[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(begun)})
