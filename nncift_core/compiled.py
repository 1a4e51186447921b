"""The decorator of loops that numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """numba.njit with its type kept: compiled once per machine; nogil lets other threads run meanwhile."""
    return cast(_F, numba.njit(cache=True, nogil=True)(function))
