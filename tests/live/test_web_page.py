"""The page of `zbus web` in a real browser."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import zbus
from zbus.web.server import bound

from .browser import Browser, browser
from .numbers import lose_some
from .pages import Page, serving
from .process import LIMIT

pytestmark = [pytest.mark.usefixtures("zbus_dir"), pytest.mark.timeout(600)]

ESCAPE, ENTER, TAB, LEFT, DOWN = "\ue00c", "\ue007", "\ue004", "\ue012", "\ue015"
# What can be used or has a label, but says no name or no role; and what scrolls, but not by the keyboard.
NAMELESS = """
    const seen = [...document.querySelectorAll('button, input, summary, [tabindex="0"], [role="img"]')];
    const name = (one) => one.ariaLabel || one.getAttribute('aria-labelledby') || one.textContent.trim();
    const bad = seen.filter((one) => !name(one) || (one.localName === 'pre' && !one.role));
    return bad.map((one) => one.outerHTML);
"""
OUT_OF_REACH = """
    const scrolls = (one) => one.checkVisibility() && /auto|scroll/.test(getComputedStyle(one).overflowY);
    const held = '[tabindex="0"], button:not([tabindex="-1"]), input, a[href]';
    return [...document.querySelectorAll('*')].filter((one) => scrolls(one) && !one.matches(held) &&
      !one.querySelector(held)).map((one) => one.outerHTML);
"""
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium: Browser, zbus_dir: str) -> Iterator[Page]:
    """Serve a page and open it, in a window of a desktop."""
    with serving() as page:
        chromium.emulate(1280, 800)
        chromium.open(page.url)
        yield page
        chromium.driver.get("about:blank")


def test_events_show_up_as_a_tree_with_their_values(chromium: Browser, page: Page, bus: zbus.Bus) -> None:
    for system in ("shop.eu.berlin", "shop.eu.paris", "load"):
        bus.send(system, "tick", "/1", {"of": system})
    chromium.until(lambda: chromium.rows() == ["load tick", "shop.eu", "berlin tick", "paris tick"])
    chromium.until(lambda: chromium.text("#rows .row .value") == '{"of":"load"}')
    bus.send("load", "tick", "/1", "another")
    chromium.until(lambda: chromium.text("#rows .row .value") == '"another"')
    chromium.until(lambda: chromium.text("#rows .row .ends") == "1 → 1")


def test_what_comes_from_the_bus_is_text(chromium: Browser, page: Page, bus: zbus.Bus) -> None:
    bus.send("shop", HOSTILE, HOSTILE, HOSTILE)
    chromium.until(lambda: chromium.text("#rows .row .value") == json.dumps(HOSTILE))
    chromium.element("#rows .row").click()
    chromium.until(lambda: json.dumps(HOSTILE) in chromium.text("#detail pre"))
    assert HOSTILE in chromium.text("#detail h2")
    chromium.element("#tab-graph").click()
    chromium.until(lambda: HOSTILE in chromium.text("#graph svg"))
    assert chromium.run("return document.querySelectorAll('img').length") == 0
    assert chromium.driver.title.startswith("default ")


def test_the_browser_asks_no_other_host_and_makes_no_html(chromium: Browser, page: Page) -> None:
    asked = chromium.run(
        "return performance.getEntriesByType('resource').filter((one) => !one.name.startsWith(origin)).length"
    )
    assert asked == 0
    refused = chromium.driver.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective));"
        "fetch('http://127.0.0.2:9/').catch(() => {});"
    )
    assert refused == "connect-src"
    error = chromium.run("try { document.body.innerHTML = '<b>'; } catch (error) { return error.name; }")
    assert error == "TypeError"
    assert "ended" not in chromium.text("#status")


def test_it_can_be_used_with_the_keyboard_alone(chromium: Browser, page: Page, bus: zbus.Bus) -> None:
    for system in ("a.b", "a.c", "d"):
        bus.send(system, "k", "/1", system)
    whole = ["a", "b k", "c k", "d k"]
    chromium.until(lambda: chromium.rows() == whole)
    chromium.press("/", "d")
    chromium.until(lambda: chromium.rows() == ["d k"])
    assert chromium.run("return document.activeElement.id") == "search"
    chromium.press(ESCAPE)
    chromium.until(lambda: chromium.rows() == whole)
    assert chromium.run("return document.activeElement.id") == "grid"
    chromium.press("\ue011", LEFT)  # Home
    chromium.until(lambda: chromium.rows() == ["a", "d k"])
    assert chromium.element("#rows .row").get_attribute("aria-expanded") == "false"
    chromium.press(DOWN, ENTER)
    chromium.until(lambda: '"d"' in chromium.text("#detail pre"))
    chromium.press(TAB, ENTER)  # its button
    chromium.until(lambda: not chromium.element("#detail").is_displayed())
    assert chromium.run("return document.activeElement.id") == "grid"
    chromium.press(ENTER)
    chromium.until(lambda: chromium.element("#detail").is_displayed())
    chromium.press(ESCAPE)
    chromium.until(lambda: not chromium.element("#detail").is_displayed())
    chromium.press("s")
    assert chromium.text("#columns [aria-sort]") == "Events/s"
    chromium.press("2")
    chromium.until(lambda: chromium.element("#members").is_displayed())
    chromium.press("?")
    chromium.until(lambda: chromium.element("#keys").is_displayed())


def test_a_screen_reader_is_told_what_things_are(chromium: Browser, page: Page, bus: zbus.Bus) -> None:
    """What axe-core has found, and what it would."""
    bus.send("a", "k", "/1", 1)
    chromium.until(lambda: chromium.rows() == ["a k"])
    chromium.element("#rows .row").click()
    chromium.until(lambda: chromium.text("#detail pre") == "1")
    active = "document.getElementById('grid').getAttribute('aria-activedescendant')"
    assert chromium.run(f"return document.getElementById({active}).role") == "row"
    for view in ("topics", "members", "graph"):
        chromium.element(f"#tab-{view}").click()
        chromium.until(lambda view=view: len(chromium.text(f"#{view}")) > 40)
        assert chromium.run(NAMELESS) == []
        assert chromium.run(OUT_OF_REACH) == []


def test_a_pause_leaves_what_is_shown(chromium: Browser, page: Page, bus: zbus.Bus) -> None:
    bus.send("a", "k", "/1", 1)
    chromium.until(lambda: chromium.text("#rows .row .value") == "1")
    chromium.press(" ")
    chromium.until(lambda: chromium.text("#status") == "paused")
    bus.send("a", "k", "/1", 2)
    with page.events() as messages:
        assert next(row for told in messages for row in told["topics"] if row[9] == "2")  # others have it
    assert chromium.text("#rows .row .value") == "1"
    chromium.press(" ")
    chromium.until(lambda: chromium.text("#rows .row .value") == "2")


def test_members_and_the_graph_show_losses(chromium: Browser, page: Page, bus: zbus.Bus) -> None:
    with bus.subscribe("a", capacity=5) as sub:
        lose_some(bus, sub, "a", "k")
        chromium.until(lambda: chromium.element("#rows .row .ends.lost"))
        chromium.press("2")
        chromium.until(lambda: chromium.text("#members .lost") != "")
        assert "this page" in chromium.text("#members tbody")
        chromium.press("3")
        chromium.until(lambda: "lost" in chromium.text("#graph text.lost"))
        assert "a k" in chromium.text("#graph svg")


def test_what_is_shown_can_be_saved(chromium: Browser, page: Page, bus: zbus.Bus, tmp_path: Path) -> None:
    bus.send("a", "k", "/1", {"x": [1, None]})
    bus.send("b", "k", "=1+1", "=2+2")
    chromium.until(lambda: chromium.rows() == ["a k", "b k"])
    chromium.save_to(tmp_path)
    saved = {name: tmp_path / f"zbus-default-topics.{name}" for name in ("jsonl", "csv")}
    for button in ("json", "csv"):
        chromium.element("#export summary").click()
        chromium.element(f"#export-{button}").click()
    chromium.until(lambda: all(file.exists() for file in saved.values()))
    rows = [json.loads(line) for line in saved["jsonl"].read_text().splitlines()]
    assert [(row["system"], row["path"], row["data"]) for row in rows] == [
        ("a", "/1", {"x": [1, None]}),
        ("b", "=1+1", "=2+2"),
    ]
    first, second = csv.DictReader(saved["csv"].read_text().splitlines())
    assert (first["system"], first["received"], json.loads(first["data"])) == ("a", "1", {"x": [1, None]})
    assert (second["path"], second["data"]) == ("'=1+1", "'=2+2")  # no formulas


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_window(chromium: Browser, page: Page, bus: zbus.Bus, width: int) -> None:
    bus.send(".".join(["system"] * 12), "kind" * 10, "/path" * 40, "value" * 1_000)
    chromium.emulate(width, 740)
    for view in ("topics", "members", "graph"):
        chromium.element(f"#tab-{view}").click()
        chromium.until(lambda view=view: len(chromium.text(f"#{view}")) > 60)
        assert chromium.run("return document.documentElement.scrollWidth") <= width
        assert chromium.run("return document.querySelector('main').scrollWidth") <= width
    chromium.element("#tab-topics").click()
    chromium.element("#rows .row").click()
    chromium.until(lambda: "value" in chromium.text("#detail pre"))
    assert chromium.run("return document.documentElement.scrollWidth") <= width


def test_it_is_light_or_dark_as_the_user_prefers(chromium: Browser, page: Page) -> None:
    script = "return getComputedStyle(document.body).backgroundColor"
    chromium.emulate(1280, 800, "light")
    chromium.until(lambda: chromium.run(script) == "rgb(255, 255, 255)")
    chromium.emulate(1280, 800, "dark")
    chromium.until(lambda: chromium.run(script) == "rgb(19, 23, 26)")


def test_it_says_when_the_command_has_ended(chromium: Browser, page: Page) -> None:
    chromium.emulate(360, 740)
    page.process.terminate()
    chromium.until(lambda: chromium.text("#status") == "no answer: has zbus web ended?")
    assert chromium.run("return document.documentElement.scrollWidth") <= 360


def reserved_port() -> int:
    """Return a free port that nobody gets who asks for any, so that it stays free."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(zbus.Unavailable), bound(port):
            return port
    raise AssertionError("no port is free")


def test_it_goes_on_where_the_command_does_and_says_so_if_it_may_not(chromium: Browser) -> None:
    with serving("--no-token", port=reserved_port()) as page:
        chromium.open(page.url)
        page.process.kill()
        page.process.wait(LIMIT)
        chromium.until(lambda: chromium.text("#status") == "no answer: has zbus web ended?")
        with serving("--no-token", port=page.port) as another:
            chromium.until(lambda: chromium.text("#status") == "live")
            another.process.kill()
            another.process.wait(LIMIT)
        with serving(port=page.port):
            chromium.until(lambda: chromium.text("#status") == "ended: start zbus web again")
        chromium.driver.get("about:blank")
