"""Checks of the packages that nncift requires, and of those that its tests require."""

from __future__ import annotations

import re
from importlib import metadata

from flows.doctor.core import Check
from flows.doctor.requirements import ABSENT, checkout_requires, faults, install, install_checkout, installed


def check_packages() -> list[Check]:
    """Every required package that is absent or wrong; one line for all when none is."""
    again = install_checkout()
    try:
        number, bad = faults("")
        old = checkout_requires("") not in (None, installed(""))
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


def check_test_tools() -> list[Check]:
    """The packages of the "dev" extra, in one line."""
    number, bad = faults("dev")
    if not bad:
        return [Check("test tools", "ok", f"all {number} in the wanted versions", "", False)]
    found = "; ".join(f"{name}: {fault}" for name, fault in bad)
    return [Check("test tools", "missing", found, install(*(name for name, _ in bad)), False)]
