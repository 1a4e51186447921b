"""`nncift server`: loopback only, stays up until stopped, one message when the port is taken."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import httpx
import pytest
from conftest import Project, free_port


@pytest.fixture
def alone(offline_project: Project) -> Project:
    """A project whose Prefect home has no server yet."""
    offline_project.env["NNCIFT_SERVER_PORT"] = str(free_port())
    return offline_project


@pytest.mark.heavy
def test_start_status_stop(alone: Project) -> None:
    assert json.loads(alone.call("server", "status", "--json").stdout) == {"running": False}
    started = json.loads(alone.call("server", "start", "--json").stdout)
    try:
        assert started["ui_url"] == f"http://127.0.0.1:{alone.env['NNCIFT_SERVER_PORT']}"
        assert httpx.get(started["api_url"] + "/health").json() is True
        ui = httpx.get(started["ui_url"], follow_redirects=True)
        assert ui.status_code == 200
        assert "<html" in ui.text.lower()
        again = json.loads(alone.call("server", "start", "--json").stdout)
        assert again["pid"] == started["pid"]
        other = alone.call("server", "start", "--port", str(free_port()), check=2)
        assert "a server runs on port" in other.stderr
        listening = Path(f"/proc/{started['pid']}/net/tcp")
        if listening.exists():
            port = f":{started['port']:04X} "
            hosts = {
                x.split()[1].split(":")[0]
                for x in listening.read_text().splitlines()
                if port in x and " 0A " in x
            }
            assert hosts == {"0100007F"}
    finally:
        assert json.loads(alone.call("server", "stop", "--json").stdout) == {"stopped": True}
    with pytest.raises(ProcessLookupError):
        os.kill(started["pid"], 0)
    assert "no server of nncift's is running" in alone.call("server", "stop").stdout


def test_a_port_in_use_is_named(alone: Project) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = str(s.getsockname()[1])
        done = alone.call("server", "start", "--port", port, check=2)
    assert f"port {port} is taken by another program" in done.stderr
