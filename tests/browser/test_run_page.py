"""A run's page and its artifacts in the Prefect UI, both versions of it, in a real browser."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from browser.conftest import POOL_NAME, Browser, Valued

pytestmark = [pytest.mark.heavy, pytest.mark.browser]

STAGES = ("ingest", "embed", "exact-influence", "train-influence-network", "estimate-influence", "select")
BOTH = pytest.mark.parametrize("ui", ["", "/v2"], ids=["v1", "v2"])
# Hosts that Prefect's own pages try whatever the server's settings say; see the test of requests.
PREFECTS_OWN = {"sr-client-cfg.amplitude.com"}


def run_page(valued: Valued, ui: str) -> str:
    return f"{valued.server}{ui}/runs/flow-run/{valued.flow_run()['id']}"


def artifact_page(valued: Valued, ui: str, kind: str) -> str:
    return f"{valued.server}{ui}/artifacts/artifact/{valued.artifacts()[kind]['latest_id']}"


def table(browser: Browser, first: str) -> list[list[str]]:
    """Cells of the page's table, head first; waits for a row that starts with `first`."""
    script = """return Array.from(document.querySelectorAll('table tr')).map(
      row => Array.from(row.querySelectorAll('th, td')).map(cell => cell.innerText.trim()))"""

    def read(driver: object) -> list[list[str]] | None:
        rows: list[list[str]] = browser.driver.execute_script(script)
        return rows if any(r and r[0] == first for r in rows) else None

    found: list[list[str]] = browser.wait(read)
    return [row for row in found if any(row)]


def unharmed(browser: Browser) -> None:
    """No row took the page over: a script among the rows would have set another title."""
    title = browser.driver.title
    assert "Prefect Server" in title and title != "owned"


@BOTH
def test_the_graph_shows_every_stage(browser: Browser, hostile: Valued, ui: str) -> None:
    with browser.noting_drawn_texts():
        browser.open(run_page(hostile, ui))
        browser.wait(lambda _: all(any(d.startswith(s) for d in browser.drawn()) for s in STAGES))
    browser.wait_text(hostile.flow_run()["name"], "Completed")
    assert browser.driver.find_elements("tag name", "canvas")
    unharmed(browser)


def open_tab(browser: Browser, name: str) -> None:
    xpath = f"//*[@role='tab' or @class='p-tab'][normalize-space()='{name}']"
    browser.on("xpath", xpath, lambda tab: tab.click())


def search_tasks(browser: Browser, words: str) -> None:
    """Open the list of tasks and let it show those whose name holds `words`; it shows 20 at most."""
    open_tab(browser, "Task Runs")
    box = "input[placeholder='Search by run name']"
    browser.on("css selector", box, lambda field: field.send_keys(words))


@BOTH
def test_tabs_list_tasks_and_artifacts(browser: Browser, hostile: Valued, ui: str) -> None:
    browser.open(run_page(hostile, ui))
    search_tasks(browser, "ingest")
    # The names stand there as text.
    browser.wait_text("ingest target target", "ingest pool pool", "<script>document.title='owned'</script>")
    open_tab(browser, "Artifacts")
    browser.wait_text(*(a["key"] for a in hostile.artifacts().values()))
    unharmed(browser)


@BOTH
def test_names_steer_nothing(browser: Browser, hostile: Valued, ui: str) -> None:
    browser.open(run_page(hostile, ui))
    search_tasks(browser, "ingest pool")
    browser.wait_text("ingest pool pool")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", browser.text())


def test_lineage_is_drawn_with_the_data_sets_names(browser: Browser, hostile: Valued) -> None:
    browser.open(artifact_page(hostile, "/v2", "lineage"))
    # In one script, as below: the page may draw the graph anew at any moment, and lays it out later.
    words, width, height, steering = browser.wait(
        lambda d: d.execute_script(
            "const drawing = document.querySelector('svg[id^=mermaid]');"
            "const box = drawing?.getBoundingClientRect();"
            "if (!drawing?.textContent || !box.width) return null;"
            "return [drawing.textContent, box.width, box.height,"
            " drawing.querySelectorAll('a, script, img').length]"
        )
    )
    assert "Syntax error" not in words
    # What is left of the name once nothing in it means anything to mermaid or HTML.
    assert re.search(r"pool: pool _\)_ click d0 _javascript_alert", words)
    for part in (
        "10 rows",
        "target: target",
        "exact influence: delift",
        "subset.jsonl",
        hostile.result["run_id"],
    ):
        assert part in words, part
    assert width > 300 and height > 50
    assert not steering, "no name became a link"
    unharmed(browser)


def test_lineage_is_large_enough_to_read(browser: Browser, hostile: Valued) -> None:
    browser.open(artifact_page(hostile, "/v2", "lineage"))
    heights = browser.wait(
        lambda d: d.execute_script(
            "return [...document.querySelectorAll('svg[id^=mermaid] .node .nodeLabel')]"
            ".map(label => label.getBoundingClientRect().height).filter(height => height)"
        )
    )
    assert min(heights) >= 12, "pixels of the lowest label, which has one line"


def test_lineage_is_readable_in_the_older_ui(browser: Browser, hostile: Valued) -> None:
    """It does not know mermaid and shows the graph's text."""
    browser.open(artifact_page(hostile, "", "lineage"))
    browser.wait_text("graph TD", "exact influence: delift", f"run {hostile.result['run_id']}")
    unharmed(browser)


@BOTH
def test_stages_table_equals_the_costs(browser: Browser, hostile: Valued, ui: str) -> None:
    browser.open(artifact_page(hostile, ui, "stages"))
    head, *rows = table(browser, "ingest")
    assert head[:5] == ["stage", "device", "items", "computed", "reused"]
    costs = [[c["stage"], c["device"], *(str(c[k]) for k in head[2:5])] for c in hostile.result["costs"]]
    assert len(rows) >= min(len(costs), 10), "the newer UI shows ten rows a page"
    assert [r[:5] for r in rows] == costs[: len(rows)]


@BOTH
def test_quality_table_equals_the_result(browser: Browser, hostile: Valued, ui: str) -> None:
    browser.open(artifact_page(hostile, ui, "quality"))
    head, *rows = table(browser, "Q1")
    assert head[:5] == ["quadrant", "predictor", "verdict", "n_pairs", "r2"]
    quality = [q for q in hostile.result["quality"] if q["target_task"] == "all"]
    shown = [[*(str(q[k]) for k in head[:4]), f"{round(q['r2'], 4) + 0.0:g}"] for q in quality]
    assert len(rows) >= min(len(shown), 10)
    assert [r[:5] for r in rows] == shown[: len(rows)]


@BOTH
def test_nothing_of_ours_leaves_this_machine(browser: Browser, hostile: Valued, ui: str) -> None:
    """The newer UI asks an analytics host for settings even with analytics off: an empty GET.

    The browser here reaches nothing outside, so what the page would do with an answer is not seen.
    """
    asked = []
    for page in (run_page(hostile, ui), artifact_page(hostile, ui, "lineage")):
        browser.open(page)
        browser.wait_text(hostile.flow_run()["name"])
        asked += browser.seen().requests
    assert any(r.url.startswith(f"{hostile.server}/api/") for r in asked)
    outside = [r for r in asked if urlsplit(r.url).hostname != "127.0.0.1"]
    assert {urlsplit(r.url).hostname for r in outside} <= (PREFECTS_OWN if ui else set())
    ours = (hostile.result["run_id"], hostile.result["workspace"], hostile.flow_run()["id"], POOL_NAME[:4])
    for request in outside:
        assert request.method == "GET" and '"postData"' not in request.sent
        assert not [o for o in ours if o in request.sent], request


def test_screenshots(browser: Browser, shown: Valued) -> None:
    with browser.noting_drawn_texts():
        browser.open(run_page(shown, "/v2"))
        browser.wait(lambda _: any(d.startswith("select") for d in browser.drawn()))
    browser.wait_text("Completed")
    browser.picture("run_graph")
    browser.open(artifact_page(shown, "/v2", "lineage"))
    browser.wait(lambda d: d.find_element("css selector", "svg[id^=mermaid] .node"))
    browser.picture("artifact_lineage")
    browser.open(artifact_page(shown, "/v2", "quality"))
    table(browser, "Q1")
    browser.picture("artifact_quality")
