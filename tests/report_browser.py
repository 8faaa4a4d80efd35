"""A page of `qamro-report` in headless Chromium, and axe-core: for tests, and to take pictures."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

#: Names that would break a page that took them for anything but text.
HOSTILE = ['</script><script>alert("1")</script>', "\u05e9\u05dc\u05d5\u05dd <b>&amp;",
           "'\"><img src=x>", "n" * 300, "a\u202eb ${x} {{ 7*7 }}"]  # fmt: skip


def rename_clips(run):
    """Call the clips, systems and groups of a run's folder by hostile names."""
    table = pd.read_csv(run / "predictions.csv", keep_default_na=False)
    for column in ("clip_id", "system", "group"):
        names = table[column].map({n: k for k, n in enumerate(dict.fromkeys(table[column]))})
        table[column] = [f"{HOSTILE[k % len(HOSTILE)]}{k}" for k in names]
    table.to_csv(run / "predictions.csv", index=False)
    for file in ("metrics.json", "config.json"):
        record = (run / file).read_text()
        for k in range(5):
            record = record.replace(f'"system": "S{k}"', f'"system": {json.dumps(HOSTILE[k])}')
        (run / file).write_text(record.replace('"tiny"', json.dumps(HOSTILE[0])))


def start_chromium():
    """Start it; the test is skipped where it, its driver or selenium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which("chromium") or shutil.which("google-chrome"),
                shutil.which("chromedriver")]  # fmt: skip
    if not all(programs):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    # Silence is decoded as fast as it comes, with no sound card at all.
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--autoplay-policy=no-user-gesture-required", "--mute-audio"):  # fmt: skip
        options.add_argument(word)
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))


class Browser:
    """A page at a width, light or dark."""

    def __init__(self):
        self.driver = start_chromium()

    def open(self, page, width=1440, dark=False):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(Path(page).as_uri())

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def complaints(self):
        """What the console says; the log is emptied."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """The addresses that were asked for since the last call, but for what the page holds."""
        events = [json.loads(entry["message"])["message"]
                  for entry in self.driver.get_log("performance")]  # fmt: skip
        urls = [event["params"]["request"]["url"] for event in events
                if event["method"] == "Network.requestWillBeSent"]  # fmt: skip
        return [url for url in urls if not url.startswith("data:")]

    def picture(self, path, top=0, height=None):
        """Take a picture of the page, or of a part of its length."""
        width, whole = self.run(
            "const e = document.documentElement; return [e.clientWidth, e.scrollHeight]"
        )
        clip = {"x": 0, "y": top, "width": width, "scale": 1,
                "height": min(height or whole, whole - top)}  # fmt: skip
        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        Path(path).write_bytes(base64.b64decode(taken["data"]))

    def close(self):
        self.driver.quit()


def axe_source():
    """The text of axe-core; installed once by npm into a cache, or the test is skipped."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qamro-cache-tests"
    script = cache / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        if not shutil.which("npm"):
            pytest.skip("npm is not installed, which axe-core comes by")
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-save", "--prefix", str(cache), "axe-core@4"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        if done.returncode or not script.exists():
            pytest.skip("npm cannot install axe-core here")
    return script.read_text()
