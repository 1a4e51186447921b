"""docker-compose.yml as a plain dict, and its environments with the secrets of an env file filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def read_compose() -> dict[str, Any]:
    """The file, with its YAML anchors resolved."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


def read_env(path: Path) -> dict[str, str]:
    """KEY=VALUE lines of an env file."""
    lines = [x for x in path.read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled(text: str, values: dict[str, str]) -> str:
    """`text` with ${NAME}, ${NAME:-default} and ${NAME:?message} as Compose fills them; $$ is $."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        assert kind == ":-", f"{name} has neither value nor default"
        return str(rest)

    return VARIABLE.sub(value, text).replace("$$", "$")
