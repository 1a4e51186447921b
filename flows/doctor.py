"""`nncift doctor`: what this machine has of what nncift needs, and the command that mends each lack.

Nothing here is imported before its check needs it: the doctor works where the packages do not.
"""

from __future__ import annotations

import contextvars
import importlib
import os
import re
import shlex
import shutil
import sys
import threading
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nncift_core.errors import NnciftError, UserError
from nncift_core.store.workspace import Workspace
from nncift_core.text import visible

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Status = Literal["ok", "missing", "problem"]
PYTHON = (3, 11)
GIB = 1024**3
LOW_MEMORY, LOW_DISK = 4 * GIB, 1 * GIB
NETWORK_SECONDS = 3.0
WIDTH = 80
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
CHECKOUT = Path(__file__).parents[1]
ABSENT = "not installed"
_STYLES = {"ok": "green", "missing": "yellow", "problem": "red"}


@dataclass(frozen=True)
class Check:
    """One finding. mend: a command to copy, or what to do where no command helps; "" when ok.

    needed: whether nncift can do nothing of use while this is not ok.
    """

    name: str
    status: Status
    found: str
    mend: str
    needed: bool


@dataclass(frozen=True)
class Probe:
    """How to make a check: a function, the modules it needs, and how long it may take.

    Imports are not part of `seconds`: they are slow on a cold disk but wait for nobody.
    """

    name: str
    look: Callable[[], list[Check]]
    needed: bool
    modules: tuple[str, ...] = ()
    seconds: float = 5.0


def check(workspace: Path) -> list[Check]:
    """Every check, in the order of the table; never raises, and no check waits for more than its limit.

    workspace: the folder to keep results in; it need not exist, and nothing is written to it.
    """
    probes = (
        Probe("python", _python, True),
        Probe("packages", _packages, True, ("packaging.requirements",)),
        Probe("test tools", _test_tools, False, ("packaging.requirements",)),
        # A driver that nobody uses yet takes some seconds to start, one per GPU at worst.
        Probe("devices", _devices, True, ("torch", "nncift_core.devices"), seconds=30.0),
        Probe("memory", _memory, False, ("psutil",)),
        Probe("disk", lambda: _disk(workspace), True),
        Probe("workspace", lambda: _workspace(workspace), True),
        Probe("builtin encoder", _encoder, True, ("nncift_core.encoders",), seconds=30.0),
        Probe("builtin language model", _language_model, True),
        Probe("prefect server", _server, False, ("flows.server",)),
        Probe("model hub", _hub, False, ("httpx", "huggingface_hub.constants")),
        Probe("hub token", _token, False, ("huggingface_hub.constants",)),
        Probe("browser", _browser, False),
        Probe("git", _git, False),
    )
    return [found for probe in probes for found in examine(probe)]


def examine(probe: Probe) -> list[Check]:
    """The probe's checks; a crash, a module that cannot be imported or silence is a check too."""
    for module in probe.modules:
        try:
            importlib.import_module(module)
        except Exception as e:  # a broken package may raise anything, and to say so is the doctor's work
            return [
                Check(probe.name, "problem", f"cannot import {module}: {_said(e)}", _mend(module, e), True)
            ]
    answers: list[list[Check]] = []
    context = contextvars.copy_context()
    # A daemon, because a thread that waits for a dead network drive cannot be stopped, only left behind.
    thread = threading.Thread(target=lambda: answers.append(context.run(_safely, probe)), daemon=True)
    thread.start()
    thread.join(probe.seconds)
    if answers:
        return answers[0]
    found, mend = f"no answer within {probe.seconds:g} s", "see what it waits for (network, disk), then again"
    return [Check(probe.name, "problem", found, mend, probe.needed)]


def _safely(probe: Probe) -> list[Check]:
    try:
        return probe.look()
    except UserError as e:
        found = f"{e.file}: {e.what}" if e.file else e.what
        return [Check(probe.name, "problem", found, e.mend or "mend that, then: nncift doctor", probe.needed)]
    except NnciftError as e:
        what, _, command = str(e).partition(". Run: ")
        return [Check(probe.name, "problem", what, command or what, probe.needed)]
    except Exception as e:  # one check that fails in a new way must not hide the others
        return [Check(probe.name, "problem", _said(e), "mend that, then: nncift doctor", probe.needed)]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(": ")


def install(*requirements: str) -> str:
    """The command that installs `requirements` into this interpreter's environment."""
    python = shlex.quote(sys.executable)
    tool = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    return f"{tool} {shlex.join(requirements)}"


def _mend(module: str, error: Exception) -> str:
    """What to do about a module that cannot be imported: its package is absent, or there and broken."""
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (absent or module).partition(".")[0]
    # Our own modules fail to import only because of a package that they use.
    package = {"flows": "prefect", "nncift_core": "torch"}.get(package, package)
    again = [] if find_spec(package) is None else ["--force-reinstall"]
    return install(*again, _wanted(package))


def _python(version: tuple[int, ...] = sys.version_info[:3]) -> list[Check]:
    found = f"{'.'.join(map(str, version))} ({sys.executable})"
    if version >= PYTHON:
        return [Check("python", "ok", found, "", True)]
    wanted = ".".join(map(str, PYTHON))
    mend = f"install Python {wanted} or newer, then: python{wanted} -m venv .venv"
    return [Check("python", "problem", f"{found}; {wanted} or newer is needed", mend, True)]


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether a line of the metadata belongs to `extra` ("": to nncift itself) on this machine."""
    if requirement.marker is None:
        return not extra
    plain = requirement.marker.evaluate({"extra": ""})
    return requirement.marker.evaluate({"extra": extra}) and not plain if extra else plain


def _installed(extra: str) -> dict[str, str]:
    """Name -> specifier of what the installed nncift requires; raises PackageNotFoundError."""
    from packaging.requirements import Requirement

    lines = map(Requirement, metadata.requires("nncift") or [])
    return {r.name: str(r.specifier) for r in lines if _applies(r, extra)}


def _checkout(extra: str) -> dict[str, str] | None:
    """The same of the checkout this module lies in; None when it lies in none."""
    from packaging.requirements import Requirement

    file = CHECKOUT / "pyproject.toml"
    if not file.is_file():
        return None
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") != "nncift":
        return None
    lines = map(Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"])
    return {r.name: str(r.specifier) for r in lines if r.marker is None or r.marker.evaluate()}


def _wanted(name: str) -> str:
    """`name` with the versions that nncift wants, as pip takes it; `name` alone when unknown."""
    try:
        return name + _installed("").get(name, "")
    except ImportError:
        return name


def _faults(extra: str) -> tuple[int, list[tuple[str, str]]]:
    """How many packages `extra` requires, and each that is absent or wrong: (as pip takes it, fault)."""
    from packaging.specifiers import SpecifierSet

    # A checkout that was pulled anew may require more than it did when it was installed.
    checkout = _checkout(extra)
    required = _installed(extra) if checkout is None else checkout
    bad = []
    for name, wanted in required.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            bad.append((f"{name}{wanted}", ABSENT))
            continue
        if not SpecifierSet(wanted).contains(version, prereleases=True):
            bad.append((f"{name}{wanted}", f"{version} is installed, {wanted} is wanted"))
    return len(required), bad


def _packages() -> list[Check]:
    again = install("-e", str(CHECKOUT))
    try:
        number, bad = _faults("")
        old = _checkout("") not in (None, _installed(""))
    except metadata.PackageNotFoundError:
        what = "nncift is not installed into this Python"
        return [Check("packages", "missing", what, again, True)]
    found = [
        Check(
            f"package {re.split('[^A-Za-z0-9._-]', name)[0]}",
            "missing" if fault == ABSENT else "problem",
            fault,
            install(name),
            True,
        )
        for name, fault in bad
    ]
    if old:
        what = "pyproject.toml requires other packages than when nncift was installed from it"
        found.append(Check("package nncift", "problem", what, again, False))
    return (
        found if bad else [Check("packages", "ok", f"all {number} in the wanted versions", "", True), *found]
    )


def _test_tools() -> list[Check]:
    number, bad = _faults("dev")
    if not bad:
        return [Check("test tools", "ok", f"all {number} in the wanted versions", "", False)]
    found = "; ".join(f"{name}: {fault}" for name, fault in bad)
    return [Check("test tools", "missing", found, install(*(name for name, _ in bad)), False)]


def _devices() -> list[Check]:
    import torch

    from nncift_core.devices import available_devices

    found = []
    for name in available_devices():
        if name.startswith("cuda"):
            gpu = torch.cuda.get_device_properties(name)
            shown = f"{gpu.name}, {_gib(gpu.total_memory)}"
        else:
            shown = "Apple GPU" if name == "mps" else f"{_cores()} cores, torch {torch.__version__}"
        found.append(Check(f"device {name}", "ok", shown, "", name == "cpu"))
    return [*_idle_gpu(torch.version.cuda, torch.cuda.device_count()), *found]


def _idle_gpu(
    cuda: str | None, count: int, driver: Path = Path("/proc/driver/nvidia/version")
) -> list[Check]:
    """A GPU that is there while torch cannot use it; nothing when it can, or when there is none.

    cuda: the CUDA version torch was built with; count: GPUs that torch sees.
    """
    if count or not driver.exists():
        return []
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        found, mend = "hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES"
    elif cuda is None:
        found = "an NVIDIA driver is there, but torch has no CUDA"
        mend = install("--force-reinstall", _wanted("torch"))
    else:
        found, mend = f"an NVIDIA driver is there, but torch (CUDA {cuda}) sees no GPU", "nvidia-smi"
    return [Check("device cuda", "problem", found, mend, False)]


def _cores() -> int:
    """Cores this process may use; the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"


def _memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Check]:
    import psutil

    memory = psutil.virtual_memory()
    total, available, limited = memory.total, memory.available, ""
    for limit, used in _cgroup_memory(root, own):
        if limit < total:
            total, limited = limit, " (a limit of its control group)"
        available = min(available, max(0, limit - used))
    found = f"{_gib(total)}{limited}, {_gib(available)} available"
    if available >= LOW_MEMORY:
        return [Check("memory", "ok", found, "", False)]
    mend = "end other programs, or choose smaller models and batches (batch_tokens, batch_size)"
    return [Check("memory", "problem", f"{found}: little", mend, False)]


def _cgroup_memory(root: Path, own: Path) -> list[tuple[int, int]]:
    """Limit and use in bytes of every control group (v2) this process is in that has a limit.

    Files that can be given back at once (inactive_file) are not counted as used.
    """
    lines = own.read_text().splitlines() if own.is_file() else []
    inside = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    # Inside a container the path may name folders that only the host sees: then the root speaks.
    folders = [root / inside, *(root / inside).parents] if inside else [root]
    found = []
    for folder in (f for f in folders if f.is_relative_to(root) and (f / "memory.max").is_file()):
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            found.append((int(limit), used))
    return found


def _disk(workspace: Path) -> list[Check]:
    root = workspace.absolute()
    there = next(p for p in (root, *root.parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free >= LOW_DISK:
        return [Check("disk", "ok", f"{_gib(free)} free at {there}", "", True)]
    mend = "name a folder on another disk: nncift doctor --workspace FOLDER"
    return [Check("disk", "problem", f"only {free / 1024**2:,.0f} MiB free at {there}", mend, True)]


def _workspace(workspace: Path) -> list[Check]:
    Workspace.check_usable(workspace)
    state = "there and usable" if Workspace(workspace).exists() else "not there yet; nncift run makes it"
    return [Check("workspace", "ok", f"{workspace}: {state}", "", True)]


def _encoder() -> list[Check]:
    from nncift_core.encoders import builtin_folder

    builtin_folder()
    return [Check("builtin encoder", "ok", "there, weights intact", "", True)]


def _language_model() -> list[Check]:
    from nncift_core.builtin import lm_path

    lm_path()
    return [Check("builtin language model", "ok", "there", "", True)]


def _server() -> list[Check]:
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


def _shown(url: str) -> str:
    """`url` without user name, password and query: they may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _hub() -> list[Check]:
    import httpx
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return [Check("model hub", "ok", "offline by HF_HUB_OFFLINE: cached models only", "", False)]
    shown = _shown(constants.ENDPOINT)
    try:
        status = httpx.head(constants.ENDPOINT, timeout=NETWORK_SECONDS, follow_redirects=True).status_code
    except httpx.HTTPError as e:
        trouble = f"{shown} cannot be reached ({_said(e)})"
    else:
        # A mirror need not have a page at its root, nor show it to everybody.
        if status < 400 or status in (401, 404, 405):
            return [Check("model hub", "ok", f"{shown} answers", "", False)]
        trouble = f"{shown} answers with status {status}"
    mend = 'use local model folders or model = "builtin", and do not ask the hub: export HF_HUB_OFFLINE=1'
    return [Check("model hub", "missing", trouble, mend, False)]


def _token() -> list[Check]:
    from huggingface_hub import constants

    names = [n for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(n)]
    if names or Path(constants.HF_TOKEN_PATH).is_file():
        where = names[0] if names else "by hf auth login"
        return [Check("hub token", "ok", f"set ({where})", "", False)]
    found = "not set; public models need none"
    return [Check("hub token", "missing", found, "hf auth login", False)]


def _browser() -> list[Check]:
    found = [
        next((path for path in map(shutil.which, names) if path), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    ]
    if all(found):
        return [Check("browser", "ok", ", ".join(path for path in found if path), "", False)]
    absent = [n for n, path in zip(("chromium", "chromedriver"), found, strict=True) if path is None]
    what = f"no {' and no '.join(absent)}; the tests of pages need it"
    return [Check("browser", "missing", what, "apt-get install -y chromium chromium-driver", False)]


def _git() -> list[Check]:
    path = shutil.which("git")
    if path:
        return [Check("git", "ok", path, "", False)]
    return [Check("git", "missing", "not on PATH", "apt-get install -y git", False)]


def show(checks: list[Check]) -> None:
    """Print the checks as a table of at most 80 columns, and below it how to mend what is not ok."""
    console = Console(highlight=False)
    table = Table()
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    for c in checks:
        optional = "" if c.status == "ok" or c.needed else ", optional"
        status = Text(f"{c.status}{optional}", style=_STYLES[c.status])
        table.add_row(Text(visible(c.name)), status, Text(visible(c.found)))
    console.print(table, width=min(WIDTH, console.width))
    for c in (c for c in checks if c.status != "ok"):
        console.print(Text(visible(f"{c.name}:\n    {c.mend}")), soft_wrap=True)
    lacking = sum(c.needed and c.status != "ok" for c in checks)
    console.print(Text(f"{lacking} needed not ok" if lacking else "all that is needed is there"))
