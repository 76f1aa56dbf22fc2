"""A real browser for the tests of pages: Debian's Chromium, without any network.

A plugin of tests/conftest.py: its fixtures are there for every test.
"""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"

REFUSED = "responded with a status of 422"


@pytest.fixture(scope="module")
def browser() -> Iterator["object"]:
    """One Chromium for the tests of a file; without one they are skipped.

    Longer, and the loop that Playwright runs in would keep others of the process from theirs.
    """
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: "object") -> Iterator[Callable[..., "object"]]:
    """`open_page(url, width=375, dark=True)`: a page whose network ends at its own `allowed` start.

    A request elsewhere, an error in the console (but of a decision that is refused) or an exception
    of a script fails the test.
    """
    contexts, problems = [], []

    def go(url: str, width: int = 1200, dark: bool = False, allowed: str = "file:") -> "object":
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if dark else "light",
            has_touch=width < 500,
        )
        contexts.append(context)

        def gate(route: "object") -> None:
            if route.request.url.startswith((allowed, "data:", "blob:")):
                route.continue_()
            else:
                problems.append(f"asks for {route.request.url}")
                route.abort()

        context.route("**/*", gate)
        page = context.new_page()
        page.on(
            "console",
            lambda m: m.type == "error" and REFUSED not in m.text and problems.append(m.text),
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not problems, problems


def overflow(page: "object") -> int:
    """Pixels that the page is wider than its window: 0 where nothing scrolls sideways."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
