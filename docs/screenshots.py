"""Screenshots of a run's report for README and docs: python docs/screenshots.py RUN_DIR.

Writes docs/images/report-*.png. Needs playwright and a Chromium ($CHROMIUM, or on the path).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from infifusion.report.pages.page import write_report

IMAGES = Path(__file__).parent / "images"
TALL, WIDE = {"width": 1180, "height": 1110}, {"width": 1180, "height": 860}
NARROW = {"width": 390, "height": 800}
LARGEST = 300_000  # bytes of one image


def main(run_dir: Path) -> None:
    """Write every image anew."""
    report = write_report(run_dir).resolve().as_uri()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        for name, part, look, size in (
            ("report-better", "better", "light", TALL),
            ("report-taught", "taught", "light", WIDE),
            ("report-items", "items", "dark", WIDE),
            ("report-merge", "merge", "dark", WIDE),
            ("report-phone", "better", "light", NARROW),
        ):
            page = browser.new_page(viewport=size, color_scheme=look)
            page.goto(f"{report}#{part}")
            if part == "taught":
                show_a_token(page)
            if part == "merge":
                page.get_by_role("tab", name="skewness").click()
            path = IMAGES / f"{name}.png"
            page.screenshot(path=path)
            if path.stat().st_size > LARGEST:
                raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST}.")
            print(path, path.stat().st_size)
            page.close()
        browser.close()


def show_a_token(page: Page) -> None:
    """The longest sample, and the token on which its sources agree least."""
    lengths = page.evaluate(
        "JSON.parse(document.getElementById('token-data').textContent)"
        ".targets[0].samples.map((sample) => sample.tokens.length)"
    )
    page.locator("#token-sample").select_option(index=lengths.index(max(lengths)))
    least = page.evaluate(
        """() => {
          const data = JSON.parse(document.getElementById("token-data").textContent);
          const chosen = document.getElementById("token-sample").value;
          const tokens = data.targets[0].samples[chosen].tokens;
          const sure = tokens.map((token) => (token[5] ? token[5][0][1] : 1));
          return sure.indexOf(Math.min(...sure));
        }"""
    )
    page.locator(f"#token-{least}").click()
    page.get_by_role("heading", name="Token by token").scroll_into_view_if_needed()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
