"""The section `[influence]` of a config file, and the sections below it that single functions have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from nncift_core.config_sections import TEMPLATE_WITH, TEMPLATE_WITHOUT, Section, checked_targets
from nncift_core.functions import CATALOGUE


class DeliftConfig(Section):
    """`[influence.delift]`: the two prompt templates (methods.md 1.1)."""

    template_without: str = TEMPLATE_WITHOUT
    template_with: str = TEMPLATE_WITH

    @model_validator(mode="after")
    def _placeholders(self) -> DeliftConfig:
        wanted = {
            "template_without": ("{prompt}",),
            "template_with": ("{prompt}", "{example_prompt}", "{example_response}"),
        }
        for field, names in wanted.items():
            for name in names:
                if name not in getattr(self, field):
                    raise ValueError(f"{field} lacks the placeholder {name}")
        if "{example_" in self.template_without:
            raise ValueError("template_without names an example's placeholder: only {prompt} is filled there")
        return self


class LessConfig(Section):
    """`[influence.less]`: warm-up training and gradient features of LESS (methods.md 1.3).

    Warm-up: LoRA adapters (rank, alpha, dropout, targets) on a share `warm_up_fraction` of the pool, at
    least `warm_up_rows` rows, for `epochs` passes with a checkpoint after each; learning_rate: peak, after
    the share `warmup` of the steps, then falling linearly to 0. projection: "rademacher" (exact +-1
    matrix, never stored), "count-sketch" (faster, a little noisier) or "none", to `projection_dim`
    numbers; gradients no longer than that are kept whole.
    """

    warm_up_fraction: float = Field(default=0.05, gt=0, le=1)
    warm_up_rows: int = Field(default=64, ge=1)
    epochs: int = Field(default=4, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rank: int = Field(default=128, ge=1)
    alpha: float = Field(default=512.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    template: str = TEMPLATE_WITHOUT
    projection: Literal["rademacher", "count-sketch", "none"] = "rademacher"
    projection_dim: int = Field(default=8192, ge=1)

    @field_validator("targets", mode="before")
    @classmethod
    def _modules(cls, value: object) -> object:
        return checked_targets(value)

    @model_validator(mode="after")
    def _placeholders(self) -> LessConfig:
        if "{prompt}" not in self.template or "{example_" in self.template:
            raise ValueError("template needs the placeholder {prompt}, and no other")
        return self


class SelectITConfig(Section):
    """`[influence.selectit]`: self-rated quality (methods.md 1.4).

    prompts: K rating prompts with the placeholders {prompt} and {response}: a list, or the path of a TOML
    file with a list `prompts` (unset: the product's own five); alpha: how much disagreement between them
    costs; models: language models to ask, weighted by their number of parameters (unset: the one of
    `[language_model]`).
    """

    prompts: str | list[str] | None = None
    alpha: float = Field(default=0.2, ge=0)
    models: list[str] = Field(default_factory=list)


class BM25Config(Section):
    """`[influence.bm25]`: k1 saturates repeated words, b weighs a row's length."""

    k1: float = Field(default=1.5, ge=0)
    b: float = Field(default=0.75, ge=0, le=1)


class InfluenceConfig(Section):
    """`[influence]`: which exact function, and how much of the matrix is labelled by it.

    label_fraction: u, the share of rows and of columns in Q1 (1 = everything exact); it sets the budget of
    every design. labels: "block" (u of the rows x u of the columns), "scattered" (pairs that touch as many
    rows and columns as they can), "all-targets" (few rows x every column), all at the cost of that block;
    "auto": what suits the function's costs. block_ratio: rows per column of the block, at the same number
    of pairs (unset: u of each). audit_pairs: scattered exact pairs never used for fitting.
    refine_pairs: exact pairs that may be bought, after the estimates, for rows near the edge of the subset,
    in at most refine_rounds rounds.
    """

    function: str = "delift"
    labels: Literal["auto", "block", "scattered", "all-targets"] = "auto"
    label_fraction: float = Field(default=0.05, gt=0, le=1)
    block_ratio: float | None = Field(default=None, gt=0)
    audit_pairs: int = Field(default=300, ge=0)
    refine_pairs: int = Field(default=0, ge=0)
    refine_rounds: int = Field(default=3, ge=1)
    delift: DeliftConfig = Field(default_factory=DeliftConfig)
    less: LessConfig = Field(default_factory=LessConfig)
    selectit: SelectITConfig = Field(default_factory=SelectITConfig)
    bm25: BM25Config = Field(default_factory=BM25Config)

    @field_validator("function")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CATALOGUE:
            raise ValueError(f"no such influence function; there are {', '.join(map(repr, CATALOGUE))}")
        return value
