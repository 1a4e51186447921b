"""What nncift requires of other packages, what of it is installed, and the command that installs it."""

from __future__ import annotations

import shlex
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
ABSENT = "not installed"


def install(*requirements: str) -> str:
    """The command that installs `requirements` into this interpreter's environment."""
    python = shlex.quote(sys.executable)
    tool = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    return f"{tool} {shlex.join(requirements)}"


def install_checkout() -> str:
    """The command that installs nncift from the checkout this module lies in."""
    return install("-e", str(CHECKOUT))


def mend_import(module: str, error: Exception) -> str:
    """What to do about a module that cannot be imported: its package is absent, or there and broken."""
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (absent or module).partition(".")[0]
    # Our own modules fail to import only because of a package that they use.
    package = {"flows": "prefect", "nncift_core": "torch"}.get(package, package)
    again = [] if find_spec(package) is None else ["--force-reinstall"]
    return install(*again, versioned(package))


def versioned(name: str) -> str:
    """`name` with the versions that nncift wants, as pip takes it; `name` alone when unknown."""
    try:
        return name + installed("").get(name, "")
    except ImportError:
        return name


def faults(extra: str) -> tuple[int, list[tuple[str, str]]]:
    """How many packages `extra` requires, and each that is absent or wrong: (as pip takes it, fault)."""
    from packaging.specifiers import SpecifierSet

    # A checkout that was pulled anew may require more than it did when it was installed.
    checkout = checkout_requires(extra)
    required = installed(extra) if checkout is None else checkout
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


def installed(extra: str) -> dict[str, str]:
    """Name -> specifier of what the installed nncift requires; raises PackageNotFoundError."""
    from packaging.requirements import Requirement

    lines = map(Requirement, metadata.requires("nncift") or [])
    return {r.name: str(r.specifier) for r in lines if _applies(r, extra)}


def checkout_requires(extra: str) -> dict[str, str] | None:
    """Name -> specifier of what the checkout this module lies in requires; None when it lies in none."""
    from packaging.requirements import Requirement

    file = CHECKOUT / "pyproject.toml"
    if not file.is_file():
        return None
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") != "nncift":
        return None
    lines = map(Requirement, project["optional-dependencies"][extra] if extra else project["dependencies"])
    return {r.name: str(r.specifier) for r in lines if r.marker is None or r.marker.evaluate()}


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether a line of the metadata belongs to `extra` ("": to nncift itself) on this machine."""
    if requirement.marker is None:
        return not extra
    plain = requirement.marker.evaluate({"extra": ""})
    return requirement.marker.evaluate({"extra": extra}) and not plain if extra else plain
