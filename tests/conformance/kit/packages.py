"""Installs what peers need on a Debian machine, if this is one and the user is root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from .manifest import Manifest

__all__ = ["install"]


def install(peers: Iterable[Manifest]) -> None:
    """Install the packages of peers that miss something. Says what it does, and if it fails."""
    wanted = sorted({package for peer in peers if peer.missing_at_all() for package in peer.debian})
    if not wanted or os.geteuid() or shutil.which("apt-get") is None:
        return
    print(f"installing {' '.join(wanted)}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--no-install-recommends", *wanted]):
        done = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}", file=sys.stderr)
