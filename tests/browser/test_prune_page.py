"""The page of a prune run as people open it: from disk, on a desk and on a phone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from browser.conftest import SCRIPT, Browser
from browser.pages import (
    DESK,
    WIDTHS,
    ask,
    asks_for_nothing_but_itself,
    fits,
    letters_are_large_enough_on_a_phone,
    plots_are_drawn,
)
from conftest import write_jsonl
from prune_jobs import PruneProject, intents

pytestmark = [pytest.mark.heavy, pytest.mark.browser]

HOSTILE = f"{SCRIPT} {{{{ 7*7 }}}} \u202e"


@pytest.fixture(scope="module")
def pruned(driver: Any, tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> str:
    """The page of a run on rows one class of which has a name that means harm; of the documentation's run
    for `make screenshots`."""
    project = PruneProject(tmp_path_factory.mktemp("page"), prefect_env)
    if os.environ.get("NNCIFT_SCREENSHOTS"):
        project.configure(
            data={"new": None, "limit": None, "limit_test": None},
            training={"epochs": 6, "hidden": None, "checkpoints": None, "log_every": None},
            scores={"names": ["vog", "el2n", "forgetting", "pvi", "aum", "confidence", "variability"]},
            study={"studies": ["curve", "noise"], "scores": ["el2n", "aum", "forgetting", "vog"], "seeds": 3,
                   "prune": None},
            noise={"kinds": ["uniform"], "prune": None},
            subset=None,
        )  # fmt: skip
    else:
        worst = intents("train", 150)[-1]["label"]
        rows = [*intents("train", 150), *intents("test", 60)]
        named = [{**r, "label": HOSTILE if r["label"] == worst else r["label"]} for r in rows]
        write_jsonl(project.folder / "rows.jsonl", named)
        project.configure(
            data={"source": "rows.jsonl", "new": None},
            scores={"names": ["el2n", "aum", "forgetting", "vog", "confidence", "variability"]},
        )
    return Path(project.prune()["report"]).as_uri()


@pytest.fixture
def page(browser: Browser, pruned: str) -> Browser:
    """The browser on that page."""
    browser.open(pruned)
    return browser


def test_it_asks_for_nothing_but_itself_and_has_no_errors(page: Browser, pruned: str) -> None:
    assert page.driver.find_element("css selector", "h1").text == "Which rows can go"
    asks_for_nothing_but_itself(page, pruned)


def test_every_plot_is_drawn_and_described(page: Browser) -> None:
    plots_are_drawn(page, 6)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_window(page: Browser, width: int) -> None:
    fits(page, width)


def test_letters_are_large_enough_on_a_phone(page: Browser) -> None:
    letters_are_large_enough_on_a_phone(page)


def test_names_of_classes_are_shown_as_text(page: Browser) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        page.driver.switch_to.alert.accept()
    assert "owned" not in page.driver.title
    if not os.environ.get("NNCIFT_SCREENSHOTS"):
        assert "<script>document.title='owned'</script> {{ 7*7 }}" in ask(page, "document.body.textContent")
    assert "\u202e" not in ask(page, "document.body.textContent")
    assert not page.driver.find_elements(
        "css selector", "img:not([src^='data:']), iframe, object, embed, form"
    )


def test_links_inside_the_page_lead_somewhere(page: Browser) -> None:
    links = ask(page, "Array.from(document.links).map(a => a.getAttribute('href'))")
    assert len(links) >= 5
    for link in links:
        assert link.startswith("#"), link
        assert page.driver.find_elements("id", link[1:]), link


def test_screenshots(browser: Browser, pruned: str) -> None:
    browser.size(DESK, 1400)
    browser.open(pruned)
    browser.picture("prune_report")
