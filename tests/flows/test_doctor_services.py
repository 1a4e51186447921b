"""The doctor's checks of services and programs: real servers on this machine, and none; no network."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import huggingface_hub.constants
import pytest
from conftest import free_port
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.doctor import Check, services
from flows.doctor.core import Probe, examine


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> str:
    """The model hub is a port where nobody listens."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return url


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Starts web servers that answer everything with a status; gives their addresses."""
    started = []

    def start(status: int) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            do_GET = do_HEAD

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def only(checks: list[Check]) -> Check:
    (found,) = checks
    return found


def test_a_configured_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    url = f"127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: f"http://user:secret@{url}"}):
        found = only(examine(Probe("prefect server", services.check_server, False)))
    assert (found.status, found.needed) == ("problem", False)
    assert found.found.startswith(f"nothing answers at http://{url} (PREFECT_API_URL)")
    assert found.mend == "prefect config unset --yes PREFECT_API_URL"


def test_a_server_that_accepts_and_stays_silent_does_not_hold_the_doctor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "NETWORK_SECONDS", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            assert only(examine(Probe("prefect server", services.check_server, False))).found.startswith(
                "nothing"
            )
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        assert "Timeout" in only(examine(Probe("model hub", services.check_hub, False))).found


def test_a_server_that_runs(prefect_env: dict[str, str]) -> None:
    ui = f"http://127.0.0.1:{prefect_env['NNCIFT_SERVER_PORT']}"
    with temporary_settings({PREFECT_API_URL: f"{ui}/api"}):
        assert only(services.check_server()).found == f"{ui}/api (PREFECT_API_URL) answers"
    home = {PREFECT_HOME: Path(prefect_env["PREFECT_HOME"])}
    with temporary_settings(home, restore_defaults={PREFECT_API_URL}):
        found = only(examine(Probe("prefect server", services.check_server, False)))
    assert (found.status, found.found) == ("ok", f"runs at {ui}")


def test_a_hub_that_cannot_be_reached(closed: str) -> None:
    found = only(services.check_hub())
    assert (found.status, found.needed) == ("missing", False)
    assert closed in found.found and "ConnectError" in found.found
    for part in ("local model folders", 'model = "builtin"', "HF_HUB_OFFLINE=1"):
        assert part in found.mend


@pytest.mark.parametrize(
    ("status", "expected"), [(200, "ok"), (401, "ok"), (403, "missing"), (502, "missing")]
)
def test_a_hub_is_judged_by_its_answer(
    closed: str,
    answering: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    expected: str,
) -> None:
    url = answering(status)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url.replace("//", "//user:secret@"))
    found = only(services.check_hub())
    assert found.status == expected
    assert url in found.found and "secret" not in found.found


def test_offline_mode_asks_nobody(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert only(services.check_hub()).status == "ok"


def test_the_token_is_found_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    found = only(services.check_token())
    assert (found.status, found.mend, found.needed) == ("missing", "hf auth login", False)
    (tmp_path / "token").write_text("hf_verysecret")
    found = only(services.check_token())
    assert found.status == "ok" and "secret" not in str(asdict(found))


def test_programs_are_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    browser, git = only(services.check_browser()), only(services.check_git())
    assert (browser.status, browser.needed, git.status) == ("missing", False, "missing")
    assert browser.found.startswith("no chromium and no chromedriver")
    assert browser.mend == "apt-get install -y chromium chromium-driver"
    for name in ("google-chrome", "git"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert only(services.check_browser()).found.startswith("no chromedriver;")
    assert only(services.check_git()).found == str(tmp_path / "git")
    (tmp_path / "chromedriver").write_text("#!/bin/sh\n")
    (tmp_path / "chromedriver").chmod(0o755)
    assert only(services.check_browser()).status == "ok"
