"""The section of a config file that only `nncift compare` and `nncift audit` read: which methods."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from nncift_core.config_sections import LanguageModelConfig, Section
from nncift_core.functions import CATALOGUE

Values = Literal["exact", "estimated"]
Rival = Literal["base", "random", "random-tokens", "longest", "bm25", "similarity", "full"]
RIVALS: tuple[Rival, ...] = ("base", "random", "longest", "bm25", "similarity", "full")
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")


class CompareConfig(Section):
    """`[compare]`: the rows of the table of `nncift compare`.

    functions: influence functions (unset: the job's own); values: each with all its values "exact", and
    "estimated" from the labels that `[influence]` asks for; rivals: what stands beside them: the untrained
    "base" model, "random" rows (as many), "random-tokens" (random rows of as many tokens), "longest"
    responses, "bm25" and "similarity" of embeddings (by the highest mean over a target task), "full" data;
    teachers: name -> another model, as in `[language_model]`, that values the pool too, for functions that
    ask one.
    """

    functions: list[str] | None = Field(default=None, min_length=1)
    values: list[Values] = Field(default_factory=lambda: ["exact", "estimated"], min_length=1)  # type: ignore[arg-type]
    rivals: list[Rival] = Field(default_factory=lambda: list(RIVALS))
    teachers: dict[str, LanguageModelConfig] = Field(default_factory=dict)

    @field_validator("functions", "values", "rivals")
    @classmethod
    def _once(cls, value: list[Any] | None) -> list[Any] | None:
        twice = sorted({v for v in value or [] if (value or []).count(v) > 1})
        if twice:
            raise ValueError(f"names {', '.join(map(repr, twice))} twice")
        return value

    @field_validator("functions")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        unknown = [name for name in value or [] if name not in CATALOGUE]
        if unknown:
            known = ", ".join(map(repr, CATALOGUE))
            raise ValueError(f"no such influence function as {unknown[0]!r}; there are {known}")
        return value

    @field_validator("teachers")
    @classmethod
    def _named(cls, value: dict[str, LanguageModelConfig]) -> dict[str, LanguageModelConfig]:
        wrong = [name for name in value if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"a teacher's name is of small letters, digits, dots and dashes, 40 at most: not {wrong[0]!r}"
            )
        return value
