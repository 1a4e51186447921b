"""The section of a config file that only `nncift sweep` reads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from nncift_core.config_sections import CHEAP, LEARNED, Section

Fraction = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=1)]
Design = Literal["block", "scattered", "all-targets"]


class SweepConfig(Section):
    """`[sweep]`: the studies of `nncift sweep`, over one small exact matrix. No run reads it.

    rows, columns: how many pool rows and target rows, by hash rank, make that matrix (all of them when
    there are fewer). label_fractions: u of the figures; fractions: v of the figures, shares of the rows
    that are selected; hidden: widths of the networks of the size study. architectures: which estimators
    are studied (unset: for the figures the two networks and the job's own, for the tournament all);
    baselines always stand beside them. designs: label designs of the tournament; seeds: label draws per cell.
    """

    rows: int = Field(default=400, ge=10)
    columns: int = Field(default=60, ge=2)
    label_fractions: list[Fraction] = Field(default_factory=lambda: [0.05, 0.1, 0.2, 0.4], min_length=1)
    fractions: list[Fraction] = Field(default_factory=lambda: [0.05, 0.1, 0.3], min_length=1)
    hidden: list[Width] = Field(default_factory=lambda: [5, 20, 100, 500], min_length=1)
    architectures: list[str] | None = Field(default=None, min_length=1)
    designs: list[Design] = Field(
        default_factory=lambda: ["block", "scattered", "all-targets"],  # type: ignore[arg-type]
        min_length=1,
    )
    seeds: int = Field(default=3, ge=1, le=100)

    @field_validator("label_fractions", "fractions", "hidden", "architectures", "designs")
    @classmethod
    def _once(cls, value: list[Any] | None) -> list[Any] | None:
        twice = {str(v) for v in value or [] if (value or []).count(v) > 1}
        if twice:
            raise ValueError(f"names {', '.join(sorted(twice))} twice")
        return value

    @field_validator("architectures")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        unknown = [name for name in value or [] if name not in LEARNED + CHEAP]
        if unknown:
            known = ", ".join(map(repr, LEARNED + CHEAP))
            raise ValueError(f"no such estimator as {unknown[0]!r}; there are {known}")
        return value
