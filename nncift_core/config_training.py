"""The sections of a config file on what follows selection: training on the subset, comparing with others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from nncift_core.config_sections import TEMPLATE_WITHOUT, Section, checked_targets

Baseline = Literal["base", "random", "random-tokens", "longest"]
Metric = Literal["loss", "rouge"]
BASELINES: tuple[Baseline, ...] = ("base", "random", "random-tokens", "longest")
METRICS: tuple[Metric, ...] = ("loss", "rouge")


class FinetuneConfig(Section):
    """`[finetune]`: training the student on the subset; without this section a run stops at selection.

    model, revision, dtype, trust_remote_code: the student (model unset: the one of `[language_model]`,
    with its revision, dtype and trust_remote_code); template: text before a response; epochs: passes
    over the rows; batch_size: rows per optimiser step; batch_tokens: most tokens of a forward pass,
    padding included (changes memory only); learning_rate: peak, reached after the share `warmup` of
    the steps, then falling linearly to 0; rank, alpha, dropout, targets: the LoRA adapters, on all
    linear layers by default.
    """

    method: Literal["lora"] = "lora"
    model: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    template: str = TEMPLATE_WITHOUT
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    batch_tokens: int = Field(default=8192, ge=64)
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"

    @field_validator("targets", mode="before")
    @classmethod
    def _modules(cls, value: object) -> object:
        return checked_targets(value)

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneConfig:
        if "{prompt}" not in self.template or "{example_" in self.template:
            raise ValueError("template needs the placeholder {prompt}, and no other")
        defaults = {"revision": None, "dtype": "auto", "trust_remote_code": False}
        alone = [name for name, default in defaults.items() if getattr(self, name) != default]
        if self.model is None and alone:
            raise ValueError(f"{alone[0]} belongs to a model: set `model` too")
        return self


class EvaluationConfig(Section):
    """`[evaluation]`: how the fine-tuned models are compared on the rows of `target.test`.

    subsets: what stands beside the selected subset; seeds: fine-tunes per subset (random ones draw
    anew each time); metrics: `loss` (nats a response token) and `rouge` (ROUGE-1 and ROUGE-L of
    greedy answers); limit: first test rows of each data set only; max_new_tokens: length of answers.
    """

    subsets: list[Baseline] = Field(default_factory=lambda: list(BASELINES))
    seeds: int = Field(default=3, ge=1, le=100)
    metrics: list[Metric] = Field(default_factory=lambda: list(METRICS), min_length=1)
    limit: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    batch_tokens: int = Field(default=8192, ge=64)
