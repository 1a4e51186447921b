"""The section of a config file that says how models are compared on held-out rows, and by what judge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from nncift_core.config_sections import Section
from nncift_core.errors import UserError

Baseline = Literal["base", "random", "random-tokens", "longest"]
Metric = Literal["loss", "rouge", "similarity", "exact", "choice", "judge"]
EvaluationMode = Literal["finetune", "icl"]
BASELINES: tuple[Baseline, ...] = ("base", "random", "random-tokens", "longest")
# Measured where none are named.
METRICS: tuple[Metric, ...] = ("loss", "rouge")
MODES: tuple[EvaluationMode, ...] = ("finetune",)
# Read the model's own answer, so that one generation serves all of them.
OF_ANSWERS: tuple[Metric, ...] = ("rouge", "similarity", "exact", "judge")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JudgeConfig(Section):
    """`[evaluation.judge]`: the language model that grades answers from 1 to 5, behind an OpenAI-compatible
    endpoint (`BASE_URL/chat/completions`).

    api_key_env: name of the environment variable that holds the key, "" for an endpoint that wants none;
    rubric: "builtin", or a text file; max_tokens: of a judge's reply; timeout_s: for one whole request;
    retries: more requests for a grade that did not come or cannot be read; concurrency: requests at once;
    price_per_million_input, _output: of tokens, in whichever currency.
    """

    base_url: str
    model: str = Field(min_length=1)
    api_key_env: str = "OPENAI_API_KEY"
    rubric: str = "builtin"
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=512, ge=1)
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    retries: int = Field(default=4, ge=0, le=20)
    concurrency: int = Field(default=4, ge=1, le=256)
    price_per_million_input: float | None = Field(default=None, ge=0)
    price_per_million_output: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _no_secrets(self) -> JudgeConfig:
        # Errors about the whole section show no value, and so no key that stands in the wrong place.
        if self.api_key_env and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env is the name of an environment variable, not the key itself")
        try:
            url = urlsplit(self.base_url)
            _ = url.port
        except ValueError:
            raise ValueError("base_url is no URL") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must begin with http:// or https:// and name a host")
        if url.username is not None or url.password is not None or url.query or url.fragment:
            raise ValueError("base_url must hold no user, password, query or fragment")
        return self

    @property
    def loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    def own_rubric(self, base_dir: str) -> str | None:
        """The text of the rubric file, None for the built-in one; a relative path starts from `base_dir`.

        Raises UserError for a file that cannot be read or is empty.
        """
        if self.rubric == "builtin":
            return None
        try:
            text = (Path(base_dir) / Path(self.rubric).expanduser()).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as e:
            why = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
            raise UserError(
                f"{self.rubric} cannot be read ({why})",
                field="evaluation.judge.rubric",
                mend='Give a text file, or "builtin".',
            ) from None
        if not text:
            raise UserError(
                f"{self.rubric} is empty", field="evaluation.judge.rubric", mend="Write the rubric into it."
            )
        return text

    def identity(self, base_dir: str) -> list[Any]:
        """What decides a grade: model, rubric, temperature, length of a reply. Not where the endpoint is."""
        return [self.model, self.own_rubric(base_dir), self.temperature, self.max_tokens]


class EvaluationConfig(Section):
    """`[evaluation]`: how models are compared on the rows of `target.test`.

    modes: `finetune` (one model per subset and seed) and `icl` (the student as it is, with the
    `icl_examples` most similar rows of the subset before each prompt); subsets: what stands beside the
    selected subset; seeds: fine-tunes per subset (random ones draw anew each time); metrics: see
    `evaluation.metrics.METRICS`, `rouge` being ROUGE-1 and ROUGE-L; limit: first test rows of each data set
    only; max_new_tokens: length of answers; judge: who grades them.
    """

    modes: list[EvaluationMode] = Field(default_factory=lambda: list(MODES), min_length=1)
    icl_examples: int = Field(default=5, ge=1, le=100)
    subsets: list[Baseline] = Field(default_factory=lambda: list(BASELINES))
    seeds: int = Field(default=3, ge=1, le=100)
    metrics: list[Metric] = Field(default_factory=lambda: list(METRICS), min_length=1)
    limit: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    batch_tokens: int = Field(default=8192, ge=64)
    judge: JudgeConfig | None = None

    @model_validator(mode="after")
    def _has_a_judge(self) -> EvaluationConfig:
        if "judge" in self.metrics and self.judge is None:
            raise ValueError('metrics names "judge": say in [evaluation.judge] which base_url and model')
        return self

    @property
    def generates(self) -> bool:
        """Whether a metric reads the model's own answers."""
        return not set(OF_ANSWERS).isdisjoint(self.metrics)

    @property
    def trains(self) -> bool:
        """Whether a mode evaluates fine-tuned models."""
        return "finetune" in self.modes

    def identity(self, base_dir: str) -> list[Any]:
        """What decides results beside subsets, seeds, metrics and length of answers; empty for the default
        modes without a judge, so that runs of before these settings keep their identity."""
        found: list[Any] = []
        if set(self.modes) != {"finetune"}:
            found.append(sorted(set(self.modes)))
        if "icl" in self.modes:
            found.append(self.icl_examples)
        if "judge" in self.metrics and self.judge is not None:
            found.append(self.judge.identity(base_dir))
        return found
