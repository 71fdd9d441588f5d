"""What to say if nobody is on a bus: most often another bus, or another directory, was meant."""

from __future__ import annotations

from pathlib import Path

from ..observe.places import chosen_by, is_used, own_roots, used_buses
from .options import on_the_command_line

__all__ = ["nobody"]

_OTHERS_NAMED = 5


def nobody(bus: str, path: Path) -> str:
    """Return a message that nobody is on a bus: where it was looked for and why, and where somebody is."""
    root = path.parents[1]
    said = [f"nobody is on bus {bus} in {path}{chosen_by(root, given=on_the_command_line('directory'))}"]
    elsewhere = dict.fromkeys(str(other) for _, other in own_roots() if other != root and is_used(bus, other))
    said += [f"somebody is in {other}: zbus ls --dir {other}" for other in elsewhere]
    if names := [name for name in used_buses(root) if name != bus]:
        more = ", …" if len(names) > _OTHERS_NAMED else ""
        said.append(f"somebody is on {', '.join(names[:_OTHERS_NAMED])}{more}: zbus ls --bus NAME")
    return "; ".join(said)
