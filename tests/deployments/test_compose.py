"""docker-compose.yml, its image, its secrets: all keys known, images pinned, nothing open, no password.

The Compose specification's own schema is not part of this repository: the check here is stricter in what it
allows. Where Docker's compose plugin is installed it reads the file too.
"""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compose_file import ROOT, VARIABLE, filled, read_compose, read_env

COMPOSE = read_compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVICE_KEYS = {
    "build", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "init", "logging",
    "ports", "profiles", "restart", "shm_size", "stop_grace_period", "volumes", "working_dir",
}  # fmt: skip
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
CONDITIONS = {"service_healthy", "service_completed_successfully", "service_started"}
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH|URL$", re.IGNORECASE)


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("env") / ".env"
    subprocess.run([sys.executable, ROOT / "deployments/make_env.py", path], check=True, capture_output=True)
    return path


def test_every_key_is_known() -> None:
    assert {k for k in COMPOSE if not k.startswith("x-")} == {"services", "volumes"}
    for name, service in SERVICES.items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("healthcheck", {})) <= HEALTH_KEYS, name
        assert all(isinstance(v, str) for v in service.get("environment", {}).values()), name
        assert service["restart"] in ("unless-stopped", "no"), name


def test_the_services_that_are_promised_are_there() -> None:
    assert set(SERVICES) == {"postgres", "redis", "server", "services", "deploy", "worker", "worker-gpu"}
    assert "--no-services" in SERVICES["server"]["command"]
    assert SERVICES["worker"]["profiles"] == ["cpu"]
    gpu = SERVICES["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    for worker in (SERVICES["worker"], gpu):
        assert worker["command"][-3:] == ["--limit", "1", "--with-healthcheck"]
        assert "workspace:/workspace" in worker["volumes"]


def test_every_image_is_pinned_to_an_exact_version() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.\d+(\.\d+)?-[a-z]+$", service["image"]), (name, service["image"])
    bases = re.findall(r"^FROM (\S+)", (ROOT / "deployments/Dockerfile").read_text(), re.MULTILINE)
    assert bases[0] == "python:3.11.13-slim-bookworm"
    assert bases[1:] == ["base", "base", "${DEVICE}"]


def test_what_is_published_is_on_loopback_only() -> None:
    published = [p for s in SERVICES.values() for p in s.get("ports", [])]
    assert published == ["127.0.0.1:${NNCIFT_PORT:-4200}:4200"]


def test_no_password_is_in_the_file() -> None:
    """Whatever looks like a secret comes from the environment and has no default."""
    checked = 0
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            for variable, kind, _ in VARIABLE.findall(value):
                if SECRET.search(variable):
                    checked += 1
                    assert kind == ":?" or variable == "NNCIFT_WEBHOOK", (name, key)
            if re.search(r"PASSWORD|AUTH", key):
                assert VARIABLE.fullmatch(value), (name, key)
            credentials = re.search(r"://[^/@]*:([^/@]*)@", VARIABLE.sub("secret", value))
            assert credentials is None or credentials[1] == "secret", (name, key)
    assert checked > 10


def test_every_service_that_stays_up_says_how_it_is() -> None:
    for name, service in SERVICES.items():
        if name == "deploy":
            continue
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"]), name


def test_services_wait_for_services_that_exist() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            assert how["condition"] in CONDITIONS, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], (name, other)
    named = {v.split(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if v[0].isalpha()}
    assert named == set(COMPOSE["volumes"])


def test_the_image_runs_as_a_user_without_rights_and_is_built_from_files_that_are_there() -> None:
    text = (ROOT / "deployments/Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "nncift"
    copied = [w for line in re.findall(r"^COPY (.+)", text, re.MULTILINE) for w in line.split()[:-1]]
    assert {"flows", "tasks", "nncift_core", "deployments", "constraints.txt"} <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
    assert "deployments/.env" in ignored
    assert all("-c constraints.txt" in x for x in re.findall(r"pip install.*", text))
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(re.findall(r"torch==\S+", text)) <= set(pinned)


def test_secrets_are_random_private_and_kept(env_file: Path, tmp_path: Path) -> None:
    values = read_env(env_file)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    again = tmp_path / ".env"
    script = [sys.executable, ROOT / "deployments/make_env.py", again]
    said = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    others = read_env(again)
    for name in ("NNCIFT_POSTGRES_PASSWORD", "NNCIFT_REDIS_PASSWORD", "NNCIFT_API_AUTH"):
        assert len(values[name]) >= 64
        assert values[name] != others[name]
        assert others[name] not in said
    kept = again.read_bytes()
    assert "kept" in subprocess.run(script, check=True, capture_output=True, text=True).stdout
    assert again.read_bytes() == kept
    ignored = subprocess.run(
        ["git", "check-ignore", "deployments/.env"], cwd=ROOT, capture_output=True, text=True
    )
    assert ignored.returncode in (0, 128), "deployments/.env would be committed"


def test_the_env_file_fills_everything(env_file: Path) -> None:
    values = read_env(env_file)
    text = (ROOT / "docker-compose.yml").read_text()
    assert not VARIABLE.search(filled(text, values))
    used = {name for name, _, _ in VARIABLE.findall(text)}
    assert used <= set(values)


def test_dockers_own_compose_accepts_the_file(env_file: Path) -> None:
    try:
        there = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        there = 1
    if there:
        pytest.skip("docker's compose plugin is not installed here")
    for profile in ("cpu", "gpu"):
        done = subprocess.run(
            ["docker", "compose", "--env-file", env_file, "--profile", profile, "config", "--quiet"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
