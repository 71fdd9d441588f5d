"""What to say if nobody is on a bus: most often another bus, or another directory, was meant."""

from __future__ import annotations

from pathlib import Path

import click

from ..observe.places import is_used, own_roots, used_buses

__all__ = ["nobody"]

_OTHERS_NAMED = 5


def nobody(ctx: click.Context, bus: str, path: Path) -> str:
    """Return a message that nobody is on a bus: where it was looked for and why, and where somebody is."""
    given = ctx.get_parameter_source("directory") is click.core.ParameterSource.COMMANDLINE
    root, roots = path.parents[1], [*own_roots()]
    why = "from --dir" if given else next((why for why, other in roots if why and other == root), "")
    said = [f"nobody is on bus {bus} in {path}" + (f" ({why})" if why else "")]
    elsewhere = dict.fromkeys(str(other) for _, other in roots if other != root and is_used(bus, other))
    said += [f"somebody is in {other}: zbus ls --dir {other}" for other in elsewhere]
    if names := [name for name in used_buses(root) if name != bus]:
        more = ", …" if len(names) > _OTHERS_NAMED else ""
        said.append(f"somebody is on {', '.join(names[:_OTHERS_NAMED])}{more}: zbus ls --bus NAME")
    return "; ".join(said)
