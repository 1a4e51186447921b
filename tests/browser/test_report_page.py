"""The report as people open it: from disk, on a desk, on a phone and on paper."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from browser.conftest import SCRIPT, Browser, Valued
from browser.pages import (
    DESK,
    PHONE,
    WIDTHS,
    ask,
    asks_for_nothing_but_itself,
    fits,
    letters_are_large_enough_on_a_phone,
    plots_are_drawn,
)

pytestmark = [pytest.mark.heavy, pytest.mark.browser]


def address(valued: Valued) -> str:
    return Path(valued.result["report"]).as_uri()


@pytest.fixture
def page(browser: Browser, hostile: Valued) -> Browser:
    """The browser on the report of the hostile rows."""
    browser.open(address(hostile))
    return browser


def test_it_asks_for_nothing_but_itself(page: Browser, hostile: Valued) -> None:
    page.driver.find_element("css selector", "h1")
    asks_for_nothing_but_itself(page, address(hostile))


def test_every_plot_is_drawn_and_described(page: Browser) -> None:
    plots_are_drawn(page, 4)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_window(page: Browser, width: int) -> None:
    fits(page, width)


def test_letters_are_large_enough_on_a_phone(page: Browser) -> None:
    letters_are_large_enough_on_a_phone(page)


def test_rows_are_shown_as_text(page: Browser, hostile: Valued) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        page.driver.switch_to.alert.accept()
    assert "owned" not in page.driver.title
    text = page.text()
    for part in (
        f"{SCRIPT} What is this?",
        "{{ 7*7 }}",
        "{% raw %}",
        "```mermaid",
        "| a | b |",
        "</style></pre>",
    ):
        assert part in text, part
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", ask(page, "document.body.textContent"))
    assert not page.driver.find_elements(
        "css selector", "img:not([src^='data:']), iframe, object, embed, form"
    )


def test_a_row_of_200000_characters_is_clipped(page: Browser, hostile: Valued) -> None:
    assert "word word word" in page.text()
    assert "(200,000 characters in all)" in page.text()
    assert Path(hostile.result["report"]).stat().st_size < 2_000_000
    assert ask(page, "document.documentElement.scrollHeight") < 30_000
    page.size(PHONE)
    assert ask(page, "document.documentElement.scrollHeight") < 60_000


def test_links_inside_the_page_lead_somewhere(page: Browser) -> None:
    links = ask(page, "Array.from(document.links).map(a => a.getAttribute('href'))")
    assert len(links) >= 5
    for link in links:
        assert link.startswith("#"), link
        assert page.driver.find_elements("id", link[1:]), link


def test_it_prints(page: Browser) -> None:
    done = page.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    pdf = base64.b64decode(done["data"])
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 60


def test_screenshots(browser: Browser, shown: Valued) -> None:
    browser.size(DESK, 1400)
    browser.open(address(shown))
    browser.picture("report")
    browser.size(PHONE, 844)
    browser.picture("report_phone")
