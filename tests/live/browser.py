"""A real browser without a window: Chromium, driven by chromedriver. Debian has both as packages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from .process import LIMIT

__all__ = ["Browser", "browser"]

_TRIES = 3
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # of root it has none, and the pages are ours
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
)


class Browser:
    """A browser with one page open."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page, and wait until it has heard from its server."""
        self.driver.get(url)
        self.until(lambda: self.element("#status").text == "live" and self.text("#bus"))

    def until(self, holds: Callable[[], Any]) -> Any:
        """Wait for something to be true, and return it. Elements may be replaced meanwhile."""
        wait = WebDriverWait(self.driver, LIMIT, 0.05, [WebDriverException])
        return wait.until(lambda _: holds())

    def element(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return the text of an element, in sight or not."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def emulate(self, width: int, height: int, scheme: str = "light") -> None:
        """Have a window of this size, and the colours that the user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme_feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_feature)

    def save_to(self, directory: Path) -> None:
        """Save downloads in a directory."""
        self.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(directory)}
        )

    def rows(self) -> list[str]:
        """Return the names of the rows of the tree, from top to bottom."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('#rows .row')].map((row) =>"
            " [...row.querySelectorAll('.topic span')].map((one) => one.textContent).join(' ').trim())"
        )
        return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, or skip the test where there is none."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(paths):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    for option in _OPTIONS:
        options.add_argument(option)
    options.binary_location = str(paths[0])
    driver = _started(options, str(paths[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def _started(options: webdriver.ChromeOptions, path: str) -> webdriver.Chrome:
    """Start chromedriver and Chromium. On a machine too busy for it, that fails after a minute."""
    for _ in range(_TRIES):
        try:
            return webdriver.Chrome(options, webdriver.ChromeService(path), keep_alive=False)
        except WebDriverException as error:
            reason = error.msg
    pytest.skip(f"Chromium does not start: {reason}")
