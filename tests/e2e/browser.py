"""A page of ours in a real browser: headless Chromium, which may reach no network."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains, ScrollOrigin  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
SIZE = (1600, 1000)
PATIENCE = 20  # seconds

Pixel = tuple[int, int, int]


@contextmanager
def chromium() -> Iterator[Any]:
    """A driver; the test is skipped where there is none. The paths are given, so that nobody downloads a driver."""
    browser, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver_path is None:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(executable_path=driver_path))
        try:
            yield driver
        finally:
            driver.quit()


class MemoryPage:
    """A memory page that is open, in the words of its tests. Times in nanoseconds, heights in bytes."""

    def __init__(self, driver: Any, file: Path) -> None:
        self.driver = driver
        self.resize(*SIZE)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        driver.get_log("browser"), driver.get_log("performance")  # of pages before
        driver.get(file.as_uri())
        self.until(lambda: driver.execute_script("return document.body.dataset.ready") == "yes")

    def resize(self, width: int, height: int, ratio: float = 1) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def __getitem__(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def data(self, selector: str) -> dict[str, str]:
        return self.driver.execute_script("return {...document.querySelector(arguments[0]).dataset}", selector)

    def text(self, selector: str) -> str:
        """What an element says, in sight or not."""
        return self.driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)

    def until(self, holds: Callable[[], object]) -> None:
        """Until it holds; an assertion that fails at last says why."""
        WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: holds())

    def settle(self) -> None:
        """Until all that was asked for is painted."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    # -- the timeline ------------------------------------------------------------------------------------------------

    def range(self) -> tuple[float, float]:
        data = self.data("#timeline")
        return float(data["t0"]), float(data["t1"])

    def point(self, time: float, height: float) -> tuple[float, float]:
        """Where the timeline shows it, in CSS pixels from its corner."""
        data = self.data("#timeline")
        x, y, w, h = map(float, data["plot"].split())
        t0, t1, low, high = (float(data[name]) for name in ("t0", "t1", "low", "high"))
        return x + (time - t0) / (t1 - t0) * w, y + h - (height - low) / (high - low) * h

    def pixel(self, time: float, height: float) -> Pixel:
        read = """const [x, y] = arguments, canvas = document.getElementById("timeline");
            const ratio = canvas.width / canvas.clientWidth, one = new OffscreenCanvas(1, 1).getContext("2d");
            one.drawImage(canvas, -Math.floor(x * ratio), -Math.floor(y * ratio));
            return [...one.getImageData(0, 0, 1, 1).data]"""
        red, green, blue, alpha = self.driver.execute_script(read, *self.point(time, height))
        assert alpha == 255
        return red, green, blue

    def mouse(self, time: float, height: float) -> ActionChains:
        return self.mouse_over("#timeline", *self.point(time, height))

    def mouse_over(self, selector: str, x: float, y: float) -> ActionChains:
        element = self[selector]
        size = element.size
        chain = ActionChains(self.driver, duration=0)
        return chain.move_to_element_with_offset(element, round(x - size["width"] / 2), round(y - size["height"] / 2))

    def wheel(self, time: float, height: float, turn: int, *, shift: bool = False) -> None:
        x, y = self.point(time, height)
        size = self["#timeline"].size
        origin = ScrollOrigin.from_element(
            self["#timeline"], round(x - size["width"] / 2), round(y - size["height"] / 2)
        )
        chain = ActionChains(self.driver, duration=0)
        if shift:
            chain.key_down(Keys.SHIFT).scroll_from_origin(origin, 0, turn).key_up(Keys.SHIFT).perform()
        else:
            chain.scroll_from_origin(origin, 0, turn).perform()
        self.settle()

    # -- controls ----------------------------------------------------------------------------------------------------

    def press(self, selector: str) -> None:
        """A button, or the label of a choice."""
        self[f"label:has({selector})" if self[selector].tag_name == "input" else selector].click()
        self.settle()

    def search(self, words: str) -> None:
        box = self["#search"]
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(words or Keys.DELETE)
        self.settle()

    def tag_colour(self, tag: str) -> Pixel:
        """What the legend shows for a tag."""
        find = """const names = [...document.querySelectorAll("#tags .name")];
            const name = names.find((one) => one.textContent === arguments[0]);
            return getComputedStyle(name.querySelector(".swatch")).backgroundColor"""
        colour = self.driver.execute_script(find, tag).removeprefix("rgb(").removesuffix(")")
        red, green, blue = map(int, colour.split(","))
        return red, green, blue

    def rows(self) -> list[tuple[str, ...]]:
        """The rows of the table in sight, as their cells."""
        read = """return [...document.querySelectorAll("#table tbody tr[data-index]")].map((row) =>
            [...row.cells].map((cell) => cell.textContent))"""
        return [tuple(row) for row in self.driver.execute_script(read)]

    def complaints(self) -> list[str]:
        """What the console says since the page was opened, or since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        """The addresses that were asked for since then."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
