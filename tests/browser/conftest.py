"""A real headless Chromium for what people look at, and one valuation of rows that mean harm."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Project, oracle_rows, write_jsonl
from PIL import Image

SCRIPT = "<script>document.title='owned'</script>"
BAD_IMAGE = "<img src=x onerror=\"document.title='owned'\">"
# Not every control character: a data set's name must fit a TOML string.
POOL_NAME = f'pool "]; click d0 "javascript:alert(1)" {SCRIPT} {{{{ 7*7 }}}} | a \x00\x1b[2J\x07 \u202e'
LONG = 200_000
HOSTILE = [
    {"prompt": f"{SCRIPT} What is this?", "response": f"{BAD_IMAGE} {SCRIPT}", "source": f"from {SCRIPT}"},
    {"prompt": "{{ 7*7 }} {% raw %}", "response": "{% endraw %} ${7*7} $x^2$", "source": "{{ 7*7 }}"},
    {
        "prompt": "```mermaid\ngraph TD\n a-->b\n```",
        "response": "| a | b |\n|---|---|",
        "source": "```mermaid",
    },
    {"prompt": "\x00\x1b[2J\x1b]0;owned\x07 \u202e", "response": "\x07 \x00", "source": "\x00\x1b\u202e"},
    {"prompt": "Go on. </style></pre>", "response": "word " * (LONG // 5), "source": "| a | b |"},
]
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-US",
    # Whatever a page asks for elsewhere is listed, but never leaves this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
# The graph of a run is drawn on a canvas, so its words stand nowhere in the page: note each text that
# the drawing library sets on one of its objects.
NOTE_DRAWN = """
window.drawnTexts = [];
const kept = new WeakMap();
Object.defineProperty(Object.prototype, '_text', {
  configurable: true,
  get() { return kept.get(this); },
  set(value) { kept.set(this, value); window.drawnTexts.push(String(value)); },
});
"""


@dataclass(frozen=True)
class Request:
    """One request that a page made."""

    url: str
    method: str
    sent: str  # address, headers and body as text


@dataclass
class Seen:
    """What the browser did since the last look: requests and error lines of its console."""

    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Browser:
    """Chromium with its log of requests; `driver` is selenium's."""

    def __init__(self, driver: Any, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def size(self, width: int, height: int = 900) -> None:
        """Set the visible area in CSS pixels; a width below 500 is a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        """Load `url` with an empty log."""
        self.driver.get("about:blank")
        self.seen()
        self.driver.get(url)

    def wait(self, what: Any, message: str = "") -> Any:
        """Wait until `what(driver)` is true and return it; an element that is replaced is no error."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.driver, 60, ignored_exceptions=ignored).until(what, message)

    def on(self, by: str, what: str, do: Callable[[Any], None]) -> None:
        """Wait for an element and do something to it, again where the page replaces it meanwhile."""

        def done(driver: Any) -> bool:
            do(driver.find_element(by, what))
            return True

        self.wait(done)

    def text(self) -> str:
        """The page's visible text."""
        return str(self.driver.find_element("tag name", "body").text)

    def wait_text(self, *texts: str) -> None:
        """Wait until the page shows all `texts`."""
        for text in texts:
            self.wait(lambda _, text=text: text in self.text(), f"the page does not show {text!r}")

    def seen(self) -> Seen:
        """What happened since the last call."""
        found = Seen()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                request = message["params"].get("request", message["params"])
                if not request["url"].startswith(("chrome://", "data:", "blob:", "about:")):
                    found.requests.append(
                        Request(request["url"], request.get("method", "GET"), json.dumps(request))
                    )
        found.errors = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        return found

    @contextmanager
    def noting_drawn_texts(self) -> Iterator[None]:
        """Pages opened inside note what they draw on canvases, for `drawn`."""
        name = "Page.addScriptToEvaluateOnNewDocument"
        script = self.driver.execute_cdp_cmd(name, {"source": NOTE_DRAWN})
        yield
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def drawn(self) -> set[str]:
        """Texts drawn on canvases so far."""
        return set(self.driver.execute_script("return window.drawnTexts"))

    def picture(self, name: str, colours: int = 200) -> Path:
        """Save the visible area as NAME.png; asserts that it is not blank and fits the documentation."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        found = image.getcolors(maxcolors=image.width * image.height)
        assert found is not None and len(found) > colours, f"{name}: {len(found or [])} colours"
        path = self.pictures / f"{name}.png"
        image.save(path, optimize=True)
        assert path.stat().st_size < 300_000, path
        return path


def _programs() -> tuple[str, str] | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((found for n in names if (found := shutil.which(n))), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Selenium's driver; skips without Chromium, unless NNCIFT_REQUIRE_BROWSER=1."""
    programs = _programs()
    if programs is None:
        why = "no chromium/chromedriver: apt-get install -y chromium chromium-driver"
        if os.environ.get("NNCIFT_REQUIRE_BROWSER") == "1":
            pytest.fail(why)
        pytest.skip(why)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # A dialog then stays open, and whatever the test does next fails on it.
    options.set_capability("unhandledPromptBehavior", "ignore")
    started = Chrome(options=options, service=Service(executable_path=programs[1]))
    yield started
    started.quit()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: NNCIFT_SCREENSHOTS (`make screenshots`), else a temporary folder."""
    wanted = os.environ.get("NNCIFT_SCREENSHOTS")
    folder = Path(wanted).resolve() if wanted else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def browser(driver: Any, pictures: Path) -> Iterator[Browser]:
    """The session's browser, 1280 pixels wide, on an empty page."""
    made = Browser(driver, pictures)
    made.size(1280)
    yield made
    driver.get("about:blank")


@dataclass(frozen=True)
class Valued:
    """A finished valuation and the server that shows it."""

    result: dict[str, Any]
    server: str

    def artifacts(self) -> dict[str, dict[str, Any]]:
        """This run's artifacts by kind (`lineage`, `stages`, `quality`), as the server tells them."""
        body = {"artifacts": {"key": {"like_": f"%-{self.result['run_id']}"}}, "limit": 100}
        answer = httpx.post(f"{self.server}/api/artifacts/latest/filter", json=body, trust_env=False)
        return {a["key"].split("-")[0]: a for a in answer.raise_for_status().json()}

    def flow_run(self) -> dict[str, Any]:
        """The Prefect flow run behind it."""
        run_id = self.artifacts()["stages"]["flow_run_id"]
        answer = httpx.get(f"{self.server}/api/flow_runs/{run_id}", trust_env=False)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


def _valued(project: Project, result: dict[str, Any]) -> Valued:
    return Valued(result, f"http://127.0.0.1:{project.env['NNCIFT_SERVER_PORT']}")


@pytest.fixture(scope="session")
def hostile(driver: Any, tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Valued:
    """A valuation of five ordinary rows and HOSTILE: so few that best and worst five show them all.

    The hostile rows, a little changed, are held out too: the report shows rows of these.
    """
    project = Project(tmp_path_factory.mktemp("hostile"), prefect_env)
    rows = [{"id": f"hostile-{n}", **row} for n, row in enumerate(HOSTILE)]
    write_jsonl(project.folder / "pool.jsonl", oracle_rows("pool")[:5] + rows)
    held_out = [{**row, "prompt": f"Please: {row['prompt']}", "task": row["source"]} for row in rows]
    write_jsonl(project.folder / "held_out.jsonl", held_out)
    project.configure(
        pool={"name": POOL_NAME},
        target={"test": "held_out.jsonl"},
        finetune={"epochs": 1, "batch_size": 4, "rank": 4},
        evaluation={"seeds": 2, "max_new_tokens": 6},
    )
    return _valued(project, project.value())


@pytest.fixture(scope="session")
def shown(request: pytest.FixtureRequest, driver: Any, prefect_env: dict[str, str]) -> Iterator[Valued]:
    """What the screenshots show: the quickstart for the documentation, else the session's valuation."""
    if not os.environ.get("NNCIFT_SCREENSHOTS"):
        yield request.getfixturevalue("hostile")
        return
    with tempfile.TemporaryDirectory(prefix="nncift-") as folder:
        project = Project(Path(folder), prefect_env)
        command = project.command("quickstart", "--json")
        done = subprocess.run(command, cwd=folder, env=project.env, stdout=subprocess.PIPE, check=True)
        yield _valued(project, json.loads(done.stdout))
