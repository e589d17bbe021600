"""Take the pictures of the viewer that the pages show, from a run such as that of ``make demo``.

``python docs/screenshots.py RUN``: needs Playwright and a Chromium that is installed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from probes_viewer import report

HERE = Path(__file__).parent / "_static"
PICTURES = {"viewer.png": ("", 980), "viewer_spectrum.png": ("#stream=fourier/amplitude/train", 740)}


def main() -> None:
    """Open the report of the run given, and write what is seen."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = report(sys.argv[1], Path(folder) / "report.html")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (place, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": 1240, "height": height})
            page.goto(f"file://{file}{place}")
            page.wait_for_selector("figure canvas")
            page.wait_for_timeout(1500)
            page.screenshot(path=str(HERE / name))
            print(HERE / name)
        browser.close()


if __name__ == "__main__":
    main()
