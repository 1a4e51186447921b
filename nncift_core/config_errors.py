"""From pydantic's errors to one message: the field, what is wrong, and the nearest known key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from nncift_core.errors import UserError


def user_error(error: ValidationError, root: type[BaseModel], file: str | Path | None) -> UserError:
    """One message for the first error; unknown keys come first, being the likeliest slip.

    root: the model that was validated, which knows the keys to suggest.
    """
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    path = [str(p) for p in first["loc"]]
    unknown = first["type"] == "extra_forbidden"
    if path and path[-1] == "[key]":
        path, unknown = path[:-1], True
    field = ".".join(path)
    more = f" ({len(errors) - 1} more after this one.)" if len(errors) > 1 else ""
    if unknown:
        known = _known_keys(root, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        mend = f'Did you mean "{near[0]}"?' if near else f"Known keys here: {', '.join(sorted(known))}."
        return UserError("unknown key", file=file, field=field, mend=mend + more)
    if first["type"] == "missing":
        return UserError("missing", file=file, field=field, mend="Add it to the config." + more)
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    return UserError(f"{message}{shown}", file=file, field=field or None, mend="Change the value." + more)


def _known_keys(root: type[BaseModel], path: list[str]) -> list[str]:
    """Keys of the section, or of the dict with literal keys, that `path` leads to."""
    model = root
    for part in path:
        info = model.model_fields.get(part)
        if info is not None and get_origin(info.annotation) is dict:
            return [str(key) for key in get_args(get_args(info.annotation)[0])]
        nested = _section_of(info.annotation) if info else None
        if nested is None:
            return []
        model = nested
    return [name for name, info in model.model_fields.items() if not info.exclude]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *getattr(annotation, "__args__", ())]
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
