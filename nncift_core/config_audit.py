"""The section of a config file that only `nncift audit` reads: by which tests values are judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from nncift_core.config_sections import Section
from nncift_core.functions import CATALOGUE

Values = Literal["exact", "estimated"]
Baseline = Literal["bm25", "similarity", "length", "random"]
Test = Literal["lds", "qld", "top-k", "duplicates", "wrong"]
BASELINES: tuple[Baseline, ...] = ("bm25", "similarity", "length", "random")
TESTS: tuple[Test, ...] = ("lds", "qld", "top-k", "duplicates", "wrong")
# Tests on a pool with planted rows, for which nothing is trained.
PLANTING: frozenset[str] = frozenset({"duplicates", "wrong"})
Share = Annotated[float, Field(gt=0, lt=1)]


class AuditConfig(Section):
    """`[audit]`: how `nncift audit` tests values. Models are trained by `[finetune]`.

    functions: influence functions (unset: the job's own); values: each with all its values "exact", and
    "estimated" from the labels that `[influence]` asks for; baselines: what stands beside them; tests: "lds"
    (do values predict what models trained on random subsets lose), "qld" and "top-k" (is more lost without
    the rows of highest value than without random ones, for each query or for all), "duplicates" (is a copy
    of a query found), "wrong" (do rows with another row's answer get low values).
    models, share, seeds: random subsets for "lds", each of this share of the pool and trained with so many
    seeds; queries: so many target rows by hash rank (unset: all); remove: shares of the pool that "top-k"
    leaves out, and "qld" the smallest of them; removed_queries: queries that "qld" trains a model for, per
    method; controls: random removals of each share; duplicates: queries that are copied into the pool; wrong:
    share of its rows that get another row's answer.
    """

    functions: list[str] | None = Field(default=None, min_length=1)
    values: list[Values] = Field(default_factory=lambda: ["exact", "estimated"], min_length=1)  # type: ignore[arg-type]
    baselines: list[Baseline] = Field(default_factory=lambda: list(BASELINES))
    tests: list[Test] = Field(default_factory=lambda: list(TESTS), min_length=1)
    models: int = Field(default=40, ge=2, le=10_000)
    share: Share = 0.5
    seeds: int = Field(default=1, ge=1, le=100)
    queries: int | None = Field(default=None, ge=2)
    remove: list[Share] = Field(default_factory=lambda: [0.01, 0.05], min_length=1)
    removed_queries: int = Field(default=5, ge=2)
    controls: int = Field(default=5, ge=2, le=100)
    duplicates: int = Field(default=20, ge=1)
    wrong: Share = 0.05

    @field_validator("functions", "values", "baselines", "tests", "remove")
    @classmethod
    def _once(cls, value: list[Any] | None) -> list[Any] | None:
        twice = sorted({str(v) for v in value or [] if (value or []).count(v) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} twice")
        return value

    @field_validator("functions")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        unknown = [name for name in value or [] if name not in CATALOGUE]
        if unknown:
            known = ", ".join(map(repr, CATALOGUE))
            raise ValueError(f"no such influence function as {unknown[0]!r}; there are {known}")
        return value

    @property
    def planting(self) -> bool:
        """Whether a pool with planted rows is valued too."""
        return bool(PLANTING.intersection(self.tests))
