"""Checks of the builtin models, Prefect's server, the model hub and its token, the browser and git."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from flows.doctor.core import Check, said

NETWORK_SECONDS = 3.0


def check_encoder() -> list[Check]:
    """The shipped encoder; raises IntegrityError when its weights are damaged."""
    from nncift_core.encoders import builtin_folder

    builtin_folder()
    return [Check("builtin encoder", "ok", "there, weights intact", "", True)]


def check_language_model() -> list[Check]:
    """The shipped language model; raises what lm_path does."""
    from nncift_core.builtin import lm_path

    lm_path()
    return [Check("builtin language model", "ok", "there", "", True)]


def check_server() -> list[Check]:
    """The configured server when there is one, else the one that nncift starts."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, PREFECT_HOME, temporary_settings

    from flows import server

    configured = PREFECT_API_URL.value()
    if configured:
        # As a run asks it, with the user's credentials, but once and not for a minute.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            with get_client(httpx_settings={"timeout": NETWORK_SECONDS}, sync_client=True) as client:
                answers = client.api_healthcheck() is None
        shown = f"{_shown(configured)} (PREFECT_API_URL)"
        if answers:
            return [Check("prefect server", "ok", f"{shown} answers", "", False)]
        from_environment = "PREFECT_API_URL" in os.environ
        mend = "unset PREFECT_API_URL" if from_environment else "prefect config unset --yes PREFECT_API_URL"
        found = f"nothing answers at {shown}; nncift run starts one of its own"
        return [Check("prefect server", "problem", found, mend, False)]
    # Asking for the server makes Prefect's folder; the doctor leaves no folders behind.
    state = server.running() if Path(PREFECT_HOME.value()).expanduser().is_dir() else None
    if state is not None:
        return [Check("prefect server", "ok", f"runs at {state.ui_url}", "", False)]
    found = "none runs; nncift run starts one"
    return [Check("prefect server", "missing", found, "nncift server start", False)]


def check_hub() -> list[Check]:
    """Whether the model hub answers, unless this process is told to stay offline."""
    import httpx
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return [Check("model hub", "ok", "offline by HF_HUB_OFFLINE: cached models only", "", False)]
    shown = _shown(constants.ENDPOINT)
    try:
        status = httpx.head(constants.ENDPOINT, timeout=NETWORK_SECONDS, follow_redirects=True).status_code
    except httpx.HTTPError as e:
        trouble = f"{shown} cannot be reached ({said(e)})"
    else:
        # A mirror need not have a page at its root, nor show it to everybody.
        if status < 400 or status in (401, 404, 405):
            return [Check("model hub", "ok", f"{shown} answers", "", False)]
        trouble = f"{shown} answers with status {status}"
    mend = 'use local model folders or model = "builtin", and do not ask the hub: export HF_HUB_OFFLINE=1'
    return [Check("model hub", "missing", trouble, mend, False)]


def check_token() -> list[Check]:
    """Whether there is a token for the hub; what it is is never read."""
    from huggingface_hub import constants

    names = [n for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(n)]
    if names or Path(constants.HF_TOKEN_PATH).is_file():
        where = names[0] if names else "by hf auth login"
        return [Check("hub token", "ok", f"set ({where})", "", False)]
    found = "not set; public models need none"
    return [Check("hub token", "missing", found, "hf auth login", False)]


def check_browser() -> list[Check]:
    """Chromium and its driver, which only the tests of pages need."""
    found = [
        next((path for path in map(shutil.which, names) if path), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    ]
    if all(found):
        return [Check("browser", "ok", ", ".join(path for path in found if path), "", False)]
    absent = [n for n, path in zip(("chromium", "chromedriver"), found, strict=True) if path is None]
    what = f"no {' and no '.join(absent)}; the tests of pages need it"
    return [Check("browser", "missing", what, "apt-get install -y chromium chromium-driver", False)]


def check_git() -> list[Check]:
    """git on PATH."""
    path = shutil.which("git")
    if path:
        return [Check("git", "ok", path, "", False)]
    return [Check("git", "missing", "not on PATH", "apt-get install -y git", False)]


def _shown(url: str) -> str:
    """`url` without user name, password and query: they may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
