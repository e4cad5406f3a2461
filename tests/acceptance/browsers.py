"""Debian's Chromium for tests of the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect, sync_playwright

from support import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW = "no browser to test the page with: apt-get install chromium (or put google-chrome on the PATH)"

WAIT_MS = 60_000
"""A page of a busy machine may take long; whoever waits goes on as soon as it is there."""

expect.set_options(timeout=WAIT_MS)


def find_browser() -> str:
    """Path of a browser; skips the test where there is none, and fails it in continuous integration."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(HOW)
    return str(found)


@dataclass
class Visit:
    """A page that is open, and what went wrong on it."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))

    def cells(self, selector: str = "") -> int:
        """Cells of the sheet that match."""
        return self.page.locator(f"#sheet .cell{selector}").count()

    def see(self, selector: str, count: int = 1) -> None:
        """Wait until at least `count` elements match."""
        self.page.wait_for_function(
            "([selector, count]) => document.querySelectorAll(selector).length >= count", arg=[selector, count]
        )

    def says(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.page.evaluate(script)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that ends with the test."""
    with sync_playwright() as playwright:
        # No sandbox: containers that run tests as root have no user namespaces to build it with.
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def visit(browser: Browser, address: str, before: Callable[[Page], None] = lambda page: None, **context: Any) -> Visit:
    """Open a page in a fresh profile; `before` is called with it when nothing has been asked for yet."""
    options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "no-preference", **context}
    found = Visit(browser.new_context(**options).new_page())
    before(found.page)
    found.page.goto(address)
    return found


class OpenWeights:
    """The first request of a page that fits a pattern, kept waiting: before the server sees it, or its answer."""

    def __init__(self, page: Page, pattern: str, *, answered: bool = False) -> None:
        self._page, self._pattern, self._answered = page, pattern, answered
        self._route: Route | None = None
        self._answer: APIResponse | None = None
        page.route(pattern, self._take, times=1)

    def _take(self, route: Route) -> None:
        self._answer = route.fetch() if self._answered else None
        self._route = route

    def wait(self) -> None:
        """Until the page has asked (and, where the answer is held, the server has answered)."""
        wait_until(lambda: self._page.evaluate("true") and self._route is not None, WAIT_MS / 1000, self._pattern)

    def let_go(self) -> None:
        """To the server, or to the page."""
        assert self._route is not None
        if self._answer is not None:
            self._route.fulfill(response=self._answer)
        else:
            self._route.continue_()
