"""A headless browser: one of this machine's, or playwright's own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Chromium; without a browser the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}, nor playwright's own")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


def fits(page: Any) -> bool:
    """No part of the page lies beside the screen."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def is_dark(colour: str) -> bool:
    """Of a computed style: `rgb(20, 24, 28)`."""
    return sum(map(int, colour[4:-1].split(","))) < 3 * 128
