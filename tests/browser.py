"""A real browser, which records what it asks for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.needs import lacks, needs


@contextmanager
def chromium(*flags: str, downloads: Path | None = None) -> Iterator[Any]:
    """Chromium without a window, driven by selenium; where there is none the test is skipped, with CI set it fails.

    Args:
        flags: of Chromium, beside the usual ones.
        downloads: folder for what it saves.
    """
    webdriver = needs("selenium.webdriver", "dev")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        lacks("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    usual = ("--headless=new", "--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage")
    for flag in (*usual, *flags):
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    if downloads:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
