"""`nncift doctor`: what this machine has of what nncift needs, and the command that mends each lack.

Nothing here is imported before its check needs it: the doctor works where the packages do not.
"""

from __future__ import annotations

from pathlib import Path

from flows.doctor import machine, packages, services
from flows.doctor.core import Check, Probe, examine
from flows.doctor.table import show

__all__ = ["Check", "check", "show"]


def check(workspace: Path) -> list[Check]:
    """Every check, in the order of the table; never raises, and no check waits for more than its limit.

    workspace: the folder to keep results in; it need not exist, and nothing is written to it.
    """
    probes = (
        Probe("python", machine.check_python, True),
        Probe("packages", packages.check_packages, True, ("packaging.requirements",)),
        Probe("test tools", packages.check_test_tools, False, ("packaging.requirements",)),
        # A driver that nobody uses yet takes some seconds to start, one per GPU at worst.
        Probe("devices", machine.check_devices, True, ("torch", "nncift_core.devices"), seconds=30.0),
        Probe("memory", machine.check_memory, False, ("psutil",)),
        Probe("disk", lambda: machine.check_disk(workspace), True),
        Probe("workspace", lambda: machine.check_workspace(workspace), True),
        Probe("builtin encoder", services.check_encoder, True, ("nncift_core.encoders",), seconds=30.0),
        Probe("builtin language model", services.check_language_model, True),
        Probe("prefect server", services.check_server, False, ("flows.server",)),
        Probe("model hub", services.check_hub, False, ("httpx", "huggingface_hub.constants")),
        Probe("hub token", services.check_token, False, ("huggingface_hub.constants",)),
        Probe("browser", services.check_browser, False),
        Probe("git", services.check_git, False),
    )
    return [found for probe in probes for found in examine(probe)]
