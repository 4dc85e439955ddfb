"""A headless Chromium, and pages that notice whatever goes wrong in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator:
    """A headless Chromium from $CHROMIUM or the path; the test is skipped where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("no Chromium here: install one, or name it in $CHROMIUM")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with driver.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield running
        running.close()


@contextmanager
def watched_pages(browser) -> Iterator[Callable]:
    """open_page(file, **context) -> a page. AssertionError at the end where one of them said an
    error, opened a dialog, asked for anything but files, or met its policy."""
    opened, wrong = [], []

    def make(file: Path, *, part: str = "", **context):
        page = browser.new_context(**context).new_page()
        page.add_init_script(VIOLATIONS)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda r: 0 if r.url.startswith(("file:", "data:")) else wrong.append(r.url),
        )
        page.goto(file.as_uri() + part)
        opened.append(page)
        return page

    yield make
    for page in opened:
        wrong += page.evaluate("window.violations ?? []")
        page.context.close()
    assert wrong == []
