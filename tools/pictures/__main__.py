"""Write the pictures and outputs that the docs show, from a small shop on a bus of its own.

    python tools/pictures          docs/pictures/*, and the outputs in docs/tools.md
    python tools/pictures web      only those of the page of `zbus web`
    python tools/pictures tools    only the others

Needs chromium and chromedriver, and the extra `dev`. It measures, so run it on an idle machine.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.live.browser import Browser, browser  # noqa: E402
from tests.live.pages import serving  # noqa: E402
from tests.live.shop import says, shop  # noqa: E402
from tools.pictures.terminal import draw as draw_terminal  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "tools.md"
OUTPUT = re.compile(r"(?<=^```console\n)\$ (.*)\n(?:.*\n)*?(?=```$)", re.MULTILINE)
SETTLED_SECONDS = 8.0  # rates and losses of a shop that has been open for a while


def draw(page: Browser, name: str) -> None:
    """Save what the page shows."""
    page.driver.save_screenshot(str(PICTURES / f"{name}.png"))


def draw_web() -> None:
    """Draw the page of `zbus web`."""
    with serving() as served, browser() as page:
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
        page.emulate(1180, 660)
        page.press("3")
        page.until(lambda: page.element("#graph text.lost"))
        draw(page, "web-graph")
        page.emulate(360, 640, "dark")
        page.press("1")
        page.until(lambda: page.element("#rows .row"))
        draw(page, "web-phone")


def draw_tools(env: dict[str, str], directory: Path) -> None:
    """Draw what commands show, and write the outputs into the page."""
    draw_terminal(PICTURES / "top.svg", "zbus top", "top", "--once")
    says(f"zbus graph --output {PICTURES}/graph.svg", env, directory)

    def shown(found: re.Match[str]) -> str:
        return f"$ {found[1]}\n{says(found[1], env, directory).rstrip()}\n".replace("\n\n", "\n")

    PAGE.write_text(OUTPUT.sub(shown, PAGE.read_text()))
    shutil.copy(directory / "latency.svg", PICTURES)


def main(*names: str) -> None:
    """Write the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="zb-") as place, shop(Path(place)) as env:
        os.environ |= env
        time.sleep(SETTLED_SECONDS)
        if not names or "web" in names:
            draw_web()
        if not names or "tools" in names:
            draw_tools(env, Path(place))


if __name__ == "__main__":
    main(*sys.argv[1:])
