"""A small shop on a bus of its own: one service loses events, and one gets none because of a letter case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .recordings import until

__all__ = ["says", "shop"]

_RECORDED = 10

_PROGRAMS = {
    "shop.py": """
        for number in range(10**9):
            city = ("eu.berlin", "eu.paris", "us.boston")[number % 3]
            bus.send(f"orders.{city}", "order.created", f"/orders/{number}", {"total": 9.5 + number % 90})
            time.sleep(0.05)
    """,
    "pay.py": """
        for evt in bus.subscribe("orders.**"):
            bus.send("payments", "paid", evt.path, {"total": evt.data["total"]})
            if evt.seq % 5 == 0:
                bus.send("payments", "refused", evt.path, {"reason": "card expired"})
    """,
    "mailer.py": """
        for evt in bus.subscribe("payments"):
            pass
    """,
    "audit.py": """
        for evt in bus.subscribe("Orders.**"):  # nothing arrives
            pass
    """,
    "market.py": """
        for number in range(10**9):
            for share in ("aapl", "msft", "sap"):
                data = {"price": 100 + number % 70 / 10, "volume": number % 900}
                bus.send(f"market.{share}", "trade", f"/{share}", data)
            time.sleep(0.01)
    """,
    "chart.py": """
        for evt in bus.subscribe("market.**", capacity=5):  # loses most
            time.sleep(0.1)
    """,
}


@contextmanager
def shop(directory: Path) -> Iterator[dict[str, str]]:
    """Run the programs on the bus `shop` below `directory`; yield an environment in which `zbus` sees it."""
    place = directory / "bin"
    place.mkdir()
    command = place / "zbus"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m zbus "$@"\n')
    command.chmod(0o755)
    env = {
        **os.environ,
        "ZBUS_DIR": str(directory / "buses"),
        "ZBUS_BUS": "shop",
        "PATH": f"{place}:{os.environ['PATH']}",
    }
    with ExitStack() as stack:
        for name, body in _PROGRAMS.items():
            program = place / name
            lines = "\n".join(line[4:] for line in body.splitlines())
            program.write_text(f"import time\nimport zbus\n\nwith zbus.Bus() as bus:\n{lines}\n")
            process = stack.enter_context(
                subprocess.Popen([sys.executable, program], env=env, stderr=subprocess.DEVNULL)
            )
            stack.callback(process.terminate)
        yield env


def says(command: str, env: dict[str, str], directory: Path) -> str:
    """Run a line of a shell; return what a terminal would show. A command without an end gets Ctrl-C."""
    process = subprocess.Popen(
        ["sh", "-c", command if "|" in command else f"exec {command}"],
        env=env,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said += line
                if line.startswith("zbus: recording "):
                    until(directory / line.split()[-1], _RECORDED)
                elif not line.startswith("zbus: serving "):
                    continue
                process.send_signal(signal.SIGINT)
                said += "^C\n"
        finally:
            process.kill()
    return said
