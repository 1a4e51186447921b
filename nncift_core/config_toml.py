"""Config files: reading one, and a config as TOML text, which `tomllib` reads back to the same values."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

from nncift_core.errors import UserError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read_toml(path: Path) -> dict[str, Any]:
    """The plain dict of a TOML file; raises UserError naming the file when it is absent or broken."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError("no such config file", file=path, mend="Give the path of a TOML config.") from None
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"broken TOML: {e}", file=path, mend="Mend the syntax at that place.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot be read ({e})", file=path, mend="A config is a UTF-8 TOML file.") from None


def to_toml(config: dict[str, Any]) -> str:
    """TOML of a plain dict of strings, numbers, booleans, lists and dicts; None values are left out.

    Dicts become [sections], inside lists inline tables. Raises TypeError for any other value, and
    ValueError for text that is no Unicode (lone surrogates).
    """
    return "\n".join(_section((), config)).lstrip("\n") + "\n" if config else ""


def _section(path: tuple[str, ...], values: dict[str, Any]) -> list[str]:
    """Lines of one section: its own keys, then the sections inside it."""
    plain = {k: v for k, v in values.items() if v is not None and not isinstance(v, dict)}
    inner = {k: v for k, v in values.items() if isinstance(v, dict)}
    lines = ["", f"[{'.'.join(_key(k) for k in path)}]"] if path and (plain or not inner) else []
    lines += [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    for name, found in inner.items():
        lines += _section((*path, name), found)
    return lines


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    text.encode("utf-8")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value:f}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value if v is not None)}]"
    if isinstance(value, dict):
        pairs = [f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None]
        return f"{{{', '.join(pairs)}}}"
    raise TypeError(f"no TOML for {type(value).__name__}")
