"""How commands answer: one JSON value on stdout where asked for, one message on stderr where they fail."""

from __future__ import annotations

import json
import math
import sys
from decimal import Decimal
from typing import Annotated, Any, NoReturn

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one JSON value on stdout.")]


def print_json(value: Any) -> None:
    """One JSON value on stdout, whatever numbers are in it."""
    print(json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them. Decimals become numbers."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list) else value


def fail(message: str, code: int) -> NoReturn:
    """End the program: one message on stderr, and the exit code."""
    print(f"nncift: {message}", file=sys.stderr)
    sys.exit(code)
