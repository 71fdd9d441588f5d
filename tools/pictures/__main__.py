"""Write the pictures that the docs show, from a small shop on a bus of its own: docs/pictures/*.png.

    python tools/pictures

Needs chromium and chromedriver, and the extras `web` and `dev`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.live.browser import Browser, browser  # noqa: E402
from tests.live.pages import serving  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
PROGRAMS = {
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
    "market.py": """
        for number in range(10**9):
            for share in ("aapl", "msft", "sap"):
                data = {"price": 100 + number % 70 / 10, "volume": number % 900}
                bus.send(f"market.{share}", "trade", f"/{share}", data)
            time.sleep(0.01)
    """,
    "chart.py": """
        for evt in bus.subscribe("market.**", capacity=5):
            time.sleep(0.1)
    """,
}


@contextmanager
def shop() -> Iterator[None]:
    """Run the programs on a bus in a directory of its own, which `$ZBUS_DIR` names."""
    with TemporaryDirectory(prefix="zb-") as directory, ExitStack() as stack:
        os.environ["ZBUS_DIR"] = directory
        for name, body in PROGRAMS.items():
            program = Path(directory, name)
            lines = "\n".join(line[4:] for line in body.splitlines())
            program.write_text(f"import time\nimport zbus\n\nwith zbus.Bus('shop') as bus:\n{lines}\n")
            process = stack.enter_context(subprocess.Popen([sys.executable, program]))
            stack.callback(process.terminate)
        yield


def draw(page: Browser, name: str) -> None:
    """Save what the page shows."""
    page.driver.save_screenshot(str(PICTURES / f"{name}.png"))


def main() -> None:
    """Write the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with shop(), serving("--bus", "shop") as served, browser() as page:
        page.emulate(1180, 560)
        page.open(served.url)
        page.until(lambda: page.element("#rows .ends.lost"))
        page.until(lambda: len([*page.driver.find_elements("css selector", "#rows .row:not(.silent)")]) >= 8)
        draw(page, "web-topics")
        page.emulate(1180, 560, "dark")
        rows = page.driver.find_elements("css selector", "#rows .row")
        next(row for row in rows if "paid" in row.text).click()
        page.until(lambda: "total" in page.text("#detail pre"))
        draw(page, "web-topic-dark")
        page.press("\ue00c")
        page.emulate(1180, 560)
        page.press("3")
        page.until(lambda: page.element("#graph text.lost"))
        draw(page, "web-graph")
        page.emulate(360, 640, "dark")
        page.press("1")
        page.until(lambda: page.element("#rows .row"))
        draw(page, "web-phone")


if __name__ == "__main__":
    main()
