"""The pages of a comparison and of an audit as people open them: from disk, on a desk and on a phone."""

from __future__ import annotations

import json
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
from compared_jobs import TRAINING, with_held_out
from conftest import Project, oracle_rows, write_jsonl

pytestmark = [pytest.mark.heavy, pytest.mark.browser]

HOSTILE = f"{SCRIPT} {{{{ 7*7 }}}} \u202e"


def compared(project: Project) -> dict[str, Any]:
    """A comparison with training rows and a task whose names mean harm; for `make screenshots` that of
    examples/compare.toml."""
    if os.environ.get("NNCIFT_SCREENSHOTS"):
        job = str(Path(__file__).parents[2] / "examples" / "compare.toml")
        done = project.call("compare", job, "--workspace", str(project.workspace), "--json")
        return dict(json.loads(done.stdout))
    named = [{**r, "prompt": f"{SCRIPT} {r['prompt']}"} for r in oracle_rows("pool")]
    write_jsonl(project.folder / "pool.jsonl", named)
    with_held_out(project)
    held = project.folder / "held_out.jsonl"
    rows = [json.loads(line) for line in held.read_text(encoding="utf-8").splitlines()]
    write_jsonl(held, [{**r, "task": HOSTILE if r["task"] == "odd" else r["task"]} for r in rows])
    done = project.call("compare", "job.toml", "--workspace", str(project.workspace), "--json")
    return dict(json.loads(done.stdout))


def audited(project: Project) -> dict[str, Any]:
    """An audit with two target tasks, the name of one of which means harm."""
    rows = [{**r, "task": "even" if k % 2 else HOSTILE} for k, r in enumerate(oracle_rows("target"))]
    write_jsonl(project.folder / "target.jsonl", rows)
    project.configure(
        finetune=TRAINING,
        audit={
            "functions": ["delift"], "baselines": ["bm25", "random"], "models": 4, "share": 0.4, "queries": 6,
            "remove": [0.1], "removed_queries": 2, "controls": 2, "duplicates": 3, "wrong": 0.1,
        },
    )  # fmt: skip
    done = project.call("audit", "job.toml", "--workspace", str(project.workspace), "--json")
    return dict(json.loads(done.stdout))


JOBS = {
    "compare": (compared, "Which rows are worth training on"),
    "audit": (audited, "Do values say what training does"),
}


@pytest.fixture(scope="module", params=JOBS)
def made(
    request: pytest.FixtureRequest,
    driver: Any,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_env: dict[str, str],
) -> tuple[str, str, str]:
    """Name, address and heading of a page."""
    run, heading = JOBS[request.param]
    project = Project(tmp_path_factory.mktemp(request.param), prefect_env)
    return request.param, Path(run(project)["report"]).as_uri(), heading


@pytest.fixture
def page(browser: Browser, made: tuple[str, str, str]) -> Browser:
    """The browser on that page."""
    browser.open(made[1])
    return browser


def test_it_asks_for_nothing_but_itself_and_has_no_errors(page: Browser, made: tuple[str, str, str]) -> None:
    assert page.driver.find_element("css selector", "h1").text == made[2]
    asks_for_nothing_but_itself(page, made[1])


def test_every_plot_is_drawn_and_described(page: Browser) -> None:
    plots_are_drawn(page, 1)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_window(page: Browser, width: int) -> None:
    fits(page, width)


def test_letters_are_large_enough_on_a_phone(page: Browser) -> None:
    letters_are_large_enough_on_a_phone(page)


def test_what_users_wrote_is_shown_as_text(page: Browser, made: tuple[str, str, str]) -> None:
    assert "owned" not in page.driver.title
    text = ask(page, "document.body.textContent")
    assert SCRIPT in text, made[0]
    assert "\u202e" not in text
    assert not page.driver.find_elements(
        "css selector", "img:not([src^='data:']), iframe, object, embed, form"
    )


def test_links_inside_the_page_lead_somewhere(page: Browser) -> None:
    links = ask(page, "Array.from(document.links).map(a => a.getAttribute('href'))")
    assert links
    for link in links:
        assert link.startswith("#"), link
        assert page.driver.find_elements("id", link[1:]), link


@pytest.mark.parametrize("made", ["compare"], indirect=True)
def test_screenshots(browser: Browser, made: tuple[str, str, str]) -> None:
    browser.size(DESK, 1400)
    browser.open(made[1])
    browser.picture(f"{made[0]}_report")
