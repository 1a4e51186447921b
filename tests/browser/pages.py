"""What every page that opens from disk has to be: alone, drawn, within the window, readable on a phone."""

from __future__ import annotations

from typing import Any

from browser.conftest import Browser

PHONE, DESK = 390, 1280
# Elements that stick out of the window and are in no box that scrolls; for the message of a failure.
STICKING_OUT = """
const scrolls = e => e && (
  /auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
return Array.from(document.body.querySelectorAll('*'))
  .filter(e => e.getBoundingClientRect().right > arguments[0] + 0.5 && !scrolls(e.parentElement))
  .slice(0, 5).map(e => e.outerHTML.slice(0, 120));
"""
WIDTHS = (320, PHONE, DESK)


def ask(browser: Browser, script: str) -> Any:
    """The value of a JavaScript expression on the page."""
    return browser.driver.execute_script(f"return {script}")


def asks_for_nothing_but_itself(page: Browser, address: str) -> None:
    """One request, no error, no script."""
    seen = page.seen()
    assert [r.url for r in seen.requests] == [address]
    assert seen.errors == []
    assert ask(page, "document.scripts.length") == 0


def plots_are_drawn(page: Browser, least: int) -> None:
    """At least so many plots, each drawn from the page itself, and described."""
    plots = ask(page, "Array.from(document.images).map(i => [i.naturalWidth, i.alt, i.src.slice(0, 5)])")
    assert len(plots) >= least
    for width, alt, start in plots:
        assert width > 0, alt
        assert alt.strip() and start == "data:"


def fits(page: Browser, width: int) -> None:
    """Nothing sticks out of a window of `width` pixels."""
    page.size(width)
    wide = page.driver.execute_script(STICKING_OUT, width)
    assert ask(page, "document.documentElement.scrollWidth") <= width, wide


def letters_are_large_enough_on_a_phone(page: Browser) -> None:
    """14 pixels at least, without zooming."""
    page.size(PHONE)
    assert ask(page, "visualViewport.scale") == 1
    assert float(ask(page, "getComputedStyle(document.body).fontSize").removesuffix("px")) >= 14
