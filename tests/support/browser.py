"""The console in Chromium, driven by Playwright.

CHROMIUM_PATH is the path of Chromium, which is searched on the PATH by default. SCREENSHOTS is a folder for screenshots.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@contextmanager
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class ConsoleBrowser:
    """An operator's browser. It collects errors of the browser, and requests to other servers."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(viewport=options.pop("viewport", WIDE), **options)
        self.context.set_default_timeout(15_000)
        self.page: Page = self.context.new_page()
        self.clicks = 0
        self.errors: list[str] = []
        self.foreign_requests: list[str] = []
        self.page.on("console", self._on_console_message)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._on_request)

    def _on_console_message(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(self.url):
            self.foreign_requests.append(request.url)

    def open(self, path: str) -> Any:
        return self.page.goto(self.url + path)

    def log_in(self, password: str, name: str = "") -> None:
        self.open("/console/login")
        if name:
            self.page.fill("#username", name)
        self.page.fill("#password", password)
        self.page.click("button.main")
        self.page.wait_for_url(f"{self.url}/console")

    def click(self, selector: str) -> None:
        """Click as an operator does, and count it."""
        self.page.click(selector)
        self.clicks += 1

    def search(self, text: str) -> None:
        """Type into the search field and press Enter, which counts as a click."""
        self.page.fill("#q", text)
        self.page.press("#q", "Enter")
        self.page.wait_for_url(re.compile("/console/(search|visits|deliveries)"))
        self.clicks += 1

    @property
    def heading(self) -> str:
        return str(self.page.inner_text("h1"))

    def horizontal_overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(wider))

    def wide_tables(self) -> list[str]:
        """Return the captions of the tables that are wider than their place."""
        script = """[...document.querySelectorAll(".table")].filter(table => table.scrollWidth > table.clientWidth)
            .map(table => table.querySelector("caption").innerText)"""
        return list(self.page.evaluate(script))

    def violations(self) -> list[str]:
        """Return the violations of WCAG 2.2 AA that axe finds."""
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        results = Axe().run(self.page, options={"runOnly": {"type": "tag", "values": tags}})
        return [
            f"{violation['id']}: {node['html'][:120]}"
            for violation in results.response["violations"]
            for node in violation["nodes"]
        ]

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def close(self) -> None:
        self.context.close()
