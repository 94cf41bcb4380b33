"""A real browser without a window: Debian's chromium, through its chromedriver."""

import contextlib
import json
import shutil

from selenium import webdriver

PROGRAMS = ("chromium", "chromedriver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have little of it
    "--window-size=1200,900",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",  # where a click scrolls, it is there at once
)


def missing():
    """The programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextlib.contextmanager
def opened(profile_dir):
    """A browser with a fresh profile, which keeps every line that pages write to its console."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which(PROGRAMS[0])
    for flag in (*_FLAGS, f"--user-data-dir={profile_dir}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which(PROGRAMS[1]))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(60)
        driver.get("about:blank")  # ends the loading of the browser's own first page
        yield driver
    finally:
        driver.quit()


def load(driver, path):
    """Opens a file; what an earlier page has left in the logs is forgotten."""
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(path.as_uri())


def requested(driver):
    """Every address that the page has asked for, what it holds itself left out."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    addresses = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return {address for address in addresses if not address.startswith("data:")}


@contextlib.contextmanager
def screen(driver, width):
    """A screen so many pixels wide, until the block ends; a narrow one is a telephone's."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
